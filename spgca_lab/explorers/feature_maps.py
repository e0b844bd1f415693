"""FeatureMapExplorer: what each layer makes of a picture, channel by channel, in S and in T (Eq. 1)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import ipywidgets as widgets
import torch
from torch import Tensor, nn

from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.data import ImageSet
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.nets import answer, tapped
from spgca_lab.explorers.parts import ExplorerError, need_index, need_one_of, picker, row, slider
from spgca_lab.explorers.pictures import Pictures
from spgca_lab.explorers.strip import EMBEDDED, UPLOADED, OwnPictures, PictureStrip
from spgca_lab.plots.panels.features import FEATURE_HEIGHT, feature_panel
from spgca_lab.plots.pictures import strongest_channels
from spgca_lab.plots.style import LabFigure
from spgca_lab.runs.load import load_run
from spgca_lab.runs.store import Run

__all__ = ["FeatureMapExplorer", "FeatureMapState"]

INSTALLED = ("lite0", "mini")


@dataclass(frozen=True)
class FeatureMapState(State):
    """Picture (from 0), layer (1–4) and channel (from 0); a channel of None is the layer's strongest.

    `backbone` is its name; `place` where pictures come from: `""` (embedded), `"uploaded"`, or a folder.
    """

    picture: int = 0
    layer: int = 1
    channel: int | None = None
    backbone: str = ""
    place: str = EMBEDDED


class FeatureMapExplorer(OwnPictures, Explorer[FeatureMapState]):
    """The feature maps of Eq. 1: FM_S, FM_T and their signed difference, for any picture, layer and channel.

    Args:
        backbone: a source, or its name. The other installed ones can be chosen in the view.
        images: pictures to begin with; None takes stickers for `mini`, photographs for the others.
        target: T, a module with the backbone's taps, or a finished `Run` (whose backbone is then S). Without
            one, S is shown alone.
        image_size: side of the input in pixels; None takes that of `images`, else the backbone's.
        state: what to show first.

    Raises:
        ExplorerError: when the state does not exist.
        BackboneError: for an unknown backbone.
        RunError: when the run has no weights.

    Example:
        >>> explorer = FeatureMapExplorer(load_backbone("mini", weights="random"))
        >>> explorer.show(layer=2, channel=5)
        >>> explorer.state.layer, explorer.state.channel
        (2, 5)
    """

    about = "Feature maps of one channel in the source and the target network"

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
        self.target: nn.Module | None = None
        if isinstance(target, Run):
            trained = load_run(target)
            own, self.target, self.target_classes = trained.backbone, trained.target, trained.classes
            image_size = image_size or target.recipe.image_size
        else:
            own = load_backbone(backbone) if isinstance(backbone, str) else backbone
            self.target = target
        self.own, self.images, self.image_size = own, images, image_size
        self.backbones = [own.name, *(name for name in INSTALLED if name != own.name)]
        self.source = lru_cache(maxsize=2)(self._source)
        self.pictures = lru_cache(maxsize=3)(self._pictures)
        self.maps = lru_cache(maxsize=16)(self._maps)
        # A dry run each; every move asks several times.
        self.shapes = lru_cache(maxsize=4)(lambda name: self.source(name).tap_shapes(self._size(name)))
        first = replace(state or FeatureMapState(), backbone=(state and state.backbone) or own.name)
        given = {
            "backbone": None if isinstance(target, Run) or backbone == "lite0" else backbone,
            "images": images,
            "target": target,
            "image_size": image_size,
            "state": state,
        }
        super().__init__(self.settle(first, set()), FEATURE_HEIGHT, given)

    @property
    def backbone(self) -> Backbone:
        """S of what is shown."""
        return self.source(self.state.backbone)

    def controls(self) -> list[widgets.Widget]:
        """The strip of pictures; backbone, picture, layer and channel."""
        self.strip = PictureStrip(lambda n: self._moved("picture", n), self.place_chosen)
        self.backbone_choice = self.bind(
            picker(
                "backbone",
                self.backbones,
                tip="The source network S, whose f(x, W_S) Eq. 1 taps",
                width="150px",
            ),
            "backbone",
        )
        tip = "Picture x of Eq. 1"
        self.picture_slider = self.bind(slider("picture", 0, tip=tip, width="195px"), "picture")
        tip = "Layer i of FM^i in Eq. 1: the four taps of Table 3"
        self.layer_slider = self.bind(slider("layer", 4, least=1, tip=tip, width="190px", live=True), "layer")
        tip = "Channel c of the C channels of FM^i (Eq. 1)"
        self.channel_slider = self.bind(slider("channel", 0, tip=tip, width="235px", live=True), "channel")
        return [
            self.strip,
            row(self.backbone_choice, self.picture_slider, self.layer_slider, self.channel_slider),
        ]

    def sync(self) -> None:
        """The sliders go as far as there are pictures and channels."""
        state = self.state
        pictures = self._shown(state)
        self.picture_slider.max = max(len(pictures) - 1, 0)
        self.channel_slider.max = self.shape(state)[0] - 1
        self.strip.show(pictures, state.picture, state.place)
        super().sync()

    def settle(self, state: FeatureMapState, given: set[str]) -> FeatureMapState:
        """The first picture of another place, the strongest channel where none is asked for or it is gone."""
        if state.backbone not in self.backbones:
            return state
        pictures = self._shown(state)
        if given & {"place", "backbone"} and "picture" not in given and state.picture >= len(pictures):
            state = replace(state, picture=0)
        known = isinstance(state.layer, int) and 1 <= state.layer <= 4
        if known and "channel" not in given:
            lacks = state.channel is not None and state.channel >= self.shape(state)[0]
            if state.channel is None or lacks or "backbone" in given:
                need_index("picture", state.picture, len(pictures))
                return replace(state, channel=self.order(state)[0])
        return state

    def check(self, state: FeatureMapState) -> None:
        """Backbone, picture, layer and channel must exist."""
        need_one_of("backbone", state.backbone, self.backbones)
        need_index("picture", state.picture, len(self._shown(state)))
        need_index("layer", state.layer, 4, first=1)
        need_index("channel", state.channel, self.shape(state)[0])

    def tap(self, state: FeatureMapState) -> str:
        """The tapped module of the state's layer."""
        return self.source(state.backbone).taps[state.layer - 1]

    def shape(self, state: FeatureMapState) -> tuple[int, int, int]:
        """C, H and W of the layer's map."""
        return self.shapes(state.backbone)[self.tap(state)]

    def order(self, state: FeatureMapState) -> list[int]:
        """The layer's channels from strong to weak on this picture."""
        fm = self._pair(state)[0]
        return strongest_channels(fm, len(fm))

    def figure(self, state: FeatureMapState | None = None) -> LabFigure:
        """The channel in S, in T, their difference, and the layer's strongest channels."""
        state = state or self.state
        fm_s, fm_t = self._pair(state)
        pictures = self._shown(state)
        return feature_panel(
            pictures.images[state.picture],
            fm_s,
            int(state.channel or 0),
            self.order(state),
            target=fm_t,
            mask=pictures.mask(state.picture),
        )

    def status(self, state: FeatureMapState) -> str:
        """Where one is, the sizes of Eq. 1, and what the networks answer."""
        fm_s, fm_t = self._pair(state)
        size, (c, h, w) = self._size(state.backbone), fm_s.shape
        names = "FM_S" if fm_t is None else "FM_S, FM_T"
        pictures = self._shown(state)
        words = [
            f"picture {state.picture} of {len(pictures)}: {pictures.names[state.picture]}",
            f"Eq. 1: x [3, {size}, {size}] → {names} = output of {self.tap(state)}, "
            f"{c} channels × {h} × {w} = {fm_s.numel()} numbers",
        ]
        said = self.maps(state.backbone, state.place, state.picture)[2:]
        words += [f"{who} answers {what}" for who, what in zip("ST", said, strict=True) if what]
        return " · ".join(words)

    def caption(self, state: FeatureMapState) -> str:
        """How strong the channel is, and how far T has moved from S."""
        fm_s, fm_t = self._pair(state)
        channel = int(state.channel or 0)
        rank = self.order(state).index(channel) + 1
        place = "the strongest" if rank == 1 else f"number {rank} in strength"
        words = f"Channel {channel} is {place} of {len(fm_s)} in layer {state.layer}"
        if fm_t is None:
            return words + "; no target is given, so S is shown alone."
        return (
            f"{words}; T has moved it by {_moved_by(fm_s[channel], fm_t[channel])} of FM_S, "
            f"the whole layer by {_moved_by(fm_s, fm_t)}."
        )

    def _pair(self, state: FeatureMapState) -> tuple[Tensor, Tensor | None]:
        tap, maps = self.tap(state), self.maps(state.backbone, state.place, state.picture)
        return maps[0][tap], None if maps[1] is None else maps[1][tap]

    def forget_pictures(self) -> None:
        """Look anew at what was uploaded."""
        self.pictures.cache_clear()
        self.maps.cache_clear()

    def _shown(self, state: FeatureMapState) -> Pictures:
        return self.pictures(state.backbone, state.place)

    def _size(self, backbone: str) -> int:
        if backbone == self.own.name:
            images = self.images.image_size if self.images is not None else None
            return self.image_size or images or self.own.image_size
        return self.source(backbone).image_size

    def _source(self, name: str) -> Backbone:
        return self.own if name == self.own.name else load_backbone(name)

    def _pictures(self, backbone: str, place: str) -> Pictures:
        size = self._size(backbone)
        if place == UPLOADED:
            return Pictures.from_uploads(self.uploads, size)
        if place != EMBEDDED:
            return Pictures.from_folder(place, size)
        if self.images is not None:
            if self.images.images.shape[-1] < size and backbone != self.own.name:
                raise ExplorerError(f"{backbone} needs {size} px; {self.images.describe()}")
            return Pictures.of(self.images, size)
        return Pictures.for_backbone(self.source(backbone), size)

    def _maps(
        self, backbone: str, place: str, picture: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, str, str]:
        source, batch = self.source(backbone), self.pictures(backbone, place).images[picture : picture + 1]
        logits, maps = tapped(source, source.model, batch)
        maps_s = {tap: m[0] for tap, m in maps.items()}
        said = answer(logits[0], source.classes) if source.classes else ""
        if self.target is None or backbone != self.own.name:
            return maps_s, None, said, ""
        logits, maps = tapped(source, self.target, batch)
        said_t = answer(logits[0], self.target_classes) if self.target_classes else ""
        return maps_s, {tap: m[0] for tap, m in maps.items()}, said, said_t


def _moved_by(fm_s: torch.Tensor, fm_t: torch.Tensor) -> str:
    whole = float(fm_s.square().sum())
    return f"{100 * float((fm_t - fm_s).square().sum()) / whole:.1f} %" if whole else "a part of nothing"
