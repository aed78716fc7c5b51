"""No secret anywhere (I16): canaries in header, query, body and URL, everything at DEBUG.

Whatever the guard logs, raises, shows or tells is searched for them; so are the
tracebacks with the values of every local variable that our own frames hold.
"""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Iterator

import httpx
import pytest
import structlog

from quotaguard import FullContact, Guard, Policy, ProviderError, Refusal
from quotaguard.quota.events import Event
from quotaguard.quota.secret import Secret
from quotaguard.testing import FakeClock, fake
from quotaguard.testing.fullcontact import FakeFullContact

KEY = "canary-key-5e1c"
BODY = "canary-body-93aa"
QUERY = "canary-query-c0de"
HEADER = "canary-header-77f0"
SECRETS = (KEY, BODY, QUERY, HEADER)
MATCHES = "person.enrichment.matches"


class Heard(logging.Handler):
    """Keeps every line of our own loggers, as text with all that was attached."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.__dict__}")


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Listen to quotaguard's logger at DEBUG."""
    handler, logger = Heard(), logging.getLogger("quotaguard")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def shown(error: BaseException) -> str:
    """Return all that a crash reporter would send of *error*: causes and our locals."""
    said = [repr(error), str(error), repr(error.__dict__)]
    lines = traceback.TracebackException.from_exception(error, capture_locals=False)
    said.extend(lines.format())
    step: BaseException | None = error
    while step is not None:
        said += [repr(step), str(step), repr(step.__dict__)]
        for frame, _ in traceback.walk_tb(step.__traceback__):
            if "/quotaguard/" in frame.f_code.co_filename:
                said += [repr(value) for value in frame.f_locals.values() if not wire(value)]
        step = step.__cause__ or step.__context__
    return "\n".join(said)


def wire(value: object) -> bool:
    """Whether *value* is httpx's own record of the request, which httpx shows."""
    return type(value).__module__.startswith("httpx")


def canaries(text: str) -> list[str]:
    """Return the secrets in *text*."""
    return [secret for secret in SECRETS if secret in text]


def send(guard: Guard, vendor: FakeFullContact) -> httpx.Response:
    """Make a guarded call with a canary wherever one can be."""
    with guard.client() as client:
        return client.post(
            f"{vendor.url}/v3/person.enrich?apiKey={QUERY}",
            headers={"Authorization": f"Bearer {KEY}", "Reporting-Key": HEADER},
            json={"email": f"{BODY}@example.com"},
            extensions={"quotaguard": {"priority": "critical", "max_wait": 0}},
        )


FAULTS = ["403", "429", "429-quota", "500", "503", "garbage", "truncated", "reset", "close", None]
STATS = [None, "500", "403", "html", "garbage", "truncated", "huge", "redirect", "nan", "close"]


def test_no_secret_is_logged_told_shown_or_raised(heard: Heard) -> None:
    """Through every answer and every fault, of calls and of polls."""
    clock = FakeClock()
    told: list[Event] = []
    said: list[str] = []
    with fake(
        "fullcontact", quota=4, key=KEY, clock=clock, faults=FAULTS, stats_faults=STATS
    ) as vendor:
        policy = Policy(lag=1, late=1, cold_reserve=0, max_wait=0)
        provider = FullContact(KEY, base_url=vendor.url)
        guard = Guard(provider, policy=policy, clock=clock, listeners=[told.append])
        for _ in range(40):
            try:
                answer = send(guard, vendor)
                said += [repr(answer.extensions["quotaguard"]), repr(answer)]
            except (Refusal, httpx.TransportError) as error:
                said.append(shown(error) if isinstance(error, Refusal) else "")
            try:
                guard.refresh()
            except ProviderError as error:
                said.append(shown(error))
                said.append(repr(pickle.loads(pickle.dumps(error))))  # noqa: S301 - our own
            clock.advance(400)
        said += [repr(guard), repr(provider), repr(vars(guard))]
        for picture in (guard.standing(), guard.forecast()):
            said += [repr(picture), repr(picture.rows), picture.account]
        said += [repr(event) for event in told]
        said.append(repr(guard._spending.holder.books.state()))
    assert len(heard.lines) > 40
    assert {type(event).__name__ for event in told} >= {"Refused", "PollFailed", "Settled"}
    assert canaries("\n".join(said)) == []
    assert canaries("\n".join(heard.lines)) == []


def test_no_secret_reaches_a_configured_structlog() -> None:
    """The same through structlog, rendered as the application would."""
    clock, out = FakeClock(), io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(out))
    try:
        knobs = {"quota": 2, "match_rate": 1.0, "faults": ["403", "500"]}
        with fake("fullcontact", key=KEY, clock=clock, **knobs) as vendor:
            policy = Policy(lag=1, late=1, cold_reserve=0, max_wait=0)
            guard = Guard(FullContact(KEY, base_url=vendor.url), policy=policy, clock=clock)
            for _ in range(8):
                try:
                    send(guard, vendor)
                except Refusal:
                    clock.advance(60)
    finally:
        structlog.reset_defaults()
    assert "quota.refused" in out.getvalue()
    assert canaries(out.getvalue()) == []


def test_a_key_has_no_repr_and_does_not_pickle() -> None:
    """What holds a key shows itself nowhere and travels nowhere."""
    secret = Secret(KEY)
    assert KEY not in f"{secret!r}{secret}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        pickle.dumps(FullContact(KEY))
