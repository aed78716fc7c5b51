"""A small world for proofs: calls, a provider that lags, and every step they can take.

The provider knows the truth. A charge shows in its stats at the latest *lag*
ticks after the caller learnt of it; before that it may show or not, in any
order. A call that was given up may be charged up to *late* ticks after that, or
never. The books are the real ones, behind a desk (`quotaguard.testing.desks`),
and see only what a guard sees.

Time is whole ticks, and what may happen at a tick may happen in any order. A
world does not change: each step makes a new one, so that a search can go every
way from it. The laws are checked at every step, by their names:

    I1   no admission leaves the gate above the limit
    I2   the gate covers what is and may still be charged, but for what others
         spent since the newest poll
    I3   without others, the provider's books never pass the limit
    I6   silence and one poll make the gate exact
    I7   what was spent never falls, what is held is the sum of open calls
    I9   a call of two meters holds on both or on none
    I10  one wrong answer never raises what is left
    I11  an answer that comes late or twice never lowers the gate
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from quotaguard.testing.rules import Broken, Rules, Shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from quotaguard.testing.rules import Desk

__all__ = ["Call", "Step", "World"]

IDLE, OPEN, LOST, GONE, ENDED = range(5)
"""Phases of a call: not made yet; in flight; given up and still held; counted in
full without an answer; answered and charged. One that was free is forgotten."""

Step = tuple[str | int, ...]
"""What happens, and to what: ``("settle", 0)``."""


class Call(NamedTuple):
    """A call. Those that are alike are one to the search.

    charged: units on the provider's books; below 0 (-2 for one), on those of the
        last period.
    when: the tick it was answered, or up to which a lost one may be charged.
    """

    phase: int
    price: int = 0
    charged: int = 0
    when: int = 0


class World:
    """One state of calls, provider and books."""

    __slots__ = (
        "asks", "calls", "desk", "newest", "now", "old", "others", "polls", "read", "rules",
        "spare", "sure", "turned", "wrong",
    )  # fmt: skip

    def __init__(self, rules: Rules, desk: Desk) -> None:
        """Begin. A predecessor has charged half of its units, the other half may come."""
        self.rules, self.desk, self.now = rules, desk, 0
        calls = [Call(IDLE, price) for price in rules.prices]
        calls += [Call(ENDED, 0, 1, 0)] * ((rules.hidden + 1) // 2)
        calls += [Call(GONE, 1, 0, rules.late)] * (rules.hidden // 2)
        self.calls = tuple(sorted(calls))
        self.asks: tuple[int, ...] = ()
        self.polls = rules.polls
        self.spare = (rules.others, rules.refund)
        self.others: tuple[tuple[int, int], ...] = ()
        self.old: tuple[tuple[int, int], ...] = ()
        self.sure, self.newest, self.turned = 0, -1, -1
        self.wrong = rules.wrong or rules.raised > 0
        self.read = not rules.blind and not rules.hidden
        if self.read:
            desk.ask(0)
            desk.read(0, Shown(), 0)
            self.newest = 0

    def key(self) -> tuple[object, ...]:
        """Return all that the future depends on."""
        told = (self.now, self.calls, self.asks, self.polls, self.spare, self.others)
        rest = (self.old, self.sure, self.newest, self.turned, self.wrong, self.read)
        return told, rest, self.desk.key()

    # -- the truth --------------------------------------------------------------

    @property
    def used(self) -> int:
        """Units since the first tick, or the turn, on the provider's books."""
        return self.sure + sum(units for units, _ in self._items())

    @property
    def coming(self) -> int:
        """Units of our calls that may still be charged."""
        return sum(call.price for call in self.calls if self._chargeable(call))

    @property
    def held(self) -> int:
        """Units of calls that are open."""
        return sum(call.price for call in self.calls if call.phase in {OPEN, LOST})

    def _chargeable(self, call: Call) -> bool:
        phase, _, charged, when = call
        return not charged and (phase == OPEN or (phase in {LOST, GONE} and self.now <= when))

    def _items(self) -> list[tuple[int, int]]:
        """Return the charges that need not show yet, and from when on they age."""
        own = [
            (call.charged, self.now if call.phase == OPEN else call.when)
            for call in self.calls
            if call.charged > 0
        ]
        return [*own, *self.others]

    # -- what may happen --------------------------------------------------------

    def steps(self) -> list[Step]:
        """Return every step that may be taken now."""
        found: list[Step] = []
        for index, call in enumerate(self.calls):
            if not index or call != self.calls[index - 1]:
                found.extend((verb, index, *rest) for verb, *rest in self._verbs(call))
        if self.polls and len(self.asks) < 2:
            found.append(("ask",))
        for asked in sorted(set(self.asks)):
            found.extend(("read", asked, *shown) for shown in self._answers(asked))
        others, refund = self.spare
        if others:
            found.append(("others",))
        if refund and self.used > 0:
            found.append(("refund",))
        if any(call.phase == LOST and self.now >= call.when for call in self.calls):
            found.append(("post",))
        ends, turned = self.rules.ends, self.turned >= 0
        if ends is not None and not turned and self.now >= ends - self.rules.skew:
            found.append(("turn",))
        # The true turn lies within the skew, whatever else is late.
        due = ends is not None and not turned and self.now + 1 >= ends + self.rules.skew
        if self.now < self.rules.last and not due:
            found.append(("tick",))
        return found

    def _verbs(self, call: Call) -> Iterator[tuple[str | int, ...]]:
        if call.phase == IDLE:
            idle = sum(other.price for other in self.calls if other.phase == IDLE)
            gone = sum(self.rules.prices) - idle
            # Who is refused asks again, but not for ever.
            if self.now < self.rules.last and (self.read or gone + call.price <= self.rules.blind):
                yield ("reserve",)
        elif call.phase == OPEN:
            yield ("settle",)
            if self.rules.lose:
                yield ("lose",)
        if self._chargeable(call):
            for units in range(1 if self.rules.partial else call.price, call.price + 1):
                yield ("charge", units)

    def _answers(self, asked: int) -> Iterator[Shown]:
        """Yield what may be shown: all that must be, and any part of what need not."""
        edge = asked - self.rules.shows
        if self.turned >= 0 and edge <= self.turned:
            yield from (Shown(used) for used in _sums(self.old, edge, 0))
        period = int(self.turned >= 0)
        for used in _sums(self._items(), edge, self.sure):
            yield Shown(used, 0, period)
            if self.wrong and self.rules.raised:
                yield Shown(used, self.rules.raised, period)
        if self.wrong and self.rules.wrong:
            yield Shown(-self.rules.bases[0], 0, period)

    # -- what happens -----------------------------------------------------------

    def after(self, step: Step) -> World:
        """Return the world after one of `steps`.

        Raises:
            Broken: a law does not hold any more.
        """
        verb, *rest = step
        world = self._copy()
        getattr(world, f"_{verb}")(*rest)
        world.age()
        world.check(self.desk)
        return world

    def _copy(self) -> World:
        world = World.__new__(World)
        for name in World.__slots__:
            setattr(world, name, getattr(self, name))
        return world

    def _put(self, index: int, call: Call | None) -> None:
        rest = self.calls[:index] + self.calls[index + 1 :]
        self.calls = rest if call is None else tuple(sorted((*rest, call)))

    def _tick(self) -> None:
        self.now += 1

    def _post(self) -> None:
        """Whoever posts anything also counts what has been unknown for too long."""
        due = [call for call in self.calls if call.phase == LOST and self.now >= call.when]
        self.desk = self.desk.copy()
        self.desk.post(sum(call.price for call in due), self.now)
        for call in due:
            self._put(self.calls.index(call), call._replace(phase=GONE))

    def _reserve(self, index: int) -> None:
        call = self.calls[index]
        self._put(index, None)
        self.desk = self.desk.copy()
        went = self.desk.take(call.price, self.now)
        if not went:
            self._post()
            went = self.desk.reserve(call.price, self.now)
        self.calls = tuple(sorted((*self.calls, Call(OPEN, call.price) if went else call)))
        if went and self.read:
            gates = zip(self.desk.gates(self.now), self.rules.limits, strict=True)
            for gate, limit in gates:
                _law("I1", gate <= limit, f"a call went at {gate} of {limit}")

    def _charge(self, index: int, units: int) -> None:
        self._put(index, self.calls[index]._replace(charged=units))

    def _settle(self, index: int) -> None:
        _, price, charged, _ = self.calls[index]
        self.desk = self.desk.copy()
        self.desk.settle(price, _actual(charged), self.now)
        self._put(index, Call(ENDED, 0, charged, self.now) if charged > 0 else None)

    def _lose(self, index: int) -> None:
        call, until = self.calls[index], self.now + self.rules.late
        self.desk = self.desk.copy()
        self.desk.lose(call.price, until, self.now)
        self._put(index, call._replace(phase=LOST, when=until))

    def _ask(self) -> None:
        self._post()
        self.desk.ask(self.now)
        self.asks = (*self.asks, self.now)
        self.polls -= 1

    def _read(self, asked: int, *numbers: int) -> None:
        shown = Shown(*numbers)
        self._post()
        before = self.desk.gates(self.now) if self.read else []
        self.desk.read(asked, shown, self.now)
        asks = list(self.asks)
        asks.remove(asked)
        self.asks = tuple(asks)
        self.wrong = self.wrong and not shown.raised and shown.used >= 0
        if asked < self.newest:
            for gate, was in zip(self.desk.gates(self.now), before, strict=True):
                _law("I11", gate >= was, f"a late answer lowered {was} to {gate}")
        if shown.period or self.turned < 0:
            # What still shows the old period may be passed over.
            self.newest = max(self.newest, asked)
        self.read = True
        again = self.desk.copy()
        again.read(asked, shown, self.now)
        same = again.gates(self.now) == self.desk.gates(self.now)
        _law("I11", same and again.limits() == self.desk.limits(), "an answer counted twice")

    def _others(self) -> None:
        self.others = tuple(sorted((*self.others, (1, self.now))))
        self.spare = (self.spare[0] - 1, self.spare[1])

    def _refund(self) -> None:
        self.others = tuple(sorted((*self.others, (-1, self.now))))
        self.spare = (self.spare[0], self.spare[1] - 1)

    def _turn(self) -> None:
        self.old = ((self.sure, -1), *self._items())
        self.sure, self.turned, self.others = 0, self.now, ()
        calls = (c._replace(charged=-1 - c.charged) if c.charged else c for c in self.calls)
        self.calls = tuple(sorted(call for call in calls if call.phase != ENDED))

    def age(self) -> None:
        """Forget what no answer can miss any more, and what can no longer happen."""
        edge = min((*self.asks, self.now)) - self.rules.shows
        calls = []
        for call in self.calls:
            phase, _, charged, when = call
            if phase == GONE and charged > 0:
                phase, call = ENDED, Call(ENDED, 0, charged, when)  # noqa: PLW2901 - as an answered one
            if phase == ENDED and when < edge:
                self.sure += charged
            elif phase != GONE or (not charged and self.now <= when):
                calls.append(call)
        self.calls = tuple(sorted(calls))
        edge = min(edge, self.newest - self.rules.shows)
        self.sure += sum(units for units, at in self.others if at < edge)
        self.others = tuple(item for item in self.others if item[1] >= edge)
        if self.turned >= 0 and edge > self.turned:
            self.old = ()

    # -- the laws ---------------------------------------------------------------

    def check(self, before: Desk) -> None:
        """Hold every law against this state; *before* is the desk that it came from.

        Raises:
            Broken: one does not hold.
        """
        rules, used, desk = self.rules, self.used, self.desk
        if not rules.others:
            for limit, base in zip(rules.limits, rules.bases, strict=True):
                total = self._from(base) + used
                _law("I3", total <= limit, f"{total} charged of {limit}")
        if self.read:
            since = self.newest - rules.shows
            unseen = sum(units for units, at in self.others if units > 0 and at >= since)
            least = used + self.coming - unseen
            for gate, base in zip(desk.gates(self.now), rules.bases, strict=True):
                bound = self._from(base) + least
                _law("I2", gate >= bound, f"gate {gate} below {bound}")
            _law("I10", desk.limits() == list(rules.limits), f"believes {desk.limits()}")
        if desk is not before:
            desk.check(self.held)
            fell = any(new < old for new, old in zip(desk.spent(), before.spent(), strict=True))
            _law("I7", not fell, "what was spent fell")

    def _from(self, base: int) -> int:
        """Return what the meter's books had at the first tick, or the turn."""
        return base if self.turned < 0 else 0

    def heal(self) -> None:
        """Be silent, poll, and hold the gate against the truth (I6).

        Raises:
            Broken: it is not exact.
        """
        rules, desk, now = self.rules, self.desk.copy(), self.now
        held = self.held
        for phase, price, charged, _ in self.calls:
            if phase == OPEN and charged:
                desk.settle(price, _actual(charged), now)
                held -= price
            elif phase == OPEN:
                desk.lose(price, now + rules.late, now)
        at = now + rules.late
        desk.post(held, at)
        at += max(rules.lag, rules.shows) + rules.tick + 1
        shown = self._at_last(at)
        if rules.refund:
            at += rules.paranoid
            desk.read(at - 1, shown, at - 1)
        desk.ask(at)
        desk.read(at, shown, at)
        for gate, base in zip(desk.gates(at), rules.bases, strict=True):
            total = shown.used + (0 if shown.period else base)
            _law("I6", gate == total, f"gate {gate} stays, {total} are charged")

    def _at_last(self, at: int) -> Shown:
        """Return what a poll shows that is asked at *at*, if nothing more happens."""
        ends = self.rules.ends
        if ends is not None and self.turned < 0 and at >= ends + self.rules.skew:
            return Shown(0, 0, 1)
        return Shown(self.used, 0, int(self.turned >= 0))


def _actual(charged: int) -> int:
    return charged if charged >= 0 else -1 - charged


def _law(law: str, holds: object, detail: str) -> None:
    if not holds:
        raise Broken(law, detail)


def _sums(items: Iterable[tuple[int, int]], edge: int, sure: int) -> list[int]:
    """Return every sum of charges that may show: those before *edge*, any of the others."""
    maybe = {0}
    for units, when in items:
        if when < edge:
            sure += units
        else:
            maybe |= {units + some for some in maybe}
    return sorted(sure + some for some in maybe)
