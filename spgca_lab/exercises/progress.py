"""A reader's progress: the state of each exercise in a file beside the reader's runs, and a table of all exercises."""

import html
import json
from dataclasses import dataclass
from pathlib import Path

from spgca_lab._files import NotWritten, make_folder, replace_file

FILE = "exercises.json"
STATES = ("right", "not right yet", "not attempted")


def record(name: str, state: str, folder: str | Path = "runs") -> str:
    """Save the state of an exercise in a folder; return a note for the reader where the file cannot be written."""
    states = json.dumps(read(folder) | {name: state}, indent=1, sort_keys=True)
    try:
        make_folder(Path(folder))
        replace_file(Path(folder) / FILE, f"{states}\n".encode())
    except NotWritten as error:
        return f"(Your progress could not be saved: {error}.)"
    return ""


def read(folder: str | Path = "runs") -> dict[str, str]:
    """Return the saved states by exercise; none where the file is missing or damaged."""
    try:
        states = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {n: s for n, s in states.items() if s in STATES} if isinstance(states, dict) else {}


@dataclass(frozen=True)
class Progress:
    """All exercises, as rows of notebook, exercise, task and state; a table in a notebook, text elsewhere."""

    rows: tuple[tuple[str, str, str, str], ...]

    @property
    def summary(self) -> str:
        """The number of right exercises, as text."""
        return f"{sum(row[3] == STATES[0] for row in self.rows)} of {len(self.rows)} right"

    def __repr__(self) -> str:
        wide = max([len("exercise"), *(len(row[1]) for row in self.rows)])
        lines = [f"notebook  {'exercise':{wide}}  state"]
        lines += [f"{book:8}  {name:{wide}}  {state}" for book, name, _, state in self.rows]
        return "\n".join([*lines, self.summary])

    def _repr_html_(self) -> str:
        colours = dict(zip(STATES, ("#009E73", "#D55E00", "#888888"), strict=True))
        left = 'style="text-align:left"'
        body = ""
        for row in self.rows:
            book, name, about, state = map(html.escape, row)
            body += f"<tr><td>{book}</td><td {left}><code>{name}</code></td><td {left}>{about}</td>"
            body += f'<td style="text-align:left;color:{colours[row[3]]}">{state}</td></tr>'
        heads = "".join(f"<th {left}>{text}</th>" for text in ("notebook", "exercise", "asks for", "state"))
        return f"<table><tr>{heads}</tr>{body}</table><p>{self.summary}</p>"
