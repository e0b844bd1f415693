"""Curves of a run: its losses, its accuracy, its schedule, and how even its attention stays."""

from collections.abc import Mapping, Sequence
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
    layer_colours,
    layer_names,
    tidy,
)

__all__ = [
    "bar_terms",
    "draw_schedule",
    "entropy_columns",
    "entropy_curves",
    "smooth",
    "smooth_by_stage",
    "thinned",
    "training_curves",
]

_RUNS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")


def smooth(values: Any, window: int = 9) -> np.ndarray:
    """Centred running mean; at the ends over what there is.

    Example:
        >>> smooth([0.0, 3.0, 0.0], window=3).tolist()
        [1.5, 1.0, 1.5]
    """
    return (
        pd.Series(np.asarray(values, dtype=float))
        .rolling(window, center=True, min_periods=1)
        .mean()
        .to_numpy()
    )


def smooth_by_stage(values: Any, stages: Any, window: int = 9) -> np.ndarray:
    """Running mean within each stage: across the hand-over it would hide the jump there, one of the things to see.

    Args:
        values: `[n]`.
        stages: name of each value's stage, `[n]`.
        window: as in `smooth`.

    Example:
        >>> smooth_by_stage([0.0, 0.0, 9.0, 9.0], ["spa", "spa", "gca", "gca"]).tolist()
        [0.0, 0.0, 9.0, 9.0]
    """
    names = np.asarray(stages)
    ends = np.flatnonzero(names[1:] != names[:-1]) + 1
    parts = np.split(np.asarray(values, dtype=float), ends)
    return np.concatenate([smooth(part, window) for part in parts])


def thinned(count: int, most: int = 4000) -> np.ndarray:
    """Places of at most so many of `count` points, the first and the last among them: a line shows no more.

    Example:
        >>> thinned(5, 3).tolist(), thinned(2, 3).tolist()
        ([0, 2, 4], [0, 1])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def draw_schedule(axes: Axes, steps: pd.DataFrame, *, rates: bool = True) -> None:
    """Mark the hand-over between stages (solid) and the learning rate's falls (dotted, with `rates`)."""
    if "stage" in steps and len(steps) > 1:
        stage = steps["stage"].to_numpy()
        for i in np.flatnonzero(stage[1:] != stage[:-1]):
            axes.axvline(steps["step"].iloc[i] + 0.5, color="black", linewidth=1.0)
            axes.annotate(
                f"{stage[i]} → {stage[i + 1]}",
                (steps["step"].iloc[i] + 0.5, 0.99),
                xycoords=("data", "axes fraction"),
                xytext=(3, -1),
                textcoords="offset points",
                fontsize=FONT - 2,
                va="top",
            )
    if "lr" in steps and len(steps) > 1:
        lr = steps["lr"].to_numpy()
        for i in np.flatnonzero(lr[1:] < lr[:-1]):
            axes.axvline(steps["step"].iloc[i] + 0.5, color=GREY, linewidth=0.8, linestyle=":")
            if not rates:
                continue
            axes.annotate(
                f"lr {lr[i + 1]:.0e}".replace("e-0", "e-"),
                (steps["step"].iloc[i] + 0.5, 0.01),
                xycoords=("data", "axes fraction"),
                xytext=(2, 1),
                textcoords="offset points",
                fontsize=FONT - 3,
                color=GREY,
            )


