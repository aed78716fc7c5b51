"""Voxys: what its analytics, its prices and its answers mean."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import traceback
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
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
from quotaguard.providers.voxys import Voxys, VoxysChoices
from quotaguard.quota.calls import Bill, Call, Evidence, Outcome, StatsRequest
from quotaguard.quota.fields import MOST_COUNT
from quotaguard.quota.readings import FRACTIONS, PERIOD_SKEW, Meter, Reading, Usage

KEY = "vx-canary-5f2d"
ORIGIN = "https://connect.voxys.ai"
ROOT = "/api/v1/accounts/7/"
CREATED = "deals.created"
RECORDED = Path(__file__).parent / "recorded"
NOVEMBER = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()

LIMITS: dict[str, Any] = {
    "deals.created": 500,
    "deals.won": 50,
    "deals.lost": None,
    "value.created": 200_000,
    "value.won": 1e5,
    "agent.1.created": 40,
    "agent.1.won": 12,
    "agent.1.value_won": 80_000.5,
    "stage.7.count": 20,
    "stage.7.value": 100_000,
}


def voxys(**given: Any) -> Voxys:
    """Return the provider of account 7 and pipeline 3, some of it as told."""
    return Voxys(KEY, 7, 3, **given)


def recorded(name: str) -> dict[str, Any]:
    """Return one recorded exchange."""
    exchange: dict[str, Any] = json.loads((RECORDED / f"voxys_{name}.json").read_text())
    return exchange


def call_of(name: str) -> Call:
    """Return the recorded request as a call."""
    request = recorded(name)["request"]
    headers = {n.lower(): text.replace("{key}", KEY) for n, text in request["headers"].items()}
    path = request["url"].removeprefix(ORIGIN).partition("?")[0]
    return Call(request["method"], ORIGIN, path, headers, json.dumps(request["json"]).encode())


def outcome_of(name: str) -> Outcome:
    """Return the recorded answer."""
    answer = recorded(name)["response"]
    body = answer["text"].encode() if "text" in answer else json.dumps(answer["json"]).encode()
    return Outcome(answer["status"], {n.lower(): v for n, v in answer["headers"].items()}, body)


def convert(
    body: object = None,
    path: str = "leads/9/convert",
    *,
    raw: bytes | None = None,
    method: str = "POST",
    origin: str = ORIGIN,
    root: str = ROOT,
    key: str = KEY,
) -> Call:
    """Return a call that makes a lead a deal, or nearly so."""
    said = raw if body is None else json.dumps(body).encode()
    return Call(method, origin, root + path, {"api_access_token": key}, said)


OURS = {"funnel_id": 3, "funnel_stage_id": 7}


def month(**changed: object) -> dict[str, Any]:
    """Return the analytics of November 2026, some of it as told."""
    return {**recorded("analytics_month")["response"]["json"], **changed}


def answer(said: object, status: int = 200) -> Outcome:
    """Return an answer with *said* in it."""
    return Outcome(status, {}, json.dumps(said).encode())


def read(said: object, **given: Any) -> Reading:
    """Return the reading of a 200 with *said* in it."""
    return voxys(**given).read_stats(answer(said))


# ------------------------------------------------------------------- identity


def test_it_is_a_provider() -> None:
    """The guard's Protocol is what it offers; without limits one meter is counted."""
    checked: Provider = voxys()
    assert checked.name == "voxys"
    assert checked.polls_per_hour == 60
    assert checked.key_headers == ("api_access_token",)
    assert dict(checked.meters) == {CREATED: Meter(CREATED)}
    assert dict(checked.operations) == {"leads.convert": {CREATED: 1}}
    assert set(checked.reports) == {"analytics"}


def test_meters_are_what_has_a_limit() -> None:
    """Counts in whole deals, money in millionths; what is in a stage is a level."""
    meters = voxys(limits={name: limit for name, limit in LIMITS.items() if name != CREATED}).meters
    assert set(meters) == set(LIMITS)
    assert all(name == meter.name for name, meter in meters.items())
    money = {name for name, meter in meters.items() if meter.scale == FRACTIONS}
    assert money == {name for name in LIMITS if "value" in name}
    levels = {name for name, meter in meters.items() if meter.kind == "level"}
    assert levels == {"stage.7.count", "stage.7.value"}
    for changed in (meters, voxys().operations):
        with pytest.raises(TypeError):
            changed["more"] = None  # type: ignore[index]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "deals",
        "deals.made",
        "Deals.created",
        "deals.created ",
        "value.lost",
        "agent.created",
        "agent.x.created",
        "agent.0.created",
        "agent.-1.created",
        "agent.01.created",
        "agent.1.lost",
        "agent.1.count",
        "agent.1.created.more",
        "agent.1.created\n",
        "agent.٣.created",
        f"agent.{10**18}.created",
        "stage.7.created",
        "stage.7",
        "stage..count",
        "total_created",
        None,
        7,
        ("deals.created",),
    ],
    ids=repr,
)
def test_an_unknown_meter_is_a_config_error_that_lists_them(name: Any) -> None:
    """A limit on nothing would guard nothing."""
    with pytest.raises(ConfigError) as caught:
        voxys(limits={name: 5})
    for known in ("deals.created", "deals.lost", "value.won", "agent.<id>.created|won|value_won"):
        assert known in str(caught.value)
    assert "stage.<id>.count|value" in str(caught.value)


