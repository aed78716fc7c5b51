"""The reference says what the code says: sections made from it, tables held against it.

When the code has changed, this writes the sections again::

    python tests/test_reference.py
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from quotaguard import (
    FullContact,
    Guard,
    MemoryLedger,
    Octanist,
    OctanistChoices,
    Policy,
    RedisLedger,
    SegOps,
    SegOpsChoices,
    SQLiteLedger,
    Voxys,
    VoxysChoices,
    errors,
    held,
    logs,
)
from quotaguard.clients.exchange import Receipt
from quotaguard.providers import Provider
from quotaguard.quota import events
from quotaguard.quota.calls import Bill, Call, Outcome
from quotaguard.quota.forecast import Forecast, ForecastRow
from quotaguard.quota.standing import Decision, Holding, Row, Standing
from quotaguard.reservation import MISSING, Reservation
from quotaguard.sharing.redis_words import FAULTS
from quotaguard.testing.fullcontact import FullContactKnobs
from quotaguard.testing.octanist import OctanistKnobs
from quotaguard.testing.segops import SegOpsKnobs

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "quotaguard"
PAGES = ROOT / "docs" / "reference"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def plain(text: str) -> str:
    """Return a docstring's words on one line, with Markdown's marks for code."""
    return " ".join(text.split()).replace("``", "`")


# -- policy -------------------------------------------------------------------


def meanings(kind: type) -> dict[str, str]:
    """Return what the docstring of *kind* says of each setting."""
    said = plain((inspect.getdoc(kind) or "").partition("\n\n")[2].partition("Raises:")[0])
    names = "|".join(field.name for field in dataclasses.fields(kind))
    parts = re.split(rf"(?:^|(?<=\. ))({names}): ", said)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def default(value: object) -> str:
    """Return a setting's default as one would write it."""
    shown = dict(value) if isinstance(value, Mapping) else value
    return f"`{json.dumps(shown)}`" if isinstance(shown, str | dict) else f"`{shown!r}`"


def settings(kind: type, head: str = "setting") -> str:
    """Return the settings of a policy, or of a provider's choices."""
    said, made = meanings(kind), kind()
    rows = (
        (f"`{f.name}`", default(getattr(made, f.name)), said[f.name])
        for f in dataclasses.fields(kind)
    )
    return table((head, "default", "meaning"), rows)


# -- events -------------------------------------------------------------------


def records() -> str:
    """Return every event: its line, its level, its fields."""
    told = []
    for name in sorted(set(events.__all__) - {"Event"}):
        kind = getattr(events, name)
        level = logging.getLevelName(logs.LEVELS[kind])
        fields = [f for f in dataclasses.fields(kind) if f.name not in {"provider", "account"}]
        rows = ((f"`{field.name}`", f"`{field.type}`") for field in fields)
        line = "quota." + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        said = plain(kind.__doc__)
        told.append(f"### {name}\n\n`{line}`, {level}. {said}\n\n{table(('key', 'type'), rows)}")
    return "\n\n".join(told)


# -- errors -------------------------------------------------------------------


def tree() -> str:
    """Return the drawing of the error tree."""
    drawn = re.search(r"::\n\n(.*?)\n\n(?=\S)", errors.__doc__ or "", re.DOTALL)
    assert drawn is not None
    return f"```text\n{inspect.cleandoc(drawn[1])}\n```"


# -- providers -----------------------------------------------------------------

ENRICH = Call("POST", "https://api.fullcontact.com", "/v3/person.enrich", {}, b'{"email":"a@b.c"}')
HOOKED = ENRICH._replace(body=b'{"email":"a@b.c","webhookUrl":"https://b.c"}')
SAID_QUOTA = b'{"message":"Usage limits for the provided API Key have been exceeded."}'
SAID_KEY = b'{"message":"The API Key provided is invalid."}'
SAID_RATE = b'{"message":"Too Many Requests"}'

Answers = list[tuple[str, Call, int, bytes | None]]

