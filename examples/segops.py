"""Send events to SegOps in batches, and stop before the month's events are spent.

Runs by itself, against a fake SegOps on this machine:

    python examples/segops.py

With a URL it goes there, with the key that is in SEGOPS_API_KEY.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from quotaguard import Guard, Refusal, SegOps
from quotaguard.testing import fake

EVENTS = [{"user_id": f"u{number % 40}", "event_type": "page_viewed"} for number in range(700)]
EVENTS[10] = {"event_type": "nobody"}  # is skipped, and costs nothing


def main(url: str | None = None) -> None:
    if url is None:
        with fake("segops", quota=1000, used=400, segments_used=2, key="test-key") as vendor:
            send(vendor.url, "test-key")
            print(f"the provider has counted {vendor.true['events']} of {vendor.quota} events")
    else:
        send(url, os.environ["SEGOPS_API_KEY"])


def send(url: str, key: str) -> None:
    # Where JWTs are used: SegOps(token=log_in, account="acme"). log_in() is called when a
    # poll needs a key, and again when that has expired.
    guard = Guard(SegOps(key, base_url=url))
    headers = {"Authorization": f"ApiKey {key}"}
    with guard, guard.client(timeout=10, headers=headers) as client:
        for batch in batches(EVENTS, 120):
            try:
                response = client.post(
                    f"{url}/api/ingestion/track/batch/",
                    json={"events": batch},
                    extensions={"quotaguard": {"priority": "critical", "max_wait": 0}},
                )
            except Refusal as refusal:
                print(f"{len(batch)} events kept for later. {refusal}")
                break
            receipt = response.extensions["quotaguard"]
            print(f"{response.status_code}: reserved {receipt.reserved}, cost {receipt.settled}")
        usage = guard.reports.usage()
        print(f"{usage.plan_name}: {usage.events.used} of {usage.events.limit} events")
        for segment in guard.reports.segments():
            print(f"{segment.name}: {segment.member_count} members")
        print(guard)


def batches(events: list[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]


if __name__ == "__main__":
    main(*sys.argv[1:2])
