"""Time goes wrong: wall clocks jump, zones change, machines sleep, periods end in every form.

The vendor keeps its own true time, whatever happens to ours. It never refuses, so that
every unit past the quota would be billed: the law is that none ever is, and that the
new period's quota is open soon after the vendor has opened it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from quotaguard import FullContact, Guard, Octanist, Policy, Refusal, SegOps, Voxys
from quotaguard.providers import Provider
from quotaguard.quota.calls import Outcome
from quotaguard.quota.readings import Moment, Reading
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.vendor import FakeVendor

HOUR = 3600.0
QUOTA = 40
BEFORE, AFTER = 3 * HOUR, 20 * HOUR
"""How long before the vendor's period ends a case begins, and how long after it goes on."""

STEP = 600.0
EAGER = 50
"""Calls that are tried at every step: more than the quota long before the period ends."""

CRITICAL = {"quotaguard": {"priority": "critical"}}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """A provider, its fake, a call that costs one of *meter*, and the headers of the key."""

    make: Callable[[str], Provider]
    fake: str
    meter: str
    call: tuple[str, dict[str, Any]]
    headers: dict[str, str]
    knobs: dict[str, Any] = field(default_factory=dict)


FULLCONTACT = Vendor(
    make=lambda url: FullContact("test-key", base_url=url),
    fake="fullcontact",
    meter="person.enrichment.matches",
    call=("/v3/person.enrich", {"email": "ada@example.com"}),
    headers={"Authorization": "Bearer test-key"},
    knobs={"match_rate": 1.0},
)
OCTANIST = Vendor(
    make=lambda url: Octanist("test-key", base_url=url),
    fake="octanist",
    meter="leads",
    call=("/api/leads", {"name": "Ada"}),
    headers={"X-API-KEY": "test-key"},
)
SEGOPS = Vendor(
    make=lambda url: SegOps("test-key", base_url=url),
    fake="segops",
    meter="events",
    call=("/api/ingestion/track/", {"user_id": "u1", "event_type": "seen"}),
    headers={"Authorization": "ApiKey test-key"},
)


def voxys(window: str, time_zone: str) -> Vendor:
    """Return a Voxys whose windows are the user's."""

    def make(url: str) -> Provider:
        limits = {"deals.created": QUOTA}
        return Voxys(
            "test-key", 7, 3, limits=limits, window=window, time_zone=time_zone, base_url=url
        )

    return Vendor(
        make=make,
        fake="voxys",
        meter="deals.created",
        call=("/api/v1/accounts/7/leads/1/convert", {"funnel_id": 3, "funnel_stage_id": 7}),
        headers={"api_access_token": "test-key"},
        knobs={"window": window, "time_zone": time_zone},
    )


@dataclass(frozen=True, slots=True)
class Form:
    """How a vendor writes the end of its period, and when it truly is: *end*, as ISO 8601.

    start: of the period, as the fake is told it; None where the vendor has windows.
    """

    name: str
    vendor: Vendor
    start: str | None
    end: str

    @property
    def knobs(self) -> dict[str, Any]:
        """What the fake is told of its period."""
        return {} if self.start is None else {"period": (self.start, self.end)}


