"""The entry that reconciles a reading with the books, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from quotaguard.quota.account import Books, Posted, Terms
from quotaguard.quota.events import Drifted, Event, Polled
from quotaguard.quota.meter import POLL_THETA
from quotaguard.quota.polls import Claim
from quotaguard.quota.readings import NOTHING, Moment, Reading, amount
from quotaguard.quota.verdicts import Done

__all__ = ["Observe", "hasten", "ladder"]


def ladder(books: Books, now: Moment, terms: Terms) -> tuple[Event, ...]:
    """Tell once when the readings become stale or expired, or fresh again."""
    if books.asked == -math.inf:
        return ()
    age = now.fast - books.asked_fast
    longest = max(mine.max_age for mine in terms.meters.values())
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
        near = interval < terms.polls.longest
        books.polls.succeeded(self.claim, now, interval, self.jitter, near=near)
        events.append(self._polled(books, interval, terms))
        events.extend(ladder(books, now, terms))
        return Posted(Done(interval), events=tuple(events))

    def _named(self, terms: Terms) -> dict[str, int]:
        return {name: 0 for name in self.reading.usages if name in terms.meters}

    def _period(self, books: Books, events: list[Event], terms: Terms) -> bool:
        """Open the period that the reading names; False if the reading is of an old one."""
        told, asked = self.reading.period, self.claim.asked
        if told.end is None or told == books.period:
            if told.end is not None and asked.slow >= books.asked:
                # Within the skew an old period proves nothing: the clock still turns it.
                books.live = asked.wall < told.end + told.skew
            return True
        if asked.slow < books.asked:
            return False
        if told == books.ended:
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
        books.live = asked.wall < told.end + told.skew
        if not first and not guessed:
            events.append(books.turned(terms, seen=True))
        return True

    def _meters(self, books: Books, terms: Terms, events: list[Event]) -> None:
        asked = self.claim.asked
        newest = asked.slow >= books.asked
        for name in self._named(terms):
            usage, mine = self.reading.usages[name], terms.meters[name]
            meter = books.meter(name)
            first, drift = not meter.read, meter.drift
            cold = books.chilled(meter, terms)
            meter.observe(usage, asked, mine, trusted=self.trusted, cold=cold)
            if first and usage.limit is not None:
                share = int(mine.policy.cold_reserve * usage.limit)
                meter.cold = max(0, min(share, (usage.limit - usage.used) // 4))
            if meter.drift > drift and usage.limit is not None:
                events.append(self._drifted(name, meter.drift, terms))
        if not any(books.chilled(meter, terms) for meter in books.meters.values() if meter.read):
            # A meter that this answer leaves out stays cold.
            books.cold_from = None
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


def hasten(books: Books, now: Moment, terms: Terms, taken: Mapping[str, int] = NOTHING) -> bool:
    """Bring the next poll forward where a quarter of a remainder is gone already.

    The schedule knows only the pace at the last poll; an import may have begun since.
    taken: units that are being granted. Returns whether it is so.
    """
    gone = False
    for name, meter in books.meters.items():
        if meter.read and meter.shown and meter.calm() <= taken.get(name, 0):
            books.polls.want(meter.asked_fast + terms.polls.shortest, now, terms.polls)
            gone = True
    return gone


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
