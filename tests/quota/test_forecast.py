"""The forecast: an honest average, never a number that is none, and None where nothing is known."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random
from statistics import median
from typing import Any, Literal

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from quotaguard import Policy
from quotaguard.quota.account import Books, Terms
from quotaguard.quota.entries import Blocked, Touch
from quotaguard.quota.forecast import EARLY, Forecast, ForecastRow, forecast
from quotaguard.quota.lines import share_left
from quotaguard.quota.meter import MeterTerms
from quotaguard.quota.observing import Observe
from quotaguard.quota.polls import Claim, PollTerms
from quotaguard.quota.readings import (
    BARE_DATE_SKEW,
    FRACTIONS,
    Meter,
    Moment,
    Period,
    Reading,
    Usage,
)
from quotaguard.quota.standing import standing

HOUR = 3_600.0
DAY = 24 * HOUR
START = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
NOVEMBER = Period(START, START + 30 * DAY)
"""The 1st of November 2026 is a Sunday."""

Profile = tuple[tuple[float, ...], ...]
Kind = Literal["counter", "level", "balance"]

OFFICE: Profile = tuple(
    tuple(1.0 if day < 5 and 8 <= hour < 18 else 0.0 for hour in range(24)) for day in range(7)
)


def moment(wall: float) -> Moment:
    """Return a moment of clocks that began apart."""
    return Moment(wall - START + 1_024.0, wall - START + 2_048.0, wall)


class Desk:
    """The books of one meter, and the forecast that they give."""

    def __init__(
        self, *, kind: Kind = "counter", scale: int = 1, meter: str = "leads", **policy: Any
    ) -> None:
        mine = MeterTerms.of(Meter(meter, kind, scale), Policy(**policy))
        self.terms = Terms("octanist", "a1b2c3", {meter: mine}, PollTerms(30.0, 900.0, 27.0))
        self.books = Books()

    def reads(
        self,
        at: float,
        used: int,
        limit: int | None,
        period: Period = NOVEMBER,
        *,
        trusted: bool = True,
    ) -> Desk:
        """Adopt a reading that was asked *at* that Unix time."""
        reading = Reading(dict.fromkeys(self.terms.meters, Usage(used, limit)), period)
        claim = Claim("poll", moment(at))
        self.books.post("h", {}, Observe(claim, reading, trusted=True), moment(at), self.terms)
        return self

    def row(self, at: float) -> ForecastRow:
        """Return what is expected at that Unix time."""
        self.books.post("h", {}, Touch(), moment(at), self.terms)
        ((row),) = forecast(self.books, moment(at), self.terms)
        return row


def expected(
    used: int, limit: int | None, share: float = 0.5, period: Period = NOVEMBER, **given: Any
) -> ForecastRow:
    """Return what is expected after that share of the period's time."""
    assert period.start is not None
    assert period.length is not None
    at = period.start + share * period.length
    return Desk(**given).reads(at, used, limit, period).row(at)


UNKNOWN = (
    "burn_rate",
    "expected_at_end",
    "expected_overage",
    "overage_cost",
    "runs_out_at",
)
"""What a row cannot tell without a basis."""


def says_nothing(row: ForecastRow) -> bool:
    """Whether a row tells none of the figures that an average gives."""
    return all(getattr(row, name) is None for name in UNKNOWN)


# -- laws -----------------------------------------------------------------------

periods = st.builds(
    lambda start, length: Period(START + start, START + start + length),
    st.floats(0.0, 30 * DAY),
    st.sampled_from((HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY)),
)
counted = st.integers(0, 10**15)
limits = st.one_of(st.none(), counted)
shares = st.floats(0.0, 1.0)


def shaped(seed: int) -> Profile:
    """Return a profile with many quiet hours and one that is not."""
    chance = Random(seed)
    flat = [chance.choice((0.0, 0.0, 0.25, 1.0, 3.0, 10.0)) for _ in range(167)] + [1.0]
    return tuple(tuple(flat[day * 24 : day * 24 + 24]) for day in range(7))


profiles = st.one_of(st.none(), st.just(OFFICE), st.integers(0, 1 << 20).map(shaped))
policies = st.fixed_dictionaries(
    {},
    optional={
        "profile": profiles,
        "overage": st.integers(0, 10**6),
        "overage_price": st.floats(0.0, 1e6),
    },
)
scales = st.sampled_from((1, FRACTIONS))


