"""What LossExplorer shows: the loss of a batch by its terms, and what each term pulls at, stage by stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spgca_lab.analysis.gradients import PENALTY
from spgca_lab.plots.canvas import Canvas, shortened
from spgca_lab.plots.chart import Chart
from spgca_lab.plots.style import FONT, GREY, WIDTH, LabFigure, PlotError, as_array

__all__ = ["LOSS_HEIGHT", "TERM_COLOURS", "LossView", "loss_panel", "percent", "short_number"]

LOSS_HEIGHT = 5.85
TERM_COLOURS = ("#0072B2", "#D55E00", "#7f7f7f")
NAMES = ("cross-entropy", "α · penalty", "β · decay")
TOP, BOTTOM = 0.42, 5.28
LEFT, SPLIT, CHART, RIGHT = 0.15, 3.0, 4.1, 8.85
SIDE = 40  # pixels of a small picture
DECADES = 3.0


@dataclass(frozen=True)
class LossView:
    """One stage, in numbers to draw.

    Args:
        title: of the stage.
        factors: α, β and scale, in words.
        about: which networks S and T are.
        parts: cross-entropy, α·penalty and β·decay, in nats.
        places: where gradients are taken: the layers, then the head.
        norms: of the three terms' gradients, `[places, 3]`; NaN where a term does not act.
        ratios: the regulariser's pull over the task's, `[places]`.
        cosines: of the angle between both, `[places]`; NaN where there is none.
        own: norms of the penalty's gradient by the layer's own term alone, `[places]`; NaN where there is none.
        note: what the bars cannot show.

    Raises:
        PlotError: when the numbers are not those of the places.
    """

    title: str
    factors: str
    about: str
    parts: Sequence[float]
    places: Sequence[str]
    norms: Any
    ratios: Sequence[float]
    cosines: Sequence[float]
    own: Sequence[float]
    note: str = ""

    def __post_init__(self) -> None:
        shape, count = as_array(self.norms).shape, len(self.places)
        lengths = [len(values) for values in (self.ratios, self.cosines, self.own)]
        if shape != (count, 3) or lengths != [count] * 3:
            raise PlotError(
                f"{count} places need norms [{count}, 3] and {count} ratios, cosines and own norms, got norms "
                f"{list(shape)} and {lengths}"
            )


def loss_panel(views: Sequence[LossView], pictures: Any, words: str = "") -> LabFigure:
    """The loss split and the gradient norms of one or two stages, and the batch.

    Args:
        views: one a stage.
        pictures: uint8 `[b, 3, s, s]`.
        words: on the batch.

    Returns:
        a figure of 9 × 5.85 inches.

    Raises:
        PlotError: when there is no stage, or more than two.

    Example:
        >>> bars = np.array([[0.1, 0.02, np.nan], [3.0, np.nan, 0.04]])
        >>> places, pull = ("layer 1", "head"), ((0.2, 0.01), (0.5, 0), (0.02, 0))
        >>> view = LossView("SPA", "α = 3", "", (2.0, 0.1, 0.1), places, bars, *pull)
        >>> loss_panel([view], np.zeros((2, 3, 8, 8), np.uint8)).get_size_inches().tolist()
        [9.0, 5.85]
    """
    if len(views) not in (1, 2):
        raise PlotError(f"the figure has room for one or two stages, got {len(views)}")
    canvas = Canvas(WIDTH, LOSS_HEIGHT)
    _headings(canvas, key=any(np.isfinite(as_array(view.own)).any() for view in views))
    limits = _limits(np.concatenate([np.append(as_array(view.norms), view.own) for view in views]))
    high = (BOTTOM - TOP) / len(views)
    for row, view in enumerate(views):
        top = TOP + row * high
        if row:
            canvas.box(LEFT, top - 0.1, RIGHT - LEFT, 0.005, facecolor="#cccccc", linewidth=0)
        _split(canvas, view, top)
        _pulls(canvas, view, top, high, limits)
    _batch(canvas, as_array(pictures), words)
    return canvas.figure


def short_number(value: float) -> str:
    """A number with two digits that matter, as people write it.

    Example:
        >>> short_number(0.0312), short_number(1234.0), short_number(3.1e-7), short_number(0.0)
        ('0.031', '1,200', '3.1·10⁻⁷', '0')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("−∞" if value < 0 else "∞")
    if value == 0.0:
        return "0"
    digits, power = f"{abs(value):.1e}".split("e")
    sign = "−" if value < 0 else ""
    if not -4 <= int(power) < 6:
        raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{sign}{digits.removesuffix('.0')}·10{raised}"
    rounded = float(f"{digits}e{power}")
    if rounded >= 10:
        return f"{sign}{rounded:,.0f}"
    return sign + f"{rounded:.{max(1 - int(power), 0)}f}".rstrip("0").rstrip(".")


