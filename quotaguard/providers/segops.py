"""SegOps: events and segments of a customer data platform, reconciled by ``/analytics/usage/``.

An accepted event counts one. Over a limit the answer is 429 with ``Retry-After``, the
same for the minute's rate and for the month: only the next reading tells them apart.
Source of the rules: SegOps' pages on analytics, ingestion, authentication and plan
limits; what they leave open is a choice (`SegOpsChoices`), and in doubt it was billed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from quotaguard.quota.answers import Faults, paused, retry_after
from quotaguard.quota.calls import Bill, Call, Cost, Evidence, Outcome, Price, Report, StatsRequest
from quotaguard.quota.fields import Fields, Unfit, whole
from quotaguard.quota.origin import home
from quotaguard.quota.readings import NOTHING, UNKNOWN_PERIOD, Meter, Period, Reading, Usage
from quotaguard.quota.secret import Handed, Secret
from quotaguard.reports import segops as reports

__all__ = ["SegOps", "SegOpsChoices"]

_NAME = "segops"
_REAL = "https://api.segops.ai"
_USAGE = "usage"
_METERS = ("events", "users", "segments", "ai_credits")

_TRACK, _BATCH, _CREATE = "events.track", "events.track_batch", "segments.create"
_ONE_EVENT: Cost = MappingProxyType({"events": 1})
_ONE_SEGMENT: Cost = MappingProxyType({"segments": 1})
_COSTS: Mapping[str, Cost] = {_TRACK: _ONE_EVENT, _BATCH: NOTHING, _CREATE: _ONE_SEGMENT}
_PATHS = {_TRACK: "/api/ingestion/track/", _BATCH: "/api/ingestion/track/batch/"}

_FREE = Bill(NOTHING)
_UNKNOWN = Bill(None)
_SETTLED: Mapping[tuple[str, int], Bill] = {
    (_TRACK, 202): Bill(_ONE_EVENT),
    (_CREATE, 200): Bill(_ONE_SEGMENT),
    (_CREATE, 201): Bill(_ONE_SEGMENT),
    # Some of a batch may be skipped, and only the body says how many.
    (_BATCH, 202): Bill(None, wants_body=True),
}
_TURNED_AWAY = range(300, 500)
"""What a redirect leads to is priced by its own URL; an error of ours is free."""

_DOUBT = Evidence("doubt")

LONGEST_RATE = 60.0
"""Seconds of a pause: the documented rates are by the minute, so that a longer Retry-After
is about the month, and of that the reading tells."""

LONGEST_READ = 256 * 1024
"""Bytes of a batch that are read for its length: a longer one may not cost time."""

_PATH = re.compile(r"(?:/[\w.~-]+)+/?", re.ASCII)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegOpsChoices:
    """What SegOps' documents leave open.

    users: whether the users of a plan are a *level*, which a new period does not start
        again, or a *counter*, which it does. They are profiles that stay, and a level
        opens no door by the calendar.
    batch: events reserved for a batch whose length cannot be seen: a stream, a body that
        is not JSON, a decorated function without ``cost=``. 500 is the most that the
        documents allow in one call.
    pause: seconds without calls after a 429 that names none, up to 60. Their SDKs send
        what they have collected every 5 seconds.
    segments_path: where ``POST`` creates a segment, which then takes one of ``segments``.
        The path is not documented, it is inferred from the others; None guards none.

    Raises:
        ConfigError: a choice is out of its range.
    """

    users: Literal["level", "counter"] = "level"
    batch: int = 500
    pause: float = 5.0
    segments_path: str | None = "/api/segments/"

    def __post_init__(self) -> None:
        if self.users not in ("level", "counter"):
            raise ConfigError(f'users is "level" or "counter", not {self.users!r}')
        if type(self.batch) is not int or self.batch < 1:
            raise ConfigError("batch is a number of events from 1 upwards")
        if type(self.pause) not in (int, float) or not 0 <= self.pause <= LONGEST_RATE:
            raise ConfigError(f"pause is a number of seconds from 0 to {LONGEST_RATE:.0f}")
        path = self.segments_path
        if path is not None and (type(path) is not str or not _PATH.fullmatch(path)):
            raise ConfigError('segments_path is a path like "/api/segments/", or None')


_AS_THEY_ARE = SegOpsChoices()


class SegOps:
    """SegOps AI, as one account sees it. Give one of *api_key* and *token*.

    api_key: a secret key, which goes out as ``Authorization: ApiKey``.
    token: a JWT, which goes out as ``Authorization: Bearer``: a string, or a plain
        function without arguments that returns one. The function is called when a
        poll or report first needs it, and again after a 401; what it returned is
        kept meanwhile. It may be called by two threads at once, never by an event
        loop's own; what it raises fails the poll, which names only the class.
    base_url: an origin and, self-hosted, a path before ``/api``; https, or http on
        a loopback host.
    account: a name where several keys share one bill, or where they change. A string
        goes by itself without; without a name each function is an account of its own,
        and of this process alone.
    choices: what SegOps' documents leave open.

    Raises:
        ConfigError: the key, the account, the URL or the choices cannot be used.
    """

    __slots__ = (
        "_account",
        "_key",
        "_meters",
        "_operations",
        "_origin",
        "_pause",
        "_prefix",
        "_routes",
        "_scheme",
    )

    name: str = _NAME  # not Final: to pyright no ClassVar fits a Protocol's property
    key_headers: tuple[str, ...] = ("authorization",)
    polls_per_hour: float = 60.0
    """A polite guess: polls share the smallest plan's 60 calls a minute with the application."""

    def __init__(
        self,
        api_key: str | None = None,
        token: str | Callable[[], str] | None = None,
        *,
        base_url: str = _REAL,
        account: str | None = None,
        choices: SegOpsChoices = _AS_THEY_ARE,
    ) -> None:
        if (api_key is None) == (token is None):
            which = "neither is given" if token is None else "both are given"
            raise ConfigError(f"SegOps wants either api_key= or token=, and {which}")
        if not isinstance(choices, SegOpsChoices):
            raise ConfigError(f"choices= is SegOpsChoices(...), not {type(choices).__name__}")
        self._scheme = "Bearer" if api_key is None else "ApiKey"
        self._key = Handed(_NAME, token) if callable(token) else _secret(api_key or token)
        # What a function returns changes by the hour, so the function itself names the account.
        who = self._key if isinstance(self._key, Secret) else Secret(f"function {self._key.name}")
        place = home(_NAME, _REAL, base_url, account, who, inside="/api")
        self._origin, self._prefix, self._account = place
        self._pause = choices.pause
        kinds = {"users": choices.users, "segments": "level"}
        self._meters = {name: Meter(name, kinds.get(name, "counter")) for name in _METERS}
        costs = {**_COSTS, _BATCH: MappingProxyType({"events": choices.batch})}
        paths = {**_PATHS, _CREATE: choices.segments_path}
        self._operations = costs
        self._routes = {
            ("POST", f"{self._prefix}{path.rstrip('/')}{slash}"): Price(name, costs[name])
            for name, path in paths.items()
            if path is not None
            for slash in ("/", "")
        }

    def __repr__(self) -> str:
        return f"<SegOps {self._origin.partition('://')[2]}>"

    @property
    def account(self) -> str:
        """The digest that names the account in ledgers and logs; never the key."""
        return self._account

    @property
    def meters(self) -> Mapping[str, Meter]:
        """``events``, ``users``, ``segments`` and ``ai_credits``."""
        return self._meters

    @property
    def operations(self) -> Mapping[str, Cost]:
        """``events.track``, ``events.track_batch`` and ``segments.create``."""
        return self._operations

    @property
    def reports(self) -> Mapping[str, Callable[..., Report[Any]]]:
        """The six analytics endpoints; none takes an argument."""
        read = {
            "overview": reports.overview,
            "segments": reports.segments,
            "overlap": reports.overlap,
            "activations": reports.activations,
            "copilot": reports.copilot,
            _USAGE: reports.usage,
        }
        return {name: partial(self._report, name, build) for name, build in read.items()}

    def _report(self, name: str, build: Callable[[object], T]) -> Report[T]:
        return Report((name,), partial(self._asking, name), partial(self._told, name, build))

    def _told(self, name: str, build: Callable[[object], T], outcome: Outcome) -> T:
        if outcome.status != 200:
            raise self._refusal(outcome, name)
        return self._faults.read(outcome, build)

    # -- the stats exchange -----------------------------------------------------

    @property
    def asks_for_key(self) -> bool:
        """Whether the next `stats_request` asks the application for a key, and may block."""
        return isinstance(self._key, Handed) and self._key.kept is None

    def stats_request(self, _wall: float = 0.0, /) -> StatsRequest:
        """Return the stats poll. It carries the key.

        Raises:
            StatsUnavailable: a key is needed, and the function did not return one.
        """
        return self._asking(_USAGE)

    def _asking(self, name: str) -> StatsRequest:
        own = self._key
        if isinstance(own, Secret):
            return self._request(name, own)
        key = own.key()
        return self._request(name, key, lambda: self._request(name, own.key(refused=key)))

    def _request(
        self, name: str, key: Secret, again: Callable[[], StatsRequest] | None = None
    ) -> StatsRequest:
        headers = {"Authorization": f"{self._scheme} {key.reveal()}", "Accept": "application/json"}
        url = f"{self._origin}{self._prefix}/api/analytics/{name}/"
        return StatsRequest("GET", url, headers, again=again)

    @property
    def _faults(self) -> Faults:
        own = self._key
        return Faults(_NAME, own if isinstance(own, Secret) else own.kept)

    def read_stats(self, outcome: Outcome) -> Reading:
        """Return the reading in an answer of ``/analytics/usage/``.

        A metric that is missing or broken is left out; ``extra["unreadable"]`` names
        it, and ``period_end`` where no end can be read.

        Raises:
            StatsForbidden: 401 or 403.
            NoSubscription: 404 in SegOps' own words, ``{"detail": ...}``.
            StatsUnavailable: any other status but 200; a 404 of somebody else, too.
            StatsUnreadable: no metric at all can be read.
        """
        if outcome.status != 200:
            raise self._refusal(outcome, _USAGE)
        return self._faults.read(outcome, _reading)

    def _refusal(self, outcome: Outcome, name: str) -> ProviderError:
        status, words = outcome.status, _words(outcome.body)
        kind: type[ProviderError] = StatsUnavailable
        said = f"the {name} endpoint answered {status}"
        if status == 401:
            kind, said = StatsForbidden, f"the {name} endpoint refuses the key (401)"
        elif status == 403:
            kind = StatsForbidden
            said = f"the key's role or the plan does not allow the {name} endpoint (403)"
        elif status == 404 and name == _USAGE and isinstance(words.get("detail"), str):
            kind, said = NoSubscription, "the account has no subscription (404)"
        code = words.get("code")
        code = code if isinstance(code, str) else None
        return self._faults.of(kind, said, outcome, code=code)

    # -- calls --------------------------------------------------------------------

    def price(self, call: Call) -> Price | None:
        """Return one event, a batch's events or one segment; None for what has no meter."""
        if call.origin != self._origin:
            return None
        price = self._routes.get((call.method, call.path))
        if price is None or price.operation != _BATCH:
            return price
        length = _length(call.body)
        return price if length is None else Price(_BATCH, {"events": length})

    def foreign(self, call: Call) -> bool:
        """Whether *call* carries an ApiKey that is not ours.

        JWTs change by the hour: one that we do not know counts as ours, in doubt.
        """
        scheme, _, key = call.headers.get("authorization", "").partition(" ")
        own = self._key
        if scheme.lower() != "apikey" or self._scheme != "ApiKey" or not isinstance(own, Secret):
            return False
        return not (key.isascii() and own.matches(key.strip()))

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        """Return what *call* cost.

        202 is an event; of a batch as many as the body says were queued, or all of
        them where it cannot be read. 3xx and 4xx are free. Other 2xx and 5xx are
        unknown. 429 pauses, and asks for the reading that tells rate from month.
        """
        price = self._routes.get((call.method, call.path)) if call.origin == self._origin else None
        if price is None:
            return _UNKNOWN
        status = outcome.status
        if status == 429:
            return Bill(NOTHING, self._throttled(outcome))
        bill = _SETTLED.get((price.operation, status))
        if bill is None:
            pause = paused(outcome)
            return _FREE if status in _TURNED_AWAY else Bill(None, pause) if pause else _UNKNOWN
        return _queued(outcome.body) if bill.wants_body and outcome.body is not None else bill

    def _throttled(self, outcome: Outcome) -> tuple[Evidence, ...]:
        seconds = min(retry_after(outcome.headers) or self._pause, LONGEST_RATE)
        return (Evidence("pause", seconds=seconds), _DOUBT) if seconds > 0 else (_DOUBT,)


