"""The file of SQLite as a store: exact among processes, whole after kill -9, plain about faults."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import sqlite3
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard import forking
from quotaguard.clock import SystemClock
from quotaguard.errors import ConfigError, LedgerUnavailable
from quotaguard.ledgers.sqlite import APPLICATION, MIGRATIONS, SQLiteStore, migrate
from quotaguard.sharing.files import NETWORKS, network_of, path_of, place_of
from quotaguard.sharing.queue import leave, open_lock, stand
from quotaguard.sharing.store import Draft, Seen
from quotaguard.testing import FakeClock

NOBODY = 65534

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="modes, forks and signals are tried here"),
    # From Python 3.12 on a fork of a process with threads warns: that is what is tried here.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the file of the books will be."""
    return tmp_path / "quota.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    """Yield a store that has not opened its file yet."""
    with closing(SQLiteStore(path, clock=SystemClock())) as made:
        yield made


@pytest.fixture
def common() -> Iterator[Path]:
    """Yield a directory that a user without rights can reach, and owns."""
    with tempfile.TemporaryDirectory() as made:
        if os.geteuid() == 0:
            os.chown(made, NOBODY, NOBODY)
        yield Path(made)


def put(store: SQLiteStore, text: str, version: str = "", account: str = "a") -> str:
    """Write *text*, whatever was there."""
    return store.exchange(account, "", lambda seen: Draft(version or f"{seen.version}+", text))


def look(store: SQLiteStore, account: str = "a", known: str = "") -> Seen:
    """Return what an exchange is shown that writes nothing."""
    shown: list[Seen] = []
    store.exchange(account, known, shown.append)
    (seen,) = shown
    return seen


def text(store: SQLiteStore, account: str = "a") -> str | None:
    """Return the record of an account."""
    return look(store, account).text


def count(store: SQLiteStore, slot: str = "n") -> int:
    """Add one to a number in the record and return it."""
    told = 0

    def turn(seen: Seen) -> Draft:
        nonlocal told
        books = json.loads(seen.text or "{}")
        told = books[slot] = books.get(slot, 0) + 1
        return Draft(f"{sum(books.values())}", json.dumps(books))

    store.exchange("a", "", turn)
    return told


def fork(act: Callable[[], object], *, plain: bool = False) -> tuple[int, int]:
    """Fork a child that does *act* within 30 s, and return its number and a pipe from it.

    plain: as a user without rights, if this one is root.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        if plain and os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            told = True, act()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            told = False, error
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(pickle.dumps(told))
    finally:
        os._exit(0)


def outcome(child: tuple[int, int]) -> Any:
    """Return what a child's act returned, or raise what it raised."""
    number, reading = child
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(number, 0)
    assert told, "the child was killed"
    went, value = pickle.loads(told)  # noqa: S301 - our own child's
    if not went:
        raise value
    return value


def in_child(act: Callable[[], object], *, plain: bool = False) -> Any:
    """Return what *act* returns in a child."""
    return outcome(fork(act, plain=plain))


