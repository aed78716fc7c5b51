"""A guard whose shared ledger cannot be reached: what `Policy.on_ledger_down` lets go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quotaguard import FullContact, Guard, LedgerUnavailable, Policy, QuotaUnknown, SQLiteLedger
from quotaguard.logs import add_quota
from quotaguard.testing import fake
from quotaguard.testing.vendor import FakeVendor

MATCHES = "person.enrichment.matches"


@pytest.fixture
def vendor() -> Iterator[FakeVendor]:
    """Serve a provider with 100 units."""
    with fake("fullcontact", quota=100, key="test-key") as vendor:
        yield vendor


@pytest.fixture
def broken(tmp_path: Path) -> SQLiteLedger:
    """Return a ledger whose file is none."""
    path = tmp_path / "quota.db"
    path.write_text("not a database\n" * 100)
    return SQLiteLedger(path)


def test_open_lets_calls_go_from_the_start(vendor: FakeVendor, broken: SQLiteLedger) -> None:
    """A call without a lease is not asked again for ever because it has none."""
    policy = Policy(on_ledger_down="open")
    guard = Guard(FullContact("test-key", base_url=vendor.url), ledger=broken, policy=policy)
    with guard, guard.reserve({MATCHES: 1}) as reservation:
        reservation.settle()
    assert reservation.state == "settled"


@pytest.mark.parametrize("choice", ["closed", "share"])
def test_without_a_reading_nothing_goes(
    vendor: FakeVendor, broken: SQLiteLedger, choice: str
) -> None:
    """There is nothing of which a share could be taken; the refusal tells whose fault it is."""
    policy = Policy(on_ledger_down=choice)  # type: ignore[arg-type] # one of them
    guard = Guard(FullContact("test-key", base_url=vendor.url), ledger=broken, policy=policy)
    with guard, pytest.raises(QuotaUnknown) as caught, guard.reserve({MATCHES: 1}):
        pass
    assert isinstance(caught.value.__cause__, LedgerUnavailable)
    assert "on_ledger_down" in str(caught.value)
    assert "stats endpoint" not in str(caught.value)
    assert vendor.polls == 0


def test_a_guard_can_be_shown(vendor: FakeVendor, broken: SQLiteLedger) -> None:
    """Neither its repr nor a log line raises; the verbs do."""
    with Guard(FullContact("test-key", base_url=vendor.url), ledger=broken) as guard:
        assert repr(guard) == "<Guard fullcontact: not read yet>"
        assert add_quota(guard)(None, "info", {"event": "told"}) == {"event": "told"}
        with pytest.raises(LedgerUnavailable, match="damaged"):
            guard.standing()
