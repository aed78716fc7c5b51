"""Forks while other threads hold every lock, and many threads at once: nothing hangs.

A child is a new holder without an allotment: the parent's reservations are void in it,
and nothing that it does is in the parent's books. Every child lives under an alarm.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest

from quotaguard import FullContact, Guard, MemoryLedger, Policy, QuotaExhausted, forking
from quotaguard.clock import _JumpedMonotonic
from quotaguard.drivers import BACKGROUND
from quotaguard.quota.events import Event, Settled
from quotaguard.stats import Stats
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.fullcontact import FakeFullContact

MATCHES = "person.enrichment.matches"
KEY = "key"
PATH = "/v3/person.enrich"
PERSON = {"email": "ann@example.com"}
HEADERS = {"Authorization": f"Bearer {KEY}"}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    # From Python 3.12 on a fork of a process with threads warns: that is what is tried here.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def child_of(act: Callable[[], None]) -> int:
    """Fork, let the child do *act* within 20 seconds, and return its number."""
    failed: list[object] = []
    # What is raised as a process forks is not raised by `os.fork`.
    hook, sys.unraisablehook = sys.unraisablehook, failed.append
    child = os.fork()
    if child:
        sys.unraisablehook = hook
        assert not failed
        return child
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        assert not failed, failed
        act()
        code = 0
    except BaseException:  # noqa: BLE001 - told here, and by the code
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ended(child: int) -> None:
    """Wait for a child, which must end by itself, and well."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != -signal.SIGALRM, "the child hangs"
    assert code == 0


class Application:
    """A guard in a process with busy threads, and something of it for each lock."""

    def __init__(self, vendor: FakeFullContact) -> None:
        self.vendor = vendor
        self.told: list[Event] = []
        self.done = threading.Event()
        self.ledger = MemoryLedger()
        self.guard = Guard(
            FullContact(KEY, base_url=vendor.url),
            ledger=self.ledger,
            policy=Policy(lag=0.2, late=0.2, cold_reserve=0, poll_every=(0.05, 0.2)),
            listeners=[self.told.append],
        )
        self.client = self.guard.client(base_url=vendor.url, headers=HEADERS, verify=False)
        self.guard.refresh()
        self.held = self.guard.reserve({MATCHES: 3}, priority="critical").open()
        self.threads = [threading.Thread(target=self.work, args=(number,)) for number in range(3)]

    def locks(self) -> dict[str, Any]:
        """Return every lock that there is, by the name of its room."""
        guard = self.guard
        return {
            "holder": guard._spending.holder.lock,
            "line": guard._spending.holder.queue._lock,  # type: ignore[attr-defined] # memory's
            "ledger": self.ledger._lock,
            "shelf": guard._spending.stats._stats._shelf._lock,  # type: ignore[attr-defined] # made
            "background": BACKGROUND._lock,
            "fork": forking.LOCK.lock,
        }

    @property
    def spent(self) -> int:
        """Units that this process has spent, by its own books."""
        self.guard.standing()
        return self.guard._spending.holder.books.meters[MATCHES].spent

    @property
    def opened(self) -> int:
        """Units that this process holds for calls in flight."""
        return self.guard._spending.holder.allotment.purse(MATCHES).opened

    def reserve(self) -> None:
        """Spend one unit, that of nobody's call."""
        with self.guard.reserve({MATCHES: 1}, priority="critical") as reservation:
            reservation.settle()

    def stop(self) -> None:
        """Let the threads end."""
        self.done.set()
        for thread in self.threads:
            thread.join()

    def work(self, number: int) -> None:
        """Do what an application does, all the time."""
        acts: list[Callable[[], object]] = [
            self.reserve,
            self.guard.standing,
            self.guard.refresh,
            lambda: self.guard.check({MATCHES: 1}),
            lambda: self.client.post(PATH, json=PERSON),
        ]
        for turn in itertools.count(number):
            if self.done.is_set():
                return
            acts[turn % len(acts)]()


