"""The answer to a call that was not sent, for code that only knows HTTP."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quotaguard.errors import CostTooLarge, QuotaExhausted

if TYPE_CHECKING:
    from quotaguard.errors import Refusal

__all__ = ["TurnedAway", "turned_away"]


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """The answer to a call that was not sent, for code that only knows HTTP."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def turned_away(refusal: Refusal, wall: float) -> TurnedAway:
    """Return a 429 that says what *refusal* says; *wall*: Unix time now, in seconds.

    Its fields are those of draft-ietf-httpapi-ratelimit-headers (RateLimit,
    RateLimit-Policy), its body is that of RFC 9457, problem details. ``Retry-After`` is
    there only where it is known when the call may go.
    """
    seconds = _again(refusal, wall)
    meter = _quoted(refusal.meter)
    until = "" if seconds is None else f";t={seconds}"
    headers = [("Content-Type", "application/problem+json"), ("RateLimit", f"{meter};r=0{until}")]
    if refusal.limit is not None:
        headers.append(("RateLimit-Policy", f"{meter};q={math.floor(refusal.limit)}"))
    if seconds is not None:
        headers.append(("Retry-After", str(seconds)))
    return TurnedAway(429, tuple(headers), json.dumps(_problem(refusal)).encode())


def _again(refusal: Refusal, wall: float) -> int | None:
    if refusal.retry_after is not None:
        return max(0, math.ceil(refusal.retry_after))
    # A new period helps those who found this one spent, not those whom none can hold.
    if refusal.resets_at is None or isinstance(refusal, CostTooLarge):
        return None
    return max(0, math.ceil(refusal.resets_at.timestamp() - wall))


def _quoted(name: str) -> str:
    """Return *name* as a string of RFC 9651, in which only plain ASCII can stand."""
    plain = "".join(mark if " " <= mark <= "~" else "?" for mark in name)
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _problem(refusal: Refusal) -> dict[str, Any]:
    exhausted = isinstance(refusal, QuotaExhausted)
    resets_at = refusal.resets_at
    return {
        # The one of these kinds that the draft registers.
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded"
        if exhausted
        else "about:blank",
        "title": "The quota is exhausted" if exhausted else "Too Many Requests",
        "status": 429,
        "detail": str(refusal),
        "violated-policies": [refusal.meter],
        "refusal": type(refusal).__name__,
        "provider": refusal.provider,
        "meter": refusal.meter,
        "requested": refusal.requested,
        "used": refusal.used,
        "limit": refusal.limit,
        "headroom": refusal.headroom,
        "retry_after": refusal.retry_after,
        "resets_at": None if resets_at is None else resets_at.isoformat(),
    }
