"""The way in for httpx: a transport for both colours, and what puts it into a client.

It is a transport and not an event hook, because only a transport sees every attempt:
redirects, authentication retries, whatever a retrying transport outside does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import httpx

from quotaguard.clients.exchange import (
    AsyncWitness,
    HeaderView,
    Witness,
    guarded,
    leaves,
    options,
    origin_of,
    refused_stream,
    repeats,
    turned_away,
)
from quotaguard.errors import ConfigError, QuotaGuardError, Refusal
from quotaguard.quota.calls import Call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from quotaguard.clients.exchange import Passage, Tap
    from quotaguard.spending import Spending

__all__ = ["QuotaTransport", "async_client", "attach", "client"]

_OURS: Final = "quotaguard"
_FIRST: Final = "quotaguard.origin"
"""Extensions travel along redirects, so here the origin is noted that the keys are for."""

_ORIGINS: Final = 16
"""Origins that a transport remembers: those of one provider, and a few others."""

_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    QuotaGuardError,  # another account's guard inside
)


class QuotaTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Guards what passes: reserves before, settles after. For Client and AsyncClient.

    inner: the transport that sends, httpx's own by default, made when it is first used.
        It is closed with this one. Retries and caches go outside.

    Calls without a price pass untouched. Each call may bring its own
    ``extensions={"quotaguard": {"priority": "critical", "max_wait": 0}}`` (seconds), and
    ``response.extensions["quotaguard"]`` is a `Receipt`, a live view of what it costs.

    Raises (every call): Refusal: the call was not sent. With
        ``Policy(on_exhausted="respond")`` it is a 429 response instead.

    Raises:
        ConfigError: *inner* is no transport, repeats calls, or has the same guard in it.
    """

    def __init__(
        self,
        spending: Spending,
        inner: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
    ) -> None:
        _check(spending, inner)
        self._spending = spending
        self._inner = inner
        self._sync: Any = inner if hasattr(inner, "handle_request") else None
        self._async: Any = inner if hasattr(inner, "handle_async_request") else None
        self._building = threading.Lock()
        self._origins: dict[tuple[str, bytes], str] = {}

    # -- calls ------------------------------------------------------------------

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* if its quota allows.

        Raises:
            Refusal: it was not sent.
            ConfigError: the inner transport is asynchronous only, or the request's
                options are none.
        """
        inner = self._sync
        if inner is None:
            inner = self._sync_inner()
        passage = self._passage(request)
        if passage is None:
            return inner.handle_request(request)  # type: ignore[no-any-return] # either colour
        try:
            passage.reservation.open()
        except Refusal as refusal:
            return self._refused(passage, refusal)
        witness = None
        try:
            if inner.__class__ is httpx.HTTPTransport:
                request, witness = _witnessed(request, Witness)
            response: httpx.Response = inner.handle_request(request)
            tap = _answered(passage, response)
            if tap is not None:
                response.stream = _Tapped(response.stream, tap)
        except BaseException as error:
            passage.lost(sent=_sent(error, witness))
            raise
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* if its quota allows.

        Raises:
            Refusal: it was not sent.
            ConfigError: the inner transport is synchronous only, or the request's
                options are none.
        """
        inner = self._async
        if inner is None:
            inner = self._async_inner()
        passage = self._passage(request)
        if passage is None:
            return await inner.handle_async_request(request)  # type: ignore[no-any-return] # as above
        try:
            await passage.reservation.aopen()
        except Refusal as refusal:
            return self._refused(passage, refusal)
        witness = None
        try:
            if inner.__class__ is httpx.AsyncHTTPTransport:
                request, witness = _witnessed(request, AsyncWitness)
            response: httpx.Response = await inner.handle_async_request(request)
            tap = _answered(passage, response)
            if tap is not None:
                response.stream = _AsyncTapped(response.stream, tap)
        except BaseException as error:
            # Nothing is awaited here: in a cancelled task that would be cancelled too.
            passage.lost(sent=_sent(error, witness))
            raise
        return response

    def _passage(self, request: httpx.Request) -> Passage | None:
        url, extensions = request.url, request.extensions
        where = url.scheme, url.netloc
        origin = self._origins.get(where)
        if origin is None:
            origin = self._origin(where)
        first = extensions.setdefault(_FIRST, origin)
        if first != origin and leaves(first, origin):
            for name in self._spending.provider.key_headers:
                request.headers.pop(name, None)
        try:
            body = request.content
        except httpx.RequestNotRead:
            body = None
        call = Call(request.method, origin, url.path, HeaderView(request.headers.raw), body)
        told = extensions.get(_OURS)
        if told is None:
            return guarded(self._spending, call)
        return guarded(self._spending, call, *options(self._spending, told))

    def _origin(self, where: tuple[str, bytes]) -> str:
        origin = origin_of(where[0], where[1].decode("ascii"))
        if len(self._origins) < _ORIGINS:
            self._origins[where] = origin
        return origin

    def _refused(self, passage: Passage, refusal: Refusal) -> httpx.Response:
        if self._spending.policy.on_exhausted != "respond":
            raise refusal
        said = turned_away(refusal, self._spending.wall())
        return httpx.Response(
            said.status,
            headers=said.headers,
            content=said.body,
            extensions={_OURS: passage.receipt},
        )

    # -- the inner transport ----------------------------------------------------

    def _sync_inner(self) -> Any:  # noqa: ANN401 - whatever has the method
        if self._inner is not None:
            _wrong_colour(self._inner, "asynchronously", "httpx.AsyncClient")
        with self._building:
            if self._sync is None:
                self._sync = httpx.HTTPTransport()
        return self._sync

    def _async_inner(self) -> Any:  # noqa: ANN401 - as above
        if self._inner is not None:
            _wrong_colour(self._inner, "synchronously", "httpx.Client")
        with self._building:
            if self._async is None:
                self._async = httpx.AsyncHTTPTransport()
        return self._async

    def close(self) -> None:
        """Close the synchronous inner transport, if there is one; not the guard."""
        if self._sync is not None:
            self._sync.close()

    async def aclose(self) -> None:
        """Close the asynchronous inner transport, if there is one; not the guard."""
        if self._async is not None:
            await self._async.aclose()

    def __enter__(self) -> Self:
        (self._sync_inner() if self._sync is None else self._sync).__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._sync is not None:
            self._sync.__exit__(*failure)

    async def __aenter__(self) -> Self:
        await (self._async_inner() if self._async is None else self._async).__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._async is not None:
            await self._async.__aexit__(*failure)

    def __repr__(self) -> str:
        inner = "httpx's own" if self._inner is None else type(self._inner).__name__
        return f"<QuotaTransport {self._spending.provider.name} over {inner}>"


