"""``quotaguard status``: every account that the environment names, as its provider tells it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quotaguard.cli.accounts import VARIABLES, Named, named
from quotaguard.cli.display import say
from quotaguard.errors import NoSubscription, ProviderError, StatsForbidden
from quotaguard.guard import Guard
from quotaguard.ledgers.memory import MemoryLedger
from quotaguard.quota.standing import Row, Standing

__all__ = ["status"]

CELLS, FEW_CELLS = 20, 8
WARNS, SPENT = 0.8, 1.0
"""Shares of the limit from which a bar is yellow, and red."""

OK, DOWN, WRONG, REFUSED = 0, 1, 2, 3

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one account. code: its part of the exit code."""

    name: str
    code: int = OK
    state: str = "ok"
    fault: str = ""
    standing: Standing | None = None


def status(as_json: AsJson = False) -> None:  # noqa: FBT002 - an option on the command line
    """Show used, limit and what is left of every account that the environment names.

    FULLCONTACT_API_KEY; OCTANIST_API_KEY; SEGOPS_API_KEY; VOXYS_API_ACCESS_TOKEN with
    VOXYS_ACCOUNT_ID and VOXYS_FUNNEL_ID, and, as you like, VOXYS_LIMITS
    (deals.created=500), VOXYS_WINDOW and VOXYS_TIME_ZONE. Another address of a provider
    is taken from FULLCONTACT_BASE_URL and so on. Each is asked once, at the same time.

    Leaves with 0: all were read. 1: a provider is down, says something that cannot be
    read, or that nothing is subscribed. 2: a variable is missing or wrong. 3: a key is
    not accepted. The highest of them counts.
    """
    accounts = named(os.environ)
    if not accounts:
        if as_json:
            print(json.dumps({"accounts": []}))
        keys = ", ".join(needs[0] for needs in VARIABLES.values())
        msg = f"quotaguard status: no account: set one of {keys} (see quotaguard status --help)"
        say(Console(stderr=True, highlight=False), msg, "red")
        raise typer.Exit(WRONG)
    with ThreadPoolExecutor(len(accounts)) as pool:
        answers = list(pool.map(_ask, accounts))
    if as_json:
        print(json.dumps({"accounts": [_told(asked) for asked in answers]}, indent=2))
    else:
        _show(answers, Console(highlight=False))
    code = max(asked.code for asked in answers)
    if code:
        raise typer.Exit(code)


def _ask(account: Named) -> Asked:
    if account.provider is None:
        return Asked(account.name, WRONG, "not configured", account.fault)
    try:
        with Guard(account.provider, ledger=MemoryLedger()) as guard:
            return Asked(account.name, standing=guard.refresh())
    except ProviderError as error:
        code, state, advice = next(said for kind, said in _FAULTS if isinstance(error, kind))
        request = f" (request {error.request_id})" if error.request_id else ""
        return Asked(account.name, code, state, f"{error.args[0]}{request}. {advice}")


_FAULTS: tuple[tuple[type[ProviderError], tuple[int, str, str]], ...] = (
    (StatsForbidden, (REFUSED, "key not accepted", "Check the key in the environment")),
    (NoSubscription, (DOWN, "no subscription", "Subscribe, or take the key of another account")),
    (ProviderError, (DOWN, "not read", "Try again, or look at the provider's status page")),
)


def _left(row: Row) -> float | None:
    return None if row.limit is None else max(0, row.limit - row.used)


def _told(asked: Asked) -> dict[str, Any]:
    told: dict[str, Any] = {"provider": asked.name, "state": asked.state}
    if asked.fault:
        told["error"] = asked.fault
    if asked.standing is not None:
        told["account"] = asked.standing.account
        told["meters"] = [
            {
                "meter": row.meter,
                "used": row.used,
                "limit": row.limit,
                "left": _left(row),
                "period_start": _text(row.period.starts_at),
                "period_end": _text(row.period.ends_at),
                "read_at": _text(row.read_at),
            }
            for row in asked.standing
        ]
    return told


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _show(answers: list[Asked], console: Console) -> None:
    read = [(asked.name, tuple(asked.standing or ())) for asked in answers if asked.standing]
    whole = _grid("meter", "", "used", "limit", "left", "period (UTC)", "read at (UTC)")
    for provider, rows in read:
        whole.add_row(Text(provider, "bold"))
        for row in rows:
            whole.add_row(*_cells(row, CELLS), _span(row), _read_at(row))
    width = console.measure(whole, options=console.options.update(width=1000)).maximum
    if not console.is_terminal:
        console.width = max(console.width, width)  # nobody folds the lines of a file
    if width <= console.width:
        console.print(whole if read else "", end="")
    else:
        _show_narrow(read, console)
    for asked in answers:
        if asked.fault:
            say(console, f"{asked.name}: {asked.state}: {asked.fault}", "red")


def _show_narrow(read: list[tuple[str, tuple[Row, ...]]], console: Console) -> None:
    """Show the dates once for each provider, and smaller bars."""
    for provider, rows in read:
        dates = next((f", {_span(row)}" for row in rows if _span(row)), "")
        say(console, f"{provider}{dates}, read at {_read_at(rows[0])} UTC", "bold")
        grid = _grid("meter", "", "used", "limit", "left")
        for row in rows:
            grid.add_row(*_cells(row, FEW_CELLS))
        console.print(grid)


def _grid(*columns: str) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        numbers = name in {"used", "limit", "left"}
        grid.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    return grid


def _cells(row: Row, cells: int) -> tuple[Text | str, ...]:
    left = _left(row)
    return (
        Text(f" {row.meter}"),
        _bar(row, cells),
        f"{row.used:,}",
        "unlimited" if row.limit is None else f"{row.limit:,}",
        "" if left is None else f"{left:,}",
    )


def _read_at(row: Row) -> str:
    return "" if row.read_at is None else f"{row.read_at:%Y-%m-%d %H:%M:%S}"


def _span(row: Row) -> str:
    start, end = row.period.starts_at, row.period.ends_at
    first = "" if start is None else f"{start:%Y-%m-%d} "
    return "" if end is None else f"{first}to {end:%Y-%m-%d}"


def _bar(row: Row, cells: int) -> Text:
    """Return how full it is: a plain text, which also goes into a file or a log."""
    if row.limit is None:
        return Text("")
    share = row.used / row.limit if row.limit else 1.0
    style = "red" if share >= SPENT else "yellow" if share >= WARNS else "green"
    full = min(cells, int(share * cells + 0.5) or (1 if row.used else 0))
    return Text("█" * full, style) + Text("░" * (cells - full), "dim") + Text(f" {share:4.0%}")
