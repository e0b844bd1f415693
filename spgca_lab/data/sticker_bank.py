"""Read the sticker bank: drawings of some thousand concepts by three artists, in checked atlases."""

import hashlib
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from spgca_lab.data.shipped import check_shipped, data_dir

ARTISTS = ("fluent", "noto", "twemoji")


@dataclass(frozen=True)
class Concept:
    """A thing that all three artists drew, in a numbered cell of their atlases.

    Args:
        codepoint: Unicode code points, lower-case hexadecimal.
        group: fine-grained group of a target, Unicode subcategory of any other.
        target: True for a target class; all others serve pretraining and clutter.
    """

    name: str
    codepoint: str
    group: str
    target: bool
    cell: int


class Bank:
    """Sprites by artist and concept, from a folder with `index.json` and the atlases; damaged files are named."""

    def __init__(self, folder: Path):
        self._folder, file = folder, folder / "index.json"
        if not file.is_file():
            raise FileNotFoundError(f"the sticker bank has no index: {str(file)!r} is missing")
        check_shipped(file)
        try:
            index = json.loads(file.read_text(encoding="utf-8"))
            concepts = [Concept(**entry) for entry in index["concepts"]]
            self._cells = {
                kind: (index[kind]["cell"], index[kind]["columns"]) for kind in ("targets", "bank")
            }
            self._atlases = {(a, kind): index["artists"][a][kind] for a in ARTISTS for kind in self._cells}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{str(file)!r} is damaged ({type(error).__name__}: {error}); "
                "restore the file or rebuild the bank with data/build_stickers.py"
            ) from error
        self.targets = [concept for concept in concepts if concept.target]
        self.others = [concept for concept in concepts if not concept.target]
        self._sheets: dict[tuple[str, str], np.ndarray] = {}
        self._levels: dict[tuple[str, Concept], list[np.ndarray]] = {}

    def sprite(self, artist: str, concept: Concept) -> np.ndarray:
        """Return a drawing as it lies in the atlas.

        Returns:
            uint8 [cell, cell, 4]: RGB and alpha, not premultiplied; 128 px for a target, 64 for any other.
        """
        if artist not in ARTISTS:
            raise ValueError(f"unknown artist {artist!r}: choose one of {', '.join(ARTISTS)}")
        kind = "targets" if concept.target else "bank"
        side, columns = self._cells[kind]
        y, x = concept.cell // columns * side, concept.cell % columns * side
        return self._sheet(artist, kind)[y : y + side, x : x + side]

    def levels(self, artist: str, concept: Concept) -> list[np.ndarray]:
        """Return the drawing premultiplied by alpha at several sizes, each inside a transparent rim.

        Returns:
            list of uint8 [side + 2, side + 2, 4] with rims of one pixel, sides 128 (or 64), 64, 32, 16.
        """
        key = (artist, concept)
        if key not in self._levels:
            sprite = self.sprite(artist, concept).astype(np.int32)
            alpha = sprite[..., 3:]
            level = np.concatenate([(sprite[..., :3] * alpha + 127) // 255, alpha], axis=2)
            levels = []
            while level.shape[0] >= 16:
                rimmed = np.zeros((level.shape[0] + 2, level.shape[1] + 2, 4), dtype=np.uint8)
                rimmed[1:-1, 1:-1] = level
                levels.append(rimmed)
                pairs = level[::2] + level[1::2]
                level = (pairs[:, ::2] + pairs[:, 1::2] + 2) // 4
            self._levels[key] = levels
        return self._levels[key]

    def _sheet(self, artist: str, kind: str) -> np.ndarray:
        from PIL import Image

        if (artist, kind) not in self._sheets:
            entry = self._atlases[artist, kind]
            file, expected = self._folder / entry["file"], entry["sha256"]
            if not file.is_file():
                raise FileNotFoundError(f"the sticker bank is incomplete: {str(file)!r} is missing")
            content = file.read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != expected:
                raise ValueError(
                    f"{str(file)!r} is damaged: its sha256 is {found}, index.json says {expected}; "
                    "restore the file or rebuild the bank with data/build_stickers.py"
                )
            with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
                self._sheets[artist, kind] = np.asarray(image.convert("RGBA"))
        return self._sheets[artist, kind]


@lru_cache(maxsize=1)
def load_bank() -> Bank:
    """Return the embedded sticker bank, read once per process."""
    return Bank(data_dir() / "stickers")
