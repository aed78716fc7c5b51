"""What ledgers that are shared owe when the store fails, and when it is opened again."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from quotaguard.errors import LedgerUnavailable, QuotaUnknown, Refusal
from quotaguard.quota.entries import Check, Reserve, Touch
from quotaguard.testing.keeping.bench import LATE, Bench, Process, drain, spend
from quotaguard.testing.keeping.counting import row
from quotaguard.testing.keeping.vendor import CALLS, KEY, UNITS, told

if TYPE_CHECKING:
    from quotaguard.guard import Guard
    from quotaguard.testing.keeping.vendor import Vendor

__all__ = ["back", "errors", "lost", "outage", "private", "reopened"]

SECONDS = 5.0
"""Real seconds after which a store that does not answer is down: callers wait for it."""

RAISE = "raise LedgerUnavailable(..., store=name) from what the store raised"


def reopened(bench: Bench) -> None:
    """Books go on where they stopped: nobody polls, and nothing is cold again."""
    vendor = bench.vendor(40)
    one = bench.process()
    guard = one.guard(vendor, cold_reserve=0.5)
    spend(guard, vendor, 3)
    bench.world.advance(LATE + 5.0)
    guard.refresh()
    guard.record({CALLS: 2})
    before, polls = row(guard), vendor.polls
    one.ledger.close()
    two = bench.process()
    again = two.guard(vendor, cold_reserve=0.5)
    after = row(again)
    counts = [(each.used, each.limit, each.headroom, each.read_at) for each in (before, after)]
    what = f"before it was closed the books told {counts[0]}, and then {counts[1]}"
    bench.require(counts[0] == counts[1], what, do="keep the whole text of Books.state()")
    spend(again, vendor)
    what = f"{vendor.polls - polls} polls were made although the books had a reading"
    bench.require(vendor.polls == polls, what, do="as above")


def private(bench: Bench) -> None:
    """Neither the key nor the account's name is in what is kept, nor in any repr."""
    vendor = bench.vendor()
    process = bench.process()
    guard = process.guard(vendor)
    spend(guard, vendor, 2)
    vendor.fails = True
    try:
        guard.refresh()
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not say the key
        bench.require(KEY not in repr(error), "an error shows the key", do="quote nothing")
    row(guard)
    holder = process.holder(vendor)
    places = {
        "the books": told(holder.books.state()).encode(),
        "repr() of the ledger or a holder": f"{process.ledger!r}{holder!r}".encode(),
        "what the store keeps": bench.contents() if bench.contents else b"",
    }
    for place, text in places.items():
        for secret in (KEY, vendor.account):
            what = f"{place} has {'the key' if secret is KEY else 'the name of an account'} in it"
            do = "keep books by Terms.account, and what Books.state() tells"
            bench.require(secret.encode() not in text, what, do=do)


def errors(bench: Bench) -> None:
    """While the store is down, post raises LedgerUnavailable and nothing else, and soon."""
    vendor = bench.vendor()
    process = bench.process()
    spend(process.guard(vendor), vendor)
    holder = process.holder(vendor, max_age=99.0)
    with bench.outage(process):
        for entry in (Touch(), Reserve("kit", {CALLS: 1}, "critical"), Check({CALLS: 1}, "batch")):
            began = time.monotonic()
            try:
                holder.post(entry)
            except LedgerUnavailable as error:
                seconds = time.monotonic() - began
                what = f"it took {seconds:.1f} s to see that the store is down"
                bench.require(seconds < SECONDS, what, do="give the store's client a timeout")
                fault = error
                what = "LedgerUnavailable does not say which store"
                bench.require(fault.store, what, do=RAISE)
                continue
            except Exception as error:  # noqa: BLE001 - that is the breach
                what = f"post raised {type(error).__name__}: {error}"
                bench.broken(what, do=RAISE, cause=error)
            bench.broken("an entry was posted while the store is down", do=RAISE)
        bench.world.advance(1.0)
        _asked(bench, process.guard(bench.vendor()))
    bench.world.advance(1.0)
    holder.post(Touch())


def _asked(bench: Bench, guard: Guard) -> None:
    """See what one is told who asks a guard."""
    try:
        with guard.reserve({CALLS: 1}, priority="critical", max_wait=0) as reservation:
            reservation.release()
    except QuotaUnknown as refusal:
        what = f"the refusal's cause is {refusal.__cause__!r}"
        bench.require(isinstance(refusal.__cause__, LedgerUnavailable), what, do=RAISE)
        return
    bench.broken("a call of a new account went while the store is down", do=RAISE)


