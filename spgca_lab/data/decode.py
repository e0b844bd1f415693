"""A picture file as a square of bytes, whatever format it has and whatever its name says."""

import os
import re
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spgca_lab.data.names import printable

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FORMATS",
    "MOST_PIXELS",
    "PictureTooLarge",
    "open_picture",
    "picture_errors",
    "read_picture",
    "read_pictures",
    "to_rgb",
    "unreadable",
    "what_is_wrong",
]

SHOWN = 20
# A file of a few kilobytes may claim any size. Full-frame cameras give 61 million; decoding takes up to 16 bytes each.
MOST_PIXELS = 64_000_000
# A line or a dot is what servers send in place of a picture that they do not have.
LEAST_SIDE = 2
# Larger ones are decoded one at a time: eight of them at once would need gigabytes.
LARGE = 16_000_000
# What SUFFIXES of the folders name. Pillow knows more, and for one of them (EPS) starts another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_LARGE_ONES = threading.Lock()


class PictureTooLarge(ValueError):
    """A picture with more pixels than are decoded: a decompression bomb, or far too large to be shrunk."""


def picture_errors() -> tuple[type[Exception], ...]:
    """What Pillow raises at a file that is no whole picture.

    Example:
        >>> OSError in picture_errors()
        True
    """
    from PIL import Image

    # The last five come from heads and EXIF tags in which single bytes are wrong.
    return (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        MemoryError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
        struct.error,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
    )


@contextmanager
def open_picture(file: Path) -> Iterator["Image.Image"]:
    """Open a picture of a size that is decoded; nothing is decoded yet.

    Args:
        file: to open.

    Raises:
        PictureTooLarge: for more than `MOST_PIXELS`, with its size.
        One of `picture_errors()`: when it is no picture of a known format, or no regular file.

    Example:
        >>> with open_picture(Path("no/such/file.jpg")):
        ...     pass
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'no/such/file.jpg'
    """
    from PIL import Image

    # A pipe or a device would keep the reader waiting for ever.
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("a folder, a pipe or a device, not a file")
    try:
        opened = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        # Pillow's own limit is higher than ours, and all that is told of such a picture is how many pixels it has.
        pixels = re.search(r"\d+", str(error))
        raise _too_large(f"{int(pixels[0]):,} pixels" if pixels else str(error)) from error
    with opened:
        wide, high = opened.size
        if wide * high > MOST_PIXELS:
            raise _too_large(f"{wide:,}×{high:,} = {wide * high:,} pixels")
        if min(wide, high) < LEAST_SIDE:
            raise ValueError(f"{wide}×{high} pixels show nothing; at least {LEAST_SIDE} a side")
        with _LARGE_ONES if wide * high > LARGE else nullcontext():
            yield opened


def _too_large(size: str) -> PictureTooLarge:
    return PictureTooLarge(
        f"{size}; more than {MOST_PIXELS:,} are not decoded, for fear of a decompression bomb: make it smaller"
    )


def read_picture(file: Path, side: int) -> np.ndarray | str:
    """One picture as uint8 `[3, side, side]`, or what is wrong with its file.

    Turned as its EXIF tag says, transparency on white, 16 bits brought to 8, grey and CMYK to RGB, resized to a square
    as the paper does (Sec. 4.1). The content decides, not the name's suffix; of an animation the first frame counts.

    Args:
        file: to read.
        side: of the square in pixels.

    Example:
        >>> read_picture(Path("no/such/file.jpg"), 64)[:17]
        'FileNotFoundError'
    """
    from PIL import Image

    try:
        with open_picture(file) as opened:
            picture = to_rgb(opened).resize((side, side), Image.Resampling.BILINEAR)
            return np.asarray(picture).transpose(2, 0, 1)
    except picture_errors() as error:
        return what_is_wrong(file, error)


def to_rgb(opened: "Image.Image") -> "Image.Image":
    """A picture of any mode in RGB, upright, decoded to its last byte.

    Args:
        opened: as `open_picture` gives it.

    Raises:
        ValueError: for values of 32 bits, whose range nobody tells.
        One of `picture_errors()`: when its bytes are no whole picture.

    Example:
        >>> from PIL import Image
        >>> to_rgb(Image.new("LA", (1, 1), (9, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    from PIL import Image, ImageOps

    # Pillow opens a PGM of 16 bits in 32; a TIFF of that mode may mean other values.
    deep = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
    if not deep and opened.mode in ("I", "F"):
        # Pillow would cut them to 0 … 255: a white picture, and no word about it.
        raise ValueError("values of 32 bits, whose black and white are not known: save it with 8 or 16 bits")
    picture = ImageOps.exif_transpose(opened)
    picture.load()
    if deep:
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def what_is_wrong(file: Path, error: Exception) -> str:
    """What to say of a file that is not read.

    Args:
        file: that was tried.
        error: one of `picture_errors()`.

    Example:
        >>> what_is_wrong(Path("no/such/file.jpg"), OSError("truncated"))
        'OSError: truncated'
    """
    if file.is_symlink() and not file.exists():
        return f"a link to {str(file.readlink())!r}, where nothing is"
    empty = file.is_file() and file.stat().st_size == 0
    # Some codecs answer in several lines.
    return "empty file" if empty else printable(f"{type(error).__name__}: {' '.join(str(error).split())}")


def read_pictures(files: Sequence[Path], side: int) -> Iterator[np.ndarray | str]:
    """`read_picture` of many files in their order, several at a time.

    Args:
        files: to read.
        side: of the squares in pixels.
    """
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda file: read_picture(file, side), files)


def unreadable(broken: Sequence[tuple[str | os.PathLike[str], str]], among: int, remedy: str) -> str:
    """What to say of files that cannot be read.

    Args:
        broken: files and what is wrong with each.
        among: how many were read.
        remedy: what to do.

    Example:
        >>> print(unreadable([("a.jpg", "empty file")], 10, "repair or remove them"))
        1 of 10 pictures cannot be read; repair or remove them:
          a.jpg (empty file)
    """
    lines = [f"  {printable(file)} ({why})" for file, why in broken[:SHOWN]]
    if len(broken) > SHOWN:
        lines.append(f"  and {len(broken) - SHOWN} more")
    return f"{len(broken)} of {among} pictures cannot be read; {remedy}:\n" + "\n".join(lines)
