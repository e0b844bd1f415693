"""TrainingMonitor: one run while it trains, in a process of its own that can be paused, stopped and resumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from spgca_lab.explorers.attention import channel_words, entropies, spatial_words
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.parts import (
    ExplorerError,
    alert,
    button,
    need_index,
    need_share,
    opacity_control,
    paragraph,
    row,
    slider,
    table_html,
)
from spgca_lab.explorers.pictures import Pictures, pictures_of_run
from spgca_lab.explorers.strip import EMBEDDED, PictureStrip
from spgca_lab.explorers.ticker import Ticker
from spgca_lab.plots.attention import relative_maps
from spgca_lab.plots.panels.attention import ChannelView, SpatialView
from spgca_lab.plots.panels.monitor import MONITOR_HEIGHT, TERMS, MonitorView, monitor_panel
from spgca_lab.plots.style import LabFigure, method_label
from spgca_lab.runs.background import RunHandle, prepare
from spgca_lab.runs.follow import Progress, Tail
from spgca_lab.runs.lock import ask, asked, holder
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.events import Evaluation, HandOver, Snapshot, Step
from spgca_lab.training.recipe import Recipe

__all__ = ["MonitorState", "TrainingMonitor"]

EVERY = 0.5
WORDS = {
    "begun": "not started",
    "running": "training",
    "paused": "paused",
    "interrupted": "stopped, with a checkpoint to go on from",
    "failed": "failed",
    "finished": "finished",
}


@dataclass(frozen=True)
class MonitorState(State):
    """Probe picture (from 0) whose attention is shown, and the heatmaps' opacity (0–1)."""

    picture: int = 0
    opacity: float = 0.65


