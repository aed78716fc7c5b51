"""The stats exchange of a provider: a poll or a report, over httpx, in both colours.

Rules of this room:

* Never through a guard, redirected or decompressed; at most 256 KiB and 10 seconds.
* Nothing stays open between polls: minutes later a kept connection would be dead, or
  shared with a forked child or with an event loop that has ended.
* What leaves is a record or a ProviderError without a context: the exceptions of HTTP
  libraries hold the request, and the request holds the key.
"""

from __future__ import annotations

import contextvars
import functools
import os
import ssl
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import cachetools
import httpx

from quotaguard.errors import ConfigError, ProviderError, StatsUnavailable, StatsUnreadable
from quotaguard.providers import Provider
from quotaguard.quota.answers import dated
from quotaguard.quota.calls import Outcome, Report, StatsRequest
from quotaguard.quota.origin import loopback
from quotaguard.quota.readings import Reading
from quotaguard.wire import BODY_CAP, Line, Tray, why

if TYPE_CHECKING:
    from anyio import CancelScope

__all__ = ["BODY_CAP", "DEADLINE", "Shelf", "Stats"]

DEADLINE: Final = 10.0  # seconds for a whole exchange, from the name look-up on
CONNECT_WITHIN: Final = 3.0  # seconds for one attempt to connect
KEEP_READING: Final = 60.0  # seconds for which `Stats.recent` can name a reading
KEEP_REPORT: Final = 5.0  # seconds: people look again, pages are loaded twice

T = TypeVar("T")
Parse = Callable[[Outcome], T]
_Ask = Callable[[], StatsRequest]
_Follow = Callable[[StatsRequest, Outcome], _Ask | None]
_Answer = Outcome | ProviderError


