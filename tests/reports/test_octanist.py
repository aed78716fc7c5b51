"""Octanist's stats as a record: what is asked, what is refused before, what is read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotaguard.errors import (
    ConfigError,
    ProviderError,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
)
from quotaguard.providers.octanist import Octanist
from quotaguard.quota.calls import Outcome, Report
from quotaguard.reports.octanist import Conversion, Leads, LeadUsage, OctanistStats

KEY = "oct-canary-77d0"
RECORDED = Path(__file__).parents[1] / "providers" / "recorded"
REQUEST = "req_a1b2c3d4e5f6"


def recorded(name: str) -> dict[str, Any]:
    """Return one recorded exchange."""
    exchange: dict[str, Any] = json.loads((RECORDED / f"octanist_{name}.json").read_text())
    return exchange


def asking(*given: Any, **named: Any) -> Report[OctanistStats]:
    """Return the report that these arguments ask for."""
    return Octanist(KEY).reports["stats"](*given, **named)


def body(*given: Any, **named: Any) -> dict[str, str]:
    """Return what is sent for these arguments."""
    sent: dict[str, str] = json.loads(asking(*given, **named).ask().body or b"")
    return sent


def read(said: object, status: int = 200) -> OctanistStats:
    """Return the record of an answer with *said* in it."""
    return asking().read(Outcome(status, {}, json.dumps(said).encode()))


def answered(name: str) -> OctanistStats:
    """Return the record of a recorded answer."""
    answer = recorded(name)["response"]
    return read(answer["json"], answer["status"])


# --------------------------------------------------------------------- asking


def test_the_current_period_is_asked_for_by_default() -> None:
    """A body is sent all the same: without one the vendor answers 400."""
    assert body() == body("current") == body(period="current") == {"period": "current"}
    assert body("previous") == {"period": "previous"}


def test_a_custom_period_has_two_dates() -> None:
    """As texts or as dates; one day is a period too."""
    sent = {"period": "custom", "startDate": "2026-01-01", "endDate": "2026-03-01"}
    assert body("custom", start_date="2026-01-01", end_date="2026-03-01") == sent
    days = {"start_date": date(2026, 1, 1), "end_date": date(2026, 3, 1)}
    assert body("custom", **days) == sent
    assert body("custom", start_date="2026-01-01", end_date=date(2026, 1, 1))


def test_the_request_is_the_documented_one() -> None:
    """The same as of a poll but for its body, with the key in its header."""
    request, poll = asking("previous").ask(), Octanist(KEY).stats_request()
    assert (request.method, request.url, request.headers) == (poll.method, poll.url, poll.headers)
    assert request.headers["X-API-KEY"] == KEY
    assert KEY not in repr(asking("previous"))


def test_equal_questions_have_equal_keys() -> None:
    """However the dates are written; and no two others do."""
    text = asking("custom", start_date="2026-01-01", end_date="2026-03-01")
    days = asking("custom", start_date=date(2026, 1, 1), end_date=date(2026, 3, 1))
    assert text.key == days.key
    others = [
        asking(),
        asking("previous"),
        text,
        asking("custom", start_date="2026-01-01", end_date="2026-03-02"),
        asking("custom", start_date="2026-01-02", end_date="2026-03-01"),
    ]
    assert len({report.key for report in others}) == len(others)


@pytest.mark.parametrize(
    "period", ["", "Current", "month", "2026-01", None, 1, True, ["current"], b"current"], ids=repr
)
def test_another_period_is_a_config_error(period: Any) -> None:
    """It names the three that there are."""
    with pytest.raises(ConfigError, match="current, previous, custom"):
        asking(period)


@pytest.mark.parametrize(
    ("dates", "named"),
    [
        ({}, "start_date is missing"),
        ({"start_date": "2026-01-01"}, "end_date is missing"),
        ({"end_date": "2026-01-01"}, "start_date is missing"),
        ({"start_date": "2026-01-01", "end_date": None}, "end_date is missing"),
    ],
    ids=repr,
)
def test_a_custom_period_without_its_dates_is_a_config_error(
    dates: dict[str, Any], named: str
) -> None:
    """Both must be there."""
    with pytest.raises(ConfigError, match=named):
        asking("custom", **dates)


@pytest.mark.parametrize("period", ["current", "previous"])
@pytest.mark.parametrize("name", ["start_date", "end_date"])
def test_dates_of_another_period_are_a_config_error(period: str, name: str) -> None:
    """The answer would not be about them, and look as if it were."""
    with pytest.raises(ConfigError, match=name):
        asking(period, **{name: "2026-01-01"})


@pytest.mark.parametrize(
    "said",
    [
        "",
        "soon",
        "2026-1-1",
        "2026-02-30",
        "2026-13-01",
        "0000-01-01",
        "20260101",
        "2026-W01-1",
        "01-01-2026",
        "2026-01-01T00:00:00Z",
        " 2026-01-01",
        "2026-01-01\n",
        "٢٠٢٦-01-01",
        20260101,
        True,
        b"2026-01-01",
        ["2026-01-01"],
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1),  # noqa: DTZ001 - that is what it tests
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["start_date", "end_date"])
def test_what_is_no_date_is_a_config_error(name: str, said: Any) -> None:
    """Before any call; a datetime's day depends on a zone that nobody has named."""
    dates = {"start_date": "2026-01-01", "end_date": "2026-03-01", name: said}
    with pytest.raises(ConfigError, match=name):
        asking("custom", **dates)


