"""Calendar windows in a time zone: days, weeks, months, quarters and years.

For providers that know no period and count what lies between two dates. A window is
named by its first and its last day, and begins with the first instant of the first:
days have 23 to 25 hours where the clocks change, some have no midnight, some have two.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from quotaguard.errors import ConfigError
from quotaguard.quota.readings import PERIOD_SKEW, Period

__all__ = ["LENGTHS", "Window", "Windows"]

LENGTHS = {"day": 0, "week": 0, "month": 1, "quarter": 3, "year": 12}
"""The windows that there are, and how many months each has, 0 where it has days."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


class Window(NamedTuple):
    """One window: its first and its last day, both within it, and its instants."""

    first: date
    last: date
    period: Period


class Windows:
    """All windows of one length in one zone, each beginning where the last one ends.

    length: one of `LENGTHS`; a week begins on Monday. zone: an IANA name. Its data is
    loaded here, and nothing is read from disk later.

    Raises:
        ConfigError: there is no such length or zone.
    """

    __slots__ = ("_length", "_zone")

    def __init__(self, length: str, zone: str) -> None:
        if length not in tuple(LENGTHS):  # a list has no hash
            msg = f"window is one of {', '.join(LENGTHS)}, not {length!r}"
            raise ConfigError(msg)
        self._length = length
        self._zone = _loaded(zone)

    def at(self, wall: float) -> Window:
        """Return the window of this Unix time, once its beginning is beyond doubt.

        Clocks disagree by seconds, and a provider that echoes the dates it was asked
        for proves nothing: until `Period.skew` has passed the old window goes on.
        """
        window = self.of(self.day(wall))
        while wall < sum(self._begins(window.first)):
            window = self.of(window.first - _DAY)
        return window

    def day(self, wall: float) -> date:
        """Return which day it is in the zone at this Unix time."""
        # Unlike fromtimestamp this reaches back before 1970 on every system.
        return (_EPOCH + timedelta(seconds=wall)).astimezone(self._zone).date()

    def of(self, day: date) -> Window:
        """Return the window that *day* is in."""
        first = self._first(day)
        after = self._next(first)
        end, skew = self._begins(after)
        return Window(first, after - _DAY, Period(self._begins(first)[0], end, skew))

    def exactly(self, first: date, last: date) -> Window:
        """Return the window from *first* to *last*.

        Raises:
            ValueError: no window begins and ends with these days.
        """
        try:
            window = self.of(first)
            # One zone has skipped a whole day.
            if window[:2] == (first, last) and window.period.length:
                return window
        except OverflowError:
            pass
        msg = f"it is not one {self._length}"
        raise ValueError(msg)

    def _first(self, day: date) -> date:
        months = LENGTHS[self._length]
        if months:
            return date(day.year, (day.month - 1) // months * months + 1, 1)
        return day - timedelta(days=day.weekday() if self._length == "week" else 0)

    def _next(self, first: date) -> date:
        months = LENGTHS[self._length]
        if not months:
            return first + (7 * _DAY if self._length == "week" else _DAY)
        year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
        if year > date.max.year:
            raise OverflowError
        return date(year, month + 1, 1)

    def _begins(self, day: date) -> tuple[float, float]:
        """Return the first instant of *day*, and by how many seconds others may differ."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        once, again = (_unix(midnight.replace(fold=fold)) for fold in (0, 1))
        # Midnight comes twice, and who knows which of them somebody else takes. Where it
        # is skipped, *once* is when: since 1970 no zone has begun a gap before midnight.
        return once, max(0.0, again - once) + PERIOD_SKEW


def _unix(moment: datetime) -> float:
    return (moment.astimezone(UTC) - _EPOCH).total_seconds()


def _loaded(zone: str) -> tzinfo:
    if zone == "UTC":
        return UTC  # there even where no zone data is installed
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, TypeError, AttributeError, OSError):
        msg = (
            f"there is no time zone {zone!r} on this machine; give an IANA name such as "
            "Europe/Berlin (where a system has no zone data, pip install tzdata)"
        )
    raise ConfigError(msg)
