"""A picture file as a square of bytes, whatever format it has and whatever its name says."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["picture_errors", "read_picture", "read_pictures", "to_rgb", "unreadable", "what_is_wrong"]

SHOWN = 20


def picture_errors() -> tuple[type[Exception], ...]:
    """What Pillow raises at a file that is no whole picture.

    Example:
        >>> [error.__name__ for error in picture_errors()]
        ['OSError', 'ValueError', 'SyntaxError', 'EOFError', 'DecompressionBombError']
    """
    from PIL import Image

    return OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError


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
        with Image.open(file) as opened:
            picture = to_rgb(opened).resize((side, side), Image.Resampling.BILINEAR)
            return np.asarray(picture).transpose(2, 0, 1)
    except picture_errors() as error:
        return what_is_wrong(file, error)


def to_rgb(opened: "Image.Image") -> "Image.Image":
    """A picture of any mode in RGB, upright, decoded to its last byte.

    Args:
        opened: as `Image.open` gives it.

    Raises:
        One of `picture_errors()`: when its bytes are no whole picture.

    Example:
        >>> from PIL import Image
        >>> to_rgb(Image.new("LA", (1, 1), (9, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    from PIL import Image, ImageOps

    # Pillow opens a PGM of 16 bits in 32; a TIFF of that mode may mean other values.
    deep = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
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
    """What to say of a file that Pillow does not read.

    Args:
        file: that was tried.
        error: one of `picture_errors()`.

    Example:
        >>> what_is_wrong(Path("no/such/file.jpg"), OSError("truncated"))
        'OSError: truncated'
    """
    empty = file.exists() and file.stat().st_size == 0
    return "empty file" if empty else f"{type(error).__name__}: {error}"


def read_pictures(files: Sequence[Path], side: int) -> Iterator[np.ndarray | str]:
    """`read_picture` of many files in their order, several at a time.

    Args:
        files: to read.
        side: of the squares in pixels.
    """
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda file: read_picture(file, side), files)


def unreadable(broken: Sequence[tuple[object, str]], among: int, remedy: str) -> str:
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
    lines = [f"  {file} ({why})" for file, why in broken[:SHOWN]]
    if len(broken) > SHOWN:
        lines.append(f"  and {len(broken) - SHOWN} more")
    return f"{len(broken)} of {among} pictures cannot be read; {remedy}:\n" + "\n".join(lines)
