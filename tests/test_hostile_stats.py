"""Nothing that a stats endpoint can answer hurts: T8 of the test plan, over real loopback.

Each kind comes once after a good reading and once as the first answer of all. A guarded
call sees its own reply or a Refusal and nothing else; no answer leaves more units than the
good reading and the truth do; each tells an event; the next good polls heal.

Kinds that live in an answer are tried on every vendor. Those of the wire know no vendor:
the same exchange carries all of them, so they are tried once per colour.
"""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import logging
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme
import wires
from vendors import KEY, VENDORS, Vendor
from wires import Script, in_turn, serving

from quotaguard import Guard, Policy, Refusal
from quotaguard.providers import Provider
from quotaguard.quota.events import Degraded, Event, Polled, PollFailed
from quotaguard.stats import Stats
from quotaguard.testing import FakeClock
from quotaguard.testing.hostile import CLUMSY, WRONG, doubled, planted, without
from quotaguard.testing.server import Fault, LoopbackServer, Reply, Request
from quotaguard.testing.vendor import FakeVendor

QUOTA, USED = 1000, 400
LONG = 1000.0
"""Seconds after which a poll is due whatever the last one said: 900 and a tenth of jitter."""

HEALED = 3
"""Good polls after which all is well again: news that grows is believed at the second one."""

TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Calls go over plain HTTP on loopback; to load every CA for each client takes 20 ms."""

SHORT = 0.15
"""Real seconds for a whole poll, where a kind needs one that never ends."""

JSON = (("Content-Type", "application/json"),)
Kind = Callable[[Vendor, int], Reply | Fault | None]
"""Makes a vendor's hostile answer when so much is used; None where it has no such thing."""

# -- kinds ------------------------------------------------------------------------


def good_news(vendor: Vendor) -> bytes:
    """Return an answer that many would like to believe."""
    return json.dumps(vendor.answer(0, 10**6)).encode()


def status(code: int, body: bytes | None = None, **headers: str) -> Kind:
    """Return a kind: another status, over a body that is good news."""
    told = tuple((name.replace("_", "-"), said) for name, said in headers.items())
    return lambda vendor, _: Reply(
        code, good_news(vendor) if body is None else body, (*JSON, *told)
    )


def body(said: bytes, *headers: tuple[str, str]) -> Kind:
    """Return a kind: a 200 with a body that is no answer."""
    return lambda *_: Reply(200, said, (*JSON, *headers))


def coded(code: Callable[[bytes], bytes], *headers: tuple[str, str]) -> Kind:
    """Return a kind: good news, but its bytes are odd."""
    return lambda vendor, _: Reply(200, code(good_news(vendor)), (*JSON, *headers))


def numbers(
    used: Callable[[int], int] = lambda true: true, limit: int | None = QUOTA, **headers: str
) -> Kind:
    """Return a kind: an answer in perfect order, with other numbers.

    used: of what is truly used.
    """
    told = tuple((name.replace("_", "-"), said) for name, said in headers.items())

    def kind(vendor: Vendor, true: int) -> Reply | None:
        if limit != QUOTA and vendor.limit_at is None:
            return None
        return Reply(200, json.dumps(vendor.answer(used(true), limit)).encode(), (*JSON, *told))

    return kind


def used_is(raw: bytes) -> Kind:
    """Return a kind: what stands where the used units should."""
    return lambda vendor, _: Reply(200, planted(vendor.answer(0, QUOTA), vendor.used_at, raw), JSON)


def limit_is(raw: bytes) -> Kind:
    """Return a kind: what stands where the limit should."""

    def kind(vendor: Vendor, true: int) -> Reply | None:
        if vendor.limit_at is None:
            return None
        return Reply(200, planted(vendor.answer(true, QUOTA), vendor.limit_at, raw), JSON)

    return kind


def period_is(start: object, end: object, used: int | None = 0) -> Kind:
    """Return a kind: another period, in which nothing is used, or (None) as much as is true.

    start, end: the first day, and the one after the last, which each vendor writes in its
    own way; or whatever stands there instead.
    """

    def kind(vendor: Vendor, true: int) -> Reply:
        good = vendor.answer(true if used is None else used, QUOTA)
        told = (start, end)
        if isinstance(start, date) and isinstance(end, date):
            told = vendor.dates(start, end)
        said = planted(good, vendor.period_at[0], json.dumps(told[0]).encode())
        said = planted(json.loads(said), vendor.period_at[1], json.dumps(told[1]).encode())
        return Reply(200, said, JSON)

    return kind


