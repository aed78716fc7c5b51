"""Every point at which a guarded call awaits, cancelled: nothing hangs, nothing stays held.

The task is stepped: a coroutine around it sees every suspension, and at the one with the
number that is tried it is cancelled, in every way in which asyncio and trio can do that.
All of a way's points are tried, one run each, until a run is through before its turn.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import threading
import types
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
)
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint

from quotaguard import FullContact, Guard, MemoryLedger, Policy
from quotaguard.drivers import BACKGROUND
from quotaguard.quota.admission import Poll
from quotaguard.quota.calls import Bill, Call, Outcome
from quotaguard.quota.entries import Abandon
from quotaguard.quota.events import Event, Released, Reserved, Settled
from quotaguard.quota.polls import Claim
from quotaguard.quota.readings import Period, Reading, Usage
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.fullcontact import FakeFullContact

MATCHES, MISSES, TOTAL = (f"person.enrichment.{part}" for part in ("matches", "misses", "total"))
ENRICH = {MATCHES: 1, MISSES: 1, TOTAL: 1}
FOUND = {MATCHES: 1, TOTAL: 1}
URL = "https://api.fullcontact.com"
PATH = "/v3/person.enrich"
PERSON = {"email": "ann@example.com"}
CRITICAL = {"quotaguard": {"priority": "critical", "max_wait": 0}}

pytestmark = pytest.mark.anyio

Acting = Coroutine[Any, Any, None]
Law = Callable[[Any], None]

# -- stepping --------------------------------------------------------------------


class Points:
    """Counts the suspensions of a task, and does *act* at the one with this *number*.

    always: and at every one after that.
    """

    def __init__(self, number: int, act: Callable[[Any], object], *, always: bool = False) -> None:
        self.number = number
        self.act = act
        self.always = always
        self.seen = 0

    def reached(self, awaited: object) -> None:
        """The task is about to suspend itself, waiting for *awaited*."""
        self.seen += 1
        if self.seen == self.number + 1 or (self.always and self.seen > self.number):
            self.act(awaited)

    @property
    def spared(self) -> bool:
        """Whether the task was through before its turn."""
        return self.seen <= self.number


class ThrownAway(Exception):
    """The coroutine was closed."""


@types.coroutine
def stepped(inner: Acting, points: Points) -> Generator[Any, Any, None]:
    """Run *inner*, and tell *points* of every suspension."""
    step = partial(inner.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration:
            return
        points.reached(awaited)
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001 - it is thrown on
            step = partial(inner.throw, error)
        else:
            step = partial(inner.send, sent)


async def in_task(inner: Acting, points: Points) -> None:
    """Run it in a task of asyncio's own, which may end cancelled."""
    task = asyncio.ensure_future(stepped(inner, points))
    points.act = partial(points.act, task)
    await asyncio.wait({task})
    with suppress(asyncio.CancelledError):
        task.result()


async def cancelled(world: World, inner: Acting, number: int) -> Points:
    """Cancel the task once, as asyncio does: what awaits raises, later awaits do not."""
    points = Points(number, lambda task, _: task.cancel())
    await in_task(inner, points)
    return points


async def hounded(world: World, inner: Acting, number: int) -> Points:
    """Cancel it, and again wherever it awaits after that."""
    points = Points(number, lambda task, _: task.cancel(), always=True)
    await in_task(inner, points)
    return points


async def overtaken(world: World, inner: Acting, number: int) -> Points:
    """Cancel it just when what it awaits has come: the result is lost."""

    def cancel(task: asyncio.Task[None], awaited: Any) -> None:
        if awaited is None:
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            awaited.add_done_callback(lambda _: task.cancel())

    points = Points(number, cancel)
    await in_task(inner, points)
    return points


async def scoped(world: World, inner: Acting, number: int) -> Points:
    """Cancel the scope around it: from then on every await raises."""
    with anyio.CancelScope() as scope:
        points = Points(number, lambda _: scope.cancel())
        await stepped(inner, points)
    return points


async def late(world: World, inner: Acting, number: int) -> Points:
    """Let its time be up."""
    with suppress(TimeoutError), anyio.fail_after(1000) as scope:
        points = Points(number, lambda _: setattr(scope, "deadline", -math.inf))
        await stepped(inner, points)
    return points


