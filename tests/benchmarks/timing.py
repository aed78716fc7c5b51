"""Timed loops, races and what is told of them. The rules that make figures comparable.

* One loop per figure, compiled by timeit around the statement itself, with locals;
  `time.perf_counter_ns`, garbage collection off inside and done before.
* All runners of a race take turns in one run, and the start rotates: a noisy
  neighbour slows all of them.
* A ratio is the median over the repeats of runner by floor of the same repeat.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import statistics
import sys
import threading
import timeit
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

Run = Callable[[int], float]
"""Does a thing so many times and returns the nanoseconds that all of them took."""

Figures = dict[str, list[float]]
"""Nanoseconds per call by runner, one figure per repeat; the same order for all."""

FLOOR = "floor: `with lock: n += 1`"
WARM_UP = 200
MISSING = "not installed"


@dataclass(frozen=True, slots=True)
class Scale:
    """How hard a scenario tries.

    repeats: figures per runner. calls: in one timed loop. depth: the most calls that
    one guard sees before it is timed. accounts: the most guards at a time. threads:
    that share a guard. starts: interpreters started per import. months: to simulate.
    processes: that share a quota. crowd: processes that contend for one. shared:
    decisions of each in a store.
    """

    repeats: int = 21
    calls: int = 10_000
    requests: int = 400
    depth: int = 1_000_000
    accounts: int = 10_000
    threads: int = 8
    starts: int = 21
    months: int = 50
    processes: int = 4
    crowd: int = 8
    shared: int = 2_000


SMALLEST = Scale(
    repeats=1,
    calls=1,
    requests=1,
    depth=1,
    accounts=1,
    threads=2,
    starts=1,
    months=1,
    processes=2,
    crowd=2,
    shared=1,
)
"""One call of everything: says nothing about speed, and all about rot."""


@dataclass(frozen=True, slots=True)
class Runner:
    """One of a race. *enter* makes a fresh one for every repeat.

    enter: returns what is timed and what is called afterwards. Raises ImportError
        where the library is not installed; then the runner stands as missing.
    """

    name: str
    enter: Callable[[], tuple[Run, Callable[[], object]]]


@dataclass(slots=True)
class Section:
    """One table of the report."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: str = ""

    def __str__(self) -> str:
        table = [self.heads, tuple("---" for _ in self.heads), *self.rows]
        lines = [f"| {' | '.join(row)} |" for row in table]
        return "\n".join([f"## {self.title}", "", *lines, "", self.notes]).rstrip() + "\n"


# -- loops --------------------------------------------------------------------


def loop(statement: str, **names: object) -> Run:
    """Return a runner of *statement* with *names* as local variables."""
    setup = "; ".join(f"{name} = _{name}" for name in names) or "pass"
    given = {f"_{name}": value for name, value in names.items()}
    # timeit switches collection off by itself, and does not collect before.
    timer = timeit.Timer(statement, setup, timer=perf_counter_ns, globals=given)
    return timer.timeit


def aloop(made: Callable[[], Callable[[], Awaitable[object]]]) -> Run:
    """Return a runner that awaits calls in one task; *made* gives the call, in the loop."""

    async def timed(count: int) -> int:
        call = made()
        await call()
        with uncollected():
            start = perf_counter_ns()
            for _ in range(count):
                await call()
            return perf_counter_ns() - start

    return lambda count: asyncio.run(timed(count))


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect garbage now and not again before the block ends."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def counter() -> Callable[[], None]:
    """Return the cheapest thing that could count calls of several threads."""
    lock = threading.Lock()
    count = 0

    def one() -> None:
        nonlocal count
        with lock:
            count += 1

    return one


def floor() -> Run:
    """Return a runner of one `counter`.

    It counts ten times as often as it is asked: a loop much shorter than the others'
    would be interrupted more rarely, or not at all, and the ratio would tell of that.
    """
    run = loop("one()", one=counter())
    return lambda calls: run(10 * calls) / 10


def at_floor() -> Runner:
    """Return the floor as one of a race."""
    return Runner(FLOOR, lambda: (floor(), nothing))


def nothing() -> None:
    """Close what needs no closing."""


# -- races --------------------------------------------------------------------


def race(runners: Sequence[Runner], repeats: int, calls: int) -> Figures:
    """Let *runners* take turns; return nanoseconds per call, an empty list for who is missing."""
    figures: Figures = {runner.name: [] for runner in runners}
    missing = set()
    for repeat in range(repeats):
        start = repeat % len(runners)
        for runner in (*runners[start:], *runners[:start]):
            if runner.name in missing:
                continue
            try:
                run, leave = runner.enter()
            except ImportError:
                missing.add(runner.name)
                continue
            try:
                run(min(WARM_UP, calls))
                gc.collect()
                figures[runner.name].append(run(calls) / calls)
            finally:
                leave()
    return figures


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of what each repeat says by itself."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def added(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return what each repeat cost more than the same repeat of *theirs*."""
    return [mine - other for mine, other in zip(ours, theirs, strict=True)]


# -- words --------------------------------------------------------------------


def span(figures: Sequence[float], digits: int = 0, by: float = 1.0) -> str:
    """Return the least, the middle and the most."""
    shown = (min(figures), statistics.median(figures), max(figures))
    return " / ".join(f"{figure / by:,.{digits}f}" for figure in shown)


def judged(figure: float, most: float | None, unit: str, digits: int = 1) -> tuple[str, str]:
    """Return a figure and its target, with the word whether it is kept."""
    said = f"{figure:,.{digits}f}{unit}"
    if most is None:
        return said, ""
    return said, f"<= {most:,g}{unit}: {'kept' if figure <= most else '**missed**'}"


def table(figures: Figures, targets: dict[str, float], *, less: str = "") -> list[tuple[str, ...]]:
    """Return the rows of a race, the fastest first.

    less: the runner whose nanoseconds are taken off before a row is held against the
        floor, so that the ratio is of what was added.
    """
    rows: list[tuple[float, tuple[str, ...]]] = []
    low = figures[FLOOR]
    for name, spent in figures.items():
        if not spent:
            rows.append((float("inf"), (name, MISSING, "", "", "")))
            continue
        bare = figures[less] if less and name not in {FLOOR, less} else [0.0] * len(spent)
        own = added(spent, bare)
        said, target = judged(ratio(own, low), targets.get(name), "x")
        best = (min(spent) - min(bare)) / min(low)
        rows.append((statistics.median(spent), (name, span(spent), said, f"{best:,.1f}x", target)))
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


HEADS = ("", "ns/call min / median / max", "x floor", "best by best", "target")


def machine() -> str:
    """Return what the figures were taken on, without naming the machine."""
    versions: dict[str, Any] = {"Python": platform.python_version(), "on": sys.platform}
    return ", ".join(f"{name} {value}" for name, value in versions.items())
