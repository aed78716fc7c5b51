"""Broken relatives of the books, each with one plausible mistake: the searches find them all.

A proof that nothing could fail proves nothing. Every mutant is played in the small
scopes where its mistake can show, by the search that the real books survive there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from quotaguard.quota.account import Books, Entry, Posted, Terms
from quotaguard.quota.allotment import Tally
from quotaguard.quota.entries import Reserve
from quotaguard.quota.events import Event
from quotaguard.quota.meter import MeterBooks, MeterTerms
from quotaguard.quota.readings import Moment, Usage
from quotaguard.testing.desks import BooksDesk, MeterDesk
from quotaguard.testing.rules import Desk, Rules, Shown
from quotaguard.testing.scopes import SCOPES, Scope
from quotaguard.testing.search import Found, explore, told, wander

pytestmark = pytest.mark.timeout(300)

STATES = 5_000
"""States that a search may visit in one size of a scope; an account gets a third of them."""

HISTORIES = 2_000


# -- what a reading does ------------------------------------------------------


class Overwrites(MeterBooks):
    """remaining = limit - used: what the reading has not seen yet is forgotten."""

    __slots__ = ()

    def known(self) -> int:
        return self.base + self.spent

    def observe(self, usage: Usage, asked: Moment, terms: MeterTerms, **how: Any) -> None:
        super().observe(usage, asked, terms, **how)
        self.base = usage.used - self.spent


class OverwritesInFlight(Overwrites):
    """The same, and what is in flight at the reading is forgotten too."""

    __slots__ = ()

    def observe(self, usage: Usage, asked: Moment, terms: MeterTerms, **how: Any) -> None:
        super().observe(usage, asked, terms, **how)
        self.base = usage.used - self.spent - self.held


class TakesTheLarger(MeterBooks):
    """max(provider, local): right until the account has a past."""

    __slots__ = ()

    def known(self) -> int:
        return max(self.used, self.spent)


class ForgetsLag(MeterBooks):
    """The marker is taken when the question was asked: D = 0."""

    __slots__ = ()

    def observe(self, usage: Usage, asked: Moment, terms: MeterTerms, **how: Any) -> None:
        super().observe(usage, asked, replace(terms, lag=0), **how)


class MarksTheTick(MeterBooks):
    """The marker counts what was resolved at its very tick: ``<=`` for ``<``."""

    __slots__ = ()

    def marker(self, before: float) -> int:
        return max((spent for at, spent in self.samples if at <= before), default=0)


class StampsEarly(MeterBooks):
    """A sample that is merged keeps the earlier stamp."""

    __slots__ = ()

    def resolve(self, spent: int, unknown: int, at: float, terms: MeterTerms) -> None:
        newest = self.samples[-1][0]
        super().resolve(spent, unknown, at, terms)
        if spent and terms.tick and at // terms.tick == newest // terms.tick:
            self.samples[-1] = (newest, self.spent)


class LetsLateWin(MeterBooks):
    """An answer that comes late overwrites the base of a newer one."""

    __slots__ = ()

    def observe(self, usage: Usage, asked: Moment, terms: MeterTerms, **how: Any) -> None:
        newest = self.asked
        self.asked = min(self.asked, asked.slow)
        super().observe(usage, asked, terms, **how)
        self.asked = max(newest, asked.slow)


class AsksAtTheEnd(MeterDesk):
    """A poll counts from when it was answered, not from when it was asked."""

    __slots__ = ()

    def read(self, asked: int, shown: Shown, now: int) -> None:
        super().read(now, shown, now)


# -- what is in flight, what is unknown ---------------------------------------


class IgnoresInFlight(MeterBooks):
    """The gate knows what was spent and not what is under way."""

    __slots__ = ()

    def gate(self, fast: float, terms: MeterTerms) -> int:
        return self.known() + self.margin(fast, terms)


class _Lenient(MeterDesk):
    """A desk whose bookkeeping is not compared: only the provider's bill counts."""

    __slots__ = ()

    def check(self, held: int) -> None:
        """Let it pass."""


