"""What the user wants: the settings of a guard, checked when they are built."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, Self

from quotaguard.errors import ConfigError
from quotaguard.quota.rates import Rate, rates_of

__all__ = ["Duration", "Policy", "seconds"]

Duration = float | timedelta
"""Seconds, or a timedelta."""


def seconds(value: Duration, name: str) -> float:
    """Return *value* in seconds.

    Raises:
        ConfigError: it is negative, not a number, or not a duration at all.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} is a duration: seconds or a timedelta, not {type(value).__name__}"
        raise ConfigError(msg)
    if math.isnan(value) or value < 0:
        msg = f"{name} cannot be {value}: give seconds from 0 upwards"
        raise ConfigError(msg)
    return float(value)


def _slack() -> Mapping[str, float]:
    # Kinder to one who spends most of a quota in a day than the "steady" preset,
    # and still keeps the last fifth for critical calls.
    return MappingProxyType({"critical": 1.0, "normal": 0.8, "batch": 0.5})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a guard decides. Every setting is optional; durations are in seconds.

    margin: units held back for spend that cannot be seen yet. ``"auto"`` is the
        rate at which others spend times the age of the reading; a number is
        units; a fraction below 1 is a share of the limit.
    warn_at: shares of the limit at which ThresholdCrossed is told, once per period.
    slack: priorities and the share of the remaining period each may run ahead.
        1.0 is stopped by the limit alone. Calls that name no priority are "normal";
        where that is not given, it ranks with the lowest.
    profile: demand by weekday and hour (7 x 24 weights), or None for an even one.
    max_wait: the longest delay of a call; a longer one is refused at once.
    on_exhausted: raise the refusal, wait up to max_wait for the period to turn, or
        (HTTP clients) respond with a synthetic 429.
    lag: the longest time until a charge shows in the provider's stats.
    late: the longest time after which an unanswered call may still be charged.
    exclusive: nobody else spends from this account.
    max_age: the age at which a reading has expired.
    on_stale: with an expired reading spend up to a quarter of what it showed
        (critical: a half), refuse, or go on counting.
    on_unknown: without any reading refuse, or go on counting.
    cold_reserve: share of the limit held back by books that are new and may have
        had a predecessor, until a poll has seen all of its spend.
    on_ledger_down: without the shared ledger refuse, go on with a share, or go on.
    overage: units past the limit that may be bought. overage_price: of one of them.
    shadow: decide and tell, but refuse nothing.
    rates: requests in short windows, ``["100/60s", "10/1s"]``: a count and a window of
        at most an hour, in ms, s, m or h. Every request is one, whatever its units.
    poll_every: shortest and longest time between polls.
    poll_budget: polls per hour, at most; or ``(polls, duration)``: no more than that in
        any such time, saved up while nothing presses; None is what the provider allows.
    meters: policies for single meters, by name.

    Raises:
        ConfigError: a setting is out of its range.
    """

    margin: Literal["auto"] | float = "auto"
    warn_at: Sequence[float] = (0.5, 0.8, 0.9, 1.0)
    slack: Mapping[str, float] = field(default_factory=_slack)
    profile: Sequence[Sequence[float]] | None = None
    max_wait: Duration = 30.0
    on_exhausted: Literal["raise", "wait", "respond"] = "raise"
    lag: Duration = 60.0
    late: Duration = 60.0
    exclusive: bool = False
    max_age: Duration = 3600.0
    on_stale: Literal["cautious", "closed", "open"] = "cautious"
    on_unknown: Literal["closed", "open"] = "closed"
    cold_reserve: float = 0.05
    on_ledger_down: Literal["closed", "share", "open"] = "closed"
    overage: float = 0
    overage_price: float | None = None
    shadow: bool = False
    rates: Sequence[str | Rate] = ()
    poll_every: tuple[Duration, Duration] = (30.0, 900.0)
    poll_budget: float | tuple[float, Duration] | None = None
    meters: Mapping[str, Policy] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("max_wait", "lag", "late", "max_age"):
            put(self, name, seconds(getattr(self, name), name))
        shortest, longest = (seconds(value, "poll_every") for value in self.poll_every)
        if not 0 < shortest <= longest:
            msg = "poll_every is (shortest, longest) in seconds, both above 0"
            raise ConfigError(msg)
        put(self, "poll_every", (shortest, longest))
        put(self, "warn_at", tuple(sorted(self.warn_at)))
        slack = dict(self.slack)
        if slack:
            slack.setdefault("normal", min(slack.values()))
        put(self, "slack", MappingProxyType(slack))
        put(self, "meters", MappingProxyType(dict(self.meters)))
        put(self, "rates", rates_of(self.rates))
        self._check_shares()
        self._check_choices()

    def _check_shares(self) -> None:
        for name in ("exclusive", "shadow"):
            said = getattr(self, name)
            _require(isinstance(said, bool), f"{name} is True or False, not {said!r}")
        _require(self.slack, "slack needs at least one priority")
        for priority, share in self.slack.items():
            _require(0 <= share <= 1, f"slack of {priority!r} is a share from 0 to 1")
        for share in self.warn_at:
            _require(0 < share <= 10, "warn_at holds shares of the limit, such as 0.8")
        _require(0 <= self.cold_reserve <= 1, "cold_reserve is a share from 0 to 1")
        _require(0 <= self.overage < math.inf, "overage is a number of units from 0 upwards")
        if self.overage_price is not None:
            priced = 0 <= self.overage_price < math.inf
            _require(priced, "overage_price is the price of one unit, from 0 upwards")
        if self.margin != "auto":
            number = isinstance(self.margin, int | float) and not isinstance(self.margin, bool)
            _require(number and self.margin >= 0, 'margin is "auto", units, or a share below 1')
        if isinstance(self.poll_budget, tuple | list):
            polls, span = self.poll_budget
            span = seconds(span, "poll_budget")
            _require(polls > 0 and span > 0, "poll_budget is (polls, duration), both above 0")
            object.__setattr__(self, "poll_budget", (polls, span))
        elif self.poll_budget is not None:
            _require(self.poll_budget > 0, "poll_budget is polls per hour, above 0")
        if self.profile is not None:
            rows = [tuple(map(float, row)) for row in self.profile]
            shaped = len(rows) == 7 and all(len(row) == 24 for row in rows)
            # The sum, too: weights that overflow it would make every share a NaN.
            weighed = shaped and all(w >= 0 for row in rows for w in row)
            weighed = weighed and 0 < sum(map(sum, rows)) < math.inf
            _require(weighed, "profile is 7 rows (Monday first) of 24 weights, in UTC")
            object.__setattr__(self, "profile", tuple(rows))

    def _check_choices(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, f"{name} is one of {', '.join(choices)}, not {value!r}")
        for meter, policy in self.meters.items():
            _require(isinstance(policy, Policy), f"meters[{meter!r}] is a Policy")
            _require(not policy.meters, f"meters[{meter!r}] cannot have meters of its own")
            for name in _WHOLE_ACCOUNT:
                _require(
                    getattr(policy, name) == type(self).__dataclass_fields__[name].default,
                    f"{name} is for the whole account and not for meters[{meter!r}] alone",
                )

    @classmethod
    def steady(cls, **settings: Any) -> Self:  # noqa: ANN401 - the settings above
        """Spread the period: slack 1.0, 0.3 and 0.1 for critical, normal and batch."""
        slack = {"critical": 1.0, "normal": 0.3, "batch": 0.1}
        return cls(**{"slack": slack, **settings})

    def of(self, meter: str) -> Policy:
        """Return the policy of *meter*: its own where it has one."""
        return self.meters.get(meter, self)

    def but(self, **settings: Any) -> Policy:  # noqa: ANN401 - the settings above
        """Return this policy with some settings changed."""
        return replace(self, **settings)

    def __reduce__(self) -> tuple[Any, ...]:
        # MappingProxyType does not pickle; rebuilding also checks again.
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        settings["slack"] = dict(self.slack)
        settings["meters"] = dict(self.meters)
        return _rebuild, (settings,)


def _rebuild(settings: dict[str, Any]) -> Policy:
    return Policy(**settings)


_WHOLE_ACCOUNT = ("max_wait", "on_exhausted", "poll_budget", "poll_every", "rates", "shadow")
"""Settings that decide about a call, which may have several meters, or about polls."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "on_exhausted": ("raise", "wait", "respond"),
    "on_stale": ("cautious", "closed", "open"),
    "on_unknown": ("closed", "open"),
    "on_ledger_down": ("closed", "share", "open"),
}


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ConfigError(message)