def _secret(said: Any) -> Secret:  # noqa: ANN401 - whatever the user gave
    """Return *said* as a key that a header can carry; ConfigError where it is none."""
    Secret(said)  # refuses what is no text
    return Secret(said.strip())


def _words(body: bytes | None) -> Mapping[str, Any]:
    """Return the object in an error's body; nothing where there is none."""
    try:
        said = strict.load(body or b"")
    except ValueError:
        return NOTHING
    return said if isinstance(said, dict) else NOTHING


def _length(body: bytes | None) -> int | None:
    """Return the number of events in the body of a batch; None where it does not tell."""
    events = _words(body).get("events") if body and len(body) <= LONGEST_READ else None
    return len(events) if isinstance(events, list) else None


def _queued(body: bytes | None) -> Bill:
    queued = whole(_words(body).get("queued"))
    return _UNKNOWN if queued is None else Bill({"events": queued})


def _reading(said: object) -> Reading:
    """Return the reading in the JSON of an answer; Unfit where no metric can be read."""
    top = Fields(said)
    usages: dict[str, Usage] = {}
    unreadable: list[str] = []
    fault: Unfit | None = None
    for name in _METERS:
        try:
            usages[name] = _usage(top.inside(name))
        except Unfit as unfit:
            fault = fault or unfit
            unreadable.append(name)
    if not usages and fault is not None:
        raise fault
    period = _period(top)
    if period.end is None:
        unreadable.append("period_end")
    extra = {**top.extra, **({"unreadable": tuple(unreadable)} if unreadable else {})}
    return Reading(usages, period, extra)


def _usage(metric: Fields) -> Usage:
    used, limit = metric.whole("used"), reports.limit(metric, "limit")
    return Usage(used, limit, metric.extra)


def _period(top: Fields) -> Period:
    """Return the billing period; its bare dates are both inclusive."""
    start, end = (top.maybe(Fields.take, name) for name in ("period_start", "period_end"))
    if not isinstance(start, str | None) or not isinstance(end, str):
        return UNKNOWN_PERIOD
    try:
        return Period.parse(start, end, inclusive=True)
    except ValueError:
        return UNKNOWN_PERIOD
