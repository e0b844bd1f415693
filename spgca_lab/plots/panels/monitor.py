"""What TrainingMonitor shows: loss terms, accuracy and attention of a run, as far as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spgca_lab.plots.canvas import Canvas, wrapped
from spgca_lab.plots.chart import Chart, span
from spgca_lab.plots.panels.attention import ChannelView, SpatialView, draw_channels, draw_heatmaps
from spgca_lab.plots.style import GREY, WIDTH, LabFigure, as_array, as_picture
from spgca_lab.plots.training import smooth_by_stage, thinned

__all__ = ["MONITOR_HEIGHT", "TERMS", "MonitorView", "monitor_panel"]

MONITOR_HEIGHT = 4.75
TERMS = {"cross-entropy": "#D55E00", "α · penalty": "#0072B2", "β · decay": "#009E73"}
POINTS = 400


@dataclass(frozen=True)
class MonitorView:
    """A run so far, as arrays.

    Args:
        iterations: steps of the whole run.
        steps: numbers of the steps taken, `[n]`.
        terms: cross-entropy, α · penalty and β · decay at each, `{name: [n]}`, in nats.
        accuracy: of each training batch in percent, `[n]`.
        stages: name of each step's stage, `[n]`.
        tests: (step, test top-1 in percent).
        changes: steps at which a stage begins, with its name.
        image: the probe picture, uint8 `[3, h, w]`, or None before there is one.
        mask: bool `[h, w]`, or None.
        attention: the last snapshot's, or why there is none.
    """

    iterations: int
    steps: np.ndarray
    terms: Mapping[str, np.ndarray]
    accuracy: np.ndarray
    stages: np.ndarray
    tests: Sequence[tuple[int, float]] = ()
    changes: Sequence[tuple[int, str]] = ()
    image: Any = None
    mask: Any = None
    attention: SpatialView | ChannelView | str = field(default="no attention yet")


def monitor_panel(view: MonitorView, opacity: float = 0.65) -> LabFigure:
    """Loss terms and accuracies over the steps, and the attention of the last snapshot.

    Args:
        view: what there is.
        opacity: of the heatmaps, 0–1.

    Returns:
        a figure of 9 × 4.75 inches.

    Example:
        >>> empty = MonitorView(10, np.zeros(0), {name: np.zeros(0) for name in TERMS}, np.zeros(0), np.zeros(0, str))
        >>> monitor_panel(empty).get_size_inches().tolist()
        [9.0, 4.75]
    """
    canvas = Canvas(WIDTH, MONITOR_HEIGHT)
    high = 1.65
    _losses(canvas, (0.55, 0.55, 3.75, high), view)
    _accuracies(canvas, (5.0, 0.55, 3.8, high), view)
    top = 3.05
    if view.image is None:
        canvas.note(0.1, top, WIDTH - 0.2, 1.5, "the run has not begun")
        return canvas.figure
    picture = as_picture(view.image)
    mask = None if view.mask is None else as_array(view.mask)
    wide = 1.38
    canvas.picture(0.1, top, wide, picture, title="probe picture", mask=mask)
    left = 0.1 + wide + 0.3
    if isinstance(view.attention, SpatialView):
        draw_heatmaps(canvas, left, top, wide, picture, mask, view.attention, opacity)
    elif isinstance(view.attention, ChannelView):
        draw_channels(canvas, left, top + 0.05, WIDTH - left, view.attention, narrow=False)
    else:
        canvas.note(left, top, WIDTH - 0.1 - left, wide, wrapped(view.attention, 70))
    return canvas.figure


def _losses(canvas: Canvas, box: tuple[float, float, float, float], view: MonitorView) -> None:
    shown = [values[values > 0] for values in view.terms.values()]
    positive = (
        np.concatenate([*shown, np.array([0.1, 1.0])]) if len(view.steps) == 0 else np.concatenate(shown)
    )
    # Terms of very different size side by side; what is 10,000 times smaller than the largest is nothing.
    top = float(positive.max()) if positive.size else 1.0
    low = max(float(positive.min()), top * 1e-4) if positive.size else 0.1
    limits = tuple(10.0 ** np.array(span(np.log10([low, top]), least=1.0)))
    # No label under the axis: the stages' names stand there.
    chart = Chart(canvas, *box, (0, view.iterations), limits, ylog=True, title="loss terms, nats, by step")
    keep = thinned(len(view.steps), POINTS)
    for name, colour in TERMS.items():
        values = view.terms[name]
        if len(values) and values.max() > 0:
            chart.line(view.steps[keep], values[keep], color=colour, linewidth=0.6, alpha=0.35)
            chart.line(view.steps[keep], smooth_by_stage(values, view.stages)[keep], color=colour, label=name)
    _stages(chart, view)
    chart.legend(0.17, x=box[0])


def _accuracies(canvas: Canvas, box: tuple[float, float, float, float], view: MonitorView) -> None:
    chart = Chart(
        canvas,
        *box,
        (0, view.iterations),
        (0, 104),
        title="accuracy, %, by step",
        yticks=(0, 20, 40, 60, 80, 100),
    )
    keep = thinned(len(view.steps), POINTS)
    if len(view.steps):
        batch = smooth_by_stage(view.accuracy, view.stages, 15)
        chart.line(view.steps[keep], batch[keep], color="#999999", label="training batches, smoothed")
    if view.tests:
        steps, values = zip(*view.tests, strict=True)
        chart.line(steps, values, color="#D55E00", marker="o", markersize=4, label="test top-1")
        x, y = chart.inches(steps[-1], values[-1])
        canvas.words(
            x, y - 0.1, f"{values[-1]:.1f}", color="#D55E00", ha="right" if len(steps) > 1 else "left"
        )
    _stages(chart, view)
    chart.legend(0.17, x=box[0])


def _stages(chart: Chart, view: MonitorView) -> None:
    for step, name in view.changes:
        if step:
            chart.upright(step, color="black", linestyle="-")
        x, y = chart.inches(step, chart.ylim[0])
        chart.canvas.words(x, y + 0.36, f"{name} →" if view.changes[1:] else name, size=8, color=GREY)
    if len(view.steps) and view.steps[-1] < view.iterations:
        chart.upright(float(view.steps[-1]), color="#0072B2", linestyle="-")
