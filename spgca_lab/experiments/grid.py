"""Grids: the runs behind Tables 4–7 and Figure 2 as recipes, with α chosen on held-out training pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from spgca_lab._files import replace_file
from spgca_lab.data.published import PUBLISHED
from spgca_lab.experiments.paper import TABLE6_RATES
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.recipe import AUTO, Recipe

__all__ = ["GRIDS", "Cell", "Grid", "GridError", "GridTable", "choose_alphas", "expand", "search"]

MODELS = {"resnet101": "ResNet-101", "resnet50": "ResNet-50", "resnet50_places365": "ResNet-50"}
FIVE = ("stanford_dogs", "cub200", "caltech256_30", "caltech256_60", "mit_indoor67")
UNSCALED_FACTORS = (0.1, 1.0, 10.0)


class GridError(ValueError):
    """A grid that is not known, or that lacks what it needs."""


@dataclass(frozen=True)
class GridTable:
    """What one of the paper's tables compares.

    Args:
        title: what it shows.
        datasets: its rows.
        columns: what is compared, with the recipe's fields for each.
        baseline: the column that differences are taken to.
        controls: those of the columns that the paper does not have.
    """

    title: str
    datasets: tuple[str, ...]
    columns: Mapping[str, Mapping[str, Any]]
    baseline: str
    controls: tuple[str, ...] = ()


def _methods(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"method": name} for name in names}


GRIDS: dict[str, GridTable] = {
    "table4": GridTable(
        "methods",
        FIVE,
        _methods("l2", "l2_fe", "l2_sp", "delta", "afa", "spgca", "uniform"),
        "l2",
        controls=("uniform",),
    ),
    "table5": GridTable(
        "modules",
        FIVE,
        _methods("ast", "act", "spa", "gca", "uniform", "l2"),
        "uniform",
        controls=("uniform", "l2"),
    ),
    "table6": GridTable(
        "reduction rate r of GCA",
        ("caltech256_30",),
        {str(r): {"method": "gca", "r": r} for r in TABLE6_RATES},
        str(TABLE6_RATES[0]),
    ),
    "table7": GridTable(
        "order of the stages",
        FIVE,
        # The very recipe of Table 4, so that a store that holds one holds the other.
        {"spa->gca": {"method": "spgca"}, "gca->spa": {"method": "gca->spa"}},
        "spa->gca",
    ),
    "fig2": GridTable("convergence", ("caltech256_60",), _methods("ast", "spa", "act", "gca"), "ast"),
}


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a data set and a column, trained with every seed.

    Args:
        dataset: as in a recipe.
        title: of the data set in the paper, or the folder's name.
        model: of the paper, or the backbone's name.
        column: of the table.
        recipe: with the first seed.
        validation: how α was chosen: share, values, seeds and the scores by value; None where it was given.
    """

    dataset: str
    title: str
    model: str
    column: str
    recipe: Recipe
    validation: dict[str, Any] | None = None

    def recipes(self, seeds: Iterable[int]) -> list[Recipe]:
        """One a seed."""
        return [self.recipe.replace(seed=seed) for seed in seeds]


@dataclass(frozen=True)
class Grid:
    """The cells of one table and the seeds of each.

    Args:
        table: one of `GRIDS`.
        seeds: of every cell.
        cells: data set by data set, in the order of the columns.
        baseline: the column that differences are taken to.
    """

    table: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    baseline: str

    def recipes(self) -> list[Recipe]:
        """What is to be trained: all cells of one seed before the next, so that a part of a grid compares as well."""
        return [cell.recipe.replace(seed=seed) for seed in self.seeds for cell in self.cells]

    def save(self, store: RunStore) -> Path:
        """Write which runs make up the table to `grids/<table>.json` in the store, where the report looks."""
        cells = [
            {k: v for k, v in asdict(cell).items() if k != "recipe"}
            | {"alpha": cell.recipe.alpha, "alpha_from": cell.recipe.alpha_from}
            | {"recipe": cell.recipe.to_dict()}
            | {"recipes": [recipe.hash() for recipe in cell.recipes(self.seeds)]}
            for cell in self.cells
        ]
        plan = {"table": self.table, "baseline": self.baseline, "seeds": self.seeds, "cells": cells}
        file = store.path / "grids" / f"{self.table}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, (json.dumps(plan, indent=1, ensure_ascii=False) + "\n").encode())
        return file

    @classmethod
    def load(cls, store: RunStore, table: str) -> Self:
        """Read what `save` wrote.

        Raises:
            GridError: when the store has no such grid, saying which command makes one.
        """
        file = store.path / "grids" / f"{table}.json"
        if not file.exists():
            raise GridError(
                f"{str(store.path)!r} has no grid {table!r}: make it with `spgca-lab grid {table} --store {store.path}`"
            )
        plan = json.loads(file.read_text(encoding="utf-8"))
        names = ("dataset", "title", "model", "column", "validation")
        cells = tuple(
            Cell(recipe=Recipe.from_dict(cell["recipe"]), **{name: cell[name] for name in names})
            for cell in plan["cells"]
        )
        return cls(plan["table"], tuple(plan["seeds"]), cells, plan["baseline"])


