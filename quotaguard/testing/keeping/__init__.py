"""The laws that every ledger and every store keeps, each a function that raises `BrokenLaw`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from quotaguard.testing.keeping import callers, counting, leasing, outages, records
from quotaguard.testing.keeping.bench import Bench, MakeLedger
from quotaguard.testing.keeping.shelf import MakeStore, Shelf

__all__ = ["OF_LEDGERS", "OF_STORES", "Bench", "Law", "MakeLedger", "MakeStore", "Shelf"]


class Law(NamedTuple):
    """A law, and what it needs to be judged.

    needs: ``shared`` (other processes see the same books), ``outage`` (the bench can break
    the store), ``fork`` (the system can).
    """

    judge: Callable[[Bench], None]
    needs: tuple[str, ...] = ()


SHARED, OUTAGE, FORK = ("shared",), ("shared", "outage"), ("fork",)

OF_LEDGERS: Mapping[str, Law] = MappingProxyType(
    {
        "shape": Law(counting.shape),
        "accounts": Law(counting.accounts),
        "guards": Law(counting.guards),
        "endings": Law(counting.endings),
        "unknown": Law(counting.unknown),
        "records": Law(counting.records),
        "refusals": Law(counting.refusals),
        "all_or_none": Law(counting.all_or_none),
        "standings": Law(counting.standings),
        "exact": Law(counting.exact),
        "news": Law(leasing.news),
        "claims": Law(leasing.claims),
        "repeats": Law(leasing.repeats),
        "lanes": Law(leasing.lanes),
        "lines": Law(leasing.lines),
        "rates": Law(leasing.rates),
        "thresholds": Law(leasing.thresholds),
        "turns": Law(leasing.turns),
        "closing": Law(leasing.closing),
        "idle": Law(leasing.idle),
        "recall": Law(leasing.recall),
        "heartbeat": Law(leasing.heartbeat),
        "dead": Law(leasing.dead, SHARED),
        "suspended": Law(leasing.suspended, SHARED),
        "walls": Law(leasing.walls),
        "small": Law(leasing.small, SHARED),
        "reopened": Law(outages.reopened, SHARED),
        "private": Law(outages.private),
        "owned": Law(callers.owned),
        "whole": Law(callers.whole),
        "loops": Law(callers.loops),
        "slow": Law(callers.slow, SHARED),
        "forks": Law(callers.forks, FORK),
        "errors": Law(outages.errors, OUTAGE),
        "outage": Law(outages.outage, OUTAGE),
        "back": Law(outages.back, OUTAGE),
        "lost": Law(outages.lost, OUTAGE),
    }
)
"""By name, in the order in which they are judged: what a beginner meets first comes first."""

OF_STORES: Mapping[str, Callable[[Shelf], None]] = MappingProxyType(
    {
        "offered": records.offered,
        "swaps": records.swaps,
        "looks": records.looks,
        "known": records.known,
        "apart": records.apart,
        "texts": records.texts,
        "raises": records.raises,
        "alone": records.alone,
        "again": records.again,
        "contention": records.contention,
        "times": records.times,
        "eras": records.eras,
        "reopens": records.reopens,
        "children": records.children,
        "fails": records.fails,
    }
)
"""The same of stores."""
