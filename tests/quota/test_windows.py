"""Calendar windows in a time zone: no gap, no overlap, whatever the clocks do."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.errors import ConfigError
from quotaguard.quota.readings import PERIOD_SKEW
from quotaguard.quota.windows import LENGTHS, Windows

HOUR = 3600.0
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # skipped midnight, until 2018
    "America/Havana",  # has midnight twice
    "America/St_Johns",  # went back to the day before, until 2011
    "Asia/Beirut",  # skips midnight
    "Africa/Cairo",  # skips midnight
    "Africa/Casablanca",  # changes around Ramadan
    "Australia/Lord_Howe",  # moves by half an hour
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Kiritimati",
    "Asia/Kathmandu",
    "Antarctica/Troll",  # moves by two hours
]
LENGTH = st.sampled_from(sorted(LENGTHS))
ZONE = st.sampled_from(ZONES)
WALL = st.floats(min_value=0, max_value=4_000_000_000, allow_nan=False)


def near_changes() -> list[float]:
    """Return instants within an hour of every change of the clocks in these zones."""
    found = []
    for name in ZONES:
        zone = ZoneInfo(name)
        for year in (2006, 2011, 2018, 2025, 2026):
            start = datetime(year, 1, 1, tzinfo=UTC)
            hours = [start + timedelta(hours=hour) for hour in range(366 * 24)]
            offsets = [at.astimezone(zone).utcoffset() for at in hours]
            found += [
                hours[place].timestamp()
                for place in range(1, len(hours))
                if offsets[place] != offsets[place - 1]
            ]
    return found


CHANGES = near_changes()
EDGE = st.builds(
    lambda at, off: at + off,
    st.sampled_from(CHANGES),
    st.integers(-90_000, 90_000) | st.integers(-4000, 4000),
)
WHEN = WALL | EDGE


@given(length=LENGTH, zone=ZONE, wall=WHEN)
def test_each_window_begins_where_the_last_one_ends(length: str, zone: str, wall: float) -> None:
    """There is no gap and no overlap, in days and in instants."""
    windows = Windows(length, zone)
    window = windows.of(windows.day(wall))
    after = windows.of(window.last + timedelta(days=1))
    assert after.first == window.last + timedelta(days=1)
    assert after.period.start == window.period.end
    assert window.period.start is not None
    assert window.period.end is not None
    assert window.period.start <= window.period.end


@given(length=LENGTH, zone=ZONE, wall=WHEN)
def test_a_window_begins_with_the_first_instant_of_its_day(
    length: str, zone: str, wall: float
) -> None:
    """A second earlier it is still the day before there, whatever midnight does."""
    windows = Windows(length, zone)
    window = windows.of(windows.day(wall))
    start = window.period.start
    assert start is not None
    local = ZoneInfo(zone)
    assert datetime.fromtimestamp(start, local).date() >= window.first
    assert datetime.fromtimestamp(start - 1, local).date() < window.first


@given(length=LENGTH, zone=ZONE, wall=WHEN)
def test_the_window_of_now_is_the_one_that_the_books_are_in(
    length: str, zone: str, wall: float
) -> None:
    """It turns when its end and the skew have passed, as the books do by the clock."""
    windows = Windows(length, zone)
    window = windows.at(wall)
    period, before = window.period, windows.of(window.first - timedelta(days=1)).period
    assert period.start is not None
    assert period.end is not None
    assert period.start + before.skew <= wall < period.end + period.skew
    assert windows.exactly(window.first, window.last) == window


@given(length=LENGTH, zone=ZONE, wall=WHEN, later=st.floats(0, 200_000))
def test_windows_never_go_back(length: str, zone: str, wall: float, later: float) -> None:
    """A later instant is in the same window or in a later one, even where a day comes twice."""
    windows = Windows(length, zone)
    assert windows.at(wall).first <= windows.at(wall + later).first


@given(length=LENGTH, zone=ZONE, first=st.dates(), last=st.dates())
def test_two_dates_are_one_window_or_none(length: str, zone: str, first: date, last: date) -> None:
    """Whatever dates an answer has: one window with just these days, or a ValueError."""
    windows = Windows(length, zone)
    try:
        window = windows.exactly(first, last)
    except ValueError:
        return
    assert (window.first, window.last) == (first, last)
    assert first <= last
    assert window.period.length


@given(length=LENGTH, zone=ZONE, wall=WHEN, moved=st.integers(1, 40), end=st.booleans())
def test_a_window_with_another_day_is_no_window(
    length: str, zone: str, wall: float, moved: int, end: bool
) -> None:
    """One day off at either end is somebody else's count."""
    windows = Windows(length, zone)
    window = windows.of(windows.day(wall))
    off = timedelta(days=moved)
    first, last = (window.first, window.last + off) if end else (window.first - off, window.last)
    with pytest.raises(ValueError, match=f"not one {length}"):
        windows.exactly(first, last)


