"""What a review of the shared ledgers found: each was an overshoot, or a wait without need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from shelves import MATCHES, MISSES, Process, Provider, Shelf

from quotaguard import (
    ConfigError,
    FullContact,
    Guard,
    LedgerUnavailable,
    QuotaUnknown,
    Refusal,
    SQLiteLedger,
    WaitTooLong,
)
from quotaguard.quota.events import Degraded, Event
from quotaguard.quota.readings import Reading, Usage
from quotaguard.testing import FakeClock

QUOTA, LEASE = 100, 30.0


class World:
    """Two processes at one shelf."""

    def __init__(self, quota: int = QUOTA, *, remote: bool = False, **policy: Any) -> None:
        self.clock = FakeClock(autojump=False)
        self.shelf = Shelf(self.clock, remote=remote)
        self.provider = Provider(self.clock, quota)
        self.one = Process(self.shelf, self.provider, **policy)
        self.other = Process(self.shelf, self.provider, **policy)
        self.settle_in()

    def settle_in(self) -> None:
        """Let the books be as sure as they can be."""
        self.one.guard.refresh()
        self.clock.advance(300.0)
        self.one.guard.refresh()

    def heal(self, process: Process) -> None:
        """Let *process* learn what became of those who are not heard of."""
        process.guard.refresh()
        self.clock.advance(11.0)
        process.guard.refresh()

    def drain(self, process: Process, most: int = 2_000) -> int:
        """Let *process* spend until it is refused; return how often it was not."""
        for went in range(most):
            try:
                process.spend()
            except Refusal:
                return went
        return most


async def test_who_sleeps_between_the_grant_and_the_call_asks_again(
    anyio_backend_name: str,
) -> None:
    """Fifty tasks are granted their units, and the machine sleeps before one of them goes."""
    del anyio_backend_name
    world = World()
    one, states = world.one, []

    async def call() -> None:
        async with one.guard.reserve({MATCHES: 1}, priority="critical", max_wait=0) as reservation:
            states.append(reservation.state)
            world.provider.charge()
            reservation.settle()

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(call)
        while len(one.account.tickets) < 50:
            await anyio.lowlevel.checkpoint()
        one.tend()  # the ledger's thread: all are granted
        world.clock.suspend(500.0)
        world.heal(world.other)
        while len(states) < 50:
            one.tend()
            await anyio.lowlevel.checkpoint()
    assert states == ["open"] * 50
    world.drain(world.other)
    assert world.provider.true <= QUOTA


@pytest.mark.parametrize("asleep", [True, False])
def test_units_whose_lease_is_over_cover_no_call(*, asleep: bool) -> None:
    """A batch holds fifty; its host sleeps, or is cut off, until others have spent them."""
    world = World()
    one = world.one
    with one.guard.reserve({MATCHES: 50}, priority="critical", max_wait=0):
        if asleep:
            world.clock.suspend(95.0)
        else:

            def away(*_: object) -> None:
                raise LedgerUnavailable("cut off", store="shelf")

            one.ledger.exchange = away  # type: ignore[method-assign,assignment] # this one only
            world.clock.advance(95.0)
            one.tend()
        world.heal(world.other)
        world.drain(world.other)
        went = 0
        while went < 50:
            inner = one.guard.reserve({MATCHES: 1}, priority="critical", max_wait=0)
            try:
                inner.open()
            except Refusal:
                break
            world.provider.charge()
            inner.settle()
            went += 1
    assert world.provider.true <= QUOTA


class Partial(Provider):
    """A provider whose answers may name one meter only, and that counts two."""

    only = ""

    def __init__(self, clock: FakeClock, quota: int) -> None:
        super().__init__(clock, quota)
        self.missed: list[float] = []

    def fetch(self, wall: float = 0.0) -> Reading:
        """Answer a poll."""
        reading = super().fetch(wall)
        shown = sum(at <= self.clock.slow() - self.lag for at in self.missed)
        usages = {**reading.usages, MISSES: Usage(shown, self.quota)}
        return Reading({self.only: usages[self.only]} if self.only else usages, reading.period)

    def miss(self, process: Process) -> None:
        """Make a call that costs a miss."""
        call = process.guard.reserve({MISSES: 1}, priority="critical", max_wait=0).open()
        self.missed.append(self.clock.slow())
        call.settle()


def test_an_answer_that_leaves_a_meter_out_says_nothing_of_it() -> None:
    """After a failover it ends the wait for the meters that it names."""
    world = World(remote=True, margin=0)
    provider = Partial(world.clock, 1_000)
    for process in (world.one, world.other):
        process.provider = provider
        process.guard._spending.stats = provider  # type: ignore[assignment] # it fetches
    world.settle_in()
    world.one.spend()
    provider.miss(world.one)
    before = dict(world.shelf.records)
    for _ in range(700):
        provider.miss(world.other)
    world.shelf.records, world.shelf.era = before, "2"  # the other is dead, and forgotten
    world.clock.advance(1.0)
    world.one.account.give_back()
    with pytest.raises(WaitTooLong):
        provider.miss(world.one)
    world.clock.advance(100.0)
    provider.only = MATCHES
    world.one.guard.refresh()
    world.one.spend()
    with pytest.raises(QuotaUnknown):
        provider.miss(world.one)
    provider.only = ""
    world.one.guard.refresh()
    for _ in range(1_000 - len(provider.missed)):
        provider.miss(world.one)
    with pytest.raises(Refusal):
        provider.miss(world.one)
    assert len(provider.missed) == 1_000


def test_a_forgotten_holder_may_spend_until_its_lease_ends_and_that_shows_later() -> None:
    """It is cut off from the new server, and spends its last units a second before that end."""
    world = World(1_000, remote=True, lag=60, late=60)
    one, other = world.one, world.other
    world.provider.lag = 60.0
    for _ in range(200):
        one.spend()
    one.account.give_back()
    before = dict(world.shelf.records)
    left = 0
    while left < 100:
        other.spend()
        left = other.purse().room["critical"] - other.purse().taken
    world.shelf.records, world.shelf.era = before, "2"
    assert world.drain(one) == 0
    world.clock.advance(LEASE - 2.0)
    for _ in range(left):
        other.spend()
    world.clock.advance(60.0 + 2.0 - LEASE + 2.0)
    one.guard.refresh()
    assert world.drain(one) == 0, "the forgotten one's spend cannot have shown"
    world.clock.advance(LEASE)
    one.guard.refresh()
    world.drain(one)
    assert world.provider.true <= 1_000


@pytest.mark.parametrize("remote", [True, False])
def test_books_that_vanish_under_their_users_are_not_trusted(*, remote: bool) -> None:
    """A file is deleted, a server is flushed: others' spend was told there, and does not show."""
    world = World(1_000, remote=remote, lag=60, late=60)
    world.provider.lag = 60.0
    for _ in range(400):
        world.other.spend()
    for _ in range(100):
        world.one.spend()
    world.other.account.give_back()
    world.shelf.records.clear()
    world.clock.advance(1.0)
    world.drain(world.one)
    world.drain(world.other)
    world.clock.advance(LEASE + 62.0)
    world.one.guard.refresh()
    world.drain(world.one)
    assert world.provider.true <= 1_000
    world.one.account.give_back()
    world.clock.advance(200.0)
    world.one.guard.refresh()
    world.drain(world.one)
    assert world.provider.true == 1_000, "it comes back"


