"""Voxys guarded end to end: the guard, httpx, and a fake that knows the truth, on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import pytest

from quotaguard import (
    ConfigError,
    Guard,
    MemoryLedger,
    Policy,
    QuotaExhausted,
    QuotaUnknown,
    Refusal,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
    Voxys,
    VoxysChoices,
)
from quotaguard.quota.events import Degraded, Event, PeriodTurned, PollFailed
from quotaguard.quota.windows import Windows
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.server import LoopbackServer, Reply, Request
from quotaguard.testing.voxys import FakeVoxys

CREATED = "deals.created"
KEY = "vx-canary-5f2d"
AUTH = {"api_access_token": KEY}
ROOT = "/api/v1/accounts/7/"
NOW = {"quotaguard": {"priority": "critical", "max_wait": 0}}
DAY = 86_400.0
NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)


@dataclass
class Desk:
    """One guard of one fake, with a client, and the clock of both."""

    vendor: FakeVoxys
    clock: FakeClock
    guard: Guard
    client: httpx.Client
    told: list[Event]

    def convert(self, lead: int = 1, **body: Any) -> httpx.Response:
        """Make a lead a deal, at once or not at all."""
        body = {"funnel_id": 3, "funnel_stage_id": 7, **body}
        return self.client.post(f"{ROOT}leads/{lead}/convert", json=body, extensions=NOW)

    def spend(self, most: int = 1000) -> int:
        """Convert until the guard refuses; return how many went."""
        for count in range(most):
            try:
                self.convert(count + 1)
            except Refusal:
                return count
        return most

    def events(self, kind: type[Event]) -> list[Any]:
        """Return what was told of this kind."""
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    """Open desks whose vendors, clients and guards are closed at the end."""
    opened: list[Desk] = []

    def make(
        at: datetime = NOON,
        *,
        provider: dict[str, Any] | None = None,
        policy: dict[str, Any] | None = None,
        **knobs: Any,
    ) -> Desk:
        clock, told = FakeClock(at.timestamp()), list[Event]()
        vendor = fake("voxys", **{"key": KEY, "clock": clock, "quota": 20, **knobs})
        vendor.__enter__()
        given = {"limits": {CREATED: vendor.quota}, **(provider or {})}
        for name in ("window", "time_zone"):
            if name in knobs:
                given.setdefault(name, knobs[name])
        guard = Guard(
            Voxys(KEY, 7, 3, base_url=vendor.url, **given),
            policy=Policy(**{"cold_reserve": 0, **(policy or {})}),
            clock=clock,
            listeners=[told.append],
        )
        client = guard.client(base_url=vendor.url, headers=AUTH, trust_env=False)
        opened.append(Desk(vendor, clock, guard, client, told))
        return opened[-1]

    yield make
    for each in opened:
        each.client.close()
        each.guard.close()
        each.vendor.__exit__(None, None, None)


# -- exactly the budget -------------------------------------------------------


def in_threads(desk: Desk, count: int = 8) -> None:
    """Spend from *count* threads."""
    threads = [threading.Thread(target=desk.spend) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def in_tasks(desk: Desk, count: int = 8) -> None:
    """Spend from *count* tasks."""

    async def work(client: httpx.AsyncClient) -> None:
        with suppress(Refusal):
            for lead in range(1, 1000):
                body = {"funnel_id": 3}
                await client.post(f"{ROOT}leads/{lead}/convert", json=body, extensions=NOW)

    url = desk.vendor.url
    async with (
        desk.guard.async_client(base_url=url, headers=AUTH, trust_env=False) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(count):
            tasks.start_soon(work, client)


@pytest.mark.parametrize("way", ["threads", "asyncio", "trio"])
@pytest.mark.parametrize("lag", [0, 60])
def test_exactly_the_budget_is_spent(desk: Callable[..., Desk], way: str, lag: float) -> None:
    """The vendor never refuses and tells its counts late; the guard stops at the budget."""
    here = desk(quota=60, used=13, lag=lag)
    here.guard.refresh()  # with this clock, who waits for somebody's poll moves the time
    if way == "threads":
        in_threads(here)
    else:
        anyio.run(in_tasks, here, backend=way)
    assert here.vendor.true[CREATED] == here.vendor.quota == 60
    row = here.guard.standing()[CREATED]
    assert (row.used, row.limit, row.reserved, row.headroom) == (60, 60, 0, 0)


def test_others_spend_too(desk: Callable[..., Desk]) -> None:
    """People create deals in the vendor's own pages; readings tell, and the guard stops short."""
    here = desk(quota=50)
    assert here.spend(10) == 10
    here.vendor.spend(30)
    here.clock.advance(65)
    here.guard.refresh()
    assert here.spend() == 10
    assert here.vendor.true[CREATED] == 50
    assert here.guard.standing()[CREATED].drift == 30


