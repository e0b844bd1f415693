"""Published images are decoded once to a file that all processes map; colours come out as they were."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from spgca_lab.data import decode
from spgca_lab.data import load as module
from spgca_lab.data.decode import UnreadableImages, read_image
from spgca_lab.data.load import decode_once

REPO = Path(__file__).resolve().parents[1]
SIDE = 24


@pytest.fixture
def photos(tmp_path):
    """Forty small images of one colour each, and their names."""
    names = []
    for i in range(40):
        names.append(f"{i:02d}.png")
        Image.new("RGB", (30, 20), (i, 2 * i, 255 - i)).save(tmp_path / names[-1])
    return names


def send_request(names, root):
    return decode_once(names, root, root / "decoded", "them", SIDE, "look at them", progress=False)


def expected(names):
    colours = [(int(n[:2]), 2 * int(n[:2]), 255 - int(n[:2])) for n in names]
    return np.array(colours, dtype=np.uint8)[:, :, None, None].repeat(SIDE, 2).repeat(SIDE, 3)


def maps(root):
    return [file.name for file in (root / "decoded").iterdir() if not file.name.startswith(".")]


def test_images_are_decoded_once_and_then_mapped(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "BATCH", 16)
    assert (send_request(photos, tmp_path) == expected(photos)).all()
    monkeypatch.setattr(module, "read_images", lambda *_: pytest.fail("decoded a second time"))
    again = send_request(photos, tmp_path)
    assert isinstance(again, np.memmap)
    assert (again.dtype, again.shape) == (np.uint8, (40, 3, SIDE, SIDE))
    again[0] = 7  # this process's own
    assert (send_request(photos, tmp_path) == expected(photos)).all()


def test_other_images_make_another_map(photos, tmp_path):
    send_request(photos, tmp_path)
    Image.new("RGB", (31, 20), (9, 9, 9)).save(tmp_path / photos[3])
    changed = (tmp_path / photos[3]).read_bytes()
    (tmp_path / photos[3]).write_bytes(changed + b"\0")  # another size for certain
    assert (send_request(photos, tmp_path)[3] == 9).all()
    assert send_request(photos[:5], tmp_path).shape == (5, 3, SIDE, SIDE)
    assert len(maps(tmp_path)) == 1, "outdated maps are deleted"


CHILD = """
import time
from pathlib import Path
from spgca_lab.data import load
read = load.read_images
def slowly(files, side):
    for image in read(files, side):
        with open("read.log", "a") as log:
            log.write("x")
        if len(Path("read.log").read_text()) == {stop}:
            Path("stuck").touch()
            time.sleep(600)
        yield image
load.read_images = slowly
names = sorted(path.name for path in Path(".").glob("*.png"))
print(int(load.decode_once(names, Path("."), Path("decoded"), "them", {side}, "", progress=False).sum()))
"""


def child(root, stop=-1):
    command = [sys.executable, "-c", CHILD.format(stop=stop, side=SIDE)]
    return subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(REPO)}
    )


def test_a_killed_process_leaves_no_map_and_the_next_makes_it(photos, tmp_path):
    killed = child(tmp_path, stop=20)
    end = time.monotonic() + 120
    while not (tmp_path / "stuck").exists():
        assert time.monotonic() < end
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert [name for name in maps(tmp_path) if name.endswith(".npy")] == []
    assert (send_request(photos, tmp_path) == expected(photos)).all()
    assert len(maps(tmp_path)) == 1


def test_processes_that_ask_together_decode_once(photos, tmp_path):
    both = [child(tmp_path) for _ in range(2)]
    assert {int(p.communicate(timeout=120)[0]) for p in both} == {int(expected(photos).sum())}
    assert len((tmp_path / "read.log").read_text()) == len(photos)


def test_a_full_disk_is_reported_before_anything_is_decoded(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="40 decoded images need 0.1 MiB, 0.0 MiB are free"):
        send_request(photos, tmp_path)
    assert maps(tmp_path) == []


def test_every_unreadable_image_is_named_and_no_map_is_made(photos, tmp_path):
    (tmp_path / photos[1]).write_bytes(b"")
    (tmp_path / photos[30]).write_text("no image")
    (tmp_path / photos[31]).write_bytes((tmp_path / photos[31]).read_bytes()[:40])
    with pytest.raises(UnreadableImages, match="3 of 40 images cannot be read; look at them") as caught:
        send_request(photos, tmp_path)
    for i in (1, 30, 31):
        assert photos[i] in str(caught.value)
        Image.new("RGB", (30, 20), (i, 2 * i, 255 - i)).save(tmp_path / photos[i])
    assert "01.png (empty file)" in str(caught.value)
    assert (send_request(photos, tmp_path) == expected(photos)).all()


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "I;16", "1"])
def test_colours_survive_every_mode(tmp_path, mode):
    grey = mode in ("L", "I;16", "1")
    wanted = (255, 255, 255) if mode == "1" else (120, 120, 120) if grey else (200, 40, 90)
    image = Image.new("RGB", (16, 12), wanted)
    file = tmp_path / f"picture{'.jpg' if mode in ('L', 'CMYK') else '.png'}"
    deep = Image.fromarray(np.full((12, 16), 120 * 257, dtype=np.uint16))
    image = deep if mode == "I;16" else image.convert(mode)
    image.save(file, quality=95) if mode in ("L", "CMYK") else image.save(file)
    with Image.open(file) as kept:
        assert kept.mode == mode
    read = read_image(file, 8)
    assert not isinstance(read, str), read
    # JPEG and a palette's dithering scatter around the colour.
    assert np.abs(read.reshape(3, -1).mean(axis=1) - wanted).max() <= 4


def test_sixteen_bits_of_a_pgm_are_brought_to_eight(tmp_path):
    Image.fromarray(np.full((6, 6), 120 * 257, dtype=np.uint16)).save(tmp_path / "deep.pgm", "PPM")
    assert (read_image(tmp_path / "deep.pgm", 4) == 120).all()


def test_the_content_decides_and_not_the_name(tmp_path):
    Image.new("RGB", (9, 9), (10, 200, 30)).save(tmp_path / "png.jpg", "PNG")
    Image.new("P", (9, 9), 0).save(tmp_path / "gif.jpg", "GIF")
    assert (read_image(tmp_path / "png.jpg", 4)[1] == 200).all()
    assert not isinstance(read_image(tmp_path / "gif.jpg", 4), str)
