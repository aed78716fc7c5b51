"""How the books are asked, to go or only to know, and what is remembered of a refusal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quotaguard.errors import LedgerUnavailable, QuotaExhausted, Refusal, RefusalFacts
from quotaguard.ledgers import Denial
from quotaguard.quota.admission import Request
from quotaguard.quota.allotment import NO_ROOM
from quotaguard.quota.entries import Check, Reserve
from quotaguard.quota.standing import Decision, decision
from quotaguard.quota.verdicts import Done, Granted, Spent
from quotaguard.spending import SWITCH
from quotaguard.waiting import in_event_loop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quotaguard.quota.calls import Cost
    from quotaguard.quota.verdicts import Verdict
    from quotaguard.reservation import Reservation
    from quotaguard.spending import Spending

__all__ = ["ASK", "MISSING", "full_check", "quick_check", "remember", "request_of"]


class _Missing:
    """Marks the absence of a fallback, which may be any value, None too."""

    def __repr__(self) -> str:
        return "<no fallback>"


MISSING: Any = _Missing()

ASK = Denial(-1, 0.0, 0.0, Refusal, RefusalFacts(provider="", account="", meter=""))
"""Not denied, and not open: the books must be asked."""


def request_of(wanting: Reservation) -> Request:
    """Return what *wanting* asks the books for: not what it has borrowed.

    Raises:
        ConfigError: a meter, a count, the priority or max_wait is none.
    """
    spending = wanting._spending
    spending.rank(wanting.priority)
    if not spending.odd:  # else it is counted in units already, and 1.5 is no longer 1.5
        wanting._cost = spending.units_of(wanting._cost)
    need, moved = wanting._cost, None
    if wanting._borrowed is not None:
        _, lent, moved = wanting._borrowed
        lacks = {name: n - lent.get(name, 0) for name, n in need.items() if n > lent.get(name, 0)}
        need = lacks or dict.fromkeys(need, 0)
    return Request(
        name=wanting._name,
        cost=need,
        priority=wanting.priority,
        max_wait=_patience(wanting),
        at=spending.fast(),
        on_exhausted=spending.policy.on_exhausted,
        shadow=spending.policy.shadow,
        lanes=dict.fromkeys(wanting._holder.allotment.purses, 0),
        moved=moved,
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
    until = min(refusal.stays, wanting._spending.fast() + holder.denies_for)
    denial = Denial(count, wait, until, type(refusal), facts, wanting._changes)
    holder.denials[facts.meter, wanting.priority] = denial


# -- only to know -----------------------------------------------------------------


def quick_check(spending: Spending, cost: Cost, priority: str) -> Decision | None:
    """Answer from the lanes and the denials, None if the books must be asked."""
    holder = spending.holder
    if SWITCH.off or cost.__class__ is not dict or len(cost) != 1 or spending.fractional:
        return None
    ((meter, count),) = cost.items()
    with holder.lock:
        fast = spending.fast()
        purse = holder.allotment.purses.get(meter)
        if count.__class__ is not int or count < 0:
            return None
        if (
            purse is not None
            and fast < purse.end
            and purse.taken + count <= purse.room.get(priority, NO_ROOM)
        ):
            left = purse.headroom
            headroom = None if left is None else left - purse.taken
            return Decision(True, "", meter, headroom)  # noqa: FBT003
        denial = holder.denials.get((meter, priority))
        if denial is None or denial.changes != holder.queue.changes:
            return None
    if denial.units != count or fast >= denial.until:
        return None
    facts = denial.facts
    reason = facts.reason or ("exhausted" if facts.retry_after is None else "not confirmed")
    return Decision(False, reason, meter, facts.headroom, facts.retry_after, facts.resets_at)  # noqa: FBT003


def full_check(spending: Spending, cost: Cost, priority: str) -> Decision:
    """Answer from the books, and remember a refusal that will stay one.

    Raises:
        ConfigError: a meter, a count or the priority is none.
    """
    spending.rank(priority)
    if SWITCH.off:
        return Decision(True, "quotaguard is disabled")  # noqa: FBT003
    ahead = dict.fromkeys(spending.holder.allotment.purses, 0)
    counted = spending.units_of(cost)
    if spending.holder.waits and in_event_loop():
        return _seen_check(spending, Check(counted, priority, None))
    changes, asked = spending.holder.queue.changes, spending.fast()
    try:
        verdict = spending.post(Check(counted, priority, ahead))
    except LedgerUnavailable as error:
        return _blind_check(spending, counted, priority, error)
    if isinstance(verdict, Spent) and len(counted) == 1:
        _remember_spent(spending, counted, priority, verdict, changes, asked)
    return _decided(verdict)


def _decided(verdict: Verdict) -> Decision:
    if isinstance(verdict, Done):
        return Decision(True, "a poll comes first")  # noqa: FBT003
    return decision(None if isinstance(verdict, Granted) else verdict)


def _seen_check(spending: Spending, check: Check) -> Decision:
    """Answer from the books as they were last seen: an event loop never waits for a store."""
    holder = spending.holder
    books = holder.seen()
    if books is None:
        return Decision(True, "the books are read first")  # noqa: FBT003
    if spending.ledger_error is not None:
        return _blind_check(spending, check.cost, check.priority, spending.ledger_error)
    posted = books.post(holder.name, {}, check, holder.moment(), spending.terms)
    return _decided(posted.verdict)


def _blind_check(
    spending: Spending, cost: Mapping[str, int], priority: str, error: LedgerUnavailable
) -> Decision:
    """Answer as `Policy.on_ledger_down` would let a call go."""
    verdict = spending.without_ledger(Reserve("", cost, priority), error, lends=False)
    return decision(None if isinstance(verdict, Granted) else verdict)


def _remember_spent(
    spending: Spending,
    cost: dict[str, int],
    priority: str,
    spent: Spent,
    changes: int,
    asked: float,
) -> None:
    """Keep what a check of *cost* (one meter) found, for those who ask the same."""
    ((meter, count),) = cost.items()
    final = spent.heals is None and spending.policy.on_exhausted != "wait"
    wait = math.inf if final else 0.0
    until = asked + min(spent.stays, spending.holder.denies_for)
    denial = Denial(count, wait, until, QuotaExhausted, spent.facts, changes)
    spending.holder.denials[meter, priority] = denial
