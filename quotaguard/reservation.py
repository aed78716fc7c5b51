"""Reservations: units held for a call in flight.

A reservation is a few numbers in this process: units of an allotment that the
books have granted. The common case, plenty of headroom, takes the fast lane: it
is `Allotment.take` and `Allotment.settle` unrolled under one lock, and generated
histories prove it to be the story's decision. Everything else is the story.
"""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from quotaguard.drivers import adrive, drive
from quotaguard.errors import ConfigError, Refusal
from quotaguard.ledgers import Denial
from quotaguard.quota.admission import Request, reserving
from quotaguard.quota.entries import Unblocked
from quotaguard.quota.events import Released, Reserved, Settled
from quotaguard.spending import SWITCH, Spending

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextvars import Token
    from types import TracebackType

    from quotaguard.quota.admission import Story
    from quotaguard.quota.calls import Cost
    from quotaguard.quota.verdicts import Granted

__all__ = ["MISSING", "Reservation"]


class _Missing:
    """Marks the absence of a fallback, which may be any value, None too."""

    def __repr__(self) -> str:
        return "<no fallback>"


MISSING: Any = _Missing()

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

    __slots__ = (
        "_borrowed",
        "_changes",
        "_cost",
        "_epoch",
        "_fallback",
        "_holder",
        "_lent",
        "_max_wait",
        "_probes",
        "_spending",
        "_token",
        "actual",
        "id",
        "lapses_at",
        "priority",
        "state",
    )

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
        self.state = NEW
        self.actual: Mapping[str, int] | None = None
        self.id = 0
        self._lent: list[Reservation] | None = None
        self._borrowed: tuple[Reservation, dict[str, int]] | None = None
        self._probes: tuple[str, ...] = ()

    # -- beginning --------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            if not self._quick():
                self._opened(drive(self._spending, self._story()))
        except Refusal as refusal:
            if self._fallback is MISSING:
                self._refused(refusal)
                raise
            return self._instead(refusal)  # type: ignore[no-any-return] # what the user gave
        except BaseException:
            self._return()
            raise
        self._token = _current.set(self)
        return self

    async def __aenter__(self) -> Self:
        try:
            if not self._quick():
                self._opened(await adrive(self._spending, self._story()))
        except Refusal as refusal:
            if self._fallback is MISSING:
                self._refused(refusal)
                raise
            return self._instead(refusal)  # type: ignore[no-any-return] # what the user gave
        except BaseException:
            self._return()
            raise
        self._token = _current.set(self)
        return self

    def open(self) -> Self:
        """Reserve without a block, and without covering what is called meanwhile.

        For generators and callbacks; end it with `settle`, `release` or `close`.

        Raises:
            Refusal: the call does not go; nothing is held.
        """
        self.__enter__()
        self._leave()
        return self

    async def aopen(self) -> Self:
        """Reserve as `open` does, in a task."""
        await self.__aenter__()
        self._leave()
        return self

    @contextmanager
    def covering(self) -> Iterator[None]:
        """Let guarded calls of this account in the block use these units first."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def _leave(self) -> None:
        if self.state is not REFUSED:
            _current.reset(self._token)

    def _quick(self) -> bool:
        """Open from the lanes; False if the books must be asked.

        Raises:
            Refusal: the same call was refused and nothing has changed since.
        """
        if self.state is not NEW:
            msg = f"this reservation is {self.state}: make a new one for every call"
            raise ConfigError(msg)
        spending = self._spending
        cost = self._cost
        if cost.__class__ is not dict or spending.fractional:
            cost = self._cost = spending.units_of(cost)
        if SWITCH.off:
            return self._pass()
        if _current.get() is not None:
            if self._borrow():
                self._told()
                return True
            if self._borrowed is not None:
                return False
        priority, holder = self.priority, self._holder
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
                    or purse.taken + count > purse.room.get(priority, -1)
                ):
                    denial = holder.denials.get((meter, priority))
                    break
            else:
                for meter, count in cost.items():
                    purse = purses[meter]
                    purse.taken += count
                    purse.opened += count
                self._cost = cost.copy()
                self.state = OPEN
                self._epoch = holder.epoch
                denial = None
        if self.state is OPEN:
            self._told()
            return True
        if denial is not None and denial.units == count and fast < denial.until:
            self._deny(denial)
        return False

    def _deny(self, denial: Denial) -> None:
        """Refuse again what was refused; listeners want to hear each by itself."""
        spending = self._spending
        max_wait = spending.max_wait if self._max_wait is None else self._max_wait
        if max_wait <= denial.max_wait and len(self._cost) == 1 and not spending.listening:
            raise denial.refusal(denial.facts)

    def _told(self) -> None:
        spending = self._spending
        if spending.calls_told:
            spending.tell(
                Reserved(
                    provider=spending.provider.name,
                    account=spending.provider.account,
                    cost=spending.amounts(self._cost),
                    priority=self.priority,
                )
            )

    def _story(self) -> Story:
        """Return the story of this reservation; what was borrowed is not asked for."""
        spending = self._spending
        spending.rank(self.priority)
        max_wait = spending.max_wait if self._max_wait is None else spending.wait(self._max_wait)
        need = self._cost = spending.units_of(self._cost)
        if self._borrowed is not None:
            lent = self._borrowed[1]
            need = {name: n - lent.get(name, 0) for name, n in need.items()}
        self.id = next(_ids)
        self._changes = self._holder.queue.changes
        return reserving(
            Request(
                name=f"{self._holder.name}.{self.id}",
                cost={name: count for name, count in need.items() if count or need is self._cost},
                priority=self.priority,
                max_wait=max_wait,
                at=spending.fast(),
                on_exhausted=spending.policy.on_exhausted,
                shadow=spending.policy.shadow,
                lanes=dict.fromkeys(self._holder.allotment.purses, 0),
            )
        )

    def _opened(self, granted: Granted) -> None:
        self.state = OPEN
        self._epoch = self._holder.epoch
        self._probes = granted.probes
        self._told()

    def _pass(self) -> bool:
        """Let the call go unguarded: quotaguard is switched off."""
        if not SWITCH.said:
            SWITCH.said = True
            self._spending.warn("quotaguard is disabled: calls pass uncounted")
        self.state = VOID
        return True

    def _refused(self, refusal: Refusal) -> None:
        """End before the beginning, and remember the refusal for who asks the same."""
        self._return()
        self.state = REFUSED
        facts, holder = refusal.facts, self._holder
        if not refusal.stays or len(self._cost) != 1 or facts.meter not in self._cost:
            return
        wait = self._spending.max_wait if self._max_wait is None else self._max_wait
        if facts.retry_after is None and self._spending.policy.on_exhausted != "wait":
            wait = math.inf
        count = self._cost[facts.meter]
        denial = Denial(count, wait, refusal.stays, type(refusal), facts)
        with holder.lock:
            if holder.queue.changes == self._changes:
                holder.denials[facts.meter, self.priority] = denial

    def _instead(self, refusal: Refusal) -> Any:  # noqa: ANN401 - what the user gave
        self._refused(refusal)
        return self._fallback(refusal) if callable(self._fallback) else self._fallback

    # -- covering ---------------------------------------------------------------

    def _borrow(self) -> bool:
        """Use the units of the reservation that is open in this context first.

        True if they cover the whole call. What is lent moves: its owner is now this
        reservation, which settles it by its own outcome.
        """
        owner, holder = _current.get(), self._holder
        if owner is None or owner._holder is not holder or owner.state is not OPEN:
            return False
        need = self._spending.units_of(self._cost)
        with holder.lock:
            if owner.state is not OPEN or owner._epoch != holder.epoch:
                return False
            lent = {name: min(n, owner._cost.get(name, 0)) for name, n in need.items()}
            if not any(lent.values()):
                return False
            for name, count in lent.items():
                if count:
                    owner._cost[name] -= count
            owner._lent = [*(owner._lent or ()), self]
        self._borrowed = (owner, lent)
        self._cost = need
        if lent != need:
            return False
        self._epoch = owner._epoch
        self.state = OPEN
        return True

    def _return(self) -> None:
        """Give back what was borrowed: the call does not go."""
        if self._borrowed is None or self.state is OPEN:
            return
        (owner, lent), self._borrowed = self._borrowed, None
        with self._holder.lock:
            if owner.state is OPEN:
                for name, count in lent.items():
                    if count:
                        owner._cost[name] += count
                owner._lent = [other for other in owner._lent or () if other is not self]
                return
        # The owner has ended meanwhile; nobody knows what became of its units.
        self._holder.forgotten.append((owner._epoch, lent))

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
        spent: Mapping[str, int] = self._cost if actual is None else self._count(actual)
        holder = self._holder
        with holder.lock:
            if self._void():
                return
            purses = holder.allotment.purses
            freed = under = False
            for meter, count in self._cost.items():
                purse = purses[meter]
                used = spent.get(meter, 0)
                purse.opened -= count
                purse.spent += used
                if used < count:
                    purse.cleared += used
                    purse.taken -= count - used
                    freed = True
                else:
                    purse.cleared += count
                    under = under or used > count
            if freed:
                holder.queue.changes += 1
                holder.denials.clear()
            self.state = SETTLED
            self.actual = spent
        if self.id:
            self._spending.deferred.pop(self.id, None)
        if freed or under or self._probes or self._spending.calls_told:
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
            holder.denials.clear()
            self.state = RELEASED
            self.actual = {}
        spending = self._spending
        spending.deferred.pop(self.id, None)
        holder.queue.wake()
        if spending.calls_told:
            name, account = spending.provider.name, spending.provider.account
            cost = spending.amounts(self._cost)
            spending.tell(Released(provider=name, account=account, cost=cost))

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
        spending.deferred.pop(self.id, None)
        self._settled({}, unknown=True)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.state is REFUSED:
            return
        _current.reset(self._token)
        if self.state is OPEN:
            self.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Ending never awaits: in a cancelled task an await would be cancelled too.
        self.__exit__(kind, error, trace)

    def __del__(self) -> None:
        # Finalizers run anywhere, under our own lock too; so only leave a note.
        if getattr(self, "state", NEW) in {OPEN, DEFERRED}:
            self._holder.forgotten.append((self._epoch, self._cost))

    def _count(self, actual: Cost) -> Mapping[str, int]:
        """Return the units that are left to settle, checked."""
        if actual.__class__ is dict and not self._lent and not self._spending.fractional:
            for meter, count in actual.items():
                if count.__class__ is not int or count < 0 or meter not in self._cost:
                    break
            else:
                return actual  # type: ignore[return-value] # just checked
        spent = self._spending.units_of(actual)
        for call in self._lent or ():
            told = call._cost if call.actual is None else call.actual
            spent = {name: max(0, n - told.get(name, 0)) for name, n in spent.items()}
        beside = {name: 0 for name in spent if name not in self._cost}
        if beside:
            with self._holder.lock:
                for name in beside:
                    self._holder.allotment.purse(name)
            self._cost = {**self._cost, **beside}
        return spent

    def _void(self) -> bool:
        """Whether there is nothing to end (under the lock): ended meanwhile, or forked."""
        if self.state is not OPEN and self.state is not DEFERRED:
            return True
        if self._epoch != self._holder.epoch:
            self.state = VOID
            return True
        return False

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
            more = {n: c - self._cost.get(n, 0) for n, c in spent.items() if c > self._cost.get(n, 0)}
            meter = next(iter(more))
            reason = f"the call cost {more[meter]} units more than was reserved"
            spending.degraded("underpriced", reason, meter)
        self._settled(spent, unknown=False)

    def _settled(self, spent: Mapping[str, int], *, unknown: bool) -> None:
        spending = self._spending
        if not spending.calls_told:
            return
        spending.tell(
            Settled(
                provider=spending.provider.name,
                account=spending.provider.account,
                cost=spending.amounts(self._cost if unknown else spent),
                reserved=spending.amounts(self._cost),
                unknown=unknown,
            )
        )

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
