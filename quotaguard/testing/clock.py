"""A clock that stands until it is moved: no test has to sleep."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quotaguard.errors import ConfigError
from quotaguard.quota.readings import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anyio

__all__ = ["FakeClock"]

SLOW_START = 1_000.0
FAST_START = 2_000.0
# The three clocks start apart, so that code which mixes them shows itself.

GLANCE = 0.005
# Real seconds between two looks at a threading.Event, which cannot wake a Condition.

ROUNDS = 2
# Turns of the event loop that the earliest wait leaves to other tasks before it
# moves the time. Trio shuffles each turn, so it takes two to reach every task.


class FakeClock:
    """A clock for tests, for threads, asyncio and trio alike.

    ::

        clock = FakeClock()
        guard = Guard(FullContact(api_key="..."), clock=clock)
        clock.advance(3600)  # an hour later, at once

    start: Unix time in seconds at which the wall clock begins.
    autojump: with True a wait returns at once and has moved the time to its own
        end; waits under way together move it to the latest of their ends, not to
        the sum, and tasks of one event loop wake in the order of their ends. With
        False a wait really blocks until another thread or task moves the time
        past its end, or sets its *wake*. Use that where a thread waits in a loop
        (``Guard(..., background=True)``): with autojump it would race through time.

    *slow* and *fast* never go back; *wall* goes back only by `jump_wall`.
    """

    def __init__(self, start: float = 1_700_000_000.0, *, autojump: bool = True) -> None:
        self.autojump = autojump
        self._start = _finite(start, "start")
        self._moved = threading.Condition()
        self._awake = 0.0
        self._suspended = 0.0
        self._jumped = 0.0
        self._dues: list[float] = []
        self._alarms: list[_Alarm] = []

    def now(self) -> Moment:
        """Return one reading of all three clocks, in seconds."""
        with self._moved:
            gone = self._awake + self._suspended
            return Moment(
                SLOW_START + self._awake, FAST_START + gone, self._start + gone + self._jumped
            )

    def fast(self) -> float:
        """Return the `Moment.fast` of now, in seconds."""
        # Two attributes: a torn read could only show a moment that has passed.
        return FAST_START + (self._awake + self._suspended)

    def slow(self) -> float:
        """Return the `Moment.slow` of now, in seconds."""
        return SLOW_START + self._awake

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass on all three clocks, and end the waits that are due.

        Raises:
            ConfigError: *seconds* is below 0 or not finite.
        """
        self._move(awake=_forward(seconds, "advance"))

    def suspend(self, seconds: float) -> None:
        """Let the machine sleep: fast and wall go on by *seconds*, slow stands.

        Raises:
            ConfigError: *seconds* is below 0 or not finite.
        """
        self._move(suspended=_forward(seconds, "suspend"))

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock on by *seconds*, or back where they are below 0.

        Raises:
            ConfigError: *seconds* is not finite.
        """
        with self._moved:
            self._jumped += _finite(seconds, "jump_wall")

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Return after *seconds* of this clock, or as soon as *wake* is set."""
        due = self.fast() + _finite(seconds, "wait")
        if self.autojump:
            if not wake.is_set():
                self._reach(due)
            return
        with self._moved, self._under_way(due):
            while self.fast() < due and not wake.is_set():
                self._moved.wait(GLANCE)

    async def await_(self, wake: anyio.Event, seconds: float) -> None:
        """Return after *seconds* of this clock, or as soon as *wake* is set; a checkpoint."""
        from anyio.lowlevel import checkpoint  # noqa: PLC0415 - only asynchronous tests pay

        due = self.fast() + _finite(seconds, "await_")
        if not self.autojump:
            await self._block(wake, due)
            return
        with self._under_way(due):
            await checkpoint()
            rounds = 0
            while self.fast() < due and not wake.is_set():
                rounds = rounds + 1 if self._is_first(due) else 0
                if rounds == ROUNDS:
                    self._reach(due)
                await checkpoint()

    @property
    def waiting(self) -> int:
        """How many waits are under way."""
        with self._moved:
            return len(self._dues)

    def until_waiting(self, count: int = 1, *, timeout: float = 5.0) -> None:
        """Block, in real time, until at least *count* waits are under way.

        For threads with ``autojump=False``: then the test knows that the other
        thread waits, and moves the time. An asynchronous test looks at `waiting`
        between checkpoints instead.

        Raises:
            TimeoutError: it took longer than *timeout* real seconds.
        """
        end = time.monotonic() + timeout
        with self._moved:
            while len(self._dues) < count:
                left = end - time.monotonic()
                if left <= 0:
                    msg = f"{len(self._dues)} of {count} waits under way after {timeout} s"
                    raise TimeoutError(msg)
                self._moved.wait(left)

    def __repr__(self) -> str:
        now = self.now()
        wall = datetime.fromtimestamp(now.wall, UTC)
        how = "autojump" if self.autojump else f"{self.waiting} waiting"
        return (
            f"<FakeClock: {wall:%Y-%m-%d %H:%M:%S} UTC, {now.fast - FAST_START:,.1f} s on, {how}>"
        )

    def _move(self, awake: float = 0.0, suspended: float = 0.0) -> None:
        with self._moved:
            self._awake += awake
            self._suspended += suspended
            self._ring()

    def _reach(self, due: float) -> None:
        with self._moved:
            short = due - self.fast()
            if short > 0:
                self._awake += short
                # Rounding may leave the sum a hair before *due*: then one float further.
                while self.fast() < due:
                    self._awake = math.nextafter(self._awake, math.inf)
                self._ring()

    def _ring(self) -> None:
        now = self.fast()
        self._moved.notify_all()
        for alarm in self._alarms:
            if alarm.due <= now:
                alarm.ring()

    def _is_first(self, due: float) -> bool:
        with self._moved:
            return due == min(self._dues)

    @contextlib.contextmanager
    def _under_way(self, due: float) -> Iterator[None]:
        with self._moved:
            self._dues.append(due)
            self._moved.notify_all()
        try:
            yield
        finally:
            with self._moved:
                self._dues.remove(due)
                self._moved.notify_all()

    async def _block(self, wake: anyio.Event, due: float) -> None:
        import anyio  # noqa: PLC0415 - only asynchronous tests pay for it

        rung = anyio.Event()
        alarm = _Alarm(due, rung)

        async def first(event: anyio.Event) -> None:
            await event.wait()
            group.cancel_scope.cancel()

        with self._moved:
            self._alarms.append(alarm)
            if due <= self.fast():
                rung.set()
        try:
            with self._under_way(due):
                async with anyio.create_task_group() as group:
                    group.start_soon(first, wake)
                    group.start_soon(first, rung)
        finally:
            with self._moved:
                self._alarms.remove(alarm)


