"""Shared books in a test: a store in memory that fails as it is told, and processes at it.

No thread starts by itself: a test lets each process's ledger do what is due.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from quotaguard import FullContact, Guard, Policy
from quotaguard.errors import LedgerUnavailable
from quotaguard.quota.account import Books
from quotaguard.quota.readings import Moment, Period, Reading, Usage
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.record import Record
from quotaguard.sharing.store import Draft, Seen, Turn
from quotaguard.testing import FakeClock

__all__ = [
    "ENRICH",
    "FOUND",
    "LAG",
    "LATE",
    "MATCHES",
    "TOTAL",
    "Process",
    "Provider",
    "Shelf",
    "shared",
]

MATCHES, MISSES, TOTAL = (f"person.enrichment.{part}" for part in ("matches", "misses", "total"))
ENRICH = {MATCHES: 1, MISSES: 1, TOTAL: 1}
FOUND = {MATCHES: 1, TOTAL: 1}
LAG = LATE = 10.0


class Shelf:
    """A store in memory, of many processes.

    faults: what becomes of the next exchanges: ``down`` writes nothing and says so,
        ``lost`` writes and does not know it, ``gone`` does not write and does not know
        it, ``again`` finds that somebody was faster, once.
    """

    def __init__(self, clock: FakeClock, *, remote: bool = False) -> None:
        self.clock, self.remote = clock, remote
        self.name = "shelf"
        self.era = "1"
        self.records: dict[str, Draft] = {}
        self.faults: deque[str] = deque()
        self.before: Callable[[], object] = lambda: None
        self.exchanges = self.closed = 0
        self._lock = threading.Lock()

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Put in the place of an account's record what *turn* makes of it."""
        self.before()
        with self._lock:
            self.exchanges += 1
            fault = self.faults.popleft() if self.faults else ""
            if fault == "down":
                raise LedgerUnavailable("shelf: it is down", store=self.name)
            draft = turn(self._seen(account, known))
            if fault == "again":
                draft = turn(self._seen(account, known))
            if draft is not None and fault != "gone":
                self.records[account] = draft
            if fault in {"lost", "gone"}:
                raise LedgerUnavailable("shelf: silence", store=self.name, unsure=True)
            return self._seen(account, known).version

    def _seen(self, account: str, known: str) -> Seen:
        now, found = self.clock.now(), self.records.get(account)
        if found is None:
            return Seen("", None, now, self.era)
        text = None if found.version == known else found.text
        return Seen(found.version, text, now, self.era)

    def forked(self) -> None:
        """Nothing is inherited."""

    def before_fork(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""
        self.closed += 1

    def books(self, account: str) -> Books:
        """Return the books as they are now."""
        return Record.read(self.records[account].text).books


class Nobody:
    """Stands for a ledger's thread: what is due is done by the test."""

    asked = 0.0

    def attend(self, at: float) -> None:
        """Note it."""
        self.asked = at

    def keep(self) -> None:
        """The test does."""

    def stop(self) -> None:
        """Nothing runs."""


class Provider:
    """What the provider knows: charges and when they were made. Its stats lag."""

    def __init__(self, clock: FakeClock, quota: int) -> None:
        self.clock, self.quota = clock, quota
        self.charges: list[tuple[float, int]] = []
        self.lag = 0.0
        now = clock.now().wall
        self.period = Period(now - 1000.0, now + 10_000_000.0)
        self.fails: Exception | None = None

    def charge(self, units: int = 1, later: float = 0.0) -> None:
        """Charge a call, now or *later*."""
        self.charges.append((self.clock.slow() + later, units))

    @property
    def true(self) -> int:
        """Units that are or will be charged."""
        return sum(units for _, units in self.charges)

    def fetch(self, _wall: float = 0.0) -> Reading:
        """Answer a poll."""
        if self.fails is not None:
            raise self.fails
        until = self.clock.slow() - self.lag
        seen = sum(units for at, units in self.charges if at <= until)
        usages = {MATCHES: Usage(seen, self.quota), MISSES: Usage(0, None), TOTAL: Usage(0, None)}
        return Reading(usages, self.period)

    async def afetch(self, wall: float = 0.0) -> Reading:
        """Answer a poll."""
        return self.fetch(wall)

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""


def shared(shelf: Any, clock: FakeClock, lease: float = 30.0) -> SharedLedger:
    """Return a ledger over *shelf* whose thread is the test."""
    ledger = SharedLedger(shelf, lease=lease, clock=clock)
    ledger._thread = Nobody()  # type: ignore[assignment] # it attends
    return ledger


class Process:
    """One process: a ledger over *shelf*, and a guard on it."""

    def __init__(self, shelf: Any, provider: Provider, **settings: Any) -> None:
        self.shelf, self.provider, self.settings = shelf, provider, settings
        self.clock = provider.clock
        self.start()

    def start(self) -> None:
        """Begin, with nothing in hand."""
        self.ledger = shared(self.shelf, self.clock)
        self.guard = self.join(**self.settings)
        self.holder: Any = self.guard._spending.holder

    def join(self, **settings: Any) -> Guard:
        """Return another guard of the same account, in this process."""
        policy = {"lag": LAG, "late": LATE, "cold_reserve": 0, "warn_at": (), **settings}
        listeners = policy.pop("listeners", ())
        guard = Guard(
            FullContact("key"),
            ledger=self.ledger,
            clock=self.clock,
            policy=Policy(**policy),
            listeners=listeners,
        )
        guard._spending.stats = self.provider  # type: ignore[assignment] # it fetches
        return guard

    @property
    def account(self) -> Any:
        """The account's books as this process knows them."""
        return self.holder._account

    @property
    def books(self) -> Books:
        """The books in the store."""
        return self.shelf.books(self.guard._spending.terms.account)  # type: ignore[no-any-return]

    def purse(self, meter: str = MATCHES) -> Any:
        """Return what this process holds of a meter."""
        return self.holder.allotment.purse(meter)

    def tend(self) -> None:
        """Do what its thread would do now."""
        self.ledger.tend()

    def reserve(self, count: int = 1, **settings: Any) -> Any:
        """Return an open reservation of *count* matches."""
        settings = {"priority": "critical", "max_wait": 0, **settings}
        return self.guard.reserve({MATCHES: count}, **settings).open()

    def spend(self, count: int = 1, **settings: Any) -> None:
        """Make a call that costs *count*."""
        reservation = self.reserve(count, **settings)
        self.provider.charge(count)
        reservation.settle({MATCHES: count})


def moment(slow: float, fast: float | None = None, wall: float = 1_700_000_000.0) -> Moment:
    """Return a moment."""
    return Moment(slow, slow if fast is None else fast, wall)
