"""The trial of ledgers: those that keep the laws pass, and every breach is caught by name."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from servers import Server, serving
from trial_stores import Dicts, DictStore, MovedRedis

from quotaguard.clock import Clock
from quotaguard.errors import ConfigError, LedgerUnavailable
from quotaguard.ledgers import Holder, Ledger
from quotaguard.ledgers.memory import MemoryHolder, MemoryLedger
from quotaguard.ledgers.redis import RedisLedger
from quotaguard.ledgers.sqlite import SQLiteLedger
from quotaguard.quota.account import Books, Entry, Posted, Terms
from quotaguard.quota.allotment import Allotment, Lane, Tally
from quotaguard.quota.entries import Observe, Reserve, Touch
from quotaguard.quota.pacing import RateBooks
from quotaguard.quota.readings import Moment
from quotaguard.quota.verdicts import Done, Due, Granted
from quotaguard.sharing.account import SharedAccount
from quotaguard.sharing.exchange import Ticket
from quotaguard.sharing.holder import Report, SharedHolder
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.record import Record
from quotaguard.sharing.store import Draft, Seen, Turn
from quotaguard.testing import BrokenLaw, LedgerTrial, check_ledger
from quotaguard.testing.keeping import OF_LEDGERS, OF_STORES
from quotaguard.testing.keeping.vendor import KEY

ALONE = ("dead", "suspended", "small", "reopened", "slow", "errors", "outage", "back", "lost")
"""What is not asked of a ledger that ends with its process."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server for all tests of this file."""
    with serving(tmp_path_factory.mktemp("redis")) as made:
        yield made


def redis(server: Server, clock: Clock) -> RedisLedger:
    """Return a ledger on a server whose clock is the one of the bench."""
    ledger = RedisLedger(server.url, clock=clock)
    ledger.store = MovedRedis(server.url, clock)
    return ledger


# -- those that keep them --------------------------------------------------------


def test_memory_passes() -> None:
    """All laws but those of several processes."""
    trial = check_ledger(lambda clock: MemoryLedger(clock=clock))
    assert trial.skipped == ALONE
    assert set(trial.laws) == set(OF_LEDGERS) - set(ALONE)


def test_a_file_of_sqlite_passes(tmp_path: Path) -> None:
    """All laws; what is in the files is looked at for secrets."""
    trial = check_ledger(
        lambda clock: SQLiteLedger(tmp_path / "quota.db", clock=clock),
        contents=lambda: b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir())),
    )
    assert trial == LedgerTrial(tuple(OF_LEDGERS), ())


def test_a_file_of_sqlite_that_is_gone(tmp_path: Path) -> None:
    """The same where the store itself fails, and not the bench."""
    folder = tmp_path / "books"
    folder.mkdir()

    @contextmanager
    def down() -> Iterator[None]:
        folder.rename(tmp_path / "elsewhere")
        try:
            yield
        finally:
            (tmp_path / "elsewhere").rename(folder)

    trial = check_ledger(lambda clock: SQLiteLedger(folder / "quota.db", clock=clock), down=down)
    assert trial.skipped == ()


def test_a_redis_server_passes(server: Server) -> None:
    """All laws; what the server has is looked at for secrets."""

    def contents() -> bytes:
        with server.client() as client:
            return b"".join(key + client.dump(key) for key in client.scan_iter())

    trial = check_ledger(lambda clock: redis(server, clock), contents=contents)
    assert trial == LedgerTrial(tuple(OF_LEDGERS), ())


def test_a_redis_server_that_refuses(server: Server) -> None:
    """The same where the server itself is what fails."""

    @contextmanager
    def down() -> Iterator[None]:
        server.ask("ACL", "SETUSER", "default", "-evalsha", "-eval")
        try:
            yield
        finally:
            server.ask("ACL", "SETUSER", "default", "+evalsha", "+eval")

    trial = check_ledger(lambda clock: redis(server, clock), down=down)
    assert trial.skipped == ()


def test_a_store_of_ones_own_passes() -> None:
    """A store is all that a third party needs; another lease is told."""
    dicts = Dicts()

    def make(clock: Clock) -> SharedLedger:
        return SharedLedger(DictStore(dicts, clock), lease=12, clock=clock)

    assert check_ledger(make, lease=12, but=["forks"]).skipped == ("forks",)


# -- those that break a law ------------------------------------------------------

OnDicts = Callable[[Dicts, Clock], Ledger]


def over(store: Callable[[Dicts, Clock], Any]) -> OnDicts:
    """Return what makes a good ledger over a bad store."""
    return lambda dicts, clock: SharedLedger(store(dicts, clock), clock=clock)


