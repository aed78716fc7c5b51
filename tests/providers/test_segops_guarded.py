"""SegOps guarded end to end: a guard, the fake, and real HTTP over loopback."""

from __future__ import annotations

import itertools
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import pytest

from quotaguard import (
    ConfigError,
    CostTooLarge,
    Guard,
    NoSubscription,
    Policy,
    ProviderError,
    QuotaExhausted,
    QuotaUnknown,
    Refusal,
    SegOps,
    SegOpsChoices,
    StatsForbidden,
    StatsUnavailable,
    WaitTooLong,
)
from quotaguard.quota.events import Degraded, Event, PollFailed
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.segops import FakeSegOps
from quotaguard.testing.server import Reply

KEY = "test-key"
HEADERS = {"Authorization": f"ApiKey {KEY}"}
TRACK = "/api/ingestion/track/"
BATCH = "/api/ingestion/track/batch/"
SEGMENTS = "/api/segments/"
MAY = datetime(2026, 5, 10, tzinfo=UTC).timestamp()
END = datetime(2026, 6, 1, tzinfo=UTC)
ALONE = Policy(cold_reserve=0)
"""No other program ran before."""


def event(user: str = "u1") -> dict[str, str]:
    """Return a sound event."""
    return {"user_id": user, "event_type": "page_viewed"}


def critical(max_wait: float = 30) -> dict[str, Any]:
    """Return the options of a call that only the limit stops."""
    return {"quotaguard": {"priority": "critical", "max_wait": max_wait}}


class House:
    """A fake, a guard and a client that go together, on one clock."""

    def __init__(
        self,
        provider: Callable[[str], SegOps] | None = None,
        *,
        policy: Policy = ALONE,
        headers: dict[str, str] = HEADERS,
        **knobs: Any,
    ) -> None:
        self.clock = FakeClock(MAY)
        self.vendor: FakeSegOps = fake("segops", clock=self.clock, **knobs).__enter__()
        made = provider or (lambda url: SegOps(KEY, base_url=url))
        self.told: list[Event] = []
        self.guard = Guard(
            made(self.vendor.url), policy=policy, clock=self.clock, listeners=[self.told.append]
        )
        self.client = self.guard.client(base_url=self.vendor.url, headers=headers)

    def track(self, user: str = "u1", *, max_wait: float = 30) -> httpx.Response:
        return self.client.post(TRACK, json=event(user), extensions=critical(max_wait))

    def batch(self, *events: Any, max_wait: float = 30) -> httpx.Response:
        return self.client.post(BATCH, json={"events": events}, extensions=critical(max_wait))

    def create(self, name: str = "Trials") -> httpx.Response:
        return self.client.post(SEGMENTS, json={"name": name}, extensions=critical())

    def row(self, meter: str = "events") -> Any:
        return self.guard.standing()[meter]

    def close(self) -> None:
        self.client.close()
        self.guard.close()
        self.vendor.__exit__(None, None, None)


Build = Callable[..., House]


@pytest.fixture
def build() -> Iterator[Build]:
    """Make houses that are closed at the end."""
    made: list[House] = []

    def make(*given: Any, **knobs: Any) -> House:
        made.append(House(*given, **knobs))
        return made[-1]

    yield make
    for house in made:
        house.close()


# -- exactly the quota ----------------------------------------------------------


def in_threads(send: Callable[[int], httpx.Response]) -> None:
    """Send from eight threads until each is refused."""

    def work(number: int) -> None:
        for sent in itertools.count():
            try:
                assert send(100 * number + sent).status_code == 202
            except Refusal:
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_tasks(house: House, backend: str) -> None:
    """Send from eight tasks until each is refused."""

    async def work(client: httpx.AsyncClient, number: int) -> None:
        for sent in itertools.count():
            try:
                one = event(f"u{number}.{sent}")
                answer = await client.post(TRACK, json=one, extensions=critical())
            except Refusal:
                return
            assert answer.status_code == 202

    async def run() -> None:
        made = house.guard.async_client(base_url=house.vendor.url, headers=HEADERS)
        async with made as client, anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(work, client, number)

    anyio.run(run, backend=backend)


