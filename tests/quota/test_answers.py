"""Pauses, ids and faults: what every provider reads out of an answer."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.errors import StatsUnavailable, StatsUnreadable
from quotaguard.quota.answers import MOST_PAUSE, Faults, dated, paused, retry_after
from quotaguard.quota.calls import Evidence, Outcome
from quotaguard.quota.fields import Fields
from quotaguard.quota.secret import Secret

KEY = "canary-key-1"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@given(after=st.text(max_size=80), date=st.text(max_size=80))
def test_retry_after_is_a_number_of_seconds_or_nothing(after: str, date: str) -> None:
    """Whatever the two headers say, no exception and nothing below 0."""
    seconds = retry_after({"retry-after": after, "date": date})
    assert seconds is None or seconds >= 0


@given(seconds=st.integers(0, 10**6))
def test_a_date_counts_from_the_answers_own_date(seconds: int) -> None:
    """Our clock may be wrong; the server's two dates are of one clock."""
    then = datetime.fromtimestamp(NOON.timestamp() + seconds, UTC)
    headers = {
        "retry-after": format_datetime(then, usegmt=True),
        "date": format_datetime(NOON, usegmt=True),
    }
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("30", 30.0),
        (" 2.5 ", 2.5),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("1e9", None),
        ("Wed, 25 Nov 2026 12:00:10 GMT", 10.0),
        ("Wednesday, 25-Nov-26 12:00:10 GMT", 10.0),
        ("Wed Nov 25 12:00:10 2026", 10.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        ("Wed, 99 Nov 2026 11:00:00 GMT", None),
    ],
)
def test_the_forms_of_retry_after(after: str, expected: float | None) -> None:
    """RFC 9110 has seconds and three forms of dates; the rest says nothing."""
    headers = {"retry-after": after, "date": "Wed, 25 Nov 2026 12:00:00 GMT"}
    assert retry_after(headers) == expected


def test_a_date_without_the_servers_own_says_nothing() -> None:
    """There is nothing to count from but a clock of ours, which may be wrong."""
    assert retry_after({"retry-after": "Wed, 25 Nov 2026 12:00:10 GMT"}) is None
    assert retry_after({}) is None


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_is_bounded(status: int) -> None:
    """An hour at most: a longer one means the month, or harm."""
    for seconds, pauses in ((MOST_PAUSE, True), (MOST_PAUSE + 1, False), (0, False)):
        outcome = Outcome(status, {"retry-after": str(seconds)})
        expected = (Evidence("pause", seconds=seconds),) if pauses else ()
        assert paused(outcome) == expected
    assert paused(Outcome(200, {"retry-after": "5"})) == ()


def test_a_fault_carries_its_facts_and_no_secret() -> None:
    """Status, code, path and request id; never one that has the key in it."""
    faults = Faults("vendor", Secret(KEY))
    outcome = Outcome(500, {"x-request-id": "req_1", "retry-after": "7"})
    error = faults.of(StatsUnavailable, "it failed", outcome, path="a.b", code="OOPS")
    assert (error.provider, error.status, error.code, error.path) == ("vendor", 500, "OOPS", "a.b")
    assert (error.request_id, error.retry_after) == ("req_1", 7.0)
    told = faults.of(StatsUnavailable, "it failed", outcome, request_id="theirs", code="no word")
    assert (told.request_id, told.code) == ("theirs", None)
    leaky = Outcome(500, {"x-request-id": f"id-{KEY}", "x-amzn-requestid": "aws"})
    assert faults.of(StatsUnavailable, "it failed", leaky).request_id == "aws"
    assert faults.of(StatsUnavailable, "x", Outcome(500), code=KEY).code is None


def test_a_broken_answer_names_its_place() -> None:
    """What was looked for stands in the error, and not a word of the body."""
    faults = Faults("vendor", None)

    def build(said: object) -> int:
        return Fields(said).inside("usage").whole("used")

    assert faults.read(Outcome(200, {}, b'{"usage": {"used": 3}}'), build) == 3
    with pytest.raises(StatsUnreadable) as caught:
        faults.read(Outcome(200, {}, b'{"usage": {"used": "secret"}}'), build)
    assert caught.value.path == "usage.used"
    assert "secret" not in str(caught.value)
    for body in (b"", b"<html>", b"[]", b'{"usage": 1}', None):
        with pytest.raises(StatsUnreadable):
            faults.read(Outcome(200, {}, body), build)


def test_the_date_of_an_answer_is_that_of_its_making() -> None:
    """What a cache has kept is of another time."""
    date = "Wed, 25 Nov 2026 12:00:00 GMT"
    assert dated({"date": date}) == NOON.timestamp()
    assert dated({"date": date, "age": "30"}) is None
    assert dated({"date": "yesterday"}) is None
    assert dated({}) is None
