"""What each failure of the wire proves about a guarded call: T9 against the table of 2.2.

Never sent is released; sent and not answered is unknown; an answer settles by its status,
or, where the body decides, by the body. Raw servers on loopback, in three colours. Last a
storm of faults, after which not a unit is held.
"""

from __future__ import annotations

import gc
import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.errors
import h2.events
import httpx
import pytest
import trustme
import wires
from vendors import FULLCONTACT, POSTCODES, Vendor
from wires import Script, Wire, answer, in_turn, serving

from quotaguard import Guard, Policy
from quotaguard.quota.events import Event, Released, Settled
from quotaguard.testing import FakeClock

COLOURS = ["sync", "asyncio", "trio"]

# httpx leaves generators to the collector when a body breaks off, with a guard or without
# one; trio complains of it.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
QUOTA, USED = 1000, 400
BRIEF = 0.15
"""Real seconds that a client waits for a byte, where a fault is that none comes."""

FOUND = b'{"found": 1}'
"""What both vendors may answer; for one of them it is the bill."""


class Caller:
    """A guarded client of one colour, and how its calls end."""

    def __init__(self, url: str, vendor: Vendor, colour: str, **settings: Any) -> None:
        self.vendor = vendor
        self.colour = colour
        self.url = url
        self.told: list[Event] = []
        self.clock = FakeClock()
        self.used = USED
        self.polls = httpx.Client(transport=httpx.MockTransport(self._polled))
        self.guard = Guard(
            vendor.provider(url),
            policy=Policy(lag=1, late=1, cold_reserve=0),
            clock=self.clock,
            listeners=[self.told.append],
            stats_client=self.polls,
        )
        self.guard.refresh()
        wire = settings.pop("wire", None)
        usual = {
            "timeout": 5,
            "trust_env": False,
            "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        }
        if wire is not None:
            kind = httpx.HTTPTransport if colour == "sync" else httpx.AsyncHTTPTransport
            settings |= {"transport": kind(**{"verify": usual["verify"], **wire})}
        make = self.guard.client if colour == "sync" else self.guard.async_client
        self.client: Any = make(**{**usual, **settings})

    def _polled(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=self.vendor.answer(self.used, QUOTA))

    async def call(self, **more: Any) -> str:
        """Make a guarded call and read its answer; return its status, or what was raised."""
        method, path, headers, asked = self.vendor.call
        told = [*headers.items(), *more.pop("headers", ())]
        sent = {"json": asked} if "content" not in more else {}
        try:
            said = self.client.request(method, f"{self.url}{path}", headers=told, **sent, **more)
            if self.colour != "sync":
                said = await said
        except Exception as error:  # noqa: BLE001 - which one is the outcome
            return type(error).__name__
        return str(said.status_code)

    async def close(self) -> None:
        """Close what is open."""
        if self.colour == "sync":
            self.client.close()
        else:
            await self.client.aclose()
        self.guard.close()
        self.polls.close()

    @property
    def ends(self) -> list[str]:
        """How reservations ended, in order."""
        said = []
        for event in self.told:
            if isinstance(event, Released):
                said.append("released")
            elif isinstance(event, Settled):
                said.append("unknown" if event.unknown else "settled")
        return said

    def heals(self) -> None:
        """Once what was lost has lapsed nothing is held, and one poll knows the truth."""
        self.clock.advance(5)
        assert all(row.reserved == 0 for row in self.guard.standing())
        self.clock.advance(5)
        self.guard.refresh()
        (row,) = [row for row in self.guard.standing() if row.meter == self.vendor.meter]
        assert (row.reserved, row.headroom) == (0, QUOTA - self.used)
        books = self.guard._spending.holder.books.meters[self.vendor.meter]
        assert books.held == 0


# -- the faults ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fault and what it proves.

    script: of the server. ends: how the reservation ends, and with a vendor whose body is
    the bill (body_bill); says: what the caller sees, a status or an exception's name. Of
    several any one. more: of the call. settings: of the client.
    """

    script: Script
    ends: tuple[str, ...]
    says: tuple[str, ...]
    more: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    body_bill: tuple[str, ...] | None = None


def once(status: str = "200 OK", headers: str = "", body: bytes = FOUND) -> Script:
    """Return a script that answers one request and closes."""
    return wires.answering(status, headers, body)


def keeping(count: int, last: Callable[[Wire], None]) -> Script:
    """Return a script that answers some requests, and then does something else."""

    def script(wire: Wire) -> None:
        for _ in range(count):
            wire.read()
            wire.send(answer("200 OK", "", FOUND))
        last(wire)

    return script


def continued(wire: Wire) -> None:
    """Say 100 before the answer."""
    wire.read()
    wire.send(b"HTTP/1.1 100 Continue\r\n\r\n" + answer("200 OK", "", FOUND))


def continued_and_closed(wire: Wire) -> None:
    """Say 100, and no more."""
    wire.read()
    wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")


def flooded(wire: Wire) -> None:
    """Say a thousand interim answers before the answer."""
    wire.read()
    wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000)
    wire.send(answer("200 OK", "", FOUND))


def flooded_and_closed(wire: Wire) -> None:
    """Say a thousand interim answers, and no more."""
    wire.read()
    wire.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)


def dripped(wire: Wire) -> None:
    """Answer byte by byte, each within the client's patience."""
    wire.read()
    wire.drip(b"HTTP/1.1 200 OK\r\n\r\n")
    wire.send(FOUND)


def stalled(wire: Wire) -> None:
    """Begin the head, and say no more."""
    wire.read()
    wire.send(b"HTTP/1.1 200 O")
    wire.hold()


def stalled_body(wire: Wire) -> None:
    """Begin the body, and say no more."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    wire.hold()


def early(status: str, *, then: Callable[[Wire], None] = Wire.hold) -> Script:
    """Return a script that answers before the body of the request has come."""

    def script(wire: Wire) -> None:
        wire.read_head()
        wire.send(answer(status, "Connection: close\r\n", FOUND))
        then(wire)

    return script


def longer(wire: Wire) -> None:
    """Send more than was announced."""
    wire.read()
    wire.send(answer("200 OK", "", FOUND) + b"and more")


def bad_length(wire: Wire) -> None:
    """Announce a length that is none."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + FOUND)


def bad_status(wire: Wire) -> None:
    """Answer with a status that is none."""
    wire.read()
    wire.send(answer("OK", "", FOUND))


def garbled_gzip(wire: Wire) -> None:
    """Announce gzip, and send none."""
    wire.read()
    wire.send(answer("200 OK", "Content-Encoding: gzip\r\n", FOUND))


def deafest(wire: Wire) -> None:
    """Take nothing out of the socket, until it is full."""
    wire.wait()


BIG = {"content": b" " * 8_000_000, "headers": [("Content-Type", "application/json")]}
SHORTLY = {"timeout": BRIEF}
UNKNOWN, SETTLED, FREE = ("unknown",), ("settled",), ("released",)
BROKEN = ("ReadError", "RemoteProtocolError", "WriteError")

CASES: dict[str, Case] = {
    "accepted and closed": Case(script=wires.closing_at_once, ends=UNKNOWN, says=BROKEN),
    "read and closed": Case(script=wires.closing_after_the_request, ends=UNKNOWN, says=BROKEN),
    "reset before reading": Case(
        # It may come before the client knows that it is connected.
        script=wires.resetting_at_once,
        ends=("unknown", "released"),
        says=(*BROKEN, "ConnectError"),
    ),
    "reset after reading": Case(script=wires.resetting, ends=UNKNOWN, says=BROKEN),
    "silence": Case(script=wires.silent, ends=UNKNOWN, says=("ReadTimeout",), settings=SHORTLY),
    "never read": Case(script=wires.deaf, ends=UNKNOWN, says=("ReadTimeout",), settings=SHORTLY),
    "half a head": Case(script=wires.breaking_off_headers, ends=UNKNOWN, says=BROKEN),
    "half a head, then silence": Case(
        script=stalled, ends=UNKNOWN, says=("ReadTimeout",), settings=SHORTLY
    ),
    "half a body": Case(
        script=wires.breaking_off_body, ends=SETTLED, says=BROKEN, body_bill=UNKNOWN
    ),
    "half a body, then silence": Case(
        script=stalled_body,
        ends=SETTLED,
        says=("ReadTimeout",),
        settings=SHORTLY,
        body_bill=UNKNOWN,
    ),
    "half a body, then reset": Case(
        script=wires.resetting_in_the_body,
        # A reset may overtake the head that was sent before it.
        ends=("settled", "unknown"),
        says=BROKEN,
        body_bill=UNKNOWN,
    ),
    "dripping": Case(script=dripped, ends=SETTLED, says=("200",)),
    "not HTTP": Case(script=wires.garbage, ends=UNKNOWN, says=BROKEN),
    "100, then an answer": Case(script=continued, ends=SETTLED, says=("200",)),
    "100, then nothing": Case(script=continued_and_closed, ends=UNKNOWN, says=BROKEN),
    "a flood of 103, then an answer": Case(script=flooded, ends=SETTLED, says=("200",)),
    "a flood of 102, then nothing": Case(script=flooded_and_closed, ends=UNKNOWN, says=BROKEN),
    "too short a body for its length": Case(script=longer, ends=SETTLED, says=("200",)),
    "a length that is none": Case(script=bad_length, ends=UNKNOWN, says=BROKEN),
    "a status that is none": Case(script=bad_status, ends=UNKNOWN, says=BROKEN),
    "chunks that are none": Case(
        script=wires.garbled_chunks, ends=SETTLED, says=BROKEN, body_bill=UNKNOWN
    ),
    "gzip that is none": Case(
        script=garbled_gzip, ends=SETTLED, says=("DecodingError",), body_bill=UNKNOWN
    ),
    "an answer before the body, 200": Case(
        script=early("200 OK"), ends=SETTLED, says=("200",), more=BIG
    ),
    "an answer before the body, 413": Case(
        script=early("413 Too Large"), ends=FREE, says=("413",), more=BIG
    ),
    "an answer before the body, then reset": Case(
        # The reset may overtake the answer.
        script=early("200 OK", then=Wire.reset),
        ends=("settled", "unknown"),
        says=("200", *BROKEN),
        more=BIG,
    ),
    "a body that nobody takes": Case(
        script=deafest,
        ends=UNKNOWN,
        says=("WriteTimeout", "ReadTimeout"),
        more=BIG,
        settings=SHORTLY,
    ),
    "switching protocols unasked": Case(
        script=once("101 Switching Protocols", "Upgrade: h2c\r\nConnection: Upgrade\r\n", b""),
        ends=UNKNOWN,
        says=("101", *BROKEN),
    ),
}


def settled_as(case: Case, vendor: Vendor) -> tuple[str, ...]:
    """Return how a call may end, by who its vendor is."""
    return case.ends if vendor is FULLCONTACT or case.body_bill is None else case.body_bill


def carried(colour: str, scene: Callable[[], Any]) -> None:
    """Play a scene: on an event loop, or (sync) in this thread, where it never waits."""
    if colour != "sync":
        anyio.run(scene, backend=colour)
        return
    with pytest.raises(StopIteration):
        scene().send(None)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("vendor", [FULLCONTACT, POSTCODES], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fault_proves_what_the_table_says(case: Case, vendor: Vendor, colour: str) -> None:
    """One call, one fault: the reservation ends as it must, and nothing stays held."""

    async def scene() -> None:
        with serving(case.script) as server:
            caller = Caller(server.origin, vendor, colour, **case.settings)
            try:
                said = await caller.call(**case.more)
                assert said in case.says
                assert len(caller.ends) == 1
                assert caller.ends[0] in settled_as(case, vendor)
                assert (said == "ConnectError") <= (caller.ends == ["released"])
                caller.used += caller.ends[0] == "settled"
                caller.heals()
            finally:
                await caller.close()

    carried(colour, scene)


def test_there_are_enough_of_them() -> None:
    """The list of the test plan: 25 kinds, with those below that a script cannot be."""
    assert len(CASES) >= 25


# -- connections that were kept -------------------------------------------------------


KEPT: dict[str, tuple[Script, list[str], list[str]]] = {
    # It cannot be told from a server that read and then closed.
    "dies at the second request": (
        keeping(1, wires.closing_after_the_request),
        ["200", "RemoteProtocolError"],
        ["settled", "unknown"],
    ),
    "is reset at the second request": (
        keeping(1, wires.resetting),
        ["200", "ReadError"],
        ["settled", "unknown"],
    ),
    "lives for three requests": (
        keeping(3, wires.closing_at_once),
        ["200", "200", "200"],
        ["settled"] * 3,
    ),
}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("script", "says", "ends"), KEPT.values(), ids=KEPT)
def test_a_kept_connection(script: Script, says: list[str], ends: list[str], colour: str) -> None:
    """Each attempt is one reservation and ends by itself."""

    async def scene() -> None:
        with serving(script) as server:
            caller = Caller(server.origin, FULLCONTACT, colour)
            assert [await caller.call() for _ in says] == says
            assert caller.ends == ends
            caller.used += ends.count("settled")
            caller.heals()
            await caller.close()

    carried(colour, scene)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_connection_that_was_closed_while_idle_is_opened_anew(colour: str) -> None:
    """httpx sees it before it sends; the call is one attempt on a new connection."""

    async def scene() -> None:
        with serving(once()) as server:
            caller = Caller(server.origin, FULLCONTACT, colour)
            assert await caller.call() == "200"
            for thread in server.connections:
                thread.join(5)
            assert await caller.call() == "200"
            assert caller.ends == ["settled", "settled"]
            await caller.close()

    carried(colour, scene)


# -- never sent -----------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("where", ["refused", "no connection in time", "no such host", "no route"])
def test_a_connection_that_was_never_made_is_released(where: str, colour: str) -> None:
    """Not a byte has left: the units are free at once."""

    async def scene() -> None:
        with ExitStack() as stack:
            url, wire, says = f"http://127.0.0.1:{wires.closed_port()}", None, "ConnectError"
            if where == "no connection in time":
                url, says = stack.enter_context(wires.full_port()), "ConnectTimeout"
            elif where == "no such host":
                url = "https://quotaguard.invalid"
            elif where == "no route":
                # An address of documentation (RFC 5737), which no machine has.
                wire = {"local_address": "192.0.2.1"}
            settings: dict[str, Any] = {"timeout": httpx.Timeout(5, connect=BRIEF)}
            if wire is not None:
                settings["wire"] = wire
            caller = Caller(url, FULLCONTACT, colour, **settings)
            assert await caller.call() == says
            assert caller.ends == ["released"]
            assert caller.guard.standing()[FULLCONTACT.meter].headroom == QUOTA - USED
            caller.heals()
            await caller.close()

    carried(colour, scene)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_certificate_that_is_not_theirs_is_released(colour: str) -> None:
    """The handshake comes before the request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    async def scene() -> None:
        with serving(once(), lambda _: context) as server:
            caller = Caller(f"https://localhost:{server.port}", FULLCONTACT, colour)
            assert await caller.call() == "ConnectError"
            assert caller.ends == ["released"]
            await caller.close()

    carried(colour, scene)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_request_that_is_none_is_released(colour: str) -> None:
    """h11 takes no such header: LocalProtocolError, after httpcore has announced it."""

    async def scene() -> None:
        with serving(once()) as server:
            caller = Caller(server.origin, FULLCONTACT, colour)
            assert await caller.call(headers=[("bad name", "1")]) == "LocalProtocolError"
            assert caller.ends == ["released"]
            await caller.close()

    carried(colour, scene)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_pool_without_a_free_connection_is_released(colour: str) -> None:
    """The only connection is busy with a silent call; the second call never gets one."""
    settings = {
        "timeout": httpx.Timeout(5, pool=BRIEF),
        "wire": {"limits": httpx.Limits(max_connections=1)},
    }

    async def scene() -> None:
        with serving(stalled_body) as server:
            caller = Caller(server.origin, FULLCONTACT, colour, **settings)
            request = caller.client.build_request("GET", f"{server.origin}/slow")
            busy = caller.client.send(request, stream=True)
            busy = busy if colour == "sync" else await busy
            assert await caller.call() == "PoolTimeout"
            assert caller.ends == ["released"]
            if colour == "sync":
                busy.close()
            else:
                await busy.aclose()
            await caller.close()

    carried(colour, scene)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (httpx.UnsupportedProtocol("no"), "released"),
        (httpx.ConnectTimeout("no"), "released"),
        (httpx.LocalProtocolError("no"), "unknown"),
        (httpx.WriteError("no"), "unknown"),
        (httpx.CloseError("no"), "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_transport_of_the_users_own_is_judged_by_its_error(
    error: Exception, end: str, colour: str
) -> None:
    """Without httpcore's trace only the kind of the error tells; in doubt it was sent."""
    url = "https://api.fullcontact.com"

    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    async def scene() -> None:
        caller = Caller(url, FULLCONTACT, colour)
        transport = caller.guard.transport(httpx.MockTransport(fail))
        kind = httpx.Client if colour == "sync" else httpx.AsyncClient
        own, caller.client = caller.client, kind(transport=transport)
        assert await caller.call() == type(error).__name__
        assert caller.ends == [end]
        caller.heals()
        await caller.close()
        if colour == "sync":
            own.close()
        else:
            await own.aclose()

    carried(colour, scene)


# -- HTTP/2 ---------------------------------------------------------------------------

Act = Callable[[h2.connection.H2Connection, int], None]


def speaking_h2(*acts: Act) -> Script:
    """Return a script that speaks HTTP/2 and does something with each request in turn."""

    def script(wire: Wire) -> None:
        settings = h2.config.H2Configuration(client_side=False)
        connection = h2.connection.H2Connection(settings)
        connection.initiate_connection()
        wire.send(connection.data_to_send())
        left = list(acts)
        while left and (data := wire.receive()):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived) and left:
                    left.pop(0)(connection, event.stream_id)
            wire.send(connection.data_to_send())
        wire.hold()

    return script


