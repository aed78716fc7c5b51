"""Octanist: what its stats, its prices and its answers mean; and what its documents leave open."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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
from quotaguard.providers.octanist import Octanist, OctanistChoices
from quotaguard.quota.calls import Bill, Call, Evidence, Outcome
from quotaguard.quota.readings import PERIOD_SKEW, UNKNOWN_PERIOD, Period, Reading, Usage

KEY = "oct-canary-91be"
ORIGIN = "https://octanist.com"
RECORDED = Path(__file__).parent / "recorded"
LEAD = {"leads": 1}
REQUEST = "req_a1b2c3d4e5f6"

FREE, BILLED, UNKNOWN = Bill({}), Bill(LEAD), Bill(None)


@pytest.fixture
def provider() -> Octanist:
    """Return a provider of the real origin, with the default choices."""
    return Octanist(KEY)


def chosen(**choices: Any) -> Octanist:
    """Return a provider with other choices."""
    return Octanist(KEY, choices=OctanistChoices(**choices))


def recorded(name: str) -> dict[str, Any]:
    """Return one recorded exchange."""
    exchange: dict[str, Any] = json.loads((RECORDED / f"octanist_{name}.json").read_text())
    return exchange


def lower(headers: dict[str, str]) -> dict[str, str]:
    """Return *headers* as a `Call` and an `Outcome` tell them."""
    return {name.lower(): value.replace("{key}", KEY) for name, value in headers.items()}


def call_of(name: str) -> Call:
    """Return the recorded request as a call."""
    request = recorded(name)["request"]
    body = None if request["json"] is None else json.dumps(request["json"]).encode()
    path = request["url"].removeprefix(ORIGIN)
    return Call(request["method"], ORIGIN, path, lower(request["headers"]), body)


def outcome_of(name: str, *, read: bool = True) -> Outcome:
    """Return the recorded answer, with its body or at its headers."""
    answer = recorded(name)["response"]
    body = json.dumps(answer["json"]).encode() if read else None
    return Outcome(answer["status"], lower(answer["headers"]), body)


def create(
    path: str = "/api/leads",
    *,
    method: str = "POST",
    origin: str = ORIGIN,
    headers: dict[str, str] | None = None,
) -> Call:
    """Return a call that creates a lead, or nearly so."""
    return Call(method, origin, path, headers or {}, b'{"name": "Jane"}')


def answer(
    status: int, body: object = None, *, raw: bytes | None = None, **headers: str
) -> Outcome:
    """Return an answer; header names with underscores for hyphens."""
    said = raw if body is None else json.dumps(body).encode()
    return Outcome(status, {name.replace("_", "-"): text for name, text in headers.items()}, said)


def stats(*without: str, **usage: object) -> dict[str, Any]:
    """Return the documented stats answer with other numbers in its usage, or *without* some."""
    said: dict[str, Any] = recorded("stats_documented")["response"]["json"]
    said["data"]["usage"] |= usage
    for name in without:
        del said["data"]["usage"][name]
    return said


def read(provider: Octanist, said: object) -> Reading:
    """Return the reading of a 200 with *said* in it."""
    return provider.read_stats(answer(200, said))


def leads(provider: Octanist, **usage: object) -> Usage:
    """Return how the leads of an otherwise good answer are read."""
    return read(provider, stats(**usage)).usages["leads"]


# ------------------------------------------------------------------- identity


def test_it_is_a_provider(provider: Octanist) -> None:
    """The guard's Protocol is what it offers; its one operation costs one lead."""
    checked: Provider = provider
    assert checked.name == "octanist"
    assert checked.polls_per_hour == 30
    assert {name: (meter.kind, meter.scale) for name, meter in checked.meters.items()} == {
        "leads": ("counter", 1)
    }
    assert checked.operations == {"leads.create": LEAD}
    assert checked.key_headers == ("x-api-key",)
    assert set(checked.reports) == {"stats"}


def test_the_stats_request_is_the_documented_one(provider: Octanist) -> None:
    """POST with the key in its header, and a JSON body, which must be there."""
    request, documented = provider.stats_request(), recorded("stats_documented")["request"]
    assert (request.method, request.url) == (documented["method"], documented["url"])
    assert lower(dict(request.headers)) == lower(documented["headers"])
    assert json.loads(request.body or b"") == documented["json"] == {"period": "current"}


