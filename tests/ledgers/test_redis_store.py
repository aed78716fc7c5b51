"""The Redis store against real servers: swaps, lost answers, failovers, and who may not."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.cluster
import redis.sentinel
import servers
import trustme
import valkey
from servers import Server, between, serving
from wires import closed_port, full_port

from quotaguard import ConfigError
from quotaguard.clock import SystemClock
from quotaguard.errors import LedgerUnavailable
from quotaguard.ledgers.redis import RedisStore
from quotaguard.quota.readings import Moment
from quotaguard.sharing.store import Draft, Seen, Turn

ACCOUNT = "0b5c"
KEY = "qg:{0b5c}"
SECRET = "canary-pw-7f1e"
ROOT = Path(__file__).parents[2]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

names = (f"t{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one server for all the tests that do it no harm."""
    with serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    """Return the server, empty."""
    running.ask("FLUSHALL")
    return running


@contextmanager
def store_at(where: object, clock: SystemClock | None = None) -> Iterator[RedisStore]:
    """Give a store, and close it."""
    with closing(RedisStore(where, clock)) as store:
        yield store


def writing(text: str, told: list[Seen] | None = None) -> Turn:
    """Return a turn that writes *text* whatever is there."""

    def turn(seen: Seen) -> Draft:
        if told is not None:
            told.append(seen)
        return Draft(next(names), text)

    return turn


def look(store: RedisStore, known: str = "") -> Seen:
    """Return what the store has."""
    told: list[Seen] = []

    def turn(seen: Seen) -> None:
        told.append(seen)

    version = store.exchange(ACCOUNT, known, turn)
    assert version == told[-1].version
    return told[-1]


def write(store: RedisStore, text: str, known: str = "") -> str:
    """Write *text* and return its version."""
    return store.exchange(ACCOUNT, known, writing(text))


def fault_of(act: Callable[[], object]) -> LedgerUnavailable:
    """Return the fault that *act* raises; it never tells the password."""
    with pytest.raises(LedgerUnavailable) as caught:
        act()
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.store}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def calls(server: Server) -> int:
    """Return how many scripts were run since the last CONFIG RESETSTAT."""
    with closing(server.client()) as client:
        stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


# -- swaps ------------------------------------------------------------------------


def test_nothing_is_there_and_then_what_was_written(server: Server) -> None:
    """The first look sees no record; the version that is returned is the draft's."""
    with store_at(server.url) as store:
        assert (look(store).version, look(store).text) == ("", None)
        version = write(store, "Grüße ☃\n\x00")
        assert look(store)[:2] == (version, "Grüße ☃\n\x00")
        assert server.ask("HGET", KEY, "v") == version.encode()


def test_who_knows_the_text_is_not_sent_it(server: Server) -> None:
    """A look with the version that is there sees no text, and one round trip is enough."""
    with store_at(server.url) as store:
        version = write(store, "one")
        assert look(store, version)[:2] == (version, None)
        other = write(store, "two", version)
        assert look(store, version)[:2] == (other, "two")


def test_without_rivals_an_exchange_is_one_round_trip(server: Server) -> None:
    """Whoever knows what is there asks once."""
    with store_at(server.url) as store, between(server) as wire, store_at(wire.url) as ours:
        version = write(ours, "0")
        server.ask("CONFIG", "RESETSTAT")
        before = len(wire.requests)
        for number in range(20):
            version = write(ours, str(number), version)
        assert (calls(server), len(wire.requests) - before) == (20, 20)
        assert look(store)[:2] == (version, "19")


def test_whoever_was_slower_is_shown_what_is_there(server: Server) -> None:
    """A swap that another one was faster than is made again upon that one's text."""
    with store_at(server.url) as store, store_at(server.url) as other:
        version = write(store, "old")
        theirs = write(other, "theirs")
        told: list[Seen] = []
        ours = store.exchange(ACCOUNT, version, writing("ours", told))
        assert [(seen.version, seen.text) for seen in told] == [(version, None), (theirs, "theirs")]
        assert look(other)[:2] == (ours, "ours")