@pytest.mark.parametrize("limit", [0, 0.0, 1, 2.5, Decimal(7), None], ids=repr)
def test_a_limit_is_a_number_from_0_or_none(limit: Any) -> None:
    """0 is nothing and None is counted only; a count is rounded down."""
    usage = read(month(), limits={CREATED: limit}).usages[CREATED]
    assert usage == Usage(30, None if limit is None else int(limit))


@pytest.mark.parametrize("limits", [{CREATED: -1}, {CREATED: True}, {CREATED: "5"}, [], 500, "x"])
def test_limits_that_are_none_are_config_errors(limits: Any) -> None:
    """They are found when the provider is built."""
    with pytest.raises(ConfigError, match="limit"):
        voxys(limits=limits)


@pytest.mark.parametrize("number", [0, -1, 1.0, "7", True, None, [], 3.5], ids=repr)
@pytest.mark.parametrize("which", ["account_id", "funnel_id", "agent_id"])
def test_ids_are_the_vendors_numbers(which: str, number: Any) -> None:
    """Whole and from 1; a text from the environment is told at once."""
    given = {"account_id": 7, "funnel_id": 3, which: number}
    if which == "agent_id" and number is None:
        assert Voxys(KEY, **given)
        return
    with pytest.raises(ConfigError, match=which):
        Voxys(KEY, **given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": "hour"},
        {"window": None},
        {"time_zone": "Europe/Atlantis"},
        {"time_zone": None},
        {"choices": None},
        {"choices": {"unlisted": "zero"}},
        {"base_url": "http://connect.voxys.ai"},
        {"account": " "},
        {"operations": 3},
    ],
    ids=str,
)
def test_what_cannot_be_is_a_config_error(wrong: dict[str, Any]) -> None:
    """It is found when the provider is built, and not at 3 a.m."""
    with pytest.raises(ConfigError):
        voxys(**wrong)


@pytest.mark.parametrize("key", ["", " \n", "schlüssel", "a\nb", None, 7])
def test_a_key_that_no_header_can_carry_is_a_config_error(key: Any) -> None:
    """As with every provider."""
    with pytest.raises(ConfigError, match="key"):
        Voxys(key, 7, 3)


def test_nothing_shows_the_key() -> None:
    """Neither repr, nor the request's, nor an error; and nothing is pickled."""
    provider = voxys(limits=LIMITS, time_zone="Europe/Berlin", window="week")
    assert repr(provider) == "<Voxys connect.voxys.ai: week in Europe/Berlin>"
    asked = provider.stats_request(NOVEMBER)
    report = provider.reports["analytics"]()
    for shown in (repr(provider), repr(asked), repr(report), repr(report.ask()), provider.account):
        assert KEY not in shown
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(provider, protocol)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(provider)


def test_the_account_goes_by_its_numbers_and_not_by_the_key() -> None:
    """Every user has a key of his own, and all spend from one pipeline."""
    digest = voxys().account
    assert Voxys("another users key", 7, 3).account == digest
    others = [
        Voxys(KEY, 8, 3),
        Voxys(KEY, 7, 4),
        voxys(window="week"),
        voxys(time_zone="Europe/Berlin"),
        voxys(agent_id=1),
        voxys(limits={CREATED: 5}),
        voxys(limits={CREATED: 6}),
        voxys(account="acme"),
        voxys(account="acme", window="week"),
        voxys(base_url="http://127.0.0.1:8080"),
    ]
    assert len({digest, *(other.account for other in others)}) == len(others) + 1
    assert Voxys("a", 7, 3, account="acme").account == Voxys("b", 9, 3, account="acme").account


# ---------------------------------------------------------------------- stats


def asked_of(request: StatsRequest) -> tuple[str, dict[str, str]]:
    """Return the URL of a request without its query, and that."""
    url, _, query = request.url.partition("?")
    return url, dict(part.split("=") for part in query.split("&") if part)


def test_the_stats_request_is_the_documented_one() -> None:
    """GET with the window in since and until, the key under its own name, no body."""
    request, documented = voxys().stats_request(NOVEMBER), recorded("analytics_month")["request"]
    assert (request.method, request.url) == (documented["method"], documented["url"])
    assert dict(request.headers) == {"api_access_token": KEY}
    assert request.body is None


def test_an_agent_is_asked_for() -> None:
    """The filter goes into every poll."""
    asked = asked_of(voxys(agent_id=12).stats_request(NOVEMBER))[1]
    assert asked == {"since": "2026-11-01", "until": "2026-11-30", "agent_id": "12"}


@pytest.mark.parametrize(
    ("window", "since", "until"),
    [
        ("day", "2026-11-21", "2026-11-21"),
        ("week", "2026-11-16", "2026-11-22"),
        ("month", "2026-11-01", "2026-11-30"),
        ("quarter", "2026-10-01", "2026-12-31"),
        ("year", "2026-01-01", "2026-12-31"),
    ],
)
def test_each_window_goes_into_since_and_until(window: Any, since: str, until: str) -> None:
    """Both days are within it."""
    asked = asked_of(voxys(window=window).stats_request(NOVEMBER))[1]
    assert asked == {"since": since, "until": until}


