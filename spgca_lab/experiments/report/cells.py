"""The cells of a table in a store: the runs of each, how far they are, and where they differ from the paper's."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spgca_lab.data.published import PUBLISHED
from spgca_lab.experiments import paper
from spgca_lab.experiments.grid import GRIDS, MODELS
from spgca_lab.experiments.report.published import ReportError, check_table, paper_columns, paper_model
from spgca_lab.runs.store import Run, RunError, RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["CellRuns", "Plan", "read_cells", "read_plan"]

# Of Sec. 4.2; α's range is told for the attention modules only.
_WORDS = {
    "iterations": "iterations",
    "batch_size": "pictures a batch",
    "lr": "learning rate",
    "momentum": "momentum",
    "beta": "β",
}
_ALPHAS = (0.005, 0.1)
_MODULES = {"afa", "spgca", "ast", "act", "spa", "gca", "spa->gca", "gca->spa"}
_IMAGE_SIZE = 224


@dataclass
class CellRuns:
    """One cell and its finished runs.

    Args:
        dataset: title.
        model: the network's name, as in the paper where it is one of the paper's.
        column: of the table.
        seeds: that were planned.
        alpha: of the recipe; one number or one a stage.
        alpha_from: how it was chosen, None where it was set.
        planned: whether the grid has the cell.
        runs: the finished ones by seed.
        top1: their accuracy in percent.
        pending: what the other seeds are: `{seed: "running"}`.
        pictures: where numbers of pictures are not those of Table 1.
        differs: how the recipe differs from Sec. 4.2.
    """

    dataset: str
    model: str
    column: str
    seeds: tuple[int, ...] = ()
    alpha: float | tuple[float, ...] | None = None
    alpha_from: str | None = None
    planned: bool = True
    runs: dict[int, Run] = field(default_factory=dict)
    top1: dict[int, float] = field(default_factory=dict)
    pending: dict[int, str] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    @property
    def comparable(self) -> bool:
        """False where the runs are known to be another experiment than the paper's cell."""
        return not self.top1 or not (self.pictures or self.differs)

    @property
    def note(self) -> str:
        """What a reader must know about the cell's runs; empty where all is as planned."""
        parts = []
        if not self.top1 and all(status == "not run" for status in self.pending.values()):
            parts.append("not run")
        elif self.pending:
            parts.append(f"{len(self.top1)} of {len(self.seeds)} seeds")
            for status, count in Counter(self.pending.values()).items():
                seeds = ", ".join(str(seed) for seed, what in self.pending.items() if what == status)
                parts.append(f"{count} {status} (seed{'s' if count > 1 else ''} {seeds})")
        if self.pictures:
            parts.append(f"{', '.join(self.pictures)}: not the paper's set")
        return "; ".join(parts)


@dataclass(frozen=True)
class Plan:
    """Which runs make up a table, as `spgca-lab grid` left it in the store.

    Args:
        baseline: the column that differences are taken to.
        seeds: of every cell.
        cells: each with `dataset`, `title`, `model`, `column`, `alpha`, `alpha_from` and `recipes`, one hash a seed.
    """

    baseline: str
    seeds: tuple[int, ...]
    cells: tuple[Mapping[str, Any], ...]


def read_plan(table: str, store: RunStore) -> Plan | None:
    """The plan of a table, None where the store has none.

    Raises:
        ReportError: naming the file when it cannot be used.

    Example:
        >>> read_plan("table4", RunStore("no/such/folder")) is None
        True
    """
    file = store.path / "grids" / f"{check_table(table)}.json"
    if not file.exists():
        return None
    remake = f"make it anew with: spgca-lab grid {table} --store {store.path}"
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        plan = Plan(told["baseline"], tuple(told["seeds"]), tuple(told["cells"]))
        for cell in plan.cells:
            lacks = [k for k in ("title", "model", "column", "recipes") if k not in cell]
            if lacks:
                raise ReportError(f"{str(file)!r}: a cell lacks {lacks[0]!r}; {remake}")
            if len(cell["recipes"]) != len(plan.seeds):
                raise ReportError(
                    f"{str(file)!r}: {cell['column']} on {cell['title']} has {len(cell['recipes'])} runs for "
                    f"{len(plan.seeds)} seeds; {remake}"
                )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ReportError(
            f"{str(file)!r} is no plan of a grid ({type(error).__name__}: {error}); {remake}"
        ) from error
    return plan


