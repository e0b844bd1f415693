"""Images that a reader chooses: ready for a network, and as a strip of thumbnails to click on."""

import base64
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet, center_crop, exhibits, load_dataset, stored_size
from spgca_lab.data.decode import FORMATS, image_errors, to_rgb
from spgca_lab.data.folder import SUFFIXES
from spgca_lab.explorers.controls import ExplorerError, row, text_field
from spgca_lab.runs.store import Run

EMBEDDED, UPLOADED = "", "uploaded"
SMALLEST = 16
LARGEST_FILE = 20_000_000
MOST_PIXELS = 50_000_000
THUMBNAILS, SIDE = 11, 64
_numbers = itertools.count()


@dataclass(frozen=True)
class ImageBatch:
    """Images cropped to a network's input."""

    images: Tensor  # uint8 [n, 3, s, s]
    names: list[str]  # class or file of each image
    masks: Tensor | None = None  # bool [n, s, s], True on the object; None where unknown

    def __len__(self) -> int:
        return len(self.images)

    def mask(self, number: int) -> np.ndarray | None:
        """Return the object mask of an image, or None where it is unknown or empty."""
        if self.masks is None or not bool(self.masks[number].any()):
            return None
        return self.masks[number].numpy()

    @classmethod
    def of(cls, images: ImageSet, image_size: int) -> "ImageBatch":
        """Return the central crops of a data set that is at least as large as the network's input."""
        if not len(images) or images.images.shape[-1] < image_size:
            raise ExplorerError(f"needs images of at least {image_size} px, got {images.describe()}")
        masks = None if images.masks is None else center_crop(images.masks[:, None], image_size)[:, 0]
        names = [images.classes[label] for label in images.labels.tolist()]
        return cls(center_crop(images.images, image_size), names, masks)

    @classmethod
    def from_folder(cls, folder: str | Path, image_size: int, most: int = 60) -> "ImageBatch":
        """Read the images of a folder and of those below it, or `most` evenly chosen ones."""
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise ExplorerError(f"there is no folder {str(folder)!r}")
        files = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        if not files:
            raise ExplorerError(f"no images ({' '.join(SUFFIXES)}) in {str(folder)!r}")
        files = [files[i] for i in sorted(set(np.linspace(0, len(files) - 1, most).round().astype(int)))]
        crops = [_square(file, str(file), image_size) for file in files]
        return cls(torch.stack(crops), [file.relative_to(root).as_posix() for file in files])

    @classmethod
    def from_uploads(cls, uploads: Sequence[Mapping[str, Any]], image_size: int) -> "ImageBatch":
        """Read the value of an ipywidgets `FileUpload`: mappings with `name` and `content`."""
        if not uploads:
            raise ExplorerError("no file was uploaded: choose images first")
        crops, names = [], [str(upload["name"]) for upload in uploads]
        for name, upload in zip(names, uploads, strict=True):
            content = bytes(upload["content"])
            if len(content) > LARGEST_FILE:
                size, most = len(content) / 1e6, LARGEST_FILE / 1e6
                raise ExplorerError(f"{name!r} has {size:.0f} MB; at most {most:.0f}")
            crops.append(_square(io.BytesIO(content), name, image_size))
        return cls(torch.stack(crops), names)

    @classmethod
    def for_backbone(cls, backbone: Backbone, image_size: int) -> "ImageBatch":
        """Return embedded images: stickers for `mini`, scikit-image's photographs for the others."""
        if backbone.name == "mini":
            return cls.of(load_dataset("stickers", test_per_class=1, image_size=image_size)[1], image_size)
        crops = []
        for photograph in exhibits().values():
            square = center_crop(photograph[None], min(photograph.shape[1:])).float()
            shrunk = nn.functional.interpolate(square, (image_size,) * 2, mode="bilinear", antialias=True)
            crops.append(shrunk.round().clamp(0, 255).to(torch.uint8)[0])
        return cls(torch.stack(crops), list(exhibits()))

    @classmethod
    def of_run(cls, run: Run) -> "ImageBatch":
        """Return the probe images of a run."""
        probe = run.probe
        names = [str(probe["classes"][label]) for label in probe["labels"]]
        masks = torch.from_numpy(probe["masks"]).bool() if "masks" in probe else None
        return cls(torch.from_numpy(probe["images"]), names, masks)


