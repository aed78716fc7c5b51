"""One quota and up to a thousand processes, on a virtual clock, through the shipped code."""

from __future__ import annotations

import bisect
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from quotaguard import Policy
from quotaguard.errors import Refusal
from quotaguard.quota.entries import Touch
from quotaguard.testing import Crowd, SimulatedCall, SimulatedProvider
from quotaguard.testing.crowd import CrowdFigures, CrowdProcess

ZIPF = 1.1
RATE = 500.0
"""Calls a second of all processes together; the first has by far the most of them."""

KNOWN = 45.0
"""Seconds for which the account has been in use when the rush begins."""


def crowded(
    chance: Random, holders: int, count: int, *, rate: float = RATE, wait: float = 0.0
) -> Iterator[tuple[int, SimulatedCall]]:
    """Yield *count* calls in a rush, and a few before it, with the process of each."""
    shares = list(itertools.accumulate((rank + 1) ** -ZIPF for rank in range(holders)))
    for second in range(0, int(KNOWN), 5):
        yield 0, SimulatedCall(second, {"a": 1}, "critical", wait, 0.05)
    at = KNOWN
    for _ in range(count):
        at += chance.expovariate(rate)
        number = bisect.bisect(shares, chance.random() * shares[-1])
        yield number, SimulatedCall(at, {"a": 1}, "critical", wait, 0.05)


