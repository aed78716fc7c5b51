"""Short windows: what may be said, the law, the least wait, who goes first, and what breaks it.

The law: no half-open window of a rate's length ever contains more requests than its count.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quotaguard import ConfigError, Policy
from quotaguard.quota.account import Books, Posted
from quotaguard.quota.entries import Check, GiveBack, Pause, Reserve
from quotaguard.quota.pacing import EXACT, LAPSE, PROMISES, RateBooks, RateLog, RateSlot
from quotaguard.quota.rates import Rate, RateTerms
from quotaguard.quota.readings import Moment
from quotaguard.quota.verdicts import Granted, Later
from quotaguard.spending import terms_of
from quotaguard.testing import SimulatedCall, SimulatedProvider, Simulator

TICK = 1 / 64
"""Seconds: 15.6 ms, as the clock of Windows ticks; sums of them are exact."""

# -- what may be said ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count", "window"),
    [
        ("100/60s", 100, 60.0),
        ("100/60", 100, 60.0),
        ("10/s", 10, 1.0),
        ("10/1s", 10, 1.0),
        ("6000/1m", 6000, 60.0),
        ("6000/m", 6000, 60.0),
        ("1000/1h", 1000, 3600.0),
        ("1000/h", 1000, 3600.0),
        ("5/250ms", 5, 0.25),
        ("1/1ms", 1, 0.001),
        ("3/2.5s", 3, 2.5),
        (" 3 / 2 s ", 3, 2.0),
    ],
)
def test_a_rate_is_a_count_and_a_window(text: str, count: int, window: float) -> None:
    """However it is written, it is read when the policy is built, and reads the same again."""
    (rate,) = Policy(rates=[text]).rates
    assert rate == Rate(count, window)
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "100", "100/", "/60s", "0/60s", "-1/60s", "1.5/60s", "nan/60s", "inf/s", "1e3/60s"),
        *("100/0s", "100/0", "100/-60s", "100/nan", "100/inf", "100/1e400s", "100/60x", "100/60 S"),
        *("100/3601s", "100/1.5h", "100/1d", "1/0.5ms", "100/60s/2", "100 per minute", "\n"),
        *("1,000/60s", "1_000/60s", "\u0661\u0660/60s", "9" * 5000 + "/60s", "1/" + "9" * 5000),
    ],
    ids=lambda wrong: repr(wrong[:20]),
)
def test_a_rate_that_cannot_be_is_told_with_one_that_works(wrong: str) -> None:
    """When it is built, with the text that is wrong; and the example in it is right."""
    with pytest.raises(ConfigError, match=r"(?s)rate .*rates=\[") as refused:
        Policy(rates=[wrong])
    said = str(refused.value)
    assert wrong.replace("\n", "\\n")[:50] in said
    assert len(said) < 400
    example = said.partition("rates=")[2].partition("]")[0] + "]"
    assert Policy(rates=json.loads(example)).rates


@pytest.mark.parametrize(
    "wrong", ["100/60s", b"100/60s", 100, None, [100], [None], [b"1/s"], [[]]], ids=repr
)
def test_rates_are_a_list_of_texts(wrong: Any) -> None:
    """One text is no list of them, and its letters are no rates."""
    with pytest.raises(ConfigError, match="texts"):
        Policy(rates=wrong)


def test_a_policy_with_rates_is_a_value() -> None:
    """It can be compared, copied, changed, printed and sent to another process."""
    policy = Policy(rates=["100/60s", "10/s"])
    assert policy == Policy(rates=("100/1m", "10/1s"))
    assert policy != Policy(rates=["100/60s"])
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301 - our own
    assert copy.deepcopy(policy) == policy
    assert policy.but(margin=3).rates == policy.rates
    assert policy.but(rates=()).rates == ()
    assert "Rate(requests=100, window=60.0)" in repr(policy)


def test_a_rate_is_the_whole_accounts() -> None:
    """A meter has none of its own: requests are counted, not units."""
    with pytest.raises(ConfigError, match="whole account"):
        Policy(meters={"a": Policy(rates=["1/s"])})


# -- the world of the laws ----------------------------------------------------


@dataclass(slots=True)
class Caller:
    """One who waits: its priority, its patience and its place."""

    priority: str
    patience: float
    slot: RateSlot
    moved: float | None = None


@dataclass(slots=True)
class World:
    """Books with rates, a clock, and those who call. *went*: when requests did."""

    rates: Sequence[str]
    policy: dict[str, Any] = field(default_factory=dict)
    make: Callable[[], RateBooks] = RateBooks
    slow: float = 1_024.0
    ahead: float = 1_024.0
    went: list[float] = field(default_factory=list)
    waiting: list[Caller] = field(default_factory=list)
    asks: int = 0
    books: Books = field(default_factory=Books)
    terms: Any = None

    def __post_init__(self) -> None:
        policy = Policy(rates=self.rates, on_unknown="open", **self.policy)
        provider: Any = SimulatedProvider({"a": None})
        self.terms = terms_of(provider, policy)
        self.books.rates = self.make()

    def moment(self) -> Moment:
        return Moment(self.slow, self.slow + self.ahead, 1e9 + self.slow + self.ahead)

    def post(self, entry: Any) -> Posted:
        self.asks += isinstance(entry, Reserve)
        return self.books.post("me", {}, entry, self.moment(), self.terms)

    def arrive(self, priority: str, patience: float, moved: float | None = None) -> Later | None:
        """Let a call come; return what holds it back, None if it went."""
        return self.ask(priority, patience, None, moved)

    def come(self, caller: Caller) -> Later | None:
        """Let one who waits look again."""
        self.waiting.remove(caller)
        return self.ask(caller.priority, caller.patience, caller.slot, caller.moved)

    def ask(
        self, priority: str, patience: float, slot: RateSlot | None, moved: float | None
    ) -> Later | None:
        cost = {"a": 1} if moved is None else {"a": 0}
        verdict = self.post(
            Reserve("me", cost, priority, slot, False, max_wait=patience, moved=moved)  # noqa: FBT003
        ).verdict
        if isinstance(verdict, Granted):
            if moved is not None:
                self.went.remove(moved)
            self.went.append(self.slow)
            assert verdict.at == self.slow
            return None
        assert isinstance(verdict, Later)
        if verdict.delay <= patience:
            assert isinstance(verdict.slot, RateSlot)
            self.waiting.append(Caller(priority, patience, verdict.slot, moved))
        return verdict

    def leave(self, caller: Caller) -> None:
        """Let one who waits give up."""
        self.waiting.remove(caller)
        self.post(GiveBack(caller.priority, caller.slot, {"a": 1}))

    def reload(self) -> None:
        """Write the books as JSON, and go on with what is read."""
        self.books = Books.of(json.loads(json.dumps(self.books.state())))

    def check(self, priority: str = "critical") -> Any:
        return self.post(Check({"a": 1}, priority)).verdict

    def least(self) -> float:
        """Return the seconds that the law makes a call wait which nobody is ahead of."""
        free = [self.slow]
        for each in self.rates:
            rate = Rate.parse(each)
            if len(self.went) >= rate.requests:
                free.append(self.went[-rate.requests] + rate.window)
        return max(free) - self.slow

    def lawful(self) -> bool:
        """Whether no window holds more than its count, as of the newest request."""
        for each in self.rates:
            rate = Rate.parse(each)
            pairs = zip(self.went, self.went[rate.requests :], strict=False)
            if any(later < first + rate.window for first, later in pairs):
                return False
        return True


PRIORITIES = ("critical", "normal", "batch")
RATES: Sequence[Sequence[str]] = (
    ["1/1s"],
    ["3/1s"],
    ["2/250ms"],
    ["3/2s", "8/8s"],
    ["100/8s", "30/1s"],
    ["200/4s"],
)

# -- the law ------------------------------------------------------------------


class Windows(RuleBasedStateMachine):
    """Callers that come, wait, come late, die and give up; a clock that ticks."""

    world: World

    @initialize(rates=st.sampled_from(RATES))
    def begin(self, rates: Sequence[str]) -> None:
        self.world = World(rates)

    @rule(
        priority=st.sampled_from(PRIORITIES),
        patience=st.sampled_from((0.0, 0.5, 8.0, 1e9)),
        count=st.sampled_from((1, 1, 2, 5, 40)),
    )
    def arrive(self, priority: str, patience: float, count: int) -> None:
        for _ in range(count):
            self.world.arrive(priority, patience)

    @precondition(lambda self: self.world.waiting)
    @rule(which=st.integers(0, 200), count=st.integers(1, 20))
    def look(self, which: int, count: int) -> None:
        """Some come back whenever they like: early, late, or in time."""
        for _ in range(min(count, len(self.world.waiting))):
            self.world.come(self.world.waiting[which % len(self.world.waiting)])

    @precondition(lambda self: self.world.waiting)
    @rule(late=st.integers(0, 2))
    def wait(self, late: int) -> None:
        """The time of the next place comes, and whoever's time it is comes too."""
        due = min(caller.slot.at for caller in self.world.waiting)
        self.world.slow = max(self.world.slow, due) + late * TICK
        for caller in list(self.world.waiting):
            if caller.slot.at <= self.world.slow:
                self.world.come(caller)

    @precondition(lambda self: self.world.waiting)
    @rule(which=st.integers(0, 200), dies=st.booleans())
    def give_up(self, which: int, dies: bool) -> None:
        caller = self.world.waiting[which % len(self.world.waiting)]
        if dies:
            self.world.waiting.remove(caller)
        else:
            self.world.leave(caller)

    @precondition(lambda self: self.world.went)
    @rule(which=st.integers(1, 8), patience=st.sampled_from((0.0, 8.0)))
    def replace(self, which: int, patience: float) -> None:
        """A function that was counted makes its request only now."""
        moved = self.world.went[-min(which, len(self.world.went))]
        if all(caller.moved is None for caller in self.world.waiting):
            self.world.arrive("normal", patience, moved)

    @rule(ticks=st.sampled_from((1, 1, 3, 16, 64, 128, 640)))
    def pass_time(self, ticks: int) -> None:
        self.world.slow += ticks * TICK

    @rule(seconds=st.sampled_from((1.0, 60.0)))
    def suspend(self, seconds: float) -> None:
        """The machine sleeps: the clock of the windows stands, and that is safe."""
        self.world.ahead += seconds

    @rule(seconds=st.sampled_from((0.25, 2.0)))
    def pause(self, seconds: float) -> None:
        self.world.post(Pause(seconds))

    @rule()
    def reload(self) -> None:
        self.world.reload()

    @invariant()
    def the_law_is_kept(self) -> None:
        assert self.world.lawful()

    @invariant()
    def the_books_stay_small(self) -> None:
        rates = self.world.books.rates
        assert len(rates.promises) <= PROMISES
        assert all(len(log.entries) <= 2 * EXACT + 1 for log in rates.logs.values())
        promised = sum(one.calls for one in rates.promises)
        assert all(one.calls > 0 for one in rates.promises)
        due = [caller for caller in self.world.waiting if caller.slot.at + LAPSE >= self.world.slow]
        assert promised >= len(due) or len(self.world.waiting) > PROMISES // 2

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Where no one waits the answer is the law's own, to the tick of the log."""
        world, rates = self.world, self.world.books.rates
        verdict = world.check()
        assert verdict == world.check(), "a check has changed something"
        assert isinstance(verdict, Granted | Later)
        delay = verdict.delay if isinstance(verdict, Later) else 0.0
        if rates.promises or world.moment().fast < world.books.paused:
            return
        coarse = max(Rate.parse(each).window for each in world.rates) / EXACT
        exact = all(len(log.entries) == log.total for log in rates.logs.values())
        assert world.least() <= delay <= world.least() + (0.0 if exact else coarse)


