"""What all HTTP clients share, without any client: origins, options, bills, 429 replies."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from quotaguard import (
    ConfigError,
    CostTooLarge,
    FullContact,
    Guard,
    Policy,
    QuotaExhausted,
    QuotaUnknown,
    Refusal,
    WaitTooLong,
)
from quotaguard.clients import exchange
from quotaguard.clients.exchange import BODY_CAP, HeaderView, Passage, Witness
from quotaguard.errors import RefusalFacts
from quotaguard.quota.calls import Bill, Call, Evidence, Outcome
from quotaguard.quota.events import Degraded, Event, Settled
from quotaguard.testing import FakeClock, disabled

MATCHES = "person.enrichment.matches"
COST = {MATCHES: 1, "person.enrichment.misses": 0, "person.enrichment.total": 1}
KEY = "canary-key-7f3a"
ORIGIN = "https://api.fullcontact.com"


class Told(list[Event]):
    def __call__(self, event: Event) -> None:
        self.append(event)


class Strange(FullContact):
    """FullContact whose bills a test writes."""

    __slots__ = ("bills",)

    def __init__(self, bills: Callable[[Outcome], Bill]) -> None:
        super().__init__(KEY)
        self.bills = bills

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        return self.bills(outcome)


def stats(quota: int = 100) -> httpx.Client:
    """Return a client that answers every poll from memory."""
    metric = {"count": 0, "quota": quota, "overQuota": False}
    said = {
        "period": {"start": "2023-11-01T00:00:00Z", "end": "2023-12-01T00:00:00Z"},
        "stats": {"person": {"enrichment": {"matches": metric}}},
    }
    return httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=said)))


class Desk:
    """A guard with a provider of a test's own, and one call to bill."""

    def __init__(self, bills: Callable[[Outcome], Bill] | None = None) -> None:
        self.clock = FakeClock()
        self.told = Told()
        provider = FullContact(KEY) if bills is None else Strange(bills)
        policy = Policy(lag=1, late=1, cold_reserve=0)
        self.client = stats()
        self.guard = Guard(
            provider,
            policy=policy,
            clock=self.clock,
            listeners=[self.told],
            stats_client=self.client,
        )
        self.guard.refresh()
        self.spending = self.guard._spending

    def passage(self) -> Passage:
        """Return a call that is on its way."""
        call = Call("POST", ORIGIN, "/v3/person.enrich", {"authorization": f"Bearer {KEY}"}, b"{}")
        passage = exchange.guarded(self.spending, call)
        assert passage is not None
        passage.reservation.open()
        return passage

    def degraded(self) -> list[str]:
        return [event.state for event in self.told if isinstance(event, Degraded)]


def told(reply: exchange.TurnedAway) -> Mapping[str, str]:
    """Return the headers of a 429."""
    return dict(reply.headers)


FACTS = RefusalFacts(
    provider="fullcontact",
    account="0123456789abcdef",
    meter=MATCHES,
    requested=1,
    limit=100,
    used=100,
    headroom=0,
    resets_at=datetime(2023, 12, 1, tzinfo=UTC),
)
NOW = datetime(2023, 11, 30, 23, 59, 30, 500_000, tzinfo=UTC).timestamp()


# -- origins ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "netloc", "origin"),
    [
        ("https", "api.example.com", "https://api.example.com"),
        ("http", "127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https", "[0:0:0:0:0:0:0:1]:8443", "https://[::1]:8443"),
        ("https", "[::1]", "https://[::1]"),
        ("https", "[fe80::1%25eth0]", "https://[fe80::1%25eth0]"),
    ],
)
def test_an_origin_is_told_as_providers_tell_it(scheme: str, netloc: str, origin: str) -> None:
    """One address, one spelling: else the long form of ::1 would pass unguarded."""
    assert exchange.origin_of(scheme, netloc) == origin


