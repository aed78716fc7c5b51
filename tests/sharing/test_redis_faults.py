"""What becomes of a Redis server, and of its books: never a unit too many, and none lost.

Workers go on calling through all of it; what was really spent their provider knows. It
shows a charge late, and would bill what is above the quota.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import redis
from crews import (
    LEASE,
    MATCHES,
    POLICY,
    Crew,
    Hand,
    Remote,
    guarding,
    hired,
    until,
    vendor_of,
    wired,
)
from servers import Server, serving

from quotaguard import Policy, QuotaUnknown, WaitTooLong
from quotaguard.ledgers import Ledger
from quotaguard.ledgers.redis import RedisLedger, RedisStore
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.store import Turn

QUOTA = 500
DOWN = "LedgerUnavailable"


@contextmanager
def scene(
    url: str, quota: int = QUOTA, workers: int = 4, policy: Policy = POLICY, *, begins: bool = True
) -> Iterator[Crew]:
    """Let workers call at a provider with a quota, over the books at *url*."""
    with vendor_of(quota) as vendor:
        ledgers: list[Ledger] = [RedisLedger(url, lease=LEASE) for _ in range(workers)]
        with hired(vendor, ledgers, policy) as crew:
            if begins:
                crew.start()
            yield crew


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
        crew.agrees()


# -- those who hold something die with what the server knew of it --------------------------


class Credulous(RedisStore):
    """A store that believes whoever answers: nothing tells it that writes were lost."""

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Do as a store does, and say nothing of whose replication this is."""
        return super().exchange(account, known, lambda seen: turn(seen._replace(era="")))


def credulous(url: str) -> SharedLedger:
    """Return a ledger over such a store."""
    return SharedLedger(Credulous(url), lease=LEASE)


def losing_writes(
    tmp_path: Path,
    made: Callable[[str], Ledger],
    policy: Policy = POLICY,
    *,
    told: int = 0,
    back: bool = False,
    newcomer: bool = False,
) -> tuple[int, int]:
    """Let a worker spend, and die with what a server knew of it; return true and quota.

    A replica takes over that has not heard of that; with *back* it is the replica that has,
    and the first server comes back as it was. The provider shows that spend seconds later.
    told: units that a survivor spends, of which the replica has not heard either.
    newcomer: whoever spends then was not there before.
    """
    quota, lag = 200, 2.0
    policy = policy.but(lag=1.2 * lag)
    with ExitStack() as open_:
        vendor = open_.enter_context(vendor_of(quota, lag=lag, visible="fixed"))
        first = open_.enter_context(serving(tmp_path / "first"))
        second = open_.enter_context(serving(tmp_path / "second"))
        second.replica_of(first)
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
        if back:
            wire.lead_to(second)
            hand.spend(20)
        hand.spend(told)
        dying.spend(130)
        dying.kill()
        if newcomer:
            hand.close()
            hand = Hand(guarding(made(wire.url), vendor.url, policy), vendor.url)
            open_.callback(hand.close)
        wire.lead_to(first if back else second)
        until(lambda: hand.call() or vendor.true[MATCHES] >= quota, "more goes", lambda: hand.last)
        until(lambda: not hand.call() and vendor.true[MATCHES] >= quota, "all goes")
        return vendor.true[MATCHES], quota


def real(url: str) -> RedisLedger:
    """Return a ledger as users have it."""
    return RedisLedger(url, lease=LEASE)


@pytest.mark.parametrize("newcomer", [False, True], ids=["survivor", "newcomer"])
@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
def test_a_replica_that_lost_the_last_writes(
    exclusive: bool, newcomer: bool, tmp_path: Path
) -> None:
    """Whose replication it is has changed: nothing goes until what was lost must show."""
    policy = POLICY.but(exclusive=exclusive)
    true, quota = losing_writes(tmp_path, real, policy, newcomer=newcomer)
    assert true == quota


def test_believing_such_a_replica_overshoots(tmp_path: Path) -> None:
    """So the test above would see it."""
    true, quota = losing_writes(tmp_path, credulous, newcomer=True)
    assert true > quota


def test_a_survivor_knows_what_it_told(tmp_path: Path) -> None:
    """Also where the user may not run INFO: books that know less of it have lost that."""
    true, quota = losing_writes(tmp_path, credulous, told=30)
    assert true == quota


def test_back_to_a_server_that_missed_everything(tmp_path: Path) -> None:
    """Its books say nothing of having lost anything; those who were elsewhere know."""
    true, quota = losing_writes(tmp_path, real, back=True)
    assert true == quota


def test_failing_over_and_back(tmp_path: Path) -> None:
    """All is counted once, there and back."""
    with ExitStack() as open_:
        first = open_.enter_context(serving(tmp_path / "first"))
        second = open_.enter_context(serving(tmp_path / "second"))
        second.replica_of(first)
        (wire,) = open_.enter_context(wired(first))
        crew = open_.enter_context(scene(wire.url))
        crew.reaches(QUOTA // 4)
        for old, new in ((first, second), (second, first)):
            new.replica_of(old)
            new.promote()
            wire.lead_to(new)
            crew.reaches(crew.true + QUOTA // 8)
        crew.exact()


LOST: dict[str, Callable[[Server], object]] = {
    "FLUSHALL": lambda server: server.ask("FLUSHALL"),
    "DEL": lambda server: server.ask("DEL", *server.ask("KEYS", "qg:*")),
    "evicted": lambda server: evict(server),  # noqa: PLW0108 - it is below
    "restarted": lambda server: server.restart(empty=True),
}


def evict(server: Server) -> None:
    """Let it throw away what it has, and give it memory again."""
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    server.ask("CONFIG", "SET", "maxmemory", "1")
    with suppress(redis.ResponseError):
        server.ask("SET", "more", "x" * 1000)
    until(lambda: not server.ask("KEYS", "qg:*"), "the books are thrown away")
    server.ask("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize("lost", LOST)
def test_books_that_are_lost_with_their_holders(lost: str, tmp_path: Path) -> None:
    """What the dead held may have been spent to the last unit; the living tell theirs again."""
    with serving(tmp_path / "redis") as server, scene(server.url, workers=2, begins=False) as crew:
        dying = [Remote(server.url, crew.vendor) for _ in range(2)]
        try:
            for one in dying:
                one.ready()
            for one in (crew, *dying):
                one.start()
            crew.reaches(QUOTA // 2)
            for one in dying:
                one.kill()
            LOST[lost](server)
            # More than there is room for now would be the unseen spend of the dead.
            crew.exact()
        finally:
            for one in dying:
                one.kill()


def test_for_how_long_nothing_goes(tmp_path: Path) -> None:
    """The lease, the lag and two seconds; then a poll is made first."""
    with serving(tmp_path / "redis") as server, vendor_of(QUOTA) as vendor:
        hand = Hand(guarding(RedisLedger(server.url, lease=LEASE), vendor.url), vendor.url)
        try:
            hand.spend(20)
            server.ask("FLUSHALL")
            until(lambda: not hand.call(), "it is seen", lambda: hand.last)
            assert isinstance(hand.last, WaitTooLong)
            began, polls = time.monotonic(), vendor.polls
            held = LEASE + float(POLICY.lag) + 2.0  # type: ignore[arg-type] # seconds
            assert hand.last.retry_after == pytest.approx(held, abs=0.3)
            until(hand.call, "more goes", lambda: hand.last)
            assert time.monotonic() - began >= held - 0.3
            assert vendor.polls > polls
        finally:
            hand.close()
