"""Pictures decoded once into a file of bytes that every process maps into its memory."""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spgca_lab.datasets.decode import read_pictures, unreadable
from spgca_lab.datasets.home import alone

__all__ = ["PixelsError", "decoded"]

VERSION = 1
CHUNK = 256
_VERIFIED: set[tuple[str, int, int]] = set()


class PixelsError(ValueError):
    """Pictures that cannot be decoded; the message names them all."""


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
        PixelsError: naming every picture that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = _Pixels(files, root, folder / f"{name}-{side}.u8", side, remedy)
    if not pixels.complete():
        with alone(folder, pixels.file.name, _quiet):
            # Another may have done it while this one waited.
            if not pixels.complete():
                pixels.decode(progress)
    pixels.verify()
    return pixels.map("c")


def _quiet(_: str) -> None:
    """Whoever waits for a map has nothing to say: the bar of the one that decodes tells."""


class _Pixels:
    def __init__(self, files: Sequence[str], root: Path, file: Path, side: int, remedy: str):
        self.files, self.root, self.file, self.side, self.remedy = files, root, file, side, remedy
        self.shape = (len(files), 3, side, side)
        self.record = file.with_suffix(".json")
        told = hashlib.sha256(f"{VERSION} {side}\n".encode())
        for each in files:
            path = root / each
            told.update(f"{each} {path.stat().st_size if path.exists() else -1}\n".encode())
        self.key = told.hexdigest()

    @property
    def chunks(self) -> list[slice]:
        return [slice(at, min(at + CHUNK, len(self.files))) for at in range(0, len(self.files), CHUNK)]

    def sums(self) -> list[str | None]:
        """Checksums of the chunks that are done, None for the others."""
        nothing: list[str | None] = [None] * len(self.chunks)
        try:
            told: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return nothing
        same = told.get("key") == self.key and len(told.get("sums", [])) == len(nothing)
        size = self.file.stat().st_size if self.file.exists() else -1
        return told["sums"] if same and size == int(np.prod(self.shape)) else nothing

    def complete(self) -> bool:
        return None not in self.sums()

    def map(self, mode: Any) -> np.memmap:
        return np.memmap(self.file, np.uint8, mode, shape=self.shape)

    def decode(self, progress: bool) -> None:
        sums = self.sums()
        if all(done is None for done in sums):
            # A map of other pictures, or of none: begin with its full size, so that a full disk shows now.
            self.record.unlink(missing_ok=True)
            with self.file.open("wb") as empty:
                empty.truncate(int(np.prod(self.shape)))
        pixels = self.map("r+")
        broken: list[tuple[object, str]] = []
        left = [i for i, done in enumerate(sums) if done is None]
        count = sum(len(self.files[self.chunks[i]]) for i in left)
        with tqdm(
            total=count, unit="picture", desc=self.file.stem, disable=None if progress else True
        ) as bar:
            for i in left:
                rows = self.chunks[i]
                paths = [self.root / each for each in self.files[rows]]
                for row, found in enumerate(read_pictures(paths, self.side), start=rows.start):
                    bar.update()
                    if isinstance(found, str):
                        broken.append((self.files[row], found))
                    else:
                        pixels[row] = found
                if not broken:
                    pixels.flush()
                    sums[i] = _sum(pixels[rows])
                    self._write(sums)
        if broken:
            raise PixelsError(unreadable(broken, len(self.files), self.remedy))

    def verify(self) -> None:
        """Compare checksums, once a process for a file that has not changed since."""
        stamp = self.file.stat()
        seen = (str(self.file.resolve()), stamp.st_mtime_ns, stamp.st_size)
        if seen in _VERIFIED:
            return
        damaged = self._damaged()
        if damaged:
            with alone(self.file.parent, self.file.name, _quiet):
                damaged = self._damaged()
                if damaged:
                    warnings.warn(
                        f"{str(self.file)!r} is damaged in {len(damaged)} of {len(self.chunks)} chunks: "
                        "decoding these again",
                        stacklevel=4,
                    )
                    kept = self.sums()
                    self._write([None if i in damaged else kept[i] for i in range(len(kept))])
                    self.decode(progress=False)
            stamp = self.file.stat()
        _VERIFIED.add((str(self.file.resolve()), stamp.st_mtime_ns, stamp.st_size))

    def _damaged(self) -> list[int]:
        pixels, sums = self.map("r"), self.sums()
        return [i for i, rows in enumerate(self.chunks) if _sum(pixels[rows]) != sums[i]]

    def _write(self, sums: list[str | None]) -> None:
        part = self.record.with_name(f"{self.record.name}.{os.getpid()}.part")
        part.write_text(json.dumps({"key": self.key, "shape": self.shape, "sums": sums}), encoding="utf-8")
        part.replace(self.record)


def _sum(pixels: np.ndarray) -> str:
    return hashlib.sha256(memoryview(np.ascontiguousarray(pixels)).cast("B")).hexdigest()
