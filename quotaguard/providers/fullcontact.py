"""FullContact: person and company enrichment, reconciled by ``/v3/stats.get``.

A match and a miss are counted, everything else is free. On a plan with overage no
answer ever says stop: the stats poll is the only brake. Source of the rules:
FullContact's pages on the Account Stats API, response codes, rate limiting and
webhooks; where they are silent, what is in doubt counts as spent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from quotaguard.errors import (
    ConfigError,
    ProviderError,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
)
from quotaguard.quota import strict
from quotaguard.quota.answers import Faults, number, paused
from quotaguard.quota.calls import Bill, Call, Cost, Evidence, Outcome, Price, Report, StatsRequest
from quotaguard.quota.fields import whole
from quotaguard.quota.origin import home
from quotaguard.quota.readings import NOTHING, UNKNOWN_PERIOD, Meter, Period, Reading, Usage
from quotaguard.quota.secret import Secret
from quotaguard.reports.fullcontact import FullContactStats, question, stats

__all__ = ["FullContact"]

_NAME = "fullcontact"
_REAL = "https://api.fullcontact.com"
_CATEGORIES = {"person.enrich": "person.enrichment", "company.enrich": "company.enrichment"}
_METRIC_FIELDS = ("count", "quota", "overQuota")

_METERS: Mapping[str, Meter] = MappingProxyType(
    {
        name: Meter(name)
        for name in (
            "person.enrichment.matches",
            "person.enrichment.misses",
            "person.enrichment.total",
            "person.subscriptions",
            "company.enrichment.matches",
            "company.enrichment.misses",
            "company.enrichment.total",
        )
    }
)
_BRANCHES = frozenset({"person", "person.enrichment", "company", "company.enrichment"})


def _cost(category: str, **parts: int) -> Cost:
    return MappingProxyType({f"{category}.{part}": units for part, units in parts.items()})


_PRICES: Mapping[str, Price] = {
    # It may turn out either way, so that each meter holds its own maximum.
    operation: Price(operation, _cost(category, matches=1, misses=1, total=1))
    for operation, category in _CATEGORIES.items()
}
_OPERATIONS: Mapping[str, Cost] = MappingProxyType(
    {operation: price.cost for operation, price in _PRICES.items()}
)

_FREE = Bill(NOTHING)
_UNKNOWN = Bill(None)
_DEFERRED = Bill(None, deferred=True)
_ASK_AGAIN = Bill(NOTHING, wants_body=True)

_SETTLED: Mapping[str, Mapping[int, Bill]] = {
    operation: {
        200: Bill(_cost(category, matches=1, misses=0, total=1)),
        202: _DEFERRED,
        404: Bill(_cost(category, misses=1, total=1)),
        # Documented as passing and free, with Retry-After; of a 500 nothing is said.
        503: _FREE,
    }
    for operation, category in _CATEGORIES.items()
}

_TURNED_AWAY = range(300, 500)
"""What a redirect leads to is priced by its own URL; an error of ours is free."""

_WORDED = frozenset({402, 403, 429})
"""One status, several meanings: the vendor's own advice is to read the message."""

