"""What ledgers that are shared owe: lanes under a lease, and what comes back from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quotaguard.ledgers.memory import MemoryLedger
from quotaguard.quota.entries import AskToPoll, Observe, Pause, Touch
from quotaguard.quota.polls import CLAIM_SECONDS
from quotaguard.quota.readings import Reading, Usage
from quotaguard.quota.verdicts import Done, Due
from quotaguard.testing.keeping.bench import LATE, Bench, Process, drain, refused, spend
from quotaguard.testing.keeping.counting import SUMS, row
from quotaguard.testing.keeping.vendor import CALLS

if TYPE_CHECKING:
    from quotaguard.guard import Guard
    from quotaguard.quota.account import Posted
    from quotaguard.quota.polls import Claim

__all__ = [
    "claims",
    "closing",
    "dead",
    "heartbeat",
    "idle",
    "lanes",
    "lines",
    "news",
    "rates",
    "recall",
    "repeats",
    "small",
    "suspended",
    "thresholds",
    "turns",
    "walls",
]

BACK = "give back with the next report what no call has taken"
WRITE = "keep all that Books.state() tells in the store"
LEASE = "post quotaguard.quota.leases.tend with every entry, by a clock that all share"


def claims(bench: Bench) -> None:
    """One process polls, the others see it; a claim whose process died is free again."""
    vendor = bench.vendor()
    one, other = (process.holder(vendor) for process in bench.pair())
    due = isinstance(one.post(AskToPoll("kit.one")).verdict, Due)
    second = other.post(AskToPoll("kit.other")).verdict
    bench.require(due, "nobody may make the first poll", do="open books with Record.new")
    what = "two processes have the claim to one poll"
    bench.require(isinstance(second, Done), what, do=WRITE)
    bench.world.advance(CLAIM_SECONDS + 1.0)
    third = other.post(AskToPoll("kit.other")).verdict
    what = f"a claim of {CLAIM_SECONDS:g} s is not free after that"
    bench.require(
        isinstance(third, Due), what, do="Moment.fast goes on by the clock that was given"
    )


def repeats(bench: Bench) -> None:
    """A reading that is entered twice, or late, changes nothing the second time."""
    vendor = bench.vendor()
    one, other = bench.pair()
    guard, holder = one.guard(vendor), other.holder(vendor)
    spend(guard, vendor, 3)
    bench.world.advance(30.0)
    claim = _claim(holder.post(AskToPoll("kit.first", anyway=True)))
    first = Observe(claim, Reading({CALLS: Usage(5, 40)}), trusted=True)
    bench.world.advance(3.0)
    claim = _claim(holder.post(AskToPoll("kit.second", anyway=True)))
    second = Observe(claim, Reading({CALLS: Usage(7, 40)}), trusted=True)
    told = []
    for entry in (second, second, first, second, first):
        holder.post(entry)
        told.append(row(guard).used)
    what = f"a reading of 7 units, and then again and an older one, make {told}"
    bench.require(told == [7] * 5, what, do=WRITE)


def _claim(posted: Posted) -> Claim:
    assert isinstance(posted.verdict, Due)  # noqa: S101 - whoever asks anyway is given it
    return posted.verdict.claim


def lanes(bench: Bench) -> None:
    """What one process holds, no other gets: together they never spend more than the limit."""
    vendor = bench.vendor(40)
    guards = [bench.process().guard(vendor, max_wait=0) for _ in range(4)]
    for guard in guards:
        spend(guard, vendor)
    for _ in range(60):
        for guard in guards:
            drain(guard, vendor, 1)
    used = vendor.used[CALLS]
    bench.require(used <= 40, f"{used} calls went, and the limit is 40", do=WRITE)


def _lane(guard: Guard) -> int:
    """Return the units that a process holds ahead of its calls, as the books have it."""
    holder = guard._spending.holder  # noqa: SLF001 - the bench looks behind the guard
    with holder.lock:
        purse = holder.allotment.purse(CALLS)
        return purse.drawn - purse.cleared - purse.opened


def closing(bench: Bench) -> None:
    """A ledger that is closed leaves what it did not use to others at once."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    guard = one.guard(vendor)
    spend(guard, vendor, 2)
    held = guard.reserve({CALLS: 3}, priority="critical").open()
    one.ledger.close()
    rest = drain(other.guard(vendor, max_wait=0), vendor)
    what = f"of 35 units that a closed ledger left, {rest} are there for others"
    bench.require(rest == 35, what, do="Ledger.close posts what it holds, less what is in calls")
    held.settle()
    told = row(guard)
    what = f"a call that ends after its ledger was closed leaves {told.used} used of 40"
    bench.require((told.used, told.reserved) == (40, 0), what, do="open the store again")


