"""Enrich many people at once with httpx and tasks: one guard for all of them.

Runs by itself, against a fake FullContact on this machine:

    python examples/httpx_async.py

With a URL it goes there, with the key that is in FULLCONTACT_API_KEY.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter

import httpx

from quotaguard import FullContact, Guard, Policy
from quotaguard.testing import fake

PEOPLE = [f"person-{number}@example.com" for number in range(30)]


def main(url: str | None = None) -> None:
    if url is None:
        with fake("fullcontact", quota=100, used=80, key="test-key", match_rate=1.0) as vendor:
            asyncio.run(enrich(vendor.url, "test-key"))
            print(f"the provider has counted {vendor.true['person.enrichment.matches']} of 100")
    else:
        asyncio.run(enrich(url, os.environ["FULLCONTACT_API_KEY"]))


async def enrich(url: str, key: str) -> None:
    # Refused calls are answered with a 429 here, for code that only knows HTTP. The last
    # few units stay: a program that has just begun cannot know what ran before it.
    policy = Policy(on_exhausted="respond", max_wait=0)
    guard = Guard(FullContact(key, base_url=url), policy=policy)
    statuses: Counter[int] = Counter()

    async def one(client: httpx.AsyncClient, email: str) -> None:
        response = await client.post(
            f"{url}/v3/person.enrich",
            json={"email": email},
            extensions={"quotaguard": {"priority": "critical"}},
        )
        statuses[response.status_code] += 1

    headers = {"Authorization": f"Bearer {key}"}
    async with guard, guard.async_client(headers=headers) as client, asyncio.TaskGroup() as tasks:
        for email in PEOPLE:
            tasks.create_task(one(client, email))
    for status, count in sorted(statuses.items()):
        print(f"{count} answers with status {status}")
    print(guard)


if __name__ == "__main__":
    main(*sys.argv[1:2])
