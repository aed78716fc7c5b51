"""The fake FullContact, asked over real loopback: its truth, its stats, its moods."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from quotaguard.errors import ConfigError
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.fullcontact import CALL_FAULTS, STATS_FAULTS
from quotaguard.testing.server import Fault, LoopbackServer, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quotaguard.testing.fullcontact import FakeFullContact
    from quotaguard.testing.server import Request

MATCHES = "person.enrichment.matches"
MISSES = "person.enrichment.misses"
TOTAL = "person.enrichment.total"
PERSON = "/v3/person.enrich"
COMPANY = "/v3/company.enrich"
STATS = "/v3/stats.get"
QUOTA_MESSAGE = "Usage limits for the provided API Key have been exceeded"
EMAIL = "ada@example.com"


class Caller:
    """Asks a fake over one connection."""

    def __init__(self, vendor: FakeFullContact, key: str = "test-key", timeout: float = 5) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self.client = httpx.Client(
            base_url=vendor.url, headers=headers, timeout=timeout, trust_env=False
        )

    def enrich(self, email: str = EMAIL, **more: Any) -> httpx.Response:
        return self.client.post(PERSON, json={"email": email, **more})

    def poll(self) -> httpx.Response:
        return self.client.post(STATS, json={"stats": ["person", "company"]})

    def shown(self) -> int:
        count = self.poll().json()["stats"]["person"]["enrichment"]["matches"]["count"]
        return int(count)


@pytest.fixture
def call() -> Iterator[Callable[..., Caller]]:
    """Make callers that are closed at the end."""
    made: list[Caller] = []

    def make(vendor: FakeFullContact, **settings: Any) -> Caller:
        made.append(Caller(vendor, **settings))
        return made[-1]

    yield make
    for caller in made:
        caller.client.close()


# --- what it is ---------------------------------------------------------------


def test_an_unknown_provider_names_the_known() -> None:
    """A name that no fake has is a ConfigError which lists the names there are."""
    with pytest.raises(ConfigError, match="fullcontact"):
        fake("fulcontact")


def test_an_unknown_knob_names_the_known() -> None:
    """A knob that the fake has not is a ConfigError which lists those it has."""
    with pytest.raises(ConfigError, match="match_rate"):
        fake("fullcontact", match_ratio=1)


@pytest.mark.parametrize(
    "knob",
    [
        {"match_rate": 1.5},
        {"lag": -1},
        {"visible": "soon"},
        {"rate_limit": 0},
        {"period": ("2026-02-01", "2026-01-01")},
        {"period": ("2026-02-01", None)},
        {"faults": ["explode"]},
        {"faults": "explode"},
        {"stats_faults": [3]},
    ],
    ids=str,
)
def test_a_knob_turned_too_far_is_yours(knob: dict[str, Any]) -> None:
    """A setting that cannot be is found when the fake is made."""
    with pytest.raises(ConfigError):
        fake("fullcontact", **knob)


def test_it_listens_only_inside_its_with() -> None:
    """There is no url before, nobody answers after, and the counts can still be read."""
    vendor = fake("fullcontact", match_rate=1)
    with pytest.raises(ConfigError, match="with"):
        _ = vendor.url
    with vendor:
        port = int(vendor.url.rsplit(":", 1)[1])
        vendor.spend(3)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    assert vendor.true[MATCHES] == 3
    with pytest.raises(ConfigError, match="once"):
        vendor.__enter__()


def test_no_thread_is_left(call: Callable[..., Caller]) -> None:
    """The end of the with joins every thread, also those whose client is still connected."""
    before = set(threading.enumerate())
    with fake("fullcontact") as vendor:
        for _ in range(3):
            call(vendor).enrich()
        assert set(threading.enumerate()) - before
    assert {one for one in threading.enumerate() if one.is_alive()} <= before


def test_repr_shows_the_main_meter() -> None:
    """The repr says how much of the quota is really used."""
    vendor = fake("fullcontact", quota=1000, used=250)

    assert repr(vendor) == f"<FakeFullContact: {MATCHES} 250/1,000, 0 polls>"


# --- calls --------------------------------------------------------------------


def test_a_match_is_counted_and_told(call: Callable[..., Caller]) -> None:
    """200 tells a person and counts under matches and total."""
    with fake("fullcontact", match_rate=1) as vendor:
        answer = call(vendor).enrich("Björk@example.com")

        assert answer.status_code == 200
        assert {"fullName", "title", "organization", "location", "details"} <= set(answer.json())
        assert answer.json()["email"] == "björk@example.com"
        assert (vendor.true[MATCHES], vendor.true[MISSES], vendor.true[TOTAL]) == (1, 0, 1)


def test_a_miss_is_counted_and_told(call: Callable[..., Caller]) -> None:
    """404 counts under misses and total, and spends no match."""
    with fake("fullcontact", match_rate=0) as vendor:
        answer = call(vendor).enrich()

        assert (404, "Profile not found") == (answer.status_code, answer.json()["message"])
        assert (vendor.true[MATCHES], vendor.true[MISSES], vendor.true[TOTAL]) == (0, 1, 1)


def test_who_is_found_is_certain_and_near_the_rate(call: Callable[..., Caller]) -> None:
    """The same email gets the same answer, knows() foretells it, the share is the rate."""
    emails = [f"person{number}@example.com" for number in range(400)]
    with fake("fullcontact", match_rate=0.7, quota=None) as vendor:
        caller = call(vendor)
        found = [caller.enrich(email).status_code == 200 for email in emails]

        assert found == [vendor.knows(email.upper()) for email in emails]
    assert 250 < sum(found) < 310
    again = fake("fullcontact", match_rate=0.7)
    assert found == [again.knows(email) for email in emails]
    other = fake("fullcontact", match_rate=0.7, seed=1)
    assert found != [other.knows(email) for email in emails]


def test_a_company_has_meters_of_its_own(call: Callable[..., Caller]) -> None:
    """company.enrich counts under company.enrichment and spends nobody's person quota."""
    with fake("fullcontact", match_rate=1, quota=0, company_quota=1) as vendor:
        client = call(vendor).client
        first = client.post(COMPANY, json={"domain": "example.com"})
        second = client.post(COMPANY, json={"domain": "example.org"})

        assert (200, 403) == (first.status_code, second.status_code)
        assert first.json()["website"] == "https://example.com"
        assert vendor.true["company.enrichment.matches"] == 1
        assert vendor.true[TOTAL] == 0


