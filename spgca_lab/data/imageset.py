"""A split of a data set in memory, and ways to choose from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from spgca_lab._checks import check_whole_number, listed, quote


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, and with masks or paths if they exist.

    Args:
        images: uint8 [n, 3, s, s] with s = `stored_size(image_size)`.
        labels: int64 [n].
        classes: class names in the order of the labels.
        image_size: side of the network's input in pixels; it is cropped from `images`.
        masks: bool [n, s, s] of the object's visible pixels, or None if unknown.
        paths: source file of each image, or None.
        name: name of the split in messages.

    Raises:
        ValueError: if shapes, types or labels do not fit together.

    Example:
        >>> images = torch.zeros(2, 3, 73, 73, dtype=torch.uint8)
        >>> ImageSet(images, torch.tensor([0, 1]), ["dog", "wolf"], 64, name="two").describe()
        'two: 2 pictures of 73×73 px (input 64), 2 classes'
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: list[str]
    image_size: int
    masks: torch.Tensor | None = None
    paths: list[Path] | None = None
    name: str = "pictures"

    def __post_init__(self) -> None:
        for what, tensor in (("images", self.images), ("labels", self.labels)):
            if not isinstance(tensor, torch.Tensor) or not tensor.ndim:
                raise TypeError(f"{what} must be a tensor of one or more dimensions, got {quote(tensor)}")
        if not isinstance(self.classes, list) or not all(isinstance(name, str) for name in self.classes):
            raise TypeError(f"classes must be a list of names, got {quote(self.classes)}")
        if isinstance(self.image_size, bool) or not isinstance(self.image_size, int):
            raise TypeError(f"image_size must be a whole number, got {quote(self.image_size)}")
        shape, n = tuple(self.images.shape), len(self.images)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or self.images.dtype != torch.uint8:
            raise ValueError(f"images are {self.images.dtype} {shape}: expected torch.uint8 [n, 3, s, s]")
        if tuple(self.labels.shape) != (n,) or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels are {self.labels.dtype} {tuple(self.labels.shape)}: expected torch.int64 [{n}]"
            )
        if n and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"labels must lie in 0 … {len(self.classes) - 1}, one for each of the classes, got "
                f"{int(self.labels.min())} … {int(self.labels.max())} for {quote(self.classes)}"
            )
        if not 1 <= self.image_size <= shape[2]:
            raise ValueError(f"image_size {self.image_size} does not fit images of {shape[2]} px")
        masks = self.masks
        if masks is not None and (masks.dtype != torch.bool or tuple(masks.shape) != (n, *shape[2:])):
            raise ValueError(
                f"masks are {masks.dtype} {tuple(masks.shape)}: expected torch.bool {(n, *shape[2:])}"
            )
        if self.paths is not None and len(self.paths) != n:
            raise ValueError(f"{len(self.paths)} paths for {n} images")

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int] | torch.Tensor) -> "ImageSet":
        """Return the images at `indices` in that order, with the same classes."""
        chosen = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        outside = [i for i in chosen.tolist() if not -len(self) <= i < len(self)]
        if outside:
            raise IndexError(f"no image {outside[0]}: {self.name} has {len(self)}")
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            masks=None if self.masks is None else self.masks[chosen],
            paths=None if self.paths is None else [self.paths[i] for i in chosen.tolist()],
        )

    def describe(self) -> str:
        """Describe the set in one line."""
        side = self.images.shape[-1]
        masks = ", with masks" if self.masks is not None else ""
        return (
            f"{self.name}: {len(self)} pictures of {side}×{side} px (input {self.image_size}), "
            f"{len(self.classes)} classes{masks}"
        )


def check_per_class(per_class: object, test_per_class: object) -> None:
    """Raise a `ValueError` unless both are None or whole numbers of at least 1."""
    for name, value in (("per_class", per_class), ("test_per_class", test_per_class)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}: give a whole number of at least 1, or None for all")


def choose_per_class(
    labels: Sequence[int] | np.ndarray, classes: Sequence[str], count: int, seed: int, split: str, of: str
) -> list[int]:
    """Choose the rows of `count` images per class by the seed; a smaller count gives a subset of a larger one.

    Classes of the data set `of` with fewer images in the split ("train" or "test") are named by a `ValueError`.
    """
    rows = [np.flatnonzero(np.asarray(labels) == label) for label in range(len(classes))]
    short = [
        f"{name!r} has {len(each)}" for name, each in zip(classes, rows, strict=True) if len(each) < count
    ]
    if short:
        option = "per_class" if split == "train" else "test_per_class"
        raise ValueError(f"{option}={count} is more than some classes of {of} have: {listed(short, 20)}")
    chosen: list[int] = []
    for label, each in enumerate(rows):
        random = np.random.RandomState([seed, 0 if split == "train" else 1, label])
        chosen += sorted(each[random.permutation(len(each))[:count]].tolist())
    return chosen


def hold_out(train: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split a validation set off the training images, class by class.

    The split depends only on the seed and the number of images per class, so every method and training seed gets the
    same one.

    Args:
        train: training images; classes with fewer than two are named by a `ValueError`.
        share: share of each class to hold out, above 0 and below 1; at least one image of a class stays on either side.
        seed: seed of the choice.

    Returns:
        remaining training images and validation images, both in the order of `train`.

    Example:
        >>> four = ImageSet(torch.zeros(4, 3, 37, 37, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]), ["a", "b"], 32)
        >>> remaining, validation = hold_out(four, 0.5, seed=0)
        >>> remaining.labels.tolist(), validation.labels.tolist()
        ([0, 1], [0, 1])
    """
    if not 0 < share < 1:
        raise ValueError(f"validation must be above 0 and below 1, got {share!r}")
    check_whole_number("seed", seed, 0, 2**32 - 1)
    labels = train.labels.cpu().numpy()
    held_out = np.zeros(len(train), dtype=bool)
    single = []
    for label, name in enumerate(train.classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            single.append(name)
            continue
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held_out[np.random.RandomState([seed, 3, label]).permutation(rows)[:count]] = True
    if single:
        raise ValueError(
            f"validation={share:g} needs at least 2 training images per class of {train.name}: "
            f"{listed(single, show=repr)} have fewer"
        )
    remaining, validation = (
        train.subset(torch.from_numpy(np.flatnonzero(part))) for part in (~held_out, held_out)
    )
    return remaining, replace(validation, name=f"{train.name}, held out for validation")
