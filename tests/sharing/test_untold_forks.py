"""Servers that fork behind Python's back, as uWSGI does: no hook of ours is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quotaguard.testing import fake

MATCHES = "person.enrichment.matches"

PROGRAM = """
import ctypes, os, sys
from quotaguard import FullContact, Guard, Policy, Refusal

url, file = sys.argv[1:]
policy = Policy(
    lag=0.4, late=1, cold_reserve=0, exclusive=True, poll_every=(0.2, 5), poll_budget=5000
)
provider = FullContact("test-key", base_url=url)
guard = Guard(provider, ledger=f"sqlite://{file}", policy=policy)
fork = ctypes.PyDLL(None).fork  # os.fork would tell
children = []
for _ in range(3):
    child = fork()
    if not child:
        headers = {"Authorization": "Bearer test-key"}
        with guard, guard.client(headers=headers) as client:
            try:
                while True:
                    client.post(
                        f"{url}/v3/person.enrich",
                        json={"email": f"{os.urandom(6).hex()}@example.com"},
                        extensions={"quotaguard": {"priority": "critical"}},
                    )
            except Refusal as refusal:
                sys.stdout.write(type(refusal).__name__ + " ")
                sys.stdout.flush()
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the program calls the system's fork by name")
def test_children_that_nobody_told_of_are_holders_of_their_own(tmp_path: Path) -> None:
    """They spend the quota together, exactly: none goes on as its siblings."""
    with fake("fullcontact", quota=400, lag=0.3, match_rate=1.0, overage=True) as vendor:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, vendor.url, str(tmp_path / "quota.db")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout.split(), done.stderr) == (["QuotaExhausted"] * 3, "")
        assert vendor.true[MATCHES] == 400