@pytest.mark.parametrize(
    ("zone", "day"), [("UTC", 30), ("Europe/Berlin", 1), ("America/New_York", 30)]
)
def test_the_day_is_that_of_the_zone(zone: str, day: int) -> None:
    """At 23:30 in London it is the next day in Berlin."""
    late = datetime(2026, 11, 30, 23, 30, tzinfo=UTC).timestamp()
    asked = asked_of(voxys(window="day", time_zone=zone).stats_request(late))[1]
    assert asked["since"] == asked["until"]
    assert date.fromisoformat(asked["since"]).day == day


def test_the_old_window_is_asked_for_until_its_end_is_beyond_doubt() -> None:
    """The answer echoes the dates that were asked for: it proves nothing of their clock."""
    midnight = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    months = [
        asked_of(voxys().stats_request(midnight + off))[1]["since"][5:7]
        for off in (-1, 0, PERIOD_SKEW - 0.01, PERIOD_SKEW)
    ]
    assert months == ["11", "11", "11", "12"]


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (ORIGIN, f"{ORIGIN}{ROOT}funnels/3/analytics"),
        (f"{ORIGIN}/api/v1/", f"{ORIGIN}{ROOT}funnels/3/analytics"),
        (
            "https://proxy.example:8443/vx",
            f"https://proxy.example:8443/vx{ROOT}funnels/3/analytics",
        ),
        ("http://127.0.0.1:80", f"http://127.0.0.1{ROOT}funnels/3/analytics"),
    ],
)
def test_base_url_is_an_origin_and_what_stands_before_the_api(base_url: str, url: str) -> None:
    """Polls go there, and calls are priced there."""
    provider = voxys(base_url=base_url)
    assert asked_of(provider.stats_request(NOVEMBER))[0] == url
    scheme, _, rest = url.removesuffix("funnels/3/analytics").partition("://")
    host, _, root = rest.partition("/")
    assert provider.price(convert(OURS, origin=f"{scheme}://{host}", root=f"/{root}"))


# ---------------------------------------------------------------------- price


@pytest.mark.parametrize("path", ["leads/9/convert", "leads/9/convert/", "leads/9/convert.json"])
def test_a_conversion_into_this_pipeline_is_priced(path: str) -> None:
    """One deal; a slash or a format at the end does not make it free."""
    price = voxys().price(convert(OURS, path))
    assert price is not None
    assert (price.operation, dict(price.cost)) == ("leads.convert", {CREATED: 1})


@pytest.mark.parametrize("funnel", [3, "3", "03", 3.0], ids=repr)
def test_a_pipeline_may_be_named_as_text(funnel: object) -> None:
    """The vendor's framework takes both."""
    assert voxys().price(convert({"funnel_id": funnel}))


@pytest.mark.parametrize("funnel", [4, "4", 33, 0, 4.0, "999999999999999999"], ids=repr)
def test_another_pipeline_is_not_metered(funnel: object) -> None:
    """Its deals are not in this pipeline's analytics."""
    assert voxys().price(convert({"funnel_id": funnel, "funnel_stage_id": 7})) is None


