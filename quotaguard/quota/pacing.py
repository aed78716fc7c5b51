"""The books of the short windows: when requests went, and who was promised when.

The law: no half-open window of a rate's length ever contains more requests than its
count. A request goes at t if the count-th before it went at t - window or earlier;
so the books keep a log of the requests of the last window, one for each rate. They
are exact where there are few, and merge to the *later* instant where there are many:
what is thought younger than it is leaves the window late, and that is safe. (GCRA with
a full burst needs no log, and lets twice the count go in a window.)

Times are of the clock that can only run slow. One that runs fast would end a window
before the provider does, and let too many go; in suspend the slow one stands, and the
most that costs is one window's wait after it.

A call that is early is promised a place: those who come later stand behind it, better
priorities pass it, and it takes up its place again whenever it looks. A promise is only
an order to stand in. Whether a request goes is decided when it goes, by the log, so
late, lost and overtaken callers can delay others but never break the law.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from quotaguard.quota.rates import Rate, RateTerms

__all__ = ["RateBooks", "RateSlot"]

EXACT = 64
"""Requests of one window that are logged one by one, and parts of a window in which
more are merged: a merged one leaves its window 1/64 of it late at most."""

PROMISES = 256
"""Promises that are kept one by one; of more, neighbours share the later one's time."""

TAIL = 32
"""Promises of a priority, the last ones, that are merged after all others."""

LAPSE = 1.0
"""Seconds after which a place is lost whose owner did not come: a busy machine wakes
threads within that, and nobody else waits longer for one who died."""


class RateSlot(NamedTuple):
    """The place of a waiting call: *at*, by the slow clock, and its order among others.

    behind: minus the slack of its priority, so the less the better. number: first
    come, first served within a priority.
    """

    behind: float
    number: int
    at: float


class Promise(NamedTuple):
    """Places at one time: those of the calls numbered *first* to *last*, less those who left."""

    behind: float
    last: int
    first: int
    at: float
    calls: int