TestWindows = Windows.TestCase
TestWindows.settings = settings(max_examples=60, stateful_step_count=40)


# -- the least wait, and the order --------------------------------------------


def played(
    world: World, arrivals: Sequence[tuple[float, str]], *, passing: bool = False
) -> list[tuple[float, Caller]]:
    """Let calls come at these times after the start; who waits comes at its own time.

    passing: who goes lets the next in line look, as the drivers do. Returns when those
    went who waited.
    """
    went: list[tuple[float, Caller]] = []

    def come(caller: Caller) -> None:
        if world.come(caller) is None:
            went.append((world.slow, caller))
            if passing and world.waiting:
                come(min(world.waiting, key=lambda each: each.slot[:2]))

    coming = sorted((world.slow + at, number, who) for number, (at, who) in enumerate(arrivals))
    coming.reverse()
    while coming or world.waiting:
        due = min((caller.slot.at for caller in world.waiting), default=float("inf"))
        if coming and coming[-1][0] < due:
            at, _, priority = coming.pop()
            world.slow = max(world.slow, at)
            world.arrive(priority, 1e9)
            continue
        world.slow = max(world.slow, due)
        for caller in [each for each in world.waiting if each.slot.at <= world.slow]:
            if caller in world.waiting:
                come(caller)
        assert world.lawful()
    return went


