"""TrainingMonitor: one run while it trains, in a process of its own that can be paused, stopped and resumed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import numpy as np

from spgca_lab.explorers import controls as ui
from spgca_lab.explorers.attention import attention_sentence, entropies, weights_view
from spgca_lab.explorers.base import Explorer, State, Ticker
from spgca_lab.explorers.controls import Control
from spgca_lab.explorers.forward import alphas_text
from spgca_lab.explorers.images import EMBEDDED, ImageBatch, ImageStrip
from spgca_lab.explorers.method_orders import has_attention
from spgca_lab.plots.panels.attention import ChannelView, SpatialView
from spgca_lab.plots.panels.monitor import MONITOR_HEIGHT, TERMS, MonitorView, monitor_panel
from spgca_lab.plots.style import LabFigure, method_label
from spgca_lab.runs.background import RunHandle, prepare
from spgca_lab.runs.follow import EventReader, Progress
from spgca_lab.runs.lock import lock_owner, pending_request, send_request
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.events import Evaluation, HandOver, Snapshot, Step
from spgca_lab.training.recipe import Recipe

POLL_SECONDS = 0.5
STATUS_TEXT = {
    "begun": "not started",
    "running": "training",
    "paused": "paused",
    "interrupted": "stopped, with a checkpoint to resume from",
    "failed": "failed",
    "finished": "finished",
}
BAR_STYLE = {"finished": "success", "failed": "danger", "paused": "warning"}


@dataclass(frozen=True)
class MonitorState(State):
    """Probe image (from 0) whose attention is shown, and the heatmaps' opacity (0–1)."""

    picture: int = 0
    opacity: float = 0.65