def idle(bench: Bench) -> None:
    """Lanes that nobody takes from go back by themselves, long before the lease ends."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    guard, second = one.guard(vendor), other.guard(vendor, max_wait=0)
    spend(guard, vendor, 2)
    bench.world.advance(bench.lease)
    rest = drain(second, vendor)
    what = f"of 38 units that nobody used for a lease, {rest} are there for others"
    bench.require(rest == 38, what, do=BACK)


def recall(bench: Bench) -> None:
    """What one has and does not use comes to another who waits for it, and all of it."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    guard, second = one.guard(vendor), other.guard(vendor, max_wait=bench.lease)
    spend(guard, vendor, 2)
    rest = drain(second, vendor)
    what = f"of 38 units that another has and does not use, one who waits gets {rest}"
    bench.require(rest == 38, what, do="heed books.recalled with every heartbeat")


def heartbeat(bench: Bench) -> None:
    """A process that lives keeps what its calls hold, however long they take."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    guard = one.guard(vendor)
    held = guard.reserve({CALLS: 5}, priority="critical").open()
    bench.world.advance(4 * bench.lease + LATE)
    told = row(other.guard(vendor))
    counts = told.used, told.reserved
    what = f"a call of 5 units under way for four leases is {counts} used and held"
    bench.require(counts == (0, 5), what, do="renew the lease from the ledger's thread")
    held.settle({CALLS: 4})
    told = row(guard)
    what = f"when it has cost 4, that is {told.used} used, {told.reserved} held"
    bench.require((told.used, told.reserved) == (4, 0), what, do="as above")


def dead(bench: Bench) -> None:
    """What a dead process held is nobody's until its last call is charged; then it is spent."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    victim, second = one.guard(vendor), other.guard(vendor, max_wait=0)
    spend(victim, vendor, 2)
    victim.reserve({CALLS: 5}, priority="critical").open()
    holds = 5 + _lane(victim)
    one.stop()
    vendor.charge({CALLS: 1})
    went = drain(second, vendor)
    what = f"{went} calls of another went, while a dead process may have spent {holds} of 38"
    bench.require(went <= 38 - holds, what, do=LEASE)
    bench.world.advance(max(0.0, bench.lease - 11.0))
    _healed(bench, second)
    went += drain(second, vendor)
    what = "units of a process were given away before its lease and its last call were over"
    bench.require(went <= 38 - holds, what, do=LEASE)
    bench.world.advance(LATE + 3.0)
    told = row(second)
    counts = told.used, told.reserved
    what = f"after lease and last call {counts} are used and held, where {2 + went + holds} may be"
    bench.require(counts == (2 + went + holds, 0), what, do=LEASE)
    _healed(bench, second)
    rest = drain(second, vendor)
    what = f"after a reading {vendor.used[CALLS]} of 40 units could be spent"
    bench.require(vendor.used[CALLS] == 40 and rest, what, do="count them as Tally.unknown")


def _healed(bench: Bench, guard: Guard) -> None:
    """Let the lag pass, and poll."""
    for _ in "12":
        bench.world.advance(5.0)
        guard.refresh()