class TrainingMonitor(Explorer[MonitorState]):
    """One run: how far it is and how long it will take, its loss terms, accuracy and attention as they change.

    The run trains in a process of its own; its folder is the only link. So Pause and Stop work at once, a
    restarted kernel opens the monitor on the same folder and sees what has happened since, and any number of
    monitors may watch one run.

    Args:
        run: a recipe (it starts when asked), a `RunHandle` as `launch` returns it, a `Run`, or its folder.
        store: folder of runs, for a recipe.
        device: for a recipe: `"cpu"`, `"cuda"`, …; None takes a GPU if there is one.
        state: what to show first.

    Raises:
        ExplorerError: when `run` is none of these.
        RunError: when the folder holds no run.
        RecipeError: when the recipe's class lives only in this session.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> TrainingMonitor(data_dir() / "runs" / "spgca-8fa85ab40f55").handle.status
        'finished'
    """

    about = "Loss terms, accuracy and attention of one training run"
    details_height = "11.5em"

    def __init__(
        self,
        run: Recipe | RunHandle | Run | str | Path,
        store: RunStore | str | Path = "runs",
        *,
        device: str | None = None,
        state: MonitorState | None = None,
    ):
        self.store, self.device = store, device
        self.handle = _handle(run, store, device)
        self.tail = Tail(self.handle.path)
        self.steps: list[Step] = []
        self.evaluations: list[Evaluation] = []
        self.changes: list[tuple[int, str]] = []
        self.snapshot: Snapshot | None = None
        self.pictures: Pictures | None = None
        self.news()
        given: dict[str, Any] = {"run": str(self.handle.path)}
        if isinstance(run, Recipe):
            given = {"run": run, "store": None if store == "runs" else store, "device": device}
        super().__init__(state or MonitorState(), MONITOR_HEIGHT, given | {"state": state})
        self.ticker = Ticker(self, "poll", EVERY)
        self._show_process()
        if self.handle.status != "finished":
            self.ticker.start()

    @property
    def recipe(self) -> Recipe:
        """What is trained."""
        return self.handle.recipe

    def controls(self) -> list[widgets.Widget]:
        """Progress and the three buttons; the probe picture and the opacity."""
        self.bar = widgets.IntProgress(
            max=self.recipe.iterations,
            tooltip="Optimiser steps taken, of the recipe's iterations (the paper: 9,000)",
            layout=widgets.Layout(width="300px"),
        )
        self.clock = widgets.HTML()
        self.resume_button = button(
            "Start", tip="Train in a process of its own, from the checkpoint if there is one"
        )
        self.pause_button = button(
            "Pause", icon="pause", tip="Hold after the present step; memory stays in use"
        )
        self.stop_button = button(
            "Stop", icon="stop", tip="End the process with a checkpoint; its memory comes back"
        )
        self.detach_box = widgets.Checkbox(
            description="go on when this session ends",
            tooltip="Otherwise the run stops with a checkpoint when the kernel ends; it can always be resumed",
            indent=False,
            layout=widgets.Layout(width="auto"),
        )
        self.resume_button.on_click(lambda _: self._act(self.start))
        self.pause_button.on_click(lambda _: self._act(self.handle.pause))
        self.stop_button.on_click(lambda _: self._act(lambda: self.handle.stop(wait=False)))
        self.strip = PictureStrip(lambda n: self._moved("picture", n), lambda _: None, own=False)
        self.strip.layout.min_height = "76px"
        tip = "Probe picture x (Eq. 1): a test picture whose attention the run keeps"
        self.picture_slider = self.bind(
            slider("picture", self.recipe.probe - 1, tip=tip, live=True), "picture"
        )
        self.opacity_slider = self.bind(opacity_control(), "opacity")
        buttons = (self.resume_button, self.pause_button, self.stop_button, self.detach_box)
        return [
            row(self.bar, self.clock),
            row(*buttons),
            self.strip,
            row(self.picture_slider, self.opacity_slider),
        ]

    def sync(self) -> None:
        """The strip shows the probe as soon as the run has one."""
        if self.pictures is not None:
            self.picture_slider.max = len(self.pictures) - 1
            self.strip.show(self.pictures, self.state.picture, EMBEDDED)
        # Channel weights have no heatmaps, so their opacity is nothing.
        self.opacity_slider.disabled = self.snapshot is not None and self.snapshot.kind != "spatial"
        super().sync()

    def check(self, state: MonitorState) -> None:
        """The picture must be one of the probe."""
        need_index(
            "picture", state.picture, self.recipe.probe if self.pictures is None else len(self.pictures)
        )
        need_share("opacity", state.opacity)

    def start(self) -> None:
        """Begin, or go on from the checkpoint or from a pause."""
        if holder(self.handle.path) is None:
            prepare(
                self.recipe,
                self.handle.path.parent,
                device=self.device,
                detach=self.detach_box.value,
                threads=None,
            )
        self.handle.resume()

    def poll(self) -> None:
        """See what is new in the folder and show it; called twice a second while the run goes on."""
        try:
            if holder(self.handle.path) is None and asked(self.handle.path) == "stop":
                ask(self.handle.path, None)
            if self.news():
                self.forget_drawn()
                self._follow()
                self.refresh()
            self._show_process()
        except Exception as error:  # a folder that someone has deleted must not end the clock without a word
            self.fail(error)

    def news(self) -> bool:
        """Read the events since the last call; whether there are any."""
        found = self.tail.read()
        for event in found:
            if isinstance(event, Step):
                self.steps.append(event)
            elif isinstance(event, Evaluation):
                self.evaluations.append(event)
            elif isinstance(event, Snapshot):
                self.snapshot = event
            elif isinstance(event, HandOver):
                self.changes.append((event.step, event.begins))
        if self.pictures is None and (self.handle.path / "probe.npz").exists():
            self.pictures = pictures_of_run(self.handle.run)
        return bool(found)

    def view(self, state: MonitorState) -> MonitorView:
        """The run so far, as arrays."""
        stages = [stage.name for stage in self.recipe.stages().stages]
        alpha = dict(zip(stages, self.recipe.alphas, strict=True))
        terms = np.array(
            [(s.cross_entropy, alpha[s.stage] * s.penalty, self.recipe.beta * s.decay) for s in self.steps]
        ).reshape(-1, 3)
        pictures = self.pictures
        return MonitorView(
            iterations=self.recipe.iterations,
            steps=np.array([s.step for s in self.steps], dtype=float),
            terms=dict(zip(TERMS, terms.T, strict=True)),
            accuracy=np.array([s.accuracy for s in self.steps]),
            stages=np.array([s.stage for s in self.steps], dtype=str),
            tests=[(e.step, e.top1) for e in self.evaluations],
            changes=[(step, method_label(name)) for step, name in [(0, stages[0]), *self.changes]],
            image=None if pictures is None else pictures.images[state.picture],
            mask=None if pictures is None else pictures.mask(state.picture),
            attention=self._attention(state.picture),
        )

    def figure(self, state: MonitorState | None = None) -> LabFigure:
        """Loss terms, accuracy, and the last snapshot's attention."""
        state = state or self.state
        return monitor_panel(self.view(state), state.opacity)

    def status(self, state: MonitorState) -> str:
        """What is trained, where, and by whom."""
        recipe = self.recipe
        alphas = " and ".join(f"{a:g}" for a in dict.fromkeys(recipe.alphas))
        words = [f"{method_label(str(recipe.method))}, α = {alphas}, β = {recipe.beta:g}, r = {recipe.r}"]
        words.append(f"{recipe.backbone} → {recipe.dataset}, seed {recipe.seed}")
        status = self.handle.status
        who = holder(self.handle.path)
        words.append(WORDS[status] + (f" by {who}" if who is not None else ""))
        words.append(f"folder {self.handle.path.name}")
        return " · ".join(words)

    def caption(self, state: MonitorState) -> str:
        """How far it is and what the last step and snapshot say."""
        if not self.steps:
            return "Nothing is trained yet: press Start."
        last, total = self.steps[-1], self.recipe.iterations
        view = self.view(state)
        whole = sum(float(values[-1]) for values in view.terms.values())
        penalty = float(view.terms["α · penalty"][-1])
        words = f"Step {last.step} of {total}, {method_label(last.stage)}: cross-entropy {last.cross_entropy:.3g} nats"
        words += f", α · penalty {100 * penalty / whole:.2g} % of the loss"
        if self.evaluations:
            words += f"; test top-1 {self.evaluations[-1].top1:.1f} %"
        attention = view.attention
        if isinstance(attention, ChannelView):
            return f"{words}. {channel_words(attention)}"
        if isinstance(attention, SpatialView):
            return f"{words}. {spatial_words(attention, view.mask)}"
        return words + "."

    def details_html(self, state: MonitorState) -> str:
        """Accuracies and the evenness of the last snapshot."""
        rows = [
            [e.step, method_label(e.stage), f"{e.top1:.2f}", f"{e.cross_entropy:.3f}"]
            for e in self.evaluations
        ]
        table = table_html(["step", "stage", "test top-1, %", "test cross-entropy, nats"], rows[::-1])
        if self.snapshot is None:
            return table
        weights = {tap: w[state.picture] for tap, w in self.snapshot.weights.items()}
        values = ", ".join(f"{v:.3f}" for v in entropies(weights).values())
        name = method_label(self.snapshot.stage)
        head = f"{name} at step {self.snapshot.step}: entropy, nats"
        return table_html([head], [[values]]) + table

    def close(self) -> None:
        """Take it off the page; the run goes on."""
        if "ticker" in self.__dict__:  # ipywidgets closes what could not be made, too
            self.ticker.stop()
        super().close()

    def _attention(self, picture: int) -> SpatialView | ChannelView | str:
        if self.snapshot is None:
            known = any(
                s.penalty is not None and s.penalty.kind != "none" for s in self.recipe.stages().stages
            )
            if known and self.recipe.snapshots:
                return "no attention yet: the first snapshot comes with the first step"
            return f"{method_label(str(self.recipe.method))} has no attention to show"
        weights = {tap: w[picture].astype(float) for tap, w in self.snapshot.weights.items()}
        name = f"{method_label(self.snapshot.stage)} at step {self.snapshot.step}"
        if self.snapshot.kind == "spatial":
            return SpatialView(name, {tap: relative_maps(w)[0] for tap, w in weights.items()})
        return ChannelView(name, weights, abs(sum(float(w.sum()) for w in weights.values()) - 1) < 0.02)

    def _show_process(self) -> None:
        status, done = self.handle.status, self.handle.progress
        ending = status in ("running", "paused") and asked(self.handle.path) == "stop"
        alive = status in ("running", "paused") and not ending
        label = "Start" if status == "begun" else "Resume"
        icon = "play" if status != "finished" else ""
        for name, value in (("description", label), ("icon", icon)):
            setattr(self.resume_button, name, value)
        self.resume_button.disabled = status in ("running", "finished") or ending
        self.pause_button.disabled = not (alive and status == "running")
        self.stop_button.disabled = not alive
        self.detach_box.disabled = status in ("running", "paused", "finished")
        self.bar.value = done.step
        self.bar.bar_style = {"finished": "success", "failed": "danger", "paused": "warning"}.get(
            status, "info"
        )
        self.clock.value = f"<span>{_clock(done, 'stopping' if ending else status)}</span>"
        if status == "failed":
            self.status_line.value = alert(f"The run failed. {self.handle.failure}")
        elif not self.ticker.running and status != "finished":
            self.ticker.start()
        if status == "finished" and self.tail.done:
            self.ticker.stop()
        # A folder may be called role=alert; but no word has a quotation mark once it is HTML.
        elif 'role="alert"' not in self.status_line.value:
            self.status_line.value = paragraph(self.status(self.state))

    def _act(self, action: Any) -> None:
        try:
            action()
            self.status_line.value = paragraph(self.status(self.state))
            self._show_process()
        except Exception as error:  # a full disk, a lock of someone else
            self.fail(error)


def _handle(run: Any, store: RunStore | str | Path, device: str | None) -> RunHandle:
    if isinstance(run, Recipe):
        return prepare(run, store, device=device, detach=False, threads=None)
    if isinstance(run, RunHandle):
        return run
    if isinstance(run, Run | str | Path):
        return RunHandle(run)
    raise ExplorerError(f"run must be a Recipe, a RunHandle, a Run or a run's folder, got {run!r}")


def _clock(done: Progress, status: str) -> str:
    words = [f"step {done.step} of {done.iterations}", f"{_span(done.seconds)} so far"]
    if status == "running" and done.left is not None:
        words.append(f"about {_span(done.left)} left")
    elif status != "running":
        words.append(WORDS.get(status, status))
    return " · ".join(words)


def _span(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
