"""`quotaguard demo --plot`: what was heard is what is drawn, and a picture has a place first."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure
from typer.testing import CliRunner, Result

import quotaguard
from quotaguard import Policy
from quotaguard.cli.app import app
from quotaguard.cli.drawing import ceiling, drawn, time_unit
from quotaguard.cli.history import MOST, History, Point, Series, Thinned, may_use
from quotaguard.cli.picture import MARK
from quotaguard.quota.events import Polled, PollFailed, Refused
from quotaguard.quota.readings import Period
from quotaguard.quota.standing import Row
from quotaguard.testing import fake

METER = "person.enrichment.matches"
DAY = 86_400.0
PNG = b"\x89PNG\r\n\x1a\n"

# -- what is heard ------------------------------------------------------------------


@given(st.integers(0, 3_000), st.integers(2, 40))
def test_few_are_kept_of_many_and_evenly(count: int, most: int) -> None:
    """The first, the last, and in between every so manieth; never more than there is room for."""
    items = Thinned[int](most)
    for item in range(count):
        items.add(item)
    kept = list(items)
    assert items.count == count
    assert len(kept) <= most + 1
    assert kept[:1] + kept[-1:] == ([0, count - 1] if count else [])
    steps = [later - sooner for sooner, later in pairwise(kept)]
    if steps:
        assert set(steps[:-1]) <= {steps[0]}
        assert 0 < steps[-1] <= steps[0]
        assert len(kept) > min(count, most) / 2


def polled(used: float, meter: str = METER) -> Polled:
    """Return the event of a reading."""
    told: dict[str, float] = {meter: used}
    return Polled(
        provider="p", account="a", used=told, limit={meter: 9}, period_end=None, next_poll=1.0
    )


def refused(*, shadow: bool = False) -> Refused:
    """Return the event of a refusal."""
    return Refused(
        provider="p",
        account="a",
        refusal="QuotaExhausted",
        meter=METER,
        priority="critical",
        requested=1,
        used=9,
        limit=9,
        headroom=0,
        retry_after=None,
        resets_at=None,
        shadow=shadow,
    )


def row(used: float, limit: float | None, headroom: float | None, reserved: float = 0) -> Row:
    """Return how a meter stands, in the middle of its month."""
    period = Period(0.0, 30 * DAY)
    return Row(METER, used, limit, reserved, headroom, 0, period, 0.0, None, 0)


class Hand:
    """A clock that is moved by hand."""

    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_what_is_drawn_is_what_was_heard() -> None:
    """Readings, refusals and looks, each at its time since the first of them."""
    hand = Hand()
    history = History(Policy(), "critical", hand)
    history(polled(3))
    hand.seconds += 0.5
    history.look(4, row(3, 10, 6, reserved=1), 15 * DAY)
    history(polled(77, "another.meter"))
    history(PollFailed(provider="p", account="a", error="E", reason="", failures=1, retry_in=1.0))
    hand.seconds += 0.5
    history(refused())
    history(refused(shadow=True))
    hand.seconds += 1.0
    history(polled(9))
    history(refused())
    history.look(9, row(9, 10, 0), 15 * DAY)
    assert history.series() == Series(
        points=(Point(0.5, 4, 4, 10, 10), Point(2.0, 9, 10, 10, 10)),
        readings=((0.0, 3), (2.0, 9)),
        refusals=(1.0, 2.0),
        refused=2,
        quota=10,
        priority="critical",
    )


def test_our_count_is_the_upper_bound() -> None:
    """What may be on the bill at most: with the margin and with what is in flight."""
    history = History(Policy(), "critical", Hand())
    for standing in (row(50, 100, 30, reserved=5), row(50, None, None, reserved=5)):
        history.look(None, standing, 15 * DAY)
    # A count that is past the limit is told as it is.
    history.look(None, row(120, 100, 0, reserved=1), 15 * DAY)
    assert [point.ours for point in history.series().points] == [70, 55, 121]
    assert not history.series().truth


@given(st.lists(st.sampled_from(("poll", "refuse", "look", "wait")), max_size=60), st.booleans())
def test_a_history_is_in_order_and_loses_no_refusal(played: list[str], truth: bool) -> None:
    """Times never fall, refusals are all counted, readings are those that came."""
    hand = Hand()
    history = History(Policy(), "normal", hand)
    for number, what in enumerate(played):
        if what == "poll":
            history(polled(number))
        elif what == "refuse":
            history(refused())
        elif what == "look":
            history.look(number if truth else None, row(number, 100, 5), 15 * DAY)
        else:
            hand.seconds += 1.5
    told = history.series()
    assert told.refused == len(told.refusals) == played.count("refuse")
    assert [used for _, used in told.readings] == [
        number for number, what in enumerate(played) if what == "poll"
    ]
    for times in (
        [point.seconds for point in told.points],
        [seconds for seconds, _ in told.readings],
        list(told.refusals),
    ):
        assert times == sorted(times)
        assert all(seconds >= 0 for seconds in times)
    assert told.truth == (truth and "look" in played)
    assert told.outcome


def test_a_run_of_days_takes_no_more_memory() -> None:
    """A million refusals are a number and a few hundred marks."""
    hand = Hand()
    history = History(Policy(), "critical", hand)
    for number in range(20_000):
        hand.seconds += 0.1
        history(refused())
        if number % 4 == 0:
            history(polled(number))
            history.look(number, row(number, 10**6, 10), 15 * DAY)
    told = history.series()
    assert told.refused == 20_000
    assert max(len(told.points), len(told.readings), len(told.refusals)) <= MOST + 1
    assert min(len(told.points), len(told.readings), len(told.refusals)) > MOST / 2
    assert told.points[-1].true == 19_996
    assert told.refusals[-1] == pytest.approx(20_000 * 0.1 - 0.1, abs=1e-6)


def test_the_line_is_that_of_the_runs_priority() -> None:
    """Critical calls may use all; normal ones leave (1 - 0.8) of what is left of the period."""
    standing = row(0, 1000, 1000)
    assert may_use(standing, Policy(), "critical", 15 * DAY) == 1000
    assert may_use(standing, Policy(), "normal", 15 * DAY) == 900
    assert may_use(standing, Policy(), "normal", 30 * DAY) == 1000
    own = Policy(meters={METER: Policy(slack={"normal": 0.5})})
    assert may_use(standing, own, "normal", 0.0) == 500
    assert may_use(row(0, None, None), Policy(), "normal", 0.0) is None


# -- words ---------------------------------------------------------------------------


def shown(
    true: list[float] | None,
    ours: list[float],
    quota: float | None,
    *,
    lines: list[float] | None = None,
    readings: tuple[tuple[float, float], ...] = ((0.0, 0),),
    refusals: tuple[float, ...] = (),
    count: int | None = None,
    seconds: float = 10.0,
) -> Series:
    """Return a history with its points evenly over so many seconds."""
    step = seconds / max(1, len(ours) - 1)
    points = [
        Point(
            number * step,
            None if true is None else true[number],
            value,
            quota if lines is None else lines[number],
            quota,
        )
        for number, value in enumerate(ours)
    ]
    many = len(refusals) if count is None else count
    priority = "critical" if lines is None else "normal"
    return Series(tuple(points), readings, refusals, many, quota, priority)


LAST = ((0.0, 0), (9.0, 412))


@pytest.mark.parametrize(
    ("series", "said"),
    [
        (
            shown([0, 993], [0, 1000], 1000, refusals=(9.0,), count=359),
            "993 of 1,000 used, 0 past the quota, 359 calls refused",
        ),
        (shown([0, 850], [0, 900], 1000), "850 of 1,000 used, 0 past the quota, no call refused"),
        (
            shown([0, 1010], [0, 1000], 1000, refusals=(1.0,)),
            "1,010 of 1,000 used, 10 past the quota, 1 call refused",
        ),
        (
            shown([0, 0], [0, 0], 0, refusals=(1.0, 2.0)),
            "0 of 0 used, 0 past the quota, 2 calls refused",
        ),
        (
            shown(None, [0, 420], 5000, readings=LAST),
            "412 of 5,000 used, 0 past the quota, no call refused",
        ),
        (shown(None, [0, 420], None, readings=LAST), "412 used, no limit, no call refused"),
        (
            shown(None, [0, 9], 10, readings=()),
            "an unknown number of 10 used, 0 past the quota, no call refused",
        ),
    ],
    ids=["spent", "not spent", "past it", "nothing included", "real", "unlimited", "unread"],
)
def test_the_title_says_what_came_of_it(series: Series, said: str) -> None:
    """The outcome in words, without a look at the lines; what is not known is not made up."""
    assert series.outcome == said


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [(0.0, "seconds"), (180.0, "seconds"), (181.0, "minutes"), (10_800.0, "minutes")],
)
def test_time_is_told_in_units_that_fit(seconds: float, unit: str) -> None:
    """Nobody reads 30,000 seconds."""
    assert time_unit(seconds)[1] == unit
    assert time_unit(10_801.0) == (3600.0, "hours")


def test_a_quota_that_is_far_off_does_not_press_the_lines_to_the_floor() -> None:
    """The scale ends above what there is to see, and above the quota where it is near."""
    assert ceiling(shown([0, 900], [0, 950], 1000)) == (pytest.approx(1160), True)
    assert ceiling(shown([0, 900], [0, 950], 100_000)) == (pytest.approx(1235), False)
    assert ceiling(shown([0, 1200], [0, 1000], 1000))[0] > 1200
    assert ceiling(shown([0, 0], [0, 0], 0)) == (pytest.approx(1.16), True)
    assert ceiling(shown([], [], None, readings=())) == (pytest.approx(1.3), False)


# -- the picture ------------------------------------------------------------------------

UP = [float(n) for n in range(101)]
SHAPES = {
    "usual": shown(
        [min(9.3 * n, 993) for n in range(150)],
        [min(9.6 * n, 1000) for n in range(150)],
        1000,
        readings=tuple((seconds, min(75.0 * seconds, 990)) for seconds in range(11)),
        refusals=tuple(7 + 0.01 * n for n in range(300)),
    ),
    "tiny": shown([0, 2], [0, 3], 1000, seconds=0.05),
    "one look": shown([3], [3], 10, seconds=0.0),
    "nothing refused": shown(UP, UP, 140),
    "spent before": shown([993.0] * 50, [1000.0] * 50, 1000, refusals=tuple(UP), count=10**6),
    "nothing included": shown([0.0] * 9, [0.0] * 9, 0, refusals=(0.1, 0.2)),
    "huge": shown(
        [1e5 * n for n in range(125)],
        [1e5 * n for n in range(125)],
        12_500_000,
        readings=tuple((300.0 * n, 1e6 * n) for n in range(12)),
        refusals=(35_000.0,),
        count=12_345_678,
        seconds=36_000.0,
    ),
    "far below": shown(UP, UP, 10**6),
    "real": shown(None, UP, 110, readings=((0.0, 0.0), (5.0, 30.0))),
    "unlimited": shown(None, UP, None, refusals=(3.0,)),
    "a line": shown(UP, UP, 110, lines=[80.0 + n / 10 for n in range(101)]),
    "nothing heard": shown(None, [], None, readings=()),
}


def curves(figure: Figure) -> list[tuple[list[float], list[float]]]:
    """Return what was drawn, line by line."""
    (axes,) = figure.axes
    return [
        ([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()])
        for line in axes.get_lines()
    ]


@pytest.mark.parametrize("series", SHAPES.values(), ids=SHAPES)
def test_the_curves_are_the_series(series: Series) -> None:
    """True count, our count, line, readings and refusals are drawn as they were heard."""
    scale, _ = time_unit(series.points[-1].seconds if series.points else 0.0)
    at = [point.seconds / scale for point in series.points]
    heard: list[tuple[list[float], list[Any]]] = []
    if series.points:
        heard.append((at, [point.ours for point in series.points]))
    if series.truth:
        heard.append((at, [point.true for point in series.points]))
    if series.held_back:
        heard.append((at, [point.line for point in series.points]))
    if series.readings:
        when = [seconds / scale for seconds, _ in series.readings]
        heard.append((when, [used for _, used in series.readings]))
    if series.quota is not None and ceiling(series)[1]:
        heard.append(([0.0, 1.0], [series.quota] * 2))
    told = curves(drawn(series))
    marks = [seconds / scale for seconds in series.refusals]
    if marks:
        # Beside the quota, all on one height.
        assert marks in [x for x, _ in told]
        told = [(x, y) for x, y in told if x != marks or len(set(y)) > 1 or (x, y) in heard]
        assert len(told) == len(heard)
    assert sorted(told) == sorted(heard)


@pytest.mark.parametrize("series", SHAPES.values(), ids=SHAPES)
def test_every_word_can_be_read(series: Series) -> None:
    """Large enough, inside the picture, and not on another one's place."""
    figure = drawn(series)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = [text for text in axes.texts if text.get_text()]
    low, high = axes.get_ylim()
    numbers = [text for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high]
    heads = [*figure.texts, axes.xaxis.label]
    whole = figure.bbox
    for text in [*names, *numbers, *heads]:
        box = text.get_window_extent()
        assert text.get_fontsize() >= 12, text.get_text()
        assert whole.x0 <= box.x0, text.get_text()
        assert box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0, text.get_text()
        assert box.y1 <= whole.y1, text.get_text()
    boxes = [(text.get_text(), text.get_window_extent()) for text in [*names, *heads]]
    for number, (name, box) in enumerate(boxes):
        for other, place in boxes[number + 1 :]:
            assert not box.overlaps(place), f"{name} / {other}"