class Laws:
    """Holds a crowd against its laws, after every exchange and every call that goes."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.trips = 0
        self.sound = True

    def __call__(
        self, process: CrowdProcess, what: str, call: SimulatedCall | None, refusal: Refusal | None
    ) -> None:
        crowd = self.crowd
        limit = crowd.provider.limit("a") or 0
        if what == "granted":
            used = crowd.provider.used("a", crowd.clock.elapsed) + crowd.coming["a"]
            assert used <= limit, ("sent past the limit", used, limit)
        if crowd.shelf.trips != self.trips:
            self.trips = crowd.shelf.trips
            books = process.books
            meter = books.meters.get("a")
            if meter is not None:
                known = meter.spent - meter.unknown
                assert known <= crowd.provider.charged, ("counted twice", known)
                tallies = [tallies["a"] for tallies in books.holders.values() if tallies]
                held = sum(tally.drawn - tally.cleared for tally in tallies)
                idle = sum(tally.idle for tally in tallies)
                assert (meter.held, meter.idle) == (held, idle), "the sums are not the parts'"
            self.conserved(limit)

    def conserved(self, limit: int) -> None:
        """I12: what was spent, is in flight or may go without asking is at most the limit."""
        crowd = self.crowd
        used = crowd.provider.used("a", crowd.clock.elapsed) + crowd.coming["a"]
        hands = sum(process.in_hand("a") for process in crowd.processes)
        assert used + hands <= limit, ("I12", used, hands, limit)


def rush(
    holders: int,
    quota: int,
    seed: int = 0,
    wait: float = 0.0,
    dies_every: float = math.inf,
    exclusive: int = 1,
) -> CrowdFigures:
    """Return the figures of a rush on *quota*, of half as many calls again."""
    name = f"rush {holders} {quota} {wait} {seed}"
    chance = Random(name)
    provider = SimulatedProvider({"a": quota}, lag=1.0, takes=0.2, seed=name)
    policy = Policy(lag=2, late=5, max_wait=0, exclusive=bool(exclusive))
    crowd = Crowd(provider, policy, holders=holders, seed=name)
    crowd.watch = Laws(crowd)
    crowd.at(KNOWN - 10.0, crowd.processes[0].poll)
    for process in crowd.processes if dies_every < math.inf else ():
        at = KNOWN
        while (at := at + chance.expovariate(1.0 / dies_every)) < KNOWN + 2.0 * quota / RATE:
            crowd.at(at, process.crash)
    figures = crowd.run(crowded(chance, holders, quota * 3 // 2, wait=wait))
    assert figures.overshoot == 0
    return figures


class Trouble:
    """A small crowd to which everything happens: all of it follows from the seed."""

    def __init__(self, number: int, seed: int = 0) -> None:
        self.name = f"trouble {seed} {number}"
        chance = self.chance = Random(self.name)
        self.holders = chance.randint(2, 10)
        self.quota = chance.randint(150, 700)
        self.rate = chance.uniform(10.0, 60.0)
        self.remote = chance.random() < 0.7
        self.lease = chance.choice((6.0, 30.0))
        self.wait = chance.choice((0.0, 0.0, 3.0))
        self.provider = SimulatedProvider(
            {"a": self.quota},
            lag=2.0,
            scattered=chance.random() < 0.5,
            takes=0.4,
            fails=chance.choice((0.0, 0.1)),
            seed=self.name,
        )
        self.crowd = Crowd(
            self.provider,
            Policy(lag=2, late=5, poll_every=(1, 10), exclusive=chance.random() < 0.3),
            holders=self.holders,
            seed=self.name,
            lease=self.lease,
            remote=self.remote,
            pauses=self.pauses if chance.random() < 0.7 else None,
        )
        self.laws = self.crowd.watch = Laws(self.crowd)
        self.seldom = chance.choice((0.0, 0.001, 0.01))
        self.length = 1.5 * self.quota / self.rate

    def pauses(self, process: CrowdProcess) -> float:
        """Return how long a process stops in the middle of an exchange."""
        chance = self.chance
        if chance.random() < self.seldom:
            return chance.uniform(0.5, 1.5 * self.lease)
        return chance.uniform(0.0, 0.02) if chance.random() < 0.3 else 0.0

    def calls(self) -> Iterator[tuple[int, SimulatedCall]]:
        chance, at = self.chance, 0.0
        while at < self.length:
            at += chance.expovariate(self.rate)
            cost = {"a": chance.choice((1, 1, 1, 5))}
            takes = chance.uniform(0.02, 1.0)
            actual = cost if chance.random() < 0.8 else {}
            number = int(self.holders * chance.random() ** 2)
            yield number, SimulatedCall(at, cost, "critical", self.wait, takes, actual)

    def happen(self) -> None:
        """Let processes die and sleep, and the store be out of reach and forget."""
        crowd, chance, shelf = self.crowd, self.chance, self.crowd.shelf
        for process in crowd.processes:
            if chance.random() < 0.3:
                crowd.at(self.sometime(), process.crash)
            if chance.random() < 0.2:
                crowd.at(self.sometime(), process.stop, chance.uniform(1.0, 2.0 * self.lease))
        for fault in ("down", "muted"):
            if chance.random() < 0.4:
                at = self.sometime()
                for after, is_so in ((0.0, True), (chance.uniform(0.1, 5.0), False)):
                    crowd.at(at + after, setattr, shelf, fault, is_so)
        if self.remote and chance.random() < 0.6:
            # The limit is reached when two thirds are over.
            crowd.at(self.length * chance.uniform(0.4, 0.75), self.fail_over)

    def sometime(self) -> float:
        return self.length * self.chance.uniform(0.05, 0.9)

    def fail_over(self) -> None:
        """Let a replica be promoted that lacks the last writes, as some processes die."""
        for process in self.crowd.processes:
            if self.chance.random() < 0.3:
                process.crash()
        self.crowd.shelf.lose(self.chance.choice((0.5, 2.0)))

    def live(self) -> CrowdFigures:
        """Live through it, judge it, and return its figures."""
        self.happen()
        crowd = self.crowd
        figures = crowd.run(self.calls())
        assert figures.overshoot == 0, figures
        self.silence()
        return figures

    def silence(self) -> None:
        """I6: when all has ended, nothing is held, and the books are the provider's."""
        crowd = self.crowd
        crowd.pauses, self.provider._fails = None, 0.0
        process = crowd.processes[0]
        crowd.run(until=crowd.clock.elapsed + 3.0 * self.lease + 20.0)
        for _ in range(4):
            process.poll()
            crowd.run(until=crowd.clock.elapsed + 20.0)
        process.spending.post(Touch())
        meter, used = process.books.meters["a"], self.provider.used("a", crowd.clock.elapsed)
        assert meter.held == meter.idle == 0, ("held for ever", meter.held, meter.idle)
        assert meter.known() == used, ("I6", meter.known(), used)

    def __str__(self) -> str:
        return (
            f"{self.holders} holders, {self.quota} units at {self.rate:.0f}/s, lease {self.lease}, "
            f"remote {self.remote}, wait {self.wait}"
        )


