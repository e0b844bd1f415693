"""LiveExplorer: a forward pass of a run's networks on any picture, the test set's or one's own."""

from dataclasses import dataclass
from functools import lru_cache

import ipywidgets as widgets
import numpy as np
import torch
from torch import Tensor

from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.plots.panels import LIVE_HEIGHT, live_panel
from spgca_lab.plots.style import LabFigure, method_label
from spgca_lab.recipe import Recipe
from spgca_lab.runs import Run, RunError, RunStore
from spgca_lab.training import load_data
from spgca_lab.widgets.base import Explorer, ExplorerError, State, need_index, row, slider
from spgca_lab.widgets.nets import Pictures, TrainedRun, load_run, map_of, tapped

__all__ = ["LiveExplorer", "LiveState"]

TEST_PER_CLASS = 2
ANSWERS = 4


@dataclass(frozen=True)
class LiveState(State):
    """Run (its hash), picture (from 0), layer (1–4), and a folder of one's own pictures ("": the test set)."""

    run: str
    picture: int = 0
    layer: int = 3
    folder: str = ""


@dataclass(frozen=True)
class _Pass:
    maps_s: dict[str, Tensor]
    maps_t: dict[str, Tensor] | None
    attention: dict[str, Tensor] | None
    answers_s: list[tuple[str, float]]
    answers_t: list[tuple[str, float]]


