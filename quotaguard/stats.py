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
import socket
import ssl
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import cachetools
import httpx

from quotaguard.errors import ConfigError, ProviderError, StatsUnavailable, StatsUnreadable
from quotaguard.providers import Provider
from quotaguard.quota.calls import Outcome, StatsRequest
from quotaguard.quota.readings import NOTHING, Reading

if TYPE_CHECKING:
    from anyio import CancelScope

__all__ = ["BODY_CAP", "DEADLINE", "Shelf", "Stats"]

BODY_CAP: Final = 256 * 1024  # bytes of an answer; stats answers are a few KiB
DEADLINE: Final = 10.0  # seconds for a whole exchange, from the name look-up on
CONNECT_WITHIN: Final = 3.0  # seconds for one attempt to connect
KEEP_READING: Final = 60.0  # seconds for which `Stats.recent` can name a reading

T = TypeVar("T")
Parse = Callable[[Outcome], T]
_Ask = Callable[[], StatsRequest]
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

    def fetch(self) -> Reading:
        """Ask now and return the reading; never from the shelf.

        Raises:
            StatsUnavailable: no answer, a broken one, a redirect, or a fault of theirs.
            StatsForbidden: the key is not accepted.
            StatsUnreadable: the answer is encoded, too long, or not a reading.
            NoSubscription: the provider says that nothing is subscribed.
        """
        asked = self._timer()
        answer = self._answer(self._provider.stats_request)
        return self._shelved(asked, self._read(self._provider.read_stats, answer))

    async def afetch(self) -> Reading:
        """Do what `fetch` does, without blocking the event loop; asyncio and trio."""
        asked = self._timer()
        answer = await self._answer_async(self._provider.stats_request)
        return self._shelved(asked, self._read(self._provider.read_stats, answer))

    def recent(self, within: float = 1.0) -> Reading | None:
        """Return the last reading if asked for less than *within* (at most 60) seconds ago.

        For displays. A poll is never answered from here: its claim says when it asked.
        """
        asked, reading = cast("tuple[float, Reading | None]", self._shelf.get("stats") or (0, None))
        return reading if self._timer() - asked < within else None

    def fetch_report(
        self, request: StatsRequest, parse: Parse[T], *, key: Hashable, seconds: float = 1.0
    ) -> T:
        """Carry another stats endpoint's *request* and return what *parse* makes of it.

        key: names the report and its parameters.
        seconds: asking again for *key* within them costs no second exchange.

        Raises:
            ProviderError: as `fetch`.
        """
        if (shelved := self._shelf.get(("report", key))) is not None:
            return cast("T", shelved)
        report = self._read(parse, self._answer(lambda: request))
        self._shelf.put(("report", key), report, seconds)
        return report

    async def afetch_report(
        self, request: StatsRequest, parse: Parse[T], *, key: Hashable, seconds: float = 1.0
    ) -> T:
        """Do what `fetch_report` does, without blocking the event loop."""
        if (shelved := self._shelf.get(("report", key))) is not None:
            return cast("T", shelved)
        report = self._read(parse, await self._answer_async(lambda: request))
        self._shelf.put(("report", key), report, seconds)
        return report

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

    def _answer(self, ask: _Ask) -> _Answer:
        line, done = _Line(), Future[_Answer]()
        carry = functools.partial(contextvars.copy_context().run, self._carry, ask, line, done)
        try:
            threading.Thread(target=carry, name="quotaguard-poll", daemon=True).start()
            return done.result(self._deadline)
        except (TimeoutError, RuntimeError) as error:  # RuntimeError: no thread starts any more
            return self._failed(error)
        finally:
            if not done.done():
                line.cut()

    def _carry(self, ask: _Ask, line: _Line, done: Future[_Answer]) -> None:
        try:
            done.set_result(self._exchange(ask(), line))
        except Exception as error:  # noqa: BLE001 - every fault on the way is a failed poll
            done.set_result(self._failed(error))
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits
            done.set_exception(error)

    def _exchange(self, request: StatsRequest, line: _Line) -> Outcome:
        with ExitStack() as stack:
            client = self._client or stack.enter_context(httpx.Client(**self._own(request)))
            asked = client.build_request(**self._asked(request), extensions={"trace": line.trace})
            response = client.send(asked, stream=True, auth=None, follow_redirects=False)
            stack.callback(response.close)
            tray = _Tray(response)
            if response.is_stream_consumed:  # by a mock transport, or by the user's hook
                tray.add(response.content)
            elif tray.open:
                for chunk in response.iter_raw():
                    if line.was_cut or not tray.add(chunk):
                        break
        return self._checked(tray)

    async def _answer_async(self, ask: _Ask) -> _Answer:
        import anyio  # noqa: PLC0415 - only asynchronous callers pay for it

        try:
            with anyio.fail_after(self._deadline):
                return await self._exchange_async(ask(), anyio.CancelScope())
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
            tray = _Tray(response)
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
        plain = url.scheme == "http" and url.host in {"localhost", "127.0.0.1", "::1"}
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

    def _checked(self, tray: _Tray) -> Outcome:
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
        why = late if isinstance(error, TimeoutError) else _why(error)
        return self._error(StatsUnavailable, f"the stats poll failed: {why}")

    def _error(
        self, kind: type[ProviderError], msg: str, answer: Outcome | _Tray | None = None
    ) -> ProviderError:
        status, headers = (answer.status, answer.headers) if answer else (None, NOTHING)
        request = headers.get("x-request-id", "")[:64] or None
        return kind(msg, provider=self._provider.name, status=status, request_id=request)


