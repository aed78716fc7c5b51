"""A holder that the books forgot, although its lease runs by its own clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from quotaguard import FullContact, Guard, Policy
from quotaguard.quota.readings import Moment
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.store import Seen, Turn
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.fullcontact import FakeFullContact

MATCHES = "person.enrichment.matches"
KEY = "key"


class Cell:
    """A store that a dict keeps. *ahead*: seconds that a host may be wrong about its clock."""

    name = "a cell"
    remote = True

    def __init__(self, clock: FakeClock, texts: dict[str, tuple[str, str]]) -> None:
        self._clock, self._texts = clock, texts
        self.ahead = 0.0

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        version, text = self._texts.get(account, ("", ""))
        now = self._clock.now()
        now = Moment(now.slow, now.fast + self.ahead, now.wall)
        draft = turn(Seen(version, text or None, now, "era"))
        if draft is not None:
            version = draft.version
            self._texts[account] = draft.version, draft.text
        return version

    def forked(self) -> None:
        """It is in memory."""

    def close(self) -> None:
        """There is nothing to let go of."""


class House:
    """A provider, and guards of two hosts that share its account."""

    def __init__(self, vendor: FakeFullContact, clock: FakeClock) -> None:
        self.vendor, self.clock = vendor, clock
        texts: dict[str, tuple[str, str]] = {}
        self.cells = [Cell(clock, texts) for _ in range(2)]
        policy = Policy(lag=10, late=10, cold_reserve=0, warn_at=())
        self.guards = [
            Guard(
                FullContact(KEY, base_url=vendor.url),
                ledger=SharedLedger(cell, lease=30, clock=clock),  # type: ignore[arg-type] # ours
                policy=policy,
                clock=clock,
            )
            for cell in self.cells
        ]

    def spend(self, host: int, count: int) -> None:
        """Spend *count* units, one by one."""
        for _ in itertools.repeat(None, count):
            with self.guards[host].reserve({MATCHES: 1}, priority="critical", max_wait=0) as held:
                self.vendor.spend(1)
                held.settle()


@pytest.fixture
def house() -> Iterator[House]:
    """Run a house on a clock that stands still."""
    clock = FakeClock(autojump=False)
    with fake("fullcontact", quota=100, key=KEY, clock=clock) as vendor:
        yield House(vendor, clock)


def test_what_a_forgotten_holder_spent_is_counted_once(house: House) -> None:
    """Another host takes the lease for over: its clock may be fast. All was given back."""
    first, second = house.guards
    house.spend(0, 5)
    first.close()
    house.cells[1].ahead = 60.0
    second.standing()
    house.cells[1].ahead = 0.0
    house.spend(0, 1)
    row = first.standing()[MATCHES]
    assert (row.used, row.headroom) == (6, 94)
    house.spend(1, 3)
    row = second.standing()[MATCHES]
    assert (row.used, row.headroom) == (9, 91)


def test_what_was_given_up_is_not_counted_again(house: House) -> None:
    """The holder had a call and a lane when it was given up; one reading heals all."""
    first, second = house.guards
    house.spend(0, 5)
    held = first.reserve({MATCHES: 1}, priority="critical").open()
    house.cells[1].ahead = 60.0
    second.standing()
    house.cells[1].ahead = 0.0
    house.vendor.spend(1)
    held.settle()
    first.standing()
    house.clock.advance(90.0)
    second.refresh()
    row = second.standing()[MATCHES]
    assert (row.used, row.headroom) == (6, 94)
