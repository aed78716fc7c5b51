"""The vendors that hostile replies, fuzz and the trial are tried on: one row each.

A row says how to make the provider and its fake, one call that costs a unit of the main
meter, and what a good stats answer looks like. A new vendor is a new row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import postcodes

from quotaguard import FullContact, Octanist, SegOps, Voxys
from quotaguard.providers import Provider
from quotaguard.testing import fake
from quotaguard.testing.vendor import FakeVendor

__all__ = ["KEY", "VENDORS", "Vendor"]

KEY = "canary-key-b81d"
DAY = timedelta(days=1)
RECORDED = Path(__file__).parent / "providers" / "recorded"

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """One vendor.

    make: the provider, of a base URL and a key; with ``account=``.
    fake: the fake, of its knobs. meter: the one that *quota* of the fake is of.
    call: method, path, headers and JSON of a call that costs one unit of it.
    answer: a good stats answer with these numbers (used, limit), as JSON, of November
        2023. used_at, limit_at, period_at: where they stand in it; None where the vendor
        does not tell.
    dates: how the vendor writes a period that is told by its first day and the one after
        its last.
    trial: what `check_provider` is told besides.
    """

    name: str
    make: Callable[..., Provider]
    fake: Callable[..., FakeVendor]
    meter: str
    call: tuple[str, str, Mapping[str, str], Any]
    answer: Callable[[int, int | None], Any]
    used_at: Place
    limit_at: Place | None
    period_at: tuple[Place, Place]
    dates: Callable[[date, date], tuple[str, str]]
    trial: Mapping[str, Any] = field(default_factory=dict)

    def provider(self, base_url: str) -> Provider:
        """Return a provider of our key."""
        return self.make(base_url, KEY)

    def __str__(self) -> str:
        return self.name


def recorded(name: str) -> Any:
    """Return the JSON of a recorded answer."""
    return json.loads((RECORDED / f"{name}.json").read_text("utf-8"))["response"]["json"]


def _all(name: str, endings: str) -> list[str]:
    return [f"{name}_{ending}" for ending in endings.split()]


def exclusive(first: date, after: date) -> tuple[str, str]:
    """Write a period by its first instant and the first one of the next."""
    return f"{first}T00:00:00Z", f"{after}T00:00:00Z"


def inclusive(first: date, after: date) -> tuple[str, str]:
    """Write a period by its first and last day."""
    return str(first), str(after - DAY)


def to_the_millisecond(first: date, after: date) -> tuple[str, str]:
    """Write a period by its first and last millisecond."""
    return f"{first}T00:00:00.000Z", f"{after - DAY}T23:59:59.999Z"


# -- FullContact ------------------------------------------------------------------


def _fullcontact(used: int, limit: int | None) -> Any:
    metric = {"count": used, "quota": limit, "overQuota": limit is not None and used > limit}
    free = {"count": used, "quota": None, "overQuota": False}
    return {
        "period": {"start": "2023-11-01T00:00:00Z", "end": "2023-12-01T00:00:00Z"},
        "plan": {"name": "plan", "period": "MONTH", "baseCost": 1000, "daysRemainingInPeriod": 16},
        "stats": {
            "person": {
                "enrichment": {"matches": metric, "misses": free, "total": free},
                "subscriptions": free,
            }
        },
    }


FULLCONTACT = Vendor(
    name="fullcontact",
    make=lambda base_url, key, account=None: FullContact(key, base_url=base_url, account=account),
    fake=lambda **knobs: fake("fullcontact", **{"match_rate": 1.0, **knobs}),
    meter="person.enrichment.matches",
    call=(
        "POST",
        "/v3/person.enrich",
        {"Authorization": f"Bearer {KEY}"},
        {"email": "ann@example.com"},
    ),
    answer=_fullcontact,
    used_at=("stats", "person", "enrichment", "matches", "count"),
    limit_at=("stats", "person", "enrichment", "matches", "quota"),
    period_at=(("period", "start"), ("period", "end")),
    dates=exclusive,
    trial={
        "stats": [
            recorded("fullcontact_stats_documented"),
            recorded("fullcontact_stats_at_limit"),
            recorded("fullcontact_stats_unlimited"),
        ],
        "calls": [
            (
                "POST",
                "/v3/person.enrich",
                {"email": "ann@example.com"},
                [recorded("fullcontact_enrich_200"), 202, 404, 503],
            ),
            ("POST", "/v3/company.enrich", {"domain": "example.com"}, [200, 404]),
        ],
        "reports": {"stats": [recorded("fullcontact_stats_documented")]},
        "unlimited": (None, ...),
    },
)

# -- a vendor that somebody else has taught the guard -------------------------------

POSTCODES = Vendor(
    name="postcodes",
    make=lambda base_url, key, account=None: postcodes.Postcodes(
        key, base_url=base_url, account=account
    ),
    fake=postcodes.FakePostcodes,
    meter="lookups",
    call=("POST", "/v1/lookup", {"X-Api-Key": KEY}, {"codes": ["T12"]}),
    answer=postcodes.answer,
    used_at=("used",),
    limit_at=("limit",),
    period_at=(("from",), ("until",)),
    dates=exclusive,
    trial={
        "stats": [postcodes.answer(120, 1000), postcodes.answer(7, None)],
        "calls": [("POST", "/v1/lookup", {"codes": ["A", "B"]}, [{"found": 2}, 404, 429])],
        "reports": {"usage": [postcodes.answer(120, 1000)]},
        "unlimited": (None, ...),
    },
)

# -- Octanist ----------------------------------------------------------------------


def _octanist(used: int, limit: int | None) -> Any:
    said = recorded("octanist_stats_documented")
    usage = {"leadsUsed": used, "leadsLimit": limit, "lockedLeads": 0}
    start, end = to_the_millisecond(date(2023, 11, 1), date(2023, 12, 1))
    said["data"]["usage"] = {**usage, "periodStart": start, "periodEnd": end}
    return said


OCTANIST = Vendor(
    name="octanist",
    make=lambda base_url, key, account=None: Octanist(key, base_url=base_url, account=account),
    fake=lambda **knobs: fake("octanist", **knobs),
    meter="leads",
    call=("POST", "/api/leads", {"X-API-KEY": KEY}, {"name": "Ann", "email": "ann@example.com"}),
    answer=_octanist,
    used_at=("data", "usage", "leadsUsed"),
    limit_at=("data", "usage", "leadsLimit"),
    period_at=(("data", "usage", "periodStart"), ("data", "usage", "periodEnd")),
    dates=to_the_millisecond,
    trial={
        "stats": [
            _octanist(120, 1000),
            *map(recorded, _all("octanist_stats", "documented locked")),
        ],
        "calls": [
            (
                "POST",
                "/api/leads",
                {"name": "Ann", "email": "ann@example.com"},
                [recorded("octanist_create_200"), 201, 400, 403, 409, 429],
            ),
        ],
        "reports": {
            "stats": [
                *map(recorded, _all("octanist_stats", "documented previous custom_empty locked"))
            ]
        },
    },
)

# -- Voxys -------------------------------------------------------------------------


def _voxys(used: int, _limit: int | None = None) -> Any:
    said = recorded("voxys_analytics_documented")
    since, until = inclusive(date(2023, 11, 1), date(2023, 12, 1))
    return {**said, "period": {"since": since, "until": until}, "total_created": used}


VOXYS = Vendor(
    name="voxys",
    make=lambda base_url, key, account=None: Voxys(
        key, 7, 3, limits={"deals.created": 1000}, base_url=base_url, account=account
    ),
    fake=lambda **knobs: fake("voxys", **knobs),
    meter="deals.created",
    call=(
        "POST",
        "/api/v1/accounts/7/leads/9/convert",
        {"api_access_token": KEY},
        {"funnel_id": 3, "funnel_stage_id": 7},
    ),
    answer=_voxys,
    used_at=("total_created",),
    limit_at=None,  # the user sets it: 1000
    period_at=(("period", "since"), ("period", "until")),
    dates=inclusive,
    trial={
        "stats": [_voxys(120), _voxys(0)],
        "calls": [
            (
                "POST",
                "/api/v1/accounts/7/leads/9/convert",
                {"funnel_id": 3, "funnel_stage_id": 7},
                [recorded("voxys_convert_200"), 402, 404, 422, 429],
            ),
        ],
        # Keys are people's; whose bill it is, the numbers of the account and funnel say.
        "but": ("keys",),
        "reports": {
            "analytics": [*map(recorded, _all("voxys_analytics", "documented grouped empty"))]
        },
    },
)

# -- SegOps ------------------------------------------------------------------------


def _segops(used: int, limit: int | None) -> Any:
    said = recorded("segops_usage_documented")
    start, end = inclusive(date(2023, 11, 1), date(2023, 12, 1))
    events = {"used": used, "limit": -1 if limit is None else limit}
    return {**said, "period_start": start, "period_end": end, "events": events}


SEGOPS = Vendor(
    name="segops",
    make=lambda base_url, key, account=None: SegOps(key, base_url=base_url, account=account),
    fake=lambda **knobs: fake("segops", **knobs),
    meter="events",
    call=(
        "POST",
        "/api/ingestion/track/",
        {"Authorization": f"ApiKey {KEY}"},
        {"user_id": "u1", "event_type": "page_viewed"},
    ),
    answer=_segops,
    used_at=("events", "used"),
    limit_at=("events", "limit"),
    period_at=(("period_start",), ("period_end",)),
    dates=inclusive,
    trial={
        "stats": [
            _segops(120, 1000),
            *map(recorded, _all("segops_usage", "documented at_limit unlimited")),
        ],
        "calls": [
            (
                "POST",
                "/api/ingestion/track/",
                {"user_id": "u1", "event_type": "page_viewed"},
                [(202, {}, b'{"queued": true}'), 400, 404, 429],
            ),
            (
                "POST",
                "/api/ingestion/track/batch/",
                {"events": [{"user_id": "u1", "event_type": "page_viewed"}] * 3},
                [(202, {}, b'{"queued": 2, "skipped": 1}'), 400, 429],
            ),
            ("POST", "/api/segments/", {"name": "all"}, [201, 400, 429]),
        ],
        "reports": {
            name: [recorded(f"segops_{name}_documented")]
            for name in ("overview", "segments", "overlap", "activations", "copilot", "usage")
        },
        "unlimited": (-1,),
        # What a batch queued is counted, also where that is more than was in it, and told.
        "but": ("most",),
    },
)

VENDORS: tuple[Vendor, ...] = (FULLCONTACT, OCTANIST, VOXYS, SEGOPS, POSTCODES)
