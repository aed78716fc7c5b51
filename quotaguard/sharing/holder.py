"""A guard's place at shared books: what it holds is spent from memory, under a lease.

    tell     what it has spent and holds, in absolute counts, so that a report that is
             repeated, lost or late does no harm
    give     what no call has taken goes back with the report, or stays for the next calls
    take up  what the books granted, once they are surely written

What was granted in an answer that got lost is in the books and not here: the next
report gives it back. What is not sure to have gone back is not used here any more.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from quotaguard.quota.allotment import Allotment, Lane, Tally
from quotaguard.quota.entries import Blocked, Pause, Reserve
from quotaguard.quota.events import Degraded
from quotaguard.quota.leases import demand
from quotaguard.quota.snapshot import keep_allotments, restore
from quotaguard.quota.verdicts import Granted, Spent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quotaguard.ledgers import Denial, Waiter, WaitingLine
    from quotaguard.quota.account import Books, Entry, Posted, Terms
    from quotaguard.quota.allotment import Purse
    from quotaguard.quota.events import Event
    from quotaguard.quota.readings import Moment
    from quotaguard.sharing.account import SharedAccount
    from quotaguard.sharing.exchange import Ticket

__all__ = ["Report", "SharedHolder"]

DENIES_FOR = 0.5
DENIES_MOST = 4.0
"""Seconds that a refusal is remembered: other processes may give back, poll or record. One
that was true again and again is remembered for as long as it has been: of a quota that is
spent, hundreds of processes must not ask twice a second for the rest of its month."""


class Report:
    """What a holder told the books, to be made true here when they are written.

    giving: units by meter that go back. lost: units that the books had granted in an
    answer that never came. late: units of calls that ended before the books heard of them;
    as a poll may have seen them first, and taken them for others', they are told as unknown.
    """

    __slots__ = ("giving", "late", "lost", "tallies")

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self.giving: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.late: dict[str, int] = {}


class SharedHolder:
    """One guard's place at shared books. Everything here is read and changed under *lock*."""

    waits = True

    def __init__(self, account: SharedAccount, terms: Terms, name: str) -> None:
        self._account = account
        self.terms = terms
        self.late = terms.late
        self.epoch = 0
        self.denials: dict[tuple[str, str], Denial] = {}
        self.unowned: dict[str, Mapping[str, int]] = {}
        self.forgotten: deque[tuple[int, Mapping[str, int]]] = deque()
        self.news: deque[Event] = deque()
        self.restart(name)

    def restart(self, name: str) -> None:
        """Begin without an allotment, under another name; what was reserved before is void."""
        self.name = name
        self.epoch += 1
        self.allotment = Allotment()
        self.denials.clear()
        self.unowned.clear()
        self.lease_until = -math.inf
        self.told: dict[str, Tally] = {}
        self.lent: dict[str, int] = {}
        self.doubt = False
        self.drawn_at = -math.inf
        self.refused_at = math.inf
        self._taken: tuple[int, ...] = ()
        self._taken_at = -math.inf
        self.lock = self._account.lock
        self.queue: WaitingLine = self._account.queue
        self.polling_loops = self._account.polling_loops

    # -- what a guard asks of it ------------------------------------------------

    @property
    def books(self) -> Books:
        """The books as last seen, for reading under the lock."""
        return self._account.record.books

    @property
    def denies_for(self) -> float:
        """Seconds that a refusal is remembered."""
        refused = self._account.clock.fast() - self.refused_at
        return max(DENIES_FOR, min(DENIES_MOST, refused))

    @property
    def fresh(self) -> bool:
        """Whether the books, where they are out of reach, were seen shortly before that."""
        return self._account.fresh

    def moment(self) -> Moment:
        """Return what time it is for the books, as far as this process knows."""
        return self._account.moment()

    def post(self, entry: Entry) -> Posted:
        """Report the holder's counts, apply *entry*, take over what it grants.

        Raises:
            LedgerUnavailable: the store cannot be reached, read or written.
        """
        return self._account.post(self, entry)

    def hand_in(self, entry: Entry, waiter: Waiter | None = None) -> Ticket:
        """Let the ledger's thread post *entry*; *waiter* is woken when that is done."""
        if isinstance(entry, Blocked | Pause):
            with self.lock:
                self._halt()
        return self._account.hand_in(self, entry, waiter)

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for *ticket* any more; takes no lock, see `SharedAccount.drop`."""
        self._account.drop(ticket)

    def attend(self) -> None:
        """Somebody waits for the books to change: look whether others change them."""
        self._account.attend()

    def from_lanes(self, entry: Reserve) -> bool:
        """Grant *entry* from the lanes, if they cover it; stopped half way it is not."""
        with self.lock:
            kept = keep_allotments([self.allotment])
            try:
                took = self.allotment.take(entry.cost, entry.priority, self._account.clock.fast())
                if took:
                    self.unowned[entry.name] = entry.cost
            except BaseException:
                restore(kept)
                raise
        return took

    def seen(self) -> Books | None:
        """Return books to try things on, as they are if this holder tells all and gives back."""
        self.freshen()
        if not self._account.version:
            return None
        with self.lock:
            books = self.books.copy()
            tallies = {
                name: Tally(purse.drawn, purse.drawn - purse.opened, purse.spent, purse.unknown)
                for name, purse in self.allotment.purses.items()
            }
            books.absorb(self.name, tallies, self.moment(), self.terms)
            return books

    def freshen(self) -> None:
        """Have the books read again, unless that was done just now."""
        self._account.freshen(self)

    def lend(self, name: str, cost: Mapping[str, int]) -> None:
        """Let a call go that the books do not know of; they hear of it when they are back."""
        self.allotment.accept(cost, {})
        self.unowned[name] = cost
        for meter, count in cost.items():
            self.lent[meter] = self.lent.get(meter, 0) + count

    def degraded(self, reason: str) -> None:
        """Tell what is wrong with the store, to whoever posts next."""
        provider, account = self.terms.provider, self.terms.account
        told = Degraded(provider=provider, account=account, state="ledger", reason=reason)
        self.news.append(told)

    def _halt(self) -> None:
        """Let the next call ask the books, which know more than the lanes by then."""
        for purse in self.allotment.purses.values():
            purse.end = -math.inf

    # -- reporting (under the lock) ---------------------------------------------

    def forget(self, now: Moment) -> None:
        """Give up what finalizers left notes of."""
        for _ in range(len(self.forgotten)):
            epoch, cost = self.forgotten[0]
            lapses = self.allotment.lapses
            if epoch == self.epoch:
                lapses = self.allotment.given_up(cost, now.slow + self.late)
            self.allotment.lapses = lapses  # in one run with what follows: Ctrl-C cannot part them
            del self.forgotten[0]

    def report(self, books: Books, now: Moment, *, giving: bool, ahead: float) -> Report:
        """Return what is to be told, and close the lanes where what is idle goes back.

        now: this process's clock. ahead: seconds from its slow clock to the books'.
        """
        report = Report()
        known = books.holders.get(self.name, {})
        self._lapse(now)
        for name, purse in self.allotment.purses.items():
            idle = purse.drawn - purse.cleared - purse.opened
            lost = max(0, known[name].drawn - purse.drawn) if name in known else 0
            if giving:
                self._park(purse)
                report.giving[name] = idle
            report.lost[name] = lost
            before = self.told[name].spent if name in self.told else 0
            late = report.late[name] = min(self.lent.get(name, 0), purse.spent - before)
            gone = purse.cleared + lost + (idle if giving else 0)
            at = min(purse.at, now.slow) + ahead
            left = 0 if giving else idle
            report.tallies[name] = Tally(
                purse.drawn + lost, gone, purse.spent, purse.unknown + late, at, left
            )
        for name, tally in known.items():
            if name not in report.tallies:
                report.lost[name] = tally.drawn
                report.tallies[name] = Tally(tally.drawn, tally.drawn, 0, 0, now.slow + ahead)
        return report

    def _lapse(self, now: Moment) -> None:
        """Count as spent what can no longer be charged, or, stopped half way, nothing."""
        if self.allotment.lapses:
            kept = keep_allotments([self.allotment])
            try:
                self.allotment.lapse(now)
            except BaseException:
                restore(kept)
                raise

    def _park(self, purse: Purse) -> None:
        if purse.parked is None:
            purse.parked = purse.end
        purse.end = -math.inf

    def gave(self, report: Report) -> None:
        """What was reported is in the books."""
        self.lent.clear()
        self.doubt = False
        for name, units in report.giving.items():
            purse = self.allotment.purse(name)
            purse.cleared += units
            purse.parked = None
        for name, units in report.late.items():
            self.allotment.purse(name).unknown += units
        for name, units in report.lost.items():
            purse = self.allotment.purse(name)
            purse.drawn += units
            purse.cleared += units

    def kept(self) -> None:
        """Nothing was written: go on with what is in hand."""
        for purse in self.allotment.purses.values():
            if purse.parked is not None:
                purse.end, purse.parked = purse.parked, None

    def lapsed(self, name: str) -> None:
        """The books have forgotten this holder: its lease is over. Go on under another name.

        If it held anything, all of that counts as spent by now: what is open is void. What
        it never heard that the books have heard is told anew. As they may have, of an answer
        that was lost, it is told as unknown: a reading shows whether it was counted twice.
        """
        before, told, lent = self.allotment, self.told, self.lent
        if self.held:
            self.restart(name)
            for meter, purse in before.purses.items():
                last = told.get(meter, Tally())
                # A call that went while they were out of reach, they never heard of.
                lost = min(lent.get(meter, 0), purse.opened)
                spent = purse.spent - last.spent + lost
                if spent > 0:
                    self.allotment.record({meter: spent}, purse.at)
                    # Part of it may be in what they gave up: the next reading knows.
                    self.allotment.purse(meter).unknown = spent
            return
        self.name, self.told = name, {}
        for meter, tally in told.items():
            purse = before.purse(meter)
            purse.drawn -= tally.drawn
            purse.cleared -= tally.cleared
            purse.spent -= tally.spent
            purse.unknown = purse.spent if self.doubt else purse.unknown - tally.unknown

    def tell_anew(self) -> None:
        """Tell all as unknown: books that went back to before a lease count some of it."""
        for purse in self.allotment.purses.values():
            purse.unknown = purse.spent

    def withdraw(self, name: str) -> None:
        """Take back what was granted under *name*, unless its owner has it."""
        granted = self.unowned.pop(name, None)
        if granted is not None:
            self.allotment.settle(granted, {})

    def forfeit(self) -> None:
        """What was on its way back may have arrived there: do not use it, and give it again."""
        self.doubt = True
        for purse in self.allotment.purses.values():
            if purse.parked is not None:
                purse.parked = None
                purse.taken, purse.end = 0, -math.inf

    def heard(self, posted: Posted) -> None:
        """Note whether a call may go, and since when none may."""
        if isinstance(posted.verdict, Granted):
            self.refused_at = math.inf
        elif isinstance(posted.verdict, Spent):
            self.refused_at = min(self.refused_at, self._account.clock.fast())

    def take_up(self, lanes: Mapping[str, Lane], fast: float, ahead: float) -> None:
        """Open the lanes that the books granted; *ahead*: from this fast clock to theirs."""
        here = {
            name: Lane(
                lane.units, lane.room, min(lane.end - ahead, self.lease_until), lane.headroom
            )
            for name, lane in lanes.items()
        }
        for purse in self.allotment.purses.values():
            purse.taken = 0
        self.allotment.accept({}, here)
        self.drawn_at = fast
        self.rests(fast, math.inf)

    # -- demand -----------------------------------------------------------------

    def wanted(self, calls: Mapping[str, int], fast: float) -> dict[str, int]:
        """Return the units of each meter that this holder will soon take; see `demand`.

        calls: units that are asked for right now.
        """
        return demand(self.allotment.purses, calls, fast - self.drawn_at)

    def rests(self, fast: float, seconds: float) -> bool:
        """Whether it holds lanes from which no call has taken anything for so long."""
        taken = tuple(purse.taken for purse in self.allotment.purses.values())
        if taken != self._taken or not self.idle:
            self._taken, self._taken_at = taken, fast
        return fast - self._taken_at >= seconds

    @property
    def idle(self) -> bool:
        """Whether it holds units that are in no call."""
        purses = self.allotment.purses.values()
        return any(purse.drawn - purse.cleared > purse.opened for purse in purses)

    @property
    def held(self) -> bool:
        """Whether it held anything when the books last heard of it."""
        return any(tally.drawn != tally.cleared for tally in self.told.values())

    @property
    def holds(self) -> bool:
        """Whether the books must hear of it again: it holds something, or has not told all."""
        for name, purse in self.allotment.purses.items():
            told = self.told.get(name)
            if purse.drawn != purse.cleared or told is None:
                return True
            if told.drawn != told.cleared or purse.spent != told.spent:
                return True
        return bool(self.forgotten)
