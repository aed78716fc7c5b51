"""Policies: checked when they are built, frozen, picklable."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from typing import Any

import pytest

from quotaguard import ConfigError, Policy

EVEN = [[1.0] * 24 for _ in range(7)]


def test_the_defaults_are_those_of_the_contract() -> None:
    """A new user gets free running, a last fifth for critical calls, and no overage."""
    policy = Policy()
    assert dict(policy.slack) == {"critical": 1.0, "normal": 0.8, "batch": 0.5}
    assert (policy.margin, policy.max_wait, policy.on_exhausted) == ("auto", 30.0, "raise")
    assert (policy.lag, policy.late, policy.max_age) == (60.0, 60.0, 3600.0)
    assert (policy.on_stale, policy.on_unknown, policy.cold_reserve) == ("cautious", "closed", 0.05)
    assert (policy.warn_at, policy.poll_every) == ((0.5, 0.8, 0.9, 1.0), (30.0, 900.0))
    assert (policy.overage, policy.shadow, policy.exclusive) == (0, False, False)


def test_steady_spreads_the_month() -> None:
    """The preset changes the slack and takes every other setting."""
    policy = Policy.steady(margin=5)
    assert dict(policy.slack) == {"critical": 1.0, "normal": 0.3, "batch": 0.1}
    assert policy.margin == 5


def test_durations_are_seconds_or_timedeltas() -> None:
    """Both mean the same."""
    policy = Policy(lag=timedelta(minutes=2), poll_every=(timedelta(seconds=5), 60))
    assert (policy.lag, policy.poll_every) == (120.0, (5.0, 60.0))
    assert Policy(poll_budget=(24, timedelta(days=1))).poll_budget == (24, 86_400.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lag": -1},
        {"late": float("nan")},
        {"max_wait": "30"},
        {"max_wait": True},
        {"poll_every": (0, 10)},
        {"poll_every": (20, 10)},
        {"slack": {}},
        {"slack": {"normal": 1.5}},
        {"warn_at": (0,)},
        {"cold_reserve": 2},
        {"overage": -1},
        {"overage": float("inf")},
        {"overage_price": -0.1},
        {"overage_price": float("nan")},
        {"overage_price": float("inf")},
        {"margin": -1},
        {"margin": "much"},
        {"margin": True},
        {"poll_budget": 0},
        {"poll_budget": (0, 60)},
        {"poll_budget": (9, 0)},
        {"poll_budget": (9, -1)},
        {"profile": [[1.0] * 24] * 6},
        {"profile": [[0.0] * 24] * 7},
        {"profile": [[float("nan")] + [1.0] * 23] * 7},
        {"profile": [[float("inf")] + [1.0] * 23] * 7},
        {"profile": [[1e308] * 24] * 7},
        {"on_exhausted": "pray"},
        {"on_stale": "maybe"},
        {"on_unknown": "cautious"},
        {"meters": {"leads": {"margin": 3}}},
        {"meters": {"leads": Policy(meters={"leads": Policy()})}},
    ],
    ids=repr,
)
def test_a_wrong_setting_is_told_when_it_is_built(wrong: dict[str, Any]) -> None:
    """Not at three in the morning."""
    with pytest.raises(ConfigError):
        Policy(**wrong)


def test_a_policy_is_frozen_equal_by_value_and_picklable() -> None:
    """It can be shared, compared, copied and sent to another process."""
    policy = Policy(meters={"leads": Policy(margin=3)}, profile=EVEN)
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301 - our own
    assert copy.deepcopy(policy) == policy
    assert policy.but(margin=7) != policy
    with pytest.raises(AttributeError):
        policy.margin = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        policy.slack["normal"] = 0.1  # type: ignore[index]


def test_a_meter_may_have_settings_of_its_own() -> None:
    """What differs by meter stands under its name."""
    policy = Policy(meters={"leads": Policy(margin=3)})
    assert (policy.of("leads").margin, policy.of("users").margin) == (3, "auto")