def test_nothing_shows_the_key_or_the_account() -> None:
    """Neither repr nor the account's digest has a secret, and nothing is pickled."""
    provider = Octanist(KEY, account="acme-internal")
    assert repr(provider) == "<Octanist octanist.com>"
    assert repr(Octanist(KEY, base_url="http://127.0.0.1:8080/t0ken")) == (
        "<Octanist 127.0.0.1:8080>"
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
    assert Octanist("a", account="acme").account == Octanist("b", account="acme").account
    assert Octanist("a").account != Octanist("b").account
    assert Octanist(" a ").account == Octanist("a").account
    assert Octanist(" a ").stats_request().headers["X-API-KEY"] == "a"


def test_choices_do_not_change_whose_account_it_is() -> None:
    """The books are the vendor's, whatever one thinks of its documents."""
    assert chosen(no_subscription="open").account == Octanist(KEY).account


@pytest.mark.parametrize("key", ["", " \n", "schlüssel", "a\nb", None, 7])
def test_a_key_that_no_header_can_carry_is_a_config_error(key: Any) -> None:
    """It is found when the provider is built."""
    with pytest.raises(ConfigError, match="key"):
        Octanist(key)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (ORIGIN, "https://octanist.com/api/stats"),
        (f"{ORIGIN}/api", "https://octanist.com/api/stats"),
        (f"{ORIGIN}/api/", "https://octanist.com/api/stats"),
        ("HTTPS://Octanist.com:443", "https://octanist.com/api/stats"),
        ("https://proxy.example:8443/oct/", "https://proxy.example:8443/oct/api/stats"),
        ("http://localhost:8000", "http://localhost:8000/api/stats"),
    ],
)
def test_base_url_is_an_origin_and_what_stands_before_api(base_url: str, url: str) -> None:
    """The documents' own base URL ends in /api; slashes, default ports and case do not matter."""
    provider = Octanist(KEY, base_url=base_url)
    assert provider.stats_request().url == url
    origin, slashes, rest = url.partition("://")
    host, _, path = rest.partition("/")
    call = create(f"/{path.replace('stats', 'leads')}", origin=origin + slashes + host)
    assert provider.price(call) is not None


@pytest.mark.parametrize(
    "base_url", ["http://octanist.com", "https://s3cret@octanist.com", "octanist.com", "", None]
)
def test_base_url_that_would_send_the_key_astray_is_a_config_error(base_url: Any) -> None:
    """Only https or loopback, and nothing is quoted."""
    with pytest.raises(ConfigError, match="base_url") as caught:
        Octanist(KEY, base_url=base_url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# -------------------------------------------------------------------- choices


@pytest.mark.parametrize(
    "choice",
    [
        {"no_subscription": "maybe"},
        {"no_subscription": None},
        {"locked": True},
        {"rejected": "charged"},
        {"duplicate": ["free"]},
        {"unsuccessful": ""},
        {"unlimited": "null"},
        {"unlimited": ["null"]},
        {"unlimited": ("none",)},
        {"unlimited": (None,)},
        {"unlimited": (-1,)},
        {"unlimited": ([],)},
    ],
    ids=repr,
)
def test_a_choice_that_there_is_not_is_a_config_error(choice: dict[str, Any]) -> None:
    """It names what could have been chosen."""
    with pytest.raises(ConfigError, match=next(iter(choice))):
        OctanistChoices(**choice)


@pytest.mark.parametrize("choices", [None, {}, {"locked": "ignored"}, OctanistChoices])
def test_choices_are_choices(choices: Any) -> None:
    """A mapping would not be checked, and a class is none of its instances."""
    with pytest.raises(ConfigError, match="OctanistChoices"):
        Octanist(KEY, choices=choices)


def test_every_choice_has_a_default_and_a_word_on_it() -> None:
    """In doubt a lead was billed and a quota is closed; the docstring tells each of them."""
    fields = dataclasses.fields(OctanistChoices)
    assert all(f"{field.name}:" in (OctanistChoices.__doc__ or "") for field in fields)
    assert Octanist(KEY).choices == OctanistChoices()
    assert OctanistChoices() == OctanistChoices(
        no_subscription="closed",
        locked="exhausted",
        unlimited=(),
        rejected="free",
        duplicate="free",
        unsuccessful="billed",
    )
    with pytest.raises(TypeError):
        OctanistChoices("open")  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        OctanistChoices().locked = "ignored"  # type: ignore[misc]


# ---------------------------------------------------------------------- price


@pytest.mark.parametrize("path", ["/api/leads", "/api/leads/"])
def test_creating_a_lead_is_priced(provider: Octanist, path: str) -> None:
    """POST on the provider's own origin; looked up and not made."""
    price = provider.price(create(path))
    assert price is not None
    assert (price.operation, price.cost) == ("leads.create", LEAD)
    assert provider.price(create(path)) is price


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(create("/api/stats"), id="the stats call"),
        pytest.param(create(method="GET"), id="listing"),
        pytest.param(create(method="PATCH"), id="updating"),
        pytest.param(create("/api/check"), id="checking the key"),
        pytest.param(create("/api/leads/lead_1"), id="below it"),
        pytest.param(create("/API/leads"), id="another path"),
        pytest.param(create("/leads"), id="no api"),
        pytest.param(create("/api/integrations/incoming/wp/7/"), id="the plugin's"),
        pytest.param(create(""), id="no path"),
        pytest.param(create(origin="https://octanist.com:8443"), id="another port"),
        pytest.param(create(origin="http://octanist.com"), id="another scheme"),
        pytest.param(create(origin="https://octanist.com.example"), id="another host"),
    ],
)
def test_other_calls_pass(provider: Octanist, call: Call) -> None:
    """Updating, listing, checking and asking for stats are free, and so is everybody else."""
    assert provider.price(call) is None


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        pytest.param({}, False, id="no key at all"),
        pytest.param({"x-api-key": KEY}, False, id="own"),
        pytest.param({"x-api-key": f" {KEY} "}, False, id="own, with blanks"),
        pytest.param({"x-api-key": "other"}, True, id="another"),
        pytest.param({"x-api-key": KEY.upper()}, True, id="the case of a key"),
        pytest.param({"x-api-key": f"{KEY}x"}, True, id="longer"),
        pytest.param({"x-api-key": ""}, True, id="empty"),
        pytest.param({"x-api-key": "\udcff"}, True, id="no text"),
        pytest.param({"authorization": "Bearer other"}, False, id="not their header"),
    ],
)
def test_a_call_with_another_key_is_foreign(
    provider: Octanist, headers: dict[str, str], *, foreign: bool
) -> None:
    """A key that is there and not ours spends from another organisation's plan."""
    assert provider.foreign(create(headers=headers)) is foreign


