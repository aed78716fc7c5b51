"""``quotaguard demo``: a real job against a provider that is a fake, or against the real one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import httpx
import typer
from rich.console import Console

from quotaguard.cli.contacts import Contacts, FileFault, bundled
from quotaguard.cli.display import METER, Screen, say, table
from quotaguard.cli.enrichment import PRIORITY, Job, Wire
from quotaguard.cli.history import History
from quotaguard.cli.picture import Picture
from quotaguard.cli.report import Heard, advice, summary
from quotaguard.cli.results import ADDED, REASON, Enriched, Refused, check_ours
from quotaguard.cli.vendor import Vendor, played, real, remember
from quotaguard.errors import ConfigError, ProviderError
from quotaguard.guard import Guard
from quotaguard.ledgers.memory import MemoryLedger

if TYPE_CHECKING:
    from types import FrameType

    from quotaguard.quota.events import Event

__all__ = ["demo"]

MEMORY = ".quotaguard-demo.json"
KEEP_EVERY = 1.0

Input = Annotated[
    Path | None,
    typer.Option(
        "--input", help="CSV in UTF-8 with a column 'email'. [default: 1,500 made-up people]"
    ),
]
Output = Annotated[Path, typer.Option("--output", help="Rows that were answered; added to.")]
RefusedTo = Annotated[Path, typer.Option("--refused", help="Rows that were not, and why.")]
Quota = Annotated[int, typer.Option("--quota", min=0, help="The fake's quota, in matches.")]
Threads = Annotated[int, typer.Option("--threads", min=1, max=64, help="Calls at a time.")]
Seed = Annotated[int, typer.Option("--seed", help="Of whom the fake knows.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Forget earlier runs: their files are written anew.")
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE.png",
        help="Draw the run over time: true count, our count, readings, refusals, quota. Needs "
        "the extra 'plot'.",
    ),
]
ProviderUrl = Annotated[
    str | None,
    typer.Option(
        "--provider-url",
        help="Call this API instead of the fake, such as https://api.fullcontact.com; the key "
        "comes from FULLCONTACT_API_KEY or is asked for. It spends real units.",
    ),
]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for."""

    source: Path
    output: Path
    refused: Path
    quota: int
    threads: int
    seed: int
    fresh: bool
    plot: Path | None
    provider_url: str | None

    @property
    def memory(self) -> Path:
        """The fake's own books, beside the results."""
        return self.output.with_name(MEMORY)


def demo(
    source: Input = None,
    output: Output = Path("enriched.csv"),
    refused: RefusedTo = Path("refused.csv"),
    quota: Quota = 1000,
    threads: Threads = 8,
    seed: Seed = 0,
    fresh: Fresh = False,  # noqa: FBT002 - an option on the command line
    plot: Plot = None,
    provider_url: ProviderUrl = None,
) -> None:
    """Enrich a CSV of contacts through a guarded client, up to the quota and not past it.

    A fake FullContact on loopback bills the calls; another consumer spends from the
    same quota; its stats lag. Run it again and it goes on where it stopped.

    Leaves with 0: every row was answered, or refused by the guard. 1: the provider
    failed, or some calls did. 2: a file or an option is wrong. 130: interrupted.
    In every case what was done is in the files.
    """
    chosen = Settings(
        source or bundled(), output, refused, quota, threads, seed, fresh, plot, provider_url
    )
    try:
        code = _run(chosen, Console(highlight=False))
    except (FileFault, ConfigError) as fault:
        code = _complain(str(fault), 2)
    except ProviderError as fault:
        code = _complain(str(fault), 1)
    except OSError as fault:
        code = _complain(f"{fault.filename or 'this machine'}: {fault.strerror}", 2)
    if code:
        raise typer.Exit(code)


def _complain(what: str, code: int) -> int:
    say(Console(stderr=True, highlight=False), f"quotaguard demo: {what}", "red")
    return code


@dataclass(slots=True)
class Stage:
    """Everything that a run needs, opened."""

    vendor: Vendor
    heard: Heard
    guard: Guard
    wire: Wire
    enriched: Enriched
    refused: Refused
    job: Job
    picture: Picture | None
    history: History

    def look(self) -> None:
        """Add a point to the picture, where there will be one."""
        row = self.guard.standing().by_meter.get(METER) if self.picture else None
        if row is not None:
            true = None if self.vendor.fake is None else self.vendor.fake.true[METER]
            self.history.look(true, row, time.time())


