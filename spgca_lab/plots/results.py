"""Figures of accuracies and of paired differences, with 95 % intervals, drawn with seaborn."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from spgca_lab.plots.canvas import limits_with_intervals
from spgca_lab.plots.style import (
    FONT,
    GREY,
    MAGNITUDE,
    WIDTH,
    LabFigure,
    PlotError,
    categories,
    chart_figure,
    method_colour,
    method_label,
    name_ticks,
    outside_legend,
    plain,
    require_columns,
    tidy,
    top_legend,
)


def paired_gains(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the gain of every run over the baseline's run of the same seed, in percentage points."""
    require_columns(table, ("method", "seed", "top1"))
    base = table[table["method"] == baseline].set_index("seed")["top1"]
    if base.empty:
        raise PlotError(
            f"no run of the baseline {baseline!r}; methods: {', '.join(map(str, table['method'].unique()))}"
        )
    if not base.index.is_unique:
        raise PlotError(f"several runs of {baseline!r} share a seed: select one setting before comparing")
    paired = table[table["seed"].isin(base.index)]
    gains = paired.assign(gain=paired["top1"] - paired["seed"].map(base))
    return gains[["method", "seed", "gain"]].reset_index(drop=True)


def results_dots(
    table: pd.DataFrame, *, baseline: str = "uniform", order: Sequence[str] | None = None, title: str = ""
) -> LabFigure:
    """Draw the runs of every method, their mean with its 95 % interval, and paired differences to a baseline.

    Intervals of few seeds can be many times as wide as the spread of the runs; they run off the axis.

    Args:
        table: one row per run: `method`, `seed`, `top1` in percent.
        baseline: method that the others are compared with.
        order: methods from top to bottom; None sorts by mean accuracy.
        title: title of the figure.

    Raises:
        PlotError: when a column or the baseline is missing, or runs of the baseline share a seed.
    """
    gains = paired_gains(table, baseline)
    means = table.groupby("method")["top1"].mean().sort_values(ascending=False)
    methods = list(means.index if order is None else order)
    figure = chart_figure(1.0 + 0.32 * len(methods), title)
    left, right = figure.subplots(1, 2)
    _draw_runs(left, table, "top1", methods)
    _draw_runs(right, gains, "gain", methods, baseline)
    right.axvline(0, color="black", linewidth=0.8, zorder=0)
    tidy(left, x="top-1, %", title="every run; mean ± 95 % interval", grid="x")
    label = f"difference to {method_label(baseline)}, same seed, points"
    tidy(right, x=label, title="paired differences; mean ± 95 % interval", grid="x")
    for axes in (left, right):
        name_ticks(axes.yaxis, map(method_label, methods), shown=axes is left)
    return figure


def _draw_runs(
    axes: Axes, table: pd.DataFrame, column: str, methods: Sequence[str], baseline: str = ""
) -> None:
    import seaborn as sns

    from spgca_lab.analysis.statistics import mean_interval

    def ends(values: pd.Series) -> tuple[float, float]:
        return mean_interval(values).low, mean_interval(values).high

    found = {method: mean_interval(table.loc[table["method"] == method, column]) for method in methods}
    look: dict[str, Any] = {"x": column, "y": "method", "hue": "method", "order": methods, "ax": axes}
    look |= {"hue_order": methods, "palette": {m: method_colour(m) for m in methods}, "legend": False}
    sns.stripplot(table, jitter=False, size=4.5, alpha=0.45, zorder=2, **look)
    above = ScaledTranslation(0, 5 / 72, axes.figure.dpi_scale_trans)
    for dots in axes.collections:
        dots.set_offset_transform(axes.transData + above)
    shape: dict[str, Any] = {"linestyle": "none", "marker": "D", "markersize": 4.5, "linewidth": 1.8}
    sns.pointplot(table, errorbar=ends, **shape, **look)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    sign = "+" if column == "gain" else ""
    for row, (method, interval) in enumerate(found.items()):
        text = f"{interval:{sign}.1f}" if interval.n else ""
        text = "baseline" if method == baseline else text
        axes.annotate(text, (1, row), xytext=(4, 0), fontsize=FONT - 2, color=GREY, va="center", **place)
    shown = table.loc[table["method"].isin(methods), column]
    axes.set_xlim(limits_with_intervals(shown, found.values()))


def sweep_heatmap(
    table: pd.DataFrame, *, x: str = "r", y: str = "alpha", value: str = "top1", title: str = ""
) -> LabFigure:
    """Draw the mean of a value over two fields of the recipe, such as α × r, with its 95 % interval per cell.

    Args:
        table: one row per run: the columns `x`, `y` and `value`, such as `RunStore.table()`.
        x: field on the horizontal axis.
        y: field on the vertical axis, from large to small.
        value: quantity to average over seeds.
        title: title of the figure.

    Raises:
        PlotError: when a column is missing or there is no row.
    """
    import seaborn as sns

    from spgca_lab.analysis.statistics import mean_interval

    require_columns(table, (x, y, value))
    if table.empty:
        raise PlotError("there is nothing to draw: the table is empty")
    cells = table.pivot_table(index=y, columns=x, values=value, aggfunc="mean").sort_index(ascending=False)
    texts = table.groupby([y, x])[value].agg(lambda v: f"{mean_interval(v):.1f}").unstack()
    figure = chart_figure(1.1 + 0.36 * len(cells), title, min(WIDTH, 2.0 + 1.1 * len(cells.columns)))
    axes = figure.subplots()
    bar = {"label": "top-1, %" if value == "top1" else value}
    look: dict[str, Any] = {"cmap": MAGNITUDE, "annot_kws": {"fontsize": FONT - 1}, "cbar_kws": bar}
    sns.heatmap(cells, annot=texts.reindex_like(cells), fmt="", linewidths=0.5, ax=axes, **look)
    names = {"alpha": "α", "beta": "β"}
    tidy(axes, x=names.get(x, x), y=names.get(y, y), title="mean ± 95 % interval over seeds", grid="")
    axes.tick_params(length=0, rotation=0)
    return figure