class _Tray:
    """One answer on its way in: at most `BODY_CAP` raw bytes of it, none if encoded."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = dict(response.headers)
        coding = self.headers.get("content-encoding", "").strip().lower()
        self.open = coding in ("", "identity")
        self.body = bytearray()
        self.size = 0

    def add(self, chunk: bytes) -> bool:
        """Take *chunk* in; False once no more is wanted."""
        self.size += len(chunk)
        self.open = self.open and self.size <= BODY_CAP
        if self.open:
            self.body += chunk
        return self.open


class _Line:
    """The connection of one synchronous exchange, so that its waiter can cut it."""

    def __init__(self) -> None:
        self._stream: Any = None
        self.was_cut = False

    def trace(self, _event: str, info: Mapping[str, Any]) -> None:
        """Note a new stream. Called by httpcore at every step of the exchange."""
        stream = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            self._stream = stream
            # Nowhere else: httpcore's own closing steps come by here too.
            if self.was_cut:
                self._stream.close()
                raise TimeoutError

    def cut(self) -> None:
        """End the exchange: a blocked read returns, a connection in the making is closed."""
        self.was_cut = True
        wire = self._stream and self._stream.get_extra_info("socket")
        # SSLSocket.shutdown would take the TLS state from under the thread that reads.
        with suppress(OSError, TypeError):  # closed meanwhile; not a socket at all
            socket.socket.shutdown(wire, socket.SHUT_RDWR)


@functools.cache
def _trusted(*, plain: bool) -> ssl.SSLContext:
    # Once: 20 ms of certificates, and a child that is forked while OpenSSL works may hang.
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    return bare if plain else httpx.create_ssl_context(trust_env=False)


_CAUSES: Final = (
    (ssl.SSLCertVerificationError, "the TLS certificate is not accepted"),
    (ssl.SSLError, "the TLS handshake failed"),
    (socket.gaierror, "the host name does not resolve"),
    (ConnectionRefusedError, "connection refused"),
)


def _why(error: BaseException) -> str:
    """Return the reason of a fault by classes alone: messages quote URLs and headers."""
    causes = [error]
    for cause in causes:
        behind = (cause.__cause__, cause.__context__, *getattr(cause, "exceptions", ()))
        causes += [one for one in behind if one is not None and one not in causes]
    for kind, reason in _CAUSES:
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    name = type(error).__name__
    return f"no answer in time ({name})" if "Timeout" in name else name
