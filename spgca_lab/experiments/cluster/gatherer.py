"""Gatherer: one store for runs that are trained elsewhere, each of them finished once and only once."""

import json
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from spgca_lab._files import RunError, make_folder, replace_file
from spgca_lab.runs import checkpoint
from spgca_lab.runs.checkpoint import CheckpointError, checkpoint_step
from spgca_lab.runs.lock import LOCK, PROCESS, REQUEST, Lease, RunBusy
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["Files", "Gatherer", "Outcome", "Refused", "Ticket", "travelling", "write"]

LOG = "ray.log"
CHECKPOINT, RESULT, JOURNAL, FAILURE = checkpoint.NAME, "result.json", "events.jsonl", "failure.json"
# What belongs to the machine where a run folder lies, and so neither leaves it nor comes to it.
STAYS = {
    "recipe.json",
    "launch.json",
    "log.txt",
    FAILURE,
    LOCK,
    PROCESS,
    REQUEST,
    checkpoint.BEFORE,
    checkpoint.NEXT,
}
WHOLE = ("steps.csv", "evaluations.csv", "predictions.csv", "weights.safetensors")
# In this order files are written: tables without their result mislead nobody, the reverse would.
_LATE = (JOURNAL, CHECKPOINT, RESULT)

Files = Mapping[str, np.ndarray]


