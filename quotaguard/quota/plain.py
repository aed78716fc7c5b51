"""Numbers as JSON can carry them: it has no infinity, and no tuples."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["heard", "told"]

_TOLD = {math.inf: "inf", -math.inf: "-inf"}
_HEARD = {"inf": math.inf, "-inf": -math.inf}


def told(value: Any) -> Any:  # noqa: ANN401 - scalars and lists of them
    """Return *value* with its infinities named."""
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    return _TOLD.get(value, value) if isinstance(value, float) else value


def heard(value: Any) -> Any:  # noqa: ANN401 - scalars and lists of them
    """Return what `told` was given; tuples have become lists."""
    if isinstance(value, list):
        return [heard(item) for item in value]
    return _HEARD.get(value, value) if isinstance(value, str) else value
