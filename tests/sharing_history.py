"""What a history of several processes must be, checked afterwards from their traces.

An admission takes up a unit from the moment its worker surely has it until it is given
back: never, if the provider charged it. Both ends are noted inside the time for which
it is really held, so whoever is found together here was together in truth.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from sharing_workers import Note

__all__ = ["Charge", "History", "faults_of", "hasty"]


class Charge(NamedTuple):
    """A call that reached the provider. *charged*: it was counted, not only answered."""

    at: float
    call: str
    charged: bool


class History(NamedTuple):
    """What the workers and the provider noted. *quota*: of the provider.

    late: `Policy.late`; so long an unknown outcome is held. kept: units that the line
    keeps from a priority. killed: workers that could not end what they had.
    """

    traces: Mapping[str, Sequence[Note]]
    charges: Sequence[Charge]
    quota: int
    late: float
    kept: Mapping[str, float] = MappingProxyType({})
    killed: frozenset[str] = frozenset()

    def noted(self, what: str) -> dict[str, Note]:
        """Return the notes of one kind by their calls."""
        notes = chain.from_iterable(self.traces.values())
        return {note.call: note for note in notes if note.what == what}


def faults_of(history: History) -> Iterator[str]:
    """Yield what is wrong with a history; nothing is the proof."""
    asked, had, ended = (history.noted(what) for what in ("asks", "has", "ends"))
    lost, charged = history.noted("lost"), {one.call: one for one in history.charges if one.charged}
    counts = Counter(one.call for one in history.charges if one.charged)
    yield from (f"{call} was charged {count} times" for call, count in counts.items() if count > 1)
    if counts.total() > history.quota:
        yield f"{counts.total()} of {history.quota} units were charged"
    for one in history.charges:
        if one.call not in asked or one.at < asked[one.call].at:
            yield f"{one.call} came to the provider before anybody asked the guard"
    for call in had:
        if call not in ended and call not in lost and call.rpartition(".")[0] not in history.killed:
            yield f"{call} has never ended"
        if call in ended and call not in charged:
            yield f"{call} was answered and not charged"
    last = {name: notes[-1].at for name, notes in history.traces.items() if notes}
    given_back = {call: lost[call].at + history.late for call in lost} | {
        call: last[call.rpartition(".")[0]] for call in had if call not in lost
    }
    for_good = sorted(
        min(one.at, had[call].at if call in had else math.inf) for call, one in charged.items()
    )
    starts = sorted(note.at for call, note in had.items() if call not in charged)
    ends = sorted(given_back[call] for call in had if call not in charged)
    for call, note in had.items():
        now, then = note.at, asked[call].at
        taken = bisect_right(for_good, now) + bisect_right(starts, now) - bisect_left(ends, now)
        if taken > history.quota:
            yield f"{taken} of {history.quota} units were taken as {call} had its own"
        before = bisect_left(for_good, then) + max(
            0, bisect_left(starts, then) - bisect_right(ends, now)
        )
        kept = history.kept.get(note.priority, 0.0)
        if before + 1 > history.quota - kept:
            yield f"{call} ({note.priority}) was let go after {before}, and {kept:g} are kept"


def hasty(history: History) -> Iterator[str]:
    """Yield who was let go after somebody had heard that nothing is left."""
    first = min((note.at for note in history.noted("QuotaExhausted").values()), default=math.inf)
    asked = history.noted("asks")
    for call in history.noted("has"):
        if asked[call].at > first:
            yield f"{call} was let go {asked[call].at - first:.3f} s after QuotaExhausted"
