"""Load a data set by name or folder; published sets are decoded once, to a file that all processes map."""

import difflib
import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import torch
from tqdm import tqdm

from spgca_lab._checks import check_whole_number
from spgca_lab.data.augment import stored_size
from spgca_lab.data.decode import UnreadableImages, read_images
from spgca_lab.data.folder import load_folder
from spgca_lab.data.imageset import ImageSet, check_per_class, choose_per_class
from spgca_lab.data.install import files_root
from spgca_lab.data.layouts import read_index
from spgca_lab.data.published import PUBLISHED, published
from spgca_lab.data.stickers import DEFAULT_CLUTTER, make_stickers, sticker_classes


def list_datasets() -> list[str]:
    """List the names that `load_dataset` accepts, besides folders of images."""
    return ["stickers", *PUBLISHED]


def load_dataset(
    name_or_folder: str | Path,
    *,
    preset: str = "near",
    per_class: int | None = None,
    test_per_class: int | None = None,
    image_size: int | None = None,
    clutter: int | None = None,
    seed: int = 0,
) -> tuple[ImageSet, ImageSet]:
    """Load training and test set of a data set as uint8 at 8/7 of the input size.

    Args:
        name_or_folder: "stickers", a published set that is installed (see `load_published`), or a folder of images
            (see `load_folder`).
        preset: stickers only: "near", "mid" or "far" from the images that `mini` was pretrained on, or "cross", whose
            test images are drawn by another artist than its training images.
        per_class: training images per class; None is 5 for stickers, and all images otherwise.
        test_per_class: test images per class; None is 20 for stickers, and all images otherwise.
        image_size: side of the network's input in pixels; None is 64 for stickers, and 224 otherwise.
        clutter: stickers only: distractors per image; None is 2.
        seed: seed of the stickers, or of the choice among other images.

    Raises:
        FileNotFoundError: if it is neither a name nor a folder; `NotADirectoryError` if it is a file.
        DataMissing: if a published set is not installed; the message says how to fetch it.
        UnreadableImages: if images cannot be read, naming them.
        ValueError: for an option that is out of range or does not apply, or a folder of one class.

    Example:
        >>> train, test = load_dataset("stickers", per_class=2, test_per_class=1)
        >>> train.images.shape, test.masks.dtype
        (torch.Size([96, 3, 73, 73]), torch.bool)
    """
    name = str(name_or_folder)
    if name == "stickers":
        return _load_stickers(
            preset,
            5 if per_class is None else per_class,
            20 if test_per_class is None else test_per_class,
            64 if image_size is None else image_size,
            DEFAULT_CLUTTER if clutter is None else clutter,
            seed,
        )
    if clutter is not None or preset != "near":
        option = f"clutter={clutter!r}" if clutter is not None else f"preset={preset!r}"
        raise ValueError(f"{option} applies to 'stickers' only, not to {name!r}")
    size = 224 if image_size is None else image_size
    if name in PUBLISHED:
        return load_published(
            name, per_class=per_class, test_per_class=test_per_class, image_size=size, seed=seed
        )
    if not Path(name_or_folder).expanduser().exists():
        near = difflib.get_close_matches(name, list_datasets(), n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FileNotFoundError(
            f"{name!r} is neither a data set's name nor a folder.{hint} "
            f"Names: {', '.join(list_datasets())}; or give the path of a folder with train/ and test/."
        )
    return load_folder(
        name_or_folder,
        per_class=per_class,
        test_per_class=test_per_class,
        image_size=size,
        seed=seed,
        for_training=True,
    )


def _load_stickers(
    preset: str, per_class: int, test_per_class: int, image_size: int, clutter: int, seed: int
) -> tuple[ImageSet, ImageSet]:
    check_whole_number("image_size", image_size, 14, 1792)
    check_whole_number("per_class", per_class, 1, 100_000)
    check_whole_number("test_per_class", test_per_class, 1, 100_000)
    sets = []
    for split, count in (("train", per_class), ("test", test_per_class)):
        images, masks, labels = make_stickers(split, preset, count, stored_size(image_size), clutter, seed)
        sets.append(
            ImageSet(
                images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
                labels=torch.from_numpy(labels),
                classes=sticker_classes(),
                image_size=image_size,
                masks=torch.from_numpy(masks),
                name=f"stickers {preset} {split}",
            )
        )
    return sets[0], sets[1]


def load_published(
    name: str,
    *,
    per_class: int | None = None,
    test_per_class: int | None = None,
    image_size: int = 224,
    seed: int = 0,
    home: str | Path | None = None,
) -> tuple[ImageSet, ImageSet]:
    """Load training and test set of an installed published data set.

    The images are decoded once to squares of `stored_size(image_size)` (256 pixels for 224). Both sets are parts of
    one memory map that all processes share, unless only some images per class are chosen.

    Args:
        name: one of `PUBLISHED`; if it is not installed, `DataMissing` says how to fetch it.
        per_class: training images per class, chosen by the seed; None uses all.
        test_per_class: test images per class, chosen by the seed; None uses all.
        image_size: side of the network's input in pixels.
        seed: seed of every choice, and of the split of Caltech-256.
        home: folder of the data sets, see `data_home`.

    Source:
        Sec. 4.1 and Table 1 of the paper.
    """
    spec, side = published(name), stored_size(image_size)
    check_whole_number("seed", seed, 0, 2**32 - 1)
    check_per_class(per_class, test_per_class)
    root = files_root(name, home)
    index = read_index(spec, root, seed)
    # Both Caltech sets share one map: test images first, then the training images of the larger set, which begin with
    # those of the smaller one.
    same = [each for each in PUBLISHED.values() if each.folder == spec.folder]
    largest = max(same, key=lambda each: each.train)
    rows = [*index.test, *(index if largest is spec else read_index(largest, root, seed)).train]
    prefix = f"{spec.folder}-seed{seed}" if spec.per_class else spec.folder
    remedy = f"see `spgca-lab data check {name}`"
    files = [file for file, _ in rows]
    images = torch.from_numpy(decode_once(files, root, root.parent / "decoded", prefix, side, remedy))
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    cut, sets = len(index.test), []
    for split, part, count in (
        ("train", slice(cut, cut + len(index.train)), per_class),
        ("test", slice(0, cut), test_per_class),
    ):
        whole = ImageSet(
            images=images[part],
            labels=labels[part],
            classes=index.classes,
            image_size=image_size,
            paths=[root / file for file, _ in rows[part]],
            name=f"{name} {split}",
        )
        if count is not None:
            chosen = choose_per_class(whole.labels.numpy(), whole.classes, count, seed, split, whole.name)
            whole = whole.subset(chosen)
        sets.append(whole)
    return sets[0], sets[1]


def decode_once(
    files: Sequence[str],
    root: Path,
    folder: Path,
    prefix: str,
    side: int,
    remedy: str,
    *,
    progress: bool = True,
) -> np.ndarray:
    """Return images as uint8 `[n, 3, side, side]`, decoded to a file in `folder` by the first call.

    The array is a memory map: all processes share its pages, and changes stay in the process that makes them. The
    file is used again as long as names and sizes of the image files are the same.

    Raises:
        UnreadableImages: naming every image that cannot be read, with the `remedy`.
        OSError: if the disk has too little space, with the number of bytes.
    """
    key = hashlib.sha256(f"{side}\n".encode())
    for each in files:
        size = (root / each).stat().st_size if (root / each).exists() else -1
        key.update(f"{each} {size}\n".encode(errors="surrogateescape"))
    target = folder / f"{prefix}-{side}-{key.hexdigest()[:16]}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f".{prefix}-{side}.lock"):
        if not target.exists():
            for outdated in folder.glob(f"{prefix}-{side}-*"):
                outdated.unlink()
            _decode(files, root, target, side, remedy, progress)
    return np.load(target, mmap_mode="c", allow_pickle=False)


def _decode(files: Sequence[str], root: Path, target: Path, side: int, remedy: str, progress: bool) -> None:
    need, free = len(files) * 3 * side * side, shutil.disk_usage(target.parent).free
    if free < need:
        raise OSError(
            errno.ENOSPC,
            f"{len(files)} decoded images need {need / 2**20:,.1f} MiB, {free / 2**20:,.1f} MiB are free; "
            "make room, or move the data sets (SPGCA_LAB_DATA)",
            str(target),
        )
    broken: list[tuple[str, str]] = []
    part = target.with_suffix(".part")
    images = read_images([root / each for each in files], side)
    bar = tqdm(images, total=len(files), unit="image", desc=target.stem, disable=None if progress else True)
    # Written, not mapped: a full disk raises an error here, and would kill the process there.
    with part.open("wb") as file:
        shape = (len(files), 3, side, side)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for name, image in zip(files, bar, strict=True):
            if isinstance(image, str):
                broken.append((name, image))
            else:
                file.write(image.tobytes())
        os.fsync(file.fileno())
    if broken:
        raise UnreadableImages(broken, len(files), remedy)
    part.replace(target)
