"""A folder of one's own pictures: layouts, odd files, and what is said about broken ones."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from spgca_lab.data import decode as module
from spgca_lab.data import load_dataset, load_folder

PHOTOGRAPHS = Path(__file__).resolve().parents[1] / "../shared/data/caltech101-mini"


def save(path, colour, mode="RGB", size=(40, 30), **options):
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)
    return path


@pytest.fixture
def tree(tmp_path):
    """Two classes in train/ and test/, told apart by colour."""
    for split, count, first in (("train", 5, 0), ("test", 3, 10)):
        for name, colour in (("red things", (200, 0, 0)), ("blue", (0, 0, 200))):
            for i in range(count):
                save(tmp_path / split / name / f"{i}.png", tuple(min(255, c + first + i) for c in colour))
    return tmp_path


def test_train_and_test_folders(tree):
    train, test = load_dataset(tree, image_size=28)
    assert train.classes == test.classes == ["blue", "red things"]
    assert train.images.shape == (10, 3, 32, 32)
    assert test.images.shape == (6, 3, 32, 32)
    assert train.labels.tolist() == [0] * 5 + [1] * 5
    assert train.masks is None
    assert train.images[7, :, 16, 16].tolist() == [202, 2, 2]
    assert train.paths[7] == tree / "train" / "red things" / "2.png"
    assert test.paths[3] == tree / "test" / "red things" / "0.png"


@pytest.mark.parametrize("name", ["val", "valid"])
def test_validation_folders_serve_as_test(tree, name):
    (tree / "test").rename(tree / name)
    _, test = load_dataset(str(tree), image_size=28)
    assert len(test) == 6


def test_chosen_pictures_depend_on_the_seed_and_nest(tree):
    chosen = {
        (count, seed): load_folder(tree, per_class=count, test_per_class=1, image_size=28, seed=seed)[0].paths
        for count in (2, 4)
        for seed in range(6)
    }
    assert chosen[2, 0] == load_folder(tree, per_class=2, test_per_class=2, image_size=28, seed=0)[0].paths
    assert all(set(chosen[2, seed]) < set(chosen[4, seed]) for seed in range(6))
    assert len({tuple(chosen[2, seed]) for seed in range(6)}) > 1
    with pytest.raises(ValueError, match=r"per_class=6 is more than some classes of .* have: 'blue' has 5"):
        load_folder(tree, per_class=6)


def test_one_folder_is_split_by_the_seed(tree):
    splits = [load_folder(tree / "train", image_size=28, seed=seed) for seed in (0, 0, 1, 2, 3)]
    for train, test in splits:
        assert train.labels.tolist() == [0] * 4 + [1] * 4
        assert test.labels.tolist() == [0, 1]
        assert not set(train.paths) & set(test.paths)
        assert len({*train.paths, *test.paths}) == 10
    assert splits[0][0].paths == splits[1][0].paths
    assert len({tuple(train.paths) for train, _ in splits}) > 1


def test_a_class_of_one_picture_cannot_be_split(tmp_path):
    save(tmp_path / "many" / "1.png", "red")
    save(tmp_path / "many" / "2.png", "red")
    save(tmp_path / "lonely" / "1.png", "red")
    with pytest.raises(ValueError, match=r"at least 2 images .*: 'lonely' have fewer"):
        load_folder(tmp_path)


def test_all_unreadable_pictures_are_listed_at_once(tree):
    bad = [tree / "train" / "blue" / "cut.png", tree / "test" / "red things" / "text.jpg"]
    bad[0].write_bytes((tree / "train" / "blue" / "0.png").read_bytes()[:60])
    bad[1].write_text("no picture")
    empty = tree / "train" / "blue" / "empty.png"
    empty.touch()
    with pytest.raises(ValueError, match=r"^3 of 19 images cannot be read") as caught:
        load_dataset(tree)
    message = str(caught.value)
    assert all(str(path) in message for path in (*bad, empty))
    assert f"{empty} (empty file)" in message
    assert "/0.png" not in message


def test_a_long_list_of_unreadable_pictures_is_cut(tree, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 2)
    for i in range(5):
        (tree / "train" / "blue" / f"bad{i}.png").write_text("x")
    with pytest.raises(ValueError, match=r"(?s)5 of 21.*bad1\.png.*and 3 more") as caught:
        load_dataset(tree)
    assert "bad2" not in str(caught.value)


def test_layouts_that_make_no_sense_are_explained(tree, tmp_path_factory):
    with pytest.raises(
        FileNotFoundError, match=r"'stikkers' is neither .* Did you mean 'stickers'\?.*Names: stickers"
    ):
        load_dataset("stikkers")
    with pytest.raises(FileNotFoundError, match="'no/such/folder' is not a folder"):
        load_folder("no/such/folder")
    hollow = tmp_path_factory.mktemp("hollow")
    with pytest.raises(FileNotFoundError, match="has no class folders"):
        load_folder(hollow)
    (hollow / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"no images .* in 'nothing'"):
        load_folder(hollow)
    (tree / "test" / "blue").rename(tree / "test" / "azure")
    with pytest.raises(ValueError, match="only in train/: 'blue'; only in test/: 'azure'"):
        load_folder(tree)
    (tree / "test").rename(tree / "elsewhere")
    with pytest.raises(ValueError, match="has train/ but no test/"):
        load_folder(tree)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clutter": 3}, "clutter=3 applies to 'stickers' only"),
        ({"preset": "far"}, "preset='far' applies to 'stickers' only"),
        ({"per_class": 0}, "per_class is 0"),
        ({"test_per_class": 2.0}, "test_per_class is 2.0"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": "224"}, "image_size is '224'"),
    ],
)
def test_options_that_do_not_apply_are_refused(tree, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(tree, **options)


def test_hidden_files_and_other_files_are_left_out(tree):
    (tree / "train" / "blue" / ".hidden.png").write_text("x")
    (tree / "train" / "blue" / "notes.txt").write_text("x")
    (tree / "train" / ".cache").mkdir()
    assert len(load_dataset(tree)[0]) == 10


def test_subset_keeps_what_belongs_together(tree):
    train, _ = load_dataset(tree, image_size=28)
    part = train.subset(torch.tensor([9, 0]))
    assert part.labels.tolist() == [1, 0]
    assert part.paths == [train.paths[9], train.paths[0]]
    assert torch.equal(part.images, train.images[[9, 0]])
    assert "2 pictures of 32×32 px (input 28), 2 classes" in part.describe()
    with pytest.raises(IndexError, match=r"no image 10: .* has 10"):
        train.subset([10])


def test_real_photographs():
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("the shared photographs (caltech101-mini) are not on this machine")
    train, test = load_dataset(PHOTOGRAPHS, per_class=2, test_per_class=1, seed=3)
    assert train.images.shape == (80, 3, 256, 256)
    assert test.images.shape == (40, 3, 256, 256)
    assert len(train.classes) == 40
    assert train.images.float().std() > 40
    assert all(
        path.parent.name == train.classes[y] for path, y in zip(train.paths, train.labels, strict=True)
    )
