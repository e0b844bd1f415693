"""AttentionExplorer: where a penalty looks, in every layer, over time, beside what the network looks at."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets as widgets
import numpy as np
from torch import nn

from spgca_lab.attention import Attention
from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.datasets import ImageSet
from spgca_lab.plots.attention import relative_maps
from spgca_lab.plots.panels import ATTENTION_HEIGHT, AttentionView, attention_panel
from spgca_lab.plots.style import LabFigure
from spgca_lab.runs import Run, RunStore
from spgca_lab.scores import ScoreError, effective_number, entropy, layer_shares, mask_scores
from spgca_lab.widgets.attention_sources import AttentionSource, LiveSource, RunSource
from spgca_lab.widgets.base import Explorer, ExplorerError, State, need_index, row, slider, table_html
from spgca_lab.widgets.nets import Pictures

__all__ = ["AttentionExplorer", "AttentionState"]


@dataclass(frozen=True)
class AttentionState(State):
    """Picture (from 0), names of a spatial and a channel attention (or None), training step, opacity."""

    picture: int = 0
    spatial: str | None = None
    channel: str | None = None
    step: int = 0
    opacity: float = 0.65


class AttentionExplorer(Explorer[AttentionState]):
    """AST's or SPA's heatmaps of the four layers, ACT's or GCA's channel weights, and Grad-CAM.

    From a run (or several with the same pictures) it shows the snapshots of training, with a slider and a
    play button over the steps; from a backbone and pictures it calls attention nets live. Where the
    object's mask is known, every heatmap is scored against it: the pointing game, the mass inside, and the
    best IoU.

    Args:
        source: a `Run`, several, a `RunStore`, a backbone or its name.
        images: with a backbone: pictures to choose from; None as in `FeatureMapExplorer`.
        target: with a backbone: T; None takes S itself, as at the first step of a training.
        attentions: with a backbone: trained nets by name, a reader's own class among them; None makes the
            paper's four, untrained.
        classes: with a target: names of its outputs.
        state: what to show first.

    Raises:
        ExplorerError: when there is nothing to show, or the state does not exist.

    Example:
        >>> explorer = AttentionExplorer(load_backbone("mini", weights="random"))
        >>> explorer.show(picture=1, spatial="AST", opacity=0.5)
        >>> explorer.state.channel
        'GCA'
    """

    details_height = "16em"

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
        self.names = {
            kind: [name for name, k in self.source.kinds.items() if k == kind]
            for kind in ("spatial", "channel")
        }
        self.steps = sorted({step for steps in self.source.steps.values() for step in steps})
        state = state or AttentionState(step=self.steps[-1])
        # The paper's own pair comes first where there is a choice.
        last = {kind: names[-1] if names else None for kind, names in self.names.items()}
        state = replace(
            state, spatial=state.spatial or last["spatial"], channel=state.channel or last["channel"]
        )
        super().__init__(state, ATTENTION_HEIGHT)

    def controls(self) -> list[widgets.Widget]:
        """Picture, the two attentions, opacity; step and play where there is more than one step."""
        self.picture_slider = self.bind(slider("picture", len(self.source.pictures) - 1), "picture")
        self.spatial_choice = self.bind(_choice("spatial", self.names["spatial"]), "spatial")
        self.channel_choice = self.bind(_choice("channel", self.names["channel"]), "channel")
        self.opacity_slider = self.bind(opacity_control(), "opacity")
        rows = [
            row(self.picture_slider),
            row(self.spatial_choice, self.channel_choice, self.opacity_slider),
        ]
        self.step_slider, self.play = step_controls(self.steps)
        self.bind(self.step_slider, "step")
        if len(self.steps) > 1:
            rows[0].children = (self.picture_slider, self.step_slider, self.play)
        return rows

    def check(self, state: AttentionState) -> None:
        """Every value must be one of those there are."""
        need_index("picture", state.picture, len(self.source.pictures))
        for kind, chosen in (("spatial", state.spatial), ("channel", state.channel)):
            if chosen is not None and chosen not in self.names[kind]:
                raise ExplorerError(f"{kind} must be one of {self.names[kind] or 'none'}, got {chosen!r}")
        if state.step not in self.steps:
            raise ExplorerError(f"step must be one of {self.steps}, got {state.step!r}")
        need_opacity(state.opacity)

    def at(self, name: str, step: int) -> int:
        """The step of the snapshot shown for `step`: the last until then, the first if there is none yet."""
        return snapshot_step(self.source.steps[name], step)

    def view(self, state: AttentionState) -> AttentionView:
        """What the picture is drawn from, as arrays."""
        return attention_view(self.source, state.picture, state.spatial, state.channel, state.step)

    def figure(self, state: AttentionState | None = None) -> LabFigure:
        """Heatmaps, Grad-CAM, channel weights and shares."""
        state = state or self.state
        return attention_panel(self.view(state), state.opacity)

    def status(self, state: AttentionState) -> str:
        """The values shown and what they give, in words."""
        words = [f"picture {state.picture}: {self.source.pictures.names[state.picture]}"]
        if len(self.steps) > 1:
            words.append(f"step {state.step} of {self.steps[-1]}")
        for name in (state.spatial, state.channel):
            if name is None:
                continue
            weights = self.source.weights(name, self.at(name, state.step), state.picture)
            values = ", ".join(f"{v:.2f}" for v in entropies(weights).values())
            words.append(f"{name}: entropy {values} nats")
        about = [self.source.about(name) for name in (state.spatial, state.channel) if name is not None]
        words += dict.fromkeys(about)
        return " · ".join(words) + f" · opacity {state.opacity:.2f}"

    def details_html(self, state: AttentionState) -> str:
        """Evenness of every distribution, and scores against the mask."""
        view, mask = self.view(state), self.source.pictures.mask(state.picture)
        rows: list[list[str]] = []
        if view.cam is not None:
            rows.append(["Grad-CAM", "", "", "", *_scored(view.cam, mask)])
        for i, field in enumerate((view.spatial or {}).values(), start=1):
            rows.append(
                [f"{state.spatial}, layer {i}", *_even(field.ravel() / field.size), "", *_scored(field, mask)]
            )
        channel = view.channel or {}
        blank, total = [""] * 4, sum(len(w) for w in channel.values())
        if channel and view.joint:
            shares = layer_shares(channel)
            everything = np.concatenate(list(channel.values()))
            rows.append([f"{state.channel}, all layers", *_even(everything), "100 %", *blank])
            for i, (tap, w) in enumerate(channel.items(), start=1):
                share = f"{100 * shares[tap]:.1f} % ({100 * len(w) / total:.1f} %)"
                rows.append([f"{state.channel}, layer {i}", "", "", share, *blank])
        else:
            for i, w in enumerate(channel.values(), start=1):
                rows.append([f"{state.channel}, layer {i}", *_even(w), "", *blank])
        share = "share (of channels)" if view.joint and channel else ""
        scores = ["hit", "mass inside", "object's area", "best IoU"]
        head = ["", "entropy (its maximum)", "effective number", share, *scores]
        return table_html(head, rows)


def attention_view(
    source: AttentionSource,
    picture: int,
    spatial: str | None,
    channel: str | None,
    step: int,
    *,
    cam: bool = True,
) -> AttentionView:
    """One picture's attentions at a step, ready to draw; with Grad-CAM if asked."""
    maps = weights = None
    titles = {kind: f"no {kind} attention here" for kind in ("spatial", "channel")}
    for kind, name in (("spatial", spatial), ("channel", channel)):
        if name is None:
            continue
        at = snapshot_step(source.steps[name], step)
        found = source.weights(name, at, picture)
        titles[kind] = name if len(source.steps[name]) == 1 else f"{name} at step {at}"
        if kind == "spatial":
            maps = {tap: relative_maps(w)[0] for tap, w in found.items()}
        else:
            weights = found
    shown = spatial or channel
    heat, cam_name = source.cam(shown, picture) if cam and shown is not None else (None, "no network")
    joint = weights is not None and abs(sum(float(w.sum()) for w in weights.values()) - 1) < 0.02
    return AttentionView(
        image=source.pictures.images[picture],
        mask=source.pictures.mask(picture),
        spatial=maps,
        spatial_name=titles["spatial"],
        channel=weights,
        channel_name=titles["channel"],
        joint=joint,
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


def need_opacity(value: Any) -> None:
    """Check an opacity.

    Raises:
        ExplorerError: when it is not from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ExplorerError(f"opacity must be from 0 to 1, got {value!r}")


def step_controls(steps: Sequence[int]) -> tuple[widgets.SelectionSlider, widgets.Play]:
    """A slider over the steps that have a snapshot, and a button that walks along it."""
    step = widgets.SelectionSlider(
        options=steps,
        description="step",
        continuous_update=False,
        layout=widgets.Layout(width="300px"),
        style={"description_width": "initial"},
    )
    play = widgets.Play(min=0, max=len(steps) - 1, interval=700, show_repeat=False)
    play.layout.width = "120px"
    widgets.link((play, "value"), (step, "index"))
    return step, play


def opacity_control() -> widgets.FloatSlider:
    """A slider that acts while it moves: a picture of another opacity needs no computing."""
    return widgets.FloatSlider(
        min=0,
        max=1,
        step=0.05,
        description="opacity",
        readout_format=".2f",
        layout=widgets.Layout(width="230px"),
        style={"description_width": "initial"},
    )


def _choice(description: str, names: Sequence[str]) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=list(names) if names else [("none", None)],
        description=description,
        disabled=len(names) < 2,
        layout=widgets.Layout(width="280px"),
        style={"description_width": "initial"},
    )


def _even(a: np.ndarray) -> list[str]:
    return [f"{entropy(a):.3f} ({np.log(a.size):.3f})", f"{effective_number(a):.1f} of {a.size}"]


def _scored(heat: Any, mask: np.ndarray | None) -> list[str]:
    if mask is None:
        return ["mask unknown", "", "", ""]
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
    if images is not None or target is not None or attentions is not None:
        raise ExplorerError("images, target and attentions go with a backbone; a run brings its own")
    runs = [given] if isinstance(given, Run) else list(given)
    wrong = [run for run in runs if not isinstance(run, Run)]
    if wrong:
        raise ExplorerError(f"source must be a Run, several, a RunStore or a backbone, got {wrong[0]!r}")
    return RunSource(runs)
