"""Pictures decoded once into a file of bytes that every process maps into its memory."""

import errno
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spgca_lab.data.decode import read_pictures, unreadable
from spgca_lab.data.home import alone

__all__ = ["PixelsError", "decoded"]

VERSION = 1
CHUNK = 256
TRIES = 5
_VERIFIED: set[tuple[str, int, int, int]] = set()


class PixelsError(ValueError):
    """Pictures that cannot be decoded, all named, or a map that the disk does not keep."""


def decoded(
    files: Sequence[str],
    root: Path,
    folder: Path,
    side: int,
    *,
    name: str,
    remedy: str,
    progress: bool = True,
) -> np.ndarray:
    """Pictures as uint8 `[n, 3, side, side]`: decoded by the first process that asks, mapped into memory by all.

    The pages are shared by every process that maps them, and are read from disk as they are needed; what a process
    writes into the array stays its own. A process that dies while it decodes leaves whole chunks, and the next goes on
    after them. Every chunk has a checksum, compared once a process; a damaged one is decoded again, with a warning.

    Args:
        files: paths below the root.
        root: folder of the pictures.
        folder: where the map lies, made if need be.
        side: of the squares in pixels.
        name: of the map.
        remedy: what to do about pictures that cannot be read.
        progress: show a bar while decoding.

    Raises:
        PixelsError: naming every picture that cannot be read; or when the disk does not keep what is written.
        OSError: when the disk has too little room, saying how much is needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = _Pixels(files, root, folder / f"{name}-{side}.u8", side, remedy)
    for _ in range(TRIES):
        if not pixels.complete():
            with alone(folder, pixels.file.name, _quiet):
                # Another may have done it while this one waited.
                if not pixels.complete():
                    pixels.decode(progress)
        # What is returned is what was verified, even if another process puts another map in its place.
        mapped = pixels.verified()
        if mapped is not None:
            return mapped
    raise PixelsError(
        f"{str(pixels.file)!r} differs from its checksums each time that it is written: "
        "look at the disk, or move the data sets (SPGCA_LAB_DATA)"
    )


def _quiet(_: str) -> None:
    """Whoever waits for a map has nothing to say: the bar of the one that decodes tells."""


class _Pixels:
    def __init__(self, files: Sequence[str], root: Path, file: Path, side: int, remedy: str):
        self.files, self.root, self.file, self.side, self.remedy = files, root, file, side, remedy
        self.shape = (len(files), 3, side, side)
        self.record = file.with_suffix(".json")
        told = hashlib.sha256(f"{VERSION} {side}\n".encode())
        for each in files:
            try:
                size = (root / each).stat().st_size
            except OSError:
                size = -1
            told.update(f"{each} {size}\n".encode(errors="surrogateescape"))
        self.key = told.hexdigest()

    @property
    def chunks(self) -> list[slice]:
        return [slice(at, min(at + CHUNK, len(self.files))) for at in range(0, len(self.files), CHUNK)]

    def sums(self) -> list[str | None]:
        """Checksums of the chunks that are done, None for the others."""
        nothing: list[str | None] = [None] * len(self.chunks)
        try:
            told: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
            same = told["key"] == self.key and len(told["sums"]) == len(nothing)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return nothing
        size = self.file.stat().st_size if self.file.exists() else -1
        return told["sums"] if same and size == self.size else nothing

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def complete(self) -> bool:
        return None not in self.sums()

    def decode(self, progress: bool) -> None:
        sums = self.sums()
        if all(done is None for done in sums):
            self._begin()
        broken: list[tuple[str, str]] = []
        left = [i for i, done in enumerate(sums) if done is None]
        count = sum(len(self.files[self.chunks[i]]) for i in left)
        with (
            self.file.open("r+b") as file,
            tqdm(total=count, unit="picture", desc=self.file.stem, disable=None if progress else True) as bar,
        ):
            for i in left:
                rows = self.chunks[i]
                chunk = np.empty((len(self.files[rows]), *self.shape[1:]), dtype=np.uint8)
                paths = [self.root / each for each in self.files[rows]]
                for row, found in enumerate(read_pictures(paths, self.side)):
                    bar.update()
                    if isinstance(found, str):
                        broken.append((self.files[rows.start + row], found))
                    else:
                        chunk[row] = found
                if not broken:
                    # Written, not mapped: a full disk is an error here, and would kill the process there.
                    file.seek(rows.start * math.prod(self.shape[1:]))
                    file.write(chunk.tobytes())
                    file.flush()
                    sums[i] = _sum(chunk)
                    self._write(sums)
        if broken:
            raise PixelsError(unreadable(broken, len(self.files), self.remedy))

    def verified(self) -> np.memmap | None:
        """The map, its checksums compared once a process; None when it was damaged or replaced meanwhile."""
        mapped, stamp = self._map()
        if mapped is None or (stamp not in _VERIFIED and self._damaged(mapped)):
            self._heal()
            return None
        _VERIFIED.add(stamp)
        return mapped

    def _map(self) -> tuple[np.memmap | None, tuple[str, int, int, int]]:
        try:
            with self.file.open("rb") as file:
                told = os.fstat(file.fileno())
                stamp = (str(self.file.resolve()), told.st_ino, told.st_mtime_ns, told.st_size)
                fits = told.st_size == self.size
                return (np.memmap(file, np.uint8, "c", shape=self.shape) if fits else None), stamp
        except FileNotFoundError:
            return None, ("", 0, 0, 0)

    def _heal(self) -> None:
        with alone(self.file.parent, self.file.name, _quiet):
            # Another may have healed it, or have put another map in its place, while this one waited.
            mapped, _ = self._map()
            damaged = self._damaged(mapped) if mapped is not None and self.complete() else []
            if damaged:
                warnings.warn(
                    f"{str(self.file)!r} is damaged in {len(damaged)} of {len(self.chunks)} chunks: "
                    "decoding these again",
                    stacklevel=5,
                )
                kept = self.sums()
                self._write([None if i in damaged else kept[i] for i in range(len(kept))])
                self.decode(progress=False)

    def _damaged(self, mapped: np.memmap) -> list[int]:
        sums = self.sums()
        return [i for i, rows in enumerate(self.chunks) if _sum(mapped[rows]) != sums[i]]

    def _begin(self) -> None:
        """An empty map of full size, in a new file: others may have the old one mapped, and keep it."""
        self.record.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)
        free = shutil.disk_usage(self.file.parent).free
        if free < self.size:
            raise OSError(
                errno.ENOSPC,
                f"{len(self.files)} decoded pictures need {self.size / 2**20:,.1f} MiB, "
                f"{free / 2**20:,.1f} MiB are free; make room, or move the data sets (SPGCA_LAB_DATA)",
                str(self.file),
            )
        with self.file.open("wb") as empty:
            empty.truncate(self.size)

    def _write(self, sums: list[str | None]) -> None:
        part = self.record.with_name(f"{self.record.name}.{os.getpid()}.part")
        part.write_text(json.dumps({"key": self.key, "shape": self.shape, "sums": sums}), encoding="utf-8")
        part.replace(self.record)


def _sum(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
