"""What a ledger owes to those who call it: stopped half way, forked, in an event loop."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from quotaguard.quota.account import Books, Posted, Terms
from quotaguard.quota.entries import Reserve, Touch
from quotaguard.quota.verdicts import Granted
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.testing.keeping.bench import Bench, Broken, drain, spend
from quotaguard.testing.keeping.counting import row
from quotaguard.testing.keeping.vendor import CALLS

if TYPE_CHECKING:
    from quotaguard.guard import Guard
    from quotaguard.quota.readings import Moment

__all__ = ["forked", "forks", "loops", "owned", "slow", "whole"]

TICKS = 5
"""Turns of an event loop that pass while a store is slow."""

SLOW = 2.0
"""Real seconds after which a loop that did not turn was blocked."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """An entry during which Ctrl-C comes, once."""

    entry: Reserve
    came: list[int] = field(default_factory=list)

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Do what the entry does, and then stop."""
        posted = self.entry.apply(books, now, terms)
        if not self.came:
            self.came.append(1)
            raise KeyboardInterrupt
        return posted


@dataclass(frozen=True, slots=True)
class Slow:
    """An entry that takes long: somebody is in the middle of an exchange."""

    begun: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)
    waited: list[bool] = field(default_factory=list)

    def apply(self, books: Books, now: Moment, terms: Terms) -> Posted:
        """Do as `Touch`, slowly."""
        self.wait()
        return Touch().apply(books, now, terms)

    def wait(self) -> None:
        """Wait until the loop has turned, or could have."""
        self.begun.set()
        if not self.goes_on.is_set():
            self.waited.append(self.goes_on.wait(SLOW))


def whole(bench: Bench) -> None:
    """An entry that Ctrl-C stops is made whole or not at all, and nobody is locked out."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    guard, second = one.guard(vendor, max_wait=bench.lease), other.guard(vendor)
    spend(guard, vendor, 3)
    holder = one.holder(vendor, max_wait=bench.lease)
    for number in range(3):
        entry: Any = Stopped(Reserve(f"kit.{number}", {CALLS: 2}, "critical", may_poll=False))
        try:
            holder.post(entry)
        except KeyboardInterrupt:
            continue
        bench.broken("Ctrl-C was swallowed", do="let BaseException through")
    told = [(row(each).used, row(each).reserved) for each in (guard, second, guard, second)]
    counts = told[-1]
    what = f"3 calls were made, 3 entries stopped, and {counts} are used and held"
    do = "restore the books and the allotment as they were; write nothing"
    bench.require(counts == (3, 0), what, do=do)
    went = drain(guard, vendor)
    what = f"of 37 units that were left {went} could be spent"
    bench.require(went == 37, what, do=do)


def owned(bench: Bench) -> None:
    """What was granted is found under its name, until the caller has taken it over."""
    vendor = bench.vendor(40)
    process = bench.process()
    spend(process.guard(vendor), vendor)
    holder = process.holder(vendor)
    cost = {CALLS: 2}
    posted = holder.post(Reserve("kit.owned", cost, "critical", may_poll=False))
    with holder.lock:
        found = holder.unowned.get("kit.owned")
        opened = holder.allotment.purse(CALLS).opened
        holder.unowned.pop("kit.owned", None)
        if isinstance(posted.verdict, Granted):
            holder.allotment.settle(cost, {})
    what = f"a grant of {cost} is {found} under its name, and {opened} units are open"
    do = "put it into Holder.unowned under the lock, with Allotment.accept"
    bench.require(found == cost and opened == 2, what, do=do)


def forks(bench: Bench) -> None:
    """A child that was forked is another holder: it has nothing of its parent's."""
    vendor = bench.vendor(40)
    process = bench.process()
    guard = process.guard(vendor, max_wait=0)
    spend(guard, vendor, 2)
    held = guard.reserve({CALLS: 3}, priority="critical").open()
    holder = guard._spending.holder  # noqa: SLF001 - the bench looks behind the guard
    before = holder.name, holder.epoch

    def child() -> tuple[bool, str, int, float, int]:
        own = holder.name != before[0] or holder.epoch != before[1]
        with holder.lock:
            has = sum(purse.drawn - purse.cleared for purse in holder.allotment.purses.values())
        held.settle({CALLS: 3})
        went = drain(guard, vendor, 4, max_wait=0)
        return own, held.state, has, row(guard).used, went

    own, state, has, used, went = forked(child)
    do = "see quotaguard.forking.follow, and SharedLedger.after_fork_in_child"
    bench.require(own and not has, f"a child holds {has} units of its parent's", do=do)
    what = f"a reservation of the parent is {state} in the child"
    bench.require(state == "void", what, do=do)
    bench.require(went == 4, f"{went} of 4 calls of a child went", do=do)
    vendor.charge({CALLS: 4 if bench.shared else 0})
    held.settle({CALLS: 3})
    vendor.charge({CALLS: 3})
    told = row(guard)
    counts = told.used, vendor.used[CALLS]
    what = f"after the fork the parent counts {counts[0]} used, and {counts[1]} are"
    bench.require(counts[0] == counts[1], what, do=do)
    bench.require(used >= 2, f"the child counted {used} used", do=do)


