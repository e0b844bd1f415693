"""Attention and Grad-CAM of networks that are run live, and of the snapshots of training runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from spgca_lab.analysis.attribution import grad_cam
from spgca_lab.backbones import Backbone
from spgca_lab.explorers.controls import ExplorerError
from spgca_lab.explorers.images import ImageBatch
from spgca_lab.plots.style import method_label
from spgca_lab.regularizers.attention import (
    Attention,
    ChannelAttention,
    GlobalChannelAttention,
    SelfPixelAttention,
    SpatialAttention,
)
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.runs.load import load_run
from spgca_lab.runs.store import Run, RunError
from spgca_lab.training.recipe import Recipe

Cam = tuple[np.ndarray | None, str]
# Fields of a recipe that may tell two runs apart, with their symbols.
LABELLED = {"alpha": "α", "r": "r", "seed": "seed", "attention": "attention", "preset": "preset"}


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: several gain little on one image, and wait long beside a training."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tapped(backbone: Backbone, model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits `[b, classes]` and maps `{tap: [b, c, h, w]}` of S or T in eval mode for uint8 images."""
    with one_thread(), torch.no_grad(), FeatureTaps(model, backbone.taps, training=False) as taps:
        logits = model(backbone.preprocess(images))
        return logits, taps.maps


def prediction(logits: Tensor, classes: Sequence[str]) -> str:
    """Return the strongest output with its probability, e.g. "dog (97 %)"."""
    probabilities = logits.softmax(dim=0)
    best = int(probabilities.argmax())
    return f"{classes[best]} ({100 * float(probabilities[best]):.0f} %)"


def stage_name(tap: str) -> str:
    """Return the stage that contains a tap ("layer4" for "layer4.1.conv3"), or the tap itself."""
    parts = tap.split(".")
    return parts[0] if len(parts) < 3 else ".".join(parts[:-2])


def grad_cam_of(backbone: Backbone, model: nn.Module, image: Tensor) -> tuple[np.ndarray, int]:
    """Return Grad-CAM of the last stage for S's or T's strongest output `[rows, columns]`, and that output.

    The map is 0 everywhere if no evidence supports the prediction.
    """
    layer = stage_name(backbone.taps[-1])
    with one_thread():
        found = grad_cam(backbone, image[None], model, layers=[layer], size=0, only_target=True)
    return found.target[layer][0], found.labels_t[0]


