"""Where each published data set keeps its pictures, labels and splits."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spgca_lab.data.names import printable
from spgca_lab.data.published import PublishedSet

__all__ = ["LANDMARKS", "READERS", "Index", "LayoutError", "read_index"]

SHOWN = 10
# A picture may be there under another suffix than a list has it.
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
Row = tuple[str, int]

# By layout, what an unpacked folder must hold; whatever else is in its first parts comes along.
LANDMARKS: dict[str, tuple[str, ...]] = {
    "stanford_dogs": ("Images", "train_list.mat", "test_list.mat"),
    "cub200": ("CUB_200_2011/images", "CUB_200_2011/images.txt", "CUB_200_2011/train_test_split.txt"),
    "caltech256": ("256_ObjectCategories",),
    "mit_indoor67": ("Images", "TrainImages.txt", "TestImages.txt"),
    "ants_bees": ("hymenoptera_data/train", "hymenoptera_data/val"),
}


class LayoutError(ValueError):
    """Files that are not laid out as their authors publish them.

    Args:
        message: what was looked for, and what is there instead.
        missing: pictures that are listed and not there.
    """

    def __init__(self, message: str, missing: Iterable[str] = ()):
        super().__init__(message)
        self.missing = tuple(missing)


@dataclass(frozen=True)
class Index:
    """Which pictures are there, and which split each belongs to.

    Args:
        classes: names, in the order of the labels.
        train: `(path below the root, label)` of each training picture.
        test: likewise.
        notes: what is odd and was coped with.
        missing: pictures that are listed and not there.
        others: pictures of the set that belong to neither split.
    """

    classes: list[str]
    train: list[Row]
    test: list[Row]
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def read_index(spec: PublishedSet, root: Path, seed: int = 0, *, missing_ok: bool = False) -> Index:
    """The index of a set whose archives were unpacked below a folder.

    Args:
        spec: of the set.
        root: the folder.
        seed: of a split that is drawn, as the paper's of Caltech-256.
        missing_ok: give what is there, and the rest in `Index.missing`, instead of an error.

    Raises:
        LayoutError: when something is not where its authors have it, saying what was looked for.
    """
    index = READERS[spec.layout](root, spec, seed)
    if missing_ok:
        return index
    if index.missing:
        listed = len(index.missing) + len(index.train) + len(index.test)
        raise LayoutError(
            f"{len(index.missing)} of {listed} listed pictures are not below {str(root)!r}: "
            f"{_listed(index.missing)}",
            index.missing,
        )
    for split, rows in (("training", index.train), ("test", index.test)):
        if not rows:
            raise LayoutError(f"{spec.name}: there is no {split} picture below {str(root)!r}")
    return index


def _stanford_dogs(root: Path, spec: PublishedSet, _seed: int) -> Index:
    """`Images/<class>/<file>`, with two lists in MATLAB's format."""
    pictures = _need(root, "Images")
    splits = [_mat_list(_need(root, name)) for name in ("train_list.mat", "test_list.mat")]
    folders: dict[int, str] = {}
    for file, label in splits[0] + splits[1]:
        folders.setdefault(label, file.split("/")[0])
    labels = sorted(folders)
    # A rehearsal has a few of the 120 classes; labels are counted anew then.
    place = {label: i for i, label in enumerate(labels)}
    classes = [folders[label].split("-", 1)[-1] for label in labels]
    train, test = ([(f"{pictures.name}/{file}", place[label]) for file, label in rows] for rows in splits)
    return _listed_index(root, classes, train, test)


def _mat_list(file: Path) -> list[Row]:
    """Files and labels from 0 of a list in MATLAB's format."""
    from scipy.io import loadmat

    try:
        content = loadmat(file)
        files = [str(np.asarray(cell).squeeze()) for cell in content["file_list"].reshape(-1)]
        labels = [int(value) - 1 for value in content["labels"].reshape(-1)]
        return list(zip(files, labels, strict=True))
    # Of a file that is cut or is something else, scipy raises what comes.
    except Exception as error:
        raise LayoutError(
            f"{str(file)!r} is no MATLAB file with a file_list and as many labels "
            f"({type(error).__name__}: {error})"
        ) from error


