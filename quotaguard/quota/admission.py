"""The stories: reserving, polling, refreshing. Generators that only ask.

A story decides what happens next and does nothing itself. It yields an ask, and
whoever drives it (a thread, an asyncio or trio task, the simulator) carries the
ask out and sends the answer back. So all of them run the same decisions.

    Post(entry)    enter something in the books           -> Verdict
    Poll(claim)    ask the provider's stats endpoint      -> Answer
    Sleep(s)       until then, or until the books change  -> Moment.fast after it
    Tell(event)    to listeners                           -> None

A story cannot clean up after itself: it may be closed while it waits, by a
cancelled task. What is held while an ask is carried out is named in the ask
(*undo*), and the driver posts that. Nothing but a slot or a claim ever is.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quotaguard.errors import (
    CostTooLarge,
    ProviderError,
    QuotaExhausted,
    QuotaUnknown,
    Refusal,
    RefusalFacts,
    WaitTooLong,
)
from quotaguard.quota.entries import (
    Abandon,
    AskToPoll,
    GiveBack,
    PollLost,
    Reserve,
    Touch,
    delayed,
)
from quotaguard.quota.events import Event, Refused
from quotaguard.quota.observing import Observe
from quotaguard.quota.pacing import RateSlot
from quotaguard.quota.readings import Reading, nothing
from quotaguard.quota.verdicts import (
    Due,
    Granted,
    Later,
    Pending,
    Slot,
    Spent,
    TooLarge,
    Unknown,
    Unreached,
    Verdict,
)

if TYPE_CHECKING:
    from quotaguard.quota.account import Entry
    from quotaguard.quota.polls import Claim

__all__ = [
    "Answer",
    "Ask",
    "Poll",
    "Post",
    "Request",
    "Sleep",
    "Story",
    "Tell",
    "looking",
    "observing",
    "polling",
    "refreshing",
    "reserving",
]


@dataclass(frozen=True, slots=True)
class Post:
    """Enter this in the books; the answer is a `Verdict`. The driver tells the events."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the provider under this claim; the answer is an `Answer`.

    here: the caller needs the answer itself, no other thread may make the poll.
    """

    claim: Claim
    undo: Entry
    here: bool = False


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait *seconds*, or until the books change; the answer is the fast clock's time.

    polled: the wait is for a poll that somebody else makes. A caller who would
    wait for itself (its own event loop makes that poll) answers ``None`` at once.
    """

    seconds: float
    priority: str
    undo: Entry | None = None
    polled: bool = False


@dataclass(frozen=True, slots=True)
class Tell:
    """Give this event to the listeners."""

    event: Event


Ask = Post | Poll | Sleep | Tell


@dataclass(frozen=True, slots=True)
class Answer:
    """What a poll brought: a reading, or the provider's error; None of both: handed on.

    jitter: from -1 to 1, drawn by the driver.
    """

    reading: Reading | None = None
    error: ProviderError | None = None
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller wants. *at*: the fast clock when it came. Units are integers."""

    name: str
    cost: Mapping[str, int]
    priority: str
    max_wait: float
    at: float
    on_exhausted: str = "raise"
    shadow: bool = False
    lanes: Mapping[str, int] = field(default_factory=nothing)
    moved: float | None = None

    def entry(
        self,
        *,
        slot: Slot | None,
        waited: float,
        may_poll: bool = True,
        forced: bool = False,
    ) -> Reserve:
        """Return the entry that asks for it."""
        return Reserve(
            self.name,
            self.cost,
            self.priority,
            slot=slot,
            may_poll=may_poll,
            forced=forced,
            lanes=self.lanes,
            max_wait=max(0.0, self.max_wait - waited),
            moved=self.moved,
        )


Story = Generator[Ask, object, Verdict]

POLL_PATIENCE = 5.0
"""Seconds to wait for somebody else's poll as long as nothing is known at all."""


def reserving(request: Request) -> Story:
    """Reserve, waiting and polling as needed. Returns `Granted`.

    Raises:
        Refusal: the call does not go. Nothing is held for it.
    """
    slot: Slot | None = None
    last: Verdict | None = None
    now, error, news = request.at, None, False
    while True:
        waited = now - request.at
        left = request.max_wait - waited
        verdict = yield Post(request.entry(slot=slot, waited=waited, may_poll=not news))
        before, slot, polled = slot, None, False
        match verdict:
            case Granted():
                return verdict
            case Due(claim=claim):
                error = yield from polling(claim)
                slot = before if isinstance(before, RateSlot) else None
                continue
            case Pending(facts=facts, seconds=delay):
                # The first reading of all is worth a wait even to those who never wait,
                # as it is to the one who makes the poll.
                reason, polled = "a poll is under way", True
                delay = min(delay, max(POLL_PATIENCE, request.max_wait) - waited)
                late = delay <= 0.0
            case Later(facts=facts, delay=delay, reason=reason, slot=slot):
                late = delay > left or delay == math.inf
            case Spent(facts=facts, polled=polled):
                delay = _patience(request, verdict, left)
                late = delay > left or delay == math.inf
                reason = "part of the spend is not confirmed"
            case Unknown() if news:
                news = False  # whoever polled for us was stopped: now we do
                continue
            case _:
                return (yield from _refuse(request, verdict, error, now))
        if late:
            return (yield from _refuse(request, verdict, error, now))
        yield from _delayed(request, facts, delay, reason, again=_again(last, verdict))
        undo = None if slot is None else _return(request, slot, facts.meter)
        woken = yield Sleep(delay, request.priority, undo, polled=polled)
        if woken is None:
            error = yield from _poll_oneself(request)
        else:
            assert isinstance(woken, float)  # noqa: S101 - the driver's contract
            # Woken early there is news in the books: those behind must not wait for a poll.
            news = woken < now + delay
            now, last = woken, verdict


