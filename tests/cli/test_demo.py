"""`quotaguard demo`: what it leaves behind, and what it says."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import quotaguard
from quotaguard.cli import main
from quotaguard.cli.app import app
from quotaguard.cli.contacts import Contacts, FileFault, bundled
from quotaguard.cli.results import ADDED, MATCHED, MISSED, REASON
from quotaguard.testing import fake

HEADER = ("first_name", "email")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Row = tuple[str, ...]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Work in a folder of one's own: the demo writes into the one where it is run."""
    with contextlib.chdir(tmp_path):
        yield tmp_path


def demo(*options: str, **environment: str) -> Result:
    """Run the demo here, as if it was typed."""
    settings: dict[str, str | None] = {"COLUMNS": "80", "FULLCONTACT_API_KEY": None}
    done = CliRunner().invoke(app, ["demo", *options], env=settings | environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def people(count: int, first: int = 0) -> list[Row]:
    """Return made-up contacts."""
    return [(f"P{n}", f"p{n}@example.org") for n in range(first, first + count)]


def contacts(rows: list[Row], name: str = "people.csv") -> str:
    """Write a file of contacts; return its name."""
    with Path(name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return name


def rows(name: str) -> list[Row]:
    """Return the rows of a CSV below its header."""
    with Path(name).open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def partition(width: int = 2) -> Counter[Row]:
    """Return the contacts of both results together."""
    return Counter(row[:width] for name in ("enriched.csv", "refused.csv") for row in rows(name))


def matched() -> int:
    """Return how many people were paid for: found, and the same one counts once."""
    return len({row[1] for row in rows("enriched.csv") if row[-1] == MATCHED})


def billed() -> int:
    """Return what the fake has billed in all runs."""
    return int(json.loads(Path(".quotaguard-demo.json").read_text(encoding="utf-8"))["used"])


def figure(done: Result, name: str) -> int:
    """Return a number of the table at the end."""
    found = re.search(rf"^{name} +([\d,]+) ", done.stdout, re.MULTILINE)
    assert found is not None, done.output
    return int(found[1].replace(",", ""))


# -- a whole run ----------------------------------------------------------------


def test_the_quota_is_used_up_and_not_passed(home: Path) -> None:
    """While another consumer spends too, at least 97 % is used, and nothing past the quota."""
    done = demo("--input", str(bundled()), "--quota", "200")
    assert done.exit_code == 0, done.output
    assert figure(done, "overshoot") == 0
    assert 194 <= figure(done, "true count") <= 200
    assert "12 by others" in done.stdout
    assert figure(done, "polls") > 1
    assert partition(5) == Counter(rows(str(bundled())))
    assert len(rows("enriched.csv")) >= figure(done, "sent")


def test_the_bundled_file_has_1500_people() -> None:
    """Without --input there are 1,500 contacts."""
    assert Contacts(bundled()).count() == 1500


def test_runs_go_on_where_the_last_one_stopped(home: Path) -> None:
    """A second run finds the quota spent, a raised plan ends the job; nobody is paid twice."""
    source = contacts(people(80))
    first = demo("--input", source, "--quota", "30")
    assert (first.exit_code, figure(first, "true count")) == (0, 30)
    assert "The quota is spent until" in first.stdout
    assert {row[-1].partition(":")[0] for row in rows("refused.csv")} == {"QuotaExhausted"}

    second = demo("--input", source, "--quota", "30")
    assert (second.exit_code, figure(second, "sent")) == (0, 0)
    assert figure(second, "refused") == len(rows("refused.csv"))

    third = demo("--input", source, "--quota", "79")
    assert third.exit_code == 0
    assert rows("refused.csv") == []
    assert "Every row has its answer." in third.stdout
    assert partition() == Counter(people(80))
    assert matched() == billed() == figure(third, "true count")


def test_fresh_starts_over(home: Path) -> None:
    """--fresh forgets the rows that were answered, and what the fake has billed."""
    source = contacts(people(10))
    demo("--input", source, "--quota", "40")
    again = demo("--input", source, "--quota", "40", "--fresh")
    assert figure(again, "sent") == 10
    assert matched() == billed()


def test_one_email_is_paid_for_once(home: Path) -> None:
    """Rows with the same email share one answer, in this run and in the next."""
    twins = [("Ada", "ada@example.org"), ("A.", " ADA@example.org "), ("Bob", "bob@example.org")]
    first = demo("--input", contacts(twins), "--quota", "40")
    assert (figure(first, "sent"), figure(first, "repeated")) == (2, 1)
    late = ("Lady Ada", "Ada@Example.org")
    second = demo("--input", contacts([*twins, late]), "--quota", "40")
    assert (figure(second, "sent"), figure(second, "repeated")) == (0, 1)
    assert figure(second, "done before") == 3
    told = {row[2:] for row in rows("enriched.csv") if row[1].strip().casefold()[0] == "a"}
    assert len(told) == 1
    assert len(rows("enriched.csv")) == 4


def test_a_row_without_an_email_is_not_lost(home: Path) -> None:
    """It goes to the refused rows, which say why."""
    done = demo("--input", contacts([("Nobody", ""), ("Ada", "ada@x.org")]), "--quota", "40")
    assert (done.exit_code, figure(done, "no email")) == (0, 1)
    assert rows("refused.csv") == [("Nobody", "", "no email")]
    assert "Every row with an email has its answer." in done.stdout


def test_every_way_to_write_utf8_csv_is_read(home: Path) -> None:
    """A byte order mark, CRLF, any case of the column, quoted line ends, short rows."""
    Path("odd.csv").write_bytes(
        b'\xef\xbb\xbf EMail,note\r\nada@x.org,"two\r\nlines, a ""quote"""\r\n\r\nbob@x.org\r\n'
    )
    done = demo("--input", "odd.csv", "--quota", "40")
    assert (done.exit_code, figure(done, "sent")) == (0, 2)
    told = {row[:2] for row in rows("enriched.csv")}
    assert told == {("ada@x.org", 'two\r\nlines, a "quote"'), ("bob@x.org", "")}
    again = demo("--input", "odd.csv", "--quota", "40")
    assert (figure(again, "sent"), figure(again, "done before")) == (0, 2)


# -- files that cannot be used --------------------------------------------------

GOOD = b"first_name,email\nP0,p0@example.org\nP1,p1@example.org\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read broken.csv: No such file"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"email\n", "is empty below its first line"),
        (b"name,phone\nAda,1\n", "no column 'email' (line 1 says: name, phone)"),
        (b"name;email\nAda;a@x.org\n", "separate the columns by commas"),
        ("email\na@x.org\n".encode("utf-16"), "line 1: this is UTF-16"),
        (b"email\0\na@x.org\n", "line 1: a NUL byte"),
        (b"x" * (1024 * 1024 + 1), "line 1: the line is longer than 1 MiB"),
        (b"email,refused_reason\na@x.org,\n", "it is a result, not an input"),
    ],
    ids=[
        *("missing", "empty", "blank", "header only", "no email", "semicolons"),
        *("utf-16", "nul", "one line", "a result"),
    ],
)
def test_a_file_without_contacts_is_said_so(home: Path, content: bytes | None, told: str) -> None:
    """One clear line and exit code 2; what earlier runs have done stays as it is."""
    demo("--input", contacts(people(3)), "--quota", "40")
    before = [Path(name).read_bytes() for name in ("enriched.csv", "refused.csv")]
    if content is not None:
        Path("broken.csv").write_bytes(content)
    done = demo("--input", "broken.csv", "--quota", "40")
    assert done.exit_code == 2
    assert told in done.stderr
    assert done.stderr.startswith("quotaguard demo: ")
    assert done.stderr.count("\n") == 1
    assert [Path(name).read_bytes() for name in ("enriched.csv", "refused.csv")] == before


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"Jos\xe9,j@x.org\n", "line 4: byte 4 is not UTF-8 (0xe9)"),
        (b"x" * (1024 * 1024) + b",j@x.org\n", "line 4: the line is longer than 1 MiB"),
        (b"x" * 200_000 + b",j@x.org\n", "line 4: field larger than field limit"),
        (b'"Ada,a@x.org\nBob,b@x.org\n', "line 4: unexpected end of data; is a quote never"),
        (b"Blue Kiln, Inc,i@x.org\n", "line 4: 3 fields, but line 1 names 2"),
    ],
    ids=["encoding", "line", "field", "quote", "comma"],
)
def test_a_bad_line_ends_the_run_and_keeps_what_was_done(
    home: Path, line: bytes, told: str
) -> None:
    """The fault names its line, exit code 2; the rows before it are answered."""
    Path("broken.csv").write_bytes(GOOD + line + b"P9,p9@example.org\n")
    done = demo("--input", "broken.csv", "--quota", "40")
    assert done.exit_code == 2
    assert told in done.stderr
    assert partition() == Counter(people(2))
    # Mended, it goes on.
    Path("broken.csv").write_bytes(GOOD + b"P9,p9@example.org\n")
    again = demo("--input", "broken.csv", "--quota", "40")
    assert (again.exit_code, figure(again, "sent"), figure(again, "done before")) == (0, 1, 2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--output", "people.csv"], "--input and --output are the same file"),
        (["--refused", "./people.csv"], "--input and --refused are the same file"),
        (["--output", "both.csv", "--refused", "both.csv"], "are the same file"),
        (["--output", "mine.csv"], "mine.csv exists and is not one of ours; it stays"),
        (["--output", "mine.csv", "--fresh"], "not one of ours; it stays"),
        (["--refused", "mine.csv"], "not one of ours; it stays"),
        (["--output", "nowhere/out.csv"], "there is no folder nowhere"),
        (["--output", "folder"], "cannot open folder"),
        (["--input", "folder"], "is not a regular file"),
    ],
    ids=" ".join,
)
def test_nothing_is_written_over_another_file(home: Path, options: list[str], told: str) -> None:
    """A result that has no place is said so, exit code 2, before a call is made."""
    source = contacts(people(2))
    Path("mine.csv").write_text("my,own,data\n1,2,3\n", encoding="utf-8")
    Path("folder").mkdir()
    before = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    done = demo("--input", source, "--quota", "40", *options)
    assert done.exit_code == 2
    assert told in done.stderr
    assert {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()} == before


