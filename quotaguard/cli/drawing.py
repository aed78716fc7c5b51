"""How the picture of a run is drawn: lines with their names beside them, and no legend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quotaguard.cli.history import Series

__all__ = ["DPI", "ceiling", "drawn", "time_unit"]

# Okabe and Ito's colours, which colour-blind people tell apart; the green darker, for text.
TRUE, OURS, REFUSED = "#0072B2", "#00785A", "#D55E00"
INK, PALE = "#222222", "#6B6B6B"

WIDTH, HEIGHT, DPI = 10.0, 6.0, 120
"""Inches, and dots in one of them: 1,200 by 720."""

TITLE, PLAIN, SMALL = 20.0, 14.0, 12.5
"""Points: sizes of letters."""

LOW = 0.15
"""Below this share of it the quota is out of the picture: all else would lie on the floor."""

GAP = 10.0
"""Dots between a thing and its name."""

POINT = 8.0
"""Dots from the middle of a point to its edge."""

Place = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in dots."""

Sides = tuple[tuple[float, ...], tuple[float, ...]]
"""Up or down, and to the left or right, the best first."""

ABOVE: Sides = ((1.0, -1.0, 0.0), (-1.0, 0.0, 1.0))
OVER: Sides = ((1.0, -1.0, 0.0), (0.0, -1.0, 1.0))
BELOW: Sides = ((-1.0, 0.0, 1.0), (1.0, 0.0, -1.0))
BESIDE: Sides = ((0.0, -1.0, 1.0), (1.0, 0.0, -1.0))


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that was drawn, and the *name* that it wants beside it.

    path: its corners in dots; a name is not written across it. joined: whether it
    is a line. sides: where the name should rather stand.
    """

    name: str
    colour: str
    path: tuple[Place, ...]
    sides: Sides
    joined: bool


def drawn(series: Series) -> Figure:
    """Return the picture of *series*."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.02, 0.115, 0.955, 0.68))
    scale, unit = time_unit(series.points[-1].seconds if series.points else 0.0)
    _frame(axes, series, scale, unit)
    _heads(figure, series)
    _make_room(axes)
    _names(axes, list(_things(axes, series, scale)))
    return figure


def time_unit(seconds: float) -> tuple[float, str]:
    """Return the seconds in the unit in which so long a run is told, and its name."""
    if seconds <= 180.0:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds <= 3 * 3600.0 else (3600.0, "hours")


def ceiling(series: Series) -> tuple[float, bool]:
    """Return the highest number in the picture, and whether the quota is below it."""
    highest = max((max(point.ours, point.true or 0.0) for point in series.points), default=0.0)
    highest = max(1.0, highest, *(used for _, used in series.readings))
    if series.quota is None or highest < LOW * series.quota:
        return 1.3 * highest, False
    return 1.16 * max(highest, series.quota), True


# -- what stands around ---------------------------------------------------------------


