"""What a provider says: meters, usage, periods and readings; and when it was asked.

Counts are integers. A meter with fractional units (money, credits) has a scale
of 10^6: one unit of the provider is a million of ours. *used* is rounded up and
*limit* down, so that rounding never invents headroom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = [
    "BARE_DATE_SKEW",
    "FRACTIONS",
    "NOTHING",
    "Amount",
    "Meter",
    "Moment",
    "Period",
    "Reading",
    "Usage",
    "amount",
    "nothing",
    "units",
]

Amount: TypeAlias = "int | float | Decimal"
"""What a user or a provider counts in: units of a meter, possibly fractional."""

MOST_DIGITS = 320
"""Decimal places before and behind the point that numbers have: those of every double."""

FRACTIONS = 1_000_000
"""The scale of a meter with fractional units."""

PERIOD_SKEW = 5.0
"""Seconds around a period's end in which the two clocks may disagree.

NTP keeps hosts within a second; five covers a provider's batch at midnight.
"""

BARE_DATE_SKEW = 14 * 3600.0
"""Seconds around a bare date: no zone is given, and zones reach from -12 to +14."""


class Moment(NamedTuple):
    """One reading of the clock, in seconds: taken once per transaction.

    slow: a clock that can only run slow (it stops in suspend). Ages charges:
        old ones look younger, are counted twice, and that is safe.
    fast: a clock that can only run fast (it goes on in suspend). Ages readings,
        leases and claims.
    wall: Unix time. Only for the ends of billing periods.
    """

    slow: float
    fast: float
    wall: float


@dataclass(frozen=True, slots=True)
class Meter:
    """One counted thing of an account, such as ``person.enrichment.matches``.

    kind: *counter* resets with the period, *level* falls when things are
        deleted, *balance* has no limit, only what is left.
    scale: 1, or `FRACTIONS` where the provider counts fractions.
    """

    name: str
    kind: Literal["counter", "level", "balance"] = "counter"
    scale: int = 1


def units(value: Amount, scale: int = 1, *, up: bool = True) -> int:
    """Return *value* in integer units of a meter, rounded up, or down for limits.

    Raises:
        ValueError: *value* is not a finite number, or is a bool.
    """
    if type(value) is int:
        return value * scale
    from decimal import Decimal  # noqa: PLC0415 - 8 ms, seldom needed

    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        msg = f"{type(value).__name__} is not a number of units"
        raise ValueError(msg)
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite():
        msg = "a number of units must be finite"
        raise ValueError(msg)
    if abs(exact.adjusted()) > MOST_DIGITS:
        return _extreme(exact, up=up)
    # As a fraction: a product of Decimals is rounded to the digits of their context.
    over, under = exact.as_integer_ratio()
    return -(-over * scale // under) if up else over * scale // under


def _extreme(exact: Decimal, *, up: bool) -> int:
    """Return a number that is next to nothing as units; one that is huge is none."""
    if exact.adjusted() > 0:
        msg = "a number of units is too large"
        raise ValueError(msg)
    return int(exact > 0) if up else -int(exact < 0)


def amount(count: int, scale: int = 1) -> int | float:
    """Return integer units as the user counts them; the inverse of `units`."""
    return count if scale == 1 else count / scale


@dataclass(frozen=True, slots=True)
class Usage:
    """Used and limit of one meter, in integer units.

    ``limit=None`` is unlimited and ``limit=0`` is nothing included: never
    confuse the two. *extra* keeps what the provider says besides.
    """

    used: int
    limit: int | None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left."""
        return self.limit is not None and self.used >= self.limit


def _instant(text: str, *, inclusive_end: bool) -> tuple[float, float]:
    """Return the Unix time of *text* and its skew; an inclusive end made exclusive."""
    day = _bare(text)
    if day is not None:
        if inclusive_end:
            day += timedelta(days=1)
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return midnight.timestamp(), BARE_DATE_SKEW
    moment = datetime.fromisoformat(text)
    skew = PERIOD_SKEW
    if moment.tzinfo is None:
        moment, skew = moment.replace(tzinfo=UTC), BARE_DATE_SKEW
    if inclusive_end:
        moment += _step(moment.microsecond)
    return moment.timestamp(), skew


def _bare(text: str) -> date | None:
    """Return the day that *text* is, in any of the forms of ISO 8601; None with a time."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _step(fraction: int) -> timedelta:
    """Return how far the next instant is from one with so many microseconds.

    59.999 and 59.999000 end a minute; so do 59 and 59.000, for some clocks have
    seconds and are written with milliseconds.
    """
    if fraction % 1000:
        return timedelta(microseconds=1)
    return timedelta(milliseconds=1) if fraction else timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Period:
    """Start and end of billing, as Unix times; *end* is exclusive.

    Both may be unknown (None). *skew* is how far, in seconds, the end may be
    from where the text puts it: 5 s, or 14 h for a date without a zone.
    """

    start: float | None = None
    end: float | None = None
    skew: float = PERIOD_SKEW

    @classmethod
    def parse(cls, start: str | None, end: str | None, *, inclusive: bool = False) -> Period:
        """Read two ISO 8601 texts, bare dates or nulls.

        inclusive: the provider's end is the last instant (or day) of the period
            and not the first of the next one.

        Raises:
            ValueError: a text is not a date that a calendar shows, or the end is not
                after the start.
        """
        first = last = None
        skew = PERIOD_SKEW
        try:
            if start is not None:
                first, skew = _instant(start, inclusive_end=False)
            if end is not None:
                last, skew = _instant(end, inclusive_end=inclusive)
        except OverflowError:  # the day after the last one that there is
            msg = "a date is out of the calendar"
            raise ValueError(msg) from None
        if first is not None and last is not None and last <= first:
            msg = "the period ends before it starts"
            raise ValueError(msg)
        if None in (first is None or _shown(first), last is None or _shown(last)):
            msg = "a date is out of the calendar"  # year 1 east of Greenwich has none in UTC
            raise ValueError(msg)
        return cls(first, last, skew)

    @property
    def length(self) -> float | None:
        """Seconds from start to end, or None where one is unknown."""
        if self.start is None or self.end is None:
            return None
        return self.end - self.start

    def left(self, wall: float) -> float:
        """Return the share of the period that is left, 0 where it is unknown."""
        length = self.length
        if length is None or self.end is None:
            return 0.0
        return min(1.0, max(0.0, (self.end - wall) / length))

    @property
    def starts_at(self) -> datetime | None:
        """The start as an aware datetime in UTC; None where it is none that can be shown."""
        return _shown(self.start)

    @property
    def ends_at(self) -> datetime | None:
        """The exclusive end as an aware datetime in UTC; None as for `starts_at`."""
        return _shown(self.end)


def _shown(at: float | None) -> datetime | None:
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):  # year 1 east of Greenwich, infinity
        return None


UNKNOWN_PERIOD = Period()
NOTHING: Mapping[str, Any] = MappingProxyType({})


def nothing() -> Mapping[str, Any]:
    """Return the empty mapping, for records' defaults."""
    return NOTHING


@dataclass(frozen=True, slots=True)
class Reading:
    """What one stats poll said.

    When it was *asked* travels beside it, in the entry that observes it: a
    provider only knows what the answer says. *extra* keeps the answer's other
    fields (the plan, say). *dated* is the Unix time of the answer's ``Date``, by
    which the provider's clock is known; whoever carries the poll fills it in.
    """

    usages: Mapping[str, Usage]
    period: Period = UNKNOWN_PERIOD
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)
    dated: float | None = field(default=None, compare=False)
