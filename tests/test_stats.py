"""The stats exchange against real sockets that behave, and against ones that do not."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, cast

import anyio
import httpx
import pytest
import wires
from wires import Script, Server, Wire
from wires import answer as _answer
from wires import answering as _answering
from wires import closed_port as _closed_port
from wires import serving as _serving

from quotaguard.errors import (
    ConfigError,
    NoSubscription,
    ProviderError,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
)
from quotaguard.providers import Provider
from quotaguard.quota.calls import Outcome, Report, StatsRequest
from quotaguard.quota.readings import Reading, Usage
from quotaguard.stats import BODY_CAP, DEADLINE, Shelf, Stats

KEY = "canary-7f3a9"
SHORT = 0.2

# A child process finds what this one found, installed or not.
_PATHS = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

Fetch = Callable[[Stats], Reading]


class Stub:
    """A provider with one meter, which reads ``{"used": 1, "limit": 2}``."""

    name = "stub"

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Outcome] = []

    def stats_request(self, wall: float = 0.0, /) -> StatsRequest:
        headers = {"authorization": f"Bearer {KEY}", "x-api-key": KEY, "Accept-Encoding": "br"}
        return StatsRequest("GET", self.url, headers)

    def read_stats(self, outcome: Outcome) -> Reading:
        self.seen.append(outcome)
        if outcome.status in {401, 403}:
            raise StatsForbidden("the key is not accepted", provider=self.name)
        if outcome.status == 404:
            raise NoSubscription("nothing is subscribed", provider=self.name)
        if outcome.status != 200:
            raise StatsUnavailable("a fault", provider=self.name, status=outcome.status)
        try:
            said = json.loads(outcome.body or b"")
        except ValueError as error:
            raise StatsUnreadable("not JSON", provider=self.name) from error
        return Reading({"units": Usage(said["used"], said["limit"])})


def _fetch_with(colour: str) -> Fetch:
    if colour == "sync":
        return Stats.fetch
    return lambda stats: anyio.run(stats.afetch, backend=colour)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    """Carry out one poll, in each colour."""
    return _fetch_with(str(request.param))


def _no_thread_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name == "quotaguard-poll":
            thread.join(3)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def every_poll_ends() -> Iterator[None]:
    """Every thread of a poll ends, however the poll ended."""
    yield
    _no_thread_is_left()


def _stats_of(url: str, *, deadline: float = DEADLINE, **settings: Any) -> Stats:
    return Stats(cast("Provider", Stub(url)), deadline=deadline, **settings)


def _stub_of(stats: Stats) -> Stub:
    return cast("Stub", stats._provider)


def failure(fetch: Fetch, stats: Stats) -> ProviderError:
    """Return the error of a poll, after looking for the key in all that it shows."""
    with pytest.raises(ProviderError) as caught:
        fetch(stats)
    error = caught.value
    assert error.provider == "stub"
    assert error.__cause__ is None
    assert error.__context__ is None
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = "".join(told.format()) + str(error) + repr(error) + repr(error.__dict__)
    assert KEY not in shown
    assert KEY.encode() not in pickle.dumps(error)
    return error


def test_a_poll_brings_the_reading(fetch: Fetch) -> None:
    """The answer's status, lower-case headers and bytes become the provider's reading."""
    with _serving(_answering(headers="X-Plan: Gold\r\n")) as server:
        stats = _stats_of(server.url)
        assert fetch(stats).usages == {"units": Usage(3, 9)}
    outcome = _stub_of(stats).seen[0]
    assert outcome.status == 200
    assert outcome.headers["x-plan"] == "Gold"
    assert outcome.body == b'{"used": 3, "limit": 9}'


def test_the_request_carries_the_key_and_asks_for_no_encoding(fetch: Fetch) -> None:
    """The provider's headers go out, but the answer must come as it is."""
    with _serving(_answering()) as server:
        fetch(_stats_of(server.url))
    head = server.requests[0].lower()
    assert head.startswith(b"get /stats http/1.1\r\n")
    assert f"x-api-key: {KEY}".encode() in head
    assert b"accept-encoding: identity\r\n" in head
    assert head.count(b"accept-encoding") == 1
    assert b"user-agent: quotaguard\r\n" in head


