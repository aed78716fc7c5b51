"""What can go wrong, and whose fault it is.

::

    QuotaGuardError
    ├── Refusal                the call was not sent
    │   ├── QuotaExhausted     it would spend past the limit or into the margin
    │   │   └── CostTooLarge   it could never fit, even in a fresh period
    │   ├── QuotaUnknown       no reading fresh enough, and the policy refuses
    │   └── WaitTooLong        also a TimeoutError: the delay is longer than max_wait
    ├── ProviderError          theirs
    │   ├── StatsUnavailable   the stats endpoint did not answer, or answered a fault
    │   ├── StatsForbidden     it does not accept the key
    │   ├── StatsUnreadable    it answered something that is not a reading
    │   └── NoSubscription     it says that nothing is subscribed
    ├── LedgerError            the store's
    │   └── LedgerUnavailable  it cannot be reached, read or written
    └── ConfigError            also a ValueError: yours, found when it is built

A message says whose fault it is, what happened and what to do next. No error
carries a key, a request or a body. A Refusal is not an httpx error, so that
retrying transports do not hammer a closed door.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "ConfigError",
    "CostTooLarge",
    "LedgerError",
    "LedgerUnavailable",
    "NoSubscription",
    "ProviderError",
    "QuotaExhausted",
    "QuotaGuardError",
    "QuotaUnknown",
    "Refusal",
    "RefusalFacts",
    "StatsForbidden",
    "StatsUnavailable",
    "StatsUnreadable",
    "WaitTooLong",
]


class QuotaGuardError(Exception):
    """Everything that quotaguard raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalFacts:
    """What was known when a call was refused.

    Counts are units of the meter; *retry_after* is in seconds, None when only
    an upgrade or the next period helps and neither has a known date.
    """

    provider: str
    account: str
    meter: str
    priority: str = "normal"
    requested: float = 0
    limit: float | None = None
    used: float | None = None
    headroom: float | None = None
    margin: float = 0
    held: float = 0
    held_for: str | None = None
    retry_after: float | None = None
    max_wait: float | None = None
    resets_at: datetime | None = None
    read_at: datetime | None = None
    reason: str = ""


def _span(seconds: float) -> str:
    if seconds == float("inf"):
        return "no known time"
    if seconds < 120:
        return f"{seconds:,.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min ({seconds:,.0f} s)"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,}"


class Refusal(QuotaGuardError):
    """The call was not sent. Every fact is an attribute, see `RefusalFacts`."""

    stays: float = 0.0
    """The fast clock's time until which it surely stays true; for those who ask again."""

    # No __init__: a refused call should cost little more than one that goes.
    if TYPE_CHECKING:

        def __init__(self, facts: RefusalFacts) -> None: ...

    @property
    def facts(self) -> RefusalFacts:
        """What was known when the call was refused."""
        facts: RefusalFacts = self.args[0]
        return facts

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the facts, by name
        if name in RefusalFacts.__dataclass_fields__:
            return getattr(self.facts, name)
        msg = f"{type(self).__name__} has no attribute {name!r}"
        raise AttributeError(msg)

    if TYPE_CHECKING:
        provider: str
        account: str
        meter: str
        priority: str
        requested: float
        limit: float | None
        used: float | None
        headroom: float | None
        margin: float
        held: float
        held_for: str | None
        retry_after: float | None
        max_wait: float | None
        resets_at: datetime | None
        read_at: datetime | None
        reason: str

    def __str__(self) -> str:
        return f"{self._what()}. {self._next()}"

    def _what(self) -> str:
        facts = self.facts
        return f"{facts.provider} {facts.meter}: the call was not sent"

    def _counts(self) -> str:
        facts = self.facts
        counts = f"{_number(facts.used)} of {_number(facts.limit)} units used"
        if facts.margin:
            counts += f", {_number(facts.margin)} held back as margin"
        return counts

    def _next(self) -> str:
        facts = self.facts
        if facts.retry_after is not None:
            return f"Try again in {_span(facts.retry_after)}"
        return "Raise the limit with the provider, or wait for the next period"

    def _reset(self) -> str:
        at = self.facts.resets_at
        return "at an unknown time" if at is None else f"at {at:%Y-%m-%d %H:%M:%S %Z}"


class QuotaExhausted(Refusal):
    """The call would spend past the limit or into the margin; nothing was sent."""

    def _what(self) -> str:
        facts = self.facts
        return (
            f"{facts.provider} quota of {facts.meter} is exhausted: "
            f"{self._counts()}, this call needs {_number(facts.requested)}; "
            "it was not sent"
        )

    def _next(self) -> str:
        facts = self.facts
        if facts.retry_after is not None:
            return (
                f"Part of this is not yet confirmed: try again in "
                f"{_span(facts.retry_after)}. The period ends {self._reset()}"
            )
        if facts.limit == 0:
            return (
                "The plan includes none of these, every call would be billed: "
                "change the plan, or allow some with Policy(overage=...)"
            )
        return (
            f"It resets {self._reset()}; until then raise the plan's limit and "
            "call guard.refresh(), or allow extra units with Policy(overage=...)"
        )