# ----------------------------------------------------------------------- bill


@pytest.mark.parametrize("status", [200, 201])
def test_a_lead_costs_one_lead(provider: Octanist, status: int) -> None:
    """2xx is not documented any closer; settled at the headers, looked up and not made."""
    bill = provider.bill(create(), answer(status))
    assert bill == BILLED
    assert provider.bill(create(), answer(status)) is bill
    assert provider.bill(call_of("create_200"), outcome_of("create_200")) == BILLED


@pytest.mark.parametrize(
    "name", ["create_400", "create_401", "create_403_rejected", "create_409_duplicate"]
)
def test_what_is_not_stored_is_free_and_no_evidence(provider: Octanist, name: str) -> None:
    """A rejected lead is neither a bad key nor a spent quota, whatever stands in the body."""
    assert provider.bill(call_of(name), outcome_of(name, read=False)) == FREE
    assert provider.bill(call_of(name), outcome_of(name)) == FREE


def test_a_403_that_talks_of_a_quota_is_a_rejected_lead_too(provider: Octanist) -> None:
    """No code for a spent plan is documented; the stats are the only brake."""
    said = {"success": False, "error": {"code": "FORBIDDEN", "message": "Quota exceeded"}}
    assert provider.bill(create(), answer(403, said)) == FREE


@pytest.mark.parametrize("status", [301, 302, 307, 308, 404, 405, 410, 413, 418, 422, 429, 451])
def test_redirects_and_client_errors_are_free(provider: Octanist, status: int) -> None:
    """What was refused was not stored, and a redirect is priced where it leads."""
    assert provider.bill(create(), answer(status)) == FREE


def test_402_asks_the_stats(provider: Octanist) -> None:
    """Nobody documents it; if a plan ever refuses, this is how HTTP says so."""
    assert provider.bill(create(), answer(402)) == Bill({}, (Evidence("doubt"),))


@pytest.mark.parametrize("status", [0, 100, 202, 204, 206, 299, 500, 502, 503, 504, 520, 599, 999])
def test_what_nobody_documents_is_unknown(provider: Octanist, status: int) -> None:
    """It stays counted until a reading proves otherwise."""
    assert provider.bill(create(), answer(status)) == UNKNOWN


