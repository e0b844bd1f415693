"""A split of a data set, decoded once and held in memory as uint8."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spgca_lab._checks import quote

__all__ = ["ImageSet"]


@dataclass(frozen=True)
class ImageSet:
    """Pictures with labels, and masks or paths where there are any.

    Args:
        images: uint8 [n, 3, s, s] with s = `stored_size(image_size)`.
        labels: int64 [n].
        classes: class names in the order of the labels.
        image_size: side of the network's input in pixels; crops of it are taken from `images`.
        masks: bool [n, s, s] of the object's visible pixels, or None where unknown.
        paths: files that the pictures came from, or None.
        name: what the split is called in messages.

    Raises:
        ValueError: if shapes or types do not fit together.

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
            raise ValueError(f"image_size {self.image_size} does not fit pictures of {shape[2]} px")
        masks = self.masks
        if masks is not None and (masks.dtype != torch.bool or tuple(masks.shape) != (n, *shape[2:])):
            raise ValueError(
                f"masks are {masks.dtype} {tuple(masks.shape)}: expected torch.bool {(n, *shape[2:])}"
            )
        if self.paths is not None and len(self.paths) != n:
            raise ValueError(f"{len(self.paths)} paths for {n} pictures")

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int] | torch.Tensor) -> "ImageSet":
        """The pictures at the given places, in that order; classes stay as they are.

        Args:
            indices: places in the set, [k].

        Returns:
            a new set of k pictures.

        Raises:
            IndexError: if a place lies outside the set, quoting it.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        outside = [i for i in chosen.tolist() if not -len(self) <= i < len(self)]
        if outside:
            raise IndexError(f"no picture {outside[0]}: {self.name} has {len(self)}")
        return ImageSet(
            images=self.images[chosen],
            labels=self.labels[chosen],
            classes=self.classes,
            image_size=self.image_size,
            masks=None if self.masks is None else self.masks[chosen],
            paths=None if self.paths is None else [self.paths[i] for i in chosen.tolist()],
            name=self.name,
        )

    def describe(self) -> str:
        """One line on what the set holds."""
        side = self.images.shape[-1]
        masks = ", with masks" if self.masks is not None else ""
        return (
            f"{self.name}: {len(self)} pictures of {side}×{side} px (input {self.image_size}), "
            f"{len(self.classes)} classes{masks}"
        )
