"""All that a client needs of a guard: prices, reservations, the books, events."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from quotaguard.errors import NO_LEDGER, ConfigError, LedgerUnavailable, ProviderError
from quotaguard.quota.account import Terms
from quotaguard.quota.entries import Reserve, Touch
from quotaguard.quota.events import Degraded, Event, Released, Reserved, Settled
from quotaguard.quota.meter import MeterTerms
from quotaguard.quota.outage import goes_without
from quotaguard.quota.policy import Duration, seconds
from quotaguard.quota.polls import PollTerms
from quotaguard.quota.rates import RateTerms
from quotaguard.quota.readings import amount, units
from quotaguard.quota.theirs import theirs
from quotaguard.quota.verdicts import Granted, Unknown, Unreached
from quotaguard.waiting import in_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quotaguard.carrier import Exchange
    from quotaguard.clock import Clock
    from quotaguard.held import Held
    from quotaguard.ledgers import Holder
    from quotaguard.providers import Provider
    from quotaguard.quota.account import Books, Entry, Posted
    from quotaguard.quota.calls import Cost
    from quotaguard.quota.policy import Policy
    from quotaguard.quota.readings import Moment
    from quotaguard.quota.verdicts import Verdict

    _Picture = TypeVar("_Picture")

__all__ = ["SWITCH", "Spending", "terms_of"]


class _Switch:
    """Turns every guard of the process off, for tests of applications."""

    __slots__ = ("off", "said")

    def __init__(self) -> None:
        self.off = os.environ.get("QUOTAGUARD_DISABLED", "") not in {"", "0"}
        self.said = False


SWITCH = _Switch()


class Spending:
    """All that a client needs of a guard: prices, reservations, events."""

    def __init__(
        self,
        *,
        provider: Provider,
        policy: Policy,
        terms: Terms,
        holder: Holder,
        clock: Clock,
        stats: Exchange,
        log: Callable[[Event], None],
        listeners: tuple[Callable[[Event], None], ...] = (),
        background: bool = False,
    ) -> None:
        self.provider = provider
        self.policy = policy
        self.terms = terms
        self.holder = holder
        self.clock = clock
        self.fast = clock.fast
        self.slow = clock.slow
        self.stats = stats
        self.background = background
        self.max_wait = float(policy.max_wait)  # type: ignore[arg-type] # a Policy holds seconds
        self.fractional = any(meter.scale != 1 for meter in provider.meters.values())
        self.odd = self.fractional or bool(terms.rates.rates)
        self._log = log
        self._listeners = listeners
        self.late = terms.late
        self.listening = bool(listeners)
        self.calls_told = bool(listeners)
        self.poll_error: ProviderError | None = None
        self.ledger_error: LedgerUnavailable | None = None
        self._plain: dict[int, tuple[Cost, dict[str, int]]] = {}
        self.deferred: dict[int, Held] = {}
        self._left: deque[Callable[[], object]] = deque()

    # -- prices -----------------------------------------------------------------

    def cost_of(self, wanted: str | Cost) -> Cost:
        """Return the cost of an operation's name, or a checked cost.

        Raises:
            ConfigError: the operation or a meter is not known, a count is no number.
        """
        if isinstance(wanted, str):
            operations = self.provider.operations
            if wanted not in operations:
                known = ", ".join(sorted(operations))
                msg = f"{self.provider.name} has no operation {wanted!r}; it has {known}"
                raise ConfigError(msg)
            return operations[wanted]
        self.units_of(wanted)
        return wanted

    def units_of(self, cost: Cost) -> dict[str, int]:
        """Return *cost* in integer units, rounded up.

        Raises:
            ConfigError: a meter is not known, or a count is negative or no number.
        """
        if not isinstance(cost, Mapping):
            msg = f"a cost maps meters to units, it is no {type(cost).__name__}"
            raise ConfigError(msg)
        meters = self.provider.meters
        counted = {}
        for name, value in cost.items():
            meter = meters.get(name)
            if meter is None:
                known = ", ".join(sorted(meters))
                msg = f"{self.provider.name} has no meter {name!r}; it has {known}"
                raise ConfigError(msg)
            try:
                count = units(value, meter.scale)
            except ValueError as error:
                msg = f"the cost of {name}: {error}"
                raise ConfigError(msg) from None
            if count < 0:
                msg = f"the cost of {name} is negative"
                raise ConfigError(msg)
            counted[name] = count
        return counted

    def plain(self, cost: Cost) -> Cost:
        """Return *cost* as the dict that takes the fast lane; it must not be changed.

        A provider's own read-only costs are checked once and remembered.
        """
        known = self._plain.get(id(cost))
        if known is not None and known[0] is cost:
            return known[1]
        if self.fractional:
            return cost
        counted = self.units_of(cost)
        if cost.__class__ is MappingProxyType and len(self._plain) < _REMEMBERED:
            self._plain[id(cost)] = cost, counted
        return counted

    def amounts(self, cost: Mapping[str, int]) -> Mapping[str, Any]:
        """Return integer units as the user counts them."""
        if not self.fractional:
            return cost
        return {name: amount(n, self.provider.meters[name].scale) for name, n in cost.items()}

    def wait(self, max_wait: Duration) -> float:
        """Return a call's own *max_wait* in seconds.

        Raises:
            ConfigError: it is no duration.
        """
        return seconds(max_wait, "max_wait")

    def rank(self, priority: str) -> None:
        """Check a priority.

        Raises:
            ConfigError: the policy does not name it.
        """
        if priority not in self.policy.slack:
            known = ", ".join(self.policy.slack)
            msg = f"the policy has no priority {priority!r}; it has {known}"
            raise ConfigError(msg)

    # -- the books --------------------------------------------------------------

    def post(self, entry: Entry) -> Verdict:
        """Enter something in the books, and tell what that caused.

        Raises:
            LedgerUnavailable: a shared ledger cannot be reached.
        """
        self.tidy()
        return self.heard(self.holder.post(entry))

    def enter(self, entry: Entry) -> None:
        """Enter what nobody waits for: never blocks, where others share the ledger."""
        if self.holder.waits:
            self.holder.hand_in(entry)
        else:
            self.post(entry)

    def heard(self, posted: Posted) -> Verdict:
        """Tell what an entry caused, and return what the books answered."""
        self.ledger_error = None
        for event in posted.events:
            self.tell(event)
        news = self.holder.news
        for _ in range(len(news)):
            self.tell(news.popleft())
        if self.deferred:
            self._lapse()
        self.calls_told = bool(self._listeners) or getattr(self._log, "wants_calls", False)
        return posted.verdict

    def without_ledger(
        self, entry: Entry, error: LedgerUnavailable, *, lends: bool = True
    ) -> Verdict:
        """Return what holds while the books cannot be reached; without *lends* nobody goes."""
        if self.ledger_error is None:
            self.degraded("ledger_down", str(error))
        self.ledger_error = error
        if not isinstance(entry, Reserve):
            return Unreached(error)
        holder, cost, rank, terms = self.holder, entry.cost, entry.priority, self.terms
        with holder.lock:
            now, books, lent = holder.moment(), holder.books, holder.lent
            goes = goes_without(books, cost, rank, lent, now, terms, fresh=holder.fresh)
            if goes or entry.forced or self.policy.shadow:
                if lends:
                    holder.lend(entry.name, cost)
                return Granted(lent=True)
            name, first = next(iter(cost.items()))
            facts = books.facts(name, now, terms, priority=rank, requested=first)
        return Unknown(replace(facts, reason=NO_LEDGER, retry_after=ASK_AGAIN), ASK_AGAIN)

    def leave(self, act: Callable[[], object]) -> None:
        """Leave *act* to whoever posts next; takes no lock, as a finalizer must not."""
        self._left.append(act)

    def tidy(self) -> None:
        """Do what coroutines that were thrown away have left."""
        for _ in range(len(self._left)):
            self._left.popleft()()

    def look(self, draw: Callable[[Books, Moment, Terms], _Picture]) -> _Picture:
        """Return what *draw* makes of the books as they stand now. Never polls.

        Raises:
            LedgerUnavailable: a shared ledger cannot be reached.
        """
        if self.holder.waits and in_event_loop():
            self.holder.freshen()  # a loop, which must not wait, has the last ones
        else:
            self.post(Touch())
        return self.drawn(draw)

    def drawn(
        self, draw: Callable[[Books, Moment, Terms], _Picture], *, told: bool = False
    ) -> _Picture:
        """Return what *draw* makes of the books as last seen; *told*: with what is told next."""
        own = self.holder.seen() if told else None
        with self.holder.lock:
            books = own or self.holder.books
            return draw(books, theirs(books.ahead, self.holder.moment()), self.terms)

    def wall(self) -> float:
        """Return the Unix time of now, the provider's own as far as it is known."""
        return theirs(self.holder.books.ahead, self.holder.moment()).wall

    def headroom(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the units that may still be safely spent, None for unlimited.

        Of a shared ledger as it was last seen: a look at a reply asks no store.
        """
        if not self.holder.waits:
            self.post(Touch())
        told: dict[str, Any] = {}
        with self.holder.lock:
            now, books = self.holder.moment(), self.holder.books
            for name in names:
                read = name in books.meters and books.meters[name].read
                room = books.room(name, now, self.terms) if read else None
                idle = books.meters[name].idle if read else 0
                scale = self.provider.meters[name].scale
                told[name] = None if room is None else amount(max(0, room + idle), scale)
        return told

    def _lapse(self) -> None:
        """Give up reservations whose webhook did not come in time."""
        now = self.clock.now()
        for number, reservation in tuple(self.deferred.items()):
            if now.slow >= (reservation.lapses_at or 0.0):
                with suppress(ConfigError):  # it was settled just now
                    reservation.give_up()
            if reservation.state != "deferred":
                self.deferred.pop(number, None)

    # -- events -----------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Give *event* to the log and the listeners. Never raises."""
        for listener in (self._log, *self._listeners):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - a listener never reaches into a call
                self._drop(listener, error)

    def underpriced(self, spent: Mapping[str, int], cost: Mapping[str, int]) -> None:
        """Tell that a call cost more than was reserved for it; all of it is counted."""
        for name, count in spent.items():
            more = count - cost.get(name, 0)
            if more > 0:
                reason = (
                    f"the call cost {self.amounts({name: more})[name]} units more than was reserved"
                )
                self.degraded("underpriced", reason, name)

    def reserved(self, cost: Mapping[str, int], priority: str) -> None:
        """Tell that units are held for a call that goes now."""
        if self.calls_told:
            name, account = self.provider.name, self.provider.account
            told = self.amounts(cost)
            self.tell(Reserved(provider=name, account=account, cost=told, priority=priority))

    def settled(
        self, spent: Mapping[str, int], cost: Mapping[str, int], *, unknown: bool = False
    ) -> None:
        """Tell that a reservation ended, with its price or without an answer."""
        if self.calls_told:
            name, account = self.provider.name, self.provider.account
            paid, held = self.amounts(spent), self.amounts(cost)
            self.tell(
                Settled(provider=name, account=account, cost=paid, reserved=held, unknown=unknown)
            )

    def released(self, cost: Mapping[str, int]) -> None:
        """Tell that a reservation ended without a charge."""
        if self.calls_told:
            name, account = self.provider.name, self.provider.account
            self.tell(Released(provider=name, account=account, cost=self.amounts(cost)))

    def _drop(self, listener: Callable[[Event], None], error: Exception) -> None:
        if listener is self._log:
            self._log = _silent
        self._listeners = tuple(kept for kept in self._listeners if kept is not listener)
        self.listening = bool(self._listeners)
        self.warn(f"a listener was dropped: it raised {type(error).__name__}")

    def warn(self, reason: str) -> None:
        """Say something that no event is made for, once, in the log."""
        logging.getLogger("quotaguard").warning("%s: %s", self.provider.name, reason)

    def degraded(self, state: str, reason: str, meter: str | None = None) -> None:
        """Tell that the guard works with less than it should."""
        account = self.provider.account
        self.tell(
            Degraded(
                provider=self.provider.name,
                account=account,
                state=state,
                reason=reason,
                meter=meter,
            )
        )


def _silent(_: Event) -> None:
    """The log after it failed."""


ASK_AGAIN = 0.5
"""Seconds until a store that failed is asked again; see `quotaguard.sharing.pausing`."""


_REMEMBERED = 64
"""Costs that are remembered as checked: the few that a provider has made beforehand."""


def terms_of(provider: Provider, policy: Policy) -> Terms:
    """Return what *provider* and *policy* ask of the books.

    Raises:
        ConfigError: the policy has settings for a meter that the provider has not.
    """
    unknown = sorted(set(policy.meters) - set(provider.meters))
    if unknown:
        msg = f"{provider.name} has no meter {unknown[0]!r}, for which the policy has settings"
        raise ConfigError(msg)
    return Terms(
        provider=provider.name,
        account=provider.account,
        meters={
            name: MeterTerms.of(meter, policy.of(name)) for name, meter in provider.meters.items()
        },
        polls=PollTerms.of(policy, provider.polls_per_hour),
        rates=RateTerms(policy.rates, policy.slack, policy.shadow),  # type: ignore[arg-type] # as above
    )