def test_a_body_and_a_method_are_sent(fetch: Fetch) -> None:
    """A stats endpoint may want a POST."""

    def script(wire: Wire) -> None:
        wire.read()
        while not wire.request.endswith(b"body!"):
            wire.request += wire._connection.recv(100)
        wire.send(_answer("200 OK", "", b'{"used": 1, "limit": 2}'))

    class Posting(Stub):
        def stats_request(self, wall: float = 0.0, /) -> StatsRequest:
            return StatsRequest("POST", self.url, body=b"body!")

    with _serving(script) as server:
        assert fetch(Stats(cast("Provider", Posting(server.url)))).usages["units"].used == 1
    assert server.requests[0].startswith(b"POST ")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temp", "308 Perm"])
def test_a_redirect_is_never_followed(fetch: Fetch, status: str) -> None:
    """The key goes nowhere but to the stats URL, not even within the same origin."""
    with _serving(_answering()) as other:
        with _serving(_answering(status, f"Location: {other.url}\r\n")) as server:
            stats = _stats_of(server.url)
            error = failure(fetch, stats)
        with _serving(_answering(status, "Location: /elsewhere\r\n")) as same:
            failure(fetch, _stats_of(same.url))
    assert isinstance(error, StatsUnavailable)
    assert error.status == int(status[:3])
    assert _stub_of(stats).seen == []
    assert len(same.requests) == 1
    assert [request for request in other.requests if request] == []


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x-unheard-of"])
def test_an_encoded_answer_is_refused(fetch: Fetch, coding: str) -> None:
    """Nothing is unpacked, so no bomb goes off."""
    bomb = gzip.compress(b"0" * 10_000_000)
    script = _answering(headers=f"Content-Encoding: {coding}\r\nX-Request-Id: r-1\r\n", body=bomb)
    with _serving(script) as server:
        stats = _stats_of(server.url)
        error = failure(fetch, stats)
    assert isinstance(error, StatsUnreadable)
    assert error.request_id == "r-1"
    assert _stub_of(stats).seen == []


def test_identity_is_no_encoding(fetch: Fetch) -> None:
    """A server may name the encoding that we asked for."""
    with _serving(_answering(headers="Content-Encoding: Identity\r\n")) as server:
        assert fetch(_stats_of(server.url)).usages["units"].limit == 9


@pytest.mark.parametrize("headers", ["Content-Encoding: gzip\r\n", ""])
def test_a_refusal_with_a_clumsy_body_is_still_a_refusal(fetch: Fetch, headers: str) -> None:
    """Encoded or endless, the body of a 401 does not hide that the key is wrong."""
    with _serving(_answering("401 No", headers, b"x" * (2 * BODY_CAP))) as server:
        stats = _stats_of(server.url)
        assert isinstance(failure(fetch, stats), StatsForbidden)
    assert len(_stub_of(stats).seen[0].body or b"") <= BODY_CAP


@pytest.mark.parametrize("status", [204, 206, 400, 402, 404, 405, 410, 418, 429, 500, 503, 520])
def test_other_statuses_are_for_the_provider_to_read(fetch: Fetch, status: int) -> None:
    """What an answer means is the provider's knowledge, and its error goes through."""
    body = b"" if status == 204 else b"<html>oops</html>"
    with _serving(_answering(f"{status} Whatever", "Retry-After: 7\r\n", body)) as server:
        stats = _stats_of(server.url)
        error = failure(fetch, stats)
    assert type(error) is (NoSubscription if status == 404 else StatsUnavailable)
    assert _stub_of(stats).seen == [
        Outcome(status, {"retry-after": "7", "content-length": str(len(body))}, body)
    ]