def scheduled(rates: Sequence[str], arrivals: Sequence[float]) -> list[float]:
    """Return when calls go at the earliest, first come, first served: an exact sliding log."""
    went: list[float] = []
    for at in sorted(arrivals):
        free = [at, *went[-1:]]
        for rate in map(Rate.parse, rates):
            free += [went[-rate.requests] + rate.window] if len(went) >= rate.requests else []
        went.append(max(free))
    return went


times = st.lists(st.integers(0, 640).map(lambda ticks: ticks * TICK), min_size=1, max_size=90)


@settings(max_examples=150)
@given(rates=st.sampled_from(RATES[:4]), arrivals=times)
def test_no_call_waits_longer_than_the_law_asks(
    rates: Sequence[str], arrivals: list[float]
) -> None:
    """To the last bit, as long as a window has 64 calls at most; and everybody looks once more."""
    world = World(rates)
    start = world.slow
    played(world, [(at, "normal") for at in arrivals])
    went = scheduled(rates, [start + at for at in arrivals])
    assert world.went == went
    late = sum(after > start + at for after, at in zip(went, sorted(arrivals), strict=True))
    assert world.asks == len(arrivals) + late


@pytest.mark.parametrize("rate", ["200/8s", "100/60s", "1000/10s"])
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_many_calls_in_a_window_are_late_by_parts_of_it_only(rate: str, spread: float) -> None:
    """More than 64 are merged: whoever comes at twice the rate goes within 1/32 of the window."""
    (parsed,) = Policy(rates=[rate]).rates
    assert isinstance(parsed, Rate)
    chance = Random(rate)
    every = spread * parsed.window / parsed.requests
    arrivals = [each * every + every * chance.random() for each in range(4 * parsed.requests)]
    world = World([rate])
    start = world.slow
    played(world, [(at, "normal") for at in arrivals])
    went = scheduled([rate], [start + at for at in arrivals])
    late = max(mine - least for mine, least in zip(world.went, went, strict=True))
    assert late <= 2.25 * parsed.window / EXACT
    assert world.asks <= 2 * len(arrivals)