def test_a_hard_limit_refuses_when_it_is_spent(call: Callable[..., Caller]) -> None:
    """Without overage exactly the quota is accepted, then 403 says that it is the quota."""
    with fake("fullcontact", match_rate=1, quota=5, used=2) as vendor:
        caller = call(vendor)
        answers = [caller.enrich(f"{number}@example.com") for number in range(5)]

        assert [200, 200, 200, 403, 403] == [answer.status_code for answer in answers]
        assert answers[-1].json()["status"] == 403
        assert QUOTA_MESSAGE in answers[-1].json()["message"]
        assert vendor.true[MATCHES] == vendor.quota == 5


def test_overage_never_refuses(call: Callable[..., Caller]) -> None:
    """On an overage plan nothing on the wire says stop; the count passes the quota."""
    with fake("fullcontact", match_rate=1, quota=2, overage=True) as vendor:
        caller = call(vendor)

        assert [200] * 4 == [caller.enrich().status_code for _ in range(4)]
        assert vendor.true[MATCHES] == 4
        matches = caller.poll().json()["stats"]["person"]["enrichment"]["matches"]
        assert matches == {"count": 4, "quota": 2, "overQuota": True}


def test_a_quota_of_misses_refuses_too(call: Callable[..., Caller]) -> None:
    """Where misses have a quota, it stands in the stats and refuses when it is spent."""
    with fake("fullcontact", match_rate=0, misses_quota=1) as vendor:
        caller = call(vendor)

        assert [404, 403] == [caller.enrich().status_code for _ in range(2)]
        misses = caller.poll().json()["stats"]["person"]["enrichment"]["misses"]
        assert misses == {"count": 1, "quota": 1, "overQuota": False}


