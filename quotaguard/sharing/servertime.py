"""What a server's clock says by now, told from when its last answers came."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["ServerTime"]

DRIFT = 1e-3
"""Seconds by which two clocks may part in a second; quartz does not come near it."""

STALE_SECONDS = 60.0
"""A server that was not heard of for so long is asked before anything is made of its time."""


class Sample(NamedTuple):
    """The server's *time*, read at some instant between *sent* and *received* of ours."""

    time: float
    sent: float
    received: float


class ServerTime:
    """Bounds of one server's clock, on a clock of ours that goes on in suspend.

    era: of the server that answered last; another one has another clock.
    """

    def __init__(self) -> None:
        self.era = ""
        self._samples: deque[Sample] = deque(maxlen=8)

    def note(self, sample: Sample, era: str) -> None:
        """Take in an answer. What it contradicts is forgotten: that clock was set."""
        if era != self.era:
            self._samples.clear()
        elif self._samples:
            slow, fast = self.between(sample.received)
            least, most = self._bounds(sample, sample.received)
            if least > fast or most < slow:
                self._samples.clear()
        self.era = era
        self._samples.append(sample)

    def stale(self, now: float) -> bool:
        """Whether the server must be asked before its time is told."""
        return not self._samples or now - self._samples[-1].received > STALE_SECONDS

    def between(self, now: float) -> tuple[float, float]:
        """Return a time that has surely come there and one that perhaps has not."""
        bounds = [self._bounds(each, now) for each in self._samples]
        slow, fast = max(slow for slow, _ in bounds), min(fast for _, fast in bounds)
        # Samples that agreed with the one before may not agree with one another.
        return (slow, fast) if slow <= fast else bounds[-1]

    @staticmethod
    def _bounds(sample: Sample, now: float) -> tuple[float, float]:
        slow = sample.time + (now - sample.received) * (1 - DRIFT)
        return slow, sample.time + (now - sample.sent) * (1 + DRIFT)