def test_a_full_burst_goes_at_once_and_no_second_one() -> None:
    """Unlike GCRA, which lets the count go again while the window is still full of it."""
    world = World(["100/60s"])
    assert [world.arrive("normal", 0.0) for _ in range(100)] == [None] * 100
    refused = world.arrive("normal", 0.0)
    assert refused is not None
    assert (refused.delay, refused.reason, refused.facts.meter) == (60.0, "the rate 100/60s", "a")
    world.slow += 59.75
    assert world.check().delay == 0.25
    world.slow += 0.25
    assert [world.arrive("normal", 0.0) for _ in range(100)] == [None] * 100
    assert world.arrive("normal", 0.0) is not None


def test_who_comes_first_goes_first_even_when_somebody_leaves() -> None:
    """A place that is given back is for those who wait, in order, and not for a newcomer."""
    world = World(["1/4s"])
    world.arrive("normal", 0.0)
    for _ in range(4):
        world.arrive("normal", 1e9)
    first, second, third, fourth = world.waiting
    assert [each.slot.at - 1_024.0 for each in world.waiting] == [4.0, 8.0, 12.0, 16.0]
    world.leave(second)
    late = world.arrive("normal", 0.0)
    assert late is not None
    assert late.delay == 20.0
    for caller, at in ((first, 4.0), (third, 8.0), (fourth, 12.0)):
        world.slow = 1_024.0 + at
        assert world.come(caller) is None


def test_the_last_to_wait_who_leaves_leaves_nothing_behind() -> None:
    """Nobody waits for a place that is nobody's."""
    world = World(["1/4s"])
    world.arrive("normal", 0.0)
    for _ in range(50):
        world.arrive("normal", 1e9)
    for caller in reversed(world.waiting.copy()):
        world.leave(caller)
    assert world.check().delay == 4.0


