"""Ctrl-C at every step of a guarded call whose books others share: nothing is left behind.

The steps, the ways in and the law are those of the ledger in memory; here each entry is
an exchange with a store, which may be stopped anywhere too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from shelves import Shelf, shared
from test_interrupts import KINDS, WAYS, Law, Step, Strike, struck

from quotaguard.sharing.ledger import SharedLedger

STRUCK: Counter[Step] = Counter()


def ledger(clock: Any) -> SharedLedger:
    """Return a ledger over a store of its own."""
    return shared(Shelf(clock), clock)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_leaves_nothing_behind(
    way: str, warm: bool, strikes: int, law: Law, record_property: Callable[..., None]
) -> None:
    """No lock is held, nothing charged is missing, and a poll later all is exact."""
    steps: list[Step] = []
    for _ in range(5):
        before, steps = steps, struck(way, Strike(-1), law, warm=warm, ledger=ledger).steps
        if before == steps:
            break
    made = 0
    for number, step in enumerate(steps):
        if not strikes or STRUCK[step] < strikes:
            STRUCK[step] += 1
            made += 1
            struck(way, Strike(number, KINDS[number % 3]), law, warm=warm, ledger=ledger)
    record_property("strikes", made)
