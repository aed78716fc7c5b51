"""SegOps: what its usage, its prices and its answers mean."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotaguard.errors import (
    ConfigError,
    NoSubscription,
    ProviderError,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
)
from quotaguard.providers import Provider
from quotaguard.providers.segops import LONGEST_READ, SegOps, SegOpsChoices
from quotaguard.quota.calls import Bill, Call, Evidence, Outcome
from quotaguard.quota.readings import BARE_DATE_SKEW, Reading, Usage

KEY = "sk_canary-5f2d"
JWT = "eyJhbGciOi.canary.9a1"
ORIGIN = "https://api.segops.ai"
USAGE = f"{ORIGIN}/api/analytics/usage/"
TRACK = "/api/ingestion/track/"
BATCH = "/api/ingestion/track/batch/"
SEGMENTS = "/api/segments/"
METERS = ("events", "users", "segments", "ai_credits")
RECORDED = Path(__file__).parent / "recorded"
DOUBT = Evidence("doubt")


@pytest.fixture
def provider() -> SegOps:
    """Return a provider of the real origin."""
    return SegOps(KEY)


def recorded(name: str) -> dict[str, Any]:
    """Return one recorded exchange."""
    exchange: dict[str, Any] = json.loads((RECORDED / f"segops_{name}.json").read_text("utf-8"))
    return exchange


def call_of(name: str) -> Call:
    """Return the recorded request as a call."""
    request = recorded(name)["request"]
    headers = {n.lower(): v.replace("{key}", KEY) for n, v in request["headers"].items()}
    path = request["url"].removeprefix(ORIGIN)
    return Call(request["method"], ORIGIN, path, headers, json.dumps(request["json"]).encode())


def outcome_of(name: str, *, read: bool = True) -> Outcome:
    """Return the recorded answer, with its body or at its headers."""
    said = recorded(name)["response"]
    headers = {n.lower(): v for n, v in said["headers"].items()}
    return Outcome(said["status"], headers, json.dumps(said["json"]).encode() if read else None)


def call(
    path: str = TRACK,
    *,
    method: str = "POST",
    origin: str = ORIGIN,
    headers: dict[str, str] | None = None,
    body: bytes | None = b'{"user_id": "u1", "event_type": "page_viewed"}',
) -> Call:
    """Return a call that sends one event, or nearly so."""
    return Call(method, origin, path, headers or {}, body)


def batch(count: int) -> bytes:
    """Return the body of a batch of *count* events."""
    return json.dumps({"events": [{"user_id": "u", "event_type": "t"}] * count}).encode()


def answer(
    status: int, body: object = None, *, raw: bytes | None = None, **headers: str
) -> Outcome:
    """Return an answer; header names with underscores for hyphens."""
    said = raw if body is None else json.dumps(body).encode()
    return Outcome(status, {name.replace("_", "-"): text for name, text in headers.items()}, said)


def usage(**events: object) -> dict[str, Any]:
    """Return the documented usage, its events replaced where given."""
    said: dict[str, Any] = recorded("usage_documented")["response"]["json"]
    if events:
        said["events"] = events
    return said


def read(provider: SegOps, said: object) -> Reading:
    """Return the reading of a 200 with *said* in it."""
    return provider.read_stats(answer(200, said))


# ------------------------------------------------------------------- identity


def test_it_is_a_provider(provider: SegOps) -> None:
    """The guard's Protocol is what it offers; every name in a cost is a meter."""
    checked: Provider = provider
    assert checked.name == "segops"
    assert checked.polls_per_hour == 60
    assert tuple(checked.meters) == METERS
    kinds = {name: (meter.kind, meter.scale) for name, meter in checked.meters.items()}
    assert kinds == {
        "events": ("counter", 1),
        "users": ("level", 1),
        "segments": ("level", 1),
        "ai_credits": ("counter", 1),
    }
    assert all(name == meter.name for name, meter in checked.meters.items())
    assert checked.operations == {
        "events.track": {"events": 1},
        "events.track_batch": {"events": 500},
        "segments.create": {"segments": 1},
    }
    assert set(checked.reports) == {
        *("overview", "segments", "overlap", "activations", "copilot", "usage"),
    }


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (SegOps(KEY), f"ApiKey {KEY}"),
        (SegOps(api_key=f" {KEY} "), f"ApiKey {KEY}"),
        (SegOps(token=JWT), f"Bearer {JWT}"),
        (SegOps(token=lambda: f"{JWT} "), f"Bearer {JWT}"),
    ],
    ids=["key", "blanks", "text", "function"],
)
def test_the_stats_request_is_the_documented_one(provider: SegOps, said: str) -> None:
    """GET with the slash at the end; the scheme says which kind of key it is."""
    request = provider.stats_request(0.0)
    assert (request.method, request.url, request.body) == ("GET", USAGE, None)
    assert request.headers["Authorization"] == said


