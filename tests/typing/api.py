"""What type checkers must see of the public API. Read by them, never executed."""

# ruff: noqa: D103 - nobody calls these functions

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar, assert_type, overload

import httpx

from quotaguard import Forecast, FullContact, Guard, Policy, Refusal, Standing
from quotaguard.quota.forecast import ForecastRow
from quotaguard.quota.standing import Decision
from quotaguard.reservation import Reservation

T = TypeVar("T")

guard = Guard(FullContact(api_key="..."), policy=Policy(max_wait=timedelta(seconds=5)))


class Batch:
    """Something with a size, and a result that knows what was accepted."""

    accepted: int

    def __len__(self) -> int:
        return 0


# -- functions keep their type ------------------------------------------------


@guard.limit("person.enrich")
def enrich(email: str, *, retries: int = 0) -> dict[str, int]:
    return {email: retries}


@guard.limit({"leads": 1}, priority="critical", max_wait=timedelta(seconds=5))
async def aenrich(email: str) -> list[str]:
    return [email]


@guard.limit("person.enrich")
def pages(count: int) -> Generator[str, int, float]:
    yield str(count)
    return 1.0


@guard.limit("person.enrich")
def rows() -> Iterator[int]:
    yield 1


@guard.limit("person.enrich")
async def stream(count: int) -> AsyncGenerator[bytes, str]:
    yield bytes(count)


@guard.limit("person.enrich")
async def feed() -> AsyncIterator[int]:
    yield 1


@guard.limit("person.enrich")
def same(value: T) -> list[T]:
    return [value]


@overload
def either(value: int) -> int: ...
@overload
def either(value: str) -> str: ...
@guard.limit("person.enrich")
def either(value: int | str) -> int | str:
    return value


