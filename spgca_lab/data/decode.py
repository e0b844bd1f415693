"""Decode image files of any format to squares of uint8, and say what is wrong with those that are damaged."""

import os
import re
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spgca_lab._checks import printable

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 20
BATCH = 256
# A file of a few kilobytes may claim any size. Full-frame cameras give 61 million; decoding takes up to 16 bytes each.
MOST_PIXELS = 64_000_000
# Servers send an image of a line or a dot in place of one that they do not have.
LEAST_SIDE = 2
# Larger images are decoded one at a time: eight of them at once would need gigabytes.
LARGE = 16_000_000
# Pillow reads more formats, and starts another program for one of them (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_LARGE_ONES = threading.Lock()


class ImageTooLarge(ValueError):
    """An image with more than `MOST_PIXELS` pixels, which may be a decompression bomb."""

    def __init__(self, size: str):
        super().__init__(
            f"{size}; at most {MOST_PIXELS:,} are decoded, since it may be a decompression bomb: make it smaller"
        )


class UnreadableImages(ValueError):
    """Image files that cannot be read, each with what is wrong with it, among a number of files."""

    def __init__(self, broken: Sequence[tuple[str | os.PathLike[str], str]], among: int, remedy: str):
        lines = [f"  {printable(file)} ({why})" for file, why in broken[:SHOWN]]
        if len(broken) > SHOWN:
            lines.append(f"  and {len(broken) - SHOWN} more")
        super().__init__(f"{len(broken)} of {among} images cannot be read; {remedy}:\n" + "\n".join(lines))


def image_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that Pillow raises for damaged files, headers and EXIF tags."""
    from PIL import Image

    return (
        *(OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error),
        *(LookupError, TypeError, AttributeError, ArithmeticError),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    )


def _describe(file: Path, error: Exception) -> str:
    """Say in one line why a file cannot be read."""
    if file.is_symlink() and not file.exists():
        return f"a link to {str(file.readlink())!r}, which does not exist"
    if file.is_file() and file.stat().st_size == 0:
        return "empty file"
    # The messages of some codecs have several lines.
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}")


def read_image(file: Path, side: int) -> np.ndarray | str:
    """Return an image as uint8 `[3, side, side]`, or a text that says what is wrong with its file.

    The image is turned as its EXIF tag says, put on white where it is transparent, brought to 8 bits and RGB, and
    resized to a square as in the paper (Sec. 4.1). The content decides about the format, not the suffix; an animation
    is represented by its first frame.
    """
    from PIL import Image

    try:
        # Reading a pipe or a device would never end.
        if not stat.S_ISREG(file.stat().st_mode):
            raise OSError("a folder, a pipe or a device, not a file")
        with Image.open(file, formats=FORMATS) as opened:
            wide, high = opened.size
            if wide * high > MOST_PIXELS:
                raise ImageTooLarge(f"{wide:,}×{high:,} = {wide * high:,} pixels")
            if min(wide, high) < LEAST_SIDE:
                raise ValueError(f"{wide}×{high} pixels show nothing; each side needs at least {LEAST_SIDE}")
            with _LARGE_ONES if wide * high > LARGE else nullcontext():
                resized = to_rgb(opened).resize((side, side), Image.Resampling.BILINEAR)
            return np.asarray(resized).transpose(2, 0, 1)
    except Image.DecompressionBombError as error:
        # Pillow's own limit is higher than this one, and its error gives only the number of pixels.
        pixels = re.search(r"\d+", str(error))
        return _describe(file, ImageTooLarge(f"{int(pixels[0]):,} pixels" if pixels else str(error)))
    except image_errors() as error:
        return _describe(file, error)


def to_rgb(opened: "Image.Image") -> "Image.Image":
    """Decode an image of any mode to upright RGB; raise one of `image_errors()` if the file is damaged."""
    from PIL import Image, ImageOps

    # Pillow opens a PGM of 16 bits in 32; in a TIFF of that mode the values may have another range.
    deep = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
    if not deep and opened.mode in ("I", "F"):
        # Pillow would clip them to 0 … 255, which gives a white image without a warning.
        raise ValueError("values of 32 bits, whose black and white are unknown: save it with 8 or 16 bits")
    image = ImageOps.exif_transpose(opened)
    image.load()
    if deep:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_images(files: Sequence[Path], side: int) -> Iterator[np.ndarray | str]:
    """Yield `read_image` of each file in order, reading several at a time."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        # In batches: results that wait to be used would fill the memory.
        for start in range(0, len(files), BATCH):
            yield from pool.map(lambda file: read_image(file, side), files[start : start + BATCH])
