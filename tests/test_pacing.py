"""Rates and pauses as an application meets them: over real HTTP, on a clock that we move."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import httpx
import pytest

from quotaguard import (
    FullContact,
    Guard,
    MemoryLedger,
    Policy,
    QuotaExhausted,
    Refusal,
    WaitTooLong,
)
from quotaguard.quota.account import Books, Terms
from quotaguard.quota.entries import Pause, Reserve
from quotaguard.quota.events import Delayed, Event, Refused
from quotaguard.quota.rates import Rate
from quotaguard.quota.verdicts import Granted
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.fullcontact import FakeFullContact
from quotaguard.testing.server import Reply

MATCHES = "person.enrichment.matches"
KEY = "canary-key-7f3a"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ENRICH = "/v3/person.enrich"


class WatchedHolder:
    """A holder that notes when requests went, by the books' own clock."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.went: list[float] = []
        self.asks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def post(self, entry: Any) -> Any:
        posted = self.inner.post(entry)
        if isinstance(entry, Reserve):
            self.asks += 1
            if isinstance(posted.verdict, Granted) and posted.verdict.at is not None:
                self.went.append(posted.verdict.at)
        return posted


class WatchedLedger:
    """A memory ledger whose holders are watched."""

    def __init__(self, clock: FakeClock) -> None:
        self.inner = MemoryLedger(clock=clock)
        self.holders: list[WatchedHolder] = []

    def holder(self, terms: Terms) -> Any:
        self.holders.append(WatchedHolder(self.inner.holder(terms)))
        return self.holders[-1]

    def close(self) -> None:
        self.inner.close()

    @property
    def went(self) -> list[float]:
        return sorted(at for holder in self.holders for at in holder.went)

    @property
    def asks(self) -> int:
        return sum(holder.asks for holder in self.holders)

    def forget(self) -> None:
        for holder in self.holders:
            holder.went.clear()
            holder.asks = 0


def lawful(went: Sequence[float], *rates: str) -> bool:
    """Whether no window of a rate holds more than its count."""
    return not any(
        later < first + rate.window
        for rate in map(Rate.parse, rates)
        for first, later in zip(went, went[rate.requests :], strict=False)
    )


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that only waits and the test move."""
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> WatchedLedger:
    """Give a ledger that notes when requests went."""
    return WatchedLedger(clock)


@pytest.fixture
def vendor(clock: FakeClock) -> Iterator[FakeFullContact]:
    """Run a provider with plenty of quota."""
    with fake("fullcontact", quota=1_000, key=KEY, clock=clock, match_rate=1.0) as running:
        yield running


Make = Callable[..., Guard]


@pytest.fixture
def made(vendor: FakeFullContact, clock: FakeClock, ledger: WatchedLedger) -> Make:
    """Return what makes a guard that has read its quota, with these settings."""

    def make(*listeners: Callable[[Event], None], **settings: Any) -> Guard:
        policy = Policy(**{"lag": 10, "late": 10, "cold_reserve": 0, **settings})
        provider = FullContact(KEY, base_url=vendor.url)
        guard = Guard(provider, policy=policy, clock=clock, ledger=ledger, listeners=listeners)
        guard.refresh()
        return guard

    return make


def go(guard: Guard, **how: Any) -> None:
    """Make one call that is billed."""
    with guard.reserve({MATCHES: 1}, **how) as reservation:
        reservation.settle()


def sent(guard: Guard, vendor: FakeFullContact, name: str, **how: Any) -> int:
    """Send one request and return its status."""
    with guard.client(base_url=vendor.url, headers=HEADERS) as client:
        person = {"email": f"{name}@example.com"}
        return client.post(ENRICH, json=person, extensions={"quotaguard": how}).status_code


# -- the law over the wire ----------------------------------------------------

COUNT = 36
RATES = ("5/1s", "12/4s")
LEAST = 10.0
"""Seconds: three dozen, one every four seconds, and each takes two: five, five and two."""


def in_threads(guard: Guard, vendor: FakeFullContact) -> None:
    """Send from nine threads, of three priorities."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        priority = ("critical", "normal", "batch")[number % 3]
        try:
            for each in range(4):
                assert sent(guard, vendor, f"{number}.{each}", priority=priority) == 200
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]


