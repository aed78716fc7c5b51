"""Books that hosts share: one hash per account on a Redis or Valkey server."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from quotaguard.clock import Clock, SystemClock
from quotaguard.errors import ConfigError, LedgerUnavailable
from quotaguard.quota.policy import Duration
from quotaguard.quota.readings import Moment
from quotaguard.sharing.ledger import LEASE, SharedLedger
from quotaguard.sharing.redis_words import (
    FAULTS,
    MEMORY,
    SCHEMES,
    SCRIPT,
    code_of,
    name_of_client,
    name_of_url,
    options_of,
    reason_of,
)
from quotaguard.sharing.servertime import Sample, ServerTime
from quotaguard.sharing.store import Draft, Seen, Turn

__all__ = ["RedisLedger", "RedisStore"]

SECONDS = 5.0
"""How long an exchange goes on when others are always faster."""


PAUSE = (0.0005, 0.002)
"""Seconds before one asks again whose turn it is not; at random, so that they part."""


_INHERITED: list[object] = []
"""Clients of a parent, in a child."""


class Answer(NamedTuple):
    """What the script answers."""

    written: bool
    version: str
    text: str
    era: str


class Lost(Exception):
    """A command was sent, or may have been, and its answer did not come."""


class NoScript(Exception):
    """The server does not have the script; nothing ran."""


class RedisStore:
    """Texts in hashes ``qg:{account}``, swapped by a script.

    where: a URL (``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``),
        or a synchronous client of redis or valkey: of a server, of a cluster, or what
        Sentinel's ``master_for`` gives. Yours is never closed.
    warnings: what whoever runs the server should know; each is there once.

    Raises:
        ConfigError: it is none of these, or the package is missing.
    """

    remote = True

    def __init__(self, where: object, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._url = where if isinstance(where, str) else None
        self.name = name_of_url(where) if isinstance(where, str) else name_of_client(where)
        self._client: Any = where if self._url is None else _connect(self._url)
        self._errors = _errors_of(self._client)
        # An account's server, and with it its clock: in a cluster each may have another one.
        self._times: dict[str, ServerTime] = {}
        self._me, self._random = os.urandom(8).hex(), random.Random()  # noqa: S311 - of pauses
        self.warnings: list[str] = []
        if options_of(self._client).get("socket_timeout") is None:
            self._warn("the client has no socket_timeout: a server that hangs stops the ledger")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        """See `quotaguard.sharing.store.Store`; one round trip where nobody was faster."""
        until, tried, slower, lost = self._clock.fast() + SECONDS, set[str](), 0, 0
        try:
            seen = self._unasked(account, known)
            asked = seen is None
            if seen is None:
                seen = self._seen(account, self._look(account, known), Seen(known, None, *NOWHERE))
            while True:
                draft = turn(seen)
                if draft is None and asked:
                    return seen.version
                if slower and self._clock.fast() > until:
                    raise self._unavailable("others were always faster", "Try again later")
                try:
                    if draft is None:
                        answer = self._look(account, seen.version)
                    else:
                        tried.add(draft.version)
                        answer = self._swap(account, seen, draft, slower)
                        slower += 1
                except Lost:
                    lost += 1
                    answer = self._look(account, seen.version)
                if answer.version in tried:
                    return answer.version
                if lost > 1:
                    raise self._unavailable("it stopped answering twice", "Look at its log")
                seen, asked = self._seen(account, answer, seen), True
        except LedgerUnavailable as fault:
            fault.unsure = lost > 0
            raise

    def _swap(self, account: str, seen: Seen, draft: Draft, slower: int) -> Answer:
        claim = "claim" if slower else ""
        answer = self._ask(account, "swap", seen.version, seen.era, *draft, self._me, claim)
        if not answer.written and (answer.version, answer.era) == (seen.version, seen.era):
            # It is somebody's turn who was slower than others.
            threading.Event().wait(self._random.uniform(*PAUSE))
        return answer

    def forked(self) -> None:
        """See `quotaguard.sharing.store.Store`. A client of yours sees itself that it forked."""
        if self._url is not None:
            # Kept: closing it would wait for locks of threads that are not here.
            _INHERITED.append(self._client)
            self._client = _connect(self._url)
        self._me, self._random = os.urandom(8).hex(), random.Random()  # noqa: S311 - of pauses

    def close(self) -> None:
        """Let go of connections; yours stay as they are."""
        if self._url is not None:
            self._client.close()

    # -- what is known of the server ----------------------------------------------

    def _unasked(self, account: str, known: str) -> Seen | None:
        """Return what may be told without asking; None where that is not enough."""
        times = self._times.get(account)
        if not known or times is None or times.stale(self._clock.fast()):
            return None
        return Seen(known, None, self._now(times), times.era)

    def _now(self, times: ServerTime) -> Moment:
        moment = self._clock.now()
        return Moment(*times.between(moment.fast), moment.wall)

    def _seen(self, account: str, answer: Answer, before: Seen) -> Seen:
        same = answer.version == before.version
        text = before.text if same else answer.text
        now = self._now(self._times[account])
        return Seen(answer.version, text if answer.version else None, now, answer.era)

    def _heed(self, account: str, era: str) -> None:
        """Look how a server is set up that we have not spoken to before."""
        if not era:
            self._warn("the user may not run INFO: a failover or a restart cannot be seen")
        with suppress(LedgerUnavailable, Lost):
            most, policy = self._run(MEMORY, account)[0]
            if int(most or 0) and policy not in {b"", b"noeviction"}:
                self._warn(
                    f"maxmemory-policy is {policy.decode()}: the server may throw the books "
                    "away. Set it to noeviction"
                )

    def _warn(self, text: str) -> None:
        if (told := f"{self.name}: {text}") not in self.warnings:
            self.warnings.append(told)

    # -- the wire -----------------------------------------------------------------

    def _look(self, account: str, known: str) -> Answer:
        try:
            return self._ask(account, "look", known)
        except Lost as lost:
            raise self._unavailable(f"it did not answer ({lost})", "Look at its log") from None

    def _ask(self, account: str, *words: str) -> Answer:
        reply, sent, received = self._run(SCRIPT, account, *words)
        written, version, text, seconds, micros, era = reply
        first = account not in self._times
        times = self._times.setdefault(account, ServerTime())
        before, told = times.era, era.decode()
        times.note(Sample(int(seconds) + int(micros) / 1e6, sent, received), told)
        if first or told != before:
            self._heed(account, told)
        # What is not ours may be anything; what reads it will say so.
        return Answer(
            bool(written), version.decode(errors="replace"), text.decode(errors="replace"), told
        )

    def _run(self, script: str, account: str, *words: str) -> tuple[Any, float, float]:
        """Run a script; return its answer, and when it was sent and received."""
        key = f"qg:{{{account}}}".encode()
        told = [b"1", key, *(word.encode() for word in words)]
        send = self._send_to_node if hasattr(self._client, "get_node_from_key") else self._send
        try:
            return send(key, "EVALSHA", _digest(script), *told)
        except NoScript:
            return send(key, "EVAL", script, *told)

    def _send(self, _key: bytes, *command: str | bytes) -> tuple[Any, float, float]:
        # Not execute_command: a client that tries again by itself would not tell whether
        # the first try had gone out.
        pool = self._client.connection_pool
        try:
            wanted = ["EVALSHA"] if _wants_command(type(pool).get_connection) else []
            connection = pool.get_connection(*wanted)
        except self._errors as error:
            raise self._fault(error) from None
        try:
            sent = self._clock.fast()
            connection.send_command(*command)
            return connection.read_response(disable_decoding=True), sent, self._clock.fast()
        except self._errors as error:
            if (code := code_of(error)) != "NOSCRIPT":
                # Where a server goes on with us late, or is not the primary any more.
                connection.disconnect()
            raise (self._fault(error) if code else Lost(reason_of(error))) from None
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _send_to_node(self, key: bytes, *command: str | bytes) -> tuple[Any, float, float]:
        cluster = self._client
        try:
            node = cluster.get_node_from_key(key)
            sent = self._clock.fast()
            # With a node named, it follows the cluster's directions and does not try again.
            answer = cluster.execute_command(*command, target_nodes=node, NEVER_DECODE=True)
        except self._errors as error:
            raise (self._fault(error) if code_of(error) else Lost(reason_of(error))) from None
        return answer, sent, self._clock.fast()

    def _fault(self, error: Exception) -> Exception:
        """Return what is to be raised where nothing was written."""
        code = code_of(error)
        if code == "NOSCRIPT":
            return NoScript()
        if code in FAULTS:
            return self._unavailable(*FAULTS[code])
        if code:
            if "DB index" in str(error):
                return self._unavailable("it has no such db", "Look at the number in the URL")
            return self._unavailable("it refused the script", "Redis 6.2 or Valkey is needed")
        return self._unavailable(f"it cannot be reached ({reason_of(error)})", "Is it running?")

    def _unavailable(self, what: str, advice: str) -> LedgerUnavailable:
        return LedgerUnavailable(f"{self.name}: {what}. {advice}", store=self.name)


NOWHERE = (Moment(0, 0, 0), "")


@functools.cache
def _wants_command(get_connection: Callable[..., object]) -> bool:
    """Whether connections are taken for a command: older clients ask, newer ones warn of it."""
    wanted = inspect.signature(get_connection).parameters.get("command_name")
    return wanted is not None and wanted.default is wanted.empty


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _package() -> ModuleType:
    for name in ("redis", "valkey"):
        with suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ConfigError("the Redis ledger needs an extra: pip install 'quotaguard[redis]'")


def _connect(url: str) -> Any:  # noqa: ANN401 - redis or valkey
    scheme, _, rest = url.partition("://")
    package = _package()
    client = package.Redis if package.__name__ == "redis" else package.Valkey
    retry = importlib.import_module(f"{package.__name__}.retry").Retry
    pause = importlib.import_module(f"{package.__name__}.backoff").NoBackoff
    try:
        made = client.from_url(
            f"{SCHEMES[scheme.lower()]}://{rest}",
            # What the URL says goes first.
            socket_connect_timeout=1.0,
            socket_timeout=1.0,
            protocol=2,
            retry=retry(pause(), 0),
        )
        # It is not connected; this finds options that are none.
        made.connection_pool.connection_class(**made.connection_pool.connection_kwargs)
    except Exception:  # noqa: BLE001 - its words may hold the password
        told = ", ".join(sorted(parse_qs(urlsplit(url).query))) or "none"
        raise ConfigError(f"the Redis URL cannot be used; its options are: {told}") from None
    return made


def _errors_of(client: object) -> tuple[type[Exception], ...]:
    """Return what a client of this package raises."""
    names = {kind.__module__.partition(".")[0] for kind in type(client).__mro__}
    found: list[type[Exception]] = [OSError]
    for package in names & {"redis", "valkey"}:
        errors = importlib.import_module(f"{package}.exceptions")
        title = package.title()
        found += [getattr(errors, f"{title}Error"), getattr(errors, f"{title}ClusterException")]
    return tuple(found)


class RedisLedger(SharedLedger):
    """Books on a Redis or Valkey server, for many hosts. Exact among all of them.

    where: a URL (``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``),
        or a synchronous client of redis or valkey: of a server, of a cluster, or what
        Sentinel's ``master_for`` gives. Event loops never wait for it.
    lease: seconds for which a process may spend from its allotment without being heard of,
        while the server cannot be reached. 0.1 s or more.

    Raises:
        ConfigError: it is none of these, or the package is missing.
    """

    def __init__(
        self, where: object, *, lease: Duration = LEASE, clock: Clock | None = None
    ) -> None:
        clock = clock or SystemClock()
        super().__init__(RedisStore(where, clock), lease=lease, clock=clock)