class ImageStrip(widgets.VBox):
    """A row of thumbnails as buttons (a style sheet gives each its background), with fields for one's own images.

    `chosen` is called with the number of a clicked image, `placed` with `""` (embedded), `"uploaded"`, or a folder.
    """

    def __init__(self, chosen: Callable[[int], None], placed: Callable[[str], None], *, own: bool = True):
        self._chosen, self._placed = chosen, placed
        self._name = f"spgca-strip-{next(_numbers)}"
        self._first, self._updating = -1, False
        self._images: ImageBatch | None = None
        self.uploads: tuple[dict, ...] = ()
        self.style_sheet, self.frame = (widgets.HTML(layout=widgets.Layout(display="none")) for _ in range(2))
        self.thumbs = [self._thumb(i) for i in range(THUMBNAILS)]
        tip = "Where the images x of Eq. 1 come from: the path of a folder, or empty for the embedded images"
        hint = "your own images: a folder; empty: the embedded ones"
        self.place = text_field("folder", hint, tip=tip, width="420px")
        self.upload = widgets.FileUpload(
            accept="image/*",
            multiple=True,
            description="Upload images",
            tooltip="Images x from your own disk; they stay in memory",
            layout=widgets.Layout(width="auto"),
        )
        self.place.observe(self._typed, "value")
        self.upload.observe(self._uploaded, "value")
        thumbs = widgets.HBox(self.thumbs, layout=widgets.Layout(height=f"{SIDE + 12}px", overflow="hidden"))
        fields = [row(self.place, self.upload)] if own else []
        super().__init__([thumbs, *fields, self.style_sheet, self.frame])

    def show(self, images: ImageBatch, chosen: int, place: str) -> None:
        """Show the thumbnails around the chosen image, which gets a frame."""
        self._updating = True
        try:
            self.place.value = "" if place == UPLOADED else place
        finally:
            self._updating = False
        first = min(max(0, chosen - THUMBNAILS // 2), max(0, len(images) - THUMBNAILS))
        if self._images is images and self._first <= chosen < self._first + THUMBNAILS:
            first = self._first
        if self._images is not images or first != self._first:
            self._images, self._first = images, first
            self._fill(images, first)
        style = "outline:3px solid #D55E00;outline-offset:-3px;opacity:1"
        self.frame.value = f"<style>.{self._name}-{chosen - first}.jupyter-button{{{style}}}</style>"

    def _fill(self, images: ImageBatch, first: int) -> None:
        rules = []
        for i, thumb in enumerate(self.thumbs):
            number = first + i
            there = number < len(images)
            thumb.layout.visibility = "visible" if there else "hidden"
            thumb.tooltip = f"image {number}: {images.names[number]}" if there else "no further image"
            if there:
                background = f"background:url({_thumbnail(images, number)}) center/cover"
                rules.append(f".{self._name}-{i}.jupyter-button{{{background}}}")
        self.style_sheet.value = f"<style>{''.join(rules)}</style>"

    def _thumb(self, place: int) -> widgets.Button:
        side = f"{SIDE}px"
        thumb = widgets.Button(layout=widgets.Layout(width=side, height=side, margin="3px", padding="0"))
        thumb.add_class(f"{self._name}-{place}")
        thumb.on_click(lambda _: self._chosen(self._first + place))
        return thumb

    def _typed(self, change: dict) -> None:
        if not self._updating:
            self._placed(change["new"].strip())

    def _uploaded(self, change: dict) -> None:
        if change["new"]:
            self.uploads = tuple(change["new"])
            self._placed(UPLOADED)


class OwnImages:
    """A mixin for an explorer whose state has `place` and `picture`: a strip of images, a reader's own among them."""

    own_images = True
    uploads: Sequence[dict] = ()

    def shown_images(self, state: Any) -> ImageBatch:
        """Return the images of a state's place."""
        raise NotImplementedError

    def clear_images(self) -> None:
        """Empty the caches of images: other uploads come under the same place."""
        raise NotImplementedError

    def controls(self: Any) -> Sequence[widgets.Widget]:
        """Return the strip of images and the rows of controls."""
        chosen = partial(self.set_value, "picture")
        self.strip = ImageStrip(chosen, self.choose_place, own=self.own_images)
        return super().controls()  # type: ignore[misc]  # of the explorer

    def update_controls(self: Any) -> None:
        """Show the images, and set the controls."""
        self.strip.show(self.shown_images(self.state), self.state.picture, self.state.place)
        super().update_controls()  # type: ignore[misc]  # of the explorer

    def choose_place(self: Any, place: str) -> None:
        """Show the first image of another place; an error is shown, and nothing changes."""
        if place == UPLOADED:
            self.uploads = self.strip.uploads
            self.clear_images()
            self.clear_drawn()
        try:
            self.show(place=place, picture=0)
        except Exception as error:  # a reader's files may fail in any way
            self.show_error(error)

    def own_batch(self, place: str, image_size: int) -> ImageBatch:
        """Return the images of a place that is not embedded."""
        if place == UPLOADED:
            return ImageBatch.from_uploads(self.uploads, image_size)
        return ImageBatch.from_folder(place, image_size)


def _thumbnail(images: ImageBatch, number: int) -> str:
    thumbnail = Image.fromarray(np.ascontiguousarray(images.images[number].permute(1, 2, 0).numpy()))
    buffer = io.BytesIO()
    thumbnail.resize((SIDE, SIDE)).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _square(source: Path | io.BytesIO, name: str, image_size: int) -> Tensor:
    side = stored_size(image_size)
    try:
        with Image.open(source, formats=FORMATS) as opened:
            width, height = opened.size
            given = f"{name!r} has {width} × {height} pixels"
            if width * height > MOST_PIXELS:
                raise ExplorerError(f"{given}; at most {MOST_PIXELS:,} in all")
            if min(width, height) < SMALLEST:
                raise ExplorerError(f"{given}; an image needs at least {SMALLEST} on each side")
            pixels = np.asarray(to_rgb(opened).resize((side, side)))
    except ExplorerError:
        raise
    except image_errors() as error:
        raise ExplorerError(f"{name!r} is not an image that can be read: {error}") from error
    return center_crop(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], image_size)[0]
