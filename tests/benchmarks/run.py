"""Measure quotaguard on this machine.

    python tests/benchmarks/run.py                 # everything, about a quarter of an hour
    python tests/benchmarks/run.py A J K           # some
    python tests/benchmarks/run.py A --repeats 51 --save figures.md

The library's ``bench`` extra brings the peers; one that is not installed is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from clients import decorators, requests
from decisions import eight_threads, one_thread, refusals
from growth import accounts, calls
from month import EXCEEDS, FITS, month
from sharing import BY_REDIS, BY_SQLITE, crowd, exact, far, near
from starting import imports
from timing import SMALLEST, Scale, Section, machine

SCENARIOS: dict[str, tuple[Callable[[Scale], Section], ...]] = {
    "A": (one_thread,),
    "B": (eight_threads,),
    "D": (calls,),
    "E": (accounts,),
    "F": (partial(decorators, waits=False), partial(decorators, waits=True)),
    "G": (requests,),
    "H": tuple(partial(part, store=BY_REDIS) for part in (far, near, crowd, exact)),
    "I": tuple(partial(part, store=BY_SQLITE) for part in (far, near, crowd, exact)),
    "J": (refusals,),
    "K": (imports,),
    "Q": (partial(month, demand=EXCEEDS), partial(month, demand=FITS)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the scenarios that are named and write one table for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument(
        "scenarios", nargs="*", metavar="letter", help=f"some of {' '.join(SCENARIOS)}"
    )
    parser.add_argument("--repeats", type=int, help="figures of each runner, at least 1")
    parser.add_argument("--months", type=int, help="months that Q simulates, at least 1")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the tables here too")
    parser.add_argument("--smallest", action="store_true", help="one call of everything")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.scenarios) - set(SCENARIOS))
    if unknown:
        parser.error(f"there is no scenario {unknown[0]}; there are {' '.join(SCENARIOS)}")
    scale = SMALLEST if chosen.smallest else Scale()
    if chosen.repeats is not None:
        scale = replace(scale, repeats=max(1, chosen.repeats), starts=max(1, chosen.repeats))
    if chosen.months is not None:
        scale = replace(scale, months=max(1, chosen.months))
    told = [f"{machine()}, {scale.repeats} repeats, {scale.calls:,} calls in a loop.\n"]
    for letter in chosen.scenarios or SCENARIOS:
        for scenario in SCENARIOS[letter]:
            start = time.monotonic()
            told.append(str(scenario(scale)))
            sys.stderr.write(f"{letter}: {time.monotonic() - start:.0f} s\n")
    report = "\n".join(told)
    sys.stdout.write(report)
    if chosen.save is not None:
        chosen.save.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
