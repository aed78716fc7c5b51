"""The vendor on the bench: what is truly used, and the provider that asks for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from quotaguard.errors import StatsUnavailable
from quotaguard.quota.answers import Faults
from quotaguard.quota.calls import Bill, Call, Cost, Outcome, Price, Report, StatsRequest
from quotaguard.quota.fields import Fields
from quotaguard.quota.readings import Meter, Period, Reading, Usage
from quotaguard.quota.secret import Secret, account_digest

if TYPE_CHECKING:
    import httpx

__all__ = ["CALLS", "KEY", "UNITS", "BenchProvider", "Vendor"]

CALLS, UNITS = "calls", "units"
"""The meters on the bench."""

KEY = "kit-key-of-a-ledger-5c1e"

WALL = 1_700_000_000.0
DAY = 86_400.0

HOME = "https://vendor.example"


class Vendor:
    """A vendor whose charges show at once, unless they are *hidden*.

    limits: by meter, None for unlimited. used: what was truly spent. polls: how often it
    was asked. fails: a poll is answered with a fault that says the key.
    """

    def __init__(self, account: str, limits: Mapping[str, int | None]) -> None:
        self.account = account
        self.limits = dict(limits)
        self.used = dict.fromkeys(limits, 0)
        self.hidden = dict.fromkeys(limits, 0)
        self.polls = 0
        self.fails = False
        self.period = (WALL - 10 * DAY, WALL + 20 * DAY)
        self._lock = threading.Lock()

    def charge(self, cost: Mapping[str, int]) -> None:
        """A call was made."""
        with self._lock:
            for name, count in cost.items():
                self.used[name] += count

    def client(self) -> httpx.Client:
        """Return what carries polls to it; nothing is sent."""
        import httpx  # noqa: PLC0415 - httpx costs 80 ms

        return httpx.Client(transport=httpx.MockTransport(self._answer))

    def task_client(self) -> httpx.AsyncClient:
        """Return the same for event loops."""
        import httpx  # noqa: PLC0415 - as above

        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, _: httpx.Request) -> httpx.Response:
        import httpx  # noqa: PLC0415 - as above

        with self._lock:
            self.polls += 1
            if self.fails:
                return httpx.Response(500, json={"error": {"code": KEY, "message": KEY}})
            said: dict[str, Any] = {"from": self.period[0], "until": self.period[1]}
            for name, limit in self.limits.items():
                said[name] = {"used": self.used[name] - self.hidden[name], "limit": limit}
        return httpx.Response(200, json=said)


class BenchProvider:
    """Asks the vendor on the bench."""

    name = "kit"
    operations: ClassVar[Mapping[str, Cost]] = {}
    key_headers = ("x-api-key",)
    polls_per_hour = 3600.0
    reports: ClassVar[Mapping[str, Callable[..., Report[Any]]]] = {}

    def __init__(self, vendor: Vendor) -> None:
        self._key = Secret(KEY)
        self._faults = Faults(self.name, self._key)
        self.account = account_digest(self.name, vendor.account, self._key)
        self.meters = {name: Meter(name) for name in vendor.limits}

    def stats_request(self, wall: float, /) -> StatsRequest:  # noqa: ARG002 - the protocol's
        """Ask what is used."""
        return StatsRequest("GET", f"{HOME}/usage", {"X-Api-Key": self._key.reveal()})

    def read_stats(self, outcome: Outcome) -> Reading:
        """Read it."""
        if outcome.status != 200:
            said = f"the usage endpoint answered {outcome.status}"
            raise self._faults.of(StatsUnavailable, said, outcome)
        return self._faults.read(outcome, self._reading)

    def _reading(self, said: Any) -> Reading:  # noqa: ANN401 - JSON
        usages = {name: Fields(said[name]) for name in self.meters}
        return Reading(
            {
                name: Usage(each.whole("used"), each.maybe(Fields.whole, "limit"))
                for name, each in usages.items()
            },
            Period(said["from"], said["until"]),
        )

    def price(self, call: Call) -> Price | None:  # noqa: ARG002 - the protocol's
        """No call goes through a client here."""
        return None

    def foreign(self, call: Call) -> bool:  # noqa: ARG002 - the protocol's
        """No call goes through a client here."""
        return False

    def bill(self, call: Call, outcome: Outcome) -> Bill:  # noqa: ARG002 - the protocol's
        """No call goes through a client here."""
        return Bill(None)


def told(state: object) -> str:
    """Return books as a text in which something can be looked for."""
    return json.dumps(state, default=repr)
