"""What a reviewer has found at shared books, each as it showed itself."""

from __future__ import annotations

from typing import Any

import pytest
from shelves import LAG, MATCHES, Process, Provider, Shelf, shared

from quotaguard import FullContact, Guard, Policy
from quotaguard.errors import ConfigError, QuotaGuardError
from quotaguard.testing import FakeClock

QUOTA = 100

POLICY = {"lag": LAG, "late": LAG, "cold_reserve": 0, "warn_at": ()}


# -- clocks -------------------------------------------------------------------


@pytest.mark.parametrize("era", ["boot", ""], ids=["a boot has a name", "it has none"])
def test_the_books_go_on_after_a_boot(era: str) -> None:
    """The clock of the host begins anew; nothing is frozen until it is where it was."""
    before = FakeClock()
    before.advance(1_000_000.0)
    shelf, provider = Shelf(before), Provider(before, QUOTA)
    shelf.era = era and f"{era} 1"
    one = Process(shelf, provider)
    one.guard.refresh()
    for _ in range(20):
        one.spend()
    after = FakeClock(1_700_000_000.0 + 1_000_000.0 + 60.0)
    booted, late = Shelf(after), Provider(after, QUOTA)
    booted.records, booted.era = shelf.records, era and f"{era} 2"
    late.period, late.charges = provider.period, [(0.0, 20)]
    other = Process(booted, late)
    went = 0
    for _ in range(60):
        after.advance(60.0)
        other.tend()
        try:
            other.spend()
            went += 1
        except QuotaGuardError:
            pass
    assert went > 50
    row = other.guard.standing()[MATCHES]
    assert row.used == late.true == 20 + went


def test_a_lease_is_longer_than_an_exchange() -> None:
    """Else what is granted is over when it comes, and asked for again and again."""
    clock = FakeClock()
    for lease in (0.0, 1e-9, 0.05):
        with pytest.raises(ConfigError, match=r"lease= is 0\.1 s or more: .* asks again"):
            shared(Shelf(clock), clock, lease)
    assert shared(Shelf(clock), clock, 0.1).lease == 0.1


def test_a_guard_goes_by_the_clock_of_its_ledger() -> None:
    """Whoever gives the ledger a clock need not give it to every guard, too."""
    clock, own = FakeClock(), FakeClock()
    ledger = shared(Shelf(clock), clock)
    provider, policy = FullContact("key"), Policy(**POLICY)  # type: ignore[arg-type] # settings
    assert Guard(provider, ledger=ledger, policy=policy)._spending.clock is clock
    assert Guard(provider, ledger=ledger, policy=policy, clock=own)._spending.clock is own