@pytest.mark.parametrize(
    ("first", "now", "leaving"),
    [
        ("https://a.test", "https://a.test", False),
        ("https://a.test", "https://b.test", True),
        ("https://a.test", "https://a.test:8443", True),
        ("https://a.test", "http://a.test", True),
        ("http://a.test", "https://a.test", False),
        ("http://a.test:8080", "https://a.test:8080", True),
        ("http://a.test", "https://a.test.evil.test", True),
        ("http://[::1]", "https://[::1]", False),
        ("http://[::1]:80", "https://[::1]:80", True),
    ],
)
def test_keys_go_along_to_the_same_owner_only(first: str, now: str, *, leaving: bool) -> None:
    """Only the same host, once it moves from its usual port to TLS, is still at home."""
    assert exchange.leaves(first, now) is leaving


# -- headers ------------------------------------------------------------------


def test_headers_are_found_by_their_lower_case_names() -> None:
    """A view over raw pairs is a mapping like any other; repeated values are joined."""
    view = HeaderView([(b"Retry-After", b"3"), (b"X-A", b"1"), (b"x-a", b"\xe9")])
    assert view.get("retry-after") == "3"
    assert view["x-a"] == "1, é"
    assert view.get("x-b") is None
    assert view.get("x-b", "0") == "0"
    assert "x-a" in view
    assert (len(view), list(view)) == (2, ["retry-after", "x-a"])
    with pytest.raises(KeyError):
        view["x-b"]


def test_a_view_of_headers_shows_no_value() -> None:
    """It holds the key, so its repr does not."""
    assert KEY not in repr(HeaderView([(b"authorization", KEY.encode())]))


# -- options ------------------------------------------------------------------


def test_options_are_checked_and_counted_in_seconds() -> None:
    """A priority of the policy, a duration as number or timedelta."""
    spending = Desk().spending
    assert exchange.options(spending, {}) == ("normal", None)
    assert exchange.options(spending, {"priority": "critical", "max_wait": 0}) == ("critical", 0.0)
    assert exchange.options(spending, {"max_wait": timedelta(minutes=1)}) == ("normal", 60.0)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"prioritty": "critical", "maxwait": 1}, "'prioritty', 'maxwait'"),
        ({"priority": "urgent"}, "'urgent'"),
        ({"max_wait": "soon"}, "max_wait"),
        ({"max_wait": -1}, "max_wait"),
        ("critical", "str"),
    ],
)
def test_wrong_options_are_named(wrong: object, names: str) -> None:
    """A slip of the pen is a ConfigError that says where, not a default."""
    with pytest.raises(ConfigError, match=names):
        exchange.options(Desk().spending, wrong)


# -- bodies -------------------------------------------------------------------


BODY = json.dumps({"message": "x" * 300}).encode()


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY)),
        (" GZip ", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY)[2:-4]),
    ],
    ids=["none", "identity", "gzip", "GZip", "deflate", "bare-deflate"],
)
def test_a_body_is_decoded(encoding: str, raw: bytes) -> None:
    """As it is, as gzip, and as both kinds of deflate that servers send."""
    assert exchange.decoded(raw, encoding) == BODY


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense", "gzip"])
def test_what_cannot_be_decoded_safely_is_nothing(encoding: str) -> None:
    """No decoder that cannot be stopped, no guess at what is broken."""
    assert exchange.decoded(b"\x00\x01 not compressed at all", encoding) == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_cut_off(encoding: str) -> None:
    """64 MiB in 64 KiB come out as 256 KiB."""
    plain = bytes(64 * 1024 * 1024)
    bomb = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    assert len(bomb) < 100_000
    assert len(exchange.decoded(bomb, encoding)) == BODY_CAP


# -- passages -----------------------------------------------------------------