def training_curves(
    runs: Sequence[tuple[str, pd.DataFrame, pd.DataFrame]],
    *,
    colours: Sequence[str] | None = None,
    title: str = "",
) -> LabFigure:
    """Cross-entropy, penalty and test accuracy over the steps of one or several runs.

    Args:
        runs: (label, `Run.steps`, `Run.evaluations`) of each.
        colours: one a run; None takes colour-blind-safe ones in order.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when there is no run, or a table lacks a column.

    Example:
        >>> steps = pd.DataFrame({"step": [1, 2], "cross_entropy": [2.0, 1.0], "penalty": [0.0, 0.1]})
        >>> figure = training_curves([("a", steps, pd.DataFrame({"step": [2], "top1": [50.0]}))])
        >>> [axes.get_title() for axes in figure.axes]
        ['cross-entropy, training', 'penalty (before α)', 'accuracy, test']
    """
    if not runs:
        raise PlotError("there is no run to show")
    for label, steps, evaluations in runs:
        lacks = [c for c in ("step", "cross_entropy", "penalty") if c not in steps]
        lacks += [c for c in ("step", "top1") if c not in evaluations]
        if lacks:
            raise PlotError(
                f"the tables of {label!r} lack {', '.join(map(repr, lacks))}; give Run.steps, Run.evaluations"
            )
    figure = LabFigure(figsize=(WIDTH, 2.9))
    high = 0.62 if title or len(runs) > 1 else 0.7
    axes = [figure.add_axes((0.065 + 0.325 * i, 0.17, 0.265, high)) for i in range(3)]
    chosen = list(colours) if colours else [_RUNS[i % len(_RUNS)] for i in range(len(runs))]
    for colour, (label, steps, evaluations) in zip(chosen, runs, strict=True):
        ends = f"{label}: {evaluations['top1'].iloc[-1]:.1f} %" if len(evaluations) else label
        for axis, column in zip(axes[:2], ("cross_entropy", "penalty"), strict=True):
            keep = thinned(len(steps))
            at, values = steps["step"].to_numpy()[keep], steps[column].to_numpy()[keep]
            axis.plot(at, values, color=colour, alpha=0.25, linewidth=0.7)
            axis.plot(at, _smoothed(steps, column)[keep], color=colour, linewidth=1.5, label=label)
        axes[2].plot(
            evaluations["step"], evaluations["top1"], color=colour, marker="o", markersize=3.5, label=ends
        )
        if len(evaluations) and len(runs) == 1:
            last = evaluations.iloc[-1]
            axes[2].annotate(
                f"{last['top1']:.1f}",
                (last["step"], last["top1"]),
                xytext=(0, 5),
                textcoords="offset points",
                fontsize=FONT - 1,
                color=colour,
                ha="right",
            )
    tidy(axes[0], x="step", y="nats", title="cross-entropy, training")
    tidy(axes[1], x="step", y="", title="penalty (before α)")
    tidy(axes[2], x="step", y="top-1, %", title="accuracy, test")
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(bottom=0)
    axes[2].set_xlim(axes[0].get_xlim())
    for axis in axes:
        draw_schedule(axis, runs[0][1], rates=axis is axes[2])
    if len(runs) > 1:
        handles, labels = axes[2].get_legend_handles_labels()
        figure.legend(
            handles, labels, fontsize=FONT - 1, frameon=False, ncols=min(len(runs), 6), loc="upper right"
        )
    heading(figure, title)
    return figure


def entropy_columns(steps: pd.DataFrame) -> list[str]:
    """Columns `entropy/<tap>` and `entropy/all` of a run's steps, in order.

    Example:
        >>> entropy_columns(pd.DataFrame({"step": [1], "entropy/all": [0.5]}))
        ['entropy/all']
    """
    return [c for c in steps.columns if c.startswith("entropy/")]


