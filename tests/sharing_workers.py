"""Programs of processes that share a quota, and the traces that they leave.

A worker notes what it does before or after doing it, each time with one write to a file
of its own, which a kill cannot halve: what is on the trace has surely happened.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import httpx

from quotaguard import FullContact, Guard, Policy, QuotaExhausted, QuotaUnknown, WaitTooLong
from quotaguard.ledgers.redis import RedisLedger
from quotaguard.ledgers.sqlite import SQLiteLedger

__all__ = ["MATCHES", "PATH", "Note", "Place", "Worker", "hammer", "read", "storm"]

MATCHES = "person.enrichment.matches"
PATH = "/v3/person.enrich"
KEY = "key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PATIENCE = 60.0
"""Seconds after which a worker that was not told to stop gives up."""


class Note(NamedTuple):
    """One line of a trace: when (a clock that all processes share), what, of which call.

    what: ``asks``, ``has``; ``ends`` and ``lost`` before the reservation ends, known or
    unknown; ``polls`` and ``polled``; the name of a refusal.
    """

    at: float
    what: str
    call: str
    priority: str


@dataclass(frozen=True)
class Place:
    """Where the books, the provider and the traces are.

    store: ``sqlite`` or ``redis``, and *where* it is. url: of the provider.
    """

    store: str
    where: str
    url: str
    traces: str
    policy: Policy
    lease: float = 2.0

    def guard(self) -> Guard:
        """Return a guard of this process over the shared ledger."""
        made = SQLiteLedger if self.store == "sqlite" else RedisLedger
        ledger = made(self.where, lease=self.lease)
        return Guard(FullContact(KEY, base_url=self.url), ledger=ledger, policy=self.policy)


class Worker:
    """One process, or one thread of it, that spends and leaves a trace."""

    def __init__(self, place: Place, name: str, guard: Guard | None = None) -> None:
        self.place, self.name = place, name
        self.guard = guard or place.guard()
        settings = {"base_url": place.url, "headers": HEADERS, "verify": False, "timeout": 20.0}
        self.guarded = self.guard.client(**settings)
        self.plain = httpx.Client(**settings)  # type: ignore[arg-type] # a dict of several types
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(Path(place.traces) / f"{name}.trace", flags, 0o600)
        self._calls = 0

    def note(self, what: str, call: str = "-", priority: str = "critical") -> None:
        """Leave a line."""
        os.write(self._file, f"{time.monotonic():.9f} {what} {call} {priority}\n".encode())

    def call(self, priority: str, way: str) -> None:
        """Look somebody up, by hand or with the guarded client.

        Raises:
            Refusal: the guard's.
        """
        self._calls += 1
        call = f"{self.name}.{self._calls}"
        self.note("asks", call, priority)
        try:
            if way == "client":
                self._by_client(call, priority)
            else:
                self._by_hand(call, priority)
        except (QuotaExhausted, QuotaUnknown, WaitTooLong) as refusal:
            self.note(type(refusal).__name__, call, priority)
            raise

    def _by_hand(self, call: str, priority: str) -> None:
        with self.guard.reserve({MATCHES: 1}, priority=priority) as held:
            self.note("has", call, priority)
            try:
                answer = self.plain.post(PATH, json={"email": f"{call}@example.com"})
            except httpx.TransportError:
                self.note("lost", call, priority)
                held.give_up()
                return
            assert answer.status_code == 200, answer
            self.note("ends", call, priority)
            held.settle()

    def _by_client(self, call: str, priority: str) -> None:
        told = {"quotaguard": {"priority": priority}}
        person = {"email": f"{call}@example.com"}
        try:
            answer = self.guarded.post(PATH, json=person, extensions=told)
        except httpx.TransportError:
            return
        assert answer.status_code == 200, answer
        self.note("has", call, priority)
        self.note("ends", call, priority)

    def until_exhausted(self, priority: str, way: str) -> None:
        """Call until the quota is gone; a delay, or a poll that others make, is no end."""
        over = time.monotonic() + PATIENCE
        while time.monotonic() < over:
            try:
                self.call(priority, way)
            except QuotaExhausted:
                return
            except (QuotaUnknown, WaitTooLong):
                if priority != "critical":
                    return
        raise AssertionError("neither spent nor refused")

    def close(self) -> None:
        """Give back what is not used."""
        self.guarded.close()
        self.plain.close()
        self.guard.close()
        os.close(self._file)


def hammer(
    place: Place, name: str, way: str, priority: str, pipe: Connection, guard: Guard | None = None
) -> None:
    """Spend until nothing is left, as fast as it goes, when all the others are ready."""
    worker = Worker(place, name, guard)
    pipe.send("ready")
    pipe.recv()
    worker.until_exhausted(priority, way)
    worker.close()


def storm(place: Place, name: str, seed: int, pipe: Connection) -> None:
    """Spend and poll from two threads until told to stop, or killed."""
    guard = place.guard()
    threads = [
        threading.Thread(target=_weather, args=(Worker(place, f"{name}-{one}", guard), seed + one))
        for one in range(2)
    ]
    for thread in threads:
        thread.daemon = True
        thread.start()
    pipe.recv()
    guard.close()
    os._exit(0)


def _weather(worker: Worker, seed: int) -> None:
    rng = random.Random(seed)
    stop = threading.Event()
    while True:
        if rng.random() < 0.03:
            worker.note("polls")
            worker.guard.refresh()
            worker.note("polled")
            continue
        try:
            worker.call(
                rng.choice(["critical", "critical", "normal"]), rng.choice(["hand", "client"])
            )
        except (QuotaExhausted, QuotaUnknown, WaitTooLong):
            stop.wait(0.02)


def read(traces: Path) -> Mapping[str, list[Note]]:
    """Return the notes of every worker, in its order."""
    return {file.stem: list(_notes(file)) for file in sorted(traces.glob("*.trace"))}


def _notes(file: Path) -> Iterator[Note]:
    for line in file.read_text().splitlines():
        at, what, call, priority = line.split()
        yield Note(float(at), what, call, priority)