def test_many_connections_never_pass_a_hard_limit(call: Callable[..., Caller]) -> None:
    """Checking the quota and charging are one step, whatever the number of connections."""
    with fake("fullcontact", match_rate=1, quota=50) as vendor:
        callers = [call(vendor) for _ in range(8)]

        def work(caller: Caller) -> list[int]:
            return [caller.enrich().status_code for _ in range(10)]

        with ThreadPoolExecutor(8) as pool:
            codes = list(itertools.chain.from_iterable(pool.map(work, callers)))

        assert (50, 30) == (codes.count(200), codes.count(403))
        assert vendor.true[MATCHES] == 50


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"email":""}', 400),
        (b'{"first":"x"}', 400),
        (b"[" * 100_000, 400),
        (b'{"emails":["a@example.com"]}', 200),
        (b'{"phone":"+12025550100"}', 200),
    ],
    ids=["empty", "half", "list", "object", "blank", "unknown", "deep", "emails", "phone"],
)
def test_a_call_needs_somebody_to_look_for(
    call: Callable[..., Caller], body: bytes, status: int
) -> None:
    """A body that is no JSON object, or names nobody, is 400 in the envelope, and free."""
    with fake("fullcontact", match_rate=1) as vendor:
        answer = call(vendor).client.post(PERSON, content=body)

        assert status == answer.status_code
        assert vendor.true[MATCHES] == (status == 200)
        if status == 400:
            assert set(answer.json()) == {"status", "message"}


@pytest.mark.parametrize("path", [PERSON, STATS])
def test_keys_are_looked_at(call: Callable[..., Caller], path: str) -> None:
    """No key is 401, another key is 403 with another message than the quota's, both free."""
    with fake("fullcontact", match_rate=1, key="right") as vendor:
        wrong = call(vendor, key="wrong").client.post(path, json={"email": EMAIL})
        with httpx.Client(base_url=vendor.url, trust_env=False) as client:
            none = client.post(path, json={"email": EMAIL})

        assert (403, 401) == (wrong.status_code, none.status_code)
        assert QUOTA_MESSAGE not in wrong.text
        assert vendor.true[TOTAL] == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v3/person.enrichment", 404),
        ("GET", PERSON, 405),
        ("GET", STATS, 405),
        ("HEAD", STATS, 405),
        ("POST", "/v1/person.json", 410),
        ("POST", PERSON + "?Reporting-Key=x", 200),
    ],
)
def test_routes(call: Callable[..., Caller], method: str, path: str, status: int) -> None:
    """Unknown paths, wrong methods and the first version are told apart; queries are ignored."""
    with fake("fullcontact", match_rate=1) as vendor:
        answer = call(vendor).client.request(method, path, json={"email": EMAIL})

        assert status == answer.status_code
        assert vendor.requests == {path.partition("?")[0]: 1}


def test_the_static_headers_are_there(call: Callable[..., Caller]) -> None:
    """The documented headers are on every answer, the three constants as constants."""
    clock = FakeClock()
    with fake("fullcontact", clock=clock) as vendor:
        clock.jump_wall(3600)
        headers = call(vendor).poll().headers

    assert headers["X-FullContact-RateDelay"] == "0"
    assert headers["X-Rate-Limit"] == "600"
    assert headers["X-Rate-Limit-Remaining"] == "10"
    assert headers["X-Rate-Limit-Reset"] == "20"
    # The vendor's clock is right where the local one is not.
    assert headers["Date"] == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_delayed_ones_are_found_when_asked_again(call: Callable[..., Caller]) -> None:
    """202 without a webhook costs nothing, and the second time the answer is there."""
    with fake("fullcontact", match_rate=1, delayed_rate=1) as vendor:
        caller = call(vendor)
        first = caller.enrich()
        spent = vendor.true[TOTAL]
        second = caller.enrich()

        assert (202, 0) == (first.status_code, spent)
        assert first.json()["message"].startswith("Queued for search")
        assert (200, 1) == (second.status_code, vendor.true[MATCHES])


def test_a_webhook_is_billed_later(call: Callable[..., Caller]) -> None:
    """A call with webhookUrl is 202 with the documented message and billed after the delay."""
    clock = FakeClock()
    with fake("fullcontact", match_rate=1, webhook_delay=30, clock=clock) as vendor:
        answer = call(vendor).enrich(webhookUrl="https://me.example/hook?id=1")

        assert answer.status_code == 202
        assert answer.json()["message"].endswith(
            "to your webhook shortly at https://me.example/hook?id=1."
        )
        clock.advance(29.9)
        assert vendor.true[MATCHES] == 0
        clock.advance(0.1)
        assert vendor.true[MATCHES] == vendor.true[TOTAL] == 1


def test_a_spent_quota_refuses_webhooks(call: Callable[..., Caller]) -> None:
    """With a hard limit no webhook is taken when the quota is spent, and none billed past it."""
    clock = FakeClock()
    with fake("fullcontact", match_rate=1, quota=1, clock=clock) as vendor:
        caller = call(vendor)
        codes = [caller.enrich(webhookUrl="https://me.example/h").status_code for _ in range(2)]
        clock.advance(60)
        codes.append(caller.enrich(webhookUrl="https://me.example/h").status_code)

        assert codes == [202, 202, 403]
        assert vendor.true[MATCHES] == 1


