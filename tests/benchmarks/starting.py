"""K: what an import adds to the start of a process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from time import perf_counter_ns

from timing import Figures, Scale, Section, added, judged, span

BARE = "pass"
DOOR = "import quotaguard"
GUARD = "from quotaguard import Guard, FullContact"
HTTPX = "import httpx"
PROGRAMS = (BARE, DOOR, GUARD, HTTPX)
TARGETS = {DOOR: 40.0, GUARD: 60.0}


def _started(program: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a program; return its wall and processor time in milliseconds."""
    before = os.times()
    start = perf_counter_ns()
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    wall = (perf_counter_ns() - start) / 1e6
    after = os.times()
    spent = after.children_user + after.children_system
    return wall, (spent - before.children_user - before.children_system) * 1000


def _race(starts: int, environment: Mapping[str, str]) -> tuple[Figures, Figures]:
    walls: Figures = {program: [] for program in PROGRAMS}
    busy: Figures = {program: [] for program in PROGRAMS}
    for program in PROGRAMS:
        _started(program, environment)  # writes the byte code that an installed library has
    for repeat in range(starts):
        start = repeat % len(PROGRAMS)
        for program in (*PROGRAMS[start:], *PROGRAMS[:start]):
            wall, spent = _started(program, environment)
            walls[program].append(wall)
            busy[program].append(spent)
    return walls, busy


def imports(scale: Scale) -> Section:
    """K: whole processes, interleaved; the difference to one that imports nothing."""
    with tempfile.TemporaryDirectory() as kept:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": kept}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        walls, busy = _race(scale.starts, environment)
    rows = []
    for program in PROGRAMS:
        more = added(walls[program], walls[BARE])
        said, target = judged(statistics.median(more), TARGETS.get(program), " ms")
        best = min(walls[program]) - min(walls[BARE])
        worked = statistics.mean(added(busy[program], busy[BARE]))
        spans = (f"`{program}`", span(walls[program], 1), said, f"{best:,.1f}", f"{worked:,.1f}")
        rows.append((*spans, target))
    heads = (
        "program",
        "ms min / median / max",
        "added, paired median",
        "best less best",
        "processor ms added, mean",
        "target",
    )
    notes = "Byte code is cached, as pip leaves it. `import httpx` is there to compare."
    return Section("K. Importing", heads, rows, notes)
