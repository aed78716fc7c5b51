"""The fake Octanist, asked over real loopback: its leads, its locks, its stats, its moods."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotaguard.errors import ConfigError
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.octanist import CALL_FAULTS, STATS_FAULTS
from quotaguard.testing.server import Reply

if TYPE_CHECKING:
    from quotaguard.testing.octanist import FakeOctanist

LEADS, STATS, CHECK = "/api/leads", "/api/stats", "/api/check"
RECORDED = Path(__file__).parents[1] / "providers" / "recorded"
DAY = 86_400


class Caller:
    """Asks a fake over one connection."""

    def __init__(self, vendor: FakeOctanist, key: str = "test-key", timeout: float = 5) -> None:
        headers = {"X-API-KEY": key, "Accept-Encoding": "identity"}
        self.client = httpx.Client(
            base_url=vendor.url, headers=headers, timeout=timeout, trust_env=False
        )

    def create(self, **lead: Any) -> httpx.Response:
        return self.client.post(LEADS, json=lead or {"name": "Jane"})

    def update(self, **change: Any) -> httpx.Response:
        return self.client.patch(LEADS, json=change)

    def poll(self, **asked: Any) -> httpx.Response:
        return self.client.post(STATS, json=asked)

    def told(self, **asked: Any) -> dict[str, Any]:
        told: dict[str, Any] = self.poll(**asked).json()["data"]
        return told

    def used(self) -> int:
        return int(self.told()["usage"]["leadsUsed"])


@pytest.fixture
def call() -> Iterator[Callable[..., Caller]]:
    """Make callers that are closed at the end."""
    made: list[Caller] = []

    def make(vendor: FakeOctanist, **settings: Any) -> Caller:
        made.append(Caller(vendor, **settings))
        return made[-1]

    yield make
    for caller in made:
        caller.client.close()


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and the code of an error in the documented envelope."""
    told = answer.json()
    assert set(told) == {"success", "error", "meta"}
    assert told["success"] is False
    assert set(told["error"]) == {"code", "message", "details"}
    assert set(told["meta"]) == {"requestId", "timestamp"}
    return answer.status_code, told["error"]["code"]


def shape(said: object) -> object:
    """Return the names and the kinds in an answer, without its values."""
    if isinstance(said, dict):
        return {name: shape(value) for name, value in said.items()}
    if isinstance(said, list):
        return [shape(each) for each in said[:1]]
    return "number" if isinstance(said, int | float) else type(said).__name__


def recorded(name: str) -> Any:
    """Return the body of a recorded answer."""
    return json.loads((RECORDED / f"octanist_{name}.json").read_text())["response"]["json"]


# --- what it is ---------------------------------------------------------------


@pytest.mark.parametrize(
    "knob",
    [{"reject_rate": 1.5}, {"reject_rate": -0.1}, {"lag": -1}, {"faults": ["403-quota"]}],
    ids=str,
)
def test_a_knob_turned_too_far_is_yours(knob: dict[str, Any]) -> None:
    """A setting that cannot be is found when the fake is made."""
    with pytest.raises(ConfigError):
        fake("octanist", **knob)


def test_an_unknown_knob_names_the_known() -> None:
    """A knob that the fake has not is a ConfigError which lists those it has."""
    with pytest.raises(ConfigError, match="refuse_duplicates"):
        fake("octanist", match_rate=1)


def test_repr_shows_the_main_meter() -> None:
    """The repr says how much of the quota is really used."""
    assert repr(fake("octanist", quota=500, used=150)) == ("<FakeOctanist: leads 150/500, 0 polls>")


def test_no_thread_is_left(call: Callable[..., Caller]) -> None:
    """The end of the with joins every thread."""
    before = set(threading.enumerate())
    with fake("octanist") as vendor:
        call(vendor).create()
    assert {one for one in threading.enumerate() if one.is_alive()} <= before


# --- leads --------------------------------------------------------------------