def test_every_report_is_an_endpoint(provider: SegOps) -> None:
    """Each asks below /api/analytics/, with the slash; equal questions have equal keys."""
    for name, make in provider.reports.items():
        report = make()
        assert report.ask().url == f"{ORIGIN}/api/analytics/{name}/"
        assert report.key == (name,)
        with pytest.raises(TypeError):
            make("2026-05")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"api_key": None, "token": None},
        {"api_key": KEY, "token": JWT},
        {"api_key": "", "token": JWT},
    ],
    ids=["none", "None", "both", "an empty one beside"],
)
def test_it_wants_one_key(keys: dict[str, Any]) -> None:
    """Either an API key or a JWT; nothing is guessed."""
    with pytest.raises(ConfigError, match="either api_key= or token="):
        SegOps(**keys)


@pytest.mark.parametrize("key", ["", " \n", "schlüssel", "a\nb", 7, b"sk", ["sk"]])
@pytest.mark.parametrize("name", ["api_key", "token"])
def test_a_key_that_no_header_can_carry_is_a_config_error(name: str, key: Any) -> None:
    """It is found when the provider is built."""
    with pytest.raises(ConfigError, match="key"):
        SegOps(**{name: key})
    with pytest.raises(ConfigError, match="key"):
        SegOps(lambda: KEY)  # type: ignore[arg-type] # only token= takes a function


def test_nothing_shows_the_key_or_the_account() -> None:
    """Neither repr nor the account's digest has a secret, and nothing is pickled."""
    handed = SegOps(token=lambda: JWT)
    handed.stats_request()
    for provider in (SegOps(KEY, account="acme-internal"), SegOps(token=JWT), handed):
        assert repr(provider) == "<SegOps api.segops.ai>"
        for shown in (repr(provider), provider.account, repr(provider.stats_request())):
            assert KEY not in shown
            assert JWT not in shown
            assert "acme" not in shown
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(provider, protocol)
        with pytest.raises(TypeError, match="not pickled"):
            copy.deepcopy(provider)


def handed_out() -> str:
    """Hand out a key."""
    return "a"


class Login:
    """Hands out keys as well."""

    def renewed(self) -> str:
        return "a"


def test_an_asynchronous_function_is_told_as_what_it_is() -> None:
    """Nobody awaits it here; and no warning of one that nobody awaited."""

    async def later() -> str:
        return "a"

    with pytest.raises(StatsUnavailable, match="is asynchronous; give a plain one"):
        SegOps(token=later).stats_request()  # type: ignore[arg-type] # that is the mistake


def test_the_account_goes_by_its_name_else_by_the_key() -> None:
    """Keys of a named account share its books; each function is an account of its own."""
    assert SegOps("a", account="acme").account == SegOps(token="b", account="acme").account
    assert SegOps("a").account != SegOps("b").account
    assert SegOps(" a ").account == SegOps("a").account
    assert SegOps(token="a").account != SegOps(token="b").account
    one, other = SegOps(token=handed_out), SegOps(token=lambda: "b")
    assert one.account != other.account  # two tenants, maybe: their plans are not one
    assert one.account == SegOps(token=handed_out).account
    there = SegOps(token=handed_out, base_url="https://cdp.example")
    assert there.account != one.account
    login = Login()
    assert SegOps(token=login.renewed).account == SegOps(token=login.renewed).account
    assert SegOps(token=login.renewed).account != SegOps(token=Login().renewed).account
    assert SegOps(token=lambda: "a", account="acme").account == SegOps("a", account="acme").account
    before = one.account
    one.stats_request()
    assert one.account == before


@pytest.mark.parametrize("account", ["", "  "])
def test_an_empty_account_is_a_config_error(account: str) -> None:
    """An unset variable would put every key into one account."""
    with pytest.raises(ConfigError, match="account"):
        SegOps(KEY, account=account)


