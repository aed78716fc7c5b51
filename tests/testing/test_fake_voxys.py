"""The fake Voxys, asked over real loopback: its deals, its analytics, its moods."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from quotaguard.errors import ConfigError
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.server import Reply
from quotaguard.testing.voxys import CALL_FAULTS, STATS_FAULTS

if TYPE_CHECKING:
    from quotaguard.testing.voxys import FakeVoxys

ROOT = "/api/v1/accounts/7/"
STATS = f"{ROOT}funnels/3/analytics"
CREATED = "deals.created"
DAY = 86_400.0


class Caller:
    """Asks a fake over one connection."""

    def __init__(self, vendor: FakeVoxys, key: str = "test-key", timeout: float = 5) -> None:
        headers = {"api_access_token": key}
        self.client = httpx.Client(
            base_url=vendor.url, headers=headers, timeout=timeout, trust_env=False
        )

    def convert(self, lead: int = 1, **body: Any) -> httpx.Response:
        body = {"funnel_id": 3, "funnel_stage_id": 7, **body}
        return self.client.post(f"{ROOT}leads/{lead}/convert", json=body)

    def create(self, **body: Any) -> httpx.Response:
        return self.client.post(f"{ROOT}leads", json={"name": "Ann", **body})

    def ask(self, **query: Any) -> httpx.Response:
        return self.client.get(STATS, params=query)

    def analytics(self, **query: Any) -> dict[str, Any]:
        answer = self.ask(**query)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.fixture
def call() -> Iterator[Callable[..., Caller]]:
    """Make callers that are closed at the end."""
    made: list[Caller] = []

    def make(vendor: FakeVoxys, **settings: Any) -> Caller:
        made.append(Caller(vendor, **settings))
        return made[-1]

    yield make
    for caller in made:
        caller.client.close()


def clock_at(*when: int) -> FakeClock:
    """Return a clock that stands at this time in UTC."""
    return FakeClock(datetime(*when, tzinfo=UTC).timestamp())  # type: ignore[misc,arg-type]


# --- what it is ---------------------------------------------------------------


@pytest.mark.parametrize(
    "knob",
    [
        {"window": "hour"},
        {"time_zone": "Europe/Atlantis"},
        {"period": ("2026-01-01", "2026-02-01")},
        {"agents": ()},
        {"stages": ()},
        {"lag": -1},
        {"faults": ["explode"]},
        {"stats_faults": ["explode"]},
        {"match_rate": 1},
    ],
    ids=str,
)
def test_a_knob_turned_too_far_is_yours(knob: dict[str, Any]) -> None:
    """A setting that cannot be is found when the fake is made."""
    with pytest.raises(ConfigError):
        fake("voxys", **knob)


def test_repr_shows_the_main_meter() -> None:
    """The repr says how much of the budget is really used."""
    vendor = fake("voxys", quota=500, used=120)
    assert repr(vendor) == f"<FakeVoxys: {CREATED} 120/500, 0 polls>"
    assert (vendor.quota, vendor.true[CREATED], vendor.shown[CREATED]) == (500, 120, 120)


# --- calls --------------------------------------------------------------------


def test_a_conversion_makes_a_deal(call: Callable[..., Caller]) -> None:
    """In the pipeline and in the stage, with the money of the knob; lead by lead."""
    with fake("voxys", deal_value=1999.5) as vendor:
        answer = call(vendor).convert(lead=41)

        assert answer.status_code == 200
        assert answer.json() == {
            "id": 1,
            "lead_id": 41,
            "funnel_id": 3,
            "funnel_stage_id": 7,
            "value": 1999.5,
        }
        assert (vendor.true[CREATED], vendor.true["value.created"]) == (1, 1999.5)
        assert (vendor.true["stage.7.count"], vendor.true["stage.8.count"]) == (1, 0)
        assert vendor.true["agent.1.created"] == 1


def test_another_pipeline_has_its_own_deals(call: Callable[..., Caller]) -> None:
    """They are made, and do not show here."""
    with fake("voxys", other_funnels=(4, 5)) as vendor:
        assert call(vendor).convert(funnel_id=5).status_code == 200
        assert call(vendor).convert(funnel_id="3", funnel_stage_id="8").status_code == 200
        assert (vendor.true[CREATED], vendor.true["stage.8.count"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"funnel_stage_id": 7}', 422),
        (b'{"funnel_id": 99}', 404),
        (b'{"funnel_id": null}', 404),
        (b'{"funnel_id": 3, "funnel_stage_id": 99}', 422),
        (b'{"funnel_id": 3}', 200),
    ],
    ids=repr,
)
def test_a_conversion_needs_a_pipeline(
    call: Callable[..., Caller], body: bytes, status: int
) -> None:
    """What is missing or unknown is told in the vendor's envelope, and makes no deal."""
    with fake("voxys") as vendor:
        answer = call(vendor).client.post(f"{ROOT}leads/1/convert", content=body)
        assert answer.status_code == status
        assert vendor.true[CREATED] == (status == 200)
        if status != 200:
            assert set(answer.json()) == {"error"}


