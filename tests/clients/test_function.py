"""The decorator: every kind of function, on both event loops, in threads and processes."""

# ruff: noqa: D103 - a kind of function is named after what it is

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import gc
import importlib
import inspect
import pickle
import subprocess
import sys
import types
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard import ConfigError, FullContact, Guard, Policy, QuotaExhausted, Refusal
from quotaguard.quota.events import Degraded, Event, Settled
from quotaguard.testing import FakeClock, disabled, fake
from quotaguard.testing.fullcontact import FakeFullContact

MATCHES = "person.enrichment.matches"
COST = {MATCHES: 2}
KEY = "test-key"
EMAIL = "ann@example.com"

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that only the test moves."""
    return FakeClock()


@pytest.fixture
def vendor(clock: FakeClock) -> Iterator[FakeFullContact]:
    """Run a provider that knows its own truth; it finds everybody."""
    with fake("fullcontact", quota=100, key=KEY, clock=clock, match_rate=1.0) as running:
        yield running


class Told(list[Event]):
    """A listener that keeps what it is told."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


@pytest.fixture
def told() -> Told:
    """Listen."""
    return Told()


def guard_of(
    vendor: FakeFullContact, clock: FakeClock, told: Told | None = None, **settings: Any
) -> Guard:
    """Build a guard whose books stand still: nothing resolves within a test."""
    policy = Policy(**{"lag": 60, "late": 60, "cold_reserve": 0, **settings})
    provider = FullContact(KEY, base_url=vendor.url)
    listeners = [] if told is None else [told]
    guard = Guard(provider, policy=policy, clock=clock, listeners=listeners)
    guard.refresh()
    return guard


@pytest.fixture
def guard(vendor: FakeFullContact, clock: FakeClock, told: Told) -> Guard:
    """Give a guard with 98 units of headroom and somebody who listens."""
    return guard_of(vendor, clock, told)


@pytest.fixture
def spent(clock: FakeClock) -> Iterator[Guard]:
    """Give a guard of an account that has nothing left."""
    with fake("fullcontact", quota=100, used=100, key=KEY, clock=clock) as vendor:
        yield guard_of(vendor, clock)


class Count(NamedTuple):
    """Units of a meter: settled, of unknown outcome, held for calls in flight."""

    settled: int = 0
    unknown: int = 0
    held: int = 0


def count(guard: Guard) -> Count:
    """Return what the books say, after everything was reported.

    What was given up stays reserved for a while, it may still be charged late.
    """
    reserved = guard.standing()[MATCHES].reserved
    holder = guard._spending.holder
    given_up = sum(cost.get(MATCHES, 0) for _, cost in holder.allotment.lapses)
    books = holder.books.meters[MATCHES]
    assert reserved == books.held
    return Count(books.spent - books.unknown, books.unknown + given_up, books.held - given_up)


class BodyError(Exception):
    """What the function raises."""


@dataclass
class Found:
    """What the function returns."""

    email: str
    units: int = 1


@dataclass
class Body:
    """What every function of these tests does: it notes its call, then ends as told."""

    guard: Guard
    error: BaseException | None = None
    calls: list[tuple[str, bool]] = field(default_factory=list)
    during: list[Count] = field(default_factory=list)
    inside: Callable[[], object] | None = None

    def __call__(self, email: str, *, deep: bool = False) -> Found:
        self.calls.append((email, deep))
        self.during.append(count(self.guard))
        if self.inside is not None:
            self.inside()
        if self.error is not None:
            raise self.error
        return Found(email)


Limiting = Callable[[Any], Any]
Make = Callable[[Limiting, Body], Any]


# -- kinds of functions, each as something that is called with an email --------


def a_def(limit: Limiting, body: Body) -> Any:
    @limit
    def enrich(email: str, *, deep: bool = False) -> Found:
        return body(email, deep=deep)

    return enrich


def a_callable_object(limit: Limiting, body: Body) -> Any:
    class Enrich:
        def __call__(self, email: str, *, deep: bool = False) -> Found:
            return body(email, deep=deep)

    return limit(Enrich())


def a_partial(limit: Limiting, body: Body) -> Any:
    def enrich(_: int, email: str, *, deep: bool = False) -> Found:
        return body(email, deep=deep)

    return limit(functools.partial(enrich, 1))


def a_bound_method(limit: Limiting, body: Body) -> Any:
    class Contacts:
        def enrich(self, email: str, *, deep: bool = False) -> Found:
            return body(email, deep=deep)

    return limit(Contacts().enrich)