@pytest.mark.parametrize(
    ("base_url", "start"),
    [
        (ORIGIN, ORIGIN),
        (f"{ORIGIN}/", ORIGIN),
        (f"{ORIGIN}/api", ORIGIN),
        (f"{ORIGIN}/api/", ORIGIN),
        ("HTTPS://API.SegOps.ai:443", ORIGIN),
        ("https://cdp.example:8443/segops/", "https://cdp.example:8443/segops"),
        ("https://cdp.example/segops/api", "https://cdp.example/segops"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_base_url_is_an_origin_and_what_stands_before_api(base_url: str, start: str) -> None:
    """It may be self-hosted, below a path; slashes at the end and a final /api do not matter."""
    provider = SegOps(KEY, base_url=base_url)
    assert provider.stats_request().url == f"{start}/api/analytics/usage/"
    scheme, _, rest = start.partition("://")
    host, slash, prefix = rest.partition("/")
    for path in (TRACK, BATCH, SEGMENTS):
        place = call(f"{slash}{prefix}{path}", origin=f"{scheme}://{host}")
        assert provider.price(place) is not None


@pytest.mark.parametrize(
    "base_url",
    ["http://api.segops.ai", "https://s3cret@api.segops.ai", "https://api.segops.ai?k=s3cret", ""],
)
def test_base_url_that_would_send_the_key_astray_is_a_config_error(base_url: str) -> None:
    """Only https or loopback, no userinfo, no query; nothing is quoted."""
    with pytest.raises(ConfigError, match="base_url") as caught:
        SegOps(KEY, base_url=base_url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# -------------------------------------------------------------------- choices


def test_choices_turn_what_the_documents_leave_open() -> None:
    """Users as a counter, another reserve of a batch, another place for segments, or none."""
    counted = SegOps(KEY, choices=SegOpsChoices(users="counter", batch=20))
    assert counted.meters["users"].kind == "counter"
    assert counted.operations["events.track_batch"] == {"events": 20}
    assert held(counted, b"") == 20
    elsewhere = SegOps(KEY, choices=SegOpsChoices(segments_path="/api/v2/segments"))
    assert elsewhere.price(call("/api/v2/segments/")) is not None
    assert elsewhere.price(call(SEGMENTS)) is None
    nowhere = SegOps(KEY, choices=SegOpsChoices(segments_path=None))
    assert nowhere.price(call(SEGMENTS)) is None
    assert nowhere.operations["segments.create"] == {"segments": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": "gauge"},
        {"users": None},
        {"batch": 0},
        {"batch": True},
        {"batch": 2.5},
        {"batch": "500"},
        {"pause": -1},
        {"pause": 3601},
        {"pause": float("nan")},
        {"pause": "5"},
        {"pause": True},
        {"segments_path": ""},
        {"segments_path": "/"},
        {"segments_path": "api/segments/"},
        {"segments_path": "https://api.segops.ai/api/segments/"},
        {"segments_path": "/api/segments/?x=1"},
        {"segments_path": 7},
    ],
    ids=str,
)
def test_a_wrong_choice_is_a_config_error(wrong: dict[str, Any]) -> None:
    """It is found when it is written, and names the choice."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SegOpsChoices(**wrong)


@pytest.mark.parametrize("choices", [None, {}, {"batch": 20}])
def test_choices_are_the_record(choices: Any) -> None:
    """A dict with a typo in it would choose nothing, silently."""
    with pytest.raises(ConfigError, match="SegOpsChoices"):
        SegOps(KEY, choices=choices)


# --------------------------------------------------------- a key handed out


class Keys:
    """A function that hands out one key after the other, or raises."""

    def __init__(self, *given: Any) -> None:
        self.given = list(given)
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        one = self.given.pop(0) if len(self.given) > 1 else self.given[0]
        if isinstance(one, BaseException):
            raise one
        return one


def test_a_function_is_asked_when_a_key_is_needed_and_after_a_401() -> None:
    """It is not asked when the provider is built; what it returned is kept meanwhile."""
    keys = Keys("jwt-1", "jwt-2", "jwt-3")
    provider = SegOps(token=keys)
    assert (keys.calls, provider.asks_for_key) == (0, True)
    first, report = provider.stats_request(), provider.reports["overview"]().ask()
    assert (keys.calls, provider.asks_for_key) == (1, False)
    assert first.headers["Authorization"] == report.headers["Authorization"] == "Bearer jwt-1"
    assert first.again is not None
    assert report.again is not None
    second = first.again()
    assert second.headers["Authorization"] == "Bearer jwt-2"
    assert (second.method, second.url, second.again) == ("GET", first.url, None)
    # The report was refused with the same old key: somebody has asked for a new one.
    assert report.again().headers["Authorization"] == "Bearer jwt-2"
    assert keys.calls == 2
    assert provider.stats_request().headers["Authorization"] == "Bearer jwt-2"


def test_a_text_is_asked_for_once() -> None:
    """There is no other key to try, and the event loop need not step aside."""
    for provider in (SegOps(KEY), SegOps(token=JWT)):
        assert provider.stats_request().again is None
        assert not provider.asks_for_key


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (KeyError(JWT), "raised KeyError"),
        (StatsForbidden(JWT), "raised StatsForbidden"),
        ("", "returned no key"),
        ("a\nb", "returned no key"),
        ("schlüssel", "returned no key"),
        (None, "returned no key"),
        (b"jwt", "returned no key"),
    ],
    ids=str,
)
def test_a_function_that_has_no_key_is_a_failed_poll(given: Any, told: str) -> None:
    """Only the class of what it raised is told; the next poll asks it again."""
    keys = Keys(given, "jwt-2")
    provider = SegOps(token=keys)
    with pytest.raises(StatsUnavailable, match=told) as caught:
        provider.stats_request()
    error = caught.value
    assert (error.provider, error.__cause__, error.__context__) == ("segops", None, None)
    assert JWT not in "".join(traceback.format_exception(error))
    assert provider.asks_for_key
    assert provider.stats_request().headers["Authorization"] == "Bearer jwt-2"


def test_a_function_that_fails_later_is_a_failed_poll_too() -> None:
    """After a 401 as well; the key that was refused stays until there is another."""
    provider = SegOps(token=Keys("jwt-1", OSError("vault"), "jwt-3"))
    request = provider.stats_request()
    assert request.again is not None
    with pytest.raises(StatsUnavailable, match="raised OSError"):
        request.again()
    assert request.again().headers["Authorization"] == "Bearer jwt-3"


def test_leaving_the_program_goes_through() -> None:
    """Ctrl-C while the function works is no failed poll."""
    with pytest.raises(KeyboardInterrupt):
        SegOps(token=Keys(KeyboardInterrupt())).stats_request()


# ---------------------------------------------------------------------- price


def held(provider: SegOps, body: bytes | None) -> float:
    """Return the events that a batch reserves."""
    price = provider.price(call(BATCH, body=body))
    assert price is not None
    assert price.operation == "events.track_batch"
    return float(price.cost["events"])


@pytest.mark.parametrize(
    ("path", "operation", "cost"),
    [
        (TRACK, "events.track", {"events": 1}),
        (SEGMENTS, "segments.create", {"segments": 1}),
    ],
)
def test_calls_are_priced_with_their_slash_and_without(
    provider: SegOps, path: str, operation: str, cost: dict[str, int]
) -> None:
    """A slash that is missing does not make a call free; prices are built once."""
    for told in (path, path.rstrip("/")):
        price = provider.price(call(told))
        assert price is not None
        assert (price.operation, price.cost) == (operation, cost)
        assert provider.price(call(told)) is price


@given(count=st.integers(0, 700))
def test_a_batch_reserves_its_length(count: int) -> None:
    """As many events as the body has, even more than the documents allow."""
    assert held(SegOps(KEY), batch(count)) == count


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(None, id="a stream"),
        pytest.param(b"", id="empty"),
        pytest.param(b"[{}, {}]", id="a bare list"),
        pytest.param(b'{"batch": [{}]}', id="another name"),
        pytest.param(b'{"events": {"0": {}}}', id="no list"),
        pytest.param(b'{"events": null}', id="null"),
        pytest.param(b'{"events": [{}], "events": []}', id="twice"),
        pytest.param(b'{"events": [{}]', id="half"),
        pytest.param(b"\x1f\x8b\x08", id="packed"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"events": []' + b" " * LONGEST_READ + b"}", id="too long to read"),
    ],
)
def test_a_batch_that_cannot_be_read_reserves_the_most(
    provider: SegOps, body: bytes | None
) -> None:
    """In doubt it is as large as it may be."""
    assert held(provider, body) == 500


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(call("/api/analytics/usage/", method="GET"), id="the stats call"),
        pytest.param(call(method="GET"), id="another method"),
        pytest.param(call("/api/ingestion/"), id="above"),
        pytest.param(call("/api/ingestion/track/x/"), id="below"),
        pytest.param(call("/api/ingestion/track//"), id="two slashes"),
        pytest.param(call("/api/ingestion/shopify/acme/"), id="a webhook"),
        pytest.param(call("/api/segments/7/", method="DELETE"), id="a segment that goes"),
        pytest.param(call("/API/ingestion/track/"), id="another case"),
        pytest.param(call(""), id="no path"),
        pytest.param(call(origin="https://segops.ai"), id="another host"),
        pytest.param(call(origin="http://api.segops.ai"), id="another scheme"),
        pytest.param(call(origin="https://api.segops.ai:8443"), id="another port"),
        pytest.param(call(origin=""), id="no origin"),
    ],
)
def test_other_calls_pass(provider: SegOps, other: Call) -> None:
    """What no meter counts is not metered."""
    assert provider.price(other) is None
    assert provider.bill(other, answer(202)) == Bill(None)


# -------------------------------------------------------------------- foreign


@pytest.mark.parametrize(
    ("said", "foreign"),
    [
        (None, False),
        (f"ApiKey {KEY}", False),
        (f"apikey  {KEY} ", False),
        ("ApiKey sk_other", True),
        (f"ApiKey {KEY.upper()}", True),
        (f"APIKEY {KEY}x", True),
        ("ApiKey", True),
        ("ApiKey \udcff", True),
        (f"Bearer {JWT}", False),
        (f"Bearer {KEY}", False),
        ("Basic dXNlcg==", False),
        (KEY, False),
        ("", False),
    ],
)
def test_only_another_api_key_is_foreign(
    provider: SegOps, said: str | None, *, foreign: bool
) -> None:
    """A JWT that we do not know counts as ours: they change by the hour."""
    headers = {} if said is None else {"authorization": said}
    assert provider.foreign(call(headers=headers)) is foreign


@pytest.mark.parametrize("token", [JWT, lambda: JWT], ids=["text", "function"])
def test_nothing_is_foreign_to_a_jwt(token: Any) -> None:
    """There is no ApiKey of ours that another one could differ from."""
    provider = SegOps(token=token)
    for said in (f"Bearer {JWT}", "Bearer other", "ApiKey sk_1", "Basic x"):
        assert not provider.foreign(call(headers={"authorization": said}))
    assert provider.key_headers == ("authorization",)


# ----------------------------------------------------------------------- bill


def test_an_event_costs_one(provider: SegOps) -> None:
    """202 at its headers is final; the bill is looked up and not made."""
    bill = provider.bill(call_of("track_202"), outcome_of("track_202", read=False))
    assert bill == Bill({"events": 1})
    assert provider.bill(call(TRACK.rstrip("/")), answer(202)) is bill


def test_a_batch_costs_what_was_queued(provider: SegOps) -> None:
    """The body decides; without it the bill is not final, and holds all."""
    asked = call_of("batch_202")
    assert held(provider, asked.body) == 3
    assert provider.bill(asked, outcome_of("batch_202", read=False)) == Bill(None, wants_body=True)
    assert provider.bill(asked, outcome_of("batch_202")) == Bill({"events": 2})


@given(queued=st.integers(0, 10**15), length=st.integers(0, 20))
def test_all_that_was_queued_is_counted(queued: int, length: int) -> None:
    """More than was reserved, too: they have counted it."""
    said = answer(202, {"queued": queued, "skipped": 0})
    assert SegOps(KEY).bill(call(BATCH, body=batch(length)), said) == Bill({"events": queued})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"OK",
        b"{}",
        b"[2]",
        b'{"queued": true}',
        b'{"queued": null}',
        b'{"queued": "2"}',
        b'{"queued": -1}',
        b'{"queued": 2.5}',
        b'{"queued": 1e400}',
        b'{"queued": 1e16}',
        b'{"queued": 2, "queued": 1}',
        b'{"queued": 2',
    ],
)
def test_a_batch_whose_answer_cannot_be_read_is_unknown(provider: SegOps, raw: bytes) -> None:
    """It stays counted in full until a reading proves otherwise."""
    assert provider.bill(call(BATCH), answer(202, raw=raw)) == Bill(None)


def test_a_segment_costs_one(provider: SegOps) -> None:
    """201, or the 200 of those who do it another way; it is a level, and never given back."""
    made = Bill({"segments": 1})
    assert provider.bill(call_of("segment_201"), outcome_of("segment_201", read=False)) == made
    assert provider.bill(call(SEGMENTS), answer(200)) == made


PRICED = (TRACK, BATCH, SEGMENTS)


@pytest.mark.parametrize("path", PRICED)
@pytest.mark.parametrize(
    "status", [301, 302, 307, 308, 400, 401, 402, 403, 404, 405, 409, 413, 415, 418, 422, 499]
)
def test_refused_calls_are_free(provider: SegOps, path: str, status: int) -> None:
    """400 names the field, 401 the key, 403 a role or a plan; a redirect leads elsewhere."""
    assert provider.bill(call(path), answer(status)) == Bill({})


@pytest.mark.parametrize("path", PRICED)
@pytest.mark.parametrize("status", [100, 203, 204, 206, 299, 500, 502, 503, 504, 520, 999, 0])
def test_what_nobody_documents_is_unknown(provider: SegOps, path: str, status: int) -> None:
    """It stays counted until a reading proves otherwise."""
    assert provider.bill(call(path), answer(status, raw=b'{"queued": 1}')) == Bill(None)


def test_a_200_to_an_event_is_unknown(provider: SegOps) -> None:
    """Documented is 202: whoever answers 200 may be a page in between."""
    for path in (TRACK, BATCH):
        assert provider.bill(call(path), answer(200, {"queued": 1})) == Bill(None)


def test_503_pauses_as_it_says(provider: SegOps) -> None:
    """What it cost is unknown all the same."""
    bill = provider.bill(call(), answer(503, retry_after="7"))
    assert bill == Bill(None, (Evidence("pause", seconds=7.0),))


# ------------------------------------------------------------------- evidence


def test_429_pauses_and_asks_for_a_reading(provider: SegOps) -> None:
    """The same for the minute's rate and for the month; it costs nothing."""
    for name in ("track_429",):
        bill = provider.bill(call_of(name), outcome_of(name, read=False))
        assert bill == Bill({}, (Evidence("pause", seconds=30.0), DOUBT))


@pytest.mark.parametrize("path", PRICED)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 2.5 "}, 2.5),
        ({"retry_after": "3600"}, 60.0),
        ({"retry_after": "1209600"}, 60.0),
        ({"retry_after": "9999999999"}, 60.0),
        ({"retry_after": "Fri, 20 Nov 2026 10:00:30 GMT"}, 5.0),
        (
            {
                "retry_after": "Fri, 20 Nov 2026 10:00:30 GMT",
                "date": "Fri, 20 Nov 2026 10:00:00 GMT",
            },
            30.0,
        ),
        ({}, 5.0),
        ({"retry_after": "0"}, 5.0),
        ({"retry_after": "-1"}, 5.0),
        ({"retry_after": "nan"}, 5.0),
        ({"retry_after": "1e9"}, 5.0),
        ({"retry_after": ""}, 5.0),
        ({"retry_after": "soon"}, 5.0),
    ],
    ids=str,
)
def test_a_pause_is_a_sane_number_of_seconds(
    provider: SegOps, path: str, headers: dict[str, str], seconds: float
) -> None:
    """As long as Retry-After says, at most a minute; short where it does not say."""
    bill = provider.bill(call(path), answer(429, raw=b"", **headers))
    assert bill == Bill({}, (Evidence("pause", seconds=seconds), DOUBT))


@pytest.mark.parametrize(("pause", "evidence"), [(0, (DOUBT,)), (60, None)])
def test_the_pause_without_retry_after_is_a_choice(
    pause: float, evidence: tuple[Evidence, ...] | None
) -> None:
    """0 is none at all: only the reading is asked for."""
    provider = SegOps(KEY, choices=SegOpsChoices(pause=pause))
    expected = (Evidence("pause", seconds=60), DOUBT) if evidence is None else evidence
    assert provider.bill(call(), answer(429)).evidence == expected
    told = provider.bill(call(), answer(429, retry_after="3"))
    assert told.evidence == (Evidence("pause", seconds=3.0), DOUBT)


# ----------------------------------------------------------------- read_stats


def test_the_documented_example_is_read(provider: SegOps) -> None:
    """Every number of the vendor's own example."""
    reading = provider.read_stats(outcome_of("usage_documented"))
    assert reading.usages == {
        "events": Usage(48200, 100000),
        "users": Usage(12400, 20000),
        "segments": Usage(8, 10),
        "ai_credits": Usage(34, 100),
    }
    assert reading.extra == {"plan_name": "Starter", "plan_tier": "starter"}
    assert reading.period.starts_at == datetime(2026, 5, 1, tzinfo=UTC)
    assert reading.period.ends_at == datetime(2026, 6, 1, tzinfo=UTC)
    assert reading.period.skew == BARE_DATE_SKEW == 14 * 3600


def test_minus_one_is_unlimited(provider: SegOps) -> None:
    """As documented, for every meter."""
    reading = provider.read_stats(outcome_of("usage_unlimited"))
    assert {name: usage.limit for name, usage in reading.usages.items()} == dict.fromkeys(METERS)
    assert reading.usages["events"] == Usage(9182000, None)
    assert not any(usage.exhausted for usage in reading.usages.values())
    assert read(provider, usage(used=1, limit=-1.0)).usages["events"] == Usage(1, None)


def test_zero_is_nothing_included(provider: SegOps) -> None:
    """Never unlimited; and what is at its limit is exhausted."""
    usages = provider.read_stats(outcome_of("usage_at_limit")).usages
    assert usages["ai_credits"] == Usage(0, 0)
    assert {name for name, one in usages.items() if one.exhausted} == {
        *("events", "segments", "ai_credits"),
    }


@given(day=st.dates(date(1000, 1, 1), date(9999, 12, 30)), length=st.integers(0, 400))
def test_both_dates_are_inclusive(day: date, length: int) -> None:
    """The period ends where the day after its last day begins."""
    try:
        last = day + timedelta(length)
        after = last + timedelta(1)
    except OverflowError:
        return
    said = usage() | {"period_start": str(day), "period_end": str(last)}
    period = read(SegOps(KEY), said).period
    assert period.ends_at == datetime(after.year, after.month, after.day, tzinfo=UTC)
    assert period.length == (length + 1) * 86_400


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, None),
        ("2026-05-01", None),
        ("2026-05-01", "soon"),
        ("2026-05-02", "2026-04-30"),
        ("2026-05-01", 20260531),
        (20260501, "2026-05-31"),
        ([], "2026-05-31"),
        ("", ""),
        ("2026-05-01", "2026-02-30"),
        ("2026-05-01", "9999-12-31"),
        ("0001-01-01T00:00:00+14:00", "2026-05-31"),
        ("2026-05-01", "9999-12-31T23:59:59-23:00"),
    ],
)
def test_a_broken_period_leaves_the_counts_valid(
    provider: SegOps, start: object, end: object
) -> None:
    """The end is unknown, which is noted; what was counted is counted."""
    said = usage() | {"period_start": start, "period_end": end}
    reading = read(provider, said)
    assert reading.period.end is None
    assert reading.extra["unreadable"] == ("period_end",)
    assert set(reading.usages) == set(METERS)
    del said["period_start"], said["period_end"]
    assert read(provider, said).extra["unreadable"] == ("period_end",)


