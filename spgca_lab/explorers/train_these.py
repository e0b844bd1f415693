"""Train these: the row of controls that starts what a grid lacks in the background, and stops it."""

import html
import os
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from spgca_lab.data.location import data_dir
from spgca_lab.explorers.parts import button, picker, row
from spgca_lab.runs.queues import Queue, launch_all
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["TrainThese", "place_for", "place_words"]

OWN = "runs"
CELL, GRID = "cell", "grid"
# By folder: when a cell of a notebook runs again, the new explorer takes over what the old one started.
_queues: dict[Path, Queue] = {}


def place_words(path: Path) -> str:
    """A folder as a reader knows it: the shipped runs, or a path from the working folder where it lies below.

    Example:
        >>> place_words(data_dir() / "runs"), place_words(Path("runs"))
        ('the shipped runs', "'runs'")
    """
    full = path.expanduser().resolve()
    if data_dir().resolve() in (full, *full.parents):
        return "the shipped runs"
    inside = Path.cwd() in full.parents
    return repr(str(full.relative_to(Path.cwd()) if inside else path))


def place_for(store: RunStore) -> RunStore:
    """Where new runs of a store go: the store itself, or `runs` of the working folder if it is shipped or read-only.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> place_for(RunStore(data_dir() / "runs")).path.name
        'runs'
    """
    path = store.path.expanduser().resolve()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    shipped = data_dir().resolve() in (path, *path.parents)
    return RunStore(OWN) if shipped or not os.access(there, os.W_OK) else store


class TrainThese(widgets.VBox):
    """Which of the missing runs to train, a button that starts them one after the other, and one that stops.

    Args:
        store: where they go.
        missing: recipes of the chosen cell, or of all cells (`True`).
        pace: seconds of one run, None when unknown.
        launched: called after a start or a stop.
        failed: called with what went wrong.
    """

    def __init__(
        self,
        store: RunStore,
        missing: Callable[[bool], list[Recipe]],
        pace: Callable[[], float | None],
        launched: Callable[[], None],
        failed: Callable[[Exception], None],
    ):
        self.store = store
        self._missing, self._pace, self._launched, self._failed = missing, pace, launched, failed
        self._stopping = False
        tip = "Which runs: the missing seeds of the chosen α and r, or of every α and r of this method and order"
        options = [("the chosen cell", CELL), ("all missing cells of this method", GRID)]
        self.what = picker("these =", options, tip=tip, width="290px")
        tip = "Train the missing runs by Eq. 6, 11, 12, one after the other, in a process of their own"
        self.train_button = button("Train these", tip=tip, icon="play")
        tip = "Stop the training with a checkpoint, from which Train these goes on; start no more"
        self.stop_button = button("Stop", tip=tip, icon="stop")
        self.words = widgets.HTML()
        self.what.observe(lambda _: self.describe(), "value")
        self.train_button.on_click(lambda _: self.train())
        self.stop_button.on_click(lambda _: self.stop())
        super().__init__([row(self.what, self.train_button, self.stop_button, self.words)])

    @property
    def queue(self) -> Queue | None:
        """What was started for this folder and has not ended."""
        queue = _queues.get(self._key)
        if queue is not None and queue.done:
            del _queues[self._key]
            return None
        return queue

    @property
    def active(self) -> bool:
        """Whether something that was started here trains or waits."""
        return self.queue is not None

    def queued(self, folder: Path) -> bool:
        """Whether a run waits for its turn."""
        queue = self.queue
        return queue is not None and any(handle.path == folder.absolute() for handle in queue.handles)

    def train(self) -> None:
        """Start what is missing."""
        try:
            recipes = self._missing(self.what.value == GRID)
            if recipes and not self.active:
                self._stopping = False
                _queues[self._key] = launch_all(recipes, self.store, workers=1)
        except Exception as error:  # a class of this session, a folder that cannot be written
            self._failed(error)
            return
        self._launched()

    def stop(self) -> None:
        """Stop it, without waiting: a run ends with the step at hand."""
        queue = self.queue
        if queue is not None:
            self._stopping = True
            queue.stop(wait=False)
            self._launched()

    def describe(self) -> None:
        """Say how many runs that is, how long they take and where they go; or how far they are."""
        queue = self.queue
        self.train_button.disabled, self.stop_button.disabled = queue is not None, queue is None
        if queue is not None:
            done = sum(handle.status in ("finished", "failed") for handle in queue.handles)
            words = (
                f"{'stopping' if self._stopping else 'training'}: {done} of {len(queue.handles)} runs done"
            )
        else:
            count = len(self._missing(self.what.value == GRID))
            self.train_button.disabled = not count
            words = (
                "nothing is missing"
                if not count
                else f"{count} run{'s' if count > 1 else ''}, {self._time(count)}"
            )
        words += (
            f", into {place_words(self.store.path)}"
            if queue is not None or not self.train_button.disabled
            else ""
        )
        self.words.value = html.escape(words)

    @property
    def _key(self) -> Path:
        return self.store.path.expanduser().resolve()

    def _time(self, count: int) -> str:
        pace = self._pace()
        if pace is None:
            return "no finished run tells how long"
        seconds = pace * count
        return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"