class RateLog:
    """The requests of the last window of one rate: when, oldest first, and how many."""

    __slots__ = ("asked", "began", "entries", "rate", "total")

    def __init__(self, rate: Rate, began: float) -> None:
        self.rate = rate
        self.began = self.asked = began
        self.entries: list[tuple[float, int]] = []
        self.total = 0

    def forget(self, slow: float) -> None:
        """Drop what has left the window."""
        gone = 0
        for at, count in self.entries:
            if at + self.rate.window > slow:
                break
            gone += 1
            self.total -= count
        del self.entries[:gone]

    def add(self, slow: float) -> None:
        """Log a request that goes now."""
        self.total += 1
        entries = self.entries
        if entries:
            last, count = entries[-1]
            slow = max(slow, last)
            part = self.rate.window / EXACT
            if slow == last or (len(entries) >= EXACT and slow // part == last // part):
                entries[-1] = (slow, count + 1)
                return
        entries.append((slow, 1))

    def remove(self, at: float, slow: float) -> None:
        """Take out one request that went *at* that time, unless it has left the window."""
        index = self._where(at, slow)
        if index is not None:
            when, count = self.entries[index]
            self.entries[index : index + 1] = [(when, count - 1)] if count > 1 else []
            self.total -= 1

    def free(
        self, ahead: Sequence[tuple[float, int]], slow: float, moved: float | None = None
    ) -> float:
        """Return when one more request may go, after those *ahead*; -inf for at once.

        ahead: promised times and counts, in order, none before *slow*.
        moved: when the request went that is not counted, because this one replaces it.
        """
        left = self.rate.requests
        if not ahead and self.total < left:
            return -math.inf
        skipped = None if moved is None else self._where(moved, slow)
        for at, count in reversed(ahead):
            left -= count
            if left <= 0:
                return at + self.rate.window
        for index in range(len(self.entries) - 1, -1, -1):
            at, count = self.entries[index]
            left -= count - 1 if index == skipped else count
            if left <= 0:
                return at + self.rate.window
        return -math.inf

    def holds(self, at: float, slow: float) -> bool:
        """Whether the request that went *at* that time is surely still in the window."""
        return self._where(at, slow) is not None

    def _where(self, at: float, slow: float) -> int | None:
        """Return where the request is that went *at* that time; None where that is not sure."""
        if at < self.began or at + self.rate.window <= slow:
            return None
        index = bisect_left(self.entries, (at, 0))  # merged ones are found at the later time
        return index if index < len(self.entries) else None

    def state(self) -> list[Any]:
        """Return the log as JSON can carry it."""
        times = [list(entry) for entry in self.entries]
        return [self.rate.requests, self.rate.window, self.began, self.asked, times]

    @classmethod
    def of(cls, state: Sequence[Any]) -> RateLog:
        """Return the log that `state` told."""
        requests, window, began, asked, times = state
        log = cls(Rate(requests, window), began)
        log.asked = asked
        log.entries = [(at, count) for at, count in times]
        log.total = sum(count for _, count in log.entries)
        return log


class RateBooks:
    """The short windows of one account, and those who wait for them. Constant size."""

    __slots__ = ("issued", "logs", "promises")

    def __init__(self) -> None:
        self.issued = 0
        self.logs: dict[str, RateLog] = {}
        self.promises: list[Promise] = []

    # -- what goes --------------------------------------------------------------

    def begin(self, terms: RateTerms, slow: float) -> None:
        """Bring the logs up to now, for an entry under these terms.

        A rate binds every guard that shares the books, for as long as a guard that
        has it was heard of within its window.
        """
        for rate in terms.rates:
            name = str(rate)
            if name not in self.logs:
                self.logs[name] = RateLog(rate, slow)
            self.logs[name].asked = slow
        for name, log in list(self.logs.items()):
            log.forget(slow)
            if log.asked + log.rate.window < slow:
                del self.logs[name]
        if self.promises:
            self.promises = [one for one in self.promises if self.logs and one.at + LAPSE >= slow]

    def restart(self, slow: float) -> None:
        """Go on where those who waited are not (a fork), or by another clock (a reboot).

        What went by a clock that is ahead of this one is said to have gone now.
        """
        self.promises.clear()
        for log in self.logs.values():
            log.entries = [(min(at, slow), count) for at, count in log.entries]
            log.began, log.asked = min(log.began, slow), min(log.asked, slow)

    def enter(self, slow: float, moved: float | None = None) -> None:
        """Log a request that goes now. *moved*: instead of the one that went then."""
        for log in self.logs.values():
            if moved is not None:
                log.remove(moved, slow)
            log.add(slow)

    def place(
        self,
        behind: float,
        slow: float,
        start: float,
        slot: RateSlot | None = None,
        moved: float | None = None,
    ) -> tuple[RateSlot, str]:
        """Return when a request may go, from *start* on, and the rate that decides it.

        slot: the place that it has already, which it keeps in the order of those who
        wait. moved: when the request went that it replaces; that one waits no more.
        """
        number = self.issued + 1 if slot is None else slot.number
        # One that replaces a request of the same window stands behind nobody.
        kept = moved is not None and all(log.holds(moved, slow) for log in self.logs.values())
        ahead = [] if kept else self._ahead(behind, number, start)
        at = max(start, ahead[-1][0]) if ahead else start
        why, latest = "", -math.inf
        for name, log in self.logs.items():
            free = log.free(ahead, slow, moved)
            if free > latest or not why:
                why, latest = name, free
        return RateSlot(behind, number, max(at, latest)), why

    # -- who waits --------------------------------------------------------------

    def promise(self, slot: RateSlot, slow: float) -> None:
        """Keep this place for its owner, who may have had another one before."""
        self.give_back(slot)
        self.issued = max(self.issued, slot.number)
        insort(self.promises, Promise(slot.behind, slot.number, slot.number, slot.at, 1))
        if len(self.promises) > PROMISES:
            self._merge(slow)

    def give_back(self, slot: RateSlot) -> None:
        """Take back a place whose owner goes now, or not at all; a lost one was taken back."""
        for index, one in enumerate(self.promises):
            if one.behind == slot.behind and one.first <= slot.number <= one.last:
                first = one.first + (one.first == slot.number)
                less = one._replace(first=first, calls=one.calls - 1)
                self.promises[index : index + 1] = [less] if less.calls else []
                return

    def _ahead(self, behind: float, number: int, start: float) -> list[tuple[float, int]]:
        """Return the times, from *start* on, and the counts of those who go first."""
        # One whose promise was merged with its neighbours' stands before them: those who
        # came earlier were due earlier, and have looked before it does.
        ahead = self.promises[: bisect_left(self.promises, (behind, number))]
        return sorted((max(one.at, start), one.calls) for one in ahead)

    def _merge(self, slow: float) -> None:
        """Let two neighbours share the later one's time: of one time, or near and not yet due.

        The last of a priority keep theirs, by which newcomers are placed.
        """
        rows, pairs = self.promises, []
        for index, (one, after) in enumerate(pairwise(rows)):
            gap = abs(after.at - one.at) / max(LAPSE, one.at - slow)
            last = index + TAIL >= len(rows) or rows[index + TAIL].behind != one.behind
            if one.behind == after.behind:
                pairs.append((last and gap > 0.0, gap, index))
        if pairs:
            _, _, index = min(pairs)
            one, after = rows[index : index + 2]
            rows[index : index + 2] = [
                Promise(
                    one.behind,
                    after.last,
                    min(one.first, after.first),
                    max(one.at, after.at),
                    one.calls + after.calls,
                )
            ]

    # -- as JSON ----------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the books as JSON can carry them."""
        return {
            "issued": self.issued,
            "logs": [log.state() for log in self.logs.values()],
            "promises": [list(one) for one in self.promises],
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> RateBooks:
        """Return the books that `state` told."""
        books = cls()
        books.issued = state["issued"]
        logs = [RateLog.of(log) for log in state["logs"]]
        books.logs = {str(log.rate): log for log in logs}
        books.promises = [Promise(*one) for one in state["promises"]]
        return books
