"""Several guards of one account: in one process, in two, and one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from shelves import MATCHES, TOTAL, Process, Provider, Shelf

from quotaguard import FullContact, Guard, Policy, QuotaExhausted, Refusal
from quotaguard.testing import FakeClock, fake

QUOTA = 60


class World:
    """Two processes at one store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.shelf = Shelf(self.clock)
        self.provider = Provider(self.clock, QUOTA)
        self.one = Process(self.shelf, self.provider)
        self.two = Process(self.shelf, self.provider, margin=10)
        self.one.guard.refresh()


def spend(world: World, guard: Guard, **settings: object) -> int:
    """Spend all that *guard* lets go."""
    for went in range(QUOTA + 1):
        try:
            with guard.reserve({MATCHES: 1}, max_wait=0, **settings) as mine:  # type: ignore[arg-type] # its own
                world.provider.charge()
                mine.settle({MATCHES: 1})
        except Refusal:
            return went
    raise AssertionError("more than the quota went")


def test_two_policies_in_one_process() -> None:
    """Each keeps its own margin and lines; what one holds idle the other gets at once."""
    world = World()
    margin = world.one.join(margin=10)
    lines = world.one.join(slack={"critical": 1.0, "normal": 0.5})
    assert len(world.one.account.holders) == 3
    with margin.reserve({MATCHES: 1}, priority="critical") as mine:
        world.provider.charge()
        mine.settle({MATCHES: 1})
    normal = spend(world, lines, priority="normal")
    assert 0 < normal < QUOTA // 2 + 1
    world.clock.advance(4.0)
    assert spend(world, margin, priority="critical") + normal + 1 == QUOTA - 10
    world.clock.advance(4.0)
    assert spend(world, world.one.guard, priority="critical") == 10
    for guard in (margin, lines, world.one.guard):
        with pytest.raises(QuotaExhausted):
            guard.reserve({MATCHES: 1}, priority="critical", max_wait=0).open()
    assert world.provider.true == QUOTA


def test_two_policies_in_two_processes() -> None:
    """The same; what the other holds comes back when it is asked for, or rests."""
    world = World()
    world.two.spend()
    went = 1
    for _ in range(8):
        went += spend(world, world.two.guard, priority="critical")
        world.one.tend()
        world.two.tend()
        world.clock.advance(1.0)
    assert went == QUOTA - 10
    for _ in range(8):
        went += spend(world, world.one.guard, priority="critical")
        world.one.tend()
        world.two.tend()
        world.clock.advance(1.0)
    assert went == world.provider.true == QUOTA


def test_guards_of_other_meters() -> None:
    """A limit that only one of them knows does not trouble the other."""
    world = World()
    with world.one.guard.reserve({TOTAL: 1, MATCHES: 1}, priority="critical") as mine:
        world.provider.charge()
        mine.settle()
    world.two.spend()
    world.one.account.give_back()
    assert world.two.guard.standing()[TOTAL].used == 1


def test_a_guard_that_was_closed_works_on() -> None:
    """It gives back its allotment, lets go of the store, and opens it again."""
    world = World()
    world.one.spend()
    held = world.one.reserve(3)
    world.one.guard.close()
    assert world.shelf.closed == 1
    row = world.two.guard.standing()[MATCHES]
    assert (row.used, row.reserved) == (1, 3)
    assert world.one.books.meters[MATCHES].idle == 0
    world.one.spend()
    world.provider.charge(3)
    held.settle({MATCHES: 3})
    world.one.guard.close()
    world.one.guard.close()
    assert world.two.guard.standing()[MATCHES].used == 5


def test_one_url_is_one_ledger(tmp_path: Path) -> None:
    """So guards of a process share an allotment; another clock or file is another ledger."""
    url, clock = f"sqlite://{tmp_path}/quota.db", FakeClock()
    one, two = (Guard(FullContact("key"), ledger=url) for _ in range(2))
    assert one._ledger is two._ledger
    assert one._spending.holder is two._spending.holder
    assert Guard(FullContact("key"), ledger=url, clock=clock)._ledger is not one._ledger
    other = Guard(FullContact("key"), ledger=f"{url}2")
    assert other._ledger is not one._ledger
    third = Guard(FullContact("key"), ledger=url, policy=Policy(margin=1))
    assert third._ledger is one._ledger
    assert third._spending.holder is not one._spending.holder


PROGRAM = """
import sys
from quotaguard import FullContact, Guard

guard = Guard(FullContact("test-key", base_url=sys.argv[1]), ledger=f"sqlite://{sys.argv[2]}")
for _ in range(3):
    with guard.reserve({"person.enrichment.matches": 1}) as reservation:
        reservation.settle()
guard.record({"person.enrichment.matches": 2})
"""


def test_an_interpreter_that_ends_tells_all_and_gives_back(tmp_path: Path) -> None:
    """Without close(): what it spent and recorded is in the books, and nothing is held."""
    file = tmp_path / "quota.db"
    with fake("fullcontact", quota=100, key="test-key") as vendor:
        command = [sys.executable, "-c", PROGRAM, vendor.url, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        with Guard(
            FullContact("test-key", base_url=vendor.url), ledger=f"sqlite://{file}"
        ) as guard:
            row = guard.standing()[MATCHES]
            assert (row.used, row.allotted, row.reserved) == (5, 0, 0)
