"""FeatureMapExplorer: what each layer makes of a picture, channel by channel (Eq. 1)."""

from dataclasses import dataclass, replace
from functools import lru_cache

import ipywidgets as widgets
import torch
from torch import nn

from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.datasets import ImageSet
from spgca_lab.plots.panels import FEATURE_HEIGHT, feature_panel
from spgca_lab.plots.pictures import strongest_channels
from spgca_lab.plots.style import LabFigure
from spgca_lab.runs import Run
from spgca_lab.widgets.base import Explorer, State, need_index, row, slider
from spgca_lab.widgets.nets import Pictures, load_run, tapped

__all__ = ["FeatureMapExplorer", "FeatureMapState"]


@dataclass(frozen=True)
class FeatureMapState(State):
    """Picture (from 0), layer (1–4) and channel (from 0); a channel of None is the layer's strongest."""

    picture: int = 0
    layer: int = 1
    channel: int | None = None


class FeatureMapExplorer(Explorer[FeatureMapState]):
    """Sliders for picture, layer and channel over the feature maps FM_S, with FM_T beside them if given.

    Args:
        backbone: a source, or its name.
        images: pictures to choose from; None takes stickers for `mini`, photographs for the others.
        target: T, a module with the backbone's taps, or a finished `Run` (whose backbone is then S).
        image_size: side of the input in pixels; None takes that of `images`, else the backbone's.
        state: what to show first.

    Raises:
        ExplorerError: when the state does not exist.
        BackboneError: for an unknown backbone.
        RunError: when the run has no weights.

    Example:
        >>> explorer = FeatureMapExplorer(load_backbone("mini", weights="random"))
        >>> explorer.show(layer=2, channel=5)
        >>> explorer.state
        FeatureMapState(picture=0, layer=2, channel=5)
    """

    def __init__(
        self,
        backbone: str | Backbone = "lite0",
        images: ImageSet | None = None,
        target: nn.Module | Run | None = None,
        *,
        image_size: int | None = None,
        state: FeatureMapState | None = None,
    ):
        if isinstance(target, Run):
            trained = load_run(target)
            self.backbone = trained.backbone
            self.target: nn.Module | None = trained.target
            image_size = image_size or target.recipe.image_size
        else:
            self.backbone = load_backbone(backbone) if isinstance(backbone, str) else backbone
            self.target = target
        size = image_size or (images.image_size if images is not None else self.backbone.image_size)
        self.pictures = (
            Pictures.for_backbone(self.backbone, size) if images is None else Pictures.of(images, size)
        )
        self.shapes = self.backbone.tap_shapes(size)
        self.maps = lru_cache(maxsize=16)(self._maps)
        super().__init__(self.settle(state or FeatureMapState(), set()), FEATURE_HEIGHT)

    def _maps(self, picture: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor] | None]:
        batch = self.pictures.images[picture : picture + 1]
        source = {tap: m[0] for tap, m in tapped(self.backbone, self.backbone.model, batch)[1].items()}
        if self.target is None:
            return source, None
        return source, {tap: m[0] for tap, m in tapped(self.backbone, self.target, batch)[1].items()}

    def tap(self, layer: int) -> str:
        """The tapped module of a layer (from 1)."""
        return self.backbone.taps[layer - 1]

    def order(self, state: FeatureMapState) -> list[int]:
        """The layer's channels from strong to weak on this picture."""
        fm = self.maps(state.picture)[0][self.tap(state.layer)]
        return strongest_channels(fm, len(fm))

    def controls(self) -> list[widgets.Widget]:
        """Sliders for picture, layer and channel."""
        self.picture_slider = self.bind(slider("picture", len(self.pictures) - 1), "picture")
        self.layer_slider = self.bind(slider("layer", len(self.shapes), least=1), "layer")
        self.channel_slider = self.bind(slider("channel", 0), "channel")
        return [row(self.picture_slider, self.layer_slider, self.channel_slider)]

    def sync(self) -> None:
        """The channel slider goes as far as the layer has channels."""
        self.channel_slider.max = self.shapes[self.tap(self.state.layer)][0] - 1
        super().sync()

    def settle(self, state: FeatureMapState, given: set[str]) -> FeatureMapState:
        """The strongest channel, where none is asked for or the new layer has fewer."""
        if isinstance(state.layer, int) and 1 <= state.layer <= len(self.shapes) and "channel" not in given:
            count = self.shapes[self.tap(state.layer)][0]
            if state.channel is None or ("layer" in given and state.channel >= count):
                need_index("picture", state.picture, len(self.pictures))
                return replace(state, channel=self.order(state)[0])
        return state

    def check(self, state: FeatureMapState) -> None:
        """Picture, layer and channel must exist."""
        need_index("picture", state.picture, len(self.pictures))
        need_index("layer", state.layer, len(self.shapes), first=1)
        need_index("channel", state.channel, self.shapes[self.tap(state.layer)][0])

    def figure(self, state: FeatureMapState | None = None) -> LabFigure:
        """The channel, its picture and the layer's strongest channels."""
        state = state or self.state
        source, target = self.maps(state.picture)
        tap = self.tap(state.layer)
        return feature_panel(
            self.pictures.images[state.picture],
            source[tap],
            int(state.channel or 0),
            self.order(state),
            target=None if target is None else target[tap],
            mask=self.pictures.mask(state.picture),
        )

    def status(self, state: FeatureMapState) -> str:
        """Where one is, and the sizes of Eq. 1."""
        source, target = self.maps(state.picture)
        tap = self.tap(state.layer)
        fm = source[tap]
        channel = int(state.channel or 0)
        c, h, w = fm.shape
        words = (
            f"picture {state.picture}: {self.pictures.names[state.picture]} · layer {state.layer}: "
            f"FM_S = output of {tap}, {c} channels × {h} × {w} = {fm.numel()} numbers · channel {channel}: "
            f"rank {self.order(state).index(channel) + 1} of {c}, "
            f"mean |activation| {fm[channel].abs().mean():.3g}"
        )
        if target is not None:
            gap = (target[tap] - fm).square().sum() / fm.square().sum()
            words += f" · ‖FM_T − FM_S‖² = {100 * gap:.1f} % of ‖FM_S‖²"
        return words
