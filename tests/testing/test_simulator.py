"""The simulator: the shipped code in simulated time, and a month of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from random import Random

import pytest

from quotaguard import Policy
from quotaguard.quota.admission import Sleep
from quotaguard.quota.readings import Usage
from quotaguard.testing import SimulatedCall, SimulatedProvider, Simulator
from quotaguard.testing.simulated import Figures
from quotaguard.testing.simulator import _Visit

DAY = 86_400.0
NEAR = Policy(lag=1, late=1, poll_every=(1, 5), cold_reserve=0, max_wait=0)


def steadily(count: int, every: float, cost: int = 1) -> Iterator[SimulatedCall]:
    """Yield calls that come like a clock."""
    for number in range(count):
        yield SimulatedCall(number * every, {"a": cost}, "critical", takes=every / 2)


def played(seed: int, fails: float) -> Figures:
    """Return the figures of a small random history."""
    vendor = SimulatedProvider({"a": 60}, lag=1, scattered=True, takes=0.5, seed=seed, fails=fails)
    chance = Random(seed)
    calls = [
        SimulatedCall(at / 2, {"a": chance.randint(1, 3)}, "critical", 3.0, takes=chance.random())
        for at in range(60)
    ]
    return Simulator(vendor, NEAR, seed=seed).run(calls)


def test_the_same_seed_is_the_same_history() -> None:
    """One seed decides everything: polls, delays and refusals come out alike."""
    assert played(3, 0.2) == played(3, 0.2)
    assert played(3, 0.2) != played(4, 0.2)


def test_a_quota_is_spent_to_its_last_unit() -> None:
    """Twice the demand fills the quota exactly, and the rest is refused."""
    figures = Simulator(SimulatedProvider({"a": 1_000}, lag=60)).run(steadily(2_000, 1.0))
    assert (figures.calls, figures.sent, figures.refused) == (2_000, 1_000, 1_000)
    assert (figures.charged, figures.overshoot, figures.utilisation) == (1_000, 0, 1.0)
    assert figures.refusals == {"QuotaExhausted": 1_000}


def test_overshoot_is_seen() -> None:
    """A shadow policy refuses nothing, and the figures say by how much it overshoots."""
    policy = Policy(shadow=True, cold_reserve=0)
    figures = Simulator(SimulatedProvider({"a": 100}, lag=1), policy).run(steadily(130, 1.0))
    assert (figures.sent, figures.overshoot, figures.utilisation) == (130, 30, 1.0)


def test_a_policy_that_believes_too_much_overshoots() -> None:
    """Lost calls that are charged later than `late` allows push the quota over."""
    policy = NEAR.but(lag=0, late=0, max_wait=5)
    vendor = SimulatedProvider({"a": 10}, lag=0)
    calls = [
        SimulatedCall(at / 4, {"a": 1}, "critical", answered=False, charged_after=30.0)
        for at in range(60)
    ]
    assert Simulator(vendor, policy).run(calls).overshoot > 0


def test_lost_calls_that_were_never_charged_come_back() -> None:
    """After silence and a poll the units of phantom calls are spent by real ones."""
    simulator = Simulator(SimulatedProvider({"a": 10}, lag=1), NEAR)
    for at in range(5):
        simulator.call(SimulatedCall(at, {"a": 2}, "critical", actual={}, answered=False))
    assert simulator.run().charged == 0
    figures = simulator.run(SimulatedCall(60.0 + at, {"a": 2}, "critical", 9.0) for at in range(6))
    assert (figures.charged, figures.overshoot) == (10, 0)


def test_released_calls_cost_nothing() -> None:
    """A call that was never sent gives its units back at once."""
    simulator = Simulator(SimulatedProvider({"a": 2}, lag=1), NEAR)
    calls = [SimulatedCall(at, {"a": 2}, "critical", unsent=at < 5) for at in range(6)]
    figures = simulator.run(calls)
    assert (figures.sent, figures.charged, figures.utilisation) == (6, 2, 1.0)


def test_a_crash_forgets_all_but_the_provider_does_not() -> None:
    """A new process has empty books; what the old one had sent is charged all the same."""
    simulator = Simulator(SimulatedProvider({"a": 10}, lag=1), NEAR)
    simulator.call(SimulatedCall(0.0, {"a": 4}, "critical", takes=9.0, charged_after=5.0))
    simulator.at(2.0, simulator.crash)
    figures = simulator.run()
    assert (simulator.process, dict(simulator.books.meters)) == (1, {})
    assert (figures.charged, simulator.coming["a"]) == (4, 0)


def test_a_waiter_is_woken_by_the_books() -> None:
    """A call that waits for units goes at the instant another one gives them back."""
    told: list[tuple[str, float]] = []
    simulator = Simulator(
        SimulatedProvider({"a": 4}, lag=1),
        NEAR,
        watch=lambda what, _call, _refusal: told.append((what, simulator.elapsed)),
    )
    simulator.call(SimulatedCall(0.0, {"a": 4}, "critical", takes=0.5, actual={"a": 1}))
    simulator.call(SimulatedCall(0.25, {"a": 3}, "critical", 9.0))
    figures = simulator.run()
    assert ("granted", 0.5) in told
    assert (figures.delayed, figures.longest_delay, simulator.slept) == (1, 0.25, 0.25)


def test_a_story_that_stands_still_is_reported() -> None:
    """A caller that asks for ever without letting time pass does not hang the test."""
    simulator = Simulator(SimulatedProvider({"a": 4}), NEAR)

    def restless() -> Generator[Sleep, object, None]:
        while True:
            yield Sleep(0.0, "critical")

    simulator._go_on(_Visit(simulator, restless()), None)
    with pytest.raises(RuntimeError, match="round in circles at 0"):
        simulator.run()


def test_until_ends_a_run_and_the_next_goes_on() -> None:
    """A run may stop between two events; nothing is lost."""
    simulator = Simulator(SimulatedProvider({"a": 100}, lag=1), NEAR)
    assert simulator.run(steadily(10, 1.0), until=4.25).sent == 5
    assert simulator.elapsed == 4.25
    assert simulator.run().sent == 10


# -- the provider -------------------------------------------------------------


def shown(vendor: SimulatedProvider, at: float) -> Usage:
    """Return what a poll would show."""
    return vendor.reading(at).usages["a"]


def test_charges_show_after_the_lag() -> None:
    """The truth is known at once, a poll sees it when the lag has passed."""
    vendor = SimulatedProvider({"a": 9}, used={"a": 1}, lag=3.0)
    vendor.charge("a", 2, 10.0)
    assert vendor.used("a", 10.0) == 3
    assert (shown(vendor, 13.0), shown(vendor, 13.1)) == (Usage(1, 9), Usage(3, 9))


def test_scattered_charges_show_in_any_order() -> None:
    """Each charge takes its own time up to the lag; after that all of them show."""
    vendor = SimulatedProvider({"a": 99}, lag=8.0, scattered=True)
    for at in range(8):
        vendor.charge("a", 1 << at, float(at))
    seen = shown(vendor, 7.0).used
    assert 0 < seen < 255
    assert f"{seen:b}".count("01") > 0, "a younger charge shows before an older one"
    assert shown(vendor, 15.1).used == 255


def test_refunds_and_upgrades_show() -> None:
    """A refund takes back units, an upgrade changes the limit."""
    vendor = SimulatedProvider({"a": 9}, used={"a": 5})
    vendor.refund("a", 2, 1.0)
    vendor.upgrade("a", 20)
    assert (shown(vendor, 1.1), vendor.limit("a")) == (Usage(3, 20), 20)


def test_others_spend_steadily_or_in_bursts() -> None:
    """In bursts the same sum is spent in the first part of every cycle."""
    steady = SimulatedProvider({"a": None}, foreign=0.5, cycle=100.0)
    bursts = SimulatedProvider({"a": None}, foreign=0.5, cycle=100.0, burst=5.0)
    assert [steady.used("a", at) for at in (10.0, 100.0, 110.0)] == [5, 50, 55]
    assert [bursts.used("a", at) for at in (10.0, 100.0, 110.0)] == [25, 50, 75]
    assert bursts.foreign(110.0) == 75


def test_a_period_ends_where_the_provider_says_or_a_little_later() -> None:
    """Counters reset with the shift; polls may show the old period for a while."""
    vendor = SimulatedProvider({"a": 10}, period=100.0, shift=2.0, stale=5.0)
    vendor.charge("a", 4, 101.0)
    vendor.charge("a", 3, 103.0)
    assert vendor.used("a", 103.0) == 3
    old, new = vendor.reading(104.0), vendor.reading(107.0)
    assert (old.usages["a"].used, new.usages["a"].used) == (4, 3)
    assert old.period.end == new.period.start
    assert vendor.utilisation(107.0) == 7 / 20


# -- a month ------------------------------------------------------------------


def month(seed: int) -> tuple[Figures, float]:
    """Play a month with everything on; return its figures and what was asked of the limit.

    Two million units; lost answers half of them charged; batches whose price is known
    afterwards; others who spend; a refund; a crash every other day; polls that fail.
    """
    chance, limit, period, calls = Random(seed), 2_000_000, 30 * DAY, 120_000
    mean = 1.4 * limit / calls
    vendor = SimulatedProvider(
        {"a": limit},
        lag=60.0,
        scattered=True,
        takes=chance.choice((0.5, 3.0)),
        fails=0.02,
        foreign=chance.choice((0.0, 0.1, 0.3)) * limit / period,
        burst=chance.choice((1.0, 10.0)),
        cycle=6_000.0,
        period=period,
        shift=chance.uniform(-4.0, 4.0),
        stale=chance.uniform(0.0, 60.0),
        seed=seed,
    )
    simulator = Simulator(vendor, Policy(max_wait=5.0), seed=seed)
    asked = 0

    def demand() -> Iterator[SimulatedCall]:
        nonlocal asked
        at = 0.0
        while at < period:
            at += chance.expovariate(calls / period)
            count, lost, after = chance.randint(1, int(2 * mean)), chance.random() < 0.02, None
            actual = count if chance.random() < 0.7 else chance.randint(0, count)
            if lost:
                actual, after = chance.choice((0, count)), chance.uniform(0.0, 60.0)
            asked += actual
            priority = chance.choices(("critical", "normal", "batch"), (2, 5, 3))[0]
            takes = chance.uniform(0.1, 2.0)
            yield SimulatedCall(
                at, {"a": count}, priority, None, takes, {"a": actual}, not lost, after
            )

    for day in range(2, 30, 2):
        simulator.at((day + chance.random()) * DAY, simulator.crash)
    simulator.at(
        chance.uniform(0.1, 0.9) * period,
        lambda: vendor.refund("a", limit // 100, simulator.elapsed),
    )
    # The books turn to the next month at the latest instant of the reset; by then the
    # simulated one has just ended.
    figures = simulator.run(demand(), until=period + vendor._shift - 0.001)
    return figures, (asked + figures.foreign) / limit


@pytest.mark.timeout(3600)
def test_a_month_is_spent_and_not_exceeded(
    histories: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """With everything on: no own unit past the limit, all of it used, polls in budget.

    One month by default; a month more for every 50,000 histories asked for.
    """
    for number in range(max(1, histories // 50_000)):
        figures, asked = month(seed + number)
        told = f"month {seed + number}: {figures}"
        record_property("figures", told)
        assert figures.overshoot == 0, told
        assert asked > 1.0, told
        assert figures.utilisation >= 0.99, told
        # 0.9 of 30 an hour, a full burst at every start.
        assert figures.polls <= 27 * 24 * 30 + 15 * 10, told
