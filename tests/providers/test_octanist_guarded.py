"""A guard of Octanist, end to end over real loopback: threads, asyncio, trio, and a moved clock."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from quotaguard import (
    ConfigError,
    Guard,
    NoSubscription,
    Octanist,
    OctanistChoices,
    Policy,
    ProviderError,
    QuotaExhausted,
    QuotaUnknown,
    Refusal,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
    WaitTooLong,
)
from quotaguard.quota.events import Degraded, Event, PeriodTurned, PollFailed
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.server import Reply

if TYPE_CHECKING:
    from quotaguard.testing.octanist import FakeOctanist
    from quotaguard.testing.server import Request

KEY = "oct-canary-c4a1"
LEAD = {"name": "Jane"}
CRITICAL = {"quotaguard": {"priority": "critical", "max_wait": 0}}
DAY = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that only the test moves."""
    return FakeClock()


def guard_of(
    vendor: FakeOctanist,
    clock: FakeClock,
    *,
    choices: OctanistChoices | None = None,
    told: list[Event] | None = None,
    key: str = KEY,
    **policy: Any,
) -> Guard:
    """Build a guard of *vendor* with a short lag, which had no predecessor."""
    provider = Octanist(key, base_url=vendor.url, choices=choices or OctanistChoices())
    settings = {"lag": 10, "late": 10, "cold_reserve": 0, **policy}
    listeners = () if told is None else (told.append,)
    return Guard(provider, policy=Policy(**settings), clock=clock, listeners=listeners)


@contextmanager
def client_of(guard: Guard, key: str = KEY) -> Iterator[httpx.Client]:
    """Give a guarded client that sends the key."""
    with guard, guard.client(headers={"X-API-KEY": key}) as client:
        yield client


def create(client: httpx.Client, vendor: FakeOctanist, **lead: Any) -> httpx.Response:
    """Create a lead, at once or not at all."""
    return client.post(f"{vendor.url}/api/leads", json=lead or LEAD, extensions=CRITICAL)


def tried(client: httpx.Client, vendor: FakeOctanist, count: int) -> Counter[str]:
    """Try to create *count* leads, and count what came of it."""
    seen: Counter[str] = Counter()
    for _ in range(count):
        try:
            seen[str(create(client, vendor).status_code)] += 1
        except Refusal as refusal:
            seen[type(refusal).__name__] += 1
    return seen


# --- exactly the quota --------------------------------------------------------


