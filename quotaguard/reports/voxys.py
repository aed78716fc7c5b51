"""Voxys Connect's pipeline analytics. Source: "Get pipeline analytics" (seed)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from quotaguard.errors import ConfigError
from quotaguard.quota.fields import Fields, Unfit

__all__ = [
    "LISTS",
    "Agent",
    "AgentDeals",
    "Analytics",
    "StageDeals",
    "analytics",
    "listed",
    "number_of",
    "question",
]

LISTS = {"agent": "by_agent", "stage": "by_stage"}
"""The lists of an answer, by whose numbers their rows have."""

_GROUPS = ("day", "week", "month", "agent", "stage")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Agent:
    """Who works on deals. What the answer leaves out is None."""

    id: int
    name: str | None
    email: str | None
    avatar_url: str | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AgentDeals:
    """One agent's deals: how many were created and won, and the money of those won.

    agent: None where the answer names nobody, for deals that nobody works on.
    """

    agent: Agent | None
    created: int | None
    won: int | None
    value_won: float | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StageDeals:
    """The deals in one stage of the pipeline: how many, and their money."""

    stage_id: int | None
    stage_name: str | None
    count: int | None
    value: float | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Analytics:
    """The deals of one pipeline between two days, both of them within.

    since, until: None where the answer names none. total_created, total_won,
    total_lost: deals. total_value_created, total_value_won, average_deal_size: money, in
    the account's currency. conversion_rate: percent, 33.3 is a third. by_agent, by_stage:
    empty where there is nothing to tell. What ``group_by`` adds is not documented, and is
    in extra as it came.
    """

    since: date | None
    until: date | None
    total_created: int
    total_won: int
    total_lost: int
    total_value_created: float
    total_value_won: float
    average_deal_size: float | None
    conversion_rate: float | None
    by_agent: tuple[AgentDeals, ...]
    by_stage: tuple[StageDeals, ...]
    extra: Mapping[str, Any]


def number_of(what: str, said: object) -> int:
    """Return an id of the vendor's.

    Raises:
        ConfigError: it is no whole number from 1 upwards.
    """
    if type(said) is int and said >= 1:
        return said
    msg = f"{what} is the number that Voxys shows for it, a whole one from 1, not {said!r}"
    raise ConfigError(msg)


def question(
    since: str | date | None = None,
    until: str | date | None = None,
    agent_id: int | None = None,
    group_by: str | None = None,
) -> tuple[tuple[str, str], ...]:
    """Return the query of a report, by name and value; None leaves a name out.

    since, until: the first and the last day, as dates or as ``YYYY-MM-DD``.

    Raises:
        ConfigError: a date is none, they are in the wrong order, the agent is no
            number, or there is no such group.
    """
    first, last = _day("since", since), _day("until", until)
    if first is not None and last is not None and last < first:
        msg = f"since ({first}) is after until ({last}); both days are within the report"
        raise ConfigError(msg)
    if agent_id is not None:
        number_of("agent_id", agent_id)
    if group_by is not None and group_by not in _GROUPS:
        msg = f"group_by is one of {', '.join(_GROUPS)}, not {group_by!r}"
        raise ConfigError(msg)
    asked = {"since": first, "until": last, "agent_id": agent_id, "group_by": group_by}
    return tuple((name, str(value)) for name, value in asked.items() if value is not None)


def _day(name: str, said: str | date | None) -> date | None:
    if said is None or (isinstance(said, date) and not isinstance(said, datetime)):
        return said
    if isinstance(said, str) and _DAY.fullmatch(said):
        try:
            return date.fromisoformat(said)
        except ValueError:
            pass
    msg = f"{name} is a date, or a text like 2026-11-30 that is one; not {said!r}"
    raise ConfigError(msg)


def analytics(said: object) -> Analytics:
    """Return the record of an answer.

    Raises:
        Unfit: a documented field is of another kind, or a total is missing.
    """
    top = Fields(said)
    period = top.maybe(Fields.inside, "period") or Fields({})
    return Analytics(
        since=period.maybe(Fields.day, "since"),
        until=period.maybe(Fields.day, "until"),
        total_created=top.whole("total_created"),
        total_won=top.whole("total_won"),
        total_lost=top.whole("total_lost"),
        total_value_created=top.number("total_value_created"),
        total_value_won=top.number("total_value_won"),
        average_deal_size=top.maybe(Fields.number, "average_deal_size"),
        conversion_rate=top.maybe(Fields.number, "conversion_rate"),
        by_agent=top.maybe(_by_agent, "by_agent") or (),
        by_stage=top.maybe(_by_stage, "by_stage") or (),
        extra={**top.extra, **({"period": period.extra} if period.extra else {})},
    )


def _by_agent(top: Fields, name: str) -> tuple[AgentDeals, ...]:
    return top.each(name, _agent_deals)


def _agent_deals(said: Fields) -> AgentDeals:
    return AgentDeals(
        agent=said.maybe(_agent, "agent"),
        created=said.maybe(Fields.whole, "created"),
        won=said.maybe(Fields.whole, "won"),
        value_won=said.maybe(Fields.number, "value_won"),
        extra=said.extra,
    )


def _agent(row: Fields, name: str) -> Agent:
    said = row.inside(name)
    return Agent(
        id=said.whole("id"),
        name=said.maybe(Fields.text, "name"),
        email=said.maybe(Fields.text, "email"),
        avatar_url=said.maybe(Fields.text, "avatar_url"),
        extra=said.extra,
    )


def _by_stage(top: Fields, name: str) -> tuple[StageDeals, ...]:
    return top.each(name, _stage_deals)


def _stage_deals(said: Fields) -> StageDeals:
    return StageDeals(
        stage_id=said.maybe(Fields.whole, "stage_id"),
        stage_name=said.maybe(Fields.text, "stage_name"),
        count=said.maybe(Fields.whole, "count"),
        value=said.maybe(Fields.number, "value"),
        extra=said.extra,
    )


def listed(top: Fields, whose: str) -> dict[int, Fields]:
    """Return the rows of a list, of `LISTS`, by the number of the agent or the stage.

    Deals that nobody works on stand under no number, and are left out.

    Raises:
        Unfit: the rows cannot be told apart.
    """
    rows: dict[int, Fields] = {}
    for number, row in top.each(LISTS[whose], lambda row: (_numbered(row, whose), row)):
        if number in rows:
            raise Unfit(top.path(LISTS[whose]), "it lists one number twice")
        if number is not None:
            rows[number] = row
    return rows


def _numbered(row: Fields, whose: str) -> int | None:
    if whose == "stage":
        return row.maybe(Fields.whole, "stage_id")
    agent = row.maybe(Fields.inside, "agent")
    return None if agent is None else agent.whole("id")