def test_a_body_of_exactly_the_cap_is_read(fetch: Fetch) -> None:
    """256 KiB are still an answer."""
    body = b'{"used": 3, "limit": 9}'.ljust(BODY_CAP)
    with _serving(_answering(body=body)) as server:
        assert fetch(_stats_of(server.url)).usages["units"].used == 3


def test_a_body_of_one_byte_more_is_refused(fetch: Fetch) -> None:
    """257 KiB are not, however well they read."""
    body = b'{"used": 3, "limit": 9}'.ljust(BODY_CAP + 1)
    with _serving(_answering(body=body)) as server:
        error = failure(fetch, _stats_of(server.url))
    assert isinstance(error, StatsUnreadable)
    assert "256 KiB" in str(error)


def test_an_endless_body_ends_at_the_cap(fetch: Fetch) -> None:
    """A server that never stops is left after 256 KiB, long before the deadline."""

    def script(wire: Wire) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            wire.send(b"x" * 4096)

    with _serving(script) as server:
        assert isinstance(failure(fetch, _stats_of(server.url)), StatsUnreadable)


@pytest.mark.parametrize(
    "script",
    [
        wires.silent,
        wires.deaf,
        wires.dripping_headers,
        wires.dripping_body,
        wires.flooding_with_hints,
    ],
)
def test_a_poll_ends_at_its_deadline(fetch: Fetch, script: Script) -> None:
    """However slowly the bytes come, the caller is free again in time."""
    with _serving(script) as server:
        stats = _stats_of(server.url, deadline=SHORT)
        began = time.monotonic()
        error = failure(fetch, stats)
        assert time.monotonic() - began < 5
        _no_thread_is_left()
    assert isinstance(error, StatsUnavailable)
    assert "0.2 s" in str(error) or "Timeout" in str(error)
    assert _stub_of(stats).seen == []


def test_the_deadline_is_ten_seconds() -> None:
    """The figure of record, connect within three of them."""
    assert DEADLINE == 10
    asked = _stats_of("http://localhost/")._asked(StatsRequest("GET", "http://localhost/"))
    assert asked["timeout"] == (3, 10, 10, 10)


@pytest.mark.parametrize(
    "script",
    [
        wires.closing_at_once,
        wires.closing_after_the_request,
        wires.resetting,
        wires.breaking_off_headers,
        wires.breaking_off_body,
        wires.resetting_in_the_body,
        wires.garbage,
        wires.garbled_chunks,
        wires.endless_headers,
    ],
)
def test_a_broken_answer_is_no_answer(fetch: Fetch, script: Script) -> None:
    """A connection that breaks gives no reading, even if what came would read as one."""
    with _serving(script) as server:
        stats = _stats_of(server.url)
        error = failure(fetch, stats)
    assert type(error) is StatsUnavailable
    assert _stub_of(stats).seen == []


def test_a_refused_connection_says_so(fetch: Fetch) -> None:
    """The reason is told by kind, without the words of the library."""
    error = failure(fetch, _stats_of(f"http://127.0.0.1:{_closed_port()}/"))
    assert type(error) is StatsUnavailable
    assert "connection refused" in str(error)


def test_a_server_that_speaks_no_tls_is_no_answer(fetch: Fetch) -> None:
    """Nothing is sent to a server whose certificate was not seen."""

    def script(wire: Wire) -> None:
        wire.send(b"SSH-2.0 hello\r\n\r\n")
        wire.read()

    with _serving(script) as server:
        error = failure(fetch, _stats_of(f"https://127.0.0.1:{server.port}/"))
    assert type(error) is StatsUnavailable
    assert "TLS" in str(error)
    assert all(KEY.encode() not in request for request in server.requests)


@pytest.mark.parametrize(
    "url",
    [
        "http://provider.example/stats",
        "http://192.0.2.7/stats",
        "ftp://localhost/stats",
        "https://user:word@localhost/stats",
        "localhost/stats",
        "",
    ],
)
def test_a_key_never_travels_in_the_clear(fetch: Fetch, url: str) -> None:
    """Plain http is for loopback only, and a URL carries no password of its own."""
    error = failure(fetch, _stats_of(url))
    assert type(error) is StatsUnavailable
    assert "must be https, without user and password; nothing was sent" in str(error)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1x/", "https://\x00/", "https://[::1/"])
