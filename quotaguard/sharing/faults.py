"""What a fault of a file means, and what to do about it."""

from __future__ import annotations

import errno

from quotaguard.errors import ConfigError

__all__ = ["PATIENCE", "told_of"]

PATIENCE = 5.0
"""Seconds to stand in line, and to wait for a program that does not stand in it."""

_FULL = "has no room on its disk. Make room, it goes on by itself"
_LOCKED = (
    f"was locked for more than {PATIENCE:g} s by another program. Find it (fuser, lsof) and stop "
    "it; a process that hangs in a debugger or a paused container holds it for as long"
)
_READ_ONLY = (
    "may not be read and written. Make the file, those beside it (-wal, -shm, .lock), the "
    "directory and the disk writable for this user"
)
_DAMAGED = (
    "is damaged or not a database, and was left as it is. Stop all who use it, move it away with "
    "its -wal and -shm, and begin with a new one: polls bring back what was spent"
)
_CLOSED = (
    "could not be opened. Check that the directory exists, that this user may write to it, and "
    "the limit of open files (ulimit -n)"
)
_FAULTY = "met a fault of the disk. Look at the system's log; it is opened anew at the next call"

_BY_CODE = {
    5: _LOCKED,  # SQLITE_BUSY
    6: _LOCKED,  # SQLITE_LOCKED
    15: _LOCKED,  # SQLITE_PROTOCOL
    13: _FULL,  # SQLITE_FULL
    8: _READ_ONLY,  # SQLITE_READONLY
    3: _READ_ONLY,  # SQLITE_PERM
    11: _DAMAGED,  # SQLITE_CORRUPT
    26: _DAMAGED,  # SQLITE_NOTADB
    14: _CLOSED,  # SQLITE_CANTOPEN
    10: _FAULTY,  # SQLITE_IOERR
}
_BY_ERRNO = {
    errno.EAGAIN: _LOCKED,
    errno.ENOSPC: _FULL,
    getattr(errno, "EDQUOT", -1): _FULL,  # not on Windows
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
}


def told_of(error: Exception) -> str:
    """Return what happened to the file and what to do next."""
    if isinstance(error, ConfigError):
        return f"cannot be used any more. {error}"
    if isinstance(error, OSError):
        return f"{_BY_ERRNO.get(error.errno or 0, _CLOSED)} ({error.strerror})"
    code = getattr(error, "sqlite_errorcode", 11) & 0xFF
    return f"{_BY_CODE.get(code, _FAULTY)} ({error})"
