"""One reservation covers another: a decorated function that uses a guarded client.

What is lent moves: its owner is now the inner reservation, which settles it by its
own outcome. So a call is charged once, by whoever knows best what it cost.

Where the policy has rates the request moves too, whatever the units: one request goes
out, and it goes when the inner reservation is made, which may be much later. That is
entered instead of the outer one. A second inner request is one of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import ContextVar, Token

    from quotaguard.held import Held
    from quotaguard.quota.calls import Cost

__all__ = ["Covering", "borrow", "counted", "forget_lent", "give_back", "uncover"]


def borrow(inner: Held, owner: Held | None) -> bool:
    """Let *inner* use the unspent units of *owner* first; True if they are enough.

    A reservation that has ended, of another account, or inherited by fork covers
    nothing. Where there are rates units are never enough: the books enter the request.
    What *inner* costs has been counted in units before.
    """
    holder = inner._holder
    if owner is None or owner._holder is not holder or owner.state != "open":
        return False
    need = inner._cost
    common = [name for name in need if name in owner._cost]
    with holder.lock:
        # Units are no longer its own once the lease is over, unless no ledger gave them.
        lapsed = inner._spending.fast() >= holder.lease_until and not holder.lent
        if owner.state != "open" or owner._epoch != holder.epoch or lapsed:
            return False
        parts = {name: min(need[name], owner._cost[name]) for name in common}
        asked = owner._asked
        if asked is None and not any(parts.values()):
            return False
        lent: dict[str, int] = {}
        inner._epoch = owner._epoch
        inner._borrowed = (ref(owner), lent, asked)
        owner._asked = None
        if any(parts.values()):
            owner._lent = [*(owner._lent or ()), inner]
        for name, count in parts.items():
            # In one run: wherever Ctrl-C comes, each unit is in one hand.
            owner._cost[name] -= count
            lent[name] = count
        short = any(count > lent.get(name, 0) for name, count in need.items())
        if short or inner._spending.terms.rates.rates:
            return False
        inner.state = "open"
    return True


def give_back(inner: Held) -> None:
    """Return what was lent to a reservation that was refused, or stopped, after all."""
    if inner._borrowed is None or inner.state != "new":
        return
    reference, lent, asked = inner._borrowed
    owner = reference()
    with inner._holder.lock:
        if owner is not None and owner.state == "open":
            owner._lent = _without(owner, inner)
            owner._asked = asked if owner._asked is None else owner._asked
            for name in lent:
                owner._cost[name] += lent[name]
                lent[name] = 0
            inner._borrowed = None
            return
    forget_lent(inner)


def _without(owner: Held, inner: Held) -> list[Held]:
    return [other for other in owner._lent or () if other is not inner]


def forget_lent(inner: Held) -> None:
    """Leave a note of what was lent: nobody knows what became of it. Takes no lock."""
    if inner._borrowed is not None:
        lent = inner._borrowed[1]
        inner._borrowed = None
        inner._holder.forgotten.append((inner._epoch, lent))


def counted(owner: Held, actual: Cost) -> Mapping[str, int]:
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


Cover: TypeAlias = "ref[Held] | None"
"""What covers the calls of a context. It is not kept alive there: who left a block
without the block's knowing it (Ctrl-C as its end begins) must not cover for ever."""


def uncover(token: Token[Cover]) -> None:
    """Let what covered before *token* was made cover again."""
    try:
        token.var.reset(token)
    except ValueError:  # a coroutine that was thrown away is finalized in another context
        return


class Covering:
    """Says in a block that *owner* covers what is called there."""

    __slots__ = ("_current", "_owner", "_token")

    def __init__(self, current: ContextVar[Cover], owner: Held) -> None:
        self._current = current
        self._owner = owner

    def __enter__(self) -> None:
        self._token = self._current.set(ref(self._owner))

    def __exit__(self, *failure: object) -> None:
        uncover(self._token)
