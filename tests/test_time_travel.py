"""Time goes wrong: wall clocks jump, zones change, machines sleep, periods end in every form.

The vendor keeps its own true time, whatever happens to ours. It never refuses, so that
every unit past the quota would be billed: the law is that none ever is, and that the
new period's quota is open soon after the vendor has opened it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from quotaguard import FullContact, Guard, Policy, Refusal
from quotaguard.quota.readings import Moment
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.vendor import FakeVendor

HOUR = 3600.0
QUOTA = 40
BEFORE, AFTER = 3 * HOUR, 20 * HOUR
"""How long before the vendor's period ends a case begins, and how long after it goes on."""

STEP = 600.0
EAGER = 50
"""Calls that are tried at every step: more than the quota long before the period ends."""

MATCHES = "person.enrichment.matches"


class TickingClock(FakeClock):
    """A clock that is told in ticks, as some systems do: 15.6 ms at a time."""

    TICK = 1 / 64

    def now(self) -> Moment:
        now = super().now()
        return Moment(*(value // self.TICK * self.TICK for value in now))

    def fast(self) -> float:
        return self.now().fast

    def slow(self) -> float:
        return self.now().slow


@dataclass(frozen=True, slots=True)
class Form:
    """How a vendor writes the end of its period: *period* are the texts of the fake.

    opens: seconds after the true end in which the new quota must be open.
    """

    name: str
    period: tuple[str, str]
    opens: float = HOUR
    knobs: dict[str, Any] = field(default_factory=dict)


FORMS = [
    Form("exclusive-utc", ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z")),
    Form("exclusive-offset", ("2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00")),
    Form("bare-dates", ("2026-10-01", "2026-11-01")),
    Form("no-zone", ("2026-10-01T00:00:00", "2026-11-01T00:00:00")),
    Form("a-year", ("2025-11-01T00:00:00Z", "2026-11-01T00:00:00Z")),
    Form("a-day", ("2026-10-25T00:00:00Z", "2026-10-26T00:00:00Z")),
]

Move = tuple[float, Callable[[FakeClock], None]]
"""Seconds from the vendor's true end of the period, and what happens then."""

MOVES: dict[str, tuple[Move, ...]] = {
    "nothing": (),
    "an-hour-fast": ((-2 * HOUR, lambda clock: clock.jump_wall(HOUR)),),
    "an-hour-slow": ((-2 * HOUR, lambda clock: clock.jump_wall(-HOUR)),),
    "fast-just-before-the-end": ((-0.4 * HOUR, lambda clock: clock.jump_wall(HOUR)),),
    "back-just-after-the-end": ((0.2 * HOUR, lambda clock: clock.jump_wall(-HOUR)),),
    "to-and-fro": (
        (-2.5 * HOUR, lambda clock: clock.jump_wall(HOUR)),
        (-1.5 * HOUR, lambda clock: clock.jump_wall(-2 * HOUR)),
        (-0.5 * HOUR, lambda clock: clock.jump_wall(2 * HOUR)),
    ),
    "a-day-fast": ((-2 * HOUR, lambda clock: clock.jump_wall(24 * HOUR)),),
    "a-leap-second": ((0.0, lambda clock: clock.jump_wall(-1)),),
    "asleep-over-the-end": ((-HOUR, lambda clock: clock.suspend(8 * HOUR)),),
    "asleep-before-the-end": ((-3 * HOUR, lambda clock: clock.suspend(2.5 * HOUR)),),
    "asleep-and-woken-fast": (
        (-HOUR, lambda clock: clock.suspend(8 * HOUR)),
        (7 * HOUR, lambda clock: clock.jump_wall(HOUR)),
    ),
}

CASES = [
    *((form, name) for form in FORMS[:3] for name in MOVES),
    *((form, name) for form in FORMS[3:] for name in ("nothing", "an-hour-fast", "an-hour-slow")),
]


class Life:
    """An eager caller of a vendor that never refuses, through the end of a period."""

    def __init__(self, form: Form, clock: FakeClock, end: float) -> None:
        self.form, self.clock, self.end = form, clock, end
        self.opened: float | None = None

    def run(self, vendor: FakeVendor, moves: tuple[Move, ...]) -> None:
        provider = FullContact("test-key", base_url=vendor.url)
        policy = Policy(slack={"critical": 1.0}, cold_reserve=0, max_wait=0)
        began, coming = self.clock.fast(), list(moves)
        with (
            Guard(provider, policy=policy, clock=self.clock) as guard,
            guard.client(headers={"Authorization": "Bearer test-key"}) as client,
        ):
            while self.clock.fast() < began + BEFORE + AFTER:
                since = self.clock.fast() - began - BEFORE
                while coming and coming[0][0] <= since:
                    coming.pop(0)[1](self.clock)
                self.call(client, vendor)
                self.clock.advance(STEP)

    def call(self, client: httpx.Client, vendor: FakeVendor) -> None:
        for _ in range(EAGER):
            past = len(vendor.past)
            try:
                client.post(
                    f"{vendor.url}/v3/person.enrich",
                    json={"email": "ada@example.com"},
                    extensions={"quotaguard": {"priority": "critical"}},
                )
            except Refusal:
                return
            if past and self.opened is None:
                self.opened = self.clock.fast()


@pytest.fixture
def clock(form: Form, request: pytest.FixtureRequest) -> FakeClock:
    """Return a clock that begins shortly before the end of the form's period."""
    end = datetime.fromisoformat(form.period[1])
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    kind = TickingClock if getattr(request, "param", "") == "ticks" else FakeClock
    return kind(end.timestamp() - BEFORE)


@pytest.fixture
def vendor(form: Form, clock: FakeClock) -> Iterator[FakeVendor]:
    """Serve a vendor that bills what comes past the quota, and finds everybody."""
    with fake(
        "fullcontact",
        quota=QUOTA,
        overage=True,
        match_rate=1.0,
        period=form.period,
        clock=clock,
        lag=30.0,
        **form.knobs,
    ) as vendor:
        yield vendor


def check(life: Life, vendor: FakeVendor, began: float) -> None:
    """No period has more than its quota, both were used up, and the new one was open soon."""
    whole = [past[MATCHES] for past in vendor.past] + [vendor.true[MATCHES]]
    assert max(whole) <= QUOTA
    assert whole[0] == QUOTA
    assert whole[1] == QUOTA
    assert life.opened is not None
    asleep = 8 * HOUR  # nobody calls while the machine sleeps
    assert life.opened - began - BEFORE <= life.form.opens + asleep


@pytest.mark.parametrize(("form", "move"), CASES, ids=[f"{f.name}-{m}" for f, m in CASES])
def test_no_unit_past_the_quota_whatever_time_does(
    form: Form, move: str, clock: FakeClock, vendor: FakeVendor
) -> None:
    """Through the end of a period, with a clock that lies."""
    began = clock.fast()
    life = Life(form, clock, began + BEFORE)
    life.run(vendor, MOVES[move])
    check(life, vendor, began)


@pytest.mark.parametrize("clock", ["ticks"], indirect=True)
@pytest.mark.parametrize("form", FORMS[:3], ids=lambda form: form.name)
def test_a_clock_that_ticks_coarsely(form: Form, clock: FakeClock, vendor: FakeVendor) -> None:
    """Two things at one tick have no order; the marker is taken strictly before."""
    began = clock.fast()
    life = Life(form, clock, began + BEFORE)
    life.run(vendor, ())
    check(life, vendor, began)
