"""The documentation runs: README's and the pages' code, their output, links and commands.

Every page is one program from top to bottom, run against a fake provider on loopback.
The pages say what a reader types, so what stands for the real thing is exchanged:
`STAND_INS`. A block marked ``output`` is compared with what was printed above it; tests
that a block defines are called.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import subprocess
import sys
import time
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from servers import serving
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from quotaguard import Guard
from quotaguard.testing import fake

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = sorted([README, *DOCS.rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

KEY = "test-key"
STAND_INS = {
    'api_key="..."': 'api_key="{key}", base_url="{url}"',
    'api_access_token="..."': 'api_access_token="{key}", base_url="{voxys}"',
    "Bearer ...": "Bearer {key}",
    "https://api.fullcontact.com": "{url}",
    "sqlite:///var/lib/app/quota.db": "sqlite://{folder}/quota.db",
    "/var/lib/app/quota.db": "{folder}/quota.db",
    "redis://quota.example.com:6379/0": "{redis}",
}
"""What the reader sees, and what runs."""

ROOMS = {"tutorial", "how-to", "reference", "explanation", "changes"}

COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install -e '.[all]' && .venv/bin/quotaguard demo",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest",
]


def name_of(path: Path) -> str:
    """Return *path* as it is told in a report."""
    return path.relative_to(ROOT).as_posix()


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """Run a test once for each file."""
    return pytest.mark.parametrize("path", paths, ids=[name_of(path) for path in paths])


class Reader:
    """Types what a page says, and compares what comes out."""

    def __init__(self) -> None:
        self._run = PythonEvaluator()
        self.printed = io.StringIO()

    def types(self, example: Example) -> None:
        """Run a block, in the names that the blocks above it have left."""
        names = example.namespace
        # Functions and classes look up their module by this name.
        names.setdefault("__name__", "__main__")
        known = set(names)
        with contextlib.redirect_stdout(self.printed):
            self._run(example)
            for name in sorted(set(names) - known):
                if name.startswith("test_"):
                    names[name]()

    def compares(self, example: Example) -> None:
        """Compare what was printed since the last time."""
        shown, self.printed = self.printed.getvalue(), io.StringIO()
        assert shown.rstrip() == str(example.parsed).rstrip(), f"line {example.line}"


def document(path: Path, text: str, reader: Reader) -> Document:
    """Return the page *text* with its blocks."""
    page = Document(text, str(path))
    for language, act in (("python", reader.types), ("output", reader.compares)):
        for region in CodeBlockParser(language, act)(page):
            page.add(region)
    return page


def run(path: Path, text: str) -> int:
    """Run the blocks of a page one after the other; return how many there were."""
    reader = Reader()
    page = document(path, text, reader)
    count = 0
    try:
        for example in page.examples():
            example.evaluate()
            count += 1
        assert not reader.printed.getvalue(), "the page does not show what was printed last"
    finally:
        for left in page.namespace.values():
            if isinstance(left, httpx.Client | Guard | contextlib.ExitStack):
                left.close()
    return count


@pytest.fixture
def exchanged(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Return what puts the stand-ins into a page: fakes in the middle of their month.

    A Redis server is started for a page that names one.
    """
    today = datetime.fromtimestamp(time.time(), UTC)
    month = ((today - timedelta(days=15)).isoformat(), (today + timedelta(days=15)).isoformat())
    with (
        fake("fullcontact", quota=1000, match_rate=1.0, key=KEY, period=month) as vendor,
        fake("voxys", used=30, key=KEY, time_zone="Europe/Berlin") as voxys,
        contextlib.ExitStack() as servers,
    ):
        voxys.win(10)
        meanings = {"key": KEY, "url": vendor.url, "voxys": voxys.url, "folder": tmp_path}

        def exchange(text: str) -> str:
            if "redis://quota" in text:
                meanings["redis"] = servers.enter_context(serving(tmp_path / "redis")).url
            for shown, meant in STAND_INS.items():
                if shown in text:
                    text = text.replace(shown, meant.format(**meanings))
            return text

        yield exchange


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    """Take back what a page does to the loggers of the process."""
    loggers = [logging.getLogger(name) for name in ("quotaguard", "httpx")]
    before = [(logger.level, list(logger.filters)) for logger in loggers]
    yield
    for logger, (level, filters) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.filters[:] = filters


