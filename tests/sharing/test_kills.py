"""kill -9 at any instant: the provider never counts more than its quota, and all comes back.

Workers spend from one quota, each from two threads, and poll; the parent kills one after
another and starts new ones. Each round has books, a provider and a quota of its own, so
that kills land far from the limit and near it.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest
from servers import serving
from sharing_history import Charge, History, faults_of
from sharing_workers import KEY, MATCHES, Place, read, storm

from quotaguard import Policy, QuotaExhausted
from quotaguard.testing import fake
from quotaguard.testing.server import Request

LAG = 0.4
LEASE = 1.0
POLICY = Policy(
    lag=1.25 * LAG, late=0.5, cold_reserve=0, poll_every=(0.1, 0.5), max_wait=0.3, warn_at=()
)
ROUND = 60
"""Kills on one quota."""

STORES = ["sqlite", "redis"]


class Round:
    """Workers on one quota, and what they and the provider noted."""

    def __init__(self, place: Place, rng: random.Random) -> None:
        self.place, self.rng = place, rng
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["__main__", "sharing_workers"])
        self.started = 0
        self.living: list[tuple[str, Any, connection.Connection]] = []
        self.killed: set[str] = set()

    def start(self) -> None:
        """Start one more worker."""
        mine, theirs = self.context.Pipe()
        name, self.started = f"k{self.started}", self.started + 1
        told = (self.place, name, self.rng.randrange(1 << 30), theirs)
        process = self.context.Process(target=storm, args=told, daemon=True)
        process.start()
        theirs.close()
        self.living.append((name, process, mine))

    def kill(self) -> None:
        """Let them work for a moment, and kill one of those that have begun."""
        ends = [process.sentinel for _, process, _ in self.living]
        assert connection.wait(ends, self.rng.uniform(0.0, 0.08)) == [], "a worker ended by itself"
        begun = connection.wait([pipe for _, _, pipe in self.living], 20.0)
        assert begun, "no worker begins"
        victim = self.rng.choice([one for one in self.living if one[2] in begun])
        self.living.remove(victim)
        name, process, pipe = victim
        process.kill()
        process.join(10)
        pipe.close()
        self.killed |= {f"{name}-0", f"{name}-1"}

    def stop(self) -> None:
        """Kill half of those that are left, and let the others end."""
        while len(self.living) > self.started % 4:
            self.kill()
        for name, process, pipe in self.living:
            pipe.send("stop")
            process.join(10)
            assert process.exitcode == 0
            # Its threads were stopped as those of a daemon are, whatever they had.
            self.killed |= {f"{name}-0", f"{name}-1"}


def quiet(seconds: float) -> None:
    """Let real time pass in which nobody does anything."""
    threading.Event().wait(seconds)


def played(
    store: str, folder: Path, kills: int, seed: str, moments: Counter[str]
) -> tuple[int, int]:
    """Play a round; return the units that were spent in it, and how many were killed."""
    rng = random.Random(seed)
    quota, charges = rng.choice([300, 1_500, 6_000]), list[Charge]()
    (traces := folder / "traces").mkdir(parents=True)

    def witness(request: Request) -> None:
        call = json.loads(request.body)["email"].partition("@")[0]
        charges.append(Charge(time.monotonic(), call, charged=True))

    knobs = {"quota": quota, "lag": LAG, "visible": "random", "latency": 0.002, "faults": witness}
    where, again = str(folder / "quota.db"), f"seed {seed}, traces in {traces}"
    with fake("fullcontact", **knobs, match_rate=1.0, overage=True, key=KEY) as vendor:
        server = None
        if store == "redis":
            server = serving(folder / "redis")
            where = server.__enter__().url
        try:
            place = Place(store, where, vendor.url, str(traces), POLICY, LEASE)
            round_ = Round(place, rng)
            for _ in range(rng.randint(4, 8)):
                round_.start()
            for _ in range(kills):
                round_.kill()
                round_.start()
            round_.stop()
            healed(place, vendor, quota, again)
        finally:
            if server is not None:
                server.__exit__(None, None, None)
    if store == "sqlite":
        with closing(sqlite3.connect(where)) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)], again
    history = read(traces)
    # The parent's own calls have no trace.
    known = [one for one in charges if not one.call.startswith("parent")]
    faults = faults_of(History(history, known, quota, POLICY.late, frozenset(round_.killed)))
    assert list(faults) == [], again
    moments.update(notes[-1].what for name, notes in history.items() if notes)
    return len(known), len(round_.killed) // 2


def healed(place: Place, vendor: Any, quota: int, again: str) -> None:
    """After the leases and one poll nothing is missing, and the rest can be spent."""
    with place.guard() as guard:
        quiet(LEASE + float(POLICY.late) + 0.2)
        guard.standing()  # ends the leases of the dead
        quiet(float(POLICY.lag) + 0.1)
        row, true = guard.refresh()[MATCHES], vendor.true[MATCHES]
        assert true <= quota, again
        assert (row.used, row.headroom, row.reserved) == (true, quota - true, 0), again
        holder = guard._spending.holder
        assert set(holder.books.holders) <= {holder.name}, again
        for _ in range(min(20, quota - true)):
            with guard.reserve({MATCHES: 1}, priority="critical") as held:
                held.release()
        if true == quota:
            with pytest.raises(QuotaExhausted):
                guard.reserve({MATCHES: 1}, priority="critical").open()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("store", STORES)
def test_a_storm_of_kills(
    store: str,
    kills: int,
    seed: int,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Whenever they are killed: in calls, as they settle, in exchanges with the store, in polls."""
    left = kills if store == "sqlite" else max(1, kills // 5 if kills > ROUND else kills // 3)
    total, dead, number, moments = 0, 0, 0, Counter[str]()
    began = time.monotonic()
    while left > 0:
        folder = tmp_path / str(number)
        spent, fell = played(store, folder, min(ROUND, left), f"{seed}/{store}/{number}", moments)
        total, dead, left, number = total + spent, dead + fell, left - fell, number + 1
    took = time.monotonic() - began
    assert total >= dead, "the workers did nothing"
    record_property("kills", dead)
    record_property("moments", f"{store}: {total:,} units, {dead} kills, {took:.0f} s, {moments}")