def test_a_refusal_has_the_facts(desk: Callable[..., Desk]) -> None:
    """Which budget, how much of it, and when it begins anew: at midnight in the zone."""
    here = desk(quota=2, time_zone="America/New_York")
    here.spend(2)
    with pytest.raises(QuotaExhausted) as caught:
        here.convert()
    facts = caught.value
    assert (facts.provider, facts.meter, facts.limit, facts.used) == ("voxys", CREATED, 2, 2)
    assert facts.resets_at == datetime(2026, 12, 1, 5, tzinfo=UTC)
    assert KEY not in str(facts)
    assert here.vendor.true[CREATED] == 2


def test_a_budget_of_0_is_nothing(desk: Callable[..., Desk]) -> None:
    """Not unlimited."""
    here = desk(quota=0)
    with pytest.raises(QuotaExhausted):
        here.convert()
    assert here.vendor.true[CREATED] == 0


@pytest.mark.parametrize("limits", [None, {}, {CREATED: None}], ids=repr)
def test_without_a_limit_the_guard_only_counts(desk: Callable[..., Desk], limits: Any) -> None:
    """The vendor tells none, and nobody else can know it."""
    here = desk(quota=5, provider={"limits": limits})
    assert here.spend(8) == 8
    row = here.guard.standing()[CREATED]
    assert (row.used, row.limit, row.headroom) == (8, None, None)


# -- what is metered ----------------------------------------------------------


def test_other_pipelines_and_accounts_pass(desk: Callable[..., Desk]) -> None:
    """With an empty budget they still go, and nothing is counted for them."""
    here = desk(quota=0)
    assert here.convert(funnel_id=4).status_code == 200
    elsewhere = here.client.post("/api/v1/accounts/8/leads/1/convert", json={"funnel_id": 3})
    assert elsewhere.status_code == 404
    assert "quotaguard" not in elsewhere.extensions
    with pytest.raises(QuotaExhausted):
        here.client.post(f"{ROOT}leads/1/convert", content=iter([b'{"funnel_id": 4}']))


def test_another_users_key_spends_from_the_same_pipeline(desk: Callable[..., Desk]) -> None:
    """It counts, with the guard's own key or without; and guards of both share their books."""
    here = desk(quota=10, other_keys=("boss",))
    boss = {"api_access_token": "boss"}
    for _ in range(3):
        answer = here.client.post(f"{ROOT}leads/1/convert", json={"funnel_id": 3}, headers=boss)
        assert answer.extensions["quotaguard"].state == "settled"
    provider = Voxys("boss", 7, 3, limits={CREATED: 10}, base_url=here.vendor.url)
    with Guard(provider, policy=here.guard.policy, clock=here.clock) as other:
        assert other.standing()[CREATED].used == 3
        with other.client(base_url=here.vendor.url, headers=boss, trust_env=False) as client:
            client.post(f"{ROOT}leads/1/convert", json={"funnel_id": 3})
        assert here.spend() == 6
    assert here.vendor.true[CREATED] == 10
    assert not here.events(Degraded)


