"""The books' side of the small world: one meter's books, or an account's with its holder."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self, TypeVar

from quotaguard.quota.account import Books, Terms
from quotaguard.quota.allotment import Allotment, Tally
from quotaguard.quota.entries import AskToPoll, Reserve, Touch
from quotaguard.quota.meter import MeterBooks, MeterTerms
from quotaguard.quota.observing import Observe
from quotaguard.quota.policy import Policy
from quotaguard.quota.polls import BURST, Claim, PollTerms
from quotaguard.quota.readings import Meter, Moment, Period, Reading, Usage
from quotaguard.quota.verdicts import Granted
from quotaguard.testing.rules import Broken, Rules, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quotaguard.quota.account import Entry, Posted

__all__ = ["BooksDesk", "MeterDesk", "terms_of"]

T = TypeVar("T")

NAMES = ("calls", "more")

MONTH = 1_000
"""Ticks of a period: no search lasts longer."""

SHIFT = 500
"""-1 and -2 have one hash in Python; numbers that may be negative are moved up."""

_numbers: Callable[[MeterBooks], tuple[Any, ...]] = attrgetter(
    "spent", "unknown", "held", "floor", "limit", "lower", "confirm", "read", "shared", "asked",
    "cold",
)  # fmt: skip


def terms_of(rules: Rules, name: str = NAMES[0]) -> MeterTerms:
    """Return the books' terms of a world: no margin, no line, no age limit."""
    policy = Policy(
        margin=0,
        warn_at=(),
        slack={"critical": 1.0},
        lag=rules.lag,
        late=rules.late,
        exclusive=rules.exclusive,
        max_age=1e9,
        cold_reserve=rules.cold,
    )
    terms = MeterTerms.of(Meter(name), policy)
    return replace(terms, paranoid=rules.paranoid, tick=rules.tick)


@lru_cache(maxsize=1024)
def _at(tick: int) -> Moment:
    return Moment(tick, tick, tick)


@lru_cache(maxsize=1024)
def _usage(used: int, limit: int) -> Usage:
    return Usage(used, limit)


def _twin(thing: T, slots: Iterable[str]) -> T:
    twin = object.__new__(type(thing))
    for name in slots:
        setattr(twin, name, getattr(thing, name))
    return twin


def _twin_meter(books: MeterBooks) -> MeterBooks:
    twin = _twin(books, MeterBooks.__slots__)
    twin.samples, twin.polls = list(books.samples), list(books.polls)
    return twin


def _meter_key(books: MeterBooks) -> tuple[Any, ...]:
    floor = books.floor
    return (
        *_numbers(books),
        books.base + SHIFT,
        None if floor is None else floor + SHIFT,
        tuple(books.samples),
    )


class MeterDesk:
    """One meter's books, posted to at once. *books* may be a broken relative."""

    __slots__ = ("books", "rules", "terms")

    def __init__(self, rules: Rules, books: type[MeterBooks] = MeterBooks) -> None:
        self.rules, self.books, self.terms = rules, books(), terms_of(rules)

    def copy(self) -> Self:
        """Return a desk that goes on by itself."""
        twin = object.__new__(type(self))
        twin.rules, twin.terms = self.rules, self.terms
        twin.books = _twin_meter(self.books)
        return twin

    def key(self) -> tuple[object, ...]:
        """Return all that its future depends on."""
        return _meter_key(self.books)

    def take(self, price: int, now: int) -> bool:  # noqa: ARG002 - there is no lane
        """Reserve nothing: the books hold all."""
        return False

    def reserve(self, price: int, now: int) -> bool:
        """Hold *price* units if the gate allows; what comes before a reading goes blind."""
        books = self.books
        limit = books.limit
        if books.read and limit is not None and books.gate(now, self.terms) + price > limit:
            return False
        books.held += price
        return True

    def settle(self, price: int, actual: int, now: int) -> None:
        """End a call that cost *actual*."""
        self.books.held -= price
        self.books.resolve(actual, 0, now, self.terms)

    def lose(self, price: int, until: int, now: int) -> None:
        """Keep it held."""

    def post(self, due: int, now: int) -> None:
        """Count *due* units of lost calls in full."""
        self.books.held -= due
        self.books.resolve(due, due, now, self.terms)

    def ask(self, now: int) -> None:
        """Ask: the books only hear of the answer."""

    def read(self, asked: int, shown: Shown, now: int) -> None:  # noqa: ARG002 - what counts is when it was asked
        """Take in the answer to a poll that was asked then."""
        rules = self.rules
        usage = _usage(rules.bases[0] + shown.used, rules.limits[0] + shown.raised)
        self.books.observe(usage, _at(asked), self.terms)

    def gates(self, now: int) -> list[int]:
        """Return the upper bound of the meter's books."""
        return [self.books.gate(now, self.terms)]

    def limits(self) -> list[int | None]:
        """Return the limit that is believed."""
        return [self.books.limit]

    def spent(self) -> list[int]:
        """Return what may never fall."""
        return [self.books.spent, self.books.unknown]

    def check(self, held: int) -> None:
        """Compare what is held with the units of open calls."""
        if self.books.held != held:
            raise Broken("I7", f"{self.books.held} held, {held} open")


