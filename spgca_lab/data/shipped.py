"""Shipped data as it left the project: a SHA-256 of every file, compared when the file is read."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from spgca_lab.data.location import data_dir

__all__ = ["CHECKSUMS", "ShippedDataError", "check_shipped", "rewrite", "shipped_files", "verify_shipped"]

CHECKSUMS = "checksums.json"
FORMAT = 1
FOLDERS = ("stickers", "mini", "runs", "comparison", "factorial", "truth")
REMEDY = "Reinstall the package, or restore the file in the checkout; after building it anew: data/make_checksums.py"

# What was compared once in this process; a file that changes has another time or size.
_COMPARED: dict[str, tuple[int, int, int]] = {}


class ShippedDataError(ValueError):
    """A file that ships with the lab and is damaged or missing."""


def check_shipped(path: str | Path) -> None:
    """Compare a shipped file, or all of a shipped folder, with what left the project; nothing else is looked at.

    What lies outside of `data_dir()`, or has no checksum, is the user's own and passes.

    Args:
        path: of a file or folder, whoever's.

    Raises:
        ShippedDataError: naming the file, with both sums.

    Example:
        >>> check_shipped("my/own/run/result.json")
        >>> check_shipped(data_dir() / "truth")
    """
    root = _root()
    if root is None:
        return
    name = _below(path, root)
    if name is None:
        return
    sums = _sums(root)
    if name in sums:
        _compare(root, name, sums[name])
        return
    for each in _folders(root).get(name, ()):
        _compare(root, each, sums[each])


def verify_shipped(path: str | Path) -> None:
    """Compare a shipped file with its checksum; one without is an error.

    Args:
        path: of a file below `data_dir()`.

    Raises:
        ShippedDataError: when it is damaged, missing, or none of the shipped files.

    Example:
        >>> verify_shipped(data_dir() / "mini" / "report.json")
        >>> verify_shipped("elsewhere.csv")
        Traceback (most recent call last):
        ...
        spgca_lab.data.shipped.ShippedDataError: 'elsewhere.csv' does not ship with the lab: checksums.json has no ...
    """
    root = _root()
    name = None if root is None else _below(path, root)
    if root is None or name is None or name not in _sums(root):
        raise ShippedDataError(f"{str(path)!r} does not ship with the lab: {CHECKSUMS} has no sum of it")
    _compare(root, name, _sums(root)[name])


def shipped_files(root: Path) -> list[str]:
    """The files of a data folder that ship, by their names below it; scripts and hidden files do not.

    Args:
        root: a folder such as `data_dir()`.

    Example:
        >>> "mini/report.json" in shipped_files(data_dir())
        True
    """
    found = []
    for top in FOLDERS:
        for file in (root / top).rglob("*"):
            if file.is_file() and file.suffix != ".py" and not file.name.startswith("."):
                found.append(file.relative_to(root).as_posix())
    return sorted(found)


def rewrite(root: Path) -> int:
    """Write the checksums of a data folder anew.

    Args:
        root: the folder; `checksums.json` is written into it.

    Returns:
        how many files it has.

    Example:
        >>> import tempfile
        >>> rewrite(Path(tempfile.mkdtemp()))
        0
    """
    folders: dict[str, dict[str, str]] = {}
    names = shipped_files(root)
    for name in names:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, {})[file] = _sha256(root / name)
    told = {"format": FORMAT, "sha256": _own_sum(folders), "folders": folders}
    (root / CHECKSUMS).write_text(json.dumps(told, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    _sums.cache_clear()
    _folders.cache_clear()
    return len(names)


@lru_cache(maxsize=1)
def _root() -> Path | None:
    try:
        return data_dir()
    except FileNotFoundError:
        # Without shipped data nothing can be taken for it.
        return None


def _below(path: str | Path, root: Path) -> str | None:
    """The path's name below the root; None when it lies elsewhere."""
    # Not resolved: who puts a link into the shipped data has looked at where it leads.
    full = Path.cwd() / path
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else None


@lru_cache(maxsize=4)
def _sums(root: Path) -> dict[str, str]:
    """Checksums by name below the root."""
    file = root / CHECKSUMS
    try:
        told: dict[str, Any] = json.loads(file.read_bytes())
        form, own, folders = told["format"], told["sha256"], told["folders"]
    except FileNotFoundError as error:
        raise ShippedDataError(f"{str(file)!r} is missing. {REMEDY}") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ShippedDataError(
            f"{str(file)!r} is damaged ({type(error).__name__}: {error}). {REMEDY}"
        ) from error
    if form != FORMAT:
        raise ShippedDataError(
            f"{str(file)!r} has format {form!r}, and this version reads {FORMAT}. {REMEDY}"
        )
    found = _own_sum(folders)
    if found != own:
        raise ShippedDataError(
            f"{str(file)!r} is damaged: the SHA-256 of its folders is {found}, and it says {own}. {REMEDY}"
        )
    return {f"{folder}/{name}": sha for folder, files in folders.items() for name, sha in files.items()}


@lru_cache(maxsize=4)
def _folders(root: Path) -> dict[str, list[str]]:
    """The files below each folder, of whatever depth."""
    below: dict[str, list[str]] = {}
    for name in _sums(root):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            below.setdefault("/".join(parts[:depth]), []).append(name)
    return below


def _compare(root: Path, name: str, told: str) -> None:
    path = root / name
    try:
        now = path.stat()
        stamp = (now.st_mtime_ns, now.st_size, now.st_ino)
        if _COMPARED.get(str(path)) == stamp:
            return
        found = _sha256(path)
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ShippedDataError(f"{str(path)!r} {why}, and ships with the lab. {REMEDY}") from error
    if found != told:
        raise ShippedDataError(
            f"{str(path)!r} is damaged: its SHA-256 is {found}, and {CHECKSUMS} says {told}. {REMEDY}"
        )
    _COMPARED[str(path)] = stamp


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_sum(folders: Any) -> str:
    """Of the list itself: a flipped digit in it must not blame the file that it stands for."""
    return hashlib.sha256(json.dumps(folders, sort_keys=True).encode()).hexdigest()
