"""Books and allotments as they are before an entry, to be put back if it is stopped half way.

An entry is applied whole or not at all. A fault of ours could end it in the middle, and
so can Ctrl-C, which CPython raises between any two calls: then half of the numbers would
be new, and units would count twice, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from quotaguard.quota.account import Books
from quotaguard.quota.allotment import Allotment, Purse
from quotaguard.quota.meter import MeterBooks
from quotaguard.quota.polls import Polls

__all__ = ["Kept", "keep", "keep_allotments", "restore"]

Kept = list[tuple[object, tuple[str, ...], tuple[Any, ...]]]
"""Whose attributes, their names, and their values."""

_books = attrgetter(*Books.__slots__)
_polls = attrgetter(*Polls.__slots__)
_meter = attrgetter(*MeterBooks.__slots__)
_purse = attrgetter(*Purse.__slots__)
# One call in C for all numbers of an object: this is done for every entry.

_BOXES = dict, list


def keep(books: Books, allotments: Iterable[Allotment]) -> Kept:
    """Return all that an entry may change, as it is.

    What is changed in place is copied: dicts and lists, and objects by their slots.
    """
    own = [value.copy() if value.__class__ in _BOXES else value for value in _books(books)]
    holders = {who: dict(tallies) for who, tallies in books.holders.items()}
    kept: Kept = [
        (books, Books.__slots__, tuple(own)),
        (books, ("holders",), (holders,)),
        (books.polls, Polls.__slots__, _polls(books.polls)),
    ]
    for meter in books.meters.values():
        kept.append((meter, MeterBooks.__slots__, _meter(meter)))
        kept.append((meter, ("samples", "polls"), (meter.samples[:], meter.polls[:])))
    rates = books.rates
    lists = rates.issued, dict(rates.logs), rates.promises[:]
    kept.append((rates, ("issued", "logs", "promises"), lists))
    for log in rates.logs.values():
        window = log.asked, log.began, log.entries[:], log.total
        kept.append((log, ("asked", "began", "entries", "total"), window))
    return kept + keep_allotments(allotments)


def keep_allotments(allotments: Iterable[Allotment]) -> Kept:
    """Return all that a holder's own part of an entry may change, as it is."""
    kept: Kept = []
    for allotment in allotments:
        kept.append((allotment, ("purses",), (dict(allotment.purses),)))
        kept.append((allotment, ("lapses",), (allotment.lapses,)))  # never changed in place
        kept += [(purse, Purse.__slots__, _purse(purse)) for purse in allotment.purses.values()]
    return kept


def restore(kept: Kept) -> None:
    """Put back what was kept."""
    for owner, names, values in kept:
        for name, value in zip(names, values, strict=True):
            setattr(owner, name, value)
