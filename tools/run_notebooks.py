"""Execute notebooks in place, so that their diffs stay small: `python -m tools.run_notebooks [NOTEBOOK ...]`.

Each runs from top to bottom in a fresh kernel of this environment, in an empty folder, so that no run trained
earlier stands in for one that should be trained now. What changes from run to run and means nothing (times,
widget ids, language versions) is not stored. The numbers come out the same because of the seeds that the
notebooks set.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

REPO = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
VOLATILE = ("execution", "ExecuteTime", "trusted")
MAX_BYTES = 400_000


def without_widget_view(output: NotebookNode) -> NotebookNode | None:
    """Return the output without its widget id, which is valid for one kernel; None if no image or page is left."""
    data = output.get("data", {})
    if WIDGET not in data:
        return output
    del data[WIDGET]
    return output if set(data) - {"text/plain"} else None


def normalise(book: NotebookNode) -> None:
    """Remove in place what differs from one run, or one machine, to the next."""
    book.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in book.cells:
        for key in VOLATILE:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            shown = [without_widget_view(output) for output in cell.outputs]
            cell.outputs = [output for output in shown if output is not None]


def execute(path: Path, timeout: int, folder: Path) -> float:
    """Run one notebook and store it with its new outputs.

    Args:
        path: the notebook.
        timeout: seconds that one cell may take.
        folder: where its kernel works, and leaves what it trains.

    Returns:
        The seconds it took.

    Raises:
        CellExecutionError: if a cell fails; the file is then left as it was.
        CellTimeoutError: if a cell takes too long; likewise.
    """
    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    start = time.perf_counter()
    client.execute()
    normalise(book)
    nbformat.write(book, path)
    return time.perf_counter() - start


def main() -> int:
    """Run the notebooks given, or all of notebooks/; the number that failed or grew too large."""
    parser = argparse.ArgumentParser(description="Execute notebooks in place, with outputs that diff well.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook of notebooks/")
    parser.add_argument("--timeout", type=int, default=120, help="seconds a cell may take (default 120)")
    chosen = parser.parse_args()
    problems = 0
    # Beside notebooks/, so that relative paths lead to the same places.
    with tempfile.TemporaryDirectory(prefix=".nbval-", dir=REPO) as folder:
        for path in chosen.notebooks or sorted((REPO / "notebooks").glob("*.ipynb")):
            try:
                seconds = execute(path.resolve(), chosen.timeout, Path(folder))
            except (CellExecutionError, CellTimeoutError) as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                problems += 1
                continue
            size = path.stat().st_size
            print(f"{seconds:6.1f} s  {size / 1000:6.0f} kB  {path.name}", flush=True)
            if size > MAX_BYTES:
                print(f"{path.name}: {size:,} bytes; at most {MAX_BYTES:,}", file=sys.stderr)
                problems += 1
    return problems


if __name__ == "__main__":
    sys.exit(min(main(), 1))
