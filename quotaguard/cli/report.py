"""What a job has come to, in numbers and in words."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import TYPE_CHECKING

from quotaguard.cli.display import METER
from quotaguard.quota.events import Delayed, Polled, PollFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from quotaguard.cli.enrichment import Job
    from quotaguard.cli.vendor import Vendor
    from quotaguard.quota.events import Event
    from quotaguard.quota.readings import Amount

__all__ = ["Heard", "advice", "summary"]


class Heard:
    """A listener that keeps what the summary tells, and passes on who is delayed."""

    def __init__(self, delayed: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._delayed = delayed
        self.polls = 0
        self.used: Amount | None = None
        self.limit: Amount | None = None
        self.period_end: datetime | None = None

    def __call__(self, event: Event) -> None:
        """Take in *event*; the thread is that of the call which it is about."""
        with self._lock:
            match event:
                case Delayed():
                    self._delayed()
                case Polled(used=used, limit=limit, period_end=end):
                    self.polls += 1
                    self.used, self.limit = used.get(METER), limit.get(METER)
                    self.period_end = end
                case PollFailed():
                    self.polls += 1
                case _:
                    pass


def summary(
    job: Job, sent: int, heard: Heard, vendor: Vendor, seconds: float
) -> list[tuple[str, str, str]]:
    """Return the rows of the table: a name, a number, what it means."""
    counts = job.counts
    rows = [
        ("sent", sent, f"calls that went out, in {seconds:.1f} s"),
        ("matched", counts["matched"], "people found, one unit each"),
        ("missed", counts["missed"], "not found, free"),
        ("delayed", len(job.waits), _waiting(job.waits)),
        ("refused", counts["refused"], "rows that would have gone past the quota"),
    ]
    told = [
        ("repeated", "rows with an email that was answered already, free"),
        ("done before", "rows that an earlier run has enriched"),
        ("failed", "calls that went wrong; the file of refused rows says how"),
        ("no email", "rows without one"),
        ("not reached", "rows that were left when the run was interrupted"),
    ]
    rows += [(name, counts[name], meaning) for name, meaning in told if counts[name]]
    polls = heard.polls if vendor.fake is None else vendor.fake.polls
    rows.append(("polls", polls, "questions to the provider's stats endpoint"))
    return [(name, f"{number:,}", meaning) for name, number, meaning in rows] + _truth(
        job, heard, vendor
    )


def _waiting(waits: list[float]) -> str:
    if not waits:
        return "calls that had to wait"
    mean = sum(waits) / len(waits)
    return f"calls that waited, {mean:.1f} s on average, {max(waits):.1f} s at most"


def _truth(job: Job, heard: Heard, vendor: Vendor) -> list[tuple[str, str, str]]:
    """Return the provider's own count against its quota."""
    if vendor.fake is None:
        used, quota, name = heard.used, heard.limit, "provider says"
        meaning = "its newest stats, which may lag"
    else:
        used, quota, name = vendor.fake.true[METER], vendor.fake.quota, "true count"
        here = job.counts["matched"]
        others = used - vendor.spent_before - here
        told = [f"{here:,} here"]
        told += [f"{others:,} by others"] if others else []
        told += [f"{vendor.spent_before:,} before"] if vendor.spent_before else []
        meaning = ", ".join(told)
    if used is None:
        return [(name, "?", "no reading came")]
    if quota is None:
        return [(name, f"{used:,}", f"no limit; {meaning}")]
    share = f" ({float(used) / float(quota):.1%})" if quota else ""
    rows = [(name, f"{used:,}", f"of {quota:,}{share}: {meaning}")]
    left = int(quota) - int(used)
    if left > 0 and job.counts["refused"]:
        rows.append(("margin", f"{left:,}", "left over, held back for what others may spend"))
    return [*rows, ("overshoot", f"{max(0, -left):,}", "units past the quota")]


def advice(job: Job, heard: Heard, vendor: Vendor) -> list[str]:
    """Return what to do next, a paragraph each."""
    counts = job.counts
    if not any(counts[name] for name in ("refused", "failed", "not reached")):
        which = "Every row with an email" if counts["no email"] else "Every row"
        return [f"{which} has its answer."]
    again = "Run it again and it goes on where it stopped; no answer is paid for twice."
    if not counts["refused"]:
        return [again]
    end = heard.period_end
    until = "" if end is None else f" until {end:%d %B %Y, %H:%M} UTC"
    lines = [f"The quota is spent{until}. {again}"]
    if vendor.fake is not None and vendor.fake.quota:
        raised = 2 * vendor.fake.quota
        lines.append(f"A raised plan helps at once: try --quota {raised}.")
    return lines
