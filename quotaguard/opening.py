"""How a reservation asks the books, and what it remembers of being refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quotaguard.errors import QuotaExhausted, Refusal, RefusalFacts
from quotaguard.ledgers import Denial
from quotaguard.quota.admission import Request

if TYPE_CHECKING:
    from quotaguard.held import Held
    from quotaguard.quota.verdicts import Spent
    from quotaguard.reservation import Reservation
    from quotaguard.spending import Spending

__all__ = ["ASK", "MISSING", "name_of", "remember", "remember_spent", "request_of"]


class _Missing:
    """Marks the absence of a fallback, which may be any value, None too."""

    def __repr__(self) -> str:
        return "<no fallback>"


MISSING: Any = _Missing()

ASK = Denial(-1, 0.0, 0.0, Refusal, RefusalFacts(provider="", account="", meter=""))
"""Not denied, and not open: the books must be asked."""


def name_of(wanting: Held) -> str:
    """Return the name under which *wanting* asks: no other ever had or will have it."""
    return f"{wanting._holder.name}.{wanting.id}"


def request_of(wanting: Reservation) -> Request:
    """Return what *wanting* asks the books for: not what it has borrowed.

    Raises:
        ConfigError: a meter, a count, the priority or max_wait is none.
    """
    spending = wanting._spending
    spending.rank(wanting.priority)
    need = wanting._cost = spending.units_of(wanting._cost)
    if wanting._borrowed is not None:
        lent = wanting._borrowed[1]
        need = {name: n - lent.get(name, 0) for name, n in need.items() if n > lent.get(name, 0)}
    return Request(
        name=name_of(wanting),
        cost=need,
        priority=wanting.priority,
        max_wait=_patience(wanting),
        at=spending.fast(),
        on_exhausted=spending.policy.on_exhausted,
        shadow=spending.policy.shadow,
        lanes=dict.fromkeys(wanting._holder.allotment.purses, 0),
    )


def _patience(wanting: Reservation) -> float:
    spending, own = wanting._spending, wanting._max_wait
    return spending.max_wait if own is None else spending.wait(own)


def remember(wanting: Reservation, refusal: Refusal) -> None:
    """Keep the refusal for those who ask the same, until it may no longer be true."""
    facts, holder = refusal.facts, wanting._holder
    if not refusal.stays or len(wanting._cost) != 1 or facts.meter not in wanting._cost:
        return
    wait = _patience(wanting)
    if facts.retry_after is None and wanting._spending.policy.on_exhausted != "wait":
        wait = math.inf
    count = wanting._cost[facts.meter]
    denial = Denial(count, wait, refusal.stays, type(refusal), facts, wanting._changes)
    holder.denials[facts.meter, wanting.priority] = denial


def remember_spent(
    spending: Spending, cost: dict[str, int], priority: str, spent: Spent, changes: int
) -> None:
    """Keep what a check of *cost* (one meter) found, for those who ask the same."""
    ((meter, count),) = cost.items()
    final = spent.heals is None and spending.policy.on_exhausted != "wait"
    wait = math.inf if final else 0.0
    denial = Denial(count, wait, spent.until, QuotaExhausted, spent.facts, changes)
    spending.holder.denials[meter, priority] = denial
