"""A folder of one's own pictures as a data set."""

from pathlib import Path

import numpy as np
import torch

from spgca_lab.datasets.augment import stored_size
from spgca_lab.datasets.decode import read_pictures, unreadable
from spgca_lab.datasets.imageset import ImageSet
from spgca_lab.datasets.stickers import whole_number

__all__ = ["SUFFIXES", "load_folder"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "val", "valid")
TRAIN_SHARE = 0.7
SHOWN = 20


def load_folder(
    folder: str | Path,
    *,
    per_class: int | None = None,
    test_per_class: int | None = None,
    image_size: int = 224,
    seed: int = 0,
) -> tuple[ImageSet, ImageSet]:
    """Train and test set from a folder in the `ImageFolder` layout.

    Either `folder/train/<class>/…` with `folder/test/<class>/…` (also `val` or `valid`), or
    `folder/<class>/…`, of which a seed sends 70 % of each class to training. Pictures are turned as their
    EXIF tag says, brought to RGB (transparency on white) and resized to a square, as the paper does.

    Args:
        folder: the folder.
        per_class: training pictures a class, chosen by the seed; None keeps all.
        test_per_class: likewise for testing.
        image_size: side of the network's input in pixels.
        seed: of every choice.

    Returns:
        train and test `ImageSet` with paths and without masks; classes sorted by name.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no classes.
        ValueError: if classes differ between the splits, a class has too few pictures, or files cannot be
            read (one message that lists their paths).

    Source:
        resizing to 256×256 for crops of 224: the paper's Section 4.2.

    Example:
        >>> train, test = load_folder("photos", per_class=5)  # doctest: +SKIP
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{str(folder)!r} is not a folder")
    for name, value in (("per_class", per_class), ("test_per_class", test_per_class)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}: give a whole number of at least 1, or None for all")
    whole_number("seed", seed, 0, 2**32 - 1)
    side = stored_size(image_size)

    train_root = _first(root, TRAIN_NAMES)
    test_root = _first(root, TEST_NAMES)
    if (train_root is None) != (test_root is None):
        there, missing = ("train", "test") if test_root is None else (test_root.name, "train")  # type: ignore[union-attr]
        raise ValueError(f"{str(root)!r} has {there}/ but no {missing}/: give both, or class folders alone")
    if train_root and test_root:
        train_files, test_files = _classes(train_root), _classes(test_root)
        _same_classes(train_files, test_files, train_root, test_root)
        train_files = _choose(train_files, per_class, seed, 0, "per_class")
        test_files = _choose(test_files, test_per_class, seed, 1, "test_per_class")
    else:
        train_files, test_files = _split(_classes(root), seed)
        train_files = _choose(train_files, per_class, seed, 0, "per_class")
        test_files = _choose(test_files, test_per_class, seed, 1, "test_per_class")

    classes = sorted(train_files)
    rows = [
        (file, label)
        for split in (train_files, test_files)
        for label, c in enumerate(classes)
        for file in split[c]
    ]
    pictures = _decode([file for file, _ in rows], side)
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    cut = sum(len(files) for files in train_files.values())
    parts = []
    for name, where in (("train", slice(0, cut)), ("test", slice(cut, None))):
        parts.append(
            ImageSet(
                images=pictures[where],
                labels=labels[where],
                classes=classes,
                image_size=image_size,
                paths=[file for file, _ in rows[where]],
                name=f"{root.name} {name}",
            )
        )
    return parts[0], parts[1]


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _classes(root: Path) -> dict[str, list[Path]]:
    """Sorted picture files by class folder; hidden entries are left out."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise FileNotFoundError(
            f"{str(root)!r} has no class folders: expected <class>/<picture>, or train/ and test/ of that"
        )
    found = {}
    for path in folders:
        files = [f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()]
        found[path.name] = sorted(f for f in files if not f.name.startswith("."))
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise ValueError(f"no pictures ({' '.join(SUFFIXES)}) in {_listed(empty)} of {str(root)!r}")
    return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _same_classes(
    train: dict[str, list[Path]], test: dict[str, list[Path]], train_root: Path, test_root: Path
) -> None:
    problems = []
    for here, there, root in ((train, test, train_root), (test, train, test_root)):
        alone = sorted(set(here) - set(there))
        if alone:
            problems.append(f"only in {root.name}/: {_listed(alone)}")
    if problems:
        raise ValueError(
            f"the splits of {str(train_root.parent)!r} differ in their classes: {'; '.join(problems)}"
        )


def _split(files: dict[str, list[Path]], seed: int) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """70 % of each class for training, at least one picture on either side."""
    single = [name for name, paths in files.items() if len(paths) < 2]
    if single:
        raise ValueError(
            f"a class needs at least 2 pictures to be split into train and test: {_listed(single)}"
        )
    train, test = {}, {}
    for label, (name, paths) in enumerate(sorted(files.items())):
        order = np.random.RandomState([seed, 2, label]).permutation(len(paths)).tolist()
        cut = min(len(paths) - 1, max(1, round(TRAIN_SHARE * len(paths))))
        train[name] = [paths[i] for i in sorted(order[:cut])]
        test[name] = [paths[i] for i in sorted(order[cut:])]
    return train, test


def _choose(
    files: dict[str, list[Path]], count: int | None, seed: int, split: int, option: str
) -> dict[str, list[Path]]:
    """`count` pictures of each class; fewer are a subset of more."""
    if count is None:
        return files
    short = {name: len(paths) for name, paths in files.items() if len(paths) < count}
    if short:
        few = ", ".join(f"{name!r} has {n}" for name, n in list(short.items())[:SHOWN])
        raise ValueError(f"{option}={count} is more than some classes have: {few}")
    chosen = {}
    for label, (name, paths) in enumerate(sorted(files.items())):
        order = np.random.RandomState([seed, split, label]).permutation(len(paths))[:count]
        chosen[name] = [paths[i] for i in sorted(order.tolist())]
    return chosen


def _decode(files: list[Path], side: int) -> torch.Tensor:
    """Every file at once, or one error that lists all that cannot be read."""
    pictures = torch.empty(len(files), 3, side, side, dtype=torch.uint8)
    broken: list[tuple[object, str]] = []
    for row, result in enumerate(read_pictures(files, side)):
        if isinstance(result, str):
            broken.append((files[row], result))
        else:
            pictures[row] = torch.from_numpy(result.copy())
    if broken:
        raise ValueError(unreadable(broken, len(files), "repair or remove them"))
    return pictures