def _run(chosen: Settings, console: Console) -> int:
    contacts = Contacts(chosen.source, taken=(*ADDED, REASON))
    rows = contacts.count()
    _check_places(chosen)
    with _staged(chosen, contacts) as stage:
        for line in _opening(chosen, contacts, rows, stage.vendor):
            say(console, line)
        began = time.monotonic()
        fault: FileFault | None = None
        with _interrupts(stage.job) as caught:
            try:
                _carry_out(chosen, Screen(console, stage.job, stage.guard, rows), contacts, stage)
            except FileFault as said:
                fault = said
            stage.refused.close()
        took = time.monotonic() - began
        console.print()
        console.print(table(summary(stage.job, stage.wire.sent, stage.heard, stage.vendor, took)))
        console.print()
        say(
            console,
            f"{stage.enriched.path}: {stage.enriched.added:,} rows added. "
            f"{stage.refused.path}: {stage.refused.rows:,} rows.",
        )
        for line in [] if fault else advice(stage.job, stage.heard, stage.vendor):
            say(console, line)
        if stage.picture is not None:
            stage.look()
            stage.picture.draw(stage.history.series())
            say(console, f"{stage.picture.path}: the picture of this run.")
    if fault is not None:
        return _complain(f"{fault}. Everything before is done, and stays done", 2)
    if caught:
        return _complain("interrupted", 128 + caught[0])
    return 1 if stage.job.counts["failed"] else 0


def _check_places(chosen: Settings) -> None:
    """Make sure that the results have a place, and that no other file stands there."""
    names = {"--input": chosen.source, "--output": chosen.output, "--refused": chosen.refused}
    names |= {} if chosen.plot is None else {"--plot": chosen.plot}
    places: dict[Path, str] = {}
    for option, path in names.items():
        other = places.setdefault(path.resolve(), option)
        if other != option:
            raise FileFault(f"{other} and {option} are the same file, {path}")
        if not path.parent.is_dir():
            raise FileFault(f"{option} {path}: there is no folder {path.parent}")
    check_ours(chosen.refused, REASON)
    check_ours(chosen.output, ADDED[-1])


@contextmanager
def _staged(chosen: Settings, contacts: Contacts) -> Generator[Stage, None, None]:
    with ExitStack() as stack:
        picture = None if chosen.plot is None else stack.enter_context(Picture(chosen.plot))
        if chosen.provider_url is None:
            if chosen.fresh:
                chosen.memory.unlink(missing_ok=True)
            vendor = stack.enter_context(
                played(chosen.quota, chosen.threads, chosen.seed, chosen.memory)
            )
        else:
            vendor = real(chosen.provider_url)
        wire = Wire(httpx.HTTPTransport())
        heard = Heard(delayed=wire.delayed)
        history = History(vendor.policy, PRIORITY)
        listeners: list[Callable[[Event], None]] = [heard, history] if picture else [heard]
        guard = stack.enter_context(
            Guard(vendor.provider, ledger=MemoryLedger(), policy=vendor.policy, listeners=listeners)
        )
        # The first reading: a key that does not work is told before a file is touched.
        guard.refresh()
        if chosen.fresh:
            chosen.output.unlink(missing_ok=True)
        enriched = Enriched(chosen.output, contacts.columns)
        stack.callback(enriched.close)
        refused = Refused(chosen.refused, contacts.columns)
        stack.callback(refused.discard)
        bearer = {"Authorization": f"Bearer {vendor.key}"}
        client = guard.client(transport=wire, headers=bearer, timeout=10.0)
        stack.enter_context(client)
        job = Job(client, wire, vendor.url, enriched, refused)
        yield Stage(vendor, heard, guard, wire, enriched, refused, job, picture, history)


def _carry_out(chosen: Settings, screen: Screen, contacts: Contacts, stage: Stage) -> None:
    kept = time.monotonic()

    def watch() -> None:
        nonlocal kept
        screen.draw()
        stage.look()
        if stage.vendor.fake is not None and time.monotonic() - kept > KEEP_EVERY:
            # A run that is killed has spent all the same.
            remember(chosen.memory, stage.vendor.fake)
            kept = time.monotonic()

    stage.look()
    with screen:
        stage.job.run(contacts, chosen.threads, watch)
    if stage.vendor.fake is None:
        with suppress(ProviderError):
            # The table tells the provider's count as of now.
            stage.guard.refresh()


def _opening(chosen: Settings, contacts: Contacts, rows: int, vendor: Vendor) -> list[str]:
    fake = vendor.fake
    if fake is None:
        who = str(chosen.provider_url)
    else:
        other = ", another consumer spends too" if vendor.others else ""
        who = (
            f"a fake FullContact. The quota is {fake.quota:,} matches{other}, the stats lag, and "
            "what comes past the quota is billed"
        )
    return [
        f"{rows:,} contacts of {contacts.path.name}, {chosen.threads} calls at a time, to {who}.",
        f"Priority {PRIORITY}: these calls may use all of it; normal ones leave up to a fifth.",
    ]


@contextmanager
def _interrupts(job: Job) -> Generator[list[int], None, None]:
    """Stop the job at the first Ctrl-C or SIGTERM; yields the signals that came."""
    caught: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        caught.append(number)
        job.stopped.set()
        # Whoever presses it again does not want to wait for answers.
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