def missing(vendor: Vendor, _: int) -> Reply:
    """Leave the main metric out."""
    said = vendor.answer(0, QUOTA)
    return Reply(200, without(said, vendor.used_at[:-1] or vendor.used_at), JSON)


def limit_missing(vendor: Vendor, true: int) -> Reply | None:
    """Leave the limit out."""
    if vendor.limit_at is None:
        return None
    return Reply(200, without(vendor.answer(true, QUOTA), vendor.limit_at), JSON)


def twice(vendor: Vendor, true: int) -> Reply:
    """Say the used units twice."""
    return Reply(200, doubled(vendor.answer(true, QUOTA), vendor.used_at, b"0"), JSON)


def disagreeing(vendor: Vendor, true: int) -> Reply:
    """Say besides that very much remains."""
    said = vendor.answer(true, QUOTA)
    inner = said
    for key in vendor.used_at[:-1]:
        inner = inner[key]
    inner["remaining"] = 10**9
    return Reply(200, json.dumps(said).encode(), JSON)


LAST_MONTH = (date(2023, 10, 1), date(2023, 11, 1))
THIS_MONTH = (date(2023, 11, 1), date(2023, 12, 1))
NEXT_MONTH = (date(2023, 12, 1), date(2024, 1, 1))
MANY_YEARS = (date(2023, 11, 1), date(2033, 12, 1))
YESTERDAY_ALONE = (date(2023, 11, 13), date(2023, 11, 14))
YESTERDAY = {"Age": "86400", "Date": "Mon, 13 Nov 2023 22:13:20 GMT"}

