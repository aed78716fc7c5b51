"""The books of one meter: a few running numbers and what they prove.

    spent    own units resolved so far; unknown outcomes at the full price
    unknown  the part of it whose outcome was never learnt
    held     own units reserved and unresolved, and allotments given out
    idle     the part of it that is in no call: the rest of the allotments
    base     what the newest reading said, less our own spend that it must contain
    floor    the best lower bound of all that is not ours
    others   what most likely is not ours: only people are told of it

    gate = max(base + spent, floor + spent - unknown) + held + margin

is an upper bound of what is, or may still come, on the provider's books. A call
of k units goes if gate + k <= limit. Why this never overshoots and always heals
is told in docs/explanation/why-it-never-overshoots.md.

Rules: times are seconds of the clock that can only run slow; a marker is taken
strictly before the question minus the lag, because clocks tick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from quotaguard.quota.readings import Moment, Usage
from quotaguard.quota.terms import MeterTerms

__all__ = ["POLL_THETA", "MeterBooks", "MeterTerms"]

SAMPLES = 32
"""Samples of *spent* that are kept; older ones are thinned, which rounds down.

A tick is a sixteenth of the lag, so the newest half spans the lag; an account of
three busy meters stays under 16 KiB.
"""

POLLS_KEPT = 16

POLL_THETA = 0.25
"""The next poll comes when a quarter of the remainder is gone, at today's pace or in fact."""


