"""The explorers in JupyterLab: keys move sliders, words and pictures follow, nothing jumps, nothing is red."""

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator

from tests.browser.lab import LabPage
from tests.tiny_runs import train

IMAGE = ".spgca-explorer .widget-image"
STATUS = ".spgca-explorer .widget-html"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("runs")).path


@pytest.fixture
def console(lab: LabPage) -> list[str]:
    """Errors in the page's console while the test runs, those of an unreachable network aside."""
    errors: list[str] = []

    def note(message):
        if message.type == "error" and "net::ERR" not in message.text and "404" not in message.text:
            errors.append(message.text)

    lab.page.on("console", note)
    lab.page.on("pageerror", lambda error: errors.append(str(error)))
    return errors


def height(lab: LabPage) -> float:
    box = lab.page.locator(".spgca-explorer").first.bounding_box()
    assert box is not None
    return box["height"]


def handle(lab: LabPage, description: str) -> Locator:
    """The handle of a slider of the first explorer; a slider over options lacks the class that others have."""
    label = lab.page.locator(".widget-label", has_text=re.compile(rf"^\s*{re.escape(description)}\s*$"))
    return lab.page.locator(".widget-slider").filter(has=label).locator(".noUi-handle").first


def moved(lab: LabPage, description: str, key: str, expected: str, times: int = 1) -> None:
    """Move a slider by keyboard: the status says `expected`, the first picture changes, the height does not."""
    before, tall = lab.image_source(lab.page.locator(IMAGE).first), height(lab)
    lab.press(handle(lab, description), key, times=times)
    lab.expect_text(STATUS, expected)
    lab.expect_new_image(lab.page.locator(IMAGE).first, before)
    assert height(lab) == pytest.approx(tall, abs=1)


def test_run_explorer_follows_the_keyboard(lab: LabPage, write_notebook, store, console, tmp_path):
    code = f"import spgca_lab as lab\nlab.widgets.RunExplorer({str(store)!r})"
    lab.open(write_notebook("run_explorer.ipynb", code))
    lab.run_all()
    lab.expect_text(STATUS, "α = 3 · r = 4 · step 4 of 4")
    moved(lab, "step", "ArrowLeft", "step 2 of 4", times=1)
    moved(lab, "opacity", "ArrowLeft", "α = 3 · r = 4", times=2)
    moved(lab, "layer", "ArrowLeft", "layer 3")
    moved(lab, "r", "ArrowRight", "α = 3 · r = 8")
    moved(lab, "α", "ArrowLeft", "α = 1 · r = 8 · not trained")
    moved(lab, "r", "ArrowLeft", "α = 1 · r = 4 · step 2 of 4")
    lab.screenshot("run_explorer", lab.page.locator(".spgca-explorer").first)
    live_pass_takes_a_folder(lab, tmp_path)
    assert console == []


def live_pass_takes_a_folder(lab: LabPage, tmp_path: Path) -> None:
    """A folder of one's own is shown; one that does not exist is named, and the last picture stays."""
    own = tmp_path / "a <b> & c"
    own.mkdir()
    Image.new("RGB", (40, 30), "orange").save(own / "<i>orange.png")
    live = lab.page.locator(IMAGE).nth(1)
    before, tall = lab.image_source(live), height(lab)
    folder = lab.widget("widget-text", "folder").locator("input")
    folder.fill(str(own))
    folder.press("Enter")
    lab.expect_text(STATUS, "picture 0 of 1: <i>orange.png")
    after = lab.expect_new_image(live, before)
    folder.fill(str(own / "none"))
    folder.press("Enter")
    lab.expect_text(STATUS, f"there is no folder '{own / 'none'}'")
    assert lab.image_source(live) == after
    assert height(lab) == pytest.approx(tall, abs=1)


def test_attention_explorer_follows_the_keyboard(lab: LabPage, write_notebook, store, console):
    code = (
        "import spgca_lab as lab\n"
        f"run = lab.RunStore({str(store)!r}).find(method='spgca', alpha=3.0, r=4)[0]\n"
        "explorer = lab.widgets.AttentionExplorer(run)\nexplorer"
    )
    lab.open(write_notebook("attention_explorer.ipynb", code))
    lab.run_all()
    lab.expect_text(STATUS, "step 4 of 4")
    lab.expect_text("td", "SPA, layer 4")
    moved(lab, "opacity", "ArrowRight", "opacity 0.70")
    moved(lab, "step", "Home", "step 0 of 4")
    moved(lab, "picture", "ArrowRight", "picture 1:")
    shown = lab.image_source(lab.page.locator(IMAGE).first)
    lab.page.locator(".widget-play button").first.click()
    lab.expect_text(STATUS, "step 4 of 4")
    lab.expect_new_image(lab.page.locator(IMAGE).first, shown)
    lab.screenshot("attention_explorer", lab.page.locator(".spgca-explorer").first)
    assert console == []


def test_feature_map_explorer_follows_the_keyboard(lab: LabPage, write_notebook, console):
    code = (
        "import spgca_lab as lab\nlab.widgets.FeatureMapExplorer(lab.load_backbone('mini', weights='random'))"
    )
    lab.open(write_notebook("feature_maps.ipynb", code))
    lab.run_all()
    lab.expect_text(STATUS, "layer 1: FM_S = output of layer1.1.conv3, 64 channels × 32 × 32")
    moved(lab, "layer", "ArrowRight", "layer 2: FM_S = output of layer2.1.conv3, 128 channels × 16 × 16")
    assert handle(lab, "channel").get_attribute("aria-valuemax") == "127.0"
    moved(lab, "channel", "Home", "channel 0:")
    moved(lab, "picture", "ArrowRight", "picture 1:")
    lab.screenshot("feature_map_explorer", lab.page.locator(".spgca-explorer").first)
    assert console == []


@pytest.mark.parametrize(
    ("notebook", "slider"),
    [("07_explore_alpha_and_r.ipynb", "α"), ("08_inspect_attention.ipynb", "opacity")],
)
def test_notebook_with_explorer(lab: LabPage, console, notebook, slider):
    lab.open(notebook)
    lab.run_all()
    image = lab.page.locator(IMAGE).first
    before, tall = lab.image_source(image), height(lab)
    lab.press(handle(lab, slider), "ArrowLeft")
    lab.expect_new_image(image, before)
    assert height(lab) == pytest.approx(tall, abs=1)
    lab.screenshot(notebook.removesuffix(".ipynb"), lab.page.locator(".spgca-explorer").first)
    assert console == []
