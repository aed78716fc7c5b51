"""What the books answer. A verdict is acted on by a story, and never dropped."""

from __future__ import annotations

from dataclasses import dataclass

from quotaguard.errors import LedgerUnavailable, RefusalFacts
from quotaguard.quota.account import Verdict
from quotaguard.quota.pacing import RateSlot
from quotaguard.quota.polls import Claim

__all__ = [
    "Done",
    "Due",
    "Granted",
    "Later",
    "Pending",
    "Slot",
    "Spent",
    "TooLarge",
    "Unknown",
    "Unreached",
    "Verdict",
]

Slot = float | RateSlot
"""A place that was handed out: on a budget line, or in the order of a rate."""


@dataclass(frozen=True, slots=True)
class Done(Verdict):
    """The entry was made; there is nothing to decide. *next_poll*: seconds from now."""

    next_poll: float = 0.0


@dataclass(frozen=True, slots=True)
class Granted(Verdict):
    """The call goes now.

    probes: meters that it tests after the provider said spent. at: the slow clock, where
    the request was counted in a rate. lent: the books could not be asked, and no lease
    says until when it may go.
    """

    probes: tuple[str, ...] = ()
    at: float | None = None
    lent: bool = False


@dataclass(frozen=True, slots=True)
class Due(Verdict):
    """Nothing was decided: a poll is due, and the caller won the claim to make it."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Pending(Verdict):
    """Nothing was decided: somebody else is making the poll that is needed.

    facts: of the meter that is not known. seconds: until that claim lapses.
    """

    facts: RefusalFacts
    seconds: float


@dataclass(frozen=True, slots=True)
class Later(Verdict):
    """The call may go in *delay* seconds, holding nothing until then.

    slot: the caller was handed this place in the order of its priority (on a line the
    fast clock's time), which it gives back when it does not want it.
    lent: other holders have what it needs in their allotments, and are asked for it.
    """

    facts: RefusalFacts
    delay: float
    reason: str
    slot: Slot | None = None
    lent: bool = False


@dataclass(frozen=True, slots=True)
class Spent(Verdict):
    """Too little is left.

    heals: seconds until a poll may show more, because part of what counts as
        spent is not proven; None where it is.
    stays: seconds for which the answer stays the same if nothing else happens.
    turns: seconds until the period turns, None where that is not known.
    polled: the poll that may heal it is under way.
    """

    facts: RefusalFacts
    heals: float | None
    stays: float
    turns: float | None = None
    polled: bool = False


@dataclass(frozen=True, slots=True)
class TooLarge(Verdict):
    """The call could never fit, even in a fresh period."""

    facts: RefusalFacts


@dataclass(frozen=True, slots=True)
class Unreached(Verdict):
    """Nothing was entered: the ledger cannot be reached."""

    error: LedgerUnavailable


@dataclass(frozen=True, slots=True)
class Unknown(Verdict):
    """No reading is fresh enough, and the policy refuses. *retry*: seconds to the next poll."""

    facts: RefusalFacts
    retry: float | None
