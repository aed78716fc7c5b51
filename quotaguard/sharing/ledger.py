"""A ledger over any store: the accounts of this process, its thread, and what a fork does."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import threading
import weakref
from typing import TYPE_CHECKING

from quotaguard.clock import SystemClock
from quotaguard.errors import ConfigError, LedgerUnavailable
from quotaguard.forking import follow
from quotaguard.quota.policy import seconds
from quotaguard.sharing.account import SharedAccount
from quotaguard.sharing.frames import interrupts
from quotaguard.sharing.pausing import Pauses
from quotaguard.sharing.thread import LedgerThread

if TYPE_CHECKING:
    from quotaguard.clock import Clock
    from quotaguard.quota.account import Terms
    from quotaguard.quota.policy import Duration
    from quotaguard.sharing.holder import SharedHolder
    from quotaguard.sharing.store import Store, Turn

__all__ = ["LEASE", "SharedLedger"]

LEASE = 30.0
"""Seconds for which a holder may spend what it holds without being heard of. Doorman's
are of minutes, for capacity; a quota that a dead process holds should come back sooner."""


SHORTEST = 0.1
"""Seconds of a lease: slow exchanges take nearly as much."""

THREADLESS = (
    "no thread can be started. Event loops cannot ask the ledger, and leases are renewed by calls "
    "alone. Look at the limits of processes and memory (ulimit -u, ulimit -v, the container's)"
)

FORKS_WITHIN = 12.0
"""Seconds that a fork waits for a lock: more than any exchange takes."""


class SharedLedger:
    """Books that processes share, in a store.

    lease: seconds for which a process may spend from its allotment while the store cannot
        be reached; so long, and `Policy.late`, the units of a killed one stay away.
    """

    def __init__(
        self, store: Store, *, lease: Duration = LEASE, clock: Clock | None = None
    ) -> None:
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self.lease = seconds(lease, "lease")
        if not self.lease >= SHORTEST:
            raise ConfigError(
                f"lease= is {SHORTEST} s or more: what is granted must not be over before the "
                "store has answered, or every call asks again"
            )
        self._lock, self._exchanging = threading.Lock(), threading.Lock()
        self._taken: list[threading.Lock] = []
        self._accounts: dict[str, SharedAccount] = {}
        self._begin()
        _LEDGERS.add(self)
        follow(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._pauses = Pauses(self.clock)
        self._warnings: list[str] = []
        self._threadless = False
        self._prefix = f"{socket.gethostname()}.{self._pid}.{os.urandom(3).hex()}"
        self._thread = LedgerThread(self, _leave)

    def holder(self, terms: Terms) -> SharedHolder:
        """Return the place of a guard with these terms at its account's books."""
        with self._lock:
            account = self._accounts.get(terms.account)
            if account is None:
                account = self._accounts[terms.account] = SharedAccount(self, terms.account)
            return account.holder(terms)

    def close(self) -> None:
        """Give back what this process does not use, and let go of the store.

        Other guards may still use it: then it is opened again. In a signal's handler that
        has stopped a call half way it does nothing: the locks that this would wait for are
        held below it. What is idle goes back later, as the process ends or by itself.
        """
        if interrupts():
            return
        self.heed_fork()
        for account in list(self._accounts.values()):
            with contextlib.suppress(LedgerUnavailable):
                account.give_back()
        self._thread.keep()
        self.store.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.store.name}: {len(self._accounts)} accounts>"

    # -- for its accounts -------------------------------------------------------

    def name_of(self, number: int) -> str:
        """Return the name of a holder of this process: nobody else has or had it."""
        return f"{self._prefix}.{number}"

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Exchange with the store, one account at a time.

        Raises:
            LedgerUnavailable: see `Store.exchange`.
        """
        with self._exchanging:
            self._pauses.heed(account)
            begun = self.clock.fast()
            try:
                version = self.store.exchange(account, known, turn)
            except LedgerUnavailable as error:
                self._pauses.failed(account, begun, error)
                raise
            self._pauses.worked(account)
            return version

    def fault(self, error: Exception) -> LedgerUnavailable:
        """Return what is said of *error*, which a ledger raises as one kind whatever it is."""
        if isinstance(error, LedgerUnavailable):
            return error
        logging.getLogger("quotaguard").error("ledger %s failed", self.store.name, exc_info=error)
        msg = f"the ledger {self.store.name} failed with {type(error).__name__}: a fault of ours"
        fault = LedgerUnavailable(f"{msg}, please report it", store=self.store.name, unsure=True)
        fault.__cause__ = error
        return fault

    def warnings(self) -> list[str]:
        """Return what whoever runs the store should know, each once."""
        stores: list[str] = getattr(self.store, "warnings", [])
        return [told.pop(0) for told in (self._warnings, stores) for _ in range(len(told))]

    def version(self) -> str:
        """Return the name of a text: no two have the same, whatever a store forgets."""
        return os.urandom(9).hex()

    def attend(self, account: SharedAccount, *, now: bool = False) -> None:
        """Have the thread look after *account* when it is due."""
        due = 0.0 if now or account.queue.busy else min(account.beat_at, account.rest_at)
        if due < float("inf") and self._thread.attend(due):
            if not self._threadless:
                self._threadless = True
                self._warnings.append(f"{self.store.name}: {THREADLESS}")
            self._unattended(account)

    def _unattended(self, account: SharedAccount) -> None:
        """Tell the event loops that wait for the thread that there is none."""
        # Whoever has the turn comes here after it.
        if account.turn.acquire(blocking=False):
            try:
                for ticket in tuple(account.tickets):
                    if ticket.waiter is not None or ticket.keeps:
                        told = f"{self.store.name}: {THREADLESS}"
                        ticket.end(LedgerUnavailable(told, store=self.store.name))
                        account.tickets.remove(ticket)
            finally:
                account.turn.release()

    def keeps(self) -> bool:
        """Whether it holds something that the books still take for its own."""
        fast = self.clock.fast()
        for account in list(self._accounts.values()):
            with account.lock:
                kept = _holding(account, fast)
            if kept:
                return True
        return False

    def tend(self) -> float:
        """Do what is due for every account; return when the next is, by the fast clock."""
        fast = self.clock.fast()
        return min((one.tend(fast) for one in list(self._accounts.values())), default=float("inf"))

    # -- fork -------------------------------------------------------------------

    def heed_fork(self) -> None:
        """See a fork that Python was not told of: uWSGI forks behind its back.

        Two processes of one name would take each other's reports for their own.
        """
        if os.getpid() != self._pid:
            with _untold:
                if os.getpid() != self._pid:
                    self.after_fork_in_child()

    def before_fork(self) -> None:
        """Take every lock: no exchange is under way then, but one that the fork interrupts."""
        self._take(self._lock)
        for account in self._accounts.values():
            self._take(account.turn)
            self._take(account.lock)
        self._take(self._exchanging)

    def _take(self, lock: threading.Lock) -> None:
        # Whoever forks in a signal's handler may hold it itself, and would wait for ever.
        if lock.acquire(timeout=FORKS_WITHIN):
            self._taken.append(lock)

    def after_fork_in_parent(self) -> None:
        """Release them."""
        while self._taken:
            self._taken.pop().release()

    def after_fork_in_child(self) -> None:
        """Go on as another holder, over a connection of its own."""
        self._lock, self._exchanging = threading.Lock(), threading.Lock()
        self._taken.clear()
        self.store.forked()
        self._begin()
        for account in self._accounts.values():
            account.forked()


def _holding(account: SharedAccount, fast: float) -> bool:
    """Whether something of it is under a lease, or on its way (under its lock)."""
    mine = [one for one in account.holders if fast < one.lease_until]
    return bool(account.tickets) or any(one.holds for one in mine)


_LEDGERS: weakref.WeakSet[SharedLedger] = weakref.WeakSet()
_untold = threading.Lock()


@atexit.register
def _leave() -> None:
    """Give back what the process holds, so that others need not wait for its lease."""
    for ledger in list(_LEDGERS):
        with contextlib.suppress(Exception):
            ledger.close()