def test_a_url_that_is_none_is_a_failed_poll(fetch: Fetch, url: str) -> None:
    """A wrong base_url does not raise httpx's exceptions."""
    assert type(failure(fetch, _stats_of(url))) is StatsUnavailable


def test_a_provider_that_stumbles_over_an_answer_is_unreadable(fetch: Fetch) -> None:
    """Whatever its parser raises, the caller sees a ProviderError without the body."""
    with _serving(_answering(body=b'{"used": 3}')) as server:
        error = failure(fetch, _stats_of(server.url))
    assert type(error) is StatsUnreadable
    assert "KeyError" in str(error)
    assert error.status == 200


def test_a_provider_error_leaves_its_cause_behind(fetch: Fetch) -> None:
    """A decoder's exception holds the whole body, so it stays here."""
    with _serving(_answering(body=KEY.encode())) as server:
        error = failure(fetch, _stats_of(server.url))
    assert type(error) is StatsUnreadable
    assert "not JSON" in str(error)


def test_a_request_that_cannot_be_made_is_a_failed_poll(fetch: Fetch) -> None:
    """A key that is fetched by a callable may not be there today."""

    class Keyless(Stub):
        def stats_request(self, wall: float = 0.0, /) -> StatsRequest:
            raise KeyError(KEY)

    error = failure(fetch, Stats(cast("Provider", Keyless(""))))
    assert type(error) is StatsUnavailable
    assert "KeyError" in str(error)


def test_a_key_that_no_header_can_carry_is_a_failed_poll(fetch: Fetch) -> None:
    """The codec's exception quotes the key; ours does not."""

    class Umlaut(Stub):
        def stats_request(self, wall: float = 0.0, /) -> StatsRequest:
            return StatsRequest("GET", self.url, {"x-api-key": KEY + "\N{SNOWMAN}\r\n"})

    with _serving(_answering()) as server:
        error = failure(fetch, Stats(cast("Provider", Umlaut(server.url))))
    assert type(error) is StatsUnavailable


# A key that the application hands out.


class Asking(Stub):
    """A provider that asks for its key, at first and after a 401."""

    def __init__(self, url: str, give: Callable[[], str]) -> None:
        super().__init__(url)
        self.give = give
        self.asks_for_key = True

    def stats_request(self, wall: float = 0.0, /) -> StatsRequest:
        return self._carrying(again=self._carrying)

    def _carrying(self, again: Callable[[], StatsRequest] | None = None) -> StatsRequest:
        return StatsRequest("GET", self.url, {"x-api-key": self.give()}, again=again)


def test_a_refused_key_is_asked_for_again_once(fetch: Fetch) -> None:
    """One answer of 401 brings another key, a second one is final."""

    def script(wire: Wire) -> None:
        wire.read()
        good = b"x-api-key: two" in wire.request.lower()
        status = "200 OK" if good else "401 No"
        wire.send(_answer(status, "", b'{"used": 3, "limit": 9}'))

    with _serving(script) as server:
        keys = iter(["one", "two", "three", "four"])
        stats = Stats(cast("Provider", Asking(server.url, lambda: next(keys))))
        assert fetch(stats).usages["units"].used == 3
        with pytest.raises(StatsForbidden):
            fetch(stats)
        assert len(_asked(server)) == 4
    assert next(keys, None) is None


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("refused", [False, True], ids=["at first", "after a 401"])
def test_who_hands_out_the_key_never_blocks_the_event_loop(backend: str, refused: bool) -> None:
    """It may ask somebody else: the other tasks go on meanwhile."""
    may, calls = threading.Event(), iter([refused, False, False])

    def give() -> str:
        if not next(calls):
            assert may.wait(5)
        return KEY

    def script(wire: Wire) -> None:
        wire.read()
        wire.send(_answer("200 OK" if may.is_set() else "401 No", "", b'{"used": 3, "limit": 9}'))

    async def poll(stats: Stats) -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(goes_on)
            return (await stats.afetch()).usages["units"].used

    async def goes_on() -> None:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        may.set()

    with _serving(script) as server:
        stats = Stats(cast("Provider", Asking(server.url, give)))
        assert anyio.run(poll, stats, backend=backend) == 3