class _Alarm:
    """Wakes one task of one event loop, from whichever thread moves the time."""

    def __init__(self, due: float, rung: anyio.Event) -> None:
        self.due = due
        self._rung = rung
        self._soon = _soon()

    def ring(self) -> None:
        # A loop that has ended has nobody left to wake.
        with contextlib.suppress(RuntimeError):
            self._soon(self._rung.set)


def _soon() -> Callable[[Callable[[], None]], object]:
    """Return what runs a function in the current event loop, called from any thread."""
    trio = sys.modules.get("trio")
    # Trio is asked first: as a guest it runs inside an asyncio loop.
    if trio is not None and trio.lowlevel.in_trio_run():
        soon: Callable[[Callable[[], None]], object]
        soon = trio.lowlevel.current_trio_token().run_sync_soon
        return soon
    return asyncio.get_running_loop().call_soon_threadsafe


def _finite(seconds: float, name: str) -> float:
    if not math.isfinite(seconds):
        msg = f"{name} takes a finite number of seconds, not {seconds!r}"
        raise ConfigError(msg)
    return seconds


def _forward(seconds: float, name: str) -> float:
    if _finite(seconds, name) < 0:
        msg = f"{name} takes seconds from 0 upwards; a clock never goes back"
        raise ConfigError(msg)
    return seconds