KINDS: dict[str, Kind | tuple[Kind, ...]] = {
    **{
        f"status {code}": status(code)
        for code in (206, 301, 400, 402, 404, 405, 408, 410, 418, 500, 503, 504, 520)
    },
    "status 204": status(204, b""),
    "status 302 to itself": status(302, Location="/v3/stats.get"),
    "status 307 within the host": status(307, Location="/elsewhere"),
    "status 401": status(401),
    "status 403": status(403),
    "status 429": status(429),
    "status 429 with seconds": status(429, Retry_After="7"),
    "status 429 with a date": status(429, Retry_After="Tue, 14 Nov 2023 23:00:00 GMT"),
    "status 429 with a negative pause": status(429, Retry_After="-5"),
    "status 429 with a pause of 30 years": status(429, Retry_After="1000000000"),
    "status 429 with 1e9": status(429, Retry_After="1e9"),
    "status 502 in HTML": status(502, CLUMSY["HTML"]),
    "empty": body(b""),
    "HTML": body(CLUMSY["HTML"]),
    "text": body(CLUMSY["text"]),
    "a list": body(b"[]"),
    "a number": body(b"7"),
    "null": body(b"null"),
    "an empty object": body(b"{}"),
    "deep lists": body(CLUMSY["deep lists"]),
    "deep objects": body(CLUMSY["deep objects"]),
    "10 MB": coded(lambda said: said[:-1] + b" " * 10_000_000 + said[-1:]),
    "a list around it": coded(lambda said: b"[" + said + b"]"),
    "BOM": coded(lambda said: b"\xef\xbb\xbf" + said),
    "UTF-16": coded(lambda said: said.decode().encode("utf-16"), ("X-Charset", "utf-16")),
    "latin-1": coded(lambda said: said[:-1] + b', "n\xe9": 1}'),
    "half of it": coded(lambda said: said[: len(said) // 2]),
    "twice over": coded(lambda said: said + said),
    "gzip": coded(gzip.compress, ("Content-Encoding", "gzip")),
    "a bomb": lambda *_: Reply(
        200, gzip.compress(b"0" * 20_000_000), (("Content-Encoding", "gzip"),)
    ),
    "gzip by no name": coded(gzip.compress),
    "a key twice": twice,
    "the metric missing": missing,
    **{f"used is {what}": used_is(raw) for what, raw in WRONG.items()},
    "used is a half": used_is(b"0.5"),
    "used is a text with a point": used_is(b'"12.0"'),
    **{
        f"limit is {what}": limit_is(raw)
        for what, raw in WRONG.items()
        if what not in {"an object", "an empty text"}
    },
    "limit is 0": limit_is(b"0"),
    "limit is missing": limit_missing,
    "limit up tenfold": numbers(limit=10 * QUOTA),
    "limit down below what is used": numbers(limit=USED // 2),
    "limit flapping": (numbers(limit=10 * QUOTA), numbers()) * 2,
    "used far above the limit": numbers(lambda _: 10**9),
    "remaining disagrees": disagreeing,
    "used has fallen once": numbers(lambda true: true - 100),
    "used is 0": numbers(lambda _: 0),
    "a stale replica": (numbers(lambda true: true - 50), numbers()) * 2,
    "kept by a cache since yesterday": numbers(lambda _: 3, **YESTERDAY),
    "another account": numbers(lambda _: 77, 100_000),
    "another account that has spent much": numbers(lambda _: 77_777, 100_000),
    "the date of tomorrow": numbers(Date="Wed, 15 Nov 2023 20:13:20 GMT"),
    "the date of 2035": numbers(Date="Mon, 01 Jan 2035 00:00:00 GMT"),
    "period null": period_is(None, None, None),
    "period null, and nothing used": period_is(None, None),
    "period in the past": period_is(*LAST_MONTH),
    "period in the future": period_is(*NEXT_MONTH),
    "period of ten years": period_is(*MANY_YEARS),
    "period of yesterday": period_is(*YESTERDAY_ALONE),
    "period that ends before it starts": period_is(*reversed(LAST_MONTH)),
    "period that is none": period_is("soon", "later"),
    "period flapping": (period_is(*LAST_MONTH), period_is(*THIS_MONTH, None)) * 2,
    "periods without a pattern": (
        *(period_is(*NEXT_MONTH), period_is(*LAST_MONTH), numbers()),
        *(period_is(*LAST_MONTH), period_is(*YESTERDAY_ALONE), period_is(*MANY_YEARS)),
    ),
    "reset in the answer": lambda *_: Fault("reset"),
    "closed without an answer": lambda *_: Fault("close"),
    "truncated": lambda vendor, _: Fault("truncated", Reply(200, good_news(vendor), JSON)),
    "not HTTP": lambda *_: Fault("garbage"),
}

# -- a guarded application -----------------------------------------------------------


def carried(colour: str, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Play a scene: on an event loop, or (sync) in this thread, where it never waits."""
    if colour != "sync":
        anyio.run(scene, backend=colour)
        return
    with pytest.raises(StopIteration):
        scene().send(None)


class Application:
    """An application with a guard, which never sees anything but replies and Refusals."""

    def __init__(self, provider: Provider, vendor: Vendor, colour: str, **more: Any) -> None:
        self.clock = more.pop("clock", None) or FakeClock()
        self.told: list[Event] = []
        self.vendor = vendor
        self.colour = colour
        self.shown = ""
        wire = more.pop("wire", None)
        policy = Policy(lag=1, late=1, cold_reserve=0, max_wait=0)
        self.guard = Guard(
            provider, policy=policy, clock=self.clock, listeners=[self.told.append], **more
        )
        settings: dict[str, Any] = {"timeout": 5, "trust_env": False, "verify": TRUSTS_NOBODY}
        if wire is not None:
            settings = {"transport": wire}
        make = self.guard.client if colour == "sync" else self.guard.async_client
        self.client: Any = make(**settings)

    async def call(self, url: str) -> str:
        """Make one guarded call; return ``sent``, or the name of the Refusal."""
        method, path, headers, asked = self.vendor.call
        request = {"method": method, "url": f"{url}{path}", "headers": headers, "json": asked}
        request["extensions"] = {"quotaguard": {"priority": "critical"}}
        try:
            answer = self.client.request(**request)
            if self.colour != "sync":
                answer = await answer
        except Refusal as refusal:
            self.shown += f"{refusal}{refusal!r}{refusal.__cause__!r}{refusal.__cause__}"
            return type(refusal).__name__
        assert answer.status_code in {200, 201, 202}
        return "sent"

    async def close(self) -> None:
        """Close what is open; nothing that was raised shows the key."""
        assert KEY not in self.shown
        if self.colour == "sync":
            self.client.close()
        else:
            await self.client.aclose()
        self.guard.close()

    @property
    def left(self) -> float:
        """Units that may still be spent, none where nothing is known."""
        rows = [row for row in self.guard.standing() if row.meter == self.vendor.meter]
        return max((float("inf") if r.headroom is None else r.headroom for r in rows), default=0)

    def news(self) -> set[str]:
        """Return the events about polls since the last time."""
        kinds = {type(event).__name__ for event in self.told if isinstance(event, NEWS)}
        self.told.clear()
        return kinds


NEWS = (PollFailed, Degraded, Polled)


@pytest.fixture(scope="module", autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No thread and no descriptor is left when all the hostility is over."""
    gc.collect()
    files, others = _files(), set(threading.enumerate())  # of other tests: the polls' own thread
    yield
    new = set(threading.enumerate()) - others
    ours = [each for each in new if each.name.startswith(("quotaguard", "wires"))]
    for thread in ours:
        thread.join(5)
    gc.collect()
    assert [thread.name for thread in ours if thread.is_alive()] == []
    assert _files() <= files + 2


def _files() -> int:
    # An event loop's first run may leave a descriptor or two to the process for good.
    opened = Path("/proc/self/fd")
    return len(list(opened.iterdir())) if opened.is_dir() else 0


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is logged at DEBUG by anybody, the key is not in it."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "httpcore")  # logs the headers that were sent, key and all
    yield
    assert KEY not in caplog.text


def cases(kinds: Mapping[str, Kind | tuple[Kind, ...]]) -> Iterator[Any]:
    """Yield vendor and kind, and skip what a vendor has not."""
    for vendor, (name, kind) in itertools.product(VENDORS, kinds.items()):
        steps = kind if isinstance(kind, tuple) else (kind,)
        if all(step(vendor, USED) is not None for step in steps):
            yield pytest.param(vendor, steps, id=f"{vendor}-{name}")


COLOURS = ["sync", "asyncio"]


async def judged(vendor: Vendor, steps: tuple[Kind, ...], colour: str, *, first: bool) -> None:
    """Play one kind: good reading, hostile answers, good readings again."""
    clock = FakeClock()
    with vendor.fake(quota=QUOTA, used=USED, key=KEY, clock=clock, overage=True) as fake:
        app = Application(vendor.provider(fake.url), vendor, colour, clock=clock)
        try:
            if not first:
                assert await app.call(fake.url) == "sent"
                assert app.left == QUOTA - fake.true[vendor.meter]
                app.news()
            for step in steps:
                fake.script(stats=[step(vendor, fake.true[vendor.meter])])
                await asked_again(app, fake)
                if not first:
                    assert app.left <= QUOTA - fake.true[vendor.meter]
                assert app.news() & {"PollFailed", "Polled", "Degraded"}
            for _ in range(HEALED):
                end = await asked_again(app, fake)
            assert end == "sent"
            left = QUOTA - fake.true[vendor.meter]
            # A first answer that is too low looks like others' spend afterwards: of the pace
            # that it teaches a unit of margin stays for a while.
            assert left - int(first) <= app.left <= left
        finally:
            await app.close()


async def asked_again(app: Application, fake: FakeVendor) -> str:
    """Call when a poll is due, for as long as it may be backed off; return how it ended."""
    polls = fake.polls
    for _ in range(5):
        app.clock.advance(LONG)
        end = await app.call(fake.url)
        if fake.polls > polls:
            return end
    raise AssertionError("no poll for more than an hour")


@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("vendor", "steps"), list(cases(KINDS)))
def test_no_answer_hurts(vendor: Vendor, steps: tuple[Kind, ...], colour: str, first: bool) -> None:
    """Every kind, every vendor, threads and tasks; after a good reading, and before any."""
    carried(colour, lambda: judged(vendor, steps, colour, first=first))


TRIO = {"status 401", "deep lists", "10 MB", "gzip", "used is 0", "truncated", "period flapping"}


@pytest.mark.parametrize(
    ("vendor", "steps"), list(cases({name: KINDS[name] for name in sorted(TRIO)}))
)
def test_no_answer_hurts_in_trio(vendor: Vendor, steps: tuple[Kind, ...]) -> None:
    """A few of each family: anyio carries both loops alike."""
    carried("trio", lambda: judged(vendor, steps, "trio", first=False))


@pytest.mark.parametrize("vendor", VENDORS, ids=str)
def test_there_are_fifty_kinds_of_answers_and_more_of_the_wire(vendor: Vendor) -> None:
    """The list of the test plan is all there."""
    assert len([case for case in cases(KINDS) if case.values[0] is vendor]) >= 50


# -- the wire: once per colour, for the exchange knows no vendor ----------------------

VENDOR = next(vendor for vendor in VENDORS if vendor.name == "postcodes")
ALL_COLOURS = ["sync", "asyncio", "trio"]


def good(used: int = USED) -> Script:
    """Return a script that answers a poll as the vendor would."""
    return wires.answering(body=json.dumps(VENDOR.answer(used, QUOTA)).encode())


def nobody(_: httpx.Request) -> httpx.Response:
    """Answer every call, so that polls alone go over the wire."""
    return httpx.Response(200, json={"found": 1})


def at(url: str, colour: str, **more: Any) -> Application:
    """Return an application whose calls are answered from memory; polls may take `SHORT`."""
    clock = FakeClock()
    provider = VENDOR.provider(url)
    app = Application(
        provider, VENDOR, colour, clock=clock, wire=httpx.MockTransport(nobody), **more
    )
    stats: Any = app.guard._spending.stats
    app.guard._spending.stats = Stats(
        provider, client=stats._made()._aclient or stats._made()._client, deadline=SHORT
    )
    return app


async def called(app: Application, url: str) -> str:
    """Let the next poll be due, and call."""
    app.clock.advance(LONG)
    return await app.call(url)


def chunks_of_nothing(wire: wires.Wire) -> None:
    """Send a chunk of a length that is none."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n0\r\n\r\n")


def two_lengths(wire: wires.Wire) -> None:
    """Announce two lengths."""
    wire.read()
    wire.send(wires.answer("200 OK", "Content-Length: 5\r\n", wires.GOOD_NEWS))


def too_short(wire: wires.Wire) -> None:
    """Announce half of what is sent; what comes in that half is no JSON."""
    wire.read()
    whole = wires.answer("200 OK", "", wires.GOOD_NEWS)
    half = str(len(wires.GOOD_NEWS) // 2).encode()
    wire.send(whole.replace(str(len(wires.GOOD_NEWS)).encode(), half, 1))


def a_length_that_is_none(wire: wires.Wire) -> None:
    """Announce a length in words."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + wires.GOOD_NEWS)


def a_status_that_is_none(wire: wires.Wire) -> None:
    """Answer with a status of four digits."""
    wire.read()
    wire.send(wires.answer("2000 OK", "", wires.GOOD_NEWS))


def a_header_of_a_mebibyte(wire: wires.Wire) -> None:
    """Send one very long header."""
    wire.read()
    wire.send(wires.answer("200 OK", f"X-Long: {'l' * 2**20}\r\n", wires.GOOD_NEWS))


def endless_chunks(wire: wires.Wire) -> None:
    """Send chunks without an end."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        wire.send(b"fff\r\n" + b" " * 0xFFF + b"\r\n")


WIRE: tuple[Script, ...] = (
    *(wires.silent, wires.deaf, wires.dripping_headers, wires.dripping_body),
    *(wires.flooding_with_hints, wires.closing_at_once, wires.closing_after_the_request),
    *(wires.resetting_at_once, wires.resetting, wires.breaking_off_headers),
    *(wires.breaking_off_body, wires.resetting_in_the_body, wires.garbage),
    *(wires.garbled_chunks, wires.endless_headers, wires.endless_body, chunks_of_nothing),
    *(two_lengths, too_short, a_length_that_is_none, a_status_that_is_none),
    *(a_header_of_a_mebibyte, endless_chunks),
)


@pytest.mark.parametrize("colour", ALL_COLOURS)
@pytest.mark.parametrize("script", WIRE, ids=lambda script: script.__name__)
def test_no_wire_hurts(script: Script, colour: str) -> None:
    """However an exchange breaks or drags on, it is a failed poll, and the next one heals."""

    async def scene() -> None:
        with serving(in_turn(good(), script, good(USED + 1), script)) as server:
            app = at(server.origin, colour)
            assert await app.call(server.origin) == "sent"
            assert app.left == QUOTA - USED - 1
            app.news()
            assert await called(app, server.origin) == "sent"
            assert app.news() == {"PollFailed"}
            assert app.left <= QUOTA - USED - 2
            await called(app, server.origin)
            assert app.news() >= {"Polled"}
            assert app.left <= QUOTA - USED - 2
            await app.close()

    carried(colour, scene)


@pytest.mark.parametrize("colour", ALL_COLOURS)
@pytest.mark.parametrize("script", WIRE, ids=lambda script: script.__name__)
def test_no_wire_hurts_at_the_very_first(script: Script, colour: str) -> None:
    """Without any reading the call is refused, and goes as soon as one is there."""

    async def scene() -> None:
        with serving(in_turn(script, good())) as server:
            app = at(server.origin, colour)
            assert await app.call(server.origin) == "QuotaUnknown"
            assert app.news() == {"PollFailed"}
            assert await called(app, server.origin) == "sent"
            assert app.left == QUOTA - USED - 1
            await app.close()

    carried(colour, scene)


@pytest.mark.parametrize("colour", ALL_COLOURS)
@pytest.mark.parametrize("where", ["closed", "full", "nowhere"])
def test_nobody_there(where: str, colour: str) -> None:
    """Refused, never connected, a name that does not resolve: no poll, no call, no news."""

    async def scene() -> None:
        with wires.full_port() as busy:
            url = {
                "closed": f"http://127.0.0.1:{wires.closed_port()}",
                "full": busy,
                "nowhere": "https://quotaguard.invalid",
            }[where]
            app = at(url, colour)
            assert await app.call(url) == "QuotaUnknown"
            assert app.news() == {"PollFailed"}
            assert await called(app, url) == "QuotaUnknown"
            await app.close()

    carried(colour, scene)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority that signs what it is asked to."""
    return trustme.CA()


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Return the context of a server that has a certificate for *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def no_tls(wire: wires.Wire) -> None:
    """Answer a greeting of TLS in plain HTTP, as a proxy that is set up wrongly does."""
    wire.receive()
    wire.send(wires.answer("400 Bad Request", "", b"plain HTTP request expected"))


@pytest.mark.parametrize("colour", ALL_COLOURS)
@pytest.mark.parametrize("bad", ["another authority's", "another host's", "none"])
def test_a_certificate_that_is_not_theirs(bad: str, colour: str, authority: trustme.CA) -> None:
    """The key is not told to whoever has it; the last reading stays, and the next one heals."""
    ours = certified(authority, "localhost")
    theirs = {
        "another authority's": certified(trustme.CA(), "localhost"),
        "another host's": certified(authority, "vendor.example"),
        "none": None,
    }[bad]
    speak = in_turn(good(), no_tls if bad == "none" else good(), good())
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def scene() -> None:
        with serving(speak, lambda number: theirs if number == 1 else ours) as server:
            url = f"https://localhost:{server.port}"
            kind = httpx.Client if colour == "sync" else httpx.AsyncClient
            polls: Any = kind(verify=trusting, trust_env=False)
            app = at(url, colour, stats_client=polls)
            assert await app.call(url) == "sent"
            app.news()
            assert await called(app, url) == "sent"
            assert app.news() == {"PollFailed"}
            assert app.left <= QUOTA - USED - 2
            await called(app, url)
            assert app.news() >= {"Polled"}
            await app.close()
            if colour == "sync":
                polls.close()
            else:
                await polls.aclose()
        heard = [request for request in server.requests if KEY.encode() in request]
        assert len(heard) == 2

    carried(colour, scene)


@pytest.mark.parametrize("colour", ALL_COLOURS)
def test_a_certificate_that_nobody_has_signed_is_not_trusted_by_default(
    colour: str, authority: trustme.CA
) -> None:
    """Without a client of the user's own the world's authorities decide."""

    async def scene() -> None:
        with serving(good(), lambda _: certified(authority, "localhost")) as server:
            url = f"https://localhost:{server.port}"
            app = at(url, colour)
            # To load the world's authorities takes a while, once.
            app.guard._spending.stats = Stats(VENDOR.provider(url))
            assert await app.call(url) == "QuotaUnknown"
            assert [event.reason for event in app.told if isinstance(event, PollFailed)] == [
                "the stats poll failed: the TLS certificate is not accepted"
            ]
            await app.close()
        assert KEY.encode() not in b"".join(server.requests)

    carried(colour, scene)


@pytest.mark.parametrize("colour", ALL_COLOURS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("vendor", VENDORS, ids=str)
def test_nobody_else_is_asked(vendor: Vendor, status: int, colour: str) -> None:
    """A redirect to another host is a failed poll: that host sees no request and no key."""
    asked: list[Request] = []

    def elsewhere(request: Request) -> Reply:
        asked.append(request)
        return Reply(200, good_news(vendor), JSON)

    async def scene() -> None:
        with LoopbackServer(elsewhere) as other:
            moved = Reply(status, good_news(vendor), (("Location", f"{other.url}/usage"),))
            clock = FakeClock()
            with vendor.fake(quota=QUOTA, used=USED, key=KEY, clock=clock) as fake:
                app = Application(vendor.provider(fake.url), vendor, colour, clock=clock)
                assert await app.call(fake.url) == "sent"
                fake.script(stats=[moved])
                app.news()
                await asked_again(app, fake)
                assert app.news() == {"PollFailed"}
                await app.close()

    carried(colour, scene)
    assert asked == []


# -- news that is true ---------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS, ids=str)
def test_news_that_grows_is_believed_at_the_second_reading(vendor: Vendor) -> None:
    """Units that the vendor takes back for good come back, after one more poll."""

    async def scene() -> None:
        clock = FakeClock()
        with vendor.fake(quota=QUOTA, used=USED, key=KEY, clock=clock) as fake:
            app = Application(vendor.provider(fake.url), vendor, "sync", clock=clock)
            await app.call(fake.url)
            fake._metering.delete((vendor.meter,), 300)
            await asked_again(app, fake)
            assert app.left < QUOTA - USED
            await asked_again(app, fake)
            assert app.left == QUOTA - fake.true[vendor.meter]
            await app.close()

    carried("sync", scene)


@pytest.mark.parametrize("vendor", [each for each in VENDORS if each.limit_at], ids=str)
def test_a_raised_plan_is_believed_at_the_second_reading_or_at_once(vendor: Vendor) -> None:
    """refresh() is the user's word for it."""

    async def scene() -> None:
        clock = FakeClock()
        with vendor.fake(quota=QUOTA, used=USED, key=KEY, clock=clock) as fake:
            app = Application(vendor.provider(fake.url), vendor, "sync", clock=clock)
            await app.call(fake.url)
            fake.set_quota(10 * QUOTA)
            await asked_again(app, fake)
            assert app.left < QUOTA
            await asked_again(app, fake)
            assert app.left == 10 * QUOTA - fake.true[vendor.meter]
            fake.set_quota(20 * QUOTA)
            clock.advance(5)
            app.guard.refresh()
            assert app.left == 20 * QUOTA - fake.true[vendor.meter]
            await app.close()

    carried("sync", scene)


@pytest.mark.parametrize("vendor", VENDORS, ids=str)
def test_a_wrong_date_does_not_end_the_month(vendor: Vendor) -> None:
    """One answer is dated tomorrow, on the last day of the month, and then nobody answers."""

    async def scene() -> None:
        clock = FakeClock()
        with vendor.fake(quota=QUOTA, used=QUOTA, key=KEY, clock=clock) as fake:
            clock.advance(1_701_388_800 - 20 * 3600 - clock.now().wall)
            app = Application(vendor.provider(fake.url), vendor, "sync", clock=clock)
            assert await app.call(fake.url) == "QuotaExhausted"
            tomorrow = numbers(Date="Fri, 01 Dec 2023 02:00:00 GMT")
            fake.script(stats=[tomorrow(vendor, QUOTA), *(Reply(500) for _ in range(9))])
            assert await asked_again(app, fake) == "QuotaExhausted"
            assert await called(app, fake.url) == "QuotaExhausted"
            assert app.left == 0
            await app.close()

    carried("sync", scene)
