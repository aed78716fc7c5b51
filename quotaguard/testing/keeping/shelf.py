"""The store on trial: its objects, what they are asked, and how a breach is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from quotaguard.sharing.store import Draft, Seen, Store
from quotaguard.testing.keeping.world import World
from quotaguard.testing.laws.subject import Judged

if TYPE_CHECKING:
    from quotaguard.clock import Clock

__all__ = ["MakeStore", "Shelf"]


class MakeStore(Protocol):
    """Opens one more store on the same records, as another process would."""

    def __call__(self, clock: Clock, /) -> Store:
        """Return a new store object that goes by *clock*."""


@dataclass(slots=True, kw_only=True)
class Shelf(Judged):
    """The store on trial."""

    make: MakeStore
    down: Callable[[], AbstractContextManager[object]] | None = None
    world: World = field(default_factory=World)
    law: str = ""
    name: str = "kit"
    stores: list[Store] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def store(self) -> Store:
        """Return a new store object."""
        store = self.make(self.world.clock())
        self.stores.append(store)
        return store

    def pair(self) -> tuple[Store, Store]:
        """Return two."""
        return self.store(), self.store()

    def account(self) -> str:
        """Return an account that no store has seen."""
        return f"{self.name}.{self.law}.{next(self._numbers)}"

    def version(self) -> str:
        """Return a version that no text has had."""
        return f"{self.name}.v{next(self._numbers)}"

    @property
    def kind(self) -> str:
        """What is on trial, for people."""
        return type(self.stores[0]).__name__ if self.stores else "the store"

    def clear(self) -> None:
        """End what a law has begun."""
        for store in self.stores:
            store.close()
        self.stores.clear()
        self.world.living.clear()

    def put(self, store: Store, account: str, text: str) -> Draft:
        """Write a text, and see that the store says so."""
        draft = Draft(self.version(), text)
        told = store.exchange(account, "", lambda _: draft)
        what = f"a draft of version {draft.version!r} was written, and the store says {told!r}"
        self.require(told == draft.version, what, do="return the version that was written")
        return draft

    def look(self, store: Store, account: str, known: str = "") -> Seen:
        """Return what a turn is shown that writes nothing."""
        shown: list[Seen] = []

        def turn(seen: Seen) -> None:
            shown.append(seen)

        told = store.exchange(account, known, turn)
        what = f"a turn that only looked at {shown[-1].version!r} made the store say {told!r}"
        self.require(told == shown[-1].version, what, do="return what was shown last")
        return shown[-1]

    def count(self, store: Store, account: str, before: Callable[[], object] = bool) -> None:
        """Add one to the number that is the record; *before* it does that, something else."""

        def turn(seen: Seen) -> Draft:
            text = seen.text or "0"
            before()
            return Draft(self.version(), str(int(text) + 1))

        store.exchange(account, "", turn)

    def counted(self, store: Store, account: str) -> int:
        """Return the number."""
        return int(self.look(store, account).text or 0)
