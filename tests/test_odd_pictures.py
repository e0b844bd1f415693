"""Folders of pictures as people have them: what can be read is, what cannot is named, and nothing hangs or bursts."""

import os
import socket
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

import spgca_lab as lab
from spgca_lab.cli import main
from spgca_lab.data import decode, load_dataset, load_folder
from spgca_lab.data.decode import UnreadableImages
from spgca_lab.data.folder import DuplicatesWarning, find_duplicates
from spgca_lab.explorers import ExplorerError
from spgca_lab.explorers.images import ImageBatch
from tests.odd_pictures import BAD, GOOD, encoded, plain, write_bad, write_good


def classes(root: Path, count: int = 3, names: tuple[str, ...] = ("ants", "bees"), first: int = 0) -> Path:
    """Class folders of small pictures, none like another."""
    for label, name in enumerate(names, first):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            colour = (200, 20 * label, 20 * i)
            (root / name / f"{i}.png").write_bytes(encoded(plain(colour=colour), "PNG"))
    return root


@pytest.fixture
def quiet():
    """No warning at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_every_odd_picture_is_read_as_it_looks(tmp_path):
    colours = write_good(tmp_path / "train" / "odd")
    classes(tmp_path / "test", names=("odd",))
    train, _ = load_folder(tmp_path, image_size=28)
    assert len(train) == len(GOOD)
    for path, image in zip(train.paths, train.images, strict=True):
        colour = colours[os.fsencode(path.name)]
        if colour is not None:
            assert image[:, 16, 16].tolist() == pytest.approx(list(colour), abs=30), path
        if path.name == "turned.jpg":
            assert image[:, 3].float().mean() < 20 < 235 < image[:, -3].float().mean()


def test_every_bad_picture_is_named_with_what_is_wrong(tmp_path):
    classes(tmp_path)
    said = write_bad(tmp_path / "bees")
    with pytest.raises(UnreadableImages) as caught:
        load_folder(tmp_path, image_size=28)
    message = str(caught.value)
    assert f"{len(said)} of {len(said) + 6} images cannot be read; repair or remove them" in message
    for path, part in said.items():
        (line,) = [line for line in message.splitlines() if line.startswith(f"  {path} (")]
        assert part in line, line
    assert "/0.png" not in message
    assert len(BAD) + 2 == len(said)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    bad = {name: make for name, make, _ in BAD}
    classes(tmp_path)
    (tmp_path / "ants" / "bomb.png").write_bytes(bad["bomb.png"]())
    (tmp_path / "ants" / "large.png").write_bytes(bad["large.png"]())
    monkeypatch.setattr(decode, "to_rgb", lambda picture: _decoded(picture, picture.size))
    with pytest.raises(
        UnreadableImages, match=r"(?s)bomb\.png \(ImageTooLarge: 400,000,000 pixels.*large\.png"
    ):
        load_folder(tmp_path, image_size=28)


def _decoded(picture, size):
    assert size[0] * size[1] <= decode.MOST_PIXELS, "decoded all the same"
    return picture.convert("RGB")


def test_a_pipe_and_a_socket_named_like_pictures_keep_nobody_waiting(tmp_path):
    classes(tmp_path)
    os.mkfifo(tmp_path / "ants" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        place = Path.cwd()
        os.chdir(tmp_path / "ants")
        try:
            server.bind("socket.png")
        finally:
            os.chdir(place)
        train, test = load_folder(tmp_path, image_size=28)
    assert len(train) + len(test) == 6
    assert "OSError" in decode.read_image(tmp_path / "ants" / "pipe.png", 32)


@pytest.mark.parametrize("target", [".", "..", "../../", "../ants"])
def test_links_to_folders_that_lead_in_circles_end(tmp_path, target):
    root = classes(tmp_path / "photos")
    (root / "bees" / "more").symlink_to(target, target_is_directory=True)
    with pytest.warns(UserWarning, match=r"links to folders inside a class are not followed: '.*more'"):
        train, test = load_folder(root, image_size=28)
    assert len(train) + len(test) == 6


@pytest.mark.parametrize(("name", "target"), [("all", "."), ("wasps", "bees")])
def test_a_class_that_is_a_link_to_other_classes_is_reported(tmp_path, name, target):
    root = classes(tmp_path / "photos", count=6)
    (root / name).symlink_to(target, target_is_directory=True)
    with pytest.warns(DuplicatesWarning, match="training images .* are also in another class"):
        load_folder(root, image_size=28)


def test_links_to_files_and_to_class_folders_elsewhere_count(tmp_path, quiet):
    root, other = (
        classes(tmp_path / "photos", names=("ants",)),
        classes(tmp_path / "other", names=("wasps",), first=1),
    )
    (root / "wasps").symlink_to(other / "wasps", target_is_directory=True)
    (other / "more.png").write_bytes(encoded(plain(colour=(1, 2, 3)), "PNG"))
    (root / "ants" / "linked.png").symlink_to(other / "more.png")
    train, test = load_folder(root, image_size=28)
    assert len(train) + len(test) == 7


def test_one_class_can_be_looked_at_and_not_learned(tmp_path):
    root = classes(tmp_path / "photos", names=("ants",))
    assert load_folder(root, image_size=28)[0].classes == ["ants"]
    with pytest.raises(ValueError, match="has one class, 'ants': cross-entropy .* needs at least two"):
        load_dataset(root, image_size=28)


def test_an_empty_class_is_named_with_what_was_looked_for(tmp_path):
    root = classes(tmp_path / "photos")
    (root / "wasps").mkdir()
    (root / "wasps" / "notes.txt").write_text("none yet")
    with pytest.raises(ValueError, match=r"no images \(\.jpg .*\) in 'wasps' of '.*photos'"):
        load_folder(root)


def test_pictures_of_no_class_are_told(tmp_path):
    root = classes(tmp_path / "photos")
    (root / "stray.jpg").write_bytes(b"x")
    with pytest.warns(
        UserWarning, match="images without a class, beside the class folders of .*: 'stray.jpg'"
    ):
        load_folder(root, image_size=28)


def test_a_file_in_place_of_a_folder_is_told(tmp_path):
    file = tmp_path / "photos.zip"
    file.write_bytes(b"PK")
    for load in (load_folder, load_dataset):
        with pytest.raises(NotADirectoryError, match=r"photos\.zip' is a file: give .*folder"):
            load(file)


def test_classes_whose_names_are_no_utf8_train_and_are_written_down(tmp_path, capsys):
    root = classes(tmp_path / "photos", names=("plain",))
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")).mkdir()
    for file in (classes(tmp_path / "b", names=("b",), first=1) / "b").iterdir():
        file.rename(Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")) / file.name)
    recipe = lab.Recipe(
        dataset=root,
        backbone="mini",
        weights="random",
        image_size=32,
        iterations=2,
        batch_size=2,
        snapshots=0,
    )
    for _ in lab.fit(recipe, tmp_path / "runs", device="cpu"):
        pass
    assert load_dataset(root, image_size=28)[0].classes == ["caf\\xe9", "plain"]
    assert main(["runs", str(tmp_path / "runs")]) in (None, 0)
    assert recipe.hash() in capsys.readouterr().out


def test_copies_across_train_and_test_are_reported_with_what_they_mean(tmp_path):
    train, test = classes(tmp_path / "train"), classes(tmp_path / "test", first=2)
    # Once as the same bytes, once as the same pixels in another format.
    (test / "ants" / "copy.png").write_bytes((train / "ants" / "1.png").read_bytes())
    (test / "bees" / "copy.bmp").write_bytes(encoded(plain(colour=(200, 20, 40)), "BMP"))
    with pytest.warns(DuplicatesWarning, match="2 of 8 test images .* are also training images") as told:
        load_folder(tmp_path, image_size=28)
    (message,) = [str(each.message) for each in told]
    assert "'train/ants/1.png' = 'test/ants/copy.png'" in message
    assert "'train/bees/2.png' = 'test/bees/copy.bmp'" in message
    assert "Up to 25.0 of 100 points" in message
    assert told[0].filename == __file__


def test_copies_in_two_classes_are_reported_and_copies_within_one_are_not(tmp_path, recwarn):
    train = classes(tmp_path / "train")
    classes(tmp_path / "test", 1)
    for file in (tmp_path / "test").rglob("*.png"):
        file.write_bytes(
            encoded(plain(colour=(9, 9, len(file.parent.name) + (file.parent.name == "bees"))), "PNG")
        )
    (train / "ants" / "again.png").write_bytes((train / "ants" / "0.png").read_bytes())
    load_folder(tmp_path, image_size=28)
    assert not recwarn.list
    (train / "bees" / "ant.png").write_bytes((train / "ants" / "2.png").read_bytes())
    with pytest.warns(DuplicatesWarning, match="1 of 8 training images .* are also in another class") as told:
        load_folder(tmp_path, image_size=28)
    assert "'train/ants/2.png' = 'train/bees/ant.png'" in str(told[0].message)
    assert len(told) == 1


def test_duplicates_are_those_that_comparing_all_with_all_finds():
    generator = torch.Generator().manual_seed(0)
    for side in (1, 5, 32, 73):
        pictures = torch.randint(0, 2, (12, 3, side, side), generator=generator, dtype=torch.uint8)
        pictures[[3, 7]] = pictures[0].clone()
        pictures[9] = pictures[1]
        pictures[9, 2, -1, -1] += 1
        equal = {(i, j) for i in range(12) for j in range(i) if torch.equal(pictures[i], pictures[j])}
        found = {
            (i, j)
            for rows in find_duplicates(pictures[:5], pictures[5:])
            for i in rows
            for j in rows
            if j < i
        }
        assert found == equal


def test_more_pictures_than_memory_holds_are_refused_before_any_is_read(tmp_path, monkeypatch):
    root = classes(tmp_path / "photos")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9_000))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=1_000))
    monkeypatch.setattr(decode, "read_image", lambda *_: pytest.fail("a picture was read"))
    with pytest.raises(ValueError, match=r"6 images of 32×32 need .* \(18,432 bytes\), .*: give per_class"):
        load_folder(root, image_size=28)


def test_a_folder_of_100_000_pictures_is_listed_once(tmp_path, monkeypatch):
    root = classes(tmp_path / "photos", names=("ants", "bees"))
    for name in ("ants", "bees"):
        for i in range(50_000):
            os.link(root / name / f"{i % 3}.png", root / name / f"{i:06d}.png")
    scans, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scans.append(str(path)) or scan(path))
    read, one = [], decode.read_image
    monkeypatch.setattr(decode, "read_image", lambda file, side: read.append(file) or one(file, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuplicatesWarning)
        train, test = load_folder(root, per_class=2, test_per_class=1, image_size=28)
    assert (len(train), len(test), len(read)) == (4, 2, 6)
    once = sorted([str(root), str(root / "ants"), str(root / "bees")])
    assert sorted(scans) == once
    scans.clear()
    recipe = lab.Recipe(
        dataset=root, backbone="mini", weights="random", per_class=4, test_per_class=1, image_size=32, batch_size=2,
        iterations=2, snapshots=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuplicatesWarning)
        next(lab.fit(recipe, tmp_path / "runs", device="cpu"))
    assert sorted(scan for scan in scans if scan.startswith(str(root))) == once


def test_odd_pictures_are_uploaded_or_named_and_nothing_reaches_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = [(name, make()) for name, make, _ in BAD]
    good = [
        (os.fsdecode(name), make()) for name, make, _ in GOOD if name not in ("two by two.png", "long.png")
    ]
    for name, content in good:
        told = ImageBatch.from_uploads([{"name": name, "size": len(content), "content": content}], 32)
        assert told.images.shape == (1, 3, 32, 32)
    for name, content in [*bad, ("../../etc/passwd", b"x"), ("large.png", bytes(20_000_001))]:
        with pytest.raises(ExplorerError) as caught:
            ImageBatch.from_uploads([{"name": name, "size": len(content), "content": content}], 32)
        assert repr(name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_fuzzed_bytes_never_escape_as_anything_but_a_named_file(tmp_path):
    """Single bytes of every good file changed, cut and doubled: read or named, never another error."""
    random = np.random.RandomState(0)
    file = tmp_path / "fuzzed"
    read = named = 0
    for _, make, _ in GOOD:
        content = make()
        for _ in range(30):
            body = bytearray(content)
            for place in random.randint(0, len(body), random.randint(1, 6)):
                body[place] = random.randint(0, 256)
            cut = random.randint(1, len(body) + 1) if random.rand() < 0.3 else len(body)
            file.write_bytes(bytes(body[:cut]))
            found = decode.read_image(file, 32)
            if isinstance(found, str):
                named += 1
                assert found
                assert "\n" not in found
            else:
                read += 1
                assert found.shape == (3, 32, 32)
                assert found.dtype == np.uint8
    assert read > 50
    assert named > 50