def test_results_of_another_file_are_not_mixed(home: Path) -> None:
    """Contacts with other columns do not go into the same file."""
    demo("--input", contacts(people(1)), "--quota", "40")
    Path("other.csv").write_text("email\na@x.org\n", encoding="utf-8")
    done = demo("--input", "other.csv", "--quota", "40")
    assert done.exit_code == 2
    assert "enriched.csv has other columns" in done.stderr


@pytest.mark.parametrize("memory", ["{", "[]", '{"month": 1}'])
def test_a_broken_memory_is_said_so(home: Path, memory: str) -> None:
    """What the fake has billed is never guessed: exit code 2, and how to go on."""
    Path(".quotaguard-demo.json").write_text(memory, encoding="utf-8")
    done = demo("--input", contacts(people(1)), "--quota", "40")
    assert done.exit_code == 2
    assert "--fresh" in done.stderr


def test_a_new_month_begins_with_a_new_quota(home: Path) -> None:
    """What was billed in another month does not count."""
    memory = Path(".quotaguard-demo.json")
    memory.write_text('{"month": "2020-01", "used": 40}', encoding="utf-8")
    done = demo("--input", contacts(people(1)), "--quota", "40")
    assert (figure(done, "sent"), figure(done, "refused")) == (1, 0)


# -- a crash, an interruption ---------------------------------------------------