@pytest.fixture
def application() -> Iterator[Application]:
    """Run an application with three busy threads over a slow provider."""
    with fake("fullcontact", quota=None, key=KEY, match_rate=1.0, latency=0.002) as vendor:
        made = Application(vendor)
        for thread in made.threads:
            thread.start()
        try:
            yield made
        finally:
            made.stop()
            made.client.close()


@contextmanager
def holding(lock: Any) -> Iterator[None]:
    """Let another thread hold *lock*, a little longer than until the fork has begun."""
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            # Locks that a fork waits for are given back while it waits.
            forked.wait(0.003)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        yield
    finally:
        forked.set()
        thread.join()


def as_new(application: Application, act: Callable[[], None]) -> Callable[[], None]:
    """Return what a child does: it looks at what it is, and then does *act*."""
    parent = os.getpid()

    def look() -> None:
        holder = application.guard._spending.holder
        assert os.getpid() != parent
        assert holder.name.startswith(f"{os.getpid()}.")
        assert holder.allotment.purses == {}, "a child has the parent's allotment"
        application.held.settle()
        assert application.held.state == "void"
        before = application.spent
        act()
        assert (application.opened, application.spent) == (0, before + 1)

    return look


def ways(application: Application) -> list[Callable[[], None]]:
    """Return the ways in which a child spends one unit."""
    guard, url = application.guard, application.vendor.url

    def client() -> None:
        with guard.client(base_url=url, headers=HEADERS, verify=False) as fresh:
            assert fresh.post(PATH, json=PERSON).status_code == 200

    async def atask() -> None:
        async with guard.async_client(base_url=url, headers=HEADERS, verify=False) as fresh:
            assert (await fresh.post(PATH, json=PERSON)).status_code == 200

    @guard.limit({MATCHES: 1}, priority="critical")
    def function() -> None:
        return None

    def grandchild() -> None:
        ended(child_of(application.reserve))
        application.reserve()

    def background() -> None:
        guard._spending.background = True
        application.reserve()

    return [
        application.reserve,
        client,
        function,
        lambda: asyncio.run(atask()),
        lambda: anyio.run(atask, backend="trio"),
        grandchild,
        background,
    ]


@pytest.mark.timeout(600)
def test_forks_while_every_lock_is_held(
    application: Application, forks: int, record_property: Callable[..., None]
) -> None:
    """Each lock in turn, each way in, in a process whose threads call and poll and tell."""
    names, many = list(application.locks()), len(ways(application))
    for number in range(forks):
        with holding(application.locks()[names[number % len(names)]]):
            child = child_of(as_new(application, ways(application)[number % many]))
        ended(child)
    record_property("forks", forks)
    application.stop()
    settled = [event for event in application.told if isinstance(event, Settled)]
    assert not any(event.unknown for event in settled)
    assert application.spent == sum(event.cost.get(MATCHES, 0) for event in settled)
    assert application.opened == 3
    application.held.release()
    assert application.opened == 0
    assert application.guard.standing()[MATCHES].reserved == 0


