"""FullContact's account stats as a typed record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard import (
    ConfigError,
    FullContact,
    Guard,
    ProviderError,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
)
from quotaguard.quota.calls import Outcome
from quotaguard.reports.fullcontact import FullContactStats
from quotaguard.testing import FakeClock, fake

RECORDED = Path(__file__).parents[1] / "providers" / "recorded"


def answer(name: str) -> Any:
    """Return the body of a recorded answer."""
    return json.loads((RECORDED / f"fullcontact_{name}.json").read_text())["response"]["json"]


def read(said: Any, *categories: str, status: int = 200) -> FullContactStats:
    """Read one answer as the report of these categories does."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    record: FullContactStats = (
        FullContact("k").reports["stats"](*categories).read(Outcome(status, {}, body))
    )
    return record


@given(body=st.binary(max_size=200), status=st.integers(100, 599))
def test_any_bytes_are_a_record_or_a_declared_error(body: bytes, status: int) -> None:
    """Nothing else leaves the reader."""
    told = ("fullcontact", status)
    try:
        read(body, status=status)
    except ProviderError as error:
        told = (error.provider, error.status or 0)
    assert told == ("fullcontact", status)


def test_the_documented_answer() -> None:
    """Every documented field has its place, nothing is left over."""
    record = read(answer("stats_documented"))
    assert record.period_start == datetime(2020, 4, 10, tzinfo=UTC)
    assert record.period_end == datetime(2021, 4, 10, tzinfo=UTC)
    assert record.plan is not None
    assert (record.plan.name, record.plan.period) == ("customer_plan_12345", "yearly")
    assert (record.plan.base_cost, record.plan.days_remaining) == (1000, 277)
    person, company = record.person, record.company
    assert person is not None
    assert person.enrichment is not None
    assert (person.enrichment.matches.count, person.enrichment.matches.quota) == (4839, 0)
    assert person.enrichment.matches.over_quota is True
    assert person.enrichment.total is not None
    assert person.enrichment.total.over_quota is None
    assert person.subscriptions is not None
    assert person.subscriptions.quota is None
    assert company is not None
    assert company.subscriptions is None
    assert record.extra == record.plan.extra == person.extra == {}


def test_what_is_not_documented_is_kept() -> None:
    """On every level, under its own name."""
    said = answer("stats_documented")
    said["region"] = "eu"
    said["stats"]["audience"] = {"count": 3}
    said["stats"]["person"]["enrichment"]["matches"]["trend"] = [1, 2]
    record = read(said)
    assert record.extra == {"region": "eu", "stats": {"audience": {"count": 3}}}
    assert record.person is not None
    assert record.person.enrichment is not None
    assert record.person.enrichment.matches.extra == {"trend": [1, 2]}


def test_a_broken_field_names_its_path() -> None:
    """The one who reads it finds the place in the provider's documents."""
    said = answer("stats_documented")
    said["stats"]["company"]["enrichment"]["matches"]["count"] = "75"
    with pytest.raises(StatsUnreadable) as caught:
        read(said)
    assert caught.value.path == "stats.company.enrichment.matches.count"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, StatsForbidden), (403, StatsForbidden), (500, StatsUnavailable)]
)
def test_errors_are_those_of_a_poll(status: int, kind: type[ProviderError]) -> None:
    """One endpoint, one meaning of its statuses."""
    with pytest.raises(kind) as caught:
        read({"status": status, "message": "The API Key is invalid"}, status=status)
    assert caught.value.status == status


def test_a_category_that_does_not_exist_is_found_before_the_call() -> None:
    """Nothing is sent for it."""
    with fake("fullcontact") as vendor:
        guard = Guard(FullContact("test-key", base_url=vendor.url))
        with pytest.raises(ConfigError, match="no stats category 'cardreader'"):
            guard.reports.stats("cardreader")
        assert vendor.polls == 0


@pytest.fixture
def guard() -> Iterator[Guard]:
    """Return a guard of a fake that has spent 7 of 100."""
    with fake("fullcontact", quota=100, used=7) as vendor:
        yield Guard(FullContact("test-key", base_url=vendor.url))


def test_a_report_in_both_colours_and_once(guard: Guard) -> None:
    """Asked twice within seconds it is one call, and it is no reading."""
    one = guard.reports.stats("person")
    assert one.company is None
    assert guard.reports.stats("person") is one
    for backend in ("asyncio", "trio"):

        async def ask() -> FullContactStats:
            record: FullContactStats = await guard.areports.stats("person")
            return record

        assert anyio.run(ask, backend=backend) is one
    assert guard.reports.stats().company is not None
    assert len(guard.standing()) == 0


def test_a_reader_that_does_not_exist_is_told_with_those_that_do(guard: Guard) -> None:
    """Whose mistake, what, and what there is."""
    with pytest.raises(AttributeError, match="fullcontact has no report 'usage'; it has stats"):
        _ = guard.reports.usage
    with pytest.raises(AttributeError):
        _ = guard.areports._hidden
    assert dir(guard.reports) == ["stats"]
    assert repr(guard.reports) == "<Reports fullcontact: stats>"


def test_a_report_ages_by_the_guards_own_clock() -> None:
    """A test that moves time sees the next answer."""
    clock = FakeClock()
    with fake("fullcontact", used=5, clock=clock) as vendor:
        guard = Guard(FullContact("test-key", base_url=vendor.url), clock=clock)
        first = guard.reports.stats()
        vendor.spend(10)
        assert guard.reports.stats() is first
        clock.advance(6)
        assert guard.reports.stats().person.enrichment.matches.count == 15
