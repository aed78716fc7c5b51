"""The books' side of the small world: one meter's books, or an account's with its holder."""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self

from quotaguard.quota.account import Books, Terms
from quotaguard.quota.allotment import Allotment, Tally
from quotaguard.quota.entries import AskToPoll, Observe, Reserve, Touch
from quotaguard.quota.meter import MeterBooks, MeterTerms
from quotaguard.quota.policy import Policy
from quotaguard.quota.polls import Claim, PollTerms
from quotaguard.quota.readings import Meter, Moment, Period, Reading, Usage
from quotaguard.quota.verdicts import Granted
from quotaguard.testing.world import Broken, Rules, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quotaguard.quota.account import Entry, Posted

__all__ = ["BooksDesk", "MeterDesk", "terms_of"]

NAMES = ("calls", "more")
MONTH = 1_000
"""Ticks of a period: no search lasts longer."""

_numbers: Callable[[MeterBooks], tuple[Any, ...]] = attrgetter(
    "spent", "unknown", "held", "base", "floor", "limit", "lower", "confirm", "read",
    "shared", "asked", "cold",
)  # fmt: skip


def terms_of(rules: Rules, name: str = NAMES[0]) -> MeterTerms:
    """Return the books' terms of a world: no margin, no line, no age limit."""
    policy = Policy(
        margin=0,
        warn_at=(),
        slack={"critical": 1.0},
        exclusive=rules.exclusive,
        max_age=1e9,
        cold_reserve=rules.cold,
    )
    return MeterTerms(
        meter=Meter(name),
        policy=policy,
        lag=rules.lag,
        late=rules.late,
        paranoid=rules.paranoid,
        tick=rules.tick,
        overage=0,
        margin=0,
        share=0.0,
    )


@lru_cache(maxsize=1024)
def _at(tick: int) -> Moment:
    return Moment(tick, tick, tick)


@lru_cache(maxsize=1024)
def _usage(used: int, limit: int) -> Usage:
    return Usage(used, limit)


def _twin[T](thing: T, slots: Iterable[str]) -> T:
    twin = object.__new__(type(thing))
    for name in slots:
        setattr(twin, name, getattr(thing, name))
    return twin
