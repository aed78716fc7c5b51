"""Guard functions of your own, whatever is inside them: an SDK, sockets, a shell command.

Runs by itself, against a fake FullContact on this machine:

    python examples/decorator.py

With a URL it goes there, with the key that is in FULLCONTACT_API_KEY.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator

import httpx

from quotaguard import FullContact, Guard, Refusal
from quotaguard.testing import fake

MATCHES = "person.enrichment.matches"
PEOPLE = [f"person-{number}@example.com" for number in range(30)]


def main(url: str | None = None) -> None:
    if url is None:
        with fake("fullcontact", quota=100, used=84, key="test-key", match_rate=0.8) as vendor:
            enrich(vendor.url, "test-key")
            print(f"the provider has counted {vendor.true[MATCHES]} of {vendor.quota}")
    else:
        enrich(url, os.environ["FULLCONTACT_API_KEY"])


def enrich(url: str, key: str) -> None:
    sdk = httpx.Client(headers={"Authorization": f"Bearer {key}"})
    guard = Guard(FullContact(key, base_url=url))

    # A call may cost a match, and its result tells whether it did. One that raises has
    # cost nobody knows what: it counts until the provider's stats say otherwise.
    @guard.limit(
        {MATCHES: 1}, settle=lambda found: {MATCHES: int(found)}, priority="critical", max_wait=0
    )
    def look_up(email: str) -> bool:
        return sdk.post(f"{url}/v3/person.enrich", json={"email": email}).status_code == 200

    # A generator reserves at its first step, here for all of them or for nobody. What it
    # calls takes from its units, so that nothing is charged twice.
    @guard.limit(
        {MATCHES: 1}, cost=lambda emails: {MATCHES: len(emails)}, priority="critical", fallback=()
    )
    def look_all_up(emails: list[str]) -> Iterator[tuple[str, bool]]:
        for email in emails:
            yield email, look_up(email)

    # Instead of a refused call comes the fallback: a value, or what a function makes of it.
    @guard.limit({MATCHES: 1}, max_wait=0, fallback=lambda refusal: type(refusal).__name__)
    async def look_up_later(email: str) -> str:
        return "found" if await asyncio.to_thread(look_up, email) else "not found"

    with sdk, guard:
        for email, found in look_all_up(PEOPLE[:5]):
            print(f"{email}: {'found' if found else 'not found'}")
        print(f"{len(list(look_all_up(PEOPLE)))} of {len(PEOPLE)}: they would not fit")
        for email in PEOPLE[5:]:
            try:
                print(f"{email}: {'found' if look_up(email) else 'not found'}")
            except Refusal as refusal:
                print(f"{email}: not sent. {refusal}")
                break
        print(f"and in a task: {asyncio.run(look_up_later(PEOPLE[-1]))}")
        print(guard)


if __name__ == "__main__":
    main(*sys.argv[1:2])
