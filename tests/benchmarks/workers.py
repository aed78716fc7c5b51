"""Several processes that decide together: a barrier to start at, and what each saw.

Every worker is a fresh process, forked from one that has imported what all need: nothing
of the last run is left in it, and no thread was running where it was forked. Times are
those of the monotonic clock, which all processes of a host share.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from threading import BrokenBarrierError
from time import monotonic_ns
from typing import Any

from timing import WARM_UP, Run, nothing, uncollected

PATIENCE = 120.0
"""Seconds; a run that takes longer is a fault of the benchmark."""

NEEDED = ("quotaguard.testing", "httpx", "redis", "pyrate_limiter", "limits", "throttled")
"""Imported once and for all workers; what is not there is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where one worker decides.

    store: the URL of the server, or the path of the file. key: the account, never used
    before. vendor: the URL of the fake provider. ahead: seconds that this worker's clocks
    are ahead. shared: what the contestant has prepared for all workers.
    """

    store: str
    key: str
    limit: int
    vendor: str = ""
    ahead: float = 0.0
    shared: Any = None


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contestant in a worker: one decision in a timed loop, and one that is looked at.

    trips: how often the store was asked so far, None where nothing counts it.
    """

    run: Run
    decide: Callable[[], bool]
    trips: Callable[[], int | None] = lambda: None
    close: Callable[[], object] = nothing


Enter = Callable[[Spot], Entrant]


@dataclass(slots=True)
class Seen:
    """What one worker saw.

    asked: decisions between *start* and *end*. admitted: of those, and of the one before
    that connects. waits: nanoseconds of each, where they were noted. trips: to the store
    meanwhile. missing: a library that is not installed.
    """

    start: int = 0
    end: int = 0
    asked: int = 0
    admitted: int = 0
    trips: int | None = None
    waits: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    missing: str = ""


class Missing(Exception):
    """A contestant's library is not installed."""


# -- in a worker --------------------------------------------------------------------


def _timed(entrant: Entrant, calls: int, start: Callable[[], object]) -> Seen:
    """Decide *calls* times, as fast as it goes; all of them are taken for admitted."""
    entrant.run(min(WARM_UP, calls))
    start()
    before, seen = entrant.trips(), Seen(start=monotonic_ns())
    entrant.run(calls)
    seen.end = monotonic_ns()
    seen.asked = seen.admitted = calls
    after = entrant.trips()
    seen.trips = None if before is None or after is None else after - before
    return seen


def _watched(entrant: Entrant, calls: int, start: Callable[[], object]) -> Seen:
    """Decide *calls* times, note how long each took and what it said.

    One more is made before the start, which connects; what it was given counts.
    """
    seen = Seen(asked=calls)
    seen.admitted += _decided(entrant, seen.errors)
    with uncollected():
        start()
        before = entrant.trips()
        seen.start = last = monotonic_ns()
        for _ in range(calls):
            seen.admitted += _decided(entrant, seen.errors)
            now = monotonic_ns()
            seen.waits.append(now - last)
            last = now
        seen.end = last
    after = entrant.trips()
    seen.trips = None if before is None or after is None else after - before
    return seen


def _decided(entrant: Entrant, errors: Counter[str]) -> bool:
    try:
        return bool(entrant.decide())
    except Exception as error:  # noqa: BLE001 - what a contestant raises is a result
        errors[f"{type(error).__name__}: {error}"[:80]] += 1
        return False


def put_ahead(seconds: float) -> None:
    """Let this process read a wall clock that is *seconds* ahead, as on another host.

    Also where a library has taken the function out of the module. quotaguard is handed a
    clock instead, see `Guard`.
    """
    wall, wall_ns = time.time, time.time_ns
    ahead = {wall: lambda: wall() + seconds, wall_ns: lambda: wall_ns() + int(seconds * 1e9)}
    theirs = ("time", "pyrate_limiter", "limits", "throttled")
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in theirs:
            continue
        for taken in ("time", "time_ns"):
            real = vars(module).get(taken)
            if real is wall or real is wall_ns:
                setattr(module, taken, ahead[real])


def _work(
    enter: Enter, spot: Spot, calls: int, watch: bool, barrier: Any, told: Connection
) -> None:
    seen: Seen | BaseException
    try:
        if spot.ahead:
            put_ahead(spot.ahead)
        entrant = enter(spot)
        try:
            work = _watched if watch else _timed
            seen = work(entrant, calls, lambda: barrier.wait(PATIENCE))
        finally:
            entrant.close()
    except ModuleNotFoundError as error:
        barrier.abort()
        seen = Seen(missing=str(error.name or error))
    except BaseException as error:  # noqa: BLE001 - it is raised again in the parent
        barrier.abort()
        seen = error
    told.send(seen)
    told.close()


# -- in the parent ------------------------------------------------------------------


def processes() -> Any:
    """Return how processes are started here; also for those who ask for the default."""
    kinds = multiprocessing.get_all_start_methods()
    kind = "forkserver" if "forkserver" in kinds else "spawn"
    if multiprocessing.get_start_method(allow_none=True) != kind:
        multiprocessing.set_start_method(kind, force=True)
        multiprocessing.set_forkserver_preload(list(NEEDED))
        if kind == "forkserver":
            # It looks for modules where it is started: not in a checkout that we happen to
            # be in, whose package need not be the one that is installed.
            with contextlib.chdir(Path(__file__).parent):
                forkserver.ensure_running()
    return multiprocessing.get_context(kind)


def together(enter: Enter, spots: Sequence[Spot], calls: int, *, watch: bool) -> list[Seen]:
    """Let one worker at each of *spots* make *calls* decisions, all at once.

    watch: note every decision, instead of only timing all of them.

    Raises:
        Missing: the contestant's library is not installed.
    """
    context = processes()
    barrier = context.Barrier(len(spots))
    crowd = []
    for spot in spots:
        hears, tells = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(enter, spot, calls, watch, barrier, tells))
        worker.start()
        tells.close()
        crowd.append((worker, hears))
    told = [_heard(hears) for _, hears in crowd]
    for worker, hears in crowd:
        hears.close()
        worker.join(PATIENCE)
    for seen in told:
        if isinstance(seen, Seen) and seen.missing:
            raise Missing(seen.missing)
    faults = [seen for seen in told if isinstance(seen, BaseException)]
    faults.sort(key=lambda fault: isinstance(fault, BrokenBarrierError | EOFError))
    if faults:
        raise faults[0]
    return [seen for seen in told if isinstance(seen, Seen)]


def _heard(hears: Connection) -> Seen | BaseException:
    if not hears.poll(PATIENCE):
        return TimeoutError(f"a worker did not answer within {PATIENCE:.0f} s")
    try:
        told: Seen | BaseException = hears.recv()
    except EOFError as error:
        return error
    return told


def wall(crowd: Sequence[Seen]) -> int:
    """Return the nanoseconds from the first start to the last end."""
    return max(seen.end for seen in crowd) - min(seen.start for seen in crowd)