def forked(act: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the child returns
    """Return what *act* returns in a child."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on: it is forked with threads, which is what is tried.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            try:
                told = pickle.dumps((act(), ""))
            except BaseException as error:  # noqa: BLE001 - told to the parent
                told = pickle.dumps((None, f"{type(error).__name__}: {error}"))
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(told)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        value, fault = pickle.loads(pipe.read())  # noqa: S301 - our own child's
    os.waitpid(child, 0)
    if fault:
        msg = f"in a forked child: {fault}"
        raise RuntimeError(msg)
    return value


# -- event loops ------------------------------------------------------------------


def loops(bench: Bench) -> None:
    """Tasks of asyncio and trio are served as threads are, together with them."""
    vendor = bench.vendor(40)
    one, other = bench.pair()
    guard = one.guard(vendor, tasks=True, max_wait=0)
    second = other.guard(vendor, max_wait=bench.lease)

    async def act() -> float:
        for _ in range(3):
            async with guard.reserve({CALLS: 2}, priority="critical") as reservation:
                vendor.charge({CALLS: 1})
                reservation.settle({CALLS: 1})
        return (await guard.astanding())[CALLS].used

    told = [run(act) for run in _RUN.values()]
    bench.require(
        told == [3, 6], f"of 3 and 6 calls of tasks {told} count", do="see Holder.hand_in"
    )
    used = row(second).used
    what = f"of {told[-1]} calls of tasks another process sees {used}"
    bench.require(used == told[-1], what, do="as above")
    went = drain(second, vendor)
    what = f"of {40 - used} units that tasks have left {went} could be spent"
    bench.require(went == 40 - used, what, do="as above")


def slow(bench: Bench) -> None:
    """An event loop goes on while the store takes long, also for one who asks it meanwhile."""
    vendor = bench.vendor(1000)
    one, other = bench.pair()
    guard = one.guard(vendor, tasks=True)
    spend(one.guard(vendor), vendor)
    holder = other.holder(vendor)
    store = one.ledger.store if isinstance(one.ledger, SharedLedger) else None
    for name, run in _RUN.items():
        run(_nothing)  # what it imports is no fault of the ledger's
        busy = Slow()
        thread = threading.Thread(target=holder.post, args=(busy,), daemon=True)
        bench.world.own.add(thread)
        thread.start()
        busy.begun.wait(SLOW)
        run(partial(_meanwhile, guard, busy))
        thread.join()
        _turned(bench, busy, name)
        if isinstance(store, Broken):
            busy = Slow()
            store.pause = busy.wait
            run(partial(_meanwhile, guard, busy))
            store.pause = bool
            _turned(bench, busy, name)


async def _nothing() -> None:
    """Return at once."""


def _turned(bench: Bench, busy: Slow, name: str) -> None:
    what = f"a loop of {name} stood still while the store was busy"
    do = "Holder.waits is True, and hand_in posts in a thread of the ledger's own"
    bench.require(busy.waited and busy.waited[0], what, do=do)


async def _meanwhile(guard: Guard, busy: Slow) -> None:
    """Ask the books, and count the turns of the loop."""
    import anyio  # noqa: PLC0415 - for those who try event loops

    async def tick() -> None:
        for _ in range(TICKS):
            await anyio.sleep(0.001)
        busy.goes_on.set()

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        group.start_soon(guard.astanding)
        async with guard.reserve({CALLS: 900}, priority="critical") as reservation:
            reservation.release()
        guard.record({CALLS: 0})


def _asyncio(act: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - what act returns
    async def run() -> Any:  # noqa: ANN401 - as above
        return await act()

    return asyncio.run(run())


def _trio(act: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - what act returns
    import anyio  # noqa: PLC0415 - only this law pays

    return anyio.run(act, backend="trio")


def _available() -> Mapping[str, Callable[[Callable[[], Awaitable[Any]]], Any]]:
    import importlib.util  # noqa: PLC0415 - only this law asks

    if importlib.util.find_spec("trio") is None:
        return {"asyncio": _asyncio}
    return {"asyncio": _asyncio, "trio": _trio}


_RUN = _available()
"""Trio where it is installed."""
