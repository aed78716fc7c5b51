"""The small scopes in which the books are proven, each with what it is there for.

A broken book is only seen where its fault can show. A marker that forgets the lag
needs a lag of two ticks and an unknown outcome; an unknown outcome that is counted
at once needs `late` above `lag`; the larger of two counts looks right until the
account has a past; a floor is only needed where the provider lags more than it says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quotaguard.testing.desks import BooksDesk, MeterDesk
from quotaguard.testing.rules import Rules
from quotaguard.testing.search import retrace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quotaguard.testing.rules import Desk
    from quotaguard.testing.world import World

__all__ = ["SCOPES", "Scope", "replay"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Rules from small to large, and the desk that plays them.

    share: of the states that a suite may visit; an account's books cost three times
    as much as a meter's.
    """

    make: Callable[[Rules], Desk]
    sizes: tuple[Rules, ...]
    share: int

    @property
    def name(self) -> str:
        """The name under which it is told."""
        return self.sizes[0].name


def _scope(make: Callable[[Rules], Desk], rules: Rules) -> Scope:
    """Return the scope with two calls and a poll less, as it is, and with a poll more."""
    few = replace(
        rules,
        prices=rules.prices[:2],
        polls=rules.polls - 1,
        last=rules.last - 2,
        others=min(1, rules.others),
    )
    more = replace(rules, polls=rules.polls + 1, last=rules.last + 2)
    return Scope(make, (few, rules, more), 3 if make is MeterDesk else 1)


_ALL = (
    # Three calls for the two units that are left, every order, D < G.
    _scope(MeterDesk, Rules(name="plain")),
    # Prices differ, and a batch may cost less than was reserved.
    _scope(MeterDesk, Rules(name="batch", limits=(4,), prices=(1, 2, 1), partial=True)),
    # Calls before the first reading: the floor does not know what others had spent.
    _scope(MeterDesk, Rules(name="blind", blind=1, polls=3)),
    # Nobody else spends, and the books know it.
    _scope(MeterDesk, Rules(name="exclusive", exclusive=True)),
    # Samples of one bucket of time are kept as one.
    _scope(MeterDesk, Rules(name="coarse", tick=2, late=1)),
    # Others spend.
    _scope(MeterDesk, Rules(name="others", others=2, prices=(1, 1, 1))),
    # The provider lags more than it says, up to D2; outcomes are known.
    _scope(
        MeterDesk, Rules(name="slow", lag=1, real=6, paranoid=6, lose=False, polls=3, last=7)
    ),
    # The provider takes a charge back.
    _scope(MeterDesk, Rules(name="refund", refund=1, prices=(1, 1, 1), polls=3, paranoid=2)),
    # One answer says that nothing is used.
    _scope(MeterDesk, Rules(name="wrong", wrong=True, lose=False, polls=3)),
    # One answer tells a limit that is too high.
    _scope(MeterDesk, Rules(name="raised", raised=2)),
    # A whole account: reports, lanes that a holder spends from memory, claims.
    _scope(BooksDesk, Rules(name="lanes")),
    # Two meters, one of which is nearly spent.
    _scope(BooksDesk, Rules(name="both", limits=(5, 3), bases=(1, 1), prices=(1, 2, 1))),
    # The period ends at some instant near the one that was told.
    _scope(BooksDesk, Rules(name="turn", limits=(2,), bases=(1,), ends=3, late=2, lag=1, last=6)),
    _scope(BooksDesk, Rules(name="fresh", limits=(2,), bases=(0,), ends=2, late=2, lag=1, last=6)),
    # A predecessor died with units in flight, and its books with it.
    _scope(
        BooksDesk,
        Rules(
            name="cold", hidden=2, cold=0.25, limits=(12,), bases=(0,), prices=(5, 5, 2),
            polls=3, last=4, lag=1, late=1,
        ),
    ),
    _scope(
        BooksDesk,
        Rules(
            name="alone", hidden=2, cold=0.25, limits=(12,), bases=(0,), prices=(5, 5, 2),
            polls=3, last=4, lag=1, late=1, exclusive=True,
        ),
    ),
)  # fmt: skip

SCOPES: Mapping[str, Scope] = {scope.name: scope for scope in _ALL}
"""The scopes by name."""


def replay(name: str, size: int, line: str) -> World:
    """Take the steps of *line* in a scope again, and heal at its end.

    Raises:
        Broken: the law that did not hold when the line was written.
    """
    scope = SCOPES[name]
    return retrace(scope.sizes[size], scope.make, line)
