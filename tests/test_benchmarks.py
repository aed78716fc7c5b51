"""The benchmarks still run; nothing here says how fast anything is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "benchmarks" / "run.py"
TITLES = {
    "A": "## A. One thread, the limit far away, no listener",
    "B": "## B. Eight threads on one guard",
    "D": "## D. The millionth call",
    "E": "## E. Ten thousand accounts",
    "F": "## F. A decorator on a bare function, async def",
    "G": "## G. A guarded httpx client over MockTransport",
    "H": "## H. Redis: what 2 processes were given of one limit",
    "I": "## I. One host, SQLite: what 2 processes were given of one limit",
    "J": "## J. A refusal, and check()",
    "K": "## K. Importing",
    "Q": "## Q. A month: some 11,000 calls wanted, and others spend some 3,000",
}


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks as a user does, in a process of their own."""
    return subprocess.run(
        [sys.executable, str(RUN), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.mark.parametrize("letter", sorted(TITLES))
def test_every_scenario_runs(letter: str, tmp_path: Path) -> None:
    """Each scenario does one call of everything and saves the table that it prints."""
    saved = tmp_path / "figures.md"
    done = benchmark(letter, "--smallest", "--save", str(saved))
    assert done.returncode == 0, done.stderr
    assert TITLES[letter] in done.stdout
    assert saved.read_text(encoding="utf-8") == done.stdout


def test_no_scenario_is_left_out() -> None:
    """A run without letters would run all of them, and those are the ones tested here."""
    done = benchmark("--help")
    assert f"some of {' '.join(TITLES)}" in done.stdout


def test_no_unit_goes_astray_in_a_crowd() -> None:
    """Threads that share a guard get every unit of the limit, and not one more."""
    done = benchmark("B", "--smallest")
    assert done.stdout.count("| 0 | 0: kept |") == 3, done.stdout + done.stderr


def test_an_unknown_letter_is_named() -> None:
    """A letter that stands for nothing ends the run before anything is measured."""
    done = benchmark("A", "Z")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no scenario Z" in done.stderr
