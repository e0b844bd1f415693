"""The numbers of a report: a store's runs, the paper's cells, their differences, and Figure 2's steps to a target."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import special

from spgca_lab._files import RunError
from spgca_lab.analysis.statistics import MeanInterval, mean_interval, paired_difference
from spgca_lab.data.published import PUBLISHED
from spgca_lab.experiments import paper
from spgca_lab.experiments.alpha_choice import format_alpha
from spgca_lab.experiments.grid import GRIDS, MODELS, Grid
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.recipe import Recipe

# Figure 2 draws the runs whose last values Table 5 prints.
_NUMBERS = {"table4": 4, "table5": 5, "table6": 6, "table7": 7, "fig2": 5}
_LABELS = {"spgca": "SPA→GCA", "lwf": "LwF", "uniform": "uniform"}
_FIELDS = {"iterations": "iterations", "batch_size": "batch size", "lr": "learning rate"}
_FIELDS |= {"momentum": "momentum", "beta": "β"}
# Sec. 4.2 gives this range of α for the attention modules only.
_ALPHAS = (0.005, 0.1)
_MODULES = {"afa", "spgca", "ast", "act", "spa", "gca", "spa->gca", "gca->spa"}
_IMAGE_SIZE = 224
PARTNERS = {"spa": "ast", "gca": "act"}  # the pairs of Figure 2 (a) and (b)


class ReportError(ValueError):
    """A report that is not possible, with what would be right."""


def table_number(table: str) -> int:
    """Return the number of the paper's table with the accuracies; Table 5 for Figure 2."""
    if table not in _NUMBERS:
        raise ReportError(f"there is no report {table!r}: choose one of {', '.join(_NUMBERS)}")
    return _NUMBERS[table]


def label(column: str) -> str:
    """Return a column's name as papers write it, `L2-SP`, `GCA→SPA` or `r = 16`."""
    if column.isdigit():
        return f"r = {column}"
    return _LABELS.get(column, column.upper().replace("_", "-").replace("->", "→"))


def published(table: str, dataset: str, column: str) -> tuple[float, float] | None:
    """Return the printed mean and sd in percent; Table 5's control `l2` is printed in Table 4."""
    return (paper.printed(4) | paper.printed(table_number(table))).get((dataset, column))


def published_difference(
    a: tuple[float, float], b: tuple[float, float], n: int = paper.RUNS, level: float = 0.95
) -> MeanInterval:
    r"""Return the difference a − b of two printed means, with Welch's interval from the printed deviations.

    $$\bar a - \bar b \pm t_{\nu,\,(1+\text{level})/2} \sqrt{(s_a^2 + s_b^2) / n}, \qquad
    \nu = (n - 1) \frac{(s_a^2 + s_b^2)^2}{s_a^4 + s_b^4}$$

    `a` and `b` are (mean, sd) of `n` runs each. The runs count as independent, since the paper does not say that they
    share seeds. Source: Welch 1947, with equal numbers of runs; Sec. 5.1 of the paper for n = 5.
    """
    if n < 2 or not 0 < level < 1:
        raise ValueError(f"needs n of at least 2 and a level between 0 and 1, got {n!r} and {level!r}")
    variance = a[1] ** 2 + b[1] ** 2
    if not variance:
        return MeanInterval(a[0] - b[0], 0.0, n, 0.0, level)
    freedom = (n - 1) * variance**2 / (a[1] ** 4 + b[1] ** 4)
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance / n)
    return MeanInterval(a[0] - b[0], math.sqrt(variance), n, half, level)


@dataclass
class CellRuns:
    """A cell of a table and its finished runs; accuracies in percent."""

    dataset: str  # title
    model: str  # as in the paper where it is one of the paper's
    column: str
    seeds: tuple[int, ...] = ()  # the planned ones
    recipe: Recipe | None = None  # None where the grid does not have the cell
    runs: dict[int, Run] = field(default_factory=dict)  # by seed
    top1: dict[int, float] = field(default_factory=dict)
    pending: dict[int, str] = field(default_factory=dict)  # state of the other seeds
    pictures: tuple[str, ...] = ()  # numbers of images that are not those of Table 1
    differs: tuple[str, ...] = ()  # differences of the recipe from Sec. 4.2

    @property
    def comparable(self) -> bool:
        """False where the runs are another experiment than the paper's cell."""
        return not self.top1 or not (self.pictures or self.differs)

    @property
    def note(self) -> str:
        """Missing runs and other images than the paper's; empty where all is as planned."""
        parts = [f"{len(self.top1)} of {len(self.seeds)} seeds"] if self.pending else []
        parts += [f"seed {seed} {status}" for seed, status in self.pending.items()]
        if not self.top1 and set(self.pending.values()) <= {"not run"}:
            parts = ["not run"]
        if self.pictures:
            parts.append(f"{', '.join(self.pictures)}: not the paper's set")
        return "; ".join(parts)


