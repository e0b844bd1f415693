"""Where published sets keep pictures, labels and splits: rehearsal archives against what they were made from."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat

from spgca_lab.data.layouts import LayoutError, read_index
from spgca_lab.data.published import PUBLISHED
from spgca_lab.data.rehearsal import rehearse

CALTECH = PUBLISHED["caltech256_30"], PUBLISHED["caltech256_60"]


def unpack(archives, into):
    for archive in archives:
        if archive.suffix == ".zip":
            zipfile.ZipFile(archive).extractall(into)
        elif archive.suffix == ".txt":
            shutil.copy(archive, into)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(into, filter="data")
    return into


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The unpacked rehearsal of every set, by layout; look at them, and leave them as they are."""
    found = {}
    for name, spec in PUBLISHED.items():
        if spec.folder not in found:
            folder = tmp_path_factory.mktemp(name)
            archives = rehearse(name, folder / "archives", train=4, test=2)
            assert [path.name for path in archives] == [archive.file for archive in spec.archives]
            (folder / "files").mkdir()
            found[spec.folder] = unpack(archives, folder / "files")
    return found


@pytest.fixture
def copy(roots, tmp_path):
    """`copy(layout)`: a rehearsal that a test may spoil."""
    return lambda layout: Path(shutil.copytree(roots[layout], tmp_path / layout))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_listed_picture_is_there_once_and_of_its_class(roots, name):
    spec = PUBLISHED[name]
    index = read_index(spec, roots[spec.folder])
    files = [file for file, _ in index.train + index.test]
    assert len(set(files)) == len(files)
    assert all((roots[spec.folder] / file).is_file() for file in files)
    for rows in (index.train, index.test):
        assert {label for _, label in rows} == set(range(len(index.classes)))
        for file, label in rows:
            assert index.classes[label] in file.split("/")[-2]


def test_dogs_are_split_as_the_mat_files_say(roots):
    root = roots["stanford_dogs"]
    index = read_index(PUBLISHED["stanford_dogs"], root)
    for rows, name in ((index.train, "train_list.mat"), (index.test, "test_list.mat")):
        told = loadmat(root / name, simplify_cells=True)
        assert rows == [
            (f"Images/{f}", int(n) - 1) for f, n in zip(told["file_list"], told["labels"], strict=True)
        ]
    assert index.classes[:2] == ["Chihuahua", "Japanese_spaniel"]
    assert (len(index.train), len(index.test)) == (16, 8)


def test_birds_are_split_as_the_flags_say(roots):
    root = roots["cub200"] / "CUB_200_2011"
    index = read_index(PUBLISHED["cub200"], roots["cub200"])
    images = dict(line.split() for line in (root / "images.txt").read_text().splitlines())
    flags = dict(line.split() for line in (root / "train_test_split.txt").read_text().splitlines())
    assert {f"CUB_200_2011/images/{images[n]}" for n in images if flags[n] == "1"} == {
        f for f, _ in index.train
    }
    assert {f"CUB_200_2011/images/{images[n]}" for n in images if flags[n] == "0"} == {
        f for f, _ in index.test
    }
    assert index.classes == [
        "Black_footed_Albatross",
        "Laysan_Albatross",
        "Sooty_Albatross",
        "Groove_billed_Ani",
    ]


def test_rooms_are_split_as_the_lists_say(roots):
    root = roots["mit_indoor67"]
    index = read_index(PUBLISHED["mit_indoor67"], root)
    for rows, name in ((index.train, "TrainImages.txt"), (index.test, "TestImages.txt")):
        assert b"\r\n" in (root / name).read_bytes()
        assert [f"Images/{line}" for line in (root / name).read_text().split()] == [file for file, _ in rows]
    assert index.classes == sorted(index.classes)


def test_rooms_in_a_folder_around_them_are_found(copy):
    root = copy("mit_indoor67")
    (root / "indoorCVPR_09").mkdir()
    (root / "Images").rename(root / "indoorCVPR_09" / "Images")
    index = read_index(PUBLISHED["mit_indoor67"], root)
    assert index.train[0][0].startswith("indoorCVPR_09/Images/airport_inside/")


def test_strays_are_left_out_and_told(roots):
    ants = read_index(PUBLISHED["ants_bees"], roots["ants_bees"])
    assert "imageNotFound.gif" in ants.notes[0]
    assert not [file for file, _ in ants.train if file.endswith(".gif")]
    assert (len(ants.train), len(ants.test)) == (8, 4)
    caltech = read_index(CALTECH[0], roots["caltech256"])
    assert "056.dog/RENAME2, 056.dog/greg" in caltech.notes[0]
    assert not [file for file, _ in caltech.train + caltech.test if "greg" in file]


def caltech(root, counts):
    """Empty files in Caltech's layout, so many in each class."""
    for i, count in enumerate(counts):
        folder = root / "256_ObjectCategories" / f"{i + 1:03d}.class{i}"
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{i + 1:03d}_{number + 1:04d}.jpg").touch()
    return root