@given(start=st.dates(), days=st.integers(1, 400))
def test_the_end_does_not_come_before_the_start(start: date, days: int) -> None:
    """Law: in order it is asked as it is, the other way round it is a ConfigError."""
    if start.toordinal() + days > date.max.toordinal():
        start -= timedelta(days=days)
    end = start + timedelta(days=days)
    sent = body("custom", start_date=start, end_date=end.isoformat())
    assert (sent["startDate"], sent["endDate"]) == (start.isoformat(), end.isoformat())
    with pytest.raises(ConfigError, match="before"):
        asking("custom", start_date=end, end_date=start)


# -------------------------------------------------------------------- reading


def test_the_documented_example_is_read() -> None:
    """Every number of the vendor's own example; the end is told as it is, its last instant."""
    assert answered("stats_documented") == OctanistStats(
        usage=LeadUsage(
            used=150,
            limit=500,
            locked=0,
            period_start=datetime(2026, 1, 1, tzinfo=UTC),
            period_end=datetime(2026, 3, 1, 23, 59, 59, 999_000, tzinfo=UTC),
            extra={},
        ),
        leads=Leads(
            total=150,
            by_status={"open": 45, "qualified": 30, "won": 50, "lost": 25},
            by_source={"gtm": 120, "api": 20, "manual": 10},
            extra={},
        ),
        conversion=Conversion(
            qualified=80,
            qualification_rate=0.7,
            win_rate=0.625,
            average_value=2500,
            total_value=125000,
            extra={},
        ),
        request_id=REQUEST,
        timestamp=datetime(2026, 3, 10, 12, tzinfo=UTC),
        extra={},
    )


def test_other_periods_have_the_same_shape() -> None:
    """A previous one, and one without a lead, whose objects are empty and rates null."""
    assert answered("stats_previous").conversion.average_value == 1200.5
    empty = answered("stats_custom_empty")
    assert (empty.leads.total, empty.leads.by_status, empty.leads.by_source) == (0, {}, {})
    assert empty.conversion.win_rate is None
    assert empty.conversion.average_value is None


def test_without_a_subscription_there_is_no_period() -> None:
    """Documented nulls are None; a report closes nothing."""
    usage = answered("stats_no_subscription").usage
    assert (usage.period_start, usage.period_end) == (None, None)
    assert (usage.used, usage.limit) == (3, 50)


@pytest.mark.parametrize(("said", "limit"), [(None, None), (-1, -1), (0, 0), (5e2, 500)])
def test_a_limit_is_told_as_it_is(said: object, limit: int | None) -> None:
    """What null and -1 mean is for the reading to decide; here nothing is closed."""
    answer = recorded("stats_documented")["response"]["json"]
    answer["data"]["usage"]["leadsLimit"] = said
    assert read(answer).usage.limit == limit
    del answer["data"]["usage"]["leadsLimit"]
    assert read(answer).usage.limit is None