@pytest.mark.parametrize("way", ["threads", "asyncio", "trio"])
def test_exactly_the_quota_goes(build: Build, way: str) -> None:
    """Nobody there refuses, and usage lags; the guard stops at the last unit by itself."""
    house = build(quota=60, used=7, lag=40, overage=True)
    if way == "threads":
        in_threads(lambda number: house.track(f"u{number}"))
    else:
        in_tasks(house, way)
    assert house.vendor.true["events"] == 60
    assert (house.row().used, house.row().reserved, house.row().headroom) == (60, 0, 0)


def test_batches_fill_the_quota_and_never_pass_it(build: Build) -> None:
    """Each holds its length until the answer tells what was queued."""
    house = build(quota=200, lag=40, overage=True)

    def send(number: int) -> httpx.Response:
        events = [event(f"u{number}.{place}") for place in range(1 + number % 5)]
        return house.batch(*events, {"event_type": "no user"})

    in_threads(send)
    assert house.vendor.true["events"] <= 200
    # What a reading may or may not contain counts twice until the lag has passed.
    house.clock.advance(200)
    house.guard.refresh()
    while house.row().headroom > 0:
        # Room for one more, but not for one and a bad one: that is asked for in full.
        assert house.batch(event()).json() == {"queued": 1, "skipped": 0}
    assert house.vendor.true["events"] == 200


# -- refusals -------------------------------------------------------------------


def test_a_refusal_has_its_facts(build: Build) -> None:
    """The meter, the numbers, and the day after the last one of the period."""
    house = build(quota=3, used=2)
    house.track()
    with pytest.raises(QuotaExhausted) as caught:
        house.track()
    refusal = caught.value
    assert (refusal.provider, refusal.meter) == ("segops", "events")
    assert (refusal.used, refusal.limit, refusal.requested, refusal.headroom) == (3, 3, 1, 0)
    assert refusal.resets_at == END
    assert KEY not in f"{refusal} {refusal!r}"
    assert not house.guard.check("events.track", priority="critical")
    assert house.vendor.true["events"] == 3


def test_a_batch_that_can_never_fit_is_told_so(build: Build) -> None:
    """Split it, is the advice; nothing was sent."""
    house = build(quota=5)
    with pytest.raises(CostTooLarge, match="Split the batch"):
        house.batch(*[event()] * 6)
    assert house.vendor.requests[BATCH] == 0


def test_nothing_included_refuses_and_unlimited_never_does(build: Build) -> None:
    """0 and -1 are different things."""
    nothing = build(quota=0)
    with pytest.raises(QuotaExhausted, match="includes none"):
        nothing.track()
    endless = build(quota=None, used=10**9)
    assert endless.batch(*[event()] * 500).status_code == 202
    assert (endless.row().limit, endless.row().headroom) == (None, None)
    assert endless.guard.reports.usage().events.limit is None


# -- what calls cost --------------------------------------------------------------


def test_a_batch_settles_what_was_queued(build: Build) -> None:
    """Its body is listened to on its way to the reader; the receipt shows both numbers."""
    house = build(quota=100)
    answer = house.batch(event("a"), event("b"), {"event_type": "bad"})
    receipt = answer.extensions["quotaguard"]
    assert (receipt.operation, receipt.reserved, receipt.settled) == (
        "events.track_batch",
        {"events": 3},
        {"events": 2},
    )
    assert (house.row().used, house.vendor.true["events"]) == (2, 2)
    assert house.batch().json() == {"queued": 0, "skipped": 0}
    assert house.row().used == 2


def test_a_batch_that_is_not_read_to_its_end_is_unknown(build: Build) -> None:
    """Counted in full until a reading knows better."""
    house = build(quota=100)
    asked = {"json": {"events": [event(), {"event_type": "bad"}]}, "extensions": critical()}
    with house.client.stream("POST", BATCH, **asked) as answer:
        pass
    assert answer.extensions["quotaguard"].state == "unknown"
    assert house.row().headroom == 98
    for _ in range(2):
        house.clock.advance(65)
        house.guard.refresh()
    assert house.row().headroom == 99


