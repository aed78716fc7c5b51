"""Routes: the calls of a vendor that cost something, by method and path.

    POST leads               exactly this
    POST leads/{id}/clone    with any one segment in place of what is in braces

Paths are relative to where the vendor's own begin. A slash at the end does not matter,
and where a route is exact it comes before those with braces, then the order given.
"""

from __future__ import annotations

import re

from quotaguard.errors import ConfigError
from quotaguard.quota.calls import Price

__all__ = ["Routes", "is_route"]

_METHOD = re.compile(r"[A-Z]{3,10}")
_SEGMENT = re.compile(r"[A-Za-z0-9_~.-]+")
_BRACES = re.compile(r"\{[a-z_]+\}")


def is_route(name: str) -> bool:
    """Whether *name* is meant as a route; the names of operations have no blanks."""
    return " " in name


class Routes:
    """Finds the price of a call by its method and path.

    root: the path before all of them, with a slash at its end.
    ending: what a server may take behind a path and ignore (``.json``).
    """

    __slots__ = ("_ending", "_exact", "_open", "_root")

    def __init__(self, root: str, *, ending: str = "") -> None:
        self._root = root
        self._ending = ending
        self._exact: dict[tuple[str, str], Price] = {}
        self._open: dict[tuple[str, str], tuple[re.Pattern[str], Price]] = {}

    def add(self, route: str, price: Price) -> None:
        """Price the calls of *route*.

        Raises:
            ConfigError: it is no route, or these calls have a price already.
        """
        method, _, path = route.partition(" ")
        parts = path.split("/")
        fit = all(_BRACES.fullmatch(part) or _SEGMENT.fullmatch(part) for part in parts)
        if not _METHOD.fullmatch(method) or not fit or {".", ".."} & set(parts):
            msg = (
                f"{route!r} is no route; write a method in capitals and a path without a "
                'slash before it: "POST leads/{id}/clone"'
            )
            raise ConfigError(msg)
        shape = method, "/".join("{}" if part[0] == "{" else part for part in parts)
        if shape in self._exact or shape in self._open:
            msg = f"the calls of {route!r} have a price already"
            raise ConfigError(msg)
        if "{" not in path:
            self._exact[shape] = price
            return
        pattern = "/".join("[^/]+" if part[0] == "{" else re.escape(part) for part in parts)
        self._open[shape] = re.compile(pattern), price

    def price(self, method: str, path: str) -> Price | None:
        """Return the price of a call, None where it has none."""
        if not path.startswith(self._root):
            return None
        rest = path.removeprefix(self._root).removesuffix("/").removesuffix(self._ending)
        exact = self._exact.get((method, rest))
        if exact is not None:
            return exact
        for (allowed, _), (pattern, price) in self._open.items():
            if allowed == method and pattern.fullmatch(rest):
                return price
        return None
