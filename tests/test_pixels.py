"""The memory map of decoded pictures: decoded once, resumed, shared, verified, and colours as they were."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spgca_lab.data import pixels as module
from spgca_lab.data.decode import read_picture
from spgca_lab.data.pixels import PixelsError, decoded

REPO = Path(__file__).resolve().parents[1]
SIDE = 24


@pytest.fixture
def photos(tmp_path):
    """Forty small pictures of one colour each, and their names."""
    names = []
    for i in range(40):
        names.append(f"{i:02d}.png")
        Image.new("RGB", (30, 20), (i, 2 * i, 255 - i)).save(tmp_path / names[-1])
    return names


def ask(names, root, **options):
    settings = {"name": "them", "remedy": "look at them", "progress": False} | options
    return decoded(names, root, root / "decoded", SIDE, **settings)


def expected(names):
    colours = [(int(n[:2]), 2 * int(n[:2]), 255 - int(n[:2])) for n in names]
    return np.array(colours, dtype=np.uint8)[:, :, None, None].repeat(SIDE, 2).repeat(SIDE, 3)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    monkeypatch.setattr(module, "_VERIFIED", set())


def test_pictures_are_decoded_once_and_then_mapped(photos, tmp_path, monkeypatch):
    assert (ask(photos, tmp_path) == expected(photos)).all()
    monkeypatch.setattr(module, "read_pictures", lambda *_: pytest.fail("decoded a second time"))
    again = ask(photos, tmp_path)
    assert (again == expected(photos)).all()
    assert isinstance(again, np.memmap)
    again[0] = 7  # this process's own
    assert (ask(photos, tmp_path) == expected(photos)).all()


def test_other_pictures_make_another_map(photos, tmp_path):
    ask(photos, tmp_path)
    Image.new("RGB", (31, 20), (9, 9, 9)).save(tmp_path / photos[3])
    with Image.open(tmp_path / photos[3]) as changed:
        assert changed.size == (31, 20)
    (tmp_path / photos[3]).write_bytes(
        (tmp_path / photos[3]).read_bytes() + b"\0"
    )  # another size for certain
    assert (ask(photos, tmp_path)[3] == 9).all()
    assert ask(photos[:5], tmp_path).shape == (5, 3, SIDE, SIDE)


CHILD = """
import sys, time
from pathlib import Path
from spgca_lab.data import pixels
pixels.CHUNK = 8
read = pixels.read_pictures
def slowly(files, side):
    for picture in read(files, side):
        with open("read.log", "a") as log:
            log.write("x")
        if len(Path("read.log").read_text()) == {stop}:
            Path("stuck").touch()
            time.sleep(600)
        yield picture
pixels.read_pictures = slowly
names = sorted(path.name for path in Path(".").glob("*.png"))
print(int(pixels.decoded(names, Path("."), Path("decoded"), {side}, name="them", remedy="", progress=False).sum()))
"""


def child(root, stop):
    command = [sys.executable, "-c", CHILD.format(stop=stop, side=SIDE)]
    return subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(REPO)}
    )


def test_a_killed_process_leaves_whole_chunks_and_the_next_goes_on(photos, tmp_path):
    killed = child(tmp_path, stop=20)  # in the third of five chunks
    end = time.monotonic() + 120
    while not (tmp_path / "stuck").exists():
        assert time.monotonic() < end
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    sums = json.loads((tmp_path / "decoded" / "them-24.json").read_text())["sums"]
    assert [s is not None for s in sums] == [True, True, False, False, False]
    (tmp_path / "read.log").unlink()
    resumed = child(tmp_path, stop=-1)
    assert int(resumed.communicate(timeout=120)[0]) == int(expected(photos).sum())
    assert len((tmp_path / "read.log").read_text()) == 24, "the last three chunks and no more"


def test_processes_that_ask_together_decode_once(photos, tmp_path):
    both = [child(tmp_path, stop=-1) for _ in range(2)]
    assert {int(p.communicate(timeout=120)[0]) for p in both} == {int(expected(photos).sum())}
    assert len((tmp_path / "read.log").read_text()) == len(photos)


def test_a_damaged_map_is_noticed_told_and_healed(photos, tmp_path, monkeypatch):
    ask(photos, tmp_path)
    file = tmp_path / "decoded" / "them-24.u8"
    body = bytearray(file.read_bytes())
    body[12 * 3 * SIDE * SIDE] ^= 1
    file.write_bytes(body)
    monkeypatch.setattr(module, "_VERIFIED", set())
    with pytest.warns(UserWarning, match=r"them-24\.u8' is damaged in 1 of 5 chunks"):
        healed = ask(photos, tmp_path)
    assert (healed == expected(photos)).all()
    record = json.loads((tmp_path / "decoded" / "them-24.json").read_text())
    assert record["sums"][1] == hashlib.sha256(healed[8:16].tobytes()).hexdigest()
    file.write_bytes(file.read_bytes()[:-5])
    assert (ask(photos, tmp_path) == expected(photos)).all(), "cut short: decoded anew"


def test_every_unreadable_picture_is_named_and_nothing_is_finished(photos, tmp_path):
    (tmp_path / photos[1]).write_bytes(b"")
    (tmp_path / photos[30]).write_text("no picture")
    (tmp_path / photos[31]).write_bytes((tmp_path / photos[31]).read_bytes()[:40])
    with pytest.raises(PixelsError, match="3 of 40 pictures cannot be read; look at them") as caught:
        ask(photos, tmp_path)
    for i in (1, 30, 31):
        assert photos[i] in str(caught.value)
    assert "01.png (empty file)" in str(caught.value)
    for i in (1, 30, 31):
        Image.new("RGB", (30, 20), (i, 2 * i, 255 - i)).save(tmp_path / photos[i])
    assert (ask(photos, tmp_path) == expected(photos)).all()


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "I;16", "1"])
def test_colours_survive_every_mode(tmp_path, mode):
    grey = mode in ("L", "I;16", "1")
    wanted = (255, 255, 255) if mode == "1" else (120, 120, 120) if grey else (200, 40, 90)
    picture = Image.new("RGB", (16, 12), wanted)
    file = tmp_path / f"picture{'.jpg' if mode in ('L', 'CMYK') else '.png'}"
    if mode == "I;16":
        picture = Image.fromarray(np.full((12, 16), 120 * 257, dtype=np.uint16))
    else:
        picture = picture.convert(mode)
    picture.save(file, quality=95) if mode in ("L", "CMYK") else picture.save(file)
    with Image.open(file) as kept:
        assert kept.mode == mode
    read = read_picture(file, 8)
    assert not isinstance(read, str), read
    # JPEG and a palette's dithering scatter around the colour.
    assert np.abs(read.reshape(3, -1).mean(axis=1) - wanted).max() <= 4


def test_sixteen_bits_of_a_pgm_are_brought_to_eight(tmp_path):
    Image.fromarray(np.full((6, 6), 120 * 257, dtype=np.uint16)).save(tmp_path / "deep.pgm", "PPM")
    assert (read_picture(tmp_path / "deep.pgm", 4) == 120).all()


def test_the_content_decides_and_not_the_name(tmp_path):
    Image.new("RGB", (9, 9), (10, 200, 30)).save(tmp_path / "png.jpg", "PNG")
    Image.new("P", (9, 9), 0).save(tmp_path / "gif.jpg", "GIF")
    assert (read_picture(tmp_path / "png.jpg", 4)[1] == 200).all()
    assert not isinstance(read_picture(tmp_path / "gif.jpg", 4), str)
