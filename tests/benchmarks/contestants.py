"""Who decides in a store that several processes share: the floor, the peers, quotaguard.

A peer takes part with the fastest of its own ways that several processes can share;
its name says which. Each is entered in the worker, and asks without waiting.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from guards import COST, METER, PERIOD_SECONDS
from timing import loop, nothing
from workers import Enter, Entrant, Spot

from quotaguard import FullContact, Guard, Policy, Refusal
from quotaguard.clock import SystemClock
from quotaguard.quota.readings import Moment

if TYPE_CHECKING:
    import anyio

    from quotaguard.clock import Clock
    from quotaguard.sharing.ledger import SharedLedger
    from quotaguard.sharing.store import Store, Turn

OURS = "**quotaguard**"
LOW_REDIS = "floor: one INCR"
LOW_SQLITE = "floor: one guarded UPDATE, WAL, NORMAL"

AS_RESERVED = """\
with guard.reserve({'person.enrichment.matches': 1}) as reservation:
    reservation.settle()"""

ALLOTTED = 1_000
"""Units that a process may have taken ahead, at most."""

BY_NAME = AS_RESERVED.replace("{'person.enrichment.matches': 1}", "'person.enrich'")

EXACT = Policy(margin=0, exclusive=True, cold_reserve=0)
"""What is asked where every unit of the limit has to go: nobody else spends."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One that takes part.

    busy: how many times as many decisions it makes in a timed loop: a loop that is over
        in a moment says nothing of several processes together.
    prepare: what all of its workers share, made in the parent; and how it is put away.
    peer: whether it is one of those that quotaguard is held against.
    """

    name: str
    enter: Enter
    busy: int = 1
    prepare: Callable[[Spot], tuple[Any, Callable[[], object]]] = lambda _: (None, nothing)
    peer: bool = True


# -- Redis --------------------------------------------------------------------------


def _trips(url: str) -> Callable[[], int]:
    """Return what tells how often the server has read something since it was first asked."""
    import redis

    watching = redis.Redis.from_url(url)
    asked = 0

    def trips() -> int:
        nonlocal asked
        asked += 1  # this very question is one of them
        return int(watching.info("stats")["total_reads_processed"]) - asked

    return trips


def _incr(spot: Spot) -> Entrant:
    import redis

    server = redis.Redis.from_url(spot.store)
    run = loop("one(key)", one=server.incr, key=spot.key)
    return Entrant(
        run,
        lambda: int(server.incr(spot.key)) <= spot.limit,
        _trips(spot.store),
        server.close,
    )


def _pyrate_rates(spot: Spot) -> list[Any]:
    from pyrate_limiter import Rate

    return [Rate(spot.limit, PERIOD_SECONDS * 1000)]


def _pyrate(bucket: Any, trips: Callable[[], int | None]) -> Entrant:
    from pyrate_limiter import Limiter

    asking = Limiter(bucket)
    take = asking.try_acquire
    run = loop("take('k', blocking=False)", take=take)
    return Entrant(run, lambda: bool(take("k", blocking=False)), trips, asking.close)


def _pyrate_log(spot: Spot) -> Entrant:
    import redis
    from pyrate_limiter import RedisBucket

    server = redis.Redis.from_url(spot.store)
    return _pyrate(RedisBucket.init(_pyrate_rates(spot), server, spot.key), _trips(spot.store))


def _pyrate_gcra(spot: Spot) -> Entrant:
    import redis
    from pyrate_limiter import RedisStateStore, StateBucket

    server = redis.Redis.from_url(spot.store)
    kept = RedisStateStore(server, spot.key)
    return _pyrate(StateBucket(_pyrate_rates(spot), store=kept), _trips(spot.store))


def _limits(spot: Spot) -> Entrant:
    from limits import RateLimitItemPerSecond
    from limits.storage import RedisStorage
    from limits.strategies import FixedWindowRateLimiter

    kept = RedisStorage(spot.store)
    take = FixedWindowRateLimiter(kept).hit
    item = RateLimitItemPerSecond(spot.limit, PERIOD_SECONDS)
    run = loop("take(item, key)", take=take, item=item, key=spot.key)
    return Entrant(run, lambda: take(item, spot.key), _trips(spot.store), kept.storage.close)


def _throttled(spot: Spot) -> Entrant:
    from throttled import RedisStore, Throttled, per_duration

    quota = per_duration(timedelta(seconds=PERIOD_SECONDS), spot.limit)
    kept = RedisStore(server=spot.store)
    take = Throttled(using="fixed_window", quota=quota, key=spot.key, store=kept).limit
    run = loop("take()", take=take)
    return Entrant(run, lambda: not take().limited, _trips(spot.store))


# -- one host -----------------------------------------------------------------------


def _guarded_table(spot: Spot) -> tuple[None, Callable[[], object]]:
    with sqlite3.connect(spot.store) as made:
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("CREATE TABLE one (id INTEGER PRIMARY KEY, used INTEGER)")
        made.execute("INSERT INTO one VALUES (1, 0)")
    made.close()
    return None, nothing


def _update(spot: Spot) -> Entrant:
    file = sqlite3.connect(spot.store, isolation_level=None, timeout=60)
    file.execute("PRAGMA synchronous=NORMAL")
    statement = "UPDATE one SET used = used + 1 WHERE id = 1 AND used < ?"
    run = loop(
        "ask(update, limit).rowcount", ask=file.execute, update=statement, limit=(spot.limit,)
    )
    return Entrant(
        run,
        lambda: file.execute(statement, (spot.limit,)).rowcount == 1,
        close=file.close,
    )


def _pyrate_here(bucket: Any, patience: str) -> Entrant:
    """Return an entrant of a bucket with a lock that processes share.

    ``blocking=False`` refuses there whenever another process has that lock, so a timed loop
    waits for it. The same call sleeps at the limit for the days until a unit is free; what
    it puts into the bucket, it puts at once.
    """
    from pyrate_limiter import Limiter, RateItem

    asking = Limiter(bucket)
    run = loop(f"take('k', {patience})", take=asking.try_acquire)
    return Entrant(run, lambda: bool(bucket.put(RateItem("k", bucket.now()))), close=asking.close)


def _pyrate_file(spot: Spot) -> Entrant:
    from pyrate_limiter import SQLiteBucket

    kept = SQLiteBucket.init_from_file(_pyrate_rates(spot), db_path=spot.store, use_file_lock=True)
    return _pyrate_here(kept, "timeout=60")


def _pyrate_list(spot: Spot) -> tuple[Any, Callable[[], object]]:
    """Start the process that has the list which all workers ask."""
    from pyrate_limiter import MultiprocessBucket

    kept = MultiprocessBucket.init(_pyrate_rates(spot))
    return kept, kept.items._manager.shutdown


def _pyrate_asking(spot: Spot) -> Entrant:
    return _pyrate_here(spot.shared, "timeout=60")


# -- quotaguard ---------------------------------------------------------------------


class Ahead:
    """The system's clock, of a host whose clocks all run so many seconds ahead."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._true = seconds, SystemClock()

    def now(self) -> Moment:
        return Moment(*(reading + self._seconds for reading in self._true.now()))

    def fast(self) -> float:
        return float(self._true.fast() + self._seconds)

    def slow(self) -> float:
        return float(self._true.slow() + self._seconds)

    def wait(self, wake: threading.Event, seconds: float) -> None:
        self._true.wait(wake, seconds)

    async def await_(self, wake: anyio.Event, seconds: float) -> None:
        await self._true.await_(wake, seconds)


