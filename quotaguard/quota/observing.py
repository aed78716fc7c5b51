"""The entry that reconciles a reading with the books, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from quotaguard.quota.account import Books, Posted, Terms
from quotaguard.quota.events import Drifted, Event, Polled
from quotaguard.quota.leases import trust
from quotaguard.quota.meter import POLL_THETA
from quotaguard.quota.polls import Claim
from quotaguard.quota.readings import NOTHING, Moment, Period, Reading, amount
from quotaguard.quota.theirs import ahead_by
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
        books.ahead = ahead_by(books.ahead, self.reading.dated, self.claim.asked, now)
        again = books.distrusted is not None and self.claim.asked.fast >= books.distrusted
        if again:
            trust(books, self._named(terms))
        if self._period(books, now, events, terms):
            self._meters(books, terms, events, again=again)
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

    def _period(self, books: Books, now: Moment, events: list[Event], terms: Terms) -> bool:
        """Open the period that the reading names; False if the reading is of an old one."""
        told, asked = self.reading.period, self.claim.asked
        late = asked.slow < books.asked
        if told.end is None or told == books.period:
            if not late:
                books.contested = None
                if told.end is not None:
                    self._lives(books, terms)
            return True
        if late:
            return False
        turns = now.wall >= told.end - told.skew
        if told == books.ended and turns and self._outdated(books, terms):
            books.contested = None
            return False
        if not self._believed(books, told, now):
            books.contested = (told, asked.slow)
            # What is said of a period that is over says nothing of this one.
            return self._over() < 0.0
        self._open(books, told, events, terms)
        return True

    def _open(self, books: Books, told: Period, events: list[Event], terms: Terms) -> None:
        """Open a period: what was read of the old one is of the past."""
        first, guessed = books.asked == -math.inf, books.guessed
        if not first:
            books.ended = books.ended if guessed else books.period
            for meter, mine in books.known(terms):
                if mine.resets:
                    meter.forget()
                    meter.read = False
        books.period, books.contested = told, None
        self._lives(books, terms)
        if not first and not guessed:
            events.append(books.turned(terms, seen=True))

    def _believed(self, books: Books, told: Period, now: Moment) -> bool:
        """Whether another period is one: the clock explains it, or a second reading says so.

        It makes a fresh start of all that is counted, the best news that an answer can
        bring. That a period goes on past its end is bad news after we began the next.
        """
        asked = self.claim.asked
        if self.trusted or books.asked == -math.inf or (books.guessed and told == books.ended):
            return True
        last = books.ended if books.guessed and books.ended is not None else books.period
        later = told.end is not None and (last.end is None or told.end > last.end)
        if later and last.end is not None and now.wall >= last.end - last.skew:
            return True
        if books.contested is None or asked.slow <= books.contested[1]:
            return False
        before = books.contested[0]
        # Some windows move on with every answer; so two that go on longer agree as well.
        goes_on = last.end is None or last.end < (before.end or 0.0) <= (told.end or 0.0)
        return told == before or (later and goes_on)

    def _outdated(self, books: Books, terms: Terms) -> bool:
        """Whether the period that has ended is told by an answer that is late or stale.

        After a turn by the clock alone it is believed, if it was asked for after the end:
        they do not always turn when they said. Once a reading has shown the new one it
        is stale, for as long as an answer may lag.
        """
        over = self._over()
        return over < 0.0 or (books.live and over <= _paranoid(terms))

    def _over(self) -> float:
        """Return the seconds from the end of the period that is told to the question."""
        told = self.reading.period
        return math.inf if told.end is None else self.claim.asked.wall - (told.end + told.skew)

    def _lives(self, books: Books, terms: Terms) -> None:
        """Say whether the period that is told is still to end: then the clock turns it.

        One that is told although it is over is looked at often as long as an answer may
        lag; then it is no guess of ours any more, which readings would soon replace.
        """
        over = self._over()
        books.live = over < 0.0
        if over > _paranoid(terms):
            books.ended = None

    def _meters(self, books: Books, terms: Terms, events: list[Event], *, again: bool) -> None:
        asked = self.claim.asked
        newest = asked.slow >= books.asked
        for name in self._named(terms):
            usage, mine = self.reading.usages[name], terms.meters[name]
            meter = books.meter(name)
            first, drift = not meter.read, meter.drift
            # Readings so far may have missed more of our own spend than the books know.
            cold = again or books.chilled(meter, terms)
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


def _paranoid(terms: Terms) -> float:
    return max(mine.paranoid for mine in terms.meters.values())


def hasten(books: Books, now: Moment, terms: Terms, taken: Mapping[str, int] = NOTHING) -> bool:
    """Bring the next poll forward where a quarter of a remainder is gone already.

    The schedule knows only the pace at the last poll; an import may have begun since.
    taken: units that are being granted. Returns whether it is so.
    """
    gone = books.distrusted is not None and now.fast >= books.distrusted
    if gone:
        books.polls.want(now.fast, now, terms.polls)
    for name, meter in books.meters.items():
        if meter.read and meter.shown and meter.calm() <= taken.get(name, 0):
            books.polls.want(meter.asked_fast + terms.polls.shortest, now, terms.polls)
            gone = True
    return gone


def _interval(books: Books, now: Moment, terms: Terms) -> float:
    """Return the seconds to the next poll: sooner the faster a remainder shrinks."""
    polls = terms.polls
    interval = polls.longest
    for meter, mine in books.known(terms):
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
    if books.contested is not None:
        interval = polls.shortest
    if books.guessed and books.period.end is not None:
        interval = min(interval, max(polls.shortest, 30.0))
    return max(polls.shortest, min(interval, polls.longest))
