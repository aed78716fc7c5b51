"""A fake SegOps: it counts events truly, and its usage says so late."""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from email.utils import formatdate
from types import MappingProxyType
from typing import Any, Literal

from quotaguard.errors import ConfigError
from quotaguard.testing import analytics, spoiling
from quotaguard.testing.analytics import MadeSegment
from quotaguard.testing.server import Fault, Reply, Request
from quotaguard.testing.spoiling import WIRE_FAULTS, Spoil, changed
from quotaguard.testing.spoiling import asked as asked_of
from quotaguard.testing.vendor import FakeVendor, Knobs, Script, turned

__all__ = ["FakeSegOps", "SegOpsKnobs"]

ANALYTICS = "/api/analytics/"
USAGE = f"{ANALYTICS}usage/"
TRACK = "/api/ingestion/track/"
BATCH = "/api/ingestion/track/batch/"
SEGMENTS = "/api/segments/"
ONE_SEGMENT = re.compile(rf"{SEGMENTS}(\d{{1,9}})/")

MOST_EVENTS = 500  # in one batch; documented
DAY = 86_400
MINUTE = 60.0

ROLES = {"admin": ("reads", "writes"), "analyst": ("reads",), "writer": ("writes",)}
NO_SUBSCRIPTION = "No subscription found."
NOT_ALLOWED = "You do not have permission to perform this action."
THROTTLED = "Request was throttled. Expected available in {} seconds."

STATUSES: Mapping[str, tuple[int, str, tuple[tuple[str, str], ...]]] = {
    "500": (500, "Internal server error.", ()),
    "502": (502, "Bad gateway.", ()),
    "503": (503, "Service unavailable.", (("Retry-After", "1"),)),
    "429": (429, THROTTLED.format(1), (("Retry-After", "1"),)),
    "404": (404, NO_SUBSCRIPTION, ()),
    "403": (403, NOT_ALLOWED, ()),
    "401": (401, "Given token not valid for any token type", ()),
}
CALL_FAULTS = frozenset({*STATUSES, *WIRE_FAULTS})


