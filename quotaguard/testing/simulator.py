"""The code on a virtual clock: the shipped stories, books and lanes, against a provider that lags.

The simulator is the third driver beside those of threads and tasks. It decides
nothing: it carries out what the stories ask, takes calls and polls as long as they
take, and moves the time to the next event. So what it shows is what the code does,
a month of it in seconds, and the same from the same seed.
"""

# ruff: noqa: SLF001 - a driver opens reservations as Reservation's own two verbs do

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, assert_never, cast

from quotaguard.drivers import _Caller
from quotaguard.errors import Refusal, StatsUnavailable
from quotaguard.ledgers.memory import MemoryLedger
from quotaguard.opening import ASK
from quotaguard.quota.admission import Answer, Poll, Post, Sleep, Tell, polling
from quotaguard.quota.entries import AskToPoll
from quotaguard.quota.policy import Policy
from quotaguard.quota.verdicts import Due, Granted
from quotaguard.reservation import Reservation
from quotaguard.spending import Spending, terms_of
from quotaguard.testing.simulated import Figures, SimulatedCall, SimulatedProvider, VirtualClock

if TYPE_CHECKING:
    from quotaguard.ledgers import Holder
    from quotaguard.ledgers.memory import MemoryHolder
    from quotaguard.providers import Provider
    from quotaguard.quota.account import Books, Terms
    from quotaguard.quota.admission import Ask

__all__ = ["Figures", "SimulatedCall", "SimulatedProvider", "Simulator"]

STANDSTILL = 1_000
# Steps of one caller at one instant after which it is said to go round in circles.


class _Visit:
    """One story under way, and where its caller stands in line."""

    __slots__ = ("at", "call", "caller", "process", "reservation", "slept", "steps", "story")

    def __init__(self, simulator: Simulator, story: Generator[Ask, object, Any]) -> None:
        self.story = story
        self.caller = _Caller(simulator.spending)
        self.process = simulator.process
        self.call: SimulatedCall | None = None
        self.reservation: Reservation | None = None
        self.slept = 0.0
        self.at = -1.0
        self.steps = 0


class _Bell:
    """Wakes a simulated caller, once."""

    __slots__ = ("_began", "_simulator", "_visit", "rung")

    def __init__(self, simulator: Simulator, visit: _Visit) -> None:
        self._began = simulator.elapsed
        self._simulator = simulator
        self._visit = visit
        self.rung = False

    def wake(self) -> bool:
        self._simulator.at(self._simulator.elapsed, self.ring)
        return True

    def ring(self) -> None:
        if not self.rung:
            self.rung = True
            self._visit.slept += self._simulator.elapsed - self._began
            self._simulator._go_on(self._visit, self._simulator.clock.fast())


