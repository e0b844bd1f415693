"""The cells of a grid of α × r × seed for one method in one setting, and the bands over their curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spgca_lab.analysis.statistics import mean_interval
from spgca_lab.explorers.method_orders import family, reduces, scaled
from spgca_lab.explorers.run_index import Alpha, Entry, alpha_of
from spgca_lab.plots.panels.runs import Band
from spgca_lab.training.recipe import Recipe

__all__ = ["ALL", "Cell", "Grid", "aligned", "alpha_words", "band", "make_grid"]

ALL = "all"


@dataclass(frozen=True)
class Cell:
    """The runs of one method at one α and r, by seed."""

    alpha: Alpha
    r: int | None
    runs: tuple[Entry, ...] = ()

    @property
    def finished(self) -> tuple[Entry, ...]:
        """Those that have a result."""
        return tuple(entry for entry in self.runs if entry.status == "finished")

    @property
    def top1(self) -> np.ndarray:
        """Final accuracies in percent, by seed."""
        return np.array([entry.top1 for entry in self.finished], dtype=float)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the finished runs."""
        return tuple(entry.seed for entry in self.finished)


@dataclass(frozen=True)
class Grid:
    """One method's cells.

    Args:
        method: canonical.
        alphas: from small to large, those without a run included.
        rates: likewise; `(None,)` for a method without r.
        seeds: wanted in every cell.
        cells: by (α, r); every pair has one.
    """

    method: str
    alphas: tuple[Alpha, ...]
    rates: tuple[int | None, ...]
    seeds: tuple[int, ...]
    cells: Mapping[tuple[Alpha, int | None], Cell]

    def missing(self, pair: tuple[Alpha, int | None]) -> tuple[int, ...]:
        """Wanted seeds that have neither a result nor a process."""
        there = {e.seed for e in self.cells[pair].runs if e.status == "finished" or e.active}
        return tuple(seed for seed in self.seeds if seed not in there)

    def comparable(self, pair: tuple[Alpha, int | None]) -> list[Cell]:
        """The cells whose finished runs have the seeds of this one's: only their means can be compared."""
        seeds = self.cells[pair].seeds
        return [cell for cell in self.cells.values() if seeds and cell.seeds == seeds]


def alpha_words(alpha: Alpha) -> str:
    """α in words; one a stage where stages differ.

    Example:
        >>> alpha_words(0.3), alpha_words((3.0, 10.0))
        ('0.3', '3, then 10')
    """
    return ", then ".join(f"{a:g}" for a in (alpha if isinstance(alpha, tuple) else (alpha,)))


def make_grid(
    entries: Sequence[Entry],
    setting: str,
    method: str,
    *,
    alphas: Sequence[float] = (),
    rates: Sequence[int] = (),
    seeds: Sequence[int] = (),
    seed: int | str = ALL,
) -> Grid:
    """The cells of one method in one setting.

    α and r are those of either order of the method, so that one order can be compared with the other.

    Args:
        entries: of a `RunIndex`.
        setting: its digest.
        method: canonical.
        alphas: to offer besides those of the runs; they go to penalties of feature maps alone, for the α of weights
            and outputs is on another scale.
        rates: r to offer besides.
        seeds: to want besides those of the setting's runs.
        seed: only this one, or `"all"`.

    Example:
        >>> grid = make_grid([], "", "l2", seeds=[0])
        >>> grid.alphas, grid.rates, grid.missing((0.0001, None))
        ((0.0001,), (None,), (0,))
    """
    here = [entry for entry in entries if entry.setting == setting]
    kin = [entry for entry in here if family(entry.method) == family(method)]
    extra = [float(a) for a in alphas] if scaled(method) else []
    offered: set[Alpha] = {entry.alpha for entry in kin} | set(extra)
    rows = sorted(offered or {alpha_of(Recipe(method=method))}, key=_ordered)
    columns: Sequence[int | None] = [None]
    if reduces(method):
        columns = sorted({e.r for e in kin if e.r is not None} | {int(r) for r in rates} or {Recipe.r})
    wanted = sorted({entry.seed for entry in here} | {int(s) for s in seeds} or {0})
    if seed != ALL:
        wanted = [int(seed)]
    cells = {}
    own = [entry for entry in kin if entry.method == method and entry.seed in wanted]
    for alpha in rows:
        for r in columns:
            runs = sorted((e for e in own if (e.alpha, e.r) == (alpha, r)), key=lambda e: e.seed)
            cells[alpha, r] = Cell(alpha, r, tuple(runs))
    return Grid(method, tuple(rows), tuple(columns), tuple(wanted), cells)


def band(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Band | None:
    """Mean of some curves over the steps that all have, and a band: the 95 % t interval of the mean from three on.

    Of two curves the band reaches from one to the other: an interval of two values says nothing. One has no band.

    Args:
        curves: (steps, values) of each.

    Example:
        >>> step = np.array([1.0, 2.0])
        >>> band([(step, step), (step, step + 2)]).low.tolist()
        [1.0, 2.0]
    """
    if not curves:
        return None
    x, values = aligned(curves)
    mean = values.mean(axis=0)
    if len(curves) == 1:
        return Band(x, mean, n=1)
    if len(curves) == 2:
        return Band(x, mean, values.min(axis=0), values.max(axis=0), 2)
    half = np.array([mean_interval(column).half for column in values.T])
    return Band(x, mean, mean - half, mean + half, len(curves))


def aligned(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The steps that all of one or more curves have, and the values there, `[curves, steps]`.

    Example:
        >>> step = np.array([1.0, 2.0])
        >>> aligned([(step, step), (step[1:], step[1:])])[1].tolist()
        [[2.0], [2.0]]
    """
    x = curves[0][0]
    for other, _ in curves[1:]:
        x = np.intersect1d(x, other)
    return x, np.stack([y[np.searchsorted(at, x)] for at, y in curves])


def _ordered(alpha: Alpha) -> tuple[float, ...]:
    return alpha if isinstance(alpha, tuple) else (alpha,)
