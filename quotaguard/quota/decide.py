"""Whether a call goes: one look at the books, which are not changed by it.

All meters of a call are looked at before any is charged. The worst answer
counts: never, not known, spent, spent for now, later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from quotaguard.errors import RefusalFacts
from quotaguard.quota.account import UNLIMITED_LANE, Books, Terms, Verdict, queue_of
from quotaguard.quota.allotment import NO_ROOM, Lane
from quotaguard.quota.leases import MOST, active
from quotaguard.quota.lines import share_left, wait_for
from quotaguard.quota.meter import MeterBooks, MeterTerms
from quotaguard.quota.pacing import RateSlot
from quotaguard.quota.polls import REFUSED_EVERY
from quotaguard.quota.readings import Moment, amount
from quotaguard.quota.verdicts import Later, Pending, Slot, Spent, TooLarge, Unknown

__all__ = ["judge", "judge_cost", "lanes"]

CAUTIOUS = 0.25
CAUTIOUS_BEST = 0.5
"""Shares of the last seen remainder that may be spent blind: normal, and critical."""

INSTANT = 1e-6
"""Seconds that Unix time as a float cannot tell apart: to wait for them has no end."""

PAUSED = "the provider asked for a pause"
LENT = "other holders have in their allotments what is left"
DISTRUSTED = "the ledger lost what it had acknowledged, and waits until that has shown"

LONGEST_LANE = 5.0
PENDING_LANE = 0.25
"""Seconds that a lane may last; one whose holder has a lease ends with that."""

HEARTBEAT = 1.0
"""Seconds after which a call looks again for what others were asked to give back. They hear it
within that while the quota runs out, and within a quarter of a lease at the latest."""


def judge(
    books: Books,
    cost: Mapping[str, int],
    priority: str,
    now: Moment,
    terms: Terms,
    *,
    slot: Slot | None = None,
    moved: float | None = None,
    paused: bool = True,
) -> Verdict | None:
    """Return why a call of *cost* cannot go now, or None: it can.

    slot: the caller comes for this one, which it was given. moved: when the request went
    that this one replaces. paused: heed the pause that the provider asked for.
    """
    if books.distrusted is not None:
        return _distrusted(books, books.distrusted, cost, priority, now, terms)
    worst = judge_cost(books, cost, priority, now, terms, promised=isinstance(slot, float))
    if worst is not None and not isinstance(worst, Later):
        return worst
    pause = books.paused - now.fast if paused and now.fast < books.paused else 0.0
    if not pause and not books.rates.logs:
        return worst
    delay, reason, place = _held(books, priority, pause, now, terms, slot=slot, moved=moved)
    if not delay or (worst is not None and worst.delay >= delay):
        return worst
    name = next(iter(cost), next(iter(terms.meters)))
    facts = _facts(books, name, cost.get(name, 0), priority, now, terms)
    return _later(facts, delay, reason, place)


def judge_cost(
    books: Books,
    cost: Mapping[str, int],
    priority: str,
    now: Moment,
    terms: Terms,
    *,
    promised: bool = False,
) -> Verdict | None:
    """Return why the meters let no call of *cost* go now, whatever its time, or None.

    promised: the caller comes for a slot on a line.
    """
    worst: Verdict | None = None
    rank = -1.0
    for name, count in cost.items():
        verdict = _judge_meter(books, name, count, priority, now, terms, promised=promised)
        if verdict is not None and _rank(verdict) > rank:
            worst, rank = verdict, _rank(verdict)
    return worst


def _held(
    books: Books,
    priority: str,
    pause: float,
    now: Moment,
    terms: Terms,
    *,
    slot: Slot | None,
    moved: float | None,
) -> tuple[float, str, RateSlot | None]:
    """Return how long the *pause* or a rate holds the next request back, why, and its place."""
    rates = terms.rates
    if not books.rates.logs or (pause and rates.shadow):
        return pause, PAUSED, None
    behind = -rates.slack.get(priority, 0.0)
    mine = slot if isinstance(slot, RateSlot) else None
    start = now.slow + pause
    place, rate = books.rates.place(behind, now.slow, start, mine, moved)
    if place.at <= now.slow:
        return 0.0, "", None
    # A waiter whose clock rounds must not come back before it has moved.
    delay = max(place.at - now.slow, INSTANT)
    return delay, f"the rate {rate}" if place.at > start else PAUSED, place


def _distrusted(
    books: Books,
    until: float,
    cost: Mapping[str, int],
    priority: str,
    now: Moment,
    terms: Terms,
) -> Verdict:
    """Return what keeps every call back until a poll that is asked after *until* has been read."""
    name = next(iter(cost), next(iter(terms.meters)))
    facts = _facts(books, name, cost.get(name, 0), priority, now, terms)
    if now.fast < until:
        return _later(facts, until - now.fast, DISTRUSTED)
    if books.polls.pending(now):
        return Pending(replace(facts, reason=DISTRUSTED), books.polls.until - now.fast)
    retry = None if books.polls.stopped else max(0.0, books.polls.next - now.fast)
    return Unknown(replace(facts, reason=DISTRUSTED, retry_after=retry), retry)


def _rank(verdict: Verdict) -> float:
    match verdict:
        case TooLarge():
            return 1e15
        case Unknown() | Pending():
            return 1e14
        case Spent(heals=None):
            return 1e13
        case Spent():
            return 1e12
        case Later(delay=delay):
            return min(delay, 1e11)
        case _:
            return 0.0


def _judge_meter(
    books: Books,
    name: str,
    count: int,
    priority: str,
    now: Moment,
    terms: Terms,
    *,
    promised: bool,
) -> Verdict | None:
    meter, mine = books.meter(name), terms.meters[name]
    if not count:
        return None
    unread = _unread(books, name, count, priority, now, terms)
    if unread is not None:
        return unread
    if meter.blocked and now.fast < meter.probe_at:
        facts = _facts(books, name, count, priority, now, terms)
        facts = replace(facts, headroom=0, reason="the provider says that it is spent")
        return _spent(books, meter, facts, now, terms, heals=True)
    if not meter.read or meter.limit is None:
        return None
    whole = meter.limit + mine.overage
    room = books.room(name, now, terms) or 0
    most = min(room, _blind(books, name, priority, now, terms))
    if count > most:
        facts = _facts(books, name, count, priority, now, terms)
        if count <= most + meter.idle:
            return replace(_later(facts, HEARTBEAT, LENT), lent=True)
        if count > whole > 0:
            return TooLarge(facts)
        # What a reading shows is charged, whatever became of calls without an answer.
        best = max(meter.least(), meter.used) + _least_margin(meter, mine)
        return _spent(books, meter, facts, now, terms, heals=best + count <= whole)
    return _line(books, name, count, priority, now, terms, room=room, promised=promised)


def _unread(
    books: Books, name: str, count: int, priority: str, now: Moment, terms: Terms
) -> Verdict | None:
    """Return what keeps a call waiting for a reading, or refused for want of one."""
    meter, policy = books.meter(name), terms.meters[name].policy
    choice: str
    if not meter.read:
        reason, choice = books.polls.reason or "never read", policy.on_unknown
        if books.asked > -math.inf and not books.polls.reason:
            reason = "the stats answer does not name this meter"
    elif books.age(name, now) > terms.meters[name].max_age:
        reason, choice = f"the last reading is {books.age(name, now):,.0f} s old", policy.on_stale
    else:
        return None
    facts = replace(_facts(books, name, count, priority, now, terms), reason=reason)
    if not meter.read and books.polls.pending(now) and books.asked == -math.inf:
        return Pending(facts, books.polls.until - now.fast)
    if choice != "closed":
        return None
    stopped = books.polls.stopped
    retry = None if stopped else max(0.0, books.polls.next - now.fast)
    return Unknown(replace(facts, retry_after=retry), retry)


def _blind(books: Books, name: str, priority: str, now: Moment, terms: Terms) -> float:
    """Return the units that may be spent on an expired reading; inf while it is not."""
    meter, mine = books.meters[name], terms.meters[name]
    policy = mine.policy
    if policy.on_stale != "cautious" or books.age(name, now) <= mine.max_age:
        return math.inf
    share = CAUTIOUS_BEST if policy.slack.get(priority, 0.0) >= 1.0 else CAUTIOUS
    return share * meter.shown - (meter.taken + meter.idle - meter.spent_shown)


def _least_margin(meter: MeterBooks, mine: MeterTerms) -> int:
    return meter.margin(meter.asked_fast, mine)


def _facts(
    books: Books, name: str, count: int, priority: str, now: Moment, terms: Terms
) -> RefusalFacts:
    return books.facts(name, now, terms, priority=priority, requested=count)


def _later(facts: RefusalFacts, delay: float, reason: str, slot: Slot | None = None) -> Later:
    facts = replace(facts, retry_after=delay if delay < math.inf else None, reason=reason)
    return Later(facts, delay, reason, slot)


def _spent(
    books: Books, meter: MeterBooks, facts: RefusalFacts, now: Moment, terms: Terms, *, heals: bool
) -> Spent:
    """Return the refusal; *heals*: what is proven would let the call go."""
    mine = terms.meters[facts.meter]
    whole = (meter.limit or 0) + mine.overage
    turns = None
    if books.live and books.period.end is not None and mine.resets:
        turns = books.period.end + books.period.skew - now.wall
    if books.polls.stopped or not heals:
        until = min(books.polls.next, meter.asked_fast + REFUSED_EVERY)
        if turns is not None:
            until = min(until, now.fast + turns)
        if meter.rise and not books.polls.stopped and meter.least() < whole:
            # The margin alone keeps it; what others spend may slow down by the next poll.
            facts = replace(facts, retry_after=max(0.0, books.polls.next - now.fast))
        return Spent(facts, None, max(0.0, until - now.fast), turns)
    quiet = max(meter.samples[-1][0], meter.blocked_at if meter.blocked else -math.inf)
    if meter.held:
        quiet = now.slow
    exact = max(0.0, quiet + mine.settled - now.slow)
    if books.cold and books.cold_from is not None:
        exact = max(exact, books.cold_from + terms.settled + 0.01 - now.slow)
    wait = max(0.0, exact, meter.asked_fast + terms.polls.shortest - now.fast)
    facts = replace(facts, retry_after=wait)
    return Spent(facts, wait, min(wait, 1.0), turns)


def _line(
    books: Books,
    name: str,
    count: int,
    priority: str,
    now: Moment,
    terms: Terms,
    *,
    room: int,
    promised: bool,
) -> Later | None:
    """Return the slot of a call that the line of its priority holds back, or None."""
    policy = terms.meters[name].policy
    slack = policy.slack.get(priority, 0.0)
    limit = books.meters[name].limit
    if slack >= 1.0 or limit is None or not terms.meters[name].resets:
        return None
    last = books.slots.get(queue_of(name, priority), -math.inf)
    ahead = 0.0 if promised else max(0.0, last - now.fast)
    held = books.held_back(name, priority, now, terms)
    if not ahead and count <= room - held:
        return None
    profile = terms.meters[name].profile
    left = float(room - count)
    if ahead:
        # The line will just allow those ahead when the last of them goes.
        share = share_left(books.period, now.wall + ahead, profile)
        left = min(left, (1.0 - slack) * share * limit - count)
    delay = wait_for(left, slack, limit, books.period, now.wall, profile)
    delay = max(delay, ahead)
    if delay < INSTANT and count <= room:
        return None
    facts = _facts(books, name, count, priority, now, terms)
    lent = books.meters[name].idle
    if lent and delay > HEARTBEAT and not ahead and count <= room + lent - held:
        return replace(_later(facts, HEARTBEAT, LENT), lent=True)
    scale = terms.meters[name].meter.scale
    better = max(policy.slack, key=lambda other: policy.slack[other])
    facts = replace(facts, held=amount(held, scale), held_for=better)
    return _later(facts, delay, f"the line of {priority} calls", now.fast + delay)


def lanes(
    books: Books, names: Mapping[str, int], now: Moment, terms: Terms, taken: Mapping[str, int]
) -> dict[str, Lane]:
    """Return what the holder may take by itself until the lanes end.

    names: meters, and the units of each that the holder will soon take, where others
    share the books. taken: units that this very entry grants and that are not yet in
    the books.
    """
    granted: dict[str, Lane] = {}
    if books.rates.logs or books.distrusted is not None or now.fast < books.recalled:
        return granted  # every request is one of a rate, and is entered there
    leased = max((lease.until for lease in books.leases.values()), default=None)
    for name in names:
        meter = books.meters.get(name)
        if meter is None or not meter.read or meter.blocked:
            continue
        seconds = _lane_seconds(books, name, now, terms.meters[name], leased)
        lane = _lane(books, name, now, terms, taken.get(name, 0), names[name], seconds)
        if lane is not None:
            granted[name] = lane
    return granted


def _lane(
    books: Books, name: str, now: Moment, terms: Terms, taken: int, wanted: int, seconds: float
) -> Lane | None:
    meter, mine = books.meters[name], terms.meters[name]
    policy = mine.policy
    if seconds <= 0.0:
        return None
    end = now.fast + seconds
    if meter.limit is None:
        room = dict.fromkeys(policy.slack, UNLIMITED_LANE)
        return Lane(UNLIMITED_LANE, room, end)
    whole = (books.room(name, now, terms, at=end) or 0) - taken
    top = whole
    used = meter.likely() + meter.reserved + taken
    for at in policy.warn_at:
        if meter.warned < at:
            # The call that crosses a threshold is decided by the books, which tell.
            top = min(top, math.ceil(at * meter.limit) - 1 - used)
            break
    if meter.calm() > 0:
        # So is the one that brings the next poll forward.
        top = min(top, meter.calm() - 1 - taken)
    holders = active(books)
    if holders:
        # Guided self-scheduling: half of what is left, among all, and not beyond demand.
        top = min(top, whole // (2 * holders), wanted, MOST)
    shares = {}
    for priority in policy.slack:
        waits = books.slots.get(queue_of(name, priority), -math.inf) > now.fast
        held = books.held_back(name, priority, now, terms)
        # Below 0 where the line holds more: a call that ends for less than it took
        # gives its lane units back, and those are not yet above the line.
        shares[priority] = NO_ROOM if waits else min(top, whole - held)
    most = max(shares.values(), default=0)
    return Lane(most, shares, end, max(0, whole)) if most > 0 else None


def _lane_seconds(
    books: Books, name: str, now: Moment, mine: MeterTerms, leased: float | None
) -> float:
    """Return how long a lane may last: until anything but spending changes the books.

    leased: the end of its holder's lease, the newest of all; None where nobody has one.
    """
    if now.fast < books.paused or mine.policy.shadow:
        return 0.0
    seconds = LONGEST_LANE
    if mine.tick:
        seconds = min(seconds, mine.tick)
    if leased is not None:
        # Its spend is told with every heartbeat, and looks as young as that.
        seconds = leased - now.fast
    if not books.polls.stopped:
        pending = books.polls.pending(now)
        seconds = min(seconds, PENDING_LANE if pending else books.polls.next - now.fast)
    if books.live and books.period.end is not None:
        seconds = min(seconds, books.period.end + books.period.skew - now.wall)
    age_left = mine.max_age - books.age(name, now)
    return min(seconds, age_left)