def expand(
    table: str,
    *,
    seeds: Sequence[int] = range(5),
    datasets: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    **fields: Any,
) -> Grid:
    """The cells of one of the paper's tables, each with the recipe of Sec. 4.2.

    Args:
        table: `"table4"`, `"table5"`, `"table6"`, `"table7"` or `"fig2"`.
        seeds: of every cell (the paper: five runs).
        datasets: in place of the table's own: published names, folders of pictures, or `"stickers"`.
        columns: some of the table's; None takes all, the controls included.
        fields: of every recipe, in place of the paper's: another backbone, fewer iterations, α, ….

    Raises:
        GridError: quoting an unknown table or column, when there is no seed, or for `batch_size="auto"`.
        RecipeError: as `Recipe`.

    Source:
        Tables 4–7, Figure 2 and Sec. 4.2 of the paper. `uniform` and, in Table 5, `l2` are controls of this project.

    Example:
        >>> grid = expand("table6", seeds=[0, 1])
        >>> [(cell.column, cell.recipe.r) for cell in grid.cells]
        [('4', 4), ('8', 8), ('16', 16), ('32', 32)]
        >>> len(grid.recipes())
        8
    """
    if table not in GRIDS:
        raise GridError(f"there is no grid {table!r}: choose one of {', '.join(GRIDS)}")
    spec = GRIDS[table]
    unknown = [name for name in columns or () if name not in spec.columns]
    if unknown:
        raise GridError(f"{table} has no column {unknown[0]!r}: its columns are {', '.join(spec.columns)}")
    chosen = [name for name in spec.columns if columns is None or name in columns]
    if not seeds or not chosen:
        raise GridError(f"{table} needs at least one {'seed' if not seeds else 'column'}")
    cells = []
    for dataset in datasets or spec.datasets:
        for column in chosen:
            recipe = Recipe.paper(
                **{"dataset": dataset, "seed": seeds[0]} | fields | dict(spec.columns[column])
            )
            # Cells are compared: each with a batch size of its own would not be.
            if recipe.batch_size == AUTO:
                raise GridError(
                    f"batch_size is {AUTO!r}: a grid compares runs of one batch size, give a number"
                )
            title = PUBLISHED[dataset].title if dataset in PUBLISHED else Path(dataset).name
            model = MODELS.get(recipe.backbone, recipe.backbone)
            cells.append(Cell(str(dataset), title, model, column, recipe))
    baseline = spec.baseline if spec.baseline in chosen else chosen[0]
    return Grid(table, tuple(seeds), tuple(cells), baseline)


def search(
    grid: Grid, alphas: Sequence[float], *, validation: float = 0.2, seeds: Sequence[int] = (0,)
) -> list[Recipe]:
    """What is to be trained before α is chosen: every cell with every value, measured on held-out training pictures.

    Penalties of feature maps take the values as they are. A penalty that has another unit, such as L2-SP's, takes a
    tenth, once and ten times its default; a method without α is not searched.

    Args:
        grid: from `expand`.
        alphas: to try.
        validation: share of the training pictures that is held out.
        seeds: of these runs.

    Raises:
        GridError: when there is nothing to choose from, or nothing to choose on.

    Example:
        >>> grid = expand("table5", datasets=["cub200"], columns=["spa", "l2"])
        >>> [recipe.alpha for recipe in search(grid, [0.01, 0.1])]
        [0.01, 0.1, 1e-05, 0.0001, 0.001]
    """
    if not alphas:
        raise GridError("a search needs at least one value of α")
    if not 0 < validation < 1:
        # At 0 nothing is held out, and α would be chosen on the test pictures.
        raise GridError(f"the share that is held out must be above 0 and below 1, got {validation!r}")
    return [recipe for cell in grid.cells for recipe in _tries(cell, alphas, validation, seeds)]