def sound(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with a file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def header(path: Path) -> tuple[int, int]:
    """Return the application and the layout that a file tells."""
    with closing(sqlite3.connect(path)) as connection:
        return tuple(  # type: ignore[return-value]
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )


# -- exchanges ------------------------------------------------------------------


def test_a_record_is_swapped(store: SQLiteStore) -> None:
    """A turn sees what is there, once, and what it returns is there afterwards."""
    assert look(store)[:2] == ("", None)
    assert put(store, "one", "v1") == "v1"
    assert look(store)[:2] == ("v1", "one")
    assert put(store, "two", "v2") == "v2"
    assert look(store, "b")[:2] == ("", None)


def test_a_text_that_is_known_is_not_read(store: SQLiteStore) -> None:
    """Who names the version gets no text; an older version gets it."""
    put(store, "one", "v1")
    assert look(store, known="v1")[:2] == ("v1", None)
    assert look(store, known="v0")[:2] == ("v1", "one")


def test_a_turn_is_taken_once_at_the_time_of_the_clock(path: Path) -> None:
    """The clock is read once for each exchange, and the era is that of this boot."""
    clock = FakeClock()
    with closing(SQLiteStore(path, clock=clock)) as store:
        first = look(store)
        clock.advance(5)
        second = look(store)
    assert first.now == second.now._replace(
        slow=first.now.slow, fast=first.now.fast, wall=first.now.wall
    )
    assert second.now.slow - first.now.slow == pytest.approx(5)
    assert first.era == second.era
    if sys.platform == "linux":
        assert first.era == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_what_a_turn_raises_is_raised_and_nothing_is_written(store: SQLiteStore) -> None:
    """Even an error of SQLite or of the system is the turn's own; the line goes on."""
    put(store, "one", "v1")
    for fault in (
        ZeroDivisionError(),
        sqlite3.OperationalError("x"),
        OSError(),
        KeyboardInterrupt(),
    ):

        def turn(seen: Seen, fault: BaseException = fault) -> Draft:
            raise fault

        with pytest.raises(type(fault)) as caught:
            store.exchange("a", "", turn)
        assert caught.value is fault
        assert look(store)[:2] == ("v1", "one")


def test_a_draft_that_cannot_be_kept_is_the_authors_fault(store: SQLiteStore) -> None:
    """A half of a character is no text: the error is raised as it is, nothing is written."""
    put(store, "one", "v1")
    with pytest.raises(UnicodeEncodeError):
        put(store, "\ud800", "v2")
    assert look(store)[:2] == ("v1", "one")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "A", "", "ä", "b\0c"]),
            st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))),
            st.booleans(),
            st.sampled_from(["", "close", "other"]),
        ),
        max_size=20,
    )
)
def test_a_store_is_a_dict(
    tmp_path_factory: pytest.TempPathFactory,
    acts: list[tuple[str, str | None, bool, str]],
) -> None:
    """Whatever is exchanged, through whichever connection: it keeps what a dict keeps."""
    folder = tmp_path_factory.mktemp("dict")
    kept: dict[str, tuple[str, str]] = {}
    stores = [SQLiteStore(folder / "quota.db", clock=SystemClock()) for _ in range(2)]
    for number, (account, new, knows, before) in enumerate(acts):
        if before == "close":
            stores[0].close()
        elif before == "other":
            stores.reverse()
        version, old = kept.get(account, ("", None))
        known = version if knows else ""
        seen = look(stores[0], account, known)
        assert seen[:2] == (version, None if knows else old)
        draft = None if new is None else Draft(f"v{number}", new)
        if draft is not None:
            kept[account] = draft
        assert stores[0].exchange(account, known, lambda seen, draft=draft: draft) == (
            draft.version if draft else version
        )
        assert look(stores[1], account)[:2] == kept.get(account, ("", None))
    for store in stores:
        store.close()
    shutil.rmtree(folder)