# -- what runs ----------------------------------------------------------------


@each(PAGES)
def test_a_page_runs(path: Path, exchanged: Callable[[str], str]) -> None:
    """Every python block of a page runs, offline, and prints what the page shows."""
    run(path, exchanged(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```python\n1 / 0\n```\n", ZeroDivisionError),
        ("```python\nprint(1)\n```\n\n```output\n2\n```\n", AssertionError),
        ("```python\nprint(1)\n```\n", AssertionError),
        ("```python\ndef test_it():\n    assert 1 > 2\n```\n", AssertionError),
    ],
    ids=["a block that fails", "another output", "an output not shown", "a test that fails"],
)
def test_a_wrong_page_fails(text: str, fault: type[Exception]) -> None:
    """The reader does not look away."""
    with pytest.raises(fault):
        run(DOCS / "wrong.md", text)


def test_the_pages_have_blocks() -> None:
    """The pages that show how are not empty of code: each has a block that runs."""
    shown = [README, *(DOCS / "tutorial").glob("*.md"), *(DOCS / "how-to").glob("*.md")]
    bare = [name_of(path) for path in shown if "```python\n" not in path.read_text("utf-8")]
    assert bare == []


@each(EXAMPLES)
def test_an_example_runs(path: Path) -> None:
    """Each example is a program that ends well by itself, offline."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


# -- what is said ---------------------------------------------------------------


def prose(text: str) -> str:
    """Return a page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors that a page's headings make, as code forges make them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@each(PAGES)
def test_links_lead_somewhere(path: Path) -> None:
    """A link inside the repository leads to a file that is there, and to a heading in it."""
    astray = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (anchor and anchor not in anchors(found)):
            astray.append(target)
    assert astray == []


def test_every_page_can_be_reached() -> None:
    """The index leads to each page of the documentation, and to each example."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)\s#]+)\)", index)}
    assert set(EXAMPLES) <= linked
    assert [
        name_of(page) for page in PAGES if page not in {README, DOCS / "index.md", *linked}
    ] == []


def test_the_rooms_are_the_rooms() -> None:
    """Learning, doing, looking up and understanding are apart; there is no other folder."""
    assert {path.name for path in DOCS.iterdir() if path.is_dir()} == ROOMS


@pytest.mark.parametrize("command", COMMANDS, ids=["demo", "tests"])
def test_the_readme_gives_the_two_commands(command: str) -> None:
    """Each stands alone on its line, to be copied, and asks for an extra that there is."""
    assert command in README.read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = re.search(r"'\.\[(\w+)\]'", command)
    assert extra is not None
    assert extra[1] in project["optional-dependencies"]


def test_the_changes_tell_of_this_version() -> None:
    """The version that is installed has its page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (DOCS / "changes" / f"{project['version']}.md").exists()


@each(PAGES)
def test_the_prose_is_calm(path: Path) -> None:
    """No page shouts, and none uses pictures for words."""
    # The mark in front of a picture is no shout.
    text = prose(path.read_text(encoding="utf-8")).replace("![", "[")
    assert "!" not in text
    assert {letter for letter in text if unicodedata.category(letter) == "So"} == set()


def test_nothing_is_left_to_fill_in() -> None:
    """Every figure has been put in its place."""
    left = {name_of(path): re.findall(r"\{\{\w+\}\}", path.read_text("utf-8")) for path in PAGES}
    assert {name: found for name, found in left.items() if found} == {}