def suspended(bench: Bench) -> None:
    """A process that has slept past its lease spends nothing of what it held before."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    sleeper, second = one.guard(vendor, max_wait=0), other.guard(vendor, max_wait=0)
    spend(sleeper, vendor, 2)
    one.stop()
    bench.world.advance(bench.lease + LATE + 3.0)
    row(second)
    _healed(bench, second)
    drain(second, vendor)
    one.wake()
    late = drain(sleeper, vendor)
    what = f"{late} calls of one that has slept went, and {vendor.used[CALLS]} of 40 in all"
    do = "end lanes with the lease (Holder.lease_until), from before the books were asked"
    bench.require(vendor.used[CALLS] <= 40, what, do=do)
    row(sleeper)
    _healed(bench, second)
    told = row(second)
    counts = told.used, told.reserved
    what = f"after a reading {counts} are used and held, where {vendor.used[CALLS]} were spent"
    bench.require(counts == (vendor.used[CALLS], 0), what, do="begin under another name")


def lines(bench: Bench) -> None:
    """What the line holds for better priorities, all processes together leave them."""
    vendor = bench.vendor(60)
    guards = [process.guard(vendor, max_wait=0) for process in (*bench.pair(), bench.process())]
    clock = bench.world.clock()
    alone = Process(bench, MemoryLedger(clock=clock), clock, 0)
    twin = bench.vendor(60)
    fair = drain(alone.guard(twin, max_wait=0), twin, priority="batch")
    went = 0
    for _ in range(60):
        for guard in guards:
            went += drain(guard, vendor, 1, priority="batch")
    what = f"{went} batch calls of three processes went, where one alone has {fair}"
    bench.require(went <= fair, what, do="grant lanes by the books' room of each priority")
    bench.world.advance(bench.lease)
    rest = sum(drain(guard, vendor, max_wait=bench.lease) for guard in guards)
    what = f"{rest} critical calls went after {went} batch calls of 60"
    bench.require(went + rest == 60, what, do=BACK)


def thresholds(bench: Bench) -> None:
    """A threshold is told once, and to one process."""
    vendor = bench.vendor(40)
    told: list[str] = []

    def listen(event: object) -> None:
        if type(event).__name__ == "ThresholdCrossed":
            told.append(str(getattr(event, "threshold", "")))

    settings: dict[str, Any] = {"warn_at": (0.5, 0.8), "max_wait": bench.lease}
    guards = [process.guard(vendor, (listen,), **settings) for process in bench.pair()]
    for _ in range(18):
        for guard in guards:
            spend(guard, vendor)
    for guard in guards:
        row(guard)
    what = f"36 of 40 were spent, and {told} were told of the thresholds 0.5 and 0.8"
    bench.require(sorted(told) == ["0.5", "0.8"], what, do="hand on Posted.events, once each")


def rates(bench: Bench) -> None:
    """A rate holds for the requests of all processes together."""
    vendor = bench.vendor(1000)
    settings: dict[str, Any] = {"rates": ("5/60s",), "max_wait": 0}
    guards = [process.guard(vendor, **settings) for process in bench.pair()]
    went = [drain(guard, vendor, 4) for guard in guards]
    what = f"{went} requests of two processes went in a window of 5"
    bench.require(sum(went) == 5, what, do="every request of a rate asks the books")
    bench.world.advance(61.0)
    went = [drain(guard, vendor, 2) for guard in guards]
    bench.require(went == [2, 2], f"in the next window {went} went", do="Moment.slow goes on")


def turns(bench: Bench) -> None:
    """A new period begins for all processes, and is told once."""
    vendor = bench.vendor(40)
    told: list[object] = []

    def listen(event: object) -> None:
        if type(event).__name__ == "PeriodTurned":
            told.append(event)

    vendor.period = (vendor.period[0], bench.process().clock.now().wall + 100.0)
    guards = [process.guard(vendor, (listen,)) for process in bench.pair()]
    for guard in guards:
        spend(guard, vendor, 3)
    bench.world.advance(400.0)
    vendor.used[CALLS] = 0
    vendor.period = (vendor.period[1], vendor.period[1] + 2_592_000.0)
    used = [row(guard).used for guard in guards]
    what = f"after the turn {used} are used, and it was told {len(told)} times"
    bench.require(used == [0, 0] and len(told) == 1, what, do=WRITE)
    bench.require(not refused(guards[1]), "no call goes in the new period", do=WRITE)


def news(bench: Bench) -> None:
    """What the provider asks of one process, the others heed: a pause."""
    vendor = bench.vendor()
    one, other = bench.pair()
    guard = other.guard(vendor, max_wait=0)
    guard.refresh()
    one.holder(vendor).post(Pause(20.0))
    refusal = refused(guard)
    what = "the provider asked one process for a pause, and another one's call went"
    bench.require(refusal is not None, what, do=WRITE)
    bench.world.advance(21.0)
    refusal = refused(guard)
    bench.require(refusal is None, f"after the pause: {refusal}", do="Moment.fast goes on")


def small(bench: Bench) -> None:
    """Processes that come and go do not make the books grow."""
    vendor = bench.vendor(1000)
    for _ in range(12):
        process = bench.process()
        spend(process.guard(vendor), vendor)
        process.ledger.close()
    bench.world.advance(bench.lease + LATE + 3.0)
    last = bench.process()
    guard = last.guard(vendor)
    spend(guard, vendor)
    holder = last.holder(vendor)
    holder.post(Touch())
    with holder.lock:
        count = len(holder.books.holders)
    what = f"of 12 processes that have ended the books still know {count - 1}"
    bench.require(count <= 2, what, do=LEASE)
    used = row(guard).used
    bench.require(used == 13, f"of their 13 units {used} count", do=LEASE)


def walls(bench: Bench) -> None:
    """A wall clock that is set, or goes wrong, changes nothing but what people are told."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    guard, second = one.guard(vendor, max_wait=0), other.guard(vendor, max_wait=0)
    held = guard.reserve({CALLS: 5}, priority="critical").open()
    for seconds in (7_200.0, -14_400.0, 7_200.0):
        other.clock.jump_wall(seconds)
        told = row(second)
        counts = told.used, told.reserved
        what = f"a call of 5 units is {counts} used and held for one whose clock was set"
        do = "leases and rates go by Moment.fast and Moment.slow"
        bench.require(counts == (0, 5), what, do=do)
    held.settle({CALLS: 5})
    bench.require(row(guard).used == 5, "a settled call of 5 units does not count", do=SUMS)