def test_more_than_was_reserved_is_counted_and_told(build: Build) -> None:
    """They have counted it, so do we."""
    house = build(quota=100, faults=[Reply.json(202, {"queued": 9, "skipped": 0})])
    house.batch(event())
    assert house.row().headroom == 91
    assert [one.state for one in house.told if isinstance(one, Degraded)] == ["underpriced"]


def test_a_stream_reserves_the_most_that_a_batch_may_have(build: Build) -> None:
    """Its length is not seen; the choice says how many it may be."""
    house = build(quota=100)
    small = build(lambda url: SegOps(KEY, base_url=url, choices=SegOpsChoices(batch=20)), quota=100)

    def stream() -> Iterator[bytes]:
        yield b'{"events": [{"user_id": "u", "event_type": "t"}]}'

    with pytest.raises(CostTooLarge) as caught:
        house.client.post(BATCH, content=stream(), extensions=critical())
    assert caught.value.requested == 500
    answer = small.client.post(BATCH, content=stream(), extensions=critical())
    receipt = answer.extensions["quotaguard"]
    assert (receipt.reserved, receipt.settled) == ({"events": 20}, {"events": 1})


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        ("401", 100),
        ("403", 100),
        ("404", 100),
        (Reply(400, b'{"user_id": ["This field is required."]}'), 100),
        (Reply(307, b"", (("Location", "/elsewhere/"),)), 100),
        ("500", 99),
        ("502", 99),
        (Reply(200, b'{"queued": true}'), 99),
        ("reset", 99),
        ("reset-free", 99),
    ],
    ids=str,
)
def test_what_an_answer_costs(build: Build, fault: Any, left: int) -> None:
    """Refused is free; a fault of theirs, or none at all, is counted in doubt."""
    house = build(quota=100, faults=[fault])
    try:
        house.track()
    except httpx.TransportError:
        assert str(fault).startswith("reset")
    assert house.row().headroom == left


def test_the_slash_at_the_end_matters_to_them_not_to_us(build: Build) -> None:
    """The call is guarded, and what their redirect makes of it costs nothing."""
    house = build(quota=100)
    answer = house.client.post(TRACK.rstrip("/"), json=event(), extensions=critical())
    assert (answer.status_code, answer.extensions["quotaguard"].state) == (301, "released")
    assert house.row().headroom == 100


# -- 429: the rate or the month -------------------------------------------------


def test_429_of_the_rate_pauses_and_goes_on(build: Build) -> None:
    """After Retry-After the calls go on, one refused call a minute and none for the quota."""
    house = build(quota=1000, rate_limit=6)
    began = house.clock.fast()
    codes = [house.track(f"u{number}", max_wait=120).status_code for number in range(20)]
    minutes = (house.clock.fast() - began) / 60
    assert set(codes) == {202, 429}
    assert codes.count(429) <= minutes + 1
    assert minutes < 6
    assert house.vendor.true["events"] == codes.count(202)
    assert house.row().used == codes.count(202)


def test_429_of_the_rate_is_too_long_for_those_who_cannot_wait(build: Build) -> None:
    """They are told when: it is a pause, and not the quota."""
    house = build(quota=1000, rate_limit=2)
    codes = [house.track().status_code for _ in range(2)]
    assert codes == [202, 429]
    with pytest.raises(WaitTooLong, match="not sent") as caught:
        house.track(max_wait=10)
    assert caught.value.retry_after == pytest.approx(60, abs=1)
    assert caught.value.reason == "the provider asked for a pause"


def test_429_of_the_month_is_exhausted_by_the_next_reading(build: Build) -> None:
    """No pause is waited for: the reading tells at once what it was."""
    house = build(quota=10, retry_after=20)
    assert house.track().status_code == 202
    house.vendor.spend(9)
    before, polls = house.clock.fast(), house.vendor.polls
    assert house.track().status_code == 429
    with pytest.raises(QuotaExhausted) as caught:
        house.track()
    assert (caught.value.used, caught.value.limit) == (10, 10)
    assert caught.value.resets_at == END
    assert (house.clock.fast(), house.vendor.polls) == (before, polls + 1)
    for _ in range(50):
        with pytest.raises(QuotaExhausted):
            house.track()
    assert house.vendor.requests[TRACK] == 2
    house.vendor.set_quota(20)
    house.guard.refresh()
    house.clock.advance(20)
    assert house.track().status_code == 202