def percent(share: float) -> str:
    """A share as a percentage: never 0 or 100 for what only nearly is.

    Example:
        >>> percent(0.1234), percent(3e-7), percent(1.0), percent(0.99999)
        ('12 %', '0.00003 %', '100 %', '> 99.9 %')
    """
    if share == 0.0 or share == 1.0:
        return f"{100 * share:.0f} %"
    if share > 0.9995:
        return "> 99.9 %"
    if share >= 0.1:
        return f"{100 * share:.1f} %" if share >= 0.95 else f"{100 * share:.0f} %"
    if share >= 1e-8:
        places = 1 - math.floor(math.log10(100 * share))
        return f"{100 * share:.{places}f}".rstrip("0").rstrip(".") + " %"
    return f"{short_number(100 * share)} %"


def _headings(canvas: Canvas, *, key: bool) -> None:
    canvas.words(LEFT, 0.2, "loss of the batch", weight="bold")
    canvas.words(CHART, 0.2, "gradient norms at T's maps and head", weight="bold")
    canvas.words(CHART + 2.83, 0.2, "log scale", size=FONT - 1.5, color=GREY)
    if key:
        canvas.box(RIGHT - 1.15, 0.155, 0.18, 0.022, facecolor="black", linewidth=0)
        canvas.words(RIGHT, 0.2, "layer's own term", size=FONT - 1.5, ha="right")


def _limits(norms: np.ndarray) -> tuple[float, float]:
    found = norms[np.isfinite(norms) & (norms > 0)]
    if not found.size:
        return 1e-3, 1.0
    top = float(found.max()) * 2.5
    # A bar's height means little on this scale unless its floor is far below: equal pulls must look equal.
    return min(float(found.min()) / 2, top / 10**DECADES), top


def _split(canvas: Canvas, view: LossView, top: float) -> None:
    canvas.words(LEFT, top + 0.14, shortened(view.title, 36), weight="bold", size=FONT + 1)
    canvas.words(LEFT, top + 0.33, view.factors)
    canvas.words(LEFT, top + 0.5, view.about, size=FONT - 1.5, color=GREY)
    loss, wide = math.fsum(view.parts), SPLIT - LEFT
    at, y = LEFT, top + 0.63
    for part, colour in zip(view.parts, TERM_COLOURS, strict=True):
        share = part / loss if loss else 0.0
        canvas.box(at, y, wide * share, 0.17, facecolor=colour, linewidth=0)
        at += wide * share
    y += 0.37
    for name, part, colour in zip(NAMES, view.parts, TERM_COLOURS, strict=True):
        canvas.box(LEFT, y - 0.1, 0.12, 0.1, facecolor=colour, linewidth=0)
        canvas.words(LEFT + 0.19, y, name)
        canvas.words(LEFT + 1.92, y, short_loss(part), ha="right")
        canvas.words(SPLIT, y, percent(part / loss if loss else 0.0), ha="right")
        y += 0.19
    canvas.box(LEFT, y - 0.14, wide, 0.006, facecolor="#999999", linewidth=0)
    canvas.words(LEFT + 0.19, y + 0.02, "loss, in nats")
    canvas.words(LEFT + 1.92, y + 0.02, short_loss(loss), ha="right")


def short_loss(value: float) -> str:
    """A loss with four digits, or as `short_number` writes the very small and the very large.

    Example:
        >>> short_loss(3.76412), short_loss(3e-7)
        ('3.764', '3·10⁻⁷')
    """
    if value == 0.0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return short_number(value)


