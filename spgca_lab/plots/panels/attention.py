"""What AttentionExplorer shows: heatmaps of every layer, channel weights, layers' shares, Grad-CAM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spgca_lab.plots.attention import heatmap_limits, overlay
from spgca_lab.plots.canvas import Canvas, shortened, wrapped
from spgca_lab.plots.chart import Chart, span
from spgca_lab.plots.style import (
    GREY,
    MAGNITUDE,
    WIDTH,
    LabFigure,
    as_array,
    as_picture,
    layer_colours,
)

__all__ = [
    "AttentionView",
    "ChannelView",
    "SpatialView",
    "attention_height",
    "attention_panel",
    "draw_shares",
]

CHANNELS_HIGH = 1.95


@dataclass(frozen=True)
class SpatialView:
    """One spatial attention: its name and `{tap: [h, w]}` in units of the uniform weight, or None and why."""

    name: str
    maps: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class ChannelView:
    """One channel attention: its name and `{tap: [c]}` softmax weights, or None and why.

    `joint`: one distribution over all layers (GCA), not one a layer (ACT).
    """

    name: str
    weights: Mapping[str, np.ndarray] | None = None
    joint: bool = True


@dataclass(frozen=True)
class AttentionView:
    """What an explorer knows of one picture's attention, ready to draw.

    Args:
        image: uint8 `[3, h, w]`.
        mask: bool `[h, w]`, or None.
        spatial: one or two, a row each.
        channel: one or two, beside each other.
        cam: Grad-CAM `[rows, columns]`, at least 0, or None.
        cam_name: what it explains, or why there is none.
    """

    image: Any
    mask: Any = None
    spatial: Sequence[SpatialView] = ()
    channel: Sequence[ChannelView] = ()
    cam: Any = None
    cam_name: str = ""


def attention_height(rows: int) -> float:
    """Height in inches for one or two rows of heatmaps.

    Example:
        >>> attention_height(2) > attention_height(1)
        True
    """
    return (2.45 if rows < 2 else 4.65) + CHANNELS_HIGH


def attention_panel(view: AttentionView, opacity: float = 0.65) -> LabFigure:
    """A picture, its Grad-CAM, spatial attentions in every layer, channel attentions, and layers' shares.

    Args:
        view: what to show; parts that are None are replaced by their names.
        opacity: of the heatmaps, 0–1.

    Returns:
        a figure 9 inches wide; its height depends on the number of spatial attentions alone.

    Example:
        >>> view = AttentionView(np.zeros((3, 8, 8), np.uint8), spatial=[SpatialView("SPA", {"a": np.ones((2, 2))})])
        >>> attention_panel(view).get_size_inches().tolist()
        [9.0, 4.4]
    """
    rows = max(1, len(view.spatial))
    canvas = Canvas(WIDTH, attention_height(rows))
    picture = as_picture(view.image)
    mask = None if view.mask is None else as_array(view.mask)
    wide, down = (1.45, 2.2) if rows > 1 else (1.38, 0.0)
    first, second = (0.1, 0.52), ((0.1, 0.52 + down) if rows > 1 else (0.1 + wide + 0.1, 0.52))
    canvas.picture(*first, wide, picture, title="picture", mask=mask)
    _cam(canvas, second, wide, picture, mask, view, opacity)
    start = (0.1 + wide if rows > 1 else second[0] + wide) + 0.22
    for i, spatial in enumerate(view.spatial):
        draw_heatmaps(canvas, start, 0.52 + i * down, wide, picture, mask, spatial, opacity)
    y = canvas.height - CHANNELS_HIGH + 0.38
    count = max(1, len(view.channel))
    room = (WIDTH - 0.1) / count
    for i, channel in enumerate(view.channel):
        draw_channels(canvas, 0.1 + i * room, y, room, channel, narrow=count > 1)
    return canvas.figure


def draw_shares(chart: Chart, weights: Mapping[str, np.ndarray], joint: bool) -> None:
    """Each layer's share of GCA's weights beside its share of the channels, into a chart.

    ACT gives each layer the whole; then the effective number of channels beside that of all, in percent.
    """
    values, even = shares(weights, joint)
    spots = np.arange(len(values))
    chart.bars(
        spots - 0.2, values, 0.38, color=layer_colours(len(values)), texts=[f"{v:.0f}" for v in values]
    )
    chart.bars(spots + 0.2, even, 0.38, color="#cccccc")


def shares(weights: Mapping[str, np.ndarray], joint: bool) -> tuple[list[float], list[float]]:
    """Percent by layer, and what equal weights would have: shares of the whole, or effective numbers.

    Example:
        >>> shares({"a": np.array([0.25, 0.25]), "b": np.array([0.5])}, joint=True)[0]
        [50.0, 50.0]
    """
    total = sum(len(w) for w in weights.values())
    if joint:
        return [100 * float(w.sum()) for w in weights.values()], [
            100 * len(w) / total for w in weights.values()
        ]
    effective = [100 * float(np.exp(_entropy(as_array(w)))) / len(w) for w in weights.values()]
    return effective, [100.0] * len(effective)


def _cam(
    canvas: Canvas,
    place: tuple[float, float],
    wide: float,
    picture: np.ndarray,
    mask: np.ndarray | None,
    view: AttentionView,
    opacity: float,
) -> None:
    x, y = place
    if view.cam is None:
        canvas.note(x, y, wide, wide, wrapped(view.cam_name or "no Grad-CAM"))
        canvas.words(x + wide / 2, y - 0.06, "Grad-CAM", ha="center")
        return
    heat = as_array(view.cam).astype(float)
    heat = heat / max(float(heat.max()), 1e-12)
    title = shortened(f"Grad-CAM: {view.cam_name}", 24)
    canvas.picture(x, y, wide, overlay(picture, heat, (0, 1), opacity, "magma"), title=title, mask=mask)
    canvas.bar(x, y + wide + 0.05, wide, (0, 1), "magma", "of its maximum")


def draw_heatmaps(
    canvas: Canvas,
    x: float,
    y: float,
    wide: float,
    picture: np.ndarray,
    mask: np.ndarray | None,
    view: SpatialView,
    opacity: float,
) -> None:
    """A row of heatmaps, one a layer, from (x, y) to the right edge; each `wide` inches."""
    canvas.words(x, y - 0.3, view.name, weight="bold")
    room = WIDTH - 0.1 - x
    if view.maps is None:
        canvas.note(x, y, room, wide, wrapped(view.name, 60))
        return
    apart = min((room - wide) / max(len(view.maps) - 1, 1), 2 * wide)
    for i, values in enumerate(view.maps.values()):
        limits, at = heatmap_limits(values), x + i * apart
        name = f"layer {i + 1} · {values.shape[0]} × {values.shape[1]}"
        canvas.picture(at, y, wide, overlay(picture, values, limits, opacity), title=name, mask=mask)
        canvas.bar(at, y + wide + 0.05, wide, limits, MAGNITUDE, "× uniform")


def draw_channels(
    canvas: Canvas, x: float, y: float, room: float, view: ChannelView, *, narrow: bool
) -> None:
    """Sorted weights and layers' shares beside each other, in `room` inches from (x, y) on."""
    high = 1.05
    canvas.words(x, y - 0.32, view.name, weight="bold")
    if view.weights is None:
        canvas.note(x, y, room - 0.1, high, wrapped(view.name, 50 if narrow else 90))
        return
    weights = {tap: as_array(w).astype(float) for tap, w in view.weights.items()}
    left = room * (0.48 if narrow else 0.6)
    _sorted(canvas, (x + 0.35, y, left - 0.4, high), weights, view.joint, narrow=narrow)
    values, even = shares(weights, view.joint)
    taps = {i: (f"l. {i + 1}" if narrow else f"layer {i + 1}") for i in range(len(weights))}
    title = "share of the whole, %" if view.joint else "effective channels, %"
    chart = Chart(
        canvas,
        x + left + 0.35,
        y,
        room - left - 0.5,
        high,
        (-0.6, len(weights) - 0.4),
        (0, max(*values, *even) * 1.25),
        title=title if room < 8 else f"{title} (grey: equal weights)",
        xticks=taps,
        yticks=[],
    )
    draw_shares(chart, weights, view.joint)


