"""Searches through the small world: every way, or many ways at random.

What breaks a law is found with the steps that lead to it, and `told` makes one line
of them that `retrace` takes again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from quotaguard.testing.rules import Broken, Desk, Rules
from quotaguard.testing.world import Step, World

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Found", "explore", "retrace", "told", "wander"]

Trail = Optional[tuple[Step, "Trail"]]  # noqa: UP045 - it names itself


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    states: different ones that were visited; of a random search, steps. whole: there
    are no others. broken: the first law that did not hold. trail: the steps to it.
    """

    states: int
    whole: bool
    broken: Broken | None = None
    trail: tuple[Step, ...] = ()


def explore(rules: Rules, make: Callable[[Rules], Desk], *, states: int, seed: int = 0) -> Found:
    """Visit every state of a scope, depth first, up to *states* of them.

    From each one silence must heal (I6). The order of the steps is drawn from
    *seed*, so that a search that is cut short has not only seen one corner.
    """
    draw = random.Random(seed)  # noqa: S311 - a search, not a secret
    start = World(rules, make(rules))
    seen = {hash(start.key())}
    stack: list[tuple[World, Trail]] = [(start, None)]
    while stack:
        world, trail = stack.pop()
        steps = world.steps()
        draw.shuffle(steps)
        for step in steps:
            try:
                new = world.after(step)
                key = hash(new.key())
                if key in seen:
                    continue
                new.heal()
            except Broken as broken:
                return Found(len(seen), False, broken, _unrolled((step, trail)))  # noqa: FBT003
            seen.add(key)
            if len(seen) >= states:
                return Found(len(seen), False)  # noqa: FBT003
            stack.append((new, (step, trail)))
    return Found(len(seen), True)  # noqa: FBT003


def wander(rules: Rules, make: Callable[[Rules], Desk], *, histories: int, seed: int = 0) -> Found:
    """Live *histories* random histories of a scope, each to its end."""
    draw = random.Random(seed)  # noqa: S311 - a search, not a secret
    start, count = World(rules, make(rules)), 0
    for _ in range(histories):
        world, trail = start, []
        try:
            while steps := world.steps():
                trail.append(draw.choice(steps))
                world = world.after(trail[-1])
            world.heal()
        except Broken as broken:
            return Found(count, False, broken, tuple(trail))  # noqa: FBT003
        count += len(trail)
    return Found(count, True)  # noqa: FBT003


def _unrolled(trail: Trail) -> tuple[Step, ...]:
    steps = []
    while trail is not None:
        step, trail = trail
        steps.append(step)
    return tuple(reversed(steps))


def told(steps: tuple[Step, ...]) -> str:
    """Return the steps as one line, for `retrace`."""
    return " ".join(":".join(map(str, step)) for step in steps)


def retrace(rules: Rules, make: Callable[[Rules], Desk], line: str) -> World:
    """Take the steps of *line* and heal at its end.

    Raises:
        Broken: the law that did not hold when the line was written.
    """
    world = World(rules, make(rules))
    for word in line.split():
        verb, *numbers = word.split(":")
        world = world.after((verb, *map(int, numbers)))
    world.heal()
    return world
