"""Random interleavings: small histories through the real stories, and the laws they keep.

The laws are those of the books by their numbers: I1 no admission past the limit,
I2 the gate is above the truth, I3 and I4 no overshoot, I5 foreign spend bounds it,
I6 silence heals, I7 the sums agree, I9 all or nothing, I13 the lines, I15 the polls'
budget. A failure prints the line that plays its history again:

    python tests/quota/test_histories.py plain 0 1234
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from quotaguard import CostTooLarge, Policy, QuotaExhausted, QuotaUnknown, WaitTooLong
from quotaguard.errors import Refusal
from quotaguard.quota.account import Terms
from quotaguard.quota.allotment import Allotment, Tally
from quotaguard.quota.decide import judge
from quotaguard.quota.entries import Touch
from quotaguard.quota.lines import line, share_left
from quotaguard.quota.readings import Moment
from quotaguard.spending import terms_of
from quotaguard.testing.simulated import SimulatedCall, SimulatedProvider
from quotaguard.testing.simulator import Simulator

TICK = 1 / 16
"""All times are sums of it: they are exact, and they meet in ties."""

PERIOD = 64.0

LINES_SLACK = {"critical": 1.0, "normal": 0.8, "batch": 0.5}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a variant gives its histories."""

    policy: dict[str, Any] = field(default_factory=dict)
    meters: int = 1
    beyond: bool = False  # the provider lags more than the policy believes
    lines: bool = False
    foreign: bool = False
    refund: bool = False
    period: bool = False
    restart: bool = False
    fails: bool = False


VARIANTS = {
    "plain": Setting(),
    "lines": Setting(lines=True),
    "exclusive": Setting({"exclusive": True}),
    "failing": Setting(fails=True),
    "foreign": Setting(foreign=True),
    "refund": Setting(refund=True),
    "beyond": Setting(beyond=True),
    "period": Setting(period=True),
    "restart": Setting({"cold_reserve": 1.0}, restart=True),
    "meters": Setting(meters=3),
    "lines of meters": Setting(meters=2, lines=True),
}
NAMES = ("a", "b", "c")


def policies(setting: Setting, chance: Random) -> list[tuple[Policy, Terms]]:
    """Return the policies of a variant: building one costs as much as a history."""
    made = []
    for _ in range(48):
        settings: dict[str, Any] = {
            "lag": chance.choice((0, 0.25, 1, 2, 4)),
            "late": chance.choice((0, 0.5, 1, 3, 6)),
            "poll_every": (chance.choice((0.5, 1, 2)), chance.choice((2, 5, 20))),
            "poll_budget": chance.choice((120, 1200, 3600)),
            "on_exhausted": chance.choice(("raise", "raise", "wait")),
            "max_wait": chance.choice((0, 1, 4, 12)),
            "cold_reserve": 0,
            **setting.policy,
        }
        if setting.meters > 1:
            own = Policy(lag=chance.choice((0, 3)), late=settings["late"], margin=1, cold_reserve=0)
            settings["meters"] = {NAMES[1]: own}
        policy = Policy(**settings)
        provider: Any = SimulatedProvider(dict.fromkeys(NAMES[: setting.meters], 1))
        made.append((policy, terms_of(provider, policy)))
    return made


