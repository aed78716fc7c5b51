"""How processes end, and what they give back then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quotaguard import FullContact, Guard
from quotaguard.testing import fake

MATCHES = "person.enrichment.matches"

PROGRAM = """
import multiprocessing, sys
from quotaguard import FullContact, Guard

def work(url, file):
    guard = Guard(FullContact("test-key", base_url=url), ledger=f"sqlite://{file}")
    with guard.reserve({"person.enrichment.matches": 1}) as reservation:
        reservation.settle()

context = multiprocessing.get_context("fork")
child = context.Process(target=work, args=sys.argv[1:])
child.start()
child.join()
sys.exit(child.exitcode)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system cannot fork")
def test_a_forked_child_of_multiprocessing_gives_back(tmp_path: Path) -> None:
    """It ends without Python's exit hooks; what it held must not wait for its lease."""
    file = tmp_path / "quota.db"
    with fake("fullcontact", quota=100, key="test-key") as vendor:
        command = [sys.executable, "-c", PROGRAM, vendor.url, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        provider = FullContact("test-key", base_url=vendor.url)
        with Guard(provider, ledger=f"sqlite://{file}") as guard:
            row = guard.standing()[MATCHES]
            assert (row.used, row.allotted, row.reserved) == (1, 0, 0)