def test_several_threads_use_it_one_after_the_other(store: SQLiteStore) -> None:
    """Nothing is bound to the thread that opened the file."""
    threads = [threading.Thread(target=lambda: [count(store) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(text(store) or "") == {"n": 400}


def test_it_closes_and_opens_again(store: SQLiteStore, path: Path) -> None:
    """After closing nothing is open, and the next exchange goes on."""
    put(store, "one")
    store.close()
    store.close()
    assert [file.name for file in path.parent.glob("quota.db-*")] == []
    assert text(store) == "one"


@pytest.mark.parametrize(("durable", "level"), [(False, 1), (True, 2)])
def test_durability_is_a_choice(path: Path, durable: bool, level: int) -> None:
    """The log is written ahead; that it is on the disk before the answer costs extra."""
    with closing(SQLiteStore(path, clock=SystemClock(), durable=durable)) as store:
        put(store, "one")
        assert store._cursor is not None
        assert store._cursor.execute("PRAGMA synchronous").fetchone() == (level,)
        assert store._cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# -- processes ----------------------------------------------------------------------


def test_eight_processes_lose_nothing_and_none_starves(
    path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In a closed loop every count is there, and nobody waits for long."""
    clock = SystemClock()

    def work() -> float:
        worst = 0.0
        with closing(SQLiteStore(path, clock=clock)) as mine:
            for _ in range(500):
                begun = clock.slow()
                count(mine)
                worst = max(worst, clock.slow() - begun)
        return worst

    children = [fork(work) for _ in range(8)]
    worst = max(outcome(child) for child in children)
    record_property("worst wait of 8 processes at a file of SQLite, ms", round(worst * 1000))
    with closing(SQLiteStore(path, clock=clock)) as store:
        assert json.loads(text(store) or "") == {"n": 4000}
    assert worst < 1
    assert sound(path)


def test_workers_that_are_killed_lose_nothing(path: Path, seed: int) -> None:
    """60 times kill -9 among four workers: what was acknowledged is there, once."""
    generator, kills = random.Random(seed), 60
    board = mmap.mmap(-1, 8 * (kills + 4))
    clock, tick = SystemClock(), threading.Event()

    def acknowledged(slot: int) -> int:
        return int(struct.unpack_from("q", board, 8 * slot)[0])

    def worker(slot: int) -> int:
        def work() -> None:
            mine = SQLiteStore(path, clock=clock)
            while True:
                struct.pack_into("q", board, 8 * slot, count(mine, str(slot)))

        number, reading = fork(work)
        os.close(reading)
        return number

    with closing(SQLiteStore(path, clock=clock)) as store:
        count(store, "mine")
        alive = {slot: worker(slot) for slot in range(4)}
        for slot in range(4, kills + 4):
            victim = generator.choice(list(alive))
            until = acknowledged(victim) + generator.randrange(1, 40)
            while acknowledged(victim) < until:
                tick.wait(0.0002)
            number = alive.pop(victim)
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
            books = json.loads(text(store) or "")
            known = acknowledged(victim)
            assert books.pop(str(victim)) - known in {0, 1}
            alive[slot] = worker(slot)
        for number in alive.values():
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
        books = json.loads(text(store) or "")
    assert books.pop("mine") == 1
    for slot in range(kills + 4):
        assert books.get(str(slot), 0) - acknowledged(slot) in {0, 1}
    assert sum(books.values()) > kills
    assert sound(path)


def test_a_child_goes_on_with_a_connection_of_its_own(store: SQLiteStore, path: Path) -> None:
    """What parent and child write after a fork is all there, whoever closes first."""
    count(store)

    def act() -> int:
        for _ in range(50):
            count(store)
        return os.getpid()

    child = fork(act)
    for _ in range(20):
        count(store)
    store.close()
    outcome(child)
    assert json.loads(text(store) or "") == {"n": 71}
    assert sound(path)


def test_the_log_outlives_a_parent_that_closes(store: SQLiteStore) -> None:
    """A child has locks of its own: when the parent goes, its writes are not lost."""
    count(store)
    (parent_reads, child_writes), (child_reads, parent_writes) = os.pipe(), os.pipe()

    def act() -> None:
        count(store)
        os.write(child_writes, b"x")
        os.read(child_reads, 1)
        count(store)

    child = fork(act)
    os.read(parent_reads, 1)
    count(store)
    store.close()
    os.write(parent_writes, b"x")
    outcome(child)
    assert json.loads(text(store) or "") == {"n": 4}
    for pipe in (parent_reads, child_writes, child_reads, parent_writes):
        os.close(pipe)


def test_a_fork_waits_for_an_exchange(store: SQLiteStore) -> None:
    """Another thread's transaction ends before the fork, and neither side hangs."""
    inside, go = threading.Event(), threading.Event()

    def turn(seen: Seen) -> Draft:
        inside.set()
        assert go.wait(20)
        return Draft("v1", '{"n": 1}')

    thread = threading.Thread(target=store.exchange, args=("a", "", turn))
    thread.start()
    assert inside.wait(20)
    threading.Timer(0.05, go.set).start()
    assert in_child(lambda: count(store)) == 2
    thread.join()
    assert count(store) == 3


def test_forks_of_many_threads_go_on(store: SQLiteStore) -> None:
    """Threads that exchange while others fork: every count is there."""
    threads = [
        threading.Thread(target=lambda: [count(store) for _ in range(100)]) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for _ in range(10):
        in_child(lambda: count(store))
    for thread in threads:
        thread.join()
    assert json.loads(text(store) or "") == {"n": 310}


def test_a_connection_that_was_inherited_is_left_alone(path: Path) -> None:
    """Forked in the middle of an exchange, by its own thread: the child says so, and no more."""
    clock = SystemClock()
    store = SQLiteStore(path, clock=clock)
    forking._STORES.discard(store)  # as if the fork had not waited for it
    children: list[tuple[int, int]] = []
    reading, writing = os.pipe()

    def act() -> Any:
        os.read(reading, 1)
        store.forked()
        store.forked()
        with pytest.raises(LedgerUnavailable, match="forked in the middle") as caught:
            count(store)
        return caught.value.unsure

    def turn(seen: Seen) -> Draft:
        children.append(fork(act))
        return Draft("v1", '{"n": 1}')

    store.exchange("a", "", turn)
    os.write(writing, b"x")
    assert [outcome(child) for child in children] == [False]
    assert count(store) == 2
    store.close()
    os.close(reading)
    os.close(writing)


def test_who_is_stopped_at_the_head_of_the_line_is_not_waited_for(store: SQLiteStore) -> None:
    """Somebody hangs with the lock in hand: after 5 s the store is unavailable, and then well."""
    put(store, "one")
    lock = open_lock(f"{store.path}.lock", None)
    try:
        stand(lock)
        with pytest.raises(LedgerUnavailable, match="locked for more than 5 s") as caught:
            put(store, "two")
        assert (caught.value.store, caught.value.unsure) == (store.name, False)
        leave(lock)
        assert text(store) == "one"
    finally:
        os.close(lock)


def test_a_foreign_lock_is_waited_for_and_told(store: SQLiteStore) -> None:
    """A program that does not stand in line holds the file: told after 5 s, then all is well."""
    put(store, "one")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable, match="locked for more than 5 s"):
            put(store, "two")
        other.execute("ROLLBACK")
    assert text(store) == "one"


# -- the file ---------------------------------------------------------------------------


def test_only_the_owner_may_read_the_files(path: Path) -> None:
    """Everything that is created is for this user alone, whatever the umask is."""
    before = os.umask(0)
    try:
        place = path.parent / "new" / "quota.db"
        with closing(SQLiteStore(place, clock=SystemClock())) as store:
            put(store, "one")
            modes = {
                file.name: stat.S_IMODE(file.stat().st_mode) for file in place.parent.iterdir()
            }
    finally:
        os.umask(before)
    names = ("quota.db", "quota.db-wal", "quota.db-shm", "quota.db.lock")
    assert modes == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


def test_a_file_may_be_shared_with_a_group_on_purpose(path: Path) -> None:
    """What the group may write, it may also stand in line for."""
    path.touch()
    path.chmod(0o660)
    with closing(SQLiteStore(path, clock=SystemClock())) as store:
        put(store, "one")
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o660}


def test_a_path_that_is_no_place_for_books_is_found_at_once(path: Path) -> None:
    """Each mistake is a ConfigError that says what to do."""
    folder = path.parent
    (folder / "link.db").symlink_to(path)
    (folder / "there").mkdir()
    os.mkfifo(folder / "pipe")
    for mode in (0o777, 0o1777):
        (folder / f"open{mode}").mkdir()
        (folder / f"open{mode}").chmod(mode)
    (folder / "free.db").touch()
    (folder / "free.db").chmod(0o666)
    (folder / "file").touch()
    (folder / "real").mkdir()
    (folder / "alias").symlink_to(folder / "real")
    cases = {
        "link.db": "symbolic link",
        "there": "is a directory",
        "there/": "is a directory",
        "pipe": "not a regular file",
        f"open{0o777}/quota.db": "Every user may write",
        f"open{0o1777}/quota.db": "chmod o-w",
        "free.db": "written by every user",
        "missing/er/quota.db": "No such file",
        "file/quota.db": "cannot be used",
    }
    for name, told in cases.items():
        with pytest.raises(ConfigError, match=told):
            SQLiteStore(f"{folder}/{name}", clock=SystemClock())
    for name in ("", ":memory:", "file:x.db?mode=memory", "a\0b"):
        with pytest.raises(ConfigError, match="not the path of a file"):
            SQLiteStore(name, clock=SystemClock())
    # A directory may be behind a link: that is the administrator's.
    assert place_of(folder / "alias" / "quota.db") == str(folder / "real" / "quota.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_used(path: Path) -> None:
    """Whoever owns the file owns the books."""
    path.touch(mode=0o600)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="belongs to another user"):
        SQLiteStore(path, clock=SystemClock())


MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /srv rw - nfs4 server:/srv rw
31 30 254:1 / /srv/local\040disk rw - xfs /dev/sdb rw
32 22 0:27 / /data rw master:1 - xfs /dev/sdc rw
33 22 0:28 / /data rw - fuse.sshfs host: rw
34 22 0:29 / /dat rw - cifs //host/x rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", ""),
        ("/var/lib/app", ""),
        ("/srv", "nfs4"),
        ("/srv/app", "nfs4"),
        ("/srv2", ""),
        ("/srv/local disk/app", ""),
        ("/data/app", "fuse.sshfs"),
        ("/dat/app", "cifs"),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(path: str, kind: str) -> None:
    """The longest mount point counts, of two on one point the later one."""
    assert network_of(path, MOUNTS) == kind
    assert network_of(path, "") == ""


def test_network_file_systems_are_refused() -> None:
    """Those that other hosts write are on the list, and what is local is not."""
    assert {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"} <= NETWORKS
    assert not {"ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "fuseblk", "apfs"} & NETWORKS


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/app/quota.db", "/var/lib/app/quota.db"),
        ("sqlite:////var/lib/app/quota.db", "/var/lib/app/quota.db"),
        ("sqlite:/var/lib/quota.db", "/var/lib/quota.db"),
        ("sqlite:quota.db", "quota.db"),
        ("SQLite:a/quota.db", "a/quota.db"),
        ("sqlite://./quota.db", "./quota.db"),
        ("sqlite://../a/quota.db", "../a/quota.db"),
        ("sqlite:///a%20b/%3F%23.db", "/a b/?#.db"),
    ],
)
def test_a_url_names_a_path(url: str, path: str) -> None:
    """Three slashes and four are absolute, none is relative."""
    assert path_of(url, windows=False) == path


def test_a_url_may_begin_with_a_drive() -> None:
    """On Windows, and only there."""
    assert path_of("sqlite:///C:/app/quota.db", windows=True) == "C:/app/quota.db"
    assert path_of("sqlite:///C:/app/quota.db", windows=False) == "/C:/app/quota.db"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://host", "not a URL of the scheme sqlite"),
        ("quota.db", "not a URL of the scheme sqlite"),
        ("sqlite:", "names no file"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///var/lib/", "names no file"),
        ("sqlite://.", "names no file"),
        ("sqlite://quota.db", "names the host 'quota.db'"),
        ("sqlite://host/quota.db", "write sqlite:///host/quota.db"),
        ("sqlite:///quota.db?mode=ro", "write %3F"),
        ("sqlite:///quota.db#x", "write %3F"),
    ],
)
def test_a_url_that_names_no_file_is_a_mistake(url: str, told: str) -> None:
    """The message says how it is written."""
    with pytest.raises(ConfigError, match=told):
        path_of(url)


# -- layouts --------------------------------------------------------------------------


def test_a_new_file_is_marked_as_ours(store: SQLiteStore, path: Path) -> None:
    """The header names the application and the layout."""
    put(store, "one")
    assert header(path) == (APPLICATION, len(MIGRATIONS))


def test_a_file_of_an_older_layout_is_brought_forward(store: SQLiteStore, path: Path) -> None:
    """Layout 0 is a file of ours without a table."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
    path.chmod(0o600)
    assert header(path) == (APPLICATION, 0)
    put(store, "one")
    assert header(path) == (APPLICATION, len(MIGRATIONS))
    assert text(store) == "one"


def test_migrations_are_one_transaction(path: Path) -> None:
    """All the steps that are missing are taken, in order, or none of them."""
    steps = ("CREATE TABLE a (x)", "ALTER TABLE a RENAME TO b", "INSERT INTO b VALUES (1)")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        cursor = connection.cursor()
        migrate(cursor, steps[:1])
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            migrate(cursor, (*steps[:2], "INSERT INTO a VALUES (1)"))
        connection.rollback()
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
        migrate(cursor, steps)
        migrate(cursor, steps)
        assert connection.execute("SELECT x FROM b").fetchall() == [(1,)]
    assert header(path) == (APPLICATION, 3)


def test_a_file_of_a_newer_layout_is_left_alone(store: SQLiteStore, path: Path) -> None:
    """Who wrote it knows more than we do."""
    put(store, "one")
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(LedgerUnavailable, match=r"newer quotaguard.*upgrade"):
        put(store, "two")
    assert path.read_bytes() == before


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("application", [0, 4711])
def test_another_applications_file_is_left_as_it_is(
    store: SQLiteStore, path: Path, journal: str, application: int
) -> None:
    """Not a byte of it changes, and no table of ours is in it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute(f"PRAGMA application_id = {application}")
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(LedgerUnavailable, match="another application's file") as caught:
        put(store, "one")
    assert (caught.value.store, caught.value.unsure) == (store.name, False)
    assert path.read_bytes() == before


# -- faults -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"this is a text and no database at all, " * 100,
        b"\x00" * 5000,
        random.Random(1).randbytes(8192),
    ],
    ids=["text", "zeros", "noise"],
)
def test_a_file_that_is_no_database_is_told_and_kept(
    store: SQLiteStore, path: Path, content: bytes
) -> None:
    """Whatever it is, it is somebody's."""
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LedgerUnavailable, match=r"damaged or not a database.*move it away"):
        put(store, "one")
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_one(store: SQLiteStore, path: Path) -> None:
    """Nothing in it, nobody's."""
    path.touch(mode=0o600)
    put(store, "one")
    assert text(store) == "one"


