"""The books of one account between two readings, and the entries on them.

Rule: nothing here knows what time it is; every entry is told. An entry is
applied whole under the ledger's one lock, with one reading of the clock, and
answers with a verdict, the lanes it grants and the events it caused. The books
are integers, short lists and names: constant in size, and JSON can carry them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol

from quotaguard.errors import RefusalFacts
from quotaguard.quota.allotment import Lane, Tally
from quotaguard.quota.events import Degraded, Event, PeriodTurned, ThresholdCrossed
from quotaguard.quota.leases import Lease
from quotaguard.quota.lines import line, share_left
from quotaguard.quota.meter import MeterBooks, MeterTerms
from quotaguard.quota.pacing import RateBooks
from quotaguard.quota.polls import Polls, PollTerms
from quotaguard.quota.rates import NO_RATES, RateTerms
from quotaguard.quota.readings import Moment, Period, amount, nothing
from quotaguard.quota.theirs import theirs
from quotaguard.quota.written import BOOKS, STATES

__all__ = ["VERSION", "Books", "Entry", "Posted", "Terms", "Verdict", "queue_of"]

VERSION = 1
"""Of the books' state; a ledger that finds another one migrates or refuses."""

UNLIMITED_LANE = 1_000_000
"""Units of an unlimited meter that a lane takes at once; they are given back."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a guard's provider and policy ask of the books: the same for every entry.

    settled: seconds after a start until a poll has seen all of a predecessor's spend.
    late: the longest that a lost call may be charged after it.
    """

    provider: str
    account: str
    meters: Mapping[str, MeterTerms]
    polls: PollTerms
    rates: RateTerms = NO_RATES
    settled: float = field(init=False, repr=False, compare=False)
    late: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        meters = self.meters.values()
        settled = max((mine.lag + mine.late for mine in meters), default=0.0)
        object.__setattr__(self, "settled", settled)
        object.__setattr__(self, "late", max((mine.late for mine in meters), default=0.0))


class Verdict:
    """What the books answer to an entry; the kinds are in `quotaguard.quota.verdicts`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Posted:
    """The answer to one entry."""

    verdict: Verdict
    granted: Mapping[str, int] = field(default_factory=nothing)
    lanes: Mapping[str, Lane] = field(default_factory=nothing)
    events: tuple[Event, ...] = ()


class Entry(Protocol):
    """One change of the books."""

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Change *books* and answer. Must not fail half way."""


