"""What stored notebooks must hold for nbval to prove anything; each rule returns its complaints as text.

nbval compares nothing for a cell that was never run, for one without text, and for one that skips itself; it
counts all of these as passed. The rules here make such cells fail.
"""

import json
import re
from pathlib import Path
from typing import Any

from nbval.plugin import get_sanitize_patterns

COMPARED = "nbval-check-output"
FORBIDDEN = ("nbval-skip", "nbval-raises-exception", "raises-exception")
WIDGET = "application/vnd.jupyter.widget-view+json"
FORBIDDEN_COMMENT = re.compile(r"^\s*#+\s*(NBVAL_SKIP|NBVAL_RAISES_EXCEPTION)\s*$", re.MULTILINE)
# A repr of a figure or a widget says nothing about what it shows.
EMPTY_REPR = re.compile(
    r"<Figure size [\dx.]+ with \d+ Axes>|[A-Z]\w*\((children|value|layout)=.*|<[\w.]+ (object )?at 0x\w+>"
)
MAX_BYTES = 400_000
MAX_CODE_LINES = 15

Cell = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """The notebook as plain JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: Cell) -> str:
    """A cell's text; the format allows a list of lines or one string."""
    return "".join(cell["source"])


def tags(cell: Cell) -> list[str]:
    """A cell's tags."""
    return cell.get("metadata", {}).get("tags", [])


def code_cells(book: dict[str, Any]) -> list[Cell]:
    """The code cells that hold any code."""
    return [cell for cell in book["cells"] if cell["cell_type"] == "code" and source(cell).strip()]


def is_compared(cell: Cell) -> bool:
    """Whether nbval-lax is asked to compare this cell's output."""
    marked = re.search(r"^\s*#+\s*NBVAL_CHECK_OUTPUT\s*$", source(cell), re.MULTILINE)
    return COMPARED in tags(cell) or marked is not None


def stored_text(cell: Cell) -> str:
    """The text that nbval compares: streams and text/plain, without reprs of figures and widgets."""
    pieces = []
    for output in cell.get("outputs", []):
        text = output.get("text") or output.get("data", {}).get("text/plain") or ""
        pieces += [line for line in "".join(text).splitlines() if not EMPTY_REPR.fullmatch(line.strip())]
    return "\n".join(pieces)


def sanitize(text: str, config: Path, *, cut: bool = False) -> str:
    """The text after the replacements in `config`, as nbval compares it; with `cut`, only what they leave."""
    for regex, replacement in get_sanitize_patterns(config.read_text(encoding="utf-8")):
        text = re.sub(regex, "" if cut else replacement, text)
    return text


def unrun_or_failed(book: dict[str, Any]) -> list[str]:
    """Cells that were never run, or whose stored output is an error."""
    problems = []
    for number, cell in enumerate(code_cells(book)):
        if cell.get("execution_count") is None:
            problems.append(f"code cell {number} was never run: {source(cell)[:60]!r}")
        if any(output["output_type"] == "error" for output in cell.get("outputs", [])):
            problems.append(f"code cell {number} stores an error: {source(cell)[:60]!r}")
    return problems


def compared_without_text(book: dict[str, Any], config: Path) -> list[str]:
    """Cells marked for comparison in which nothing is left to compare."""
    return [
        f"code cell {number} is marked {COMPARED} but stores no text to compare: {source(cell)[:60]!r}"
        for number, cell in enumerate(code_cells(book))
        if is_compared(cell)
        and not re.search(r"[0-9]|[A-Za-z]{2}", sanitize(stored_text(cell), config, cut=True))
    ]


def too_few_compared(book: dict[str, Any], least: int = 2) -> list[str]:
    """Fewer than `least` cells are compared."""
    count = sum(is_compared(cell) for cell in code_cells(book))
    return [] if count >= least else [f"{count} cells are tagged {COMPARED}; at least {least} must be"]


