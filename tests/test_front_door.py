"""The front door: the names it hands out, what opening it costs, and the errors."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

import quotaguard
from quotaguard import errors
from quotaguard.errors import (
    ConfigError,
    CostTooLarge,
    LedgerUnavailable,
    ProviderError,
    QuotaExhausted,
    QuotaGuardError,
    QuotaUnknown,
    Refusal,
    RefusalFacts,
    WaitTooLong,
)
from quotaguard.quota.secret import Secret, account_digest

ROOT = Path(__file__).parents[1]
KEY = "sk-live-0123456789abcdef"
RESET = datetime(2026, 12, 1, tzinfo=UTC)

TREE = {
    "QuotaGuardError": "Exception",
    "Refusal": "QuotaGuardError",
    "QuotaExhausted": "Refusal",
    "CostTooLarge": "QuotaExhausted",
    "QuotaUnknown": "Refusal",
    "WaitTooLong": "Refusal",
    "ProviderError": "QuotaGuardError",
    "StatsUnavailable": "ProviderError",
    "StatsForbidden": "ProviderError",
    "StatsUnreadable": "ProviderError",
    "NoSubscription": "ProviderError",
    "LedgerError": "QuotaGuardError",
    "LedgerUnavailable": "LedgerError",
    "ConfigError": "QuotaGuardError",
}
"""The contract: users catch these, so a moved branch breaks them."""

REFUSALS = [Refusal, QuotaExhausted, CostTooLarge, QuotaUnknown, WaitTooLong]
PROVIDER_ERRORS = [
    ProviderError,
    errors.StatsUnavailable,
    errors.StatsForbidden,
    errors.StatsUnreadable,
    errors.NoSubscription,
]


def facts(**changed: object) -> RefusalFacts:
    """Return the facts of a refusal, all of them told."""
    told: dict[str, object] = {
        "provider": "fullcontact",
        "account": account_digest("fullcontact", None, Secret(KEY)),
        "meter": "person.enrichment.matches",
        "requested": 3,
        "limit": 5000,
        "used": 4949,
        "headroom": 1,
        "margin": 50,
        "held": 40,
        "held_for": "critical",
        "retry_after": 12.5,
        "max_wait": 5.0,
        "resets_at": RESET,
        "read_at": datetime(2026, 11, 21, 12, tzinfo=UTC),
        "reason": "the last reading is 2 h old",
    }
    return RefusalFacts(**(told | changed))  # type: ignore[arg-type]


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that *statement* loads in a new interpreter."""
    program = (
        "import json, sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


# -- names --------------------------------------------------------------------


def test_the_names_are_sorted_and_single() -> None:
    """``__all__`` is a list that somebody curates: sorted, nothing twice."""
    assert sorted(set(quotaguard.__all__)) == quotaguard.__all__


@pytest.mark.parametrize("name", quotaguard.__all__)
def test_every_name_is_there(name: str) -> None:
    """Each promised name can be had, and is the thing of that name."""
    assert getattr(quotaguard, name).__name__ == name


def test_dir_shows_the_names() -> None:
    """A prompt completes the lazy names too."""
    assert set(quotaguard.__all__) <= set(dir(quotaguard))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A typo is told like any module tells it."""
    with pytest.raises(AttributeError, match="no attribute 'Gard'"):
        quotaguard.Gard  # noqa: B018 - the access is the test


def test_every_error_is_at_the_front_door() -> None:
    """Whatever can be raised can be caught by a name from ``quotaguard``."""
    assert set(TREE) <= set(quotaguard.__all__)


def test_the_version_is_that_of_the_project() -> None:
    """``__version__`` is what was installed, and what pyproject says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert quotaguard.__version__ == project["version"] == version("quotaguard")


# -- what it costs to open it ---------------------------------------------------


def test_importing_loads_nothing_of_others() -> None:
    """``import quotaguard`` loads the standard library and the package itself, no more."""
    assert loaded_by("import quotaguard") - sys.stdlib_module_names == {"quotaguard"}


def test_the_first_line_of_an_application_stays_light() -> None:
    """The names of the first minute come without the heavy libraries."""
    loaded = loaded_by("from quotaguard import FullContact, Guard, MemoryLedger, Policy")
    assert loaded & {"anyio", "cachetools", "httpx", "rich", "structlog", "typer", "wrapt"} == set()


def test_importing_starts_no_thread() -> None:
    """Nothing runs before a guard has something to do."""
    program = (
        "import threading; from quotaguard import *\n"
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)


# -- the error tree --------------------------------------------------------------


def test_the_error_tree_is_the_contract() -> None:
    """Every error hangs where users expect it, and there is no other."""
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, QuotaGuardError)
    }
    assert real == TREE


def test_the_drawing_shows_the_tree() -> None:
    """The tree in the docstring of `quotaguard.errors` is the real one."""
    branches: list[str] = ["Exception"]
    drawn = {}
    for row in (errors.__doc__ or "").splitlines():
        found = re.match(r"    (?:[│ ]   )*(?:[├└]── )?([A-Z]\w+)(?:  .*)?$", row)
        if found:
            depth = (found.start(1) - 4) // 4
            branches[depth + 1 :] = [found[1]]
            drawn[found[1]] = branches[depth]
    assert drawn == TREE


def test_a_wait_that_is_too_long_is_a_timeout() -> None:
    """Code that knows only ``TimeoutError`` catches WaitTooLong."""
    assert issubclass(WaitTooLong, TimeoutError)


def test_a_wrong_setting_is_a_value_error() -> None:
    """Code that knows only ``ValueError`` catches ConfigError."""
    assert issubclass(ConfigError, ValueError)