def choose_alphas(
    grid: Grid,
    store: RunStore,
    alphas: Sequence[float],
    *,
    validation: float = 0.2,
    seeds: Sequence[int] = (0,),
) -> Grid:
    """The grid with the α of each cell that was best on the held-out training pictures; the test pictures play no part.

    Best is the highest mean top-1 of the last iterate over the seeds, and of equal ones that with the lower mean
    cross-entropy. A value with which a run failed, say because it diverged, is out.

    Args:
        grid: from `expand`.
        store: with the runs of `search` for the same arguments.
        alphas: as for `search`.
        validation: as for `search`.
        seeds: as for `search`.

    Returns:
        a grid whose recipes have the chosen α, and say in `alpha_from` how it was chosen.

    Raises:
        GridError: when runs are missing, or every value of a cell failed.
    """
    return replace(
        grid, cells=tuple(_chosen(cell, store, alphas, validation, tuple(seeds)) for cell in grid.cells)
    )


def _values(cell: Cell, alphas: Sequence[float]) -> list[float]:
    stages = cell.recipe.stages().stages
    default = stages[0].alpha
    if all(not stage.scaled for stage in stages):
        return [default * factor for factor in UNSCALED_FACTORS] if default else []
    return list(dict.fromkeys(float(a) for a in alphas))


def _tries(cell: Cell, alphas: Sequence[float], validation: float, seeds: Sequence[int]) -> list[Recipe]:
    return [
        cell.recipe.replace(alpha=alpha, seed=seed, validation=validation, evaluations=1, snapshots=0)
        for alpha in _values(cell, alphas)
        for seed in seeds
    ]


def _chosen(
    cell: Cell, store: RunStore, alphas: Sequence[float], validation: float, seeds: tuple[int, ...]
) -> Cell:
    values = _values(cell, alphas)
    if not values:
        return cell
    scores: dict[float, tuple[float, float]] = {}
    lost: dict[float, str] = {}
    for recipe in _tries(cell, alphas, validation, seeds):
        alpha = recipe.alphas[0]
        folder = store.folder(recipe)
        run = Run(folder) if (folder / "recipe.json").exists() else None
        if run is None or run.status not in ("finished", "failed"):
            status = "not there" if run is None else run.status
            raise GridError(
                f"α of {cell.column} on {cell.title} cannot be chosen yet: the run with α = {alpha:g}, seed "
                f"{recipe.seed} is {status}"
            )
        if run.result is None:
            lost[alpha] = str(run.failure)
            continue
        top1, nats = scores.get(alpha, (0.0, 0.0))
        scores[alpha] = (
            top1 + run.result["top1"] / len(seeds),
            nats + run.result["cross_entropy"] / len(seeds),
        )
    left = {alpha: score for alpha, score in scores.items() if alpha not in lost}
    if not left:
        raise GridError(
            f"every α of {cell.column} on {cell.title} failed: {'; '.join(f'{a:g}: {why}' for a, why in lost.items())}"
        )
    best = min(left, key=lambda alpha: (-left[alpha][0], left[alpha][1]))
    tried = ", ".join(f"{a:g}: {left[a][0]:.1f} %" if a in left else f"{a:g}: failed" for a in values)
    told = (
        f"best of {tried} on {validation:.0%} of the training pictures, held out; "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    )
    if len(values) > 1 and best in (min(values), max(values)):
        told += f"; {best:g} is the {'smallest' if best == min(values) else 'largest'} tried"
    record = {"share": validation, "seeds": list(seeds), "alphas": values}
    record |= {"top1": [round(left[a][0], 4) if a in left else None for a in values]}
    return replace(cell, recipe=cell.recipe.replace(alpha=best, alpha_from=told), validation=record)
