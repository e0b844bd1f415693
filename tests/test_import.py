"""Importing data sets that are on this machine, and where they lie."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from spgca_lab.data.install import (
    DataMissing,
    FetchError,
    data_home,
    files_root,
    fingerprint,
    import_archives,
    read_manifest,
)
from spgca_lab.data.published import PUBLISHED, Archive
from tests.archives import BODY, LISTS, PICTURES, ZIP, contents, entries, republish, sha256, tarred, zipped


@pytest.fixture(autouse=True)
def none_of_the_users(monkeypatch):
    """No data set of the user's."""
    monkeypatch.delenv("SPGCA_LAB_DATA", raising=False)


@pytest.fixture
def publish(monkeypatch):
    """Let the registry tell of an archive, with the given fields; nothing is fetched."""
    told = partial(republish, monkeypatch, "https://example.org/")
    told()
    return told


@pytest.fixture
def mit(publish, tmp_path):
    """MIT 67's three archives in a folder, as published."""
    body = tarred({"Images/bar/1.jpg": b"1", "Images/bar/2.jpg": b"22"})
    publish("mit_indoor67", "indoorCVPR_09.tar", body, checksum=None)
    folder = tmp_path / "given"
    folder.mkdir()
    for name, content in (LISTS | {"indoorCVPR_09.tar": body}).items():
        (folder / name).write_bytes(content)
    return folder


MIT = {"Images/bar/1.jpg": b"1", "Images/bar/2.jpg": b"22"} | LISTS


def test_archives_are_imported_by_name_from_a_folder_or_one_by_one(mit, tmp_path):
    given = contents(mit)
    one = import_archives("mit_indoor67", [mit], tmp_path / "one", progress=False)
    two = import_archives(
        "mit_indoor67", sorted(mit.iterdir(), reverse=True), tmp_path / "two", progress=False
    )
    assert contents(one) == contents(two) == MIT
    assert contents(mit) == given
    manifest = read_manifest("mit_indoor67", tmp_path / "one")
    assert [record.file for record in manifest.archives] == [
        a.file for a in PUBLISHED["mit_indoor67"].archives
    ]
    assert manifest.archives[0].source == str(mit / "indoorCVPR_09.tar")
    assert not manifest.verified  # nobody publishes a checksum
    assert entries(tmp_path / "one") == {"mit_indoor67"}


def test_a_renamed_archive_is_told_by_its_size(publish, mit, tmp_path):
    (mit / "indoorCVPR_09.tar").rename(mit / "mit (1).tar")
    root = import_archives("mit_indoor67", [mit, mit / "mit (1).tar"], tmp_path / "home", progress=False)
    assert contents(root) == MIT
    with (mit / "mit (1).tar").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FetchError, match=r"mit \(1\)\.tar' has neither the name nor the size.*rename it"):
        import_archives("mit_indoor67", [mit, mit / "mit (1).tar"], tmp_path / "other", progress=False)


def test_what_is_missing_or_given_twice_is_listed(mit, tmp_path):
    (mit / "TestImages.txt").unlink()
    with pytest.raises(FetchError, match=r"TestImages\.txt was not given; published at http"):
        import_archives("mit_indoor67", [mit], tmp_path / "home")
    with pytest.raises(FetchError, match=r"indoorCVPR_09\.tar, TestImages\.txt were not given"):
        import_archives("mit_indoor67", [mit / "TrainImages.txt"], tmp_path / "home")
    other = tmp_path / "other"
    shutil.copytree(mit, other)
    with pytest.raises(FetchError, match=r"are both indoorCVPR_09\.tar: give one"):
        import_archives("mit_indoor67", [mit, other], tmp_path / "home")
    with pytest.raises(FetchError, match=r"no/such\.tar' does not exist"):
        import_archives("mit_indoor67", [mit, "no/such.tar"], tmp_path / "home")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FetchError, match=r"holds no archive of mit_indoor67 \(indoorCVPR_09\.tar, "):
        import_archives("mit_indoor67", [tmp_path / "empty"], tmp_path / "home")
    assert entries(tmp_path / "home") == set()


def test_an_archive_that_is_not_the_published_one_needs_unverified(publish, tmp_path):
    file = tmp_path / ZIP
    wrong = zipped(PICTURES | {"hymenoptera_data/val/bees/1.jpg": os.urandom(40_000)})
    file.write_bytes(wrong)
    assert len(wrong) == len(BODY)
    with pytest.raises(FetchError) as caught:
        import_archives("ants_bees", [file], tmp_path / "home", progress=False)
    for part in (str(file), sha256(wrong), sha256(BODY), "--unverified"):
        assert part in str(caught.value)
    assert file.exists()
    file.write_bytes(wrong + b"x")
    with pytest.raises(FetchError, match=rf"it has {len(BODY) + 1} bytes, and {len(BODY)} are published"):
        import_archives("ants_bees", [file], tmp_path / "home", progress=False)
    assert read_manifest("ants_bees", tmp_path / "home") is None
    file.write_bytes(wrong)
    import_archives("ants_bees", [file], tmp_path / "home", unverified=True, progress=False)
    assert not read_manifest("ants_bees", tmp_path / "home").verified
    file.write_bytes(BODY)
    import_archives("ants_bees", [file], tmp_path / "home", fresh=True, progress=False)
    assert read_manifest("ants_bees", tmp_path / "home").verified


# --- Where things lie --------------------------------------------------------------------------------------------


def test_the_data_home_is_asked_for_named_by_the_environment_or_the_users(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert data_home("sets") == tmp_path / "sets"
    assert data_home("~/sets") == Path("~/sets").expanduser()
    assert data_home().parts[-2:] == ("spgca-lab", "datasets")
    monkeypatch.setenv("SPGCA_LAB_DATA", str(tmp_path / "mine"))
    assert data_home() == tmp_path / "mine"
    assert data_home("sets") == tmp_path / "sets"


def test_what_is_missing_says_where_it_was_looked_for_and_how_to_get_it(tmp_path):
    with pytest.raises(DataMissing) as caught:
        files_root("cub200", tmp_path)
    for part in (
        str(tmp_path / "cub200"),
        "spgca-lab data fetch cub200 --home",
        "spgca-lab data import cub200 PATH",
    ):
        assert part in str(caught.value)
    with pytest.raises(LookupError, match="'cub20'.*Did you mean 'cub200'"):
        files_root("cub20", tmp_path)
    assert fingerprint("cub200", tmp_path) is None
    assert fingerprint("photos", tmp_path) is None


def test_the_fingerprint_depends_on_the_bytes_alone(publish, mit, tmp_path):
    for home in ("one", "two"):
        import_archives("mit_indoor67", [mit], tmp_path / home, progress=False)
    one, two = (fingerprint("mit_indoor67", tmp_path / home) for home in ("one", "two"))
    assert one == two
    (mit / "TrainImages.txt").write_text("bar/1.jpg\nbar/3.jpg\n")
    import_archives("mit_indoor67", [mit], tmp_path / "two", fresh=True, progress=False)
    assert fingerprint("mit_indoor67", tmp_path / "two") != one


def test_archives_in_the_registry_are_told_apart_by_name():
    for each in PUBLISHED.values():
        names = [archive.file for archive in each.archives]
        assert len(set(names)) == len(names)
        assert all(isinstance(archive, Archive) and "/" not in archive.file for archive in each.archives)