def client(spending: Spending, settings: dict[str, Any]) -> httpx.Client:
    """Return a client with the guard in it, made with httpx.Client's own *settings*."""
    made = httpx.Client(**settings)
    attach(spending, made)
    return made


def async_client(spending: Spending, settings: dict[str, Any]) -> httpx.AsyncClient:
    """Return the same for tasks."""
    made = httpx.AsyncClient(**settings)
    attach(spending, made)
    return made


def attach(spending: Spending, client: httpx.Client | httpx.AsyncClient) -> None:
    """Put the guard into *client*: around its transport and every mount.

    Attaching twice changes nothing. These are private attributes of httpx 0.28; there
    is no public way that keeps proxies and mounts.

    Raises:
        ConfigError: it is no httpx client, or one of its transports cannot be guarded;
            then nothing was changed.
    """
    if not isinstance(client, httpx.Client | httpx.AsyncClient):
        msg = f"attach takes an httpx.Client or httpx.AsyncClient, not a {type(client).__name__}"
        raise ConfigError(msg)
    inside: Any = client
    if not hasattr(inside, "_transport") or not hasattr(inside, "_mounts"):
        msg = f"httpx {httpx.__version__} is not known: give it transport=guard.transport()"
        raise ConfigError(msg)
    made: dict[int, Any] = {}

    def around(transport: Any) -> Any:  # noqa: ANN401 - of either colour
        if transport is None or any(guard is spending for guard in _guards(transport)):
            return transport
        if id(transport) not in made:
            made[id(transport)] = QuotaTransport(spending, transport)
        return made[id(transport)]

    mounts = {pattern: around(mount) for pattern, mount in inside._mounts.items()}  # noqa: SLF001 - see above
    inside._transport, inside._mounts = around(inside._transport), mounts  # noqa: SLF001 - as above


