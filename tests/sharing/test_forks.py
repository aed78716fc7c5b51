"""Forks while the ledger's thread and others exchange: nothing hangs, and all stays exact.

A child is a new holder: what its parent reserved is void in it, and what both spend is in
the one set of books.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import servers
from shelves import MATCHES, MISSES, TOTAL
from test_forks import child_of, ended

from quotaguard import FullContact, Guard, Policy, Refusal
from quotaguard.quota.readings import Period, Reading, Usage

QUOTA = 1_000_000

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    # From Python 3.12 on a fork of a process with threads warns: that is what is tried here.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield where the books are."""
    folder: Path = tmp_path_factory.mktemp("books")
    if request.param == "sqlite":
        yield f"sqlite://{folder}/quota.db"
        return
    with servers.serving(folder) as server:
        yield server.url


class Stats:
    """A provider that knows nothing of what is spent here: only the limit."""

    def fetch(self, _wall: float = 0.0) -> Reading:
        limits = {MATCHES: QUOTA, MISSES: None, TOTAL: None}
        return Reading({name: Usage(0, limit) for name, limit in limits.items()}, Period())

    def close(self) -> None:
        """Nothing is open."""


def joined(url: str, account: str) -> Guard:
    """Return a guard of this process at the books."""
    policy = Policy(cold_reserve=0, warn_at=(), poll_every=(600, 900))
    guard = Guard(FullContact("key", account=account), ledger=url, policy=policy)
    guard._spending.stats = Stats()  # type: ignore[assignment] # it fetches
    return guard


def spent(guard: Guard) -> int:
    """Return the units that all have spent."""
    guard.standing()
    return guard._spending.holder.books.meters[MATCHES].spent


def test_forks_while_others_exchange(url: str, forks: int, record_property: Any) -> None:
    """Every unit of parent and children is there once, and no child hangs."""
    guard = joined(url, "storm")
    guard.refresh()
    held = guard.reserve({MATCHES: 5}, priority="critical").open()
    stop, counts = threading.Event(), [0, 0, 0]

    def work(number: int) -> None:
        while not stop.is_set():
            with suppress(Refusal):
                with guard.reserve({MATCHES: 1}, priority="critical", max_wait=1) as mine:
                    mine.settle({MATCHES: 1})
                counts[number] += 1
            if number:
                guard.standing()  # an exchange
            else:
                guard.record({MATCHES: 1})  # one of the ledger's thread
                counts[number] += 1

    def act() -> None:
        name = guard._spending.holder.name
        assert name.split(".")[-3] == str(os.getpid()), name
        with guard.reserve({MATCHES: 2}, priority="critical") as mine:
            mine.settle({MATCHES: 2})
        held.settle({MATCHES: 5})
        assert held.state == "void"
        guard.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    made = max(4, forks // 2)
    try:
        for _ in range(made):
            ended(child_of(act))
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    held.settle({MATCHES: 5})
    assert held.state == "settled"
    guard.close()
    assert spent(guard) == sum(counts) + 2 * made + 5
    assert guard.standing()[MATCHES].reserved == 0
    guard.close()
    record_property("forks", made)


def test_a_fork_waits_for_an_exchange_and_does_not_hang(url: str) -> None:
    """Its thread holds the account's turn and then wants the store, while another forks."""
    guard = joined(url, "order")
    guard.refresh()
    inside, go_on = threading.Event(), threading.Event()
    ledger: Any = guard._ledger
    store, exchange = ledger.store, ledger.store.exchange

    def slow(*asked: Any) -> str:
        inside.set()
        go_on.wait(10)
        return str(exchange(*asked))

    store.exchange = slow
    thread = threading.Thread(target=guard.standing)
    thread.start()
    assert inside.wait(10)
    soon = threading.Timer(0.1, go_on.set)
    soon.start()

    def act() -> None:
        store.exchange = exchange
        assert guard.standing()[MATCHES].limit == QUOTA

    ended(child_of(act))
    thread.join(10)
    soon.join()
    assert not thread.is_alive()
    store.exchange = exchange
    guard.close()
