"""The runs of a `RunTable` as grids of α × r × seed: cells with their curves, attention, texts and missing runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from spgca_lab.analysis.statistics import mean_interval
from spgca_lab.explorers import method_orders as orders
from spgca_lab.explorers.forward import RunSource
from spgca_lab.explorers.images import ImageBatch
from spgca_lab.explorers.run_table import (
    ACTIVE,
    Alpha,
    Curve,
    RunTable,
    Source,
    method_options,
    setting_names,
)
from spgca_lab.plots.canvas import span
from spgca_lab.plots.panels.runs import Band, Tile
from spgca_lab.plots.style import method_label
from spgca_lab.training.recipe import Recipe

ALL = "all"
LEAST_SPAN = 5.0  # percentage points of a table's colours
Pair = tuple[Alpha, int]
# Returns True if the run of a folder is in the queue; its files look like those of an abandoned run.
Queued = Callable[[Path], bool]
MOST_CHARACTERS = 120


@dataclass(frozen=True, eq=False)
class Cell:
    """The rows of one method's runs at one α and r, sorted by seed; r is 0 for a method without r."""

    alpha: Alpha
    r: int
    rows: list[Any]

    @cached_property
    def finished(self) -> list[Any]:
        """The rows with a result."""
        return [row for row in self.rows if row.status == "finished"]

    @property
    def top1(self) -> np.ndarray:
        """Final accuracies of the finished runs, in percent."""
        return np.array([row.top1 for row in self.finished], dtype=float)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the finished runs."""
        return tuple(row.seed for row in self.finished)

    @property
    def foremost(self) -> Any:
        """The row that says most of a cell without a result: an active run, else the lowest seed's."""
        return next((row for row in self.rows if row.status in ACTIVE), self.rows[0])


@dataclass(frozen=True)
class Grid:
    """The cells of one method, one for every pair of α and r, with or without a run."""

    method: str
    alphas: tuple[Alpha, ...]
    rates: tuple[int, ...]  # (0,) for a method without r
    seeds: tuple[int, ...]  # wanted in every cell
    cells: Mapping[Pair, Cell]

    def missing(self, pair: Pair) -> list[int]:
        """Return the wanted seeds that have neither a result nor a process."""
        there = {row.seed for row in self.cells[pair].rows if row.status in ("finished", *ACTIVE)}
        return [seed for seed in self.seeds if seed not in there]


