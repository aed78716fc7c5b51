"""Voxys's pipeline analytics for people: questions checked before, answers typed after."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.errors import (
    ConfigError,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
)
from quotaguard.providers.voxys import Voxys
from quotaguard.quota.calls import Outcome, Report
from quotaguard.reports.voxys import Agent, AgentDeals, Analytics, StageDeals

KEY = "vx-canary-5f2d"
URL = "https://connect.voxys.ai/api/v1/accounts/7/funnels/3/analytics"
RECORDED = Path(__file__).parents[1] / "providers" / "recorded"
DAYS = st.dates(date(2000, 1, 1), date(2100, 1, 1))


def report(**asked: Any) -> Report[Analytics]:
    """Return a question to the analytics."""
    return Voxys(KEY, 7, 3).reports["analytics"](**asked)


def recorded(name: str) -> Outcome:
    """Return a recorded answer."""
    said = json.loads((RECORDED / f"voxys_{name}.json").read_text())["response"]
    body = said["text"].encode() if "text" in said else json.dumps(said["json"]).encode()
    return Outcome(said["status"], {n.lower(): v for n, v in said["headers"].items()}, body)


def told(name: str) -> Analytics:
    """Return the record of a recorded answer."""
    return report().read(recorded(name))


def changed(**more: object) -> Outcome:
    """Return November's answer, some of it as told; ``...`` leaves a field out."""
    said = json.loads(recorded("analytics_month").body or b"") | more
    kept = {name: value for name, value in said.items() if value is not ...}
    return Outcome(200, {}, json.dumps(kept).encode())


# ------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ({}, ""),
        ({"since": "2026-11-01"}, "?since=2026-11-01"),
        ({"until": date(2026, 11, 30)}, "?until=2026-11-30"),
        (
            {"since": date(2026, 11, 1), "until": "2026-11-30", "agent_id": 5, "group_by": "week"},
            "?since=2026-11-01&until=2026-11-30&agent_id=5&group_by=week",
        ),
        ({"since": "2026-11-30", "until": "2026-11-30"}, "?since=2026-11-30&until=2026-11-30"),
        *(({"group_by": name}, f"?group_by={name}") for name in ("day", "month", "agent", "stage")),
        ({"agent_id": None, "group_by": None}, ""),
    ],
    ids=str,
)
def test_a_question_is_a_query(asked: dict[str, Any], query: str) -> None:
    """What is left out is left to the vendor; the key goes out as in polls."""
    request = report(**asked).ask()
    assert (request.method, request.url) == ("GET", URL + query)
    assert dict(request.headers) == {"api_access_token": KEY}
    assert (request.body, request.read) == (None, None)


@given(since=DAYS, until=DAYS, texts=st.booleans())
def test_the_order_of_dates_is_checked_before_the_call(
    since: date, until: date, texts: bool
) -> None:
    """Dates and texts alike; the same day twice is one day."""
    asked: Any = {"since": since, "until": until}
    if texts:
        asked = {name: day.isoformat() for name, day in asked.items()}
    if since <= until:
        assert report(**asked).ask().url == f"{URL}?since={since}&until={until}"
    else:
        with pytest.raises(ConfigError, match="is after until"):
            report(**asked)


@pytest.mark.parametrize(
    ("asked", "about"),
    [
        ({"since": ""}, "since"),
        ({"since": "2026-11"}, "since"),
        ({"since": "20261101"}, "since"),
        ({"since": "2026-W44-7"}, "since"),
        ({"since": "01.11.2026"}, "since"),
        ({"since": "2026-02-30"}, "since"),
        ({"since": "2026-11-01T00:00:00Z"}, "since"),
        ({"since": "2026-11-01&agent_id=2"}, "since"),
        ({"since": "2026-11-01\n"}, "since"),
        ({"since": "٢٠٢٦-11-01"}, "since"),
        ({"until": datetime(2026, 11, 1, tzinfo=UTC)}, "until"),
        ({"until": 20261101}, "until"),
        ({"until": True}, "until"),
        ({"agent_id": "5"}, "agent_id"),
        ({"agent_id": 0}, "agent_id"),
        ({"agent_id": True}, "agent_id"),
        ({"agent_id": 5.0}, "agent_id"),
        ({"group_by": "year"}, "day, week, month, agent, stage"),
        ({"group_by": "Day"}, "group_by"),
        ({"group_by": ""}, "group_by"),
        ({"group_by": []}, "group_by"),
    ],
    ids=str,
)
def test_a_question_that_cannot_be_is_a_config_error(asked: dict[str, Any], about: str) -> None:
    """It is told before any call, and names the argument."""
    with pytest.raises(ConfigError, match=about):
        report(**asked)


def test_arguments_are_named() -> None:
    """Two dates in a row are too easily swapped; there is nothing else to give."""
    with pytest.raises(TypeError):
        Voxys(KEY, 7, 3).reports["analytics"]("2026-11-01")
    with pytest.raises(TypeError):
        report(sinse="2026-11-01")