class Shelf:
    """Recent readings and reports by key; thread-safe, empty in a forked child.

    Past *size* the one used longest ago goes: never the books, only what can be lost.
    """

    def __init__(self, *, size: int = 64, timer: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._timer = timer
        self._open()

    def _open(self) -> None:
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._items: cachetools.TLRUCache[Hashable, tuple[object, float]] = cachetools.TLRUCache(
            self._size, ttu=lambda _key, item, now: now + item[1], timer=self._timer
        )

    @contextmanager
    def _whole(self) -> Iterator[Any]:
        # Made anew in a fork, whose parent may have held the lock, and after Ctrl-C.
        if self._owner != os.getpid():
            self._open()
        try:
            with self._lock:
                yield self._items
        except BaseException:
            self._open()
            raise

    def get(self, key: Hashable) -> object | None:
        """Return what was put under *key*, None once it has expired."""
        with self._whole() as items:
            return cast("object | None", items.get(key, (None,))[0])

    def put(self, key: Hashable, value: object, seconds: float) -> None:
        """Keep *value* under *key* for *seconds*; 0 removes what was there."""
        with self._whole() as items:
            items.pop(key, None)
            if seconds > 0:
                items[key] = (value, seconds)

    def clear(self) -> None:
        """Forget everything."""
        with self._whole() as items:
            items.clear()


def _renewed(request: StatsRequest, outcome: Outcome) -> _Ask | None:
    """Return what to send once more: the same with another key, where this one is refused."""
    return request.again if outcome.status == 401 else None


class _Question:
    """One poll: made when it is sent, and read by what it asked for."""

    def __init__(self, provider: Provider, wall: float) -> None:
        self._provider = provider
        self._wall = wall
        self._asked: StatsRequest | None = None

    def ask(self) -> StatsRequest:
        self._asked = self._provider.stats_request(self._wall)
        return self._asked

    def follow(self, request: StatsRequest, outcome: Outcome) -> _Ask | None:
        """Return what to send once more: with a new key, or for the window that it is there."""
        at = dated(outcome.headers)
        if outcome.status != 200 or at is None or not self._moved(at):
            return _renewed(request, outcome)
        self._wall = at
        return self.ask

    def _moved(self, at: float) -> bool:
        # An answer that echoes the window of our question says nothing of the provider's
        # clock: by a wrong one of ours an empty window would be read.
        asked = self._asked
        windowed = asked is not None and asked.read is not None
        return windowed and asked != self._provider.stats_request(at)

    def read(self, outcome: Outcome) -> Reading:
        asked, at = self._asked, dated(outcome.headers)
        if outcome.status == 200 and at is not None and self._moved(at):
            msg = "the answer is dated outside of the window that was asked for"
            raise StatsUnreadable(msg, provider=self._provider.name, status=outcome.status)
        parse = (asked and asked.read) or self._provider.read_stats
        return replace(parse(outcome), dated=at)


class Stats:
    """Carries the stats exchanges of one provider. Thread-safe, cheap to construct.

    client: the user's own client, for a corporate proxy or CA; never closed here.
        Calls of the other colour use a client of ours, which ignores what the
        environment names. Redirects and the client's ``auth`` are off either way.
    timer: a clock in seconds, for the age of readings and reports.
    deadline: seconds for a whole exchange.

    Raises:
        ConfigError: *client* is not an HTTP client.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        client: httpx.Client | httpx.AsyncClient | None = None,
        timer: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
    ) -> None:
        if client is not None and not hasattr(client, "build_request"):
            msg = f"stats_client is an httpx client, not {type(client).__name__}"
            raise ConfigError(msg)
        # Asked by trait and not by class: httpx2's clients keep the same contract.
        waits = hasattr(client, "aclose")
        self._client = None if waits else cast("httpx.Client", client)
        self._aclient = cast("httpx.AsyncClient", client) if waits else None
        self._provider = provider
        self._timer = timer
        self._deadline = deadline
        self._shelf = Shelf(timer=timer)

    def __repr__(self) -> str:
        return f"<Stats {self._provider.name}>"

    def fetch(self, wall: float = 0.0) -> Reading:
        """Ask now and return the reading; never from the shelf.

        wall: Unix time now, for providers that want a window of dates.

        Raises:
            StatsUnavailable: no answer, a broken one, a redirect, or a fault of theirs.
            StatsForbidden: the key is not accepted.
            StatsUnreadable: the answer is encoded, too long, or not a reading.
            NoSubscription: the provider says that nothing is subscribed.
        """
        asked, poll = self._timer(), _Question(self._provider, wall)
        answer = self._answer(poll.ask, poll.follow)
        return self._shelved(asked, self._read(poll.read, answer))

    async def afetch(self, wall: float = 0.0) -> Reading:
        """Do what `fetch` does, without blocking the event loop; asyncio and trio."""
        asked, poll = self._timer(), _Question(self._provider, wall)
        answer = await self._answer_async(poll.ask, poll.follow)
        return self._shelved(asked, self._read(poll.read, answer))

    def recent(self, within: float = 1.0) -> Reading | None:
        """Return the last reading if asked for less than *within* (at most 60) seconds ago.

        For displays. A poll is never answered from here: its claim says when it asked.
        """
        asked, reading = cast("tuple[float, Reading | None]", self._shelf.get("stats") or (0, None))
        return reading if self._timer() - asked < within else None

    def fetch_report(self, report: Report[T]) -> T:
        """Ask *report* and return its record; again within 5 seconds, from the shelf.

        Raises:
            ProviderError: as `fetch`.
        """
        shelved = self._shelf.get(("report", report.key))
        return cast("tuple[T]", shelved or self._kept(report, self._answer(report.ask)))[0]

    async def afetch_report(self, report: Report[T]) -> T:
        """Do what `fetch_report` does, without blocking the event loop."""
        shelved = self._shelf.get(("report", report.key))
        return cast(
            "tuple[T]", shelved or self._kept(report, await self._answer_async(report.ask))
        )[0]

    def _kept(self, report: Report[T], answer: _Answer) -> tuple[T]:
        kept = (self._read(report.read, answer),)
        self._shelf.put(("report", report.key), kept, KEEP_REPORT)
        return kept

    def close(self) -> None:
        """Forget recent answers. No connection is open between two exchanges."""
        self._shelf.clear()

    async def aclose(self) -> None:
        """Do what `close` does."""
        self.close()

    def _shelved(self, asked: float, reading: Reading) -> Reading:
        newest, _ = cast("tuple[float, Reading]", self._shelf.get("stats") or (asked, None))
        if newest <= asked:
            self._shelf.put("stats", (asked, reading), KEEP_READING)
        return reading

    def _read(self, parse: Parse[T], answer: _Answer) -> T:
        said = answer
        if isinstance(said, Outcome):
            try:
                return parse(said)
            except ProviderError as error:
                said = error
            except Exception as error:  # noqa: BLE001 - a poll must not raise anything else
                msg = f"the answer could not be read ({type(error).__name__})"
                said = self._error(StatsUnreadable, msg, said)
        # What it came from may hold the key or the body, and so may its frames.
        said.__cause__ = said.__context__ = None
        raise said.with_traceback(None)

    # The synchronous colour. A socket's timeout starts anew with every byte, and a name
    # look-up has none: only a second thread can promise the caller an end.

    def _answer(self, ask: _Ask, follow: _Follow = _renewed) -> _Answer:
        line, done = Line(), Future[_Answer]()
        run = contextvars.copy_context().run
        carry = functools.partial(run, self._carry, ask, follow, line, done)
        try:
            threading.Thread(target=carry, name="quotaguard-poll", daemon=True).start()
            return done.result(self._deadline)
        except (TimeoutError, RuntimeError) as error:  # RuntimeError: no thread starts any more
            return self._failed(error)
        finally:
            if not done.done():
                line.cut()

    def _carry(self, ask: _Ask, follow: _Follow, line: Line, done: Future[_Answer]) -> None:
        try:
            request = ask()
            outcome = self._exchange(request, line)
            again = follow(request, outcome)
            if again is not None:
                outcome = self._exchange(again(), line)
            done.set_result(outcome)
        except Exception as error:  # noqa: BLE001 - every fault on the way is a failed poll
            done.set_result(self._failed(error))
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits
            done.set_exception(error)

    def _exchange(self, request: StatsRequest, line: Line) -> Outcome:
        with ExitStack() as stack:
            client = self._client or stack.enter_context(httpx.Client(**self._own(request)))
            asked = client.build_request(**self._asked(request), extensions={"trace": line.trace})
            response = client.send(asked, stream=True, auth=None, follow_redirects=False)
            stack.callback(response.close)
            tray = Tray(response, request.headers.values())
            if response.is_stream_consumed:  # by a mock transport, or by the user's hook
                tray.add(response.content)
            elif tray.open:
                for chunk in response.iter_raw():
                    if line.was_cut or not tray.add(chunk):
                        break
        return self._checked(tray)

    async def _answer_async(self, ask: _Ask, follow: _Follow = _renewed) -> _Answer:
        import anyio  # noqa: PLC0415 - only asynchronous callers pay for it

        try:
            with anyio.fail_after(self._deadline):
                # Where the user's own code is asked for a key, it may ask somebody else.
                aside = functools.partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
                slow = getattr(self._provider, "asks_for_key", False)
                request = await aside(ask) if slow else ask()
                outcome = await self._exchange_async(request, anyio.CancelScope())
                again = follow(request, outcome)
                if again is not None:
                    request = await aside(again)
                    outcome = await self._exchange_async(request, anyio.CancelScope())
                return outcome
        except Exception as error:  # noqa: BLE001 - every fault on the way is a failed poll
            return self._failed(error)

    async def _exchange_async(self, request: StatsRequest, body: CancelScope) -> Outcome:
        async with AsyncExitStack() as stack:
            client = self._aclient or httpx.AsyncClient(**self._own(request))
            if client is not self._aclient:
                await stack.enter_async_context(client)
            asked = client.build_request(**self._asked(request))
            response = await client.send(asked, stream=True, auth=None, follow_redirects=False)
            stack.push_async_callback(response.aclose)
            tray = Tray(response, request.headers.values())
            if response.is_stream_consumed:
                tray.add(response.content)
            elif tray.open:
                # Breaking out would leave nested generators to the collector, of which
                # trio complains; cancelled from within they end in order.
                with body:
                    async for chunk in response.aiter_raw():
                        if not tray.add(chunk):
                            body.cancel()
        return self._checked(tray)

    def _own(self, request: StatsRequest) -> dict[str, Any]:
        url = httpx.URL(request.url)
        plain = url.scheme == "http" and loopback(url.host)
        if url.userinfo or not (plain or url.scheme == "https"):
            msg = "the stats URL must be https, without user and password; nothing was sent"
            raise self._error(StatsUnavailable, msg)
        trust = _trusted(plain=plain)
        return {"verify": trust, "trust_env": False, "headers": {"user-agent": "quotaguard"}}

    def _asked(self, request: StatsRequest) -> dict[str, Any]:
        # A gzip of 194 KB can unpack to 67 MB in its first chunk, before any cap is seen.
        headers = httpx.Headers(dict(request.headers))
        headers["accept-encoding"] = "identity"
        return {
            "method": request.method,
            "url": request.url,
            "headers": headers.multi_items(),
            "content": request.body,
            "timeout": (min(CONNECT_WITHIN, self._deadline), *[self._deadline] * 3),
        }

    def _checked(self, tray: Tray) -> Outcome:
        if 300 <= tray.status < 400:
            msg = f"the stats endpoint answered a redirect ({tray.status}); polls follow none"
            raise self._error(StatsUnavailable, msg, tray)
        # Other statuses speak for themselves: a 401 behind a clumsy proxy is still a 401.
        if 200 <= tray.status < 300 and not tray.open:
            kind = f"longer than {BODY_CAP // 1024} KiB" if tray.size > BODY_CAP else "compressed"
            msg = f"the answer is {kind}, and polls take it short and as it is"
            raise self._error(StatsUnreadable, msg, tray)
        return Outcome(tray.status, tray.headers, bytes(tray.body))

    def _failed(self, error: Exception) -> ProviderError:
        if isinstance(error, ProviderError):
            return error
        late = f"no whole answer within {self._deadline:g} s"
        reason = late if isinstance(error, TimeoutError) else why(error)
        return self._error(StatsUnavailable, f"the stats poll failed: {reason}")

    def _error(
        self, kind: type[ProviderError], msg: str, answer: Outcome | Tray | None = None
    ) -> ProviderError:
        status = answer.status if answer else None
        given = answer.request_id if isinstance(answer, Tray) else None
        return kind(msg, provider=self._provider.name, status=status, request_id=given)


@functools.cache
def _trusted(*, plain: bool) -> ssl.SSLContext:
    # Once: 20 ms of certificates, and a child that is forked while OpenSSL works may hang.
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    return bare if plain else httpx.create_ssl_context(trust_env=False)
