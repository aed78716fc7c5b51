"""The poll schedule: never beyond its budget, backing off, and never stuck."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotaguard import Policy
from quotaguard.errors import StatsForbidden, StatsUnavailable
from quotaguard.quota.account import Books, Posted, Terms
from quotaguard.quota.allotment import Tally
from quotaguard.quota.entries import Abandon, AskToPoll, PollLost, Reserve
from quotaguard.quota.events import Polled, PollFailed
from quotaguard.quota.observing import Observe
from quotaguard.quota.polls import CLAIM_SECONDS, KEPT, Claim, Polls, PollTerms
from quotaguard.quota.readings import Moment, Reading, Usage
from quotaguard.quota.verdicts import Done, Due, Granted, Spent
from quotaguard.spending import terms_of
from quotaguard.testing import SimulatedProvider

USUAL = PollTerms(30.0, 900.0, 19.0, 9.0)
EAGER = PollTerms(1.0, 60.0, 3600.0, 10.0)
MONTHLY = Policy(poll_budget=(720, timedelta(days=30)))


def moment(at: float) -> Moment:
    """Return a moment of clocks that began apart."""
    return Moment(1_024.0 + at, 2_048.0 + at, 1_700_000_000.0 + at)


def fail(polls: Polls, at: float, terms: PollTerms = USUAL, **how: Any) -> float:
    """Let a poll fail; return the seconds until the next."""
    claim = polls.claim("x", moment(at), terms)
    settings = {"forbidden": False, "retry_after": None, "jitter": 1.0, "reason": "", **how}
    polls.failed(claim, moment(at), terms, **settings)
    return polls.next - moment(at).fast


# -- the budget ---------------------------------------------------------------

policies = st.builds(
    lambda shortest, more, budget: Policy(
        poll_every=(shortest, shortest + more), poll_budget=budget
    ),
    st.sampled_from((0.5, 1.0, 30.0)),
    st.sampled_from((0.0, 10.0, 900.0)),
    st.sampled_from(
        (None, 0.5, 1.0, 2.0, 6.0, 27.0, 120.0, 3600.0, (2, 60), (5, 7_200), (30, 86_400))
    ),
)
steps = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.0, 0.1, 1.0, 15.0, 16.0, 60.0, 400.0, 4000.0)),
        st.sampled_from(("due", "due", "urgent", "want", "ok", "ok", "lost", "forbidden", "none")),
        st.floats(-1.0, 1.0),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(policies, steps)
def test_polls_never_exceed_the_budget(
    policy: Policy, played: list[tuple[float, str, float]]
) -> None:
    """I15: no span as long as the budget's has more polls than it; one in flight at a time."""
    terms = PollTerms.of(policy, 30.0)
    polls, now, claims = Polls(), 0.0, list[float]()
    claim: Claim | None = None
    for number, (wait, what, jitter) in enumerate(played):
        now += wait
        at = moment(now)
        if what in {"due", "urgent"} and polls.due(at, terms, urgent=what == "urgent"):
            assert claim is None or at.fast >= claim.asked.fast + CLAIM_SECONDS, "two in flight"
            claim = polls.claim(str(number), at, terms)
            claims.append(now)
        elif what == "want":
            assert polls.want(at.fast + 5.0 * jitter, at, terms) >= at.fast or polls.failures
        elif claim is not None and what == "ok":
            polls.succeeded(claim, at, terms.shortest, jitter)
            claim = None
        elif claim is not None and what in {"lost", "forbidden"}:
            polls.failed(
                claim,
                at,
                terms,
                reason="",
                forbidden=what != "lost",
                retry_after=None,
                jitter=jitter,
            )
            claim = None
    budget: Any = policy.poll_budget
    if budget is None:
        budget = max(27.0, 3600.0 / terms.shortest if terms.shortest < 30.0 else 0.0)
    most, span = budget if isinstance(budget, tuple) else (budget, 3600.0)
    for first, begin in enumerate(claims):
        for last in range(first, len(claims)):
            passed = claims[last] - begin
            earned = terms.burst + passed * terms.per_hour / 3600.0
            assert last - first + 1 <= earned + 1e-6, claims
            assert passed >= span - 1e-6 or last - first + 1 <= max(1, most), claims