def test_equal_questions_have_equal_keys() -> None:
    """So that asking twice costs one call, however the dates are written."""
    assert report(since="2026-11-01").key == report(since=date(2026, 11, 1)).key
    keys = [
        report().key,
        report(since="2026-11-01").key,
        report(until="2026-11-01").key,
        report(agent_id=5).key,
        report(group_by="day").key,
    ]
    assert len(set(keys)) == len(keys)


# --------------------------------------------------------------------- answers


def test_the_documented_example_is_a_record() -> None:
    """Everything that is documented, number for number."""
    jane = Agent(1, "Jane Smith", "jane@example.com", "<string>", {})
    assert told("analytics_documented") == Analytics(
        since=date(2023, 12, 25),
        until=date(2023, 12, 25),
        total_created=30,
        total_won=10,
        total_lost=4,
        total_value_created=150_000,
        total_value_won=60_000,
        average_deal_size=6000,
        conversion_rate=33.3,
        by_agent=(AgentDeals(jane, 123, 123, 123, {}),),
        by_stage=(StageDeals(123, "<string>", 123, 123, {}),),
        extra={},
    )


def test_a_window_without_deals() -> None:
    """Averages of nothing are None, lists are empty."""
    empty = told("analytics_empty")
    assert (empty.total_created, empty.average_deal_size, empty.conversion_rate) == (0, None, None)
    assert (empty.by_agent, empty.by_stage) == ((), ())


def test_what_is_not_documented_is_kept_at_every_level() -> None:
    """What group_by adds among it."""
    assert told("analytics_grouped").extra["series"][0] == {"day": "2026-11-20", "created": 18}
    agent = {"id": 1, "team": "north"}
    outcome = changed(
        note="new",
        period={"since": "2026-11-01", "until": "2026-11-30", "zone": "UTC"},
        by_agent=[{"agent": agent, "created": 1, "lost": 2}],
        by_stage=[{"stage_id": 7, "color": "red"}],
    )
    record = report().read(outcome)
    assert record.extra == {"note": "new", "period": {"zone": "UTC"}}
    assert record.by_agent[0].extra == {"lost": 2}
    assert record.by_agent[0].agent == Agent(1, None, None, None, {"team": "north"})
    assert record.by_stage[0] == StageDeals(7, None, None, None, {"color": "red"})


@pytest.mark.parametrize("said", [None, ...], ids=["null", "missing"])
def test_what_may_be_left_out(said: object) -> None:
    """A period without dates, averages, lists; a row of deals that nobody works on."""
    record = report().read(
        changed(period=said, average_deal_size=said, conversion_rate=said, by_stage=said)
    )
    assert (record.since, record.until, record.average_deal_size) == (None, None, None)
    assert record.by_stage == ()
    nobody = report().read(changed(by_agent=[{"agent": None, "created": 3}]))
    assert nobody.by_agent[0] == AgentDeals(None, 3, None, None, {})


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"period": "2026-11"}, "period"),
        ({"period": {"since": "soon"}}, "period.since"),
        ({"total_created": None}, "total_created"),
        ({"total_created": ...}, "total_created"),
        ({"total_won": "10"}, "total_won"),
        ({"total_lost": -1}, "total_lost"),
        ({"total_value_created": "150000.0"}, "total_value_created"),
        ({"total_value_won": True}, "total_value_won"),
        ({"conversion_rate": "33 %"}, "conversion_rate"),
        ({"by_agent": {}}, "by_agent"),
        ({"by_agent": [{"agent": {"id": "1"}}]}, "by_agent[0].agent.id"),
        ({"by_agent": [{"agent": {"id": 1}}, {"agent": {"name": "x"}}]}, "by_agent[1].agent.id"),
        ({"by_stage": [7]}, "by_stage[0]"),
        ({"by_stage": [{"stage_id": 7, "count": 1.5}]}, "by_stage[0].count"),
    ],
    ids=str,
)
def test_a_field_of_another_kind_is_told_by_its_path(more: dict[str, Any], path: str) -> None:
    """A record holds what it says it holds, or there is none."""
    with pytest.raises(StatsUnreadable) as caught:
        report().read(changed(**more))
    assert caught.value.path == path
    assert "Jane" not in str(caught.value)


def test_errors_carry_status_and_request_id() -> None:
    """As those of polls do."""
    with pytest.raises(StatsForbidden) as forbidden:
        told("analytics_401")
    assert (forbidden.value.status, forbidden.value.request_id) == (401, "5f1c-77")
    with pytest.raises(StatsUnavailable, match="no such account") as missing:
        told("analytics_404")
    assert missing.value.status == 404
    with pytest.raises(StatsUnavailable) as busy:
        told("analytics_429")
    assert busy.value.status == 429
    with pytest.raises(StatsUnreadable):
        report().read(Outcome(200, {}, b"<html>"))


@pytest.mark.parametrize("kind", [Analytics, AgentDeals, Agent, StageDeals])
def test_records_are_frozen_and_slotted(kind: Any) -> None:
    """Nobody changes a report, nor adds to it."""
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
    assert "extra" in {field.name for field in dataclasses.fields(kind)}
