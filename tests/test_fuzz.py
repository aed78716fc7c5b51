"""The parsers of every provider, fed with what no vendor should send: T13 of the test plan.

``pytest tests/test_fuzz.py --fuzz 1000000`` reads a million answers per provider. Each is a
reading in order or a declared error, in about a millisecond and less than a mebibyte.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendors import KEY, VENDORS, Vendor

from quotaguard.errors import ProviderError
from quotaguard.providers import Provider
from quotaguard.quota.calls import Bill, Outcome, Report
from quotaguard.quota.readings import Reading
from quotaguard.testing import check_provider
from quotaguard.testing.conformance import KEYS
from quotaguard.testing.hostile import CLUMSY, Hostile
from quotaguard.testing.laws import Subject, outcome_of
from quotaguard.testing.laws.answers import ORDINARY
from quotaguard.testing.laws.subject import HOME

SLOW = 0.05
"""Seconds of thread time, the shortest of three: the goal is 0.001, but a machine is busy."""

MEBIBYTE = 2**20
SAMPLED = 200
"""One answer in so many is watched for its memory, which makes it slow."""

METERS = {vendor.name: vendor.make(HOME, KEY).meters for vendor in VENDORS}

every_vendor = pytest.mark.parametrize("vendor", VENDORS, ids=str)


def subject(vendor: Vendor) -> Subject:
    """Return the vendor as `check_provider` tries it."""
    trial = vendor.trial
    return Subject(
        make=vendor.make,
        answers=tuple(map(outcome_of, trial["stats"])),
        paid=tuple(trial.get("calls", ())),
        reports={
            name: tuple(map(outcome_of, said)) for name, said in trial.get("reports", {}).items()
        },
        arguments=trial.get("arguments", {}),
        keys=trial.get("keys", KEYS),
        inputs=0,
        seed=0,
    )


def readers(vendor: Vendor) -> dict[str, Callable[[Outcome], object]]:
    """Return all that reads answers of a vendor, by name."""
    tried, provider = subject(vendor), vendor.make(HOME, KEY)
    reads: dict[str, Callable[[Outcome], object]] = {"stats": reads_stats(provider)}
    for name, make in provider.reports.items():
        told = tried.arguments.get(name, ())
        report: Report[Any] = make(**told) if isinstance(told, Mapping) else make(*told)
        reads[f"report {name}"] = report.read
    for paid in tried.calls(provider):
        operation = provider.price(paid.call)
        assert operation is not None
        reads[f"bill {operation.operation}"] = billing(provider, paid.call)
    return reads


def reads_stats(provider: Provider) -> Callable[[Outcome], object]:
    """Return what reads the stats answers."""
    asked = provider.stats_request(1_700_000_000.0)
    return getattr(asked, "read", None) or provider.read_stats


def billing(provider: Provider, call: Any) -> Callable[[Outcome], object]:
    """Return what bills the answers to a call."""
    return lambda outcome: provider.bill(call, outcome)


def good(vendor: Vendor, name: str) -> tuple[bytes, ...]:
    """Return the bodies of good answers to a reader."""
    tried = subject(vendor)
    kind, _, of = name.partition(" ")
    if kind == "report":
        said = tried.reports.get(of, tried.answers)
    elif kind == "bill":
        said = tuple(each for paid in tried.calls(vendor.make(HOME, KEY)) for each in paid.answers)
    else:
        said = tried.answers
    return tuple(each.body or b"{}" for each in said)


def read(reader: Callable[[Outcome], object], outcome: Outcome, vendor: Vendor) -> bool:
    """Read, and say whether it went well; nothing but a ProviderError is raised."""
    said: object = None
    with contextlib.suppress(ProviderError):
        said = reader(outcome)
    if isinstance(said, Reading):
        assert set(said.usages) <= set(METERS[vendor.name])
    if isinstance(said, Bill):
        assert min((said.cost or {}).values(), default=0) >= 0
    return said is not None


def took(reader: Callable[[Outcome], object], outcome: Outcome) -> float:
    """Return the seconds of this thread's time, the shortest of three where it was long."""
    shortest = float("inf")
    for _ in range(3):
        began = time.thread_time()
        with contextlib.suppress(ProviderError):
            reader(outcome)
        shortest = min(shortest, time.thread_time() - began)
        if shortest < 0.001:
            break
    return shortest


