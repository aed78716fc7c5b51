"""Voxys Connect: deals of one pipeline, reconciled by its analytics.

The vendor tells no limit and no period, and never refuses: limits are a budget of the
user's, and the window is a calendar one that a poll puts into ``since`` and ``until``.
Source of the rules: Voxys's page on pipeline analytics, and what is public of Chatwoot,
from which it descends; where both are silent `VoxysChoices` says what is assumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from quotaguard.errors import ConfigError, ProviderError, StatsForbidden, StatsUnavailable
from quotaguard.quota import strict
from quotaguard.quota.answers import MOST_PAUSE, Faults, paused
from quotaguard.quota.calls import Bill, Call, Cost, Evidence, Outcome, Price, Report, StatsRequest
from quotaguard.quota.fields import Fields, Unfit
from quotaguard.quota.given import MOST_MONEY, budget, chosen, identity, mapping, own_prices
from quotaguard.quota.origin import home
from quotaguard.quota.readings import FRACTIONS, NOTHING, Amount, Meter, Reading, Usage, units
from quotaguard.quota.routes import Routes, is_route
from quotaguard.quota.secret import Secret
from quotaguard.quota.windows import Window, Windows
from quotaguard.reports.voxys import LISTS, Analytics, analytics, listed, number_of, question

__all__ = ["Voxys", "VoxysChoices"]

_NAME = "voxys"
_REAL = "https://connect.voxys.ai"
_API = "/api/v1"
_HEADER = "api_access_token"

_CREATED = "deals.created"
_CONVERT = "leads.convert"
_WORTH = "value.created"
_LEAST = 1 / FRACTIONS
"""What a conversion holds of the value it adds, which nobody knows: a spent one refuses it."""

_TOTALS = {
    _CREATED: "total_created",
    "deals.won": "total_won",
    "deals.lost": "total_lost",
    _WORTH: "total_value_created",
    "value.won": "total_value_won",
}
_ROWS = {"agent": ("created", "won", "value_won"), "stage": ("count", "value")}
_ROW = re.compile(r"(agent|stage)\.([1-9][0-9]{0,17})\.([a-z_]+)")
_MONEY = frozenset({"total_value_created", "total_value_won", "value_won", "value"})
_METERS = (
    f"{', '.join(_TOTALS)}, agent.<id>.{'|'.join(_ROWS['agent'])}, "
    f"stage.<id>.{'|'.join(_ROWS['stage'])}"
)

_REFUSED = frozenset({400, 401, 402, 403, 404, 405, 422, 429})
"""Nothing was created: Rails answers so before it acts. Of other errors nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxysChoices:
    """What Voxys's documents leave open, and how it is taken.

    account_limit: what a 402, "Account limit exceeded", says of the meters. Upstream it
        is about features such as inboxes: the next reading is asked for at once
        (``"doubt"``). ``"exhausted"`` closes the meters of the call, ``"nothing"`` goes on.
    unreadable: a conversion whose body names no pipeline (a stream, no JSON) is priced as
        one of ``"ours"``, or passes as one of an ``"other"``.
    server_error: a call answered by 5xx is ``"unknown"``, counted until a reading proves
        otherwise, or ``"free"``.
    unlisted: an agent or a stage that the answer does not list has no deals, ``"zero"``;
        or is ``"unknown"``, and calls that cost its meter are refused.
    stages: what is in a stage is a ``"level"``, which falls when deals move on and does
        not begin anew with a window; or a ``"counter"``, which does.
    busy_pause: seconds without calls after a 429 that names none. Upstream counts by the
        minute and sends no Retry-After; ten seconds let a sixth of that pass. 0 is none.
    polls_per_hour: what the analytics are asked at most. Upstream allows 100 a minute.

    Raises:
        ConfigError: a value is none of these.
    """

    account_limit: Literal["doubt", "exhausted", "nothing"] = "doubt"
    unreadable: Literal["ours", "other"] = "ours"
    server_error: Literal["unknown", "free"] = "unknown"
    unlisted: Literal["zero", "unknown"] = "zero"
    stages: Literal["level", "counter"] = "level"
    busy_pause: float = 10.0
    polls_per_hour: float = 60.0

    def __post_init__(self) -> None:
        chosen(self, busy_pause=(0, MOST_PAUSE), polls_per_hour=(1, 6000))


