"""Those in a process who wait for the books of an account to change."""

from __future__ import annotations

import bisect
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quotaguard.ledgers import Place, Waiter

__all__ = ["Line", "in_event_loop"]


class Line:
    """Those who wait, best priority first, first come first."""

    def __init__(self) -> None:
        self.changes = 0
        self._lock = threading.Lock()
        self.busy: list[Place] = []
        self._callers: dict[Place, tuple[frozenset[str], Waiter | None]] = {}

    def stand(self, place: Place, meters: frozenset[str], waiter: Waiter | None) -> None:
        """Stand in line: asleep with a *waiter*, or awake and asking the books."""
        with self._lock:
            # First this, and last when leaving: whoever is in line must be found here.
            self._callers[place] = meters, waiter
            at = bisect.bisect_left(self.busy, place)
            if self.busy[at : at + 1] != [place]:
                self.busy.insert(at, place)

    def leave(self, place: Place) -> None:
        """Stop waiting; whoever is not in line is not missed."""
        with self._lock:
            at = bisect.bisect_left(self.busy, place)
            if self.busy[at : at + 1] == [place]:
                del self.busy[at]
            self._callers.pop(place, None)

    def wake(self, *, after: Place | None = None, but: frozenset[str] | None = None) -> None:
        """Wake the first in line, or the first behind *after* of other meters than *but*.

        One who is awake already passes the news on when it has asked.
        """
        waiter = None
        with self._lock:
            for place in self.busy:
                meters, waiter = self._callers[place]
                if (after is None or place > after) and meters != but:
                    self._callers[place] = meters, None
                    break
                waiter = None
        if waiter is not None and not waiter.wake():
            self.leave(place)  # its event loop has ended, and the task with it
            self.wake(after=after, but=but)


def in_event_loop() -> bool:
    """Whether an event loop runs in this thread, asyncio's or trio's."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    running = asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - it does not raise
    return running or (trio is not None and trio.lowlevel.in_trio_run())
