"""Many processes on one quota, on a virtual clock: each with its own place at shared books.

Every process is a `Simulator` whose books are on one shelf: the shipped accounts, holders
and exchanges, and no thread, for what the ledger's thread would do is one more event.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, cast

from quotaguard.quota.policy import Policy
from quotaguard.quota.readings import Moment
from quotaguard.sharing.ledger import LEASE, SharedLedger
from quotaguard.spending import terms_of
from quotaguard.testing.shelf import Desk, Shelf
from quotaguard.testing.simulated import SimulatedCall, SimulatedProvider, VirtualClock
from quotaguard.testing.simulator import Simulator

if TYPE_CHECKING:
    from quotaguard.errors import Refusal
    from quotaguard.providers import Provider
    from quotaguard.sharing.account import SharedAccount
    from quotaguard.sharing.holder import SharedHolder
    from quotaguard.sharing.thread import LedgerThread

__all__ = ["Crowd", "CrowdFigures", "CrowdProcess"]


class _Killed(BaseException):
    """The process is gone in the middle of an exchange; nothing may catch that."""


class _Over(BaseException):
    """The run ends here; the shipped code, which expects faults of a store, must not go on."""


class _HostClock(VirtualClock):
    """The clocks of a host: as fast as all others, and set differently."""

    def __init__(self, time: VirtualClock, uptime: float, wall: float) -> None:
        self._time, self._uptime, self._wall = time, uptime, wall

    @property
    def elapsed(self) -> float:
        return self._time.elapsed

    @elapsed.setter
    def elapsed(self, value: float) -> None:
        self._time.elapsed = value

    def now(self) -> Moment:
        at = self._time.now()
        return Moment(at.slow + self._uptime, at.fast + self._uptime, at.wall + self._wall)

    def slow(self) -> float:
        return self._time.slow() + self._uptime

    def fast(self) -> float:
        return self._time.fast() + self._uptime


class _Turns:
    """The ledger's thread, as events of the crowd."""

    def __init__(self, ledger: _CrowdLedger) -> None:
        self._ledger = ledger
        self._next = math.inf

    def keep(self) -> None:
        """The crowd keeps every ledger."""

    def attend(self, at: float) -> None:
        if at < self._next:
            self._next = at
            process = self._ledger.process
            wait = max(0.0, at - process.clock.fast())
            process.at(process.elapsed + wait, self._run, at)

    def _run(self, at: float) -> None:
        if at == self._next and self._ledger.alive:
            self._next = math.inf
            due = self._ledger.tend()
            if due < math.inf:
                self.attend(due)

    def stop(self) -> None:
        """It never runs by itself."""


class _CrowdLedger(SharedLedger):
    """The shipped ledger, whose thread is the crowd's."""

    def __init__(self, process: CrowdProcess, crowd: Crowd, name: str) -> None:
        self.process, self._crowd, self._name = process, crowd, name
        self._versions = itertools.count(1)
        self.alive, self.busy = True, False
        desk = Desk(crowd.shelf, self._between)
        super().__init__(desk, lease=crowd.lease, clock=process.clock)

    def _begin(self) -> None:
        super()._begin()
        self._prefix = self._name
        self._thread = cast("LedgerThread", _Turns(self))

    def close(self) -> None:
        """Nothing: this process ends, and not the simulated one."""

    def version(self) -> str:
        return f"{self._name}:{next(self._versions)}"

    def _between(self) -> None:
        self._crowd._pause(self.process)  # noqa: SLF001 - one of the crowd
        if not self.alive:
            raise _Killed


