"""Where a file of books may lie: its path from a URL, its directory, its file system.

What is wrong with a path is the caller's mistake and found when the ledger is built.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from pathlib import Path
from urllib.parse import unquote

from quotaguard.errors import ConfigError

__all__ = ["boot", "check_file", "create", "network_of", "path_of", "place_of"]

NETWORKS = frozenset(
    {"9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs"}
    | {"lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb2", "smb3", "smbfs", "webdav"}
    | {f"fuse.{name}" for name in ("ceph", "davfs", "gcsfuse", "glusterfs", "goofys", "rclone")}
    | {f"fuse.{name}" for name in ("ceph-fuse", "davfs2", "juicefs", "s3fs", "sshfs")}
)
"""File systems that other hosts write too, or whose locks other hosts do not see."""

ELSEWHERE = 'use ledger="redis://..." for several hosts, or a path on a local disk'


def path_of(url: str, *, windows: bool = os.name == "nt") -> str:
    """Return the path that a URL of the scheme ``sqlite`` names.

    Three slashes begin an absolute path, ``sqlite:///var/lib/app/quota.db``; four mean
    the same, as others write it. Without an authority, or with a dot for one, it is
    relative: ``sqlite:quota.db``, ``sqlite://./quota.db``. On Windows
    ``sqlite:///C:/app/quota.db`` begins with the drive. Percent escapes are decoded.

    Raises:
        ConfigError: it names no file, names a host, or has a query or a fragment.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme.lower() != "sqlite":
        raise ConfigError(f"{url!r} is not a URL of the scheme sqlite: sqlite:///path/quota.db")
    if "?" in rest or "#" in rest:
        raise ConfigError(
            f"{url!r} has a query or a fragment, and a path has none: write %3F for ? and %23 for #"
        )
    path = rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in {"", ".", ".."}:
            raise ConfigError(
                f"{url!r} names the host {host!r}: write sqlite:///{host}{slash}{path} for an "
                f"absolute path, sqlite:{host}{slash}{path} for a relative one"
            )
        path = f"{host}/{path.lstrip('/')}" if path else ""
        if windows and re.match(r"/[A-Za-z]:", path):
            path = path[1:]
    path = unquote(path)
    if path.rpartition("/")[2] in {"", ".", ".."}:
        raise ConfigError(f"{url!r} names no file: sqlite:///path/quota.db")
    return path


def place_of(path: str | os.PathLike[str]) -> str:
    """Return *path* as an absolute one, after looking at where it is.

    The directory is created for this user alone where only the last part of it is missing.

    Raises:
        ConfigError: no books can be kept there, or not safely.
    """
    told = os.fspath(path)
    if not told or "\0" in told or told == ":memory:" or told.startswith("file:"):
        raise ConfigError(
            f"{told!r} is not the path of a file: books that several processes share need "
            'one, such as "/var/lib/app/quota.db"; for books of this process alone take '
            'ledger="memory://"'
        )
    if told.startswith("~") or "://" in told or os.path.basename(told) == ":memory:":  # noqa: PTH119 - no Path yet
        raise ConfigError(
            f"{told!r} would be taken as it stands: write the path out, such as "
            '"/var/lib/app/quota.db"; servers have a ledger of their own, RedisLedger(url)'
        )
    folder, name = os.path.split(os.path.abspath(told))  # noqa: PTH100 - keeps what resolve() follows
    if not name or told.endswith(("/", os.sep)):
        raise ConfigError(f"{told} is a directory: add the name of a file, such as quota.db")
    folder = os.path.realpath(folder)
    whole = str(Path(folder, name))
    _check_folder(folder)
    check_file(whole)
    return whole


def _check_folder(folder: str) -> None:
    try:
        Path(folder).mkdir(mode=0o700, exist_ok=True)
        mode = Path(folder).stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"The directory {folder} cannot be used ({error.strerror}): create it, for the user "
            "that this program runs as"
        ) from error
    if os.name == "posix" and mode & stat.S_IWOTH:
        raise ConfigError(
            f"Every user may write to the directory {folder}, and could put a file of theirs "
            "in the place of the books: choose a directory of your own, mode 0700 "
            f"(chmod o-w {folder}, where nobody else needs it)"
        )
    kind = network_of(folder, _mounts())
    if kind:
        raise ConfigError(
            f"{folder} is on a network file system ({kind}): its locks do not keep books "
            f"exact; {ELSEWHERE}"
        )


def check_file(path: str) -> os.stat_result | None:
    """Look at the file of the books without opening it; None where there is none.

    To open and close it would drop the locks that this process has on it.

    Raises:
        ConfigError: it is not a file, or not one that is safe to use.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be looked at ({error.strerror})") from error
    wrong = ""
    if stat.S_ISLNK(found.st_mode):
        wrong = "is a symbolic link: name the file itself"
    elif stat.S_ISDIR(found.st_mode):
        wrong = "is a directory: add the name of a file, such as quota.db"
    elif not stat.S_ISREG(found.st_mode):
        wrong = "is not a regular file: name another one"
    elif sys.platform != "win32":
        shared = found.st_mode & 0o060 == 0o060
        if found.st_mode & stat.S_IWOTH:
            wrong = "may be written by every user, and so be anybody's books: chmod o-w it"
        elif found.st_uid != os.geteuid() and not shared:
            wrong = (
                "belongs to another user: run as that user, name another file, or share it on "
                "purpose with a group (chmod g+rw)"
            )
    if wrong:
        raise ConfigError(f"{path} {wrong}")
    return found


def create(path: str) -> None:
    """Create the empty file *path* for this user alone, where there is none."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    # Only what is new is opened and closed here, see `check_file`.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, flags, 0o600))


def network_of(path: str, mounts: str) -> str:
    """Return the network file system that *path* is on, "" for a local one.

    mounts: the text of ``/proc/self/mountinfo``.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        parts, told = mount.split(" "), source.split(" ")
        if len(parts) < 5 or not told[0]:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), parts[4])
        inside = point in {"/", path} or path.startswith(f"{point}/")
        if inside and len(point) >= best:  # of two on one point, the later one is on top
            best, kind = len(point), told[0]
    return kind if kind in NETWORKS else ""


def _mounts() -> str:
    # Other systems do not tell it in a file; there the documentation has to do.
    if sys.platform != "linux":
        return ""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def boot() -> str:
    """Return what names the time since this host was started, "" where nothing does."""
    # Other systems have no id that stays: there a boot is told by a clock that begins anew
    # (`Record.behind`).
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
