"""The clock that production uses. Nothing below the ledgers reads one itself."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

from quotaguard.quota.readings import Moment

if TYPE_CHECKING:
    import anyio

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What a guard needs of time. `quotaguard.testing.FakeClock` is another one."""

    def now(self) -> Moment:
        """Return one reading of all three clocks."""

    def fast(self) -> float:
        """Return the `Moment.fast` of now; called for every guarded call."""

    def slow(self) -> float:
        """Return the `Moment.slow` of now; called whenever a call is settled."""

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Return after *seconds*, or as soon as *wake* is set."""

    async def await_(self, wake: anyio.Event, seconds: float) -> None:
        """Return after *seconds*, or as soon as *wake* is set; a checkpoint."""


class SystemClock:
    """CLOCK_MONOTONIC, CLOCK_BOOTTIME and the wall.

    Where there is no CLOCK_BOOTTIME (macOS, Windows), *fast* is the monotonic
    clock moved on by every jump of the wall against it, so that a suspended
    laptop does not believe an old reading.
    """

    def __init__(self) -> None:
        self.slow = time.monotonic
        self.fast = _boottime if sys.platform == "linux" else _JumpedMonotonic()

    def now(self) -> Moment:
        """Return one reading of all three clocks."""
        return Moment(time.monotonic(), self.fast(), time.time())

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Return after *seconds*, or as soon as *wake* is set."""
        wake.wait(seconds)

    async def await_(self, wake: anyio.Event, seconds: float) -> None:
        """Return after *seconds*, or as soon as *wake* is set; a checkpoint."""
        import anyio  # noqa: PLC0415 - only asynchronous callers pay for it

        with anyio.move_on_after(seconds):
            await wake.wait()


if sys.platform == "linux":
    import functools

    _boottime = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
else:
    _boottime = time.monotonic


class _JumpedMonotonic:
    """The monotonic clock plus all that the wall has ever jumped ahead of it."""

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._ahead = 0.0
        self._last = (time.monotonic(), time.time())

    def __call__(self) -> float:
        if self._owner != os.getpid():  # another thread of the parent may have held it
            self._lock, self._owner = threading.Lock(), os.getpid()
        with self._lock:
            monotonic, wall = time.monotonic(), time.time()
            then, before = self._last
            self._ahead += max(0.0, (wall - before) - (monotonic - then))
            self._last = (monotonic, wall)
            return monotonic + self._ahead
