"""Guards without a network, and the peers' own calls."""

from __future__ import annotations

import json
import time

import httpx

from quotaguard import FullContact, Guard, MemoryLedger, Policy

METER = "person.enrichment.matches"
COST = {METER: 1}
FAR = 10**12
"""A limit that no benchmark comes near."""

PERIOD_SECONDS = 30 * 86_400
"""Over which peers state their limits, so that nothing refills in a timed loop."""


def _stamp(days: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + days * 86_400))


def answer(quota: int | None, used: int = 0) -> bytes:
    """Return what FullContact's stats endpoint says in the first third of a period."""
    metric = {"count": used, "quota": quota, "overQuota": False}
    free = {"count": 0, "quota": None, "overQuota": False}
    enrichment = {"matches": metric, "misses": free, "total": free}
    person = {"enrichment": enrichment, "subscriptions": free}
    said = {
        "period": {"start": _stamp(-10), "end": _stamp(20)},
        "stats": {"person": person, "company": {"enrichment": enrichment}},
    }
    return json.dumps(said).encode()


class Office:
    """Answers stats polls from memory, for any number of guards."""

    def __init__(self, quota: int = FAR, used: int = 0) -> None:
        self.polls = 0
        self._body = answer(quota, used)
        self.client = httpx.Client(transport=httpx.MockTransport(self._tell), trust_env=False)

    def _tell(self, _: httpx.Request) -> httpx.Response:
        self.polls += 1
        headers = {"content-type": "application/json"}
        return httpx.Response(200, headers=headers, content=self._body)

    def guard(
        self, key: str = "key", *, policy: Policy | None = None, ledger: MemoryLedger | None = None
    ) -> Guard:
        """Return a guard of fresh books, as a user makes it; nothing is polled yet."""
        provider = FullContact(key)
        return Guard(
            provider, policy=policy, ledger=ledger or MemoryLedger(), stats_client=self.client
        )


FAR_OFF = Office()
SPENT = Office(quota=1_000, used=1_000)


def warmed(guard: Guard) -> Guard:
    """Make the call that polls, so that the reading is there."""
    with guard.reserve(COST) as reservation:
        reservation.settle(COST)
    return guard
