"""The quota in structlog's lines: the guard's own, and the application's.

Run it as it is: ``python examples/structlog_hooks.py``. It calls a fake provider on
this machine; with a key of yours, leave ``base_url`` away.
"""

from __future__ import annotations

import sys

import structlog

from quotaguard import FullContact, Guard, Refusal
from quotaguard.logs import add_quota
from quotaguard.quota.events import Event, ThresholdCrossed
from quotaguard.testing import fake


def page_somebody(event: Event) -> None:
    """Listen for what a person should know; everything else is in the log."""
    if isinstance(event, ThresholdCrossed) and event.threshold >= 0.9:
        sys.stdout.write(f"PAGE: {event.meter} is at {event.used:,.0f} of {event.limit:,.0f}\n")


def main() -> None:
    """Enrich people until the quota is spent, and read the lines."""
    with fake("fullcontact", quota=20, overage=True, match_rate=1.0) as vendor:
        provider = FullContact(api_key="test-key", base_url=vendor.url)
        with Guard(provider, listeners=[page_somebody]) as guard:
            structlog.configure(
                processors=[
                    structlog.processors.add_log_level,
                    add_quota(guard),
                    structlog.dev.ConsoleRenderer(colors=False, sort_keys=False),
                ],
                wrapper_class=structlog.make_filtering_bound_logger("info"),
            )
            log = structlog.get_logger()
            with guard.client(headers={"Authorization": "Bearer test-key"}) as client:
                for number in range(30):
                    try:
                        response = client.post(
                            f"{vendor.url}/v3/person.enrich",
                            json={"email": f"person{number}@example.com"},
                            extensions={"quotaguard": {"priority": "critical", "max_wait": 0}},
                        )
                    except Refusal as refusal:
                        log.info("job.stopped", done=number, retry_after=refusal.retry_after)
                        break
                    log.info("contact.enriched", status=response.status_code)


if __name__ == "__main__":
    main()
