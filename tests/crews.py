"""Workers that spend one quota over shared books, each with a ledger of its own.

Threads live through what becomes of the server; processes can be killed with it. What
was really spent, their fake provider knows.
"""

from __future__ import annotations

import multiprocessing
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from servers import Between, Server

from quotaguard import FullContact, Guard, LedgerUnavailable, Policy, Refusal
from quotaguard.ledgers import Ledger
from quotaguard.ledgers.redis import RedisLedger
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.testing import fake
from quotaguard.testing.fullcontact import FakeFullContact

__all__ = ["CRITICAL", "KEY", "LEASE", "MATCHES", "PATH", "POLICY", "Crew", "Hand", "Remote"]
__all__ += ["Wire", "guarding", "hired", "until", "vendor_of", "wired"]

MATCHES = "person.enrichment.matches"
PATH = "/v3/person.enrich"
KEY = "key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
CRITICAL = {"quotaguard": {"priority": "critical"}}
LEASE, LAG = 1.0, 0.3
POLICY = Policy(lag=1.5 * LAG, late=LAG, poll_every=(0.1, 0.5), max_wait=0.0)

PATIENCE = 40.0
"""Seconds until something that should come is missed: other jobs may keep the machine busy."""


def until(condition: Callable[[], object], what: str, tell: Callable[[], object] = str) -> None:
    """Return when *condition* holds."""
    over = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < over, f"{what}: not in {PATIENCE:g} s. {tell()}"
        threading.Event().wait(0.005)


@contextmanager
def vendor_of(quota: int, **knobs: Any) -> Iterator[FakeFullContact]:
    """Run a provider that bills what is above its quota."""
    told = {"lag": 0.3, "visible": "random", "overage": True, "match_rate": 1.0, "key": KEY}
    with fake("fullcontact", quota=quota, **told | knobs) as vendor:
        assert isinstance(vendor, FakeFullContact)
        yield vendor


def guarding(ledger: Ledger, vendor: str, policy: Policy = POLICY) -> Guard:
    """Return the guard of a worker at the provider with this URL."""
    clock = ledger.clock if isinstance(ledger, SharedLedger) else None
    return Guard(FullContact(KEY, base_url=vendor), ledger=ledger, policy=policy, clock=clock)


class Hand:
    """One worker: a guard and a client that it makes its calls with.

    done: its calls that went. refused: those that did not, by what the guard raised, or by
        LedgerUnavailable where that was why.
    """

    def __init__(self, guard: Guard, vendor: str) -> None:
        self.guard = guard
        self.client = guard.client(base_url=vendor, headers=HEADERS, timeout=20.0)
        self.done, self.refused = 0, Counter[str]()
        self.last: Refusal | None = None

    def call(self) -> bool:
        """Look somebody up; False if the guard refuses that."""
        person = {"email": f"{self.done}@example.com"}
        try:
            answer = self.client.post(PATH, json=person, extensions=CRITICAL)
        except Refusal as refusal:
            self.last, cause = refusal, refusal.__cause__
            kind = cause if isinstance(cause, LedgerUnavailable) else refusal
            self.refused[type(kind).__name__] += 1
            return False
        assert answer.status_code == 200, answer
        self.done += 1
        return True

    def spend(self, count: int) -> None:
        """Make so many calls, whatever it takes."""
        goal = self.done + count
        until(
            lambda: self.done >= goal or (self.call() and self.done >= goal),
            f"{count} calls",
            lambda: self.last,
        )

    def drain(self, calls: int, stop: Callable[[], object] = lambda: False) -> None:
        """Call as fast as it goes until that is refused often, or *stop* holds."""
        refused = 0
        while refused < calls and not stop():
            if not self.call():
                refused += 1
                threading.Event().wait(0.01)

    def close(self) -> None:
        """Give back what is held."""
        self.client.close()
        self.guard.close()