def test_a_start_that_is_not_told_costs_no_end(provider: SegOps) -> None:
    """The end alone says when the count starts again."""
    period = read(provider, usage() | {"period_start": None}).period
    assert (period.start, period.ends_at) == (None, datetime(2026, 6, 1, tzinfo=UTC))


BROKEN: dict[str, object] = {
    "null": None,
    "a number": 12,
    "an array": [12],
    "no used": {"limit": 10},
    "used null": {"used": None, "limit": 10},
    "used true": {"used": True, "limit": 10},
    "used text": {"used": "12", "limit": 10},
    "used negative": {"used": -1, "limit": 10},
    "used fractional": {"used": 12.5, "limit": 10},
    "used absurd": {"used": 10**15 + 1, "limit": -1},
    "no limit": {"used": 12},
    "limit null": {"used": 12, "limit": None},
    "limit true": {"used": 12, "limit": True},
    "limit text": {"used": 12, "limit": "-1"},
    "limit in words": {"used": 12, "limit": "unlimited"},
    "limit -2": {"used": 12, "limit": -2},
    "limit -1.5": {"used": 12, "limit": -1.5},
    "limit -100": {"used": 12, "limit": -100},
    "limit fractional": {"used": 12, "limit": 99.5},
    "limit absurd": {"used": 12, "limit": 10**30},
}


