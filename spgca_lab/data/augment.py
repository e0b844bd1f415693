"""Random crop and flip of a whole batch, drawn apart from where they are cut, and the centre crop of evaluation."""

from dataclasses import dataclass
from typing import Self, overload

import torch

from spgca_lab._checks import quote

__all__ = ["Crops", "center_crop", "cut", "gather", "random_crop_flip", "stored_size"]

LARGEST = 16_384


def stored_size(image_size: int) -> int:
    """Side at which pictures are kept for a network's input size: round(8/7 · image_size).

    Args:
        image_size: side of the network's input in pixels.

    Returns:
        side in pixels: 256 for 224, 73 for 64.

    Raises:
        ValueError: if `image_size` is not a whole number from 1 to 16,384.

    Source:
        256 → 224 of the paper's Section 4.2, kept as a ratio.

    Example:
        >>> stored_size(224), stored_size(64)
        (256, 73)
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 1 <= image_size <= LARGEST:
        raise ValueError(f"image_size is {quote(image_size)}: give a whole number from 1 to {LARGEST:,}")
    return (image_size * 16 + 7) // 14


def _check(images: torch.Tensor, size: int) -> None:
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: expected [n, c, height, width]")
    if not 1 <= size <= min(images.shape[-2:]):
        raise ValueError(f"a crop of {size} does not fit pictures of {images.shape[-2]}×{images.shape[-1]}")


@dataclass(frozen=True)
class Crops:
    """Where each picture of a batch is cut, and whether it is mirrored.

    Args:
        size: side of the crops.
        down: first row, `[n]`.
        right: first column, `[n]`.
        flip: mirrored or not, `[n]`, bool.

    Example:
        >>> crops = Crops.draw(4, 37, 37, 32, torch.Generator().manual_seed(0))
        >>> len(crops.down), len(crops.part(slice(1, 3)).down)
        (4, 2)
    """

    size: int
    down: torch.Tensor
    right: torch.Tensor
    flip: torch.Tensor

    @classmethod
    def draw(cls, n: int, height: int, width: int, size: int, generator: torch.Generator) -> Self:
        """Crops for `n` pictures, each at its own place and mirrored with probability 1/2, drawn on the CPU."""
        down = torch.randint(0, height - size + 1, (n, 1), generator=generator)
        right = torch.randint(0, width - size + 1, (n, 1), generator=generator)
        flip = torch.randint(0, 2, (n, 1), generator=generator).bool()
        return cls(size, down[:, 0], right[:, 0], flip[:, 0])

    def part(self, rows: slice) -> "Crops":
        """Those of a part of the batch."""
        return Crops(self.size, self.down[rows], self.right[rows], self.flip[rows])

    def to(self, device: torch.device) -> "Crops":
        """The same on a device."""
        return Crops(self.size, self.down.to(device), self.right.to(device), self.flip.to(device))


def cut(images: torch.Tensor, crops: Crops, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Crops of pictures: slice by slice on a CPU, on a GPU in one gather; the pixels are the same.

    Args:
        images: [m, c, height, width], any dtype.
        crops: of n pictures, on the device of `images`, or on the CPU if that is where they are.
        rows: which picture each crop is of, [n]; None: the first of the first, and so on.

    Returns:
        [n, c, size, size]; on a GPU, channels last.

    Example:
        >>> pictures = torch.arange(2 * 1 * 3 * 3).reshape(2, 1, 3, 3)
        >>> places = [torch.tensor([1]), torch.tensor([0]), torch.tensor([True])]
        >>> cut(pictures, Crops(2, *places), rows=torch.tensor([1])).tolist()
        [[[[13, 12], [16, 15]]]]
    """
    n, size = len(crops.down), crops.size
    if images.device.type != "cpu":
        return gather(images, crops, torch.arange(n, device=images.device) if rows is None else rows)
    found = images.new_empty(n, images.shape[1], size, size)
    picked = range(n) if rows is None else rows.tolist()
    places = zip(picked, crops.down.tolist(), crops.right.tolist(), crops.flip.tolist(), strict=True)
    for place, (row, down, right, flip) in enumerate(places):
        crop = images[row, :, down : down + size, right : right + size]
        found[place] = crop.flip(-1) if flip else crop
    return found


def gather(images: torch.Tensor, crops: Crops, rows: torch.Tensor) -> torch.Tensor:
    """The same as `cut`, in one gather that can be compiled.

    Example:
        >>> pictures = torch.arange(3 * 3).reshape(1, 1, 3, 3)
        >>> places = [torch.tensor([1]), torch.tensor([0]), torch.tensor([True])]
        >>> gather(pictures, Crops(2, *places), torch.tensor([0])).tolist()
        [[[[4, 3], [7, 6]]]]
    """
    steps = torch.arange(crops.size, device=images.device)[None]
    down = crops.down[:, None] + steps
    right = crops.right[:, None] + torch.where(crops.flip[:, None], crops.size - 1 - steps, steps)
    # The two indices around a slice put the channels last, which is how networks want them.
    return images[rows[:, None, None], :, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


@overload
def random_crop_flip(
    images: torch.Tensor, size: int, generator: torch.Generator, masks: None = None
) -> torch.Tensor: ...


@overload
def random_crop_flip(
    images: torch.Tensor, size: int, generator: torch.Generator, masks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]: ...


def random_crop_flip(
    images: torch.Tensor,
    size: int,
    generator: torch.Generator,
    masks: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Crop every picture at its own place and mirror it with probability 1/2.

    Places and flips are drawn on the CPU, so that every device sees the same; pixels move on the device of `images`.

    Args:
        images: [n, c, height, width], any dtype.
        size: side of the crop.
        generator: CPU generator.
        masks: [n, height, width], cropped and mirrored alike.

    Returns:
        [n, c, size, size]; with `masks`, also their [n, size, size].

    Raises:
        ValueError: if shapes do not fit, naming them.

    Example:
        >>> pictures = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
        >>> random_crop_flip(pictures, 4, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 4, 4])
    """
    _check(images, size)
    n, _, height, width = images.shape
    if masks is not None and masks.shape != (n, height, width):
        raise ValueError(f"masks have shape {tuple(masks.shape)}: expected {(n, height, width)}")
    crops = Crops.draw(n, height, width, size, generator)
    cropped = cut(images, crops.to(images.device))
    if masks is None:
        return cropped
    return cropped, cut(masks[:, None], crops.to(masks.device))[:, 0]


def center_crop(images: torch.Tensor, size: int) -> torch.Tensor:
    """The middle `size` × `size` pixels; of an odd remainder, the smaller half is cut at the top and left.

    Args:
        images: [n, c, height, width].
        size: side of the crop.

    Returns:
        [n, c, size, size], a view.

    Raises:
        ValueError: if the crop does not fit.

    Example:
        >>> center_crop(torch.zeros(1, 3, 73, 73), 64).shape
        torch.Size([1, 3, 64, 64])
    """
    _check(images, size)
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]
