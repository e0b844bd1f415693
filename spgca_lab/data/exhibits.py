"""Photographs that come with scikit-image, for looking at attention without a data set."""

import numpy as np
import torch

# The images inside scikit-image's wheel; all others are downloaded on use.
EXHIBITS = (
    *("chelsea", "coffee", "rocket", "astronaut", "camera", "clock"),
    *("coins", "hubble_deep_field", "moon"),
)


def exhibits() -> dict[str, torch.Tensor]:
    """Return scikit-image's bundled photographs (`skimage.data`) by name: uint8 [3, height, width] of several sizes.

    Example:
        >>> exhibits()["chelsea"].shape
        torch.Size([3, 300, 451])
    """
    from skimage import data

    images = {}
    for name in EXHIBITS:
        try:
            image = np.atleast_3d(getattr(data, name)())
        except Exception as error:
            raise RuntimeError(
                f"scikit-image's photograph {name!r} cannot be read ({error}); reinstall scikit-image"
            ) from error
        images[name] = torch.from_numpy(image).permute(2, 0, 1).expand(3, -1, -1).contiguous()
    return images