UNREADABLE_CONVERSIONS = [
    None,
    b"",
    b"{}",
    b"[3]",
    b"null",
    b"funnel_id=4",
    b'{"funnel_id": 4',
    b'{"funnel_id": 4, "funnel_id": 4}',
    b'{"funnel_id": null}',
    b'{"funnel_id": true}',
    b'{"funnel_id": [4]}',
    b'{"funnel_id": 4.5}',
    b'{"funnel_id": -4}',
    b'{"funnel_id": "four"}',
    b'{"funnel_id": " 4"}',
    b'{"funnel_id": "\xd9\xa4"}',
    b'{"lead": {"funnel_id": 4}}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("raw", UNREADABLE_CONVERSIONS, ids=lambda raw: repr(raw)[:30])
def test_a_conversion_that_names_no_pipeline_is_ours_in_doubt(raw: bytes | None) -> None:
    """It may be billed; a choice has it pass instead."""
    price = voxys(limits={"stage.7.count": 5, "stage.8.count": 5}).price(convert(raw=raw))
    assert price is not None
    assert dict(price.cost) == {CREATED: 1, "stage.7.count": 1, "stage.8.count": 1}
    other = voxys(choices=VoxysChoices(unreadable="other"))
    assert other.price(convert(raw=raw)) is None


def test_a_conversion_fills_its_stage() -> None:
    """Where that stage is a meter; a stage that cannot be read may be any of them."""
    provider = voxys(limits={"stage.7.count": 5, "stage.8.count": 5, "stage.9.value": 5})

    def cost(**body: object) -> dict[str, Any]:
        price = provider.price(convert({"funnel_id": 3, **body}))
        assert price is not None
        return dict(price.cost)

    assert cost(funnel_stage_id=7) == {CREATED: 1, "stage.7.count": 1}
    assert cost(funnel_stage_id="8") == {CREATED: 1, "stage.8.count": 1}
    assert cost(funnel_stage_id=9) == {CREATED: 1}
    assert cost(funnel_stage_id=None) == {CREATED: 1, "stage.7.count": 1, "stage.8.count": 1}
    assert cost() == {CREATED: 1, "stage.7.count": 1, "stage.8.count": 1}


def test_a_conversion_holds_the_least_of_the_value_it_adds() -> None:
    """Nobody knows how much that is; but a spent budget of it lets none through."""
    provider = voxys(limits={"value.created": 30_000, "agent.1.created": 6}, agent_id=1)
    price = provider.price(convert(OURS))
    assert price is not None
    least = 1 / FRACTIONS
    assert dict(price.cost) == {CREATED: 1, "agent.1.created": 1, "value.created": least}
    bill = provider.bill(convert(OURS), Outcome(200))
    assert bill.cost == {CREATED: 1, "agent.1.created": 1}
    assert voxys(limits={"value.created": None}).operations["leads.convert"] == {CREATED: 1}
    others = voxys(limits={"agent.1.created": 6}).operations["leads.convert"]
    assert others == {CREATED: 1}  # whose deal it will be is not known


def test_prices_are_built_once() -> None:
    """The price of a call is looked up and not made: costs are remembered by identity."""
    provider = voxys(limits={"stage.7.count": 5})
    for body in (OURS, {"funnel_id": 3, "funnel_stage_id": 1}, {"funnel_id": 3}):
        first, second = provider.price(convert(body)), provider.price(convert(body))
        assert first is second
        assert first is not None
        assert type(first.cost) is MappingProxyType


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(convert(OURS, method="GET"), id="another method"),
        pytest.param(convert(OURS, "leads"), id="a lead's creation"),
        pytest.param(convert(OURS, "leads/9"), id="a lead"),
        pytest.param(convert(OURS, "leads/bulk"), id="bulk"),
        pytest.param(convert(OURS, "leads/9/convert/x"), id="below it"),
        pytest.param(convert(OURS, "Leads/9/convert"), id="another case"),
        pytest.param(convert(OURS, "leads//convert"), id="no lead"),
        pytest.param(convert(OURS, root="/api/v1/accounts/8/"), id="another account"),
        pytest.param(convert(OURS, root="/api/v1/accounts/77/"), id="an account with more digits"),
        pytest.param(convert(OURS, root="/api/v2/accounts/7/"), id="another version"),
        pytest.param(convert(OURS, root="/"), id="no account"),
        pytest.param(convert(OURS, origin="https://connect.voxys.ai.example"), id="another host"),
        pytest.param(convert(OURS, origin="http://connect.voxys.ai"), id="another scheme"),
        pytest.param(call_of("analytics_month"), id="the stats call"),
        pytest.param(call_of("leads_bulk_200"), id="bulk as documented"),
        pytest.param(call_of("leads_create_200"), id="a lead as documented"),
    ],
)
def test_other_calls_pass(call: Call) -> None:
    """What makes no deal here, as far as is known, is not metered."""
    assert voxys().price(call) is None
    assert voxys().bill(call, Outcome(200)) == Bill(None)


def test_other_calls_can_be_priced() -> None:
    """By a name for decorators, or by a route that is matched on the wire too."""
    provider = voxys(
        limits={"agent.1.created": 9, "value.created": 1e6},
        operations={
            "leads.import": {CREATED: 25},
            "POST leads": {CREATED: 1, "agent.1.created": 1, "value.created": 99.5},
            "POST leads/{id}/clone": {CREATED: 1},
        },
    )
    assert set(provider.operations) == {
        *("leads.convert", "leads.import"),
        *("POST leads", "POST leads/{id}/clone"),
    }
    created = provider.price(call_of("leads_create_200"))
    assert created is not None
    assert created.operation == "POST leads"
    assert created.cost == {CREATED: 1, "agent.1.created": 1, "value.created": 99.5}
    assert provider.bill(call_of("leads_create_200"), Outcome(201)) == Bill(created.cost)
    cloned = provider.price(convert(None, "leads/9/clone"))
    assert cloned is not None
    assert cloned.operation == "POST leads/{id}/clone"
    assert provider.price(convert(OURS)) is not None
    assert provider.price(call_of("leads_bulk_200")) is None


def test_a_conversion_can_be_priced_anew() -> None:
    """Who knows that conversions go to one agent says so; the stage is added as before."""
    provider = voxys(
        limits={"agent.1.created": 9, "stage.7.count": 3},
        operations={"leads.convert": {CREATED: 1, "agent.1.created": 1}},
    )
    price = provider.price(convert(OURS))
    assert price is not None
    assert price.cost == {CREATED: 1, "agent.1.created": 1, "stage.7.count": 1}
    assert provider.price(convert({"funnel_id": 4})) is None


@pytest.mark.parametrize(
    ("operations", "told"),
    [
        ({"POST /leads": {CREATED: 1}}, "is no route"),
        ({"leads create": {CREATED: 1}}, "is no route"),
        ({"POST leads/{id}/convert": {CREATED: 1}}, "a price already"),
        ({"POST leads/{lead}/convert": {CREATED: 1}}, "a price already"),
        ({"leads.create": {"deals.won": 1}}, "there are deals.created"),
        ({"leads.create": {}}, "maps meters to units"),
        ({"leads.create": {CREATED: -1}}, "from 0 upwards"),
    ],
    ids=str,
)
def test_a_malformed_operation_is_a_config_error(operations: Any, told: str) -> None:
    """A price that no call ever finds would leave calls free."""
    with pytest.raises(ConfigError, match=told):
        voxys(operations=operations)


def test_another_agent_would_always_count_0() -> None:
    """The filter leaves him out of the answer, and a limit on him would never close."""
    assert voxys(agent_id=1, limits={"agent.1.won": 5})
    with pytest.raises(ConfigError, match="always count 0"):
        voxys(agent_id=1, limits={"agent.2.won": 5})