def test_better_priorities_pass_those_who_wait() -> None:
    """They take the next place; the others find that out when they come, and stay in order."""
    world = World(["1/4s"])
    world.arrive("batch", 0.0)
    for priority in ("batch", "batch", "normal", "critical"):
        world.arrive(priority, 1e9)
    order = [(caller.priority, caller.slot.number) for _, caller in played(world, [])]
    assert order == [("critical", 4), ("normal", 3), ("batch", 1), ("batch", 2)]
    assert [at - 1_024.0 for at in world.went] == [0.0, 4.0, 8.0, 12.0, 16.0]


@pytest.mark.parametrize("rate", ["1/1s", "3/1s", "10/1s"])
def test_priorities_are_in_order_whatever_the_crowd(rate: str) -> None:
    """Hundreds wait, more than the books keep one by one: nothing is lost, no herd looks."""
    world = World([rate])
    chance = Random(5)
    arrivals = [(chance.random(), chance.choice(PRIORITIES)) for _ in range(600)]
    went = played(world, arrivals, passing=True)
    assert len(world.went) == 600
    least = scheduled([rate], [world.went[0]] * 600)
    assert world.went[-1] <= least[-1] + 1.0
    assert world.asks <= 4 * 600
    for priority in PRIORITIES:
        numbers = [(at, caller.slot.number) for at, caller in went if caller.priority == priority]
        assert numbers == sorted(numbers, key=lambda one: one[1])
    assert not world.books.rates.promises


def test_a_place_whose_owner_does_not_come_goes_to_others() -> None:
    """A second later, not sooner: the owner may only be slow."""
    world = World(["1/4s"])
    world.arrive("normal", 0.0)
    world.arrive("normal", 1e9)
    (lost,) = world.waiting
    world.slow += 4.0 + LAPSE
    late = world.check("normal")
    assert late.delay == 4.0
    world.slow += TICK
    assert isinstance(world.check("normal"), Granted)
    assert world.come(lost) is None, "and the owner who comes after all is the first of all"


def test_one_who_comes_late_is_waited_for() -> None:
    """The request counts from when it went; the next keeps its distance to that."""
    world = World(["1/4s"])
    world.arrive("normal", 0.0)
    world.arrive("normal", 1e9)
    world.arrive("normal", 1e9)
    first, second = world.waiting
    world.slow += 4.5
    assert world.come(first) is None
    world.slow = second.slot.at
    late = world.come(second)
    assert late is not None
    assert late.delay == 0.5
    world.slow += 0.5
    assert world.come(world.waiting[0]) is None


def test_a_wait_shorter_than_the_clock_can_tell_ends() -> None:
    """A waiter whose clock rounds must move on: its delay is a microsecond at least."""
    world = World(["1/4s"])
    world.arrive("normal", 0.0)
    world.arrive("normal", 1e9)
    world.slow = world.waiting[0].slot.at - 1e-12
    late = world.come(world.waiting[0])
    assert late is not None
    assert late.delay == 1e-6


def test_suspend_ends_no_window() -> None:
    """The clock that stops ends it late, by a window at most; the other one would be early."""
    world = World(["1/4s"])
    world.arrive("normal", 0.0)
    world.ahead += 3600.0
    assert world.check().delay == 4.0


def test_a_clock_that_starts_again_costs_a_window() -> None:
    """After a reboot nobody waits, and what went is as young as it can be."""
    world = World(["2/4s"])
    world.arrive("normal", 0.0)
    world.slow += 1.0
    world.arrive("normal", 0.0)
    world.arrive("normal", 1e9)
    world.slow = 16.0
    world.books.rates.restart(world.slow)
    assert world.check().delay == 4.0
    world.slow += 4.0
    world.went.clear()
    assert [world.arrive("normal", 0.0) for _ in range(2)] == [None, None]
    assert world.check().delay == 4.0


def test_a_pause_and_a_rate_are_waited_for_together() -> None:
    """Places are handed out from the end of the pause on, and the reason is what is longer."""
    world = World(["2/4s"])
    world.post(Pause(10.0))
    told = [world.arrive("normal", 1e9) for _ in range(5)]
    assert [(each.delay, each.reason) for each in told if each is not None] == [
        (10.0, "the provider asked for a pause"),
        (10.0, "the provider asked for a pause"),
        (14.0, "the rate 2/4s"),
        (14.0, "the rate 2/4s"),
        (18.0, "the rate 2/4s"),
    ]
    played(world, [])
    assert [at - 1_024.0 for at in world.went] == [10.0, 10.0, 14.0, 14.0, 18.0]