@settings(max_examples=300)
@given(counted, limits, shares, periods, policies, scales, st.sampled_from(("counter", "level")))
@example(0, 0, 1.0, NOVEMBER, {}, 1, "counter")
@example(1, None, EARLY, NOVEMBER, {"overage_price": 0.1}, FRACTIONS, "counter")
def test_no_number_is_none(
    used: int,
    limit: int | None,
    share: float,
    period: Period,
    policy: dict[str, Any],
    scale: int,
    kind: Kind,
) -> None:
    """No NaN, no infinity, nothing below 0; the basis says whether the figures are known."""
    row = expected(used, limit, share, period, scale=scale, kind=kind, **policy)
    for name in ("used", "limit", *UNKNOWN):
        value = getattr(row, name)
        if isinstance(value, int | float):
            assert 0 <= value < math.inf, name
    known = row.basis in {"average", "profile"}
    assert known == (row.burn_rate is not None) == (row.expected_at_end is not None)
    assert known == (row.expected_overage is not None)
    assert (row.overage_cost is not None) == (known and "overage_price" in policy)
    if row.expected_at_end is not None:
        assert row.expected_at_end >= row.used
    assert repr(row)


@settings(max_examples=300)
@given(counted, counted, shares, periods, policies)
def test_it_runs_out_if_more_is_expected_than_there_is(
    used: int, limit: int, share: float, period: Period, policy: dict[str, Any]
) -> None:
    """A date within the rest of the period, if and only if the end passes limit and overage."""
    row = expected(used, limit, share, period, **policy)
    assert period.start is not None
    assert period.length is not None
    now = period.start + share * period.length
    whole = limit + policy.get("overage", 0)
    over = row.expected_at_end is not None and row.expected_at_end > whole
    assert (row.runs_out_at is not None) == (used >= whole or over)
    if row.runs_out_at is None:
        return
    when = row.runs_out_at.timestamp()
    assert now - 1e-5 <= when <= max(now, period.end or 0.0) + 1e-5
    if used >= whole:
        assert when == pytest.approx(now, abs=1e-5)
    else:
        # At that time just as much is expected as there is, and not a unit earlier.
        then = 1.0 - share_left(period, when, policy.get("profile"))
        assert then * (row.expected_at_end or 0.0) == pytest.approx(whole, rel=1e-4)


@given(counted, limits, st.floats(EARLY, 1.0), periods, policies, st.integers(0, 10**15))
def test_more_used_is_never_less_expected(
    used: int, limit: int | None, share: float, period: Period, policy: dict[str, Any], more: int
) -> None:
    """Rate, end, overage and cost rise with what is used; the date comes sooner."""
    low = expected(used, limit, share, period, **policy)
    high = expected(used + more, limit, share, period, **policy)
    assert low.basis == high.basis
    for name in ("burn_rate", "expected_at_end", "expected_overage", "overage_cost"):
        assert (getattr(low, name) or 0.0) <= (getattr(high, name) or 0.0), name
    if low.runs_out_at is not None:
        assert high.runs_out_at is not None
        assert high.runs_out_at <= low.runs_out_at + timedelta(milliseconds=1)


@given(
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.floats(EARLY, 1.0),
    periods,
    profiles,
    st.integers(1, 10**6),
)
def test_the_size_of_a_unit_does_not_matter(
    used: int, limit: int, share: float, period: Period, profile: Profile | None, factor: int
) -> None:
    """Cents and euros: all counts times a factor, the dates stay."""
    small = expected(used, limit, share, period, profile=profile)
    large = expected(used * factor, limit * factor, share, period, profile=profile)
    assert large.basis == small.basis
    for name in ("burn_rate", "expected_at_end", "expected_overage"):
        one, many = getattr(small, name), getattr(large, name)
        if one is None:
            assert many is None
        else:
            assert many == pytest.approx(one * factor, rel=1e-9, abs=1e-6 * factor), name
    assume(abs((small.expected_at_end or 0.0) - limit) > 1e-6)
    assert (small.runs_out_at is None) == (large.runs_out_at is None)
    if small.runs_out_at is not None and large.runs_out_at is not None:
        assert abs(small.runs_out_at - large.runs_out_at) < timedelta(seconds=1)