def read_cells(table: str, store: RunStore, plan: Plan | None) -> list[CellRuns]:
    """Every cell of the plan with its finished runs, then those of the paper that the plan leaves out.

    Args:
        table: `"table4"` … `"table7"` or `"fig2"`.
        store: with the runs.
        plan: from `read_plan`; None for a table of which nothing is planned.

    Raises:
        ReportError: when a planned run was measured on a validation split, or two folders end in one hash.

    Example:
        >>> len(read_cells("table6", RunStore("no/such/folder"), None))
        4
    """
    folders = _folders(store.path)
    titles = _titles(plan)
    cells: dict[tuple[str, str], CellRuns] = {}
    measured: list[str] = []
    for told in plan.cells if plan else ():
        title = titles[str(told.get("dataset", told["title"])), told["title"]]
        alpha = told.get("alpha")
        cell = CellRuns(
            title,
            str(told["model"]),
            str(told["column"]),
            plan.seeds if plan else (),
            tuple(alpha) if isinstance(alpha, list) else alpha,
            told.get("alpha_from"),
        )
        if (title, cell.column) in cells:
            raise ReportError(f"the grid {table} in {str(store.path)!r} has {cell.column} on {title} twice")
        for seed, wanted in zip(cell.seeds, told["recipes"], strict=True):
            measured += _read_run(cell, seed, str(wanted), folders)
        cells[title, cell.column] = cell
    if measured:
        raise ReportError(
            f"{len(measured)} runs were measured on held-out training pictures, which no table reports: "
            f"{', '.join(measured)}; give their recipes validation = 0"
        )
    ordered = list(cells.values())
    for title, column in _of_paper(table, ordered):
        if (title, column) not in cells:
            model = next((c.model for c in ordered if c.dataset == title), paper_model(title))
            cells[title, column] = CellRuns(title, str(model), column, planned=False)
    return _in_order(table, list(cells.values()))


def _folders(path: Path) -> dict[str, list[Path]]:
    """Run folders by the hash in which they end: looked for once, a store may hold thousands."""
    found: dict[str, list[Path]] = defaultdict(list)
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    found[entry.name.rsplit("-", 1)[-1]].append(Path(entry.path))
    return found


def _titles(plan: Plan | None) -> dict[tuple[str, str], str]:
    """A name for every data set: its title, or where two folders bear one name, the folder."""
    pairs = {(str(c.get("dataset", c["title"])), str(c["title"])) for c in plan.cells} if plan else set()
    often = Counter(title for _, title in pairs)
    return {pair: pair[1] if often[pair[1]] == 1 else pair[0] for pair in pairs}


def _read_run(cell: CellRuns, seed: int, wanted: str, folders: Mapping[str, list[Path]]) -> list[str]:
    """Add one run to its cell; names it where it was measured on a validation split."""
    matches = folders.get(wanted, [])
    if len(matches) > 1:
        raise ReportError(f"several run folders end in {wanted}: {', '.join(str(m) for m in matches)}")
    if not matches:
        cell.pending[seed] = "not run"
        return []
    try:
        run = Run(matches[0])
        result = run.result
        if result is None:
            cell.pending[seed] = f"failed: {run.failure}" if run.status == "failed" else run.status
            return []
        top1 = float(result["top1"])
    except (RunError, json.JSONDecodeError, KeyError, TypeError) as error:
        cell.pending[seed] = f"unreadable: {error}"
        return []
    if run.recipe.validation > 0:
        return [run.path.name]
    if run.recipe.seed != seed:
        raise ReportError(
            f"the grid gives {str(run.path)!r} the seed {seed}, its recipe has {run.recipe.seed}: make the grid anew"
        )
    cell.runs[seed], cell.top1[seed] = run, top1
    cell.pictures = _union(cell.pictures, _other_pictures(cell.dataset, result))
    cell.differs = _union(cell.differs, _differences(run.recipe, cell, result))
    return []


