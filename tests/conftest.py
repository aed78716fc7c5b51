"""What every test may ask for: both event loops, and how hard to try.

The scale options turn the suite into a soak: ``pytest --histories 2000000 --seed 7``.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from quotaguard import Guard, QuotaExhausted
from quotaguard.drivers import BACKGROUND
from quotaguard.quota.polls import CLAIM_SECONDS
from quotaguard.testing import FakeClock

MATCHES = "person.enrichment.matches"

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
        "--faults",
        type=int,
        default=10_000,
        help="faults of the wire in the storm (default: %(default)s)",
    )
    scale.addoption(
        "--fuzz",
        type=int,
        default=20_000,
        help="hostile answers that each provider's parsers read (default: %(default)s)",
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
    scale.addoption(
        "--strikes",
        type=int,
        default=2,
        help="how often Ctrl-C strikes each step of the code; 0 is as often as it comes "
        "(default: %(default)s)",
    )
    scale.addoption(
        "--forks",
        type=int,
        default=200,
        help="processes that are forked while locks are held (default: %(default)s)",
    )
    scale.addoption(
        "--troubles",
        type=int,
        default=100,
        help="small crowds of processes to which everything happens (default: %(default)s)",
    )
    scale.addoption(
        "--crowds",
        action="store_true",
        help="also simulate 300 and 1,000 processes on one quota, which takes minutes",
    )
    scale.addoption(
        "--failovers",
        type=int,
        default=12,
        help="faults of a Redis server in the storm (default: %(default)s)",
    )
    scale.addoption(
        "--hammer",
        type=int,
        default=2_000,
        help="calls of each of 64 threads at once (default: %(default)s)",
    )
    scale.addoption(
        "--kills",
        type=int,
        default=60,
        help="workers that are killed over a file of SQLite, and a third of them over Redis; "
        "from 61 on a fifth (default: %(default)s)",
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
def troubles(pytestconfig: pytest.Config) -> int:
    """Return the number of small crowds in trouble."""
    return int(pytestconfig.getoption("--troubles"))


@pytest.fixture(scope="session")
def faults(pytestconfig: pytest.Config) -> int:
    """Return the number of faults in the storm."""
    return int(pytestconfig.getoption("--faults"))


@pytest.fixture(scope="session")
def fuzz(pytestconfig: pytest.Config) -> int:
    """Return the number of hostile answers to read."""
    return int(pytestconfig.getoption("--fuzz"))


@pytest.fixture(scope="session")
def strikes(pytestconfig: pytest.Config) -> int:
    """Return how often each step of the code is struck, 0 for every time."""
    return int(pytestconfig.getoption("--strikes"))


@pytest.fixture(scope="session")
def forks(pytestconfig: pytest.Config) -> int:
    """Return how many processes to fork."""
    return int(pytestconfig.getoption("--forks"))


@pytest.fixture(scope="session")
def kills(pytestconfig: pytest.Config) -> int:
    """Return how many workers to kill."""
    return int(pytestconfig.getoption("--kills"))


@pytest.fixture(scope="session")
def failovers(pytestconfig: pytest.Config) -> int:
    """Return the number of faults of a Redis server in the storm."""
    return int(pytestconfig.getoption("--failovers"))


@pytest.fixture(scope="session")
def hammer(pytestconfig: pytest.Config) -> int:
    """Return how many calls each of many threads makes."""
    return int(pytestconfig.getoption("--hammer"))


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """Return the seed for ``random.Random``."""
    return int(pytestconfig.getoption("--seed"))


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every asynchronous test on both event loops."""
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def swept(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let go of what Ctrl-C has left open: it must not be found in somebody else's test."""
    yield
    if "interrupts" in request.module.__name__:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def law() -> Callable[[Any], None]:
    """Return what holds a stopped guard against the law; see `hold`."""
    return hold


def hold(world: Any) -> None:
    """Check that no lock is held, that nothing charged is missing, and that all heals.

    *world* has a guard on a fake clock that nothing moves, its ledger, the *true* counts
    and *quota* of its provider, and *go*, which makes one critical call. *heals*: polls
    until all is exact, one where no webhook is awaited. *priced*: no call cost more than
    was reserved for it; what did looks like somebody else's, and gets its margin.
    """
    guard, holder, clock = world.guard, world.guard._spending.holder, world.clock
    locks = [holder.lock, holder.queue._lock, world.ledger._lock, BACKGROUND._lock]
    if holder.waits:
        locks += [holder._account.turn, world.ledger._exchanging]
    assert not any(lock.locked() for lock in locks), "a lock is held"
    guard.standing()
    assert holder.queue.busy == [], "somebody stands in line who is gone"
    for name, books in holder.books.meters.items():
        gate = books.gate(clock.fast(), guard._spending.terms.meters[name])
        if books.read and world.priced:
            assert gate >= world.true[name], f"{name} is charged and not counted"
    clock.advance(CLAIM_SECONDS)
    assert not holder.books.polls.pending(clock.now()), "others wait for a poll that nobody makes"
    heal(guard, clock, world.heals)
    if any(row.reserved for row in guard.standing()):
        gc.collect()  # a reply of httpx holds itself
        guard.standing()
        heal(guard, clock, world.heals)
    for row in guard.standing():
        assert row.reserved == 0, f"{row.meter} is held for ever"
        assert row.used == world.true.get(row.meter, 0), f"{row.meter} does not heal"
    assert all(purse.opened == 0 for purse in holder.allotment.purses.values())
    if world.priced:
        for _ in range(world.quota - world.true[MATCHES]):
            world.go()
        with pytest.raises(QuotaExhausted):
            world.go()
        assert world.true[MATCHES] == world.quota, "more than the quota was spent"


def heal(guard: Guard, clock: FakeClock, polls: int) -> None:
    """Let what is unknown lapse, and poll."""
    for _ in range(polls):
        clock.advance(25.0)
        guard.refresh()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures of the proofs, for the record; with ``-v`` each of them."""
    passed = terminalreporter.getreports("passed")
    told = [figure for report in passed for figure in report.user_properties]
    for line in proofs(told):
        terminalreporter.write_line(f"proof: {line}")
    if terminalreporter.verbosity > 0:
        for name, value in told:
            if name not in {"await points", "strikes", "forks", "kills"}:
                terminalreporter.write_line(f"{name}: {value}")


PROOFS = (
    ("states", "{:,} states, 0 overshoots, 0 unhealed"),
    ("killed", "{:,} mutants, all killed"),
    ("await points", "{:,} await points cancelled, all healed"),
    ("strikes", "{:,} strikes of Ctrl-C, all healed"),
    ("forks", "{:,} forks, all healed"),
    ("kills", "{:,} kills, 0 units past the quota, all came back"),
    ("months", "{:,} months, 0 of our units past the limit"),
    ("past", "{:,} units of these months because of others' bursts"),
)
"""Figures that are added up over all tests, and how they are told."""


def proofs(told: list[tuple[str, object]]) -> Iterator[str]:
    """Yield what was proved, a line each."""
    for name in ("storm", "storm of redis", "fuzz", "crowd"):
        yield from (f"{name}, {value}" for one, value in told if one == name)
    for name, line in PROOFS:
        figures = [value for one, value in told if one == name]
        if figures:
            yield line.format(sum(1 if name == "killed" else int(str(one)) for one in figures))