# -------------------------------------------------------------------- foreign


@pytest.mark.parametrize("key", [KEY, "another users key", "", "\udcff"])
def test_no_key_is_foreign(key: str) -> None:
    """Whoever's key it is: the call spends from the same pipeline, and counts."""
    assert not voxys().foreign(convert(OURS, key=key))
    assert not voxys().foreign(convert(OURS)._replace(headers={}))


# ----------------------------------------------------------------------- bill

DEAL = {CREATED: 1}
BUSY = (Evidence("pause", seconds=10.0),)


@pytest.mark.parametrize(
    ("name", "bill"),
    [
        ("convert_200", Bill(DEAL)),
        ("convert_401", Bill({})),
        ("convert_402", Bill({}, (Evidence("doubt"),))),
        ("convert_404", Bill({})),
        ("convert_422", Bill({})),
        ("convert_429", Bill({}, BUSY)),
        ("convert_500", Bill(None)),
    ],
)
def test_what_each_recorded_answer_costs(name: str, bill: Bill) -> None:
    """The status decides, at the headers; the body is never wanted."""
    call, outcome = call_of(name), outcome_of(name)
    assert voxys().bill(call, outcome) == bill
    assert voxys().bill(call, outcome._replace(body=None)) == bill


@pytest.mark.parametrize(
    ("status", "cost"),
    [
        *((status, DEAL) for status in (200, 201, 202, 204, 207, 299)),
        *((status, {}) for status in (300, 301, 302, 303, 307, 308, 304)),
        *((status, {}) for status in (400, 401, 402, 403, 404, 405, 422, 429)),
        *((status, None) for status in (408, 409, 410, 418, 451, 499)),
        *((status, None) for status in (500, 502, 503, 504, 520, 599)),
        *((status, None) for status in (0, 100, 103, 199, 600, 999)),
    ],
)
def test_what_each_status_costs(status: int, cost: dict[str, int] | None) -> None:
    """What is not known to be free is not taken for free."""
    assert voxys().bill(convert(OURS), Outcome(status)).cost == cost


@pytest.mark.parametrize(
    ("status", "said", "seconds"),
    [
        (429, "7", 7.0),
        (429, "2.5", 2.5),
        (429, "0", 10.0),
        (429, "-1", 10.0),
        (429, "soon", 10.0),
        (429, "1e9", 10.0),
        (429, "1209600", 10.0),
        (503, "7", 7.0),
        (503, "", None),
        (500, "7", None),
        (200, "7", None),
    ],
)
def test_haste_pauses_and_says_nothing_of_the_quota(
    status: int, said: str, seconds: float | None
) -> None:
    """By Retry-After, where that can be meant; else for as long as the choice says."""
    evidence = voxys().bill(convert(OURS), Outcome(status, {"retry-after": said})).evidence
    assert evidence == (() if seconds is None else (Evidence("pause", seconds=seconds),))


def test_choices_change_what_an_answer_means() -> None:
    """Each of them, and nothing else."""
    call = convert(OURS)

    def bill(status: int, **choice: Any) -> Bill:
        provider = voxys(limits={"stage.7.count": 5}, choices=VoxysChoices(**choice))
        return provider.bill(call, Outcome(status))

    assert bill(402) == Bill({}, (Evidence("doubt"),))
    assert bill(402, account_limit="nothing") == Bill({})
    (spent,) = bill(402, account_limit="exhausted").evidence
    assert (spent.kind, set(spent.meters)) == ("exhausted", {CREATED, "stage.7.count"})
    assert bill(500, server_error="free") == Bill({})
    assert bill(408, server_error="free") == Bill(None)
    assert bill(429, busy_pause=0) == Bill({})
    assert bill(429, busy_pause=2.5).evidence == (Evidence("pause", seconds=2.5),)
    assert voxys(choices=VoxysChoices(polls_per_hour=12)).polls_per_hour == 12
    said = month(by_stage=[], by_agent=[])
    limits = {"stage.7.count": 5, "agent.1.won": 5}
    assert read(said, limits=limits).usages["agent.1.won"] == Usage(0, 5)
    strict = read(said, limits=limits, choices=VoxysChoices(unlisted="unknown"))
    assert set(strict.usages) == {CREATED}
    assert set(strict.extra["unreadable"]) == {"by_stage[7].count", "by_agent[1].won"}
    counter = voxys(limits=limits, choices=VoxysChoices(stages="counter"))
    assert counter.meters["stage.7.count"].kind == "counter"