def test_a_priced_route_is_matched_on_the_wire(desk: Callable[..., Desk]) -> None:
    """The vendor's lead creation, if it makes deals; and a decorated function by a name."""
    operations = {"POST leads": {CREATED: 1}, "leads.import": {CREATED: 4}}
    here = desk(quota=6, provider={"operations": operations})
    body = {"name": "Ann", "funnel_id": 3}
    answer = here.client.post(f"{ROOT}leads", json=body, extensions=NOW)
    assert answer.extensions["quotaguard"].operation == "POST leads"

    @here.guard.limit("leads.import", priority="critical", max_wait=0)
    def load() -> str:
        here.vendor.spend(4)
        return "done"

    assert load() == "done"
    here.convert()
    for refused in (load, here.convert, lambda: here.client.post(f"{ROOT}leads", json=body)):
        with pytest.raises(Refusal):
            refused()
    assert here.vendor.true[CREATED] == 6
    bulk = {"lead_ids": [1], "action_type": "assign"}
    assert here.client.post(f"{ROOT}leads/bulk", json=bulk).status_code == 200


def test_money_is_a_budget_too(desk: Callable[..., Desk]) -> None:
    """In fractions, and to the cent."""
    operations = {"POST leads": {CREATED: 1, "value.created": 0.35}}
    here = desk(quota=None, provider={"operations": operations, "limits": {"value.created": 1.05}})
    body = {"funnel_id": 3, "value": 0.35}
    for _ in range(3):
        here.client.post(f"{ROOT}leads", json=body, extensions=NOW)
    with pytest.raises(QuotaExhausted) as caught:
        here.client.post(f"{ROOT}leads", json=body, extensions=NOW)
    assert caught.value.meter == "value.created"
    assert caught.value.used == pytest.approx(1.05)
    here.guard.refresh()
    assert here.guard.standing()["value.created"].used == pytest.approx(1.05)


def test_money_that_a_function_reserved_covers_its_call(desk: Callable[..., Desk]) -> None:
    """What has been counted in millionths is not counted in them again."""
    cost = {CREATED: 1, "value.created": 0.35}
    limits = {CREATED: 5, "value.created": 1.0}
    given = {"operations": {"POST leads": cost}, "limits": limits}
    here = desk(quota=None, provider=given)
    for more in (0.0, 0.1):
        with here.guard.reserve({**cost, "value.created": 0.35 - more}, priority="critical") as own:
            body = {"funnel_id": 3, "value": 0.35}
            here.client.post(f"{ROOT}leads", json=body, extensions=NOW)
        assert own.state == "settled"
    row = here.guard.standing()
    assert (row[CREATED].used, row["value.created"].used) == (2, pytest.approx(0.7))
    assert row["value.created"].reserved == 0


def test_agents_have_budgets_of_their_own(desk: Callable[..., Desk]) -> None:
    """Where the user says that conversions go to one; an agent not listed has 0."""
    operations = {"leads.convert": {CREATED: 1, "agent.2.created": 1}}
    limits = {CREATED: 20, "agent.2.created": 3, "agent.1.won": 5}
    here = desk(provider={"operations": operations, "limits": limits})
    for _ in range(3):
        here.convert(agent_id=2)
    with pytest.raises(QuotaExhausted) as caught:
        here.convert(agent_id=2)
    assert caught.value.meter == "agent.2.created"
    assert here.guard.standing()["agent.1.won"].used == 0


# -- what answers tell --------------------------------------------------------


def test_what_answers_cost(desk: Callable[..., Desk]) -> None:
    """Refused is free; a fault of theirs is unknown, and counts until readings know better."""
    here = desk(quota=20)
    states = {}
    for name in ("401", "403", "404", "422", "402"):
        here.vendor.script(name)
        states[name] = here.convert().extensions["quotaguard"].state
    assert set(states.values()) == {"released"}
    here.vendor.script("500", "reset")
    assert here.convert().extensions["quotaguard"].state == "unknown"
    with pytest.raises(httpx.TransportError):
        here.convert()
    assert here.vendor.true[CREATED] == 1
    assert here.guard.standing()[CREATED].headroom == 18
    for _ in range(2):  # late has passed, then the lag: now a reading is proof
        here.clock.advance(65)
        here.guard.refresh()
    assert here.guard.standing()[CREATED].headroom == 19
    assert here.guard.standing()[CREATED].reserved == 0