def test_each_thing_has_its_name_beside_it() -> None:
    """No legend: the words stand in the picture, in the colour of what they name."""
    (axes,) = drawn(SHAPES["usual"]).axes
    assert axes.get_legend() is None
    assert {text.get_text() for text in axes.texts} == {
        "300 calls refused",
        "quota 1,000; critical calls may use all of it",
        "true count, 993 in the end",
        "our count",
        "readings of the provider's stats",
    }
    colours = {line.get_color() for line in axes.get_lines()}
    assert {text.get_color() for text in axes.texts} - {"#222222"} <= colours
    (axes,) = drawn(SHAPES["a line"]).axes
    assert "normal calls go up to here" in {text.get_text() for text in axes.texts}
    (axes,) = drawn(SHAPES["far below"]).axes
    assert "↑ quota 1,000,000, far above" in {text.get_text() for text in axes.texts}
    (axes,) = drawn(SHAPES["real"]).axes
    assert not any("true count" in text.get_text() for text in axes.texts)


# -- the command ----------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Work in a folder of one's own, with a few contacts in it."""
    with contextlib.chdir(tmp_path):
        with Path("people.csv").open("w", encoding="utf-8", newline="") as file:
            people = [("email",), *((f"p{n}@example.org",) for n in range(30))]
            csv.writer(file).writerows(people)
        yield tmp_path


