"""Ledgers: where the books of accounts are kept. One file each, no sibling known.

A ledger gives every guard a holder: its place at the books of one account. The
entry arithmetic is in `quotaguard.quota` and exists once; a ledger only makes it
atomic and durable, with one reading of its clock per entry.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from quotaguard.errors import Refusal, RefusalFacts
from quotaguard.quota.account import Books, Entry, Posted, Terms
from quotaguard.quota.allotment import Allotment
from quotaguard.quota.entries import Reserve
from quotaguard.quota.events import Event
from quotaguard.quota.readings import Moment

__all__ = ["Denial", "Holder", "Ledger", "Place", "Ticket", "Waiter", "WaitingLine"]


Place = tuple[float, int]
"""A place in line: the less of the budget line, the better; then first come."""


class Waiter(Protocol):
    """Somebody who waits for the books to change."""

    def wake(self) -> bool:
        """Go and look again; False if nobody is there any more. From any thread."""


class Denial(NamedTuple):
    """A refusal that stays true until *until*, or until the books change.

    It is for calls of exactly *units* that wait at most *max_wait* seconds.
    """

    units: int
    max_wait: float
    until: float
    refusal: type[Refusal]
    facts: RefusalFacts
    changes: int = 0


class Holder(Protocol):
    """One guard's place at the books of an account, in this process.

    lock: guards *allotment* and *denials*, and is held for a few microseconds.
    epoch: changes when the process forks; what was reserved before is void then.
    unowned: what was granted to a reservation, by its name, until that takes it over:
        a caller who is stopped in between finds it there.
    waits: whether `post` asks a store, which may take long: an event loop uses `hand_in`.
    lease_until: this process's fast clock, up to which what is held may be spent.
    lent: units that calls took while the store could not be reached.
    news: events that nobody's call has caused.
    forgotten: what reservations held that nobody ended, for the next post. Filled
        by finalizers, which may run anywhere and so must not take the lock.
    polling_loops: threads whose event loop carries out a poll.
    """

    name: str
    lock: threading.Lock
    allotment: Allotment
    denials: dict[tuple[str, str], Denial]
    epoch: int
    polling_loops: list[int]
    queue: WaitingLine
    unowned: dict[str, Mapping[str, int]]
    forgotten: deque[tuple[int, Mapping[str, int]]]
    waits: bool
    lease_until: float
    lent: dict[str, int]
    news: deque[Event]

    @property
    def denies_for(self) -> float:
        """Seconds that a refusal may be remembered."""

    @property
    def fresh(self) -> bool:
        """Whether the books, where they are out of reach, were seen shortly before that."""

    @property
    def books(self) -> Books:
        """The books as last seen, for reading under the lock."""

    def post(self, entry: Entry) -> Posted:
        """Report the holder's counts, apply *entry*, take over what it grants.

        It does all of that or, stopped half way (Ctrl-C), nothing.

        Raises:
            LedgerUnavailable: the store cannot be reached.
        """

    def hand_in(self, entry: Entry, waiter: Waiter | None = None) -> Ticket:
        """Let the ledger's thread post *entry*; *waiter* is woken when that is done."""

    def drop(self, ticket: Any) -> None:  # noqa: ANN401 - what its own hand_in returned
        """Nobody waits for *ticket* any more. From anywhere; takes no lock."""

    def from_lanes(self, entry: Reserve) -> bool:
        """Grant *entry* from the lanes, if they cover it and a store would be asked else."""

    def seen(self) -> Books | None:
        """Return books to try things on, as they are if this holder gives back its lanes.

        None if they were never read. It is for event loops, and has them read again soon.
        """

    def freshen(self) -> None:
        """Have the books read again, unless that was done just now."""

    def attend(self) -> None:
        """Somebody waits for the books to change: look whether other processes do that."""

    def lend(self, name: str, cost: Mapping[str, int]) -> None:
        """Let a call go that the books do not know of (under the lock)."""

    def moment(self) -> Moment:
        """Return what time it is for the books."""


class Ticket(Protocol):
    """An entry on its way to a store."""

    def result(self) -> Posted:
        """Return what the books answered.

        Raises:
            LedgerUnavailable: the store cannot be reached.
        """


class WaitingLine(Protocol):
    """Those who wait, best priority first, first come first.

    changes: counts what may have given somebody more; one who looks at the books
    notes it first, so that no change between the look and the wait is missed.
    busy: the places that are taken; false where nobody waits.
    """

    changes: int
    busy: list[Place]

    def stand(self, place: Place, meters: frozenset[str], waiter: Waiter | None) -> None:
        """Stand in line: asleep with a *waiter*, or awake and asking the books."""

    def leave(self, place: Place) -> None:
        """Stop waiting; whoever is not in line is not missed."""

    def wake(self, *, after: Place | None = None, but: frozenset[str] | None = None) -> None:
        """Wake the first in line, or the first behind *after* of other meters than *but*.

        One who is awake already passes the news on when it has asked.
        """


class Ledger(Protocol):
    """Where the books of accounts are kept."""

    def holder(self, terms: Terms) -> Holder:
        """Return the place of a guard with these terms at its account's books."""

    def close(self) -> None:
        """Give back what is held and close the store."""