@pytest.mark.parametrize("seed_", range(30))
def test_damage_is_told_or_does_no_harm(store: SQLiteStore, path: Path, seed_: int) -> None:
    """Bytes overwritten anywhere, or an end cut off: told as damage, or a text that was there."""
    for number in range(20):
        put(store, "x" * 3000, f"v{number}", f"account {number}")
    store.close()
    generator = random.Random(seed_)
    content = bytearray(path.read_bytes())
    if seed_ % 3 == 0:
        del content[generator.randrange(1, len(content)) :]
    else:
        at = generator.randrange(len(content)) if seed_ % 3 == 1 else generator.randrange(200)
        content[at : at + 64] = generator.randbytes(64)
    path.write_bytes(content)
    for number in range(20):
        with suppress(LedgerUnavailable):
            seen = look(store, f"account {number}")
            assert seen.text is None or len(seen.text) <= 3000
            put(store, "y" * 3000, "w", f"account {number}")


def test_a_record_that_is_no_text_is_damage(store: SQLiteStore, path: Path) -> None:
    """What nobody of us wrote is not handed on."""
    put(store, "one", "v1")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE accounts SET record = x'00ff'")
        connection.commit()
    with pytest.raises(LedgerUnavailable, match="damaged"):
        text(store)


def test_a_full_disk_is_told_and_the_books_stay(store: SQLiteStore) -> None:
    """What does not fit is not written; when there is room it goes on by itself."""
    put(store, "one", "v1")
    assert store._cursor is not None
    store._cursor.execute("PRAGMA max_page_count = 4")
    with pytest.raises(LedgerUnavailable, match=r"no room.*Make room") as caught:
        put(store, "x" * 100_000, "v2")
    assert not caught.value.unsure
    assert look(store)[:2] == ("v1", "one")
    put(store, "x" * 100_000, "v2")


