"""Reservations: units held for a call in flight.

A reservation is a few numbers in this process: units of an allotment that the
books have granted. The common case, plenty of headroom, takes the fast lane: it
is `Allotment.take` and `Allotment.settle` unrolled under one lock, and generated
histories prove it to be the story's decision. Everything else is the story.
"""

from __future__ import annotations

import itertools
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self

from quotaguard.covering import Covering, borrow, counted, give_back, uncover
from quotaguard.drivers import adrive, drive
from quotaguard.errors import ConfigError, QuotaUnknown, Refusal
from quotaguard.opening import ASK, MISSING, remember, request_of
from quotaguard.quota.admission import reserving
from quotaguard.quota.allotment import NO_ROOM
from quotaguard.quota.entries import Unblocked
from quotaguard.spending import SWITCH, Spending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quotaguard.ledgers import Denial
    from quotaguard.quota.admission import Story
    from quotaguard.quota.calls import Cost
    from quotaguard.quota.verdicts import Granted

__all__ = ["MISSING", "Reservation"]


NEW, OPEN, DEFERRED = "new", "open", "deferred"
SETTLED, RELEASED, UNKNOWN, REFUSED, VOID = "settled", "released", "unknown", "refused", "void"

_ids = itertools.count(1)
_current: ContextVar[Reservation | None] = ContextVar("quotaguard_reservation", default=None)


