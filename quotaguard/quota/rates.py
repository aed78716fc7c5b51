"""Short windows: how many requests may go in how many seconds, as the user says it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from quotaguard.errors import ConfigError
from quotaguard.quota.readings import NOTHING

__all__ = ["LONGEST_WINDOW", "NO_RATES", "Rate", "RateTerms", "rates_of"]

LONGEST_WINDOW = 3600.0
"""Seconds. What counts for longer is a quota: the provider keeps its count, not we."""

SHORTEST_WINDOW = 0.001

_UNITS: Mapping[str, float] = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

_TEXT = (
    r"\s*(?P<count>[0-9]{1,15})\s*/\s*"
    r"(?:(?P<window>[0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?P<unit>ms|s|m|h)?|(?P<each>ms|s|m|h))\s*"
)
# Compiled when the first rate is read: most policies have none.

_EXAMPLE = 'write COUNT/WINDOW, such as rates=["100/60s", "10/1s"]'


class Rate(NamedTuple):
    """At most so many *requests* of an account in any *window* seconds.

    ``str(rate)`` is the text that means the same, ``100/60s``, however it was written.
    """

    requests: int
    window: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read ``"100/60s"``: a count, and a window in ms, s, m or h; seconds without a unit.

        Raises:
            ConfigError: it is no such text, or the count or the window cannot be.
        """
        if not isinstance(text, str):
            msg = f"rates holds texts, not {type(text).__name__}: {_EXAMPLE}"
            raise ConfigError(msg)
        shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
        found = re.fullmatch(_TEXT, text)
        if found is None:
            msg = f"the rate {shown} cannot be read: {_EXAMPLE}"
            raise ConfigError(msg)
        count = int(found["count"])
        window = float(found["window"] or 1) * _UNITS[found["each"] or found["unit"] or ""]
        if count < 1:
            msg = f"the rate {shown} would let nothing go: {_EXAMPLE}"
            raise ConfigError(msg)
        if not SHORTEST_WINDOW <= window <= LONGEST_WINDOW:
            msg = (
                f"the window of the rate {shown} is not from 1 ms to 1 h: {_EXAMPLE}; what the "
                "provider counts for longer is a quota, which the guard keeps without a rate"
            )
            raise ConfigError(msg)
        return cls(count, window)

    def __str__(self) -> str:
        return f"{self.requests}/{self.window:.12g}s"


_SHOWN = 60


def rates_of(value: Iterable[str | Rate]) -> tuple[Rate, ...]:
    """Return what a policy says, read; a rate that was read before stays as it is.

    Raises:
        ConfigError: it is no sequence of texts, or one of them is no rate.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        msg = f"rates is a list of texts, not {type(value).__name__}: {_EXAMPLE}"
        raise ConfigError(msg)
    return tuple(rate if isinstance(rate, Rate) else Rate.parse(rate) for rate in value)


class RateTerms(NamedTuple):
    """What a guard's policy asks of the books about rates: the same for every entry.

    slack: by priority; the higher goes first. shadow: decide and tell, delay nobody.
    """

    rates: tuple[Rate, ...] = ()
    slack: Mapping[str, float] = NOTHING
    shadow: bool = False


NO_RATES = RateTerms()
