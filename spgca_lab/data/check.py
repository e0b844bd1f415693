"""Compare an installed data set with the paper's Table 1, and find its corrupt images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from spgca_lab._checks import listed, printable
from spgca_lab.data.decode import read_images
from spgca_lab.data.install import files_root, read_manifest
from spgca_lab.data.layouts import LayoutError, read_index
from spgca_lab.data.published import PublishedSet, published

if TYPE_CHECKING:
    import pandas as pd

SHORT = 12  # classes that a terminal shows unless all are wanted
# Stanford Dogs has 100 training images of every class.
TRAIN_PER_CLASS = {"stanford_dogs": 100}


@dataclass(frozen=True)
class Check:
    """Result of checking an installed data set.

    Args:
        table: one row per class with the columns `class`, `train` and `test`.
        problems: differences from Table 1.
        corrupt: `(path, reason)` of each image that is missing or cannot be decoded.
        odd: oddities of the layout that are handled.
        others: number of images in neither split; they are decoded as well.
    """

    name: str
    where: Path
    verified: bool
    table: "pd.DataFrame"
    problems: list[str]
    corrupt: list[tuple[str, str]]
    odd: list[str]
    others: int

    @property
    def ok(self) -> bool:
        """True if the numbers are those of Table 1 and every image is readable."""
        return not self.problems and not self.corrupt

    def text(self, full: bool = False) -> str:
        """Format the result for a terminal; `full` shows every class."""
        spec = published(self.name)
        sums = self.table[["train", "test"]].sum()
        source, whose = "Table 1", "the paper"
        if self.name == "ants_bees":
            source, whose = "published", "its authors"
        rows = (
            ("", ("training", "test", "classes")),
            ("here", (sums["train"], sums["test"], len(self.table))),
            (source, (spec.train, spec.test, spec.classes)),
        )
        lines = [f"{self.name} ({spec.title}) in {str(self.where)!r}"]
        lines += [
            f"{row:14}" + "".join(f"{v if row == '' else f'{v:,}':>10}" for v in each) for row, each in rows
        ]
        lines.append(
            "archives: as published" if self.verified else "archives: not verified as the published ones"
        )
        if self.others:
            lines.append(f"{self.others:,} more images belong to neither split")
        lines += [f"DIFFERS: {problem}" for problem in self.problems]
        lines += [f"CORRUPT: {path} ({why})" for path, why in self.corrupt]
        lines += [f"odd, and coped with: {what}" for what in self.odd]
        if self.ok:
            lines.append(f"all images can be decoded, and their numbers are those of {whose}")
        shown = self.table if full or len(self.table) <= SHORT else self.table.head(SHORT)
        if len(shown):
            lines += ["", *shown.to_string(index=False).split("\n")]
        if len(shown) < len(self.table):
            lines.append(f"and {len(self.table) - len(shown)} more classes")
        return "\n".join(map(printable, lines))


def check(name: str, home: str | Path | None = None, seed: int = 0, *, progress: bool = True) -> Check:
    """Count the images of an installed set per class against Table 1, and decode every one.

    Args:
        name: one of `PUBLISHED`.
        home: folder of the data sets, see `data_home`.
        seed: seed of the split, for sets without one of their own.
        progress: show a progress bar.

    Source:
        Table 1 of the paper; for ants and bees, the numbers of PyTorch's tutorial.
    """
    import pandas as pd

    spec, root = published(name), files_root(name, home)
    manifest = read_manifest(name, home)
    verified = manifest is not None and manifest.verified
    try:
        index = read_index(spec, root, seed, missing_ok=True)
    except LayoutError as error:
        nothing = pd.DataFrame(columns=["class", "train", "test"], data=[])
        return Check(name, root, verified, nothing, [str(error)], [], [], 0)
    table = pd.DataFrame({"class": index.classes})
    for split, rows in (("train", index.train), ("test", index.test)):
        labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
        table[split] = torch.bincount(labels, minlength=len(index.classes)).tolist()
    files = sorted({*(file for file, _ in (*index.train, *index.test)), *index.others})
    images = read_images([root / file for file in files], 8)
    bar = tqdm(images, total=len(files), unit="image", disable=None if progress else True)
    corrupt = [(file, image) for file, image in zip(files, bar, strict=True) if isinstance(image, str)]
    missing = [(file, "missing") for file in index.missing]
    return Check(
        name,
        root,
        verified,
        table,
        _differences(spec, table),
        missing + corrupt,
        index.notes,
        len(index.others),
    )


def _differences(spec: PublishedSet, table: "pd.DataFrame") -> list[str]:
    found = []
    train, test = spec.per_class or (TRAIN_PER_CLASS.get(spec.folder), None)
    splits = (("train", "training", spec.train, train), ("test", "test", spec.test, test))
    for column, what, number, _ in splits:
        if (total := int(table[column].sum())) != number:
            # The wording stands in a stored notebook output.
            found.append(f"{total:,} {what} pictures, {number:,} are published")
    if len(table) != spec.classes:
        found.append(f"{len(table)} classes, {spec.classes} are published")
    for column, what, _, each in splits:
        other = table.loc[table[column] != each, "class"] if each is not None else []
        if len(other):
            found.append(f"not {each} {what} images in {listed(other)}")
    return found