def test_a_short_pause_is_passed_by_courtesy_but_no_rate_is() -> None:
    """A call that waits for nothing may go into a pause of a second, not past a count."""
    world = World(["2/4s"])
    world.post(Pause(0.5))
    assert world.arrive("normal", 0.0) is None
    assert world.arrive("normal", 0.0) is None
    refused = world.arrive("normal", 0.0)
    assert refused is not None
    assert refused.reason == "the rate 2/4s"


def test_a_request_that_replaces_one_is_not_counted_twice() -> None:
    """It goes although the window is full of it and others; and it counts from now on."""
    world = World(["2/4s"])
    world.arrive("normal", 0.0)
    outer = world.slow
    world.slow += 1.0
    world.arrive("normal", 0.0)
    world.slow += 1.0
    assert world.arrive("normal", 0.0, moved=outer) is None
    assert world.check().delay == 3.0
    world.slow += 10.0
    world.arrive("normal", 0.0)
    outer = world.slow
    world.slow += 5.0
    world.arrive("normal", 0.0)
    world.arrive("normal", 0.0)
    late = world.arrive("normal", 0.0, moved=outer)
    assert late is not None, "it was counted longer ago than the window"


# -- what would break it ------------------------------------------------------


class _Logs(RateBooks):
    """Rate books whose logs are broken ones."""

    __slots__ = ()
    log: type[RateLog] = RateLog

    def begin(self, terms: RateTerms, slow: float) -> None:
        super().begin(terms, slow)
        for log in self.logs.values():
            log.__class__ = self.log


class _ForgetsEarly(RateLog):
    __slots__ = ()

    def forget(self, slow: float) -> None:
        super().forget(slow + TICK)


class ForgetsEarly(_Logs):
    """A request leaves its window a tick of the clock before its end."""

    __slots__ = ()
    log = _ForgetsEarly


class _StampsEarly(RateLog):
    __slots__ = ()

    def add(self, slow: float) -> None:
        before = self.entries[-1:]
        super().add(slow)
        if before and self.entries[-1][1] > 1:
            self.entries[-1] = (before[0][0], self.entries[-1][1])


class StampsEarly(_Logs):
    """Requests that are merged keep the earlier stamp."""

    __slots__ = ()
    log = _StampsEarly


class _CountsOneLess(RateLog):
    __slots__ = ()

    def free(
        self, ahead: Sequence[tuple[float, int]], slow: float, moved: float | None = None
    ) -> float:
        self.total -= 1
        try:
            return super().free(ahead, slow, moved)
        finally:
            self.total += 1


class CountsOneLess(_Logs):
    """The request that asks is forgotten: one too many goes."""

    __slots__ = ()
    log = _CountsOneLess


class _RemovesTheNewest(RateLog):
    __slots__ = ()

    def remove(self, at: float, slow: float) -> None:
        super().remove(self.entries[-1][0] if self.entries else at, slow)


class RemovesTheNewest(_Logs):
    """A request that is replaced takes another one's entry with it."""

    __slots__ = ()
    log = _RemovesTheNewest


class TrustsPromises(RateBooks):
    """Who comes for its place goes, whatever went late meanwhile."""

    __slots__ = ()

    def place(
        self, behind: float, slow: float, start: float, slot: RateSlot | None = None, *given: Any
    ) -> tuple[RateSlot, str]:
        if slot is not None and slot.at <= start:
            return slot, ""
        return super().place(behind, slow, start, slot, *given)


class LogsPromises(RateBooks):
    """A request that was promised counts from when it should have gone."""

    __slots__ = ("due",)
    due: float

    def place(self, *given: Any) -> tuple[RateSlot, str]:
        slot, why = super().place(*given)
        self.due = given[3].at if given[3:] and given[3] is not None else slot.at
        return slot, why

    def enter(self, slow: float, moved: float | None = None) -> None:
        super().enter(min(slow, self.due), moved)


class ForgetsReplaced(RateBooks):
    """A request that replaces another is not entered at all."""

    __slots__ = ()

    def enter(self, slow: float, moved: float | None = None) -> None:
        if moved is None:
            super().enter(slow)


