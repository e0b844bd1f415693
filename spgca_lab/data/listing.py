"""Which pictures a folder of classes holds: every folder is listed once, and no link leads in circles."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

__all__ = ["SUFFIXES", "Listing", "list_classes", "listed"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SHOWN = 20


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Args:
        files: sorted picture files by class folder, as strings: of many thousands a few may be wanted.
        notes: what was left out and might have been meant.
    """

    files: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)


def list_classes(root: Path) -> Listing:
    """Picture files by class folder, of any depth; hidden entries are left out.

    A class folder may be a link. Below it links to files count and links to folders do not, so that it ends.

    Args:
        root: the folder of the class folders.

    Raises:
        FileNotFoundError: when there is no class folder.
        ValueError: naming class folders without pictures, and links that bring the same pictures twice.

    Example:
        >>> list_classes(Path("photos/train"))  # doctest: +SKIP
    """
    notes: list[str] = []
    folders, beside = [], []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append((entry.name, entry.path, entry.is_symlink()))
            elif _is_picture(entry):
                beside.append(entry.name)
    if not folders:
        raise FileNotFoundError(
            f"{str(root)!r} has no class folders: expected <class>/<picture>, or train/ and test/ of that"
        )
    folders.sort()
    if any(link for _, _, link in folders):
        _no_circles(root, [(name, os.path.realpath(path)) for name, path, _ in folders])
    if beside:
        notes.append(f"pictures of no class, beside the class folders of {str(root)!r}: {listed(beside)}")
    links: list[str] = []
    found = {name: _pictures(path, links) for name, path, _ in folders}
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise ValueError(f"no pictures ({' '.join(SUFFIXES)}) in {listed(empty)} of {str(root)!r}")
    if links:
        notes.append(f"links to folders inside a class are not followed: {listed(links)}")
    return Listing(found, notes)


def listed(names: Iterable[str]) -> str:
    """The first of some names, in quotes.

    Example:
        >>> listed(["a", "b"])
        "'a', 'b'"
    """
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _pictures(folder: str, links: list[str]) -> list[str]:
    found, left = [], [folder]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                elif _leads_to_folder(entry):
                    links.append(entry.path)
                elif _is_picture(entry):
                    found.append(entry.path)
    # As paths compare, part by part: the order of the pictures, and so every choice by seed, depends on it.
    return sorted(found, key=lambda path: Path(path).parts)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:
        return False  # a link to itself


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """Whether its name is a picture's and it is a file; a link that leads nowhere is one that cannot be read."""
    if not entry.name.lower().endswith(SUFFIXES):
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True


def _no_circles(root: Path, folders: list[tuple[str, str]]) -> None:
    """No class folder is another one, or lies in it, or contains them all."""
    here = os.path.realpath(root)
    for name, real in folders:
        if os.path.commonpath([here, real]) == real:
            raise ValueError(
                f"the class folder {name!r} of {str(root)!r} is a link to {real!r}, which contains it: a class "
                "would hold the pictures of all; remove the link"
            )
    ordered = sorted(folders, key=lambda each: Path(each[1]).parts)
    for (first, outer), (second, inner) in pairwise(ordered):
        if os.path.commonpath([outer, inner]) == outer:
            raise ValueError(
                f"the class folders {first!r} and {second!r} of {str(root)!r} are the same, or one lies in the "
                f"other ({inner!r}): a picture would be in both classes"
            )