def test_a_conflict_may_end_in_a_look(server: Server) -> None:
    """A turn that has nothing to write any more ends the exchange with what it saw."""
    with store_at(server.url) as store, store_at(server.url) as other:
        version = write(store, "old")
        theirs = write(other, "theirs")

        def turn(seen: Seen) -> Draft | None:
            return Draft(next(names), "ours") if seen.version == version else None

        assert store.exchange(ACCOUNT, version, turn) == theirs


def test_a_record_that_is_gone_is_a_conflict(server: Server) -> None:
    """FLUSHALL and eviction show as no record where one was known."""
    with store_at(server.url) as store:
        version = write(store, "old")
        server.ask("FLUSHALL")
        told: list[Seen] = []
        store.exchange(ACCOUNT, version, writing("new", told))
        assert [(seen.version, seen.text) for seen in told] == [(version, None), ("", None)]


def test_accounts_do_not_know_each_other(server: Server) -> None:
    """Each account has its own key, in a slot of its own."""
    with store_at(server.url) as store:
        store.exchange("a", "", writing("of a"))
        store.exchange("b", "", writing("of b"))
        assert sorted(server.ask("KEYS", "*")) == [b"qg:{a}", b"qg:{b}"]


def test_a_text_of_a_megabyte(server: Server) -> None:
    """Size does not matter, within reason."""
    with store_at(server.url) as store:
        version = write(store, "x" * (1 << 20))
        assert len(look(store).text or "") == 1 << 20
        assert look(store, version).text is None


COUNTING = """
import sys
from quotaguard.ledgers.redis import RedisStore
from quotaguard.sharing.store import Draft
url, name, times = sys.argv[1:]
store, kept = RedisStore(url), {"": "0"}
def turn(seen):
    kept.setdefault(seen.version, seen.text)
    draft = Draft(f"{name}-{len(kept)}", str(int(kept[seen.version]) + 1))
    kept[draft.version] = draft.text
    return draft
version = ""
for _ in range(int(times)):
    version = store.exchange("0b5c", version, turn)
"""


def test_processes_count_together(server: Server) -> None:
    """Four processes add a thousand times each, and none of it is lost or counted twice."""
    command = [sys.executable, "-c", COUNTING, server.url]
    running = [subprocess.Popen([*command, f"p{number}", "1000"], cwd=ROOT) for number in range(4)]
    assert [process.wait(50) for process in running] == [0] * 4
    with store_at(server.url) as store:
        assert look(store).text == "4000"


def test_threads_count_together(server: Server) -> None:
    """Eight stores in eight threads, and every exchange begins with a look."""

    def count() -> None:
        with store_at(server.url) as store:
            for _ in range(50):
                store.exchange(ACCOUNT, "", add_one)

    def add_one(seen: Seen) -> Draft:
        return Draft(next(names), str(int(seen.text or 0) + 1))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with store_at(server.url) as store:
        assert look(store).text == "400"


def test_others_who_are_always_faster_are_an_outage_in_the_end(server: Server) -> None:
    """An exchange that never gets its turn ends after some seconds, with nothing written."""
    clock = Shifted()
    with store_at(server.url, clock) as store, store_at(server.url) as other:

        def turn(seen: Seen) -> Draft:
            write(other, "theirs")
            clock.ahead += 0.5
            return Draft(next(names), "ours")

        fault = fault_of(lambda: store.exchange(ACCOUNT, "", turn))
        assert "faster" in str(fault)
        assert not fault.unsure
        assert look(other).text == "theirs"


def test_whoever_was_slower_is_next(server: Server) -> None:
    """A store that lost twice claims the next turn, and gives it up with what it writes."""
    with store_at(server.url) as store, store_at(server.url) as other:
        claims: list[bytes] = []

        def turn(seen: Seen) -> Draft:
            claims.append(server.ask("HGET", KEY, "c") or b"")
            if len(claims) < 3:
                write(other, "theirs")
            return Draft(next(names), "ours")

        store.exchange(ACCOUNT, "", turn)
        assert [bool(claim) for claim in claims] == [False, False, True]
        assert server.ask("HGET", KEY, "c") == b""


