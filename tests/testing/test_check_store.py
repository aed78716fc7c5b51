"""The trial of stores: those that keep the laws pass, and every breach is caught by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from servers import Server, serving
from trial_stores import Dicts, DictStore, MovedRedis

from quotaguard.clock import Clock, SystemClock
from quotaguard.errors import ConfigError, LedgerUnavailable
from quotaguard.ledgers.sqlite import SQLiteStore
from quotaguard.sharing.store import Draft, Seen, Turn
from quotaguard.testing import BrokenLaw, check_store
from quotaguard.testing.keeping import OF_STORES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server for all tests of this file."""
    with serving(tmp_path_factory.mktemp("redis")) as made:
        yield made


# -- those that keep them --------------------------------------------------------


def test_a_dict_passes() -> None:
    """A lock and a dict are a store; its children have another dict, which is no sharing."""
    dicts = Dicts()
    trial = check_store(lambda clock: DictStore(dicts, clock), down=dicts.outage, but=["children"])
    assert trial.skipped == ("children",)
    assert set(trial.laws) == set(OF_STORES) - {"children"}


def test_a_file_of_sqlite_passes(tmp_path: Path) -> None:
    """All laws, and the outage is a directory that is gone."""
    folder = tmp_path / "books"
    folder.mkdir()

    @contextmanager
    def down() -> Iterator[None]:
        folder.rename(tmp_path / "elsewhere")
        try:
            yield
        finally:
            (tmp_path / "elsewhere").rename(folder)

    trial = check_store(lambda clock: SQLiteStore(folder / "quota.db", clock=clock), down=down)
    assert trial.laws == tuple(OF_STORES)
    assert trial.skipped == ()


def test_a_redis_server_passes(server: Server) -> None:
    """All laws, and the outage is a server that does not answer."""

    @contextmanager
    def down() -> Iterator[None]:
        server.freeze()
        try:
            yield
        finally:
            server.thaw()

    trial = check_store(lambda clock: MovedRedis(server.url, clock), down=down)
    assert trial.laws == tuple(OF_STORES)


# -- those that break a law ------------------------------------------------------


class Forgetful(DictStore):
    """Every third text is acknowledged and not kept."""

    writes = 0

    def write(self, account: str, draft: Draft) -> None:
        self.dicts.down, Forgetful.writes = False, Forgetful.writes + 1
        if Forgetful.writes % 3:
            super().write(account, draft)


class Careless(DictStore):
    """Reads, lets others in, and writes whatever is there by then."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        seen = self.seen(account, known)
        draft = turn(seen)
        if draft is None:
            return seen.version
        self.write(account, draft)
        return draft.version


class LastWins(DictStore):
    """Compares before the turn and not after it."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        with self.dicts.lock:
            seen = self.seen(account, known)
        draft = turn(seen)
        with self.dicts.lock:
            if draft is not None:
                self.write(account, draft)
        return seen.version if draft is None else draft.version


class Mixing(DictStore):
    """All accounts are one record."""

    def seen(self, account: str, known: str) -> Seen:
        return super().seen("all", known)

    def write(self, account: str, draft: Draft) -> None:
        super().write("all", draft)


class Folding(DictStore):
    """Names are compared as some databases compare them."""

    def seen(self, account: str, known: str) -> Seen:
        return super().seen(account.lower(), known)

    def write(self, account: str, draft: Draft) -> None:
        super().write(account.lower(), draft)


class Short(DictStore):
    """The column has 64 KiB."""

    def write(self, account: str, draft: Draft) -> None:
        super().write(account, draft._replace(text=draft.text[:65_536]))


class Trimming(DictStore):
    """Blanks at the ends do not matter to it."""

    def write(self, account: str, draft: Draft) -> None:
        super().write(account, draft._replace(text=draft.text.strip()))


class OldVersion(DictStore):
    """Says which version was there before."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        before = self.seen(account, "").version
        super().exchange(account, known, turn)
        return before


class Touching(DictStore):
    """A look is a write, too."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        def written(seen: Seen) -> Draft:
            return turn(seen) or Draft(f"{seen.version}'", seen.text or "")

        return super().exchange(account, known, written)