async def functions() -> None:
    assert_type(enrich("a", retries=1), dict[str, int])
    assert_type(await aenrich("a"), list[str])
    assert_type(pages(3), Generator[str, int, float])
    assert_type(rows(), Iterator[int])
    assert_type(stream(3), AsyncGenerator[bytes, str])
    assert_type(feed(), AsyncIterator[int])
    assert_type(same(1), list[int])
    assert_type(either(1), int)
    assert_type(either("a"), str)
    assert_type(guard.limit("person.enrich")(partial(enrich, "a"))(), dict[str, int])
    enrich(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    enrich("a", tries=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await aenrich()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


# -- and so do methods ----------------------------------------------------------


class Contacts:
    """Methods of every kind."""

    @guard.limit("person.enrich")
    def find(self, email: str) -> int:
        return len(email)

    @guard.limit("person.enrich")
    async def afind(self, email: str) -> int:
        return len(email)

    @guard.limit("person.enrich")
    def each(self) -> Iterator[str]:
        yield ""

    @classmethod
    @guard.limit("person.enrich")
    def below_class(cls, email: str) -> int:
        return len(email)

    @guard.limit("person.enrich")
    @classmethod
    def above_class(cls, email: str) -> int:
        return len(email)

    @staticmethod
    @guard.limit("person.enrich")
    def below_static(email: str) -> int:
        return len(email)

    @guard.limit("person.enrich")
    @staticmethod
    def above_static(email: str) -> int:
        return len(email)

    @guard.limit("person.enrich", fallback=None)
    def lenient(self, email: str) -> int:
        return len(email)

    @guard.limit("person.enrich", fallback=None)
    async def alenient(self, email: str) -> int:
        return len(email)

    @classmethod
    @guard.limit("person.enrich", fallback=None)
    def below_class_lenient(cls, email: str) -> int:
        return len(email)

    @guard.limit("person.enrich", fallback=None)
    @classmethod
    def above_class_lenient(cls, email: str) -> int:
        return len(email)

    @guard.limit("person.enrich", fallback=None)
    @staticmethod
    def above_static_lenient(email: str) -> int:
        return len(email)

    @guard.limit("person.enrich", fallback=None)
    @staticmethod
    async def above_static_alenient(email: str) -> int:
        return len(email)


async def methods(contacts: Contacts) -> None:
    assert_type(contacts.find("a"), int)
    assert_type(Contacts.find(contacts, "a"), int)
    assert_type(await contacts.afind("a"), int)
    assert_type(contacts.each(), Iterator[str])
    assert_type(Contacts.below_class("a"), int)
    assert_type(Contacts.above_class("a"), int)
    assert_type(contacts.above_class("a"), int)
    assert_type(Contacts.below_static("a"), int)
    assert_type(Contacts.above_static("a"), int)
    assert_type(contacts.above_static("a"), int)
    assert_type(contacts.lenient("a"), int | None)
    assert_type(await contacts.alenient("a"), int | None)
    assert_type(Contacts.below_class_lenient("a"), int | None)
    assert_type(Contacts.above_class_lenient("a"), int | None)
    assert_type(contacts.above_static_lenient("a"), int | None)
    assert_type(await contacts.above_static_alenient("a"), int | None)
    contacts.find(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    contacts.lenient(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


# -- a fallback widens what comes back -------------------------------------------


@guard.limit("person.enrich", fallback=None)
def perhaps(email: str) -> int:
    return len(email)


@guard.limit("person.enrich", fallback="later")
async def aperhaps(email: str) -> int:
    return len(email)


def later(refusal: Refusal) -> float | None:
    return refusal.retry_after


@guard.limit("person.enrich", fallback=later)
def told(email: str) -> str:
    return email


@guard.limit("person.enrich", fallback=later)
async def atold(email: str) -> int:
    return len(email)


@guard.limit("person.enrich", fallback=())
def few(count: int) -> Generator[str, None, int]:
    yield str(count)
    return count


@guard.limit("person.enrich", fallback=None)
async def afew(count: int) -> AsyncGenerator[str, None]:
    yield str(count)


async def fallbacks() -> None:
    assert_type(perhaps("a"), int | None)
    assert_type(await aperhaps("a"), int | str)
    assert_type(told("a"), str | float | None)
    assert_type(await atold("a"), int | float | None)
    assert_type(few(1), Generator[str, None, int])
    assert_type(afew(1), AsyncGenerator[str, None])
    perhaps(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    told()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


# -- cost and settle, from arguments and result ----------------------------------


def price(batch: Batch) -> dict[str, int]:
    return {"leads": len(batch)}


@guard.limit({"leads": 1}, cost=price, settle=lambda result: {"leads": result.accepted})
def send(batch: Batch) -> Batch:
    return batch


@guard.limit("person.enrich", cost=price, fallback=None)
def send_or_not(batch: Batch) -> int:
    return len(batch)


def costs() -> None:
    assert_type(send(Batch()), Batch)
    assert_type(send_or_not(Batch()), int | None)
    guard.limit(1)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    guard.limit("person.enrich", cost={"leads": 1})  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]


# -- the other ways in ------------------------------------------------------------


async def others(client: httpx.Client, aclient: httpx.AsyncClient) -> None:
    with guard.reserve({"leads": 1}) as reservation:
        assert_type(reservation, Reservation)
        reservation.settle({"leads": 0})
    async with guard.reserve("person.enrich", fallback=None) as reserved:
        assert_type(reserved, Reservation)
    assert_type(guard.attach(client), httpx.Client)
    assert_type(guard.attach(aclient), httpx.AsyncClient)
    assert_type(guard.client(timeout=10), httpx.Client)
    assert_type(guard.async_client(), httpx.AsyncClient)
    assert_type(guard.check("person.enrich"), Decision)
    assert_type(guard.standing(), Standing)
    assert_type(await guard.arefresh(), Standing)
    assert_type(guard.forecast(), Forecast)
    assert_type(await guard.aforecast(), Forecast)
    assert_type(guard.forecast()["leads"], ForecastRow)
    assert_type([row.runs_out_at for row in guard.forecast()], list[datetime | None])
    guard.forecast()["leads"].burn_rate = 1.0  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


def hooks(wrap: Callable[[Callable[..., Awaitable[Any]]], None]) -> None:
    wrap(aenrich)