async def bereft(world: World, inner: Acting, number: int) -> Points:
    """Let a sibling of its group fail."""
    told = anyio.Event()
    points = Points(number, lambda _: told.set())

    async def sibling() -> None:
        await told.wait()
        raise ZeroDivisionError

    with suppress(ExceptionGroup):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sibling)
            await stepped(inner, points)
            tasks.cancel_scope.cancel()
    return points


async def thrown_away(world: World, inner: Acting, number: int) -> Points:
    """Close the coroutine, as the garbage collector may: while its thread holds our locks."""

    def throw(_: object) -> None:
        with world.holder.lock, world.holder.queue._lock:
            inner.close()
        raise ThrownAway

    points = Points(number, throw)
    # The loop shall not learn of httpx's own generators: it would close them in any order.
    known = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        with suppress(ThrownAway):
            await stepped(inner, points)
    finally:
        sys.set_asyncgen_hooks(*known)
    return points


How = Callable[["World", Acting, int], Awaitable[Points]]

HOW: dict[str, How] = {
    each.__name__: each
    for each in (cancelled, hounded, overtaken, scoped, late, bereft, thrown_away)
}
EVERYWHERE = "scoped", "late", "bereft", "thrown_away"
"""The others are asyncio's own: trio cancels scopes, and never loses a result."""

everyhow = pytest.mark.parametrize(
    ("anyio_backend", "how"),
    [*(("asyncio", how) for how in HOW), *(("trio", how) for how in EVERYWHERE)],
)

# -- a world ---------------------------------------------------------------------


class Counted(FullContact):
    """A provider whose answer says in its body what it cost."""

    __slots__ = ()

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        if outcome.body is None:
            return Bill(None, wants_body=True)
        return Bill({MATCHES: json.loads(outcome.body)["found"], TOTAL: 1})


class Still(FakeClock):
    """Time does not pass: whoever waits is woken by news, or not at all."""

    async def await_(self, wake: anyio.Event, _: float) -> None:
        await wake.wait()


def memory(clock: Any) -> Any:
    """Return books in memory."""
    return MemoryLedger(clock=clock)


class World(httpx.AsyncBaseTransport):
    """A provider in memory that knows its own truth, and a guard of it.

    Its polls and its calls await several times: before a call is charged, after that,
    and between the pieces of the body.
    """

    heals, priced, quota = 1, True, 12

    def __init__(self, provider: type[FullContact] = FullContact, **settings: Any) -> None:
        background, listeners = settings.pop("background", False), settings.pop("listeners", ())
        self.clock = settings.pop("clock", None) or FakeClock()
        self.true: Counter[str] = Counter()
        now = self.clock.now().wall
        self.period = Period(now - 1000.0, now + 1_000_000.0)
        self.ledger = settings.pop("ledger", memory)(self.clock)
        policy = Policy(**{"lag": 10, "late": 10, "cold_reserve": 0, "warn_at": (), **settings})
        self.guard = Guard(
            provider("key"),
            ledger=self.ledger,
            policy=policy,
            clock=self.clock,
            background=background,
            listeners=listeners,
        )
        self.polling, self.gate = anyio.Event(), anyio.Event()
        self.gate.set()
        self.turns = 1
        self.holder: Any = self.guard._spending.holder
        self.guard._spending.stats = self  # type: ignore[assignment] # it fetches
        self.client = httpx.AsyncClient(transport=self.guard.transport(self), trust_env=False)

    def fetch(self, wall: float = 0.0) -> Reading:
        limits = {MATCHES: self.quota, MISSES: None, TOTAL: None}
        usages = {name: Usage(self.true[name], limit) for name, limit in limits.items()}
        return Reading(usages, self.period)

    async def afetch(self, wall: float = 0.0) -> Reading:
        self.polling.set()
        for _ in range(self.turns):
            await checkpoint()
        await self.gate.wait()
        reading = self.fetch()
        await checkpoint()
        return reading

    async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
        await checkpoint()
        self.true.update(FOUND)
        await checkpoint()
        return httpx.Response(200, content=self.body())

    async def body(self) -> AsyncIterator[bytes]:
        for piece in (b'{"found":', b"1}"):
            await checkpoint()
            yield piece
        await checkpoint()

    async def send(self) -> None:
        """Make a call by hand."""
        await checkpoint()
        self.true.update(FOUND)
        await checkpoint()

    def go(self, priority: str = "critical", **settings: Any) -> None:
        """Make a call that finds somebody."""
        settings = {"priority": priority, "max_wait": 0, **settings}
        with self.guard.reserve(dict(ENRICH), **settings) as reservation:
            self.true.update(FOUND)
            reservation.settle(FOUND)


