"""What one holder draws from the books under a lease and spends from memory.

The counts are cumulative and only grow, so that a report that is lost, repeated
or late does no harm: what a holder holds is *drawn* less *cleared*. The numbers
of a purse are public and changed in place by the fast lane (reservation.py); the
rules are here:

    reserve k         taken += k; opened += k         if taken + k <= room[priority]
    settle a of k     taken -= k - a; opened -= k; spent += a; cleared += min(a, k)
    release           settle 0
    give back         cleared += what is drawn and neither cleared nor opened
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from quotaguard.quota.readings import NOTHING, Moment, nothing

__all__ = ["NO_ROOM", "Allotment", "Lane", "Purse", "Tally"]

Lapses = list[tuple[float, Mapping[str, int]]]
"""Units of lost calls, and when they can no longer be charged (slow clock)."""

NO_ROOM = -(1 << 62)
"""Room of a priority that a lane has nothing for, whatever is given back to it."""


class Tally(NamedTuple):
    """A holder's cumulative units of one meter, as it reports them to the books.

    at: the slow clock when the newest of *spent* was resolved; a report may come
    much later, and must not make an old charge look young for longer than it is.
    idle: what is held and not in any call: the rest of a lane.
    """

    drawn: int = 0
    cleared: int = 0
    spent: int = 0
    unknown: int = 0
    at: float = math.inf
    idle: int = 0


@dataclass(frozen=True, slots=True)
class Lane:
    """Units granted ahead of the calls that will take them.

    units: drawn from the books. room: how many of them each priority may take,
    nested, below 0 where more must come back before it may take any: the line is
    taken at the lane's start and the margin at its end, so a lane is never more
    generous than the books. end: of the fast clock. headroom: units that may be
    safely spent as of its start, None for unlimited.
    """

    units: int
    room: Mapping[str, int] = field(default_factory=nothing)
    end: float = 0.0
    headroom: int | None = None


class Purse:
    """A holder's units of one meter."""

    __slots__ = (
        "at",
        "cleared",
        "drawn",
        "end",
        "headroom",
        "opened",
        "parked",
        "room",
        "spent",
        "taken",
        "unknown",
    )

    def __init__(self) -> None:
        self.drawn = self.cleared = self.spent = self.unknown = 0
        self.opened = 0
        self.taken = 0
        self.at = -math.inf
        self.room: Mapping[str, int] = NOTHING
        self.end = 0.0
        self.parked: float | None = None
        self.headroom: int | None = None


class Allotment:
    """All that one holder holds of an account. Every method runs under its lock."""

    __slots__ = ("_second", "lapses", "purses")

    def __init__(self) -> None:
        self._second = 0.0
        self.purses: dict[str, Purse] = {}
        self.lapses: Lapses = []

    def purse(self, meter: str) -> Purse:
        """Return the units of *meter*."""
        purse = self.purses.get(meter)
        if purse is None:
            purse = self.purses[meter] = Purse()
        return purse

    def report(self, now: Moment) -> dict[str, Tally]:
        """Give back what no call has taken, and tell the counts.

        Outcomes that stayed unknown until they can no longer be charged late are
        counted as spent here.
        """
        self.lapse(now)
        told = {}
        for meter, purse in self.purses.items():
            purse.cleared = purse.drawn - purse.opened
            purse.taken = 0
            purse.end = 0.0
            purse.room = NOTHING
            at = min(purse.at, now.slow)
            told[meter] = Tally(purse.drawn, purse.cleared, purse.spent, purse.unknown, at)
        return told

    def accept(self, cost: Mapping[str, int], lanes: Mapping[str, Lane]) -> None:
        """Take over what the books granted: the call's units and the lanes."""
        for meter, count in cost.items():
            purse = self.purse(meter)
            purse.drawn += count
            purse.opened += count
        for meter, lane in lanes.items():
            purse = self.purse(meter)
            purse.drawn += lane.units
            purse.taken = 0
            purse.room = lane.room
            purse.end = lane.end
            purse.headroom = lane.headroom

    def take(self, cost: Mapping[str, int], priority: str, fast: float) -> bool:
        """Reserve *cost* from the lanes, all or nothing; False: ask the books.

        This is the rule that spending.py's fast lane unrolls.
        """
        if not self.covers(cost, priority, fast):
            return False
        for meter, count in cost.items():
            purse = self.purses[meter]
            purse.taken += count
            purse.opened += count
        return True

    def covers(self, cost: Mapping[str, int], priority: str, fast: float) -> bool:
        """Whether the lanes cover *cost* now."""
        for meter, count in cost.items():
            purse = self.purses.get(meter)
            if purse is None or fast >= purse.end:
                return False
            if purse.taken + count > purse.room.get(priority, NO_ROOM):
                return False
        return True

    def settle(
        self, cost: Mapping[str, int], actual: Mapping[str, int], at: float = math.inf
    ) -> None:
        """End a reservation of *cost* that spent *actual*, meters left out nothing.

        at: the slow clock of now; without it the charge is as young as the report.
        """
        for meter, count in cost.items():
            spent = actual.get(meter, 0)
            purse = self.purses[meter]
            purse.opened -= count
            if spent:
                purse.at = at
                purse.spent += spent
            purse.cleared += min(spent, count)
            purse.taken -= count - spent
        for meter, spent in actual.items():
            if spent and meter not in cost:
                self.record({meter: spent}, at)

    def give_up(self, cost: Mapping[str, int], until: float) -> None:
        """End a reservation whose outcome is unknown: held until *until* (slow clock)."""
        self.lapses = self.given_up(cost, until)

    def given_up(self, cost: Mapping[str, int], until: float) -> Lapses:
        """Return what `lapses` is with *cost* in it; it is not changed.

        Those of one second lapse together, at the last one's time: an outage of the
        provider must not make the books grow with every call.
        """
        if self.lapses and self._second <= until < self._second + 1.0:
            together = dict(self.lapses[-1][1])
            for meter, count in cost.items():
                together[meter] = together.get(meter, 0) + count
            return [*self.lapses[:-1], (until, together)]
        self._second = until
        return [*self.lapses, (until, dict(cost))]

    def record(self, cost: Mapping[str, int], at: float = math.inf) -> None:
        """Count units that were spent elsewhere."""
        for meter, count in cost.items():
            purse = self.purse(meter)
            purse.at = at
            purse.taken += count
            purse.drawn += count
            purse.cleared += count
            purse.spent += count

    def lapse(self, now: Moment) -> None:
        """Count as spent what can no longer be charged late."""
        kept = []
        for until, cost in self.lapses:
            if now.slow < until:
                kept.append((until, cost))
                continue
            for meter, count in cost.items():
                purse = self.purse(meter)
                # By then it was charged or never will be, however late we look.
                purse.at = max(purse.at, until)
                purse.opened -= count
                purse.spent += count
                purse.unknown += count
        self.lapses = kept

    @property
    def open(self) -> dict[str, int]:
        """Return the units of reservations that have not ended, by meter."""
        return {meter: purse.opened for meter, purse in self.purses.items() if purse.opened}