@pytest.mark.parametrize("metric", BROKEN.values(), ids=BROKEN)
def test_a_broken_metric_is_left_out_and_the_good_ones_apply(
    provider: SegOps, metric: object
) -> None:
    """Left out is unknown, never unlimited; it is noted."""
    for name in METERS:
        reading = read(provider, usage() | {name: metric})
        assert set(reading.usages) == set(METERS) - {name}
        assert reading.extra["unreadable"] == (name,)
        assert reading.period.end is not None


def test_a_missing_metric_is_left_out(provider: SegOps) -> None:
    """A plan without a metric says nothing of it."""
    said = usage()
    del said["ai_credits"]
    reading = read(provider, said)
    assert set(reading.usages) == {"events", "users", "segments"}
    assert reading.extra["unreadable"] == ("ai_credits",)


def test_unknown_fields_are_kept(provider: SegOps) -> None:
    """In the answer, and in a metric."""
    said = usage(used=12, limit=10, soft=True) | {"seats": {"used": 1}}
    reading = read(provider, said)
    assert reading.usages["events"] == Usage(12, 10)
    assert reading.usages["events"].extra == {"soft": True}
    assert reading.extra == {
        "plan_name": "Starter",
        "plan_tier": "starter",
        "seats": {"used": 1},
    }