# -- ways in ---------------------------------------------------------------------


async def client(world: World) -> None:
    """Make a call that its status settles."""
    await world.client.post(f"{URL}{PATH}", json={}, extensions=CRITICAL)


async def stream(world: World) -> None:
    """Make a call that its body settles."""
    request = world.client.stream("POST", f"{URL}{PATH}", extensions=CRITICAL)
    async with request as told:
        assert b"".join([piece async for piece in told.aiter_raw()]) == b'{"found":1}'


async def reserve(world: World) -> None:
    """Reserve by hand, and settle for less."""
    async with world.guard.reserve(dict(ENRICH), priority="critical") as reservation:
        await world.send()
        reservation.settle(FOUND)
        await checkpoint()


async def function(world: World) -> None:
    """Call a decorated async def."""

    @world.guard.limit(dict(ENRICH), priority="critical", settle=lambda _: FOUND)
    async def enrich() -> None:
        await world.send()

    await enrich()


async def plain_function(world: World) -> None:
    """Call a decorated def, between two awaits."""

    @world.guard.limit(dict(ENRICH), priority="critical", settle=lambda _: FOUND)
    def enrich() -> None:
        world.true.update(FOUND)

    await checkpoint()
    enrich()
    await checkpoint()


async def generator(world: World) -> None:
    """Await between the steps of a decorated generator."""

    @world.guard.limit(dict(ENRICH), priority="critical", settle=lambda _: FOUND)
    def enrich() -> Generator[int, None, None]:
        yield 1
        world.true.update(FOUND)
        yield 2

    for _ in enrich():
        await checkpoint()


async def async_generator(world: World) -> None:
    """Await within and between the steps of a decorated async generator."""

    @world.guard.limit(dict(ENRICH), priority="critical", settle=lambda _: FOUND)
    async def enrich() -> AsyncGenerator[int, None]:
        yield 1
        await world.send()
        yield 2

    numbers = enrich()
    try:
        async for _ in numbers:
            await checkpoint()
    except GeneratorExit:
        raise  # a coroutine that is thrown away cannot await the end of anything
    except BaseException:
        await numbers.aclose()
        raise


async def nested(world: World) -> None:
    """Reserve in what has reserved."""

    @world.guard.limit(
        {MATCHES: 2, TOTAL: 2}, priority="critical", settle=lambda _: {MATCHES: 2, TOTAL: 2}
    )
    async def both() -> None:
        await world.send()
        await reserve(world)

    await both()


async def refresh(world: World) -> None:
    """Poll."""
    await world.guard.arefresh()


async def slot(world: World) -> None:
    """Go up to the line, and wait for a slot."""
    while world.guard.check({MATCHES: 1}):
        world.go("normal")
    async with world.guard.reserve(dict(ENRICH), max_wait=10**7) as reservation:
        await world.send()
        reservation.settle(FOUND)


WAYS: dict[str, tuple[Callable[[World], Coroutine[Any, Any, None]], dict[str, Any]]] = {
    "client": (client, {}),
    "stream": (stream, {"provider": Counted}),
    "reserve": (reserve, {}),
    "async def": (function, {}),
    "def": (plain_function, {}),
    "generator": (generator, {}),
    "async generator": (async_generator, {}),
    "nested": (nested, {}),
    "refresh": (refresh, {}),
    "slot": (slot, {}),
}
SETTLING = "client", "stream", "reserve", "async generator", "nested", "slot"