class Laws:
    """Watches one history."""

    def __init__(self, setting: Setting, simulator: Simulator, terms: Terms) -> None:
        self.setting = setting
        self.simulator = simulator
        self.terms = terms
        self.open: Counter[str] = Counter()
        self.lowest: dict[str, tuple[int, int]] = {}
        self.refunded = False
        self.hidden: dict[str, int] | None = None
        self.seen: dict[str, int] = {}
        self.waking = False

    def __call__(self, what: str, call: SimulatedCall | None, refusal: Refusal | None) -> None:
        if what == "granted":
            assert call is not None
            self.open.update(call.cost)
            self._patient(call)
            self._admitted(call)
        elif what == "ended":
            assert call is not None
            if call.answered or call.unsent:
                self.open.subtract(call.cost)
        elif what == "refused":
            assert call is not None
            assert refusal is not None
            self._patient(call)
            self._refused(call, refusal)
        elif self.hidden is not None:
            for name, meter in self.simulator.books.meters.items():
                if meter.read:
                    self.seen.setdefault(name, meter.used + meter.cold)
        self._sums()
        self._sound()
        if self.waking:
            # A moment later: whom the news concerns, wakes at the same instant.
            self.simulator.at(self.simulator.elapsed + TICK / 1024, self.awake)

    def gate(self, name: str) -> int:
        """Return the gate of a meter with what its holder has not reported yet, no margin."""
        simulator = self.simulator
        meter, holder = simulator.books.meters[name], simulator.holder
        purse = holder.allotment.purses.get(name)
        if purse is None:
            return meter.known() + meter.held
        told = simulator.books.holders[holder.name][name]
        spent = meter.spent + purse.spent - told.spent
        known = meter.base + spent
        if meter.floor is not None:
            known = max(known, meter.floor + spent - meter.unknown - purse.unknown + told.unknown)
        return known + purse.opened

    def _admitted(self, call: SimulatedCall) -> None:
        """I1: no admission leaves the gate past the limit; I13: nor below its line."""
        now, books = self.simulator.clock.now(), self.simulator.books
        for name, count in call.cost.items():
            meter = books.meters[name]
            if not count or meter.limit is None:
                continue
            gate = self.gate(name) + meter.margin(now.fast, self.terms.meters[name])
            gate += meter.cold if books.cold else 0
            slack = LINES_SLACK[call.priority]
            kept = line(slack, share_left(books.period, now.wall + 1e-5), meter.limit)
            assert gate + kept <= meter.limit, ("I1 I13", name, gate, kept, meter.limit)

    def _patient(self, call: SimulatedCall) -> None:
        """Nobody waits beyond max_wait; polls that a caller makes itself come on top."""
        own = call.max_wait
        longest: Any = self.simulator.policy.max_wait if own is None else own
        longest = max(longest, 5.0)
        assert self.simulator.slept <= longest + 1e-6, ("max_wait", self.simulator.slept)

    def _refused(self, call: SimulatedCall, refusal: Refusal) -> None:
        """Goal 2: a call is refused only for want of room; for good only if that is proven."""
        name, provider = refusal.facts.meter, self.simulator.provider
        meter = self.simulator.books.meters[name]
        now, mine = self.simulator.clock.now(), self.terms.meters[name]
        if isinstance(refusal, QuotaUnknown):
            assert self.setting.fails or not meter.read, ("known", refusal)
            return
        assert meter.limit is not None
        count = call.cost[name]
        gate = self.gate(name) + meter.margin(now.fast, mine)
        gate += meter.cold if self.simulator.books.cold else 0
        if isinstance(refusal, CostTooLarge):
            assert count > meter.limit > 0
        elif isinstance(refusal, WaitTooLong) and refusal.facts.held_for is not None:
            slack = LINES_SLACK[call.priority]
            assert slack < 1.0, ("I13 critical waits for the limit alone", refusal)
            kept = line(slack, share_left(self.simulator.books.period, now.wall), meter.limit)
            waiting = self.waiting(name, call.priority)
            assert waiting or gate + kept + count > meter.limit, ("line", name, gate, kept, count)
        else:
            assert isinstance(refusal, QuotaExhausted | WaitTooLong)
            assert gate + count > meter.limit, ("room", name, gate, count, meter.limit)
        true = provider.used(name, self.simulator.elapsed) + self.simulator.coming[name]
        told = self.simulator.books.period == provider.period
        final = refusal.facts.retry_after is None and refusal.facts.held_for is None
        if final and told and not self.refunded:
            margin = meter.margin(meter.asked_fast, mine)
            assert true + margin + count > meter.limit, ("proven room", name, true, count)

    def waiting(self, name: str, priority: str) -> bool:
        """Return whether others of this priority wait for this meter."""
        line: Any = self.simulator.holder.queue
        calls = [waiter._visit.call for _, waiter in line._callers.values() if waiter is not None]
        return any(name in call.cost and call.priority == priority for call in calls)

    def _sums(self) -> None:
        """I7: what is held is what is open; what was spent does not fall. I9 follows."""
        holder, books = self.simulator.holder, self.simulator.books
        lost: Counter[str] = Counter()
        for _, cost in holder.allotment.lapses:
            lost.update(cost)
        for name, purse in holder.allotment.purses.items():
            # A lost call is in `open` until it lapses, which is later than `ended`.
            assert purse.opened == self.open[name] - self.lapsed(name), ("I7", name)
            meter = books.meters.get(name)
            if meter is not None:
                spent, unknown = self.lowest.get(name, (0, 0))
                assert meter.spent >= spent, ("I7 spent", name)
                assert meter.unknown >= unknown or self.setting.period, ("I7 unknown", name)
                self.lowest[name] = meter.spent, meter.unknown
        assert all(count >= 0 for count in lost.values())

    def lapsed(self, name: str) -> int:
        """Return the units of lost calls that were counted as spent since."""
        purse = self.simulator.holder.allotment.purses[name]
        return purse.unknown

    def _sound(self) -> None:
        """I2: the gate is above all that is and will be charged, but for unseen foreign units."""
        simulator = self.simulator
        at, provider = simulator.elapsed, simulator.provider
        for name, meter in simulator.books.meters.items():
            if not meter.read:
                continue
            true = provider.used(name, at) + simulator.coming[name]
            if self.setting.foreign:
                since = meter.asked - simulator.clock.now().slow + at - self.terms.meters[name].lag
                true -= provider._others(at) - provider._others(since - 1e-6)
            if self.setting.restart and self.hidden is not None:
                true -= self.hidden[name]
            assert self.gate(name) >= true, ("I2", name, self.gate(name), true)

    def awake(self) -> None:
        """Goal 2: the first in line for its meters does not sleep while its call would go."""
        holder, now = self.simulator.holder, self.simulator.clock.now()
        line: Any = holder.queue
        first: dict[frozenset[str], SimulatedCall] = {}
        for place in line.busy:
            meters, waiter = line._callers[place]
            if waiter is not None:
                first.setdefault(meters, waiter._visit.call)
        # Who polls has stepped out of the line and comes back with news for all of it. And
        # a lost call that lapses, which may give back a little, wakes nobody.
        lost = holder.allotment.lapses or any(m.unknown for m in holder.books.meters.values())
        if not first or lost or holder.books.polls.pending(now):
            return
        books = holder.books.copy()
        books.post(holder.name, reported(holder.allotment, now), Touch(), now, self.terms)
        for call in first.values():
            verdict = judge(books, call.cost, call.priority, now, self.terms)
            assert verdict is not None, ("asleep", call)

    def crashed(self) -> None:
        """Remember what the next process cannot know."""
        simulator = self.simulator
        self.open.clear()
        self.lowest.clear()
        provider = simulator.provider
        self.hidden = {
            name: provider.used(name, simulator.elapsed) + simulator.coming[name]
            for name in provider.meters
        }


