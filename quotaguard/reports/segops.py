"""SegOps' analytics: overview, segments, overlap, activations, copilot, usage.

Source: SegOps' page on its analytics API (seed). Lists keep the order of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from quotaguard.quota.fields import Fields, every

__all__ = [
    "Activation",
    "Allowance",
    "Copilot",
    "CopilotDay",
    "MembershipDay",
    "Overlap",
    "Overview",
    "Segment",
    "SyncLog",
    "UsageNow",
    "activations",
    "copilot",
    "limit",
    "overlap",
    "overview",
    "segments",
    "usage",
]

UNLIMITED = -1
"""The one negative limit that is documented; others are no limits."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The platform in five numbers.

    segment_count: segments. total_members: members of all segments. events_30d: events
    of the last 30 days. ai_credits_used, ai_credits_limit: credits; a limit of None is
    unlimited, 0 is nothing included.
    """

    segment_count: int
    total_members: int
    events_30d: int
    ai_credits_used: int
    ai_credits_limit: int | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MembershipDay:
    """How many members a segment had on one day."""

    day: date
    count: int
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """An active segment.

    last_computed_at: None where it was never computed. trend: its members by day, of
    the last 30 days; empty where it was never computed, or less than 2 days ago.
    """

    id: int
    name: str
    member_count: int
    last_computed_at: datetime | None
    trend: tuple[MembershipDay, ...]
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two segments that share members.

    overlap: members in both. overlap_pct: percent, 0 to 100, of the smaller segment.
    """

    seg_a_id: int
    seg_a_name: str
    seg_b_id: int
    seg_b_name: str
    overlap: int
    overlap_pct: float
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SyncLog:
    """One synchronisation. user_count: users. error_message: "" where it went well."""

    status: str
    user_count: int
    error_message: str
    synced_at: datetime
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Activation:
    """A segment that is sent to a connector.

    last_synced_at: None where it never was. last_error: "" where there was none.
    success_rate: percent, 0 to 100, of the last 30 synchronisations; None where there
    were none. sync_logs: the 5 most recent ones.
    """

    id: int
    segment_id: int
    segment_name: str
    connector_type: str
    status: str
    last_synced_at: datetime | None
    last_error: str
    member_count: int
    success_rate: float | None
    sync_logs: tuple[SyncLog, ...]
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CopilotDay:
    """Requests to the copilot on one day: those that went well, and those that did not."""

    day: date
    success: int
    error: int
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Copilot:
    """Use of the copilot.

    total: requests. daily: the last 30 days; a day without any is left out.
    """

    total: int
    daily: tuple[CopilotDay, ...]
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Allowance:
    """Used and limit of one metric, in its units; None is unlimited, 0 nothing included."""

    used: int
    limit: int | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class UsageNow:
    """The current billing period against the plan.

    period_start, period_end: its first and its last day, both inclusive, in a time zone
    that SegOps does not name.
    """

    plan_name: str
    plan_tier: str
    period_start: date
    period_end: date
    events: Allowance
    users: Allowance
    segments: Allowance
    ai_credits: Allowance
    extra: Mapping[str, Any]


def limit(parent: Fields, name: str) -> int | None:
    """Return a limit: None where it is -1, unlimited.

    Raises:
        Unfit: it is missing, null, another negative or no whole number.
    """
    said = parent.take(name)
    if type(said) in (int, float) and said == UNLIMITED:
        return None
    return parent.whole(name)


def overview(said: object) -> Overview:
    """Return the record of ``/analytics/overview/``.

    Raises:
        Unfit: a documented field is missing or of another kind; so do all readers here.
    """
    top = Fields(said)
    return Overview(
        segment_count=top.whole("segment_count"),
        total_members=top.whole("total_members"),
        events_30d=top.whole("events_30d"),
        ai_credits_used=top.whole("ai_credits_used"),
        ai_credits_limit=limit(top, "ai_credits_limit"),
        extra=top.extra,
    )


def segments(said: object) -> tuple[Segment, ...]:
    """Return the records of ``/analytics/segments/``."""
    return every(said, _segment)


def overlap(said: object) -> tuple[Overlap, ...]:
    """Return the records of ``/analytics/overlap/``: the top 20 pairs.

    Empty where there are fewer than 2 segments, or no shared members.
    """
    return every(said, _overlap)


def activations(said: object) -> tuple[Activation, ...]:
    """Return the records of ``/analytics/activations/``."""
    return every(said, _activation)


def copilot(said: object) -> Copilot:
    """Return the record of ``/analytics/copilot/``."""
    top = Fields(said)
    return Copilot(total=top.whole("total"), daily=top.each("daily", _copilot_day), extra=top.extra)


def usage(said: object) -> UsageNow:
    """Return the record of ``/analytics/usage/``."""
    top = Fields(said)
    return UsageNow(
        plan_name=top.text("plan_name"),
        plan_tier=top.text("plan_tier"),
        period_start=top.day("period_start"),
        period_end=top.day("period_end"),
        events=_allowance(top, "events"),
        users=_allowance(top, "users"),
        segments=_allowance(top, "segments"),
        ai_credits=_allowance(top, "ai_credits"),
        extra=top.extra,
    )


def _segment(item: Fields) -> Segment:
    return Segment(
        id=item.whole("id"),
        name=item.text("name"),
        member_count=item.whole("member_count"),
        last_computed_at=item.maybe(Fields.instant, "last_computed_at"),
        trend=item.each("trend", _membership_day),
        extra=item.extra,
    )


def _membership_day(item: Fields) -> MembershipDay:
    return MembershipDay(day=item.day("day"), count=item.whole("count"), extra=item.extra)


def _overlap(item: Fields) -> Overlap:
    return Overlap(
        seg_a_id=item.whole("seg_a_id"),
        seg_a_name=item.text("seg_a_name"),
        seg_b_id=item.whole("seg_b_id"),
        seg_b_name=item.text("seg_b_name"),
        overlap=item.whole("overlap"),
        overlap_pct=item.number("overlap_pct"),
        extra=item.extra,
    )


def _activation(item: Fields) -> Activation:
    return Activation(
        id=item.whole("id"),
        segment_id=item.whole("segment_id"),
        segment_name=item.text("segment_name"),
        connector_type=item.text("connector_type"),
        status=item.text("status"),
        last_synced_at=item.maybe(Fields.instant, "last_synced_at"),
        last_error=item.text("last_error"),
        member_count=item.whole("member_count"),
        success_rate=item.maybe(Fields.number, "success_rate"),
        sync_logs=item.each("sync_logs", _sync_log),
        extra=item.extra,
    )


def _sync_log(item: Fields) -> SyncLog:
    return SyncLog(
        status=item.text("status"),
        user_count=item.whole("user_count"),
        error_message=item.text("error_message"),
        synced_at=item.instant("synced_at"),
        extra=item.extra,
    )


def _copilot_day(item: Fields) -> CopilotDay:
    return CopilotDay(
        day=item.day("day"),
        success=item.whole("success"),
        error=item.whole("error"),
        extra=item.extra,
    )


def _allowance(top: Fields, name: str) -> Allowance:
    said = top.inside(name)
    return Allowance(used=said.whole("used"), limit=limit(said, "limit"), extra=said.extra)