class Voxys:
    """Voxys Connect's API, as one pipeline of one account sees it.

    api_access_token: the key that goes out under this name, underscores and all.
    account_id, funnel_id: the account and the pipeline, by their numbers.
    limits: a budget per meter for each window, in deals or in money; None is counted
        only. Without any, the guard counts and refuses nothing. Meters are
        ``deals.created`` and what has a limit: see docs/reference/voxys.md.
    window: day, week (from Monday), month, quarter or year, of the calendar in
        *time_zone*, an IANA name: the one in which the account's days begin.
    agent_id: count only this agent's deals.
    operations: prices of further calls, ``{"POST leads": {"deals.created": 1}}``; a name
        without a method is for decorators.
    base_url: an origin and, behind a proxy, a path before ``/api/v1``; https, or http
        on a loopback host.
    account: a name for the account in ledgers; by default it goes by the numbers, since
        every user has a key of his own and all spend from one pipeline.

    Raises:
        ConfigError: an argument cannot be.
    """

    name: str = _NAME
    key_headers: tuple[str, ...] = (_HEADER,)

    def __init__(
        self,
        api_access_token: str,
        account_id: int,
        funnel_id: int,
        *,
        limits: Mapping[str, Amount | None] | None = None,
        window: Literal["day", "week", "month", "quarter", "year"] = "month",
        time_zone: str = "UTC",
        agent_id: int | None = None,
        operations: Mapping[str, Cost] | None = None,
        base_url: str = _REAL,
        account: str | None = None,
        choices: VoxysChoices = VoxysChoices(),
    ) -> None:
        Secret(api_access_token)  # refuses what is no key at all
        self._key = Secret(api_access_token.strip())
        self._faults = Faults(_NAME, self._key)
        number_of("account_id", account_id)
        self._funnel = number_of("funnel_id", funnel_id)
        self._agent = None if agent_id is None else number_of("agent_id", agent_id)
        self._windows = Windows(window, time_zone)
        if not isinstance(choices, VoxysChoices):
            msg = f"choices is a VoxysChoices, not {type(choices).__name__}"
            raise ConfigError(msg)
        self._choices = choices
        self.polls_per_hour = choices.polls_per_hour
        self._places, self.meters, self._limits = _metered(limits, self._agent, choices.stages)
        # Limits come with the readings, so that guards with others keep books of their own.
        own = sorted((name, limit) for name, limit in self._limits.items() if limit is not None)
        books = f"{_NAME} {funnel_id}/{window}/{time_zone}/{agent_id or ''}/{own}"
        owner = str(account_id) if account is None else account
        self._origin, prefix, self.account = home(
            books, _REAL, base_url, owner, self._key, inside=_API
        )
        self._shown = f"<Voxys {self._origin.partition('://')[2]}: {window} in {time_zone}>"
        root = f"{prefix}{_API}/accounts/{account_id}/"
        self._stats_url = f"{self._origin}{root}funnels/{funnel_id}/analytics"
        moved = {f"agent.{self._agent}.created": 1, _WORTH: _LEAST}
        held = {name: n for name, n in moved.items() if self._limits.get(name) is not None}
        convert: dict[str, Cost] = {_CONVERT: MappingProxyType({_CREATED: 1, **held})}
        self.operations = MappingProxyType(convert | own_prices(operations, self.meters))
        # Rails takes an ending for the format, and then goes on as without it.
        self._routes = Routes(root, ending=".json")
        self._set_prices()

    def _set_prices(self) -> None:
        prices = {name: Price(name, cost) for name, cost in self.operations.items()}
        self._convert = prices[_CONVERT]
        self._routes.add("POST leads/{id}/convert", self._convert)
        for name, price in prices.items():
            if is_route(name):
                self._routes.add(name, price)

        def into(*stages: str) -> Price:
            cost = {**dict.fromkeys(stages, 1), **self._convert.cost}
            return Price(_CONVERT, MappingProxyType(cost))

        places = self._places.items()
        counted = {at.number: name for name, at in places if at[::2] == ("stage", "count")}
        self._staged = {number: into(name) for number, name in counted.items()}
        # Where the stage cannot be read it may be any of those that are counted.
        self._in_doubt = into(*counted.values())

    def __repr__(self) -> str:
        return self._shown

    @property
    def reports(self) -> Mapping[str, Callable[..., Report[Any]]]:
        """``analytics(*, since, until, agent_id, group_by)``, each of them optional."""
        return {"analytics": self._analytics}

    def stats_request(self, wall: float, /) -> StatsRequest:
        """Return the stats poll for the window of *wall* (Unix time). It carries the key.

        Its answer must tell of that very window, or it is not read.
        """
        window = self._windows.at(wall)
        request = self._asking(question(window.first, window.last, self._agent))
        return replace(request, read=partial(self._read, window))

    def _asking(self, query: tuple[tuple[str, str], ...]) -> StatsRequest:
        asked = "&".join(f"{name}={value}" for name, value in query)
        url = f"{self._stats_url}?{asked}" if asked else self._stats_url
        return StatsRequest("GET", url, {_HEADER: self._key.reveal()})

    def _analytics(
        self,
        *,
        since: str | date | None = None,
        until: str | date | None = None,
        agent_id: int | None = None,
        group_by: str | None = None,
    ) -> Report[Analytics]:
        query = question(since, until, agent_id, group_by)
        return Report(("analytics", *query), partial(self._asking, query), self._read_report)

    def _read_report(self, outcome: Outcome) -> Analytics:
        if outcome.status != 200:
            raise self._refusal(outcome)
        return self._faults.read(outcome, analytics)

    def price(self, call: Call) -> Price | None:
        """Return what *call* may cost: a conversion into this pipeline, or the user's own.

        None for everything else, another account and another pipeline included.
        """
        if call.origin != self._origin:
            return None
        price = self._routes.price(call.method, call.path)
        return self._conversion(call.body) if price is self._convert else price

    def _conversion(self, body: bytes | None) -> Price | None:
        try:
            told = strict.load(body or b"")
        except ValueError:
            told = None
        said = told if isinstance(told, dict) else {}
        funnel = identity(said.get("funnel_id"))
        if funnel is None:
            return None if self._choices.unreadable == "other" else self._in_doubt
        if funnel != self._funnel:
            return None
        stage = identity(said.get("funnel_stage_id"))
        return self._in_doubt if stage is None else self._staged.get(stage, self._convert)

    def foreign(self, _call: Call) -> bool:
        """Never: whoever's key a call carries, it spends from this account's pipeline."""
        return False

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        """Return what *call* cost.

        2xx cost what was reserved. 3xx and 400, 401, 402, 403, 404, 405, 422 and 429 are
        free; anything else is unknown, 5xx by `VoxysChoices.server_error`. A 429 pauses,
        a 402 is taken as `VoxysChoices.account_limit` says.
        """
        price = self.price(call)
        if price is None:
            return Bill(None)
        status, choices = outcome.status, self._choices
        if 200 <= status < 300:
            return Bill({name: n for name, n in price.cost.items() if n != _LEAST})
        free = 300 <= status < 400 or status in _REFUSED
        free = free or (500 <= status < 600 and choices.server_error == "free")
        evidence = paused(outcome)
        if status == 429 and not evidence and choices.busy_pause:
            evidence = (Evidence("pause", seconds=choices.busy_pause),)
        elif status == 402 and choices.account_limit == "doubt":
            evidence = (Evidence("doubt"),)
        elif status == 402 and choices.account_limit == "exhausted":
            evidence = (Evidence("exhausted", tuple(price.cost)),)
        return Bill(NOTHING if free else None, evidence)

    def read_stats(self, outcome: Outcome) -> Reading:
        """Return the reading in an answer of the analytics, whichever window it tells of.

        A number that is missing or broken leaves its meter out, and its path stands in
        ``extra["unreadable"]``. An agent or stage that is not listed counts 0.

        Raises:
            StatsForbidden: 401 or 403.
            StatsUnavailable: any other status but 200.
            StatsUnreadable: its dates are not one window, or no meter can be read.
        """
        return self._read(None, outcome)

    def _read(self, asked: Window | None, outcome: Outcome) -> Reading:
        if outcome.status != 200:
            raise self._refusal(outcome)
        return self._faults.read(outcome, partial(self._reading, asked))

    def _reading(self, asked: Window | None, said: object) -> Reading:
        top = Fields(said)
        dates = top.inside("period")
        first, last = dates.day("since"), dates.day("until")
        try:
            window = self._windows.exactly(first, last)
        except ValueError as error:
            raise Unfit("period", str(error)) from None
        if asked is not None and window != asked:
            raise Unfit("period", "it is not the window that was asked for")
        usages, unreadable = self._usages(top)
        if not usages:
            raise Unfit(unreadable[0], "none of the meters can be read")
        # What is said of people is for reports, and stays out of readings.
        extra = {name: told for name, told in top.extra.items() if name not in LISTS.values()}
        if unreadable:
            extra["unreadable"] = tuple(unreadable)
        return Reading(usages, window.period, extra)

    def _usages(self, top: Fields) -> tuple[dict[str, Usage], list[str]]:
        """Return what can be read, and the paths of what cannot."""
        wanted = {place.rows for place in self._places.values()} - {""}
        found = {rows: _listed(top, rows) for rows in wanted}
        usages: dict[str, Usage] = {}
        unreadable: list[str] = []
        for name, place in self._places.items():
            rows = found[place.rows] if place.rows else {0: top}
            if rows is None:
                used = None
            elif place.number in rows:
                used = _used(rows[place.number], place.field)
            else:
                used = 0 if self._choices.unlisted == "zero" else None
            if used is None:
                unreadable.append(place.path)
            else:
                usages[name] = Usage(used, self._limits[name])
        return usages, unreadable

    def _refusal(self, outcome: Outcome) -> ProviderError:
        status = outcome.status
        if status in (401, 403):
            said = f"the analytics refuse the API key ({status})"
            return self._faults.of(StatsForbidden, said, outcome)
        why = ": the key sees no such account, or it has no such pipeline" if status == 404 else ""
        said = f"the analytics answered {status}{why}"
        return self._faults.of(StatsUnavailable, said, outcome)


