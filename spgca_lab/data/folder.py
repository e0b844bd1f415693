"""Load a folder of one's own images as a data set."""

import hashlib
import os
import warnings
from collections import defaultdict
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import torch

from spgca_lab._checks import check_whole_number, listed, printable
from spgca_lab.data.augment import stored_size
from spgca_lab.data.decode import UnreadableImages, read_images
from spgca_lab.data.imageset import ImageSet, check_per_class, choose_per_class

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TEST_NAMES = ("test", "val", "valid")
TRAIN_SHARE = 0.7
SHOWN = 20
Files = dict[str, list[Path]]  # by class folder


class DuplicatesWarning(UserWarning):
    """The same image is in training and in test, or in two classes."""


def load_folder(
    folder: str | Path,
    *,
    per_class: int | None = None,
    test_per_class: int | None = None,
    image_size: int = 224,
    seed: int = 0,
    for_training: bool = False,
) -> tuple[ImageSet, ImageSet]:
    """Load training and test set from a folder in the `ImageFolder` layout.

    The folder holds either `train/<class>/…` and `test/<class>/…` (also `val` or `valid`), or `<class>/…`, of which
    the seed assigns 70 % per class to training. Each folder is listed once, and only the chosen images are opened.

    Args:
        folder: the folder.
        per_class: training images per class, chosen by the seed; None uses all.
        test_per_class: test images per class, chosen by the seed; None uses all.
        image_size: side of the network's input in pixels.
        seed: seed of every choice.
        for_training: refuse a folder with a single class.

    Returns:
        training and test set with paths and without masks; classes are sorted by name.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no classes; `NotADirectoryError` if it is a file.
        UnreadableImages: if files cannot be read, listing all of them.
        ValueError: if classes differ between the splits, a class has too few images, or memory cannot hold all images.

    Warns:
        DuplicatesWarning: if the same image is in training and test, or in two classes.
        UserWarning: about links that are not followed, and images outside of class folders.

    Source:
        Sec. 4.2 of the paper: resizing to 256×256 for crops of 224.
    """
    root = Path(folder).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"{str(folder)!r} is not a folder")
    if not root.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file: give the folder that holds the class folders")
    check_per_class(per_class, test_per_class)
    check_whole_number("seed", seed, 0, 2**32 - 1)
    side = stored_size(image_size)
    # Warnings name the line of the user's call; `load_dataset` is one frame more.
    level = 3 if for_training else 2

    splits, notes = _list_splits(root, seed)
    classes = sorted(splits["train"])
    if for_training and len(classes) == 1:
        raise ValueError(
            f"{str(root)!r} has one class, {classes[0]!r}: cross-entropy (Eq. 6) needs at least two"
        )
    rows: dict[str, list[tuple[Path, int]]] = {}
    for (split, files), count in zip(splits.items(), (per_class, test_per_class), strict=True):
        rows[split] = [(file, label) for label, name in enumerate(classes) for file in files[name]]
        if count is not None:
            labels = [label for _, label in rows[split]]
            chosen = choose_per_class(labels, classes, count, seed, split, repr(str(folder)))
            rows[split] = [rows[split][row] for row in chosen]
    images = _decode([file for each in rows.values() for file, _ in each], side)
    train, test = (
        ImageSet(
            images=part,
            labels=torch.tensor([label for _, label in rows[split]], dtype=torch.int64),
            classes=[printable(name) for name in classes],
            image_size=image_size,
            paths=[file for file, _ in rows[split]],
            name=f"{printable(root.name)} {split}",
        )
        for split, part in zip(rows, images.split([len(each) for each in rows.values()]), strict=True)
    )
    for note in notes:
        warnings.warn(note, stacklevel=level)
    _warn_of_duplicates(train, test, root, level)
    return train, test


def _list_splits(root: Path, seed: int) -> tuple[dict[str, Files], list[str]]:
    """Return the files of training and test set, and notes about what was left out."""
    train_root = root / "train" if (root / "train").is_dir() else None
    test_root = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    if train_root and test_root:
        (train, notes), (test, more_notes) = _list_classes(train_root), _list_classes(test_root)
        alone = (("train", train.keys() - test.keys()), (test_root.name, test.keys() - train.keys()))
        problems = [f"only in {of}/: {listed(sorted(names), SHOWN, repr)}" for of, names in alone if names]
        if problems:
            raise ValueError(f"the splits of {str(root)!r} differ in their classes: {'; '.join(problems)}")
        return {"train": train, "test": test}, notes + more_notes
    if train_root or test_root:
        there, missing = ("train", "test") if test_root is None else (test_root.name, "train")
        raise ValueError(f"{str(root)!r} has {there}/ but no {missing}/: give both, or class folders alone")
    files, notes = _list_classes(root)
    single = [name for name, paths in files.items() if len(paths) < 2]
    if single:
        raise ValueError(
            "each class needs at least 2 images to be split into train and test: "
            f"{listed(single, SHOWN, repr)} have fewer"
        )
    splits: dict[str, Files] = {"train": {}, "test": {}}
    for label, (name, paths) in enumerate(files.items()):
        order = np.random.RandomState([seed, 2, label]).permutation(len(paths)).tolist()
        cut = min(len(paths) - 1, max(1, round(TRAIN_SHARE * len(paths))))
        for split, places in (("train", order[:cut]), ("test", order[cut:])):
            splits[split][name] = [paths[i] for i in sorted(places)]
    return splits, notes


