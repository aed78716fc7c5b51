"""FullContact: what its stats, its prices and its answers mean."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotaguard.errors import (
    ConfigError,
    ProviderError,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
)
from quotaguard.providers import Provider
from quotaguard.providers.fullcontact import FullContact
from quotaguard.quota.calls import Bill, Call, Evidence, Outcome
from quotaguard.quota.readings import BARE_DATE_SKEW, PERIOD_SKEW, Reading, Usage

KEY = "fc-canary-5f2d"
ORIGIN = "https://api.fullcontact.com"
PERSON = "person.enrichment"
COMPANY = "company.enrichment"
RECORDED = Path(__file__).parent / "recorded"

MATCH = {f"{PERSON}.matches": 1, f"{PERSON}.misses": 0, f"{PERSON}.total": 1}
MISS = {f"{PERSON}.misses": 1, f"{PERSON}.total": 1}


@pytest.fixture
def provider() -> FullContact:
    """Return a provider of the real origin."""
    return FullContact(KEY)


def recorded(name: str) -> dict[str, Any]:
    """Return one recorded exchange."""
    exchange: dict[str, Any] = json.loads((RECORDED / f"fullcontact_{name}.json").read_text())
    return exchange


def lower(headers: dict[str, str]) -> dict[str, str]:
    """Return *headers* as a `Call` and an `Outcome` tell them."""
    return {name.lower(): value.replace("{key}", KEY) for name, value in headers.items()}


def call_of(name: str) -> Call:
    """Return the recorded request as a call."""
    request = recorded(name)["request"]
    path = request["url"].removeprefix(ORIGIN)
    return Call(
        request["method"],
        ORIGIN,
        path,
        lower(request["headers"]),
        json.dumps(request["json"]).encode(),
    )


def outcome_of(name: str, *, read: bool = True) -> Outcome:
    """Return the recorded answer, with its body or at its headers."""
    answer = recorded(name)["response"]
    body = json.dumps(answer["json"]).encode() if read else None
    return Outcome(answer["status"], lower(answer["headers"]), body)


def enrich(
    path: str = "/v3/person.enrich",
    *,
    method: str = "POST",
    origin: str = ORIGIN,
    headers: dict[str, str] | None = None,
    body: bytes | None = b'{"email": "a@example.com"}',
) -> Call:
    """Return a call that enriches a person, or nearly so."""
    return Call(method, origin, path, headers or {}, body)


def answer(
    status: int, body: object = None, *, raw: bytes | None = None, **headers: str
) -> Outcome:
    """Return an answer; header names with underscores for hyphens."""
    said = raw if body is None else json.dumps(body).encode()
    return Outcome(status, {name.replace("_", "-"): text for name, text in headers.items()}, said)


def stats(**matches: object) -> dict[str, Any]:
    """Return the documented stats answer, its person matches replaced where given."""
    said: dict[str, Any] = recorded("stats_documented")["response"]["json"]
    if matches:
        said["stats"]["person"]["enrichment"]["matches"] = matches
    return said


def read(provider: FullContact, said: object) -> Reading:
    """Return the reading of a 200 with *said* in it."""
    return provider.read_stats(answer(200, said))


def matches_of(provider: FullContact, **matches: object) -> Usage | None:
    """Return how the person matches of an otherwise good answer are read."""
    return read(provider, stats(**matches)).usages.get(f"{PERSON}.matches")


# ------------------------------------------------------------------- identity


def test_it_is_a_provider(provider: FullContact) -> None:
    """The guard's Protocol is what it offers; every name in a cost is a meter."""
    checked: Provider = provider
    assert checked.name == "fullcontact"
    assert checked.polls_per_hour == 30
    assert set(checked.meters) == {
        f"{PERSON}.matches",
        f"{PERSON}.misses",
        f"{PERSON}.total",
        "person.subscriptions",
        f"{COMPANY}.matches",
        f"{COMPANY}.misses",
        f"{COMPANY}.total",
    }
    assert {(meter.kind, meter.scale) for meter in checked.meters.values()} == {("counter", 1)}
    assert all(name == meter.name for name, meter in checked.meters.items())
    assert set(checked.operations) == {"person.enrich", "company.enrich"}
    assert all(set(cost) <= set(checked.meters) for cost in checked.operations.values())


def test_operations_reserve_the_most_that_each_meter_may_be_charged(provider: FullContact) -> None:
    """A call may match or miss, so both are held until it is known."""
    assert provider.operations["person.enrich"] == {
        f"{PERSON}.matches": 1,
        f"{PERSON}.misses": 1,
        f"{PERSON}.total": 1,
    }
    assert provider.operations["company.enrich"] == {
        f"{COMPANY}.matches": 1,
        f"{COMPANY}.misses": 1,
        f"{COMPANY}.total": 1,
    }


def test_the_stats_request_is_the_documented_one(provider: FullContact) -> None:
    """POST with the key as bearer, JSON, both categories; stats.py adds the rest."""
    request, documented = provider.stats_request(), recorded("stats_documented")["request"]
    assert (request.method, request.url) == (documented["method"], documented["url"])
    assert lower(dict(request.headers)) == lower(documented["headers"])
    assert json.loads(request.body or b"") == documented["json"]