def entropy_curves(
    steps: pd.DataFrame, sizes: Mapping[str, Mapping[str, int]] | None = None, *, title: str = ""
) -> LabFigure:
    """How even the attention stays: entropy in nats with its maximum, and the effective number exp(H).

    Args:
        steps: `Run.steps`.
        sizes: number of weights, `{stage: {tap or "all": n}}` (see `scores.weight_counts`); gives
            the dashed lines of the maximum ln n and the right panel's percentages.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when the run recorded no entropy (its method has no attention).

    Example:
        >>> steps = pd.DataFrame({"step": [1, 2], "stage": ["gca"] * 2, "entropy/all": [6.0, 5.9]})
        >>> entropy_curves(steps, {"gca": {"all": 960}}).axes[1].get_ylabel()
        'effective number, % of all'
    """
    columns = entropy_columns(steps)
    if not columns:
        raise PlotError("these steps have no column 'entropy/…': the method has no attention")
    figure = LabFigure(figsize=(WIDTH, 3.0))
    high = 0.64
    left, right = figure.add_axes((0.07, 0.16, 0.4, high)), figure.add_axes((0.57, 0.16, 0.4, high))
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
                first, last = rows["step"].min(), rows["step"].max()
                left.plot([first, last], [np.log(count)] * 2, "--", color=colour[column], linewidth=0.8)
                effective = 100 * effective / count
            right.plot(rows["step"], effective, color=colour[column], linewidth=1.5)
    tidy(
        left, x="step", y="entropy, nats", title="entropy (dashed: its maximum, ln n)" if sizes else "entropy"
    )
    label = "effective number, % of all" if sizes else "effective number"
    tidy(right, x="step", y=label, title="effective number of weights, exp(entropy)")
    left.set_ylim(0, left.get_ylim()[1] * 1.08)
    right.set_ylim(0, 112) if sizes else right.set_yscale("log")
    for axes in (left, right):
        draw_schedule(axes, steps)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=FONT - 1, frameon=False, ncols=len(labels), loc="upper right")
    heading(figure, title)
    return figure


def bar_terms(terms: Mapping[str, Mapping[str, float]], *, log: bool = False, title: str = "") -> LabFigure:
    """Shares by layer of several quantities: how much of the loss and of its gradient each layer has.

    Args:
        terms: `{quantity: {tap: value ≥ 0}}`, e.g. `{"loss": …, "gradient": …}`.
        log: logarithmic axis, for shares of very different size.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when there is nothing, layers differ, or a value is negative or not finite.

    Example:
        >>> figure = bar_terms({"loss": {"a": 1.0, "b": 3.0}})
        >>> figure.axes[0].get_ylabel()
        'share, %'
    """
    taps = list(next(iter(terms.values()))) if terms else []
    if not taps or any(list(t) != taps for t in terms.values()):
        raise PlotError(
            f"every quantity needs the same layers, got { {k: list(t) for k, t in terms.items()} }"
        )
    values = {name: np.array([float(v) for v in t.values()]) for name, t in terms.items()}
    for name, v in values.items():
        if not np.isfinite(v).all() or v.min() < 0 or v.sum() == 0:
            raise PlotError(f"{name!r} must have finite values ≥ 0, not all 0, got {v.tolist()}")
    figure = LabFigure(figsize=(WIDTH, 2.7))
    axes = figure.add_axes((0.08, 0.14, 0.89, 0.66))
    wide = 0.8 / len(taps)
    for i, (name, colour) in enumerate(zip(layer_names(taps), layer_colours(len(taps)), strict=True)):
        share = [100 * v[i] / v.sum() for v in values.values()]
        place = np.arange(len(values)) + (i - (len(taps) - 1) / 2) * wide
        bars = axes.bar(place, share, wide * 0.92, color=colour, label=name)
        axes.bar_label(bars, labels=[f"{s:.2g}" for s in share], fontsize=FONT - 2, padding=1)
    axes.set_xticks(np.arange(len(values)), list(values))
    if log:
        axes.set_yscale("log")
    axes.margins(y=0.12)
    tidy(axes, y="share, %")
    axes.tick_params(axis="x", labelsize=FONT, length=0)
    axes.legend(fontsize=FONT - 1, frameon=False, ncols=len(taps), loc="lower right", bbox_to_anchor=(1, 1.0))
    heading(figure, title)
    return figure


def _smoothed(steps: pd.DataFrame, column: str) -> np.ndarray:
    return smooth_by_stage(steps[column], steps["stage"]) if "stage" in steps else smooth(steps[column])
