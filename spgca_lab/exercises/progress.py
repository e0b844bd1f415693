"""What a reader has done so far: verdicts kept beside the reader's runs, and a table of all exercises."""

import html
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STATES", "Progress", "read", "record"]

FILE = "exercises.json"
STATES = ("right", "not right yet", "not attempted")


def record(name: str, state: str, folder: str | Path = "runs") -> str:
    """Keep the state of an exercise.

    Args:
        name: of the exercise.
        state: one of `STATES`.
        folder: where the file is.

    Returns:
        what to tell the reader where it could not be kept, else an empty text: a check must not fail for that.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> record("l2_sp", "right", folder), read(folder)
        ('', {'l2_sp': 'right'})
    """
    file = Path(folder) / FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        states = read(folder) | {name: state}
        part = file.with_name(f"{FILE}.{os.getpid()}")
        part.write_text(json.dumps(states, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(file)
    except OSError as error:
        return f"(Your progress could not be kept in {str(file)!r}: {error.strerror or error}.)"
    return ""


def read(folder: str | Path = "runs") -> dict[str, str]:
    """The states kept so far; nothing where the file is missing or damaged.

    Args:
        folder: where the file is.

    Example:
        >>> read("no/such/folder")
        {}
    """
    try:
        states = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(states, dict):
        return {}
    return {name: state for name, state in states.items() if state in STATES}


@dataclass(frozen=True)
class Progress:
    """All exercises with their states; shown as a table in a notebook, as text elsewhere.

    Args:
        rows: notebook, exercise, what it asks and state.

    Example:
        >>> print(Progress((("02", "l2_sp", "half the sum of squares", "right"),)))
        notebook  exercise  state
        02        l2_sp     right
        1 of 1 right
    """

    rows: tuple[tuple[str, str, str, str], ...]

    @classmethod
    def of(cls, asked: Mapping[str, tuple[str, str]], folder: str | Path = "runs") -> "Progress":
        """From `{exercise: (notebook, what it asks)}` and the states kept in a folder."""
        states = read(folder)
        rows = ((book, name, about, states.get(name, STATES[2])) for name, (book, about) in asked.items())
        return cls(tuple(rows))

    @property
    def summary(self) -> str:
        """How many are right."""
        return f"{sum(row[3] == STATES[0] for row in self.rows)} of {len(self.rows)} right"

    def __repr__(self) -> str:
        wide = max([len("exercise"), *(len(row[1]) for row in self.rows)])
        lines = [f"notebook  {'exercise':{wide}}  state"]
        lines += [f"{book:8}  {name:{wide}}  {state}" for book, name, _, state in self.rows]
        return "\n".join([*lines, self.summary])

    def _repr_html_(self) -> str:
        look = {STATES[0]: "#009E73", STATES[1]: "#D55E00", STATES[2]: "#888888"}
        body = []
        for row in self.rows:
            book, name, about, state = map(html.escape, row)
            mark = f'<td style="text-align:left;color:{look[row[3]]}">{state}</td>'
            cells = f'<td>{book}</td><td style="text-align:left"><code>{name}</code></td>'
            body.append(f'<tr>{cells}<td style="text-align:left">{about}</td>{mark}</tr>')
        heads = "".join(
            f'<th style="text-align:left">{text}</th>'
            for text in ("notebook", "exercise", "asks for", "state")
        )
        return f"<table><tr>{heads}</tr>{''.join(body)}</table><p>{self.summary}</p>"