def _cub200(root: Path, spec: PublishedSet, _seed: int) -> Index:
    """`CUB_200_2011/images/<class>/<file>`, with a table each of files, labels and splits."""
    base = _need(root, "CUB_200_2011")
    tables = {}
    for name in ("images", "image_class_labels", "train_test_split", "classes"):
        path = _need(base, f"{name}.txt")
        lines = [line.split(maxsplit=1) for line in _lines(path)]
        if any(len(parts) != 2 for parts in lines):
            raise LayoutError(f"{str(path)!r} must have a number and a value in every line")
        tables[name] = {number: value.strip() for number, value in lines}
    different = [name for name in tables if name != "classes" and set(tables[name]) != set(tables["images"])]
    if different:
        raise LayoutError(f"{str(base)!r}: images.txt and {different[0]}.txt number different pictures")
    labels = {number: i for i, number in enumerate(tables["classes"])}
    splits: dict[str, list[Row]] = {"1": [], "0": []}
    for name, known in (("image_class_labels", labels), ("train_test_split", splits)):
        unknown = [f"{number} {value}" for number, value in tables[name].items() if value not in known]
        if unknown:
            what = "a class of classes.txt" if known is labels else "0 or 1"
            raise LayoutError(
                f"{str(base / f'{name}.txt')!r} must give each picture {what}; it has {_listed(unknown)}"
            )
    for number, file in tables["images"].items():
        row = (f"CUB_200_2011/images/{file}", labels[tables["image_class_labels"][number]])
        splits[tables["train_test_split"][number]].append(row)
    classes = [name.split(".", 1)[-1] for name in tables["classes"].values()]
    return _listed_index(root, classes, splits["1"], splits["0"])


def _caltech256(root: Path, spec: PublishedSet, seed: int) -> Index:
    """`256_ObjectCategories/<NNN.class>/<NNN_MMMM>.jpg`; the split is drawn class by class.

    One permutation of a class's pictures, in the order of their names: the first are test pictures, those that follow
    are for training. So 30 and 60 training pictures a class share their test pictures, and the 30 are among the 60.
    A copy with fewer pictures than the published one is split in the same proportion, 20 to 60.
    """
    base = _need(root, "256_ObjectCategories")
    folders = sorted(
        path for path in base.iterdir() if path.is_dir() and re.fullmatch(r"\d{3}\..+", path.name)
    )
    if not folders:
        raise LayoutError(f"{str(base)!r} has no class folders such as 001.ak47")
    assert spec.per_class is not None
    for_training, for_test = spec.per_class
    strays, short, others = [], [], []
    train: list[tuple[int, str, int]] = []
    test: list[Row] = []
    for label, folder in enumerate(folders):
        number = folder.name[:3]
        pattern = re.compile(rf"{number}_\d{{4}}\.jpg", re.IGNORECASE)
        found = sorted(path.name for path in folder.iterdir())
        names = [name for name in found if pattern.fullmatch(name) and (folder / name).is_file()]
        strays += [f"{folder.name}/{name}" for name in found if name not in names]
        if len(names) < 2:
            raise LayoutError(
                f"{str(folder)!r} has {len(names)} pictures such as {number}_0001.jpg; at least 2 are needed"
            )
        few = len(names) < 60 + 20
        short += [folder.name] if few else []
        tests = max(1, round(len(names) * 20 / 80)) if few else for_test
        trains = max(1, round((len(names) - tests) * for_training / 60)) if few else for_training
        order = np.random.RandomState([seed, 4, int(number)]).permutation(len(names))
        test += [(_below(base, folder, names[i]), label) for i in order[:tests]]
        chosen = [_below(base, folder, names[i]) for i in order[tests : tests + trains]]
        others += [_below(base, folder, names[i]) for i in order[tests + trains :]]
        half = max(1, round((len(names) - tests) * 30 / 60)) if few else 30
        train += [(0 if place < half else 1, file, label) for place, file in enumerate(chosen)]
    # The 30 of every class before what 60 have more of: the smaller set is a piece of the larger one.
    train.sort(key=lambda row: row[0])
    notes = [f"left out, no pictures of a class: {_listed(strays)}"] if strays else []
    if short:
        notes.append(
            f"{len(short)} classes have fewer than 80 pictures and are split 20 to {for_training} in proportion: "
            f"{_listed(short)}"
        )
    classes = [printable(folder.name.split(".", 1)[-1]) for folder in folders]
    rows = [(file, label) for _, file, label in train]
    return Index(classes, rows, test, notes, others=sorted(others))


