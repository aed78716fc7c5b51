"""The store cannot be reached: what is in hand goes on, then the policy decides, all is counted."""

from __future__ import annotations

from typing import Any

import pytest
from shelves import MATCHES, Process, Provider, Shelf

from quotaguard import LedgerUnavailable, QuotaUnknown
from quotaguard.errors import StatsUnavailable
from quotaguard.quota.events import Degraded, Event
from quotaguard.testing import FakeClock

LEASE = 30.0
QUOTA = 100


class World:
    """A process, another one, and a store that can be cut off."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.shelf = Shelf(self.clock)
        self.provider = Provider(self.clock, QUOTA)
        self.told: list[Event] = []
        self.one = Process(self.shelf, self.provider, listeners=[self.told.append], **settings)
        self.other = Process(self.shelf, self.provider)
        self.one.guard.refresh()

    def cut(self) -> None:
        """Let no exchange through."""
        self.shelf.before = self.down

    def down(self) -> None:
        raise LedgerUnavailable("shelf: it is down. Start it", store="shelf")

    def back(self) -> None:
        """Let them through again."""
        self.shelf.before = lambda: None
        self.clock.advance(1.0)

    def lapse(self) -> None:
        """Let the lease end."""
        self.clock.advance(LEASE + 1.0)
        self.one.tend()

    def healed(self) -> None:
        """Check that a poll or two later the books are the provider's."""
        for _ in range(3):
            self.clock.advance(LEASE + 21.0)
            self.one.account.give_back()
            self.other.guard.refresh()
        meter = self.one.books.meters[MATCHES]
        assert (meter.held, meter.likely()) == (0, self.provider.true)
        assert self.one.purse().opened == 0

    @property
    def downs(self) -> list[str]:
        """What was told of the ledger."""
        told = [event for event in self.told if isinstance(event, Degraded)]
        return [event.reason for event in told if event.state == "ledger_down"]


def test_what_is_in_hand_goes_on_until_its_lease_ends() -> None:
    """No store is asked for it; then the policy refuses, and says why and what to do."""
    world = World()
    world.one.spend()
    world.cut()
    before = world.shelf.exchanges
    for _ in range(10):
        world.one.spend()
    assert world.shelf.exchanges == before
    world.lapse()
    with pytest.raises(QuotaUnknown, match="the ledger cannot be reached") as caught:
        world.one.spend()
    assert isinstance(caught.value.__cause__, LedgerUnavailable)
    assert "on_ledger_down" in str(caught.value)
    assert "stats endpoint" not in str(caught.value)
    for _ in range(3):
        world.clock.advance(1.0)
        with pytest.raises(QuotaUnknown):
            world.one.spend()
    assert world.downs == ["shelf: it is down. Start it"]
    world.back()
    world.one.spend()
    world.healed()


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("slept", [False, True], ids=["short", "past the lease"])
def test_open_lets_everything_go_and_counts_it_afterwards(shadow: bool, slept: bool) -> None:
    """Also calls that are in flight when the books are back, under another name by then."""
    world = World(**({"shadow": True} if shadow else {"on_ledger_down": "open"}))
    world.one.spend()
    world.cut()
    if slept:
        world.lapse()
    held = world.one.reserve(30)
    for _ in range(3):
        world.one.spend()
    if slept:
        world.clock.advance(20.0)
        world.shelf.before = lambda: None
        world.other.guard.standing()  # and the books give up what this process held
        world.cut()
    world.back()
    world.one.guard.standing()
    row = world.other.guard.standing()[MATCHES]
    assert row.used + row.reserved >= 34
    world.provider.charge(30)
    held.settle({MATCHES: 30})
    world.healed()


def test_open_lets_calls_go_before_the_books_were_ever_read() -> None:
    """A process that starts while the store is down works, and tells later."""
    world = World()
    world.cut()
    new = Process(world.shelf, world.provider, on_ledger_down="open")
    for _ in range(3):
        new.spend()
    world.back()
    new.guard.standing()
    assert world.one.guard.standing()[MATCHES].used == 3
    world.healed()


def test_share_lets_go_half_of_what_was_left_by_the_holders() -> None:
    """And not one unit more."""
    world = World(on_ledger_down="share")
    world.other.spend()
    world.one.spend()
    world.one.account.give_back()
    world.other.account.give_back()
    world.one.guard.standing()
    world.cut()
    world.clock.advance(LEASE - 1.0)
    went = 0
    while world.one.guard.check({MATCHES: 1}, priority="critical"):
        world.one.spend()
        went += 1
    with pytest.raises(QuotaUnknown):
        world.one.spend()
    assert went == (QUOTA - 2) // 4
    world.back()
    world.one.guard.standing()
    assert world.other.guard.standing()[MATCHES].used == went + 2
    world.healed()


