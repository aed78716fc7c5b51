"""Stores for the trials: one over a plain dict, and Redis on the clock of the bench."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quotaguard.clock import Clock
from quotaguard.errors import LedgerUnavailable
from quotaguard.ledgers.redis import SCRIPT, RedisStore
from quotaguard.sharing.store import Draft, Seen, Turn

__all__ = ["DictStore", "Dicts", "MovedRedis"]


class Dicts:
    """What is kept: a text and its version by account."""

    def __init__(self) -> None:
        self.records: dict[str, Draft] = {}
        self.lock = threading.Lock()
        self.down = False

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Nothing can be reached."""
        self.down = True
        try:
            yield
        finally:
            self.down = False


class DictStore:
    """A good store: one lock, one dict."""

    name = "dict of the tests"
    remote = False

    def __init__(self, dicts: Dicts, clock: Clock) -> None:
        self.dicts, self.clock = dicts, clock

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """See `quotaguard.sharing.store.Store`."""
        if self.dicts.down:
            raise LedgerUnavailable("the dict is down", store=self.name)
        with self.dicts.lock:
            seen = self.seen(account, known)
            draft = turn(seen)
            if draft is None:
                return seen.version
            self.write(account, draft)
            return draft.version

    def seen(self, account: str, known: str) -> Seen:
        """Return what a turn is shown."""
        version, text = self.dicts.records.get(account, Draft("", ""))
        unknown = version and version != known
        return Seen(version, text if unknown else None, self.clock.now(), "one")

    def write(self, account: str, draft: Draft) -> None:
        """Keep a text."""
        self.dicts.records[account] = draft

    def forked(self) -> None:
        """The dicts of a child are its own, and their lock may be held by nobody there."""
        self.dicts.lock = threading.Lock()

    def close(self) -> None:
        """Nothing is open."""


class MovedRedis(RedisStore):
    """A server whose clock is the one of the bench."""

    def _run(self, script: Any, account: str, *words: str) -> tuple[Any, float, float]:
        reply, sent, received = super()._run(script, account, *words)
        if script is SCRIPT:
            seconds, micros = divmod(round(self._clock.now().fast * 1e6), 1_000_000)
            reply = [*reply[:3], b"%d" % seconds, b"%d" % micros, *reply[5:]]
        return reply, sent, received