class LiveExplorer(Explorer[LiveState]):
    """S's and T's maps, where they differ, the run's own attention, and T's answer, computed when asked.

    Args:
        store: runs to choose from.
        run: which to begin with (None: the first that was kept with its weights).
        state: what to show first; overrides `run`.

    Raises:
        ExplorerError: when the store is empty.

    Example:
        >>> LiveExplorer(RunStore("data/runs")).show(picture=3, layer=2)   # doctest: +SKIP
    """

    def __init__(self, store: RunStore, run: Run | None = None, state: LiveState | None = None):
        self.runs = {found.recipe.hash(): found for found in store}
        if not self.runs:
            raise ExplorerError(f"there are no runs in {str(store.path)!r}: train one with lab.fit")
        kept = [found for found in self.runs.values() if (found.path / "weights.safetensors").exists()]
        first = run or (kept[0] if kept else next(iter(self.runs.values())))
        self.kept = kept
        self.pictures = lru_cache(maxsize=4)(self._pictures)
        self.nets = lru_cache(maxsize=4)(load_run)
        self.source = lru_cache(maxsize=2)(load_backbone)
        self.forward = lru_cache(maxsize=64)(self._forward)
        super().__init__(state or LiveState(run=first.recipe.hash()), LIVE_HEIGHT)

    def controls(self) -> list[widgets.Widget]:
        """Picture, layer and folder; the run is chosen by `show(run=…)`."""
        self.picture_slider = self.bind(slider("live picture", 0), "picture")
        self.layer_slider = self.bind(slider("live layer", 4, least=1), "layer")
        self.folder_text = self.bind(
            widgets.Text(
                description="folder",
                placeholder="your own pictures; empty: the test set",
                continuous_update=False,
                layout=widgets.Layout(width="330px"),
                style={"description_width": "initial"},
            ),
            "folder",
        )
        return [row(self.picture_slider, self.layer_slider, self.folder_text)]

    def sync(self) -> None:
        """The sliders go as far as there are pictures and layers."""
        state = self.state
        self.picture_slider.max = len(self.pictures(state.run, state.folder)) - 1
        super().sync()

    def settle(self, state: LiveState, given: set[str]) -> LiveState:
        """Another folder or run begins with its first picture, where the old one's number does not exist."""
        if given & {"folder", "run"} and "picture" not in given and state.run in self.runs:
            count = len(self.pictures(state.run, state.folder))
            if isinstance(state.picture, int) and state.picture >= count:
                return LiveState(state.run, 0, state.layer, state.folder)
        return state

    def check(self, state: LiveState) -> None:
        """Run, picture and layer must exist."""
        if state.run not in self.runs:
            raise ExplorerError(f"run must be the hash of one of {len(self.runs)} runs, got {state.run!r}")
        need_index("layer", state.layer, len(self._backbone(state.run).taps), first=1)
        need_index("picture", state.picture, len(self.pictures(state.run, state.folder)))

    def _backbone(self, run: str) -> Backbone:
        recipe = self.runs[run].recipe
        return self.source(recipe.backbone, recipe.weights)

    def _pictures(self, run: str, folder: str) -> Pictures:
        recipe = self.runs[run].recipe
        size = recipe.image_size or self._backbone(run).image_size
        if folder:
            return Pictures.from_folder(folder, size)
        return _test_pictures(recipe, size)

    def _forward(self, run: str, picture: int, folder: str) -> _Pass:
        backbone = self._backbone(run)
        image = self.pictures(run, folder).images[picture : picture + 1]
        logits, maps_s = tapped(backbone, backbone.model, image)
        answers_s = _answers(logits[0], backbone.classes)
        try:
            nets: TrainedRun = self.nets(self.runs[run])
        except RunError:
            return _Pass(maps_s, None, None, answers_s, [])
        logits, maps_t = tapped(nets.backbone, nets.target, image)
        attention = None
        if nets.attention is not None:
            with torch.no_grad():
                attention = nets.attention(maps_s, maps_t)
        return _Pass(maps_s, maps_t, attention, answers_s, _answers(logits[0], nets.classes))

    def figure(self, state: LiveState | None = None) -> LabFigure:
        """The picture, the maps of the layer, and T's answers."""
        state = state or self.state
        pictures = self.pictures(state.run, state.folder)
        done = self.forward(state.run, state.picture, state.folder)
        tap = self._backbone(state.run).taps[state.layer - 1]
        s = done.maps_s[tap][0]
        tiles: list[tuple[str, np.ndarray | None, str]] = [
            (f"S, layer {state.layer}", s.abs().mean(dim=0).numpy(), "mean |FM_S|")
        ]
        if done.maps_t is None:
            missing = "this run was shipped without the weights of T"
            tiles += [(f"T, layer {state.layer}", None, missing), ("T − S", None, missing)]
        else:
            t = done.maps_t[tap][0]
            gap = (t - s).square().sum(dim=0)
            tiles.append((f"T, layer {state.layer}", t.abs().mean(dim=0).numpy(), "mean |FM_T|"))
            tiles.append(("where T differs", (gap / gap.mean()).numpy(), "‖T − S‖², × mean"))
        tiles.append(self._attention_tile(state, done, tap))
        return live_panel(
            pictures.images[state.picture], pictures.mask(state.picture), tiles, done.answers_t, "T answers"
        )

    def _attention_tile(self, state: LiveState, done: _Pass, tap: str) -> tuple[str, np.ndarray | None, str]:
        if done.maps_t is None:
            return "attention", None, "needs T"
        nets = self.nets(self.runs[state.run])
        if done.attention is None or nets.attention is None:
            return "attention", None, nets.reason
        name = type(nets.attention).__name__
        if nets.attention.kind != "spatial":
            return "attention", None, f"{name} weighs channels, not positions"
        return "its own attention", map_of(done.attention[tap][0], nets.attention.shapes[tap]), "× uniform"

    def status(self, state: LiveState) -> str:
        """What is shown, what S and T answer, and how far T has moved."""
        pictures = self.pictures(state.run, state.folder)
        done = self.forward(state.run, state.picture, state.folder)
        tap = self._backbone(state.run).taps[state.layer - 1]
        s = done.maps_s[tap][0]
        words = [
            f"live pass of {_named(self.runs[state.run].recipe)}",
            f"picture {state.picture} of {len(pictures)}: {pictures.names[state.picture]}",
            f"layer {state.layer}: {s.shape[0]} × {s.shape[1]} × {s.shape[2]}",
        ]
        if done.maps_t is None:
            names = ", ".join(_named(run.recipe) for run in self.kept) or "none"
            words.append(f"T unknown: shipped without weights (runs with weights: {names})")
        else:
            gap = (done.maps_t[tap][0] - s).square().sum() / s.square().sum()
            words.append(f"‖FM_T − FM_S‖² = {100 * gap:.1f} % of ‖FM_S‖²")
            words.append(f"T: {done.answers_t[0][0]} ({100 * done.answers_t[0][1]:.0f} %)")
        words.append(f"S's own head: {done.answers_s[0][0]} ({100 * done.answers_s[0][1]:.0f} %)")
        return " · ".join(words)


@lru_cache(maxsize=4)
def _cached_test(data: str, size: int) -> Pictures:
    return Pictures.of(load_data(Recipe.from_json(data), size)[1], size)


def _test_pictures(recipe: Recipe, size: int) -> Pictures:
    # Runs of one grid share their data: without the method's fields they share one cache entry, too.
    fields = ("backbone", "dataset", "preset", "image_size", "clutter", "data_seed")
    data = Recipe(
        **{name: getattr(recipe, name) for name in fields}, per_class=1, test_per_class=TEST_PER_CLASS
    )
    return _cached_test(data.to_json(), size)


def _answers(logits: Tensor, classes: list[str] | None) -> list[tuple[str, float]]:
    chances, places = logits.softmax(dim=0).topk(min(ANSWERS, len(logits)))
    names = [classes[i] if classes is not None else f"output {i}" for i in places.tolist()]
    return list(zip(names, chances.tolist(), strict=True))


def _named(recipe: Recipe) -> str:
    alphas = " and ".join(f"{alpha:g}" for alpha in dict.fromkeys(recipe.alphas))
    return f"{method_label(str(recipe.method))} α = {alphas} r = {recipe.r}"
