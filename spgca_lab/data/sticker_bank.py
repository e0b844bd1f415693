"""The sticker bank: drawings of some thousand concepts by three artists, read from checked atlases."""

import hashlib
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from spgca_lab.data.location import data_dir
from spgca_lab.data.shipped import check_shipped

__all__ = ["ARTISTS", "Bank", "Concept", "load_bank"]

ARTISTS = ("fluent", "noto", "twemoji")


@dataclass(frozen=True)
class Concept:
    """One thing that all three artists drew.

    Args:
        name: class name.
        codepoint: Unicode code points, lower-case hexadecimal.
        group: fine-grained group of a target, Unicode subcategory of any other.
        target: whether the concept is a target class; all others serve pretraining and clutter.
        cell: its place in the atlas of its kind.
    """

    name: str
    codepoint: str
    group: str
    target: bool
    cell: int


class Bank:
    """Sprites by artist and concept, as integer pyramids that the compositor draws from.

    Args:
        folder: folder with `index.json` and the atlases.

    Raises:
        FileNotFoundError: if the index or an atlas is missing, naming it.
        ValueError: if the index is damaged, or an atlas does not have the checksum that the index gives, naming the
            file.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        file = self.folder / "index.json"
        if not file.is_file():
            raise FileNotFoundError(f"the sticker bank has no index: {str(file)!r} is missing")
        check_shipped(file)
        self._index, concepts = _read_index(file)
        self.targets = [concept for concept in concepts if concept.target]
        self.others = [concept for concept in concepts if not concept.target]
        self._sheets: dict[tuple[str, bool], np.ndarray] = {}
        self._levels: dict[tuple[str, bool, int], list[np.ndarray]] = {}

    def sprite(self, artist: str, concept: Concept) -> np.ndarray:
        """One drawing as it lies in the atlas.

        Args:
            artist: one of `ARTISTS`.
            concept: one of `targets` or `others`.

        Returns:
            uint8 [cell, cell, 4]: RGB and alpha, not premultiplied; 128 px for a target, 64 for any other.

        Raises:
            ValueError: for an unknown artist.

        Example:
            >>> bank = load_bank()
            >>> bank.sprite("noto", bank.targets[0]).shape
            (128, 128, 4)
        """
        if artist not in ARTISTS:
            raise ValueError(f"unknown artist {artist!r}: choose one of {', '.join(ARTISTS)}")
        layout = self._index["targets" if concept.target else "bank"]
        side, columns = layout["cell"], layout["columns"]
        y, x = concept.cell // columns * side, concept.cell % columns * side
        return self._sheet(artist, concept.target)[y : y + side, x : x + side]

    def levels(self, artist: str, concept: Concept) -> list[np.ndarray]:
        """The drawing premultiplied by alpha, halved again and again, each inside a transparent rim.

        Args:
            artist: one of `ARTISTS`.
            concept: one of `targets` or `others`.

        Returns:
            list of uint8 [side + 2, side + 2, 4] with rims of one pixel, sides 128 (or 64), 64, 32, 16.
        """
        key = (artist, concept.target, concept.cell)
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

    def _sheet(self, artist: str, target: bool) -> np.ndarray:
        from PIL import Image

        key = (artist, target)
        if key not in self._sheets:
            entry = self._index["artists"][artist]["targets" if target else "bank"]
            file = self.folder / entry["file"]
            if not file.is_file():
                raise FileNotFoundError(f"the sticker bank is incomplete: {str(file)!r} is missing")
            content = file.read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != entry["sha256"]:
                raise ValueError(
                    f"{str(file)!r} is damaged: its sha256 is {found}, index.json says {entry['sha256']}; "
                    "restore the file or rebuild the bank with data/build_stickers.py"
                )
            with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
                self._sheets[key] = np.asarray(image.convert("RGBA"))
        return self._sheets[key]


def _read_index(file: Path) -> tuple[dict[str, Any], list[Concept]]:
    """The index and its concepts, with all that is looked up later."""
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        concepts = [Concept(**entry) for entry in index["concepts"]]
        for kind in ("targets", "bank"):
            for size in ("cell", "columns"):
                _whole(index[kind][size])
            for artist in ARTISTS:
                entry = index["artists"][artist][kind]
                if Path(entry["file"]).name != entry["file"] or len(entry["sha256"]) != 64:
                    raise ValueError(f"no file or checksum of {artist}'s {kind}")
        return index, concepts
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged ({type(error).__name__}: {error}); "
            "restore the file or rebuild the bank with data/build_stickers.py"
        ) from error


def _whole(value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no size of an atlas")


@lru_cache(maxsize=1)
def load_bank() -> Bank:
    """The embedded sticker bank, read once a process.

    Returns:
        the bank in `data_dir() / "stickers"`.

    Raises:
        FileNotFoundError: if the embedded data is missing.

    Example:
        >>> len(load_bank().targets)
        48
    """
    return Bank(data_dir() / "stickers")