def test_a_lead_is_no_deal_unless_it_says_so(call: Callable[..., Caller]) -> None:
    """Only with a pipeline in its body, made up so that a route can be priced."""
    with fake("voxys") as vendor:
        caller = call(vendor)
        assert caller.create().json() == {"id": 1, "name": "Ann"}
        assert vendor.true[CREATED] == 0
        assert caller.create(funnel_id=3, value=20, agent_id=2).status_code == 200
        assert (vendor.true[CREATED], vendor.true["value.created"]) == (1, 20)
        assert vendor.true["agent.2.created"] == 1


def test_bulk_is_as_documented_and_makes_no_deal(call: Callable[..., Caller]) -> None:
    """Assign, change the status, delete: leads, and not deals."""
    with fake("voxys") as vendor:
        client = call(vendor).client
        body = {"lead_ids": [1, 2], "action_type": "delete"}
        done = client.post(f"{ROOT}leads/bulk", json=body)
        assert done.json() == {"success": True, "affected_count": 2}
        for wrong in ({"lead_ids": [1]}, {"action_type": "assign"}, {**body, "action_type": "x"}):
            assert client.post(f"{ROOT}leads/bulk", json=wrong).status_code == 422
        assert vendor.true[CREATED] == 0


def test_a_deal_can_be_deleted(call: Callable[..., Caller]) -> None:
    """Once; then it does not count any more, as if it had never been."""
    with fake("voxys") as vendor:
        caller = call(vendor)
        number = caller.convert().json()["id"]
        caller.convert()
        path = f"{ROOT}deals/{number}"
        answers = [caller.client.delete(path).status_code for _ in range(2)]
        assert answers == [200, 404]
        assert (vendor.true[CREATED], vendor.true["stage.7.count"]) == (1, 1)
        assert vendor.delete(5) == 1
        assert vendor.true[CREATED] == 0


def test_the_vendor_never_refuses_unless_told_to(call: Callable[..., Caller]) -> None:
    """It knows no quota; with overage=False it answers 402 as for a feature."""
    with fake("voxys", quota=1) as vendor:
        assert [call(vendor).convert().status_code for _ in range(3)] == [200, 200, 200]
    with fake("voxys", quota=2, used=1, overage=False) as vendor:
        answers = [call(vendor).convert() for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 402]
        assert "Account limit exceeded" in answers[1].json()["error"]
        assert vendor.spend(3) == 0
        assert vendor.true[CREATED] == 2


def test_many_connections_never_pass_a_hard_limit(call: Callable[..., Caller]) -> None:
    """Checking and creating are one step."""
    with fake("voxys", quota=20, overage=False) as vendor:
        callers = [call(vendor) for _ in range(8)]

        def work(caller: Caller) -> list[int]:
            return [caller.convert().status_code for _ in range(5)]

        with ThreadPoolExecutor(8) as pool:
            codes = list(itertools.chain.from_iterable(pool.map(work, callers)))
        assert (codes.count(200), codes.count(402)) == (20, 20)
        assert vendor.true[CREATED] == 20


