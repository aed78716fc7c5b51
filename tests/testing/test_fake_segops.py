"""The fake SegOps, asked over real loopback: its truth, its usage, its moods."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from quotaguard.errors import ConfigError, NoSubscription
from quotaguard.providers.segops import SegOps
from quotaguard.quota.calls import Outcome
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.segops import CALL_FAULTS, STATS_FAULTS
from quotaguard.testing.server import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quotaguard.testing.segops import FakeSegOps

TRACK = "/api/ingestion/track/"
BATCH = "/api/ingestion/track/batch/"
SEGMENTS = "/api/segments/"
ANALYTICS = "/api/analytics/"
USAGE = f"{ANALYTICS}usage/"
NAMES = ("overview", "segments", "overlap", "activations", "copilot", "usage")


class Caller:
    """Asks a fake over one connection."""

    def __init__(
        self, vendor: FakeSegOps, key: str = "ApiKey test-key", timeout: float = 5
    ) -> None:
        self.client = httpx.Client(
            base_url=vendor.url,
            headers={"Authorization": key} if key else {},
            timeout=timeout,
            trust_env=False,
        )

    def track(self, user: str = "u1", **more: Any) -> httpx.Response:
        event = {"user_id": user, "event_type": "page_viewed", **more}
        return self.client.post(TRACK, json=event)

    def batch(self, *events: Any) -> httpx.Response:
        return self.client.post(BATCH, json={"events": list(events)})

    def create(self, name: str = "Trials") -> httpx.Response:
        return self.client.post(SEGMENTS, json={"name": name})

    def read(self, name: str = "usage") -> Any:
        """Return what the provider's reader makes of an analytics endpoint."""
        report = SegOps("test-key", base_url=str(self.client.base_url)).reports[name]()
        answer = self.client.get(f"{ANALYTICS}{name}/")
        return report.read(Outcome(answer.status_code, dict(answer.headers), answer.content))


@pytest.fixture
def call() -> Iterator[Callable[..., Caller]]:
    """Make callers that are closed at the end."""
    made: list[Caller] = []

    def make(vendor: FakeSegOps, **settings: Any) -> Caller:
        made.append(Caller(vendor, **settings))
        return made[-1]

    yield make
    for caller in made:
        caller.client.close()


def event(user: str = "u1", kind: str = "page_viewed") -> dict[str, str]:
    """Return a sound event."""
    return {"user_id": user, "event_type": kind}


# --- what it is ---------------------------------------------------------------


@pytest.mark.parametrize(
    "knob",
    [
        {"role": "king"},
        {"users": "gauge"},
        {"users_used": -1},
        {"segments_used": -1},
        {"credits_used": -1},
        {"retry_after": -1},
        {"rate_limit": 0},
        {"tokens": ["a"]},
        {"faults": ["explode"]},
        {"stats_faults": ["explode"]},
        {"quotas": 3},
        {"lag": -1},
    ],
    ids=str,
)
def test_a_knob_turned_too_far_is_yours(knob: dict[str, Any]) -> None:
    """A setting that cannot be is found when the fake is made."""
    with pytest.raises(ConfigError):
        fake("segops", **knob)


def test_repr_shows_the_main_meter() -> None:
    """The repr says how much of the quota is really used."""
    vendor = fake("segops", quota=1000, used=250)
    assert repr(vendor) == "<FakeSegOps: events 250/1,000, 0 polls>"


# --- events -------------------------------------------------------------------


def test_an_event_is_counted(call: Callable[..., Caller]) -> None:
    """202 and one event, whatever its type; a user_id that is new is a user."""
    with fake("segops", users_used=10) as vendor:
        caller = call(vendor)
        answers = [
            caller.track("u1"),
            caller.track("u1", event_type="context_identified"),
            caller.track("u2"),
        ]
        assert [one.status_code for one in answers] == [202] * 3
        assert answers[0].json() == {"queued": True}
        assert (vendor.true["events"], vendor.true["users"]) == (3, 12)


