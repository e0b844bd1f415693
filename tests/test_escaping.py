"""Words from outside (classes, files, folders, methods, errors) are shown as words: never as HTML, code or formulas."""

import ast
import dataclasses
import json
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image

import spgca_lab as lab
from spgca_lab.explorers import (
    AttentionExplorer,
    FeatureMapExplorer,
    LossExplorer,
    MethodComparison,
    RunExplorer,
    TrainingMonitor,
)
from spgca_lab.explorers.controls import alert_html, dropdown, paragraph_html, table_html, text_field
from spgca_lab.plots.style import to_svg
from tests.explorers import every_widget, pictures, upload

pytestmark = pytest.mark.usefixtures("one_thread")

# A formula that is none, a picture that runs a script, the end of an attribute, an entity that is no entity.
EVIL = """$\\frac{$<img src=x onerror=alert(1)>"'><script>&amp;"""
OURS = {
    "a": {"download", "href"},
    "br": set(),
    "div": {"role", "style"},
    "img": {"alt", "decoding", "height", "src", "style", "width"},
    "span": {"title"},
    "style": set(),
    "table": {"style"},
    "td": {"colspan", "style"},
    "th": {"style"},
    "tr": set(),
}
SMALL = {
    "backbone": "mini",
    "weights": "random",
    "image_size": 32,
    "per_class": 1,
    "test_per_class": 1,
    "iterations": 2,
    "batch_size": 2,
    "evaluations": 1,
    "snapshots": 2,
    "probe": 3,
    "seed": 0,
}
Mine = type(f"mine {EVIL}", (lab.SelfPixelAttention,), {"__module__": "__main__", "kind": "spatial"})


