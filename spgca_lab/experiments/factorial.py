"""The shipped factorial experiment: transfer × training images per class × method, with α from held-out images."""

import io
from pathlib import Path
from statistics import fmean

import pandas as pd

from spgca_lab._checks import quote
from spgca_lab.analysis.statistics import paired_difference
from spgca_lab.data.shipped import data_dir, verify_shipped

ROLES = ("validation", "test")
COLUMNS = ("transfer", "per_class", "role", "method", "alpha", "seed", "top1", "cross_entropy", "recipe")
KEY = list(COLUMNS[:6])
CELL = ["transfer", "per_class", "method"]


class FactorialError(ValueError):
    """A table of results that cannot be read as a factorial."""


def factorial(file: str | Path | None = None) -> pd.DataFrame:
    """Return the runs of the factorial, one row each.

    Args:
        file: a table that `data/make_factorial.py` wrote; None takes the shipped one.

    Returns:
        `transfer` (source and target), `per_class` (training images per class), `role` (`"validation"` on held-out
        training images, for the choice of α, or `"test"`), `method`, `alpha`, `seed` (of images, head, batches and
        nets), `top1` in percent (NaN where training diverged), `cross_entropy` in nats, `recipe` (hash).
    """
    path = data_dir() / "factorial" / "runs.csv" if file is None else Path(file)
    if file is None:
        verify_shipped(path)
    if not path.is_file():
        raise FactorialError(f"there is no table at {quote(str(path))}")
    table = pd.read_csv(io.StringIO(path.read_text(encoding="utf-8")))
    if missing := [name for name in COLUMNS if name not in table]:
        raise FactorialError(f"{path.name} has no column {', '.join(map(repr, missing))}")
    unknown = set(table["role"]) - set(ROLES)
    if unknown:
        raise FactorialError(f"{path.name}: role must be one of {', '.join(ROLES)}, got {sorted(unknown)}")
    twice = table[table.duplicated(KEY)]
    if len(twice):
        raise FactorialError(f"{path.name}: this run is there twice: {dict(twice.iloc[0][KEY])}")
    return table


def best_alphas(table: pd.DataFrame) -> dict[tuple[str, int, str], float]:
    """Return the α of the best mean accuracy on held-out training images, per transfer, images per class and method.

    Of equal ones the lower cross-entropy decides. A value with which any run diverged is out.
    """
    chosen: dict[tuple[str, int, str], float] = {}
    validation = table[table["role"] == "validation"]
    for (transfer, per_class, method), cell in validation.groupby(CELL, sort=False):
        whole = cell.groupby("alpha").filter(lambda runs: bool(runs["top1"].notna().all()))
        if whole.empty:
            raise FactorialError(f"{method} on {transfer} with {per_class} per class diverged with every α")
        means = whole.groupby("alpha")[["top1", "cross_entropy"]].mean().round(9)
        best = means.sort_values(["top1", "cross_entropy"], ascending=[False, True]).index[0]
        chosen[str(transfer), int(per_class), str(method)] = float(best)
    return chosen


def gains(table: pd.DataFrame, over: str) -> pd.DataFrame:
    """Return each method's gain over another one per cell, with Student's t interval over paired seeds.

    Every method has the α that was chosen on held-out images; a method without validation runs has its only one. Cells
    have the mean accuracy `top1` in percent, the mean paired difference `gain` in points, half its 95 % interval (NaN
    of fewer than two seeds), and the number of seeds `n`.
    """
    methods = list(dict.fromkeys(table["method"]))
    if over not in methods:
        raise FactorialError(f"no runs of {over!r}; there are {', '.join(map(repr, methods))}")
    alphas = best_alphas(table)
    cells: dict[tuple[str, int, str], tuple[float, dict[int, float]]] = {}
    for (transfer, per_class, method), cell in table[table["role"] == "test"].groupby(CELL, sort=False):
        key = (str(transfer), int(per_class), str(method))
        alpha = alphas.get(key, float(cell["alpha"].iloc[0]))
        runs = cell[(cell["alpha"] == alpha) & cell["top1"].notna()]
        if len(runs):
            cells[key] = alpha, dict(zip(runs["seed"].tolist(), runs["top1"].tolist(), strict=True))
    rows = []
    for (transfer, per_class, method), (alpha, by_seed) in cells.items():
        if method != over and (transfer, per_class, over) in cells:
            gap = paired_difference(by_seed, cells[transfer, per_class, over][1])
            accuracy = fmean(by_seed.values())
            rows.append((transfer, per_class, method, alpha, accuracy, gap.mean, gap.half, gap.n))
    return pd.DataFrame(rows, columns=[*CELL, "alpha", "top1", "gain", "half", "n"])