def test_a_batch_counts_what_is_sound(call: Callable[..., Caller]) -> None:
    """What has no user or no type is skipped and costs nothing."""
    with fake("segops") as vendor:
        answer = call(vendor).batch(
            event("a"),
            event("b"),
            event("a"),
            {"user_id": "c"},
            {"event_type": "t"},
            event(""),
            {"user_id": 7, "event_type": "t"},
            "odd",
            None,
        )
        assert (answer.status_code, answer.json()) == (202, {"queued": 3, "skipped": 6})
        assert (vendor.true["events"], vendor.true["users"]) == (3, 2)


def test_a_batch_has_at_most_500_events(call: Callable[..., Caller]) -> None:
    """501 are refused whole, with the field's name."""
    with fake("segops") as vendor:
        caller = call(vendor)
        assert caller.batch(*[event()] * 500).json() == {"queued": 500, "skipped": 0}
        refused = caller.batch(*[event()] * 501)
        assert (refused.status_code, set(refused.json())) == (400, {"events"})
        assert vendor.true["events"] == 500


def test_a_batch_is_taken_whole_or_not_at_all(call: Callable[..., Caller]) -> None:
    """Over the limit nothing of it is counted; a smaller one still fits."""
    with fake("segops", quota=10, used=5) as vendor:
        caller = call(vendor)
        assert caller.batch(*[event()] * 6).status_code == 429
        assert vendor.true["events"] == 5
        assert caller.batch(*[event()] * 5).status_code == 202
        assert vendor.true["events"] == 10


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        (TRACK, b"", {"detail"}),
        (TRACK, b"[]", {"detail"}),
        (TRACK, b"{", {"detail"}),
        (TRACK, b"{}", {"user_id", "event_type"}),
        (TRACK, b'{"user_id": "u"}', {"event_type"}),
        (TRACK, b'{"user_id": 7, "event_type": "t"}', {"user_id"}),
        (BATCH, b"", {"events"}),
        (BATCH, b"[]", {"events"}),
        (BATCH, b'{"events": {}}', {"events"}),
        (SEGMENTS, b"{}", {"name"}),
        (SEGMENTS, b'{"name": ""}', {"name"}),
    ],
)
def test_what_does_not_fit_is_400_and_free(
    call: Callable[..., Caller], path: str, body: bytes, fields: set[str]
) -> None:
    """In one of the two documented envelopes."""
    with fake("segops") as vendor:
        answer = call(vendor).client.post(path, content=body)
        assert (answer.status_code, set(answer.json())) == (400, fields)
        assert vendor.true == {"events": 0, "users": 0, "segments": 0, "ai_credits": 0}


def test_the_month_refuses_with_retry_after(call: Callable[..., Caller]) -> None:
    """Exactly the quota is accepted, then 429 looks like the rate's."""
    with fake("segops", quota=5, used=2, retry_after=45) as vendor:
        answers = [call(vendor).track() for _ in range(4)]
        assert [one.status_code for one in answers] == [202, 202, 202, 429]
        assert answers[-1].headers["Retry-After"] == "45"
        assert answers[-1].json() == {
            "detail": "Request was throttled. Expected available in 45 seconds."
        }
        assert vendor.true["events"] == vendor.quota == 5


def test_overage_never_refuses(call: Callable[..., Caller]) -> None:
    """The count passes the quota, and usage says so."""
    with fake("segops", quota=2, overage=True) as vendor:
        caller = call(vendor)
        assert [caller.track().status_code for _ in range(4)] == [202] * 4
        assert caller.read().events.used == 4


def test_full_users_refuse_new_ones_only(call: Callable[..., Caller]) -> None:
    """Whoever is known may send on; over any limit it is 429."""
    with fake("segops", users_quota=1) as vendor:
        caller = call(vendor)
        assert [caller.track(user).status_code for user in ("a", "a", "b")] == [202, 202, 429]
        assert (vendor.true["users"], vendor.true["events"]) == (1, 2)