class Simulator:
    """Drives the shipped code through simulated time. Deterministic from one *seed*.

    ::

        vendor = SimulatedProvider({"matches": 1_000}, lag=60)
        simulator = Simulator(vendor, Policy(), seed=7)
        figures = simulator.run(SimulatedCall(at, {"matches": 1}) for at in range(2_000))
        assert figures.overshoot == 0

    watch: told what just happened, for tests of laws: ``"granted"`` and ``"refused"``
        with the call and the refusal, ``"read"`` after a poll's answer, ``"ended"``.
    process: counts the restarts.
    coming: units by meter that calls already sent will still be charged.
    polled: when each poll was asked, in seconds since the start.
    slept: seconds that the call which *watch* is told of has waited.
    """

    def __init__(
        self,
        provider: SimulatedProvider,
        policy: Policy | None = None,
        *,
        seed: int | str = 0,
        watch: Callable[[str, SimulatedCall | None, Refusal | None], None] | None = None,
        terms: Terms | None = None,
        clock: VirtualClock | None = None,
    ) -> None:
        self.provider = provider
        self.policy = policy or Policy()
        self.clock = clock or VirtualClock()
        self.coming: Counter[str] = Counter()
        self.polled: list[float] = []
        self.process = 0
        self.watch = watch
        self._random = Random(seed)  # noqa: S311 - repeatable chance, no secrets
        self._terms = terms or terms_of(cast("Provider", provider), self.policy)
        self._events: list[tuple[float, float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._calls = self._sent = self._delayed = 0
        self._longest = self.slept = 0.0
        self._refusals: Counter[str] = Counter()
        self._begin()

    # -- a process ----------------------------------------------------------------

    def _begin(self) -> None:
        self._settle_in(MemoryLedger(clock=self.clock).holder(self._terms))

    def _settle_in(self, holder: Holder) -> None:
        self.spending = Spending(
            provider=cast("Provider", self.provider),
            policy=self.policy,
            terms=self._terms,
            holder=holder,
            clock=self.clock,
            stats=cast("Any", None),  # polls go through `_ask`
            log=_silent,
        )

    def crash(self) -> None:
        """Kill the process, and start another that knows nothing of it.

        Calls in flight may still be charged; nobody hears their answers.
        """
        self.process += 1
        self._begin()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock.elapsed

    @property
    def holder(self) -> MemoryHolder:
        """The living process's place at its books."""
        return cast("MemoryHolder", self.spending.holder)

    @property
    def books(self) -> Books:
        """The living process's books."""
        return self.holder.books

    # -- time ---------------------------------------------------------------------

    def at(self, elapsed: float, act: Callable[..., object], *given: object) -> None:
        """Do something at a time, in seconds since the start; ties fall by chance."""
        event = (elapsed, self._random.random(), next(self._count), act, given)
        heapq.heappush(self._events, event)

    def call(self, call: SimulatedCall) -> None:
        """Let a call come."""
        self.at(call.at, self._arrive, call)

    def poll(self, *, trusted: bool = False) -> None:
        """Poll now, whatever the schedule says."""
        self._go_on(_Visit(self, _asking(f"{next(self._count)}", trusted=trusted)), None)

    def run(self, calls: Iterable[SimulatedCall] = (), *, until: float | None = None) -> Figures:
        """Run until nothing more happens, or for *until* seconds since the start.

        calls: come besides those that were given to `call`, in the order of *at*.
        """
        coming = iter(calls)
        self._next(coming)
        events, clock = self._events, self.clock
        while events and (until is None or events[0][0] <= until):
            at, _, _, act, given = heapq.heappop(events)
            clock.elapsed = max(clock.elapsed, at)
            act(*given)
        if until is not None:
            clock.elapsed = max(clock.elapsed, until)
        return self.figures

    def _next(self, coming: Iterable[SimulatedCall]) -> None:
        for call in coming:
            self.at(call.at, self._arrive_of, call, coming)
            return

    def _arrive_of(self, call: SimulatedCall, coming: Iterable[SimulatedCall]) -> None:
        self._next(coming)
        self._arrive(call)

    @property
    def figures(self) -> Figures:
        """What came of it so far."""
        provider = self.provider
        return Figures(
            calls=self._calls,
            sent=self._sent,
            charged=provider.charged,
            foreign=provider.foreign(self.elapsed),
            overshoot=provider.overshoot,
            refused=self._refusals.total(),
            refusals=dict(self._refusals),
            delayed=self._delayed,
            longest_delay=self._longest,
            polls=len(self.polled),
            utilisation=provider.utilisation(self.elapsed),
        )

    # -- a call ---------------------------------------------------------------------

    def _arrive(self, call: SimulatedCall) -> None:
        self._calls += 1

        self.slept = 0.0

        def instead(refusal: Refusal) -> None:
            self._refuse(call, refusal)

        cost = dict(call.cost)
        reservation = Reservation(self.spending, cost, call.priority, call.max_wait, instead)
        denial = reservation._quick()
        if denial is None:
            self._send(call, reservation)
        elif denial is not ASK:
            reservation._denied(denial)
        else:
            visit = _Visit(self, reservation._story())
            visit.call, visit.reservation = call, reservation
            self._go_on(visit, None)

    def _go_on(self, visit: _Visit, answer: object) -> None:
        """Carry out what the story asks, until it waits or ends."""
        if visit.process != self.process:
            return
        self._count_steps(visit)
        try:
            while True:
                ask = visit.story.send(answer)
                match ask:
                    case Post() | Tell():
                        answer = visit.caller.note(ask)
                    case Poll():
                        visit.caller.handed_over(ask)
                        self._ask(visit)
                        return
                    case Sleep():
                        self._rest(visit, ask)
                        return
                    case _:
                        assert_never(ask)
        except StopIteration as end:
            self._leave(visit)
            self._ended(visit, end.value)
        except Refusal as refusal:
            self._leave(visit)
            assert visit.reservation is not None  # noqa: S101 - only its story refuses
            visit.reservation._refused(refusal)

    def _leave(self, visit: _Visit) -> None:
        visit.caller.leave()
        self.slept = visit.slept
        if visit.slept:
            self._delayed += 1
            self._longest = max(self._longest, visit.slept)

    def _count_steps(self, visit: _Visit) -> None:
        visit.steps = visit.steps + 1 if visit.at == self.elapsed else 0
        visit.at = self.elapsed
        if visit.steps > STANDSTILL:
            msg = f"a caller goes round in circles at {self.elapsed} s: {visit.call}"
            raise RuntimeError(msg)

    def _rest(self, visit: _Visit, ask: Sleep) -> None:
        bell = _Bell(self, visit)
        due = self.elapsed
        if visit.caller.lie_down(ask, bell):
            due += ask.seconds
        self.at(due, bell.ring)

    def _ask(self, visit: _Visit) -> None:
        self.polled.append(self.elapsed)
        takes = self.provider.takes
        if not takes:
            self._look(visit, 0.0)
            return
        # Now and then it looks at once: calls of the same instant come after that.
        first = takes * max(0.0, self._random.uniform(-0.25, 1.0))
        rest = takes * self._random.random()
        self.at(self.elapsed + first, self._look, visit, rest)

    def _look(self, visit: _Visit, rest: float) -> None:
        """The provider looks into its books; its answer is on the way for *rest* seconds."""
        jitter = self._random.uniform(-1.0, 1.0)
        if self.provider.failing():
            error = StatsUnavailable("it did not answer", provider=self.provider.name)
            answer = Answer(error=error, jitter=jitter)
        else:
            answer = Answer(self.provider.reading(self.elapsed), jitter=jitter)
        if rest:
            self.at(self.elapsed + rest, self._answer, visit, answer)
        else:
            self._answer(visit, answer)

    def _answer(self, visit: _Visit, answer: Answer) -> None:
        self._go_on(visit, answer)
        self._tell("read")

    def _ended(self, visit: _Visit, verdict: object) -> None:
        if visit.call is None or visit.reservation is None:
            return
        visit.reservation._opened(cast("Granted", verdict))
        if visit.reservation._overslept():
            visit.story = visit.reservation._story()
            self._go_on(visit, None)
        else:
            self._send(visit.call, visit.reservation)

    def _refuse(self, call: SimulatedCall, refusal: Refusal) -> None:
        self._refusals[type(refusal).__name__] += 1
        self._tell("refused", call, refusal)

    def _send(self, call: SimulatedCall, reservation: Reservation) -> None:
        self._sent += 1
        actual = call.cost if call.actual is None else call.actual
        if actual and not call.unsent:
            after = call.takes / 2.0 if call.charged_after is None else call.charged_after
            for meter, units in actual.items():
                self.coming[meter] += units
            self.at(self.elapsed + after, self._charge, actual)
        self._tell("granted", call)
        self.at(self.elapsed + call.takes, self._end, call, reservation, actual, self.process)

    def _charge(self, actual: Mapping[str, int]) -> None:
        for meter, units in actual.items():
            self.coming[meter] -= units
            self.provider.charge(meter, units, self.elapsed)

    def _end(
        self,
        call: SimulatedCall,
        reservation: Reservation,
        actual: Mapping[str, int],
        process: int,
    ) -> None:
        if process != self.process:
            return
        if call.unsent:
            reservation.release()
        elif not call.answered:
            reservation.give_up()
        else:
            reservation.settle(dict(actual))
        self._tell("ended", call)

    def _tell(
        self, what: str, call: SimulatedCall | None = None, refusal: Refusal | None = None
    ) -> None:
        if self.watch is not None:
            self.watch(what, call, refusal)


def _asking(name: str, *, trusted: bool) -> Generator[Ask, object, object]:
    """A poll that nobody's call has asked for."""
    verdict = yield Post(AskToPoll(name, anyway=True))
    assert isinstance(verdict, Due)  # noqa: S101 - it was asked for anyway
    return (yield from polling(verdict.claim, trusted=trusted))


def _silent(_: object) -> None:
    """Nobody reads a simulated log."""