FULLCONTACT: Answers = [
    ("200", ENRICH, 200, None),
    ("202, no `webhookUrl` in the body", ENRICH, 202, None),
    ("202, with `webhookUrl`", HOOKED, 202, None),
    ("other 2xx", ENRICH, 204, None),
    ("3xx", ENRICH, 307, None),
    ("400, 401, 405, 410, 422", ENRICH, 400, b""),
    ("404", ENRICH, 404, None),
    ("402, 403, 429 about the quota", ENRICH, 403, SAID_QUOTA),
    ("403 about the key", ENRICH, 403, SAID_KEY),
    ("429 about haste", ENRICH, 429, SAID_RATE),
    ("500, 502, 504", ENRICH, 500, None),
    ("503", ENRICH, 503, None),
]

CREATE = Call("POST", "https://octanist.com", "/api/leads", {}, b'{"name":"Jane"}')

OCTANIST: Answers = [
    ("200, 201", CREATE, 200, None),
    ("other 2xx", CREATE, 204, None),
    ("3xx", CREATE, 307, None),
    ("400, 401, 404 and other 4xx", CREATE, 400, None),
    ("402", CREATE, 402, None),
    ("403, the lead was rejected", CREATE, 403, None),
    ("409, the lead is there already", CREATE, 409, None),
    ("429", CREATE, 429, None),
    ("5xx", CREATE, 500, None),
]

EVENT = Call("POST", "https://api.segops.ai", "/api/ingestion/track/", {}, b"{}")
EVENTS = EVENT._replace(path="/api/ingestion/track/batch/", body=b'{"events":[{},{},{}]}')
SEGMENT = EVENT._replace(path="/api/segments/")

SEGOPS: Answers = [
    ("202 to an event", EVENT, 202, None),
    ('202 to a batch, `{"queued": 2, "skipped": 1}`', EVENTS, 202, b'{"queued":2,"skipped":1}'),
    ("202 to a batch, not to be read", EVENTS, 202, b""),
    ("200, 201 to a segment", SEGMENT, 201, None),
    ("other 2xx", EVENT, 200, None),
    ("3xx", EVENT, 301, None),
    ("400, 401, 402, 403, 404, 405 and other 4xx", EVENT, 403, b""),
    ("429", EVENT, 429, b""),
    ("5xx", EVENT, 500, None),
]


def meters(vendor: Provider) -> str:
    """Return the operations of a provider and what they reserve, and its meters."""
    held = (
        (f"`{name}`", ", ".join(f"`{meter}` {units}" for meter, units in cost.items()))
        for name, cost in sorted(vendor.operations.items())
    )
    kinds = ((f"`{name}`", meter.kind) for name, meter in vendor.meters.items())
    return "\n\n".join([table(("operation", "reserves"), held), table(("meter", "kind"), kinds)])


def spent(bill: Bill) -> str:
    """Return what a bill says."""
    if bill.deferred:
        return "deferred: settled by `guard.settle(id, cost)`, else unknown after `late`"
    if bill.cost is None:
        return "unknown: counted in full until a reading proves otherwise"
    paid = [f"`{meter.rpartition('.')[2]}` {units}" for meter, units in bill.cost.items() if units]
    evidence = [f"{', '.join(e.meters)} is {e.kind}" for e in bill.evidence if e.meters]
    evidence += ["a pause" for e in bill.evidence if e.kind == "pause"]
    evidence += ["a poll is wanted now" for e in bill.evidence if e.kind == "doubt"]
    return "; ".join([", ".join(paid) or "nothing", *evidence])


def answers(vendor: Provider, told: Answers) -> str:
    """Return what each kind of answer costs."""
    rows = (
        (name, spent(vendor.bill(call, Outcome(status, {}, body))))
        for name, call, status, body in told
    )
    return table(("answer", "settled as"), rows)


# -- Voxys ---------------------------------------------------------------------

