"""What users give a provider, checked when it is built: choices, budgets, prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from quotaguard.errors import ConfigError
from quotaguard.quota.calls import Cost
from quotaguard.quota.fields import MOST_COUNT, whole
from quotaguard.quota.readings import Meter, units
from quotaguard.quota.routes import is_route

__all__ = ["MOST_MONEY", "budget", "chosen", "identity", "mapping", "own_prices"]

MOST_MONEY = MOST_COUNT // 1000
"""Units of a meter with fractions: in millionths they still fit 64 bits, as stores have."""

_NAME = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*")


def identity(said: object) -> int | None:
    """Return an id in a request, which may be written as text; None where it is none."""
    if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 19:
        return int(said)
    return whole(said)


def chosen(choices: object, **ranges: tuple[float, float]) -> None:
    """Check a record of choices: fields of a Literal type, and numbers by their *ranges*.

    Raises:
        ConfigError: a value is not allowed.
    """
    for name, hint in get_type_hints(type(choices)).items():
        value, allowed = getattr(choices, name), get_args(hint)
        if allowed and value not in allowed:
            msg = f"{name} is one of {', '.join(map(str, allowed))}, not {value!r}"
            raise ConfigError(msg)
    for name, (least, most) in ranges.items():
        value = getattr(choices, name)
        if type(value) not in (int, float) or not least <= value <= most:
            msg = f"{name} is a number from {least:g} to {most:g}, not {value!r}"
            raise ConfigError(msg)


def mapping(name: str, given: object) -> dict[Any, Any]:
    """Return the argument *name* as a dict, an empty one where it was left out.

    Raises:
        ConfigError: it is no mapping.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    msg = f"{name} is a dict, not a {type(given).__name__}"
    raise ConfigError(msg)


def budget(meter: Meter, limit: object) -> int | None:
    """Return the limit that a user sets for *meter* in integer units; None stays None.

    Raises:
        ConfigError: it is no number from 0 upwards.
    """
    if limit is None:
        return None
    try:
        counted = units(limit, meter.scale, up=False)  # type: ignore[arg-type] # checked there
    except ValueError:
        counted = -1
    if not 0 <= counted <= (MOST_COUNT if meter.scale == 1 else MOST_MONEY * meter.scale):
        msg = f"the limit of {meter.name} is a number from 0 upwards, or None, not {limit!r}"
        raise ConfigError(msg)
    return counted


def own_prices(operations: object, meters: Mapping[str, Meter]) -> dict[str, Cost]:
    """Return what a user says that calls cost, by the name of an operation or by a route.

    A route's own form is checked where it is added.

    Raises:
        ConfigError: it is no such mapping, or a cost names other meters or no units.
    """
    own = mapping("operations", operations)
    for name, cost in own.items():
        if not isinstance(name, str) or not (is_route(name) or _NAME.fullmatch(name)):
            msg = f'{name!r} names no operation; write "leads.create", or a route: "POST leads"'
            raise ConfigError(msg)
        _check(name, cost, meters)
    return {name: MappingProxyType(dict(cost)) for name, cost in own.items()}


def _check(name: str, cost: object, meters: Mapping[str, Meter]) -> None:
    if not isinstance(cost, Mapping) or not cost:
        msg = f'the cost of {name!r} maps meters to units, {{"{next(iter(meters))}": 1}}'
        raise ConfigError(msg)
    for meter, value in cost.items():
        if meter not in meters:
            msg = f"the cost of {name!r} names {meter!r}; there are {', '.join(meters)}"
            raise ConfigError(msg)
        try:
            fit = units(value, meters[meter].scale) >= 0
        except ValueError:
            fit = False
        if not fit:
            msg = f"the cost of {name!r} in {meter} is a number from 0 upwards, not {value!r}"
            raise ConfigError(msg)