def test_account_limit_exceeded_asks_for_a_reading(desk: Callable[..., Desk]) -> None:
    """It is about features, or about deals after all: the next call polls first."""
    here = desk(quota=20)
    here.convert()
    here.clock.advance(1)
    here.convert()
    assert here.vendor.polls == 1
    here.vendor.script("402")
    here.convert()
    here.clock.advance(1)
    here.convert()
    assert here.vendor.polls == 2


def test_account_limit_exceeded_can_close(desk: Callable[..., Desk]) -> None:
    """Where the user says that it means the deals."""
    here = desk(quota=20, provider={"choices": VoxysChoices(account_limit="exhausted")})
    here.vendor.script("402")
    here.convert()
    with pytest.raises(QuotaExhausted):
        here.convert()


@pytest.mark.parametrize(("name", "seconds"), [("429", 10.0), ("429-after", 7.0)])
def test_haste_pauses(desk: Callable[..., Desk], name: str, seconds: float) -> None:
    """The next call waits as long as was asked, or as the choice says; nothing is spent."""
    here = desk(quota=20)
    here.vendor.script(name)
    assert here.convert().status_code == 429
    before = here.clock.fast()
    with pytest.raises(Refusal):
        here.convert()
    answer = here.client.post(f"{ROOT}leads/1/convert", json={"funnel_id": 3})
    assert answer.status_code == 200
    assert here.clock.fast() - before == pytest.approx(seconds)
    assert here.vendor.true[CREATED] == here.guard.standing()[CREATED].used == 1


# -- windows ------------------------------------------------------------------


TURNS: list[tuple[str, str, datetime]] = [
    ("month", "UTC", datetime(2027, 1, 31, 22, tzinfo=UTC)),  # 31, then 28, then 31 days
    ("month", "UTC", datetime(2028, 1, 31, 22, tzinfo=UTC)),  # 31, then 29
    ("month", "Europe/Berlin", datetime(2026, 2, 28, 20, tzinfo=UTC)),  # ends in summer time
    ("month", "America/New_York", datetime(2026, 11, 1, 2, tzinfo=UTC)),
    ("year", "Asia/Kathmandu", datetime(2027, 12, 31, 16, tzinfo=UTC)),  # 365, then 366 days
    ("quarter", "UTC", datetime(2026, 12, 31, 22, tzinfo=UTC)),
    ("week", "Europe/Berlin", datetime(2026, 10, 18, 20, tzinfo=UTC)),  # 169 hours follow
    ("week", "Europe/Berlin", datetime(2027, 3, 21, 21, tzinfo=UTC)),  # 167 hours follow
    ("day", "Europe/Berlin", datetime(2026, 3, 28, 21, tzinfo=UTC)),  # 24, then 23 hours
    ("day", "Europe/Berlin", datetime(2026, 10, 24, 20, tzinfo=UTC)),  # 24, then 25
    ("day", "America/New_York", datetime(2026, 3, 8, 3, tzinfo=UTC)),
    ("day", "America/New_York", datetime(2026, 11, 1, 2, tzinfo=UTC)),
    ("day", "America/Sao_Paulo", datetime(2018, 11, 4, 1, tzinfo=UTC)),  # midnight is skipped
    ("day", "America/Sao_Paulo", datetime(2018, 2, 18, 0, tzinfo=UTC)),
    ("day", "America/Havana", datetime(2025, 11, 2, 2, tzinfo=UTC)),  # midnight comes twice
    ("day", "Pacific/Apia", datetime(2011, 12, 30, 8, tzinfo=UTC)),  # a day is skipped
    ("day", "Australia/Lord_Howe", datetime(2026, 4, 4, 11, tzinfo=UTC)),  # 24.5 hours
    ("day", "UTC", datetime(2028, 2, 28, 22, tzinfo=UTC)),  # then the leap day
    ("day", "UTC", datetime(2026, 12, 31, 22, tzinfo=UTC)),
]


