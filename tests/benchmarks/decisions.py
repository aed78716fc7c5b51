"""A, B and J: what a decision costs: one that goes, from eight threads, and a refusal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns

from guards import COST, FAR_OFF, METER, SPENT, Office, warmed
from peers import PEERS, Entered
from timing import (
    FLOOR,
    HEADS,
    Figures,
    Runner,
    Scale,
    Section,
    aloop,
    at_floor,
    counter,
    judged,
    loop,
    race,
    ratio,
    span,
    table,
    uncollected,
)

from quotaguard import Guard, Policy, Refusal

SETTLED = """\
with guard.reserve({'person.enrichment.matches': 1}) as reservation:
    reservation.settle({'person.enrichment.matches': 1})"""
AS_RESERVED = SETTLED.replace("settle({'person.enrichment.matches': 1})", "settle()")
BY_NAME = AS_RESERVED.replace("{'person.enrichment.matches': 1}", "'person.enrich'")
RELEASED = AS_RESERVED.replace("settle", "release")
REFUSED = """\
try:
    with guard.reserve({'person.enrichment.matches': 1}):
        pass
except Refusal:
    pass"""
CHECKED = "guard.check({'person.enrichment.matches': 1})"

ONE_THREAD = "reserve, settle(cost)"
BARE_SETTLE = "reserve, settle()"
REFUSAL = "reserve, refused"
CHECK_YES = "check, it would go"
CHECK_NO = "check, a call was refused before"
CHECK_ALONE = "check, it would not; nobody asks but check"


def _guarded(statement: str) -> Entered:
    guard = warmed(FAR_OFF.guard())
    return loop(statement, guard=guard), guard.close


def _exhausted(statement: str, *, refusals: int = 2) -> Entered:
    """Time a guard of a spent quota; the first refusal polls, the second knows."""
    guard = SPENT.guard()
    for _ in range(refusals):
        _refused(guard)
    return loop(statement, guard=guard, Refusal=Refusal), guard.close


def _refused(guard: Guard) -> None:
    try:
        with guard.reserve(COST):
            pass
    except Refusal:
        return
    message = "the exhausted guard let a call go"
    raise AssertionError(message)


def _aguarded() -> Entered:
    guard = warmed(FAR_OFF.guard())

    async def one() -> None:
        async with guard.reserve({METER: 1}) as reservation:
            reservation.settle({METER: 1})

    return aloop(lambda: one), guard.close


def one_thread(scale: Scale) -> Section:
    """A: a limit that is far away, one thread, no listener."""
    runners = (
        at_floor(),
        Runner(ONE_THREAD, partial(_guarded, SETTLED)),
        Runner(BARE_SETTLE, partial(_guarded, AS_RESERVED)),
        Runner("reserve, release()", partial(_guarded, RELEASED)),
        Runner("reserve('person.enrich'), settle(): three meters", partial(_guarded, BY_NAME)),
        Runner("async with reserve, settle(cost)", _aguarded),
        *PEERS,
    )
    figures = race(runners, scale.repeats, scale.calls)
    rows = table(figures, {ONE_THREAD: 18.0, BARE_SETTLE: 18.0})
    notes = (
        "A peer's row is its bare call: it counts, and has nothing to settle. An asynchronous "
        "row has the coroutine's own cost in it, and the same floor."
    )
    return Section("A. One thread, the limit far away, no listener", HEADS, rows, notes)


def refusals(scale: Scale) -> Section:
    """J: an exhausted quota, and the question whether a call would go."""
    runners = (
        at_floor(),
        Runner(REFUSAL, partial(_exhausted, REFUSED)),
        Runner(CHECK_YES, partial(_guarded, CHECKED)),
        Runner(CHECK_NO, partial(_exhausted, CHECKED)),
        Runner(CHECK_ALONE, partial(_exhausted, CHECKED, refusals=1)),
    )
    figures = race(runners, scale.repeats, scale.calls)
    rows = table(figures, dict.fromkeys((REFUSAL, CHECK_YES, CHECK_NO, CHECK_ALONE), 12.0))
    notes = "The floor counts; a refusal raises, and is caught where it is raised."
    return Section("J. A refusal, and check()", HEADS, rows, notes)


# -- eight threads ------------------------------------------------------------


def together(threads: int, work: Callable[[], int]) -> tuple[int, int]:
    """Do *work* in so many threads at once; return its sum and the nanoseconds until all ended."""
    start = threading.Barrier(threads + 1)
    done: list[int] = []

    def one() -> None:
        start.wait()
        done.append(work())

    crowd = [threading.Thread(target=one) for _ in range(threads)]
    for thread in crowd:
        thread.start()
    start.wait()
    begun = perf_counter_ns()
    for thread in crowd:
        thread.join()
    return sum(done), perf_counter_ns() - begun


def _crowded(scale: Scale, figures: Figures) -> int:
    """Time one guard and one floor from all threads; return the units that went astray."""
    each = max(1, scale.calls // scale.threads)
    calls = each * scale.threads
    astray = 0
    for repeat in range(scale.repeats):
        guard = warmed(FAR_OFF.guard())
        before = guard.standing()[METER].used
        alone = loop(SETTLED, guard=guard)
        low = loop("one()", one=counter())
        turns = ((FLOOR, low), (ONE_THREAD, alone))
        for name, run in turns if repeat % 2 else turns[::-1]:
            with uncollected():
                _, spent = together(scale.threads, lambda run=run: int(run(each)))  # type: ignore[misc] # bound now
            figures[name].append(spent / calls)
        astray += abs(int(guard.standing()[METER].used - before) - calls)
        guard.close()
    return astray


def _exact(limit: int, threads: int) -> int:
    """Let all threads ask for twice what there is; return what went less what there was."""
    policy = Policy(margin=0, exclusive=True, cold_reserve=0)
    guard = Office(quota=limit).guard(policy=policy)

    def work() -> int:
        went = 0
        for _ in range(2 * limit // threads + 1):
            try:
                with guard.reserve(COST, priority="critical", max_wait=0) as reservation:
                    reservation.settle(COST)
                    went += 1
            except Refusal:
                continue
        return went

    went, _ = together(threads, work)
    guard.close()
    return went - limit


def eight_threads(scale: Scale) -> Section:
    """B: one guard, several threads: what it costs, and whether a single unit is lost."""
    figures: Figures = {FLOOR: [], ONE_THREAD: []}
    astray = _crowded(scale, figures)
    said, _ = judged(ratio(figures[ONE_THREAD], figures[FLOOR]), None, "x")
    rows = [
        ("floor, ns/call min / median / max", span(figures[FLOOR]), ""),
        ("reserve, settle(cost), ns/call", span(figures[ONE_THREAD]), f"{said} floor"),
        _counted("units astray in the guard's own count", [astray]),
    ]
    switch = sys.getswitchinterval()
    for seconds in (switch, 1e-6):
        sys.setswitchinterval(seconds)
        try:
            off = [_exact(scale.calls, scale.threads) for _ in range(min(scale.repeats, 5))]
        finally:
            sys.setswitchinterval(switch)
        label = f"went, less the limit of {scale.calls:,}; threads switch every {seconds:g} s"
        rows.append(_counted(label, off))
    notes = (
        f"{scale.threads} threads on one guard; twice as many calls are made as there are units. "
        "Less than 0 is a call that could have gone."
    )
    return Section("B. Eight threads on one guard", ("", "figure", "target"), rows, notes)


def _counted(label: str, off: list[int]) -> tuple[str, str, str]:
    told = ", ".join(f"{one:+,}" if one else "0" for one in off)
    return label, told, "0: " + ("**missed**" if any(off) else "kept")