class Crew:
    """Threads that call until they are told to stop; each has a ledger of its own."""

    def __init__(self, ledgers: list[Ledger], vendor: FakeFullContact, policy: Policy) -> None:
        self.vendor = vendor
        self.hands = [Hand(guarding(one, vendor.url, policy), vendor.url) for one in ledgers]
        self.pace = 0.002
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(hand,), name="crew") for hand in self.hands
        ]

    def start(self) -> None:
        """Begin to call."""
        for thread in self._threads:
            thread.start()

    def _work(self, hand: Hand) -> None:
        try:
            while not self._stop.is_set():
                self._stop.wait(self.pace if hand.call() else 0.01)
        except BaseException as error:  # noqa: BLE001 - raised by stop
            self._failures.append(error)

    @property
    def true(self) -> int:
        """What was really spent."""
        return self.vendor.true[MATCHES]

    def reaches(self, count: int) -> None:
        """Wait until so much is really spent."""
        until(lambda: self.true >= count or self._failures, f"{count} units", self.told)
        self.check()

    def check(self) -> None:
        """Raise what a worker raised."""
        if self._failures:
            raise self._failures[0]

    def refused(self, kind: str) -> int:
        """How many calls were refused in this way."""
        return sum(hand.refused[kind] for hand in self.hands)

    def told(self) -> str:
        """Return how it stands."""
        refused = [dict(hand.refused) for hand in self.hands]
        return f"{self.true} of {self.vendor.quota}; refused: {refused}; {self.hands[0].last!r}"

    def stop(self) -> None:
        """End every thread."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(PATIENCE)
        self.check()

    def exact(self) -> None:
        """Check that all of the quota gets spent, not one unit more, and that all agree."""
        quota = self.vendor.quota
        assert quota is not None
        self.reaches(quota)
        before = self.refused("QuotaExhausted")
        until(lambda: self.refused("QuotaExhausted") >= before + 20, "all is spent", self.told)
        self.stop()
        assert self.true == quota
        assert sum(hand.done for hand in self.hands) <= quota
        self.agrees()

    def agrees(self) -> None:
        """Check that the books show what was spent, as soon as that can be seen."""
        guard = self.hands[0].guard

        def agreed() -> bool:
            try:
                row = guard.refresh()[MATCHES]
            except LedgerUnavailable:  # a wire that loses answers may lose two in a row
                return False
            return (row.used, row.reserved) == (self.true, 0)

        until(agreed, "the books agree", guard.standing)

    def close(self) -> None:
        """Stop, and close every guard."""
        self._stop.set()
        try:
            self.stop()
        finally:
            for hand in self.hands:
                hand.close()


@contextmanager
def hired(
    vendor: FakeFullContact, ledgers: list[Ledger], policy: Policy = POLICY
) -> Iterator[Crew]:
    """Hire a crew, which works from when it is started to the end."""
    crew = Crew(ledgers, vendor, policy)
    try:
        yield crew
    finally:
        crew.close()


# -- processes ---------------------------------------------------------------------


def labour(url: str, vendor: str, lease: float, policy: Policy, pipe: Connection) -> None:
    """Be a worker in a process of its own: spend what the pipe says, 0 for all there is."""
    hand = Hand(guarding(RedisLedger(url, lease=lease), vendor, policy), vendor)
    pipe.send("ready")
    while True:
        try:
            count = pipe.recv()
        except EOFError:
            return
        if count:
            hand.spend(count)
            pipe.send(hand.done)
            continue
        while not pipe.poll():
            if not hand.call():
                threading.Event().wait(0.01)


class Remote:
    """A worker in a process of its own, which can be killed."""

    def __init__(
        self, url: str, vendor: FakeFullContact, lease: float = LEASE, policy: Policy = POLICY
    ) -> None:
        context: Any = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        told = url, vendor.url, lease, policy, theirs
        self._process: BaseProcess = context.Process(target=labour, args=told, daemon=True)
        self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until it has started."""
        assert self._pipe.poll(PATIENCE), "a worker does not start"
        assert self._pipe.recv() == "ready"

    def spend(self, count: int) -> None:
        """Let it make so many calls, and wait for that."""
        self._pipe.send(count)
        assert self._pipe.poll(PATIENCE), "a worker does not get on"
        self._pipe.recv()

    def start(self) -> None:
        """Let it call as fast as it can, as soon as it has started."""
        self._pipe.send(0)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.join(PATIENCE)
        self._pipe.close()


# -- the wire ----------------------------------------------------------------------


class _Dice(deque[str | bytes]):
    """Faults that come by chance, of those that are named."""

    def __init__(self, share: float, seed: int) -> None:
        super().__init__(["lose", "swallow"])
        self._share, self._random = share, random.Random(seed)
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        with self._lock:
            return self._random.random() < self._share

    def popleft(self) -> str | bytes:
        """Return a fault; there are always more."""
        with self._lock:
            return self._random.choice(list(self))


class Wire(Between):
    """A wire that can be led to another server, and loses some of what passes."""

    def __init__(self, server: Server, **settings: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(server, **settings)

    def _serve(self, ours: socket.socket) -> None:
        self._open.add(ours)
        try:
            super()._serve(ours)
        finally:
            self._open.discard(ours)

    def lead_to(self, server: Server) -> None:
        """Let connections end, and new ones lead to another server."""
        self._server = server
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def lose(self, share: float, seed: int = 0) -> None:
        """Lose so many of the requests, or of their answers; 0 for none."""
        self.faults = _Dice(share, seed) if share else deque()


@contextmanager
def wired(server: Server, count: int = 1, **settings: Any) -> Iterator[list[Wire]]:
    """Run wires to a server."""
    with ExitStack() as open_:
        wires = []
        for _ in range(count):
            wires.append(Wire(server, **settings))
            open_.callback(wires[-1].close)
        yield wires
