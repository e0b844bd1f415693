"""The shipped factorial: which penalty helps from where to where, with how many pictures; results and their reading."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spgca_lab._checks import quote
from spgca_lab.analysis.statistics import PairedDifference, paired_difference
from spgca_lab.data.location import data_dir
from spgca_lab.data.shipped import verify_shipped

__all__ = ["FactorialError", "best_alphas", "factorial", "gains"]

ROLES = ("validation", "test")
COLUMNS = ("transfer", "per_class", "role", "method", "alpha", "seed", "top1", "cross_entropy", "recipe")
KEY = ("transfer", "per_class", "role", "method", "alpha", "seed")
CELL = ["transfer", "per_class", "method"]


class FactorialError(ValueError):
    """A table of results that cannot be read as a factorial."""


def factorial(file: str | Path | None = None) -> pd.DataFrame:
    """The runs of the factorial, one row each.

    Args:
        file: a table that `data/make_factorial.py` wrote; None is the shipped one.

    Returns:
        `transfer` (source and target), `per_class` (training pictures a class), `role` (`"validation"`: measured on
        held-out training pictures, to choose α; `"test"`), `method`, `alpha`, `seed` (of pictures, head, batches and
        nets), `top1` in percent (NaN where training diverged), `cross_entropy` in nats, `recipe` (hash).

    Raises:
        FactorialError: when a column is missing, or a run is there twice, quoting it.
        ShippedDataError: when the shipped table is damaged or missing, with both checksums.

    Example:
        >>> table = factorial()
        >>> sorted(table["role"].unique())
        ['test', 'validation']
    """
    path = data_dir() / "factorial" / "runs.csv" if file is None else Path(file)
    if file is None:
        verify_shipped(path)
    if not path.is_file():
        raise FactorialError(f"there is no table at {quote(str(path))}")
    table = pd.read_csv(io.StringIO(path.read_text(encoding="utf-8")))
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise FactorialError(f"{path.name} has no column {', '.join(map(repr, missing))}")
    unknown = set(table["role"]) - set(ROLES)
    if unknown:
        raise FactorialError(f"{path.name}: role must be one of {', '.join(ROLES)}, got {sorted(unknown)}")
    twice = table[table.duplicated(list(KEY))]
    if len(twice):
        raise FactorialError(f"{path.name}: this run is there twice: {dict(twice.iloc[0][list(KEY)])}")
    return table


def _check_columns(table: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise FactorialError(f"the table has no column {missing[0]!r}: it needs {', '.join(COLUMNS)}")


def best_alphas(table: pd.DataFrame) -> dict[tuple[str, int, str], float]:
    """α with the best mean accuracy on held-out training pictures, by transfer, pictures a class and method.

    Of equal ones the one with the lower cross-entropy. A value with which any run diverged is not taken.

    Args:
        table: of `factorial`, or rows alike.

    Returns:
        `{(transfer, per_class, method): α}` for all that have validation runs.

    Raises:
        FactorialError: when every value of a cell diverged, naming it.

    Example:
        >>> rows = [("a", 2, "validation", "spa", a, 0, t, 1.0, "") for a, t in ((1.0, 50.0), (3.0, 52.0))]
        >>> best_alphas(pd.DataFrame(rows, columns=COLUMNS))
        {('a', 2, 'spa'): 3.0}
    """
    _check_columns(table)
    chosen: dict[tuple[str, int, str], float] = {}
    validation = table[table["role"] == "validation"]
    for (transfer, per_class, method), cell in validation.groupby(CELL, sort=False):
        whole = cell.groupby("alpha").filter(lambda runs: bool(runs["top1"].notna().all()))
        if whole.empty:
            raise FactorialError(f"{method} on {transfer} with {per_class} a class diverged with every α")
        means = whole.groupby("alpha")[["top1", "cross_entropy"]].mean().round(9)
        best = means.sort_values(["top1", "cross_entropy"], ascending=[False, True]).index[0]
        chosen[str(transfer), int(per_class), str(method)] = float(best)
    return chosen


def gains(table: pd.DataFrame, over: str) -> pd.DataFrame:
    """How much each method gains over another one, cell by cell, with Student's t interval over paired seeds.

    Every method stands with the α that held-out pictures chose for it; a method without α with its only one.

    Args:
        table: of `factorial`.
        over: method to compare with, `"l2"` or `"uniform"`.

    Returns:
        `transfer, per_class, method, alpha, top1, gain, half, n`: mean accuracy in percent, mean paired difference
        in points, half its 95 % interval, seeds. Cells with less than two seeds have no interval (NaN).

    Raises:
        FactorialError: when there is no such method, listing what there is.

    Example:
        >>> gains(factorial(), over="l2").columns.tolist()
        ['transfer', 'per_class', 'method', 'alpha', 'top1', 'gain', 'half', 'n']
    """
    _check_columns(table)
    methods = list(dict.fromkeys(table["method"]))
    if over not in methods:
        raise FactorialError(f"no runs of {over!r}; there are {', '.join(map(repr, methods))}")
    cells = _chosen(table)
    rows: list[dict[str, Any]] = []
    for (transfer, per_class, method), (alpha, by_seed) in cells.items():
        if method == over or (transfer, per_class, over) not in cells:
            continue
        gap: PairedDifference = paired_difference(by_seed, cells[transfer, per_class, over][1])
        rows.append(
            {"transfer": transfer, "per_class": per_class, "method": method, "alpha": alpha}
            | {"top1": _mean(by_seed), "gain": gap.mean, "half": gap.half, "n": gap.n}
        )
    columns = [*CELL, "alpha", "top1", "gain", "half", "n"]
    return pd.DataFrame(rows, columns=columns)


def _chosen(table: pd.DataFrame) -> dict[tuple[str, int, str], tuple[float, dict[int, float]]]:
    """α and accuracy by seed of every cell."""
    alphas = best_alphas(table)
    cells: dict[tuple[str, int, str], tuple[float, dict[int, float]]] = {}
    for (transfer, per_class, method), cell in table[table["role"] == "test"].groupby(CELL, sort=False):
        key = (str(transfer), int(per_class), str(method))
        alpha = alphas.get(key, float(cell["alpha"].iloc[0]))
        runs = cell[(cell["alpha"] == alpha) & cell["top1"].notna()]
        if len(runs):
            seeds, values = runs["seed"].tolist(), runs["top1"].tolist()
            cells[key] = alpha, dict(zip(seeds, values, strict=True))
    return cells


def _mean(values: Mapping[int, float]) -> float:
    numbers: Iterable[float] = values.values()
    return float(pd.Series(list(numbers)).mean())
