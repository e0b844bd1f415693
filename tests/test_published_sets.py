"""Published sets as pictures to train on: pieces of one map, counted against Table 1, every corrupt file named."""

import re

import numpy as np
import pytest
import torch

import spgca_lab as lab
from spgca_lab.data import PUBLISHED, fingerprint, list_datasets, load_published, published
from spgca_lab.data.check import check
from spgca_lab.data.install import DataMissing, files_root, import_archives
from spgca_lab.data.rehearsal import rehearse
from spgca_lab.experiments import paper
from spgca_lab.runs.inputs import load_data
from spgca_lab.training.recipe import Recipe


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data home with four sets; look at it, and leave it as it is."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("cub200", "caltech256_60", "mit_indoor67", "ants_bees"):
        archives = rehearse(name, folder / "archives" / name, train=4)
        import_archives(name, archives, folder / "data", unverified=True, progress=False)
    return folder / "data"


@pytest.fixture
def spoiled(tmp_path):
    """A data home with CUB alone, for a test that spoils it."""
    archives = rehearse("cub200", tmp_path / "archives", train=4)
    import_archives("cub200", archives, tmp_path / "data", unverified=True, progress=False)
    return tmp_path / "data"


def address(images):
    return images.untyped_storage().data_ptr() + images.storage_offset()


def test_the_registry_counts_as_table_1_does():
    for _, row in paper.table(1).iterrows():
        (spec,) = [each for each in PUBLISHED.values() if each.title == row.dataset]
        assert (spec.train, spec.test, spec.classes) == (row.train_samples, row.test_samples, row.classes)
        if spec.per_class:
            assert [each * spec.classes for each in spec.per_class] == [spec.train, spec.test]
    assert list_datasets() == ["stickers", *PUBLISHED]


def test_both_sets_are_pieces_of_one_map(home):
    train, test = load_published("cub200", image_size=32, home=home)
    again, _ = load_published("cub200", image_size=32, home=home)
    assert train.images.shape == (16, 3, 37, 37)
    assert test.images.untyped_storage().data_ptr() == train.images.untyped_storage().data_ptr()
    assert address(train.images) == address(test.images) + test.images.numel(), "no copy was made"
    assert torch.equal(again.images, train.images)
    files = sorted(path.name for path in (home / "cub200" / "decoded").iterdir())
    assert [re.sub(r"-[0-9a-f]{16}", "", name) for name in files] == [".cub200-37.lock", "cub200-37.npy"]
    assert [path.parent.name[4:] for path in train.paths] == [train.classes[i] for i in train.labels]


def test_the_smaller_caltech_is_a_piece_of_the_larger_one(home):
    small, large = (load_published(n, image_size=32, home=home) for n in ("caltech256_30", "caltech256_60"))
    assert small[0].paths == large[0].paths[: len(small[0])]
    assert small[1].paths == large[1].paths
    assert torch.equal(small[0].images, large[0].images[: len(small[0])])
    load_published("caltech256_30", image_size=32, seed=5, home=home)
    maps = {re.sub(r"-[0-9a-f]{16}", "", f.name) for f in (home / "caltech256" / "decoded").glob("*.npy")}
    assert maps == {"caltech256-seed0-37.npy", "caltech256-seed5-37.npy"}


def test_some_pictures_a_class_are_chosen_by_the_seed_and_nest(home):
    one, two = (load_published("cub200", per_class=n, image_size=32, home=home)[0] for n in (1, 2))
    assert set(one.paths) < set(two.paths)
    assert torch.bincount(two.labels).tolist() == [2, 2, 2, 2]
    with pytest.raises(
        ValueError, match=r"per_class=5 is more than some classes of cub200 train have: 'Black"
    ):
        load_published("cub200", per_class=5, image_size=32, home=home)
    with pytest.raises(ValueError, match="test_per_class is 0"):
        load_published("cub200", test_per_class=0, home=home)


def test_a_recipe_loads_them_by_name(home, monkeypatch):
    monkeypatch.setenv("SPGCA_LAB_DATA", str(home))
    train, test = load_data(Recipe(dataset="mit_indoor67"), 32)
    assert (train.name, test.name) == ("mit_indoor67 train", "mit_indoor67 test")
    left, held = load_data(Recipe(dataset="mit_indoor67", validation=0.25), 32)
    assert not {*left.paths, *held.paths} & set(test.paths)
    assert {*left.paths, *held.paths} == set(train.paths)
    with pytest.raises(ValueError, match="preset='far' applies to 'stickers' only, not to 'cub200'"):
        lab.load_dataset("cub200", preset="far")