UNREADABLE: dict[str, tuple[bytes | None, str]] = {
    "not read": (None, "the answer"),
    "empty": (b"", "the answer"),
    "html": (b"<html>please log in</html>", "the answer"),
    "truncated": (json.dumps(usage()).encode()[:-3], "the answer"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(usage()).encode(), "the answer"),
    "utf-16": (json.dumps(usage()).encode("utf-16"), "the answer"),
    "array": (b"[]", "the answer"),
    "scalar": (b"12", "the answer"),
    "null": (b"null", "the answer"),
    "nesting": (b"[" * 100_000, "the answer"),
    "not a number": (json.dumps(usage(used=float("nan"))).encode(), "the answer"),
    "overflow": (json.dumps(usage(used="?")).encode().replace(b'"?"', b"1e400"), "the answer"),
    "5,000 digits": (
        json.dumps(usage(used="?")).encode().replace(b'"?"', b"9" * 5000),
        "the answer",
    ),
    "same key twice": (
        json.dumps(usage()).encode().replace(b'"limit"', b'"used"'),
        "the answer",
    ),
    "no metrics": (b'{"plan_name": "log in"}', "events"),
    "every metric broken": (json.dumps(usage()).encode().replace(b'"used"', b'"u"'), "events.used"),
}


@pytest.mark.parametrize(("body", "path"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_reading_names_the_path_it_looked_for(
    provider: SegOps, body: bytes | None, path: str
) -> None:
    """The old reading stays in use; nothing of the body shows."""
    with pytest.raises(StatsUnreadable, match=f"looked for {path} in") as caught:
        provider.read_stats(Outcome(200, {"x-request-id": "req-1"}, body))
    error = caught.value
    assert error.path == path
    assert (error.provider, error.status, error.request_id) == ("segops", 200, "req-1")
    assert error.__cause__ is None
    assert "log in" not in "".join(traceback.format_exception(error))


# --------------------------------------------------------------------- errors


def failure(provider: SegOps, outcome: Outcome) -> ProviderError:
    """Return the error in an answer."""
    with pytest.raises(ProviderError) as caught:
        provider.read_stats(outcome)
    return caught.value


def test_an_expired_jwt_is_forbidden_with_its_code(provider: SegOps) -> None:
    """The code is told, their words are not."""
    error = failure(provider, outcome_of("usage_401_expired"))
    assert type(error) is StatsForbidden
    assert (error.status, error.code) == (401, "token_not_valid")
    assert "expired" not in str(error)


def test_a_role_or_a_plan_is_forbidden(provider: SegOps) -> None:
    """403, whatever stands in the body."""
    error = failure(provider, outcome_of("usage_403_role"))
    assert type(error) is StatsForbidden
    assert "role or the plan" in str(error)
    for raw in (None, b"", b"<html>"):
        assert type(failure(provider, answer(403, raw=raw))) is StatsForbidden


def test_404_in_their_words_is_no_subscription(provider: SegOps) -> None:
    """As documented for the usage endpoint."""
    error = failure(provider, outcome_of("usage_no_subscription"))
    assert type(error) is NoSubscription
    assert error.status == 404


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"<h1>Not Found</h1>",
        b"[]",
        b"{}",
        b'{"message": "no route"}',
        b'{"detail": null}',
    ],
    ids=repr,
)
def test_404_of_somebody_else_is_unavailable(provider: SegOps, raw: bytes | None) -> None:
    """A wrong path, or a proxy: it says nothing of the subscription, the books stay."""
    error = failure(provider, answer(404, raw=raw))
    assert type(error) is StatsUnavailable
    assert error.status == 404


