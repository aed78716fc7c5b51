"""One exchange with the store: what the tickets that wait make of an account's record.

It changes the books that it is shown and nothing else. What follows from that in this
process (`Effect`) is made true once the store has written it, and only then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

from quotaguard.errors import LedgerUnavailable
from quotaguard.quota.account import Posted
from quotaguard.quota.entries import Abandon, Check, Draw, GiveBack, Reserve, Rest, Touch
from quotaguard.quota.leases import distrust, lacks, tend
from quotaguard.quota.readings import Moment
from quotaguard.quota.verdicts import Due, Later, Verdict
from quotaguard.sharing.holder import Report, SharedHolder
from quotaguard.sharing.record import Anchor, Illegible, Record, Unreadable
from quotaguard.sharing.store import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quotaguard.ledgers import Waiter
    from quotaguard.quota.account import Entry
    from quotaguard.sharing.account import SharedAccount
    from quotaguard.sharing.ledger import SharedLedger
    from quotaguard.sharing.store import Seen

__all__ = ["Effect", "Exchange", "Ticket", "undoing"]


NEAR = 1.0 / 15.0
"""Of the lease, at its end: two hosts may not agree whether it has come."""


class Ticket:
    """An entry on its way to the store, and what came of it."""

    __slots__ = ("done", "entry", "error", "heard", "holder", "posted", "waiter")

    def __init__(
        self, holder: SharedHolder, entry: Entry, waiter: Waiter | None, *, heard: bool = True
    ) -> None:
        """*heard*: somebody wants to know what came of it."""
        self.holder, self.entry, self.waiter, self.heard = holder, entry, waiter, heard
        self.posted: Posted | None = None
        self.error: LedgerUnavailable | None = None
        self.done = False

    @property
    def keeps(self) -> bool:
        """Whether it leaves the holder's lanes as they are: nothing is decided that needs them."""
        return self.entry.__class__ is Touch

    def end(self, error: LedgerUnavailable | None = None) -> None:
        """Tell whoever waits that it is over."""
        self.error = error
        self.done = True
        if self.waiter is not None:
            self.waiter.wake()

    def result(self) -> Posted:
        """Return what the books answered.

        Raises:
            LedgerUnavailable: they could not be reached, read or written.
        """
        if self.error is not None:
            # Others are told of the same fault: each raises an error of its own.
            error = self.error
            raise LedgerUnavailable(
                error.args[0], store=error.store, unsure=error.unsure
            ) from error.__cause__
        assert self.posted is not None  # noqa: S101 - whoever is done has one of both
        return self.posted


class Effect(NamedTuple):
    """What a draft of the record does in this process, once it is written."""

    record: Record
    text: str
    now: Moment
    reports: dict[SharedHolder, Report]
    posted: list[Posted]
    lanes: dict[SharedHolder, Posted]
    ahead: float