def test_a_poll_does_not_wait_for_a_key_past_its_deadline(fetch: Fetch) -> None:
    """The function may hang, the caller does not."""
    late = threading.Event()

    def give() -> str:
        late.wait(5)
        return KEY

    stats = Stats(cast("Provider", Asking("http://localhost:1/", give)), deadline=SHORT)
    timer = threading.Timer(4 * SHORT, late.set)
    timer.start()
    error = failure(fetch, stats)
    assert not late.is_set()
    assert "no whole answer within 0.2 s" in str(error)
    timer.join()


def test_leaving_the_program_goes_through(fetch: Fetch) -> None:
    """SystemExit is not a failed poll, though the sync colour meets it in a thread."""

    class Exiting(Stub):
        def stats_request(self, wall: float = 0.0, /) -> StatsRequest:
            raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        fetch(Stats(cast("Provider", Exiting(""))))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_poll_is_cancelled(backend: str) -> None:
    """The caller's own time-out is not taken for the provider's silence."""

    async def cancelled(stats: Stats) -> bool:
        with anyio.move_on_after(0.05) as scope:
            await stats.afetch()
        return scope.cancelled_caught

    with _serving(wires.silent) as server:
        assert anyio.run(cancelled, _stats_of(server.url), backend=backend)


def test_many_threads_may_poll_at_once() -> None:
    """One Stats serves all of them, each with a connection of its own."""
    with _serving(_answering()) as server, ThreadPoolExecutor(8) as pool:
        stats = _stats_of(server.url)
        readings = list(pool.map(lambda _: stats.fetch(), range(16)))
    assert [reading.usages["units"].used for reading in readings] == [3] * 16


def test_nothing_of_the_environment_is_used() -> None:
    """A proxy variable would hand the key to whoever set it."""
    program = (
        "import sys\n"
        "from quotaguard.quota.calls import Report, StatsRequest\n"
        "from quotaguard.stats import Stats\n"
        "class Stub: name = 'stub'\n"
        "request = StatsRequest('GET', sys.argv[1])\n"
        "report = Report((1,), lambda: request, lambda outcome: outcome.status)\n"
        "print(Stats(Stub()).fetch_report(report))\n"
    )
    proxy = f"http://127.0.0.1:{_closed_port()}"
    names = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    environment = os.environ | dict.fromkeys(names, proxy) | _PATHS
    with _serving(_answering()) as server:
        told = subprocess.run(
            [sys.executable, "-c", program, server.url],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert told.stdout == "200\n"


# The user's own client.


def _mocked(
    handler: Callable[[httpx.Request], httpx.Response],
    fetch: Fetch,
    **settings: Any,
) -> Any:
    transport = httpx.MockTransport(handler)
    if fetch is Stats.fetch:
        return httpx.Client(transport=transport, **settings)
    return httpx.AsyncClient(transport=transport, **settings)


def _closed(client: httpx.Client | httpx.AsyncClient) -> None:
    if isinstance(client, httpx.Client):
        client.close()
    else:
        anyio.run(client.aclose)


def test_the_users_client_carries_the_polls(fetch: Fetch) -> None:
    """It may reach hosts that we would not, and it stays open for its owner."""
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"used": 5, "limit": None})

    client = _mocked(handler, fetch, headers={"x-corporate": "yes"}, auth=("user", "word"))
    stats = _stats_of("http://egress.internal/stats", client=client)
    assert fetch(stats).usages["units"] == Usage(5, None)
    stats.close()
    assert not client.is_closed
    _closed(client)
    assert seen[0].headers["x-corporate"] == "yes"
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert seen[0].headers["accept-encoding"] == "identity"