def test_the_rate_is_held_back_then_refused(call: Callable[..., Caller]) -> None:
    """Beyond the rate a call is held back and says so; where a second is not enough, 429."""
    clock = FakeClock()
    with fake("fullcontact", match_rate=1, rate_limit=30, clock=clock) as vendor:
        caller = call(vendor)
        before = clock.fast()
        first = caller.enrich()
        clock.advance(1.5)
        held = caller.enrich()
        refused = caller.enrich()

        assert [200, 200, 429] == [each.status_code for each in (first, held, refused)]
        assert clock.fast() - before == 2
        delays = [each.headers["X-FullContact-RateDelay"] for each in (first, held, refused)]
        assert delays == ["0", "500", "1000"]
        assert vendor.true[MATCHES] == 2


# --- stats --------------------------------------------------------------------


def test_stats_have_the_documented_shape(call: Callable[..., Caller]) -> None:
    """The answer is the documented example, key by key, at its own date."""
    clock = FakeClock(datetime(2020, 7, 7, tzinfo=UTC).timestamp())
    period = ("2020-04-10T00:00:00Z", "2021-04-10T00:00:00Z")
    settings = {"quota": 0, "used": 4839, "period": period, "clock": clock, "overage": True}
    with fake("fullcontact", **settings) as vendor:
        answer = call(vendor).poll().json()

    assert answer["period"] == {"start": period[0], "end": period[1]}
    assert answer["plan"]["daysRemainingInPeriod"] == 277
    assert set(answer["plan"]) == {"name", "period", "baseCost", "daysRemainingInPeriod"}
    nothing = {"count": 0, "quota": None, "overQuota": False}
    assert answer["stats"] == {
        "person": {
            "enrichment": {
                "matches": {"count": 4839, "quota": 0, "overQuota": True},
                "misses": nothing,
                "total": {"count": 4839},
            },
            "subscriptions": nothing,
        },
        "company": {
            "enrichment": {
                "matches": {"count": 0, "quota": 1000, "overQuota": False},
                "misses": nothing,
                "total": nothing,
            }
        },
    }


def test_over_quota_is_only_beyond_it(call: Callable[..., Caller]) -> None:
    """At count == quota overQuota is still false, as documented."""
    with fake("fullcontact", quota=7, used=7) as vendor:
        matches = call(vendor).poll().json()["stats"]["person"]["enrichment"]["matches"]

    assert matches == {"count": 7, "quota": 7, "overQuota": False}


@pytest.mark.parametrize(
    ("body", "categories"),
    [
        (b"", {"person", "company"}),
        (b"{}", {"person", "company"}),
        (b'{"stats":[]}', {"person", "company"}),
        (b'{"stats":["company"]}', {"company"}),
        (b'{"stats":["cars"]}', None),
        (b'{"stats":[{}]}', None),
        (b"{", None),
    ],
    ids=["no-body", "empty", "none", "company", "unknown", "odd", "half"],
)
def test_stats_by_category(
    call: Callable[..., Caller], body: bytes, categories: set[str] | None
) -> None:
    """Stats tell the categories asked for, all without a body, and 400 for others."""
    with fake("fullcontact") as vendor:
        answer = call(vendor).client.post(STATS, content=body)

        assert vendor.polls == 1
    if categories is None:
        assert answer.status_code == 400
    else:
        assert categories == set(answer.json()["stats"])


def test_charges_show_after_the_lag(call: Callable[..., Caller]) -> None:
    """A charge is true at once, and in the stats once the lag has passed, not before."""
    clock = FakeClock()
    with fake("fullcontact", match_rate=1, lag=60, used=10, clock=clock) as vendor:
        caller = call(vendor)
        caller.enrich()
        clock.advance(20)
        caller.enrich()

        assert (vendor.true[MATCHES], caller.shown()) == (12, 10)
        clock.advance(39.9)
        assert caller.shown() == 10
        clock.advance(0.1)
        assert caller.shown() == vendor.shown[MATCHES] == 11
        clock.advance(20)
        assert caller.shown() == 12
        assert vendor.polls == 4