@pytest.mark.parametrize(
    "wrong",
    [
        {"account_limit": "free"},
        {"unreadable": True},
        {"server_error": None},
        {"unlisted": 0},
        {"stages": "balance"},
        {"busy_pause": -1},
        {"busy_pause": 3601},
        {"busy_pause": "10"},
        {"busy_pause": float("nan")},
        {"polls_per_hour": 0},
        {"polls_per_hour": True},
    ],
    ids=str,
)
def test_a_choice_that_there_is_not_is_a_config_error(wrong: dict[str, Any]) -> None:
    """It names the choice."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        VoxysChoices(**wrong)


def test_every_choice_has_its_reason() -> None:
    """The docstring leaves none out, and each has a default."""
    said = inspect.getdoc(VoxysChoices) or ""
    for field in fields(VoxysChoices):
        assert f"\n{field.name}: " in said
        assert hasattr(VoxysChoices(), field.name)


# -------------------------------------------------------------------- reading


def test_the_documented_example_is_read() -> None:
    """It is a day: number for number, with rows that do not add up to the totals."""
    limits = {**LIMITS, "stage.123.count": 200, "agent.2.won": 5}
    reading = voxys(window="day", limits=limits).read_stats(outcome_of("analytics_documented"))
    assert reading.usages[CREATED] == Usage(30, 500)
    assert reading.usages["deals.won"] == Usage(10, 50)
    assert reading.usages["deals.lost"] == Usage(4, None)
    assert reading.usages["value.created"] == Usage(150_000 * FRACTIONS, 200_000 * FRACTIONS)
    assert reading.usages["agent.1.created"] == Usage(123, 40)
    assert reading.usages["agent.1.value_won"] == Usage(123 * FRACTIONS, 80_000_500_000)
    assert reading.usages["stage.123.count"] == Usage(123, 200)
    assert reading.usages["stage.7.count"] == Usage(0, 20)
    assert reading.usages["agent.2.won"] == Usage(0, 5)
    assert reading.period.starts_at == datetime(2023, 12, 25, tzinfo=UTC)
    assert reading.period.ends_at == datetime(2023, 12, 26, tzinfo=UTC)
    assert "unreadable" not in reading.extra


def test_the_period_is_that_of_the_answer_in_the_zone() -> None:
    """From the start of the first day to the end of the last one, within seconds."""
    period = read(month(), time_zone="America/New_York").period
    assert period.starts_at == datetime(2026, 11, 1, 4, tzinfo=UTC)  # still daylight saving
    assert period.ends_at == datetime(2026, 12, 1, 5, tzinfo=UTC)
    assert period.skew == PERIOD_SKEW


PERIODS: dict[str, object] = {
    "null": None,
    "missing": ...,
    "text": "2026-11",
    "empty": {},
    "nulls": {"since": None, "until": None},
    "no until": {"since": "2026-11-01"},
    "a day off at the start": {"since": "2026-11-02", "until": "2026-11-30"},
    "a day off at the end": {"since": "2026-11-01", "until": "2026-12-01"},
    "two months": {"since": "2026-11-01", "until": "2026-12-31"},
    "a day": {"since": "2026-11-21", "until": "2026-11-21"},
    "a year": {"since": "2026-01-01", "until": "2026-12-31"},
    "backwards": {"since": "2026-11-30", "until": "2026-11-01"},
    "times": {"since": "2026-11-01T00:00:00Z", "until": "2026-11-30T23:59:59Z"},
    "numbers": {"since": 20261101, "until": 20261130},
    "no dates": {"since": "soon", "until": "later"},
    "31 November": {"since": "2026-11-01", "until": "2026-11-31"},
    "the last of all": {"since": "9999-12-01", "until": "9999-12-31"},
    "the first of all": {"since": "0001-01-01", "until": "0001-01-01"},
}


@pytest.mark.parametrize("period", PERIODS.values(), ids=PERIODS)
def test_dates_that_are_not_one_window_are_no_reading(period: object) -> None:
    """A count of other days says nothing of these; above all it never raises what is left."""
    said = month(period=period)
    if period is ...:
        del said["period"]
    with pytest.raises(StatsUnreadable) as caught:
        read(said)
    assert (caught.value.path or "").startswith("period")
    assert caught.value.status == 200


def test_a_poll_is_read_by_what_it_asked_for() -> None:
    """Another window, such as yesterday's from a cache, is refused although it is one."""
    provider = voxys(window="day")
    today = provider.stats_request(NOVEMBER)
    assert today.read is not None
    for days in (-1, 1, 7):
        day = (date(2026, 11, 21) + timedelta(days=days)).isoformat()
        other = answer(month(period={"since": day, "until": day}))
        assert provider.read_stats(other).usages
        with pytest.raises(StatsUnreadable, match="not the window that was asked for"):
            today.read(other)
    same = answer(month(period={"since": "2026-11-21", "until": "2026-11-21"}))
    assert today.read(same) == provider.read_stats(same)
    with pytest.raises(StatsForbidden):
        today.read(answer({}, 401))


@pytest.mark.parametrize(
    "said", [None, True, "30", "1,234", -1, 30.5, 10**15 + 1, 1e300, [30], {"count": 30}], ids=repr
)
def test_a_broken_count_is_left_out_and_the_good_ones_apply(said: object) -> None:
    """Left out is unknown, never unlimited; its path is noted."""
    reading = read(month(total_created=said), limits=LIMITS)
    assert CREATED not in reading.usages
    assert len(reading.usages) == len(LIMITS) - 1
    assert reading.extra["unreadable"] == ("total_created",)


@pytest.mark.parametrize("said", [None, True, "150000", -0.01, 10**13, 1e300, [1], {}], ids=repr)
def test_broken_money_is_left_out(said: object) -> None:
    """Below 0 as well, and what no store could hold."""
    reading = read(month(total_value_created=said), limits=LIMITS)
    assert "value.created" not in reading.usages
    assert reading.extra["unreadable"] == ("total_value_created",)


@given(st.integers(0, 10**12) | st.floats(0, 1e12))
def test_money_is_rounded_up(value: float) -> None:
    """In millionths, so that rounding never makes room."""
    used = read(month(total_value_won=value), limits=LIMITS).usages["value.won"].used
    assert type(used) is int
    assert 0 <= used - Fraction(repr(value)) * FRACTIONS < 1