def test_nothing_shows_the_key_or_the_account() -> None:
    """Neither repr nor the account's digest has a secret, and nothing is pickled."""
    provider = FullContact(KEY, account="acme-internal")
    assert repr(provider) == "<FullContact api.fullcontact.com>"
    assert repr(FullContact(KEY, base_url="http://127.0.0.1:8080/t0ken")) == (
        "<FullContact 127.0.0.1:8080>"
    )
    for shown in (repr(provider), provider.account, repr(provider.stats_request())):
        assert KEY not in shown
        assert "acme" not in shown
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(provider, protocol)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(provider)


def test_the_account_goes_by_its_name_else_by_the_key() -> None:
    """Keys that share a named account share its books; blanks around a key do not matter."""
    assert FullContact("a", account="acme").account == FullContact("b", account="acme").account
    assert FullContact("a").account != FullContact("b").account
    assert FullContact(" a ").account == FullContact("a").account
    assert FullContact(" a ").stats_request().headers["Authorization"] == "Bearer a"


@pytest.mark.parametrize("account", ["", "  "])
def test_an_empty_account_is_a_config_error(account: str) -> None:
    """An unset variable would put every key into one account."""
    with pytest.raises(ConfigError, match="account"):
        FullContact(KEY, account=account)


@pytest.mark.parametrize("key", ["", " \n", "schlüssel", "a\nb", None, 7])
def test_a_key_that_no_header_can_carry_is_a_config_error(key: Any) -> None:
    """It is found when the provider is built."""
    with pytest.raises(ConfigError, match="key"):
        FullContact(key)


# ------------------------------------------------------------------- base_url


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (ORIGIN, "https://api.fullcontact.com/v3/stats.get"),
        (f"{ORIGIN}/", "https://api.fullcontact.com/v3/stats.get"),
        (f"{ORIGIN}/v3", "https://api.fullcontact.com/v3/stats.get"),
        (f"{ORIGIN}/v3//", "https://api.fullcontact.com/v3/stats.get"),
        ("HTTPS://API.FullContact.com:443", "https://api.fullcontact.com/v3/stats.get"),
        ("https://proxy.example:8443/fc/", "https://proxy.example:8443/fc/v3/stats.get"),
        ("https://proxy.example/fc/v3/", "https://proxy.example/fc/v3/stats.get"),
        ("https://proxy.example/fcv3", "https://proxy.example/fcv3/v3/stats.get"),
        ("http://localhost:8000", "http://localhost:8000/v3/stats.get"),
        ("http://127.9.0.1:80", "http://127.9.0.1/v3/stats.get"),
        ("http://[::1]:8000", "http://[::1]:8000/v3/stats.get"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]/v3/stats.get"),
    ],
)
def test_base_url_is_an_origin_and_what_stands_before_v3(base_url: str, url: str) -> None:
    """Slashes at the end, a final /v3, default ports and case do not matter."""
    provider = FullContact(KEY, base_url=base_url)
    assert provider.stats_request().url == url
    origin, slashes, rest = url.partition("://")
    host, _, path = rest.partition("/")
    call = enrich(f"/{path.replace('stats.get', 'person.enrich')}", origin=origin + slashes + host)
    assert provider.price(call) is not None


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.fullcontact.com",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://10.0.0.1",
        "http://[fe80::1%25eth0]",
        "https://[fe80::1%25eth0]",
        "ftp://localhost",
        "api.fullcontact.com",
        "//api.fullcontact.com",
        "https://",
        "https:///v3",
        "https://:443",
        "https://s3cret@api.fullcontact.com",
        "https://user:s3cret@api.fullcontact.com",
        "https://api.fullcontact.com:s3cret",
        "https://api.fullcontact.com:99999",
        "https://api.fullcontact.com?k=s3cret",
        "https://api.fullcontact.com/?",
        "https://api.fullcontact.com/#",
        "https://api.fullcontact.com\\@s3cret.example",
        "https://api.full\tcontact.com",
        "https://api.fullcontact.com/a b",
        "https://api.fullcontact.com/a/../b",
        "https://api.fullcontact.com//v3",
        "https://[::1",
        "https://a,b",
        "https://bücher.example",
        "",
        None,
    ],
)
def test_base_url_that_would_send_the_key_astray_is_a_config_error(base_url: Any) -> None:
    """Only https or loopback, no userinfo, query or fragment, and a host; nothing is quoted."""
    with pytest.raises(ConfigError, match="base_url") as caught:
        FullContact(KEY, base_url=base_url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# ---------------------------------------------------------------------- price


def test_enrichment_is_priced(provider: FullContact) -> None:
    """POST on the provider's own origin; a slash at the end does not make it free."""
    for operation in ("person.enrich", "company.enrich"):
        for path in (f"/v3/{operation}", f"/v3/{operation}/"):
            price = provider.price(enrich(path))
            assert price is not None
            assert price.operation == operation
            assert price.cost == provider.operations[operation]


def test_prices_are_built_once(provider: FullContact) -> None:
    """The price of a call is looked up and not made."""
    assert provider.price(enrich()) is provider.price(enrich())


def test_the_query_is_ignored(provider: FullContact) -> None:
    """The official client puts headers into the query; a call's path is without it."""
    url = "https://api.fullcontact.com/v3/person.enrich?Reporting-Key=x"
    assert provider.price(enrich(url.removeprefix(ORIGIN).partition("?")[0])) is not None


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(enrich("/v3/stats.get"), id="the stats call"),
        pytest.param(enrich(method="GET"), id="another method"),
        pytest.param(enrich("/v3/company.search"), id="an operation without a metric"),
        pytest.param(enrich("/v3/person.enrich/x"), id="below it"),
        pytest.param(enrich("/V3/person.enrich"), id="another path"),
        pytest.param(enrich("/v2/person.json"), id="v2"),
        pytest.param(enrich("/person.enrich"), id="no version"),
        pytest.param(enrich(""), id="no path"),
    ],
)
def test_other_calls_pass(provider: FullContact, call: Call) -> None:
    """What no metric counts is not metered."""
    assert provider.price(call) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://fullcontact.com",
        "https://api.fullcontact.com.example",
        "https://api.fullcontact.com:8443",
        "http://api.fullcontact.com",
        "https://me.example",
        "",
    ],
)
def test_other_hosts_pass(provider: FullContact, origin: str) -> None:
    """The origin must be the provider's own, scheme and port included."""
    assert provider.price(enrich(origin=origin)) is None