def _union(a: tuple[str, ...], b: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*a, *b]))


def _other_pictures(title: str, result: Mapping[str, Any]) -> list[str]:
    sizes = {row["dataset"]: row for row in paper.table(1).to_dict("records")}
    if title not in sizes:
        return []
    names = {
        "train_pictures": ("train_samples", "training pictures"),
        "test_pictures": ("test_samples", "test pictures"),
        "classes": ("classes", "classes"),
    }
    found = []
    for key, (column, words) in names.items():
        wanted = sizes[title][column]
        if key not in result:
            found.append(f"number of {words} not recorded")
        elif result[key] != wanted:
            found.append(f"{result[key]:,} of {wanted:,} {words}")
    return found


def _differences(recipe: Recipe, cell: CellRuns, result: Mapping[str, Any]) -> list[str]:
    """How a recipe differs from Sec. 4.2, in what the paper says there."""
    found = []
    names = {each.title: name for name, each in PUBLISHED.items()}
    right = Recipe.paper(dataset=names.get(cell.dataset, cell.dataset))
    if recipe.backbone != right.backbone:
        of_places = " of Places365" if "places" in right.backbone else ""
        found.append(f"{recipe.backbone} in place of {MODELS[right.backbone]}{of_places}")
    if recipe.weights != "pretrained":
        found.append(f"{recipe.weights} weights in place of pretrained ones")
    for name, words in _WORDS.items():
        own, value = getattr(recipe, name), getattr(right, name)
        if own != value:
            found.append(f"{words} {own:,} in place of {value:,}")
    if tuple(round(m, 4) for m in recipe.milestones) != tuple(round(m, 4) for m in right.milestones):
        told = ", ".join(f"{m:.3g}" for m in recipe.milestones) or "nowhere"
        found.append(f"learning rate falls at {told} of the iterations in place of 1/3 and 5/6")
    size = result.get("image_size", recipe.image_size or _IMAGE_SIZE)
    if size != _IMAGE_SIZE:
        found.append(f"{size} px in place of {_IMAGE_SIZE}")
    r = int(cell.column) if cell.column.isdigit() else right.r
    if recipe.r != r and any("gca" in stage.name for stage in recipe.stages().stages):
        found.append(f"r = {recipe.r} in place of {r}")
    if cell.column in _MODULES or cell.column.isdigit():
        if recipe.attention != "learned":
            found.append(f"{recipe.attention} attention in place of learned")
        if recipe.scale == "relative":
            found.append("penalties of scale 'relative', which the paper does not have")
        outside = [f"{a:g}" for a in recipe.alphas if not _ALPHAS[0] <= a <= _ALPHAS[1]]
        if outside:
            found.append(f"α = {', '.join(outside)} outside the paper's 0.005 to 0.1")
    return found


def _of_paper(table: str, planned: list[CellRuns]) -> list[tuple[str, str]]:
    """The paper's cells; without any plan also those of this project's controls."""
    spec = GRIDS[table]
    sets = [PUBLISHED[name].title for name in spec.datasets]
    columns = paper_columns(table) if planned else tuple(spec.columns)
    titles = dict.fromkeys([*(cell.dataset for cell in planned), *sets])
    return [(title, column) for title in titles for column in columns]


def _in_order(table: str, cells: list[CellRuns]) -> list[CellRuns]:
    """Data sets of the plan first, columns as in the table."""
    sets = list(dict.fromkeys(cell.dataset for cell in cells))
    columns = list(GRIDS[table].columns)

    def place(cell: CellRuns) -> tuple[int, int]:
        known = cell.column in columns
        return sets.index(cell.dataset), columns.index(cell.column) if known else len(columns)

    return sorted(cells, key=place)