def test_a_write_that_fails_half_way_is_told_and_the_books_stay(
    store: SQLiteStore, path: Path
) -> None:
    """The system refuses to write any further: the old record stays, in all processes."""
    put(store, "one", "v1")

    def act() -> tuple[str, bool, str | None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        with pytest.raises(LedgerUnavailable) as caught:
            put(store, "x" * 200_000, "v2")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return str(caught.value), caught.value.unsure, text(store)

    told, _, left = in_child(act)
    assert told.startswith(f"sqlite {path} ")
    assert left == "one"
    assert text(store) == "one"
    assert sound(path)


def test_a_file_that_may_only_be_read_is_told(common: Path) -> None:
    """Neither the file nor the directory may be written: what to do is said."""
    path = common / "quota.db"

    def act() -> list[str]:
        told = []
        with closing(SQLiteStore(path, clock=SystemClock())) as store:
            put(store, "one")
            for place, mode in ((path, 0o400), (common, 0o500), (path, 0o000)):
                store.close()
                before = place.stat().st_mode
                place.chmod(mode)
                with pytest.raises(LedgerUnavailable) as caught:
                    put(store, "two")
                told.append(str(caught.value))
                place.chmod(before)
                assert text(store) == "one"
        return told

    for told in in_child(act, plain=True):
        assert "writable for this user" in told or "this user may write to it" in told


def test_a_directory_that_is_gone_is_told(store: SQLiteStore, path: Path) -> None:
    """It is not made again behind the administrator's back."""
    put(store, "one")
    store.close()
    path.parent.rename(path.parent.with_name("elsewhere"))
    with pytest.raises(LedgerUnavailable, match="Check that the directory exists"):
        put(store, "two")
    path.parent.with_name("elsewhere").rename(path.parent)
    assert text(store) == "one"


def test_too_many_open_files_are_told(store: SQLiteStore) -> None:
    """When there are fewer, it goes on."""

    def act() -> tuple[list[str], str | None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        told = []
        for more in range(4):
            store.close()
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, hard))
            try:
                put(store, "one")
            except LedgerUnavailable as error:
                told.append(str(error))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        put(store, "one")
        return told, text(store)

    told, left = in_child(act)
    assert len(told) == 4
    assert all("ulimit -n" in each for each in told)
    assert left == "one"


