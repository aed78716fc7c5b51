"""The memory ledger: shared by the process, void in a fork."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from quotaguard import FullContact, Guard, MemoryLedger, Policy
from quotaguard.quota.events import Degraded, Event
from quotaguard.testing import FakeClock, fake

MATCHES = "person.enrichment.matches"
POLICY = Policy(lag=10, late=10)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def spend(guard: Guard, count: int = 1) -> None:
    """Make billed calls."""
    for _ in range(count):
        with guard.reserve({MATCHES: 1}, priority="critical") as reservation:
            reservation.settle()


def in_child(act: Callable[[], Any]) -> Any:
    """Run *act* in a forked child and return what it returned."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            told = pickle.dumps((True, act()))
        except BaseException as error:  # noqa: BLE001 - told to the parent
            told = pickle.dumps((False, repr(error)))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(told)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        went, value = pickle.loads(pipe.read())  # noqa: S301 - our own child's
    os.waitpid(child, 0)
    assert went, value
    return value


@needs_fork
def test_a_fork_counts_what_it_inherits_and_is_cold() -> None:
    """The parent's reservations are void in a child and count as spent; lanes do not."""
    clock = FakeClock()
    with fake("fullcontact", quota=100, key="k", clock=clock) as vendor:
        told: list[Event] = []
        provider = FullContact("k", base_url=vendor.url)
        guard = Guard(provider, policy=POLICY, clock=clock, listeners=[told.append])
        spend(guard, 3)
        held = guard.reserve({MATCHES: 4}, priority="critical").open()

        def act() -> tuple[Any, ...]:
            held.settle()
            row = guard.standing()[MATCHES]
            spend(guard)
            warned = [event.state for event in told if isinstance(event, Degraded)]
            return held.state, row.used, row.reserved, row.headroom, warned

        state, used, reserved, headroom, warned = in_child(act)
        assert (state, used, reserved) == ("void", 7, 0)
        assert headroom == 100 - 7 - 5
        assert warned == ["forked"]
        held.settle()
        row = guard.standing()[MATCHES]
        assert (row.used, row.reserved) == (7, 0)
        assert not [event for event in told if isinstance(event, Degraded)]


@needs_fork
def test_a_fork_while_another_thread_holds_every_lock_does_not_hang() -> None:
    """Threads spend all the while; no child ever inherits a lock that nobody opens."""
    with fake("fullcontact", quota=None, key="k") as vendor:
        guard = Guard(FullContact("k", base_url=vendor.url), policy=POLICY)
        spend(guard)
        done = threading.Event()

        def busy() -> None:
            while not done.is_set():
                spend(guard)
                guard.standing()

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                assert in_child(lambda: spend(guard, 3)) is None
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert guard.standing()[MATCHES].reserved == 0


def test_guards_with_other_terms_take_no_units_from_each_others_lanes() -> None:
    """Whoever posts takes back what every lane has left: the books are exact."""
    clock = FakeClock()
    ledger = MemoryLedger(clock=clock)
    with fake("fullcontact", quota=100, key="k", clock=clock) as vendor:
        provider = FullContact("k", base_url=vendor.url)
        plain = {"lag": 10, "late": 10, "cold_reserve": 0}
        free = Guard(provider, ledger=ledger, clock=clock, policy=Policy(**plain))  # type: ignore[arg-type]
        strict = Guard(provider, ledger=ledger, clock=clock, policy=Policy(margin=30, **plain))  # type: ignore[arg-type]
        spend(free, 10)
        spend(strict, 60)
        assert not strict.check({MATCHES: 1}, priority="critical")
        spend(free, 30)
        assert not free.check({MATCHES: 1}, priority="critical")
        assert free.standing()[MATCHES].used == 100
        assert repr(ledger) == "<MemoryLedger: 1 accounts>"


def test_a_thousand_short_lived_guards_are_one_holder() -> None:
    """Guards of equal terms share a holder: a guard per request does not make the books grow."""
    clock = FakeClock()
    ledger = MemoryLedger(clock=clock)
    with fake("fullcontact", quota=2000, key="k", clock=clock) as vendor:
        for _ in range(1000):
            provider = FullContact("k", base_url=vendor.url)
            spend(Guard(provider, ledger=ledger, clock=clock, policy=Policy(lag=10)))
        guard = Guard(provider, ledger=ledger, clock=clock, policy=Policy(lag=10))
        books = guard._spending.holder.books
        assert len(books.holders) == 1
        assert guard.standing()[MATCHES].used == 1000
        assert vendor.polls == 1
