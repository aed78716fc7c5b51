"""The deals of a fake CRM: who has which, since when, and from when on stats show it.

Every deal has a date of its own, so that any two days can be asked for. What other
people do follows from the clock, lazily, like everything in `quotaguard.testing`.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from quotaguard.quota.windows import Window, Windows
from quotaguard.testing.metering import PARTS, ROUNDING

if TYPE_CHECKING:
    from quotaguard.testing.voxys import VoxysKnobs

__all__ = ["Change", "Deal", "Deals"]

MAIN = "deals.created"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to a deal, by the vendor's Unix time; *shows* in stats."""

    at: float
    shows: float

    def seen(self, now: float | None) -> bool:
        """Whether stats show it at *now*; None is the truth, which needs no showing."""
        return now is None or self.shows <= now


@dataclass(slots=True)
class Deal:
    """So many equal deals of one agent in one stage; *value* is of each."""

    number: int
    count: int
    agent: int
    stage: int
    value: float
    made: Change
    won: Change | None = None
    lost: Change | None = None
    gone: Change | None = None

    def there(self, now: float | None) -> bool:
        """Whether it counts: made, and not deleted."""
        return self.made.seen(now) and not (self.gone and self.gone.seen(now))


class Deals:
    """The vendor's own books of one pipeline. Thread-safe.

    In these counts a deal belongs to the day on which it was created, won or lost.
    """

    def __init__(self, knobs: VoxysKnobs) -> None:
        self._knobs = knobs
        self._clock = knobs.clock
        self._windows = Windows(knobs.window, knobs.time_zone)
        self._random = random.Random(knobs.seed)  # noqa: S311 - not for secrets
        self._lock = threading.Lock()
        self._deals: list[Deal] = []
        self._quota = knobs.quota
        moment = self._clock.now()
        self._wall_ahead = moment.wall - moment.fast
        self._began = moment.wall
        self._others_tried = self._others_spent = 0
        start = self._window(moment.wall).period.start or moment.wall
        self._made(knobs.used, Change(start, -math.inf))

    # -- what happens -----------------------------------------------------------

    def create(
        self, count: int = 1, *, agent: int | None = None, stage: int | None = None, value: float
    ) -> Deal | None:
        """Create deals; None where the quota is hard and has no room for them."""
        with self._lock:
            now = self._go_on()
            if count > self._room(now):
                return None
            made = self._made(count, self._change(now), agent=agent, stage=stage, value=value)
            return made[-1] if made else None

    def spend(self, count: int) -> int:
        """Let somebody else create *count* deals; return how many there was room for."""
        with self._lock:
            now = self._go_on()
            count = min(count, self._room(now))
            self._made(count, self._change(now), agent=self._knobs.agents[-1])
            return count

    def end(self, how: Literal["won", "lost", "gone"], count: int = 1) -> int:
        """Win, lose or delete the newest deals that allow it; return how many did."""
        with self._lock:
            now = self._go_on()
            change, left = self._change(now), count
            for deal in reversed(tuple(self._deals)):
                if not left:
                    break
                if deal.gone or (how != "gone" and (deal.won or deal.lost)):
                    continue
                part = self._split(deal, left)
                setattr(part, how, change)
                left -= part.count
            return count - left

    def delete(self, number: int) -> bool:
        """Delete one deal by its number; False where there is none."""
        with self._lock:
            now = self._go_on()
            for deal in self._deals:
                if deal.number == number and not deal.gone:
                    deal.gone = self._change(now)
                    return True
            return False

    # -- what is counted --------------------------------------------------------

    def told(self, first: date | None, last: date | None, agent: int | None) -> dict[str, Any]:
        """Return the analytics that stats show now between two days."""
        with self._lock:
            return self._told(first, last, agent, self._go_on())

    def series(self, first: date | None, last: date | None, kind: str) -> list[dict[str, Any]]:
        """Return deals created by day, week, month, agent or stage, as stats show them."""
        with self._lock:
            now = self._go_on()
            made: dict[str | int, int] = {}
            for deal in self._between(first, last, now):
                key: str | int = deal.agent if kind == "agent" else deal.stage
                if kind not in ("agent", "stage"):
                    day = self._windows.day(deal.made.at)
                    key = Windows(kind, self._knobs.time_zone).of(day).first.isoformat()
                made[key] = made.get(key, 0) + deal.count
        return [{kind: key, "created": made[key]} for key in sorted(made, key=str)]

    def true(self) -> dict[str, Any]:
        """Return what was really counted in this window, by meter."""
        with self._lock:
            return self._metered(self._window(self._go_on()), None)

    def shown(self) -> tuple[dict[str, Any], Window]:
        """Return what stats show of this window, by meter, and which it is."""
        with self._lock:
            now = self._go_on()
            window = self._window(now)
            return self._metered(window, now), window

    def past(self) -> tuple[Mapping[str, Any], ...]:
        """Return the true counts of the windows that have ended, oldest first."""
        with self._lock:
            now = self._go_on()
            counts, window, last = [], self._window(self._began), self._window(now)
            while window.first < last.first:
                counts.append(self._metered(window, None))
                window = self._window(window.period.end or now)
            return tuple(counts)

    def quota(self, _meter: str = MAIN) -> int | None:
        """Return the budget that a test compares with, None where it is unlimited."""
        return self._quota

    def set_quota(self, _meter: str, quota: int | None) -> None:
        """Change the budget."""
        with self._lock:
            self._go_on()
            self._quota = quota

    def wall(self) -> float:
        """Return the vendor's Unix time, which no wrong local clock moves."""
        return self._clock.fast() + self._wall_ahead

    # -- inside, with the lock ----------------------------------------------------

    def _window(self, wall: float) -> Window:
        return self._windows.of(self._windows.day(wall))

    def _change(self, at: float) -> Change:
        lag = self._knobs.lag
        return Change(at, at + (lag if self._knobs.visible == "fixed" else self._draw(lag)))

    def _draw(self, lag: float) -> float:
        return self._random.uniform(0, lag)

    def _room(self, now: float) -> int:
        if self._knobs.overage or self._quota is None:
            return 1 << 62
        return max(0, self._quota - int(self._metered(self._window(now), None)[MAIN]))

    def _made(
        self,
        count: int,
        change: Change,
        *,
        agent: int | None = None,
        stage: int | None = None,
        value: float | None = None,
    ) -> list[Deal]:
        """Book *count* deals, in parts where each shows at a time of its own."""
        knobs = self._knobs
        parts = PARTS if knobs.visible == "random" and change.shows > change.at else 1
        step = max(1, math.ceil(count / parts))
        made = [
            Deal(
                number=len(self._deals) + 1 + place // step,
                count=min(step, count - place),
                agent=knobs.agents[0] if agent is None else agent,
                stage=knobs.stages[0] if stage is None else stage,
                value=knobs.deal_value if value is None else value,
                made=change if parts == 1 else self._change(change.at),
            )
            for place in range(0, count, step)
        ]
        self._deals.extend(made)
        return made

    def _split(self, deal: Deal, count: int) -> Deal:
        """Return a part of *count* deals, or the whole where it is not more."""
        if deal.count <= count:
            return deal
        deal.count -= count
        part = replace(deal, number=len(self._deals) + 1, count=count)
        self._deals.append(part)
        return part

    def _go_on(self) -> float:
        """Let everything happen that was due by now; return now."""
        now, knobs = self.wall(), self._knobs
        tried = math.floor(knobs.other_rate * (now - self._began) + ROUNDING)
        first, wanted = self._others_tried + 1, tried - self._others_tried
        self._others_tried = tried
        if knobs.other_total is not None:
            wanted = min(wanted, knobs.other_total - self._others_spent)
        step = max(1, math.ceil(wanted / PARTS))
        for place in range(0, wanted, step):
            at = self._began + (first + place) / knobs.other_rate
            count = min(step, wanted - place, self._room(at))
            self._others_spent += count
            self._made(count, self._change(at), agent=knobs.agents[-1])
        return now

    def _between(self, first: date | None, last: date | None, now: float | None) -> Iterator[Deal]:
        within = self._within(first, last)
        return (deal for deal in self._deals if deal.there(now) and within(deal.made))

    def _within(self, first: date | None, last: date | None) -> Any:  # noqa: ANN401 - a test
        def within(change: Change | None) -> bool:
            if change is None:
                return False
            day = self._windows.day(change.at)
            return (first is None or first <= day) and (last is None or day <= last)

        return within

    def _told(
        self, first: date | None, last: date | None, agent: int | None, now: float | None
    ) -> dict[str, Any]:
        within = self._within(first, last)
        deals = [d for d in self._deals if d.there(now) and agent in (None, d.agent)]
        made = [d for d in deals if within(d.made)]
        won = [d for d in deals if d.won and d.won.seen(now) and within(d.won)]
        lost = [d for d in deals if d.lost and d.lost.seen(now) and within(d.lost)]
        still = [d for d in deals if not any(e and e.seen(now) for e in (d.won, d.lost))]
        agents = sorted({d.agent for d in (*made, *won)})
        return {
            "total_created": _count(made),
            "total_won": _count(won),
            "total_lost": _count(lost),
            "total_value_created": _value(made),
            "total_value_won": _value(won),
            "by_agent": [(a, *(_sum(some, "agent", a) for some in (made, won))) for a in agents],
            "by_stage": [(s, _sum(still, "stage", s)) for s in sorted({d.stage for d in still})],
        }

    def _metered(self, window: Window, now: float | None) -> dict[str, Any]:
        told = self._told(window.first, window.last, None, now)
        counts: dict[str, Any] = {
            MAIN: told["total_created"],
            "deals.won": told["total_won"],
            "deals.lost": told["total_lost"],
            "value.created": told["total_value_created"],
            "value.won": told["total_value_won"],
        }
        for agent in self._knobs.agents:
            for part in ("created", "won", "value_won"):
                counts[f"agent.{agent}.{part}"] = 0
        for stage in self._knobs.stages:
            counts |= {f"stage.{stage}.count": 0, f"stage.{stage}.value": 0}
        for agent, made, won in told["by_agent"]:
            counts[f"agent.{agent}.created"] = made[0]
            counts[f"agent.{agent}.won"], counts[f"agent.{agent}.value_won"] = won
        for stage, some in told["by_stage"]:
            counts[f"stage.{stage}.count"], counts[f"stage.{stage}.value"] = some
        return counts


def _sum(deals: list[Deal], what: str, number: int) -> tuple[int, float]:
    """Return how many there are of one agent or stage, and their money."""
    some = [deal for deal in deals if getattr(deal, what) == number]
    return _count(some), _value(some)


def _count(deals: list[Deal]) -> int:
    return sum(deal.count for deal in deals)


def _value(deals: list[Deal]) -> float:
    return sum(deal.count * deal.value for deal in deals)