def escapes(book: dict[str, Any]) -> list[str]:
    """Cells that nbval would skip, or allow to fail, or that hold no code."""
    problems = []
    for number, cell in enumerate(code_cells(book)):
        found = [tag for tag in tags(cell) if tag in FORBIDDEN] + FORBIDDEN_COMMENT.findall(source(cell))
        problems += [f"code cell {number} is marked {mark}" for mark in found]
    blank = sum(cell["cell_type"] == "code" and not source(cell).strip() for cell in book["cells"])
    return problems + ([f"{blank} code cells are empty"] if blank else [])


def too_long(book: dict[str, Any]) -> list[str]:
    """Cells with more lines of code than a reader takes in at once; blank lines and comments do not count."""
    problems = []
    for number, cell in enumerate(code_cells(book)):
        lines = [
            line for line in source(cell).splitlines() if line.strip() and not line.lstrip().startswith("#")
        ]
        if len(lines) > MAX_CODE_LINES:
            problems.append(f"code cell {number} has {len(lines)} lines of code; at most {MAX_CODE_LINES}")
    return problems


def wrong_title(path: Path, book: dict[str, Any]) -> list[str]:
    """The first cell is not a level-1 title that carries the file's number."""
    number = path.name[:2]
    first = source(book["cells"][0]) if book["cells"] else ""
    title = first.lstrip().splitlines()[0] if first.strip() else ""
    match = re.match(r"# (\d+)\b", title)
    if (
        book["cells"]
        and book["cells"][0]["cell_type"] == "markdown"
        and match
        and int(match[1]) == int(number)
    ):
        return []
    return [f"the first cell must be a title '# {number} ...', not {title!r}"]


def wrong_kernel(book: dict[str, Any]) -> list[str]:
    """The notebook asks for another kernel than the environment's own."""
    name = book["metadata"].get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"the kernel must be 'python3', the environment's own, not {name!r}"]


def stored_widgets(book: dict[str, Any]) -> list[str]:
    """Stored widget ids: opened later, they show "Error displaying widget" in place of the stored picture."""
    problems = ["the notebook stores widget state"] if "widgets" in book["metadata"] else []
    for number, cell in enumerate(code_cells(book)):
        if any(WIDGET in output.get("data", {}) for output in cell.get("outputs", [])):
            problems.append(f"code cell {number} stores a widget's id; `make notebooks` removes it")
    return problems


def too_large(path: Path) -> list[str]:
    """The stored file is larger than a readable diff allows."""
    size = path.stat().st_size
    return [] if size <= MAX_BYTES else [f"{size:,} bytes stored; at most {MAX_BYTES:,}"]


def complaints(path: Path, config: Path) -> list[str]:
    """Every rule on one notebook.

    Args:
        path: the notebook; its name starts with its two-digit number.
        config: nbval's sanitizing file.
    """
    book = read(path)
    found = [
        *unrun_or_failed(book),
        *compared_without_text(book, config),
        *too_few_compared(book),
        *escapes(book),
        *too_long(book),
        *wrong_title(path, book),
        *wrong_kernel(book),
        *stored_widgets(book),
        *too_large(path),
    ]
    return [f"{path.name}: {complaint}" for complaint in found]


def doctored(book: dict[str, Any], config: Path) -> tuple[dict[str, Any], int]:
    """A copy up to its first compared cell, with one character of that cell's stored text changed.

    Returns:
        The copy and the number nbval gives to the doctored cell.

    Raises:
        ValueError: if no compared cell stores text that survives sanitizing.
    """
    copy = json.loads(json.dumps(book))
    number = -1
    for index, cell in enumerate(copy["cells"]):
        number += cell["cell_type"] == "code"
        if cell["cell_type"] != "code" or not is_compared(cell):
            continue
        for output in cell["outputs"]:
            holder, key = (output, "text") if "text" in output else (output.get("data", {}), "text/plain")
            text = "".join(holder.get(key, ""))
            for place in re.finditer(r"[0-9]", text):
                digit = str((int(place[0]) + 1) % 10)
                changed = text[: place.start()] + digit + text[place.end() :]
                if sanitize(changed, config) != sanitize(text, config):
                    holder[key] = changed
                    copy["cells"] = copy["cells"][: index + 1]
                    return copy, number
    raise ValueError("no compared cell stores a digit that survives sanitizing")
