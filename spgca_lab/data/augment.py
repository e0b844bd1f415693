"""Augmentations of training images by name, and the centre crop of evaluation."""

import math
from collections.abc import Callable
from functools import partial
from typing import overload

import torch
from torch import Tensor

from spgca_lab._checks import quote

LARGEST = 16_384
# Scale and aspect ratio of `random_resized_crop`, as in torchvision.
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def stored_size(image_size: int) -> int:
    """Return the side at which images are stored for a network's input size: round(8/7 · image_size).

    A `ValueError` quotes an `image_size` that is not a whole number from 1 to 16,384.

    Source:
        256 → 224 of the paper's Section 4.2, kept as a ratio.

    Example:
        >>> stored_size(224), stored_size(64)
        (256, 73)
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 1 <= image_size <= LARGEST:
        raise ValueError(f"image_size is {quote(image_size)}: give a whole number from 1 to {LARGEST:,}")
    return (image_size * 16 + 7) // 14


def center_crop(images: Tensor, size: int) -> Tensor:
    """Return the middle `size` × `size` pixels; of an odd remainder, the smaller half is cut at the top and left.

    Args:
        images: `[n, c, height, width]`.
        size: side of the crop.

    Returns:
        `[n, c, size, size]`, a view.
    """
    _check(images, size)
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


@overload
def random_crop_flip(images: Tensor, size: int, generator: torch.Generator, masks: None = None) -> Tensor: ...


@overload
def random_crop_flip(
    images: Tensor, size: int, generator: torch.Generator, masks: Tensor
) -> tuple[Tensor, Tensor]: ...


def random_crop_flip(
    images: Tensor, size: int, generator: torch.Generator, masks: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Crop each image at its own place and flip it with probability 1/2.

    Places and flips are drawn on the CPU, so that every device sees the same.

    Args:
        images: `[n, c, height, width]`, any dtype.
        size: side of the crop.
        generator: on the CPU.
        masks: `[n, height, width]`, cropped and flipped alike.

    Returns:
        `[n, c, size, size]`; with `masks`, also their `[n, size, size]`.

    Example:
        >>> images = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
        >>> random_crop_flip(images, 4, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 4, 4])
    """
    _check(images, size)
    n, _, height, width = images.shape
    if masks is not None and masks.shape != (n, height, width):
        raise ValueError(f"masks have shape {tuple(masks.shape)}: expected {(n, height, width)}")
    plan = _plan(images, size, generator)
    cropped = _cut(images, size, *plan)
    return cropped if masks is None else (cropped, _cut(masks[:, None], size, *plan)[:, 0])


def _crop_or_flip(
    images: Tensor, size: int, generator: torch.Generator, *, crop: bool = False, flip: bool = False
) -> Tensor:
    _check(images, size)
    return _cut(images, size, *_plan(images, size, generator, crop=crop, flip=flip))


def _random_resized_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    from torchvision.transforms.v2 import functional

    _check(images, size)
    n, _, height, width = images.shape
    area = height * width * torch.empty(n).uniform_(*AREA, generator=generator)
    ratio = torch.empty(n).uniform_(math.log(RATIO[0]), math.log(RATIO[1]), generator=generator).exp()
    tall = (area / ratio).sqrt().round().clamp(1, height).long()
    wide = (area * ratio).sqrt().round().clamp(1, width).long()
    room = torch.stack([height - tall + 1, width - wide + 1])
    down, right = (torch.rand(2, n, generator=generator) * room).long()
    boxes = torch.stack([down, right, tall, wide]).T.tolist()
    crops = [
        functional.resized_crop(image, *box, [size, size], antialias=True)
        for image, box in zip(images, boxes, strict=True)
    ]
    return _crop_or_flip(torch.stack(crops), size, generator, flip=True)


# Each takes stored images `[n, c, height, width]`, the side of the network's input and a CPU generator.
AUGMENTATIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "crop_flip": random_crop_flip,
    "crop": partial(_crop_or_flip, crop=True),
    "flip": partial(_crop_or_flip, flip=True),
    "random_resized_crop": _random_resized_crop,
    "none": lambda images, size, _generator: center_crop(images, size),
}


def _plan(
    images: Tensor, size: int, generator: torch.Generator, *, crop: bool = True, flip: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the upper left corner of each crop, int64 [2, n], drawn or central, and which crops to flip, bool [n]."""
    n = len(images)
    places = torch.stack(
        [
            torch.randint(0, room + 1, (n, 1), generator=generator)[:, 0]
            if crop
            else torch.full((n,), room // 2)
            for room in (images.shape[-2] - size, images.shape[-1] - size)
        ]
    )
    flips = torch.randint(0, 2, (n, 1), generator=generator)[:, 0] if flip else torch.zeros(n)
    return places, flips.bool()


def _cut(images: Tensor, size: int, places: Tensor, flips: Tensor) -> Tensor:
    """Return crops: slice by slice on a CPU, in one gather elsewhere; the pixels are the same."""
    if images.device.type == "cpu":
        found = images.new_empty(len(flips), images.shape[1], size, size)
        for row, (down, right, flip) in enumerate(zip(*places.tolist(), flips.tolist(), strict=True)):
            crop = images[row, :, down : down + size, right : right + size]
            found[row] = crop.flip(-1) if flip else crop
        return found
    plan = torch.stack([*places, flips.long()])
    if images.device.type == "cuda":
        # From pinned memory the copy does not wait for the GPU.
        plan = plan.pin_memory()
    down, right, flip = plan.to(images.device, non_blocking=True)
    steps = torch.arange(size, device=images.device)[None]
    columns = right[:, None] + torch.where(flip[:, None] > 0, size - 1 - steps, steps)
    rows = torch.arange(len(flips), device=images.device)[:, None, None]
    # Two indices around a slice put the channels last, the layout that convolutions want.
    return images[rows, :, (down[:, None] + steps)[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _check(images: Tensor, size: int) -> None:
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: expected [n, c, height, width]")
    if not 1 <= size <= min(images.shape[-2:]):
        raise ValueError(f"a crop of {size} does not fit images of {images.shape[-2]}×{images.shape[-1]}")
