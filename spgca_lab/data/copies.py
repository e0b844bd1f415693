"""Pictures that are there twice, where that makes a number mean something else than it says."""

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from spgca_lab.data.imageset import ImageSet
from spgca_lab.data.names import printable

__all__ = ["CopiesWarning", "same_pictures", "warn_of_copies"]

SHOWN = 5
GRID = 8


class CopiesWarning(UserWarning):
    """The same picture is in training and in test, or in two classes."""


def warn_of_copies(train: ImageSet, test: ImageSet, root: Path, stacklevel: int = 2) -> None:
    """Warn of pictures that are the same in training and in test, or in two classes of one of them.

    Copies within one class of a split are only a weight, and are left alone.

    Args:
        train: training pictures, with paths.
        test: test pictures, with paths.
        root: folder that they lie in.
        stacklevel: as for `warnings.warn`, counted from the caller.

    Example:
        >>> nothing = ImageSet(Tensor(0, 3, 9, 9).byte(), Tensor(0).long(), [], 8, paths=[])
        >>> warn_of_copies(nothing, nothing, Path("photos"))
    """
    groups = same_pictures(torch.cat([train.images, test.images]))
    labels = [*train.labels.tolist(), *test.labels.tolist()]
    paths = [*(train.paths or []), *(test.paths or [])]
    cut = len(train)

    def tell(rows: Iterable[tuple[int, int]], message: str) -> None:
        pairs = [(paths[one], paths[other]) for one, other in rows]
        if pairs:
            text = f"{len(pairs)} of {message}".replace("{pairs}", _named(pairs, root))
            warnings.warn(text, CopiesWarning, stacklevel=stacklevel + 2)

    where, side = f"{str(root)!r}", train.images.shape[-1]
    alike = f"pixel for pixel at {side}×{side}: {{pairs}}"
    both = [(group[0], row) for group in groups if group[0] < cut for row in group if row >= cut]
    share = 100 * len(both) / max(1, len(test))
    tell(
        both,
        f"{len(test)} test pictures of {where} are also training pictures, {alike}. Up to {share:.1f} of 100 points "
        "of the test accuracy are memory; remove them from one of the two",
    )
    for what, start, end, meaning in (
        ("training", 0, cut, "The network is told two answers to one picture"),
        ("test", cut, len(labels), "Whatever is answered, one of the two counts as wrong"),
    ):
        here = [[row for row in group if start <= row < end] for group in groups]
        torn = [(g[0], row) for g in here for row in g if labels[row] != labels[g[0]]]
        tell(
            torn,
            f"{end - start} {what} pictures of {where} are also in another class, {alike}. {meaning}; keep each in "
            "one class",
        )


def same_pictures(pictures: Tensor) -> list[list[int]]:
    """Groups of pictures that agree in every pixel.

    One picture in two files without loss is found (a PNG beside a BMP); one that was compressed anew or cut is not.

    Args:
        pictures: uint8 [n, 3, s, s].

    Returns:
        the rows of each group of two or more, in their order.

    Example:
        >>> import torch
        >>> pictures = torch.arange(3 * 3, dtype=torch.uint8).reshape(3, 3, 1, 1)
        >>> same_pictures(pictures[[0, 1, 0, 2, 2, 0]])
        [[0, 2, 5], [3, 4]]
    """
    # Few pixels tell most pictures apart: only those that agree in them are read whole.
    step = max(1, pictures.shape[-1] // GRID)
    glances = pictures[:, :, step // 2 :: step, step // 2 :: step].contiguous().numpy()
    alike: dict[bytes, list[int]] = defaultdict(list)
    for row, glance in enumerate(glances):
        alike[glance.tobytes()].append(row)
    whole: dict[bytes, list[int]] = defaultdict(list)
    for rows in alike.values():
        for row in rows if len(rows) > 1 else ():
            whole[hashlib.sha256(pictures[row].contiguous().numpy().tobytes()).digest()].append(row)
    return sorted(rows for rows in whole.values() if len(rows) > 1)


def _named(pairs: list[tuple[Path, Path]], root: Path) -> str:
    names = [[printable(os.path.relpath(file, root)) for file in pair] for pair in pairs[:SHOWN]]
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return ", ".join(f"{one!r} = {other!r}" for one, other in names) + more
