"""Figures of attention: heatmaps of AST and SPA, channel weights of ACT and GCA, and the optimum of their penalty."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import Normalize

from spgca_lab._checks import Array
from spgca_lab.analysis.scores import effective_number
from spgca_lab.plots.canvas import Box, Canvas, Chart, Place, span
from spgca_lab.plots.images import require_as_many
from spgca_lab.plots.style import (
    FONT,
    GREY,
    MAGNITUDE,
    WIDTH,
    LabFigure,
    PlotError,
    as_array,
    as_images,
    chart_figure,
    layer_colours,
    layer_names,
    log_axis,
    tidy,
    top_legend,
)

Weights = Mapping[str, Any]
Limits = tuple[float, float]


def relative_maps(weights: Array, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return weights `[n, h·w]` as maps `[n, h, w]` in units of the uniform weight; `size` None takes a square."""
    flat = np.atleast_2d(as_array(weights).astype(float))
    side = round(flat.shape[-1] ** 0.5)
    h, w = size or (side, side)
    if flat.ndim != 2 or h * w != flat.shape[1]:
        raise PlotError(
            f"{flat.shape[-1]} weights are no {h} × {w} map: give the layer's size as sizes={{tap: (h, w)}}"
        )
    return flat.reshape(-1, h, w) * (h * w)


def heatmap_limits(maps: np.ndarray) -> Limits:
    """Return colour limits around 1, at least ±10 %, so that noise does not look like structure."""
    return min(0.9, float(maps.min())), max(1.1, float(maps.max()))


def overlay(
    image: np.ndarray, heat: np.ndarray, limits: Limits, opacity: float, cmap: str = MAGNITUDE
) -> np.ndarray:
    """Blend a heatmap `[rows, columns]` over a grey copy of the image `[h, w, 3]`, cell by cell without smoothing."""
    height, width = image.shape[:2]
    rows = np.arange(height) * heat.shape[0] // height
    columns = np.arange(width) * heat.shape[1] // width
    colours = colormaps[cmap](Normalize(*limits, clip=True)(heat))[..., :3][rows][:, columns] * 255
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    return np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def attention_overlay(
    images: Any,
    weights: Weights,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    masks: Any = None,
    *,
    opacity: float = 0.65,
    row_titles: Sequence[str] | None = None,
    title: str = "",
) -> LabFigure:
    """Draw spatial attention over images in units of the uniform weight: one row per image, one column per layer.

    Args:
        images: `[3, h, w]` or `[n, 3, h, w]`, uint8, cropped as for the network.
        weights: `{tap: [n, h·w]}` or `{tap: [h·w]}`, softmax weights of AST or SPA.
        sizes: `{tap: (h, w)}`; None takes square maps.
        masks: bool `[n, h, w]`, outlines of the objects.
        opacity: 0 (image only) to 1 (heatmap only).
        row_titles: one title per image.
        title: title of the figure.

    Raises:
        PlotError: when numbers of images, weights, masks or titles differ, or a layer has another size.
    """
    shown = as_images(images)
    if not 0 <= opacity <= 1:
        raise PlotError(f"opacity must be from 0 to 1, got {opacity!r}")
    maps = {tap: relative_maps(w, (sizes or {}).get(tap)) for tap, w in weights.items()}
    counts = {tap: len(m) for tap, m in maps.items()}
    if not maps or any(n != len(shown) for n in counts.values()):
        raise PlotError(f"{len(shown)} images need as many rows of weights, got {counts or 'no layers'}")
    masks = masks[None] if getattr(masks, "ndim", 0) == 2 else masks
    require_as_many(shown, masks=masks, row_titles=row_titles)
    width = min((WIDTH - 0.2 - 0.1 * len(maps)) / (1 + len(maps)), 1.75)
    apart = width * max(image.shape[0] / image.shape[1] for image in shown) + (0.24 if row_titles else 0.1)
    top = 0.46 if title else 0.22
    canvas = Canvas(WIDTH, top + len(shown) * apart + 0.3)
    limits = [heatmap_limits(m) for m in maps.values()]
    for row, image in enumerate(shown):
        y = top + row * apart
        mask = None if masks is None else masks[row]
        canvas.image(0.1, y, width, image, title=row_titles[row] if row_titles is not None else "")
        place, fields = (0.2 + width, y, width), [m[row] for m in maps.values()]
        ends: dict[str, bool] = {"heads": row == 0, "bars": row == len(shown) - 1}
        draw_heatmaps(canvas, place, image, mask, fields, opacity, limits, **ends)
    canvas.heading(title)
    return canvas.figure