def test_every_passage_ends_once() -> None:
    """Whatever is told after the end changes nothing."""
    desk = Desk()
    passage = desk.passage()
    passage.answered(200, {})
    passage.lost(sent=True)
    passage.lost(sent=False)
    passage.answered(404, {})
    assert passage.receipt.state == "settled"
    assert len([event for event in desk.told if isinstance(event, Settled)]) == 1


def test_a_receipt_is_a_live_view_and_read_only() -> None:
    """It tells what is held, then what it cost, then what is left; it cannot be written."""
    desk = Desk()
    passage = desk.passage()
    receipt = passage.receipt
    assert (receipt.operation, receipt.state, receipt.settled) == ("person.enrich", "open", None)
    assert receipt.reserved[MATCHES] == 1
    assert receipt.headroom[MATCHES] == 99
    passage.answered(404, {})
    assert receipt.state == "settled"
    assert receipt.settled is not None
    assert receipt.settled.get(MATCHES, 0) == 0
    assert receipt.headroom[MATCHES] == 100
    assert repr(receipt).startswith("<Receipt person.enrich settled: ")
    with pytest.raises(AttributeError):
        receipt.state = "open"  # type: ignore[misc] # that is the point


def test_a_provider_that_fails_at_the_bill_leaves_the_outcome_unknown() -> None:
    """Its exception never reaches the caller; the call counts in full, and the log says why."""

    def fail(_: Outcome) -> Bill:
        raise ZeroDivisionError(KEY)

    desk = Desk(fail)
    passage = desk.passage()
    assert passage.answered(200, {}) is None
    assert passage.receipt.state == "unknown"
    assert desk.degraded() == ["unbilled"]
    assert KEY not in str(desk.told)


def test_a_bill_of_a_meter_that_does_not_exist_is_unknown() -> None:
    """A wrong bill is no reason to fail a call that was answered."""
    desk = Desk(lambda _: Bill({"no.such.meter": 1}))
    passage = desk.passage()
    passage.answered(200, {})
    assert passage.receipt.state == "unknown"
    assert desk.degraded() == ["unbilled"]


@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_a_bill_may_be_any_mapping(kind: Callable[[dict[str, int]], Mapping[str, int]]) -> None:
    """Providers' own costs are read-only."""
    desk = Desk(lambda _: Bill(kind({MATCHES: 1})))
    passage = desk.passage()
    passage.answered(200, {})
    assert passage.receipt.settled == {MATCHES: 1}


def by_body(outcome: Outcome) -> Bill:
    """Bill as a provider does whose body says how many were found."""
    if outcome.body is None:
        return Bill(None, wants_body=True)
    if not outcome.body:
        return Bill({}, (Evidence("pause", seconds=7),))
    return Bill({MATCHES: json.loads(outcome.body)["found"]})


def test_a_body_that_decides_is_heard_in_pieces() -> None:
    """The reservation stays open until the last piece."""
    desk = Desk(by_body)
    passage = desk.passage()
    tap = passage.answered(200, {"content-encoding": "gzip"})
    assert tap is not None
    raw = gzip.compress(b'{"found": 0}')
    for at in range(len(raw)):
        tap.feed(raw[at : at + 1])
    assert passage.receipt.state == "open"
    tap.end(whole=True)
    assert passage.receipt.settled == {MATCHES: 0}
    tap.end(whole=False)
    assert desk.degraded() == []


def test_a_body_closed_early_is_unknown_at_the_full_price() -> None:
    """What was not read decides nothing; evidence that needs no body is heard all the same."""
    desk = Desk(by_body)
    passage = desk.passage()
    tap = passage.answered(200, {})
    assert tap is not None
    tap.feed(b'{"found": 0}')
    tap.end(whole=False)
    assert passage.receipt.state == "unknown"
    assert passage.receipt.headroom[MATCHES] == 99
    assert desk.guard.check({MATCHES: 1}).delay == pytest.approx(7)


