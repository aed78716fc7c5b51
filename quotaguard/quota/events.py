"""What happened, as frozen records for listeners.

Counts are units of the meter and durations seconds. No record carries a key, a
URL with a query, a header or a body. Log lines take their name from the class:
``Reserved`` is ``quota.reserved``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

__all__ = [
    "Degraded",
    "Delayed",
    "Drifted",
    "Event",
    "PeriodTurned",
    "PollFailed",
    "Polled",
    "Refused",
    "Released",
    "Reserved",
    "Settled",
    "ThresholdCrossed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event says: the provider's name and the account's digest."""

    provider: str
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved(Event):
    """Units are held for a call that goes now."""

    cost: Mapping[str, float]
    priority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Event):
    """A reservation ended. *unknown*: no answer came, it counts in full for now."""

    cost: Mapping[str, float]
    reserved: Mapping[str, float]
    unknown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Released(Event):
    """A reservation ended without any charge: the call was provably not billed."""

    cost: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delayed(Event):
    """A call goes later, in *delay* seconds at most, holding no units meanwhile."""

    meter: str
    priority: str
    delay: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A call was not sent. *refusal* names the error. *shadow*: it went all the same."""

    refusal: str
    meter: str
    priority: str
    requested: float
    used: float | None
    limit: float | None
    headroom: float | None
    retry_after: float | None
    resets_at: datetime | None
    shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled(Event):
    """A reading was adopted. *used* and *limit* by meter, as the provider says."""

    used: Mapping[str, float]
    limit: Mapping[str, float | None]
    period_end: datetime | None
    next_poll: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PollFailed(Event):
    """A poll failed. *retry_in* is None once polls have stopped."""

    error: str
    reason: str
    failures: int
    retry_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdCrossed(Event):
    """Usage passed a share of the limit (*threshold*), for the first time this period."""

    meter: str
    threshold: float
    used: float
    limit: float
    headroom: float
    resets_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodTurned(Event):
    """A new billing period began; *seen* in a reading, or by the clock."""

    seen: bool
    period_start: datetime | None
    period_end: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted(Event):
    """Somebody else spends too: *drift* units since the first reading of the period."""

    meter: str
    drift: float
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded(Event):
    """The guard works with less than it should: *state* says what, *reason* why."""

    state: str
    reason: str
    meter: str | None = None
