"""The event log of a run in training, and its readers in other processes."""

import json
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from spgca_lab._files import append, replace_file, writing
from spgca_lab.runs.store import Run, read_snapshot, snapshot_name
from spgca_lab.training.events import Done, Evaluation, Event, HandOver, Snapshot, Step
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.stage import stage_bounds

NAME = "events.jsonl"
RECENT_BYTES = 1 << 16
_KINDS: dict[str, type] = {"step": Step, "evaluation": Evaluation, "handover": HandOver}


class EventLog:
    """The log of a run, `events.jsonl`: one line per event, written by the process that trains.

    The first line identifies this version of the file, so that readers notice when a resumed run has replaced it.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / NAME
        self.count = 0
        self._file: BinaryIO | None = None

    def begin(self, lines: Sequence[bytes] = ()) -> None:
        """Replace the file by one with these lines."""
        self.close()
        head = json.dumps({"log": uuid.uuid4().hex}).encode()
        replace_file(self.path, b"".join(line + b"\n" for line in (head, *lines)))
        self.count = len(lines)
        with writing(self.path):
            self._file = self.path.open("ab", buffering=0)

    def resume(self, count: int, events: Callable[[], list[tuple[Event, int]]]) -> None:
        """Cut the log back to its first `count` events, which `events` returns if the log is missing or too short."""
        lines = _lines(self.path.read_bytes()) if self.path.exists() else []
        if len(lines) < count:
            lines = [_to_line(event, stage, None) for event, stage in events()]
        self.begin(lines[:count])

    def append(self, events: Iterable[Event], stage: int, seconds: float) -> None:
        """Add events of stage number `stage`, at `seconds` of the run's clock."""
        assert self._file is not None, "begin or resume first"
        lines = [_to_line(event, stage, round(seconds, 4)) + b"\n" for event in events]
        # In one write: after a kill there are whole events, and at most a part of the last one.
        append(self._file, b"".join(lines))
        self.count += len(lines)

    def last(self, count: int) -> list[Event]:
        """Return the last `count` events."""
        lines = _lines(self.path.read_bytes()) if count else []
        return [_from_line(line, self.folder)[0] for line in lines[len(lines) - count :]]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file; the tables of a finished run hold all of it."""
        self.close()
        self.path.unlink(missing_ok=True)


class EventReader:
    """A reader of the events of a run that another process trains, or that has finished.

    A run that continues from its checkpoint logs some events again. They are equal, because training is
    deterministic, so the reader counts events and returns none twice. After `fit(..., resume=False)` a new reader
    is needed. The folder may be empty.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.seconds, self.done = 0.0, False
        self._returned = self._passed = self._offset = 0
        self._head: bytes | None = None

    def read(self) -> list[Event]:
        """Return the events since the last call, whole and in order, with `Done` at the end."""
        if self.done:
            return []
        if (self.folder / "result.json").exists():
            return self._from_tables()
        events: list[Event] = []
        # Files are missing before the run begins, and when it starts over.
        with suppress(FileNotFoundError):
            for line in self._new_lines():
                if self._passed >= self._returned:
                    event, seconds = _from_line(line, self.folder)
                    self.seconds = self.seconds if seconds is None else seconds
                    events.append(event)
                    self._returned += 1
                self._passed += 1
                self._offset += len(line)
        return events

    def _new_lines(self) -> list[bytes]:
        with (self.folder / NAME).open("rb") as file:
            head, size = file.readline(), file.seek(0, 2)
            if head != self._head or size < self._offset:
                self._head, self._offset, self._passed = head, len(head), 0
            file.seek(self._offset)
            content = file.read()
        return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)

    def _from_tables(self) -> list[Event]:
        run = Run(self.folder)
        result = run.result
        if result is None:
            return []
        own = Step.columns()
        steps = []
        for row in _rows(run.steps):
            # Columns of other stages' penalties are empty in this row.
            extra = {k: v for k, v in row.items() if k not in own and not pd.isna(v)}
            steps.append(Step(**{k: row[k] for k in own}, extra=extra))
        evaluations = [Evaluation(**row) for row in _rows(run.evaluations)]
        events = ordered_events(run.recipe, steps, evaluations, run.staged_snapshots())
        self.done, self.seconds = True, float(result.get("seconds", self.seconds))
        return [*(event for event, _ in events[self._returned :]), Done(result, self.folder)]


