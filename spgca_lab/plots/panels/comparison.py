"""What MethodComparison shows: every seed and interval beside the paper's; pictures that divide two methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spgca_lab.analysis.statistics import AnswersCompared, MeanInterval, PairedDifference
from spgca_lab.plots.canvas import Canvas, shortened, wrapped
from spgca_lab.plots.chart import Chart, span
from spgca_lab.plots.style import FONT, GREY, WIDTH, LabFigure, as_picture

__all__ = [
    "ANSWERS",
    "COMPARISON_HEIGHT",
    "PAGE",
    "Disagreement",
    "DividedPicture",
    "MethodRow",
    "comparison_panel",
]

COMPARISON_HEIGHT = 6.9
ACROSS, DOWN = 9, 2
PAGE = ACROSS * DOWN
MOST_ROWS = 15
PITCH = 1.36
# Who is right, in colours that no kind of colour blindness confuses; each is named beside its swatch.
ANSWERS = {"a": "#0072B2", "b": "#E69F00", "neither": "#777777"}
TOP, HIGH, LOW = 0.5, 2.72, 3.84
# Left edge and width of the three charts.
OURS, PAPER, GAP = (1.3, 1.95), (4.1, 1.3), (6.42, 1.65)
SMALL: dict[str, Any] = {"size": FONT - 2, "color": GREY}


@dataclass(frozen=True)
class MethodRow:
    """One method of the chart.

    Args:
        key: names its artists.
        method: as in the recipe.
        label: its name.
        colour: of its dots.
        top1: accuracies in percent, one a seed; empty: not trained.
        ours: their mean and interval.
        paper: the paper's mean and sd on another data set, None where it has none.
        gap: paired difference to the baseline in points; None for the baseline itself and where none is known.
        baseline: whether this is the baseline.
    """

    key: str
    method: str
    label: str
    colour: str
    top1: tuple[float, ...]
    ours: MeanInterval
    paper: tuple[float, float] | None = None
    gap: PairedDifference | None = None
    baseline: bool = False


@dataclass(frozen=True)
class DividedPicture:
    """A test picture with two different answers.

    Args:
        image: uint8 `[3, h, w]`.
        truth: class that it is.
        a: what method a said.
        b: what method b said.
        right: `"a"`, `"b"` or `"neither"`.
    """

    image: Any
    truth: str
    a: str
    b: str
    right: str


@dataclass(frozen=True)
class Disagreement:
    """Two methods' answers to the test pictures.

    Args:
        a: name of one.
        b: name of the other.
        seed: of both.
        answers: counts over all test pictures; None where they cannot be compared.
        pictures: those of one page.
        page: from 1.
        pages: how many.
        reason: why there is no picture.
    """

    a: str
    b: str
    seed: int
    answers: AnswersCompared | None = None
    pictures: Sequence[DividedPicture] = ()
    page: int = 1
    pages: int = 1
    reason: str = ""


def comparison_panel(
    rows: Sequence[MethodRow],
    baseline: str,
    base: MeanInterval,
    paper: str,
    divided: Disagreement,
) -> LabFigure:
    """Methods from top to bottom: ours, the paper's, and the paired difference; below, what two of them divide.

    Args:
        rows: the methods in the order to show.
        baseline: name of the method that the others are compared with.
        base: its accuracy.
        paper: what the paper's values were measured on, e.g. `"CUB-200-2011, ResNet-101"`.
        divided: pictures on which two methods disagree.

    Returns:
        a figure of 9 × 6.9 inches.

    Example:
        >>> from spgca_lab.analysis.statistics import mean_interval
        >>> row = MethodRow("l2", "l2", "L2", "#7f7f7f", (50.0, 52.0), mean_interval([50.0, 52.0]))
        >>> figure = comparison_panel([row], "uniform", mean_interval([]), "CUB", Disagreement("L2", "AFA", 0))
        >>> figure.get_size_inches().tolist()
        [9.0, 6.9]
    """
    canvas = Canvas(WIDTH, COMPARISON_HEIGHT)
    _charts(canvas, rows[:MOST_ROWS], baseline, base, paper, left_out=len(rows) - MOST_ROWS)
    _pictures(canvas, divided)
    return canvas.figure


def _charts(
    canvas: Canvas,
    rows: Sequence[MethodRow],
    baseline: str,
    base: MeanInterval,
    paper: str,
    left_out: int,
) -> None:
    count = max(len(rows), 1)
    step = min(HIGH / count, 0.7)
    high, ylim = step * count, (count - 0.5, -0.5)
    for i in range(0, count, 2):
        canvas.box(0.1, TOP + i * step, WIDTH - 0.2, step, facecolor="#f6f6f6", linewidth=0, zorder=0)
    ours = Chart(
        canvas,
        OURS[0],
        TOP,
        OURS[1],
        high,
        _limits([(r.top1, r.ours) for r in rows], [base.mean]),
        ylim,
        yticks={},
    )
    theirs = [r.paper for r in rows if r.paper]
    edges = [[m - sd, m + sd] for m, sd in theirs]
    chart_paper = Chart(canvas, PAPER[0], TOP, PAPER[1], high, span(*edges, margin=0.1), ylim, yticks={})
    gaps = Chart(
        canvas,
        GAP[0],
        TOP,
        GAP[1],
        high,
        _limits([(r.gap.gaps, r.gap) for r in rows if r.gap is not None], [0.0]),
        ylim,
        yticks={},
    )
    _titles(canvas, baseline, base, paper, TOP + high + 0.32)
    if np.isfinite(base.mean):
        ours.upright(base.mean, color="#555555", gid="baseline")
    gaps.upright(0.0, color="black", linestyle="-", gid="zero")
    fine = FONT - (1 if step > 0.2 else 1.5)
    for i, row in enumerate(rows):
        middle = TOP + (i + 0.5) * step
        bold = {"fontweight": "bold"} if row.baseline else {}
        label = shortened(row.label, 20)
        canvas.words(0.16, middle, label, va="center", size=fine if len(label) < 14 else fine - 1, **bold)
        right: dict[str, Any] = {"va": "center", "ha": "right", "size": fine - 1}
        if row.top1:
            _marks(ours, i, row.top1, row.ours, row.colour, f"ours:{row.key}")
            canvas.words(OURS[0] + OURS[1] + 0.73, middle, row.ours.spread(), **right)
        else:
            canvas.words(
                OURS[0] + OURS[1] + 0.73, middle, "not trained", **right | {"color": GREY, "style": "italic"}
            )
        if row.paper is not None:
            mean, sd = row.paper
            # Hollow: numbers of another data set must not look like ours.
            chart_paper.line([mean - sd, mean + sd], [i, i], color=GREY, gid=f"paper:{row.key}:sd")
            chart_paper.dots(
                [mean],
                [i],
                color=GREY,
                marker="s",
                markersize=4.5,
                markerfacecolor="white",
                markeredgewidth=1.0,
                gid=f"paper:{row.key}:mean",
            )
            canvas.words(PAPER[0] + PAPER[1] + 0.78, middle, f"{mean:.2f} ± {sd:.2f}", **right)
        else:
            canvas.words(PAPER[0] + PAPER[1] + 0.78, middle, "–", **right, color=GREY)
        told = "baseline" if row.baseline else ""
        if row.gap is not None and row.gap.n:
            _marks(gaps, i, row.gap.gaps, row.gap, row.colour, f"gap:{row.key}")
            told = f"{row.gap:+.1f}"
        elif row.top1 and not row.baseline:
            told = "no shared seed"
        canvas.words(WIDTH - 0.14, middle, told, **right)
    if left_out > 0:
        canvas.words(0.16, TOP + high + 0.16, f"and {left_out} more in", size=FONT - 2, fontweight="bold")
        canvas.words(0.16, TOP + high + 0.3, "the table below", size=FONT - 2, fontweight="bold")


def _titles(canvas: Canvas, baseline: str, base: MeanInterval, paper: str, low: float) -> None:
    heads = (
        (OURS[0], "ours: top-1, %", "seeds; mean, 95 % interval; mean ± sd"),
        (PAPER[0], "the paper's: other data, %", f"{paper}; mean ± sd"),
        (
            GAP[0],
            f"difference to {shortened(baseline, 20)}",
            "points, same seeds; mean, 95 % interval",
        ),
    )
    for left, title, below in heads:
        canvas.words(left, 0.2, title, size=FONT, fontweight="bold")
        canvas.words(left, 0.37, below, **SMALL)
    if base.n:
        canvas.words(OURS[0], low, f"dotted: {shortened(baseline, 20)}, {base.mean:.1f}", **SMALL)
    canvas.words(PAPER[0], low, "compare the order, not the level", **SMALL)


def _limits(
    rows: Sequence[tuple[Sequence[float], MeanInterval]], more: Sequence[float]
) -> tuple[float, float]:
    """Room for all dots, and for intervals up to three times as far: two seeds' may span the whole scale."""
    dots = span(*(values for values, _ in rows), more, least=1.0, margin=0.06)
    far = dots[1] - dots[0]
    ends = [v for _, i in rows for v in (i.low, i.high) if np.isfinite(v)]
    held = [v for v in ends if dots[0] - far <= v <= dots[1] + far]
    return span(dots, held, margin=0.03)


