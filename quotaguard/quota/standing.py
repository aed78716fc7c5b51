"""What is known of an account, for people: decisions and standings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from quotaguard.quota.account import Books, Terms
from quotaguard.quota.decide import judge
from quotaguard.quota.readings import UNKNOWN_PERIOD, Moment, Period, amount
from quotaguard.quota.verdicts import Later, Pending, Spent, Unknown, Verdict

__all__ = ["Decision", "Holding", "Row", "Standing", "counts", "decision", "standing", "told"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call would go; true when it would. Nothing was charged.

    reason: empty when it would go now. meter: the one that decides. headroom: units
    that may still be safely spent, None for unlimited or unknown. delay: seconds
    until it may go, 0 for now, None where no time is known. resets_at: the end of
    the period.
    """

    goes: bool
    reason: str = ""
    meter: str | None = None
    headroom: float | None = None
    delay: float | None = 0.0
    resets_at: datetime | None = None

    def __bool__(self) -> bool:
        return self.goes


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one meter.

    used: units on the provider's books, as far as we can tell, own calls included.
    limit: None is unlimited. reserved: units of calls in flight. headroom: units
    that may still be safely spent, None is unlimited. margin: units held back.
    delay: seconds that a call of one unit would wait now, None where none goes.
    allotted: units of the headroom that holders have drawn for their next calls.
    read_at: when the newest reading was asked, None without one. drift: units
    that others spent since the first reading of the period.
    """

    meter: str
    used: float
    limit: float | None
    reserved: float
    headroom: float | None
    margin: float
    period: Period
    delay: float | None
    read_at: datetime | None
    drift: float
    allotted: float = 0

    def __repr__(self) -> str:
        headroom = "" if self.headroom is None else f", headroom {self.headroom:,}"
        return f"<Row {self.brief}{headroom}>"

    @property
    def brief(self) -> str:
        """The meter, used, limit and margin in a few words."""
        margin = f", margin {self.margin:,}" if self.margin else ""
        return f"{counts(self.meter, self.used, self.limit)}{margin}"


def counts(meter: str, used: float, limit: float | None) -> str:
    """Return the two numbers of a meter in a few words."""
    return f"{meter} {used:,}, no limit" if limit is None else f"{meter} {used:,}/{limit:,}"


@dataclass(frozen=True, slots=True)
class Holding:
    """What one holder, a process, had of an account when it was last heard of.

    name: host, process and a number. reserved: units of its calls in flight, by meter.
    allotted: units that it has drawn for its next calls. spent: units that it has spent
    under this name. lease: seconds left, below 0 for one that is not heard of any more and
    whose calls may still be charged; None where nobody else shares the books.
    """

    name: str
    reserved: Mapping[str, float]
    allotted: Mapping[str, float]
    spent: Mapping[str, float]
    lease: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """The account's whole picture: iterates over rows; ``standing[meter]`` is one.

    age: seconds since the newest reading was asked, None without one. holders: every
    process that spends from the account, this one too.
    """

    provider: str
    account: str
    rows: tuple[Row, ...]
    age: float | None
    holders: tuple[Holding, ...] = ()
    by_meter: dict[str, Row] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_meter", {row.meter: row for row in self.rows})

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, meter: str) -> Row:
        return self.by_meter[meter]

    def __contains__(self, meter: object) -> bool:
        return meter in self.by_meter

    @property
    def tightest(self) -> Row | None:
        """The limited meter of which the smallest share is left."""
        limited = [row for row in self.rows if row.limit is not None]
        return min(limited, key=_share_left, default=None)

    @property
    def brief(self) -> str:
        """The provider, its tightest meter and the age of the reading in a few words."""
        if self.age is None:
            return f"{self.provider}: not read yet"
        row = self.tightest
        what = "no limit" if row is None else row.brief
        return f"{self.provider}: {what}, read {self.age:,.0f} s ago"

    def __repr__(self) -> str:
        return f"<Standing {self.brief}>"


def _share_left(row: Row) -> float:
    return float(row.headroom or 0) / float(row.limit) if row.limit else 0.0


def standing(books: Books, now: Moment, terms: Terms) -> Standing:
    """Return the picture of *books*, which must have been touched just now."""
    rows = tuple(_row(books, name, now, terms) for name in told(books, terms))
    age = None if books.asked_wall is None else now.fast - books.asked_fast
    holders = tuple(_holding(books, name, now, terms) for name in sorted(books.holders))
    return Standing(terms.provider, terms.account, rows, age, holders)


def _holding(books: Books, name: str, now: Moment, terms: Terms) -> Holding:
    reserved, allotted, spent = {}, {}, {}
    for meter, tally in books.holders[name].items():
        if meter in terms.meters:
            scale = terms.meters[meter].meter.scale
            reserved[meter] = amount(tally.drawn - tally.cleared - tally.idle, scale)
            allotted[meter] = amount(tally.idle, scale)
            spent[meter] = amount(tally.spent, scale)
    lease = books.leases.get(name)
    left = None if lease is None else lease.until - now.fast
    return Holding(name, reserved, allotted, spent, left)


def told(books: Books, terms: Terms) -> Iterator[str]:
    """Yield the meters of which anything is known."""
    for name in terms.meters:
        if name in books.meters and (books.meters[name].read or books.meters[name].spent):
            yield name


def _row(books: Books, name: str, now: Moment, terms: Terms) -> Row:
    meter, mine = books.meters[name], terms.meters[name]
    scale = mine.meter.scale
    room = books.room(name, now, terms) if meter.read else 0
    if room is not None:
        # What lies idle in allotments is recalled from there for whoever needs it.
        room = 0 if meter.blocked else max(0, room + meter.idle)
    priority = "normal" if "normal" in mine.policy.slack else next(iter(mine.policy.slack))
    return Row(
        meter=name,
        used=amount(meter.likely(), scale),
        limit=None if meter.limit is None else amount(meter.limit, scale),
        reserved=amount(meter.reserved, scale),
        headroom=None if room is None else amount(room, scale),
        margin=amount(meter.margin(now.fast, mine) if meter.limit is not None else 0, scale),
        period=books.period if mine.resets else UNKNOWN_PERIOD,
        delay=decision(judge(books, {name: scale}, priority, now, terms)).delay,
        read_at=Period(None, books.asked_wall).ends_at,
        drift=amount(meter.drift, scale),
        allotted=amount(meter.idle, scale),
    )


def decision(verdict: Verdict | None) -> Decision:
    """Return what *verdict* means to one who only asks."""
    match verdict:
        case Later(facts=facts, delay=delay, reason=reason):
            return Decision(False, reason, facts.meter, facts.headroom, delay, facts.resets_at)  # noqa: FBT003
        case Spent(facts=facts, heals=heals):
            reason = "exhausted" if heals is None else "part of the spend is not confirmed"
            return Decision(False, reason, facts.meter, facts.headroom, heals, facts.resets_at)  # noqa: FBT003
        case Unknown(facts=facts, retry=retry):
            return Decision(False, facts.reason, facts.meter, None, retry, facts.resets_at)  # noqa: FBT003
        case Pending(facts=facts, seconds=wait):
            return Decision(False, "a poll is under way", facts.meter, None, wait)  # noqa: FBT003
        case None:
            return Decision(True)  # noqa: FBT003
        case _:
            facts = verdict.facts  # type: ignore[attr-defined] # TooLarge is what is left
            return Decision(False, "it can never fit", facts.meter, facts.headroom, None)  # noqa: FBT003