def demo(*options: str, **environment: str) -> Result:
    """Run the demo here, as if it was typed."""
    settings: dict[str, str | None] = {"COLUMNS": "80", "FULLCONTACT_API_KEY": None}
    command = ["demo", "--input", "people.csv", "--quota", "40", *options]
    done = CliRunner().invoke(app, command, env=settings | environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_a_run_leaves_a_picture(home: Path) -> None:
    """A PNG of 1,200 by 720 that a README can carry; a second run draws its own over it."""
    done = demo("--plot", "p.png")
    assert done.exit_code == 0, done.output
    assert "p.png: the picture of this run." in done.stdout
    first = Path("p.png").read_bytes()
    assert first.startswith(PNG)
    assert struct.unpack(">II", first[16:24]) == (1200, 720)
    assert MARK.encode() in first
    assert len(first) < 150 * 1024
    again = demo("--plot", "./p.png")
    assert again.exit_code == 0, again.output
    assert Path("p.png").read_bytes() != first
    assert [path.name for path in home.iterdir() if "partial" in path.name] == []


def test_a_run_without_plot_draws_nothing(home: Path) -> None:
    """Who does not ask for a picture does not pay for one."""
    program = (
        "import sys; from typer.testing import CliRunner; from quotaguard.cli.app import app; "
        "done = CliRunner().invoke(app, ['demo', '--input', 'people.csv', '--quota', '40']); "
        "assert done.exit_code == 0, done.output; assert 'matplotlib' not in sys.modules"
    )
    settings = os.environ | {"PYTHONPATH": str(Path(quotaguard.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, env=settings)


@pytest.mark.parametrize(
    ("name", "begins"),
    [("p.SVG", b"<?xml"), ("p.pdf", b"%PDF"), ("p.jpg", b"\xff\xd8")],
)
def test_other_kinds_of_pictures_are_drawn_too(home: Path, name: str, begins: bytes) -> None:
    """Whatever matplotlib writes, by the ending of the name."""
    done = demo("--plot", name)
    assert done.exit_code == 0, done.output
    assert Path(name).read_bytes().startswith(begins)


def test_words_keep_their_place_on_paper(home: Path) -> None:
    """A page has other dots than a screen: the names stand at the same shares of it."""
    figure = drawn(SHAPES["usual"])
    places = []
    for dpi in (120, 72):
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        whole = figure.bbox
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        places.append([(box.x0 / whole.width, box.y0 / whole.height) for box in boxes])
    for screen, paper in zip(*places, strict=True):
        assert math.dist(screen, paper) < 0.01


def test_the_title_of_a_real_run_is_its_table(home: Path) -> None:
    """What the picture says in words is what the summary says in numbers."""
    done = demo("--plot", "p.svg", "--quota", "12")
    numbers = dict(re.findall(r"(?m)^(true count|overshoot|refused) +([\d,]+) ", done.stdout))
    said = f"{numbers['true count']} of 12 used, {numbers['overshoot']} past the quota"
    # An SVG writes letters as shapes, and says in a comment what they spell.
    assert f"<!-- {said}, {numbers['refused']} calls refused -->" in Path("p.svg").read_text(
        "utf-8"
    )


def test_the_real_api_has_no_true_count(home: Path) -> None:
    """What only the provider knows is left out."""
    with fake("fullcontact", quota=500, key="real-key-7") as vendor:
        done = demo(
            "--plot", "p.svg", "--provider-url", vendor.url, FULLCONTACT_API_KEY="real-key-7"
        )
    assert done.exit_code == 0, done.output
    drawing = Path("p.svg").read_text("utf-8")
    assert "of 500 used" in drawing
    assert "true count" not in drawing
    assert "real-key-7" not in drawing


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("p.xyz", "--plot p.xyz: the name of a picture ends in one of "),
        ("p", "ends in one of"),
        ("p.pgf", "ends in one of"),
        ("nowhere/p.png", "--plot nowhere/p.png: there is no folder nowhere"),
        ("people.csv", "--input and --plot are the same file"),
        ("enriched.csv", "--output and --plot are the same file"),
        ("./refused.csv", "--refused and --plot are the same file"),
        ("folder.png", "not a regular file"),
        ("holiday.png", "holiday.png exists and is not one of ours; it stays"),
        ("holiday.jpg", "holiday.jpg exists; it stays"),
        (f"{'p' * 249}.png", "cannot write it: File name too long"),
        (f"{'p' * 300}.png", "File name too long"),
        ("people.csv/p.png", "there is no folder people.csv"),
    ],
)
def test_a_picture_without_a_place_is_said_so_before_the_run(
    home: Path, place: str, told: str
) -> None:
    """Exit code 2, one clear line, and not a call was made."""
    Path("folder.png").mkdir()
    for name in ("holiday.png", "holiday.jpg"):
        Path(name).write_bytes(PNG + b"somebody's own")
    before = sorted(path.name for path in home.iterdir())
    done = demo("--plot", place)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert sorted(path.name for path in home.iterdir()) == before
    assert Path("holiday.png").read_bytes().endswith(b"somebody's own")


def test_an_old_picture_stays_until_there_is_a_new_one(home: Path) -> None:
    """A run that never begins, for a wrong key, touches nothing."""
    demo("--plot", "p.png")
    before = Path("p.png").read_bytes()
    with fake("fullcontact", key="real-key-7") as vendor:
        done = demo(
            "--plot", "p.png", "--provider-url", vendor.url, FULLCONTACT_API_KEY="real-key-8"
        )
    assert done.exit_code == 1
    assert Path("p.png").read_bytes() == before
    assert [path.name for path in home.iterdir() if "partial" in path.name] == []


def test_a_run_that_ends_early_has_its_picture(home: Path) -> None:
    """A bad line ends the run with exit code 2; what was done is drawn."""
    with Path("people.csv").open("a", encoding="utf-8") as file:
        file.write("a,b,c\n")
    done = demo("--plot", "p.png")
    assert done.exit_code == 2
    assert Path("p.png").read_bytes().startswith(PNG)


def test_an_empty_file_may_be_written_over(home: Path) -> None:
    """What a shell or mktemp has made beforehand is nobody's picture."""
    Path("p.png").touch()
    assert demo("--plot", "p.png").exit_code == 0
    assert Path("p.png").read_bytes().startswith(PNG)


def test_without_matplotlib_it_says_what_to_install(home: Path) -> None:
    """Exit code 2 before anything is done; without --plot nothing is missing."""
    program = (
        "import sys; sys.modules['matplotlib'] = None; "
        "from quotaguard.cli import main; sys.exit(main())"
    )
    settings = os.environ | {"PYTHONPATH": str(Path(quotaguard.__file__).parents[1])}
    command = [sys.executable, "-c", program, "demo", "--input", "people.csv", "--quota", "40"]
    done = subprocess.run(
        [*command, "--plot", "p.png"], capture_output=True, text=True, check=False, env=settings
    )
    assert (done.returncode, done.stdout) == (2, "")
    said = "quotaguard demo: --plot needs an extra: pip install 'quotaguard[plot]'"
    assert done.stderr.splitlines() == [said]
    assert [path.name for path in home.iterdir()] == ["people.csv"]
    assert subprocess.run(command, capture_output=True, check=False, env=settings).returncode == 0


def test_somebodys_own_style_is_not_taken(home: Path) -> None:
    """The picture looks the same whatever a matplotlibrc says, and leaves it as it was."""
    with rc_context({"axes.facecolor": "black", "font.size": 40.0}):
        assert demo("--plot", "p.svg").exit_code == 0
        assert rcParams["axes.facecolor"] == "black"
    assert "#000000" not in Path("p.svg").read_text("utf-8")
