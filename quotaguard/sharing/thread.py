"""The ledger's thread: leases renewed, spend told, and every store call of an event loop.

It is started by the first holder that holds something, never at import, and is not
there in a child that was forked until that does. Stores block; event loops never wait
for one, and Ctrl-C never reaches this thread. A ledger that was dropped while it holds
something lives until it has given that back.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from quotaguard.sharing.ledger import SharedLedger

__all__ = ["LedgerThread"]

LONGEST = 3_600.0
"""Seconds to wait where nothing is due: some clocks cannot wait for ever."""


class LedgerThread:
    """Does what is due for a ledger, as long as that lives."""

    def __init__(self, ledger: SharedLedger, leave: Callable[[], None]) -> None:
        """*leave*: what the process does as it ends, if anything is held."""
        self._ledger = ref(ledger, self._gone)
        self._leave = leave
        self._clock = ledger.clock
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._kept: SharedLedger | None = None
        self._next = 0.0
        self._over = False

    def attend(self, at: float) -> bool:
        """See to it that the ledger is looked after at this time of the fast clock.

        Return whether nobody does that: no thread could be started, the next time may be better.
        """
        # From here on, not from when the thread comes to it: nobody else may have it by then.
        self._kept = self._ledger()
        if self._thread is None and not self._started():
            return True
        if at < self._next:
            self._wake.set()
        return False

    def _started(self) -> bool:
        with self._lock:
            return self._thread is not None or self._begun()

    def _begun(self) -> bool:
        thread = threading.Thread(target=self._run, name="quotaguard-ledger", daemon=True)
        try:
            self.start(thread)
        except RuntimeError:
            # The limit of processes or of memory; from Python 3.12 on also an exit under way.
            self._kept = None
            return False
        self._thread = thread
        # A forked child of multiprocessing ends without Python's exit hooks.
        ends = sys.modules.get("multiprocessing.util")
        if ends is not None:
            ends.Finalize(None, self._leave, exitpriority=0)
        return True

    @staticmethod
    def start(thread: threading.Thread) -> None:
        """Start the thread."""
        thread.start()

    def keep(self) -> None:
        """Keep the ledger alive as long as it holds something that only it can give back.

        Whoever dropped it has no more use for that; others would wait for its lease.
        """
        # In this order: what is taken up meanwhile is seen, or its `attend` comes later.
        self._kept = None
        ledger = self._ledger()
        if ledger is not None and ledger.keeps():
            self._kept = ledger

    def stop(self) -> None:
        """Let the thread end."""
        self._over = True
        self._wake.set()

    def _gone(self, _: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._over:
            # Before it looks: who comes while it does must wake it.
            self._wake.clear()
            self._next = float("inf")
            ledger = self._ledger()
            if ledger is None:
                return
            due = ledger.tend()
            self.keep()
            del ledger
            self._next = due
            self._clock.wait(self._wake, min(LONGEST, max(0.0, due - self._clock.fast())))
