"""What a reviewer has found at shared books, each as it showed itself."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import pytest
from shelves import LAG, MATCHES, Process, Provider, Shelf, shared

from quotaguard import FullContact, Guard, Policy, QuotaExhausted, drivers
from quotaguard.clock import SystemClock
from quotaguard.errors import ConfigError, LedgerUnavailable, QuotaGuardError, QuotaUnknown
from quotaguard.guard import _SYSTEM_CLOCK
from quotaguard.ledgers.sqlite import SQLiteLedger
from quotaguard.opened import shared_ledger
from quotaguard.quota.events import Degraded, Event
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.store import Draft
from quotaguard.testing import FakeClock

QUOTA = 100

POLICY: dict[str, Any] = {"lag": LAG, "late": LAG, "cold_reserve": 0, "warn_at": ()}


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


def test_a_store_that_takes_longer_than_the_lease_is_as_good_as_down() -> None:
    """One would ask again for ever; once it is faster all is well."""
    world = Hanging(seconds=31.0)
    world.one.guard.refresh()
    asked = world.shelf.exchanges
    world.shelf.before = lambda: world.clock.advance(31.0)
    with pytest.raises(QuotaUnknown) as caught:
        world.one.spend()
    assert "the lease is 30 s" in str(caught.value.__cause__)
    assert world.shelf.exchanges <= asked + 4
    with pytest.raises(QuotaUnknown):
        world.one.spend()
    world.shelf.before = lambda: None
    world.clock.advance(1.0)
    world.one.spend()
    for _ in range(2):
        world.clock.advance(60.0)
        world.one.guard.refresh()
        world.one.account.give_back()
    meter = world.one.books.meters[MATCHES]
    assert (meter.held, meter.likely()) == (0, world.provider.true)


def test_a_guard_goes_by_the_clock_of_its_ledger() -> None:
    """Whoever gives the ledger a clock need not give it to every guard, too."""
    clock, own = FakeClock(), FakeClock()
    ledger = shared(Shelf(clock), clock)
    provider, policy = FullContact("key"), Policy(**POLICY)
    assert Guard(provider, ledger=ledger, policy=policy)._spending.clock is clock
    assert Guard(provider, ledger=ledger, policy=policy, clock=own)._spending.clock is own


# -- a store that hangs -------------------------------------------------------


class Hanging:
    """A shelf that lets every exchange wait, and its clients' timeout ends that."""

    def __init__(self, *, seconds: float) -> None:
        self.clock = FakeClock()
        self.shelf = Shelf(self.clock, remote=True)
        self.provider = Provider(self.clock, QUOTA)
        self.seconds = seconds
        self.asked = 0
        self.one = Process(self.shelf, self.provider)
        self.guards = [self.guard(f"account {number}") for number in range(12)]

    def guard(self, account: str) -> Guard:
        """Return a guard of another account at the same ledger."""
        provider, policy = FullContact("key", account=account), Policy(**POLICY)
        made = Guard(provider, ledger=self.one.ledger, policy=policy)
        made._spending.stats = self.provider  # type: ignore[assignment] # it fetches
        return made

    def hang(self) -> None:
        """Let the next exchanges time out."""
        self.shelf.before = self._timeout

    def _timeout(self) -> None:
        self.asked += 1
        self.clock.advance(self.seconds)
        raise LedgerUnavailable("shelf: it did not answer. Look at its log", store="shelf")

    def refused(self) -> list[float]:
        """Return after what time each account's call is refused."""
        begun, told = self.clock.fast(), []
        for guard in self.guards:
            with pytest.raises(QuotaUnknown, match="cannot be reached"):
                guard.reserve({MATCHES: 1}, max_wait=0).open()
            told.append(self.clock.fast() - begun)
        return told


def test_the_timeouts_of_many_accounts_do_not_add_up() -> None:
    """One of twelve waits for the server; as long after that the next one tries it."""
    world = Hanging(seconds=1.0)
    world.hang()
    assert world.refused() == [1.0] * 12
    assert world.asked == 1
    world.clock.advance(1.1)
    assert world.refused() == [1.0] * 12
    assert world.asked == 2
    world.shelf.before = lambda: None
    world.clock.advance(1.1)
    for guard in world.guards:
        guard.reserve({MATCHES: 1}, max_wait=0).open().settle()