class CostTooLarge(QuotaExhausted):
    """The call needs more than a whole period holds; it could never fit."""

    def _what(self) -> str:
        facts = self.facts
        return (
            f"{facts.provider} {facts.meter}: one call that needs "
            f"{_number(facts.requested)} units can never fit a limit of "
            f"{_number(facts.limit)}; it was not sent"
        )

    def _next(self) -> str:
        return "Split the batch, or raise the limit with the provider"


NO_LEDGER = "the ledger cannot be reached"
"""The reason of a refusal that is not the provider's fault."""


class QuotaUnknown(Refusal):
    """No reading is fresh enough, and the policy refuses; nothing was sent.

    What kept the reading away, or the books, is the ``__cause__``.
    """

    def _what(self) -> str:
        facts = self.facts
        return (
            f"{facts.provider} {facts.meter}: the quota is not known "
            f"({facts.reason or 'no reading'}); the call was not sent"
        )

    def _next(self) -> str:
        facts = self.facts
        if facts.reason == NO_LEDGER:
            return (
                "It is asked again at the next call. What ails it is the __cause__; or choose "
                'Policy(on_ledger_down="share") or Policy(on_ledger_down="open")'
            )
        again = ""
        if facts.retry_after is not None:
            again = f"The next poll comes in {_span(facts.retry_after)}. "
        return (
            f"{again}Look at the provider's stats endpoint and the key, or choose "
            'Policy(on_unknown="open") or Policy(on_stale="open")'
        )


class WaitTooLong(Refusal, TimeoutError):
    """The call could go later, but only after more than *max_wait* seconds."""

    def _what(self) -> str:
        facts = self.facts
        left = _number(facts.headroom)
        held = f", {_number(facts.held)} held for {facts.held_for}" if facts.held_for else ""
        why = f"{facts.reason}; " if facts.reason else ""
        return (
            f"{facts.provider} {facts.meter}: a {facts.priority} call for "
            f"{_number(facts.requested)} would wait longer than "
            f"{_number(facts.max_wait)} s ({why}{left} units left{held}); it was not sent"
        )

    def _next(self) -> str:
        facts = self.facts
        first = super()._next() if facts.retry_after is not None else f"It resets {self._reset()}"
        if facts.held_for:
            return f'{first}, raise max_wait, or pass with priority="{facts.held_for}"'
        return f"{first}, or raise max_wait"


class ProviderError(QuotaGuardError):
    """The provider's fault. *provider* names it, *request_id* is theirs if sent."""

    advice: ClassVar[str] = "Look at the provider's status page"

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        status: int | None = None,
        code: str | None = None,
        path: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.code = code
        self.path = path
        self.retry_after = retry_after
        self.request_id = request_id

    def __str__(self) -> str:
        said = str(self.args[0])
        request = f" (request {self.request_id})" if self.request_id else ""
        who = f"{self.provider}: " if self.provider else ""
        return f"{who}{said}{request}. {self.advice}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, dict(self.__dict__)


class StatsUnavailable(ProviderError):
    """The stats endpoint did not answer in time, or answered a fault."""

    advice = "Polls go on with growing pauses; the last reading stays in use"


class StatsForbidden(ProviderError):
    """The stats endpoint does not accept the key; after three times polls stop."""

    advice = "Check the API key and its rights, then call guard.refresh()"


class StatsUnreadable(ProviderError):
    """The answer is not a reading; *path* is what was looked for."""

    advice = "The last reading stays in use; the provider may have changed its answer"


class NoSubscription(ProviderError):
    """The provider says that nothing is subscribed."""

    advice = "Subscribe to a plan, or choose the account that has one"


class LedgerError(QuotaGuardError):
    """The store's fault."""


class LedgerUnavailable(LedgerError):
    """The store cannot be reached, read or written.

    The message says what to do; it names the store without user and password.

    store: the store's name, such as ``sqlite /var/lib/app/quota.db``.
    unsure: the answer was lost: what was posted may be in the books or not.
    """

    def __init__(self, message: str, *, store: str = "", unsure: bool = False) -> None:
        super().__init__(message)
        self.store, self.unsure = store, unsure

    def __reduce__(self) -> tuple[Any, ...]:
        return _unavailable, (self.args[0], self.store, self.unsure)


def _unavailable(message: str, store: str, unsure: bool) -> LedgerUnavailable:  # noqa: FBT001 - for pickle
    return LedgerUnavailable(message, store=store, unsure=unsure)


class ConfigError(QuotaGuardError, ValueError):
    """Yours, found when it is built and not at three in the morning."""
