"""FullContact's account stats, by category. Source: the Account Stats API (seed)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quotaguard.errors import ConfigError
from quotaguard.quota.fields import Fields

__all__ = ["Category", "Enrichment", "FullContactStats", "Metric", "Plan", "question", "stats"]

_CATEGORIES = ("person", "company")


@dataclass(frozen=True, slots=True)
class Metric:
    """One count of the period, in requests.

    quota: None is no allowance attached, 0 is nothing included. over_quota: true only
    past the quota, not at it; None where the answer does not say.
    """

    count: int
    quota: int | None
    over_quota: bool | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Enrichment:
    """Enrichments that found somebody, that did not, and both together."""

    matches: Metric
    misses: Metric | None
    total: Metric | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Category:
    """What was asked about people, or about companies."""

    enrichment: Enrichment | None
    subscriptions: Metric | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan. base_cost: money per term, without overages. days_remaining: in days."""

    name: str | None
    period: str | None
    base_cost: float | None
    days_remaining: int | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FullContactStats:
    """Usage in the current billing period; a category that was not asked for is None.

    period_end: the first instant of the next period.
    """

    period_start: datetime | None
    period_end: datetime | None
    plan: Plan | None
    person: Category | None
    company: Category | None
    extra: Mapping[str, Any]


def question(*categories: str) -> tuple[tuple[str, ...], bytes]:
    """Return the categories that are asked for, and the body that asks; none is both.

    Raises:
        ConfigError: there is no such category.
    """
    for name in categories:
        if name not in _CATEGORIES:
            msg = f"FullContact has no stats category {name!r}; it has person and company"
            raise ConfigError(msg)
    asked = tuple(name for name in _CATEGORIES if not categories or name in categories)
    return asked, json.dumps({"stats": asked}, separators=(",", ":")).encode()


def stats(said: object) -> FullContactStats:
    """Return the record of an answer of ``stats.get``.

    Raises:
        Unfit: a documented field is missing or of another kind.
    """
    top = Fields(said)
    period = top.maybe(Fields.inside, "period") or Fields({})
    told = top.inside("stats")
    return FullContactStats(
        period_start=period.maybe(Fields.instant, "start"),
        period_end=period.maybe(Fields.instant, "end"),
        plan=top.maybe(_plan, "plan"),
        person=told.maybe(_category, "person"),
        company=told.maybe(_category, "company"),
        extra={**top.extra, **({"stats": told.extra} if told.extra else {})},
    )


def _plan(top: Fields, name: str) -> Plan:
    said = top.inside(name)
    return Plan(
        name=said.maybe(Fields.text, "name"),
        period=said.maybe(Fields.text, "period"),
        base_cost=said.maybe(Fields.number, "baseCost"),
        days_remaining=said.maybe(Fields.whole, "daysRemainingInPeriod"),
        extra=said.extra,
    )


def _category(told: Fields, name: str) -> Category:
    said = told.inside(name)
    return Category(
        enrichment=said.maybe(_enrichment, "enrichment"),
        subscriptions=said.maybe(_metric, "subscriptions"),
        extra=said.extra,
    )


def _enrichment(category: Fields, name: str) -> Enrichment:
    said = category.inside(name)
    return Enrichment(
        matches=_metric(said, "matches"),
        misses=said.maybe(_metric, "misses"),
        total=said.maybe(_metric, "total"),
        extra=said.extra,
    )


def _metric(parent: Fields, name: str) -> Metric:
    said = parent.inside(name)
    return Metric(
        count=said.whole("count"),
        quota=said.maybe(Fields.whole, "quota"),
        over_quota=said.maybe(Fields.flag, "overQuota"),
        extra=said.extra,
    )
