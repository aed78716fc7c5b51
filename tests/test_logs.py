"""Events as log lines: where they go, what they say, and that nothing is printed unasked."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import timeit
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import structlog

from quotaguard.errors import ConfigError, LedgerUnavailable
from quotaguard.logs import LEVELS, TEXT_CAP, LogListener, QueryRedactor, add_quota
from quotaguard.quota import events
from quotaguard.quota.readings import Amount, Period
from quotaguard.quota.standing import Row, Standing

WHO: dict[str, Any] = {"provider": "fullcontact", "account": "0123456789abcdef"}
METER = "person.enrichment.matches"
JUNE = datetime(2026, 6, 1, tzinfo=UTC)

RESERVED = events.Reserved(**WHO, cost=MappingProxyType({METER: 1}), priority="normal")
REFUSED = events.Refused(
    **WHO,
    refusal="QuotaExhausted",
    meter=METER,
    priority="normal",
    requested=1,
    used=5000,
    limit=5000,
    headroom=0,
    retry_after=None,
    resets_at=JUNE,
)
ALL = {
    "quota.reserved": (RESERVED, "DEBUG"),
    "quota.settled": (events.Settled(**WHO, cost={METER: 0}, reserved={METER: 1}), "DEBUG"),
    "quota.released": (events.Released(**WHO, cost={METER: 1}), "DEBUG"),
    "quota.delayed": (
        events.Delayed(**WHO, meter=METER, priority="batch", delay=2.5, reason="line"),
        "INFO",
    ),
    "quota.refused": (REFUSED, "WARNING"),
    "quota.polled": (
        events.Polled(
            **WHO, used={METER: 7}, limit={METER: None}, period_end=JUNE, next_poll=900.0
        ),
        "INFO",
    ),
    "quota.poll_failed": (
        events.PollFailed(
            **WHO, error="StatsUnavailable", reason="refused", failures=1, retry_in=None
        ),
        "WARNING",
    ),
    "quota.threshold_crossed": (
        events.ThresholdCrossed(
            **WHO, meter=METER, threshold=0.8, used=80, limit=100, headroom=20, resets_at=None
        ),
        "WARNING",
    ),
    "quota.period_turned": (
        events.PeriodTurned(**WHO, seen=True, period_start=JUNE, period_end=None),
        "INFO",
    ),
    "quota.drifted": (events.Drifted(**WHO, meter=METER, drift=3, used=9), "INFO"),
    "quota.degraded": (events.Degraded(**WHO, state="stale", reason="old"), "WARNING"),
}


class Lines(logging.Handler):
    """Keeps the records of the logger ``quotaguard``."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Listen to the logger ``quotaguard`` at DEBUG; nothing else is configured."""
    logger, handler = logging.getLogger("quotaguard"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
def configured() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Configure structlog as an application would, and undo it."""
    said: list[dict[str, Any]] = []

    def keep(_logger: object, method: str, line: Any) -> Any:
        said.append({**line, "method": method})
        raise structlog.DropEvent

    def configure(**settings: Any) -> list[dict[str, Any]]:
        structlog.configure(processors=[keep], **settings)
        return said

    yield configure
    structlog.reset_defaults()


def _run(program: str) -> subprocess.CompletedProcess[str]:
    preamble = """
        import sys
        from quotaguard.quota.events import Degraded, Reserved
        EVENT = Degraded(provider="fullcontact", account="0", state="stale", reason="old")
        CALL = Reserved(provider="fullcontact", account="0", cost={}, priority="normal")
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(preamble) + textwrap.dedent(program)],
        # A child process finds what this one found, installed or not.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )


def test_every_event_has_its_case_here() -> None:
    """A new event must be given a level, and a line below."""
    kinds = {kind for name in events.__all__ if (kind := getattr(events, name)) is not events.Event}
    assert kinds == {type(event) for event, _ in ALL.values()} == set(LEVELS)