class Shown(HTMLParser):
    """What a browser makes of some HTML; words that became anything but words are an error."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert tag in OURS, f"<{tag}> is not of ours: {self.rawdata[:500]}"
        for name, value in attrs:
            assert name in OURS[tag], f"{name}= is not of ours: {self.rawdata[:500]}"
            if name in ("alt", "title"):
                self.words.append(value)
            elif name in ("src", "href"):
                assert value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")), value[:80]
            else:
                assert not any(part in value for part in ("onerror", "script", "frac", "alert(")), value

    def handle_data(self, data):
        if self.lasttag == "style":
            assert not any(part in data for part in ("onerror", "script", "frac")), data[:200]
        self.words.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment is not of ours: {data!r}")

    unknown_decl = handle_decl = handle_pi = handle_comment


def shown(markup: str) -> str:
    """The words of some HTML, which must hold no element or attribute but ours."""
    parser = Shown()
    parser.feed(markup)
    parser.close()
    return "".join(parser.words)


def seen(explorer) -> str:
    """All words on the page; every widget is looked at, and the figure is drawn."""
    words = []
    for widget in every_widget(explorer):
        # These two read formulas; and only an HTML widget's value is HTML without more ado.
        assert not isinstance(widget, widgets.HTMLMath | widgets.Label), widget
        if isinstance(widget, widgets.HTML):
            words.append(shown(widget.value))
            continue
        description = getattr(widget, "description", "") or ""
        html = getattr(widget, "description_allow_html", False)
        words.append(shown(description) if html else description)
        words += [str(getattr(widget, name, "") or "") for name in ("tooltip", "_options_labels")]
    # A figure's words are words in the file, too.
    for element in ElementTree.fromstring(to_svg(explorer.figure())).iter():
        assert element.tag.rsplit("}", 1)[-1] not in ("script", "img", "foreignObject", "a"), element.tag
        words.append(element.text or "")
    return "\n".join(words)


def runs_nothing(explorer) -> None:
    """Copy as code gives calls of the laboratory alone, whatever the words in them."""
    for node in ast.walk(ast.parse(explorer.code(explorer.state))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called.startswith(("lab.", "explorer.show", "range")), called


def well(explorer) -> str:
    """What is seen of an explorer that could draw all it was asked to."""
    assert 'role="alert"' not in explorer.status_line.value, explorer.status_line.value
    runs_nothing(explorer)
    return seen(explorer)


def files(folder, count=3):
    """Pictures in classes; classes and files have names that want to be HTML."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(count):
            place = folder / split / f"{i} {EVIL}"
            place.mkdir(parents=True)
            pixels = random.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
            for j in range(2):
                Image.fromarray(pixels[j]).save(place / f"file {j} {EVIL}.png")
    return folder


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A store in which every name that a reader can choose wants to be HTML."""
    home = tmp_path_factory.mktemp("evil")
    data = files(home / f"data {EVIL}")
    store = lab.RunStore(home / f"store {EVIL}")
    torch.set_num_threads(1)
    for method in ("spgca", "spa", "l2"):
        recipe = lab.Recipe(method=method, alpha=3.0, dataset=str(data), **SMALL)
        for _ in lab.fit(recipe, store, device="cpu"):
            pass
        folder = store[recipe].path
        # So that there are pictures on which methods disagree.
        answers = [(label, (label + (method == "l2")) % 3) for label in range(3)]
        lines = ["label,predicted", *(f"{label},{answer}" for label, answer in answers)]
        (folder / "predictions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        folder.rename(folder.with_name(f"{method} {EVIL}-{recipe.hash()}"))
    return store


@pytest.fixture
def source():
    made = lab.load_backbone("mini", weights="random")
    classes = [f"answer {EVIL}"] * made.model.fc.out_features
    return dataclasses.replace(made, name=f"net {EVIL}", classes=classes)


def named(count=3):
    """Pictures whose class names want to be HTML."""
    made = pictures(count)
    return dataclasses.replace(made, classes=[f"{i} {EVIL}" for i in range(count)])


def test_feature_maps_show_names_as_words(source, evil, tmp_path):
    explorer = FeatureMapExplorer(source, named())
    words = well(explorer)
    for word in (f"image 0: 0 {EVIL}", f"S predicts answer {EVIL}"):
        assert word in words, word
    folder = files(tmp_path / f"own {EVIL}")
    explorer.show(place=str(folder))
    assert f"image 0 of 12: test/0 {EVIL}/file 0 {EVIL}.png" in well(explorer)
    words = well(FeatureMapExplorer(target=evil.find(method="spgca")[0]))
    assert any(f"T predicts {i} {EVIL}" in words for i in range(3))


def test_an_uploads_name_is_shown_as_words(source):
    explorer = FeatureMapExplorer(source, pictures())
    content = (np.zeros((40, 40, 3), dtype=np.uint8)).tobytes()
    explorer.strip.upload.value = (upload(f"broken {EVIL}.png", content),)
    assert f"broken {EVIL}.png" in seen(explorer).replace("\\\\", "\\").replace("\\'", "'")


def test_attention_shows_names_as_words(source, evil):
    explorer = AttentionExplorer(evil.find(method="spgca")[0])
    words = well(explorer)
    assert f"0 {EVIL}" in words
    nets = {f"own {EVIL}": torch.nn.Module.eval(lab.SelfPixelAttention.for_maps(_maps(source)))}
    explorer = AttentionExplorer(source, named(), attentions=nets)
    words = well(explorer)
    assert f"own {EVIL}: entropy" in words
    assert f"net {EVIL}" in words
    both = AttentionExplorer([*evil.find(method="spgca"), *evil.find(method="spa")])
    assert EVIL in well(both)


def _maps(source):
    return {tap: torch.zeros(1, *shape) for tap, shape in source.tap_shapes(32).items()}


def test_losses_show_names_as_words(source, evil):
    explorer = LossExplorer(lab.load_backbone("mini", weights="random"), named(8))
    well(explorer)
    explorer.show(method=Mine)
    assert f"mine {EVIL}" in well(explorer)
    explorer = LossExplorer(target=evil.find(method="spa")[0])
    assert EVIL in well(explorer)


def test_a_store_shows_names_as_words(evil, tmp_path):
    store = lab.RunStore(tmp_path / f"copy {EVIL}")
    shutil.copytree(evil.path, store.path)
    failed = evil.find(method="spa")[0].recipe.replace(seed=1)
    folder = store.path / f"failed {EVIL}-{failed.hash()}"
    folder.mkdir()
    (folder / "recipe.json").write_text(failed.to_json(), encoding="utf-8")
    (folder / "failure.json").write_text(json.dumps({"error": f"TrainingError: {EVIL}"}), encoding="utf-8")
    broken = store.path / f"broken {EVIL}"
    broken.mkdir()
    (broken / "recipe.json").write_text(json.dumps({EVIL: 1}), encoding="utf-8")
    explorer = RunExplorer(store)
    explorer.show(method="spa")
    words = well(explorer)
    for word in (f"0 {EVIL}", f"spa {EVIL}-", f"data {EVIL}", "1 not readable"):
        assert word in words, word
    explorer.show(method="spa", seed=1)
    words = well(explorer)
    assert f"failed: TrainingError: {EVIL}" in words
    explorer.poll()
    assert well(explorer) == words


def test_a_monitor_shows_names_as_words(evil, tmp_path):
    for method in ("spgca", "spa"):
        words = well(TrainingMonitor(evil.find(method=method)[0]))
        assert f"folder {method} {EVIL}-" in words
        assert f"data {EVIL}" in words
    folder = tmp_path / f"failed {EVIL}"
    folder.mkdir()
    recipe = evil.find(method="spa")[0].recipe.replace(seed=1)
    (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    (folder / "failure.json").write_text(json.dumps({"error": EVIL}), encoding="utf-8")
    monitor = TrainingMonitor(folder)
    assert f"The run failed. {EVIL}" in seen(monitor)
    monitor.close()


def test_a_folders_name_cannot_keep_a_monitor_from_saying_what_is_new(evil, tmp_path):
    folder = tmp_path / "role=alert"
    folder.mkdir()
    recipe = evil.find(method="spa")[0].recipe.replace(seed=1)
    (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    monitor = TrainingMonitor(folder)
    monitor.ticker.stop()
    assert "folder role=alert" in monitor.status_line.value
    monitor.status_line.value = monitor.status_line.value.replace("folder", "a folder of before,")
    monitor.poll()
    assert "of before" not in monitor.status_line.value
    monitor.close()


def test_a_comparison_shows_names_as_words(evil):
    explorer = MethodComparison(evil)
    words = well(explorer)
    assert f"data {EVIL}" in words
    # There is little room beside a picture.
    assert f"0 {EVIL}"[:14] in words


@pytest.mark.parametrize("name", [f"/no/such/{EVIL}", EVIL])
def test_an_error_quotes_a_folder_as_words(source, name):
    for explorer in (FeatureMapExplorer(source, pictures()), AttentionExplorer(source, pictures())):
        explorer.strip.place.value = name
        assert 'role="alert"' in explorer.status_line.value
        assert repr(name) in seen(explorer)
    explorer = LossExplorer("mini", pictures(8))
    explorer.place_text.value = name
    assert repr(name) in seen(explorer)
    explorer.own_text.value = name
    assert repr(name)[1:-1] in seen(explorer)


def test_where_a_figure_is_saved_is_shown_as_words(source, tmp_path, monkeypatch):
    folder = tmp_path / "figures"
    explorer = FeatureMapExplorer(source, named())
    monkeypatch.setattr(
        explorer, "save_figure", lambda: FeatureMapExplorer.save_figure(explorer, folder / EVIL)
    )
    explorer.save_button.click()
    assert f"Saved {folder / EVIL}" in seen(explorer)
    assert {file.suffix for file in (folder / EVIL).iterdir()} == {".png", ".svg"}


@pytest.mark.parametrize(
    "make",
    [paragraph_html, alert_html, lambda words: alert_html(OSError(words)), lambda w: table_html([w], [[w]])],
)
def test_every_piece_of_html_takes_words_as_words(make):
    assert EVIL in shown(make(EVIL))


@pytest.mark.parametrize(
    "make", [lambda w: dropdown(w, [], tip=w).description, lambda w: text_field(w, w, tip=w).description]
)
def test_a_name_with_a_tooltip_takes_words_as_words(make):
    assert shown(make(EVIL)) == EVIL * 2


@pytest.mark.parametrize(
    "markup",
    [
        "<img src=x onerror=alert(1)>",
        '<div title="x"></div>',
        "<script>alert(1)</script>",
        '<img alt="" src="http://elsewhere.example/x.png">',
        "<!-- -->",
        '<td style="onerror">',
    ],
)
def test_words_that_became_html_are_found(markup):
    with pytest.raises(AssertionError):
        shown(f"<div>{markup}</div>")