def _mit_indoor67(root: Path, spec: PublishedSet, _seed: int) -> Index:
    """`Images/<class>/<file>`, with a list of files for each split."""
    base = next((path for path in (root, *sorted(root.iterdir())) if (path / "Images").is_dir()), None)
    if base is None:
        raise LayoutError(f"{str(root)!r} has no folder Images; it has {_listed(_names(root))}")
    splits = []
    for name in ("TrainImages.txt", "TestImages.txt"):
        file = root / name if (root / name).exists() else _need(base, name)
        splits.append([line.replace("\\", "/") for line in _lines(file)])
        odd = [line for line in splits[-1] if line.count("/") != 1]
        if odd:
            raise LayoutError(f"{str(file)!r} must list one class/picture a line; it has {_listed(odd)}")
    classes = sorted({line.split("/")[0] for lines in splits for line in lines})
    labels = {name: i for i, name in enumerate(classes)}
    below = (base / "Images").relative_to(root).as_posix()
    train, test = ([(f"{below}/{line}", labels[line.split("/")[0]]) for line in lines] for lines in splits)
    return _listed_index(root, classes, train, test)


def _ants_bees(root: Path, spec: PublishedSet, _seed: int) -> Index:
    """`hymenoptera_data/<train or val>/<class>/<file>.jpg`; what is no JPEG by name is left out, as in the tutorial."""
    base = _need(root, "hymenoptera_data")
    classes = ["ants", "bees"]
    strays: list[str] = []
    splits: list[list[Row]] = []
    for split in ("train", "val"):
        rows: list[Row] = []
        for label, name in enumerate(classes):
            folder = _need(base, f"{split}/{name}")
            for file in _names(folder):
                if file.lower().endswith((".jpg", ".jpeg")):
                    rows.append((_below(base, folder, file), label))
                else:
                    strays.append(f"{split}/{name}/{file}")
        splits.append(rows)
    notes = [f"left out, no pictures of a class: {_listed(strays)}"] if strays else []
    return Index(classes, splits[0], splits[1], notes)


READERS: dict[str, Callable[[Path, PublishedSet, int], Index]] = {
    "stanford_dogs": _stanford_dogs,
    "cub200": _cub200,
    "caltech256": _caltech256,
    "mit_indoor67": _mit_indoor67,
    "ants_bees": _ants_bees,
}


def _need(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        raise LayoutError(f"{str(folder)!r} has no {name}; it has {_listed(_names(folder)) or 'nothing'}")
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _lines(file: Path) -> list[str]:
    body = file.read_bytes()
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _below(base: Path, folder: Path, name: str) -> str:
    return (folder / name).relative_to(base.parent).as_posix()


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(printable, names[:SHOWN])) + (
        f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    )


def _listed_index(root: Path, classes: list[str], train: list[Row], test: list[Row]) -> Index:
    """The index under the names that the files have: a list may differ in case or suffix, or name a file twice."""
    folders: dict[str, dict[str, str]] = {}
    twice: list[str] = []
    renamed: list[str] = []
    missing: list[str] = []
    splits: list[dict[str, int]] = []
    for rows in (train, test):
        found: dict[str, int] = {}
        for file, label in rows:
            name = _found(root, file, folders)
            if name is None:
                missing.append(file)
            elif name in found:
                twice.append(file)
            else:
                found[name] = label
                renamed += [f"{file} is {name.rsplit('/', 1)[-1]}"] if name != file else []
        splits.append(found)
    notes = []
    for what, files in (
        ("listed twice, taken once", twice),
        ("listed for training and for test, left in both", [file for file in splits[0] if file in splits[1]]),
        ("found under another name than listed", renamed),
    ):
        notes += [f"{what}: {_listed(files)}"] if files else []
    return Index(classes, list(splits[0].items()), list(splits[1].items()), notes, missing)


def _found(root: Path, file: str, folders: dict[str, dict[str, str]]) -> str | None:
    folder, _, name = file.rpartition("/")
    if folder not in folders:
        folders[folder] = {entry.lower(): entry for entry in _names(root / folder)}
    entries = folders[folder]
    stem = name.rsplit(".", 1)[0].lower()
    for candidate in (name.lower(), *(stem + suffix for suffix in SUFFIXES)):
        if candidate in entries:
            # A file system that tells cases apart may hold the very name beside another.
            exact = (
                name if (root / folder / name).exists() and candidate == name.lower() else entries[candidate]
            )
            return f"{folder}/{exact}"
    return None
