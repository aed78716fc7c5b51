"""On the wire: where a request goes, whether it went, and who would repeat it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any, Final

__all__ = [
    "AsyncWitness",
    "HeaderView",
    "Witness",
    "leaves",
    "origin_of",
    "refused_stream",
    "repeats",
]

_REPEATS: Final = re.compile(r"Retr(?:y|ies)|Tenacity|Backoff|Cach(?:e|ing)", re.IGNORECASE)
"""By the name of the class: httpx-retries, hishel, pydantic-ai and people's own say it there."""

_REPEATING_PACKAGES: Final = frozenset(
    {"hishel", "httpx_cache", "httpx_retries", "httpx_retry", "tenacity"}
)

_REFUSED_STREAM: Final = 7
"""RFC 9113, 8.7: the server has not processed anything of it."""


class HeaderView(Mapping[str, str]):
    """Headers as they are on the wire, looked up by lower-case names.

    pairs: names and values; nothing is copied or decoded before it is asked for, which
    would take longer than the decision.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as Mapping's
        """Return the value; repeated ones are joined by a comma."""
        wanted, size, found = name.encode(), len(name), None
        for key, value in self._pairs:
            if len(key) == size and key.lower() == wanted:
                said = value.decode("latin-1")
                found = said if found is None else f"{found}, {said}"
        return default if found is None else found

    def __getitem__(self, name: str) -> str:
        said: str | None = self.get(name)
        if said is None:
            raise KeyError(name)
        return said

    def __iter__(self) -> Iterator[str]:
        return iter({key.decode("latin-1").lower(): None for key, _ in self._pairs})

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self._pairs})

    def __repr__(self) -> str:
        return f"<HeaderView: {len(self)} headers>"


def origin_of(scheme: str, netloc: str) -> str:
    """Return an origin as a `Call` tells it.

    netloc: host, and the port where it is not the scheme's own; lower case.
    """
    if netloc.startswith("["):
        host, _, port = netloc[1:].partition("]")
        # One address has many spellings, and a provider's origin has the shortest; one
        # with a zone is no provider's.
        with contextlib.suppress(ValueError):
            netloc = f"[{IPv6Address(host)}]{port}"
    return f"{scheme}://{netloc}"


def leaves(first: str, now: str) -> bool:
    """Whether a redirect from the origin *first* to *now* leaves the keys' owner.

    The same host on its usual ports, now with TLS, is the same owner.
    """
    if now == first:
        return False
    scheme, _, host = first.partition("://")
    usual = not host.rpartition("]")[2].rpartition(":")[1]
    return not (scheme == "http" and usual and now == f"https://{host}")


def repeats(kind: type) -> bool:
    """Whether transports of this class are known to send again or answer by themselves."""
    return any(
        _REPEATS.search(each.__name__) or each.__module__.partition(".")[0] in _REPEATING_PACKAGES
        for each in kind.__mro__
    )


class Witness:
    """Sees when httpcore begins to send the request itself, not a proxy's CONNECT.

    It is the only proof: the exceptions do not tell a request that broke on its way
    out from one that was answered by silence.
    """

    __slots__ = ("_theirs", "started")

    def __init__(self, theirs: Any) -> None:  # noqa: ANN401 - the application's own trace
        self._theirs = theirs
        self.started = False

    def __call__(self, name: str, info: dict[str, Any]) -> Any:  # noqa: ANN401 - httpcore checks it
        """Note *name*, and pass it on."""
        self._note(name, info)
        return None if self._theirs is None else self._theirs(name, info)

    def _note(self, name: str, info: dict[str, Any]) -> None:
        if name.endswith(".send_request_headers.started"):
            request = info.get("request")
            if getattr(request, "method", b"") != b"CONNECT":
                self.started = True
        elif (
            name.endswith(".send_request_headers.failed")
            and type(info.get("exception")).__name__ == "LocalProtocolError"
        ):
            # h11 or h2 did not take the headers; nothing of them was written.
            self.started = False


class AsyncWitness(Witness):
    """The same for tasks, whose traces are awaited."""

    __slots__ = ()

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        """Note *name*, and pass it on."""
        self._note(name, info)
        if self._theirs is not None:
            await self._theirs(name, info)


def refused_stream(cause: object) -> bool:
    """Whether the server said that it did not process the request (HTTP/2).

    cause: httpcore's exception, which has h2's event in it. A GOAWAY that names no stream
    at all has processed none (RFC 9113, 6.8). After one that names an earlier stream
    httpcore sends again by itself; every other GOAWAY leaves a doubt.
    """
    event = next(iter(getattr(cause, "args", ())), None)
    if type(event).__name__ == "ConnectionTerminated":
        return getattr(event, "last_stream_id", None) == 0
    return (
        type(event).__name__ == "StreamReset"
        and bool(getattr(event, "remote_reset", False))
        and getattr(event, "error_code", None) == _REFUSED_STREAM
    )