# -------------------------------------------------------------------- foreign


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        pytest.param({}, False, id="no key at all"),
        pytest.param({"authorization": f"Bearer {KEY}"}, False, id="own"),
        pytest.param({"authorization": f"bearer  {KEY}"}, False, id="own, lower case"),
        pytest.param({"authorization": f"BEARER {KEY} "}, False, id="own, upper case"),
        pytest.param({"authorization": "Bearer other"}, True, id="another"),
        pytest.param({"authorization": f"Bearer {KEY.upper()}"}, True, id="the case of a key"),
        pytest.param({"authorization": f"Bearer {KEY}x"}, True, id="longer"),
        pytest.param({"authorization": f"Basic {KEY}"}, True, id="another scheme"),
        pytest.param({"authorization": KEY}, True, id="no scheme"),
        pytest.param({"authorization": ""}, True, id="empty"),
        pytest.param({"authorization": "Bearer"}, True, id="scheme only"),
        pytest.param({"authorization": "Bearer \udcff"}, True, id="no text"),
    ],
)
def test_a_call_with_another_key_is_foreign(
    provider: FullContact, headers: dict[str, str], *, foreign: bool
) -> None:
    """A key that is there and not ours spends from somebody else's account."""
    assert provider.foreign(enrich(headers=headers)) is foreign


def test_a_legacy_key_header_counts_where_it_stands_alone(provider: FullContact) -> None:
    """v2's X-FullContact-APIKey says whose call it is, unless a bearer does."""
    legacy = "x-fullcontact-apikey"
    assert provider.foreign(enrich(headers={legacy: "other"}))
    assert not provider.foreign(enrich(headers={legacy: KEY}))
    both = {legacy: "other", "authorization": f"Bearer {KEY}"}
    assert not provider.foreign(enrich(headers=both))
    assert set(both) == set(provider.key_headers)


# ----------------------------------------------------------------------- bill


def test_a_match_costs_one_match(provider: FullContact) -> None:
    """200 is a match: one match and one request, and the miss held is given back."""
    assert provider.bill(call_of("enrich_200"), outcome_of("enrich_200", read=False)) == Bill(MATCH)


def test_a_miss_costs_no_match(provider: FullContact) -> None:
    """404 is a miss: it has a metric of its own, and no match is spent."""
    bill = provider.bill(call_of("enrich_404_miss"), outcome_of("enrich_404_miss", read=False))
    assert bill == Bill(MISS)


def test_a_company_is_billed_on_its_own_meters(provider: FullContact) -> None:
    """company.enrich never touches the person's metrics."""
    bill = provider.bill(enrich("/v3/company.enrich"), answer(200))
    assert bill.cost == {f"{COMPANY}.matches": 1, f"{COMPANY}.misses": 0, f"{COMPANY}.total": 1}
    assert provider.bill(enrich("/v3/company.enrich/"), answer(404)).cost == {
        f"{COMPANY}.misses": 1,
        f"{COMPANY}.total": 1,
    }


def test_bills_of_hot_answers_are_built_once(provider: FullContact) -> None:
    """A match and a miss are looked up and not made."""
    for status in (200, 404):
        first, second = (provider.bill(enrich(), answer(status)) for _ in range(2))
        assert first is second


def test_202_without_a_webhook_spends_nothing(provider: FullContact) -> None:
    """Queued: the application asks again, and that call is billed."""
    bill = provider.bill(call_of("enrich_202_queued"), outcome_of("enrich_202_queued", read=False))
    assert bill == Bill({})
    for absent in (b'{"webhookUrl": null}', b'{"webhookUrl": ""}', b"{}"):
        assert provider.bill(enrich(body=absent), answer(202)) == Bill({})


def test_202_with_a_webhook_is_deferred(provider: FullContact) -> None:
    """The match is billed later, without an answer to us."""
    bill = provider.bill(
        call_of("enrich_202_webhook"), outcome_of("enrich_202_webhook", read=False)
    )
    assert bill == Bill(None, deferred=True)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(None, id="a stream"),
        pytest.param(b"", id="arguments in the query"),
        pytest.param(b"email=a%40example.com", id="a form"),
        pytest.param(b'[{"email": "a@example.com"}]', id="an array"),
        pytest.param(b'{"webhookUrl": "", "webhookUrl": "https://me.example"}', id="both"),
        pytest.param(b'{"webhookUrl": ["https://me.example"]}', id="an odd type"),
        pytest.param(b'{"\\u0077ebhookUrl": "https://me.example"}', id="escaped"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_202_to_a_call_that_may_have_named_a_webhook_is_deferred(
    provider: FullContact, body: bytes | None
) -> None:
    """In doubt it is billed."""
    assert provider.bill(enrich(body=body), answer(202)) == Bill(None, deferred=True)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 405, 410, 418, 422, 451])
