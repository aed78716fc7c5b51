"""The entries on the books. Each is applied whole, and a repeated one does no harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quotaguard.errors import ProviderError, StatsForbidden
from quotaguard.quota.account import Books, Posted, Terms
from quotaguard.quota.decide import judge, lanes
from quotaguard.quota.events import Drifted, Event, Polled, PollFailed
from quotaguard.quota.polls import REFUSED_EVERY, Claim
from quotaguard.quota.readings import Moment, Reading, amount, nothing
from quotaguard.quota.verdicts import (
    Done,
    Due,
    Granted,
    Later,
    Spent,
    Verdict,
)

__all__ = [
    "Abandon",
    "AskToPoll",
    "Blocked",
    "Check",
    "GiveBack",
    "Observe",
    "Pause",
    "PollLost",
    "Reserve",
    "Touch",
    "Unblocked",
]

POLL_THETA = 0.25
"""The next poll comes when a quarter of the remainder is gone at today's pace."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold *cost* (integer units) for a call, or say why not. All meters or none.

    name: made by the caller before asking, so that a lost answer can be undone.
    slot: the place that the caller was given before and now comes for.
    may_poll: the caller can make a poll that is due.
    forced: the call goes whatever the books say (shadow mode).
    lanes: meters to grant lanes for. hopeless: it will not wait for anything.
    """

    name: str
    cost: Mapping[str, int]
    priority: str
    slot: float | None = None
    may_poll: bool = True
    forced: bool = False
    lanes: Mapping[str, int] = field(default_factory=nothing)
    max_wait: float = math.inf

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Decide, and charge if the call goes."""
        urgent = books.asked == -math.inf or _urgent(books, self.cost, now, terms)
        if self.may_poll and books.polls.due(now, terms.polls, urgent=urgent):
            claim = books.polls.claim(self.name, now, terms.polls)
            return Posted(Due(claim))
        promised = self.slot is not None
        verdict = judge(books, self.cost, self.priority, now, terms, promised=promised)
        if verdict is None or self.forced:
            return self._grant(books, now, terms)
        return Posted(self._plan(books, verdict, now, terms), events=_ladder(books, now, terms))

    def _grant(self, books: Books, now: Moment, terms: Terms) -> Posted:
        probes = []
        for name in self.cost:
            meter = books.meter(name)
            if meter.blocked:
                # The one probe; the next comes later unless this one succeeds.
                meter.block(now)
                probes.append(name)
        ahead = lanes(books, {**self.cost, **self.lanes}, now, terms, self.cost)
        for name, count in self.cost.items():
            books.meters[name].held += count
        events = books.crossed(self.cost, now, terms)
        for name, count in self.cost.items():
            books.meters[name].held -= count  # entered by post, with the lanes
        events.extend(_ladder(books, now, terms))
        return Posted(Granted(tuple(probes)), dict(self.cost), ahead, tuple(events))

    def _plan(self, books: Books, verdict: Verdict, now: Moment, terms: Terms) -> Verdict:
        """Hand out the slot, or plan the poll that may change the verdict."""
        if isinstance(verdict, Later) and verdict.slot is not None:
            if verdict.delay <= self.max_wait:
                last = books.slots.get(self.priority, -math.inf)
                books.slots[self.priority] = max(last, verdict.slot)
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


def _urgent(books: Books, cost: Mapping[str, int], now: Moment, terms: Terms) -> bool:
    """Whether a poll is worth one of those kept for news: a call would be refused."""
    return judge(books, cost, "", now, terms) is not None


def _ladder(books: Books, now: Moment, terms: Terms) -> tuple[Event, ...]:
    """Tell once when the readings become stale or expired, or fresh again."""
    if books.asked == -math.inf:
        return ()
    age = now.fast - books.asked_fast
    longest = max(float(mine.policy.max_age) for mine in terms.meters.values())  # type: ignore[arg-type] # seconds
    if age > longest:
        state = "expired"
    elif age > 2.0 * terms.polls.longest:
        state = "stale"
    else:
        state = "fresh"
    reason = f"the last reading is {age:,.0f} s old"
    if books.polls.reason:
        reason += f"; polls fail: {books.polls.reason}"
    return tuple(books.degraded(state, reason, terms))


