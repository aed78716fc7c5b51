"""Leases: who is not heard of holds nothing in the end, and never a unit less than it may spend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard import Policy
from quotaguard.quota.account import Books, Terms
from quotaguard.quota.allotment import Tally
from quotaguard.quota.entries import AskToPoll, Draw, Reserve, Touch
from quotaguard.quota.leases import RECALLED, SPARE, active, distrust, recall, tend
from quotaguard.quota.observing import Observe
from quotaguard.quota.outage import goes_without
from quotaguard.quota.readings import Moment, Period, Reading, Usage
from quotaguard.quota.verdicts import Due, Granted, Later
from quotaguard.spending import terms_of
from quotaguard.testing import SimulatedProvider

LEASE, LAG, LATE = 30.0, 10.0, 20.0
WALL = 1_700_000_000.0


def at(seconds: float) -> Moment:
    """Return a moment; the two clocks start apart, so that mixing them shows."""
    return Moment(seconds, seconds + 500.0, WALL + seconds)


def terms(**settings: object) -> Terms:
    """Return what a guard of a meter ``a`` asks of the books."""
    policy = Policy(**{"lag": LAG, "late": LATE, "cold_reserve": 0, "warn_at": (), **settings})  # type: ignore[arg-type] # its settings
    return terms_of(SimulatedProvider({"a": 100}), policy)


TERMS = terms()


def opened(limit: int = 100) -> Books:
    """Return books with a reading."""
    books = Books()
    tend(books, "one", at(0), TERMS, LEASE)
    read(books, at(0), limit)
    return books


def read(books: Books, now: Moment, limit: int = 100, used: int = 0) -> None:
    """Enter a reading."""
    due = books.post("one", {}, AskToPoll("p", anyway=True), now, TERMS).verdict
    assert isinstance(due, Due)
    reading = Reading({"a": Usage(used, limit)}, Period(WALL - 100.0, WALL + 1e6))
    books.post("one", {}, Observe(due.claim, reading), now, TERMS)


def reserve(books: Books, name: str, count: int, now: Moment) -> object:
    """Return what becomes of a critical call."""
    entry = Reserve(f"{name}.1", {"a": count}, "critical", may_poll=False, lanes=None)
    return books.post(name, {}, entry, now, TERMS).verdict


@given(st.integers(1, 50), st.integers(0, 50), st.floats(0.0, 200.0))
def test_a_holder_that_is_not_heard_of(held: int, spent: int, gone: float) -> None:
    """Until its last call can no longer be charged it holds; then all of that is unknown spend."""
    books = opened()
    tend(books, "two", at(1), TERMS, LEASE)
    assert isinstance(reserve(books, "two", held, at(1)), Granted)
    told = {"a": Tally(held + spent, spent, spent, 0, 1.0)}
    books.absorb("two", told, at(1), TERMS)
    meter = books.meters["a"]
    before = meter.gate(at(1).fast, TERMS.meters["a"])
    tend(books, "one", at(1 + gone), TERMS, LEASE)
    over = gone >= LEASE + LATE
    assert (meter.held, meter.unknown, meter.spent) == (
        (0, held, spent + held) if over else (held, 0, spent)
    )
    assert ("two" in books.holders) is not over
    assert ("two" in books.leases) is not over
    assert meter.gate(at(1).fast, TERMS.meters["a"]) == before, "a unit was given away"


def test_a_holder_of_nothing_is_forgotten_at_the_end_of_its_lease() -> None:
    """And not before; one that is heard of again lives on."""
    books = opened()
    tend(books, "two", at(0), TERMS, LEASE)
    tend(books, "three", at(20), TERMS, LEASE)
    tend(books, "one", at(LEASE - 0.001), TERMS, LEASE)
    assert active(books) == 3
    tend(books, "one", at(LEASE), TERMS, LEASE)
    assert set(books.leases) == {"one", "three"}


def test_who_comes_back_in_time_has_kept_everything() -> None:
    """Its own entry renews the lease, even one that ran out."""
    books = opened()
    tend(books, "two", at(0), TERMS, LEASE)
    reserve(books, "two", 5, at(0))
    tend(books, "one", at(LEASE + LATE - 1), TERMS, LEASE)
    tend(books, "two", at(LEASE + LATE - 1), TERMS, LEASE)
    tend(books, "one", at(LEASE + LATE + 1), TERMS, LEASE)
    assert books.meters["a"].held == 5


def test_a_holder_of_another_guards_meter_is_given_up_too() -> None:
    """By whoever sees that, though it knows nothing of that meter."""
    books = opened()
    tend(books, "two", at(0), TERMS, LEASE)
    books.absorb("two", {"a": Tally(3, 0, 0, 0, 0.0)}, at(0), TERMS)
    books.meter("b").held = 4
    books.holders["two"]["b"] = Tally(4, 0, 0, 0, 0.0)
    tend(books, "one", at(LEASE + LATE), TERMS, LEASE)
    assert (books.meters["b"].held, books.meters["b"].unknown) == (0, 4)


def test_a_call_that_finds_others_idle_units_recalls_them() -> None:
    """For some seconds nobody draws more than its call; then lanes are granted again."""
    books = opened()
    tend(books, "two", at(0), TERMS, LEASE)
    lanes = books.post("two", {}, Draw({"a": 40}), at(0), TERMS).lanes
    idle = lanes["a"].units
    assert 0 < idle == books.meters["a"].idle
    verdict = reserve(books, "one", 100 - idle + 1, at(1))
    assert isinstance(verdict, Later)
    assert verdict.lent
    assert books.recalled == at(1).fast + RECALLED
    assert not books.post("two", {}, Draw({"a": 40}), at(1 + RECALLED - 0.01), TERMS).lanes
    assert books.post("two", {}, Draw({"a": 40}), at(1 + RECALLED), TERMS).lanes
    recall(books, at(2))
    assert books.recalled == at(2).fast + RECALLED


@pytest.mark.parametrize("seconds", [LEASE, 1.0])
def test_books_that_lost_writes_grant_nothing_until_a_poll_that_was_asked_later(
    seconds: float,
) -> None:
    """After the leases of the lost, and after the lag in which what they spent shows."""
    books = opened()
    distrust(books, at(0), TERMS, seconds)
    until = seconds + LAG + SPARE
    assert isinstance(reserve(books, "one", 1, at(0)), Later)
    read(books, at(until - 0.1))
    assert not isinstance(reserve(books, "one", 1, at(until + 0.1)), Granted)
    distrust(books, at(1), TERMS, 0.0)
    assert books.distrusted == at(until).fast or seconds == 1.0
    read(books, at(until + 1.1))
    assert isinstance(reserve(books, "one", 1, at(until + 1.2)), Granted)


@pytest.mark.parametrize(
    ("choice", "holders", "lent", "count", "goes"),
    [
        ("closed", 1, 0, 1, False),
        ("closed", 1, 0, 0, True),
        ("open", 1, 1000, 1000, True),
        ("share", 1, 0, 50, True),
        ("share", 1, 0, 51, False),
        ("share", 1, 40, 10, True),
        ("share", 1, 40, 11, False),
        ("share", 4, 0, 12, True),
        ("share", 4, 0, 13, False),
    ],
)
def test_whether_a_call_goes_without_the_books(
    choice: str, holders: int, lent: int, count: int, goes: bool
) -> None:
    """Half of what was left, among the holders of then."""
    books, mine = opened(), terms(on_ledger_down=choice)
    for number in range(1, holders):
        tend(books, f"h{number}", at(0), TERMS, LEASE)
    for fresh in (True, False):
        went = goes_without(books, {"a": count}, "critical", {"a": lent}, at(0), mine, fresh=fresh)
        assert went is (goes and (fresh or choice != "share" or not count))


def test_nothing_goes_by_share_while_nothing_is_known() -> None:
    """Neither of a meter that was never read; unlimited ones go."""
    mine = terms(on_ledger_down="share")
    assert not goes_without(Books(), {"a": 1}, "critical", {}, at(0), mine, fresh=True)
    books = opened()
    books.meters["a"].limit = None
    assert goes_without(books, {"a": 10**9}, "critical", {}, at(0), mine, fresh=True)
    books.post("one", {}, Touch(), at(1), TERMS)
