"""A published data set as pictures to train on and to test with."""

from pathlib import Path

import numpy as np
import torch

from spgca_lab.data.augment import stored_size
from spgca_lab.data.home import files_root
from spgca_lab.data.imageset import ImageSet
from spgca_lab.data.layouts import read_index
from spgca_lab.data.pixels import decoded
from spgca_lab.data.published import PUBLISHED, PublishedSet, published
from spgca_lab.data.stickers import whole_number

__all__ = ["load_published"]


def load_published(
    name: str,
    *,
    per_class: int | None = None,
    test_per_class: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    home: str | Path | None = None,
) -> tuple[ImageSet, ImageSet]:
    """Train and test set of a published data set that is installed here.

    Decoded once to squares of `stored_size(image_size)`, 256 pixels for 224; both sets are pieces of one memory map
    that all processes share, unless only some pictures a class are wanted.

    Args:
        name: one of `PUBLISHED`.
        per_class: training pictures a class, chosen by the seed; None takes all.
        test_per_class: likewise for testing.
        image_size: side of the network's input in pixels; None is 224.
        seed: of every choice, and of the split where the set has none of its own (Caltech-256).
        home: folder of the data sets, see `data_home`.

    Returns:
        train and test `ImageSet`, with paths and without masks.

    Raises:
        DataMissing: when it is not installed, saying how to fetch it.
        LayoutError: when files are missing.
        PixelsError: naming every picture that cannot be read.
        ValueError: for an option that is out of range, or a class with too few pictures.

    Source:
        Sec. 4.1 and Table 1 of the paper.

    Example:
        >>> train, test = load_published("cub200", per_class=5)  # doctest: +SKIP
    """
    spec = published(name)
    size = 224 if image_size is None else image_size
    side = stored_size(size)
    whole_number("seed", seed, 0, 2**32 - 1)
    for option, value in (("per_class", per_class), ("test_per_class", test_per_class)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{option} is {value!r}: give a whole number of at least 1, or None for all")
    root = files_root(name, home)
    index = read_index(spec, root, seed)
    # Test pictures first, then the training pictures of the larger Caltech set: the smaller one's come first there.
    largest = _largest(spec)
    rows = [*index.test, *(index if largest is spec else read_index(largest, root, seed)).train]
    pixels = decoded(
        [file for file, _ in rows],
        root,
        root.parent / "decoded",
        side,
        name=f"{spec.folder}-seed{seed}" if spec.per_class else spec.folder,
        remedy=f"see `spgca-lab data check {name}`",
    )
    images = torch.from_numpy(pixels)
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    cut, sets = len(index.test), []
    for split, where, count in (
        ("test", slice(0, cut), test_per_class),
        ("train", slice(cut, cut + len(index.train)), per_class),
    ):
        whole = ImageSet(
            images=images[where],
            labels=labels[where],
            classes=index.classes,
            image_size=size,
            paths=[root / file for file, _ in rows[where]],
            name=f"{name} {split}",
        )
        sets.append(whole if count is None else _some(whole, count, seed, split))
    return sets[1], sets[0]


def _largest(spec: PublishedSet) -> PublishedSet:
    """The set with the most training pictures among those of the same archives."""
    return max(
        (each for each in PUBLISHED.values() if each.folder == spec.folder), key=lambda each: each.train
    )


def _some(whole: ImageSet, count: int, seed: int, split: str) -> ImageSet:
    """`count` pictures of each class; fewer are a subset of more."""
    option = "per_class" if split == "train" else "test_per_class"
    labels = whole.labels.numpy()
    chosen: list[int] = []
    short = []
    for label, name in enumerate(whole.classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < count:
            short.append(f"{name!r} has {len(rows)}")
        order = np.random.RandomState([seed, 0 if split == "train" else 1, label]).permutation(rows)
        chosen += sorted(order[:count].tolist())
    if short:
        raise ValueError(
            f"{option}={count} is more than some classes of {whole.name} have: {', '.join(short[:20])}"
        )
    return whole.subset(chosen)
