"""Grids of recipes behind the paper's Tables 4–7 and Figure 2, with α chosen on held-out training images."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import pandas as pd

from spgca_lab._files import replace_file
from spgca_lab.data.published import PUBLISHED
from spgca_lab.experiments.alpha_choice import Plan, TuneError, best_alpha, plan_search
from spgca_lab.experiments.paper import TABLE6_RATES
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.recipe import AUTO, Recipe

MODELS = {"resnet101": "ResNet-101", "resnet50": "ResNet-50", "resnet50_places365": "ResNet-50"}
FIVE = ("stanford_dogs", "cub200", "caltech256_30", "caltech256_60", "mit_indoor67")
UNSCALED_FACTORS = (0.1, 1.0, 10.0)


class GridError(ValueError):
    """A grid that is unknown or incomplete."""


@dataclass(frozen=True)
class GridTable:
    """The data sets and columns of one of the paper's tables."""

    title: str
    datasets: tuple[str, ...]
    columns: Mapping[str, Mapping[str, Any]]  # fields of the recipe by column
    baseline: str  # column that the others are compared with
    controls: tuple[str, ...] = ()  # columns that the paper does not have


def _methods(names: str) -> dict[str, dict[str, Any]]:
    return {name: {"method": name} for name in names.split()}


_RATES = {str(r): {"method": "gca", "r": r} for r in TABLE6_RATES}
# The recipe of Table 4, so that both tables share their runs.
_ORDERS = {"spa->gca": {"method": "spgca"}, "gca->spa": {"method": "gca->spa"}}
_CONVERGENCE = _methods("ast spa act gca")
_TABLE4, _TABLE5 = _methods("l2 l2_fe l2_sp delta afa spgca uniform"), _methods("ast act spa gca uniform l2")
GRIDS: dict[str, GridTable] = {
    "table4": GridTable("methods", FIVE, _TABLE4, "l2", controls=("uniform",)),
    "table5": GridTable("modules", FIVE, _TABLE5, "uniform", controls=("uniform", "l2")),
    "table6": GridTable("reduction rate r of GCA", ("caltech256_30",), _RATES, str(TABLE6_RATES[0])),
    "table7": GridTable("order of the stages", FIVE, _ORDERS, "spa->gca"),
    "fig2": GridTable("convergence", ("caltech256_60",), _CONVERGENCE, "ast"),
}


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a data set and a column, trained with every seed."""

    dataset: str  # name or folder, as in a recipe
    title: str  # in the paper, or the folder's name
    model: str  # the paper's name of the network, or the backbone's
    column: str
    recipe: Recipe  # with the first seed

    def recipes(self, seeds: Iterable[int]) -> list[Recipe]:
        """Return one recipe per seed."""
        return [self.recipe.replace(seed=seed) for seed in seeds]


@dataclass(frozen=True)
class Grid:
    """The cells of one table and the seeds of each."""

    table: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]  # data set by data set, in the order of the columns
    baseline: str  # column that the others are compared with

    def recipes(self) -> list[Recipe]:
        """Return all runs, one seed after the other, so that a part of the grid can be compared."""
        return [cell.recipe.replace(seed=seed) for seed in self.seeds for cell in self.cells]

    @staticmethod
    def file(store: RunStore, table: str) -> Path:
        """Return the path of a table's plan in a store."""
        return store.path / "grids" / f"{table}.json"

    def save(self, store: RunStore) -> Path:
        """Write the plan of the table to `grids/<table>.json` in the store, for the report."""
        cells = [vars(cell) | {"recipe": cell.recipe.to_dict()} for cell in self.cells]
        file = self.file(store, self.table)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(vars(self) | {"cells": cells}, indent=1, ensure_ascii=False)
        replace_file(file, f"{text}\n".encode())
        return file

    @classmethod
    def load(cls, store: RunStore, table: str) -> Self:
        """Read the plan that `save` wrote."""
        file, command = cls.file(store, table), f"spgca-lab grid {table} --store {store.path}"
        try:
            plan = json.loads(file.read_text(encoding="utf-8"))
            cells = (Cell(**cell | {"recipe": Recipe.from_dict(cell["recipe"])}) for cell in plan["cells"])
            return cls(**plan | {"seeds": tuple(plan["seeds"]), "cells": tuple(cells)})
        except FileNotFoundError:
            raise GridError(f"{str(store.path)!r} has no grid {table!r}: make it with `{command}`") from None
        except (KeyError, TypeError, ValueError) as error:
            text = f"{str(file)!r} is no plan of a grid ({type(error).__name__}: {error})"
            raise GridError(f"{text}; make it anew with: {command}") from error


