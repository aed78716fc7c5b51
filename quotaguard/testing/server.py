"""A small real HTTP/1.1 server on loopback, and the ways in which an answer can go wrong.

It knows no provider: a handler turns a `Request` into a `Reply` or a `Fault`.
One thread accepts, one thread serves each connection; both end with the server.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Fault", "Handler", "LoopbackServer", "Reply", "Request"]

LINE = 65_536
BODY = 16 * 1024 * 1024
# No test sends longer ones; without a bound a broken client fills the memory.

JOIN = 5.0
# Seconds that stopping waits for a thread: only a handler that hangs needs them.

NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is not HTTP\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    path: without the query. headers: names in lower case, repeated ones joined by
    a comma. body: complete, a chunked one put together.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer; the content length is added.

    delay: real seconds that the answer is held back; the server's end cuts it short.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0

    @classmethod
    def json(
        cls,
        status: int,
        told: Any,  # noqa: ANN401 - whatever JSON can say
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Reply:
        """Return an answer whose body is *told* as JSON."""
        kind = ("Content-Type", "application/json")
        return cls(status, json.dumps(told).encode(), (kind, *headers))


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer that goes wrong on the wire.

    silence: nothing comes until the client gives up.
    reset: RST, nothing before it. close: FIN, nothing before it.
    garbage: bytes that are not HTTP, then FIN.
    truncated: *reply* with its full length announced, half of its body, then FIN.
    drip: the head of *reply*, then its body, one byte every *every* real seconds.
    """

    kind: Literal["silence", "reset", "close", "garbage", "truncated", "drip"]
    reply: Reply = Reply(200, b'{"status":200}')
    every: float = 0.05


Handler = Callable[[Request], Reply | Fault]
"""What a fake is: called from many threads at once."""