@dataclass(frozen=True)
class Progress:
    """The last step of a run, the recipe's number of steps, seconds without pauses, and estimated seconds left."""

    step: int
    iterations: int
    seconds: float
    left: float | None


def progress(folder: Path, total: int) -> Progress:
    """Return the progress of a run of `total` steps from the end of its log, cheaply enough for a call per second."""
    with suppress(FileNotFoundError):
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return Progress(total, total, float(result.get("seconds", 0.0)), 0.0)
    lines: list[bytes] = []
    with suppress(FileNotFoundError), (folder / NAME).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - RECENT_BYTES))
        lines = _lines(file.read())
    steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
    timed = [(event["step"], event["seconds"]) for event in steps if event["seconds"] is not None]
    if len(timed) < 2:
        return Progress(steps[-1]["step"] if steps else 0, total, timed[-1][1] if timed else 0.0, None)
    (first, began), (last, now) = timed[0], timed[-1]
    return Progress(last, total, now, (now - began) / (last - first) * (total - last))


def ordered_events(
    recipe: Recipe,
    steps: Iterable[Step],
    evaluations: Iterable[Evaluation],
    snapshots: Iterable[tuple[int, Snapshot]],
    stages: int | None = None,
) -> list[tuple[Event, int]]:
    """Return all events so far with their stages, in the order of training, without `Done`.

    `snapshots` come with their stages; `stages` is the number of stages that have begun, None for all.
    """
    names = [stage.name for stage in recipe.stages().stages]
    bounds = stage_bounds(recipe.iterations, len(names))
    begun = range(1, len(names) if stages is None else stages)
    # Keys are the stage, the step, and the order of events after a step.
    keyed: list[tuple[tuple[int, int, int], Event]] = []
    keyed += [((i, bounds[i], 0), HandOver(bounds[i], names[i - 1], names[i])) for i in begun]
    for step in steps:
        stage = bisect_left(bounds, step.step) - 1
        # Tables do not repeat what the recipe says.
        whole = replace(step, iterations=recipe.iterations, alpha=recipe.alphas[stage], beta=recipe.beta)
        keyed.append(((stage, step.step, 1), whole))
    keyed += [((stage, shot.step, 2), shot) for stage, shot in snapshots]
    keyed += [((bisect_left(bounds, each.step) - 1, each.step, 3), each) for each in evaluations]
    return [(event, key[0]) for key, event in sorted(keyed, key=lambda pair: pair[0])]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).to_dict("records")


def _to_line(event: Event, stage: int, seconds: float | None) -> bytes:
    head: dict[str, Any] = {"event": type(event).__name__.lower(), "seconds": seconds}
    # Snapshots are files of their own.
    body = {"step": event.step, "stage": stage} if isinstance(event, Snapshot) else asdict(event)
    return json.dumps(head | body, ensure_ascii=False).encode()


def _from_line(line: bytes, folder: Path) -> tuple[Event, float | None]:
    fields = json.loads(line)
    kind, seconds = fields.pop("event"), fields.pop("seconds")
    if kind == "snapshot":
        return read_snapshot(folder / snapshot_name(int(fields["step"]), int(fields["stage"]))), seconds
    return _KINDS[kind](**fields), seconds


def _lines(content: bytes) -> list[bytes]:
    """Return the whole lines but the first, which is the head of the log or a line that begins before `content`."""
    return content[: content.rfind(b"\n") + 1].splitlines()[1:]