def draw_heatmaps(
    canvas: Canvas,
    place: Place,
    image: np.ndarray,
    mask: Any,
    maps: Sequence[np.ndarray],
    opacity: float,
    limits: Sequence[Limits] | None = None,
    *,
    apart: float | None = None,
    heads: bool = True,
    bars: bool = True,
) -> None:
    """Draw a row of heatmaps over an image, one per layer; `place` is (x, y, width) of the first in inches."""
    x, y, width = place
    below = y + width * image.shape[0] / image.shape[1] + 0.05
    for i, values in enumerate(maps):
        ends, at = limits[i] if limits else heatmap_limits(values), x + i * (apart or width + 0.1)
        name = f"layer {i + 1} · {values.shape[0]} × {values.shape[1]}" if heads else ""
        canvas.image(at, y, width, overlay(image, values, ends, opacity), title=name, mask=mask)
        if bars:
            canvas.colour_bar(at, below, width, ends, MAGNITUDE, "× uniform")


def channel_weights(weights: Weights, *, title: str = "") -> LabFigure:
    """Draw the sorted channel weights of one image or a batch mean, and the share of each layer.

    The right chart compares the share of each layer in GCA with its share of the channels (uniform weights).
    ACT has one distribution per layer, so there it shows the effective number of channels instead. `weights` is
    `{tap: [c]}` or `{tap: [n, c]}` (averaged).

    Raises:
        PlotError: when there are no weights, or they sum neither to 1 together nor to 1 in each layer.
    """
    means = _channel_means(weights)
    canvas = Canvas(WIDTH, 2.6 if title else 2.4)
    draw_channels(canvas, (0.1, 0.5 if title else 0.3), WIDTH - 0.1, means, _is_joint(means), height=1.65)
    canvas.heading(title)
    return canvas.figure


def draw_channels(
    canvas: Canvas,
    place: tuple[float, float],
    room: float,
    weights: Mapping[str, np.ndarray],
    joint: bool,
    *,
    height: float = 1.05,
    narrow: bool = False,
) -> None:
    """Draw sorted weights and the shares of layers side by side, in `room` inches from `place`."""
    (x, y), left = place, room * (0.48 if narrow else 0.6)
    total, offset = sum(len(w) for w in weights.values()), 0
    relative = [np.maximum(np.sort(w)[::-1] * (total if joint else len(w)), 1e-4) for w in weights.values()]
    low, high = span(*[np.log10(v) for v in relative], least=0.6)
    limits = 10 ** min(low, -0.35), 10 ** max(high, 0.35)
    look: dict[str, Any] = {"xlabel": f"{total} channels", "xticks": []}
    look["title"] = "weight, × uniform, sorted" + ("" if narrow else " in each layer")
    chart = Chart(canvas, (x + 0.35, y, left - 0.4, height), (0, total), limits, ylog=True, **look)
    chart.line((0, total), [1, 1], color=GREY, linewidth=0.8, linestyle="--")
    for i, (colour, values) in enumerate(zip(layer_colours(len(relative)), relative, strict=True)):
        at = offset + np.arange(len(values))
        chart.band(at, 1, values, color=colour, alpha=0.18)
        chart.line(at, values, color=colour, linewidth=1.8)
        if not narrow or i > 1:
            middle = chart.inches(offset + len(values) / 2, 1)[0]
            canvas.text(middle, y + height + 0.16, f"layer {i + 1}", ha="center", size=FONT - 2, color=GREY)
        offset += len(values)
    box = x + left + 0.35, y, room - left - 0.5, height
    draw_shares(canvas, box, weights, joint, short=narrow, key=room >= 8)


