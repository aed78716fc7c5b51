"""What quotaguard's peers cost for their own bare call, the limit far away.

They count and refuse on one's own say; none of them asks the provider. A statement
is the one that their documentation shows, without waiting where there is a choice.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from guards import FAR, PERIOD_SECONDS
from timing import Run, Runner, aloop, loop, nothing

Entered = tuple[Run, Callable[[], object]]


def _pyrate() -> Entered:
    from pyrate_limiter import InMemoryBucket, Limiter, Rate

    counting = Limiter(InMemoryBucket([Rate(FAR, PERIOD_SECONDS * 1000)]))
    run = loop("take('k', blocking=False)", take=counting.try_acquire)
    return run, getattr(counting, "close", nothing)


def _limits() -> Entered:
    from limits import RateLimitItemPerSecond
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    counting = FixedWindowRateLimiter(MemoryStorage())
    item = RateLimitItemPerSecond(FAR, PERIOD_SECONDS)
    return loop("take(item, 'k')", take=counting.hit, item=item), counting.storage.reset


def _throttled(using: str) -> Entered:
    from throttled import MemoryStore, Throttled, per_duration

    quota = per_duration(timedelta(seconds=PERIOD_SECONDS), FAR)
    counting = Throttled(using=using, quota=quota, key="k", store=MemoryStore())
    return loop("take()", take=counting.limit), nothing


def _aiolimiter() -> Entered:
    from aiolimiter import AsyncLimiter

    return aloop(lambda: AsyncLimiter(FAR, PERIOD_SECONDS).acquire), nothing


def _token_bucket() -> Entered:
    import token_bucket

    counting = token_bucket.Limiter(FAR / PERIOD_SECONDS, FAR, token_bucket.MemoryStorage())
    return loop("take('k')", take=counting.consume), nothing


PEERS = (
    Runner("pyrate-limiter, in memory", _pyrate),
    Runner("limits, fixed window", _limits),
    Runner("throttled-py, its default", lambda: _throttled("token_bucket")),
    Runner("throttled-py, fixed window", lambda: _throttled("fixed_window")),
    Runner("aiolimiter, async", _aiolimiter),
    Runner("token-bucket", _token_bucket),
)