@pytest.mark.parametrize("name", ALL)
def test_stdlib_gets_each_event_by_its_name_and_level(lines: Lines, name: str) -> None:
    """The line begins with the name, and the record carries every field of the event."""
    event, level = ALL[name]
    LogListener()(event)
    (record,) = lines.records
    assert record.name == "quotaguard"
    assert record.levelname == level
    assert record.msg == f"{name} %s"
    assert record.getMessage().startswith(f"{name} provider=fullcontact account=")
    assert list(record.__dict__["quota"]) == [field.name for field in fields(event)]
    json.dumps(record.__dict__["quota"])


def test_a_refusal_reads_well(lines: Lines) -> None:
    """One line says who, what and when."""
    LogListener()(REFUSED)
    assert lines.records[0].getMessage() == (
        "quota.refused provider=fullcontact account=0123456789abcdef refusal=QuotaExhausted "
        "meter=person.enrichment.matches priority=normal requested=1 used=5000 limit=5000 "
        "headroom=0 retry_after=None resets_at=2026-06-01T00:00:00+00:00 shadow=False"
    )


def test_costs_read_well(lines: Lines) -> None:
    """Units by meter are joined in the text and a plain dict in the record."""
    cost: Mapping[str, Amount] = MappingProxyType({"a": 1, "b": Decimal("2.5")})
    LogListener()(events.Released(**WHO, cost=cost))
    assert lines.records[0].getMessage().endswith(" cost=a:1,b:2.5")
    assert lines.records[0].__dict__["quota"]["cost"] == {"a": 1, "b": 2.5}


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("down\nquota.polled provider=x", r"down\nquota.polled provider=x"),
        ("\x1b[2J\x07\r", r"\x1b[2J\x07\r"),
        ("left\u202eright\u2028next", r"left\u202eright\u2028next"),
        ("half \ud800", r"half \ud800"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("\x00" * 200, r"\x00" * 49 + r"\x0…"),
        ("été 日本", "été 日本"),
    ],
)
def test_texts_stay_on_their_line(lines: Lines, reason: str, told: str) -> None:
    """Control characters are escaped and 200 characters are enough."""
    LogListener()(events.Degraded(**WHO, state="stale", reason=reason))
    record = lines.records[0]
    assert record.__dict__["quota"]["reason"] == told
    assert len(told) <= TEXT_CAP
    assert record.getMessage().isprintable()
    record.getMessage().encode()


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("plain", "reason=plain"),
        ("two words", 'reason="two words"'),
        ("x meter=other", 'reason="x meter=other"'),
        ('x" meter="other', r'reason="x\" meter=\"other"'),
        ('x\\" meter=other', r'reason="x\\\" meter=other"'),
        ("", 'reason=""'),
        ("100%s %(a)s", 'reason="100%s %(a)s"'),
    ],
)
def test_a_text_cannot_pretend_to_be_another_key(lines: Lines, reason: str, told: str) -> None:
    """What has spaces, quotes or equals signs is quoted."""
    LogListener()(events.Degraded(**WHO, state="stale", reason=reason))
    assert f" {told} meter=None" in lines.records[0].getMessage()


def test_meters_named_by_the_user_are_escaped_too(lines: Lines) -> None:
    """Names come from configurations and from answers."""
    LogListener()(events.Released(**WHO, cost={"a\nb": 1}))
    assert lines.records[0].__dict__["quota"]["cost"] == {r"a\nb": 1}


def test_a_level_that_is_off_costs_no_line(lines: Lines) -> None:
    """The logger's level decides, as for any library."""
    logging.getLogger("quotaguard").setLevel(logging.WARNING)
    listener = LogListener()
    for event, _ in ALL.values():
        listener(event)
    assert {record.levelname for record in lines.records} == {"WARNING"}