def test_a_cost_known_at_the_headers_is_settled_there() -> None:
    """FullContact's 403 is free at once; its body is asked for evidence only."""
    desk = Desk()
    passage = desk.passage()
    tap = passage.answered(403, {})
    assert tap is not None
    assert passage.receipt.state == "released"
    tap.feed(b'{"status":403,"message":"Usage limits for the key have been exceeded."}')
    assert desk.guard.check({MATCHES: 1})
    tap.end(whole=True)
    assert not desk.guard.check({MATCHES: 1})


def test_no_more_of_a_body_is_kept_than_is_needed() -> None:
    """An endless body fills no memory."""
    seen: list[int] = []

    def note(outcome: Outcome) -> Bill:
        if outcome.body is None:
            return Bill(None, wants_body=True)
        seen.append(len(outcome.body))
        return Bill({})

    passage = Desk(note).passage()
    tap = passage.answered(200, {})
    assert tap is not None
    for _ in range(40):
        tap.feed(bytes(10_000))
    assert len(tap._raw) == BODY_CAP
    tap.end(whole=True)
    assert seen == [BODY_CAP]


def test_a_bill_that_still_wants_a_body_it_has_seen_is_final() -> None:
    """No loop: what the body could say has been said."""
    desk = Desk(lambda _: Bill(None, wants_body=True))
    passage = desk.passage()
    tap = passage.answered(200, {})
    assert tap is not None
    tap.end(whole=True)
    assert passage.receipt.state == "unknown"


def test_a_deferred_call_outlives_its_answer() -> None:
    """A webhook will tell: the application settles it by its id."""
    desk = Desk(lambda _: Bill(None, deferred=True))
    passage = desk.passage()
    passage.answered(202, {})
    receipt = passage.receipt
    assert receipt.state == "deferred"
    assert desk.guard.settle(receipt.id, {MATCHES: 1})
    assert receipt.settled == {MATCHES: 1}


def test_a_foreign_key_is_told_once_and_passes(caplog: pytest.LogCaptureFixture) -> None:
    """Another account's spend is not ours to count."""
    desk = Desk()
    call = Call("POST", ORIGIN, "/v3/person.enrich", {"authorization": "Bearer other-key-1"}, b"{}")
    with caplog.at_level(logging.WARNING, logger="quotaguard"):
        assert [exchange.guarded(desk.spending, call) for _ in range(3)] == [None] * 3
    assert desk.degraded() == ["foreign_key"]
    assert caplog.text.count("foreign_key") == 1
    assert "other-key-1" not in caplog.text


def test_a_disabled_guard_hears_no_evidence() -> None:
    """What was let pass uncounted closes nothing later."""
    desk = Desk(lambda _: Bill({}, (Evidence("exhausted", (MATCHES,)),)))
    with disabled():
        desk.passage().answered(403, {})
    desk.passage().lost(sent=False)
    desk.passage().lost(sent=False)


# -- 429 in the provider's place ----------------------------------------------


def test_an_exhausted_quota_is_told_in_the_fields_of_http() -> None:
    """Retry-After, RateLimit, RateLimit-Policy, and a problem that a program can read."""
    reply = exchange.turned_away(QuotaExhausted(FACTS), NOW)
    assert reply.status == 429
    assert told(reply) == {
        "Content-Type": "application/problem+json",
        "RateLimit": f'"{MATCHES}";r=0;t=30',
        "RateLimit-Policy": f'"{MATCHES}";q=100',
        "Retry-After": "30",
    }
    problem: dict[str, Any] = json.loads(reply.body)
    assert problem["type"].endswith("#quota-exceeded")
    assert (problem["status"], problem["meter"], problem["limit"]) == (429, MATCHES, 100)
    assert problem["resets_at"] == "2023-12-01T00:00:00+00:00"
    assert "was not sent" in problem["detail"]


