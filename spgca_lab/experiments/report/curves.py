"""Figure 2: test accuracy over the steps, and how many steps a module needs, seed by seed."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from spgca_lab.analysis.statistics import mean_interval, paired_difference
from spgca_lab.experiments.report.cells import CellRuns
from spgca_lab.experiments.report.layout import percent
from spgca_lab.experiments.report.published import label
from spgca_lab.runs.store import RunError

__all__ = ["PARTNERS", "convergence", "mean_curves", "read_curves", "steps_to"]

# What Figure 2 (a) and (b) set side by side.
PARTNERS = {"spa": "ast", "gca": "act"}
_SHARES = (0.95, 0.99)


def read_curves(cells: Sequence[CellRuns]) -> pd.DataFrame:
    """Every evaluation of every finished run; a run without its evaluations is noted in its cell.

    Args:
        cells: from `read_cells`.

    Returns:
        `dataset`, `column`, `seed`, `step`, `top1` in percent.

    Example:
        >>> read_curves([]).columns.tolist()
        ['dataset', 'column', 'seed', 'step', 'top1']
    """
    columns = ["dataset", "column", "seed", "step", "top1"]
    parts = [pd.DataFrame(columns=columns)]
    for cell in cells:
        for seed, run in cell.runs.items():
            try:
                rows = run.evaluations[["step", "top1"]]
            except (RunError, KeyError, ValueError) as error:
                cell.pending[seed] = f"without its curve: {error}"
                continue
            parts.append(rows.assign(dataset=cell.dataset, column=cell.column, seed=seed)[columns])
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


def mean_curves(curves: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Mean over the seeds at every step, with its t interval.

    Args:
        curves: from `read_curves`.
        level: of confidence, between 0 and 1.

    Returns:
        `dataset`, `column`, `step`, `n`, `mean`, `half`; no interval where one seed was evaluated.

    Example:
        >>> runs = pd.DataFrame({"dataset": "d", "column": "ast", "seed": [0, 1], "step": 10, "top1": [50.0, 52.0]})
        >>> mean_curves(runs)[["n", "mean"]].values.tolist()
        [[2.0, 51.0]]
    """
    rows = []
    for (dataset, column, step), part in curves.groupby(["dataset", "column", "step"], sort=False):
        found = mean_interval(part["top1"], level)
        rows.append((dataset, column, int(step), found.n, found.mean, found.half))
    table = pd.DataFrame(rows, columns=["dataset", "column", "step", "n", "mean", "half"])
    return table.sort_values(["dataset", "column", "step"], ignore_index=True)


def steps_to(curve: pd.DataFrame, target: float) -> float:
    """The first step at which a run was seen at or above an accuracy; NaN if it never was.

    Known only as finely as the run was evaluated, and a run that falls back later has still reached it.

    Args:
        curve: `step` and `top1` of one run.
        target: accuracy in percent.

    Example:
        >>> steps_to(pd.DataFrame({"step": [10, 20, 30], "top1": [40.0, 60.0, 70.0]}), 60.0)
        20.0
    """
    reached = curve.loc[curve["top1"] >= target - 1e-9, "step"]
    return float(reached.min()) if len(reached) else math.nan


def convergence(
    curves: pd.DataFrame,
    finals: Mapping[tuple[str, str], Mapping[int, float]],
    level: float = 0.95,
    partners: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Steps until a target is reached, of both modules of a pair, and their difference over shared seeds.

    Targets: 95 % and 99 % of the run's own final accuracy; and the final accuracy of the pair's reference module
    trained with the same seed, for the reference itself too.

    Args:
        curves: from `read_curves`.
        finals: accuracy of the last iterate by (data set, column) and seed, in percent.
        level: of confidence, between 0 and 1.
        partners: reference module of each module; None for Figure 2's.

    Returns:
        one row a data set, pair and target: `dataset`, `reference`, `column`, `target`, mean steps of both
        (`reference_steps`, `steps`), how many of how many runs reached it (`reference_reached`, `reached`,
        `reference_n`, `n`), and `diff`, `diff_half`, `diff_n` over the seeds with which both did.

    Example:
        >>> runs = [("d", c, 0, s, t) for c, s, t in [("ast", 10, 50.0), ("ast", 20, 80.0), ("spa", 10, 80.0)]]
        >>> curves = pd.DataFrame(runs, columns=["dataset", "column", "seed", "step", "top1"])
        >>> convergence(curves, {("d", "ast"): {0: 80.0}, ("d", "spa"): {0: 80.0}})["diff"].tolist()
        [-10.0, -10.0, -10.0]
    """
    by_run = dict(list(curves.groupby(["dataset", "column", "seed"], sort=False)))
    rows = []
    for dataset in dict.fromkeys(curves["dataset"]):
        for column, reference in (PARTNERS if partners is None else partners).items():
            own, other = (finals.get((dataset, name), {}) for name in (column, reference))
            targets = [(f"{percent(share)} of its own final accuracy", share) for share in _SHARES]
            for target, share in [*targets, (f"final accuracy of {label(reference)}", None)]:
                row = {"dataset": dataset, "reference": reference, "column": column, "target": target}
                reached = []
                for name, ends, prefix in ((column, own, ""), (reference, other, "reference_")):
                    goals = other if share is None else ends
                    steps = {
                        seed: steps_to(by_run[dataset, name, seed], (share or 1.0) * goals[seed])
                        for seed in ends
                        if seed in goals and (dataset, name, seed) in by_run
                    }
                    there = {seed: value for seed, value in steps.items() if not math.isnan(value)}
                    row |= {f"{prefix}steps": mean_interval(list(there.values()), level).mean}
                    row |= {f"{prefix}reached": len(there), f"{prefix}n": len(steps)}
                    reached.append(there)
                gap = paired_difference(reached[0], reached[1], level)
                row |= {"diff": gap.mean, "diff_half": gap.half, "diff_n": gap.n}
                if row["n"] or row["reference_n"]:
                    rows.append(row)
    first = ["dataset", "reference", "column", "target"]
    counts = [f"{prefix}{name}" for prefix in ("reference_", "") for name in ("steps", "reached", "n")]
    return pd.DataFrame(rows, columns=[*first, *counts, "diff", "diff_half", "diff_n"])
