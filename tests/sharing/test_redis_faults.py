"""What becomes of a Redis server, and of its books: never a unit too many, and none lost.

Workers go on calling through all of it; what was really spent their provider knows. It
shows a charge late, and would bill what is above the quota.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from crews import KEY, LEASE, MATCHES, POLICY, Crew, Hand, Remote, guarding, hired, until, wired
from servers import serving

from quotaguard import Policy, QuotaUnknown
from quotaguard.ledgers import Ledger
from quotaguard.ledgers.redis import RedisLedger, RedisStore
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.store import Turn
from quotaguard.testing import fake
from quotaguard.testing.fullcontact import FakeFullContact

QUOTA = 500
DOWN = "LedgerUnavailable"


@contextmanager
def scene(
    url: str, quota: int = QUOTA, workers: int = 4, policy: Policy = POLICY, **knobs: Any
) -> Iterator[Crew]:
    """Let workers call at a provider with a quota, over the books at *url*."""
    with vendor_of(quota, **knobs) as vendor:
        ledgers: list[Ledger] = [RedisLedger(url, lease=LEASE) for _ in range(workers)]
        with hired(vendor, ledgers, policy) as crew:
            yield crew


@contextmanager
def vendor_of(quota: int, **knobs: Any) -> Iterator[FakeFullContact]:
    """Run a provider that bills what is above its quota."""
    told = {"lag": 0.3, "visible": "random", "overage": True, "match_rate": 1.0, "key": KEY}
    with fake("fullcontact", quota=quota, **told | knobs) as vendor:
        assert isinstance(vendor, FakeFullContact)
        yield vendor


# -- the server dies -----------------------------------------------------------------


@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "without data"])
def test_a_server_that_is_killed_and_comes_back(empty: bool, tmp_path: Path) -> None:
    """All is counted once, whatever it still knows."""
    with serving(tmp_path / "redis", keeps=True) as server, scene(server.url) as crew:
        crew.reaches(QUOTA // 2)
        server.restart(empty=empty)
        crew.exact()


def test_a_server_that_stays_away(tmp_path: Path) -> None:
    """Lanes in hand go on until their lease ends; then nothing goes until it is back."""
    with serving(tmp_path / "redis", keeps=True) as server, scene(server.url) as crew:
        crew.reaches(QUOTA // 2)
        server.kill()
        without(crew, 1)
        left = crew.true
        without(crew, 50)
        assert crew.true <= left + len(crew.hands)
        last = crew.hands[0].last
        assert isinstance(last, QuotaUnknown)
        assert "Is it running?" in str(last.__cause__)
        server.start()
        crew.exact()


def without(crew: Crew, calls: int) -> None:
    """Wait until every worker was refused so many more calls because its ledger is away."""
    before = [hand.refused[DOWN] for hand in crew.hands]

    def refused() -> bool:
        now = [hand.refused[DOWN] for hand in crew.hands]
        return all(one >= then + calls for one, then in zip(now, before, strict=True))

    until(refused, "the ledger is missed", crew.told)


@pytest.mark.parametrize("choice", ["share", "open"])
def test_going_on_without_a_server(choice: str, tmp_path: Path) -> None:
    """A share of what was left, or all that comes, is spent meanwhile, and told afterwards."""
    policy = POLICY.but(on_ledger_down=choice)
    quota = 400
    with (
        serving(tmp_path / "redis", keeps=True) as server,
        scene(server.url, quota, policy=policy) as crew,
    ):
        crew.reaches(100)
        server.kill()
        if choice == "open":
            crew.reaches(quota + 50)
        else:
            without(crew, 20)
            assert crew.true <= quota
        server.start()
        if choice == "share":
            crew.exact()
            return
        until(lambda: crew.refused("QuotaExhausted") >= 20, "it is seen that all is spent")
        crew.stop()
        row = crew.hands[0].guard.refresh()[MATCHES]
        assert (row.used, row.reserved) == (crew.true, 0)


# -- those who hold something die with what the server knew of it --------------------------


class Credulous(RedisStore):
    """A store that believes whoever answers: nothing tells it that writes were lost."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Do as a store does, and say nothing of whose replication this is."""
        return super().exchange(account, known, lambda seen: turn(seen._replace(era="")))


def credulous(url: str) -> SharedLedger:
    """Return a ledger over such a store."""
    return SharedLedger(Credulous(url), lease=LEASE)


def losing_writes(tmp_path: Path, made: Callable[[str], Ledger], policy: Policy) -> tuple[int, int]:
    """Promote a replica that has not heard of a worker's spend, which dies; return true, quota.

    The provider shows that spend only seconds later.
    """
    quota, lag = 200, 2.0
    policy = policy.but(lag=1.2 * lag)
    with ExitStack() as open_:
        vendor = open_.enter_context(vendor_of(quota, lag=lag, visible="fixed"))
        first = open_.enter_context(serving(tmp_path / "first"))
        second = open_.enter_context(serving(tmp_path / "second"))
        (wire,) = open_.enter_context(wired(first))
        dying = Remote(wire.url, vendor, policy=policy)
        open_.callback(dying.kill)
        hand = Hand(guarding(made(wire.url), vendor.url, policy), vendor.url)
        open_.callback(hand.close)
        dying.ready()
        hand.spend(5)
        dying.spend(5)
        second.replica_of(first)
        second.promote()
        dying.spend(150)
        dying.kill()
        wire.lead_to(second)
        hand.drain(20)
        over = vendor.true[MATCHES]
        until(lambda: hand.call() or vendor.true[MATCHES] >= quota, "more goes", lambda: hand.last)
        until(lambda: not hand.call() and vendor.true[MATCHES] >= quota, "all goes")
        return max(over, vendor.true[MATCHES]), quota


@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
def test_a_replica_that_lost_the_last_writes(exclusive: bool, tmp_path: Path) -> None:
    """Whose replication it is has changed: nothing goes until what was lost must show."""
    policy = POLICY.but(exclusive=exclusive)
    true, quota = losing_writes(tmp_path, lambda url: RedisLedger(url, lease=LEASE), policy)
    assert true == quota


def test_believing_such_a_replica_overshoots(tmp_path: Path) -> None:
    """So the test above would see it."""
    true, quota = losing_writes(tmp_path, credulous, POLICY)
    assert true > quota