def test_429_of_a_month_that_usage_does_not_show_yet_is_asked_again(build: Build) -> None:
    """While the stats lag it looks like the rate: one call per pause, until they tell."""
    house = build(quota=10, lag=300, retry_after=60, policy=Policy(cold_reserve=0, lag=300))
    assert house.track().status_code == 202
    house.vendor.spend(9)
    outcomes: list[str] = []
    while len(outcomes) < 20:
        try:
            outcomes.append(str(house.track(max_wait=120).status_code))
        except QuotaExhausted:
            break
    assert set(outcomes) == {"429"}
    assert len(outcomes) <= 1 + 300 / 60 + 1


def test_429_without_retry_after_pauses_as_chosen(build: Build) -> None:
    """Five seconds, or what the choice says."""
    chosen = SegOpsChoices(pause=40)
    for provider, pause in (
        (None, 5),
        (lambda url: SegOps(KEY, base_url=url, choices=chosen), 40),
    ):
        house = build(provider, faults=[Reply(429, b"")])
        assert house.track().status_code == 429
        before = house.clock.fast()
        assert house.track(max_wait=60).status_code == 202
        assert house.clock.fast() - before == pytest.approx(pause, abs=0.1)


def test_a_retry_after_of_days_parks_nobody_for_days(build: Build) -> None:
    """A minute at most: rates are by the minute, and of the month a reading tells."""
    house = build(faults=[Reply(429, b"", (("Retry-After", "1209600"),))])
    assert house.track().status_code == 429
    before = house.clock.fast()
    assert house.track(max_wait=10_000).status_code == 202
    assert house.clock.fast() - before == pytest.approx(60, abs=1)


# -- levels and counters --------------------------------------------------------


def test_segments_are_a_level(build: Build) -> None:
    """Full until one is deleted: no date opens it, and no line of a priority holds it."""
    house = build(segments_used=1, segments_quota=2)
    assert house.create().status_code == 201
    with pytest.raises(QuotaExhausted) as caught:
        house.create()
    assert (caught.value.meter, caught.value.resets_at) == ("segments", None)
    house.client.delete(f"{SEGMENTS}1/")
    house.clock.advance(1000)
    house.guard.refresh()
    assert house.create().status_code == 201
    assert (house.vendor.true["segments"], house.row("segments").used) == (2, 2)
    answer = house.client.post(TRACK, json=event(), extensions=critical())
    assert answer.status_code == 202


@pytest.mark.parametrize("users", ["level", "counter"])
def test_users_are_what_is_chosen(build: Build, users: Any) -> None:
    """Shown and warned of; only a counter has a date."""
    house = build(
        lambda url: SegOps(KEY, base_url=url, choices=SegOpsChoices(users=users)),
        users_quota=10,
        users_used=9,
        users=users,
    )
    house.track("new")
    house.guard.refresh()
    assert (house.row("users").used, house.row("users").limit) == (10, 10)
    with pytest.raises(QuotaExhausted) as caught, house.guard.reserve({"users": 1}):
        pass
    assert caught.value.resets_at == (END if users == "counter" else None)


def test_ai_credits_are_priced_by_costs_of_your_own(build: Build) -> None:
    """What a credit buys is not documented; a decorated function says what it takes."""
    house = build(credits_quota=3, credits_used=1)

    @house.guard.limit({"ai_credits": 1}, priority="critical", max_wait=0)
    def ask() -> str:
        return "a segment of trials"

    assert [ask(), ask()] == ["a segment of trials"] * 2
    with pytest.raises(QuotaExhausted, match="ai_credits"):
        ask()


# -- the decorator --------------------------------------------------------------


