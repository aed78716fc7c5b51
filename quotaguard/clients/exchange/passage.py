"""One guarded call: its price before, its bill after, and what the application may see."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from quotaguard.clients.exchange.bodies import BODY_CAP, decoded
from quotaguard.errors import ConfigError
from quotaguard.quota.calls import Bill, Call, Outcome, Price
from quotaguard.quota.entries import Blocked, Doubt, Pause
from quotaguard.reservation import DEFERRED, OPEN, Reservation
from quotaguard.spending import SWITCH, Spending

if TYPE_CHECKING:
    from quotaguard.quota.policy import Duration

__all__ = ["Passage", "Receipt", "Tap", "guarded", "options"]

_OPTIONS: Final = ("priority", "max_wait")

_TOLD: Final[weakref.WeakSet[Spending]] = weakref.WeakSet()
"""Who has warned about a foreign key."""


class Receipt:
    """What one call holds and costs; a live view, for the application to look at.

    operation: the name of the call, ``person.enrich``.
    id: what `Guard.settle` wants to know; not 0 where a webhook will tell the price.
    state: open, then settled, released, unknown; deferred; refused where nothing was sent.
    reserved: units that are or were held, by meter.
    settled: units that it cost, by meter; None as long as that is not known.
    headroom: units that may still be safely spent now, by meter; None is unlimited.
    """

    __slots__ = ("_operation", "_reservation")

    def __init__(self, operation: str, reservation: Reservation) -> None:
        self._operation = operation
        self._reservation = reservation

    @property
    def operation(self) -> str:
        """The name of the call."""
        return self._operation

    @property
    def id(self) -> int:
        """The reservation's id, for `Guard.settle`."""
        return self._reservation.id

    @property
    def state(self) -> str:
        """How far the call has come."""
        return self._reservation.state

    @property
    def reserved(self) -> Mapping[str, Any]:
        """Units that are or were held, by meter."""
        return self._reservation.reserved

    @property
    def settled(self) -> Mapping[str, Any] | None:
        """Units that it cost, by meter; None as long as that is not known."""
        return self._reservation.settled

    @property
    def headroom(self) -> Mapping[str, Any]:
        """Units that may still be safely spent now, by meter; None is unlimited."""
        return self._reservation.headroom

    def __repr__(self) -> str:
        held = ", ".join(f"{name}: {count}" for name, count in self.reserved.items())
        return f"<Receipt {self.operation} {self.state}: {held}>"


class Passage:
    """One guarded call on its way, from its price to its bill.

    The client opens *reservation*, sends, and then calls one of `answered` and `lost`.
    """

    __slots__ = ("_call", "_price", "_spending", "reservation")

    def __init__(
        self,
        spending: Spending,
        call: Call,
        price: Price,
        priority: str,
        max_wait: float | None,
    ) -> None:
        self._spending = spending
        self._call = call
        self._price = price
        self.reservation = Reservation(spending, spending.plain(price.cost), priority, max_wait)

    @property
    def receipt(self) -> Receipt:
        """What the application may look at."""
        return Receipt(self._price.operation, self.reservation)

    def lost(self, *, sent: bool) -> None:
        """End without an answer: free if nothing was sent, else unknown."""
        if self.reservation.state != OPEN:
            return
        if thrown_away():
            self.leave(partial(self.lost, sent=sent))
        elif sent:
            self.reservation.give_up()
        else:
            self.reservation.release()

    def leave(self, act: Callable[[], None]) -> None:
        """Let whoever looks at the books next do *act*: this may be a finalizer."""
        self._spending.leave(act)

    def answered(
        self, status: int, headers: Mapping[str, str], body: bytes | None = None
    ) -> Tap | None:
        """End by an answer; or, where its body decides, return what must listen to it.

        headers: names in lower case. body: decoded, None where it is still to come.
        Where the bill wants the body and names a cost, that cost is settled now, and
        the body is asked for evidence only. Never raises: what a provider cannot
        bill is unknown.
        """
        try:
            bill = self._spending.provider.bill(self._call, Outcome(status, headers, body))
            if not bill.wants_body or body is not None:
                self._charge(bill)
                if bill.evidence:
                    self._heed(bill)
                return None
            if bill.cost is not None or bill.deferred:
                self._charge(bill)
            return Tap(self, status, headers)
        except Exception as error:  # noqa: BLE001 - a provider's fault never raises into a call
            self._cannot_bill(error)
            return None

    def finish(self, outcome: Outcome, *, whole: bool) -> None:
        """End by what the body said; one that was not read *whole* leaves the cost unknown."""
        try:
            bill = self._spending.provider.bill(self._call, outcome)
            if not whole:
                self.lost(sent=True)
            self._charge(bill)
            self._heed(bill)
        except Exception as error:  # noqa: BLE001 - as above
            self._cannot_bill(error)

    def _heed(self, bill: Bill) -> None:
        if SWITCH.off:
            return
        for evidence in bill.evidence:
            match evidence.kind:
                case "exhausted":
                    self._spending.enter(Blocked(evidence.meters))
                case "pause":
                    self._spending.enter(Pause(evidence.seconds))
                case "doubt":
                    self._spending.enter(Doubt())

    def _charge(self, bill: Bill) -> None:
        reservation, cost = self.reservation, bill.cost
        if reservation.state != OPEN:
            return
        if bill.deferred:
            reservation.defer()
        elif cost is None:
            reservation.give_up()
        elif cost:
            spent = self._spending.plain(cost)
            if spent is cost or any(name not in self._price.cost for name in spent):
                reservation.settle(cost)
            else:
                reservation.settle_units(spent)  # type: ignore[arg-type] # integer units
        else:
            reservation.release()

    def _cannot_bill(self, error: Exception) -> None:
        if self.reservation.state != DEFERRED:
            self.lost(sent=True)
        # Its text may hold what was in the body.
        reason = f"a reply could not be entered in the books: {type(error).__name__}"
        self._spending.degraded("unbilled", reason)