@settings(max_examples=300)
@given(policies, st.lists(st.floats(0.0, 50.0), max_size=30), st.booleans())
def test_a_schedule_is_never_stuck(policy: Policy, waits: list[float], urgent: bool) -> None:
    """Whoever comes when the schedule says, polls: no wait is too short to end."""
    terms = PollTerms.of(policy, 30.0)
    polls, now = Polls(), 0.0
    for number, wait in enumerate(waits):
        now += wait
        for _ in range(3):
            at = moment(now)
            if polls.due(at, terms, urgent=urgent):
                polls.succeeded(polls.claim(str(number), at, terms), at, terms.shortest, 0.0)
                break
            # A microsecond is less than the clocks tell apart, and more than rounding.
            now = max(now, polls.next - 2_048.0) + 1e-6
        else:
            pytest.fail(f"not due at {now} nor at the time it told twice")


def test_a_burst_is_allowed_and_then_the_hour() -> None:
    """Nine polls of 27 an hour may follow each other; then the rest, 19 in an hour."""
    polls, times = Polls(), []
    for tick in range(4_000):
        if polls.due(moment(float(tick)), USUAL, urgent=True):
            polls.succeeded(polls.claim("x", moment(float(tick)), USUAL), moment(tick), 0.0, 0.0)
            times.append(tick)
    assert times[:9] == list(range(9))
    # The nine seconds of the burst have earned a little already.
    assert times[9] == 190
    assert {later - sooner for sooner, later in itertools.pairwise(times[9:])} == {189, 190}
    assert sum(at < 3_600 for at in times) == 27


def test_three_polls_are_kept_for_urgent_news() -> None:
    """A call that would be refused may still poll when plain interest may not."""
    polls, now = Polls(), moment(0.0)
    for _ in range(6):
        assert polls.due(now, USUAL)
        polls.succeeded(polls.claim("x", now, USUAL), now, 0.0, 0.0)
    assert not polls.due(now, USUAL)
    polls.want(now.fast, now, USUAL)
    for _ in range(int(KEPT)):
        assert polls.due(now, USUAL, urgent=True)
        polls.succeeded(polls.claim("x", now, USUAL), now, 0.0, 0.0)
    assert not polls.due(now, USUAL, urgent=True)


def test_near_the_limit_one_poll_is_kept() -> None:
    """Nine of a burst: the first, seven because a remainder shrinks, one for who is refused."""
    polls, now = Polls(), moment(0.0)
    made = 0
    while polls.due(now, USUAL):
        polls.succeeded(polls.claim("x", now, USUAL), now, 0.0, 0.0, near=True)
        made += 1
    assert made == 8
    polls.want(now.fast, now, USUAL)
    assert polls.due(now, USUAL, urgent=True)


def test_a_small_budget_keeps_what_it_can() -> None:
    """With less than four polls a burst, the first plain poll still goes."""
    assert Polls().due(moment(0.0), PollTerms(30.0, 900.0, 1.0, 1.0))
    assert Polls().due(moment(0.0), PollTerms(30.0, 900.0, 4.0, 4.0 / 3.0))


