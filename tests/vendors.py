"""The vendors that hostile replies, fuzz and the trial are tried on: one row each.

A row says how to make the provider and its fake, one call that costs a unit of the main
meter, and what a good stats answer looks like. A new vendor is a new row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import postcodes

from quotaguard import FullContact
from quotaguard.providers import Provider
from quotaguard.testing import fake
from quotaguard.testing.vendor import FakeVendor

__all__ = ["KEY", "VENDORS", "Vendor"]

KEY = "canary-key-b81d"
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
        does not tell. rises: more of *used* than the answer says in one place.
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
    period_at: tuple[Place, Place] | None
    trial: Mapping[str, Any] = field(default_factory=dict)

    def provider(self, base_url: str) -> Provider:
        """Return a provider of our key."""
        return self.make(base_url, KEY)

    def __str__(self) -> str:
        return self.name


def recorded(name: str) -> Any:
    """Return the JSON of a recorded answer."""
    return json.loads((RECORDED / f"{name}.json").read_text("utf-8"))["response"]["json"]


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
    trial={
        "stats": [postcodes.answer(120, 1000), postcodes.answer(7, None)],
        "calls": [("POST", "/v1/lookup", {"codes": ["A", "B"]}, [{"found": 2}, 404, 429])],
        "reports": {"usage": [postcodes.answer(120, 1000)]},
        "unlimited": (None, ...),
    },
)

VENDORS: tuple[Vendor, ...] = (FULLCONTACT, POSTCODES)