@given(counted, limits, shares, periods, policies)
def test_a_forecast_changes_nothing(
    used: int, limit: int | None, share: float, period: Period, policy: dict[str, Any]
) -> None:
    """The same books and the same moment give the same forecast, and stay as they are."""
    assert period.start is not None
    assert period.length is not None
    at = period.start + share * period.length
    desk = Desk(**policy).reads(at, used, limit, period)
    before = desk.books.state()
    first = forecast(desk.books, moment(at), desk.terms)
    assert forecast(desk.books, moment(at), desk.terms) == first
    assert desk.books.state() == before


# -- examples ---------------------------------------------------------------------


def test_an_even_month() -> None:
    """600 of 1,000 in half a month: 1,200 at its end, and nothing left after 25 days."""
    row = expected(600, 1000, overage_price=0.05)
    assert row.basis == "average"
    assert row.burn_rate == pytest.approx(600 / (15 * DAY))
    assert row.expected_at_end == pytest.approx(1200)
    assert row.expected_overage == pytest.approx(200)
    assert row.overage_cost == pytest.approx(10)
    assert row.runs_out_at is not None
    assert row.runs_out_at.utcoffset() == timedelta(0)
    assert row.runs_out_at.timestamp() == pytest.approx(START + 25 * DAY, abs=1)
    assert row.resets_at == datetime(2026, 12, 1, tzinfo=UTC)


def test_a_profile_shapes_the_rest() -> None:
    """On Friday evening the week is over for an office: what is used is what there will be."""
    monday = datetime(2026, 11, 2, tzinfo=UTC).timestamp()
    week = Period(monday, monday + 7 * DAY)
    evening = (4 * 24 + 18) / (7 * 24)
    even, office = (expected(950, 1000, evening, week, profile=p) for p in (None, OFFICE))
    assert office.expected_at_end == pytest.approx(950)
    assert (office.basis, office.runs_out_at) == ("profile", None)
    assert even.expected_at_end == pytest.approx(950 / evening)
    assert even.runs_out_at is not None
    # The rate is what it was, by the clock, with or without a profile.
    assert office.burn_rate == even.burn_rate


def test_with_a_profile_the_date_falls_into_its_hours() -> None:
    """300 of 500 used by Wednesday noon: the rest is gone on Thursday, in office hours."""
    monday = datetime(2026, 11, 2, tzinfo=UTC).timestamp()
    row = expected(300, 360, (2 * 24 + 13) / 168, Period(monday, monday + 7 * DAY), profile=OFFICE)
    # 25 of 50 hours have gone by, at 12 units an hour; 60 more are 5 hours.
    assert row.expected_at_end == pytest.approx(600)
    assert row.runs_out_at is not None
    assert row.runs_out_at.timestamp() == pytest.approx(monday + 2 * DAY + 18 * HOUR, abs=2)


def test_overage_that_may_be_bought_moves_the_date_and_not_the_overage() -> None:
    """The date is when the guard would stop; the overage is what lies past the plan's limit."""
    plain, bought = expected(600, 1000), expected(600, 1000, overage=100, overage_price=0.5)
    assert plain.runs_out_at is not None
    assert bought.runs_out_at is not None
    assert bought.runs_out_at > plain.runs_out_at
    assert bought.expected_overage == plain.expected_overage == pytest.approx(200)
    assert (plain.overage_cost, bought.overage_cost) == (None, pytest.approx(100))
    assert expected(600, 1000, overage=500).runs_out_at is None


def test_each_meter_has_its_own_price() -> None:
    """What `Policy.meters` says of a meter holds for its forecast."""
    policy = Policy(overage_price=1.0, meters={"leads": Policy(overage_price=0.25)})
    desk = Desk()
    mine = MeterTerms.of(Meter("leads"), policy.of("leads"))
    desk.terms = Terms("octanist", "a1b2c3", {"leads": mine}, desk.terms.polls)
    at = START + 15 * DAY
    assert desk.reads(at, 600, 1000).row(at).overage_cost == pytest.approx(50)


def test_an_upgrade_counts_at_once() -> None:
    """The average stays, the new limit is what it is held against."""
    at = START + 15 * DAY
    desk = Desk().reads(at, 1000, 1000)
    before = desk.row(at)
    after = desk.reads(at + 60, 1000, 5000).row(at + 60)
    assert before.runs_out_at == datetime.fromtimestamp(at, UTC)
    assert (after.runs_out_at, after.expected_overage) == (None, 0)
    assert after.expected_at_end == pytest.approx(before.expected_at_end, rel=1e-4)


