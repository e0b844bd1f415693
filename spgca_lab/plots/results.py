"""Accuracies over seeds: every run a dot, mean ± sd, and the paired differences that carry the evidence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spgca_lab.plots.style import (
    FONT,
    GREY,
    WIDTH,
    LabFigure,
    PlotError,
    heading,
    method_colour,
    method_label,
    tidy,
)

__all__ = ["gain_plot", "paired_gains", "results_dots", "sweep_plot"]


def paired_gains(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Differences to the baseline, run by run of the same seed, which shares batches and crops.

    Args:
        table: one row a run: `method`, `seed`, `top1` in percent.
        baseline: a method of the table.

    Returns:
        `method`, `seed`, `gain` in percentage points, for the seeds that both have.

    Raises:
        PlotError: when a column or the baseline is missing.

    Example:
        >>> runs = pd.DataFrame({"method": ["l2", "afa"], "seed": [0, 0], "top1": [50.0, 52.0]})
        >>> paired_gains(runs, "l2")["gain"].tolist()
        [0.0, 2.0]
    """
    lacks = [c for c in ("method", "seed", "top1") if c not in table]
    if lacks:
        raise PlotError(
            f"the table lacks {', '.join(map(repr, lacks))}; it has {', '.join(map(repr, table.columns))}"
        )
    base = table[table["method"] == baseline].set_index("seed")["top1"]
    if base.empty:
        raise PlotError(
            f"no run of the baseline {baseline!r}; methods: {', '.join(map(str, table['method'].unique()))}"
        )
    if not base.index.is_unique:
        raise PlotError(f"several runs of {baseline!r} share a seed: select one setting before comparing")
    paired = table[table["seed"].isin(base.index)]
    return paired.assign(gain=paired["top1"] - paired["seed"].map(base))[
        ["method", "seed", "gain"]
    ].reset_index(drop=True)


def results_dots(
    table: pd.DataFrame, *, baseline: str = "uniform", order: Sequence[str] | None = None, title: str = ""
) -> LabFigure:
    """Every method's runs, mean ± sd, and at the right the paired differences to a baseline.

    Args:
        table: one row a run: `method`, `seed`, `top1` in percent.
        baseline: the method that the others are compared with.
        order: methods from top to bottom; None goes by mean accuracy.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: as `paired_gains`.

    Example:
        >>> runs = pd.DataFrame({"method": ["uniform", "afa"], "seed": [0, 0], "top1": [50.0, 52.0]})
        >>> results_dots(runs).axes[1].get_xlabel()
        'difference to uniform, same seed, points'
    """
    gains = paired_gains(table, baseline)
    means = table.groupby("method")["top1"].mean().sort_values(ascending=False)
    methods = list(order) if order is not None else list(means.index)
    figure = LabFigure(figsize=(WIDTH, 1.0 + 0.32 * len(methods)))
    bottom = 0.5 / figure.get_figheight()
    high = 1 - bottom - (0.5 if title else 0.3) / figure.get_figheight()
    left, right = figure.add_axes((0.11, bottom, 0.4, high)), figure.add_axes((0.57, bottom, 0.4, high))
    _draw_dots(left, table, "top1", methods)
    _draw_dots(right, gains, "gain", methods)
    left.set_yticks(range(len(methods)), [method_label(m) for m in methods])
    right.set_yticks(range(len(methods)), [""] * len(methods))
    right.axvline(0, color="black", linewidth=0.8)
    tidy(left, x="top-1, %", title="every run, and mean ± sd")
    tidy(right, x=f"difference to {method_label(baseline)}, same seed, points", title="paired differences")
    for axes in (left, right):
        axes.grid(False)
        axes.grid(True, axis="x", color="#e5e5e5", linewidth=0.6)
        axes.set_ylim(len(methods) - 0.5, -0.5)
    heading(figure, title)
    return figure


