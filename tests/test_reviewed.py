"""What a reviewer found, each as the smallest example that showed it."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import pytest

from quotaguard import ConfigError, FullContact, Guard, MemoryLedger, Policy, QuotaExhausted
from quotaguard.quota.entries import Pause
from quotaguard.quota.events import Event, ThresholdCrossed
from quotaguard.testing import FakeClock, disabled, fake

MATCHES = "person.enrichment.matches"
PLAIN = Policy(lag=10, late=10, cold_reserve=0)


def go(guard: Guard, count: int = 1) -> None:
    """Make one critical call that is billed."""
    with guard.reserve({MATCHES: count}, priority="critical", max_wait=0) as reservation:
        reservation.settle()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_two_threads_may_fork_at_once() -> None:
    """Neither leaves a lock behind that nobody opens."""
    with fake("fullcontact", quota=None, key="k") as vendor:
        guard = Guard(FullContact("k", base_url=vendor.url), policy=PLAIN)
        go(guard)
        failures: list[BaseException] = []

        def forks() -> None:
            try:
                for _ in range(15):
                    child = os.fork()
                    if child == 0:
                        os._exit(0)
                    os.waitpid(child, 0)
            except BaseException as error:  # noqa: BLE001 - asserted below
                failures.append(error)

        threads = [threading.Thread(target=forks) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not failures
        assert not any(thread.is_alive() for thread in threads)
        go(guard)


def test_a_refusal_of_one_policy_is_none_of_another() -> None:
    """Guards of one account that allow more are not refused from memory."""
    clock = FakeClock()
    ledger = MemoryLedger(clock=clock)
    with fake("fullcontact", quota=5, overage=True, key="k", clock=clock) as vendor:
        provider = FullContact("k", base_url=vendor.url)
        strict = Guard(provider, ledger=ledger, clock=clock, policy=PLAIN)
        more = Guard(provider, ledger=ledger, clock=clock, policy=PLAIN.but(overage=3))
        shadow = Guard(provider, ledger=ledger, clock=clock, policy=PLAIN.but(shadow=True))
        for _ in range(5):
            go(strict)
        for _ in range(2):
            with pytest.raises(QuotaExhausted):
                go(strict)
        assert more.check({MATCHES: 1}, priority="critical")
        for _ in range(3):
            go(more)
        with pytest.raises(QuotaExhausted):
            go(more)
        go(shadow)
        assert strict.standing()[MATCHES].used == 9


def test_ctrl_c_in_a_listener_loses_no_unit() -> None:
    """What was granted and never owned is given up, and comes back."""
    clock = FakeClock()

    def stop(event: Event) -> None:
        if isinstance(event, ThresholdCrossed) and not stopped:
            stopped.append(event)
            raise KeyboardInterrupt

    stopped: list[Event] = []
    with fake("fullcontact", quota=4, key="k", clock=clock) as vendor:
        provider = FullContact("k", base_url=vendor.url)
        guard = Guard(provider, policy=PLAIN, clock=clock, listeners=[stop])
        with pytest.raises(KeyboardInterrupt):
            go(guard, 4)
        guard.standing()
        clock.advance(25)
        assert guard.refresh()[MATCHES].headroom == 4


def test_check_says_yes_where_the_call_would_poll_first() -> None:
    """An application that only checks is not shut out for ever."""
    clock = FakeClock()
    with fake("fullcontact", quota=2, key="k", clock=clock) as vendor:
        guard = Guard(FullContact("k", base_url=vendor.url), policy=PLAIN, clock=clock)
        assert guard.check({MATCHES: 1})
        go(guard)
        go(guard)
        assert not guard.check({MATCHES: 1}, priority="critical")
        clock.advance(901)
        decision = guard.check({MATCHES: 1}, priority="critical")
        assert decision
        assert decision.reason == "a poll comes first"
        with disabled():
            assert guard.check({MATCHES: 50}, priority="critical")


def test_calls_without_a_priority_need_no_normal_one() -> None:
    """Who names priorities of his own gets the lowest for calls that name none."""
    policy = Policy(slack={"gold": 1.0, "silver": 0.5})
    assert policy.slack["normal"] == 0.5
    clock = FakeClock()
    with fake("fullcontact", quota=10, key="k", clock=clock) as vendor:
        guard = Guard(FullContact("k", base_url=vendor.url), policy=policy, clock=clock)
        with guard.reserve({MATCHES: 1}) as reservation:
            reservation.settle()


@pytest.mark.parametrize("setting", [{"shadow": True}, {"max_wait": 5}, {"on_exhausted": "wait"}])
def test_what_is_for_the_whole_account_is_for_no_single_meter(setting: dict[str, object]) -> None:
    """A setting that would do nothing is told when it is built."""
    with pytest.raises(ConfigError, match="whole account"):
        Policy(meters={MATCHES: Policy(**setting)})  # type: ignore[arg-type]


class Waits:
    """Somebody who waits, or did."""

    def __init__(self, *, there: bool) -> None:
        self.there = there
        self.woken = 0

    def wake(self) -> bool:
        self.woken += 1
        return self.there


def test_a_waiter_whose_loop_is_gone_is_passed_over() -> None:
    """News goes to the next who can hear it."""
    clock = FakeClock()
    with fake("fullcontact", quota=10, key="k", clock=clock) as vendor:
        guard = Guard(FullContact("k", base_url=vendor.url), policy=PLAIN, clock=clock)
        line = guard._spending.holder.queue
        gone, there, behind = Waits(there=False), Waits(there=True), Waits(there=True)
        for place, waiter in enumerate((gone, there, behind)):
            line.stand((-1.0, place), frozenset({MATCHES}), waiter)
        line.wake()
        assert (gone.woken, there.woken, behind.woken) == (1, 1, 0)
        assert line.busy == [(-1.0, 1), (-1.0, 2)]


def test_a_short_pause_refuses_no_call_that_waits_for_nothing() -> None:
    """A server that paces by itself for up to a second is no reason to refuse."""
    clock = FakeClock()
    with fake("fullcontact", quota=10, key="k", clock=clock) as vendor:
        guard = Guard(FullContact("k", base_url=vendor.url), policy=PLAIN, clock=clock)
        go(guard)
        guard._spending.post(Pause(0.2))
        go(guard)
        guard._spending.post(Pause(20.0))
        with pytest.raises(TimeoutError):
            go(guard)


def test_max_wait_may_be_a_timedelta_in_every_call() -> None:
    """Also in the one that is refused from memory."""
    clock = FakeClock()
    with fake("fullcontact", quota=1, key="k", clock=clock) as vendor:
        guard = Guard(FullContact("k", base_url=vendor.url), policy=PLAIN, clock=clock)
        go(guard)
        for _ in range(3):
            with (
                pytest.raises(QuotaExhausted),
                guard.reserve({MATCHES: 1}, priority="critical", max_wait=timedelta(seconds=1)),
            ):
                pass
