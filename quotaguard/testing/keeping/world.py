"""Time on the bench: one for all processes, and each can be stopped.

A ledger on trial may have a thread of its own, which waits by the clock that it was given.
A clock that jumps would let that thread race through time, and one that blocks would block
the callers, too. So it goes by who waits: a thread of the kit moves the time to the end of
its wait; any other thread really waits until the time has come. The time goes on in steps,
from one wait's end to the next, and no step is taken before those who are due have done
what they had to do and wait again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from quotaguard.testing.clock import GLANCE, FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anyio

__all__ = ["ProcessClock", "World"]

PATIENCE = 2.0
"""Real seconds that a thread which is due may take until it waits again."""

YOUNG = 0.3
"""Real seconds that a thread which was just started may take until it first waits."""

HAIR = 1e-6
"""The shortest step: the sum of floats may end a hair before a wait's end."""


class World:
    """The time of all processes on the bench."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pause = threading.Event()
        self._before = set(threading.enumerate())
        self._strangers: set[threading.Thread] = set()
        self.own: set[threading.Thread] = set()
        self.living: list[ProcessClock] = []
        self.gone = 0.0
        self.over = False

    def clock(self) -> ProcessClock:
        """Return the clock of a new process."""
        with self._lock:
            clock = ProcessClock(self)
            clock.advance(self.gone)
            self.living.append(clock)
            return clock

    @contextlib.contextmanager
    def at_home(self) -> Iterator[None]:
        """This thread is the kit's: its waits move the time."""
        me = threading.current_thread()
        self.own.add(me)
        try:
            yield
        finally:
            self.own.discard(me)

    def together(self, acts: list[Callable[[], object]]) -> list[BaseException]:
        """Do all of *acts* at once, each in a thread; return what they raised."""
        raised: list[BaseException] = []
        start = threading.Barrier(len(acts))

        def run(act: Callable[[], object]) -> None:
            with self.at_home():
                try:
                    start.wait(PATIENCE)
                    act()
                except BaseException as error:  # noqa: BLE001 - for the thread that waits here
                    raised.append(error)

        threads = [threading.Thread(target=run, args=(act,), daemon=True) for act in acts]
        self.own.update(threads)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass for every process that lives, step by step."""
        with self._lock:
            left = seconds
            self._settle()
            while left > 0.0:
                left -= self._step(left)

    def until(self, clock: ProcessClock, wake: threading.Event, due: float) -> None:
        """Move the time until *due*, or until *wake* is set."""
        while not wake.is_set() and clock.fast() < due:
            with self._lock:
                self._settle()
                left = due - clock.fast()
                if left > 0.0 and not wake.is_set():
                    self._step(max(HAIR, left))

    def _step(self, most: float) -> float:
        ends = [end for clock in self.living for end in clock.ends()]
        go = min([most, *(max(HAIR, end) for end in ends)])
        self.gone += go
        for clock in self.living:
            clock.advance(go)
        self._settle()
        return go

    def _settle(self) -> None:
        """Let threads that are not the kit's do what they have to do by now."""
        end = time.monotonic() + YOUNG
        while young := self._young():
            if time.monotonic() > end:
                self._strangers.update(young)
                break
            self._pause.wait(GLANCE / 5)
        for clock in self.living:
            clock.settle()

    def _young(self) -> list[threading.Thread]:
        """Return the threads that have come and have not waited by a clock of ours yet."""
        known = self._before | self._strangers | self.own
        waiting = [clock.known for clock in self.living]
        return [
            thread
            for thread in threading.enumerate()
            if thread not in known and not any(thread in those for those in waiting)
        ]


class ProcessClock(FakeClock):
    """The clock of one process on the bench."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._sleepers: dict[threading.Thread, tuple[float, threading.Event]] = {}
        self.known: set[threading.Thread] = set()

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Return after *seconds*, or as soon as *wake* is set: who waits, see above."""
        me, due = threading.current_thread(), self.fast() + seconds
        if me in self._world.own:
            self._world.until(self, wake, due)
            return
        with self._moved:
            self.known.add(me)
            self._sleepers[me] = due, wake
            self._moved.notify_all()
        try:
            while self.fast() < due and not wake.is_set():
                if self._world.over:
                    # The trial is over: whoever still waits does that in real time.
                    wake.wait(max(1.0, due - self.fast()))
                    return
                with self._moved:
                    self._moved.wait(GLANCE)
        finally:
            with self._moved:
                del self._sleepers[me]

    async def await_(self, wake: anyio.Event, seconds: float) -> None:
        """Return after *seconds*, or as soon as *wake* is set; the time is moved elsewhere."""
        from anyio import to_thread  # noqa: PLC0415 - only asynchronous tests pay

        due = self.fast() + seconds
        while not wake.is_set() and self.fast() < due:
            await to_thread.run_sync(self._world.advance, min(1.0, due - self.fast()))

    def ends(self) -> list[float]:
        """Return the seconds until each wait ends that is under way."""
        with self._moved:
            now = self.fast()
            return [due - now for due, _ in self._sleepers.values()]

    def settle(self) -> None:
        """Block, in real time, until all that waited and are due, or woken, wait again."""
        end = time.monotonic() + PATIENCE
        with self._moved:
            while late := [thread for thread in self.known if self._busy(thread)]:
                if time.monotonic() > end:
                    self.known.difference_update(late)
                    return
                self._moved.wait(GLANCE)

    def _busy(self, thread: threading.Thread) -> bool:
        if not thread.is_alive():
            return False
        if thread not in self._sleepers:
            return True
        due, wake = self._sleepers[thread]
        return wake.is_set() or due <= self.fast()
