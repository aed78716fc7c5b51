"""What a job has come to, in numbers and in words."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import TYPE_CHECKING

from quotaguard.cli.display import METER
from quotaguard.quota.events import Delayed, Polled, PollFailed

if TYPE_CHECKING:
    from quotaguard.cli.enrichment import Job
    from quotaguard.cli.results import Enriched, Refused
    from quotaguard.cli.vendor import Vendor
    from quotaguard.quota.events import Event
    from quotaguard.quota.readings import Amount

__all__ = ["Heard", "closing", "summary"]


class Heard:
    """A listener that keeps what the summary tells."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.delays = 0
        self.waited = 0.0
        self.polls = 0
        self.used: Amount | None = None
        self.limit: Amount | None = None
        self.period_end: datetime | None = None

    def __call__(self, event: Event) -> None:
        """Count *event*; called by every thread."""
        with self._lock:
            match event:
                case Delayed(delay=delay):
                    self.delays += 1
                    self.waited += delay
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
        ("delayed", heard.delays, f"times a call waited, {heard.waited:.1f} s together"),
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


def _truth(job: Job, heard: Heard, vendor: Vendor) -> list[tuple[str, str, str]]:
    """Return the provider's own count against its quota."""
    if vendor.fake is None:
        used, quota, name = heard.used, heard.limit, "provider says"
        meaning = "by its newest stats, which may lag"
    else:
        used, quota, name = vendor.fake.true[METER], vendor.fake.quota, "true count"
        others = used - vendor.spent_before - job.counts["matched"]
        meaning = f"{others:,} of them by the other consumer"
        if vendor.spent_before:
            meaning += f", {vendor.spent_before:,} by earlier runs"
    if used is None:
        return [(name, "?", "no reading came")]
    if quota is None:
        return [(name, f"{used:,}", f"no limit; {meaning}")]
    share = f" ({used / quota:.1%})" if quota else ""
    return [
        (name, f"{used:,}", f"of {quota:,}{share}; {meaning}"),
        ("overshoot", f"{max(0, used - quota):,}", "units past the quota"),
    ]


def closing(
    job: Job, heard: Heard, vendor: Vendor, enriched: Enriched, refused: Refused
) -> list[str]:
    """Return what to do next, a paragraph each."""
    counts = job.counts
    answered = counts["matched"] + counts["missed"] + counts["repeated"]
    left = job.seen - answered - counts["done before"]
    lines = [f"{enriched.path}: {answered:,} rows added. {refused.path}: {left:,} rows."]
    if not left:
        return [*lines, "Every row has its answer."]
    again = "Run it again and it goes on where it stopped; no row is paid for twice."
    if not counts["refused"]:
        return [*lines, again]
    end = heard.period_end
    until = "" if end is None else f" until {end:%d %b %Y, %H:%M} UTC"
    lines.append(f"The quota is spent{until}. {again}")
    if vendor.fake is not None and vendor.fake.quota:
        lines.append(
            f"A raised plan helps at once: quotaguard demo --quota {2 * vendor.fake.quota}"
        )
    return lines