def test_an_unknown_event_is_information(lines: Lines) -> None:
    """An event of a later version is logged and not lost."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class MoonRose(events.Event):
        phase: object

    LogListener()(MoonRose(**WHO, phase=range(2)))
    assert lines.records[0].getMessage().startswith("quota.moon_rose ")
    assert lines.records[0].levelname == "INFO"
    assert lines.records[0].__dict__["quota"]["phase"] == "range(0, 2)"


@pytest.mark.parametrize("first", ["", "import structlog"])
def test_nothing_is_printed_without_configuration(first: str) -> None:
    """Neither logging's last resort nor an unconfigured structlog writes anything."""
    told = _run(f"""
        {first}
        from quotaguard.logs import LogListener
        listener = LogListener()
        listener(EVENT)
        listener(CALL)
        assert not listener.wants_calls
        assert ("structlog" in sys.modules) is {bool(first)}
    """)
    assert (told.stdout, told.stderr) == ("", "")


def test_a_configured_root_logger_prints_the_line() -> None:
    """The application's basicConfig is all it takes."""
    told = _run("""
        import logging
        import structlog
        logging.basicConfig(level="INFO", format="%(levelname)s %(name)s %(message)s")
        from quotaguard.logs import LogListener
        LogListener()(EVENT)
        LogListener()(CALL)
        assert not structlog.is_configured()
    """)
    assert told.stdout == ""
    assert told.stderr == (
        "WARNING quotaguard quota.degraded provider=fullcontact account=0 "
        "state=stale reason=old meter=None\n"
    )


def test_a_configured_structlog_prints_the_line() -> None:
    """structlog's own output, and none through logging beside it."""
    told = _run("""
        import structlog
        structlog.configure(
            processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()]
        )
        from quotaguard.logs import LogListener
        LogListener()(EVENT)
    """)
    assert told.stderr == ""
    assert json.loads(told.stdout) == {
        "event": "quota.degraded",
        "level": "warning",
        "provider": "fullcontact",
        "account": "0",
        "state": "stale",
        "reason": "old",
        "meter": None,
    }


@pytest.mark.parametrize("name", ALL)
def test_structlog_gets_each_event_by_its_name_and_level(
    configured: Callable[..., list[dict[str, Any]]], lines: Lines, name: str
) -> None:
    """The name is the event, the fields are keys, and logging hears nothing."""
    said = configured()
    event, level = ALL[name]
    LogListener()(event)
    (line,) = said
    assert line.pop("event") == name
    assert line.pop("method") == level.lower()
    assert list(line) == [field.name for field in fields(event)]
    json.dumps(line)
    assert lines.records == []


def test_structlog_values_are_escaped_too(
    configured: Callable[..., list[dict[str, Any]]],
) -> None:
    """A renderer that trusts its values does no harm."""
    said = configured()
    LogListener()(events.Degraded(**WHO, state="stale", reason="a\nb" + "x" * 300))
    assert said[0]["reason"].startswith(r"a\nbxx")
    assert len(said[0]["reason"]) == TEXT_CAP


def test_the_first_event_decides(
    configured: Callable[..., list[dict[str, Any]]], lines: Lines
) -> None:
    """A listener does not change its place in the middle of a run."""
    early = LogListener()
    early(REFUSED)
    said = configured()
    early(REFUSED)
    assert (len(lines.records), len(said)) == (2, 0)
    LogListener()(REFUSED)
    assert (len(lines.records), len(said)) == (2, 1)


def test_being_asked_what_it_wants_decides_nothing(
    configured: Callable[..., list[dict[str, Any]]], lines: Lines
) -> None:
    """A guard may ask before the application has configured its logs."""
    listener = LogListener()
    assert listener.wants_calls
    said = configured()
    listener(REFUSED)
    assert (len(lines.records), len(said)) == (0, 1)


def test_a_later_configuration_is_followed(
    configured: Callable[..., list[dict[str, Any]]],
) -> None:
    """structlog may be configured anew, by a test or a reload."""
    configured()
    listener = LogListener()
    listener(REFUSED)
    with structlog.testing.capture_logs() as captured:
        listener(REFUSED)
    assert captured[0]["event"] == "quota.refused"
    assert captured[0]["meter"] == METER