def test_unlimited_meters_have_a_rate_and_no_end() -> None:
    """There is nothing to run out of, and no overage to pay for."""
    row = expected(600, None, overage_price=2.0)
    assert (row.limit, row.runs_out_at, row.expected_overage, row.overage_cost) == (
        None,
        None,
        0,
        0,
    )
    assert row.expected_at_end == pytest.approx(1200)


@pytest.mark.parametrize("used", [0, 4839])
def test_a_plan_that_includes_nothing_has_run_out(used: int) -> None:
    """Limit 0 is not unlimited: it has run out now, and all that comes is overage."""
    row = expected(used, 0, overage_price=0.1)
    assert row.runs_out_at == datetime.fromtimestamp(START + 15 * DAY, UTC)
    assert row.expected_overage == pytest.approx(2 * used)
    assert row.overage_cost == pytest.approx(0.2 * used)


def test_fractions_are_told_as_they_are_counted() -> None:
    """A meter of money is forecast in money."""
    row = expected(12 * FRACTIONS + 500_000, 20 * FRACTIONS, scale=FRACTIONS)
    assert (row.used, row.limit) == (12.5, 20)
    assert row.expected_at_end == pytest.approx(25)
    assert row.expected_overage == pytest.approx(5)
    assert row.burn_rate == pytest.approx(float(Fraction(25, 2) / (15 * 86_400)))


def test_nothing_used_is_an_average_too() -> None:
    """Half a month without a unit: none is expected."""
    row = expected(0, 1000)
    assert (row.burn_rate, row.expected_at_end, row.expected_overage) == (0, 0, 0)
    assert row.runs_out_at is None


def test_own_spend_since_the_reading_counts() -> None:
    """Used is what the standing says: the reading, and what we have spent since."""
    at = START + 15 * DAY
    desk = Desk().reads(at, 600, 1000)
    desk.books.meters["leads"].resolve(100, 0, moment(at + 1).slow, desk.terms.meters["leads"])
    row = desk.row(at + 1)
    assert row.used == standing(desk.books, moment(at + 1), desk.terms)["leads"].used == 700
    assert row.expected_at_end == pytest.approx(1400, rel=1e-4)


# -- what is not known --------------------------------------------------------------


@pytest.mark.parametrize("share", [-0.1, 0.0, 0.001, 0.049])
def test_the_first_twentieth_says_nothing(share: float) -> None:
    """A first busy hour is no month: None rather than nonsense."""
    row = expected(40, 1000, share)
    assert row.basis == "too early"
    assert says_nothing(row)
    assert expected(40, 1000, 0.051).basis == "average"


def test_by_a_profile_the_beginning_ends_with_the_first_hours() -> None:
    """A weekend without demand is no part of what has passed."""
    saturday = datetime(2026, 11, 7, tzinfo=UTC).timestamp()
    week = Period(saturday, saturday + 7 * DAY)
    assert expected(5, 100, 2 / 7, week, profile=OFFICE).basis == "too early"
    assert expected(5, 100, 2 / 7).basis == "average"
    assert expected(5, 100, (2 * 24 + 12) / 168, week, profile=OFFICE).basis == "profile"


def test_a_bare_date_is_in_doubt_for_longer() -> None:
    """Its start may be off by 14 h: two days are not two days."""
    bare = Period(START, START + 30 * DAY, BARE_DATE_SKEW)
    assert expected(40, 1000, 2 / 30, bare).basis == "too early"
    assert expected(40, 1000, 2.5 / 30, bare).basis == "average"


@pytest.mark.parametrize(
    "period",
    [Period(), Period(None, START + 30 * DAY), Period(START, None)],
    ids=["neither", "no start", "no end"],
)
def test_an_unknown_period_has_no_end_to_expect(period: Period) -> None:
    """Without both ends there is no average and no rest."""
    at = START + 15 * DAY
    row = Desk().reads(at, 600, 1000, period).row(at)
    assert row.basis == "no period"
    assert says_nothing(row)
    assert row.used == 600