_RATE = re.compile(
    r"\brate|too many requests|\bthrottl|\brequests? (?:limit|per\b)|per (?:second|minute)"
    r"|\bconcurren",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(
    r"\b(?:invalid|missing|unknown|revoked|malformed)\b[^.]*\bkey\b"
    r"|\bkey\b[^.]*\b(?:invalid|missing|unknown|revoked|malformed|expired|not (?:valid|found))\b",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"\busage limit|quota|\blimits?\b[^.]*\b(?:exceeded|reached)\b"
    r"|\b(?:exceeded|reached)\b[^.]*\blimits?\b",
    re.IGNORECASE,
)
_MESSAGE_SPAN = 300
"""Characters of a message that are searched: a long one may not cost time."""

MOST_DELAY = 1000.0
"""Milliseconds: FullContact delays a request at most so long, then it answers 429."""


class FullContact:
    """FullContact's Enrich API v3, as one account sees it.

    api_key: the key that goes out as ``Authorization: Bearer``.
    base_url: an origin and, behind a proxy, a path before ``/v3``; https, or http
        on a loopback host.
    account: a name where several keys share one bill, or where keys are rotated.

    Raises:
        ConfigError: the key, the account or the URL cannot be used.
    """

    __slots__ = ("_account", "_bearer", "_faults", "_key", "_origin", "_routes", "_stats_url")

    name: str = _NAME  # not Final: to pyright no ClassVar fits a Protocol's property
    meters: Mapping[str, Meter] = _METERS
    operations: Mapping[str, Cost] = _OPERATIONS
    key_headers: tuple[str, ...] = ("authorization", "x-fullcontact-apikey")
    polls_per_hour: float = 30.0
    """What the stats endpoint of v2 allows; v3 says nothing."""

    def __init__(self, api_key: str, *, base_url: str = _REAL, account: str | None = None) -> None:
        Secret(api_key)  # refuses what is no key at all
        self._key = Secret(api_key.strip())
        if self._key.reveal().lower().startswith("bearer "):
            msg = "the API key begins with its scheme: give the key alone, without 'Bearer'"
            raise ConfigError(msg)
        self._faults = Faults(_NAME, self._key)
        self._origin, prefix, self._account = home(
            _NAME, _REAL, base_url, account, self._key, inside="/v3"
        )
        self._bearer = f"Bearer {self._key.reveal()}"
        self._stats_url = f"{self._origin}{prefix}/v3/stats.get"
        self._routes = {
            ("POST", f"{prefix}/v3/{operation}{slash}"): price
            for operation, price in _PRICES.items()
            for slash in ("", "/")
        }

    def __repr__(self) -> str:
        return f"<FullContact {self._origin.partition('://')[2]}>"

    @property
    def account(self) -> str:
        """The digest that names the account in ledgers and logs; never the key."""
        return self._account

    @property
    def reports(self) -> Mapping[str, Callable[..., Report[Any]]]:
        """``stats(*categories)``: person, company, or both where none is named."""
        return {"stats": self._stats}

    def stats_request(self, _wall: float = 0.0, /) -> StatsRequest:
        """Return the stats poll. It carries the key."""
        return self._asking(question()[1])

    def _asking(self, body: bytes) -> StatsRequest:
        headers = {"Authorization": self._bearer, "Content-Type": "application/json"}
        return StatsRequest("POST", self._stats_url, headers, body)

    def _stats(self, *categories: str) -> Report[FullContactStats]:
        asked, body = question(*categories)
        return Report(("stats", *asked), partial(self._asking, body), self._read_report)

    def _read_report(self, outcome: Outcome) -> FullContactStats:
        if outcome.status != 200:
            raise self._refusal(outcome)
        return self._faults.read(outcome, stats)

    def price(self, call: Call) -> Price | None:
        """Return one match, one miss and one request, or None for what has no meter."""
        if call.origin != self._origin:
            return None
        return self._routes.get((call.method, call.path))

    def foreign(self, call: Call) -> bool:
        """Whether *call* carries another key; the header of v2 counts where it stands alone."""
        said = call.headers.get("authorization")
        if said is not None:
            scheme, _, key = said.partition(" ")
            return said != self._bearer and (scheme.lower() != "bearer" or not self._own(key))
        legacy = call.headers.get("x-fullcontact-apikey")
        return legacy is not None and not self._own(legacy)

    def _own(self, key: str) -> bool:
        return key.isascii() and self._key.matches(key.strip())

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        """Return what *call* cost.

        200 is a match and 404 a miss. 202 spends nothing yet, and is billed later
        where the call named a webhook or may have done so. Other 2xx and 5xx are
        unknown, except 503. 402, 403 and 429 are free; their message tells a spent
        quota from a bad key and from haste, so their bill wants the body
        (``b""`` where it was never read).
        """
        price = self.price(call)
        if price is None:
            return _UNKNOWN
        status = outcome.status
        if status in _WORDED:
            return _refused(price.operation, outcome)
        bill = _SETTLED[price.operation].get(status)
        if bill is None:
            bill = _FREE if status in _TURNED_AWAY else _UNKNOWN
        elif bill is _DEFERRED and not _may_call_back(call):
            bill = _FREE
        pause = _pause(outcome)
        return replace(bill, evidence=pause) if pause else bill

    def read_stats(self, outcome: Outcome) -> Reading:
        """Return the reading in an answer of ``stats.get``.

        A metric that is missing or broken is left out; but misses and totals that
        are missing beside matches have no limit. The paths of all of them stand in
        ``extra["unreadable"]``, and ``"period"`` where no end can be read.

        Raises:
            StatsForbidden: 401, or 403 about the key.
            StatsUnavailable: any other status but 200.
            StatsUnreadable: no metric at all can be read.
        """
        if outcome.status != 200:
            raise self._refusal(outcome)
        try:
            answer = strict.load(outcome.body or b"")
        except ValueError as error:
            raise self._unreadable(outcome, "stats", str(error)) from None
        if not isinstance(answer, dict) or not isinstance(answer.get("stats"), dict):
            raise self._unreadable(outcome, "stats", "it has no such object")
        usages, unreadable = _usages(answer["stats"])
        if not usages:
            raise self._unreadable(outcome, unreadable[0], "none of the metrics can be read")
        period = _period(answer.get("period"))
        if period.end is None:
            unreadable.append("period")
        extra = {name: said for name, said in answer.items() if name not in ("period", "stats")}
        rest = _rest(answer["stats"])
        if rest:
            extra["stats"] = rest
        if unreadable:
            extra["unreadable"] = tuple(unreadable)
        return Reading(usages, period, extra)

    def _refusal(self, outcome: Outcome) -> ProviderError:
        status = outcome.status
        # A 403 about quota or haste must not end the polls: they tell when it is over.
        if status == 401 or (status == 403 and _complaint(outcome.body) not in ("quota", "rate")):
            said = f"the stats endpoint refuses the API key ({status})"
            return self._faults.of(StatsForbidden, said, outcome)
        said = f"the stats endpoint answered {status}"
        return self._faults.of(StatsUnavailable, said, outcome)

    def _unreadable(self, outcome: Outcome, path: str, why: str) -> ProviderError:
        said = f"looked for {path} in the stats answer: {why}"
        return self._faults.of(StatsUnreadable, said, outcome, path=path)


def _pause(outcome: Outcome) -> tuple[Evidence, ...]:
    """Return the pause that the live headers ask for.

    X-Rate-Limit, -Remaining and -Reset are constants for old libraries, and are
    not looked at.
    """
    asked = paused(outcome)
    if asked:
        return asked
    said = outcome.headers.get("x-fullcontact-ratedelay")
    delay = None if said is None or said == "0" else number(said)
    return (Evidence("pause", seconds=min(delay, MOST_DELAY) / 1000),) if delay else ()


def _complaint(body: bytes | None) -> str:
    """Return what a refusal is about: ``quota``, ``rate``, ``key`` or nothing known."""
    try:
        said = strict.load(body or b"")
    except ValueError:
        return ""
    message = said.get("message") if isinstance(said, dict) else None
    message = message[:_MESSAGE_SPAN] if isinstance(message, str) else ""
    # A refused call is free: taking haste or a bad key for a spent quota would
    # block calls for nothing, so those two are looked for first.
    told = (("rate", _RATE), ("key", _BAD_KEY), ("quota", _QUOTA))
    return next((about for about, words in told if words.search(message)), "")


def _refused(operation: str, outcome: Outcome) -> Bill:
    if outcome.body is None:
        return _ASK_AGAIN
    if _complaint(outcome.body) == "quota":
        spent = f"{_CATEGORIES[operation]}.matches"
        return Bill(NOTHING, (Evidence("exhausted", (spent,)),))
    return Bill(NOTHING, _pause(outcome))


def _may_call_back(call: Call) -> bool:
    """Whether the answer to *call* may go to a webhook; billed in doubt.

    An empty body is no proof: some clients put the arguments into the query,
    which a `Call` does not tell.
    """
    try:
        asked = strict.load(call.body or b"")
    except ValueError:
        return True
    return bool(asked.get("webhookUrl")) if isinstance(asked, dict) else True


def _usages(stats: Mapping[str, Any]) -> tuple[dict[str, Usage], list[str]]:
    usages: dict[str, Usage] = {}
    unreadable: list[str] = []
    for name in _METERS:
        said: object = stats
        for key in name.split("."):
            said = said.get(key) if isinstance(said, dict) else None
        usage = _usage(said) if isinstance(said, dict) else None
        if usage is None:
            unreadable.append(f"stats.{name}")
            # What is counted for information need not be told, matches must.
            if said is None and f"{name.rpartition('.')[0]}.matches" in usages:
                usages[name] = Usage(0, None)
        else:
            usages[name] = usage
    return usages, unreadable


def _usage(metric: Mapping[str, Any]) -> Usage | None:
    """Return one metric's usage, None where a number in it is none.

    A quota that is null or left out is unlimited; 0 is nothing included. *overQuota*
    turns true one unit too late to be a brake, so it is heard only where it is worse
    than the numbers: then *extra* has what was said.
    """
    used = whole(metric.get("count"))
    limit = None if metric.get("quota") is None else whole(metric["quota"])
    if used is None or (limit is None and metric.get("quota") is not None):
        return None
    extra = {key: said for key, said in metric.items() if key not in _METRIC_FIELDS}
    if metric.get("overQuota") is True and (limit is None or used < limit):
        extra |= {key: metric[key] for key in _METRIC_FIELDS if key in metric}
        used = limit = used if limit is None else limit
    return Usage(used, limit, extra)


def _period(said: object) -> Period:
    """Return the billing period; its end is the first instant of the next one."""
    start, end = (said.get("start"), said.get("end")) if isinstance(said, dict) else (None, 0)
    if not isinstance(start, str | None) or not isinstance(end, str | None):
        return UNKNOWN_PERIOD
    try:
        return Period.parse(start, end)
    except ValueError:
        return UNKNOWN_PERIOD


def _rest(said: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return what *said* has beside the metrics that are meters."""
    rest: dict[str, Any] = {}
    for key, value in said.items():
        name = f"{path}{key}"
        if name in _BRANCHES and isinstance(value, dict):
            below = _rest(value, f"{name}.")
            rest |= {key: below} if below else {}
        elif name not in _METERS:
            rest[key] = value
    return rest
