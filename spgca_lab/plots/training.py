"""Figures of a run: losses, accuracy, learning rate, and entropy of its attention, over the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spgca_lab.plots.style import (
    FONT,
    GREY,
    LabFigure,
    PlotError,
    categories,
    chart_figure,
    layer_colours,
    layer_names,
    plain,
    require_columns,
    tidy,
    top_legend,
)


def smooth(values: Any, window: int = 9) -> np.ndarray:
    """Return the centred running mean; windows are cut off at both ends."""
    series = pd.Series(np.asarray(values, dtype=float))
    return series.rolling(window, center=True, min_periods=1).mean().to_numpy()


def smooth_by_stage(values: Any, stages: Any, window: int = 9) -> np.ndarray:
    """Return the running mean of values `[n]` within each stage `[n]`, which preserves the jump at the hand-over."""
    parts = np.split(np.asarray(values, dtype=float), _changes(stages))
    return np.concatenate([smooth(part, window) for part in parts])


def _changes(stages: Any) -> np.ndarray:
    names = np.asarray(stages)
    return np.flatnonzero(names[1:] != names[:-1]) + 1


def thinned(count: int, most: int = 4000) -> np.ndarray:
    """Return indices of at most `most` of `count` points, including the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def training_curves(
    runs: Sequence[tuple[str, pd.DataFrame, pd.DataFrame]],
    *,
    colours: Sequence[str] | None = None,
    title: str = "",
) -> LabFigure:
    """Draw cross-entropy, penalty and test accuracy over the steps of one or several runs.

    Args:
        runs: (label, `Run.steps`, `Run.evaluations`) of each run.
        colours: one colour per run; None takes colour-blind-safe ones in order.
        title: title of the figure.

    Raises:
        PlotError: when there is no run, or a table lacks a column.
    """
    if not runs:
        raise PlotError("there is no run to show")
    for label, steps, evaluations in runs:
        lack, advice = f"the tables of {label!r} lack", "give Run.steps, Run.evaluations"
        require_columns(steps, ("step", "cross_entropy", "penalty"), lack, advice)
        require_columns(evaluations, ("step", "top1"), lack, advice)
    figure = chart_figure(2.9, title)
    axes = figure.subplots(1, 3)
    for colour, (label, steps, evaluations) in zip(colours or categories(len(runs)), runs, strict=True):
        keep = thinned(len(steps))
        at = steps["step"].to_numpy()[keep]
        for axis, column in zip(axes[:2], ("cross_entropy", "penalty"), strict=True):
            values = steps[column]
            mean = smooth_by_stage(values, steps["stage"]) if "stage" in steps else smooth(values)
            axis.plot(at, values.to_numpy()[keep], color=colour, alpha=0.25, linewidth=0.7)
            axis.plot(at, mean[keep], color=colour, linewidth=1.5)
        tests = evaluations["top1"]
        label += f": {tests.iloc[-1]:.1f} %" if len(tests) else ""
        axes[2].plot(evaluations["step"], tests, color=colour, marker="o", markersize=3.5, label=plain(label))
    tidy(axes[0], x="step", y="nats", title="cross-entropy, training").set_ylim(bottom=0)
    tidy(axes[1], x="step", title="penalty (before α)").set_ylim(bottom=0)
    tidy(axes[2], x="step", y="top-1, %", title="accuracy, test").set_xlim(axes[0].get_xlim())
    for axis in axes:
        _mark_schedule(axis, runs[0][1], rates=axis is axes[2])
    top_legend(figure, axes[2])
    return figure


