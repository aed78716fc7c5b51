"""A made-up vendor, as a third party would teach it to the guard; and a fake of it.

``POST /v1/lookup {"codes": [...]}`` costs one unit per code that is found, and the body
says how many those were. ``GET /v1/usage`` tells what is used, null is no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quotaguard.errors import ProviderError, StatsForbidden, StatsUnavailable
from quotaguard.quota import strict
from quotaguard.quota.answers import Faults, paused
from quotaguard.quota.calls import Bill, Call, Cost, Outcome, Price, Report, StatsRequest
from quotaguard.quota.fields import Fields, whole
from quotaguard.quota.origin import home
from quotaguard.quota.readings import Meter, Period, Reading, Usage
from quotaguard.quota.secret import Secret
from quotaguard.testing.server import Fault, Reply, Request
from quotaguard.testing.spoiling import WIRE_FAULTS, asked
from quotaguard.testing.vendor import FakeVendor, Knobs, Script, turned

REAL = "https://api.postcodes.example"
MOST_CODES = 100


class Postcodes:
    """The made-up vendor's provider."""

    name: str = "postcodes"
    meters: Mapping[str, Meter] = {"lookups": Meter("lookups")}
    operations: Mapping[str, Cost] = {"lookup": {"lookups": 1}}
    key_headers: tuple[str, ...] = ("x-api-key",)
    polls_per_hour: float = 60.0

    def __init__(self, api_key: str, *, base_url: str = REAL, account: str | None = None) -> None:
        self._key = Secret(api_key)
        self._faults = Faults(self.name, self._key)
        self._origin, self._prefix, self._account = home(
            self.name, REAL, base_url, account, self._key
        )

    @property
    def account(self) -> str:
        return self._account

    @property
    def reports(self) -> Mapping[str, Callable[..., Report[Any]]]:
        return {"usage": self._usage}

    def _usage(self, day: str = "today") -> Report[dict[str, Any]]:
        def read(outcome: Outcome) -> dict[str, Any]:
            if outcome.status != 200:
                raise self._refusal(outcome)
            return self._faults.read(outcome, lambda said: Fields(said).extra)

        return Report(("usage", day), lambda: self.stats_request(0.0), read)

    def stats_request(self, wall: float, /) -> StatsRequest:
        return StatsRequest("GET", f"{self._origin}{self._prefix}/v1/usage", self._keyed())

    def _keyed(self) -> Mapping[str, str]:
        return {"X-Api-Key": self._key.reveal()}

    def read_stats(self, outcome: Outcome) -> Reading:
        if outcome.status != 200:
            raise self._refusal(outcome)
        return self._faults.read(outcome, self._reading)

    def _refusal(self, outcome: Outcome) -> ProviderError:
        kind = StatsForbidden if outcome.status in (401, 403) else StatsUnavailable
        return self._faults.of(kind, f"the usage endpoint answered {outcome.status}", outcome)

    def _reading(self, said: object) -> Reading:
        answer = Fields(said)
        usage = Usage(answer.whole("used"), answer.maybe(Fields.whole, "limit"))
        try:
            period = Period.parse(answer.maybe(Fields.text, "from"), answer.text("until"))
        except ValueError:
            period = Period()
        return Reading({"lookups": usage}, period, answer.extra)

    def price(self, call: Call) -> Price | None:
        here = (call.method, call.origin, call.path)
        if here != ("POST", self._origin, f"{self._prefix}/v1/lookup"):
            return None
        return Price("lookup", {"lookups": self._asked(call)})

    def _asked(self, call: Call) -> int:
        """Return how many codes a call asks for, the most that it may where that is not known."""
        try:
            said = strict.load(call.body or b"")
        except ValueError:
            return MOST_CODES
        codes = said.get("codes") if isinstance(said, dict) else None
        return len(codes) if isinstance(codes, list) and codes else MOST_CODES

    def foreign(self, call: Call) -> bool:
        said = call.headers.get("x-api-key")
        return said is not None and not self._key.matches(said)

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        if outcome.status != 200:
            free = 300 <= outcome.status < 500
            return Bill({} if free else None, paused(outcome))
        if outcome.body is None:
            return Bill(None, wants_body=True)
        try:
            said = strict.load(outcome.body)
        except ValueError:
            return Bill(None)
        found = whole(said.get("found")) if isinstance(said, dict) else None
        return Bill(None if found is None else {"lookups": min(found, self._asked(call))})

    def __repr__(self) -> str:
        return "<Postcodes>"


def answer(used: float | None, limit: float | None, **more: Any) -> dict[str, Any]:
    """Return what the usage endpoint says."""
    month = {"from": "2023-11-01T00:00:00Z", "until": "2023-12-01T00:00:00Z"}
    return {"used": used, "limit": limit, **month, **more}


class FakePostcodes(FakeVendor):
    """The made-up vendor on loopback; every code is found."""

    def __init__(self, **knobs: Any) -> None:
        self._turned = turned(Knobs, knobs)
        scripts = {
            "calls": Script(self._turned.faults, WIRE_FAULTS),
            "stats": Script(self._turned.stats_faults, WIRE_FAULTS),
        }
        super().__init__(self._turned, self._turned.rules(("lookups",), {}, ["lookups"]), scripts)

    @property
    def polls(self) -> int:
        return self.requests["/v1/usage"]

    def _told(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
        return Reply.json(status, {"error": message}, headers)

    def _route(self, request: Request) -> Reply | Fault:
        if request.headers.get("x-api-key") != self._turned.key:
            return self._told(401, "who are you?")
        if request.path == "/v1/usage":
            return self._spoiled("stats", request, self._usage)
        if request.path == "/v1/lookup":
            return self._spoiled("calls", request, self._lookup)
        return self._told(404, "there is no such thing")

    def _usage(self, _: Request) -> Reply:
        counts, billing = self._metering.shown()
        said = {"used": counts["lookups"], "limit": self.quota}
        return Reply.json(200, {**said, "from": billing.texts[0], "until": billing.texts[1]})

    def _lookup(self, request: Request) -> Reply:
        codes = (asked(request.body) or {}).get("codes", [])
        return Reply.json(200, {"found": self._metering.charge(("lookups",), count=len(codes))})