def test_random_lag_is_spread_and_bounded(call: Callable[..., Caller]) -> None:
    """With visible="random" some charges show early, all by the lag, the same for a seed."""
    seen = []
    for _ in range(2):
        clock = FakeClock()
        knobs = {"match_rate": 1, "lag": 60, "visible": "random", "clock": clock, "seed": 3}
        with fake("fullcontact", **knobs) as vendor:
            caller = call(vendor)
            for _ in range(40):
                caller.enrich()
            clock.advance(30)
            seen.append(caller.shown())
            clock.advance(30)
            assert caller.shown() == 40

    assert seen[0] == seen[1]
    assert 5 < seen[0] < 35


def test_spend_is_another_consumer() -> None:
    """spend() takes effect at once, lags in the stats, and stops at a hard limit."""
    clock = FakeClock()
    with fake("fullcontact", quota=10, lag=5, clock=clock) as vendor:
        assert vendor.spend(8) == 8
        assert vendor.spend(8) == 2
        assert (vendor.true[MATCHES], vendor.true[TOTAL], vendor.shown[MATCHES]) == (10, 10, 0)
        clock.advance(5)
        assert vendor.shown[MATCHES] == 10
        with pytest.raises(ConfigError):
            vendor.spend(-1)


def test_another_consumer_spends_by_the_clock() -> None:
    """other_rate units go every second, lag unit by unit in the stats, and end at the cap."""
    clock = FakeClock()
    vendor = fake("fullcontact", other_rate=0.5, other_total=80, lag=60, clock=clock)

    clock.advance(100)
    assert (vendor.true[MATCHES], vendor.shown[MATCHES]) == (50, 20)
    clock.advance(2)
    assert (vendor.true[MATCHES], vendor.shown[MATCHES]) == (51, 21)
    clock.advance(1000)
    assert (vendor.true[MATCHES], vendor.shown[MATCHES]) == (80, 80)


def test_looking_often_changes_nothing() -> None:
    """Other consumers are worked out lazily; how often one looks makes no difference."""
    seldom_clock, often_clock = FakeClock(), FakeClock()
    knobs = {"other_rate": 0.29, "lag": 7, "quota": 40}
    seldom = fake("fullcontact", clock=seldom_clock, **knobs)
    often = fake("fullcontact", clock=often_clock, **knobs)

    for _ in range(1_000):
        often_clock.advance(0.1)
        assert often.shown[MATCHES] <= often.true[MATCHES]
    seldom_clock.advance(100)

    assert seldom.true == often.true
    assert seldom.shown == often.shown
    assert seldom.true[MATCHES] == 29


def test_another_consumer_stops_at_a_hard_limit() -> None:
    """Without overage other consumers are refused like everybody, with overage they are not."""
    clock = FakeClock()
    hard = fake("fullcontact", other_rate=1, quota=40, clock=clock)
    soft = fake("fullcontact", other_rate=1, quota=40, overage=True, clock=clock)

    clock.advance(100)

    assert (hard.true[MATCHES], soft.true[MATCHES]) == (40, 100)
    hard.set_quota(50)
    clock.advance(4)
    assert hard.true[MATCHES] == 44


def test_a_month_of_another_consumer_is_quick() -> None:
    """Millions of units in one step are worked out in bulk, and never show too late."""
    clock = FakeClock()
    vendor = fake("fullcontact", other_rate=50, quota=None, lag=3600, clock=clock)

    clock.advance(10 * 86_400)

    assert vendor.true[MATCHES] == 50 * 10 * 86_400
    missing = vendor.true[MATCHES] - vendor.shown[MATCHES]
    assert 0.99 * 50 * 3600 <= missing <= 50 * 3600


def test_set_quota_changes_the_plan(call: Callable[..., Caller]) -> None:
    """A raised quota opens the door again and stands in the stats; None is unlimited."""
    with fake("fullcontact", match_rate=1, quota=1) as vendor:
        caller = call(vendor)
        caller.enrich()
        before = caller.enrich().status_code
        vendor.set_quota(2)

        assert (403, 200) == (before, caller.enrich().status_code)
        assert vendor.quota == 2
        vendor.set_quota(None)
        assert caller.enrich().status_code == 200
        matches = caller.poll().json()["stats"]["person"]["enrichment"]["matches"]
        assert matches == {"count": 3, "quota": None, "overQuota": False}