def entropy_curves(
    steps: pd.DataFrame, sizes: Mapping[str, Mapping[str, int]] | None = None, *, title: str = ""
) -> LabFigure:
    """Draw the entropy of the attention in nats with its maximum, and the effective number exp(H).

    Args:
        steps: `Run.steps`.
        sizes: number of weights, `{stage: {tap or "all": n}}` (see `scores.weight_counts`), for the dashed lines
            of the maximum ln n and the percentages of the right chart.
        title: title of the figure.

    Raises:
        PlotError: when the run recorded no entropy, because its method has no attention.
    """
    columns = [c for c in steps.columns if c.startswith("entropy/")]
    if not columns:
        raise PlotError("these steps have no column 'entropy/…': the method has no attention")
    figure = chart_figure(3.0, title)
    left, right = figure.subplots(1, 2)
    taps = [c for c in columns if c != "entropy/all"]
    colour = dict(zip(taps, layer_colours(len(taps)), strict=True)) | {"entropy/all": "#D55E00"}
    name = dict(zip(taps, layer_names(taps), strict=True)) | {"entropy/all": "all layers together"}
    for column in columns:
        for i, (stage, rows) in enumerate(steps.dropna(subset=[column]).groupby("stage", sort=False)):
            label = name[column] if i == 0 else None
            left.plot(rows["step"], rows[column], color=colour[column], linewidth=1.5, label=label)
            count = (sizes or {}).get(str(stage), {}).get(column.removeprefix("entropy/"))
            effective = np.exp(rows[column].to_numpy())
            if count:
                ends = [rows["step"].min(), rows["step"].max()]
                left.plot(ends, [np.log(count)] * 2, "--", color=colour[column], linewidth=0.8)
                effective = 100 * effective / count
            right.plot(rows["step"], effective, color=colour[column], linewidth=1.5)
    heads = ("entropy (dashed: its maximum, ln n)", "% of all") if sizes else ("entropy", "")
    tidy(left, x="step", y="entropy, nats", title=heads[0]).set_ylim(0, left.get_ylim()[1] * 1.08)
    label = ", ".join(filter(None, ("effective number", heads[1])))
    tidy(right, x="step", y=label, title="effective number of weights, exp(entropy)")
    right.set_ylim(0, 112) if sizes else right.set_yscale("log")
    for axes in (left, right):
        _mark_schedule(axes, steps)
    top_legend(figure, left)
    return figure


def bar_terms(terms: Mapping[str, Mapping[str, float]], *, log: bool = False, title: str = "") -> LabFigure:
    """Draw the shares of layers in several quantities, such as the loss and its gradient.

    Args:
        terms: `{quantity: {tap: value ≥ 0}}`, for example `{"loss": …, "gradient": …}`.
        log: draw a logarithmic axis, for shares of very different size.
        title: title of the figure.

    Raises:
        PlotError: when there is nothing, layers differ, or a value is negative or not finite.
    """
    import seaborn as sns

    taps = list(next(iter(terms.values()))) if terms else []
    if not taps or any(list(t) != taps for t in terms.values()):
        layers = {name: list(t) for name, t in terms.items()}
        raise PlotError(f"every quantity needs the same layers, got {layers}")
    table = pd.DataFrame(terms, dtype=float).T
    for name, values in table.iterrows():
        if not np.isfinite(values).all() or values.min() < 0 or values.sum() == 0:
            raise PlotError(f"{name!r} must have finite values ≥ 0, not all 0, got {values.tolist()}")
    shares = 100 * table.div(table.sum(axis=1), axis=0).set_axis(layer_names(taps), axis=1)
    long = shares.rename(index=plain).melt(var_name="layer", value_name="share", ignore_index=False)
    figure = chart_figure(2.7, title)
    axes = figure.subplots()
    look: dict[str, Any] = {
        "x": "quantity",
        "y": "share",
        "hue": "layer",
        "palette": layer_colours(len(taps)),
    }
    sns.barplot(long.rename_axis("quantity"), errorbar=None, saturation=1, ax=axes, **look)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.2g", fontsize=FONT - 2, padding=1)  # type: ignore[arg-type] # bars only
    if log:
        axes.set_yscale("log")
    axes.margins(y=0.12)
    tidy(axes, y="share, %").tick_params(axis="x", labelsize=FONT, length=0)
    top_legend(figure, axes, len(taps))
    return figure


def _mark_schedule(axes: Axes, steps: pd.DataFrame, *, rates: bool = True) -> None:
    """Mark hand-overs between stages (solid) and drops of the learning rate (dotted, named with `rates`)."""
    if len(steps) < 2:
        return
    at = steps["step"].to_numpy() + 0.5
    look: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    if "stage" in steps:
        stage = steps["stage"].to_numpy()
        for i in _changes(stage):
            axes.axvline(at[i - 1], color="black", linewidth=1.0)
            text = f"{stage[i - 1]} → {stage[i]}"
            axes.annotate(text, (at[i - 1], 0.99), xytext=(3, -1), fontsize=FONT - 2, va="top", **look)
    if "lr" in steps:
        lr = steps["lr"].to_numpy()
        for i in np.flatnonzero(lr[1:] < lr[:-1]):
            axes.axvline(at[i], color=GREY, linewidth=0.8, linestyle=":")
            if rates:
                text = f"lr {lr[i + 1]:.0e}".replace("e-0", "e-")
                axes.annotate(text, (at[i], 0.01), xytext=(2, 1), fontsize=FONT - 3, color=GREY, **look)
