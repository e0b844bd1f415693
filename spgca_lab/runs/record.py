"""The run folder as training writes it: on the main process, while the others are only told what it reads."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spgca_lab._files import RunError
from spgca_lab.runs import checkpoint
from spgca_lab.runs.follow import NAME as JOURNAL
from spgca_lab.runs.follow import Journal
from spgca_lab.runs.lock import Lease, crashed
from spgca_lab.runs.store import Run, RunWriter
from spgca_lab.training.events import Done, Evaluation, Event, Snapshot, Step
from spgca_lab.training.processes import Processes
from spgca_lab.training.recipe import Recipe

__all__ = ["Record", "finished", "same_data", "sweep"]


class Record:
    """Tables, journal, snapshots, checkpoint and result of one run.

    Args:
        folder: of the run; on the main process it exists.
        recipe: of the run.
        processes: that train it.
        afresh: forget an earlier attempt.

    Example:
        >>> import tempfile
        >>> record = Record(Path(tempfile.mkdtemp()), Recipe(), Processes("cpu"))
        >>> record.checkpoint() is None
        True
    """

    def __init__(self, folder: Path, recipe: Recipe, processes: Processes, *, afresh: bool = False):
        self.folder, self.processes = folder, processes
        self._journal = Journal(folder)
        self._writer = processes.on_main(lambda: _writer(folder, recipe, afresh))

    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, None without one: the main process' on all, for they may share no file system."""
        return self.processes.from_main(lambda: self._writer.read_checkpoint() if self._writer else None)

    def begin(self, probe: Callable[[], Mapping[str, Any]]) -> None:
        """Start a run with its probe batch."""
        if self._writer:
            self._writer.probe(**probe())
            self._journal.begin()

    def resume(self, count: int | None, events: Callable[[], list[tuple[Event, int]]]) -> None:
        """Go on after the first `count` events; `events` gives them where the journal does not have them."""
        if self._writer:
            self._journal.resume(count, events)

    def last(self, count: int) -> list[Event]:
        """The last `count` events, on all processes."""
        return self.processes.from_main(lambda: self._journal.last(count))

    def snapshots(self) -> list[tuple[int, Snapshot]]:
        """Those so far, with their stages; only the main process has them."""
        return Run(self.folder).staged_snapshots()

    def tables(self, steps: Sequence[Step], evaluations: Sequence[Evaluation]) -> None:
        """Write steps and evaluations so far."""
        if self._writer:
            self._writer.rows(steps, evaluations)

    def append(self, due: Sequence[Event], stage: int, seconds: float) -> None:
        """Write what happened in stage number `stage` when the run's clock stood at `seconds`."""
        if self._writer:
            self._journal.append(due, stage, seconds)

    def snapshot(self, snapshot: Snapshot, stage: int) -> None:
        """Write one of stage number `stage`."""
        if self._writer:
            self._writer.snapshot(snapshot, stage)

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write a checkpoint, which knows how many events there were."""
        if self._writer:
            self._writer.checkpoint({"events": self._journal.count} | dict(state()))

    def finish(
        self, result: dict[str, Any], labels: np.ndarray, predicted: np.ndarray, weights: Mapping[str, Tensor]
    ) -> Done:
        """Write answers, weights and result; the journal goes."""
        if self._writer:
            self._writer.predictions(labels, predicted)
            self._writer.finish(result, weights)
            self._journal.remove()
        return Done(result, self.folder)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()


def finished(folder: Path, data: str | None = None) -> Done | None:
    """The end of a run that is over, None before.

    Args:
        folder: of the run.
        data: fingerprint of the published data set that is installed here; None where there is none.

    Raises:
        RunError: when the run saw another copy of the data set.

    Example:
        >>> finished(Path("no/such/folder")) is None
        True
    """
    file = folder / "result.json"
    if not file.exists():
        return None
    result = json.loads(file.read_text(encoding="utf-8"))
    same_data(folder, result.get("data"), data)
    return Done(result, folder)


def sweep(folder: Path) -> None:
    """Take away what a process left in a finished run's folder that was killed between its result and its end.

    Example:
        >>> sweep(Path("no/such/folder"))
    """
    left = [folder / name for name in (*checkpoint.FILES, JOURNAL, "launch.json")]
    # Looked at first: shipped runs may lie where nothing can be written, and have nothing to be taken away.
    if crashed(folder) is None and not any(file.exists() for file in left):
        return
    with suppress(RunError, OSError), Lease.take(folder, "session", patience=0.0):
        for file in (*left, *folder.rglob("*.part")):
            file.unlink(missing_ok=True)


def same_data(folder: Path, seen: str | None, here: str | None) -> None:
    """Refuse to take a run on one copy of a data set for a run on another: a recipe names the set, not the copy.

    Args:
        folder: of the run.
        seen: fingerprint of the copy that the run saw; None where it says nothing.
        here: of the copy that is installed; None where there is none.

    Raises:
        RunError: when both are known and differ.

    Example:
        >>> same_data(Path("runs/spgca-1"), "0123", None)
    """
    if seen and here and seen != here:
        raise RunError(
            f"{str(folder)!r} was trained on another copy of its data set (fingerprint {seen}) than the one that is "
            f"installed here ({here}): use another store, or start over with resume=False (--fresh)"
        )


def _writer(folder: Path, recipe: Recipe, afresh: bool) -> RunWriter:
    writer = RunWriter(folder, recipe)
    if afresh:
        writer.clear()
    return writer
