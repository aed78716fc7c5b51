"""What becomes of a Redis server, and of its books: never a unit too many, and none lost.

Workers go on calling through all of it; what was really spent their provider knows. It
shows a charge late, and would bill what is above the quota.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from crews import KEY, LEASE, MATCHES, POLICY, Crew, Hand, Remote, guarding, hired, until, wired
from servers import Server, serving

from quotaguard import Policy
from quotaguard.ledgers import Ledger
from quotaguard.ledgers.redis import RedisLedger, RedisStore
from quotaguard.sharing.ledger import SharedLedger
from quotaguard.sharing.store import Turn
from quotaguard.testing import fake
from quotaguard.testing.fullcontact import FakeFullContact

QUOTA = 500


@contextmanager
def scene(
    url: str, quota: int = QUOTA, workers: int = 4, policy: Policy = POLICY, **knobs: Any
) -> Iterator[Crew]:
    """Let workers call at a provider with a quota, over the books at *url*."""
    with vendor_of(quota, **knobs) as vendor:
        ledgers: list[Ledger] = [RedisLedger(url, lease=LEASE) for _ in range(workers)]
        with hired(vendor, ledgers, policy) as crew:
            yield crew


@contextmanager
def vendor_of(quota: int, **knobs: Any) -> Iterator[FakeFullContact]:
    """Run a provider that bills what is above its quota."""
    told = {"lag": 0.3, "visible": "random", "overage": True, "match_rate": 1.0, "key": KEY}
    with fake("fullcontact", quota=quota, **told | knobs) as vendor:
        assert isinstance(vendor, FakeFullContact)
        yield vendor


# -- the server dies -----------------------------------------------------------------


@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "without data"])
def test_a_server_that_is_killed_and_comes_back(empty: bool, tmp_path: Path) -> None:
    """All is counted once, whatever it still knows."""
    with serving(tmp_path / "redis", keeps=True) as server, scene(server.url) as crew:
        crew.reaches(QUOTA // 2)
        server.restart(empty=empty)
        crew.exact()


def test_a_server_that_stays_away(tmp_path: Path) -> None:
    """Lanes in hand go on until their lease ends; then nothing goes until it is back."""
    with serving(tmp_path / "redis", keeps=True) as server, scene(server.url) as crew:
        crew.reaches(QUOTA // 2)
        server.kill()
        before = crew.true
        until(lambda: all(hand.refused["QuotaUnknown"] for hand in crew.hands), "lanes end")
        left, unknown = crew.true, crew.refused("QuotaUnknown")
        until(lambda: crew.refused("QuotaUnknown") >= unknown + 50, "all is refused")
        assert before <= left <= crew.true <= left + len(crew.hands)
        last = crew.hands[0].last
        assert last is not None
        assert "ledger" in str(last.__cause__ or last)
        server.start()
        crew.exact()