class LoopbackServer:
    """Serves *handler* on a free port of 127.0.0.1 between `start` and `stop`.

    ::

        with LoopbackServer(lambda request: Reply(200, b"{}")) as server:
            httpx.get(server.url)

    An exception of the handler is a bug of the fake: it is answered with 500 and
    raised again when the context ends.
    """

    def __init__(self, handler: Handler) -> None:
        self.url = ""
        self.stopping = threading.Event()
        self._handler = handler
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._errors: list[Exception] = []
        self._connections: dict[_Connection, threading.Thread] = {}

    def start(self) -> None:
        """Listen, and accept connections in a daemon thread."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.settimeout(0)
        self._end, self._wake = socket.socketpair()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, name="quotaguard-fake", daemon=True)
        self._accepting.start()

    def stop(self) -> None:
        """Cut every connection, join every thread, close every socket."""
        self.stopping.set()
        self._wake.send(b"!")
        self._accepting.join(JOIN)
        for ours in (self._listener, self._end, self._wake):
            ours.close()
        with self._lock:
            left = list(self._connections.items())
        for connection, _ in left:
            connection.cut()
        for _, thread in left:
            thread.join(JOIN)

    @property
    def requests(self) -> Counter[str]:
        """How many requests came, by path; a copy."""
        with self._lock:
            return self._requests.copy()

    def answer(self, request: Request) -> Reply | Fault:
        """Count *request* and let the handler answer it."""
        with self._lock:
            self._requests[request.path] += 1
        try:
            return self._handler(request)
        except Exception as error:  # noqa: BLE001 - raised again where the test sees it
            self._errors.append(error)
            return Reply.json(500, {"status": 500, "message": "the fake itself failed"})

    def gone(self, connection: _Connection) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._connections.pop(connection, None)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._end, selectors.EVENT_READ)
            while not self.stopping.is_set():
                selector.select()
                with contextlib.suppress(OSError):
                    self._serve(self._listener.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(sock, self)
        thread = threading.Thread(target=connection.run, name="quotaguard-fake", daemon=True)
        with self._lock:
            self._connections[connection] = thread
        thread.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._errors and error is None:
            raise self._errors[0]

    def __repr__(self) -> str:
        return f"<LoopbackServer: {self.url or 'not started'}>"


class _Connection:
    """One connection: reads requests and writes answers until either side ends it."""

    def __init__(self, sock: socket.socket, server: LoopbackServer) -> None:
        self._sock = sock
        self._server = server
        self._reset = False

    def run(self) -> None:
        try:
            # The client may go away at any moment; that is its right.
            with contextlib.suppress(OSError), self._sock.makefile("rb") as stream:
                while self._exchange(stream):
                    pass
        finally:
            if not self._reset:
                # Closing alone sends no FIN while a forked process holds a copy.
                self.cut()
            self._sock.close()
            self._server.gone(self)

    def cut(self) -> None:
        """End the connection from another thread, whatever it waits for."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _exchange(self, stream: BinaryIO) -> bool:
        """Serve one request; return whether the connection goes on."""
        try:
            request = self._read(stream)
        except ValueError as error:
            told = {"status": 400, "message": str(error)}
            self._sock.sendall(_head(reply := Reply.json(400, told), closing=True) + reply.body)
            return False
        if request is None:
            return False
        answer = self._server.answer(request)
        if isinstance(answer, Fault):
            return self._spoil(answer)
        if answer.delay > 0 and self._server.stopping.wait(answer.delay):
            return False
        closing = request.headers.get("connection", "").lower() == "close"
        bare = request.method == "HEAD" or answer.status in {204, 304}
        self._sock.sendall(_head(answer, closing=closing) + (b"" if bare else answer.body))
        return not closing

    def _read(self, stream: BinaryIO) -> Request | None:
        """Return the next request, None where the client has gone.

        Raises:
            ValueError: it is not HTTP, or too long.
        """
        line = stream.readline(LINE)
        if not line.endswith(b"\n"):
            return None
        words = line.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            msg = "not an HTTP/1 request line"
            raise ValueError(msg)
        headers = _headers(stream)
        if headers is None:
            return None
        if headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = _body(stream, headers)
        if body is None:
            return None
        path, _, query = words[1].partition("?")
        return Request(words[0], path, query, headers, body)

    def _spoil(self, fault: Fault) -> bool:
        reply = fault.reply
        if reply.delay > 0 and self._server.stopping.wait(reply.delay):
            return False
        whole = _head(reply, closing=True) + reply.body
        if fault.kind == "silence":
            while self._sock.recv(LINE):
                pass
        elif fault.kind == "reset":
            # Closing with a linger of 0 seconds sends RST instead of FIN.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self._reset = True
        elif fault.kind == "garbage":
            self._sock.sendall(GARBAGE)
        elif fault.kind == "truncated":
            self._sock.sendall(whole[: len(whole) - (len(reply.body) + 1) // 2])
        elif fault.kind == "drip":
            self._sock.sendall(whole[: len(whole) - len(reply.body)])
            for byte in reply.body:
                self._sock.sendall(bytes((byte,)))
                if self._server.stopping.wait(fault.every):
                    break
        return False


def _headers(stream: BinaryIO) -> dict[str, str] | None:
    headers: dict[str, str] = {}
    while True:
        line = stream.readline(LINE)
        if not line.endswith(b"\n"):
            return None
        if line in {b"\r\n", b"\n"}:
            return headers
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or len(headers) > 200:
            msg = "not a header line" if not colon else "too many headers"
            raise ValueError(msg)
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value


def _body(stream: BinaryIO, headers: Mapping[str, str]) -> bytes | None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _chunks(stream)
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= BODY:
        msg = "the content length is out of bounds"
        raise ValueError(msg)
    body = stream.read(length) if length else b""
    return body if len(body) == length else None


def _chunks(stream: BinaryIO) -> bytes | None:
    parts: list[bytes] = []
    left = BODY
    while True:
        line = stream.readline(LINE)
        if not line:
            return None
        size = int(line.split(b";", 1)[0], 16)
        left -= size
        if size < 0 or left < 0:
            msg = "the chunks are out of bounds"
            raise ValueError(msg)
        if size == 0:
            # Trailers end like headers do, with an empty line.
            return None if _headers(stream) is None else b"".join(parts)
        parts.append(stream.read(size))
        stream.readline(LINE)


def _head(reply: Reply, *, closing: bool) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {reply.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    if reply.status not in {204, 304}:
        lines.append(f"Content-Length: {len(reply.body)}")
    if closing:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
