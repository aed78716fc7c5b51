"""One account's books as a process knows them, and how its threads post to the store together.

Whoever posts takes along what the others want: one exchange with the store carries all
that waits. It holds *turn* while the store is asked, so that a process speaks to it with one
voice; decisions from memory go on meanwhile, and nobody who makes one takes it.
The books are changed under *lock*, which is never held while the store is asked.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from typing import TYPE_CHECKING

from quotaguard.errors import LedgerUnavailable
from quotaguard.quota.account import Posted
from quotaguard.quota.entries import Check, Reserve, Rest, Touch
from quotaguard.quota.leases import heard_in
from quotaguard.quota.readings import Moment
from quotaguard.quota.snapshot import keep_allotments, restore
from quotaguard.quota.verdicts import Granted
from quotaguard.sharing.exchange import Effect, Exchange, Ticket, undoing
from quotaguard.sharing.holder import DENIES_FOR, SharedHolder
from quotaguard.sharing.pausing import DOWN_FOR
from quotaguard.sharing.record import Anchor, Record
from quotaguard.sharing.store import Seen
from quotaguard.waiting import Line

if TYPE_CHECKING:
    from quotaguard.clock import Clock
    from quotaguard.ledgers import Waiter, WaitingLine
    from quotaguard.quota.account import Entry, Terms
    from quotaguard.sharing.ledger import SharedLedger

__all__ = ["SharedAccount"]

QUIET = (Reserve, Check, Touch)
"""Entries that nobody waits for: they never give anybody more."""

FORGOT = (
    "the store may have lost what it had acknowledged (a restart, a failover, a deleted file): "
    "nothing is granted for {:.0f} s, and until a poll after that"
)

IDLE = 1.0 / 6.0
"""Of the lease, after which a lane that nobody took from goes back: 5 s of 30."""

LOOKS = 1.0 / 120.0
"""Of the lease, between two looks whether others have changed what callers here wait for."""

LATE_ANSWERS = 3
"""In a row, after which a store is as good as down."""


class SharedAccount:
    """The books of one account, shared with other processes."""

    def __init__(self, ledger: SharedLedger, name: str) -> None:
        self._ledger = ledger
        self.account = name
        self.clock: Clock = ledger.clock
        self.numbers = itertools.count(1)
        self.holders: list[SharedHolder] = []
        self.begin()

    def begin(self) -> None:
        """Know nothing yet: at first, and in a child that was forked."""
        self.lock = threading.Lock()
        self.turn = threading.Lock()
        self.queue: WaitingLine = Line()
        self.polling_loops: list[int] = []
        self.tickets: deque[Ticket] = deque()
        self.lost: deque[Ticket] = deque()
        self.version, self.text, self.born = "", "", ""
        self.era = ""
        self._late = 0
        self.clean = True
        self.record = Record.new(Seen("", None, self.clock.now(), ""))
        self._anchor: Anchor | None = None
        self._lost_at = math.inf
        self.beat_at = self.look_at = self.rest_at = math.inf

    def forked(self) -> None:
        """Begin anew in a child: what its parent holds is not its own."""
        self.begin()
        for holder in self.holders:
            holder.restart(self.new_name())

    def new_name(self) -> str:
        """Return a holder's name that no other has or had."""
        return self._ledger.name_of(next(self.numbers))

    def holder(self, terms: Terms) -> SharedHolder:
        """Guards of equal terms are one holder; lanes depend on the terms."""
        for holder in self.holders:
            if holder.terms == terms:
                return holder
        holder = SharedHolder(self, terms, self.new_name())
        self.holders.append(holder)
        return holder

    def moment(self) -> Moment:
        """Return the books' time, by this process's clock since it last heard of it."""
        now, anchor = self.clock.now(), self._anchor
        if anchor is None:
            return now
        gone = now.fast - anchor.local
        return Moment(anchor.slow + gone, anchor.fast + gone, now.wall)

    @property
    def fresh(self) -> bool:
        """Whether the books were seen within a lease before they went out of reach."""
        if self._anchor is None:
            return False
        lost_at = min(self._lost_at, self.clock.fast())
        return lost_at - self._anchor.local < self._ledger.lease

    # -- posting ----------------------------------------------------------------

    def post(self, holder: SharedHolder, entry: Entry) -> Posted:
        """Post *entry* with all that waits, in this thread.

        Raises:
            LedgerUnavailable: the store could not be reached, read or written.
        """
        self._ledger.heed_fork()
        ticket = Ticket(holder, entry, None)
        try:
            self.tickets.append(ticket)
            with self.turn:
                if not ticket.done:
                    self._serve()
        except BaseException:
            self.drop(ticket)
            raise
        self._ledger.attend(self, now=bool(self.tickets))
        return ticket.result()

    def hand_in(self, holder: SharedHolder, entry: Entry, waiter: Waiter | None) -> Ticket:
        """Let the ledger's thread post *entry*."""
        self._ledger.heed_fork()
        ticket = Ticket(holder, entry, waiter, heard=waiter is not None)
        self.tickets.append(ticket)
        self._ledger.attend(self, now=True)
        return ticket

    def freshen(self, holder: SharedHolder) -> None:
        """Let the ledger's thread read the books again, unless that was done just now."""
        read = -math.inf if self._anchor is None else self._anchor.local
        if not self.tickets and self.clock.fast() - read > DENIES_FOR:
            self.hand_in(holder, Touch(), None)

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for *ticket* any more: what it is granted goes back.

        It takes no lock: a coroutine that is thrown away may be finalized anywhere.
        """
        self.lost.append(ticket)

    def attend(self) -> None:
        """Have the ledger's thread look after this account."""
        self._ledger.attend(self, now=bool(self.lost))

    def serve(self) -> None:
        """Post all that waits, in the ledger's thread."""
        with self.turn:
            self._serve()

    def _serve(self) -> None:
        """Exchange once for every ticket in the queue (under *turn*)."""
        # They stay in it until they are done: Ctrl-C may come anywhere.
        for ticket in tuple(self.tickets):
            if ticket.posted is not None:
                ticket.end()
        tickets = [ticket for ticket in tuple(self.tickets) if not ticket.done]
        try:
            if tickets:
                self._exchange(tickets)
        except Exception as error:  # noqa: BLE001 - whatever it was, a ledger raises but one
            fault = self._ledger.fault(error)
            for ticket in tickets:
                ticket.end(fault)
        while self.tickets and self.tickets[0].done:
            self.tickets.popleft()
        self._undo_lost()

    # -- one exchange -----------------------------------------------------------

    def _exchange(self, tickets: list[Ticket]) -> None:
        sent = self.clock.fast()
        own = [ticket.holder for ticket in tickets]
        others = [holder for holder in self.holders if holder.holds and holder not in own]
        tickets = [*tickets, *(Ticket(holder, Touch(), None, heard=False) for holder in others)]
        exchange = Exchange(self, self._ledger, tickets, self._anchor)
        try:
            version = self._ledger.exchange(self.account, self.version, exchange.turn)
        except LedgerUnavailable as error:
            self._failed(unsure=error.unsure)
            raise
        except BaseException:
            self._failed(unsure=True)
            raise
        self._in_time(self.clock.fast() - sent)
        self._written(version, exchange.effects[version], tickets, sent)
        if exchange.withheld is not None:
            tickets[0].holder.degraded(FORGOT.format(exchange.withheld))

    def _in_time(self, took: float) -> None:
        """Give up a store that answers when the lease is over: one would ask it for ever."""
        lease, store = self._ledger.lease, self._ledger.store.name
        self._late = self._late + 1 if took >= lease else 0
        if self._late >= LATE_ANSWERS:  # a machine that was suspended makes one
            self._failed(unsure=True)
            msg = f"{store}: its answers take {took:.3g} s, and the lease is {lease:g} s"
            msg = f"{msg}: what is granted is over as it comes. Give the ledger a longer lease="
            raise LedgerUnavailable(msg, store=store, unsure=True)

    def _soon(self) -> None:
        """After a failure, tell it soon if there is something: perhaps nobody calls meanwhile."""
        if any(holder.holds for holder in self.holders):
            pause = max(DOWN_FOR, self._ledger.lease / 30.0)
            self.beat_at = min(self.beat_at, self.clock.fast() + pause)

    def _failed(self, *, unsure: bool) -> None:
        """Go on with what is in hand; without what was on its way back, if that may be there."""
        with self.lock:
            self._lost_at = min(self._lost_at, self.clock.fast())
            for holder in self.holders:
                end = holder.forfeit if unsure else holder.kept
                end()
        self._soon()

    def _written(self, version: str, done: Effect, tickets: list[Ticket], sent: float) -> None:
        """Make true here what is in the books now."""
        with self.lock:
            kept = keep_allotments(holder.allotment for holder in done.reports)
            try:
                self._take_up(done, tickets, sent)
            except BaseException:
                # As if the answer had been lost: the next report gives back what it granted.
                restore(kept)
                for ticket in tickets:
                    ticket.posted = None
                    ticket.holder.unowned.pop(getattr(ticket.entry, "name", ""), None)
                for holder in done.reports:
                    holder.forfeit()
                raise
            self.record, self.text, self.version = done.record, done.text, version
            self.era = done.record.era
            self.clean, self._lost_at = True, math.inf
        for text in self._ledger.warnings():
            tickets[0].holder.degraded(text)
        for ticket in tickets:
            ticket.end()
        if any(not isinstance(ticket.entry, QUIET) for ticket in tickets):
            self.queue.changes += 1
            self.queue.wake()

    def _take_up(self, done: Effect, tickets: list[Ticket], sent: float) -> None:
        """Take over what was granted (under the lock)."""
        local, books = self.clock.fast(), done.record.books
        for holder, report in done.reports.items():
            holder.lease_until = sent + self._ledger.lease
            holder.gave(report)
        for ticket, posted in zip(tickets, done.posted, strict=True):
            ticket.posted = posted
            if not ticket.heard:
                ticket.holder.news.extend(posted.events)
            ticket.holder.heard(posted)
            if isinstance(ticket.entry, Reserve) and isinstance(posted.verdict, Granted):
                ticket.holder.unowned[ticket.entry.name] = posted.granted
                ticket.holder.allotment.accept(posted.granted, {})
        for holder, posted in done.lanes.items():
            holder.take_up(posted.lanes, local, done.ahead)
            holder.news.extend(posted.events)
        for holder in done.reports:
            holder.told = dict(books.holders.get(holder.name, {}))
        self.born = done.record.born
        # Not as it was *sent*: whoever slept on the way would take that for a jump of theirs.
        self._anchor = Anchor(done.now.slow, done.now.fast, done.now.fast - done.ahead)
        self.beat_at = self.rest_at = math.inf
        if any(holder.idle for holder in self.holders):
            self.rest_at = local + self._ledger.lease * IDLE / 2.0
        if any(holder.holds for holder in self.holders):
            lease = self._ledger.lease
            mine = [(one.allotment.purses, one.terms) for one in self.holders]
            self.beat_at = local + min(
                heard_in(books, purses, done.now, terms, lease) for purses, terms in mine
            )

    def _undo_lost(self) -> None:
        """Give back what was granted to somebody who did not wait for it."""
        for _ in range(len(self.lost)):
            ticket = self.lost.popleft()
            if not ticket.done:
                if ticket in self.tickets:
                    self.lost.append(ticket)
                continue
            undo = None if ticket.posted is None else undoing(ticket.entry, ticket.posted.verdict)
            if undo is not None:
                self.hand_in(ticket.holder, undo, None)
            if isinstance(ticket.entry, Reserve):
                with self.lock:
                    ticket.holder.withdraw(ticket.entry.name)

    # -- what is due without being asked ----------------------------------------

    def tend(self, fast: float) -> float:
        """Do what is due, in the ledger's thread; return when the next is."""
        if self.tickets or self.lost:
            self.serve()
        if fast >= self.beat_at:
            self.beat()
        if fast >= self.rest_at:
            with self.lock:
                rested = self._rested(fast)
            if rested:
                self.beat()
        if not self.queue.busy:
            self.look_at = math.inf
        elif fast >= self.look_at or self.look_at == math.inf:
            if fast >= self.look_at:
                self.look()
            self.look_at = fast + self._ledger.lease * LOOKS
        return min(self.beat_at, self.look_at, self.rest_at)

    def _rested(self, fast: float) -> bool:
        """Whether somebody holds lanes that no call has used for a while (under the lock)."""
        idle = [holder for holder in self.holders if holder.idle]
        self.rest_at = fast + self._ledger.lease * IDLE / 2.0 if idle else math.inf
        rested = [holder.rests(fast, self._ledger.lease * IDLE) for holder in idle]
        return any(rested)

    def give_back(self) -> None:
        """Tell all, and give back what no call has taken.

        Raises:
            LedgerUnavailable: the store cannot be reached, read or written.
        """
        with self.turn:
            self._tell(rest=True)

    def beat(self) -> None:
        """Renew the leases, tell what was spent, and give back what others need or nobody uses."""
        self.beat_at = math.inf
        with self.turn:
            try:
                self._tell(rest=False)
            except Exception as error:  # noqa: BLE001 - the thread goes on
                self._ledger.fault(error)
                self._soon()

    def _tell(self, *, rest: bool) -> None:
        """Tell the books what every holder has; with *rest* give back all that is idle."""
        tickets = []
        for holder in self.holders:
            if holder.holds:
                idle = holder.rests(self.clock.fast(), self._ledger.lease * IDLE)
                entry = Rest() if rest or idle else Touch()
                tickets.append(Ticket(holder, entry, None, heard=False))
        if tickets:
            self._exchange(tickets)

    def look(self) -> None:
        """See whether others have changed the books, for those who wait here."""
        shown: list[Seen] = []
        with self.turn:
            exchange = Exchange(self, self._ledger, [], self._anchor)
            try:
                version = self._ledger.exchange(self.account, self.version, shown.append)
                if shown[-1].text is None:
                    return
                with self.lock:
                    self.record = exchange.read(shown[-1])
                    self.version, self.text = version, shown[-1].text
                    self.clean = True
            except Exception as error:  # noqa: BLE001 - as above
                self._ledger.fault(error)
                return
        self.queue.changes += 1
        self.queue.wake()
