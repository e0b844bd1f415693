"""Small archives in exactly the layout of the published ones, to rehearse every command where there is no network."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from spgca_lab.data.published import published
from spgca_lab.data.stickers import make_stickers, whole_number

__all__ = ["rehearse"]

Files = dict[str, bytes]
NAMES = {
    "stanford_dogs": (
        "n02085620-Chihuahua",
        "n02085782-Japanese_spaniel",
        "n02085936-Maltese_dog",
        "n02086079-Pekinese",
        "n02086240-Shih-Tzu",
        "n02086646-Blenheim_spaniel",
    ),
    "cub200": (
        "001.Black_footed_Albatross",
        "002.Laysan_Albatross",
        "003.Sooty_Albatross",
        "004.Groove_billed_Ani",
        "005.Crested_Auklet",
        "006.Least_Auklet",
    ),
    # With the two classes whose folders hold strays, and the clutter that counts as a class.
    "caltech256": (
        "001.ak47",
        "056.dog",
        "198.spider",
        "257.clutter",
        "002.american-flag",
        "003.backpack",
    ),
    "mit_indoor67": ("airport_inside", "artstudio", "auditorium", "bakery", "bar", "bathroom"),
    "ants_bees": ("ants", "bees"),
}
SIDE = 176
# Neither square nor of one size: resizing to a square must show.
SHAPES = ((176, 132), (120, 176), (176, 118), (150, 176))


def rehearse(
    name: str, folder: str | Path, *, classes: int = 4, train: int = 3, test: int = 2, seed: int = 0
) -> list[Path]:
    """Write small archives with the names and the inner layout of a published set, filled with stickers.

    They hold the oddities of the real ones: grey and CMYK JPEGs, a PNG (for MIT Indoor also a GIF) that calls itself
    .jpg, stray files, lists with Windows line ends. What is trained on them tests commands, and is no result.

    Args:
        name: one of `PUBLISHED`.
        folder: to write them to; made if need be.
        classes: how many of the real classes; ants and bees are always two.
        train: training pictures a class.
        test: test pictures a class. Caltech-256 has no split of its own: there the pictures are enough for about as
            many as asked for, in the paper's proportion of 20 test pictures to 60.
        seed: of the stickers.

    Returns:
        the archives; equal arguments give equal bytes.

    Raises:
        LookupError: when there is no such set.
        ValueError: quoting a number that is out of range.

    Example:
        >>> import tempfile
        >>> [path.name for path in rehearse("ants_bees", tempfile.mkdtemp(), train=1, test=1)]
        ['hymenoptera_data.zip']
    """
    spec = published(name)
    known = NAMES[spec.layout]
    if spec.layout == "ants_bees":
        classes = len(known)
    whole_number("classes", classes, 2, len(known))
    whole_number("train", train, 1, 40)
    whole_number("test", test, 1, 40)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = known[:classes]
    if spec.layout == "caltech256":
        most = round(train * 8 / 3) if spec.per_class == (30, 20) else round(train * 4 / 3)
        pictures = _pictures(classes, max(4 * test, most), seed)
    else:
        pictures = _pictures(classes, train + test, seed)
    bodies = _ARCHIVES[spec.layout](names, pictures, train)
    written = []
    for archive in spec.archives:
        path = folder / archive.file
        path.write_bytes(bodies[archive.file])
        written.append(path)
    return written


def _pictures(classes: int, count: int, seed: int) -> list[list[Image.Image]]:
    """`count` pictures of as many kinds of sticker as there are classes."""
    made, _, labels = make_stickers("train", "near", count, SIDE, seed=seed, classes=classes)
    sets = []
    for label in range(classes):
        chosen = made[labels == label]
        sets.append([_cut(picture, i + label) for i, picture in enumerate(chosen)])
    return sets


def _cut(picture: np.ndarray, i: int) -> Image.Image:
    width, height = SHAPES[i % len(SHAPES)]
    return Image.fromarray(picture[(SIDE - height) // 2 :, (SIDE - width) // 2 :][:height, :width])


def _jpeg(picture: Image.Image, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, kind, quality=85)
    return buffer.getvalue()


def _encoded(pictures: list[list[Image.Image]], gif: bool = False) -> list[list[bytes]]:
    """JPEGs, but for the odd ones: the first of the first class grey, the next CMYK, the next a PNG; the last a GIF."""
    bodies = [[_jpeg(picture) for picture in each] for each in pictures]
    first = pictures[0]
    odd: tuple[Callable[[Image.Image], bytes], ...] = (
        lambda p: _jpeg(p, "L"),
        lambda p: _jpeg(p, "CMYK"),
        lambda p: _jpeg(p, kind="PNG"),
    )
    for i, encode in enumerate(odd[: len(first)]):
        bodies[0][i] = encode(first[i])
    if gif:
        bodies[-1][-1] = _jpeg(pictures[-1][-1], "P", "GIF")
    return bodies


def _stanford_dogs(names: tuple[str, ...], pictures: list[list[Image.Image]], train: int) -> Files:
    from scipy.io import savemat

    images: Files = {}
    splits: dict[str, list[tuple[str, int]]] = {"train_list": [], "test_list": []}
    for label, (name, bodies) in enumerate(zip(names, _encoded(pictures), strict=True)):
        for i, body in enumerate(bodies):
            file = f"{name}/{name.split('-')[0]}_{100 + 7 * i}.jpg"
            images[f"Images/{file}"] = body
            splits["train_list" if i < train else "test_list"].append((file, label + 1))
    lists: Files = {}
    for name, rows in {**splits, "file_list": splits["train_list"] + splits["test_list"]}.items():
        buffer = io.BytesIO()
        files, notes = np.empty((len(rows), 1), object), np.empty((len(rows), 1), object)
        for i, (file, _) in enumerate(rows):
            files[i, 0], notes[i, 0] = file, file.removesuffix(".jpg")
        labels = np.array([[label] for _, label in rows], dtype=np.uint8)
        savemat(buffer, {"file_list": files, "annotation_list": notes, "labels": labels})
        body = buffer.getvalue()
        # The head of the format holds the time of writing.
        lists[f"{name}.mat"] = b"MATLAB 5.0 MAT-file, a rehearsal".ljust(116) + body[116:]
    return {"images.tar": _tar(images), "lists.tar": _tar(lists)}


def _cub200(names: tuple[str, ...], pictures: list[list[Image.Image]], train: int) -> Files:
    files: Files = {"attributes.txt": b"1 has_bill_shape::curved_(up_or_down)\n"}
    tables: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    number = 0
    for label, (name, bodies) in enumerate(zip(names, _encoded(pictures), strict=True)):
        bird = name.split(".", 1)[1].title()
        for i, body in enumerate(bodies):
            number += 1
            file = f"{name}/{bird}_{i + 1:04d}_{796000 + number}.jpg"
            files[f"CUB_200_2011/images/{file}"] = body
            tables["images"].append(f"{number} {file}")
            tables["image_class_labels"].append(f"{number} {label + 1}")
            tables["train_test_split"].append(f"{number} {int(i < train)}")
    tables["classes"] = [f"{i + 1} {name}" for i, name in enumerate(names)]
    for table, lines in tables.items():
        files[f"CUB_200_2011/{table}.txt"] = _text(lines)
    return {"CUB_200_2011.tgz": gzip.compress(_tar(files), mtime=0)}


def _caltech256(names: tuple[str, ...], pictures: list[list[Image.Image]], train: int) -> Files:
    files: Files = {}
    for name, bodies in zip(names, _encoded(pictures), strict=True):
        for i, body in enumerate(bodies):
            files[f"256_ObjectCategories/{name}/{name[:3]}_{i + 1:04d}.jpg"] = body
        if name == "198.spider":
            files[f"256_ObjectCategories/{name}/RENAME2"] = b"#!/bin/sh\n"
        if name == "056.dog":
            files[f"256_ObjectCategories/{name}/greg/vision309/056_0001.jpg"] = bodies[0]
    return {"256_ObjectCategories.tar": _tar(files)}


def _mit_indoor67(names: tuple[str, ...], pictures: list[list[Image.Image]], train: int) -> Files:
    images: Files = {}
    lists: dict[str, list[str]] = {"TrainImages.txt": [], "TestImages.txt": []}
    for name, bodies in zip(names, _encoded(pictures, gif=True), strict=True):
        for i, body in enumerate(bodies):
            file = f"{name}/{name}_{i + 1}_altavista.jpg"
            images[f"Images/{file}"] = body
            lists["TrainImages.txt" if i < train else "TestImages.txt"].append(file)
    texts = {name: "\r\n".join([*lines, ""]).encode() for name, lines in lists.items()}
    return {"indoorCVPR_09.tar": _tar(images), **texts}


def _ants_bees(names: tuple[str, ...], pictures: list[list[Image.Image]], train: int) -> Files:
    files: Files = {"hymenoptera_data/train/ants/imageNotFound.gif": _jpeg(pictures[0][0], "P", "GIF")}
    for name, bodies in zip(names, _encoded(pictures), strict=True):
        for i, body in enumerate(bodies):
            split = "train" if i < train else "val"
            files[f"hymenoptera_data/{split}/{name}/{1030023514 + i}_{name[:4]}.jpg"] = body
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, body in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(path), body)
    return {"hymenoptera_data.zip": buffer.getvalue()}


_ARCHIVES: dict[str, Callable[[tuple[str, ...], list[list[Image.Image]], int], Files]] = {
    "stanford_dogs": _stanford_dogs,
    "cub200": _cub200,
    "caltech256": _caltech256,
    "mit_indoor67": _mit_indoor67,
    "ants_bees": _ants_bees,
}


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _tar(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, body in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return buffer.getvalue()
