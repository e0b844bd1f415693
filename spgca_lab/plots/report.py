"""Figures of reports: our accuracies beside the published ones, and accuracy over the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from spgca_lab.plots.results import with_ends
from spgca_lab.plots.style import (
    FONT,
    GREY,
    LabFigure,
    PlotError,
    chart_figure,
    method_colour,
    method_label,
    name_ticks,
    outside_legend,
    plain,
    require_columns,
    tidy,
)

_CELL = ("dataset", "column", "n", "mean", "half", "published_mean", "published_sd")
_CURVE = ("dataset", "column", "step", "n", "mean", "half")
# A value farther from the others than this many times their span would flatten them.
_FAR = 3.0
_ACROSS = 3
Limits = tuple[float, float]


def report_dots(
    frame: pd.DataFrame, references: Mapping[str, str] | None = None, *, level: float = 0.95, title: str = ""
) -> LabFigure:
    """Draw our mean with its interval above the published mean and sd, one chart per data set.

    A value far from all others is written at the edge of the chart; a wide interval runs off the axis. A vertical
    line marks the baseline.

    Args:
        frame: one row per cell: `dataset`, `column`, `n`, `mean`, `half`, `published_mean`, `published_sd` in
            percent, NaN where there is none; optionally `model` and `comparable`.
        references: baseline column of each column; the line is drawn when all columns share one.
        level: confidence level of the intervals.
        title: title of the figure.

    Raises:
        PlotError: when a column is missing or there is no row.
    """
    require_columns(frame, _CELL, "the frame lacks", "give Report.shown or Report.frame")
    if frame.empty:
        raise PlotError("the frame has no row to show")
    sets, columns = frame["dataset"].unique(), frame["column"].unique()
    across = min(_ACROSS, len(sets))
    rows = -(-len(sets) // across)
    figure = chart_figure(0.8 + rows * (0.8 + 0.32 * len(columns)), title)
    baselines = set((references or {}).values())
    baseline = baselines.pop() if len(baselines) == 1 else None
    figure.subplots(rows, across)
    for panel in figure.axes[len(sets) :]:
        panel.remove()
    for i, (panel, name) in enumerate(zip(figure.axes, sets, strict=True)):
        part = frame[frame["dataset"] == name].set_index("column")
        _draw_cells(panel, part, columns, baseline)
        model = f", {part['model'].iloc[0]}" if "model" in part else ""
        mark = " †" if "comparable" in part and not part["comparable"].all() else ""
        tidy(panel, x="top-1, %", title=f"{name}{model}{mark}", grid="x")
        name_ticks(panel.yaxis, map(_label, columns), shown=i % across == 0)
        panel.tick_params(axis="y", length=0)
    ours = Line2D([], [], color=GREY, marker="o", markersize=5.5, linewidth=1.8)
    theirs = Line2D([], [], color=GREY, marker="o", markersize=5, linewidth=1.1, markerfacecolor="white")
    entries = {f"ours, {100 * level:.10g} % interval": ours, "published, sd": theirs}
    if baseline:
        line = Line2D([], [], color=GREY, linewidth=0.9)
        entries[f"{_label(baseline)}, ours (dotted: published)"] = line
    if "comparable" in frame and not frame["comparable"].all():
        entries["† not the paper's experiment"] = Line2D([], [], linewidth=0)
    outside_legend(figure, entries.values(), list(map(plain, entries)), "lower left")
    return figure


def convergence_curves(
    curves: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    level: float = 0.95,
    title: str = "",
    datasets: Sequence[str] = (),
) -> LabFigure:
    """Draw mean test accuracy over the steps with its interval: one row per data set, one chart per pair of modules.

    Args:
        curves: `dataset`, `column`, `step`, `n`, `mean`, `half`; see `spgca_lab.experiments.report.Report.mean_curves`.
        pairs: columns that share a chart, the reference first.
        datasets: data sets to show, "not run" where they have no curve; empty takes those of `curves`.
        level: confidence level of the intervals.
        title: title of the figure.

    Raises:
        PlotError: when a column is missing, or there is neither a data set nor a pair.
    """
    advice = "give Report.mean_curves() and pairs such as ('ast', 'spa')"
    require_columns(curves, _CURVE, "the curves lack", advice)
    sets = list(dict.fromkeys([*datasets, *curves["dataset"]]))
    if not sets or not pairs:
        raise PlotError(f"the curves name no data set, or there is no pair; {advice}")
    figure = chart_figure(0.8 + len(sets) * (3.3 if len(pairs) < 3 else 2.5), title)
    axes = figure.subplots(len(sets), len(pairs), squeeze=False)
    for row, dataset in enumerate(sets):
        for panel, pair in zip(axes[row], pairs, strict=True):
            _draw_curves(panel, curves[curves["dataset"] == dataset], pair)
            tidy(panel, x="step", y="top-1 on the test images, %" if panel is axes[row][0] else "")
            names = ", ".join(map(_label, pair))
            panel.set_title(plain(f"{dataset}: {names}"), fontsize=FONT, loc="left", pad=3)
    text = f"mean over seeds, band: {100 * level:.10g} % interval; dotted: final accuracy of the first of each pair"
    figure.supxlabel(text, fontsize=FONT - 1, color=GREY)
    return figure


def _label(column: str) -> str:
    if column.isdigit():
        return f"r = {column}"
    return "SPA→GCA" if column == "spa->gca" else method_label(column)


def _colour(column: str) -> str:
    return method_colour("gca" if column.isdigit() else "spgca" if column == "spa->gca" else column)


def _draw_cells(axes: Axes, part: pd.DataFrame, columns: Sequence[str], baseline: str | None) -> None:
    low, high = _reach(part)
    if baseline in part.index:
        base = part.loc[baseline]
        value, style = (base["mean"], "-") if base["n"] else (base["published_mean"], ":")
        if not np.isnan(value) and low <= value <= high:
            axes.axvline(value, color=GREY, linewidth=0.9, linestyle=style, zorder=0)
    small: dict[str, Any] = {"fontsize": FONT - 2, "color": GREY, "va": "center"}
    for row, column in enumerate(columns):
        if column not in part.index:
            continue
        cell, colour = part.loc[column], _colour(column)
        published = not np.isnan(cell["published_mean"])
        up = 0.17 if published else 0.0
        if cell["n"]:
            _dot(axes, cell["mean"], cell["half"], row - up, (low, high), colour, filled=True)
        else:
            place = axes.get_yaxis_transform()
            axes.text(0.015, row - up, "not run", transform=place, style="italic", **small)
        if published:
            width = cell["published_sd"]
            _dot(axes, cell["published_mean"], width, row + up, (low, high), colour, filled=False)
    axes.set(ylim=(len(columns) - 0.45, -0.55), xlim=(low, high))
    axes.locator_params(axis="x", nbins=5)


def _dot(
    axes: Axes, value: float, width: float, row: float, limits: Limits, colour: str, *, filled: bool
) -> None:
    low, high = limits
    look: dict[str, Any] = {"color": colour, "markerfacecolor": colour if filled else "white"}
    if not low <= value <= high:
        edge, mark, side, shift = (low, "<", "left", 6) if value < low else (high, ">", "right", -6)
        axes.plot([edge], [row], marker=mark, markersize=5, clip_on=False, **look)
        place: dict[str, Any] = {"xytext": (shift, 0), "textcoords": "offset points", "ha": side}
        axes.annotate(f"{value:.1f}", (edge, row), fontsize=FONT - 2, color=GREY, va="center", **place)
        return
    if not np.isnan(width):
        thick = 1.8 if filled else 1.1
        axes.plot([value - width, value + width], [row] * 2, color=colour, lw=thick, solid_capstyle="butt")
    axes.plot([value], [row], marker="o", markersize=5.5 if filled else 5, **look)


def _reach(part: pd.DataFrame) -> Limits:
    """Return the limits of an axis around our means and the published means close to them."""
    ours = part.loc[part["n"] > 0]
    printed = part.loc[part["published_mean"].notna()]
    values = ours["mean"].tolist() or printed["published_mean"].tolist()
    if not values:
        return 0.0, 100.0
    kept = _without_far(sorted(values))
    reach = _FAR * max(kept[-1] - kept[0], 1.0)
    others = [v for v in printed["published_mean"] if kept[0] - reach <= v <= kept[-1] + reach]
    kept = _without_far(sorted([*kept, *others]))
    ends = list(kept)
    for mean, width in (("mean", "half"), ("published_mean", "published_sd")):
        near = part[part[mean].between(kept[0], kept[-1])]
        wide = near[width].fillna(0.0)
        ends += (near[mean] - wide).tolist() + (near[mean] + wide).tolist()
    # The interval of two seeds may be many times the span of the means, or exceed 0 to 100 %.
    room = max(kept[-1] - kept[0], 1.0)
    low, high = max(min(ends), kept[0] - room, 0.0), min(max(ends), kept[-1] + room, 100.0)
    gap = 0.09 * max(high - low, 0.5)
    # Texts and marks at the left edge need more room.
    return low - 2.2 * gap, high + 1.2 * gap


def _without_far(values: Sequence[float]) -> list[float]:
    """Remove values at either end whose gap to the others is several times the span of the others."""
    kept = list(values)
    while len(kept) > 2:
        if kept[1] - kept[0] > _FAR * max(kept[-1] - kept[1], 0.3):
            kept = kept[1:]
        elif kept[-1] - kept[-2] > _FAR * max(kept[-2] - kept[0], 0.3):
            kept = kept[:-1]
        else:
            break
    return kept


def _draw_curves(axes: Axes, curves: pd.DataFrame, pair: Sequence[str]) -> None:
    import seaborn as sns

    lines = [(column, curves[curves["column"] == column].sort_values("step")) for column in pair]
    if all(line.empty for _, line in lines):
        axes.set(xticks=[], yticks=[])
        look: dict[str, Any] = {"color": GREY, "style": "italic", "ha": "center", "fontsize": FONT}
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, **look)
        return
    for place, (column, line) in enumerate(lines):
        if line.empty:
            axes.plot([], [], color=_colour(column), label=f"{_label(column)}: not run")
            continue
        last = line.iloc[-1]
        text = f"{_label(column)}: {last['mean']:.1f} % ({int(last['n'])} seed{'s' if last['n'] > 1 else ''})"
        look = {"x": "step", "y": "value", "color": _colour(column), "label": text, "marker": "os"[place % 2]}
        look |= {"linewidth": 1.5, "markersize": 3.5, "markeredgewidth": 0, "legend": False}
        look |= {"estimator": "median", "errorbar": ("pi", 100), "err_kws": {"alpha": 0.18, "linewidth": 0}}
        sns.lineplot(with_ends(line, "mean"), ax=axes, **look)
        if place == 0:
            axes.axhline(last["mean"], color=GREY, linewidth=0.8, linestyle=":")
    axes.legend(fontsize=FONT - 1, frameon=False, loc="lower right")
