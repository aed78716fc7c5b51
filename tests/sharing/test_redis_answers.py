"""Answers of a Redis server that come late, or not, or are a refusal: all is counted once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest
from crews import (
    KEY,
    LEASE,
    MATCHES,
    PATH,
    POLICY,
    Crew,
    Hand,
    guarding,
    hired,
    until,
    vendor_of,
    wired,
)
from servers import Server, serving

from quotaguard import QuotaUnknown, Refusal
from quotaguard.clock import SystemClock
from quotaguard.ledgers import Ledger
from quotaguard.ledgers.redis import RedisLedger, RedisStore
from quotaguard.quota.readings import Moment
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.store import Seen, Turn

QUOTA = 400
DOWN = "LedgerUnavailable"


@contextmanager
def scene(
    server: Server, made: Callable[[str], Ledger] | None = None, url: str = ""
) -> Iterator[Crew]:
    """Let workers call over the books of a server."""
    made = made or (lambda where: RedisLedger(where, lease=LEASE))
    with vendor_of(QUOTA) as vendor:
        ledgers = [made(url or server.url) for _ in range(4)]
        with hired(vendor, ledgers) as crew:
            crew.start()
            yield crew


def passes(seconds: float) -> None:
    """Let time pass, in which calls go on."""
    threading.Event().wait(seconds)


@pytest.mark.parametrize("milliseconds", [300, 2500])
@pytest.mark.parametrize("kind", ["WRITE", "ALL"])
def test_a_server_that_pauses(kind: str, milliseconds: int, tmp_path: Path) -> None:
    """Shorter or longer than anybody waits for an answer: what was done then is not lost."""
    with serving(tmp_path / "redis") as server, scene(server) as crew:
        crew.reaches(QUOTA // 3)
        server.ask("CLIENT", "PAUSE", milliseconds, kind)
        crew.exact()


def test_scripts_that_are_forgotten(tmp_path: Path) -> None:
    """They are sent again, nobody notices."""
    with serving(tmp_path / "redis") as server, scene(server) as crew:
        for part in range(1, 8):
            crew.reaches(part * QUOTA // 8)
            server.ask("SCRIPT", "FLUSH")
        crew.exact()
        assert not crew.refused(DOWN)


def test_answers_that_are_lost(tmp_path: Path, seed: int) -> None:
    """A tenth of the requests, or of their answers: not a unit lost or counted twice."""
    with (
        serving(tmp_path / "redis") as server,
        wired(server) as (wire,),
        scene(server, url=wire.url) as crew,
    ):
        wire.lose(0.1, seed)
        crew.exact()


REFUSING: dict[str, tuple[Callable[[Server], object], Callable[[Server], object], str]] = {
    "READONLY": (
        lambda server: server.ask("REPLICAOF", "127.0.0.1", 1),
        lambda server: server.promote(),
        "name the primary",
    ),
    "OOM": (
        lambda server: server.ask("CONFIG", "SET", "maxmemory", "1"),
        lambda server: server.ask("CONFIG", "SET", "maxmemory", "0"),
        "Give it more",
    ),
    "NOAUTH": (
        lambda server: change_password(server),  # noqa: PLW0108 - it is below
        lambda server: change_password_back(server),  # noqa: PLW0108 - as above
        "user and password",
    ),
}


def change_password(server: Server) -> None:
    """Ask for a password from now on, also those who are connected."""
    with server.client() as client:
        client.config_set("requirepass", "new")
        client.client_kill_filter(_type="normal", skipme=True)


def change_password_back(server: Server) -> None:
    """Ask for none again."""
    with server.client(password="new") as client:
        client.config_set("requirepass", "")


@pytest.mark.parametrize("code", REFUSING)
def test_a_server_that_refuses(code: str, tmp_path: Path) -> None:
    """It is said what to do; when that is done all is exact."""
    spoil, mend, advice = REFUSING[code]
    with serving(tmp_path / "redis") as server, scene(server) as crew:
        crew.reaches(QUOTA // 3)
        spoil(server)
        try:
            until(lambda: all(hand.refused[DOWN] for hand in crew.hands), "it refuses", crew.told)
            told = [str(hand.last.__cause__) for hand in crew.hands if hand.last]
        finally:
            mend(server)
        assert any(advice in one for one in told), told
        crew.exact()


def test_a_server_that_is_still_loading(tmp_path: Path) -> None:
    """It is said so, and nothing has to be done."""
    with (
        serving(tmp_path / "redis") as server,
        wired(server, word=b"look") as (wire,),
        vendor_of(QUOTA) as vendor,
    ):
        hand = Hand(guarding(RedisLedger(wire.url, lease=LEASE), vendor.url), vendor.url)
        wire.faults.append(b"-LOADING Redis is loading the dataset in memory\r\n")
        assert not hand.call()
        assert isinstance(hand.last, QuotaUnknown)
        assert "It answers when it is done" in str(hand.last.__cause__)
        hand.spend(5)
        hand.close()
        assert vendor.true[MATCHES] == 5


# -- its clock ---------------------------------------------------------------------------


class Set(RedisStore):
    """A store whose server's clock is set, for all who use it."""

    def __init__(self, url: str, shift: list[float]) -> None:
        super().__init__(url)
        self._shift = shift

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Do as a store does, by a clock that was set."""
        return super().exchange(account, known, lambda seen: turn(self._set(seen)))

    def _set(self, seen: Seen) -> Seen:
        now, shift = seen.now, self._shift[0]
        return seen._replace(now=Moment(now.slow + shift, now.fast + shift, now.wall))


@pytest.mark.parametrize("jump", [2.0, -2.0, 3600.0])
def test_a_server_whose_clock_is_set(jump: float, tmp_path: Path) -> None:
    """Nothing overshoots, and everything comes back."""
    shift = [0.0]
    with serving(tmp_path / "redis") as server, scene(server, setting(shift)) as crew:
        crew.reaches(QUOTA // 3)
        shift[0] = jump
        crew.exact()


def test_a_server_whose_clock_goes_back_an_hour(tmp_path: Path) -> None:
    """Until that hour has come again units may stay away, none is spent twice."""
    shift = [0.0]
    with serving(tmp_path / "redis") as server, scene(server, setting(shift)) as crew:
        crew.reaches(QUOTA // 3)
        shift[0] = -3600.0
        until(lambda: crew.refused("QuotaExhausted") >= 50, "what can be seen is spent", crew.told)
        assert crew.true <= QUOTA
        shift[0] = 0.0
        crew.reaches(QUOTA - 5)  # a margin for what looked like others' haste fades over polls
        crew.stop()
        assert crew.true <= QUOTA


@pytest.mark.parametrize("jump", [2.0, 3600.0])
def test_a_newcomer_after_the_clock_was_set(jump: float, tmp_path: Path) -> None:
    """It has not seen that clock go; the wall tells it that so much time has not passed."""
    quota, lag, shift = 200, 2.0, [0.0]
    policy = POLICY.but(lag=1.2 * lag)
    with ExitStack() as open_:
        server = open_.enter_context(serving(tmp_path / "redis"))
        vendor = open_.enter_context(vendor_of(quota, lag=lag, visible="fixed"))
        made = setting(shift)
        vendor.spend(10)  # which the first reading does not show, the cold reserve covers it
        hands = [Hand(guarding(made(server.url), vendor.url, policy), vendor.url) for _ in range(2)]
        for hand in hands:
            open_.callback(hand.close)
        hands[0].spend(110)
        shift[0] = jump
        until(
            lambda: not (hands[1].call() or hands[0].call()) and vendor.true[MATCHES] >= quota,
            "all goes",
            lambda: hands[1].last,
        )
        assert vendor.true[MATCHES] == quota


def setting(shift: list[float]) -> Callable[[str], Ledger]:
    """Return what makes ledgers whose server's clock goes by *shift* wrong."""
    return lambda url: SharedLedger(Set(url, shift), lease=LEASE)


