"""Events as log lines, and the quota in the application's own lines.

Every guard has a `LogListener` of its own; nothing needs to be set up.

structlog if the application configured it, otherwise stdlib logging under the logger
``quotaguard``. Nothing here configures either, and nothing prints: structlog is always
installed with us, and unconfigured it would write to everybody's stdout.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from quotaguard.errors import ConfigError
from quotaguard.quota.events import (
    Degraded,
    Delayed,
    Drifted,
    Event,
    PeriodTurned,
    Polled,
    PollFailed,
    Refused,
    Released,
    Reserved,
    Settled,
    ThresholdCrossed,
)
from quotaguard.quota.standing import Row, Standing

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["LogListener", "QueryRedactor", "Stands", "add_quota"]

LEVELS: Final[Mapping[type[Event], int]] = {
    Reserved: logging.DEBUG,
    Settled: logging.DEBUG,
    Released: logging.DEBUG,
    Delayed: logging.INFO,
    Polled: logging.INFO,
    PeriodTurned: logging.INFO,
    Drifted: logging.INFO,
    Refused: logging.WARNING,
    ThresholdCrossed: logging.WARNING,
    PollFailed: logging.WARNING,
    Degraded: logging.WARNING,
}
"""How loud each event is; one that is not named here is INFO."""

TEXT_CAP: Final = 200
"""Characters of one text in a line: a provider's words may be long, or meant to harm."""

_LOGGER: Final = logging.getLogger("quotaguard")
# Without a handler anywhere, logging would print warnings to stderr by itself.
_LOGGER.addHandler(logging.NullHandler())


class LogListener:
    """A listener that writes each event as one line.

    The line is named ``quota.`` and the event: ``quota.refused``,
    ``quota.threshold_crossed``. Its keys are the event's fields. structlog gets
    them as keys; stdlib logging as ``key=value`` and as ``record.quota``, a dict.
    Which of the two is decided at the first event and stays.
    """

    def __init__(self) -> None:
        self._decided = False
        self._structlog: ModuleType | None = None
        self._asked: tuple[object, Any] = (None, None)

    def __call__(self, event: Event) -> None:
        """Write *event*, unless its level is off."""
        if not self._decided:
            self._structlog = _configured_structlog()
            self._decided = True
        level = LEVELS.get(type(event), logging.INFO)
        if self._structlog is not None:
            speak = getattr(_bound(self._structlog), logging.getLevelName(level).lower())
            speak(_name(type(event).__name__), **_facts(event))
        elif _LOGGER.isEnabledFor(level):
            facts = _facts(event)
            # The name stays in the format, by which collectors group lines.
            form = f"{_name(type(event).__name__)} %s"
            _LOGGER.log(level, form, _line(facts), extra={"quota": facts})

    @property
    def wants_calls(self) -> bool:
        """Whether the events of every single call would be seen at all.

        Reserved, Settled and Released need not even be made where it is False.
        """
        chosen = self._structlog if self._decided else _configured_structlog()
        if chosen is None:
            return _LOGGER.isEnabledFor(logging.DEBUG)
        # Binding costs more than asking, so it is done once for each configuration.
        settings = chosen.get_config()
        configured = settings["wrapper_class"], settings["logger_factory"]
        known, logger = self._asked
        if known != configured:
            logger = _bound(chosen)
            self._asked = (configured, logger)
        # By the class: structlog's generic logger takes any unknown name for a level,
        # and asking it would write a line.
        for name in ("is_enabled_for", "isEnabledFor"):
            if hasattr(type(logger), name):
                return bool(getattr(logger, name)(logging.DEBUG))
        return True


def _configured_structlog() -> ModuleType | None:
    # Who never imported structlog cannot have configured it; importing it takes 20 ms.
    module = sys.modules.get("structlog")
    return module if module is not None and module.is_configured() else None


def _bound(structlog: ModuleType) -> Any:  # noqa: ANN401 - as the application configured it
    settings = structlog.get_config()
    if hasattr(settings["wrapper_class"], "sync_bl"):
        # AsyncBoundLogger cannot be made without a running loop, and must be awaited.
        wrapped, calm = settings["logger_factory"]("quotaguard"), structlog.stdlib.BoundLogger
        return structlog.wrap_logger(wrapped, wrapper_class=calm).bind()
    return structlog.get_logger("quotaguard").bind()


@functools.cache
def _name(kind: str) -> str:
    return "quota." + re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()