def test_a_decorated_batch_reserves_its_length_or_the_most(build: Build) -> None:
    """With cost= it is exact; by its name alone it is the most that one call may send."""
    house = build(quota=1000)

    @house.guard.limit(
        "events.track_batch",
        cost=lambda batch: {"events": len(batch)},
        settle=lambda told: {"events": told["queued"]},
        priority="critical",
    )
    def send(batch: list[Any]) -> Any:
        return house.client.post(BATCH, json={"events": batch}).json()

    assert send([event("a"), event("b"), {}]) == {"queued": 2, "skipped": 1}
    assert house.row().used == house.vendor.true["events"] == 2

    @house.guard.limit("events.track_batch", priority="critical")
    def blind(batch: list[Any]) -> None:
        """Send by other means."""

    blind([event()])
    assert house.row().used == 502


# -- periods --------------------------------------------------------------------


def test_a_new_month_opens_the_door(build: Build) -> None:
    """The last day is inclusive; the reading tells when their month has turned."""
    house = build(quota=5, used=5)
    with pytest.raises(QuotaExhausted):
        house.track()
    house.clock.advance(END.timestamp() - house.clock.now().wall - 1)
    with pytest.raises(QuotaExhausted):
        house.track()
    house.clock.advance(1000)
    assert house.track().status_code == 202
    assert house.row().used == 1
    assert house.row().period.ends_at == datetime(2026, 7, 1, tzinfo=UTC)


def test_a_month_that_no_reading_turns_is_turned_by_the_clock_late(build: Build) -> None:
    """No zone is given: without a reading the last place on earth must have turned."""
    house = build(quota=5, used=5, policy=Policy(cold_reserve=0, on_stale="open"))
    with pytest.raises(QuotaExhausted):
        house.track()
    house.vendor.script(stats=["500"] * 500)
    house.clock.advance(END.timestamp() + 13.9 * 3600 - house.clock.now().wall)
    with pytest.raises(QuotaExhausted):
        house.track()
    house.clock.advance(600)
    assert house.track().status_code == 202


# -- keys -----------------------------------------------------------------------


class Login:
    """Hands out one JWT after the other."""

    def __init__(self, *given: str) -> None:
        self.given = iter(given)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        return next(self.given)


def waiting(house: House, backend: str) -> Callable[[], Any]:
    """Return refresh in one colour."""
    if backend == "sync":
        return house.guard.refresh
    return lambda: anyio.run(house.guard.arefresh, backend=backend)


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_a_jwt_is_renewed_when_it_has_expired(build: Build, colour: str) -> None:
    """One question more, in either colour, and the application's own calls still count."""
    login = Login("jwt-1", "jwt-2", "jwt-3")
    lives = {"jwt-1": 3600, "jwt-2": 7200}
    house = build(lambda url: SegOps(token=login, base_url=url), tokens=lives, headers={})
    refresh = waiting(house, colour)
    refresh()
    refresh()
    assert login.calls == 1
    house.clock.advance(3600)
    refresh()
    assert (login.calls, house.vendor.polls) == (2, 4)
    mine = {"Authorization": "Bearer jwt-2"}
    answer = house.client.post(TRACK, json=event(), headers=mine, extensions=critical())
    assert (answer.status_code, house.row().used) == (202, 1)
    house.clock.advance(3600)
    with pytest.raises(StatsForbidden) as caught:
        refresh()
    assert (caught.value.code, login.calls) == ("token_not_valid", 3)
    with pytest.raises(StatsUnavailable, match="raised StopIteration"):
        refresh()


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_reports_renew_their_jwt_too(build: Build, colour: str) -> None:
    """They ask the same way, and share what was handed out."""
    login = Login("jwt-1", "jwt-2")
    tokens = {"jwt-1": 60, "jwt-2": 120}
    house = build(lambda url: SegOps(token=login, base_url=url), tokens=tokens)

    def overview() -> Any:
        if colour == "sync":
            return house.guard.reports.overview()
        return anyio.run(house.guard.areports.overview, backend=colour)

    house.guard.refresh()
    house.clock.advance(60)
    assert overview().segment_count == 0
    assert login.calls == 2