@pytest.mark.parametrize("key", ["", "wrong", "test-keys"])
def test_keys_are_looked_at(call: Callable[..., Caller], key: str) -> None:
    """Under the header with underscores and nowhere else; another user's key will do."""
    with fake("voxys", other_keys=("boss",)) as vendor:
        bad = call(vendor, key=key)
        assert [bad.convert().status_code, bad.ask().status_code] == [401, 401]
        assert bad.ask().json() == {"error": "Invalid Access Token"}
        with httpx.Client(base_url=vendor.url, trust_env=False) as client:
            for name in ("api-access-token", "Authorization", "apiaccesstoken"):
                assert client.get(STATS, headers={name: "test-key"}).status_code == 401
        assert call(vendor, key="boss").convert().status_code == 200
        assert vendor.true[CREATED] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", STATS, 200),
        ("GET", f"{STATS}/", 200),
        ("GET", f"{STATS}.json", 200),
        ("GET", f"{ROOT}funnels/4/analytics", 404),
        ("GET", "/api/v1/accounts/8/funnels/3/analytics", 404),
        ("POST", STATS, 404),
        ("GET", f"{ROOT}leads", 404),
        ("POST", f"{ROOT}leads/0/convert", 404),
        ("POST", f"{ROOT}leads/1/convert.json", 200),
        ("POST", "/api/v1/accounts/8/leads/1/convert", 404),
        ("DELETE", f"{ROOT}deals/1", 404),
        ("GET", "/", 404),
    ],
)
def test_routes(call: Callable[..., Caller], method: str, path: str, status: int) -> None:
    """Another account and another pipeline are not found."""
    with fake("voxys") as vendor:
        answer = call(vendor).client.request(method, path, json={"funnel_id": 3})
        assert answer.status_code == status
        if status == 404:
            assert answer.json() == {"error": "Resource could not be found"}


# --- analytics ------------------------------------------------------------------


def test_analytics_have_the_documented_shape(call: Callable[..., Caller]) -> None:
    """Every documented field, worked out from the deals that there are."""
    clock = clock_at(2026, 11, 21)
    with fake("voxys", clock=clock, used=2) as vendor:
        caller = call(vendor)
        caller.convert(funnel_stage_id=8)
        vendor.spend(3)
        assert (vendor.win(2), vendor.lose(1)) == (2, 1)
        assert caller.analytics(since="2026-11-01", until="2026-11-30") == {
            "period": {"since": "2026-11-01", "until": "2026-11-30"},
            "total_created": 6,
            "total_won": 2,
            "total_lost": 1,
            "total_value_created": 30_000,
            "total_value_won": 10_000,
            "average_deal_size": 5000,
            "conversion_rate": 33.3,
            "by_agent": [
                {
                    "agent": {
                        "id": number,
                        "name": name,
                        "email": f"agent{number}@example.com",
                        "avatar_url": "",
                    },
                    "created": 3,
                    "won": won,
                    "value_won": 5000 * won,
                }
                for number, name, won in ((1, "Jane Smith", 0), (2, "Amir Khan", 2))
            ],
            "by_stage": [
                {"stage_id": 7, "stage_name": "Stage 7", "count": 2, "value": 10_000},
                {"stage_id": 8, "stage_name": "Stage 8", "count": 1, "value": 5000},
            ],
        }