def test_the_users_client_follows_no_redirect_either(fetch: Fetch) -> None:
    """A setting of the client does not open that door."""
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return httpx.Response(307, headers={"location": "/other"})

    client = _mocked(handler, fetch, follow_redirects=True)
    error = failure(fetch, _stats_of("https://provider.example/stats", client=client))
    _closed(client)
    assert error.status == 307
    assert seen == ["/stats"]


def test_a_client_that_its_owner_closed_is_a_failed_poll(fetch: Fetch) -> None:
    """The guard goes on with its last reading."""
    client = _mocked(lambda _: httpx.Response(200), fetch)
    _closed(client)
    error = failure(fetch, _stats_of("https://provider.example/stats", client=client))
    assert type(error) is StatsUnavailable


def test_an_error_of_the_users_transport_shows_nothing(fetch: Fetch) -> None:
    """httpx's exceptions hold the request with its key."""

    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError(KEY, request=request)

    client = _mocked(handler, fetch)
    error = failure(fetch, _stats_of(f"https://provider.example/?apiKey={KEY}", client=client))
    _closed(client)
    assert "ReadError" in str(error)


def test_a_client_of_the_other_colour_is_left_alone(fetch: Fetch) -> None:
    """A sync poll cannot use an async client, so it uses one of ours."""
    other = Stats.afetch if fetch is Stats.fetch else Stats.fetch
    client = _mocked(lambda _: httpx.Response(500), cast("Fetch", other))
    with _serving(_answering()) as server:
        assert fetch(_stats_of(server.url, client=client)).usages["units"].used == 3
    _closed(client)


def test_a_kept_connection_of_the_users_client_stays_whole() -> None:
    """The next poll goes over it again: nothing was cut after a good answer."""

    def script(wire: Wire) -> None:
        for _ in range(2):
            wire.request = b""
            wire.read()
            wire.send(_answer("200 OK", "", b'{"used": 3, "limit": 9}'))

    with _serving(script) as server, httpx.Client(trust_env=False) as client:
        stats = _stats_of(server.url, client=client)
        stats.fetch()
        stats.fetch()
    assert len([request for request in server.requests if request]) == 1


def test_something_else_is_no_client() -> None:
    """The mistake is found when the guard is built."""
    with pytest.raises(ConfigError, match="not str"):
        Stats(cast("Provider", Stub("")), client=cast("httpx.Client", "http://proxy"))


# Reports and the shelf.


class Timer:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_recent_reading_is_on_the_shelf(fetch: Fetch) -> None:
    """For displays the last reading is good for a while; a poll always asks."""
    timer = Timer()
    with _serving(_answering()) as server:
        stats = _stats_of(server.url, timer=timer)
        assert stats.recent() is None
        reading = fetch(stats)
        assert stats.recent() is reading
        timer.now += 1
        assert stats.recent() is None
        assert stats.recent(within=1.5) is reading
        assert fetch(stats) is not reading
        timer.now += 60
        assert stats.recent(within=1000) is None
    assert len(_stub_of(stats).seen) == 2


def test_a_poll_that_was_asked_earlier_does_not_replace_a_later_one() -> None:
    """Answers may come out of order; the shelf goes by the question."""
    timer = Timer()
    stats = _stats_of("", timer=timer)
    late, early = Reading({"units": Usage(2, 9)}), Reading({"units": Usage(1, 9)})
    stats._shelved(1000.0, late)
    stats._shelved(999.0, early)
    assert stats.recent() is late


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_asking_twice_for_a_report_costs_one_call(colour: str) -> None:
    """Within its seconds a report is answered from the shelf, by its key."""
    timer = Timer()

    def report(stats: Stats, key: str) -> int:
        asked = Report((key,), _stub_of(stats).stats_request, lambda outcome: outcome.status)
        if colour == "sync":
            return stats.fetch_report(asked)

        async def ask() -> int:
            return await stats.afetch_report(asked)

        return anyio.run(ask, backend=colour)

    with _serving(_answering()) as server:
        stats = _stats_of(server.url, timer=timer)
        assert [report(stats, "may"), report(stats, "may")] == [200, 200]
        assert len(_asked(server)) == 1
        report(stats, "june")
        assert len(_asked(server)) == 2
        timer.now += 5
        report(stats, "may")
        assert len(_asked(server)) == 3
        stats.close()
        report(stats, "may")
    assert len(_asked(server)) == 4