def read_cells(table: str, store: RunStore, grid: Grid | None) -> list[CellRuns]:
    """Return every cell of the grid with its finished runs, and the paper's cells that the grid leaves out."""
    planned = grid.cells if grid else ()
    often = Counter(title for title, _ in {(cell.title, cell.dataset) for cell in planned})
    cells: dict[tuple[str, str], CellRuns] = {}
    measured: list[str] = []
    for plan in planned:
        # Two folders of one name stay apart by their paths.
        title = plan.title if often[plan.title] == 1 else plan.dataset
        cell = CellRuns(title, plan.model, plan.column, grid.seeds if grid else (), plan.recipe)
        for recipe in plan.recipes(cell.seeds):
            folder = store.folder(recipe)
            if recipe.validation > 0:
                measured += [folder.name] if folder.exists() else []
            elif (folder / "recipe.json").exists():
                _read_run(cell, recipe, folder)
            else:
                cell.pending[recipe.seed] = "not run"
        cells[title, cell.column] = cell
    if measured:
        raise ReportError(
            f"{len(measured)} runs were measured on held-out training images, which no table reports: "
            f"{', '.join(measured)}; give their recipes validation = 0"
        )
    spec, own = GRIDS[table], {cell.dataset: cell.model for cell in cells.values()}
    models = {dataset: model for model, dataset in paper.TABLE4} | own
    return [
        cells.get((title, column)) or CellRuns(title, models[title], column)
        for title in dict.fromkeys([*own, *(PUBLISHED[name].title for name in spec.datasets)])
        for column in spec.columns
        if not planned or (title, column) in cells or column not in spec.controls
    ]


def _read_run(cell: CellRuns, recipe: Recipe, folder: Path) -> None:
    try:
        run = Run(folder)
        if (result := run.result) is None:
            cell.pending[recipe.seed] = f"failed: {run.failure}" if run.status == "failed" else run.status
            return
        top1, pictures = float(result["top1"]), _other_pictures(cell.dataset, result)
    except (RunError, json.JSONDecodeError, KeyError, TypeError) as error:
        cell.pending[recipe.seed] = f"unreadable: {error}"
        return
    cell.runs[recipe.seed], cell.top1[recipe.seed] = run, top1
    cell.pictures = tuple(dict.fromkeys([*cell.pictures, *pictures]))
    cell.differs = tuple(dict.fromkeys([*cell.differs, *_differences(recipe, cell, result)]))


def _other_pictures(title: str, result: Mapping[str, Any]) -> list[str]:
    names = {"train_pictures": "training pictures", "test_pictures": "test pictures", "classes": "classes"}
    return [
        f"{result[key]:,} of {count:,} {names[key]}"
        for _, _, *sizes in paper.table(1).query("dataset == @title").itertuples(index=False)
        for key, count in zip(names, sizes, strict=True)
        if result[key] != count
    ]


def _differences(recipe: Recipe, cell: CellRuns, result: Mapping[str, Any]) -> list[str]:
    """Return a recipe's differences from Sec. 4.2."""
    names = {each.title: name for name, each in PUBLISHED.items()}
    right = Recipe.paper(dataset=names.get(cell.dataset, cell.dataset))
    network = MODELS[right.backbone] + (" of Places365" if "places" in right.backbone else "")
    pairs = [
        ("", recipe.backbone, network if recipe.backbone != right.backbone else recipe.backbone),
        ("", f"{recipe.weights} weights", f"{right.weights} weights"),
        *((f"{t} ", f"{getattr(recipe, n):,}", f"{getattr(right, n):,}") for n, t in _FIELDS.items()),
        ("learning rate falls at ", *(_milestones(each) for each in (recipe, right))),
        ("", f"{result.get('image_size', recipe.image_size or _IMAGE_SIZE)} px", f"{_IMAGE_SIZE} px"),
    ]
    if any("gca" in stage.name for stage in recipe.stages().stages):
        pairs.append(("r = ", f"{recipe.r}", cell.column if cell.column.isdigit() else f"{right.r}"))
    module = cell.column in _MODULES or cell.column.isdigit()
    if module:
        pairs.append(("", f"{recipe.attention} attention", "learned attention"))
    found = [f"{text}{own} in place of {value}" for text, own, value in pairs if own != value]
    if module and recipe.scale == "relative":
        found.append("penalties of scale 'relative', which the paper does not have")
    outside = [f"{a:g}" for a in recipe.alphas if module and not _ALPHAS[0] <= a <= _ALPHAS[1]]
    if outside:
        found.append(f"α = {', '.join(outside)} outside the paper's 0.005 to 0.1")
    return found


