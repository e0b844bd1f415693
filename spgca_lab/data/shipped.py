"""The embedded data: its folder, and a SHA-256 of every file that is compared when the file is read."""

import hashlib
import json
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

CHECKSUMS = "checksums.json"
FOLDERS = ("stickers", "mini", "runs", "comparison", "factorial", "truth")
REMEDY = "Reinstall the package, or restore the file in the checkout; after building it anew: data/make_checksums.py"

# Time, size and inode of each file that was compared in this process.
_COMPARED: dict[Path, tuple[int, int, int]] = {}


class ShippedDataError(ValueError):
    """A file of the embedded data that is damaged or missing."""


def data_dir() -> Path:
    """Return the folder of the embedded data: `spgca_lab/_data` in an installed wheel, `data/` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "_data", package.parent / "data")
    for folder in candidates:
        if (folder / "stickers").is_dir():
            return folder
    raise FileNotFoundError(
        "The embedded data of spgca_lab is missing: looked for 'stickers/' in "
        + " and ".join(repr(str(folder)) for folder in candidates)
        + ". Reinstall the package, or run from a complete checkout."
    )


def check_shipped(path: str | Path) -> None:
    """Compare a shipped file, or all files of a shipped folder, with the checksums; those of the user pass."""
    root, name = _locate(path)
    sums = _sums(root) if name else {}
    for each in [name] if name in sums else [n for n in sums if n.startswith(f"{name}/")]:
        _compare(root / each, sums[each])


def verify_shipped(path: str | Path) -> None:
    """Compare a shipped file with its checksum; raise a `ShippedDataError` if it has none."""
    root, name = _locate(path)
    sums = _sums(root) if name else {}
    if name not in sums:
        raise ShippedDataError(f"{str(path)!r} does not ship with the lab: {CHECKSUMS} has no sum of it")
    _compare(root / name, sums[name])


def shipped_files(root: Path) -> list[str]:
    """List the shipped files of a data folder by name; scripts and hidden files do not ship."""
    return sorted(
        file.relative_to(root).as_posix()
        for top in FOLDERS
        for file in (root / top).rglob("*")
        if file.is_file() and file.suffix != ".py" and not file.name.startswith(".")
    )


def rewrite(root: Path) -> int:
    """Write `checksums.json` of a data folder anew, and return the number of files in it."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    names = shipped_files(root)
    for name in names:
        folder, _, file = name.rpartition("/")
        folders[folder][file] = _sha256(root / name)
    content = {"format": 1, "sha256": _own_sum(folders), "folders": folders}
    (root / CHECKSUMS).write_text(json.dumps(content, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    _sums.cache_clear()
    return len(names)


@lru_cache(maxsize=1)
def _root() -> Path | None:
    try:
        return data_dir()
    except FileNotFoundError:
        return None


def _locate(path: str | Path) -> tuple[Path, str]:
    # Links are not resolved: a link inside the shipped data is the choice of its user.
    root, full = _root(), Path.cwd() / path
    return (root, full.relative_to(root).as_posix()) if root and full.is_relative_to(root) else (Path(), "")


@lru_cache(maxsize=4)
def _sums(root: Path) -> dict[str, str]:
    file = root / CHECKSUMS
    try:
        content: Any = json.loads(file.read_bytes())
        sums = {
            f"{top}/{name}": sha for top, names in content["folders"].items() for name, sha in names.items()
        }
        if _own_sum(content["folders"]) != content["sha256"]:
            raise ValueError("the SHA-256 of its folders differs")
    except FileNotFoundError as error:
        raise ShippedDataError(f"{str(file)!r} is missing. {REMEDY}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ShippedDataError(
            f"{str(file)!r} is damaged ({type(error).__name__}: {error}). {REMEDY}"
        ) from error
    return sums


def _compare(path: Path, expected: str) -> None:
    try:
        now = path.stat()
        stamp = (now.st_mtime_ns, now.st_size, now.st_ino)
        if _COMPARED.get(path) == stamp:
            return
        found = _sha256(path)
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ShippedDataError(f"{str(path)!r} {why}, and ships with the lab. {REMEDY}") from error
    if found != expected:
        raise ShippedDataError(
            f"{str(path)!r} is damaged: its SHA-256 is {found}, and {CHECKSUMS} says {expected}. {REMEDY}"
        )
    _COMPARED[path] = stamp


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_sum(folders: Any) -> str:
    # A checksum of the checksums: a flipped digit must not blame the file that it belongs to.
    return hashlib.sha256(json.dumps(folders, sort_keys=True).encode()).hexdigest()