async def every_point(one: Callable[[int], Awaitable[Points]]) -> int:
    """Do *one* for each number until it is through; return how many points there were."""
    for number in range(1000):
        with anyio.fail_after(20):
            points = await one(number)
        if points.spared:
            return points.seen
    pytest.fail("it never ends")


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@everyhow
@pytest.mark.parametrize("way", WAYS)
async def test_a_call_may_be_stopped_wherever_it_awaits(
    way: str,
    how: str,
    warm: bool,
    law: Law,
    record_property: Callable[..., None],
) -> None:
    """No lock is held, no claim, no place in line, no unit; nothing charged is missing."""
    act, settings = WAYS[way]

    async def one(number: int) -> Points:
        world = World(**settings)
        if warm:
            world.guard.refresh()
        points = await HOW[how](world, act(world), number)
        if how != "thrown_away":
            assert not world.holder.books.polls.pending(world.clock.now()), "a claim is left"
        world.go()
        law(world)
        return points

    record_property("await points", await every_point(one))


@pytest.mark.parametrize("way", SETTLING)
async def test_a_call_may_be_cancelled_while_it_settles(way: str, law: Law) -> None:
    """In the middle of whatever it tells: nothing is awaited there, so all of it is done."""
    act, settings = WAYS[way]

    async def one(number: int) -> Points:
        told: list[Event] = []
        points = Points(number, lambda _: scope.cancel())

        def listen(event: Event) -> None:
            told.append(event)
            points.reached(None)

        world = World(listeners=[listen], **settings)
        with anyio.CancelScope() as scope:
            await act(world)
        law(world)
        ends = sum(isinstance(event, Settled | Released) for event in told)
        opened = sum(isinstance(event, Reserved) for event in told)
        # A generator that is closed may be in a finalizer, where nothing is told.
        assert ends == opened or (way == "async generator" and ends == opened - 1)
        return points

    assert await every_point(one) >= 2


@everyhow
async def test_who_waits_for_news_may_be_stopped(
    how: str, law: Law, record_property: Callable[..., None]
) -> None:
    """And if the news has reached it already, it goes on to the one behind."""

    async def one(number: int) -> Points:
        world = World(clock=Still())
        world.guard.refresh()
        held = world.guard.reserve({MATCHES: world.quota}, priority="critical").open()
        points: list[Points] = []
        went: list[str] = []

        async def wait(name: str) -> None:
            async with world.guard.reserve(ENRICH, priority="critical", max_wait=60) as mine:
                await world.send()
                mine.settle(FOUND)
            went.append(name)

        async def first() -> None:
            points.append(await HOW[how](world, wait("first"), number))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(wait, "second")
            await anyio.wait_all_tasks_blocked()
            held.release()
        assert "second" in went
        world.go()
        law(world)
        return points[0]

    seen = await every_point(one)
    assert seen >= 3
    record_property("await points", seen)


@everyhow
async def test_who_waits_for_somebody_elses_poll_may_be_stopped(
    how: str, law: Law, record_property: Callable[..., None]
) -> None:
    """The poll goes on, and so does the one who makes it."""

    async def one(number: int) -> Points:
        world = World(clock=Still())
        world.gate = anyio.Event()
        points: list[Points] = []

        async def ask() -> None:
            points.append(await HOW[how](world, reserve(world), number))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reserve, world)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            world.gate.set()
        assert world.true[MATCHES] >= 1
        world.go()
        law(world)
        return points[0]

    seen = await every_point(one)
    assert seen >= 3
    record_property("await points", seen)


@everyhow
async def test_who_polls_for_others_may_be_stopped(
    how: str, law: Law, record_property: Callable[..., None]
) -> None:
    """The next one polls at once; nobody waits for a claim of somebody who is gone."""

    async def one(number: int) -> Points:
        world = World(clock=Still())
        world.turns = 8  # until the other one is in line
        points: list[Points] = []

        async def poll() -> None:
            points.append(await HOW[how](world, reserve(world), number))
            world.guard.standing()  # what a coroutine that is thrown away leaves to others

        async def go_on() -> None:
            await world.polling.wait()
            await reserve(world)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(go_on)
            tasks.start_soon(poll)
        assert world.true[MATCHES] >= 1
        law(world)
        return points[0]

    seen = await every_point(one)
    assert seen > 8
    record_property("await points", seen)


