"""Q: what becomes of a month's quota under each strategy. No time is measured here.

One account of 10,000 calls for 30 days; the provider serves and bills what is past it.
Our application makes single calls all the time, and now and then imports some 150 of them
at two a second. Somebody else spends 20 to 40 % of the quota without telling us, half of
that in a batch at two every night. The stats show a call a minute late. Everything follows
from the seed.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from timing import Scale, Section

from quotaguard import Policy
from quotaguard.testing import SimulatedCall, SimulatedProvider, Simulator

QUOTA = 10_000
HOUR = 3_600.0
DAY = 24 * HOUR
MONTH = 30 * DAY
LAG = 60.0
IMPORT = 150

SELDOM = Policy(poll_budget=(720, timedelta(days=30)), max_age=timedelta(hours=3))


@dataclass(frozen=True, slots=True)
class Demand:
    """How much we want in a month: calls that come singly, and imports."""

    name: str
    singles: int
    imports: int


EXCEEDS = Demand("some 11,000 calls wanted, and others spend some 3,000", 5_000, 40)
FITS = Demand("some 5,500 calls wanted, and others spend some 3,000", 2_500, 20)


def _often(chance: Random, count: int) -> list[float]:
    """Return times in the month that come by chance, *count* of them on average."""
    at, times = 0.0, []
    while (at := at + chance.expovariate(count / MONTH)) < MONTH:
        times.append(at)
    return times


def _wanted(chance: Random, demand: Demand) -> list[float]:
    """Return the times of our calls."""
    times = _often(chance, demand.singles)
    for at in _often(chance, demand.imports):
        last = at
        for _ in range(int(chance.expovariate(1.0 / IMPORT)) + 1):
            times.append(last)
            last += chance.expovariate(2.0)
    return sorted(at for at in times if at < MONTH)


def _others(chance: Random) -> list[float]:
    """Return the times of somebody else's calls."""
    half = int(QUOTA * chance.uniform(0.2, 0.4)) // 2
    nightly = [number * 30 // half * DAY + 2 * HOUR for number in range(half)]
    batches = [at + number - bisect_left(nightly, at) for number, at in enumerate(nightly)]
    return sorted([chance.uniform(0.0, MONTH) for _ in range(half)] + batches)


class Account(SimulatedProvider):
    """The account, of which others spend at the times that are given."""

    def __init__(self, others: Sequence[float]) -> None:
        super().__init__({"calls": QUOTA}, lag=LAG, period=MONTH)
        self._theirs = others

    def _others(self, at: float) -> int:
        return bisect_left(self._theirs, at)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one month: *past* are our calls past the quota."""

    past: int
    sent: int
    refused: int
    polls: int


class Strategy:
    """Says of each call whether it goes. This one lets all of them go."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.polls = 0

    def goes(self, at: float) -> bool:
        """Whether a call goes that comes *at* this time."""
        return True

    def went(self, at: float) -> None:
        """Note that it went."""

    def seen(self, at: float) -> int:
        """Return what the stats say was used."""
        return self.account.reading(at).usages["calls"].used


class Counter(Strategy):
    """Counts its own calls and asks nobody."""

    sent = 0

    def goes(self, at: float) -> bool:
        return self.sent < QUOTA

    def went(self, at: float) -> None:
        self.sent += 1


class EveryCall(Strategy):
    """Polls before every call."""

    def goes(self, at: float) -> bool:
        self.polls += 1
        return self.seen(at) < QUOTA


class Timer(Strategy):
    """Polls by a timer, and believes the last answer."""

    every = 300.0

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        self.polls = int(MONTH / self.every)
        self.asked = -1.0
        self.used = 0

    def goes(self, at: float) -> bool:
        last = at // self.every * self.every
        if last != self.asked:
            self.asked, self.used = last, self.seen(last)
        return self.used < QUOTA


class HourlyTimer(Timer):
    """The same, every hour."""

    every = HOUR


class TimerAndCount(Timer):
    """Adds its own calls that the answer cannot contain yet."""

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        self.mine: list[float] = []

    def goes(self, at: float) -> bool:
        super().goes(at)
        unseen = len(self.mine) - bisect_left(self.mine, self.asked - LAG)
        return self.used + unseen < QUOTA

    def went(self, at: float) -> None:
        self.mine.append(at)


class HourlyTimerAndCount(TimerAndCount):
    """The same, every hour."""

    every = HOUR


class Oracle(Strategy):
    """Sees the provider's own count: nobody can."""

    def goes(self, at: float) -> bool:
        return self.account.used("calls", at) < QUOTA


Live = Callable[[Account, Sequence[float], int], Outcome]


def by(kind: type[Strategy]) -> Live:
    """Return how a month goes by a strategy."""

    def live(account: Account, wanted: Sequence[float], _: int) -> Outcome:
        strategy, sent = kind(account), 0
        for at in wanted:
            if strategy.goes(at):
                account.charge("calls", 1, at)
                strategy.went(at)
                sent += 1
        return Outcome(account.overshoot, sent, len(wanted) - sent, strategy.polls)

    return live


def guarded(policy: Policy, priority: str) -> Live:
    """Return how a month goes by quotaguard: the shipped code on simulated time."""

    def live(account: Account, wanted: Sequence[float], seed: int) -> Outcome:
        simulator = Simulator(account, policy, seed=seed)
        calls = (SimulatedCall(at, {"calls": 1}, priority) for at in wanted)
        figures = simulator.run(calls, until=MONTH - 1.0)
        return Outcome(account.overshoot, figures.sent, figures.refused, figures.polls)

    return live


STRATEGIES: dict[str, Live] = {
    "no guard": by(Strategy),
    "a counter of our own": by(Counter),
    "a poll before every call": by(EveryCall),
    "a poll every 5 minutes": by(Timer),
    "a poll every hour": by(HourlyTimer),
    "a poll every 5 minutes, and own calls since": by(TimerAndCount),
    "a poll every hour, and own calls since": by(HourlyTimerAndCount),
    "an oracle that sees the true count": by(Oracle),
    "**quotaguard**, normal calls": guarded(Policy(), "normal"),
    "**quotaguard**, critical calls": guarded(Policy(), "critical"),
    "**quotaguard**, 720 polls a month, normal calls": guarded(SELDOM, "normal"),
    "**quotaguard**, 720 polls a month, critical calls": guarded(SELDOM, "critical"),
    "**quotaguard**, critical calls, margin 1 %": guarded(Policy(margin=0.01), "critical"),
    "**quotaguard**, 720 polls, critical calls, margin 1 %": guarded(
        SELDOM.but(margin=0.01), "critical"
    ),
}


def month(scale: Scale, demand: Demand) -> Section:
    """Q: live the same months by every strategy."""
    rows = []
    lived: dict[str, list[Outcome]] = {name: [] for name in STRATEGIES}
    for seed in range(scale.months):
        chance = Random(f"{demand.name}/{seed}")
        wanted, others = _wanted(chance, demand), _others(chance)
        for name, live in STRATEGIES.items():
            lived[name].append(live(Account(others), wanted, seed))
    for name, outcomes in lived.items():
        past = [outcome.past for outcome in outcomes]
        months = sum(count > 0 for count in past)
        polls = [outcome.polls for outcome in outcomes]
        rows.append(
            (
                name,
                f"{sum(past):,} in {months} of {len(past)}",
                f"{max(past):,}",
                f"{statistics.median(outcome.sent for outcome in outcomes):,.0f}",
                f"{statistics.median(outcome.refused for outcome in outcomes):,.0f}",
                f"{statistics.median(polls):,.0f} / {max(polls):,}",
            )
        )
    notes = (
        f"{scale.months} months; sent, refused: medians. Normal calls leave a share to critical "
        "ones until the period ends, of which there are none here."
    )
    heads = (
        "strategy",
        "our calls past the quota, in so many months",
        "most in one",
        "sent",
        "refused",
        "polls, median / most",
    )
    return Section(f"Q. A month: {demand.name}", heads, rows, notes)
