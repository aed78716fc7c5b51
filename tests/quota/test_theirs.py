"""The provider's own time: what its dates say, and how little a wall clock can do about it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from quotaguard.quota.readings import Moment
from quotaguard.quota.theirs import BELIEVED, KEPT, ahead_by, theirs

TRUE = 1_800_000_000.0
FAST = 5_000.0
DAY = 86_400.0
trips = st.floats(0, 10)


def moment(after: float, wrong: float = 0.0) -> Moment:
    """Return a moment of a machine whose wall clock is *wrong* by so many seconds."""
    return Moment(after, FAST + after, TRUE + after + wrong)


def heard(ahead: list[float], at: float, trip: float) -> list[float]:
    """Hear an answer that was asked at *at* and came *trip* seconds later."""
    return ahead_by(ahead, math.floor(TRUE + at + trip / 2), moment(at), moment(at + trip))


@given(
    polls=st.lists(st.tuples(st.floats(0, 1e6), trips), min_size=1, max_size=12),
    wrong=st.floats(-BELIEVED + 10, BELIEVED - 10),
    later=st.floats(0, 1e6),
)
def test_a_wall_clock_that_is_wrong_does_not_matter(
    polls: list[tuple[float, float]], wrong: float, later: float
) -> None:
    """Within half a second and half a trip, the provider's time is known for ever after."""
    ahead: list[float] = []
    for at, trip in polls:
        ahead = heard(ahead, at, trip)
    assert len(ahead) <= KEPT
    now = theirs(ahead, moment(later, wrong))
    assert abs(now.wall - (TRUE + later)) <= 0.5 + 5
    assert (now.slow, now.fast) == (later, FAST + later)


@given(lies=st.lists(st.floats(-1e9, 1e9), max_size=4), later=st.floats(0, 1e6))
def test_four_lies_among_nine_do_no_harm(lies: list[float], later: float) -> None:
    """The median is one of those that are true."""
    ahead = [TRUE - FAST + lie for lie in lies]
    for at in range(9 - len(lies)):
        ahead = heard(ahead, at, 0.0)
    assert abs(theirs(ahead, moment(later)).wall - (TRUE + later)) <= 0.5


@given(wrong=st.floats(2 * DAY, 1e9), sign=st.sampled_from([-1, 1]))
def test_beyond_a_day_the_earlier_time_counts(wrong: float, sign: int) -> None:
    """Nobody knows who is wrong, and to begin a period late costs no money."""
    ahead = heard([], 0.0, 0.0)
    now = theirs(ahead, moment(10.0, sign * wrong))
    assert now.wall <= TRUE + 11
    assert (now.wall < TRUE - DAY) is (sign < 0)


def test_without_any_date_the_wall_clock_is_all_there_is() -> None:
    """As long as the provider tells none."""
    assert theirs([], moment(3.0, 7.0)) == moment(3.0, 7.0)
    assert ahead_by([1.0], None, moment(0), moment(1)) == [1.0]