async def in_tasks(guard: Guard, vendor: FakeFullContact) -> None:
    """Send from as many tasks as there are requests."""

    async def work(client: httpx.AsyncClient, number: int) -> None:
        priority = ("critical", "normal", "batch")[number % 3]
        told = {"quotaguard": {"priority": priority}}
        person = {"email": f"{number}@example.org"}
        answer = await client.post(ENRICH, json=person, extensions=told)
        assert answer.status_code == 200

    made = guard.async_client(base_url=vendor.url, headers=HEADERS)
    async with made as client, anyio.create_task_group() as tasks:
        for number in range(COUNT):
            tasks.start_soon(work, client, number)


WAYS: dict[str, Callable[[Guard, FakeFullContact], None]] = {
    "threads": in_threads,
    "asyncio": lambda guard, vendor: anyio.run(in_tasks, guard, vendor, backend="asyncio"),
    "trio": lambda guard, vendor: anyio.run(in_tasks, guard, vendor, backend="trio"),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_window_holds_more_than_its_count(
    way: str,
    made: Make,
    vendor: FakeFullContact,
    ledger: WatchedLedger,
    record_property: Callable[[str, object], None],
) -> None:
    """Whoever sends: all of it goes, none of it too early, and nobody looks all the time."""
    guard = made(rates=RATES, max_wait=3_600)
    WAYS[way](guard, vendor)
    assert vendor.true[MATCHES] == len(ledger.went) == COUNT
    assert lawful(ledger.went, *RATES)
    span = ledger.went[-1] - ledger.went[0]
    record_property(
        f"paced, {way}", f"{span:.3f} s for {LEAST} s, {ledger.asks / COUNT:.2f} looks a call"
    )
    assert span >= LEAST
    assert guard.standing()[MATCHES].reserved == 0
    assert ledger.asks <= 4 * COUNT
    assert not ledger.holders[0].books.rates.promises


@pytest.mark.parametrize("way", ["asyncio", "trio"])
def test_tasks_take_no_longer_than_the_law_asks(
    way: str, made: Make, clock: FakeClock, ledger: WatchedLedger
) -> None:
    """One event loop on one clock: exact to the end, and two looks for each that waits."""
    guard = made(rates=RATES, max_wait=3_600)
    start = clock.fast()

    async def one() -> None:
        async with guard.reserve({MATCHES: 1}, priority="critical") as reservation:
            reservation.settle()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(COUNT):
                tasks.start_soon(one)

    anyio.run(main, backend=way)
    assert len(ledger.went) == COUNT
    assert lawful(ledger.went, *RATES)
    assert clock.fast() - start == pytest.approx(LEAST, abs=1e-4)
    assert ledger.asks <= 3 * COUNT


# -- who waits, who is refused ------------------------------------------------


def test_a_call_waits_for_its_window_and_holds_no_units(
    made: Make, clock: FakeClock, vendor: FakeFullContact
) -> None:
    """It is told once how long, and why."""
    told: list[Event] = []
    guard = made(told.append, rates=["2/20s"])
    go(guard)
    clock.advance(5)
    go(guard)
    start = clock.fast()
    go(guard)
    assert clock.fast() - start == pytest.approx(15.0, abs=1e-4)
    (late,) = [event for event in told if isinstance(event, Delayed)]
    assert (late.delay, late.reason, late.meter) == (15.0, "the rate 2/20s", MATCHES)
    assert guard.standing()[MATCHES].reserved == 0
    assert vendor.polls == 1


def test_a_longer_delay_than_max_wait_is_refused_at_once(made: Make, clock: FakeClock) -> None:
    """With what holds it, for how long, and what to do; and nothing is held for it."""
    guard = made(rates=["3/60s"])
    for _ in range(3):
        go(guard)
    clock.advance(10)
    start = clock.fast()
    with pytest.raises(WaitTooLong):
        go(guard)
    with pytest.raises(WaitTooLong) as refused:
        go(guard)
    assert clock.fast() == start
    refusal = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - our own
    assert (refusal.meter, refusal.reason) == (MATCHES, "the rate 3/60s")
    assert (refusal.retry_after, refusal.max_wait, refusal.requested) == (50.0, 30.0, 1)
    assert refusal.headroom == 997
    assert "the rate 3/60s; 997 units left" in str(refusal)
    assert "Try again in 50.0 s" in str(refusal)
    assert guard.standing()[MATCHES].delay == 50.0
    go(guard, max_wait=50)
    assert clock.fast() - start == pytest.approx(50.0, abs=1e-4)


def test_a_check_says_how_long_and_takes_no_place(made: Make, clock: FakeClock) -> None:
    """Also after a refusal, which is remembered; also where a poll is due."""
    guard = made(rates=["1/60s"], poll_every=(1, 20))
    assert guard.check({MATCHES: 1})
    go(guard)
    for late in (60.0, 59.5, 59.0, 30.0):
        clock.advance(60.0 - late - (clock.fast() - guard_start(guard)))
        for _ in range(3):
            decision = guard.check({MATCHES: 1}, priority="critical")
            assert not decision
            assert (decision.delay, decision.reason) == (late, "the rate 1/60s")
            assert (decision.meter, decision.headroom) == (MATCHES, 999)
        with pytest.raises(WaitTooLong):
            go(guard, max_wait=1)


def guard_start(guard: Guard) -> float:
    """Return the fast clock's time at which the one request of the log went."""
    (log,) = guard._spending.holder.books.rates.logs.values()
    now = guard._spending.clock.now()
    return log.entries[0][0] + now.fast - now.slow


def test_units_are_not_requests(made: Make) -> None:
    """A call of fifty units is one, and so is one of none; what is recorded or polled is none."""
    guard = made(rates=["5/60s"])
    guard.record({MATCHES: 50})
    guard.refresh()
    for cost in ({MATCHES: 50}, {MATCHES: 0}, {}, {"company.enrichment.matches": 1}):
        with guard.reserve(cost) as reservation:
            reservation.settle()
    with guard.reserve({MATCHES: 1, "company.enrichment.matches": 1}) as reservation:
        reservation.settle()
    for cost in ({MATCHES: 1}, {MATCHES: 0}, {}):
        with pytest.raises(WaitTooLong, match="the rate 5/60s"), guard.reserve(cost):
            pytest.fail("the sixth request went")


def test_what_the_quota_refuses_takes_nothing_from_the_rate(made: Make) -> None:
    """And what the rate refuses takes nothing from the quota."""
    guard = made(rates=["2/60s"])
    for _ in range(9):
        with pytest.raises(QuotaExhausted), guard.reserve({MATCHES: 1_001}):
            pytest.fail("it went")
    for _ in range(2):
        go(guard)
    for _ in range(9):
        with pytest.raises(WaitTooLong):
            go(guard)
    row = guard.standing()[MATCHES]
    assert (row.used, row.reserved) == (2, 0)


def test_what_was_released_has_gone_all_the_same(made: Make) -> None:
    """Released means not billed; the provider may have seen it, and counts what it has seen."""
    guard = made(rates=["1/60s"])
    guard.reserve({MATCHES: 1}).open().release()
    assert guard.check({MATCHES: 1}).delay == 60.0


@pytest.fixture
def still(clock: FakeClock) -> FakeClock:
    """Give the clock after it has learnt to stand still while others wait."""
    clock.autojump = False
    return clock


async def until(true: Callable[[], bool]) -> None:
    """Let other tasks go on until something is true."""
    with anyio.fail_after(10):
        while not true():
            await anyio.lowlevel.checkpoint()


BACKENDS = ("asyncio", "trio")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_place_is_given_back_by_one_who_gives_up(
    backend: str, made: Make, still: FakeClock, ledger: WatchedLedger
) -> None:
    """A cancelled task leaves nothing behind: the next one is as early as it would have been."""
    guard = made(rates=["1/20s"], max_wait=100)
    go(guard)
    books = ledger.holders[0].books

    async def one() -> None:
        async with guard.reserve({MATCHES: 1}):
            pytest.fail("it went")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one)
            await until(lambda: still.waiting == 4)
            assert guard.check({MATCHES: 1}).delay == 100.0
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert not books.rates.promises
    assert guard.check({MATCHES: 1}).delay == 20.0
    assert guard.standing()[MATCHES].reserved == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_those_who_wait_move_up_when_one_gives_up(
    backend: str, made: Make, still: FakeClock, ledger: WatchedLedger
) -> None:
    """In their order; and no one who comes later is before them."""
    guard = made(rates=["1/10s"], max_wait=1_000)
    go(guard)
    order: list[str] = []

    async def one(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with guard.reserve({MATCHES: 1}) as reservation:
                reservation.settle()
                order.append(name)

    async def main() -> None:
        scopes = {name: anyio.CancelScope() for name in "abcd"}
        async with anyio.create_task_group() as tasks:
            for number, name in enumerate("abcd"):
                tasks.start_soon(one, name, scopes[name])
                await until(lambda waiting=number + 1: still.waiting == waiting)  # type: ignore[misc]
            scopes["b"].cancel()
            await until(lambda: still.waiting == 3)
            assert guard.check({MATCHES: 1}).delay == 50.0
            for count in (1, 2, 3):
                still.advance(10.0)
                await until(lambda gone=count: len(order) == gone)  # type: ignore[misc]
                await until(lambda gone=count: still.waiting == 3 - gone)  # type: ignore[misc]

    anyio.run(main, backend=backend)
    assert order == ["a", "c", "d"]
    assert [at - ledger.went[0] for at in ledger.went] == [0.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_better_call_passes_those_who_wait(
    backend: str, made: Make, still: FakeClock, ledger: WatchedLedger
) -> None:
    """And those who come at a time that is taken now wait for the next one."""
    guard = made(rates=["1/10s"], max_wait=1_000)
    go(guard)
    order: list[str] = []

    async def one(priority: str) -> None:
        async with guard.reserve({MATCHES: 1}, priority=priority) as reservation:
            reservation.settle()
            order.append(priority)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number, priority in enumerate(("batch", "normal", "critical")):
                tasks.start_soon(one, priority)
                await until(lambda waiting=number + 1: still.waiting == waiting)  # type: ignore[misc]
            for count in (1, 2, 3):
                still.advance(10.0)
                await until(lambda gone=count: len(order) == gone)  # type: ignore[misc]
                # They have looked again: none of their waits is one that has ended.
                await until(lambda: all(due > still.fast() for due in still._dues))

    anyio.run(main, backend=backend)
    assert order == ["critical", "normal", "batch"]
    assert [at - ledger.went[0] for at in ledger.went] == [0.0, 10.0, 20.0, 30.0]


def test_a_refused_call_that_was_promised_a_place_holds_none(
    made: Make, still: FakeClock, vendor: FakeFullContact, ledger: WatchedLedger
) -> None:
    """The quota is spent while it waits: it is refused, and its place is free."""
    guard = made(rates=["1/10s"], max_wait=100)
    go(guard)

    async def waits() -> None:
        with pytest.raises(QuotaExhausted):
            async with guard.reserve({MATCHES: 1}, priority="critical"):
                pytest.fail("it went")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits)
            await until(lambda: still.waiting == 1)
            vendor.spend(1_000)
            await guard.arefresh()

    anyio.run(main)
    assert not ledger.holders[0].books.rates.promises
    assert len(ledger.went) == 1


def test_respond_answers_a_rate_too(made: Make, vendor: FakeFullContact) -> None:
    """Code that only knows HTTP reads when to come again."""
    guard = made(rates=["1/60s"], on_exhausted="respond")
    with guard.client(base_url=vendor.url, headers=HEADERS) as client:
        first, second = (client.post(ENRICH, json={"email": "a@example.com"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.headers["Retry-After"] == "60"
    assert "the rate 1/60s" in json.loads(second.content)["detail"]
    assert vendor.true[MATCHES] == 1


# -- shadow, other guards, forks ----------------------------------------------


def test_shadow_delays_nobody_and_tells(made: Make, clock: FakeClock) -> None:
    """Short of max_wait it is told as delayed, beyond as refused; and it goes now."""
    told: list[Event] = []
    guard = made(told.append, rates=["2/20s"], shadow=True, max_wait=25)
    start = clock.fast()
    for _ in range(6):
        go(guard)
    assert clock.fast() == start
    late = [event.delay for event in told if isinstance(event, Delayed)]
    assert late == [20.0] * 4
    clock.advance(100)
    go(guard, max_wait=1)
    go(guard, max_wait=1)
    go(guard, max_wait=1)
    (refused,) = [event for event in told if isinstance(event, Refused)]
    assert (refused.shadow, refused.refusal, refused.retry_after) == (True, "WaitTooLong", 20.0)
    assert guard.standing()[MATCHES].used == 9


def test_guards_of_one_account_share_its_rates(made: Make, clock: FakeClock) -> None:
    """Whoever has said it: requests of all count, all wait; forgotten a window after its guard."""
    free = made()
    go(free)
    paced = made(rates=["3/20s"])
    go(free)
    go(paced)
    go(free)
    with pytest.raises(WaitTooLong, match="the rate 3/20s"):
        go(paced, max_wait=0)
    with pytest.raises(WaitTooLong, match="the rate 3/20s"):
        go(free, max_wait=0)
    clock.advance(20.5)
    for _ in range(9):
        go(free)


def test_a_child_process_has_none_of_those_who_wait(made: Make, ledger: WatchedLedger) -> None:
    """What the parent's requests were it knows; its threads are not there."""
    guard = made(rates=["1/20s"])
    go(guard)
    books = ledger.holders[0].books
    books.rates.promise(books.rates.place(-1.0, 0.0, 0.0)[0], 0.0)
    ledger.holders[0].inner._account.forked()
    assert not books.rates.promises
    assert guard.check({MATCHES: 1}).delay == 20.0


def test_the_books_of_a_paced_account_are_json(made: Make, ledger: WatchedLedger) -> None:
    """A ledger that writes them reads the same ones."""
    guard = made(rates=["1/20s", "100/1h"])
    go(guard)
    books = ledger.holders[0].books
    books.rates.promise(books.rates.place(-1.0, 0.0, 0.0)[0], 0.0)
    state = json.loads(json.dumps(books.state()))
    assert Books.of(state).state() == books.state()


# -- one request, two reservations --------------------------------------------


def test_a_function_around_a_guarded_client_counts_once(
    made: Make, vendor: FakeFullContact, ledger: WatchedLedger
) -> None:
    """One request goes out: two calls of the function fill a rate of two."""
    guard = made(rates=["2/60s"])

    @guard.limit({MATCHES: 1})
    def enrich(name: str) -> int:
        return sent(guard, vendor, name)

    assert [enrich("a"), enrich("b")] == [200, 200]
    with pytest.raises(WaitTooLong):
        enrich("c")
    assert vendor.true[MATCHES] == 2
    assert guard.standing()[MATCHES].used == 2


def test_a_function_that_sends_more_counts_all_of_it(made: Make, vendor: FakeFullContact) -> None:
    """The first request is the function's own, every other one is another."""
    guard = made(rates=["4/60s"])

    @guard.limit({MATCHES: 3})
    def enrich(*names: str) -> list[int]:
        return [sent(guard, vendor, name) for name in names]

    assert enrich("a", "b", "c") == [200] * 3
    assert guard.standing()[MATCHES].used == 3
    with pytest.raises(WaitTooLong):
        enrich("d", "e", "f")
    assert vendor.true[MATCHES] == 4


def test_a_request_counts_when_it_goes_and_not_when_its_function_began(
    made: Make, vendor: FakeFullContact, clock: FakeClock, ledger: WatchedLedger
) -> None:
    """A function that thinks first cannot save up windows."""
    guard = made(rates=["2/20s"])
    start = clock.fast()

    @guard.limit({MATCHES: 1})
    def enrich(name: str, thinks: float) -> int:
        clock.advance(thinks)
        return sent(guard, vendor, name)

    enrich("a", 15.0)
    assert guard.check({MATCHES: 1}).delay == 0.0
    enrich("b", 0.0)
    assert guard.check({MATCHES: 1}).delay == 20.0
    assert enrich("c", 30.0) == 200
    assert clock.fast() - start == pytest.approx(15.0 + 20.0 + 30.0, abs=1e-4)


def test_other_meters_of_the_function_count_once_too(made: Make, vendor: FakeFullContact) -> None:
    """What is lent of the units is one thing, the request another."""
    guard = made(rates=["2/60s"])

    @guard.limit({"company.enrichment.matches": 1})
    def enrich(name: str) -> int:
        return sent(guard, vendor, name)

    assert [enrich("a"), enrich("b")] == [200, 200]
    assert guard.standing()[MATCHES].used == 2


def test_a_refused_inner_call_leaves_the_request_to_its_function(made: Make) -> None:
    """It was not sent; the function may try another way."""
    guard = made(rates=["2/60s"])
    with guard.reserve({MATCHES: 1}) as outer:
        with pytest.raises(QuotaExhausted), guard.reserve({MATCHES: 2_000}):
            pytest.fail("it went")
        go(guard)
        outer.settle({MATCHES: 1})
    assert guard.check({MATCHES: 1}).delay == 0.0
    go(guard)
    assert guard.check({MATCHES: 1}).delay == 60.0


# -- a pause that the provider asks for ---------------------------------------


def haste(seconds: str) -> Reply:
    """Return a plain 429, which says nothing of the quota."""
    told = {"status": 429, "message": "Too Many Requests"}
    return Reply.json(429, told, (("Retry-After", seconds),))


@pytest.fixture
def hasty(clock: FakeClock) -> Iterator[FakeFullContact]:
    """Run a provider that answers the second call with a 429 and Retry-After: 12."""
    faults = [None, haste("12")]
    knobs = {"quota": 1_000, "key": KEY, "clock": clock, "match_rate": 1.0}
    with fake("fullcontact", faults=faults, **knobs) as running:
        yield running


def guarded(hasty: FakeFullContact, clock: FakeClock, **settings: Any) -> Guard:
    """Build a guard of *hasty* that has met its 429."""
    policy = Policy(**{"lag": 10, "late": 10, "cold_reserve": 0, **settings})
    guard = Guard(FullContact(KEY, base_url=hasty.url), policy=policy, clock=clock)
    assert [sent(guard, hasty, "a"), sent(guard, hasty, "b")] == [200, 429]
    return guard


@pytest.mark.parametrize("rates", [(), ("100/1s",)], ids=["no rate", "a rate"])
@pytest.mark.parametrize("way", WAYS)
def test_a_plain_429_pauses_all_sends_of_the_account(
    way: str, rates: Sequence[str], hasty: FakeFullContact, clock: FakeClock
) -> None:
    """Threads and tasks alike, for as long as it says; and no count of any meter changes."""
    guard = guarded(hasty, clock, rates=rates)
    before = guard.standing()
    polls, start = hasty.polls, clock.fast()
    WAYS[way](guard, hasty)
    assert clock.fast() - start >= 12.0
    assert before[MATCHES].used == 1
    assert (before[MATCHES].reserved, before[MATCHES].delay) == (0, 12.0)
    assert hasty.true[MATCHES] == guard.standing()[MATCHES].used == 1 + COUNT
    assert hasty.polls == polls, "a pause is nothing to poll for"


@pytest.mark.parametrize("rates", [(), ("100/1s",)], ids=["no rate", "a rate"])
def test_a_pause_longer_than_max_wait_is_refused_until_it_is_over(
    rates: Sequence[str], hasty: FakeFullContact, clock: FakeClock
) -> None:
    """At once, with the rest of it; then calls go again, and nobody had to poll for that."""
    guard = guarded(hasty, clock, rates=rates, max_wait=5)
    polls = hasty.polls
    for left in (12.0, 11.0, 5.5):
        clock.advance(12.0 - left - (12.0 - (guard.check({MATCHES: 1}).delay or 0.0)))
        with pytest.raises(WaitTooLong) as refused:
            sent(guard, hasty, "c")
        assert refused.value.retry_after == pytest.approx(left)
        assert refused.value.reason == "the provider asked for a pause"
        assert "the provider asked for a pause" in str(refused.value)
    clock.advance(0.5)
    start = clock.fast()
    assert sent(guard, hasty, "c") == 200
    assert clock.fast() - start == pytest.approx(5.0, abs=1e-4)
    assert hasty.polls == polls
    row = guard.standing()[MATCHES]
    assert (row.used, row.reserved, row.headroom) == (2, 0, 998)


def test_the_longest_pause_counts_and_an_hour_is_the_longest(made: Make, clock: FakeClock) -> None:
    """A shorter one does not cut it; more than an hour is a mistake or an attack."""
    guard = made()
    for seconds, left in ((100.0, 100.0), (10.0, 100.0), (1e9, 3_600.0), (float("inf"), 3_600.0)):
        guard._spending.post(Pause(seconds))
        assert guard.check({MATCHES: 1}).delay == left
    guard._spending.post(Pause(float("nan")))
    assert guard.check({MATCHES: 1}).delay == 3_600.0
    clock.advance(3_600.0)
    go(guard, max_wait=0)


def test_a_pause_ends_while_the_machine_sleeps(made: Make, clock: FakeClock) -> None:
    """Real time is what the provider asked for."""
    guard = made()
    guard._spending.post(Pause(60.0))
    clock.suspend(60.0)
    go(guard, max_wait=0)


@pytest.mark.parametrize("rates", [(), ("2/1s",)], ids=["no rate", "a rate"])
def test_a_pause_reaches_those_who_wait_already(
    rates: Sequence[str], made: Make, still: FakeClock, ledger: WatchedLedger
) -> None:
    """Their own time comes first, then the pause is waited for too."""
    guard = made(rates=[*rates, "1/10s"], max_wait=1_000)
    go(guard)

    async def one() -> None:
        async with guard.reserve({MATCHES: 1}) as reservation:
            reservation.settle()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(one)
            await until(lambda: still.waiting == 2)
            guard._spending.post(Pause(15.0))
            still.autojump = True
            still.advance(10.0)

    anyio.run(main)
    assert [round(at - ledger.went[0], 3) for at in ledger.went] == [0.0, 15.0, 25.0]


def test_a_refusal_is_a_refusal_whatever_held_it() -> None:
    """Retry layers that know `Refusal` need to know nothing of rates."""
    assert issubclass(WaitTooLong, Refusal)
    assert issubclass(WaitTooLong, TimeoutError)
