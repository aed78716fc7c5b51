"""Raw servers on loopback: every connection follows a script, byte by byte.

`quotaguard.testing.server` speaks HTTP well and spoils an answer on request. Here nothing
is spoken that a script does not say, so that it can break off anywhere.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

__all__ = [
    "Script",
    "Server",
    "Wire",
    "answer",
    "answering",
    "closed_port",
    "full_port",
    "in_turn",
    "serving",
]

RESET = struct.pack("ii", 1, 0)
"""A linger of 0 seconds: closing sends RST instead of FIN."""


class Wire:
    """One accepted connection, and the last request that came over it."""

    def __init__(self, connection: socket.socket, stop: threading.Event) -> None:
        self._connection = connection
        self._stop = stop
        self.request = b""

    def read(self) -> bool:
        """Read a request, its body too; False where the client has gone."""
        self.request = b""
        while b"\r\n\r\n" not in self.request and (chunk := self._connection.recv(65536)):
            self.request += chunk
        head, _, body = self.request.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        while len(body) < length and (chunk := self._connection.recv(65536)):
            self.request += chunk
            body += chunk
        return bool(self.request)

    def read_head(self) -> None:
        """Read no further than the first byte of a request."""
        self.request = self._connection.recv(1)

    def receive(self) -> bytes:
        """Return what has come, nothing where the client has gone."""
        return self._connection.recv(65536)

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send *data* byte by byte, each well within any timeout of a single read."""
        for byte in data:
            if self._stop.wait(0.01):
                return
            self.send(bytes([byte]))

    def hold(self) -> None:
        """Say nothing until the client has gone, or the server ends."""
        while not self._stop.is_set():
            self._connection.settimeout(0.05)
            with suppress(TimeoutError):
                if not self._connection.recv(65536):
                    return

    def wait(self) -> None:
        """Take nothing, until the server ends or a second is over."""
        self._stop.wait(1)

    def reset(self) -> None:
        """Let the connection's end be a RST."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


Script = Callable[[Wire], None]
"""What a connection does; it is closed at the end."""


class Server:
    """A loopback server whose every connection follows one script.

    tls: returns the context of a connection by its number, from 0; None for plain TCP.
    """

    def __init__(
        self, script: Script, tls: Callable[[int], ssl.SSLContext | None] = lambda _: None
    ) -> None:
        self._script = script
        self._tls = tls
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._threads = [threading.Thread(target=self._accept, name="wires")]
        self._threads[0].start()
        self.port = self._listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/stats"
        self.requests: list[bytes] = []

    def _accept(self) -> None:
        for number in itertools.count():
            connection, _ = self._listener.accept()
            if self._stop.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection, number), name="wires")
            ended = [each for each in self._threads[1:] if not each.is_alive()]
            self._threads = [each for each in self._threads if each not in ended] + [thread]
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        context = self._tls(number)
        with suppress(OSError):
            if context is not None:
                # The plain socket is the wrapped one's from here on, or was closed by it.
                connection = context.wrap_socket(connection, server_side=True)
        wire = Wire(connection, self._stop)
        with connection, suppress(OSError):
            if context is None or isinstance(connection, ssl.SSLSocket):
                self._script(wire)
        self.requests.append(wire.request)

    @property
    def connections(self) -> list[threading.Thread]:
        """The threads that serve connections."""
        return self._threads[1:]

    def close(self) -> None:
        """End every connection and wait for every thread."""
        self._stop.set()
        with socket.create_connection(("127.0.0.1", self.port)):
            self._threads[0].join(5)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()


@contextmanager
def serving(
    script: Script, tls: Callable[[int], ssl.SSLContext | None] = lambda _: None
) -> Iterator[Server]:
    """Run a server."""
    server = Server(script, tls)
    try:
        yield server
    finally:
        server.close()


def in_turn(*scripts: Script) -> Script:
    """Return a script that is another one for each connection, and stays with the last."""
    turns = itertools.chain(scripts, itertools.repeat(scripts[-1]))
    lock = threading.Lock()

    def script(wire: Wire) -> None:
        with lock:
            mine = next(turns)
        mine(wire)

    return script


def answer(status: str, headers: str, body: bytes) -> bytes:
    """Return the bytes of a whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def answering(
    status: str = "200 OK", headers: str = "", body: bytes = b'{"used": 3, "limit": 9}'
) -> Script:
    """Return a script that reads a request and answers it."""

    def script(wire: Wire) -> None:
        wire.read()
        wire.send(answer(status, headers, body))

    return script


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def full_port() -> Iterator[str]:
    """Give a port of loopback whose queue is full: nobody is connected, nobody refused."""
    with ExitStack() as stack:
        ours = stack.enter_context(socket.socket())
        ours.bind(("127.0.0.1", 0))
        ours.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(ours.getsockname())
        yield f"http://127.0.0.1:{ours.getsockname()[1]}"


# -- scripts that no client likes ---------------------------------------------------
# Those that answer at all say what would be good news, if somebody believed it.

GOOD_NEWS = b'{"used": 0, "limit": 1000000}'


def silent(wire: Wire) -> None:
    """Read, and say nothing."""
    wire.read()
    wire.hold()


def deaf(wire: Wire) -> None:
    """Neither read nor say anything."""
    wire.hold()


def dripping_headers(wire: Wire) -> None:
    """Begin to answer, and take very long."""
    wire.read()
    wire.drip(answer("200 OK", f"X-Slow: {'z' * 600}\r\n", GOOD_NEWS))


def dripping_body(wire: Wire) -> None:
    """Answer at once, and take very long over the body."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
    wire.drip(GOOD_NEWS.ljust(600))


def flooding_with_hints(wire: Wire) -> None:
    """Send one interim answer after the other."""
    wire.read()
    for _ in range(600):
        wire.drip(b"H")
        wire.send(b"TTP/1.1 103 Early Hints\r\n\r\n")
    wire.send(answer("200 OK", "", GOOD_NEWS))


def closing_at_once(wire: Wire) -> None:
    """Accept, and close."""


def closing_after_the_request(wire: Wire) -> None:
    """Read, and close."""
    wire.read()


def resetting_at_once(wire: Wire) -> None:
    """Accept, and reset."""
    wire.reset()


def resetting(wire: Wire) -> None:
    """Read, and reset."""
    wire.read()
    wire.reset()


def breaking_off_headers(wire: Wire) -> None:
    """Answer half a head."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Le")


def breaking_off_body(wire: Wire) -> None:
    """Announce more than is sent."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + GOOD_NEWS)


def resetting_in_the_body(wire: Wire) -> None:
    """Announce more than is sent, and reset."""
    breaking_off_body(wire)
    wire.reset()


def garbage(wire: Wire) -> None:
    """Answer in another protocol."""
    wire.read()
    wire.send(b"\x16\x03\x01\x00\xff\xfe SSH-2.0 hello\r\n\r\n")


def garbled_chunks(wire: Wire) -> None:
    """Announce chunks, and send none."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")


def endless_headers(wire: Wire) -> None:
    """Send headers without an end."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        wire.send(b"X-More: " + b"m" * 4000 + b"\r\n")


def endless_body(wire: Wire) -> None:
    """Send a body without an end."""
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        wire.send(b" " * 4096)