class Refills(_Logs):
    """A leaky count instead of a log: a full burst, and a second one before the window ends."""

    __slots__ = ()

    def begin(self, terms: RateTerms, slow: float) -> None:
        super().begin(terms, slow)
        for log in self.logs.values():
            every = log.rate.window / log.rate.requests
            while log.entries and log.entries[0][0] + every <= slow:
                log.remove(log.entries[0][0], log.entries[0][0])


MUTANTS = (
    ForgetsEarly,
    StampsEarly,
    CountsOneLess,
    RemovesTheNewest,
    TrustsPromises,
    LogsPromises,
    ForgetsReplaced,
    Refills,
)


def wander(make: Callable[[], RateBooks], seed: int) -> bool:
    """Return whether a random history under these books keeps the law."""
    chance = Random(seed)
    if seed % 4:
        world = World(chance.choice(RATES), make=make)
        return all(happened(world, chance) for _ in range(60))
    # A few calls with every tick of the clock: the logs must merge.
    world = World(["200/4s"], make=make)
    for _ in range(600):
        for _ in range(chance.choice((0, 1, 2, 2))):
            world.arrive("normal", 0.0)
        world.slow += TICK
    return world.lawful()


def happened(world: World, chance: Random) -> bool:
    """Let something happen; return whether the law is kept."""
    match chance.randrange(8):
        case 0 | 1 | 2:
            for _ in range(chance.choice((1, 2, 5, 40))):
                world.arrive(chance.choice(PRIORITIES), chance.choice((0.0, 8.0, 1e9)))
        case 3 | 4 if world.waiting:
            due = min(caller.slot.at for caller in world.waiting)
            world.slow = max(world.slow, due) + chance.randrange(3) * TICK
            for caller in [each for each in world.waiting if each.slot.at <= world.slow]:
                world.come(caller)
        case 5 if world.went and all(each.moved is None for each in world.waiting):
            world.arrive("normal", 0.0, chance.choice(world.went[-8:]))
        case 6 if world.waiting:
            world.leave(chance.choice(world.waiting))
        case _:
            world.slow += chance.choice((1, 3, 16, 64, 128)) * TICK
    return world.lawful()


HISTORIES = 120


@pytest.mark.parametrize("broken", MUTANTS, ids=lambda broken: broken.__name__)
def test_broken_books_are_found_out(
    broken: type[RateBooks], seed: int, record_property: Callable[[str, object], None]
) -> None:
    """A law that nothing could break proves nothing."""
    for number in range(HISTORIES):
        if not wander(broken, seed + number):
            record_property("killed", f"{broken.__name__} after {number + 1} histories")
            return
    pytest.fail(f"{broken.__name__} lives: {broken.__doc__}")


def test_the_real_books_live_through_the_same_histories(seed: int) -> None:
    """What finds the broken ones out finds nothing wrong with those that are shipped."""
    assert all(wander(RateBooks, seed + number) for number in range(HISTORIES))


# -- in simulated time --------------------------------------------------------


def test_the_simulator_paces_too() -> None:
    """The shipped stories, lines and lanes under a rate: the law, the order, nothing lost."""
    went: list[tuple[float, str]] = []
    vendor = SimulatedProvider({"a": 10_000}, lag=1)
    policy = Policy(rates=["20/60s", "2/s"], max_wait=3_600, cold_reserve=0, lag=1, late=1)
    chance = Random(11)
    simulator = Simulator(
        vendor,
        policy,
        watch=lambda what, call, _: (
            went.append((simulator.clock.slow(), call.priority))
            if what == "granted" and call
            else None
        ),
    )
    calls = [
        SimulatedCall(at, {"a": chance.randint(0, 3)}, chance.choice(PRIORITIES), takes=0.25)
        for at in sorted(chance.randrange(600 * 16) / 16 for _ in range(400))
    ]
    figures = simulator.run(calls)
    assert (figures.sent, figures.refused, figures.overshoot) == (400, 0, 0)
    for rate in map(Rate.parse, ("20/60s", "2/s")):
        pairs = zip(went, went[rate.requests :], strict=False)
        assert all(later >= first + rate.window for (first, _), (later, _) in pairs)
    assert went[-1][0] - went[0][0] <= 400 / 20 * 60