def draw_shares(
    canvas: Canvas,
    box: Box,
    weights: Mapping[str, np.ndarray],
    joint: bool,
    *,
    short: bool = False,
    key: bool = False,
) -> None:
    """Draw the shares of layers beside those of uniform weights, as bars; `key` explains the grey bars."""
    values, uniform = shares(weights, joint)
    spots = np.arange(len(values))
    title = "share of the whole, %" if joint else "effective channels, %"
    title += " (grey: uniform weights)" if key else ""
    names = {i: f"l. {i + 1}" if short else f"layer {i + 1}" for i in range(len(values))}
    limits = 0, max(*values, *uniform) * 1.25
    chart = Chart(canvas, box, (-0.6, len(values) - 0.4), limits, title=title, xticks=names, yticks=[])
    texts = [f"{v:.0f}" for v in values]
    chart.bars(spots - 0.2, values, 0.38, color=layer_colours(len(values)), texts=texts)
    chart.bars(spots + 0.2, uniform, 0.38, color="#cccccc")


def shares(weights: Mapping[str, np.ndarray], joint: bool) -> tuple[list[float], list[float]]:
    """Return percent per layer, and those of uniform weights: shares of the whole, or effective numbers."""
    arrays = [as_array(w).astype(float) for w in weights.values()]
    if joint:
        total = sum(len(w) for w in arrays)
        return [100 * float(w.sum()) for w in arrays], [100 * len(w) / total for w in arrays]
    return [100 * effective_number(w / w.sum()) / len(w) for w in arrays], [100.0] * len(arrays)


def share_bars(groups: Mapping[str, Weights], *, title: str = "share of GCA's weights by layer") -> LabFigure:
    """Draw the shares of layers as stacked bars, one per group such as an α or a step, below uniform weights.

    `groups` is `{label: {tap: [c] or [n, c]}}`, weights of GCA.

    Raises:
        PlotError: when there is no group, or the groups have different layers.
    """
    import seaborn as sns

    means = {label: _channel_means(w) for label, w in groups.items()}
    first = next(iter(means.values()), {})
    if not first or any(list(m) != list(first) for m in means.values()):
        layers = {label: list(m) for label, m in means.items()}
        raise PlotError(f"every group needs weights of the same layers, got {layers}")
    table = {"uniform": shares(first, joint=True)[1]}
    table |= {label: shares(m, joint=True)[0] for label, m in means.items()}
    names = layer_names(first)
    long = pd.DataFrame(table, index=pd.Index(names, name="layer")).reset_index()
    long = long.melt(id_vars="layer", var_name="group", value_name="share")
    figure = chart_figure(1.0 + 0.34 * len(table), title)
    axes = figure.subplots()
    # seaborn stacks from the last name to the first.
    look: dict[str, Any] = {"hue_order": names[::-1], "palette": layer_colours(len(names))[::-1], "alpha": 1}
    look |= {"multiple": "stack", "shrink": 0.72, "edgecolor": "none", "legend": False}
    sns.histplot(long, y="group", weights="share", hue="layer", ax=axes, **look)
    for i, (name, bars) in enumerate(zip(names, axes.containers, strict=True)):
        texts = [f"{row[i]:.0f} %" if row[i] >= 6 else "" for row in table.values()]
        colour = "white" if i < len(names) / 2 else "black"
        axes.bar_label(bars, labels=texts, label_type="center", fontsize=FONT - 1, color=colour)  # type: ignore[arg-type]
        bars.set_label(name)
    axes.set_xlim(0, 100)
    tidy(axes, x="share of the weights, %", grid="")
    top_legend(figure, axes)
    return figure


