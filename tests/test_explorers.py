"""What every explorer does: state, view, errors, closing, saving, and the parts they are made of."""

import gc
import re
import weakref
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import spgca_lab as lab
from spgca_lab.explorers import Explorer, ExplorerError, State, base
from spgca_lab.explorers.as_code import explorer_call, recipe_source, value_source
from spgca_lab.explorers.base import Ticker
from spgca_lab.explorers.controls import check_index, slider
from spgca_lab.explorers.images import THUMBNAILS, UPLOADED, ImageBatch, ImageStrip
from spgca_lab.plots import LabFigure
from tests.explorers import said, upload, words


@dataclass(frozen=True)
class Number(State):
    n: int = 1
    m: int = 0


class Numbers(Explorer[Number]):
    """A small explorer of a reader's own."""

    about = "A number"

    def __init__(self, state=None, name=None):
        self.drawn = []
        super().__init__(state or Number(2), 1)

    def controls(self):
        self.n = self.bind(slider("n", 5, tip="n"), "n")
        return [self.n]

    def check(self, state):
        check_index("n", state.n, 6)

    def figure(self, state=None):
        state = state or self.state
        if state.n == 5:
            raise RuntimeError("no <b>five</b>")
        self.drawn.append(state.n)
        figure = LabFigure(figsize=(9, 1))
        figure.text(0.5, 0.5, str(state.n))
        return figure

    def status(self, state):
        return f"n = {state.n}"

    def caption(self, state):
        return f"This is <{state.n}>."


def test_explorers_are_small_views_that_anyone_can_write():
    explorer = Numbers()
    assert explorer.n.value == 2
    explorer.n.value = 4
    assert "n = 4" in words(explorer)
    assert [t.get_text() for t in explorer.figure().texts] == ["4"]
    assert "This is &lt;4&gt;." in said(explorer)
    assert 'alt="A number: This is &lt;4&gt;."' in explorer.image.value


def test_going_back_needs_no_drawing_and_reset_goes_to_the_first():
    explorer = Numbers()
    explorer.n.value = 3
    explorer.n.value = 2
    explorer.n.value = 3
    assert explorer.drawn == [2, 3]
    explorer.show(m=7)
    explorer.reset_button.click()
    assert explorer.state == Number(2)
    assert explorer.n.value == 2


def test_errors_are_said_escaped_and_the_last_picture_stays():
    explorer = Numbers()
    last, line = explorer.image.png, said(explorer)
    explorer.n.value = 5
    assert "RuntimeError: no &lt;b&gt;five&lt;/b&gt;" in words(explorer)
    assert (explorer.image.png, said(explorer)) == (last, line)
    explorer.n.value = 1
    assert "n = 1" in words(explorer)
    with pytest.raises(ExplorerError, match="n must be a whole number from 0 to 5, got 9"):
        explorer.show(n=9)
    assert explorer.state.n == 1
    with pytest.raises(ExplorerError, match=r"Number has no 'k'; its values are n, m"):
        explorer.show(k=1)


def test_save_figure_writes_both_files_and_says_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer = Numbers()
    explorer.save_button.click()
    png, svg = sorted((tmp_path / "figures").iterdir())
    assert Image.open(png).size == (1800, 200)
    assert "<svg" in svg.read_text()
    assert ">2<" in svg.read_text()
    assert png.stem in explorer.saved_line.value
    assert 'download="' in explorer.saved_line.value
    before = (png.read_bytes(), svg.read_bytes())
    explorer.save_button.click()
    assert (png.read_bytes(), svg.read_bytes()) == before
    explorer.n.value = 1
    assert explorer.saved_line.value == ""
    (tmp_path / "figures" / "x").write_text("")
    monkeypatch.setattr(explorer, "save_figure", lambda: (tmp_path / "figures" / "x" / "y").mkdir())
    explorer.save_button.click()
    assert "NotADirectoryError" in explorer.saved_line.value


def test_a_cell_that_runs_again_closes_what_it_made_before(monkeypatch):
    parent = {"metadata": {"cellId": "one"}, "header": {"msg_id": "1"}}
    shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda channel: parent))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(base, "_cells", {})
    first, beside = Numbers(), Numbers()
    assert first.comm is not None
    assert beside.comm is not None
    parent["header"]["msg_id"] = "2"
    second = Numbers()
    assert first.comm is None
    assert beside.comm is None
    assert second.comm is not None
    parent["metadata"] = {"cellId": "two"}
    third = Numbers()
    parent["metadata"] = {}
    fourth = Numbers()
    assert all(explorer.comm is not None for explorer in (second, third, fourth))
    assert repr(first) == "Numbers(closed)"
    assert first._repr_mimebundle_() == {"text/plain": "Numbers(closed)"}


def test_a_closed_explorer_holds_nothing():
    explorer = Numbers()
    explorer.weight = torch.nn.Linear(2, 2)
    held = weakref.ref(explorer.weight)
    explorer.close()
    gc.collect()
    assert held() is None


def test_many_moves_and_many_explorers_leave_memory_flat():
    """Objects, not megabytes: what stays alive after the caches are full must not grow with use."""
    explorer = Numbers()

    def alive():
        gc.collect()
        return len(gc.get_objects())

    def use(times):
        for i in range(times):
            explorer.n.value = (0, 1, 3, 4)[i % 4]
            Numbers().close()

    use(60)
    before = alive()
    use(200)
    assert alive() - before < 400


