"""What a store of shared books must do: keep one text per account, and swap it whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from quotaguard.quota.readings import Moment

__all__ = ["Draft", "Seen", "Store", "Turn"]


class Seen(NamedTuple):
    """The record of an account as the store has it, and the store's time.

    version: names the text; "" where there is no record. No two texts of an account ever
        have the same, not even where writes were lost.
    text: None where there is no record, or where the caller knows this version already.
    now: *slow* is a time of the store's clock that has surely come, *fast* one that has
        perhaps not; the two clocks of this host where the store is on it. *wall* is
        this host's Unix time.
    era: changes when the store's clock begins anew or the store may have lost what it had
        acknowledged: the id of a boot, or of a server's replication. "" is unknown.
    """

    version: str
    text: str | None
    now: Moment
    era: str


class Draft(NamedTuple):
    """A new text, and the version that its author gives it."""

    version: str
    text: str


Turn = Callable[[Seen], Draft | None]
"""What is to be made of a record; None: it was only looked at.

It may be called again, with what is there by then, and changes nothing but what it returns.
"""


class Store(Protocol):
    """Where records are kept. Used by one thread at a time.

    name: for people, such as ``sqlite /var/lib/app/quota.db``; never a password.
    remote: its clock is not this host's, and it may lose what it has acknowledged.
    """

    name: str
    remote: bool

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Put in the place of an account's record what *turn* makes of it, atomically.

        known: the version of the text that the caller still has, "" for none.

        Returns the version of the draft that was written; what *turn* was shown last
        where it gave none.

        Raises:
            LedgerUnavailable: nothing was written; with *unsure* it may have been.
        """

    def forked(self) -> None:
        """Begin anew in a child; the parent's connection is left as it is, not closed."""

    def close(self) -> None:
        """Let go of connections; the next exchange opens them again."""
