"""The provider's own time: by the dates of its answers, not by a clock that people set.

A wall clock may be set, wrong or asleep; a period that we begin too early is an
overshoot, and one that we begin too late blocks. The clock that can only run fast never
jumps, so what is kept is how far the provider's time is ahead of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from quotaguard.quota.readings import Moment

__all__ = ["ahead_by", "theirs"]

KEPT = 9
"""Dates that are kept; their median bears four that are wrong."""

RESOLUTION = 1.0
"""Seconds: a ``Date`` (RFC 9110, 6.6.1) has no fractions, so it is half of it early on average."""

BELIEVED = 86_400.0
"""Seconds that a wall clock may plausibly be off. Beyond it nobody knows who is wrong, and
the earlier of the two times is taken."""


def ahead_by(
    ahead: Sequence[float], dated: float | None, asked: Moment, now: Moment
) -> list[float]:
    """Return what is known of the provider's clock, with one more answer dated *dated*."""
    if dated is None:
        return list(ahead)
    return [*ahead, dated + RESOLUTION / 2 - (asked.fast + now.fast) / 2][-KEPT:]


def theirs(ahead: Sequence[float], now: Moment) -> Moment:
    """Return *now* with the provider's time as its wall clock, as far as that is known."""
    if not ahead:
        return now
    # Of two that disagree the earlier one: a period that begins late costs no money.
    wall = now.fast + sorted(ahead)[(len(ahead) - 1) // 2]
    if abs(wall - now.wall) > BELIEVED:
        wall = min(wall, now.wall)
    return now._replace(wall=wall)