def test_records_are_frozen_and_have_slots() -> None:
    """Nobody changes what was answered."""
    record = answered("stats_documented")
    for part in (record, record.usage, record.leads, record.conversion):
        assert not hasattr(part, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.extra = {}  # type: ignore[misc]


def test_what_is_not_documented_is_kept_at_every_level() -> None:
    """In extra, under its own name."""
    said = recorded("stats_documented")["response"]["json"]
    said["note"] = "new"
    said["meta"]["region"] = "eu"
    said["data"]["plan"] = {"name": "pro"}
    for part in ("usage", "leads", "conversion"):
        said["data"][part]["more"] = [part]
    record = read(said)
    assert record.extra == {
        "note": "new",
        "data": {"plan": {"name": "pro"}},
        "meta": {"region": "eu"},
    }
    assert [part.extra for part in (record.usage, record.leads, record.conversion)] == [
        {"more": ["usage"]},
        {"more": ["leads"]},
        {"more": ["conversion"]},
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("success", None),
        ("data", []),
        ("data.usage", None),
        ("data.usage.leadsUsed", "150"),
        ("data.usage.leadsUsed", None),
        ("data.usage.leadsLimit", 499.5),
        ("data.usage.leadsLimit", True),
        ("data.usage.lockedLeads", -1),
        ("data.usage.periodStart", "soon"),
        ("data.usage.periodEnd", 1),
        ("data.leads", None),
        ("data.leads.total", 1.5),
        ("data.leads.byStatus", []),
        ("data.leads.byStatus.open", None),
        ("data.leads.bySource.gtm", "120"),
        ("data.conversion", 0),
        ("data.conversion.qualified", -80),
        ("data.conversion.winRate", "0.625"),
        ("data.conversion.totalValue", True),
        ("meta.requestId", 7),
        ("meta.timestamp", "now"),
    ],
    ids=repr,
)
def test_what_does_not_fit_names_its_path(path: str, value: object) -> None:
    """A documented field of another kind is unreadable; its value shows nowhere."""
    said = recorded("stats_documented")["response"]["json"]
    place = said
    *way, last = path.split(".")
    for name in way:
        place = place[name]
    place[last] = value
    with pytest.raises(StatsUnreadable) as caught:
        read(said)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("stats_400_no_body", StatsUnavailable, "VALIDATION_ERROR"),
        ("stats_400_dates", StatsUnavailable, "VALIDATION_ERROR"),
        ("stats_400_invalid_date", StatsUnavailable, "INVALID_DATE"),
        ("stats_401", StatsForbidden, "UNAUTHORIZED"),
        ("stats_500", StatsUnavailable, "INTERNAL_ERROR"),
    ],
)
def test_documented_errors_are_declared_ones(
    name: str, kind: type[ProviderError], code: str
) -> None:
    """With status, code and the vendor's request id."""
    with pytest.raises(kind) as caught:
        answered(name)
    error = caught.value
    status = recorded(name)["response"]["status"]
    assert (error.status, error.code, error.request_id) == (status, code, REQUEST)


def test_an_unsuccessful_200_is_no_report() -> None:
    """Whatever stands beside it."""
    said = recorded("stats_documented")["response"]["json"] | {"success": False}
    with pytest.raises(StatsUnavailable, match="not successful"):
        read(said)


# ----------------------------------------------------------------------- laws

COUNTS = st.integers(0, 10**15)
MONEY = st.none() | st.floats(-1e12, 1e12) | st.integers(-(10**12), 10**12)
NAMES = st.text(max_size=8)


@settings(max_examples=max(200, settings.default.max_examples if settings.default else 0))
@given(
    total=COUNTS,
    by=st.dictionaries(NAMES, COUNTS, max_size=4),
    value=MONEY,
    extra=st.dictionaries(NAMES.filter(lambda name: name not in Leads.__slots__), MONEY),
)
def test_every_name_and_number_comes_through(
    total: int, by: dict[str, int], value: float | None, extra: dict[str, object]
) -> None:
    """Law: sources and statuses of any name, money of any size, unknown fields of any kind."""
    said = recorded("stats_documented")["response"]["json"]
    documented = {"total": total, "byStatus": by, "bySource": by}
    said["data"]["leads"] = {**extra, **documented}
    said["data"]["conversion"]["averageValue"] = value
    record = read(said)
    assert (record.leads.total, record.leads.by_status, record.leads.by_source) == (total, by, by)
    assert record.leads.extra == {n: v for n, v in extra.items() if n not in documented}
    assert record.conversion.average_value == value


def test_the_reader_is_one_of_the_providers() -> None:
    """It takes its arguments as `guard.reports.stats` gives them on."""
    reader: Callable[..., Report[Any]] = Octanist(KEY).reports["stats"]
    with pytest.raises(TypeError):
        reader("custom", "2026-01-01", "2026-03-01")
