"""Reports of Tables 4–7 and Figure 2: this store's runs beside the paper's numbers."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from spgca_lab._files import replace_file
from spgca_lab.analysis.statistics import mean_interval
from spgca_lab.experiments import paper
from spgca_lab.experiments.grid import GRIDS, Grid
from spgca_lab.experiments.report_cells import (
    PARTNERS,
    CellRuns,
    ReportError,
    convergence,
    label,
    make_frame,
    published,
    published_difference,
    read_cells,
    read_curves,
    table_number,
)
from spgca_lab.runs.store import RunStore

__all__ = ["Report", "ReportError", "published", "published_difference", "report"]


@dataclass(frozen=True)
class Report:
    """A table of the paper, filled from a store, as numbers, text and files.

    `frame` has one row per cell: `dataset`, `model`, `column`, `seeds` (the finished ones), `n`, `mean`, `sd`, `half`,
    `reference`, `diff`, `diff_half`, `diff_n`, `published_mean`, `published_sd`, `published_diff`,
    `published_diff_half`, `alpha`, `alpha_from`, `planned`, `comparable`, `note`; accuracies in percent, differences in
    points, NaN where there is none. `curves` and `convergence` are empty but for Figure 2.
    """

    table: str
    store: Path
    cells: tuple[CellRuns, ...]
    references: Mapping[str, str]  # the column that each column is compared with
    level: float
    frame: pd.DataFrame
    curves: pd.DataFrame
    convergence: pd.DataFrame

    @property
    def shown(self) -> pd.DataFrame:
        """The rows of the planned data sets; without a plan all rows."""
        sets = set(self.frame.loc[self.frame["planned"], "dataset"])
        return self.frame[self.frame["dataset"].isin(sets)] if sets else self.frame

    def mean_curves(self) -> pd.DataFrame:
        """Return Figure 2's mean over the seeds at every step, with its interval (NaN of one seed)."""
        parts = self.curves.groupby(["dataset", "column", "step"])["top1"]
        means = {key: mean_interval(part, self.level) for key, part in parts}
        rows = [(*key, mean.n, mean.mean, mean.half) for key, mean in means.items()]
        return pd.DataFrame(rows, columns=["dataset", "column", "step", "n", "mean", "half"])

    def markdown(self) -> str:
        """Return the report as Markdown that also reads well in a terminal."""
        sections = [_head(self), *(_dataset(self, name) for name in dict.fromkeys(self.shown["dataset"]))]
        sections += [_convergence(self), _not_run(self), _findings(self)]
        return "\n\n".join(filter(None, sections)) + "\n"

    def write(self, folder: str | Path) -> list[Path]:
        """Write `<table>.md` and `<table>.csv`, for Figure 2 also its curves and the steps to the targets."""
        frames = {"": self.frame}
        if self.table == "fig2":
            frames |= {"_curves": self.curves, "_convergence": self.convergence}
        # A millionth of a point is below any accuracy; without rounding, differences end in …0000001.
        texts = {f"{part}.csv": frame.round(6).to_csv(index=False) for part, frame in frames.items()}
        files = {f"{self.table}{end}": text for end, text in ({".md": self.markdown()} | texts).items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(Path(folder) / name, text.encode())
        return [Path(folder) / name for name in files]


def report(
    table: str, store: RunStore | str | Path, *, baseline: str | None = None, level: float = 0.95
) -> Report:
    r"""Compare a store's runs with a table of the paper: mean and sd over seeds, intervals, paired differences.

    $$\bar x \pm t_{n-1,\,(1+\text{level})/2} \; s / \sqrt n, \qquad d_s = a_s - b_s \text{ over the shared seeds}$$

    The plan that `spgca-lab grid` left in the store defines the runs of the table; without a plan there are the paper's
    cells alone. Only finished runs count, at their last iterate, and a cell that lacks some says so. `baseline` is the
    column that the others are compared with; None takes the grid's own, and for Figure 2 AST for SPA and ACT for GCA.

    Raises:
        ReportError: for an unknown table or baseline, or runs on held-out training images.
    """
    table_number(table)
    store = store if isinstance(store, RunStore) else RunStore(store)
    grid = Grid.load(store, table) if Grid.file(store, table).exists() else None
    cells = read_cells(table, store, grid)
    columns = list(dict.fromkeys(cell.column for cell in cells))
    if baseline is not None and baseline not in columns:
        names = ", ".join(columns)
        raise ReportError(f"{table} has no column {baseline!r} to be the baseline: choose one of {names}")
    references = dict.fromkeys(columns, baseline or (grid.baseline if grid else GRIDS[table].baseline))
    if table == "fig2" and baseline is None:
        references = {column: PARTNERS.get(column, column) for column in columns}
    curves = read_curves(cells if table == "fig2" else [])
    finals = {(cell.dataset, cell.column): cell.top1 for cell in cells}
    pairs = {a: b for a, b in references.items() if a != b}
    frame, steps = make_frame(table, cells, references, level), convergence(curves, finals, level, pairs)
    return Report(table, store.path, tuple(cells), references, level, frame, curves, steps)


def _markdown_table(frame: pd.DataFrame, left: int = 1) -> str:
    """Return texts as a Markdown table with columns of equal width, the first `left` ones set left."""
    columns = []
    for i, name in enumerate(frame):
        cells = pd.Series([name, *frame[name]], dtype=str).str.replace("|", r"\|", regex=False)
        width = max(3, cells.str.len().max())
        cells = cells.str.pad(width, side="right" if i < left else "left").tolist()
        columns.append([cells[0], "-" * width if i < left else "-" * (width - 1) + ":", *cells[1:]])
    return "\n".join(f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))


