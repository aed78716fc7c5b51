"""I10: an answer that stands alone never raises the remainder, whatever it says.

What one answer says may be a stale replica's, a cache's, or another account's. So news
that grows is explained by the clock, or said twice running.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard import Policy
from quotaguard.quota.account import Books, Terms
from quotaguard.quota.entries import Touch
from quotaguard.quota.events import PeriodTurned, Polled
from quotaguard.quota.meter import MeterTerms
from quotaguard.quota.observing import Observe
from quotaguard.quota.polls import Claim, PollTerms
from quotaguard.quota.readings import UNKNOWN_PERIOD, Meter, Moment, Period, Reading, Usage
from quotaguard.testing.rules import Broken

APART = 1000.0
"""Seconds between two answers: more than the lag and than the paranoid lag."""

NOW = 1_700_000_000.0
THIS = Period.parse("2023-11-01T00:00:00Z", "2023-12-01T00:00:00Z")
LAST = Period.parse("2023-10-01T00:00:00Z", "2023-11-01T00:00:00Z")
NEXT = Period.parse("2023-12-01T00:00:00Z", "2024-01-01T00:00:00Z")
YEARS = Period.parse("2023-11-01T00:00:00Z", "2033-12-01T00:00:00Z")
SOONER = Period.parse("2023-11-01T00:00:00Z", "2023-11-30T00:00:00Z")
PERIODS = (THIS, LAST, NEXT, YEARS, SOONER, UNKNOWN_PERIOD)


class Said(NamedTuple):
    """One answer."""

    used: int
    limit: int | None
    period: Period = THIS

    @property
    def left(self) -> float:
        return math.inf if self.limit is None else self.limit - self.used


class Desk:
    """The books of one account with one meter, and its clock."""

    def __init__(self, margin: Any = 0) -> None:
        policy = Policy(cold_reserve=0, margin=margin)
        meters = {"units": MeterTerms.of(Meter("units"), policy)}
        self.terms = Terms("vendor", "account", meters, PollTerms(30, 900, 27))
        self.books = Books()
        self.now = Moment(5_000.0, 9_000.0, NOW)
        self.polls = 0

    def wait(self, seconds: float = APART) -> None:
        slow, fast, wall = self.now
        self.now = Moment(slow + seconds, fast + seconds, wall + seconds)

    def hears(self, said: Said, *, trusted: bool = False) -> list[object]:
        """Let an answer come; return the events."""
        self.polls += 1
        usage = Usage(said.used, said.limit)
        reading = Reading({"units": usage}, said.period)
        entry = Observe(Claim(f"p{self.polls}", self.now), reading, trusted=trusted)
        posted = self.books.post("h", {}, entry, self.now, self.terms)
        again = Books.of(json.loads(json.dumps(self.books.state())))
        if again.state() != self.books.state():
            raise Broken("JSON", "the books are others when they are read again")
        return list(posted.events)

    @property
    def left(self) -> float:
        self.books.post("h", {}, Touch(), self.now, self.terms)
        room = self.books.room("units", self.now, self.terms)
        return math.inf if room is None else max(0, room)


SAID = st.builds(
    Said,
    used=st.sampled_from([0, 5, 400, 401, 990, 10**9]) | st.integers(0, 2000),
    limit=st.sampled_from([1000, 1000, 0, 200, 10_000, None]),
    period=st.sampled_from(PERIODS),
)


@given(answers=st.lists(SAID, min_size=1, max_size=12))
def test_one_answer_alone_never_raises_the_remainder(answers: list[Said]) -> None:
    """What is left is at most what was left, or what two answers running agree on.

    Of a period that two answers running tell, though it is not the books', the second one
    begins the counts anew; and so does one that goes on even longer than the first.
    """
    desk = Desk()
    desk.hears(Said(400, 1000))
    before = heard = Said(400, 1000)
    for said in answers:
        desk.wait()
        was, period = desk.left, desk.books.period
        desk.hears(said)
        most = max(was, min(said.left, heard.left))
        ends = [each.period.end or 0.0 for each in (before, said)]
        if said.period != period and (said.period == before.period or ends[0] <= ends[1]):
            most = max(most, said.left)
        if period.end is not None and desk.now.wall >= period.end:
            most = math.inf  # two answers brought a period that is over, and the clock ends it
        assert desk.left <= max(0, most)
        before = said
        if desk.books.asked == desk.now.slow:  # else it was of a period that is over
            heard = said


@given(
    bad=SAID,
    every=st.sampled_from([121.0, 200.0, 400.0, 900.0]),
    before=st.integers(1, 4),
)
def test_three_good_answers_make_one_bad_one_forgotten(
    bad: Said, every: float, before: int
) -> None:
    """Nothing of it is held back: what it taught of others' pace was not so."""
    desk = Desk(margin="auto")
    for answers, said in ((before, Said(400, 1000)), (1, bad), (3, Said(400, 1000))):
        for _ in range(answers):
            desk.wait(every)
            desk.hears(said)
    assert desk.left == 600
    assert desk.books.meters["units"].rise == 0