def _sorted(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    weights: Mapping[str, np.ndarray],
    joint: bool,
    *,
    narrow: bool,
) -> None:
    total, offset = sum(len(w) for w in weights.values()), 0
    relative = {
        tap: np.maximum(np.sort(w)[::-1] * (total if joint else len(w)), 1e-4) for tap, w in weights.items()
    }
    low, high = span(*[np.log10(v) for v in relative.values()], least=0.6)
    chart = Chart(
        canvas,
        *box,
        (0, total),
        (10 ** min(low, -0.35), 10 ** max(high, 0.35)),
        ylog=True,
        title="weight, × uniform, sorted in each layer" if not narrow else "weight, × uniform, sorted",
        xlabel=f"{total} channels",
        xticks=[],
    )
    chart.level(1)
    for i, (colour, values) in enumerate(zip(layer_colours(len(relative)), relative.values(), strict=True)):
        place = offset + np.arange(len(values))
        chart.band(place, np.ones(len(values)), values, color=colour, alpha=0.18)
        chart.line(place, values, color=colour, linewidth=1.8)
        middle = offset + len(values) / 2
        if not narrow or i > 1:
            canvas.words(
                chart.inches(middle, 1)[0],
                box[1] + box[3] + 0.16,
                f"layer {i + 1}",
                ha="center",
                size=7,
                color=GREY,
            )
        offset += len(values)


def _entropy(w: np.ndarray) -> float:
    positive = w[w > 0]
    return float(-(positive * np.log(positive)).sum())