def test_the_period_is_the_calendar_month(call: Callable[..., Caller]) -> None:
    """By default the period is the month (UTC) of the clock, its end exclusive."""
    with fake("fullcontact", clock=FakeClock()) as vendor:
        answer = call(vendor).poll().json()

    assert answer["period"] == {"start": "2023-11-01T00:00:00Z", "end": "2023-12-01T00:00:00Z"}
    assert answer["plan"]["daysRemainingInPeriod"] == 16


def test_the_period_turns_with_the_clock(call: Callable[..., Caller]) -> None:
    """Past its end counts start from 0 in the next month; a wrong local wall turns nothing."""
    clock = FakeClock()
    end = datetime(2023, 12, 1, tzinfo=UTC).timestamp()
    with fake("fullcontact", match_rate=1, quota=10, lag=60, clock=clock) as vendor:
        caller = call(vendor)
        vendor.spend(10)
        clock.jump_wall(40 * 86_400)
        clock.jump_wall(-40 * 86_400)
        clock.advance(end - clock.now().wall - 1)
        assert (caller.shown(), caller.enrich().status_code) == (10, 403)
        clock.advance(1)

        assert (caller.shown(), caller.enrich().status_code) == (0, 200)
        assert caller.poll().json()["period"]["end"] == "2024-01-01T00:00:00Z"
        assert [10] == [past[MATCHES] for past in vendor.past]
        clock.advance(62 * 86_400)
        assert caller.poll().json()["period"]["start"] == "2024-02-01T00:00:00Z"
        assert [10, 1, 0] == [past[MATCHES] for past in vendor.past]


def test_late_charges_do_not_reach_the_next_period() -> None:
    """A charge that would show only after the period's end never shows in the next one."""
    clock = FakeClock()
    period = ("2023-11-14T22:00:00Z", "2023-11-14T23:00:00Z")
    vendor = fake("fullcontact", lag=60, period=period, clock=clock)

    clock.advance(46 * 60)
    vendor.spend(7)
    clock.advance(40)
    assert (vendor.true[MATCHES], vendor.shown[MATCHES]) == (0, 0)
    clock.advance(3600 - 60)

    assert (vendor.true[MATCHES], vendor.shown[MATCHES]) == (0, 0)
    assert [7] == [past[MATCHES] for past in vendor.past]


@pytest.mark.parametrize(
    ("period", "following"),
    [
        (("2023-11-10", "2023-12-10"), ("2023-12-10", "2024-01-10")),
        (("2023-11-14T22:00:00Z", "2023-11-14T23:00:00Z"), None),
        (("2022-12-10T00:00:00Z", "2023-12-10T00:00:00Z"), ("2023-12-10T00:00:00Z",) * 2),
    ],
    ids=["month", "hour", "year"],
)
def test_periods_follow_in_their_own_length(
    period: tuple[str, str], following: tuple[str, str] | None
) -> None:
    """The next period is as long as the first and written in its style."""
    clock = FakeClock()
    vendor = fake("fullcontact", period=period, clock=clock)
    billing = vendor._metering.shown()[1]
    assert billing.texts == period

    clock.advance(billing.end.timestamp() - clock.now().wall)
    after = vendor._metering.shown()[1]

    if following is None:
        assert after.texts == ("2023-11-14T23:00:00Z", "2023-11-15T00:00:00Z")
    elif len(following[0]) == 10:
        assert after.texts == following
    else:
        assert after.texts == ("2023-12-10T00:00:00Z", "2024-12-10T00:00:00Z")


def test_a_period_that_is_over_stays(call: Callable[..., Caller]) -> None:
    """A period in the past, as in documented examples, is told as it is and never turns."""
    clock = FakeClock()
    period = ("2020-04-10T00:00:00Z", "2021-04-10T00:00:00Z")
    with fake("fullcontact", used=5, period=period, clock=clock) as vendor:
        clock.advance(400 * 86_400)
        answer = call(vendor).poll().json()

    assert answer["period"] == {"start": period[0], "end": period[1]}
    assert answer["plan"]["daysRemainingInPeriod"] == 0
    assert vendor.true[MATCHES] == 5


# --- what goes wrong ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("500", 500),
        ("503", 503),
        ("429", 429),
        ("403", 403),
        ("429-quota", 429),
        ("403-quota", 403),
    ],
)
def test_a_scripted_status_is_free(call: Callable[..., Caller], name: str, status: int) -> None:
    """A status by name is answered once in the documented envelope, and charges nothing."""
    with fake("fullcontact", match_rate=1, faults=[name]) as vendor:
        caller = call(vendor)
        answer = caller.enrich()

        assert status == answer.status_code == answer.json()["status"]
        assert (QUOTA_MESSAGE in answer.text) == name.endswith("-quota")
        assert (answer.headers.get("Retry-After") == "1") == (status == 503)
        assert vendor.true[TOTAL] == 0
        assert caller.enrich().status_code == 200