@pytest.mark.parametrize("call", [create("/api/check"), create(method="PATCH")])
def test_an_unpriced_call_is_unknown(provider: Octanist, call: Call) -> None:
    """Whoever reserved for it by hand knows the price; the answer does not."""
    assert provider.bill(call, answer(200)) == UNKNOWN


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "3600"}, 3600.0),
        (
            {
                "retry_after": "Tue, 10 Mar 2026 12:00:30 GMT",
                "date": "Tue, 10 Mar 2026 12:00:00 GMT",
            },
            30.0,
        ),
        ({"retry_after": "3601"}, None),
        ({"retry_after": "0"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("status", "cost"), [(429, {}), (503, None)])
def test_retry_after_pauses(
    provider: Octanist,
    status: int,
    cost: dict[str, int] | None,
    headers: dict[str, str],
    seconds: float | None,
) -> None:
    """No rate limits are documented, which may change; the cost stays what it is."""
    bill = provider.bill(create(), answer(status, **headers))
    assert bill == Bill(cost, () if seconds is None else (Evidence("pause", seconds=seconds),))


@pytest.mark.parametrize(("choice", "status"), [("rejected", 403), ("duplicate", 409)])
@pytest.mark.parametrize(
    ("value", "bill"), [("free", FREE), ("billed", BILLED), ("unknown", UNKNOWN)]
)
def test_what_a_refused_lead_costs_can_be_chosen(
    choice: str, status: int, value: str, bill: Bill
) -> None:
    """One choice turns one status, and no other."""
    provider = chosen(**{choice: value})
    assert provider.bill(create(), answer(status)) == bill
    for other in {400, 401, 403, 404, 409} - {status}:
        assert provider.bill(create(), answer(other)) == FREE


UNSUCCESSFUL = {"success": False, "error": {"code": "CONFLICT", "message": "no", "details": {}}}


def test_an_unsuccessful_200_is_billed_without_a_look_at_its_body(provider: Octanist) -> None:
    """Nobody documents it: in doubt a lead was stored, and no call waits for its body."""
    assert provider.bill(create(), answer(200)) == BILLED
    assert provider.bill(create(), answer(200, UNSUCCESSFUL)) == BILLED


@pytest.mark.parametrize(("value", "bill"), [("free", FREE), ("unknown", UNKNOWN)])
def test_what_an_unsuccessful_200_costs_can_be_chosen(value: str, bill: Bill) -> None:
    """Then the body decides: only the plain word false is heard."""
    provider = chosen(unsuccessful=value)
    for status in (200, 201):
        assert provider.bill(create(), answer(status)) == Bill(None, wants_body=True)
        assert provider.bill(create(), answer(status, UNSUCCESSFUL)) == bill
        for said in ({"success": True}, {"success": 0}, {"success": "false"}, {"id": "x"}, []):
            assert provider.bill(create(), answer(status, said)) == BILLED
        for raw in (b"", b"<html>", b'{"success": false', b"[" * 100_000, b"\xff"):
            assert provider.bill(create(), answer(status, raw=raw)) == BILLED
    assert provider.bill(create(), answer(204)) == UNKNOWN
    assert provider.bill(create(), answer(403)) == FREE


# ----------------------------------------------------------------- read_stats


def test_the_documented_example_is_read(provider: Octanist) -> None:
    """Every number of the vendor's own example; its end becomes the next period's start."""
    reading = provider.read_stats(outcome_of("stats_documented"))
    assert reading.usages == {"leads": Usage(150, 500)}
    assert reading.usages["leads"].extra == {"lockedLeads": 0}
    assert reading.period.starts_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert reading.period.ends_at == datetime(2026, 3, 2, tzinfo=UTC)
    assert reading.period.skew == PERIOD_SKEW
    said = recorded("stats_documented")["response"]["json"]
    assert reading.extra == {
        "data": {name: said["data"][name] for name in ("leads", "conversion")},
        "meta": said["meta"],
    }


def test_locked_leads_are_exhausted(provider: Octanist) -> None:
    """Used and limit say so themselves; nothing is made up."""
    usage = provider.read_stats(outcome_of("stats_locked")).usages["leads"]
    assert usage == Usage(512, 500)
    assert usage.exhausted
    assert usage.extra == {"lockedLeads": 12}


@pytest.mark.parametrize(
    ("said", "worst"),
    [
        ({"leadsUsed": 150, "lockedLeads": 12}, Usage(162, 150)),
        ({"leadsUsed": 0, "lockedLeads": 1}, Usage(1, 0)),
        ({"leadsUsed": 500, "lockedLeads": 12}, Usage(512, 500)),
        ({"leadsUsed": 512, "lockedLeads": 40}, Usage(540, 500)),
        ({"leadsUsed": 600, "lockedLeads": 12}, Usage(600, 500)),
        ({"leadsUsed": 3, "leadsLimit": 0, "lockedLeads": 3}, Usage(3, 0)),
    ],
    ids=repr,
)
def test_what_disagrees_is_taken_at_its_worst(
    provider: Octanist, said: dict[str, int], worst: Usage
) -> None:
    """Locked leads mean that nothing is left, and that they lie past the limit."""
    usage = leads(provider, **said)
    assert usage == worst
    assert usage.exhausted
    told = {"leadsLimit": 500, **said}
    changed = (usage.used, usage.limit) != (told["leadsUsed"], told["leadsLimit"])
    assert usage.extra == (told if changed else {"lockedLeads": told["lockedLeads"]})


def test_locked_leads_can_be_ignored() -> None:
    """Where those of an older period stay locked, used and limit alone are heard."""
    provider = chosen(locked="ignored")
    for locked in (12, None, "12", -1, True):
        assert leads(provider, lockedLeads=locked) == Usage(150, 500)
    assert read(provider, stats("lockedLeads")).usages["leads"] == Usage(150, 500)


def test_a_limit_of_0_is_nothing_included(provider: Octanist) -> None:
    """Never unlimited, unless somebody has said so."""
    assert leads(provider, leadsUsed=0, leadsLimit=0).exhausted
    assert leads(chosen(unlimited=("0",)), leadsLimit=0) == Usage(150, None)
    assert leads(chosen(unlimited=("null", "missing", "-1")), leadsLimit=0) == Usage(150, 0)


SPELLED: dict[str, dict[str, Any]] = {
    "null": stats(leadsLimit=None),
    "missing": stats("leadsLimit"),
    "-1": stats(leadsLimit=-1),
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_no_limit_is_never_unlimited_by_accident(provider: Octanist, spelling: str) -> None:
    """Each spelling is no reading, and says which choice would make it one."""
    with pytest.raises(StatsUnreadable, match=rf"{spelling}.*OctanistChoices\(unlimited") as caught:
        read(provider, SPELLED[spelling])
    assert caught.value.path == "data.usage.leadsLimit"
    others = tuple(other for other in (*SPELLED, "0") if other != spelling)
    with pytest.raises(StatsUnreadable):
        read(chosen(unlimited=others), SPELLED[spelling])
    assert read(chosen(unlimited=(spelling,)), SPELLED[spelling]).usages["leads"] == (
        Usage(150, None)
    )


def test_locked_leads_close_an_unlimited_plan() -> None:
    """The two cannot both be true, so the worse one is."""
    usage = leads(chosen(unlimited=("null",)), leadsLimit=None, lockedLeads=2)
    assert usage == Usage(152, 150)
    assert usage.extra == {"leadsUsed": 150, "leadsLimit": None, "lockedLeads": 2}


BROKEN: list[tuple[str, dict[str, object]]] = [
    (name, {name: value})
    for name in ("leadsUsed", "leadsLimit", "lockedLeads")
    for value in (
        *(True, False, "12", "1,234", "unlimited", -5, 12.5, 10**15 + 1, 1e300),
        *([12], {}, -2, -1.5),
    )
] + [("leadsUsed", {"leadsUsed": None}), ("lockedLeads", {"lockedLeads": None})]


@pytest.mark.parametrize(("name", "usage"), BROKEN, ids=repr)
def test_a_broken_number_is_no_reading(
    provider: Octanist, name: str, usage: dict[str, object]
) -> None:
    """It is the only meter; no part of such an answer is believed, and its path is told."""
    with pytest.raises(StatsUnreadable) as caught:
        read(provider, stats(**usage))
    assert caught.value.path == f"data.usage.{name}"
    assert caught.value.request_id == REQUEST


@pytest.mark.parametrize("name", ["leadsUsed", "lockedLeads"])
def test_a_missing_number_is_no_reading(provider: Octanist, name: str) -> None:
    """Locked leads too: an answer without them might hide some."""
    with pytest.raises(StatsUnreadable, match="missing") as caught:
        read(provider, stats(name))
    assert caught.value.path == f"data.usage.{name}"


def test_a_whole_number_may_have_a_decimal_point(provider: Octanist) -> None:
    """JSON has one kind of number; 12.0 is 12."""
    usage = leads(provider, leadsUsed=12.0, leadsLimit=1e3, lockedLeads=0.0)
    assert usage == Usage(12, 1000)
    assert (type(usage.used), type(usage.limit)) == (int, int)


def test_unknown_fields_are_kept(provider: Octanist) -> None:
    """At the top, in the data, in the meta and in the usage."""
    said = stats(addons=3)
    said["note"] = "new"
    said["data"]["plan"] = "pro"
    said["meta"]["region"] = "eu"
    reading = read(provider, said)
    assert reading.usages["leads"].extra == {"lockedLeads": 0, "addons": 3}
    assert reading.extra["note"] == "new"
    assert reading.extra["data"]["plan"] == "pro"
    assert reading.extra["meta"]["region"] == "eu"


# --------------------------------------------------------------------- periods


def test_without_a_subscription_nothing_is_read(provider: Octanist) -> None:
    """Closed, whatever limit is told beside it; it says what was missing."""
    with pytest.raises(NoSubscription, match="no active subscription") as caught:
        provider.read_stats(outcome_of("stats_no_subscription"))
    error = caught.value
    assert (error.path, error.request_id) == ("data.usage.periodStart", REQUEST)
    assert (error.provider, error.status) == ("octanist", 200)


HALF: dict[str, dict[str, Any]] = {
    "start null": stats(periodStart=None),
    "end null": stats(periodEnd=None),
    "start missing": stats("periodStart"),
    "end missing": stats("periodEnd"),
    "both missing": stats("periodStart", "periodEnd"),
    "one null, one missing": stats("periodStart", periodEnd=None),
}


@pytest.mark.parametrize("said", HALF.values(), ids=HALF)
def test_half_a_period_is_no_subscription_either(provider: Octanist, said: object) -> None:
    """Documented is both or none; in doubt it is closed."""
    with pytest.raises(NoSubscription):
        read(provider, said)


@pytest.mark.parametrize("said", HALF.values(), ids=HALF)
def test_without_a_subscription_usage_can_be_taken_as_told(said: object) -> None:
    """Then no period is known, also where one of its ends is told."""
    reading = read(chosen(no_subscription="open"), said)
    assert reading.usages == {"leads": Usage(150, 500)}
    assert reading.period == UNKNOWN_PERIOD


def test_an_open_choice_does_not_open_what_is_spent() -> None:
    """It is about the subscription; used, limit and locked are read as ever."""
    provider = chosen(no_subscription="open")
    assert read(provider, stats("periodEnd", lockedLeads=1)).usages["leads"].exhausted
    with pytest.raises(StatsUnreadable):
        read(provider, stats("periodEnd", "leadsLimit"))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("soon", "2026-03-01T23:59:59.999Z"),
        ("2026-01-01T00:00:00.000Z", "later"),
        ("2026-01-01T00:00:00.000Z", ""),
        ("2026-03-02T00:00:00.000Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00.000Z", "2026-13-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"),
        ("0001-01-01T00:00:00+14:00", "2026-03-01T23:59:59.999Z"),
        (1767225600000, 1772409599999),
        (True, False),
        ([], {}),
    ],
    ids=repr,
)
def test_a_broken_period_leaves_the_counts_valid(
    provider: Octanist, start: object, end: object
) -> None:
    """It is there, so there is a subscription; where it ends is unknown, which is noted."""
    reading = read(provider, stats(periodStart=start, periodEnd=end))
    assert reading.usages == {"leads": Usage(150, 500)}
    assert reading.period == UNKNOWN_PERIOD
    assert reading.extra["unreadable"] == ("data.usage.periodEnd",)