class LiveSource:
    """Attentions called on the maps of S and T, image by image, with arguments as in `AttentionExplorer`."""

    def __init__(
        self,
        backbone: Backbone,
        images: ImageBatch,
        target: nn.Module | None = None,
        classes: Sequence[str] | None = None,
        attentions: Mapping[str, Attention] | None = None,
        origin: str = "",
    ):
        self.backbone, self.images, self.target = backbone, images, target
        self.classes = classes if target is not None else backbone.classes
        self.maps = lru_cache(maxsize=12)(self._maps)
        self.cam = lru_cache(maxsize=64)(self._cam)
        self.origin = (
            origin or f"{backbone.name}, {'untrained' if attentions is None else 'attention as given'}"
        )
        self.attentions = dict(_untrained(self.maps(0)[0]) if attentions is None else attentions)
        if not self.attentions:
            raise ExplorerError("there is no attention to show: give at least one, as {'SPA': …}")
        self.kinds: Mapping[str, str] = {name: attention.kind for name, attention in self.attentions.items()}
        self.steps: Mapping[str, Sequence[int]] = dict.fromkeys(self.attentions, (0,))

    def at(self, images: ImageBatch) -> "LiveSource":
        """Return the same networks and attentions on other images."""
        return LiveSource(self.backbone, images, self.target, self.classes, self.attentions, self.origin)

    def weights(self, name: str, step: int, picture: int) -> dict[str, np.ndarray]:
        """Return `{tap: [n]}` for one image, from a forward pass."""
        with torch.no_grad():
            found = self.attentions[name](*self.maps(picture))
        return {tap: w[0].float().numpy() for tap, w in found.items()}

    def about(self, name: str) -> str:
        """Return the network, and whether the attention was trained."""
        return self.origin

    def _maps(self, picture: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        batch = self.images.images[picture : picture + 1]
        source = tapped(self.backbone, self.backbone.model, batch)[1]
        return source, source if self.target is None else tapped(self.backbone, self.target, batch)[1]

    def _cam(self, name: str, picture: int) -> Cam:
        model = self.backbone.model if self.target is None else self.target
        return _explained(self.backbone, model, self.images.images[picture], self.classes)


class RunSource:
    """Attentions of runs with the same probe images, read from the snapshots of training; one per stage and run."""

    def __init__(self, runs: Sequence[Run]):
        if not runs:
            raise ExplorerError(
                "there is no run to show: train one with lab.fit, or point to a store that has some"
            )
        self.runs = [run for run in runs if (run.path / "probe.npz").exists()]
        if not self.runs:
            raise ExplorerError(
                f"{runs[0].path.name!r} has no probe.npz: it was shipped without its images and snapshots, "
                "or has not begun"
            )
        self.left_out = len(runs) - len(self.runs)
        self._at: dict[str, tuple[Run, dict[int, dict[str, np.ndarray]]]] = {}
        first, kinds = self.runs[0], dict[str, str]()
        for run in self.runs:
            if not np.array_equal(run.probe["images"], first.probe["images"]):
                raise ExplorerError(
                    "only runs with the same probe images can be compared: those of "
                    f"{run.path.name!r} differ from those of {first.path.name!r}"
                )
            label = f" · {run_label(run, self.runs)}" if len(self.runs) > 1 else ""
            for snapshot in run.snapshots():
                name = method_label(snapshot.stage) + label
                kinds[name] = snapshot.kind
                self._at.setdefault(name, (run, {}))[1][snapshot.step] = snapshot.weights
        if not kinds:
            raise ExplorerError(f"{runs!r} have no snapshot of an attention: use a method that has one")
        self.kinds: Mapping[str, str] = kinds
        self.steps: Mapping[str, Sequence[int]] = {n: tuple(sorted(at)) for n, (_, at) in self._at.items()}
        self.images = ImageBatch.of_run(first)
        self.layers = list(next(iter(next(iter(self._at.values()))[1].values())))
        self._networks = lru_cache(maxsize=2)(load_run)
        self._cam_of = lru_cache(maxsize=64)(self._cam)

    def weights(self, name: str, step: int, picture: int) -> dict[str, np.ndarray]:
        """Return `{tap: [n]}` for one image at a step that has a snapshot."""
        return {tap: w[picture] for tap, w in self._at[name][1][step].items()}

    def cam(self, name: str, picture: int) -> Cam:
        """Return Grad-CAM of the trained T, where the run's weights were saved."""
        return self._cam_of(self._at[name][0], picture)

    def about(self, name: str) -> str:
        """Return the run's recipe and its accuracy."""
        run = self._at[name][0]
        recipe, result = run.recipe, run.result
        reached = f"top-1 {result['top1']:.1f} %" if result else "not finished"
        left_out = f" ({self.left_out} runs without snapshots left out)" if self.left_out else ""
        method, alphas = method_label(str(recipe.method)), alphas_text(recipe)
        return f"{method}, α = {alphas}, r = {recipe.r}, seed {recipe.seed}, {reached}{left_out}"

    def _cam(self, run: Run, picture: int) -> Cam:
        try:
            nets = self._networks(run)
        except RunError:
            return None, "shipped without the weights of T"
        return _explained(nets.backbone, nets.target, self.images.images[picture], nets.classes)


AttentionSource = LiveSource | RunSource


def alphas_text(recipe: Recipe) -> str:
    """Return α of a recipe's stages, e.g. "3" or "1 and 10"."""
    return " and ".join(f"{a:g}" for a in dict.fromkeys(recipe.alphas))


def trained_source(run: Run, images: ImageBatch) -> LiveSource:
    """Return a finished run's networks and attention, called on other images."""
    nets = load_run(run)
    if nets.attention is None:
        raise ExplorerError(
            f"the attention of {run.path.name!r} cannot be called on other images: {nets.reason}"
        )
    attentions = {method_label(run.recipe.stages().stages[-1].name): nets.attention}
    origin = f"{run_label(run, [run])}, trained, called live"
    return LiveSource(nets.backbone, images, nets.target, nets.classes, attentions, origin)


def run_label(run: Run, among: Sequence[Run]) -> str:
    """Return what tells a run from the others: its method and the fields of the recipe that differ."""
    fields = [tuple(str(getattr(other.recipe, name)) for name in ("method", *LABELLED)) for other in among]
    values = zip(LABELLED.items(), list(zip(*fields, strict=True))[1:], strict=True)
    differ = [
        f"{sign} = {getattr(run.recipe, name)}" for (name, sign), found in values if len(set(found)) > 1
    ]
    alike = [run.recipe.hash()[:6]] if len(set(fields)) < len(among) else []
    return ", ".join([method_label(str(run.recipe.method)), *differ, *alike])


def _untrained(maps: Mapping[str, Tensor]) -> dict[str, Attention]:
    # A fork keeps the global random state as it is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "AST": SpatialAttention.for_maps(maps),
            "SPA": SelfPixelAttention.for_maps(maps),
            "ACT": ChannelAttention.for_maps(maps),
            "GCA": GlobalChannelAttention.for_maps(maps, r=4),
        }


def _explained(backbone: Backbone, model: nn.Module, image: Tensor, classes: Sequence[str] | None) -> Cam:
    cam, label = grad_cam_of(backbone, model, image)
    name = classes[label] if classes is not None else f"output {label}"
    return (cam, name) if cam.max() > 0 else (None, f"no evidence for {name!r} in the last stage")
