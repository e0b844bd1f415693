"""Pictures ready for a network: embedded ones, a folder's, or files a reader uploads."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet, center_crop, exhibits, load_dataset, stored_size
from spgca_lab.data.decode import FORMATS, picture_errors, to_rgb
from spgca_lab.data.folder import SUFFIXES
from spgca_lab.explorers.parts import ExplorerError
from spgca_lab.runs.store import Run

__all__ = ["Pictures", "pictures_of_run"]

SMALLEST = 16
LARGEST_FILE = 20_000_000
MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class Pictures:
    """Pictures as a network sees them: cropped to its input.

    Args:
        images: uint8 `[n, 3, s, s]`.
        names: what each picture shows, `[n]`.
        masks: bool `[n, s, s]`, or None where unknown.

    Example:
        >>> Pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["dark"]).mask(0) is None
        True
    """

    images: Tensor
    names: list[str]
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def mask(self, picture: int) -> np.ndarray | None:
        """The object of a picture, None where unknown or out of sight."""
        if self.masks is None or not bool(self.masks[picture].any()):
            return None
        return self.masks[picture].numpy()

    @classmethod
    def of(cls, images: ImageSet, image_size: int) -> "Pictures":
        """The central crops of a data set.

        Raises:
            ExplorerError: when it is empty, or smaller than the network's input.
        """
        if not len(images) or images.images.shape[-1] < image_size:
            raise ExplorerError(f"needs pictures of at least {image_size} px, got {images.describe()}")
        masks = None if images.masks is None else center_crop(images.masks[:, None], image_size)[:, 0]
        names = [images.classes[label] for label in images.labels.tolist()]
        return cls(center_crop(images.images, image_size), names, masks)

    @classmethod
    def from_folder(cls, folder: str | Path, image_size: int, most: int = 60) -> "Pictures":
        """Pictures of any folder and those below it, resized as for training; of many, `most` evenly chosen ones.

        Args:
            folder: with pictures, in classes or not.
            image_size: side of the network's input in pixels.
            most: pictures at most.

        Raises:
            ExplorerError: when there is no such folder, no picture in it, or one that cannot be shown, naming it.
        """
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise ExplorerError(f"there is no folder {str(folder)!r}")
        files = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        if not files:
            raise ExplorerError(f"no pictures ({' '.join(SUFFIXES)}) in {str(folder)!r}")
        files = [files[i] for i in sorted(set(np.linspace(0, len(files) - 1, most).round().astype(int)))]
        crops = [_square(file, str(file), image_size) for file in files]
        names = [file.relative_to(root).as_posix() for file in files]
        return cls(torch.stack(crops), names)

    @classmethod
    def from_uploads(cls, uploads: Sequence[Mapping[str, Any]], image_size: int) -> "Pictures":
        """Files that a reader chose in the browser; they stay in memory.

        Args:
            uploads: the value of ipywidgets' `FileUpload`: mappings with `name`, `size` and `content`.
            image_size: side of the network's input in pixels.

        Raises:
            ExplorerError: naming the file that is too large, no picture, or a picture of a few pixels.

        Example:
            >>> Pictures.from_uploads([{"name": "notes.txt", "size": 2, "content": b"hi"}], 64)
            Traceback (most recent call last):
            ...
            spgca_lab.explorers.parts.ExplorerError: 'notes.txt' is not a picture that can be read: ...
        """
        if not uploads:
            raise ExplorerError("no file was uploaded: choose pictures first")
        crops, names = [], []
        for upload in uploads:
            name, content = str(upload["name"]), bytes(upload["content"])
            if len(content) > LARGEST_FILE:
                raise ExplorerError(
                    f"{name!r} has {len(content) / 1e6:.0f} MB; at most {LARGEST_FILE / 1e6:.0f}"
                )
            crops.append(_square(io.BytesIO(content), name, image_size))
            names.append(name)
        return cls(torch.stack(crops), names)

    @classmethod
    def for_backbone(cls, backbone: Backbone, image_size: int) -> "Pictures":
        """Pictures to begin with: stickers for `mini`, scikit-image's photographs for the others."""
        if backbone.name == "mini":
            return cls.of(load_dataset("stickers", test_per_class=1, image_size=image_size)[1], image_size)
        crops = []
        for picture in exhibits().values():
            side = min(picture.shape[1:])
            square = center_crop(picture[None], side).float()
            shrunk = nn.functional.interpolate(square, (image_size,) * 2, mode="bilinear", antialias=True)
            crops.append(shrunk.round().clamp(0, 255).to(torch.uint8)[0])
        return cls(torch.stack(crops), list(exhibits()))


def pictures_of_run(run: Run) -> Pictures:
    """The probe pictures of a run."""
    probe = run.probe
    names = [str(probe["classes"][label]) for label in probe["labels"]]
    masks = torch.from_numpy(probe["masks"]).bool() if "masks" in probe else None
    return Pictures(torch.from_numpy(probe["images"]), names, masks)


def _square(source: Path | io.BytesIO, name: str, image_size: int) -> Tensor:
    side = stored_size(image_size)
    try:
        with Image.open(source, formats=FORMATS) as opened:
            wide, high = opened.size
            if wide * high > MOST_PIXELS:
                raise ExplorerError(f"{name!r} has {wide} × {high} pixels; at most {MOST_PIXELS:,} in all")
            if min(wide, high) < SMALLEST:
                raise ExplorerError(
                    f"{name!r} has {wide} × {high} pixels; a picture needs at least {SMALLEST} on each side"
                )
            picture = to_rgb(opened).resize((side, side))
    except ExplorerError:
        raise
    except picture_errors() as error:
        raise ExplorerError(f"{name!r} is not a picture that can be read: {error}") from error
    return center_crop(torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None], image_size)[0]