def test_analytics_take_any_dates(call: Callable[..., Caller]) -> None:
    """Both days are within; deals belong to the day in the zone on which they were made."""
    clock = clock_at(2026, 11, 20, 22)
    with fake("voxys", clock=clock, time_zone="Europe/Berlin", window="day") as vendor:
        caller = call(vendor)
        caller.convert()
        clock.advance(2 * 3600)  # in Berlin it is the 21st since an hour
        caller.convert()
        caller.convert()

        def created(since: str | None, until: str | None) -> int:
            query = {"since": since, "until": until}
            told = caller.analytics(**{name: day for name, day in query.items() if day})
            return int(told["total_created"])

        assert created("2026-11-20", "2026-11-20") == 1
        assert created("2026-11-21", "2026-11-21") == 2
        assert created("2026-11-20", "2026-11-21") == 3
        assert created("2026-11-22", "2026-11-30") == 0
        assert created("2026-11-21", None) == 2
        assert created(None, "2026-11-20") == 1
        assert created(None, None) == 3
        assert caller.analytics()["period"] == {"since": None, "until": None}
        assert vendor.true[CREATED] == 2
        assert [past[CREATED] for past in vendor.past] == [1]


def test_analytics_of_one_agent(call: Callable[..., Caller]) -> None:
    """Totals and rows are his alone."""
    with fake("voxys") as vendor:
        caller = call(vendor)
        caller.convert(agent_id=1)
        caller.convert(agent_id=2)
        vendor.win(1)
        told = caller.analytics(agent_id=1)
        assert (told["total_created"], told["total_won"]) == (1, 0)
        assert [row["agent"]["id"] for row in told["by_agent"]] == [1]
        assert caller.analytics(agent_id=9)["by_agent"] == []


@pytest.mark.parametrize(
    ("group", "series"),
    [
        ("day", [("2026-11-30", 1), ("2026-12-01", 2)]),
        ("week", [("2026-11-30", 3)]),
        ("month", [("2026-11-01", 1), ("2026-12-01", 2)]),
        ("agent", [(1, 2), (2, 1)]),
        ("stage", [(7, 3)]),
    ],
)
def test_analytics_by_group(
    call: Callable[..., Caller], group: str, series: list[tuple[object, int]]
) -> None:
    """A series is added, made up since it is not documented."""
    clock = clock_at(2026, 11, 30, 12)
    with fake("voxys", clock=clock) as vendor:
        caller = call(vendor)
        caller.convert()
        clock.advance(DAY)
        caller.convert()
        vendor.spend(1)
        told = caller.analytics(group_by=group)["series"]
        assert told == [{group: key, "created": count} for key, count in series]
        assert "series" not in caller.analytics()


@pytest.mark.parametrize(
    "query",
    [
        {"since": "soon"},
        {"since": "2026-11-30", "until": "2026-11-01"},
        {"agent_id": "x"},
        {"group_by": "year"},
    ],
    ids=str,
)
def test_a_question_that_cannot_be_is_422(
    call: Callable[..., Caller], query: dict[str, str]
) -> None:
    """In the vendor's envelope."""
    with fake("voxys") as vendor:
        assert call(vendor).ask(**query).status_code == 422


# --- time -------------------------------------------------------------------------


@pytest.mark.parametrize("visible", ["fixed", "random"])
def test_stats_lag(call: Callable[..., Caller], visible: str) -> None:
    """What was made, won or deleted shows after the lag, and not all of it before."""
    clock = FakeClock()
    with fake("voxys", lag=60, visible=visible, clock=clock, seed=3) as vendor:
        caller = call(vendor)
        for _ in range(20):
            caller.convert()
        vendor.spend(30)
        assert (vendor.true[CREATED], vendor.shown[CREATED]) == (50, 0)
        clock.advance(30)
        middle = vendor.shown[CREATED]
        assert middle == 0 if visible == "fixed" else 0 < middle < 50
        clock.advance(30)
        assert vendor.shown[CREATED] == caller.analytics()["total_created"] == 50
        vendor.win(5)
        vendor.delete(3)
        assert (vendor.true["deals.won"], vendor.shown["deals.won"]) == (2, 0)
        assert (vendor.true[CREATED], vendor.shown[CREATED]) == (47, 50)
        clock.advance(60)
        assert dict(vendor.shown) == dict(vendor.true)


