"""Units and periods: rounding never invents headroom, every form of an end is read."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.quota.readings import BARE_DATE_SKEW, FRACTIONS, Period, Usage, amount, units


@pytest.mark.parametrize(
    ("value", "scale", "up", "count"),
    [
        (3, 1, True, 3),
        (0.1, 1, True, 1),
        (0.9, 1, False, 0),
        (0.1, FRACTIONS, True, 100_000),
        (Decimal("0.0000001"), FRACTIONS, True, 1),
        (Decimal("0.0000001"), FRACTIONS, False, 0),
        (0.1 + 0.2, FRACTIONS, True, 300_001),
        (10**30, 1, True, 10**30),
    ],
)
def test_used_rounds_up_and_limits_round_down(
    value: Any,
    scale: int,
    up: bool,
    count: int,
) -> None:
    """Prices and usage are never less than they are, limits never more."""
    assert units(value, scale, up=up) == count


@given(st.decimals(min_value=0, max_value=10**12, places=9))
def test_rounding_brackets_the_truth(value: Decimal) -> None:
    """Law: down <= value <= up, and they are at most one unit apart."""
    low, high = units(value, FRACTIONS, up=False), units(value, FRACTIONS)
    assert low <= value * FRACTIONS <= high <= low + 1
    assert math.isclose(amount(high, FRACTIONS), float(value), abs_tol=1e-6, rel_tol=1e-12)


@pytest.mark.parametrize(
    "wrong", [True, None, "3", float("nan"), float("inf"), Decimal("NaN"), [1]], ids=repr
)
def test_what_is_no_number_is_refused(wrong: Any) -> None:
    """True is not one, and infinity is no count."""
    with pytest.raises(ValueError, match="number of units"):
        units(wrong)


def test_nothing_included_is_not_unlimited() -> None:
    """limit=0 is exhausted at once, limit=None never."""
    assert Usage(0, 0).exhausted
    assert Usage(5, 5).exhausted
    assert not Usage(10**9, None).exhausted
    assert not Usage(4, 5).exhausted


def instant(*parts: int) -> float:
    """Return the Unix time of a UTC date."""
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("start", "end", "inclusive", "ends", "skew"),
    [
        ("2020-04-10T00:00:00Z", "2021-04-10T00:00:00Z", False, instant(2021, 4, 10), 5.0),
        ("2026-11-01", "2026-12-01", False, instant(2026, 12, 1), BARE_DATE_SKEW),
        ("2026-11-01", "2026-11-30", True, instant(2026, 12, 1), BARE_DATE_SKEW),
        (
            "2026-02-01T00:00:00.000Z",
            "2026-02-28T23:59:59.999Z",
            True,
            instant(2026, 3, 1),
            5.0,
        ),
        ("2026-11-01T00:00:00Z", "2026-11-30T23:59:59Z", True, instant(2026, 12, 1), 5.0),
        ("2026-11-01T00:00:00Z", "2026-11-30T23:59:59.000Z", True, instant(2026, 12, 1), 5.0),
        ("2026-11-01T00:00:00Z", "2026-11-30T23:59:59.999999Z", True, instant(2026, 12, 1), 5.0),
        ("2026-11-01T00:00:00Z", "2026-11-30T23:59:59.999000Z", True, instant(2026, 12, 1), 5.0),
        ("2026-11-01T00:00:00Z", "2026-12-01T00:59:59.999+01:00", True, instant(2026, 12, 1), 5.0),
        ("20261101", "20261130", True, instant(2026, 12, 1), BARE_DATE_SKEW),
        ("2026-W45-1", "2026-W49-1", True, instant(2026, 12, 1), BARE_DATE_SKEW),
        ("2012-11-01T00:00:00 -0600", "2012-11-30T23:59:59 -0700", True, 1354345200.0, 5.0),
        ("2026-11-01T00:00:00", "2026-12-01T00:00:00", False, instant(2026, 12, 1), BARE_DATE_SKEW),
    ],
    ids=[
        "iso",
        "bare",
        "bare inclusive",
        "milliseconds",
        "seconds",
        "seconds as milliseconds",
        "microseconds",
        "milliseconds as microseconds",
        "an offset",
        "compact dates",
        "dates by week",
        "two offsets",
        "no zone",
    ],
)
def test_every_form_of_an_end_is_read(
    start: str,
    end: str,
    inclusive: bool,
    ends: float,
    skew: float,
) -> None:
    """Exclusive ends stay, inclusive ones become the next period's first instant."""
    period = Period.parse(start, end, inclusive=inclusive)
    assert (period.end, period.skew) == (ends, skew)


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    st.timedeltas(timedelta(hours=-12), timedelta(hours=14)),
)
def test_the_last_instant_of_a_period_gives_the_first_of_the_next(
    boundary: datetime, written: str, offset: timedelta
) -> None:
    """Law: whatever the fraction and the offset, one step after the last instant is the end."""
    boundary = boundary.replace(microsecond=0)
    step = timedelta(**{written: 1})
    zone = timezone(timedelta(minutes=offset // timedelta(minutes=1)))
    last = (boundary - step).astimezone(zone).isoformat(timespec=written)
    assert Period.parse(None, last, inclusive=True) == Period(None, boundary.timestamp())


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-11-01", "9999-12-31"),
        ("2026-11-01T00:00:00Z", "9999-12-31T23:59:59.999Z"),
        ("2026-11-01", "9999-12-31T23:59:59-23:00"),
        ("0001-01-01T00:00:00+14:00", "2026-12-01"),
        ("٢٠٢٦-11-01", "2026-12-01"),
    ],
    ids=["day", "instant", "offset", "start", "digits"],
)
def test_a_date_that_no_calendar_shows_is_refused(start: str, end: str) -> None:
    """Like any other text that is none: who reads an answer has one error to catch."""
    with pytest.raises(ValueError, match=r".+"):
        Period.parse(start, end, inclusive=True)


def test_null_ends_are_unknown_and_wrong_ones_refused() -> None:
    """Nothing is guessed."""
    assert Period.parse(None, None) == Period()
    assert Period().left(0.0) == 0.0
    for start, end in [
        ("2026-02-01", "2026-01-01"),
        ("soon", "later"),
        ("2026-13-01", "2027-01-01"),
    ]:
        with pytest.raises(ValueError, match=r".+"):
            Period.parse(start, end)


def test_the_share_left_runs_from_one_to_zero() -> None:
    """Before the start all is left, after the end nothing."""
    period = Period(100.0, 200.0)
    assert [period.left(at) for at in (50, 100, 150, 200, 250)] == [1, 1, 0.5, 0, 0]