class _Place(NamedTuple):
    """Where a meter's number stands in the answer: at its top, or in a row of a list."""

    rows: str
    number: int
    field: str

    @property
    def path(self) -> str:
        return f"{LISTS[self.rows]}[{self.number}].{self.field}" if self.rows else self.field


def _place(name: object) -> _Place:
    if isinstance(name, str) and name in _TOTALS:
        return _Place("", 0, _TOTALS[name])
    found = _ROW.fullmatch(name) if isinstance(name, str) else None
    if found is None or found[3] not in _ROWS[found[1]]:
        msg = f"Voxys has no meter {name!r}; it has {_METERS}"
        raise ConfigError(msg)
    return _Place(found[1], int(found[2]), found[3])


_Kind = Literal["level", "counter"]
_Metered = tuple[Mapping[str, _Place], Mapping[str, Meter], Mapping[str, int | None]]


def _metered(
    limits: Mapping[str, Amount | None] | None, agent: int | None, stages: _Kind
) -> _Metered:
    """Return the meters that *limits* ask for: their places, what they are, their limits."""
    places, meters, budgets = {}, {}, {}
    for name, limit in ({_CREATED: None} | mapping("limits", limits)).items():
        place = places[name] = _place(name)
        if agent is not None and place.rows == "agent" and place.number != agent:
            msg = f"{name} would always count 0: agent_id={agent} leaves other agents out"
            raise ConfigError(msg)
        kind = stages if place.rows == "stage" else "counter"
        meter = meters[name] = Meter(name, kind, FRACTIONS if place.field in _MONEY else 1)
        budgets[name] = budget(meter, limit)
    return places, MappingProxyType(meters), budgets


def _listed(top: Fields, rows: str) -> Mapping[int, Fields] | None:
    try:
        return listed(top, rows)
    except Unfit:
        return None


def _used(row: Fields, field: str) -> int | None:
    try:
        if field not in _MONEY:
            return row.whole(field)
        money = row.number(field)
    except Unfit:
        return None
    return units(money, FRACTIONS) if 0 <= money <= MOST_MONEY else None