def gain_plot(
    table: pd.DataFrame, *, by: str = "preset", baseline: str = "uniform", title: str = ""
) -> LabFigure:
    """Paired differences to the baseline in several settings side by side.

    Args:
        table: one row a run: `method`, `seed`, `top1` in percent, and the column `by`.
        by: what tells the settings apart, e.g. `"preset"`.
        baseline: the method that the others are compared with, in each setting.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: as `paired_gains`, or when the column is missing.

    Example:
        >>> runs = pd.DataFrame({"method": ["uniform", "afa"] * 2, "seed": 0, "top1": [50, 52, 40, 41],
        ...                      "preset": ["near", "near", "far", "far"]})
        >>> [axes.get_title() for axes in gain_plot(runs).axes]
        ['near', 'far']
    """
    if by not in table:
        raise PlotError(f"the table lacks {by!r}; it has {', '.join(map(repr, table.columns))}")
    settings = list(dict.fromkeys(table[by]))
    gains = {setting: paired_gains(table[table[by] == setting], baseline) for setting in settings}
    rows = pd.concat(gains.values())
    methods = [
        m for m in rows.groupby("method")["gain"].mean().sort_values(ascending=False).index if m != baseline
    ]
    figure = LabFigure(figsize=(WIDTH, 1.0 + 0.32 * len(methods)))
    bottom = 0.5 / figure.get_figheight()
    high = 1 - bottom - (0.5 if title else 0.3) / figure.get_figheight()
    wide = 0.86 / len(settings)
    reach = max(float(rows["gain"].abs().max()), 0.1) * 1.15
    for i, (setting, part) in enumerate(gains.items()):
        axes = figure.add_axes((0.11 + wide * i, bottom, wide - 0.03, high))
        _draw_dots(axes, part, "gain", methods)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(
            range(len(methods)), [method_label(m) for m in methods] if i == 0 else [""] * len(methods)
        )
        axes.set(xlim=(-reach, reach), ylim=(len(methods) - 0.5, -0.5))
        label = f"difference to {method_label(baseline)}, same seed, points"
        tidy(axes, x=label if i == (len(settings) - 1) // 2 else "", title=str(setting))
        axes.grid(False)
        axes.grid(True, axis="x", color="#e5e5e5", linewidth=0.6)
    heading(figure, title)
    return figure


def sweep_plot(table: pd.DataFrame, *, x: str = "alpha", by: str | None = None, title: str = "") -> LabFigure:
    """Accuracy against one field of the recipe: every run a dot, lines through means, sd where seeds repeat.

    Args:
        table: one row a run: `top1` in percent, and the columns `x` and `by`; e.g. `RunStore.table()`.
        x: the field on the axis.
        by: the field that tells lines apart.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when a column is missing.

    Example:
        >>> runs = pd.DataFrame({"alpha": [1.0, 3.0], "top1": [50.0, 52.0]})
        >>> sweep_plot(runs).axes[0].get_xlabel()
        'α'
    """
    lacks = [c for c in ("top1", x, *([by] if by else [])) if c not in table]
    if lacks:
        raise PlotError(
            f"the table lacks {', '.join(map(repr, lacks))}; it has {', '.join(map(repr, table.columns))}"
        )
    figure = LabFigure(figsize=(WIDTH * 0.66, 3.0))
    axes = figure.add_axes((0.12, 0.16, 0.85, 0.7))
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
    groups = list(table.groupby(by, sort=True)) if by else [(None, table)]
    for i, (name, part) in enumerate(groups):
        colour = colours[i % len(colours)]
        stats = part.groupby(x)["top1"].agg(["mean", "std"])
        label = None if name is None else f"{_symbol(str(by))} = {name}"
        axes.scatter(part[x], part["top1"], color=colour, alpha=0.45, s=14, linewidth=0)
        spread = stats["std"].fillna(0).to_numpy()
        look: dict[str, Any] = {
            "color": colour,
            "marker": "o",
            "markersize": 4,
            "capsize": 2,
            "linewidth": 1.4,
        }
        axes.errorbar(stats.index, stats["mean"], yerr=spread, label=label, **look)
    values = np.array(sorted(set(table[x])), dtype=float)
    if values.min() > 0 and values.max() / values.min() >= 8:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{v:g}" for v in values])
    axes.minorticks_off()
    tidy(axes, x=_symbol(x), y="top-1, %")
    if by:
        axes.legend(fontsize=FONT - 1, frameon=False, ncols=min(len(groups), 5))
    heading(figure, title)
    return figure


def _symbol(name: str) -> str:
    return {"alpha": "α", "beta": "β"}.get(name, name)


def _draw_dots(axes: Axes, table: pd.DataFrame, column: str, methods: Sequence[str]) -> None:
    axes.margins(x=0.13)
    for row, method in enumerate(methods):
        values = table[table["method"] == method][column].to_numpy(dtype=float)
        if not len(values):
            continue
        colour, mean = method_colour(method), values.mean()
        axes.scatter(values, np.full(len(values), row - 0.14), s=16, color=colour, alpha=0.5, linewidth=0)
        sd = values.std(ddof=1) if len(values) > 1 else 0.0
        if sd:
            axes.plot([mean - sd, mean + sd], [row + 0.12] * 2, color=colour, linewidth=2)
        axes.plot([mean], [row + 0.12], marker="D", markersize=5, color=colour)
        sign = "+" if column == "gain" else ""
        axes.annotate(
            f"{mean:{sign}.1f}",
            (max(mean + sd, values.max()), row),
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=FONT - 2,
            color=GREY,
            va="center",
        )