def test_structlog_over_stdlib_uses_our_logger_name(lines: Lines) -> None:
    """An application that routes structlog into logging filters us by ``quotaguard``."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    try:
        LogListener()(REFUSED)
    finally:
        structlog.reset_defaults()
    assert lines.records[0].name == "quotaguard"
    assert "event='quota.refused'" in lines.records[0].getMessage()


def test_structlogs_async_logger_is_used_synchronously(
    configured: Callable[..., list[dict[str, Any]]],
) -> None:
    """Its methods would have to be awaited, and nobody does."""
    said = configured(
        wrapper_class=structlog.stdlib.AsyncBoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    listener = LogListener()
    listener(REFUSED)
    assert [line["event"] for line in said] == ["quota.refused"]
    assert isinstance(listener.wants_calls, bool)
    assert len(said) == 1


def test_stdlib_wants_calls_at_debug_only(lines: Lines) -> None:
    """The level may change at any time."""
    listener = LogListener()
    assert listener.wants_calls
    logging.getLogger("quotaguard").setLevel(logging.INFO)
    assert not listener.wants_calls
    listener(REFUSED)
    assert not listener.wants_calls


@pytest.mark.parametrize(("level", "wanted"), [(logging.DEBUG, True), (logging.INFO, False)])
def test_a_filtering_structlog_wants_calls_at_debug_only(
    configured: Callable[..., list[dict[str, Any]]], *, level: int, wanted: bool
) -> None:
    """The wrapper class knows its level, and a new one is noticed."""
    configured(wrapper_class=structlog.make_filtering_bound_logger(level))
    listener = LogListener()
    assert listener.wants_calls is wanted
    listener(REFUSED)
    assert listener.wants_calls is wanted
    other = logging.INFO if wanted else logging.DEBUG
    configured(wrapper_class=structlog.make_filtering_bound_logger(other))
    assert listener.wants_calls is not wanted


@pytest.mark.parametrize(("level", "wanted"), [(logging.DEBUG, True), (logging.INFO, False)])
def test_structlog_over_stdlib_wants_calls_at_the_loggers_level(
    configured: Callable[..., list[dict[str, Any]]], lines: Lines, *, level: int, wanted: bool
) -> None:
    """There the level is that of the logger ``quotaguard``."""
    said = configured(
        logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger
    )
    listener = LogListener()
    logging.getLogger("quotaguard").setLevel(level)
    assert listener.wants_calls is wanted
    assert said == []


def test_a_structlog_that_cannot_tell_wants_calls(
    configured: Callable[..., list[dict[str, Any]]],
) -> None:
    """The generic logger would write a line if it were asked, so it is not asked."""
    said = configured(wrapper_class=structlog.BoundLogger)
    assert LogListener().wants_calls
    assert said == []


# The benchmark's figure is 2 us; a shared machine gets room.
def test_asking_what_is_wanted_is_cheap(
    configured: Callable[..., list[dict[str, Any]]],
) -> None:
    """It is asked for every call: a few times 2 us, even on a busy machine."""
    listener = LogListener()
    stdlib = min(timeit.repeat(lambda: listener.wants_calls, number=2000, repeat=5)) / 2000
    configured(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    through = min(timeit.repeat(lambda: listener.wants_calls, number=2000, repeat=5)) / 2000
    assert max(stdlib, through) < 10e-6


# The quota in the application's own lines.


class Guard:
    def __init__(self, *rows: Row, error: Exception | None = None) -> None:
        self.rows, self.error, self.asked = rows, error, 0

    def standing(self) -> Standing:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Standing("fullcontact", "0123456789abcdef", self.rows, 41.0)


def _row(meter: str, used: Amount, limit: Amount | None, headroom: Amount | None) -> Row:
    return Row(meter, used, limit, 0, headroom, 50, Period(), 0.0, JUNE, 0)


LEADS = _row("leads", 10, 100, 90)
MATCHES = _row(METER, 4839, 5000, 111)
USERS = _row("users", 7, None, None)
NEVER = replace(_row("credits", 2, None, None), read_at=None)
CAPPED = replace(_row("credits", 2, 10, 8), read_at=None)


def _line(guard: Guard, meter: str | None = None, **line: object) -> dict[str, Any]:
    own = {"event": "enriched", **line}
    same = add_quota(guard, meter)(None, "info", own)
    assert same is own
    return {key: value for key, value in own.items() if key != "event"}


def test_a_line_gets_the_tightest_meter() -> None:
    """The one with the smallest share of its limit left, in units as the user counts."""
    assert _line(Guard(LEADS, USERS, MATCHES)) == {
        "quota_meter": METER,
        "quota_used": 4839,
        "quota_limit": 5000,
        "quota_headroom": 111,
    }


def test_a_meter_of_nothing_is_the_tightest() -> None:
    """A limit of 0 leaves no share at all, and divides by nothing."""
    assert _line(Guard(MATCHES, _row("none", 0, 0, 0)))["quota_meter"] == "none"


def test_a_limit_of_the_user_is_known_without_a_reading() -> None:
    """Own calls are counted against it from the first one on."""
    assert _line(Guard(CAPPED))["quota_headroom"] == 8


def test_fractional_units_are_plain_numbers() -> None:
    """Money is counted in decimals, and a line is read by machines."""
    line = _line(Guard(_row("credit", Decimal("1.5"), Decimal("2.5"), Decimal(1))))
    assert json.loads(json.dumps(line))["quota_headroom"] == 1


def test_a_line_gets_the_meter_that_was_named() -> None:
    """Even one that is not the tightest, or has no limit."""
    assert _line(Guard(MATCHES, LEADS), "leads")["quota_headroom"] == 90
    assert _line(Guard(MATCHES, USERS), "users") == {
        "quota_meter": "users",
        "quota_used": 7,
        "quota_limit": None,
        "quota_headroom": None,
    }


@pytest.mark.parametrize(
    ("rows", "meter"),
    [((), None), ((NEVER,), None), ((USERS,), None), ((NEVER,), "credits"), ((LEADS,), "other")],
)
def test_nothing_known_adds_nothing(rows: tuple[Row, ...], meter: str | None) -> None:
    """A line without a reading stays as it was."""
    assert _line(Guard(*rows), meter) == {}


@pytest.mark.parametrize(
    "error", [LedgerUnavailable("gone"), RuntimeError("?"), RecursionError("deep")]
)
def test_a_guard_in_trouble_adds_nothing(error: Exception) -> None:
    """The application's line matters more than the quota in it."""
    assert _line(Guard(MATCHES, error=error)) == {}