def test_a_lead_is_stored_counted_and_told(call: Callable[..., Caller]) -> None:
    """The documented answer; it came by the API."""
    with fake("octanist") as vendor:
        answer = call(vendor).create(name="Jane", email="jane@example.com")

        assert answer.status_code == 200
        assert shape(answer.json()) == shape(recorded("create_200"))
        assert answer.json()["data"]["message"] == "Lead added"
        assert vendor.true == {"leads": 1, "leads.api": 1, "leads.gtm": 0}


@pytest.mark.parametrize("name", ["name", "email", "phone", "custom"])
def test_one_of_four_fields_is_enough(call: Callable[..., Caller], name: str) -> None:
    """At least one of them is required."""
    with fake("octanist") as vendor:
        assert call(vendor).create(**{name: "x", "note": "y"}).status_code == 200
        assert vendor.true["leads"] == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"name":""}', b'{"note":"x"}', b"null", b"[" * 100_000],
    ids=["empty", "half", "list", "object", "blank", "note", "null", "deep"],
)
def test_a_lead_needs_somebody(call: Callable[..., Caller], body: bytes) -> None:
    """A body that is no JSON object, or names nobody, is 400 in the envelope, and free."""
    with fake("octanist") as vendor:
        answer = call(vendor).client.post(LEADS, content=body)

        assert refused(answer) == (400, "VALIDATION_ERROR")
        assert vendor.true["leads"] == 0


def test_it_never_refuses_for_the_quota(call: Callable[..., Caller]) -> None:
    """Leads past the limit are stored and locked; only the stats tell."""
    with fake("octanist", quota=2, used=1) as vendor:
        caller = call(vendor)

        assert [200] * 4 == [caller.create().status_code for _ in range(4)]
        assert vendor.true["leads"] == 5
        assert vendor.locked == 3
        usage = caller.told()["usage"]
        assert (usage["leadsUsed"], usage["leadsLimit"], usage["lockedLeads"]) == (5, 2, 3)
        vendor.set_quota(10)
        assert caller.told()["usage"]["lockedLeads"] == vendor.locked == 0
        vendor.set_quota(None)
        assert caller.told()["usage"]["leadsLimit"] is None
        assert vendor.locked == 0


def test_overage_leaves_them_unlocked(call: Callable[..., Caller]) -> None:
    """As on a plan that bills what is past the limit."""
    with fake("octanist", quota=0, overage=True) as vendor:
        call(vendor).create()

        usage = call(vendor).told()["usage"]
        assert (usage["leadsUsed"], usage["leadsLimit"], usage["lockedLeads"]) == (1, 0, 0)


def test_a_filter_rejects_leads(call: Callable[..., Caller]) -> None:
    """403 FORBIDDEN by a rule of one's own or by the seed's chance, and nothing is stored."""
    knobs = {"reject": lambda lead: "spam" in lead.get("note", "")}
    with fake("octanist", **knobs) as vendor:
        caller = call(vendor)
        assert refused(caller.create(name="x", note="spam")) == (403, "FORBIDDEN")
        assert caller.create(name="x", note="ham").status_code == 200
        assert vendor.true["leads"] == 1

    emails = [f"person{number}@example.com" for number in range(100)]
    seen = []
    for seed in (0, 0, 1):
        with fake("octanist", reject_rate=0.3, seed=seed) as vendor:
            caller = call(vendor)
            seen.append([caller.create(email=email).status_code for email in emails])
            assert vendor.true["leads"] == seen[-1].count(200)
    assert seen[0] == seen[1] != seen[2]
    assert 15 < seen[0].count(403) < 45


def test_duplicates_can_be_refused(call: Callable[..., Caller]) -> None:
    """409 CONFLICT where the email or the phone is stored already; by default it is stored."""
    with fake("octanist", refuse_duplicates=True) as vendor:
        caller = call(vendor)
        caller.create(email="jane@example.com", phone="1")
        assert refused(caller.create(email="jane@example.com")) == (409, "CONFLICT")
        assert refused(caller.create(name="Jim", phone="1")) == (409, "CONFLICT")
        assert caller.create(name="Jane").status_code == 200
        assert vendor.true["leads"] == 2
    with fake("octanist") as vendor:
        caller = call(vendor)
        assert [200, 200] == [caller.create(email="a@example.com").status_code for _ in range(2)]


