"""The books and an allotment as a state machine: any order of entries keeps the invariants.

The numbers are those of the project's list: I1 no admission past the limit, I2 the gate
is above the truth, I3 nothing overshoots, I6 silence heals, I7 the sums agree, I9 all
meters or none, I10 good news is confirmed, I11 late and repeated answers do no harm, I12
a holder uses what it has drawn, I13 the lines are kept.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from quotaguard import Policy
from quotaguard.errors import StatsUnavailable
from quotaguard.quota.account import Books, Posted, Terms
from quotaguard.quota.allotment import Allotment, Tally
from quotaguard.quota.entries import AskToPoll, Blocked, PollLost, Reserve, Touch, Unblocked
from quotaguard.quota.lines import line, share_left
from quotaguard.quota.observing import Observe
from quotaguard.quota.polls import Claim
from quotaguard.quota.readings import Moment, Reading
from quotaguard.quota.verdicts import Due, Granted
from quotaguard.spending import terms_of
from quotaguard.testing import SimulatedProvider

METERS = ("a", "b")
SLACK = {"critical": 1.0, "normal": 0.8, "batch": 0.5}
WALL = 1_700_000_000.0
PERIOD = 256.0

units = st.integers(0, 4)
costs = st.fixed_dictionaries({}, optional={"a": units, "b": units}).filter(bool)
which = st.integers(0, 7)
spans = st.sampled_from(("none", "none", "tick", "tick", "lag", "late", "long"))


@dataclass(slots=True)
class Asked:
    """A poll under way. *reading* is None until the provider has looked."""

    claim: Claim
    reading: Reading | None = None
    wrong: bool = False


class Account(RuleBasedStateMachine):
    """One holder, its books, and a provider that shows charges late."""

    books: Books
    terms: Terms

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.allotment = Allotment()
        self.open: list[Mapping[str, int]] = []
        self.coming: list[tuple[float, Mapping[str, int]]] = []
        self.polls: list[Asked] = []
        self.others: list[tuple[float, str, int]] = []
        self.names = 0
        self.excused = self.refunded = self.distrusted = False
        self.lowest: dict[str, tuple[int, int]] = {}

    @initialize(
        lag=st.sampled_from((0.0, 1.0, 1.0, 4.0)),
        late=st.sampled_from((0.0, 2.0, 5.0)),
        limits=st.tuples(st.integers(4, 20), st.sampled_from((None, 0, 6, 30))),
        used=st.integers(0, 5),
        exclusive=st.booleans(),
        scattered=st.booleans(),
        period=st.sampled_from((None, PERIOD)),
        shift=st.sampled_from((-4.0, 0.0, 4.0)),
    )
    def begin(
        self,
        lag: float,
        late: float,
        limits: tuple[int, int | None],
        used: int,
        exclusive: bool,
        scattered: bool,
        period: float | None,
        shift: float,
    ) -> None:
        """Open the books with a first reading."""
        self.lag = lag
        self.vendor = SimulatedProvider(
            dict(zip(METERS, limits, strict=True)),
            used={"a": used},
            lag=lag,
            scattered=scattered,
            period=period,
            shift=shift,
        )
        policy = Policy(lag=lag, late=late, exclusive=exclusive, cold_reserve=0, slack=SLACK)
        provider: Any = self.vendor
        self.terms = terms_of(provider, policy)
        self.books = Books()
        self.late = late
        self.exclusive = exclusive
        self.period = period
        self.poll()

    # -- the machine's hands ------------------------------------------------------

    def moment(self) -> Moment:
        return Moment(1_024.0 + self.now, 2_048.0 + self.now, WALL + self.now)

    def post(self, entry: Any) -> Posted:
        now = self.moment()
        report = self.allotment.report(now)
        posted = self.books.post("me", report, entry, now, self.terms)
        self.allotment.accept(posted.granted, posted.lanes)
        return posted

    def gate(self, name: str) -> int:
        """Return a meter's gate, with what the holder has not reported, without margin."""
        meter, purse = self.books.meters[name], self.allotment.purses.get(name)
        if purse is None:
            return meter.known() + meter.held
        told = self.books.holders["me"].get(name, Tally())
        spent = meter.spent + purse.spent - told.spent
        known = meter.base + spent
        if meter.floor is not None:
            known = max(known, meter.floor + spent - meter.unknown - purse.unknown + told.unknown)
        return known + purse.opened

    def due(self, name: str) -> int:
        return sum(cost.get(name, 0) for _, cost in self.coming)

    # -- calls ----------------------------------------------------------------------

    @rule(cost=costs, priority=st.sampled_from(tuple(SLACK)))
    def reserve(self, cost: dict[str, int], priority: str) -> None:
        """A call comes; the lane decides or the books do."""
        before, now = self.allotment.open, self.moment()
        if not self.allotment.take(cost, priority, now.fast):
            self.names += 1
            lanes = dict.fromkeys(METERS, 0)
            entry = Reserve(f"r{self.names}", cost, priority, may_poll=False, lanes=lanes)
            if not isinstance(self.post(entry).verdict, Granted):
                # A lost call may have lapsed; else nothing has moved, I9.
                assert all(
                    count <= before.get(name, 0) for name, count in self.allotment.open.items()
                )
                return
        self.open.append(cost)
        for name, count in cost.items():
            meter = self.books.meters[name]
            if meter.limit is None or not count:
                continue
            share = share_left(self.books.period, now.wall + 1e-5)
            kept = line(SLACK[priority], share, meter.limit)
            assert self.gate(name) + kept <= meter.limit, "I1 I13"

    @precondition(lambda self: self.open)
    @rule(
        number=which,
        spent=st.sampled_from((0.0, 0.5, 1.0, 1.0)),
        sooner=st.sampled_from((0.0, 0.0, 0.0625)),
    )
    def settle(self, number: int, spent: float, sooner: float) -> None:
        """An answer came: the provider has charged, at most the price."""
        cost = self.open.pop(number % len(self.open))
        actual = {name: math.ceil(count * spent) for name, count in cost.items()}
        self.charge(actual)
        self.advance(sooner)
        self.allotment.settle(cost, actual, self.moment().slow)

    @precondition(lambda self: self.open)
    @rule(number=which)
    def release(self, number: int) -> None:
        """It was never sent."""
        self.allotment.settle(self.open.pop(number % len(self.open)), {})

    @precondition(lambda self: self.open)
    @rule(number=which, charged=st.none() | st.sampled_from((0.0, 0.5, 1.0)))
    def lose(self, number: int, charged: float | None) -> None:
        """No answer came: charged within `late`, or never."""
        cost = self.open.pop(number % len(self.open))
        self.allotment.give_up(cost, self.moment().slow + self.late)
        if charged is not None:
            self.coming.append((self.now + charged * self.late, cost))
            self.advance(0.0)

    @rule(name=st.sampled_from(METERS), count=units)
    def record(self, name: str, count: int) -> None:
        """The application spent elsewhere and says so: charged, never refused."""
        self.charge({name: count})
        self.allotment.record({name: count}, self.moment().slow)
        self.post(Touch())
        limit = self.vendor.limit(name)
        self.excused = self.excused or (limit is not None and self.gate(name) > limit)

    @precondition(lambda self: not self.exclusive)
    @rule(name=st.sampled_from(METERS), count=units)
    def foreign(self, name: str, count: int) -> None:
        """Somebody else spends."""
        self.vendor.charge(name, count, self.now, own=False)
        self.others.append((self.now, name, count))
        self.excused = True

    def charge(self, actual: Mapping[str, int]) -> None:
        for name, count in actual.items():
            self.vendor.charge(name, count, self.now)

    # -- readings -------------------------------------------------------------------

    @rule()
    def poll(self) -> None:
        """A poll that takes no time."""
        self.ask()
        self.polls[-1].reading = self.vendor.reading(self.now)
        self.hear(self.polls[-1])

    @precondition(lambda self: len(self.polls) < 4)
    @rule()
    def ask(self) -> None:
        """A poll begins."""
        self.names += 1
        verdict = self.post(AskToPoll(f"p{self.names}", anyway=True)).verdict
        assert isinstance(verdict, Due)
        self.polls.append(Asked(verdict.claim))

    @precondition(lambda self: self.polls)
    @rule(number=which)
    def look(self, number: int) -> None:
        """The provider looks into its books for one of them."""
        poll = self.polls[number % len(self.polls)]
        if poll.reading is None:
            poll.reading = self.vendor.reading(self.now)

    @precondition(lambda self: any(poll.reading for poll in self.polls))
    @rule(number=which, again=st.booleans())
    def answer(self, number: int, again: bool) -> None:
        """One of the answers arrives, in any order; I11: one that arrives twice is no news."""
        ready = [poll for poll in self.polls if poll.reading is not None]
        poll = ready[number % len(ready)]
        self.hear(poll)
        if again:
            self.post(Touch())  # or it is this post that finds the period over
            before = self.told()
            self.polls.append(poll)
            self.hear(poll)
            assert self.told() == before, "I11"

    def hear(self, poll: Asked) -> None:
        assert poll.reading is not None
        if poll.claim.asked.slow >= self.books.asked:
            self.distrusted = poll.wrong
        self.post(Observe(poll.claim, poll.reading))
        self.polls.remove(poll)

    def told(self) -> list[tuple[str, int, int | None]]:
        return [(name, self.gate(name), self.books.meters[name].limit) for name in METERS]

    @precondition(lambda self: not self.distrusted)
    @rule(limit=st.sampled_from((None, 1_000)), again=st.booleans())
    def garble(self, limit: int | None, again: bool) -> None:
        """I10: one answer claims that the plan was raised, and the next one does not."""
        shown = self.vendor.reading(self.now)
        if shown.period != self.books.period:
            return  # a new period explains a new limit
        self.ask()
        usages = dict(shown.usages)
        usages["a"] = replace(usages["a"], limit=limit)
        poll = self.polls[-1]
        poll.reading = replace(shown, usages=usages)
        poll.wrong = True
        self.hear(poll)
        if again:
            self.polls.append(poll)
            self.hear(poll)

    @precondition(lambda self: self.polls)
    @rule(number=which)
    def fail(self, number: int) -> None:
        """No answer arrives."""
        poll = self.polls.pop(number % len(self.polls))
        self.post(PollLost(poll.claim, StatsUnavailable("503")))

    # -- the world ------------------------------------------------------------------

    @rule(span=spans, again=spans)
    def wait(self, span: str, again: str) -> None:
        """Time passes, often exactly as long as a lag: ties are where markers go wrong."""
        for what in (span, again):
            lengths = {
                "none": 0.0,
                "tick": 0.0625,
                "lag": self.lag,
                "late": self.late,
                "long": 20.0,
            }
            self.advance(lengths[what])

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        for at, cost in sorted(self.coming, key=lambda item: item[0]):
            if at <= end:
                self.now = max(self.now, at)
                self.coming.remove((at, cost))
                self.charge(cost)
        self.now = end

    @precondition(lambda self: self.period is not None)
    @rule(before=st.sampled_from((6.0, 2.0, -1.0, -5.0)))
    def turn(self, before: float) -> None:
        """To the neighbourhood of the next period's begin."""
        assert self.period is not None
        end = (self.now // self.period + 1.0) * self.period - before
        self.advance(max(0.0, end - self.now))

    @rule(name=st.sampled_from(METERS))
    def block(self, name: str) -> None:
        """The provider says that a meter is spent."""
        self.post(Blocked((name,)))

    @rule(name=st.sampled_from(METERS))
    def unblock(self, name: str) -> None:
        """A probe went through."""
        self.post(Unblocked((name,)))

    @rule(count=st.integers(1, 3))
    def refund(self, count: int) -> None:
        """The provider takes charges back."""
        count = min(count, self.vendor.used("a", self.now))
        self.vendor.refund("a", count, self.now)
        self.refunded = True

    @rule(limit=st.integers(0, 30))
    def replan(self, limit: int) -> None:
        """The plan changes, up or down."""
        self.vendor.upgrade("a", limit)
        self.excused = True

    @rule()
    def reopen(self) -> None:
        """The books are put away and taken out again."""
        told = json.dumps(self.books.state())
        self.books = Books.of(json.loads(told))
        assert json.dumps(self.books.state()) == told

    # -- what always holds ------------------------------------------------------------

    @invariant()
    def i2_the_gate_is_above_the_truth(self) -> None:
        """All that is or will be charged, but for what others spent unseen."""
        for name in METERS:
            meter = self.books.meters[name]
            if not meter.read:
                continue
            since = meter.asked - 1_024.0 - self.lag
            unseen = sum(n for at, what, n in self.others if what == name and at >= since)
            true = self.vendor.used(name, self.now) + self.due(name)
            assert self.gate(name) >= true - unseen, "I2"

    @invariant()
    def i3_nothing_overshoots(self) -> None:
        """As long as nobody else spends and no plan shrinks."""
        assert self.excused or self.vendor.overshoot == 0, "I3"

    @invariant()
    def i7_the_sums_agree(self) -> None:
        """Held is what is open, spent and unknown never fall within a period."""
        lost: Counter[str] = Counter()
        for _, cost in self.allotment.lapses:
            lost.update(cost)
        for name, purse in self.allotment.purses.items():
            assert purse.opened == lost[name] + sum(cost.get(name, 0) for cost in self.open), "I7"
            assert purse.opened <= purse.drawn - purse.cleared, "I12"
            meter, told = self.books.meters[name], self.books.holders["me"].get(name, Tally())
            assert meter.held == told.drawn - told.cleared, "I7"
            spent, unknown = self.lowest.get(name, (0, 0))
            assert meter.spent >= spent, "I7"
            assert meter.unknown >= unknown or self.period is not None, "I7"
            self.lowest[name] = meter.spent, meter.unknown

    @invariant()
    def i10_one_answer_does_not_raise_the_limit(self) -> None:
        """The garbled answers were never believed."""
        assert self.books.meters["a"].limit not in {None, 1_000}, "I10"

    def teardown(self) -> None:
        """I6: silence of G + D and a poll, and the gate is the truth; refunds take two more."""
        if not hasattr(self, "terms"):
            return
        for cost in self.open:
            self.allotment.settle(cost, {})
        self.open.clear()
        if self.period is not None:
            self.turn(-8.0)
        self.advance(self.late + 1.0)
        self.post(Touch())
        for meter in self.books.meters.values():
            assert meter.held == 0, "I7"
        self.polls.clear()
        settled = max(mine.settled for mine in self.terms.meters.values())
        for _ in range(4 if self.refunded else 2):
            self.advance(settled + (901.0 if self.refunded else 0.0))
            self.poll()
        if self.period is not None:
            return
        for name, meter in self.books.meters.items():
            assert meter.known() == self.vendor.used(name, self.now), "I6"
            assert meter.limit == self.vendor.limit(name), "I6"
            assert not meter.blocked, "I6"


TestAccount = Account.TestCase
TestAccount.settings = settings(
    max_examples=max(600, settings().max_examples),
    stateful_step_count=40,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