class CrowdProcess(Simulator):
    """One process of a crowd. *stopped*: it does nothing, and its clocks go on."""

    def __init__(self, crowd: Crowd, number: int, clock: VirtualClock) -> None:
        self._crowd, self.number = crowd, number
        self.stopped = False
        self.waiting: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        super().__init__(
            crowd.provider, crowd.policy, terms=crowd.terms, clock=clock, watch=self._watched
        )
        self._random = crowd.random
        self.coming = crowd.coming
        self.polled = crowd.polled

    def _begin(self) -> None:
        name = f"{self.number}.{self.process}"
        self.ledger = _CrowdLedger(self, self._crowd, name)
        self._settle_in(self.ledger.holder(self._terms))

    def crash(self) -> None:
        """Kill the process, wherever it is; another begins that knows nothing of it."""
        self.ledger.alive = False
        super().crash()
        self.go_on()

    def stop(self, seconds: float) -> None:
        """Let it do nothing for so long; its clocks go on."""
        self.stopped = True
        self._crowd.at(self.elapsed + seconds, self.go_on)

    def go_on(self) -> None:
        """Let it do what has come meanwhile."""
        self.stopped = False
        waiting, self.waiting = self.waiting, []
        for act, given in waiting:
            self.at(self.elapsed, act, *given)

    @property
    def account(self) -> SharedAccount:
        """The process's place at the books."""
        return self._place._account  # noqa: SLF001 - the crowd looks at all that it does

    @property
    def _place(self) -> SharedHolder:
        return cast("SharedHolder", self.spending.holder)

    def in_hand(self, meter: str) -> int:
        """Return the units that it may still spend without asking anybody."""
        purse = self._place.allotment.purses.get(meter)
        if purse is None or self.clock.fast() >= purse.end:
            return 0
        return max(0, max(purse.room.values(), default=0) - purse.taken)

    def at(self, elapsed: float, act: Callable[..., object], *given: object) -> None:
        """Do something at a time, unless it is stopped then."""
        # What it has sent is charged whatever becomes of it.
        process = None if act == self._charge else self
        self._crowd._push(elapsed, process, act, given)  # noqa: SLF001 - one of the crowd

    def _watched(self, what: str, call: SimulatedCall | None, refusal: Refusal | None) -> None:
        self._crowd._note(what)  # noqa: SLF001 - one of the crowd
        if self._crowd.watch is not None:
            self._crowd.watch(self, what, call, refusal)


@dataclass(frozen=True, slots=True)
class CrowdFigures:
    """What came of it; see also `Figures`.

    trips: exchanges with the store, looks and heartbeats among them, until the last call
    went. trips_after: since then, of refused calls. early: calls that were refused though
    quota was left. stranded: units that were left when the first call was refused.
    full_at: when the last call went, in seconds since the start.
    """

    calls: int
    sent: int
    refused: int
    charged: int
    overshoot: int
    polls: int
    trips: int
    trips_after: int
    early: int
    stranded: int
    full_at: float
    longest_delay: float
    utilisation: float

    @property
    def trips_per_call(self) -> float:
        """Exchanges per admission."""
        return self.trips / max(1, self.sent)