def _frame(axes: Axes, series: Series, scale: float, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415 - an extra

    longest = series.points[-1].seconds if series.points else 0.0
    axes.set_xlim(0.0, 1.01 * max(longest / scale, 0.1))
    axes.set_ylim(0.0, ceiling(series)[0])
    axes.set_xlabel(f"{unit} since the start", fontsize=PLAIN, color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=SMALL, length=0, labelcolor=INK, pad=6)
    axes.grid(visible=True, axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PALE)


def _heads(figure: Figure, series: Series) -> None:
    title = figure.text(0.02, 0.935, series.outcome, fontsize=TITLE, weight="bold", color=INK)
    room = 0.96 * WIDTH * DPI
    width = title.get_window_extent().width
    if width > room:
        title.set_fontsize(TITLE * room / width)
    known = "what the provider bills" if series.truth else "what the provider's stats say"
    told = f"One run of quotaguard demo: {known}, and what is counted here before each call"
    figure.text(0.02, 0.878, told, fontsize=SMALL, color=PALE)
    # Where the eye begins, and not upright along the axis.
    figure.text(0.02, 0.81, "matches (units of the quota)", fontsize=PLAIN, color=INK)


def _make_room(axes: Axes) -> None:
    """Move the axes to the right until their longest number is in the picture."""
    numbers = [text.get_window_extent().width for text in axes.get_yticklabels()]
    place = axes.get_position()
    left = place.x0 + (max(numbers, default=0.0) + 12.0) / (WIDTH * DPI)
    axes.set_position((left, place.y0, place.x1 - left, place.height))


# -- what is drawn ----------------------------------------------------------------------


def _things(axes: Axes, series: Series, scale: float) -> Iterator[Thing]:
    """Draw everything; yield what wants a name, the hardest to place first."""
    top, shown = ceiling(series)
    at = [point.seconds / scale for point in series.points]
    quota = series.quota
    if series.refusals:
        y = (quota if quota is not None and shown else 0.92 * top) + 0.025 * top
        when = [seconds / scale for seconds in series.refusals]
        axes.plot(when, [y] * len(when), "|", color=REFUSED, markersize=11, markeredgewidth=1.4)
        name = series.refused_calls
        yield _thing(axes, name, REFUSED, when, [y] * len(when), sides=OVER, joined=False)
    if quota is not None and shown:
        axes.axhline(quota, color=INK, linewidth=1.6)
        ends = list(axes.get_xlim())
        every = "" if series.held_back else f"; {series.priority} calls may use all of it"
        yield _thing(axes, f"quota {quota:,}{every}", INK, ends, [quota, quota])
    elif quota is not None:
        name = f"\u2191 quota {quota:,}, far above"
        yield _thing(axes, name, INK, [0.0], [top], sides=BELOW)
    if series.held_back:
        lines = [top if point.line is None else point.line for point in series.points]
        axes.plot(at, lines, color=PALE, linewidth=1.6, linestyle=(0, (4, 2)))
        yield _thing(axes, f"{series.priority} calls go up to here", PALE, at, lines)
    if series.truth:
        true = [point.true or 0 for point in series.points]
        axes.plot(at, true, color=TRUE, linewidth=3.4, zorder=3)
        yield _thing(axes, f"true count, {true[-1]:,} in the end", TRUE, at, true, sides=BELOW)
    if series.points:
        ours = [point.ours for point in series.points]
        axes.plot(at, ours, color=OURS, linewidth=2.0, zorder=4)
        yield _thing(axes, "our count", OURS, at, ours)
    if series.readings:
        when = [seconds / scale for seconds, _ in series.readings]
        used = [said for _, said in series.readings]
        axes.plot(
            when, used, "o", color="white", markeredgecolor=INK, ms=8, zorder=5, clip_on=False
        )
        name = "readings of the provider's stats"
        yield _thing(axes, name, INK, when, used, sides=BESIDE, joined=False)


def _thing(
    axes: Axes,
    name: str,
    colour: str,
    x: list[float],
    y: list[float],
    *,
    sides: Sides = ABOVE,
    joined: bool = True,
) -> Thing:
    dots = axes.transData.transform(list(zip(x, y, strict=True)))
    path = tuple((float(across), float(up)) for across, up in dots)
    return Thing(name, colour, path, sides, joined)


# -- names --------------------------------------------------------------------------------


def _names(axes: Axes, things: list[Thing]) -> None:
    """Write each name where it is beside its own thing, and across nothing else."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415 - an extra

    frame = axes.get_window_extent()
    edges = (frame.x0, frame.y0, frame.x1, frame.y1)
    dots = [list(_along(thing)) for thing in things]
    taken: list[Box] = []
    for thing, own in zip(things, dots, strict=True):
        text = axes.text(0, 0, thing.name, color=thing.colour, fontsize=PLAIN, va="bottom")
        text.set_zorder(6)
        # Where there is no free place it can still be read.
        text.set_path_effects([withStroke(linewidth=3.0, foreground="white")])
        size = text.get_window_extent()
        others = [place for those in dots if those is not own for place in those]
        boxes = _boxes(thing, sorted(own), others, size.width, size.height)
        everything = [*own, *others]
        _, best = min((cost + _cost(box, edges, everything, taken), box) for cost, box in boxes)
        # Not in dots: a page of paper has others.
        x, y = axes.transData.inverted().transform(best[:2])
        text.set_position((float(x), float(y)))
        taken.append(best)


def _along(thing: Thing) -> Iterator[Place]:
    """Yield dots all along a thing, close enough that no name fits in between."""
    yield from thing.path
    for (x, y), (right, up) in pairwise(thing.path) if thing.joined else ():
        steps = int(max(abs(right - x), abs(up - y)) / 5.0)
        for step in range(1, steps):
            yield x + (right - x) * step / steps, y + (up - y) * step / steps


def _boxes(
    thing: Thing, own: list[Place], others: list[Place], width: float, height: float
) -> Iterator[tuple[float, Box]]:
    """Yield places of a name beside its thing, each with what it costs to be less fit."""
    far = GAP if thing.joined else GAP + POINT
    ups, across = thing.sides
    for part in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9, 0.0, 1.0):
        x, y = own[int(part * (len(own) - 1))]
        # Where two lines are one, a name does not say which of them is meant.
        lost = 5.0 if any(abs(x - a) < GAP and abs(y - b) < GAP for a, b in others) else 0.0
        for less, up in enumerate(ups):
            for off, side in enumerate(across):
                for row in range(4 if up else 1):
                    left = x + side * far - width * (1.0 - side) / 2.0
                    bottom = y + up * (GAP + row * 1.3 * height) - height * (1.0 - up) / 2.0
                    cost = lost + 3.0 * row + 2.0 * less + 0.5 * off + abs(part - 0.5)
                    yield cost, (left, bottom, left + width, bottom + height)


def _cost(box: Box, edges: Box, crossed: Iterable[Place], taken: Iterable[Box]) -> float:
    """Return how bad a place for a name is: outside, on another name, across something."""
    left, bottom, right, top = box
    out = max(0.0, edges[0] - left, right - edges[2], edges[1] - bottom, top - edges[3])
    over = sum(1 for x, y in crossed if left - 3 < x < right + 3 and bottom - 2 < y < top + 2)
    names = sum(
        1
        for other in taken
        if left < other[2] + 6 and other[0] < right + 6 and bottom < other[3] and other[1] < top
    )
    return 100.0 * out + 5000.0 * names + over
