"""JSON, read without mercy: what a provider sends decides about money.

`json.loads` accepts NaN, turns 1e400 into infinity and lets the last of two equal
keys win; any of them would make a quota of something that is none.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["load"]

DIGITS = 4300
"""Python's own limit on integers in text, also where an application has lifted it."""

DEEPEST = 64
"""Levels of nesting. Deeper ones load or fail by how deep the caller's stack is."""


def _constant(_name: str) -> NoReturn:
    msg = "NaN and Infinity are not JSON"
    raise ValueError(msg)


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        msg = "a number has too many digits"
        raise ValueError(msg)
    return int(text)


def _fraction(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        msg = "a number is too large"
        raise ValueError(msg)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "an object has the same key twice"
        raise ValueError(msg)
    return members


_DECODER = json.JSONDecoder(
    parse_constant=_constant,
    parse_int=_integer,
    parse_float=_fraction,
    object_pairs_hook=_members,
)


def _children(node: object) -> list[Any]:
    if type(node) is dict:
        return list(node.values())
    return node if type(node) is list else []


def _too_deep(value: object) -> bool:
    layer = [value]
    for _ in range(DEEPEST):
        inner = (child for node in layer for child in _children(node))
        layer = [child for child in inner if type(child) in (dict, list)]
        if not layer:
            return False
    return True


def _parse(body: bytes) -> tuple[object, str]:
    """Return the value and no fault, or what is wrong in words that quote nothing."""
    try:
        text = body.decode("utf-8")
        value: object = _DECODER.decode(text)
        if text.count("[") + text.count("{") > DEEPEST and _too_deep(value):
            return None, "it is nested too deeply"
        if "\\u" in text:
            # Half a surrogate pair loads, and fails where it is logged or stored.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        return None, "it is not UTF-8"
    except json.JSONDecodeError:
        return None, "it is not JSON"
    except ValueError as error:
        return None, str(error)
    except RecursionError:
        return None, "it is nested too deeply"
    return value, ""


def load(body: bytes) -> object:
    """Return the JSON value in *body*: UTF-8 without a byte order mark.

    Refused besides what is not JSON: NaN and infinities, numbers that overflow
    to them, integers of more than 4,300 digits, the same key twice in any object,
    half surrogate pairs, more than 64 levels of nesting. The size of *body* is
    the caller's business.

    Raises:
        ValueError: what is wrong, without a word of the body. It is raised where
            no decoder's error is its context, since those carry the whole text.
    """
    value, fault = _parse(body)
    if fault:
        raise ValueError(fault)
    return value