ROWS: dict[str, dict[str, object]] = {
    "null": {"by_agent": None, "by_stage": None},
    "text": {"by_agent": "", "by_stage": "x"},
    "objects": {"by_agent": {}, "by_stage": {}},
    "of numbers": {"by_agent": [1], "by_stage": [7]},
    "without numbers": {"by_agent": [{"agent": {}}], "by_stage": [{"stage_id": "7"}]},
    "odd numbers": {"by_agent": [{"agent": {"id": -1}}], "by_stage": [{"stage_id": True}]},
    "the same twice": {
        "by_agent": [{"agent": {"id": 2}, "created": 1}] * 2,
        "by_stage": [{"stage_id": 9, "count": 1}] * 2,
    },
    "broken counts": {
        "by_agent": [{"agent": {"id": 1}, "created": -1, "won": "3"}],
        "by_stage": [{"stage_id": 7, "count": 1.5, "value": None}],
    },
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_rows_that_cannot_be_told_apart_are_unknown(rows: dict[str, object]) -> None:
    """A list that may have lost somebody does not say that he has nothing."""
    reading = read(month(**rows), limits=LIMITS)
    assert {name.partition(".")[0] for name in reading.usages} == {"deals", "value"}
    assert set(reading.extra["unreadable"]) == {
        *(f"by_agent[1].{field}" for field in ("created", "won", "value_won")),
        *(f"by_stage[7].{field}" for field in ("count", "value")),
    }


def test_deals_that_nobody_works_on_are_nobodys() -> None:
    """A row without an agent does not spoil the others."""
    row = {"agent": {"id": 1}, "created": 4, "won": 1, "value_won": 2}
    nobody = {"agent": None, "created": 9, "won": 0, "value_won": 0}
    reading = read(month(by_agent=[nobody, row, nobody]), limits=LIMITS)
    assert reading.usages["agent.1.created"] == Usage(4, 40)


def test_what_is_not_a_meter_is_kept_but_for_people() -> None:
    """Names and addresses are for reports, not for books and logs."""
    said = month(note="new")
    extra = read(said).extra
    assert extra["note"] == "new"
    assert extra["conversion_rate"] == 33.3
    assert extra["total_won"] == 10
    assert "Jane" not in repr(extra)
    assert "total_won" not in read(said, limits=LIMITS).extra


UNREADABLE: dict[str, bytes | None] = {
    "not read": None,
    "empty": b"",
    "html": b"<html>please log in</html>",
    "text": b"OK",
    "truncated": json.dumps(month()).encode()[:-3],
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(month()).encode(),
    "utf-16": json.dumps(month()).encode("utf-16"),
    "array": b"[]",
    "scalar": b"12",
    "null": b"null",
    "nesting": b"[" * 100_000,
    "not a number": json.dumps(month(total_created=float("nan"))).encode(),
    "overflow": json.dumps(month(total_created="?")).encode().replace(b'"?"', b"1e400"),
    "5,000 digits": json.dumps(month(total_created="?")).encode().replace(b'"?"', b"9" * 5000),
    "same key twice": json.dumps(month()).encode().replace(b'"total_won"', b'"total_created"'),
    "no totals": json.dumps({"period": month()["period"]}).encode(),
    "an envelope": json.dumps({"data": month()}).encode(),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_reading_says_what_was_looked_for(body: bytes | None) -> None:
    """The old reading stays in use; nothing of the body shows."""
    with pytest.raises(StatsUnreadable, match="looked for") as caught:
        voxys().read_stats(Outcome(200, {"x-request-id": "req-1"}, body))
    error = caught.value
    assert error.path
    assert (error.provider, error.status, error.request_id) == ("voxys", 200, "req-1")
    assert error.__cause__ is None
    assert "log in" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_forbidden(status: int) -> None:
    """Whatever stands in the body."""
    for body in (None, b"", b"<html>", b'{"error": "Invalid Access Token"}'):
        with pytest.raises(StatsForbidden) as caught:
            voxys().read_stats(Outcome(status, {}, body))
        assert caught.value.status == status


@pytest.mark.parametrize(
    "status", [0, 201, 204, 206, 301, 307, 400, 402, 404, 405, 408, 418, 422, 429, 500, 502, 503]
)
def test_other_statuses_are_unavailable(status: int) -> None:
    """Even with a perfect body: an error page is no reading."""
    with pytest.raises(StatsUnavailable, match=str(status)) as caught:
        voxys().read_stats(answer(month(), status))
    assert caught.value.status == status


def test_another_account_or_pipeline_is_told() -> None:
    """404 says what to look at, and carries the vendor's request id."""
    with pytest.raises(StatsUnavailable, match="no such account, or it has no such pipeline") as c:
        voxys().read_stats(outcome_of("analytics_404"))
    assert c.value.request_id == "5f1c-77"


def test_haste_at_the_stats_endpoint_is_told() -> None:
    """Upstream sends no Retry-After by default; where there is one it is heard."""
    with pytest.raises(StatsUnavailable) as caught:
        voxys().read_stats(outcome_of("analytics_429"))
    assert caught.value.retry_after is None
    with pytest.raises(StatsUnavailable) as caught:
        voxys().read_stats(Outcome(429, {"retry-after": "40"}, b"Retry later\n"))
    assert caught.value.retry_after == 40


# ----------------------------------------------------------------------- laws

EXAMPLES = max(300, settings.default.max_examples if settings.default else 0)
"""By default; the soak profile asks for more."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([-1, 0, 1, 3, 7, 10**15, 10**15 + 1, 2**63, 1e400, "2026-11-01", "3"])
)
KEYS = [
    *("period", "since", "until", "total_created", "total_value_won", "by_agent", "agent", "id"),
    *("created", "won", "by_stage", "stage_id", "count", "value", "funnel_id", "funnel_stage_id"),
]
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def paths(said: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in *said*."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(said, dict):
        inner = list(said.items())
    elif isinstance(said, list):
        inner = list(enumerate(said))
    return [below for key, value in inner for below in [(*path, key), *paths(value, (*path, key))]]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a good answer with a few of its parts replaced or dropped."""
    said = month()
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from(paths(said)))
        place: Any = said
        for key in way:
            place = place[key]
        if draw(st.booleans()):
            place[last] = draw(JSON)
        else:
            del place[last]
        if not said:
            break
    return json.dumps(said).encode()


PROVIDER = voxys(limits=LIMITS)
POLL = PROVIDER.stats_request(NOVEMBER)


def check_stats(outcome: Outcome) -> None:
    """Read *outcome*; only a ProviderError or a sound reading may come of it."""
    assert POLL.read is not None
    for reader in (PROVIDER.read_stats, POLL.read, PROVIDER.reports["analytics"]().read):
        said: object
        try:
            said = reader(outcome)
        except ProviderError as error:
            said = error
        else:
            assert outcome.status == 200
        assert KEY not in f"{said!r} {said}"
        if isinstance(said, Reading):
            check_reading(said)


def check_reading(reading: Reading) -> None:
    """Find *reading* sound: whole counts, the user's limits, a period, nothing dropped unsaid."""
    assert reading.usages
    assert set(reading.usages) <= set(LIMITS)
    for name, usage in reading.usages.items():
        scale = PROVIDER.meters[name].scale
        assert type(usage.used) is int
        assert 0 <= usage.used <= MOST_COUNT * 1000
        limit = LIMITS[name]
        assert usage.limit == (None if limit is None else int(Decimal(str(limit)) * scale))
    missing = len(LIMITS) - len(reading.usages)
    assert len(reading.extra.get("unreadable", ())) == missing
    json.dumps(dict(reading.extra))
    assert reading.period.length


@settings(max_examples=EXAMPLES)
@given(
    status=st.just(200) | st.integers(0, 999),
    body=st.none() | st.binary(max_size=64) | JSON.map(lambda said: json.dumps(said).encode()),
    header=st.text(max_size=12),
)
def test_reading_raises_nothing_but_provider_errors(
    status: int, body: bytes | None, header: str
) -> None:
    """Whatever the status, the bytes and the headers are; reports as well."""
    headers = dict.fromkeys(("retry-after", "x-request-id", "date"), header)
    check_stats(Outcome(status, headers, body))


@settings(max_examples=EXAMPLES)
@given(body=mutated())
def test_a_mutated_answer_is_a_sound_reading_or_a_provider_error(body: bytes) -> None:
    """Every count that is read is whole and from 0, and every limit is the user's."""
    check_stats(Outcome(200, {}, body))


@settings(max_examples=EXAMPLES)
@given(
    path=st.sampled_from(["leads/9/convert", "leads/9/convert.json", "leads", "leads/bulk"]),
    status=st.sampled_from([200, 201, 402, 403, 404, 429, 500, 503]) | st.integers(0, 999),
    asked=st.none() | st.binary(max_size=32) | JSON.map(lambda said: json.dumps(said).encode()),
    body=st.none() | st.binary(max_size=32),
    header=st.text(max_size=12),
)
def test_billing_never_raises_and_never_exceeds_the_price(
    path: str, status: int, asked: bytes | None, body: bytes | None, header: str
) -> None:
    """A bill is unknown or at most what was reserved, and a pause is at most an hour."""
    provider = voxys(limits=LIMITS, operations={"POST leads": {CREATED: 2}})
    call = convert(None, path, raw=asked)
    bill = provider.bill(call, Outcome(status, {"retry-after": header}, body))
    assert provider.foreign(call) is False
    price = provider.price(call)
    for name, spent in (bill.cost or {}).items():
        assert price is not None
        assert 0 <= spent <= price.cost[name]
    for evidence in bill.evidence:
        assert 0 <= evidence.seconds <= 3600
        assert set(evidence.meters) <= set(provider.meters)
    assert not bill.deferred
    assert not bill.wants_body


@given(funnel=st.integers(1, MOST_COUNT), ours=st.integers(1, 3), text=st.booleans())
def test_a_conversion_is_metered_if_and_only_if_it_is_ours(
    funnel: int, ours: int, text: bool
) -> None:
    """Whatever the numbers, written as numbers or as text."""
    call = convert({"funnel_id": str(funnel) if text else funnel})
    assert (Voxys(KEY, 7, ours).price(call) is not None) == (funnel == ours)


def test_two_providers_of_one_pipeline_agree_on_names() -> None:
    """Requests that differ in what reads them are the same request."""
    first, second = voxys().stats_request(NOVEMBER), voxys().stats_request(NOVEMBER)
    assert first == second
    assert replace(first, read=None) == first