BERLIN = TURNS[8]
CASES = [
    *((*turn, (0.0, 4.0, -4.0)[place % 3], bool(place % 2)) for place, turn in enumerate(TURNS)),
    *((*BERLIN, ahead, asks) for ahead in (0.0, 4.0, -4.0) for asks in (False, True)),
]
"""Each turn with our clock right, fast or slow, and with polls at every step or when due."""


def case_name(case: tuple[str, str, datetime, float, bool]) -> str:
    """Return how a case is told."""
    window, zone, start, ahead, asks = case
    return f"{window} {zone} {start:%Y-%m-%d} {ahead:+g} s{' asking' * asks}"


@pytest.mark.parametrize("case", list(dict.fromkeys(CASES)), ids=case_name)
def test_windows_turn_by_the_local_calendar(
    desk: Callable[..., Desk], case: tuple[str, str, datetime, float, bool]
) -> None:
    """Around three turns: never more than the budget by the vendor's dates, and all of it.

    The books guess that the next window is as long as the last one; it seldom is.
    """
    window, zone, start, ahead, asks = case
    here = desk(start, quota=7, window=window, time_zone=zone, lag=20, policy={"lag": 30})
    here.clock.jump_wall(ahead)
    windows = Windows(window, zone)
    here.spend(3)
    for turn in range(3):
        now = here.clock.now().wall - ahead
        end = windows.of(windows.day(now)).period.end or 0.0
        for off in (-3600, -60, -6, -5, -4, -1, 0, 1, 4, 5, 6, 60, 3500, 3700):
            here.clock.advance(max(0.0, end + off - here.clock.now().wall + ahead))
            if asks:
                here.guard.refresh()
            here.spend()
        here.clock.advance(120)
        here.spend()
        assert [past[CREATED] for past in here.vendor.past] == [7] * (turn + 1)
        assert here.vendor.true[CREATED] == 7
        row = here.guard.standing()[CREATED]
        told = windows.of(windows.day(here.clock.now().wall)).period
        assert row.period == told
    assert len(here.events(PeriodTurned)) == 3


@pytest.mark.parametrize("how", ["by itself", "asks at every step", "stats are down"])
@pytest.mark.parametrize("ahead", [4.0, -4.0], ids=lambda s: f"our clock {s:+g} s")
@pytest.mark.parametrize("turn", [TURNS[2], BERLIN], ids=["month", "day"])
@pytest.mark.parametrize("first", [-4, 0, 4])
def test_calls_at_the_turn_count_in_both_windows(
    desk: Callable[..., Desk], turn: tuple[str, str, datetime], ahead: float, how: str, first: int
) -> None:
    """Whichever day the vendor's clock puts them on, neither has more than its budget."""
    window, zone, start = turn
    here = desk(start, quota=7, window=window, time_zone=zone, lag=20, policy={"lag": 30})
    here.guard.refresh()
    here.clock.jump_wall(ahead)
    windows = Windows(window, zone)
    end = windows.of(windows.day(here.clock.now().wall)).period.end or 0.0
    here.clock.advance(end - 1800 - here.clock.now().wall)
    here.guard.refresh()
    if how == "stats are down":
        here.vendor.script(stats=["500"] * 1000)
    for off in (first, *(off for off in (-4, -1, 0, 1, 4, 5, 6, 20, 60, 200) if off > first)):
        here.clock.advance(max(0.0, end + off - here.clock.now().wall))
        if how == "asks at every step":
            here.guard.refresh()
        here.spend()
    assert max(here.vendor.past[0][CREATED], here.vendor.true[CREATED]) == 7
    assert len(here.vendor.past) == 1


