"""What a fake provider has really metered, and what its stats show of it so far.

Everything here follows from the clock, lazily: charges that become visible, the
units of other consumers, bills that come late and the end of the period are all
worked out when somebody looks. The provider's own time is the clock's *fast*,
so that neither a suspended laptop nor a wrong wall clock moves it.
"""

from __future__ import annotations

import calendar
import heapq
import math
import random
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from quotaguard.errors import ConfigError
from quotaguard.quota.readings import Period

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quotaguard.clock import Clock

__all__ = ["Billing", "Counting", "Metering", "Rules"]

PARTS = 256
# Entries that one look at other consumers may add; the first unit of each part
# decides when it shows, so a part is never later than the lag allows.

ROUNDING = 1e-9
# 0.29 units a second for 100 s are 29 units, not 28.999999999999996.

DAY = 86_400
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a fake meters; times in seconds, counts in units of the meter.

    main: what `Metering.spend` and other consumers spend; the first one is the
        meter with the quota that matters.
    quotas: per meter; None is unlimited. hard: a full meter refuses.
    levels: meters that do not start again from 0 with a new period.
    used: counts at the start. lag, visible, other_rate, other_total, seed: see the
        knobs of a fake.
    """

    main: tuple[str, ...]
    quotas: Mapping[str, int | None]
    used: Mapping[str, int]
    levels: frozenset[str] = frozenset()
    hard: bool = True
    lag: float = 0.0
    visible: Literal["fixed", "random"] = "fixed"
    other_rate: float = 0.0
    other_total: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Billing:
    """A billing period: *start* and the exclusive *end*, as the provider writes them."""

    start: datetime
    end: datetime
    texts: tuple[str, str]

    @classmethod
    def of(cls, texts: tuple[str, str] | None, wall: float) -> Billing:
        """Read two ISO 8601 texts, or take the calendar month (UTC) of *wall*.

        Raises:
            ConfigError: the texts are not two dates in order.
        """
        if texts is None:
            now = datetime.fromtimestamp(wall, UTC)
            first = datetime(now.year, now.month, 1, tzinfo=UTC)
            return cls._written(first, _months_on(first, 1), bare=False)
        try:
            start, end = texts
            read = Period.parse(start, end)
        except (TypeError, ValueError) as error:
            msg = f"period is (start, end), two ISO 8601 texts in order: {error}"
            raise ConfigError(msg) from None
        if read.starts_at is None or read.ends_at is None:
            msg = "period is (start, end), and neither is None"
            raise ConfigError(msg)
        return cls(read.starts_at, read.ends_at, (start, end))

    def next(self) -> Billing:
        """Return the period after this one: as many months, or else as many days."""
        return self._moved(self.end, self._on(self.end, 1))

    def previous(self) -> Billing:
        """Return the period before this one, likewise."""
        return self._moved(self._on(self.start, -1), self.start)

    def _on(self, day: datetime, terms: int) -> datetime:
        months = (self.end.year - self.start.year) * 12 + self.end.month - self.start.month
        if months and _months_on(self.start, months) == self.end:
            return _months_on(day, terms * months)
        return day + terms * (self.end - self.start)

    def _moved(self, start: datetime, end: datetime) -> Billing:
        return self._written(start, end, bare=len(self.texts[1]) == len("2026-12-01"))

    def days_left(self, wall: float) -> int:
        """Return the whole days left at the Unix time *wall*."""
        left = self.end - datetime.fromtimestamp(wall, UTC)
        return max(0, left // timedelta(days=1))

    @classmethod
    def _written(cls, start: datetime, end: datetime, *, bare: bool) -> Billing:
        style = "%Y-%m-%d" if bare else "%Y-%m-%dT%H:%M:%SZ"
        return cls(start, end, (start.strftime(style), end.strftime(style)))


def _months_on(day: datetime, months: int) -> datetime:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return day.replace(year=year, month=month + 1, day=min(day.day, last))


class Counting(Protocol):
    """What every fake tells of its own books."""

    def true(self) -> dict[str, Any]:
        """Return what was really charged in this period, by meter."""

    def shown(self) -> tuple[dict[str, Any], object]:
        """Return what stats show now, and of which period."""

    def past(self) -> tuple[Mapping[str, Any], ...]:
        """Return the true counts of the periods that have ended, oldest first."""

    def quota(self, meter: str) -> int | None:
        """Return the quota of *meter*, None where it is unlimited."""

    def set_quota(self, meter: str, quota: int | None) -> None:
        """Change the plan from now on."""

    def spend(self, count: int) -> int:
        """Let another consumer spend *count* units now; return how many were accepted."""


class Metering:
    """The provider's own books. Thread-safe.

    A charge is a tuple of meters, each gets the same number of units: a match
    counts under ``matches`` and ``total``.
    """

    def __init__(self, rules: Rules, clock: Clock, period: tuple[str, str] | None) -> None:
        self._rules = rules
        self._clock = clock
        self._lock = threading.Lock()
        self._random = random.Random(rules.seed)  # noqa: S311 - not for secrets
        moment = clock.now()
        self._began = moment.fast
        self._wall_ahead = moment.wall - moment.fast
        self._billing = Billing.of(period, moment.wall)
        # A period that was over before the start (as in documented examples) stays.
        self._turns_at = self._end() if self._end() > moment.fast else math.inf
        self._quotas = dict(rules.quotas)
        self._true = Counter(rules.used)
        self._shown = Counter(rules.used)
        self._pending: list[tuple[float, tuple[str, ...], int]] = []
        self._late: list[tuple[float, tuple[str, ...], tuple[str, ...]]] = []
        self._others_tried = 0
        self._others_spent = 0
        self._past: list[Mapping[str, int]] = []
        self._days: dict[int, Counter[str]] = {}

    def charge(self, meters: tuple[str, ...], gates: tuple[str, ...] = (), count: int = 1) -> int:
        """Charge up to *count* units to each of *meters*; return how many were accepted.

        gates: further meters that must have room, though nothing is charged to them.
        """
        with self._lock:
            now = self._go_on()
            accepted = min(count, self._room((*meters, *gates)))
            self._book(meters, accepted, now)
            return accepted

    def charge_all(self, counts: Mapping[str, int]) -> bool:
        """Charge each meter a count of its own, all of them or none; return whether."""
        with self._lock:
            now = self._go_on()
            if any(self._room((meter,)) < count for meter, count in counts.items()):
                return False
            for meter, count in counts.items():
                self._book((meter,), count, now)
            return True

    def charge_late(
        self, delay: float, meters: tuple[str, ...], gates: tuple[str, ...] = ()
    ) -> None:
        """Charge one unit in *delay* seconds, if there is room by then."""
        with self._lock:
            heapq.heappush(self._late, (self._go_on() + delay, meters, gates))

    def spend(self, count: int) -> int:
        """Let another consumer spend *count* units now; return how many were accepted."""
        return self.charge(self._rules.main, count=count)

    def delete(self, meters: tuple[str, ...], count: int = 1) -> int:
        """Take up to *count* units off each of *meters* again; return how many."""
        with self._lock:
            now = self._go_on()
            freed = min(count, *(self._true[meter] for meter in meters))
            self._book(meters, -freed, now)
            return freed

    def full(self, gates: tuple[str, ...]) -> bool:
        """Whether one of *gates* has no room left, and refuses."""
        with self._lock:
            self._go_on()
            return not self._room(gates)

    def true(self) -> dict[str, int]:
        """Return what was really charged in this period, by meter."""
        with self._lock:
            self._go_on()
            return dict(self._true)

    def shown(self) -> tuple[dict[str, int], Billing]:
        """Return what stats show now, and of which period."""
        with self._lock:
            self._go_on()
            return dict(self._shown), self._billing

    def past(self) -> tuple[Mapping[str, int], ...]:
        """Return the true counts of the periods that have ended, oldest first."""
        with self._lock:
            self._go_on()
            return tuple(self._past)

    def between(self, first: date, last: date) -> Mapping[str, int]:
        """Return what was really charged from *first* to *last*, both included, by meter.

        Days are the provider's, in UTC. What was used before the start belongs to none.
        """
        with self._lock:
            self._go_on()
            charged = Counter(dict.fromkeys(self._true, 0))
            for day, counts in self._days.items():
                if first <= EPOCH + timedelta(days=day) <= last:
                    charged.update(counts)
            return dict(charged)

    def quota(self, meter: str) -> int | None:
        """Return the quota of *meter*, None where it is unlimited."""
        with self._lock:
            return self._quotas.get(meter)

    def set_quota(self, meter: str, quota: int | None) -> None:
        """Change the plan from now on."""
        with self._lock:
            self._go_on()
            self._quotas[meter] = quota

    def wall(self) -> float:
        """Return the provider's Unix time, which no wrong local clock moves."""
        return self._clock.fast() + self._wall_ahead

    def _end(self) -> float:
        return self._billing.end.timestamp() - self._wall_ahead

    def _go_on(self) -> float:
        """Let everything happen that was due by now; return now."""
        now = self._clock.fast()
        while self._turns_at <= now:
            self._until(self._turns_at)
            self._past.append(dict(self._true))
            levels = self._rules.levels
            self._true = Counter({m: n if m in levels else 0 for m, n in self._true.items()})
            self._shown = Counter({m: n if m in levels else 0 for m, n in self._shown.items()})
            kept = [(at, tuple(m for m in ms if m in levels), n) for at, ms, n in self._pending]
            self._pending = [entry for entry in kept if entry[1]]
            heapq.heapify(self._pending)
            self._billing = self._billing.next()
            self._turns_at = self._end()
        self._until(now)
        while self._pending and self._pending[0][0] <= now:
            _, meters, count = heapq.heappop(self._pending)
            self._add(self._shown, meters, count)
        return now

    def _until(self, end: float) -> None:
        while self._late and self._late[0][0] <= end:
            at, meters, gates = heapq.heappop(self._late)
            self._others(at)
            self._book(meters, min(1, self._room((*meters, *gates))), at)
        self._others(end)

    def _others(self, end: float) -> None:
        rules = self._rules
        tried = math.floor(rules.other_rate * (end - self._began) + ROUNDING)
        first, wanted = self._others_tried + 1, tried - self._others_tried
        if wanted <= 0:
            return
        self._others_tried = tried
        if rules.other_total is not None:
            wanted = min(wanted, rules.other_total - self._others_spent)
        accepted = min(wanted, self._room(rules.main))
        self._others_spent += accepted
        # Those that are old enough to show anyway need no entry of their own.
        old = math.floor(rules.other_rate * (end - rules.lag - self._began) + ROUNDING) + 1 - first
        old = min(max(old, 0), accepted)
        self._add(self._true, rules.main, old)
        self._add(self._shown, rules.main, old)
        self._by_day(first, old)
        step = max(1, math.ceil((accepted - old) / PARTS))
        for place in range(old, accepted, step):
            at = self._began + (first + place) / rules.other_rate
            self._book(rules.main, min(step, accepted - place), at)

    def _by_day(self, first: int, count: int) -> None:
        """Enter *count* units of other consumers, from the *first* on, day by day."""
        rate, began, place = self._rules.other_rate, self._began, 0
        while place < count:
            at = began + (first + place) / rate
            midnight = (self._day(at) + 1) * DAY - self._wall_ahead
            that_day = max(1, math.ceil(rate * (midnight - began)) - first - place)
            that_day = min(that_day, count - place)
            self._tally(self._rules.main, that_day, at)
            place += that_day

    def _day(self, at: float) -> int:
        return int((at + self._wall_ahead) // DAY)

    def _tally(self, meters: tuple[str, ...], count: int, at: float) -> None:
        self._add(self._days.setdefault(self._day(at), Counter()), meters, count)

    def _room(self, meters: tuple[str, ...]) -> int:
        if not self._rules.hard:
            return 1 << 62
        quotas = ((meter, self._quotas.get(meter)) for meter in meters)
        left = (quota - self._true[meter] for meter, quota in quotas if quota is not None)
        return max(0, min(left, default=1 << 62))

    def _book(self, meters: tuple[str, ...], count: int, at: float) -> None:
        if not count:
            return
        rules = self._rules
        self._add(self._true, meters, count)
        self._tally(meters, count, at)
        if rules.lag <= 0:
            self._add(self._shown, meters, count)
        elif rules.visible == "fixed":
            heapq.heappush(self._pending, (at + rules.lag, meters, count))
        else:
            step = max(1, math.ceil(abs(count) / PARTS))
            for place in range(0, abs(count), step):
                due = at + self._random.uniform(0, rules.lag)
                part = min(step, abs(count) - place)
                heapq.heappush(self._pending, (due, meters, part if count > 0 else -part))

    @staticmethod
    def _add(counts: Counter[str], meters: tuple[str, ...], count: int) -> None:
        for meter in meters:
            counts[meter] += count