def test_nobody_is_served_whose_turn_it_is_not(server: Server) -> None:
    """One who comes in between waits, though nothing was written; a claim ends soon."""

    def asked_again(store: RedisStore) -> bool:
        seconds, micros = server.ask("TIME")
        server.ask("HSET", KEY, "c", "somebody", "u", seconds * 1000 + micros // 1000 + 19)
        told: list[Seen] = []
        written = store.exchange(ACCOUNT, "", writing("ours", told))
        assert {seen.version for seen in told} <= {told[0].version}
        assert look(store).version == written
        return len(told) > 1

    with store_at(server.url) as store:
        # A busy machine may take longer than the claim.
        assert any(asked_again(store) for _ in range(100))


def test_a_claim_of_tomorrow_is_none(server: Server) -> None:
    """The server's clock was set back: nobody waits for that."""
    with store_at(server.url) as store:
        server.ask("HSET", KEY, "c", "somebody", "u", 10**14)
        told: list[Seen] = []
        store.exchange(ACCOUNT, "", writing("ours", told))
        assert len(told) == 1


def test_a_record_that_is_not_ours(server: Server) -> None:
    """Whatever it is, it is shown as text: what reads it will say so."""
    server.ask("HSET", KEY, "v", b"\xff", "b", b"\xfe")
    with store_at(server.url) as store:
        assert look(store)[:2] == ("\ufffd", "\ufffd")


# -- scripts, clocks, eras --------------------------------------------------------


def test_a_script_that_was_flushed_is_sent_again(server: Server) -> None:
    """SCRIPT FLUSH costs one round trip more."""
    with store_at(server.url) as store:
        version = write(store, "one")
        server.ask("SCRIPT", "FLUSH")
        server.ask("CONFIG", "RESETSTAT")
        version = write(store, "two", version)
        assert calls(server) == 2
        write(store, "three", version)
        assert calls(server) == 3


class Shifted(SystemClock):
    """A clock that is set as one likes."""

    def __init__(self, ahead: float = 0.0) -> None:
        super().__init__()
        self.ahead = ahead
        told = self.fast
        self.fast = lambda: told() + self.ahead

    def now(self) -> Moment:
        moment = super().now()
        return moment._replace(wall=moment.wall + self.ahead)


@pytest.mark.parametrize("ahead", [-2.0, 0.0, 2.0])
def test_the_servers_time_is_between_the_bounds(server: Server, ahead: float) -> None:
    """Whatever the clocks of this host say, and whether the server was asked or not."""
    with store_at(server.url, Shifted(ahead)) as store, closing(server.client()) as client:
        times: list[float] = []
        told: list[Seen] = []

        def note() -> None:
            seconds, micros = client.time()
            times.append(seconds + micros / 1e6)

        def turn(seen: Seen) -> Draft:
            told.append(seen)
            note()
            return Draft(next(names), "x")

        version = write(store, "0")
        for _ in range(200):
            note()
            version = store.exchange(ACCOUNT, version, turn)
        for seen, before, after in zip(told, times[::2], times[1::2], strict=True):
            assert seen.now.slow <= after
            assert seen.now.fast >= before
            assert seen.now.fast - seen.now.slow < 1


def test_a_server_that_was_not_heard_of_for_long_is_asked_first(server: Server) -> None:
    """Its clock may have been set, and ours may not go as it does."""
    clock = Shifted()
    with store_at(server.url, clock) as store:
        version = write(store, "0")
        clock.ahead += 61
        server.ask("CONFIG", "RESETSTAT")
        write(store, "1", version)
        assert calls(server) == 2


def test_a_host_that_was_suspended_in_between(server: Server) -> None:
    """An answer that is an hour old is an answer, and its bounds are wide."""

    class Sleepy(Shifted):
        def now(self) -> Moment:
            self.ahead += 3600
            return super().now()

    with store_at(server.url, Sleepy()) as store:
        seen = look(store)
        assert seen.now.fast - seen.now.slow > 3600 * 1e-3


def test_a_restart_is_another_era(tmp_path: Path) -> None:
    """With its data or without: nothing is written before the turn was told."""
    with serving(tmp_path, keeps=True) as server, store_at(server.url) as store:
        version = write(store, "old")
        era = look(store).era
        for empty in (False, True):
            server.restart(empty=empty)
            told: list[Seen] = []
            written = store.exchange(ACCOUNT, version, writing("new", told))
            assert [seen.version for seen in told] == [version, "" if empty else version]
            assert told[0].era == era != told[1].era
            assert told[1].text is None
            version, era = written, told[1].era
            assert look(store)[:2] == (version, "new")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Run two servers that do not know each other yet."""
    with serving(tmp_path / "a") as first, serving(tmp_path / "b") as second:
        yield first, second


def test_a_promoted_replica_is_another_era(pair: tuple[Server, Server]) -> None:
    """It has what the primary had, and is told apart; before that it is not even read."""
    first, second = pair
    with store_at(first.url) as store, store_at(second.url) as other:
        version = write(store, "old")
        second.replica_of(first)
        fault = fault_of(lambda: look(other))
        assert "replica" in str(fault)
        assert not fault.unsure
        second.promote()
        seen = look(other)
        assert seen[:2] == (version, "old")
        assert seen.era != look(store).era


def test_a_primary_that_became_a_replica_is_left(pair: tuple[Server, Server]) -> None:
    """Its connection is given up, so that a name or proxy may lead to the new one."""
    first, second = pair
    with store_at(second.url) as store, closing(second.client()) as asking:
        version = write(store, "old")
        second.replica_of(first)
        fault = fault_of(lambda: write(store, "new", version))
        assert "replica" in str(fault)
        assert not fault.unsure
        assert len(asking.client_list("normal")) == 1
        second.promote()
        write(store, "new", version)


# -- answers that do not come -----------------------------------------------------


@pytest.mark.parametrize("fault", ["lose", "hold"])
def test_a_lost_answer_is_found_written(server: Server, fault: str) -> None:
    """The server did it, and only the answer was lost: it is done once."""
    with between(server) as wire, store_at(f"{wire.url}?socket_timeout=0.3") as store:
        version = write(store, "0")
        wire.faults.append(fault)
        told: list[Seen] = []
        written = store.exchange(ACCOUNT, version, writing("1", told))
        assert len(told) == 1
        assert look(store)[:2] == (written, "1")


def test_a_lost_request_is_made_again(server: Server) -> None:
    """The server never saw it."""
    with between(server) as wire, store_at(wire.url) as store:
        version = write(store, "0")
        wire.faults.append("swallow")
        told: list[Seen] = []
        written = store.exchange(ACCOUNT, version, writing("1", told))
        assert [seen.version for seen in told] == [version, version]
        assert look(store)[:2] == (written, "1")


def test_two_lost_requests_are_an_outage(server: Server) -> None:
    """It is not tried for ever."""
    with between(server) as wire, store_at(wire.url) as store:
        version = write(store, "0")
        wire.faults += ["swallow", "swallow"]
        assert fault_of(lambda: write(store, "1", version)).unsure
        assert look(store).text == "0"


def test_a_server_that_dies_with_the_answer_leaves_it_unsure(tmp_path: Path) -> None:
    """It may have been written, and that is said; with an AOF it was."""
    with (
        serving(tmp_path, keeps=True) as server,
        between(server) as wire,
        store_at(wire.url) as store,
    ):
        version = write(store, "0")
        wire.faults.append("lose")
        wire.meanwhile = server.kill
        fault = fault_of(lambda: write(store, "1", version))
        assert fault.unsure
        server.start()
        assert look(store).text == "1"


def test_a_server_that_is_paused(tmp_path: Path) -> None:
    """Nobody knows what it will do when it goes on: it drops what we gave up."""
    with serving(tmp_path) as server, store_at(f"{server.url}?socket_timeout=0.2") as store:
        version = write(store, "0")
        server.ask("CLIENT", "PAUSE", 60_000, "WRITE")
        assert fault_of(lambda: write(store, "1", version)).unsure
        assert not fault_of(lambda: look(store)).unsure
        server.ask("CLIENT", "UNPAUSE")
        assert look(store)[:2] == (version, "0")


def test_a_server_that_is_frozen(tmp_path: Path) -> None:
    """What was on the wire is carried out later, so that it is unsure."""
    with serving(tmp_path) as server, store_at(f"{server.url}?socket_timeout=0.2") as store:
        version = write(store, "0")
        server.freeze()
        fault = fault_of(lambda: write(store, "1", version))
        server.thaw()
        assert fault.unsure
        assert look(store).text in {"0", "1"}


def test_a_server_that_is_not_there() -> None:
    """Nothing was sent, and that is sure."""
    with store_at(f"redis://u:{SECRET}@127.0.0.1:{closed_port()}/0") as store:
        fault = fault_of(lambda: write(store, "1"))
        assert "Connection refused" in str(fault)
        assert fault.store == store.name
        assert not fault.unsure


def test_a_server_that_went_away_before_anything_was_sent(tmp_path: Path) -> None:
    """The same, where there had been one."""
    with serving(tmp_path) as server, store_at(server.url) as store:
        version = write(store, "0")
        server.kill()
        fault = fault_of(lambda: write(store, "1", version))
        assert not fault.unsure


def test_a_server_that_does_not_accept() -> None:
    """Connecting is bounded."""
    with full_port() as origin:
        port = origin.rpartition(":")[2]
        with store_at(f"redis://127.0.0.1:{port}?socket_connect_timeout=0.1") as store:
            fault = fault_of(lambda: write(store, "1"))
            assert "cannot be reached" in str(fault)
            assert not fault.unsure


def test_a_name_that_nobody_has() -> None:
    """The host's name is told, as it is in the URL."""
    with store_at("redis://nowhere.invalid:6379/0") as store:
        assert "nowhere.invalid" in str(fault_of(lambda: look(store)))


# -- servers that say no ----------------------------------------------------------


def test_a_key_of_another_kind(server: Server) -> None:
    """Somebody else's key is left as it is."""
    server.ask("SET", KEY, "theirs")
    with store_at(server.url) as store:
        fault = fault_of(lambda: write(store, "1"))
        assert "somebody else's" in str(fault)
        assert server.ask("GET", KEY) == b"theirs"


def test_a_server_without_memory(tmp_path: Path) -> None:
    """It is told what to do, and that nothing was written."""
    with serving(tmp_path) as server, store_at(server.url) as store:
        version = write(store, "0")
        server.ask("CONFIG", "SET", "maxmemory", 1)
        fault = fault_of(lambda: write(store, "1", version))
        assert "memory" in str(fault)
        assert not fault.unsure


def test_a_server_without_its_replicas(tmp_path: Path) -> None:
    """It takes no writes before they are there."""
    options = ["--min-replicas-to-write", "1"]
    with serving(tmp_path, options) as server, store_at(server.url) as store:
        assert "replicas" in str(fault_of(lambda: write(store, "1")))


def test_a_user_with_few_rights(tmp_path: Path) -> None:
    """The least that a user needs is what the fault says; wrong passwords are told."""
    rights = ["~qg:*", "+eval", "+evalsha", "+hmget", "+hset", "+time", "+info"]
    user = ["--user", "app", "on", f">{SECRET}", *rights]
    with serving(tmp_path, user) as server:
        place = f"127.0.0.1:{server.port}/0"
        with store_at(f"redis://app:{SECRET}@{place}") as store:
            version = write(store, "1")
            assert look(store)[:2] == (version, "1")
            assert store.warnings == []
            assert SECRET not in f"{store.name} {store!r}"
        with store_at(f"redis://app:{SECRET}x@{place}") as store:
            assert "user and password" in str(fault_of(lambda: look(store)))
        server.ask("ACL", "SETUSER", "app", "-hset")
        with store_at(f"redis://app:{SECRET}@{place}") as store:
            assert "may not" in str(fault_of(lambda: write(store, "2")))
        server.ask("ACL", "SETUSER", "app", "+hset", "-eval", "-evalsha")
        with store_at(f"redis://app:{SECRET}@{place}") as store:
            assert "may not" in str(fault_of(lambda: write(store, "2")))


def test_a_user_who_may_not_ask_who_the_server_is(tmp_path: Path) -> None:
    """Then the era is unknown, and that is said once."""
    user = ["--user", "app", "on", f">{SECRET}", "~qg:*", "+@all", "-info"]
    with (
        serving(tmp_path, user) as server,
        store_at(f"redis://app:{SECRET}@127.0.0.1:{server.port}/0") as store,
    ):
        version = write(store, "1")
        write(store, "2", version)
        assert look(store).era == ""
        assert [True] == ["INFO" in warning for warning in store.warnings]


def test_a_server_that_evicts(tmp_path: Path) -> None:
    """It is warned of once, with what to do."""
    options = ["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]
    with serving(tmp_path, options) as server, store_at(server.url) as store:
        write(store, "1")
        look(store)
        [warning] = store.warnings
        assert "allkeys-lru" in warning
        assert "noeviction" in warning


def test_a_server_that_wants_a_password(tmp_path: Path) -> None:
    """NOAUTH is told as what it is."""
    with serving(tmp_path, ["--requirepass", SECRET]) as server:
        with store_at(server.url) as store:
            assert "user and password" in str(fault_of(lambda: look(store)))
        with store_at(f"redis://:{SECRET}@127.0.0.1:{server.port}/0") as store:
            write(store, "1")


ANSWERS = {
    "-LOADING Redis is loading the dataset in memory": "loading",
    "-MASTERDOWN Link with MASTER is down": "lost its primary",
    "-CLUSTERDOWN The cluster is down": "cluster is down",
    "-MOVED 42 127.0.0.1:1": "RedisCluster",
    "-ASK 42 127.0.0.1:1": "moving",
    "-TRYAGAIN Multiple keys request during rehashing of slot": "moving",
    "-OOM command not allowed when used memory > 'maxmemory'.": "memory",
    "-ERR Error running script (call to f_0): @user_script:9: -OOM command not allowed": "memory",
    "-ERR Error running script: @user_script:9: -NOPERM this user has no permissions": "may not",
    "-MISCONF Errors writing to the AOF file: No space left on device": "disk",
    "-BUSY Redis is busy running a script.": "busy",
    "-NOAUTH Authentication required.": "password",
    "-READONLY You can't write against a read only replica.": "replica",
    "-ERR unknown command 'EVALSHA'": "6.2",
    "-ERR max number of clients reached": "it did not answer (ConnectionError)",
}


@pytest.mark.parametrize(("answer", "told"), ANSWERS.items(), ids=ANSWERS)
def test_what_servers_say(server: Server, answer: str, told: str) -> None:
    """Each says whose fault it is, and that nothing was written; the next exchange goes on."""
    word = b"look" if "clients" in answer else b"swap"
    with between(server, word=word) as wire, store_at(wire.url) as store:
        wire.faults.append(f"{answer}\r\n".encode())
        fault = fault_of(lambda: write(store, "1"))
        assert told in str(fault)
        assert str(fault).startswith(f"{store.name}: ")
        assert not fault.unsure
        assert write(store, "2") == look(store).version


def test_what_is_no_redis(server: Server) -> None:
    """Whatever speaks another protocol has not answered."""
    with between(server) as wire, store_at(wire.url) as store:
        wire.faults.append(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        version = write(store, "1")
        assert look(store)[:2] == (version, "1")


def test_an_interrupt_leaves_no_answer_behind(server: Server) -> None:
    """Ctrl-C while an answer is on its way: the next exchange does not take it for its own."""
    with between(server) as wire, store_at(f"{wire.url}?socket_timeout=20") as store:
        version = write(store, "0")
        wire.faults.append("hold")
        wire.meanwhile = lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            write(store, "1", version)
        assert look(store).text == "1"


# -- wires and clients ------------------------------------------------------------


def test_tls(server: Server, tmp_path: Path) -> None:
    """``rediss://`` checks the certificate, with the options of the URL."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with between(server, tls=context) as wire:
        with store_at(f"{wire.url}?ssl_ca_certs={tmp_path / 'ca.pem'}") as store:
            version = write(store, "1")
            assert look(store)[:2] == (version, "1")
        with store_at(wire.url) as store:
            fault = fault_of(lambda: look(store))
            assert "certificate" in str(fault)
            assert not fault.unsure


CLUSTERS: dict[str, Callable[[int], Any]] = {
    "redis": lambda port: redis.cluster.RedisCluster("127.0.0.1", port, decode_responses=True),
    "valkey": lambda port: valkey.ValkeyCluster("127.0.0.1", port),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a cluster of one node, which takes two seconds to begin."""
    with servers.cluster(tmp_path_factory.mktemp("cluster")) as server:
        yield server


@pytest.mark.parametrize("make", CLUSTERS.values(), ids=CLUSTERS)
def test_a_cluster(node: Server, make: Callable[[int], Any]) -> None:
    """A cluster client finds the node of an account; a lost answer is found there too."""
    node.ask("FLUSHALL")
    with closing(make(node.port)) as client, store_at(client) as store:
        version = write(store, "1")
        node.ask("SCRIPT", "FLUSH")
        version = write(store, "2", version)
        assert look(store, version)[:2] == (version, None)
        assert store.name == f"redis cluster 127.0.0.1:{node.port}"
        node.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        version = write(store, "3", version)
        assert look(store).text == "3"


def test_a_cluster_that_is_gone(tmp_path: Path) -> None:
    """Its client does not tell whether anything was sent."""
    with servers.cluster(tmp_path) as server:
        client = redis.cluster.RedisCluster("127.0.0.1", server.port)
        with closing(client), store_at(client) as store:
            version = write(store, "1")
            server.kill()
            assert fault_of(lambda: write(store, "2", version)).unsure


def test_a_slot_that_is_elsewhere(tmp_path: Path) -> None:
    """What is served nowhere is an outage."""
    options = ["--cluster-enabled", "yes"]
    with serving(tmp_path, options) as server, store_at(server.url) as store:
        fault = fault_of(lambda: look(store))
        assert "cluster" in str(fault)


def test_sentinel(pair: tuple[Server, Server], tmp_path: Path) -> None:
    """The primary is found through Sentinel, after a failover too; it is another era."""
    first, second = pair
    second.replica_of(first)
    with servers.sentinel(tmp_path / "s", first) as watching:
        asked = redis.sentinel.Sentinel([("127.0.0.1", watching.port)])
        client = asked.master_for("main", socket_timeout=2)
        with closing(client), store_at(client) as store:
            version = write(store, "1")
            assert store.name == "redis main of Sentinel"
            watching.fail_over(second)
            fault = fault_of(lambda: write(store, "2", version))
            assert "replica" in str(fault)
            assert not fault.unsure
            told: list[Seen] = []
            written = store.exchange(ACCOUNT, version, writing("2", told))
            assert [seen.version for seen in told] == [version, version]
            assert told[0].era != told[1].era
        for each in asked.sentinels:
            each.close()
    with store_at(second.url) as store:
        assert look(store)[:2] == (written, "2")


CLIENTS: dict[str, Callable[[int], Any]] = {
    "redis": lambda port: redis.Redis(port=port),
    "redis, decoding": lambda port: redis.Redis(port=port, decode_responses=True),
    "redis, latin": lambda port: redis.Redis(port=port, decode_responses=True, encoding="latin-1"),
    "redis, RESP3": lambda port: redis.Redis(port=port, protocol=3),
    "redis, blocking": lambda port: redis.Redis.from_pool(
        redis.BlockingConnectionPool(port=port, max_connections=1)
    ),
    "redis, checking": lambda port: redis.Redis(port=port, health_check_interval=1),
    "valkey": lambda port: valkey.Valkey(port=port),
    "valkey, decoding": lambda port: valkey.Valkey(port=port, decode_responses=True),
}


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_a_client_of_yours(server: Server, make: Callable[[int], Any]) -> None:
    """It is used as it is, whatever it makes of answers, and stays open."""
    with closing(make(server.port)) as client:
        with store_at(client) as store:
            version = write(store, "Grüße")
            version = write(store, "Grüße ☃", version)
            assert look(store)[:2] == (version, "Grüße ☃")
            assert store.name == f"redis localhost:{server.port}/0"
        assert client.ping()


def test_a_client_that_waits_for_ever(server: Server) -> None:
    """It would stop the ledger where a server hangs, and that is said."""
    for seconds in (None, 2):
        with closing(redis.Redis(port=server.port, socket_timeout=seconds)) as client:
            assert ["socket_timeout" in told for told in RedisStore(client).warnings] == [
                True for _ in [seconds] if seconds is None
            ]


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_schemes(server: Server, scheme: str) -> None:
    """Valkey's URL works with the package of either."""
    with store_at(f"{scheme}://127.0.0.1:{server.port}/3") as store:
        write(store, "1")
        assert store.name == f"{scheme} 127.0.0.1:{server.port}/3"
        with closing(server.client(db=3)) as client:
            assert client.exists(KEY)


def test_a_socket_of_this_host(tmp_path: Path) -> None:
    """``unix://`` names a path."""
    with (
        serving(tmp_path, ["--unixsocket", "r.sock"]),
        store_at(f"unix://{tmp_path}/r.sock?db=1") as store,
    ):
        write(store, "1")
        assert store.name == f"redis {tmp_path}/r.sock db 1"


@pytest.mark.parametrize("missing", [["redis"], ["redis", "valkey"]])
def test_packages_that_are_missing(server: Server, missing: list[str]) -> None:
    """Valkey's package does as well; without either, what to install is told."""
    code = f"""
import sys
for name in {missing}:
    sys.modules[name] = None
from quotaguard import ConfigError
from quotaguard.ledgers.redis import RedisStore
from quotaguard.sharing.store import Draft
try:
    print(RedisStore({server.url!r}).exchange("a", "", lambda seen: Draft("v1", "text")))
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = "v1" if len(missing) == 1 else "pip install 'quotaguard[redis]'"
    assert told in done.stdout


def test_nothing_is_imported_before_it_is_needed() -> None:
    """The module itself does not import redis."""
    code = "import quotaguard.ledgers.redis, sys; sys.exit('redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("http://127.0.0.1", "begins with one of"),
        ("redis", "begins with one of"),
        (f"redis://u:{SECRET}@host:port/0", "special characters"),
        (f"redis://u:a/{SECRET}@host/0", "special characters"),
        (f"redis://u:a?{SECRET}@host/0", "special characters"),
        (f"redis://u:a#{SECRET}@host/0", "special characters"),
        (f"redis://u:[{SECRET}@host/0", "special characters"),
        ("redis://host/zero", "special characters"),
        (f"redis://u:{SECRET}@host/0?timeout=3", "options are: timeout"),
        (f"redis://u:{SECRET}@host/0?socket_timeout=long", "options are: socket_timeout"),
        (7, "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_server(where: Any, told: str) -> None:
    """It is refused when it is built, without a word of the password."""
    with pytest.raises(ConfigError) as caught:
        RedisStore(where)
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("make", [redis.asyncio.Redis, valkey.asyncio.Valkey])
def test_an_asynchronous_client(make: Callable[[], Any]) -> None:
    """It is refused, and why the other one does not block anybody."""
    client = make()
    with pytest.raises(ConfigError, match="synchronous client"):
        RedisStore(client)
    asyncio.run(client.aclose())


# -- forks ------------------------------------------------------------------------

FORKING = """
import os, redis, sys
from quotaguard.ledgers.redis import RedisStore
from quotaguard.sharing.store import Draft
url, mine = sys.argv[1:]
client = redis.Redis.from_url(url) if mine == "yours" else url
store = RedisStore(client)
def turn(seen):
    return Draft(os.urandom(8).hex(), str(int(seen.text or 0) + 1))
store.exchange("a", "", turn)
child = os.fork()
store.forked() if child == 0 else None
for _ in range(200):
    store.exchange("a", "", turn)
if child == 0:
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.exchange("a", "", lambda seen: print(seen.text))
"""


@needs_fork
@pytest.mark.parametrize("client", ["own", "yours"])
def test_parent_and_child_do_not_share_a_wire(server: Server, client: str) -> None:
    """Each has its own connection, and the parent's is not closed by the child."""
    server.ask("CONFIG", "RESETSTAT")
    done = subprocess.run(
        [sys.executable, "-c", FORKING, server.url, client],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "401\n", done.stderr
    with closing(server.client()) as asking:
        # Parent, child, and those that asked the server here.
        assert asking.info("stats")["total_connections_received"] == 3


def test_a_store_that_was_closed_opens_again(server: Server) -> None:
    """Closing lets go of connections only."""
    store = RedisStore(server.url)
    version = write(store, "1")
    store.close()
    write(store, "2", version)
    store.close()
