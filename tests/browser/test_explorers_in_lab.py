"""The six explorers in JupyterLab, by mouse and keyboard: words and pictures follow, nothing jumps or flickers."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.explorer import Shown
from tests.browser.lab import LabPage
from tests.tiny_runs import SMALL

RUN = "lab.Run(lab.data_dir() / 'runs' / 'spgca-ec3591435c4f')"


@dataclass(frozen=True)
class Case:
    """An explorer to use.

    Args:
        code: that makes it.
        keys: (slider, key, words that then show).
        drags: (slider, share of its track, words that then show).
        picks: (dropdown, option, words that then show).
    """

    code: str
    keys: tuple[tuple[str, str, str], ...] = ()
    drags: tuple[tuple[str, float, str], ...] = ()
    picks: tuple[tuple[str, str, str], ...] = field(default_factory=tuple)


CASES = {
    "feature-maps": Case(
        f"lab.explorers.FeatureMapExplorer(target={RUN})",
        keys=(
            ("layer", "ArrowRight", "output of layer2.1.conv3, 128 channels × 16 × 16 = 32768 numbers"),
            ("channel", "Home", "Channel 0 is"),
            ("image", "ArrowRight", "image 1 of 48"),
        ),
        drags=(
            ("layer", 1.0, "output of layer4.1.conv3, 512 channels"),
            ("image", 1.0, "image 47 of 48"),
        ),
        picks=(("backbone", "lite0", "x [3, 224, 224]"),),
    ),
    "attention": Case(
        f"lab.explorers.AttentionExplorer([{RUN}, lab.RunStore(lab.data_dir() / 'runs').find(method='afa')[0]])",
        keys=(
            ("step", "Home", "step 0 of 200"),
            ("opacity", "ArrowRight", "opacity 0.70"),
            ("image", "ArrowRight", "image 1 of 6"),
        ),
        drags=(
            ("opacity", 1.0, "opacity 1.00"),
            ("step", 1.0, "step 200 of 200"),
            ("image", 1.0, "image 5 of 6"),
        ),
        picks=(
            ("spatial", "SPA · SPA→GCA", "SPA · SPA→GCA: entropy"),
            ("channel", "GCA · SPA→GCA", "GCA · SPA→GCA puts"),
        ),
    ),
    "loss": Case(
        "lab.explorers.LossExplorer()",
        keys=(
            ("α", "End", "SPA dominates the task"),
            ("r", "ArrowRight", "GCA dominates the task"),
            ("batch", "ArrowRight", ""),
        ),
        drags=(("α", 0.0, "SPA is off (α = 0)"), ("α", 1.0, "SPA dominates the task"), ("β", 1.0, "")),
        picks=(("method", "GCA→SPA", "Stage 1: GCA"), ("scale", "afa", "dominates the task")),
    ),
    "runs": Case(
        "lab.explorers.RunExplorer(lab.data_dir() / 'runs')",
        keys=(
            ("α", "ArrowLeft", "SPA→GCA at α = 1, r = 4"),
            ("r", "ArrowRight", "SPA→GCA at α = 1, r = 8"),
            ("layer", "ArrowLeft", "layer 2"),
            ("step", "Home", "step 0"),
        ),
        drags=(
            ("α", 1.0, "SPA→GCA at α = 10, r = 8"),
            ("image", 1.0, "image 5"),
            ("opacity", 0.0, "α = 10"),
        ),
        picks=(("method", "AFA", "AFA at α = 3"),),
    ),
    "comparison": Case(
        "lab.explorers.MethodComparison(lab.data_dir() / 'comparison')",
        keys=(("page", "End", "disagree"),),
        picks=(("table", "Table 5", "GCA"), ("baseline", "L2", "L2")),
    ),
    "monitor": Case(
        f"lab.explorers.TrainingMonitor({RUN})",
        keys=(("image", "ArrowRight", "Step 200 of 200"),),
        drags=(("image", 1.0, "Step 200 of 200"),),
    ),
}


def shown(lab: LabPage, write_notebook, name: str, code: str, *, width: int = 1280) -> Shown:
    """An explorer in a notebook of its own, as the variable `explorer`."""
    lab.page.set_viewport_size({"width": width, "height": 1400})
    lab.open(write_notebook(f"{name}.ipynb", f"import spgca_lab as lab\n\nexplorer = {code}\nexplorer"))
    lab.run_all()
    return Shown(lab)


def follows(explorer: Shown, words: str, before: str) -> None:
    """The words are said, the picture is another one and so is its alternative text's sentence."""
    explorer.says(words)
    explorer.changes(before)
    caption = explorer.root.locator(".spgca-picture ~ .widget-html").first
    for _ in range(100):
        if explorer.alt().endswith(caption.inner_text().strip()):
            return
        explorer.lab.page.wait_for_timeout(50)
    raise AssertionError((explorer.alt(), caption.inner_text()))