def test_many_connections_never_pass_a_limit(call: Callable[..., Caller]) -> None:
    """Looking and charging are one step; a user that comes twice at once is one user."""
    with fake("segops", quota=50) as vendor:
        callers = [call(vendor) for _ in range(8)]

        def work(caller: Caller) -> list[tuple[int, int]]:
            return [(number, caller.track(f"u{number}").status_code) for number in range(10)]

        with ThreadPoolExecutor(8) as pool:
            done = list(itertools.chain.from_iterable(pool.map(work, callers)))
        codes = [code for _, code in done]
        assert (codes.count(202), codes.count(429)) == (50, 30)
        known = {user for user, code in done if code == 202}
        assert (vendor.true["events"], vendor.true["users"]) == (50, len(known))


# --- segments -----------------------------------------------------------------


def test_segments_are_made_and_deleted(call: Callable[..., Caller]) -> None:
    """A level: it rises by making, falls by deleting, and is full at its quota."""
    with fake("segops", segments_used=1, segments_quota=2) as vendor:
        caller = call(vendor)
        made = caller.create("Trials")
        assert (made.status_code, made.json()["id"], made.json()["name"]) == (201, 2, "Trials")
        assert caller.create().status_code == 429
        assert caller.client.delete(f"{SEGMENTS}1/").status_code == 204
        assert vendor.true["segments"] == 1
        assert caller.client.delete(f"{SEGMENTS}1/").status_code == 404
        assert caller.create().json()["id"] == 3
        assert [one.id for one in caller.read("segments")] == [2, 3]


# --- keys, roles, rates -------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ("ApiKey test-key", True),
        ("apikey test-key", True),
        ("Bearer test-token", True),
        ("ApiKey test-token", False),
        ("Bearer test-key", False),
        ("ApiKey wrong", False),
        ("Token test-key", False),
        ("ApiKey", False),
        ("", False),
    ],
)
def test_keys_are_looked_at(call: Callable[..., Caller], said: str, good: bool) -> None:
    """Both kinds, each under its scheme, at every path; the rest is 401 and free."""
    asked = {"user_id": "u", "event_type": "t", "name": "n", "events": []}
    with fake("segops") as vendor:
        client = call(vendor, key=said).client
        answers = [client.post(path, json=asked) for path in (TRACK, BATCH, SEGMENTS)]
        answers += [client.get(f"{ANALYTICS}{name}/") for name in NAMES]
        assert [one.status_code != 401 for one in answers] == [good] * 9
        if not good:
            assert all("detail" in one.json() for one in answers)
            assert sum(vendor.true.values()) == 0


def test_tokens_expire_by_the_clock(call: Callable[..., Caller]) -> None:
    """Each at its own time, with the code that names it."""
    clock = FakeClock()
    with fake("segops", tokens={"one": 60, "two": 120, "ever": None}, clock=clock) as vendor:
        callers = [call(vendor, key=f"Bearer {name}") for name in ("one", "two", "ever")]

        def codes() -> list[int]:
            return [caller.client.get(USAGE).status_code for caller in callers]

        assert codes() == [200, 200, 200]
        clock.advance(60)
        assert codes() == [401, 200, 200]
        clock.advance(60)
        assert codes() == [401, 401, 200]
        assert callers[0].client.get(USAGE).json()["code"] == "token_not_valid"


@pytest.mark.parametrize(
    ("role", "reads", "writes"),
    [("admin", 200, 202), ("analyst", 200, 403), ("writer", 403, 202)],
)
def test_roles(call: Callable[..., Caller], role: str, reads: int, writes: int) -> None:
    """403 for what the key may not do; nothing is counted."""
    with fake("segops", role=role) as vendor:
        caller = call(vendor)
        assert [caller.client.get(f"{ANALYTICS}{n}/").status_code for n in NAMES] == [reads] * 6
        assert caller.track().status_code == writes
        assert vendor.true["events"] == (writes == 202)


def test_without_a_subscription(call: Callable[..., Caller]) -> None:
    """Usage is 404 in their words, calls are 403; it can be subscribed while it runs."""
    with fake("segops", subscribed=False) as vendor:
        caller = call(vendor)
        with pytest.raises(NoSubscription):
            caller.read()
        assert (caller.track().status_code, vendor.true["events"]) == (403, 0)
        vendor.subscribed = True
        assert caller.read().plan_name == "Starter"
        assert caller.track().status_code == 202


