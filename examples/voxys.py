"""Turn leads into deals, within a monthly budget that Voxys itself does not know.

Runs by itself, against a fake Voxys on this machine:

    python examples/voxys.py

With a URL it goes there, with the key in VOXYS_API_ACCESS_TOKEN, and the numbers of the
account and of the pipeline in VOXYS_ACCOUNT_ID and VOXYS_FUNNEL_ID.
"""

from __future__ import annotations

import os
import sys

from quotaguard import Guard, Refusal, Voxys
from quotaguard.testing import fake

LEADS = range(101, 113)
BUDGET = 40
CRITICAL = {"quotaguard": {"priority": "critical", "max_wait": 0}}


def main(url: str | None = None) -> None:
    if url is None:
        with fake("voxys", used=34, key="test-key") as vendor:
            convert(vendor.url, "test-key", 7, 3)
    else:
        account, funnel = (int(os.environ[f"VOXYS_{name}_ID"]) for name in ("ACCOUNT", "FUNNEL"))
        convert(url, os.environ["VOXYS_API_ACCESS_TOKEN"], account, funnel)


def convert(url: str, key: str, account: int, funnel: int) -> None:
    # The vendor tells no limit: the budget is ours, and so is the month in which it counts.
    provider = Voxys(
        key,
        account,
        funnel,
        limits={"deals.created": BUDGET},
        window="month",
        time_zone="Europe/Berlin",
        base_url=url,
    )
    guard = Guard(provider)
    with guard, guard.client(base_url=url, headers={"api_access_token": key}) as client:
        for lead in LEADS:
            try:
                response = client.post(
                    f"/api/v1/accounts/{account}/leads/{lead}/convert",
                    json={"funnel_id": funnel, "funnel_stage_id": 7},
                    extensions=CRITICAL,
                )
            except Refusal as refusal:
                print(f"lead {lead}: not sent. {refusal}")
                break
            receipt = response.extensions["quotaguard"]
            print(f"lead {lead}: {receipt.state}, {receipt.headroom['deals.created']} left")
        report = guard.reports.analytics(group_by="agent")
        for row in report.by_agent:
            who = "nobody" if row.agent is None else row.agent.name
            print(f"{who}: {row.created} deals created, {row.won} won")
        print(guard)


if __name__ == "__main__":
    main(*sys.argv[1:2])
