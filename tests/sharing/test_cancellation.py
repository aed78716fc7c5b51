"""Every point at which a guarded call awaits, cancelled, where the books are shared.

The ways of stopping, the ways in and the law are those of the ledger in memory; here a
call also awaits the ledger's thread, before its answer and just when that has come.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from shelves import Shelf, shared
from test_cancellation import EVERYWHERE, HOW, WAYS, Law, Points, World, every_point

from quotaguard.sharing.ledger import SharedLedger
from quotaguard.testing.clock import _soon
from quotaguard.waiting import in_event_loop

pytestmark = pytest.mark.anyio


class AtOnce:
    """Stands for the ledger's thread: it has answered before the caller awaits it."""

    def __init__(self, ledger: SharedLedger) -> None:
        self.ledger = ledger
        self.busy = False

    def attend(self, at: float) -> None:
        """Do what waits, and what comes of that."""
        if at > 0.0 or self.busy or not in_event_loop():
            return
        self.busy = True
        while any(account.tickets for account in self.ledger._accounts.values()):
            self.ledger.tend()
        self.busy = False

    def stop(self) -> None:
        """Nothing runs."""


class Soon(AtOnce):
    """It answers while the caller awaits it."""

    def attend(self, at: float) -> None:
        """Let the loop do what waits, in its turn."""
        if at <= 0.0 and in_event_loop():
            _soon()(self.ledger.tend)


def ledger(clock: Any, thread: type[AtOnce] = Soon) -> SharedLedger:
    """Return a ledger over a store of its own."""
    made = shared(Shelf(clock), clock)
    made._thread = thread(made)  # type: ignore[assignment] # it attends
    return made


@pytest.mark.parametrize("thread", [AtOnce, Soon])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize(
    ("anyio_backend", "how"),
    [
        *(("asyncio", how) for how in HOW),
        # A trio task that is thrown away as it awaits an event is woken by that all the same.
        *(("trio", how) for how in EVERYWHERE if how != "thrown_away"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
async def test_a_call_may_be_stopped_wherever_it_awaits(
    way: str,
    how: str,
    warm: bool,
    thread: type[AtOnce],
    law: Law,
    record_property: Callable[..., None],
) -> None:
    """No lock is held, no claim, no place in line, no unit; nothing charged is missing."""
    act, settings = WAYS[way]

    async def one(number: int) -> Points:
        world = World(**settings, ledger=partial(ledger, thread=thread))
        if warm:
            await anyio.to_thread.run_sync(world.guard.refresh)
        points = await HOW[how](world, act(world), number)
        await anyio.to_thread.run_sync(partial(ended, world, law, how))
        return points

    record_property("await points", await every_point(one))


def ended(world: World, law: Law, how: str) -> None:
    """Check the law, where the books may be waited for."""
    world.ledger.tend()
    world.ledger.tend()  # what the first one found to be undone
    if how != "thrown_away":
        world.guard.standing()
        assert not world.holder.books.polls.pending(world.clock.now()), "a claim is left"
    world.go()
    law(world)