def test_rows_that_make_no_sense_add_nothing() -> None:
    """A processor must never raise."""
    assert _line(Guard(_row("leads", 1, "many", 2))) == {}  # type: ignore[arg-type]


def test_the_applications_own_keys_stay() -> None:
    """It may have its own idea of a quota."""
    assert _line(Guard(MATCHES), quota_used="mine")["quota_used"] == "mine"


def test_our_own_lines_do_not_ask_the_guard() -> None:
    """They are told while the guard is at work, and say it all themselves."""
    guard = Guard(MATCHES)
    line = add_quota(guard)(None, "info", {"event": "quota.refused"})
    assert line == {"event": "quota.refused"}
    assert guard.asked == 0


def test_add_quota_works_in_structlogs_chain() -> None:
    """As a processor among others."""
    with structlog.testing.capture_logs([add_quota(Guard(MATCHES))]) as captured:
        structlog.get_logger().info("enriched", email_count=3)
    structlog.reset_defaults()
    assert captured[0]["quota_headroom"] == 111
    assert captured[0]["email_count"] == 3


# Keys in the queries of other people's lines.


def _redacted(message: object, *args: object, names: Any = None) -> str:
    record = logging.LogRecord("httpx", logging.INFO, __file__, 1, message, args, None)
    redactor = QueryRedactor() if names is None else QueryRedactor(names)
    assert redactor.filter(record) is True
    return record.getMessage()


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://a.b/c?apiKey=canary", "https://a.b/c?apiKey=***"),
        ("https://a.b/c?x=1&api_key=canary&y=2", "https://a.b/c?x=1&api_key=***&y=2"),
        ("https://a.b/?ACCESS_TOKEN=can%20ary#f", "https://a.b/?ACCESS_TOKEN=***#f"),
        ("https://a.b/?token=canary&key=canary", "https://a.b/?token=***&key=***"),
        ("https://a.b/?monkey=1&keys=2&key=", "https://a.b/?monkey=1&keys=2&key="),
        ("https://a.b/key=1", "https://a.b/key=1"),
    ],
)
def test_keys_in_queries_are_blanked(url: str, clean: str) -> None:
    """In the message, in its arguments, and in a URL object; the rest stays."""
    assert _redacted(f"GET {url} 200") == f"GET {clean} 200"
    assert _redacted("%s %s %d", "GET", url, 200) == f"GET {clean} 200"
    assert _redacted("%s", httpx.URL(url)) == clean
    assert _redacted("%(url)s", {"url": url}) == clean