FORMS = [
    Form("exclusive-utc", FULLCONTACT, "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"),
    Form("bare-dates", FULLCONTACT, "2026-10-01", "2026-11-01"),
    Form("inclusive-ms", OCTANIST, "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"),
    Form("bare-inclusive", SEGOPS, "2026-10-01", "2026-11-01"),
]
SEEN_ONCE = [
    Form("offset", FULLCONTACT, "2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00"),
    Form("no-zone", FULLCONTACT, "2026-10-01T00:00:00", "2026-11-01T00:00:00"),
    Form("a-year", FULLCONTACT, "2025-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
    Form("a-day", FULLCONTACT, "2026-10-25T00:00:00Z", "2026-10-26T00:00:00Z"),
    Form("month-utc", voxys("month", "UTC"), None, "2026-11-01T00:00:00Z"),
    Form("month-berlin", voxys("month", "Europe/Berlin"), None, "2026-11-01T00:00:00+01:00"),
    Form("day-of-25-hours", voxys("day", "Europe/Berlin"), None, "2026-10-26T00:00:00+01:00"),
    Form("day-of-23-hours", voxys("day", "Europe/Berlin"), None, "2027-03-29T00:00:00+02:00"),
    Form("day-new-york", voxys("day", "America/New_York"), None, "2026-11-02T00:00:00-05:00"),
    Form("midnight-twice", voxys("day", "America/Havana"), None, "2026-11-01T00:00:00-04:00"),
    Form("year-end", voxys("year", "Pacific/Auckland"), None, "2027-01-01T00:00:00+13:00"),
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
    *((form, name) for form in FORMS for name in MOVES),
    *((form, name) for form in SEEN_ONCE for name in ("nothing", "an-hour-fast", "an-hour-slow")),
]


class Life:
    """An eager caller of a vendor that never refuses, through the end of a period."""

    def __init__(self, form: Form, clock: FakeClock, end: float) -> None:
        self.form, self.clock, self.end = form, clock, end
        self.opened: float | None = None

    def run(
        self,
        vendor: FakeVendor,
        moves: tuple[Move, ...],
        make: Callable[[str], Provider] | None = None,
    ) -> None:
        kind = self.form.vendor
        policy = Policy(slack={"critical": 1.0}, cold_reserve=0, max_wait=0)
        began, coming = self.clock.fast(), list(moves)
        provider = (make or kind.make)(vendor.url)
        with (
            Guard(provider, policy=policy, clock=self.clock) as guard,
            guard.client(headers=kind.headers, base_url=vendor.url) as client,
        ):
            while self.clock.fast() < began + BEFORE + AFTER:
                since = self.clock.fast() - began - BEFORE
                while coming and coming[0][0] <= since:
                    coming.pop(0)[1](self.clock)
                self.call(client, vendor)
                self.clock.advance(STEP)

    def call(self, client: httpx.Client, vendor: FakeVendor) -> None:
        path, said = self.form.vendor.call
        for _ in range(EAGER):
            past = len(vendor.past)
            try:
                client.post(path, json=said, extensions=CRITICAL)
            except Refusal:
                return
            if past and self.opened is None:
                self.opened = self.clock.fast()


class EarlyEnd(FullContact):
    """A vendor that tells an end and then does not keep it: it turns two hours later."""

    LATE = 2 * HOUR

    def read_stats(self, outcome: Outcome) -> Reading:
        reading = super().read_stats(outcome)
        period = reading.period
        assert period.end is not None
        return replace(reading, period=replace(period, end=period.end - self.LATE))


@pytest.fixture
def clock(form: Form, request: pytest.FixtureRequest) -> FakeClock:
    """Return a clock that begins shortly before the end of the form's period."""
    end = datetime.fromisoformat(form.end)
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    kind = TickingClock if getattr(request, "param", "") == "ticks" else FakeClock
    return kind(end.timestamp() - BEFORE)


@pytest.fixture
def vendor(form: Form, clock: FakeClock) -> Iterator[FakeVendor]:
    """Serve a vendor that bills what comes past the quota, and finds everybody."""
    knobs = {**form.vendor.knobs, **form.knobs}
    usual = {"quota": QUOTA, "overage": True, "clock": clock, "lag": 30.0}
    with fake(form.vendor.fake, **usual, **knobs) as vendor:
        yield vendor


def check(life: Life, vendor: FakeVendor, began: float) -> None:
    """No period has more than its quota, both were used up, and the new one was open soon."""
    meter = life.form.vendor.meter
    whole = [past[meter] for past in vendor.past] + [vendor.true[meter]]
    assert max(whole) <= QUOTA
    assert whole[:2] == [QUOTA, QUOTA]
    assert life.opened is not None
    asleep = 8 * HOUR  # nobody calls while the machine sleeps
    assert life.opened - began - BEFORE <= HOUR + asleep


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
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_clock_that_ticks_coarsely(form: Form, clock: FakeClock, vendor: FakeVendor) -> None:
    """Two things at one tick have no order; the marker is taken strictly before."""
    began = clock.fast()
    life = Life(form, clock, began + BEFORE)
    life.run(vendor, ())
    check(life, vendor, began)


@pytest.mark.parametrize("form", FORMS[:1], ids=lambda form: form.name)
def test_a_vendor_that_does_not_turn_when_it_said(
    form: Form, clock: FakeClock, vendor: FakeVendor
) -> None:
    """An end in the past opens nothing, as in the documented example of one: a reading does.

    Octanist's seed shows a period that ended nine days before the answer.
    """
    began = clock.fast()
    life = Life(form, clock, began + BEFORE)
    life.run(vendor, (), lambda url: EarlyEnd("test-key", base_url=url))
    check(life, vendor, began)
