"""Random crop and flip of a whole batch in one gather, and the centre crop of evaluation."""

from typing import overload

import torch

__all__ = ["center_crop", "random_crop_flip", "stored_size"]


def stored_size(image_size: int) -> int:
    """Side at which pictures are kept for a network's input size: round(8/7 · image_size).

    Args:
        image_size: side of the network's input in pixels.

    Returns:
        side in pixels: 256 for 224, 73 for 64.

    Raises:
        ValueError: if `image_size` is not a positive whole number.

    Source:
        256 → 224 of the paper's Section 4.2, kept as a ratio.

    Example:
        >>> stored_size(224), stored_size(64)
        (256, 73)
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise ValueError(f"image_size is {image_size!r}: give a whole number of at least 1")
    return (image_size * 16 + 7) // 14


def _check(images: torch.Tensor, size: int) -> None:
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: expected [n, c, height, width]")
    if not 1 <= size <= min(images.shape[-2:]):
        raise ValueError(f"a crop of {size} does not fit pictures of {images.shape[-2]}×{images.shape[-1]}")


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

    Places and flips are drawn on the CPU, so that every device sees the same; the pixels move in one gather
    on the device of `images`.

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
    n, channels, height, width = images.shape
    if masks is not None and masks.shape != (n, height, width):
        raise ValueError(f"masks have shape {tuple(masks.shape)}: expected {(n, height, width)}")
    down = torch.randint(0, height - size + 1, (n, 1), generator=generator)
    right = torch.randint(0, width - size + 1, (n, 1), generator=generator)
    flip = torch.randint(0, 2, (n, 1), generator=generator).bool()
    steps = torch.arange(size)[None]
    rows = down + steps
    columns = right + torch.where(flip, size - 1 - steps, steps)
    index = (rows[:, :, None] * width + columns[:, None, :]).reshape(n, 1, size * size).to(images.device)
    crops = images.reshape(n, channels, -1).gather(2, index.expand(-1, channels, -1))
    crops = crops.reshape(n, channels, size, size)
    if masks is None:
        return crops
    cut = masks.reshape(n, -1).gather(1, index[:, 0].to(masks.device))
    return crops, cut.reshape(n, size, size)


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
