"""Every notebook in JupyterLab: all cells run, its explorers follow the keyboard, and running them again is free."""

from pathlib import Path

import pytest

from tests.browser.explorer import Shown
from tests.browser.lab import LabPage
from tests.resident import HELD, parsed

NOTEBOOKS = sorted(path.name for path in (Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
WARM, AGAIN, MOST = 8, 20, 30.0  # runs, runs, MB
WITH_EXPLORERS = [name for name in NOTEBOOKS if not name.startswith(("00", "09", "10", "12"))]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_runs_and_its_explorers_follow(lab: LabPage, notebook):
    lab.page.set_viewport_size({"width": 1280, "height": 1400})
    lab.open(notebook)
    lab.run_all(timeout=480)
    count = lab.page.locator(".spgca-explorer").count()
    assert (count > 0) == (notebook in WITH_EXPLORERS)
    for number in range(count):
        explorer = Shown(lab, number)
        assert explorer.too_wide() == []
        moved(lab, explorer)
        lab.screenshot(f"{notebook.removesuffix('.ipynb')}-{number}", explorer.root)
    for cell in lab.explorer_cells():
        runs_again_in_the_same_memory(lab, cell)


def moved(lab: LabPage, explorer: Shown) -> None:
    """Some slider of the explorer, moved by one, makes another picture; the page does not jump."""
    before, tall = explorer.picture(), explorer.height()
    handles = explorer.root.locator(".widget-slider .noUi-handle")
    for i in range(handles.count()):
        for key in ("ArrowLeft", "ArrowRight"):
            lab.press(handles.nth(i), key)
            lab.page.wait_for_timeout(700)
            if explorer.picture() != before:
                assert explorer.height() == tall
                return
    raise AssertionError("no slider changed the picture")


def runs_again_in_the_same_memory(lab: LabPage, cell: int) -> None:
    """Twenty runs of an explorer's cell; without closing what it made before, they would leave 100 to 200 MB."""
    lab.run_again(cell, WARM)
    before = parsed(lab.kernel(HELD))
    lab.run_again(cell, AGAIN)
    after = parsed(lab.kernel(HELD))
    print(f"{AGAIN} runs of cell {cell} leave {after[0] - before[0]:.1f} MB")
    assert after[2] == before[2], f"cell {cell} leaves {after[2] - before[2]} widgets"
    assert after[0] - before[0] < MOST, f"cell {cell} leaves {after[0] - before[0]:.1f} MB"
    assert after[1] - before[1] < 1
