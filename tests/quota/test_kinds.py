"""Counters start anew with a period, levels do not; and what no subscription means."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.errors import NoSubscription, StatsUnavailable
from quotaguard.quota.account import Books, Terms, Verdict
from quotaguard.quota.entries import AskToPoll, Doubt, Observe, PollLost, Reserve, Touch
from quotaguard.quota.meter import MeterTerms
from quotaguard.quota.policy import Policy
from quotaguard.quota.polls import Claim, PollTerms
from quotaguard.quota.readings import Meter, Moment, Period, Reading, Usage
from quotaguard.quota.standing import standing
from quotaguard.quota.verdicts import Due, Granted, Later, Spent, Unknown

WALL = 1_800_000_000.0
MONTH = 30 * 86_400.0
POLICY = Policy(cold_reserve=0, max_age=90 * 86_400)


class Desk:
    """The books of an account with a counter and a level, and a clock."""

    def __init__(self, policy: Policy = POLICY) -> None:
        meters = {"events": Meter("events"), "segments": Meter("segments", "level")}
        terms = {name: MeterTerms.of(meter, policy) for name, meter in meters.items()}
        self.terms = Terms("vendor", "account", MappingProxyType(terms), PollTerms(30, 900, 27))
        self.books = Books()
        self.at = 0.0
        self.period = Period(WALL, WALL + MONTH)

    @property
    def now(self) -> Moment:
        return Moment(self.at, self.at, WALL + self.at)

    def post(self, entry: object) -> Verdict:
        tallies = self.books.holders.get("me", {})
        posted = self.books.post("me", tallies, entry, self.now, self.terms)  # type: ignore[arg-type] # an entry
        return posted.verdict

    def claim(self) -> Claim:
        due = self.post(AskToPoll("poll", anyway=True))
        assert isinstance(due, Due)
        return due.claim

    def read(self, events: int, segments: int, limit: int = 100) -> None:
        usages = {"events": Usage(events, limit), "segments": Usage(segments, limit)}
        claim = self.claim()
        self.at += 0.5
        self.post(Observe(claim, Reading(usages, self.period)))

    def asks(self, meter: str, units: int = 1, priority: str = "critical") -> Verdict:
        return self.post(Reserve("r", {meter: units}, priority, may_poll=False))


@given(used=st.integers(0, 100), level=st.integers(0, 100), later=st.floats(6, 5 * MONTH))
def test_a_new_period_leaves_a_level_where_it_is(used: int, level: int, later: float) -> None:
    """By the clock or by a reading: only what is deleted comes back."""
    desk = Desk()
    desk.read(used, level)
    desk.at = MONTH + later
    desk.post(Touch())
    assert desk.books.meters["segments"].known() == level
    assert desk.books.meters["events"].known() <= 0
    desk.period = Period(WALL + MONTH, WALL + 2 * MONTH)
    desk.read(1, level)
    assert desk.books.meters["segments"].known() == level
    assert isinstance(desk.asks("segments", 101 - level), Spent) or level == 0


def test_a_level_has_no_line_and_no_reset() -> None:
    """Time does not give a segment back, so none is kept for later."""
    desk = Desk()
    desk.read(0, 0)
    assert isinstance(desk.asks("events", 90, "batch"), Later)
    assert isinstance(desk.asks("segments", 90, "batch"), Granted)
    verdict = desk.asks("segments", 20, "batch")
    assert isinstance(verdict, Spent)
    assert verdict.turns is None
    assert verdict.facts.resets_at is None
    rows = standing(desk.books, desk.now, desk.terms)
    assert rows["segments"].period == Period()
    assert rows["events"].period == desk.period


def test_a_deletion_comes_back_by_two_readings_past_the_longest_lag() -> None:
    """A level falls without a new period: believed like a refund, not sooner."""
    desk = Desk()
    desk.read(0, 100)
    assert isinstance(desk.asks("segments"), Spent)
    for at, level, goes in ((1000, 60, False), (2000, 60, True)):
        desk.at = at
        desk.read(0, level)
        assert isinstance(desk.asks("segments"), Granted) is goes


def test_without_a_subscription_nothing_that_was_read_is_true_any_more() -> None:
    """Closed by default at once; the next good reading opens again."""
    desk = Desk()
    desk.read(1, 1)
    desk.at = 100
    desk.post(PollLost(desk.claim(), NoSubscription("nothing is subscribed")))
    verdict = desk.asks("events")
    assert isinstance(verdict, Unknown)
    assert "NoSubscription" in verdict.facts.reason
    desk.at = 200
    desk.read(2, 2)
    assert isinstance(desk.asks("events"), Granted)


def test_with_an_open_policy_it_goes_on() -> None:
    """That is what on_unknown is for."""
    desk = Desk(POLICY.but(on_unknown="open"))
    desk.read(1, 1)
    desk.post(PollLost(desk.claim(), NoSubscription("nothing is subscribed")))
    assert isinstance(desk.asks("events"), Granted)


def test_any_other_failure_keeps_the_reading() -> None:
    """An outage of theirs is no outage of ours."""
    desk = Desk()
    desk.read(1, 1)
    desk.post(PollLost(desk.claim(), StatsUnavailable("they are down")))
    assert isinstance(desk.asks("events"), Granted)


@pytest.mark.parametrize("entry", [Doubt(), Touch()])
def test_doubt_asks_for_a_reading_now_and_touches_no_count(entry: object) -> None:
    """The next reading tells a spent quota from haste; nothing else changes."""
    desk = Desk()
    desk.read(5, 5)
    desk.at = 40
    before = desk.books.meters["events"].state()
    desk.post(entry)
    assert desk.books.meters["events"].state() == before
    due = desk.books.polls.due(desk.now, desk.terms.polls)
    assert due is isinstance(entry, Doubt)
