"""What a cost may say: units from 0 upwards, of meters that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from quotaguard.quota.readings import units

if TYPE_CHECKING:
    from quotaguard.quota.calls import Cost
    from quotaguard.quota.readings import Meter

__all__ = ["fault_in", "more_than"]


def fault_in(cost: object, meters: Mapping[str, Meter]) -> str:
    """Return what is wrong with a cost, in words that follow it; nothing where it is right."""
    if not isinstance(cost, Mapping):
        return f"is a {type(cost).__name__} and maps no meters to units"
    for name, value in cost.items():
        meter = meters.get(name)
        if meter is None:
            return f"names the meter {name!r}, which is not declared"
        try:
            count = units(value, meter.scale)
        except ValueError as error:
            return f"of {name} is no number of units: {error}"
        if count < 0:
            return f"of {name} is {value!r}, below 0"
    return ""


def more_than(cost: Cost, most: Cost, meters: Mapping[str, Meter]) -> str | None:
    """Return a meter of which *cost* has more than *most*, None where there is none."""
    for name, value in cost.items():
        scale = meters[name].scale
        if units(value, scale) > units(most.get(name, 0), scale):
            return name
    return None
