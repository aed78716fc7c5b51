"""Answers that nobody should believe: good ones with something wrong in them, and nonsense.

Everything comes from a `random.Random` that is handed in: the same seed, the same answers.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

from quotaguard.quota.calls import Outcome

__all__ = ["CLUMSY", "WRONG", "Hostile", "doubled", "nodes", "planted", "told", "without"]

Path = tuple[str | int, ...]
"""Where a value stands in an answer: keys of objects, places in lists."""

WRONG: Mapping[str, bytes] = {
    "a text": b'"many"',
    "a text with digits": b'"1,234,567"',
    "an empty text": b'""',
    "true": b"true",
    "false": b"false",
    "a list": b"[]",
    "an object": b"{}",
    "-1": b"-1",
    "-7": b"-7",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "1e400": b"1e400",
    "5,000 digits": b"9" * 5000,
    "null": b"null",
}
"""What no count is, as JSON or what passes for it."""

CLUMSY: Mapping[str, bytes] = {
    "nothing": b"",
    "blanks": b" \r\n\t" * 1000,
    "HTML": b"<!DOCTYPE html><title>502 Bad Gateway</title><h1>502</h1>",
    "text": b"Service temporarily unavailable, please try again later.",
    "null": b"null",
    "a list": b"[]",
    "a number": b"7",
    "a text in JSON": b'"ok"',
    "an empty object": b"{}",
    "NaN": b"NaN",
    "half an object": b'{"data": {"us',
    "deep lists": b"[" * 60_000,
    "deep objects": b'{"a":' * 40_000,
    "a lone surrogate": b'{"a": "\\ud800"}',
    "no UTF-8": b'{"a": "\xff\xfe\xfd"}',
    "zeros": b"\0" * 500,
    "many digits": b"9" * 200_000,
    "many small objects": b"[" + b"{}," * 60_000 + b"{}]",
    "one long text": b'{"a": "' + b"a " * 120_000 + b'"}',
    "many escapes": b'"' + b"\\u0041" * 40_000 + b'"',
}
"""Bodies that are no answer to any question, whoever sends them."""

TEXTS = (
    *("", "7", "12.0", "-1", "unlimited", "2024-13-45", "2024-02-30T25:61:61Z", "0001-01-01"),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999Z", "2024-W01-1", "\ud800", "\x00"),
)
STATUSES = (200, 201, 204, 206, 301, 307, 400, 401, 402, 403, 404, 429, 500, 503)
HEADERS: Mapping[str, tuple[str, ...]] = {
    "retry-after": (
        *("7", "0", "-5", "1e9", "1000000000", "99999999999999999999", "soon", "", "nan", "inf"),
        *("Wed, 21 Oct 2035 07:28:00 GMT", "Thu, 01 Jan 0001 00:00:00 -9959", "9" * 5000),
    ),
    "date": ("Wed, 21 Oct 2015 07:28:00 GMT", "now", "", "Thu, 01 Jan 1970 00:00:00 +2400"),
    "x-request-id": ("req-1", "", "r" * 9000, "\x00\x7f", "\N{SNOWMAN}", "a b"),
    "content-type": ("application/json", "text/html; charset=utf-16", "", "image/png"),
    "age": ("86400", "-1", "old"),
    "x-ratelimit-remaining": ("0", "-1", "9" * 400),
    "x-noise": ("n" * 60_000, "\r\nx-forged: 1"),
}
"""Headers as a hostile server might send them."""


def told(body: bytes | None) -> Any:  # noqa: ANN401 - whatever JSON can say
    """Return the JSON in *body*, None where it is none."""
    try:
        return json.loads(body or b"")
    except (ValueError, RecursionError):
        return None


def nodes(said: object) -> Iterator[tuple[Path, object]]:
    """Yield every value within *said*, with its path; an object before what is in it."""
    left: list[tuple[Path, object]] = [((), said)]
    while left:
        path, value = left.pop()
        if path:
            yield path, value
        inside: Any = ()
        if isinstance(value, dict):
            inside = value.items()
        elif isinstance(value, list):
            inside = enumerate(value)
        left += [((*path, key), each) for key, each in inside]


def planted(said: object, path: Path, raw: bytes) -> bytes:
    """Return *said* as JSON, with *raw* in the place that *path* names."""
    return _set(said, path, "\ufdd0").replace(b'"\\ufdd0"', raw)


def without(said: object, path: Path) -> bytes:
    """Return *said* as JSON, without the value that *path* names."""
    copy = json.loads(json.dumps(said))
    del _parent(copy, path)[path[-1]]
    return json.dumps(copy).encode()


def doubled(said: object, path: Path, raw: bytes) -> bytes:
    """Return *said* as JSON, with the key that *path* names twice, the second time *raw*."""
    value = json.dumps(_parent(said, path)[path[-1]]).encode()
    return planted(said, path, value + b", " + json.dumps(path[-1]).encode() + b": " + raw)


def _parent(said: Any, path: Path) -> Any:  # noqa: ANN401 - whatever JSON can say
    for key in path[:-1]:
        said = said[key]
    return said


def _set(said: object, path: Path, value: object) -> bytes:
    copy = json.loads(json.dumps(said))
    _parent(copy, path)[path[-1]] = value
    return json.dumps(copy).encode()


class Hostile:
    """Makes hostile answers of good ones.

    chance: decides everything. good: bodies of good answers.
    """

    def __init__(self, chance: random.Random, good: tuple[bytes, ...]) -> None:
        self._chance = chance
        self._good = good or (b"{}",)
        self._inside = [self._wrong, self._wrong, self._value, self._missing, self._twice]
        self._inside += [self._moved, self._near, self._near]
        self._outside = [self._bytes, self._cut, self._repeated, self._coded, self._clumsy]
        self._outside += [self._noise, self._json]

    def body(self) -> bytes:
        """Return a good body with one to three values wrong, or with its bytes wrong."""
        body = self._chance.choice(self._good)
        ways = self._inside if self._chance.random() < 0.7 else self._outside
        for _ in range(self._chance.choice((1, 1, 2, 3))):
            # What is nested too deeply for us is nested deeply enough.
            with contextlib.suppress(RecursionError):
                body = self._chance.choice(ways)(body)
        return body

    def headers(self) -> dict[str, str]:
        """Return headers, names in lower case."""
        names = self._chance.sample(sorted(HEADERS), self._chance.randint(0, 3))
        return {name: self._chance.choice(HEADERS[name]) for name in names}

    def outcome(self) -> Outcome:
        """Return a whole answer: mostly a 200, for those are read."""
        chance = self._chance
        status = 200 if chance.random() < 0.7 else chance.choice(STATUSES)
        if chance.random() < 0.05:
            status = chance.randint(100, 599)
        body = None if chance.random() < 0.02 else self.body()
        return Outcome(status, self.headers(), body)

    def value(self, depth: int = 3) -> object:
        """Return a value of any kind that JSON has."""
        chance = self._chance
        kind = chance.randrange(8 if depth else 6)
        if kind == 6:
            return [self.value(depth - 1) for _ in range(chance.randint(0, 4))]
        if kind == 7:
            keys = [chance.choice(("used", "limit", "data", "a", "")) for _ in range(3)]
            return {key: self.value(depth - 1) for key in keys}
        return (
            chance.choice((None, True, False)),
            chance.randint(-(10**3), 10**6),
            chance.choice((0, 1, -1, 2**31, 2**63, 10**15, 10**18, -(10**18))),
            chance.choice((0.1, -0.0, 1e15, 1e300, 40.0)),
            chance.choice(TEXTS),
            "x" * chance.randint(0, 400),
        )[kind]

    # -- values ------------------------------------------------------------------

    def _somewhere(self, body: bytes) -> tuple[Any, Path, Any]:
        said = told(body)
        places = list(nodes(said)) or [((0,), None)]
        path, value = self._chance.choice(places)
        return said if path != (0,) else [None], path, value

    def _wrong(self, body: bytes) -> bytes:
        said, path, _ = self._somewhere(body)
        return planted(said, path, self._chance.choice(list(WRONG.values())))

    def _value(self, body: bytes) -> bytes:
        said, path, _ = self._somewhere(body)
        return planted(said, path, json.dumps(self.value()).encode())

    def _near(self, body: bytes) -> bytes:
        """Change a number to another one, so that the answer still reads well."""
        said = told(body)
        places = [path for path, value in nodes(said) if type(value) in (int, float)]
        if not places:
            return self._value(body)
        number = self._chance.choice((0, 1, self._chance.randint(0, 10**5), 10**9, 12.0))
        return planted(said, self._chance.choice(places), json.dumps(number).encode())

    def _missing(self, body: bytes) -> bytes:
        said, path, _ = self._somewhere(body)
        return without(said, path)

    def _twice(self, body: bytes) -> bytes:
        said, path, _ = self._somewhere(body)
        if isinstance(path[-1], int):
            return body + body
        return doubled(said, path, json.dumps(self.value(1)).encode())

    def _moved(self, body: bytes) -> bytes:
        """Put one value of the answer in the place of another."""
        said, path, _ = self._somewhere(body)
        return planted(said, path, json.dumps(self._somewhere(body)[2]).encode())

    # -- bytes -------------------------------------------------------------------

    def _bytes(self, body: bytes) -> bytes:
        changed = bytearray(body or b"{}")
        for _ in range(self._chance.randint(1, 4)):
            changed[self._chance.randrange(len(changed))] = self._chance.choice(
                (*b'0123456789-+.eE"{}[],:\\ \x00\xff', self._chance.randrange(256))
            )
        return bytes(changed)

    def _cut(self, body: bytes) -> bytes:
        start, end = sorted(self._chance.randint(0, len(body)) for _ in range(2))
        return self._chance.choice((body[:start], body[start:], body[:start] + body[end:]))

    def _repeated(self, body: bytes) -> bytes:
        start, end = sorted(self._chance.randint(0, len(body)) for _ in range(2))
        return body[:end] + body[start:end][:500] * self._chance.randint(1, 9) + body[end:]

    def _coded(self, body: bytes) -> bytes:
        text = body.decode("utf-8", "replace")
        return self._chance.choice(
            (
                b"\xef\xbb\xbf" + body,
                text.encode("utf-16", "replace"),
                text.encode("utf-32", "replace"),
                b'"\xe9' + body,
                b")]}',\n" + body,
                b"[" + body + b"]",
                body + b"\n" + body,
            )
        )

    def _clumsy(self, _body: bytes) -> bytes:
        # The long ones cost milliseconds; they have a law of their own.
        return self._chance.choice([body for body in CLUMSY.values() if len(body) < 9000])

    def _noise(self, _body: bytes) -> bytes:
        return self._chance.randbytes(self._chance.choice((1, 8, 60, 400)))

    def _json(self, _body: bytes) -> bytes:
        return json.dumps(self.value(5)).encode()
