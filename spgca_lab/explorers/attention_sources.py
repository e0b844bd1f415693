"""Where an attention explorer's weights come from: networks run live, or the snapshots of runs."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.explorers.nets import cam_and_answer, tapped
from spgca_lab.explorers.parts import ExplorerError
from spgca_lab.explorers.pictures import Pictures, pictures_of_run
from spgca_lab.plots.style import method_label
from spgca_lab.regularizers.attention import (
    Attention,
    ChannelAttention,
    GlobalChannelAttention,
    SelfPixelAttention,
    SpatialAttention,
)
from spgca_lab.runs.load import TrainedRun, load_run
from spgca_lab.runs.store import Run, RunError

__all__ = [
    "AttentionSource",
    "LiveSource",
    "RunSource",
    "fresh_attentions",
    "run_label",
    "trained_source",
]

Cam = tuple[np.ndarray | None, str]


class AttentionSource(Protocol):
    """What the explorer asks: pictures, which attentions there are, their weights at a step, a Grad-CAM.

    `kinds` says of every attention by name whether it is `"spatial"` or `"channel"`; `steps` at which steps
    its weights are known (one step, 0, for live networks).
    """

    pictures: Pictures
    kinds: Mapping[str, str]
    steps: Mapping[str, Sequence[int]]

    def weights(self, name: str, step: int, picture: int) -> dict[str, np.ndarray]:
        """`{tap: [n]}` of one picture."""
        ...

    def cam(self, name: str, picture: int) -> Cam:
        """Grad-CAM `[rows, columns]` and what it explains, or None and why there is none."""
        ...

    def about(self, name: str) -> str:
        """A few words on where this attention comes from."""
        ...


def fresh_attentions(maps: Mapping[str, Tensor], r: int = 4, seed: int = 0) -> dict[str, Attention]:
    """The paper's four attentions for these maps, as they are before training.

    Args:
        maps: `{tap: [b, c, h, w]}`.
        r: GCA's reduction rate.
        seed: of their weights; the global random state stays as it is.

    Example:
        >>> list(fresh_attentions({"a": torch.zeros(1, 8, 4, 4)}))
        ['AST', 'SPA', 'ACT', 'GCA']
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "AST": SpatialAttention.for_maps(maps),
            "SPA": SelfPixelAttention.for_maps(maps),
            "ACT": ChannelAttention.for_maps(maps),
            "GCA": GlobalChannelAttention.for_maps(maps, r=r),
        }


