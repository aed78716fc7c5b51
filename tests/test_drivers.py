"""The two drivers: waiting in order, waking on news, giving back when cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from quotaguard import FullContact, Guard, Policy, QuotaExhausted, QuotaUnknown, WaitTooLong
from quotaguard.quota.events import Delayed, Event
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.fullcontact import FakeFullContact

MATCHES = "person.enrichment.matches"


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock on which waits really block until the test moves it."""
    return FakeClock(autojump=False)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Give threads that are joined at the end."""
    with ThreadPoolExecutor(16) as threads:
        yield threads


def guard_of(vendor: FakeFullContact, clock: FakeClock, **settings: Any) -> Guard:
    """Build a guard of *vendor* with a short lag."""
    background = settings.pop("background", False)
    given = {"lag": 10, "late": 10, "cold_reserve": 0, "max_wait": 40 * 86400, **settings}
    provider = FullContact("key", base_url=vendor.url)
    return Guard(provider, policy=Policy(**given), clock=clock, background=background)


def call(guard: Guard, priority: str = "critical", count: int = 1, **settings: Any) -> str:
    """Make one guarded call that is billed."""
    with guard.reserve({MATCHES: count}, priority=priority, **settings) as reservation:
        reservation.settle()
    return priority


def brink(vendor: FakeFullContact, clock: FakeClock, **settings: Any) -> Guard:
    """Return a guard whose normal calls have reached their line."""
    guard = guard_of(vendor, clock, **settings)
    guard.refresh()
    while guard.check({MATCHES: 1}):
        call(guard, "normal")
    with pytest.raises(WaitTooLong):
        call(guard, "normal", max_wait=0)
    return guard


def test_waiters_go_in_the_order_in_which_they_came(
    clock: FakeClock, pool: ThreadPoolExecutor
) -> None:
    """Within a priority first come, first served, each in its own slot."""
    with fake("fullcontact", quota=1000, key="key", clock=clock) as vendor:
        guard = brink(vendor, clock)
        order: list[int] = []

        def wait(number: int) -> None:
            call(guard, "normal")
            order.append(number)

        waiting = []
        for number in range(5):
            waiting.append(pool.submit(wait, number))
            clock.until_waiting(number + 1)
        assert not order
        for one in waiting:
            until(clock, one)
        assert order == [0, 1, 2, 3, 4]


def until(clock: FakeClock, future: Future[Any], step: float = 3600.0) -> None:
    """Move the clock on until *future* is done, one step after the other."""
    for _ in range(10_000):
        if future.done():
            break
        clock.advance(step)
        threading.Event().wait(0.01)
    future.result(timeout=5)


def test_a_better_priority_does_not_wait_behind_a_worse_one(
    clock: FakeClock, pool: ThreadPoolExecutor
) -> None:
    """Critical calls pass while normal ones stand at their line."""
    with fake("fullcontact", quota=1000, key="key", clock=clock) as vendor:
        guard = brink(vendor, clock)
        waiting = pool.submit(call, guard, "normal")
        clock.until_waiting(1)
        for _ in range(3):
            call(guard, "critical")
        assert not waiting.done()
        until(clock, waiting)


def test_a_newcomer_does_not_take_the_slot_of_one_who_waits(
    clock: FakeClock, pool: ThreadPoolExecutor
) -> None:
    """Whoever comes later gets a later slot."""
    with fake("fullcontact", quota=1000, key="key", clock=clock) as vendor:
        guard = brink(vendor, clock)
        delays: list[float] = []
        told = Guard(
            FullContact("key", base_url=vendor.url),
            policy=guard.policy,
            clock=clock,
            listeners=[lambda event: note(event, delays)],
        )
        waiting = []
        for number in range(3):
            waiting.append(pool.submit(call, told, "normal"))
            clock.until_waiting(number + 1)
        first, second, third = delays
        assert first < second < third
        assert second - first == pytest.approx(third - second, rel=0.01)
        for one in waiting:
            until(clock, one)


def note(event: Event, delays: list[float]) -> None:
    """Keep the delay of a `Delayed`."""
    if isinstance(event, Delayed):
        delays.append(event.delay)


def test_a_release_wakes_the_one_who_waits(clock: FakeClock, pool: ThreadPoolExecutor) -> None:
    """News is acted on when it comes, not when a time is up."""
    with fake("fullcontact", quota=10, key="key", clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        for _ in range(5):
            call(guard)
        held = guard.reserve({MATCHES: 5}, priority="critical").open()
        waiting = pool.submit(call, guard, max_wait=3600)
        clock.until_waiting(1)
        before = clock.fast()
        held.release()
        assert waiting.result(timeout=5) == "critical"
        assert clock.fast() == before


def test_news_passes_on_to_all_whom_it_serves(clock: FakeClock, pool: ThreadPoolExecutor) -> None:
    """One release may serve several; each wakes the next."""
    with fake("fullcontact", quota=10, key="key", clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        for _ in range(5):
            call(guard)
        held = guard.reserve({MATCHES: 5}, priority="critical").open()
        waiting = []
        for number in range(5):
            waiting.append(pool.submit(call, guard, max_wait=3600))
            clock.until_waiting(number + 1)
        held.release()
        assert [one.result(timeout=5) for one in waiting] == ["critical"] * 5
        with pytest.raises(QuotaExhausted):
            call(guard, max_wait=0)


def test_the_first_reading_is_polled_once_for_all(
    clock: FakeClock, pool: ThreadPoolExecutor
) -> None:
    """Eight threads on a new guard make one poll; contention is never a refusal."""
    with fake("fullcontact", quota=100, key="key", clock=clock, latency=0.05) as vendor:
        guard = guard_of(vendor, clock)
        calls = [pool.submit(call, guard, max_wait=0) for _ in range(8)]
        assert [one.result(timeout=5) for one in calls] == ["critical"] * 8
        assert vendor.polls == 1


def test_the_background_thread_polls_and_the_caller_does_not(
    clock: FakeClock, pool: ThreadPoolExecutor
) -> None:
    """background=True: with a reading in hand no call ever pays for a poll."""
    gate = threading.Event()
    asked_by: list[str] = []
    with fake("fullcontact", quota=100, key="key", clock=clock) as vendor:
        guard = guard_of(vendor, clock, background=True)
        exchange = guard._spending.stats
        guard._spending.stats = _Gated(exchange, gate, asked_by)
        first = pool.submit(call, guard)
        clock.until_waiting(1)
        gate.set()
        first.result(timeout=5)
        gate.clear()
        clock.advance(1000)
        call(guard)  # finds the poll due, hands it over and goes on the last reading
        assert vendor.polls == 1
        gate.set()
        for _ in range(500):
            if vendor.polls == 2:
                break
            threading.Event().wait(0.01)
        assert vendor.polls == 2
        assert set(asked_by) == {"quotaguard-polls"}


class _Gated:
    """A stats exchange that answers when a gate opens."""

    def __init__(self, inner: Any, gate: threading.Event, asked_by: list[str]) -> None:
        self.inner, self.gate, self.asked_by = inner, gate, asked_by

    def fetch(self, wall: float) -> Any:
        self.asked_by.append(threading.current_thread().name)
        self.gate.wait(5)
        return self.inner.fetch(wall)

    def close(self) -> None:
        self.inner.close()


async def test_a_cancelled_waiter_gives_its_slot_back(clock: FakeClock) -> None:
    """What was promised to a task that is gone goes to those behind."""
    with fake("fullcontact", quota=1000, key="key", clock=clock) as vendor:
        guard = brink(vendor, clock)
        books = guard._spending.holder.books

        async def wait() -> None:
            async with guard.reserve({MATCHES: 1}, priority="normal"):
                pytest.fail("it went")

        async def cancelled_wait() -> float:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                while clock.waiting == 0:
                    await anyio.lowlevel.checkpoint()
                promised = books.slots[f"normal {MATCHES}"]
                tasks.cancel_scope.cancel()
            return promised

        first = await cancelled_wait()
        assert books.slots[f"normal {MATCHES}"] < first
        assert await cancelled_wait() == pytest.approx(first)
        assert clock.waiting == 0
        assert guard.standing()[MATCHES].reserved == 0


async def test_a_cancelled_poll_frees_its_claim(clock: FakeClock) -> None:
    """Somebody else may ask at once, nobody waits for a dead asker."""
    faults = ["timeout", None]
    with fake("fullcontact", quota=10, key="key", clock=clock, stats_faults=faults) as vendor:
        guard = guard_of(vendor, clock)
        with anyio.move_on_after(0.2) as scope:
            async with guard.reserve({MATCHES: 1}):
                pytest.fail("it went")
        assert scope.cancelled_caught
        assert not guard._spending.holder.books.polls.pending(clock.now())
        async with guard.reserve({MATCHES: 1}) as reservation:
            reservation.settle()


async def test_a_thread_does_not_wait_for_the_poll_of_its_own_loop(clock: FakeClock) -> None:
    """A sync call inside a task polls for itself; waiting would stop the loop for ever."""
    faults = ["timeout", None]
    with fake("fullcontact", quota=10, key="key", clock=clock, stats_faults=faults) as vendor:
        guard = guard_of(vendor, clock)

        async def ask() -> None:
            async with guard.reserve({MATCHES: 1}) as reservation:
                reservation.settle()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            while vendor.polls == 0:
                await anyio.lowlevel.checkpoint()
            call(guard)
            tasks.cancel_scope.cancel()
        assert guard.standing()[MATCHES].used == 1


async def test_a_task_is_woken_by_a_thread(clock: FakeClock) -> None:
    """One guard serves threads and tasks at once: news crosses over."""
    with fake("fullcontact", quota=10, key="key", clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        held = guard.reserve({MATCHES: 10}, priority="critical").open()
        gone: list[str] = []

        async def wait() -> None:
            async with guard.reserve({MATCHES: 1}, priority="critical") as reservation:
                reservation.settle()
            gone.append("went")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while clock.waiting == 0:
                await anyio.lowlevel.checkpoint()
            await anyio.to_thread.run_sync(held.release)
        assert gone == ["went"]


def test_a_provider_whose_reader_breaks_never_raises_into_a_call(clock: FakeClock) -> None:
    """A bug in a third party's provider is an unreadable stats answer, no crash."""

    class Broken(FullContact):
        __slots__ = ()

        def read_stats(self, outcome: object) -> Any:
            raise ZeroDivisionError(outcome)

    with fake("fullcontact", quota=10, key="key", clock=clock) as vendor:
        guard = Guard(Broken("key", base_url=vendor.url), clock=clock)
        with pytest.raises(QuotaUnknown, match="ZeroDivisionError"):
            call(guard, max_wait=0)


def test_no_wait_is_for_ever(clock: FakeClock) -> None:
    """A spent month raises at once, however long a caller would wait."""
    with fake("fullcontact", quota=2, key="key", clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        call(guard)
        call(guard)
        with pytest.raises(QuotaExhausted):
            call(guard, max_wait=float("inf"))
