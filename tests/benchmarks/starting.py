"""K: what an import adds to the start of a process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from time import perf_counter_ns

from timing import Figures, Scale, Section, added, judged, span

BARE = "pass"
DOOR = "import quotaguard"
GUARD = "from quotaguard import Guard, FullContact"
HTTPX = "import httpx"
TARGETS = {DOOR: 40.0, GUARD: 60.0}


def _started(program: str) -> tuple[float, float]:
    """Run a program; return its wall and processor time in milliseconds."""
    before = os.times()
    start = perf_counter_ns()
    subprocess.run([sys.executable, "-c", program], check=True)
    wall = (perf_counter_ns() - start) / 1e6
    after = os.times()
    spent = after.children_user + after.children_system
    return wall, (spent - before.children_user - before.children_system) * 1000


def imports(scale: Scale) -> Section:
    """K: whole processes, interleaved; the difference to one that imports nothing."""
    programs = (BARE, DOOR, GUARD, HTTPX)
    walls: Figures = {program: [] for program in programs}
    busy: Figures = {program: [] for program in programs}
    for program in programs:
        _started(program)  # compiles what has changed
    for repeat in range(scale.starts):
        start = repeat % len(programs)
        for program in (*programs[start:], *programs[:start]):
            wall, spent = _started(program)
            walls[program].append(wall)
            busy[program].append(spent)
    rows = []
    for program in programs:
        more = added(walls[program], walls[BARE])
        said, target = judged(statistics.median(more), TARGETS.get(program), " ms")
        best = min(walls[program]) - min(walls[BARE])
        worked = statistics.mean(added(busy[program], busy[BARE]))
        rows.append(
            (f"`{program}`", span(walls[program], 1), said, f"{best:,.1f}", f"{worked:,.1f}", target)
        )
    heads = (
        "program",
        "ms min / median / max",
        "added, paired median",
        "best less best",
        "processor ms added, mean",
        "target",
    )
    return Section("K. Importing", heads, rows, "`import httpx` is there to compare.")
