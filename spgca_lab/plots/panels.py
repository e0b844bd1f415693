"""The pictures that explorers show: arrays in, one figure of a fixed size out, drawn at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from spgca_lab.plots.attention import heatmap_limits, overlay
from spgca_lab.plots.canvas import Canvas
from spgca_lab.plots.channels import draw_channels, draw_shares
from spgca_lab.plots.style import (
    DIVERGING,
    FONT,
    GREY,
    MAGNITUDE,
    WIDTH,
    LabFigure,
    as_array,
    as_picture,
    tidy,
)
from spgca_lab.plots.training import draw_schedule, smooth

__all__ = ["AttentionView", "attention_panel", "feature_panel", "live_panel", "run_panel"]

FEATURE_HEIGHT = 4.0
ATTENTION_HEIGHT = 4.7
RUN_HEIGHT = 5.0
LIVE_HEIGHT = 2.05
STRIP = 12


@dataclass(frozen=True)
class AttentionView:
    """What an explorer knows of one picture's attention, ready to draw.

    Args:
        image: uint8 `[3, h, w]`.
        mask: bool `[h, w]`, or None.
        spatial: `{tap: [h, w]}` in units of the uniform weight, or None.
        spatial_name: e.g. `"SPA at step 100"`, or why there is none.
        channel: `{tap: [c]}` softmax weights, or None.
        channel_name: as `spatial_name`.
        joint: the channel weights are one distribution over all layers (GCA).
        cam: Grad-CAM `[rows, columns]`, at least 0, or None.
        cam_name: what it explains, or why there is none.
        taps: the layers' names, where neither attention is known.
    """

    image: Any
    mask: Any = None
    spatial: Mapping[str, np.ndarray] | None = None
    spatial_name: str = ""
    channel: Mapping[str, np.ndarray] | None = None
    channel_name: str = ""
    joint: bool = True
    cam: Any = None
    cam_name: str = ""
    taps: Sequence[str] = field(default_factory=tuple)


def feature_panel(
    image: Any, source: Any, channel: int, order: Sequence[int], target: Any = None, mask: Any = None
) -> LabFigure:
    """One channel of one layer beside its picture, with the layer's strongest channels below.

    Args:
        image: uint8 `[3, h, w]`.
        source: FM_S of the layer, `[c, h, w]`.
        channel: which to show large.
        order: channels from strong to weak.
        target: FM_T of the same shape, or None.
        mask: bool `[h, w]`, or None.

    Returns:
        a figure of 9 × 4 inches.

    Example:
        >>> fm = np.random.randn(3, 4, 4)
        >>> figure = feature_panel(np.zeros((3, 8, 8), np.uint8), fm, channel=2, order=[2, 0, 1])
        >>> figure.get_size_inches().tolist()
        [9.0, 4.0]
    """
    canvas, picture, fm = Canvas(WIDTH, FEATURE_HEIGHT), as_picture(image), as_array(source)
    other = None if target is None else as_array(target)
    side, top = 2.08, 0.32
    canvas.picture(0.1, top, side, picture, title="picture", mask=None if mask is None else as_array(mask))
    shown = [fm[channel]] if other is None else [fm[channel], other[channel]]
    # One kind of colour map for the whole layer: a channel without negative values is still a signed
    # quantity.
    both = bool(fm.min() < 0)
    look = _signed(np.stack(shown), always=both)
    for i, values in enumerate(shown):
        x = 0.1 + (side + 0.15) * (i + 1)
        name = f"{('source  FM_S', 'target  FM_T')[i]}, channel {channel}"
        canvas.picture(x, top, side, values, title=name, **look)
        canvas.bar(x, top + side + 0.06, side, (look["vmin"], look["vmax"]), look["cmap"], "activation")
    if other is not None:
        gap = _signed(other[channel] - fm[channel], always=True)
        x = 0.1 + 3 * (side + 0.15)
        canvas.picture(x, top, side, other[channel] - fm[channel], title="difference  FM_T − FM_S", **gap)
        canvas.bar(x, top + side + 0.06, side, (gap["vmin"], gap["vmax"]), DIVERGING, "difference")
    else:
        _strengths(canvas.curves(5.3, top, 3.5, side), fm, channel, order)
    wide = (WIDTH - 0.2 - 0.07 * (STRIP - 1)) / STRIP
    for i, c in enumerate(order[:STRIP]):
        x = 0.1 + i * (wide + 0.07)
        look = _signed(fm[c], always=both)
        canvas.picture(x, 3.25, wide, fm[c], title=str(c), chosen=c == channel, **look)
    canvas.words(0.1, 2.99, "strongest channels of this layer, each on its own scale:", color=GREY)
    return canvas.figure


def attention_panel(view: AttentionView, opacity: float = 0.65) -> LabFigure:
    """A picture, its Grad-CAM, spatial attention in every layer, channel attention, and layers' shares.

    Args:
        view: what to show; parts that are None are replaced by their names.
        opacity: of the heatmaps, 0–1.

    Returns:
        a figure of 9 × 4.7 inches.

    Example:
        >>> view = AttentionView(np.zeros((3, 8, 8), np.uint8), spatial={"a": np.ones((2, 2))})
        >>> figure = attention_panel(view)
        >>> figure.get_size_inches().tolist()
        [9.0, 4.7]
    """
    canvas, picture = Canvas(WIDTH, ATTENTION_HEIGHT), as_picture(view.image)
    mask = None if view.mask is None else as_array(view.mask)
    layers = len(view.spatial or view.channel or view.taps or range(4))
    gap, top = 0.1, 0.52
    wide = min((WIDTH - 0.2 - gap * (layers + 1)) / (layers + 2), 1.6)
    places = [0.1 + i * (wide + gap) for i in range(layers + 2)]
    canvas.picture(places[0], top, wide, picture, title="picture", mask=mask)
    if view.cam is None:
        canvas.note(places[1], top, wide, wide, _wrapped(view.cam_name or "no Grad-CAM"))
        canvas.words(places[1] + wide / 2, top - 0.06, "Grad-CAM", ha="center")
    else:
        heat = as_array(view.cam).astype(float)
        heat = heat / max(float(heat.max()), 1e-12)
        canvas.picture(
            places[1],
            top,
            wide,
            overlay(picture, heat, (0, 1), opacity, "magma"),
            title="Grad-CAM",
            mask=mask,
        )
        canvas.bar(places[1], top + wide + 0.06, wide, (0, 1), "magma", "of its maximum")
        canvas.words(places[1], 0.2, _short(f"for {view.cam_name!r}", 19), color=GREY)
    canvas.words(places[2], 0.2, view.spatial_name, weight="bold")
    if view.spatial is None:
        canvas.note(places[2], top, WIDTH - 0.1 - places[2], wide, _wrapped(view.spatial_name, 60))
    else:
        for i, values in enumerate(view.spatial.values()):
            limits, x = heatmap_limits(values), places[2 + i]
            name = f"layer {i + 1} · {values.shape[0]} × {values.shape[1]}"
            canvas.picture(x, top, wide, overlay(picture, values, limits, opacity), title=name, mask=mask)
            canvas.bar(x, top + wide + 0.06, wide, limits, MAGNITUDE, "× uniform")
    y = top + wide + 0.85
    canvas.words(0.1, y - 0.3, view.channel_name, weight="bold")
    if view.channel is None:
        canvas.note(0.1, y, WIDTH - 0.2, ATTENTION_HEIGHT - y - 0.15, _wrapped(view.channel_name, 90))
    else:
        high = ATTENTION_HEIGHT - y - 0.47
        draw_channels(canvas.curves(0.6, y, 4.9, high), view.channel, view.joint)
        draw_shares(canvas.curves(6.2, y, 2.7, high), view.channel, view.joint)
    return canvas.figure


def run_panel(
    curves: tuple[pd.DataFrame, pd.DataFrame] | None,
    others: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    cells: Mapping[tuple[float, int], float],
    chosen: tuple[float, int],
    view: AttentionView | None,
    film: Sequence[tuple[int, np.ndarray]],
    step: int,
    layer: int,
    opacity: float = 0.65,
) -> LabFigure:
    """One run among its neighbours in α and r: its curves, its final accuracy, its attention at a step.

    Args:
        curves: `Run.steps` and `Run.evaluations` of the chosen run, None if it was never trained.
        others: the same of its neighbours, drawn in grey.
        cells: final top-1 in percent of every trained (α, r).
        chosen: the (α, r) asked for.
        view: its attention at `step` on one picture, None if it was never trained.
        film: (step, map in units of the uniform weight) of the chosen layer at every snapshot.
        step: the step asked for.
        layer: index of the layer, from 0.
        opacity: of the heatmaps, 0–1.

    Returns:
        a figure of 9 × 5 inches.

    Example:
        >>> figure = run_panel(None, [], {(1.0, 4): 70.0}, (3.0, 4), None, [], 0, 0)
        >>> [text.get_text() for text in figure.texts][0]
        'not trained'
    """
    canvas = Canvas(WIDTH, RUN_HEIGHT)
    top, high, bottom = 0.36, 1.75, 3.0
    if curves is None:
        canvas.note(0.1, top, 5.75, high, "not trained")
        canvas.note(
            0.1, bottom, WIDTH - 0.2, 1.8, f"α = {chosen[0]:g} with r = {chosen[1]} is not among these runs"
        )
    else:
        loss, accuracy = canvas.curves(0.5, top, 2.4, high), canvas.curves(3.45, top, 2.4, high)
        _run_curves(loss, accuracy, curves, others, step)
    _cells(canvas, (6.5, top, 2.4, high), cells, chosen)
    if curves is None or view is None:
        return canvas.figure
    picture, wide = as_picture(view.image), 1.5
    mask = None if view.mask is None else as_array(view.mask)
    canvas.picture(0.1, bottom, wide, picture, title="picture", mask=mask)
    _film(canvas, 0.1 + wide + 0.1, bottom, wide, picture, mask, view, film, step, layer, opacity)
    place = (6.5, bottom, 2.4, 1.5)
    canvas.words(6.1, bottom - 0.28, view.channel_name, weight="bold")
    if view.channel is None:
        canvas.note(*place, "")
    else:
        draw_shares(canvas.curves(*place), view.channel, view.joint)
    return canvas.figure


def live_panel(
    image: Any,
    mask: Any,
    tiles: Sequence[tuple[str, Any, str]],
    bars: Sequence[tuple[str, float]],
    bars_title: str,
) -> LabFigure:
    """A forward pass of one picture: maps of the chosen layer, and what the head answers.

    Args:
        image: uint8 `[3, h, w]`.
        mask: bool `[h, w]`, or None.
        tiles: (title, map `[h, w]` or None, label of its colour bar or why there is none); a label beginning
            with `±` makes the map signed.
        bars: (class name, probability) from likely to unlikely; empty to leave them out.
        bars_title: above the bars.

    Returns:
        a figure of 9 × 2.05 inches.

    Example:
        >>> tiles = [("S", np.eye(2), "|FM|")]
        >>> figure = live_panel(np.zeros((3, 8, 8), np.uint8), None, tiles, [("dog", 0.9)], "T")
        >>> figure.get_size_inches().tolist()
        [9.0, 2.05]
    """
    canvas, picture = Canvas(WIDTH, LIVE_HEIGHT), as_picture(image)
    wide, top = 1.3, 0.3
    canvas.picture(0.1, top, wide, picture, title="picture", mask=None if mask is None else as_array(mask))
    for i, (title, values, label) in enumerate(tiles, start=1):
        x = 0.1 + i * (wide + 0.12)
        if values is None:
            canvas.note(x, top, wide, wide, _wrapped(label))
            canvas.words(x + wide / 2, top - 0.06, title, ha="center")
            continue
        values = as_array(values).astype(float)
        look = _signed(values, always=label.startswith("±"))
        canvas.picture(x, top, wide, values, title=title, **look)
        canvas.bar(x, top + wide + 0.06, wide, (look["vmin"], look["vmax"]), look["cmap"], label.lstrip("±"))
    if bars:
        x = 0.1 + (len(tiles) + 1) * (wide + 0.12)
        room = WIDTH - x - 0.1
        canvas.words(x, top - 0.06, bars_title)
        for i, (name, value) in enumerate(bars):
            y = top + 0.14 + i * 0.3
            canvas.axes.add_artist(Rectangle((x, y + 0.05), room, 0.09, facecolor="#eeeeee"))
            canvas.axes.add_artist(Rectangle((x, y + 0.05), room * value, 0.09, facecolor="#0072B2"))
            canvas.words(x, y + 0.01, _short(name, 17), size=FONT - 1)
            canvas.words(x + room, y + 0.01, f"{100 * value:.0f} %", size=FONT - 1, ha="right")
    return canvas.figure


def _strengths(axes: Axes, fm: np.ndarray, channel: int, order: Sequence[int]) -> None:
    strength = np.abs(fm).mean(axis=(1, 2))
    rank = list(order).index(channel)
    axes.fill_between(np.arange(len(order)), strength[list(order)], color="#cccccc", linewidth=0)
    axes.plot([rank], [strength[channel]], "o", color="#D55E00", markersize=6)
    axes.set(xlim=(0, max(len(order) - 1, 1)), ylim=(0, strength.max() * 1.08 or 1))
    tidy(axes, x="channels, strong to weak", title="mean |activation|")


def _film(
    canvas: Canvas,
    x: float,
    y: float,
    wide: float,
    picture: np.ndarray,
    mask: np.ndarray | None,
    view: AttentionView,
    film: Sequence[tuple[int, np.ndarray]],
    step: int,
    layer: int,
    opacity: float,
) -> None:
    canvas.words(x, y - 0.28, view.spatial_name, weight="bold")
    if view.spatial is None or not film:
        canvas.note(x, y, 4.0, wide, "")
        return
    values = list(view.spatial.values())[layer]
    limits = heatmap_limits(np.stack([values for _, values in film]))
    heat = overlay(picture, values, limits, opacity)
    canvas.picture(x, y, wide, heat, title=f"layer {layer + 1}", mask=mask)
    canvas.bar(x, y + wide + 0.06, wide, limits, MAGNITUDE, "× uniform")
    start = x + wide + 0.15
    count = min(len(film), 8)
    across = -(-count // 2) if count > 3 else count
    tile = min((5.9 - start - 0.08 * (across - 1)) / across, 0.62)
    now = max((s for s, _ in film if s <= step), default=film[0][0])
    for i, (at, frame) in enumerate(film[:count]):
        row, column = divmod(i, across)
        name = f"step {at}" if column == 0 else str(at)
        place = (start + column * (tile + 0.08), y + row * (tile + 0.26))
        canvas.picture(*place, tile, overlay(picture, frame, limits, opacity), title=name, chosen=at == now)


def _run_curves(
    loss: Axes,
    accuracy: Axes,
    curves: tuple[pd.DataFrame, pd.DataFrame],
    others: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    step: int,
) -> None:
    grey: dict[str, Any] = {"color": "#cccccc", "linewidth": 0.8}
    if others:
        # One line with gaps: thirty lines would take longer than all the rest.
        loss.plot(*_joined([(s["step"], smooth(s["cross_entropy"])) for s, _ in others]), **grey)
        accuracy.plot(*_joined([(e["step"], e["top1"]) for _, e in others]), **grey)
    steps, evaluations = curves
    loss.plot(steps["step"], smooth(steps["cross_entropy"]), color="#D55E00", linewidth=1.8)
    accuracy.plot(
        evaluations["step"], evaluations["top1"], color="#D55E00", linewidth=1.8, marker="o", markersize=3.5
    )
    loss.set_ylim(bottom=0)
    accuracy.set_xlim(loss.get_xlim())
    accuracy.margins(y=0.15)
    for axes in (loss, accuracy):
        draw_schedule(axes, steps, rates=False)
        axes.axvline(step, color="#0072B2", linewidth=1.6, alpha=0.7)
    tidy(loss, x="step", title="cross-entropy, nats (grey: the other runs)")
    tidy(accuracy, x="step", title="test top-1, %")


def _joined(lines: Sequence[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    gap = np.array([np.nan])
    x, y = ([np.asarray(line[k], dtype=float) for line in lines] for k in (0, 1))
    return tuple(np.concatenate([part for v in values for part in (v, gap)]) for values in (x, y))  # type: ignore[return-value]


def _cells(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    cells: Mapping[tuple[float, int], float],
    chosen: tuple[float, int],
) -> None:
    alphas = sorted({a for a, _ in cells} | {chosen[0]}, reverse=True)
    rates = sorted({r for _, r in cells} | {chosen[1]})
    left, top, wide, high = box[0], box[1], box[2] / len(rates), box[3] / len(alphas)
    low = min(cells.values(), default=0.0)
    # Five points at least from end to end: a spread within the noise of seeds must not look like a trend.
    scale = Normalize(low, max(*cells.values(), low + 5) if cells else low + 5)
    look: dict[str, Any] = {"ha": "center", "va": "center", "size": FONT - 2}
    canvas.words(left + box[2] / 2, top - 0.06, "final test top-1, %", ha="center")
    canvas.words(left + box[2] / 2, top + box[3] + 0.42, "r", ha="center")
    canvas.words(left - 0.5, top + box[3] / 2, "α", va="center")
    for j, r in enumerate(rates):
        canvas.words(left + (j + 0.5) * wide, top + box[3] + 0.2, str(r), size=FONT - 1, ha="center")
    for i, alpha in enumerate(alphas):
        y = top + i * high
        canvas.words(left - 0.08, y + high / 2, f"{alpha:g}", size=FONT - 1, ha="right", va="center")
        for j, r in enumerate(rates):
            value, x = cells.get((alpha, r)), left + j * wide
            face = "#eeeeee" if value is None else colormaps[MAGNITUDE](float(scale(value)))
            canvas.axes.add_artist(
                Rectangle((x, y), wide, high, facecolor=face, edgecolor="white", linewidth=0.8)
            )
            ink = GREY if value is None else "white" if scale(value) < 0.6 else "black"
            text = "not\ntrained" if value is None else f"{value:.1f}"
            canvas.words(x + wide / 2, y + high / 2, text, color=ink, **look)
    at = (left + rates.index(chosen[1]) * wide, top + alphas.index(chosen[0]) * high)
    canvas.axes.add_artist(Rectangle(at, wide, high, fill=False, edgecolor="#D55E00", linewidth=2.6))


def _signed(values: np.ndarray, *, always: bool = False) -> dict[str, Any]:
    top = max(float(np.abs(values).max()), 1e-12)
    if always or values.min() < 0:
        return {"cmap": DIVERGING, "vmin": -top, "vmax": top}
    return {"cmap": MAGNITUDE, "vmin": 0.0, "vmax": top}


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _wrapped(text: str, wide: int = 20) -> str:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > wide:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])
