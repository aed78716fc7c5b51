"""One reservation covers another: a decorated function that uses a guarded client.

What is lent moves: its owner is now the inner reservation, which settles it by its
own outcome. So a call is charged once, by whoever knows best what it cost.

Where the policy has rates the request moves too, whatever the units: one request goes
out, and it goes when the inner reservation is made, which may be much later. That is
entered instead of the outer one. A second inner request is one of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import ContextVar, Token

    from quotaguard.quota.calls import Cost
    from quotaguard.reservation import Reservation

__all__ = ["Covering", "borrow", "counted", "give_back", "uncover"]


def borrow(inner: Reservation, owner: Reservation | None) -> bool:
    """Let *inner* use the unspent units of *owner* first; True if they are enough.

    A reservation that has ended, of another account, or inherited by fork covers
    nothing. Where there are rates units are never enough: the books enter the request.
    What *inner* costs has been counted in units before.
    """
    holder = inner._holder
    if owner is None or owner._holder is not holder or owner.state != "open":
        return False
    need = inner._cost
    with holder.lock:
        if owner.state != "open" or owner._epoch != holder.epoch:
            return False
        lent = {name: min(count, owner._cost.get(name, 0)) for name, count in need.items()}
        asked, owner._asked = owner._asked, None
        if asked is None and not any(lent.values()):
            return False
        for name, count in lent.items():
            if count:
                owner._cost[name] -= count
        if any(lent.values()):
            owner._lent = [*(owner._lent or ()), inner]
    inner._borrowed = (owner, lent, asked)
    if lent != need or inner._spending.terms.rates.rates:
        return False
    inner._epoch = owner._epoch
    inner.state = "open"
    return True


def give_back(inner: Reservation) -> None:
    """Return what was lent to a reservation that was refused after all."""
    if inner._borrowed is None or inner.state == "open":
        return
    (owner, lent, asked), inner._borrowed = inner._borrowed, None
    with inner._holder.lock:
        if owner.state == "open":
            for name, count in lent.items():
                if count:
                    owner._cost[name] += count
            owner._lent = [other for other in owner._lent or () if other is not inner]
            owner._asked = asked if owner._asked is None else owner._asked
            return
    # The owner has ended meanwhile; nobody knows what became of these units.
    inner._holder.forgotten.append((owner._epoch, lent))


def counted(owner: Reservation, actual: Cost) -> Mapping[str, int]:
    """Return what *owner* must settle of *actual*, checked: less what others had of it."""
    if actual.__class__ is dict and not owner._lent and not owner._spending.fractional:
        for meter, count in actual.items():
            if count.__class__ is not int or count < 0 or meter not in owner._cost:
                break
        else:
            return cast("Mapping[str, int]", actual)
    spent = owner._spending.units_of(actual)
    for inner in owner._lent or ():
        told = inner._cost if inner.actual is None else inner.actual
        spent = {name: max(0, count - told.get(name, 0)) for name, count in spent.items()}
    beside = {name: 0 for name in spent if name not in owner._cost}
    if beside:
        with owner._holder.lock:
            for name in beside:
                owner._holder.allotment.purse(name)
            owner._cost = {**owner._cost, **beside}
    return spent


def uncover(token: Token[Reservation | None]) -> None:
    """Let what covered before *token* was made cover again."""
    try:
        token.var.reset(token)
    except ValueError:  # a coroutine that was thrown away is finalized in another context
        return


class Covering:
    """Says in a block that *owner* covers what is called there."""

    __slots__ = ("_current", "_owner", "_token")

    def __init__(self, current: ContextVar[Reservation | None], owner: Reservation) -> None:
        self._current = current
        self._owner = owner

    def __enter__(self) -> None:
        self._token = self._current.set(self._owner)

    def __exit__(self, *failure: object) -> None:
        uncover(self._token)
