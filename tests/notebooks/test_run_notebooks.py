"""`make notebooks` stores what a reader needs, the same bytes each time, and nothing of a run that failed."""

from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tools.run_notebooks import WIDGET, execute

pytestmark = pytest.mark.notebooks

WIDGETS = """
import ipywidgets
from IPython.display import display
box = ipywidgets.IntSlider()
display(box)
display({**box._repr_mimebundle_(), "image/png": "iVBORw0KGgo="}, raw=True)
"""


def written(path: Path, *cells: str) -> Path:
    """A notebook of code cells, the first with a tag and a stored time."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text.strip()) for text in cells])
    book.cells[0].metadata.update(tags=["nbval-check-output"], execution={"iopub.status.idle": "2020-01-01"})
    nbformat.write(book, path)
    return path


def test_second_run_stores_the_same_bytes(tmp_path: Path):
    path = written(tmp_path / "a.ipynb", "print(1)\nprint(2)", WIDGETS)
    assert execute(path, timeout=60, folder=tmp_path) > 0
    first = path.read_bytes()
    execute(path, timeout=60, folder=tmp_path)
    assert path.read_bytes() == first

    book = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in book.cells] == [1, 2]
    assert book.cells[0].metadata == {"tags": ["nbval-check-output"]}
    assert book.cells[0].outputs[0].text == "1\n2\n"
    assert "widgets" not in book.metadata
    (picture,) = book.cells[1].outputs
    assert WIDGET not in picture.data
    assert "image/png" in picture.data


def test_failed_run_leaves_the_file_as_it_was(tmp_path: Path):
    path = written(tmp_path / "a.ipynb", "print(1)", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(path, timeout=60, folder=tmp_path)
    assert path.read_bytes() == before
