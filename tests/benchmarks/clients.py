"""F and G: what a guard adds to a function and to an HTTP request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter_ns
from typing import Any

import httpx
from guards import FAR_OFF, METER, warmed
from peers import Entered
from timing import (
    HEADS,
    MISSING,
    Runner,
    Scale,
    Section,
    added,
    aloop,
    at_floor,
    judged,
    loop,
    nothing,
    race,
    span,
    table,
    uncollected,
)

BARE, DECORATED, NAMED = "bare", "decorated, {meter: 1}", "decorated, 'person.enrich'"
URL = "https://api.fullcontact.com/v3/person.enrich"
MATCH = b'{"fullName":"Bart Lorang"}'


def _function(operation: str | dict[str, int] | None) -> Entered:
    def enrich(email: str) -> str:
        return email

    if operation is None:
        return loop("enrich('a')", enrich=enrich), nothing
    guard = warmed(FAR_OFF.guard())
    return loop("enrich('a')", enrich=guard.limit(operation)(enrich)), guard.close


def _afunction(operation: str | dict[str, int] | None) -> Entered:
    async def enrich(email: str) -> str:
        return email

    called: Callable[[str], Awaitable[str]] = enrich
    leave: Callable[[], object] = nothing
    if operation is not None:
        guard = warmed(FAR_OFF.guard())
        called, leave = guard.limit(operation)(enrich), guard.close
    return aloop(lambda: partial(called, "a")), leave


def decorators(scale: Scale, *, waits: bool) -> Section:
    """F: a decorated function against the bare one, def or async def."""
    enter = _afunction if waits else _function
    runners = (
        at_floor(),
        Runner(BARE, lambda: enter(None)),
        Runner(DECORATED, lambda: enter({METER: 1})),
        Runner(NAMED, lambda: enter("person.enrich")),
    )
    figures = race(runners, scale.repeats, scale.calls)
    rows = table(figures, {DECORATED: 20.0}, less=BARE)
    colour = "async def" if waits else "def"
    notes = "'x floor' of a decorated function is what it adds to the bare one."
    return Section(f"F. A decorator on a bare function, {colour}", HEADS, rows, notes)


# -- HTTP ---------------------------------------------------------------------


def _match(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "application/json"}, content=MATCH)


def _client(*, guarded: bool) -> Entered:
    inner: httpx.BaseTransport = httpx.MockTransport(_match)
    if guarded:
        guard = warmed(FAR_OFF.guard())
        inner = guard.transport(inner)
    client = httpx.Client(transport=inner, trust_env=False)
    _proven(client.post(URL, content=b"{}"), guarded=guarded)
    return loop("post(url, content=b'{}')", post=client.post, url=URL), client.close


def _aclient(*, guarded: bool) -> Entered:
    inner: httpx.AsyncBaseTransport = httpx.MockTransport(_match)
    if guarded:
        guard = warmed(FAR_OFF.guard())
        inner = guard.transport(inner)

    async def timed(count: int) -> int:
        async with httpx.AsyncClient(transport=inner, trust_env=False) as client:
            _proven(await client.post(URL, content=b"{}"), guarded=guarded)
            with uncollected():
                start = perf_counter_ns()
                for _ in range(count):
                    await client.post(URL, content=b"{}")
                return perf_counter_ns() - start

    return lambda count: asyncio.run(timed(count)), nothing


def _proven(response: httpx.Response, *, guarded: bool) -> None:
    """Make sure that what is timed is a call that was counted."""
    told: Any = response.extensions.get("quotaguard")
    if response.status_code != 200 or (told is not None) is not guarded:
        message = f"answered {response.status_code}, guarded: {told!r}"
        raise AssertionError(message)


def requests(scale: Scale) -> Section:
    """G: a guarded httpx client against a bare one, both over httpx.MockTransport."""
    rows = []
    for colour, enter in (("httpx.Client", _client), ("httpx.AsyncClient", _aclient)):
        bare, guarded = f"{colour}, bare", f"{colour}, guarded"
        runners = (
            Runner(bare, partial(enter, guarded=False)),
            Runner(guarded, partial(enter, guarded=True)),
        )
        figures = race(runners, scale.repeats, scale.requests)
        rows.append((bare, span(figures[bare], 1, 1000), "", "", ""))
        if not figures[guarded]:
            rows.append((guarded, MISSING, "", "", ""))
            continue
        more = sorted(added(figures[guarded], figures[bare]))
        said, target = judged(more[len(more) // 2] / 1000, 8.0, " us")
        best = (min(figures[guarded]) - min(figures[bare])) / 1000
        rows.append((guarded, span(figures[guarded], 1, 1000), said, f"{best:,.1f} us", target))
    heads = (
        "",
        "us/request min / median / max",
        "added, paired median",
        "best less best",
        "target",
    )
    return Section("G. A guarded httpx client over MockTransport", heads, rows)