def test_a_lead_is_updated_for_nothing(call: Callable[..., Caller]) -> None:
    """By id, email or phone, in that order; status goes before changedTo; both are told on."""
    with fake("octanist") as vendor:
        caller = call(vendor)
        jane = caller.create(name="Jane", email="jane@example.com").json()["data"]["id"]
        caller.create(name="Jim", phone="7")

        answer = caller.update(id=jane, email="nobody", status="won", changedTo="lost", value="5e3")
        assert shape(answer.json()) == shape(recorded("update_200"))
        assert caller.update(phone="7", changedTo="qualified").status_code == 200
        assert caller.update(phone="7", note="again").status_code == 200
        told = caller.told()
        assert told["leads"]["byStatus"] == {"open": 0, "qualified": 1, "won": 1, "lost": 0}
        assert told["conversion"] == {
            "qualified": 2,
            "qualificationRate": 1,
            "winRate": 0.5,
            "averageValue": 5000,
            "totalValue": 5000,
        }
        assert vendor.true["leads"] == 2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({}, (400, "VALIDATION_ERROR")),
        ({"status": "won"}, (400, "VALIDATION_ERROR")),
        ({"email": "twice", "status": "gone"}, (400, "VALIDATION_ERROR")),
        ({"email": "twice", "status": []}, (400, "VALIDATION_ERROR")),
        ({"email": "once", "value": "much"}, (400, "VALIDATION_ERROR")),
        ({"email": "once", "value": "inf"}, (400, "VALIDATION_ERROR")),
        ({"email": "nobody", "status": "won"}, (404, "NOT_FOUND")),
        ({"email": "twice", "status": "won"}, (409, "CONFLICT")),
    ],
    ids=str,
)
def test_an_update_that_cannot_be(
    call: Callable[..., Caller], change: dict[str, Any], error: tuple[int, str]
) -> None:
    """In the documented envelope, and nothing is changed."""
    with fake("octanist") as vendor:
        caller = call(vendor)
        for email in ("once", "twice", "twice"):
            caller.create(email=email)
        assert refused(caller.update(**change)) == error
        assert caller.told()["leads"]["byStatus"]["open"] == 3


def test_leads_are_listed_by_page(call: Callable[..., Caller]) -> None:
    """Fifty by default, a hundred at most, with the documented pagination."""
    with fake("octanist") as vendor:
        caller = call(vendor)
        for number in range(52):
            caller.create(email=f"{number}@example.com", phone="1", name="Jane")
        caller.update(email="7@example.com", status="won")

        first, second = (caller.client.get(LEADS, params={"page": page}) for page in (1, 2))
        assert shape(first.json()) == shape(recorded("list_200"))
        assert [len(page.json()["data"]) for page in (first, second)] == [50, 2]
        assert first.json()["meta"]["pagination"] == {
            "limit": 50,
            "page": 1,
            "totalPages": 2,
            "total": 52,
            "hasMore": True,
        }
        assert second.json()["meta"]["pagination"]["hasMore"] is False
        assert len(caller.client.get(LEADS, params={"limit": 100}).json()["data"]) == 52
        won = caller.client.get(LEADS, params={"status": "won"}).json()["data"]
        assert [lead["email"] for lead in won] == ["7@example.com"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "VALIDATION_ERROR"),
        ("limit=101", "VALIDATION_ERROR"),
        ("limit=x", "VALIDATION_ERROR"),
        ("page=0", "VALIDATION_ERROR"),
        ("page=-1", "VALIDATION_ERROR"),
        ("status=gone", "INVALID_FILTER"),
    ],
)
def test_a_list_that_cannot_be(call: Callable[..., Caller], query: str, code: str) -> None:
    """Sizes and pages out of range, and filters that are none."""
    with fake("octanist") as vendor:
        assert refused(call(vendor).client.get(f"{LEADS}?{query}")) == (400, code)


