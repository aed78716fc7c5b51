"""The guard: one account put together, and the ways in handed out."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack, overload

from quotaguard.asking import AsyncReports, Reports
from quotaguard.carrier import LazyStats
from quotaguard.clock import SystemClock
from quotaguard.errors import ConfigError, Refusal
from quotaguard.ledgers.memory import MemoryLedger
from quotaguard.logs import LogListener
from quotaguard.opened import checked, shared_ledger
from quotaguard.opening import full_check, quick_check
from quotaguard.quota.admission import looking, refreshing
from quotaguard.quota.entries import Touch
from quotaguard.quota.policy import Policy
from quotaguard.quota.standing import Decision, Standing, standing
from quotaguard.reservation import MISSING, Reservation
from quotaguard.spending import Spending, terms_of

if TYPE_CHECKING:
    import httpx

    from quotaguard.clients.function import Limit, LimitOr
    from quotaguard.clients.httpx import QuotaTransport
    from quotaguard.clock import Clock
    from quotaguard.ledgers import Ledger
    from quotaguard.providers import Provider
    from quotaguard.quota.account import Books, Terms
    from quotaguard.quota.calls import Cost
    from quotaguard.quota.events import Event
    from quotaguard.quota.forecast import Forecast
    from quotaguard.quota.policy import Duration
    from quotaguard.quota.readings import Moment

    _F = TypeVar("_F")
    _Client = TypeVar("_Client", httpx.Client, httpx.AsyncClient)
    _Picture = TypeVar("_Picture")

    class _Settings(TypedDict, total=False):
        cost: Callable[..., Cost] | None
        settle: Callable[[Any], Cost] | None
        priority: str
        max_wait: Duration | None


__all__ = ["Guard"]


_SYSTEM_CLOCK = SystemClock()
_HOME = MemoryLedger(clock=_SYSTEM_CLOCK)
"""The process's own ledger: two guards of one account share its books."""

_TESTED: weakref.WeakValueDictionary[int, MemoryLedger] = weakref.WeakValueDictionary()
"""The same for every other clock, as long as a guard uses it."""