def weights_vs_optimum(
    weights: Array, differences: Array, *, quadratic: bool = True, label: str = "position", title: str = ""
) -> LabFigure:
    r"""Draw learned weights against the differences they multiply, with the optimum for fixed maps.

    AST and SPA are quadratic in the weights, so the optimum is soft, $a_p \propto 1/d_p$. ACT and GCA are
    linear: the optimum puts all weight on the smallest difference.

    Args:
        weights: `[n]`, softmax weights.
        differences: `[n]`, squared differences d of the maps at the same positions or channels.
        quadratic: choose the optimum of the quadratic penalty, not that of the linear one.
        label: noun for one point.
        title: title of the figure.

    Raises:
        PlotError: when the lengths differ, or a difference is negative.

    Source:
        section 2 of the paper notes: the optimum of ½ Σ a² d on the simplex.
    """
    a, d = as_array(weights).astype(float).ravel(), as_array(differences).astype(float).ravel()
    if a.shape != d.shape or a.size < 2 or not (d >= 0).all():
        raise PlotError(f"needs as many differences ≥ 0 as weights, at least 2, got {d.size} and {a.size}")
    d = np.maximum(d, d[d > 0].min() if (d > 0).any() else 1.0)
    best = 1 / d if quadratic else (d == d.min()).astype(float)
    best /= best.sum()
    figure = chart_figure(3.4, title)
    left, right = figure.subplots(1, 2)
    left.scatter(d, a * a.size, s=10, color="#0072B2", alpha=0.6, linewidth=0, label="learned")
    if quadratic:
        order = np.argsort(d)
        left.plot(d[order], best[order] * a.size, color="#D55E00", linewidth=1.4, label="optimum ∝ 1/d")
    else:
        star = {"marker": "*", "s": 110, "color": "#D55E00", "label": "optimum: all on the smallest"}
        left.scatter([d.min()], [best.max() * a.size], **star)
    left.axhline(1, color=GREY, linewidth=0.8, linestyle="--", label="uniform")
    left.set(xscale="log", yscale="log")
    log_axis(left.xaxis)
    log_axis(left.yaxis)
    x = f"squared difference d of a {label}"
    tidy(left, x=x, y="weight, × uniform", title="weight against difference")
    left.legend(fontsize=FONT - 2, frameon=False)
    kinds = {"uniform": np.full(a.size, 1 / a.size), "learned": a, "optimum": best}
    power, scale = (2, a.size) if quadratic else (1, 1)
    losses = [0.5 * scale * float((w**power * d).sum()) for w in kinds.values()]
    bars = right.barh(list(kinds), losses, color=["#bbbbbb", "#0072B2", "#D55E00"], height=0.6)
    right.bar_label(bars, fmt="%.3g", fontsize=FONT - 1, padding=3)
    right.invert_yaxis()
    right.set_xlim(0, max(losses) * 1.18)
    formula = "½ HW Σ a² d" if quadratic else "½ Σ a d"
    tidy(right, x=formula, title="penalty for these fixed maps", grid="")
    return figure


def _channel_means(weights: Weights) -> dict[str, np.ndarray]:
    means = {tap: np.atleast_2d(as_array(w).astype(float)).mean(axis=0) for tap, w in weights.items()}
    if not means:
        raise PlotError("there are no channel weights to show")
    return means


def _is_joint(means: Mapping[str, np.ndarray]) -> bool:
    sums = [float(w.sum()) for w in means.values()]
    if abs(sum(sums) - 1) < 0.02:
        return True
    if all(abs(s - 1) < 0.02 for s in sums):
        return False
    raise PlotError(
        f"channel weights must sum to 1 over all layers (GCA) or in each (ACT); the sums are {sums}"
    )
