"""`quotaguard status`: what it shows, what it says, and how it leaves."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from quotaguard.cli.accounts import VARIABLES, named
from quotaguard.cli.app import app
from quotaguard.cli.status import Asked, _show
from quotaguard.errors import ConfigError
from quotaguard.quota.readings import Period
from quotaguard.quota.standing import Row, Standing
from quotaguard.testing import fake
from quotaguard.testing.fullcontact import FakeFullContact

CANARY = "canary-9c1f"


def status(*options: str, **environment: str) -> Result:
    """Run the command in an environment without any other account."""
    clean: dict[str, str | None] = {name: None for needs in VARIABLES.values() for name in needs}
    done = CliRunner().invoke(app, ["status", *options], env=clean | environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def vendor() -> Iterator[FakeFullContact]:
    """Serve a FullContact that has spent 87 of 100."""
    with fake("fullcontact", quota=100, used=87, misses_quota=0) as vendor:
        yield vendor


def at(vendor: FakeFullContact, key: str = "test-key") -> dict[str, str]:
    """Return the variables that lead to *vendor*."""
    return {"FULLCONTACT_API_KEY": key, "FULLCONTACT_BASE_URL": vendor.url}


def test_a_table_for_people(vendor: FakeFullContact) -> None:
    """Used, limit, left, how full, the period, and when it was read; one poll."""
    done = status(**at(vendor))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        *("meter", "used", "limit", "left", "period", "(UTC)", "read", "at", "(UTC)")
    ]
    matches = next(line for line in lines if "person.enrichment.matches" in line)
    assert matches.split()[1:6] == ["█" * 17 + "░" * 3, "87%", "87", "100", "13"]
    misses = next(line for line in lines if "person.enrichment.misses" in line)
    assert misses.split()[1:6] == ["█" * 20, "100%", "0", "0", "0"]
    total = next(line for line in lines if "person.enrichment.total" in line)
    assert "unlimited" in total
    assert vendor.polls == 1


def test_json_for_programs(vendor: FakeFullContact) -> None:
    """The same facts; null is unlimited and not known, as it is inside."""
    done = status("--json", **at(vendor))
    assert done.exit_code == 0
    (account,) = json.loads(done.stdout)["accounts"]
    assert (account["provider"], account["state"]) == ("fullcontact", "ok")
    meters = {meter["meter"]: meter for meter in account["meters"]}
    matches = meters["person.enrichment.matches"]
    assert (matches["used"], matches["limit"], matches["left"]) == (87, 100, 13)
    assert matches["period_end"].endswith("+00:00")
    assert meters["person.enrichment.total"]["limit"] is None


def test_all_four_at_once(vendor: FakeFullContact) -> None:
    """Each in its own words, all in one table; one poll for each."""
    with fake("octanist", used=450) as leads, fake("voxys", used=5) as deals:  # noqa: SIM117 - three
        with fake("segops", used=7, segments_quota=None) as events:
            done = status(
                "--json",
                **at(vendor),
                OCTANIST_API_KEY="test-key",
                OCTANIST_BASE_URL=leads.url,
                VOXYS_API_ACCESS_TOKEN="test-key",
                VOXYS_ACCOUNT_ID="7",
                VOXYS_FUNNEL_ID="3",
                VOXYS_LIMITS="deals.created=500, value.created=1000000.5",
                VOXYS_TIME_ZONE="Europe/Berlin",
                VOXYS_BASE_URL=deals.url,
                SEGOPS_API_KEY="test-key",
                SEGOPS_BASE_URL=events.url,
            )
            assert [each.polls for each in (vendor, leads, deals, events)] == [1, 1, 1, 1]
    assert done.exit_code == 0, done.output
    accounts = {each["provider"]: each for each in json.loads(done.stdout)["accounts"]}
    assert list(accounts) == ["fullcontact", "octanist", "voxys", "segops"]
    counts = {
        meter["meter"]: (meter["used"], meter["limit"])
        for each in accounts.values()
        for meter in each["meters"]
    }
    assert counts["leads"] == (450, 1000)
    assert counts["deals.created"] == (5, 500)
    assert counts["value.created"] == (25_000.0, 1_000_000.5)
    assert counts["events"] == (7, 1000)
    assert counts["segments"] == (0, None)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"VOXYS_ACCOUNT_ID": "seven"}, "VOXYS_ACCOUNT_ID is not a whole number"),
        ({"VOXYS_LIMITS": "deals.created"}, "VOXYS_LIMITS is not a list like"),
        ({"VOXYS_LIMITS": "deals.sold=5"}, "deals.sold"),
        ({"VOXYS_WINDOW": "fortnight"}, "day, week, month, quarter, year"),
        ({"VOXYS_TIME_ZONE": "Mars/Olympus"}, "Mars/Olympus"),
    ],
)
def test_a_voxys_that_cannot_be(variables: dict[str, str], words: str) -> None:
    """What is wrong is told by its variable; nothing is sent."""
    whole = {"VOXYS_API_ACCESS_TOKEN": CANARY, "VOXYS_ACCOUNT_ID": "7", "VOXYS_FUNNEL_ID": "3"}
    done = status(**{**whole, **variables})
    assert done.exit_code == 2
    assert words in done.output
    assert CANARY not in done.output


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_key_that_is_not_accepted(vendor: FakeFullContact, options: tuple[str, ...]) -> None:
    """Exit code 3, whose fault and what next; the key is nowhere."""
    done = status(*options, **at(vendor, CANARY))
    assert done.exit_code == 3
    assert "key not accepted" in done.output
    assert "Check the key in the environment" in done.output
    assert CANARY not in done.output


@pytest.mark.parametrize("fault", ["500", "html", "reset", "huge", "garbage"])
def test_a_provider_that_is_down(vendor: FakeFullContact, fault: str) -> None:
    """Exit code 1, and what it was."""
    vendor.script(stats=[fault])
    done = status(**at(vendor))
    assert done.exit_code == 1
    assert "fullcontact: not read: " in done.output
    assert "Try again" in done.output


def test_no_account_at_all() -> None:
    """Exit code 2, with the names of the variables."""
    done = status()
    assert done.exit_code == 2
    for needs in VARIABLES.values():
        assert needs[0] in done.output


def test_half_an_account_does_not_hide_a_whole_one(vendor: FakeFullContact) -> None:
    """What can be read is shown, and the rest is told."""
    done = status(**at(vendor), VOXYS_API_ACCESS_TOKEN=CANARY)
    assert done.exit_code == 2
    assert "person.enrichment.matches" in done.stdout
    assert "VOXYS_API_ACCESS_TOKEN needs VOXYS_ACCOUNT_ID, VOXYS_FUNNEL_ID" in done.output
    assert CANARY not in done.output


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"FULLCONTACT_API_KEY": "k\N{SNOWMAN}"}, "no HTTP header can carry"),
        ({"FULLCONTACT_API_KEY": "k", "FULLCONTACT_BASE_URL": "http://example.com"}, "not https"),
    ],
)
def test_a_variable_that_cannot_be(variables: dict[str, str], words: str) -> None:
    """Found before anything is sent; no value is quoted."""
    done = status(**variables)
    assert done.exit_code == 2
    assert words in done.output
    assert "example.com/" not in done.output


def test_blank_variables_are_none() -> None:
    """CI systems set them empty."""
    assert named({"FULLCONTACT_API_KEY": "  ", "OCTANIST_API_KEY": ""}) == []


def row(**facts: Any) -> Row:
    """Return a row of a standing."""
    usual = {
        "meter": "person.enrichment.matches",
        "used": 12_345_678,
        "limit": 100_000_000,
        "reserved": 0,
        "headroom": 0,
        "margin": 0,
        "period": Period(1_790_000_000, 1_793_000_000),
        "delay": None,
        "read_at": Period(None, 1_791_000_000).ends_at,
        "drift": 0,
    }
    return Row(**(usual | facts))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_number_is_cut_at_any_width(width: int) -> None:
    """A narrow terminal gets the dates once, and smaller bars."""
    text = io.StringIO()
    shown = Console(file=text, width=width, force_terminal=True, color_system=None, highlight=False)
    answers = [Asked("fullcontact", standing=Standing("fullcontact", "a", (row(),), 0.0))]
    _show(answers, shown)
    said = text.getvalue()
    assert "…" not in said or width == 60
    assert "2026-09-21 to 2026-10-26" in said
    assert width < 80 or "87,654,322" in said


def test_a_help_that_names_every_variable() -> None:
    """The first minute."""
    done = CliRunner().invoke(app, ["status", "--help"], env={"COLUMNS": "200"})
    for needs in VARIABLES.values():
        for name in needs:
            assert name in done.output
    assert ConfigError.__name__ not in done.output


def test_no_account_is_an_empty_object_for_programs() -> None:
    """What reads it needs no other case; the code still says that something is missing."""
    done = status("--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout) == {"accounts": []}