def test_a_file_that_became_a_link_is_not_followed(store: SQLiteStore, path: Path) -> None:
    """What is found later is the store's fault, not a mistake in the settings."""
    put(store, "one")
    store.close()
    path.rename(path.with_name("other.db"))
    path.symlink_to(path.with_name("other.db"))
    with pytest.raises(LedgerUnavailable, match="symbolic link") as caught:
        put(store, "two")
    assert isinstance(caught.value.__cause__, ConfigError)


def test_a_file_that_was_deleted_begins_anew(store: SQLiteStore, path: Path) -> None:
    """The books are gone, and all who use them agree on the new ones."""
    with closing(SQLiteStore(path, clock=SystemClock())) as other:
        put(store, "one", "v1")
        assert text(other) == "one"
        path.unlink()
        assert look(store)[:2] == ("", None)
        put(store, "two", "v2")
        assert look(other)[:2] == ("v2", "two")
    assert text(store) == "two"
    assert sound(path)


def test_a_file_that_was_replaced_is_used_as_it_is(
    store: SQLiteStore, path: Path, tmp_path: Path
) -> None:
    """A restored copy counts from the next exchange on."""
    put(store, "one", "v1")
    store.close()
    shutil.copy(path, tmp_path / "copy")
    put(store, "two", "v2")
    (tmp_path / "copy").replace(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    assert look(store)[:2] == ("v1", "one")
    assert put(store, "three", "v3") == "v3"
    assert text(store) == "three"
    assert sound(path)


LEAVING = """
import sys
from quotaguard.clock import SystemClock
from quotaguard.ledgers.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1], clock=SystemClock())
look = lambda: store.exchange("a", "", lambda seen: print(seen.text, flush=True))
look()
sys.stdin.readline()
if sys.argv[2] == "look":
    look()
if sys.argv[2] == "close":
    store.close()
"""


@pytest.mark.parametrize("ending", ["look", "close", "exit"])
def test_the_last_one_of_a_deleted_file_leaves_its_successor_alone(
    store: SQLiteStore, path: Path, ending: str
) -> None:
    """A process that ends does not delete the log of the books that are there now."""
    put(store, "one")
    asked = [sys.executable, "-W", "error", "-c", LEAVING, str(path), ending]
    with Popen(asked, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        for file in path.parent.glob("quota.db*"):
            file.unlink()
        put(store, "two")
        told, wrong = process.communicate("\n", timeout=20)
    assert (told, wrong) == ("two\n" if ending == "look" else "", "")
    assert path.with_name("quota.db-wal").stat().st_size > 0
    assert in_child(lambda: text(SQLiteStore(path, clock=SystemClock()))) == "two"


class Refusing:
    """A cursor whose COMMIT fails: it was not tried, or it is over, or the disk is full."""

    def __init__(self, real: sqlite3.Cursor, how: str) -> None:
        self.connection, self._real, self._how = real.connection, real, how

    def execute(self, statement: str, values: tuple[str, ...] = ()) -> sqlite3.Cursor:
        if statement != "COMMIT":
            return self._real.execute(statement, values)
        if self._how != "before":
            self._real.execute("ROLLBACK" if self._how == "full" else "COMMIT")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = 13 if self._how == "full" else 10
        raise error


@pytest.mark.parametrize(
    ("how", "unsure", "left"),
    [("before", False, "one"), ("full", False, "one"), ("after", True, "two")],
)
def test_a_commit_that_fails_is_unsure_only_where_it_is_over(
    store: SQLiteStore, how: str, unsure: bool, left: str
) -> None:
    """Still in the transaction, it is rolled back; a full disk broke off; else nobody knows."""
    put(store, "one", "v1")
    assert store._cursor is not None
    store._cursor = Refusing(store._cursor, how)  # type: ignore[assignment]
    with pytest.raises(LedgerUnavailable) as caught:
        put(store, "two", "v2")
    assert caught.value.unsure == unsure
    assert text(store) == left


def test_no_file_is_left_open(store: SQLiteStore) -> None:
    """Faults and endings leave no descriptor behind."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("this system does not list its descriptors")

    def opened() -> list[str]:
        return [str(file.readlink()) for file in folder.iterdir() if file.is_symlink()]

    put(store, "one")
    assert any("quota.db" in name for name in opened())
    lock, store._lock = store._lock, 10_000  # a descriptor that is none
    os.close(lock)
    with pytest.raises(LedgerUnavailable, match="Bad file descriptor"):
        put(store, "two")
    assert not [name for name in opened() if store.path in name]
    assert text(store) == "one"
    store.close()
    assert not [name for name in opened() if store.path in name]
