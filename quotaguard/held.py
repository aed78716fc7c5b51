"""Units that are held for a call: how they end, and what can be seen of them.

Ctrl-C may come at any moment, and CPython raises it where a function begins, where a
call into C has returned, and where a loop turns: never within a run of plain
assignments. So whatever changes hands here changes it in one such run, and what was
stopped half way can be ended by whoever comes next.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any
from weakref import ref

from quotaguard.covering import counted, forget_lent
from quotaguard.errors import ConfigError
from quotaguard.opening import name_of
from quotaguard.quota.entries import Unblocked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quotaguard.ledgers import Holder
    from quotaguard.quota.calls import Cost
    from quotaguard.spending import Spending

__all__ = [
    "DEFERRED",
    "NEW",
    "OPEN",
    "REFUSED",
    "RELEASED",
    "SETTLED",
    "UNKNOWN",
    "VOID",
    "Held",
    "ids",
]

NEW, OPEN, DEFERRED = "new", "open", "deferred"
SETTLED, RELEASED, UNKNOWN, REFUSED, VOID = "settled", "released", "unknown", "refused", "void"

ids = itertools.count(1)
"""Of the reservations that are known by one: those that ask the books, or outlive a call."""


class Held:
    """What a `Reservation` is once it holds units."""

    # Class attributes are the values of a reservation that nothing special happened to:
    # most are, and setting them one by one costs as much as the decision.
    state = NEW
    actual: Mapping[str, int] | None = None
    id = 0
    lapses_at: float | None = None
    _lent: list[Held] | None = None
    _borrowed: tuple[ref[Held], dict[str, int], float | None] | None = None
    _asked: float | None = None
    _probes: tuple[str, ...] = ()
    _epoch = 0
    _spending: Spending
    _holder: Holder
    _cost: dict[str, int]
    priority: str

    def _take_over(self) -> None:
        """Own what was granted under our name, in one run: Ctrl-C cannot come between."""
        holder, name = self._holder, name_of(self)
        if name in holder.unowned:
            self._epoch = holder.epoch
            self.state = OPEN
            try:
                del holder.unowned[name]
            except KeyError:  # the ledger's thread has taken it back just now
                self.state = VOID

    def _withdraw(self) -> None:
        """End what was stopped as it opened: nothing was sent."""
        if self.state is NEW:
            self._take_over()
        if self.state is OPEN:
            self.release()

    def settle(self, actual: Cost | None = None) -> None:
        """End with the units that the call cost; None is what was reserved.

        actual: units per meter, a meter left out cost nothing. More than was
        reserved is counted, and told as `Degraded` (state ``underpriced``).

        Raises:
            ConfigError: a meter is not known, a count is no number; or the
                reservation has ended already.
        """
        if self.state is not OPEN and self._ended():
            return
        self.settle_units(self._cost if actual is None else counted(self, actual))

    def settle_units(self, spent: Mapping[str, int], end: str = SETTLED) -> None:
        """End with *spent*, integer units of reserved meters that need no check."""
        holder = self._holder
        with holder.lock:
            if (self.state is not OPEN or self.id or self._epoch != holder.epoch) and self._void():
                return
            at = self._spending.slow()
            purses = holder.allotment.purses
            freed = under = False
            done = 0
            try:
                for meter, count in self._cost.items():
                    purse = purses[meter]
                    used = spent[meter] if meter in spent else 0  # noqa: SIM401 - `get` is a call
                    purse.opened -= count
                    if used:
                        purse.at = at
                        purse.spent += used
                    if used < count:
                        purse.cleared += used
                        purse.taken -= count - used
                        freed = True
                    else:
                        purse.cleared += count
                        purse.taken += used - count
                        under = under or used > count
                    done += 1
            except BaseException:
                # Ctrl-C, which comes only as the loop turns: the other meters stay open.
                self._cost = dict([*self._cost.items()][done:])
                raise
            if freed:
                holder.queue.changes += 1
            self.state = end
            self.actual = spent
        if under or self._probes or self._spending.calls_told or (freed and holder.queue.busy):
            self._aftermath(spent, under=under)

    def release(self) -> None:
        """End without any charge: the call was provably not billed."""
        if self.state is not OPEN and self._ended():
            return
        self.settle_units({}, RELEASED)

    def give_up(self) -> None:
        """End without an answer: the outcome is unknown, it counts until it is known."""
        if self.state is not OPEN and self._ended():
            return
        holder, spending = self._holder, self._spending
        with holder.lock:
            if self._void():
                return
            until = spending.clock.now().slow + spending.late
            lapses = holder.allotment.given_up(self._cost, until)
            holder.allotment.lapses = lapses  # in one run with what follows, as above
            self.state = UNKNOWN
        spending.settled(self._cost, self._cost, unknown=True)

    def defer(self) -> None:
        """Outlive the call: the provider bills later, or not (a webhook tells).

        It becomes unknown if nobody settles it within `Policy.late` seconds.
        """
        if self.state is OPEN:
            self.lapses_at = self._spending.clock.now().slow + self._spending.late
            self.id = self.id or next(ids)
            self._spending.deferred[self.id] = self
            self.state = DEFERRED

    def close(self) -> None:
        """End unless it has ended: as unknown, or as settled by the calls it covered."""
        if self.state is OPEN:
            if self._lent and not any(self._cost.values()):
                self.state = SETTLED
                return
            self.give_up()

    def forget(self) -> None:
        """Close from a finalizer: those run anywhere, under our own lock too.

        So it only leaves a note, for the next who looks at the books.
        """
        if self.state is NEW and self.id:
            self._take_over()
        if self.state is OPEN or self.state is DEFERRED:
            self.state = UNKNOWN
            self._holder.forgotten.append((self._epoch, self._cost))
        elif self.state is NEW:
            forget_lent(self)

    def __del__(self) -> None:
        if self.state is not SETTLED:
            self.forget()

    def _void(self) -> bool:
        """Whether there is nothing to end (under the lock): ended meanwhile, or forked."""
        if self.state is not OPEN and self.state is not DEFERRED:
            return True
        if self._epoch != self._holder.epoch:
            self.state = VOID
        return self.state is VOID

    def _ended(self) -> bool:
        """Whether the end was reached without doing; deferred ones can still end."""
        if self.state is DEFERRED:
            return False
        if self.state is VOID:
            return True
        msg = f"this reservation is {self.state} and cannot be ended again"
        if self.state is NEW:
            msg = "this reservation is not open: enter it, 'with guard.reserve(...)'"
        raise ConfigError(msg)

    def _aftermath(self, spent: Mapping[str, int], *, under: bool) -> None:
        """Do what a settlement leads to: waiters, probes, events."""
        holder, spending = self._holder, self._spending
        holder.queue.wake()
        if self._probes and any(spent.get(name) for name in self._probes):
            spending.enter(Unblocked(self._probes))
        if under:
            spending.underpriced(spent, self._cost)
        if self.state is RELEASED:
            spending.released(self._cost)
        else:
            spending.settled(spent, self._cost)

    # -- looking ----------------------------------------------------------------

    @property
    def reserved(self) -> Mapping[str, Any]:
        """Units that are or were held, by meter."""
        return self._spending.amounts(self._cost)

    @property
    def settled(self) -> Mapping[str, Any] | None:
        """Units that the call cost, by meter; None as long as it is not known."""
        return None if self.actual is None else self._spending.amounts(self.actual)

    @property
    def headroom(self) -> dict[str, Any]:
        """Units that may still be safely spent now, by meter; None is unlimited."""
        return self._spending.headroom(self._cost)

    def __repr__(self) -> str:
        cost = ", ".join(f"{name}: {count}" for name, count in self.reserved.items())
        return f"<Reservation {self._spending.provider.name} {self.state}: {cost}>"
