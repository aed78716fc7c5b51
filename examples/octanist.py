"""Capture leads with httpx, and keep those that the plan has no room for.

Runs by itself, against a fake Octanist on this machine:

    python examples/octanist.py

With a URL it goes there, with the key that is in OCTANIST_API_KEY.
"""

from __future__ import annotations

import os
import sys

from quotaguard import Guard, Octanist, QuotaExhausted
from quotaguard.testing import fake

FORMS = [{"name": f"Visitor {n}", "email": f"visitor-{n}@example.com"} for n in range(12)]


def main(url: str | None = None) -> None:
    if url is None:
        # Octanist takes every lead; those past the plan are stored and locked.
        with fake("octanist", quota=500, used=491, key="test-key") as vendor:
            capture(vendor.url, "test-key")
            print(f"{vendor.true['leads']} of {vendor.quota} leads, {vendor.locked} locked")
    else:
        capture(url, os.environ["OCTANIST_API_KEY"])


def capture(url: str, key: str) -> None:
    guard = Guard(Octanist(key, base_url=url))
    kept: list[dict[str, str]] = []
    with guard, guard.client(timeout=10, headers={"X-API-KEY": key}) as client:
        for form in FORMS:
            try:
                answer = client.post(
                    f"{url}/api/leads",
                    json=form,
                    extensions={"quotaguard": {"priority": "critical", "max_wait": 0}},
                )
            except QuotaExhausted as refusal:
                if not kept:
                    print(refusal)
                kept.append(form)
            else:
                print(f"{form['email']}: {answer.json()['data']['message']}")
        print(f"{len(kept)} kept for later")
        report = guard.reports.stats()
        print(f"by source: {dict(report.leads.by_source)}")
        print(guard)


if __name__ == "__main__":
    main(*sys.argv[1:2])
