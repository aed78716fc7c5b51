"""What a small world is made of: the rules of a scope, the books' desk, a broken law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

__all__ = ["Broken", "Desk", "Rules", "Shown"]


class Broken(AssertionError):
    """A law does not hold. *law* is its name."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(f"{law}: {detail}")
        self.law = law


class Shown(NamedTuple):
    """What an answer shows.

    used: units since the first tick. raised: units by which its limit is too
    high. period: 0, or 1 after the turn.
    """

    used: int = 0
    raised: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A small scope: what may happen in it, and how often. Times are ticks.

    limits, bases: of each meter, and what was used before the first tick. Every
        call costs its price on all of them.
    prices: of the calls. partial: an answer may charge less than the price.
    polls: at most two of them are under way at a time. last: when time ends.
    lag, late, paranoid, tick, exclusive: the books' terms (algorithm.md's D, G, D2).
    real: the provider's true lag where it is not *lag*.
    lose: an outcome may stay unknown. others, refund: units that others may spend,
        and that the provider may take back.
    blind: own units that may go before the first reading. Without it, and without
        a predecessor, that reading is there when the world begins.
    wrong: one answer may say that nothing is used. raised: units by which one
        answer's limit may be too high.
    hidden: units of a predecessor that the first poll may miss; cold: the share of
        the limit that is held back for them.
    ends, skew: the end of the period, and how far the true one may be from it.
    """

    name: str
    limits: tuple[int, ...] = (3,)
    bases: tuple[int, ...] = (1,)
    prices: tuple[int, ...] = (1, 1, 1)
    partial: bool = False
    polls: int = 2
    last: int = 5
    lag: int = 2
    late: int = 3
    paranoid: int = 6
    tick: int = 0
    exclusive: bool = False
    real: int = -1
    lose: bool = True
    others: int = 0
    refund: int = 0
    blind: int = 0
    wrong: bool = False
    raised: int = 0
    hidden: int = 0
    cold: float = 0.0
    ends: int | None = None
    skew: int = 1

    @property
    def shows(self) -> int:
        """Ticks after which the provider shows a charge."""
        return self.real if self.real >= 0 else self.lag


class Desk(Protocol):
    """The books' side of the world. What changes it is done to a copy."""

    def copy(self) -> Self:
        """Return a desk that goes on by itself."""

    def key(self) -> tuple[object, ...]:
        """Return all that its future depends on."""

    def take(self, price: int, now: int) -> bool:
        """Reserve without the books, from what the holder has drawn."""

    def reserve(self, price: int, now: int) -> bool:
        """Hold *price* units on every meter, if the call may go."""

    def settle(self, price: int, actual: int, now: int) -> None:
        """End a call that cost *actual*."""

    def lose(self, price: int, until: int, now: int) -> None:
        """Give up a call whose outcome nobody knows, to be counted at *until*."""

    def post(self, due: int, now: int) -> None:
        """Bring the books up to date: *due* units of lost calls are to be counted."""

    def ask(self, now: int) -> None:
        """Ask for a poll now."""

    def read(self, asked: int, shown: Shown, now: int) -> None:
        """Take in the answer to a poll that was asked then."""

    def gates(self, now: int) -> list[int]:
        """Return the upper bound of each meter's books, with what is held back."""

    def limits(self) -> list[int | None]:
        """Return the limits that are believed."""

    def spent(self) -> list[int]:
        """Return what may never fall."""

    def check(self, held: int) -> None:
        """Compare the running numbers with the *held* units of open calls."""
