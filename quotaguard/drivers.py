"""The two drivers: they carry out what the stories ask, in a thread or in a task.

The decisions are in `quotaguard.quota.admission`. A driver posts, polls, waits
and tells; and when it is stopped half way (a cancelled task, Ctrl-C) it posts the
compensation that the ask names. Nothing is held while it waits but that.
"""

from __future__ import annotations

import itertools
import os
import queue
import random
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

from quotaguard.errors import LedgerUnavailable, ProviderError, StatsUnreadable
from quotaguard.quota.admission import Answer, Poll, Post, Sleep, Tell, observing
from quotaguard.quota.entries import Reserve
from quotaguard.quota.verdicts import Due, Granted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from quotaguard.ledgers import Place, Waiter
    from quotaguard.quota.account import Entry, Verdict
    from quotaguard.quota.admission import Ask
    from quotaguard.quota.readings import Reading
    from quotaguard.spending import Spending

__all__ = ["adrive", "drive"]

_numbers = itertools.count()

_chance = random.Random()  # noqa: S311 - spreads polls, keeps no secret
"""Our own: the application may have seeded the common one, and draws from it in threads of ours
would change what it gets."""


def drive(spending: Spending, story: Generator[Ask, object, Any]) -> Any:  # noqa: ANN401 - the story's
    """Carry out *story* in this thread and return what it returns."""
    caller = _Caller(spending)
    ask: Ask | None = None
    answer: object = None
    try:
        while True:
            ask = story.send(answer)
            match ask:
                case Post() | Tell():
                    answer = caller.note(ask)
                case Poll():
                    answer = caller.handed_over(ask) or _poll(spending, ask)
                case Sleep():
                    answer = None if caller.own_loop_polls(ask) else _sleep(caller, ask)
                case _:
                    assert_never(ask)
    except StopIteration as end:
        return end.value
    except BaseException:
        caller.undo(ask)
        raise
    finally:
        # Twice, because Ctrl-C may come just as the first one begins.
        try:
            caller.leave()
        finally:
            caller.leave()


async def adrive(spending: Spending, story: Generator[Ask, object, Any]) -> Any:  # noqa: ANN401 - the story's
    """Carry out *story* in this task and return what it returns."""
    caller = _Caller(spending)
    ask: Ask | None = None
    answer: object = None
    thrown_away = False
    try:
        while True:
            ask = story.send(answer)
            match ask:
                case Post() | Tell():
                    answer = await _anote(caller, ask)
                case Poll():
                    answer = caller.handed_over(ask) or await _apoll(spending, ask)
                case Sleep():
                    answer = await _asleep(caller, ask)
                case _:
                    assert_never(ask)
    except StopIteration as end:
        return end.value
    except GeneratorExit:
        thrown_away = True
        spending.leave(partial(caller.stopped, ask))
        raise
    except BaseException:
        caller.undo(ask)
        raise
    finally:
        if not thrown_away:
            caller.leave()


class _Caller:
    """One caller on its way through a story: its place in line, if it waits."""

    def __init__(self, spending: Spending) -> None:
        self.spending = spending
        self.place: Place | None = None
        self.meters: frozenset[str] = frozenset()
        self.seen = 0

    def note(self, ask: Post | Tell) -> object:
        """Tell an event, or post an entry in this thread."""
        if isinstance(ask, Tell):
            self.spending.tell(ask.event)
            return None
        self.stand_up()
        if self.from_lanes(ask.entry):
            return Granted()
        try:
            verdict = self.spending.post(ask.entry)
        except LedgerUnavailable as error:
            verdict = self.spending.without_ledger(ask.entry, error)
        return self.noted(ask.entry, verdict)

    def stand_up(self) -> None:
        """Ask the books, awake: what changes from here on is not missed."""
        line = self.spending.holder.queue
        self.seen = line.changes
        if self.place is not None:
            line.stand(self.place, self.meters, None)

    def from_lanes(self, entry: Entry) -> bool:
        """Take the units from lanes that others drew while this caller waited."""
        waited = self.place is not None and isinstance(entry, Reserve) and entry.slot is None
        return waited and self.spending.holder.from_lanes(entry)  # type: ignore[arg-type] # it is one

    def noted(self, entry: Entry, verdict: Verdict) -> Verdict:
        """Pass on what the books answered."""
        line = self.spending.holder.queue
        if isinstance(entry, Reserve):
            self.meters = frozenset(entry.cost)
            if self.place is not None and not isinstance(verdict, Granted | Due):
                # Nothing here: the news may be for the next whom other meters concern.
                line.wake(after=self.place, but=self.meters)
        return verdict

    def handed_over(self, ask: Poll) -> Answer | None:
        """Give the poll to the background thread, where the guard has one."""
        self.step_out()
        given = not ask.here and self.spending.background and BACKGROUND.poll(self.spending, ask)
        return Answer() if given else None

    def own_loop_polls(self, ask: Sleep) -> bool:
        """Whether a thread would wait for a poll that its own event loop must finish."""
        return ask.polled and threading.get_ident() in self.spending.holder.polling_loops

    def undo(self, ask: Ask | None) -> None:
        """Stopped half way: post the compensation that *ask* names."""
        if isinstance(ask, Poll | Sleep) and ask.undo is not None:
            self.spending.enter(ask.undo)

    def stopped(self, ask: Ask | None) -> None:
        """Do what a coroutine that was thrown away could not do itself."""
        try:
            self.undo(ask)
        finally:
            self.leave()

    def lie_down(self, ask: Sleep, waiter: Waiter) -> bool:
        """Sleep in line; False if the books have changed since they were looked at."""
        line = self.spending.holder.queue
        if self.place is None:
            self.place = (-self.spending.policy.slack.get(ask.priority, 0.0), next(_numbers))
        line.stand(self.place, self.meters, waiter)
        if self.spending.holder.waits:
            self.spending.holder.attend()
        return line.changes == self.seen

    def step_out(self) -> None:
        """Make room while a poll is under way: others need not wait for it."""
        if self.place is not None:
            self.spending.holder.queue.leave(self.place)

    def leave(self) -> None:
        """The story ended: whoever stands behind moves up."""
        if self.place is not None:
            self.spending.holder.queue.leave(self.place)
            self.spending.holder.queue.wake(after=self.place)


