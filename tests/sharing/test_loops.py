"""Event loops and shared books: no loop ever waits for a store, whatever is asked of a guard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import servers
from anyio.lowlevel import checkpoint
from blockbuster import BlockBuster
from shelves import ENRICH, FOUND, MATCHES, Provider

from quotaguard import FullContact, Guard, LedgerUnavailable, Policy, QuotaUnknown
from quotaguard.ledgers.redis import RedisLedger
from quotaguard.ledgers.sqlite import SQLiteLedger
from quotaguard.logs import add_quota
from quotaguard.sharing.ledger import SharedLedger

URL = "https://api.fullcontact.com/v3/person.enrich"
QUOTA = 1000

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Run one server for the module."""
    with servers.serving(tmp_path_factory.mktemp("redis")) as made:
        yield made


@pytest.fixture(params=["sqlite", "redis"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SharedLedger]:
    """Yield books that processes may share, empty."""
    if request.param == "sqlite":
        made: SharedLedger = SQLiteLedger(tmp_path / "quota.db")
    else:
        server = request.getfixturevalue("server")
        server.client().flushall()
        made = RedisLedger(server.url)
    yield made
    made.close()


class World(httpx.AsyncBaseTransport):
    """A guard on real clocks, and its provider in memory."""

    def __init__(self, ledger: SharedLedger, **settings: Any) -> None:
        self.ledger = ledger
        policy = Policy(**{"lag": 0.2, "late": 0.2, "cold_reserve": 0, "warn_at": (), **settings})
        self.guard = Guard(FullContact("key"), ledger=ledger, policy=policy)
        self.provider = Provider(ledger.clock, QUOTA)  # type: ignore[arg-type] # a clock
        self.guard._spending.stats = self.provider  # type: ignore[assignment] # it fetches
        self.status = 200
        self.client = httpx.AsyncClient(transport=self.guard.transport(self), trust_env=False)
        self.holder: Any = self.guard._spending.holder

    async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
        if self.status == 200:
            self.provider.charge()
        return httpx.Response(self.status, content=b"{}")

    async def post(self) -> httpx.Response:
        """Make a call."""
        return await self.client.post(URL, json={}, extensions={"quotaguard": {"max_wait": 5}})


@contextmanager
def watched(ledger: SharedLedger) -> Iterator[list[int]]:
    """Let whatever blocks a loop of asyncio raise; yield the threads that asked the store.

    Trio's loops are watched by that alone.
    """
    threads: list[int] = []
    store: Any = ledger.store
    exchange = store.exchange

    def exchanging(*asked: Any) -> str:
        threads.append(threading.get_ident())
        return str(exchange(*asked))

    store.exchange = exchanging
    buster = BlockBuster("quotaguard")
    buster.activate()
    try:
        yield threads
    finally:
        buster.deactivate()
        del store.exchange
    assert threading.get_ident() not in threads, "the loop has asked the store"


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    with anyio.fail_after(10):
        while not true():
            await checkpoint()


async def test_no_loop_waits_for_a_store(ledger: SharedLedger) -> None:
    """Whatever is asked of a guard, and whatever the provider answers."""
    world = World(ledger)
    guard = world.guard
    add = add_quota(guard)
    with watched(ledger) as threads:
        # The second, if the ledger's thread was quick to read them.
        first = {"the books are read first", "a poll comes first"}
        assert guard.check({MATCHES: 1}).reason in first
        assert "not read yet" in repr(guard)
        assert add(None, "info", {"event": "mine"}) == {"event": "mine"}
        await until(lambda: bool(threads))
        async with guard.reserve(dict(ENRICH)) as reservation:
            world.provider.charge()
            reservation.settle(FOUND)
        told = await world.post()
        assert told.extensions["quotaguard"].headroom[MATCHES] <= QUOTA
        for status in (402, 403, 429, 500):
            world.status = status
            await world.post()
            world.status = 200
            await guard.arefresh()
        guard.record({MATCHES: 1})
        world.provider.charge()
        assert not guard.settle(12345, {MATCHES: 1})
        assert guard.check({MATCHES: 1})
        assert not guard.check({MATCHES: QUOTA + 1})
        assert guard.standing()[MATCHES].limit == QUOTA
        assert guard.forecast() is not None
        assert (await guard.astanding())[MATCHES].used >= 3
        assert await guard.aforecast() is not None
        assert add(None, "info", {"event": "mine"})["quota_limit"] == QUOTA
        assert f"/{QUOTA}" in repr(guard).replace(",", "")
        await guard.aclose()
    assert len(threads) > 5


async def test_many_tasks_at_once(ledger: SharedLedger) -> None:
    """One exchange carries what waits; none is granted twice, none is lost."""
    world = World(ledger)
    went: list[int] = []

    async def call(number: int) -> None:
        await world.post()
        went.append(number)

    with watched(ledger) as threads:
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(call, number)
        standing = await world.guard.astanding()
        await world.guard.aclose()
    assert len(went) == world.provider.true == 200
    assert (standing[MATCHES].used, standing[MATCHES].reserved) == (200, 0)
    assert len(threads) < 60


async def test_a_slow_store_stops_nobody_else(ledger: SharedLedger) -> None:
    """While an exchange takes a fifth of a second the loop ticks on."""
    world = World(ledger)
    store: Any = ledger.store
    exchange = store.exchange

    def slow(*asked: Any) -> str:
        threading.Event().wait(0.2)
        return str(exchange(*asked))

    store.exchange = slow
    longest, done = 0.0, False

    async def tick() -> None:
        nonlocal longest
        before = anyio.current_time()
        while not done:
            await checkpoint()
            now = anyio.current_time()
            longest, before = max(longest, now - before), now

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        with watched(ledger):
            for _ in range(3):
                await world.post()
                world.guard.record({MATCHES: 1})
                assert world.guard.check({MATCHES: 1})
                await world.guard.astanding()
        await world.guard.aclose()
        done = True
    assert longest < 0.15, "the loop stood still"
    store.exchange = exchange


async def spend_all(world: World) -> None:
    """Call until a call is refused."""
    while True:
        await world.post()


async def test_a_store_that_is_down(ledger: SharedLedger) -> None:
    """Refused with the ledger's own words, at once; then it is back, and all is counted."""
    world = World(ledger)
    await world.post()
    await world.guard.aclose()
    store: Any = ledger.store
    exchange = store.exchange

    def down(*_: Any) -> str:
        raise LedgerUnavailable("it is down. Start it", store="here")

    store.exchange = down
    with watched(ledger):
        with pytest.raises(QuotaUnknown, match="the ledger cannot be reached") as caught:
            await spend_all(world)
        assert isinstance(caught.value.__cause__, LedgerUnavailable)
        for look in (world.guard.astanding, world.guard.arefresh, world.guard.aforecast):
            with pytest.raises(LedgerUnavailable, match="Start it"):
                await look()
        decision = world.guard.check({MATCHES: 1})
        assert (bool(decision), decision.reason) == (False, "the ledger cannot be reached")
        assert f"/{QUOTA}" in repr(world.guard).replace(",", "")
        world.guard.record({MATCHES: 1})
        world.provider.charge()
    store.exchange = exchange
    with anyio.move_on_after(0.6):
        await anyio.Event().wait()  # so long a store that failed is not asked again
    await world.post()
    row = (await world.guard.astanding())[MATCHES]
    assert (row.used, row.reserved) == (world.provider.true, 0)
    await world.guard.aclose()
