"""The laws of the house, as tests: floors, sizes, words, purity, and tests that never sleep."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "quotaguard"
TESTS = ROOT / "tests"

MODULE_LINES = 400
FUNCTION_LINES = 45

NOT_USED = {"token", "bucket", "permit", "hit", "limiter", "manager", "helper", "util", "base"}
NOT_USED |= {"impl"}
"""The glossary's list: one word per thing, and these are other people's words for ours."""

FOREIGN_PHRASES = ("base_url",)
"""Words that are part of somebody else's name for somebody else's thing."""

NO_FILE_NAMES = {"util", "helper", "manager", "base", "impl", "common", "misc"}

PURE_IMPORTS = {
    "__future__",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "datetime",
    "decimal",
    "email.utils",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "hmac",
    "http",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "statistics",
    "string",
    "types",
    "typing",
    "urllib.parse",
    "zoneinfo",
}
"""All that the pure floors may import of the standard library, module by module.

The contracts in pyproject see whole packages only: ``urllib.request`` hides there
behind ``urllib.parse``, and ``http.client`` behind ``http.HTTPStatus``.
"""

HOUSE_FILES = sorted(HOUSE.rglob("*.py"))
TEST_FILES = sorted(TESTS.rglob("*.py"))
PURE_FILES = [
    *sorted((HOUSE / "quota").rglob("*.py")),
    *sorted((HOUSE / "reports").rglob("*.py")),
    *sorted((HOUSE / "providers").rglob("*.py")),
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    """Return *path* as it is told in a report."""
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    """Return the syntax of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def nodes(path: Path, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes of these kinds in a file."""
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, kinds))


def length(function: Function) -> int:
    """Return the lines of a function without its decorators and its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        told = function.body[0]
        lines -= (told.end_lineno or told.lineno) - told.lineno + 1
    return lines


def words(name: str) -> set[str]:
    """Return the words of a snake_case or CamelCase name, in the singular too."""
    for phrase in FOREIGN_PHRASES:
        name = name.replace(phrase, "")
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    split = set(apart.lower().split("_"))
    return split | {word.removesuffix("s") for word in split}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the modules that a file imports, with the name taken from each."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                yield node.module or "", alias.name
            else:
                yield alias.name, ""


def lint_floors(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the import contracts on the house below *root*."""
    program = (
        "import sys; from importlinter.cli import lint_imports as l; sys.exit(l(no_cache=True))"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=root
    )


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """Run a test once for each file."""
    return pytest.mark.parametrize("path", paths, ids=[name_of(path) for path in paths])


# -- sizes --------------------------------------------------------------------


@each(HOUSE_FILES)
def test_a_module_fits_in_a_head(path: Path) -> None:
    """No module is longer than its ceiling."""
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MODULE_LINES


@each(HOUSE_FILES)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    """No function is longer than its ceiling; the docstring is not counted."""
    functions = nodes(path, ast.FunctionDef, ast.AsyncFunctionDef)
    long = {f.name: length(f) for f in functions if length(f) > FUNCTION_LINES}
    assert long == {}


# -- words --------------------------------------------------------------------


def test_no_file_is_a_drawer() -> None:
    """A file is named after what is in it, and so is a folder."""
    places = {
        part for path in HOUSE_FILES for part in path.relative_to(HOUSE).with_suffix("").parts
    }
    assert {place for place in places if words(place) & NO_FILE_NAMES} == set()


@each(HOUSE_FILES)
def test_names_keep_to_the_glossary(path: Path) -> None:
    """No class and no function is named with a word that the glossary does not use."""
    defined = nodes(path, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    assert {node.name for node in defined if words(node.name) & NOT_USED} == set()


@pytest.mark.parametrize("name", ["TokenBucket", "rate_limiter", "_hits", "HTTPManager", "a_util"])
def test_the_law_on_words_bites(name: str) -> None:
    """The splitting of names finds the words it is there to find."""
    assert words(name) & NOT_USED


@pytest.mark.parametrize("name", ["Whitelist", "database", "_rebase", "admit", "base_url", "limit"])
def test_the_law_on_words_spares_the_innocent(name: str) -> None:
    """A word inside another word is another word."""
    assert words(name) & NOT_USED == set()


# -- manners ------------------------------------------------------------------


@each([path for path in HOUSE_FILES if "cli" not in path.relative_to(HOUSE).parts])
def test_a_library_does_not_print(path: Path) -> None:
    """Only the command line writes to the terminal."""
    calls = (node.func for node in nodes(path, ast.Call))
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


@each(TEST_FILES)
def test_tests_do_not_sleep(path: Path) -> None:
    """Time in tests is a FakeClock's: nobody calls or imports a sleep."""
    clocks = {"time", "asyncio", "anyio", "trio"}
    called = [
        f"{node.value.id}.{node.attr}"
        for node in nodes(path, ast.Attribute)
        if node.attr in {"sleep", "sleep_until", "sleep_forever"}
        and isinstance(node.value, ast.Name)
        and node.value.id in clocks
    ]
    taken = [module for module, name in imports(path) if name == "sleep" and module in clocks]
    assert called + taken == []


@each(TEST_FILES)
def test_tests_do_not_patch(path: Path) -> None:
    """Doubles are handed in, never slipped under."""
    patched = [module for module, name in imports(path) if "mock" in {module, name}]
    patched += [module for module, _ in imports(path) if module.startswith("unittest")]
    arguments = nodes(path, ast.arg)
    assert patched + [node.arg for node in arguments if node.arg == "monkeypatch"] == []


# -- floors -------------------------------------------------------------------


def test_the_floors_are_kept() -> None:
    """Every import contract of pyproject holds."""
    done = lint_floors(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "breach", "told"),
    [
        ("quota/lines.py", "import time", "quota.lines -> time"),
        ("quota/lines.py", "from quotaguard import stats", "quota.lines -> quotaguard.stats"),
        ("providers/__init__.py", "import httpx", "providers -> httpx"),
        ("providers/__init__.py", "from quotaguard import ledgers", "providers -> quotaguard.led"),
        ("ledgers/__init__.py", "from quotaguard import testing", "ledgers -> quotaguard.testing"),
        ("ledgers/memory.py", "import wrapt", "ledgers.memory -> wrapt"),
        ("clock.py", "import structlog", "clock -> structlog"),
        ("errors.py", "from quotaguard.quota import lines", "errors -> quotaguard.quota.lines"),
        ("newcomer.py", "'a module that no floor knows'", "- quotaguard.newcomer"),
    ],
)
def test_a_breach_of_the_floors_is_seen(room: str, breach: str, told: str, tmp_path: Path) -> None:
    """The contracts are not empty words: each of these lines breaks one, which names it."""
    shutil.copytree(HOUSE, tmp_path / "quotaguard", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "quotaguard" / room).open("a", encoding="utf-8") as file:
        file.write(f"\n{breach}\n")
    done = lint_floors(tmp_path)
    assert done.returncode == 1, done.stdout
    # A long chain is broken over several lines.
    assert told in " ".join(done.stdout.split())


@each(PURE_FILES)
def test_the_pure_floors_import_what_is_pure(path: Path) -> None:
    """Quota and providers take from the standard library only what computes."""
    taken = {module for module, _ in imports(path) if module.partition(".")[0] != "quotaguard"}
    if path.name == "mapped.py":
        taken -= {"jmespath"}
    assert taken - PURE_IMPORTS == set()
    assert {name for module, name in imports(path) if module == "http"} <= {"HTTPStatus"}


@each(PURE_FILES)
def test_the_pure_floors_are_told_the_time(path: Path) -> None:
    """``now`` is an argument: nobody there asks a clock for it."""
    asked = {"now", "utcnow", "today"}
    clocks = {"datetime", "date"}
    found = [
        node.attr
        for node in nodes(path, ast.Attribute)
        if node.attr in asked and isinstance(node.value, ast.Name) and node.value.id in clocks
    ]
    assert found == []
