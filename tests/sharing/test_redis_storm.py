"""A storm over a Redis server: any fault may follow any other, and holders die in it."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from crews import LEASE, Remote, Wire, hired, vendor_of, wired
from servers import Server, serving

from quotaguard.ledgers import Ledger
from quotaguard.ledgers.redis import RedisLedger


class Weather:
    """Two servers, a wire to one of them, and what may become of that."""

    def __init__(self, here: Server, there: Server, wire: Wire, chance: random.Random) -> None:
        self.here, self.there, self.wire, self._chance = here, there, wire, chance

    def turn(self) -> None:
        """Lead everybody to the other server, whatever that has missed."""
        self.here, self.there = self.there, self.here
        self.wire.lead_to(self.here)

    def fail_over(self) -> None:
        """Promote a replica that does not have the last writes."""
        self.there.replica_of(self.here)
        self.there.promote()
        self.passes()
        self.turn()

    def kill(self) -> None:
        """Kill the server; it comes back with its data."""
        self.here.kill()
        self.passes()
        self.here.start()

    def kill_and_lose(self) -> None:
        """Kill the server; it comes back without."""
        self.here.restart(empty=True)

    def flush(self) -> None:
        """Throw everything away."""
        self.here.ask("FLUSHALL")

    def forget_scripts(self) -> None:
        """Throw the scripts away."""
        self.here.ask("SCRIPT", "FLUSH")

    def pause(self) -> None:
        """Let it take writes, or anything at all, only after a while."""
        kind, longer = self._chance.choice(["WRITE", "ALL"]), self._chance.choice([200, 1500])
        self.here.ask("CLIENT", "PAUSE", longer, kind)
        self.passes()

    def freeze(self) -> None:
        """Stop it where it is, and let it go on."""
        self.here.freeze()
        self.passes()
        self.here.thaw()

    def lose(self) -> None:
        """Lose a tenth of the requests, or of their answers."""
        self.wire.lose(0.1, self._chance.randrange(1000))
        self.passes()
        self.wire.lose(0.0)

    def demote(self) -> None:
        """Make a replica of it for a while, of a server that is not there."""
        self.here.ask("REPLICAOF", "127.0.0.1", 1)
        self.passes()
        self.here.promote()

    def passes(self) -> None:
        """Let a moment pass, in which calls go on."""
        threading.Event().wait(self._chance.uniform(0.05, 0.6))


FAULTS: list[Callable[[Weather], None]] = [
    *(Weather.fail_over, Weather.fail_over, Weather.turn, Weather.kill, Weather.kill_and_lose),
    *(Weather.flush, Weather.forget_scripts, Weather.pause, Weather.freeze, Weather.lose),
    Weather.demote,
]


@pytest.mark.timeout(1800)
def test_a_storm(
    tmp_path: Path, failovers: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Never a unit above the quota, which is always near; all of it is spent in the end."""
    chance, seen, killed = random.Random(seed), Counter[str](), 0
    with ExitStack() as open_:
        vendor = open_.enter_context(vendor_of(150))
        here = open_.enter_context(serving(tmp_path / "here", keeps=True))
        there = open_.enter_context(serving(tmp_path / "there", keeps=True))
        (wire,) = open_.enter_context(wired(here))
        weather = Weather(here, there, wire, chance)
        ledgers: list[Ledger] = [RedisLedger(wire.url, lease=LEASE) for _ in range(3)]
        crew = open_.enter_context(hired(vendor, ledgers))
        remotes = [Remote(wire.url, vendor) for _ in range(2)]
        open_.callback(lambda: [one.kill() for one in remotes])
        for one in remotes:
            one.ready()
        for one in (crew, *remotes):
            one.start()
        for _ in range(failovers):
            quota = vendor.quota or 0
            if crew.true > quota - 50:
                vendor.set_quota(quota + chance.randrange(50, 150))
            fault = chance.choice(FAULTS)
            if chance.random() < 0.4:
                killed += 1
                remotes.pop(0).kill()
                remotes.append(Remote(wire.url, vendor))
                remotes[-1].start()
            fault(weather)
            seen[fault.__name__] += 1
            if chance.random() < 0.4:
                crew.reaches(crew.true + 10)  # it has passed, and calls go again
            assert crew.true <= (vendor.quota or 0), f"after {fault.__name__}"
            crew.check()
        crew.exact()
        told = f"{failovers} faults, {killed} workers killed, {crew.true} units, none above"
        record_property("storm of redis", f"{told}; {dict(seen)}")