class Silent(DictStore):
    """Leaves the text out for whoever knows any."""

    def seen(self, account: str, known: str) -> Seen:
        seen = super().seen(account, "")
        return seen._replace(text=None) if known else seen


class Trusting(DictStore):
    """Believes that what the caller knows is what is there."""

    def seen(self, account: str, known: str) -> Seen:
        seen = super().seen(account, known)
        return seen._replace(version=known, text=None) if known.startswith("kit") else seen


class Swallowing(DictStore):
    """What a turn raises is nobody's business."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        with suppress(Exception):
            return super().exchange(account, known, turn)
        return ""


class Wrapping(DictStore):
    """Whatever is raised is the store's fault."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        try:
            return super().exchange(account, known, turn)
        except Exception as error:
            raise LedgerUnavailable("something failed", store=self.name) from error


class Eager(DictStore):
    """Removes the record first, in order to write it anew."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        before = self.dicts.records.get(account)

        def removed(seen: Seen) -> Draft | None:
            self.dicts.records.pop(account, None)
            draft = turn(seen)
            if draft is None and before:
                self.dicts.records[account] = before
            return draft

        return super().exchange(account, known, removed)


class Twice(DictStore):
    """Tries a turn before it takes it."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        turn(self.seen(account, known))
        return super().exchange(account, known, turn)


class Late(DictStore):
    """Writes when it is closed."""

    def __init__(self, dicts: Dicts, clock: Clock) -> None:
        super().__init__(dicts, clock)
        self.mine: dict[str, Draft] = {}

    def seen(self, account: str, known: str) -> Seen:
        if account in self.mine:
            return Seen(*self.mine[account], self.clock.now(), "one")
        return super().seen(account, known)

    def write(self, account: str, draft: Draft) -> None:
        self.mine[account] = draft

    def close(self) -> None:
        self.dicts.records.update(self.mine)


class Lossy(DictStore):
    """Loses what it has when it is closed."""

    def close(self) -> None:
        self.dicts.records.clear()


class Closed(DictStore):
    """Does not open again."""

    open = True

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        if not self.open:
            raise LedgerUnavailable("it is closed", store=self.name)
        return super().exchange(account, known, turn)

    def close(self) -> None:
        self.open = False


class RealTime(DictStore):
    """Has a clock of its own."""

    def __init__(self, dicts: Dicts, clock: Clock) -> None:
        super().__init__(dicts, SystemClock())


class Restless(DictStore):
    """Every answer is of another era."""

    def seen(self, account: str, known: str) -> Seen:
        return super().seen(account, known)._replace(era=os.urandom(4).hex())


class Rude(DictStore):
    """Raises what the network raises."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        if self.dicts.down:
            raise ConnectionError("refused")
        return super().exchange(account, known, turn)


class Anonymous(DictStore):
    """Does not say which store is down."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        if self.dicts.down:
            raise LedgerUnavailable("somewhere something is down")
        return super().exchange(account, known, turn)


class Offline(DictStore):
    """Goes on with what it remembers."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        down, self.dicts.down = self.dicts.down, False
        try:
            return super().exchange(account, known, turn)
        finally:
            self.dicts.down = down


class Nameless(DictStore):
    """Nobody can tell which one it is."""

    name = ""


class Stuck(DictStore):
    """A turn that raises leaves the lock behind."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        self.dicts.lock.acquire()
        seen = self.seen(account, known)
        draft = turn(seen)
        if draft is not None:
            self.write(account, draft)
        self.dicts.lock.release()
        return seen.version if draft is None else draft.version


class Racing(Careless):
    """Lets others in between the look and the write."""

    def seen(self, account: str, known: str) -> Seen:
        seen = super().seen(account, known)
        threading.Event().wait(0.001)
        return seen