def _marks(
    chart: Chart, row: int, values: Sequence[float], interval: MeanInterval, colour: str, gid: str
) -> None:
    chart.dots(
        values,
        np.full(len(values), row - 0.17),
        color=colour,
        markersize=3.6,
        alpha=0.55,
        gid=f"{gid}:seeds",
    )
    y, (least, most) = row + 0.15, chart.xlim
    if np.isfinite(interval.half):
        chart.line([interval.low, interval.high], [y, y], color=colour, linewidth=1.8, gid=f"{gid}:interval")
        for end, marker in ((interval.low, "<"), (interval.high, ">")):
            if not least <= end <= most:
                edge = least if end < least else most
                inside = edge + (0.02 if end < least else -0.02) * (most - least)
                chart.dots([inside], [y], color=colour, marker=marker, markersize=5, gid=f"{gid}:beyond")
    chart.dots([interval.mean], [y], color=colour, marker="D", markersize=4.5, gid=f"{gid}:mean")


def _pictures(canvas: Canvas, divided: Disagreement) -> None:
    a, b, found = shortened(divided.a, 22), shortened(divided.b, 22), divided.answers
    head = f"Test pictures on which a = {a} and b = {b} disagree, seed {divided.seed}"
    if found is not None:
        head += f": {found.disagree} of {found.pictures}"
    canvas.words(0.1, LOW, head, size=FONT, fontweight="bold")
    y, high = LOW + 0.33, COMPARISON_HEIGHT - LOW - 0.43
    if found is not None:
        keys = {
            "a": f"a right, b wrong: {found.only_a}",
            "b": f"b right, a wrong: {found.only_b}",
            "neither": f"both wrong in different ways: {found.apart}",
        }
        x = 0.1
        for right, words in keys.items():
            canvas.box(x, LOW + 0.1, 0.14, 0.1, facecolor=ANSWERS[right], linewidth=0)
            canvas.words(x + 0.19, LOW + 0.2, words, size=FONT - 1)
            x += 0.42 + 0.064 * len(words)
        alone = f"a − b over the test pictures: {found.difference:+.1f} points, McNemar p = {found.p:.2g}"
        canvas.words(WIDTH - 0.1, LOW + 0.2, alone, ha="right", **SMALL)
        if divided.pages > 1:
            canvas.words(
                WIDTH - 0.1, LOW, f"page {divided.page} of {divided.pages}", ha="right", size=FONT - 1
            )
    if divided.reason:
        canvas.note(0.1, y, WIDTH - 0.2, high, wrapped(divided.reason, 110))
        return
    for down in range(-(-len(divided.pictures) // ACROSS)):
        _strip(canvas, y + down * PITCH, divided.pictures[down * ACROSS : (down + 1) * ACROSS])


def _strip(canvas: Canvas, top: float, pictures: Sequence[DividedPicture]) -> None:
    """Pictures side by side, as one image: each image costs a millisecond, whatever its size."""
    images = [as_picture(picture.image) for picture in pictures]
    gap = 0.11
    side = (WIDTH - 0.2 - gap * (ACROSS - 1)) / ACROSS
    pixels = images[0].shape[1]
    between = round(gap * pixels / side)
    strip = np.full((len(images[0]), len(images) * (pixels + between) - between, 3), 255, np.uint8)
    for i, image in enumerate(images):
        strip[:, i * (pixels + between) : i * (pixels + between) + pixels] = image
    inch = side / pixels
    canvas.picture(0.1, top, strip.shape[1] * inch, strip)
    for i, picture in enumerate(pictures):
        x = 0.1 + i * (pixels + between) * inch
        frame: dict[str, Any] = {"fill": False, "edgecolor": ANSWERS[picture.right], "linewidth": 2.6}
        canvas.box(x, top, side, side, **frame, gid=f"frame:{picture.right}")
        # A tick instead of the class again: words are what takes time to draw, and to read.
        said = {who: "✓" if picture.right == who else shortened(getattr(picture, who), 15) for who in "ab"}
        canvas.words(x, top + side + 0.15, shortened(picture.truth, 15), size=FONT - 1.5, fontweight="bold")
        answers = f"a: {said['a']}\nb: {said['b']}"
        canvas.words(x, top + side + 0.18, answers, size=FONT - 2, va="top", linespacing=1.05)
