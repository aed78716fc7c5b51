"""The trial of a ledger, or of a store: judged by every law that guards rely on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from quotaguard.errors import ConfigError
from quotaguard.quota.policy import seconds
from quotaguard.sharing.ledger import LEASE, SharedLedger
from quotaguard.testing.keeping import OF_LEDGERS, OF_STORES, Bench, Shelf
from quotaguard.testing.laws.subject import BrokenLaw

if TYPE_CHECKING:
    from quotaguard.quota.policy import Duration
    from quotaguard.testing.keeping import MakeLedger, MakeStore
    from quotaguard.testing.keeping.world import World

__all__ = ["LedgerTrial", "check_ledger", "check_store"]

PATIENCE = 60.0
"""Real seconds that a law may take: one that takes longer hangs."""


@dataclass(frozen=True, slots=True)
class LedgerTrial:
    """A trial that was passed.

    laws: the names of those that were judged. skipped: of those that could not be.
    """

    laws: tuple[str, ...]
    skipped: tuple[str, ...]


def check_ledger(
    make: MakeLedger,
    /,
    *,
    shared: bool | None = None,
    lease: Duration = LEASE,
    down: Callable[[], AbstractContextManager[object]] | None = None,
    contents: Callable[[], bytes] | None = None,
    but: Collection[str] = (),
    patience: Duration = PATIENCE,
) -> LedgerTrial:
    """Judge a ledger by every law that guards rely on. It takes seconds, and sends nothing.

    ::

        def test_my_ledger(tmp_path) -> None:
            check_ledger(lambda clock: MyLedger(tmp_path / "books", clock=clock))

    make: takes a clock; returns one more ledger object on the same books each time, as
        another process would open it. All that the ledger does in time it does by that
        clock: its threads wait by ``clock.wait``, and the kit moves the time when they do.
        Where the books go by a server's clock, that must go with it.
    shared: whether processes share the books; None is found out (`Holder.waits`).
    lease: seconds that a holder may not be heard of, as the ledger is made.
    down: a context in which the store cannot be reached. A `SharedLedger` needs none: the
        kit stands before its store.
    contents: returns all that the store keeps, to look for secrets in.
    but: laws that the ledger breaks on purpose, by name.
    patience: real seconds after which a law is taken to hang.

    Raises:
        BrokenLaw: an AssertionError that says which law, and what to do.
        ConfigError: check_ledger itself was asked for what cannot be.
    """
    _known(but, OF_LEDGERS, "check_ledger")
    terms: dict[str, Any] = {"make": make, "lease": seconds(lease, "lease")}
    terms |= {"down": down, "contents": contents}
    first = Bench(**terms, shared=False)
    with first.world.at_home():
        process = first.process()
        waits = bool(getattr(process.holder(first.vendor()), "waits", False))
        breaks = down is not None or isinstance(process.ledger, SharedLedger)
        process.ledger.close()
    first.world.over = True
    shared = waits if shared is None else shared
    has = {"shared": shared, "outage": breaks, "fork": hasattr(os, "fork")}
    judged, skipped = [], []
    for name, law in OF_LEDGERS.items():
        if name in but or not all(has[need] for need in law.needs):
            skipped.append(name)
            continue
        bench = Bench(**terms, shared=shared, law=name)
        _judge(law.judge, bench, seconds(patience, "patience"))
        judged.append(name)
    return LedgerTrial(tuple(judged), tuple(skipped))


def check_store(
    make: MakeStore,
    /,
    *,
    down: Callable[[], AbstractContextManager[object]] | None = None,
    but: Collection[str] = (),
    patience: Duration = PATIENCE,
) -> LedgerTrial:
    """Judge a store of records, over which `SharedLedger` keeps books.

    ::

        def test_my_store(tmp_path) -> None:
            check_store(lambda clock: MyStore(tmp_path / "books", clock))

    make: takes a clock; returns one more store object on the same records each time.
    down: a context in which the store cannot be reached.
    but: laws that the store breaks on purpose, by name.
    patience: real seconds after which a law is taken to hang.

    Raises:
        BrokenLaw: an AssertionError that says which law, and what to do.
        ConfigError: check_store itself was asked for what cannot be.
    """
    _known(but, OF_STORES, "check_store")
    judged, skipped = [], []
    for name, law in OF_STORES.items():
        can = {"fails": down is not None, "children": hasattr(os, "fork")}
        if name in but or not can.get(name, True):
            skipped.append(name)
            continue
        shelf = Shelf(make=make, down=down, law=name, name=f"kit-{os.urandom(6).hex()}")
        _judge(law, shelf, seconds(patience, "patience"))
        judged.append(name)
    return LedgerTrial(tuple(judged), tuple(skipped))


def _known(but: Collection[str], laws: Iterable[str], who: str) -> None:
    unknown = [but] if isinstance(but, str) else sorted(set(but) - set(laws))
    if unknown:
        msg = f"{who}: there is no law {unknown[0]!r}; but takes a list of {', '.join(laws)}"
        raise ConfigError(msg)


class _Stand(Protocol):
    """A bench, or a shelf."""

    law: str
    world: World

    def broken(self, what: str, *, do: str, cause: BaseException | None = None) -> object:
        """Say that the law is broken."""

    def clear(self) -> None:
        """End what a law has begun."""


_S = TypeVar("_S", bound=_Stand)


def _judge(judge: Callable[[_S], None], stand: _S, patience: float) -> None:
    """Judge by one law, in a thread of its own: then a deadlock is a breach, too."""
    raised: list[BaseException] = []

    def run() -> None:
        with stand.world.at_home():
            try:
                judge(stand)
            except BaseException as error:  # noqa: BLE001 - for the thread that waits
                raised.append(error)
            finally:
                stand.world.over = True

    thread = threading.Thread(target=run, name="quotaguard-kit", daemon=True)
    stand.world.own.add(thread)
    thread.start()
    thread.join(patience)
    if thread.is_alive():
        stand.world.over = True
        stand.broken(f"it hangs: nothing came of it in {patience:g} s", do="look for a deadlock")
    for error in raised:
        if isinstance(error, BrokenLaw):
            raise error
        what = f"{type(error).__name__} was raised: {error}"
        do = "raise LedgerUnavailable for whatever the store does, and nothing else"
        stand.broken(what, do=do, cause=error)
    stand.clear()