def _asked(server: Server) -> list[bytes]:
    for thread in server._threads[1:]:
        thread.join(5)
    return [request for request in server.requests if request]


def test_a_failed_report_is_not_kept() -> None:
    """The next question is asked again, and the error is the provider's own."""

    def parse(outcome: Outcome) -> int:
        raise StatsUnreadable(f"status {outcome.status}", provider="stub")

    with _serving(_answering("500 Oops")) as server:
        stats = _stats_of(server.url)
        report = Report(("r",), _stub_of(stats).stats_request, parse)
        for _ in range(2):
            with pytest.raises(StatsUnreadable, match="status 500"):
                stats.fetch_report(report)
        assert len(_asked(server)) == 2


def test_an_empty_report_is_an_answer_too() -> None:
    """A list without items is kept like any other record."""
    with _serving(_answering()) as server:
        stats = _stats_of(server.url)
        ask = _stub_of(stats).stats_request
        report: Report[tuple[int, ...]] = Report(("r",), ask, lambda _: ())
        assert [stats.fetch_report(report), stats.fetch_report(report)] == [(), ()]
        assert len(_asked(server)) == 1


def _renewing(url: str, keys: list[str]) -> Stub:
    """Return a stub whose key is refused, and which makes the next one of *keys*."""

    class Renewing(Stub):
        def stats_request(self, wall: float = 0.0, /) -> StatsRequest:
            return StatsRequest("GET", self.url, {"x-api-key": "old"}, again=self.renewed)

        def renewed(self) -> StatsRequest:
            return StatsRequest("GET", self.url, {"x-api-key": keys.pop(0)}, again=self.renewed)

    return Renewing(url)


def _refusing(*refused: bytes) -> Script:
    def script(wire: Wire) -> None:
        wire.read()
        bad = any(b"x-api-key: " + key in wire.request for key in refused)
        wire.send(_answer("401 No" if bad else "200 OK", "", b'{"used": 3, "limit": 9}'))

    return script


def test_a_key_that_is_refused_is_made_anew_once(fetch: Fetch) -> None:
    """The poll goes on with the new key; the caller never learns of the old one."""
    with _serving(_refusing(b"old")) as server:
        stub = _renewing(server.url, ["new"])
        assert fetch(Stats(cast("Provider", stub))).usages["units"].used == 3
        assert len(_asked(server)) == 2


def test_a_new_key_that_is_refused_too_is_a_refusal(fetch: Fetch) -> None:
    """There is one try: who hammers a closed door is locked out."""
    with _serving(_refusing(b"old", b"new")) as server:
        stub = _renewing(server.url, ["new", "third"])
        assert type(failure(fetch, Stats(cast("Provider", stub)))) is StatsForbidden
        assert len(_asked(server)) == 2


