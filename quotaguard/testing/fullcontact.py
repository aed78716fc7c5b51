"""A fake FullContact: it meters truly, and its stats say so late."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from quotaguard.errors import ConfigError
from quotaguard.testing import profiles, spoiling
from quotaguard.testing.server import Fault, Reply, Request
from quotaguard.testing.spoiling import WIRE_FAULTS, Spoil, changed
from quotaguard.testing.spoiling import asked as asked_of
from quotaguard.testing.vendor import FakeVendor, Knobs, Script, turned

__all__ = ["FakeFullContact", "FullContactKnobs"]

STATS = "/v3/stats.get"
ENRICH = {"/v3/person.enrich": "person", "/v3/company.enrich": "company"}
METERS = {
    category: tuple(
        f"{category}.enrichment.{outcome}" for outcome in ("matches", "misses", "total")
    )
    for category in ("person", "company")
}
ASKED_BY = {
    "person": (
        *("email", "emails", "phone", "phones", "profiles", "maid", "maids", "name", "location"),
        *("recordId", "personId", "partnerId", "partnerKeys", "panoramaId", "placekey"),
    ),
    "company": ("domain", "companyName"),
}

STATIC = (("X-Rate-Limit", "600"), ("X-Rate-Limit-Remaining", "10"), ("X-Rate-Limit-Reset", "20"))
# Documented to be constants, kept by the vendor for old clients; they mean nothing.

LONGEST_DELAY = 1.0
# Seconds that the vendor holds a call back; where it needs more it answers 429.

BAD_KEY = "The API Key provided is invalid, or not allowed to use this API."
SPENT = (
    "Usage limits for the provided API Key have been exceeded. "
    "Please try again later or contact support to increase your limits."
)
STATUSES: Mapping[str, tuple[int, str, tuple[tuple[str, str], ...]]] = {
    "500": (500, "Internal Server Error", ()),
    "503": (503, "Service Unavailable", (("Retry-After", "1"),)),
    "429": (429, "Too Many Requests", (("X-FullContact-RateDelay", "1000"),)),
    "403": (403, BAD_KEY, ()),
    "429-quota": (429, SPENT, ()),
    "403-quota": (403, SPENT, ()),
}
CALL_FAULTS = frozenset({*STATUSES, *WIRE_FAULTS})


def _count(told: dict[str, Any], count: float) -> None:
    for category in told["stats"].values():
        category["enrichment"]["matches"]["count"] = count


STATS_FAULTS: Mapping[str, Spoil] = MappingProxyType(
    {
        **spoiling.STATS_FAULTS,
        "null-period": lambda reply, _: changed(reply, lambda told: told.update(period=None)),
        "negative": lambda reply, _: changed(reply, lambda told: _count(told, -5)),
        "nan": lambda reply, _: changed(reply, lambda told: _count(told, float("nan"))),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FullContactKnobs(Knobs):
    """The knobs of the fake FullContact, besides those of every fake (`Knobs`).

    *quota* and *used* are of ``person.enrichment.matches``.

    misses_quota, company_quota: of ``person.enrichment.misses`` and
        ``company.enrichment.matches``, None is unlimited.
    match_rate: the share of people and companies that is found, 0 to 1; who it is
        follows from the seed, `FakeFullContact.knows` tells.
    delayed_rate: the share that is answered with 202 when asked for the first time.
    webhook_delay: seconds by the clock after which a call with ``webhookUrl`` is billed.
    rate_limit: requests per minute; None is unlimited. The server waits, by the
        clock, for up to a second, then answers 429.
    """

    misses_quota: int | None = None
    company_quota: int | None = 1000
    match_rate: float = 0.7
    delayed_rate: float = 0.0
    webhook_delay: float = 1.0
    rate_limit: float | None = None

    def __post_init__(self) -> None:
        # super() without arguments does not work in a slotted dataclass.
        Knobs.__post_init__(self)
        for name in ("match_rate", "delayed_rate"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"{name} is a share from 0 to 1"
                raise ConfigError(msg)
        if self.rate_limit is not None and not self.rate_limit > 0:
            msg = "rate_limit is requests per minute, above 0, or None"
            raise ConfigError(msg)


class FakeFullContact(FakeVendor):
    """A FullContact on loopback: person.enrich, company.enrich and stats.get.

    ::

        with fake("fullcontact", quota=100, lag=60, clock=clock) as vendor:
            guard = Guard(FullContact(api_key="test-key", base_url=vendor.url), clock=clock)
            ...
            assert vendor.true["person.enrichment.matches"] <= vendor.quota

    A call that finds somebody counts as a match, one that finds nobody (404) as a
    miss. Without overage a call is refused (403) once the quota is spent.

    Faults of calls: ``500 503 429 403 429-quota 403-quota`` cost nothing. ``timeout
    reset close garbage truncated slow-drip`` do the work, count it, and spoil the
    answer; with ``-free`` behind they spoil it without. Faults of stats: the same
    ones, and ``html huge gzip redirect null-period negative nan``. A `Reply` or a
    `Fault` of your own goes wherever a name goes.

    Raises:
        ConfigError: there is no such knob or fault, or not that far.
    """

    def __init__(self, **knobs: Any) -> None:  # noqa: ANN401 - checked by FullContactKnobs
        self._turned = turn = turned(FullContactKnobs, knobs)
        matches, misses, total = METERS["person"]
        quotas = {misses: turn.misses_quota, METERS["company"][0]: turn.company_quota}
        meters = (*METERS["person"], "person.subscriptions", *METERS["company"])
        scripts = {
            "calls": Script(turn.faults, CALL_FAULTS),
            "stats": Script(turn.stats_faults, {*CALL_FAULTS, *STATS_FAULTS}),
        }
        super().__init__(turn, turn.rules((matches, total), quotas, meters), scripts)
        self._lock = threading.Lock()
        self._queued: set[str] = set()
        self._slot = 0.0

    statuses = STATUSES
    stats_faults = STATS_FAULTS

    @property
    def polls(self) -> int:
        """How many requests stats.get got."""
        return self.requests[STATS]

    def knows(self, email: str) -> bool:
        """Whether the person with this email is found."""
        draw = profiles.Draw(self._turned.seed, "person", {"email": email})
        return draw.share("match") < self._turned.match_rate

    def _route(self, request: Request) -> Reply | Fault:
        if request.path.startswith("/v1/"):
            return self._told(410, "This version of the API has been retired. Use v3.")
        if request.path != STATS and request.path not in ENRICH:
            return self._told(404, "There is nothing at this path.")
        if request.method != "POST":
            return self._told(405, "Method Not Allowed", (("Allow", "POST"),))
        if request.path == STATS:
            return self._spoiled("stats", request, self._stats)
        return self._spoiled("calls", request, self._enrich)

    def _refused(self, request: Request) -> Reply | float:
        """Return why the call gets no further, or how long it was held back in seconds."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return self._told(401, "An API Key is required. Send it as a bearer token.")
        if key.strip() != self._turned.key:
            return self._told(403, BAD_KEY)
        if self._turned.rate_limit is None:
            return 0.0
        clock = self._turned.clock
        with self._lock:
            now = clock.fast()
            held = max(0.0, self._slot - now)
            if held > LONGEST_DELAY + 1e-6:
                return self._told(*STATUSES["429"])
            self._slot = max(now, self._slot) + 60 / self._turned.rate_limit
        if held:
            clock.wait(self._server.stopping, held)
        return held

    def _enrich(self, request: Request) -> Reply:
        held = self._refused(request)
        if isinstance(held, Reply):
            return held
        category = ENRICH[request.path]
        asked = asked_of(request.body)
        if asked is None:
            return self._told(400, "The request body must be a JSON object.", held=held)
        if not any(asked.get(name) for name in ASKED_BY[category]):
            return self._told(400, "At least one query parameter is required.", held=held)
        draw = profiles.Draw(self._turned.seed, category, asked)
        found = draw.share("match") < self._turned.match_rate
        matches, misses, total = METERS[category]
        charged = (matches if found else misses, total)
        waits = self._put_off(asked, draw, charged, (matches, misses))
        if waits is not None:
            return waits
        if not self._metering.charge(charged, (matches, misses)):
            return self._told(403, SPENT, held=held)
        if not found:
            return self._told(404, "Profile not found", held=held)
        made = profiles.person if category == "person" else profiles.company
        return Reply.json(200, made(draw), self._headers(held))

    def _put_off(
        self,
        asked: Mapping[str, Any],
        draw: profiles.Draw,
        charged: tuple[str, ...],
        gates: tuple[str, ...],
    ) -> Reply | None:
        """Return a 202 for a call with a webhook, or one that has to be searched first."""
        hook = asked.get("webhookUrl")
        late = draw.share("delayed") < self._turned.delayed_rate
        if not hook and not late:
            return None
        if self._metering.full(gates):
            return self._told(403, SPENT)
        if hook:
            self._metering.charge_late(self._turned.webhook_delay, charged, gates)
            told = f"Your response will be sent to your webhook shortly at {hook}."
            return self._told(202, f"Queued for search. {told}")
        with self._lock:
            if draw.name in self._queued:
                return None
            self._queued.add(draw.name)
        return self._told(202, "Queued for search. Please try again later.")

    def _stats(self, request: Request) -> Reply:
        held = self._refused(request)
        if isinstance(held, Reply):
            return held
        asked = asked_of(request.body or b"{}")
        if asked is None:
            return self._told(400, "The request body must be a JSON object.", held=held)
        categories = asked.get("stats") or ["person", "company"]
        if not isinstance(categories, list) or not all(str(each) in METERS for each in categories):
            return self._told(400, "stats is a list of person and company.", held=held)
        counts, billing = self._metering.shown()
        start, end = billing.texts
        long = (billing.end - billing.start).days > 31
        plan = {
            "name": "customer_plan_12345",
            "period": "YEAR" if long else "MONTH",
            "baseCost": 1000,
            "daysRemainingInPeriod": billing.days_left(self._metering.wall()),
        }
        told = {each: self._category(each, counts) for each in METERS if each in categories}
        answer = {"period": {"start": start, "end": end}, "plan": plan, "stats": told}
        return Reply.json(200, answer, self._headers(held))

    def _category(self, category: str, counts: Mapping[str, int]) -> dict[str, Any]:
        matches, misses, total = (self._metric(meter, counts) for meter in METERS[category])
        told: dict[str, Any] = {
            "enrichment": {"matches": matches, "misses": misses, "total": total}
        }
        if category == "person":
            # The documented example has no quota key here, and one for companies.
            told["enrichment"]["total"] = {"count": total["count"]}
            told["subscriptions"] = self._metric("person.subscriptions", counts)
        return told

    def _metric(self, meter: str, counts: Mapping[str, int]) -> dict[str, Any]:
        count, quota = counts[meter], self._metering.quota(meter)
        over = quota is not None and count > quota
        return {"count": count, "quota": quota, "overQuota": over}

    def _told(
        self,
        status: int,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        held: float = 0.0,
    ) -> Reply:
        usual = self._headers(held)
        given = {name for name, _ in headers}
        kept = tuple(each for each in usual if each[0] not in given)
        return Reply.json(status, {"status": status, "message": message}, (*kept, *headers))

    def _headers(self, held: float) -> tuple[tuple[str, str], ...]:
        return (("X-FullContact-RateDelay", str(round(held * 1000))), *STATIC)
