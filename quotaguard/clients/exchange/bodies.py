"""Bodies of replies: how much of one is read, and how it is decoded."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["BODY_CAP", "decoded"]

BODY_CAP: Final = 256 * 1024
"""Bytes of a reply that a bill may be read from, raw and decoded."""


def decoded(raw: bytes, encoding: str) -> bytes:
    """Return at most `BODY_CAP` bytes of a body; ``b""`` where it cannot be decoded.

    gzip and deflate only: their decoders can be told where to stop, so that a small
    body never becomes a large one.
    """
    coding = encoding.strip().lower()
    if coding in {"", "identity"}:
        return raw[:BODY_CAP]
    # Some servers send deflate bare, without the zlib header that the RFC asks for.
    windows = {
        "gzip": (zlib.MAX_WBITS | 16,),
        "x-gzip": (zlib.MAX_WBITS | 16,),
        "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
    }
    for window in windows.get(coding, ()):
        try:
            return zlib.decompressobj(window).decompress(raw, BODY_CAP)
        except zlib.error:
            continue
    return b""
