"""Leases: until when a holder may spend what it holds, and what becomes of it after that.

Where processes share the books, each is a holder under a lease, which every entry of
its own renews. A holder that is not heard of any more was killed, or sleeps. What it
holds it may have spent to the last unit, and its last call may be charged *late*
seconds after its lease: then all of it counts as spent without a known outcome, and
the next reading knows better (algorithm.md 1.2, 6.3). The lease begins before the
holder asks and ends, here, that long after the entry: the holder always stops first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from quotaguard.quota.allotment import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from quotaguard.quota.account import Books, Terms
    from quotaguard.quota.allotment import Purse
    from quotaguard.quota.readings import Moment

__all__ = [
    "MOST",
    "RECALLED",
    "Lease",
    "active",
    "demand",
    "distrust",
    "heard_in",
    "lacks",
    "recall",
    "tend",
    "trust",
]

RECALLED = 3.0
"""Seconds for which nobody is given more than its call, after a request that found
nothing because others hold it (algorithm.md 6.3)."""


MOST = 1_000
"""Units of a lane where others share the books: more saves no more trips (algorithm.md 6.3)."""

AHEAD = 10.0
"""Seconds of its own demand that a holder draws at once (algorithm.md 6.3): it rides out
an outage of the store of half of that."""

FIRST = 16
"""Units of a holder's first lane, before anything is known of its demand."""

LATELY = 90.0
"""Seconds that tell how soon a quota will be gone: a rush may just have begun. Of fewer they
tell too much: what is told at once was spent in a while."""


class Lease(NamedTuple):
    """A holder's right to spend what it holds.

    until: of the books' fast clock. late: seconds after that in which its last call may
    still be charged.
    """

    until: float
    late: float


def tend(books: Books, holder: str, now: Moment, terms: Terms, seconds: float) -> None:
    """Renew the lease of *holder*, which is here, and end those that ran out."""
    for name, lease in list(books.leases.items()):
        if name != holder and now.fast >= lease.until:
            _end(books, name, lease, now, terms)
    books.leases[holder] = Lease(now.fast + seconds, terms.late)


def _end(books: Books, name: str, lease: Lease, now: Moment, terms: Terms) -> None:
    """Forget a holder that holds nothing, and give up one whose last call is past charging."""
    tallies = books.holders.get(name, {})
    if any(tally.drawn != tally.cleared for tally in tallies.values()):
        if now.fast < lease.until + lease.late:
            return
        for meter, tally in tallies.items():
            _give_up(books, meter, tally, now, terms)
    claimed = books.polls.claimed
    if claimed is not None and claimed.startswith(f"{name}."):
        books.polls.abandon(claimed)  # whoever asked is dead, and others wait for its answer
    books.holders.pop(name, None)
    del books.leases[name]


def _give_up(books: Books, name: str, tally: Tally, now: Moment, terms: Terms) -> None:
    count = tally.drawn - tally.cleared
    meter = books.meter(name)
    meter.held -= count
    meter.idle -= tally.idle
    # Another guard's meter, that these terms do not name, has a lag of its own: any
    # terms only say how exactly times are kept, and a charge looks younger, not older.
    mine = terms.meters.get(name) or next(iter(terms.meters.values()))
    meter.resolve(count, count, now.slow, mine)


def active(books: Books) -> int:
    """Return how many holders share the books now; 0 where they are one process's own."""
    return len(books.leases)


def recall(books: Books, now: Moment) -> None:
    """Ask every holder for what it does not use: somebody finds nothing because of it."""
    books.recalled = now.fast + RECALLED


def distrust(
    books: Books, now: Moment, terms: Terms, seconds: float, *, since: float | None = None
) -> None:
    """Grant nothing until what the books may have forgotten has ended and was read.

    A store that lost what it had acknowledged has lost grants, and spend, of holders
    that may be dead by now. The living tell their counts again. The others' leases end
    within *seconds*, and what they spend until then shows after the lag. (algorithm.md 6.2
    holds for the longer of the two; that is enough only if all of them died at once.)

    since: of the fast clock: what was lost is older. Where a poll was asked late enough
    after that, whoever comes back knows no more than it.
    """
    lag = max((mine.lag for mine in terms.meters.values()), default=0.0)
    until = (now.fast if since is None else since) + seconds + lag + SPARE
    if books.asked_fast >= until:
        return
    books.distrusted = max(until, -math.inf if books.distrusted is None else books.distrusted)
    # What a dead holder's last call costs may come later still: as after a cold start.
    books.cold_from = now.slow
    books.polls.claimed = None
    books.slots.clear()


def trust(books: Books, names: Iterable[str]) -> None:
    """Grant again: a reading that was asked late enough is about to be entered.

    What readings have taught of others until now is void for these meters: own units that
    the living had not told yet looked like others', and are told by now. A meter that it
    leaves out is not known until one names it.
    """
    books.distrusted = None
    for name in books.meters.keys() - set(names):
        books.meters[name].read = False
    for name in names:
        meter = books.meter(name)
        meter.floor = meter.others = meter.lower = meter.drift_from = meter.ceiling = None
        meter.polls, meter.rise, meter.proven = [], 0.0, False


SPARE = 2.0
"""Seconds beyond the lag after which a lost charge must show: clocks and ways differ."""


def demand(purses: Mapping[str, Purse], calls: Mapping[str, int], gone: float) -> dict[str, int]:
    """Return the units of each meter that ten seconds of a holder's demand take.

    calls: units that are asked for right now. gone: seconds since it drew its lanes,
    infinity if it never did.
    """
    wanted = {}
    for name in {**purses, **calls}:
        purse = purses.get(name)
        if purse is None or gone == math.inf:
            wanted[name] = FIRST
            continue
        used = purse.taken + calls.get(name, 0)
        wanted[name] = min(MOST, max(0, int(used * AHEAD / max(0.001, gone))))
    return wanted


def heard_in(
    books: Books, purses: Mapping[str, Purse], now: Moment, terms: Terms, lease: float
) -> float:
    """Return the seconds within which the books must hear of a holder again.

    In time for its lease; sooner, where others may soon need what is idle here. Not
    much sooner: whoever is busy asks for the next lane before half of that is gone.
    """
    soonest = lease / 2.0
    for name, purse in purses.items():
        meter = books.meters.get(name)
        idle = purse.drawn - purse.cleared > purse.opened
        if not idle or meter is None or not meter.read or meter.limit is None:
            continue
        room = max(0, books.room(name, now, terms) or 0)
        pace = max(meter.own_rate(now, LATELY), 1e-9)
        soonest = min(soonest, room / pace / 2.0)
    return max(lease / 30.0, soonest)


def lacks(known: Mapping[str, Tally], told: Mapping[str, Tally]) -> bool:
    """Whether the books know less of a holder than they did when it last told them."""
    return any(
        name not in known or known[name].drawn < tally.drawn or known[name].spent < tally.spent
        for name, tally in told.items()
    )
