"""Every notebook in JupyterLab: all cells run, its explorers follow the keyboard, and running them again is free."""

from pathlib import Path

import pytest

from tests.browser.explorer import Shown
from tests.browser.lab import LabPage

NOTEBOOKS = sorted(path.name for path in (Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
WARM, AGAIN, MOST = 4, 20, 20.0  # runs, runs, MB
HELD = """
import ctypes, gc, psutil, sys
from ipywidgets.widgets.widget import _instances
gc.collect(); gc.collect()
if sys.platform == 'linux':
    ctypes.CDLL(None).malloc_trim(0)
import torch
card = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
print(psutil.Process().memory_info().rss / 2**20, card / 2**20, len(_instances))
"""
WITH_EXPLORERS = [name for name in NOTEBOOKS if not name.startswith("00")]


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


def held(lab: LabPage) -> tuple[float, float, int]:
    """MB of the kernel's memory, MB on a graphics card, and living widgets."""
    memory, card, living = lab.kernel(HELD).split()
    return float(memory), float(card), int(living)


def runs_again_in_the_same_memory(lab: LabPage, cell: int) -> None:
    """Twenty runs of an explorer's cell; without closing what it made before, they would leave 100 to 200 MB."""
    lab.run_again(cell, WARM)
    before = held(lab)
    lab.run_again(cell, AGAIN)
    after = held(lab)
    assert after[2] == before[2], f"cell {cell} leaves {after[2] - before[2]} widgets"
    assert after[0] - before[0] < MOST, f"cell {cell} leaves {after[0] - before[0]:.1f} MB"
    assert after[1] - before[1] < 1