CONVERT = Call(
    "POST",
    "https://connect.voxys.ai",
    "/api/v1/accounts/7/leads/9/convert",
    {},
    b'{"funnel_id":3,"funnel_stage_id":7}',
)
VOXYS_METERS = (
    *("deals.created", "deals.won", "deals.lost", "value.created", "value.won"),
    *("agent.1.created", "agent.1.won", "agent.1.value_won", "stage.7.count", "stage.7.value"),
)
VOXYS_ANSWERS: list[tuple[str, int]] = [
    ("2xx", 200),
    ("3xx", 302),
    ("400, 401, 403, 404, 405, 422", 404),
    ("402", 402),
    ("429", 429),
    ("5xx", 500),
    ("anything else", 408),
]


def voxys_meters() -> str:
    """Return the meters that Voxys may have, and where their numbers stand."""
    vendor = Voxys("test-key", 7, 3, limits=dict.fromkeys(VOXYS_METERS))
    rows = (
        (
            f"`{name}`",
            meter.kind,
            "deals" if meter.scale == 1 else "money",
            f"`{vendor._places[name].path}`",
        )
        for name, meter in vendor.meters.items()
    )
    return table(("meter", "kind", "counts", "in the answer"), rows)


def voxys_answers() -> str:
    """Return what each kind of answer costs."""
    vendor = Voxys("test-key", 7, 3, limits={"stage.7.count": 40})
    told = {
        "doubt": "the next reading is asked for at once",
        "pause": "calls pause, by `Retry-After` or else for {:g} s",
    }
    rows = []
    for name, status in VOXYS_ANSWERS:
        bill = vendor.bill(CONVERT, Outcome(status))
        paid = ", ".join(f"`{meter}` {units}" for meter, units in (bill.cost or {}).items())
        evidence = [told[each.kind].format(each.seconds) for each in bill.evidence]
        rows.append((name, "; ".join([paid or spent(Bill(bill.cost)), *evidence])))
    return table(("answer", "settled as"), rows)


# -- the guard -----------------------------------------------------------------


def shape(function: Callable[..., object]) -> str:
    """Return a signature as one would write it."""
    told, last = [], None
    for name, given in list(inspect.signature(function).parameters.items())[1:]:
        if last is given.POSITIONAL_ONLY and given.kind is not last:
            told.append("/")
        if given.kind is given.KEYWORD_ONLY and last is not given.kind:
            told.append("*")
        last = given.kind
        stars = "**" if given.kind is given.VAR_KEYWORD else ""
        value = "..." if given.default is MISSING else repr(given.default)
        told.append(f"{stars}{name}" + ("" if given.default is given.empty else f"={value}"))
    if last is inspect.Parameter.POSITIONAL_ONLY:
        told.append("/")
    return f"({', '.join(told)})"


def described(said: str) -> str:
    """Return a docstring as Markdown: arguments and errors as lists."""
    told = []
    for part in re.split(r"\n\n+", inspect.cleandoc(said)):
        errors_, raised = part.startswith("Raises:\n"), part.removeprefix("Raises:\n")
        if errors_:
            items = [plain(item) for item in re.split(r"^    (?=\S)", raised, flags=re.MULTILINE)]
            told += ["Raises:", "\n".join(f"* `{e}`: {why}" for e, why in pairs(items))]
        elif re.match(r"[a-z_]+: ", part):
            items = re.split(r"(?:^|(?<=\. ))(?=[a-z_]+: )", plain(part))
            told.append("\n".join(f"* `{name}`: {what}" for name, what in pairs(items)))
        else:
            told.append(plain(part))
    return "\n\n".join(told)