class ForgivesTimeouts(_Lenient):
    """An outcome that was never learnt is free in the end."""

    __slots__ = ()

    def post(self, due: int, now: int) -> None:
        self.books.held -= due


class ReleasesUnknown(_Lenient):
    """An outcome that is unknown is released at once, as if it was never sent."""

    __slots__ = ()

    def lose(self, price: int, until: int, now: int) -> None:
        self.books.held -= price

    def post(self, due: int, now: int) -> None:
        pass


class SettlesUnknownAtOnce(_Lenient):
    """An unknown outcome is counted when it was given up, not when it can come no more."""

    __slots__ = ()

    def lose(self, price: int, until: int, now: int) -> None:
        super().post(price, now)

    def post(self, due: int, now: int) -> None:
        pass


# -- the floor, good news -----------------------------------------------------


class KeepsPhantoms(MeterBooks):
    """The floor counts unknown outcomes as proven: what was never charged stays for ever."""

    __slots__ = ()

    def known(self) -> int:
        plain = self.base + self.spent
        return plain if self.floor is None else max(plain, self.floor + self.spent)


class HasNoFloor(MeterBooks):
    """The newest reading is all that is known of others."""

    __slots__ = ()

    def known(self) -> int:
        return self.base + self.spent


class LowersFloorAtOnce(MeterBooks):
    """One reading is enough to believe in a refund."""

    __slots__ = ()

    def _refund(self, bound: int, **how: Any) -> None:
        super()._refund(bound, **{**how, "trusted": True})


class LowersFloorTooSoon(MeterBooks):
    """A refund is confirmed over a window that is shorter than the provider's lag."""

    __slots__ = ()

    def observe(self, usage: Usage, asked: Moment, terms: MeterTerms, **how: Any) -> None:
        super().observe(usage, asked, replace(terms, paranoid=terms.lag), **how)


class BelievesRaises(MeterBooks):
    """A higher limit is adopted from one answer."""

    __slots__ = ()

    def _adopt_limit(self, limit: int | None, **how: Any) -> None:
        super()._adopt_limit(limit, **{**how, "trusted": True})


class ConfirmsItself(MeterBooks):
    """Good news that is entered twice is its own confirmation."""

    __slots__ = ()

    def _adopt_limit(self, limit: int | None, **how: Any) -> None:
        super()._adopt_limit(limit, **{**how, "again": False})

    def _refund(self, bound: int, **how: Any) -> None:
        super()._refund(bound, **{**how, "again": False})


# -- accounts: periods, meters, predecessors ----------------------------------


class TurnsFromNow(MeterBooks):
    """The new period is counted from the moment at which the clock says that it began."""

    __slots__ = ()

    def turn(self, earliest: float) -> None:
        super().turn(math.inf)


class TurnsEarly(Books):
    """The local clock is fast, and nobody leaves it a skew."""

    __slots__ = ()

    def _turn(self, now: Moment, terms: Terms) -> list[Event]:
        return super()._turn(now._replace(wall=now.wall + 2 * self.period.skew), terms)


class HoldsMeterByMeter(Books):
    """A call of two meters is held on those that have room, and refused for the others."""

    __slots__ = ()

    def post(
        self, holder: str, report: Mapping[str, Tally], entry: Entry, now: Moment, terms: Terms
    ) -> Posted:
        if not isinstance(entry, Reserve):
            return super().post(holder, report, entry, now, terms)
        posted = [
            super(HoldsMeterByMeter, self).post(
                holder, report, replace(entry, cost={name: count}), now, terms
            )
            for name, count in entry.cost.items()
        ]
        granted = {name: count for one in posted for name, count in one.granted.items()}
        return Posted(posted[-1].verdict, granted, {})


class LooksAtOneMeter(Books):
    """A call of two meters goes if the first of them has room."""

    __slots__ = ()

    def room(self, name: str, now: Moment, terms: Terms, *, at: float | None = None) -> int | None:
        first = next(iter(terms.meters))
        return super().room(first, now, terms, at=at)


class ForgetsPredecessor(Books):
    """A restarted process believes its first reading."""

    __slots__ = ()

    def chilled(self, meter: MeterBooks, terms: Terms) -> bool:
        return False


