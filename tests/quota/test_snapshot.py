"""An entry is whole or not at all: what was kept before it is all that it can change."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quotaguard.quota.account import Books, Terms
from quotaguard.quota.allotment import Allotment
from quotaguard.quota.entries import (
    AskToPoll,
    Blocked,
    Check,
    Doubt,
    Observe,
    Pause,
    Reserve,
    Touch,
    Unblocked,
)
from quotaguard.quota.meter import MeterTerms
from quotaguard.quota.policy import Policy
from quotaguard.quota.polls import Claim, PollTerms
from quotaguard.quota.rates import RateTerms
from quotaguard.quota.readings import Meter, Moment, Period, Reading, Usage
from quotaguard.quota.snapshot import keep, restore

POLICY = Policy(rates=["3/10s", "5/60s"], cold_reserve=0)
NAMES = ("events", "segments")
WALL = 1_800_000_000.0
MONTH = 30 * 86_400.0


def terms() -> Terms:
    """Return the terms of a counter and a level, with rates."""
    meters = {"events": Meter("events"), "segments": Meter("segments", "level")}
    mine = {name: MeterTerms.of(meter, POLICY) for name, meter in meters.items()}
    rates = RateTerms(POLICY.rates, POLICY.slack, POLICY.shadow)  # type: ignore[arg-type] # parsed
    return Terms("vendor", "a", MappingProxyType(mine), PollTerms(30, 900, 27), rates)


@st.composite
def entries(draw: st.DrawFn) -> list[tuple[float, Any]]:
    """Draw entries and the seconds between them."""
    cost = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 60), min_size=1)
    priority = st.sampled_from(["critical", "normal", "batch"])
    names = st.lists(st.sampled_from(NAMES)).map(tuple)
    usage = st.builds(Usage, st.integers(0, 120), st.sampled_from([None, 0, 100, 1000]))
    period = st.builds(lambda month: Period(WALL + month * MONTH, WALL + (month + 1) * MONTH),
                       st.integers(-1, 1))  # fmt: skip
    reading = st.builds(
        Reading, st.dictionaries(st.sampled_from(NAMES), usage), period, st.just({}),
        st.sampled_from([None, WALL, WALL + 1000]),
    )  # fmt: skip
    claim = st.builds(Claim, st.just("p"), st.builds(lambda at: Moment(at, at, WALL + at),
                                                     st.floats(0, 100)))  # fmt: skip
    kinds = st.one_of(
        st.builds(Reserve, st.just("r"), cost, priority, max_wait=st.floats(0, 100)),
        st.builds(Check, cost, priority),
        st.builds(Observe, claim, reading, trusted=st.booleans()),
        st.builds(Blocked, names),
        st.builds(Unblocked, names),
        st.builds(Pause, st.floats(0, 100)),
        st.builds(AskToPoll, st.just("p"), st.booleans()),
        st.just(Doubt()),
        st.just(Touch()),
    )
    return draw(st.lists(st.tuples(st.floats(0, MONTH), kinds), min_size=1, max_size=8))


@given(entries())
def test_what_was_kept_brings_everything_back(drawn: list[tuple[float, Any]]) -> None:
    """Whatever an entry does to the books and the allotment, it can be undone."""
    books, allotment, at, all_terms = Books(), Allotment(), 0.0, terms()
    for wait, entry in drawn:
        at += wait
        now = Moment(at, at, WALL + at)
        before = json.dumps(books.state())
        held = {name: purse.taken for name, purse in allotment.purses.items()}
        kept = keep(books, [allotment])
        posted = books.post("me", allotment.report(now), entry, now, all_terms)
        allotment.accept(posted.granted, posted.lanes)
        after = json.dumps(books.state())
        restore(kept)
        assert json.dumps(books.state()) == before
        assert {name: purse.taken for name, purse in allotment.purses.items()} == held
        posted = books.post("me", allotment.report(now), entry, now, all_terms)
        allotment.accept(posted.granted, posted.lanes)
        assert json.dumps(books.state()) == after
