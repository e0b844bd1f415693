"""Train these: a row of controls that trains the missing runs of a grid in the background, and stops them."""

import html
import os
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from spgca_lab.data.shipped import data_dir
from spgca_lab.explorers.controls import button, dropdown, row
from spgca_lab.runs.background import Queue, launch_all
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

CELL, GRID = "cell", "grid"
# By folder: when a notebook cell runs again, the new explorer takes over the queue of the old one.
_queues: dict[Path, Queue] = {}


def folder_text(path: Path) -> str:
    """Return "the shipped runs", or a path from the working folder where it lies below."""
    full = path.expanduser().resolve()
    if data_dir().resolve() in (full, *full.parents):
        return "the shipped runs"
    return repr(str(full.relative_to(Path.cwd()) if Path.cwd() in full.parents else path))


def writable_store(store: RunStore) -> RunStore:
    """Return the store, or `runs` of the working folder if the store is shipped or read-only."""
    path = store.path.expanduser().resolve()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    shipped = data_dir().resolve() in (path, *path.parents)
    return RunStore("runs") if shipped or not os.access(there, os.W_OK) else store


class TrainMissing(widgets.VBox):
    """A choice of missing runs, a button that trains them one after the other, and one that stops.

    `missing` returns the recipes of the chosen cell or (True) of all cells, `seconds` the expected duration of one run.
    `changed` is called after a start or a stop, `failed` with an error.
    """

    def __init__(
        self,
        store: RunStore,
        missing: Callable[[bool], list[Recipe]],
        seconds: Callable[[], float | None],
        changed: Callable[[], None],
        failed: Callable[[Exception], None],
    ):
        self.store = store
        self._missing, self._seconds, self._changed, self._failed = missing, seconds, changed, failed
        self._stopping, self._key = False, store.path.expanduser().resolve()
        tip = "Which runs: the missing seeds of the chosen α and r, or of every α and r of this method and order"
        options = [("the chosen cell", CELL), ("all missing cells of this method", GRID)]
        self.scope = dropdown("these =", options, tip=tip, width="290px")
        tip = "Train the missing runs by Eq. 6, 11, 12, one after the other, in a process of their own"
        self.train_button = button("Train these", self.train, tip=tip, icon="play")
        tip = "Stop the training with a checkpoint, from which Train these resumes, and start no further run"
        self.stop_button = button("Stop", self.stop, tip=tip, icon="stop")
        self.message = widgets.HTML()
        self.scope.observe(lambda _: self.update(), "value")
        super().__init__([row(self.scope, self.train_button, self.stop_button, self.message)])

    @property
    def queue(self) -> Queue | None:
        """The unfinished queue of this folder, None without one."""
        queue = _queues.get(self._key)
        return None if queue is None or queue.done else queue

    @property
    def active(self) -> bool:
        """True while a run that was started here trains or waits."""
        return self.queue is not None

    def queued(self, folder: Path) -> bool:
        """Return True if a run is in the queue."""
        queue = self.queue
        return queue is not None and any(handle.path == folder.absolute() for handle in queue.handles)

    def train(self) -> None:
        """Train the missing runs in the background."""
        try:
            recipes = self._missing(self.scope.value == GRID)
            if recipes and not self.active:
                self._stopping = False
                _queues[self._key] = launch_all(recipes, self.store, workers=1)
        except Exception as error:  # a class of this session, a folder that cannot be written
            self._failed(error)
            return
        self._changed()

    def stop(self) -> None:
        """Stop the queue without waiting; the present run ends after its step."""
        queue = self.queue
        if queue is not None:
            self._stopping = True
            queue.stop(wait=False)
            self._changed()

    def update(self) -> None:
        """Show the number of missing runs, their duration and folder, or the progress of the queue."""
        queue, text = self.queue, "nothing is missing"
        count = len(self._missing(self.scope.value == GRID)) if queue is None else 0
        self.train_button.disabled, self.stop_button.disabled = not count, queue is None
        if queue is not None:
            done = sum(handle.status in ("finished", "failed") for handle in queue.handles)
            doing = "stopping" if self._stopping else "training"
            text = f"{doing}: {done} of {len(queue.handles)} runs done"
        elif count:
            each = self._seconds()
            time = "duration unknown without a finished run"
            if each is not None:
                seconds = each * count
                time = f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"
            text = f"{count} run{'s' if count > 1 else ''}, {time}"
        where = f", into {folder_text(self.store.path)}" if queue is not None or count else ""
        self.message.value = html.escape(text + where)
