"""What every test may ask for: both event loops, and how hard to try.

The scale options turn the suite into a soak: ``pytest --histories 2000000 --seed 7``.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile(
    "suite",
    # A generated case may start an event loop, and the machine may be busy.
    deadline=None,
    # CI judges a change, not the day's luck; at a desk new examples are welcome.
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
)
settings.register_profile("soak", settings.get_profile("suite"), max_examples=10_000)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the scale options."""
    scale = parser.getgroup("scale", "how hard the laws are tried")
    scale.addoption(
        "--states",
        type=int,
        default=300_000,
        help="states that the exhaustive searches may visit (default: %(default)s)",
    )
    scale.addoption(
        "--histories",
        type=int,
        default=50_000,
        help="histories that are generated at random (default: %(default)s)",
    )
    scale.addoption(
        "--months",
        type=int,
        default=20,
        help="simulated months with everything on (default: %(default)s)",
    )
    scale.addoption(
        "--seed",
        type=int,
        default=0,
        help="seed of everything random; the same seed, the same run (default: %(default)s)",
    )


@pytest.fixture(scope="session")
def states(pytestconfig: pytest.Config) -> int:
    """Return the number of states that an exhaustive search may visit."""
    return int(pytestconfig.getoption("--states"))


@pytest.fixture(scope="session")
def histories(pytestconfig: pytest.Config) -> int:
    """Return the number of random histories to try."""
    return int(pytestconfig.getoption("--histories"))


@pytest.fixture(scope="session")
def months(pytestconfig: pytest.Config) -> int:
    """Return the number of months to live."""
    return int(pytestconfig.getoption("--months"))


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """Return the seed for ``random.Random``."""
    return int(pytestconfig.getoption("--seed"))


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every asynchronous test on both event loops."""
    return str(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures of the proofs, for the record; with ``-v`` each of them."""
    passed = terminalreporter.getreports("passed")
    told = [figure for report in passed for figure in report.user_properties]
    states = sum(int(str(value)) for name, value in told if name == "states")
    if states:
        terminalreporter.write_line(f"proof: {states:,} states, 0 overshoots, 0 unhealed")
    killed = sum(name == "killed" for name, _ in told)
    if killed:
        terminalreporter.write_line(f"proof: {killed} mutants, all killed")
    lived = sum(int(str(value)) for name, value in told if name == "months")
    if lived:
        past = sum(int(str(value)) for name, value in told if name == "past")
        terminalreporter.write_line(
            f"proof: {lived} months, 0 of our units past the limit, {past} because of bursts"
        )
    if terminalreporter.verbosity > 0:
        for name, value in told:
            terminalreporter.write_line(f"{name}: {value}")