@pytest.mark.parametrize("name", CASES)
def test_explorer_follows_hand_and_keyboard(lab: LabPage, write_notebook, name):
    case = CASES[name]
    explorer = shown(lab, write_notebook, name, case.code)
    first, tall = explorer.picture(), explorer.height()
    lab.screenshot(f"{name}-light", explorer.root)
    explorer.watch()
    for description, key, words in case.keys:
        before = explorer.picture()
        lab.press(explorer.slider(description), key)
        follows(explorer, words, before)
    for description, share, words in case.drags:
        before = explorer.picture()
        lab.drag(explorer.slider(description), share)
        follows(explorer, words, before)
    seen = explorer.watched()
    assert seen["bad"] == []
    assert seen["frames"] > 0
    assert seen["pictures"] >= len(case.keys) + len(case.drags)
    for description, option, words in case.picks:
        before = explorer.picture()
        lab.dropdown(description).select_option(label=option)
        follows(explorer, words, before)
        assert explorer.height() == tall
    every_slider_by_key_and_mouse(lab, explorer)
    buttons(lab, explorer, first)
    readable(lab, explorer, name)


def every_slider_by_key_and_mouse(lab: LabPage, explorer: Shown) -> None:
    """Every slider that can be moved changes the state, by an arrow key and by the mouse."""

    def changed(before: str, how: str) -> str:
        for _ in range(100):
            now = lab.kernel("print(explorer.state)")
            if now != before:
                return now
            lab.page.wait_for_timeout(50)
        raise AssertionError(f"the slider {how} and the state stayed {before}")

    tall, count = explorer.height(), 0
    for name in explorer.sliders():
        handle = explorer.slider(name)
        state = lab.kernel("print(explorer.state)")
        low, now, high = (float(handle.get_attribute(f"aria-value{k}") or 0) for k in ("min", "now", "max"))
        lab.press(handle, "ArrowLeft" if now >= high else "ArrowRight")
        state = changed(state, f"{name!r} was moved by a key")
        now = float(handle.get_attribute("aria-valuenow") or 0)
        lab.drag(handle, 1.0 if now < (low + high) / 2 else 0.0)
        changed(state, f"{name!r} was dragged")
        count += 1
    assert count > 0
    assert explorer.height() == tall


def buttons(lab: LabPage, explorer: Shown, first: str) -> None:
    """Copy as code shows what runs, Save figure writes both files, Reset goes to the first picture."""
    explorer.button("Copy as code").click()
    code = explorer.root.locator("textarea")
    code.wait_for()

    def reproduces() -> bool:
        scope = f"scope = {{}}\nexec({code.input_value()!r}, scope)\n"
        return lab.kernel(f"{scope}print(scope['explorer'].state == explorer.state)").strip() == "True"

    # The last of a drag's values may come to a busy kernel after the click; the code shown follows it.
    assert any(reproduces() or lab.page.wait_for_timeout(200) for _ in range(20))
    explorer.button("Copy as code").click()
    explorer.button("Save figure").click()
    explorer.says("as PNG and SVG")
    stem = "Path('figures').glob(type(explorer).__name__ + '*')"
    listing = f"from pathlib import Path; print(sorted(p.suffix for p in {stem}))"
    assert lab.kernel(listing).strip() == "['.png', '.svg']"
    explorer.button("Reset").click()
    for _ in range(100):
        if explorer.picture() == first:
            break
        lab.page.wait_for_timeout(50)
    assert explorer.picture() == first


