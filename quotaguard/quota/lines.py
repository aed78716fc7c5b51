"""Budget lines: how much of what remains a priority must leave to the better ones.

A call of priority c with slack b goes now if and only if

    remaining - k >= (1 - b) * share * limit

where *share* is the part of the period still to come, by time or by a demand
profile. One formula gives free running while usage fits, smooth pacing at the
line, reserved shares for better priorities, and their release towards the end
of the period. It is GCRA (ATM Forum TM 4.0) with a tolerance that moves.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from quotaguard.quota.readings import Period

__all__ = ["line", "share_left", "wait_for"]

_HOUR = 3600.0
_WEEK = 7 * 24 * _HOUR
_MONDAY = 4 * 24 * _HOUR
"""Unix time began on a Thursday; the first Monday came four days later."""

Profile = Sequence[Sequence[float]]


class _Demand:
    """Demand since the first Monday as a function of time, and back."""

    def __init__(self, profile: Profile) -> None:
        weights = [weight for day in profile for weight in day]
        self._sums = [0.0, *accumulate(weights)]

    def at(self, wall: float) -> float:
        weeks, rest = divmod(wall - _MONDAY, _WEEK)
        hour = min(int(rest / _HOUR), 167)
        within = (rest - hour * _HOUR) / _HOUR
        sums = self._sums
        return weeks * sums[-1] + sums[hour] + within * (sums[hour + 1] - sums[hour])

    def when(self, demand: float) -> float:
        """Return the first time at which it is reached: not after hours without any."""
        sums = self._sums
        # A hair less, or rounding would wait for the morning after a quiet night.
        weeks, rest = divmod(demand - 1e-11 * sums[-1], sums[-1])
        hour = max(bisect_left(sums, rest) - 1, 0)
        weight = sums[hour + 1] - sums[hour]
        within = (rest - sums[hour]) / weight if weight else 0.0
        return _MONDAY + weeks * _WEEK + (hour + within) * _HOUR


class _Even:
    """The same demand in every hour."""

    @staticmethod
    def at(wall: float) -> float:
        return wall

    @staticmethod
    def when(demand: float) -> float:
        return demand


@lru_cache(maxsize=64)
def _shape(profile: tuple[tuple[float, ...], ...] | None) -> _Demand | _Even:
    return _Even() if profile is None else _Demand(profile)


def share_left(
    period: Period, wall: float, profile: tuple[tuple[float, ...], ...] | None = None
) -> float:
    """Return the share of the period's demand still to come, from 0 to 1.

    0 where the period is unknown or over: then there is no line to keep.
    """
    if period.start is None or period.end is None or wall >= period.end:
        return 0.0
    if wall <= period.start:
        return 1.0
    shape = _shape(profile)
    end = shape.at(period.end)
    whole = end - shape.at(period.start)
    return (end - shape.at(wall)) / whole if whole > 0 else 0.0


def line(slack: float, share: float, limit: int) -> int:
    """Return the units that a priority with *slack* must leave to the better ones."""
    if slack >= 1.0:
        return 0
    # A hair below the product, so that 0.2 * 1000 is 200 and not 201.
    return math.ceil((1.0 - slack) * share * limit - 1e-9)


def wait_for(
    remaining: float,
    slack: float,
    limit: float,
    period: Period,
    wall: float,
    profile: tuple[tuple[float, ...], ...] | None = None,
) -> float:
    """Return the seconds until the line has fallen to *remaining* units.

    *remaining* is what is left once the call and all before it are gone. The
    answer is exact as long as nobody else spends; ``inf`` where no line helps.
    """
    if period.start is None or period.end is None or remaining < 0:
        return math.inf
    held = (1.0 - slack) * limit
    if held <= remaining or slack >= 1.0:
        return 0.0
    shape = _shape(profile)
    end = shape.at(period.end)
    due = end - remaining / held * (end - shape.at(period.start))
    return max(0.0, shape.when(due) - wall)