class Reservation:
    """Units held for a call: settled or released by the caller, else unknown.

    ``with guard.reserve(cost) as reservation:`` reserves when the block is entered,
    and so does ``async with``. Leaving the block without `settle` or `release`
    leaves the outcome *unknown*: it counts in full until a reading proves otherwise.

    state: new, open, then settled, released, unknown or refused; deferred while a
        webhook is awaited; void when there is nothing to end (disabled, or forked).
    actual: units that the call turned out to cost, once it is settled.
    """

    # Class attributes are the values of a reservation that nothing special happened to:
    # most are, and setting them one by one costs as much as the decision.
    state = NEW
    actual: Mapping[str, int] | None = None
    id = 0
    lapses_at: float | None = None
    _lent: list[Reservation] | None = None
    _borrowed: tuple[Reservation, dict[str, int], float | None] | None = None
    _asked: float | None = None
    _probes: tuple[str, ...] = ()
    _epoch = 0
    _changes = 0
    _token: Token[Reservation | None]

    def __init__(
        self,
        spending: Spending,
        cost: Cost,
        priority: str = "normal",
        max_wait: float | None = None,
        fallback: Any = MISSING,  # noqa: ANN401 - whatever the user wants instead
    ) -> None:
        self._spending = spending
        self._holder = spending.holder
        self._cost: dict[str, int] = cost  # type: ignore[assignment] # checked when it opens
        self.priority = priority
        self._max_wait = max_wait
        self._fallback = fallback

    # -- beginning --------------------------------------------------------------

    def __enter__(self) -> Self:
        opened = self.open()
        if opened is self:
            self._token = _current.set(self)
        return opened

    async def __aenter__(self) -> Self:
        opened = await self.aopen()
        if opened is self:
            self._token = _current.set(self)
        return opened

    def open(self) -> Self:
        """Reserve without a block, and without covering what is called meanwhile.

        For clients, generators and callbacks; end it with `settle`, `release` or `close`.

        Raises:
            Refusal: the call does not go; nothing is held.
        """
        denial = self._quick()
        if denial is not None:
            if denial is not ASK:
                return self._denied(denial)  # type: ignore[no-any-return] # what the user gave
            try:
                self._opened(drive(self._spending, self._story()))
            except Refusal as refusal:
                return self._refused(refusal)  # type: ignore[no-any-return] # as above
            except BaseException:
                give_back(self)
                raise
        return self

    async def aopen(self) -> Self:
        """Reserve as `open` does, in a task."""
        denial = self._quick()
        if denial is not None:
            if denial is not ASK:
                return self._denied(denial)  # type: ignore[no-any-return] # what the user gave
            try:
                self._opened(await adrive(self._spending, self._story()))
            except Refusal as refusal:
                return self._refused(refusal)  # type: ignore[no-any-return] # as above
            except BaseException:
                give_back(self)
                raise
        return self

    def covering(self) -> Covering:
        """Let guarded calls of this account in the block use these units first."""
        return Covering(_current, self)

    def _quick(self) -> Denial | None:
        """Open from the lanes: None. `ASK`: the books decide. Else it was denied before."""
        if self.state is not NEW:
            msg = f"this reservation is {self.state}: make a new one for every call"
            raise ConfigError(msg)
        spending, holder, priority, cost = self._spending, self._holder, self.priority, self._cost
        if SWITCH.off or _current.get() is not None or spending.odd or cost.__class__ is not dict:
            special = self._special()
            if special is not NEW:
                return None if special is OPEN else ASK
            cost = self._cost
        with holder.lock:
            fast = spending.fast()
            purses = holder.allotment.purses
            for meter, count in cost.items():
                purse = purses.get(meter)
                if (
                    purse is None
                    or count.__class__ is not int
                    or count < 0
                    or fast >= purse.end
                    or purse.taken + count > purse.room.get(priority, NO_ROOM)
                ):
                    denial = holder.denials.get((meter, priority), ASK)
                    same = denial.units == count and denial.changes == holder.queue.changes
                    if not same or fast >= denial.until:
                        return ASK
                    return self._still(denial)
            if self.state is not NEW:
                msg = "this reservation was opened by another thread just now: make one each"
                raise ConfigError(msg)
            for meter, count in cost.items():
                purse = purses[meter]
                purse.taken += count
                purse.opened += count
            self._cost = cost.copy()
            self._epoch = holder.epoch
            self.state = OPEN
        if spending.calls_told:
            spending.reserved(self._cost, priority)
        return None

    def _special(self) -> str:
        """Do what a plain cost in a plain context needs not: `OPEN`, ask, or go on (`NEW`)."""
        if SWITCH.off:
            if not SWITCH.said:
                SWITCH.said = True
                self._spending.warn("quotaguard is disabled: calls pass uncounted")
            self.state = VOID
            return OPEN
        self._cost = self._spending.units_of(self._cost)
        if borrow(self, _current.get()):
            self._spending.reserved(self._cost, self.priority)
            return OPEN
        return NEW if self._borrowed is None and self._cost else REFUSED

    def _still(self, denial: Denial) -> Denial:
        """Return a denial that holds for this call too; listeners want to hear each."""
        own = self._max_wait
        wait = self._spending.max_wait if own is None else own
        same = len(self._cost) == 1 and wait <= denial.max_wait
        return denial if same and not self._spending.listening else ASK

    def _denied(self, denial: Denial) -> Any:  # noqa: ANN401 - what the user gave
        self.state = REFUSED
        if self._fallback is MISSING:
            raise denial.refusal(denial.facts)
        return self._refused(denial.refusal(denial.facts))

    def _story(self) -> Story:
        self.id = next(_ids)
        self._changes = self._holder.queue.changes
        return reserving(request_of(self))

    def _opened(self, granted: Granted) -> None:
        self.state = OPEN
        self._epoch = self._holder.epoch
        self._probes, self._asked = granted.probes, granted.at
        self._spending.reserved(self._cost, self.priority)

    def _refused(self, refusal: Refusal) -> Any:  # noqa: ANN401 - what the user gave
        """Raise the refusal, or return what the user gave instead."""
        if self.state is not REFUSED:
            give_back(self)
            self.state = REFUSED
            remember(self, refusal)
            if isinstance(refusal, QuotaUnknown) and refusal.__cause__ is None:
                refusal.__cause__ = self._spending.poll_error
        if self._fallback is MISSING:
            raise refusal
        return self._fallback(refusal) if callable(self._fallback) else self._fallback

    # -- ending -----------------------------------------------------------------

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

    def settle_units(self, spent: Mapping[str, int]) -> None:
        """End with *spent*, integer units of reserved meters that need no check."""
        holder = self._holder
        with holder.lock:
            if (self.state is not OPEN or self.id or self._epoch != holder.epoch) and self._void():
                return
            at = self._spending.slow()
            purses = holder.allotment.purses
            freed = under = False
            for meter, count in self._cost.items():
                purse = purses[meter]
                used = spent.get(meter, 0)
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
            if freed:
                holder.queue.changes += 1
            self.state = SETTLED
            self.actual = spent
        if under or self._probes or self._spending.calls_told or (freed and holder.queue.busy):
            self._aftermath(spent, under=under)

    def release(self) -> None:
        """End without any charge: the call was provably not billed."""
        if self.state is not OPEN and self._ended():
            return
        holder = self._holder
        with holder.lock:
            if self._void():
                return
            holder.allotment.settle(self._cost, {})
            holder.queue.changes += 1
            self.state = RELEASED
            self.actual = {}
        holder.queue.wake()
        self._spending.released(self._cost)

    def give_up(self) -> None:
        """End without an answer: the outcome is unknown, it counts until it is known."""
        if self.state is not OPEN and self._ended():
            return
        holder, spending = self._holder, self._spending
        with holder.lock:
            if self._void():
                return
            until = spending.clock.now().slow + spending.late
            holder.allotment.give_up(self._cost, until)
            self.state = UNKNOWN
        spending.settled(self._cost, self._cost, unknown=True)

    def defer(self) -> None:
        """Outlive the call: the provider bills later, or not (a webhook tells).

        It becomes unknown if nobody settles it within `Policy.late` seconds.
        """
        if self.state is OPEN:
            self.state = DEFERRED
            self.lapses_at = self._spending.clock.now().slow + self._spending.late
            self.id = self.id or next(_ids)
            self._spending.deferred[self.id] = self

    def close(self) -> None:
        """End unless it has ended: as unknown, or as settled by the calls it covered."""
        if self.state is OPEN:
            if self._lent and not any(self._cost.values()):
                self.state = SETTLED
                return
            self.give_up()

    def __exit__(self, *failure: object) -> None:
        if self.state is REFUSED:
            return
        uncover(self._token)
        if self.state is OPEN:
            if failure[:1] == (GeneratorExit,):
                self.forget()
            else:
                self.close()

    async def __aexit__(self, *failure: object) -> None:
        # Ending never awaits: in a cancelled task an await would be cancelled too.
        self.__exit__(*failure)

    def forget(self) -> None:
        """Close from a finalizer: those run anywhere, under our own lock too.

        So it only leaves a note, for the next who looks at the books.
        """
        if self.state is OPEN or self.state is DEFERRED:
            self._holder.forgotten.append((self._epoch, self._cost))
            self.state = UNKNOWN

    def __del__(self) -> None:
        self.forget()

    def _void(self) -> bool:
        """Whether there is nothing to end (under the lock): ended meanwhile, or forked."""
        if self.state is not OPEN and self.state is not DEFERRED:
            return True
        if self._epoch != self._holder.epoch:
            self.state = VOID
        if self.id:
            self._spending.deferred.pop(self.id, None)
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
            spending.post(Unblocked(self._probes))
        if under:
            spending.underpriced(spent, self._cost)
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
        cost = ", ".join(f"{name}: {count}" for name, count in self._cost.items())
        return f"<Reservation {self._spending.provider.name} {self.state}: {cost}>"