def reported(allotment: Allotment, now: Moment) -> dict[str, Tally]:
    """Return what a holder would report now, without reporting it."""
    lapsed: Counter[str] = Counter()
    for until, cost in allotment.lapses:
        if until <= now.slow:
            lapsed.update(cost)
    told = {}
    for name, purse in allotment.purses.items():
        gone = lapsed[name]
        cleared = purse.drawn - purse.opened + gone
        told[name] = Tally(purse.drawn, cleared, purse.spent + gone, purse.unknown + gone)
    return told


def arrivals(setting: Setting, policy: Policy, chance: Random) -> list[SimulatedCall]:
    """Return the calls of one history, in order."""
    calls = []
    random, choice = chance.random, chance.choice
    at = PERIOD - choice((1, 4, 8)) if setting.period else 0.0
    names = NAMES[: setting.meters]
    late = int(float(policy.late) / TICK)  # type: ignore[arg-type] # a Policy holds seconds
    for _ in range(chance.randint(3, 8)):
        at += int(random() ** 2 * 48) * TICK
        cost = {name: chance.randint(1, 4) for name in names if random() < 0.7}
        cost = cost or {names[0]: choice((0, 1, 2, 9))}
        takes = choice((0, 1, 4, 16, 48)) * TICK
        fate, actual, after = random(), dict(cost), None
        if fate < 0.25:
            actual = {name: chance.randint(0, count) for name, count in cost.items()}
        lost = 0.6 < fate < 0.85 and not setting.beyond
        if lost:
            actual = actual if random() < 0.5 else {}
            after = chance.randint(0, int(takes / TICK) + late) * TICK
        elif takes:
            after = chance.randint(0, int(takes / TICK)) * TICK
        if setting.restart and after is not None:
            # A2: when a process dies, what it sent is charged within `late`, or never.
            after = min(after, late * TICK)
        calls.append(
            SimulatedCall(
                at,
                cost,
                choice(("critical", "critical", "normal", "batch")),
                choice((None, None, 0.0, 2.0, 20.0)),
                takes,
                actual,
                answered=not lost,
                charged_after=after,
                unsent=fate >= 0.92,
            )
        )
    return calls


