"""The types of the public API: mypy and pyright, both strict, read what users write."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = Path(__file__).with_name("api.py")
RENAMED = ('assert_type(perhaps("a"), int | None)', 'assert_type(perhaps("a"), int)')
"""A claim of api.py, and what it would be if the fallback did not widen the type."""


def checked(*command: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Run a type checker in the repository."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=timeout,
    )


def mypy(path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Check one file with mypy, with pyproject's settings and a cache of its own."""
    return checked("mypy", "--strict", f"--cache-dir={cache}", str(path))


@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is a dev extra")
def test_mypy_agrees(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every type is what api.py says, every wrong call is seen, and a false claim too."""
    folder = tmp_path_factory.mktemp("mypy")
    right = mypy(API, folder / "cache")
    assert right.returncode == 0, right.stdout + right.stderr
    wrong = folder / "wrong.py"
    text = API.read_text("utf-8")
    assert RENAMED[0] in text
    wrong.write_text(text.replace(*RENAMED), "utf-8")
    told = mypy(wrong, folder / "cache")
    assert told.returncode == 1, told.stdout + told.stderr
    assert "[assert-type]" in told.stdout


@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is a dev extra")
def test_pyright_agrees() -> None:
    """The other type checker that users have says the same, in its strict mode.

    Its package fetches itself when it runs for the first time. Where it cannot, there
    is nothing to say.
    """
    try:
        done = checked("pyright", "--pythonpath", sys.executable, str(API), timeout=200)
    except subprocess.TimeoutExpired:
        pytest.skip("pyright does not begin")
    if " errors" not in done.stdout:
        pytest.skip(f"pyright does not run here: {(done.stdout + done.stderr)[-200:]}")
    assert done.returncode == 0, done.stdout