def test_a_wrong_guess_heals_with_the_next_reading(desk: Callable[..., Desk]) -> None:
    """February is guessed to have 31 days until the vendor's answer has told; then 28."""
    here = desk(datetime(2027, 1, 31, 23, 30, tzinfo=UTC), quota=5)
    here.spend()
    here.vendor.script(stats=["500"])
    here.clock.advance(1800 + 6)
    guess = here.guard.standing()[CREATED].period
    assert guess.ends_at == datetime(2027, 3, 4, tzinfo=UTC)
    assert here.spend() == 5
    with pytest.raises(QuotaExhausted) as caught:
        here.convert()
    assert caught.value.resets_at is None  # a guess is not told as a fact
    here.clock.advance(900)
    here.guard.refresh()
    assert here.guard.standing()[CREATED].period.ends_at == datetime(2027, 3, 1, tzinfo=UTC)
    assert here.spend() == 0
    assert here.vendor.true[CREATED] == 5


def test_a_guess_that_is_too_short_does_not_open_twice(desk: Callable[..., Desk]) -> None:
    """March is guessed to end with its 28th day; without a reading nothing turns then."""
    policy = {"on_stale": "open", "max_age": 90 * DAY}
    here = desk(datetime(2027, 2, 28, 23, tzinfo=UTC), quota=5, policy=policy)
    here.spend()
    here.vendor.script(stats=["500"] * 10_000)
    here.clock.advance(3600 + 6)
    assert here.spend() == 5
    here.clock.advance(29 * DAY)
    assert here.spend() == 0
    assert here.vendor.true[CREATED] == 5


def test_yesterdays_answer_never_raises_what_is_left(desk: Callable[..., Desk]) -> None:
    """A cache that serves the day before is refused, told, and does no harm."""
    here = desk(quota=6, window="day")
    assert here.spend() == 6
    old = {
        "period": {"since": "2026-11-09", "until": "2026-11-09"},
        **dict.fromkeys(("total_created", "total_won", "total_lost"), 1),
    }
    for fault in (Reply.json(200, old), "other-window", "null-period", "negative"):
        here.vendor.script(stats=[fault])
        with pytest.raises(StatsUnreadable):
            here.guard.refresh()
        here.clock.advance(1200)
        assert here.spend() == 0
    assert len(here.events(PollFailed)) == 4
    assert here.vendor.true[CREATED] == 6


def test_what_is_in_a_stage_does_not_begin_anew(desk: Callable[..., Desk]) -> None:
    """A level falls when deals move on, and not with the month; it keeps no line."""
    limits = {CREATED: 100, "stage.7.count": 8}
    here = desk(datetime(2026, 11, 30, 23, tzinfo=UTC), quota=100, provider={"limits": limits})
    assert here.spend() == 8
    assert here.convert(funnel_stage_id=8).status_code == 200
    with pytest.raises(QuotaExhausted) as caught:
        here.convert()
    assert (caught.value.meter, caught.value.resets_at) == ("stage.7.count", None)
    here.clock.advance(2 * 3600)
    assert here.spend() == 0
    assert here.guard.standing()[CREATED].used == 0
    here.vendor.win(5)  # the newest four of stage 7, and the one of stage 8
    here.guard.refresh()
    assert here.spend() == 4
    assert here.vendor.true["stage.7.count"] == 8


@pytest.mark.parametrize("asked", [False, True], ids=["by readings", "by refresh"])
def test_deleted_deals_come_back(desk: Callable[..., Desk], asked: bool) -> None:
    """Counts fall: two readings agree, or the user asks; never sooner than the lag can explain."""
    here = desk(quota=10, lag=30)
    assert here.spend() == 10
    here.clock.advance(2 * 3600)
    assert here.spend() == 0
    here.vendor.delete(4)
    here.clock.advance(1200)
    if asked:
        here.guard.refresh()
        assert here.spend() == 4
    else:
        assert here.spend() == 0  # one reading is not enough to raise what is left
        here.clock.advance(1200)
        assert here.spend() == 4
    assert here.vendor.true[CREATED] == 10


# -- guards that differ -------------------------------------------------------


