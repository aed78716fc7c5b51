"""Spend one quota from several processes: the workers of a prefork server, and two jobs.

Runs by itself, against a fake FullContact on this machine:

    python examples/several_processes.py

The books are in a file of SQLite, in a directory of its own. The server builds its guard
before it forks, as gunicorn does with --preload. The jobs are processes of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NamedTuple

from quotaguard import FullContact, Guard, Policy, QuotaExhausted
from quotaguard.testing import fake

MATCHES = "person.enrichment.matches"
KEY = "test-key"
QUOTA = 500

# The fake's stats lag by half a second, and nobody else spends: so the last unit is proven
# within seconds, and not within minutes. A real provider needs none of these settings.
POLICY = Policy(
    lag=0.6, late=1, cold_reserve=0, exclusive=True, poll_every=(0.3, 5), poll_budget=5_000
)


class Report(NamedTuple):
    """What one process has done."""

    name: str
    pid: int
    calls: int
    found: int
    last: str


def main() -> None:
    fresh = multiprocessing.get_context("spawn")
    knobs = {"quota": QUOTA, "lag": 0.5, "match_rate": 0.8, "key": KEY}
    with tempfile.TemporaryDirectory() as folder, fake("fullcontact", **knobs) as vendor:
        # Three slashes: this one, and the one that the absolute path begins with.
        ledger = f"sqlite://{Path(folder).resolve() / 'quota.db'}"
        reports: SimpleQueue[Report] = fresh.SimpleQueue()
        told = (vendor.url, ledger, reports)
        programs = [fresh.Process(target=server, args=told)]
        programs += [fresh.Process(target=job, args=(*told, f"job {n}")) for n in (1, 2)]
        for program in programs:
            program.start()
        for program in programs:
            program.join()
        done = []
        while not reports.empty():
            done.append(reports.get())
        for report in sorted(done):
            print(f"{report.name}: {report.calls} calls, {report.found} found, {report.last}")
        found = sum(report.found for report in done)
        print(f"together {found}, and the provider has counted {vendor.true[MATCHES]} of {QUOTA}")
        if not found == vendor.true[MATCHES] == QUOTA:
            raise SystemExit("that is not the quota")


def guard_of(url: str, ledger: str) -> Guard:
    return Guard(FullContact(KEY, base_url=url), ledger=ledger, policy=POLICY)


def server(url: str, ledger: str, reports: SimpleQueue[Report]) -> None:
    """Load once, then fork: the guard is there before the workers are."""
    # gunicorn --preload, uWSGI and multiprocessing's "fork" all come to this.
    guard = guard_of(url, ledger)
    print(f"server {os.getpid()}: {guard!r}, and now it forks")
    forking = multiprocessing.get_context("fork")
    workers = [
        forking.Process(target=work, args=(guard, url, reports, f"worker {n}")) for n in (1, 2, 3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def job(url: str, ledger: str, reports: SimpleQueue[Report], name: str) -> None:
    """A cron job, or a worker of a queue: it knows the file, and nothing else."""
    work(guard_of(url, ledger), url, reports, name)


def work(guard: Guard, url: str, reports: SimpleQueue[Report], name: str) -> None:
    """Enrich people until nothing is left of the quota."""
    calls = found = 0
    last = ""
    # A client after the fork: connections of httpx are for one process.
    headers = {"Authorization": f"Bearer {KEY}"}
    with guard, guard.client(headers=headers, timeout=10) as client:
        while not last:
            try:
                response = client.post(
                    f"{url}/v3/person.enrich",
                    json={"email": f"{name}-{calls}@example.com"},
                    extensions={"quotaguard": {"priority": "critical"}},
                )
            except QuotaExhausted as refusal:
                last = f"then {refusal.used} of {refusal.limit} were used"
            else:
                calls += 1
                found += response.status_code == 200
    reports.put(Report(name, os.getpid(), calls, found, last))


if __name__ == "__main__":
    main()
