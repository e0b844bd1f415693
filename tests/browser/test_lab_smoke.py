"""JupyterLab shows core widgets from this environment, and a key press reaches Python and comes back."""

import sys
from importlib.util import find_spec

import pytest

from tests.browser.lab import LabPage

SLIDER = """
import ipywidgets as widgets

alpha = widgets.FloatSlider(value=1.0, min=0.0, max=5.0, step=0.5, description="α")
shown = widgets.Label()
alpha.observe(lambda change: setattr(shown, "value", f"α² = {change['new'] ** 2:g}"), "value")
widgets.VBox([alpha, shown])
"""


def test_slider_moved_by_keyboard_changes_the_label(lab: LabPage, write_notebook):
    lab.open(write_notebook("smoke.ipynb", SLIDER))
    lab.run_all()
    lab.press(lab.slider("α"), "ArrowRight", times=2)
    lab.expect_text(".widget-label", "α² = 4")
    assert lab.screenshot("smoke").stat().st_size > 10_000


def test_kernel_runs_in_this_environment(lab: LabPage, write_notebook):
    code = (
        "import sys\nfrom importlib.util import find_spec\nprint(sys.prefix, find_spec('spgca_lab').origin)"
    )
    package = find_spec("spgca_lab")
    assert package is not None
    lab.open(write_notebook("environment.ipynb", code))
    lab.run_all()
    lab.expect_text(".jp-OutputArea-output", f"{sys.prefix} {package.origin}")


def test_failing_cell_is_reported(lab: LabPage, write_notebook):
    lab.open(write_notebook("failing.ipynb", "raise ValueError('no such tap')"))
    with pytest.raises(AssertionError, match="cells ended in errors"):
        lab.run_all()
    assert lab.errors() == ["ValueError: no such tap"]


def test_widget_that_cannot_be_shown_is_reported(lab: LabPage, write_notebook):
    view = {"model_id": "gone", "version_major": 2, "version_minor": 0}
    bundle = {"application/vnd.jupyter.widget-view+json": view}
    lab.open(
        write_notebook("broken.ipynb", f"from IPython.display import display\ndisplay({bundle}, raw=True)")
    )
    lab.run_all()
    with pytest.raises(AssertionError, match="could not be shown"):
        lab.check()
    lab.broken.clear()
    lab.page.goto("about:blank")
