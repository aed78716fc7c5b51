"""Eight threads, asyncio, trio, and all three at once, on one guard over real HTTP.

The provider shows a charge only after a while. Never one unit above the quota, and
at least 98 % of it used: a guard that refuses everything would be safe, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import httpx
import pytest

from quotaguard import FullContact, Guard, Policy, Refusal
from quotaguard.testing import fake
from quotaguard.testing.fullcontact import FakeFullContact

MATCHES = "person.enrichment.matches"
KEY = "key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
QUOTA = 800
LAG = 0.4
CRITICAL = {"quotaguard": {"priority": "critical"}}


def guard_of(vendor: FakeFullContact) -> Guard:
    """Build the guard as a user with a lagging provider would."""
    policy = Policy(lag=1.5 * LAG, late=1.5 * LAG, poll_every=(0.1, 1.0))
    return Guard(FullContact(KEY, base_url=vendor.url), policy=policy)


def in_threads(guard: Guard, vendor: FakeFullContact, count: int = 8) -> None:
    """Send until the guard refuses, from *count* threads."""

    def work(number: int) -> None:
        with guard.client(base_url=vendor.url, headers=HEADERS) as client:
            for sent in range(10 * QUOTA):
                person = {"email": f"{number}.{sent}@example.com"}
                try:
                    answer = client.post("/v3/person.enrich", json=person, extensions=CRITICAL)
                except Refusal:
                    return
                assert answer.status_code in {200, 404}

    run([lambda number=number: work(number) for number in range(count)])  # type: ignore[misc]


async def in_tasks(guard: Guard, vendor: FakeFullContact, count: int = 8) -> None:
    """Send until the guard refuses, from *count* tasks."""

    async def work(client: httpx.AsyncClient, number: int) -> None:
        for sent in range(10 * QUOTA):
            person = {"email": f"{number}.{sent}@example.org"}
            try:
                answer = await client.post("/v3/person.enrich", json=person, extensions=CRITICAL)
            except Refusal:
                return
            assert answer.status_code in {200, 404}

    made = guard.async_client(base_url=vendor.url, headers=HEADERS)
    async with made as client, anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(work, client, number)


def run(jobs: list[Callable[[], None]]) -> None:
    """Run every job in a thread of its own and raise what one of them raised."""
    failures: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def tell(way: str, guard: Guard, vendor: FakeFullContact, record: Callable[..., None]) -> None:
    """Check the provider's own truth, and note it for the summary."""
    true = vendor.true[MATCHES]
    record(f"together, {way}", f"{true} of {QUOTA} used, {vendor.polls} polls")
    assert true <= QUOTA
    assert true >= 0.98 * QUOTA
    assert guard.standing()[MATCHES].reserved == 0


WAYS = ["threads", "asyncio", "trio", "all three"]


@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
@pytest.mark.parametrize("way", WAYS)
def test_together_they_use_the_quota_and_never_more(
    way: str, background: bool, record_property: Callable[..., None]
) -> None:
    """Whatever the colours, the provider's true count ends at its quota."""
    with fake("fullcontact", quota=QUOTA, lag=LAG, match_rate=0.9, key=KEY) as vendor:
        guard = guard_of(vendor)
        guard._spending.background = background
        jobs: dict[str, Callable[[], None]] = {
            "threads": lambda: in_threads(guard, vendor, 8),
            "asyncio": lambda: anyio.run(in_tasks, guard, vendor, backend="asyncio"),
            "trio": lambda: anyio.run(in_tasks, guard, vendor, backend="trio"),
        }
        run(list(jobs.values()) if way == "all three" else [jobs[way]])
        tell(way, guard, vendor, record_property)
