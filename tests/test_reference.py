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

from quotaguard import FullContact, Guard, Policy, errors, held, logs
from quotaguard.clients.exchange import Receipt
from quotaguard.quota import events
from quotaguard.quota.calls import Bill, Call, Outcome
from quotaguard.quota.standing import Decision, Row, Standing
from quotaguard.reservation import MISSING, Reservation
from quotaguard.testing.fullcontact import FullContactKnobs

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


def meanings() -> dict[str, str]:
    """Return what the docstring of `Policy` says of each setting."""
    said = plain((inspect.getdoc(Policy) or "").partition("\n\n")[2].partition("Raises:")[0])
    names = "|".join(field.name for field in dataclasses.fields(Policy))
    parts = re.split(rf"(?:^|(?<=\. ))({names}): ", said)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def default(field: dataclasses.Field[Any]) -> str:
    """Return a setting's default as one would write it."""
    value = getattr(Policy(), field.name)
    shown = dict(value) if isinstance(value, Mapping) else value
    return f"`{json.dumps(shown)}`" if isinstance(shown, str | dict) else f"`{shown!r}`"


def settings() -> str:
    """Return the settings of a policy."""
    said = meanings()
    rows = ((f"`{f.name}`", default(f), said[f.name]) for f in dataclasses.fields(Policy))
    return table(("setting", "default", "meaning"), rows)


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


# -- FullContact ---------------------------------------------------------------

ENRICH = Call("POST", "https://api.fullcontact.com", "/v3/person.enrich", {}, b'{"email":"a@b.c"}')
HOOKED = ENRICH._replace(body=b'{"email":"a@b.c","webhookUrl":"https://b.c"}')
SAID_QUOTA = b'{"message":"Usage limits for the provided API Key have been exceeded."}'
SAID_KEY = b'{"message":"The API Key provided is invalid."}'
SAID_RATE = b'{"message":"Too Many Requests"}'

ANSWERS: list[tuple[str, Call, int, bytes | None]] = [
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


def meters() -> str:
    """Return the operations of FullContact and what they reserve, and its meters."""
    held = (
        (f"`{name}`", ", ".join(f"`{meter}` {units}" for meter, units in cost.items()))
        for name, cost in sorted(FullContact.operations.items())
    )
    kinds = ((f"`{name}`", meter.kind) for name, meter in FullContact.meters.items())
    return "\n\n".join([table(("operation", "reserves"), held), table(("meter", "kind"), kinds)])


def spent(bill: Bill) -> str:
    """Return what a bill says."""
    if bill.deferred:
        return "deferred: settled by `guard.settle(id, cost)`, else unknown after `late`"
    if bill.cost is None:
        return "unknown: counted in full until a reading proves otherwise"
    paid = [f"`{meter.rpartition('.')[2]}` {units}" for meter, units in bill.cost.items() if units]
    evidence = [f"{', '.join(e.meters)} is {e.kind}" for e in bill.evidence if e.meters]
    return "; ".join([", ".join(paid) or "nothing", *evidence])


def answers() -> str:
    """Return what each kind of answer costs."""
    vendor = FullContact(api_key="test-key")
    rows = (
        (name, spent(vendor.bill(call, Outcome(status, {}, body))))
        for name, call, status, body in ANSWERS
    )
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


INNER = {"forget", "settle_units"}
"""Methods of a reservation that are for our own clients: they check nothing."""


def public(kind: type) -> list[tuple[str, Any]]:
    """Return the public names of a class in the order in which it defines them."""
    return [
        (name, item)
        for ours in kind.__mro__
        for name, item in vars(ours).items()
        if ours is not object and not name.startswith("_") and name not in INNER
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


SECTIONS: dict[tuple[str, str], Callable[[], str]] = {
    ("policy.md", "Settings"): settings,
    ("events.md", "The records"): records,
    ("errors.md", "The tree"): tree,
    ("fullcontact.md", "Operations and meters"): meters,
    ("fullcontact.md", "What an answer costs"): answers,
    ("guard.md", "Guard"): lambda: verbs(Guard),
    ("guard.md", "Reservation"): lambda: verbs(Reservation),
    ("guard.md", "Receipt"): lambda: described(Receipt.__doc__ or ""),
    ("guard.md", "Decision"): lambda: described(Decision.__doc__ or ""),
    ("guard.md", "Standing"): lambda: described(Standing.__doc__ or ""),
    ("guard.md", "Row"): lambda: described(Row.__doc__ or ""),
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


def test_every_setting_has_its_meaning() -> None:
    """The docstring of Policy leaves none out."""
    assert set(meanings()) == {field.name for field in dataclasses.fields(Policy)}


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
]


@pytest.mark.parametrize(("page", "heading", "real"), HELD, ids=[f"{p}#{h}" for p, h, _ in HELD])
def test_a_table_names_all_there_is(page: str, heading: str, real: Callable[[], set[str]]) -> None:
    """The tables that people wrote leave nothing out and invent nothing."""
    assert named(PAGES / page, heading) == real()


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