class Guard:
    """Keeps the calls of one account within its quota: threads, asyncio and trio at once.

    It never raises anything but a `Refusal` into a guarded call.

    ledger: where the books are kept: ``"memory://"`` (one for the process and
        account), ``"sqlite:///var/lib/app/quota.db"`` (shared by the processes of a
        host), ``"redis://host"``, ``rediss://``, ``valkey://`` (by hosts), or a ledger object.
    listeners: called with every `Event`; one that raises is dropped.
    background: polls are made by a daemon thread and not by the caller who finds
        one due.
    stats_client: your own httpx client for polls (corporate proxy, own CA).
    clock: for tests, see `quotaguard.testing.FakeClock`.

    Raises:
        ConfigError: what was given cannot work.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        ledger: str | Ledger = "memory://",
        policy: Policy | None = None,
        listeners: Iterable[Callable[[Event], None]] = (),
        background: bool = False,
        stats_client: httpx.Client | httpx.AsyncClient | None = None,
        clock: Clock | None = None,
    ) -> None:
        policy = Policy() if policy is None else policy
        # Books and calls by one clock: a shared ledger may have been given its own.
        clock = clock or getattr(ledger, "clock", None) or _SYSTEM_CLOCK
        if isinstance(provider, type) or not hasattr(provider, "read_stats"):
            made = "make one: Guard(FullContact(api_key=...))"
            raise ConfigError(f"Guard takes a provider, not {provider!r:.60}; {made}")
        if not isinstance(policy, Policy):
            raise ConfigError(f"policy= is a Policy(...), not {type(policy).__name__}")
        terms = terms_of(provider, policy)
        self.provider = provider
        self.policy = policy
        self._ledger = _ledger_of(ledger, clock)
        self._spending = Spending(
            provider=provider,
            policy=policy,
            terms=terms,
            holder=self._ledger.holder(terms),
            clock=clock,
            stats=LazyStats(provider, stats_client, clock.fast),
            log=LogListener(),
            listeners=tuple(listeners),
            background=background,
        )

    # -- ways in ----------------------------------------------------------------

    def reserve(
        self,
        cost: str | Cost,
        /,
        *,
        priority: str = "normal",
        max_wait: Duration | None = None,
        fallback: Any = MISSING,  # noqa: ANN401 - whatever the user wants instead
    ) -> Reservation:
        """Return a reservation of *cost*, made when ``with`` or ``async with`` enters it.

        cost: units per meter, or an operation's name. max_wait: seconds, for this
        call. fallback: what ``as`` gives when the call is refused; a callable is
        called with the refusal.

        Raises:
            Refusal: when entered; the call does not go and nothing is held.
            ConfigError: an operation, meter or priority is not known.
        """
        if max_wait is not None:
            max_wait = self._spending.wait(max_wait)
        if cost.__class__ is str:
            cost = self._spending.cost_of(cost)
        return Reservation(self._spending, cost, priority, max_wait, fallback)  # type: ignore[arg-type] # no str any more

    @overload
    def limit(self, operation: str | Cost, /, **settings: Unpack[_Settings]) -> Limit: ...
    @overload
    def limit(
        self,
        operation: str | Cost,
        /,
        *,
        fallback: Callable[[Refusal], _F],
        **settings: Unpack[_Settings],
    ) -> LimitOr[_F]: ...
    @overload
    def limit(
        self, operation: str | Cost, /, *, fallback: _F, **settings: Unpack[_Settings]
    ) -> LimitOr[_F]: ...

    def limit(
        self,
        operation: str | Cost,
        /,
        *,
        cost: Callable[..., Cost] | None = None,
        settle: Callable[[Any], Cost] | None = None,
        priority: str = "normal",
        max_wait: Duration | None = None,
        fallback: Any = MISSING,
    ) -> Limit | LimitOr[Any]:
        """Return a decorator that reserves before every call of a function.

        For def, async def, methods, class and static methods, generators and async
        generators; types are kept.

        cost: the units of one call, from its arguments. settle: the units that it
        spent after all, from its result. fallback: returned instead of raising when
        the call is refused; a callable is called with the refusal.

        Raises:
            ConfigError: an operation, meter or priority is not known.
        """
        from quotaguard.clients.function import Limit  # noqa: PLC0415 - wrapt costs 20 ms

        return Limit(
            self._spending,
            operation,
            cost=cost,
            settle=settle,
            priority=priority,
            max_wait=max_wait,
            fallback=fallback,
        )

    def transport(
        self, inner: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None
    ) -> QuotaTransport:
        """Return an httpx transport, for both colours, that guards what passes.

        inner: the transport that sends: mock, HTTP/2, proxy; httpx's own by default.
            Retries and caches go outside.

        Raises:
            ConfigError: *inner* is known to retry: an attempt would go uncounted.
        """
        from quotaguard.clients.httpx import QuotaTransport  # noqa: PLC0415 - httpx costs 80 ms

        return QuotaTransport(self._spending, inner)

    def client(self, **settings: Any) -> httpx.Client:  # noqa: ANN401 - httpx.Client's own
        """Return an httpx.Client with the guard in its transport and every mount.

        Unlike ``httpx.Client(transport=...)`` it keeps proxies, verify and http2.
        """
        from quotaguard.clients import httpx  # noqa: PLC0415 - httpx costs 80 ms

        return httpx.client(self._spending, settings)

    def async_client(self, **settings: Any) -> httpx.AsyncClient:  # noqa: ANN401 - as above
        """Return an httpx.AsyncClient with the guard in its transport and every mount."""
        from quotaguard.clients import httpx  # noqa: PLC0415 - httpx costs 80 ms

        return httpx.async_client(self._spending, settings)

    def attach(self, client: _Client) -> _Client:
        """Put the guard into a client that exists: its transport and every mount.

        Returns the client. Attaching twice changes nothing.

        Raises:
            ConfigError: it is no httpx client, or one of its transports retries.
        """
        from quotaguard.clients.httpx import attach  # noqa: PLC0415 - httpx costs 80 ms

        attach(self._spending, client)
        return client

    # -- verbs ------------------------------------------------------------------

    def check(self, cost: str | Cost, /, *, priority: str = "normal") -> Decision:
        """Return whether a call of *cost* would go now. Charges nothing, never polls.

        Yes, too, where a poll is due: the call would make it first.

        Raises:
            ConfigError: an operation, meter or priority is not known.
        """
        spending = self._spending
        if cost.__class__ is str:
            cost = spending.cost_of(cost)
        quick = quick_check(spending, cost, priority)  # type: ignore[arg-type] # no str any more
        return full_check(spending, cost, priority) if quick is None else quick  # type: ignore[arg-type] # as above

    def record(self, cost: str | Cost, /) -> None:
        """Count units that were spent elsewhere: charged, never refused.

        Raises:
            ConfigError: an operation or meter is not known, a count is no number.
        """
        spending = self._spending
        counted = spending.units_of(spending.cost_of(cost))
        with spending.holder.lock:
            spending.holder.allotment.record(counted, spending.slow())
        spending.enter(Touch())

    def standing(self) -> Standing:
        """Return the account's whole picture, without polling."""
        return self._spending.look(standing)

    async def astanding(self) -> Standing:
        """Do as `standing` does, without blocking the event loop."""
        return await self._look(standing)

    def forecast(self) -> Forecast:
        """Return where each meter will be when the period ends, without polling."""
        from quotaguard.quota.forecast import forecast  # noqa: PLC0415 - seldom asked

        return self._spending.look(forecast)

    async def aforecast(self) -> Forecast:
        """Do as `forecast` does, without blocking the event loop."""
        from quotaguard.quota.forecast import forecast  # noqa: PLC0415 - seldom asked

        return await self._look(forecast)

    def refresh(self) -> Standing:
        """Poll now and believe good news at once: an upgraded plan, a refund.

        Raises:
            ProviderError: the stats endpoint did not bring a reading.
        """
        from quotaguard.drivers import drive  # noqa: PLC0415 - with its async twin

        error = drive(self._spending, refreshing(self._name()))
        if error is not None:
            raise error
        return self.standing()

    async def arefresh(self) -> Standing:
        """Poll now, as `refresh` does.

        Raises:
            ProviderError: the stats endpoint did not bring a reading.
        """
        from quotaguard.drivers import adrive  # noqa: PLC0415 - with its sync twin

        error = await adrive(self._spending, refreshing(self._name()))
        if error is not None:
            raise error
        return await self._look(standing)

    @property
    def reports(self) -> Reports:
        """The provider's stats endpoints as typed records: ``guard.reports.stats()``.

        Raises, when called: ProviderError; ConfigError for arguments that cannot be.
        """
        return Reports(self._spending)

    @property
    def areports(self) -> AsyncReports:
        """The same for event loops: ``await guard.areports.stats()``."""
        return AsyncReports(self._spending)

    def settle(self, reservation: int, actual: str | Cost, /) -> bool:
        """End a deferred reservation by its id: the webhook has told what it cost.

        The id is ``response.extensions["quotaguard"].id``. False if nothing waits
        under it: it was settled already, or became unknown after `Policy.late`.

        Raises:
            ConfigError: an operation or meter is not known, a count is no number.
        """
        cost = self._spending.cost_of(actual)
        found = self._spending.deferred.get(reservation)
        if found is None:
            return False
        try:
            found.settle(cost)
        except ConfigError:
            return False  # it became unknown just now
        return found.state == "settled"

    def close(self) -> None:
        """Close what the guard opened for polls. Reservations may still be ended.

        What is idle of a shared ledger goes back; a signal's handler leaves that to the exit.
        """
        self._spending.stats.close()
        self._ledger.close()

    async def aclose(self) -> None:
        """Close as `close` does."""
        await self._spending.stats.aclose()
        if self._spending.holder.waits:
            import anyio  # noqa: PLC0415 - only asynchronous callers pay for it

            await anyio.to_thread.run_sync(self._ledger.close)
        else:
            self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.aclose()

    async def _look(self, draw: Callable[[Books, Moment, Terms], _Picture]) -> _Picture:
        from quotaguard.drivers import adrive  # noqa: PLC0415 - with its sync twin

        await adrive(self._spending, looking())
        return self._spending.drawn(draw)

    def _name(self) -> str:
        return f"{self._spending.holder.name}.refresh"

    def _seen(self) -> Standing:
        """Return the picture as it was last seen: asks no ledger that is shared."""
        spending = self._spending
        return spending.drawn(standing, told=True) if spending.holder.waits else self.standing()

    def __repr__(self) -> str:
        return f"<Guard {self._seen().brief}>"


def _ledger_of(ledger: str | Ledger, clock: Clock) -> Ledger:
    if not isinstance(ledger, str):
        return checked(ledger)
    if ledger != "memory://":
        return shared_ledger(ledger, clock)
    if clock is _SYSTEM_CLOCK:
        return _HOME
    shared = _TESTED.get(id(clock))
    if shared is None:
        shared = _TESTED[id(clock)] = MemoryLedger(clock=clock)
    return shared
