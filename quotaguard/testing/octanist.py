"""A fake Octanist: it stores every lead, locks those past the plan, and tells it late."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from quotaguard.errors import ConfigError
from quotaguard.testing import profiles, spoiling
from quotaguard.testing.server import Fault, Reply, Request
from quotaguard.testing.spoiling import WIRE_FAULTS, Spoil, asked, changed
from quotaguard.testing.vendor import FakeVendor, Knobs, Script, turned

__all__ = ["FakeOctanist", "OctanistKnobs"]

LEADS = "/api/leads"
STATS = "/api/stats"
CHECK = "/api/check"

METER = "leads"
SOURCES = {"api": (METER, "leads.api"), "gtm": (METER, "leads.gtm")}
# What each source charges; others come from the vendor's tag in Google Tag Manager,
# which in the documented example brings most of the leads.

NAMED_BY = ("name", "email", "phone", "custom")
FOUND_BY = ("id", "email", "phone")
CHANGED_TO = ("qualified", "won", "lost")

DOCUMENTED = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    500: "INTERNAL_ERROR",
}
# Of other statuses no code is documented: they are given their HTTP names.

STATUSES: Mapping[str, tuple[int, str, tuple[tuple[str, str], ...]]] = {
    "400": (400, "Invalid request body", ()),
    "401": (401, "Missing or invalid API key", ()),
    "403": (403, "Lead rejected by filtering rules", ()),
    "404": (404, "Resource not found", ()),
    "409": (409, "The lead exists already", ()),
    "429": (429, "Too many requests", (("Retry-After", "2"),)),
    "500": (500, "Internal server error", ()),
    "503": (503, "Service unavailable", (("Retry-After", "1"),)),
}
CALL_FAULTS = frozenset({*STATUSES, *WIRE_FAULTS})


def _usage(reply: Reply, **said: object) -> Reply:
    return changed(reply, lambda told: told["data"]["usage"].update(said))


def _unsuccessful(reply: Reply, _url: str) -> Reply:
    error = {"code": "INTERNAL_ERROR", "message": "Something went wrong", "details": {}}
    return changed(reply, lambda told: told.update(success=False, error=error))


STATS_FAULTS: Mapping[str, Spoil] = MappingProxyType(
    {
        **spoiling.STATS_FAULTS,
        "unsuccessful": _unsuccessful,
        "null-period": lambda reply, _: _usage(reply, periodStart=None, periodEnd=None),
        "null-end": lambda reply, _: _usage(reply, periodEnd=None),
        "null-limit": lambda reply, _: _usage(reply, leadsLimit=None),
        "negative": lambda reply, _: _usage(reply, leadsUsed=-5),
        "nan": lambda reply, _: _usage(reply, leadsUsed=float("nan")),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OctanistKnobs(Knobs):
    """The knobs of the fake Octanist, besides those of every fake (`Knobs`).

    *quota*, *used* and other consumers are of ``leads``. None is refused when the quota
    is spent: *overage* True leaves those past it unlocked, False locks them.

    reject_rate: the share of leads that the account's filter rejects, 0 to 1; which
        follows from the seed. reject: a filter of your own, which gets the lead.
    refuse_duplicates: True answers 409 to a lead whose email or phone is stored already.
    subscribed: False tells no period, as without an active subscription.
    """

    reject_rate: float = 0.0
    reject: Callable[[Mapping[str, Any]], bool] | None = None
    refuse_duplicates: bool = False
    subscribed: bool = True

    def __post_init__(self) -> None:
        # super() without arguments does not work in a slotted dataclass.
        Knobs.__post_init__(self)
        if not 0 <= self.reject_rate <= 1:
            msg = "reject_rate is a share from 0 to 1"
            raise ConfigError(msg)


@dataclass(slots=True)
class Span:
    """What a stats answer is about: instants of its ends, counts by meter, the end exclusive."""

    start: datetime
    end: datetime
    counts: Mapping[str, int]


class FakeOctanist(FakeVendor):
    """An Octanist on loopback: leads are created, updated and listed, keys checked, stats told.

    ::

        with fake("octanist", quota=500, lag=60, clock=clock) as vendor:
            guard = Guard(Octanist(api_key="test-key", base_url=vendor.url), clock=clock)
            ...
            assert vendor.true["leads"] <= vendor.quota

    It never refuses for the quota's sake: leads past it are stored and locked, which
    only the stats tell. In `true` and `shown` stand ``leads``, and which of them came by
    the API (``leads.api``) and from others (``leads.gtm``).

    Stats of the previous period and of custom dates tell all that was charged in it and
    on them, without lag; what was used before the start belongs to no date.

    Faults of calls: ``400 401 403 404 409 429 500 503`` cost nothing. ``timeout reset
    close garbage truncated slow-drip`` do the work, count it, and spoil the answer; with
    ``-free`` behind they spoil it without. Faults of stats: the same ones, and ``html
    huge gzip redirect unsuccessful null-period null-end null-limit negative nan``. A
    `Reply` or a `Fault` of your own goes wherever a name goes.

    Raises:
        ConfigError: there is no such knob or fault, or not that far.
    """

    def __init__(self, **knobs: Any) -> None:  # noqa: ANN401 - checked by OctanistKnobs
        self._turned = turn = turned(OctanistKnobs, knobs)
        scripts = {
            "calls": Script(turn.faults, CALL_FAULTS),
            "stats": Script(turn.stats_faults, {*CALL_FAULTS, *STATS_FAULTS}),
        }
        rules = turn.rules(SOURCES["gtm"], {}, (METER, "leads.api", "leads.gtm"))
        super().__init__(turn, replace(rules, hard=False), scripts)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._leads: list[dict[str, Any]] = []
        self._subscribed = turn.subscribed

    statuses = STATUSES
    stats_faults = STATS_FAULTS

    @property
    def polls(self) -> int:
        """How many requests the stats endpoint got, reports included."""
        return self.requests[STATS]

    @property
    def locked(self) -> int:
        """How many leads of this period are stored past the quota, and locked."""
        return self._locked(self.true)

    def subscribe(self, *, active: bool = True) -> None:
        """Begin a subscription, or end it."""
        self._subscribed = active

    def _locked(self, counts: Mapping[str, int]) -> int:
        quota = self.quota
        return 0 if quota is None or self._turned.overage else max(0, counts[METER] - quota)

    def _route(self, request: Request) -> Reply | Fault:
        verbs = {
            LEADS: {"POST": self._create, "PATCH": self._update, "GET": self._list},
            STATS: {"POST": self._stats},
            CHECK: {"POST": self._check},
        }.get(request.path.removesuffix("/"))
        if verbs is None:
            return self._told(404, "Resource not found")
        answer = verbs.get(request.method)
        if answer is None:
            return self._told(405, "Method not allowed", (("Allow", ", ".join(verbs)),))
        # What costs nothing does not use up a script.
        script = {self._create: "calls", self._stats: "stats"}.get(answer)
        return answer(request) if script is None else self._spoiled(script, request, answer)

    def _refused(self, request: Request) -> Reply | None:
        if request.headers.get("x-api-key", "").strip() == self._turned.key:
            return None
        return self._told(401, "Missing or invalid API key")

    # -- leads --------------------------------------------------------------------

    def _create(self, request: Request) -> Reply:
        lead, refused = asked(request.body), self._refused(request)
        if refused is not None:
            return refused
        if lead is None or not any(lead.get(name) for name in NAMED_BY):
            return self._told(400, "At least one of name, email, phone, custom is required")
        draw = profiles.Draw(self._turned.seed, "lead", lead)
        by_rule = self._turned.reject is not None and self._turned.reject(lead)
        if by_rule or draw.share("reject") < self._turned.reject_rate:
            return self._told(*STATUSES["403"])
        with self._lock:
            if self._turned.refuse_duplicates and self._found(lead, FOUND_BY[1:]):
                return self._told(*STATUSES["409"])
            self._metering.charge(SOURCES["api"])
            now = self._wall()
            kept = {name: lead[name] for name in ("name", "email", "phone") if lead.get(name)}
            stored = {"id": f"lead_{self._code('lead')}", **kept, "status": "open", "value": 0}
            self._leads.append({**stored, "source": "api", "createdAt": now})
        return self._answered({"id": stored["id"], "message": "Lead added"})

    def _found(self, asked_for: Mapping[str, Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the leads that share the first of *names* that is asked for and known."""
        for name in names:
            wanted = asked_for.get(name)
            found = [lead for lead in self._leads if wanted and lead.get(name) == wanted]
            if found:
                return found
        return []

    def _update(self, request: Request) -> Reply:
        change, refused = asked(request.body), self._refused(request)
        if refused is not None:
            return refused
        if change is None or not any(change.get(name) for name in FOUND_BY):
            return self._told(400, "At least one of id, email, phone is required")
        status = change.get("status", change.get("changedTo"))
        if status is not None and status not in CHANGED_TO:
            return self._told(400, f"status is one of {', '.join(CHANGED_TO)}")
        try:
            value = float(change.get("value") or 0)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            return self._told(400, "value is a number")
        with self._lock:
            found = self._found(change, FOUND_BY)
            if len(found) > 1:
                return self._told(409, "Several leads match, and bulk updates are off")
            for lead in found:
                lead.update(status=status or lead["status"], value=value or lead["value"])
        if not found:
            return self._told(404, "Lead not found")
        told = {"leadId": found[0]["id"], "leadsUpdated": 1}
        return self._answered({**told, "message": "Lead updated successfully"})

    def _list(self, request: Request) -> Reply:
        refused = self._refused(request)
        if refused is not None:
            return refused
        query = dict(parse_qsl(request.query))
        status = query.get("status")
        if status is not None and status not in ("open", *CHANGED_TO):
            return self._told(400, "status is no status of a lead", code="INVALID_FILTER")
        limit, page = query.get("limit", "50"), query.get("page", "1")
        if not (re.fullmatch(r"[1-9]\d?|100", limit) and re.fullmatch(r"[1-9]\d{0,5}", page)):
            return self._told(400, "limit is 1 to 100, page is 1 or more")
        size, number = int(limit), int(page)
        with self._lock:
            leads = [dict(each) for each in self._leads if status in (None, each["status"])]
        shown = leads[(number - 1) * size : number * size]
        told = [{**each, "createdAt": _written(each["createdAt"])} for each in shown]
        pages = -(-len(leads) // size)
        pagination = {"limit": size, "page": number, "totalPages": pages, "total": len(leads)}
        more = {"pagination": {**pagination, "hasMore": number < pages}}
        return self._answered(told, **more)

    def _check(self, request: Request) -> Reply:
        return self._refused(request) or Reply.json(200, {"success": True}, self._date())

    # -- stats --------------------------------------------------------------------

    def _stats(self, request: Request) -> Reply:
        refused = self._refused(request)
        if refused is not None:
            return refused
        told = asked(request.body)
        period = "" if told is None else told.get("period", "current")
        if told is None or period not in ("current", "previous", "custom"):
            return self._told(400, "Invalid request body")
        dates = [told.get(name) for name in ("startDate", "endDate")]
        days = [_day(said) for said in dates if said is not None]
        if None in days:
            return self._told(400, "Use YYYY-MM-DD", code="INVALID_DATE")
        if period == "custom" and None in dates:
            return self._told(400, "startDate and endDate are required for a custom period")
        if period != "custom":
            return self._summed(self._billed(period))
        first, last = (day for day in days if day is not None)
        if last < first:
            return self._told(400, "endDate is before startDate")
        ends = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, last)]
        counts = self._metering.between(first, last)
        return self._summed(Span(ends[0], ends[1] + timedelta(days=1), counts))

    def _billed(self, period: str) -> Span:
        counts, billing = self._metering.shown()
        if period == "previous":
            past, billing = self._metering.past(), billing.previous()
            counts = dict(past[-1]) if past else dict.fromkeys(counts, 0)
        return Span(billing.start, billing.end, counts)

    def _summed(self, span: Span) -> Reply:
        total, quota = span.counts[METER], self.quota
        with self._lock:
            ours = [each for each in self._leads if span.start <= each["createdAt"] < span.end]
            by = Counter(each["status"] for each in ours)
            value = sum(each["value"] for each in ours if each["status"] == "won")
        won, qualified = by["won"], by["won"] + by["qualified"]
        moved = {name: by[name] for name in CHANGED_TO}
        last = span.end - timedelta(milliseconds=1)
        usage = {
            "leadsUsed": total,
            "leadsLimit": quota,
            "lockedLeads": self._locked(span.counts),
            "periodStart": _written(span.start) if self._subscribed else None,
            "periodEnd": _written(last) if self._subscribed else None,
        }
        leads = {
            "total": total,
            "byStatus": {"open": max(0, total - sum(moved.values())), **moved},
            "bySource": {name: span.counts[f"leads.{name}"] for name in ("gtm", "api")},
        }
        conversion = {
            "qualified": qualified,
            "qualificationRate": qualified / total if total else 0,
            "winRate": won / qualified if qualified else 0,
            "averageValue": value / won if won else 0,
            "totalValue": value,
        }
        return self._answered({"usage": usage, "leads": leads, "conversion": conversion})

    # -- answers ------------------------------------------------------------------

    def _told(
        self,
        status: int,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        code: str | None = None,
    ) -> Reply:
        if status < 300:
            return self._answered({"message": message})
        name = code or DOCUMENTED.get(status) or HTTPStatus(status).name
        error = {"code": name, "message": message, "details": {}}
        told = {"success": False, "error": error, "meta": self._meta()}
        return Reply.json(status, told, (*self._date(), *headers))

    def _answered(self, data: object, **meta: object) -> Reply:
        told = {"success": True, "data": data, "meta": {**meta, **self._meta()}}
        return Reply.json(200, told, self._date())

    def _meta(self) -> dict[str, str]:
        return {"requestId": f"req_{self._code('req')}", "timestamp": _written(self._wall())}

    def _code(self, kind: str) -> str:
        """Return twelve digits that no other answer has; the same for the same seed."""
        made = f"{self._turned.seed} {kind} {next(self._numbers)}".encode()
        return hashlib.blake2b(made, digest_size=6).hexdigest()

    def _wall(self) -> datetime:
        return datetime.fromtimestamp(self._metering.wall(), UTC)

    def _date(self) -> tuple[tuple[str, str], ...]:
        return (("Date", formatdate(self._metering.wall(), usegmt=True)),)


def _written(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


def _day(said: object) -> date | None:
    if not isinstance(said, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", said):
        return None
    try:
        return date.fromisoformat(said)
    except ValueError:
        return None