def fine(connection: h2.connection.H2Connection, stream: int) -> None:
    """Answer."""
    connection.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
    connection.send_data(stream, FOUND, end_stream=True)


def half(connection: h2.connection.H2Connection, stream: int) -> None:
    """Answer in part, and reset the stream."""
    connection.send_headers(stream, [(":status", "200")])
    connection.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)


def refused(connection: h2.connection.H2Connection, stream: int) -> None:
    """Promise that nothing was processed (RFC 9113, 8.7)."""
    connection.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)


def cancelled(connection: h2.connection.H2Connection, stream: int) -> None:
    """Reset the stream for a reason that promises nothing."""
    connection.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)


def going(last: int) -> Act:
    """Return what ends the connection, and names the *last* stream that was processed."""

    def act(connection: h2.connection.H2Connection, _: int) -> None:
        connection.close_connection(last_stream_id=last)

    return act


H2: dict[str, tuple[tuple[Script, ...], list[str], list[str]]] = {
    "an answer": ((speaking_h2(fine, fine),), ["200", "200"], ["settled", "settled"]),
    "REFUSED_STREAM": (
        (speaking_h2(refused, fine),),
        ["RemoteProtocolError", "200"],
        ["released", "settled"],
    ),
    "CANCEL": (
        (speaking_h2(cancelled, fine),),
        ["RemoteProtocolError", "200"],
        ["unknown", "settled"],
    ),
    "GOAWAY before ours": ((speaking_h2(going(0)),), ["RemoteProtocolError"], ["released"]),
    # httpcore sends it again by itself, on a new connection: one call, one reservation.
    "GOAWAY after an earlier one": (
        (speaking_h2(fine, going(1)), speaking_h2(fine)),
        ["200", "200"],
        ["settled", "settled"],
    ),
    "GOAWAY that names ours": ((speaking_h2(going(1)),), ["RemoteProtocolError"], ["unknown"]),
    "half an answer": ((speaking_h2(half),), ["RemoteProtocolError"], ["settled"]),
    "not HTTP/2": ((once(),), ["broken"], ["unknown"]),
    "closed": ((wires.closing_after_the_request,), ["broken"], ["unknown"]),
}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("scripts", "says", "ends"), H2.values(), ids=H2)
def test_http_2(scripts: tuple[Script, ...], says: list[str], ends: list[str], colour: str) -> None:
    """What the server promises is believed; every other end of a stream leaves a doubt."""

    async def scene() -> None:
        with serving(in_turn(*scripts)) as server:
            wire = {"http1": False, "http2": True}
            caller = Caller(server.origin, FULLCONTACT, colour, wire=wire)
            for expected in says:
                said = await caller.call()
                assert said == expected or (expected == "broken" and said in BROKEN)
            assert caller.ends == ends
            caller.used += ends.count("settled")
            caller.heals()
            await caller.close()

    carried(colour, scene)