class Books:
    """The books of one account."""

    __slots__ = (
        "ahead",
        "asked",
        "asked_fast",
        "asked_wall",
        "cold_from",
        "contested",
        "distrusted",
        "ended",
        "holders",
        "leases",
        "live",
        "meters",
        "paused",
        "period",
        "polls",
        "rates",
        "recalled",
        "slots",
        "state_told",
    )

    def __init__(self, *, cold_from: float | None = None) -> None:
        """Open empty books. *cold_from* (slow clock): a predecessor may have spent."""
        self.meters: dict[str, MeterBooks] = {}
        self.holders: dict[str, dict[str, Tally]] = {}
        self.leases: dict[str, Lease] = {}
        self.recalled = -math.inf
        self.distrusted: float | None = None
        self.polls = Polls()
        self.period = Period()
        self.ended: Period | None = None
        self.contested: tuple[Period, float] | None = None
        self.live = False
        self.cold_from = cold_from
        self.asked = self.asked_fast = -math.inf
        self.asked_wall: float | None = None
        self.slots: dict[str, float] = {}
        self.rates = RateBooks()
        self.paused = -math.inf
        self.state_told = "fresh"
        self.ahead: list[float] = []

    # -- the one way in ---------------------------------------------------------

    def post(
        self, holder: str, report: Mapping[str, Tally], entry: Entry, now: Moment, terms: Terms
    ) -> Posted:
        """Apply *entry* of *holder*, which reports its counts with it."""
        now = theirs(self.ahead, now)
        self.absorb(holder, report, now, terms)
        events = self._turn(now, terms)
        if terms.rates.rates or self.rates.logs:
            self.rates.begin(terms.rates, now.slow)
        posted = entry.apply(self, now, terms)
        self._hold(holder, posted)
        if events:
            events.extend(posted.events)
            return Posted(posted.verdict, posted.granted, posted.lanes, tuple(events))
        return posted

    def meter(self, name: str) -> MeterBooks:
        """Return the books of one meter, opened when it is first named."""
        books = self.meters.get(name)
        if books is None:
            books = self.meters[name] = MeterBooks()
        return books

    def known(self, terms: Terms) -> list[tuple[MeterBooks, MeterTerms]]:
        """Return the meters that *terms* name, with their terms.

        Another guard of the account may have meters of its own, where users set limits.
        """
        named = self.meters.items()
        return [(meter, terms.meters[name]) for name, meter in named if name in terms.meters]

    def absorb(self, holder: str, report: Mapping[str, Tally], now: Moment, terms: Terms) -> None:
        """Take over a holder's cumulative counts: only what is new since its last report."""
        tallies = self.holders.setdefault(holder, {})
        for name, tally in report.items():
            last = tallies.get(name, _NONE)
            if tally[:4] == last[:4] and tally.idle == last.idle:
                continue
            meter = self.meter(name)
            # Drawn units are entered when granted; a record draws on its own.
            drawn = max(tally.drawn, last.drawn)
            cleared = max(tally.cleared, last.cleared)
            meter.held += (drawn - last.drawn) - (cleared - last.cleared)
            spent, unknown = max(tally.spent, last.spent), max(tally.unknown, last.unknown)
            # What a lost answer had given back is not idle, although its holder still says so.
            idle = min(tally.idle, drawn - cleared)
            meter.idle += idle - last.idle
            # Of a holder whose clock differs by a hair: never older than it says.
            at = now.slow if tally.at == math.inf else tally.at
            meter.resolve(spent - last.spent, unknown - last.unknown, at, terms.meters[name])
            tallies[name] = Tally(drawn, cleared, spent, unknown, 0.0, idle)

    def _hold(self, holder: str, posted: Posted) -> None:
        """Enter what was granted: it counts as spent until it is cleared."""
        if not posted.granted and not posted.lanes:
            return
        tallies = self.holders[holder]
        for name in {**posted.granted, **posted.lanes}:
            lane = posted.lanes.get(name)
            ahead = lane.units if lane else 0
            count = posted.granted.get(name, 0) + ahead
            last = tallies.get(name, _NONE)
            tallies[name] = last._replace(drawn=last.drawn + count, idle=last.idle + ahead)
            meter = self.meter(name)
            meter.held += count
            meter.idle += ahead

    def _turn(self, now: Moment, terms: Terms) -> list[Event]:
        """Begin a new period once the old one has ended beyond doubt, by the clock.

        Spend since the earliest instant at which the provider may have reset is
        counted in the new period.
        """
        period = self.period
        if not self.live or period.end is None or now.wall < period.end + period.skew:
            return []
        if self.contested is not None and (self.contested[0].end or 0.0) > period.end:
            return []  # the newest answer says that it goes on; the next one will tell
        earliest = now.slow - (now.wall - (period.end - period.skew))
        for meter, mine in self.known(terms):
            if mine.resets:
                meter.turn(earliest)
        length = period.length
        self.ended, self.live = period, False
        self.period = (
            Period() if length is None else Period(period.end, period.end + length, period.skew)
        )
        self.slots.clear()
        self.polls.want(now.fast, now, terms.polls)
        return [self.turned(terms, seen=False)]

    def turned(self, terms: Terms, *, seen: bool) -> PeriodTurned:
        """Return the event of a new period."""
        return PeriodTurned(
            provider=terms.provider,
            account=terms.account,
            seen=seen,
            period_start=self.period.starts_at,
            period_end=self.period.ends_at,
        )

    # -- what is known ----------------------------------------------------------

    @property
    def guessed(self) -> bool:
        """Whether the period is a guess: we turned by the clock, no reading told it yet."""
        return self.ended is not None and not self.live

    @property
    def cold(self) -> bool:
        """Whether a predecessor's last spend may still be hidden."""
        return self.cold_from is not None

    def chilled(self, meter: MeterBooks, terms: Terms) -> bool:
        """Whether the readings of *meter* may have missed a predecessor's last spend."""
        return self.cold_from is not None and meter.asked <= self.cold_from + terms.settled

    def room(self, name: str, now: Moment, terms: Terms, *, at: float | None = None) -> int | None:
        """Return the units of a meter that may still be spent, None for unlimited.

        at: the fast clock at which the margin is taken, later than now for lanes.
        """
        meter, mine = self.meters[name], terms.meters[name]
        if meter.limit is None:
            return None
        gate = meter.gate(now.fast if at is None else at, mine)
        return meter.limit + mine.overage - gate - (meter.cold if self.chilled(meter, terms) else 0)

    def age(self, name: str, now: Moment) -> float:
        """Return the seconds since the newest reading of a meter was asked."""
        return now.fast - self.meters[name].asked_fast

    def held_back(self, name: str, priority: str, now: Moment, terms: Terms) -> int:
        """Return the units that the line keeps from *priority* at this moment."""
        meter, policy = self.meters[name], terms.meters[name].policy
        slack = policy.slack.get(priority, 0.0)
        if slack >= 1.0 or meter.limit is None or not terms.meters[name].resets:
            return 0
        share = share_left(self.period, now.wall, terms.meters[name].profile)
        return line(slack, share, meter.limit)

    def facts(
        self, name: str, now: Moment, terms: Terms, *, priority: str, requested: int
    ) -> RefusalFacts:
        """Return what is known of a meter, for a refusal of *requested* units."""
        meter = self.meters.get(name)
        mine = terms.meters[name]
        scale = mine.meter.scale
        limited = meter is not None and meter.read and meter.limit is not None
        room = self.room(name, now, terms) if meter is not None and limited else None
        idle = 0 if meter is None else meter.idle
        margin = meter.margin(now.fast, mine) if meter is not None and limited else 0
        return RefusalFacts(
            provider=terms.provider,
            account=terms.account,
            meter=name,
            priority=priority,
            requested=amount(requested, scale),
            limit=None if meter is None or meter.limit is None else amount(meter.limit, scale),
            used=None if meter is None else amount(meter.likely() + meter.reserved, scale),
            headroom=None if room is None else amount(max(0, room + idle), scale),
            margin=amount(margin, scale),
            resets_at=self.period.ends_at if self.live and mine.resets else None,
            read_at=_utc(self.asked_wall),
        )

    def crossed(self, names: Mapping[str, Any], now: Moment, terms: Terms) -> list[Event]:
        """Return the thresholds that usage has passed for the first time this period."""
        events: list[Event] = []
        for name in names:
            meter, mine = self.meters[name], terms.meters.get(name)
            if mine is None or not meter.limit or not meter.read:
                continue
            used = meter.likely() + meter.reserved
            share = used / meter.limit
            passed = [at for at in mine.policy.warn_at if meter.warned < at <= share]
            if not passed:
                continue
            meter.warned = passed[-1]
            scale = mine.meter.scale
            events.append(
                ThresholdCrossed(
                    provider=terms.provider,
                    account=terms.account,
                    meter=name,
                    threshold=passed[-1],
                    used=amount(used, scale),
                    limit=amount(meter.limit, scale),
                    headroom=amount(max(0, self.room(name, now, terms) or 0), scale),
                    resets_at=self.period.ends_at if mine.resets else None,
                )
            )
        return events

    def degraded(self, state: str, reason: str, terms: Terms) -> list[Event]:
        """Return the event of a new state of the readings, once per change."""
        if state == self.state_told:
            return []
        self.state_told = state
        if state == "fresh":
            return []
        return [
            Degraded(provider=terms.provider, account=terms.account, state=state, reason=reason)
        ]

    # -- as JSON ----------------------------------------------------------------

    def state(self, *, meters: bool = True) -> dict[str, Any]:
        """Return the books as JSON can carry them, with their version; or all but the meters.

        Infinity is there by Python's own word for it, which only Python need read.
        """
        state = dict(zip(Books.__slots__, _values(self), strict=True))
        if not meters:
            state["meters"] = {}
        for name, tell in STATES.items():
            state[name] = tell(state[name])
        state["version"] = VERSION
        return state

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Books:
        """Return the books that `state` told.

        Raises:
            ValueError: the state is of another version.
        """
        if state.get("version") != VERSION:
            msg = f"books of version {state.get('version')!r}, this program writes {VERSION}"
            raise ValueError(msg)
        books = cls()
        for name in cls.__slots__:
            read = BOOKS.get(name)
            setattr(books, name, state[name] if read is None else read(state[name]))
        return books

    def copy(self) -> Books:
        """Return books that go on by themselves."""
        return Books.of(self.state())


_NONE = Tally(at=0.0)
_values = attrgetter(*Books.__slots__)


def _utc(wall: float | None) -> Any:  # noqa: ANN401 - a datetime or None
    return Period(None, wall).ends_at


def queue_of(meter: str, priority: str) -> str:
    """Return the key in `Books.slots` of those who wait: each meter's line by itself."""
    return f"{priority} {meter}"