class MeterBooks:
    """Running numbers of one meter. Constant size whatever the number of calls."""

    __slots__ = (
        "asked",
        "asked_fast",
        "base",
        "blocked",
        "blocked_at",
        "ceiling",
        "cold",
        "confirm",
        "drift_from",
        "floor",
        "held",
        "idle",
        "limit",
        "lower",
        "others",
        "polls",
        "probe_at",
        "probe_pause",
        "proven",
        "read",
        "rise",
        "samples",
        "shared",
        "shown",
        "spent",
        "spent_shown",
        "unknown",
        "used",
        "warned",
    )

    def __init__(self) -> None:
        self.spent = self.unknown = self.held = self.idle = self.base = 0
        self.floor: int | None = None
        self.others: int | None = None
        self.limit: int | None = None
        self.samples: list[tuple[float, int]] = [(-math.inf, 0)]
        self.read = False
        self.used = 0
        self.asked = self.asked_fast = -math.inf
        self.rise = 0.0
        self.polls: list[tuple[float, int, int]] = []
        self.ceiling: int | None = None
        self.proven = False
        self.lower: int | None = None
        self.confirm: int | float | None = None
        self.shared = False
        self.drift_from: int | None = None
        self.warned = 0.0
        self.blocked = False
        self.blocked_at = -math.inf
        self.probe_at = math.inf
        self.probe_pause = 0.0
        self.shown = self.spent_shown = self.cold = 0

    # -- what is known ----------------------------------------------------------

    def known(self) -> int:
        """Return the units that are on the provider's books, as far as we can tell."""
        plain = self.base + self.spent
        if self.floor is None:
            return plain
        return max(plain, self.floor + self.spent - self.unknown)

    def least(self) -> int:
        """Return a lower bound of what is on the provider's books: proven spend."""
        if self.floor is None:
            return self.base + self.spent
        return self.floor + self.spent - self.unknown

    def likely(self) -> int:
        """Return the units that people should be shown as used: nothing counted twice.

        Charges that a reading may or may not contain are counted once; unknown
        outcomes in full until a reading knows better.
        """
        if self.floor is None or self.others is None:
            return self.known()
        return max(self.least(), min(self.known(), self.others + self.spent))

    def margin(self, fast: float, terms: MeterTerms) -> int:
        """Return the units held back for spend that cannot be seen yet."""
        if terms.margin is not None:
            share = math.ceil(terms.share * self.limit) if self.limit else 0
            return terms.margin + share
        if not self.rise or (terms.policy.exclusive and not self.shared):
            return 0
        return math.ceil(self.rise * (max(0.0, fast - self.asked_fast) + terms.lag))

    def gate(self, fast: float, terms: MeterTerms) -> int:
        """Return the upper bound of what is or will be on the provider's books."""
        return self.known() + self.held + self.margin(fast, terms)

    def marker(self, before: float) -> int:
        """Return *spent* as of the newest sample strictly before *before*."""
        for at, spent in reversed(self.samples):
            if at < before:
                return spent
        return self.samples[0][1] if self.samples[0][0] == -math.inf else 0

    def calm(self) -> int:
        """Return the own units that may go before a quarter of what a reading showed is gone."""
        return math.ceil(POLL_THETA * self.shown) - (self.taken - self.spent_shown)

    @property
    def taken(self) -> int:
        """Units of calls, ended or not: what is held in allotments is not taken yet."""
        return self.spent + self.held - self.idle

    @property
    def reserved(self) -> int:
        """Units of calls in flight."""
        return self.held - self.idle

    # -- own spend --------------------------------------------------------------

    def resolve(self, spent: int, unknown: int, at: float, terms: MeterTerms) -> None:
        """Count units whose call has ended by *at* (slow clock)."""
        self.spent += spent
        self.unknown += unknown
        if spent:
            self._sample(at, terms)

    def _sample(self, at: float, terms: MeterTerms) -> None:
        samples = self.samples
        newest = samples[-1][0]
        same = at <= newest or (terms.tick and at // terms.tick == newest // terms.tick)
        if same:
            samples[-1] = (max(at, newest), self.spent)
        else:
            samples.append((at, self.spent))
        oldest = at - 2.0 * terms.paranoid
        while len(samples) > 1 and samples[1][0] < oldest:
            del samples[0]
        if len(samples) > SAMPLES:
            # The older half loses every second sample: a marker that falls back to
            # an older one is smaller, the base larger, and that is safe.
            half = SAMPLES // 2
            del samples[1:half:2]

    # -- readings ---------------------------------------------------------------

    def observe(
        self,
        usage: Usage,
        asked: Moment,
        terms: MeterTerms,
        *,
        trusted: bool = False,
        cold: bool = False,
    ) -> None:
        """Take in what a reading says that was *asked* then.

        News that shrinks the remainder acts at once; news that raises it must be
        confirmed by a second reading, unless it is *trusted*: the user asked for it.
        cold: the readings so far may have missed what a predecessor spent.
        """
        marker = self.marker(asked.slow - terms.lag)
        lowest = usage.used - self.spent - self.held
        self.floor = lowest if self.floor is None else max(self.floor, lowest)
        if self.drift_from is None:
            self.drift_from = self.floor
        if asked.slow < self.asked:
            self.others = self.floor if self.others is None else max(self.others, self.floor)
            return
        # An entry may be posted twice, and two polls may be asked at one tick of the
        # clock: neither confirms itself.
        again = self.read and asked.slow == self.asked
        self._adopt_limit(usage.limit, trusted=trusted, again=again)
        hidden = self.spent + self.held - marker
        self._rebase(usage.used - marker, lowest, terms, cold=cold)
        bound = usage.used - self.marker(asked.slow - terms.paranoid)
        if self._refund(bound, trusted=trusted, again=again):
            self._watch(asked.slow, lowest, hidden, terms, again=again)
        self.read = True
        self.used = usage.used
        self.asked, self.asked_fast = asked.slow, asked.fast
        if self.blocked and asked.slow > self.blocked_at + terms.lag:
            self.unblock()
        # What lies idle elsewhere is most likely not in the reading, but may be.
        self.others = max(self.floor, usage.used - self.taken)
        self.spent_shown = self.taken
        limit = self.limit
        self.shown = 0 if limit is None else max(0, limit - self.known() - self.reserved)

    def _rebase(self, base: int, lowest: int, terms: MeterTerms, *, cold: bool) -> None:
        # A predecessor is somebody else: its spend must be able to raise the base.
        if terms.policy.exclusive and self.read and not cold:
            # More than we can have spent, whatever became of the unknown: not exclusive.
            floor = lowest if self.floor is None else max(lowest, self.floor - self.unknown)
            self.shared = floor > self.base
            if not self.shared:
                base = min(self.base, base)
        self.base = base

    def _refund(self, bound: int, *, trusted: bool, again: bool) -> bool:
        """Lower the floor once two readings running prove that it is too high.

        Returns whether the reading may teach how fast others spend. One that nobody has
        confirmed may be a stale replica's, and what comes after it would look like haste.
        """
        floor = self.floor
        if floor is None or bound >= floor - self.unknown:
            self.lower = None
            return True
        if trusted:
            self._lower(bound)
            self.lower = None
        elif self.lower is None:
            self.lower = bound
            return False
        elif again:
            self.lower = max(bound, self.lower)
            return False
        else:
            self._lower(max(bound, self.lower))
            self.lower = bound
        return True

    def _lower(self, bound: int) -> None:
        """Lower the floor, and forget what the readings above it have taught."""
        self.floor = bound + self.unknown
        self.polls = [poll for poll in self.polls if poll[1] <= self.floor]
        self.rise, self.proven = 0.0, False

    def _adopt_limit(self, limit: int | None, *, trusted: bool, again: bool) -> None:
        new = math.inf if limit is None else limit
        old = math.inf if self.limit is None else self.limit
        if not self.read or new <= old or trusted:
            self.limit, self.confirm = limit, None
        elif self.confirm is None:
            self.confirm = new
        elif again:
            self.confirm = min(new, self.confirm)
        else:
            sure = min(new, self.confirm)
            self.limit = None if sure == math.inf else int(sure)
            self.confirm = None if sure == new else new

    def _watch(
        self, asked: float, lowest: int, hidden: int, terms: MeterTerms, *, again: bool
    ) -> None:
        """Learn how fast others spend: the steepest rise, fading by a tenth per poll.

        Own units that an older reading may have missed explain part of a rise; and all
        of it, as long as no reading has more than an older one and our own calls allow.
        """
        window = max(600.0, 5.0 * terms.lag)
        while len(self.polls) > 1 and self.polls[1][0] < asked - window:
            del self.polls[0]
        del self.polls[: -POLLS_KEPT + 1]
        self.proven = self.proven or (self.ceiling is not None and lowest > self.ceiling)
        steepest = 0.0
        for then, low, unseen in self.polls if self.proven else ():
            if then <= asked - 2.0 * terms.lag and then < asked:
                rise = lowest - low - max(0, unseen - hidden)
                steepest = max(steepest, rise / (asked - then))
        self.polls.append((asked, lowest, hidden))
        highest = lowest + hidden + self.unknown
        self.ceiling = highest if self.ceiling is None else min(self.ceiling, highest)
        self.rise = max(self.rise if again else 0.9 * self.rise, steepest)
        if self.rise * 3600.0 < 0.5:
            self.rise = 0.0

    @property
    def uncertain(self) -> bool:
        """Whether good news waits for its confirmation by another reading."""
        return self.lower is not None or self.confirm is not None

    @property
    def drift(self) -> int:
        """Return what others have spent since the first reading of the period."""
        if self.floor is None or self.drift_from is None:
            return 0
        return max(0, self.floor - self.drift_from)

    # -- evidence, periods ------------------------------------------------------

    def block(self, now: Moment) -> None:
        """The provider says that this meter is spent: one probe per 5 min, then rarer."""
        self.blocked_at = now.slow
        self.probe_pause = min(3600.0, self.probe_pause * 2.0) if self.blocked else 300.0
        self.probe_at = now.fast + self.probe_pause
        self.blocked = True

    def unblock(self) -> None:
        """A call succeeded, or a reading that knows better was taken."""
        self.blocked = False
        self.probe_at, self.probe_pause = math.inf, 0.0

    def turn(self, earliest: float) -> None:
        """Begin a new period that cannot have begun before *earliest* (slow clock).

        What was resolved before it belongs to the old one; all else is counted.
        """
        self.base = -self.marker(earliest)
        self.forget()
        # Calls that begin from here on are surely charged in the new period.
        self.floor = -(self.spent + self.held)
        self.others = -self.taken

    def forget(self) -> None:
        """Drop what only the old period knew."""
        self.floor = self.others = self.lower = None
        self.confirm = self.drift_from = self.ceiling = None
        self.proven = False
        self.unknown = 0
        self.warned = 0.0
        self.polls = []
        self.used = 0
        self.unblock()
        self.shown = 0 if self.limit is None else max(0, self.limit - self.known() - self.reserved)
        self.spent_shown = self.taken

    def own_rate(self, now: Moment, lately: float = 300.0) -> float:
        """Return own units per second: of *lately* or of half an hour, whichever is more.

        Calls that come every few minutes do not show in five of them.
        """
        return max(self._rate(now, lately), self._rate(now, 1800.0))

    def _rate(self, now: Moment, seconds: float) -> float:
        since = now.slow - seconds
        then, spent = self.samples[0]
        for at, count in self.samples:
            if at > since:
                break
            then, spent = at, count
        span = seconds if then == -math.inf else max(1.0, now.slow - then)
        return (self.spent - spent) / span

    # -- as JSON ----------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the numbers as JSON can carry them, with Python's word for infinity."""
        state = dict(zip(MeterBooks.__slots__, _numbers(self), strict=True))
        state["samples"], state["polls"] = self.samples[:], self.polls[:]
        return state

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> MeterBooks:
        """Return the books that `state` told."""
        books = cls()
        for name in cls.__slots__:
            setattr(books, name, state[name])
        books.samples = [(at, spent) for at, spent in books.samples]
        books.polls = [(at, low, unseen) for at, low, unseen in books.polls]
        return books


_numbers = attrgetter(*MeterBooks.__slots__)