def test_keys_are_checked_for_nothing(call: Callable[..., Caller]) -> None:
    """The one endpoint with a minimal answer."""
    with fake("octanist") as vendor:
        answer = call(vendor).client.post(CHECK)
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert vendor.true["leads"] == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", LEADS), ("PATCH", LEADS), ("GET", LEADS), ("POST", STATS), ("POST", CHECK)],
)
def test_keys_are_looked_at(call: Callable[..., Caller], method: str, path: str) -> None:
    """No key and another key are 401, whatever else is wrong, and free."""
    with fake("octanist", key="right") as vendor:
        wrong = call(vendor, key="wrong").client.request(method, path, content=b"{")
        with httpx.Client(base_url=vendor.url, trust_env=False) as client:
            none = client.request(method, path)
        assert refused(wrong) == refused(none) == (401, "UNAUTHORIZED")
        assert vendor.true["leads"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/lead", 404),
        ("POST", "/leads", 404),
        ("DELETE", LEADS, 405),
        ("GET", STATS, 405),
        ("GET", CHECK, 405),
        ("POST", LEADS + "/", 200),
        ("POST", LEADS + "?source=x", 200),
    ],
)
def test_routes(call: Callable[..., Caller], method: str, path: str, status: int) -> None:
    """Unknown paths and wrong methods are told apart; queries are ignored."""
    with fake("octanist") as vendor:
        answer = call(vendor).client.request(method, path, json={"name": "Jane"})
        assert answer.status_code == status
        assert (vendor.true["leads"] == 1) == (status == 200)
        assert vendor.requests == {path.partition("?")[0]: 1}


def test_many_connections_lose_no_lead(call: Callable[..., Caller]) -> None:
    """Every answer is a lead of its own, whatever the number of connections."""
    with fake("octanist", quota=50) as vendor:
        callers = [call(vendor) for _ in range(8)]

        def work(caller: Caller) -> list[str]:
            return [caller.create().json()["data"]["id"] for _ in range(10)]

        with ThreadPoolExecutor(8) as pool:
            ids = list(itertools.chain.from_iterable(pool.map(work, callers)))

        assert len(set(ids)) == vendor.true["leads"] == 80
        assert vendor.locked == 30


# --- stats --------------------------------------------------------------------


def test_stats_have_the_documented_shape(call: Callable[..., Caller]) -> None:
    """The documented example, at its own date: a period that is over, most leads not ours."""
    clock = FakeClock(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp())
    period = ("2026-01-01T00:00:00Z", "2026-03-02T00:00:00Z")
    with fake("octanist", quota=500, used=130, period=period, clock=clock) as vendor:
        caller = call(vendor)
        for _ in range(20):
            caller.create()
        answer = caller.poll(period="current").json()

    documented = recorded("stats_documented")
    assert answer["data"]["usage"] == documented["data"]["usage"]
    assert answer["data"]["leads"]["bySource"] == {"gtm": 130, "api": 20}
    assert answer["meta"]["timestamp"] == documented["meta"]["timestamp"]
    del documented["data"]["leads"]["bySource"]["manual"]
    assert shape(answer) == shape(documented)


