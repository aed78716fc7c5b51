"""How the books are written down: what is more than a number or a list, by attribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quotaguard.quota.allotment import Tally
from quotaguard.quota.leases import Lease
from quotaguard.quota.meter import MeterBooks
from quotaguard.quota.pacing import RateBooks
from quotaguard.quota.polls import Polls
from quotaguard.quota.readings import Period

__all__ = ["BOOKS", "STATES"]


def _period(value: Any) -> Any:  # noqa: ANN401 - a period, told as a list
    return None if value is None else [value.start, value.end, value.skew]


def _contested(value: Any) -> Any:  # noqa: ANN401 - a period and when it was told
    return None if value is None else [_period(value[0]), value[1]]


def _read_contested(value: Any) -> tuple[Period, float] | None:  # noqa: ANN401 - as above
    return None if value is None else (Period(*value[0]), value[1])


def _read_period(value: Any) -> Period | None:  # noqa: ANN401 - what _period told
    return None if value is None else Period(*value)


STATES: Mapping[str, Any] = {
    "meters": lambda meters: {name: meter.state() for name, meter in meters.items()},
    "holders": lambda holders: {who: dict(tallies) for who, tallies in holders.items()},
    "polls": lambda polls: polls.state(),
    "rates": lambda rates: rates.state(),
    "period": _period,
    "contested": _contested,
    "ended": _period,
    "leases": dict,
    "slots": dict,
    "ahead": list,
}
BOOKS: Mapping[str, Any] = {
    "meters": lambda told: {name: MeterBooks.of(state) for name, state in told.items()},
    "holders": lambda told: {
        who: {name: Tally(*tally) for name, tally in tallies.items()}
        for who, tallies in told.items()
    },
    "polls": Polls.of,
    "rates": RateBooks.of,
    "period": _read_period,
    "contested": _read_contested,
    "ended": _read_period,
    "ahead": list,
    "leases": lambda told: {who: Lease(*lease) for who, lease in told.items()},
    "slots": dict,
}