@pytest.mark.parametrize(
    "status",
    [204, 206, 301, 302, 307, 400, 402, 405, 408, 410, 418, 429, 500, 502, 503, 504, 520, 0],
)
def test_other_statuses_are_unavailable(provider: SegOps, status: int) -> None:
    """Even with a perfect body: an error page is no reading."""
    error = failure(provider, answer(status, usage()))
    assert type(error) is StatsUnavailable
    assert error.status == status
    assert str(status) in str(error)


def test_a_throttled_poll_tells_when_to_ask_again(provider: SegOps) -> None:
    """The polls wait as long as they are asked to."""
    error = failure(provider, outcome_of("usage_429"))
    assert (type(error), error.retry_after) == (StatsUnavailable, 12.0)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("token_not_valid", "token_not_valid"),
        (f"bad-{KEY}", None),
        ("a b", None),
        ("x" * 81, None),
        (7, None),
        (None, None),
        (["a"], None),
    ],
)
def test_a_code_is_a_plain_word_or_not_told(
    provider: SegOps, said: object, told: str | None
) -> None:
    """It helps their support; it never carries the key or breaks a log line."""
    error = failure(provider, answer(401, {"detail": f"no {KEY}", "code": said}))
    assert error.code == told
    assert KEY not in str(error)


def test_a_request_id_that_holds_the_key_is_not_told() -> None:
    """Nor one that holds what a function handed out."""
    handed = SegOps(token=lambda: JWT)
    handed.stats_request()
    for provider, key in ((SegOps(KEY), KEY), (handed, JWT)):
        assert failure(provider, answer(500, x_request_id=f"for-{key}")).request_id is None
        assert failure(provider, answer(500, x_request_id="9f-77")).request_id == "9f-77"