class DisownsPredecessor(MeterBooks):
    """An exclusive account's predecessor is nobody: its spend cannot raise the base."""

    __slots__ = ()

    def _rebase(self, base: int, lowest: int, terms: MeterTerms, **how: Any) -> None:
        super()._rebase(base, lowest, terms, **{**how, "cold": False})


# -- the search ---------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """What is broken, and the scopes in which it can show."""

    broken: type[MeterBooks | Books | MeterDesk]
    scopes: tuple[str, ...]

    def made(self, rules: Rules) -> Desk:
        """Return the desk with the mistake in it."""
        account = SCOPES[rules.name].make is BooksDesk
        if issubclass(self.broken, MeterDesk):
            return self.broken(rules)
        if issubclass(self.broken, Books):
            return BooksDesk(rules, books=self.broken)
        if account:
            return BooksDesk(rules, meter=self.broken)
        return MeterDesk(rules, books=self.broken)


MUTANTS = (
    Mutant(Overwrites, ("plain", "batch")),
    Mutant(OverwritesInFlight, ("plain", "batch")),
    Mutant(TakesTheLarger, ("plain",)),
    Mutant(ForgetsLag, ("plain", "blind")),
    Mutant(MarksTheTick, ("plain", "blind")),
    Mutant(StampsEarly, ("coarse",)),
    Mutant(LetsLateWin, ("others",)),
    Mutant(AsksAtTheEnd, ("plain", "blind")),
    Mutant(IgnoresInFlight, ("plain",)),
    Mutant(ForgivesTimeouts, ("plain",)),
    Mutant(ReleasesUnknown, ("plain",)),
    Mutant(SettlesUnknownAtOnce, ("plain",)),
    Mutant(KeepsPhantoms, ("plain",)),
    Mutant(HasNoFloor, ("slow", "wrong")),
    Mutant(LowersFloorAtOnce, ("wrong",)),
    Mutant(LowersFloorTooSoon, ("slow",)),
    Mutant(BelievesRaises, ("raised",)),
    Mutant(ConfirmsItself, ("raised", "wrong")),
    Mutant(TurnsFromNow, ("fresh", "turn")),
    Mutant(TurnsEarly, ("turn", "fresh")),
    Mutant(HoldsMeterByMeter, ("both",)),
    Mutant(LooksAtOneMeter, ("both",)),
    Mutant(ForgetsPredecessor, ("cold",)),
    Mutant(DisownsPredecessor, ("alone",)),
)


def searched(scope: Scope, make: Callable[[Rules], Desk], seed: int) -> tuple[int, Found]:
    """Return what breaks first, and in which size: every way up to a bound, then at random."""
    for size, rules in enumerate(scope.sizes[:2]):
        found = explore(rules, make, states=STATES * scope.share // 3, seed=seed)
        if found.broken is not None:
            return size, found
    return 1, wander(scope.sizes[1], make, histories=HISTORIES, seed=seed)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.broken.__name__)
def test_a_broken_relative_is_killed(
    mutant: Mutant, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """A mistake in the books breaks a law within a few thousand states."""
    visited = 0
    for name in mutant.scopes:
        size, found = searched(SCOPES[name], mutant.made, seed)
        visited += found.states
        if found.broken is not None:
            where = f"{name} {size}, {visited:,} states: {told(found.trail)}"
            record_property("killed", f"{mutant.broken.__name__} by {found.broken}, {where}")
            return
    pytest.fail(f"{mutant.broken.__name__} lives: {visited:,} states, {mutant.broken.__doc__}")


@pytest.mark.parametrize("name", sorted({name for one in MUTANTS for name in one.scopes}))
def test_the_real_books_survive_the_same_search(name: str, seed: int) -> None:
    """What kills the mutants finds nothing wrong with the books that are shipped."""
    size, found = searched(SCOPES[name], SCOPES[name].make, seed)
    line = f"replay({name!r}, {size}, {told(found.trail)!r})"
    program = f'python -c "from quotaguard.testing.scopes import replay; {line}"'
    assert found.broken is None, f"{found.broken}\n{program}"
    assert found.states > HISTORIES
