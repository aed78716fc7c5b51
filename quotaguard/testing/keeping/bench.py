"""The ledger on trial: its processes, their guards, and how a breach is told."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from quotaguard.errors import LedgerUnavailable, QuotaExhausted, Refusal, WaitTooLong
from quotaguard.guard import Guard
from quotaguard.quota.policy import Policy
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.store import Draft, Seen, Store, Turn
from quotaguard.spending import terms_of
from quotaguard.testing.keeping.vendor import CALLS, UNITS, BenchProvider, Vendor
from quotaguard.testing.keeping.world import World
from quotaguard.testing.laws.subject import Judged

if TYPE_CHECKING:
    from quotaguard.clock import Clock
    from quotaguard.ledgers import Holder, Ledger
    from quotaguard.testing.keeping.world import ProcessClock

__all__ = ["LATE", "Bench", "Broken", "MakeLedger", "Process", "drain", "spend"]

LATE = 10.0
"""Seconds after which an unanswered call is not charged any more, on the bench."""

PLAIN: Mapping[str, Any] = {
    "lag": 1.0,
    "late": LATE,
    "margin": 0,
    "exclusive": True,
    "cold_reserve": 0,
    "warn_at": (),
    "poll_every": (600.0, 900.0),
}
"""A policy without what would keep units back, and without polls that nobody asks for."""


class MakeLedger(Protocol):
    """Opens one more ledger on the same books, as another process would."""

    def __call__(self, clock: Clock, /) -> Ledger:
        """Return a new ledger object that goes by *clock*."""


class Broken:
    """A store that fails and does not fail, as the bench wants.

    It stands before the real store of a `SharedLedger`. down: nothing gets through.
    lost: so many next answers are lost, what was asked for is done. pause: what is done
    before anything is passed on.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.name, self.remote = store.name, store.remote
        self.down = False
        self.lost = 0
        self.pause: Callable[[], object] = bool

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the store's own, such as warnings
        return getattr(self.store, name)

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Pass it on, or fail."""
        self.pause()
        if self.down:
            raise LedgerUnavailable("the bench has broken it", store=self.name)
        drafts: list[Draft | None] = []

        def heard(seen: Seen) -> Draft | None:
            drafts.append(turn(seen))
            return drafts[-1]

        version = self.store.exchange(account, known, heard)
        if self.lost and drafts[-1] is not None:
            self.lost -= 1
            raise LedgerUnavailable("the answer was lost", store=self.name, unsure=True)
        return version

    def forked(self) -> None:
        """Pass it on."""
        self.store.forked()

    def close(self) -> None:
        """Pass it on."""
        self.store.close()


@dataclass(slots=True)
class Process:
    """A process on the bench: a ledger of its own, its clock, and its guards."""

    bench: Bench
    ledger: Ledger
    clock: ProcessClock
    number: int
    stopped_at: float = math.nan
    guards: list[Guard] = field(default_factory=list)

    def guard(
        self,
        vendor: Vendor,
        listeners: tuple[Callable[[Any], None], ...] = (),
        *,
        tasks: bool = False,
        **settings: Any,  # noqa: ANN401 - a Policy's
    ) -> Guard:
        """Return a guard of the vendor's account at this ledger.

        Those of two processes have other terms, so that they are two holders anyway.
        tasks: it is asked by event loops alone.
        """
        policy = Policy(**{**PLAIN, "max_age": 3600.0 + self.number, **settings})
        guard = Guard(
            BenchProvider(vendor),
            ledger=self.ledger,
            policy=policy,
            listeners=listeners,
            stats_client=vendor.task_client() if tasks else vendor.client(),
            clock=self.clock,
        )
        self.guards.append(guard)
        return guard

    def holder(self, vendor: Vendor, **settings: Any) -> Holder:  # noqa: ANN401 - a Policy's
        """Return a place at the books without a guard."""
        policy = Policy(**{**PLAIN, "max_age": 3600.0 + self.number, **settings})
        return self.ledger.holder(terms_of(BenchProvider(vendor), policy))

    def stop(self) -> None:
        """It is killed, or sleeps: from now on nothing happens in it."""
        self.stopped_at = self.bench.world.gone
        self.bench.world.living.remove(self.clock)

    def wake(self) -> None:
        """It has slept and goes on."""
        self.clock.advance(self.bench.world.gone - self.stopped_at)
        self.bench.world.living.append(self.clock)


@dataclass(slots=True, kw_only=True)
class Bench(Judged):
    """What a law has to work with."""

    make: MakeLedger
    shared: bool
    lease: float
    down: Callable[[], AbstractContextManager[object]] | None = None
    contents: Callable[[], bytes] | None = None
    world: World = field(default_factory=World)
    law: str = ""
    processes: list[Process] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def process(self) -> Process:
        """Return a process that was just started.

        A ledger that is not shared has one: then it is another holder there.
        """
        number = next(self._numbers)
        if not self.shared and self.processes:
            first = self.processes[0]
            process = Process(self, first.ledger, first.clock, number)
        else:
            clock = self.world.clock()
            ledger = self.make(clock)
            if isinstance(ledger, SharedLedger):
                ledger.store = Broken(ledger.store)
            process = Process(self, ledger, clock, number)
        self.processes.append(process)
        return process

    def pair(self) -> tuple[Process, Process]:
        """Return two."""
        return self.process(), self.process()

    def vendor(self, limit: int | None = 40, **limits: int | None) -> Vendor:
        """Return a vendor, and with it an account that no ledger has seen."""
        name = f"Kit {self.law} & Co {os.urandom(6).hex()}"
        return Vendor(name, {CALLS: limit, UNITS: None, **limits})

    @contextlib.contextmanager
    def outage(self, *processes: Process) -> Iterator[None]:
        """The store cannot be reached."""
        stores = [
            process.ledger.store
            for process in processes
            if isinstance(process.ledger, SharedLedger) and isinstance(process.ledger.store, Broken)
        ]
        with contextlib.ExitStack() as stack:
            if self.down is not None:
                stack.enter_context(self.down())
            else:
                for store in stores:
                    store.down = True
            try:
                yield
            finally:
                for store in stores:
                    store.down = False

    @property
    def kind(self) -> str:
        """What is on trial, for people."""
        return type(self.processes[0].ledger).__name__ if self.processes else "the ledger"

    def clear(self) -> None:
        """End what a law has begun."""
        for process in self.processes:
            for guard in process.guards:
                guard.close()
        self.processes.clear()
        self.world.living.clear()


def spend(guard: Guard, vendor: Vendor, count: int = 1, **settings: Any) -> None:  # noqa: ANN401 - of reserve()
    """Make calls that are billed."""
    for _ in range(count):
        with guard.reserve({CALLS: 1}, **{"priority": "critical", **settings}) as reservation:
            vendor.charge({CALLS: 1})
            reservation.settle()


def drain(guard: Guard, vendor: Vendor, most: int = 1000, **settings: Any) -> int:  # noqa: ANN401 - as above
    """Make calls until one is refused, or *most*; return how many went."""
    for number in range(most):
        try:
            spend(guard, vendor, **settings)
        except (QuotaExhausted, WaitTooLong):
            return number
    return most


def refused(guard: Guard, **settings: Any) -> Refusal | None:  # noqa: ANN401 - as above
    """Return the refusal of one call, None if it goes; it costs nothing."""
    try:
        with guard.reserve({CALLS: 1}, **{"priority": "critical", **settings}) as reservation:
            reservation.release()
    except Refusal as refusal:
        return refusal
    return None