@pytest.mark.parametrize(
    ("refusal", "again"),
    [
        (WaitTooLong(replace(FACTS, retry_after=2.1)), "3"),
        (QuotaUnknown(replace(FACTS, retry_after=0.0, limit=None)), "0"),
        (QuotaExhausted(replace(FACTS, resets_at=None)), None),
        (QuotaExhausted(replace(FACTS, resets_at=datetime(2023, 1, 1, tzinfo=UTC))), "0"),
        (CostTooLarge(replace(FACTS, requested=500)), None),
    ],
)
def test_retry_after_is_there_only_where_it_is_known(refusal: Refusal, again: str | None) -> None:
    """Whole seconds, rounded up; nothing for what waiting does not mend."""
    headers = told(exchange.turned_away(refusal, NOW))
    assert headers.get("Retry-After") == again
    assert headers["RateLimit"] == f'"{MATCHES}";r=0' + ("" if again is None else f";t={again}")


def test_the_name_of_a_meter_cannot_break_a_header() -> None:
    """Quotes are escaped, what is not plain ASCII is not told."""
    facts = replace(FACTS, meter='a"b\\c\r\nX: é', limit=None)
    headers = told(exchange.turned_away(QuotaUnknown(facts), NOW))
    assert headers["RateLimit"].startswith('"a\\"b\\\\c??X: ?";r=0')


# -- on the wire --------------------------------------------------------------


class Sent:
    def __init__(self, method: bytes) -> None:
        self.method = method


class LocalProtocolError(Exception):
    """Named like httpcore's."""


def test_a_tunnel_is_not_the_request() -> None:
    """CONNECT goes to the proxy; only the request itself may be charged."""
    witness = Witness(None)
    witness("http11.send_request_headers.started", {"request": Sent(b"CONNECT")})
    assert not witness.started
    witness("http2.send_request_headers.started", {"request": Sent(b"POST")})
    assert witness.started


def test_headers_that_were_never_written_were_not_sent() -> None:
    """h11 refuses bad headers after httpcore has said that it begins."""
    witness = Witness(None)
    witness("http11.send_request_headers.started", {"request": Sent(b"POST")})
    witness("http11.send_request_headers.failed", {"exception": LocalProtocolError()})
    assert not witness.started
    witness("http11.send_request_headers.started", {"request": Sent(b"POST")})
    witness("http11.send_request_headers.failed", {"exception": OSError()})
    assert witness.started


class StreamReset:
    """As h2 tells it."""

    def __init__(self, code: int, *, remote: bool) -> None:
        self.error_code = code
        self.remote_reset = remote


@pytest.mark.parametrize(
    ("cause", "refused"),
    [
        (Exception(StreamReset(7, remote=True)), True),
        (Exception(StreamReset(7, remote=False)), False),
        (Exception(StreamReset(8, remote=True)), False),
        (Exception("<StreamReset error_code:7>"), False),
        (Exception(), False),
        (None, False),
    ],
)
def test_a_refused_stream_is_proof(cause: object, *, refused: bool) -> None:
    """REFUSED_STREAM from the server, and nothing that only looks like it."""
    assert exchange.refused_stream(cause) is refused


@pytest.mark.parametrize(
    ("name", "module", "repeating"),
    [
        ("RetryTransport", "httpx_retries.transport", True),
        ("AsyncRetryTransport", "app.net", True),
        ("WithRetries", "app.net", True),
        ("AsyncTenacityTransport", "pydantic_ai.retries", True),
        ("SyncCacheTransport", "hishel.httpx", True),
        ("Anything", "hishel.httpx", True),
        ("CachingTransport", "app", True),
        ("LoggingTransport", "app.retries", False),
        ("ApacheTransport", "app", False),
    ],
)
def test_what_repeats_is_known_by_name(name: str, module: str, *, repeating: bool) -> None:
    """By the name of the class or its package, through subclasses too."""
    kind = type(name, (), {"__module__": module})
    assert exchange.repeats(kind) is repeating
    assert exchange.repeats(type("Mine", (kind,), {"__module__": "app"})) is repeating
