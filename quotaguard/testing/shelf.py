"""A store of texts in memory: what SQLite and Redis do for the shared books, and their faults.

It obeys `quotaguard.sharing.store.Store`. It may be out of reach, lose an answer, or lose
what it had acknowledged, as a replica does that is promoted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from quotaguard.errors import LedgerUnavailable
from quotaguard.sharing.store import Draft, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from quotaguard.quota.readings import Moment
    from quotaguard.sharing.store import Turn

__all__ = ["Desk", "Shelf"]

REMEMBERED = 16.0
"""Seconds of writes that can be lost."""


class _Entry(NamedTuple):
    at: float
    draft: Draft


class Shelf:
    """Texts, and the server that has them.

    now: the server's clock. remote: see `Store`. era: see `Seen`.
    down: nobody can reach it. muted: it writes, and its answers are lost.
    trips: exchanges that were tried.
    """

    def __init__(self, now: Callable[[], Moment], *, remote: bool) -> None:
        self.now = now
        self.remote = remote
        self.era = "1"
        self.down = self.muted = False
        self.trips = 0
        self._texts: dict[str, deque[_Entry]] = {}

    def lose(self, seconds: float) -> None:
        """Forget the writes of the last *seconds*: another server goes on, without them."""
        since = self.now().fast - seconds
        for entries in self._texts.values():
            while entries and entries[-1].at > since:
                entries.pop()
        self.era = f"{int(self.era) + 1}"

    def read(self, account: str) -> Draft:
        """Return the text of an account and its version, "" and "" for none."""
        entries = self._texts.get(account)
        return entries[-1].draft if entries else Draft("", "")

    def write(self, account: str, draft: Draft) -> None:
        """Put a text in the place of the last."""
        entries = self._texts.setdefault(account, deque())
        at = self.now().fast
        entries.append(_Entry(at, draft))
        while len(entries) > 1 and entries[1].at < at - REMEMBERED:
            entries.popleft()


class Desk:
    """One process's way to a shelf: a `Store`.

    between: called after a process has seen a record and before its draft is written, and
        once more when that is done: others may go on there.
    """

    name = "a shelf"

    def __init__(self, shelf: Shelf, between: Callable[[], None]) -> None:
        self._shelf = shelf
        self._between = between
        self.remote = shelf.remote

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Put in the place of an account's record what *turn* makes of it, if it is still that.

        Raises:
            LedgerUnavailable: it is down, or its answer was lost.
        """
        shelf = self._shelf
        shelf.trips += 1
        while True:
            if shelf.down:
                raise LedgerUnavailable("it does not answer", store=self.name)
            version, text = shelf.read(account)
            told = None if not version or version == known else text
            era = shelf.era
            draft = turn(Seen(version, told, shelf.now(), era))
            self._between()
            if draft is None:
                return version
            if shelf.down:
                raise LedgerUnavailable("it does not answer", store=self.name)
            if (version, era) == (shelf.read(account).version, shelf.era):
                break
            known = version
        shelf.write(account, draft)
        self._between()
        if shelf.muted:
            raise LedgerUnavailable("its answer was lost", store=self.name, unsure=True)
        return draft.version

    def forked(self) -> None:
        """Nothing is connected."""

    def close(self) -> None:
        """Nothing is open."""