class Exchange:
    """What *tickets* make of the record, however often the store shows it."""

    def __init__(
        self,
        account: SharedAccount,
        ledger: SharedLedger,
        tickets: Sequence[Ticket],
        anchor: Anchor | None,
    ) -> None:
        self._account, self._ledger, self.tickets = account, ledger, tickets
        self._anchor = anchor
        self._clean = account.clean
        self._texts = {account.version: account.text}
        self.effects: dict[str, Effect] = {}
        self.withheld: float | None = None

    def turn(self, seen: Seen) -> Draft:
        """Make of the record what the tickets ask for. It may be called again."""
        record = self.read(seen)
        local = self._ledger.clock.now()
        if self._ledger.store.remote:
            if self._anchor is None:
                record.compared(seen)
            else:
                record.corrected(seen, self._anchor, local.fast)
        now = record.now(seen)
        with self._account.lock:
            reports, posted, lanes = self._apply(record, now, local)
        text, version = record.text(), self._ledger.version()
        ahead = now.fast - local.fast
        self.effects[version] = Effect(record, text, now, reports, posted, lanes, ahead)
        return Draft(version, text)

    def read(self, seen: Seen) -> Record:
        """Return the record that the store has, and heed what became of the store.

        Raises:
            LedgerUnavailable: nobody can read it.
        """
        store = self._ledger.store
        try:
            if seen.text is not None:
                record = Record.read(seen.text)
            elif not seen.version:
                record = Record.new(seen)
                record.bear(self._ledger.version(), seen)
            elif self._clean and seen.version == self._account.version:
                record = self._account.record
            else:
                record = Record.read(self._texts[seen.version])
        except Unreadable as error:
            msg = (
                f"the books of an account in {store.name} cannot be read: {error}. "
                "Use the version that wrote them, or remove the record: "
                "the next poll opens new books"
            )
            raise Illegible(msg, store=store.name) from None
        # From here on it is changed, and only the text says what it was.
        self._clean = self._account.clean = False
        if seen.text is not None:
            self._texts[seen.version] = seen.text
        self._heed(record, seen)
        return record

    def _heed(self, record: Record, seen: Seen) -> None:
        """Heed that the store's clock began anew, or that it may have lost writes.

        It has where it shows books of another era, and also where these have never been in
        the one in which this process left them: it is a server that missed all of that.
        """
        mine = [holder for holder in self._account.holders if holder.told]
        lost = bool(mine) and not seen.version
        if record.era != seen.era and record.era and seen.era:
            if self._ledger.store.remote:
                lost = True
            else:
                record.begun_anew(seen)
        elif not self._ledger.store.remote and record.behind(seen):
            record.begun_anew(seen)
        record.enters(seen.era)
        if self._ledger.store.remote and self._account.era and seen.era:
            lost = lost or self._account.era not in record.eras
        if lost:
            record.bear(self._ledger.version(), seen)
            for holder in self._account.holders:
                self._distrust(record, record.now(seen), holder)

    def _distrust(self, record: Record, now: Moment, holder: SharedHolder) -> None:
        before = record.books.distrusted
        distrust(record.books, now, holder.terms, self._ledger.lease, since=record.born_at)
        if before is None and record.books.distrusted is not None:
            self.withheld = record.books.distrusted - now.fast

    def _apply(
        self, record: Record, now: Moment, local: Moment
    ) -> tuple[dict[SharedHolder, Report], list[Posted], dict[SharedHolder, Posted]]:
        """Enter the reports and the entries in the books (under the lock)."""
        books, ahead = record.books, now.slow - local.slow
        reports, wanted = {}, {}
        for holder in {ticket.holder: None for ticket in self.tickets}:
            mine = [ticket for ticket in self.tickets if ticket.holder is holder]
            giving = now.fast < books.recalled or not all(ticket.keeps for ticket in mine)
            giving = giving or holder.doubt
            holder.forget(local)
            self._present(holder, record, local, now)
            if giving and not all(isinstance(ticket.entry, Rest) for ticket in mine):
                wanted[holder] = holder.wanted(_asked(mine), local.fast)
            reports[holder] = holder.report(books, local, giving=giving, ahead=ahead)
            tend(books, holder.name, now, holder.terms, self._ledger.lease)
            books.absorb(holder.name, reports[holder].tallies, now, holder.terms)
        posted = []
        for ticket in self.tickets:
            entry = ticket.entry
            if isinstance(entry, Reserve | Check) and entry.lanes is not None:
                ticket.entry = entry = replace(entry, lanes=None)  # all lanes are drawn at once
            holder = ticket.holder
            posted.append(books.post(holder.name, {}, entry, now, holder.terms))
        lanes = {
            holder: books.post(holder.name, {}, Draw(names), now, holder.terms)
            for holder, names in wanted.items()
        }
        return reports, posted, lanes

    def _present(self, holder: SharedHolder, record: Record, local: Moment, now: Moment) -> None:
        """See whether the books still know *holder*.

        They forget one whose lease is over, by their clock, which is the fastest of all hosts:
        it goes on under another name. Other books than those that it knew have lost what it
        tells them anew, and not that alone; so have those that know less of it than it told.
        """
        if not holder.told:
            return
        known = record.books.holders.get(holder.name)
        if known is not None:
            if lacks(known, holder.told):
                record.born, record.born_at = self._ledger.version(), now.fast
                self._distrust(record, now, holder)
            return
        lease, left = self._ledger.lease, holder.lease_until - local.fast
        same = record.born == self._account.born
        if not same:
            self._distrust(record, now, holder)
        if same or left <= 0.0 or (left < lease * NEAR and not holder.held):
            holder.lapsed(self._account.new_name())
            return
        holder.tell_anew()


def _asked(tickets: list[Ticket]) -> dict[str, int]:
    """Return the units that calls ask for now, by meter."""
    asked: dict[str, int] = {}
    for ticket in tickets:
        if isinstance(ticket.entry, Reserve | Check):
            for name, count in ticket.entry.cost.items():
                asked[name] = asked.get(name, 0) + count
    return asked


def undoing(entry: Entry, verdict: Verdict) -> Entry | None:
    """Return what takes back a verdict that nobody heard."""
    if isinstance(verdict, Due):
        return Abandon(verdict.claim)
    if isinstance(verdict, Later) and verdict.slot is not None:
        reserve = cast("Reserve", entry)
        meter = verdict.facts.meter
        return GiveBack(reserve.priority, verdict.slot, {meter: reserve.cost.get(meter, 0)})
    return None