class Tap:
    """Listens to a reply's body on its way to the reader, and then ends the call."""

    __slots__ = ("_ended", "_headers", "_passage", "_raw", "_status")

    def __init__(self, passage: Passage, status: int, headers: Mapping[str, str]) -> None:
        self._passage = passage
        self._status = status
        self._headers = headers
        self._raw = bytearray()
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """Hear a piece of the body as it came, compressed or not."""
        room = BODY_CAP - len(self._raw)
        if room > 0:
            self._raw += chunk[:room]

    def end(self, *, whole: bool, body: bytes | None = None) -> None:
        """The body has been read, or was closed before its end. Later calls do nothing.

        body: decoded, where the client has all of it already.
        """
        if self._ended:
            return
        if thrown_away():
            self._passage.leave(partial(self.end, whole=whole, body=body))
            return
        if body is not None:
            body = body[:BODY_CAP]
        elif whole:
            body = decoded(bytes(self._raw), self._headers.get("content-encoding", ""))
        else:
            body = b""
        self._passage.finish(Outcome(self._status, self._headers, body), whole=whole)
        # Now, and not before: what was stopped half way is ended when the reply is closed.
        self._ended = True
        self._raw.clear()


def thrown_away() -> bool:
    """Whether a generator or a coroutine is being closed, perhaps by a finalizer."""
    return isinstance(sys.exception(), GeneratorExit)


def guarded(
    spending: Spending, call: Call, priority: str = "normal", max_wait: float | None = None
) -> Passage | None:
    """Return how *call* passes the guard; None where it passes unguarded.

    It does where it has no price, and where it carries another account's key: of that
    the log is told once.
    """
    provider = spending.provider
    price = provider.price(call)
    if price is None:
        return None
    if provider.foreign(call):
        if spending not in _TOLD:
            _TOLD.add(spending)
            reason = (
                f"a call of {price.operation} carries another key than the guard's; such "
                "calls pass unguarded: give each key's account a guard and a client of its own"
            )
            spending.degraded("foreign_key", reason)
        return None
    return Passage(spending, call, price, priority, max_wait)


def options(spending: Spending, told: object) -> tuple[str, float | None]:
    """Return the priority and the longest wait (seconds, None: the policy's) of one call.

    Raises:
        ConfigError: *told* is no mapping, has other keys, or a value that cannot be.
    """
    if not isinstance(told, Mapping):
        msg = f'extensions["quotaguard"] is a dict of {_named(_OPTIONS)}, not {_kind(told)}'
        raise ConfigError(msg)
    unknown = [key for key in told if key not in _OPTIONS]
    if unknown:
        msg = f'extensions["quotaguard"] has no {_named(unknown)}; it has {_named(_OPTIONS)}'
        raise ConfigError(msg)
    priority: str = told.get("priority", "normal")
    spending.rank(priority)
    max_wait: Duration | None = told.get("max_wait")
    return priority, None if max_wait is None else spending.wait(max_wait)


def _named(names: object) -> str:
    return ", ".join(repr(name) for name in names)  # type: ignore[attr-defined] # lists and tuples


def _kind(told: object) -> str:
    return f"a {type(told).__name__}"
