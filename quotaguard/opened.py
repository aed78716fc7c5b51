"""The shared ledgers that a process has opened by their URLs: one for each."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from quotaguard.errors import ConfigError

if TYPE_CHECKING:
    from quotaguard.clock import Clock
    from quotaguard.ledgers import Ledger
    from quotaguard.sharing.ledger import SharedLedger

__all__ = ["checked", "shared_ledger"]

_OPENED: weakref.WeakValueDictionary[tuple[str, int], SharedLedger] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def _forked() -> None:
    global _lock  # noqa: PLW0603 - the parent's may be held by a thread that is not here
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

SERVERS = ("redis", "rediss", "valkey", "valkeys", "unix")


def checked(ledger: Ledger) -> Ledger:
    """Return *ledger* if it is one.

    Raises:
        ConfigError: it is a path, a client, a class, or nothing at all.
    """
    if not isinstance(ledger, type) and callable(getattr(ledger, "holder", None)):
        return ledger
    kind = ledger.__name__ if isinstance(ledger, type) else type(ledger).__name__
    advice = 'give it a URL, ledger="sqlite:///var/lib/app/quota.db", or an object'
    if hasattr(ledger, "__fspath__"):
        advice = "make one of it: ledger=SQLiteLedger(path)"
    elif hasattr(ledger, "execute_command"):
        advice = "make one of it: ledger=RedisLedger(client)"
    elif ledger is None:
        advice += "; is a variable of the environment not set?"
    raise ConfigError(f"ledger= is no {kind}: {advice}")


def shared_ledger(url: str, clock: Clock) -> SharedLedger:
    """Return the ledger at *url*: two guards that name the same one share their allotments.

    Raises:
        ConfigError: there is no such ledger, or no books can be kept there.
    """
    scheme = url.partition(":")[0]
    with _lock:
        found = _OPENED.get((url, id(clock)))
        if found is not None:
            return found
        made: SharedLedger
        if scheme == "sqlite":
            from quotaguard.ledgers.sqlite import SQLiteLedger  # noqa: PLC0415 - sqlite3 costs 5 ms

            made = SQLiteLedger(url, clock=clock)
        elif scheme in SERVERS:
            from quotaguard.ledgers.redis import RedisLedger  # noqa: PLC0415 - redis costs 100 ms

            made = RedisLedger(url, clock=clock)
        else:
            msg = (
                f"there is no ledger {scheme!r}: use memory://, sqlite:///path/quota.db, "
                "redis://host or valkey://host"
            )
            raise ConfigError(msg)
        _OPENED[url, id(clock)] = made
        return made