class Counted:
    """A store that counts how often it is asked to exchange."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name, self.remote = store.name, store.remote
        self.forked, self.close = store.forked, store.close
        self.times = 0

    def exchange(self, account: str, known: str, turn: Turn) -> str:
        self.times += 1
        return self._store.exchange(account, known, turn)


def _opened(spot: Spot, policy: Policy | None = None) -> tuple[Guard, Callable[[], int]]:
    """Return a guard at the spot, and what tells how often its ledger has asked the store."""
    from quotaguard import RedisLedger, SQLiteLedger

    clock: Clock | None = Ahead(spot.ahead) if spot.ahead else None
    provider = FullContact(api_key="test-key", base_url=spot.vendor, account=spot.key)
    if "://" in spot.store:
        trips = _trips(spot.store)
        kept: SharedLedger = RedisLedger(spot.store, clock=clock)
    else:
        kept = SQLiteLedger(spot.store, clock=clock)
        kept.store = counted = Counted(kept.store)
        trips = lambda: counted.times  # noqa: E731 - what the other one is, too
    return Guard(provider, ledger=kept, policy=policy, clock=clock), trips


def _deciding(guard: Guard) -> Callable[[], bool]:
    def decide() -> bool:
        try:
            with guard.reserve(COST, priority="critical", max_wait=0) as reservation:
                reservation.settle()
        except Refusal:
            return False
        return True

    return decide


def _far(statement: str, spot: Spot) -> Entrant:
    guard, trips = _opened(spot)
    return Entrant(loop(statement, guard=guard), _deciding(guard), trips, guard.close)


def _ours(spot: Spot) -> Entrant:
    guard, trips = _opened(spot, EXACT)
    return Entrant(loop(AS_RESERVED, guard=guard), _deciding(guard), trips, guard.close)


def _recalled(spot: Spot) -> Entrant:
    """Enter while a recall is in force: no allotments for 3 s, so every decision asks the store.

    Another guard of the account wants all that is left, while the first one has some of it
    in its allotment; that is refused, and recalls what the first one does not use. The
    first one hears of it when it asks again, which it does here.
    """
    entrant = _ours(spot)
    entrant.decide()
    other, _ = _opened(spot, EXACT)
    with (
        contextlib.suppress(Refusal),
        other.reserve({METER: spot.limit - 1}, priority="critical", max_wait=0) as rest,
    ):
        rest.release()  # nothing was in an allotment, and what counts the trips will tell
    for _ in range(ALLOTTED):
        before = entrant.trips()
        entrant.decide()
        if entrant.trips() != before:
            break
    return replace(entrant, close=_both(other.close, entrant.close))


def _both(*closing: Callable[[], object]) -> Callable[[], object]:
    return lambda: [close() for close in closing]


REDIS = (
    Contestant(LOW_REDIS, _incr, peer=False),
    Contestant("pyrate-limiter, RedisBucket (log)", _pyrate_log),
    Contestant("pyrate-limiter, RedisStateStore (GCRA)", _pyrate_gcra),
    Contestant("limits, fixed window", _limits),
    Contestant("throttled-py, fixed window", _throttled),
)
SQLITE = (
    Contestant(LOW_SQLITE, _update, prepare=_guarded_table, peer=False),
    Contestant("pyrate-limiter, SQLiteBucket with file lock", _pyrate_file),
    Contestant("pyrate-limiter, MultiprocessBucket (no file)", _pyrate_asking, 1, _pyrate_list),
)
OURS_FAR = Contestant(OURS, partial(_far, AS_RESERVED), busy=50, peer=False)
OURS_NAMED = Contestant(
    f'{OURS}, `"person.enrich"`, three meters', partial(_far, BY_NAME), busy=50, peer=False
)
OURS_EXACT = Contestant(OURS, _ours, peer=False)
OURS_RECALLED = Contestant(f"{OURS}, a recall in force", _recalled, peer=False)