def test_several_children_at_once_are_several_holders(application: Application) -> None:
    """As a prefork server has them: each with threads of its own, each with its own books."""

    def serve() -> None:
        before = application.spent
        threads = [threading.Thread(target=application.reserve) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert application.spent == before + 20

    for child in [child_of(serve) for _ in range(6)]:
        ended(child)


def test_a_fork_while_ledgers_are_born_and_die(forks: int) -> None:
    """The hooks go over all ledgers of the process, and others make new ones meanwhile."""
    done = threading.Event()

    def make() -> None:
        while not done.is_set():
            kept = [MemoryLedger() for _ in range(20)]
            del kept

    threads = [threading.Thread(target=make) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(forks):
            ended(child_of(lambda: None))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert not forking.LOCK.lock.locked()


def test_a_fork_while_a_transport_makes_its_wire() -> None:
    """It is made at the first call; a child makes its own."""
    with fake("fullcontact", quota=None, key=KEY, match_rate=1.0) as vendor:
        guard = Guard(FullContact(KEY, base_url=vendor.url), ledger=MemoryLedger())

        def call(client: httpx.Client) -> None:
            url = f"{vendor.url}{PATH}"
            assert client.post(url, json=PERSON, headers=HEADERS).status_code == 200

        for _ in range(5):
            with httpx.Client(transport=guard.transport()) as client:
                client._transport._sync = None  # type: ignore[attr-defined] # not made yet
                thread = threading.Thread(target=call, args=(client,))
                thread.start()
                child = child_of(lambda client=client: call(client))  # type: ignore[misc]
                ended(child)
                thread.join()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_fork_inside_an_event_loop(backend: str) -> None:
    """A poll of its own loop is under way: the child waits for nobody, and runs its own."""
    with fake("fullcontact", quota=None, key=KEY, match_rate=1.0, latency=0.05) as vendor:
        made = Application(vendor)
        asked = vendor.polls

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(made.guard.arefresh)
                while vendor.polls == asked:
                    await anyio.lowlevel.checkpoint()
                assert made.guard._spending.holder.polling_loops
                for number in range(6):
                    # Trio keeps its run in the thread, and a child cannot begin another one.
                    own = [made.reserve, ways(made)[1], ways(made)[3]][
                        : 3 if backend == "asyncio" else 2
                    ]
                    ended(child_of(as_new(made, own[number % len(own)])))

        anyio.run(main, backend=backend)
        assert made.guard._spending.holder.polling_loops == []
        made.held.release()
        made.client.close()


def test_polls_make_no_tls_context_of_their_own() -> None:
    """OpenSSL has locks too, which a fork may catch in its hands, and a child then hangs."""
    for url in ("http://127.0.0.1:1", "https://api.fullcontact.com"):
        provider = FullContact(KEY, base_url=url)
        made = [Stats(provider)._own(provider.stats_request())["verify"] for _ in range(2)]
        assert made[0] is made[1]


def test_a_fork_while_the_clock_is_read() -> None:
    """Where there is no clock that goes on in suspend, ours has a lock."""
    clock = _JumpedMonotonic()
    with holding(clock._lock):
        child = child_of(lambda: None if clock() > 0.0 else pytest.fail("no time"))
    ended(child)


# -- many threads ------------------------------------------------------------------


@pytest.mark.timeout(3600)
def test_64_threads_spend_exactly_the_quota(
    hammer: int, seed: int, record_property: Callable[..., None]
) -> None:
    """They are switched every microsecond, and settle, release and give up at random.

    The lanes are small near the end, so that the fast lane and the story take turns.
    """
    quota, many = 16 * hammer, 64
    clock = FakeClock()
    with fake("fullcontact", quota=quota, key=KEY, clock=clock) as vendor:
        policy = Policy(lag=10, late=10, cold_reserve=0, max_wait=0)
        guard = Guard(FullContact(KEY, base_url=vendor.url), policy=policy, clock=clock)
        guard.refresh()
        ends: list[Counter[str]] = []
        failures: list[BaseException] = []

        def work(number: int) -> None:
            chance, mine = random.Random(seed + number), Counter[str]()
            ends.append(mine)
            try:
                for _ in range(hammer):
                    try:
                        reservation = guard.reserve({MATCHES: 1}, priority="critical").open()
                    except QuotaExhausted:
                        mine["refused"] += 1
                        continue
                    end = chance.choices(["settled", "released", "unknown"], [8, 1, 1])[0]
                    {"settled": reservation.settle, "released": reservation.release}.get(
                        end, reservation.give_up
                    )()
                    mine[end] += 1
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append(error)

        run(work, many)
        assert not failures, failures[0]
        total = sum(ends, Counter[str]())
        assert total.total() == many * hammer
        # Nothing is polled meanwhile, so a unit that is spent or unknown is gone.
        assert total["settled"] + total["unknown"] == quota
        assert total["released"] > 0
        assert total["refused"] > 0
        row = guard.standing()[MATCHES]
        assert (row.used, row.reserved, row.headroom) == (total["settled"], total["unknown"], 0)
        record_property("64 threads", dict(total))


def run(work: Callable[[int], None], many: int) -> None:
    """Run *work* in many threads, which are switched every microsecond."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(many)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
