"""The notebooks prove what they seem to: every cell run, outputs compared, nothing skipped in silence."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebooks import guards

REPO = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("sanitize.cfg")
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.notebooks


def nbval(
    *paths: Path, cwd: Path, timeout: float = 120, collect: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run pytest on notebooks as `make nbval` does, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.notebooks.report",
        "-c",
        str(REPO / "pyproject.toml"),
    ]
    command += [
        "--rootdir",
        str(cwd),
        "-p",
        "no:cacheprovider",
        "--color=no",
        "--nbval-lax",
        "--nbval-current-env",
    ]
    command += [f"--nbval-cell-timeout={timeout}", "--nbval-sanitize-with", str(CONFIG)]
    command += ["--collect-only", "-q"] if collect else []
    run = [*command, *map(str, paths)]
    return subprocess.run(
        run, cwd=REPO, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def cell(
    text: str, *, output: str | None = None, count: int | None = 1, tags: tuple[str, ...] = ()
) -> guards.Cell:
    """A stored code cell."""
    outputs = [] if output is None else [{"output_type": "stream", "name": "stdout", "text": output}]
    metadata = {"tags": list(tags)}
    return {
        "cell_type": "code",
        "id": f"c{abs(hash((text, tags))) % 10**8}",
        "metadata": metadata,
        "source": text,
        "execution_count": count,
        "outputs": outputs,
    }


def book(*cells: guards.Cell, title: str = "# 01 · A title") -> dict:
    """A notebook with a title and the given cells."""
    heading = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": title}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": [heading, *cells], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def stored(folder: Path, content: dict, name: str = "01_a.ipynb") -> Path:
    """The notebook as a file."""
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


COMPARED = (guards.COMPARED,)
GOOD = (
    cell("print(1 + 1)", output="2\n", tags=COMPARED),
    cell("x = 40", count=2),
    cell("print('loss', x / 100)", output="loss 0.4\n", count=3, tags=COMPARED),
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_keeps_every_rule(path: Path):
    assert guards.complaints(path, CONFIG) == []


def test_notebooks_are_numbered_without_a_gap():
    assert NOTEBOOKS, "notebooks/ holds no notebook"
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers == [f"{number:02d}" for number in range(len(NOTEBOOKS))]


def test_nbval_collects_every_code_cell():
    run = nbval(*NOTEBOOKS, cwd=REPO, collect=True)
    collected = re.findall(r"^(?:.*/)?(\w+\.ipynb)::Cell \d+", run.stdout, re.MULTILINE)
    expected = [path.name for path in NOTEBOOKS for _ in guards.code_cells(guards.read(path))]
    assert expected, "no notebook has a code cell"
    assert sorted(collected) == sorted(expected), run.stdout[-2000:] + run.stderr[-2000:]


def test_doctored_output_of_a_real_notebook_fails(tmp_path: Path):
    """Up to its first compared cell, to stay quick: the copy passes, one changed digit fails."""
    path = NOTEBOOKS[0]
    changed, number = guards.doctored(guards.read(path), CONFIG)
    honest = copy.deepcopy(changed)
    honest["cells"] = guards.read(path)["cells"][: len(honest["cells"])]

    run = nbval(stored(tmp_path, honest, "honest.ipynb"), cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-3000:]

    run = nbval(stored(tmp_path, changed, "doctored.ipynb"), cwd=tmp_path)
    assert run.returncode == 1, run.stdout[-3000:]
    assert re.search(rf"FAILED .*doctored\.ipynb::Cell {number}\b", run.stdout), run.stdout[-3000:]
    assert "Cell outputs differ" in run.stdout
    assert "1 failed" in run.stdout


def test_good_notebook_has_no_complaints_and_is_compared(tmp_path: Path):
    path = stored(tmp_path, book(*GOOD))
    assert guards.complaints(path, CONFIG) == []
    run = nbval(path, cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "nbval cells: 2 compared, 1 ignored" in run.stdout


def test_caught_timeout_fails(tmp_path: Path):
    caught = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('went on')"
    run = nbval(stored(tmp_path, book(cell(caught))), cwd=tmp_path, timeout=2)
    assert run.returncode == 1, run.stdout[-3000:]
    assert "ran past its 2 s" in run.stdout


@pytest.mark.parametrize(
    ("spoiled", "complaint"),
    [
        (book(*GOOD, cell("y = 1", count=None)), "was never run"),
        (book(*GOOD, cell("y = 1", tags=("nbval-skip",))), "is marked nbval-skip"),
        (book(*GOOD, cell("1 / 0", tags=("raises-exception",))), "is marked raises-exception"),
        (book(*GOOD, cell("# NBVAL_SKIP\ny = 1")), "is marked NBVAL_SKIP"),
        (book(*GOOD[:2]), "1 cells are tagged nbval-check-output"),
        (book(*GOOD, cell("y = 1", tags=COMPARED)), "stores no text to compare"),
        (book(*GOOD, cell("f", output="<Figure size 640x480 with 1 Axes>", tags=COMPARED)), "stores no text"),
        (book(*GOOD, cell("t", output="3.2 s", tags=COMPARED)), "stores no text"),
        (book(*GOOD, cell("\n".join(f"y = {i}" for i in range(16)))), "16 lines of code"),
        (book(*GOOD, cell("  \n")), "1 code cells are empty"),
        (book(*GOOD, title="A title without a number"), "must be a title '# 01"),
        (book(*GOOD, title="# 02 · Another number"), "must be a title '# 01"),
        (book(*GOOD, cell("print()", output="x" * 500_000)), "bytes stored"),
        ({**book(*GOOD), "metadata": {}}, "the kernel must be 'python3'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rule_is_enforced(tmp_path: Path, spoiled: dict, complaint: str):
    found = guards.complaints(stored(tmp_path, spoiled), CONFIG)
    assert len(found) == 1, found
    assert complaint in found[0]


def test_stored_error_is_a_complaint():
    failed = cell("1 / 0")
    failed["outputs"] = [
        {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "", "traceback": []}
    ]
    assert guards.unrun_or_failed(book(failed)) == ["code cell 0 stores an error: '1 / 0'"]


def test_stored_widget_is_a_complaint():
    view = cell("slider")
    bundle = {guards.WIDGET: {"model_id": "x"}, "text/plain": "IntSlider(value=0)"}
    view["outputs"] = [{"output_type": "display_data", "data": bundle, "metadata": {}}]
    assert guards.stored_widgets(book(view)) == [
        "code cell 0 stores a widget's id; `make notebooks` removes it"
    ]


def test_doctoring_needs_a_digit_that_sanitizing_leaves():
    with pytest.raises(ValueError, match="survives sanitizing"):
        guards.doctored(book(cell("t", output="took 3.2 s\n", tags=COMPARED)), CONFIG)
