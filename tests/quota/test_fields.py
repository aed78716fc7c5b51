"""An answer taken apart: every field is of its kind, or it is told where it is not."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.quota.fields import MOST_COUNT, Fields, Unfit, every, whole

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
READERS = (
    Fields.whole,
    Fields.number,
    Fields.text,
    Fields.flag,
    Fields.day,
    Fields.instant,
    Fields.inside,
    Fields.counts,
    lambda fields, name: fields.each(name, lambda item: item.extra),
)


@given(said=JSON, place=st.integers(0, len(READERS) - 1))
def test_a_reader_reads_or_says_where_it_cannot(said: Any, place: int) -> None:
    """Nothing but Unfit is raised, its path is the field's, and it quotes nothing."""
    fields = Fields({"a": {"b": said}}).inside("a")
    path, why = "a.b", ""
    try:
        READERS[place](fields, "b")
    except Unfit as unfit:
        path, why = unfit.path, str(unfit)
    assert path.startswith("a.b")
    assert len(why) < 60


@given(said=st.dictionaries(st.text(), JSON), names=st.sets(st.text()))
def test_what_nobody_asked_for_is_left(said: dict[str, Any], names: set[str]) -> None:
    """Taken and left make up the whole."""
    fields = Fields(said)
    for name in names & set(said):
        fields.take(name)
    assert fields.extra == {name: told for name, told in said.items() if name not in names}


@given(count=st.integers(0, MOST_COUNT))
def test_a_count_may_be_written_as_a_fraction(count: int) -> None:
    """JSON knows one kind of number; below 2**53 both say the same."""
    assert whole(count) == count
    assert whole(json.loads(f"{count}.0")) == count


@pytest.mark.parametrize("said", [True, False, None, -1, 0.5, "7", [], {}, MOST_COUNT + 1, 1e300])
def test_what_is_no_count_is_none(said: Any) -> None:
    """A bool is no number, a text is none either, and nothing is below 0."""
    assert whole(said) is None
    with pytest.raises(Unfit) as caught:
        Fields({"used": said}).whole("used")
    assert caught.value.path == "used"


def test_null_and_missing_are_told_apart_where_it_matters() -> None:
    """`maybe` takes both for None, every other reader wants the field."""
    fields = Fields({"null": None, "there": 3})
    assert [fields.maybe(Fields.whole, name) for name in ("null", "gone", "there")] == [
        *(None, None, 3)
    ]
    with pytest.raises(Unfit, match="missing"):
        fields.whole("gone")
    with pytest.raises(Unfit, match="no whole number"):
        Fields({"null": None}).whole("null")
    assert fields.extra == {}


def test_the_path_of_an_item_names_its_place() -> None:
    """Somebody has to find it in a long answer."""
    with pytest.raises(Unfit) as caught:
        every([{"n": 1}, {"n": "x"}], lambda item: item.whole("n"), "list")
    assert caught.value.path == "list[1].n"
    with pytest.raises(Unfit, match="no list"):
        every({}, lambda item: item.extra)
    with pytest.raises(Unfit, match="no object"):
        every([1], lambda item: item.extra)


def test_days_and_instants() -> None:
    """A time without a zone is UTC, a day is a day."""
    fields = Fields({"day": "2026-05-31", "at": "2026-05-02T14:32:00Z", "bare": "2026-05-02T14:32"})
    assert fields.day("day") == date(2026, 5, 31)
    assert fields.instant("at") == datetime(2026, 5, 2, 14, 32, tzinfo=UTC)
    assert fields.instant("bare").tzinfo is UTC
