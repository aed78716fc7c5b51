"""What will have become of the quota when the period ends, if spending goes on as it has.

The basis is the average since the period began, by all who spend from the account:
with used units after the share p of the period's demand, used / p are expected at
its end. Without a demand profile p is the share of time; with one, what is expected
of the rest follows its hours. Nothing is extrapolated from the last minutes: in
simulated months with nights, weekends and campaigns that is much worse alone, and
does not help where it is mixed in (tests/quota/test_forecast.py). A longer stretch
is not kept in the books.

The figures tell what would be spent if nothing refused. Time in which calls were
refused makes the average lower than the demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from quotaguard.quota.account import Books, Terms
from quotaguard.quota.lines import share_left, wait_for
from quotaguard.quota.meter import MeterBooks, MeterTerms
from quotaguard.quota.readings import Moment, amount
from quotaguard.quota.standing import counts, told

__all__ = ["Basis", "Forecast", "ForecastRow", "forecast"]

EARLY = 0.05
"""Share of the period's demand before which an average says nothing.

At a twentieth half of the forecasts of simulated months are within a third of what
comes, and nine of ten within 75 %; at a tenth these are 27 % and 60 %.
"""

EARLY_SKEWS = 4.0
"""How many times the doubt about its start must have passed, 14 h for a bare date."""

Basis = Literal[
    "average",
    "profile",
    "too early",
    "expired",
    "no period",
    "no reading",
    "level",
    "balance",
]


@dataclass(frozen=True, slots=True)
class ForecastRow:
    """What is expected of one meter, in its units; None is not known.

    used: units on the provider's books, as in `Standing`. limit: None is unlimited.
    basis: "average", or "profile" where the policy has one. With anything else the
    figures are not known: "too early" (less than a twentieth of the period has passed),
    "expired" (the reading is older than `Policy.max_age`: refresh), "no period" (it is
    unknown, or over and the next one not read), "no reading", "level" and "balance"
    (these do not start again with the period).
    burn_rate: units per second, on average since the period began. runs_out_at: when
    limit and `Policy.overage` are reached, in UTC; now where they are already, None
    where they are not within the period. expected_at_end: units used at the period's
    end if nothing is refused. expected_overage: how many of them are past the limit;
    0 where it is unlimited. overage_cost: of these, at `Policy.overage_price`; None
    without a price. resets_at: the end of the period.
    """

    meter: str
    used: float
    limit: float | None
    basis: Basis
    burn_rate: float | None
    runs_out_at: datetime | None
    expected_at_end: float | None
    expected_overage: float | None
    overage_cost: float | None
    resets_at: datetime | None

    @property
    def brief(self) -> str:
        """The meter and what becomes of it in a few words."""
        end = self.expected_at_end
        said = self.basis if end is None else f"{end:,.0f} at the end"
        until = self.runs_out_at
        said += "" if until is None else f", runs out {until:%Y-%m-%d %H:%M} UTC"
        return f"{counts(self.meter, self.used, self.limit)}, {said}"

    def __repr__(self) -> str:
        return f"<ForecastRow {self.brief}>"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Where each meter will be: iterates over rows; ``forecast[meter]`` is one.

    The basis is the average since the period began, by all who spend from the
    account; a demand profile of the policy shapes what is still to come.
    """

    provider: str
    account: str
    rows: tuple[ForecastRow, ...]
    by_meter: dict[str, ForecastRow] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_meter", {row.meter: row for row in self.rows})

    def __iter__(self) -> Iterator[ForecastRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, meter: str) -> ForecastRow:
        return self.by_meter[meter]

    def __contains__(self, meter: object) -> bool:
        return meter in self.by_meter

    @property
    def first(self) -> ForecastRow | None:
        """The meter that runs out first, None where none is seen to."""
        ends = {row.runs_out_at: row for row in reversed(self.rows) if row.runs_out_at}
        return ends[min(ends)] if ends else None

    def __repr__(self) -> str:
        first = self.first
        what = f"none of {len(self.rows)} meters is seen to run out" if self.rows else "no reading"
        return f"<Forecast {self.provider}: {what if first is None else first.brief}>"


def forecast(books: Books, now: Moment, terms: Terms) -> Forecast:
    """Return what *books* lead one to expect; they must have been touched just now."""
    rows = tuple(_row(books, name, now, terms) for name in told(books, terms))
    return Forecast(terms.provider, terms.account, rows)


def _row(books: Books, name: str, now: Moment, terms: Terms) -> ForecastRow:
    meter, mine = books.meters[name], terms.meters[name]
    scale, limit, price = mine.meter.scale, meter.limit, mine.policy.overage_price
    used = max(0, meter.likely())
    basis = _basis(books, name, now, terms)
    end = rate = over = None
    if basis in {"average", "profile"} and books.period.start is not None:
        end = max(float(used), used / _passed(books, mine, now))
        rate = used / (now.wall - books.period.start) / scale
        over = 0.0 if limit is None else max(0.0, end - limit) / scale
    return ForecastRow(
        meter=name,
        used=amount(used, scale),
        limit=None if limit is None else amount(limit, scale),
        basis=basis,
        burn_rate=rate,
        runs_out_at=_runs_out(books, meter, mine, now, used, end),
        expected_at_end=None if end is None else end / scale,
        expected_overage=over,
        overage_cost=None if over is None or price is None else over * float(price),
        resets_at=books.period.ends_at if books.live else None,
    )


def _basis(books: Books, name: str, now: Moment, terms: Terms) -> Basis:
    meter, mine, period = books.meters[name], terms.meters[name], books.period
    if not meter.read:
        return "no reading"
    if mine.meter.kind != "counter":
        return mine.meter.kind
    if not books.live or period.start is None or period.end is None:
        return "no period"
    if books.age(name, now) > mine.max_age:
        return "expired"
    unsure = now.wall - period.start < EARLY_SKEWS * period.skew
    if unsure or _passed(books, mine, now) < EARLY:
        return "too early"
    return "average" if mine.profile is None else "profile"


def _passed(books: Books, mine: MeterTerms, now: Moment) -> float:
    """Return the share of the period's demand that is over."""
    return 1.0 - share_left(books.period, now.wall, mine.profile)


def _runs_out(
    books: Books, meter: MeterBooks, mine: MeterTerms, now: Moment, used: int, end: float | None
) -> datetime | None:
    """Return when nothing is left; now, too, where the provider says that it is spent."""
    whole = None if meter.limit is None else meter.limit + mine.overage
    if meter.read and (meter.blocked or (whole is not None and used >= whole)):
        return datetime.fromtimestamp(now.wall, UTC)
    if whole is None or end is None or end <= whole:
        return None
    # What the period still has to come, of all that is expected in it, falls like a line.
    wait = wait_for(end - whole, 0.0, end, books.period, now.wall, mine.profile)
    return datetime.fromtimestamp(min(now.wall + wait, books.period.end or now.wall), UTC)