class BooksDesk:
    """An account's books and their one holder, with lanes, claims and periods."""

    __slots__ = ("books", "holder", "rules", "terms")

    def __init__(
        self, rules: Rules, books: type[Books] = Books, meter: type[MeterBooks] = MeterBooks
    ) -> None:
        self.rules = rules
        names = NAMES[: len(rules.limits)]
        self.terms = Terms(
            provider="world",
            account="world",
            meters={name: terms_of(rules, name) for name in names},
            polls=PollTerms(4.0, 4.0, 1e9, BURST),
        )
        self.books = books(cold_from=0 if rules.hidden else None)
        self.books.meters = {name: meter() for name in names}
        self.holder = Allotment()

    def copy(self) -> Self:
        """Return a desk that goes on by itself."""
        twin = object.__new__(type(self))
        twin.rules, twin.terms = self.rules, self.terms
        books = twin.books = _twin(self.books, Books.__slots__)
        books.meters = {name: _twin_meter(meter) for name, meter in books.meters.items()}
        books.holders = {who: dict(tallies) for who, tallies in books.holders.items()}
        books.polls = _twin(books.polls, type(books.polls).__slots__)
        books.slots = dict(books.slots)
        holder = twin.holder = _twin(self.holder, Allotment.__slots__)
        holder.purses = {
            name: _twin(purse, type(purse).__slots__) for name, purse in holder.purses.items()
        }
        holder.lapses = list(holder.lapses)
        return twin

    def key(self) -> tuple[object, ...]:
        """Return all that its future depends on; cumulative counts as differences."""
        books, told = self.books, []
        for name, meter in books.meters.items():
            told.append(_meter_key(meter))
            last = self._tally(name)
            purse = self.holder.purses.get(name)
            if purse is not None:
                told.append((
                    purse.opened, purse.taken, purse.end, purse.room.get("critical"),
                    purse.drawn - last.drawn, purse.drawn - purse.cleared,
                    purse.spent - last.spent, purse.unknown - last.unknown,
                ))  # fmt: skip
        lapses = tuple((until, *cost.values()) for until, cost in self.holder.lapses)
        period, polls = books.period, books.polls
        rest = period.end, books.live, books.ended is None, books.cold_from, books.asked
        return (
            *told,
            lapses,
            rest,
            books.contested,
            polls.next,
            polls.claimed is None,
            polls.until,
        )

    def _tally(self, name: str) -> Tally:
        return self.books.holders.get("h", {}).get(name, Tally())

    def _post(self, entry: Entry, now: int) -> Posted:
        at = _at(now)
        posted = self.books.post("h", self.holder.report(at), entry, at, self.terms)
        self.holder.accept(posted.granted, posted.lanes)
        return posted

    def _cost(self, price: int) -> dict[str, int]:
        return dict.fromkeys(self.terms.meters, price)

    def take(self, price: int, now: int) -> bool:
        """Reserve from the lanes."""
        return self.holder.take(self._cost(price), "critical", now)

    def reserve(self, price: int, now: int) -> bool:
        """Ask the books."""
        entry = Reserve("r", self._cost(price), "critical", may_poll=False)
        return isinstance(self._post(entry, now).verdict, Granted)

    def settle(self, price: int, actual: int, now: int) -> None:
        """End a call that cost *actual*, from memory."""
        self.holder.settle(self._cost(price), self._cost(actual), now)

    def lose(self, price: int, until: int, now: int) -> None:  # noqa: ARG002 - see settle
        """Keep it open until it can no longer be charged late."""
        self.holder.give_up(self._cost(price), until)

    def post(self, due: int, now: int) -> None:  # noqa: ARG002 - the holder knows what is due
        """Report."""
        self._post(Touch(), now)

    def ask(self, now: int) -> None:
        """Claim a poll."""
        self._post(AskToPoll(f"p{now}", anyway=True), now)

    def read(self, asked: int, shown: Shown, now: int) -> None:
        """Take in the answer to a poll that was asked then."""
        rules = self.rules
        period, bases = Period(), rules.bases
        if rules.ends is not None:
            start = rules.ends + (shown.period - 1) * MONTH
            period = Period(start, start + MONTH, rules.skew)
            bases = tuple(0 if shown.period else base for base in bases)
        usages = {
            name: _usage(base + shown.used, limit + shown.raised)
            for name, base, limit in zip(self.terms.meters, bases, rules.limits, strict=True)
        }
        claim = Claim(f"p{asked}", _at(asked))
        self._post(Observe(claim, Reading(usages, period)), now)

    def gates(self, now: int) -> list[int]:
        """Return the upper bound of each meter's books, with the cold reserve."""
        gates = []
        for name, limit in zip(self.terms.meters, self.limits(), strict=True):
            room = self.books.room(name, _at(now), self.terms)
            gates.append((limit or 0) - (room or 0))
        return gates

    def limits(self) -> list[int | None]:
        """Return the limits that are believed."""
        return [meter.limit for meter in self.books.meters.values()]

    def spent(self) -> list[int]:
        """Return what may never fall; the unknown begin anew with a period."""
        return [self.books.meter(name).spent for name in self.terms.meters]

    def check(self, held: int) -> None:
        """Compare the holder's open units, and the books' held ones, with the calls."""
        for name, meter in self.books.meters.items():
            purse = self.holder.purses.get(name)
            opened = 0 if purse is None else purse.opened
            if opened != held:
                raise Broken("I9", f"{name}: {opened} open, {held} by the calls")
            last = self._tally(name)
            if meter.held != last.drawn - last.cleared:
                raise Broken("I7", f"{name}: {meter.held} held of {last}")