def _pulls(canvas: Canvas, view: LossView, top: float, high: float, limits: tuple[float, float]) -> None:
    count, norms = len(view.places), as_array(view.norms)
    box = (CHART, top + 0.06, RIGHT - CHART, high - 1.22)
    chart = Chart(
        canvas,
        *box,
        (-0.6, count - 0.4),
        limits,
        ylog=True,
        xticks=dict(enumerate(view.places)),
        yticks=_decades(limits, box[3]),
    )
    _bars(chart, norms, view.own)
    floor = box[1] + box[3]
    own = [value / task if task else math.nan for value, task in zip(view.own, norms[:, 0], strict=True)]
    rows = [("penalty or decay ÷ task", view.ratios)]
    if np.isfinite(own).any():
        rows.append(("layer's own term ÷ task", own))
    y = floor + 0.34
    for name, values in rows:
        canvas.words(CHART - 0.02, y, name, size=FONT - 1.5, ha="right", color=GREY)
        for place, value in enumerate(values):
            weight = "bold" if value >= 1 else "normal"
            x = chart.inches(place, limits[0])[0]
            canvas.words(x, y, short_number(value), ha="center", size=FONT - 1, weight=weight)
        y += 0.165
    canvas.words(CHART - 0.02, y, "cosine with the task (− against)", size=FONT - 1.5, ha="right", color=GREY)
    for place, cosine in enumerate(view.cosines):
        x = chart.inches(place, limits[0])[0]
        canvas.words(x, y, _cosine(cosine), ha="center", size=FONT - 1)
    if view.note:
        canvas.words(RIGHT, floor + 0.85, view.note, size=FONT - 1.5, ha="right", color=GREY)


def _bars(chart: Chart, norms: np.ndarray, own: Sequence[float]) -> None:
    found: list[tuple[float, float, str]] = []
    marks: list[tuple[float, float]] = []
    widest = 0.4
    for place, values in enumerate(norms):
        shown = [i for i in range(3) if not np.isnan(values[i])]
        wide = 0.8 / max(len(shown), 2)
        widest = min(widest, wide)
        for number, i in enumerate(shown):
            x = place + (number - (len(shown) - 1) / 2) * wide
            found.append((x, values[i], TERM_COLOURS[i]))
            if i == PENALTY and own[place] > 0:
                marks += [(x - 0.5 * wide, own[place]), (x + 0.5 * wide, own[place]), (x, math.nan)]
    if found:
        # All in one: every artist by itself takes its time to draw.
        xs, heights, colours = zip(*found, strict=True)
        texts = [short_number(height) for height in heights]
        chart.bars(xs, heights, 0.92 * widest, color=colours, texts=texts)
    if marks:
        chart.line(*zip(*marks, strict=True), color="black", linewidth=1.8, zorder=3)


def _decades(limits: tuple[float, float], high: float) -> dict[float, str]:
    low, up = math.ceil(math.log10(limits[0])), math.floor(math.log10(limits[1]))
    step = max(1, math.ceil((up - low) / max(2, round(high / 0.5))))
    return {10.0**p: _power(p) for p in range(up, low - 1, -step)}


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else short_number(10.0**exponent).replace("1·", "")


def _cosine(cosine: float) -> str:
    # Adding 0 makes a rounded −0 a 0.
    return "–" if math.isnan(cosine) else f"{round(cosine, 2) + 0.0:+.2f}".replace("-", "−")


def _batch(canvas: Canvas, pictures: np.ndarray, words: str) -> None:
    wide = min((RIGHT - LEFT) / max(len(pictures), 1), 0.37)
    # Nearest pixels of the batch, side by side in one image.
    side = pictures.shape[-1]
    rows = np.linspace(0, side - 1, min(SIDE, side)).round().astype(int)
    small = pictures[:, :, rows][:, :, :, rows].transpose(2, 0, 3, 1)
    tiles = small.reshape(len(rows), len(pictures) * len(rows), 3)
    canvas.words(LEFT, BOTTOM + 0.12, words, size=FONT - 1.5, color=GREY)
    canvas.picture(LEFT, BOTTOM + 0.18, wide * len(pictures), tiles)
