"""The specification of histories bites: each of these is wrong, and told."""

from __future__ import annotations

import pytest
from sharing_history import Charge, History, faults_of, greedy, hasty
from sharing_workers import Note


def history(*notes: str, charges: tuple[str, ...] = (), quota: int = 1) -> History:
    """Return a history of one worker, a note each second: ``"asks a.1"``, and its charges."""
    told = [Note(float(at), *note.split(), "critical") for at, note in enumerate(notes)]
    calls = [Charge(float(text.split()[1]), text.split()[0], charged=True) for text in charges]
    return History({"a": told}, calls, quota, late=10.0)


GOOD = ("asks a.1", "has a.1", "ends a.1")


def test_a_good_one_has_no_fault() -> None:
    """One call, charged while it was held."""
    assert list(faults_of(history(*GOOD, charges=("a.1 1.5",)))) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (history(*GOOD, charges=("a.1 1.5", "a.1 1.6"), quota=2), "charged 2 times"),
        (history(*GOOD, charges=("a.1 1.5", "b.1 1.6"), quota=2), "before anybody asked"),
        (history("asks a.1", "has a.1", charges=("a.1 1.5",)), "has never ended"),
        (history(*GOOD), "answered and not charged"),
        (
            history(*GOOD, "asks a.2", "has a.2", "ends a.2", charges=("a.1 1.5", "a.2 4.5")),
            "2 of 1 units were charged",
        ),
        (
            history("asks a.1", "has a.1", "lost a.1", "asks a.2", "has a.2", "lost a.2"),
            "2 of 1 units were taken as a.2",
        ),
    ],
)
def test_a_wrong_one_is_told(wrong: History, told: str) -> None:
    """Too much, too early, twice, for ever, or let go while an unknown outcome is held."""
    assert any(told in fault for fault in faults_of(wrong))


def test_who_was_let_go_after_the_end_is_told() -> None:
    """Nobody gets a unit after somebody heard that there is none."""
    wrong = history("asks a.1", "QuotaExhausted a.1", "asks a.2", "has a.2", "ends a.2")
    assert [fault.split()[0] for fault in hasty(wrong)] == ["a.2"]


def test_who_took_what_the_line_keeps_is_told() -> None:
    """The second of two units, of which one is kept."""
    wrong = history(*GOOD, "asks a.2", "has a.2", "ends a.2", quota=2)
    kept = {"critical": 1.0}
    assert [fault.split()[0] for fault in greedy(wrong, kept, 0.0)] == ["a.2"]