def test_the_rate_is_by_the_minute(call: Callable[..., Caller]) -> None:
    """Polls count too; Retry-After is when the oldest of the minute's calls is gone."""
    clock = FakeClock()
    with fake("segops", rate_limit=3, clock=clock) as vendor:
        caller = call(vendor)
        codes = [caller.track().status_code]
        clock.advance(10)
        codes += [caller.client.get(USAGE).status_code, caller.track().status_code]
        refused = caller.track()
        assert (codes, refused.status_code) == ([202, 200, 202], 429)
        assert refused.headers["Retry-After"] == "50"
        clock.advance(49)
        assert caller.track().headers["Retry-After"] == "1"
        clock.advance(1)
        assert caller.track().status_code == 202
        assert caller.track().status_code == 429
        assert vendor.true["events"] == 3


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/api/ingestion/", 404),
        ("POST", "/api/ingestion/track/x/", 404),
        ("GET", "/api/analytics/", 404),
        ("GET", "/api/analytics/stats/", 404),
        ("DELETE", "/api/segments/x/", 404),
        ("GET", TRACK, 405),
        ("POST", USAGE, 405),
        ("GET", SEGMENTS, 405),
        ("GET", "/api/segments/1/", 405),
        ("GET", USAGE.rstrip("/"), 301),
        ("POST", TRACK.rstrip("/"), 301),
        ("DELETE", "/api/segments/1", 301),
        ("GET", f"{USAGE}?x=1", 200),
    ],
)
def test_routes(call: Callable[..., Caller], method: str, path: str, status: int) -> None:
    """The slash at the end matters; what is nowhere is a page, not their envelope."""
    with fake("segops") as vendor:
        answer = call(vendor).client.request(method, path)
        assert answer.status_code == status
        if status == 404:
            assert answer.headers["Content-Type"] == "text/html"
        if status == 301:
            assert answer.headers["Location"] == f"{path}/"


# --- usage --------------------------------------------------------------------


def test_usage_is_the_documented_shape(call: Callable[..., Caller]) -> None:
    """The documented example, number by number, at its own date."""
    clock = FakeClock(datetime(2026, 5, 20, tzinfo=UTC).timestamp())
    knobs: dict[str, Any] = {"quota": 100000, "used": 48200, "clock": clock}
    knobs |= {"users_quota": 20000, "users_used": 12400}
    knobs |= {"segments_quota": 10, "segments_used": 8, "credits_quota": 100, "credits_used": 34}
    with fake("segops", **knobs) as vendor:
        answer = call(vendor).client.get(USAGE)
    assert answer.json() == {
        "plan_name": "Starter",
        "plan_tier": "starter",
        "period_start": "2026-05-01",
        "period_end": "2026-05-31",
        "events": {"used": 48200, "limit": 100000},
        "users": {"used": 12400, "limit": 20000},
        "segments": {"used": 8, "limit": 10},
        "ai_credits": {"used": 34, "limit": 100},
    }
    assert parsedate_to_datetime(answer.headers["Date"]).date() == date(2026, 5, 20)


def test_no_quota_is_minus_one(call: Callable[..., Caller]) -> None:
    """Unlimited, for each meter by its knob; 0 stays 0."""
    quotas: dict[str, Any] = {"quota": None, "segments_quota": None, "credits_quota": 0}
    with fake("segops", **quotas) as vendor:
        caller = call(vendor)
        told = caller.client.get(USAGE).json()
        limits = [told[name]["limit"] for name in ("events", "users", "segments", "ai_credits")]
        assert limits == [-1, -1, -1, 0]
        assert caller.read("overview").ai_credits_limit == 0


def test_charges_show_after_the_lag(call: Callable[..., Caller]) -> None:
    """Events, users and segments, those that go as well."""
    clock = FakeClock()
    with fake("segops", lag=60, segments_used=1, clock=clock) as vendor:
        caller = call(vendor)
        caller.track()
        caller.create()
        caller.client.delete(f"{SEGMENTS}1/")
        caller.client.delete(f"{SEGMENTS}2/")
        told = caller.read()
        assert (told.events.used, told.users.used, told.segments.used) == (0, 0, 1)
        assert (vendor.true["events"], vendor.true["segments"]) == (1, 0)
        clock.advance(60)
        told = caller.read()
        assert (told.events.used, told.users.used, told.segments.used) == (1, 1, 0)


