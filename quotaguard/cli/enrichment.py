"""The job: contacts in, guarded calls in several threads, every row into one of two files."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import httpx

from quotaguard.cli.contacts import Contact, Contacts, FileFault
from quotaguard.cli.results import ADDED, FOUND, MATCHED, MISSED, Enriched, Refused
from quotaguard.errors import Refusal

__all__ = ["PRIORITY", "Job", "Wire"]

PRIORITY = "critical"
"""The whole quota may be used; a normal call would leave the last part to critical ones."""

GRACE = 10.0
"""Seconds that an interrupted job waits for answers to calls that have gone out."""

TICK = 0.1

NOT_REACHED = "not reached: the run was interrupted"


class Stopped(httpx.ConnectError):
    """The job was interrupted before this call went out; it cost nothing."""


@dataclass(slots=True)
class Errand:
    """One call for all rows with one email.

    sent: when it has gone out, and may be billed. delayed: the guard had it wait.
    """

    contacts: list[Contact]
    sent: float | None = None
    delayed: bool = False


class Wire(httpx.BaseTransport):
    """What the guard lets through goes out here, until the job is interrupted."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._here = threading.local()
        self._closed = False
        self.sent = 0

    def carries(self, errand: Errand) -> None:
        """Name what the calls of this thread are for."""
        self._here.errand = errand

    def delayed(self) -> None:
        """Note that the guard has this thread's call wait."""
        self._here.errand.delayed = True

    def stop(self) -> None:
        """Let no further call out."""
        with self._lock:
            self._closed = True

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one call, and count it."""
        with self._lock:
            if self._closed:
                raise Stopped("interrupted", request=request)
            self.sent += 1
            self._here.errand.sent = time.monotonic()
        return self._inner.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class Job:
    """Enriches contacts, each row once, the same email with one call.

    client: has the guard in it, and *wire* below the guard. counts: rows by what
    became of them: matched, missed, repeated, refused, failed, no email, done before
        (by an earlier run), not reached. waits: seconds of each call that was delayed.
    stopped: set by whoever interrupts the run.
    """

    def __init__(
        self, client: httpx.Client, wire: Wire, url: str, enriched: Enriched, refused: Refused
    ) -> None:
        self._client = client
        self._wire = wire
        self._url = url
        self._enriched = enriched
        self._refused = refused
        self._lock = threading.Lock()
        self._flying: dict[str, Errand] = {}
        self._errands: queue.Queue[Errand | None] = queue.Queue()
        self._fault: FileFault | None = None
        self.counts: Counter[str] = Counter()
        self.waits: list[float] = []
        self.stopped = threading.Event()

    @property
    def seen(self) -> int:
        """How many rows have come to an end."""
        return self.counts.total()

    def run(self, contacts: Contacts, threads: int, watch: Callable[[], None]) -> None:
        """Carry out the job; *watch* is called about ten times a second.

        Raises:
            FileFault: the contacts cannot be read any further, or the results not
                written; everything before is in the files.
        """
        crew = [
            threading.Thread(target=self._work, name=f"enrich-{n}", daemon=True)
            for n in range(threads)
        ]
        for worker in crew:
            worker.start()
        with closing(contacts.rows()) as rows:
            try:
                self._feed(rows, 4 * threads, watch)
            except FileFault as fault:
                self._fault = self._fault or fault
            for _ in crew:
                self._errands.put(None)
            self._finish(crew, watch)
            if self.stopped.is_set():
                self._leave(rows)
        if self._fault is not None:
            raise self._fault

    # -- the main thread ---------------------------------------------------------

    def _feed(self, rows: Iterator[Contact], most: int, watch: Callable[[], None]) -> None:
        last = 0.0
        for contact in rows:
            self._take(contact)
            while not self.stopped.is_set():
                if time.monotonic() - last >= TICK:
                    watch()
                    last = time.monotonic()
                if len(self._flying) < most:
                    break
                self.stopped.wait(TICK / 10)
            if self.stopped.is_set():
                return

    def _take(self, contact: Contact) -> None:
        """End a row that needs no call, or see that one is made for it."""
        with self._lock:
            if self._enriched.takes_over(contact):
                self.counts["done before"] += 1
            elif not contact.email:
                self._refuse(contact, "no email", "no email")
            elif contact.who in self._enriched.known:
                self._enrich(contact, self._enriched.known[contact.who], "repeated")
            elif contact.who in self._flying:
                self._flying[contact.who].contacts.append(contact)
            else:
                errand = self._flying[contact.who] = Errand([contact])
                self._errands.put(errand)

    def _finish(self, crew: list[threading.Thread], watch: Callable[[], None]) -> None:
        """Wait for what is under way; interrupted, only for calls that have gone out."""
        deadline = None
        while alive := [worker for worker in crew if worker.is_alive()]:
            watch()
            alive[0].join(TICK)
            if self.stopped.is_set():
                self._wire.stop()
                deadline = deadline or time.monotonic() + GRACE
                if not self._out() or time.monotonic() > deadline:
                    return

    def _out(self) -> bool:
        with self._lock:
            return any(errand.sent is not None for errand in self._flying.values())

    def _leave(self, rows: Iterator[Contact]) -> None:
        """Put everything that was not reached into the file of refused rows."""
        with self._lock:
            flying, self._flying = self._flying, {}
            for errand in flying.values():
                for contact in errand.contacts:
                    said = NOT_REACHED if errand.sent is None else "no answer yet; it may be billed"
                    self._refuse(contact, "not reached", said)
            if self._fault is not None:
                return
            for contact in rows:
                if self._enriched.takes_over(contact):
                    self.counts["done before"] += 1
                else:
                    self._refuse(contact, "not reached", NOT_REACHED)

    # -- the crew ----------------------------------------------------------------

    def _work(self) -> None:
        while (errand := self._errands.get()) is not None:
            self._wire.carries(errand)
            began = time.monotonic()
            said = None if self.stopped.is_set() else self._ask(errand.contacts[0].email)
            if errand.delayed:
                self.waits.append((errand.sent or time.monotonic()) - began)
            if said is None:
                continue
            try:
                self._end(errand, *said)
            except FileFault as fault:
                self._fault = fault
                self.stopped.set()

    def _end(self, errand: Errand, outcome: str, said: tuple[str, ...] | str) -> None:
        with self._lock:
            who = errand.contacts[0].who
            if self._flying.get(who) is not errand:
                # The run was interrupted and did not wait any longer.
                return
            for contact in errand.contacts:
                if isinstance(said, str):
                    self._refuse(contact, outcome, said)
                else:
                    self._enrich(contact, said, outcome)
                    outcome = "repeated"
            del self._flying[who]

    def _enrich(self, contact: Contact, added: tuple[str, ...], outcome: str) -> None:
        self._enriched.add(contact, added)
        self.counts[outcome] += 1

    def _refuse(self, contact: Contact, outcome: str, reason: str) -> None:
        self._refused.add(contact, reason)
        self.counts[outcome] += 1

    def _ask(self, email: str) -> tuple[str, tuple[str, ...] | str] | None:
        """Make one call; None if the job was interrupted before it went out."""
        asked = {"quotaguard": {"priority": PRIORITY}}
        try:
            answer = self._client.post(self._url, json={"email": email}, extensions=asked)
        except Refusal as refusal:
            return "refused", _reason(refusal)
        except Stopped:
            return None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return "failed", f"{type(error).__name__}: not sent"
        except httpx.HTTPError as error:
            return "failed", f"{type(error).__name__}: no whole answer; it may be billed"
        if answer.status_code == 404:
            return MISSED, ("",) * (len(ADDED) - 1) + (MISSED,)
        if answer.status_code == 200:
            return MATCHED, (*_found(answer), MATCHED)
        if answer.status_code == 202:
            return "failed", "HTTP 202: the provider is still searching; ask again later"
        return "failed", f"HTTP {answer.status_code}"


def _reason(refusal: Refusal) -> str:
    said = type(refusal).__name__
    if refusal.limit is not None and refusal.used is not None:
        said += f": {refusal.used:,} of {refusal.limit:,} units used"
        if refusal.margin:
            said += f", {refusal.margin:,} held back for others"
    elif refusal.reason:
        said += f": {refusal.reason}"
    return said


def _found(answer: httpx.Response) -> tuple[str, ...]:
    """Return what the answer says of the person, one text per column."""
    try:
        person = answer.json()
    except ValueError:
        person = None
    told = person if isinstance(person, dict) else {}
    texts = (told.get(name) for name in FOUND)
    return tuple(text if isinstance(text, str) else "" for text in texts)