BROKEN = {
    "timeout": httpx.ReadTimeout,
    "reset": httpx.ReadError,
    "close": httpx.RemoteProtocolError,
    "garbage": httpx.RemoteProtocolError,
    "truncated": httpx.RemoteProtocolError,
    "slow-drip": httpx.ReadTimeout,
}


@pytest.mark.parametrize("free", [False, True], ids=["charged", "free"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer(
    call: Callable[..., Caller],
    name: str,
    free: bool,
) -> None:
    """What breaks on the wire fails like the real thing, charged unless it says free."""
    step: Any = f"{name}-free" if free else name
    if name == "slow-drip":
        # By name it drips every 50 ms; the client here has less patience than that.
        step = Fault("drip", Reply(200, b"{}"), every=60)
    with fake("fullcontact", match_rate=1, faults=[step, None]) as vendor:
        caller = call(vendor, timeout=0.3)
        with pytest.raises(BROKEN[name]):
            caller.enrich()

        if name != "slow-drip":
            assert vendor.true[MATCHES] == (not free)
        spent = vendor.true[MATCHES]
        assert caller.enrich().status_code == 200
        assert vendor.true[MATCHES] == spent + 1


def test_an_answer_that_nobody_waits_for_ends_with_the_fake() -> None:
    """Silence, drips and latency hold up neither the end of the fake nor its threads."""
    before = set(threading.enumerate())
    with fake("fullcontact", faults=["timeout", "slow-drip", None], latency=30) as vendor:
        host, _, port = vendor.url.removeprefix("http://").partition(":")
        head = "POST /v3/person.enrich HTTP/1.1\r\nAuthorization: Bearer test-key\r\n"
        body = '{"email":"a@example.com"}'
        sent = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        socks = [socket.create_connection((host, int(port)), timeout=5) for _ in range(3)]
        for number, sock in enumerate(socks, 1):
            sock.sendall(sent)
            while vendor.requests[PERSON] < number:
                pass
    assert {one for one in threading.enumerate() if one.is_alive()} <= before
    for sock in socks:
        with sock:
            assert sock.recv(10) == b""


def test_scripts_come_in_their_order(call: Callable[..., Caller]) -> None:
    """The knob's steps come first, script() puts more behind, None is an honest answer."""
    with fake("fullcontact", match_rate=1, faults=["500", None]) as vendor:
        vendor.script("503", Reply(418), stats=["429"])
        caller = call(vendor)

        assert [500, 200, 503, 418, 200] == [caller.enrich().status_code for _ in range(5)]
        assert [429, 200] == [caller.poll().status_code for _ in range(2)]
        with pytest.raises(ConfigError, match="no fault is called 'explode'"):
            vendor.script("explode")


def test_a_script_can_be_a_function_or_endless(call: Callable[..., Caller]) -> None:
    """A function is asked for every call; an endless iterable is not read ahead."""

    def faults(request: Request) -> str | None:
        return "500" if b"bad" in request.body else None

    stats = itertools.cycle(["503", None])
    with fake("fullcontact", match_rate=1, faults=faults, stats_faults=stats) as vendor:
        caller = call(vendor)

        emails = ["bad@example.com", "good@example.com"] * 2
        assert [500, 200] * 2 == [caller.enrich(email).status_code for email in emails]
        assert [503, 200] * 2 == [caller.poll().status_code for _ in range(4)]


@pytest.mark.parametrize("name", sorted({*CALL_FAULTS, *STATS_FAULTS}))
def test_every_stats_fault_is_once(call: Callable[..., Caller], name: str) -> None:
    """Each stats fault by name spoils one poll, charges nothing, and the next poll is honest."""
    with fake("fullcontact", used=3, stats_faults=[name]) as vendor:
        caller = call(vendor, timeout=0.3)
        caller.client.headers["Accept-Encoding"] = "identity"
        try:
            with caller.client.stream("POST", STATS, json={}) as answer:
                raw = b"".join(itertools.islice(answer.iter_raw(), 4))
            honest = answer.status_code == 200 and _is_honest(raw)
        except httpx.TransportError:
            honest = False

        assert not honest
        assert caller.shown() == 3
        assert (vendor.polls, vendor.true[MATCHES]) == (2, 3)


def _is_honest(raw: bytes) -> bool:
    try:
        told = json.loads(raw)
    except ValueError:
        return False
    counts = [part["enrichment"]["matches"]["count"] for part in told["stats"].values()]
    return counts == [3, 0] and told["period"] is not None and len(raw) < 10_000


def test_stats_faults_look_like_the_real_thing(call: Callable[..., Caller]) -> None:
    """html, gzip, huge, redirect, null-period, negative and nan are what they are called."""
    names = ["html", "gzip", "huge", "redirect", "null-period", "negative", "nan"]
    with fake("fullcontact", used=3, stats_faults=names) as vendor:
        caller = call(vendor)
        html, packed, huge, moved, null, negative, nan = (caller.poll() for _ in names)

        assert html.headers["Content-Type"] == "text/html"
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.json()["stats"]["person"]
        assert len(huge.content) > 4_000_000
        assert (307, True) == (moved.status_code, "localhost" in moved.headers["Location"])
        assert null.json()["period"] is None
        assert negative.json()["stats"]["person"]["enrichment"]["matches"]["count"] == -5
        assert b'"count": NaN' in nan.content
        assert vendor.requests["/v3/stats.moved"] == 0


def test_gzip_is_really_packed() -> None:
    """The gzip fault packs the body though identity was asked for."""
    packed = STATS_FAULTS["gzip"](Reply(200, b"{}"), "")

    assert gzip.decompress(packed.body) == b"{}"


def test_latency_is_real(call: Callable[..., Caller]) -> None:
    """With latency an answer takes longer than a client in a hurry waits, but is charged."""
    with fake("fullcontact", match_rate=1, latency=30) as vendor:
        with pytest.raises(httpx.ReadTimeout):
            call(vendor, timeout=0.1).enrich()

        assert vendor.true[MATCHES] == 1


# --- the server under it ------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[tuple[LoopbackServer, socket.socket]]:
    """Serve a handler that tells what it got, with a raw socket connected to it."""

    def handler(request: Request) -> Reply:
        return Reply.json(200, [request.method, request.path, request.query, len(request.body)])

    with LoopbackServer(handler) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            yield server, sock


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET / SMTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(300)) + b"\r\n",
    ],
    ids=["text", "smtp", "header", "length", "negative", "long", "chunk", "many"],
)
def test_what_is_not_http_is_told_so(
    echo: tuple[LoopbackServer, socket.socket], sent: bytes
) -> None:
    """Bytes that are no request are answered with 400, and the connection ends."""
    server, sock = echo
    sock.sendall(sent)
    with sock.makefile("rb") as stream:
        assert stream.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        stream.read()
    assert sum(server.requests.values()) == 0


