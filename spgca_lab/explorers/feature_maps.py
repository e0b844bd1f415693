"""FeatureMapExplorer: the feature maps of an image, channel by channel, in S and in T (Eq. 1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.data import ImageSet
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.controls import Control, ExplorerError
from spgca_lab.explorers.forward import prediction, tapped
from spgca_lab.explorers.images import EMBEDDED, ImageBatch, OwnImages
from spgca_lab.plots.images import strongest_channels
from spgca_lab.plots.panels.features import FEATURE_HEIGHT, feature_panel
from spgca_lab.plots.style import LabFigure
from spgca_lab.runs.load import load_run
from spgca_lab.runs.store import Run

INSTALLED = ("lite0", "mini")


@dataclass(frozen=True)
class FeatureMapState(State):
    """Image (from 0), layer (1–4) and channel (from 0); a channel of None is the layer's strongest.

    `backbone` is a name; `place` is where images come from: `""` (embedded), `"uploaded"`, or a folder.
    """

    picture: int = 0
    layer: int = 1
    channel: int | None = None
    backbone: str = ""
    place: str = EMBEDDED


class FeatureMapExplorer(OwnImages, Explorer[FeatureMapState]):
    """The feature maps of Eq. 1: FM_S, FM_T and their signed difference, for any image, layer and channel.

    Args:
        backbone: a source, or its name; the other installed ones can be chosen in the view.
        images: images to begin with; None takes stickers for `mini`, photographs for the others.
        target: T, a module with the backbone's taps, or a finished `Run` (whose backbone is then S). Without one, S
            is shown alone.
        image_size: side of the input in pixels; None takes that of `images`, else the backbone's.

    Raises:
        ExplorerError: when the state does not exist.
        BackboneError: for an unknown backbone.
        RunError: when the run has no weights.
    """

    about = "Feature maps of one channel in the source and the target network"
    tips: ClassVar = {
        "backbone": "The source network S, whose f(x, W_S) Eq. 1 taps",
        "picture": "Image x of Eq. 1",
        "layer": "Layer i of FM^i in Eq. 1: the four taps of Table 3",
        "channel": "Channel c of the C channels of FM^i (Eq. 1)",
    }
    table = ({"strip": 0}, {"backbone": 150, "picture": 195, "layer": 190, "channel": 235})

    def __init__(
        self,
        backbone: str | Backbone = "lite0",
        images: ImageSet | None = None,
        target: nn.Module | Run | None = None,
        *,
        image_size: int | None = None,
        state: FeatureMapState | None = None,
    ):
        self.target_classes: Sequence[str] | None = None
        self.target: nn.Module | None
        if isinstance(target, Run):
            trained = load_run(target)
            self.own, self.target, self.target_classes = trained.backbone, trained.target, trained.classes
            image_size = image_size or target.recipe.image_size
        else:
            self.own = load_backbone(backbone) if isinstance(backbone, str) else backbone
            self.target = target
        self.given_images, self.image_size = images, image_size
        self.backbones = [self.own.name, *(name for name in INSTALLED if name != self.own.name)]
        self.source = lru_cache(maxsize=2)(lambda n: self.own if n == self.own.name else load_backbone(n))
        self.images_at = lru_cache(maxsize=3)(self._images_at)
        self.maps = lru_cache(maxsize=16)(self._maps)
        # Each shape needs a dry run, and every move asks for several.
        self._shapes = lru_cache(maxsize=4)(lambda name: self.source(name).tap_shapes(self._size(name)))
        first = replace(state or FeatureMapState(), backbone=(state and state.backbone) or self.own.name)
        super().__init__(first, FEATURE_HEIGHT)

    @property
    def backbone(self) -> Backbone:
        """The source network that is shown."""
        return self.source(self.state.backbone)

    def ranges(self, state: FeatureMapState) -> Iterator[Control]:
        """Yield backbones, images, layers and channels."""
        yield Control("backbone", self.backbones, kind="choice")
        yield Control("picture", range(len(self.shown_images(state))), label="image", live=False, default=0)
        yield Control("layer", range(1, 5))
        yield Control("channel", range(self.shape(state)[0]), default=lambda: self.ranked_channels(state)[0])

    def adjust(self, state: FeatureMapState, given: set[str]) -> FeatureMapState:
        """Choose the strongest channel of another backbone."""
        if "backbone" in given and "channel" not in given:
            state = replace(state, channel=None)
        return super().adjust(state, given)

    def tap(self, state: FeatureMapState) -> str:
        """Return the tapped module of the state's layer."""
        return self.source(state.backbone).taps[state.layer - 1]

    def shape(self, state: FeatureMapState) -> tuple[int, int, int]:
        """Return C, H and W of the layer's map."""
        return self._shapes(state.backbone)[self.tap(state)]

    def ranked_channels(self, state: FeatureMapState) -> list[int]:
        """Return the layer's channels from strong to weak on this image."""
        fm = self._pair(state)[0]
        return strongest_channels(fm, len(fm))

    def figure(self, state: FeatureMapState | None = None) -> LabFigure:
        """Draw the channel in S, in T, their difference, and the layer's strongest channels."""
        state = state or self.state
        fm_s, fm_t = self._pair(state)
        images = self.shown_images(state)
        image, mask = images.images[state.picture], images.mask(state.picture)
        channel, ranked = int(state.channel or 0), self.ranked_channels(state)
        return feature_panel(image, fm_s, channel, ranked, target=fm_t, mask=mask)

    def status(self, state: FeatureMapState) -> str:
        """Return the image, the sizes of Eq. 1, and the networks' predictions."""
        fm_s, fm_t = self._pair(state)
        size, (c, h, w), images = self._size(state.backbone), fm_s.shape, self.shown_images(state)
        names = "FM_S" if fm_t is None else "FM_S, FM_T"
        predictions = zip("ST", self.maps(state.backbone, state.place, state.picture)[2:], strict=True)
        parts = [
            f"image {state.picture} of {len(images)}: {images.names[state.picture]}",
            f"Eq. 1: x [3, {size}, {size}] → {names} = output of {self.tap(state)}, "
            f"{c} channels × {h} × {w} = {fm_s.numel()} numbers",
            *(f"{network} predicts {text}" for network, text in predictions if text),
        ]
        return " · ".join(parts)

    def caption(self, state: FeatureMapState) -> str:
        """Return the channel's rank, and how far T has moved from S."""
        fm_s, fm_t = self._pair(state)
        channel = int(state.channel or 0)
        rank = self.ranked_channels(state).index(channel) + 1
        place = "the strongest" if rank == 1 else f"number {rank} in strength"
        sentence = f"Channel {channel} is {place} of {len(fm_s)} in layer {state.layer}"
        if fm_t is None:
            return sentence + "; no target is given, so S is shown alone."
        moved, whole = _moved_by(fm_s[channel], fm_t[channel]), _moved_by(fm_s, fm_t)
        return f"{sentence}; T has moved it by {moved} of FM_S, the whole layer by {whole}."

    def shown_images(self, state: FeatureMapState) -> ImageBatch:
        """Return the images of a state's place."""
        return self.images_at(state.backbone, state.place)

    def clear_images(self) -> None:
        """Empty the caches of images and maps."""
        self.images_at.cache_clear()
        self.maps.cache_clear()

    def _pair(self, state: FeatureMapState) -> tuple[Tensor, Tensor | None]:
        tap, (maps_s, maps_t, *_) = self.tap(state), self.maps(state.backbone, state.place, state.picture)
        return maps_s[tap], None if maps_t is None else maps_t[tap]

    def _size(self, backbone: str) -> int:
        if backbone != self.own.name:
            return self.source(backbone).image_size
        images = self.given_images.image_size if self.given_images is not None else None
        return self.image_size or images or self.own.image_size

    def _images_at(self, backbone: str, place: str) -> ImageBatch:
        size, given = self._size(backbone), self.given_images
        if place != EMBEDDED:
            return self.own_batch(place, size)
        if given is None:
            return ImageBatch.for_backbone(self.source(backbone), size)
        if given.images.shape[-1] < size and backbone != self.own.name:
            raise ExplorerError(f"{backbone} needs {size} px; {given.describe()}")
        return ImageBatch.of(given, size)

    def _maps(
        self, backbone: str, place: str, picture: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, str, str]:
        source, batch = self.source(backbone), self.images_at(backbone, place).images[picture : picture + 1]

        def run(model: nn.Module, classes: Sequence[str] | None) -> tuple[dict[str, Tensor], str]:
            logits, maps = tapped(source, model, batch)
            return {tap: m[0] for tap, m in maps.items()}, prediction(logits[0], classes) if classes else ""

        maps_s, text_s = run(source.model, source.classes)
        if self.target is None or backbone != self.own.name:
            return maps_s, None, text_s, ""
        maps_t, text_t = run(self.target, self.target_classes)
        return maps_s, maps_t, text_s, text_t


def _moved_by(fm_s: torch.Tensor, fm_t: torch.Tensor) -> str:
    whole = float(fm_s.square().sum())
    return f"{100 * float((fm_t - fm_s).square().sum()) / whole:.1f} %" if whole else "a part of nothing"
