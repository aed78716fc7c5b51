"""The entries on the books. Each is applied whole, and a repeated one does no harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quotaguard.errors import NoSubscription, ProviderError, RefusalFacts, StatsForbidden
from quotaguard.quota.account import Books, Posted, Terms, queue_of
from quotaguard.quota.allotment import Lane
from quotaguard.quota.decide import judge, judge_cost, lanes
from quotaguard.quota.events import Delayed, Event, PollFailed
from quotaguard.quota.leases import recall
from quotaguard.quota.observing import Observe, hasten, ladder
from quotaguard.quota.pacing import RateSlot
from quotaguard.quota.polls import REFUSED_EVERY, RETRY_AFTER_CAP, Claim
from quotaguard.quota.readings import Moment, nothing
from quotaguard.quota.verdicts import (
    Done,
    Due,
    Granted,
    Later,
    Slot,
    Spent,
    Verdict,
)

__all__ = [
    "Abandon",
    "AskToPoll",
    "Blocked",
    "Check",
    "Doubt",
    "Draw",
    "GiveBack",
    "Observe",
    "Pause",
    "PollLost",
    "Reserve",
    "Rest",
    "Touch",
    "Unblocked",
    "delayed",
]

COURTESY = 1.0
"""Seconds of a pause that a call may skip which is not allowed to wait for it."""


def delayed(facts: RefusalFacts, priority: str, delay: float, reason: str) -> Delayed:
    """Return the event of a call that goes in *delay* seconds."""
    return Delayed(
        provider=facts.provider,
        account=facts.account,
        meter=facts.meter,
        priority=priority,
        delay=delay,
        reason=reason,
    )


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold *cost* (integer units) for a call, or say why not. All meters or none.

    name: made by the caller before asking, so that a lost answer can be undone.
    slot: the place that the caller was given before and now comes for.
    may_poll: the caller can make a poll that is due.
    forced: the call goes whatever the books say (shadow mode).
    lanes: meters to grant lanes for, and how much of each will soon be taken; None for no
        lanes. max_wait: a longer delay is not waited for.
    moved: when (slow clock) the request went that this one replaces: it covered this one.
    """

    name: str
    cost: Mapping[str, int]
    priority: str
    slot: Slot | None = None
    may_poll: bool = True
    forced: bool = False
    lanes: Mapping[str, int] | None = field(default_factory=nothing)
    max_wait: float = math.inf
    moved: float | None = None

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Decide, and charge if the call goes."""
        if self.may_poll and self._poll_due(books, now, terms):
            claim = books.polls.claim(self.name, now, terms.polls)
            return Posted(Due(claim))
        verdict = self._judge(books, now, terms)
        late = verdict if isinstance(verdict, Later) and verdict.delay <= self.max_wait else None
        if self.slot is not None and type(late and late.slot) is not type(self.slot):
            self._step_out(self.slot, books, now, terms)
        if late is not None and terms.rates.shadow and isinstance(late.slot, RateSlot):
            told = delayed(late.facts, self.priority, late.delay, late.reason)
            return self._grant(books, now, terms, told)
        if verdict is None or self.forced or self._courtesy(verdict, books, now, terms):
            return self._grant(books, now, terms)
        return Posted(self._plan(books, verdict, now, terms), events=ladder(books, now, terms))

    def _judge(
        self, books: Books, now: Moment, terms: Terms, *, paused: bool = True
    ) -> Verdict | None:
        return judge(
            books,
            self.cost,
            self.priority,
            now,
            terms,
            slot=self.slot,
            moved=self.moved,
            paused=paused,
        )

    def _step_out(self, slot: Slot, books: Books, now: Moment, terms: Terms) -> None:
        """Free the slot of one who goes now, or not at all: nobody must wait behind it."""
        if isinstance(slot, RateSlot):
            books.rates.give_back(slot)
            return
        for name, count in self.cost.items():
            if now.fast < slot <= books.slots.get(queue_of(name, self.priority), -math.inf):
                GiveBack(self.priority, slot, {name: count}).apply(books, now, terms)
                return

    def _courtesy(self, verdict: Verdict, books: Books, now: Moment, terms: Terms) -> bool:
        """Whether only a short pause is in the way of a call that waits for nothing.

        The server paces by itself (FullContact up to a second); that refuses no call.
        """
        if not isinstance(verdict, Later) or not self.max_wait < verdict.delay <= COURTESY:
            return False
        return self._judge(books, now, terms, paused=False) is None

    def _poll_due(self, books: Books, now: Moment, terms: Terms) -> bool:
        """Whether to poll first; a call that would be refused may use the polls kept for it.

        So may one that finds a good part of the remainder gone: the schedule went by a
        pace that is over.
        """
        urgent = hasten(books, now, terms)
        if now.fast < books.polls.next:
            return False
        # No poll ends a pause, or lets more requests into a window.
        urgent = urgent or judge_cost(books, self.cost, self.priority, now, terms) is not None
        return books.polls.due(now, terms.polls, urgent=urgent)

    def _grant(self, books: Books, now: Moment, terms: Terms, *told: Event) -> Posted:
        probes = []
        for name in self.cost:
            meter = books.meter(name)
            if meter.blocked and self.cost[name]:
                # The one probe; the next comes later unless this one succeeds.
                meter.block(now)
                probes.append(name)
        hasten(books, now, terms, self.cost)
        ahead: Mapping[str, Lane] = nothing()
        if self.lanes is not None:
            ahead = lanes(books, {**self.cost, **self.lanes}, now, terms, self.cost)
        for name, count in self.cost.items():
            books.meters[name].held += count
        events = [*told, *books.crossed(self.cost, now, terms)]
        for name, count in self.cost.items():
            books.meters[name].held -= count  # entered by post, with the lanes
        events.extend(ladder(books, now, terms))
        at = None
        if books.rates.logs:
            at = now.slow
            books.rates.enter(at, self.moved)
        return Posted(Granted(tuple(probes), at), dict(self.cost), ahead, tuple(events))

    def _plan(self, books: Books, verdict: Verdict, now: Moment, terms: Terms) -> Verdict:
        """Hand out the slot, or plan the poll that may change the verdict."""
        if isinstance(verdict, Later) and verdict.lent:
            recall(books, now)
        if isinstance(verdict, Later) and verdict.slot is not None:
            if verdict.delay > self.max_wait or verdict.delay == math.inf:
                return verdict
            if not isinstance(verdict.slot, RateSlot):
                queue = queue_of(verdict.facts.meter, self.priority)
                books.slots[queue] = max(books.slots.get(queue, -math.inf), verdict.slot)
            elif not terms.rates.shadow:
                books.rates.promise(verdict.slot, now.slow)
            return verdict
        if isinstance(verdict, Spent):
            if verdict.heals is None:
                asked = books.meters[verdict.facts.meter].asked_fast
                books.polls.want(asked + REFUSED_EVERY, now, terms.polls)
                return verdict
            polled = books.polls.pending(now)
            at = books.polls.until
            if not polled:
                at = books.polls.want(now.fast + verdict.heals, now, terms.polls)
            wait = max(0.0, at - now.fast)
            facts = replace(verdict.facts, retry_after=wait)
            return replace(verdict, heals=wait, facts=facts, polled=polled)
        return verdict


@dataclass(frozen=True, slots=True)
class Check:
    """Say what `Reserve` would; charge nothing. Lanes let the next ones be quick."""

    cost: Mapping[str, int]
    priority: str
    lanes: Mapping[str, int] | None = field(default_factory=nothing)

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Look only."""
        hasten(books, now, terms)
        verdict = judge(books, self.cost, self.priority, now, terms)
        if verdict is not None:
            if isinstance(verdict, Spent):
                asked = books.meters[verdict.facts.meter].asked_fast
                books.polls.want(asked + REFUSED_EVERY, now, terms.polls)
            # A call would poll first, and nobody knows what it would find.
            closed = isinstance(verdict, Spent) and books.meters[verdict.facts.meter].blocked
            # But none that ends a pause, or lets more requests into a window.
            timed = isinstance(verdict, Later) and not isinstance(verdict.slot, float)
            first = not (closed or timed) and books.polls.due(now, terms.polls, urgent=True)
            return Posted(Done() if first else verdict)
        if self.lanes is None:
            return Posted(Granted())
        ahead = lanes(books, {**self.cost, **self.lanes}, now, terms, nothing())
        return Posted(Granted(), lanes=ahead)


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw lanes for the units of each meter that are *wanted* soon."""

    wanted: Mapping[str, int]

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Grant what may be taken ahead of the calls, which may be nothing."""
        return Posted(Done(), lanes=lanes(books, self.wanted, now, terms, nothing()))