def test_requests_share_a_connection(echo: tuple[LoopbackServer, socket.socket]) -> None:
    """Pipelined, chunked and expecting requests are answered in order on one connection."""
    _, sock = echo
    sock.sendall(
        b"GET /a?b=c HTTP/1.1\r\n\r\n"
        b"POST /chunks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
        b"POST /expects HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"
        b"HEAD /head HTTP/1.1\r\n\r\n"
        b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    with sock.makefile("rb") as stream:
        whole = stream.read().decode()

    assert '["GET", "/a", "b=c", 0]' in whole
    assert '["POST", "/chunks", "", 5]' in whole
    assert "100 Continue" in whole
    assert '["POST", "/expects", "", 2]' in whole
    assert '["HEAD"' not in whole
    assert whole.endswith('["GET", "/last", "", 0]')


def test_a_bug_of_a_handler_comes_out() -> None:
    """An exception of the handler is 500 to the client and is raised at the end."""

    def handler(request: Request) -> Reply:
        raise LookupError(request.path)

    def use() -> None:
        with LoopbackServer(handler) as server:
            assert httpx.get(server.url + "/x", trust_env=False).status_code == 500

    with pytest.raises(LookupError, match="/x"):
        use()


def test_statuses_without_a_body(call: Callable[..., Caller]) -> None:
    """204 and statuses that nobody knows are sent as HTTP wants them."""
    with fake("fullcontact", stats_faults=[Reply(204), Reply(599, b"odd")]) as vendor:
        caller = call(vendor)

        assert [204, 599, 200] == [caller.poll().status_code for _ in range(3)]