def pairs(items: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the words of ``name: words``."""
    for item in items:
        name, colon, words = item.strip().partition(": ")
        if colon:
            yield name, words


INNER = {"forget", "settle_units", "withdraw"}
"""Methods of a reservation that are for our own clients: they check nothing."""


def public(kind: type) -> list[tuple[str, Any]]:
    """Return the public names of a class, its own first, in the order of their definition."""
    ours = [each for each in kind.__mro__ if each.__module__.startswith("quotaguard")]
    return [
        (name, item)
        for each in ours
        for name, item in vars(each).items()
        if not name.startswith("_") and name not in INNER
    ]


def verbs(kind: type) -> str:
    """Return a class, its methods and its properties."""
    told = [described(kind.__doc__ or "")]
    for name, item in public(kind):
        if inspect.isfunction(item):
            colour = "async " if inspect.iscoroutinefunction(item) else ""
            told.append(
                f"### {colour}{name}\n\n`{name}{shape(item)}`\n\n{described(item.__doc__ or '')}"
            )
        elif isinstance(item, property):
            told.append(f"### {name}\n\n{described(item.__doc__ or '')}")
    return "\n\n".join(told)


def made(kind: type) -> str:
    """Return how a class is called, and what it says of itself."""
    return f"`{kind.__name__}{shape(kind.__init__)}`\n\n{described(kind.__doc__ or '')}"


SECTIONS: dict[tuple[str, str], Callable[[], str]] = {
    ("policy.md", "Settings"): lambda: settings(Policy),
    ("ledgers.md", "MemoryLedger"): lambda: made(MemoryLedger),
    ("ledgers.md", "SQLiteLedger"): lambda: made(SQLiteLedger),
    ("ledgers.md", "RedisLedger"): lambda: made(RedisLedger),
    ("events.md", "The records"): records,
    ("errors.md", "The tree"): tree,
    ("fullcontact.md", "Operations and meters"): lambda: meters(FullContact("test-key")),
    ("fullcontact.md", "What an answer costs"): lambda: answers(
        FullContact("test-key"), FULLCONTACT
    ),
    ("octanist.md", "Operations and meters"): lambda: meters(Octanist("test-key")),
    ("octanist.md", "What an answer costs"): lambda: answers(Octanist("test-key"), OCTANIST),
    ("octanist.md", "Choices"): lambda: settings(OctanistChoices, "choice"),
    ("segops.md", "Operations and meters"): lambda: meters(SegOps("test-key")),
    ("segops.md", "What an answer costs"): lambda: answers(SegOps("test-key"), SEGOPS),
    ("segops.md", "Choices"): lambda: settings(SegOpsChoices, "choice"),
    ("voxys.md", "Meters"): voxys_meters,
    ("voxys.md", "What an answer costs"): voxys_answers,
    ("voxys.md", "Choices"): lambda: settings(VoxysChoices, "choice"),
    ("guard.md", "Guard"): lambda: verbs(Guard),
    ("guard.md", "Reservation"): lambda: verbs(Reservation),
    ("guard.md", "Receipt"): lambda: described(Receipt.__doc__ or ""),
    ("guard.md", "Decision"): lambda: described(Decision.__doc__ or ""),
    ("guard.md", "Standing"): lambda: described(Standing.__doc__ or ""),
    ("guard.md", "Row"): lambda: described(Row.__doc__ or ""),
    ("guard.md", "Holding"): lambda: described(Holding.__doc__ or ""),
    ("guard.md", "Forecast"): lambda: described(Forecast.__doc__ or ""),
    ("guard.md", "ForecastRow"): lambda: described(ForecastRow.__doc__ or ""),
}


def parted(text: str, heading: str) -> tuple[str, str, str]:
    """Return a page before, in and after the section under *heading*."""
    found = re.search(
        rf"(.*^## {heading}\n\n)(.*?)(\n(?:\n## .*)?\Z)", text, re.DOTALL | re.MULTILINE
    )
    assert found is not None, f"there is no section {heading!r}"
    return found[1], found[2], found[3]


def written(page: str, heading: str, text: str) -> str:
    """Return the page *text* with the section under *heading* made from the code."""
    before, _, after = parted(text, heading)
    return before + SECTIONS[page, heading]().rstrip() + after


@pytest.mark.parametrize(("page", "heading"), SECTIONS)
def test_a_section_is_what_the_code_says(page: str, heading: str) -> None:
    """What is made from the code was made from this code; ``python tests/test_reference.py``."""
    text = (PAGES / page).read_text(encoding="utf-8")
    assert parted(text, heading)[1] == SECTIONS[page, heading]().rstrip()


@pytest.mark.parametrize("kind", [Policy, OctanistChoices, SegOpsChoices, VoxysChoices])
def test_every_setting_has_its_meaning(kind: type) -> None:
    """The docstring of a record of settings leaves none out."""
    assert set(meanings(kind)) == {field.name for field in dataclasses.fields(kind)}


def named(page: Path, heading: str) -> set[str]:
    """Return what the first column of a section's tables names."""
    section = parted(page.read_text(encoding="utf-8"), heading)[1]
    cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def told_states() -> set[str]:
    """Return the states that the code tells as `Degraded`."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in HOUSE.rglob("*.py"))
    asked = re.findall(r"\bdegraded\(\s*\"(\w+)\"", text)
    set_ = re.findall(
        r"\bstate ?= ?\"(\w+)\"", (HOUSE / "quota" / "observing.py").read_text("utf-8")
    )
    made = re.findall(r"\bstate=\"(\w+)\"", text)
    return {*asked, *set_, *made} - {"fresh"}


HELD: list[tuple[str, str, Callable[[], set[str]]]] = [
    (
        "errors.md",
        "What a refusal knows",
        lambda: {field.name for field in dataclasses.fields(errors.RefusalFacts)},
    ),
    (
        "errors.md",
        "What a provider's error knows",
        lambda: set(inspect.signature(errors.ProviderError).parameters) - {"message"},
    ),
    ("events.md", "What Degraded says", told_states),
    (
        "glossary.md",
        "States of a reservation",
        lambda: {
            vars(held)[name]
            for name in (
                "NEW",
                "OPEN",
                "DEFERRED",
                "SETTLED",
                "RELEASED",
                "UNKNOWN",
                "REFUSED",
                "VOID",
            )
        },
    ),
    (
        "../how-to/test-your-application.md",
        "A fake provider",
        lambda: (
            {field.name for field in dataclasses.fields(FullContactKnobs)}
            - {"misses_quota", "company_quota"}
        ),
    ),
    (
        "errors.md",
        "What a ledger's error knows",
        lambda: set(inspect.signature(errors.LedgerUnavailable).parameters) - {"message"},
    ),
    ("octanist.md", "A fake Octanist", lambda: set(vars(OctanistKnobs)["__slots__"])),
    ("segops.md", "Reports", lambda: set(SegOps("test-key").reports)),
    ("segops.md", "The fake", lambda: set(vars(SegOpsKnobs)["__slots__"])),
]


@pytest.mark.parametrize(("page", "heading", "real"), HELD, ids=[f"{p}#{h}" for p, h, _ in HELD])
def test_a_table_names_all_there_is(page: str, heading: str, real: Callable[[], set[str]]) -> None:
    """The tables that people wrote leave nothing out and invent nothing."""
    assert named(PAGES / page, heading) == real()


def test_the_rule_to_copy_is_enough() -> None:
    """What a Redis user must be allowed, by the error that misses it, is in the rule to copy."""
    page = (PAGES.parent / "how-to" / "several-hosts.md").read_text(encoding="utf-8")
    rules = [line.split() for line in page.splitlines() if line.startswith("ACL SETUSER")]
    wanted = {word for word in FAULTS["NOPERM"][1].split() if word[0] in "+~"}
    assert [wanted - set(rule) for rule in rules] == [set()]


def test_the_drawing_of_sections_bites() -> None:
    """A section that says something else is found, wherever it stands."""
    text = "# A\n\n## Settings\n\nold\n\n## Else\n\nkept\n"
    new = written("policy.md", "Settings", text)
    assert new.startswith("# A\n\n## Settings\n\n| setting |")
    assert new.endswith("\n\n## Else\n\nkept\n")


def main() -> None:
    """Write every section again."""
    for page, heading in SECTIONS:
        path = PAGES / page
        path.write_text(written(page, heading, path.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