def _if_usage(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Return a fault of the usage answer; the other endpoints have no such field."""
    return lambda reply, _: changed(reply, change) if b"period_end" in reply.body else reply


STATS_FAULTS: Mapping[str, Spoil] = MappingProxyType(
    {
        **spoiling.STATS_FAULTS,
        "html-404": lambda _reply, _url: _page(404),
        "null-period": _if_usage(lambda told: told.update(period_start=None, period_end=None)),
        "negative": _if_usage(lambda told: told["events"].update(used=-5)),
        "nan": _if_usage(lambda told: told["events"].update(used=float("nan"))),
    }
)


def _accepted() -> Mapping[str, float | None]:
    return MappingProxyType({"test-token": None})


@dataclass(frozen=True, slots=True, kw_only=True)
class SegOpsKnobs(Knobs):
    """The knobs of the fake SegOps, besides those of every fake (`Knobs`).

    *quota* and *used* are of ``events``, *key* is the one that goes as ``ApiKey``.

    users_quota, segments_quota, credits_quota: of the other meters, None is unlimited.
    users_used, segments_used, credits_used: there at the start.
    users: whether users stay when the period ends (level), or are counted anew.
    tokens: JWTs that go as ``Bearer``, and how many seconds by the clock each is
        accepted from the start; None is for ever.
    role: what the key may do: ``admin`` everything, ``analyst`` read the analytics,
        ``writer`` send events and make segments. The rest is answered with 403.
    subscribed: without a subscription usage is 404, and calls are 403.
    rate_limit: requests per minute, polls included; beyond it 429. None is unlimited.
    retry_after: seconds that a 429 about the month names.
    """

    users_quota: int | None = None
    segments_quota: int | None = 10
    credits_quota: int | None = 100
    users_used: int = 0
    segments_used: int = 0
    credits_used: int = 0
    users: Literal["level", "counter"] = "level"
    tokens: Mapping[str, float | None] = field(default_factory=_accepted)
    role: Literal["admin", "analyst", "writer"] = "admin"
    subscribed: bool = True
    rate_limit: int | None = None
    retry_after: int = 30

    def __post_init__(self) -> None:
        # super() without arguments does not work in a slotted dataclass.
        Knobs.__post_init__(self)
        for name in ("users_used", "segments_used", "credits_used", "retry_after"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is a number from 0 upwards")
        if self.role not in ROLES:
            raise ConfigError(f"role is one of {', '.join(ROLES)}, not {self.role!r}")
        if self.users not in {"level", "counter"}:
            raise ConfigError(f'users is "level" or "counter", not {self.users!r}')
        if not isinstance(self.tokens, Mapping):
            raise ConfigError("tokens maps each JWT to its seconds, or to None")
        if self.rate_limit is not None and not self.rate_limit > 0:
            raise ConfigError("rate_limit is requests per minute, above 0, or None")


class FakeSegOps(FakeVendor):
    """A SegOps on loopback: ingestion, segments and the six analytics endpoints.

    ::

        with fake("segops", quota=100, lag=60, clock=clock) as vendor:
            guard = Guard(SegOps("test-key", base_url=vendor.url), clock=clock)
            ...
            assert vendor.true["events"] <= vendor.quota

    An event counts one, and a *user_id* that was not seen before is a new user. In a
    batch, events without *user_id* or *event_type* are skipped. Over a limit a call is
    answered with 429 and ``Retry-After``, for the month as for the minute, unless there
    is overage.

    subscribed: may be set while it runs.

    Faults of calls: ``500 502 503 429 404 403 401`` cost nothing. ``timeout reset close
    garbage truncated slow-drip`` do the work, count it, and spoil the answer; with
    ``-free`` behind they spoil it without. Faults of stats, which all six endpoints
    have: the same ones, and ``html huge gzip redirect html-404``; of usage also
    ``null-period negative nan``. A `Reply` or a `Fault` of your own goes wherever a
    name goes.

    Raises:
        ConfigError: there is no such knob or fault, or not that far.
    """

    def __init__(self, **knobs: Any) -> None:  # noqa: ANN401 - checked by SegOpsKnobs
        self._turned = turn = turned(SegOpsKnobs, knobs)
        levels = {"users", "segments"} if turn.users == "level" else {"segments"}
        quotas = {"users": turn.users_quota, "segments": turn.segments_quota}
        quotas["ai_credits"] = turn.credits_quota
        used = {"events": turn.used, "users": turn.users_used, "segments": turn.segments_used}
        rules = turn.rules(("events",), quotas, (*used, "ai_credits"))
        counts = {**used, "ai_credits": turn.credits_used}
        scripts = {
            "calls": Script(turn.faults, CALL_FAULTS),
            "stats": Script(turn.stats_faults, {*CALL_FAULTS, *STATS_FAULTS}),
        }
        super().__init__(turn, replace(rules, levels=frozenset(levels), used=counts), scripts)
        self.subscribed = turn.subscribed
        self._began = turn.clock.fast()
        self._lock = threading.Lock()
        self._recent: deque[float] = deque()
        self._known: set[str] = set()
        self._period = ""
        self._made = {
            number: MadeSegment.old(number) for number in range(1, turn.segments_used + 1)
        }
        self._born: dict[int, float] = {}

    statuses = STATUSES
    stats_faults = STATS_FAULTS

    @property
    def polls(self) -> int:
        """How many requests the usage endpoint got."""
        return self.requests[USAGE]

    def _route(self, request: Request) -> Reply | Fault:
        path = request.path
        routes: dict[str, tuple[str, str, str, Callable[[Request], Reply]]] = {
            f"{ANALYTICS}{name}/": ("GET", "stats", "reads", read)
            for name, read in self._analytics().items()
        }
        routes[TRACK] = ("POST", "calls", "writes", self._track)
        routes[BATCH] = ("POST", "calls", "writes", self._batch)
        routes[SEGMENTS] = ("POST", "calls", "writes", self._create)
        if ONE_SEGMENT.fullmatch(path):
            routes[path] = ("DELETE", "", "writes", self._delete)
        if f"{path}/" in routes or ONE_SEGMENT.fullmatch(f"{path}/"):
            return Reply(301, b"", (("Location", f"{path}/"),))
        if path not in routes:
            return _page(404)
        method, script, right, act = routes[path]
        if request.method != method:
            return self._told(405, f'Method "{request.method}" not allowed.', (("Allow", method),))

        def honest(asked: Request) -> Reply:
            return self._refused(asked, right) or act(asked)

        return self._spoiled(script, request, honest) if script else honest(request)

    def _refused(self, request: Request, right: str) -> Reply | None:
        """Return why the call gets no further."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if not key.strip():
            return self._told(401, "Authentication credentials were not provided.")
        if not self._accepts(scheme.lower(), key.strip()):
            told = {"detail": STATUSES["401"][1], "code": "token_not_valid"}
            return Reply.json(401, told, self._headers())
        wait = self._held_back()
        if wait:
            return self._throttled(wait)
        if right not in ROLES[self._turned.role]:
            return self._told(403, NOT_ALLOWED)
        if not self.subscribed and right == "writes":
            return self._told(403, "Your plan does not include this.")
        return None

    def _accepts(self, scheme: str, key: str) -> bool:
        if scheme == "apikey":
            return key == self._turned.key
        life = self._turned.tokens.get(key, 0.0)
        gone = self._turned.clock.fast() - self._began
        return scheme == "bearer" and (life is None or gone < life)

    def _held_back(self) -> int:
        """Return the seconds that the minute's rate makes this request wait; 0 counts it."""
        rate, now = self._turned.rate_limit, self._turned.clock.fast()
        if rate is None:
            return 0
        with self._lock:
            while self._recent and self._recent[0] <= now - MINUTE:
                self._recent.popleft()
            if len(self._recent) >= rate:
                return max(1, math.ceil(self._recent[0] + MINUTE - now))
            self._recent.append(now)
            return 0

    # -- ingestion ----------------------------------------------------------------

    def _track(self, request: Request) -> Reply:
        asked = asked_of(request.body)
        if asked is None:
            return self._told(400, "JSON parse error.")
        missing = [name for name in ("user_id", "event_type") if not _named(asked, name)]
        if missing:
            return self._unfit(**dict.fromkeys(missing, "This field is required."))
        if not self._ingested([str(asked["user_id"])]):
            return self._throttled(self._turned.retry_after)
        return Reply.json(202, {"queued": True}, self._headers())

    def _batch(self, request: Request) -> Reply:
        events = (asked_of(request.body) or {}).get("events")
        if not isinstance(events, list):
            return self._unfit(events="This field is required.")
        if len(events) > MOST_EVENTS:
            return self._unfit(events=f"Ensure this field has no more than {MOST_EVENTS} elements.")
        sound = [one for one in events if _named(one, "user_id") and _named(one, "event_type")]
        if not self._ingested([str(one["user_id"]) for one in sound]):
            return self._throttled(self._turned.retry_after)
        told = {"queued": len(sound), "skipped": len(events) - len(sound)}
        return Reply.json(202, told, self._headers())

    def _ingested(self, users: list[str]) -> bool:
        with self._lock:
            _, billing = self._metering.shown()
            if self._turned.users == "counter" and billing.texts[1] != self._period:
                self._known.clear()
            self._period = billing.texts[1]
            new = set(users) - self._known
            if not self._metering.charge_all({"events": len(users), "users": len(new)}):
                return False
            self._known |= new
            return True

    # -- segments -----------------------------------------------------------------

    def _create(self, request: Request) -> Reply:
        asked = asked_of(request.body) or {}
        if not _named(asked, "name"):
            return self._unfit(name="This field is required.")
        with self._lock:
            if not self._metering.charge_all({"segments": 1}):
                return self._throttled(self._turned.retry_after)
            number = max(self._made, default=0) + 1
            self._made[number] = MadeSegment(number, str(asked["name"]))
            self._born[number] = self._turned.clock.fast()
        told = {"id": number, "name": asked["name"], "member_count": 0, "last_computed_at": None}
        return Reply.json(201, told, self._headers())

    def _delete(self, request: Request) -> Reply:
        number = int(request.path.removeprefix(SEGMENTS).rstrip("/"))
        with self._lock:
            if self._made.pop(number, None) is None:
                return self._told(404, "Not found.")
            self._metering.delete(("segments",))
        return Reply(204, b"", self._headers())

    # -- analytics ----------------------------------------------------------------

    def _analytics(self) -> dict[str, Callable[[Request], Reply]]:
        def read(told: Callable[[], Any]) -> Callable[[Request], Reply]:
            return lambda _: Reply.json(200, told(), self._headers())

        seed = self._turned.seed
        return {
            "overview": read(self._overview),
            "segments": read(lambda: analytics.segments(self._segments(), seed, self._today())),
            "overlap": read(lambda: analytics.overlap(self._segments(), seed)),
            "activations": read(
                lambda: analytics.activations(self._segments(), seed, self._today())
            ),
            "copilot": read(lambda: analytics.copilot(seed, self._today())),
            "usage": self._usage,
        }

    def _segments(self) -> list[MadeSegment]:
        now = self._turned.clock.fast()
        with self._lock:
            born = self._born.get
            return [
                one if (at := born(number)) is None else replace(one, age=int((now - at) // DAY))
                for number, one in self._made.items()
            ]

    def _overview(self) -> dict[str, Any]:
        counts, _ = self._metering.shown()
        made = self._segments()
        limit = self._metering.quota("ai_credits")
        return {
            "segment_count": len(made),
            "total_members": sum(one.members(self._turned.seed) for one in made),
            "events_30d": counts["events"],
            "ai_credits_used": counts["ai_credits"],
            "ai_credits_limit": -1 if limit is None else limit,
        }

    def _usage(self, _: Request) -> Reply:
        if not self.subscribed:
            return self._told(404, NO_SUBSCRIPTION)
        counts, billing = self._metering.shown()
        last = (billing.end - timedelta(microseconds=1)).date()  # inclusive, as documented
        told: dict[str, Any] = {"plan_name": "Starter", "plan_tier": "starter"}
        told |= {"period_start": str(billing.start.date()), "period_end": str(last)}
        for meter in ("events", "users", "segments", "ai_credits"):
            limit = self._metering.quota(meter)
            told[meter] = {"used": counts[meter], "limit": -1 if limit is None else limit}
        return Reply.json(200, told, self._headers())

    def _today(self) -> date:
        return datetime.fromtimestamp(self._metering.wall(), UTC).date()

    # -- words --------------------------------------------------------------------

    def _throttled(self, seconds: int) -> Reply:
        return self._told(429, THROTTLED.format(seconds), (("Retry-After", str(seconds)),))

    def _unfit(self, **faults: str) -> Reply:
        told = {name: [fault] for name, fault in faults.items()}
        return Reply.json(400, told, self._headers())

    def _told(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
        return Reply.json(status, {"detail": message}, (*self._headers(), *headers))

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return (("Date", formatdate(self._metering.wall(), usegmt=True)),)


def _named(told: object, name: str) -> bool:
    said = told.get(name) if isinstance(told, dict) else None
    return isinstance(said, str) and bool(said)


def _page(status: int) -> Reply:
    page = b"<!DOCTYPE html><title>Not Found</title><h1>Not Found</h1>"
    return Reply(status, page, (("Content-Type", "text/html"),))
