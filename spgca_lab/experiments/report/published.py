"""The paper's cells as the report needs them: by table and column, and how far apart two of them are."""

import math

from scipy import special

from spgca_lab._checks import quote
from spgca_lab.analysis.statistics import MeanInterval
from spgca_lab.experiments import paper
from spgca_lab.experiments.grid import GRIDS

__all__ = [
    "ReportError",
    "check_table",
    "label",
    "number_of",
    "paper_columns",
    "paper_model",
    "published",
    "published_difference",
]

# Figure 2 draws the runs whose last values Table 5 prints.
_NUMBERS = {"table4": 4, "table5": 5, "table6": 6, "table7": 7, "fig2": 5}
_LABELS = {
    "l2": "L2",
    "l2_fe": "L2-FE",
    "l2_sp": "L2-SP",
    "delta": "DELTA",
    "lwf": "LwF",
    "afa": "AFA",
    "spgca": "SPA→GCA",
    "ast": "AST",
    "act": "ACT",
    "spa": "SPA",
    "gca": "GCA",
    "spa->gca": "SPA→GCA",
    "gca->spa": "GCA→SPA",
}


class ReportError(ValueError):
    """A report that cannot be made; the message says of what, and what would be right."""


def check_table(table: str) -> str:
    """The name of a table, if there is such a one.

    Raises:
        ReportError: quoting the name, with those that there are.

    Example:
        >>> check_table("table5")
        'table5'
    """
    if table not in _NUMBERS:
        raise ReportError(f"there is no report {table!r}: choose one of {', '.join(_NUMBERS)}")
    return table


def number_of(table: str) -> int:
    """The paper's table with the figures: that of the same number, and Table 5 for Figure 2.

    Example:
        >>> number_of("fig2")
        5
    """
    return _NUMBERS[check_table(table)]


def label(column: str) -> str:
    """A column's name as the field writes it.

    Example:
        >>> label("l2_sp"), label("gca->spa"), label("16")
        ('L2-SP', 'GCA→SPA', 'r = 16')
    """
    return f"r = {column}" if column.isdigit() else _LABELS.get(column, column)


def paper_columns(table: str) -> tuple[str, ...]:
    """What the paper prints there, without this project's controls.

    Example:
        >>> paper_columns("table5")
        ('ast', 'act', 'spa', 'gca')
    """
    spec = GRIDS[check_table(table)]
    return tuple(column for column in spec.columns if column not in spec.controls)


def paper_model(dataset: str) -> str | None:
    """The network with which the paper reports a data set, by its title; None for a set that it does not use.

    Example:
        >>> paper_model("MIT Indoor 67"), paper_model("my photographs")
        ('ResNet-50', None)
    """
    rows = paper.table(4)
    found = rows.loc[rows["dataset"] == dataset, "model"]
    return None if found.empty else str(found.iloc[0])


def published(table: str, dataset: str, column: str) -> tuple[float, float] | None:
    """Mean and sd that the paper prints for a cell, in percent; None where it has none.

    Table 5's control `l2` is printed in Table 4.

    Example:
        >>> published("table4", "CUB-200-2011", "spgca"), published("table5", "CUB-200-2011", "uniform")
        ((80.62, 0.08), None)
    """
    number = number_of(table)
    found = paper.printed(number).get((dataset, column))
    return paper.printed(4).get((dataset, column)) if found is None and number == 5 else found


def published_difference(
    a: tuple[float, float], b: tuple[float, float], n: int = paper.RUNS, level: float = 0.95
) -> MeanInterval:
    r"""Difference of two printed means, with Welch's interval from the printed standard deviations.

    $$\bar a - \bar b \pm t_{\nu,\,(1+\text{level})/2} \sqrt{(s_a^2 + s_b^2) / n}, \qquad
    \nu = (n - 1) \frac{(s_a^2 + s_b^2)^2}{s_a^4 + s_b^4}$$

    The runs are taken as independent, since the paper does not say that they share seeds, and its "standard
    deviation" as that with n − 1.

    Args:
        a: mean and sd of one cell.
        b: of the other.
        n: runs of each.
        level: of confidence, between 0 and 1.

    Returns:
        the difference a − b; its `sd` is that of one run's difference.

    Source:
        Welch 1947, with equal numbers of runs; Sec. 5.1 of the paper for n = 5.

    Example:
        >>> print(f"{published_difference((80.62, 0.08), (80.30, 0.03)):+.2f}")
        +0.32 ± 0.10
    """
    if n < 2 or not 0 < level < 1:
        raise ValueError(
            f"needs n of at least 2 and a level between 0 and 1, got {quote(n)} and {quote(level)}"
        )
    variance = a[1] ** 2 + b[1] ** 2
    if not variance:
        return MeanInterval(a[0] - b[0], 0.0, n, 0.0, level)
    freedom = (n - 1) * variance**2 / (a[1] ** 4 + b[1] ** 4)
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance / n)
    return MeanInterval(a[0] - b[0], math.sqrt(variance), n, half, level)
