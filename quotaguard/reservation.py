"""Reservations: units held for a call in flight.

A reservation is a few numbers in this process: units of an allotment that the
books have granted. The common case, plenty of headroom, takes the fast lane: it
is `Allotment.take` and `Allotment.settle` unrolled under one lock, and generated
histories prove it to be the story's decision. Everything else is the story.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

from quotaguard.covering import Cover, Covering, borrow, give_back, uncover
from quotaguard.drivers import adrive, drive
from quotaguard.errors import ConfigError, QuotaUnknown, Refusal
from quotaguard.held import DEFERRED, NEW, OPEN, REFUSED, SETTLED, VOID, Held, ids
from quotaguard.opening import ASK, MISSING, remember, request_of
from quotaguard.quota.admission import reserving
from quotaguard.quota.allotment import NO_ROOM
from quotaguard.spending import SWITCH, Spending

if TYPE_CHECKING:
    from quotaguard.ledgers import Denial
    from quotaguard.quota.admission import Story
    from quotaguard.quota.calls import Cost
    from quotaguard.quota.verdicts import Granted

__all__ = ["DEFERRED", "MISSING", "OPEN", "SETTLED", "Reservation"]

_current: ContextVar[Cover] = ContextVar("quotaguard_reservation", default=None)


class Reservation(Held):
    """Units held for a call: settled or released by the caller, else unknown.

    ``with guard.reserve(cost) as reservation:`` reserves when the block is entered,
    and so does ``async with``. Leaving the block without `settle` or `release`
    leaves the outcome *unknown*: it counts in full until a reading proves otherwise.

    state: new, open, then settled, released, unknown or refused; deferred while a
        webhook is awaited; void when there is nothing to end (disabled, or forked).
    actual: units that the call turned out to cost, once it is settled.
    """

    _changes = 0
    _token: Token[Cover]

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
        self._cost = cost  # type: ignore[assignment] # checked when it opens
        self.priority = priority
        self._max_wait = max_wait
        self._fallback = fallback

    # -- beginning --------------------------------------------------------------

    def __enter__(self) -> Self:
        opened = self.open()
        if opened is self:
            try:
                self._token = _current.set(ref(self))
            except BaseException:
                self._withdraw()
                raise
        return opened

    async def __aenter__(self) -> Self:
        opened = await self.aopen()
        if opened is self:
            try:
                self._token = _current.set(ref(self))
            except BaseException:
                self._withdraw()
                raise
        return opened

    def open(self) -> Self:
        """Reserve without a block, and without covering what is called meanwhile.

        For clients, generators and callbacks; end it with `settle`, `release` or `close`.

        Raises:
            Refusal: the call does not go; nothing is held.
        """
        try:
            denial = self._quick()
            if denial is None:
                return self
            if denial is ASK:
                while self._opened(drive(self._spending, self._story())):
                    pass
                return self
        except BaseException as error:  # noqa: BLE001 - raised again, or a refusal with a fallback
            return self._stopped(error)  # type: ignore[no-any-return] # what the user gave
        return self._denied(denial)  # type: ignore[no-any-return] # as above

    async def aopen(self) -> Self:
        """Reserve as `open` does, in a task."""
        try:
            denial = self._quick()
            if denial is None:
                return self
            if denial is ASK:
                while self._opened(await adrive(self._spending, self._story())):
                    pass
                return self
        except BaseException as error:  # noqa: BLE001 - raised again, or a refusal with a fallback
            return self._stopped(error)  # type: ignore[no-any-return] # what the user gave
        return self._denied(denial)  # type: ignore[no-any-return] # as above

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
                last = meter  # noqa: F841 - a loop under a lock ends with a plain statement
            if self.state is not NEW:
                msg = "this reservation was opened by another thread just now: make one each"
                raise ConfigError(msg)
            # Ctrl-C may come as the loop turns: what is held then is what `mine` says.
            self._cost = mine = {}
            self._epoch = holder.epoch
            self.state = OPEN
            for meter, count in cost.items():
                purse = purses[meter]
                purse.taken += count
                purse.opened += count
                mine[meter] = count
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
        cover = _current.get()
        owner = None if cover is None else cover()
        if owner is None and cover is not None:
            _current.set(None)  # its block was left without knowing it: see `Cover`
        if borrow(self, owner):
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
        self.id = next(ids)
        self._name = f"{self._holder.name}.{self.id}"  # no other ever had or will have it
        self._changes = self._holder.queue.changes
        return reserving(request_of(self))

    def _opened(self, granted: Granted) -> bool:
        """Take over what was granted; True if the lease ended meanwhile: ask again."""
        self._probes, self._asked = granted.probes, granted.at
        self._take_over()
        if self.state is NEW:
            self._borrowed = None
            return True  # void before it was ours: the lease ended, or a listener has forked
        self._spending.reserved(self._cost, self.priority)
        return not granted.lent and self._overslept()

    def _overslept(self) -> bool:
        """Whether the lease has ended before the call goes (a process that slept)."""
        if self.state is not OPEN or self._spending.fast() < self._holder.lease_until:
            return False
        self.settle_units({}, NEW)
        self._borrowed = None  # that has ended with it: all is asked for
        return True

    def _stopped(self, error: BaseException) -> Any:  # noqa: ANN401 - what the user gave
        """End what did not open, nothing was sent; raise *error*, or return the fallback."""
        try:
            if isinstance(error, Refusal):
                return self._refused(error)
            if isinstance(error, GeneratorExit):
                self.forget()  # a coroutine that is thrown away: this may be a finalizer
            elif not isinstance(error, ConfigError):
                self._withdraw()
            give_back(self)
            raise error
        finally:
            del error  # in whose traceback this is

    def _refused(self, refusal: Refusal) -> Any:  # noqa: ANN401 - what the user gave
        """Raise the refusal, or return what the user gave instead."""
        if self.state is not REFUSED:
            give_back(self)
            self.state = REFUSED
            remember(self, refusal)
            if isinstance(refusal, QuotaUnknown) and refusal.__cause__ is None:
                refusal.__cause__ = self._spending.ledger_error or self._spending.poll_error
        try:
            if self._fallback is MISSING:
                raise refusal
            return self._fallback(refusal) if callable(self._fallback) else self._fallback
        finally:
            del refusal  # in whose traceback this is

    # -- leaving ----------------------------------------------------------------

    def __exit__(self, *failure: object) -> None:
        if self.state is REFUSED:
            return
        try:
            if self.state is OPEN:
                if failure[:1] == (GeneratorExit,):
                    self.forget()
                else:
                    self.close()
        finally:
            uncover(self._token)

    async def __aexit__(self, *failure: object) -> None:
        # Ending never awaits: in a cancelled task an await would be cancelled too.
        self.__exit__(*failure)
