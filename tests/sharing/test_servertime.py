"""What is known of a server's clock from its answers: exact bounds, and when they are void."""

from __future__ import annotations

import random

import pytest

from quotaguard.sharing.servertime import DRIFT, STALE_SECONDS, Sample, ServerTime

ERA = "era"


def heard(*samples: tuple[float, float, float]) -> ServerTime:
    """Return what is known after these answers."""
    times = ServerTime()
    for sample in samples:
        times.note(Sample(*sample), ERA)
    return times


def test_nothing_is_known_of_a_server_that_has_not_answered() -> None:
    """Then it must be asked."""
    assert ServerTime().stale(5)


def test_an_answer_bounds_the_clock() -> None:
    """Its time was read between sending and receiving."""
    assert heard((1000, 10, 10.5)).between(10.5) == pytest.approx((1000, 1000.5 + DRIFT / 2))


def test_bounds_part_with_time() -> None:
    """Two clocks do not go quite the same."""
    slow, fast = heard((1000, 10, 10)).between(20)
    assert (slow, fast) == pytest.approx((1010 - 10 * DRIFT, 1010 + 10 * DRIFT))


def test_the_tightest_of_the_last_answers_counts() -> None:
    """An answer that took long does not undo one that did not."""
    slow, fast = heard((1000, 10, 10.001), (1000.5, 10.01, 11)).between(11)
    assert fast - slow < 0.01


def test_a_clock_that_was_set_is_believed_at_once() -> None:
    """What came before contradicts it, and is forgotten."""
    for jump in (-3600, 3600):
        times = heard((1000, 10, 10.001), (1001 + jump, 11, 11.001))
        assert times.between(11.001) == pytest.approx((1001 + jump, 1001.001 + jump), abs=1e-5)


def test_another_server_has_another_clock() -> None:
    """However near it is to the one before."""
    times = heard((1000, 10, 10.001))
    times.note(Sample(1001, 11, 12), "another")
    assert times.between(12) == pytest.approx((1001, 1002 + DRIFT))
    assert times.era == "another"


def test_what_is_old_is_stale() -> None:
    """A server that was not heard of for a minute may have been set."""
    times = heard((1000, 10, 10))
    assert not times.stale(10 + STALE_SECONDS)
    assert times.stale(10.1 + STALE_SECONDS)


@pytest.mark.parametrize("seed", range(20))
def test_the_true_time_is_always_between(seed: int) -> None:
    """Whatever the trips take, and whichever of two clocks goes faster within the drift."""
    rng = random.Random(seed)
    rate = 1 + rng.uniform(-DRIFT, DRIFT) * 0.99
    times, now = ServerTime(), 0.0
    for _ in range(500):
        sent = now
        asked = sent + rng.choice([0, 0.0001, 0.001, 0.3]) * rng.random()
        now = asked + rng.choice([0, 0.0001, 0.001, 0.3]) * rng.random()
        times.note(Sample(5000 + asked * rate, sent, now), ERA)
        now += rng.choice([0, 0.01, 5, STALE_SECONDS]) * rng.random()
        slow, fast = times.between(now)
        assert slow - 1e-9 <= 5000 + now * rate <= fast + 1e-9