def readable(lab: LabPage, explorer: Shown, name: str) -> None:
    """At 1,280 px nothing sticks out, Tab reaches every control, and words are legible in both themes."""
    # Every control is a model of its own: a slider over other options may be rebuilt after the picture has come.
    lab.page.wait_for_timeout(500)
    assert explorer.too_wide() == []
    assert explorer.hidden_words() == []
    assert explorer.without_tip() == []
    count, missed = explorer.reached_by_tab()
    assert count > 4
    assert missed == []
    assert explorer.poor_contrast() == []
    lab.theme("JupyterLab Dark")
    try:
        assert explorer.poor_contrast() == []
        lab.page.mouse.move(5, 5)
        lab.screenshot(f"{name}-dark", explorer.root)
    finally:
        lab.theme("JupyterLab Light")


def test_dragging_never_queues_redraws(lab: LabPage, write_notebook):
    """Drawing is slowed to 0.3 s: thirty moves of the mouse make a few pictures, the last one right, none after."""
    explorer = shown(lab, write_notebook, "queue", f"lab.explorers.AttentionExplorer({RUN})")
    slow = """
import time
drawn, draw = [], explorer.figure
def figure(state=None):
    time.sleep(0.3)
    drawn.append(state.opacity)
    return draw(state)
explorer.figure = figure
"""
    assert lab.kernel(slow) == ""
    explorer.watch()
    lab.drag(explorer.slider("opacity"), 0.0, moves=30, pause=40)
    explorer.says("opacity 0.00")
    lab.page.wait_for_timeout(1500)
    count, last = lab.kernel("print(len(drawn), explorer.state.opacity)").split()
    assert float(last) == 0
    assert 1 <= int(count) <= 8
    assert explorer.watched()["bad"] == []
    lab.page.wait_for_timeout(700)
    assert lab.kernel("print(len(drawn))").strip() == count


def uploads(lab: LabPage, explorer: Shown, folder: Path) -> None:
    """A text and a dot of three pixels are refused, the picture stays; a real picture is then shown."""
    notes, dot, good = folder / "notes.txt", folder / "dot.png", folder / "<i>good.png"
    notes.write_text("no picture")
    Image.new("RGB", (3, 3)).save(dot)
    Image.new("RGB", (50, 40), "orange").save(good)
    last = explorer.picture()

    def upload(file: Path) -> None:
        with lab.page.expect_file_chooser() as chooser:
            explorer.button("Upload").click()
        chooser.value.set_files(file)

    for file, words in ((notes, "'notes.txt' is not an image"), (dot, "'dot.png' has 3 × 3 pixels")):
        upload(file)
        explorer.says(words)
        assert explorer.picture() == last
    upload(good)
    follows(explorer, "image 0 of 1: <i>good.png", last)


def test_thumbnails_play_and_wrong_input(lab: LabPage, write_notebook, tmp_path: Path):
    explorer = shown(lab, write_notebook, "own", "lab.explorers.FeatureMapExplorer('mini')")
    before = explorer.picture()
    explorer.root.locator("button[title^='image 2']").click()
    follows(explorer, "image 2 of 48", before)
    tall = explorer.height()
    uploads(lab, explorer, tmp_path)
    folder = lab.widget("widget-text", "folder").locator("input")
    folder.fill(str(tmp_path / "none"))
    folder.press("Enter")
    explorer.says(f"there is no folder '{tmp_path / 'none'}'")
    assert explorer.height() == tall
    lab.press(explorer.slider("layer"), "ArrowRight")
    explorer.says("output of layer2.1.conv3")