def test_a_torn_row_is_done_again(home: Path) -> None:
    """A crash in the middle of a write leaves half a row, which the next run replaces."""
    source = contacts(people(6))
    demo("--input", source, "--quota", "40")
    whole = Path("enriched.csv").read_bytes()
    torn = whole[:-4]
    Path("enriched.csv").write_bytes(torn)
    done = demo("--input", source, "--quota", "40")
    assert (figure(done, "done before"), figure(done, "sent")) == (5, 1)
    assert partition() == Counter(people(6))
    # Only the line end is missing: the row is whole, and stays.
    Path("enriched.csv").write_bytes(Path("enriched.csv").read_bytes().rstrip(b"\n"))
    done = demo("--input", contacts(people(7)), "--quota", "40")
    assert (figure(done, "done before"), figure(done, "sent")) == (6, 1)
    assert partition() == Counter(people(7))


def test_results_that_were_changed_are_not_believed(home: Path) -> None:
    """A row in the middle that was not written here: exit code 2, and it stays."""
    source = contacts(people(2))
    demo("--input", source, "--quota", "40")
    text = Path("enriched.csv").read_text(encoding="utf-8")
    spoilt = text.replace(f",{MATCHED}\n", "\n").replace(f",{MISSED}\n", "\n")
    Path("enriched.csv").write_text(spoilt, encoding="utf-8")
    done = demo("--input", source, "--quota", "40")
    assert done.exit_code == 2
    assert "enriched.csv, line 2" in done.stderr
    assert Path("enriched.csv").read_text(encoding="utf-8") == spoilt