def vendor(setting: Setting, policy: Policy, chance: Random) -> SimulatedProvider:
    """Return the provider of one history."""
    names = NAMES[: setting.meters]
    limits: dict[str, int | None] = {name: chance.randint(4, 24) for name in names}
    used = {name: chance.randint(0, 4) for name in names}
    lag = min(float(policy.of(name).lag) for name in names)  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    if setting.lines:
        limits = {name: chance.randint(40, 400) for name in names}
        used = {name: int((limit or 0) * chance.random()) for name, limit in limits.items()}
        settings["period"] = 4096.0
        if chance.random() < 0.5:
            settings["period"] = 256.0
    if setting.meters > 2:
        limits[names[2]] = chance.choice((None, None, 0, 12))
    if setting.beyond:
        lag += chance.choice((3, 10, 40))
    if setting.foreign:
        settings["foreign"] = chance.choice((0.125, 0.5, 1.0, 2.0))
        settings["burst"] = chance.choice((1.0, 4.0))
        settings["cycle"] = chance.choice((4.0, 16.0))
    if setting.period:
        settings["period"] = PERIOD
        settings["shift"] = float(chance.randint(-4, 4))
        # A1 for periods: within the lag the answers turn too.
        settings["stale"] = chance.choice((0.0, lag / 2.0, lag))
    if setting.fails:
        settings["fails"] = 0.3
    return SimulatedProvider(
        limits,
        used=used,
        lag=lag,
        scattered=chance.random() < 0.5,
        takes=chance.choice((0.0, 0.0, 0.5, 2.0)),
        seed=chance.randrange(1 << 30),
        **settings,
    )


Pool = list[tuple[Policy, Terms]]


def play(variant: str, seed: int, number: int, pool: Pool, counts: Counter[str]) -> Laws:
    """Play one history to its end, and hold it against the laws."""
    setting = VARIANTS[variant]
    chance = Random(f"{variant}/{seed}/{number}")
    policy, terms = pool[chance.randrange(len(pool))]
    provider = vendor(setting, policy, chance)
    simulator = Simulator(provider, policy, seed=chance.randrange(1 << 30), terms=terms)
    laws = simulator.watch = Laws(setting, simulator, terms)
    laws.waking = number % 4 == 0
    calls = arrivals(setting, policy, chance)
    happenings(setting, simulator, laws, chance, calls[-1].at)
    for call in calls:
        simulator.call(call)
    figures = simulator.run()
    assert setting.restart or figures.calls == figures.sent + figures.refused, "a lost caller"
    counts.update(calls=figures.calls, sent=figures.sent, refused=figures.refused)
    counts.update(delayed=figures.delayed, polls=figures.polls, overshoot=figures.overshoot)
    counts.update(figures.refusals)
    budget(simulator, terms)
    bounded(setting, laws, figures.overshoot)
    heals(laws, terms)
    return laws