def by(
    holder: type[SharedHolder] = SharedHolder, account: type[SharedAccount] = SharedAccount
) -> OnDicts:
    """Return what makes a ledger of bad holders over a good store."""

    class Bad(SharedLedger):
        def holder(self, terms: Terms) -> SharedHolder:
            with self._lock:
                if terms.account not in self._accounts:
                    self._accounts[terms.account] = account(self, terms.account)
                books = self._accounts[terms.account]
            for found in books.holders:
                if found.terms == terms:
                    return found
            made = holder(books, terms, books.new_name())
            books.holders.append(made)
            return made

    return lambda dicts, clock: Bad(DictStore(dicts, clock), clock=clock)


def ledger(kind: type[SharedLedger]) -> OnDicts:
    """Return what makes a bad ledger over a good store."""
    return lambda dicts, clock: kind(DictStore(dicts, clock), clock=clock)


def memory(post: Callable[[MemoryHolder, Entry], Posted]) -> OnDicts:
    """Return what makes a ledger in memory that posts badly."""

    class BadMemory(MemoryLedger):
        def holder(self, terms: Terms) -> MemoryHolder:
            holder = super().holder(terms)
            if not isinstance(holder, BadHolder):
                holder.__class__ = BadHolder
            return holder

    class BadHolder(MemoryHolder):
        def post(self, entry: Entry) -> Posted:
            return post(self, entry)

    return lambda dicts, clock: BadMemory(clock=clock)


# In memory.


def twice(self: MemoryHolder, entry: Entry) -> Posted:
    """What is granted is taken over twice."""
    posted = MemoryHolder.post(self, entry)
    self.allotment.accept(posted.granted, {})
    return posted


def free(self: MemoryHolder, entry: Entry) -> Posted:
    """What is unknown was not charged."""
    for _, cost in self.allotment.lapses:
        self.allotment.settle(cost, {})
    self.allotment.lapses = []
    return MemoryHolder.post(self, entry)


def half(self: MemoryHolder, entry: Entry) -> Posted:
    """An entry that is stopped stays half made."""
    try:
        return MemoryHolder.post(self, entry)
    except KeyboardInterrupt:
        with self.lock:
            self.allotment.record({"calls": 2})
        raise


def swallowing(self: MemoryHolder, entry: Entry) -> Posted:
    """Ctrl-C is not for it."""
    try:
        return MemoryHolder.post(self, entry)
    except KeyboardInterrupt:
        return MemoryHolder.post(self, entry)


def deaf(self: MemoryHolder, entry: Entry) -> Posted:
    """Nobody is told anything."""
    posted = MemoryHolder.post(self, entry)
    return Posted(posted.verdict, posted.granted, posted.lanes)


def taken(self: MemoryHolder, entry: Entry) -> Posted:
    """What is granted is the caller's, who may have gone."""
    posted = MemoryHolder.post(self, entry)
    self.unowned.clear()
    return posted


def charging(self: MemoryHolder, entry: Entry) -> Posted:
    """A refusal costs what was asked for."""
    posted = MemoryHolder.post(self, entry)
    if isinstance(entry, Reserve) and not isinstance(posted.verdict, Granted | Due):
        self.allotment.accept(entry.cost, {})
    return posted


def partly(self: MemoryHolder, entry: Entry) -> Posted:
    """Of several meters one is enough."""
    if isinstance(entry, Reserve) and len(entry.cost) > 1:
        name = next(iter(entry.cost))
        return MemoryHolder.post(self, replace(entry, cost={name: entry.cost[name]}))
    return MemoryHolder.post(self, entry)


def adding(self: MemoryHolder, entry: Entry) -> Posted:
    """What a reading shows is added to what was there."""
    if isinstance(entry, Observe) and self.books.meters:
        self.allotment.record({"calls": int(entry.reading.usages["calls"].used)})
    return MemoryHolder.post(self, entry)


def unrecorded(self: MemoryHolder, entry: Entry) -> Posted:
    """What was spent elsewhere is no concern of ours."""
    if not isinstance(self.allotment, Unrecorded):
        self.allotment = Unrecorded()
    return MemoryHolder.post(self, entry)


class Unrecorded(Allotment):
    """Records nothing."""

    def record(self, cost: Any, at: float = math.inf) -> None:
        """Nothing."""


class BooksEach(MemoryLedger):
    """Every guard has books of its own."""

    def holder(self, terms: Terms) -> MemoryHolder:
        self._accounts.clear()
        return super().holder(terms)


