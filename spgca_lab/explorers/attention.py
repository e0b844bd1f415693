"""AttentionExplorer: where a penalty looks, in every layer, over time, beside what the network looks at."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
from torch import nn

from spgca_lab.analysis.scores import (
    ScoreError,
    effective_number,
    entropy,
    layer_shares,
    mask_scores,
)
from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.data import ImageSet
from spgca_lab.explorers.attention_sources import AttentionSource, LiveSource, RunSource, trained_source
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.parts import (
    ExplorerError,
    need_index,
    need_one_of,
    need_share,
    opacity_control,
    picker,
    row,
    slider,
    step_controls,
    table_html,
)
from spgca_lab.explorers.pictures import Pictures
from spgca_lab.explorers.strip import EMBEDDED, UPLOADED, OwnPictures, PictureStrip
from spgca_lab.plots.attention import relative_maps
from spgca_lab.plots.panels.attention import (
    AttentionView,
    ChannelView,
    SpatialView,
    attention_height,
    attention_panel,
)
from spgca_lab.plots.style import LabFigure
from spgca_lab.regularizers.attention import Attention
from spgca_lab.runs.store import Run, RunStore

__all__ = ["AttentionExplorer", "AttentionState"]

EQUATIONS = "AST Eq. 2, SPA Eq. 7; weights over the H·W positions of a layer"
CHANNEL_EQUATIONS = "ACT Eq. 4, one softmax a layer; GCA Eq. 9, one softmax over the channels of all layers"


@dataclass(frozen=True)
class AttentionState(State):
    """Picture (from 0), names of up to two spatial and two channel attentions (or None), step, opacity.

    `place` is where pictures come from: `""` (embedded, or a run's probe), `"uploaded"`, or a folder.
    """

    picture: int = 0
    spatial: str | None = None
    spatial2: str | None = None
    channel: str | None = None
    channel2: str | None = None
    step: int = 0
    opacity: float = 0.65
    place: str = EMBEDDED


class AttentionExplorer(OwnPictures, Explorer[AttentionState]):
    """AST's and SPA's heatmaps in the four layers, ACT's and GCA's channel weights, and Grad-CAM, at once.

    From a run (or several with the same pictures) it shows the snapshots of training, with a slider and a
    play button over the steps; from a backbone and pictures it calls attention nets live. Where the
    object's mask is known, every heatmap is scored against it: the pointing game, the mass inside, and the
    best IoU.

    Args:
        source: a `Run`, several, a `RunStore`, a backbone or its name.
        images: pictures to look at. With a backbone None is as in `FeatureMapExplorer`; with a run of one
            stage that was kept with its weights, its trained attention is called on them.
        target: with a backbone: T; None takes S itself, as at the first step of a training.
        attentions: with a backbone: trained nets by name, a reader's own class among them; None makes the
            paper's four, untrained.
        classes: with a target: names of its outputs.
        state: what to show first.

    Raises:
        ExplorerError: when there is nothing to show, or the state does not exist.

    Example:
        >>> explorer = AttentionExplorer(load_backbone("mini", weights="random"))
        >>> explorer.show(picture=1, spatial2=None, opacity=0.5)
        >>> explorer.state.spatial, explorer.state.channel, explorer.state.channel2
        ('SPA', 'GCA', 'ACT')
    """

    about = "Attention over a picture and over channels, in four layers"
    details_height = "19em"

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
        self.looking = lru_cache(maxsize=3)(self._looking)
        self.names = {
            kind: [name for name, k in self.source.kinds.items() if k == kind]
            for kind in ("spatial", "channel")
        }
        self.steps = sorted({step for steps in self.source.steps.values() for step in steps})
        rows = min(2, max(1, len(self.names["spatial"])))
        given = {
            "source": None if source == "lite0" else source,
            "images": images,
            "target": target,
            "attentions": attentions,
            "classes": classes,
            "state": state,
        }
        super().__init__(self._complete(state), attention_height(rows), given)
        if len(self.names["spatial"]) > 1 and len(self.steps) > 1:
            # Two runs side by side need a third line.
            self.status_line.layout.height = "4.4em"

    def _complete(self, state: AttentionState | None) -> AttentionState:
        # The paper's own pair comes first where there is a choice, its predecessor beside it.
        values = (state or AttentionState(step=self.steps[-1])).to_dict()
        for kind, names in self.names.items():
            if values[kind] is None and names:
                values[kind] = names[-1]
            if state is None and len(names) > 1:
                values[f"{kind}2"] = names[0]
        return AttentionState(**values)

    def controls(self) -> list[widgets.Widget]:
        """The strip of pictures; the attentions, opacity; step and play where there is more than one step."""
        live = isinstance(self.source, LiveSource)
        self.strip = PictureStrip(lambda n: self._moved("picture", n), self.place_chosen, own=live)
        tip = "Picture x of Eq. 1"
        self.picture_slider = self.bind(
            slider("picture", len(self.source.pictures) - 1, tip=tip, live=not live), "picture"
        )
        self.opacity_slider = self.bind(opacity_control(), "opacity")
        self.step_slider, self.play = step_controls(self.steps)
        self.bind(self.step_slider, "step")
        first = [self.picture_slider, self.opacity_slider]
        if len(self.steps) > 1:
            first += [self.step_slider, self.play]
        choices = []
        for kind, tip in (("spatial", EQUATIONS), ("channel", CHANNEL_EQUATIONS)):
            names = self.names[kind]
            choices.append(self.bind(picker(kind, names, tip=tip, width="185px"), kind))
            if len(names) > 1:
                options = [("none", None), *((name, name) for name in names)]
                second = picker("and", options, tip=f"A second one: {tip}", width="165px")
                choices.append(self.bind(second, f"{kind}2"))
        self.spatial_choice = self._bound["spatial"][0]
        self.channel_choice = self._bound["channel"][0]
        return [self.strip, row(*first), row(*choices)]

    def sync(self) -> None:
        """The strip and the slider follow the pictures."""
        pictures = self.looking(self.state.place).pictures
        self.picture_slider.max = max(len(pictures) - 1, 0)
        self.strip.show(pictures, self.state.picture, self.state.place)
        super().sync()

    def check(self, state: AttentionState) -> None:
        """Every value must be one of those there are."""
        need_index("picture", state.picture, len(self.looking(state.place).pictures))
        for name in ("spatial", "channel"):
            for field in (name, f"{name}2"):
                if getattr(state, field) is not None:
                    need_one_of(field, getattr(state, field), self.names[name])
        need_one_of("step", state.step, self.steps)
        need_share("opacity", state.opacity)

    def settle(self, state: AttentionState, given: set[str]) -> AttentionState:
        """Another place begins with its first picture, where the old one's number does not exist."""
        moved = "place" in given and "picture" not in given
        if moved and state.picture >= len(self.looking(state.place).pictures):
            return replace(state, picture=0)
        return state

    def at(self, name: str, step: int) -> int:
        """The step of the snapshot shown for `step`: the last until then, the first if there is none yet."""
        return snapshot_step(self.source.steps[name], step)

    def view(self, state: AttentionState) -> AttentionView:
        """What the picture is drawn from, as arrays."""
        return attention_view(
            self.looking(state.place),
            state.picture,
            [name for name in (state.spatial, state.spatial2) if name is not None],
            [name for name in (state.channel, state.channel2) if name is not None],
            state.step,
        )

    def figure(self, state: AttentionState | None = None) -> LabFigure:
        """Heatmaps, Grad-CAM, channel weights and shares."""
        state = state or self.state
        view = self.view(state)
        if len(self.names["spatial"]) > 1 and len(view.spatial) < 2:
            view = replace(view, spatial=[*view.spatial, SpatialView("no second spatial attention chosen")])
        return attention_panel(view, state.opacity)

    def status(self, state: AttentionState) -> str:
        """The values shown, and where they come from."""
        source = self.looking(state.place)
        pictures = source.pictures
        words = [f"picture {state.picture} of {len(pictures)}: {pictures.names[state.picture]}"]
        if len(self.steps) > 1:
            words.append(f"step {state.step} of {self.steps[-1]}")
        for name in self._chosen(state):
            weights = source.weights(name, self.at(name, state.step), state.picture)
            values = ", ".join(f"{v:.2f}" for v in entropies(weights).values())
            words.append(f"{name}: entropy {values} nats")
        if pictures.mask(state.picture) is None:
            words.append("mask unknown, so nothing is scored")
        words += dict.fromkeys(source.about(name) for name in self._chosen(state))
        return " · ".join(words) + f" · opacity {state.opacity:.2f}"

    def caption(self, state: AttentionState) -> str:
        """How concentrated the chosen attentions are, and whether the spatial one lies on the object."""
        view = self.view(state)
        words = [channel_words(channel) for channel in view.channel[:1]]
        words += [spatial_words(spatial, view.mask) for spatial in view.spatial[:1]]
        return " ".join(word for word in words if word) or "There is no attention to see here."

    def details_html(self, state: AttentionState) -> str:
        """Evenness of every distribution, and scores against the mask."""
        view = self.view(state)
        rows: list[list[str]] = []
        if view.cam is not None and view.mask is not None:
            rows.append(["Grad-CAM", "", "", "", *_scored(view.cam, view.mask)])
        for spatial in view.spatial:
            for i, field in enumerate((spatial.maps or {}).values(), start=1):
                even = _even(field.ravel() / field.sum())
                rows.append([f"{_short(spatial.name)}, layer {i}", *even, "", *_scored(field, view.mask)])
        for channel in view.channel:
            rows += _channel_rows(channel)
        joint = any(channel.joint for channel in view.channel)
        share = "share (of channels)" if joint else ""
        scores = ["hit", "mass inside", "object's area", "best IoU"] if view.mask is not None else []
        head = ["", "entropy (max.)", "effective", share, *scores]
        return table_html(head, [cells[: len(head)] for cells in rows], left=1)

    def _chosen(self, state: AttentionState) -> list[str]:
        names = (state.spatial, state.spatial2, state.channel, state.channel2)
        return list(dict.fromkeys(name for name in names if name is not None))

    def _looking(self, place: str) -> AttentionSource:
        if place == EMBEDDED:
            return self.source
        if not isinstance(self.source, LiveSource):
            raise ExplorerError("a run's snapshots know its own probe pictures only")
        size = self.source.pictures.images.shape[-1]
        if place == UPLOADED:
            return self.source.looking_at(Pictures.from_uploads(self.uploads, size))
        return self.source.looking_at(Pictures.from_folder(place, size))

    def forget_pictures(self) -> None:
        """Look anew at what was uploaded."""
        self.looking.cache_clear()


def attention_view(
    source: AttentionSource,
    picture: int,
    spatial: Sequence[str],
    channel: Sequence[str],
    step: int,
    *,
    cam: bool = True,
) -> AttentionView:
    """One picture's attentions at a step, ready to draw; with Grad-CAM if asked.

    Args:
        source: where weights come from.
        picture: from 0.
        spatial: names of spatial attentions.
        channel: names of channel attentions.
        step: each shows its last snapshot until then.
        cam: also explain what T answers.
    """
    rows, columns = [], []
    for name in spatial:
        found = source.weights(name, snapshot_step(source.steps[name], step), picture)
        rows.append(
            SpatialView(_title(source, name, step), {tap: relative_maps(w)[0] for tap, w in found.items()})
        )
    for name in channel:
        found = source.weights(name, snapshot_step(source.steps[name], step), picture)
        joint = abs(sum(float(w.sum()) for w in found.values()) - 1) < 0.02
        columns.append(ChannelView(_title(source, name, step), found, joint))
    shown = next(iter([*spatial, *channel]), None)
    heat, cam_name = source.cam(shown, picture) if cam and shown is not None else (None, "no network")
    return AttentionView(
        image=source.pictures.images[picture],
        mask=source.pictures.mask(picture),
        spatial=rows or [SpatialView("no spatial attention here")],
        channel=columns or [ChannelView("no channel attention here")],
        cam=heat,
        cam_name=cam_name,
    )


def entropies(weights: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Entropy in nats by tap, or of all layers together where the weights are one distribution (GCA)."""
    try:
        return {"all": entropy(weights)}
    except ScoreError:
        return {tap: entropy(w) for tap, w in weights.items()}


def snapshot_step(steps: Sequence[int], step: int) -> int:
    """The last of `steps` until `step`, the first if there is none yet.

    Example:
        >>> snapshot_step((0, 50, 100), 75), snapshot_step((100, 200), 75)
        (50, 100)
    """
    return steps[max(0, bisect_right(steps, step) - 1)]


def _title(source: AttentionSource, name: str, step: int) -> str:
    steps = source.steps[name]
    return name if len(steps) == 1 else f"{name} at step {snapshot_step(steps, step)}"


def _short(name: str) -> str:
    # The picture says the step; in a table of the page's width there is no room for it.
    return name.split(" at step")[0]


def channel_words(view: ChannelView) -> str:
    """How concentrated a channel attention is, in a sentence."""
    if view.weights is None:
        return ""
    name = _short(view.name)
    sizes = [len(w) for w in view.weights.values()]
    if view.joint:
        shares = list(layer_shares(view.weights).values())
        top = int(np.argmax(shares))
        effective = effective_number(view.weights)
        return (
            f"{name} puts {100 * shares[top]:.0f} % of its weight on layer {top + 1}, which has "
            f"{100 * sizes[top] / sum(sizes):.0f} % of the channels; effective channels "
            f"{effective:.0f} of {sum(sizes)}."
        )
    numbers = [effective_number(w) for w in view.weights.values()]
    least = int(np.argmin([e / n for e, n in zip(numbers, sizes, strict=True)]))
    return (
        f"{name} is most selective in layer {least + 1}: effective channels "
        f"{numbers[least]:.0f} of {sizes[least]}."
    )


def spatial_words(view: SpatialView, mask: Any) -> str:
    """Whether a spatial attention lies on the object, in a sentence; without a mask how uneven it is."""
    if view.maps is None:
        return ""
    name, last = _short(view.name), len(view.maps)
    field = list(view.maps.values())[-1]
    if mask is None:
        strongest = {i: float(m.max()) for i, m in enumerate(view.maps.values(), start=1)}
        layer = max(strongest, key=lambda i: strongest[i])
        return (
            f"{name}'s strongest position, in layer {layer}, weighs {strongest[layer]:.2g} times the uniform."
        )
    scores = mask_scores(field, mask)
    return (
        f"{name} has {100 * scores.inside:.0f} % of its layer-{last} weight on the object, "
        f"which covers {100 * scores.area:.0f} % of the picture."
    )


def _channel_rows(view: ChannelView) -> list[list[str]]:
    blank, weights = [""] * 4, view.weights or {}
    if not weights or not view.joint:
        return [
            [f"{_short(view.name)}, layer {i}", *_even(w), "", *blank]
            for i, w in enumerate(weights.values(), start=1)
        ]
    shares, total = layer_shares(weights), sum(len(w) for w in weights.values())
    everything = np.concatenate(list(weights.values()))
    rows = [[f"{_short(view.name)}, all layers", *_even(everything), "100 %", *blank]]
    for i, (tap, w) in enumerate(weights.items(), start=1):
        share = f"{100 * shares[tap]:.1f} % ({100 * len(w) / total:.1f} %)"
        rows.append([f"{_short(view.name)}, layer {i}", "", "", share, *blank])
    return rows


def _even(a: np.ndarray) -> list[str]:
    return [f"{entropy(a):.3f} ({np.log(a.size):.3f})", f"{effective_number(a):.1f} of {a.size}"]


def _scored(heat: Any, mask: np.ndarray | None) -> list[str]:
    if mask is None:
        return [""] * 4
    scores = mask_scores(heat, mask)
    hit = "yes" if scores.hit else "no"
    return [hit, f"{100 * scores.inside:.1f} %", f"{100 * scores.area:.1f} %", f"{scores.iou:.2f}"]


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
        pictures = Pictures.for_backbone(backbone, size) if images is None else Pictures.of(images, size)
        return LiveSource(backbone, pictures, target, classes, attentions)
    if target is not None or attentions is not None:
        raise ExplorerError("target and attentions go with a backbone; a run brings its own")
    runs = [given] if isinstance(given, Run) else list(given)
    wrong = [run for run in runs if not isinstance(run, Run)]
    if wrong:
        raise ExplorerError(f"source must be a Run, several, a RunStore or a backbone, got {wrong[0]!r}")
    if images is not None:
        if len(runs) != 1:
            raise ExplorerError(f"images go with one run, whose attention is called on them; got {len(runs)}")
        return trained_source(runs[0], Pictures.of(images, images.image_size))
    return RunSource(runs)
