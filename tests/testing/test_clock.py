"""FakeClock: time that only the test moves, in threads, asyncio and trio."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from quotaguard.errors import ConfigError
from quotaguard.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from quotaguard.clock import Clock


def test_it_is_a_clock() -> None:
    """FakeClock fits the Clock protocol, and fast() is the fast of now()."""
    clock: Clock = FakeClock(start=5_000.0)

    assert clock.now().wall == 5_000.0
    assert clock.fast() == clock.now().fast


def test_it_stands() -> None:
    """Time that nobody moves does not pass."""
    clock = FakeClock()

    assert clock.now() == clock.now()


def test_advance_moves_all_three() -> None:
    """advance lets the same time pass on slow, fast and wall."""
    clock = FakeClock()
    before = clock.now()

    clock.advance(12.5)

    assert [12.5] * 3 == [new - old for new, old in zip(clock.now(), before, strict=True)]


def test_suspend_leaves_slow_behind() -> None:
    """While the machine sleeps, fast and wall go on and slow stands."""
    clock = FakeClock()
    before = clock.now()

    clock.suspend(8 * 3600)

    after = clock.now()
    assert before.slow == after.slow
    assert (8 * 3600, 8 * 3600) == (after.fast - before.fast, after.wall - before.wall)


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_jump_wall_moves_only_the_wall(seconds: float) -> None:
    """A wall clock that is set, forward or back, moves neither slow nor fast."""
    clock = FakeClock()
    before = clock.now()

    clock.jump_wall(seconds)

    after = clock.now()
    assert (before.slow, before.fast) == (after.slow, after.fast)
    assert seconds == after.wall - before.wall


@pytest.mark.parametrize("seconds", [-0.1, -math.inf, math.inf, math.nan])
@pytest.mark.parametrize("verb", ["advance", "suspend"])
def test_it_never_goes_back(verb: str, seconds: float) -> None:
    """Negative and endless times are a ConfigError, and nothing moves."""
    clock = FakeClock()
    before = clock.now()

    with pytest.raises(ConfigError, match=verb):
        getattr(clock, verb)(seconds)

    assert before == clock.now()


def test_wait_jumps_to_its_end() -> None:
    """With autojump a wait returns at once, and its time has passed."""
    clock = FakeClock()
    before = clock.now()

    clock.wait(threading.Event(), 30)

    assert (30, 30) == (clock.now().slow - before.slow, clock.fast() - before.fast)


@pytest.mark.parametrize("seconds", [0.1, 1e-9, 1 / 3, 86_400.1])
def test_wait_is_never_short(seconds: float) -> None:
    """However the float rounds, after a wait the clock shows its end or later."""
    clock = FakeClock()
    for _ in range(100):
        due = clock.fast() + seconds
        clock.wait(threading.Event(), seconds)
        assert clock.fast() >= due


def test_a_set_wake_moves_nothing() -> None:
    """A wait whose wake is set already returns, and no time has passed."""
    clock = FakeClock()
    wake = threading.Event()
    wake.set()

    clock.wait(wake, 30)

    assert FakeClock().now() == clock.now()


def test_a_wait_for_nothing_moves_nothing() -> None:
    """A wait of 0 seconds, or less, is over at once."""
    clock = FakeClock()

    clock.wait(threading.Event(), 0)
    clock.wait(threading.Event(), -5)

    assert FakeClock().now() == clock.now()


def test_threads_lose_no_time() -> None:
    """Every advance of every thread counts, and each thread sees time go on."""
    clock = FakeClock()
    before = clock.fast()

    def work(_: int) -> bool:
        last = clock.fast()
        for _ in range(1_000):
            clock.advance(1)
            last, was = clock.fast(), last
            if last < was + 1:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))

    assert clock.fast() - before == 8_000


def test_threads_that_wait_reach_their_ends() -> None:
    """With autojump every thread finds the clock at its own end or later."""
    clock = FakeClock()
    together = threading.Barrier(6)

    def work(seconds: float) -> bool:
        due = clock.fast() + seconds
        together.wait()
        clock.wait(threading.Event(), seconds)
        return clock.fast() >= due

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, [1, 5, 10, 10, 3, 7]))


@pytest.fixture
def blocked() -> Callable[[FakeClock, threading.Event, float], threading.Thread]:
    """Start a thread that waits, and return it once its wait is under way."""

    def start(clock: FakeClock, wake: threading.Event, seconds: float) -> threading.Thread:
        thread = threading.Thread(target=clock.wait, args=(wake, seconds), daemon=True)
        thread.start()
        clock.until_waiting()
        return thread

    return start


def test_without_autojump_a_wait_blocks_until_its_end(
    blocked: Callable[[FakeClock, threading.Event, float], threading.Thread],
) -> None:
    """Without autojump a thread waits until another one moves the time past its end."""
    clock = FakeClock(autojump=False)
    thread = blocked(clock, threading.Event(), 10)

    clock.advance(9.9)
    thread.join(0.05)
    assert thread.is_alive()
    clock.advance(0.1)
    thread.join(5)

    assert not thread.is_alive()
    assert clock.waiting == 0


def test_without_autojump_a_wake_ends_the_wait(
    blocked: Callable[[FakeClock, threading.Event, float], threading.Thread],
) -> None:
    """Without autojump setting the wake ends the wait, and no time passes."""
    clock = FakeClock(autojump=False)
    wake = threading.Event()
    thread = blocked(clock, wake, 10)

    wake.set()
    thread.join(5)

    assert not thread.is_alive()
    assert FakeClock().now() == clock.now()


def test_until_waiting_gives_up() -> None:
    """until_waiting says after its time that nobody waits."""
    with pytest.raises(TimeoutError, match="0 of 1"):
        FakeClock(autojump=False).until_waiting(timeout=0.01)


def test_repr_says_when_it_is() -> None:
    """The repr shows the wall clock and how far time went."""
    clock = FakeClock()
    clock.advance(90)

    assert repr(clock) == "<FakeClock: 2023-11-14 22:14:50 UTC, 90.0 s on, autojump>"


@pytest.mark.anyio
async def test_await_jumps_to_its_end() -> None:
    """With autojump an asynchronous wait returns after a checkpoint, its time has passed."""
    clock = FakeClock()
    before = clock.fast()

    await clock.await_(anyio.Event(), 30)

    assert clock.fast() - before == 30


@pytest.mark.anyio
@pytest.mark.parametrize("autojump", [True, False])
async def test_await_is_a_checkpoint(autojump: bool) -> None:
    """Even with a set wake a wait can be cancelled, so other tasks get their turn."""
    clock = FakeClock(autojump=autojump)
    wake = anyio.Event()
    wake.set()

    with anyio.CancelScope() as scope:
        scope.cancel()
        await clock.await_(wake, 30)

    assert scope.cancelled_caught
    assert FakeClock().now() == clock.now()


@pytest.mark.anyio
async def test_tasks_wait_together_and_wake_in_order() -> None:
    """Waits of one loop take the longest time, not the sum, and end in their order."""
    clock = FakeClock()
    before = clock.fast()
    ended: list[tuple[float, float]] = []

    async def wait(seconds: float) -> None:
        await clock.await_(anyio.Event(), seconds)
        ended.append((seconds, clock.fast() - before))

    async with anyio.create_task_group() as group:
        for seconds in (50, 10, 40, 20, 30):
            group.start_soon(wait, seconds)

    assert [(10, 10), (20, 20), (30, 30), (40, 40), (50, 50)] == ended
    assert clock.waiting == 0


@pytest.mark.anyio
async def test_a_task_that_waits_often_keeps_its_time() -> None:
    """Ten short waits fit into a long one: the long wait does not run ahead."""
    clock = FakeClock()
    before = clock.fast()
    seen: list[float] = []

    async def often() -> None:
        for _ in range(10):
            await clock.await_(anyio.Event(), 1)
            seen.append(clock.fast() - before)

    async with anyio.create_task_group() as group:
        group.start_soon(often)
        await clock.await_(anyio.Event(), 100)

    assert list(range(1, 11)) == seen
    assert clock.fast() - before == 100


@pytest.mark.anyio
async def test_a_wake_from_another_task_stops_the_time() -> None:
    """A task that sets the wake at the checkpoint ends the wait before time moves."""
    clock = FakeClock()
    wake = anyio.Event()

    async def other() -> None:
        wake.set()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await clock.await_(wake, 30)

    assert FakeClock().now() == clock.now()


async def _until_waiting(clock: FakeClock, count: int) -> None:
    while clock.waiting < count:
        await checkpoint()


@pytest.mark.anyio
async def test_without_autojump_a_task_waits_for_another_task() -> None:
    """Without autojump a task sleeps until another one of its loop moves the time."""
    clock = FakeClock(autojump=False)
    ended: list[float] = []

    async def wait(seconds: float) -> None:
        await clock.await_(anyio.Event(), seconds)
        ended.append(seconds)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, 10)
        group.start_soon(wait, 20)
        await _until_waiting(clock, 2)
        clock.advance(10)
        await _until_ended(ended, 1)
        assert ended == [10]
        clock.advance(10)

    assert ended == [10, 20]
    assert clock.waiting == 0


async def _until_ended(ended: list[float], count: int) -> None:
    with anyio.fail_after(5):
        while len(ended) < count:
            await checkpoint()


@pytest.mark.anyio
async def test_without_autojump_a_thread_wakes_a_task() -> None:
    """Time moved in another thread wakes a task of this loop."""
    clock = FakeClock(autojump=False)

    def move() -> None:
        clock.until_waiting()
        clock.advance(10)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, move)
            await clock.await_(anyio.Event(), 10)

    assert clock.waiting == 0


@pytest.mark.anyio
async def test_without_autojump_a_wake_ends_the_wait_of_a_task() -> None:
    """Without autojump setting the wake ends an asynchronous wait, and no time passes."""
    clock = FakeClock(autojump=False)
    wake = anyio.Event()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(clock.await_, wake, 10)
            await _until_waiting(clock, 1)
            wake.set()

    assert FakeClock().now() == clock.now()


@pytest.mark.anyio
@pytest.mark.parametrize("autojump", [True, False])
async def test_a_cancelled_wait_is_forgotten(autojump: bool) -> None:
    """Cancelling a task ends its wait, and the clock forgets it."""
    clock = FakeClock(autojump=autojump)

    async with anyio.create_task_group() as group:
        group.start_soon(clock.await_, anyio.Event(), 10)
        group.cancel_scope.cancel()

    assert clock.waiting == 0
    assert FakeClock().now() == clock.now()
