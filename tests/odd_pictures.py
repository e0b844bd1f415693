"""Picture files as people have them: made here, each with what is to be seen of it or what is wrong with it."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

COLOUR = (180, 60, 20)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def plain(
    size: tuple[int, int] = (40, 30), mode: str = "RGB", colour: tuple[int, int, int] = COLOUR
) -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


def claims(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says how large it is, with no more than its first rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(10)))
        + chunk(b"IEND", b"")
    )


def _deep() -> bytes:
    return encoded(Image.fromarray(np.full((30, 40), 130 * 256 + 7, dtype=np.uint16)), "PNG")


def _animated() -> bytes:
    frames = [plain(colour=c) for c in ((0, 0, 255), (0, 255, 0))]
    return encoded(plain(), "GIF", save_all=True, append_images=frames)


def _turned() -> bytes:
    """Its left half is dark, and its EXIF tag turns it clockwise: the dark half comes to the top."""
    sides = Image.new("RGB", (40, 20), (250, 250, 250))
    sides.paste((0, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(sides, "JPEG", exif=exif, quality=95)


def _noise() -> bytes:
    pixels = np.random.RandomState(0).randint(0, 256, (60, 80, 3)).astype(np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG", quality=90)


def _floats() -> bytes:
    return encoded(Image.fromarray(np.full((30, 40), 0.5, dtype=np.float32)), "TIFF")


# Name of the file, content, and the colour in the middle (None where that says nothing).
GOOD: list[tuple[str | bytes, Callable[[], bytes], tuple[int, int, int] | None]] = [
    ("plain.png", lambda: encoded(plain(), "PNG"), COLOUR),
    ("CAPITALS.JPG", lambda: encoded(plain(), "JPEG", quality=95), COLOUR),
    ("two by two.png", lambda: encoded(plain((2, 2)), "PNG"), COLOUR),
    ("long.png", lambda: encoded(plain((5000, 2)), "PNG"), COLOUR),
    ("cmyk.jpg", lambda: encoded(plain(mode="CMYK"), "JPEG", quality=95), COLOUR),
    ("sixteen bits.png", _deep, (130, 130, 130)),
    ("animated.gif", _animated, COLOUR),
    ("turned.jpg", _turned, None),
    ("a PNG named.jpg", lambda: encoded(plain(), "PNG"), COLOUR),
    ("a JPEG named.png", lambda: encoded(plain(), "JPEG", quality=95), COLOUR),
    ("a GIF named.webp", lambda: encoded(plain(), "GIF"), COLOUR),
    ("one bit.png", lambda: encoded(Image.new("1", (40, 30), 1), "PNG"), (255, 255, 255)),
    ("clear.webp", lambda: encoded(Image.new("RGBA", (40, 30), (*COLOUR, 0)), "WEBP"), (255, 255, 255)),
    (b"no UTF-8 \xe9\xff.png", lambda: encoded(plain(), "PNG"), COLOUR),
    ("a line\nand \x1b[31mred.png", lambda: encoded(plain(), "PNG"), COLOUR),
    ("$x$ <b>.png", lambda: encoded(plain(), "PNG"), COLOUR),
    ("x" * 250 + ".png", lambda: encoded(plain(), "PNG"), COLOUR),
]

# Name of the file, content, and a part of what is said about it.
BAD: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty.jpg", bytes, "empty file"),
    ("text.png", lambda: b"<html>404 Not Found</html>", "cannot identify image"),
    ("one by one.png", lambda: encoded(plain((1, 1)), "PNG"), "1×1 pixels show nothing"),
    ("a line.png", lambda: encoded(plain((40, 1)), "PNG"), "40×1 pixels show nothing"),
    ("no size.png", lambda: claims(0, 10), ""),
    ("bomb.png", lambda: claims(20_000, 20_000), "400,000,000 pixels"),
    ("large.png", lambda: claims(9_000, 9_000), "9,000×9,000 = 81,000,000 pixels"),
    ("half a PNG.png", lambda: encoded(plain((400, 300)), "PNG")[:-400], ""),
    ("half a JPEG.jpg", lambda: _noise()[:1500], "truncated"),
    ("only a head.gif", lambda: b"GIF89a", ""),
    ("floats.tiff", _floats, "32 bits"),
    ("a program.tif", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image"),
]


def write_good(folder: Path) -> dict[bytes, tuple[int, int, int] | None]:
    """All good files into a class folder; the middle's colour by the bytes of the name."""
    folder.mkdir(parents=True)
    colours = {}
    for name, make, colour in GOOD:
        raw = name if isinstance(name, bytes) else name.encode()
        with open(os.path.join(os.fsencode(folder), raw), "wb") as file:  # noqa: PTH118, PTH123
            file.write(make())
        colours[raw] = colour
    return colours


def write_bad(folder: Path) -> dict[Path, str]:
    """All bad files into a class folder, a link to nowhere and one to itself among them; what is said of each."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {}
    for name, make, part in BAD:
        (folder / name).write_bytes(make())
        said[folder / name] = part
    (folder / "nowhere.png").symlink_to("gone.png")
    said[folder / "nowhere.png"] = "a link to 'gone.png', which does not exist"
    (folder / "itself.png").symlink_to("itself.png")
    said[folder / "itself.png"] = "link"
    return said