class LiveSource:
    """Attentions called on the maps of S and T, picture by picture.

    Args:
        backbone: S.
        pictures: what to look at.
        target: T; None takes S itself, as at the first step of a training.
        classes: names of T's outputs (those of S are known to the backbone).
        attentions: by name; None makes the paper's four, untrained.
        words: where they come from, in words.

    Raises:
        ExplorerError: when there is no attention.
    """

    def __init__(
        self,
        backbone: Backbone,
        pictures: Pictures,
        target: nn.Module | None = None,
        classes: Sequence[str] | None = None,
        attentions: Mapping[str, Attention] | None = None,
        *,
        words: str = "",
    ):
        self.backbone, self.pictures, self.target = backbone, pictures, target
        self.classes = classes if target is not None else backbone.classes
        self.maps = lru_cache(maxsize=12)(self._maps)
        self.cam_of = lru_cache(maxsize=64)(self._cam)
        self.words = (
            words or f"{backbone.name}, {'attention as given' if attentions is not None else 'untrained'}"
        )
        self.attentions = dict(attentions) if attentions is not None else fresh_attentions(self.maps(0)[0])
        if not self.attentions:
            raise ExplorerError("there is no attention to show: give at least one, as {'SPA': …}")
        self.kinds: Mapping[str, str] = {name: attention.kind for name, attention in self.attentions.items()}
        self.steps: Mapping[str, Sequence[int]] = dict.fromkeys(self.attentions, (0,))

    def _maps(self, picture: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        batch = self.pictures.images[picture : picture + 1]
        source = tapped(self.backbone, self.backbone.model, batch)[1]
        target = source if self.target is None else tapped(self.backbone, self.target, batch)[1]
        return source, target

    def looking_at(self, pictures: Pictures) -> "LiveSource":
        """The same networks and attentions on other pictures."""
        return LiveSource(
            self.backbone, pictures, self.target, self.classes, self.attentions, words=self.words
        )

    def weights(self, name: str, step: int, picture: int) -> dict[str, np.ndarray]:
        """`{tap: [n]}` of one picture, from a forward pass."""
        with torch.no_grad():
            found = self.attentions[name](*self.maps(picture))
        return {tap: w[0].float().numpy() for tap, w in found.items()}

    def cam(self, name: str, picture: int) -> Cam:
        """Grad-CAM of T's strongest output, of S's where there is no T."""
        return self.cam_of(picture)

    def _cam(self, picture: int) -> Cam:
        model = self.backbone.model if self.target is None else self.target
        return _explained(self.backbone, model, self.pictures.images[picture], self.classes)

    def about(self, name: str) -> str:
        """Which network, and whether the attention was trained."""
        return self.words


class RunSource:
    """Attentions of runs on their probe pictures, as the snapshots of training kept them.

    Args:
        runs: with the same probe pictures, so that they can be compared; each stage of each run is one
            attention.

    Raises:
        ExplorerError: when there is no run, none kept a snapshot, or the probes differ.
    """

    def __init__(self, runs: Sequence[Run]):
        if not runs:
            raise ExplorerError(
                "there is no run to show: train one with lab.fit, or point to a store that has some"
            )
        kept = [run for run in runs if (run.path / "probe.npz").exists()]
        if not kept:
            raise ExplorerError(
                f"{runs[0].path.name!r} has no probe.npz: it was shipped without its pictures and snapshots, "
                "or has not begun"
            )
        self.left_out = len(runs) - len(kept)
        first, self.runs = kept[0].probe, kept
        self._at: dict[str, tuple[Run, dict[int, dict[str, np.ndarray]]]] = {}
        kinds: dict[str, str] = {}
        for run in kept:
            if not np.array_equal(run.probe["images"], first["images"]):
                raise ExplorerError(
                    "runs can be compared on the same pictures only: the probe of "
                    f"{run.path.name!r} is another than that of {kept[0].path.name!r}"
                )
            for snapshot in run.snapshots():
                name = method_label(snapshot.stage)
                if len(kept) > 1:
                    name = f"{name} · {run_label(run, kept)}"
                kinds[name] = snapshot.kind
                self._at.setdefault(name, (run, {}))[1][snapshot.step] = snapshot.weights
        if not kinds:
            raise ExplorerError(f"{runs!r} kept no snapshot of an attention: use a method that has one")
        self.kinds: Mapping[str, str] = kinds
        self.steps: Mapping[str, Sequence[int]] = {
            name: tuple(sorted(at)) for name, (_, at) in self._at.items()
        }
        self.pictures = pictures_of_run(kept[0])
        self.layers = list(next(iter(next(iter(self._at.values()))[1].values())))
        self.nets = lru_cache(maxsize=2)(self._nets)
        self.cam_of = lru_cache(maxsize=64)(self._cam)

    def weights(self, name: str, step: int, picture: int) -> dict[str, np.ndarray]:
        """`{tap: [n]}` of one picture at a step that has a snapshot."""
        return {tap: w[picture] for tap, w in self._at[name][1][step].items()}

    def cam(self, name: str, picture: int) -> Cam:
        """Grad-CAM of the trained T, where the run was kept with its weights."""
        return self.cam_of(self.runs.index(self._at[name][0]), picture)

    def _nets(self, index: int) -> TrainedRun:
        return load_run(self.runs[index])

    def _cam(self, index: int, picture: int) -> Cam:
        try:
            nets = self.nets(index)
        except RunError:
            return None, "shipped without the weights of T"
        return _explained(nets.backbone, nets.target, self.pictures.images[picture], nets.classes)

    def about(self, name: str) -> str:
        """The run's recipe and what it reached."""
        run = self._at[name][0]
        recipe, result = run.recipe, run.result
        alphas = " and ".join(f"{a:g}" for a in dict.fromkeys(recipe.alphas))
        reached = f", top-1 {result['top1']:.1f} %" if result else ", not finished"
        return (
            f"{method_label(str(recipe.method))}, α = {alphas}, r = {recipe.r}, seed {recipe.seed}{reached}"
            + (f" ({self.left_out} runs without snapshots left out)" if self.left_out else "")
        )


def trained_source(run: Run, pictures: Pictures) -> LiveSource:
    """A finished run's own networks and attention, called on pictures that it never saw.

    Raises:
        ExplorerError: when the run kept no attention that can be called: see `load_run`.
        RunError: when it was shipped without its weights, or has not ended.
    """
    nets = load_run(run)
    if nets.attention is None:
        raise ExplorerError(
            f"the attention of {run.path.name!r} cannot be called on other pictures: {nets.reason}"
        )
    name = method_label(nets.run.recipe.stages().stages[-1].name)
    words = f"{run_label(run, [run])}, trained, called live"
    return LiveSource(nets.backbone, pictures, nets.target, nets.classes, {name: nets.attention}, words=words)


def run_label(run: Run, among: Sequence[Run]) -> str:
    """What tells a run from the others: its method and those fields of the recipe that differ."""
    fields = {"alpha": "α", "r": "r", "seed": "seed", "attention": "attention", "preset": "preset"}
    words = [method_label(str(run.recipe.method))]
    for name, symbol in fields.items():
        if len({str(getattr(other.recipe, name)) for other in among}) > 1:
            words.append(f"{symbol} = {getattr(run.recipe, name)}")
    if len({run_label_key(other, fields) for other in among}) < len(among):
        words.append(run.recipe.hash()[:6])
    return ", ".join(words)


def run_label_key(run: Run, fields: Mapping[str, str]) -> tuple[str, ...]:
    """Method and fields of a recipe, to see whether they tell all runs apart."""
    return (str(run.recipe.method), *(str(getattr(run.recipe, name)) for name in fields))


def _explained(backbone: Backbone, model: nn.Module, image: Tensor, classes: Sequence[str] | None) -> Cam:
    cam, label = cam_and_answer(backbone, model, image)
    name = classes[label] if classes is not None else f"output {label}"
    if cam.max() <= 0:
        return None, f"nothing in the last stage speaks for {name!r}"
    return cam, name