# -- the storm ------------------------------------------------------------------------


def stormy(chance: random.Random) -> Script:
    """Return a script that does to each request what the request asks for, or sooner.

    The first of the requests on a connection may meet its end before it was read.
    """
    lock = threading.Lock()
    before = {
        "close": lambda _: None,
        "reset": Wire.reset,
    }

    def script(wire: Wire) -> None:
        with lock:
            fate = chance.choice(["close", "reset", *["read"] * 18])
        if fate in before:
            before[fate](wire)
            return
        while wire.read():
            kind = wire.request.partition(b"X-Fault: ")[2].partition(b"\r")[0].decode()
            if not STORM[kind](wire):
                return

    return script


def says(data: bytes, *, goes_on: bool = False) -> Callable[[Wire], bool]:
    """Return what sends *data*; whether the connection goes on afterwards."""

    def act(wire: Wire) -> bool:
        wire.send(data)
        return goes_on

    return act


def ends_by(script: Callable[[Wire], None]) -> Callable[[Wire], bool]:
    """Return what does something to the connection, and ends it."""

    def act(wire: Wire) -> bool:
        script(wire)
        return False

    return act


HEAD = b"HTTP/1.1 200 OK\r\n"
STORM: dict[str, Callable[[Wire], bool]] = {
    "answered": says(answer("200 OK", "", FOUND), goes_on=True),
    "missed": says(answer("404 Not Found", "", b"{}"), goes_on=True),
    "limited": says(answer("429 Slow Down", "", b'{"message": "Too Many"}'), goes_on=True),
    "failed": says(answer("500 Oops", "", b"{}"), goes_on=True),
    "strange": says(answer("299 Who Knows", "", b"{}"), goes_on=True),
    "closed": says(b""),
    "reset": ends_by(Wire.reset),
    "half a head": says(b"HTTP/1.1 200 O"),
    "half a body": says(HEAD + b"Content-Length: 99\r\n\r\n{"),
    "no HTTP": says(b"\x16\x03\x01 hello\r\n\r\n"),
    "100, answered": says(
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer("200 OK", "", FOUND), goes_on=True
    ),
    "100, closed": says(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "hints, answered": says(
        b"HTTP/1.1 103 Hints\r\n\r\n" * 20 + answer("200 OK", "", FOUND), goes_on=True
    ),
    "hints, closed": says(b"HTTP/1.1 103 Hints\r\n\r\n" * 20),
    "bad length": says(HEAD + b"Content-Length: x\r\n\r\n{}"),
    "too long": says(answer("200 OK", "", FOUND) + b"more"),
    "bad chunks": says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "bad gzip": says(answer("200 OK", "Content-Encoding: gzip\r\n", FOUND)),
    "bad status": says(answer("OK", "", FOUND)),
    "redirected": says(answer("307 There", "Location: /nowhere\r\n", b""), goes_on=True),
    "silent": ends_by(Wire.hold),
    "bad header": says(b""),  # h11 takes no such header, nothing is sent
}
SHARES = (*[0.1] * 4, *[0.05] * 12)
"""Of the calls: four threads, and six tasks on each event loop."""

RARE = {"silent": 0.1}
"""Those that cost real time are seldom."""


class Storm:
    """Many calls with one guard, in every colour at once."""

    def __init__(self, url: str, count: int, seed: int) -> None:
        self.url = url
        self.count = count
        self.seed = seed
        self.lock = threading.Lock()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.wrong: list[tuple[str, str, str]] = []
        self.told: Counter[str] = Counter()
        self.clock = FakeClock()
        self.used = 0
        self.polls = httpx.Client(transport=httpx.MockTransport(self._polled))
        self.guard = Guard(
            FULLCONTACT.provider(url),
            policy=Policy(lag=1, late=1, cold_reserve=0),
            clock=self.clock,
            listeners=[self._hear],
            stats_client=self.polls,
        )
        self.guard.refresh()

    def _polled(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=FULLCONTACT.answer(self.used, 10**9))

    def _hear(self, event: Event) -> None:
        with self.lock:
            if isinstance(event, Released):
                self.told["released"] += 1
            elif isinstance(event, Settled):
                end = "unknown" if event.unknown else "settled"
                self.told[end] += 1
                self.told[f"{end} units"] += int(event.cost.get(FULLCONTACT.meter, 0))

    def requests(self, worker: int, share: float) -> Iterator[tuple[str, httpx.Request]]:
        """Yield the calls of one worker, in an order of its own."""
        chance = random.Random(f"{self.seed} {worker}")
        kinds = list(STORM)
        weights = [RARE.get(kind, 1.0) for kind in kinds]
        method, path, headers, asked = FULLCONTACT.call
        for kind in chance.choices(kinds, weights, k=round(self.count * share)):
            more = [("bad name", "1")] if kind == "bad header" else []
            told = [*headers.items(), ("X-Fault", kind), *more]
            request = httpx.Request(method, f"{self.url}{path}", headers=told, json=asked)
            request.extensions["timeout"] = dict.fromkeys(("connect", "write", "pool"), 9.0)
            request.extensions["timeout"]["read"] = 0.03 if kind == "silent" else 9.0
            yield kind, request

    def note(self, kind: str, said: str, response: httpx.Response | None) -> None:
        """Note an outcome, and compare it with its receipt where there is one."""
        with self.lock:
            self.outcomes[kind, said] += 1
        if response is not None:
            state = response.extensions["quotaguard"].state
            free = kind in {"limited", "redirected"}
            right = (
                "released" if free else "unknown" if kind in {"failed", "strange"} else "settled"
            )
            if state != right:
                self.wrong.append((kind, said, state))

    def in_thread(self, worker: int, share: float) -> None:
        """Call from a thread."""
        with self.guard.transport() as transport:
            for kind, request in self.requests(worker, share):
                response = None
                try:
                    response = transport.handle_request(request)
                    response.read()
                    response.close()
                    said = str(response.status_code)
                except (httpx.HTTPError, httpx.StreamError) as error:
                    said = type(error).__name__
                self.note(kind, said, response)

    async def in_task(self, worker: int, share: float) -> None:
        """Call from a task."""
        async with self.guard.transport() as transport:
            for kind, request in self.requests(worker, share):
                response = None
                try:
                    response = await transport.handle_async_request(request)
                    await response.aread()
                    await response.aclose()
                    said = str(response.status_code)
                except (httpx.HTTPError, httpx.StreamError) as error:
                    said = type(error).__name__
                self.note(kind, said, response)

    async def in_tasks(self, first: int) -> None:
        """Call from several tasks of one event loop."""
        async with anyio.create_task_group() as tasks:
            for worker in range(6):
                tasks.start_soon(self.in_task, first + worker, 0.05)


def together(*jobs: Callable[[], None]) -> None:
    """Run every job in a thread of its own and raise what one of them raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()


@pytest.mark.timeout(900)
def test_after_a_storm_nothing_is_held(
    faults: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Thousands of faults by threads, asyncio and trio on one guard; then every unit is free.

    The books' numbers are the sum of what the calls were told, and one poll after `late`
    and the lag they are the provider's own.
    """
    with serving(stormy(random.Random(seed))) as server:
        storm = Storm(server.origin, faults, seed)
        together(
            *(partial(storm.in_thread, worker, 0.1) for worker in range(4)),
            partial(anyio.run, storm.in_tasks, 10, backend="asyncio"),
            partial(anyio.run, storm.in_tasks, 20, backend="trio"),
        )
        calls = sum(storm.outcomes.values())
        assert calls == sum(round(faults * share) for share in SHARES)
        assert storm.wrong == []
        assert {kind for kind, _ in storm.outcomes} == set(STORM)
        told = storm.told
        assert told["released"] + told["settled"] + told["unknown"] == calls
        gc.collect()
        storm.clock.advance(5)
        storm.guard.standing()
        holder = storm.guard._spending.holder
        books = holder.books.meters[FULLCONTACT.meter]
        assert (books.held, holder.allotment.open, holder.allotment.lapses) == (0, {}, [])
        assert books.spent == told["settled units"] + told["unknown units"]
        assert books.unknown == told["unknown units"]
        assert len(holder.forgotten) == 0
        # Of the unknown ones the provider has charged some.
        storm.used = told["settled units"] + told["unknown units"] // 3
        storm.clock.advance(5)
        storm.guard.refresh()
        row = storm.guard.standing()[FULLCONTACT.meter]
        assert (row.reserved, row.used, row.headroom) == (0, storm.used, 10**9 - storm.used)
        storm.guard.close()
        storm.polls.close()
    record_property("storm", f"{calls:,} calls, {len(storm.outcomes)} kinds of ends, R = 0")