class RunGrids:
    """The runs of some folders in grids, with further values of α, r and seed and further methods to offer."""

    def __init__(
        self, source: Source, more: Mapping[str, Sequence[Any]] | None = None, methods: Iterable[str] = ()
    ):
        self.more = {name: list((more or {}).get(name, ())) for name in ("alpha", "r", "seed")}
        self.more_methods = {orders.order_family(orders.method_of(method)) for method in methods}
        for name, values in self.more.items():
            for value in values:
                Recipe().replace(**{name: value})  # raises RecipeError for an impossible value
        self.table = RunTable(source)
        self.table.require_runs()
        self._source = lru_cache(maxsize=24)(lambda run, steps: RunSource([run]))
        self._probe = lru_cache(maxsize=4)(ImageBatch.of_run)
        self._clear()

    def refresh(self) -> bool:
        """Read what is new, and return True if anything changed."""
        if changed := self.table.refresh():
            self._clear()
        return changed

    def methods(self, setting: str) -> list[str]:
        """Return the methods to offer, either order under one name."""
        return sorted(set(self.runs(setting)["method"].map(orders.order_family)) | self.more_methods)

    def seeds(self, setting: str) -> list[int]:
        """Return the seeds wanted in every cell."""
        return sorted(set(self.runs(setting)["seed"]) | set(map(int, self.more["seed"])))

    def recipe(self, setting: str, method: str, pair: Pair) -> Recipe:
        """Return the recipe of a cell: that of a run of the setting with method, α and r replaced."""
        runs = self.runs(setting)
        own = runs[runs["method"] == method]
        like = next(iter(own["run"] if len(own) else runs["run"])).recipe
        r = pair[1] or (like.r if len(own) else Recipe.r)
        return like.replace(method=method, alpha=pair[0], r=r)

    def missing(self, setting: str, grid: Grid, pairs: Iterable[Pair]) -> list[Recipe]:
        """Return the recipes of the runs that some cells lack."""
        found: list[Recipe] = []
        for pair in pairs if len(self.runs(setting)) else ():
            # An unfinished run is resumed under its own recipe, with its own evaluations and snapshots.
            begun = {row.seed: row.run.recipe for row in grid.cells[pair].rows}
            like = self.recipe(setting, grid.method, pair)
            found += [begun.get(seed) or like.replace(seed=seed) for seed in grid.missing(pair)]
        return found

    def typical_seconds(self, setting: str, method: str) -> float | None:
        """Return the median duration of a method's runs, else of the setting's; None without any."""
        runs = self.runs(setting).dropna(subset="seconds")
        own = runs[runs["method"] == method]
        return float((own if len(own) else runs)["seconds"].astype(float).median()) if len(runs) else None

    def limits(self, setting: str, family: str) -> tuple[float, float] | None:
        """Return the limits of the table's colours, at least five points apart: smaller differences are noise."""
        found = self.runs(setting, family)["top1"].dropna().astype(float).tolist()
        if not found:
            return None
        low, high = span(found, margin=0.0, least=LEAST_SPAN)
        above = max(0.0, high - 100)
        return max(0.0, low - above), high - above

    def curves(self, rows: Iterable[Any]) -> list[Curve]:
        """Return the curves of those runs that have any."""
        return [curve for row in rows if (curve := self.table.curve(row.run)) is not None]

    def source(self, cell: Cell) -> tuple[RunSource, Any] | None:
        """Return the attention of the cell's lowest seed with snapshots, and that run's row."""
        rows = [row for row in cell.rows if row.steps and row.probe]
        return (self._source(rows[0].run, rows[0].steps), rows[0]) if rows else None

    def images(self, setting: str) -> ImageBatch | None:
        """Return the probe images of a setting, from a run with snapshots if there is one."""
        saved = [row for row in self.runs(setting).itertuples() if row.probe]
        return self._probe(min(saved, key=lambda row: not row.steps).run) if saved else None

    def _clear(self) -> None:
        self.settings = lru_cache(maxsize=1)(lambda: setting_names(self.table.frame))
        self.runs = lru_cache(maxsize=32)(self._runs)
        self.grid = lru_cache(maxsize=32)(self._grid)
        self.steps = lru_cache(maxsize=8)(self._steps)
        self.mean = lru_cache(maxsize=128)(self._mean)
        self.bands = lru_cache(maxsize=128)(self._bands)

    def _runs(self, setting: str, family: str = "") -> pd.DataFrame:
        """Return the runs of a setting, or only those of a method in either order of its stages."""
        frame = self.table.frame[self.table.frame["setting"] == setting]
        return frame[frame["method"].map(orders.order_family) == family] if family else frame

    def _grid(self, setting: str, method: str, seed: int | str = ALL) -> Grid:
        # Both orders of a method share the values of α and r, so that they can be compared.
        related = self.runs(setting, orders.order_family(method))
        alphas = set(related["alpha"])
        if orders.compares_maps(method):
            alphas |= set(map(float, self.more["alpha"]))
        alphas = alphas or {method_options(Recipe(method=method))["alpha"]}
        rows = sorted(alphas, key=lambda a: a if isinstance(a, tuple) else (a,))
        rates = [0]
        if orders.uses_reduction(method):
            rates = sorted({*related["r"], *map(int, self.more["r"])} or {Recipe.r})
        wanted = (self.seeds(setting) or [0]) if seed == ALL else [int(seed)]
        cells = {(alpha, r): Cell(alpha, r, []) for alpha in rows for r in rates}
        own = related[(related["method"] == method) & related["seed"].isin(wanted)]
        for row in own.sort_values("seed").itertuples():
            cells[row.alpha, row.r].rows.append(row)
        return Grid(method, tuple(rows), tuple(rates), tuple(wanted), cells)

    def _steps(self, setting: str, family: str) -> list[int]:
        """Return the steps with a snapshot of some run of the method, and the last step."""
        saved = {step for steps in self.runs(setting, family)["steps"] for step in steps}
        return sorted(saved | {self.runs(setting)["run"].iloc[0].recipe.iterations})

    def _mean(self, cell: Cell) -> tuple[np.ndarray, ...] | None:
        """Return steps and mean cross-entropy, steps and mean top-1 of a cell's finished runs."""
        loss, top1 = self.bands(cell)
        return None if loss is None or top1 is None else (loss.x, loss.mean, top1.x, top1.mean)

    def _bands(self, cell: Cell) -> tuple[Band | None, Band | None]:
        """Return the bands of cross-entropy and top-1 of a cell's finished runs."""
        curves = self.curves(cell.finished)
        return band([(c.step, c.loss) for c in curves]), band([(c.at, c.top1) for c in curves])


def alpha_text(alpha: Alpha) -> str:
    """Return α as text, e.g. "3", or "3, then 10" for two stages."""
    return ", then ".join(f"{a:g}" for a in (alpha if isinstance(alpha, tuple) else (alpha,)))