def a_method(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        def enrich(self, email: str, *, deep: bool = False) -> Found:
            assert isinstance(self, Contacts)
            return body(email, deep=deep)

    return Contacts().enrich


def a_method_through_the_class(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        def enrich(self, email: str, *, deep: bool = False) -> Found:
            assert isinstance(self, Contacts)
            return body(email, deep=deep)

    return functools.partial(Contacts.enrich, Contacts())


def above_classmethod(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        @classmethod
        def enrich(cls, email: str, *, deep: bool = False) -> Found:
            assert cls is Contacts
            return body(email, deep=deep)

    return Contacts.enrich


def below_classmethod(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @classmethod
        @limit
        def enrich(cls, email: str, *, deep: bool = False) -> Found:
            assert cls is Contacts
            return body(email, deep=deep)

    return Contacts().enrich


def above_staticmethod(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        @staticmethod
        def enrich(email: str, *, deep: bool = False) -> Found:
            return body(email, deep=deep)

    return Contacts().enrich


def below_staticmethod(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @staticmethod
        @limit
        def enrich(email: str, *, deep: bool = False) -> Found:
            return body(email, deep=deep)

    return Contacts.enrich


def a_generator(limit: Limiting, body: Body) -> Any:
    @limit
    def enrich(email: str, *, deep: bool = False) -> Generator[Found, None, Found]:
        found = body(email, deep=deep)
        yield found
        return found

    return enrich


def a_generator_method(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        def enrich(self, email: str, *, deep: bool = False) -> Generator[Found, None, Found]:
            found = body(email, deep=deep)
            yield found
            return found

    return Contacts().enrich


def an_async_def(limit: Limiting, body: Body) -> Any:
    @limit
    async def enrich(email: str, *, deep: bool = False) -> Found:
        await anyio.lowlevel.checkpoint()
        return body(email, deep=deep)

    return enrich


def an_async_callable_object(limit: Limiting, body: Body) -> Any:
    class Enrich:
        async def __call__(self, email: str, *, deep: bool = False) -> Found:
            await anyio.lowlevel.checkpoint()
            return body(email, deep=deep)

    return limit(Enrich())


def an_async_partial(limit: Limiting, body: Body) -> Any:
    async def enrich(_: int, email: str, *, deep: bool = False) -> Found:
        await anyio.lowlevel.checkpoint()
        return body(email, deep=deep)

    return limit(functools.partial(enrich, 1))


def an_async_method(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        async def enrich(self, email: str, *, deep: bool = False) -> Found:
            await anyio.lowlevel.checkpoint()
            return body(email, deep=deep)

    return Contacts().enrich


def async_above_classmethod(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        @classmethod
        async def enrich(cls, email: str, *, deep: bool = False) -> Found:
            assert cls is Contacts
            return body(email, deep=deep)

    return Contacts.enrich


def async_below_classmethod(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @classmethod
        @limit
        async def enrich(cls, email: str, *, deep: bool = False) -> Found:
            assert cls is Contacts
            return body(email, deep=deep)

    return Contacts.enrich


def async_above_staticmethod(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        @staticmethod
        async def enrich(email: str, *, deep: bool = False) -> Found:
            return body(email, deep=deep)

    return Contacts.enrich


def an_async_generator(limit: Limiting, body: Body) -> Any:
    @limit
    async def enrich(email: str, *, deep: bool = False) -> AsyncGenerator[Found, None]:
        await anyio.lowlevel.checkpoint()
        yield body(email, deep=deep)

    return enrich


def an_async_generator_method(limit: Limiting, body: Body) -> Any:
    class Contacts:
        @limit
        async def enrich(self, email: str, *, deep: bool = False) -> AsyncGenerator[Found, None]:
            await anyio.lowlevel.checkpoint()
            yield body(email, deep=deep)

    return Contacts().enrich


SYNC: tuple[Make, ...] = (
    a_def,
    a_callable_object,
    a_partial,
    a_bound_method,
    a_method,
    a_method_through_the_class,
    above_classmethod,
    below_classmethod,
    above_staticmethod,
    below_staticmethod,
    a_generator,
    a_generator_method,
)
ASYNC: tuple[Make, ...] = (
    an_async_def,
    an_async_callable_object,
    an_async_partial,
    an_async_method,
    async_above_classmethod,
    async_below_classmethod,
    async_above_staticmethod,
    an_async_generator,
    an_async_generator_method,
)
KINDS = [
    *(("asyncio", make) for make in SYNC),
    *(("asyncio", make) for make in ASYNC),
    *(("trio", make) for make in ASYNC),
]
every_kind = pytest.mark.parametrize(
    ("anyio_backend", "make"), KINDS, ids=[f"{make.__name__}-{loop}" for loop, make in KINDS]
)
one_of_each = pytest.mark.parametrize(
    "make",
    [a_def, a_generator, an_async_def, an_async_generator],
    ids=["def", "generator", "async-def", "async-generator"],
)


async def run(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Call *function*, and return what it brought: the items of a generator as a list."""
    brought = function(*args, **named)
    if inspect.isasyncgen(brought):
        return [item async for item in brought]
    if inspect.isgenerator(brought):
        return list(brought)
    return await brought if inspect.isawaitable(brought) else brought


def items(make: Make) -> bool:
    """Whether this kind brings items."""
    return "generator" in make.__name__


def expected(make: Make, found: object) -> object:
    """Return what this kind brings when its body returns *found*."""
    return [found] if items(make) else found


# -- what becomes of the units ----------------------------------------------------


@every_kind
async def test_a_call_that_returns_has_cost_its_estimate(guard: Guard, make: Make) -> None:
    """Units are held while the function runs, then settled; the result is the function's."""
    body = Body(guard)
    function = make(guard.limit(COST), body)
    assert await run(function, EMAIL, deep=True) == expected(make, Found(EMAIL))
    assert body.calls == [(EMAIL, True)]
    assert body.during == [Count(held=2)]
    assert count(guard) == Count(settled=2)


@every_kind
@pytest.mark.parametrize("error", [BodyError("no"), KeyboardInterrupt("no")], ids=["error", "base"])
async def test_a_call_that_raises_is_unknown(
    guard: Guard, make: Make, error: BaseException
) -> None:
    """What the function raises comes through as it is; nobody knows what the call cost."""
    function = make(guard.limit(COST), Body(guard, error=error))
    with pytest.raises(type(error)) as caught:
        await run(function, EMAIL)
    assert caught.value is error
    assert count(guard) == Count(unknown=2)


@every_kind
async def test_a_refused_call_does_not_happen(spent: Guard, make: Make) -> None:
    """The refusal is raised, the function is not called, nothing is held."""
    body = Body(spent)
    function = make(spent.limit(COST), body)
    with pytest.raises(QuotaExhausted):
        await run(function, EMAIL)
    assert body.calls == []
    assert count(spent).held == 0


@every_kind
async def test_a_fallback_stands_for_a_refused_call(spent: Guard, make: Make) -> None:
    """A value is the result; a generator yields its items."""
    body = Body(spent)
    function = make(spent.limit(COST, fallback=["later", "today"]), body)
    assert await run(function, EMAIL) == ["later", "today"]
    assert body.calls == []
    assert count(spent).held == 0


@every_kind
async def test_none_is_a_fallback(spent: Guard, make: Make) -> None:
    """None is a value like any other; a generator has no items then."""
    function = make(spent.limit(COST, fallback=None), Body(spent))
    assert await run(function, EMAIL) == ([] if items(make) else None)


@every_kind
async def test_a_fallback_is_called_with_the_refusal(spent: Guard, make: Make) -> None:
    """What can be called is called for every refusal."""
    refusals: list[Refusal] = []

    def instead(refusal: Refusal) -> list[str]:
        refusals.append(refusal)
        return [refusal.meter]

    function = make(spent.limit(COST, fallback=instead), Body(spent))
    assert await run(function, EMAIL) == [MATCHES]
    assert await run(function, EMAIL) == [MATCHES]
    assert [type(refusal) for refusal in refusals] == [QuotaExhausted, QuotaExhausted]


@every_kind
async def test_a_fallback_is_for_refusals_only(guard: Guard, make: Make) -> None:
    """The function's own errors are raised, and a refusal from inside it is one of them."""
    refusal = QuotaExhausted(_facts(guard))
    function = make(guard.limit(COST, fallback=["later"]), Body(guard, error=refusal))
    with pytest.raises(QuotaExhausted) as caught:
        await run(function, EMAIL)
    assert caught.value is refusal
    assert count(guard) == Count(unknown=2)


def _facts(guard: Guard) -> Any:
    """Return the facts of a refusal that another guard could raise."""
    with pytest.raises(Refusal) as caught, guard.reserve({MATCHES: 1000}):
        pass
    return caught.value.facts


@every_kind
async def test_nothing_is_counted_while_disabled(guard: Guard, make: Make) -> None:
    """With quotaguard switched off the function runs as if it was bare."""
    body = Body(guard)
    function = make(guard.limit(COST, settle=lambda _: COST), body)
    with disabled():
        assert await run(function, EMAIL) == expected(make, Found(EMAIL))
    assert count(guard) == Count()


# -- cost and settle -----------------------------------------------------------------


@every_kind
async def test_the_cost_comes_from_the_arguments(guard: Guard, make: Make) -> None:
    """`cost` gets what the caller gave, without self or cls; its answer is reserved."""
    asked: list[object] = []

    def cost(*args: object, **named: object) -> Mapping[str, int]:
        asked.append((args, named))
        return {MATCHES: 5}

    body = Body(guard)
    function = make(guard.limit(COST, cost=cost), body)
    await run(function, EMAIL, deep=True)
    assert asked == [((EMAIL,), {"deep": True})]
    assert body.during == [Count(held=5)]
    assert count(guard) == Count(settled=5)


def test_the_cost_gets_no_class_where_a_classmethod_binds_nothing(guard: Guard) -> None:
    """From Python 3.13 on a classmethod hands the class over like an argument."""
    asked: list[tuple[object, ...]] = []

    def cost(*args: object) -> Mapping[str, int]:
        asked.append(args)
        return COST

    def enrich(cls: type, email: type | str) -> tuple[type, type | str]:
        return cls, email

    made = guard.limit(COST, cost=cost)(enrich)
    owner = type("Contacts", (), {"enrich": classmethod(made)})
    heir = type("Friends", (owner,), {})
    assert types.MethodType(made, heir)(EMAIL) == (heir, EMAIL)
    assert made(int, EMAIL) == (int, EMAIL)
    namesake = guard.limit(COST, cost=cost)(types.FunctionType(enrich.__code__, {}))
    assert namesake(heir, EMAIL) == (heir, EMAIL)
    assert asked == [(EMAIL,), (int, EMAIL), (heir, EMAIL)]


@one_of_each
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (BodyError("no cost"), BodyError),
        (None, ConfigError),
        ("person.enrich", ConfigError),
        ({"no.such.meter": 1}, ConfigError),
        ({MATCHES: -1}, ConfigError),
        ({MATCHES: "2"}, ConfigError),
        ({MATCHES: True}, ConfigError),
    ],
    ids=["raises", "none", "name", "meter", "negative", "text", "bool"],
)
async def test_a_failing_cost_reserves_nothing(
    guard: Guard, make: Make, answer: object, error: type[Exception]
) -> None:
    """What `cost` raises, or what is wrong with its answer, is raised before all else."""

    def cost(*_: object, **__: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    body = Body(guard)
    function = make(guard.limit(COST, cost=cost), body)
    with pytest.raises(error):
        await run(function, EMAIL)
    assert body.calls == []
    assert count(guard) == Count()


@every_kind
async def test_the_settlement_comes_from_the_result(guard: Guard, make: Make) -> None:
    """`settle` gets what was returned (None of an async generator); the rest is free again."""
    results: list[object] = []

    def settle(result: object) -> Mapping[str, int]:
        results.append(result)
        return {MATCHES: 1}

    function = make(guard.limit({MATCHES: 5}, settle=settle), Body(guard))
    await run(function, EMAIL)
    assert results == [None if "async_generator" in make.__name__ else Found(EMAIL)]
    assert count(guard) == Count(settled=1)


@one_of_each
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (BodyError(f"a body with {KEY}"), "settle raised BodyError"),
        (None, "settle returned None"),
        (7, "a cost maps meters to units, it is no int"),
        ({"no.such.meter": 1}, "fullcontact has no meter 'no.such.meter'"),
        ({MATCHES: -1}, f"the cost of {MATCHES} is negative"),
        ({MATCHES: float("nan")}, f"the cost of {MATCHES}: "),
    ],
    ids=["raises", "none", "number", "meter", "negative", "nan"],
)
async def test_a_failing_settle_costs_nobody_the_result(
    guard: Guard, told: Told, make: Make, answer: object, reason: str
) -> None:
    """The result is returned, the estimate is unknown, and the listeners hear why."""

    def settle(_: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    function = make(guard.limit(COST, settle=settle), Body(guard))
    assert await run(function, EMAIL) == expected(make, Found(EMAIL))
    assert count(guard) == Count(unknown=2)
    (event,) = told.of(Degraded)
    assert event.state == "settle_failed"
    assert event.reason.startswith(reason)
    assert KEY not in event.reason
    assert [event.unknown for event in told.of(Settled)] == [True]


@every_kind
async def test_settling_above_the_estimate_is_counted(guard: Guard, told: Told, make: Make) -> None:
    """What the result says is true, even if it is more; it is told as underpriced."""
    function = make(guard.limit(COST, settle=lambda _: {MATCHES: 7}), Body(guard))
    await run(function, EMAIL)
    assert count(guard) == Count(settled=7)
    assert [event.state for event in told.of(Degraded)] == ["underpriced"]


@every_kind
async def test_an_operation_prices_the_call(guard: Guard, make: Make) -> None:
    """An operation's name is its estimate: a person may be a match or a miss."""
    body = Body(guard)
    await run(make(guard.limit("person.enrich"), body), EMAIL)
    assert body.during == [Count(held=1)]
    assert count(guard) == Count(settled=1)


def test_a_price_that_changes_later_changes_nothing(guard: Guard) -> None:
    """The estimate is taken when the function is decorated, and every call has its own."""
    cost = {MATCHES: 2}
    function = guard.limit(cost)(len)
    function("")
    cost[MATCHES] = 50
    function("")
    assert count(guard) == Count(settled=4)


# -- inside and outside ----------------------------------------------------------------


@every_kind
async def test_what_is_called_inside_is_not_charged_twice(guard: Guard, make: Make) -> None:
    """An inner call takes from the units of the function; the rest is settled by it."""

    def inside() -> None:
        with guard.reserve({MATCHES: 1}) as inner:
            assert count(guard) == Count(held=2)
            inner.settle()

    await run(make(guard.limit(COST), Body(guard, inside=inside)), EMAIL)
    assert count(guard) == Count(settled=2)


@every_kind
async def test_an_inner_call_knows_best_what_it_cost(guard: Guard, make: Make) -> None:
    """A miss inside leaves the function nothing to charge but what nobody took."""

    def inside() -> None:
        with guard.reserve({MATCHES: 1}) as inner:
            inner.release()

    await run(make(guard.limit(COST), Body(guard, inside=inside)), EMAIL)
    assert count(guard) == Count(settled=1)


@every_kind
async def test_an_inner_call_keeps_what_it_spent_when_the_function_fails(
    guard: Guard, make: Make
) -> None:
    """Unknown is only what is left of the estimate."""

    def inside() -> None:
        with guard.reserve({MATCHES: 1}) as inner:
            inner.settle()

    function = make(guard.limit(COST), Body(guard, inside=inside, error=BodyError()))
    with pytest.raises(BodyError):
        await run(function, EMAIL)
    assert count(guard) == Count(settled=1, unknown=1)


@every_kind
async def test_settle_tells_of_the_inner_calls_too(guard: Guard, make: Make) -> None:
    """What `settle` says is the whole; what inner calls had of it is not charged again."""

    def inside() -> None:
        with guard.reserve({MATCHES: 1}) as inner:
            inner.settle()

    limit = guard.limit({MATCHES: 5}, settle=lambda _: {MATCHES: 3})
    await run(make(limit, Body(guard, inside=inside)), EMAIL)
    assert count(guard) == Count(settled=3)


@every_kind
async def test_nothing_covers_what_comes_after(guard: Guard, make: Make) -> None:
    """When the call is over, the next reservation is charged for itself."""
    await run(make(guard.limit(COST), Body(guard)), EMAIL)
    with pytest.raises(BodyError):
        await run(make(guard.limit(COST), Body(guard, error=BodyError())), EMAIL)
    with guard.reserve({MATCHES: 1}) as after:
        after.settle()
    assert count(guard) == Count(settled=3, unknown=2)


def test_a_guarded_client_inside_is_charged_once(guard: Guard, vendor: FakeFullContact) -> None:
    """The books agree with the provider: one match for one call through both guards."""

    @guard.limit("person.enrich")
    def enrich(email: str) -> int:
        response = client.post(f"{vendor.url}/v3/person.enrich", json={"email": email})
        return response.status_code

    with guard.client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert [enrich(EMAIL), enrich("bob@example.com")] == [200, 200]
    assert vendor.true[MATCHES] == 2
    assert count(guard) == Count(settled=2)


async def test_a_guarded_async_client_inside_is_charged_once(
    guard: Guard, vendor: FakeFullContact
) -> None:
    """The same for tasks; calls that the estimate does not cover are charged besides."""

    @guard.limit("person.enrich")
    async def enrich(*emails: str) -> int:
        for email in emails:
            url = f"{vendor.url}/v3/person.enrich"
            (await client.post(url, json={"email": email})).raise_for_status()
        return len(emails)

    async with guard.async_client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert await enrich(EMAIL, "bob@example.com", "cy@example.com") == 3
        assert await enrich(EMAIL) == 1
    assert vendor.true[MATCHES] == 4
    assert count(guard) == Count(settled=4)


def test_decorated_functions_cover_each_other(guard: Guard) -> None:
    """One that calls another one pays once, as with any guarded call inside."""

    @guard.limit({MATCHES: 1})
    def inner() -> None: ...

    @guard.limit({MATCHES: 3})
    def outer() -> None:
        inner()
        inner()

    outer()
    assert count(guard) == Count(settled=3)


def test_a_thread_is_charged_by_itself(guard: Guard) -> None:
    """A pool's thread does not know of the function; with a copied context it does."""

    def one() -> None:
        with guard.reserve({MATCHES: 1}) as reservation:
            reservation.settle()

    with ThreadPoolExecutor(1) as pool:

        @guard.limit({MATCHES: 1})
        def plainly() -> None:
            pool.submit(one).result()

        @guard.limit({MATCHES: 1})
        def copied() -> None:
            pool.submit(contextvars.copy_context().run, one).result()

        plainly()
        assert count(guard) == Count(settled=2)
        copied()
        assert count(guard) == Count(settled=3)


# -- what a decorated function looks like -----------------------------------------------


@pytest.mark.parametrize("make", [*SYNC, *ASYNC], ids=lambda make: make.__name__)
def test_a_function_stays_what_it_is(guard: Guard, make: Make) -> None:
    """Every question that inspect answers has the answer of the bare function."""

    def bare(function: Any) -> Any:
        return function

    plain, made = make(bare, Body(guard)), make(guard.limit(COST), Body(guard))
    for asks in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
        inspect.isfunction,
        inspect.ismethod,
        callable,
    ):
        assert asks(made) == asks(plain), asks.__name__
    assert str(inspect.signature(made)) == str(inspect.signature(plain))
    for name in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        told = getattr(made, name, None), getattr(plain, name, None)
        assert str(told[0]).replace("bare", "") == str(told[1]).replace("bare", "")


def test_name_doc_and_attributes_stay(guard: Guard) -> None:
    """The name, the doc string and what was set on the function are there."""

    @guard.limit(COST)
    @functools.lru_cache
    def enrich(email: str) -> str:
        """Enrich a person."""
        return email

    assert (enrich.__name__, enrich.__doc__) == ("enrich", "Enrich a person.")
    enrich(EMAIL)
    enrich(EMAIL)
    assert enrich.cache_info().hits == 1
    assert count(guard) == Count(settled=4)


def test_what_runs_later_has_the_functions_name(guard: Guard) -> None:
    """Warnings and tracebacks of asyncio name the function and not the decorator."""
    body = Body(guard)
    coroutine = an_async_def(guard.limit(COST), body)(EMAIL)
    generator = a_generator(guard.limit(COST), body)(EMAIL)
    stream = an_async_generator(guard.limit(COST), body)(EMAIL)
    assert coroutine.__qualname__ == "an_async_def.<locals>.enrich"
    assert generator.__qualname__ == "a_generator.<locals>.enrich"
    assert stream.__qualname__ == "an_async_generator.<locals>.enrich"
    assert inspect.iscoroutine(coroutine)
    assert inspect.isgenerator(generator)
    assert inspect.isasyncgen(stream)
    coroutine.close()
    assert count(guard) == Count()


def test_a_copy_of_a_function_is_the_function(guard: Guard) -> None:
    """Functions are not copied, and guarded ones are functions."""
    made = guard.limit(COST)(len)
    assert copy.copy(made) is made
    assert copy.deepcopy([made])[0] is made


@pytest.mark.parametrize(
    "thing",
    [Found, int, 7, None, property(len), functools.partialmethod(len)],
    ids=["class", "builtin-class", "number", "none", "property", "partialmethod"],
)
def test_what_is_no_function_cannot_be_guarded(guard: Guard, thing: Any) -> None:
    """A class or what cannot be called is a mistake that is told when it is decorated."""
    with pytest.raises(ConfigError):
        guard.limit(COST)(thing)


async def _async_answer(*_: object) -> dict[str, int]:
    return COST


@pytest.mark.parametrize(
    "settings",
    [
        {"cost": {"leads": 1}},
        {"settle": 7},
        {"cost": _async_answer},
        {"settle": _async_answer},
        {"fallback": _async_answer},
        {"priority": "urgent"},
        {"max_wait": "soon"},
        {"max_wait": -1},
    ],
    ids=[
        "cost-mapping",
        "settle-number",
        "cost-async",
        "settle-async",
        "fallback-async",
        "priority",
        "wait-text",
        "wait-negative",
    ],
)
def test_settings_that_cannot_work_are_told_at_once(guard: Guard, settings: dict[str, Any]) -> None:
    """Nothing waits for three in the morning."""
    with pytest.raises(ConfigError):
        guard.limit(COST, **settings)


@pytest.mark.parametrize(
    "operation",
    ["person.enrol", {"no.meter": 1}, {MATCHES: -1}, len],
    ids=["name", "meter", "negative", "function"],
)
def test_operations_that_are_none_are_told_at_once(guard: Guard, operation: Any) -> None:
    """A decorator without parentheses is one of these mistakes."""
    with pytest.raises(ConfigError):
        guard.limit(operation)


@pytest.mark.parametrize("make", [a_generator, an_async_generator], ids=["sync", "async"])
def test_a_generators_fallback_has_items(guard: Guard, make: Make) -> None:
    """What has none is a mistake, told when the generator is decorated."""
    with pytest.raises(ConfigError, match="int has none"):
        make(guard.limit(COST, fallback=7), Body(guard))


def test_priority_and_wait_are_the_calls(vendor: FakeFullContact, clock: FakeClock) -> None:
    """A batch call is refused where a critical one goes, as their reservations would be."""
    guard = guard_of(vendor, clock, slack={"critical": 1.0, "batch": 0.0})

    def call() -> bool:
        return True

    with pytest.raises(Refusal):
        guard.limit({MATCHES: 80}, priority="batch", max_wait=0)(call)()
    assert guard.limit({MATCHES: 80}, priority="critical", max_wait=0)(call)()


# -- coroutines --------------------------------------------------------------------------


async def test_a_coroutine_reserves_when_it_is_awaited(guard: Guard) -> None:
    """Calling an async def does nothing yet, and what is never awaited costs nothing."""
    coroutine = an_async_def(guard.limit(COST), Body(guard))(EMAIL)
    assert count(guard) == Count()
    await coroutine
    assert count(guard) == Count(settled=2)


async def test_a_cancelled_call_is_unknown(guard: Guard) -> None:
    """Cancelled in the middle of an await, it leaves no units held."""
    begun = anyio.Event()

    @guard.limit(COST)
    async def enrich() -> None:
        begun.set()
        await anyio.Event().wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enrich)
        await begun.wait()
        assert count(guard) == Count(held=2)
        tasks.cancel_scope.cancel()
    assert count(guard) == Count(unknown=2)


async def test_a_call_cancelled_while_it_waits_holds_nothing(vendor: FakeFullContact) -> None:
    """Whoever waits for a slot holds no units, and cancelling it charges none."""
    clock = FakeClock(autojump=False)
    guard = guard_of(vendor, clock, slack={"batch": 0.0})
    body = Body(guard)
    function = an_async_def(guard.limit({MATCHES: 80}, priority="batch", max_wait=10**8), body)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function, EMAIL)
        await anyio.wait_all_tasks_blocked()
        assert clock.waiting == 1
        tasks.cancel_scope.cancel()
    assert body.calls == []
    assert count(guard) == Count()


async def test_tasks_at_once_are_charged_one_by_one(guard: Guard) -> None:
    """The context of a task is its own: siblings cover nothing of each other."""
    body = Body(guard)
    function = an_async_def(guard.limit(COST), body)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(function, EMAIL)
    assert count(guard) == Count(settled=20)


async def test_a_task_begun_inside_is_covered(guard: Guard) -> None:
    """A task inherits the context of the function that starts it, and waits for it."""

    async def one() -> None:
        async with guard.reserve({MATCHES: 1}) as reservation:
            reservation.settle()

    @guard.limit(COST)
    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            tasks.start_soon(one)

    await both()
    assert count(guard) == Count(settled=2)


@pytest.mark.parametrize("kind", ["limit", "reserve"])
def test_a_coroutine_thrown_away_is_unknown(guard: Guard, kind: str) -> None:
    """Finalized in another context, perhaps under our own lock: no error, no deadlock."""

    @types.coroutine
    def forever() -> Generator[None, None, None]:
        while True:
            yield

    @guard.limit(COST)
    async def decorated() -> None:
        await forever()

    async def reserving() -> None:
        async with guard.reserve(COST):
            await forever()

    coroutine = (decorated if kind == "limit" else reserving)()
    contextvars.copy_context().run(coroutine.send, None)
    assert count(guard) == Count(held=2)
    with guard._spending.holder.lock:
        del coroutine
        gc.collect()
    assert count(guard) == Count(unknown=2)


# -- generators --------------------------------------------------------------------------


def numbers(guard: Guard, **settings: Any) -> Any:
    """Return a decorated generator of the small numbers."""
    limit: Limiting = guard.limit(COST, **settings)

    @limit
    def small() -> Generator[int, None, None]:
        yield from range(10)

    return small


def anumbers(guard: Guard, **settings: Any) -> Any:
    """Return a decorated async generator of the small numbers."""
    limit: Limiting = guard.limit(COST, **settings)

    @limit
    async def small() -> AsyncGenerator[int, None]:
        for number in range(10):
            yield number

    return small


async def test_a_generator_reserves_at_its_first_step(guard: Guard) -> None:
    """Made and never used, it costs nothing; one step holds its units, the last settles."""
    steps, asteps = numbers(guard)(), anumbers(guard)()
    assert count(guard) == Count()
    assert next(steps) == 0
    assert count(guard) == Count(held=2)
    assert await anext(asteps) == 0
    assert count(guard) == Count(held=4)
    assert list(steps) == [*range(1, 10)]
    assert [item async for item in asteps] == [*range(1, 10)]
    assert count(guard) == Count(settled=4)


async def test_generators_that_are_never_begun_cost_nothing(guard: Guard) -> None:
    """Closed or failed before the first step, they have done nothing."""
    steps, asteps = numbers(guard)(), anumbers(guard)()
    steps.close()
    await asteps.aclose()
    with pytest.raises(BodyError):
        numbers(guard)().throw(BodyError())
    with pytest.raises(BodyError):
        await anumbers(guard)().athrow(BodyError())
    assert count(guard) == Count()


async def test_a_generator_covers_its_steps_and_not_its_consumer(guard: Guard) -> None:
    """Between two steps a call of the consumer is charged for itself."""

    def one() -> None:
        with guard.reserve({MATCHES: 1}) as reservation:
            reservation.settle()

    @guard.limit({MATCHES: 1})
    def steps() -> Generator[int, None, None]:
        yield 1
        one()
        yield 2

    @guard.limit({MATCHES: 1})
    async def asteps() -> AsyncGenerator[int, None]:
        yield 1
        await anyio.lowlevel.checkpoint()
        one()
        yield 2

    for _ in steps():
        one()
    assert count(guard) == Count(settled=3)
    async for _ in asteps():
        one()
    assert count(guard) == Count(settled=6)


async def test_interleaved_generators_do_not_mix(guard: Guard) -> None:
    """Each keeps its own units, in whatever order their steps come."""
    first, second = numbers(guard)(), anumbers(guard)()
    for _ in range(10):
        next(first)
        await anext(second)
    assert count(guard) == Count(held=4)
    with pytest.raises(StopAsyncIteration):
        await anext(second)
    assert count(guard) == Count(settled=2, held=2)
    with pytest.raises(StopIteration):
        next(first)
    assert count(guard) == Count(settled=4)


async def test_a_generator_closed_early_is_unknown(guard: Guard) -> None:
    """Closed before its end, nobody knows what it cost; a finally inside it runs."""
    ended: list[str] = []

    @guard.limit(COST)
    def steps() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            ended.append("sync")

    @guard.limit(COST)
    async def asteps() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await anyio.lowlevel.checkpoint()
            ended.append("async")

    with closing(steps()) as items:
        next(items)
    assert count(guard) == Count(unknown=2)
    async with aclosing(asteps()) as aitems:
        await anext(aitems)
    assert count(guard) == Count(unknown=4)
    assert ended == ["sync", "async"]


async def test_a_generator_that_ends_when_it_is_closed_is_unknown(guard: Guard) -> None:
    """One that takes being closed for its end has not done what was paid for."""

    @guard.limit(COST)
    def steps() -> Generator[int, None, None]:
        with suppress(GeneratorExit):
            yield 1

    @guard.limit(COST)
    async def asteps() -> AsyncGenerator[int, None]:
        with suppress(GeneratorExit):
            yield 1

    with closing(steps()) as items:
        next(items)
    async with aclosing(asteps()) as aitems:
        await anext(aitems)
    assert count(guard) == Count(unknown=4)


async def test_a_generator_that_fails_in_the_middle_is_unknown(guard: Guard) -> None:
    """What it raises comes through, and what its inner calls spent is theirs."""

    @guard.limit(COST)
    def steps() -> Generator[int, None, None]:
        with guard.reserve({MATCHES: 1}) as inner:
            inner.settle()
        yield 1
        raise BodyError

    @guard.limit(COST)
    async def asteps() -> AsyncGenerator[int, None]:
        yield 1
        raise BodyError

    with pytest.raises(BodyError):
        list(steps())
    assert count(guard) == Count(settled=1, unknown=1)
    with pytest.raises(BodyError):
        [item async for item in asteps()]
    assert count(guard) == Count(settled=1, unknown=3)


def test_a_generators_loop_that_is_left_is_unknown(guard: Guard) -> None:
    """A for loop with a break drops the generator, which then holds nothing."""
    for number in numbers(guard)():
        if number == 3:
            break
    gc.collect()
    assert count(guard) == Count(unknown=2)


def test_a_generator_thrown_away_under_the_lock_does_no_harm(guard: Guard) -> None:
    """The garbage collector may run while the guard holds its lock."""
    steps = numbers(guard)()
    next(steps)
    with guard._spending.holder.lock:
        del steps
        gc.collect()
    assert count(guard) == Count(unknown=2)


def test_an_async_generator_thrown_away_under_the_lock_does_no_harm(guard: Guard) -> None:
    """In the middle of an await too, of an event loop that is gone."""

    @types.coroutine
    def forever() -> Generator[None, None, None]:
        while True:
            yield

    @guard.limit(COST)
    async def asteps() -> AsyncGenerator[int, None]:
        await forever()
        yield 1

    step = asteps().asend(None)
    contextvars.copy_context().run(step.send, None)
    assert count(guard) == Count(held=2)
    with guard._spending.holder.lock:
        del step
        gc.collect()
    assert count(guard) == Count(unknown=2)


def test_a_loop_closes_what_it_left_behind(guard: Guard) -> None:
    """The end of an asyncio program closes a suspended async generator once, in order."""
    complaints: list[dict[str, Any]] = []
    ended: list[str] = []
    kept: list[AsyncGenerator[int, None]] = []

    @guard.limit(COST)
    async def asteps() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            ended.append("closed")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, told: complaints.append(told))
        for _ in range(8):
            kept.append(asteps())
            await anext(kept[-1])

    asyncio.run(main())
    assert complaints == []
    assert ended == ["closed"] * 8
    kept.clear()
    gc.collect()
    assert count(guard) == Count(unknown=16)


async def test_a_step_cancelled_in_the_middle_is_unknown(guard: Guard) -> None:
    """Cancelled while a step awaits, the generator is over and holds nothing."""
    begun = anyio.Event()

    @guard.limit(COST)
    async def asteps() -> AsyncGenerator[int, None]:
        yield 1
        begun.set()
        await anyio.Event().wait()
        yield 2

    async def consume() -> None:
        async with aclosing(asteps()) as items:
            async for _ in items:
                pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        await begun.wait()
        assert count(guard) == Count(held=2)
        tasks.cancel_scope.cancel()
    assert count(guard) == Count(unknown=2)


async def test_the_steps_may_be_made_by_different_tasks(guard: Guard) -> None:
    """A worker each: the context is set and reset within the step."""
    items = anumbers(guard)()
    got: list[int] = []

    async def step() -> None:
        got.append(await anext(items))

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
    assert got == [0, 1, 2]
    await items.aclose()
    assert count(guard) == Count(unknown=2)


def test_wrong_arguments_are_told_by_the_call(guard: Guard) -> None:
    """A generator function complains when it is called, and so does a guarded one."""
    for make in (a_generator, an_async_generator):
        with pytest.raises(TypeError):
            make(guard.limit(COST), Body(guard))()
    assert count(guard) == Count()


async def test_a_fallback_may_be_an_async_iterable(spent: Guard) -> None:
    """An async generator yields from one, or from any other iterable."""

    async def stored(_: Refusal | None = None) -> AsyncGenerator[int, None]:
        yield 7

    for fallback in (stored, stored(), (7,)):
        asteps = anumbers(spent, fallback=fallback)
        assert [item async for item in asteps()] == [7]


def test_a_fallback_generators_value_is_the_result(spent: Guard) -> None:
    """`yield from` of a refused generator gets what its fallback returns."""

    def stored(_: Refusal) -> Generator[int, None, str]:
        yield 7
        return "stored"

    def consumer() -> Generator[int, None, str]:
        value: str = yield from numbers(spent, fallback=stored)()
        return value

    steps = consumer()
    assert next(steps) == 7
    with pytest.raises(StopIteration) as last:
        next(steps)
    assert last.value.value == "stored"


def test_an_error_thrown_in_is_let_go(guard: Guard) -> None:
    """No frame keeps an error alive that has passed through a generator."""

    def passing() -> weakref.ref[BodyError]:
        steps = numbers(guard)()
        next(steps)
        try:
            steps.throw(BodyError())
        except BodyError as error:
            return weakref.ref(error)
        raise AssertionError("it was swallowed")

    gc.collect()
    gc.disable()
    try:
        assert passing()() is None
    finally:
        gc.enable()


def test_a_generator_is_a_context_manager_too(guard: Guard) -> None:
    """`contextmanager` works on top, errors and all."""

    @contextmanager
    @guard.limit(COST)
    def session(*, forgiving: bool) -> Generator[int, None, None]:
        try:
            yield 7
        except BodyError:
            if not forgiving:
                raise

    with session(forgiving=True) as seven:
        assert seven == 7
    with session(forgiving=True):
        raise BodyError
    with pytest.raises(BodyError), session(forgiving=False):
        raise BodyError
    assert count(guard) == Count(settled=4, unknown=2)


Step = tuple[str, object]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 5)),
        st.tuples(
            st.just("throw"),
            st.sampled_from([BodyError, ValueError, GeneratorExit, StopIteration, KeyError]),
        ),
        st.tuples(st.just("close"), st.none()),
    ),
    max_size=8,
)


def talkative(log: list[object]) -> Generator[object, object, str]:
    """Answer whatever comes, log it, stop at 5, fail at 4, swallow most of what is thrown."""
    sent: object = None
    while True:
        try:
            sent = yield ("got", sent)
        except (BodyError, StopIteration) as error:
            sent = type(error).__name__
        except GeneratorExit:
            log.append("exit")
            if sent == 3:
                sent = "ignored"
                continue
            if sent == 2:
                return "closed"
            raise
        except KeyError as error:
            raise ValueError("turned") from error
        finally:
            log.append(sent)
        if sent == 5:
            return "five"
        if sent == 4:
            raise BodyError("four")


async def atalkative(log: list[object]) -> AsyncGenerator[object, object]:
    """Do what the other one does."""
    inner = talkative(log)
    step = functools.partial(inner.send, None)
    while True:
        try:
            item = step()
        except StopIteration:
            return
        try:
            sent = yield item
        except BaseException as error:  # noqa: BLE001 - it is thrown on
            step = functools.partial(inner.throw, error)
        else:
            step = functools.partial(inner.send, sent)


def told_of(act: Callable[[], object]) -> object:
    """Return what a step brings: an item, an end with its value, an error with its cause."""
    try:
        return "item", act()
    except StopIteration as end:
        return "end", end.value
    except (Exception, GeneratorExit) as error:  # noqa: BLE001 - all are compared
        return type(error), str(error), type(error.__cause__), type(error.__context__)


def through(steps: list[Step], generator: Generator[Any, Any, Any]) -> list[object]:
    """Return what a generator answers to *steps*."""
    said = [told_of(functools.partial(next, generator))]
    for verb, what in steps:
        if verb == "close":
            said.append(told_of(generator.close))
        elif verb == "throw":
            said.append(told_of(functools.partial(generator.throw, what("thrown"))))  # type: ignore[operator]
        else:
            said.append(told_of(functools.partial(generator.send, what)))
    said.append(told_of(functools.partial(generator.send, 5)))
    return said


def awaited(awaitable: Any) -> object:
    """Return what an awaitable brings that never waits."""
    try:
        awaitable.send(None)
    except StopIteration as end:
        return end.value
    except StopAsyncIteration:
        return "the end"
    raise AssertionError("it waited")


def athrough(steps: list[Step], generator: AsyncGenerator[Any, Any]) -> list[object]:
    """Return what an async generator answers to *steps*."""
    said = [told_of(lambda: awaited(generator.asend(None)))]
    for verb, what in steps:
        if verb == "close":
            said.append(told_of(lambda: awaited(generator.aclose())))
        elif verb == "throw":
            error = what("thrown")  # type: ignore[operator]
            said.append(told_of(lambda error=error: awaited(generator.athrow(error))))  # type: ignore[misc]
        else:
            said.append(told_of(lambda what=what: awaited(generator.asend(what))))  # type: ignore[misc]
    said.append(told_of(lambda: awaited(generator.asend(5))))
    return said


@pytest.fixture(scope="module")
def roomy() -> Iterator[Guard]:
    """Give a guard whose account has no end."""
    clock = FakeClock()
    with fake("fullcontact", quota=None, key=KEY, clock=clock) as vendor:
        yield guard_of(vendor, clock)


@given(steps=STEPS)
def test_send_throw_and_close_reach_the_generator(roomy: Guard, steps: list[Step]) -> None:
    """Whatever a consumer does, a guarded generator answers as the bare one would."""
    bare_log: list[object] = []
    log: list[object] = []
    bare = through(steps, talkative(bare_log))
    assert through(steps, roomy.limit(COST)(talkative)(log)) == bare
    assert log == bare_log
    assert count(roomy).held == 0


@given(steps=STEPS)
def test_asend_athrow_and_aclose_reach_the_generator(roomy: Guard, steps: list[Step]) -> None:
    """The same for async generators."""
    bare_log: list[object] = []
    log: list[object] = []
    bare = athrough(steps, atalkative(bare_log))
    assert athrough(steps, roomy.limit(COST)(atalkative)(log)) == bare
    assert log == bare_log
    assert count(roomy).held == 0


# -- pickles and processes ---------------------------------------------------------------

PRICED = '''
from quotaguard import FullContact, Guard, Policy

METER = "person.enrichment.matches"
guard = Guard(FullContact("{key}", base_url="{url}"), policy=Policy(lag=0, late=0, cold_reserve=0))


@guard.limit({{METER: 1}})
def enrich(email):
    """Enrich a person."""
    return email.upper()


class Contacts:
    def __init__(self, domain):
        self.domain = domain

    @guard.limit({{METER: 1}})
    def enrich(self, name):
        return f"{{name}}@{{self.domain}}"

    @guard.limit({{METER: 1}})
    @classmethod
    def above_class(cls, name):
        return cls.__name__, name

    @classmethod
    @guard.limit({{METER: 1}})
    def below_class(cls, name):
        return cls.__name__, name

    @guard.limit({{METER: 1}})
    @staticmethod
    def above_static(name):
        return name

    @staticmethod
    @guard.limit({{METER: 1}})
    def below_static(name):
        return name


class Friends(Contacts):
    pass


def spent():
    guard.standing()
    return guard._spending.holder.books.meters[METER].spent
'''

POOL = """
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import priced

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        print(list(pool.map(priced.enrich, ["ann", "bob"])))
        print(pool.submit(priced.Contacts("example.com").enrich, "ann").result())
        print(pool.submit(priced.Friends.above_class, "ann").result())
        print(pool.submit(priced.spent).result())
    print(priced.guard._spending.holder.books.meters.get(priced.METER) is None)
"""


@pytest.fixture
def priced(vendor: FakeFullContact, tmp_path: Path) -> Iterator[Any]:
    """Write a module of decorated functions, as users do, and import it."""
    (tmp_path / "priced.py").write_text(PRICED.format(key=KEY, url=vendor.url), "utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        yield importlib.import_module("priced")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("priced", None)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_function_is_pickled_by_its_name(priced: Any, protocol: int) -> None:
    """What comes back is the same object, and its pickle holds no more than names."""
    pickled = pickle.dumps(priced.enrich, protocol)
    assert pickle.loads(pickled) is priced.enrich  # noqa: S301 - our own
    assert KEY.encode() not in pickled
    assert pickle.loads(pickle.dumps(priced.Contacts.below_static, protocol)) is (  # noqa: S301 - our own
        priced.Contacts.below_static
    )


def test_methods_are_pickled_with_what_they_are_bound_to(priced: Any) -> None:
    """Methods of objects, of classes and of heirs find themselves again, guarded."""
    for method, result in (
        (priced.Contacts("example.com").enrich, "ann@example.com"),
        (priced.Contacts.above_class, ("Contacts", "ann")),
        (priced.Friends.above_class, ("Friends", "ann")),
        (priced.Friends.below_class, ("Friends", "ann")),
        (priced.Friends("example.com").below_class, ("Friends", "ann")),
        (priced.Contacts.above_static, "ann"),
        (priced.Contacts("example.com").above_static, "ann"),
    ):
        before = priced.spent() if priced.guard.standing().rows else 0
        assert pickle.loads(pickle.dumps(method))("ann") == result  # noqa: S301 - our own
        assert priced.spent() == before + 1
    again = pickle.loads(pickle.dumps(priced.Contacts.enrich))  # noqa: S301 - our own
    assert again(priced.Contacts("example.org"), "ann") == "ann@example.org"


def test_what_has_no_name_cannot_be_pickled(guard: Guard, priced: Any) -> None:
    """A local function, a nameless one, one whose name stands for another: no pickle."""

    def local() -> None: ...

    for function in (local, functools.partial(len, ""), priced.Contacts("x").enrich.__wrapped__):
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(guard.limit(COST)(function))


@pytest.mark.parametrize("start", ["spawn", "fork", "forkserver"])
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_functions_run_in_process_pools(priced: Any, tmp_path: Path, start: str) -> None:
    """A worker finds the function by its name and reserves at its own guard's books."""
    program = tmp_path / "pool.py"
    program.write_text(POOL, "utf-8")
    done = subprocess.run(
        [sys.executable, str(program), start], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['ANN', 'BOB']",
        "ann@example.com",
        "('Friends', 'ann')",
        "4",
        "True",
    ]