def happenings(
    setting: Setting, simulator: Simulator, laws: Laws, chance: Random, last: float
) -> None:
    """Schedule what happens besides calls."""
    if setting.refund:

        def refund() -> None:
            used = simulator.provider.used("a", simulator.elapsed)
            laws.refunded = True
            simulator.provider.refund("a", min(used, chance.randint(1, 4)), simulator.elapsed)

        simulator.at(chance.random() * last, refund)
    if setting.restart:

        def crash() -> None:
            simulator.crash()
            laws.crashed()

        simulator.at(int(chance.random() * last / TICK) * TICK, crash)


def budget(simulator: Simulator, terms: Terms) -> None:
    """I15: polls never exceed their budget, whatever comes."""
    if simulator.process:
        return
    polls, rate = simulator.polled, terms.polls.per_hour / 3600.0
    for index, first in enumerate(polls):
        most = terms.polls.burst + (polls[-1] - first) * rate + 1e-6
        assert len(polls) - index <= most, ("I15", polls)


def bounded(setting: Setting, laws: Laws, overshoot: int) -> None:
    """I3, I4: no overshoot; with others (I5) or a dead predecessor it has a bound."""
    if setting.foreign:
        return
    unseen = 0
    if laws.hidden is not None:
        # What a predecessor spent unseen is what the cold reserve is for.
        unseen = sum(max(0, laws.hidden[name] - seen) for name, seen in laws.seen.items())
    assert overshoot <= unseen, ("I3", overshoot, unseen)


def heals(laws: Laws, terms: Terms) -> None:
    """I6: after silence of G + D and one poll the gate is the truth."""
    simulator, setting = laws.simulator, laws.setting
    provider = simulator.provider
    if setting.period:
        simulator.run(until=max(simulator.elapsed, PERIOD) + 16.0)
    if setting.fails:
        provider._fails = 0.0
    late = max(mine.late for mine in terms.meters.values())
    lag = max(mine.settled for mine in terms.meters.values())
    simulator.run(until=simulator.elapsed + late + TICK)
    simulator.spending.post(Touch())
    for name, meter in simulator.books.meters.items():
        assert meter.held == 0, ("I7 held", name, meter.held)
    simulator.run(until=simulator.elapsed + max(lag, provider.lag))
    simulator.poll()
    simulator.run()
    if setting.refund:
        for _ in range(2):
            simulator.run(until=simulator.elapsed + 900.0 + lag)
            simulator.poll()
            simulator.run()
    for name, meter in simulator.books.meters.items():
        true = provider.used(name, simulator.elapsed)
        if setting.foreign:
            assert meter.used <= meter.known() <= true, ("I6", name, meter.known(), true)
        else:
            assert meter.known() == true, ("I6", name, meter.known(), true)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("variant", VARIANTS)
def test_histories_keep_the_laws(
    variant: str, histories: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Whatever the interleaving: no overshoot, exact sums, healing, and no needless refusal."""
    counts: Counter[str] = Counter()
    pool = policies(VARIANTS[variant], Random(f"{variant}/{seed}"))
    for number in range(histories // len(VARIANTS)):
        try:
            play(variant, seed, number, pool, counts)
        except Exception as error:  # noqa: BLE001 - whatever it was, its history is told
            again = f"python tests/quota/test_histories.py {variant} {seed} {number}"
            pytest.fail(f"{again}\n{type(error).__name__}: {error}")
        counts["histories"] += 1
    record_property("figures", dict(counts))


if __name__ == "__main__":
    kind, seeded, which = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    play(kind, seeded, which, policies(VARIANTS[kind], Random(f"{kind}/{seeded}")), Counter())