def test_pages_without_widgets_show_the_picture():
    bundle = Numbers()._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].startswith("Numbers(Number(n=2")


def test_code_spells_what_it_can_and_names_what_is_the_reader_s_own():
    recipe = lab.Recipe(method="gca", alpha=1.0, scale="afa", r=8)
    assert eval(recipe_source(recipe)) == recipe
    scaled = lab.Recipe(method="afa", backbone="lite0", dataset="a 'b'", scale="literal", alpha=(1.0, 2.0))
    assert eval(recipe_source(scaled)) == scaled
    assert value_source([lab.RunStore("a"), (1,)], "x") == "[lab.RunStore('a'), (1,)]"
    code = explorer_call("Numbers", {"name": object(), "other": None}, {})
    assert "# name: the objects of your own" in code
    assert "lab.explorers.Numbers(name=name)" in code


# --- pictures of one's own


def png(path, wide, high):
    Image.new("RGB", (wide, high), "orange").save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"no picture", "'notes.txt' is not an image that can be read"),
        ("empty.png", b"", "'empty.png' is not an image that can be read"),
        ("large.png", b"0" * 20_000_001, "'large.png' has 20 MB; at most 20"),
    ],
)
def test_uploads_that_are_no_pictures(name, content, message):
    with pytest.raises(ExplorerError, match=re.escape(message)):
        ImageBatch.from_uploads([upload(name, content)], 32)


def test_uploads_of_a_few_pixels_and_of_too_many(tmp_path, monkeypatch):
    small = upload("dot.png", png(tmp_path / "a.png", 3, 3))
    with pytest.raises(
        ExplorerError, match=re.escape("'dot.png' has 3 × 3 pixels; an image needs at least 16")
    ):
        ImageBatch.from_uploads([small], 32)
    monkeypatch.setattr("spgca_lab.explorers.images.MOST_PIXELS", 1000)
    with pytest.raises(ExplorerError, match=re.escape("has 40 × 30 pixels; at most 1,000 in all")):
        ImageBatch.from_uploads([upload("b.png", png(tmp_path / "b.png", 40, 30))], 32)
    with pytest.raises(ExplorerError, match="choose images first"):
        ImageBatch.from_uploads([], 32)


def test_uploads_become_the_network_s_input(tmp_path):
    found = ImageBatch.from_uploads([upload("x.png", png(tmp_path / "x.png", 50, 40))], 32)
    assert found.images.shape == (1, 3, 32, 32)
    assert found.images[0, :, 16, 16].tolist() == [255, 165, 0]
    assert found.names == ["x.png"]


def test_folders_of_many_pictures_are_thinned_evenly(tmp_path):
    for i in range(9):
        Image.new("RGB", (20, 20), (i, i, i)).save(tmp_path / f"{i}.png")
    assert ImageBatch.from_folder(tmp_path, 8, most=3).names == ["0.png", "4.png", "8.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExplorerError, match="no images"):
        ImageBatch.from_folder(tmp_path / "empty", 8)
    (tmp_path / "9.jpg").write_bytes(b"no picture")
    with pytest.raises(ExplorerError, match=r"9\.jpg' is not an image that can be read"):
        ImageBatch.from_folder(tmp_path, 8)
    with pytest.raises(ExplorerError, match="there is no folder"):
        ImageBatch.from_folder(tmp_path / "none", 8)


def test_the_strip_shows_a_window_around_the_chosen_picture():
    clicked, placed = [], []
    strip = ImageStrip(clicked.append, placed.append)
    many = ImageBatch(torch.zeros(30, 3, 8, 8, dtype=torch.uint8), [f"p{i}" for i in range(30)])
    strip.show(many, 0, "")
    assert [thumb.tooltip for thumb in strip.thumbs][:2] == ["image 0: p0", "image 1: p1"]
    look = strip.style_sheet.value
    strip.show(many, 3, "")
    assert strip.style_sheet.value == look  # nothing is sent again while the window stays
    strip.show(many, 20, "")
    strip.thumbs[0].click()
    assert clicked == [20 - THUMBNAILS // 2]
    few = ImageBatch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["a", "b"])
    strip.show(few, 1, "somewhere")
    assert [thumb.layout.visibility for thumb in strip.thumbs].count("visible") == 2
    assert strip.place.value == "somewhere"
    assert placed == []
    strip.place.value = " elsewhere "
    strip.upload.value = (upload("a.png", b"..."),)
    assert placed == ["elsewhere", UPLOADED]
    assert strip.uploads[0]["name"] == "a.png"


def test_the_ticker_calls_between_cells_and_ends_with_its_owner():
    import asyncio

    class Owner:
        count = 0

        def tick(self):
            self.count += 1

    async def watch():
        owner = Owner()
        ticker = Ticker(owner, "tick", 0.001)
        assert ticker.start()
        assert ticker.start()
        while owner.count < 3:
            await asyncio.sleep(0.001)
        ticker.stop()
        seen = owner.count
        await asyncio.sleep(0.02)
        assert owner.count == seen
        ticker.start()
        del owner
        while ticker.running:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(watch(), 20))
    assert Ticker(Owner(), "tick", 1).start() is False
