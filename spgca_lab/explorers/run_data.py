"""What RunExplorer asks of its stores, in plain values: settings, grids, recipes, curves, attention, pictures."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from spgca_lab.explorers.attention_sources import RunSource
from spgca_lab.explorers.grid import Cell, Grid, aligned, band, make_grid
from spgca_lab.explorers.method_orders import family, method_of
from spgca_lab.explorers.parts import ExplorerError
from spgca_lab.explorers.pictures import Pictures, pictures_of_run
from spgca_lab.explorers.run_index import Alpha, Curve, Entry, RunIndex, setting_names
from spgca_lab.plots.chart import span
from spgca_lab.plots.panels.runs import Band
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["Pair", "RunData"]

Pair = tuple[Alpha, int | None]
LEAST = 5.0  # percentage points


class RunData:
    """The runs of some stores, and what else may be trained.

    Args:
        stores: folders of runs.
        alphas: as in `RunExplorer`, and so are the others.

    Raises:
        ExplorerError: when there is no run, or a number is none that a recipe could have.
        MethodError: for an unknown method.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> data = RunData([RunStore(data_dir() / "runs")])
        >>> data.methods(data.first_setting)
        ['afa', 'l2', 'spgca', 'uniform']
    """

    def __init__(
        self,
        stores: Sequence[RunStore],
        *,
        alphas: Iterable[float] | None = None,
        rates: Iterable[int] | None = None,
        seeds: Iterable[int] | None = None,
        methods: Iterable[str] | None = None,
    ):
        self.alphas, self.rates, self.seeds_given = (
            tuple(alphas or ()),
            tuple(rates or ()),
            tuple(seeds or ()),
        )
        self.families = {family(method_of(method)) for method in methods or ()}
        for name, values in (("alpha", self.alphas), ("r", self.rates), ("seed", self.seeds_given)):
            for value in values:
                Recipe().replace(**{name: value})
        self.index = RunIndex(stores)
        if not self.index.entries:
            where = " or ".join(repr(str(store.path)) for store in stores)
            why = "".join(f"; {error}" for error in self.index.broken.values())
            raise ExplorerError(f"no run in {where}: train some with lab.fit or `spgca-lab fit`{why}")
        self._source = lru_cache(maxsize=24)(lambda run, steps: RunSource([run]))
        self._probe = lru_cache(maxsize=4)(pictures_of_run)
        self._forget()

    @property
    def first_setting(self) -> str:
        """The one with most runs."""
        return next(iter(self.settings()))

    def refresh(self) -> bool:
        """Look at the stores again; whether anything changed."""
        changed = self.index.refresh()
        if changed:
            self._forget()
        return changed

    def here(self, setting: str) -> list[Entry]:
        """The runs of a setting."""
        return [entry for entry in self.index.entries if entry.setting == setting]

    def kin(self, setting: str, method: str) -> list[Entry]:
        """The runs of a method in either order."""
        return [entry for entry in self.here(setting) if family(entry.method) == family(method)]

    def methods(self, setting: str) -> list[str]:
        """Families of methods, those to offer besides included."""
        return sorted({family(entry.method) for entry in self.here(setting)} | self.families)

    def seeds(self, setting: str) -> list[int]:
        """Of any run, and those to want besides."""
        return sorted({entry.seed for entry in self.here(setting)} | set(self.seeds_given))

    def count(self, setting: str, method: str) -> int:
        """How many runs a method has in this order of its stages."""
        return sum(entry.method == method for entry in self.here(setting))

    def recipe(self, setting: str, method: str, pair: Pair) -> Recipe:
        """A cell's recipe: that of a run of the setting, of the method if it has one, but for method, α and r."""
        runs = self.here(setting)
        own = next((entry.run.recipe for entry in runs if entry.method == method), None)
        like = own or runs[0].run.recipe
        unused = own.r if own is not None else Recipe.r
        return like.replace(method=method, alpha=pair[0], r=unused if pair[1] is None else pair[1])

    def missing(self, setting: str, grid: Grid, pairs: Iterable[Pair]) -> list[Recipe]:
        """Recipes of the runs that some cells still lack."""
        found: list[Recipe] = []
        if not self.here(setting):
            return found
        for pair in pairs:
            there = {entry.seed: entry.run.recipe for entry in grid.cells[pair].runs}
            for seed in grid.missing(pair):
                # What was begun goes on under its own recipe, whatever it says of evaluations and snapshots.
                found.append(there.get(seed) or self.recipe(setting, grid.method, pair).replace(seed=seed))
        return found

    def pace(self, setting: str, method: str) -> float | None:
        """Seconds that a run takes: the median of the method's, else of the setting's; None without any."""
        runs = [entry for entry in self.here(setting) if entry.seconds is not None]
        own = [entry for entry in runs if entry.method == method]
        took = [float(entry.seconds) for entry in own or runs if entry.seconds is not None]
        return float(np.median(took)) if took else None

    def limits(self, setting: str, method: str) -> tuple[float, float] | None:
        """Of the colours, for all seeds and both orders: five points at least, for noise is no structure."""
        found = [entry.top1 for entry in self.kin(setting, method) if entry.top1 is not None]
        if not found:
            return None
        low, high = span(found, margin=0.0, least=LEAST)
        above = max(0.0, high - 100)
        return max(0.0, low - above), high - above

    def curves(self, entries: Iterable[Entry]) -> list[Curve]:
        """Those that have one."""
        return [curve for curve in map(self.index.curve, entries) if curve is not None]

    def source(self, cell: Cell) -> tuple[RunSource, Entry] | None:
        """The attention of a cell's lowest seed that kept it, and its run."""
        entry = next((entry for entry in cell.runs if entry.steps and entry.probe), None)
        return None if entry is None else (self._source(entry.run, entry.steps), entry)

    def pictures(self, setting: str) -> Pictures | None:
        """The probe pictures of a setting, from a run that was kept with them: with snapshots, if there is one."""
        runs = sorted(self.here(setting), key=lambda entry: not entry.steps)
        kept = next((entry.run for entry in runs if entry.probe), None)
        return None if kept is None else self._probe(kept)

    def _forget(self) -> None:
        self.settings = lru_cache(maxsize=1)(lambda: setting_names(self.index.entries))
        self.grid = lru_cache(maxsize=32)(self._grid)
        self.steps = lru_cache(maxsize=8)(self._steps)
        self.mean = lru_cache(maxsize=128)(self._mean)
        self.bands = lru_cache(maxsize=128)(self._bands)

    def _grid(self, setting: str, method: str, seed: int | str) -> Grid:
        return make_grid(
            self.index.entries,
            setting,
            method,
            alphas=self.alphas,
            rates=self.rates,
            seeds=self.seeds_given,
            seed=seed,
        )

    def _steps(self, setting: str, method: str) -> list[int]:
        """Steps of which a run of the method kept a snapshot, and the last one."""
        kept = {step for entry in self.kin(setting, method) for step in entry.steps}
        return sorted(kept | {self.here(setting)[0].run.recipe.iterations})

    def _mean(self, cell: Cell) -> tuple[np.ndarray, ...] | None:
        """Steps and mean cross-entropy, steps and mean top-1 of a cell's finished runs."""
        curves = self.curves(cell.finished)
        if not curves:
            return None
        step, losses = aligned([(c.step, c.loss) for c in curves])
        at, scores = aligned([(c.at, c.top1) for c in curves])
        return step, losses.mean(axis=0), at, scores.mean(axis=0)

    def _bands(self, cell: Cell) -> tuple[Band | None, Band | None]:
        """Cross-entropy and top-1 of a cell's finished runs."""
        curves = self.curves(cell.finished)
        return band([(c.step, c.loss) for c in curves]), band([(c.at, c.top1) for c in curves])
