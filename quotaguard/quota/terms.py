"""What a policy means for one meter: integer units and plain seconds."""

from __future__ import annotations

from dataclasses import dataclass

from quotaguard.quota.policy import Policy
from quotaguard.quota.readings import Amount, Meter, units

__all__ = ["MeterTerms"]


@dataclass(frozen=True, slots=True)
class MeterTerms:
    """The policy of one meter in integer units and plain seconds.

    lag, late: algorithm.md's D and G. paranoid: its D2, the longest lag that the
    floor trusts and the window in which a fall is not yet a refund.
    """

    meter: Meter
    policy: Policy
    lag: float
    late: float
    paranoid: float
    tick: float
    overage: int
    margin: int | None
    share: float
    max_age: float
    profile: tuple[tuple[float, ...], ...] | None

    @classmethod
    def of(cls, meter: Meter, policy: Policy) -> MeterTerms:
        """Derive the terms of *meter* from the policy that applies to it."""
        lag = float(policy.lag)  # type: ignore[arg-type] # a Policy holds seconds
        fixed: Amount | None = None if policy.margin == "auto" else policy.margin
        share = fixed if fixed is not None and fixed < 1 else 0
        return cls(
            meter=meter,
            policy=policy,
            lag=lag,
            late=float(policy.late),  # type: ignore[arg-type] # a Policy holds seconds
            paranoid=max(900.0, 5.0 * lag),
            tick=lag / 16.0,
            overage=units(policy.overage, meter.scale, up=False),
            margin=None if fixed is None else units(0 if share else fixed, meter.scale),
            share=float(share),
            max_age=float(policy.max_age),  # type: ignore[arg-type] # as above
            profile=policy.profile,  # type: ignore[arg-type] # as above, of tuples
        )

    @property
    def resets(self) -> bool:
        """Whether a new period starts the count anew: a level only falls by deletions."""
        return self.meter.kind == "counter"

    @property
    def settled(self) -> float:
        """Seconds after the last resolution at which a poll is exact: lag and a bit."""
        return self.lag + self.tick + min(1.0, max(0.01, self.lag / 60.0))