def started(source: str) -> subprocess.Popen[str]:
    """Start a demo in a process of its own; return it when it is in the middle."""
    program = "import sys; from quotaguard.cli import main; sys.exit(main())"
    options = ["demo", "--input", source, "--quota", "1000", "--threads", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(quotaguard.__file__).parents[1])},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "headroom" in line:
            return process
    raise AssertionError("it ended before it was in the middle")


def test_an_interrupted_run_keeps_all_and_says_what(home: Path) -> None:
    """Ctrl-C: the summary, exit code 130, and every row stands in one of the files."""
    everybody = people(1500)
    process = started(contacts(everybody))
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 130, told
    assert "interrupted" in told
    assert partition() == Counter(everybody)
    reasons = Counter(row[-1] for row in rows("refused.csv"))
    assert reasons["not reached: the run was interrupted"] > 0
    # Answers that came are in the file: what was billed and is not is the other consumer's.
    assert 0 < matched() <= billed()


def test_a_killed_run_loses_no_answer(home: Path) -> None:
    """SIGKILL in the middle: the rows that were answered are on the disk, and are kept."""
    process = started(contacts(people(1500)))
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    kept = Path("enriched.csv").read_text(encoding="utf-8")
    source = contacts(people(20))
    done = demo("--input", source, "--quota", "1000")
    assert done.exit_code == 0
    assert figure(done, "done before") == 20
    assert Path("enriched.csv").read_text(encoding="utf-8") == kept
    assert rows("refused.csv") == []


# -- the real API ---------------------------------------------------------------


def real(url: str, key: str | None = "real-key-7", *options: str) -> Result:
    """Run the job against an API that is not the demo's own."""
    environment: dict[str, Any] = {} if key is None else {"FULLCONTACT_API_KEY": key}
    done = demo("--provider-url", url, "--input", "people.csv", *options, **environment)
    assert "real-key" not in done.output
    return done


def test_the_same_job_runs_against_another_api(home: Path) -> None:
    """--provider-url and a key from the environment: the provider's own count is told."""
    contacts(people(30))
    with fake("fullcontact", quota=500, key="real-key-7") as vendor:
        done = real(vendor.url)
        assert done.exit_code == 0, done.output
        assert vendor.true["person.enrichment.matches"] == figure(done, "provider says")
        assert vendor.polls == figure(done, "polls") == 2
        assert vendor.requests["/v3/person.enrich"] == 30
    assert matched() == figure(done, "matched")
    assert not Path(".quotaguard-demo.json").exists()


def test_a_wrong_key_is_told_before_anything_is_done(home: Path) -> None:
    """Exit code 1, whose fault it is, and no file is touched, not even with --fresh."""
    contacts(people(3))
    Path("enriched.csv").write_text(",".join([*HEADER, *ADDED]) + "\n", encoding="utf-8")
    with fake("fullcontact", key="real-key-7") as vendor:
        done = real(vendor.url, "real-key-8", "--fresh")
        assert vendor.requests["/v3/person.enrich"] == 0
    assert done.exit_code == 1
    assert "refuses the API key" in done.stderr
    assert Path("enriched.csv").exists()
    assert not Path("refused.csv").exists()


def test_the_key_never_stands_on_the_command_line(home: Path) -> None:
    """There is no option for it; without it in the environment the run ends with 2."""
    contacts(people(1))
    done = real("https://api.fullcontact.com", None)
    assert done.exit_code == 2
    assert "FULLCONTACT_API_KEY" in done.stderr
    assert demo("--api-key", "x").exit_code == 2


def test_a_url_that_cannot_be_used_is_said_so(home: Path) -> None:
    """A key would go over the wire in clear: exit code 2."""
    contacts(people(1))
    done = real("http://api.fullcontact.com")
    assert done.exit_code == 2
    assert "https" in done.stderr


