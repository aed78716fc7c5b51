"""A fake Voxys Connect: deals with dates, whose analytics say so late."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from quotaguard.errors import ConfigError
from quotaguard.quota.windows import Windows
from quotaguard.testing import spoiling
from quotaguard.testing.deals import MAIN, Deals
from quotaguard.testing.server import Fault, Reply, Request
from quotaguard.testing.spoiling import WIRE_FAULTS, Spoil, changed
from quotaguard.testing.spoiling import asked as asked_of
from quotaguard.testing.vendor import FakeVendor, Knobs, Script, turned

__all__ = ["FakeVoxys", "VoxysKnobs"]

HEADER = "api_access_token"
GROUPS = ("day", "week", "month", "agent", "stage")
BAD_KEY = "Invalid Access Token"
NOT_FOUND = "Resource could not be found"
LIMIT = "Account limit exceeded. Upgrade to a higher plan"
STATUSES: Mapping[str, tuple[int, str, tuple[tuple[str, str], ...]]] = {
    "500": (500, "Internal Server Error", ()),
    "503": (503, "Service Unavailable", (("Retry-After", "1"),)),
    "429": (429, "Retry later\n", ()),
    "429-after": (429, "Retry later\n", (("Retry-After", "7"),)),
    "401": (401, BAD_KEY, ()),
    "402": (402, LIMIT, ()),
    "403": (403, "You are not authorized to do this action", ()),
    "404": (404, NOT_FOUND, ()),
    "422": (422, "Validation failed", ()),
}
CALL_FAULTS = frozenset({*STATUSES, *WIRE_FAULTS})
NAMES = {1: "Jane Smith", 2: "Amir Khan"}


def _totals(told: dict[str, Any], count: float) -> None:
    told.update(total_created=count, total_value_created=count)


def _other_window(told: dict[str, Any]) -> None:
    told["period"]["since"] = told["period"]["until"] = "2023-12-25"


STATS_FAULTS: Mapping[str, Spoil] = MappingProxyType(
    {
        **spoiling.STATS_FAULTS,
        "null-period": lambda reply, _: changed(reply, lambda told: told.update(period=None)),
        "other-window": lambda reply, _: changed(reply, _other_window),
        "negative": lambda reply, _: changed(reply, lambda told: _totals(told, -5)),
        "nan": lambda reply, _: changed(reply, lambda told: _totals(told, float("nan"))),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxysKnobs(Knobs):
    """The knobs of the fake Voxys, besides those of every fake (`Knobs`).

    *quota* and *used* are of ``deals.created``. The vendor knows no quota: it is the
    budget that a test compares with, and ``overage=False`` has calls past it refused
    (402). There is no *period*: the windows are those of the calendar.

    window, time_zone: of *true*, *shown* and *past*; the analytics take any dates.
    account_id, funnel_id: what it has; other_funnels: further pipelines of the account.
    agents, stages: their numbers; what nobody says goes to the first of each, and
        other people are the last agent.
    deal_value: money of a deal whose request has no ``value``.
    other_keys: keys of the account's other users.
    """

    overage: bool = True
    window: str = "month"
    time_zone: str = "UTC"
    account_id: int = 7
    funnel_id: int = 3
    other_funnels: tuple[int, ...] = (4,)
    agents: tuple[int, ...] = (1, 2)
    stages: tuple[int, ...] = (7, 8)
    deal_value: float = 5000
    other_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # super() without arguments does not work in a slotted dataclass.
        Knobs.__post_init__(self)
        Windows(self.window, self.time_zone)
        if self.period is not None:
            msg = "the fake Voxys has no period; turn window and time_zone"
            raise ConfigError(msg)
        if not self.agents or not self.stages:
            msg = "the fake Voxys needs an agent and a stage"
            raise ConfigError(msg)


class FakeVoxys(FakeVendor):
    """A Voxys Connect on loopback: conversions, leads, deals and pipeline analytics.

    ::

        with fake("voxys", quota=500, lag=60, clock=clock) as vendor:
            provider = Voxys(
                "test-key", 7, 3, limits={"deals.created": 500}, base_url=vendor.url
            )
            guard = Guard(provider, clock=clock)
            ...
            assert vendor.true["deals.created"] <= vendor.quota

    ``POST leads/{id}/convert`` makes a deal, and so does ``POST leads`` whose body has
    the *funnel_id*; ``DELETE deals/{id}`` and `delete` take deals away again, `win` and
    `lose` end them. What a lead's creation answers, and ``value``, ``agent_id`` and
    ``funnel_stage_id`` in it, is not documented, and made up.

    Faults of calls: ``500 503 429 429-after 401 402 403 404 422`` cost nothing. ``timeout
    reset close garbage truncated slow-drip`` do the work, count it, and spoil the answer;
    with ``-free`` behind they spoil it without. Faults of stats: the same ones, and ``html
    huge gzip redirect null-period other-window negative nan``.

    Raises:
        ConfigError: there is no such knob or fault, or not that far.
    """

    def __init__(self, **knobs: Any) -> None:  # noqa: ANN401 - checked by VoxysKnobs
        self._turned = turn = turned(VoxysKnobs, knobs)
        self._deals = Deals(turn)
        scripts = {
            "calls": Script(turn.faults, CALL_FAULTS),
            "stats": Script(turn.stats_faults, {*CALL_FAULTS, *STATS_FAULTS}),
        }
        super().__init__(turn, turn.rules((MAIN,), {}, (MAIN,)), scripts, self._deals)
        self._root = f"/api/v1/accounts/{turn.account_id}/"
        self._stats_path = f"{self._root}funnels/{turn.funnel_id}/analytics"
        self._leads = 0

    statuses = STATUSES
    stats_faults = STATS_FAULTS

    @property
    def polls(self) -> int:
        """How many requests the analytics of the pipeline got."""
        return self.requests[self._stats_path]

    def win(self, count: int = 1) -> int:
        """Win the newest deals that are open; return how many."""
        return self._deals.end("won", count)

    def lose(self, count: int = 1) -> int:
        """Lose the newest deals that are open; return how many."""
        return self._deals.end("lost", count)

    def delete(self, count: int = 1) -> int:
        """Delete the newest deals; return how many."""
        return self._deals.end("gone", count)

    def _route(self, request: Request) -> Reply | Fault:
        if request.headers.get(HEADER) not in {self._turned.key, *self._turned.other_keys}:
            return self._told(401, BAD_KEY)
        if not request.path.startswith(self._root):
            return self._told(404, NOT_FOUND)
        path = request.path.removeprefix(self._root).removesuffix("/").removesuffix(".json")
        routes: dict[str, tuple[str, Callable[[Request], Reply]]] = {
            r"GET funnels/\d+/analytics": ("stats", self._analytics),
            r"POST leads/[1-9]\d*/convert": ("calls", self._convert),
            r"POST leads": ("calls", self._create),
            r"POST leads/bulk": ("", self._bulk),
            r"DELETE deals/\d+": ("", self._remove),
        }
        for route, (script, honest) in routes.items():
            if re.fullmatch(route, f"{request.method} {path}"):
                return self._spoiled(script, request, honest) if script else honest(request)
        return self._told(404, NOT_FOUND)

    def _told(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
        if status == 429:
            # What stands in front of the application counts requests, and knows no JSON.
            return Reply(status, message.encode(), (("Content-Type", "text/plain"), *headers))
        return Reply.json(status, {"error": message}, headers)

    def _convert(self, request: Request) -> Reply:
        asked = asked_of(request.body)
        if asked is None or "funnel_id" not in asked:
            return self._told(422, "funnel_id is missing")
        return self._deal(asked, {"lead_id": int(request.path.split("/")[-2])})

    def _create(self, request: Request) -> Reply:
        asked = asked_of(request.body)
        if asked is None:
            return self._told(422, "a lead is a JSON object")
        self._leads += 1
        if "funnel_id" in asked:
            return self._deal(asked, {"lead_id": self._leads})
        return Reply.json(200, {"id": self._leads, "name": asked.get("name")})

    def _deal(self, asked: Mapping[str, Any], lead: Mapping[str, int]) -> Reply:
        turn = self._turned
        funnel, stage = _number(asked["funnel_id"]), _number(asked.get("funnel_stage_id"))
        if funnel in turn.other_funnels:
            return Reply.json(200, {"id": 900_000, **lead, "funnel_id": funnel})
        if funnel != turn.funnel_id:
            return self._told(404, NOT_FOUND)
        stage = turn.stages[0] if stage is None else stage
        if stage not in turn.stages:
            return self._told(422, "the stage is not in this pipeline")
        value = asked.get("value", turn.deal_value)
        deal = self._deals.create(agent=_number(asked.get("agent_id")), stage=stage, value=value)
        if deal is None:
            return self._told(402, LIMIT)
        where = {"funnel_id": funnel, "funnel_stage_id": stage}
        return Reply.json(200, {"id": deal.number, **lead, **where, "value": value})

    def _bulk(self, request: Request) -> Reply:
        asked = asked_of(request.body) or {}
        ids, action = asked.get("lead_ids"), asked.get("action_type")
        if not isinstance(ids, list) or action not in ("assign", "status_change", "delete"):
            return self._told(422, "lead_ids and action_type are wanted")
        return Reply.json(200, {"success": True, "affected_count": len(ids)})

    def _remove(self, request: Request) -> Reply:
        number = int(request.path.rstrip("/").rpartition("/")[2].removesuffix(".json"))
        if not self._deals.delete(number):
            return self._told(404, NOT_FOUND)
        return Reply.json(200, {"success": True})

    def _analytics(self, request: Request) -> Reply:
        if request.path.rstrip("/").removesuffix(".json") != self._stats_path:
            return self._told(404, NOT_FOUND)
        asked = dict(parse_qsl(request.query))
        try:
            first, last = (_day(asked.get(name)) for name in ("since", "until"))
            agent = int(asked["agent_id"]) if "agent_id" in asked else None
        except ValueError:
            return self._told(422, "since, until or agent_id cannot be read")
        kind = asked.get("group_by")
        if kind not in (None, *GROUPS) or (first and last and last < first):
            return self._told(422, "there is no such group, or until is before since")
        told = self._written(self._deals.told(first, last, agent))
        period = {"since": asked.get("since"), "until": asked.get("until")}
        series = {"series": self._deals.series(first, last, kind)} if kind else {}
        return Reply.json(200, {"period": period, **told, **series})

    @staticmethod
    def _written(told: dict[str, Any]) -> dict[str, Any]:
        created, won = told["total_created"], told["total_won"]
        agents = [
            {
                "agent": {
                    "id": agent,
                    "name": NAMES.get(agent, f"Agent {agent}"),
                    "email": f"agent{agent}@example.com",
                    "avatar_url": "",
                },
                "created": made[0],
                "won": ended[0],
                "value_won": ended[1],
            }
            for agent, made, ended in told["by_agent"]
        ]
        stages = [
            {"stage_id": stage, "stage_name": f"Stage {stage}", "count": some[0], "value": some[1]}
            for stage, some in told["by_stage"]
        ]
        return {
            **told,
            "average_deal_size": round(told["total_value_won"] / won, 2) if won else 0,
            "conversion_rate": round(100 * won / created, 1) if created else 0,
            "by_agent": agents,
            "by_stage": stages,
        }


def _number(said: object) -> int | None:
    if isinstance(said, str) and said.isdigit():
        return int(said)
    return said if type(said) is int else None


def _day(said: str | None) -> date | None:
    return None if said is None else date.fromisoformat(said)
