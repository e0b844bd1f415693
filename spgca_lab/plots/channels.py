"""Weights over channels and layers: GCA and ACT, each layer's share, and what weights would be best."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from spgca_lab._checks import Array
from spgca_lab.plots.style import (
    FONT,
    GREY,
    WIDTH,
    LabFigure,
    PlotError,
    as_array,
    heading,
    layer_colours,
    layer_names,
    log_axis,
    tidy,
)

__all__ = ["channel_weights", "draw_channels", "draw_shares", "share_bars", "weights_vs_optimum"]

Weights = Mapping[str, Any]


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
        "each layer's share of the whole"
    """
    means = _channel_means(weights)
    joint = _is_joint(means) if joint is None else joint
    figure = LabFigure(figsize=(WIDTH, 2.9))
    high = 0.64 if title else 0.7
    draw_channels(figure.add_axes((0.07, 0.17, 0.55, high)), means, joint)
    draw_shares(figure.add_axes((0.71, 0.17, 0.28, high)), means, joint)
    heading(figure, title)
    return figure


def draw_channels(axes: Axes, means: Mapping[str, np.ndarray], joint: bool) -> None:
    """Channel weights in units of the uniform one, sorted within each layer, into axes."""
    total, offset = sum(len(w) for w in means.values()), 0
    for name, colour, w in zip(layer_names(means), layer_colours(len(means)), means.values(), strict=True):
        relative = np.maximum(np.sort(w)[::-1] * (total if joint else len(w)), 1e-4)
        place = offset + np.arange(len(w))
        axes.plot(place, relative, color=colour, linewidth=1.8, label=f"{name} ({len(w)})")
        axes.fill_between(place, 1, relative, color=colour, alpha=0.15, linewidth=0)
        offset += len(w)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 2))
    log_axis(axes.yaxis)
    axes.set_xlim(0, total)
    look: dict[str, Any] = {"frameon": False, "ncols": len(means), "columnspacing": 1.2}
    axes.legend(fontsize=FONT - 2, loc="lower center", bbox_to_anchor=(0.5, 0.98), borderaxespad=0.1, **look)
    tidy(axes, x="channels of all layers, sorted within each", y="weight, × uniform")


def draw_shares(axes: Axes, means: Mapping[str, np.ndarray], joint: bool) -> None:
    """Each layer's share of GCA's weights beside its share of the channels, into axes.

    ACT gives each layer the whole; then the effective number of channels beside that of all, in percent.
    """
    total = sum(len(w) for w in means.values())
    spots = np.arange(len(means))
    if joint:
        values = [100 * float(w.sum()) for w in means.values()]
        even = [100 * len(w) / total for w in means.values()]
        names = ("share of the weights", "share of the channels (uniform)", "each layer's share of the whole")
    else:
        values = [100 * float(np.exp(_entropy(w))) / len(w) for w in means.values()]
        even = [100.0] * len(means)
        names = ("effective number", "uniform", "effective number of channels, of all")
    bars = axes.bar(spots - 0.2, values, 0.38, color=layer_colours(len(means)), label=names[0])
    axes.bar(spots + 0.2, even, 0.38, color="#dddddd", label=names[1])
    axes.bar_label(bars, fmt="%.0f", fontsize=FONT - 2, padding=1)
    axes.set_xticks(spots, layer_names(means))
    axes.set_ylim(0, max(*values, *even) * 1.4)
    axes.legend(fontsize=FONT - 2, frameon=False, loc="upper left", borderaxespad=0.1)
    tidy(axes, title=names[2], y="%")


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
    weights: Array, differences: Array, *, quadratic: bool = True, label: str = "position", title: str = ""
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
    if a.shape != d.shape or a.size < 2 or not (d >= 0).all():
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
