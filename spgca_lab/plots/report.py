"""Ours beside the published: a dot and an interval a cell, and the accuracy of two modules over the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from spgca_lab.plots.style import (
    FONT,
    GREY,
    WIDTH,
    LabFigure,
    PlotError,
    grid,
    heading,
    method_colour,
    method_label,
    plain,
    tidy,
)

__all__ = ["convergence_curves", "report_dots"]

_CELL = ("dataset", "column", "n", "mean", "half", "published_mean", "published_sd")
_CURVE = ("dataset", "column", "step", "n", "mean", "half")
# A value farther from the others than this many times their span is named at the edge: it would flatten them all.
_FAR = 3.0
_ACROSS = 3
_ROW = 0.24
_GAP = 0.4


def report_dots(
    frame: pd.DataFrame,
    references: Mapping[str, str] | None = None,
    *,
    level: float = 0.95,
    title: str = "",
) -> LabFigure:
    """One axes a data set: ours with its interval, the published mean ± sd below it, and the baseline as a line.

    A value far from all others is written at the edge that it lies beyond; a wide interval runs off the axis.

    Args:
        frame: one row a cell: `dataset`, `column`, `n`, `mean`, `half`, `published_mean`, `published_sd` in percent,
            NaN where there is none; and where they are known `model` and `comparable`.
        references: the baseline column of each column, drawn where all have the same.
        level: of the intervals.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when a column is missing or there is no row.

    Example:
        >>> cell = {"dataset": "CUB-200-2011", "column": "spa", "n": 2, "mean": 80.1, "half": 0.2}
        >>> figure = report_dots(pd.DataFrame([cell | {"published_mean": 80.47, "published_sd": 0.14}]))
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['SPA']
    """
    _check(frame, _CELL, "frame")
    sets = list(dict.fromkeys(frame["dataset"]))
    columns = list(dict.fromkeys(frame["column"]))
    across = min(_ACROSS, len(sets))
    rows = -(-len(sets) // across)
    high = 0.2 + _ROW * 1.35 * len(columns)
    wide = (WIDTH - 0.85 - 0.2 - _GAP * (across - 1)) / across
    figure, axes = grid(
        rows,
        across,
        ratio=high / wide,
        margins=(0.85, 0.2, 0.78 if title else 0.55, 0.48),
        gaps=(_GAP, 0.78),
    )
    baselines = set((references or {}).values())
    baseline = baselines.pop() if len(baselines) == 1 else None
    for i, panel in enumerate(axes.flat):
        if i >= len(sets):
            panel.remove()
            continue
        part = frame[frame["dataset"] == sets[i]].set_index("column")
        _draw_cells(panel, part, columns, baseline)
        tidy(panel, x="top-1, %", title=_name(sets[i], part))
        panel.grid(False)
        panel.grid(True, axis="x", color="#e5e5e5", linewidth=0.6)
        shown = i % across == 0
        panel.set_yticks(range(len(columns)), [_label(c) if shown else "" for c in columns])
        panel.tick_params(axis="y", length=0)
    _legend(figure, frame, baseline, level, titled=bool(title))
    heading(figure, title)
    return figure


def convergence_curves(
    curves: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    level: float = 0.95,
    title: str = "",
    datasets: Sequence[str] = (),
) -> LabFigure:
    """Test accuracy over the steps, mean over seeds with its interval: a row a data set, an axes a pair of modules.

    Args:
        curves: `dataset`, `column`, `step`, `n`, `mean`, `half`; see `spgca_lab.experiments.report.Report.mean_curves`.
        pairs: columns that share an axes, the reference first.
        level: of the intervals.
        title: of the figure.
        datasets: to be shown; those without a curve say that they were not run. Empty: those of `curves`.

    Returns:
        the figure.

    Raises:
        PlotError: when a column is missing, or there is neither a data set nor a pair.

    Example:
        >>> point = {"dataset": "d", "column": "ast", "step": 500, "n": 1, "mean": 60.0, "half": float("nan")}
        >>> figure = convergence_curves(pd.DataFrame([point]), [("ast", "spa")])
        >>> figure.axes[0].get_title(loc="left")
        'd: AST, SPA'
    """
    lacks = [name for name in _CURVE if name not in curves]
    sets = list(dict.fromkeys([*datasets, *curves["dataset"]])) if not lacks else []
    if lacks or not sets or not pairs:
        what = f"lack {', '.join(map(repr, lacks))}" if lacks else "name no data set, or there is no pair"
        raise PlotError(f"the curves {what}; give Report.mean_curves() and pairs such as ('ast', 'spa')")
    wide = (WIDTH - 0.6 - 0.15 - 0.5 * (len(pairs) - 1)) / len(pairs)
    figure, axes = grid(
        len(sets),
        len(pairs),
        ratio=min(0.68, 3.0 / wide),
        margins=(0.6, 0.15, 0.85 if title else 0.6, 0.5),
        gaps=(0.5, 0.75),
    )
    for row, dataset in enumerate(sets):
        for panel, pair in zip(axes[row], pairs, strict=True):
            _draw_curves(panel, curves[curves["dataset"] == dataset], pair)
            tidy(panel, x="step", y="top-1 on the test pictures, %" if panel is axes[row][0] else "")
            names = ", ".join(map(_label, pair))
            panel.set_title(plain(f"{dataset}: {names}"), fontsize=FONT, loc="left", pad=3)
    told = f"mean over seeds, band: {100 * level:.10g} % interval; dotted: final accuracy of the first of each pair"
    top = 1 - (0.32 if title else 0.08) / figure.get_figheight()
    figure.text(0.1 / WIDTH, top, told, fontsize=FONT - 1, color=GREY, va="top")
    heading(figure, title)
    return figure


def _check(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    lacks = [name for name in columns if name not in frame]
    if lacks:
        raise PlotError(f"the {what} lacks {', '.join(map(repr, lacks))}; give Report.shown or Report.frame")
    if frame.empty:
        raise PlotError(f"the {what} has no row to show")


def _label(column: str) -> str:
    if column.isdigit():
        return f"r = {column}"
    return "SPA→GCA" if column == "spa->gca" else method_label(column)


def _colour(column: str) -> str:
    return method_colour("gca" if column.isdigit() else "spgca" if column == "spa->gca" else column)


def _name(dataset: str, part: pd.DataFrame) -> str:
    apart = "comparable" in part and not part["comparable"].all()
    model = f", {part['model'].iloc[0]}" if "model" in part else ""
    return f"{dataset}{model}{' †' if apart else ''}"


def _draw_cells(axes: Axes, part: pd.DataFrame, columns: Sequence[str], baseline: str | None) -> None:
    low, high = _reach(part)
    if baseline in part.index:
        base = part.loc[baseline]
        value, style = (base["mean"], "-") if base["n"] else (base["published_mean"], ":")
        if not np.isnan(value) and low <= value <= high:
            axes.axvline(value, color=GREY, linewidth=0.9, linestyle=style, zorder=0)
    for row, column in enumerate(columns):
        if column not in part.index:
            continue
        cell, colour = part.loc[column], _colour(column)
        beside = not np.isnan(cell["published_mean"])
        up = 0.17 if beside else 0.0
        if cell["n"]:
            _dot(axes, cell["mean"], cell["half"], row - up, (low, high), colour, filled=True)
        else:
            place: dict[str, Any] = {"fontsize": FONT - 2, "color": GREY, "va": "center", "style": "italic"}
            axes.text(0.015, row - up, "not run", transform=axes.get_yaxis_transform(), **place)
        if beside:
            _dot(
                axes,
                cell["published_mean"],
                cell["published_sd"],
                row + up,
                (low, high),
                colour,
                filled=False,
            )
    axes.set_ylim(len(columns) - 0.45, -0.55)
    axes.set_xlim(low, high)
    axes.locator_params(axis="x", nbins=5)


def _dot(
    axes: Axes,
    value: float,
    width: float,
    row: float,
    span: tuple[float, float],
    colour: str,
    *,
    filled: bool,
) -> None:
    low, high = span
    if not low <= value <= high:
        edge, mark, side = (low, "<", "left") if value < low else (high, ">", "right")
        axes.plot(
            [edge],
            [row],
            marker=mark,
            markersize=5,
            color=colour,
            clip_on=False,
            markerfacecolor=colour if filled else "white",
        )
        axes.annotate(
            f"{value:.1f}",
            (edge, row),
            xytext=(6 if side == "left" else -6, 0),
            textcoords="offset points",
            fontsize=FONT - 2,
            color=GREY,
            ha=side,
            va="center",
        )
        return
    look: dict[str, Any] = {"color": colour, "linewidth": 1.8 if filled else 1.1, "solid_capstyle": "butt"}
    if not np.isnan(width):
        axes.plot([value - width, value + width], [row, row], **look)
    axes.plot(
        [value],
        [row],
        marker="o",
        markersize=5.5 if filled else 5,
        color=colour,
        markerfacecolor=colour if filled else "white",
    )


def _reach(part: pd.DataFrame) -> tuple[float, float]:
    """The ends of the axis: ours where there is any, and what of the published lies near."""
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
    # The interval of two seeds can be many times the span of the means, or leave 0 to 100 %.
    room = max(kept[-1] - kept[0], 1.0)
    low, high = max(min(ends), kept[0] - room, 0.0), min(max(ends), kept[-1] + room, 100.0)
    gap = 0.09 * max(high - low, 0.5)
    # Words and marks stand at the left, so it gets more room.
    return low - 2.2 * gap, high + 1.2 * gap


def _without_far(values: Sequence[float]) -> list[float]:
    """What is left of sorted values without those whose gap to the others is several times the others' span."""
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
    lines = [(column, curves[curves["column"] == column].sort_values("step")) for column in pair]
    if all(line.empty for _, line in lines):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5,
            0.5,
            "not run",
            transform=axes.transAxes,
            color=GREY,
            style="italic",
            ha="center",
            fontsize=FONT,
        )
        return
    for place, (column, line) in enumerate(lines):
        if line.empty:
            axes.plot([], [], color=_colour(column), label=f"{_label(column)}: not run")
            continue
        last = line.iloc[-1]
        told = f"{_label(column)}: {last['mean']:.1f} % ({int(last['n'])} seed{'s' if last['n'] > 1 else ''})"
        look: dict[str, Any] = {"color": _colour(column), "linewidth": 1.5, "marker": "os"[place % 2]}
        axes.plot(line["step"], line["mean"], markersize=3.5, label=told, **look)
        band = line.dropna(subset=["half"])
        axes.fill_between(
            band["step"],
            band["mean"] - band["half"],
            band["mean"] + band["half"],
            color=_colour(column),
            alpha=0.18,
            linewidth=0,
        )
        if place == 0:
            axes.axhline(last["mean"], color=GREY, linewidth=0.8, linestyle=":")
    axes.legend(fontsize=FONT - 1, frameon=False, loc="lower right")


def _legend(
    figure: LabFigure, frame: pd.DataFrame, baseline: str | None, level: float, *, titled: bool
) -> None:
    ours = Line2D([], [], color=GREY, marker="o", markersize=5.5, linewidth=1.8)
    theirs = Line2D([], [], color=GREY, marker="o", markersize=5, linewidth=1.1, markerfacecolor="white")
    handles = [ours, theirs]
    labels = [f"ours, {100 * level:.10g} % interval", "published, ± sd"]
    if baseline:
        handles.append(Line2D([], [], color=GREY, linewidth=0.9))
        labels.append(f"{_label(baseline)}, ours (dotted: published)")
    if "comparable" in frame and not frame["comparable"].all():
        handles.append(Line2D([], [], linewidth=0))
        labels.append("† not the paper's experiment")
    top = 1 - (0.25 if titled else 0.02) / figure.get_figheight()
    figure.legend(
        handles,
        labels,
        fontsize=FONT - 1,
        frameon=False,
        ncols=len(labels),
        loc="upper left",
        bbox_to_anchor=(0.0, top),
        handlelength=1.8,
        columnspacing=1.4,
    )
