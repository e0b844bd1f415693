"""Published data sets: the paper's, and a small one to begin with, with their origin, content and terms."""

import difflib
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Archive:
    """One published file; size (in bytes) and checksum (`"sha256:…"` or `"md5:…"`) may be unknown."""

    file: str
    url: str
    size: int | None = None
    checksum: str | None = None
    published_by: str = ""


@dataclass(frozen=True)
class PublishedSet:
    """A data set as the paper uses it (Sec. 4.1, Table 1).

    Args:
        title: name in the paper's tables; `name` is that in `Recipe(dataset=…)`.
        folder: folder in the data home, and key of the reader in `layouts`; the two Caltech sets share one.
        train: number of training images in Table 1; `test` and `classes` alike.
        terms: terms of use, as far as they are stated.
        per_class: `(train, test)` images per class drawn by a seed; None if the set has its own split.
        most_bytes: largest accepted size of the unpacked archives.
        most_files: largest accepted number of files in them.
    """

    name: str
    title: str
    folder: str
    train: int
    test: int
    classes: int
    archives: tuple[Archive, ...]
    homepage: str
    terms: str
    per_class: tuple[int, int] | None = None
    most_bytes: int = 8 * 2**30
    most_files: int = 100_000


_TFDS = "TensorFlow Datasets"
_DOGS = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
# A table: the formatter would give every word a line.
# fmt: off
_CALTECH = PublishedSet(
    name="caltech256_30", title="Caltech 256-30", folder="caltech256",
    train=7_710, test=5_140, classes=257, per_class=(30, 20),
    archives=(
        Archive("256_ObjectCategories.tar",
                "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
                1_183_006_720, "md5:67b4f42ca05d46448c6bb8ecd2220f6d", "torchvision"),
    ),
    homepage="https://data.caltech.edu/records/nyy15-4j048",
    terms="CC BY 4.0 as CaltechDATA lists it; the pictures were collected from the web by Griffin et al.",
)
_SETS = (
    PublishedSet(
        name="stanford_dogs", title="Stanford Dogs 120", folder="stanford_dogs",
        train=12_000, test=8_580, classes=120,
        archives=(
            Archive("images.tar", f"{_DOGS}images.tar", 793_579_520,
                    "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58", _TFDS),
            Archive("lists.tar", f"{_DOGS}lists.tar", 481_280,
                    "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c", _TFDS),
        ),
        homepage=_DOGS, terms="pictures of ImageNet, under its terms: non-commercial research and education",
    ),
    PublishedSet(
        name="cub200", title="CUB-200-2011", folder="cub200",
        train=5_994, test=5_794, classes=200,
        archives=(
            Archive("CUB_200_2011.tgz", "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                    1_150_585_339,
                    "sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081", _TFDS),
        ),
        homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        terms="non-commercial research and education; Caltech does not own the copyright of the pictures",
    ),
    _CALTECH,
    replace(_CALTECH, name="caltech256_60", title="Caltech 256-60", train=15_420, per_class=(60, 20)),
    PublishedSet(
        name="mit_indoor67", title="MIT Indoor 67", folder="mit_indoor67",
        train=5_360, test=1_340, classes=67,
        archives=(
            Archive("indoorCVPR_09.tar", "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
                    2_592_010_240, None, "a transfer log; no checksum is published"),
            Archive("TrainImages.txt", "https://web.mit.edu/torralba/www/TrainImages.txt"),
            Archive("TestImages.txt", "https://web.mit.edu/torralba/www/TestImages.txt"),
        ),
        homepage="https://web.mit.edu/torralba/www/indoor.html",
        terms="no licence is stated; for research, by Quattoni and Torralba",
    ),
    PublishedSet(
        name="ants_bees", title="Ants and bees", folder="ants_bees",
        train=244, test=153, classes=2,
        archives=(
            Archive("hymenoptera_data.zip", "https://download.pytorch.org/tutorial/hymenoptera_data.zip", 47_286_322,
                    "sha256:fbc41b31d544714d18dd1230b1e2b455e1557766e13e67f9f5a7a23af7c02209",
                    "an independent project; PyTorch publishes none"),
        ),
        homepage="https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html",
        terms="no licence is stated; a small part of ImageNet, used by PyTorch's tutorial (not in the paper)",
    ),
)
# fmt: on
PUBLISHED: dict[str, PublishedSet] = {each.name: each for each in _SETS}


def published(name: str) -> PublishedSet:
    """Return a published data set by name; raise a `LookupError` with near names if there is none."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    near = difflib.get_close_matches(str(name), PUBLISHED, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise LookupError(f"there is no published data set {name!r}.{hint} Known: {', '.join(PUBLISHED)}")
