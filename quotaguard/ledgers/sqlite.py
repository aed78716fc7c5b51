"""The ledger of one host: books in a file of SQLite, shared by its processes.

Rules of this file. Whoever writes stands in line first, with an flock on ``<path>.lock``:
SQLite's own waiting sleeps and has no line, so that one of eight processes waited 1.6 s for
its turn, and 4 s with `durable`. What makes books exact is ``BEGIN IMMEDIATE`` alone; where
there is no flock, or the file of the lock was deleted, only fairness is lost.

No connection lives through a fork. SQLite remembers its locks per process and file, and a
child inherits the memory without the locks: a connection that is opened in it would write
to a log that others delete. Therefore all are closed before a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import os
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from quotaguard.clock import SystemClock
from quotaguard.errors import ConfigError, LedgerUnavailable
from quotaguard.forking import follow
from quotaguard.sharing.faults import PATIENCE, told_of
from quotaguard.sharing.files import boot, check_file, create, path_of, place_of
from quotaguard.sharing.ledger import LEASE, SharedLedger
from quotaguard.sharing.queue import leave, open_lock, stand
from quotaguard.sharing.store import Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quotaguard.clock import Clock
    from quotaguard.quota.policy import Duration
    from quotaguard.sharing.store import Turn

__all__ = ["SQLiteLedger", "SQLiteStore"]

APPLICATION = int.from_bytes(b"qgrd", "big")
"""Marks a file as ours, in its header."""

MIGRATIONS = (
    # With the rowid: texts of 3 KB lie in one piece, and it was never slower.
    "CREATE TABLE accounts (account TEXT PRIMARY KEY, version TEXT NOT NULL, record TEXT NOT NULL)",
)
"""What makes of a file of version n one of version n + 1."""

READ = (
    "SELECT version, CASE WHEN version = ? THEN NULL ELSE record END"
    " FROM accounts WHERE account = ?"
)
WRITE = (
    "INSERT INTO accounts VALUES (?, ?, ?) ON CONFLICT (account)"
    " DO UPDATE SET version = excluded.version, record = excluded.record"
)


class SQLiteStore:
    """Records in a file of SQLite: exact among the processes of one host.

    path: of the file; it is created for this user alone. Not on a network file system.
    durable: what was acknowledged survives a loss of power, at 250 us for each exchange;
        otherwise the end of a process only, and a boot is told from the era.

    Raises:
        ConfigError: no books can be kept at that path, or not safely.
    """

    remote = False

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Clock, durable: bool = False
    ) -> None:
        self.path = place_of(path)
        self.name = f"sqlite {self.path}"
        self._clock, self._durable = clock, durable
        self._era = boot()
        self._mutex = threading.Lock()
        self._lock = -1
        self._cursor: sqlite3.Cursor | None = None
        self._file, self._owner = (0, 0), 0
        self._stopped = False
        _STORES.add(self)
        follow(self, last=True)

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """Put in the place of an account's record what *turn* makes of it, atomically.

        Raises:
            LedgerUnavailable: nothing was written; with *unsure* it may have been.
        """
        with self._mutex:
            try:
                cursor = self._begin()
                cursor.execute("BEGIN IMMEDIATE")
                seen = self._seen(cursor, account, known)
            except BaseException as error:  # noqa: BLE001 - raised again there
                self._fail(error)
            try:
                draft = turn(seen)
            except BaseException:
                self._undo(cursor)
                raise
            if draft is None:
                self._undo(cursor)
                return seen.version
            commits = False
            try:
                cursor.execute(WRITE, (account, draft.version, draft.text))
                commits = True
                cursor.execute("COMMIT")
                leave(self._lock)
            except BaseException as error:  # noqa: BLE001 - raised again there
                # Still in it, the transaction is rolled back now; else SQLite has ended it, and
                # only a disk that is full surely broke off before the end of what it wrote.
                full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
                over = not cursor.connection.in_transaction
                self._fail(error, unsure=commits and over and not full)
            return draft.version

    def before_fork(self) -> None:
        """Wait for the exchange of whoever is in one, and let go of the file."""
        # It ends in this time, but one that the fork interrupts, from a signal's handler.
        self._stopped = self._mutex.acquire(timeout=2 * PATIENCE + 1)
        if self._stopped:
            self._drop()

    def after_fork_in_parent(self) -> None:
        """Let exchanges go on; the next one opens the file again."""
        if self._stopped:
            self._stopped = False
            self._mutex.release()

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child; the parent's connection is left as it is, not closed."""
        if self._owner == os.getpid():
            return
        self._mutex = threading.Lock()  # the parent's may be held by a thread that is not here
        lock, self._lock, cursor, self._cursor = self._lock, -1, self._cursor, None
        if lock >= 0:
            os.close(lock)  # not unlocked by this; kept, it would outlive a parent that is killed
        if cursor is not None:
            _INHERITED.add(self._file)
            _never_close(cursor)

    def close(self) -> None:
        """Let go of the file; the next exchange opens it again."""
        with self._mutex:
            self._drop()

    def __del__(self) -> None:
        if hasattr(self, "_owner"):  # else it was never built
            self._drop()

    def __repr__(self) -> str:
        return f"<SQLiteStore: {self.path}>"

    def _seen(self, cursor: sqlite3.Cursor, account: str, known: str) -> Seen:
        row = cursor.execute(READ, (known, account)).fetchone()
        version, text = row or ("", None)
        if version.__class__ is not str or (text is not None and text.__class__ is not str):
            raise sqlite3.DatabaseError("a record is not a text")
        return Seen(version, text, self._clock.now(), self._era)

    # -- the connection -----------------------------------------------------------

    def _begin(self) -> sqlite3.Cursor:
        """Return the connection, at the head of the line, to what lies at the path."""
        for _ in range(3):
            if self._lock < 0:
                self._lock = open_lock(f"{self.path}.lock", check_file(self.path))
            stand(self._lock)
            cursor = self._cursor or self._connect()
            if self._same():
                return cursor
            self._drop()  # deleted or replaced: all will use what lies there now
        raise OSError(errno.ESTALE, "the file is replaced again and again")

    def _same(self) -> bool:
        """Whether the file that is open is still the one at the path."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - a third of the time of Path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._file

    def _connect(self) -> sqlite3.Cursor:
        create(self.path)
        found = check_file(self.path)
        # SQLite would leave a log behind that nobody may write either.
        if found is None or not os.access(self.path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._file, self._owner = (found.st_dev, found.st_ino), os.getpid()
        if self._file in _INHERITED:
            raise LedgerUnavailable(
                f"{self.name}: this process was forked in the middle of an exchange and cannot "
                "use the file: fork when no call is under way, or start processes by spawn; uWSGI "
                "needs lazy-apps, for a guard that is used before it forks",
                store=self.name,
            )
        with contextlib.closing(_open(self.path, "ro")) as reader:
            self._check(reader)  # what is not ours is not even opened for writing
        connection = _open(self.path, "rw")
        self._cursor = cursor = connection.cursor()
        (mode,) = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise OSError(errno.ENOTSUP, "the file system cannot share memory between processes")
        cursor.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        (sound,) = cursor.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(f"damaged: {sound}")
        migrate(cursor)
        return cursor

    def _check(self, connection: sqlite3.Connection) -> None:
        application, version, tables = _header(connection)
        wrong = ""
        if application != APPLICATION and (application or tables):
            wrong = "is another application's file, and left as it is: name another one"
        elif version > len(MIGRATIONS):
            wrong = f"was written by a newer quotaguard (layout {version}): upgrade quotaguard here"
        if wrong:
            raise LedgerUnavailable(f"{self.name} {wrong}", store=self.name)

    # -- ends -----------------------------------------------------------------------

    def _undo(self, cursor: sqlite3.Cursor) -> None:
        try:
            cursor.execute("ROLLBACK")
            leave(self._lock)
        except (sqlite3.Error, OSError):
            self._drop()

    def _fail(self, error: BaseException, *, unsure: bool = False) -> NoReturn:
        self._drop()
        if isinstance(error, sqlite3.Error | OSError | ConfigError):
            told = f"{self.name} {told_of(error)}"
            raise LedgerUnavailable(told, store=self.name, unsure=unsure) from error
        raise error

    def _drop(self) -> None:
        """Roll back, close what is open, leave the line."""
        lock, self._lock, cursor, self._cursor = self._lock, -1, self._cursor, None
        if cursor is not None:
            connection = cursor.connection
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            if self._same():
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
            else:
                _never_close(connection)
        if lock >= 0:
            with contextlib.suppress(OSError):
                os.close(lock)


def migrate(cursor: sqlite3.Cursor, steps: Sequence[str] = MIGRATIONS) -> None:
    """Bring a file of ours, or an empty one, to the newest layout, in one transaction."""
    application, version, _ = _header(cursor.connection)
    if application == APPLICATION and version >= len(steps):
        return
    cursor.execute("BEGIN IMMEDIATE")
    for step in steps[version:]:
        cursor.execute(step)
    cursor.execute(f"PRAGMA application_id = {APPLICATION}")
    cursor.execute(f"PRAGMA user_version = {len(steps)}")
    cursor.execute("COMMIT")


def _header(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Return whose file it is, which layout it has, and the number of its tables."""
    asked = "PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master"
    application, version, tables = (connection.execute(ask).fetchone()[0] for ask in asked)
    return application, version if application == APPLICATION else 0, tables