@dataclass(frozen=True, slots=True)
class Check:
    """Say what `Reserve` would; charge nothing, hand out nothing."""

    cost: Mapping[str, int]
    priority: str

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Look only."""
        verdict = judge(books, self.cost, self.priority, now, terms)
        return Posted(Granted() if verdict is None else verdict)


@dataclass(frozen=True, slots=True)
class Touch:
    """Bring the holder's counts and the period up to date."""

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Nothing else: the report came with it."""
        events = books.crossed(books.meters, now, terms)
        return Posted(Done(), events=(*events, *_ladder(books, now, terms)))


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Return a slot that its waiter no longer wants."""

    priority: str
    slot: float
    cost: Mapping[str, int]

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Let those behind move up by what this one would have taken."""
        last = books.slots.get(self.priority)
        if last is None:
            return Posted(Done())
        gain = 0.0
        for name, count in self.cost.items():
            meter, policy = books.meter(name), terms.meters[name].policy
            held = (1.0 - policy.slack.get(self.priority, 0.0)) * (meter.limit or 0)
            if held > 0 and books.period.length is not None:
                gain = max(gain, count * books.period.length / held)
        books.slots[self.priority] = max(now.fast, last - gain)
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
        """Keep the old reading, back off."""
        polls = books.polls
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
        return Posted(Done(polls.next - now.fast), events=(failed, *_ladder(books, now, terms)))


@dataclass(frozen=True, slots=True)
class Observe:
    """Take in the reading that the poll of this claim brought.

    trusted: the user asked for it, good news needs no second reading.
    """

    claim: Claim
    reading: Reading
    jitter: float = 0.0
    trusted: bool = False

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Reconcile every meter that the reading names."""
        events: list[Event] = []
        if self._period(books, events, terms):
            self._meters(books, terms, events)
            books.slots.clear()
            events.extend(books.crossed(self._named(terms), now, terms))
        interval = _interval(books, now, terms)
        books.polls.succeeded(self.claim, now, interval, self.jitter)
        events.append(self._polled(books, interval, terms))
        events.extend(_ladder(books, now, terms))
        return Posted(Done(interval), events=tuple(events))

    def _named(self, terms: Terms) -> dict[str, int]:
        return {name: 0 for name in self.reading.usages if name in terms.meters}

    def _period(self, books: Books, events: list[Event], terms: Terms) -> bool:
        """Open the period that the reading names; False if the reading is of an old one."""
        told, asked = self.reading.period, self.claim.asked
        if told.end is None or told == books.period:
            if told.end is not None:
                books.live = asked.wall < told.end
            return True
        if asked.slow < books.asked:
            return False
        if told == books.ended and told.end is not None:
            # We turned by the clock and they have not yet. Wait for them as long as
            # an answer may lag; then believe that the period goes on.
            paranoid = max(mine.paranoid for mine in terms.meters.values())
            if asked.wall <= told.end + told.skew + paranoid:
                return False
        first = books.asked == -math.inf
        # After a turn by the clock the period in the books is a guess, told already.
        guessed = books.ended is not None and not books.live
        if not first:
            books.ended = books.ended if guessed else books.period
            for meter in books.meters.values():
                meter.forget()
                meter.read = False
        books.period = told
        books.live = told.end is not None and asked.wall < told.end
        if not first and not guessed:
            events.append(books.turned(terms, seen=True))
        return True

    def _meters(self, books: Books, terms: Terms, events: list[Event]) -> None:
        asked = self.claim.asked
        newest = asked.slow >= books.asked
        if books.cold_from is not None and asked.slow > books.cold_from + terms.settled:
            books.cold_from = None
        for name in self._named(terms):
            usage, mine = self.reading.usages[name], terms.meters[name]
            meter = books.meter(name)
            first, drift = not meter.read, meter.drift
            meter.observe(usage, asked, mine, trusted=self.trusted)
            if first and usage.limit is not None:
                share = int(mine.policy.cold_reserve * usage.limit)
                meter.cold = max(0, min(share, (usage.limit - usage.used) // 4))
            if meter.drift > drift:
                events.append(self._drifted(name, meter.drift, terms))
        if newest:
            books.asked, books.asked_fast = asked.slow, asked.fast
            books.asked_wall = asked.wall

    def _drifted(self, name: str, drift: int, terms: Terms) -> Drifted:
        scale = terms.meters[name].meter.scale
        return Drifted(
            provider=terms.provider,
            account=terms.account,
            meter=name,
            drift=amount(drift, scale),
            used=amount(self.reading.usages[name].used, scale),
        )

    def _polled(self, books: Books, interval: float, terms: Terms) -> Polled:
        used, limit = {}, {}
        for name in self._named(terms):
            usage, scale = self.reading.usages[name], terms.meters[name].meter.scale
            used[name] = amount(usage.used, scale)
            limit[name] = None if usage.limit is None else amount(usage.limit, scale)
        return Polled(
            provider=terms.provider,
            account=terms.account,
            used=used,
            limit=limit,
            period_end=books.period.ends_at,
            next_poll=interval,
        )


def _interval(books: Books, now: Moment, terms: Terms) -> float:
    """Return the seconds to the next poll: sooner the faster a remainder shrinks."""
    polls = terms.polls
    interval = polls.longest
    for name, meter in books.meters.items():
        mine = terms.meters[name]
        if meter.uncertain:
            interval = polls.shortest
        if meter.limit is None or not meter.read:
            continue
        remaining = meter.limit + mine.overage - meter.gate(now.fast, mine)
        rate = meter.own_rate(now) + meter.rise
        if remaining > 0 and rate > 0:
            interval = min(interval, POLL_THETA * remaining / rate)
        if meter.blocked:
            exact = meter.blocked_at + mine.settled - now.slow
            interval = min(interval, max(polls.shortest, exact))
    if books.ended is not None and not books.live and books.period.end is not None:
        interval = min(interval, max(polls.shortest, 30.0))
    return max(polls.shortest, min(interval, polls.longest))


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
        """Hold sends, the longest pause counts."""
        books.paused = max(books.paused, now.fast + self.seconds)
        return Posted(Done())