@pytest.mark.parametrize(
    ("policy", "terms"),
    [
        (Policy(), USUAL),
        (Policy(poll_every=(1, 60)), PollTerms(1.0, 60.0, 3_591.0, 10.0)),
        (Policy(poll_budget=1), PollTerms(30.0, 900.0, 1.0, 1.0)),
        (Policy(poll_budget=0.5), PollTerms(30.0, 900.0, 0.5, 1.0)),
        (Policy(poll_budget=6), PollTerms(30.0, 900.0, 5.0, 2.0)),
        # Hourly readings would expire in an hour; who can wait longer polls every other hour.
        (MONTHLY, PollTerms(30.0, 3_240.0, 711.0 / 720.0, 10.0)),
        (MONTHLY.but(max_age=10_800), PollTerms(30.0, 7_200.0, 711.0 / 720.0, 10.0)),
        (MONTHLY.but(poll_every=(60, 9_000)), PollTerms(60.0, 9_000.0, 711.0 / 720.0, 10.0)),
    ],
)
def test_a_budget_is_a_burst_and_what_is_earned_meanwhile(policy: Policy, terms: PollTerms) -> None:
    """An hour's worth of polls, or a month's; a long one spends half when nothing presses."""
    assert PollTerms.of(policy, 30.0) == terms


def test_a_long_budget_never_bursts_beyond_what_the_provider_allows() -> None:
    """720 a month are none too many; ten at once are, where six an hour are allowed."""
    assert PollTerms.of(MONTHLY, 6.0).burst == 2.0


# -- claims -------------------------------------------------------------------


def test_one_asks_and_the_others_see_it() -> None:
    """A claim keeps others from asking until it is answered, given up or lapsed."""
    polls = Polls()
    assert polls.due(moment(0.0), USUAL)
    polls.claim("mine", moment(0.0), USUAL)
    assert polls.pending(moment(14.9))
    assert not polls.due(moment(14.9), USUAL)
    assert polls.due(moment(CLAIM_SECONDS), USUAL)
    polls.abandon("somebody else's")
    assert polls.pending(moment(1.0))
    polls.abandon("mine")
    assert not polls.pending(moment(1.0))


def test_a_late_answer_does_not_end_a_newer_claim() -> None:
    """Who took too long does not open the door while the next one asks."""
    polls = Polls()
    late = polls.claim("late", moment(0.0), USUAL)
    polls.claim("newer", moment(16.0), USUAL)
    polls.succeeded(late, moment(17.0), 30.0, 0.0)
    assert polls.pending(moment(17.0))


# -- backoff ------------------------------------------------------------------


def test_failures_back_off_from_one_second_to_five_minutes() -> None:
    """1 s, doubled every time, at most 300 s; a success begins anew."""
    polls = Polls()
    pauses = [fail(polls, at * 1_000.0) for at in range(12)]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    polls.succeeded(polls.claim("x", moment(20_000.0), USUAL), moment(20_000.0), 30.0, 0.0)
    assert fail(polls, 21_000.0) == 1.0


def test_backoff_never_exceeds_the_longest_interval() -> None:
    """Who wants to poll every minute is not made to wait five."""
    polls = Polls()
    assert max(fail(polls, at * 1_000.0, EAGER) for at in range(12)) == 60.0


@given(st.floats(-1.0, 1.0), st.integers(1, 12))
def test_backoff_is_spread_by_jitter(jitter: float, failures: int) -> None:
    """Between a half and the whole of the pause, so that processes do not march in step."""
    polls = Polls()
    for number in range(failures - 1):
        fail(polls, number * 1_000.0)
    whole = min(300.0, 2.0 ** (failures - 1))
    pause = fail(polls, failures * 1_000.0, jitter=jitter)
    assert 0.5 * whole - 1e-6 <= pause <= whole + 1e-6


@pytest.mark.parametrize(("asked", "pause"), [(0.2, 1.0), (90.0, 90.0), (1e9, 3_600.0)])
def test_the_provider_may_ask_for_a_longer_pause(asked: float, pause: float) -> None:
    """Retry-After is obeyed, up to an hour, and never shortens the pause."""
    assert fail(Polls(), 0.0, retry_after=asked) == pause


def test_a_refused_key_is_tried_three_times() -> None:
    """After that no schedule and no wish polls again; a refresh that works begins anew."""
    polls = Polls()
    for at in range(3):
        assert not polls.stopped
        fail(polls, at * 1_000.0, forbidden=True)
    assert polls.stopped
    assert not polls.due(moment(1e9), USUAL, urgent=True)
    assert polls.want(0.0, moment(1e9), USUAL) == math.inf
    polls.succeeded(polls.claim("refresh", moment(1e9), USUAL), moment(1e9), 30.0, 0.0)
    assert not polls.stopped
    assert polls.due(moment(1e9 + 31.0), USUAL)