def _open(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{Path(path).as_uri()}?mode={mode}",
        uri=True,
        timeout=PATIENCE,
        isolation_level=None,
        check_same_thread=False,
    )


def _never_close(left: sqlite3.Connection | sqlite3.Cursor) -> None:
    """Keep *left* open for good: the log that SQLite deletes when it closes is another's."""
    _LEFT.append(left)
    with contextlib.suppress(AttributeError):  # CPython's own
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))


# -- forks ------------------------------------------------------------------------

_STORES: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_INHERITED: set[tuple[int, int]] = set()
"""Files to which this process has a parent's connection: not to be opened here."""
_LEFT: list[sqlite3.Connection | sqlite3.Cursor] = []


@atexit.register
def _at_exit() -> None:
    # Later than this, what closing needs may be gone.
    for store in list(_STORES):
        if store._mutex.acquire(timeout=1):  # noqa: SLF001 - this module's own
            store._drop()  # noqa: SLF001 - this module's own
            store._mutex.release()  # noqa: SLF001 - this module's own


class SQLiteLedger(SharedLedger):
    """Books in a file of SQLite, for the processes of one host. Exact among all of them.

    path: of the file, or a URL ``sqlite:///var/lib/app/quota.db``. It is created for this
        user alone, in a directory that others may not write to; not on a network file system.
    lease: seconds for which a process may spend from its allotment without being heard of.
        0.1 s or more.
    durable: entries survive a loss of power, for a quarter of a millisecond each.

    Raises:
        ConfigError: no books can be kept at that path, or not safely.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lease: Duration = LEASE,
        durable: bool = False,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        if isinstance(path, str) and path.startswith("sqlite:"):
            path = path_of(path)
        super().__init__(SQLiteStore(path, clock=clock, durable=durable), lease=lease, clock=clock)