def test_others_spend_events(call: Callable[..., Caller]) -> None:
    """A shop's webhooks, say: by the clock, or at once."""
    clock = FakeClock()
    with fake("segops", other_rate=0.5, clock=clock) as vendor:
        clock.advance(100)
        vendor.spend(7)
        assert call(vendor).read().events.used == 57
        assert vendor.true["users"] == 0


@pytest.mark.parametrize(("users", "left"), [("level", 5), ("counter", 0)])
def test_a_new_period_starts_events_anew_and_leaves_levels(
    call: Callable[..., Caller], users: str, left: int
) -> None:
    """Its last day is told inclusive, and who is counted anew is new again."""
    clock = FakeClock(datetime(2026, 5, 31, 23, 59, tzinfo=UTC).timestamp())
    knobs: dict[str, Any] = {"users": users, "users_used": 4, "credits_used": 3, "clock": clock}
    with fake("segops", segments_used=2, **knobs) as vendor:
        caller = call(vendor)
        caller.track("a")
        clock.advance(60)
        told = caller.read()
        assert (told.period_start, told.period_end) == (date(2026, 6, 1), date(2026, 6, 30))
        assert (told.events.used, told.ai_credits.used, told.segments.used) == (0, 0, 2)
        assert told.users.used == left
        caller.track("a")
        assert vendor.true["users"] == (5 if users == "level" else 1)


# --- the other analytics ------------------------------------------------------


def test_the_overview_adds_up(call: Callable[..., Caller]) -> None:
    """It agrees with the segments and with the usage."""
    with fake("segops", used=7, segments_used=3, credits_used=4) as vendor:
        caller = call(vendor)
        told, made = caller.read("overview"), caller.read("segments")
        assert (told.segment_count, told.events_30d, told.ai_credits_used) == (3, 7, 4)
        assert told.total_members == sum(one.member_count for one in made)


def test_segments_are_computed_after_a_day(call: Callable[..., Caller]) -> None:
    """Never computed, then less than two days ago, then with a trend of whole days."""
    clock = FakeClock()
    with fake("segops", segments_used=1, clock=clock) as vendor:
        caller = call(vendor)
        caller.create()
        old, new = caller.read("segments")
        assert (len(old.trend), old.last_computed_at is None) == (30, False)
        assert [one.day for one in old.trend] == sorted({one.day for one in old.trend})
        assert old.trend[-1].count == old.member_count
        assert (new.trend, new.last_computed_at, new.member_count) == ((), None, 0)
        clock.advance(86_400)
        _, new = caller.read("segments")
        assert (new.trend, new.last_computed_at is None) == ((), False)
        clock.advance(86_400)
        assert len(caller.read("segments")[1].trend) == 2


def test_overlap_is_of_the_smaller_and_the_top_20(call: Callable[..., Caller]) -> None:
    """Largest first; none with fewer than two segments."""
    with fake("segops", segments_used=1) as vendor:
        assert call(vendor).read("overlap") == ()
    with fake("segops", segments_used=9) as vendor:
        caller = call(vendor)
        pairs = caller.read("overlap")
        members = {one.id: one.member_count for one in caller.read("segments")}
    assert len(pairs) == 20
    assert [one.overlap for one in pairs] == sorted((one.overlap for one in pairs), reverse=True)
    for one in pairs:
        smaller = min(members[one.seg_a_id], members[one.seg_b_id])
        assert one.overlap_pct == round(one.overlap / smaller * 100, 1)
        assert 0 < one.overlap_pct <= 100


def test_activations_that_never_ran_have_no_rate(call: Callable[..., Caller]) -> None:
    """null, and no logs; the others have their five."""
    with fake("segops", segments_used=9) as vendor:
        told = call(vendor).read("activations")
    assert {len(one.sync_logs) for one in told} == {0, 5}
    for one in told:
        assert (one.success_rate is None) == (one.sync_logs == ())
        assert (one.last_synced_at is None) == (one.sync_logs == ())