def test_only_refusals_in_a_row_stop_the_polls() -> None:
    """A fault in between may be a proxy's, and so the refusals too."""
    polls = Polls()
    for at, forbidden in enumerate((True, True, False, True, True)):
        fail(polls, at * 1_000.0, forbidden=forbidden)
    assert not polls.stopped


def test_who_waits_does_not_shorten_a_backoff() -> None:
    """A wish for a poll is granted after the pause, not in it."""
    polls = Polls()
    fail(polls, 0.0)
    pause = fail(polls, 100.0)
    at = moment(100.0)
    assert polls.want(at.fast, at, USUAL) == at.fast + pause
    assert not polls.due(moment(100.0 + pause - 0.1), USUAL, urgent=True)


def test_a_wish_brings_the_next_poll_nearer_but_not_further() -> None:
    """The earlier of schedule and wish counts, and never the past."""
    polls, now = Polls(), moment(0.0)
    polls.succeeded(polls.claim("x", now, USUAL), now, 900.0, 0.0)
    assert polls.want(now.fast + 60.0, now, USUAL) == now.fast + 60.0
    assert polls.want(now.fast + 600.0, now, USUAL) == now.fast + 60.0
    later = moment(100.0)
    assert polls.want(now.fast, later, USUAL) == later.fast


def test_the_interval_is_spread_by_a_tenth() -> None:
    """Jitter of -1 to 1 is 10 % earlier or later."""
    polls, now = Polls(), moment(0.0)
    for jitter, gone in ((-1.0, 90.0), (0.0, 100.0), (1.0, 110.0)):
        polls.succeeded(polls.claim("x", now, USUAL), now, 100.0, jitter)
        assert polls.next - now.fast == pytest.approx(gone)


@given(policies, steps)
def test_a_schedule_survives_json(policy: Policy, played: list[tuple[float, str, float]]) -> None:
    """What a ledger keeps is the whole schedule."""
    terms = PollTerms.of(policy, 30.0)
    polls, now = Polls(), 0.0
    for number, (wait, what, jitter) in enumerate(played):
        now += wait
        if what == "forbidden":
            fail(polls, now, terms, forbidden=True, jitter=jitter)
        elif polls.due(moment(now), terms):
            polls.claim(str(number), moment(now), terms)
        told: dict[str, Any] = json.loads(json.dumps(polls.state()))
        assert Polls.of(told).state() == polls.state()
        assert Polls.of(told).next == polls.next


# -- through the books --------------------------------------------------------


class Desk:
    """Books at which entries are posted, with the time they are posted at."""

    def __init__(self, **policy: Any) -> None:
        provider: Any = SimulatedProvider({"a": None})
        self.terms: Terms = terms_of(provider, Policy(cold_reserve=0, **policy))
        self.books = Books()

    def post(self, at: float, entry: Any, told: Mapping[str, Any] | None = None) -> Posted:
        return self.books.post("me", told or {}, entry, moment(at), self.terms)

    def read(self, at: float, used: int, limit: int | None) -> float:
        """Poll, whatever the schedule; return the interval to the next."""
        due = self.post(at, AskToPoll("poll", anyway=True)).verdict
        assert isinstance(due, Due)
        posted = self.post(at, Observe(due.claim, Reading({"a": Usage(used, limit)})))
        (polled,) = [event for event in posted.events if isinstance(event, Polled)]
        return polled.next_poll


def test_far_from_the_limit_polls_are_rare() -> None:
    """Without any spend the longest interval is kept."""
    assert Desk().read(0.0, 0, 1_000) == 900.0
    assert Desk().read(0.0, 5, None) == 900.0


