"""What a store keeps of an account: its books, and the clock that they go by.

The clock of a store is not always the same one. A host boots and its clock begins at
nothing; a server's clock is set. So the record says how far the books' clock is from
the store's, and the times in the books go on: *slow* may fall behind, *fast* may not.
"""

from __future__ import annotations

import json
import math
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from quotaguard.errors import LedgerUnavailable
from quotaguard.quota.account import Books
from quotaguard.quota.meter import MeterBooks
from quotaguard.quota.readings import Moment

if TYPE_CHECKING:
    from quotaguard.sharing.store import Seen

__all__ = ["FORMAT", "Anchor", "Illegible", "Record", "Unreadable"]

FORMAT = 1
"""Of the text. Another one is migrated here, or refused."""

JUMP = 1.0
"""Seconds by which a server's clock may leave the way that this host's goes: more is a
jump. A round trip is bounded by the client's timeout of as much."""

DRIFT = 0.001
"""What two good clocks may differ in a second, twice what NTP may slew."""


ERAS = 16
"""That are remembered: who was away for more failovers than these is not believed."""


_write = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


_scalars = attrgetter(*(name for name in MeterBooks.__slots__ if name not in {"samples", "polls"}))


class Unreadable(ValueError):
    """The text is not what this version writes."""


class Illegible(LedgerUnavailable):
    """The record of one account is `Unreadable`: the store is well, and so are the others."""


class Anchor(NamedTuple):
    """The books' clock as a process last knew it, and its own fast clock then."""

    slow: float
    fast: float
    local: float


class Record:
    """The books of an account and their clock.

    slow, fast: seconds from the store's clock to the books'. last: the books' clock at the
    last entry; it never goes back. eras: of the store, the last ones that these books have
    been through. born: names these books; others, or those of a store that has lost writes,
    have another one.
    """

    __slots__ = ("_texts", "books", "born", "born_at", "eras", "fast", "last", "slow", "wall")

    def __init__(self, books: Books, era: str = "") -> None:
        self.books = books
        self._texts: dict[str, tuple[object, str]] = {}
        self.slow = self.fast = 0.0
        self.last = (-math.inf, -math.inf)
        self.wall = -math.inf
        self.eras = [era] if era else []
        self.born, self.born_at = "", 0.0

    @property
    def era(self) -> str:
        """The era of the store at the last entry, "" where it is not known."""
        return self.eras[-1] if self.eras else ""

    def enters(self, era: str) -> None:
        """Go on in the store's era of now."""
        if era not in {"", self.era}:
            self.eras = [*self.eras[1 - ERAS :], era]

    @classmethod
    def new(cls, seen: Seen) -> Record:
        """Open books where there are none: nobody knows what a predecessor has spent."""
        return cls(Books(cold_from=seen.now.slow), seen.era)

    @classmethod
    def read(cls, text: str) -> Record:
        """Return the record that `text` was.

        Raises:
            Unreadable: it is damaged, or a newer program has written it.
        """
        try:
            told = json.loads(text)
            if told["format"] != FORMAT:
                msg = f"its format is {told['format']!r}, this version writes {FORMAT}"
                raise Unreadable(msg)
            state = {**told["books"], "meters": told["meters"]}
            record = cls(Books.of(state))
            record.eras = list(told["eras"])
            record.slow, record.fast, *last, record.wall = told["clock"]
            record.last = (last[0], last[1])
            record.born, record.born_at = told["born"]
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            if isinstance(error, Unreadable):
                raise
            msg = f"it is damaged ({type(error).__name__})"
            raise Unreadable(msg) from None
        return record

    def text(self) -> str:
        """Return the record as the store keeps it: JSON and nothing else."""
        told: dict[str, Any] = {
            "format": FORMAT,
            "eras": self.eras,
            "born": (self.born, self.born_at),
            "clock": (self.slow, self.fast, *self.last, self.wall),
            "books": self.books.state(meters=False),
        }
        meters = ",".join([self._meter(*item) for item in self.books.meters.items()])
        return f'{_write(told)[:-1]},"meters":{{{meters}}}}}'

    def _meter(self, name: str, meter: MeterBooks) -> str:
        """Return the text of one meter; most are as they were in the last entry."""
        numbers = _scalars(meter), meter.samples[:], meter.polls[:]
        kept = self._texts.get(name)
        if kept is None or kept[0] != numbers:
            kept = numbers, f"{_write(name)}:{_write(meter.state())}"
            self._texts[name] = kept
        return kept[1]

    def bear(self, name: str, seen: Seen) -> None:
        """Give the books another name from now on: they are others than they were."""
        self.born, self.born_at = name, self.now(seen).fast

    # -- time -------------------------------------------------------------------

    def begun_anew(self, seen: Seen) -> None:
        """Go on by a clock that has begun anew: this host has booted.

        How long it was down the slow clock does not say, and the fast one takes the wall's
        word. The provider's time was known against the old one. As the last entries may be
        lost with the power, the books are as cold as after a crash.
        """
        slow, fast = self.last
        if slow > -math.inf:
            down = max(0.0, seen.now.wall - self.wall)
            self.slow, self.fast = slow - seen.now.slow, fast + down - seen.now.fast
            self.books.ahead.clear()
            self.books.rates.restart(slow)
            self.books.cold_from = slow

    def behind(self, seen: Seen) -> bool:
        """Whether the clock of this host is before the last entry: it has begun anew.

        Where nothing names the boots of a host, nothing else tells of one. A host that was
        up for longer by then than it was before is not noticed: its clock just goes on.
        """
        return seen.now.slow + self.slow < self.last[0] - JUMP

    def corrected(self, seen: Seen, anchor: Anchor, local: float) -> None:
        """Heed a jump of a server's clock, which this host has seen go since *anchor*.

        Where it jumped forward, *slow* stays behind, and what is known of the provider's
        time is void. Where it jumped back, *fast* goes on.
        """
        gone = local - anchor.local
        apart = JUMP + gone * DRIFT
        over = seen.now.slow + self.slow - (anchor.slow + gone)
        if over > apart:
            self.slow -= over
            self.books.ahead.clear()
        under = anchor.fast + gone - (seen.now.fast + self.fast)
        if under > apart:
            self.fast += under

    def compared(self, seen: Seen) -> None:
        """Heed a jump forward of a server's clock that this host has not seen go before.

        The walls of hosts tell it, roughly: where one is wrong *slow* stays behind for nothing,
        and that only takes longer to heal.
        """
        gone = max(0.0, seen.now.wall - self.wall)
        over = seen.now.slow + self.slow - (self.last[0] + gone)
        if JUMP + gone * DRIFT < over < math.inf:
            self.slow -= over
            self.books.ahead.clear()

    def now(self, seen: Seen) -> Moment:
        """Return the books' time of this entry; it never goes back."""
        slow = max(self.last[0], seen.now.slow + self.slow)
        fast = max(self.last[1], seen.now.fast + self.fast)
        self.last, self.wall = (slow, fast), seen.now.wall
        return Moment(slow, fast, seen.now.wall)