def _plus_minus(value: float, width: float, spec: str = ".2f", n: int | None = None) -> str:
    """Return a number and its width as text, "—" without a number, and "(n = 1)" in place of a missing width."""
    if math.isnan(value):
        return "—"
    if math.isnan(width):
        return f"{value:{spec}}" + (" (n = 1)" if n == 1 else "")
    return f"{value:{spec}} ± {width:{spec.lstrip('+')}}"


def _head(report: Report) -> str:
    spec, number = GRIDS[report.table], table_number(report.table)
    title = "Figure 2" if report.table == "fig2" else f"Table {number}"
    seeds = ", ".join(map(str, sorted({seed for cell in report.cells for seed in cell.seeds})))
    runs = f"Runs in `{report.store}`, seeds {seeds}, at their last iterate."
    if not report.frame["planned"].any():
        runs = f"Nothing of this is planned in `{report.store}` yet: these are the paper's numbers. Begin with\n\n"
        runs += f"    spgca-lab grid {report.table} --store {report.store}"
    text = (
        "Top-1 accuracy on the test images in percent. Ours: mean ± standard deviation over the finished seeds, with "
        f"the {100 * report.level:g} % interval of the mean, and of the difference between runs of one seed. "
        f"Published: mean ± standard deviation of {paper.RUNS} runs, Table {number} of {paper.SOURCE}."
    )
    if spec.controls:
        text += f"\n\nNot in the paper's {title}: {', '.join(map(label, spec.controls))}."
    return f"# {title}: {spec.title}\n\n{runs}\n\n{text}"


def _dataset(report: Report, name: str) -> str:
    rows = report.shown[report.shown["dataset"] == name]
    bases = set(report.references.values())
    versus = f"− {label(*bases)}" if len(bases) == 1 else "− its partner"
    cells = {cell.column: cell for cell in report.cells if cell.dataset == name}
    table, notes = [], defaultdict(list)
    for row in rows.itertuples():
        planned, differs = len(cells[row.column].seeds), cells[row.column].differs
        idle = "not run" if row.note in ("", "not run") else "not finished"
        mark = "" if row.comparable or math.isnan(row.published_mean) else " †"
        table.append(
            {
                "method": label(row.column),
                "α": "—" if row.alpha in ("", "0") else row.alpha,
                "ours": _plus_minus(row.mean, row.sd) if row.n else idle,
                f"{100 * report.level:g} %": f"± {row.half:.2f}" if row.n > 1 else "—",
                "n": f"{row.n}" if row.n in (0, planned) else f"{row.n} of {planned}",
                versus: _plus_minus(row.diff, row.diff_half, "+.2f", row.diff_n),
                "published": _plus_minus(row.published_mean, row.published_sd) + mark,
                f"published {versus}": _plus_minus(row.published_diff, row.published_diff_half, "+.2f"),
            }
        )
        remarks = {row.note, f"recipe differs from the paper's: {'; '.join(differs)}" if differs else ""}
        if row.planned and row.alpha not in ("", "0"):
            remarks.add(f"α {row.alpha_from or 'set by hand, not chosen on held-out images'}")
        for remark in sorted(remarks - {"", "not run"}):
            notes[remark].append(label(row.column))
    items = [f"- {', '.join(names)}: {text}" for text, names in notes.items()]
    lines = [f"## {name}, {rows['model'].iloc[0]}", _markdown_table(pd.DataFrame(table)), "\n".join(items)]
    return "\n\n".join(filter(None, lines))


def _convergence(report: Report) -> str:
    texts = report.convergence.map(lambda value: f"{value:.0f}" if isinstance(value, float) else str(value))
    table = "Not run." if texts.empty else _markdown_table(texts.replace("nan", "—"), left=4)
    return f"## Steps to a target\n\n{table}" if report.table == "fig2" else ""


def _not_run(report: Report) -> str:
    sets = [name for name in report.frame["dataset"].unique() if name not in set(report.shown["dataset"])]
    return f"## Not run: the paper's other data sets\n\n{', '.join(sets)}." if sets else ""


def _findings(report: Report) -> str:
    """Group the columns of each data set by the interval of their difference from the baseline."""
    lines, decided = [], 0
    rows = report.shown[(report.shown["n"] > 0) & (report.shown["column"] != report.shown["reference"])]
    for (dataset, reference), part in rows.groupby(["dataset", "reference"], sort=False):
        groups = defaultdict(list)
        for row in part.itertuples():
            if row.diff_n < 2:
                kind = "one shared seed, so no interval" if row.diff_n else "no shared seed"
            elif row.diff_half < 1e-9:
                kind = "the same difference with every seed, so that its interval says nothing"
            else:
                decided += 1
                kind = "undecided" if row.diff_half >= abs(row.diff) else "above" if row.diff > 0 else "below"
            text = f" ({_plus_minus(row.diff, row.diff_half, '+.2f')})" if row.diff_n > 1 else ""
            groups[kind].append(label(row.column) + text)
        texts = (f"{kind}: {', '.join(names)}" for kind, names in groups.items())
        lines.append(f"- {dataset}, against {label(str(reference))}: {'; '.join(texts)}.")
    if decided:
        text = f"Comparisons at {100 * report.level:g} %: {decided}. Were all columns equal to their baseline, about"
        lines.append(f"\n{text} {decided * (1 - report.level):.2g} of them would exclude 0 by chance.")
    return "## What the numbers say\n\n" + "\n".join(lines) if lines else ""