def weighed(reader: Callable[[Outcome], object], outcome: Outcome) -> int:
    """Return the bytes that it took at most."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ProviderError):
            reader(outcome)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def answers(vendor: Vendor, name: str, count: int, seed: int) -> Iterator[Outcome]:
    """Yield hostile answers to one reader."""
    yield from (Outcome(200, {}, body) for body in CLUMSY.values() if len(body) <= ORDINARY)
    hostile = Hostile(random.Random(f"{seed} {vendor} {name}"), good(vendor, name))
    for _ in range(count):
        yield hostile.outcome()


@pytest.mark.timeout(0)
@every_vendor
def test_no_answer_breaks_a_parser(
    vendor: Vendor, fuzz: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Half of the answers are polls', the others are shared by reports and bills."""
    reads = readers(vendor)
    others = max(1, len(reads) - 1)
    times, most, well = [], 0, 0
    for name, reader in reads.items():
        count = fuzz // 2 if name == "stats" else fuzz // 2 // others
        for number, outcome in enumerate(answers(vendor, name, count, seed)):
            well += read(reader, outcome, vendor)
            seconds = took(reader, outcome)
            assert seconds < SLOW, outcome.body
            times.append(seconds)
            if number % SAMPLED == 0 and len(outcome.body or b"") <= ORDINARY:
                most = max(most, weighed(reader, outcome))
    assert most < MEBIBYTE
    assert 0.1 < well / len(times) < 0.9
    median, longest = statistics.median(times) * 1e6, max(times) * 1e3
    figures = f"median {median:.0f} µs, longest {longest:.1f} ms, most {most / 1024:.0f} KiB"
    record_property("fuzz", f"{vendor}: {len(times):,} answers, {well:,} read, {figures}")


@every_vendor
def test_the_longest_answers_end_too(vendor: Vendor) -> None:
    """256 KiB is what a poll takes; nothing in it makes a parser think for seconds."""
    for reader in readers(vendor).values():
        for body in CLUMSY.values():
            outcome = Outcome(200, {}, body)
            read(reader, outcome, vendor)
            assert took(reader, outcome) < 2


# -- Hypothesis: what a mutation of good answers does not come upon --------------------

HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "date", "x-request-id", "content-type", "age"]),
    st.text(st.characters(max_codepoint=255), max_size=40),
    max_size=3,
)


NAMES = sorted(
    {
        *("data", "meta", "usage", "period", "stats", "error", "code", "message", "detail"),
        *("used", "limit", "count", "quota", "start", "end", "results", "queued", "found"),
    }
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return lists, and objects whose keys are often those that vendors use."""
    names = st.sampled_from(NAMES) | st.text(max_size=6)
    return st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
BODIES = st.recursive(LEAVES, nested, max_leaves=12).map(lambda said: json.dumps(said).encode())
READERS = {vendor.name: readers(vendor) for vendor in VENDORS}


@every_vendor
@given(
    status=st.sampled_from([200, 200, 200, 202, 204, 302, 401, 403, 404, 429, 500]),
    headers=HEADERS,
    body=st.binary(max_size=200) | BODIES,
)
def test_nothing_that_hypothesis_thinks_of_does_either(
    vendor: Vendor, status: int, headers: dict[str, str], body: bytes
) -> None:
    """Any bytes, any JSON, any status, any headers."""
    for reader in READERS[vendor.name].values():
        read(reader, Outcome(status, headers, body), vendor)


# -- the trial ------------------------------------------------------------------------


@every_vendor
def test_it_passes_the_trial(vendor: Vendor) -> None:
    """Every law that the guard relies on, by the kit that third parties use."""
    check_provider(vendor.make, **vendor.trial)