def test_refused_calls_are_free(provider: FullContact, status: int) -> None:
    """Client errors cost nothing, and a redirect is priced where it leads."""
    assert provider.bill(enrich(), answer(status)) == Bill({})


@pytest.mark.parametrize("status", [100, 201, 204, 206, 299, 500, 502, 504, 520, 599, 999, 0])
def test_what_nobody_documents_is_unknown(provider: FullContact, status: int) -> None:
    """It stays counted until a reading proves otherwise."""
    assert provider.bill(enrich(), answer(status)) == Bill(None)


def test_503_is_free_and_pauses_as_it_says(provider: FullContact) -> None:
    """Documented as passing, with Retry-After."""
    bill = provider.bill(call_of("enrich_503"), outcome_of("enrich_503", read=False))
    assert bill == Bill({}, (Evidence("pause", seconds=5.0),))
    assert provider.bill(enrich(), answer(503)) == Bill({})


def test_an_unpriced_call_is_unknown(provider: FullContact) -> None:
    """Whoever reserved for it by hand knows the price; the answer does not."""
    assert provider.bill(enrich("/v3/company.search"), answer(200)) == Bill(None)


# ------------------------------------------------------------------- evidence


@pytest.mark.parametrize("status", [402, 403, 429])
def test_a_worded_refusal_wants_its_body(provider: FullContact, status: int) -> None:
    """At the headers it is free but not final; read and empty it says nothing."""
    assert provider.bill(enrich(), answer(status)) == Bill({}, wants_body=True)
    assert provider.bill(enrich(), answer(status, raw=b"")) == Bill({})


def test_403_about_the_quota_is_exhausted(provider: FullContact) -> None:
    """The message that users reported; only the match meter is named."""
    bill = provider.bill(call_of("enrich_403_quota"), outcome_of("enrich_403_quota"))
    assert bill == Bill({}, (Evidence("exhausted", (f"{PERSON}.matches",)),))
    company = provider.bill(enrich("/v3/company.enrich"), outcome_of("enrich_403_quota"))
    assert company.evidence == (Evidence("exhausted", (f"{COMPANY}.matches",)),)


def test_403_about_the_key_is_no_evidence(provider: FullContact) -> None:
    """A bad key is not a spent quota, though the status is the same."""
    bill = provider.bill(call_of("enrich_403_key"), outcome_of("enrich_403_key"))
    assert bill == Bill({})


@pytest.mark.parametrize("status", [402, 403, 429])
@pytest.mark.parametrize(
    ("message", "spent"),
    [
        ("Limits for the provided API key have been exceeded", True),
        ("USAGE LIMIT reached", True),
        ("Your quota is used up", True),
        ("You have exceeded your monthly limit.", True),
        ("Rate limit exceeded", False),
        ("Rate quota exceeded", False),
        ("RateLimit: quota exceeded", False),
        ("Too Many Requests", False),
        ("Request limit exceeded: 100 per second", False),
        ("Request was throttled, limit reached", False),
        ("Invalid API key", False),
        ("The API key was not found; check your quota page", False),
        ("Forbidden", False),
        ("", False),
        (None, False),
        (7, False),
        (["quota exceeded"], False),
        ("x" * 400 + " quota exceeded", False),
    ],
)
def test_the_message_tells_a_spent_quota_from_haste_and_bad_keys(
    provider: FullContact, status: int, message: object, *, spent: bool
) -> None:
    """Official advice: same status, different meaning, read the message."""
    bill = provider.bill(enrich(), answer(status, {"status": status, "message": message}))
    exhausted = (Evidence("exhausted", (f"{PERSON}.matches",)),)
    assert bill == Bill({}, exhausted if spent else ())


