"""What a store of records owes: one text per account, swapped whole, whoever else swaps."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

from quotaguard.errors import LedgerUnavailable
from quotaguard.sharing.store import Draft, Seen, Store, Turn
from quotaguard.testing.keeping.callers import forked
from quotaguard.testing.keeping.shelf import Shelf

__all__ = [
    "again",
    "alone",
    "apart",
    "children",
    "contention",
    "eras",
    "fails",
    "known",
    "looks",
    "offered",
    "raises",
    "reopens",
    "swaps",
    "texts",
    "times",
]

THREADS, ROUNDS = 4, 25
"""Of the store: two objects, each used by two threads, one after the other."""

PATIENCE = 0.2
"""Real seconds that a rival may wait for its turn, before the other one ends."""

SWAP = "compare the version and swap the text in one step: a transaction, a script, one lock"


def offered(shelf: Shelf) -> None:
    """It has what `quotaguard.sharing.store.Store` names."""
    store = shelf.store()
    for name in ("exchange", "forked", "close"):
        do = "see quotaguard.sharing.store.Store"
        shelf.require(callable(getattr(store, name, None)), f"it has no {name}()", do=do)
    named, remote = getattr(store, "name", None), getattr(store, "remote", None)
    shelf.require(isinstance(named, str) and named, f"its name is {named!r}", do="for people")
    what = f"remote is {remote!r}"
    shelf.require(isinstance(remote, bool), what, do="True where the clock is another host's")


def swaps(shelf: Shelf) -> None:
    """What a turn returns is there afterwards, for every store object."""
    one, other = shelf.pair()
    account = shelf.account()
    for store in (one, other):
        seen = shelf.look(store, account)
        what = f"of an account that nobody knows a turn is shown {seen[:2]}"
        shelf.require(seen[:2] == ("", None), what, do='show ("", None) where nothing is')
    for number, store in enumerate((one, other, other, one)):
        draft = shelf.put(store, account, f"text {number}")
        for reader in (one, other):
            seen = shelf.look(reader, account)
            what = f"after {draft} was written a turn is shown {seen[:2]}"
            shelf.require(seen[:2] == draft, what, do="write it before exchange returns")


def looks(shelf: Shelf) -> None:
    """A turn that returns nothing changes nothing."""
    one, other = shelf.pair()
    account = shelf.account()
    draft = shelf.put(one, account, "text")
    for store in (one, other, one):
        shelf.look(store, account)
    seen = shelf.look(other, account)
    shelf.require(seen[:2] == draft, f"{draft} became {seen[:2]} by looks", do="write drafts only")
    empty = shelf.account()
    shelf.look(one, empty)
    seen = shelf.look(other, empty)
    shelf.require(not seen.version, "a look has made a record", do="write drafts only")


def known(shelf: Shelf) -> None:
    """A text is left out only for who knows it already: its version, and no other."""
    one, other = shelf.pair()
    account = shelf.account()
    old = shelf.put(one, account, "old")
    new = shelf.put(other, account, "new")
    for version in ("", old.version, "never"):
        seen = shelf.look(one, account, version)
        what = f"who knows {version!r} is shown {seen[:2]}, where {new} is"
        # A store may show first what the caller says; it must not stay so.
        shelf.require(seen[:2] == new, what, do="compare versions, and ask before a look ends")
    seen = shelf.look(one, account, new.version)
    what = f"who knows {new} is shown {seen[:2]}"
    shelf.require(seen.version == new.version and seen.text in {None, "new"}, what, do="as above")
    _stale(shelf, one, other, account, new)


def _stale(shelf: Shelf, one: Store, other: Store, account: str, draft: Draft) -> None:
    """See that a version that is not there any more is no ground to write."""
    newest = shelf.put(other, account, "newest")
    texts: list[str | None] = []

    def turn(seen: Seen) -> Draft:
        texts.append(draft.text if seen.version == draft.version else seen.text)
        return Draft(shelf.version(), f"{texts[-1]}+")

    one.exchange(account, draft.version, turn)
    found = shelf.look(other, account).text
    what = f"a turn on {newest} that knew only {draft} has left {found!r}"
    shelf.require(found == "newest+", what, do=SWAP)


def apart(shelf: Shelf) -> None:
    """Accounts do not know each other, however alike their names are."""
    store, other = shelf.pair()
    stem = shelf.account()
    names = [f"{stem}{end}" for end in ("a", "A", "ab", "a b", "a:b", "a*", "ä", "%", "{a}", "")]
    drafts = {name: shelf.put(store, name, f"of {name}") for name in names}
    for name, draft in drafts.items():
        seen = shelf.look(other, name)
        what = f"the record of {name!r} is {seen[:2]}, where {draft} was written"
        shelf.require(seen[:2] == draft, what, do="keep records by the whole name of the account")


def texts(shelf: Shelf) -> None:
    """Any text comes back as it was: long, empty, or of letters from anywhere."""
    one, other = shelf.pair()
    account = shelf.account()
    given = ["", " ", "\n", "None", "null", "0", "ä€😀\u2028", "'\"\\%s{}", "x" * 300_000]
    given.append(json.dumps({"a": [1, 2.5, None, "\u0000"]}))
    for text in given:
        draft = shelf.put(one, account, text)
        seen = shelf.look(other, account)
        what = f"{draft.text[:40]!r} ({len(text)} letters) came back as {str(seen.text)[:40]!r}"
        shelf.require(seen[:2] == draft, what, do="keep texts as they are, in UTF-8")


def raises(shelf: Shelf) -> None:
    """What a turn raises is raised as it is, the record stays, and the store goes on."""
    one, other = shelf.pair()
    account = shelf.account()
    draft = shelf.put(one, account, "text")
    faults = [ValueError("a turn's"), OSError("a turn's"), KeyboardInterrupt()]
    faults += [LedgerUnavailable("a turn's"), ZeroDivisionError()]
    for fault in faults:

        def turn(_: Seen, fault: BaseException = fault) -> NoReturn:
            raise fault

        caught: BaseException | None = None
        try:
            one.exchange(account, "", turn)
        except BaseException as error:  # noqa: BLE001 - compared
            caught = error
        what = f"a turn raised {fault!r}, and the store {caught!r}"
        shelf.require(caught is fault, what, do="let it through; roll back what was begun")
        for store in (other, one):
            seen = shelf.look(store, account)
            what = f"after a turn raised, the record is {seen[:2]}"
            shelf.require(seen[:2] == draft, what, do="roll back what was begun")


def alone(shelf: Shelf) -> None:
    """Without rivals a turn is taken once."""
    store = shelf.store()
    account = shelf.account()
    version = shelf.put(store, account, "0").version
    calls: list[Seen] = []

    def turn(seen: Seen) -> Draft:
        calls.append(seen)
        return Draft(shelf.version(), "1")

    store.exchange(account, version, turn)
    what = f"a turn without rivals was called {len(calls)} times"
    shelf.require(len(calls) == 1, what, do="call it again only if the record has changed")


def again(shelf: Shelf) -> None:
    """Whoever was slower than a rival is called again, or the rival waits: nothing is lost."""
    one, other = shelf.pair()
    account = shelf.account()
    for first in (True, False):
        rival = threading.Thread(target=shelf.count, args=(other, account), daemon=True)
        shelf.world.own.add(rival)
        started: list[bool] = []

        def meanwhile(rival: threading.Thread = rival, started: list[bool] = started) -> None:
            if not started:
                started.append(True)
                rival.start()
                rival.join(PATIENCE)

        shelf.count(one, account, meanwhile)
        rival.join()
        total = shelf.counted(other, account)
        wanted = 2 if first else 4
        what = f"two of two rivals counted at once, to {total} and not to {wanted}"
        shelf.require(total == wanted, what, do=SWAP)


def contention(shelf: Shelf) -> None:
    """Many who count at once lose nothing, and nobody is left without a turn."""
    stores = shelf.pair()
    account = shelf.account()
    locks = [threading.Lock() for _ in stores]

    def work(number: int) -> None:
        for _ in range(ROUNDS):
            # A ledger uses its store by one thread at a time.
            with locks[number % 2]:
                shelf.count(stores[number % 2], account)

    raised = shelf.world.together([partial(work, number) for number in range(THREADS)])
    if raised:
        raise raised[0]
    total = shelf.counted(stores[0], account)
    what = f"{THREADS} threads counted {ROUNDS} times each, to {total}"
    shelf.require(total == THREADS * ROUNDS, what, do=SWAP)


def times(shelf: Shelf) -> None:
    """The times that are shown are finite, and go on by the clock that was given."""
    one, other = shelf.pair()
    account = shelf.account()
    shelf.put(one, account, "text")
    moments = []
    for seconds in (0.0, 1.0, 30.0, 100.0):
        shelf.world.advance(seconds)
        moments += [shelf.look(store, account).now for store in (one, other)]
    finite = all(math.isfinite(each) for moment in moments for each in moment)
    shelf.require(finite, f"a time is not finite: {moments}", do="see quotaguard.quota.readings")
    fast = [moment.fast for moment in moments]
    what = f"fast went back: {fast}"
    shelf.require(fast == sorted(fast), what, do="fast is a time that has perhaps not come")
    gone = moments[-1].fast - moments[0].fast, moments[-1].slow - moments[0].slow
    what = f"131 s passed on the clock that was given, and {gone} s on fast and slow"
    do = "go by the clock that was given; a server's must go with the bench's"
    shelf.require(all(abs(seconds - 131.0) < 5.0 for seconds in gone), what, do=do)


def eras(shelf: Shelf) -> None:
    """The era is one, for every store object, as long as nothing was lost."""
    one, other = shelf.pair()
    account = shelf.account()
    shelf.put(one, account, "text")
    told = {shelf.look(store, account).era for store in (one, other, shelf.store())}
    one.close()
    told.add(shelf.look(one, account).era)
    what = f"nothing was lost, and there are {len(told)} eras: {sorted(map(repr, told))}"
    shelf.require(len(told) == 1, what, do="change it only when acknowledged writes may be gone")
    era = told.pop()
    shelf.require(isinstance(era, str), f"an era is {era!r}", do='a text, "" for unknown')


def reopens(shelf: Shelf) -> None:
    """What was closed opens again by itself, and keeps everything."""
    one, other = shelf.pair()
    account = shelf.account()
    draft = shelf.put(one, account, "text")
    one.close()
    one.close()
    for store in (one, other, shelf.store()):
        seen = shelf.look(store, account)
        what = f"after a close {draft} is {seen[:2]}"
        shelf.require(seen[:2] == draft, what, do="write before exchange returns; open on demand")
    shelf.put(one, account, "more")


def children(shelf: Shelf) -> None:
    """A child that was forked, and its parent, go on with connections of their own."""
    store = shelf.store()
    account = shelf.account()
    shelf.count(store, account)

    def child() -> int:
        store.forked()
        for _ in range(5):
            shelf.count(store, account)
        return shelf.counted(store, account)

    told = forked(child)
    shelf.count(store, account)
    total = shelf.counted(store, account)
    what = f"a child counted 1 to {told} in five steps, and the parent then to {total}"
    shelf.require((told, total) == (6, 7), what, do="open anew after forked(); leave the parent's")


def fails(shelf: Shelf) -> None:
    """While it is down it raises LedgerUnavailable, with its name; then it goes on."""
    store = shelf.store()
    account = shelf.account()
    shelf.put(store, account, "text")
    do = "raise LedgerUnavailable(..., store=self.name, unsure=...) from what went wrong"
    down = shelf.down
    if down is None:
        return
    with down():
        for turn in _turns(shelf):
            try:
                store.exchange(account, "", turn)
            except LedgerUnavailable as error:
                what = f"the error is of the store {error.store!r}"
                shelf.require(error.store == store.name, what, do=do)
            except Exception as error:  # noqa: BLE001 - that is the breach
                what = f"exchange raised {type(error).__name__}: {error}"
                shelf.broken(what, do=do, cause=error)
            else:
                shelf.broken("an exchange went while the store is down", do=do)
    seen = shelf.look(store, account)
    what = f"after it was down the record is {seen.text!r}"
    shelf.require(seen.text == "text", what, do="nothing is written where unsure is not told")


def _turns(shelf: Shelf) -> Iterator[Turn]:
    def look(_: Seen) -> None:
        """Write nothing."""

    yield look
    yield lambda _: Draft(shelf.version(), "lost")