def test_calls_that_fail_are_kept_with_the_reason(home: Path) -> None:
    """Faults of single calls do not end the run; exit code 1, and the next run mends them."""
    everybody = people(12)
    contacts(everybody)
    faults = ["500", "reset", "403", "truncated"]
    with fake("fullcontact", quota=500, key="real-key-7", faults=faults) as vendor:
        done = real(vendor.url)
        assert (done.exit_code, figure(done, "failed")) == (1, 4)
        assert partition() == Counter(everybody)
        reasons = Counter(row[-1] for row in rows("refused.csv"))
        assert reasons["HTTP 500"] == reasons["HTTP 403"] == 1
        assert sum("it may be billed" in reason for reason in reasons) == 2
        again = real(vendor.url)
    assert (again.exit_code, figure(again, "sent")) == (0, 4)
    assert rows("refused.csv") == []
    assert partition() == Counter(everybody)


# -- the command line -----------------------------------------------------------


def test_the_version_is_told() -> None:
    """`quotaguard --version` names the version of the library."""
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"quotaguard {quotaguard.__version__}\n")


def test_help_tells_the_options_and_exit_codes() -> None:
    """`--help` documents every option and what the exit codes mean."""
    done = CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    told = " ".join(re.sub(r"[│─╭╮╰╯]", " ", ESCAPE.sub("", done.stdout)).split())
    for option in ("input", "output", "refused", "quota", "threads", "seed", "fresh", "plot"):
        assert f"--{option}" in told
    assert "--provider-url" in told
    for code in ("0:", "1:", "2:", "130:"):
        assert code in told


def test_without_the_extra_it_says_what_to_install() -> None:
    """One line on stderr and exit code 2; the library itself needs none of it."""
    program = (
        "import sys; sys.modules['typer'] = None; "
        "from quotaguard.cli import main; import quotaguard; quotaguard.Guard; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(quotaguard.__file__).parents[1])},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "quotaguard: the command line needs an extra: pip install 'quotaguard[cli]'"
    ]


def test_a_bug_is_not_taken_for_a_missing_extra() -> None:
    """Another module that is missing is an error of its own."""
    assert callable(main)
    program = (
        "import sys; sys.modules['quotaguard.cli.demo'] = None; "
        "from quotaguard.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(quotaguard.__file__).parents[1])},
    )
    assert done.returncode == 1
    assert "pip install" not in done.stderr


def test_a_log_gets_plain_lines(home: Path) -> None:
    """Where stdout is no terminal there are no colours and no moving bar."""
    done = demo("--input", contacts(people(3)), "--quota", "40")
    assert ESCAPE.search(done.output) is None


def test_a_terminal_of_80_columns_gets_a_bar_and_headroom(home: Path) -> None:
    """The bar and the live headroom are drawn, and no line is wider than the terminal."""
    done = demo("--input", contacts(people(40)), "--quota", "45", FORCE_COLOR="1", TERM="xterm")
    assert ESCAPE.search(done.stdout) is not None
    # The bar is drawn over the one before: the cursor goes up, line by line.
    drawn = ESCAPE.sub("", done.stdout.replace("\x1b[1A", "\n"))
    assert "/40" in drawn
    assert "headroom 45 of 45" in drawn
    assert max(len(line) for line in drawn.splitlines()) <= 80


def test_it_runs_outside_the_main_thread(home: Path) -> None:
    """Signals cannot be caught there; everything else is the same."""
    found: list[Result] = []
    source = contacts(people(3))
    thread = threading.Thread(target=lambda: found.append(demo("--input", source, "--quota", "9")))
    thread.start()
    thread.join()
    assert found[0].exit_code == 0


# -- the parts ------------------------------------------------------------------


def test_a_file_is_read_row_by_row(home: Path) -> None:
    """Rows before a fault are given out before it is raised."""
    Path("broken.csv").write_bytes(GOOD + b"\xff\n")
    given = Contacts(Path("broken.csv")).rows()
    assert [next(given).email, next(given).email] == ["p0@example.org", "p1@example.org"]
    with pytest.raises(FileFault, match=r"broken\.csv, line 4: byte 1 is not UTF-8"):
        next(given)


def test_refused_rows_end_with_the_reason(home: Path) -> None:
    """The columns of the input come first, in both results."""
    demo("--input", contacts(people(1)), "--quota", "40")
    heads = {}
    for name in ("enriched.csv", "refused.csv"):
        heads[name] = Path(name).read_text(encoding="utf-8").splitlines()[0].split(",")
    assert heads == {"enriched.csv": [*HEADER, *ADDED], "refused.csv": [*HEADER, REASON]}
