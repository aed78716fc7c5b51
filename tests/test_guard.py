"""The guard's verbs, against a fake FullContact over real HTTP and on a clock that we move."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest

from quotaguard import (
    ConfigError,
    CostTooLarge,
    FullContact,
    Guard,
    MemoryLedger,
    Policy,
    QuotaExhausted,
    QuotaUnknown,
    StatsForbidden,
    StatsUnavailable,
    WaitTooLong,
)
from quotaguard.quota.events import (
    Degraded,
    Delayed,
    Drifted,
    Event,
    PeriodTurned,
    PollFailed,
    Refused,
    Released,
    Reserved,
    Settled,
    ThresholdCrossed,
)
from quotaguard.testing import FakeClock, disabled, fake
from quotaguard.testing.fullcontact import FakeFullContact

MATCHES = "person.enrichment.matches"
KEY = "canary-key-7f3a"
DAY = 86400.0


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that only the test moves."""
    return FakeClock()


@pytest.fixture
def vendor(clock: FakeClock) -> Iterator[FakeFullContact]:
    """Run a provider that knows its own truth."""
    with fake("fullcontact", quota=100, key=KEY, clock=clock) as running:
        yield running


class Told(list[Event]):
    """A listener that keeps what it is told."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


def guard_of(vendor: FakeFullContact, clock: FakeClock, **settings: object) -> Guard:
    """Build a guard of *vendor* with a short lag."""
    told = cast("Any", settings.pop("listeners", ()))
    given: dict[str, Any] = {"lag": 10, "late": 10, "cold_reserve": 0, **settings}
    provider = FullContact(KEY, base_url=vendor.url)
    return Guard(provider, policy=Policy(**given), clock=clock, listeners=told)


def spend(guard: Guard, vendor: FakeFullContact, count: int, priority: str = "critical") -> None:
    """Send *count* calls, each of which the provider must accept."""
    for _ in range(count):
        with guard.reserve({MATCHES: 1}, priority=priority) as reservation:
            assert vendor.spend(1) == 1
            reservation.settle()


def test_exactly_the_quota_goes_and_then_calls_are_refused(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """Never one call too many, never one too few."""
    guard = guard_of(vendor, clock)
    spend(guard, vendor, 100)
    with pytest.raises(QuotaExhausted) as refused, guard.reserve({MATCHES: 1}, priority="critical"):
        pytest.fail("a call went past the quota")
    assert refused.value.limit == 100
    assert refused.value.headroom == 0
    assert refused.value.retry_after is None
    assert refused.value.resets_at is not None
    assert vendor.true[MATCHES] == 100


def test_normal_calls_leave_the_last_fifth_to_critical_ones(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """The line keeps (1 - 0.8) of the period that is left; who needs it is told how to pass."""
    guard = guard_of(vendor, clock)
    with pytest.raises(WaitTooLong) as refused:
        spend(guard, vendor, 101, "normal")
    assert 80 <= vendor.true[MATCHES] <= 95
    assert refused.value.held_for == "critical"
    assert refused.value.retry_after is not None
    assert refused.value.retry_after > 30
    assert 'priority="critical"' in str(refused.value)
    spend(guard, vendor, 1, "critical")


def test_a_short_wait_is_waited_and_the_call_goes(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """A call held by its line goes when its slot comes, holding nothing meanwhile."""
    told = Told()
    guard = guard_of(vendor, clock, max_wait=10 * DAY, listeners=[told])
    spend(guard, vendor, 95, "normal")
    delays = told.of(Delayed)
    assert delays
    assert all(delayed.delay > 0 for delayed in delays)
    assert not told.of(Refused)


def test_a_cost_that_can_never_fit_is_told_apart(vendor: FakeFullContact, clock: FakeClock) -> None:
    """A batch larger than the whole period is refused at once, whatever is left."""
    guard = guard_of(vendor, clock)
    with pytest.raises(CostTooLarge), guard.reserve({MATCHES: 101}, priority="critical"):
        pass


def test_nothing_included_names_overage(clock: FakeClock) -> None:
    """Quota 0 is exhausted, not unlimited, and the message says what allows a call."""
    with fake("fullcontact", quota=0, overage=True, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        with (
            pytest.raises(QuotaExhausted, match="overage=") as refused,
            guard.reserve({MATCHES: 1}),
        ):
            pass
        assert not isinstance(refused.value, CostTooLarge)


def test_overage_lets_just_so_many_units_past_the_limit(clock: FakeClock) -> None:
    """Units past the limit are bought only as far as the policy allows."""
    with fake("fullcontact", quota=5, overage=True, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock, overage=3)
        with pytest.raises(QuotaExhausted):
            spend(guard, vendor, 9)
        assert vendor.true[MATCHES] == 8


def test_an_unlimited_meter_never_refuses(clock: FakeClock) -> None:
    """Quota null is no limit; the units are counted all the same."""
    with fake("fullcontact", quota=None, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        spend(guard, vendor, 500, "batch")
        row = guard.standing()[MATCHES]
        assert (row.limit, row.headroom, row.used) == (None, None, 500)


def test_shadow_mode_refuses_nothing_and_tells_what_it_would(clock: FakeClock) -> None:
    """Decide and tell, but let every call go."""
    told = Told()
    with fake("fullcontact", quota=5, overage=True, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock, shadow=True, listeners=[told])
        spend(guard, vendor, 8)
        refused = told.of(Refused)
        assert [event.shadow for event in refused] == [True, True, True]
        assert guard.standing()[MATCHES].used == 8


def test_check_says_what_reserve_would_and_charges_nothing(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """A decision is truthy when the call would go; looking costs nothing."""
    guard = guard_of(vendor, clock)
    spend(guard, vendor, 60)
    for _ in range(3):
        decision = guard.check({MATCHES: 1})
        assert decision
        assert decision.headroom == 40
    spend(guard, vendor, 40)
    for _ in range(3):
        decision = guard.check({MATCHES: 1}, priority="critical")
        assert not decision
        assert decision.reason == "exhausted"
        assert (decision.meter, decision.headroom, decision.delay) == (MATCHES, 0, None)
        assert decision.resets_at is not None
    assert vendor.true[MATCHES] == 100


def test_record_is_charged_and_never_refused(vendor: FakeFullContact, clock: FakeClock) -> None:
    """What was spent elsewhere counts, past the limit too."""
    guard = guard_of(vendor, clock)
    guard.refresh()
    guard.record({MATCHES: 70})
    assert guard.standing()[MATCHES].used == 70
    guard.record({MATCHES: 70})
    assert guard.standing()[MATCHES].headroom == 0
    with pytest.raises(QuotaExhausted), guard.reserve({MATCHES: 1}, priority="critical"):
        pass


def test_what_was_not_spent_comes_back(vendor: FakeFullContact, clock: FakeClock) -> None:
    """A miss settles nothing, a release gives all back."""
    guard = guard_of(vendor, clock)
    for _ in range(300):
        with guard.reserve({MATCHES: 1}, priority="critical") as reservation:
            reservation.settle({MATCHES: 0})
        with guard.reserve({MATCHES: 60}, priority="critical") as reservation:
            reservation.release()
    row = guard.standing()[MATCHES]
    assert (row.used, row.reserved, row.headroom) == (0, 0, 100)


def test_an_unknown_outcome_counts_until_a_reading_knows(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """Leaving without settle holds the units, then counts them, then the truth heals."""
    guard = guard_of(vendor, clock)
    with guard.reserve({MATCHES: 40}, priority="critical"):
        pass
    assert guard.standing()[MATCHES].reserved == 40
    clock.advance(11)
    row = guard.standing()[MATCHES]
    assert (row.reserved, row.used) == (0, 40)
    clock.advance(11)
    guard.refresh()
    row = guard.standing()[MATCHES]
    assert (row.reserved, row.used, row.headroom) == (0, 0, 100)


def test_a_forgotten_reservation_is_unknown(vendor: FakeFullContact, clock: FakeClock) -> None:
    """One that nobody ends is given up when it is collected, never released."""
    guard = guard_of(vendor, clock)
    guard.reserve({MATCHES: 7}, priority="critical").open()
    clock.advance(1)
    assert guard.standing()[MATCHES].reserved == 7
    clock.advance(11)
    assert guard.standing()[MATCHES].used == 7


def test_thresholds_are_told_once_a_period(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Each share of the limit is told when it is passed, and never twice."""
    told = Told()
    guard = guard_of(vendor, clock, listeners=[told])
    spend(guard, vendor, 100)
    crossed = [(event.threshold, event.used) for event in told.of(ThresholdCrossed)]
    assert crossed == [(0.5, 50), (0.8, 80), (0.9, 90), (1.0, 100)]


