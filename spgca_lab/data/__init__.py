"""Data sets by name or folder: the sticker world, the paper's five, a folder of one's own, and a few photographs."""

import difflib
from pathlib import Path

import torch

from spgca_lab.data.augment import center_crop, random_crop_flip, stored_size
from spgca_lab.data.exhibits import exhibits
from spgca_lab.data.folder import load_folder
from spgca_lab.data.holdout import hold_out
from spgca_lab.data.home import data_home, fingerprint
from spgca_lab.data.imageset import ImageSet
from spgca_lab.data.load import load_published
from spgca_lab.data.published import PUBLISHED, published
from spgca_lab.data.stickers import DEFAULT_CLUTTER, make_stickers, sticker_classes, whole_number

__all__ = [
    "PUBLISHED",
    "ImageSet",
    "center_crop",
    "data_home",
    "exhibits",
    "fingerprint",
    "hold_out",
    "list_datasets",
    "load_dataset",
    "load_folder",
    "load_published",
    "published",
    "random_crop_flip",
    "sticker_classes",
    "stored_size",
]

_NAMES = ("stickers", *PUBLISHED)


def list_datasets() -> list[str]:
    """Names that `load_dataset` knows; any folder of pictures serves as well.

    Returns:
        the names.

    Example:
        >>> list_datasets()[:3]
        ['stickers', 'stanford_dogs', 'cub200']
    """
    return list(_NAMES)


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
    """Train and test set of a data set, decoded once to uint8 at 8/7 of the input size.

    Args:
        name_or_folder: "stickers", a published set that is installed (see `load_published`), or a folder of pictures
            (see `load_folder`).
        preset: stickers only: "near", "mid" or "far" from what `mini` was pretrained on, or "cross", whose test
            pictures are by another artist than its training pictures.
        per_class: training pictures a class; None is 5 for stickers and else all that there are.
        test_per_class: test pictures a class; None is 20 for stickers and else all that there are.
        image_size: side of the network's input in pixels; None is 64 for stickers and else 224.
        clutter: stickers only: distractors a picture; None is 2.
        seed: of the stickers' pictures, or of the choice among others.

    Returns:
        train and test `ImageSet`.

    Raises:
        FileNotFoundError: if it is neither a name nor a folder; the message lists the names.
        NotADirectoryError: if it is a file.
        DataMissing: if a published set is not installed; the message says how to fetch it.
        PixelsError: if pictures of a folder cannot be read, naming them.
        ValueError: for an option that is out of range or does not apply, or a folder of one class.

    Example:
        >>> train, test = load_dataset("stickers", per_class=2, test_per_class=1)
        >>> train.images.shape, test.masks.dtype
        (torch.Size([96, 3, 73, 73]), torch.bool)
    """
    if name_or_folder == "stickers":
        size = 64 if image_size is None else image_size
        counts = {
            "train": 5 if per_class is None else per_class,
            "test": 20 if test_per_class is None else test_per_class,
        }
        whole_number("image_size", size, 14, 1792)
        whole_number("per_class", counts["train"], 1, 100_000)
        whole_number("test_per_class", counts["test"], 1, 100_000)
        amount = DEFAULT_CLUTTER if clutter is None else clutter
        train, test = (_stickers(split, preset, n, size, amount, seed) for split, n in counts.items())
        return train, test
    if clutter is not None or preset != "near":
        option = f"clutter={clutter!r}" if clutter is not None else f"preset={preset!r}"
        raise ValueError(f"{option} applies to 'stickers' only, not to {str(name_or_folder)!r}")
    if str(name_or_folder) in PUBLISHED:
        name = str(name_or_folder)
        return load_published(
            name, per_class=per_class, test_per_class=test_per_class, image_size=image_size, seed=seed
        )
    folder = Path(name_or_folder).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise NotADirectoryError(
                f"{str(name_or_folder)!r} is a file: give a data set's name, or the folder that holds the class folders"
            )
        near = difflib.get_close_matches(str(name_or_folder), _NAMES, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FileNotFoundError(
            f"{str(name_or_folder)!r} is neither a data set's name nor a folder.{hint} "
            f"Names: {', '.join(_NAMES)}; or give the path of a folder with train/ and test/."
        )
    size = 224 if image_size is None else image_size
    return load_folder(
        folder,
        per_class=per_class,
        test_per_class=test_per_class,
        image_size=size,
        seed=seed,
        for_training=True,
    )


def _stickers(split: str, preset: str, per_class: int, image_size: int, clutter: int, seed: int) -> ImageSet:
    side = stored_size(image_size)
    pictures, masks, labels = make_stickers(split, preset, per_class, side, clutter, seed)
    return ImageSet(
        images=torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(labels),
        classes=sticker_classes(),
        image_size=image_size,
        masks=torch.from_numpy(masks),
        name=f"stickers {preset} {split}",
    )