def outage(bench: Bench) -> None:
    """In an outage a process spends what it has, until its lease ends, and no unit more."""
    vendor = bench.vendor(1000)
    process = bench.process()
    guard = process.guard(vendor, max_wait=0)
    spend(guard, vendor, 2)
    with bench.outage(process):
        with contextlib.suppress(LedgerUnavailable):
            guard.check({CALLS: 900}, priority="critical")
        went = _some(guard, vendor, 1)
        what = "a call that lanes in hand cover was refused when the store went down"
        bench.require(went, what, do="keep lanes until Holder.lease_until: Report may be kept")
        bench.world.advance(bench.lease + 1.0)
        went = _some(guard, vendor, 1)
        what = "a call went after the lease had ended"
        bench.require(not went, what, do="count the lease from before the books were asked")
    bench.world.advance(2.0)
    went = _some(guard, vendor, 5)
    told = row(guard)
    what = f"when it is back {went} of 5 calls go, and {told.used} of {vendor.used[CALLS]} count"
    bench.require(went == 5 and told.used == vendor.used[CALLS], what, do="tell the counts again")


def _some(guard: Guard, vendor: Vendor, count: int) -> int:
    """Make calls; return how many went."""
    for number in range(count):
        try:
            spend(guard, vendor)
        except Refusal:
            return number
    return count


def back(bench: Bench) -> None:
    """After an outage the books are exact again: the limit, to the last unit."""
    vendor = bench.vendor(40)
    pair = bench.pair()
    guards = [process.guard(vendor, max_wait=bench.lease) for process in pair]
    for guard in guards:
        spend(guard, vendor, 2)
    held = guards[0].reserve({CALLS: 3}, priority="critical").open()
    with bench.outage(*pair):
        for guard in guards:
            _some(guard, vendor, 3)
        held.settle({CALLS: 3})
        vendor.charge({CALLS: 3})
        guards[1].record({CALLS: 1})
        vendor.charge({CALLS: 1})
        bench.world.advance(2.0)
    bench.world.advance(2.0)
    used = [row(guard).used for guard in (*guards, guards[0])][1:]
    what = f"when the store is back {used} count of {vendor.used[CALLS]} that were spent meanwhile"
    bench.require(set(used) == {vendor.used[CALLS]}, what, do="report absolute counts (Tally)")
    bench.world.advance(bench.lease + LATE + 3.0)
    _exact(bench, guards, vendor, "after an outage")


def _exact(bench: Bench, guards: list[Guard], vendor: Vendor, when: str) -> None:
    """Polls, and then the limit to the last unit."""
    for guard in guards:
        row(guard)
    for _ in "123":
        bench.world.advance(5.0)
        guards[0].refresh()
    used = row(guards[1]).used
    what = f"{when} and a poll {used} units count, where {vendor.used[CALLS]} were spent"
    bench.require(used == vendor.used[CALLS], what, do="report absolute counts (Tally)")
    for guard in guards:
        drain(guard, vendor)
    used = vendor.used[CALLS]
    what = f"{when} {used} calls went, and the limit is 40"
    bench.require(used == 40, what, do="as above")


def lost(bench: Bench) -> None:
    """An answer that is lost costs no unit and gives none away: the next report mends it."""
    from quotaguard.testing.keeping.bench import Broken  # noqa: PLC0415 - where there is one

    vendor = bench.vendor(40)
    pair = bench.pair()
    guards = [process.guard(vendor, max_wait=bench.lease) for process in pair]
    for guard in guards:
        spend(guard, vendor, 2)
    for number in range(6):
        process = pair[number % 2]
        store = getattr(process.ledger, "store", None)
        if not isinstance(store, Broken):
            return
        store.lost = 1
        _ask(process, vendor, number)
        bench.world.advance(1.0)
    for guard in guards:
        row(guard)
    told = row(guards[0], UNITS)
    what = f"{told.used} units count and {told.reserved} are held of calls that never went"
    bench.require((told.used, told.reserved) == (0, 0), what, do="give back what was not heard of")
    _exact(bench, guards, vendor, "after answers were lost")


def _ask(process: Process, vendor: Vendor, number: int) -> None:
    holder = process.holder(vendor, max_wait=process.bench.lease)
    try:
        holder.post(Reserve(f"kit.{number}", {CALLS: 2, UNITS: 1}, "critical", may_poll=False))
    except LedgerUnavailable:
        return
    with holder.lock:
        holder.unowned.clear()
        holder.allotment.settle({CALLS: 2, UNITS: 1}, {})
