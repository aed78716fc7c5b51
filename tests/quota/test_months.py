"""A month in a second: everything at once, through the shipped code, and its laws.

Every month is another mixture, from its number: a lag, others who spend steadily or in
bursts, lost answers of which half are charged, batches whose price is known afterwards,
crashes that forget everything, polls that fail, a refund, a limit that is raised or
lowered, calls of three priorities. The laws:

* *ours*: own units past the limit are 0. Ours are those that would be past it even
  without what others spent too late for any reading to show: later than the newest
  reading was asked, less the lag (I2, I5).
* *past*: units of calls that went while the provider's own count had reached the limit.
  0 where others spend steadily or not at all.
* Own units are at least 99 % of what a guard with perfect sight would have spent, who
  keeps the same lines and sees every count at once (I14); of a refund and a raised limit
  it hears when two polls could have. What may be missing besides is what our own calls
  spend within one lag: they may count twice until the next poll, and an import that meets
  its line just then is refused. Calls that came after a crash before any answer of the
  stats are not counted: the policy closes on unknown. Batch calls that are refused come
  again, whoever refuses them.
* Polls keep their budget, in every hour and in the month, whatever fails (I15).
* At the end nothing is held (I7), and after silence the gate is the truth (I6).

A failure prints the line that plays its month again:

    python tests/quota/test_months.py 17
"""

from __future__ import annotations

import heapq
import math
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from quotaguard import Policy, QuotaUnknown
from quotaguard.errors import Refusal
from quotaguard.quota.entries import Touch
from quotaguard.quota.lines import line, share_left
from quotaguard.quota.polls import PollTerms
from quotaguard.testing import SimulatedCall, SimulatedProvider, Simulator
from quotaguard.testing.simulated import SLOW_START, WALL_START

HOUR = 3_600.0
DAY = 24 * HOUR
MONTH = 30 * DAY
AFTER = 6 * HOUR
"""Calls go on for six hours of the next period, which must begin by itself."""

TIMEOUT = 10.0
LATE = 60.0

AGAIN, TRIES = 4 * HOUR, 7
"""A batch call that is refused comes again every four hours, for a day."""

HOURS = (1, 1, 1, 1, 1, 1, 2, 4, 8, 10, 10, 8, 6, 8, 10, 10, 8, 6, 4, 3, 2, 2, 1, 1)
"""When people work."""

FLOWS = {"steadily": (1.0, 600.0), "in spurts": (10.0, 600.0), "by day": (4.0, DAY)}
FLOWS |= {"nightly": (144.0, DAY)}
"""How others spend: so many times as fast for as small a part of every cycle of seconds."""

SELDOM = Policy(poll_budget=(720, timedelta(days=30)), max_age=timedelta(hours=3))

POLICIES: dict[str, Policy] = {
    "defaults": Policy(),
    "steady": Policy.steady(),
    "720 polls": SELDOM,
    "patient": Policy(max_wait=120),
}