class Crowd:
    """Drives many processes through simulated time. Deterministic from one *seed*.

    ::

        vendor = SimulatedProvider({"matches": 1_000}, lag=5)
        crowd = Crowd(vendor, Policy(lag=10), holders=10, seed=7)
        calls = (SimulatedCall(at / 100, {"matches": 1}, "critical") for at in range(2_000))
        figures = crowd.run(enumerate(calls))
        assert figures.overshoot == 0

    holders: processes. remote: they are on hosts whose clocks are set differently, and the
        store is a server with a clock of its own; else all are one host's.
    pauses: called with every process in the middle of its exchanges, twice each; what it
        returns are seconds for which the process is stopped there.
    watch: told what a process does: see `Simulator`.
    """

    def __init__(
        self,
        provider: SimulatedProvider,
        policy: Policy | None = None,
        *,
        holders: int,
        seed: int | str = 0,
        lease: float = LEASE,
        remote: bool = True,
        pauses: Callable[[CrowdProcess], float] | None = None,
        watch: Callable[[CrowdProcess, str, SimulatedCall | None, Refusal | None], None]
        | None = None,
    ) -> None:
        self.provider, self.policy = provider, policy or Policy()
        self.terms = terms_of(cast("Provider", provider), self.policy)
        self.lease, self.watch, self.pauses = lease, watch, pauses
        self.random = Random(seed)  # noqa: S311 - repeatable chance, no secrets
        self.clock = VirtualClock()
        self.coming: Counter[str] = Counter()
        self.polled: list[float] = []
        self._events: list[tuple[float, float, int, CrowdProcess | None, Any, Any]] = []
        self._count = itertools.count()
        self._until = math.inf
        self._failure: Exception | None = None
        self._limit = min((provider.limit(name) or 0 for name in provider.meters), default=0)
        self._calls = self._sent = self._refused = self._early = self._trips = 0
        self._stranded: int | None = None
        self._refused_since = 0
        self.full_at = 0.0
        self.shelf = Shelf(self._host(remote=remote).now, remote=remote)
        self.processes = [
            CrowdProcess(self, number, self._host(remote=remote)) for number in range(holders)
        ]

    def _host(self, *, remote: bool) -> VirtualClock:
        if not remote:
            return self.clock
        return _HostClock(self.clock, self.random.uniform(0.0, 1e6), self.random.uniform(-2.0, 2.0))

    # -- time ---------------------------------------------------------------------

    def at(self, elapsed: float, act: Callable[..., object], *given: object) -> None:
        """Do something at a time, in seconds since the start; ties fall by chance."""
        self._push(elapsed, None, act, given)

    def _push(
        self,
        elapsed: float,
        process: CrowdProcess | None,
        act: Callable[..., object],
        given: tuple[object, ...],
    ) -> None:
        event = (elapsed, self.random.random(), next(self._count), process, act, given)
        heapq.heappush(self._events, event)

    def run(
        self,
        calls: Iterable[tuple[int, SimulatedCall]] = (),
        *,
        until: float | None = None,
    ) -> CrowdFigures:
        """Run for *until* seconds since the start, or until a minute after the last call.

        calls: and the process that each comes to, in the order of *at*. Numbers go round.
        """
        self._until = math.inf if until is None else until
        self._next(iter(calls))
        try:
            while self._step(self._until):
                pass
        except _Over:
            assert self._failure is not None  # noqa: S101 - that is why
            raise self._failure from None
        self.clock.elapsed = max(self.clock.elapsed, self._until)
        return self.figures

    def _next(self, coming: Iterable[tuple[int, SimulatedCall]]) -> None:
        for number, call in coming:
            self._push(call.at, None, self._come, (number, call, coming))
            return
        self._until = min(self._until, self.clock.elapsed + 60.0)

    def _come(
        self, number: int, call: SimulatedCall, coming: Iterable[tuple[int, SimulatedCall]]
    ) -> None:
        self._calls += 1
        process = self.processes[number % len(self.processes)]
        self._do(process, process._arrive, (call,))  # noqa: SLF001 - as `Simulator.run` does
        self._next(coming)

    def _do(
        self, process: CrowdProcess | None, act: Callable[..., object], given: tuple[object, ...]
    ) -> None:
        if process is not None and (process.stopped or process.ledger.busy):
            process.waiting.append((act, given))
            return
        try:
            act(*given)
        except _Killed:
            return
        except Exception as error:
            self._failure = self._failure or error
            raise _Over from error

    def _pause(self, process: CrowdProcess) -> None:
        """Stop *process* where it is, and let all others go on."""
        seconds = 0.0 if self.pauses is None else self.pauses(process)
        if seconds <= 0.0:
            return
        ledger, until = process.ledger, self.clock.elapsed + seconds
        # Another one's pause may begin in this one, and end after it.
        ledger.busy = True
        while ledger.alive and self._step(until):
            pass
        self.clock.elapsed = max(self.clock.elapsed, until) if ledger.alive else self.clock.elapsed
        ledger.busy = False
        if ledger.alive and not process.stopped:
            process.go_on()

    def _step(self, until: float) -> bool:
        """Do the next that happens; whether there was anything by *until*."""
        if not self._events or self._events[0][0] > until:
            return False
        at, _, _, process, act, given = heapq.heappop(self._events)
        self.clock.elapsed = max(self.clock.elapsed, at)
        self._do(process, act, given)
        return True

    # -- what came of it ------------------------------------------------------------

    def _note(self, what: str) -> None:
        if what == "granted":
            self._sent += 1
            self._early += self._refused_since
            self._refused_since = 0
            self._trips, self.full_at = self.shelf.trips, self.clock.elapsed
        elif what == "refused":
            self._refused += 1
            self._refused_since += 1
            if self._stranded is None:
                gone = self.provider.used(next(iter(self.provider.meters)), self.clock.elapsed)
                self._stranded = self._limit - gone - self.coming.total()

    @property
    def figures(self) -> CrowdFigures:
        """What came of it so far."""
        return CrowdFigures(
            calls=self._calls,
            sent=self._sent,
            refused=self._refused,
            charged=self.provider.charged,
            overshoot=self.provider.overshoot,
            polls=len(self.polled),
            trips=self._trips,
            trips_after=self.shelf.trips - self._trips,
            early=self._early,
            stranded=self._stranded or 0,
            full_at=self.full_at,
            longest_delay=max(process.figures.longest_delay for process in self.processes),
            utilisation=self.provider.utilisation(self.clock.elapsed),
        )
