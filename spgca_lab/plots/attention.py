"""What an attention looks at: weights over the picture, over channels, over layers, and how even they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from spgca_lab.plots.pictures import outline
from spgca_lab.plots.style import (
    FONT,
    GREY,
    MAGNITUDE,
    WIDTH,
    LabFigure,
    PlotError,
    as_array,
    as_pictures,
    colour_bar,
    grid,
    heading,
    layer_colours,
    layer_names,
    log_axis,
    tidy,
)

__all__ = [
    "attention_overlay",
    "channel_weights",
    "gradcam_beside",
    "heatmap_limits",
    "overlay",
    "relative_maps",
    "share_bars",
    "weights_vs_optimum",
]

Weights = Mapping[str, Any]


def relative_maps(weights: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """Spatial weights as maps of "times uniform": weight × HW, 1 where the attention is even.

    Args:
        weights: `[n, h·w]` or `[h·w]`.
        size: (h, w); None takes a square.

    Returns:
        `[n, h, w]`.

    Raises:
        PlotError: when the number of weights does not fit the size.

    Example:
        >>> relative_maps(np.full(4, 0.25)).tolist()
        [[[1.0, 1.0], [1.0, 1.0]]]
    """
    flat = np.atleast_2d(as_array(weights).astype(float))
    side = round(flat.shape[-1] ** 0.5)
    h, w = size or (side, side)
    if flat.ndim != 2 or h * w != flat.shape[1]:
        raise PlotError(
            f"{flat.shape[-1]} weights are no {h} × {w} map: give the layer's size as sizes={{tap: (h, w)}}"
        )
    return flat.reshape(-1, h, w) * (h * w)


def heatmap_limits(maps: np.ndarray) -> tuple[float, float]:
    """Colour limits around 1, at least ±10 %: noise around an even attention must not look like structure.

    Example:
        >>> heatmap_limits(np.array([0.99, 1.01]))
        (0.9, 1.1)
    """
    return min(0.9, float(maps.min())), max(1.1, float(maps.max()))


def overlay(
    picture: np.ndarray, heat: np.ndarray, limits: tuple[float, float], opacity: float, cmap: str = MAGNITUDE
) -> np.ndarray:
    """Blend a heatmap over the picture in grey, cell by cell without smoothing.

    Args:
        picture: uint8 `[h, w, 3]`.
        heat: `[rows, columns]`, stretched over the whole picture.
        limits: values of the colour map's ends.
        opacity: 0 (picture only) to 1 (heatmap only).
        cmap: matplotlib's name of the colour map.

    Returns:
        uint8 `[h, w, 3]`.

    Example:
        >>> overlay(np.zeros((4, 4, 3), np.uint8), np.eye(2), (0, 1), 1.0).shape
        (4, 4, 3)
    """
    high, wide = picture.shape[:2]
    rows = np.arange(high) * heat.shape[0] // high
    columns = np.arange(wide) * heat.shape[1] // wide
    colours = colormaps[cmap](Normalize(*limits, clip=True)(heat))[..., :3][rows][:, columns] * 255
    grey = (picture @ np.array([0.299, 0.587, 0.114]))[..., None]
    return np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def attention_overlay(
    images: Any,
    weights: Weights,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    masks: Any = None,
    *,
    opacity: float = 0.65,
    row_titles: Sequence[str] | None = None,
    one_scale: bool = False,
    title: str = "",
) -> LabFigure:
    """Spatial attention over pictures: one row a picture, one column a layer, in units of the uniform weight.

    Args:
        images: one picture `[3, h, w]` or several `[n, 3, h, w]`, uint8, cropped as the network saw them.
        weights: `{tap: [n, h·w]}` or `{tap: [h·w]}`, softmax weights of AST or SPA.
        sizes: `{tap: (h, w)}`; None takes square maps.
        masks: bool `[n, h, w]`: the object's outline.
        opacity: of the heatmap, 0–1.
        row_titles: one a picture.
        one_scale: one colour scale for all layers (True), or one a layer.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when numbers of pictures, weights, masks or titles differ, or a layer has another size.

    Example:
        >>> figure = attention_overlay(np.zeros((3, 8, 8), np.uint8), {"a": np.full(4, 0.25)})
        >>> figure.axes[1].get_title()
        'layer 1 · 2 × 2'
    """
    pictures = as_pictures(images)
    if not 0 <= opacity <= 1:
        raise PlotError(f"opacity must be from 0 to 1, got {opacity!r}")
    maps = {tap: relative_maps(w, (sizes or {}).get(tap)) for tap, w in weights.items()}
    counts = {tap: len(m) for tap, m in maps.items()}
    if not maps or any(n != len(pictures) for n in counts.values()):
        raise PlotError(f"{len(pictures)} pictures need as many rows of weights, got {counts or 'no layers'}")
    for name, given in (("masks", masks), ("row_titles", row_titles)):
        if given is not None and len(_rows(given)) != len(pictures):
            raise PlotError(f"{len(pictures)} pictures need as many {name}, got {len(_rows(given))}")
    figure, axes = grid(
        len(pictures),
        1 + len(maps),
        cell=1.75,
        margins=(0.1, 0.1, 0.46 if title else 0.22, 0.5),
        gaps=(0.1, 0.24 if row_titles is not None else 0.1),
    )
    everything = np.concatenate([m.ravel() for m in maps.values()])
    for row, picture in enumerate(pictures):
        axes[row, 0].imshow(picture)
        tidy(axes[row, 0], title=row_titles[row] if row_titles is not None else "", picture=True)
        mask = as_array(_rows(masks)[row]) if masks is not None else None
        for column, field in enumerate(maps.values(), start=1):
            spot = axes[row, column]
            limits = heatmap_limits(everything if one_scale else field)
            spot.imshow(overlay(picture, field[row], limits, opacity))
            name = f"layer {column} · {field.shape[1]} × {field.shape[2]}"
            tidy(spot, title=name if row == 0 else "", picture=True)
            if mask is not None:
                outline(spot, mask)
            if row == len(pictures) - 1:
                colour_bar(
                    figure,
                    ScalarMappable(Normalize(*limits), MAGNITUDE),
                    spot,
                    "weight, × uniform",
                    below=True,
                )
    heading(figure, title)
    return figure


def channel_weights(weights: Weights, *, joint: bool | None = None, title: str = "") -> LabFigure:
    """Channel attention of one picture (or a batch's mean): sorted weights, and what each layer gets.

    At the right, GCA's share of each layer beside its share of the channels (what equal weights would give
    it). ACT gives every layer the same whole, so there the effective number of channels is shown instead.

    Args:
        weights: `{tap: [c]}` or `{tap: [n, c]}` (averaged).
        joint: one distribution over all layers (GCA) or one a layer (ACT); None sees it from the sums.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when there are no weights, or they sum neither to 1 together nor to 1 in each layer.

    Example:
        >>> figure = channel_weights({"a": np.full(4, 0.1), "b": np.full(6, 0.1)})
        >>> figure.axes[1].get_title()
        'share of the whole'
    """
    means = _channel_means(weights)
    joint = _is_joint(means) if joint is None else joint
    total = sum(len(w) for w in means.values())
    names, colours = layer_names(means), layer_colours(len(means))
    figure = LabFigure(figsize=(WIDTH, 2.9))
    left = figure.add_axes((0.07, 0.17, 0.55, 0.68 if title else 0.74))
    offset = 0
    for name, colour, w in zip(names, colours, means.values(), strict=True):
        relative = np.sort(w)[::-1] * (total if joint else len(w))
        place = offset + np.arange(len(w))
        left.plot(place, np.maximum(relative, 1e-6), color=colour, linewidth=1.8, label=f"{name} ({len(w)})")
        left.fill_between(place, 1, np.maximum(relative, 1e-6), color=colour, alpha=0.15, linewidth=0)
        offset += len(w)
    left.axhline(1, color=GREY, linewidth=0.8, linestyle="--")
    left.set_yscale("log")
    low, high = left.get_ylim()
    left.set_ylim(max(min(low, 0.5), 1e-4), max(high, 2))
    log_axis(left.yaxis)
    left.set_xlim(0, total)
    left.legend(
        fontsize=FONT - 2, frameon=False, ncols=len(means), loc="upper center", bbox_to_anchor=(0.5, 1.14)
    )
    tidy(left, x="channels of all layers, sorted within each", y="weight, × uniform")
    right = figure.add_axes((0.71, 0.17, 0.28, 0.68 if title else 0.74))
    if joint:
        draw_shares(right, means)
    else:
        effective = [np.exp(_entropy(w)) for w in means.values()]
        spots = np.arange(len(means))
        right.bar(spots, [len(w) for w in means.values()], color="#dddddd", label="channels there are")
        right.bar(spots, effective, color=colours, width=0.5, label="effective number")
        right.set_xticks(spots, names)
        right.set_yscale("log")
        right.set_ylim(1, max(len(w) for w in means.values()) * 3)
        log_axis(right.yaxis)
        tidy(right, title="effective number of channels")
        right.legend(fontsize=FONT - 2, frameon=False, loc="upper left", ncols=2, borderaxespad=0.1)
    heading(figure, title)
    return figure


def draw_shares(axes: Axes, means: Mapping[str, np.ndarray]) -> None:
    """Each layer's share of GCA's weights beside its share of the channels, into axes."""
    total = sum(len(w) for w in means.values())
    spots = np.arange(len(means))
    shares = [100 * float(w.sum()) for w in means.values()]
    even = [100 * len(w) / total for w in means.values()]
    bars = axes.bar(spots - 0.2, shares, 0.38, color=layer_colours(len(means)), label="share of the weights")
    axes.bar(spots + 0.2, even, 0.38, color="#dddddd", label="share of the channels (uniform)")
    axes.bar_label(bars, fmt="%.0f", fontsize=FONT - 2, padding=1)
    axes.set_xticks(spots, layer_names(means))
    axes.set_ylim(0, max(*shares, *even) * 1.32)
    axes.legend(fontsize=FONT - 2, frameon=False, loc="upper left", borderaxespad=0.1)
    tidy(axes, title="share of the whole", y="%")


def share_bars(groups: Mapping[str, Weights], *, title: str = "share of GCA's weights by layer") -> LabFigure:
    """Layers' shares of the whole as stacked bars, one a group (an α, a step), and the uniform one.

    Args:
        groups: `{label: {tap: [c] or [n, c]}}`, weights of GCA.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when there is no group, or the groups have other layers.

    Example:
        >>> figure = share_bars({"α = 1": {"a": np.full(4, 0.1), "b": np.full(6, 0.1)}})
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['uniform', 'α = 1']
    """
    means = {label: _channel_means(w) for label, w in groups.items()}
    taps = list(next(iter(means.values()))) if means else []
    if not taps or any(list(m) != taps for m in means.values()):
        raise PlotError(
            f"every group needs weights of the same layers, got { {k: list(m) for k, m in means.items()} }"
        )
    first = next(iter(means.values()))
    total = sum(len(w) for w in first.values())
    table = {"uniform": [100 * len(w) / total for w in first.values()]}
    table |= {label: [100 * float(w.sum()) for w in m.values()] for label, m in means.items()}
    figure = LabFigure(figsize=(WIDTH, 1.0 + 0.34 * len(table)))
    axes = figure.add_axes((0.16, 0.45 / figure.get_figheight(), 0.8, 1 - 1.0 / figure.get_figheight()))
    begin = np.zeros(len(table))
    for i, (name, colour) in enumerate(zip(layer_names(taps), layer_colours(len(taps)), strict=True)):
        part = np.array([row[i] for row in table.values()])
        bars = axes.barh(list(table), part, left=begin, color=colour, label=name, height=0.72)
        dark = i < len(taps) / 2
        axes.bar_label(
            bars,
            labels=[f"{v:.0f} %" if v >= 6 else "" for v in part],
            label_type="center",
            fontsize=FONT - 1,
            color="white" if dark else "black",
        )
        begin += part
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    tidy(axes, x="share of the weights, %")
    axes.grid(False)
    axes.legend(fontsize=FONT - 1, frameon=False, ncols=len(taps), loc="lower right", bbox_to_anchor=(1, 1))
    heading(figure, title)
    return figure


def weights_vs_optimum(
    weights: Any, differences: Any, *, quadratic: bool = True, label: str = "position", title: str = ""
) -> LabFigure:
    r"""Learned weights against the differences they multiply, with the optimum for fixed maps.

    AST and SPA are quadratic in the weights, so the optimum is soft, $a_p \propto 1/d_p$. ACT and GCA are
    linear: the optimum is all weight on the smallest difference.

    Args:
        weights: `[n]`, softmax weights.
        differences: `[n]`, squared differences d of the maps at the same positions or channels.
        quadratic: which of the two optima to draw.
        label: what a point is.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when the two differ in length, or a difference is negative.

    Source:
        section 2 of the paper notes: the optimum of ½ Σ a² d on the simplex.

    Example:
        >>> figure = weights_vs_optimum(np.array([0.5, 0.5]), np.array([1.0, 2.0]))
        >>> figure.axes[0].get_xlabel()
        'squared difference d of a position'
    """
    a, d = as_array(weights).astype(float).ravel(), as_array(differences).astype(float).ravel()
    if a.shape != d.shape or a.size < 2 or d.min() < 0:
        raise PlotError(f"needs as many differences ≥ 0 as weights, at least 2, got {d.size} and {a.size}")
    floor = d[d > 0].min() if (d > 0).any() else 1.0
    d = np.maximum(d, floor)
    figure = LabFigure(figsize=(WIDTH, 3.4))
    left = figure.add_axes((0.08, 0.15, 0.4, 0.7))
    order = np.argsort(d)
    left.scatter(d, a * a.size, s=10, color="#0072B2", alpha=0.6, linewidth=0, label="learned")
    if quadratic:
        best = (1 / d) / (1 / d).sum()
        left.plot(d[order], best[order] * a.size, color="#D55E00", linewidth=1.4, label="optimum ∝ 1/d")
    else:
        best = np.where(d == d.min(), 1.0, 0.0) / (d == d.min()).sum()
        left.scatter(
            [d.min()],
            [best.max() * a.size],
            marker="*",
            s=110,
            color="#D55E00",
            label="optimum: all on the smallest",
        )
    left.axhline(1, color=GREY, linewidth=0.8, linestyle="--", label="uniform")
    left.set(xscale="log", yscale="log")
    log_axis(left.xaxis)
    log_axis(left.yaxis)
    tidy(
        left, x=f"squared difference d of a {label}", y="weight, × uniform", title="weight against difference"
    )
    left.legend(fontsize=FONT - 2, frameon=False)
    right = figure.add_axes((0.58, 0.15, 0.4, 0.7))
    power = 2 if quadratic else 1
    scale = a.size if quadratic else 1
    kinds = {
        "uniform": np.full(a.size, 1 / a.size),
        "learned": a,
        "optimum": best,
    }
    losses = [0.5 * scale * float((w**power * d).sum()) for w in kinds.values()]
    bars = right.barh(list(kinds), losses, color=["#bbbbbb", "#0072B2", "#D55E00"], height=0.6)
    right.bar_label(bars, fmt="%.3g", fontsize=FONT - 1, padding=3)
    right.invert_yaxis()
    right.set_xlim(0, max(losses) * 1.18)
    formula = "½ HW Σ a² d" if quadratic else "½ Σ a d"
    tidy(right, x=formula, title="the penalty, for these maps held fixed")
    right.grid(False)
    heading(figure, title)
    return figure


def gradcam_beside(
    image: Any,
    cam: Any,
    weights: Weights,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    mask: Any = None,
    *,
    opacity: float = 0.65,
    titles: Sequence[str] | None = None,
) -> LabFigure:
    """The picture, the target's Grad-CAM (where its answer comes from), the attention (where SPA acts).

    Args:
        image: uint8 `[3, h, w]`.
        cam: Grad-CAM `[rows, columns]`, at least 0.
        weights: `{tap: [h·w]}` of AST or SPA.
        sizes: `{tap: (h, w)}`; None takes square maps.
        mask: bool `[h, w]`: the object's outline.
        opacity: of the heatmaps, 0–1.
        titles: lines under the panels' names, one a panel (picture, Grad-CAM, layers), e.g. scores.

    Returns:
        the figure.

    Raises:
        PlotError: when a shape or the number of titles does not fit.

    Example:
        >>> figure = gradcam_beside(np.zeros((3, 8, 8), np.uint8), np.eye(2), {"a": np.full(4, 0.25)})
        >>> figure.axes[1].get_title()
        'Grad-CAM'
    """
    picture = as_pictures(image)[0]
    heat = as_array(cam).astype(float)
    if heat.ndim != 2 or heat.min() < 0:
        raise PlotError(f"a Grad-CAM is [rows, columns] and at least 0, got {list(heat.shape)}")
    maps = {tap: relative_maps(w, (sizes or {}).get(tap)) for tap, w in weights.items()}
    names = ["picture", "Grad-CAM", *layer_names(maps)]
    if titles is not None and len(titles) != len(names):
        raise PlotError(f"{len(names)} panels need as many titles, got {len(titles)}")
    top = 0.48 if titles is not None else 0.28
    figure, axes = grid(1, len(names), cell=1.75, margins=(0.1, 0.1, top, 0.5))
    axes[0, 0].imshow(picture)
    peak = max(float(heat.max()), 1e-12)
    axes[0, 1].imshow(overlay(picture, heat / peak, (0, 1), opacity, "magma"))
    colour_bar(figure, ScalarMappable(Normalize(0, 1), "magma"), axes[0, 1], "of its maximum", below=True)
    for spot, field in zip(axes[0, 2:], maps.values(), strict=True):
        limits = heatmap_limits(field)
        spot.imshow(overlay(picture, field[0], limits, opacity))
        colour_bar(
            figure, ScalarMappable(Normalize(*limits), MAGNITUDE), spot, "weight, × uniform", below=True
        )
    for i, spot in enumerate(axes[0]):
        tidy(spot, title=names[i] + (f"\n{titles[i]}" if titles is not None else ""), picture=True)
        if mask is not None:
            outline(spot, as_array(mask))
    return figure


def _rows(values: Any) -> Any:
    return values[None] if getattr(values, "ndim", 0) == 2 else values


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


def _entropy(w: np.ndarray) -> float:
    positive = w[w > 0]
    return float(-(positive * np.log(positive)).sum())
