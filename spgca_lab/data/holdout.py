"""A validation split, cut from the training pictures: what α may be chosen on."""

import numpy as np
import torch

from spgca_lab.data.imageset import ImageSet
from spgca_lab.data.stickers import whole_number

__all__ = ["hold_out"]


def hold_out(train: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Cut a share of every class off the training pictures; the test pictures are not touched.

    The split depends on the seed and on how many pictures each class has, and on nothing else: every method and every
    training seed sees the same one.

    Args:
        train: pictures to train on.
        share: of each class to hold out, above 0 and below 1; rounded, at least one picture stays on either side.
        seed: of the choice.

    Returns:
        what is left to train on, and the validation pictures, in the order of `train`.

    Raises:
        ValueError: quoting the share, or naming classes with fewer than two pictures.

    Example:
        >>> four = ImageSet(torch.zeros(4, 3, 37, 37, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]), ["a", "b"], 32)
        >>> left, validation = hold_out(four, 0.5, seed=0)
        >>> left.labels.tolist(), validation.labels.tolist()
        ([0, 1], [0, 1])
    """
    if not 0 < share < 1:
        raise ValueError(f"validation must be above 0 and below 1, got {share!r}")
    whole_number("seed", seed, 0, 2**32 - 1)
    labels = train.labels.cpu().numpy()
    held = np.zeros(len(train), dtype=bool)
    single = []
    for label, name in enumerate(train.classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            single.append(name)
            continue
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held[np.random.RandomState([seed, 3, label]).permutation(rows)[:count]] = True
    if single:
        shown = ", ".join(map(repr, single[:10])) + (
            f" and {len(single) - 10} more" if len(single) > 10 else ""
        )
        raise ValueError(
            f"validation={share:g} needs at least 2 training pictures a class of {train.name}: {shown} have fewer"
        )
    parts = [train.subset(torch.from_numpy(np.flatnonzero(keep))) for keep in (~held, held)]
    object.__setattr__(parts[1], "name", f"{train.name}, held out for validation")
    return parts[0], parts[1]