@dataclass(frozen=True, slots=True)
class Touch:
    """Bring the holder's counts and the period up to date."""

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Nothing else: the report came with it."""
        events = books.crossed(books.meters, now, terms)
        return Posted(Done(), events=(*events, *ladder(books, now, terms)))


@dataclass(frozen=True, slots=True)
class Rest(Touch):
    """Do as `Touch`, of a holder that gives back what no call has taken."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Return a slot that its waiter no longer wants. *cost*: of the meter waited for."""

    priority: str
    slot: Slot
    cost: Mapping[str, int]

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Let those behind move up by what this one would have taken."""
        if isinstance(self.slot, RateSlot):
            books.rates.give_back(self.slot)
            return Posted(Done())
        for name, count in self.cost.items():
            queue = queue_of(name, self.priority)
            last = books.slots.get(queue)
            if last is None or books.period.length is None:
                continue
            meter, policy = books.meter(name), terms.meters[name].policy
            held = (1.0 - policy.slack.get(self.priority, 0.0)) * (meter.limit or 0)
            gain = count * books.period.length / held if held > 0 else 0.0
            books.slots[queue] = max(now.fast, last - gain)
        return Posted(Done())


@dataclass(frozen=True, slots=True)
class AskToPoll:
    """Claim a poll. *anyway*: the user asked for it (refresh), whatever the schedule."""

    name: str
    anyway: bool = False

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Give the claim, or say when the next poll is due."""
        if self.anyway or books.polls.due(now, terms.polls, urgent=True):
            return Posted(Due(books.polls.claim(self.name, now, terms.polls)))
        if books.polls.stopped:
            return Posted(Done(math.inf))
        until = books.polls.until if books.polls.pending(now) else books.polls.next
        return Posted(Done(max(0.0, until - now.fast)))