def test_guards_with_other_limits_keep_books_of_their_own(desk: Callable[..., Desk]) -> None:
    """A limit is the guard's, and comes with its readings: none may raise another's."""
    here = desk(datetime(2026, 11, 30, 23, tzinfo=UTC), quota=10)
    limits = {CREATED: 20, "deals.won": 2, "stage.7.count": 50}
    provider = Voxys(KEY, 7, 3, limits=limits, base_url=here.vendor.url)
    with Guard(provider, policy=here.guard.policy, clock=here.clock) as other:
        assert here.spend() == 10
        other.refresh()
        here.guard.refresh()
        assert other.standing()[CREATED].limit == 20
        assert here.guard.standing()[CREATED].limit == 10
        assert here.spend() == 0
        here.clock.advance(2 * 3600)
        assert here.spend() == 10
    assert here.vendor.true[CREATED] == 10


def test_a_spent_value_refuses_conversions(desk: Callable[..., Desk]) -> None:
    """The fake's deals are worth 5,000 each: six of them fill the budget."""
    here = desk(provider={"limits": {"value.created": 30_000}})
    went = 0
    for _ in range(12):
        went += here.spend(1)
        here.clock.advance(1000)
        here.guard.refresh()
    assert went == 6
    with pytest.raises(QuotaExhausted) as caught:
        here.convert()
    assert caught.value.meter == "value.created"


def test_a_wrong_clock_asks_again_for_the_window_that_it_is(desk: Callable[..., Desk]) -> None:
    """The answer echoes the question; but it is dated, and that is another window."""
    here = desk(datetime(2026, 5, 31, 23, 20, tzinfo=UTC), quota=10)
    assert here.spend(9) == 9
    here.clock.advance(60)
    here.clock.jump_wall(40 * 86_400)
    for _ in range(4):
        here.spend()
        here.clock.advance(600)
    assert [past[CREATED] for past in here.vendor.past] == [10]
    assert here.vendor.true[CREATED] <= 10


@pytest.mark.parametrize("days", [-40, 40])
def test_a_clock_that_was_never_right(desk: Callable[..., Desk], days: int) -> None:
    """By the vendor's own date the right window is found, at the first poll already."""
    here = desk(datetime(2026, 5, 15, tzinfo=UTC), quota=10, used=8)
    here.clock.jump_wall(days * 86_400)
    for _ in range(8):
        here.spend()
        here.clock.advance(1000)
    assert here.vendor.true[CREATED] == 10


# -- what goes wrong ----------------------------------------------------------


def test_a_wrong_key_is_told_and_stops_polls(desk: Callable[..., Desk]) -> None:
    """Calls are refused for want of a reading; three refusals are enough."""
    here = desk(key="another")
    with pytest.raises(QuotaUnknown) as caught:
        here.convert()
    assert isinstance(caught.value.__cause__, StatsForbidden)
    for _ in range(6):
        here.clock.advance(3600)
        with pytest.raises(QuotaUnknown):
            here.convert()
    assert here.vendor.polls == 3
    with pytest.raises(StatsForbidden, match="refuse the API key"):
        here.guard.refresh()
    assert here.vendor.true[CREATED] == 0


@pytest.mark.parametrize("other", [{"account_id": 8}, {"funnel_id": 9}], ids=str)
def test_another_account_or_pipeline_is_told(
    desk: Callable[..., Desk], other: dict[str, int]
) -> None:
    """Nothing is known of it, and so nothing is spent."""
    here = desk(**other)
    with pytest.raises(StatsUnavailable, match="no such account, or it has no such pipeline"):
        here.guard.refresh()
    with pytest.raises(QuotaUnknown):
        here.convert()


def test_a_vendor_that_is_down_is_told(desk: Callable[..., Desk]) -> None:
    """Without a first reading calls are refused; with one they go on for a while."""
    here = desk(quota=20)
    here.convert()
    here.vendor.script(stats=["503"] * 100)
    here.clock.advance(1800)
    assert here.convert().status_code == 200
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    ledger = MemoryLedger(clock=here.clock)
    with Guard(Voxys(KEY, 7, 3, base_url=url), ledger=ledger, clock=here.clock) as guard:
        with pytest.raises(QuotaUnknown) as caught, guard.reserve("leads.convert"):
            pass
        assert isinstance(caught.value.__cause__, StatsUnavailable)