def test_others_that_really_spend_are_still_seen_after_a_refund() -> None:
    """The two answers that prove it also show at which pace the others go on."""
    desk = Desk(margin="auto")
    for used in (400, 410, 420, 430, 130, 140, 150):
        desk.wait(200)
        desk.hears(Said(used, 1000))
    assert desk.books.meters["units"].rise == pytest.approx(10 / 200)
    assert desk.left < 850


@pytest.mark.parametrize("period", PERIODS, ids=["this", "last", "next", "years", "sooner", "none"])
@pytest.mark.parametrize("used", [0, 400])
def test_another_period_is_believed_when_it_is_told_twice(period: Period, used: int) -> None:
    """The plan may have changed in the middle of a month; the second answer says so."""
    desk = Desk()
    desk.hears(Said(400, 1000))
    desk.wait()
    first = desk.hears(Said(used, 5000, period))
    assert desk.left == 600
    assert [type(event) for event in first if isinstance(event, PeriodTurned)] == []
    desk.wait()
    second = desk.hears(Said(used, 5000, period))
    assert desk.left == 5000 - used
    turned = [event for event in second if isinstance(event, PeriodTurned)]
    assert len(turned) == (period not in (THIS, UNKNOWN_PERIOD))


def test_a_period_that_two_wrong_answers_brought_is_left_again() -> None:
    """Two right ones are enough, however long it is until the wrong one would be over."""
    desk = Desk()
    desk.hears(Said(400, 1000))
    for said in (Said(0, 1000, NEXT), Said(0, 1000, NEXT), Said(400, 1000), Said(400, 1000)):
        desk.wait()
        desk.hears(said)
    assert desk.books.period == THIS
    assert desk.left == 600
    assert desk.books.asked == desk.now.slow


def test_the_user_may_say_that_it_is_so() -> None:
    """refresh() is how somebody tells who has just changed the plan."""
    desk = Desk()
    desk.hears(Said(400, 1000))
    desk.wait(5)
    desk.hears(Said(0, 5000, NEXT), trusted=True)
    assert desk.left == 5000


def test_bad_news_of_another_period_acts_at_once() -> None:
    """A smaller plan need not be told twice, nor a limit that is used up."""
    desk = Desk()
    desk.hears(Said(400, 1000))
    desk.wait()
    desk.hears(Said(0, 500, YEARS))
    assert desk.left == 100


def test_a_period_that_is_over_says_nothing() -> None:
    """Last month was nearly spent; this month is not."""
    desk = Desk()
    desk.hears(Said(400, 1000))
    desk.wait()
    events = desk.hears(Said(990, 1000, LAST))
    assert desk.left == 600
    assert any(isinstance(event, Polled) for event in events)


def test_the_next_poll_comes_soon_while_a_period_is_contested() -> None:
    """Nobody waits a quarter of an hour to learn whether the plan has changed."""
    desk = Desk()
    desk.hears(Said(400, 1000))
    desk.wait()
    (polled,) = [each for each in desk.hears(Said(0, 1000, NEXT)) if isinstance(each, Polled)]
    assert polled.next_poll == 30


def test_the_clock_explains_a_new_period() -> None:
    """At its end one answer is enough; the counts begin anew."""
    desk = Desk()
    desk.hears(Said(1000, 1000))
    desk.wait(THIS.end - desk.now.wall - 1)  # type: ignore[operator] # it has an end
    events = desk.hears(Said(0, 1000, NEXT))
    assert desk.left == 1000
    assert [each.seen for each in events if isinstance(each, PeriodTurned)] == [True]


def test_the_clock_ends_no_period_that_the_vendor_says_goes_on() -> None:
    """A longer term may have begun: as long as nobody knows, nothing begins anew."""
    desk = Desk()
    desk.hears(Said(1000, 1000))
    desk.wait(THIS.end - desk.now.wall - 600)  # type: ignore[operator] # it has an end
    desk.hears(Said(1000, 1000, YEARS))
    desk.wait(700)
    assert desk.left == 0
    desk.hears(Said(1000, 1000, YEARS))
    assert desk.left == 0
    assert desk.books.period == YEARS


def test_a_window_that_moves_with_every_answer_is_followed() -> None:
    """A rolling window ends a little later each time."""
    desk = Desk()
    for hour in range(12):
        period = Period(NOW + 3600 * hour - 86_400, NOW + 3600 * hour)
        desk.hears(Said(900 - 50 * hour, 1000, period))
        desk.wait(3600)
    assert desk.books.period.end is not None
    assert desk.books.period.end >= NOW + 3600 * 10
    assert desk.left >= 1000 - (900 - 50 * 9)


def test_a_replica_that_stays_behind_for_hours_does_not_bring_the_old_month_back() -> None:
    """It tells of last month now and then, long after the turn."""
    desk = Desk()
    desk.hears(Said(995, 1000))
    desk.wait(THIS.end - desk.now.wall + 60)  # type: ignore[operator] # it has an end
    desk.hears(Said(3, 1000, NEXT))
    for _ in range(5):
        desk.wait(3600)
        desk.hears(Said(995, 1000, THIS))
        assert desk.left == 997
        desk.wait(3600)
        desk.hears(Said(3, 1000, NEXT))
        assert desk.left == 997
    assert desk.books.period == NEXT
