"""Processes at one store as a state machine: whatever is lost, late or dead, the books hold.

The numbers are those of the project's list: I2 the gate is above the truth, I3 nothing
overshoots, I6 silence heals, I7 the sums agree and nothing falls, I9 all meters or none,
I11 repeated and lost reports do no harm, I12 what is held is somebody's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shelves import LAG, LATE, MATCHES, TOTAL, Process, Provider, Shelf

from quotaguard import QuotaGuardError, Refusal
from quotaguard.sharing.record import Record
from quotaguard.testing import FakeClock

which = st.integers(0, 11)
counts = st.integers(1, 4)
SPANS = (0.01, 0.2, 1.0, 3.0, 6.0, 11.0, 31.0, 45.0)


@dataclass
class Calling:
    """A call under way. *charged*: the provider has it in its books already."""

    process: Process
    reservation: Any
    units: int
    charged: bool = False


class Processes(RuleBasedStateMachine):
    """Two or three processes, the provider and the store."""

    policy: Mapping[str, Any] = {}
    exact = True

    @initialize(count=st.integers(2, 3), quota=st.sampled_from((6, 40, 400)), remote=st.booleans())
    def begin(self, count: int, quota: int, remote: bool) -> None:
        self.clock = FakeClock()
        self.shelf = Shelf(self.clock, remote=remote)
        self.provider = Provider(self.clock, quota)
        self.processes = [Process(self.shelf, self.provider, **self.policy) for _ in range(count)]
        self.open: list[Calling] = []
        self.fallen: dict[str, tuple[int, int]] = {}
        self.processes[0].guard.refresh()

    def process(self, number: int) -> Process:
        return self.processes[number % len(self.processes)]

    # -- calls --------------------------------------------------------------------

    @rule(number=which, count=counts, both=st.booleans())
    def reserve(self, number: int, count: int, both: bool) -> None:
        process = self.process(number)
        cost = {MATCHES: count, TOTAL: 1} if both else {MATCHES: count}
        try:
            reservation = process.guard.reserve(cost, priority="critical", max_wait=0).open()
        except Refusal:
            return
        assert reservation.state == "open"
        self.open.append(Calling(process, reservation, count))

    @rule(number=which, times=st.integers(1, 12))
    def spend(self, number: int, times: int) -> None:
        for _ in range(times):
            with contextlib.suppress(Refusal):
                self.process(number).spend()

    def charge(self, call: Calling, units: int, later: float = 0.0) -> None:
        """Charge a call, unless that was done while its process slept."""
        if not call.charged:
            call.charged = True
            self.provider.charge(units, later)

    @precondition(lambda self: self.open)
    @rule(
        number=which, count=st.integers(0, 4), how=st.sampled_from(("settle", "release", "forget"))
    )
    def end(self, number: int, count: int, how: str) -> None:
        call = self.open.pop(number % len(self.open))
        spent = call.units if call.charged else min(call.units, count)
        if how == "release" and not call.charged:
            call.reservation.release()
            return
        self.charge(call, spent)
        if how == "forget":
            call.reservation.forget()
        else:
            call.reservation.settle({MATCHES: spent})

    @precondition(lambda self: self.open)
    @rule(number=which, charged=st.booleans(), later=st.floats(0.0, LATE * 0.99))
    def give_up(self, number: int, charged: bool, later: float) -> None:
        call = self.open.pop(number % len(self.open))
        call.reservation.close()
        if charged:
            self.charge(call, call.units, later)

    @rule(number=which, count=counts)
    def record(self, number: int, count: int) -> None:
        if self.potential() + count <= self.provider.quota:
            self.shelf.faults.clear()
            self.provider.charge(count)
            self.process(number).guard.record({MATCHES: count})
            self.clock.advance(1.0)
            self.tend(number)
            assert not self.untold(self.process(number))

    def potential(self) -> int:
        """Units that are charged, or that somebody holds."""
        held = 0
        for process in self.processes:
            purse = process.purse()
            held += purse.drawn - purse.cleared
        return self.provider.true + held

    # -- the world ----------------------------------------------------------------

    @rule(seconds=st.sampled_from(SPANS), asleep=st.booleans(), tended=st.booleans())
    def wait(self, seconds: float, asleep: bool, tended: bool) -> None:
        for call in self.open:
            # Who is not heard of is charged by the end of its lease, and a little later.
            if self.clock.fast() + seconds > call.process.holder.lease_until:
                self.charge(call, call.units)
        (self.clock.suspend if asleep else self.clock.advance)(seconds)
        for process in self.processes:
            if tended:
                process.tend()

    @rule(number=which)
    def tend(self, number: int) -> None:
        self.process(number).tend()

    @rule(number=which)
    def beat(self, number: int) -> None:
        self.process(number).account.beat()

    @rule(number=which)
    def close(self, number: int) -> None:
        self.process(number).guard.close()

    @rule(number=which, lag=st.floats(0.0, LAG * 0.99))
    def poll(self, number: int, lag: float) -> None:
        self.provider.lag = lag
        with contextlib.suppress(QuotaGuardError):
            self.process(number).guard.refresh()
        self.provider.lag = 0.0

    @rule(
        faults=st.lists(st.sampled_from(("down", "lost", "gone", "again")), min_size=1, max_size=3)
    )
    def spoil(self, faults: list[str]) -> None:
        self.shelf.faults.extend(faults)

    @rule(number=which, charged=st.booleans(), forked=st.booleans())
    def die(self, number: int, charged: bool, forked: bool) -> None:
        """A process is killed, or replaced by a child that it forks as it ends."""
        process = self.process(number)
        if not self.exact:
            # What it lent and has told nobody dies with it, and looks like others' spend.
            self.shelf.faults.clear()
            self.clock.advance(1.0)
            process.account.give_back()
        for call in [call for call in self.open if call.process is process]:
            self.open.remove(call)
            if charged:
                self.charge(call, call.units)
            call.reservation.state = "void"  # its finalizer runs in no process
        if forked:
            process.account.forked()
        else:
            process.start()

    # -- laws ---------------------------------------------------------------------

    @invariant()
    def nothing_overshoots(self) -> None:
        sent = sum(call.units for call in self.open if not call.charged)
        assert self.provider.true + sent <= self.provider.quota or not self.exact

    @invariant()
    def the_sums_agree(self) -> None:
        books = self.processes[0].books
        for name, meter in books.meters.items():
            tallies = [told[name] for told in books.holders.values() if name in told]
            assert meter.held == sum(tally.drawn - tally.cleared for tally in tallies)
            assert meter.idle == sum(tally.idle for tally in tallies)
            assert all(0 <= tally.idle <= tally.drawn - tally.cleared for tally in tallies)
            spent, unknown = self.fallen.get(name, (0, 0))
            assert meter.spent >= spent
            assert meter.unknown >= unknown
            self.fallen[name] = meter.spent, meter.unknown
            terms = self.processes[0].holder.terms.meters[name]
            if (
                name == MATCHES
                and meter.read
                and not any(p.account.tickets for p in self.processes)
            ):
                assert (
                    meter.gate(self.clock.fast(), terms) + sum(map(self.untold, self.processes))
                    >= self.provider.true
                )

    @invariant()
    def the_text_is_the_books(self) -> None:
        for draft in self.shelf.records.values():
            assert Record.read(draft.text).text() == draft.text

    def untold(self, process: Process) -> int:
        """Units that were recorded while the store could not be reached."""
        purse, told = process.purse(), process.holder.told.get(MATCHES)
        lent = process.holder.lent.get(MATCHES, 0)
        return int(purse.spent - (told.spent if told else 0) + min(lent, purse.opened))

    @invariant()
    def nobody_holds_less_than_nothing(self) -> None:
        for process in self.processes:
            for purse in process.holder.allotment.purses.values():
                assert purse.opened >= 0
                assert purse.drawn - purse.cleared >= purse.opened
            mine = [call for call in self.open if call.process is process]
            live = [call for call in mine if call.reservation._epoch == process.holder.epoch]
            assert process.purse().opened >= sum(call.units for call in live)

    def teardown(self) -> None:
        if not hasattr(self, "open"):
            return
        self.shelf.faults.clear()
        for call in self.open:
            self.charge(call, call.units)
            call.reservation.settle({MATCHES: call.units})
        for _ in range(4):
            self.clock.advance(LAG + LATE + 12.0)
            for process in self.processes:
                process.guard.standing()
                process.account.give_back()
        for _ in range(2):
            self.clock.advance(LAG + 1.0)
            self.processes[0].guard.refresh()
        for process in self.processes:
            assert all(purse.opened == 0 for purse in process.holder.allotment.purses.values())
            process.account.give_back()
        books = self.processes[0].books
        meter = books.meters[MATCHES]
        assert meter.held == meter.idle == 0
        terms = self.processes[0].holder.terms.meters[MATCHES]
        # A poll may see what was lent before the books hear of it: others may do that again.
        margin = 0 if self.exact else meter.margin(self.clock.fast(), terms)
        gate = meter.gate(self.clock.fast(), terms) - margin
        assert gate == self.provider.true, "it does not heal"
        assert meter.likely() == self.provider.true


class Lending(Processes):
    """The same, where calls go while the store cannot be reached: all of them are counted."""

    policy: Mapping[str, Any] = {"on_ledger_down": "open"}
    exact = False


TestProcesses = Processes.TestCase
TestLending = Lending.TestCase
TestProcesses.settings = TestLending.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