class _Bell:
    """Wakes a thread."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def wake(self) -> bool:
        self.event.set()
        return True


class _Alarm:
    """Wakes a task, from any thread."""

    def __init__(self) -> None:
        import anyio  # noqa: PLC0415 - only asynchronous callers pay for it
        from anyio.lowlevel import current_token  # noqa: PLC0415 - as above

        self.event = anyio.Event()
        native: Any = current_token().native_token
        # asyncio's loop and trio's token name the same thing differently.
        soon = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        self._soon: Callable[..., object] = soon

    def wake(self) -> bool:
        try:
            self._soon(self.event.set)
        except RuntimeError:  # the loop has ended, and its tasks with it
            return False
        return True


def _sleep(caller: _Caller, ask: Sleep) -> float:
    bell = _Bell()
    spending = caller.spending
    if caller.lie_down(ask, bell):
        spending.clock.wait(bell.event, ask.seconds)
    return spending.clock.fast()


async def _asleep(caller: _Caller, ask: Sleep) -> float:
    alarm = _Alarm()
    spending = caller.spending
    if caller.lie_down(ask, alarm):
        await spending.clock.await_(alarm.event, ask.seconds)
    return spending.clock.fast()


async def _anote(caller: _Caller, ask: Post | Tell) -> object:
    """Do as `note`; a shared ledger's thread posts: an event loop never waits for a store."""
    holder = caller.spending.holder
    if isinstance(ask, Tell) or not holder.waits:
        return caller.note(ask)
    caller.spending.tidy()
    caller.stand_up()
    if caller.from_lanes(ask.entry):
        return Granted()
    alarm = _Alarm()
    ticket = holder.hand_in(ask.entry, alarm)
    try:
        await alarm.event.wait()
        verdict = caller.spending.heard(ticket.result())
    except LedgerUnavailable as error:
        verdict = caller.spending.without_ledger(ask.entry, error)
    except GeneratorExit:
        holder.drop(ticket)
        raise
    except BaseException:
        holder.drop(ticket)
        holder.attend()
        raise
    return caller.noted(ask.entry, verdict)


def _jitter() -> float:
    return _chance.uniform(-1.0, 1.0)


def _poll(spending: Spending, ask: Poll) -> Answer:
    try:
        return _brought(spending, spending.stats.fetch(ask.claim.asked.wall))
    except Exception as error:  # noqa: BLE001 - a failing provider never raises into a call
        return _failed(spending, error)


async def _apoll(spending: Spending, ask: Poll) -> Answer:
    loops, me = spending.holder.polling_loops, threading.get_ident()
    try:
        loops.append(me)
        return _brought(spending, await spending.stats.afetch(ask.claim.asked.wall))
    except Exception as error:  # noqa: BLE001 - a failing provider never raises into a call
        return _failed(spending, error)
    finally:
        loops.remove(me)


def _brought(spending: Spending, reading: Reading) -> Answer:
    spending.poll_error = None
    return Answer(reading=reading, jitter=_jitter())


def _failed(spending: Spending, error: Exception) -> Answer:
    if not isinstance(error, ProviderError):
        name = type(error).__name__
        text = f"its reader failed with {name}"
        error = StatsUnreadable(text, provider=spending.provider.name)
    spending.poll_error = error
    return Answer(error=error, jitter=_jitter())


class _Background:
    """The process's one daemon thread, started by the first poll that it is given."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Spending, Poll]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def poll(self, spending: Spending, ask: Poll) -> bool:
        """Carry out the poll soon. Whoever needs it waits for the books to change.

        False where no thread can be started: then the caller polls, as without *background*.
        """
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="quotaguard-polls", daemon=True)
                try:
                    self.start(thread)
                except RuntimeError:  # the limit of processes, or the interpreter ends
                    return False
                self._thread = thread
        self._jobs.put((spending, ask))
        return True

    @staticmethod
    def start(thread: threading.Thread) -> None:
        """Start the thread."""
        thread.start()

    def _run(self) -> None:
        while True:
            spending, ask = self._jobs.get()
            answer = _poll(spending, ask)
            try:
                drive(spending, observing(ask.claim, answer))
            except Exception as error:  # noqa: BLE001 - the thread outlives a store's fault
                spending.warn(f"a background poll could not be entered: {type(error).__name__}")


BACKGROUND = _Background()


def _forked() -> None:
    global BACKGROUND  # noqa: PLW0603 - one thread a process, and a child has none yet
    BACKGROUND = _Background()
    _chance.seed()  # else all children would poll in step


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
