"""Enrich a list of people with httpx, and stop before the quota is spent.

Runs by itself, against a fake FullContact on this machine:

    python examples/httpx_sync.py

With a URL it goes there, with the key that is in FULLCONTACT_API_KEY.
"""

from __future__ import annotations

import os
import sys

from quotaguard import FullContact, Guard, Refusal
from quotaguard.testing import fake

PEOPLE = [f"person-{number}@example.com" for number in range(12)]


def main(url: str | None = None) -> None:
    if url is None:
        with fake("fullcontact", quota=100, used=94, key="test-key", match_rate=0.7) as vendor:
            enrich(vendor.url, "test-key")
    else:
        enrich(url, os.environ["FULLCONTACT_API_KEY"])


def enrich(url: str, key: str) -> None:
    guard = Guard(FullContact(key, base_url=url))
    # guard.client() takes whatever httpx.Client takes; guard.attach(client) guards one
    # that exists already. Both keep its proxies, certificates and mounts.
    with guard, guard.client(timeout=10, headers={"Authorization": f"Bearer {key}"}) as client:
        for email in PEOPLE:
            try:
                response = client.post(
                    f"{url}/v3/person.enrich",
                    json={"email": email},
                    extensions={"quotaguard": {"priority": "critical", "max_wait": 0}},
                )
            except Refusal as refusal:
                print(f"{email}: not sent. {refusal}")
                break
            receipt = response.extensions["quotaguard"]
            left = receipt.headroom["person.enrichment.matches"]
            print(f"{email}: {response.status_code}, {receipt.state}, {left} matches left")
        print(guard)


if __name__ == "__main__":
    main(*sys.argv[1:2])