class OneBook(MemoryLedger):
    """All accounts have one book."""

    def holder(self, terms: Terms) -> MemoryHolder:
        for account in self._accounts.values():
            return account.holder(terms)
        return super().holder(terms)


# Over a store.


class Writing(DictStore):
    """Writes the books otherwise than they were."""

    def write(self, account: str, draft: Draft) -> None:
        record = Record.read(draft.text)
        self.spoil(record.books)
        super().write(account, draft._replace(text=record.text()))

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        # Whoever knows the text would not see what became of it.
        return super().exchange(account, "", turn)

    def spoil(self, books: Books) -> None:
        """Spoil the books."""


class Claimless(Writing):
    """Does not keep who polls."""

    def spoil(self, books: Books) -> None:
        books.polls.claimed = None


class ClaimsForEver(Writing):
    """A claim has no end."""

    def spoil(self, books: Books) -> None:
        books.polls.until = 1e12


class Unwarned(Writing):
    """Forgets which threshold was told."""

    def spoil(self, books: Books) -> None:
        for meter in books.meters.values():
            meter.warned = 0.0


class Ratesless(Writing):
    """Forgets the requests of a window."""

    def spoil(self, books: Books) -> None:
        books.rates = RateBooks()


class Unread(Writing):
    """Forgets the reading."""

    def spoil(self, books: Books) -> None:
        for meter in books.meters.values():
            meter.read = False


class Heldless(Writing):
    """Forgets what is held."""

    def spoil(self, books: Books) -> None:
        for meter in books.meters.values():
            meter.held = meter.idle = 0


class Leaseless(Writing):
    """Forgets the leases, so that nobody is ever dead."""

    def spoil(self, books: Books) -> None:
        books.leases = {}


class Pauseless(Writing):
    """Forgets that the provider asked for a pause."""

    def spoil(self, books: Books) -> None:
        books.paused = -math.inf


class Hoarding(Writing):
    """Remembers everybody who was ever there."""

    def __init__(self, dicts: Dicts, clock: Clock) -> None:
        super().__init__(dicts, clock)
        self.all = dicts.__dict__.setdefault("all", {})

    def spoil(self, books: Books) -> None:
        self.all.update(books.holders)
        books.holders = dict(self.all)


class ByTheWall(DictStore):
    """Goes by the time of day."""

    def seen(self, account: str, known: str) -> Seen:
        seen = super().seen(account, known)
        return seen._replace(now=Moment(seen.now.wall, seen.now.wall, seen.now.wall))


class Turning(Writing):
    """Forgets that the period has turned."""

    def spoil(self, books: Books) -> None:
        if books.ended is not None:
            books.period, books.ended, books.live = books.ended, None, True


