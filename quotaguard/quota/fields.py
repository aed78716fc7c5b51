"""An answer taken apart field by field: what is there, of which kind, and what is left.

A field that is missing or of another kind is an `Unfit`, which names its path and
quotes nothing. Counts are integers, and a bool is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, TypeVar

__all__ = ["MOST_COUNT", "Fields", "Unfit", "every", "whole"]

T = TypeVar("T")

MOST_COUNT = 10**15
"""Counts above are no counts; below, every double and every store is exact."""


class Unfit(ValueError):
    """A field is not what it must be. *path*: where it was looked for."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = path


def whole(said: object) -> int | None:
    """Return a count from 0 upwards (12 and 12.0), None where it is none."""
    if type(said) is float and said.is_integer():
        said = int(said)
    return said if type(said) is int and 0 <= said <= MOST_COUNT else None


class Fields:
    """One object of an answer. What no reader has asked for is its `extra`.

    said: what `strict.load` returned, or a part of it. path: its place in the answer.

    Raises:
        Unfit: *said* is no object.
    """

    __slots__ = ("_left", "_path", "_said")

    def __init__(self, said: object, path: str = "") -> None:
        if not isinstance(said, dict):
            raise Unfit(path or "the answer", "it is no object")
        self._said: Mapping[str, Any] = said
        self._left = dict.fromkeys(said)
        self._path = path

    @property
    def extra(self) -> dict[str, Any]:
        """The fields that nobody has asked for."""
        return {name: self._said[name] for name in self._left}

    def path(self, name: str) -> str:
        """Return the place of a field in the answer."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> Any:  # noqa: ANN401 - whatever JSON can say
        """Return a field as it is.

        Raises:
            Unfit: it is missing.
        """
        if name not in self._said:
            raise Unfit(self.path(name), "it is missing")
        self._left.pop(name, None)
        return self._said[name]

    def maybe(self, read: Callable[[Fields, str], T], name: str) -> T | None:
        """Return what *read* makes of a field; None where it is null or missing."""
        if self._said.get(name) is None:
            self._left.pop(name, None)
            return None
        return read(self, name)

    def whole(self, name: str) -> int:
        """Return a count from 0 upwards."""
        return self._fit(name, whole(self.take(name)), "it is no whole number from 0 upwards")

    def number(self, name: str) -> float:
        """Return a number, possibly below 0."""
        said = self.take(name)
        fit = said if isinstance(said, int | float) and not isinstance(said, bool) else None
        fit = None if fit is None or abs(fit) > MOST_COUNT else fit
        return self._fit(name, fit, "it is no number")

    def text(self, name: str) -> str:
        """Return a text."""
        said = self.take(name)
        return self._fit(name, said if isinstance(said, str) else None, "it is no text")

    def flag(self, name: str) -> bool:
        """Return true or false."""
        said = self.take(name)
        return self._fit(name, said if isinstance(said, bool) else None, "it is not true or false")

    def day(self, name: str) -> date:
        """Return a bare ISO 8601 date."""
        said = self.text(name)
        try:
            return date.fromisoformat(said)
        except ValueError:
            raise Unfit(self.path(name), "it is no date") from None

    def instant(self, name: str) -> datetime:
        """Return an ISO 8601 time; UTC where it names no zone."""
        said = self.text(name)
        try:
            moment = datetime.fromisoformat(said)
        except ValueError:
            raise Unfit(self.path(name), "it is no date and time") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def inside(self, name: str) -> Fields:
        """Return an object within this one."""
        return Fields(self.take(name), self.path(name))

    def each(self, name: str, read: Callable[[Fields], T]) -> tuple[T, ...]:
        """Return what *read* makes of every object in a list."""
        return every(self.take(name), read, self.path(name))

    def counts(self, name: str) -> dict[str, int]:
        """Return an object that has a count under every name."""
        inner = self.inside(name)
        return {key: inner.whole(key) for key in inner.extra}

    def _fit(self, name: str, fit: T | None, why: str) -> T:
        if fit is None:
            raise Unfit(self.path(name), why)
        return fit


def every(said: object, read: Callable[[Fields], T], path: str = "") -> tuple[T, ...]:
    """Return what *read* makes of every object in the list *said*.

    Raises:
        Unfit: *said* is no list, or one of its items does not fit.
    """
    if not isinstance(said, list):
        raise Unfit(path or "the answer", "it is no list")
    return tuple(read(Fields(item, f"{path}[{place}]")) for place, item in enumerate(said))