def test_the_next_poll_comes_when_a_quarter_may_be_gone() -> None:
    """At ten own units a second and 7,000 left, in 175 seconds."""
    desk = Desk(lag=0)
    desk.read(0.0, 0, 10_000)
    desk.post(0.0, Reserve("r", {"a": 3_000}, "critical"))
    drawn = desk.books.holders["me"]["a"].drawn
    told = {"a": Tally(drawn, drawn, 3_000, 0, moment(300.0).slow)}
    desk.post(300.0, AskToPoll("x"), told)
    assert desk.read(301.0, 3_000, 10_000) == pytest.approx(7_000 * 0.25 / 10.0)


def test_calls_that_come_every_few_minutes_have_a_pace_too() -> None:
    """Ten units in the last half hour, none in the last five minutes: the pace is theirs."""
    desk = Desk(lag=0)
    desk.read(0.0, 0, 22)
    desk.post(0.0, Reserve("r", {"a": 10}, "critical"))
    drawn = desk.books.holders["me"]["a"].drawn
    desk.post(600.0, AskToPoll("x"), {"a": Tally(drawn, drawn, 10, 0, moment(600.0).slow)})
    assert desk.read(1_800.0, 10, 22) == pytest.approx(0.25 * 12 / (10 / 1_800))


def test_an_import_brings_the_next_poll_nearer() -> None:
    """A quarter of the remainder is gone long before the schedule thought: look again."""
    desk = Desk(lag=0)
    assert desk.read(0.0, 100, 1_000) == 900.0
    desk.post(10.0, Reserve("r1", {"a": 224}, "critical"))
    desk.post(99.0, Reserve("r2", {"a": 1}, "critical"))
    assert isinstance(desk.post(100.0, Reserve("r3", {"a": 1}, "critical")).verdict, Due)


def test_not_even_an_import_polls_sooner_than_the_shortest_interval() -> None:
    """The 30 seconds are kept, and the budget: nine polls of the burst, three of them kept."""
    desk = Desk(lag=0)
    desk.read(0.0, 0, 1_000)
    desk.post(1.0, Reserve("r", {"a": 300}, "critical"))
    asked = [
        at
        for at in range(2, 500)
        if isinstance(desk.post(at, Reserve(f"r{at}", {"a": 1}, "critical")).verdict, Due)
    ]
    # Nobody answers: whose claim lapses after 15 seconds, asks again; eight are left of nine.
    assert asked[:8] == [30, 45, 60, 75, 90, 105, 120, 135]
    assert asked[8:] == [190, 379]


def test_seldom_polls_learn_how_fast_others_spend() -> None:
    """90 units in the quarter of an hour between two polls: that pace is held back."""
    desk = Desk()
    desk.read(0.0, 0, 1_000)
    desk.read(900.0, 90, 1_000)
    meter, mine = desk.books.meters["a"], desk.terms.meters["a"]
    assert meter.margin(moment(900.0).fast, mine) == 6
    assert meter.margin(moment(1_800.0).fast, mine) == 96


def test_a_unit_every_half_hour_is_worth_a_unit_of_margin() -> None:
    """Few as they are, others are there; not for ever after they have gone."""
    desk = Desk()
    desk.read(0.0, 0, 1_000)
    desk.read(1_800.0, 1, 1_000)
    meter, mine = desk.books.meters["a"], desk.terms.meters["a"]
    assert meter.margin(moment(1_800.0).fast, mine) == 1
    for poll in range(20):
        desk.read(2_700.0 + 900.0 * poll, 1, 1_000)
    assert meter.margin(moment(2_700.0 + 900.0 * 20).fast, mine) == 0


def test_intervals_stay_within_the_policy() -> None:
    """However fast it shrinks: never under the shortest, never over the longest."""
    desk = Desk(poll_every=(20, 40), lag=0)
    assert desk.read(0.0, 0, 1_000) == 40.0
    assert desk.read(500.0, 990, 1_000) == 20.0