@pytest.mark.parametrize("first", [date.min, date(1, 1, 1), date.max, date(9999, 12, 31)])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/New_York"])
def test_the_ends_of_the_calendar_are_no_windows(first: date, length: str, zone: str) -> None:
    """Where no day comes before or after, nothing overflows."""
    try:
        assert Windows(length, zone).exactly(first, first).first == first
    except ValueError as error:
        assert "is not one" in str(error)  # noqa: PT017 - it may also be a window


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/New_York", date(2026, 3, 8), 23),
        ("America/New_York", date(2026, 11, 1), 25),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        ("Asia/Beirut", date(2025, 3, 30), 23),
        ("Africa/Cairo", date(2026, 4, 24), 23),
        ("America/Havana", date(2025, 11, 2), 25),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Antarctica/Troll", date(2026, 3, 29), 22),
        ("UTC", date(2026, 3, 29), 24),
    ],
)
def test_a_day_has_as_many_hours_as_it_has(zone: str, day: date, hours: float) -> None:
    """Where the clocks change, a day is not 24 hours; nor is midnight always there."""
    assert Windows("day", zone).exactly(day, day).period.length == hours * HOUR


def test_a_day_that_was_skipped_is_no_window() -> None:
    """Samoa went from 29 to 31 December 2011: the windows join, and nothing lies between."""
    windows = Windows("day", "Pacific/Apia")
    before, after = (windows.exactly(date(2011, 12, d), date(2011, 12, d)) for d in (29, 31))
    assert before.period.end == after.period.start
    with pytest.raises(ValueError, match="not one day"):
        windows.exactly(date(2011, 12, 30), date(2011, 12, 30))
    instant = before.period.end or 0.0
    assert [windows.at(instant + off).first.day for off in (-1, 0, 4, 5)] == [29, 29, 29, 31]


def test_where_midnight_comes_twice_the_end_is_less_certain() -> None:
    """Somebody else may take the other midnight, so the turn waits for both."""
    havana = Windows("day", "America/Havana")
    day = havana.exactly(date(2025, 11, 1), date(2025, 11, 1))
    assert day.period.skew == HOUR + PERIOD_SKEW
    end = day.period.end or 0.0
    assert havana.at(end + HOUR + PERIOD_SKEW - 1) == day
    assert havana.at(end + HOUR + PERIOD_SKEW).first == date(2025, 11, 2)


@pytest.mark.parametrize(
    ("length", "day", "first", "last"),
    [
        ("day", date(2026, 11, 21), date(2026, 11, 21), date(2026, 11, 21)),
        ("week", date(2026, 11, 22), date(2026, 11, 16), date(2026, 11, 22)),
        ("week", date(2026, 11, 23), date(2026, 11, 23), date(2026, 11, 29)),
        ("week", date(2027, 1, 1), date(2026, 12, 28), date(2027, 1, 3)),
        ("month", date(2026, 2, 28), date(2026, 2, 1), date(2026, 2, 28)),
        ("month", date(2028, 2, 29), date(2028, 2, 1), date(2028, 2, 29)),
        ("month", date(2026, 12, 31), date(2026, 12, 1), date(2026, 12, 31)),
        ("quarter", date(2026, 11, 21), date(2026, 10, 1), date(2026, 12, 31)),
        ("quarter", date(2026, 1, 1), date(2026, 1, 1), date(2026, 3, 31)),
        ("year", date(2028, 2, 29), date(2028, 1, 1), date(2028, 12, 31)),
    ],
)
def test_the_windows_of_the_calendar(length: str, day: date, first: date, last: date) -> None:
    """Weeks begin on Monday, quarters in January; the last day is within."""
    window = Windows(length, "Europe/Berlin").of(day)
    assert (window.first, window.last) == (first, last)


@pytest.mark.parametrize("length", ["", "hour", "Month", "monthly", None, 1, [], ("day",)])
def test_another_length_is_a_config_error(length: Any) -> None:
    """It names those there are."""
    with pytest.raises(ConfigError, match="day, week, month, quarter, year"):
        Windows(length, "UTC")


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Europe",
        "Europe/Atlantis",
        "/etc/passwd",
        "../UTC",
        "a\0b",
        "é",
        "x" * 300,
        None,
        3,
        b"UTC",
    ],
)
def test_an_unknown_zone_is_a_config_error(zone: Any) -> None:
    """Also a folder of zones, a path, and what is no text."""
    with pytest.raises(ConfigError, match="time zone"):
        Windows("month", zone)


def test_nothing_is_read_from_disk_later() -> None:
    """The zone's data is loaded with the windows; deciding is no input or output."""
    program = (
        "import sys; from datetime import date, datetime\n"
        "from quotaguard.quota.windows import Windows\n"
        "windows, seen = Windows('day', 'America/New_York'), []\n"
        "sys.addaudithook(lambda name, args: seen.append(name))\n"
        "for wall in range(0, 2_000_000_000, 50_000_000): windows.at(float(wall))\n"
        "windows.exactly(date(2045, 3, 12), date(2045, 3, 12))\n"
        "assert not {'open', 'os.open', 'import'} & set(seen), set(seen)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