@given(st.integers(0, 2**31), st.lists(st.integers(80, 95), min_size=1, max_size=3))
def test_caltech_is_drawn_as_the_paper_counts(tmp_path_factory, seed, counts):
    root = caltech(tmp_path_factory.mktemp("caltech"), counts)
    small, large = (read_index(spec, root, seed) for spec in CALTECH)
    assert small.test == large.test
    assert small.train == large.train[: len(small.train)], "the 30 are the first of the 60"
    for index, each in ((small, 30), (large, 60)):
        assert index.notes == []
        for label in range(len(counts)):
            assert sum(row[1] == label for row in index.train) == each
            assert sum(row[1] == label for row in index.test) == 20
    assert not {file for file, _ in large.train} & {file for file, _ in large.test}


def test_a_class_of_caltech_is_drawn_whatever_the_others_hold(tmp_path):
    alone = read_index(CALTECH[1], caltech(tmp_path / "a", [85]), 3)
    beside = read_index(CALTECH[1], caltech(tmp_path / "b", [85, 99]), 3)
    assert [row for row in beside.test if row[1] == 0] == alone.test
    assert read_index(CALTECH[1], tmp_path / "a", 4).test != alone.test


@pytest.mark.parametrize("count", [2, 7, 8, 79])
def test_a_smaller_copy_of_caltech_is_split_in_proportion_and_says_so(tmp_path, count):
    small, large = (read_index(spec, caltech(tmp_path / spec.name, [count])) for spec in CALTECH)
    assert len(large.test) + len(large.train) == count
    assert len(large.test) == max(1, round(count / 4))
    assert 1 <= len(small.train) <= max(1, round(len(large.train) / 2))
    assert "fewer than 80 images" in small.notes[-1]


def test_other_names_and_repetitions_are_coped_with_and_told(copy):
    root = copy("mit_indoor67")
    first = root / "Images" / "airport_inside" / "airport_inside_1_altavista.jpg"
    first.rename(first.with_name("Airport_inside_1_ALTAVISTA.JPG"))
    second = root / "Images" / "airport_inside" / "airport_inside_2_altavista.jpg"
    second.rename(second.with_suffix(".png"))
    with (root / "TrainImages.txt").open("a") as lines:
        lines.write("bakery/bakery_1_altavista.jpg\n")
    index = read_index(PUBLISHED["mit_indoor67"], root)
    assert index.train[0] == ("Images/airport_inside/Airport_inside_1_ALTAVISTA.JPG", 0)
    assert index.train[1] == ("Images/airport_inside/airport_inside_2_altavista.png", 0)
    assert len(index.train) == 16
    assert "listed twice, taken once: Images/bakery/bakery_1_altavista.jpg" in index.notes
    assert "airport_inside_1_altavista.jpg is Airport_inside_1_ALTAVISTA.JPG" in index.notes[-1]


def test_missing_pictures_are_all_named(copy):
    root = copy("cub200")
    gone = sorted((root / "CUB_200_2011" / "images" / "002.Laysan_Albatross").iterdir())[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(LayoutError, match=r"2 of \d+ listed images are not below") as caught:
        read_index(PUBLISHED["cub200"], root)
    assert [path.name for path in gone] == [name.rsplit("/", 1)[-1] for name in caught.value.missing]


@pytest.mark.parametrize(
    ("name", "gone", "says"),
    [
        (
            "stanford_dogs",
            "test_list.mat",
            "has no test_list.mat; it has Images, file_list.mat, train_list.mat",
        ),
        ("cub200", "CUB_200_2011/classes.txt", "has no classes.txt"),
        ("caltech256_30", "256_ObjectCategories", "has no 256_ObjectCategories; it has nothing"),
        ("mit_indoor67", "Images", "has no folder Images; it has TestImages.txt, TrainImages.txt"),
        ("ants_bees", "hymenoptera_data/val", "has no val/ants; it has train"),
    ],
)
def test_another_layout_is_explained(copy, name, gone, says):
    root = copy(PUBLISHED[name].folder)
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(LayoutError, match=says):
        read_index(PUBLISHED[name], root)


def test_a_rehearsal_is_the_same_each_time_and_holds_the_odd_files(tmp_path):
    for name in ("stanford_dogs", "cub200", "ants_bees"):
        one, other = (rehearse(name, tmp_path / part / name, train=3, test=1) for part in ("a", "b"))
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    kinds = set()
    rehearse("mit_indoor67", tmp_path / "mit")
    with tarfile.open(tmp_path / "mit" / "indoorCVPR_09.tar") as tar:
        for entry in tar:
            picture = Image.open(tar.extractfile(entry))
            kinds.add((picture.format, picture.mode))
            assert entry.name.endswith(".jpg")
            assert np.unique(picture.size).size == 2, "not square"
    assert kinds >= {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("GIF", "P")}


@pytest.mark.parametrize("option", [{"classes": 99}, {"train": 0}, {"test": -1}, {"classes": True}])
def test_numbers_out_of_range_are_quoted(tmp_path, option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        rehearse("cub200", tmp_path, **option)