def test_a_key_apart_from_its_name_is_blanked() -> None:
    """The name may stand in the format and the key in an argument."""
    assert _redacted("GET /x?apiKey=%s&n=%d", "canary", 3) == "GET /x?apiKey=***&n=3"


def test_a_blanked_record_keeps_no_key_in_its_args() -> None:
    """Handlers that write the arguments themselves find none."""
    record = logging.LogRecord("httpx", 20, "", 1, "%s", ("https://a/?key=canary",), None)
    QueryRedactor().filter(record)
    assert "canary" not in repr(record.__dict__)


def test_a_record_without_a_key_is_left_alone() -> None:
    """Its arguments stay for those who group lines by them."""
    record = logging.LogRecord("httpx", 20, "", 1, "%s %s", ("GET", "https://a/?n=1"), None)
    QueryRedactor().filter(record)
    assert (record.msg, record.args) == ("%s %s", ("GET", "https://a/?n=1"))


def test_a_broken_record_passes() -> None:
    """A wrong format is for logging to report."""
    record = logging.LogRecord("httpx", 20, "", 1, "%d", ("key",), None)
    assert QueryRedactor().filter(record) is True


@pytest.mark.parametrize("names", ["sig", ["sig"], ("other", "sig")])
def test_names_are_the_users(names: object) -> None:
    """One name or several; then only those."""
    assert _redacted("/?sig=canary&key=1", names=names) == "/?sig=***&key=1"


def test_names_are_names_and_no_patterns() -> None:
    """A dot in a name is a dot."""
    assert _redacted("/?a.b=canary&axb=1", names=["a.b"]) == "/?a.b=***&axb=1"


@pytest.mark.parametrize("names", [[], [""], ""])
def test_no_names_is_a_mistake(names: object) -> None:
    """A filter that blanks nothing is found when it is built."""
    with pytest.raises(ConfigError, match="names of query keys"):
        _redacted("x", names=names)


def test_httpxs_own_line_is_blanked() -> None:
    """On the logger that httpx writes to, with the line that it really writes."""
    logger, handler, redactor = logging.getLogger("httpx"), Lines(), QueryRedactor()
    level = logger.level
    logger.addHandler(handler)
    logger.addFilter(redactor)
    logger.setLevel(logging.INFO)
    try:
        with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
            client.get("https://api.example/stats", params={"apiKey": "canary", "n": "1"})
    finally:
        logger.setLevel(level)
        logger.removeFilter(redactor)
        logger.removeHandler(handler)
    (record,) = handler.records
    assert "https://api.example/stats?apiKey=***&n=1" in record.getMessage()
    assert "canary" not in repr(record.__dict__)
