"""RunExplorer: the effect of α, r, order of the stages, method and seed, over the runs of a store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import numpy as np

from spgca_lab.explorers import controls as ui
from spgca_lab.explorers import run_grid as grids
from spgca_lab.explorers.as_code import recipe_source
from spgca_lab.explorers.attention import attention_view, entropies, snapshot_step
from spgca_lab.explorers.base import Explorer, State, Ticker
from spgca_lab.explorers.controls import Control, ExplorerError
from spgca_lab.explorers.forward import RunSource
from spgca_lab.explorers.method_orders import method_of, stage_orders, uses_reduction
from spgca_lab.explorers.run_grid import ALL, Cell, Grid, Pair, RunGrids, alpha_text, cell_name
from spgca_lab.explorers.run_table import Alpha
from spgca_lab.explorers.train_missing import TrainMissing, folder_text, writable_store
from spgca_lab.plots.attention import relative_maps
from spgca_lab.plots.panels.attention import AttentionView
from spgca_lab.plots.panels.runs import RUN_HEIGHT, RunsView, run_panel
from spgca_lab.plots.style import LabFigure, method_colour, method_label
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

LAYERS = 4
POLL_SECONDS = 1.0
TABLE_HEAD = ("seed", "status", "final top-1", "duration", "saved", "folder")


@dataclass(frozen=True)
class RunState(State):
    """The cell shown (setting, method, order, α, r, seed) and the view of its attention (layer, image, step).

    `seed` is a number or `"all"`, `layer` counts from 1, `picture` (the image) from 0, and `opacity` of the heatmaps
    lies in 0–1. An empty value or None is chosen from the runs: the paper's order, the cell with most seeds, the last
    step.
    """

    setting: str = ""
    method: str = ""
    order: str = ""
    alpha: Alpha | None = None
    r: int | None = None
    seed: int | str = ALL
    layer: int = 3
    picture: int = 0
    step: int | None = None
    opacity: float = 0.65


class RunExplorer(Explorer[RunState]):
    """α × r × order × method × seed over a store of runs: curves, final top-1, and the chosen cell's attention.

    Curves are means over seeds with a band; the table holds mean ± half the 95 % t interval. Runs are compared within
    one setting, in which all other fields of their recipes are equal. Cells without a run are shown as such, and
    "Train these" trains them in the background: in the store, or in `runs` where the store is shipped or read-only.

    Args:
        store: a `RunStore` or its folder.
        alphas: further α to offer, for methods whose penalty compares feature maps.
        rates: further r to offer, for methods with GCA.
        seeds: further seeds wanted in every cell.
        methods: further methods to offer, as in a recipe.

    Raises:
        ExplorerError: when the store has no run, or the state does not exist.
        MethodError: for an unknown method.

    Example:
        >>> from spgca_lab.data.shipped import data_dir
        >>> explorer = RunExplorer(data_dir() / "runs", alphas=[30.0])
        >>> explorer.show(alpha=30.0)
        >>> explorer.caption(explorer.state)
        'SPA→GCA at α = 30, r = 4 was never trained: press Train these.'
    """

    about = "Runs over α and r: curves, final top-1, attention of the chosen cell"
    details_height = "8.5em"
    status_height = "4.3em"
    tips: ClassVar = {
        "setting": "What all runs compared here share: source S, target data, steps and all else of the recipe",
        "method": "Method of Tables 4 and 5: its stages, trained in turn",
        "order": "Order of the two stages (Table 7): the second begins with T of the first as its source S",
        "alpha": "α, weight of the penalty in Eq. 6, 11, 12",
        "r": "r, reduction rate of GCA's hidden layer (Eq. 9, Table 6)",
        "seed": "Seed of the head, the attention nets, batches and crops; all: mean and interval over them",
        "layer": "Layer i of the attention's maps: the four taps of Table 3",
        "picture": "Image x of the probe batch, whose attention was saved during training",
    }
    table = (
        {"setting": 400, "method": 190, "order": 160},
        {"alpha": 230, "r": 200, "seed": 130, "opacity": 230},
        {"layer": 185, "picture": 185, "step": 280, "play": 0},
        {"training": 0},
    )

    def __init__(
        self,
        store: RunStore | str | Path,
        *,
        alphas: Sequence[float] | None = None,
        rates: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        methods: Sequence[str] | None = None,
        state: RunState | None = None,
    ):
        more: dict[str, Any] = {"alpha": alphas or (), "r": rates or (), "seed": seeds or ()}
        self.store = store if isinstance(store, RunStore) else RunStore(store)
        self.target = writable_store(self.store)
        self.stores = [self.store] if self.target is self.store else [self.store, self.target]
        self.data = RunGrids(self.stores, more, methods or ())
        self.ticker = Ticker(self, "poll", POLL_SECONDS)
        super().__init__(state or RunState(), RUN_HEIGHT)
        if self.data.table.active or self.training.active:
            self.ticker.start()

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the controls and the row that trains missing runs."""
        self.training = TrainMissing(
            self.target, self.missing, self.seconds_per_run, self._launched, self.show_error
        )
        return super().controls()

    def update_controls(self) -> None:
        """Offer what there is now."""
        super().update_controls()
        self.training.update()

    def ranges(self, state: RunState) -> Iterator[Control]:
        """Yield what the runs have, and what was offered beside them."""
        data, settings = self.data, self.data.settings()
        keys = [(name, key) for key, name in settings.items()]
        why = "".join(f"; {key}: {name}" for key, name in settings.items())
        yield Control("setting", keys, "choice", why=why, default=next(iter(settings)))
        methods = data.methods(state.setting)
        usual = "spgca" if "spgca" in methods else methods[0]
        yield Control("method", [(method_label(m), m) for m in methods], "choice", default=usual)
        orders, present = stage_orders(state.method), set(data.runs(state.setting, state.method)["method"])
        trained = [order for order in orders if method_of(state.method, order) in present]
        likely = next(iter(orders if state.method in present else trained or orders), "")
        named = [(_order_text(order), order) for order in orders] or [("one stage", "")]
        yield Control("order", named, "choice", default=likely)
        more = ": the runs have no other; others can be offered with "
        seeds = [(str(seed), seed) for seed in (ALL, *data.seeds(state.setting))]
        yield Control("seed", seeds, "choice", why=f"{more}seeds=[…]", default=ALL)
        grid = self.grid(replace(state, seed=ALL))
        best = max(grid.cells.values(), key=lambda c: (len(c.seeds), c.alpha == 3.0, -c.r))
        alphas = [(alpha_text(a), a) for a in grid.alphas]
        yield Control("alpha", alphas, label="α", why=f"{more}alphas=[…]", default=best.alpha)
        rates = [r for r in grid.rates if r] or [state.r or Recipe.r]
        found = [(str(r), r) for r in rates]
        yield Control("r", found, why=f"{more}rates=[…]", default=best.r or rates[0])
        steps = data.steps(state.setting, state.method)
        yield Control("step", steps, default=steps[-1])
        yield Control("layer", range(1, LAYERS + 1))
        yield Control("picture", range(self._image_count(state)), label="image", default=0)
        yield Control("opacity")

    def adjust(self, state: RunState, given: set[str]) -> RunState:
        """Turn "gca->spa" as a method into the other order of "spgca", and choose what is missing."""
        methods = self.data.methods(state.setting or next(iter(self.data.settings())))
        family = next((m for m in methods if state.method in stage_orders(m)), None)
        if "order" not in given and state.method not in methods and family is not None:
            state = replace(state, method=family, order=state.method)
        return super().adjust(state, given)

    def grid(self, state: RunState | None = None) -> Grid:
        """Return the cells of a state's method and seed."""
        state = state or self.state
        return self.data.grid(state.setting, method_of(state.method, state.order), state.seed)

    def cell(self, state: RunState | None = None) -> Cell:
        """Return the chosen cell."""
        state = state or self.state
        return self.grid(state).cells[_pair(state)]

    def missing(self, everywhere: bool = False) -> list[Recipe]:
        """Return the recipes that the chosen cell, or every cell of its method and order, lacks."""
        grid = self.grid()
        pairs = list(grid.cells) if everywhere else [_pair(self.state)]
        return self.data.missing(self.state.setting, grid, pairs)

    def seconds_per_run(self) -> float | None:
        """Return the expected duration of a missing run, None without a finished one."""
        return self.data.typical_seconds(self.state.setting, self.grid().method)

    def view(self, state: RunState) -> AttentionView | None:
        """Return the attention of the chosen cell at the step, None where none was saved."""
        if (found := self.data.source(self.cell(state))) is None:
            return None
        spatial, channel = (_active_names(found[0], kind, state) for kind in ("spatial", "channel"))
        return attention_view(found[0], state.picture, spatial, channel, int(state.step or 0), cam=False)

    def film(self, state: RunState) -> list[tuple[int, np.ndarray]]:
        """Return (step, map in units of the uniform weight) of the chosen layer at every snapshot."""
        source, _ = self.data.source(self.cell(state)) or (None, None)
        names = _active_names(source, "spatial", state) if source is not None else []
        if source is None or not names:
            return []
        tap, name = source.layers[state.layer - 1], names[0]
        steps = source.steps[name]
        return [(s, relative_maps(source.weights(name, s, state.picture)[tap])[0]) for s in steps]

    def figure(self, state: RunState | None = None) -> LabFigure:
        """Draw curves with bands, the table of α × r, and the attention at the step."""
        state, queued = state or self.state, self.training.queued
        grid, pair, data = self.grid(state), _pair(state), self.data
        places = {(i, j): (a, r) for i, a in enumerate(grid.alphas) for j, r in enumerate(grid.rates)}
        cell = grid.cells[pair]
        finished = data.curves(cell.finished)
        under_way = data.curves(row for row in cell.rows if row.status != "finished")
        loss, top1 = data.bands(cell)
        others = [data.mean(other) for other in grid.cells.values() if other is not cell]
        found = data.source(cell)
        images = found[0].images if found is not None else data.images(state.setting)
        return run_panel(
            RunsView(
                title=cell_name(grid.method, pair),
                colour=method_colour(grid.method),
                alphas=[alpha_text(a) for a in grid.alphas],
                rates=[str(r) if r else "" for r in grid.rates],
                tiles={place: grids.cell_tile(grid.cells[p], queued) for place, p in places.items()},
                chosen=next(place for place, other in places.items() if other == pair),
                limits=data.limits(state.setting, state.method),
                loss=loss,
                top1=top1,
                under_way=[(c.step, c.loss, c.at, c.top1) for c in under_way],
                others=[o for o in others if o is not None],
                why=grids.curve_note(grid, pair, state.seed, queued),
                iterations=data.recipe(state.setting, grid.method, pair).iterations,
                meets=next((c.meets for c in [*finished, *under_way] if c.meets), ()),
                step=int(state.step or 0),
                attention=self.view(state),
                film=self.film(state),
                image=None if images is None else images.images[state.picture],
                mask=None if images is None else images.mask(state.picture),
                no_attention=grids.attention_note(grid, pair, queued),
                layer=state.layer - 1,
                opacity=state.opacity,
            )
        )

    def status(self, state: RunState) -> str:
        """Return the setting, the seeds, the attention's run and entropy, and the folders."""
        cell, grid = self.cell(state), self.grid(state)
        parts = [self.data.settings()[state.setting], cell_name(grid.method, _pair(state))]
        if state.seed != ALL:
            parts.append(f"seed {state.seed}")
        elif cell.seeds:
            parts.append(f"seeds {', '.join(map(str, cell.seeds))}")
        parts.append(f"step {state.step}")
        if (found := self.data.source(cell)) is not None:
            source, run = found
            parts.append(f"layer {state.layer} · image {state.picture}: {source.images.names[state.picture]}")
            parts.append(f"attention of seed {run.seed}")
            for kind in ("spatial", "channel"):
                for name in _active_names(source, kind, state):
                    at = snapshot_step(source.steps[name], int(state.step or 0))
                    values = entropies(source.weights(name, at, state.picture))
                    value = values.get("all", list(values.values())[min(state.layer, len(values)) - 1])
                    parts.append(f"{name} at step {at}: entropy {value:.3f} nats")
        where = " and ".join(folder_text(store.path) for store in self.stores)
        parts.append(f"{len(self.data.runs(state.setting))} runs of {where}")
        if unreadable := self.data.table.unreadable:
            parts.append(f"{len(unreadable)} not readable: {next(iter(unreadable.values()))}")
        return " · ".join(parts)

    def caption(self, state: RunState) -> str:
        """Return the cell's accuracy, and whether the grid differs by more than its seeds do."""
        return grids.cell_caption(self.grid(state), _pair(state), state.seed, self.training.queued)

    def details_html(self, state: RunState) -> str:
        """Return the chosen cell's runs, one per row."""
        rows = grids.seed_rows(self.grid(state), _pair(state), self.training.queued)
        return ui.table_html(TABLE_HEAD, rows, left=2)

    def code(self, state: RunState) -> str:
        """Return the chosen cell's recipe, how to train it, and the call that shows this again."""
        grid = self.grid(state)
        recipe = self.data.recipe(state.setting, grid.method, _pair(state)).replace(seed=grid.seeds[0])
        seeds = f"[recipe.replace(seed=seed) for seed in {list(grid.seeds)}]"
        head = "import spgca_lab as lab\n\n"
        return (
            f"{head}recipe = {recipe_source(recipe)}\n# to train it in the background:\n"
            f"# queue = lab.launch_all({seeds}, {str(self.target.path)!r})\n\n"
            + super().code(state).removeprefix(head)
        )

    def poll(self) -> None:
        """Show what trainings have written since; the reader's choices stay."""
        # Asked before reading, so that whatever a queue wrote before it ended is seen below.
        active = self.training.active
        if self.data.refresh():
            self._show_changes()
        self.training.update()
        if not active and not self.data.table.active:
            self.ticker.stop()

    def _launched(self) -> None:
        self.poll()
        self.ticker.start()

    def _show_changes(self) -> None:
        self.clear_drawn()
        if self.data.table.frame.empty:
            self.show_error(ExplorerError(f"there is no run left in {str(self.store.path)!r}"))
            return
        # A run that was shown may have been deleted.
        self._move(self.adjust(self.state, set()))

    def _image_count(self, state: RunState) -> int:
        images = self.data.images(state.setting)
        return 1 if images is None else len(images)


def _pair(state: RunState) -> Pair:
    assert state.alpha is not None
    r = state.r if uses_reduction(method_of(state.method, state.order)) else None
    return state.alpha, r or 0


def _active_names(source: RunSource, kind: str, state: RunState) -> list[str]:
    """Return the attention of a kind that was trained at the step: of two stages of one kind the later begun."""
    names = [name for name, k in source.kinds.items() if k == kind]
    begun = [name for name in names if source.steps[name][0] <= int(state.step or 0)]
    return begun[-1:] or names[:1]


def _order_text(order: str) -> str:
    return " → ".join(method_label(stage) for stage in order.split("->"))
