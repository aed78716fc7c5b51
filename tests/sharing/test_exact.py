"""Several processes on one quota, over real HTTP: never one unit more, and never one less.

The provider shows a charge up to a second late, and loses answers. What all of them did
is on their traces, and is checked afterwards.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from servers import serving
from sharing_history import Charge, History, faults_of, hasty
from sharing_workers import KEY, MATCHES, Place, hammer, read

from quotaguard import Policy
from quotaguard.quota.lines import line, share_left
from quotaguard.quota.readings import Period
from quotaguard.testing import fake
from quotaguard.testing.fullcontact import FakeFullContact
from quotaguard.testing.server import Request

LAG = 1.0
PATIENT = Policy(lag=1.25 * LAG, late=1.0, cold_reserve=0, poll_every=(0.1, 1.0), max_wait=20.0)
QUIET = PATIENT.but(poll_every=(600.0, 900.0), max_wait=3.0)
"""One reading before the first call, and no other: nothing is counted twice."""

WAIT = 40.0

pytestmark = [
    # From Python 3.12 on a fork of a process with threads warns: some do it all the same.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


class Witness:
    """What comes to the provider, and what becomes of its answer."""

    def __init__(self, lost: float = 0.0, seed: int = 0) -> None:
        self.charges: list[Charge] = []
        self._lost, self._seed = lost, seed

    def __call__(self, request: Request) -> str | None:
        """Note a call, and lose its answer if its turn has come; half of those are free."""
        call = json.loads(request.body)["email"].partition("@")[0]
        draw = random.Random(f"{self._seed} {call}").random()
        free, gone = draw < self._lost / 2, draw < self._lost
        self.charges.append(Charge(time.monotonic(), call, not free))
        return "reset-free" if free else "reset" if gone else None


@contextmanager
def placed(store: str, folder: Path, vendor: FakeFullContact, policy: Policy) -> Iterator[Place]:
    """Make a place of books and traces."""
    traces = folder / "traces"
    traces.mkdir()
    with ExitStack() as open_:
        where = str(folder / "quota.db")
        if store == "redis":
            where = open_.enter_context(serving(folder / "redis")).url
        yield Place(store, where, vendor.url, str(traces), policy)


def together(place: Place, start: str, jobs: list[tuple[str, str]]) -> None:
    """Run a process for each (way, priority) and wait until all of them have ended well."""
    context: Any = multiprocessing.get_context(start)
    if start == "forkserver":
        context.set_forkserver_preload(["sharing_workers"])
    guard = None
    if start == "fork":
        guard = place.guard()
        guard.refresh()
        with guard.reserve({MATCHES: 1}, priority="critical") as held:
            held.release()
    pipes: list[Connection] = []
    processes = []
    for number, (way, priority) in enumerate(jobs):
        mine, theirs = context.Pipe()
        told = (place, f"w{number}", way, priority, theirs, guard)
        processes.append(context.Process(target=hammer, args=told, daemon=True))
        pipes.append(mine)
    try:
        for process in processes:
            process.start()
        for pipe in pipes:
            assert pipe.poll(WAIT), "a worker does not start"
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        for process in processes:
            process.join(WAIT)
        assert [process.exitcode for process in processes] == [0] * len(jobs)
    finally:
        for process in processes:
            process.kill()
        if guard is not None:
            guard.close()


def kept_of(period: tuple[str, str], quota: int) -> dict[str, float]:
    """Return the units that the line keeps from each priority now."""
    parsed = Period.parse(*period)
    share = share_left(parsed, time.time())
    return {name: line(slack, share, quota) for name, slack in PATIENT.slack.items()}


STORES = ["sqlite", "redis"]
WAYS = [
    pytest.param(1, "spawn", ["hand"], id="1 spawned"),
    pytest.param(4, "spawn", ["hand", "client"], id="4 spawned"),
    pytest.param(4, "fork", ["client", "hand"], id="4 forked"),
    pytest.param(16, "forkserver", ["hand", "client"], id="16 processes"),
]


@pytest.mark.parametrize("lost", [0.0, 0.1], ids=["answered", "a tenth lost"])
@pytest.mark.parametrize(("count", "start", "ways"), WAYS)
@pytest.mark.parametrize("store", STORES)
def test_exactly_the_quota(
    store: str,
    count: int,
    start: str,
    ways: list[str],
    lost: float,
    tmp_path: Path,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    """Whoever waits for what is not confirmed gets the last unit, and nobody one more."""
    quota, witness = 150 + 10 * count, Witness(lost, seed)
    knobs = {"quota": quota, "lag": LAG, "visible": "random", "seed": seed, "faults": witness}
    with fake("fullcontact", **knobs, match_rate=1.0, overage=True, key=KEY) as vendor:
        with placed(store, tmp_path, vendor, PATIENT) as place:
            began = time.monotonic()
            together(place, start, [(ways[n % len(ways)], "critical") for n in range(count)])
            took = time.monotonic() - began
        true = vendor.true[MATCHES]
    history = History(read(tmp_path / "traces"), witness.charges, quota, PATIENT.late)
    again = f"pytest {__file__} --seed {seed}; traces in {tmp_path}"
    assert [*faults_of(history), *hasty(history)] == [], again
    assert true == quota, again
    record_property(f"exact, {store}", f"{count} processes, {quota} units in {took:.1f} s")
