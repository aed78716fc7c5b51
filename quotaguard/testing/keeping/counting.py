"""What every ledger owes: each unit is counted once, and none is given out twice."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from quotaguard.errors import Refusal
from quotaguard.ledgers import Holder, Ledger
from quotaguard.testing.keeping.bench import LATE, Bench, drain, refused, spend
from quotaguard.testing.keeping.vendor import CALLS, UNITS

if TYPE_CHECKING:
    from quotaguard.guard import Guard
    from quotaguard.quota.standing import Row

__all__ = [
    "accounts",
    "all_or_none",
    "endings",
    "exact",
    "guards",
    "records",
    "refusals",
    "shape",
    "standings",
    "unknown",
]

WORKERS = 3
"""Threads of each process that spend at once."""

SUMS = "post every entry in one turn of the store, and swap only what was not changed meanwhile"


def row(guard: Guard, meter: str = CALLS) -> Row:
    """Return what a guard tells of a meter."""
    return guard.standing()[meter]


def shape(bench: Bench) -> None:
    """It has what `quotaguard.ledgers.Ledger` and `Holder` name."""
    process = bench.process()
    do = "see quotaguard.ledgers: Ledger and Holder, or keep books in a Store of SharedLedger"
    for name in _named(Ledger):
        bench.require(hasattr(process.ledger, name), f"it has no {name!r}", do=do)
    vendor = bench.vendor()
    holder = process.holder(vendor)
    for name in _named(Holder):
        bench.require(hasattr(holder, name), f"its holder has no {name!r}", do=do)
    other = process.holder(vendor, max_age=99.0)
    names = {holder.name, other.name, bench.process().holder(vendor).name}
    bench.require(len(names) == 3, f"three holders have the names {names}", do="one for each")


def _named(protocol: type) -> list[str]:
    """Return what a protocol names."""
    return [name for name in {**protocol.__annotations__, **vars(protocol)} if name[0] != "_"]


def exact(bench: Bench) -> None:
    """Many threads of two processes admit exactly the limit: not one more, not one fewer."""
    vendor = bench.vendor(60)
    guards = [process.guard(vendor, max_wait=60.0) for process in bench.pair()]
    spend(guards[0], vendor, 10)
    refusals: list[Refusal] = []

    def work(guard: Guard) -> None:
        for _ in range(60):
            try:
                spend(guard, vendor)
            except Refusal as refusal:
                refusals.append(refusal)
                return

    raised = bench.world.together(
        [partial(work, guard) for guard in guards for _ in range(WORKERS)]
    )
    if raised:
        raise raised[0]
    used = vendor.used[CALLS]
    bench.require(used <= 60, f"{used} calls went, and the limit is 60", do=SUMS)
    used += sum(drain(guard, vendor, max_wait=60.0) for guard in guards)
    what = f"{used} calls went, and the limit is 60: the rest was lost"
    bench.require(used == 60, what, do="what nobody uses goes back when others want it")


def all_or_none(bench: Bench) -> None:
    """A call that needs two meters holds both or none."""
    vendor = bench.vendor(40, small=5)
    guard = bench.process().guard(vendor)
    went = 0
    for _ in range(8):
        try:
            with guard.reserve({CALLS: 1, "small": 1}, priority="critical") as reservation:
                reservation.settle()
        except Refusal:
            continue
        went += 1
    counts = {name: row(guard, name).used for name in (CALLS, "small")}
    bench.require(
        went == 5 and set(counts.values()) == {5},
        f"{went} calls of two meters went where one had 5 units; then {counts} were counted",
        do="grant what an entry's Posted says and nothing else",
    )


def refusals(bench: Bench) -> None:
    """A refusal holds nothing."""
    vendor = bench.vendor(20)
    one, other = (process.guard(vendor) for process in bench.pair())
    spend(one, vendor, 15)
    for _ in range(5):
        for cost in ({CALLS: 6}, {CALLS: 21}):
            try:
                one.reserve(cost, priority="critical", max_wait=0).open()
            except Refusal:
                continue
            bench.broken(f"{cost} went where 5 units were left", do=SUMS)
    told = row(one)
    rest = drain(other, vendor, max_wait=60.0)
    bench.require(
        told.reserved == 0 and rest == 5,
        f"after ten refusals {told.reserved} units are held, and {rest} of 5 calls go",
        do="a verdict that is not Granted draws nothing",
    )


def endings(bench: Bench) -> None:
    """What is settled, released and left unknown is counted as such, seen from everywhere."""
    vendor = bench.vendor()
    one, other = (process.guard(vendor) for process in bench.pair())
    paid, dearer, free, lost = (
        one.reserve({CALLS: 5, UNITS: 5}, priority="critical").open() for _ in "1234"
    )
    held = row(one).reserved
    bench.require(held == 20, f"four open calls of 5 units hold {held}", do=SUMS)
    paid.settle({CALLS: 2, UNITS: 2})
    dearer.settle({CALLS: 8, UNITS: 8})
    free.release()
    lost.close()
    row(one)
    for guard in (one, other):
        for meter in (CALLS, UNITS):
            told = row(guard, meter)
            counts = told.used, told.reserved
            what = f"2 and 8 spent, 0, and 5 unknown make {counts} used and held"
            bench.require(counts == (10, 5), what, do="report the holder's Tally whole")


def unknown(bench: Bench) -> None:
    """A call without an outcome counts until it cannot be charged, then as spent until read."""
    vendor = bench.vendor(20)
    guard = bench.process().guard(vendor)
    guard.reserve({CALLS: 5}, priority="critical").open().close()
    counts = [row(guard).used + row(guard).reserved]
    bench.world.advance(LATE + 5.0)
    told = row(guard)
    counts.append(told.used)
    what = f"a lost call of 5 units counts as {counts}, held first and then spent"
    bench.require(counts == [5, 5] and told.reserved == 0, what, do="call Allotment.lapse")
    guard.refresh()
    bench.world.advance(5.0)
    guard.refresh()
    what = f"a reading proves that nothing was charged, and {row(guard).used} units count"
    bench.require(row(guard).used == 0, what, do="report Tally.unknown")


def guards(bench: Bench) -> None:
    """Guards of one account share its books, whatever their policy."""
    vendor = bench.vendor()
    process = bench.process()
    one, same, other = (
        process.guard(vendor),
        process.guard(vendor),
        process.guard(vendor, max_age=99.0),
    )
    spend(one, vendor, 3)
    spend(other, vendor, 4)
    used = [row(guard).used for guard in (one, same, other)]
    what = f"of 7 units three guards of one account have seen {used}"
    bench.require(used == [7, 7, 7], what, do="keep books by Terms.account")


def accounts(bench: Bench) -> None:
    """What one account spends is not another's."""
    process = bench.process()
    vendors = [bench.vendor(9), bench.vendor(9)]
    one, other = (process.guard(vendor) for vendor in vendors)
    spend(one, vendors[0], 9)
    spend(other, vendors[1])
    used = row(one).used, row(other).used
    what = f"one account spent 9 and the other 1, and they count {used}"
    bench.require(used == (9, 1), what, do="keep books by Terms.account")
    refusal = refused(other)
    bench.require(refusal is None, f"the other is refused: {refusal}", do="as above")


def records(bench: Bench) -> None:
    """What was spent elsewhere is counted for everybody and never refused."""
    vendor = bench.vendor(10)
    one, other = (process.guard(vendor) for process in bench.pair())
    one.refresh()
    one.record({CALLS: 4})
    row(one)
    used = row(other).used
    bench.require(used == 4, f"of 4 units that were recorded {used} count", do="report Tally.spent")
    one.record({CALLS: 20})
    row(one)
    bench.require(refused(other), "a call goes although 24 of 10 were recorded", do="as above")


def standings(bench: Bench) -> None:
    """The whole picture is the same from every process."""
    vendor = bench.vendor()
    one, other = (process.guard(vendor) for process in bench.pair())
    spend(one, vendor, 7)
    spend(other, vendor, 2)
    held = other.reserve({CALLS: 3}, priority="critical").open()
    row(other)
    told = [
        [(each.meter, each.limit, each.used, each.reserved) for each in guard.standing()]
        for guard in (one, other)
    ]
    held.release()
    bench.require(told[0] == told[1], f"two processes see {told}", do="Touch reads the store")
    bench.require((CALLS, 40, 9, 3) in told[0], f"9 of 40 spent and 3 held is {told[0]}", do=SUMS)