def expand(
    table: str,
    *,
    seeds: Sequence[int] = range(5),
    datasets: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    **fields: Any,
) -> Grid:
    """Return the cells of one of the paper's tables, each with the recipe of Sec. 4.2.

    Args:
        table: `"table4"`, `"table5"`, `"table6"`, `"table7"` or `"fig2"`.
        seeds: the seeds of every cell (the paper: five runs).
        datasets: data sets in place of the table's own: published names, folders of images, or `"stickers"`.
        columns: some of the table's columns; None takes all, the controls included.
        fields: fields of every recipe in place of the paper's: another backbone, fewer iterations, α, ….

    Raises:
        GridError: for an unknown table or column, without a seed, or for `batch_size="auto"`.
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
            given = {"dataset": dataset, "seed": seeds[0]} | fields | dict(spec.columns[column])
            recipe = Recipe.paper(**given)
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
    """Return the runs that measure every value of α for every cell on held-out training images.

    `validation` is the share of each class's training images that is held out, `seeds` are the seeds of these runs.
    Penalties on feature maps take the values as they are. A penalty of another unit, such as L2-SP's, takes a tenth,
    once and ten times its default; a method without α is not searched.
    """
    if not alphas:
        raise GridError("a search needs at least one value of α")
    return [
        recipe
        for cell in grid.cells
        if (plan := _plan(cell, alphas, validation, seeds))
        for (alpha,) in plan.points
        for recipe in plan.recipes(alpha)
    ]


def choose_alphas(
    grid: Grid,
    store: RunStore,
    alphas: Sequence[float],
    *,
    validation: float = 0.2,
    seeds: Sequence[int] = (0,),
) -> Grid:
    """Return the grid with each cell's α that was best on the held-out training images.

    The best has the highest top-1 accuracy of the last iterate, mean over the seeds, and of equal ones the lower
    cross-entropy. A value with which a run failed, for example because it diverged, is out. `alpha_from` of the recipes
    records the choice. `store` has the runs of `search` for the same arguments.
    """
    plans = [(cell, _plan(cell, alphas, validation, seeds)) for cell in grid.cells]
    return replace(grid, cells=tuple(_chosen(cell, store, plan) if plan else cell for cell, plan in plans))


def _plan(cell: Cell, alphas: Sequence[float], validation: float, seeds: Sequence[int]) -> Plan | None:
    stages = cell.recipe.stages().stages
    if all(not stage.scaled for stage in stages):
        default = stages[0].alpha
        alphas = [default * factor for factor in UNSCALED_FACTORS] if default else []
    if not alphas:
        return None
    return plan_search(cell.recipe, alphas=alphas, validation=validation, seeds=seeds)


def _chosen(cell: Cell, store: RunStore, plan: Plan) -> Cell:
    rows: list[dict[str, Any]] = []
    for (alpha,) in plan.points:
        results, failure = [], None
        for recipe in plan.recipes(alpha):
            folder = store.folder(recipe)
            run = Run(folder) if (folder / "recipe.json").exists() else None
            if run is None or run.status not in ("finished", "failed"):
                raise GridError(
                    f"α of {cell.column} on {cell.title} cannot be chosen yet: the run with α = {alpha:g}, seed "
                    f"{recipe.seed} is {'missing' if run is None else run.status}"
                )
            failure = run.failure if run.result is None else failure
            results.append(run.result or {"top1": math.nan, "cross_entropy": math.nan})
        means = {key: fmean(result[key] for result in results) for key in ("top1", "cross_entropy")}
        rows.append(
            {"alpha": alpha, "state": "failed" if failure else "complete", "failure": failure} | means
        )
    trials = pd.DataFrame(rows)
    try:
        best, text = best_alpha(trials, plan.validation, plan.seeds)
    except TuneError as error:
        raise GridError(f"{cell.column} on {cell.title}: {error}") from error
    return replace(cell, recipe=cell.recipe.replace(alpha=best.alpha, alpha_from=text))
