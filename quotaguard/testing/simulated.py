"""Simulated time: its clock, calls, figures, and a provider that shows charges late."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from quotaguard.quota.calls import Cost
from quotaguard.quota.readings import Meter, Moment, Period, Reading, Usage, nothing

if TYPE_CHECKING:
    import threading

    import anyio

__all__ = ["Figures", "SimulatedCall", "SimulatedProvider", "VirtualClock"]

SLOW_START, FAST_START, WALL_START = 1_024.0, 2_048.0, 1_700_000_000.0
# Apart, so that code which mixes the clocks shows itself; whole, so that times which
# are sums of sixteenths of a second stay exact and meet in ties.


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """One call of the application, and what becomes of it if it is sent.

    at: seconds since the start at which it comes. cost: units per meter that are
    reserved. takes: seconds from sending to the answer, or to giving up without one.
    actual: units that the provider charges, None is *cost*, ``{}`` is nothing.
    answered: False is a lost answer: the outcome stays unknown. charged_after:
    seconds from sending to the charge, None is half of *takes*. unsent: the
    connection failed, so that the reservation is released after *takes*.
    """

    at: float
    cost: Mapping[str, int]
    priority: str = "normal"
    max_wait: float | None = None
    takes: float = 0.0
    actual: Mapping[str, int] | None = None
    answered: bool = True
    charged_after: float | None = None
    unsent: bool = False


class VirtualClock:
    """Seconds since the start, as the three clocks show them."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def now(self) -> Moment:
        """Return one reading of all three clocks."""
        at = self.elapsed
        return Moment(SLOW_START + at, FAST_START + at, WALL_START + at)

    def slow(self) -> float:
        """Return the `Moment.slow` of now."""
        return SLOW_START + self.elapsed

    def fast(self) -> float:
        """Return the `Moment.fast` of now."""
        return FAST_START + self.elapsed

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Never used: a simulated caller waits in the simulator's heap of events."""
        raise NotImplementedError

    async def await_(self, wake: anyio.Event, seconds: float) -> None:
        """Never used, as above."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it. Units are summed over the meters.

    calls: that came. sent: that went. charged: units of own calls. foreign: units
    that others spent. overshoot: own units charged beyond a limit. refused: calls
    that were not sent; refusals: the same by the kind of refusal. delayed: calls
    that waited; longest_delay: seconds, without the polls that a caller makes itself.
    polls: stats polls that were made. utilisation: the share of its limit that the
    tightest meter used, over all periods; 0 without a limit.
    """

    calls: int
    sent: int
    charged: int
    foreign: int
    overshoot: int
    refused: int
    refusals: Mapping[str, int]
    delayed: int
    longest_delay: float
    polls: int
    utilisation: float


class _Counter:
    """What one meter truly stands at, and what of it shows."""

    __slots__ = ("coming", "limit", "past", "past_limit", "shown", "used")

    def __init__(self, limit: int | None, used: int) -> None:
        self.limit = limit
        self.used = self.shown = used
        self.coming: list[tuple[float, int]] = []
        self.past = self.past_limit = 0


