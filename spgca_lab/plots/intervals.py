"""Means with their intervals in small panels: what a method gains where, how much of a heatmap is on the object."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from spgca_lab.plots.style import (
    FONT,
    WIDTH,
    LabFigure,
    PlotError,
    heading,
    method_colour,
    method_label,
    tidy,
)

__all__ = ["factorial_gains", "interval_dots"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def factorial_gains(
    gains: Mapping[str, pd.DataFrame], *, methods: Sequence[str] | None = None, title: str = ""
) -> LabFigure:
    """Gains with 95 % intervals: a row of panels a transfer, a column for what they are compared with.

    Args:
        gains: `{"plain fine-tuning": table, …}`, tables of `factorial.gains`.
        methods: from left to right in each group; None takes them as they come.
        title: of the figure.

    Returns:
        the figure; panels of a row share their axis. What is compared with itself is left out.

    Raises:
        PlotError: when there is nothing to draw, or a column is missing.

    Example:
        >>> rows = pd.DataFrame({"transfer": "a", "per_class": [2, 5], "method": "afa", "gain": 1.0, "half": 0.5})
        >>> figure = factorial_gains({"plain": rows})
        >>> figure.axes[0].get_title()
        'minus plain, points'
    """
    for table in gains.values():
        _need(table, ("transfer", "per_class", "method", "gain", "half"))
    if not gains:
        raise PlotError("gains has no table, got {}")
    every = pd.concat(gains.values())
    transfers, sizes = list(dict.fromkeys(every["transfer"])), sorted(every["per_class"].unique())
    methods = list(dict.fromkeys(every["method"])) if methods is None else list(methods)
    if not transfers:
        raise PlotError("there is nothing to draw: the tables are empty")
    high = 0.75 + 1.05 * len(transfers) + (0.25 if title else 0)
    figure = LabFigure(figsize=(WIDTH, high))
    panel, wide = 0.82 / high, 0.84 / len(gains)
    top = 1 - (0.55 + (0.25 if title else 0)) / high
    for row, transfer in enumerate(transfers):
        part = every[every["transfer"] == transfer]
        reach = (part["gain"].abs() + part["half"].fillna(0)).max() * 1.1
        for column, (other, table) in enumerate(gains.items()):
            place = (0.15 + wide * column, top - (row + 1) * 1.05 / high + 0.23 / high, wide - 0.03, panel)
            axes = figure.add_axes(place)
            _draw_gains(axes, table[table["transfer"] == transfer], methods, sizes)
            axes.set(ylim=(-reach, reach), xlim=(-0.5, len(sizes) - 0.5))
            last = row == len(transfers) - 1
            axes.set_xticks(range(len(sizes)), [str(s) for s in sizes] if last else [""] * len(sizes))
            tidy(
                axes,
                x="training pictures a class" if last else "",
                title=f"minus {other}, points" if row == 0 else "",
            )
            if column == 0:
                axes.set_ylabel(
                    transfer.replace(" → ", "\n→ "), fontsize=FONT, rotation=0, ha="right", va="center"
                )
            else:
                axes.set_yticklabels([])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper right",
        bbox_to_anchor=(0.99, 1 - (0.22 if title else 0.0) / high),
        ncols=len(labels),
        frameon=False,
        fontsize=FONT - 1,
    )
    heading(figure, title)
    return figure


def interval_dots(
    table: pd.DataFrame,
    *,
    row: str,
    panel: str,
    colour: str,
    label: str,
    title: str = "",
) -> LabFigure:
    """Means and intervals as dots with bars, one row a thing, one panel a setting.

    Args:
        table: one row a dot: `gain`, `half`, and the three columns named next.
        row: what stands below each other.
        panel: what stands beside each other.
        colour: what is told apart by colour.
        label: of the horizontal axis.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when a column is missing, or there is nothing to draw.

    Example:
        >>> dots = pd.DataFrame({"heat": ["SPA", "IG"], "layer": 1, "preset": "near", "gain": 1.0, "half": 0.5})
        >>> figure = interval_dots(dots, row="heat", panel="layer", colour="preset", label="points")
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['SPA', 'IG']
    """
    _need(table, ("gain", "half", row, panel, colour))
    rows, panels, groups = (list(dict.fromkeys(table[name])) for name in (row, panel, colour))
    if not rows:
        raise PlotError("there is nothing to draw: the table is empty")
    high = 0.85 + 0.25 * len(rows) + (0.25 if title else 0)
    figure = LabFigure(figsize=(WIDTH, high))
    left = 0.02 + 0.009 * max(len(str(name)) for name in rows)
    wide, bottom = (0.99 - left) / len(panels), 0.5 / high
    reach = (table["gain"].abs() + table["half"].fillna(0)).max() * 1.08
    for i, name in enumerate(panels):
        axes = figure.add_axes((left + wide * i, bottom, wide - 0.015, 0.25 * len(rows) / high))
        for j, group in enumerate(groups):
            part = table[(table[panel] == name) & (table[colour] == group)]
            y = np.array([rows.index(r) for r in part[row]]) + 0.26 * (j - (len(groups) - 1) / 2)
            look: dict[str, Any] = {
                "fmt": "o",
                "markersize": 3.5,
                "linewidth": 1.3,
                "color": COLOURS[j % len(COLOURS)],
            }
            axes.errorbar(part["gain"], y, xerr=part["half"].fillna(0), label=str(group), **look)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5))
        axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        axes.set_yticks(range(len(rows)), [str(r) for r in rows] if i == 0 else [""] * len(rows))
        tidy(axes, x=label if i == (len(panels) - 1) // 2 else "", title=str(name))
        axes.grid(False)
        axes.grid(True, axis="x", color="#e5e5e5", linewidth=0.6)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=1,
        frameon=False,
        fontsize=FONT - 1,
    )
    heading(figure, title)
    return figure


def _draw_gains(axes: Axes, table: pd.DataFrame, methods: Sequence[str], sizes: Sequence[int]) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    for i, method in enumerate(methods):
        part = table[table["method"] == method]
        x = np.array([sizes.index(s) for s in part["per_class"]]) + 0.15 * (i - (len(methods) - 1) / 2)
        # A clear gain or loss is a full dot, what cannot be told from nothing an empty one.
        clear = part["half"] < part["gain"].abs()
        colour = method_colour(method)
        axes.errorbar(x, part["gain"], yerr=part["half"].fillna(0), fmt="none", ecolor=colour, linewidth=1.3)
        faces = [colour if c else "white" for c in clear]
        axes.scatter(x, part["gain"], s=20, c=faces, edgecolors=colour, linewidths=1.2, zorder=3)
        axes.scatter([], [], s=20, color=colour, label=method_label(method))


def _need(table: pd.DataFrame, columns: Sequence[str]) -> None:
    lacks = [c for c in columns if c not in table]
    if lacks:
        raise PlotError(
            f"the table lacks {', '.join(map(repr, lacks))}; it has {', '.join(map(repr, table.columns))}"
        )