def test_the_exit_waits_for_one_timeout_only() -> None:
    """Whatever the number of accounts that hold something."""
    world = Hanging(seconds=1.0)
    for guard in world.guards:
        guard.reserve({MATCHES: 1}, max_wait=0).open().settle()
    world.hang()
    begun = world.clock.fast()
    world.one.ledger.close()
    assert world.clock.fast() - begun == 1.0


def test_one_record_that_nobody_can_read_stops_no_other_account() -> None:
    """Also not where the store is slow, nor where it fails for that account alone."""
    world = Hanging(seconds=1.0)
    first, second = world.guards[:2]
    second.refresh()
    shelf = world.shelf
    account = first._spending.terms.account
    shelf.records[account] = Draft("1", "no books")
    shelf.before = lambda: world.clock.advance(1.0)
    with pytest.raises(QuotaUnknown) as caught:
        first.reserve({MATCHES: 1}, max_wait=0).open()
    assert "cannot be read" in str(caught.value.__cause__)
    second.reserve({MATCHES: 1}, max_wait=0).open().settle()
    asked = shelf.exchanges
    with pytest.raises(QuotaUnknown):
        first.reserve({MATCHES: 1}, max_wait=0).open()
    assert shelf.exchanges == asked + 1
    with pytest.raises(QuotaUnknown):
        first.reserve({MATCHES: 1}, max_wait=0).open()
    assert shelf.exchanges == asked + 1, "a record that cannot be read has a pause of its own"
    second.standing()


def test_what_fails_at_once_is_asked_for_other_accounts() -> None:
    """It may be wrong with one account alone: a key of Redis that is no hash."""
    world = Hanging(seconds=0.0)
    first, second = world.guards[:2]
    second.refresh()
    world.hang()
    with pytest.raises(QuotaUnknown):
        first.reserve({MATCHES: 1}, max_wait=0).open()
    world.shelf.before = lambda: None
    with pytest.raises(QuotaUnknown):
        first.reserve({MATCHES: 1}, max_wait=0).open()
    second.reserve({MATCHES: 1}, max_wait=0).open().settle()


# -- a signal's handler closes -------------------------------------------------


@pytest.mark.parametrize("point", ["exchange", "lock", "line", "guard"])
def test_close_returns_in_a_signals_handler(point: str) -> None:
    """It has stopped a call half way, which holds what closing would wait for."""
    clock = FakeClock()
    shelf, ran = Shelf(clock), []
    one = Process(shelf, Provider(clock, QUOTA))
    one.guard.refresh()
    one.spend()
    account = one.account
    free = {"exchange": account.turn, "lock": account.lock, "line": account.queue._lock}

    def handler() -> None:
        """Stand for one: it runs above what it has stopped, in the same thread."""
        assert point == "guard" or free[point].locked()
        one.guard.close()
        ran.append(point)

    if point == "exchange":
        shelf.before = handler
    plain = clock.fast

    def striking() -> float:
        if not ran and (point == "guard" or (point == "lock" and account.lock.locked())):
            handler()
        return plain()

    clock.fast = striking  # type: ignore[method-assign] # a signal comes as it is read

    if point == "line":
        place = Striking(handler)
        account.queue.stand((0.0, 1), frozenset(), None)
        account.queue.stand(place, frozenset(), None)
        account.queue.leave((0.0, 1))
        account.queue.leave(place)
    one.guard.standing()
    one.spend()
    assert ran
    shelf.before, clock.fast = lambda: None, plain  # type: ignore[method-assign] # as before
    assert account.holders[0].idle
    one.guard.close()
    assert not account.holders[0].idle, "from the program itself it gives back"
    assert one.guard.standing()[MATCHES].used == one.provider.true