def _milestones(recipe: Recipe) -> str:
    return f"{', '.join(f'{m:.4g}' for m in recipe.milestones) or 'none'} of the iterations"


def make_frame(
    table: str, cells: Sequence[CellRuns], references: Mapping[str, str], level: float
) -> pd.DataFrame:
    """Return the frame of a report, one row per cell."""
    by_key = {(cell.dataset, cell.column): cell.top1 for cell in cells}
    nothing = (math.nan, math.nan)
    rows = []
    for cell in cells:
        reference = references[cell.column]
        own = mean_interval(list(cell.top1.values()), level)
        other = {} if reference == cell.column else by_key.get((cell.dataset, reference), {})
        gap = paired_difference(cell.top1, other, level)
        printed, beside = (published(table, cell.dataset, name) for name in (cell.column, reference))
        between = nothing
        if printed and beside and reference != cell.column:
            interval = published_difference(printed, beside, level=level)
            between = interval.mean, interval.half
        seeds, recipe = " ".join(map(str, sorted(cell.top1))), cell.recipe
        rows.append(
            (cell.dataset, cell.model, cell.column, seeds, own.n, own.mean, own.sd, own.half, reference)
            + (gap.mean, gap.half, gap.n, *(printed or nothing), *between)
            + ((format_alpha(recipe.alpha or 0.0), recipe.alpha_from) if recipe else ("", None))
            + (recipe is not None, cell.comparable, cell.note)
        )
    columns = "dataset model column seeds n mean sd half reference diff diff_half diff_n published_mean published_sd"
    columns += " published_diff published_diff_half alpha alpha_from planned comparable note"
    return pd.DataFrame(rows, columns=columns.split())


def read_curves(cells: Sequence[CellRuns]) -> pd.DataFrame:
    """Return every evaluation of every finished run, with top-1 in percent; note runs without them in their cells."""
    columns = ["dataset", "column", "seed", "step", "top1"]
    parts = []
    for cell in cells:
        for seed, run in cell.runs.items():
            try:
                rows = run.evaluations[["step", "top1"]]
            except (RunError, KeyError, ValueError) as error:
                cell.pending[seed] = f"without its curve: {error}"
                continue
            parts.append(rows.assign(dataset=cell.dataset, column=cell.column, seed=seed)[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def convergence(
    curves: pd.DataFrame,
    finals: Mapping[tuple[str, str], Mapping[int, float]],
    level: float = 0.95,
    partners: Mapping[str, str] = PARTNERS,
) -> pd.DataFrame:
    """Return the steps to a target, of both modules of a pair, and their difference over shared seeds.

    Targets are 95 % and 99 % of the run's own final accuracy, and that of the pair's reference module with the same
    seed. `finals` has the final accuracies by (data set, column) and seed. A row has the mean `steps`, how many runs of
    `n` `reached` the target, the same with `reference_`, and `diff` over the seeds with which both did.
    """
    by_run = dict(list(curves.groupby(["dataset", "column", "seed"])))
    rows = []
    for dataset in dict.fromkeys(curves["dataset"]):
        for column, reference in partners.items():
            targets = [(f"{100 * share:.10g} % of its own final accuracy", share) for share in (0.95, 0.99)]
            for target, share in [*targets, (f"final accuracy of {label(reference)}", None)]:
                reached, counts = [], []
                for name in (reference, column):
                    goals = finals.get((dataset, name if share else reference), {})
                    steps = {
                        seed: _first_step(by_run[dataset, name, seed], (share or 1.0) * goals[seed])
                        for seed in finals.get((dataset, name), {})
                        if seed in goals and (dataset, name, seed) in by_run
                    }
                    there = {seed: value for seed, value in steps.items() if not math.isnan(value)}
                    reached.append(there)
                    counts += [mean_interval(list(there.values()), level).mean, len(there), len(steps)]
                gap = paired_difference(reached[1], reached[0], level)
                if counts[2] or counts[5]:
                    rows.append((dataset, reference, column, target, *counts, gap.mean, gap.half, gap.n))
    columns = "dataset reference column target reference_steps reference_reached reference_n steps reached n"
    return pd.DataFrame(rows, columns=[*columns.split(), "diff", "diff_half", "diff_n"])


def _first_step(curve: pd.DataFrame, target: float) -> float:
    return float(curve.loc[curve["top1"] >= target - 1e-9, "step"].min())
