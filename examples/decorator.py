"""Guard functions of your own, whatever is inside them: an SDK, sockets, a shell command.

Runs by itself, against a fake FullContact on this machine:

    python examples/decorator.py

With a URL it goes there, with the key that is in FULLCONTACT_API_KEY.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator

import httpx

from quotaguard import FullContact, Guard, Refusal
from quotaguard.testing import fake

MATCHES = "person.enrichment.matches"
PEOPLE = [f"person-{number}@example.com" for number in range(12)]


def main(url: str | None = None) -> None:
    if url is None:
        with fake("fullcontact", quota=100, used=92, key="test-key", match_rate=0.7) as vendor:
            run(vendor.url, "test-key")
            print(f"the provider has counted {vendor.true[MATCHES]} of {vendor.quota}")
    else:
        run(url, os.environ["FULLCONTACT_API_KEY"])


def run(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    with Guard(FullContact(key, base_url=url)) as guard, httpx.Client(headers=headers) as sdk:
        # A call may cost a match; the result tells whether it did. Anything that it
        # raises leaves the cost unknown: counted until the provider's stats say otherwise.
        @guard.limit(
            {MATCHES: 1},
            settle=lambda found: {MATCHES: int(found)},
            priority="critical",
            max_wait=0,
        )
        def enrich(email: str) -> bool:
            return sdk.post(f"{url}/v3/person.enrich", json={"email": email}).status_code == 200

        # A generator reserves at its first step. Its own calls above take from its units,
        # so that nothing is charged twice.
        @guard.limit(
            {MATCHES: 1}, cost=lambda people: {MATCHES: len(people)}, fallback=(), max_wait=0
        )
        def enrich_all(people: list[str]) -> Iterator[tuple[str, bool]]:
            for email in people:
                yield email, enrich(email)

        # What comes instead of a refused call: a value, or what a function makes of it.
        @guard.limit({MATCHES: 1}, fallback=lambda refusal: f"later: {type(refusal).__name__}")
        async def enrich_in_a_task(email: str) -> str:
            found = await asyncio.to_thread(enrich, email)
            return "found" if found else "not found"

        one_by_one(PEOPLE[:4], enrich)
        print(f"{len(list(enrich_all(PEOPLE)))} people at once: too many for what is left")
        print(f"{PEOPLE[4]}: {asyncio.run(enrich_in_a_task(PEOPLE[4]))}")
        one_by_one(PEOPLE[5:], enrich)
        print(guard)


def one_by_one(people: Iterable[str], enrich: Callable[[str], bool]) -> None:
    for email in people:
        try:
            print(f"{email}: {'found' if enrich(email) else 'not found'}")
        except Refusal as refusal:
            print(f"{email}: not sent. {refusal}")
            break


if __name__ == "__main__":
    main(*sys.argv[1:2])