def test_a_refusal_is_no_http_error() -> None:
    """Retry layers that catch httpx errors do not hammer a closed door."""
    import httpx

    assert not any(issubclass(kind, httpx.HTTPError | OSError) for kind in REFUSALS[:-1])
    assert not issubclass(WaitTooLong, httpx.HTTPError)


# -- facts -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_shows_every_fact(kind: type[Refusal]) -> None:
    """What was known is there by attribute, under the record's own names."""
    told = facts()
    refusal = kind(told)
    for fact in fields(RefusalFacts):
        assert getattr(refusal, fact.name) == getattr(told, fact.name)


def test_a_refusal_has_no_other_attribute() -> None:
    """A typo in the name of a fact is told."""
    with pytest.raises(AttributeError, match="QuotaUnknown has no attribute 'reset_at'"):
        QuotaUnknown(facts()).reset_at  # noqa: B018 - the access is the test


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("way", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])  # noqa: S301
def test_a_refusal_travels_with_its_facts(kind: type[Refusal], way: object) -> None:
    """Process pools and task queues hand on the same refusal."""
    refusal = kind(facts())
    arrived = way(refusal)  # type: ignore[operator]
    assert type(arrived) is kind
    assert arrived.facts == refusal.facts
    assert str(arrived) == str(refusal)


@pytest.mark.parametrize("kind", PROVIDER_ERRORS)
def test_a_provider_error_travels_with_its_facts(kind: type[ProviderError]) -> None:
    """Process pools and task queues hand on the same provider's fault."""
    error = kind(
        "answered 503",
        provider="octanist",
        status=503,
        code="down",
        path="data.usage",
        retry_after=30.0,
        request_id="r-1",
    )
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(arrived) is kind
    assert vars(arrived) == vars(error)
    assert str(arrived) == str(error)


@pytest.mark.parametrize("kind", [errors.LedgerError, LedgerUnavailable, ConfigError])
def test_a_plain_error_travels(kind: type[QuotaGuardError]) -> None:
    """The errors without facts keep their message."""
    arrived = pickle.loads(pickle.dumps(kind("the disk is full")))  # noqa: S301
    assert type(arrived) is kind
    assert str(arrived) == "the disk is full"


# -- messages ----------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", [12.5, None])
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_says_whose_what_and_what_next(
    kind: type[Refusal], retry_after: float | None
) -> None:
    """The message names the provider and the meter, that nothing was sent, and a way on."""
    said = str(kind(facts(retry_after=retry_after)))
    what, _, after = said.partition("not sent")
    assert "fullcontact" in what
    assert "person.enrichment.matches" in what
    assert re.search(r"[Tt]ry again|resets|Raise|Split|Look at|next poll", after), said


@pytest.mark.parametrize(
    ("kind", "changed", "expected"),
    [
        (QuotaExhausted, {"retry_after": None}, "4,949 of 5,000 units used"),
        (QuotaExhausted, {"retry_after": None}, "50 held back as margin"),
        (QuotaExhausted, {"retry_after": None}, "resets at 2026-12-01 00:00:00 UTC"),
        (QuotaExhausted, {"retry_after": None}, "Policy(overage=...)"),
        (QuotaExhausted, {"retry_after": None, "limit": 0}, "The plan includes none"),
        (QuotaExhausted, {"retry_after": 70.0}, "try again in 70.0 s"),
        (QuotaExhausted, {"retry_after": None, "resets_at": None}, "at an unknown time"),
        (CostTooLarge, {"requested": 9000}, "9,000 units can never fit a limit of 5,000"),
        (QuotaUnknown, {}, "the last reading is 2 h old"),
        (QuotaUnknown, {"reason": ""}, "no reading"),
        (WaitTooLong, {}, "1 units left, 40 held for critical"),
        (WaitTooLong, {}, 'pass with priority="critical"'),
        (WaitTooLong, {"retry_after": None, "held_for": None}, "resets at 2026-12-01"),
    ],
)
def test_a_refusal_tells_what_decides(
    kind: type[Refusal], changed: dict[str, object], expected: str
) -> None:
    """The numbers behind a refusal, and the way on that fits them, are in its message."""
    assert expected in str(kind(facts(**changed)))


@pytest.mark.parametrize("kind", PROVIDER_ERRORS)
def test_a_provider_error_says_whose_what_and_what_next(kind: type[ProviderError]) -> None:
    """The message begins with the provider, cites its request id and ends with advice."""
    said = str(kind("answered 503", provider="octanist", request_id="r-1"))
    assert said == f"octanist: answered 503 (request r-1). {kind.advice}"


def test_every_provider_error_has_advice_of_its_own() -> None:
    """Five kinds of trouble, five things to do next."""
    assert len({kind.advice for kind in PROVIDER_ERRORS}) == len(PROVIDER_ERRORS)


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_carries_no_key(kind: type[Refusal]) -> None:
    """The key that names the account shows nowhere: not in the words, not in the bytes."""
    refusal = kind(facts())
    assert KEY not in str(refusal)
    assert KEY not in repr(refusal)
    assert KEY.encode() not in pickle.dumps(refusal)


@pytest.mark.parametrize("key", ["", "  ", "sk-live-ключ", "sk-live-two\nlines"])
def test_a_bad_key_is_told_without_showing_it(key: str) -> None:
    """The error about a key does not repeat it."""
    with pytest.raises(ConfigError) as caught:
        Secret(key)
    assert "sk-live" not in str(caught.value)
    assert "API key" in str(caught.value)


def test_no_error_has_a_place_for_a_key_or_a_body() -> None:
    """Neither facts nor arguments could carry a key, a request or a body."""
    places = {fact.name for fact in fields(RefusalFacts)}
    places |= set(inspect.signature(ProviderError).parameters)
    secret = {"api_key", "key", "headers", "request", "response", "body", "content", "url"}
    assert places & secret == set()