def test_the_default_is_the_current_period(call: Callable[..., Caller]) -> None:
    """An empty object is a body; dates beside another period are not looked at."""
    with fake("octanist", used=3, clock=FakeClock()) as vendor:
        caller = call(vendor)
        dates = {"startDate": "2020-01-01", "endDate": "2020-01-02"}
        told = [
            caller.told(),
            caller.told(period="current"),
            caller.told(period="current", **dates),
        ]
        assert told[0] == told[1] == told[2]
        assert told[0]["usage"]["periodStart"] == "2023-11-01T00:00:00.000Z"
        assert told[0]["usage"]["periodEnd"] == "2023-11-30T23:59:59.999Z"
        assert vendor.polls == 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "VALIDATION_ERROR"),
        (b"{", "VALIDATION_ERROR"),
        (b"[]", "VALIDATION_ERROR"),
        (b"null", "VALIDATION_ERROR"),
        (b'{"period":"monthly"}', "VALIDATION_ERROR"),
        (b'{"period":null}', "VALIDATION_ERROR"),
        (b'{"period":["current"]}', "VALIDATION_ERROR"),
        (b'{"period":"custom"}', "VALIDATION_ERROR"),
        (b'{"period":"custom","startDate":"2026-01-01"}', "VALIDATION_ERROR"),
        (b'{"period":"custom","endDate":"2026-01-01"}', "VALIDATION_ERROR"),
        (
            b'{"period":"custom","startDate":"2026-01-02","endDate":"2026-01-01"}',
            "VALIDATION_ERROR",
        ),
        (b'{"period":"custom","startDate":"01-01-2026","endDate":"2026-03-01"}', "INVALID_DATE"),
        (b'{"period":"custom","startDate":"2026-02-30","endDate":"2026-03-01"}', "INVALID_DATE"),
        (b'{"period":"custom","startDate":"2026-01-01","endDate":20260301}', "INVALID_DATE"),
        (b'{"period":"custom","startDate":"soon"}', "INVALID_DATE"),
    ],
)
def test_stats_that_cannot_be(call: Callable[..., Caller], body: bytes, code: str) -> None:
    """A body is required, even if empty; custom has two dates, each YYYY-MM-DD."""
    with fake("octanist") as vendor:
        answer = call(vendor).client.post(STATS, content=body)
        assert refused(answer) == (400, code)


def test_without_a_subscription_there_is_no_period(call: Callable[..., Caller]) -> None:
    """Both ends are null, and it can begin and end."""
    with fake("octanist", used=3, quota=50, subscribed=False) as vendor:
        caller = call(vendor)
        usage = caller.told()["usage"]
        assert (usage["periodStart"], usage["periodEnd"]) == (None, None)
        assert (usage["leadsUsed"], usage["leadsLimit"]) == (3, 50)
        vendor.subscribe()
        assert caller.told()["usage"]["periodEnd"] is not None
        vendor.subscribe(active=False)
        assert caller.told()["usage"]["periodEnd"] is None


def test_charges_show_after_the_lag(call: Callable[..., Caller]) -> None:
    """A lead is true at once, and in the stats once the lag has passed; sources add up."""
    clock = FakeClock()
    with fake("octanist", lag=60, used=10, quota=11, clock=clock) as vendor:
        caller = call(vendor)
        caller.create()
        vendor.spend(1)
        assert (vendor.true["leads"], vendor.shown["leads"], caller.used()) == (12, 10, 10)
        assert (vendor.locked, caller.told()["usage"]["lockedLeads"]) == (1, 0)
        clock.advance(59.9)
        assert caller.used() == 10
        clock.advance(0.1)
        told = caller.told()
        assert told["usage"]["leadsUsed"] == told["leads"]["total"] == 12
        assert told["usage"]["lockedLeads"] == 1
        assert told["leads"]["bySource"] == {"gtm": 11, "api": 1}


def test_others_come_by_the_tag(call: Callable[..., Caller]) -> None:
    """Other consumers by the clock and by spend() are of the source gtm."""
    clock = FakeClock()
    with fake("octanist", other_rate=0.5, quota=10, clock=clock) as vendor:
        clock.advance(60)
        vendor.spend(5)
        assert vendor.true == {"leads": 35, "leads.api": 0, "leads.gtm": 35}
        assert call(vendor).told()["leads"]["bySource"] == {"gtm": 35, "api": 0}


def test_the_previous_period_is_what_was_metered(call: Callable[..., Caller]) -> None:
    """Its counts, its dates and what became of its leads; nothing before the first."""
    clock = FakeClock(datetime(2026, 11, 30, 23, tzinfo=UTC).timestamp())
    with fake("octanist", quota=10, used=4, clock=clock) as vendor:
        caller = call(vendor)
        before = caller.told(period="previous")
        assert before["leads"]["total"] == 0
        assert before["usage"]["periodStart"] == "2026-10-01T00:00:00.000Z"
        assert before["usage"]["periodEnd"] == "2026-10-31T23:59:59.999Z"
        for _ in range(8):
            caller.create(email="a@example.com")
        caller.update(id=caller.client.get(LEADS).json()["data"][0]["id"], status="lost")
        clock.advance(2 * 3600)
        caller.create()

        assert caller.used() == 1
        past = caller.told(period="previous")
        assert past["usage"] == {
            "leadsUsed": 12,
            "leadsLimit": 10,
            "lockedLeads": 2,
            "periodStart": "2026-11-01T00:00:00.000Z",
            "periodEnd": "2026-11-30T23:59:59.999Z",
        }
        assert past["leads"]["byStatus"] == {"open": 11, "qualified": 0, "won": 0, "lost": 1}
        assert caller.told()["leads"]["byStatus"] == {
            "open": 1,
            "qualified": 0,
            "won": 0,
            "lost": 0,
        }