@pytest.mark.parametrize("idle", [20.0, 40.0])
def test_books_that_a_newcomer_opened_are_not_trusted_by_who_knew_the_old(idle: float) -> None:
    """Even if its own lease is over: it told there what the new ones lack."""
    world = World(1_000, remote=True, lag=60, late=60)
    world.provider.lag = 60.0
    for _ in range(800):
        world.one.spend()
    world.one.account.give_back()
    world.clock.advance(idle)
    world.shelf.records.clear()
    newcomer = Process(world.shelf, world.provider, lag=60, late=60, cold_reserve=0.05)
    world.clock.advance(20.0)  # most of it still does not show
    newcomer.spend()
    assert world.drain(world.one) == 0
    world.drain(newcomer)
    assert world.provider.true <= 1_000
    world.clock.advance(LEASE + 62.0)
    world.one.guard.refresh()
    world.drain(world.one)
    world.one.account.give_back()
    world.clock.advance(200.0)
    world.one.guard.refresh()
    world.drain(world.one)
    assert world.provider.true == 1_000


def test_whoever_comes_back_late_does_not_hold_up_the_others() -> None:
    """A poll was asked after all that the old books knew had ended and shown."""
    world = World(remote=True)
    world.one.spend()
    world.one.account.give_back()
    world.shelf.records.clear()
    world.other.spend()
    world.clock.advance(LEASE + 3_000.0)
    world.other.guard.refresh()
    world.one.spend()
    world.other.spend()


def test_idle_units_go_back_by_themselves() -> None:
    """After a few seconds without a call, long before the lease is renewed."""
    world = World()
    world.one.spend()
    assert world.one.holder.idle
    for _ in range(8):
        world.clock.advance(1.0)
        world.one.tend()
    assert not world.one.holder.idle
    assert world.one.books.meters[MATCHES].idle == 0


@pytest.mark.parametrize(
    "ledger", [None, 42, b"x", Path("quota.db"), SQLiteLedger, redis.Redis(), object()]
)
def test_what_is_no_ledger_is_said_at_once(ledger: Any) -> None:
    """And how to make one of it."""
    with pytest.raises(ConfigError, match="ledger= is no"):
        Guard(FullContact("key"), ledger=ledger)


@pytest.mark.parametrize("path", ["~/quota.db", "redis://host", "/x/:memory:"])
def test_a_path_that_would_be_taken_by_the_letter_is_refused(path: str) -> None:
    """Nobody wants a directory whose name is a tilde."""
    with pytest.raises(ConfigError, match="as it stands"):
        SQLiteLedger(path)


def test_a_store_that_forgets_is_told() -> None:
    """An alarm, not only a minute of refusals."""
    told: list[Event] = []
    world = World(remote=True, listeners=[told.append])
    world.one.spend()
    world.shelf.era = "2"
    world.drain(world.one)
    world.drain(world.other)
    lost = [one for one in told if isinstance(one, Degraded) and one.state == "ledger"]
    assert [one.reason.partition(" (")[0] for one in lost] == [
        "the store may have lost what it had acknowledged"
    ]
    assert "42 s" in lost[0].reason