def test_what_a_function_raises_is_told_by_its_class_alone(build: Build) -> None:
    """The refused call has it as its cause, the event as its reason."""

    def login() -> str:
        raise RuntimeError(f"no answer to {KEY}")

    house = build(lambda url: SegOps(token=login, base_url=url))
    with pytest.raises(QuotaUnknown) as caught:
        house.track()
    assert isinstance(caught.value.__cause__, StatsUnavailable)
    (failed,) = [one for one in house.told if isinstance(one, PollFailed)]
    for said in (str(caught.value), str(caught.value.__cause__), failed.reason):
        assert "RuntimeError" in said
        assert KEY not in said


def shown(error: BaseException | None) -> str:
    """Return all that a crash reporter would send of *error*, our frames' values included."""
    said = []
    while error is not None:
        said += [str(error), repr(error), repr(error.__dict__)]
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if "/quotaguard/" in frame.f_code.co_filename:
                said += [repr(value) for value in frame.f_locals.values()]
        error = error.__cause__ or error.__context__
    return "\n".join(said)


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_no_key_shows_anywhere(build: Build, caplog: pytest.LogCaptureFixture, colour: str) -> None:
    """Not one that was handed out, nor what came instead of one: logs, events, errors."""
    canary = "eyJ-canary-77f0"
    given = iter([canary, f"{canary}-2", f"{canary}\n3", canary])

    def login() -> str:
        said = next(given, None)
        if said is None:
            raise RuntimeError(canary)
        return said

    caplog.set_level("DEBUG", logger="quotaguard")
    house = build(
        lambda url: SegOps(token=login, base_url=url),
        policy=Policy(on_stale="closed"),
        tokens={canary: 60},
        headers={},
    )
    refresh = waiting(house, colour)
    refresh()
    house.clock.advance(60)
    said = [repr(house.guard), repr(house.guard.provider), repr(house.guard.areports)]
    for _ in range(4):
        with pytest.raises(ProviderError) as caught:
            refresh()
        said.append(shown(caught.value))
    house.clock.advance(10_000)
    with pytest.raises(QuotaUnknown) as refused:
        house.track()
    said += [shown(refused.value), caplog.text, *map(repr, house.told)]
    assert len(caplog.records) >= 5
    assert canary not in "\n".join(said)


def test_a_wrong_key_stops_the_polls(build: Build) -> None:
    """Three times, then never again until somebody asks for it."""
    house = build(lambda url: SegOps("wrong", base_url=url), headers={})
    for _ in range(6):
        with pytest.raises(QuotaUnknown) as caught:
            house.track()
        house.clock.advance(1000)
    assert isinstance(caught.value.__cause__, StatsForbidden)
    assert (house.vendor.polls, house.vendor.requests[TRACK]) == (3, 0)
    with pytest.raises(StatsForbidden, match=r"401"):
        house.guard.refresh()


def test_a_role_that_may_not_read_is_forbidden(build: Build) -> None:
    """The key is good for events, and its role is not for analytics."""
    house = build(role="writer")
    with pytest.raises(StatsForbidden, match=r"role or the plan.*403"):
        house.guard.refresh()
    with pytest.raises(StatsForbidden):
        house.guard.reports.overlap()


def test_another_api_key_passes_unguarded_with_a_warning(build: Build) -> None:
    """It spends from somebody else's account, or from ours under another name: told once."""
    house = build(quota=0)
    other = {"Authorization": "ApiKey sk_other"}
    for _ in range(2):
        assert house.client.post(TRACK, json=event(), headers=other).status_code == 401
    states = [one.state for one in house.told if isinstance(one, Degraded)]
    assert states == ["foreign_key"]
    with pytest.raises(QuotaExhausted):
        house.client.post(TRACK, json=event(), headers={"Authorization": "Bearer any"})


def test_two_guards_of_one_named_account_share_its_books(build: Build) -> None:
    """An ApiKey here, a JWT there."""
    house = build(lambda url: SegOps(KEY, base_url=url, account="acme"), quota=10)
    other = Guard(
        SegOps(token="test-token", base_url=house.vendor.url, account="acme"),
        policy=ALONE,
        clock=house.clock,
    )
    house.track()
    with other:
        assert other.standing()["events"].used == 1


