"""The way in for httpx: real requests to servers on loopback, in both colours."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import json
import logging
import socket
import struct
import threading
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Self

import anyio
import h11
import httpx
import pytest
from anyio.lowlevel import checkpoint

from quotaguard import (
    ConfigError,
    FullContact,
    Guard,
    Policy,
    QuotaExhausted,
    QuotaGuardError,
    QuotaUnknown,
    Refusal,
)
from quotaguard.clients.exchange import Receipt
from quotaguard.clients.httpx import QuotaTransport, attach
from quotaguard.quota.calls import Bill, Call, Evidence, Outcome
from quotaguard.quota.events import Degraded, Event, Released, Reserved, Settled
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.fullcontact import FakeFullContact
from quotaguard.testing.server import LoopbackServer, Reply, Request

MATCHES = "person.enrichment.matches"
MISSES = "person.enrichment.misses"
KEY = "canary-key-7f3a"
AUTH = {"Authorization": f"Bearer {KEY}"}
PERSON = {"email": "ann@example.com"}
PATH = "/v3/person.enrich"
SPENT = b'{"status":403,"message":"Usage limits for the provided API Key have been exceeded."}'

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

    @property
    def ends(self) -> list[str]:
        """How reservations ended, in order."""
        said = []
        for event in self:
            if isinstance(event, Released):
                said.append("released")
            elif isinstance(event, Settled):
                said.append("unknown" if event.unknown else "settled")
        return said

    @property
    def opened(self) -> int:
        return sum(isinstance(event, Reserved) for event in self)


def policy_of(**settings: Any) -> Policy:
    """Return a policy with a short lag, some of it as told."""
    return Policy(**{"lag": 1, "late": 1, "cold_reserve": 0, **settings})


def guard_of(
    vendor: FakeFullContact, clock: FakeClock, told: Told | None = None, **more: Any
) -> Guard:
    """Build a guard of *vendor* with a short lag."""
    listeners = [] if told is None else [told]
    provider = FullContact(KEY, base_url=vendor.url)
    return Guard(provider, policy=policy_of(**more), clock=clock, listeners=listeners)


def stats(quota: int | None = 100, used: int = 0) -> httpx.MockTransport:
    """Answer every poll from memory, in both colours."""
    metric = {"count": used, "quota": quota, "overQuota": False}
    said = {
        "period": {"start": "2023-11-01T00:00:00Z", "end": "2023-12-01T00:00:00Z"},
        "stats": {"person": {"enrichment": {"matches": metric}}},
    }

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=said)

    return httpx.MockTransport(answer)


def guard_at(url: str, clock: FakeClock, told: Told | None = None, **more: Any) -> Guard:
    """Build a guard of a provider at *url* whose polls are answered from memory."""
    provider = more.pop("provider", None) or FullContact(KEY, base_url=url)
    guard = Guard(
        provider,
        policy=policy_of(**more),
        clock=clock,
        listeners=[] if told is None else [told],
        stats_client=httpx.Client(transport=stats()),
    )
    guard.refresh()
    return guard


def receipt(response: httpx.Response) -> Receipt:
    """Return the receipt of a guarded call."""
    said = response.extensions["quotaguard"]
    assert isinstance(said, Receipt)
    return said


def post(client: httpx.Client, url: str, **more: Any) -> httpx.Response:
    """Make a priced call."""
    return client.post(f"{url}{PATH}", json=PERSON, headers=AUTH, **more)


def apost(client: httpx.AsyncClient, url: str, **more: Any) -> Any:
    """Make a priced call; to be awaited."""
    return client.post(f"{url}{PATH}", json=PERSON, headers=AUTH, **more)


def assert_nothing_held(guard: Guard, clock: FakeClock) -> None:
    """Once what was lost has lapsed, no unit is held for anybody."""
    gc.collect()
    guard.standing()  # what was forgotten is taken up, and lapses from now on
    clock.advance(2)
    assert all(row.reserved == 0 for row in guard.standing())


# -- calls --------------------------------------------------------------------


def test_a_match_is_settled_as_one(vendor: FakeFullContact, clock: FakeClock) -> None:
    """The answer's status is the bill, and the receipt shows it."""
    guard = guard_of(vendor, clock)
    with guard.client() as client:
        response = post(client, vendor.url)
    assert response.status_code == 200
    said = receipt(response)
    assert (said.operation, said.state) == ("person.enrich", "settled")
    assert said.reserved == {MATCHES: 1, MISSES: 1, "person.enrichment.total": 1}
    assert said.settled is not None
    assert (said.settled[MATCHES], said.settled[MISSES]) == (1, 0)
    assert said.headroom[MATCHES] == 99
    assert vendor.true[MATCHES] == guard.standing()[MATCHES].used == 1


async def test_a_task_is_billed_alike(vendor: FakeFullContact, clock: FakeClock) -> None:
    """The asynchronous colour runs the same decisions."""
    guard = guard_of(vendor, clock)
    async with guard.async_client() as client:
        response = await apost(client, vendor.url)
    assert receipt(response).state == "settled"
    assert guard.standing()[MATCHES].used == 1


def test_a_miss_gives_the_match_back(clock: FakeClock) -> None:
    """404 costs a miss, and what was held for a match is free again."""
    with fake("fullcontact", quota=100, key=KEY, clock=clock, match_rate=0.0) as vendor:
        guard = guard_of(vendor, clock)
        with guard.client() as client:
            response = post(client, vendor.url)
        assert response.status_code == 404
        assert receipt(response).settled == {MISSES: 1, "person.enrichment.total": 1}
        assert receipt(response).headroom[MATCHES] == 100