class Month:
    """What happens in one month: all of it follows from the seed and the number."""

    def __init__(self, number: int, seed: int = 0) -> None:
        self.name = f"{seed}/{number}"
        chance = self.chance = Random(self.name)
        self.limit = chance.randrange(3_000, 20_001)
        self.meters = ("a", "total") if chance.random() < 0.25 else ("a",)
        self.flow = chance.choice(("", *FLOWS))
        self.share = chance.uniform(0.02, 0.3) if self.flow else 0.0
        self.kind = chance.choice(("defaults", *POLICIES))
        self.policy = POLICIES[self.kind]
        if not self.flow and chance.random() < 0.5:
            self.policy = self.policy.but(exclusive=True)
        self.demand = chance.uniform(0.7, 2.2)
        # In some months all calls are critical: they meet the limit itself, and no line.
        self.pressing = chance.choice((0.2, 0.5, 1.0))
        self.lag = chance.choice(((60.0, True), (60.0, True), (60.0, False), (20.0, False)))
        self.fails = chance.choice((0.0, 0.02, 0.1))
        self.crashes = list(self._crashes()) if chance.random() < 0.8 else []
        self.outage = chance.uniform(0.0, MONTH) if chance.random() < 0.5 else math.inf
        self.refund = chance.uniform(0.2, 0.95) * MONTH if chance.random() < 0.5 else math.inf
        self.change = chance.uniform(0.2, 0.95) * MONTH if chance.random() < 0.5 else math.inf
        self.factor = chance.choice((1.2, 1.5, 0.8))
        self.calls = sorted(self._calls(), key=lambda call: call.at)

    def _crashes(self) -> Iterator[float]:
        at = 0.0
        while (at := at + self.chance.uniform(1.0, 3.0) * DAY) < MONTH:
            yield at

    def _calls(self) -> Iterator[SimulatedCall]:
        chance = self.chance
        wanted = self.demand * self.limit * (1.0 - self.share)
        single, batch = chance.uniform(0.2, 0.6), chance.uniform(0.02, 0.08)
        while wanted > 0:
            what, at = chance.random(), self._arrival()
            if what < single:  # one call of a person
                yield self._call(at, 1, self._priority("normal"))
                wanted -= 1
            elif what < single + batch:  # its price is known afterwards
                cost = chance.randint(5, 40)
                yield self._call(at, cost, self._priority(chance.choice(("normal", "batch"))))
                wanted -= cost // 2
            elif chance.random() < 0.02:  # an import, two calls a second
                priority = self._priority(chance.choice(("normal", "batch")))
                for _ in range(min(int(chance.expovariate(1 / 120)), int(wanted))):
                    at += chance.expovariate(2.0)
                    yield self._call(at, 1, priority)
                    wanted -= 1
        for _ in range(40):
            yield self._call(MONTH + chance.uniform(0.0, AFTER), 1, "critical")

    def _priority(self, otherwise: str) -> str:
        return "critical" if self.chance.random() < self.pressing else otherwise

    def _arrival(self) -> float:
        chance = self.chance
        (hour,) = chance.choices(range(24), HOURS)
        return chance.randrange(30) * DAY + (hour + chance.random()) * HOUR

    def _call(self, at: float, cost: int, priority: str) -> SimulatedCall:
        """Return one call, with its fate."""
        chance, fate = self.chance, self.chance.random()
        actual = cost if cost == 1 else chance.randint(0, cost)
        if cost == 1 and fate < 0.2:
            actual = 0  # no match
        takes, after = chance.uniform(0.05, 2.0), None
        lost = fate >= 0.98
        if lost:
            takes, after = TIMEOUT, chance.uniform(0.0, LATE)
            actual = actual if chance.random() < 0.5 else 0
        wait = chance.choice((None, None, 0.0, 300.0)) if priority == "batch" else None
        return SimulatedCall(
            at,
            dict.fromkeys(self.meters, cost),
            priority,
            wait,
            takes,
            dict.fromkeys(self.meters, actual) if actual else {},
            answered=not lost,
            charged_after=after,
            unsent=0.97 <= fate < 0.98,
        )

    def provider(self) -> SimulatedProvider:
        """Return the provider of this month."""
        burst, cycle = FLOWS.get(self.flow, (1.0, 600.0))
        lag, scattered = self.lag
        return SimulatedProvider(
            {**dict.fromkeys(self.meters), "a": self.limit},
            lag=lag,
            scattered=scattered,
            takes=0.5,
            fails=self.fails,
            foreign=self.share * self.limit / MONTH,
            burst=burst,
            cycle=cycle,
            period=MONTH,
            seed=self.name,
        )

    def turns(
        self, provider: SimulatedProvider, told: float = 0.0
    ) -> list[tuple[float, Callable[[float], None]]]:
        """Return what the vendor does to the account, good news *told* seconds later."""

        def refund(at: float) -> None:
            provider.refund("a", min(provider.used("a", at), self.limit // 50), at)

        def change(at: float) -> None:
            # A limit below the count that is reached already is past by itself.
            least = provider.used("a", at) + self.limit // 20
            provider.upgrade("a", max(least, int(self.factor * self.limit)))

        raised = told if self.factor > 1.0 else 0.0
        happens = ((self.refund + told, refund), (self.change + raised, change))
        return sorted((at, act) for at, act in happens if at < MONTH)

    def servable(self) -> int:
        """Return the own units of a guard that keeps the lines and sees every count at once."""
        provider, slack, spent = self.provider(), self.policy.slack, 0
        # Good news waits for two readings: it cannot be known sooner.
        turns = self.turns(provider, 2.0 * PollTerms.of(self.policy, 30.0).longest + 900.0)
        coming = [(call.at, number, 1, call) for number, call in enumerate(self.calls)]
        while coming and coming[0][0] < MONTH:
            at, number, tries, call = heapq.heappop(coming)
            while turns and turns[0][0] <= at:
                when, turn = turns.pop(0)
                turn(when)
            limit, actual = provider.limit("a") or 0, (call.actual or {}).get("a", 0)
            kept = line(slack[call.priority], share_left(provider.period, WALL_START + at), limit)
            if provider.used("a", at) + call.cost["a"] + kept > limit:
                if call.priority == "batch" and tries < TRIES:
                    heapq.heappush(coming, (at + AGAIN, number, tries + 1, call))
            elif actual and not call.unsent:
                provider.charge("a", actual, at)
                spent += actual
        return spent

    def busiest(self) -> int:
        """Return the most units that calls of one lag can spend."""
        most = within = first = 0
        for call in self.calls:
            within += (call.actual or {}).get("a", 0)
            while self.calls[first].at < call.at - float(self.policy.lag):  # type: ignore[arg-type] # seconds
                within -= (self.calls[first].actual or {}).get("a", 0)
                first += 1
            most = max(most, within)
        return most

    def __str__(self) -> str:
        others = f"others {self.share:.0%} {self.flow}" if self.flow else "nobody else"
        return f"{self.limit} units, {others}, {self.kind}, {len(self.calls)} calls"


class Life:
    """Lives a month and holds it against the laws."""

    def __init__(self, month: Month) -> None:
        self.month = month
        self.provider = month.provider()
        self.simulator = Simulator(self.provider, month.policy, seed=month.name, watch=self)
        self.ours = self.past = self.spent = self.unread = 0
        self.starts = [0.0]
        self.tries: dict[int, tuple[SimulatedCall, int]] = {}

    def __call__(self, what: str, call: SimulatedCall | None, refusal: Refusal | None) -> None:
        if call is None:
            return
        if refusal is not None and call.priority == "batch":
            self.come_again(call)
        elif isinstance(refusal, QuotaUnknown):
            self.unread += (call.actual or {}).get("a", 0)
        elif what == "granted" and call.actual and not call.unsent:
            self.goes(call.actual["a"])

    def come_again(self, call: SimulatedCall) -> None:
        """A batch call was refused: a job that can wait asks again."""
        _, tries = self.tries.pop(id(call), (call, 1))
        if tries < TRIES:
            later = replace(call, at=self.simulator.elapsed + AGAIN)
            self.tries[id(later)] = later, tries + 1
            self.simulator.call(later)

    def goes(self, units: int) -> None:
        """A call was sent that will be charged: hold it against the true count."""
        simulator, provider, lag = self.simulator, self.provider, float(self.month.policy.lag)  # type: ignore[arg-type] # a Policy holds seconds
        at, meter = simulator.elapsed, simulator.books.meters["a"]
        used, limit = provider.used("a", at), provider.limit("a") or 0
        if used >= limit:
            self.past += units
        # One that was lowered since the last reading nobody can know.
        limit = max(limit, meter.limit or 0)
        unseen = provider._others(at) - provider._others(meter.asked - SLOW_START - lag)
        self.ours = max(self.ours, used + simulator.coming["a"] - unseen - limit)

    def live(self) -> Counter[str]:
        """Live it, judge it, and return its figures."""
        month, simulator = self.month, self.simulator
        for at in month.crashes:
            simulator.at(at, self._crash)
        if month.outage < MONTH:
            simulator.at(month.outage, self._fail, 1.0)
            simulator.at(month.outage + 3 * HOUR, self._fail, month.fails)
        for at, turn in month.turns(self.provider):
            simulator.at(at, turn, at)
        simulator.at(math.nextafter(MONTH, 0.0), self._end)
        figures = simulator.run(month.calls, until=MONTH + AFTER)
        servable = month.servable() - self.unread
        assert self.ours <= 0, ("ours past the limit", self.ours)
        if month.flow in {"", "steadily"}:
            assert self.past == 0, ("sent past the limit", self.past)
        missing = servable - self.spent
        assert missing <= max(0.01 * servable, month.busiest()), ("I14", self.spent, servable)
        self._budget()
        self._silence()
        told = Counter(months=1, calls=figures.calls, sent=figures.sent, polls=figures.polls)
        told.update(spent=self.spent, servable=servable, past=self.past)
        told.update(short=int(missing > 0.01 * servable))
        return told

    def _crash(self) -> None:
        self.simulator.crash()
        self.starts.append(self.simulator.elapsed)

    def _fail(self, share: float) -> None:
        self.provider._fails = share

    def _end(self) -> None:
        self.spent = self.provider.charged // len(self.month.meters)

    def _budget(self) -> None:
        """I15: no process polls more than its budget; a new one knows nothing of the last."""
        polls = self.simulator.polled
        most, span = (720, MONTH) if self.month.policy.poll_budget else (27, HOUR)
        for start, end in zip(self.starts, [*self.starts[1:], math.inf], strict=True):
            mine = polls[bisect_left(polls, start) : bisect_left(polls, end)]
            for number, at in enumerate(mine):
                # A hair before the span is over the next one may be earned, by rounding.
                assert bisect_left(mine, at + span - 1e-3) - number <= most, ("I15", at)
        if span == MONTH:
            assert len(polls) <= most + 10 * len(self.starts), ("I15", len(polls))

    def _silence(self) -> None:
        """I6, I7: when all has ended nothing is held, and the next polls see the truth."""
        simulator, provider = self.simulator, self.provider
        self._fail(0.0)
        simulator.run(until=simulator.elapsed + TIMEOUT + 2 * LATE)
        simulator.spending.post(Touch())
        assert simulator.holder.allotment.open == {}, "I7"
        assert all(meter.held == 0 for meter in simulator.books.meters.values()), "I7"
        for _ in range(3):
            simulator.run(until=simulator.elapsed + 1_000.0)
            simulator.poll()
            simulator.run()
        at, meter = simulator.elapsed, simulator.books.meters["a"]
        true, unseen = provider.used("a", at), provider._others(at) - provider._others(at - 61.0)
        assert true - unseen <= meter.known() <= true, ("I6", meter.known(), true)


def play(number: int, seed: int = 0) -> Counter[str]:
    """Live one month and hold it against the laws."""
    return Life(Month(number, seed)).live()


@pytest.mark.timeout(3600)
def test_months_keep_the_laws(
    months: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Nothing of ours past the limit, nothing held back that could have gone, polls in budget."""
    figures: Counter[str] = Counter()
    for number in range(months):
        try:
            figures.update(play(number, seed))
        except Exception as error:  # noqa: BLE001 - whatever it was, its month is told
            again = f"python tests/quota/test_months.py {number} {seed}"
            told = f"{type(error).__name__}: {error}"
            pytest.fail(f"{again}\n{Month(number, seed)}\n{told}")
    record_property("months", figures["months"])
    record_property("past", figures["past"])
    record_property("figures", dict(figures))


if __name__ == "__main__":
    which: Any = [int(told) for told in sys.argv[1:]]
    sys.stdout.write(f"{Month(*which)}\n{dict(play(*which))}\n")