def trouble(number: int, seed: int = 0) -> CrowdFigures:
    """Live through one trouble and hold it against the laws."""
    return Trouble(number, seed).live()


def told(holders: int, figures: CrowdFigures) -> str:
    """Return figures for the record."""
    return (
        f"{holders} holders: {figures.trips_per_call:.4f} trips per call, "
        f"{figures.utilisation:.3%} used, {figures.early} refused early, "
        f"{figures.stranded} stranded at the first refusal, full at {figures.full_at:.1f} s, "
        f"{figures.trips_after} trips after that, {figures.polls} polls"
    )


def replayed(what: Callable[..., CrowdFigures], *given: float) -> CrowdFigures:
    """Return the figures; of whatever goes wrong, tell how to see it again."""
    try:
        return what(*given)
    except Exception as error:  # noqa: BLE001 - whatever it was, its seed is told
        numbers = " ".join(str(one) for one in given)
        again = f"python tests/sharing/test_crowd.py {what.__name__} {numbers}"
        pytest.fail(f"{again}\n{type(error).__name__}: {error}")


SMALL = ((1, 20_000, 0.002), (3, 20_000, 0.01), (10, 100_000, 0.01), (30, 20_000, 0.05))
SMALL += ((100, 100_000, 0.05),)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("holders", "quota", "most"), SMALL)
def test_a_rush_is_served_in_few_trips(
    holders: int, quota: int, most: float, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """The more holders the more trips, and the whole quota is used, never more than that."""
    figures = replayed(rush, holders, quota, seed)
    record_property("crowd", told(holders, figures))
    assert figures.charged == quota
    assert figures.trips_per_call <= most
    assert figures.early <= 1_000
    assert figures.stranded <= quota // 50


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("holders", "most"), [(300, 0.15), (1_000, 0.5)])
def test_a_great_crowd_is_served(
    holders: int,
    most: float,
    seed: int,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
) -> None:
    """Hundreds of processes share a quota of which each has a few hundred units."""
    if not pytestconfig.getoption("--crowds"):
        pytest.skip("takes minutes: --crowds")
    figures = replayed(rush, holders, 100_000, seed)
    record_property("crowd", told(holders, figures))
    assert figures.utilisation >= 0.999
    assert figures.trips_per_call <= most


def test_those_who_wait_are_served_to_the_last_unit(seed: int) -> None:
    """Nobody is refused while there is quota: what others hold comes back in time."""
    figures = replayed(rush, 10, 10_000, seed, 10.0)
    assert (figures.charged, figures.early) == (10_000, 0)
    assert figures.trips_per_call <= 0.2


def test_others_lag_and_a_spent_quota_is_asked_for_seldom(seed: int) -> None:
    """Of an account that others may use, too: seldom more than a trip in four seconds each."""
    figures = replayed(rush, 10, 10_000, seed, 0.0, math.inf, 0)
    assert figures.utilisation >= 0.999


@pytest.mark.timeout(600)
def test_what_the_dead_held_comes_back(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Every process dies once in ten minutes, without a word."""
    figures = replayed(rush, 30, 30_000, seed, 0.0, 600.0)
    record_property("crowd", f"dying, {told(30, figures)}")
    assert figures.utilisation >= 0.99


@pytest.mark.timeout(600)
def test_troubles_keep_the_laws(troubles: int, seed: int) -> None:
    """Processes die and sleep, the store is away and forgets: never a unit too many."""
    for number in range(troubles):
        replayed(trouble, number, seed)


def test_the_same_seed_is_the_same_crowd() -> None:
    """One seed decides everything."""
    assert trouble(1) == trouble(1)
    assert trouble(1) != trouble(2)


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    numbers: list[Any] = [float(one) if "." in one else int(one) for one in given]
    sys.stdout.write(f"{globals()[name](*numbers)}\n")