def band(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Band | None:
    """Return the mean of some curves (steps, values) over their common steps, with a band.

    The band is the 95 % t interval of the mean for three or more curves. For two it reaches from one to the other,
    because an interval of two values says nothing. A single curve has none.
    """
    if not curves:
        return None
    values = pd.concat([pd.Series(y, x) for x, y in curves], axis=1, join="inner")
    x, mean, n = values.index.to_numpy(), values.mean(axis=1).to_numpy(), len(curves)
    if n == 1:
        return Band(x, mean)
    if n == 2:
        return Band(x, mean, values.min(axis=1).to_numpy(), values.max(axis=1).to_numpy(), n)
    half = values.sem(axis=1).to_numpy() * stats.t.ppf(0.975, n - 1)
    return Band(x, mean, mean - half, mean + half, n)


def cell_name(method: str, pair: Pair) -> str:
    """Return a cell's method, α and r, e.g. "SPA→GCA at α = 3, r = 4"."""
    alpha, r = pair
    return f"{method_label(method)} at α = {alpha_text(alpha)}" + (f", r = {r}" if r else "")


def cell_caption(grid: Grid, pair: Pair, seed: int | str, queued: Queued) -> str:
    """Return a cell's accuracy, and whether the cells differ by more than its seeds do."""
    cell, name = grid.cells[pair], cell_name(grid.method, pair)
    n, found = len(cell.seeds), mean_interval(cell.top1)
    if not n:
        return curve_note(grid, pair, seed, queued) + "."
    # Only the means of equal seeds can be compared.
    means = [float(other.top1.mean()) for other in grid.cells.values() if other.seeds == cell.seeds]
    apart = max(means) - min(means)
    reached = f"{name} reaches {found:.1f} % over {n} seeds (95 % t interval)"
    others = f"the {len(means)} cells of {'this seed' if n == 1 else 'these seeds'} span {apart:.1f} points"
    if n == 1:
        reached = (
            f"{name} reaches {found.mean:.1f} % with seed {cell.seeds[0]} alone, so there is no interval"
        )
    else:
        less = "less" if apart < 2 * found.half else "more"
        others += f", {less} than the {2 * found.half:.1f} points from end to end of that interval"
    if len(means) < 2:
        others = "no other cell here has the same seeds to compare with"
    return f"{reached}; {others}."


def curve_note(grid: Grid, pair: Pair, seed: int | str, queued: Queued) -> str:
    """Return why a cell has no number, as a sentence without its full stop."""
    cell, name = grid.cells[pair], cell_name(grid.method, pair)
    if not cell.rows:
        return f"{name} was never trained{'' if seed == ALL else f' with seed {seed}'}: press Train these"
    row = cell.foremost
    name = f"{name} (seed {row.seed})"
    if row.status in ACTIVE:
        return f"{name} is {row.status}, {row.percent} % of its steps done"
    if row.status == "failed":
        return f"{name} failed: {row.failure}; Train these starts it again"
    if row.status == "begun" and not row.percent:
        waits = queued(row.run.path)
        return f"{name} waits for its turn" if waits else f"{name} has not started; Train these starts it"
    return f"{name} is {row.status} at {row.percent} % of its steps; Train these resumes it"


def attention_note(grid: Grid, pair: Pair, queued: Queued) -> str:
    """Return why a cell has no attention to show."""
    rows, name = grid.cells[pair].rows, cell_name(grid.method, pair)
    if not orders.has_attention(grid.method):
        return f"{method_label(grid.method)} has no attention"
    if not rows:
        return f"{name} was never trained, so there is no attention to show"
    if all(row.run.recipe.snapshots == 0 for row in rows):
        return "trained with snapshots=0: no attention was saved"
    if grid.cells[pair].seeds:
        seeds = f"seed{'s' if len(rows) > 1 else ''} {', '.join(str(row.seed) for row in rows)}"
        return f"shipped without its snapshots: {name}, {seeds}"
    return f"no snapshot yet: {_status(grid.cells[pair].foremost, queued)}"


def cell_tile(cell: Cell, queued: Queued) -> Tile:
    """Return a cell of the table: mean ± half the 95 % t interval of its seeds, or the status of its runs."""
    if not cell.rows:
        return Tile(("not trained", ""), status="never")
    row, n = cell.foremost, len(cell.seeds)
    active = row.status in ACTIVE
    done = row.percent / 100 if active else None
    if n:
        found, more = mean_interval(cell.top1), len(cell.rows) - n
        seeds = f"{n} seed{'s' if n > 1 else ''}"
        if more:
            seeds += f" + {row.status}" if active else f" + {more} not done"
        return Tile((f"{found:.1f}" if n > 1 else f"{found.mean:.1f}", seeds), found.mean, done=done, n=n)
    text = _status(row, queued)
    first, _, second = text.partition(" ") if text.endswith("%") else (text, "", "")
    return Tile((first, second), status=row.status, done=done)


def seed_rows(grid: Grid, pair: Pair, queued: Queued) -> list[list[str]]:
    """Return the wanted runs of a cell: seed, status, final top-1, seconds, saved parts, folder."""
    rows = {seed: [str(seed), "not trained", "", "", "", ""] for seed in grid.seeds}
    for row in grid.cells[pair].rows:
        status = f"{_status(row, queued)} {row.failure}".strip()[:MOST_CHARACTERS]
        top1 = "" if row.top1 is None else f"{row.top1:.2f} %"
        seconds = "" if row.seconds is None else f"{row.seconds:.0f} s"
        weights = (row.run.path / "weights.safetensors").exists()
        saved = [name for name, there in (("attention", row.steps), ("weights", weights)) if there]
        saved = saved or ["tables only"] * (row.status == "finished")
        rows[row.seed] = [str(row.seed), status, top1, seconds, ", ".join(saved), row.run.path.name]
    return list(rows.values())


def _status(row: Any, queued: Queued) -> str:
    if row.status == "begun" and not row.percent:
        return "waiting" if queued(row.run.path) else "not started"
    return row.status if row.status in ("failed", "finished") else f"{row.status} {row.percent} %"