class TrainingMonitor(Explorer[MonitorState]):
    """One run: its progress and time left, loss terms, accuracy and attention as they change.

    The run trains in a process of its own, and its folder is the only link. Therefore Pause and Stop act at once, a
    restarted kernel opens the monitor on the same folder and shows what has happened since, and any number of monitors
    may watch one run.

    Args:
        run: a recipe (the run starts on a click), a `RunHandle` of `launch`, a `Run`, or its folder.
        store: folder of runs, for a recipe.
        device: device for a recipe: `"cpu"`, `"cuda"`, …; None takes a GPU if there is one.

    Raises:
        ExplorerError: when `run` is none of these.
        RunError: when the folder holds no run.
        RecipeError: when the recipe's class lives only in this session.
    """

    about = "Loss terms, accuracy and attention of one training run"
    details_height = "11.5em"
    tips: ClassVar = {
        "picture": "Probe image x (Eq. 1): a test image whose attention the run saves",
    }
    table = (
        {"bar": 0, "clock": 0},
        {"resume_button": 0, "pause_button": 0, "stop_button": 0, "detach_box": 0},
        {"strip": 0},
        {"picture": 250, "opacity": 230},
    )

    def __init__(
        self,
        run: Recipe | RunHandle | Run | str | Path,
        store: RunStore | str | Path = "runs",
        *,
        device: str | None = None,
        state: MonitorState | None = None,
    ):
        if not isinstance(run, Recipe | RunHandle | Run | str | Path):
            raise ui.ExplorerError(f"run must be a Recipe, a RunHandle, a Run or a run's folder, got {run!r}")
        self.device = device
        if isinstance(run, Recipe):
            run = prepare(run, store, device=device, detach=False, threads=None)
        self.handle = run if isinstance(run, RunHandle) else RunHandle(run)
        self.tail = EventReader(self.handle.path)
        self.steps: list[Step] = []
        self.evaluations: list[Evaluation] = []
        self.changes: list[tuple[int, str]] = []
        self.snapshot: Snapshot | None = None
        self.images: ImageBatch | None = None
        self.read_events()
        super().__init__(state or MonitorState(), MONITOR_HEIGHT)
        if not isinstance(self._given["run"], Recipe):
            self._given["run"] = str(self.handle.path)
        self.ticker = Ticker(self, "poll", POLL_SECONDS)
        self._show_process()
        if self.handle.status != "finished":
            self.ticker.start()

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.handle.recipe

    def controls(self) -> Sequence[widgets.Widget]:
        """Return progress and the three buttons; the probe image and the opacity."""
        tip = "Optimiser steps taken, of the recipe's iterations (the paper: 9,000)"
        layout = widgets.Layout(width="300px")
        self.bar = widgets.IntProgress(max=self.recipe.iterations, tooltip=tip, layout=layout)
        self.clock = widgets.HTML()
        tip = "Train in a process of its own, from the checkpoint if there is one"
        self.resume_button = ui.button("Start", lambda: self._act(self.start), tip=tip)
        tip = "Pause after the present step; memory stays in use"
        self.pause_button = ui.button("Pause", lambda: self._act(self.handle.pause), icon="pause", tip=tip)
        tip = "End the process with a checkpoint; its memory is released"
        stop = partial(self.handle.stop, wait=False)
        self.stop_button = ui.button("Stop", lambda: self._act(stop), icon="stop", tip=tip)
        self.detach_box = widgets.Checkbox(
            description="continue when this session ends",
            tooltip="Otherwise the run stops with a checkpoint when the kernel ends; it can always be resumed",
            indent=False,
            layout=widgets.Layout(width="auto"),
        )
        self.strip = ImageStrip(lambda n: self.set_value("picture", n), lambda _: None, own=False)
        self.strip.layout.min_height = "76px"
        return super().controls()

    def update_controls(self) -> None:
        """Show the probe images as soon as the run has them."""
        if self.images is not None:
            self.strip.show(self.images, self.state.picture, EMBEDDED)
        super().update_controls()

    def ranges(self, state: MonitorState) -> Iterator[Control]:
        """Yield the probe's images and the opacity; channel weights have no heatmaps."""
        yield Control(
            "picture", range(self.recipe.probe if self.images is None else len(self.images)), label="image"
        )
        yield Control("opacity", off=self.snapshot is not None and self.snapshot.kind != "spatial")

    def start(self) -> None:
        """Start the run, or resume it from its checkpoint or from a pause."""
        path = self.handle.path
        if lock_owner(path) is None:
            detach = self.detach_box.value
            prepare(self.recipe, path.parent, device=self.device, detach=detach, threads=None)
        self.handle.resume()

    def poll(self) -> None:
        """Show what is new in the folder; called twice a second while the run trains."""
        try:
            if lock_owner(self.handle.path) is None and pending_request(self.handle.path) == "stop":
                send_request(self.handle.path, None)
            if self.read_events():
                self.clear_drawn()
                self._move(self.state)
            self._show_process()
        except Exception as error:  # a deleted folder must not stop the timer silently
            self.show_error(error)

    def read_events(self) -> bool:
        """Read the events since the last call, and return True if there are any."""
        found = self.tail.read()
        self.steps += [event for event in found if isinstance(event, Step)]
        self.evaluations += [event for event in found if isinstance(event, Evaluation)]
        self.changes += [(event.step, event.begins) for event in found if isinstance(event, HandOver)]
        self.snapshot = next((e for e in reversed(found) if isinstance(e, Snapshot)), self.snapshot)
        if self.images is None and (self.handle.path / "probe.npz").exists():
            self.images = ImageBatch.of_run(self.handle.run)
        return bool(found)

    def view(self, state: MonitorState) -> MonitorView:
        """Return the run so far, as arrays."""
        recipe, steps, images = self.recipe, self.steps, self.images
        stages = [stage.name for stage in recipe.stages().stages]
        alpha = dict(zip(stages, recipe.alphas, strict=True))
        terms = [(s.cross_entropy, alpha[s.stage] * s.penalty, recipe.beta * s.decay) for s in steps]
        return MonitorView(
            iterations=recipe.iterations,
            steps=np.array([s.step for s in steps], dtype=float),
            terms=dict(zip(TERMS, np.array(terms).reshape(-1, 3).T, strict=True)),
            accuracy=np.array([s.accuracy for s in steps]),
            stages=np.array([s.stage for s in steps], dtype=str),
            tests=[(e.step, e.top1) for e in self.evaluations],
            changes=[(step, method_label(name)) for step, name in [(0, stages[0]), *self.changes]],
            image=None if images is None else images.images[state.picture],
            mask=None if images is None else images.mask(state.picture),
            attention=self._attention(state.picture),
        )

    def figure(self, state: MonitorState | None = None) -> LabFigure:
        """Draw loss terms, accuracy, and the last snapshot's attention."""
        state = state or self.state
        return monitor_panel(self.view(state), state.opacity)

    def status(self, state: MonitorState) -> str:
        """Return the recipe, the run's status, its process and folder."""
        recipe, process = self.recipe, lock_owner(self.handle.path)
        parts = [
            f"{method_label(str(recipe.method))}, α = {alphas_text(recipe)}, β = {recipe.beta:g}, r = {recipe.r}",
            f"{recipe.backbone} → {recipe.dataset}, seed {recipe.seed}",
            STATUS_TEXT[self.handle.status] + (f" by {process}" if process is not None else ""),
            f"folder {self.handle.path.name}",
        ]
        return " · ".join(parts)

    def caption(self, state: MonitorState) -> str:
        """Return the progress, and the last step, evaluation and snapshot."""
        if not self.steps:
            return "Nothing is trained yet: press Start."
        last, view = self.steps[-1], self.view(state)
        whole = sum(float(values[-1]) for values in view.terms.values())
        share = 100 * float(view.terms["α · penalty"][-1]) / whole
        sentence = (
            f"Step {last.step} of {self.recipe.iterations}, {method_label(last.stage)}: cross-entropy "
            f"{last.cross_entropy:.3g} nats, α · penalty {share:.2g} % of the loss"
        )
        if self.evaluations:
            sentence += f"; test top-1 {self.evaluations[-1].top1:.1f} %"
        if isinstance(view.attention, str):
            return sentence + "."
        return f"{sentence}. {attention_sentence(view.attention, view.mask)}"

    def details_html(self, state: MonitorState) -> str:
        """Return accuracies, and the entropy of the last snapshot."""
        rows = [
            [e.step, method_label(e.stage), f"{e.top1:.2f}", f"{e.cross_entropy:.3f}"]
            for e in reversed(self.evaluations)
        ]
        table = ui.table_html(["step", "stage", "test top-1, %", "test cross-entropy, nats"], rows)
        if self.snapshot is None:
            return table
        weights = {tap: w[state.picture] for tap, w in self.snapshot.weights.items()}
        values = ", ".join(f"{v:.3f}" for v in entropies(weights).values())
        head = f"{method_label(self.snapshot.stage)} at step {self.snapshot.step}: entropy, nats"
        return ui.table_html([head], [[values]]) + table

    def _attention(self, picture: int) -> SpatialView | ChannelView | str:
        snapshot = self.snapshot
        if snapshot is None:
            if self.recipe.snapshots and has_attention(str(self.recipe.method)):
                return "no attention yet: the first snapshot comes with the first step"
            return f"{method_label(str(self.recipe.method))} has no attention to show"
        weights = {tap: w[picture].astype(float) for tap, w in snapshot.weights.items()}
        return weights_view(f"{method_label(snapshot.stage)} at step {snapshot.step}", weights, snapshot.kind)

    def _show_process(self) -> None:
        status, done = self.handle.status, self.handle.progress
        stopping = status in ("running", "paused") and pending_request(self.handle.path) == "stop"
        self.resume_button.description = "Start" if status == "begun" else "Resume"
        self.resume_button.icon = "play" if status != "finished" else ""
        self.resume_button.disabled = status in ("running", "finished") or stopping
        self.pause_button.disabled = status != "running" or stopping
        self.stop_button.disabled = status not in ("running", "paused") or stopping
        self.detach_box.disabled = status in ("running", "paused", "finished")
        self.bar.value = done.step
        self.bar.bar_style = BAR_STYLE.get(status, "info")
        self.clock.value = f"<span>{_clock_text(done, 'stopping' if stopping else status)}</span>"
        if status == "failed":
            self.status_line.value = ui.alert_html(f"The run failed. {self.handle.failure}")
        elif not self.ticker.running and status != "finished":
            self.ticker.start()
        if status == "finished" and self.tail.done:
            self.ticker.stop()
        # A folder may be named role=alert, but escaped text has no quotation mark.
        elif 'role="alert"' not in self.status_line.value:
            self.status_line.value = ui.paragraph_html(self.status(self.state))

    def _act(self, action: Callable[[], Any]) -> None:
        try:
            action()
            self.status_line.value = ui.paragraph_html(self.status(self.state))
            self._show_process()
        except Exception as error:  # a full disk, another user's lock
            self.show_error(error)


def _clock_text(done: Progress, status: str) -> str:
    parts = [f"step {done.step} of {done.iterations}", f"{_duration(done.seconds)} so far"]
    if status == "running" and done.left is not None:
        parts.append(f"about {_duration(done.left)} left")
    elif status != "running":
        parts.append(STATUS_TEXT.get(status, status))
    return " · ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
