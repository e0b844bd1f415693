"""Read where each published data set keeps its images, labels and splits."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spgca_lab._checks import listed, printable
from spgca_lab.data.published import PublishedSet

# An image may have another suffix than in a list.
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
Row = tuple[str, int]


class LayoutError(ValueError):
    """Files that are not laid out as their authors publish them; `missing` lists images that are not there."""

    def __init__(self, message: str, missing: Iterable[str] = ()):
        super().__init__(message)
        self.missing = tuple(missing)


@dataclass(frozen=True)
class Index:
    """Class names, and `(path below the root, label)` of each training and test image.

    `notes` are oddities that were handled, `missing` are listed images that do not exist, and `others` belong to
    neither split.
    """

    classes: list[str]
    train: list[Row]
    test: list[Row]
    notes: list[str]
    missing: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def read_index(spec: PublishedSet, root: Path, seed: int = 0, *, missing_ok: bool = False) -> Index:
    """Read the index of a set whose archives were unpacked below `root`; the seed draws the split of Caltech-256.

    Raises:
        LayoutError: if something is not where its authors put it; missing images only unless `missing_ok`.
    """
    index = _caltech256(root, spec, seed) if spec.folder == "caltech256" else _READERS[spec.folder](root)
    if missing_ok:
        return index
    if index.missing:
        total = len(index.missing) + len(index.train) + len(index.test)
        raise LayoutError(
            f"{len(index.missing)} of {total} listed images are not below {str(root)!r}: {listed(index.missing)}",
            index.missing,
        )
    for split, rows in (("training", index.train), ("test", index.test)):
        if not rows:
            raise LayoutError(f"{spec.name}: there is no {split} image below {str(root)!r}")
    return index


def _stanford_dogs(root: Path) -> Index:
    """Read `Images/<class>/<file>`, with two lists in MATLAB's format."""
    from scipy.io import loadmat

    _need(root, "Images")
    splits: list[list[Row]] = []
    for name in ("train_list.mat", "test_list.mat"):
        file = _need(root, name)
        try:
            content = loadmat(file)
            files = [f"Images/{np.asarray(cell).squeeze()}" for cell in content["file_list"].flat]
            splits.append(list(zip(files, content["labels"].astype(int).flat, strict=True)))
        # For a damaged file scipy raises errors of many kinds.
        except Exception as error:
            raise LayoutError(
                f"{str(file)!r} is no MATLAB file with a file_list and as many labels "
                f"({type(error).__name__}: {error})"
            ) from error
    folders = {label: file.split("/")[1] for rows in splits for file, label in rows}
    # A rehearsal has only some of the 120 classes; labels are numbered anew.
    places = {label: i for i, label in enumerate(sorted(folders))}
    train, test = ([(file, places[label]) for file, label in rows] for rows in splits)
    return _find(root, [folders[label].split("-", 1)[-1] for label in places], train, test)


def _cub200(root: Path) -> Index:
    """Read `CUB_200_2011/images/<class>/<file>`, with tables of files, labels and splits."""
    base = _need(root, "CUB_200_2011")
    tables = {}
    for name in ("images", "image_class_labels", "train_test_split", "classes"):
        path = _need(base, f"{name}.txt")
        lines = [line.split(maxsplit=1) for line in _lines(path)]
        if any(len(parts) != 2 for parts in lines):
            raise LayoutError(f"{str(path)!r} must have a number and a value in every line")
        tables[name] = dict(lines)
    labels = {number: i for i, number in enumerate(tables["classes"])}
    splits: dict[str, list[Row]] = {"1": [], "0": []}
    for name, known, what in (
        ("image_class_labels", labels, "a class of classes.txt"),
        ("train_test_split", splits, "0 or 1"),
    ):
        if tables[name].keys() != tables["images"].keys():
            raise LayoutError(f"{str(base)!r}: images.txt and {name}.txt number different images")
        unknown = [f"{number} {value}" for number, value in tables[name].items() if value not in known]
        if unknown:
            raise LayoutError(
                f"{str(base / f'{name}.txt')!r} must give each image {what}; it has {listed(unknown)}"
            )
    for number, file in tables["images"].items():
        row = (f"CUB_200_2011/images/{file}", labels[tables["image_class_labels"][number]])
        splits[tables["train_test_split"][number]].append(row)
    classes = [name.split(".", 1)[-1] for name in tables["classes"].values()]
    return _find(root, classes, splits["1"], splits["0"])