_NAMES: Final = frozenset(_name(kind.__name__) for kind in LEVELS)


def _facts(event: Event) -> dict[str, Any]:
    return {field.name: _plain(getattr(event, field.name)) for field in dataclasses.fields(event)}


def _plain(value: object) -> Any:  # noqa: ANN401 - anything that JSON knows
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if type(value).__name__ == "Decimal":
        return float(str(value))
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
    return _text(str(value))


def _text(value: str) -> str:
    """Return *value* on one line, without what could drive a terminal, and not too long."""
    cut = value[:TEXT_CAP]
    if not cut.isprintable():
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
        cut = "".join(shown)
    return cut if len(cut) <= TEXT_CAP and len(value) <= TEXT_CAP else cut[: TEXT_CAP - 1] + "…"


_BARE: Final = re.compile(r'[^\s"=\\]+')


def _line(facts: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_word(value)}" for key, value in facts.items())


def _word(value: object) -> str:
    """Return *value* for a ``key=value`` line: no text can pretend to be another key."""
    if isinstance(value, Mapping):
        value = ",".join(f"{key}:{item}" for key, item in value.items())
    word = str(value)
    if _BARE.fullmatch(word):
        return word
    quoted = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


class Stands(Protocol):
    """A guard, as far as `add_quota` needs one."""

    def standing(self) -> Standing:
        """Return how the meters stand, without a poll."""


_Lines = MutableMapping[str, Any]


def add_quota(guard: Stands, meter: str | None = None) -> Callable[[Any, str, _Lines], _Lines]:
    """Return a structlog processor that adds the quota to the application's own lines.

    The keys are ``quota_meter``, ``quota_used``, ``quota_limit`` and
    ``quota_headroom``, of *meter*, or of the meter with the smallest share of its
    limit left. A key that the line has already stays. The processor never polls
    and never raises; it adds nothing while nothing is known.
    """

    def add(_logger: Any, _method: str, line: _Lines) -> _Lines:  # noqa: ANN401 - structlog's
        # Our own lines say it already, and may be written while the guard is at work.
        if line.get("event") in _NAMES:
            return line
        try:
            # A guard of a shared ledger tells what it saw last: a log line asks no store.
            standing = getattr(guard, "_seen", guard.standing)()
            row = standing.tightest if meter is None else standing.by_meter.get(meter)
            facts = {} if row is None else _quota(row)
        except Exception:  # noqa: BLE001 - the application's line matters more than ours
            return line
        for key, value in facts.items():
            line.setdefault(key, value)
        return line

    return add


def _quota(row: Row) -> dict[str, Any]:
    if row.read_at is None and row.limit is None:
        return {}  # only our own count is known, and nothing to measure it by
    return {
        "quota_meter": _text(row.meter),
        "quota_used": _plain(row.used),
        "quota_limit": _plain(row.limit),
        "quota_headroom": _plain(row.headroom),
    }


QUERY_KEYS: Final = ("apiKey", "api_key", "access_token", "key", "token")


class QueryRedactor(logging.Filter):
    """A logging filter that blanks keys in the queries of URLs.

    httpx logs every URL in full at INFO, and with it any key that travels in the
    query. Nothing installs this filter by itself:

        logging.getLogger("httpx").addFilter(QueryRedactor())

    A filter of a logger does not see what the logger's children write; put it on
    a handler to have it see everything. A record with a key in it is rendered:
    its ``args`` are gone afterwards. Tracebacks are left as they are.

    names: the query keys, in any case.

    Raises:
        ConfigError: there are no names.
    """

    def __init__(self, names: Iterable[str] = QUERY_KEYS) -> None:
        super().__init__()
        wanted = [names] if isinstance(names, str) else list(names)
        if not all(wanted) or not wanted:
            raise ConfigError("QueryRedactor needs the names of query keys, such as 'apiKey'")
        either = "|".join(map(re.escape, wanted))
        self._keys = re.compile(rf"([?&;](?:{either})=)[^&;#\s\"'<>]+", re.IGNORECASE)

    def filter(self, record: logging.LogRecord) -> bool:
        """Blank the keys in *record* and let it pass."""
        try:
            said = record.getMessage()
        except Exception:  # noqa: BLE001 - a broken line is for logging to report
            return True
        # The whole line, since a key may come from an argument and its name from the
        # format, or both from a URL object.
        clean = self._keys.sub(r"\1***", said)
        if clean != said:
            record.msg, record.args = clean, None
        return True
