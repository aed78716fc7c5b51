"""Made-up analytics of a customer data platform, the same ones for the same seed and day."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

__all__ = ["MadeSegment", "activations", "copilot", "overlap", "segments"]

NAMES = ("High LTV Buyers", "Email Subscribers", "Trial Users", "Dormant", "Cart Abandoners")
CONNECTORS = ("klaviyo", "meta_ads", "google_ads", "hubspot")
DAYS = 30
TOP = 20  # pairs of segments; documented


@dataclass(frozen=True, slots=True)
class MadeSegment:
    """A segment. age: whole days since it was made; None is older than anybody asks."""

    id: int
    name: str
    age: int | None = None

    @classmethod
    def old(cls, number: int) -> MadeSegment:
        """Return one that was there before the fake."""
        return cls(number, f"{NAMES[number % len(NAMES)]} {number}")

    @property
    def computed(self) -> bool:
        """Whether its members have been computed: the first time is a day after."""
        return self.age is None or self.age >= 1

    def members(self, seed: int) -> int:
        """Return how many it has."""
        return _chance(seed, "members", self.id).randrange(100, 5000) if self.computed else 0


def _chance(seed: int, *about: object) -> random.Random:
    return random.Random(f"{seed} {about}")  # noqa: S311 - not for secrets


def segments(made: list[MadeSegment], seed: int, today: date) -> list[dict[str, Any]]:
    """Return what ``/analytics/segments/`` tells."""
    return [
        {
            "id": one.id,
            "name": one.name,
            "member_count": one.members(seed),
            "last_computed_at": f"{today}T00:00:00Z" if one.computed else None,
            "trend": _trend(one, seed, today),
        }
        for one in made
    ]


def _trend(one: MadeSegment, seed: int, today: date) -> list[dict[str, Any]]:
    if one.age is not None and one.age < 2:
        return []
    days = DAYS if one.age is None else min(DAYS, one.age)
    members = one.members(seed)
    return [
        {"day": str(today - timedelta(ago)), "count": max(0, members - 17 * ago)}
        for ago in reversed(range(days))
    ]


def overlap(made: list[MadeSegment], seed: int) -> list[dict[str, Any]]:
    """Return what ``/analytics/overlap/`` tells: the largest overlaps first."""
    pairs: list[dict[str, Any]] = []
    for one, other in itertools.combinations(made, 2):
        smaller = min(one.members(seed), other.members(seed))
        shared = int(smaller * _chance(seed, "overlap", one.id, other.id).random() * 0.8)
        if shared:
            told: dict[str, Any] = {"seg_a_id": one.id, "seg_a_name": one.name}
            told |= {"seg_b_id": other.id, "seg_b_name": other.name, "overlap": shared}
            pairs.append({**told, "overlap_pct": round(shared / smaller * 100, 1)})
    return sorted(pairs, key=lambda pair: -pair["overlap"])[:TOP]


def activations(made: list[MadeSegment], seed: int, today: date) -> list[dict[str, Any]]:
    """Return what ``/analytics/activations/`` tells; every third one never ran."""
    return [_activation(one, seed, today) for one in made if one.computed]


def _activation(one: MadeSegment, seed: int, today: date) -> dict[str, Any]:
    chance = _chance(seed, "activation", one.id)
    ran, failed = one.id % 3 != 0, chance.random() < 0.3
    members = one.members(seed)
    logs = [_log(members, today - timedelta(ago), failed=failed and ago == 0) for ago in range(5)]
    return {
        "id": 100 + one.id,
        "segment_id": one.id,
        "segment_name": one.name,
        "connector_type": chance.choice(CONNECTORS),
        "status": "active" if ran else "paused",
        "last_synced_at": logs[0]["synced_at"] if ran else None,
        "last_error": logs[0]["error_message"] if ran else "",
        "member_count": members,
        "success_rate": (97 if failed else 100) if ran else None,
        "sync_logs": logs if ran else [],
    }


def _log(members: int, day: date, *, failed: bool) -> dict[str, Any]:
    return {
        "status": "error" if failed else "success",
        "user_count": 0 if failed else members,
        "error_message": "The connector did not answer." if failed else "",
        "synced_at": f"{day}T06:00:00Z",
    }


def copilot(seed: int, today: date) -> dict[str, Any]:
    """Return what ``/analytics/copilot/`` tells; days without a request are left out."""
    daily: list[dict[str, Any]] = []
    for ago in reversed(range(DAYS)):
        chance = _chance(seed, "copilot", today - timedelta(ago))
        success, error = max(0, chance.randrange(-4, 12)), chance.randrange(2)
        if success:
            day = str(today - timedelta(ago))
            daily.append({"day": day, "success": success, "error": error})
    return {"total": sum(day["success"] + day["error"] for day in daily), "daily": daily}
