"""Budget lines: the waits are exact, and a demand profile can be read both ways."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from quotaguard.quota.lines import _MONDAY, _Demand, line, share_left, wait_for
from quotaguard.quota.readings import Period

DAY = 86_400.0
WEEK = 7 * DAY
START = 1_700_000_000.0
MONTH = Period(START, START + 30 * DAY)
HAIR = 2e-6
"""Seconds: what Unix time as a float tells apart, with room for a sum."""

Profile = tuple[tuple[float, ...], ...]

OFFICE: Profile = tuple(
    tuple(5.0 if day < 5 and 8 <= hour < 18 else 0.0 for hour in range(24)) for day in range(7)
)
"""Nights and weekends without any demand."""

periods = st.builds(
    lambda start, length: Period(start, start + length),
    st.floats(START, START + WEEK),
    st.floats(60.0, 370 * DAY),
)


def shaped(seed: int) -> Profile:
    """Return a profile with many quiet hours and one that is not."""
    chance = Random(seed)
    flat = [chance.choice((0.0, 0.0, 0.25, 1.0, 3.0, 10.0)) for _ in range(167)] + [1.0]
    return tuple(tuple(flat[day * 24 : day * 24 + 24]) for day in range(7))


shapes = st.one_of(st.just(OFFICE), st.integers(0, 1 << 20).map(shaped))
profiles = st.one_of(st.none(), shapes)
slacks = st.sampled_from((0.0, 0.1, 0.3, 0.5, 0.8, 0.95))
limits = st.integers(1, 10_000_000)


def at(period: Period, share: float) -> float:
    """Return the Unix time at which a share of the period has passed."""
    assert period.start is not None
    assert period.length is not None
    return period.start + share * period.length


# -- shares -------------------------------------------------------------------


@given(periods, profiles, st.floats(-0.5, 1.5), st.floats(0.0, 1.0))
def test_the_share_falls_from_one_to_zero(
    period: Period, profile: Profile | None, when: float, later: float
) -> None:
    """Before the period all of its demand is to come, after it none; it never rises."""
    now, then = share_left(period, at(period, when), profile), at(period, when + later)
    assert 0.0 <= now <= 1.0
    assert share_left(period, then, profile) <= now + 1e-9
    if when >= 1.0:
        assert now == 0.0


def test_an_unknown_period_has_no_line() -> None:
    """Without start or end nothing is kept back."""
    assert share_left(Period(), START) == 0.0
    assert share_left(Period(None, START), START - 1) == 0.0


def test_an_even_demand_is_the_time_left() -> None:
    """Without a profile the share is the plain share of time."""
    assert share_left(MONTH, START + 7.5 * DAY) == 0.75


def test_a_profile_weighs_the_hours() -> None:
    """On Friday evening the whole working week of office hours is over."""
    monday = _MONDAY + 2_800 * WEEK
    week = Period(monday, monday + WEEK)
    assert share_left(week, monday + 8 * 3600.0, OFFICE) == 1.0
    assert share_left(week, monday + 13 * 3600.0, OFFICE) == pytest.approx(0.9)
    assert share_left(week, monday + DAY, OFFICE) == pytest.approx(0.8)
    assert share_left(week, monday + 4 * DAY + 18 * 3600.0, OFFICE) == pytest.approx(0.0)


@given(shapes, st.floats(START, START + 400 * DAY))
def test_a_profile_can_be_read_both_ways(profile: Profile, wall: float) -> None:
    """Demand at a time, and the first time of that demand, undo each other."""
    demand = _Demand(profile)
    back = demand.when(demand.at(wall))
    assert demand.at(back) == pytest.approx(demand.at(wall), abs=1e-6)
    hour, past = divmod((wall - _MONDAY) % WEEK, 3600.0)
    # At the stroke of an hour the quiet ones before it have the same demand.
    if past > 1.0 and profile[int(hour) // 24][int(hour) % 24]:
        assert back == pytest.approx(wall, abs=0.01)


# -- lines --------------------------------------------------------------------


@given(slacks, st.floats(0.0, 1.0), limits)
def test_the_line_is_the_share_that_others_need(slack: float, share: float, limit: int) -> None:
    """A line is the least whole number that is not below its share; never above the limit."""
    kept = line(slack, share, limit)
    exact = (1.0 - slack) * share * limit
    assert exact - 1e-6 <= kept < exact + 1.0
    assert kept <= limit


@given(st.floats(0.0, 1.0), limits)
def test_who_has_all_slack_has_no_line(share: float, limit: int) -> None:
    """Slack 1.0 is stopped by the limit alone."""
    assert line(1.0, share, limit) == 0
    assert wait_for(0, 1.0, limit, MONTH, START) == 0.0


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), limits, slacks, slacks)
def test_lines_are_nested(some: float, other: float, limit: int, one: float, two: float) -> None:
    """The less slack and the more time left, the higher the line."""
    less, more = sorted((one, two))
    early, late = sorted((some, other), reverse=True)
    assert line(less, early, limit) >= line(more, early, limit)
    assert line(less, early, limit) >= line(less, late, limit)


def test_rounding_does_not_raise_a_line() -> None:
    """0.2 of 1,000 is 200, whatever the floats say."""
    assert line(0.8, 1.0, 1_000) == 200
    assert line(0.9, 1.0, 10) == 1


# -- waits --------------------------------------------------------------------


@settings(max_examples=300)
@given(periods, profiles, slacks, limits, st.floats(0.0, 0.999), st.floats(0.0, 1.2))
@example(Period(START, START + 256.0), None, 0.8, 352, 5.090909007887848 / 256.0, 69 / 352)
@example(Period(_MONDAY, _MONDAY + WEEK), OFFICE, 0.5, 10, 0.0, 0.4)
def test_a_wait_is_exact(
    period: Period, profile: Profile | None, slack: float, limit: int, when: float, left: float
) -> None:
    """After the wait the line lets the call go; any sooner, it does not."""
    wall, remaining = at(period, when), int(left * limit)
    delay = wait_for(remaining, slack, limit, period, wall, profile)
    assert 0.0 <= delay < math.inf
    assert period.end is not None
    assert delay <= period.end - wall + HAIR
    held = (1.0 - slack) * limit
    rounding = held * 1e-5 + 1e-6
    after = held * share_left(period, wall + delay + HAIR, profile)
    assert after <= remaining + rounding
    for sooner in (HAIR, 1.0, delay / 2):
        if profile is None and sooner < delay:
            before = held * share_left(period, wall + delay - sooner, profile)
            assert before >= remaining - rounding


@settings(max_examples=300)
@given(periods, slacks, limits, st.floats(0.0, 0.999), st.floats(0.0, 1.0))
def test_a_line_that_holds_back_tells_a_wait(
    period: Period, slack: float, limit: int, when: float, left: float
) -> None:
    """Where the line is above the remainder the wait is not below what a clock tells."""
    wall, remaining = at(period, when), int(left * limit)
    kept = line(slack, share_left(period, wall), limit)
    assume(kept > remaining)
    delay = wait_for(remaining, slack, limit, period, wall)
    if delay < HAIR:
        # So close that the call goes: the line is reached within the clock's rounding.
        share = share_left(period, wall + 2 * HAIR)
        assert (1.0 - slack) * share * limit <= remaining + 1e-6
    else:
        assert kept >= remaining + 1


def test_a_wait_in_quiet_hours_ends_where_they_begin() -> None:
    """A line that has fallen far enough at six in the evening is not waited for till morning."""
    monday = _MONDAY + 2_800 * WEEK
    week = Period(monday, monday + WEEK)
    noon = monday + 12 * 3600.0
    # A fifth of the week's demand is gone on Monday at 18:00, and then comes the night.
    assert wait_for(4, 0.5, 10, week, noon, OFFICE) == pytest.approx(6 * 3600.0)


@pytest.mark.parametrize("period", [Period(), Period(None, START), Period(START, None)])
def test_no_line_helps_in_an_unknown_period(period: Period) -> None:
    """Where the period is not known no time can be told."""
    assert wait_for(1, 0.5, 10, period, START) == math.inf


def test_what_is_gone_is_not_waited_for() -> None:
    """No line falls below nothing."""
    assert wait_for(-1, 0.5, 10, MONTH, START) == math.inf