# -- without an answer ----------------------------------------------------------


def test_no_subscription_is_closed(build: Build) -> None:
    """Until there is one; or a policy says that unknown is open."""
    house = build(subscribed=False)
    with pytest.raises(QuotaUnknown, match="no subscription") as caught:
        house.track()
    assert isinstance(caught.value.__cause__, NoSubscription)
    assert house.vendor.requests[TRACK] == 0
    house.vendor.subscribed = True
    house.guard.refresh()
    assert house.track().status_code == 202
    house.vendor.subscribed = False
    with pytest.raises(NoSubscription):
        house.guard.refresh()
    with pytest.raises(QuotaUnknown):
        house.track()
    opened = build(subscribed=False, policy=Policy(on_unknown="open"))
    assert opened.track().status_code == 403


def test_a_404_of_somebody_else_leaves_the_books_alone(build: Build) -> None:
    """A proxy's page says nothing of the subscription."""
    house = build(quota=10)
    house.track()
    house.vendor.script(stats=["html-404"])
    with pytest.raises(StatsUnavailable):
        house.guard.refresh()
    assert house.track().status_code == 202


@pytest.mark.parametrize("fault", ["500", "html", "huge", "gzip", "redirect", "nan", "reset"])
def test_a_stats_endpoint_that_is_down_opens_nothing(build: Build, fault: str) -> None:
    """Without a reading nothing goes; with one the calls go on from it."""
    house = build(quota=10)
    house.vendor.script(stats=[fault])
    with pytest.raises(QuotaUnknown) as caught:
        house.track()
    assert caught.value.__cause__ is not None
    house.guard.refresh()
    house.vendor.script(stats=[fault] * 100)
    for _ in range(10):
        house.clock.advance(100)
        assert house.track().status_code == 202
    with pytest.raises(QuotaExhausted):
        house.track()
    assert house.vendor.true["events"] == 10


def test_one_broken_metric_closes_only_itself(build: Build) -> None:
    """The others apply; the broken one is unknown, and closed."""
    house = build()
    house.vendor.script(stats=["negative"])
    with pytest.raises(QuotaUnknown, match="does not name this meter"):
        house.track()
    assert house.create().status_code == 201


# -- reports --------------------------------------------------------------------

NAMES = ("overview", "segments", "overlap", "activations", "copilot", "usage")


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_reports_in_both_colours_and_from_the_shelf(build: Build, colour: str) -> None:
    """The same records; asked twice within seconds they cost one call."""
    house = build(segments_used=4)

    async def both(name: str) -> list[Any]:
        return [await getattr(house.guard.areports, name)() for _ in range(2)]

    for name in NAMES:
        if colour == "sync":
            told = [getattr(house.guard.reports, name)() for _ in range(2)]
        else:
            told = anyio.run(both, name, backend=colour)
        assert told[0] is told[1]
        assert house.vendor.requests[f"/api/analytics/{name}/"] == 1
    assert dir(house.guard.reports) == sorted(NAMES)


def test_a_report_never_becomes_a_reading(build: Build) -> None:
    """Not even that of usage: only a poll has a claim, and knows when it asked."""
    house = build(used=5)
    assert house.guard.reports.usage().events.used == 5
    assert house.guard.standing().age is None
    house.guard.refresh()
    assert house.row().used == 5


def test_reports_fail_with_their_facts(build: Build) -> None:
    """Status and code; and what takes no argument takes none."""
    house = build(lambda url: SegOps(token="gone", base_url=url), tokens={})
    with pytest.raises(StatsForbidden) as caught:
        house.guard.reports.copilot()
    assert (caught.value.status, caught.value.code) == (401, "token_not_valid")
    with pytest.raises(TypeError):
        house.guard.reports.copilot("daily")
    with pytest.raises(AttributeError, match="overview"):
        house.guard.reports.stats()
    with pytest.raises(ConfigError, match="SegOps"):
        SegOps()