def test_threads_spend_exactly_the_quota(clock: FakeClock) -> None:
    """The vendor refuses nobody, and stores no lead past the limit all the same."""
    with fake("octanist", quota=60, used=13, lag=10, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        guard.refresh()
        with client_of(guard) as client, ThreadPoolExecutor(8) as pool:
            seen = sum(pool.map(lambda _: tried(client, vendor, 10), range(8)), Counter())

        assert seen == {"200": 47, "QuotaExhausted": 33}
        assert vendor.true["leads"] == vendor.quota == 60
        assert vendor.locked == 0


async def test_tasks_spend_exactly_the_quota(clock: FakeClock) -> None:
    """On asyncio and on trio."""
    seen: Counter[str] = Counter()
    with fake("octanist", quota=40, used=7, lag=10, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        await guard.arefresh()
        async with guard, guard.async_client(headers={"X-API-KEY": KEY}) as client:

            async def work() -> None:
                for _ in range(10):
                    try:
                        answer = await client.post(
                            f"{vendor.url}/api/leads", json=LEAD, extensions=CRITICAL
                        )
                        seen[str(answer.status_code)] += 1
                    except Refusal as refusal:
                        seen[type(refusal).__name__] += 1

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(work)

        assert seen == {"200": 33, "QuotaExhausted": 17}
        assert vendor.true["leads"] == 40
        assert vendor.locked == 0


def test_others_leave_less(clock: FakeClock) -> None:
    """Most leads come by the tag; what a reading shows of them is not spent twice."""
    with fake("octanist", quota=100, lag=10, key=KEY, clock=clock) as vendor:
        with client_of(guard_of(vendor, clock, margin=0)) as client:
            tried(client, vendor, 10)
            vendor.spend(70)
            clock.advance(1000)  # past the longest time between polls, with its jitter
            assert tried(client, vendor, 30) == {"200": 20, "QuotaExhausted": 10}
        assert vendor.true["leads"] == 100


def test_locked_leads_close_the_meter(clock: FakeClock) -> None:
    """Others went past the limit: nothing is sent, until the plan is raised."""
    with fake("octanist", quota=100, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock, margin=0)
        with client_of(guard) as client:
            tried(client, vendor, 1)
            vendor.spend(110)
            assert guard.refresh()["leads"].headroom == 0
            assert tried(client, vendor, 5) == {"QuotaExhausted": 5}
            vendor.set_quota(200)
            clock.advance(20)
            assert guard.refresh()["leads"].headroom == 89
            assert tried(client, vendor, 5) == {"200": 5}


# --- what a refusal knows, what an answer costs -------------------------------


def test_a_refusal_has_its_facts(clock: FakeClock) -> None:
    """Whose quota, how far, until when; and neither key nor lead in it."""
    with fake("octanist", quota=5, used=5, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client, pytest.raises(QuotaExhausted) as caught:
            create(client, vendor, email="canary@example.com")
    refusal = caught.value
    assert (refusal.provider, refusal.meter) == ("octanist", "leads")
    assert (refusal.used, refusal.limit, refusal.headroom, refusal.requested) == (5, 5, 0, 1)
    assert refusal.resets_at == datetime(2023, 12, 1, tzinfo=UTC)
    assert refusal.account == guard.provider.account
    for shown in (str(refusal), repr(refusal), repr(guard)):
        assert KEY not in shown
        assert "canary" not in shown


def test_a_standing_is_what_the_stats_say_and_what_was_sent(clock: FakeClock) -> None:
    """Used, limit and period, in leads."""
    with fake("octanist", quota=100, used=40, lag=10, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            tried(client, vendor, 3)
            row = guard.standing()["leads"]
            assert (row.used, row.limit, row.headroom) == (43, 100, 57)
            assert row.period.ends_at == datetime(2023, 12, 1, tzinfo=UTC)
            assert repr(guard) == "<Guard octanist: leads 43/100, read 0 s ago>"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
def test_what_is_not_stored_costs_nothing(clock: FakeClock, status: int) -> None:
    """The units come back at once, and the meter stays open: it is no evidence."""
    with fake("octanist", quota=10, key=KEY, clock=clock, faults=[str(status)]) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            answer = create(client, vendor)
            assert answer.status_code == status
            assert answer.extensions["quotaguard"].state == "released"
            assert tried(client, vendor, 12) == {"200": 10, "QuotaExhausted": 2}
        assert vendor.true["leads"] == 10


def test_a_filter_and_duplicates_spend_nothing(clock: FakeClock) -> None:
    """As many leads are stored as the plan has, however many are turned away on the way."""
    knobs = {"reject": lambda lead: lead["name"] == "spam", "refuse_duplicates": True}
    with fake("octanist", quota=5, key=KEY, clock=clock, **knobs) as vendor:
        with client_of(guard_of(vendor, clock)) as client:
            seen: Counter[int] = Counter()
            for number in range(5):
                for lead in ({"name": "spam"}, {"name": "x", "email": str(number)}):
                    seen[create(client, vendor, **lead).status_code] += 1
                if number < 4:
                    seen[create(client, vendor, name="x", email=str(number)).status_code] += 1
            with pytest.raises(QuotaExhausted):
                create(client, vendor)
        assert seen == {200: 5, 403: 5, 409: 4}
        assert vendor.true["leads"] == 5


@pytest.mark.parametrize(
    ("fault", "free"),
    [
        ("500", True),
        ("503", True),
        (Reply(202, b"{}"), True),
        ("reset", False),
        ("close-free", True),
    ],
    ids=["500", "503", "202", "reset", "close-free"],
)
def test_what_nobody_knows_is_counted_until_a_reading_tells(
    clock: FakeClock, fault: Any, free: bool
) -> None:
    """In doubt a lead was stored; after late and lag a reading is proof."""
    with fake("octanist", quota=10, lag=10, key=KEY, clock=clock, faults=[fault]) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            with suppress(httpx.TransportError):
                create(client, vendor)
            assert guard.standing()["leads"].headroom == 9
            for _ in range(2):
                clock.advance(25)
                guard.refresh()
            assert guard.standing()["leads"].headroom == 10 - (not free)


def test_retry_after_pauses_and_leaves_the_books_alone(clock: FakeClock) -> None:
    """A 429 costs nothing; until it has passed no call is sent."""
    with fake("octanist", quota=10, key=KEY, clock=clock, faults=["429"]) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            assert create(client, vendor).status_code == 429
            assert guard.standing()["leads"].headroom == 10
            with pytest.raises(WaitTooLong) as caught:
                create(client, vendor)
            assert caught.value.retry_after == pytest.approx(2)
            clock.advance(2)
            assert create(client, vendor).status_code == 200


def test_a_402_polls_at_once(clock: FakeClock) -> None:
    """Nobody documents it; the stats say whether the plan is used up."""
    with fake("octanist", quota=10, key=KEY, clock=clock, faults=[Reply(402)]) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            create(client, vendor)
            polls = vendor.polls
            clock.advance(40)
            vendor.spend(10)
            assert tried(client, vendor, 1) == {"QuotaExhausted": 1}
            assert vendor.polls == polls + 1


@pytest.mark.parametrize(("choice", "left"), [("billed", 9), ("free", 10), ("unknown", 9)])
def test_an_unsuccessful_200_costs_what_was_chosen(
    clock: FakeClock, choice: Any, left: int
) -> None:
    """Where the body decides it is read, and settles at its end."""
    said = Reply.json(200, {"success": False, "error": {"code": "CONFLICT"}})
    with fake("octanist", quota=10, key=KEY, clock=clock, faults=[said, None]) as vendor:
        guard = guard_of(vendor, clock, choices=OctanistChoices(unsuccessful=choice))
        with client_of(guard) as client:
            create(client, vendor)
            assert guard.standing()["leads"].headroom == left
            answer = create(client, vendor)
            assert answer.extensions["quotaguard"].state == "settled"
            assert guard.standing()["leads"].headroom == left - 1


def test_only_leads_are_metered(clock: FakeClock) -> None:
    """Updates, lists, checks and stats pass, with the quota spent too."""
    with (
        fake("octanist", quota=1, key=KEY, clock=clock) as vendor,
        client_of(guard_of(vendor, clock)) as client,
    ):
        lead = create(client, vendor).json()["data"]["id"]
        url = f"{vendor.url}/api"
        answers = [
            client.patch(f"{url}/leads", json={"id": lead, "status": "won"}),
            client.get(f"{url}/leads"),
            client.post(f"{url}/check"),
            client.post(f"{url}/stats", json={}),
        ]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert tried(client, vendor, 1) == {"QuotaExhausted": 1}


def test_another_organisations_key_passes_unguarded(clock: FakeClock) -> None:
    """It spends from another plan; the log is told once."""
    told: list[Event] = []
    with (
        fake("octanist", quota=1, used=1, key=KEY, clock=clock) as vendor,
        client_of(guard_of(vendor, clock, told=told), key="another") as client,
    ):
        assert create(client, vendor).status_code == 401
        assert create(client, vendor).status_code == 401
    assert [e.state for e in told if isinstance(e, Degraded)] == ["foreign_key"]


# --- periods ------------------------------------------------------------------


def test_a_new_period_opens_the_door(clock: FakeClock) -> None:
    """At the instant after …59.999Z, not at it, and all of the new plan is there."""
    with fake("octanist", quota=20, used=20, lag=10, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            assert tried(client, vendor, 1) == {"QuotaExhausted": 1}
            end = datetime(2023, 12, 1, tzinfo=UTC).timestamp()
            clock.advance(end - clock.now().wall - 0.002)
            assert tried(client, vendor, 1) == {"QuotaExhausted": 1}
            clock.advance(10)
            assert tried(client, vendor, 25) == {"200": 20, "QuotaExhausted": 5}
        assert vendor.true["leads"] == 20
        assert vendor.past[0]["leads"] == 20


OVER = ("2026-01-01T00:00:00Z", "2026-03-02T00:00:00Z")
"""The documented example's period, which is over when its stats are told."""

ASKED = datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp()
A_DAYS_POLLS = 96 + 10 + 15
"""One in 15 minutes, the burst after a start, and one incident near the limit."""


def a_day(client: httpx.Client, vendor: FakeOctanist, clock: FakeClock) -> Counter[str]:
    """Try to create a lead every minute for a day."""
    seen: Counter[str] = Counter()
    for _ in range(int(DAY / 60)):
        seen += tried(client, vendor, 1)
        clock.advance(60)
    return seen


@pytest.mark.parametrize("used", [150, 500], ids=["some left", "nothing left"])
def test_a_period_that_is_over_neither_opens_nor_hurries(used: int) -> None:
    """The seed's own example: what is left is spent, no more, and polls keep their pace."""
    clock = FakeClock(ASKED)
    told: list[Event] = []
    knobs = {"quota": 500, "used": used, "period": OVER, "key": KEY, "clock": clock}
    with fake("octanist", **knobs) as vendor:
        with client_of(guard_of(vendor, clock, told=told)) as client:
            seen = a_day(client, vendor, clock)
        assert seen["200"] == 500 - used
        assert set(seen) <= {"200", "QuotaExhausted"}
        assert vendor.true["leads"] == 500
        assert vendor.polls <= A_DAYS_POLLS
    assert not any(isinstance(event, PeriodTurned) for event in told)


def test_a_vendor_who_does_not_turn_is_not_hunted(clock: FakeClock) -> None:
    """The period ends, and the stats go on telling it: after a while it is believed.

    Until then the clock has turned it, and a new reading is looked for more often.
    """
    clock = FakeClock(datetime(2026, 3, 1, 20, tzinfo=UTC).timestamp())
    count = [500]

    def same_period(request: Request) -> Reply:
        usage = {
            "leadsUsed": count[0],
            "leadsLimit": 500,
            "lockedLeads": max(0, count[0] - 500),
            "periodStart": "2026-01-01T00:00:00.000Z",
            "periodEnd": "2026-03-01T23:59:59.999Z",
        }
        told = {"success": True, "data": {"usage": usage}, "meta": {}}
        return Reply.json(200, told)

    with (
        fake("octanist", key=KEY, clock=clock, stats_faults=same_period) as vendor,
        client_of(guard_of(vendor, clock)) as client,
    ):
        seen = a_day(client, vendor, clock)
        # By the clock for as long as an answer may lag, 15 minutes, and one poll more.
        assert seen["200"] <= 15 + 2
        assert vendor.polls <= A_DAYS_POLLS
        count[0] = 600
        before = vendor.polls
        assert set(a_day(client, vendor, clock)) == {"QuotaExhausted"}
        assert vendor.polls - before <= A_DAYS_POLLS


# --- subscriptions ------------------------------------------------------------


def test_without_a_subscription_no_lead_goes(clock: FakeClock) -> None:
    """Closed by default, and the refusal says what kept the reading away."""
    with fake("octanist", quota=50, used=3, subscribed=False, key=KEY, clock=clock) as vendor:
        with client_of(guard_of(vendor, clock)) as client:
            with pytest.raises(QuotaUnknown, match="no active subscription") as caught:
                create(client, vendor)
            assert isinstance(caught.value.__cause__, NoSubscription)
            assert set(a_day(client, vendor, clock)) == {"QuotaUnknown"}
            # Failures back off to one in two and a half minutes at most.
            assert vendor.polls <= 24 * 24 + 10
            vendor.subscribe()
            clock.advance(600)
            assert tried(client, vendor, 50) == {"200": 47, "QuotaExhausted": 3}
        assert vendor.true["leads"] == 50


@pytest.mark.parametrize("fault", ["null-period", "null-end"])
def test_a_subscription_that_ends_closes(clock: FakeClock, fault: str) -> None:
    """The last reading is no longer true, however young it is."""
    with fake("octanist", quota=50, key=KEY, clock=clock, stats_faults=[None, fault]) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            assert tried(client, vendor, 3) == {"200": 3}
            with pytest.raises(NoSubscription):
                guard.refresh()
            assert tried(client, vendor, 3) == {"QuotaUnknown": 3}


def test_a_choice_opens_it(clock: FakeClock) -> None:
    """Usage as told, without a period: exactly the limit, no line, no reset."""
    choices = OctanistChoices(no_subscription="open")
    with fake("octanist", quota=50, used=3, subscribed=False, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock, choices=choices)
        with client_of(guard) as client:
            seen = tried(client, vendor, 60)
            assert seen == {"200": 47, "QuotaExhausted": 13}
            assert guard.standing()["leads"].period.end is None
            clock.advance(40 * DAY)
            assert tried(client, vendor, 1) == {"QuotaExhausted": 1}
        assert vendor.true["leads"] + sum(past["leads"] for past in vendor.past) == 50


def test_a_policy_opens_it_too(clock: FakeClock) -> None:
    """Who goes on without any reading goes on without a subscription."""
    with (
        fake("octanist", quota=5, subscribed=False, key=KEY, clock=clock) as vendor,
        client_of(guard_of(vendor, clock, on_unknown="open")) as client,
    ):
        assert tried(client, vendor, 9) == {"200": 9}


@pytest.mark.parametrize("quota", [None, 0])
def test_no_limit_is_not_unlimited(clock: FakeClock, quota: int | None) -> None:
    """Null is no reading, 0 is nothing included; a choice may say otherwise of both."""
    with (
        fake("octanist", quota=quota, key=KEY, clock=clock) as vendor,
        client_of(guard_of(vendor, clock)) as client,
    ):
        kind = "QuotaUnknown" if quota is None else "QuotaExhausted"
        assert tried(client, vendor, 3) == {kind: 3}
    choices = OctanistChoices(unlimited=("null", "0"))
    clock = FakeClock()
    with (
        fake("octanist", quota=quota, key=KEY, overage=True, clock=clock) as vendor,
        client_of(guard_of(vendor, clock, choices=choices)) as client,
    ):
        assert tried(client, vendor, 30) == {"200": 30}


# --- bad answers --------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("html", StatsUnreadable),
        ("huge", StatsUnreadable),
        ("gzip", StatsUnreadable),
        ("redirect", StatsUnavailable),
        ("unsuccessful", StatsUnavailable),
        ("null-limit", StatsUnreadable),
        ("negative", StatsUnreadable),
        ("nan", StatsUnreadable),
        ("500", StatsUnavailable),
        ("429", StatsUnavailable),
        ("401", StatsForbidden),
        ("garbage", StatsUnavailable),
        ("truncated", StatsUnavailable),
    ],
)
def test_a_bad_answer_never_raises_what_is_left(
    clock: FakeClock, fault: str, kind: type[Exception]
) -> None:
    """The last reading stays in use, the listener is told, the caller sees a declared error."""
    told: list[Event] = []
    faults = [None, fault]
    with fake("octanist", quota=10, used=4, key=KEY, clock=clock, stats_faults=faults) as vendor:
        guard = guard_of(vendor, clock, told=told)
        with client_of(guard) as client:
            assert tried(client, vendor, 1) == {"200": 1}
            with pytest.raises(kind) as caught:
                guard.refresh()
            assert type(caught.value) is kind
            assert KEY not in f"{caught.value!r} {caught.value}"
            assert guard.standing()["leads"].headroom == 5
            assert [type(event) for event in told if isinstance(event, PollFailed)] == [PollFailed]
            assert tried(client, vendor, 7) == {"200": 5, "QuotaExhausted": 2}
        assert vendor.true["leads"] == 10


def test_a_wrong_key_ends_the_polls(clock: FakeClock) -> None:
    """A key problem and not a spent quota: three polls, then none until somebody asks."""
    with fake("octanist", key="another", clock=clock) as vendor:
        with client_of(guard_of(vendor, clock)) as client:
            with pytest.raises(QuotaUnknown) as caught:
                create(client, vendor)
            cause = caught.value.__cause__
            assert isinstance(cause, StatsForbidden)
            assert (cause.status, cause.code) == (401, "UNAUTHORIZED")
            assert cause.request_id is not None
            assert cause.request_id.startswith("req_")
            assert set(a_day(client, vendor, clock)) == {"QuotaUnknown"}
        assert vendor.polls == 3
        assert vendor.requests["/api/leads"] == 0


def test_a_provider_that_is_down_closes(clock: FakeClock) -> None:
    """Nobody listens: nothing is known, so nothing is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    provider = Octanist(KEY, base_url=f"http://127.0.0.1:{port}")
    guard = Guard(provider, clock=clock)
    with client_of(guard) as client:
        with pytest.raises(QuotaUnknown) as caught:
            client.post(f"http://127.0.0.1:{port}/api/leads", json=LEAD, extensions=CRITICAL)
        assert isinstance(caught.value.__cause__, StatsUnavailable)
        with pytest.raises(StatsUnavailable):
            guard.reports.stats()


# --- reports ------------------------------------------------------------------


def test_reports_are_typed_and_on_the_shelf(clock: FakeClock) -> None:
    """Current, previous and custom; asking the same again within seconds costs no call."""
    with fake("octanist", quota=100, used=10, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            tried(client, vendor, 5)
            before = vendor.polls
            current = guard.reports.stats()
            assert (current.usage.used, current.usage.limit, current.usage.locked) == (15, 100, 0)
            assert current.leads.by_source == {"gtm": 10, "api": 5}
            assert current.usage.period_end == datetime(
                2023, 11, 30, 23, 59, 59, 999_000, tzinfo=UTC
            )
            assert guard.reports.stats("current") == current
            assert vendor.polls == before + 1
            assert guard.reports.stats("previous").leads.total == 0
            day = {"start_date": "2023-11-14", "end_date": "2023-11-14"}
            assert guard.reports.stats("custom", **day).leads.by_source == {"gtm": 0, "api": 5}
            assert vendor.polls == before + 3


async def test_reports_in_the_other_colour(clock: FakeClock) -> None:
    """The same record, on asyncio and on trio."""
    with fake("octanist", quota=100, used=10, key=KEY, clock=clock) as vendor:
        async with guard_of(vendor, clock) as guard:
            record = await guard.areports.stats("previous")
            assert record.leads.total == 0
            assert record.request_id is not None
            with pytest.raises(ConfigError):
                await guard.areports.stats("custom")
        assert vendor.polls == 1


def test_a_report_is_never_a_reading(clock: FakeClock) -> None:
    """Neither of the previous period nor of a day of this one; the books stay as they were."""
    with fake("octanist", quota=10, used=9, key=KEY, clock=clock) as vendor:
        guard = guard_of(vendor, clock)
        with client_of(guard) as client:
            guard.reports.stats()
            assert not guard.standing().rows
            assert tried(client, vendor, 2) == {"200": 1, "QuotaExhausted": 1}
            assert guard.reports.stats("previous").usage.used == 0
            guard.reports.stats("custom", start_date="2023-11-01", end_date="2023-11-02")
            assert tried(client, vendor, 2) == {"QuotaExhausted": 2}


@pytest.mark.parametrize(
    "wrong",
    [
        {"period": "monthly"},
        {"period": "custom"},
        {"period": "custom", "start_date": "2026-01-02", "end_date": "2026-01-01"},
        {"period": "custom", "start_date": "soon", "end_date": "2026-01-01"},
        {"period": "current", "start_date": "2026-01-01"},
    ],
    ids=str,
)
def test_arguments_are_checked_before_any_call(clock: FakeClock, wrong: dict[str, Any]) -> None:
    """What the vendor would answer 400 is a ConfigError, and nothing is sent."""
    with fake("octanist", key=KEY, clock=clock) as vendor:
        with guard_of(vendor, clock) as guard, pytest.raises(ConfigError):
            guard.reports.stats(**wrong)
        assert vendor.polls == 0


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("400", StatsUnavailable, "VALIDATION_ERROR"),
        ("401", StatsForbidden, "UNAUTHORIZED"),
        ("500", StatsUnavailable, "INTERNAL_ERROR"),
        ("unsuccessful", StatsUnavailable, "INTERNAL_ERROR"),
        ("nan", StatsUnreadable, None),
    ],
)
def test_a_reports_errors_are_declared(
    clock: FakeClock, fault: str, kind: type[ProviderError], code: str | None
) -> None:
    """With the vendor's code and request id, in both colours; and nothing of it is kept."""
    with (
        fake("octanist", key=KEY, clock=clock, stats_faults=[fault] * 2) as vendor,
        guard_of(vendor, clock) as guard,
    ):
        seen = []
        with pytest.raises(kind) as caught:
            guard.reports.stats()
        seen.append(caught.value)
        with pytest.raises(kind) as caught:
            anyio.run(guard.areports.stats)
        seen.append(caught.value)
        assert guard.reports.stats().leads.total == 0
    for error in seen:
        assert type(error) is kind
        assert error.code == code
        assert KEY not in str(error)
