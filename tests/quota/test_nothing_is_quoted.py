"""What is read of an answer: no error quotes it, and no period leaves the calendar."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.errors import StatsUnreadable
from quotaguard.quota.answers import Faults
from quotaguard.quota.calls import Outcome
from quotaguard.quota.fields import Fields
from quotaguard.quota.readings import Period
from quotaguard.quota.secret import Secret

THEIRS = "canary-9d1f"
FAULTS = Faults("vendor", Secret(THEIRS))


@pytest.mark.parametrize(
    "build",
    [
        lambda said: datetime.fromisoformat(said["at"]),
        lambda said: Period.parse(None, said["at"]),
        lambda said: int(said["at"]),
        lambda said: Fields(said).counts("counts"),
        lambda said: Fields(said).instant("at"),
    ],
    ids=["a date", "a period", "a number", "names of counts", "a field"],
)
def test_an_error_never_quotes_the_answer(build: object) -> None:
    """Whatever a reader's own conversions say of a value, it stays here."""
    body = b'{"at": "%s", "counts": {"%s": -1}}' % ((THEIRS.encode(),) * 2)
    with pytest.raises(StatsUnreadable) as caught:
        FAULTS.read(Outcome(200, {}, body), build)  # type: ignore[arg-type]
    assert THEIRS not in f"{caught.value}{caught.value.path}"


@pytest.mark.parametrize("name", ["x" * 5000, "<b>", "\x1b[31m", "a\nb", ""])
def test_names_that_are_none_are_not_told(name: str) -> None:
    """Where the vendor chooses the names, an error tells those that look like names."""
    body = json.dumps({"counts": {name: -1, "fine": 2}}).encode()
    with pytest.raises(StatsUnreadable) as caught:
        FAULTS.read(Outcome(200, {}, body), lambda said: Fields(said).counts("counts"))
    assert caught.value.path in ("the answer", "counts.")


def test_counts_are_read_under_the_vendors_own_names() -> None:
    """They are data: any name will do."""
    assert Fields({"by": {"a b": 1, "": 2.0}}).counts("by") == {"a b": 1, "": 2}


EDGES = st.sampled_from(
    [
        "0001-01-01",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31",
        "9999-12-31T23:59:59.999-12:00",
        "2024-02-29",
        "2024-02-29T12:00:00",
    ]
)
TEXTS = EDGES | st.datetimes().map(datetime.isoformat) | st.dates().map(str) | st.text(max_size=30)


@given(start=TEXTS | st.none(), end=TEXTS | st.none(), inclusive=st.booleans())
def test_a_period_is_a_period_or_a_value_error(
    start: str | None, end: str | None, inclusive: bool
) -> None:
    """Each end that was given can be shown, and the last comes after the first."""
    try:
        period = Period.parse(start, end, inclusive=inclusive)
    except ValueError:
        return
    assert (period.starts_at is None) == (start is None)
    assert (period.ends_at is None) == (end is None)
    assert period.length is None or period.length > 0


def test_a_period_that_somebody_made_by_hand_is_shown_as_far_as_it_can_be() -> None:
    """A provider may make one without `parse`; the guard tells of it and must not fail."""
    period = Period(-1e20, float("inf"))
    assert (period.starts_at, period.ends_at) == (None, None)