def test_the_copilot_leaves_empty_days_out(call: Callable[..., Caller]) -> None:
    """At most thirty days, in order; the total is theirs."""
    with fake("segops") as vendor:
        told = call(vendor).read("copilot")
    assert 0 < len(told.daily) < 30
    assert [one.day for one in told.daily] == sorted({one.day for one in told.daily})
    assert told.total == sum(one.success + one.error for one in told.daily)
    assert all(one.success or one.error for one in told.daily)


def test_what_is_made_up_follows_from_the_seed(call: Callable[..., Caller]) -> None:
    """The same seed and the same day, the same answers."""
    said = []
    for seed in (1, 1, 2):
        with fake("segops", seed=seed, segments_used=4, clock=FakeClock()) as vendor:
            caller = call(vendor)
            said.append([caller.read(name) for name in NAMES])
    assert said[0] == said[1]
    assert all(one != other for one, other in zip(said[0][:5], said[2][:5], strict=True))


# --- faults -------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CALL_FAULTS))
def test_every_call_fault_is_once(call: Callable[..., Caller], name: str) -> None:
    """A status is free, a spoiled answer is counted unless it is said to be free."""
    with fake("segops", faults=[name]) as vendor:
        caller = call(vendor, timeout=0.3)
        try:
            status = caller.track().status_code
        except httpx.TransportError:
            status = 0
        if name.isdigit():
            assert status == int(name)
        elif not name.startswith("slow-drip"):
            assert status == 0
        free = name.isdigit() or name.endswith("-free")
        assert vendor.true["events"] == (not free)
        assert caller.track().status_code == 202


OF_USAGE = {"null-period", "negative", "nan"}
PATIENT = {"timeout", "timeout-free", "slow-drip", "slow-drip-free"}
"""Only the client's patience ends these; that they work is seen with calls."""


@pytest.mark.parametrize("name", sorted({*CALL_FAULTS, *STATS_FAULTS} - PATIENT))
def test_every_stats_fault_is_once(call: Callable[..., Caller], name: str) -> None:
    """Of every endpoint; those of usage leave the others honest. The next one is honest."""
    with fake("segops", segments_used=2, clock=FakeClock()) as vendor:
        client = call(vendor).client
        for endpoint in NAMES:
            vendor.script(stats=[name])
            path = f"{ANALYTICS}{endpoint}/"
            try:
                first = client.get(path)
                spoiled = first.status_code, first.content, first.headers.get("Content-Encoding")
            except httpx.TransportError:
                spoiled = 0, b"", None
            second = client.get(path)
            assert second.status_code == 200
            same = spoiled == (200, second.content, None)
            assert same == (name in OF_USAGE and endpoint != "usage")
        assert vendor.polls == 2


def test_stats_faults_look_like_the_real_thing(call: Callable[..., Caller]) -> None:
    """Each is what it is called."""
    names = ["html", "gzip", "huge", "redirect", "html-404", "null-period", "negative", "nan"]
    with fake("segops", used=3, stats_faults=names) as vendor:
        client = call(vendor).client
        html, packed, huge, moved, lost, null, negative, nan = (client.get(USAGE) for _ in names)
    assert html.headers["Content-Type"] == "text/html"
    assert packed.headers["Content-Encoding"] == "gzip"
    assert (len(huge.content) > 4_000_000, huge.json()["events"]["used"]) == (True, 3)
    assert (moved.status_code, "localhost" in moved.headers["Location"]) == (307, True)
    assert (lost.status_code, lost.headers["Content-Type"]) == (404, "text/html")
    assert (null.json()["period_start"], null.json()["period_end"]) == (None, None)
    assert negative.json()["events"]["used"] == -5
    assert b"NaN" in nan.content


def test_a_reply_of_your_own_goes_wherever_a_name_goes(call: Callable[..., Caller]) -> None:
    """For calls and for polls, in their order."""
    own = Reply(418, json.dumps({"detail": "tea"}).encode())
    with fake("segops", faults=[own, None, "500"], stats_faults=[own]) as vendor:
        caller = call(vendor)
        assert [caller.track().status_code for _ in range(4)] == [418, 202, 500, 202]
        assert caller.client.get(f"{ANALYTICS}overlap/").status_code == 418