def _again(last: Verdict | None, verdict: Verdict) -> bool:
    """Whether a caller only looked if its place has come, or if others have given back."""
    if not isinstance(last, Later) or not isinstance(verdict, Later):
        return False
    return (verdict.slot is not None and verdict.slot == last.slot) or (last.lent and verdict.lent)


def _return(request: Request, slot: Slot, meter: str) -> GiveBack:
    return GiveBack(request.priority, slot, {meter: request.cost.get(meter, 0)})


def _patience(request: Request, spent: Spent, left: float) -> float:
    """Return how long a spent meter is worth waiting for, by who has *left* seconds."""
    if spent.heals is not None:
        # A poll under way answers long before its claim ends.
        heals = min(spent.heals, left) if spent.polled and left > 0.0 else spent.heals
        return heals if spent.turns is None else min(heals, spent.turns)
    if request.on_exhausted == "wait" and spent.turns is not None:
        return spent.turns
    return math.inf


def _poll_oneself(request: Request) -> Generator[Ask, object, ProviderError | None]:
    """Poll although somebody else does: two polls at once are harmless."""
    verdict = yield Post(AskToPoll(f"{request.name}'", anyway=True))
    if isinstance(verdict, Unreached):
        return None
    assert isinstance(verdict, Due)  # noqa: S101 - it was asked for anyway
    return (yield from polling(verdict.claim, here=True))


def polling(
    claim: Claim, *, here: bool = False, trusted: bool = False
) -> Generator[Ask, object, ProviderError | None]:
    """Carry out a poll whose claim was won; returns the provider's error, if any."""
    answer = yield Poll(claim, Abandon(claim), here)
    assert isinstance(answer, Answer)  # noqa: S101 - the driver's contract
    return (yield from observing(claim, answer, trusted=trusted))


def observing(
    claim: Claim, answer: Answer, *, trusted: bool = False
) -> Generator[Ask, object, ProviderError | None]:
    """Enter what a poll brought in the books."""
    if answer.reading is not None:
        yield Post(Observe(claim, answer.reading, answer.jitter, trusted=trusted))
    elif answer.error is not None:
        yield Post(PollLost(claim, answer.error, answer.jitter))
    return answer.error


def _refuse(request: Request, verdict: object, error: ProviderError | None, now: float) -> Story:
    """Tell the refusal and raise it; in shadow mode let the call go all the same."""
    refusal = _refusal(request, verdict)
    if isinstance(verdict, Spent):
        refusal.stays = now + verdict.stays
    elif isinstance(verdict, Later) and not isinstance(verdict.slot, RateSlot):
        refusal.stays = now + min(1.0, verdict.delay - (request.max_wait - (now - request.at)))
    yield Tell(_refused(refusal, shadow=request.shadow))
    if request.shadow:
        entry = request.entry(slot=None, waited=request.max_wait, forced=True)
        granted = yield Post(replace(entry, may_poll=False))
        assert isinstance(granted, Granted)  # noqa: S101 - it was forced
        return granted
    try:
        raise refusal from error
    finally:
        del refusal, error  # in whose tracebacks this is


def _refusal(request: Request, verdict: object) -> Refusal:
    facts: RefusalFacts
    match verdict:
        case TooLarge(facts=facts):
            return CostTooLarge(facts)
        case Unknown(facts=facts):
            return QuotaUnknown(facts)
        case Pending(facts=facts, seconds=seconds):
            return QuotaUnknown(replace(facts, retry_after=seconds, reason="a poll is under way"))
        case Later(facts=facts):
            return WaitTooLong(replace(facts, max_wait=request.max_wait))
        case Spent(facts=facts):
            if request.on_exhausted == "wait" and request.max_wait > 0:
                return WaitTooLong(replace(facts, max_wait=request.max_wait))
            return QuotaExhausted(facts)
        case _:
            pass
    msg = f"no refusal for {verdict!r}"
    raise AssertionError(msg)


def _delayed(
    request: Request, facts: RefusalFacts, delay: float, reason: str, *, again: bool
) -> Generator[Ask, object, None]:
    """Tell the delay; not *again* to one who only looked whether its place has come."""
    if not again:
        yield Tell(delayed(facts, request.priority, delay, reason))


def _refused(refusal: Refusal, *, shadow: bool) -> Refused:
    facts = refusal.facts
    return Refused(
        provider=facts.provider,
        account=facts.account,
        refusal=type(refusal).__name__,
        meter=facts.meter,
        priority=facts.priority,
        requested=facts.requested,
        used=facts.used,
        limit=facts.limit,
        headroom=facts.headroom,
        retry_after=facts.retry_after,
        resets_at=facts.resets_at,
        shadow=shadow,
    )


def looking() -> Generator[Ask, object, None]:
    """Bring the books up to date, for one who wants to see them.

    Raises:
        LedgerUnavailable: they cannot be reached.
    """
    verdict = yield Post(Touch())
    if isinstance(verdict, Unreached):
        raise verdict.error


def refreshing(name: str) -> Generator[Ask, object, ProviderError | None]:
    """Poll now, because the user asks: good news is believed at once.

    Raises:
        LedgerUnavailable: nobody can enter what the poll would bring.
    """
    verdict = yield Post(AskToPoll(name, anyway=True))
    if isinstance(verdict, Unreached):
        raise verdict.error
    assert isinstance(verdict, Due)  # noqa: S101 - it was asked for anyway
    return (yield from polling(verdict.claim, here=True, trusted=True))