# ----------------------------------------------------------------------- laws

EXAMPLES = max(300, settings.default.max_examples if settings.default else 0)
"""By default; the soak profile asks for more."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([-2, -1, 0, 1, 10**15, 10**15 + 1, 2**63, 1e400, "2026-11-01", "unlimited"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*METERS, "used", "limit", "period_end", "queued", "detail", "code"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BYTES = st.none() | st.binary(max_size=48) | JSON.map(lambda said: json.dumps(said).encode())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a good answer with a few members replaced or dropped."""
    said = usage()
    for _ in range(draw(st.integers(1, 5))):
        place = said
        name = draw(st.sampled_from(sorted(said)))
        if isinstance(said[name], dict) and said[name] and draw(st.booleans()):
            place, name = said[name], draw(st.sampled_from(sorted(said[name])))
        if draw(st.booleans()):
            place[name] = draw(JSON)
        else:
            del place[name]
        if not said:
            break
    return json.dumps(said).encode()


def check_stats(provider: SegOps, outcome: Outcome) -> None:
    """Read *outcome*; only a ProviderError or a sound reading may come of it."""
    try:
        reading = provider.read_stats(outcome)
    except ProviderError as error:
        said = str(error)
    else:
        said = repr(reading)
        assert outcome.status == 200
        check_reading(reading)
    assert KEY not in said


def check_reading(reading: Reading) -> None:
    """Find *reading* sound: whole counts, dates that can be shown, nothing dropped unsaid."""
    assert reading.usages
    for one in reading.usages.values():
        assert type(one.used) is int
        assert 0 <= one.used <= 10**15
        assert one.limit is None or (type(one.limit) is int and 0 <= one.limit <= 10**15)
    json.dumps([dict(reading.extra), [dict(one.extra) for one in reading.usages.values()]])
    assert isinstance(reading.period.starts_at, datetime | None)
    assert isinstance(reading.period.ends_at, datetime | None)
    noted = set(reading.extra.get("unreadable", ()))
    assert noted - {"period_end"} == set(METERS) - set(reading.usages)
    assert ("period_end" in noted) == (reading.period.end is None)


@settings(max_examples=EXAMPLES)
@given(status=st.just(200) | st.integers(0, 999), body=BYTES, header=st.text(max_size=12))
def test_reading_stats_raises_nothing_but_provider_errors(
    status: int, body: bytes | None, header: str
) -> None:
    """Whatever the status, the bytes and the headers are."""
    headers = dict.fromkeys(("retry-after", "x-request-id", "date"), header)
    check_stats(SegOps(KEY), Outcome(status, headers, body))


@settings(max_examples=EXAMPLES)
@given(body=mutated())
def test_a_mutated_answer_is_a_sound_reading_or_a_provider_error(body: bytes) -> None:
    """Every count that is read is a whole number from 0, every limit that or None."""
    check_stats(SegOps(KEY), Outcome(200, {}, body))


@settings(max_examples=EXAMPLES)
@given(
    limit=JSON,
    used=st.integers(0, 10**15),
)
def test_only_minus_one_is_unlimited(limit: Any, used: int) -> None:
    """No other value of a limit, whatever it is, opens a meter for ever."""
    body = json.dumps(usage(used=used, limit=limit)).encode()
    try:
        one = SegOps(KEY).read_stats(Outcome(200, {}, body)).usages.get("events")
    except ProviderError:
        return
    if one is not None and one.limit is None:
        assert limit == -1
        assert not isinstance(limit, bool)


@settings(max_examples=EXAMPLES)
@given(
    path=st.sampled_from([*PRICED, "/api/other/"]),
    status=st.sampled_from([200, 201, 202, 400, 401, 403, 404, 429, 500, 503])
    | st.integers(0, 999),
    asked=BYTES,
    body=BYTES,
    header=st.text(max_size=12),
)
def test_billing_never_raises_and_prices_are_bounded(
    path: str, status: int, asked: bytes | None, body: bytes | None, header: str
) -> None:
    """A bill is unknown or whole units of its meter, and a pause is at most an hour."""
    provider = SegOps(KEY)
    one = call(path, body=asked, headers={"authorization": header})
    headers = dict.fromkeys(("retry-after", "date"), header)
    bill = provider.bill(one, Outcome(status, headers, body))
    assert isinstance(provider.foreign(one), bool)
    price = provider.price(one)
    assert (price is None) == (path not in PRICED)
    for name, spent in (bill.cost or {}).items():
        assert price is not None
        assert name in price.cost
        assert type(spent) is int
        assert 0 <= spent <= 10**15
    for evidence in bill.evidence:
        assert 0 <= evidence.seconds <= 3600
        assert evidence.kind in ("pause", "doubt")
    assert not bill.deferred
    if body is not None:
        assert not bill.wants_body