def test_custom_dates_are_what_was_metered_on_them(call: Callable[..., Caller]) -> None:
    """Both days included, ours and others', also across the end of a period."""
    clock = FakeClock(datetime(2026, 11, 29, tzinfo=UTC).timestamp())
    with fake("octanist", quota=10, other_rate=1 / 3600, clock=clock) as vendor:
        caller = call(vendor)
        for _ in range(4):
            caller.create()
            clock.advance(DAY)

        def total(start: str, end: str) -> tuple[int, dict[str, int]]:
            told = caller.told(period="custom", startDate=start, endDate=end)
            assert told["usage"]["periodStart"] == f"{start}T00:00:00.000Z"
            assert told["usage"]["periodEnd"] == f"{end}T23:59:59.999Z"
            assert told["usage"]["leadsUsed"] == told["leads"]["total"]
            assert sum(told["leads"]["byStatus"].values()) == told["leads"]["total"]
            return told["leads"]["total"], told["leads"]["bySource"]

        assert total("2026-11-29", "2026-11-29") == (24, {"gtm": 23, "api": 1})
        assert total("2026-11-30", "2026-11-30") == (25, {"gtm": 24, "api": 1})
        assert total("2026-11-30", "2026-12-01") == (50, {"gtm": 48, "api": 2})
        assert total("2026-11-01", "2026-12-31") == (100, {"gtm": 96, "api": 4})
        assert total("2026-11-01", "2026-11-28") == (0, {"gtm": 0, "api": 0})


@settings(max_examples=60)
@given(
    rate=st.floats(0.0001, 0.01),
    cap=st.none() | st.integers(0, 2000),
    lag=st.sampled_from([0, 60, 7200]),
    steps=st.lists(st.tuples(st.floats(0, 3 * DAY), st.integers(0, 5)), min_size=1, max_size=6),
)
def test_days_add_up_to_what_was_charged(
    rate: float, cap: int | None, lag: float, steps: list[tuple[float, int]]
) -> None:
    """Law: every unit was charged on one day, the one that it is told of then."""
    clock = FakeClock()
    knobs = {"other_rate": rate, "other_total": cap, "lag": lag, "clock": clock}
    vendor = fake("octanist", **knobs)
    first = datetime.fromtimestamp(clock.now().wall, UTC).date()
    seen: dict[date, int] = {}
    for seconds, spent in steps:
        clock.advance(seconds)
        vendor.spend(spent)
        today = datetime.fromtimestamp(clock.now().wall, UTC).date()
        charged = sum(past["leads"] for past in vendor.past) + vendor.true["leads"]
        days = [first + timedelta(days=day) for day in range((today - first).days + 1)]
        told = {day: vendor._metering.between(day, day)["leads"] for day in days}
        assert sum(told.values()) == charged
        assert vendor._metering.between(first, today)["leads"] == charged
        assert all(told[day] == count for day, count in seen.items())
        seen = {day: count for day, count in told.items() if day < today}
        whole_days = [count for day, count in told.items() if first < day < today]
        if cap is None and not any(spent for _, spent in steps):
            assert all(abs(count - rate * DAY) <= 1 for count in whole_days)