class Ahead(SystemClock):
    """The clock of a host that is ahead of others."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        slow, fast = self.slow, self.fast
        self.slow = lambda: slow() + seconds
        self.fast = lambda: fast() + seconds
        self._ahead = seconds

    def now(self) -> Moment:
        """Return one reading of all three clocks."""
        return Moment(self.slow(), self.fast(), time.time() + self._ahead)


def test_hosts_whose_clocks_differ(tmp_path: Path) -> None:
    """Two seconds apart, and it changes nothing."""
    ahead = iter((0.0, 2.0, -2.0, 2.0))

    def made(url: str) -> Ledger:
        return RedisLedger(url, lease=LEASE, clock=Ahead(next(ahead)))

    with serving(tmp_path / "redis") as server, scene(server, made) as crew:
        crew.exact()
        assert not crew.refused("QuotaUnknown")


# -- event loops -------------------------------------------------------------------------


async def test_event_loops_go_on(tmp_path: Path, anyio_backend_name: str) -> None:
    """A server that hangs holds up who asks it, and nothing else in the loop."""
    longest = 0.0

    async def ticks() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            with anyio.move_on_after(0.005):
                await anyio.Event().wait()
            longest = max(longest, time.monotonic() - began)

    with ExitStack() as open_:
        server = open_.enter_context(serving(tmp_path / "redis"))
        vendor = open_.enter_context(vendor_of(QUOTA))
        guard = open_.enter_context(guarding(RedisLedger(server.url, lease=LEASE), vendor.url))
        headers = {"Authorization": f"Bearer {KEY}"}
        async with guard.async_client(base_url=vendor.url, headers=headers) as client:

            async def call() -> bool:
                try:
                    person = {"email": "a@example.com"}
                    await client.post(
                        PATH, json=person, extensions={"quotaguard": {"priority": "critical"}}
                    )
                except Refusal as refusal:
                    return bool(refusal.__cause__)
                return False

            await call()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ticks)
                server.freeze()
                try:
                    with anyio.fail_after(20):
                        while not await call():
                            pass
                finally:
                    server.thaw()
                tasks.cancel_scope.cancel()
    # Whoever waited for the server waited for its timeout, a second.
    assert longest < 0.8
