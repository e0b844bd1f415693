"""Photographs that come with scikit-image, for looking at a network's attention without any data set."""

import numpy as np
import torch

__all__ = ["EXHIBITS", "exhibits"]

# Only files inside scikit-image's wheel: its other pictures are fetched from a network.
EXHIBITS = (
    "chelsea",
    "coffee",
    "rocket",
    "astronaut",
    "camera",
    "clock",
    "coins",
    "hubble_deep_field",
    "moon",
)


def exhibits() -> dict[str, torch.Tensor]:
    """scikit-image's bundled photographs by name; grey ones get three equal channels.

    Returns:
        {name: uint8 [3, height, width]}; sizes differ.

    Raises:
        RuntimeError: if the installed scikit-image lacks one of the files, naming it.

    Source:
        `skimage.data` (licences in its README).

    Example:
        >>> exhibits()["chelsea"].shape
        torch.Size([3, 300, 451])
    """
    from skimage import data

    pictures = {}
    for name in EXHIBITS:
        try:
            picture = np.asarray(getattr(data, name)())
        except Exception as error:
            raise RuntimeError(
                f"scikit-image's photograph {name!r} cannot be read ({error}); reinstall scikit-image"
            ) from error
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        pictures[name] = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    return pictures