@dataclass(frozen=True, slots=True)
class Abandon:
    """The poll of this claim was given up before an answer came."""

    claim: Claim

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:  # noqa: ARG002 - the protocol's
        """Let somebody else ask."""
        books.polls.abandon(self.claim.name)
        return Posted(Done())


@dataclass(frozen=True, slots=True)
class PollLost:
    """The poll of this claim failed."""

    claim: Claim
    error: ProviderError
    jitter: float = 0.0

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Keep the old reading, back off. Without a subscription it is no longer true."""
        polls = books.polls
        if isinstance(self.error, NoSubscription):
            for meter in books.meters.values():
                meter.read = False
        reason = f"{type(self.error).__name__}: {self.error.args[0]}"
        polls.failed(
            self.claim,
            now,
            terms.polls,
            reason=reason,
            forbidden=isinstance(self.error, StatsForbidden),
            retry_after=self.error.retry_after,
            jitter=self.jitter,
        )
        failed = PollFailed(
            provider=terms.provider,
            account=terms.account,
            error=type(self.error).__name__,
            reason=str(self.error.args[0]),
            failures=polls.failures,
            retry_in=None if polls.stopped else polls.next - now.fast,
        )
        return Posted(Done(polls.next - now.fast), events=(failed, *ladder(books, now, terms)))


@dataclass(frozen=True, slots=True)
class Blocked:
    """The provider refused a call because *meters* are spent: ask it now."""

    meters: tuple[str, ...]

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Close the meters but for probes, until a reading or a success knows better."""
        for name in self.meters:
            if name in terms.meters:
                books.meter(name).block(now)
        books.polls.want(now.fast, now, terms.polls)
        return Posted(Done())


@dataclass(frozen=True, slots=True)
class Doubt:
    """An answer may be about the quota or not: only the next reading can tell."""

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Ask for that reading."""
        books.polls.want(now.fast, now, terms.polls)
        return Posted(Done())


@dataclass(frozen=True, slots=True)
class Unblocked:
    """A probe succeeded: the provider was wrong, or the plan was raised."""

    meters: tuple[str, ...]

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Open the meters, and ask what is true now."""
        for name in self.meters:
            books.meter(name).unblock()
        books.polls.want(now.fast, now, terms.polls)
        return Posted(Done())


@dataclass(frozen=True, slots=True)
class Pause:
    """The provider asks for *seconds* without calls. Says nothing of the quota."""

    seconds: float

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:  # noqa: ARG002 - the protocol's
        """Hold sends, the longest pause counts; more than an hour is a mistake or an attack."""
        books.paused = max(books.paused, now.fast + min(self.seconds, RETRY_AFTER_CAP))
        return Posted(Done())
