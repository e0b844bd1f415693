"""RunExplorer: what α, r, the order of the stages, the method and the seed do, over the runs of a store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from spgca_lab.explorers.attention import attention_view, entropies, snapshot_step
from spgca_lab.explorers.attention_sources import RunSource
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.code import spell_recipe
from spgca_lab.explorers.grid import ALL, Cell, Grid, alpha_words
from spgca_lab.explorers.method_orders import method_of, orders, reduces
from spgca_lab.explorers.parts import (
    ExplorerError,
    choice,
    need_index,
    need_one_of,
    need_share,
    offer,
    opacity_control,
    picker,
    row,
    slider,
    step_controls,
    table_html,
)
from spgca_lab.explorers.run_data import Pair, RunData
from spgca_lab.explorers.run_index import Alpha
from spgca_lab.explorers.run_words import caption, cell_name, no_attention, seed_rows, tile, why_empty
from spgca_lab.explorers.ticker import Ticker
from spgca_lab.explorers.train_these import TrainThese, place_for, place_words
from spgca_lab.plots.attention import relative_maps
from spgca_lab.plots.panels.attention import AttentionView
from spgca_lab.plots.panels.runs import RUN_HEIGHT, RunsView, run_panel
from spgca_lab.plots.style import LabFigure, method_colour, method_label
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["RunExplorer", "RunState"]

LAYERS = 4
EVERY = 1.0


@dataclass(frozen=True)
class RunState(State):
    """The cell shown: setting, method and order, α, r and seed; and what of its attention: layer, picture, step.

    `seed` is a number or `"all"`; `layer` counts from 1, `picture` from 0; `opacity` is the heatmaps', 0–1. What
    is empty or None is chosen from the runs: the paper's order, the cell with most seeds, the last step.
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

    Curves are means over seeds with a band, the table holds mean ± half the 95 % t interval. Runs are compared within
    one setting: what else their recipes say is equal. Cells that were never trained are shown as such, and "Train
    these" starts them in the background: into the store, or into `runs` where the store is shipped or read-only; the
    explorer reads both.

    Args:
        store: a `RunStore` or its folder.
        alphas: α to offer besides those of the runs, for methods whose penalty is one of feature maps.
        rates: r to offer besides, for methods with GCA.
        seeds: to want in every cell besides those of the runs.
        methods: to offer besides, as in a recipe.
        state: what to show first.

    Raises:
        ExplorerError: when the store has no run, or the state does not exist.
        MethodError: for an unknown method.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> explorer = RunExplorer(data_dir() / "runs", alphas=[30.0])
        >>> explorer.show(alpha=30.0)
        >>> explorer.caption(explorer.state)
        'SPA→GCA at α = 30, r = 4 was never trained: press Train these.'
    """

    about = "Runs over α and r: curves, final top-1, attention of the chosen cell"
    details_height = "8.5em"
    status_height = "4.3em"

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
        self.store = store if isinstance(store, RunStore) else RunStore(store)
        self.target = place_for(self.store)
        stores = [self.store] if self.target is self.store else [self.store, self.target]
        self.data = RunData(stores, alphas=alphas, rates=rates, seeds=seeds, methods=methods)
        self.ticker = Ticker(self, "poll", EVERY)
        given: dict[str, Any] = {
            "store": store,
            "alphas": alphas,
            "rates": rates,
            "seeds": seeds,
            "methods": methods,
        }
        given["state"] = state
        asked = {n for n, v in state.to_dict().items() if v != getattr(RunState(), n)} if state else set()
        super().__init__(self.settle(state or RunState(), asked), RUN_HEIGHT, given)
        if self.data.index.active or self.training.active:
            self.ticker.start()

    def controls(self) -> list[widgets.Widget]:
        """Setting, method and order; α, r and seed; layer, picture and step; and what trains."""
        tip = "What all runs compared here share: source S, target data, steps and all else of the recipe"
        self.setting_choice = self.bind(picker("setting", [], tip=tip, width="400px"), "setting")
        self.method_choice = self.bind(
            picker("method", [], tip="Method of Tables 4 and 5: its stages, trained in turn", width="190px"),
            "method",
        )
        tip = "Order of the two stages (Table 7): the second begins with T of the first as its source S"
        self.order_choice = self.bind(picker("order", [], tip=tip, width="160px"), "order")
        tip = "α, weight of the penalty in Eq. 6, 11, 12"
        self.alpha_slider = self.bind(choice("α", [0.0], tip=tip, width="230px", live=True), "alpha")
        tip = "r, reduction rate of GCA's hidden layer (Eq. 9, Table 6)"
        self.r_slider = self.bind(choice("r", [0], tip=tip, live=True), "r")
        tip = "Seed of the head, the attention nets, batches and crops; all: mean and interval over them"
        self.seed_choice = self.bind(picker("seed", [], tip=tip, width="130px"), "seed")
        tip = "Layer i of the attention's maps: the four taps of Table 3"
        self.layer_slider = self.bind(
            slider("layer", LAYERS, least=1, tip=tip, width="185px", live=True), "layer"
        )
        tip = "Picture x of the probe batch, whose attention was kept during training"
        self.picture_slider = self.bind(slider("picture", 0, tip=tip, width="185px", live=True), "picture")
        self.step_slider, self.play = step_controls([0])
        self.bind(self.step_slider, "step")
        self.opacity_slider = self.bind(opacity_control(), "opacity")
        self.training = TrainThese(self.target, self.missing, self.pace, self._launched, self.fail)
        return [
            row(self.setting_choice, self.method_choice, self.order_choice),
            row(self.alpha_slider, self.r_slider, self.seed_choice, self.opacity_slider),
            row(self.layer_slider, self.picture_slider, self.step_slider, self.play),
            self.training,
        ]

    def sync(self) -> None:
        """The controls offer what there is now."""
        state, grid = self.state, self.grid(self.state)
        label = {method: method_label(method) for method in self.data.methods(state.setting)}
        offer(self.setting_choice, [(name, key) for key, name in self.data.settings().items()])
        offer(self.method_choice, [(label[m], m) for m in label])
        both = [(_in_order(o), o) for o in orders(state.method)]
        offer(self.order_choice, both or [("one stage", "")])
        offer(self.alpha_slider, [(alpha_words(a), a) for a in grid.alphas])
        rates = [r for r in grid.rates if r is not None]
        offer(self.r_slider, [(str(r), r) for r in rates] or [(str(state.r), state.r)])
        self.r_slider.disabled = not rates
        offer(self.seed_choice, [(str(s), s) for s in (ALL, *self.data.seeds(state.setting))])
        pictures = self.data.pictures(state.setting)
        self.picture_slider.max = 0 if pictures is None else len(pictures) - 1
        steps = self.data.steps(state.setting, state.method)
        if list(self.step_slider.options) != steps:
            self.step_slider.options = steps
            self.play.max = len(steps) - 1
        super().sync()
        self.training.describe()

    def settle(self, state: RunState, given: set[str]) -> RunState:
        """Choose what is empty, and what does not occur in the setting or with the method that was chosen."""
        settings = self.data.settings()
        state = _filled(state, "setting", list(settings), next(iter(settings)), given)
        if state.setting not in settings:
            return state
        methods = self.data.methods(state.setting)
        if "order" not in given and state.method not in methods:
            # "gca->spa" as a method is the other order of "spgca".
            for method in methods:
                if state.method in orders(method):
                    state = replace(state, method=method, order=state.method)
        state = _filled(state, "method", methods, _first_of(methods), given)
        if state.method not in methods:
            return state
        trained = [method_of(o) for o in orders(state.method) if self.data.count(state.setting, method_of(o))]
        likely = state.method if state.method in trained or not trained else trained[0]
        order = next(iter(orders(likely)), "")
        state = _filled(state, "order", list(orders(state.method)) or [""], order, given)
        state = _filled(state, "seed", [ALL, *self.data.seeds(state.setting)], ALL, given)
        if state.order not in (orders(state.method) or ("",)):
            return state
        grid = self.grid(replace(state, seed=ALL))
        best = max(grid.cells.values(), key=lambda c: (len(c.finished), c.alpha == 3.0, -(c.r or 0)))
        state = _filled(state, "alpha", list(grid.alphas), best.alpha, given)
        if reduces(grid.method) or state.r is None:
            rates = [r for r in grid.rates if r is not None]
            state = _filled(state, "r", rates or [Recipe.r], best.r or Recipe.r, given)
        steps, pictures = self.data.steps(state.setting, state.method), self.data.pictures(state.setting)
        state = _filled(state, "step", steps, steps[-1], given)
        count = 1 if pictures is None else len(pictures)
        if "picture" not in given and isinstance(state.picture, int) and state.picture >= count:
            state = replace(state, picture=0)
        return state

    def check(self, state: RunState) -> None:
        """Every value must be one of those offered; the cell need not have been trained."""
        names = self.data.settings()
        why = "".join(f"; {key}: {name}" for key, name in names.items())
        need_one_of("setting", state.setting, list(names), why)
        need_one_of("method", state.method, self.data.methods(state.setting))
        need_one_of("order", state.order, list(orders(state.method)) or [""])
        grid = self.grid(replace(state, seed=ALL))
        more = ": the runs have no other; others can be offered with {}=[…]"
        need_one_of("alpha", state.alpha, list(grid.alphas), more.format("alphas"))
        if reduces(grid.method):
            need_one_of("r", state.r, list(grid.rates), more.format("rates"))
        need_one_of("seed", state.seed, [ALL, *self.data.seeds(state.setting)], more.format("seeds"))
        need_one_of("step", state.step, self.data.steps(state.setting, state.method))
        need_index("layer", state.layer, LAYERS, first=1)
        pictures = self.data.pictures(state.setting)
        need_index("picture", state.picture, 1 if pictures is None else len(pictures))
        need_share("opacity", state.opacity)

    def grid(self, state: RunState | None = None) -> Grid:
        """The cells of a state's method and seed."""
        state = state or self.state
        return self.data.grid(state.setting, method_of(state.method, state.order), state.seed)

    def cell(self, state: RunState | None = None) -> Cell:
        """The chosen cell."""
        state = state or self.state
        return self.grid(state).cells[self._pair(state)]

    def missing(self, everywhere: bool = False) -> list[Recipe]:
        """Recipes that the chosen cell, or every cell of its method and order, still lacks."""
        grid = self.grid()
        pairs = list(grid.cells) if everywhere else [self._pair(self.state)]
        return self.data.missing(self.state.setting, grid, pairs)

    def pace(self) -> float | None:
        """Seconds that one of the missing runs will take, None when no run tells."""
        return self.data.pace(self.state.setting, self.grid().method)

    def view(self, state: RunState) -> AttentionView | None:
        """The attention of the chosen cell at the step, None where none was kept."""
        found = self.data.source(self.cell(state))
        if found is None:
            return None
        source = found[0]
        spatial, channel = (_at_work(source, kind, state) for kind in ("spatial", "channel"))
        return attention_view(source, state.picture, spatial, channel, int(state.step or 0), cam=False)

    def film(self, state: RunState) -> list[tuple[int, np.ndarray]]:
        """(step, map in units of the uniform weight) of the chosen layer at every snapshot."""
        found = self.data.source(self.cell(state))
        names = _at_work(found[0], "spatial", state) if found is not None else []
        if found is None or not names:
            return []
        source = found[0]
        tap = source.layers[state.layer - 1]
        return [
            (step, relative_maps(source.weights(names[0], step, state.picture)[tap])[0])
            for step in source.steps[names[0]]
        ]

    def figure(self, state: RunState | None = None) -> LabFigure:
        """Curves with bands, the table of α × r, and the attention at the step."""
        state = state or self.state
        grid, pair = self.grid(state), self._pair(state)
        places = {(i, j): (a, r) for i, a in enumerate(grid.alphas) for j, r in enumerate(grid.rates)}
        chosen = next(place for place, other in places.items() if other == pair)
        cell, data = grid.cells[pair], self.data
        finished = data.curves(cell.finished)
        under_way = data.curves(entry for entry in cell.runs if entry.status != "finished")
        loss, top1 = data.bands(cell)
        others = [data.mean(other) for other in grid.cells.values() if other is not cell and other.finished]
        found, pictures = data.source(cell), data.pictures(state.setting)
        pictures = found[0].pictures if found is not None else pictures
        return run_panel(
            RunsView(
                title=self._name(state),
                colour=method_colour(grid.method),
                alphas=[alpha_words(a) for a in grid.alphas],
                rates=["" if r is None else str(r) for r in grid.rates],
                tiles={place: tile(grid.cells[p], self.training.queued) for place, p in places.items()},
                chosen=chosen,
                limits=data.limits(state.setting, state.method),
                loss=loss,
                top1=top1,
                under_way=[(c.step, c.loss, c.at, c.top1) for c in under_way],
                others=[o for o in others if o is not None],
                why=why_empty(grid, pair, state.seed, self.training.queued),
                iterations=data.recipe(state.setting, grid.method, pair).iterations,
                meets=next((c.meets for c in [*finished, *under_way] if c.meets), ()),
                step=int(state.step or 0),
                attention=self.view(state),
                film=self.film(state),
                image=None if pictures is None else pictures.images[state.picture],
                mask=None if pictures is None else pictures.mask(state.picture),
                no_attention=no_attention(grid, pair, self.training.queued),
                layer=state.layer - 1,
                opacity=state.opacity,
            )
        )

    def status(self, state: RunState) -> str:
        """The setting, the seeds, whose attention is shown and how even it is, and where the runs lie."""
        cell = self.cell(state)
        words = [self.data.settings()[state.setting], self._name(state)]
        if state.seed != ALL:
            words.append(f"seed {state.seed}")
        elif cell.finished:
            words.append(f"seeds {', '.join(map(str, cell.seeds))}")
        words.append(f"step {state.step}")
        found = self.data.source(cell)
        if found is not None:
            source, entry = found
            words.append(
                f"layer {state.layer} · picture {state.picture}: {source.pictures.names[state.picture]}"
            )
            words.append(f"attention of seed {entry.seed}")
            for kind in ("spatial", "channel"):
                for name in _at_work(source, kind, state):
                    at = snapshot_step(source.steps[name], int(state.step or 0))
                    even = entropies(source.weights(name, at, state.picture))
                    value = even.get("all", list(even.values())[min(state.layer, len(even)) - 1])
                    words.append(f"{name} at step {at}: entropy {value:.3f} nats")
        index = self.data.index
        where = " and ".join(place_words(store.path) for store in index.stores)
        words.append(f"{len(self.data.here(state.setting))} runs of {where}")
        if index.broken:
            words.append(f"{len(index.broken)} not readable: {next(iter(index.broken.values()))}")
        return " · ".join(words)

    def caption(self, state: RunState) -> str:
        """What the cell reaches, and whether the grid differs by more than its seeds do."""
        return caption(self.grid(state), self._pair(state), state.seed, self.training.queued)

    def details_html(self, state: RunState) -> str:
        """The chosen cell's runs, one a row."""
        head = ["seed", "status", "final top-1", "took", "kept", "folder"]
        rows = seed_rows(self.grid(state), self._pair(state), self.training.queued)
        return table_html(head, rows, left=2)

    def code(self, state: RunState) -> str:
        """The chosen cell's recipe, how to train it, and the call that shows this again."""
        grid = self.grid(state)
        seeds = grid.seeds
        recipe = self.data.recipe(state.setting, grid.method, self._pair(state)).replace(seed=seeds[0])
        head, rest = "import spgca_lab as lab\n\n", f"for seed in {list(seeds)}"
        call = super().code(state)
        return (
            f"{head}recipe = {spell_recipe(recipe)}\n# to train it in the background:\n"
            f"# queue = lab.launch_all([recipe.replace(seed=seed) {rest}], {str(self.target.path)!r})\n\n"
            + call.removeprefix(head)
        )

    def poll(self) -> None:
        """Look for what trainings have written since; what the reader set stays."""
        # Asked before looking: whatever a queue that is over by now has written is seen below.
        active = self.training.active
        if self.data.refresh():
            self._changed()
        self.training.describe()
        if not active and not self.data.index.active:
            self.ticker.stop()

    def close(self) -> None:
        """Take it off the page; what trains goes on, and the next explorer of its folder can stop it."""
        if "ticker" in self.__dict__:  # not where the constructor refused, nor the second time
            self.ticker.stop()
        super().close()

    def _launched(self) -> None:
        self.poll()
        self.ticker.start()

    def _changed(self) -> None:
        self.forget_drawn()
        if not self.data.index.entries:
            self.fail(ExplorerError(f"there is no run left in {str(self.store.path)!r}"))
            return
        try:
            self.check(self.state)
        except ExplorerError:  # a run that was shown has been deleted
            self._state = self.settle(self.state, set())
        self._follow()
        self.refresh()

    def _pair(self, state: RunState) -> Pair:
        method = method_of(state.method, state.order)
        assert state.alpha is not None
        return state.alpha, state.r if reduces(method) else None

    def _name(self, state: RunState) -> str:
        return cell_name(method_of(state.method, state.order), *self._pair(state))


def _at_work(source: RunSource, kind: str, state: RunState) -> list[str]:
    """The attention of a kind that was at work at the step: of two stages of one kind the one begun last."""
    names = [name for name, k in source.kinds.items() if k == kind]
    begun = [name for name in names if source.steps[name][0] <= int(state.step or 0)]
    return begun[-1:] or names[:1]


def _filled(state: RunState, name: str, known: Sequence[Any], default: Any, given: set[str]) -> RunState:
    value = getattr(state, name)
    if value in (None, "") or (value not in known and name not in given):
        return replace(state, **{name: default})
    return state


def _first_of(methods: Sequence[str]) -> str:
    return "spgca" if "spgca" in methods else methods[0]


def _in_order(order: str) -> str:
    return " → ".join(method_label(stage) for stage in order.split("->"))
