"""When to ask the provider: claims, intervals, the stats endpoint's own budget, backoff.

Times are of the clock that can only run fast. Nobody holds a lock while a poll
is under way: who wins the claim asks, the others see it and go on or wait, and a
claim whose holder died expires.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from quotaguard.quota.policy import Policy, seconds
from quotaguard.quota.readings import Moment

__all__ = ["CLAIM_SECONDS", "Claim", "PollTerms", "Polls"]

CLAIM_SECONDS = 15.0
"""A poll may take 10 s; a claim older than this belongs to somebody who died."""

HOUR = 3600.0

BURST = 10.0
"""Polls that may follow each other at once: enough for an incident, not for a loop."""

KEPT = 3.0
"""Polls kept for urgent news: near the limit, or the provider says exhausted."""

KEPT_FOR_REFUSED = 1.0
"""The one of them that near the limit is kept for a call that would be refused."""

OWN_PACE = 30.0
"""Who asks for polls more often than this has decided about the endpoint's budget."""

HAIR = 1e-9
"""Less than this is missing by rounding: the time to earn it may not move the clock."""

BACKOFF_CAP = 300.0
RETRY_AFTER_CAP = 3600.0
FORBIDDEN_STOP = 3
"""Refused keys are tried three times: more looks like an attack and locks accounts."""

REFUSED_EVERY = 900.0
"""While calls are refused somebody may be upgrading the plan: look every 15 min."""


@dataclass(frozen=True, slots=True)
class PollTerms:
    """*shortest* and *longest* seconds between polls, and what the budget comes to.

    per_hour: polls that are earned in an hour. burst: those that may be saved up, and
        follow each other at once. A burst and what is earned meanwhile are the budget.
    """

    shortest: float
    longest: float
    per_hour: float
    burst: float = BURST

    @classmethod
    def of(cls, policy: Policy, allowed: float) -> PollTerms:
        """Return what *policy* asks for, of a provider that allows so many polls per hour."""
        shortest, longest = (seconds(value, "poll_every") for value in policy.poll_every)
        polls, span, most = 0.9 * allowed, HOUR, BURST
        if isinstance(policy.poll_budget, tuple):
            polls, span = policy.poll_budget[0], seconds(policy.poll_budget[1], "poll_budget")
            most = min(BURST, allowed / 3.0)
            # Half of it is for times when nothing presses; no reading may expire in those.
            every = min(2.0 * span / polls, 0.9 * seconds(policy.max_age, "max_age"))
            longest = max(longest, every)
        elif policy.poll_budget is not None:
            polls = policy.poll_budget
        elif shortest < OWN_PACE:
            polls = max(polls, HOUR / shortest)
        burst = max(1.0, min(most, polls / 3.0))
        # The last of a burst and the first that is earned are a whole earning time apart.
        return cls(shortest, longest, (polls - burst + 1.0) * HOUR / span, burst)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to poll, by name. *asked* was read before the question was sent."""

    name: str
    asked: Moment


class Polls:
    """The poll schedule of one account."""

    __slots__ = (
        "allowance",
        "at",
        "claimed",
        "failures",
        "forbidden",
        "near",
        "next",
        "reason",
        "until",
    )

    def __init__(self) -> None:
        self.next = -math.inf
        self.claimed: str | None = None
        self.until = -math.inf
        self.failures = 0
        self.forbidden = 0
        self.reason = ""
        self.near = False
        self.allowance = BURST
        self.at = -math.inf

    @property
    def stopped(self) -> bool:
        """Whether the key was refused so often that polls have ended."""
        return self.forbidden >= FORBIDDEN_STOP

    def pending(self, now: Moment) -> bool:
        """Whether somebody is asking right now."""
        return self.claimed is not None and now.fast < self.until

    def _refill(self, now: Moment, terms: PollTerms) -> None:
        if self.at == -math.inf:
            self.allowance = terms.burst
        else:
            earned = (now.fast - self.at) * terms.per_hour / 3600.0
            self.allowance = min(terms.burst, self.allowance + max(0.0, earned))
        self.at = now.fast

    def due(self, now: Moment, terms: PollTerms, *, urgent: bool = False) -> bool:
        """Whether a poll should be made now, by schedule and by allowance."""
        if self.stopped or now.fast < self.next or self.pending(now):
            return False
        self._refill(now, terms)
        kept = 0.0 if urgent else KEPT_FOR_REFUSED if self.near else KEPT
        need = 1.0 + min(kept, terms.burst - 1.0)
        if self.allowance >= need - HAIR:
            return True
        self.next = now.fast + (need - self.allowance) * 3600.0 / terms.per_hour
        return False

    def claim(self, name: str, now: Moment, terms: PollTerms) -> Claim:
        """Give the right to poll to *name*, for `CLAIM_SECONDS`."""
        self._refill(now, terms)
        self.allowance = max(0.0, self.allowance - 1.0)
        self.claimed = name
        self.until = now.fast + CLAIM_SECONDS
        return Claim(name, now)

    def abandon(self, name: str) -> None:
        """Take a claim back whose holder gave up before an answer came."""
        if self.claimed == name:
            self.claimed = None

    def succeeded(
        self, claim: Claim, now: Moment, interval: float, jitter: float, *, near: bool = False
    ) -> None:
        """Plan the next poll *interval* seconds on, 10 % earlier or later.

        near: it is so soon because a remainder shrinks.
        """
        self.abandon(claim.name)
        self.near = near
        self.failures = self.forbidden = 0
        self.reason = ""
        self.next = now.fast + interval * (1.0 + 0.1 * jitter)

    def failed(
        self,
        claim: Claim,
        now: Moment,
        terms: PollTerms,
        *,
        reason: str,
        forbidden: bool,
        retry_after: float | None,
        jitter: float,
    ) -> None:
        """Back off: 1 s doubling to 5 min with full jitter, or as long as they ask.

        A refused key is tried again no sooner than a poll usually comes: a moment's fault
        of theirs must not be taken for three refusals.
        """
        self.abandon(claim.name)
        self.failures += 1
        self.forbidden = self.forbidden + 1 if forbidden else 0
        self.reason = reason
        cap = terms.longest if forbidden else min(BACKOFF_CAP, terms.longest)
        pause = min(cap, 2.0 ** min(self.failures - 1, 30))
        pause *= 0.5 + 0.25 * (1.0 + jitter)
        if forbidden:
            pause = max(pause, terms.shortest)
        if retry_after is not None:
            pause = max(pause, min(retry_after, RETRY_AFTER_CAP))
        self.next = now.fast + pause

    def want(self, at: float, now: Moment, terms: PollTerms) -> float:
        """Ask for a poll at *at* if none comes earlier; return when one will come.

        Blocked callers call this: it never shortens a backoff, nor the pause that
        the allowance asks for.
        """
        if self.stopped:
            return math.inf
        if self.failures:
            return self.next
        self._refill(now, terms)
        if self.allowance < 1.0 - HAIR:
            at = max(at, now.fast + (1.0 - self.allowance) * 3600.0 / terms.per_hour)
        self.next = max(now.fast, min(self.next, at))
        return self.next

    def state(self) -> dict[str, Any]:
        """Return the schedule as JSON can carry it, with Python's word for infinity."""
        return dict(zip(Polls.__slots__, _numbers(self), strict=True))

    @classmethod
    def of(cls, state: dict[str, Any]) -> Polls:
        """Return the schedule that `state` told."""
        polls = cls()
        for name in cls.__slots__:
            setattr(polls, name, state[name])
        return polls


_numbers = attrgetter(*Polls.__slots__)