def factorial_gains(gains: Mapping[str, pd.DataFrame], *, title: str = "") -> LabFigure:
    """Draw gains with 95 % intervals: one row of charts per transfer, one column per method compared with.

    A full dot is a clear gain or loss; the interval of an empty dot contains 0. `gains` is
    `{"plain fine-tuning": table, …}` with the columns `transfer`, `per_class`, `method`, `gain` and `half`, the
    half width of the interval.

    Raises:
        PlotError: when there is nothing to draw, or a column is missing.
    """
    for table in gains.values():
        require_columns(table, ("transfer", "per_class", "method", "gain", "half"))
    if all(table.empty for table in gains.values()):
        raise PlotError("there is nothing to draw: there is no table, or all are empty")
    every = pd.concat(gains.values())
    transfers, sizes = every["transfer"].unique(), sorted(every["per_class"].unique())
    palette = {method: method_colour(method) for method in every["method"].unique()}
    figure = chart_figure(0.75 + 1.05 * len(transfers) + (0.25 if title else 0), title)
    panels = figure.subplots(len(transfers), len(gains), sharey="row", squeeze=False)
    for row, transfer in enumerate(transfers):
        reach = _reach(every[every["transfer"] == transfer], 1.1)
        last = row == len(transfers) - 1
        for axes, (other, table) in zip(panels[row], gains.items(), strict=True):
            rows = table[table["transfer"] == transfer]
            axes.axhline(0, color="black", linewidth=0.8)
            look: dict[str, Any] = {"x": "per_class", "y": "value", "hue": "method", "order": sizes}
            _draw_intervals(axes, rows, palette, 0.15, **look, markerfacecolor="white")
            _draw_intervals(axes, rows[rows["half"] < rows["gain"].abs()], palette, 0.15, **look)
            axes.set(ylim=(-reach, reach), xlim=(-0.5, len(sizes) - 0.5))
            name_ticks(axes.xaxis, sizes, shown=last)
            x = "training images per class" if last else ""
            tidy(axes, x=x, title=f"minus {other}, points" if row == 0 else "")
        look = {"fontsize": FONT, "rotation": 0, "ha": "right", "va": "center"}
        panels[row, 0].set_ylabel(plain(transfer.replace(" → ", "\n→ ")), **look)
    dots = [Line2D([], [], color=c, marker="o", markersize=5, linewidth=0) for c in palette.values()]
    outside_legend(figure, dots, [plain(method_label(method)) for method in palette])
    return figure


def interval_dots(
    table: pd.DataFrame, *, row: str, panel: str, colour: str, label: str, title: str = ""
) -> LabFigure:
    """Draw means with their 95 % intervals as dots with bars, one chart per setting.

    Args:
        table: one row per dot: `gain`, `half`, and the three columns named next.
        row: column whose values are listed from top to bottom.
        panel: column whose values get one chart each.
        colour: column whose values get one colour each.
        label: label of the horizontal axis.
        title: title of the figure.

    Raises:
        PlotError: when a column is missing, or there is nothing to draw.
    """
    require_columns(table, ("gain", "half", row, panel, colour))
    if table.empty:
        raise PlotError("there is nothing to draw: the table is empty")
    reach = _reach(table, 1.08)
    table = table.assign(**{name: table[name].astype(str) for name in (row, panel, colour)})
    rows, settings, groups = (list(table[name].unique()) for name in (row, panel, colour))
    palette = dict(zip(groups, categories(len(groups)), strict=True))
    figure = chart_figure(0.95 + 0.25 * len(rows) + (0.25 if title else 0), title)
    charts = figure.subplots(1, len(settings), squeeze=False)[0]
    for i, (axes, setting) in enumerate(zip(charts, settings, strict=True)):
        part = table[table[panel] == setting]
        axes.axvline(0, color="black", linewidth=0.8)
        _draw_intervals(axes, part, palette, 0.26, x="value", y=row, hue=colour, order=rows, legend=i == 0)
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5))
        axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        name_ticks(axes.yaxis, rows, shown=i == 0)
        tidy(axes, x=label if i == (len(settings) - 1) // 2 else "", title=setting, grid="x")
    top_legend(figure, charts[0])
    return figure


def with_ends(table: pd.DataFrame, centre: str) -> pd.DataFrame:
    """Return three rows per row, whose `value` is the mean and both ends of its interval.

    seaborn summarises samples and cannot draw known intervals: their median is the mean, and their range
    (`errorbar=("pi", 100)`) the interval.
    """
    half = table["half"].fillna(0.0)
    return pd.concat([table.assign(value=table[centre] + k * half) for k in (-1, 0, 1)])


def _draw_intervals(
    axes: Axes, table: pd.DataFrame, palette: Mapping[str, str], apart: float, **look: Any
) -> None:
    import seaborn as sns

    if table.empty:
        return
    dodge = apart * (len(palette) - 1) or False
    shape: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linewidth": 1.3, "linestyle": "none"}
    shape |= {"estimator": "median", "errorbar": ("pi", 100), "legend": False, "hue_order": list(palette)}
    sns.pointplot(with_ends(table, "gain"), palette=dict(palette), dodge=dodge, ax=axes, **(shape | look))


def _reach(table: pd.DataFrame, room: float) -> float:
    return (table["gain"].abs() + table["half"].fillna(0)).max() * room