def test_good_news_is_looked_at_again_soon() -> None:
    """A limit that rose waits for a second reading, after the shortest interval."""
    desk = Desk()
    desk.read(0.0, 0, 100)
    assert desk.read(60.0, 0, 200) == 30.0
    assert desk.books.meters["a"].limit == 100
    assert desk.read(90.0, 0, 200) == 900.0
    assert desk.books.meters["a"].limit == 200


def test_refused_calls_poll_every_quarter_of_an_hour() -> None:
    """While calls are refused for good, somebody may be upgrading the plan."""
    desk = Desk(poll_every=(30, 7_200))
    desk.read(0.0, 100, 100)
    asked = [
        at
        for at in range(10, 7_200, 10)
        if isinstance(desk.post(at, Reserve(f"r{at}", {"a": 1}, "critical")).verdict, Due)
        and desk.read(at, 100, 100)
    ]
    assert asked == [900, 1_800, 2_700, 3_600, 4_500, 5_400, 6_300]


def test_only_the_first_of_many_is_told_to_poll() -> None:
    """Single flight: the others go on with the last reading."""
    desk = Desk()
    desk.read(0.0, 0, 100)
    verdicts = [
        desk.post(900.0, Reserve(f"r{number}", {"a": 1}, "critical")).verdict for number in range(5)
    ]
    assert [type(verdict) for verdict in verdicts] == [Due, *[Granted] * 4]


def test_a_claim_that_was_given_up_is_free_again() -> None:
    """A cancelled poll leaves the next caller to ask."""
    desk = Desk()
    due = desk.post(0.0, Reserve("r1", {"a": 1}, "critical")).verdict
    assert isinstance(due, Due)
    desk.post(1.0, Abandon(due.claim))
    assert isinstance(desk.post(1.0, Reserve("r2", {"a": 1}, "critical")).verdict, Due)


def test_who_asks_too_early_is_told_when() -> None:
    """A claim that is not due answers with the seconds until it is."""
    desk = Desk()
    desk.read(0.0, 0, 100)
    assert desk.post(100.0, AskToPoll("x")).verdict == Done(800.0)
    due = desk.post(900.0, AskToPoll("x")).verdict
    assert isinstance(due, Due)
    assert desk.post(905.0, AskToPoll("y")).verdict == Done(10.0)


def test_a_failure_is_told_with_its_pause() -> None:
    """PollFailed says how often it failed and when the next comes, until polls have stopped."""
    desk = Desk()
    told = []
    for at in range(3):
        due = desk.post(at * 1_000.0, AskToPoll("x", anyway=True)).verdict
        assert isinstance(due, Due)
        error = StatsForbidden("the key is refused") if at else StatsUnavailable("503")
        posted = desk.post(at * 1_000.0, PollLost(due.claim, error, 1.0))
        told += [event for event in posted.events if isinstance(event, PollFailed)]
    # A refused key is asked for no sooner than after the shortest time between polls.
    assert [(event.failures, event.retry_in) for event in told] == [(1, 1.0), (2, 30.0), (3, 30.0)]
    due = desk.post(3_000.0, AskToPoll("x", anyway=True)).verdict
    assert isinstance(due, Due)
    posted = desk.post(3_000.0, PollLost(due.claim, StatsForbidden("again"), 1.0))
    (last,) = [event for event in posted.events if isinstance(event, PollFailed)]
    assert last.retry_in is None
    assert desk.post(9_000.0, AskToPoll("x")).verdict == Done(math.inf)


def test_a_spent_meter_without_polls_is_not_waited_for() -> None:
    """Where polls have stopped nothing heals by itself: the refusal says so."""
    desk = Desk()
    desk.read(0.0, 90, 100)
    desk.books.polls.forbidden = 3
    desk.post(1.0, Reserve("r", {"a": 10}, "critical"))
    verdict = desk.post(2.0, Reserve("s", {"a": 10}, "critical")).verdict
    assert isinstance(verdict, Spent)
    assert verdict.heals is None
