"""Training into a run folder: the loop with a record, resume, a lock, and Ctrl-C; and the front door `train`."""

import json
import platform
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from spgca_lab._files import NotWritten, make_folder
from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet, fingerprint
from spgca_lab.runs import checkpoint, memory
from spgca_lab.runs.follow import NAME as JOURNAL
from spgca_lab.runs.follow import EventLog, ordered_events
from spgca_lab.runs.inputs import Inputs, choose_batch_size, describe, load_inputs
from spgca_lab.runs.interrupts import Interrupt, clear_tracebacks, defer_interrupt
from spgca_lab.runs.lock import RunLock, crashed_owner
from spgca_lab.runs.memory import OutOfMemory
from spgca_lab.runs.store import Run, RunError, RunStore, RunWriter
from spgca_lab.training.events import Done, Evaluation, Event, HandOver, Snapshot, Step
from spgca_lab.training.loop import Training
from spgca_lab.training.recipe import AUTO, Recipe

CHECKPOINTS = 4

Data = tuple[ImageSet, ImageSet]


def train(
    recipe: Recipe,
    *,
    backbone: Backbone | None = None,
    data: Data | None = None,
    store: str | Path | RunStore = "runs",
    device: str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Run:
    """Train a recipe with a progress bar of stage, loss and time left, and return its run.

    Arguments, errors and warnings are those of `fit`.
    """
    events = fit(recipe, store, backbone=backbone, data=data, device=device, resume=resume)
    with tqdm(total=recipe.iterations, unit="step", disable=not progress) as bar:
        for event in events:
            if isinstance(event, Step):
                bar.update(event.step - bar.n)
                bar.set_postfix_str(f"{event.stage}, loss {event.loss:.3g}", refresh=False)
            elif progress and isinstance(event, HandOver | Evaluation):
                bar.write(str(event))
            elif isinstance(event, Done):
                bar.update(recipe.iterations - bar.n)
    assert isinstance(event, Done)
    return Run(event.path)


def fit(
    recipe: Recipe,
    store: str | Path | RunStore = "runs",
    *,
    backbone: Backbone | None = None,
    data: Data | None = None,
    device: str | None = None,
    resume: bool = True,
    lease: RunLock | None = None,
) -> Generator[Event, None, None]:
    """Train by `recipe` into a run folder, and yield each event after it was written.

    A loop that ends early, with `break` or `close()`, leaves a checkpoint of that very moment, and the next `fit`
    goes on with the event after the last one that the loop saw. So does Ctrl-C, after the current step; pressed twice
    it does not wait. A killed process goes on from its last checkpoint, written at a quarter, a half and three
    quarters of the steps.

    Args:
        recipe: what to train; `batch_size="auto"` is replaced by a number first, which the run's hash contains.
        store: folder of runs; the run's own folder in it is named after the recipe's hash.
        backbone: a source model of your own, around any `nn.Module`; None loads the recipe's.
        data: training and test images of your own; None loads the recipe's.
        device: `"cpu"`, `"cuda"`, …; None takes a GPU if there is one.
        resume: go on from the checkpoint of an interrupted run (to the same numbers, bit for bit, on a CPU), and
            answer at once with a finished one. False starts over.
        lease: lock of the run's folder, where the caller has it; by default it is taken here.

    Warns:
        PenaltyWarning: at the first step of a stage whose penalty's gradient is 100 times the cross-entropy's.

    Yields:
        `Step` after each step, `Evaluation`, `Snapshot`, `HandOver` and at last `Done`.

    Raises:
        TrainingError: when the recipe does not fit the data, the loss is no longer finite, or a reader's class fails.
        OutOfMemory: a `TrainingError`, when memory runs out or is sure to, with the batch size that would fit.
        AttentionError: when an attention returns invalid weights, naming its class and the tap.
        RecipeError: when the run was trained on objects that are not given again.
        RunBusy: when another process, or another loop of this one, trains the same recipe in the same store.
        RunError: when the run in the store was trained on another copy of its data set.

    Example:
        >>> for event in fit(Recipe(method="spgca", iterations=4, snapshots=0), store="runs"):  # doctest: +SKIP
        ...     print(event)
    """
    recipe = describe(recipe, backbone, data)
    if recipe.batch_size == AUTO:
        recipe = choose_batch_size(recipe, device, load_inputs(recipe, backbone, data))
    load = partial(load_inputs, recipe, backbone, data)
    folder = RunStore(store).folder(recipe)
    if resume and (done := _finished(folder, recipe)):
        _remove_leftovers(folder)
        yield done
        return
    make_folder(folder)
    with nullcontext() if lease is not None else RunLock.take(folder, "session"):
        if resume and (done := _finished(folder, recipe)):
            yield done
            return
        try:
            yield from _guarded(recipe, folder, load, device, afresh=not resume)
        except NotWritten as error:
            raise NotWritten(
                f"{error}; the run goes on from its last checkpoint when it is started again"
            ) from error


def _guarded(
    recipe: Recipe, folder: Path, load: Callable[[], Inputs], device: str | None, *, afresh: bool
) -> Iterator[Event]:
    try:
        yield from _RecordedTraining(recipe, folder, load(), device, afresh=afresh).events()
        return
    except GeneratorExit:
        raise
    except BaseException as error:
        full = memory.is_out_of_memory(error)
        clear_tracebacks(error, everywhere=full)
        if not full:
            raise
    # Raised out here, where no error holds the frames, and with them the tensors, of the first one.
    raise _out_of_memory(recipe, folder, load, device)


class _RecordedTraining:
    """A training whose events are written before they are yielded."""

    def __init__(self, recipe: Recipe, folder: Path, inputs: Inputs, device: str | None, *, afresh: bool):
        self.recipe, self.folder, self.inputs = recipe, folder, inputs
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        memory.check_memory(recipe, inputs.backbone, inputs.train, where)
        self.save_at = {round((k + 1) * recipe.iterations / CHECKPOINTS) for k in range(CHECKPOINTS - 1)}
        self.training = Training(
            recipe, inputs.backbone, inputs.train, inputs.test, device=where, pauses=self.save_at
        )
        self.writer, self.journal = RunWriter(folder, recipe), EventLog(folder)
        if afresh:
            self.writer.clear()
        self.steps: list[Step] = []
        self.evaluations: list[Evaluation] = []
        self.seconds, self.since = 0.0, time.perf_counter()

    def events(self) -> Iterator[Event]:
        try:
            yield from self._emit(self._begin())
            moments = self.training.moments()
            while (events := self._next(moments)) is not None:
                yield from self._emit(events)
                if self.training.step in self.save_at and not self.training.failed:
                    self._save()
            with defer_interrupt():
                done = self._finish()
            yield done
        finally:
            self.training.close()
            self.journal.close()

    def _begin(self) -> list[Event]:
        """Start the record, or restore a checkpoint and return the events that were not yielded yet."""
        state = checkpoint.read(self.folder)
        if state is None:
            self.writer.probe(**self.training.evaluator.probe())
            self.journal.begin()
            return []
        _require_same_data(self.folder, state["data"], self.recipe)
        self.seconds = state["seconds"]
        self.steps = [Step(**row) for row in json.loads(state["steps"])]
        self.evaluations = [Evaluation(**row) for row in json.loads(state["evaluations"])]
        self.training.load_state(state)
        self.journal.resume(state["events"], lambda: self._events_so_far(state["stage"], state["step"]))
        return self.journal.last(state["pending"])

    def _next(self, moments: Iterator[list[Event]]) -> list[Event] | None:
        stage = self.training.stage
        # Ctrl-C waits for a step, not for what a stage begins with, which may take minutes.
        waits = stage is not None and self.training.step < stage.end
        with defer_interrupt() if waits else nullcontext(Interrupt()) as interrupt:
            events = next(moments, None)
            if events is not None:
                self._write(events)
                if interrupt.requested and not self.training.failed:
                    self._save(pending=len(events))
        return events

    def _emit(self, events: list[Event]) -> Iterator[Event]:
        for place, event in enumerate(events):
            # The run's clock stands still while the caller has the event.
            self.seconds = self._clock()
            try:
                yield event
            except GeneratorExit:
                self.since = time.perf_counter()
                if not self.training.failed:
                    self._save(pending=len(events) - place - 1)
                raise
            self.since = time.perf_counter()

    def _write(self, events: list[Event]) -> None:
        assert self.training.stage is not None
        index = self.training.stage.index
        for event in events:
            if isinstance(event, Step):
                self.steps.append(event)
            elif isinstance(event, Evaluation):
                self.evaluations.append(event)
            elif isinstance(event, Snapshot):
                self.writer.snapshot(event, index)
        if any(not isinstance(event, Step) for event in events):
            self.writer.rows(self.steps, self.evaluations)
        self.journal.append(events, index, self._clock())

    def _save(self, pending: int = 0) -> None:
        self.writer.rows(self.steps, self.evaluations)
        state = {
            "events": self.journal.count,
            "pending": pending,
            "data": _fingerprint(self.recipe),
            "seconds": self._clock(),
            "steps": json.dumps([asdict(step) for step in self.steps]),
            "evaluations": json.dumps([asdict(evaluation) for evaluation in self.evaluations]),
        }
        checkpoint.write(self.folder, state | self.training.state())

    def _events_so_far(self, stage: int, step: int) -> list[tuple[Event, int]]:
        shots = [s for s in Run(self.folder).staged_snapshots() if s[0] <= stage and s[1].step <= step]
        return ordered_events(self.recipe, self.steps, self.evaluations, shots, stages=stage + 1)

    def _finish(self) -> Done:
        training, networks, last = self.training, self.training.networks, self.evaluations[-1]
        assert training.stage is not None
        predicted = training.predictions()
        result = {
            "top1": last.top1,
            "cross_entropy": last.cross_entropy,
            "iterations": training.step,
            "train_pictures": len(self.inputs.train),
            "test_pictures": len(self.inputs.test),
            "classes": len(self.inputs.train.classes),
            "data": _fingerprint(self.recipe),
            "image_size": networks.image_size,
            "seconds": round(self._clock(), 2),
            "device": str(networks.device),
            "engine": networks.speed.name,
            "precision": networks.speed.precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "cpu": cpu_name(),
        }
        self.writer.rows(self.steps, self.evaluations)
        weights = {f"target.{k}": v for k, v in networks.target.state_dict().items()}
        weights |= {f"penalty.{k}": v for k, v in training.stage.penalty_state().items()}
        self.writer.predictions(self.inputs.test.labels.numpy(), predicted)
        self.writer.finish(result, weights)
        self.journal.remove()
        return Done(result, self.folder)

    def _clock(self) -> float:
        return self.seconds + time.perf_counter() - self.since


def _finished(folder: Path, recipe: Recipe) -> Done | None:
    if not (folder / "result.json").exists():
        return None
    result = Run(folder).result or {}
    _require_same_data(folder, result.get("data"), recipe)
    return Done(result, folder)


def _fingerprint(recipe: Recipe) -> str | None:
    # Images given as objects may have the name of an installed set.
    return fingerprint(str(recipe.dataset)) if recipe.data_code is None else None


def _remove_leftovers(folder: Path) -> None:
    """Remove the files of a process that was killed between its result and its end."""
    left = [folder / name for name in (*checkpoint.FILES, JOURNAL, "launch.json")]
    # Nothing is locked without need: shipped runs may lie in folders that cannot be written.
    if crashed_owner(folder) is None and not any(file.exists() for file in left):
        return
    with suppress(RunError, OSError), RunLock.take(folder, "session", patience=0.0):
        for file in (*left, *folder.rglob("*.part")):
            file.unlink(missing_ok=True)


def _require_same_data(folder: Path, seen: str | None, recipe: Recipe) -> None:
    if seen and (here := _fingerprint(recipe)) and seen != here:
        raise RunError(
            f"{str(folder)!r} was trained on another copy of its data set (fingerprint {seen}) than the one that is "
            f"installed here ({here}): use another store, or start over with resume=False (--fresh)"
        )


def _out_of_memory(
    recipe: Recipe, folder: Path, load: Callable[[], Inputs], device: str | None
) -> OutOfMemory:
    where, largest = device or ("cuda" if torch.cuda.is_available() else "cpu"), None
    memory.release_memory(where)
    with suppress(Exception):
        inputs = load()
        largest = memory.estimate_memory(recipe, inputs.backbone, inputs.train, where).largest_batch
    return OutOfMemory(
        f"memory ran out on {where} with batch_size={recipe.batch}, {recipe.backbone} at "
        f"{recipe.image_size or 'its own'} px, run {folder.name!r}: {memory.advice(recipe, largest)}; "
        "the last checkpoint stays"
    )


def cpu_name() -> str:
    """Return the processor's name: equal recipes give equal bits on equal processors."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    words = [fields[key] for key in ("model name", "cpu family", "model", "stepping") if key in fields]
    return " ".join(words) or f"{platform.processor()} {platform.machine()}".strip()