def test_attention_refuses_wrong_pictures_and_goes_on(lab: LabPage, write_notebook, tmp_path: Path):
    explorer = shown(lab, write_notebook, "own_attention", "lab.explorers.AttentionExplorer('mini')")
    tall = explorer.height()
    uploads(lab, explorer, tmp_path)
    before = explorer.picture()
    lab.press(explorer.slider("opacity"), "ArrowLeft")
    follows(explorer, "opacity 0.6", before)
    assert explorer.height() == tall


def test_loss_refuses_a_folder_of_one_class_and_goes_on(lab: LabPage, write_notebook, tmp_path: Path):
    explorer = shown(lab, write_notebook, "own_loss", "lab.explorers.LossExplorer()")
    before, tall = explorer.picture(), explorer.height()
    (tmp_path / "only").mkdir()
    for number in range(4):
        Image.new("RGB", (70, 70), (60 * number, 90, 90)).save(tmp_path / "only" / f"{number}.png")
    place = lab.widget("widget-text", "images").locator("input")
    place.fill(str(tmp_path))
    place.press("Enter")
    explorer.says("one class, 'only'")
    assert explorer.picture() == before
    place.fill("")
    place.press("Enter")
    lab.press(explorer.slider("α"), "ArrowRight")
    explorer.changes(before)
    assert explorer.height() == tall


def test_play_walks_along_the_training(lab: LabPage, write_notebook):
    explorer = shown(lab, write_notebook, "play", f"lab.explorers.AttentionExplorer({RUN})")
    lab.press(explorer.slider("step"), "Home")
    explorer.says("step 0 of 200")
    explorer.watch()
    explorer.root.locator(".widget-play button").first.click()
    explorer.says("step 200 of 200")
    seen = explorer.watched()
    assert seen["bad"] == []
    assert seen["pictures"] >= 8


def test_monitor_trains_pauses_stops_and_outlives_the_kernel(lab: LabPage, write_notebook, tmp_path: Path):
    fields = ", ".join(f"{k}={v!r}" for k, v in (SMALL | {"iterations": 400, "method": "spgca"}).items())
    code = f"lab.explorers.TrainingMonitor(lab.Recipe({fields}), {str(tmp_path)!r}, device='cpu')"
    explorer = shown(lab, write_notebook, "monitor_live", code)
    explorer.says("Nothing is trained yet: press Start.")
    tall = explorer.height()
    explorer.button("Start").click()
    explorer.says("training by process", timeout=60)
    explorer.says("cross-entropy", timeout=60)
    explorer.says("left")
    explorer.button("Pause").click()
    explorer.says("paused")
    lab.page.wait_for_timeout(1500)  # what it wrote last before it held is shown, too
    held = explorer.picture()
    lab.page.wait_for_timeout(1500)
    assert explorer.picture() == held
    explorer.button("Resume").click()
    explorer.changes(held)
    explorer.button("Stop").click()
    explorer.says("stopped, with a checkpoint to resume from", timeout=60)
    assert explorer.height() == tall
    lab.restart_kernel()
    lab.run_all()
    explorer = Shown(lab)
    explorer.says("stopped, with a checkpoint to resume from")
    explorer.button("Resume").click()
    explorer.says("step 400 of 400", timeout=120)
    explorer.says("finished")


def test_run_explorer_trains_what_is_missing(lab: LabPage, write_notebook, tmp_path: Path):
    from tests.tiny_runs import train

    store = train(tmp_path).path
    explorer = shown(lab, write_notebook, "train_these", f"lab.explorers.RunExplorer({str(store)!r})")
    before = explorer.picture()
    lab.press(explorer.slider("α"), "ArrowLeft")
    lab.press(explorer.slider("r"), "ArrowRight")
    explorer.says("never trained")
    explorer.button("Train").click()
    explorer.says("SPA→GCA at α = 1, r = 8 reaches", timeout=120)
    assert explorer.picture() != before