@everyhow
async def test_who_waits_for_the_background_thread_may_be_stopped(
    how: str, law: Law, record_property: Callable[..., None]
) -> None:
    """The thread polls on for everybody else."""

    async def one(number: int) -> Points:
        world = World(clock=Still(), background=True)
        other = World(background=True)
        points = await HOW[how](world, reserve(world), number)
        # The thread takes its jobs in turn: when this one is done, that one is.
        done = threading.Event()
        other.guard._spending.stats = Done(done)  # type: ignore[assignment] # it fetches
        claim = Claim("", world.clock.now())
        BACKGROUND.poll(other.guard._spending, Poll(claim, Abandon(claim)))
        assert done.wait(10)
        assert not world.holder.books.polls.pending(world.clock.now())
        world.go()
        law(world)
        return points

    seen = await every_point(one)
    assert seen >= 3
    record_property("await points", seen)


class Done:
    """A stats exchange that only tells that its turn has come."""

    def __init__(self, done: threading.Event) -> None:
        self.done = done

    def fetch(self, wall: float = 0.0) -> Reading:
        self.done.set()
        return Reading({}, Period())


# -- over real sockets -------------------------------------------------------------


class Wired:
    """A provider on loopback, and a guard of it."""

    heals, priced, quota = 1, True, 3

    def __init__(self, vendor: FakeFullContact, clock: FakeClock) -> None:
        self.vendor, self.clock = vendor, clock
        self.ledger = MemoryLedger(clock=clock)
        self.told: list[Event] = []
        self.guard = Guard(
            FullContact("key", base_url=vendor.url),
            ledger=self.ledger,
            policy=Policy(lag=10, late=10, cold_reserve=0, warn_at=()),
            clock=clock,
            listeners=[self.told.append],
        )
        self.holder = self.guard._spending.holder
        self.key = {"Authorization": "Bearer key"}

    @property
    def true(self) -> Mapping[str, int]:
        return self.vendor.true

    def go(self) -> None:
        with self.guard.client(verify=False) as client:
            url = f"{self.vendor.url}{PATH}"
            client.post(url, json=PERSON, headers=self.key, extensions=CRITICAL)

    def let_arrive(self) -> None:
        """Wait until the server has read all that was sent, as long as nobody sends more."""
        probe = HTTPConnection(self.vendor.url.removeprefix("http://"))
        probe.request("GET", "/nothing")
        probe.getresponse().read()
        probe.close()
        for _ in range(5000):
            if not self.vendor._server._connections:
                return
            threading.Event().wait(0.001)
        pytest.fail("a connection is left open")

    async def call(self) -> None:
        """Make a call, in a decorated function, through a guarded client."""

        @self.guard.limit(dict(ENRICH), priority="critical", settle=lambda _: FOUND)
        async def enrich(client: httpx.AsyncClient) -> None:
            url = f"{self.vendor.url}{PATH}"
            await client.post(url, json=PERSON, headers=self.key, extensions=CRITICAL)

        async with self.guard.async_client(verify=False) as client:
            await enrich(client)


# httpx leaves a generator of its own to the collector when its sending is cancelled.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
@pytest.mark.parametrize(
    ("anyio_backend", "how"),
    [
        *(
            ("asyncio", how)
            for how in HOW
            if how in {"cancelled", "hounded", "overtaken", "scoped"}
        ),
        ("trio", "scoped"),
    ],
)
async def test_a_real_call_may_be_stopped_wherever_it_awaits(
    how: str, law: Law, record_property: Callable[..., None]
) -> None:
    """Also where httpx, httpcore and the poll await: connecting, sending, reading, closing.

    What is told to be released was never sent.
    """
    ends: Counter[str] = Counter()

    async def one(number: int) -> Points:
        clock = FakeClock()
        with fake("fullcontact", quota=3, key="key", clock=clock, match_rate=1.0) as vendor:
            world = Wired(vendor, clock)
            points = await HOW[how](world, world.call(), number)
            assert not world.holder.books.polls.pending(clock.now()), "a claim is left"
            world.let_arrive()
            released = any(isinstance(event, Released) for event in world.told)
            charged = bool(vendor.true[MATCHES])
            assert not (released and charged)
            if released:
                assert all(row.reserved == 0 for row in world.guard.standing())
            ends["released" if released else "charged" if charged else "not sent"] += 1
            law(world)
        return points

    seen = await every_point(one)
    assert all(ends[end] for end in ("released", "charged", "not sent"))
    record_property("await points", seen)
    record_property(f"a real call, {how}", dict(ends))
