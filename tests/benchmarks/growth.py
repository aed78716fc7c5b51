"""D and E: cost and memory as calls and accounts grow."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter_ns

from decisions import SETTLED
from guards import COST, FAR_OFF, METER, warmed
from timing import (
    FLOOR,
    Figures,
    Run,
    Scale,
    Section,
    counter,
    floor,
    judged,
    loop,
    ratio,
    span,
    uncollected,
)

from quotaguard import Guard, MemoryLedger, Policy

CHUNK = 1_000
"""Calls in one timed loop: few, so that the depth hardly changes meanwhile."""

KEPT = 100_000
"""A guard that deep is timed again and again; a shallower one is made anew."""


MOST_BYTES = 16 * 1024
"""Of one account: its guard, its terms and its books."""


SELDOM_POLLED = Policy(poll_every=(3600, 3600), max_age=7200)
"""So that what is timed are decisions: ten thousand accounts would have polls due at any time."""


def _deep(depth: int) -> Guard:
    guard = warmed(FAR_OFF.guard())
    for _ in range(depth - 1):
        with guard.reserve(COST) as reservation:
            reservation.settle(COST)
    return guard


def _timed(run: Run, calls: int) -> float:
    gc.collect()
    return run(calls) / calls


def calls(scale: Scale) -> Section:
    """D: a guard that has seen one call, and one that has seen a million."""
    depths = [depth for depth in (1, 1_000, 100_000, 1_000_000) if depth <= scale.depth]
    kept = {depth: _deep(depth) for depth in depths if depth >= KEPT}
    low, chunk = floor(), min(CHUNK, scale.calls)
    figures: Figures = {FLOOR: [], **{str(depth): [] for depth in depths}}
    for repeat in range(scale.repeats):
        figures[FLOOR].append(_timed(low, chunk))
        start = repeat % len(depths)
        for depth in (*depths[start:], *depths[:start]):
            guard = kept.get(depth) or _deep(depth)
            figures[str(depth)].append(_timed(loop(SETTLED, guard=guard), chunk))
    rows = []
    for depth in depths:
        spent = figures[str(depth)]
        of_first, of_floor = ratio(spent, figures["1"]), ratio(spent, figures[FLOOR])
        rows.append((f"{depth:,}", span(spent), f"{of_floor:.1f}x", f"{of_first:.2f}x"))
    grown = _grown(scale.depth)
    notes = (
        f"Memory after {scale.depth:,} more calls of a guard that had seen {CHUNK:,}: "
        f"{grown:+,} bytes (tracemalloc), {grown / scale.depth:+.4f} a call."
    )
    heads = ("calls before", "ns/call min / median / max", "x floor", "x the first calls")
    return Section("D. The millionth call", heads, rows, notes)


def _grown(depth: int) -> int:
    guard = _deep(CHUNK)
    run = loop(SETTLED, guard=guard)
    gc.collect()
    tracemalloc.start()
    try:
        run(CHUNK)
        before = tracemalloc.get_traced_memory()[0]
        run(depth)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


# -- accounts -----------------------------------------------------------------


def _opened(keys: Iterable[str]) -> list[Guard]:
    """Return a guard for every key, its reading read, in one ledger."""
    ledger = MemoryLedger()
    return [warmed(FAR_OFF.guard(key, policy=SELDOM_POLLED, ledger=ledger)) for key in keys]


def _touring(guards: Sequence[Guard], rounds: int) -> float:
    """Call every guard in turn; return nanoseconds per call."""
    with uncollected():
        start = perf_counter_ns()
        for _ in range(rounds):
            for guard in guards:
                with guard.reserve({METER: 1}) as reservation:
                    reservation.settle({METER: 1})
        return (perf_counter_ns() - start) / (rounds * len(guards))


def _touring_floors(counters: Sequence[Callable[[], None]], rounds: int) -> float:
    """Call every counter in turn; return nanoseconds per call."""
    with uncollected():
        start = perf_counter_ns()
        for _ in range(rounds):
            for count in counters:
                count()
        return (perf_counter_ns() - start) / (rounds * len(counters))


def accounts(scale: Scale) -> Section:
    """E: one account, and ten thousand in one process, each with its guard."""
    sizes = [size for size in (1, 100, 10_000) if size <= scale.accounts]
    crowds: dict[int, list[Guard]] = {}
    held: dict[int, float] = {}
    _opened(["the first one pays for what is made once"])
    for size in sizes:
        keys = [f"key-{number}" for number in range(size)]
        gc.collect()
        tracemalloc.start()
        try:
            crowds[size] = _opened(keys)
            gc.collect()
            held[size] = tracemalloc.get_traced_memory()[0] / size
        finally:
            tracemalloc.stop()
    return _accounts_told(sizes, crowds, held, scale)


def _accounts_told(
    sizes: Sequence[int], crowds: dict[int, list[Guard]], held: dict[int, float], scale: Scale
) -> Section:
    floors = {size: [counter() for _ in range(size)] for size in sizes}
    figures: dict[int, list[float]] = {size: [] for size in sizes}
    lows: dict[int, list[float]] = {size: [] for size in sizes}
    # Collecting beside ten thousand guards takes longer than their allotments last.
    gc.freeze()
    for guards in crowds.values():
        _touring(guards, 1)
    for repeat in range(min(scale.repeats, 9)):
        start = repeat % len(sizes)
        for size in (*sizes[start:], *sizes[:start]):
            rounds = max(1, min(scale.calls, scale.accounts) // size)
            figures[size].append(_touring(crowds[size], rounds))
            lows[size].append(_touring_floors(floors[size], rounds))
    gc.unfreeze()
    rows = []
    for size in sizes:
        flat = f"{ratio(figures[size], figures[sizes[0]]):.2f}x"
        low = f"{ratio(lows[size], lows[sizes[0]]):.2f}x"
        # One account bears what is made once for all of them, and is not judged.
        said, target = judged(held[size], None if size == 1 else MOST_BYTES, "", 0)
        rows.append((f"{size:,}", span(figures[size]), flat, low, said, target))
    notes = (
        "One ledger and one guard per account, seven meters each, called in turn; the memory is "
        "the guard's and its books'. Nobody's cost is flat where the memory of all accounts is "
        "larger than the processor's cache: as many separate floors show how much that is. An "
        "account that is called less often than its allotment ends (5 s) pays for a new one."
    )
    heads = (
        "accounts",
        "ns/call min / median / max",
        "x one",
        "floors, x one",
        "bytes each",
        "target",
    )
    return Section("E. Ten thousand accounts", heads, rows, notes)
