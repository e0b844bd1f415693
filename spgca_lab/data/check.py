"""Whether an installed data set is the paper's: pictures counted against Table 1, and every one decoded."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from spgca_lab.data.decode import open_picture, picture_errors, to_rgb, what_is_wrong
from spgca_lab.data.home import files_root, read_manifest
from spgca_lab.data.layouts import Index, LayoutError, read_index
from spgca_lab.data.names import printable
from spgca_lab.data.published import PublishedSet, published

__all__ = ["Check", "check"]

SHOWN = 10
SHORT = 12  # classes that a terminal shows without being asked for all
# Stanford Dogs takes 100 training pictures of every class.
TRAIN_OF_EACH = {"stanford_dogs": 100}
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF"}


@dataclass(frozen=True)
class Check:
    """What a check found.

    Args:
        name: of the set.
        where: folder of its files.
        verified: whether every archive had the published checksum.
        table: one row a class: `class`, `train`, `test`.
        problems: what differs from Table 1 or is missing.
        corrupt: `(path, reason)` of each picture that is missing or cannot be decoded.
        odd: what is unusual and was coped with.
        others: how many pictures belong to neither split; they are decoded as well.
    """

    name: str
    where: Path
    verified: bool
    table: pd.DataFrame
    problems: tuple[str, ...]
    corrupt: tuple[tuple[str, str], ...]
    odd: tuple[str, ...]
    others: int = 0

    @property
    def ok(self) -> bool:
        """Whether this is the set that Table 1 counts, with every picture readable."""
        return not self.problems and not self.corrupt

    def text(self, full: bool = False) -> str:
        """The findings for a terminal.

        Args:
            full: every class, however many there are.
        """
        spec = published(self.name)
        sums = self.table[["train", "test"]].sum()
        found = (sums["train"], sums["test"], len(self.table))
        authors = "published" if self.name == "ants_bees" else "Table 1"
        lines = [
            f"{self.name} ({spec.title}) in {str(self.where)!r}",
            f"{'':14}{'training':>10}{'test':>10}{'classes':>10}",
            f"{'here':14}" + "".join(f"{value:>10,}" for value in found),
            f"{authors:14}" + "".join(f"{value:>10,}" for value in (spec.train, spec.test, spec.classes)),
            "archives: as published" if self.verified else "archives: not verified as the published ones",
        ]
        if self.others:
            lines.append(f"{self.others:,} more pictures belong to neither split")
        lines += [f"DIFFERS: {problem}" for problem in self.problems]
        lines += [f"CORRUPT: {path} ({why})" for path, why in self.corrupt]
        lines += [f"odd, and coped with: {what}" for what in self.odd]
        if self.ok:
            whose = "the paper" if authors == "Table 1" else "its authors"
            lines.append(f"all pictures can be decoded, and their numbers are those of {whose}")
        shown = self.table if full or len(self.table) <= SHORT else self.table.head(SHORT)
        if len(shown):
            lines += ["", shown.to_string(index=False)]
        if len(shown) < len(self.table):
            lines.append(f"and {len(self.table) - len(shown)} more classes")
        return "\n".join(printable(each) for line in lines for each in line.split("\n"))


def check(name: str, home: str | Path | None = None, seed: int = 0, *, progress: bool = True) -> Check:
    """Count an installed set's pictures class by class against Table 1, and decode every one.

    Args:
        name: one of `PUBLISHED`.
        home: folder of the data sets, see `data_home`.
        seed: of the split where the set has none of its own.
        progress: show a bar.

    Raises:
        DataMissing: when the set is not installed.

    Source:
        Table 1 of the paper; for ants and bees, what PyTorch's tutorial counts.

    Example:
        >>> check("cub200").ok  # doctest: +SKIP
        True
    """
    spec, root = published(name), files_root(name, home)
    manifest = read_manifest(name, home)
    verified = manifest is not None and manifest.verified
    try:
        index = read_index(spec, root, seed, missing_ok=True)
    except LayoutError as error:
        nothing = pd.DataFrame(columns=["class", "train", "test"], data=[])
        return Check(name, root, verified, nothing, (str(error),), (), ())
    table = pd.DataFrame(
        {
            "class": index.classes,
            "train": _counts(index.train, len(index.classes)),
            "test": _counts(index.test, len(index.classes)),
        }
    )
    corrupt, odd = _decoded(root, index, progress)
    missing = tuple((file, "missing") for file in index.missing)
    problems = tuple(_differences(spec, table))
    others = len(index.others)
    return Check(name, root, verified, table, problems, (*missing, *corrupt), (*index.notes, *odd), others)


def _counts(rows: Sequence[tuple[str, int]], classes: int) -> list[int]:
    counts = [0] * classes
    for _, label in rows:
        counts[label] += 1
    return counts


def _differences(spec: PublishedSet, table: pd.DataFrame) -> Iterator[str]:
    for column, expected in (("train", spec.train), ("test", spec.test)):
        found = int(table[column].sum())
        what = "training" if column == "train" else column
        if found != expected:
            yield f"{found:,} {what} pictures, {expected:,} are published"
    if len(table) != spec.classes:
        yield f"{len(table)} classes, {spec.classes} are published"
    of_each = spec.per_class or (TRAIN_OF_EACH.get(spec.layout), None)
    for column, what, each in zip(("train", "test"), ("training", "test"), of_each, strict=True):
        other = table.loc[table[column] != each, "class"] if each is not None else []
        if len(other):
            more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
            yield f"not {each} {what} pictures in {', '.join(other[:SHOWN])}{more}"


def _decoded(root: Path, index: Index, progress: bool) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    files = sorted({*(file for file, _ in (*index.train, *index.test)), *index.others})
    corrupt = []
    kinds: dict[str, list[str]] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(lambda file: _look(root / file), files)
        bar = tqdm(looks, total=len(files), unit="picture", disable=None if progress else True)
        for file, (kind, wrong) in zip(files, bar, strict=True):
            if wrong:
                corrupt.append((file, wrong))
            for each in kind:
                kinds.setdefault(each, []).append(file)
    odd = []
    for kind, found in sorted(kinds.items()):
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        odd.append(f"{len(found)} {kind}: {', '.join(found[:SHOWN])}{more}")
    return tuple(corrupt), tuple(odd)


def _look(file: Path) -> tuple[list[str], str]:
    """What is unusual about a picture, and what is wrong with it."""
    kinds = []
    try:
        with open_picture(file) as picture:
            claimed = FORMATS.get(file.suffix.lower())
            if claimed and picture.format != claimed:
                kinds.append(f"{picture.format} named {file.suffix}")
            if picture.mode != "RGB":
                kinds.append(
                    {"L": "grey", "P": "with a palette", "1": "black and white"}.get(
                        picture.mode, picture.mode
                    )
                )
            to_rgb(picture)
    except picture_errors() as error:
        return [], what_is_wrong(file, error)
    return kinds, ""
