"""Whom the demo calls: a fake FullContact that goes on from run to run, or the real one."""

from __future__ import annotations

import getpass
import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quotaguard.cli.contacts import FileFault
from quotaguard.cli.display import METER
from quotaguard.errors import ConfigError
from quotaguard.providers.fullcontact import FullContact
from quotaguard.quota.policy import Policy
from quotaguard.testing.fullcontact import FakeFullContact

__all__ = ["KEY_NAME", "Vendor", "played", "real", "remember"]

KEY_NAME = "FULLCONTACT_API_KEY"

SECONDS = 6.0
"""How long the quota should last where others spend too: several polls, no coffee."""

LONGEST_LATENCY = 1.0

MATCH_RATE = 0.85

OTHER_SHARE, OTHER_SECONDS = 0.06, 5.0
"""What the other consumer spends: a share of what is left, in the first seconds."""

OTHER_LEAST = 50
"""Units that must be left for another consumer to spend: fewer are gone before a poll."""

QUICK = Policy(lag=1.0, late=1.0, poll_every=(1.0, 2.0), cold_reserve=0, max_wait=15.0)
"""A month's job in seconds: the fake's stats lag by up to a second, so polls come as often."""

PATIENT = Policy(max_wait=200.0)
"""lag + late + a poll: what it takes near the limit until spend is confirmed."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """A provider with its key and how its calls are guarded.

    fake: None for the real one, else it has *spent_before* in this period already,
        and *others* are the units that another consumer will spend.
    """

    provider: FullContact
    policy: Policy
    url: str
    key: str = field(repr=False)
    fake: FakeFullContact | None = None
    spent_before: int = 0
    others: int = 0


def real(url: str) -> Vendor:
    """Return the provider at *url*; its key comes from the environment or a hidden prompt.

    Raises:
        ConfigError: there is no key, or the key or the URL cannot be used.
    """
    key = os.environ.get(KEY_NAME, "")
    if not key and sys.stdin.isatty():
        key = getpass.getpass("FullContact API key (not shown): ")
    if not key:
        msg = f"--provider-url needs your API key in the environment variable {KEY_NAME}"
        raise ConfigError(msg)
    enrich = f"{url.rstrip('/').removesuffix('/v3')}/v3/person.enrich"
    return Vendor(FullContact(key, base_url=url), PATIENT, enrich, key.strip())


@contextmanager
def played(quota: int, threads: int, seed: int, memory: Path) -> Generator[Vendor, None, None]:
    """Run a fake FullContact on loopback that bills whatever comes past its quota.

    memory: a file where it keeps what was spent this month, as a provider would.
    """
    before = _remembered(memory)
    left = max(0, quota - before)
    others = round(OTHER_SHARE * left) if left >= OTHER_LEAST else 0
    pace = max(1, left) / MATCH_RATE / (SECONDS if others else 1.0)
    vendor = FakeFullContact(
        quota=quota,
        used=before,
        lag=0.8 * float(QUICK.lag),  # type: ignore[arg-type] # a Policy holds seconds
        visible="random",
        other_rate=others / OTHER_SECONDS,
        other_total=others,
        # It would refuse by itself without; then there was nothing to show.
        overage=True,
        match_rate=MATCH_RATE,
        latency=min(LONGEST_LATENCY, threads / pace),
        key="demo-key",
        seed=seed,
    )
    with vendor:
        provider = FullContact("demo-key", base_url=vendor.url)
        try:
            yield Vendor(
                provider,
                QUICK,
                f"{vendor.url}/v3/person.enrich",
                "demo-key",
                vendor,
                before,
                others,
            )
        finally:
            remember(memory, vendor)


def _remembered(memory: Path) -> int:
    """Return what an earlier run left spent; 0 in a new month, or where there was none."""
    try:
        told = json.loads(memory.read_text(encoding="utf-8"))
        month, used = told["month"], int(told["used"])
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, TypeError, KeyError):
        said = f"{memory} cannot be read; it keeps what the fake has billed this month"
        raise FileFault(f"{said}. Begin anew with --fresh") from None
    return max(0, used) if month == _month() else 0


def remember(memory: Path, vendor: FakeFullContact) -> None:
    """Write down what was spent so far, whole or not at all."""
    draft = memory.with_name(f"{memory.name}.partial")
    told = {"month": _month(), "used": vendor.true[METER]}
    try:
        draft.write_text(json.dumps(told), encoding="utf-8")
        draft.replace(memory)
    except OSError as error:
        raise FileFault(f"cannot write {memory}: {error.strerror}") from None


def _month() -> str:
    """Return the period that is being billed, in UTC, as the fake takes it."""
    return time.strftime("%Y-%m", time.gmtime())