def test_other_people_create_deals(call: Callable[..., Caller]) -> None:
    """By the clock, up to their total, in the last agent's name, dated when they did."""
    clock = clock_at(2026, 11, 30, 23)
    with fake("voxys", other_rate=0.01, other_total=60, clock=clock, agents=(1, 2, 5)) as vendor:
        clock.advance(3600)
        assert vendor.true[CREATED] == 1  # the 36th came with the new month
        assert vendor.past[0][CREATED] == 35
        assert vendor.true["agent.5.created"] == 1
        clock.advance(DAY)
        assert vendor.true[CREATED] == 25
        told = call(vendor).analytics(since="2026-11-01", until="2026-11-30")
        assert told["total_created"] == 35


def test_windows_turn(call: Callable[..., Caller]) -> None:
    """Counts begin anew with a day of 23 hours, what is in a stage does not."""
    clock = clock_at(2026, 3, 28, 22, 59, 59)
    zone = {"window": "day", "time_zone": "Europe/Berlin"}
    with fake("voxys", used=4, clock=clock, **zone) as vendor:
        call(vendor).convert()
        clock.advance(1)
        assert (vendor.true[CREATED], vendor.true["stage.7.count"]) == (0, 5)
        vendor.spend(2)
        clock.advance(23 * 3600 - 1)
        assert vendor.true[CREATED] == 2
        clock.advance(1)
        assert vendor.true[CREATED] == 0
        assert [past[CREATED] for past in vendor.past] == [5, 2]


def test_a_wrong_local_clock_is_not_the_vendors() -> None:
    """Its days are its own."""
    clock = clock_at(2026, 11, 30, 23)
    with fake("voxys", used=4, clock=clock) as vendor:
        clock.jump_wall(2 * 3600)
        assert vendor.true[CREATED] == 4


# --- moods ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["500", "503", "429", "429-after", "401", "402", "403", "404"])
def test_a_status_costs_nothing(call: Callable[..., Caller], name: str) -> None:
    """A scripted answer makes no deal; haste is told in plain text, by what stands in front."""
    with fake("voxys", faults=[name]) as vendor:
        caller = call(vendor)
        answer = caller.convert()
        assert answer.status_code == int(name[:3])
        assert vendor.true[CREATED] == 0
        if name.startswith("429"):
            assert (answer.text, answer.headers["content-type"]) == ("Retry later\n", "text/plain")
            assert answer.headers.get("retry-after") == ("7" if name == "429-after" else None)
        assert caller.convert().status_code == 200


@pytest.mark.parametrize("name", ["reset", "close", "garbage", "truncated"])
@pytest.mark.parametrize("free", [False, True])
def test_a_broken_answer_has_done_the_work_unless_free(
    call: Callable[..., Caller], name: str, free: bool
) -> None:
    """The deal is there although nobody hears of it."""
    with fake("voxys", faults=[name + "-free" * free]) as vendor:
        with pytest.raises(httpx.TransportError):
            call(vendor).convert()
        assert vendor.true[CREATED] == (not free)


@pytest.mark.parametrize("name", sorted({*STATS_FAULTS, "500", "429", "401", "reset"}))
def test_stats_can_be_spoiled(call: Callable[..., Caller], name: str) -> None:
    """By name, once; the next answer is honest."""
    with fake("voxys", used=5, stats_faults=[name]) as vendor:
        caller = call(vendor)
        spoiled: object = None
        try:
            spoiled = caller.analytics(since="2026-11-01", until="2026-11-30")
        except (AssertionError, httpx.HTTPError, ValueError):
            spoiled = None
        honest = caller.analytics(since="2026-11-01", until="2026-11-30")
        if name not in {"gzip", "huge"}:  # httpx unpacks the one, blanks pad the other
            assert repr(spoiled) != repr(honest)
        assert vendor.polls == 2


def test_an_answer_of_ones_own(call: Callable[..., Caller]) -> None:
    """Goes wherever a name goes."""
    with fake("voxys", faults=[Reply(418, b"teapot")]) as vendor:
        assert call(vendor).convert().text == "teapot"
    assert "429-after" in CALL_FAULTS
