"""Every way through small scopes: the real books never overshoot, and silence heals them.

``pytest tests/quota/test_exhaustive.py --states 3000000`` is the soak. Each scope is
searched from its smallest size to its largest, with its share of the states;
"whole" means that there was no other way.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quotaguard.testing.rules import Broken
from quotaguard.testing.scopes import SCOPES, Scope, replay
from quotaguard.testing.search import Found, explore, told, wander

pytestmark = pytest.mark.timeout(1800)

SHARES = sum(scope.share for scope in SCOPES.values())


def searched(scope: Scope, states: int, seed: int) -> tuple[list[str], int]:
    """Search the sizes of a scope, each with most of what is left; the last one with all."""
    left, sizes = states, []
    for size, rules in enumerate(scope.sizes):
        bound = left if rules is scope.sizes[-1] else -(-3 * left // 4)
        found = explore(rules, scope.make, states=bound, seed=seed)
        survived(scope, size, found)
        sizes.append(f"{found.states:,} {'whole' if found.whole else 'cut'}")
        left -= found.states
    return sizes, states - left


def survived(scope: Scope, size: int, found: Found) -> None:
    """Assert that a search broke no law."""
    line = f"replay({scope.name!r}, {size}, {told(found.trail)!r})"
    program = f'python -c "from quotaguard.testing.scopes import replay; {line}"'
    assert found.broken is None, f"{found.broken}\n{program}"


@pytest.mark.parametrize("scope", SCOPES.values(), ids=lambda scope: scope.name)
def test_no_way_through_a_small_scope_breaks_a_law(
    scope: Scope, states: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """I1, I2, I3, I7, I9, I10 and I11 hold in every state, and each heals (I6)."""
    share = -(-states * scope.share // SHARES)
    sizes, visited = searched(scope, share, seed)
    assert visited >= share
    record_property("states", visited)
    record_property("proof", f"{scope.name}: {' + '.join(sizes)}; 0 overshoots, 0 unhealed")


def test_the_smallest_scope_is_searched_whole(seed: int) -> None:
    """Two calls for two units: there is no other way, whatever the order of the search."""
    scope = SCOPES["exclusive"]
    found = [
        explore(scope.sizes[0], scope.make, states=100_000, seed=draw) for draw in (seed, seed + 1)
    ]
    assert all(one.whole and one.broken is None for one in found)
    assert found[0].states == found[1].states > 2_000


def test_a_search_stops_at_its_bound() -> None:
    """A search that is cut short says so."""
    found = explore(SCOPES["plain"].sizes[1], SCOPES["plain"].make, states=100)
    assert (found.states, found.whole) == (100, False)


def test_the_same_seed_is_the_same_search() -> None:
    """A random search can be repeated to the step."""
    scope = SCOPES["lanes"]
    one, two, other = (
        wander(scope.sizes[2], scope.make, histories=50, seed=seed) for seed in (1, 1, 2)
    )
    assert one == two != other


def test_a_line_replays() -> None:
    """The line of a finding leads to the same state again, and a wrong line is refused."""
    world = replay("plain", 1, "reserve:0 charge:2:1 lose:2 tick tick tick post ask tick")
    assert (world.now, world.used, world.held, world.coming) == (4, 1, 0, 0)
    with pytest.raises(IndexError):
        replay("plain", 1, "reserve:7")


def test_a_law_that_is_broken_is_named() -> None:
    """An answer that no provider could give (two units, one was charged) breaks I2 or I6."""
    with pytest.raises(Broken, match="I6: gate 3 stays, 1 are charged") as caught:
        replay("plain", 1, "ask read:0:2:0:0")
    assert caught.value.law == "I6"