class Dated(Stub):
    """Asks for a window, and reads only what tells of that one."""

    def stats_request(self, wall: float = 0.0, /) -> StatsRequest:
        asked = StatsRequest("GET", f"{self.url}?day={wall:g}", {"x-api-key": KEY})
        return replace(asked, read=partial(self.read_day, wall))

    def read_day(self, wall: float, outcome: Outcome) -> Reading:
        if outcome.status == 200 and json.loads(outcome.body or b"")["used"] != wall:
            raise StatsUnreadable("another day", provider=self.name)
        return self.read_stats(outcome)


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_an_answer_is_read_by_what_was_asked(colour: str) -> None:
    """A question that depends on the time reads its own answer; and that of no other one."""
    with _serving(_answering()) as server:
        stats = Stats(cast("Provider", Dated(server.url)))

        def fetch(wall: float) -> Reading:
            if colour == "sync":
                return stats.fetch(wall)
            return anyio.run(stats.afetch, wall, backend=colour)

        assert fetch(3.0).usages["units"] == Usage(3, 9)
        with pytest.raises(StatsUnreadable, match="another day"):
            fetch(4.0)
        assert any(b"?day=4 " in request for request in _asked(server))


def test_reports_and_readings_do_not_share_keys() -> None:
    """A report that is called "stats" is not a reading."""
    with _serving(_answering()) as server:
        stats = _stats_of(server.url)
        stats.fetch_report(Report(("stats",), _stub_of(stats).stats_request, lambda _: "report"))
        assert stats.recent() is None


def test_closing_twice_does_no_harm() -> None:
    """Both names close, neither needs the other, and a later poll still works."""
    with _serving(_answering()) as server:
        stats = _stats_of(server.url)
        stats.fetch()
        stats.close()
        anyio.run(stats.aclose)
        assert stats.recent() is None
        assert stats.fetch().usages["units"].used == 3


def test_the_shelf_forgets_each_item_in_its_own_time() -> None:
    """Every item brings its seconds; putting it again starts them anew."""
    timer = Timer()
    shelf = Shelf(timer=timer)
    shelf.put("short", 1, 2.0)
    shelf.put("long", 2, 5.0)
    timer.now += 2
    assert (shelf.get("short"), shelf.get("long")) == (None, 2)
    shelf.put("long", 3, 5.0)
    timer.now += 4
    assert shelf.get("long") == 3
    timer.now += 1
    assert shelf.get("long") is None


def test_the_shelf_keeps_nothing_for_no_time() -> None:
    """Zero seconds take away what was there, too."""
    shelf = Shelf(timer=Timer())
    shelf.put("a", 1, 0)
    assert shelf.get("a") is None
    shelf.put("a", 1, 1)
    shelf.put("a", 2, 0)
    assert shelf.get("a") is None


def test_the_shelf_is_bounded() -> None:
    """The item used longest ago makes room."""
    shelf = Shelf(size=3, timer=Timer())
    for number in range(3):
        shelf.put(number, str(number), 10)
    assert shelf.get(0) == "0"
    shelf.put(3, "3", 10)
    assert [shelf.get(number) for number in range(4)] == ["0", None, "2", "3"]


def test_the_shelf_serves_threads() -> None:
    """Sixteen writers of a small shelf leave it whole."""
    shelf = Shelf(size=4)

    def work(worker: int) -> None:
        for number in range(300):
            shelf.put((worker, number % 7), number, 1.0 if number % 3 else 0.0)
            shelf.get((worker + 1, number % 7))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    shelf.put("end", 1, 10)
    assert shelf.get("end") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_wait_for_its_parents_lock() -> None:
    """Another thread of the parent may have held it, and does not exist in the child."""
    program = (
        "import os, sys, signal\n"
        "from quotaguard.stats import Shelf\n"
        "shelf = Shelf()\n"
        "shelf.put('a', 1, 60)\n"
        "shelf._lock.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(10)\n"
        "    empty = shelf.get('a') is None\n"
        "    shelf.put('b', 2, 60)\n"
        "    os._exit(0 if empty and shelf.get('b') == 2 else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    environment = os.environ | _PATHS
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_a_stats_object_is_cheap_and_shows_no_secret() -> None:
    """Guards are made at import time, so nothing is opened before the first poll."""
    with ExitStack() as stack:
        before = set(threading.enumerate())
        stats = _stats_of(f"https://provider.example/?key={KEY}")
        stack.callback(stats.close)
        assert {one for one in threading.enumerate() if one.is_alive()} <= before
    assert repr(stats) == "<Stats stub>"
