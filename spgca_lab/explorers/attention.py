"""AttentionExplorer: the attention of each penalty in every layer and over training, beside Grad-CAM."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from torch import nn

from spgca_lab.analysis.scores import ScoreError, effective_number, entropy, layer_shares, mask_scores
from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.data import ImageSet
from spgca_lab.explorers import controls as ui
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.controls import Control, ExplorerError
from spgca_lab.explorers.forward import AttentionSource, LiveSource, RunSource, trained_source
from spgca_lab.explorers.images import EMBEDDED, ImageBatch, OwnImages
from spgca_lab.plots.attention import relative_maps
from spgca_lab.plots.panels import attention as panel
from spgca_lab.plots.panels.attention import AttentionView, ChannelView, SpatialView
from spgca_lab.plots.style import LabFigure
from spgca_lab.regularizers.attention import Attention
from spgca_lab.runs.store import Run, RunStore

KINDS = {
    "spatial": "AST Eq. 2, SPA Eq. 7; weights over the H·W positions of each layer",
    "channel": "ACT Eq. 4, one softmax per layer; GCA Eq. 9, one softmax over the channels of all layers",
}


@dataclass(frozen=True)
class AttentionState(State):
    """Image (from 0), names of up to two spatial and two channel attentions (or None), step, opacity.

    `place` is where images come from: `""` (embedded, or a run's probe), `"uploaded"`, or a folder.
    """

    picture: int = 0
    spatial: str | None = None
    spatial2: str | None = None
    channel: str | None = None
    channel2: str | None = None
    step: int = 0
    opacity: float = 0.65
    place: str = EMBEDDED


class AttentionExplorer(OwnImages, Explorer[AttentionState]):
    """Heatmaps of AST and SPA in the four layers, channel weights of ACT and GCA, and Grad-CAM.

    A run (or several with the same probe images) brings the snapshots of training, with a slider and a play button
    over the steps; a backbone and images call attention nets live. Where the object's mask is known, every heatmap is
    scored against it: pointing game, mass inside, and best IoU.

    Args:
        source: a `Run`, several, a `RunStore`, a backbone or its name.
        images: images to look at. With a backbone None is as in `FeatureMapExplorer`; with a run of one stage whose
            weights were saved, its trained attention is called on them.
        target: with a backbone: T; None takes S itself, as at the first step of a training.
        attentions: with a backbone: trained nets by name, also of a reader's own class; None makes the paper's
            four, untrained.
        classes: with a target: names of its outputs.

    Raises:
        ExplorerError: when there is nothing to show, or the state does not exist.
    """

    about = "Attention over an image and over channels, in four layers"
    tips: ClassVar = KINDS | {
        **{f"{kind}2": f"A second one: {tip}" for kind, tip in KINDS.items()},
        "picture": "Image x of Eq. 1",
    }
    table = (
        {"strip": 0},
        {"picture": 250, "opacity": 230, "step": 280, "play": 0},
        {"spatial": 185, "spatial2": 165, "channel": 185, "channel2": 165},
    )

    def __init__(
        self,
        source: Run | Sequence[Run] | RunStore | Backbone | str = "lite0",
        images: ImageSet | None = None,
        *,
        target: nn.Module | None = None,
        attentions: Mapping[str, Attention] | None = None,
        classes: Sequence[str] | None = None,
        state: AttentionState | None = None,
    ):
        self.source = _source(source, images, target, attentions, classes)
        self.own_images = isinstance(self.source, LiveSource)
        self.source_at = lru_cache(maxsize=3)(self._source_at)
        kinds = self.source.kinds.items()
        self.names = {kind: [name for name, k in kinds if k == kind] for kind in KINDS}
        self.steps = sorted({step for steps in self.source.steps.values() for step in steps})
        rows = min(2, max(1, len(self.names["spatial"])))
        super().__init__(self._completed(state), panel.attention_height(rows))
        if len(self.names["spatial"]) > 1 and len(self.steps) > 1:
            # Two runs side by side need a third line.
            self.status_line.layout.height = "4.4em"

    def ranges(self, state: AttentionState) -> Iterator[Control]:
        """Yield images, attentions, steps and the opacity."""
        yield Control("picture", range(len(self.shown_images(state))), label="image", live=False, default=0)
        for kind, names in self.names.items():
            more = [("none", None), *((name, name) for name in names if len(names) > 1)]
            yield Control(kind, names, "choice", allowed=None if getattr(state, kind) is not None else "")
            yield Control(f"{kind}2", more, "choice", "and", optional=True, allowed=[None, *names])
        yield Control("step", self.steps, optional=True)
        yield Control("opacity")

    def view(self, state: AttentionState) -> AttentionView:
        """Return the arrays that the figure is drawn from."""
        spatial = [name for name in (state.spatial, state.spatial2) if name is not None]
        channel = [name for name in (state.channel, state.channel2) if name is not None]
        return attention_view(self.source_at(state.place), state.picture, spatial, channel, state.step)

    def figure(self, state: AttentionState | None = None) -> LabFigure:
        """Draw heatmaps, Grad-CAM, channel weights and shares."""
        state = state or self.state
        view = self.view(state)
        if len(self.names["spatial"]) > 1 and len(view.spatial) < 2:
            view = replace(view, spatial=[*view.spatial, SpatialView("no second spatial attention chosen")])
        return panel.attention_panel(view, state.opacity)

    def status(self, state: AttentionState) -> str:
        """Return the image, the step, entropies, and the origin of the attentions."""
        source = self.source_at(state.place)
        images = source.images
        chosen = (state.spatial, state.spatial2, state.channel, state.channel2)
        names = list(dict.fromkeys(name for name in chosen if name is not None))
        parts = [f"image {state.picture} of {len(images)}: {images.names[state.picture]}"]
        if len(self.steps) > 1:
            parts.append(f"step {state.step} of {self.steps[-1]}")
        for name in names:
            weights = source.weights(name, snapshot_step(source.steps[name], state.step), state.picture)
            values = ", ".join(f"{v:.2f}" for v in entropies(weights).values())
            parts.append(f"{name}: entropy {values} nats")
        if images.mask(state.picture) is None:
            parts.append("mask unknown, so nothing is scored")
        parts += dict.fromkeys(source.about(name) for name in names)
        return " · ".join(parts) + f" · opacity {state.opacity:.2f}"

    def caption(self, state: AttentionState) -> str:
        """Return how concentrated the first attentions are, and whether the spatial one lies on the object."""
        view = self.view(state)
        first: list[Any] = [*view.channel[:1], *view.spatial[:1]]
        sentences = [attention_sentence(one, view.mask) for one in first]
        return " ".join(filter(None, sentences)) or "There is no attention to see here."

    def details_html(self, state: AttentionState) -> str:
        """Return entropy and effective number of every distribution, and scores against the mask."""
        view = self.view(state)
        rows: list[list[str]] = []
        if view.cam is not None and view.mask is not None:
            rows.append(["Grad-CAM", "", "", "", *_scores(view.cam, view.mask)])
        for spatial in view.spatial:
            for i, field in enumerate((spatial.maps or {}).values(), start=1):
                spread = _concentration(field.ravel() / field.sum())
                rows.append([f"{_short(spatial.name)}, layer {i}", *spread, "", *_scores(field, view.mask)])
        for channel in view.channel:
            rows += _channel_rows(channel)
        share = "share (of channels)" if any(channel.joint for channel in view.channel) else ""
        scores = ["hit", "mass inside", "object's area", "best IoU"] if view.mask is not None else []
        head = ["", "entropy (max.)", "effective", share, *scores]
        return ui.table_html(head, [cells[: len(head)] for cells in rows], left=1)

    def shown_images(self, state: AttentionState) -> ImageBatch:
        """Return the images of a state's place."""
        return self.source_at(state.place).images

    def clear_images(self) -> None:
        """Empty the cache of images."""
        self.source_at.cache_clear()

    def _completed(self, state: AttentionState | None) -> AttentionState:
        # The paper's own pair comes first where there is a choice, with its predecessor beside it.
        values = (state or AttentionState(step=self.steps[-1])).to_dict()
        for kind, names in self.names.items():
            if values[kind] is None and names:
                values[kind] = names[-1]
            if state is None and len(names) > 1:
                values[f"{kind}2"] = names[0]
        return AttentionState(**values)

    def _source_at(self, place: str) -> AttentionSource:
        if place == EMBEDDED:
            return self.source
        if not isinstance(self.source, LiveSource):
            raise ExplorerError("a run's snapshots exist for its own probe images only")
        size = self.source.images.images.shape[-1]
        return self.source.at(self.own_batch(place, size))


def attention_view(
    source: AttentionSource,
    picture: int,
    spatial: Sequence[str],
    channel: Sequence[str],
    step: int,
    *,
    cam: bool = True,
) -> AttentionView:
    """Return the named attentions of one image, each at its last snapshot until a step, ready to draw."""

    def found(name: str) -> Any:
        steps = source.steps[name]
        at = snapshot_step(steps, step)
        title = name if len(steps) == 1 else f"{name} at step {at}"
        return weights_view(title, source.weights(name, at, picture), source.kinds[name])

    rows, columns = [*map(found, spatial)], [*map(found, channel)]
    shown = next(iter([*spatial, *channel]), None)
    heat, cam_name = source.cam(shown, picture) if cam and shown is not None else (None, "no network")
    return AttentionView(
        image=source.images.images[picture],
        mask=source.images.mask(picture),
        spatial=rows or [SpatialView("no spatial attention here")],
        channel=columns or [ChannelView("no channel attention here")],
        cam=heat,
        cam_name=cam_name,
    )


def weights_view(title: str, weights: Mapping[str, np.ndarray], kind: str) -> SpatialView | ChannelView:
    """Return the weights of one image, `{tap: [n]}`, ready to draw."""
    if kind == "spatial":
        return SpatialView(title, {tap: relative_maps(w)[0] for tap, w in weights.items()})
    # Weights of layers that share one softmax (GCA) sum to 1 together.
    return ChannelView(title, weights, abs(sum(float(w.sum()) for w in weights.values()) - 1) < 0.02)


def entropies(weights: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return entropies in nats by tap, or of all layers together where the weights are one distribution (GCA)."""
    try:
        return {"all": entropy(weights)}
    except ScoreError:
        return {tap: entropy(w) for tap, w in weights.items()}


def snapshot_step(steps: Sequence[int], step: int) -> int:
    """Return the last of `steps` until `step`, or the first if there is none yet."""
    return steps[max(0, bisect_right(steps, step) - 1)]


def attention_sentence(view: SpatialView | ChannelView, mask: Any) -> str:
    """Return how concentrated channel weights are, or whether spatial ones lie on the object."""
    name = _short(view.name)
    if isinstance(view, ChannelView):
        return f"{name} {_channel_words(view.weights, view.joint)}." if view.weights else ""
    if view.maps is None:
        return ""
    maps = list(view.maps.values())
    if mask is None:
        strongest = [float(m.max()) for m in maps]
        layer = int(np.argmax(strongest))
        weight = f"{strongest[layer]:.2g} times the uniform weight"
        return f"{name}'s strongest position, in layer {layer + 1}, has {weight}."
    scores = mask_scores(maps[-1], mask)
    return (
        f"{name} has {100 * scores.inside:.0f} % of its layer-{len(maps)} weight on the object, "
        f"which covers {100 * scores.area:.0f} % of the image."
    )


def _channel_words(weights: Mapping[str, np.ndarray], joint: bool) -> str:
    sizes = [len(w) for w in weights.values()]
    if joint:
        shares = list(layer_shares(weights).values())
        top = int(np.argmax(shares))
        return (
            f"puts {100 * shares[top]:.0f} % of its weight on layer {top + 1}, which has "
            f"{100 * sizes[top] / sum(sizes):.0f} % of the channels; effective channels "
            f"{effective_number(weights):.0f} of {sum(sizes)}"
        )
    numbers = [effective_number(w) for w in weights.values()]
    least = int(np.argmin(np.divide(numbers, sizes)))
    effective = f"{numbers[least]:.0f} of {sizes[least]}"
    return f"is most selective in layer {least + 1}: effective channels {effective}"


def _short(name: str) -> str:
    # The figure shows the step; a table of the page's width has no room for it.
    return name.split(" at step")[0]


def _channel_rows(view: ChannelView) -> list[list[str]]:
    blank, weights, name = [""] * 4, view.weights or {}, _short(view.name)
    if not weights or not view.joint:
        layers = enumerate(weights.values(), start=1)
        return [[f"{name}, layer {i}", *_concentration(w), "", *blank] for i, w in layers]
    shares, everything = layer_shares(weights), np.concatenate(list(weights.values()))
    rows = [[f"{name}, all layers", *_concentration(everything), "100 %", *blank]]
    for i, (tap, w) in enumerate(weights.items(), start=1):
        share = f"{100 * shares[tap]:.1f} % ({100 * len(w) / len(everything):.1f} %)"
        rows.append([f"{name}, layer {i}", "", "", share, *blank])
    return rows


def _concentration(a: np.ndarray) -> list[str]:
    return [f"{entropy(a):.3f} ({np.log(a.size):.3f})", f"{effective_number(a):.1f} of {a.size}"]


def _scores(heat: Any, mask: np.ndarray | None) -> list[str]:
    if mask is None:
        return [""] * 4
    scores = mask_scores(heat, mask)
    hit, shares = "yes" if scores.hit else "no", (scores.inside, scores.area)
    return [hit, *(f"{100 * share:.1f} %" for share in shares), f"{scores.iou:.2f}"]


def _source(
    given: Any,
    images: ImageSet | None,
    target: nn.Module | None,
    attentions: Mapping[str, Attention] | None,
    classes: Sequence[str] | None,
) -> AttentionSource:
    if isinstance(given, str | Backbone):
        backbone = load_backbone(given) if isinstance(given, str) else given
        size = images.image_size if images is not None else backbone.image_size
        batch = ImageBatch.for_backbone(backbone, size) if images is None else ImageBatch.of(images, size)
        return LiveSource(backbone, batch, target, classes, attentions)
    if target is not None or attentions is not None:
        raise ExplorerError("target and attentions go with a backbone; a run brings its own")
    runs = [given] if isinstance(given, Run) else list(given)
    if wrong := [run for run in runs if not isinstance(run, Run)]:
        raise ExplorerError(f"source must be a Run, several, a RunStore or a backbone, got {wrong[0]!r}")
    if images is None:
        return RunSource(runs)
    if len(runs) != 1:
        raise ExplorerError(f"images go with one run, whose attention is called on them; got {len(runs)}")
    return trained_source(runs[0], ImageBatch.of(images, images.image_size))