def test_a_run_on_one_copy_is_never_taken_for_a_run_on_another(home, tmp_path, monkeypatch):
    recipe = Recipe(method="l2", dataset="ants_bees", weights="random", image_size=32, iterations=4, batch_size=4,
                    evaluations=1, snapshots=0)  # fmt: skip
    monkeypatch.setenv("SPGCA_LAB_DATA", str(home))
    *_, done = lab.fit(recipe, store=tmp_path / "finished", device="cpu")
    assert done.result["data"] == fingerprint("ants_bees")
    cut = lab.fit(recipe, store=tmp_path / "cut", device="cpu")
    assert next(cut).step == 1
    cut.close()
    archives = rehearse("ants_bees", tmp_path / "archives", train=3, seed=1)
    import_archives("ants_bees", archives, tmp_path / "other", unverified=True, progress=False)
    monkeypatch.setenv("SPGCA_LAB_DATA", str(tmp_path / "other"))
    for store in ("finished", "cut"):
        with pytest.raises(lab.RunError, match=r"another copy of its data set .*resume=False \(--fresh\)"):
            list(lab.fit(recipe, store=tmp_path / store, device="cpu"))
    *_, anew = lab.fit(recipe, store=tmp_path / "finished", device="cpu", resume=False)
    assert anew.result["data"] == fingerprint("ants_bees") != done.result["data"]
    monkeypatch.setenv("SPGCA_LAB_DATA", str(tmp_path / "none"))
    assert next(lab.fit(recipe, store=tmp_path / "finished")).result == anew.result, (
        "known without the pictures"
    )


def test_what_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SPGCA_LAB_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match="spgca-lab data fetch stanford_dogs"):
        lab.load_dataset("stanford_dogs")
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'cub200'\?.*Names: stickers, stanford_dogs"):
        lab.load_dataset("cub20")
    with pytest.raises(LookupError, match=r"no published data set 'caltech256'\. Did you mean 'caltech256_"):
        published("caltech256")
    assert fingerprint("cub200", tmp_path) is None


def test_grey_and_cmyk_pictures_come_out_as_they_look(home):
    train, _ = load_published("cub200", image_size=64, home=home)
    grey, cmyk, plain = train.images[0].float(), train.images[1].float(), train.images[3].float()
    assert (grey[0] == grey[1]).all()
    assert (grey[1] == grey[2]).all()
    # An inverted CMYK picture would be the negative of a sticker on its bright paper.
    assert abs(float(cmyk.mean() - plain.mean())) < 60
    assert float(cmyk.std()) > 10


def test_a_rehearsal_is_not_taken_for_the_published_set(home):
    found = check("cub200", home, progress=False)
    assert not found.ok
    assert not found.verified
    assert found.problems == [
        "16 training pictures, 5,994 are published",
        "8 test pictures, 5,794 are published",
        "4 classes, 200 are published",
    ]
    assert found.table.to_dict("list") == {
        "class": [name[4:] for name in _bird_folders(home)],
        "train": [4, 4, 4, 4],
        "test": [2, 2, 2, 2],
    }
    text = found.text()
    assert "DIFFERS: 16 training pictures, 5,994 are published" in text
    assert "archives: not verified" in text


def _bird_folders(home):
    return sorted(path.name for path in (home / "cub200" / "files" / "CUB_200_2011" / "images").iterdir())


def test_every_corrupt_file_is_named_with_its_fault(spoiled):
    root = files_root("cub200", spoiled)
    files = sorted((root / "CUB_200_2011" / "images" / "002.Laysan_Albatross").iterdir())
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:2000])
    files[2].write_text("not a picture")
    found = check("cub200", spoiled, progress=False)
    assert [path.rsplit("/", 1)[-1] for path, _ in found.corrupt] == [file.name for file in files[:3]]
    reasons = [why for _, why in found.corrupt]
    assert reasons[0] == "empty file"
    assert "truncated" in reasons[1]
    assert "cannot identify image file" in reasons[2]
    assert all(
        f"CORRUPT: CUB_200_2011/images/002.Laysan_Albatross/{file.name}" in found.text() for file in files[:3]
    )
    with pytest.raises(ValueError, match=r"3 of 24 images cannot be read; see `spgca-lab data check cub200`"):
        load_published("cub200", image_size=32, home=spoiled)
    files[3].unlink()
    gone = check("cub200", spoiled, progress=False)
    assert gone.corrupt[0] == (f"CUB_200_2011/images/002.Laysan_Albatross/{files[3].name}", "missing")
    assert gone.corrupt[1:] == found.corrupt, "what is there is looked at all the same"
    assert not gone.ok


def test_a_complete_copy_passes(spoiled, monkeypatch):
    """The registry says what the paper counts; a set of just these numbers is in order."""
    spec = PUBLISHED["cub200"]
    small = type(spec)(**vars(spec) | {"train": 16, "test": 8, "classes": 4})
    monkeypatch.setitem(PUBLISHED, "cub200", small)
    found = check("cub200", spoiled, progress=False)
    assert found.ok
    assert "all images can be decoded, and their numbers are those of the paper" in found.text()


def test_many_classes_are_shortened(home):
    found = check("cub200", home, progress=False)
    long = type(found)(**vars(found) | {"table": found.table.loc[np.repeat(found.table.index, 10)]})
    assert "and 28 more classes" in long.text()
    assert "more classes" not in long.text(full=True)