def test_a_period_that_is_over_is_not_gone_on_with() -> None:
    """By the clock the next one has begun; until a reading says so nothing is expected."""
    desk = Desk(max_age=90 * DAY).reads(START + 29 * DAY, 600, 1000)
    over = desk.row(START + 36 * DAY)
    assert (over.basis, over.used, over.resets_at) == ("no period", 0, None)
    assert says_nothing(over)
    december = Period(NOVEMBER.end, START + 60 * DAY)
    desk.reads(START + 36 * DAY, 100, 1000, december)
    assert desk.row(START + 36 * DAY).expected_at_end == pytest.approx(500)


def test_an_expired_reading_is_no_basis() -> None:
    """Others may have spent since: refresh first."""
    at = START + 15 * DAY
    desk = Desk(max_age=HOUR).reads(at, 600, 1000)
    assert desk.row(at + HOUR - 1).basis == "average"
    row = desk.row(at + HOUR + 1)
    assert row.basis == "expired"
    assert says_nothing(row)


def test_what_is_spent_stays_spent_without_a_basis() -> None:
    """Too early, expired or without a period: nothing left is nothing left, now."""
    at = START + 60.0
    early = Desk().reads(at, 1000, 1000).row(at)
    assert (early.basis, early.runs_out_at) == ("too early", datetime.fromtimestamp(at, UTC))
    unknown = Desk().reads(at, 1000, 1000, Period()).row(at)
    assert (unknown.basis, unknown.runs_out_at) == ("no period", datetime.fromtimestamp(at, UTC))


def test_what_the_provider_calls_spent_has_run_out() -> None:
    """Its answer to a call weighs more than a count that says otherwise."""
    at = START + 15 * DAY
    desk = Desk().reads(at, 400, 1000)
    assert desk.row(at).runs_out_at is None
    desk.books.post("h", {}, Blocked(("leads",)), moment(at + 1), desk.terms)
    row = desk.row(at + 2)
    assert row.runs_out_at == datetime.fromtimestamp(at + 2, UTC)
    assert row.expected_at_end == pytest.approx(800, rel=1e-4)


@pytest.mark.parametrize("kind", ["level", "balance"])
def test_what_does_not_begin_again_does_not_burn(kind: Kind) -> None:
    """Stored segments do not grow with the period: no rate, no end, no overage."""
    row = expected(600, 1000, kind=kind, overage_price=1.0)
    assert row.basis == kind
    assert says_nothing(row)
    full = expected(1000, 1000, kind=kind)
    assert full.runs_out_at is not None


def test_a_meter_that_was_never_read_has_no_forecast() -> None:
    """Own spend alone, under on_unknown="open", is counted and not extrapolated."""
    desk = Desk(on_unknown="open")
    at = START + 15 * DAY
    assert len(forecast(desk.books, moment(at), desk.terms)) == 0
    desk.books.meter("leads").resolve(7, 0, moment(at).slow, desk.terms.meters["leads"])
    row = desk.row(at)
    assert (row.basis, row.used, row.limit) == ("no reading", 7, None)
    assert says_nothing(row)


# -- the records ---------------------------------------------------------------------


def test_rows_can_be_asked_for_by_meter() -> None:
    """Iterated over, counted, looked up, like a standing."""
    at = START + 15 * DAY
    desk = Desk().reads(at, 600, 1000)
    told = forecast(desk.books, moment(at), desk.terms)
    assert [row.meter for row in told] == ["leads"]
    assert told["leads"] is told.rows[0]
    assert told.first is told["leads"]
    assert "leads" in told
    assert "deals" not in told
    with pytest.raises(KeyError):
        told["deals"]


def test_the_first_is_the_meter_that_runs_out_first() -> None:
    """The earliest date; where two are one, the meter that the provider names first."""
    calm, late, soon = (expected(used, 1000) for used in (100, 600, 900))
    assert Forecast("p", "a", (calm, late, soon, late)).first is soon
    twin = replace(soon, meter="deals")
    assert Forecast("p", "a", (late, soon, twin)).first is soon
    assert Forecast("p", "a", (late, twin, soon)).first is twin
    assert Forecast("p", "a", (calm,)).first is None
    assert Forecast("p", "a", ()).first is None