@given(
    days=st.integers(1, 400),
    written=st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    zone=st.sampled_from(["Z", "+00:00", "+05:30", "-08:00"]),
)
def test_the_last_instant_told_is_one_step_before_the_next_period(
    days: int, written: str, zone: str
) -> None:
    """Law: inclusive ends in every fraction and offset, and a bare date is its whole day."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    end = begin + timedelta(days=days)
    last = end - timedelta(**{written: 1})
    offset = datetime.fromisoformat(f"2026-01-01T00:00:00{zone}").tzinfo
    texts = [at.astimezone(offset).isoformat(timespec=written) for at in (begin, last)]
    said = stats(periodStart=texts[0], periodEnd=texts[1].replace("+00:00", zone))
    period = read(Octanist(KEY), said).period
    assert period == Period(begin.timestamp(), end.timestamp())
    bare = stats(periodStart="2026-01-01", periodEnd=last.date().isoformat())
    assert read(Octanist(KEY), bare).period.ends_at == end


# ---------------------------------------------------------------------- errors

UNREADABLE: dict[str, bytes | None] = {
    "not read": None,
    "empty": b"",
    "html": b"<html>please log in</html>",
    "truncated": json.dumps(stats()).encode()[:-3],
    "trailing garbage": json.dumps(stats()).encode() + b"}",
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(stats()).encode(),
    "utf-16": json.dumps(stats()).encode("utf-16"),
    "array": b"[]",
    "scalar": b"12",
    "null": b"null",
    "nesting": b"[" * 100_000,
    "not a number": json.dumps(stats(leadsUsed=float("nan"))).encode(),
    "overflow": json.dumps(stats(leadsUsed="?")).encode().replace(b'"?"', b"1e400"),
    "5,000 digits": json.dumps(stats(leadsUsed="?")).encode().replace(b'"?"', b"9" * 5000),
    "same key twice": json.dumps(stats()).encode().replace(b'"leadsLimit"', b'"leadsUsed"'),
    "no envelope": json.dumps(stats()["data"]).encode(),
    "success missing": b'{"data": {}}',
    "success null": b'{"success": null}',
    "success 1": json.dumps(stats() | {"success": 1}).encode(),
    "success in words": json.dumps(stats() | {"success": "true"}).encode(),
    "no data": b'{"success": true}',
    "data null": b'{"success": true, "data": null}',
    "data an array": b'{"success": true, "data": []}',
    "no usage": b'{"success": true, "data": {}}',
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_reading_names_the_path_it_looked_for(
    provider: Octanist, body: bytes | None
) -> None:
    """The old reading stays in use; nothing of the body shows."""
    with pytest.raises(StatsUnreadable, match="looked for") as caught:
        provider.read_stats(Outcome(200, {"x-request-id": "req-1"}, body))
    error = caught.value
    assert error.path
    assert (error.provider, error.status) == ("octanist", 200)
    assert error.request_id in ("req-1", REQUEST)
    assert error.__cause__ is None
    assert "log in" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("stats_400_no_body", StatsUnavailable, "VALIDATION_ERROR"),
        ("stats_400_dates", StatsUnavailable, "VALIDATION_ERROR"),
        ("stats_400_invalid_date", StatsUnavailable, "INVALID_DATE"),
        ("stats_401", StatsForbidden, "UNAUTHORIZED"),
        ("stats_500", StatsUnavailable, "INTERNAL_ERROR"),
    ],
)
def test_documented_errors_carry_status_code_and_request(
    provider: Octanist, name: str, kind: type[ProviderError], code: str
) -> None:
    """The id is theirs, from the body's meta."""
    outcome = outcome_of(name)
    with pytest.raises(kind, match=str(outcome.status)) as caught:
        provider.read_stats(outcome)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.request_id) == (outcome.status, code, REQUEST)
    assert f"(request {REQUEST})" in str(error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_forbidden(provider: Octanist, status: int) -> None:
    """Whatever stands in the body."""
    for body in (None, b"", b"<html>", b"[]", b'{"error": "Invalid or missing API key"}'):
        with pytest.raises(StatsForbidden) as caught:
            provider.read_stats(answer(status, raw=body))
        assert (caught.value.status, caught.value.code) == (status, None)


@pytest.mark.parametrize(
    "status",
    [0, 201, 204, 206, 302, 400, 402, 404, 405, 408, 409, 418, 429, 500, 502, 503, 504, 520],
)
def test_other_statuses_are_unavailable(provider: Octanist, status: int) -> None:
    """Even with a perfect body: an error page is no reading."""
    with pytest.raises(StatsUnavailable, match=str(status)) as caught:
        provider.read_stats(answer(status, stats(), retry_after="30"))
    assert (caught.value.status, caught.value.retry_after) == (status, 30.0)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INTERNAL_ERROR", StatsUnavailable),
        ("UNAUTHORIZED", StatsForbidden),
        ("FORBIDDEN", StatsForbidden),
        ("A_NEW_ONE", StatsUnavailable),
        (None, StatsUnavailable),
        ([], StatsUnavailable),
    ],
    ids=repr,
)
def test_an_unsuccessful_200_is_no_reading(
    provider: Octanist, code: object, kind: type[ProviderError]
) -> None:
    """Whatever stands beside it; the code says whether it is about the key."""
    said = stats() | {"success": False, "error": {"code": code, "message": "s3cret"}}
    with pytest.raises(kind) as caught:
        read(provider, said)
    assert type(caught.value) is kind
    assert caught.value.code == (code if isinstance(code, str) else None)
    assert caught.value.request_id == REQUEST
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_fault_of_theirs_does_not_end_the_polls(provider: Octanist) -> None:
    """A 500 that calls itself UNAUTHORIZED is a 500."""
    said = {"success": False, "error": {"code": "UNAUTHORIZED"}}
    with pytest.raises(StatsUnavailable):
        provider.read_stats(answer(500, said))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("req-9f0c", "req-9f0c"),
        ("a b", "head-1"),
        ("a\nERROR forged", "head-1"),
        ("x" * 81, "head-1"),
        (f"for-{KEY}", "head-1"),
        ("", "head-1"),
        (12, "head-1"),
        (None, "head-1"),
        ([], "head-1"),
    ],
    ids=repr,
)
def test_a_request_id_is_told_if_it_is_short_and_printable(
    provider: Octanist, said: object, told: str
) -> None:
    """The body's before the header's; it never carries the key or breaks a log line."""
    body = {"success": False, "meta": {"requestId": said}}
    with pytest.raises(StatsUnavailable) as caught:
        provider.read_stats(answer(500, body, x_request_id="head-1"))
    assert caught.value.request_id == told