# --- what goes wrong ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("400", "VALIDATION_ERROR"),
        ("401", "UNAUTHORIZED"),
        ("403", "FORBIDDEN"),
        ("404", "NOT_FOUND"),
        ("409", "CONFLICT"),
        ("429", "TOO_MANY_REQUESTS"),
        ("500", "INTERNAL_ERROR"),
        ("503", "SERVICE_UNAVAILABLE"),
    ],
)
def test_a_scripted_status_is_free(call: Callable[..., Caller], name: str, code: str) -> None:
    """A status by name is answered once in the documented envelope, and charges nothing."""
    with fake("octanist", faults=[name]) as vendor:
        caller = call(vendor)
        answer = caller.create()
        assert refused(answer) == (int(name), code)
        assert ("Retry-After" in answer.headers) == (name in ("429", "503"))
        assert vendor.true["leads"] == 0
        assert caller.create().status_code == 200


@pytest.mark.parametrize("free", [False, True], ids=["charged", "free"])
@pytest.mark.parametrize("name", ["timeout", "reset", "close", "garbage", "truncated"])
def test_a_broken_answer(call: Callable[..., Caller], name: str, free: bool) -> None:
    """What breaks on the wire is charged unless it says free."""
    with fake("octanist", faults=[f"{name}-free" if free else name]) as vendor:
        with pytest.raises(httpx.TransportError):
            call(vendor, timeout=0.3).create()
        assert vendor.true["leads"] == (not free)


def test_what_costs_nothing_uses_up_no_script(call: Callable[..., Caller]) -> None:
    """A fault of calls waits for a lead that is created, one of stats for the stats."""
    with fake("octanist", faults=["500"], stats_faults=["503"]) as vendor:
        caller = call(vendor)
        assert caller.client.get(LEADS).status_code == 200
        assert caller.client.post(CHECK).status_code == 200
        assert [500, 200] == [caller.create().status_code for _ in range(2)]
        assert [503, 200] == [caller.poll().status_code for _ in range(2)]


@pytest.mark.parametrize("name", sorted({*CALL_FAULTS, *STATS_FAULTS}))
def test_every_stats_fault_is_once(call: Callable[..., Caller], name: str) -> None:
    """Each stats fault by name spoils one poll, charges nothing, and the next is honest."""
    with fake("octanist", used=3, quota=50, clock=FakeClock(), stats_faults=[name]) as vendor:
        caller = call(vendor, timeout=0.3)
        try:
            with caller.client.stream("POST", STATS, json={}) as answer:
                raw = b"".join(itertools.islice(answer.iter_raw(), 4))
            honest = answer.status_code == 200 and _is_honest(raw)
        except httpx.TransportError:
            honest = False

        assert not honest
        assert _is_honest(caller.poll().content)
        assert (vendor.polls, vendor.true["leads"]) == (2, 3)


def _is_honest(raw: bytes) -> bool:
    try:
        told = json.loads(raw)
    except ValueError:
        return False
    usage = {
        "leadsUsed": 3,
        "leadsLimit": 50,
        "lockedLeads": 0,
        "periodStart": "2023-11-01T00:00:00.000Z",
        "periodEnd": "2023-11-30T23:59:59.999Z",
    }
    return told["success"] is True and told["data"]["usage"] == usage and len(raw) < 10_000


def test_an_answer_of_ones_own_is_given_as_it_is(call: Callable[..., Caller]) -> None:
    """Such as a 200 that says that it was not successful."""
    said = {"success": False, "error": {"code": "CONFLICT", "message": "no", "details": {}}}
    with fake("octanist", faults=[Reply.json(200, said)]) as vendor:
        answer = call(vendor).create()
        assert (answer.status_code, answer.json()) == (200, said)
        assert vendor.true["leads"] == 0


def test_request_ids_are_its_own(call: Callable[..., Caller]) -> None:
    """Each answer has another, in the documented form, the same for the same seed."""
    seen = []
    for seed in (0, 0, 1):
        with fake("octanist", seed=seed) as vendor:
            caller = call(vendor)
            seen.append([caller.poll().json()["meta"]["requestId"] for _ in range(3)])
    assert all(len(name) == len("req_a1b2c3d4e5f6") for name in seen[0])
    assert len({*seen[0], *seen[2]}) == 6
    assert seen[0] == seen[1]