def _guards(transport: object) -> Iterator[Spending]:
    """Yield the guards that are in *transport* already, outermost first."""
    while isinstance(transport, QuotaTransport):
        yield transport._spending  # noqa: SLF001 - this module's own
        transport = transport._inner  # noqa: SLF001 - as above


def _check(spending: Spending, inner: object) -> None:
    if inner is None:
        return
    if isinstance(inner, type) or not (
        hasattr(inner, "handle_request") or hasattr(inner, "handle_async_request")
    ):
        kind = inner if isinstance(inner, type) else type(inner)
        msg = f"guard.transport() takes an httpx transport, not {kind.__name__!r}"
        raise ConfigError(msg)
    if repeats(type(inner)):
        name = type(inner).__name__
        msg = (
            f"{name} inside the guard repeats or answers calls by itself, uncounted: put it "
            f"outside, {name}(transport=guard.transport(...)), so that every attempt is one "
            "reservation. httpx.HTTPTransport(retries=...) may stay, it only connects again"
        )
        raise ConfigError(msg)
    account = spending.provider.account
    if any(guard.provider.account == account for guard in _guards(inner)):
        msg = (
            f"this transport is guarded for the same {spending.provider.name} account "
            "already: every call would be charged twice; guard it once"
        )
        raise ConfigError(msg)


def _wrong_colour(inner: object, how: str, client: str) -> NoReturn:
    name = type(inner).__name__
    msg = f"{name} sends {how} only: use it with {client}, or give the guard one of the other kind"
    raise ConfigError(msg)


def _answered(passage: Passage, response: httpx.Response) -> Tap | None:
    """End the call as far as the headers tell; return what must listen to the body."""
    response.extensions[_OURS] = passage.receipt
    tap = passage.answered(response.status_code, HeaderView(response.headers.raw))
    if tap is None:
        return None
    try:
        # A mock's answer has been read before it was sent, its stream is never looked at.
        body = response.content
    except httpx.ResponseNotRead:
        return tap
    tap.end(whole=True, body=body)
    return None


# -- what was sent --------------------------------------------------------------


def _witnessed(request: httpx.Request, kind: type[Witness]) -> tuple[httpx.Request, Witness]:
    """Return *request* as it goes to httpcore, with a witness in its trace.

    It is a copy: extensions travel along redirects, and there no witness may pile up.
    """
    witness = kind(request.extensions.get("trace"))
    extensions = {**request.extensions, "trace": witness}
    copy = httpx.Request(
        request.method,
        request.url,
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )
    return copy, witness


def _sent(error: BaseException, witness: Witness | None) -> bool:
    """Whether the call may have reached the provider; in doubt it has."""
    if isinstance(error, httpx.RemoteProtocolError) and refused_stream(error.__cause__):
        return False
    if witness is not None:
        return witness.started
    return not isinstance(error, _NEVER_SENT)


# -- bodies that decide ---------------------------------------------------------


class _Tapped(httpx.SyncByteStream):
    """A body on its way to the reader, with the guard listening."""

    def __init__(self, stream: Any, tap: Tap) -> None:  # noqa: ANN401 - of this colour
        self._stream = stream
        self._tap = tap

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._tap.feed(chunk)
            yield chunk
        self._tap.end(whole=True)

    def close(self) -> None:
        """Close it; what was not read to its end decides nothing."""
        self._tap.end(whole=False)
        self._stream.close()


class _AsyncTapped(httpx.AsyncByteStream):
    """The same for tasks."""

    def __init__(self, stream: Any, tap: Tap) -> None:  # noqa: ANN401 - of this colour
        self._stream = stream
        self._tap = tap

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._tap.feed(chunk)
            yield chunk
        self._tap.end(whole=True)

    async def aclose(self) -> None:
        """Close it; what was not read to its end decides nothing."""
        # The end comes first: a cancelled close would not come back for it.
        self._tap.end(whole=False)
        await self._stream.aclose()
