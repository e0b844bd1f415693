"""RunExplorer: what α and r do, over runs that are there already, and a live pass of the one chosen."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from spgca_lab.plots.attention import relative_maps
from spgca_lab.plots.panels import RUN_HEIGHT, AttentionView, run_panel
from spgca_lab.plots.style import LabFigure, method_label
from spgca_lab.runs import Run, RunStore
from spgca_lab.widgets.attention import (
    attention_view,
    entropies,
    need_opacity,
    opacity_control,
    snapshot_step,
    step_controls,
)
from spgca_lab.widgets.attention_sources import RunSource, pictures_of_run
from spgca_lab.widgets.base import (
    Explorer,
    ExplorerError,
    State,
    alert,
    fixed_html,
    need_index,
    row,
    slider,
)
from spgca_lab.widgets.live import LiveExplorer

__all__ = ["RunExplorer", "RunState"]


@dataclass(frozen=True)
class RunState(State):
    """α and r, layer (1–4), probe picture (from 0), training step and the heatmaps' opacity (0–1)."""

    alpha: float
    r: int
    layer: int = 3
    picture: int = 0
    step: int = 0
    opacity: float = 0.65


class RunExplorer(Explorer[RunState]):
    """Sliders for α, r, layer, picture and training step over the runs of one method, and a live forward pass.

    Every α and r that occurs in the store can be chosen; a pair that was never trained says so. Where several runs
    share a pair (seeds), curves and attention are those of the lowest seed and the table shows their mean.

    Args:
        store: a `RunStore` or its folder.
        method: whose runs.
        live: add the live forward pass below.
        state: what to show first; None takes a run that was kept with its weights, at its last step.

    Raises:
        ExplorerError: when the store has no run of the method with one α for all stages.

    Example:
        >>> RunExplorer("data/runs").show(alpha=10.0, step=100)   # doctest: +SKIP
    """

    def __init__(
        self,
        store: RunStore | str | Path,
        method: str = "spgca",
        *,
        live: bool = True,
        state: RunState | None = None,
    ):
        self.store = store if isinstance(store, RunStore) else RunStore(store)
        self.method = method
        found = [run for run in self.store.find(method=method) if isinstance(run.recipe.alpha, float)]
        found = [run for run in found if run.status == "finished"]
        if not found:
            raise ExplorerError(
                f"no finished run of {method!r} with one α in {str(self.store.path)!r}: "
                "train some with lab.fit or `spgca-lab fit`"
            )
        found.sort(key=lambda run: (run.recipe.seed, _alpha(run), run.recipe.r))
        self.groups: dict[tuple[float, int], list[Run]] = {}
        for run in found:
            self.groups.setdefault((_alpha(run), run.recipe.r), []).append(run)
        self.alphas = sorted({alpha for alpha, _ in self.groups})
        self.rates = sorted({r for _, r in self.groups})
        self.cells = {
            pair: float(np.mean([(run.result or {})["top1"] for run in runs]))
            for pair, runs in self.groups.items()
        }
        self.curves = lru_cache(maxsize=64)(lambda pair: (self._run(pair).steps, self._run(pair).evaluations))
        self.source = lru_cache(maxsize=64)(lambda pair: RunSource([self._run(pair)]))
        shown = next((run for run in found if (run.path / "weights.safetensors").exists()), found[0])
        self.pictures = pictures_of_run(shown)
        steps = {step for run in found for snapshot in run.snapshots() for step in [snapshot.step]}
        self.steps = sorted(steps | {shown.recipe.iterations})
        self.layer_count = len(self.source((_alpha(shown), shown.recipe.r)).layers)
        state = state or RunState(_alpha(shown), shown.recipe.r, layer=self.layer_count, step=self.steps[-1])
        super().__init__(state, RUN_HEIGHT)
        self.live: LiveExplorer | None = None
        if live:
            self._add_live(shown)

    def controls(self) -> list[widgets.Widget]:
        """Sliders for α and r, layer, picture and step, with a play button."""
        self.alpha_slider = self.bind(_values("α", [(f"{a:g}", a) for a in self.alphas]), "alpha")
        self.r_slider = self.bind(_values("r", [(str(r), r) for r in self.rates]), "r")
        self.layer_slider = self.bind(slider("layer", self.layer_count, least=1, width="190px"), "layer")
        self.picture_slider = self.bind(slider("picture", len(self.pictures) - 1), "picture")
        self.step_slider, self.play = step_controls(self.steps)
        self.bind(self.step_slider, "step")
        self.opacity_slider = self.bind(opacity_control(), "opacity")
        return [
            row(self.alpha_slider, self.r_slider, self.layer_slider, self.opacity_slider),
            row(self.picture_slider, self.step_slider, self.play),
        ]

    def check(self, state: RunState) -> None:
        """α, r and step must occur in the store; the pair need not."""
        for name, value, known in (("alpha", state.alpha, self.alphas), ("r", state.r, self.rates)):
            if value not in known:
                raise ExplorerError(f"{name} must be one of {known}, got {value!r}: no run has another")
        if state.step not in self.steps:
            raise ExplorerError(f"step must be one of {self.steps}, got {state.step!r}")
        need_index("layer", state.layer, self.layer_count, first=1)
        need_index("picture", state.picture, len(self.pictures))
        need_opacity(state.opacity)

    def show(self, **values: Any) -> None:
        """Show other values; the controls follow, and so does the live pass.

        Raises:
            ExplorerError: naming the value and what it could be; then nothing changes.
        """
        super().show(**values)
        if self.live is not None:
            self._follow_live()

    def run(self, state: RunState | None = None) -> Run | None:
        """The run shown, None where this pair was never trained."""
        state = state or self.state
        group = self.groups.get((state.alpha, state.r))
        return group[0] if group else None

    def view(self, state: RunState) -> AttentionView | None:
        """The chosen run's attention on the picture, None where this pair was never trained."""
        if self.run(state) is None:
            return None
        source = self.source((state.alpha, state.r))
        return attention_view(source, state.picture, *self._names(source), state.step, cam=False)

    def film(self, state: RunState) -> list[tuple[int, np.ndarray]]:
        """(step, map in units of the uniform weight) of the chosen layer at every snapshot."""
        if self.run(state) is None:
            return []
        source = self.source((state.alpha, state.r))
        name = self._names(source)[0]
        if name is None:
            return []
        tap = source.layers[state.layer - 1]
        return [
            (s, relative_maps(source.weights(name, s, state.picture)[tap])[0]) for s in source.steps[name]
        ]

    def figure(self, state: RunState | None = None) -> LabFigure:
        """Curves, the table of final accuracies, and the attention at the step."""
        state = state or self.state
        pair = (state.alpha, state.r)
        trained = self.run(state) is not None
        return run_panel(
            self.curves(pair) if trained else None,
            [self.curves(other) for other in self.groups if other != pair],
            self.cells,
            pair,
            self.view(state),
            self.film(state),
            state.step,
            state.layer - 1,
            state.opacity,
        )

    def status(self, state: RunState) -> str:
        """The values shown and what they give, in words."""
        words = [f"{method_label(self.method)} · α = {state.alpha:g} · r = {state.r}"]
        run = self.run(state)
        if run is None:
            recipe = next(iter(self.groups.values()))[0].recipe
            words.append("not trained: this pair is not among the runs; train it with lab.fit")
            words.append(f"recipe.replace(alpha={state.alpha:g}, r={state.r}) of {recipe.hash()}")
            return " · ".join(words)
        words.append(f"step {state.step} of {run.recipe.iterations}")
        words.append(f"layer {state.layer} · picture {state.picture}: {self.pictures.names[state.picture]}")
        source = self.source((state.alpha, state.r))
        for name in self._names(source):
            if name is not None:
                at = snapshot_step(source.steps[name], state.step)
                values = entropies(source.weights(name, at, state.picture))
                value = values.get("all", list(values.values())[min(state.layer, len(values)) - 1])
                words.append(f"{name} at step {at}: entropy {value:.3f} nats")
        words.append(f"final top-1 {self.cells[state.alpha, state.r]:.1f} %")
        return " · ".join(words)

    def _run(self, pair: tuple[float, int]) -> Run:
        return self.groups[pair][0]

    def _names(self, source: RunSource) -> tuple[str | None, str | None]:
        spatial = [name for name, kind in source.kinds.items() if kind == "spatial"]
        channel = [name for name, kind in source.kinds.items() if kind == "channel"]
        return (spatial[-1] if spatial else None), (channel[-1] if channel else None)

    def _add_live(self, run: Run) -> None:
        heading = widgets.HTML("<b>Live forward pass</b> of the run chosen above")
        try:
            self.live = LiveExplorer(self.store, run)
        except Exception as error:  # a folder of pictures that has moved must not take the runs away, too
            missing = fixed_html("3em")
            missing.value = alert(error)
            self.children = [*self.children, heading, missing]
            return
        self.children = [*self.children, heading, self.live]
        self._follow_live()

    def _follow_live(self) -> None:
        run = self.run()
        if self.live is None or run is None:
            return
        try:
            self.live.show(run=run.recipe.hash(), layer=self.state.layer)
        except Exception as error:  # a data set that has moved must not stop the sliders above
            self.live.fail(error)


def _alpha(run: Run) -> float:
    return float(run.recipe.alphas[0])


def _values(description: str, options: list[tuple[str, Any]]) -> widgets.SelectionSlider:
    return widgets.SelectionSlider(
        options=options,
        description=description,
        continuous_update=False,
        layout=widgets.Layout(width="200px"),
        style={"description_width": "initial"},
    )