class Racing(DictStore):
    """Writes whatever is there by then, and lets others look meanwhile."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        seen = self.seen(account, known)
        draft = turn(seen)
        threading.Event().wait(0.002)
        if draft is None:
            return seen.version
        self.write(account, draft)
        return draft.version


class Alone(DictStore):
    """Each ledger has records of its own."""

    def __init__(self, dicts: Dicts, clock: Clock) -> None:
        super().__init__(Dicts(), clock)


class Stale(DictStore):
    """Shows what was there when it was last opened."""

    def __init__(self, dicts: Dicts, clock: Clock) -> None:
        super().__init__(dicts, clock)
        self.old: dict[str, Draft] = {}

    def seen(self, account: str, known: str) -> Seen:
        seen = super().seen(account, "")
        if seen.version and account in self.old:
            return Seen(*self.old[account], self.clock.now(), "one")
        return seen

    def write(self, account: str, draft: Draft) -> None:
        self.old.setdefault(account, draft)
        super().write(account, draft)


# Ledgers.


class Keeping(SharedLedger):
    """Closes the store and says nothing."""

    def close(self) -> None:
        self.store.close()


class Patient(SharedLedger):
    """Waits for the dead for a day."""

    def __init__(self, store: Any, *, clock: Clock) -> None:
        super().__init__(store, lease=86_400, clock=clock)


class Hasty(SharedLedger):
    """A process is dead after two seconds."""

    def __init__(self, store: Any, *, clock: Clock) -> None:
        super().__init__(store, lease=2, clock=clock)


class Threadless(SharedLedger):
    """Nobody is looked after."""

    def attend(self, account: SharedAccount, *, now: bool = False) -> None:
        if now:
            super().attend(account, now=True)

    def tend(self) -> float:
        for account in self._accounts.values():
            account.serve()
        return math.inf


class Inherited(SharedLedger):
    """A child goes on with what its parent holds."""

    def after_fork_in_child(self) -> None:
        self.after_fork_in_parent()


class Chatty(SharedLedger):
    """Shows the key to whoever looks."""

    def __repr__(self) -> str:
        return f"<Chatty {KEY}>"


# Holders.


class InLoop(SharedHolder):
    """Posts in the event loop."""

    def hand_in(self, entry: Entry, waiter: Any = None) -> Ticket:
        ticket = Ticket(self, entry, waiter)
        ticket.posted = self.post(entry)
        ticket.end()
        return ticket


class Sleeper(SharedHolder):
    """Its lanes have no end."""

    def take_up(self, lanes: Any, fast: float, ahead: float) -> None:
        super().take_up(lanes, fast, ahead)
        self.lease_until = math.inf
        for purse in self.allotment.purses.values():
            purse.end = max(purse.end, 1e9)


class Favouring(SharedHolder):
    """In a lane all priorities are equal."""

    def take_up(self, lanes: Any, fast: float, ahead: float) -> None:
        equal = {
            name: Lane(lane.units, dict.fromkeys(lane.room, lane.units), lane.end, lane.headroom)
            for name, lane in lanes.items()
        }
        super().take_up(equal, fast, ahead)


class Greedy(SharedHolder):
    """Never gives back what it does not use."""

    def report(self, books: Any, now: Any, *, giving: bool, ahead: float) -> Report:
        return super().report(books, now, giving=False, ahead=ahead)


class Restless(SharedHolder):
    """Tells and takes, but gives nothing back while it lives."""

    def rests(self, fast: float, seconds: float) -> bool:
        return False


class Lossy(SharedHolder):
    """What was granted in an answer that got lost stays away."""

    def report(self, books: Any, now: Any, *, giving: bool, ahead: float) -> Report:
        known = books.holders.get(self.name, {})
        report = super().report(books, now, giving=giving, ahead=ahead)
        for name, units in report.lost.items():
            tally = report.tallies[name]
            report.tallies[name] = Tally(known[name].drawn, tally.cleared - units, *tally[2:])
        report.lost.clear()
        return report


class Dropping(SharedHolder):
    """An outage ends everything that it had."""

    def kept(self) -> None:
        super().kept()
        for purse in self.allotment.purses.values():
            purse.end = -math.inf


class Unspent(SharedHolder):
    """Does not tell what it has spent."""

    def report(self, books: Any, now: Any, *, giving: bool, ahead: float) -> Report:
        report = super().report(books, now, giving=giving, ahead=ahead)
        for name, tally in report.tallies.items():
            report.tallies[name] = tally._replace(spent=0)
        return report


class Certain(SharedHolder):
    """Does not tell what it does not know."""

    def report(self, books: Any, now: Any, *, giving: bool, ahead: float) -> Report:
        report = super().report(books, now, giving=giving, ahead=ahead)
        for name, tally in report.tallies.items():
            report.tallies[name] = tally._replace(unknown=0)
        return report


class Nagging(SharedHolder):
    """Tells its news twice."""

    def post(self, entry: Entry) -> Posted:
        posted = super().post(entry)
        self.news.extend(posted.events)
        return posted


class Rude(SharedHolder):
    """Raises what the network raises."""

    def post(self, entry: Entry) -> Posted:
        try:
            return super().post(entry)
        except LedgerUnavailable as error:
            raise ConnectionError("refused") from error


class Remembering(SharedHolder):
    """Tells how things stand without asking the store."""

    def post(self, entry: Entry) -> Posted:
        return Posted(Done()) if self.seen and type(entry) is Touch else super().post(entry)


class Pretending(SharedHolder):
    """Tells event loops that all is well."""

    def hand_in(self, entry: Entry, waiter: Any = None) -> Ticket:
        ticket = Ticket(self, entry, waiter)
        ticket.posted = Posted(Granted() if isinstance(entry, Reserve) else Done())
        ticket.end()
        return ticket


class Forgetting(SharedHolder):
    """An outage ends everything that it knew."""

    def kept(self) -> None:
        self.allotment = Allotment()


class Half:
    """A holder that lacks what the protocol names."""

    def __init__(self, holder: Holder) -> None:
        self.name = holder.name


class Halves(MemoryLedger):
    """Its holders lack what the protocol names."""

    def holder(self, terms: Terms) -> Any:
        return Half(super().holder(terms))


BROKEN: dict[str, tuple[OnDicts, str]] = {
    "twice": (memory(twice), "endings"),
    "free": (memory(free), "endings"),
    "half": (memory(half), "whole"),
    "swallowing": (memory(swallowing), "whole"),
    "deaf": (memory(deaf), "thresholds"),
    "charging": (memory(charging), "refusals"),
    "partly": (memory(partly), "all_or_none"),
    "adding": (memory(adding), "repeats"),
    "unrecorded": (memory(unrecorded), "records"),
    "Turning": (over(Turning), "turns"),
    "Racing": (over(Racing), "exact"),
    "Remembering": (by(Remembering), "standings"),
    "Pretending": (by(Pretending), "loops"),
    "Forgetting": (by(Forgetting), "back"),
    "taken": (memory(taken), "owned"),
    "Pauseless": (over(Pauseless), "news"),
    "Hoarding": (over(Hoarding), "small"),
    "ByTheWall": (over(ByTheWall), "walls"),
    "BooksEach": (lambda dicts, clock: BooksEach(clock=clock), "guards"),
    "OneBook": (lambda dicts, clock: OneBook(clock=clock), "accounts"),
    "Halves": (lambda dicts, clock: Halves(clock=clock), "shape"),
    "Claimless": (over(Claimless), "claims"),
    "ClaimsForEver": (over(ClaimsForEver), "claims"),
    "Unwarned": (over(Unwarned), "thresholds"),
    "Ratesless": (over(Ratesless), "rates"),
    "Unread": (over(Unread), "reopened"),
    "Heldless": (over(Heldless), "lanes"),
    "Leaseless": (over(Leaseless), "dead"),
    "Alone": (over(Alone), "endings"),
    "Stale": (over(Stale), "endings"),
    "Rude": (by(Rude), "errors"),
    "Keeping": (ledger(Keeping), "closing"),
    "Patient": (ledger(cast("Any", Patient)), "dead"),
    "Hasty": (ledger(cast("Any", Hasty)), "dead"),
    "Threadless": (ledger(Threadless), "heartbeat"),
    "Inherited": (ledger(Inherited), "forks"),
    "Chatty": (ledger(Chatty), "private"),
    "InLoop": (by(InLoop), "slow"),
    "Sleeper": (by(Sleeper), "suspended"),
    "Favouring": (by(Favouring), "lines"),
    "Greedy": (by(Greedy), "recall"),
    "Restless": (by(Restless), "idle"),
    "Lossy": (by(Lossy), "lost"),
    "Dropping": (by(Dropping), "outage"),
    "Unspent": (by(Unspent), "endings"),
    "Certain": (by(Certain), "unknown"),
    "Nagging": (by(Nagging), "thresholds"),
}
"""Relatives of good ledgers with one fault each, and the law that names it."""


@pytest.mark.parametrize("name", BROKEN)
def test_every_breach_is_caught_by_its_law(name: str) -> None:
    """One fault each, and the law that names it; what is said tells what to do."""
    make, law = BROKEN[name]
    dicts = Dicts()
    with pytest.raises(BrokenLaw) as caught:
        check_ledger(
            lambda clock: make(dicts, clock),
            down=dicts.outage,
            but=[each for each in OF_LEDGERS if each != law],
            patience=2,
        )
    assert caught.value.law == law
    assert f" breaks the law {law!r}: " in str(caught.value)
    assert "\n  to do: " in str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_no_breach_passes(name: str) -> None:
    """In the whole trial it is caught, by this law or an earlier one."""
    make, law = BROKEN[name]
    dicts = Dicts()
    with pytest.raises(BrokenLaw) as caught:
        check_ledger(
            lambda clock: make(dicts, clock),
            down=dicts.outage,
            # A child has another dict, which is no sharing.
            but=["forks"] * (law != "forks"),
            patience=2,
        )
    names = list(OF_LEDGERS)
    assert names.index(caught.value.law) <= names.index(law)


def test_every_law_can_be_broken() -> None:
    """A law that nobody could break would be no law."""
    assert {law for _, law in BROKEN.values()} == set(OF_LEDGERS)


def test_the_page_names_every_law() -> None:
    """Those of stores and then those of ledgers, in the order in which they are judged."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-ledger.md"
    named = re.findall(r"^\| `(\w+)` \|", page.read_text("utf-8"), re.MULTILINE)
    assert named == [*OF_STORES, *OF_LEDGERS]


@pytest.mark.parametrize("but", [["nothing"], "lanes"])
def test_laws_that_there_are_not(but: Any) -> None:
    """A slip in a name is told."""
    with pytest.raises(ConfigError, match="there is no law"):
        check_ledger(lambda clock: MemoryLedger(clock=clock), but=but)