class Opening(DictStore):
    """Who looks for a record makes one."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        def opened(seen: Seen) -> Draft | None:
            draft = turn(seen)
            return Draft("first", "") if draft is None and not seen.version else draft

        return super().exchange(account, known, opened)


class Inherited(SQLiteStore):
    """A child uses the lock that its parent held."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path, clock=clock)
        self.owner, self.calls = os.getpid(), 0

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        if os.getpid() != self.owner:
            raise LedgerUnavailable("the connection is of another process", store=self.name)
        return super().exchange(account, known, turn)


BROKEN = [
    (Forgetful, "swaps"),
    (Careless, "again"),
    (LastWins, "again"),
    (Racing, "contention"),
    (Opening, "looks"),
    (Mixing, "apart"),
    (Folding, "apart"),
    (Short, "texts"),
    (Trimming, "texts"),
    (OldVersion, "swaps"),
    (Touching, "swaps"),
    (Silent, "known"),
    (Trusting, "known"),
    (Swallowing, "raises"),
    (Wrapping, "raises"),
    (Eager, "raises"),
    (Twice, "alone"),
    (Late, "swaps"),
    (Lossy, "reopens"),
    (Closed, "reopens"),
    (RealTime, "times"),
    (Restless, "eras"),
    (Rude, "fails"),
    (Anonymous, "fails"),
    (Offline, "fails"),
    (Nameless, "offered"),
    (Stuck, "raises"),
]


@pytest.mark.parametrize(("kind", "law"), BROKEN, ids=[kind.__name__ for kind, _ in BROKEN])
def test_every_breach_is_caught_by_its_law(kind: type[DictStore], law: str) -> None:
    """One fault each, and the law that names it; what is said names the class and what to do."""
    dicts = Dicts()
    with pytest.raises(BrokenLaw) as caught:
        check_store(
            lambda clock: kind(dicts, clock),
            down=dicts.outage,
            # What other laws say of it, too, is of no interest here; and it has no children.
            but=[name for name in OF_STORES if name != law],
            patience=2,
        )
    assert caught.value.law == law
    told = str(caught.value)
    assert told.startswith(f"{kind.__name__} breaks the law {law!r}: ")
    assert "\n  to do: " in told


@pytest.mark.parametrize(("kind", "law"), BROKEN, ids=[kind.__name__ for kind, _ in BROKEN])
def test_no_breach_passes(kind: type[DictStore], law: str) -> None:
    """In the whole trial it is caught, by this law or an earlier one."""
    dicts = Dicts()
    with pytest.raises(BrokenLaw) as caught:
        check_store(
            lambda clock: kind(dicts, clock), down=dicts.outage, but=["children"], patience=2
        )
    names = list(OF_STORES)
    assert names.index(caught.value.law) <= names.index(law)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_that_cannot_go_on_is_caught(tmp_path: Path) -> None:
    """What a child raises is told by its law."""
    with pytest.raises(BrokenLaw, match="another process") as caught:
        check_store(lambda clock: Inherited(tmp_path / "quota.db", clock))
    assert caught.value.law == "children"


def test_every_law_can_be_broken() -> None:
    """A law that nobody could break would be no law; the one left out has a test of its own."""
    assert {law for _, law in BROKEN} == set(OF_STORES) - {"children"}


def test_a_deadlock_is_a_breach() -> None:
    """A store that never answers is told so, and the trial ends."""
    dicts, over = Dicts(), threading.Event()

    class Hanging(DictStore):
        def exchange(self, account: str, known: str, turn: Turn) -> str:
            over.wait(20)
            return super().exchange(account, known, turn)

    try:
        with pytest.raises(BrokenLaw, match="it hangs"):
            check_store(lambda clock: Hanging(dicts, clock), patience=0.1)
    finally:
        over.set()


@pytest.mark.parametrize("but", [["nothing"], "texts"])
def test_laws_that_there_are_not(but: Any) -> None:
    """A slip in a name is told."""
    make: Callable[[Clock], DictStore] = lambda clock: DictStore(Dicts(), clock)  # noqa: E731
    with pytest.raises(ConfigError, match="there is no law"):
        check_store(make, but=but)
