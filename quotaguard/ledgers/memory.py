"""The ledger of one process: books in memory, exact, gone when the process ends.

Holders of one account share its books and its lock. Whoever posts an entry first
takes back what every lane has left, so that an entry always sees exact books:
the cost of a shared ledger's recall is nothing here.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from quotaguard.clock import SystemClock
from quotaguard.forking import follow
from quotaguard.quota.account import Books, Posted
from quotaguard.quota.allotment import Allotment
from quotaguard.quota.entries import Check, Reserve, Touch
from quotaguard.quota.events import Degraded
from quotaguard.quota.snapshot import keep, restore
from quotaguard.quota.verdicts import Granted
from quotaguard.waiting import Line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quotaguard.clock import Clock
    from quotaguard.ledgers import Denial, Ticket, Waiter, WaitingLine
    from quotaguard.quota.account import Entry, Terms
    from quotaguard.quota.events import Event
    from quotaguard.quota.readings import Moment

__all__ = ["MemoryLedger"]

_QUIET = (Reserve, Check, Touch)
"""Entries that nobody waits for: they never give anybody more."""


class MemoryLedger:
    """Books in memory. By default there is one for the process and its accounts.

    An explicit ``MemoryLedger()`` is private to the guards that are given it.
    What its predecessor spent just before a restart it cannot know; therefore it
    holds back `Policy.cold_reserve` until a poll has seen all of that.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        follow(self)

    def holder(self, terms: Terms) -> MemoryHolder:
        """Return the place of a guard with these terms at its account's books."""
        with self._lock:
            account = self._accounts.get(terms.account)
            if account is None:
                account = self._accounts[terms.account] = _Account(self._clock)
            return account.holder(terms)

    def close(self) -> None:
        """Nothing to close: other guards may share these books."""

    def __repr__(self) -> str:
        return f"<MemoryLedger: {len(self._accounts)} accounts>"

    def before_fork(self) -> None:
        """Take every lock."""
        self._lock.acquire()
        for account in self._accounts.values():
            account.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Release them."""
        for account in self._accounts.values():
            account.lock.release()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Go on without the parent's allotments."""
        self._lock = threading.Lock()
        for account in self._accounts.values():
            account.forked()


class _Account:
    """The books of one account, its lock and its holders."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.books = Books(cold_from=clock.now().slow)
        self.holders: list[MemoryHolder] = []
        self.queue = Line()
        self.polling_loops: list[int] = []
        self.warn = False

    def holder(self, terms: Terms) -> MemoryHolder:
        """Guards of equal terms are one holder; lanes depend on the terms."""
        for holder in self.holders:
            if holder.terms == terms:
                return holder
        holder = MemoryHolder(self, terms, f"{os.getpid()}.{len(self.holders)}")
        self.holders.append(holder)
        return holder

    def forked(self) -> None:
        """Go on in a child: without allotments, and cold.

        The parent's reservations are void here. Their units count as spent until
        a poll has seen what became of them.
        """
        now = self.clock.now()
        self.lock = threading.Lock()
        self.queue = Line()
        self.polling_loops = []
        self.warn = True
        for holder in self.holders:
            report = holder.allotment.report(now)
            self.books.absorb(holder.name, report, now, holder.terms)
        for meter in self.books.meters.values():
            meter.spent += meter.held
            meter.unknown += meter.held
            meter.held = 0
            meter.samples[-1] = (now.slow, meter.spent)
        self.books.cold_from = now.slow
        self.books.holders.clear()
        self.books.rates.restart(now.slow)
        self.books.polls.claimed = None
        for number, holder in enumerate(self.holders):
            holder.restart(self, f"{os.getpid()}.{number}")


class MemoryHolder:
    """One guard's place at the books of an account."""

    waits = False
    fresh = True
    denies_for = lease_until = math.inf

    def __init__(self, account: _Account, terms: Terms, name: str) -> None:
        self.terms = terms
        self.late = terms.late
        self.epoch = 0
        self.lent: dict[str, int] = {}
        self.news: deque[Event] = deque()
        self.restart(account, name)

    def restart(self, account: _Account, name: str) -> None:
        """Begin without an allotment; what was reserved before is void."""
        self._account = account
        self.name = name
        self.epoch += 1
        self.lock = account.lock
        self.allotment = Allotment()
        self.denials: dict[tuple[str, str], Denial] = {}
        self.queue: WaitingLine = account.queue
        self.polling_loops = account.polling_loops
        self.unowned: dict[str, Mapping[str, int]] = {}
        self.forgotten: deque[tuple[int, Mapping[str, int]]] = deque()

    @property
    def books(self) -> Books:
        """The books, for reading under the lock."""
        return self._account.books

    def moment(self) -> Moment:
        """Return what time it is for the books."""
        return self._account.clock.now()

    def hand_in(self, entry: Entry, waiter: Waiter | None = None) -> NoReturn:
        """Nobody has to: `post` never waits."""
        raise NotImplementedError

    def drop(self, ticket: Ticket) -> None:
        """There is none."""

    def lend(self, name: str, cost: Mapping[str, int]) -> None:
        """Books in memory are never out of reach."""

    def from_lanes(self, _: Reserve) -> bool:
        """The books are as near."""
        return False

    def seen(self) -> Books:
        """Return the books: what is tried on a copy changes nothing."""
        return self.books.copy()

    def freshen(self) -> None:
        """They are never old."""

    def attend(self) -> None:
        """Nobody else changes these books."""

    def post(self, entry: Entry) -> Posted:
        """Report every holder's counts, apply *entry*, take over what it grants."""
        account = self._account
        quiet = isinstance(entry, _QUIET)
        with self.lock:
            now = account.clock.now()
            kept = keep(account.books, [holder.allotment for holder in account.holders])
            taken: list[tuple[MemoryHolder, tuple[int, Mapping[str, int]]]] = []
            try:
                posted = self._apply(entry, now, taken)
                if isinstance(entry, Reserve) and isinstance(posted.verdict, Granted):
                    self.unowned[entry.name] = posted.granted
            except BaseException:
                restore(kept)
                for holder, cost in reversed(taken):
                    holder.forgotten.appendleft(cost)
                raise
            if not quiet:
                self.queue.changes += 1
            warn, account.warn = account.warn, False
        if not quiet:
            self.queue.wake()
        if warn:
            posted = Posted(
                posted.verdict, posted.granted, posted.lanes, (*posted.events, self._forked())
            )
        return posted

    def _apply(
        self,
        entry: Entry,
        now: Moment,
        taken: list[tuple[MemoryHolder, tuple[int, Mapping[str, int]]]],
    ) -> Posted:
        """Apply *entry* under the lock; *taken* is told what was forgotten until now."""
        account = self._account
        books = account.books
        for holder in account.holders:
            while holder.forgotten:
                # In one run without a call, where Ctrl-C cannot come between.
                epoch, cost = holder.forgotten[0]
                taken += ((holder, (epoch, cost)),)
                del holder.forgotten[0]
                if epoch == holder.epoch:
                    holder.allotment.give_up(cost, now.slow + holder.late)
            if holder is not self:
                books.absorb(holder.name, holder.allotment.report(now), now, holder.terms)
        posted = books.post(self.name, self.allotment.report(now), entry, now, self.terms)
        self.allotment.accept(posted.granted, posted.lanes)
        return posted

    def _forked(self) -> Degraded:
        return Degraded(
            provider=self.terms.provider,
            account=self.terms.account,
            state="forked",
            reason="this process was forked and counts by itself; its siblings cannot be "
            'seen before they show in the stats: Guard(..., ledger="sqlite:///path/quota.db")',
        )
