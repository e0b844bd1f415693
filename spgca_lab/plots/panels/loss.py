"""The figure of LossExplorer: the loss of a batch by its terms, and the gradient norms of each term, per stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spgca_lab.analysis.gradients import PENALTY
from spgca_lab.plots.canvas import Canvas, Chart, shortened
from spgca_lab.plots.style import FONT, GREY, WIDTH, LabFigure, PlotError, as_array

LOSS_HEIGHT = 5.85
TERM_COLOURS = ("#0072B2", "#D55E00", "#7f7f7f")
NAMES = ("cross-entropy", "α · penalty", "β · decay")
TOP, BOTTOM = 0.42, 5.28
LEFT, SPLIT, CHART, RIGHT = 0.15, 3.0, 4.1, 8.85
SMALL = FONT - 1.5
THUMBNAIL = 40  # pixels
DECADES = 3.0
Limits = tuple[float, float]


@dataclass(frozen=True)
class LossView:
    """The loss and the gradients of one stage; NaN where there is no gradient."""

    title: str  # of the stage
    factors: str  # α, β and scale
    about: str  # description of S and T
    parts: Sequence[float]  # cross-entropy, α·penalty and β·decay, in nats
    places: Sequence[str]  # places of the gradients: the layers, then the head
    norms: Any  # gradient norms of the three terms, [places, 3]
    ratios: Sequence[float]  # gradient norm of the regulariser over that of the task, [places]
    cosines: Sequence[float]  # cosine of the angle between both, [places]
    own: Sequence[float]  # norm of the penalty's gradient from the layer's own term alone, [places]
    note: str = ""  # text on what the bars cannot show

    def __post_init__(self) -> None:
        shape, count = as_array(self.norms).shape, len(self.places)
        lengths = [len(values) for values in (self.ratios, self.cosines, self.own)]
        if shape != (count, 3) or lengths != [count] * 3:
            raise PlotError(
                f"{count} places need norms [{count}, 3] and {count} ratios, cosines and own norms, got norms "
                f"{list(shape)} and {lengths}"
            )


def loss_panel(views: Sequence[LossView], pictures: Any, words: str = "") -> LabFigure:
    """Draw loss terms and gradient norms of one or two stages, and the batch, uint8 `[b, 3, s, s]`."""
    if len(views) not in (1, 2):
        raise PlotError(f"the figure has room for one or two stages, got {len(views)}")
    canvas = Canvas(WIDTH, LOSS_HEIGHT)
    canvas.text(LEFT, 0.2, "loss of the batch", weight="bold")
    canvas.text(CHART, 0.2, "gradient norms at T's maps and head", weight="bold")
    canvas.text(CHART + 2.83, 0.2, "log scale", size=SMALL, color=GREY)
    if any(np.isfinite(as_array(view.own)).any() for view in views):
        canvas.rectangle(RIGHT - 1.15, 0.155, 0.18, 0.022, facecolor="black", linewidth=0)
        canvas.text(RIGHT, 0.2, "layer's own term", size=SMALL, ha="right")
    limits = _limits(np.concatenate([np.append(as_array(view.norms), view.own) for view in views]))
    height = (BOTTOM - TOP) / len(views)
    for row, view in enumerate(views):
        top = TOP + row * height
        if row:
            canvas.rectangle(LEFT, top - 0.1, RIGHT - LEFT, 0.005, facecolor="#cccccc", linewidth=0)
        _loss_terms(canvas, view, top)
        _gradient_norms(canvas, view, top, height, limits)
    _batch(canvas, as_array(pictures), words)
    return canvas.figure


def short_number(value: float) -> str:
    """Format a number with two significant digits.

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
    """Format a share as a percentage; only exact values become 0 % or 100 %.

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


def _short_loss(value: float) -> str:
    """Format a loss with four digits, very small and very large ones with two."""
    if value == 0.0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return short_number(value)


def _limits(norms: np.ndarray) -> Limits:
    found = norms[np.isfinite(norms) & (norms > 0)]
    if not found.size:
        return 1e-3, 1.0
    top = float(found.max()) * 2.5
    # With a floor close to the values, almost equal norms would look different.
    return min(float(found.min()) / 2, top / 10**DECADES), top


def _loss_terms(canvas: Canvas, view: LossView, top: float) -> None:
    canvas.text(LEFT, top + 0.14, shortened(view.title, 36), weight="bold", size=FONT + 1)
    canvas.text(LEFT, top + 0.33, view.factors)
    canvas.text(LEFT, top + 0.5, view.about, size=SMALL, color=GREY)
    loss, width = math.fsum(view.parts), SPLIT - LEFT
    at, y = LEFT, top + 1.0
    for name, part, colour in zip(NAMES, view.parts, TERM_COLOURS, strict=True):
        share = part / loss if loss else 0.0
        canvas.rectangle(at, top + 0.63, width * share, 0.17, facecolor=colour, linewidth=0)
        canvas.rectangle(LEFT, y - 0.1, 0.12, 0.1, facecolor=colour, linewidth=0)
        canvas.text(LEFT + 0.19, y, name)
        canvas.text(LEFT + 1.92, y, _short_loss(part), ha="right")
        canvas.text(SPLIT, y, percent(share), ha="right")
        at += width * share
        y += 0.19
    canvas.rectangle(LEFT, y - 0.14, width, 0.006, facecolor="#999999", linewidth=0)
    canvas.text(LEFT + 0.19, y + 0.02, "loss, in nats")
    canvas.text(LEFT + 1.92, y + 0.02, _short_loss(loss), ha="right")


def _gradient_norms(canvas: Canvas, view: LossView, top: float, height: float, limits: Limits) -> None:
    norms, box = as_array(view.norms), (CHART, top + 0.06, RIGHT - CHART, height - 1.22)
    ticks: dict[str, Any] = {"xticks": dict(enumerate(view.places)), "yticks": _decades(limits, box[3])}
    chart = Chart(canvas, box, (-0.6, len(norms) - 0.4), limits, ylog=True, **ticks)
    _bars(chart, norms, view.own)
    floor = box[1] + box[3]
    own = [value / task if task else math.nan for value, task in zip(view.own, norms[:, 0], strict=True)]
    rows = [("penalty or decay ÷ task", [short_number(value) for value in view.ratios], view.ratios)]
    if np.isfinite(own).any():
        rows.append(("layer's own term ÷ task", [short_number(value) for value in own], own))
    none = [0.0] * len(norms)
    rows.append(("cosine with the task (− against)", [_cosine(value) for value in view.cosines], none))
    y = floor + 0.34
    for name, texts, values in rows:
        canvas.text(CHART - 0.02, y, name, size=SMALL, ha="right", color=GREY)
        for place, (text, value) in enumerate(zip(texts, values, strict=True)):
            look: dict[str, Any] = {"ha": "center", "weight": "bold" if value >= 1 else "normal"}
            canvas.text(chart.inches(place, limits[0])[0], y, text, size=FONT - 1, **look)
        y += 0.165
    if view.note:
        canvas.text(RIGHT, floor + 0.85, view.note, size=SMALL, ha="right", color=GREY)


def _bars(chart: Chart, norms: np.ndarray, own: Sequence[float]) -> None:
    found: list[tuple[float, float, str]] = []
    marks: list[tuple[float, float]] = []
    widest = 0.4
    for place, values in enumerate(norms):
        shown = [i for i in range(3) if not np.isnan(values[i])]
        width = 0.8 / max(len(shown), 2)
        widest = min(widest, width)
        for number, i in enumerate(shown):
            x = place + (number - (len(shown) - 1) / 2) * width
            found.append((x, values[i], TERM_COLOURS[i]))
            if i == PENALTY and own[place] > 0:
                marks += [(x - 0.5 * width, own[place]), (x + 0.5 * width, own[place]), (x, math.nan)]
    # One artist for all bars, because each artist takes time to draw.
    if found:
        xs, heights, colours = zip(*found, strict=True)
        texts = [short_number(height) for height in heights]
        chart.bars(xs, heights, 0.92 * widest, color=colours, texts=texts)
    if marks:
        chart.line(*zip(*marks, strict=True), color="black", linewidth=1.8, zorder=3)


def _decades(limits: Limits, height: float) -> dict[float, str]:
    low, up = math.ceil(math.log10(limits[0])), math.floor(math.log10(limits[1]))
    step = max(1, math.ceil((up - low) / max(2, round(height / 0.5))))
    return {10.0**p: _power(p) for p in range(up, low - 1, -step)}


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else short_number(10.0**exponent).replace("1·", "")


def _cosine(cosine: float) -> str:
    # Adding 0 turns a rounded −0 into 0.
    return "–" if math.isnan(cosine) else f"{round(cosine, 2) + 0.0:+.2f}".replace("-", "−")


def _batch(canvas: Canvas, images: np.ndarray, words: str) -> None:
    width = min((RIGHT - LEFT) / max(len(images), 1), 0.37)
    side = images.shape[-1]
    rows = np.linspace(0, side - 1, min(THUMBNAIL, side)).round().astype(int)
    small = images[:, :, rows][:, :, :, rows].transpose(2, 0, 3, 1)
    canvas.text(LEFT, BOTTOM + 0.12, words, size=SMALL, color=GREY)
    strip = small.reshape(len(rows), len(images) * len(rows), 3)
    canvas.image(LEFT, BOTTOM + 0.18, width * len(images), strip)
