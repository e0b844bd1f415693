"""Images in: stickers, photographs, folders, published sets, augmentation.

All that turns names, folders or archives into an `ImageSet` lives here; it imports only `_checks` and `_files`.
"""

from spgca_lab.data.augment import center_crop, random_crop_flip, stored_size
from spgca_lab.data.exhibits import exhibits
from spgca_lab.data.folder import load_folder
from spgca_lab.data.imageset import ImageSet, hold_out
from spgca_lab.data.install import data_home, fingerprint
from spgca_lab.data.load import list_datasets, load_dataset, load_published
from spgca_lab.data.published import PUBLISHED, published
from spgca_lab.data.stickers import make_stickers, sticker_classes

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
    "make_stickers",
    "published",
    "random_crop_flip",
    "sticker_classes",
    "stored_size",
]