class Striking(tuple[float, int]):
    """A place in line at which a signal comes while it is compared."""

    __slots__ = ()
    handler: Any = None

    def __new__(cls, handler: Any) -> Self:
        cls.handler = handler
        return super().__new__(cls, (0.0, 2))

    def __gt__(self, other: object) -> bool:
        handler, Striking.handler = Striking.handler, None
        if handler is not None:
            handler()
        return super().__gt__(other)  # type: ignore[operator] # a place


# -- no thread ----------------------------------------------------------------


def refuse(thread: threading.Thread) -> None:
    """Do as the system does at its limit of processes."""
    raise RuntimeError("can't start new thread")


class Threadless:
    """A ledger in a process that may start no thread."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.ledger = SQLiteLedger(path / "quota.db")
        self.begin = self.ledger._thread.start
        self.ledger._thread.start = refuse  # type: ignore[method-assign] # the system's
        self.provider = Provider(self.ledger.clock, QUOTA)  # type: ignore[arg-type] # a clock
        self.told: list[Event] = []
        self.guard = Guard(
            FullContact("key"),
            ledger=self.ledger,
            policy=Policy(**(POLICY | settings)),
            listeners=[self.told.append],
        )
        self.guard._spending.stats = self.provider  # type: ignore[assignment] # it fetches

    def degraded(self) -> list[str]:
        """Return what was told of the ledger."""
        return [event.reason for event in self.told if isinstance(event, Degraded)]


def test_threads_go_on_without_the_ledgers_own(tmp_path: Path) -> None:
    """They post by themselves; it is told once, and started as soon as that works."""
    world = Threadless(tmp_path)
    for _ in range(20):
        with world.guard.reserve({MATCHES: 1}, max_wait=0) as held:
            world.provider.charge()
            held.settle()
        world.guard.record({MATCHES: 1})
        world.provider.charge()
        world.guard.standing()
    assert world.guard.standing()[MATCHES].used == world.provider.true == 40
    assert len(world.degraded()) == 1
    assert "no thread can be started" in world.degraded()[0]
    assert world.ledger._thread._thread is None
    world.ledger._thread.start = world.begin  # type: ignore[method-assign] # as before
    world.guard.standing()
    thread = world.ledger._thread._thread
    assert thread is not None
    assert thread.is_alive()
    world.ledger.close()


@pytest.mark.anyio
async def test_event_loops_do_not_wait_for_a_thread_that_is_not_there(tmp_path: Path) -> None:
    """As a store that is down: the policy decides, and then it goes on."""
    world = Threadless(tmp_path)
    for _ in range(2):
        with anyio.fail_after(5), pytest.raises(QuotaUnknown) as caught:
            await world.guard.reserve({MATCHES: 1}, max_wait=0).aopen()
        assert "no thread can be started" in str(caught.value.__cause__)
    with anyio.fail_after(5), pytest.raises(LedgerUnavailable, match="ulimit -u"):
        await world.guard.astanding()
    world.ledger._thread.start = world.begin  # type: ignore[method-assign] # as before
    with anyio.fail_after(5):
        async with world.guard.reserve({MATCHES: 1}, max_wait=0) as held:
            world.provider.charge()
            held.settle()
        assert (await world.guard.astanding())[MATCHES].used == 1
        await world.guard.aclose()


@pytest.mark.anyio
async def test_event_loops_that_may_go_without_the_ledger_do(tmp_path: Path) -> None:
    """`on_ledger_down` says so; what they spent is told by whoever can."""
    world = Threadless(tmp_path, on_ledger_down="open")
    for _ in range(3):
        with anyio.fail_after(5):
            async with world.guard.reserve({MATCHES: 1}, max_wait=0) as held:
                world.provider.charge()
                held.settle()
    assert len(world.degraded()) == 1
    await anyio.to_thread.run_sync(world.guard.standing)
    assert world.guard._spending.holder.books.meters[MATCHES].known() == 3
    world.ledger.close()


def test_a_caller_polls_where_no_thread_can_be_started() -> None:
    """`background` asks for one, and a call never raises but a refusal."""
    clock = FakeClock()
    provider = Provider(clock, QUOTA)
    policy = Policy(**POLICY)
    guard = Guard(FullContact("key"), policy=policy, clock=clock, background=True)
    guard._spending.stats = provider  # type: ignore[assignment] # it fetches
    there, drivers.BACKGROUND = drivers.BACKGROUND, drivers._Background()
    try:
        drivers.BACKGROUND.start = refuse  # type: ignore[method-assign] # the system's
        with guard.reserve({MATCHES: 1}, max_wait=0) as held:
            held.settle()
    finally:
        drivers.BACKGROUND = there
    assert guard.standing()[MATCHES].used == 1


# -- a ledger that was dropped -------------------------------------------------


def test_guards_made_for_each_request_share_what_they_hold(tmp_path: Path) -> None:
    """Each is dropped after its call, and the garbage collected."""
    url, provider = f"sqlite://{tmp_path}/quota.db", Provider(SystemClock(), QUOTA)  # type: ignore[arg-type] # a clock

    def request() -> SharedLedger:
        policy = Policy(**POLICY)
        guard = Guard(FullContact("key"), ledger=url, policy=policy)
        guard._spending.stats = provider  # type: ignore[assignment] # it fetches
        with guard.reserve({MATCHES: 1}, max_wait=0, priority="critical") as held:
            provider.charge()
            held.settle()
        return guard._ledger  # type: ignore[return-value] # it is shared

    seen = set()
    for number in range(QUOTA):
        seen.add(request()._prefix)
        if number % 10 == 0:
            gc.collect()
    assert len(seen) == 1
    with pytest.raises(QuotaExhausted):
        request()
    shared_ledger(url, _SYSTEM_CLOCK).close()


def test_a_ledger_that_was_dropped_gives_back_and_goes(tmp_path: Path) -> None:
    """What is idle in it goes back soon; then there is no thread, and nothing is open."""
    path = tmp_path / "quota.db"
    ledger = SQLiteLedger(path, lease=0.3)
    provider = Provider(ledger.clock, QUOTA)  # type: ignore[arg-type] # a clock
    guard = Guard(FullContact("key"), ledger=ledger, policy=Policy(**POLICY))
    guard._spending.stats = provider  # type: ignore[assignment] # it fetches
    with guard.reserve({MATCHES: 1}, max_wait=0) as held:
        provider.charge()
        held.settle()
    thread, dropped = ledger._thread._thread, weakref.ref(ledger)
    assert thread is not None
    del ledger, guard, held
    gc.collect()
    assert dropped() is not None, "it holds something"
    end = time.monotonic() + 20.0
    while thread.is_alive() and time.monotonic() < end:
        gc.collect()
        thread.join(0.01)
    assert not thread.is_alive()
    assert dropped() is None
    with Guard(FullContact("key"), ledger=SQLiteLedger(path), policy=Policy(**POLICY)) as other:
        row = other.standing()[MATCHES]
        assert (row.used, row.reserved) == (1, 0)
        assert other._spending.holder.books.meters[MATCHES].held == 0


def test_nobody_is_kept_for_a_store_that_stays_away() -> None:
    """A ledger that was dropped goes at the end of its lease, whatever it could not tell."""
    clock = FakeClock()
    shelf = Shelf(clock)
    one = Process(shelf, Provider(clock, QUOTA))
    one.guard.refresh()
    one.spend()
    assert one.ledger.keeps()
    shelf.faults.extend(["down"] * 9)
    clock.advance(31.0)
    one.tend()
    assert not one.ledger.keeps()


def test_a_guarded_function_may_close(tmp_path: Path) -> None:
    """Its call is no call that a signal has stopped: no lock is held below it."""
    ledger = SQLiteLedger(tmp_path / "quota.db")
    guard = Guard(FullContact("key"), ledger=ledger, policy=Policy(**POLICY))
    provider = Provider(ledger.clock, QUOTA)  # type: ignore[arg-type] # a clock
    guard._spending.stats = provider  # type: ignore[assignment] # it fetches
    holder: Any = guard._spending.holder

    @guard.limit({MATCHES: 1})
    def call() -> bool:
        provider.charge()
        assert holder.idle
        guard.close()
        return bool(holder.idle)

    assert not call()
    ledger.close()
