"""Octanist: lead capture, reconciled by ``/api/stats``.

A lead that is created is counted, everything else is free. The vendor never refuses:
leads past the limit are stored and locked, so the stats poll is the only brake. Source
of the rules: Octanist's pages on stats (the seed), on creating and updating leads, on
authentication and on errors; what they leave open is in `OctanistChoices`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from quotaguard.errors import (
    ConfigError,
    NoSubscription,
    ProviderError,
    StatsForbidden,
    StatsUnavailable,
)
from quotaguard.quota import strict
from quotaguard.quota.answers import Faults, paused
from quotaguard.quota.calls import Bill, Call, Cost, Evidence, Outcome, Price, Report, StatsRequest
from quotaguard.quota.fields import Fields, Unfit, whole
from quotaguard.quota.origin import home
from quotaguard.quota.readings import NOTHING, UNKNOWN_PERIOD, Meter, Period, Reading, Usage
from quotaguard.quota.secret import Secret
from quotaguard.reports.octanist import OctanistStats, question, stats

__all__ = ["Octanist", "OctanistChoices"]

T = TypeVar("T")

_NAME = "octanist"
_REAL = "https://octanist.com"

_METERS: Mapping[str, Meter] = MappingProxyType({"leads": Meter("leads")})
_LEAD: Cost = MappingProxyType({"leads": 1})
_PRICE = Price("leads.create", _LEAD)

Billed = Literal["free", "billed", "unknown"]
"""What an answer costs: nothing, one lead, or one lead until a reading proves otherwise."""

_BILLS: Mapping[str, Bill] = {
    "free": Bill(NOTHING),
    "billed": Bill(_LEAD),
    "unknown": Bill(None),
}
_CREATED = frozenset({200, 201})
"""The documents show what is answered, but not with which of the two."""

_TURNED_AWAY = range(300, 500)
"""What a redirect leads to is priced by its own URL; an error of ours is free."""

_CODES = frozenset(
    {
        *("UNAUTHORIZED", "VALIDATION_ERROR", "NOT_FOUND", "FORBIDDEN", "CONFLICT"),
        *("INVALID_DATE", "INVALID_FILTER", "INTERNAL_ERROR"),
    }
)
_KEY_CODES = frozenset({"UNAUTHORIZED", "FORBIDDEN"})

_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "no_subscription": ("closed", "open"),
    "locked": ("exhausted", "ignored"),
    "rejected": tuple(_BILLS),
    "duplicate": tuple(_BILLS),
    "unsuccessful": tuple(_BILLS),
}
_SPELLINGS = ("null", "missing", "-1", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OctanistChoices:
    """What Octanist's documents leave open. In doubt a lead was billed, a quota is closed.

    no_subscription: periodStart and periodEnd are null without an active subscription.
        "closed" raises NoSubscription, whatever limit is told beside them, and so where
        only one is null or they are missing; "open" takes used and limit as told, and
        no period.
    locked: lockedLeads is not explained; taken for leads stored past the limit. With
        "exhausted" any of them means that nothing is left, also where used is below the
        limit; with "ignored" used and limit decide alone, as where leads of an older
        period stay locked.
    unlimited: spellings of leadsLimit that mean without a limit, any of "null",
        "missing", "-1" and "0". None is documented, so that none does: 0 is nothing
        included, the others are no reading.
    rejected: a 403 on creating a lead: the account's filter turned it away. "free", for
        nothing was stored; or "billed", or "unknown" until a reading tells.
    duplicate: a 409 on creating a lead, likewise: "free", for it was there before.
    unsuccessful: a 200 or 201 whose body says ``"success": false``, which no page
        shows. "billed" settles by the status, without reading the body.

    Raises:
        ConfigError: there is no such choice.
    """

    no_subscription: Literal["closed", "open"] = "closed"
    locked: Literal["exhausted", "ignored"] = "exhausted"
    unlimited: tuple[Literal["null", "missing", "-1", "0"], ...] = ()
    rejected: Billed = "free"
    duplicate: Billed = "free"
    unsuccessful: Billed = "billed"

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            chosen = getattr(self, name)
            if chosen not in allowed:
                msg = f"{name} is one of {', '.join(allowed)}, not {chosen!r}"
                raise ConfigError(msg)
        spelled: object = self.unlimited
        if not isinstance(spelled, tuple) or any(one not in _SPELLINGS for one in spelled):
            msg = f"unlimited is a tuple of {', '.join(_SPELLINGS)}, as texts, not {spelled!r}"
            raise ConfigError(msg)


_AS_DOCUMENTED = OctanistChoices()


class Octanist:
    """Octanist's API, as one organisation sees it.

    api_key: the key that goes out as ``X-API-KEY``; it belongs to one organisation.
    base_url: an origin and, behind a proxy, a path before ``/api``; https, or http
        on a loopback host.
    account: a name where several keys share one bill, or where keys are rotated.
    choices: what the documents leave open.

    Raises:
        ConfigError: the key, the account, the URL or the choices cannot be used.
    """

    __slots__ = ("_account", "_choices", "_faults", "_key", "_origin", "_paths", "_settled", "_url")

    name: str = _NAME  # not Final: to pyright no ClassVar fits a Protocol's property
    meters: Mapping[str, Meter] = _METERS
    operations: Mapping[str, Cost] = MappingProxyType({_PRICE.operation: _LEAD})
    key_headers: tuple[str, ...] = ("x-api-key",)
    polls_per_hour: float = 30.0
    """A polite guess. They document no rate limits, which "may change in the future"; and
    each poll has them count leads. It is what FullContact's endpoint is known to allow.
    """

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = _REAL,
        account: str | None = None,
        choices: OctanistChoices = _AS_DOCUMENTED,
    ) -> None:
        Secret(api_key)  # refuses what is no key at all
        if not isinstance(choices, OctanistChoices):
            msg = f"choices is an OctanistChoices, not a {type(choices).__name__}"
            raise ConfigError(msg)
        self._key = Secret(api_key.strip())
        self._faults = Faults(_NAME, self._key, _code_and_request)
        self._origin, prefix, self._account = home(
            _NAME, _REAL, base_url, account, self._key, inside="/api"
        )
        self._url = f"{self._origin}{prefix}/api/stats"
        self._paths = frozenset({f"{prefix}/api/leads", f"{prefix}/api/leads/"})
        self._choices = choices
        self._settled = {
            **dict.fromkeys(_CREATED, _BILLS["billed"]),
            # Nobody documents it, but it is HTTP's own word for a plan that is used up.
            402: Bill(NOTHING, (Evidence("doubt"),)),
            403: _BILLS[choices.rejected],
            409: _BILLS[choices.duplicate],
        }

    def __repr__(self) -> str:
        return f"<Octanist {self._origin.partition('://')[2]}>"

    @property
    def account(self) -> str:
        """The digest that names the account in ledgers and logs; never the key."""
        return self._account

    @property
    def choices(self) -> OctanistChoices:
        """What was chosen where the documents are silent."""
        return self._choices

    @property
    def reports(self) -> Mapping[str, Callable[..., Report[Any]]]:
        """``stats(period, start_date=, end_date=)``: current, previous or custom."""
        return {"stats": self._stats}

    def stats_request(self, _wall: float = 0.0, /) -> StatsRequest:
        """Return the stats poll: of the current period, in a body as it must have one."""
        return self._asking(question()[1])

    def _asking(self, body: bytes) -> StatsRequest:
        headers = {"X-API-KEY": self._key.reveal(), "Content-Type": "application/json"}
        return StatsRequest("POST", self._url, headers, body)

    def _stats(
        self,
        period: str = "current",
        *,
        start_date: str | date | None = None,
        end_date: str | date | None = None,
    ) -> Report[OctanistStats]:
        asked, body = question(period, start_date=start_date, end_date=end_date)
        return Report(("stats", *asked), partial(self._asking, body), self._read_report)

    def _read_report(self, outcome: Outcome) -> OctanistStats:
        return self._read(outcome, stats)

    def price(self, call: Call) -> Price | None:
        """Return one lead for a call that creates one, None for what has no meter."""
        if call.origin != self._origin or call.method != "POST" or call.path not in self._paths:
            return None
        return _PRICE

    def foreign(self, call: Call) -> bool:
        """Whether *call* carries another key."""
        key = call.headers.get("x-api-key")
        return key is not None and not (key.isascii() and self._key.matches(key.strip()))

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        """Return what *call* cost.

        200 and 201 are one lead. Redirects and client errors are free: a 403 is a lead
        that the account's filter rejects, neither a bad key nor a spent quota, and a
        409 is one that is there already. Other 2xx and 5xx are unknown. 429 and 503
        pause as they ask. Only where a choice looks at ``success`` does a bill want
        the body (``b""`` where it was never read).
        """
        if self.price(call) is None:
            return _BILLS["unknown"]
        status = outcome.status
        if status in _CREATED and self._choices.unsuccessful != "billed":
            return self._by_body(outcome)
        bill = self._settled.get(status)
        if bill is None:
            bill = _BILLS["free" if status in _TURNED_AWAY else "unknown"]
        pause = paused(outcome)
        return Bill(bill.cost, pause) if pause else bill

    def _by_body(self, outcome: Outcome) -> Bill:
        if outcome.body is None:
            return Bill(None, wants_body=True)
        failed = _loaded(outcome).get("success") is False
        return _BILLS[self._choices.unsuccessful if failed else "billed"]

    def read_stats(self, outcome: Outcome) -> Reading:
        """Return the reading in an answer about the current period.

        Used, limit and locked leads that disagree are taken at their worst; the usage's
        *extra* then has what was said. A period that cannot be read is unknown, and
        stands in ``extra["unreadable"]``.

        Raises:
            StatsForbidden: 401 and 403, or an error whose code is about the key.
            StatsUnavailable: any other status but 200, or ``"success": false``.
            StatsUnreadable: used, limit or locked cannot be read.
            NoSubscription: there is no period, as without an active subscription.
        """
        return self._read(outcome, partial(self._reading, outcome))

    def _read(self, outcome: Outcome, build: Callable[[object], T]) -> T:
        def successful(said: object) -> T:
            if not Fields(said).flag("success"):
                raise self._refusal(outcome)
            return build(said)

        if outcome.status != 200:
            raise self._refusal(outcome)
        return self._faults.read(outcome, successful)

    def _reading(self, outcome: Outcome, said: object) -> Reading:
        top = Fields(said)
        top.flag("success")
        data = top.inside("data")
        usage = data.inside("usage")
        period = self._period(outcome, usage)
        leads = self._usage(usage)
        extra = {**top.extra, **({"data": data.extra} if data.extra else {})}
        if period is None:
            extra["unreadable"] = (usage.path("periodEnd"),)
        return Reading({"leads": leads}, period or UNKNOWN_PERIOD, extra)

    def _period(self, outcome: Outcome, usage: Fields) -> Period | None:
        """Return the period; its end is told as its last millisecond. None: no dates."""
        start, end = (usage.maybe(Fields.take, name) for name in ("periodStart", "periodEnd"))
        if start is None or end is None:
            if self._choices.no_subscription == "open":
                return UNKNOWN_PERIOD
            path = usage.path("periodStart" if start is None else "periodEnd")
            said = f"there is no active subscription, for there is no {path}"
            raise self._faults.of(NoSubscription, said, outcome, path=path)
        if not isinstance(start, str) or not isinstance(end, str):
            return None
        try:
            return Period.parse(start, end, inclusive=True)
        except ValueError:
            return None

    def _usage(self, usage: Fields) -> Usage:
        used, limit = usage.whole("leadsUsed"), self._limit(usage)
        if self._choices.locked == "ignored":
            return Usage(used, limit, usage.extra)
        locked = usage.whole("lockedLeads")
        extra = {"lockedLeads": locked, **usage.extra}
        if not locked:
            return Usage(used, limit, extra)
        # The limit gives way and not the count, which tells how fast others spend; and
        # what is locked lies past the limit, also where used does not go on there.
        plan = used if limit is None else min(limit, used)
        most = max(used, plan + locked)
        told = {} if (most, plan) == (used, limit) else {"leadsUsed": used, "leadsLimit": limit}
        return Usage(most, plan, {**told, **extra})

    def _limit(self, usage: Fields) -> int | None:
        name = "leadsLimit"
        missing = name not in usage.extra
        said = None if missing else usage.take(name)
        spelled = "missing" if missing else _spelling(said)
        if spelled in self._choices.unlimited:
            return None
        limit = whole(said)
        if limit is None:
            why = f"it is {spelled}" if spelled else "it is no whole number from 0 upwards"
            more = ", whose meaning OctanistChoices(unlimited=...) may tell" if spelled else ""
            raise Unfit(usage.path(name), why + more)
        return limit

    def _refusal(self, outcome: Outcome) -> ProviderError:
        status = outcome.status
        code, request = _code_and_request(outcome)
        named = f" ({code})" if code in _CODES else ""
        kind: type[ProviderError] = StatsUnavailable
        said = f"the stats endpoint answered {status}{named}"
        # A fault of theirs must not end the polls, whatever it calls itself.
        if status in (401, 403) or (status < 500 and code in _KEY_CODES):
            kind, said = StatsForbidden, f"the stats endpoint refuses the API key ({status})"
        elif status == 200:
            said = f"the stats endpoint says that it was not successful{named}"
        return self._faults.of(kind, said, outcome, code=code, request_id=request)


def _spelling(said: object) -> str:
    """Return how a plan without a limit might say so, as `OctanistChoices` writes it."""
    if said is None:
        return "null"
    return str(int(said)) if type(said) in (int, float) and said in (0, -1) else ""


def _loaded(outcome: Outcome) -> Mapping[str, Any]:
    """Return the JSON object in an answer, nothing where there is none."""
    try:
        said = strict.load(outcome.body or b"")
    except ValueError:
        return NOTHING
    return said if isinstance(said, dict) else NOTHING


def _code_and_request(outcome: Outcome) -> tuple[str | None, str | None]:
    """Return ``error.code`` and ``meta.requestId``, None where there is no such text."""
    said = _loaded(outcome)
    error, meta = said.get("error"), said.get("meta")
    code = error.get("code") if isinstance(error, dict) else None
    request = meta.get("requestId") if isinstance(meta, dict) else None
    return _text(code), _text(request)


def _text(said: object) -> str | None:
    return said if isinstance(said, str) else None