# -- reports, both colours ----------------------------------------------------


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_reports(desk: Callable[..., Desk], colour: str) -> None:
    """Typed records of any window; asked twice within seconds it is one call, and no reading."""
    here = desk(quota=20, used=4)
    here.vendor.win(1)

    def ask(**asked: Any) -> Any:
        if colour == "sync":
            return here.guard.reports.analytics(**asked)

        async def aask() -> Any:
            return await here.guard.areports.analytics(**asked)

        return anyio.run(aask, backend=colour)

    month = {"since": "2026-11-01", "until": "2026-11-30"}
    record = ask(**month, group_by="stage")
    assert (record.total_created, record.total_won, record.conversion_rate) == (4, 1, 25.0)
    assert record.extra["series"] == [{"stage": 7, "created": 4}]
    assert ask(**month, group_by="stage") is record
    assert ask(**month, agent_id=2).total_created == 0
    assert ask(since="2026-10-01", until="2026-10-31").total_created == 0
    assert here.vendor.polls == 3
    assert len(here.guard.standing()) == 0
    for wrong in ({"since": "2026-12-01", "until": "2026-11-01"}, {"group_by": "hour"}):
        with pytest.raises(ConfigError):
            ask(**wrong)
    assert here.vendor.polls == 3
    here.vendor.script(stats=["404"])
    with pytest.raises(StatsUnavailable) as caught:
        ask(since="2026-09-01")
    assert caught.value.status == 404


# -- on the wire --------------------------------------------------------------


def heard(listener: socket.socket, heads: list[bytes]) -> None:
    """Answer every request with an empty month, and keep its head as it came."""
    body = (
        b'{"period":{"since":"2026-11-01","until":"2026-11-30"},"total_created":0,"total_won":0,'
        b'"total_lost":0,"total_value_created":0,"total_value_won":0}'
    )
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                said = b""
                while b"\r\n\r\n" not in said:
                    said += connection.recv(65_536)
                heads.append(said)
                connection.sendall(head + body)


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_the_key_goes_out_under_its_name_with_underscores(colour: str) -> None:
    """In polls, in reports and in the application's calls, byte for byte; and nowhere else."""
    heads: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=heard, args=(listener, heads), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        guard = Guard(Voxys(KEY, 7, 3, base_url=url), clock=FakeClock(NOON.timestamp()))

        def sync() -> None:
            guard.reports.analytics()
            with guard.client(headers=AUTH, trust_env=False) as client:
                client.post(f"{url}{ROOT}leads/1/convert", json={"funnel_id": 3})

        async def task() -> None:
            await guard.areports.analytics()
            async with guard.async_client(headers=AUTH, trust_env=False) as client:
                await client.post(f"{url}{ROOT}leads/1/convert", json={"funnel_id": 3})

        if colour == "sync":
            sync()
        else:
            anyio.run(task, backend=colour)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert len(heads) == 3  # the report, the poll, the call
    for head in heads:
        lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert f"api_access_token: {KEY}".encode() in lines
        assert head.count(KEY.encode()) == 1
        assert b"authorization" not in head.lower()


def test_the_key_does_not_follow_a_redirect_elsewhere() -> None:
    """httpx strips Authorization only; the guard strips this one."""
    seen: list[Request] = []

    def elsewhere(request: Request) -> Reply:
        seen.append(request)
        return Reply(200, b"{}")

    with LoopbackServer(elsewhere) as other:
        moved = Reply(307, b"", (("Location", f"{other.url.replace('127.0.0.1', 'localhost')}/x"),))
        with fake("voxys", key=KEY, faults=[moved]) as vendor:
            provider = Voxys(KEY, 7, 3, base_url=vendor.url)
            with (
                Guard(provider, ledger=MemoryLedger()) as guard,
                guard.client(headers=AUTH, follow_redirects=True, trust_env=False) as client,
            ):
                url = f"{vendor.url}{ROOT}leads/1/convert"
                assert client.post(url, json={"funnel_id": 3}).status_code == 200
                assert guard.standing()[CREATED].used == 0
    assert [request.path for request in seen] == ["/x"]
    assert "api_access_token" not in seen[0].headers