def test_the_words_for_people() -> None:
    """The reprs say what one wants to know first, and nothing of the account."""
    at = START + 15 * DAY
    desk = Desk()
    assert repr(forecast(desk.books, moment(at), desk.terms)) == "<Forecast octanist: no reading>"
    desk.reads(at, 600, 1000)
    told = forecast(desk.books, moment(at), desk.terms)
    said = "leads 600/1,000, 1,200 at the end, runs out 2026-11-26 00:00 UTC"
    assert repr(told) == f"<Forecast octanist: {said}>"
    assert repr(told["leads"]) == f"<ForecastRow {said}>"
    assert repr(expected(6, None, 0.01)) == "<ForecastRow leads 6, no limit, too early>"
    calm = Desk().reads(at, 100, 1000)
    told = forecast(calm.books, moment(at), calm.terms)
    assert repr(told) == "<Forecast octanist: none of 1 meters is seen to run out>"


def test_a_row_is_frozen() -> None:
    """Nobody corrects a forecast."""
    row = expected(600, 1000)
    with pytest.raises(AttributeError):
        row.used = 0  # type: ignore[misc]
    assert not hasattr(row, "__dict__")
    assert {field.name for field in fields(row)} >= {"meter", "used", "limit", "basis", *UNKNOWN}


# -- why the average -----------------------------------------------------------------

STEPS = 6 * 24
"""Of a day: ten minutes each."""


def month(chance: Random) -> list[int]:
    """Return what is used by the end of each step of a month, day and night, in bursts."""
    week = [
        (1.0 if day < 5 else 0.25) * (1.1 if 8 <= hour < 18 else 0.35 if 6 <= hour < 22 else 0.1)
        for day in range(7)
        for hour in range(24)
    ]
    first = chance.randrange(7)
    rates = []
    for day in range(30):
        busy = math.exp(chance.gauss(-0.06, 0.35))
        rates += [week[(day + first) % 7 * 24 + step // 6] * busy for step in range(STEPS)]
    whole = sum(rates)
    if chance.random() < 0.5:
        for day in range(30):  # a nightly job of half an hour
            for step in range(12, 15):
                rates[day * STEPS + step] += 0.2 * whole / 30 / 3
    for _ in range(chance.choice((0, 1, 3))):  # campaigns of two days
        begun = chance.randrange(29 * STEPS)
        for step in range(begun, min(begun + 2 * STEPS, len(rates))):
            rates[step] += 0.1 * whole / (2 * STEPS)
    scale = chance.choice((500, 5_000, 50_000)) / sum(rates)
    used, told = 0, [0]
    for rate in rates:
        mean = rate * scale
        used += max(0, round(chance.gauss(mean, math.sqrt(mean))))
        told.append(used)
    return told


def misses(months: int, share: float, seed: int) -> dict[str, list[float]]:
    """Return by how much each way to look ahead misses the end, as shares of it."""
    chance, found = Random(seed), dict[str, list[float]]()
    for _ in range(months):
        used = month(chance)
        for _ in range(3):
            # Some time of the day around that share of the period.
            near = min(0.4 * STEPS, 0.4 * share * 30 * STEPS)
            step = int(share * 30 * STEPS + chance.uniform(-near, near))
            now, left = used[step], len(used) - 1 - step
            if now == 0:
                continue
            row = expected(now, None, step / (30 * STEPS))
            average = row.expected_at_end or now * 30 * STEPS / step
            recent = now + (now - used[step - 1]) * left
            for name, end in {
                "average": average,
                "recent": recent,
                "half of each": (average + recent) / 2,
                "a tenth recent": 0.9 * average + 0.1 * recent,
            }.items():
                found.setdefault(name, []).append(abs(end - used[-1]) / used[-1])
    return found


def typical(missed: list[float]) -> float:
    """Return what one of two misses is below."""
    return median(missed)


def worst(missed: list[float]) -> float:
    """Return what nine of ten misses are below."""
    return sorted(missed)[int(0.9 * len(missed))]


@pytest.mark.parametrize("share", [0.1, 0.33, 0.5, 0.75])
def test_the_average_is_the_best_that_the_books_can_tell(share: float, seed: int) -> None:
    """Extrapolating the last minutes, or mixing them in, misses the end by more."""
    missed = misses(60, share, seed)
    best = missed.pop("average")
    for name, others in missed.items():
        # A little of it is lost in the noise; it never helps by more than that.
        allowed = 1.3 if name == "a tenth recent" else 0.85
        assert typical(best) <= allowed * typical(others), name
        assert worst(best) <= 1.15 * worst(others), name
