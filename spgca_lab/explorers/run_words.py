"""What RunExplorer says of a cell: its name, what it reaches, why it has no number, and its runs one by one."""

from collections.abc import Callable
from pathlib import Path

from spgca_lab.analysis.statistics import mean_interval
from spgca_lab.explorers.grid import ALL, Cell, Grid, alpha_words
from spgca_lab.explorers.method_orders import attends
from spgca_lab.explorers.run_index import Alpha, Entry
from spgca_lab.plots.panels.runs import Tile
from spgca_lab.plots.style import method_label

__all__ = ["caption", "cell_name", "no_attention", "seed_rows", "tile", "why_empty"]

Pair = tuple[Alpha, int | None]
# Whether the run of a folder waits for its turn: its files look like those of one that was begun and left.
Queued = Callable[[Path], bool]
MOST = 120


def cell_name(method: str, alpha: Alpha, r: int | None) -> str:
    """A cell in words.

    Example:
        >>> cell_name("spgca", 3.0, 4), cell_name("l2", 0.0001, None)
        ('SPA→GCA at α = 3, r = 4', 'L2 at α = 0.0001')
    """
    return f"{method_label(method)} at α = {alpha_words(alpha)}" + (f", r = {r}" if r is not None else "")


def caption(grid: Grid, pair: Pair, seed: int | str, queued: Queued) -> str:
    """One sentence: what a cell reaches, and whether the cells differ by more than their seeds do."""
    cell, name = grid.cells[pair], cell_name(grid.method, *pair)
    n = len(cell.finished)
    if not n:
        return why_empty(grid, pair, seed, queued) + "."
    alike = [float(c.top1.mean()) for c in grid.comparable(pair)]
    apart = max(alike) - min(alike)
    if n == 1:
        words = (
            f"{name} reaches {cell.top1[0]:.1f} % with seed {cell.seeds[0]} alone, so there is no interval"
        )
        others = f"the {len(alike)} cells of this seed span {apart:.1f} points"
    else:
        found = mean_interval(cell.top1)
        words = f"{name} reaches {found:.1f} % over {n} seeds (95 % t interval)"
        less = "less" if apart < 2 * found.half else "more"
        others = (
            f"the {len(alike)} cells of these seeds span {apart:.1f} points, {less} than the "
            f"{2 * found.half:.1f} points from end to end of that interval"
        )
    if len(alike) < 2:
        others = "no other cell here has the same seeds to compare with"
    return f"{words}; {others}."


def why_empty(grid: Grid, pair: Pair, seed: int | str, queued: Queued) -> str:
    """Why a cell has no number, as a sentence without its full stop."""
    cell, name = grid.cells[pair], cell_name(grid.method, *pair)
    if not cell.runs:
        return f"{name} was never trained{'' if seed == ALL else f' with seed {seed}'}: press Train these"
    entry = _foremost(cell)
    name = f"{name} (seed {entry.seed})"
    if entry.active:
        return f"{name} is {entry.status}, {entry.percent} % of its steps done"
    if entry.status == "failed":
        return f"{name} failed: {entry.failure}; Train these starts it again"
    if entry.status == "begun" and not entry.percent and queued(entry.run.path):
        return f"{name} waits for its turn"
    if entry.status == "begun" and not entry.percent:
        return f"{name} was never begun; Train these starts it"
    return (
        f"{name} was {entry.status} and left at {entry.percent} % of its steps; Train these goes on with it"
    )


def no_attention(grid: Grid, pair: Pair, queued: Queued) -> str:
    """Why a cell has no attention to show."""
    runs, name = grid.cells[pair].runs, cell_name(grid.method, *pair)
    if not attends(grid.method):
        return f"{method_label(grid.method)} has no attention"
    if not runs:
        return f"{name} was never trained, so there is no attention to show"
    if all(entry.run.recipe.snapshots == 0 for entry in runs):
        return "trained with snapshots=0: no attention was kept"
    if any(entry.status == "finished" for entry in runs):
        seeds = [str(entry.seed) for entry in runs]
        return (
            f"shipped without its snapshots: {name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
        )
    return f"no snapshot yet: {_said(_foremost(grid.cells[pair]), queued)}"


def tile(cell: Cell, queued: Queued) -> Tile:
    """A cell of the table: mean ± half the 95 % t interval of its seeds, or what became of its runs."""
    going = next((entry for entry in cell.runs if entry.active), None)
    done = going.percent / 100 if going is not None else None
    if cell.finished:
        found, more = mean_interval(cell.top1), len(cell.runs) - len(cell.finished)
        first = f"{found.mean:.1f}" if found.n < 2 else f"{found:.1f}"
        second = "1 seed" if found.n == 1 else f"{found.n} seeds"
        if more:
            second += f" + {going.status}" if going is not None else f" + {more} not done"
        return Tile((first, second), found.mean, done=done, n=found.n)
    if not cell.runs:
        return Tile(("not trained", ""), status="never")
    entry = _foremost(cell)
    said = _said(entry, queued)
    first, _, second = said.partition(" ") if said.endswith("%") else (said, "", "")
    return Tile((first, second), status=entry.status, done=done)


def seed_rows(grid: Grid, pair: Pair, queued: Queued) -> list[list[str]]:
    """The wanted runs of a cell: seed, status, final top-1, seconds, what was kept, folder."""
    runs = {entry.seed: entry for entry in grid.cells[pair].runs}
    rows = []
    for seed in grid.seeds:
        entry = runs.get(seed)
        if entry is None:
            rows.append([str(seed), "not trained", "", "", "", ""])
            continue
        said = f"{_said(entry, queued)} {entry.failure}".strip()
        top1 = "" if entry.top1 is None else f"{entry.top1:.2f} %"
        took = "" if entry.seconds is None else f"{entry.seconds:.0f} s"
        weights = (entry.run.path / "weights.safetensors").exists()
        kept = [name for name, there in (("attention", entry.steps), ("weights", weights)) if there]
        if not kept and entry.status == "finished":
            kept = ["tables only"]
        rows.append([str(seed), said[:MOST], top1, took, ", ".join(kept), entry.run.path.name])
    return rows


def _foremost(cell: Cell) -> Entry:
    """The run that says most of a cell without a result: one that is under way, else the lowest seed's."""
    return next((entry for entry in cell.runs if entry.active), cell.runs[0])


def _said(entry: Entry, queued: Queued) -> str:
    if entry.status == "begun" and not entry.percent:
        return "waiting" if queued(entry.run.path) else "not begun"
    return entry.status if entry.status in ("failed", "finished") else f"{entry.status} {entry.percent} %"