def test_a_new_period_opens_with_a_reading_and_counts_from_zero(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """At the end of the month all comes back, told as one PeriodTurned."""
    told = Told()
    guard = guard_of(vendor, clock, listeners=[told])
    spend(guard, vendor, 100)
    end = guard.standing()[MATCHES].period.end
    assert end is not None
    clock.advance(end - clock.now().wall + 1)
    spend(guard, vendor, 100)
    assert vendor.true[MATCHES] == 100
    assert [event.seen for event in told.of(PeriodTurned)] == [True]


def test_without_readings_a_period_opens_by_the_clock_after_the_skew(clock: FakeClock) -> None:
    """Inside the skew guard a dead stats endpoint keeps a spent month closed."""
    faults = [None, *["500"] * 50]
    with fake("fullcontact", quota=100, key=KEY, clock=clock, stats_faults=faults) as vendor:
        told = Told()
        guard = guard_of(vendor, clock, on_stale="open", listeners=[told])
        spend(guard, vendor, 100)
        end = guard.standing()[MATCHES].period.end
        assert end is not None
        clock.advance(end - clock.now().wall + 4)
        with pytest.raises(QuotaExhausted):
            spend(guard, vendor, 1)
        clock.advance(2)
        spend(guard, vendor, 100)
        assert [event.seen for event in told.of(PeriodTurned)] == [False]


def test_an_upgraded_plan_opens_the_door_at_refresh(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """The user asked, so good news needs no second reading."""
    guard = guard_of(vendor, clock)
    spend(guard, vendor, 100)
    vendor.set_quota(150)
    clock.advance(11)  # until the lag has passed, our last calls may be counted twice
    standing = guard.refresh()
    assert standing[MATCHES].headroom == 50
    spend(guard, vendor, 50)


def test_an_upgraded_plan_is_found_within_minutes(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """Refusals are traffic: polls come at least every 15 minutes while calls are refused."""
    guard = guard_of(vendor, clock)
    spend(guard, vendor, 100)
    vendor.set_quota(150)
    minutes = 0
    while not guard_goes(guard):
        minutes += 1
        clock.advance(60)
    assert minutes <= 30
    assert vendor.polls >= 3


def guard_goes(guard: Guard) -> bool:
    """Whether a critical call would be sent now."""
    try:
        with guard.reserve({MATCHES: 1}, priority="critical", max_wait=0) as reservation:
            reservation.release()
    except QuotaExhausted:
        return False
    return True


def test_somebody_elses_spend_is_seen_and_told(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Drift is what the reading has more than we sent."""
    told = Told()
    guard = guard_of(vendor, clock, listeners=[told])
    spend(guard, vendor, 5)
    vendor.spend(30)
    clock.advance(60)
    guard.refresh()
    row = guard.standing()[MATCHES]
    assert (row.used, row.drift) == (35, 30)
    assert [(event.meter, event.drift) for event in told.of(Drifted)] == [(MATCHES, 30)]


def test_a_dead_stats_endpoint_is_unknown_and_says_why(clock: FakeClock) -> None:
    """Without any reading the call is refused, and what kept it away is the cause."""
    with fake("fullcontact", key=KEY, clock=clock, stats_faults=["500"] * 5) as vendor:
        told = Told()
        guard = guard_of(vendor, clock, listeners=[told])
        for _ in range(2):
            with pytest.raises(QuotaUnknown) as refused, guard.reserve({MATCHES: 1}, max_wait=0):
                pass
            assert isinstance(refused.value.__cause__, StatsUnavailable)
            assert refused.value.retry_after is not None
        assert len(told.of(PollFailed)) == 1
        with pytest.raises(StatsUnavailable):
            guard.refresh()


def test_an_open_policy_goes_on_without_a_reading(clock: FakeClock) -> None:
    """on_unknown="open" counts by itself until a reading comes."""
    with fake("fullcontact", quota=100, key=KEY, clock=clock, stats_faults=["500"] * 3) as vendor:
        guard = guard_of(vendor, clock, on_unknown="open")
        spend(guard, vendor, 3)
        clock.advance(30)
        spend(guard, vendor, 3)
        clock.advance(30)
        spend(guard, vendor, 97 - 6)
        assert vendor.true[MATCHES] == 97


def test_a_refused_key_stops_polls_after_three(clock: FakeClock) -> None:
    """More tries look like an attack; the last event says that polls have stopped."""
    with fake("fullcontact", key="another", clock=clock) as vendor:
        told = Told()
        guard = guard_of(vendor, clock, listeners=[told])
        for _ in range(50):
            with pytest.raises(QuotaUnknown), guard.reserve({MATCHES: 1}):
                pass
            clock.advance(600)
        failures = told.of(PollFailed)
        assert [event.error for event in failures] == ["StatsForbidden"] * 3
        assert failures[-1].retry_in is None
        assert vendor.polls == 3
        with pytest.raises(StatsForbidden):
            guard.refresh()


def test_an_expired_reading_is_spent_with_caution(clock: FakeClock) -> None:
    """Blind, normal calls may spend a quarter of the last remainder and critical ones half."""
    faults = [None, *["500"] * 500]
    with fake("fullcontact", quota=1000, key=KEY, clock=clock, stats_faults=faults) as vendor:
        told = Told()
        guard = guard_of(vendor, clock, listeners=[told])
        spend(guard, vendor, 1, "normal")
        clock.advance(2 * 3600)
        gone = {"normal": 0, "critical": 0}
        for priority in gone:
            while True:
                try:
                    with guard.reserve({MATCHES: 1}, priority=priority, max_wait=0) as held:
                        held.settle()
                except QuotaExhausted:
                    break
                gone[priority] += 1
        assert gone == {"normal": 250 - 1, "critical": 250}
        assert [event.state for event in told.of(Degraded)] == ["expired"]


@pytest.mark.parametrize("stale", ["closed", "open"])
def test_an_expired_reading_follows_the_policy(clock: FakeClock, stale: str) -> None:
    """on_stale says whether counting goes on without readings."""
    faults = [None, *["500"] * 50]
    with fake("fullcontact", quota=100, key=KEY, clock=clock, stats_faults=faults) as vendor:
        guard = guard_of(vendor, clock, on_stale=stale)
        spend(guard, vendor, 1)
        clock.advance(2 * 3600)
        if stale == "open":
            spend(guard, vendor, 99)
        else:
            with pytest.raises(QuotaUnknown, match="old"):
                spend(guard, vendor, 1)


def test_waiting_out_a_spent_period_is_a_choice(vendor: FakeFullContact, clock: FakeClock) -> None:
    """on_exhausted="wait" waits for the period's end if that is soon enough, else says so."""
    guard = guard_of(vendor, clock, on_exhausted="wait", max_wait=3600)
    spend(guard, vendor, 100)
    with pytest.raises(WaitTooLong) as refused, guard.reserve({MATCHES: 1}, priority="critical"):
        pass
    assert isinstance(refused.value, TimeoutError)
    end = guard.standing()[MATCHES].period.end
    assert end is not None
    clock.advance(end - clock.now().wall - 600)
    spend(guard, vendor, 1)
    assert clock.now().wall > end


def test_every_call_is_told_to_listeners(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Reserved, then settled or released, with the units."""
    told = Told()
    guard = guard_of(vendor, clock, listeners=[told])
    for ending in ("settle", "release", "close"):
        reservation = guard.reserve({MATCHES: 2}).open()
        getattr(reservation, ending)()
    kinds = [type(event) for event in told if isinstance(event, Reserved | Settled | Released)]
    assert kinds == [Reserved, Settled, Reserved, Released, Reserved, Settled]
    assert [event.unknown for event in told.of(Settled)] == [False, True]
    assert all(event.cost == {MATCHES: 2} for event in told.of(Settled))


def test_a_listener_that_raises_is_dropped_and_the_call_goes(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """A hook never reaches into a call."""

    def broken(event: Event) -> None:
        raise RuntimeError(event)

    told = Told()
    guard = guard_of(vendor, clock, listeners=[broken, told])
    spend(guard, vendor, 3)
    assert len(told.of(Settled)) == 3


def test_a_call_that_cost_more_is_counted_and_told(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """An underpriced call is charged as it was."""
    told = Told()
    guard = guard_of(vendor, clock, listeners=[told])
    with guard.reserve({MATCHES: 1}) as reservation:
        reservation.settle({MATCHES: 5, "person.enrichment.total": 2})
    standing = guard.standing()
    assert standing[MATCHES].used == 5
    assert standing["person.enrichment.total"].used == 2
    told_of = [(event.state, event.meter) for event in told.of(Degraded)]
    assert told_of == [("underpriced", MATCHES), ("underpriced", "person.enrichment.total")]


def test_a_reservation_ends_once(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Ending it again is a mistake that is told, and changes nothing."""
    guard = guard_of(vendor, clock)
    with guard.reserve({MATCHES: 1}) as reservation:
        reservation.settle()
        for again in (reservation.settle, reservation.release, reservation.give_up):
            with pytest.raises(ConfigError, match="settled"):
                again()
    with pytest.raises(ConfigError, match="new one"), reservation:
        pass
    with pytest.raises(ConfigError, match="not open"):
        guard.reserve({MATCHES: 1}).settle()
    assert guard.standing()[MATCHES].used == 1


@pytest.mark.parametrize(
    "cost",
    [
        {"person.enrichment.match": 1},
        {MATCHES: -1},
        {MATCHES: True},
        {MATCHES: "1"},
        {MATCHES: float("nan")},
        {MATCHES: float("inf")},
        [(MATCHES, 1)],
        None,
        7,
        "person.enrch",
    ],
    ids=repr,
)
def test_a_cost_that_is_none_is_told_at_once(
    vendor: FakeFullContact,
    clock: FakeClock,
    cost: Any,
) -> None:
    """A misspelt meter or a count that is no number is the caller's fault, never a free call."""
    guard = guard_of(vendor, clock)
    for _ in range(2):
        with pytest.raises(ConfigError), guard.reserve(cost):
            pytest.fail("it went")
        with pytest.raises(ConfigError):
            guard.check(cost)
        with pytest.raises(ConfigError):
            guard.record(cost)
        with guard.reserve({MATCHES: 1}) as reservation:  # now the lanes are warm
            with pytest.raises(ConfigError):
                reservation.settle(cost if cost is not None else 3)
            reservation.release()
    assert guard.standing()[MATCHES].used == 0


def test_an_unknown_priority_is_told(vendor: FakeFullContact, clock: FakeClock) -> None:
    """A misspelt priority is no slower one."""
    guard = guard_of(vendor, clock)
    for _ in range(2):
        with (
            pytest.raises(ConfigError, match="urgent"),
            guard.reserve({MATCHES: 1}, priority="urgent"),
        ):
            pass
        spend(guard, vendor, 1)


def test_a_fraction_of_a_unit_counts_as_a_whole_one(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """Prices round up where the provider counts whole units."""
    guard = guard_of(vendor, clock)
    with guard.reserve({MATCHES: 0.5}) as reservation:
        reservation.settle({MATCHES: 0.1})
    assert guard.standing()[MATCHES].used == 1


def test_a_fallback_stands_in_for_a_refusal(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Any value, None too; a callable is called with the refusal."""
    guard = guard_of(vendor, clock)
    spend(guard, vendor, 100)
    for _ in range(2):
        with guard.reserve({MATCHES: 1}, fallback=None) as nothing:
            assert nothing is None
        with guard.reserve({MATCHES: 1}, fallback=lambda refusal: refusal.meter) as meter:
            assert meter == MATCHES
    assert guard.standing()[MATCHES].used == 100


def test_the_inner_call_uses_the_outer_reservation_first(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """A function that is guarded and uses a guarded client is charged once."""
    guard = guard_of(vendor, clock)
    with guard.reserve({MATCHES: 2}) as outer:
        with guard.reserve({MATCHES: 1}) as inner:
            assert guard.standing()[MATCHES].reserved == 2
            inner.settle({MATCHES: 0})
        with guard.reserve({MATCHES: 3}) as larger:
            assert guard.standing()[MATCHES].reserved == 3
            larger.settle()
        outer.settle({MATCHES: 3})
    row = guard.standing()[MATCHES]
    assert (row.used, row.reserved) == (3, 0)


def test_a_lent_unit_goes_back_when_the_inner_call_is_refused(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """What was borrowed for a call that did not go is the outer one's again."""
    guard = guard_of(vendor, clock)
    spend(guard, vendor, 90)
    with guard.reserve({MATCHES: 5}, priority="critical") as outer:
        with pytest.raises(QuotaExhausted), guard.reserve({MATCHES: 20}, priority="critical"):
            pass
        outer.settle({MATCHES: 5})
    assert guard.standing()[MATCHES].used == 95


def test_two_guards_of_one_account_share_its_books(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """The default ledger is one for the process; an explicit one is private."""
    first, second = guard_of(vendor, clock), guard_of(vendor, clock, max_wait=5)
    spend(first, vendor, 60)
    assert second.standing()[MATCHES].used == 60
    with pytest.raises(QuotaExhausted):
        spend(second, vendor, 41)
    assert vendor.true[MATCHES] == 100
    provider = FullContact(KEY, base_url=vendor.url)
    private = Guard(provider, ledger=MemoryLedger(clock=clock), clock=clock)
    assert len(private.standing()) == 0


def test_disabled_lets_all_pass_uncounted(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Tests of applications can turn every guard off."""
    guard = guard_of(vendor, clock)
    spend(guard, vendor, 100)
    with disabled():
        for _ in range(3):
            with guard.reserve({MATCHES: 1}) as reservation:
                reservation.settle()
    assert guard.standing()[MATCHES].used == 100


def test_an_unreachable_ledger_name_is_told_when_built(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """ConfigError comes when the guard is built, not at three in the morning."""
    provider = FullContact(KEY, base_url=vendor.url)
    with pytest.raises(ConfigError, match="ledger"):
        Guard(provider, ledger="mongodb://somewhere")
    with pytest.raises(ConfigError, match=r"no\.such\.meter"):
        Guard(provider, policy=Policy(meters={"no.such.meter": Policy()}))
    with pytest.raises(ConfigError):
        Guard(provider, stats_client="client")  # type: ignore[arg-type]


def test_reprs_and_pickled_refusals_keep_the_facts_and_no_key(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """What people see is useful, and the key is nowhere in it."""
    guard = guard_of(vendor, clock, margin=10)
    assert repr(guard) == "<Guard fullcontact: not read yet>"
    spend(guard, vendor, 90)
    clock.advance(7)
    said = f"{MATCHES} 90/100, margin 10"
    assert repr(guard) == f"<Guard fullcontact: {said}, read 7 s ago>"
    assert repr(guard.standing()) == f"<Standing fullcontact: {said}, read 7 s ago>"
    assert repr(guard.standing()[MATCHES]) == f"<Row {said}, headroom 0>"
    with pytest.raises(QuotaExhausted) as refused:
        spend(guard, vendor, 1)
    copy = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - our own
    assert (copy.facts, str(copy)) == (refused.value.facts, str(refused.value))
    reservation = guard.reserve({MATCHES: 1})
    seen = f"{guard!r}{reservation!r}{guard.provider!r}{refused.value!r}{copy}{guard.standing()!r}"
    assert KEY not in seen


def test_a_guard_without_a_limit_says_so(clock: FakeClock) -> None:
    """Read and unlimited is not the same as not read."""
    knobs = {"quota": None, "company_quota": None}
    with fake("fullcontact", key=KEY, clock=clock, **knobs) as vendor:
        guard = guard_of(vendor, clock)
        guard.refresh()
        clock.advance(3)
        assert repr(guard) == "<Guard fullcontact: no limit, read 3 s ago>"
        assert "no limit" in repr(guard.standing()[MATCHES])


def test_a_forecast_never_polls_and_counts_what_was_just_spent(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """It is about the books as they are: own spend at once, the provider when it is read."""
    guard = guard_of(vendor, clock, overage_price=0.5)
    assert len(guard.forecast()) == 0
    assert vendor.polls == 0
    spend(guard, vendor, 60)
    polls = vendor.polls
    row = guard.forecast()[MATCHES]
    period = guard.standing()[MATCHES].period
    assert period.start is not None
    assert period.length is not None
    passed = (clock.now().wall - period.start) / period.length
    assert row.used == 60
    assert row.burn_rate == pytest.approx(60 / (passed * period.length))
    assert row.expected_at_end == pytest.approx(60 / passed)
    assert row.resets_at == period.ends_at
    assert row.overage_cost == pytest.approx(
        0.5 * max(0.0, 60 / passed - 100),
        rel=1e-4,  # a Date has whole seconds
    )
    assert guard.forecast()["person.enrichment.total"].runs_out_at is None
    assert vendor.polls == polls


async def test_the_async_names_do_the_same(vendor: FakeFullContact, clock: FakeClock) -> None:
    """One guard serves both colours."""
    guard = guard_of(vendor, clock)
    async with guard.reserve({MATCHES: 1}, priority="critical") as reservation:
        reservation.settle()
    assert (await guard.arefresh())[MATCHES].limit == 100
    assert (await guard.astanding())[MATCHES].used == 1
    assert await guard.aforecast() == guard.forecast()
    with pytest.raises(QuotaExhausted):
        async with guard.reserve({MATCHES: 100}, priority="critical"):
            pass
    async with guard:
        pass


async def test_polls_can_go_through_the_users_own_client(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """stats_client carries the poll: a corporate proxy, an own CA."""
    asked: list[httpx.Request] = []

    def note(request: httpx.Request) -> None:
        asked.append(request)

    with httpx.Client(event_hooks={"request": [note]}) as own:
        provider = FullContact(KEY, base_url=vendor.url)
        guard = Guard(provider, clock=clock, stats_client=own)
        guard.refresh()
    assert [request.url.path for request in asked] == ["/v3/stats.get"]


def test_a_lost_calls_units_are_back_after_one_reading(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """A lapse counts from when it was due, not from when somebody looked."""
    guard = guard_of(vendor, clock)
    with guard.reserve({MATCHES: 40}, priority="critical"):
        pass
    clock.advance(10 + 10 + 2)  # late, lag and a bit; nobody looks meanwhile
    guard.refresh()
    assert guard.standing()[MATCHES].headroom == 100


def test_what_a_reading_shows_as_spent_is_not_waited_for(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """A lost call that was charged makes nobody hope for its units once a reading has them."""
    guard = guard_of(vendor, clock)
    guard.refresh()
    with guard.reserve({MATCHES: 40}, priority="critical"):
        vendor.spend(40)
    spend(guard, vendor, 60)
    clock.advance(10 + 10 + 2)
    guard.refresh()
    with pytest.raises(QuotaExhausted) as refused:
        guard.reserve({MATCHES: 1}, priority="critical", max_wait=0).open()
    assert vendor.true[MATCHES] == 100
    assert refused.value.retry_after is None


@pytest.mark.parametrize("wrong", [FullContact, "key", None, 5])
def test_a_guard_of_no_provider_is_told_at_once(wrong: Any) -> None:
    """The class instead of one of it is an easy slip."""
    with pytest.raises(ConfigError, match="Guard takes a provider"):
        Guard(wrong)


@pytest.mark.parametrize("wrong", [5, {}, "steady"])
def test_a_policy_is_a_policy(wrong: Any) -> None:
    """A dict of settings is none."""
    with pytest.raises(ConfigError, match="policy= is a Policy"):
        Guard(FullContact("k"), policy=wrong)


@pytest.mark.parametrize("name", ["shadow", "exclusive"])
@pytest.mark.parametrize("said", ["no", "False", 0, 1, None])
def test_what_the_environment_says_is_no_bool(name: str, said: Any) -> None:
    """shadow="False" would turn the guard off."""
    with pytest.raises(ConfigError, match=f"{name} is True or False"):
        Policy(**{name: said})


def test_a_key_is_given_without_its_scheme() -> None:
    """Else every call of the application would carry another key than the guard's."""
    with pytest.raises(ConfigError, match="without 'Bearer'"):
        FullContact("Bearer abc")
    with pytest.raises(ConfigError, match="account= is a name"):
        FullContact("abc", account=5)  # type: ignore[arg-type] # that is the mistake