def test_what_has_no_price_passes_untouched(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Other paths, other methods, other hosts: no reservation, no receipt, no poll."""
    told = Told()
    with guard_of(vendor, clock, told).client() as client:
        assert client.get(f"{vendor.url}{PATH}").status_code == 405
        other = vendor.url.replace("127.0.0.1", "localhost")
        answers = [client.post(f"{vendor.url}/v3/else"), client.post(f"{other}{PATH}")]
    assert all("quotaguard" not in answer.extensions for answer in answers)
    assert not told
    assert vendor.polls == 0


@pytest.mark.parametrize("path", ["/v3/person%2Eenrich", "/v3/./person.enrich", f"{PATH}?x=1"])
def test_another_spelling_of_the_path_is_priced_too(
    vendor: FakeFullContact, clock: FakeClock, path: str
) -> None:
    """What the server takes for the same call costs the same."""
    with guard_of(vendor, clock).client() as client:
        response = client.post(f"{vendor.url}{path}", json=PERSON, headers=AUTH)
    assert receipt(response).operation == "person.enrich"


def test_a_refused_call_is_not_sent(clock: FakeClock) -> None:
    """The refusal comes to the caller as it is, and it is no error of httpx."""
    with fake("fullcontact", quota=100, used=100, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        with guard.client() as client, pytest.raises(QuotaExhausted) as refused:
            post(client, vendor.url)
        assert not isinstance(refused.value, httpx.HTTPError)
        assert vendor.requests[PATH] == 0


async def test_a_refused_task_does_not_send(clock: FakeClock) -> None:
    """The same in the other colour."""
    with fake("fullcontact", quota=100, used=100, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        async with guard.async_client() as client:
            with pytest.raises(QuotaExhausted):
                await apost(client, vendor.url)
        assert vendor.requests[PATH] == 0


def test_a_call_brings_its_own_priority(clock: FakeClock) -> None:
    """What is kept for critical calls goes to a critical call only."""
    with fake("fullcontact", quota=100, used=95, key=KEY, clock=clock, match_rate=1.0) as vendor:
        guard = guard_of(vendor, clock)
        with guard.client() as client:
            with pytest.raises(Refusal, match="held for critical"):
                post(client, vendor.url, extensions={"quotaguard": {"max_wait": 0}})
            urgent = {"quotaguard": {"priority": "critical", "max_wait": 0}}
            assert receipt(post(client, vendor.url, extensions=urgent)).state == "settled"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"priorty": "critical"}, "'priorty'"),
        ({"priority": "urgent"}, "'urgent'"),
        ({"max_wait": "soon"}, "max_wait"),
        ("critical", "dict"),
    ],
)
def test_a_slip_in_the_options_is_told_and_nothing_is_sent(
    vendor: FakeFullContact, clock: FakeClock, wrong: object, named: str
) -> None:
    """An unknown key is a ConfigError that names it."""
    with guard_of(vendor, clock).client() as client, pytest.raises(ConfigError, match=named):
        post(client, vendor.url, extensions={"quotaguard": wrong})
    assert vendor.requests[PATH] == 0


def test_another_accounts_key_passes_with_one_warning(
    vendor: FakeFullContact, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is somebody else's quota: not counted, not refused, told once for the guard."""
    told = Told()
    guard = guard_of(vendor, clock, told)
    other = {"Authorization": "Bearer somebody-elses"}
    with guard.client() as client, guard.client() as second, caplog.at_level(logging.WARNING):
        for each in (client, client, second):
            answer = each.post(f"{vendor.url}{PATH}", json=PERSON, headers=other)
            assert answer.status_code == 403
            assert "quotaguard" not in answer.extensions
    warnings = [event for event in told if isinstance(event, Degraded)]
    assert [event.state for event in warnings] == ["foreign_key"]
    assert caplog.text.count("foreign_key") == 1
    assert "somebody-elses" not in caplog.text
    assert told.opened == 0


def test_a_reservation_around_the_call_is_used_first(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """A decorated function that uses a guarded client is charged once."""
    guard = guard_of(vendor, clock)
    with guard.client() as client:
        with guard.reserve({MATCHES: 1}):
            post(client, vendor.url)
        row = guard.standing()[MATCHES]
        assert (row.used, row.reserved) == (1, 0)


def test_a_call_covers_no_other(vendor: FakeFullContact, clock: FakeClock) -> None:
    """What runs inside the inner transport pays for itself."""
    guard = guard_of(vendor, clock)
    own = httpx.HTTPTransport()

    def through(request: httpx.Request) -> httpx.Response:
        with guard.reserve({MATCHES: 1}) as inside:
            inside.settle()
        return own.handle_request(request)

    with own, httpx.Client(transport=guard.transport(httpx.MockTransport(through))) as client:
        post(client, vendor.url)
    assert guard.standing()[MATCHES].used == 2


async def test_a_sync_client_works_inside_an_event_loop(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """One guard, both colours at once, in one task."""
    guard = guard_of(vendor, clock)
    with guard.client() as client:
        async with guard.async_client() as other:
            post(client, vendor.url)
            await apost(other, vendor.url)
            post(client, vendor.url)
    assert guard.standing()[MATCHES].used == 3


def test_many_threads_spend_exactly_the_quota(clock: FakeClock) -> None:
    """One client for all of them, and never one call too many."""
    with fake("fullcontact", quota=30, key=KEY, clock=clock, match_rate=1.0) as vendor:
        guard = guard_of(vendor, clock)
        guard.refresh()  # a poll amid the calls would count some of them twice for a while
        outcomes: Counter[str] = Counter()
        urgent = {"quotaguard": {"priority": "critical"}}

        def work(client: httpx.Client) -> None:
            for _ in range(10):
                try:
                    outcomes[str(post(client, vendor.url, extensions=urgent).status_code)] += 1
                except QuotaExhausted:
                    outcomes["refused"] += 1

        with guard.client() as client:
            threads = [threading.Thread(target=work, args=(client,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert outcomes == {"200": 30, "refused": 10}
        assert vendor.true[MATCHES] == 30


def test_a_streamed_upload_is_not_read(vendor: FakeFullContact, clock: FakeClock) -> None:
    """The guard looks at a body only where it is in memory anyway."""
    seen: list[bytes | None] = []

    class Curious(FullContact):
        __slots__ = ()

        def foreign(self, call: Call) -> bool:
            seen.append(call.body)
            return super().foreign(call)

    guard = Guard(Curious(KEY, base_url=vendor.url), policy=policy_of(), clock=clock)
    with guard.client() as client:
        for content in (
            iter([b'{"email":', b'"ann@example.com"}']),
            io.BytesIO(b'{"email":"a@b.cd"}'),
        ):
            answer = client.post(f"{vendor.url}{PATH}", content=content, headers=AUTH)
            assert answer.status_code == 200
        client.post(f"{vendor.url}{PATH}", content=b'{"email":"a@b.cd"}', headers=AUTH)
    assert seen == [None, None, b'{"email":"a@b.cd"}']


# -- webhooks -----------------------------------------------------------------


def test_a_webhook_is_settled_by_the_id_of_its_receipt(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """202 with a webhook outlives its answer, until the application says what it cost."""
    told = Told()
    guard = guard_of(vendor, clock, told)
    asked = {**PERSON, "webhookUrl": "https://me.example/hook"}
    with guard.client() as client:
        answer = client.post(f"{vendor.url}{PATH}", json=asked, headers=AUTH)
    assert answer.status_code == 202
    said = receipt(answer)
    assert said.state == "deferred"
    assert guard.standing()[MATCHES].reserved == 1
    assert guard.settle(said.id, {MATCHES: 1})
    assert not guard.settle(said.id, {MATCHES: 1})
    assert (said.state, said.settled) == ("settled", {MATCHES: 1})
    assert guard.standing()[MATCHES].reserved == 0


def test_a_202_without_a_webhook_is_free(clock: FakeClock) -> None:
    """Nothing was spent yet, and the next call asks anew."""
    with fake("fullcontact", key=KEY, clock=clock, match_rate=1.0, delayed_rate=1.0) as vendor:
        guard = guard_of(vendor, clock)
        with guard.client() as client:
            first, second = post(client, vendor.url), post(client, vendor.url)
    assert (first.status_code, receipt(first).state) == (202, "released")
    assert (second.status_code, receipt(second).state) == (200, "settled")


# -- what each failure proves -------------------------------------------------


@pytest.mark.parametrize("fault", ["timeout", "reset", "close", "garbage"])
def test_what_was_sent_and_not_answered_is_unknown(
    vendor: FakeFullContact, clock: FakeClock, fault: str
) -> None:
    """It may have been charged: it counts in full until a poll knows."""
    told = Told()
    guard = guard_of(vendor, clock, told)
    vendor.script(fault)
    with guard.client(timeout=0.2) as client, pytest.raises(httpx.TransportError):
        post(client, vendor.url)
    assert told.ends == ["unknown"]
    assert guard.standing()[MATCHES].headroom == 99
    assert_nothing_held(guard, clock)
    assert guard.standing()[MATCHES].used == 1


@pytest.mark.parametrize("fault", ["timeout", "reset", "close", "garbage"])
async def test_a_task_that_is_not_answered_is_unknown(
    vendor: FakeFullContact, clock: FakeClock, fault: str
) -> None:
    """The same in the other colour."""
    told = Told()
    guard = guard_of(vendor, clock, told)
    vendor.script(fault)
    async with guard.async_client(timeout=0.2) as client:
        with pytest.raises(httpx.TransportError):
            await apost(client, vendor.url)
    assert told.ends == ["unknown"]
    assert_nothing_held(guard, clock)


@pytest.mark.parametrize("fault", ["truncated", "slow-drip"])
def test_a_body_that_breaks_does_not_unsettle_a_status(
    vendor: FakeFullContact, clock: FakeClock, fault: str
) -> None:
    """The headers were the bill; what becomes of the body is the reader's matter."""
    told = Told()
    guard = guard_of(vendor, clock, told)
    vendor.script(fault)
    with guard.client(timeout=0.2) as client:
        request = client.build_request("POST", f"{vendor.url}{PATH}", json=PERSON, headers=AUTH)
        response = client.send(request, stream=True)
        assert receipt(response).state == "settled"
        response.close()
    assert told.ends == ["settled"]


@contextmanager
def port(backlog: int | None) -> Iterator[str]:
    """Give a port of loopback: not listening (None), or accepting nobody."""
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        if backlog is not None:
            ours.listen(backlog)
        yield f"http://127.0.0.1:{ours.getsockname()[1]}"


def test_a_refused_connection_was_never_sent(clock: FakeClock) -> None:
    """Nobody listens: the units are free again at once."""
    told = Told()
    with port(None) as url:
        guard = guard_at(url, clock, told)
        with guard.client() as client, pytest.raises(httpx.ConnectError):
            post(client, url)
    assert told.ends == ["released"]
    assert guard.standing()[MATCHES].headroom == 100


async def test_a_tasks_refused_connection_was_never_sent(clock: FakeClock) -> None:
    """The same in the other colour."""
    told = Told()
    with port(None) as url:
        guard = guard_at(url, clock, told)
        async with guard.async_client() as client:
            with pytest.raises(httpx.ConnectError):
                await apost(client, url)
    assert told.ends == ["released"]


def test_a_full_pool_never_sent(clock: FakeClock) -> None:
    """Waiting for a connection is not sending."""
    told = Told()
    with LoopbackServer(lambda _: Reply(200, b"x" * 100_000)) as server:
        guard = guard_at(server.url, clock, told)
        limits = httpx.Limits(max_connections=1)
        with guard.client(limits=limits, timeout=httpx.Timeout(5, pool=0.05)) as client:
            with (
                client.stream("GET", f"{server.url}/long"),
                pytest.raises(httpx.PoolTimeout),
            ):
                post(client, server.url)
            assert told.ends == ["released"]


def test_a_protocol_that_is_none_never_sent(clock: FakeClock) -> None:
    """httpx refuses before anything goes out."""
    told = Told()
    guard = guard_at("https://api.fullcontact.com", clock, told)

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.UnsupportedProtocol("no", request=request)

    mock = httpx.MockTransport(refuse)
    with (
        httpx.Client(transport=guard.transport(mock)) as client,
        pytest.raises(httpx.UnsupportedProtocol),
    ):
        post(client, "https://api.fullcontact.com")
    assert told.ends == ["released"]


def test_bad_headers_were_never_written(clock: FakeClock) -> None:
    """h11 refuses them after httpcore has announced them; not a byte has left."""
    told = Told()
    with LoopbackServer(lambda _: Reply(200)) as server:
        guard = guard_at(server.url, clock, told)
        with guard.client() as client, pytest.raises(httpx.LocalProtocolError):
            client.post(f"{server.url}{PATH}", headers=[*AUTH.items(), ("bad name", "1")])
        assert server.requests[PATH] == 0
    assert told.ends == ["released"]


def test_a_body_that_is_longer_than_announced_was_sent_in_part(clock: FakeClock) -> None:
    """Almost the same exception as for bad headers, but the server has seen something."""
    told = Told()
    with LoopbackServer(lambda _: Reply(200)) as server:
        guard = guard_at(server.url, clock, told)
        headers = {**AUTH, "Content-Length": "2"}
        with guard.client() as client, pytest.raises(h11.LocalProtocolError):
            client.post(f"{server.url}{PATH}", content=iter([b"{}", b"more"]), headers=headers)
    assert told.ends == ["unknown"]


def test_an_upload_that_fails_half_way_is_unknown(clock: FakeClock) -> None:
    """The application's own generator raised; the head had left."""
    told = Told()

    def broken() -> Iterator[bytes]:
        yield b"{"
        raise ZeroDivisionError

    with LoopbackServer(lambda _: Reply(200)) as server:
        guard = guard_at(server.url, clock, told)
        with guard.client() as client, pytest.raises(ZeroDivisionError):
            client.post(f"{server.url}{PATH}", content=broken(), headers=AUTH)
    assert told.ends == ["unknown"]


@contextmanager
def wire(*scripts: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection by each of *scripts*, on raw sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def serve() -> None:
            for script in scripts:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        script(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join(6)


def head(connection: socket.socket) -> bytes:
    """Read a request: its head, and the body that comes with it."""
    said = b""
    while b"\r\n\r\n" not in said:
        said += connection.recv(65_536)
    length = int(said.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0)
    body = said.partition(b"\r\n\r\n")[2]
    while len(body) < length:
        body += connection.recv(65_536)
    return said


def hang_up(connection: socket.socket) -> None:
    """Close before anything was read."""


def read_and_hang_up(connection: socket.socket) -> None:
    """Close after the head was read."""
    head(connection)


def read_and_reset(connection: socket.socket) -> None:
    """Reset after the head was read."""
    head(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_a_head(connection: socket.socket) -> None:
    """Begin to answer."""
    head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")


def one_answer(connection: socket.socket) -> None:
    """Answer once, keep the connection alive, and hang up at the next request."""
    head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    head(connection)


def no_tunnel(connection: socket.socket) -> None:
    """Refuse to connect further."""
    head(connection)
    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


def tunnel_and_hang_up(connection: socket.socket) -> None:
    """Close instead of connecting further."""
    head(connection)


@pytest.mark.parametrize("script", [hang_up, read_and_hang_up, read_and_reset, half_a_head])
def test_a_connection_that_ends_after_the_head_is_unknown(
    clock: FakeClock, script: Callable[[socket.socket], None]
) -> None:
    """Once the head is on its way nobody can tell what was done with it."""
    told = Told()
    with wire(script) as url:
        guard = guard_at(url, clock, told)
        with guard.client() as client, pytest.raises(httpx.TransportError):
            post(client, url)
    assert told.ends == ["unknown"]
    assert_nothing_held(guard, clock)


def test_a_kept_connection_that_dies_is_unknown(clock: FakeClock) -> None:
    """It cannot be told from a server that read and then closed."""
    told = Told()
    with wire(one_answer) as url:
        guard = guard_at(url, clock, told)
        with guard.client() as client:
            assert post(client, url).status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                post(client, url)
    assert told.ends == ["settled", "unknown"]


@pytest.mark.parametrize("script", [no_tunnel, tunnel_and_hang_up])
def test_a_proxy_that_opens_no_tunnel_never_sent(
    clock: FakeClock, script: Callable[[socket.socket], None]
) -> None:
    """CONNECT is the proxy's, and the request waits behind it."""
    told = Told()
    url = "https://api.fullcontact.com"
    with wire(script) as proxy:
        guard = guard_at(url, clock, told)
        with guard.client(proxy=proxy) as client, pytest.raises(httpx.TransportError):
            post(client, url)
    assert told.ends == ["released"]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (httpx.ConnectError("x"), "released"),
        (httpx.ConnectTimeout("x"), "released"),
        (httpx.PoolTimeout("x"), "released"),
        (httpx.ReadTimeout("x"), "unknown"),
        (httpx.WriteTimeout("x"), "unknown"),
        (httpx.ReadError("x"), "unknown"),
        (httpx.WriteError("x"), "unknown"),
        (httpx.RemoteProtocolError("x"), "unknown"),
        (httpx.LocalProtocolError("x"), "unknown"),
        (httpx.ProxyError("x"), "unknown"),
        (OSError("x"), "unknown"),
        (ZeroDivisionError("x"), "unknown"),
        (KeyboardInterrupt(), "unknown"),
        (SystemExit(), "unknown"),
    ],
)
def test_without_a_trace_only_the_error_tells(
    clock: FakeClock, error: BaseException, end: str
) -> None:
    """A transport that is not httpx's own gives no proof: in doubt it was sent."""
    told = Told()
    guard = guard_at("https://api.fullcontact.com", clock, told)

    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    mock = httpx.MockTransport(fail)
    with (
        httpx.Client(transport=guard.transport(mock)) as client,
        pytest.raises(type(error)),
    ):
        post(client, "https://api.fullcontact.com")
    assert told.ends == [end]
    assert_nothing_held(guard, clock)


def test_a_stream_that_the_server_refused_was_not_processed(clock: FakeClock) -> None:
    """HTTP/2 REFUSED_STREAM is a promise of the RFC."""
    told = Told()
    guard = guard_at("https://api.fullcontact.com", clock, told)
    stream_reset = type("StreamReset", (), {"error_code": 7, "remote_reset": True})

    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("reset") from Exception(stream_reset())

    mock = httpx.MockTransport(refuse)
    with (
        httpx.Client(transport=guard.transport(mock)) as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        post(client, "https://api.fullcontact.com")
    assert told.ends == ["released"]


# -- traces -------------------------------------------------------------------


def test_the_applications_own_trace_hears_everything(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """The guard listens beside it, once, also along redirects, and leaves no trace behind."""
    heard: list[str] = []

    def trace(name: str, _: object) -> None:
        heard.append(name)

    with guard_of(vendor, clock).client() as client:
        request = client.build_request(
            "POST", f"{vendor.url}{PATH}", json=PERSON, headers=AUTH, extensions={"trace": trace}
        )
        response = client.send(request)
        assert request.extensions["trace"] is trace
        assert response.request is request
    assert heard.count("http11.send_request_headers.started") == 1
    assert "http11.response_closed.complete" in heard


async def test_the_applications_own_asynchronous_trace_hears_everything(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """httpcore wants a coroutine function there."""
    heard: list[str] = []

    async def trace(name: str, _: object) -> None:
        await checkpoint()
        heard.append(name)

    async with guard_of(vendor, clock).async_client() as client:
        await apost(client, vendor.url, extensions={"trace": trace})
    assert heard.count("http11.send_request_headers.started") == 1
    assert "http11.response_closed.complete" in heard


# -- bodies that decide -------------------------------------------------------


def answering(body: bytes, status: int = 403, **headers: str) -> Callable[[Request], Reply]:
    """Return a handler that always answers this."""
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return lambda _: Reply(status, body, pairs)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_the_message_of_a_refusal_closes_the_meter(clock: FakeClock, encoding: str) -> None:
    """403 about the quota is free, and its text, compressed or not, is evidence."""
    body = gzip.compress(SPENT) if encoding == "gzip" else SPENT
    with LoopbackServer(answering(body, Content_Encoding=encoding)) as server:
        guard = guard_at(server.url, clock, told := Told())
        with guard.client() as client:
            response = post(client, server.url)
    assert response.json()["status"] == 403
    assert told.ends == ["released"]
    assert not guard.check({MATCHES: 1})


async def test_a_task_reads_the_message_too(clock: FakeClock) -> None:
    """The same in the other colour."""
    body = gzip.compress(SPENT)
    with LoopbackServer(answering(body, Content_Encoding="gzip")) as server:
        guard = guard_at(server.url, clock, told := Told())
        async with guard.async_client() as client:
            response = await apost(client, server.url)
    assert response.json()["status"] == 403
    assert told.ends == ["released"]
    assert not guard.check({MATCHES: 1})


def test_a_message_that_nobody_reads_says_nothing(clock: FakeClock) -> None:
    """Closed early: free by its status, and no guess at the rest."""
    with LoopbackServer(answering(SPENT)) as server:
        guard = guard_at(server.url, clock, told := Told())
        with guard.client() as client, client.stream("POST", f"{server.url}{PATH}", headers=AUTH):
            pass
    assert told.ends == ["released"]
    assert guard.check({MATCHES: 1})


def test_a_pause_is_heard_without_the_body(clock: FakeClock) -> None:
    """Retry-After stands in the headers; a body closed early does not lose it."""
    with LoopbackServer(answering(b"{}", 429, Retry_After="9")) as server:
        guard = guard_at(server.url, clock)
        with guard.client() as client, client.stream("POST", f"{server.url}{PATH}", headers=AUTH):
            pass
    assert guard.check({MATCHES: 1}).delay == pytest.approx(9)


class Counted(FullContact):
    """A provider whose answer says in its body what it cost."""

    __slots__ = ()

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        if outcome.body is None:
            return Bill(None, wants_body=True)
        try:
            return Bill({MATCHES: json.loads(outcome.body)["found"]})
        except ValueError:
            return Bill(None)


def counted(url: str, clock: FakeClock, told: Told) -> Guard:
    """Build a guard of such a provider."""
    return guard_at(url, clock, told, provider=Counted(KEY, base_url=url))


READERS: dict[str, Callable[[httpx.Response], object]] = {
    "read": lambda response: response.read(),
    "iter_bytes": lambda response: list(response.iter_bytes(3)),
    "iter_raw": lambda response: list(response.iter_raw()),
    "iter_lines": lambda response: list(response.iter_lines()),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
def test_a_body_that_decides_is_settled_when_it_was_read(
    clock: FakeClock, reader: str, encoding: str
) -> None:
    """However it is read, and the reader gets every byte of it."""
    import zlib

    plain = b'{"found": 0}'
    body = {"identity": bytes, "gzip": gzip.compress, "deflate": zlib.compress}[encoding](plain)
    with LoopbackServer(answering(body, 200, Content_Encoding=encoding)) as server:
        guard = counted(server.url, clock, told := Told())
        with (
            guard.client() as client,
            client.stream("POST", f"{server.url}{PATH}", headers=AUTH) as response,
        ):
            assert receipt(response).state == "open"
            READERS[reader](response)
            assert receipt(response).settled == {MATCHES: 0}
    assert told.ends == ["settled"]


AREADERS: dict[str, Callable[[httpx.Response], Any]] = {
    "aread": lambda response: response.aread(),
    "aiter_raw": lambda response: all_of(response.aiter_raw()),
    "aiter_lines": lambda response: all_of(response.aiter_lines()),
}


async def all_of(items: AsyncIterator[object]) -> list[object]:
    """Return all that comes."""
    return [item async for item in items]


@pytest.mark.parametrize("reader", AREADERS)
async def test_a_task_settles_when_it_has_read(clock: FakeClock, reader: str) -> None:
    """The same in the other colour."""
    body = gzip.compress(b'{"found": 0}')
    with LoopbackServer(answering(body, 200, Content_Encoding="gzip")) as server:
        guard = counted(server.url, clock, told := Told())
        async with (
            guard.async_client() as client,
            client.stream("POST", f"{server.url}{PATH}", headers=AUTH) as response,
        ):
            await AREADERS[reader](response)
            assert receipt(response).settled == {MATCHES: 0}
    assert told.ends == ["settled"]


def test_a_body_that_is_closed_early_is_unknown(clock: FakeClock) -> None:
    """At the full price, until a poll knows better."""
    with LoopbackServer(answering(b'{"found": 0}' + b" " * 500_000, 200)) as server:
        guard = counted(server.url, clock, told := Told())
        with (
            guard.client() as client,
            client.stream("POST", f"{server.url}{PATH}", headers=AUTH) as response,
        ):
            next(response.iter_raw())
        assert receipt(response).state == "unknown"
    assert told.ends == ["unknown"]
    assert_nothing_held(guard, clock)


async def test_a_task_that_closes_early_is_unknown(clock: FakeClock) -> None:
    """The same in the other colour."""
    with LoopbackServer(answering(b'{"found": 0}' + b" " * 500_000, 200)) as server:
        guard = counted(server.url, clock, told := Told())
        async with (
            guard.async_client() as client,
            client.stream("POST", f"{server.url}{PATH}", headers=AUTH),
        ):
            pass
    assert told.ends == ["unknown"]
    assert_nothing_held(guard, clock)


def test_a_body_that_breaks_off_is_unknown(clock: FakeClock) -> None:
    """What came of it decides nothing."""

    def truncated(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"found": 0}')

    with wire(truncated) as url:
        guard = counted(url, clock, told := Told())
        with guard.client() as client, pytest.raises(httpx.RemoteProtocolError):
            post(client, url)
    assert told.ends == ["unknown"]


def test_a_bomb_fills_no_memory(clock: FakeClock) -> None:
    """The guard decodes 256 KiB and no more; then this body is no JSON and proves nothing."""
    bomb = gzip.compress(b'{"found": 0, "x": "' + b" " * 32_000_000 + b'"}')
    with LoopbackServer(answering(bomb, 200, Content_Encoding="gzip")) as server:
        guard = counted(server.url, clock, told := Told())
        with (
            guard.client() as client,
            client.stream("POST", f"{server.url}{PATH}", headers=AUTH) as response,
        ):
            list(response.iter_raw())
    assert told.ends == ["unknown"]


def test_a_response_that_nobody_closes_is_unknown(clock: FakeClock) -> None:
    """Dropped on the floor, its units are held no longer than any that were lost."""
    url = "https://api.fullcontact.com"
    guard = counted(url, clock, Told())
    mock = httpx.MockTransport(lambda _: httpx.Response(200, content=iter([b"{}"])))
    with httpx.Client(transport=guard.transport(mock)) as client:
        response = client.send(
            client.build_request("POST", f"{url}{PATH}", headers=AUTH), stream=True
        )
        assert guard.standing()[MATCHES].reserved == 1
        del response
    assert_nothing_held(guard, clock)
    assert guard.standing()[MATCHES].used == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_bodies_of_mocks_decide_too(clock: FakeClock, *, streamed: bool) -> None:
    """Read before it was sent, or streamed by a generator; both colours."""
    url = "https://api.fullcontact.com"
    told = Told()
    guard = counted(url, clock, told)

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"found"'
        yield b": 0}"

    def answer(_: httpx.Request) -> httpx.Response:
        whole = b'{"found": 0}'
        return httpx.Response(200, content=iter([whole]) if streamed else whole)

    def aanswer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=pieces() if streamed else b'{"found": 0}')

    with httpx.Client(transport=guard.transport(httpx.MockTransport(answer))) as client:
        assert post(client, url).json() == {"found": 0}
    transport = guard.transport(httpx.MockTransport(aanswer))
    async with httpx.AsyncClient(transport=transport) as other:
        assert (await apost(other, url)).json() == {"found": 0}
    assert told.ends == ["settled", "settled"]


# -- redirects ----------------------------------------------------------------


class Hops:
    """Two servers; what the first one answers is in *moves*, what came is in *seen*."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.moves: dict[str, str] = {}
        self.home = LoopbackServer(lambda request: self._answer("home", request))
        self.away = LoopbackServer(lambda request: self._answer("away", request))

    def _answer(self, where: str, request: Request) -> Reply:
        self.seen.append((where, request.path, dict(request.headers)))
        move = self.moves.get(f"{where}{request.path}")
        return Reply(200, b"{}") if move is None else Reply(307, b"", (("Location", move),))

    def keys(self) -> list[tuple[str, bool, bool]]:
        """Which hop carried which key."""
        return [
            (where, "authorization" in headers, "x-api-key" in headers)
            for where, _, headers in self.seen
        ]


@pytest.fixture
def hops() -> Iterator[Hops]:
    """Run both servers."""
    both = Hops()
    with both.home, both.away:
        yield both


class Keyed(FullContact):
    """A provider with a key header that httpx carries anywhere."""

    __slots__ = ()
    key_headers = ("authorization", "x-api-key")


BOTH = {**AUTH, "X-API-Key": KEY, "X-Other": "kept"}


@pytest.mark.parametrize("path", [PATH, "/free"])
def test_keys_stay_at_home(hops: Hops, clock: FakeClock, path: str) -> None:
    """httpx drops Authorization when a redirect leaves, and would carry X-API-Key along."""
    hops.moves[f"home{path}"] = f"{hops.away.url}/there"
    hops.moves["away/there"] = f"{hops.home.url}/back"
    provider = Keyed(KEY, base_url=hops.home.url)
    guard = guard_at(hops.home.url, clock, provider=provider)
    with guard.client(follow_redirects=True) as client:
        response = client.post(f"{hops.home.url}{path}", json=PERSON, headers=BOTH)
    assert response.status_code == 200
    assert hops.keys() == [("home", True, True), ("away", False, False), ("home", False, False)]
    assert all(headers["x-other"] == "kept" for _, _, headers in hops.seen)


async def test_keys_stay_at_home_in_tasks(hops: Hops, clock: FakeClock) -> None:
    """The same in the other colour."""
    hops.moves[f"home{PATH}"] = f"{hops.away.url}/there"
    guard = guard_at(hops.home.url, clock, provider=Keyed(KEY, base_url=hops.home.url))
    async with guard.async_client(follow_redirects=True) as client:
        await client.post(f"{hops.home.url}{PATH}", json=PERSON, headers=BOTH)
    assert hops.keys() == [("home", True, True), ("away", False, False)]


def test_keys_stay_at_home_when_hops_are_sent_by_hand(hops: Hops, clock: FakeClock) -> None:
    """``response.next_request`` knows where it came from."""
    hops.moves[f"home{PATH}"] = f"{hops.away.url}/there"
    guard = guard_at(hops.home.url, clock, provider=Keyed(KEY, base_url=hops.home.url))
    with guard.client() as client:
        response = client.post(f"{hops.home.url}{PATH}", json=PERSON, headers=BOTH)
        assert response.next_request is not None
        client.send(response.next_request)
    assert hops.keys() == [("home", True, True), ("away", False, False)]


def test_each_hop_is_priced_by_its_own_url(hops: Hops, clock: FakeClock) -> None:
    """The redirect itself is free; what it leads to is not, and keeps its keys at home."""
    hops.moves["home/old"] = f"{hops.home.url}{PATH}"
    hops.moves[f"home{PATH}"] = f"{hops.home.url}{PATH}/"
    told = Told()
    guard = guard_at(hops.home.url, clock, told, provider=Keyed(KEY, base_url=hops.home.url))
    with guard.client(follow_redirects=True) as client:
        urgent = {"quotaguard": {"priority": "critical"}}
        response = client.post(f"{hops.home.url}/old", json=PERSON, headers=BOTH, extensions=urgent)
    assert told.ends == ["released", "settled"]
    assert [event.priority for event in told if isinstance(event, Reserved)] == ["critical"] * 2
    assert hops.keys() == [("home", True, True)] * 3
    assert receipt(response).state == "settled"


def test_two_calls_with_the_same_options_know_nothing_of_each_other(
    hops: Hops, clock: FakeClock
) -> None:
    """The origin is noted with the request, not in the application's own dict."""
    guard = guard_at(hops.home.url, clock, provider=Keyed(KEY, base_url=hops.home.url))
    shared: dict[str, Any] = {"quotaguard": {"priority": "critical"}}
    with guard.client() as client:
        client.post(f"{hops.home.url}/a", headers=BOTH, extensions=shared)
        client.post(f"{hops.away.url}/b", headers=BOTH, extensions=shared)
    assert shared == {"quotaguard": {"priority": "critical"}}
    assert hops.keys() == [("home", True, True), ("away", True, True)]


class Twice(httpx.Auth):
    """An authentication that asks, and asks again with the answer."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {KEY}"
        yield request
        yield request


def test_an_authentication_that_asks_twice_pays_twice(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """One attempt, one reservation."""
    told = Told()
    with guard_of(vendor, clock, told).client() as client:
        client.post(f"{vendor.url}{PATH}", json=PERSON, auth=Twice())
    assert told.ends == ["settled", "settled"]
    assert vendor.true[MATCHES] == 2


# -- 429 in the provider's place ----------------------------------------------


@contextmanager
def spent(clock: FakeClock) -> Iterator[FakeFullContact]:
    """Run a provider whose month is spent, until a time that is known."""
    period = ("2023-11-01T00:00:00Z", "2023-12-01T00:00:00Z")
    with fake("fullcontact", quota=9, used=9, key=KEY, clock=clock, period=period) as vendor:
        yield vendor


async def test_a_refusal_may_be_answered_instead(clock: FakeClock) -> None:
    """For code that only knows HTTP; nothing was sent, and the receipt is there too."""
    with spent(clock) as vendor:
        guard = guard_of(vendor, clock, on_exhausted="respond")
        with guard.client() as client:
            one = post(client, vendor.url)
        async with guard.async_client() as other:
            two = await apost(other, vendor.url)
        assert vendor.requests[PATH] == 0
    resets = 1_701_388_800 - 1_700_000_000
    for answer in (one, two):
        assert (answer.status_code, answer.reason_phrase) == (429, "Too Many Requests")
        assert answer.headers["retry-after"] == str(resets)
        assert answer.headers["ratelimit"] == f'"{MATCHES}";r=0;t={resets}'
        assert answer.headers["ratelimit-policy"] == f'"{MATCHES}";q=9'
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["meter"] == MATCHES
        assert answer.request.url.path == PATH
        assert receipt(answer).state == "refused"
        assert receipt(answer).reserved[MATCHES] == 1
        with pytest.raises(httpx.HTTPStatusError):
            answer.raise_for_status()


# -- inner transports ---------------------------------------------------------


class RetryTransport(httpx.BaseTransport):
    """Named as everybody names them."""

    def __init__(self, wrapped: httpx.BaseTransport, attempts: int = 3) -> None:
        self.wrapped = wrapped
        self.attempts = attempts

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(self.attempts - 1):
            response = self.wrapped.handle_request(request)
            if response.status_code < 500:
                return response
            response.close()
        return self.wrapped.handle_request(request)


class MyCachingTransport(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise NotImplementedError


@pytest.mark.parametrize("inner", [RetryTransport(httpx.MockTransport(len)), MyCachingTransport()])  # type: ignore[arg-type] # never called
def test_what_repeats_goes_outside(
    vendor: FakeFullContact, clock: FakeClock, inner: httpx.BaseTransport
) -> None:
    """Inside, its attempts would go uncounted: told where it is built, with what to do."""
    with pytest.raises(ConfigError, match=rf"outside, {type(inner).__name__}\(transport=guard"):
        guard_of(vendor, clock).transport(inner)


def test_every_attempt_of_a_retry_outside_is_counted(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """Two 500s of unknown outcome and a match: three reservations."""
    told = Told()
    vendor.script("500", "500")
    transport = RetryTransport(guard_of(vendor, clock, told).transport())
    with httpx.Client(transport=transport) as client:
        assert post(client, vendor.url).status_code == 200
        transport.wrapped.close()
    assert told.ends == ["unknown", "unknown", "settled"]


def test_retries_of_a_connection_may_stay_inside(vendor: FakeFullContact, clock: FakeClock) -> None:
    """They send nothing twice."""
    inner = httpx.HTTPTransport(retries=2)
    with httpx.Client(transport=guard_of(vendor, clock).transport(inner)) as client:
        assert receipt(post(client, vendor.url)).state == "settled"


@pytest.mark.parametrize("wrong", [httpx.HTTPTransport, "http://proxy", 7])
def test_what_is_no_transport_is_told_at_once(
    vendor: FakeFullContact, clock: FakeClock, wrong: Any
) -> None:
    """A class, a URL, a number."""
    with pytest.raises(ConfigError, match="transport"):
        guard_of(vendor, clock).transport(wrong)


async def test_the_wrong_colour_is_told(vendor: FakeFullContact, clock: FakeClock) -> None:
    """A transport that only sends synchronously cannot serve tasks, and the other way round."""
    guard = guard_of(vendor, clock)
    async with httpx.AsyncClient() as other:
        with httpx.HTTPTransport() as inner:
            transport = guard.transport(inner)
            with pytest.raises(ConfigError, match="synchronously only"):
                async with transport:
                    pass
            with pytest.raises(ConfigError, match="synchronously only"):
                await transport.handle_async_request(other.build_request("POST", vendor.url))
    async with httpx.AsyncHTTPTransport() as ainner:
        transport = guard.transport(ainner)
        with (
            pytest.raises(ConfigError, match="asynchronously only"),
            httpx.Client(transport=transport) as client,
        ):
            post(client, vendor.url)
        transport.close()
    assert vendor.requests[PATH] == 0


async def test_one_transport_serves_both_colours(vendor: FakeFullContact, clock: FakeClock) -> None:
    """The inner ones are made when they are first used, each for its colour."""
    transport = guard_of(vendor, clock).transport()
    assert (transport._sync, transport._async) == (None, None)
    transport.close()
    await transport.aclose()
    with httpx.Client(transport=transport) as client:
        post(client, vendor.url)
        assert isinstance(transport._sync, httpx.HTTPTransport)
        assert transport._async is None
    async with httpx.AsyncClient(transport=transport) as other:
        await apost(other, vendor.url)
        assert isinstance(transport._async, httpx.AsyncHTTPTransport)


class Noted(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Says what was done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __enter__(self) -> Self:
        self.done.append("enter")
        return self

    def close(self) -> None:
        self.done.append("close")

    async def __aenter__(self) -> Self:
        self.done.append("aenter")
        return self

    async def aclose(self) -> None:
        self.done.append("aclose")


async def test_the_inner_transport_is_entered_and_closed_with_its_client(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """In the colour that is used, and the guard lives on."""
    guard, noted = guard_of(vendor, clock), Noted()
    with httpx.Client(transport=guard.transport(noted)):
        pass
    async with httpx.AsyncClient(transport=guard.transport(noted)):
        pass
    httpx.Client(transport=guard.transport(noted)).close()
    await httpx.AsyncClient(transport=guard.transport(noted)).aclose()
    assert noted.done == ["enter", "close", "aenter", "aclose", "close", "aclose"]
    with guard.client() as client:
        assert receipt(post(client, vendor.url)).state == "settled"


def test_guarding_twice_is_told(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Every call would be charged twice; another account's guard inside is fine."""
    guard = guard_of(vendor, clock)
    with pytest.raises(ConfigError, match="charged twice"):
        guard.transport(guard.transport())
    with pytest.raises(ConfigError, match="charged twice"):
        guard_of(vendor, clock).transport(guard.transport())
    other = Guard(FullContact("another-key", base_url=vendor.url), clock=clock)
    both = other.transport(guard.transport())
    with httpx.Client(transport=both) as client:
        assert receipt(post(client, vendor.url)).state == "settled"
    assert guard.standing()[MATCHES].used == 1


def test_a_transport_shows_no_secret(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Its repr says whose calls it guards, and over what."""
    guard = guard_of(vendor, clock)
    assert repr(guard.transport()) == "<QuotaTransport fullcontact over httpx's own>"
    inner = httpx.MockTransport(lambda _: httpx.Response(200))
    assert repr(guard.transport(inner)) == "<QuotaTransport fullcontact over MockTransport>"


# -- attaching ----------------------------------------------------------------


def test_httpx_keeps_its_transports_where_we_look() -> None:
    """These attributes are private: when httpx renames them, `attach` has to follow."""
    with httpx.HTTPTransport() as own, httpx.Client(mounts={"all://x.test": own}) as client:
        assert isinstance(client._transport, httpx.BaseTransport)
        assert own in client._mounts.values()
        assert client._transport_for_url(httpx.URL("https://x.test")) is own
        assert client._transport_for_url(httpx.URL("https://y.test")) is client._transport
    other = httpx.AsyncClient()
    assert isinstance(other._transport, httpx.AsyncBaseTransport)
    assert isinstance(other._mounts, dict)


def test_attach_wraps_the_transport_and_every_mount(
    vendor: FakeFullContact, clock: FakeClock
) -> None:
    """None stays, order stays, one transport under two mounts stays one; twice is once."""
    guard = guard_of(vendor, clock)
    shared = httpx.HTTPTransport()
    mounts = {"http://a.test": shared, "all://127.0.0.1": shared, "http://b.test": None}
    with httpx.Client(mounts=mounts) as client:
        before = list(client._mounts)
        own = client._transport
        assert guard.attach(client) is client
        assert list(client._mounts) == before
        guarded = [each for each in client._mounts.values() if each is not None]
        assert len(guarded) == 2
        assert guarded[0] is guarded[1]
        assert isinstance(guarded[0], QuotaTransport)
        assert isinstance(client._transport, QuotaTransport)
        assert client._transport._inner is own
        after = (client._transport, dict(client._mounts))
        guard.attach(client)
        assert (client._transport, dict(client._mounts)) == after
        assert receipt(post(client, vendor.url)).state == "settled"


def test_two_accounts_share_a_client(vendor: FakeFullContact, clock: FakeClock) -> None:
    """Each guard counts its own calls, and attaching both again changes nothing."""
    with fake("fullcontact", key="second", clock=clock, match_rate=1.0) as second:
        one = guard_of(vendor, clock)
        two = Guard(FullContact("second", base_url=second.url), policy=policy_of(), clock=clock)
        with httpx.Client() as client:
            for guard in (one, two, one, two):
                guard.attach(client)
            post(client, vendor.url)
            client.post(
                f"{second.url}{PATH}", json=PERSON, headers={"Authorization": "Bearer second"}
            )
        assert (one.standing()[MATCHES].used, two.standing()[MATCHES].used) == (1, 1)


async def test_an_async_client_is_attached_alike(vendor: FakeFullContact, clock: FakeClock) -> None:
    """The same verb for both."""
    guard = guard_of(vendor, clock)
    async with guard.attach(httpx.AsyncClient()) as client:
        assert receipt(await apost(client, vendor.url)).state == "settled"


def test_attach_takes_clients_only(vendor: FakeFullContact, clock: FakeClock) -> None:
    """A transport, a module, a client of another library."""
    guard = guard_of(vendor, clock)
    for wrong in (httpx, httpx.Client, object()):
        with pytest.raises(ConfigError, match=r"httpx\.Client or httpx\.AsyncClient"):
            attach(guard._spending, wrong)  # type: ignore[arg-type] # that is the point


def test_an_attach_that_fails_changes_nothing(vendor: FakeFullContact, clock: FakeClock) -> None:
    """All of the client's transports, or none."""
    guard = guard_of(vendor, clock)
    retrying = RetryTransport(httpx.HTTPTransport())
    with httpx.Client(mounts={"http://a.test": retrying}) as client, retrying.wrapped:
        before = (client._transport, dict(client._mounts))
        with pytest.raises(ConfigError, match="RetryTransport"):
            guard.attach(client)
        assert (client._transport, dict(client._mounts)) == before


# -- cancellation -------------------------------------------------------------


class Steps(httpx.AsyncBaseTransport):
    """Waits several times on its way out, and in its body."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(3):
            await checkpoint()

        async def body() -> AsyncIterator[bytes]:
            for piece in (b'{"fo', b'und":', b" 1}"):
                await checkpoint()
                yield piece
            await checkpoint()

        return httpx.Response(200, content=body())


async def cancelled_after(steps: int, act: Callable[[], Any]) -> bool:
    """Cancel *act* after *steps* turns of the loop; return whether it was not done by then."""
    async with anyio.create_task_group() as tasks:
        done = anyio.Event()

        async def work() -> None:
            await act()
            done.set()

        tasks.start_soon(work)
        for _ in range(steps):
            await checkpoint()
        tasks.cancel_scope.cancel()
    return not done.is_set()


@pytest.mark.parametrize("provider", [FullContact, Counted])
async def test_a_task_may_be_cancelled_anywhere(provider: type[FullContact]) -> None:
    """At every single wait: poll, sending, body. Nothing stays held, all ends once."""
    url = "https://api.fullcontact.com"
    cut = []

    async def polled(request: httpx.Request) -> httpx.Response:
        for _ in range(2):
            await checkpoint()
        return stats().handle_request(request)

    for steps in range(200):
        clock, told = FakeClock(), Told()
        async with httpx.AsyncClient(transport=httpx.MockTransport(polled)) as polls:
            guard = Guard(
                provider(KEY, base_url=url),
                policy=policy_of(),
                clock=clock,
                listeners=[told],
                stats_client=polls,
            )
            async with httpx.AsyncClient(transport=guard.transport(Steps())) as client:
                cut.append(await cancelled_after(steps, lambda client=client: apost(client, url)))
            assert len(told.ends) == told.opened <= 1
            assert_nothing_held(guard, clock)
            await guard.aclose()
        if not cut[-1]:
            break
    assert cut.count(True) >= 8
    assert told.ends == ["settled"]


@pytest.mark.parametrize("fault", ["timeout", "slow-drip"])
async def test_a_timeout_around_a_real_request_holds_nothing(
    vendor: FakeFullContact, clock: FakeClock, fault: str
) -> None:
    """The application's own deadline strikes while the server is silent."""
    told = Told()
    guard = guard_of(vendor, clock, told)
    guard.refresh()
    vendor.script(fault)
    async with guard.async_client() as client:
        with anyio.move_on_after(0.2) as scope:
            await apost(client, vendor.url)
        assert scope.cancelled_caught
    assert told.ends == ["unknown" if fault == "timeout" else "settled"]
    assert_nothing_held(guard, clock)


async def test_a_cancelled_connection_was_never_sent(clock: FakeClock) -> None:
    """Cut before a byte left, with httpx's own transport as witness."""
    told = Told()
    with LoopbackServer(lambda _: Reply(200, b"x" * 100_000)) as server:
        guard = guard_at(server.url, clock, told)
        async with guard.async_client(limits=httpx.Limits(max_connections=1)) as client:
            async with client.stream("GET", f"{server.url}/long"):
                with anyio.move_on_after(0.05) as scope:
                    await apost(client, server.url)
            assert scope.cancelled_caught
    assert told.ends == ["released"]


def test_a_generator_that_is_closed_gives_up_its_body(clock: FakeClock) -> None:
    """GeneratorExit between two pieces: perhaps by a finalizer, under our own lock."""
    url = "https://api.fullcontact.com"
    told = Told()
    guard = counted(url, clock, told)
    mock = httpx.MockTransport(lambda _: httpx.Response(200, content=iter([b"{", b"}"])))

    def pieces(client: httpx.Client) -> Iterator[bytes]:
        with client.stream("POST", f"{url}{PATH}", headers=AUTH) as response:
            yield from response.iter_raw()

    with httpx.Client(transport=guard.transport(mock)) as client:
        reading = pieces(client)
        assert next(reading) == b"{"
        with guard._spending.holder.lock:
            reading.close()  # type: ignore[attr-defined] # it is a generator
    guard.standing()  # whoever looks at the books next ends it
    assert told.ends == ["unknown"]


# -- secrets ------------------------------------------------------------------


def test_no_key_is_ever_shown(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Everything at DEBUG, every way to fail: not in logs, errors, reprs, tracebacks, events."""
    shown: list[str] = []
    told = Told()
    with (
        caplog.at_level(logging.DEBUG),
        fake("fullcontact", quota=3, key=KEY, clock=clock, match_rate=1.0) as vendor,
    ):
        vendor.script("500", "reset", "403-quota", None, None)
        guard = guard_of(vendor, clock, told)
        with guard.client(timeout=1) as client:
            for _ in range(8):
                try:
                    response = post(client, vendor.url, extensions={"quotaguard": {"max_wait": 0}})
                    shown.append(repr(response.extensions["quotaguard"]))
                except QuotaGuardError as error:
                    shown += [str(error), repr(error), *traceback.format_exception(error)]
                except httpx.TransportError:
                    shown.append("transport")
            with pytest.raises(ConfigError) as wrong:
                post(client, vendor.url, extensions={"quotaguard": {"x": 1}})
            shown += [str(wrong.value), repr(client._transport), repr(guard)]
    assert any("was not sent" in text for text in shown)
    assert "transport" in shown
    assert "quota.reserved" in caplog.text
    assert KEY not in caplog.text + "".join(shown) + repr(told)


def test_an_unknown_quota_refuses_with_the_providers_fault_as_cause(clock: FakeClock) -> None:
    """Guarded calls raise refusals only, and these hold no request."""
    with fake("fullcontact", key=KEY, clock=clock, stats_faults=["500"] * 9) as vendor:
        guard = guard_of(vendor, clock)
        with guard.client() as client, pytest.raises(QuotaUnknown) as refused:
            post(client, vendor.url)
    cause: BaseException | None = refused.value
    while cause is not None:
        assert not hasattr(cause, "request")
        cause = cause.__cause__ or cause.__context__


def test_the_loop_of_the_caller_is_not_needed(vendor: FakeFullContact, clock: FakeClock) -> None:
    """One transport, two event loops one after the other."""
    guard = guard_of(vendor, clock)

    async def once() -> str:
        async with guard.async_client() as client:
            return receipt(await apost(client, vendor.url)).state

    assert [asyncio.run(once()) for _ in range(2)] == ["settled", "settled"]


def test_evidence_of_a_stub_reaches_the_books(clock: FakeClock) -> None:
    """A 200 may say that it was the last one."""

    class Last(FullContact):
        __slots__ = ()

        def bill(self, call: Call, outcome: Outcome) -> Bill:
            return Bill({MATCHES: 1}, (Evidence("exhausted", (MATCHES,)),))

    with LoopbackServer(lambda _: Reply(200)) as server:
        guard = guard_at(server.url, clock, provider=Last(KEY, base_url=server.url))
        with guard.client() as client:
            post(client, server.url)
    assert not guard.check({MATCHES: 1})
