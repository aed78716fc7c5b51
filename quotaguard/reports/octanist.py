"""Octanist's stats of the current, the previous or a custom period. Source: Get Stats (seed)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from quotaguard.errors import ConfigError
from quotaguard.quota.fields import Fields, Unfit

__all__ = ["Conversion", "LeadUsage", "Leads", "OctanistStats", "question", "stats"]

_PERIODS = ("current", "previous", "custom")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class LeadUsage:
    """Leads against the plan, in leads.

    limit: as it is told; what null (None) and -1 mean is not documented. locked: not
    explained; taken for leads past the limit. period_start, period_end: the first and the
    last instant of the period that was asked for, None without an active subscription.
    """

    used: int
    limit: int | None
    locked: int | None
    period_start: datetime | None
    period_end: datetime | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leads:
    """Leads of the period, in leads, by what became of them and by where they came from.

    by_status: open, qualified, won, lost. by_source: gtm, api, manual and others.
    """

    total: int
    by_status: Mapping[str, int]
    by_source: Mapping[str, int]
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What the leads led to; None where it is null, as without a lead to divide by.

    qualified: leads. qualification_rate, win_rate: shares from 0 to 1. average_value,
    total_value: money in the account's currency, which is not told.
    """

    qualified: int | None
    qualification_rate: float | None
    win_rate: float | None
    average_value: float | None
    total_value: float | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OctanistStats:
    """Stats of one period, and when (*timestamp*) under which id they were told."""

    usage: LeadUsage
    leads: Leads
    conversion: Conversion
    request_id: str | None
    timestamp: datetime | None
    extra: Mapping[str, Any]


def question(
    period: str = "current",
    *,
    start_date: str | date | None = None,
    end_date: str | date | None = None,
) -> tuple[tuple[str, ...], bytes]:
    """Return the period and dates that are asked for, and the body that asks.

    period: current, previous or custom. start_date, end_date: the first and the last
    day of a custom one, as ``YYYY-MM-DD`` or a date.

    Raises:
        ConfigError: there is no such period; a date is missing, is none, comes before
            the start, or is given for another period, which would not look at it.
    """
    if period not in _PERIODS:
        msg = f"Octanist has no stats period {period!r}; it has {', '.join(_PERIODS)}"
        raise ConfigError(msg)
    dates = {"start_date": start_date, "end_date": end_date}
    if period != "custom":
        given = [name for name, said in dates.items() if said is not None]
        if given:
            msg = f'{" and ".join(given)}: only period="custom" has dates, not {period!r}'
            raise ConfigError(msg)
        return (period,), _body(period=period)
    start, end = (_day(name, said) for name, said in dates.items())
    if end < start:
        msg = f"end_date {end} comes before start_date {start}"
        raise ConfigError(msg)
    first, last = start.isoformat(), end.isoformat()
    return (period, first, last), _body(period=period, startDate=first, endDate=last)


def _body(**said: str) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def _day(name: str, said: str | date | None) -> date:
    if said is None:
        msg = f'{name} is missing: period="custom" takes start_date and end_date'
        raise ConfigError(msg)
    # A datetime is a date too, but its day depends on a zone that nobody has named.
    if isinstance(said, date) and not isinstance(said, datetime):
        return said
    try:
        if isinstance(said, str) and _DATE.fullmatch(said):
            return date.fromisoformat(said)
    except ValueError:
        pass
    msg = f"{name} is a date or a text YYYY-MM-DD, not {said!r}"
    raise ConfigError(msg)


def stats(said: object) -> OctanistStats:
    """Return the record of an answer of ``/api/stats``.

    Raises:
        Unfit: a documented field is missing or of another kind.
    """
    top = Fields(said)
    top.flag("success")
    data = top.inside("data")
    meta = top.maybe(Fields.inside, "meta") or Fields({})
    usage, leads = _usage(data.inside("usage")), _leads(data.inside("leads"))
    conversion = _conversion(data.inside("conversion"))
    request_id = meta.maybe(Fields.text, "requestId")
    timestamp = meta.maybe(Fields.instant, "timestamp")
    inner = {name: part.extra for name, part in (("data", data), ("meta", meta)) if part.extra}
    extra = {**top.extra, **inner}
    return OctanistStats(usage, leads, conversion, request_id, timestamp, extra)


def _usage(said: Fields) -> LeadUsage:
    return LeadUsage(
        used=said.whole("leadsUsed"),
        limit=said.maybe(_limit, "leadsLimit"),
        locked=said.maybe(Fields.whole, "lockedLeads"),
        period_start=said.maybe(Fields.instant, "periodStart"),
        period_end=said.maybe(Fields.instant, "periodEnd"),
        extra=said.extra,
    )


def _limit(said: Fields, name: str) -> int:
    """Return a whole number, also below 0: what -1 means is not for a report to say."""
    limit = said.number(name)
    if not float(limit).is_integer():
        raise Unfit(said.path(name), "it is no whole number")
    return int(limit)


def _leads(said: Fields) -> Leads:
    return Leads(
        total=said.whole("total"),
        by_status=said.counts("byStatus"),
        by_source=said.counts("bySource"),
        extra=said.extra,
    )


def _conversion(said: Fields) -> Conversion:
    return Conversion(
        qualified=said.maybe(Fields.whole, "qualified"),
        qualification_rate=said.maybe(Fields.number, "qualificationRate"),
        win_rate=said.maybe(Fields.number, "winRate"),
        average_value=said.maybe(Fields.number, "averageValue"),
        total_value=said.maybe(Fields.number, "totalValue"),
        extra=said.extra,
    )
