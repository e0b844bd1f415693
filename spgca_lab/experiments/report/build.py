"""One table as a report: ours beside the paper's, with what the seeds allow to be said."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from spgca_lab._files import replace_file
from spgca_lab.analysis.statistics import PairedDifference, mean_interval, paired_difference
from spgca_lab.experiments.grid import GRIDS
from spgca_lab.experiments.report import words
from spgca_lab.experiments.report.cells import CellRuns, read_cells, read_plan
from spgca_lab.experiments.report.curves import PARTNERS, convergence, mean_curves, read_curves
from spgca_lab.experiments.report.published import ReportError, check_table, published, published_difference
from spgca_lab.runs.store import RunStore

__all__ = ["Report", "report"]


@dataclass(frozen=True)
class Report:
    """A table of the paper, filled from a store.

    Args:
        table: `"table4"` … `"table7"` or `"fig2"`.
        store: the folder of runs.
        cells: in the order of the table.
        references: the column that each column's differences are taken to.
        level: of confidence.
        planned: whether the store has the grid.
        frame: one row a cell: `dataset`, `model`, `column`, `seeds` (the finished ones), `n`, `mean`, `sd`, `half`,
            `reference`, `diff`, `diff_half`, `diff_n`, `published_mean`, `published_sd`, `published_diff`,
            `published_diff_half`, `alpha`, `alpha_from`, `planned`, `comparable`, `note`. Accuracies in percent,
            differences in points; NaN where there is nothing.
        curves: for Figure 2 every evaluation of every run, from `read_curves`; else empty.
        convergence: for Figure 2 the steps to the targets, from `convergence`; else empty.
    """

    table: str
    store: Path
    cells: tuple[CellRuns, ...]
    references: Mapping[str, str]
    level: float
    planned: bool
    frame: pd.DataFrame
    curves: pd.DataFrame
    convergence: pd.DataFrame

    @property
    def baseline(self) -> str | None:
        """The one column that all differences are taken to; None where each pair has its own."""
        found = set(self.references.values())
        return found.pop() if len(found) == 1 else None

    @property
    def shown(self) -> pd.DataFrame:
        """The rows of the data sets that are planned; without a plan all rows."""
        sets = set(self.frame.loc[self.frame["planned"], "dataset"])
        return self.frame[self.frame["dataset"].isin(sets)] if sets else self.frame

    def difference(self, dataset: str, a: str, b: str, level: float | None = None) -> PairedDifference:
        """How much higher column a is than b on a data set, over the seeds that both have.

        Args:
            dataset: title.
            a: one column.
            b: the other.
            level: of confidence; None for the report's.
        """
        top1 = {cell.column: cell.top1 for cell in self.cells if cell.dataset == dataset}
        return paired_difference(top1.get(a, {}), top1.get(b, {}), self.level if level is None else level)

    def mean_curves(self) -> pd.DataFrame:
        """For Figure 2: mean over the seeds at every step, with its interval."""
        return mean_curves(self.curves, self.level)

    def markdown(self) -> str:
        """The report as Markdown that also reads well in a terminal."""
        return words.markdown(self)

    def csv(self) -> str:
        """The frame as CSV."""
        return _csv(self.frame)

    def write(self, folder: str | Path) -> list[Path]:
        """Write `<table>.md` and `<table>.csv`, for Figure 2 also its curves and the convergence table.

        Args:
            folder: made if it is not there.

        Returns:
            the files.
        """
        files = {f"{self.table}.md": self.markdown(), f"{self.table}.csv": self.csv()}
        if self.table == "fig2":
            files |= {"fig2_curves.csv": _csv(self.curves), "fig2_convergence.csv": _csv(self.convergence)}
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(Path(folder) / name, text.encode())
        return [Path(folder) / name for name in files]


def report(
    table: str, store: RunStore | str | Path, *, baseline: str | None = None, level: float = 0.95
) -> Report:
    r"""Ours beside the published cell: mean and sd over seeds, interval, and paired difference to a baseline.

    $$\bar x \pm t_{n-1,\,(1+\text{level})/2} \; s / \sqrt n, \qquad d_s = a_s - b_s \text{ over the shared seeds}$$

    Which runs make up the table is what `spgca-lab grid` left in `grids/<table>.json` of the store; without it there
    are the paper's cells alone. Only finished runs count, at their last iterate, and a cell that lacks some says so.

    Args:
        table: `"table4"` … `"table7"` or `"fig2"`.
        store: folder of runs.
        baseline: the column that differences are taken to; None for the grid's own, and for Figure 2 AST for SPA and
            ACT for GCA.
        level: of confidence, between 0 and 1.

    Returns:
        the report, to be read (`frame`), printed (`markdown()`) or written (`write(folder)`).

    Raises:
        ReportError: for an unknown table or baseline, a plan that cannot be read, or runs on a validation split.
        StatisticsError: when the level is not between 0 and 1.

    Source:
        Tables 4–7 and Figure 2 of the paper; the intervals and the paired differences are this project's.

    Example:
        >>> nothing = report("table6", "no/such/folder")
        >>> nothing.frame[["column", "published_mean", "note"]].values.tolist()[0]
        ['4', 86.14, 'not run']
    """
    store = store if isinstance(store, RunStore) else RunStore(store)
    plan = read_plan(check_table(table), store)
    cells = read_cells(table, store, plan)
    columns = list(dict.fromkeys(cell.column for cell in cells))
    if baseline is not None and baseline not in columns:
        raise ReportError(
            f"{table} has no column {baseline!r} to be the baseline: choose one of {', '.join(columns)}"
        )
    chosen = baseline or (plan.baseline if plan else GRIDS[table].baseline)
    references = dict.fromkeys(columns, chosen)
    if table == "fig2" and baseline is None:
        references = {column: PARTNERS.get(column, column) for column in columns}
    curves = read_curves(cells if table == "fig2" else [])
    finals = {(cell.dataset, cell.column): cell.top1 for cell in cells}
    pairs = {a: b for a, b in references.items() if a != b}
    return Report(
        table,
        store.path,
        tuple(cells),
        references,
        level,
        plan is not None,
        _frame(table, cells, references, level),
        curves,
        convergence(curves, finals, level, pairs),
    )


def _frame(table: str, cells: list[CellRuns], references: Mapping[str, str], level: float) -> pd.DataFrame:
    by_key = {(cell.dataset, cell.column): cell for cell in cells}
    rows = []
    for cell in cells:
        reference = references[cell.column]
        own = mean_interval(list(cell.top1.values()), level)
        row: dict[str, Any] = {
            "dataset": cell.dataset,
            "model": cell.model,
            "column": cell.column,
            "seeds": " ".join(str(seed) for seed in sorted(cell.top1)),
            "n": own.n,
            "mean": own.mean,
            "sd": own.sd,
            "half": own.half,
            "reference": reference,
        }
        other = by_key.get((cell.dataset, reference))
        same = reference == cell.column
        gap = paired_difference(cell.top1, {} if other is None or same else other.top1, level)
        row |= {"diff": gap.mean, "diff_half": gap.half, "diff_n": gap.n}
        printed, beside = (published(table, cell.dataset, name) for name in (cell.column, reference))
        row |= dict(zip(("published_mean", "published_sd"), printed or (None, None), strict=True))
        if printed and beside and not same:
            told = published_difference(printed, beside, level=level)
            row |= {"published_diff": told.mean, "published_diff_half": told.half}
        else:
            row |= {"published_diff": None, "published_diff_half": None}
        alpha = cell.alpha
        row |= {
            "alpha": " ".join(
                f"{a:g}" for a in (alpha if isinstance(alpha, tuple) else (alpha,)) if a is not None
            ),
            "alpha_from": cell.alpha_from,
            "planned": cell.planned,
            "comparable": cell.comparable,
            "note": cell.note,
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    numbers = ["mean", "sd", "half", "diff", "diff_half"]
    printed_numbers = [name for name in frame.columns if name.startswith("published_")]
    return frame.astype(dict.fromkeys([*numbers, *printed_numbers], float))


def _csv(frame: pd.DataFrame) -> str:
    # A millionth of a point is below any accuracy; without rounding, differences end in …0000001.
    return frame.round(6).to_csv(index=False)
