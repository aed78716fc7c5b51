"""The wire of one stats exchange: what is taken of an answer, how it is cut, why it failed."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import httpx

__all__ = ["BODY_CAP", "Line", "Tray", "why"]

_PLAIN: Final = re.compile(r"[!-~]{1,80}")

BODY_CAP: Final = 256 * 1024  # bytes of an answer; stats answers are a few KiB


class Tray:
    """One answer on its way in: at most `BODY_CAP` raw bytes of it, none if encoded.

    sent: values of the headers that were sent, one of which is the key.
    request_id: theirs, where it is a plain word and has nothing in it that was sent.
    """

    def __init__(self, response: httpx.Response, sent: Iterable[str]) -> None:
        self.status = response.status_code
        self.headers = dict(response.headers)
        coding = self.headers.get("content-encoding", "").strip().lower()
        self.open = coding in ("", "identity")
        words = {word for value in sent for word in value.split()}
        said = self.headers.get("x-request-id", "")
        plain = _PLAIN.fullmatch(said) and not any(word in said for word in words)
        self.request_id = said if plain else None
        self.body = bytearray()
        self.size = 0

    def add(self, chunk: bytes) -> bool:
        """Take *chunk* in; False once no more is wanted."""
        self.size += len(chunk)
        self.open = self.open and self.size <= BODY_CAP
        if self.open:
            self.body += chunk
        return self.open


class Line:
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


_CAUSES: Final = (
    (ssl.SSLCertVerificationError, "the TLS certificate is not accepted"),
    (ssl.SSLError, "the TLS handshake failed"),
    (socket.gaierror, "the host name does not resolve"),
    (ConnectionRefusedError, "connection refused"),
)


def why(error: BaseException) -> str:
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