def test_whoever_saw_the_books_long_ago_takes_no_share() -> None:
    """Others may have spent all of it since then."""
    world = World(on_ledger_down="share")
    world.one.spend()
    world.one.account.give_back()
    for _ in range(QUOTA - 1):
        world.other.spend()
    world.clock.advance(LEASE + 1.0)
    world.cut()
    assert not world.one.guard.check({MATCHES: 1})
    with pytest.raises(QuotaUnknown):
        world.one.spend()


def test_looking_says_that_the_ledger_is_down() -> None:
    """standing() and refresh() raise, check() says no, repr() shows what was seen last."""
    world = World()
    world.cut()
    world.lapse()
    for look in (world.one.guard.standing, world.one.guard.refresh, world.one.guard.forecast):
        with pytest.raises(LedgerUnavailable, match="Start it"):
            look()
    decision = world.one.guard.check({MATCHES: 1})
    assert not decision
    assert decision.reason == "the ledger cannot be reached"
    assert "100" in repr(world.one.guard)
    assert world.downs == ["shelf: it is down. Start it"]


def test_check_says_yes_where_the_call_would_go() -> None:
    """It takes nothing of the share."""
    world = World(on_ledger_down="share")
    world.cut()
    world.clock.advance(LEASE - 1.0)
    for _ in range(100):
        assert world.one.guard.check({MATCHES: 1})
    world.one.spend()


def test_a_poll_that_cannot_be_entered_raises_into_no_call() -> None:
    """Neither what it brought nor that it failed."""
    for fails in (None, StatsUnavailable("it is down", provider="fullcontact")):
        world = World()
        world.clock.advance(LEASE * 40)
        fetch = world.provider.fetch
        world.provider.fails = fails

        def cut(wall: float = 0.0, world: World = world, fetch: Any = fetch) -> Any:
            world.cut()
            return fetch(wall)

        world.provider.fetch = cut  # type: ignore[method-assign] # and then the store is gone
        with pytest.raises(QuotaUnknown):
            world.one.spend()
        world.provider.fetch = fetch  # type: ignore[method-assign] # as before
        world.provider.fails = None
        world.back()
        world.clock.advance(60.0)
        world.one.spend()
        world.healed()


def test_records_are_told_when_the_books_are_back() -> None:
    """record() never raises, and nothing of it is lost."""
    world = World()
    world.cut()
    world.lapse()
    world.provider.charge(5)
    world.one.guard.record({MATCHES: 5})
    world.one.tend()
    world.back()
    world.clock.advance(2.0)
    world.one.tend()
    assert world.one.books.meters[MATCHES].spent == 5
    world.healed()


def test_a_process_that_slept_asks_again_before_it_sends() -> None:
    """Granted, then suspended past the lease: what it had counts as spent, and it asks anew."""
    world = World()
    slept = []

    def sleep(event: Event) -> None:
        if type(event).__name__ == "Reserved" and not slept:
            slept.append(event)
            world.clock.suspend(LEASE + 20.0)
            world.other.guard.standing()

    world.one.guard._spending._listeners = (sleep,)
    world.one.guard._spending.calls_told = True
    world.one.spend(3)
    assert slept
    assert world.one.books.meters[MATCHES].held >= 0
    assert world.provider.true == 3
    world.healed()


def test_what_was_in_flight_in_a_process_that_slept_is_void_and_counted() -> None:
    """The books gave it up as unknown; it goes on as another holder, with new calls."""
    world = World()
    held = world.one.reserve(7)
    world.clock.suspend(LEASE + 20.0)
    world.other.guard.standing()
    assert world.other.books.meters[MATCHES].unknown >= 7
    name = world.one.holder.name
    world.one.spend()
    assert world.one.holder.name != name
    world.provider.charge(7)
    held.settle({MATCHES: 7})
    assert held.state == "void"
    assert world.one.guard.standing()[MATCHES].used >= 8
    world.healed()


def test_a_restart_goes_on_where_it_stopped() -> None:
    """What a process that ended well had told is in the books of its successor."""
    world = World()
    for _ in range(5):
        world.one.spend()
    world.one.guard.close()
    world.one.start()
    row = world.one.guard.standing()[MATCHES]
    assert (row.used, row.limit, row.reserved) == (5, QUOTA, 0)
    world.healed()


def test_a_poll_may_see_what_was_lent_before_the_books_hear_of_it() -> None:
    """Another process's reading shows it as somebody's; told afterwards it is counted once."""
    world = World(on_ledger_down="open")
    world.cut()
    world.lapse()
    for _ in range(4):
        world.one.spend()
    world.back()
    world.other.guard.refresh()
    world.one.guard.standing()
    world.clock.advance(25.0)
    world.other.guard.refresh()
    assert world.other.guard.standing()[MATCHES].used == 4
    assert world.one.books.meters[MATCHES].known() == 4
