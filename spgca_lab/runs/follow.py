"""The journal of a run that is being trained: a line an event, and readers that follow it from elsewhere."""

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from spgca_lab._files import append, replace_file, writing
from spgca_lab.runs.store import Run, read_snapshot, snapshot_name
from spgca_lab.training.events import Done, Evaluation, Event, HandOver, Snapshot, Step
from spgca_lab.training.recipe import Recipe

__all__ = ["Journal", "Progress", "Tail", "in_order", "progress", "stage_bounds"]

NAME = "events.jsonl"
RECENT_BYTES = 1 << 16
_KINDS: dict[str, type] = {"step": Step, "evaluation": Evaluation, "handover": HandOver}


def stage_bounds(iterations: int, stages: int) -> list[int]:
    """Where stages begin and end: stage `i` takes the steps from `bounds[i]` up to, not including, `bounds[i + 1]`.

    Example:
        >>> stage_bounds(9, 2)
        [0, 5, 9]
    """
    return [-(-i * iterations // stages) for i in range(stages + 1)]


class Journal:
    """`events.jsonl` of one run, for the process that trains it.

    The first line names this version of the file, so that a reader notices when a resumed run has written it anew.

    Args:
        folder: of the run.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> journal = Journal(folder)
        >>> journal.begin()
        >>> journal.append([Evaluation(2, "spa", 50.0, 0.7)], stage=0, seconds=1.5)
        >>> Tail(folder).read()
        [Evaluation(step=2, stage='spa', top1=50.0, cross_entropy=0.7)]
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / NAME
        self.count = 0
        self._file: BinaryIO | None = None

    def begin(self, lines: Sequence[bytes] = ()) -> None:
        """Write the file anew with some lines of the one before, in one move."""
        self.close()
        head = json.dumps({"journal": uuid.uuid4().hex}).encode()
        replace_file(self.path, b"".join(line + b"\n" for line in (head, *lines)))
        self.count = len(lines)
        with writing(self.path):
            self._file = self.path.open("ab", buffering=0)

    def resume(self, count: int | None, events: Callable[[], list[tuple[Event, int]]]) -> None:
        """Cut the file back to its first `count` events.

        Args:
            count: as the checkpoint has it, None if it is older than journals.
            events: gives the same events with their stages, for a file that is gone or too short.
        """
        lines = _split(self.path.read_bytes())[1] if self.path.exists() else []
        if count is None or len(lines) < count:
            lines = [_line(event, stage, None) for event, stage in events()]
            count = len(lines)
        self.begin(lines[:count])

    def append(self, events: Iterable[Event], stage: int, seconds: float) -> None:
        """Add what happened in stage number `stage` when the run's clock stood at `seconds`."""
        assert self._file is not None, "begin or resume first"
        lines = [_line(event, stage, seconds) + b"\n" for event in events]
        # One write: a process that dies here leaves whole events, and at most a part of a last one.
        append(self._file, b"".join(lines))
        self.count += len(lines)

    def last(self, count: int) -> list[Event]:
        """The last `count` events."""
        lines = _split(self.path.read_bytes())[1] if count else []
        return [_event(line, self.folder)[0] for line in lines[len(lines) - count :]]

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Take the file away: the tables of a finished run hold all of it."""
        self.close()
        self.path.unlink(missing_ok=True)


class Tail:
    """Events of a run as they come in, from a process that trains elsewhere, or from the tables of one that is over.

    A run that was killed and goes on from its checkpoint gives some events again: the same ones, for runs repeat
    themselves to the last bit, so that this reader counts and gives none twice. Only a run that is started over
    (`fit(..., resume=False)`) needs a new reader.

    Args:
        folder: of the run; it may be empty yet.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> tail = Tail(data_dir() / "runs" / "spgca-8fa85ab40f55")
        >>> events = tail.read()
        >>> type(events[0]).__name__, type(events[-1]).__name__, tail.read()
        ('Snapshot', 'Done', [])
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.seconds = 0.0
        self.done = False
        self._given = 0
        self._journal: str | None = None
        self._offset = 0
        self._passed = 0

    def read(self) -> list[Event]:
        """What happened since the last call; whole events only, in order, `Done` at the end."""
        if self.done:
            return []
        if (self.folder / "result.json").exists():
            return self._from_tables()
        try:
            content = self._news()
        except FileNotFoundError:
            return []
        found: list[Event] = []
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                if self._passed >= self._given:
                    event, seconds = _event(line, self.folder)
                    self.seconds = self.seconds if seconds is None else seconds
                    found.append(event)
                    self._given += 1
            except FileNotFoundError:  # the run has been started over: its snapshots are gone
                break
            self._passed += 1
            self._offset += len(line)
        return found

    def _news(self) -> bytes:
        with (self.folder / NAME).open("rb") as file:
            head = file.readline()
            size = file.seek(0, 2)
            if not head.endswith(b"\n"):
                return b""
            if head.decode() != self._journal or size < self._offset:
                self._journal, self._offset, self._passed = head.decode(), len(head), 0
            file.seek(self._offset)
            return file.read()

    def _from_tables(self) -> list[Event]:
        run = Run(self.folder)
        result = run.result
        if result is None:
            return []
        events = [event for event, _ in in_order(run.recipe, *_tables(run))]
        self.done, self.seconds = True, float(result.get("seconds", self.seconds))
        return [*events[self._given :], Done(result, self.folder)]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        step: last one taken.
        iterations: of the recipe.
        seconds: the run's own clock; pauses do not count.
        left: seconds still to train at the pace of the last steps, None while there is no pace yet.
    """

    step: int
    iterations: int
    seconds: float
    left: float | None


def progress(folder: str | Path, iterations: int | None = None) -> Progress:
    """How far the run in a folder is, from the end of its journal: cheap enough to ask every second.

    Args:
        folder: of the run.
        iterations: of its recipe, read from there if None.

    Raises:
        RunError: when the folder holds no recipe.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> progress(data_dir() / "runs" / "spgca-8fa85ab40f55").left
        0.0
    """
    folder = Path(folder)
    total = iterations or Run(folder).recipe.iterations
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return Progress(total, total, float(result.get("seconds", 0.0)), 0.0)
    except FileNotFoundError:
        pass
    try:
        with (folder / NAME).open("rb") as file:
            begin = max(0, file.seek(0, 2) - RECENT_BYTES)
            file.seek(begin)
            lines = _split(file.read())[1]
    except FileNotFoundError:
        lines = []
    recent = [json.loads(line) for line in lines]
    steps = [(e["step"], e["seconds"]) for e in recent if e["event"] == "step"]
    clock = [(step, seconds) for step, seconds in steps if seconds is not None]
    if len(clock) < 2:
        return Progress(steps[-1][0] if steps else 0, total, clock[-1][1] if clock else 0.0, None)
    (first, began), (last, now) = clock[0], clock[-1]
    return Progress(last, total, now, (now - began) / (last - first) * (total - last))


def in_order(
    recipe: Recipe,
    steps: Iterable[Step],
    evaluations: Iterable[Evaluation],
    snapshots: Iterable[tuple[int, Snapshot]],
    stages: int | None = None,
) -> list[tuple[Event, int]]:
    """Events with their stages in the order in which `fit` yields them, `Done` left out.

    Args:
        recipe: of the run.
        steps: all so far.
        evaluations: all so far.
        snapshots: with their stages.
        stages: how many have begun, all if None.
    """
    names = [stage.name for stage in recipe.stages().stages]
    bounds = stage_bounds(recipe.iterations, len(names))
    shots = {(stage, shot.step): shot for stage, shot in snapshots}
    by_step = {step.step: step for step in steps}
    accuracies = {evaluation.step: evaluation for evaluation in evaluations}
    events: list[tuple[Event, int]] = []
    for stage in range(len(names) if stages is None else stages):
        start, end = bounds[stage], bounds[stage + 1]
        if stage > 0:
            events.append((HandOver(start, names[stage - 1], names[stage]), stage))
        for number in range(start, end + 1):
            due: list[Event | None] = [shots.get((stage, number))]
            if number > start:
                due = [by_step.get(number), *due, accuracies.get(number)]
            events += [(event, stage) for event in due if event is not None]
    return events


def _tables(run: Run) -> tuple[list[Step], list[Evaluation], list[tuple[int, Snapshot]]]:
    own = [name for name in Step.__dataclass_fields__ if name != "extra"]
    steps = []
    for row in _rows(run.steps):
        # A column of another stage's penalty is empty here.
        extra = {k: v for k, v in row.items() if k not in own and not pd.isna(v)}
        steps.append(Step(**{k: row[k] for k in own}, extra=extra))
    return steps, [Evaluation(**row) for row in _rows(run.evaluations)], run.staged_snapshots()


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).to_dict("records")


def _line(event: Event, stage: int, seconds: float | None) -> bytes:
    clock = None if seconds is None else round(seconds, 4)
    if isinstance(event, Snapshot):
        fields = {"event": "snapshot", "seconds": clock, "step": event.step}
        return json.dumps(fields | {"file": snapshot_name(event.step, stage)}).encode()
    kind = type(event).__name__.lower()
    return json.dumps({"event": kind, "seconds": clock} | asdict(event), ensure_ascii=False).encode()


def _event(line: bytes, folder: Path) -> tuple[Event, float | None]:
    fields = json.loads(line)
    kind, seconds = fields.pop("event"), fields.pop("seconds")
    if kind == "snapshot":
        return read_snapshot(folder / fields["file"]), seconds
    return _KINDS[kind](**fields), seconds


def _split(content: bytes) -> tuple[bytes, list[bytes]]:
    # Without what a killed process wrote of its last line; a piece of the middle loses its broken first line.
    head, *lines = content[: content.rfind(b"\n") + 1].splitlines() or [b""]
    return head, lines
