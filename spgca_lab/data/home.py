"""Where the data sets lie, and what is written down about those that are there."""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spgca_lab.data.published import PUBLISHED, published

# Windows has no flock: that one process at a time installs a set is then up to the reader.
_LOCKS = find_spec("fcntl") is not None
if _LOCKS:
    import fcntl

__all__ = [
    "ArchiveRecord",
    "DataMissing",
    "Manifest",
    "alone",
    "data_home",
    "files_root",
    "fingerprint",
    "read_manifest",
    "repair",
]

VARIABLE = "SPGCA_LAB_DATA"
MANIFEST = "manifest.json"
# File systems of some networks and clouds know no locks; installing there is better than refusing to.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class DataMissing(LookupError):
    """A published data set that is not on this machine, or not where it was looked for."""


@dataclass(frozen=True)
class ArchiveRecord:
    """An archive as it was installed.

    Args:
        file: its published name, or that of a folder which was unpacked already.
        size: in bytes.
        sha256: of its bytes; for a folder, of the sorted relative paths and sizes of its files.
        verified: whether a published checksum was there and agreed.
        source: URL or path that it came from; `from` in the file.
    """

    file: str
    size: int
    sha256: str
    verified: bool
    source: str


@dataclass(frozen=True)
class Manifest:
    """What a data set's folder holds, as `manifest.json` tells it.

    Args:
        folder: its name under the data home.
        when: it was installed, in ISO format with the time zone.
        archives: that it was unpacked from.
        files: how many were unpacked.

    Example:
        >>> one = ArchiveRecord("a.tar", 5, "ab" * 32, True, "https://example.org/a.tar")
        >>> manifest = Manifest("cub200", "2026-01-01T12:00:00+00:00", (one,), 3)
        >>> Manifest.from_json(manifest.to_json()) == manifest, manifest.verified, len(manifest.fingerprint)
        (True, True, 12)
    """

    folder: str
    when: str
    archives: tuple[ArchiveRecord, ...]
    files: int

    @property
    def verified(self) -> bool:
        """Whether every archive agreed with a published checksum."""
        return all(archive.verified for archive in self.archives)

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that depend on the archives' bytes alone."""
        hashes = "\n".join(sorted(archive.sha256 for archive in self.archives))
        return hashlib.sha256(hashes.encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """The file's text."""
        archives = [
            {"file": a.file, "size": a.size, "sha256": a.sha256, "verified": a.verified, "from": a.source}
            for a in self.archives
        ]
        fields = {"folder": self.folder, "when": self.when, "files": self.files, "archives": archives}
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """The manifest that a file's text gives.

        Raises:
            ValueError: when it is not one.
        """
        try:
            fields: Any = json.loads(text)
            archives = tuple(
                ArchiveRecord(
                    _of(str, a["file"]),
                    _of(int, a["size"]),
                    _of(str, a["sha256"]),
                    _of(bool, a["verified"]),
                    _of(str, a["from"]),
                )
                for a in fields["archives"]
            )
            return cls(
                _of(str, fields["folder"]), _of(str, fields["when"]), archives, _of(int, fields["files"])
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def data_home(home: str | Path | None = None) -> Path:
    """The folder in which every data set has its own.

    Args:
        home: asked for; None takes the environment variable `SPGCA_LAB_DATA`, and without it the user's data folder.

    Returns:
        an absolute path; nothing is created.

    Example:
        >>> data_home("pictures").is_absolute()
        True
    """
    asked = home or os.environ.get(VARIABLE)
    if asked:
        return Path(asked).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("spgca-lab") / "datasets"


def read_manifest(name: str, home: str | Path | None = None) -> Manifest | None:
    """What is installed of a published data set.

    Args:
        name: one of `PUBLISHED`.
        home: see `data_home`.

    Returns:
        None when it is not installed.

    Raises:
        LookupError: when there is no such set.
        ValueError: when the manifest is damaged, with the file's path.

    Example:
        >>> read_manifest("cub200", "no/such/folder") is None
        True
    """
    file = _folder(data_home(home), published(name).folder) / MANIFEST
    try:
        return Manifest.from_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(
            f"{str(file)!r} is damaged ({error}); install the set anew: `spgca-lab data fetch {name} --fresh`"
        ) from error


def files_root(name: str, home: str | Path | None = None) -> Path:
    """The folder with the unpacked files of an installed data set.

    Args:
        name: one of `PUBLISHED`.
        home: see `data_home`.

    Raises:
        DataMissing: when it is not installed: where it was looked for, and the commands that install it.
        LookupError: when there is no such set.
        ValueError: when its manifest is damaged.

    Example:
        >>> files_root("cub200", "no/such/folder")
        Traceback (most recent call last):
        ...
        spgca_lab.data.home.DataMissing: 'cub200' is not installed: ...
    """
    folder = _folder(data_home(home), published(name).folder)
    if read_manifest(name, home) is not None and (folder / "files").is_dir():
        return folder / "files"
    option = f" --home {home}" if home else ""
    raise DataMissing(
        f"{name!r} is not installed: there is no data set in {str(folder)!r}. "
        f"Download it with `spgca-lab data fetch {name}{option}`, or give archives that you have: "
        f"`spgca-lab data import {name} PATH{option}`"
        + ("" if home else f". Another folder: --home, or the environment variable {VARIABLE}")
    )


def fingerprint(name: str, home: str | Path | None = None) -> str | None:
    """Which archives an installed data set was unpacked from, in 12 hexadecimal digits.

    Args:
        name: of a data set, published or not.
        home: see `data_home`.

    Returns:
        None when it is not installed, or is no published set.

    Example:
        >>> fingerprint("stickers") is None
        True
    """
    if name not in PUBLISHED:
        return None
    manifest = read_manifest(name, home)
    return manifest.fingerprint if manifest else None


@contextmanager
def alone(home: Path, folder: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process installs this folder, and keep others waiting; ends with the process.

    Args:
        home: the data home; created when it is not there.
        folder: of the set.
        tell: is given one line before it waits.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not _LOCKS:
        yield
        return
    lock = home / f"{folder}.lock"
    told = False
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if not told:
                tell(f"another process installs {str(home / folder)!r}; waiting for it")
            told = True
            time.sleep(0.1)
            continue
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
        # Whoever had it before took the file away: a lock on a file without a name keeps nobody out.
        try:
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                break
        except FileNotFoundError:
            pass
        os.close(descriptor)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def repair(home: Path, folder: str) -> None:
    """Clear away what a killed installation left; only for who is `alone`.

    Args:
        home: the data home.
        folder: of the set.
    """
    current, old, part = home / folder, home / f"{folder}.old", home / f"{folder}.part"
    if old.exists() and not current.exists():
        old.rename(current)
    for left in (old, part):
        if left.exists():
            shutil.rmtree(left)


def _folder(home: Path, folder: str) -> Path:
    """Where the set lies: between the two moves of a replacement, that is still the old place's new name."""
    current, old = home / folder, home / f"{folder}.old"
    return old if not current.exists() and (old / MANIFEST).exists() else current


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
