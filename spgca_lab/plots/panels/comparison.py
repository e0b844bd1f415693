"""The figure of MethodComparison: seeds and intervals beside the paper's numbers, and images with two predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spgca_lab.plots.canvas import Canvas, Chart, limits_with_intervals, shortened, span, wrapped
from spgca_lab.plots.style import FONT, GREY, WIDTH, LabFigure, as_image

if TYPE_CHECKING:
    from spgca_lab.analysis.statistics import MeanInterval, PairedDifference, PredictionsCompared

COMPARISON_HEIGHT = 6.9
ACROSS, DOWN = 9, 2
PAGE = ACROSS * DOWN
MOST_ROWS = 15
PITCH = 1.36
# Colour-blind-safe colours of the method that is right; each is named beside its swatch.
ANSWERS = {"a": "#0072B2", "b": "#E69F00", "neither": "#777777"}
TOP, HEIGHT, LOW = 0.5, 2.72, 3.84
# Left edge and width of each chart, in inches.
OURS, PAPER, GAP = (1.3, 1.95), (4.1, 1.3), (6.42, 1.65)
SMALL: dict[str, Any] = {"size": FONT - 2, "color": GREY}


@dataclass(frozen=True)
class MethodRow:
    """One method of the chart."""

    key: str  # prefix of the identifiers of its artists
    method: str  # name in the recipe
    label: str  # name in the figure
    colour: str  # of its dots
    top1: tuple[float, ...]  # accuracy of each seed in percent; empty when the method was not trained
    ours: "MeanInterval"  # mean and interval of `top1`
    paper: tuple[float, float] | None = None  # mean and sd of the paper on another data set
    gap: "PairedDifference | None" = None  # to the baseline, in points
    baseline: bool = False


@dataclass(frozen=True)
class DividedImage:
    """A test image with two different predictions."""

    image: Any  # uint8 [3, h, w]
    truth: str  # true class
    a: str  # prediction of method a
    b: str  # prediction of method b
    right: str  # "a", "b" or "neither"


@dataclass(frozen=True)
class Disagreement:
    """The predictions of two methods on the test images."""

    a: str
    b: str
    seed: int  # of both runs
    answers: "PredictionsCompared | None" = None  # counts over all test images
    pictures: Sequence[DividedImage] = ()  # of one page
    page: int = 1
    pages: int = 1
    reason: str = ""  # why there is no image


def comparison_panel(
    rows: Sequence[MethodRow], baseline: str, base: "MeanInterval", paper: str, divided: Disagreement
) -> LabFigure:
    """Draw methods from top to bottom (ours, paper, paired difference), and images on which two of them differ."""
    canvas = Canvas(WIDTH, COMPARISON_HEIGHT)
    _charts(canvas, rows[:MOST_ROWS], baseline, base, paper, left_out=len(rows) - MOST_ROWS)
    _disagreement(canvas, divided)
    return canvas.figure


def _charts(
    canvas: Canvas, rows: Sequence[MethodRow], baseline: str, base: "MeanInterval", paper: str, left_out: int
) -> None:
    count = max(len(rows), 1)
    step = min(HEIGHT / count, 0.7)
    height, ylim = step * count, (count - 0.5, -0.5)
    for i in range(0, count, 2):
        canvas.rectangle(0.1, TOP + i * step, WIDTH - 0.2, step, facecolor="#f6f6f6", linewidth=0, zorder=0)

    def chart(place: tuple[float, float], limits: tuple[float, float]) -> Chart:
        return Chart(canvas, (place[0], TOP, place[1], height), limits, ylim, yticks={})

    differences = [r.gap for r in rows if r.gap is not None]
    values = [v for r in rows for v in r.top1] + [base.mean]
    ours = chart(OURS, limits_with_intervals(values, [r.ours for r in rows]))
    edges = [[m - sd, m + sd] for m, sd in (r.paper for r in rows if r.paper)]
    theirs = chart(PAPER, span(*edges, margin=0.1))
    values = [v for gap in differences for v in gap.gaps] + [0.0]
    gaps = chart(GAP, limits_with_intervals(values, differences))
    _titles(canvas, baseline, base, paper, TOP + height + 0.32)
    if np.isfinite(base.mean):
        ours.vline(base.mean, color="#555555", gid="baseline")
    gaps.vline(0.0, color="black", linestyle="-", gid="zero")
    fine = FONT - (1 if step > 0.2 else 1.5)
    for i, row in enumerate(rows):
        middle = TOP + (i + 0.5) * step
        look: dict[str, Any] = {"fontweight": "bold"} if row.baseline else {}
        label = shortened(row.label, 20)
        canvas.text(0.16, middle, label, va="center", size=fine if len(label) < 14 else fine - 1, **look)
        right: dict[str, Any] = {"va": "center", "ha": "right", "size": fine - 1}
        if row.top1:
            _marks(ours, i, row.top1, row.ours, row.colour, f"ours:{row.key}")
            canvas.text(sum(OURS) + 0.73, middle, f"{row.ours:.1f}", **right)
        else:
            canvas.text(sum(OURS) + 0.73, middle, "not trained", **right, color=GREY, style="italic")
        if row.paper is not None:
            mean, sd = row.paper
            theirs.line([mean - sd, mean + sd], [i, i], color=GREY, gid=f"paper:{row.key}:sd")
            # Hollow marks distinguish numbers of another data set from ours.
            look = {"marker": "s", "markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 1.0}
            theirs.dots([mean], [i], color=GREY, gid=f"paper:{row.key}:mean", **look)
            canvas.text(sum(PAPER) + 0.78, middle, f"{mean:.2f} ({sd:.2f})", **right)
        else:
            canvas.text(sum(PAPER) + 0.78, middle, "–", **right, color=GREY)
        text = "baseline" if row.baseline else ""
        if row.gap is not None and row.gap.n:
            _marks(gaps, i, row.gap.gaps, row.gap, row.colour, f"gap:{row.key}")
            text = f"{row.gap:+.1f}"
        elif row.top1 and not row.baseline:
            text = "no shared seed"
        canvas.text(WIDTH - 0.14, middle, text, **right)
    if left_out > 0:
        for down, text in ((0.16, f"and {left_out} more in"), (0.3, "the table below")):
            canvas.text(0.16, TOP + height + down, text, size=FONT - 2, fontweight="bold")


def _titles(canvas: Canvas, baseline: str, base: "MeanInterval", paper: str, low: float) -> None:
    heads = (
        (OURS[0], "ours: top-1, %", "seeds; mean ± 95 % interval"),
        (PAPER[0], "the paper's: other data, %", f"{paper}; mean (sd)"),
        (GAP[0], f"difference to {shortened(baseline, 20)}", "points, same seeds; mean, 95 % interval"),
    )
    for left, title, below in heads:
        canvas.text(left, 0.2, title, size=FONT, fontweight="bold")
        canvas.text(left, 0.37, below, **SMALL)
    if base.n:
        canvas.text(OURS[0], low, f"dotted: {shortened(baseline, 20)}, {base.mean:.1f}", **SMALL)
    canvas.text(PAPER[0], low, "compare the order, not the level", **SMALL)


def _marks(
    chart: Chart, row: int, values: Sequence[float], interval: "MeanInterval", colour: str, gid: str
) -> None:
    rows = np.full(len(values), row - 0.17)
    chart.dots(values, rows, color=colour, markersize=3.6, alpha=0.55, gid=f"{gid}:seeds")
    y, (least, most) = row + 0.15, chart.xlim
    if np.isfinite(interval.half):
        chart.line([interval.low, interval.high], [y, y], color=colour, linewidth=1.8, gid=f"{gid}:interval")
        for end, marker in ((interval.low, "<"), (interval.high, ">")):
            if not least <= end <= most:
                inside = least + 0.02 * (most - least) if end < least else most - 0.02 * (most - least)
                chart.dots([inside], [y], color=colour, marker=marker, markersize=5, gid=f"{gid}:beyond")
    chart.dots([interval.mean], [y], color=colour, marker="D", markersize=4.5, gid=f"{gid}:mean")


def _disagreement(canvas: Canvas, divided: Disagreement) -> None:
    a, b, found = shortened(divided.a, 22), shortened(divided.b, 22), divided.answers
    head = f"Test images on which a = {a} and b = {b} disagree, seed {divided.seed}"
    if found is not None:
        head += f": {found.disagree} of {found.pictures}"
        keys = {
            "a": f"a right, b wrong: {found.only_a}",
            "b": f"b right, a wrong: {found.only_b}",
            "neither": f"both wrong in different ways: {found.apart}",
        }
        x = 0.1
        for right, text in keys.items():
            canvas.rectangle(x, LOW + 0.1, 0.14, 0.1, facecolor=ANSWERS[right], linewidth=0)
            canvas.text(x + 0.19, LOW + 0.2, text, size=FONT - 1)
            x += 0.42 + 0.064 * len(text)
        summary = f"a − b over the test images: {found.difference:+.1f} points, McNemar p = {found.p:.2g}"
        canvas.text(WIDTH - 0.1, LOW + 0.2, summary, ha="right", **SMALL)
        if divided.pages > 1:
            page = f"page {divided.page} of {divided.pages}"
            canvas.text(WIDTH - 0.1, LOW, page, ha="right", size=FONT - 1)
    canvas.text(0.1, LOW, head, size=FONT, fontweight="bold")
    y = LOW + 0.33
    if divided.reason:
        canvas.note(0.1, y, WIDTH - 0.2, COMPARISON_HEIGHT - LOW - 0.43, wrapped(divided.reason, 110))
        return
    for down in range(-(-len(divided.pictures) // ACROSS)):
        _strip(canvas, y + down * PITCH, divided.pictures[down * ACROSS : (down + 1) * ACROSS])


def _strip(canvas: Canvas, top: float, pictures: Sequence[DividedImage]) -> None:
    """Draw images side by side as one image, because each image takes a millisecond, whatever its size."""
    images = [as_image(picture.image) for picture in pictures]
    gap = 0.11
    side = (WIDTH - 0.2 - gap * (ACROSS - 1)) / ACROSS
    pixels = images[0].shape[1]
    between = round(gap * pixels / side)
    room = ((0, 0), (0, between), (0, 0))
    strip = np.hstack([np.pad(image, room, constant_values=255) for image in images])[:, :-between]
    inch = side / pixels
    canvas.image(0.1, top, strip.shape[1] * inch, strip)
    for i, picture in enumerate(pictures):
        x = 0.1 + i * (pixels + between) * inch
        frame: dict[str, Any] = {"fill": False, "edgecolor": ANSWERS[picture.right], "linewidth": 2.6}
        canvas.rectangle(x, top, side, side, **frame, gid=f"frame:{picture.right}")
        # A tick replaces the class of a right prediction, because text takes most of the time to draw.
        said = {who: "✓" if picture.right == who else shortened(getattr(picture, who), 15) for who in "ab"}
        canvas.text(x, top + side + 0.15, shortened(picture.truth, 15), size=FONT - 1.5, fontweight="bold")
        text = f"a: {said['a']}\nb: {said['b']}"
        canvas.text(x, top + side + 0.18, text, size=FONT - 2, va="top", linespacing=1.05)
