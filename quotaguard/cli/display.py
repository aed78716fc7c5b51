"""What the user sees of a job: a bar or plain lines while it runs, a table at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from quotaguard.cli.enrichment import Job
    from quotaguard.guard import Guard

__all__ = ["METER", "Screen", "say"]

METER = "person.enrichment.matches"

PLAIN_EVERY = 2.0
"""Seconds between lines where there is no terminal: a log is read, not watched."""


def say(console: Console, text: str, style: str = "") -> None:
    """Print one paragraph; paths in it are not broken, and nothing in it is markup."""
    console.print(Text(text, style), soft_wrap=not console.is_terminal)


class Screen:
    """The progress of a job: a context, `draw` is called while it runs."""

    def __init__(self, console: Console, job: Job, guard: Guard, total: int) -> None:
        self._console = console
        self._job = job
        self._guard = guard
        self._total = total
        self._told = time.monotonic()
        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._bar = self._progress.add_task("", total=total)
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def draw(self) -> None:
        """Show how far it is, and the headroom. Asks the books, never the provider."""
        if self._console.is_terminal:
            self._progress.update(self._bar, completed=self._job.seen)
            lines = Group(self._progress, Text(self._headroom()), Text(self._counts()))
            self._live.update(lines, refresh=True)
        elif time.monotonic() - self._told >= PLAIN_EVERY:
            self._told = time.monotonic()
            rows = f"{self._job.seen:>7,} of {self._total:,} rows"
            say(self._console, f"{rows}; {self._headroom()}; {self._counts()}")

    def _headroom(self) -> str:
        row = self._guard.standing().by_meter.get(METER)
        if row is None:
            return "headroom not known yet"
        if row.limit is None:
            return f"no limit, {row.used:,} used"
        margin = f", margin {row.margin:,} for others" if row.margin else ""
        return f"headroom {row.headroom:,} of {row.limit:,}{margin}"

    def _counts(self) -> str:
        counts = self._job.counts
        told = [f"{counts[name]:,} {name}" for name in ("matched", "missed", "refused")]
        told += [f"{counts['failed']:,} failed"] if counts["failed"] else []
        return ", ".join(told)


def table(rows: list[tuple[str, str, str]]) -> Table:
    """Return the table at the end: a name, a number, and what it means."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim")
    for name, number, meaning in rows:
        grid.add_row(name, number, Text(meaning))
    return grid