class Refused(RunError):
    """An attempt at a run that no longer counts: it was taken for lost, or the run is over."""


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe.

    Args:
        recipe: that was to be trained.
        status: `"finished"`, `"failed"`, or `"held"` where somebody else trains it in this store.
        attempts: how often it was begun here; 0 where it was finished before.
        node: of the cluster on which the last attempt ran, its first digits; None without one.
        error: why it failed or who holds it.
    """

    recipe: Recipe
    status: str
    attempts: int = 0
    node: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Ticket:
    """The answer to an attempt that begins.

    Args:
        token: that it shows with all that it sends; None where there is nothing to train.
        status: `"train"`, or what the run is: `"finished"` or `"held"`.
        files: of the run's folder, where an earlier attempt left a checkpoint.
    """

    token: str | None
    status: str
    files: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class _Entry:
    recipe: Recipe
    folder: Path
    attempt: int = 0
    over: int = 0  # attempts up to this one were taken for lost
    node: str | None = None
    token: str | None = None
    lease: Lease | None = None
    status: str = "waiting"
    error: str | None = None


class Gatherer:
    """Keeps the store for attempts that train on other machines, without a file system that they share.

    An attempt begins with `begin`, sends with `keep` what has changed in its copy of the run's folder, and ends with
    `finish`, `fail` or `interrupt`. Only the youngest attempt is listened to: one that was taken for lost but lives is
    refused. While one trains, this process holds the lease of the run's folder.

    Args:
        store: folder of runs.
        recipes: that are to be trained.
        log: is given a line a happening; `ray.log` in the store gets it too.

    Example:
        >>> import tempfile
        >>> recipe, store = Recipe(), Path(tempfile.mkdtemp())
        >>> gatherer = Gatherer(store, [recipe], log=lambda line: print(line.partition("  ")[2]))
        >>> ticket = gatherer.begin(recipe.hash(), "1f0c", 1)
        spgca-d077cb823308, attempt 1 on node 1f0c: started
        >>> gatherer.keep(recipe.hash(), "another", {})
        Traceback (most recent call last):
        ...
        spgca_lab.experiments.cluster.gatherer.Refused: this attempt at ... has taken its place
        >>> gatherer.close()
    """

    def __init__(self, store: str | Path, recipes: Iterable[Recipe], log: Callable[[str], Any] = print):
        self.store, self._log = RunStore(store), log
        self._entries = {r.hash(): _Entry(r, self.store.folder(r)) for r in recipes}

    def begin(self, run: str, node: str, attempt: int) -> Ticket:
        """Let attempt number `attempt` at the run of this hash begin on `node`.

        Raises:
            Refused: when it was taken for lost already.
        """
        entry = self._entries[run]
        if attempt <= entry.over:
            raise self._refusal(entry)
        entry.attempt, entry.node = attempt, node
        if entry.lease is None and not (entry.folder / RESULT).exists():
            make_folder(entry.folder)
            try:
                entry.lease = Lease.take(entry.folder, "cluster")
            except RunBusy as error:
                self._end(entry, "held", str(error))
                self._say(entry, f"held: {error}")
                return Ticket(None, "held")
        # Looked at with the lease in hand: whoever had it before may have come to the end.
        if (entry.folder / RESULT).exists():
            self._end(entry, "finished")
            self._say(entry, "finished already, by somebody else")
            return Ticket(None, "finished")
        (entry.folder / "snapshots").mkdir(exist_ok=True)
        replace_file(entry.folder / "recipe.json", entry.recipe.to_json().encode())
        (entry.folder / FAILURE).unlink(missing_ok=True)
        entry.token, entry.status = uuid.uuid4().hex, "training"
        try:
            step = checkpoint_step(entry.folder)
        except CheckpointError as error:
            self._say(entry, f"starts over: {error}")
            checkpoint.remove(entry.folder)
            return Ticket(entry.token, "train")
        if step is None:
            self._say(entry, "started")
            return Ticket(entry.token, "train")
        self._say(entry, f"goes on from step {step}")
        return Ticket(entry.token, "train", travelling(entry.folder))

    def keep(self, run: str, token: str, files: Files, step: int | None = None) -> None:
        """Write files of an attempt that trains; `step` is that of the checkpoint among them.

        Raises:
            Refused: when another attempt has taken its place, or the run is over.
            RunError: when a name leaves the run's folder or is not for an attempt to write.
        """
        entry = self._current(run, token)
        write(entry.folder, files, but=(RESULT,))
        if step is not None:
            self._say(entry, f"checkpoint received at step {step}")

    def finish(self, run: str, token: str, files: Files) -> None:
        """Write the last files of a run, its result after all others; a second time is refused.

        Raises:
            Refused: as `keep`.
            RunError: as `keep`, or when the result or what belongs to a finished run is missing.
        """
        entry = self._current(run, token)
        missing = [n for n in WHOLE if n not in files and not (entry.folder / n).exists()]
        missing += [] if RESULT in files else [RESULT]
        if missing:
            raise RunError(f"{entry.folder.name!r} cannot be finished without {', '.join(missing)}")
        result = json.loads(files[RESULT].tobytes())
        write(entry.folder, files)
        checkpoint.remove(entry.folder)
        for name in (JOURNAL, "launch.json"):
            (entry.folder / name).unlink(missing_ok=True)
        self._end(entry, "finished")
        self._say(entry, f"finished, top-1 {result['top1']:.2f} % in {result['seconds']:.0f} s")

    def fail(
        self, run: str, token: str | None, error: str, files: Files | None = None, attempt: int = 0
    ) -> None:
        """End a run that cannot be trained, and leave the reason in its folder.

        Args:
            run: hash of its recipe.
            token: of the attempt; None where not the attempt says so but who sent it.
            error: as `"TrainingError: …"`.
            files: that changed before.
            attempt: its number, where it had no token yet.

        Raises:
            Refused: as `keep`.
        """
        entry = self._entries[run] if token is None else self._current(run, token)
        if token is None and entry.status == "finished":
            return
        entry.attempt = max(entry.attempt, attempt)
        entry.folder.mkdir(parents=True, exist_ok=True)
        write(entry.folder, files or {}, but=(RESULT,))
        told = json.dumps({"error": error}, ensure_ascii=False)
        replace_file(entry.folder / FAILURE, told.encode())
        self._end(entry, "failed", error)
        self._say(entry, f"failed: {error}")

    def interrupt(self, run: str, token: str, files: Files, step: int | None = None) -> None:
        """Keep what an attempt sends that was asked to stop.

        Raises:
            Refused: as `keep`.
        """
        self.keep(run, token, files, step)
        self._say(self._entries[run], "stopped, with this checkpoint" if step is not None else "stopped")

    def lost(self, run: str, attempt: int, why: str) -> bool:
        """Take an attempt for lost, so that nothing more is accepted of it.

        Returns:
            Whether the run needs another one: not if this one was lost after its last word.
        """
        entry = self._entries[run]
        entry.over = max(entry.over, attempt)
        if entry.status in ("finished", "failed", "held"):
            return False
        entry.attempt, entry.token = max(entry.attempt, attempt), None
        self._say(entry, f"lost ({why})")
        return True

    def outcomes(self) -> list[Outcome]:
        """What became of the recipes, in their order."""
        return [Outcome(e.recipe, e.status, e.attempt, e.node, e.error) for e in self._entries.values()]

    def close(self) -> None:
        """Let go of all runs; no attempt is accepted any more."""
        for entry in self._entries.values():
            self._end(entry, entry.status, entry.error)

    def note(self, text: str) -> None:
        """Put a line of one's own in the log."""
        line = f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {text}"
        self.store.path.mkdir(parents=True, exist_ok=True)
        with (self.store.path / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._log(line)

    def _say(self, entry: _Entry, text: str) -> None:
        where = f" on node {entry.node}" if entry.node else ""
        self.note(f"{entry.folder.name}, attempt {entry.attempt}{where}: {text}")

    def _current(self, run: str, token: str) -> _Entry:
        entry = self._entries[run]
        if entry.token is None or token != entry.token:
            raise self._refusal(entry)
        return entry

    def _refusal(self, entry: _Entry) -> Refused:
        ended = {"finished": "the run is finished", "failed": "the run has failed", "held": "it is held"}
        why = ended.get(entry.status, "another has taken its place")
        return Refused(f"this attempt at {entry.folder.name!r} no longer counts: {why}")

    def _end(self, entry: _Entry, status: str, error: str | None = None) -> None:
        entry.status, entry.error, entry.token = status, error, None
        if entry.lease is not None:
            entry.lease.release()
            entry.lease = None


def write(folder: Path, files: Files, but: tuple[str, ...] = ()) -> None:
    """Write files into a run's folder, in an order that misleads no reader.

    Args:
        folder: of the run.
        files: by name.
        but: names that are not allowed among them.

    Raises:
        RunError: when a name leaves the folder or is not allowed; nothing is written then.
    """
    for name in files:
        _check(folder, name, but)
    for name in sorted(files, key=lambda n: _LATE.index(n) if n in _LATE else -1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Written from where it lies: a checkpoint can be half a gigabyte.
        replace_file(folder / name, cast(bytes, np.ascontiguousarray(files[name]).data))


def travelling(folder: Path, names: Container[str] | None = None) -> dict[str, np.ndarray]:
    """The files of a run's folder that go along when it is trained elsewhere, mapped rather than read.

    Args:
        folder: of the run.
        names: those of them that are asked for, None for all.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("steps.csv", "run.lock"):
        ...     _ = (folder / name).write_bytes(b"step")
        >>> {name: content.tobytes() for name, content in travelling(folder).items()}
        {'steps.csv': b'step'}
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if (
            file.is_file()
            and name not in STAYS
            and file.suffix != ".part"
            and (names is None or name in names)
        ):
            found[name] = _mapped(file)
    return found


def _mapped(file: Path) -> np.ndarray:
    if file.stat().st_size == 0:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(file, np.uint8, mode="r"))


def _check(folder: Path, name: str, but: tuple[str, ...]) -> None:
    path = PurePosixPath(name)
    plain = name == path.as_posix() and "\\" not in name and ":" not in name and not path.is_absolute()
    if not plain or not path.name or ".." in path.parts or len(path.parts) > 2:
        raise RunError(f"{name!r} is not the name of a file in a run's folder")
    if name in STAYS or name in but or path.suffix == ".part":
        raise RunError(f"{name!r} is not for an attempt to write")
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{name!r} leads out of {str(folder)!r}")