class SimulatedProvider:
    """Charges calls, and answers polls late. Times are seconds since the start.

    limits: units per meter and period, None is unlimited. used: at the start.
    lag: seconds until a charge shows. scattered: every charge takes its own time
        of that, so that any subset of the younger ones may be visible.
    takes: seconds that a poll takes at most, each way. fails: share of polls
        without an answer.
    foreign: units per second that others spend of every meter. burst: with 10 they
        spend ten times as fast for a tenth of every *cycle*.
    period: its length in seconds, None is without end. shift: seconds by which the
        counters reset later than the period says. stale: seconds after that in which
        polls still show the old period.
    used, charged, overshoot, lost: see the properties and `Figures`.
    """

    name = "simulated"
    account = "0123456789abcdef"
    operations: Mapping[str, Cost] = nothing()

    def __init__(
        self,
        limits: Mapping[str, int | None],
        *,
        used: Mapping[str, int] = nothing(),
        lag: float = 0.0,
        scattered: bool = False,
        takes: float = 0.0,
        fails: float = 0.0,
        foreign: float = 0.0,
        burst: float = 1.0,
        cycle: float = 600.0,
        period: float | None = None,
        shift: float = 0.0,
        stale: float = 0.0,
        polls_per_hour: float = 30.0,
        seed: int | str = 0,
    ) -> None:
        self.meters = {name: Meter(name) for name in limits}
        self.polls_per_hour = polls_per_hour
        self.takes = takes
        self.charged = self.overshoot = 0
        self.lag, self.scattered = lag, scattered
        self._fails = fails
        self._rate, self._burst, self._cycle = foreign, burst, cycle
        self._length, self._shift, self._stale = period, shift, stale
        self._number = 0
        self._reset = 0.0
        self._ended: Reading | None = None
        self._random = Random(seed)  # noqa: S311 - repeatable chance, no secrets
        self._counters = {
            name: _Counter(limit, used.get(name, 0)) for name, limit in limits.items()
        }

    # -- the truth ------------------------------------------------------------------

    def used(self, meter: str, at: float) -> int:
        """Return the units of *meter* that are used in this period, whoever spent them."""
        self._turn(at)
        return self._counters[meter].used + self._others(at) - self._others(self._reset)

    def limit(self, meter: str) -> int | None:
        """Return the limit of *meter*."""
        return self._counters[meter].limit

    def foreign(self, at: float) -> int:
        """Return the units that others have spent since the start, over all meters."""
        return self._others(at) * len(self._counters)

    def utilisation(self, at: float) -> float:
        """Return the share of all periods' limits that the tightest meter has used."""
        tightest = 0.0
        for name, counter in self._counters.items():
            if counter.limit:
                now = min(self.used(name, at), counter.limit)
                share = (counter.past + now) / (counter.past_limit + counter.limit)
                tightest = max(tightest, share)
        return tightest

    def _others(self, at: float) -> int:
        """Return what others have spent of one meter, a plain function of time."""
        if not self._rate or at <= 0.0:
            return 0
        cycles, rest = divmod(at, self._cycle)
        return int(self._rate * (cycles * self._cycle + min(rest * self._burst, self._cycle)))

    # -- what happens -----------------------------------------------------------------

    def charge(self, meter: str, units: int, at: float, *, own: bool = True) -> None:
        """Charge units now, which show after the lag; not *own*: somebody else's call."""
        used = self.used(meter, at) + units
        counter = self._counters[meter]
        counter.used += units
        heapq.heappush(counter.coming, (at + self._delay(), units))
        if own:
            self.charged += units
            if counter.limit is not None:
                self.overshoot += min(units, max(0, used - counter.limit))

    def refund(self, meter: str, units: int, at: float) -> None:
        """Take back what was charged."""
        self._turn(at)
        counter = self._counters[meter]
        counter.used -= units
        heapq.heappush(counter.coming, (at + self._delay(), -units))

    def upgrade(self, meter: str, limit: int | None) -> None:
        """Change the limit of *meter*; it shows at once."""
        self._counters[meter].limit = limit

    def _delay(self) -> float:
        return self.lag * self._random.random() if self.scattered else self.lag

    # -- what shows -------------------------------------------------------------------

    def failing(self) -> bool:
        """Whether this poll stays without an answer."""
        return self._fails > 0.0 and self._random.random() < self._fails

    def reading(self, at: float) -> Reading:
        """Return what a poll shows that is looked up now."""
        self._turn(at)
        if self._ended is not None and at < self._reset + self._stale:
            return self._ended
        return self._show(at)

    def _show(self, at: float) -> Reading:
        others = self._others(at - self._delay()) - self._others(self._reset)
        usages = {}
        for name, counter in self._counters.items():
            coming = counter.coming
            # Not before the lag is over: at its very end a charge may still be missing.
            while coming and coming[0][0] < at:
                counter.shown += heapq.heappop(coming)[1]
            usages[name] = Usage(counter.shown + max(0, others), counter.limit)
        return Reading(usages, self.period)

    @property
    def period(self) -> Period:
        """The period that counts now, as polls name it sooner or later."""
        if self._length is None:
            return Period()
        first = WALL_START + self._number * self._length
        return Period(first, first + self._length)

    def _turn(self, at: float) -> None:
        """Begin the next period, once its time has come."""
        while self._length is not None:
            reset = (self._number + 1) * self._length + self._shift
            if at < reset:
                return
            others = self._others(reset) - self._others(self._reset)
            usages = {}
            for name, counter in self._counters.items():
                used = counter.used + others
                usages[name] = Usage(used, counter.limit)
                counter.past += min(used, counter.limit or 0)
                counter.past_limit += counter.limit or 0
                counter.used = counter.shown = 0
                counter.coming = []
            self._ended = Reading(usages, self.period)
            self._number += 1
            self._reset = reset
