"""Write small archives in the exact layout of the published ones, to try every command without a network."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from spgca_lab._checks import check_whole_number
from spgca_lab.data.published import published
from spgca_lab.data.stickers import make_stickers

Files = dict[str, bytes]
Rows = list[tuple[str, int, bool]]  # path, label, and True for a training image
# The path of an image, and the names of the first classes; of Caltech-256 also its clutter.
_SETS = {
    "stanford_dogs": (
        "Images/{name}/{name:.9}_{i:03d}.jpg",
        "n02085620-Chihuahua n02085782-Japanese_spaniel n02085936-Maltese_dog n02086079-Pekinese n02086240-Shih-Tzu",
    ),
    "cub200": (
        "CUB_200_2011/images/{name}/{name}_{i:04d}_{number}.jpg",
        "001.Black_footed_Albatross 002.Laysan_Albatross 003.Sooty_Albatross 004.Groove_billed_Ani 005.Crested_Auklet",
    ),
    "caltech256": (
        "256_ObjectCategories/{name}/{name:.3}_{i:04d}.jpg",
        "001.ak47 056.dog 198.spider 257.clutter 002.american-flag 003.backpack",
    ),
    "mit_indoor67": (
        "Images/{name}/{name}_{i}_altavista.jpg",
        "airport_inside artstudio auditorium bakery bar",
    ),
    "ants_bees": ("hymenoptera_data/{split}/{name}/{i}_{name}.jpg", "ants bees"),
}
SIDE = 176
SHAPES = ((176, 132), (120, 176), (176, 118), (150, 176))
ODD = (("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"))


def rehearse(
    name: str, folder: str | Path, *, classes: int = 4, train: int = 3, test: int = 2, seed: int = 0
) -> list[Path]:
    """Write small archives with the names and the layout of a published set, filled with stickers, and list them.

    They contain the oddities of the real ones: grey and CMYK JPEGs, a PNG (in MIT Indoor also a GIF) named .jpg, stray
    files, lists with Windows line ends. Training on them tests commands; its accuracy means nothing.

    `train` and `test` are images per class, about these numbers for Caltech-256, which the lab splits itself.
    """
    spec = published(name)
    pattern, known = _SETS[spec.folder][0], _SETS[spec.folder][1].split()
    classes = 2 if spec.folder == "ants_bees" else classes
    check_whole_number("classes", classes, 2, len(known))
    check_whole_number("train", train, 1, 40)
    check_whole_number("test", test, 1, 40)
    count = max(4 * test, round(train * 80 / spec.per_class[0])) if spec.per_class else train + test
    made, _, labels = make_stickers("train", "near", count, SIDE, seed=seed, classes=classes)
    files: Files = {}
    rows: Rows = []
    for row, (image, label) in enumerate(zip(made, labels.tolist(), strict=True)):
        i = row % count
        width, height = SHAPES[(i + label) % len(SHAPES)]
        drawn = Image.fromarray(image[(SIDE - height) // 2 :, (SIDE - width) // 2 :][:height, :width])
        mode, kind = ODD[i] if label == 0 and i < len(ODD) else ("RGB", "JPEG")
        if spec.folder == "mit_indoor67" and row == len(made) - 1:
            mode, kind = "P", "GIF"
        split = "train" if i < train else "val"
        path = pattern.format(name=known[label], i=i + 1, number=796001 + row, split=split)
        files[path] = _encode(drawn, mode, kind)
        rows.append((path, label, i < train))
    lists: Files = {}
    if spec.folder == "stanford_dogs":
        lists["lists.tar"] = _pack("lists.tar", _matlab_lists(rows))
    elif spec.folder == "cub200":
        files |= _tables(rows, known[:classes])
    elif spec.folder == "mit_indoor67":
        for list_name, part in (("TrainImages.txt", True), ("TestImages.txt", False)):
            lines = (f"{path.removeprefix('Images/')}\r\n" for path, _, training in rows if training == part)
            lists[list_name] = "".join(lines).encode()
    elif spec.folder == "ants_bees":
        files["hymenoptera_data/train/ants/imageNotFound.gif"] = _encode(drawn, "P", "GIF")
    else:
        files["256_ObjectCategories/056.dog/greg/vision309/056_0001.jpg"] = files[rows[count][0]]
        files["256_ObjectCategories/056.dog/RENAME2"] = b"#!/bin/sh\n"
    Path(folder).mkdir(parents=True, exist_ok=True)
    archives = [Path(folder, archive.file) for archive in spec.archives]
    for file in archives:
        file.write_bytes(lists.get(file.name) or _pack(file.name, files))
    return archives


def _encode(image: Image.Image, mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind, quality=85)
    return buffer.getvalue()


def _matlab_lists(rows: Rows) -> Files:
    from scipy.io import savemat

    lists = {}
    for name, parts in (("train_list", [True]), ("test_list", [False]), ("file_list", [True, False])):
        chosen = [
            (path.removeprefix("Images/"), label + 1) for p in parts for path, label, t in rows if t == p
        ]
        paths, labels = (np.array(column)[:, None] for column in zip(*chosen, strict=True))
        buffer = io.BytesIO()
        savemat(buffer, {"file_list": paths.astype(object), "labels": labels.astype(np.uint8)})
        # The format's header contains the time of writing.
        lists[f"{name}.mat"] = b"MATLAB 5.0 MAT-file, a rehearsal".ljust(116) + buffer.getvalue()[116:]
    return lists


def _tables(rows: Rows, classes: list[str]) -> Files:
    images = [path.removeprefix("CUB_200_2011/images/") for path, *_ in rows]
    labels, splits = [str(label + 1) for _, label, _ in rows], [str(int(t)) for *_, t in rows]
    names = ("images", "image_class_labels", "train_test_split", "classes")
    tables = {"attributes.txt": b"1 has_bill_shape::curved_(up_or_down)\n"}
    for name, values in zip(names, (images, labels, splits, classes), strict=True):
        text = "".join(f"{number} {value}\n" for number, value in enumerate(values, 1))
        tables[f"CUB_200_2011/{name}.txt"] = text.encode()
    return tables


def _pack(name: str, files: Files) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, body in sorted(files.items()):
                archive.writestr(zipfile.ZipInfo(path), body)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, body in sorted(files.items()):
                entry = tarfile.TarInfo(path)
                entry.size = len(body)
                tar.addfile(entry, io.BytesIO(body))
    return gzip.compress(buffer.getvalue(), mtime=0) if name.endswith(".tgz") else buffer.getvalue()
