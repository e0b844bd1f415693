"""The figure of TrainingMonitor: loss terms, accuracy and attention of a run in progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spgca_lab.plots.canvas import Box, Canvas, Chart, span, wrapped
from spgca_lab.plots.panels.attention import ChannelView, SpatialView, channel_row, heatmap_row
from spgca_lab.plots.style import GREY, WIDTH, LabFigure, as_image
from spgca_lab.plots.training import smooth_by_stage, thinned

MONITOR_HEIGHT = 4.75
TERMS = {"cross-entropy": "#D55E00", "α · penalty": "#0072B2", "β · decay": "#009E73"}
POINTS = 400


@dataclass(frozen=True)
class MonitorView:
    """A run in progress, as arrays over its n finished steps."""

    iterations: int  # number of steps of the whole run
    steps: np.ndarray  # [n]
    terms: Mapping[str, np.ndarray]  # cross-entropy, α · penalty and β · decay in nats, {name: [n]}
    accuracy: np.ndarray  # of each training batch in percent, [n]
    stages: np.ndarray  # stage name of each step, [n]
    tests: Sequence[tuple[int, float]] = ()  # (step, test top-1 in percent)
    changes: Sequence[tuple[int, str]] = ()  # first step and name of each stage
    image: Any = None  # probe image, uint8 [3, h, w]; None before the run begins
    mask: Any = None  # bool [h, w]
    attention: SpatialView | ChannelView | str = (
        "no attention yet"  # of the last snapshot, or why there is none
    )


def monitor_panel(view: MonitorView, opacity: float = 0.65) -> LabFigure:
    """Draw loss terms and accuracies over the steps, and the attention of the last snapshot."""
    canvas = Canvas(WIDTH, MONITOR_HEIGHT)
    _losses(canvas, (0.55, 0.55, 3.75, 1.65), view)
    _accuracies(canvas, (5.0, 0.55, 3.8, 1.65), view)
    top, width = 3.05, 1.38
    if view.image is None:
        canvas.note(0.1, top, WIDTH - 0.2, 1.5, "the run has not begun")
        return canvas.figure
    image = as_image(view.image)
    canvas.image(0.1, top, width, image, title="probe image", mask=view.mask)
    left = 0.1 + width + 0.3
    if isinstance(view.attention, SpatialView):
        heatmap_row(canvas, (left, top, width), image, view.mask, view.attention, opacity)
    elif isinstance(view.attention, ChannelView):
        channel_row(canvas, (left, top + 0.05), WIDTH - left, view.attention)
    else:
        canvas.note(left, top, WIDTH - 0.1 - left, width, wrapped(view.attention, 70))
    return canvas.figure


def _losses(canvas: Canvas, box: Box, view: MonitorView) -> None:
    positive = np.concatenate([values[values > 0] for values in view.terms.values()])
    positive = positive if positive.size else np.array([0.1, 1.0])
    # A term 10,000 times smaller than the largest is negligible and may leave the chart.
    low, top = max(positive.min(), positive.max() * 1e-4), positive.max()
    limits = tuple(10.0 ** np.array(span(np.log10([low, top]), least=1.0)))
    chart = Chart(canvas, box, (0, view.iterations), limits, ylog=True, title="loss terms, nats, by step")
    keep = thinned(len(view.steps), POINTS)
    for name, colour in TERMS.items():
        values = view.terms[name]
        if len(values) and values.max() > 0:
            chart.line(view.steps[keep], values[keep], color=colour, linewidth=0.6, alpha=0.35)
            chart.line(view.steps[keep], smooth_by_stage(values, view.stages)[keep], color=colour, label=name)
    _stages(chart, view)
    chart.legend(0.17)


def _accuracies(canvas: Canvas, box: Box, view: MonitorView) -> None:
    look: dict[str, Any] = {"title": "accuracy, %, by step", "yticks": (0, 20, 40, 60, 80, 100)}
    chart = Chart(canvas, box, (0, view.iterations), (0, 104), **look)
    keep = thinned(len(view.steps), POINTS)
    if len(view.steps):
        batch = smooth_by_stage(view.accuracy, view.stages, 15)
        chart.line(view.steps[keep], batch[keep], color="#999999", label="training batches, smoothed")
    if view.tests:
        steps, values = zip(*view.tests, strict=True)
        chart.line(steps, values, color="#D55E00", marker="o", markersize=4, label="test top-1")
        x, y = chart.inches(steps[-1], values[-1])
        side = "right" if len(steps) > 1 else "left"
        canvas.text(x, y - 0.1, f"{values[-1]:.1f}", color="#D55E00", ha=side)
    _stages(chart, view)
    chart.legend(0.17)


def _stages(chart: Chart, view: MonitorView) -> None:
    for step, name in view.changes:
        if step:
            chart.vline(step, color="black", linestyle="-")
        # The stage names take the place of a label of the axis.
        x, y = chart.inches(step, chart.ylim[0])
        chart.canvas.text(x, y + 0.36, f"{name} →" if view.changes[1:] else name, size=8, color=GREY)
    if len(view.steps) and view.steps[-1] < view.iterations:
        chart.vline(float(view.steps[-1]), color="#0072B2", linestyle="-")