def _caltech256(root: Path, spec: PublishedSet, seed: int) -> Index:
    """Read `256_ObjectCategories/<NNN.class>/<NNN_MMMM>.jpg`, and draw the split class by class.

    One permutation of the sorted images of a class gives first the test images, then the training images. So the sets
    with 30 and 60 training images per class share their test images, and the 30 are among the 60. A copy with fewer
    images than published is split in the same proportion, 20 to 60.
    """
    base = _need(root, "256_ObjectCategories")
    folders = sorted(p for p in base.iterdir() if p.is_dir() and re.fullmatch(r"\d{3}\..+", p.name))
    if not folders:
        raise LayoutError(f"{str(base)!r} has no class folders such as 001.ak47")
    assert spec.per_class is not None
    strays, short, others = [], [], []
    train: list[list[Row]] = [[], []]
    test: list[Row] = []
    for label, folder in enumerate(folders):
        number, found = folder.name[:3], _names(folder)
        names = [name for name in found if re.fullmatch(rf"(?i){number}_\d{{4}}\.jpg", name)]
        strays += [f"{folder.name}/{name}" for name in found if name not in names]
        n = len(names)
        if n < 2:
            raise LayoutError(
                f"{str(folder)!r} has {n} images such as {number}_0001.jpg; at least 2 are needed"
            )
        (trains, tests), half = spec.per_class, 30
        if n < 60 + 20:
            short.append(folder.name)
            tests = max(1, round(n * 20 / 80))
            trains, half = (max(1, round((n - tests) * each / 60)) for each in (trains, half))
        order = np.random.RandomState([seed, 4, int(number)]).permutation(n)
        files = [f"{base.name}/{folder.name}/{names[i]}" for i in order]
        rows = [(file, label) for file in files[: tests + trains]]
        test += rows[:tests]
        # The 30 of every class come first, so that the smaller set is the beginning of the larger one.
        train[0] += rows[tests : tests + half]
        train[1] += rows[tests + half :]
        others += files[tests + trains :]
    notes = _strays(strays)
    if short:
        notes.append(
            f"{len(short)} classes have fewer than 80 images and are split 20 to {spec.per_class[0]} in proportion: "
            f"{listed(short)}"
        )
    classes = [printable(folder.name.split(".", 1)[-1]) for folder in folders]
    return Index(classes, train[0] + train[1], test, notes, others=sorted(others))


def _mit_indoor67(root: Path) -> Index:
    """Read `Images/<class>/<file>`, with a list of files per split."""
    base = next((path for path in (root, *sorted(root.iterdir())) if (path / "Images").is_dir()), None)
    if base is None:
        raise LayoutError(f"{str(root)!r} has no folder Images; it has {listed(_names(root))}")
    splits = []
    for name in ("TrainImages.txt", "TestImages.txt"):
        file = root / name if (root / name).exists() else _need(base, name)
        splits.append([line.replace("\\", "/") for line in _lines(file)])
        odd = [line for line in splits[-1] if line.count("/") != 1]
        if odd:
            raise LayoutError(f"{str(file)!r} must list one class/image per line; it has {listed(odd)}")
    classes = sorted({line.split("/")[0] for lines in splits for line in lines})
    below = (base / "Images").relative_to(root).as_posix()
    train, test = (
        [(f"{below}/{line}", classes.index(line.split("/")[0])) for line in lines] for lines in splits
    )
    return _find(root, classes, train, test)


def _ants_bees(root: Path) -> Index:
    """Read the JPEGs of `hymenoptera_data/<train or val>/<class>`; other files are left out, as in the tutorial."""
    base, classes = _need(root, "hymenoptera_data"), ["ants", "bees"]
    strays: list[str] = []
    splits: dict[str, list[Row]] = {"train": [], "val": []}
    for split, rows in splits.items():
        for label, name in enumerate(classes):
            for file in _names(_need(base, f"{split}/{name}")):
                if file.lower().endswith((".jpg", ".jpeg")):
                    rows.append((f"{base.name}/{split}/{name}/{file}", label))
                else:
                    strays.append(f"{split}/{name}/{file}")
    return Index(classes, splits["train"], splits["val"], _strays(strays))


_READERS = {
    "stanford_dogs": _stanford_dogs,
    "cub200": _cub200,
    "mit_indoor67": _mit_indoor67,
    "ants_bees": _ants_bees,
}


def _need(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        raise LayoutError(f"{str(folder)!r} has no {name}; it has {listed(_names(folder)) or 'nothing'}")
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _lines(file: Path) -> list[str]:
    # Bytes that are not UTF-8 become what they become in names of files.
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _strays(files: list[str]) -> list[str]:
    return [f"left out, no images of a class: {listed(files)}"] if files else []


def _find(root: Path, classes: list[str], *listings: list[Row]) -> Index:
    """Make the index with the names that the files have: a list may differ in case or suffix, or repeat a file."""
    folders: dict[str, dict[str, str]] = {}
    twice, renamed, missing = [], [], []
    splits: list[dict[str, int]] = []
    for rows in listings:
        found: dict[str, int] = {}
        for file, label in rows:
            folder, _, name = file.rpartition("/")
            if folder not in folders:
                folders[folder] = {entry.lower(): entry for entry in _names(root / folder)}
            stem = name.rsplit(".", 1)[0].lower()
            candidates = (name.lower(), *(stem + suffix for suffix in SUFFIXES))
            there = [folders[folder][each] for each in candidates if each in folders[folder]]
            # Where the file system distinguishes case, the very name may exist beside another.
            actual = name if (root / file).exists() else there[0] if there else None
            if actual is None:
                missing.append(file)
            elif f"{folder}/{actual}" in found:
                twice.append(file)
            else:
                found[f"{folder}/{actual}"] = label
                renamed += [f"{file} is {actual}"] if actual != name else []
        splits.append(found)
    train, test = splits
    notes = {
        "listed twice, taken once": twice,
        "listed for training and for test, left in both": [file for file in train if file in test],
        "found under another name than listed": renamed,
    }
    shown = [f"{what}: {listed(files)}" for what, files in notes.items() if files]
    return Index(classes, list(train.items()), list(test.items()), shown, missing)
