"""fit: train T under a method's stages, one event at a time, into a run folder."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spgca_lab._files import NotWritten, make_folder
from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.data import fingerprint
from spgca_lab.runs.follow import in_order, stage_bounds
from spgca_lab.runs.interrupts import held, let_go
from spgca_lab.runs.lock import Lease
from spgca_lab.runs.record import Record, finished, same_data, sweep
from spgca_lab.runs.store import RunStore
from spgca_lab.training.batches import check_batch
from spgca_lab.training.evaluate import Examiner
from spgca_lab.training.events import Done, Evaluation, Event, HandOver, Step
from spgca_lab.training.footprint import (
    OutOfMemory,
    check_room,
    fitting,
    out_of_memory,
    predict_memory,
    settle_batch_size,
)
from spgca_lab.training.memory import give_back
from spgca_lab.training.objective import TrainingError
from spgca_lab.training.processes import Processes
from spgca_lab.training.recipe import AUTO, Recipe
from spgca_lab.training.seeding import processor
from spgca_lab.training.stage import StageSteps, Training
from spgca_lab.training.staging import hand_over, load_data, stage_of

__all__ = ["TrainingError", "fit", "hand_over", "load_data", "processor", "stage_of"]

CHECKPOINTS = 4


def fit(
    recipe: Recipe,
    store: str | Path | RunStore = "runs",
    *,
    device: str | None = None,
    resume: bool = True,
    lease: Lease | None = None,
    processes: Processes | None = None,
) -> Generator[Event, None, None]:
    r"""Train by `recipe`, yielding what happens and writing a run folder.

    $$L_{Total} = L_{CE}(f(x, W_T), y) + \alpha \cdot L_{penalty} + \beta \cdot WD \qquad (6), (11), (12)$$

    SGD with momentum on T and, where they learn, the attention nets; S frozen in eval mode. Between two stages T's
    backbone becomes the source, with BatchNorm buffers and without its head; T keeps its head, the attention of the
    next stage starts anew and so does the momentum. Accuracies are those of the last iterate.

    A loop that ends early, with `break` or `close()`, leaves a checkpoint of that very moment, and the next `fit`
    goes on with the event after the last one that the loop saw. So does Ctrl-C, after the step at hand; pressed twice
    it does not wait. A process that is killed goes on from the last checkpoint that it wrote, at a quarter, a half or
    three quarters of the steps.

    Under `torchrun` all processes train one run: each calls `fit` with the same recipe, takes its part of every batch
    of `batch_size` pictures, and is given the same events; who leaves the loop early must do so in all after the same
    one. The loss curve is that of one process up to rounding, unless T draws dropout; a penalty of your own must then
    be a mean over the pictures, or not look at them. Only the main process writes, and what it left behind any number
    of processes can resume.

    Args:
        recipe: what to train; with `batch_size="auto"` it is settled first, and the run is that of the number.
        store: folder of runs; the run's own folder in it is named after the recipe's hash.
        device: `"cpu"`, `"cuda"`, …; None takes a GPU if there is one.
        resume: go on from the checkpoint of an interrupted run (to the same numbers, bit for bit, on a CPU), and
            answer at once with a finished one. False starts over.
        lease: of the run's folder, where the caller holds it; by default it is taken here.
        processes: that train, where the caller has asked for them (`device` is theirs then); by default those of
            `torchrun`, or this one alone.

    Warns:
        PenaltyWarning: at the first step of a stage whose penalty's gradient is 100 times the cross-entropy's.

    Yields:
        `Step` after each step, `Evaluation`, `Snapshot`, `HandOver` and at last `Done`.

    Raises:
        TrainingError: when the recipe does not fit the data or the number of processes, the loss stops being finite, or
            another process is gone.
        OutOfMemory: a `TrainingError`, when memory runs out or is sure to, with the batch size that would fit.
        AttentionError: when an attention gives weights that are none, naming its class and the tap.
        RunBusy: when another process, or another loop of this one, trains the same recipe in the same store.
        RunError: when the run in the store saw another copy of a published data set than the one installed here.

    Source:
        Sec. 3.3 and 4.2 of the paper; details that it leaves open as in the AFA release, see `docs/paper_notes.md`.

    Example:
        >>> for event in fit(Recipe(method="spgca", iterations=4, snapshots=0), store="runs"):  # doctest: +SKIP
        ...     print(event)
    """
    processes = processes or Processes.current(device)
    # The main process' memory decides for all.
    size = processes.from_main(lambda: settle_batch_size(recipe, device, processes).batch_size)
    recipe = recipe.replace(batch_size=size) if recipe.batch_size == AUTO else recipe
    folder = (store if isinstance(store, RunStore) else RunStore(store)).folder(recipe)

    def earlier() -> Done | None:
        return finished(folder, fingerprint(str(recipe.dataset))) if resume else None

    if done := processes.from_main(earlier):
        processes.on_main(lambda: sweep(folder))
        yield done
        return
    processes.rows(recipe.batch)
    # The caller's lease is the main process' alone; a lease cannot be told.
    leased = processes.from_main(lambda: lease is not None)
    with (None if leased else processes.on_main(lambda: _take(folder))) or nullcontext():
        if done := processes.from_main(earlier):
            yield done
            return
        record = Record(folder, recipe, processes, afresh=not resume)
        try:
            yield from _events(recipe, record, processes)
        except NotWritten as error:
            raise NotWritten(
                f"{error}; the run goes on from its last checkpoint when it is started again"
            ) from error
        except Exception as error:
            if not processes.lost(error):
                raise
            raise TrainingError(
                f"another of the {processes.count} processes that train {folder.name!r} is gone: see what it says "
                "itself; the same command goes on from the last checkpoint"
            ) from error


def _events(recipe: Recipe, record: Record, processes: Processes) -> Iterator[Event]:
    try:
        yield from _Run(recipe, record, processes).events()
        return
    except GeneratorExit:
        raise
    except BaseException as error:
        full = out_of_memory(error)
        let_go(error, everywhere=full)
        if not full:
            raise
    # Raised out here, where no error holds the frames, and with them the tensors, of the one that is reported.
    raise _no_room(recipe, record, processes)


def _no_room(recipe: Recipe, record: Record, processes: Processes) -> OutOfMemory:
    """What to say once memory ran out: it is empty again, so the training can be measured."""
    largest = None
    give_back(processes.device)
    with suppress(Exception):
        largest = predict_memory(recipe, str(processes.device)).largest
    # What was measured fits, and did not: other things took memory in between.
    largest = None if largest is not None and largest >= recipe.batch else largest
    return OutOfMemory(
        f"memory ran out on {processes.device} with batch_size={recipe.batch}, {recipe.backbone} at "
        f"{recipe.image_size or 'its own'} px, run {record.folder.name!r}: {fitting(recipe, largest)}; what it "
        "had saved is kept"
    )


class _Run:
    def __init__(self, recipe: Recipe, record: Record, processes: Processes):
        self.recipe, self.record, self.processes = recipe, record, processes
        self.device = processes.device
        with processes.first_here():
            backbone: Backbone = load_backbone(recipe.backbone, weights=recipe.weights)
            self.size = recipe.image_size or backbone.image_size
            self.train, self.test = load_data(recipe, self.size)
        check_batch(recipe, self.train, str(recipe.dataset))
        self.training = Training(recipe, backbone, self.train, self.size, processes)
        at_once = check_room(self.training)
        self.source, self.target, self.head = self.training.source, self.training.target, backbone.head
        self.stages = recipe.stages().stages
        self.steps: list[Step] = []
        self.evaluations: list[Evaluation] = []
        self.done = 0
        self.examiner = Examiner(backbone, self.test, self.size, self.device, recipe.probe, at_once)
        self.seconds = 0.0
        self.since = time.perf_counter()

    def events(self) -> Iterator[Event]:
        try:
            yield from self._events()
        finally:
            self.training.close()
            self.record.close()

    def _events(self) -> Iterator[Event]:
        checkpoint = self.record.checkpoint()
        first = 0
        if checkpoint:
            first = self._recall(checkpoint)
        else:
            self.record.begin(self.examiner.probe)
        self.since = time.perf_counter()
        bounds = stage_bounds(self.recipe.iterations, len(self.stages))
        for index in range(first, len(self.stages)):
            snap_at = self._snapshot_steps(bounds[index], bounds[index + 1])
            if checkpoint and index == first:
                parts = StageSteps(self.training, index)
                self._restore(parts, checkpoint)
                yield from self._emit(parts, self.record.last(checkpoint.get("pending", 0)))
            else:
                due: list[Event] = []
                if index > 0:
                    hand_over(self.target, self.source, self.head, self.head)
                    due.append(HandOver(self.done, self.stages[index - 1].name, self.stages[index].name))
                parts = StageSteps(self.training, index)
                if self.done in snap_at:
                    due += self._snapshot(parts)
                self._write(parts, due)
                yield from self._emit(parts, due)
            yield from self._run_stage(parts, bounds[index], bounds[index + 1], snap_at)
        with held():
            done = self._finish(parts)
        yield done

    def _run_stage(self, parts: StageSteps, start: int, end: int, snap_at: set[int]) -> Iterator[Event]:
        total = self.recipe.iterations
        evaluate_at = {
            round((k + 1) * total / self.recipe.evaluations) for k in range(self.recipe.evaluations)
        }
        save_at = {round((k + 1) * total / CHECKPOINTS) for k in range(CHECKPOINTS)} - {total}
        halts = snap_at | evaluate_at | save_at | {end}
        while self.done < end:
            with held() as ctrl_c:
                while True:
                    parts.step(self.done)
                    self.done += 1
                    if parts.due or self.done in halts or ctrl_c.asked:
                        break
                steps, error = parts.read()
                self.steps += steps
                due: list[Event] = [*steps]
                if error is None and self.done in snap_at:
                    due += self._snapshot(parts)
                if error is None and self.done in evaluate_at:
                    evaluation = self.processes.from_main(lambda: self._accuracy(parts)[0])
                    self.evaluations.append(evaluation)
                    due.append(evaluation)
                self._write(parts, due)
                if error is None and ctrl_c.asked:
                    self._save(parts, pending=len(due))
            if error is not None:
                # Only after a wait of several steps: T is past saving, what came before is as good as ever.
                yield from steps
                raise error
            yield from self._emit(parts, due)
            if self.done in save_at:
                self._save(parts)

    def _snapshot_steps(self, start: int, end: int) -> set[int]:
        kept = max(2, self.recipe.snapshots // len(self.stages)) if self.recipe.snapshots else 0
        return set(np.linspace(start, end, kept).round().astype(int).tolist())

    def _write(self, parts: StageSteps, due: list[Event]) -> None:
        """Write down what is due at one step, all of it before the first event is yielded."""
        if any(not isinstance(event, Step) for event in due):
            self.record.tables(self.steps, self.evaluations)
        self.record.append(due, parts.index, self._clock())

    def _emit(self, parts: StageSteps, due: list[Event]) -> Iterator[Event]:
        for place, event in enumerate(due):
            # While the reader has the event, drawing it or pausing, the run's clock stands.
            self.seconds = self._clock()
            try:
                yield event
            except GeneratorExit:
                self.since = time.perf_counter()
                self._save(parts, pending=len(due) - place - 1)
                raise
            self.since = time.perf_counter()

    def _clock(self) -> float:
        return self.seconds + time.perf_counter() - self.since

    def _snapshot(self, parts: StageSteps) -> list[Event]:
        snapshot = self.processes.from_main(
            lambda: self.examiner.attention(parts.objective, self.done, parts.stage.name)
        )
        if snapshot is None:
            return []
        self.record.snapshot(snapshot, parts.index)
        return [snapshot]

    def _accuracy(self, parts: StageSteps) -> tuple[Evaluation, np.ndarray]:
        return self.examiner.accuracy(self.target, self.done, parts.stage.name)

    def _save(self, parts: StageSteps, pending: int = 0) -> None:
        self.record.tables(self.steps, self.evaluations)
        self.record.save(
            lambda: {
                "step": self.done,
                "data": fingerprint(str(self.recipe.dataset)),
                "stage": parts.index,
                "pending": pending,
                "seconds": self._clock(),
                "source": self.source.state_dict(),
                "target": self.target.state_dict(),
                "stage_head": parts.head,
                "penalty": parts.penalty_state(),
                "optimiser": parts.optimiser.state_dict(),
                "steps": json.dumps([asdict(s) for s in self.steps]),
                "evaluations": json.dumps([asdict(e) for e in self.evaluations]),
            }
        )

    def _recall(self, checkpoint: dict[str, Any]) -> int:
        """Take up what does not belong to the stage, and say which stage it was."""
        recipe = self.recipe
        same_data(self.record.folder, checkpoint.get("data"), fingerprint(str(recipe.dataset)))
        self.done, self.seconds = checkpoint["step"], checkpoint["seconds"]
        # Checkpoints of version 0.1.0 say neither the stage nor how many events there had been.
        stage = checkpoint.get("stage", stage_of(self.done, recipe.iterations, len(self.stages)))
        self.source.load_state_dict(checkpoint["source"])
        self.steps = [Step(**row) for row in json.loads(checkpoint["steps"])]
        self.evaluations = [Evaluation(**row) for row in json.loads(checkpoint["evaluations"])]
        # The stage's penalty is built from T as it was when the stage began: the source's weights.
        hand_over(self.source, self.target, self.head, self.head)
        self.target.get_submodule(self.head).load_state_dict(checkpoint["stage_head"])

        def so_far() -> list[tuple[Event, int]]:
            kept = [
                (of, shot) for of, shot in self.record.snapshots() if of <= stage and shot.step <= self.done
            ]
            return in_order(recipe, self.steps, self.evaluations, kept, stages=stage + 1)

        self.record.resume(checkpoint.get("events"), so_far)
        return stage

    def _restore(self, parts: StageSteps, checkpoint: dict[str, Any]) -> None:
        self.target.load_state_dict(checkpoint["target"])
        if parts.objective.penalty is not None:
            parts.objective.penalty.load_state_dict(checkpoint["penalty"])
        parts.optimiser.load_state_dict(checkpoint["optimiser"])

    def _finish(self, parts: StageSteps) -> Done:
        last, predicted = self.processes.from_main(lambda: self._accuracy(parts))
        result = {
            "top1": last.top1,
            "cross_entropy": last.cross_entropy,
            "iterations": self.done,
            "train_pictures": len(self.train),
            "test_pictures": len(self.test),
            "classes": len(self.train.classes),
            "data": fingerprint(str(self.recipe.dataset)),
            "image_size": self.size,
            "seconds": round(self._clock(), 2),
            "device": str(self.device),
            "engine": self.training.engine.name,
            "precision": self.training.engine.precision,
            "processes": self.processes.count,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "cpu": processor(),
        }
        self.record.tables(self.steps, self.evaluations)
        weights = {f"target.{k}": v for k, v in self.target.state_dict().items()}
        weights |= {f"penalty.{k}": v for k, v in parts.penalty_state().items()}
        # What the main process says of time and machine is what all are told.
        return self.processes.from_main(
            lambda: self.record.finish(result, self.test.labels.numpy(), predicted, weights)
        )


def _take(folder: Path) -> Lease:
    make_folder(folder)
    return Lease.take(folder, "session")