def test_a_strange_code_is_not_told(provider: Octanist) -> None:
    """A code is one plain word without the key in it, and a message has only known ones."""
    for code in ("two words", "x\ny", f"CODE_{KEY}", "c" * 81):
        with pytest.raises(StatsUnavailable) as caught:
            provider.read_stats(answer(400, {"error": {"code": code}}))
        assert caught.value.code is None
    with pytest.raises(StatsUnavailable) as caught:
        provider.read_stats(answer(400, {"error": {"code": "A_NEW_ONE"}}))
    assert caught.value.code == "A_NEW_ONE"
    assert "A_NEW_ONE" not in str(caught.value)


# ----------------------------------------------------------------------- laws

EXAMPLES = max(300, settings.default.max_examples if settings.default else 0)
"""By default; the soak profile asks for more."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([-1, 0, 1, 10**15, 10**15 + 1, 2**63, 1e400, "2026-11-01", "UNAUTHORIZED"])
)
NAMES = [
    *("success", "data", "usage", "leadsUsed", "leadsLimit", "lockedLeads", "periodStart"),
    *("periodEnd", "error", "code", "meta", "requestId"),
]
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
CHOICES = st.builds(
    OctanistChoices,
    no_subscription=st.sampled_from(["closed", "open"]),
    locked=st.sampled_from(["exhausted", "ignored"]),
    unlimited=st.lists(st.sampled_from(["null", "missing", "-1", "0"]), max_size=2).map(tuple),
    rejected=st.sampled_from(["free", "billed", "unknown"]),
    duplicate=st.sampled_from(["free", "billed", "unknown"]),
    unsuccessful=st.sampled_from(["free", "billed", "unknown"]),
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


def check_stats(provider: Octanist, outcome: Outcome) -> None:
    """Read *outcome*; only a ProviderError or a sound reading may come of it, report too."""
    reads: list[Callable[[Outcome], object]]
    reads = [provider.read_stats, provider.reports["stats"]().read]
    for reader in reads:
        try:
            said = reader(outcome)
        except ProviderError as error:
            shown = f"{error} {error.__cause__}"
        else:
            assert outcome.status == 200
            shown = repr(said)
            if isinstance(said, Reading):
                check_reading(provider, said)
        assert KEY not in shown


def check_reading(provider: Octanist, reading: Reading) -> None:
    """Find *reading* sound: whole counts, dates that can be shown, no limit invented."""
    usage = reading.usages["leads"]
    assert set(reading.usages) == {"leads"}
    assert type(usage.used) is int
    assert 0 <= usage.used <= 2 * 10**15
    assert usage.limit is None or (type(usage.limit) is int and 0 <= usage.limit <= 10**15)
    if not provider.choices.unlimited:
        assert usage.limit is not None
    if usage.extra.get("lockedLeads") and provider.choices.locked == "exhausted":
        assert usage.exhausted
    json.dumps([dict(reading.extra), dict(usage.extra)])
    assert isinstance(reading.period.starts_at, datetime | None)
    assert isinstance(reading.period.ends_at, datetime | None)
    if reading.period.end is None:
        assert "unreadable" in reading.extra or provider.choices.no_subscription == "open"


@settings(max_examples=EXAMPLES)
@given(
    choices=CHOICES,
    status=st.just(200) | st.integers(0, 999),
    body=st.none() | st.binary(max_size=64) | JSON.map(lambda said: json.dumps(said).encode()),
    header=st.text(max_size=12),
)
def test_reading_stats_raises_nothing_but_provider_errors(
    choices: OctanistChoices, status: int, body: bytes | None, header: str
) -> None:
    """Whatever the choices, the status, the bytes and the headers are."""
    headers = dict.fromkeys(("retry-after", "x-request-id", "x-amzn-requestid"), header)
    check_stats(Octanist(KEY, choices=choices), Outcome(status, headers, body))


@settings(max_examples=EXAMPLES)
@given(choices=CHOICES, body=mutated())
def test_a_mutated_answer_is_a_sound_reading_or_a_provider_error(
    choices: OctanistChoices, body: bytes
) -> None:
    """Every count that is read is a whole number from 0, and a limit is told or chosen away."""
    check_stats(Octanist(KEY, choices=choices), Outcome(200, {}, body))


COUNTS = st.integers(0, 10**15)


@settings(max_examples=EXAMPLES)
@given(used=COUNTS, limit=COUNTS, locked=COUNTS | st.just(0))
def test_no_number_leaves_more_than_each_of_them_does(used: int, limit: int, locked: int) -> None:
    """Law: what is left is never more than used and limit leave, and nothing beside locked."""
    usage = leads(Octanist(KEY), leadsUsed=used, leadsLimit=limit, lockedLeads=locked)
    assert usage.limit is not None
    left = usage.limit - usage.used
    assert left <= limit - used
    assert left <= (0 if locked else limit - used)
    assert usage.used >= used
    assert usage.limit <= limit


@settings(max_examples=EXAMPLES)
@given(
    choices=CHOICES,
    path=st.sampled_from(["/api/leads", "/api/leads/", "/api/stats"]),
    method=st.sampled_from(["POST", "PATCH", "GET"]),
    status=st.sampled_from([200, 201, 204, 400, 402, 403, 409, 429, 500, 503])
    | st.integers(0, 999),
    body=st.none() | st.binary(max_size=32) | JSON.map(lambda said: json.dumps(said).encode()),
    header=st.text(max_size=12),
)
def test_billing_never_raises_and_never_exceeds_the_price(
    choices: OctanistChoices, path: str, method: str, status: int, body: bytes | None, header: str
) -> None:
    """A bill is unknown or at most one lead, and a pause is at most an hour."""
    provider = Octanist(KEY, choices=choices)
    call = create(path, method=method, headers={"x-api-key": header})
    bill = provider.bill(call, Outcome(status, {"retry-after": header}, body))
    assert isinstance(provider.foreign(call), bool)
    assert bill.cost is None or bill.cost in ({}, LEAD)
    if bill.cost:
        assert provider.price(call) is not None
    for evidence in bill.evidence:
        assert evidence.kind in ("pause", "doubt")
        assert 0 <= evidence.seconds <= 3600
    assert not bill.deferred
    if body is not None:
        assert not bill.wants_body