@pytest.mark.parametrize(
    "raw",
    [
        b"quota exceeded",
        b'"quota exceeded"',
        b'[{"message": "quota exceeded"}]',
        b'{"message": "quota exceeded"',
        b'{"message": "x", "message": "quota exceeded"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_envelope_is_no_evidence(provider: FullContact, raw: bytes) -> None:
    """Whatever a gateway sends, the bill is free and nothing is raised."""
    assert provider.bill(enrich(), answer(403, raw=raw)) == Bill({})


def test_429_pauses_by_its_delay(provider: FullContact) -> None:
    """The server has waited already and sends no Retry-After; nothing is charged."""
    bill = provider.bill(call_of("enrich_429"), outcome_of("enrich_429"))
    assert bill == Bill({}, (Evidence("pause", seconds=1.0),))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 2.5 "}, 2.5),
        ({"retry_after": "3600"}, 3600.0),
        ({"retry_after": "7", "x_fullcontact_ratedelay": "250"}, 7.0),
        ({"retry_after": "0", "x_fullcontact_ratedelay": "250"}, 0.25),
        ({"retry_after": "3601"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "1e9"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": ""}, None),
        ({"retry_after": "٣"}, None),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"x_fullcontact_ratedelay": "0"}, None),
        ({"x_fullcontact_ratedelay": "0.0"}, None),
        ({"x_fullcontact_ratedelay": "90000"}, 1.0),
        ({"x_fullcontact_ratedelay": "-5"}, None),
        ({"x_fullcontact_ratedelay": "soon"}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_is_a_sane_number_of_seconds(
    provider: FullContact, status: int, headers: dict[str, str], seconds: float | None
) -> None:
    """Retry-After up to an hour, else the delay up to a second, else none."""
    bill = provider.bill(enrich(), answer(status, raw=b"", **headers))
    assert bill == Bill({}, () if seconds is None else (Evidence("pause", seconds=seconds),))


def test_429_about_the_quota_is_exhausted_and_not_a_pause(provider: FullContact) -> None:
    """A spent quota does not come back after Retry-After."""
    bill = provider.bill(enrich(), answer(429, {"message": "Quota exceeded"}, retry_after="7"))
    assert bill.evidence == (Evidence("exhausted", (f"{PERSON}.matches",)),)


@pytest.mark.parametrize("status", [200, 202, 404, 400, 500])
def test_a_delay_on_any_answer_asks_for_a_pause(provider: FullContact, status: int) -> None:
    """X-FullContact-RateDelay above 0 comes before any 429; the cost stays what it is."""
    slow = provider.bill(enrich(), answer(status, x_fullcontact_ratedelay="120"))
    assert slow.evidence == (Evidence("pause", seconds=0.12),)
    assert slow.cost == provider.bill(enrich(), answer(status)).cost
    ignored = provider.bill(enrich(), answer(status, retry_after="9"))
    assert ignored.evidence == ()


def test_static_rate_headers_are_ignored(provider: FullContact) -> None:
    """X-Rate-Limit, -Remaining and -Reset are constants for old libraries."""
    for remaining in ("10", "0"):
        headers = {
            "x_rate_limit": "600",
            "x_rate_limit_remaining": remaining,
            "x_rate_limit_reset": "20",
        }
        for status in (200, 404, 429, 503):
            assert provider.bill(enrich(), answer(status, raw=b"", **headers)).evidence == ()


# ----------------------------------------------------------------- read_stats


def test_the_documented_example_is_read(provider: FullContact) -> None:
    """Every number of the vendor's own example."""
    reading = provider.read_stats(outcome_of("stats_documented"))
    assert reading.usages == {
        f"{PERSON}.matches": Usage(4839, 0),
        f"{PERSON}.misses": Usage(201, None),
        f"{PERSON}.total": Usage(5040, None),
        "person.subscriptions": Usage(0, None),
        f"{COMPANY}.matches": Usage(75, 1000),
        f"{COMPANY}.misses": Usage(0, None),
        f"{COMPANY}.total": Usage(75, None),
    }
    assert set(reading.usages) == set(provider.meters)
    assert reading.extra == {"plan": recorded("stats_documented")["response"]["json"]["plan"]}
    assert all(usage.extra == {} for usage in reading.usages.values())


def test_quota_0_with_over_quota_true_is_exhausted(provider: FullContact) -> None:
    """Nothing is included: every match is billed, and 0 is never unlimited."""
    usage = provider.read_stats(outcome_of("stats_documented")).usages[f"{PERSON}.matches"]
    assert usage.limit == 0
    assert usage.exhausted
    unspent = matches_of(provider, count=0, quota=0, overQuota=False)
    assert unspent == Usage(0, 0)
    assert unspent.exhausted


def test_quota_null_is_unlimited(provider: FullContact) -> None:
    """No allowance is attached to the metric."""
    usage = provider.read_stats(outcome_of("stats_unlimited")).usages[f"{PERSON}.matches"]
    assert usage == Usage(12, None)
    assert not usage.exhausted


def test_a_missing_quota_key_is_unlimited(provider: FullContact) -> None:
    """The documented example has a total without one."""
    usage = provider.read_stats(outcome_of("stats_documented")).usages[f"{PERSON}.total"]
    assert usage == Usage(5040, None)


def test_count_at_quota_is_exhausted_while_over_quota_is_false(provider: FullContact) -> None:
    """overQuota turns true one unit too late: the next call is overage."""
    usage = provider.read_stats(outcome_of("stats_at_limit")).usages[f"{PERSON}.matches"]
    assert usage == Usage(1000, 1000)
    assert usage.exhausted


def test_over_quota_true_below_the_quota_is_exhausted(provider: FullContact) -> None:
    """Where the answer disagrees with itself the worse holds, and what was said is kept."""
    said = {"count": 12, "quota": 1000, "overQuota": True}
    usage = matches_of(provider, **said)
    assert usage == Usage(1000, 1000)
    assert usage.extra == said


@pytest.mark.parametrize("quota", [{"quota": None}, {}], ids=["null", "missing"])
def test_over_quota_true_without_a_quota_is_exhausted(
    provider: FullContact, quota: dict[str, None]
) -> None:
    """Over something that is not told: nothing is left, and never unlimited."""
    usage = matches_of(provider, count=12, overQuota=True, **quota)
    assert usage == Usage(12, 12)
    assert usage.extra["overQuota"] is True


@pytest.mark.parametrize("said", ["true", 1, None, []])
def test_over_quota_of_an_odd_type_is_not_heard(provider: FullContact, said: object) -> None:
    """The counts decide."""
    assert matches_of(provider, count=12, quota=1000, overQuota=said) == Usage(12, 1000)


def test_iso_instants_and_bare_dates_are_both_periods(provider: FullContact) -> None:
    """Both are documented; a bare date has no zone, so its end is less certain."""
    instants = provider.read_stats(outcome_of("stats_unlimited")).period
    assert instants.starts_at == datetime(2026, 4, 10, tzinfo=UTC)
    assert instants.ends_at == datetime(2027, 4, 10, tzinfo=UTC)
    assert instants.skew == PERIOD_SKEW
    dates = provider.read_stats(outcome_of("stats_at_limit")).period
    assert dates.starts_at == datetime(2026, 11, 1, tzinfo=UTC)
    assert dates.ends_at == datetime(2026, 12, 1, tzinfo=UTC)
    assert dates.skew == BARE_DATE_SKEW


def test_a_period_that_is_over_is_kept_as_it_is(provider: FullContact) -> None:
    """The reading repeats what was said; only a poll opens a new period."""
    period = provider.read_stats(outcome_of("stats_documented")).period
    assert period.ends_at == datetime(2021, 4, 10, tzinfo=UTC)


@pytest.mark.parametrize("term", ["yearly", "YEAR", "MONTH", "fortnightly", 12, None])
def test_the_plans_term_is_kept_and_not_interpreted(provider: FullContact, term: object) -> None:
    """Documented is YEAR, the example says yearly: the dates tell the period."""
    said = stats()
    said["plan"]["period"] = term
    reading = read(provider, said)
    assert reading.extra["plan"]["period"] == term
    assert reading == read(provider, stats())


@pytest.mark.parametrize(
    "period",
    [
        None,
        "2026-11",
        [],
        {},
        {"start": "2026-11-01"},
        {"start": "2026-11-01", "end": None},
        {"start": "2026-11-01", "end": "soon"},
        {"start": "2026-12-01", "end": "2026-11-01"},
        {"start": "2026-11-01", "end": "2026-11-01"},
        {"start": 1, "end": 2},
        {"start": "2026-11-01", "end": "9999-99-99"},
        {"start": "0001-01-01T00:00:00+14:00", "end": "2026-12-01"},
        {"start": "2026-11-01", "end": "9999-12-31T23:59:59-23:00"},
    ],
    ids=repr,
)
def test_a_broken_period_leaves_the_counts_valid(provider: FullContact, period: object) -> None:
    """The end is unknown, which is noted; what was counted is counted."""
    said = stats() | {"period": period}
    reading = read(provider, said)
    assert reading.period.end is None
    assert reading.extra["unreadable"] == ("period",)
    assert len(reading.usages) == len(provider.meters)
    del said["period"]
    assert read(provider, said).extra["unreadable"] == ("period",)


BROKEN: dict[str, object] = {
    "null": None,
    "a number": 12,
    "an array": [12],
    "no count": {"quota": 1000},
    "count null": {"count": None, "quota": 1000},
    "count true": {"count": True, "quota": 1000},
    "count text": {"count": "12", "quota": 1000},
    "count with comma": {"count": "1,234", "quota": 1000},
    "count negative": {"count": -1, "quota": 1000},
    "count fractional": {"count": 12.5, "quota": 1000},
    "count absurd": {"count": 10**15 + 1, "quota": None},
    "count absurd float": {"count": 1e300, "quota": None},
    "quota true": {"count": 12, "quota": True},
    "quota false": {"count": 12, "quota": False},
    "quota text": {"count": 12, "quota": "1000"},
    "quota unlimited in words": {"count": 12, "quota": "unlimited"},
    "quota -1": {"count": 12, "quota": -1},
    "quota fractional": {"count": 12, "quota": 999.5},
    "quota absurd": {"count": 12, "quota": 10**30},
    "quota array": {"count": 12, "quota": [1000]},
}


@pytest.mark.parametrize("metric", BROKEN.values(), ids=BROKEN)
def test_a_broken_metric_is_left_out_and_the_good_ones_apply(
    provider: FullContact, metric: object
) -> None:
    """Left out is unknown, never unlimited; its path is noted."""
    said = stats()
    said["stats"]["person"]["enrichment"]["matches"] = metric
    reading = read(provider, said)
    assert f"{PERSON}.matches" not in reading.usages
    assert len(reading.usages) == len(provider.meters) - 1
    assert reading.usages[f"{COMPANY}.matches"] == Usage(75, 1000)
    assert reading.extra["unreadable"] == (f"stats.{PERSON}.matches",)


def test_missing_matches_are_left_out(provider: FullContact) -> None:
    """A metric that is not there is unknown, never unlimited."""
    said = stats()
    del said["stats"]["person"]["enrichment"]["matches"]
    reading = read(provider, said)
    assert f"{PERSON}.matches" not in reading.usages
    assert reading.extra["unreadable"] == (f"stats.{PERSON}.matches",)


def test_a_missing_category_is_left_out(provider: FullContact) -> None:
    """An account without companies still has its persons."""
    said = stats()
    said["stats"]["company"] = None
    reading = read(provider, said)
    assert {name.partition(".")[0] for name in reading.usages} == {"person"}
    assert len(reading.extra["unreadable"]) == 3


def test_misses_and_totals_that_are_not_told_have_no_limit(provider: FullContact) -> None:
    """What is counted for information must not close a call whose matches are known."""
    said = stats()
    del said["stats"]["person"]["enrichment"]["misses"]
    del said["stats"]["person"]["enrichment"]["total"]
    reading = read(provider, said)
    assert reading.usages[f"{PERSON}.misses"] == Usage(0, None)
    assert reading.usages[f"{PERSON}.total"] == Usage(0, None)


def test_a_broken_misses_metric_is_left_out(provider: FullContact) -> None:
    """What is told but cannot be read may have a limit: it stays unknown."""
    said = stats()
    said["stats"]["person"]["enrichment"]["misses"] = {"count": -1, "quota": 10}
    assert f"{PERSON}.misses" not in read(provider, said).usages


def test_a_whole_number_may_have_a_decimal_point(provider: FullContact) -> None:
    """JSON has one kind of number; 12.0 is 12."""
    assert matches_of(provider, count=12.0, quota=1e3) == Usage(12, 1000)
    assert type(read(provider, stats(count=12.0)).usages[f"{PERSON}.matches"].used) is int


def test_unknown_fields_are_kept(provider: FullContact) -> None:
    """In the answer, in the stats, below a category and in a metric."""
    said = stats(count=12, quota=1000, overQuota=False, price=0.03)
    said["note"] = "new"
    said["stats"]["cardreader"] = {"count": 3}
    said["stats"]["person"]["tags"] = {"count": 4}
    said["stats"]["person"]["enrichment"]["retries"] = {"count": 5}
    reading = read(provider, said)
    assert reading.usages[f"{PERSON}.matches"].extra == {"price": 0.03}
    assert reading.extra == {
        "plan": said["plan"],
        "note": "new",
        "stats": {
            "person": {"enrichment": {"retries": {"count": 5}}, "tags": {"count": 4}},
            "cardreader": {"count": 3},
        },
    }


UNREADABLE: dict[str, bytes | None] = {
    "not read": None,
    "empty": b"",
    "html": b"<html>please log in</html>",
    "text": b"OK",
    "truncated": json.dumps(stats()).encode()[:-3],
    "trailing garbage": json.dumps(stats()).encode() + b"}",
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(stats()).encode(),
    "utf-16": json.dumps(stats()).encode("utf-16"),
    "latin-1": json.dumps(stats() | {"é": 1}, ensure_ascii=False).encode("latin-1"),
    "array": b"[]",
    "scalar": b"12",
    "null": b"null",
    "nesting": b"[" * 100_000,
    "not a number": json.dumps(stats(count=float("nan"))).encode(),
    "infinity": json.dumps(stats(count=float("inf"))).encode(),
    "overflow": json.dumps(stats(count="?")).encode().replace(b'"?"', b"1e400"),
    "5,000 digits": json.dumps(stats(count="?")).encode().replace(b'"?"', b"9" * 5000),
    "same key twice": json.dumps(stats()).encode().replace(b'"quota": 0', b'"count": 1'),
    "no stats": b"{}",
    "stats null": b'{"stats": null}',
    "stats an array": b'{"stats": []}',
    "stats empty": b'{"stats": {}}',
    "every metric broken": json.dumps(stats()).encode().replace(b'"count"', b'"counts"'),
    "legacy v2 answer": json.dumps(recorded("stats_v2")["response"]["json"]).encode(),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_reading_names_the_path_it_looked_for(
    provider: FullContact, body: bytes | None
) -> None:
    """The old reading stays in use; nothing of the body shows."""
    with pytest.raises(StatsUnreadable, match="looked for stats") as caught:
        provider.read_stats(Outcome(200, {"x-request-id": "req-1"}, body))
    error = caught.value
    assert error.path in ("stats", f"stats.{PERSON}.matches")
    assert (error.provider, error.status, error.request_id) == ("fullcontact", 200, "req-1")
    assert error.__cause__ is None
    assert "log in" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_forbidden(provider: FullContact, status: int) -> None:
    """A key problem, not exhaustion; whatever stands in the body."""
    for body in (None, b"", b"<html>", b'{"status": 403, "message": "API Key is invalid."}'):
        with pytest.raises(StatsForbidden) as caught:
            provider.read_stats(answer(status, raw=body))
        assert caught.value.status == status


def test_403_about_the_quota_does_not_end_the_polls(provider: FullContact) -> None:
    """The key is good: only polls will tell when the quota is back."""
    for message in (
        recorded("enrich_403_quota")["response"]["json"]["message"],
        "Rate limit exceeded",
    ):
        with pytest.raises(StatsUnavailable, match="403"):
            provider.read_stats(answer(403, {"message": message}))
    with pytest.raises(StatsForbidden):
        provider.read_stats(answer(401, {"message": "Quota exceeded"}))


@pytest.mark.parametrize(
    "status",
    [204, 206, 301, 302, 307, 400, 402, 404, 405, 408, 410, 418, 429, 500, 502, 503, 504, 520, 0],
)
def test_other_statuses_are_unavailable(provider: FullContact, status: int) -> None:
    """Even with a perfect body: an error page is no reading."""
    with pytest.raises(StatsUnavailable, match=str(status)) as caught:
        provider.read_stats(answer(status, stats()))
    assert caught.value.status == status
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("30", 30.0),
        ("2.0", 2.0),
        ("0", 0.0),
        ("-1", None),
        ("", None),
        ("1e9", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after_of_the_stats_endpoint_is_told(
    provider: FullContact, said: str, seconds: float | None
) -> None:
    """In seconds; a date needs a clock, and there is none here."""
    for status in (429, 503):
        with pytest.raises(StatsUnavailable) as caught:
            provider.read_stats(answer(status, retry_after=said))
        assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"x-request-id": "9f0c-77"}, "9f0c-77"),
        ({"x-amzn-requestid": "amz-1"}, "amz-1"),
        ({"x-request-id": "a b"}, None),
        ({"x-request-id": "a\nERROR forged"}, None),
        ({"x-request-id": "x" * 81}, None),
        ({"x-request-id": "é"}, None),
        ({"x-request-id": f"for-{KEY}"}, None),
        ({"x-request-id": ""}, None),
        ({}, None),
    ],
)
def test_a_request_id_is_told_if_it_is_short_and_printable(
    provider: FullContact, headers: dict[str, str], told: str | None
) -> None:
    """It helps their support; it never carries the key or breaks a log line."""
    with pytest.raises(StatsUnavailable) as caught:
        provider.read_stats(Outcome(500, headers))
    assert caught.value.request_id == told


# ----------------------------------------------------------------------- laws

EXAMPLES = max(300, settings.default.max_examples if settings.default else 0)
"""By default; the soak profile asks for more."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([-1, 0, 1, 10**15, 10**15 + 1, 2**63, 1e400, "2026-11-01", "unlimited"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["stats", "person", "enrichment", "matches", "count", "quota"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def paths(said: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every member of *said*."""
    if not isinstance(said, dict):
        return []
    return [
        below
        for key, value in said.items()
        for below in [(*path, key), *paths(value, (*path, key))]
    ]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a good answer with a few members replaced or dropped."""
    said = stats()
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from(paths(said)))
        place = said
        for key in way:
            place = place[key]
        if draw(st.booleans()):
            place[last] = draw(JSON)
        else:
            del place[last]
        if not said:
            break
    return json.dumps(said).encode()


def check_stats(provider: FullContact, outcome: Outcome) -> None:
    """Read *outcome*; only a ProviderError or a sound reading may come of it."""
    try:
        reading = provider.read_stats(outcome)
    except ProviderError as error:
        said = str(error)
    else:
        said = repr(reading)
        check_reading(provider, reading)
        assert outcome.status == 200
    assert KEY not in said


def check_reading(provider: FullContact, reading: Reading) -> None:
    """Find *reading* sound: whole counts, dates that can be shown, nothing dropped unsaid."""
    assert reading.usages
    assert set(reading.usages) <= set(provider.meters)
    for usage in reading.usages.values():
        assert type(usage.used) is int
        assert 0 <= usage.used <= 10**15
        assert usage.limit is None or (type(usage.limit) is int and 0 <= usage.limit <= 10**15)
    json.dumps([dict(reading.extra), [dict(usage.extra) for usage in reading.usages.values()]])
    assert isinstance(reading.period.starts_at, datetime | None)
    assert isinstance(reading.period.ends_at, datetime | None)
    missing = {f"stats.{name}" for name in set(provider.meters) - set(reading.usages)}
    told = set(reading.extra.get("unreadable", ())) - {"period"}
    assert missing <= told
    for path in told - missing:
        usage = reading.usages[path.removeprefix("stats.")]
        assert not path.endswith(".matches")
        assert (usage.used, usage.limit) == (0, None)


@settings(max_examples=EXAMPLES)
@given(
    status=st.just(200) | st.integers(0, 999),
    body=st.none() | st.binary(max_size=64) | JSON.map(lambda said: json.dumps(said).encode()),
    header=st.text(max_size=12),
)
def test_reading_stats_raises_nothing_but_provider_errors(
    status: int, body: bytes | None, header: str
) -> None:
    """Whatever the status, the bytes and the headers are."""
    headers = dict.fromkeys(("retry-after", "x-request-id", "x-amzn-requestid"), header)
    check_stats(FullContact(KEY), Outcome(status, headers, body))


@settings(max_examples=EXAMPLES)
@given(body=mutated())
def test_a_mutated_answer_is_a_sound_reading_or_a_provider_error(body: bytes) -> None:
    """Every count that is read is a whole number from 0, every limit that or None."""
    check_stats(FullContact(KEY), Outcome(200, {}, body))


@settings(max_examples=EXAMPLES)
@given(
    path=st.sampled_from(["/v3/person.enrich", "/v3/company.enrich", "/v3/other"]),
    status=st.sampled_from([200, 202, 402, 403, 404, 429, 500, 503]) | st.integers(0, 999),
    asked=st.none() | st.binary(max_size=32) | JSON.map(lambda said: json.dumps(said).encode()),
    body=st.none() | st.binary(max_size=32) | JSON.map(lambda said: json.dumps(said).encode()),
    header=st.text(max_size=12),
)
def test_billing_never_raises_and_never_exceeds_the_price(
    path: str, status: int, asked: bytes | None, body: bytes | None, header: str
) -> None:
    """A bill is unknown or at most what was reserved, and a pause is at most an hour."""
    provider = FullContact(KEY)
    call = enrich(path, body=asked, headers={"authorization": header})
    headers = dict.fromkeys(("retry-after", "x-fullcontact-ratedelay"), header)
    bill = provider.bill(call, Outcome(status, headers, body))
    assert isinstance(provider.foreign(call), bool)
    price = provider.price(call)
    for name, spent in (bill.cost or {}).items():
        assert price is not None
        assert 0 <= spent <= price.cost[name]
    for evidence in bill.evidence:
        assert 0 <= evidence.seconds <= 3600
        assert set(evidence.meters) <= set(provider.meters)
    assert not (bill.deferred and bill.cost is not None)
    if body is not None:
        assert not bill.wants_body
