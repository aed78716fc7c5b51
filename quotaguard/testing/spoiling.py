"""The ways in which every fake can spoil an answer, by name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from quotaguard.testing.server import Reply

__all__ = ["STATS_FAULTS", "WIRE", "WIRE_FAULTS", "Spoil", "asked", "changed"]

Wire = Literal["silence", "reset", "close", "garbage", "truncated", "drip"]
WIRE: Mapping[str, Wire] = {
    "timeout": "silence",
    "reset": "reset",
    "close": "close",
    "garbage": "garbage",
    "truncated": "truncated",
    "slow-drip": "drip",
}
WIRE_FAULTS = frozenset({*WIRE, *(f"{name}-free" for name in WIRE)})
HUGE = 4 * 1024 * 1024

Spoil = Callable[[Reply, str], Reply]
"""From an honest answer and the fake's URL to a spoiled one."""


def asked(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in the body of a request, None where there is none."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def changed(reply: Reply, change: Callable[[dict[str, Any]], object]) -> Reply:
    """Return an answer in whose JSON object something was changed."""
    told = json.loads(reply.body)
    change(told)
    return replace(reply, body=json.dumps(told).encode())


def _html(reply: Reply, _url: str) -> Reply:
    page = b"<!DOCTYPE html><title>Maintenance</title><p>We will be back soon.</p>"
    return replace(reply, body=page, headers=(("Content-Type", "text/html"),))


def _huge(reply: Reply, _url: str) -> Reply:
    # Blanks may stand behind any JSON, be it an object or a list.
    return replace(reply, body=reply.body + b" " * HUGE)


def _gzip(reply: Reply, _url: str) -> Reply:
    headers = (*reply.headers, ("Content-Encoding", "gzip"))
    return replace(reply, body=gzip.compress(reply.body), headers=headers)


def _redirect(_reply: Reply, url: str) -> Reply:
    # Another name of the same server is another origin; whoever follows is counted there.
    moved = url.replace("127.0.0.1", "localhost") + "/stats.moved"
    return Reply(307, b"", (("Location", moved),))


STATS_FAULTS: Mapping[str, Spoil] = MappingProxyType(
    {"html": _html, "huge": _huge, "gzip": _gzip, "redirect": _redirect}
)
"""Those that any stats answer can have; each fake adds those of its own shape."""
