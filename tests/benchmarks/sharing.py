"""H and I: several processes on one quota, through a Redis server and through a file.

Each table is one run: all contestants take turns on the same server or the same disk, and
the start rotates. A contestant has a key or a file of its own in every turn.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from contestants import (
    LOW_REDIS,
    LOW_SQLITE,
    OURS,
    OURS_EXACT,
    OURS_FAR,
    OURS_NAMED,
    OURS_RECALLED,
    REDIS,
    SQLITE,
    Contestant,
)
from guards import FAR
from redis_server import program, redis_server
from timing import MISSING, Scale, Section, ratio, span
from workers import Missing, Seen, Spot, together, wall

from quotaguard.testing import fake
from quotaguard.testing.fullcontact import FakeFullContact

AHEAD = 2.0
"""Seconds that the clocks of half the processes are ahead, as those of other hosts."""

LAST = 1_000
"""The units of a quota over which the cost of its end is spread."""

SPARE = 100
"""Units that are there besides those that are asked for, so that there is an allotment."""

MOST_TRIPS = 1.01
"""To the store for one decision: a heartbeat may fall among a thousand."""

LONGEST_WAIT = 500.0
"""Milliseconds that a decision may take at worst, however many contend."""


@dataclass(frozen=True, slots=True)
class Store:
    """One of the two: what it is called, who takes part, and what is to be reached.

    times: quotaguard's decisions a second, against the best peer's. near: the cost of a
    decision that reaches the store, against the floor's.
    """

    letter: str
    title: str
    peers: tuple[Contestant, ...]
    low: str
    times: float
    near: float | None
    absent: tuple[str, ...] = ()


BY_REDIS = Store("H", "Redis", REDIS, LOW_REDIS, times=10.0, near=None)
BY_SQLITE = Store(
    "I",
    "One host, SQLite",
    SQLITE,
    LOW_SQLITE,
    times=20.0,
    near=3.0,
    absent=("limits", "throttled-py"),
)


class Place:
    """Where the contestants of one table meet."""

    def __init__(self, server: str, folder: Path, vendor: FakeFullContact) -> None:
        self._server, self._folder, self._vendor = server, folder, vendor
        self._turns = count(1)
        self.errors: Counter[str] = Counter()
        self.load = os.getloadavg()[0]

    def crowd(
        self,
        contestant: Contestant,
        processes: int,
        calls: int,
        *,
        limit: int,
        watch: bool,
        ahead: float = 0.0,
    ) -> list[Seen]:
        """Let a contestant decide from so many processes, at a spot that nobody used before.

        ahead: of the clocks of every second process.
        """
        key = f"account-{next(self._turns)}"
        store = self._server or str(self._folder / f"{key}.db")
        self._vendor.set_quota(limit)
        spot = Spot(store=store, key=key, limit=limit, vendor=self._vendor.url)
        try:
            shared, put_away = contestant.prepare(spot)
        except ModuleNotFoundError as error:
            raise Missing(str(error)) from error
        try:
            spots = [
                replace(spot, shared=shared, ahead=ahead * (number % 2))
                for number in range(processes)
            ]
            seen = together(contestant.enter, spots, calls, watch=watch)
        finally:
            put_away()
        for each in seen:
            for told, times in each.errors.items():
                self.errors[f"{contestant.name}: {told}"] += times
        return seen


@contextmanager
def _place(store: Store) -> Iterator[Place | None]:
    """Open a server or a folder, and the provider; None: there is no server to be started."""
    with tempfile.TemporaryDirectory() as folder, fake("fullcontact") as vendor:
        if store.letter != BY_REDIS.letter:
            yield Place("", Path(folder), vendor)
            return
        binary = program()
        if binary is None:
            yield None
            return
        with redis_server(binary) as url:
            yield Place(url, Path(folder), vendor)


Crowd = Sequence[Seen]
"""What the workers of one turn saw."""

Turn = TypeVar("Turn")


def _race(
    contestants: Sequence[Contestant], repeats: int, turn: Callable[[Contestant], Turn]
) -> dict[str, list[Turn]]:
    """Let all take turns; return what was seen, once per repeat; none: it is missing."""
    figures: dict[str, list[Turn]] = {contestant.name: [] for contestant in contestants}
    missing = set()
    for repeat in range(repeats):
        start = repeat % len(contestants)
        for contestant in (*contestants[start:], *contestants[:start]):
            if contestant.name in missing:
                continue
            try:
                figures[contestant.name].append(turn(contestant))
            except Missing:
                missing.add(contestant.name)
    return figures


def _per_decision(crowds: Sequence[Crowd]) -> list[float]:
    """Return nanoseconds, of all processes together, one figure per repeat."""
    return [wall(crowd) / sum(seen.asked for seen in crowd) for crowd in crowds]


def _a_second(spent: Sequence[float]) -> str:
    return span([1e9 / each for each in spent])


def _told(
    store: Store, part: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], place: Place
) -> Section:
    blank = ("",) * (len(heads) - 1)
    lacking = [(f"{name} has no store that needs no server", *blank) for name in store.absent]
    notes = f"Load {place.load:.1f} at the start."
    if place.errors:
        told = (f"{error}, {times:,} times" for error, times in place.errors.items())
        notes += f" Errors, which count as not admitted: {'; '.join(told)}."
    return Section(f"{store.letter}. {store.title}: {part}", heads, [*rows, *lacking], notes)


def _unserved(store: Store, part: str) -> Section:
    return Section(f"{store.letter}. {store.title}: {part}", ("",), [("no redis-server",)])


# -- far from the limit -------------------------------------------------------------


def far(scale: Scale, *, store: Store) -> Section:
    """H, I: the limit far away, one process and several together."""
    part = f"the limit far away, 1 and {scale.processes} processes"
    contestants = (*store.peers, OURS_FAR, OURS_NAMED)
    with _place(store) as place:
        if place is None:
            return _unserved(store, part)

        def turn(contestant: Contestant) -> tuple[Crowd, Crowd]:
            calls = scale.shared * contestant.busy
            alone = place.crowd(contestant, 1, calls, limit=FAR, watch=False)
            several = place.crowd(contestant, scale.processes, calls, limit=FAR, watch=False)
            return alone, several

        seen = _race(contestants, min(scale.repeats, 9), turn)
    spent = {name: _per_decision([both[1] for both in turns]) for name, turns in seen.items()}
    best = _best([spent[peer.name] for peer in store.peers if peer.peer])
    rows = []
    for name, turns in seen.items():
        if not turns:
            rows.append((name, MISSING, "", "", "", ""))
            continue
        of_low = f"{ratio(spent[name], spent[store.low]):,.2f}x"
        of_best = target = ""
        if name == OURS and best:
            times = ratio(best, spent[name])
            of_best = f"{times:,.0f}x"
            target = f">= {store.times:g}x: {'kept' if times >= store.times else '**missed**'}"
        once = _a_second(_per_decision([both[0] for both in turns]))
        rows.append((name, once, _a_second(spent[name]), of_low, of_best, target))
    heads = (
        "",
        "decisions/s, 1 process, min / median / max",
        f"{scale.processes} processes together",
        "time x floor",
        "x best peer",
        "target",
    )
    return _told(store, part, heads, rows, place)


def _best(peers: Sequence[Sequence[float]]) -> list[float]:
    """Return what the fastest took in each repeat."""
    return [min(turns) for turns in zip(*(spent for spent in peers if spent), strict=True)]


# -- near the limit -----------------------------------------------------------------


def near(scale: Scale, *, store: Store) -> Section:
    """H, I: decisions that reach the store, one process; and what remains of that on average."""
    part = "near the limit, 1 process"
    last = min(LAST, scale.shared)
    limits = {OURS_EXACT.name: last + 1, OURS_RECALLED.name: 4 * scale.shared + SPARE}
    with _place(store) as place:
        if place is None:
            return _unserved(store, part)

        def turn(contestant: Contestant) -> Crowd:
            calls = last if contestant is OURS_EXACT else scale.shared
            limit = limits.get(contestant.name, FAR)
            return place.crowd(contestant, 1, calls, limit=limit, watch=True)

        contestants = (*store.peers, OURS_RECALLED, OURS_EXACT)
        seen = _race(contestants, min(scale.repeats, 9), turn)
    rows = []
    for name, crowds in seen.items():
        if not crowds:
            rows.append((name, MISSING, "", "", ""))
            continue
        spent = _per_decision(crowds)
        times, trips, target = ratio(spent, _per_decision(seen[store.low])), _trips(crowds), ""
        if name == OURS_RECALLED.name:
            target = _kept_near(store, times, trips)
        called = f"{name}, the last {last:,} units" if name == OURS else name
        said = "" if trips is None else f"{trips:.3f}"
        rows.append((called, span(spent, 1, 1e3), f"{times:,.2f}x", said, target))
    heads = ("", "us/decision min / median / max", "x floor", "trips a decision", "target")
    return _told(store, part, heads, rows, place)


def _kept_near(store: Store, times: float, trips: float | None) -> str:
    if trips is not None and trips < MOST_TRIPS - 0.05:
        return "**not measured**: it did not ask the store every time"
    if store.near is None:
        kept = "kept" if trips is not None and trips <= MOST_TRIPS else "**missed**"
        return f"<= 1 trip: {kept}"
    return f"<= {store.near:g}x: {'kept' if times <= store.near else '**missed**'}"


def _trips(crowds: Sequence[Crowd]) -> float | None:
    """Return how often the store was asked for each decision, in the middle of the repeats."""
    trips = [
        seen.trips / seen.asked for crowd in crowds for seen in crowd if seen.trips is not None
    ]
    return statistics.median(trips) if trips else None


# -- at the limit -------------------------------------------------------------------


def crowd(scale: Scale, *, store: Store) -> Section:
    """H, I: many processes that contend while the limit is reached."""
    part = f"{scale.crowd} processes at the limit"
    limit = scale.crowd * max(1, scale.shared // 8)
    contestants = (*store.peers, OURS_EXACT)
    with _place(store) as place:
        if place is None:
            return _unserved(store, part)

        def turn(contestant: Contestant) -> Crowd:
            calls = 2 * limit // scale.crowd
            return place.crowd(contestant, scale.crowd, calls, limit=limit, watch=True)

        seen = _race(contestants, min(scale.repeats, 5), turn)
    rows = []
    for name, crowds in seen.items():
        waits = sorted(wait / 1e6 for each in crowds for one in each for wait in one.waits)
        if not waits:
            rows.append((name, MISSING, "", "", ""))
            continue
        worst, target = waits[-1], ""
        if name == OURS:
            kept = "kept" if worst < LONGEST_WAIT else "**missed**"
            target = f"< {LONGEST_WAIT:,g} ms: {kept}"
        middle, late = statistics.median(waits), waits[int(len(waits) * 0.99)]
        rows.append((name, f"{middle:,.3f}", f"{late:,.3f}", f"{worst:,.2f}", target))
    heads = ("", "a decision takes, ms: p50", "p99", "worst", "target")
    return _told(store, part, heads, rows, place)


def exact(scale: Scale, *, store: Store) -> Section:
    """H, I: what was admitted when all ask for twice what there is."""
    part = f"what {scale.processes} processes were given of one limit"
    limit = scale.processes * max(1, scale.shared // 2)
    contestants = (*store.peers, OURS_EXACT)
    with _place(store) as place:
        if place is None:
            return _unserved(store, part)

        def turn(contestant: Contestant) -> tuple[int, int]:
            calls, crew = 2 * limit // scale.processes, scale.processes
            even, uneven = (
                place.crowd(contestant, crew, calls, limit=limit, watch=True, ahead=ahead)
                for ahead in (0.0, AHEAD)
            )
            return _admitted(even) - limit, _admitted(uneven) - limit

        seen = _race(contestants, min(scale.repeats, 5), turn)
    rows = []
    for name, turns in seen.items():
        if not turns:
            rows.append((name, MISSING, "", ""))
            continue
        even, uneven = ([turn[which] for turn in turns] for which in (0, 1))
        missed = any(even) or any(uneven)
        target = "" if name != OURS else "0: " + ("**missed**" if missed else "kept")
        rows.append((name, _signed(even), _signed(uneven), target))
    heads = (
        "",
        f"admitted, less the limit of {limit:,}",
        f"the clocks of half of them {AHEAD:g} s ahead",
        "target",
    )
    return _told(store, part, heads, rows, place)


def _admitted(crew: Crowd) -> int:
    return sum(seen.admitted for seen in crew)


def _signed(off: Sequence[int]) -> str:
    """Return the least and the most, or the one that all are."""
    ends = sorted({min(off), max(off)})
    return " .. ".join(f"{each:+,}" if each else "0" for each in ends)
