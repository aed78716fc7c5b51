"""The record of an account: its text is the books, and its clock only errs to the safe side."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.quota.account import Books
from quotaguard.quota.readings import Moment
from quotaguard.sharing.record import FORMAT, JUMP, Anchor, Record, Unreadable
from quotaguard.sharing.store import Seen

WALL = 1_700_000_000.0
EPS = 1e-6

steps = st.lists(
    st.tuples(
        st.floats(0.0, 10_000.0),  # seconds that pass
        st.one_of(st.just(0.0), st.floats(2.0, 1e6), st.floats(-1e6, -2.0)),  # the clock is set
        st.floats(0.0, 0.4),  # how unsure its time is
    ),
    min_size=1,
    max_size=12,
)


def seen(at: float, unsure: float = 0.0, wall: float = WALL, era: str = "1") -> Seen:
    """Return what a store shows whose clock says *at*."""
    return Seen("v", None, Moment(at - unsure, at + unsure, wall), era)


def again(record: Record) -> Record:
    """Return the record as another process reads it."""
    return Record.read(record.text())


@given(steps)
def test_a_servers_clock_may_be_set(told: list[tuple[float, float, float]]) -> None:
    """The slow clock goes no faster than time does, the fast one no slower, and none goes back."""
    time, apart = 5_000.0, 100_000.0
    record = Record(Books())
    first = record.now(seen(time + apart, 0.1))
    anchor, start, before = Anchor(first.slow, first.fast, time), time, first
    for gone, jump, unsure in told:
        time, apart = time + gone, apart + jump
        record = again(record)
        shown = seen(time + apart, unsure)
        record.corrected(shown, anchor, time)
        now = record.now(shown)
        assert now.slow >= before.slow
        assert now.fast >= before.fast
        # What cannot be told from a slow round trip, each time.
        unseen = (JUMP + gone * 0.001) * len(told) + 1.0
        assert now.slow - first.slow <= time - start + unseen
        assert now.fast - first.fast >= time - start - unseen
        anchor, before = Anchor(now.slow, now.fast, time), now


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0.0, 10_000.0), st.floats(0.0, 10_000.0)), max_size=12
    )
)
def test_a_host_may_boot(told: list[tuple[bool, float, float]]) -> None:
    """Its clock begins at nothing, and the books' goes on; a boot leaves them as after a crash."""
    time, begun, boots = 50_000.0, 0.0, 0
    record = Record(Books())
    first = before = record.now(seen(time, wall=WALL + time))
    start = time
    for boot, gone, down in told:
        time += gone
        record = again(record)
        if boot:
            time, boots = time + down, boots + 1
            begun = time - 5.0
            record.begun_anew(seen(5.0, wall=WALL + time))
            assert record.books.cold_from == before.slow
        now = record.now(seen(time - begun, wall=WALL + time))
        assert now.slow >= before.slow
        assert now.fast >= before.fast
        assert now.slow - first.slow <= time - start + EPS
        assert now.fast - first.fast >= time - start - EPS
        before = now


def test_what_is_no_record_says_so() -> None:
    """Damaged, or of another version: never a fault of another kind."""
    whole = Record.new(seen(5.0)).text()
    for text in ("", "null", "[]", "{}", "1", '"a"', whole[:-1], whole[:-40] + whole[-20:]):
        with pytest.raises(Unreadable):
            Record.read(text)
    newer = json.loads(whole) | {"format": FORMAT + 1}
    with pytest.raises(Unreadable, match=f"its format is {FORMAT + 1}"):
        Record.read(json.dumps(newer))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_no_part_of_it_may_be_anything(value: object) -> None:
    """Whatever stands where a part should: it is read or refused, and nothing else is raised."""
    whole = json.loads(Record.new(seen(5.0)).text())
    for name in whole:
        try:
            Record.read(json.dumps(whole | {name: value}))
        except Unreadable:
            continue


def test_a_new_record_is_its_text() -> None:
    """Also with infinities, which JSON has no numbers for."""
    record = Record.new(seen(5.0))
    assert record.last == (-math.inf, -math.inf)
    assert again(record).text() == record.text()