def _list_classes(root: Path) -> tuple[Files, list[str]]:
    _, folders, files = next(os.walk(root, onerror=_fail))
    found: Files = {}
    links: list[str] = []
    for name in sorted(folders):
        if not name.startswith("."):
            found[name], skipped = _list_images(root / name)
            links += skipped
    if not found:
        raise FileNotFoundError(
            f"{str(root)!r} has no class folders: expected <class>/<image>, or train/ and test/ of that"
        )
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise ValueError(f"no images ({' '.join(SUFFIXES)}) in {listed(empty, SHOWN, repr)} of {str(root)!r}")
    notes = []
    if beside := [name for name in files if _is_image(root / name)]:
        notes.append(
            f"images without a class, beside the class folders of {str(root)!r}: {listed(beside, SHOWN, repr)}"
        )
    if links:
        notes.append(f"links to folders inside a class are not followed: {listed(links, SHOWN, repr)}")
    return found, notes


def _list_images(folder: Path) -> tuple[list[Path], list[str]]:
    """List the image files below a folder, and the links to folders, which are not followed so that the walk ends."""
    found: list[Path] = []
    links: list[str] = []
    for top, folders, files in os.walk(folder, onerror=_fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links += [str(path) for name in folders if (path := Path(top, name)).is_symlink()]
        found += [path for name in files if _is_image(path := Path(top, name))]
    # The order of the images decides which ones a seed chooses.
    return sorted(found), links


def _fail(error: OSError) -> None:
    raise error


def _is_image(path: Path) -> bool:
    # A link whose target is missing counts: it is reported as unreadable instead of skipped in silence.
    named = path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
    return named and (path.is_file() or not path.exists())


def _decode(files: list[Path], side: int) -> torch.Tensor:
    """Return the images, uint8 [n, 3, side, side]; refuse more than the free memory holds before any is read."""
    need = len(files) * 3 * side * side
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    if need > free:
        raise ValueError(
            f"{len(files):,} images of {side}×{side} need {need / 1e9:,.1f} GB of memory ({need:,} bytes), and "
            f"{free / 1e9:,.1f} GB are free: give per_class and test_per_class, or a smaller image_size"
        )
    images = torch.empty(len(files), 3, side, side, dtype=torch.uint8)
    broken: list[tuple[Path, str]] = []
    for row, result in enumerate(read_images(files, side)):
        if isinstance(result, str):
            broken.append((files[row], result))
        else:
            images.numpy()[row] = result
    if broken:
        raise UnreadableImages(broken, len(files), "repair or remove them")
    return images


def find_duplicates(*sets: torch.Tensor) -> list[list[int]]:
    """Group images that agree in every pixel, by their row in the concatenation of all sets.

    An image saved twice without loss is found (as PNG and BMP); one that was compressed again or cropped is not.

    Args:
        sets: each uint8 [n, 3, s, s].

    Returns:
        sorted rows of each group of two or more.

    Example:
        >>> images = torch.arange(3 * 3, dtype=torch.uint8).reshape(3, 3, 1, 1)
        >>> find_duplicates(images[[0, 1, 0]], images[[2, 2, 0]])
        [[0, 2, 5], [3, 4]]
    """
    equal: dict[bytes, list[int]] = defaultdict(list)
    for row, image in enumerate(chain(*sets)):
        equal[hashlib.sha256(image.contiguous().numpy()).digest()].append(row)
    return [rows for rows in equal.values() if len(rows) > 1]


def _warn_of_duplicates(train: ImageSet, test: ImageSet, root: Path, stacklevel: int) -> None:
    """Warn of equal images in both splits, or in two classes of one; within a class they only change its weight."""
    groups, cut, side = find_duplicates(train.images, test.images), len(train), train.images.shape[-1]
    labels = [*train.labels.tolist(), *test.labels.tolist()]
    paths = [*(train.paths or []), *(test.paths or [])]
    both = [(group[0], row) for group in groups if group[0] < cut for row in group if row >= cut]
    share = f"Up to {100 * len(both) / len(test):.1f} of 100 points of the test accuracy are memory"
    found = [(both, f"{len(test)} test", "training images", f"{share}; remove them from one of the two")]
    for what, start, end, meaning in (
        ("training", 0, cut, "The network gets two labels for one image"),
        ("test", cut, len(labels), "Whatever is predicted, one of the two counts as wrong"),
    ):
        parts = [[row for row in group if start <= row < end] for group in groups]
        torn = [(part[0], row) for part in parts for row in part if labels[row] != labels[part[0]]]
        found.append(
            (torn, f"{end - start} {what}", "in another class", f"{meaning}; keep each in one class")
        )
    for pairs, of, where, remedy in found:
        if pairs:
            texts = [
                " = ".join(repr(printable(os.path.relpath(paths[row], root))) for row in p) for p in pairs
            ]
            warnings.warn(
                f"{len(pairs)} of {of} images of {str(root)!r} are also {where}, pixel for pixel at {side}×{side}: "
                f"{listed(texts, 5)}. {remedy}",
                DuplicatesWarning,
                stacklevel=stacklevel + 1,
            )
