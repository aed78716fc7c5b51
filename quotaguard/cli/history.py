"""What a run was like, over time: heard and sampled while it goes, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from quotaguard.cli.display import METER
from quotaguard.quota.events import Polled, Refused
from quotaguard.quota.lines import line, share_left

if TYPE_CHECKING:
    from quotaguard.quota.events import Event
    from quotaguard.quota.policy import Policy
    from quotaguard.quota.standing import Row

__all__ = ["MOST", "History", "Series", "Thinned", "may_use"]

MOST = 500
"""Points of each kind that are kept: more than a picture has room for."""

_T = TypeVar("_T")


class Thinned(Generic[_T]):
    """Items that come one by one; at most *most* are kept, evenly spread, and the last.

    count: how many have come.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: list[_T] = []
        self._newest: _T | None = None
        self._stride = 1
        self.count = 0

    def add(self, item: _T) -> None:
        """Keep *item*, or leave it out; where all places are taken every second one goes."""
        if self.count % self._stride == 0:
            self._kept.append(item)
            if len(self._kept) > self._most:
                del self._kept[1::2]
                self._stride *= 2
        self._newest = item
        self.count += 1

    def __iter__(self) -> Iterator[_T]:
        yield from self._kept
        if self._newest is not None and (self.count - 1) % self._stride:
            yield self._newest


class Point(NamedTuple):
    """One look at the account, *seconds* after the start.

    true: units on the provider's books, None where only the provider knows. ours: what we
    count, at most. line: units up to which calls of the run's priority go. limit: of the
    quota. line and limit are None where there is no limit.
    """

    seconds: float
    true: float | None
    ours: float
    line: float | None
    limit: float | None


@dataclass(frozen=True, slots=True)
class Series:
    """What there is to draw, in seconds since the start and units of the meter.

    readings: when one came, and what it said. refusals: when calls were refused, thinned;
    refused: how many they were. quota: None where there is no limit. priority: of the calls.
    """

    points: tuple[Point, ...]
    readings: tuple[tuple[float, float], ...]
    refusals: tuple[float, ...]
    refused: int
    quota: float | None
    priority: str

    @property
    def truth(self) -> bool:
        """Whether the provider's own count is known."""
        return any(point.true is not None for point in self.points)

    @property
    def used(self) -> float | None:
        """What was used in the end: the true count, else the newest reading."""
        if self.points and self.points[-1].true is not None:
            return self.points[-1].true
        return self.readings[-1][1] if self.readings else None

    @property
    def held_back(self) -> bool:
        """Whether the line of the run's priority was ever below the quota."""
        return any(point.line != point.limit for point in self.points)

    @property
    def outcome(self) -> str:
        """What came of it, in one line for somebody who sees the picture alone."""
        used = "an unknown number" if self.used is None else f"{self.used:,}"
        if self.quota is None:
            told = [f"{used} used, no limit"]
        else:
            past = max(0, (self.used or 0) - self.quota)
            told = [f"{used} of {self.quota:,} used", f"{past:,} past the quota"]
        return ", ".join([*told, self.refused_calls])

    @property
    def refused_calls(self) -> str:
        """How many calls were refused, in words."""
        calls = "no call" if not self.refused else "1 call" if self.refused == 1 else ""
        return f"{calls or f'{self.refused:,} calls'} refused"


class History:
    """A listener that keeps readings and refusals, and the points that `look` adds."""

    def __init__(
        self, policy: Policy, priority: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy
        self._priority = priority
        self._clock = clock
        self._began: float | None = None
        self._lock = threading.Lock()
        self._points: Thinned[Point] = Thinned()
        self._readings: Thinned[tuple[float, float]] = Thinned()
        self._refusals: Thinned[float] = Thinned()

    def __call__(self, event: Event) -> None:
        """Take in *event*; several threads do."""
        with self._lock:
            match event:
                case Polled(used=used) if METER in used:
                    self._readings.add((self._seconds(), used[METER]))
                case Refused(shadow=False):
                    self._refusals.add(self._seconds())
                case _:
                    pass

    def look(self, true: float | None, row: Row, wall: float) -> None:
        """Add a point: the provider's own count, if it is known, and how we stand.

        wall: Unix time, by which the line is where it is.
        """
        ours = row.used + row.reserved
        if row.limit is not None and row.headroom is not None:
            # The books' upper bound: with the margin, and with what may be counted twice.
            ours = max(ours, row.limit - row.headroom)
        with self._lock:
            highest = may_use(row, self._policy, self._priority, wall)
            self._points.add(Point(self._seconds(), true, ours, highest, row.limit))

    def _seconds(self) -> float:
        """Return the seconds since this was first asked for: the first reading, as a rule."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        return now - self._began

    def series(self) -> Series:
        """Return what there is to draw by now."""
        with self._lock:
            points = tuple(self._points)
            return Series(
                points=points,
                readings=tuple(self._readings),
                refusals=tuple(self._refusals),
                refused=self._refusals.count,
                quota=points[-1].limit if points else None,
                priority=self._priority,
            )


def may_use(row: Row, policy: Policy, priority: str, wall: float) -> float | None:
    """Return the units up to which calls of *priority* go, None where there is no limit."""
    if row.limit is None:
        return None
    mine = policy.of(row.meter)
    slack = mine.slack.get(priority, 0.0)
    share = share_left(row.period, wall, mine.profile)  # type: ignore[arg-type] # of tuples
    return row.limit - line(slack, share, int(row.limit))
