"""A folder of one's own pictures as a data set."""

import warnings
from pathlib import Path

import numpy as np
import torch

from spgca_lab.data.augment import stored_size
from spgca_lab.data.copies import warn_of_copies
from spgca_lab.data.decode import read_pictures, unreadable
from spgca_lab.data.imageset import ImageSet
from spgca_lab.data.listing import SHOWN, SUFFIXES, Listing, list_classes, listed
from spgca_lab.data.names import printable
from spgca_lab.data.pixels import PixelsError
from spgca_lab.data.room import room_for
from spgca_lab.data.stickers import whole_number

__all__ = ["SUFFIXES", "load_folder"]

TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "val", "valid")
TRAIN_SHARE = 0.7
Files = dict[str, list[str]]


def load_folder(
    folder: str | Path,
    *,
    per_class: int | None = None,
    test_per_class: int | None = None,
    image_size: int = 224,
    seed: int = 0,
    for_training: bool = False,
) -> tuple[ImageSet, ImageSet]:
    """Train and test set from a folder in the `ImageFolder` layout.

    Either `folder/train/<class>/…` with `folder/test/<class>/…` (also `val` or `valid`), or
    `folder/<class>/…`, of which a seed sends 70 % of each class to training. Pictures are turned as their
    EXIF tag says, brought to RGB (transparency on white) and resized to a square, as the paper does. Every folder is
    listed once, links to files count, and only the pictures that are chosen are opened.

    Args:
        folder: the folder.
        per_class: training pictures a class, chosen by the seed; None keeps all.
        test_per_class: likewise for testing.
        image_size: side of the network's input in pixels.
        seed: of every choice.
        for_training: refuse a folder of one class, which can be looked at and not learned.

    Returns:
        train and test `ImageSet` with paths and without masks; classes sorted by name, bytes that are no UTF-8
        written out.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no classes.
        NotADirectoryError: if it is a file.
        PixelsError: if files cannot be read, one message that lists their paths.
        ValueError: if classes differ between the splits, there is one alone to train on, one has too few pictures, or
            memory does not hold them.

    Warns:
        CopiesWarning: of pictures that are the same in training and in test, or in two classes.
        UserWarning: of links that are not followed, and of pictures of no class.

    Source:
        resizing to 256×256 for crops of 224: the paper's Section 4.2.

    Example:
        >>> train, test = load_folder("photos", per_class=5)  # doctest: +SKIP
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        if root.exists():
            raise NotADirectoryError(
                f"{str(folder)!r} is a file: give the folder that holds the class folders"
            )
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
        listings = [_listing(train_root, for_training), _listing(test_root, for_training)]
        train_files, test_files = (listing.files for listing in listings)
        _same_classes(train_files, test_files, train_root, test_root)
    else:
        listings = [_listing(root, for_training)]
        train_files, test_files = _split(listings[0].files, seed)
    train_files = _choose(train_files, per_class, seed, 0, "per_class")
    test_files = _choose(test_files, test_per_class, seed, 1, "test_per_class")

    folders = sorted(train_files)
    classes = _class_names(folders, root)
    rows = [
        (Path(file), label)
        for split in (train_files, test_files)
        for label, c in enumerate(folders)
        for file in split[c]
    ]
    room_for(len(rows), side)
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
                name=f"{printable(root.name)} {name}",
            )
        )
    for note in (note for listing in listings for note in listing.notes):
        warnings.warn(note, stacklevel=3)
    # Past the look at the arguments, at the caller.
    warn_of_copies(parts[0], parts[1], root, stacklevel=3)
    return parts[0], parts[1]


def _listing(root: Path, for_training: bool) -> Listing:
    listing = list_classes(root)
    if for_training and len(listing.files) == 1:
        raise ValueError(
            f"{str(root)!r} has one class, {next(iter(listing.files))!r}: cross-entropy (Eq. 6) needs at least two"
        )
    return listing


def _class_names(folders: list[str], root: Path) -> list[str]:
    """Names that can be printed and stored, whatever bytes the folders' names have."""
    names = [printable(folder) for folder in folders]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"class folders of {str(root)!r} cannot be told apart by their names: {listed(twice)}"
        )
    return names


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _same_classes(train: Files, test: Files, train_root: Path, test_root: Path) -> None:
    problems = []
    for here, there, root in ((train, test, train_root), (test, train, test_root)):
        alone = sorted(set(here) - set(there))
        if alone:
            problems.append(f"only in {root.name}/: {listed(alone)}")
    if problems:
        raise ValueError(
            f"the splits of {str(train_root.parent)!r} differ in their classes: {'; '.join(problems)}"
        )


def _split(files: Files, seed: int) -> tuple[Files, Files]:
    """70 % of each class for training, at least one picture on either side."""
    single = [name for name, paths in files.items() if len(paths) < 2]
    if single:
        raise ValueError(
            f"a class needs at least 2 pictures to be split into train and test: {listed(single)}"
        )
    train, test = {}, {}
    for label, (name, paths) in enumerate(sorted(files.items())):
        order = np.random.RandomState([seed, 2, label]).permutation(len(paths)).tolist()
        cut = min(len(paths) - 1, max(1, round(TRAIN_SHARE * len(paths))))
        train[name] = [paths[i] for i in sorted(order[:cut])]
        test[name] = [paths[i] for i in sorted(order[cut:])]
    return train, test


def _choose(files: Files, count: int | None, seed: int, split: int, option: str) -> Files:
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
    broken: list[tuple[Path, str]] = []
    for row, result in enumerate(read_pictures(files, side)):
        if isinstance(result, str):
            broken.append((files[row], result))
        else:
            pictures[row] = torch.from_numpy(result.copy())
    if broken:
        raise PixelsError(unreadable(broken, len(files), "repair or remove them"))
    return pictures
