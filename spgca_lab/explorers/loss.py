"""LossExplorer: the terms of a batch's loss, and the norms of their gradients in every layer (Eq. 6, 11, 12)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import numpy as np
from torch import nn

from spgca_lab.analysis.gradients import StageTerms
from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet
from spgca_lab.explorers import controls as ui
from spgca_lab.explorers.as_code import recipe_source
from spgca_lab.explorers.base import Explorer
from spgca_lab.explorers.controls import Control, ExplorerError
from spgca_lab.explorers.loss_data import DELTA_IMAGES, SMALL, LossData, LossState, needs_filters
from spgca_lab.explorers.method_orders import uses_reduction
from spgca_lab.plots.panels.loss import LOSS_HEIGHT, LossView, loss_panel, percent, short_number
from spgca_lab.plots.style import LabFigure, layer_names, method_label
from spgca_lab.regularizers.penalties import SCALES
from spgca_lab.regularizers.registry import METHODS, STAGES, MethodError, Stage, method_name, resolve_method
from spgca_lab.runs.store import Run
from spgca_lab.training.objective import TrainingError

ORDERS = ("gca->spa", "act->ast")
ALPHAS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
BETAS = (0.0, 0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RATES = (1, 2, 4, 8, 16, 32)
SIZES = (2, 4, 8, 16, 32)
OWN_TIP = "A penalty of your own: a subclass of lab.Attention or lab.Penalty, whose loss α weighs in Eq. 6"
BATCHES = 1000
SLIDER_BATCHES = 50
NEGLIGIBLE, DOMINANT = 0.01, 3.0
TABLE_HEAD = [
    "stage",
    "at",
    "‖g_CE‖",
    "α‖g_penalty‖",
    "own term",
    "β‖g_decay‖",
    "÷ task's",
    "cosine",
    "‖g_loss‖",
    "equal norms at",
]
TABLE_NOTE = (
    "– : the term does not act there. The decay acts on the head only: at the taps its share is 0. Norms are over the "
    "whole batch's map (at the head: its parameters) and include what reaches the loss through deeper taps; ‘own term’ "
    "is α‖g_penalty‖ by the layer's own term of the penalty alone. In the sentence, a penalty is negligible below "
    f"{NEGLIGIBLE:g} × the task's gradient norm (a layer's own term below {NEGLIGIBLE / 10:g} ×) and dominates the "
    f"task from {DOMINANT:g} × on."
)


class LossExplorer(Explorer[LossState]):
    r"""The shares of task, penalty and decay in the loss of a batch, and in its gradient at every tap.

    $$L_{Total} = L_{CE}(f(x, W_T), y) + \alpha \cdot L_{penalty} + \beta \cdot WD \qquad (6), (11), (12)$$

    Every stage is shown as it begins, with fresh attention nets, on a batch of its training: in the first S is the
    source, in the second T at the hand-over. α and β only rescale what was measured.

    Args:
        backbone: S, or its name.
        dataset: `"stickers"`, a folder with one folder per class, or an `ImageSet`; None takes the run's data set,
            without a run the stickers.
        target: trained T: a finished `Run` (whose backbone is then S), or a module with the backbone's taps and head;
            None takes the shipped run for `mini` and stickers.

    Raises:
        ExplorerError: when the state does not exist, or the images cannot be used.
        BackboneError: for an unknown backbone.
        RunError: when the run has no weights.

    Example:
        >>> from spgca_lab import load_backbone
        >>> explorer = LossExplorer(load_backbone("mini", weights="random"))
        >>> explorer.show(method="afa", scale="literal")
        >>> "negligible" in explorer.caption(explorer.state)
        True
    """

    about = "Loss terms of one batch and the norms of their gradients at every tap"
    details_height = "24em"
    tips: ClassVar = {
        "method": "The stages in their order: penalties of Eq. 3, 5, 8, 10, and baselines (Tables 4, 5, 7)",
        "target": "T of Eq. 6: as a training starts (S with a fresh head), or trained",
        "alpha": "α, weight of the penalty in Eq. 6, 11, 12",
        "beta": "β, weight of the decay WD of T's head in Eq. 6, 11, 12",
        "r": "r, reduction rate of GCA's hidden layer ΣC/r (Eq. 9, Table 2, Table 6)",
        "scale": "Size of the softmax weights in Eq. 3, 5, 8, 10: as printed, as in the AFA release, or relative",
        "target_bn": "BatchNorm of T: train mode as in the references, or eval mode; S (FM_S of Eq. 3) is in eval",
        "place": "Where x and y of Eq. 6 come from: a folder with one folder per class; empty: the first images",
        "batch_size": "Images per step: Eq. 6 is a mean over them",
        "batch": "Which batch (x, y) of Eq. 6: that of this training step, from 0",
        "seed": "Seed of a Recipe: T's head, the attention nets of Eq. 2, 4, 7, 9, order and crops of the images x",
    }
    table = (
        {"method": 230, "own_text": 0, "target": 240},
        {"alpha": 250, "alpha_button": 0, "beta": 220, "r": 190},
        {"scale": 160, "target_bn": 220, "place": 330},
        {"batch_size": 220, "batch": 220, "seed": 180},
    )

    def __init__(
        self,
        backbone: str | Backbone = "mini",
        dataset: str | Path | ImageSet | None = None,
        target: nn.Module | Run | None = None,
        *,
        state: LossState | None = None,
    ):
        self.data, self.own = LossData(backbone, dataset, target), list[str]()
        self.places = [*layer_names(self.data.backbone.taps), "head"]
        super().__init__(self.data.first if state is None else self.data.completed(state), LOSS_HEIGHT)
        # Two stages need a caption of three lines.
        self.caption_line.layout.height = "4.4em"

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the controls, with a field for a reader's own penalty and a button for the default of α."""
        self.own_text = ui.text_field("your own", "file.py:Class", tip=OWN_TIP, width="260px")
        self.own_text.observe(self._typed, "value")
        tip = "Back to the α of Eq. 6 that a Recipe of this method and scale takes by itself"
        self.alpha_button = ui.button("recipe's α", lambda: self.show(alpha=None), tip=tip)
        return super().controls()

    def ranges(self, state: LossState) -> Iterator[Control]:
        """Yield what is offered; a recipe checks method, α, β and seed."""
        stages, trained = resolve_method(state.method).stages, self.data.target is not None
        if state.method not in (*METHODS, *ORDERS, *self.own):
            self.own.append(state.method)
        methods = [(_method_text(name), name) for name in (*METHODS, *ORDERS, *self.own)]
        yield Control("method", methods, "choice", allowed="")
        yield Control("scale", SCALES, "choice", off=not any(stage.scaled for stage in stages))
        modes = [("train mode", "train"), ("eval mode", "eval")]
        yield Control("target_bn", modes, "choice", "BatchNorm of T")
        targets = [("start (T = S, fresh head)", "start"), ("trained", "trained")]
        yield Control("target", targets[: 1 + trained], "choice", "T", allowed=targets)
        channels = range(1, self.data.channels + 1)
        rates = _stops([r for r in RATES if r in channels], state.r)
        yield Control("r", rates, live=False, allowed=channels, off=not uses_reduction(state.method))
        sizes, known = _stops(SIZES, state.batch_size), range(2, SIZES[-1] + 1)
        yield Control("batch_size", sizes, label="batch size", live=False, allowed=known)
        batches = range(max(SLIDER_BATCHES, state.batch + 1))
        yield Control("batch", batches, live=False, allowed=range(BATCHES))
        yield Control("place", "your own: a folder of class folders", "text", "images", allowed="")
        recipe, plain = self.data.recipe(state), all(stage.penalty is None for stage in stages)
        yield Control("alpha", _stops(ALPHAS, recipe.alpha), label="α", allowed="", off=plain)
        yield Control("beta", _stops(BETAS, state.beta), label="β", allowed="")
        yield Control("seed", range(max(10, state.seed + 1)), live=False, allowed="")

    def shown(self, name: str) -> Any:
        """Return the value at which a control stands; an α of None is shown as the recipe's number."""
        return self.data.recipe(self.state).alpha if name == "alpha" else super().shown(name)

    def update_controls(self) -> None:
        """Disable the button for the default of α where it is shown."""
        self.alpha_button.disabled = self.state.alpha is None
        super().update_controls()

    def adjust(self, state: LossState, given: set[str]) -> LossState:
        """Turn a class into its name, and replace an α, T or batch size that no longer fits."""
        try:
            state = replace(state, method=method_name(state.method))
            if "method" in given and state.method in self.own:
                # A reader's class may have changed under its name.
                self.data.clear()
                self.clear_drawn()
            stages = len(resolve_method(state.method).stages)
        except MethodError as error:
            raise ExplorerError(str(error)) from error
        if isinstance(state.alpha, tuple) and len(state.alpha) != stages and "alpha" not in given:
            state = replace(state, alpha=None)
        if not isinstance(state.place, str):
            raise ExplorerError(f"place must be '' or the path of a folder, got {state.place!r}")
        if "place" in given:
            count, size = len(self.data.images(state.place)), state.batch_size
            if "target" not in given and self.data.target_problem(state.place):
                state = replace(state, target="start")
            if "batch_size" not in given and isinstance(size, int) and size > count >= 2:
                state = replace(state, batch_size=count)
        return state

    def check(self, state: LossState) -> None:
        """Raise `ExplorerError` unless every value exists and the batch has a loss and gradients."""
        try:
            super().check(state)
            stages = self.data.recipe(state).stages().stages
        except ValueError as error:
            raise ExplorerError(str(error)) from error
        if len(stages) > 2:
            raise ExplorerError(
                f"{state.method!r} has {len(stages)} stages; here is room for two. Every stage after the first begins "
                "as a second one does, so show it as such, e.g. 'spa->gca'"
            )
        if needs_filters(stages) and self.data.image_size > SMALL:
            raise ExplorerError(
                f"{state.method!r}: DELTA first zeroes every filter in turn, which takes minutes on "
                f"{self.data.backbone.name} at {self.data.image_size} px; choose the backbone 'mini'"
            )
        if state.target == "trained" and (why := self.data.target_problem(state.place)):
            raise ExplorerError(f"target 'trained' cannot be shown: {why}; choose 'start'")
        try:
            self.data.terms(state)
        except (ValueError, TrainingError) as error:
            raise ExplorerError(str(error)) from error

    def figure(self, state: LossState | None = None) -> LabFigure:
        """Draw the loss terms and gradient norms of the method's stages, and the batch."""
        state = state or self.state
        views = [self._view(state, index) for index in range(len(self.data.terms(state)))]
        crops = f"{state.batch_size} random crops of {self.data.image_size} px"
        batch = f"batch {state.batch} of a training with seed {state.seed}: {crops}"
        return loss_panel(views, self.data.batch(state)[0], batch)

    def status(self, state: LossState) -> str:
        """Return the origin of T, the networks' modes, and the origin of the batch."""
        terms, stages = self.data.terms(state)[0], self.data.recipe(state).stages().stages
        mode = "eval" if all(stage.trains == "head" for stage in stages) else state.target_bn
        parts = [f"T: {self.data.about_target(state)}"]
        if state.target == "trained":
            parts.append(f"{terms.accuracy:.0f} % of the batch right")
        parts.append(f"S in eval mode, T's BatchNorm in {mode} mode; attention nets fresh, seed {state.seed}")
        parts.append(self.data.images(state.place).describe())
        if needs_filters(stages):
            parts.append(
                f"DELTA's filters were weighed on {DELTA_IMAGES} images (training takes up to 64), at β = "
                f"{LossState.beta:g}"
            )
        return " · ".join(parts)

    def caption(self, state: LossState) -> str:
        """Return how each penalty's gradient compares with the task's."""
        sentences = [
            _stage_sentence(stage, terms, alpha, state.beta, str(state.scale))
            for stage, terms, alpha in self._stages(state)
        ]
        if len(sentences) == 1:
            return f"{sentences[0][0].upper()}{sentences[0][1:]}."
        return f"Stage 1: {sentences[0]}; stage 2: {sentences[1]}."

    def details_html(self, state: LossState) -> str:
        """Return every norm, that of the whole loss, and the weight at which both norms would be equal."""
        rows: list[list[Any]] = []
        for stage, terms, alpha in self._stages(state):
            rows += _table_rows(_stage_label(stage.name), self.places, terms, alpha, state.beta)
        return ui.table_html(TABLE_HEAD, rows, left=2) + ui.paragraph_html(TABLE_NOTE)

    def code(self, state: LossState) -> str:
        """Return the recipe with the values shown, and the call of the explorer."""
        lines = super().code(state).splitlines()
        comment = "# trains with the values shown: for event in lab.fit(recipe): print(event)"
        if isinstance(self.data.dataset, ImageSet) and not state.place:
            comment = "# a recipe takes images by the path of their folder: add dataset=..."
        recipe = [comment, f"recipe = {recipe_source(self.data.recipe(state))}", ""]
        return "\n".join([*lines[:2], *recipe, *lines[2:]])

    def _stages(self, state: LossState) -> list[Any]:
        recipe = self.data.recipe(state)
        return list(zip(recipe.stages().stages, self.data.terms(state), recipe.alphas, strict=True))

    def _view(self, state: LossState, index: int) -> LossView:
        stages, beta = self._stages(state), state.beta
        stage, terms, alpha = stages[index]
        label = _stage_label(stage.name)
        # Where only the head is trained, T's backbone is in eval mode whatever the recipe says.
        mode = "eval" if stage.trains == "head" else state.target_bn
        source = f"S = {self.data.backbone.name}" if index == 0 else "S = T at the hand-over"
        norms = [np.where(pull.acts, pull.norms(alpha, beta), np.nan) for pull in terms.gradients]
        return LossView(
            title=label if len(stages) == 1 else f"stage {index + 1}: {label}",
            factors=f"α = {alpha:g}, β = {beta:g}" + (f", scale {state.scale}" if stage.scaled else ""),
            about=f"{source} (eval) · T: {state.target} (BatchNorm: {mode})",
            parts=terms.parts(alpha, beta),
            places=self.places,
            norms=np.array(norms),
            ratios=[pull.ratio(alpha, beta) for pull in terms.gradients],
            cosines=[pull.cosine(alpha, beta) for pull in terms.gradients],
            own=[alpha * pull.own for pull in terms.gradients],
            note=_stage_note(stage, terms, index, str(state.target), state.target_bn),
        )

    def _typed(self, change: dict) -> None:
        if change["new"].strip():
            self.set_value("method", change["new"].strip())


def _stops(values: Sequence[float], shown: Any) -> list[tuple[str, Any]]:
    """Return a slider's stops with the value that it shows among them; a tuple of one α per stage is the first."""
    if isinstance(shown, tuple):
        return [(" | ".join(f"{v:g}" for v in shown), shown), *((f"{v:g}", v) for v in values)]
    return [(f"{v:g}", v) for v in sorted({*values, shown})]


def _stage_label(name: str) -> str:
    """Return a stage's name as the field writes it; a reader's own class keeps its name."""
    return method_label(name) if name in STAGES else name


def _method_text(method: str) -> str:
    """Return a method and the order of its stages, e.g. "AFA: AST→ACT"."""
    order = "→".join(_stage_label(stage.name) for stage in resolve_method(method).stages)
    name = method_label(method)
    return order if method not in METHODS or name == order else f"{name}: {order}"


def _stage_sentence(stage: Stage, terms: StageTerms, alpha: float, beta: float, scale: str) -> str:
    """Return how the penalty's gradient compares with the task's, its direction, and its share of the loss."""
    name, parts = _stage_label(stage.name), terms.parts(alpha, beta)
    loss = math.fsum(parts)
    share, decay = (percent(part / loss if loss else 0.0) for part in parts[1:])
    if stage.penalty is None:
        times = short_number(terms.head.ratio(alpha, beta))
        decay = f"β·decay, {decay} of the loss,"
        return f"{name} trains the head alone: there {decay} has {times} × the task's gradient norm"
    if alpha == 0:
        return f"{name} is off (α = 0): at the taps only the task has a gradient"
    if not any(pull.acts[1] for pull in terms.taps):
        return f"{name}, {share} of the loss, acts on T's weights: at the taps only the task has a gradient"
    ratios = [pull.ratio(alpha, beta) for pull in terms.taps]
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    if not any(known):
        return f"{name} is exactly 0: at the taps only the task has a gradient"
    largest = ratios.index(max(known))
    ratio, layer = ratios[largest], f"layer {largest + 1}"
    under = f"under {scale}, " if stage.scaled else ""
    if ratio < NEGLIGIBLE:
        below = f"{short_number(1 / ratio)} × below the task's in {layer}, its largest"
        return f"{under}{name} is negligible: gradient norm {below}; {share} of the loss"
    # The figure prints the cosine with two decimals, and the sentence must agree with it.
    cosine = round(terms.taps[largest].cosine(alpha, beta), 2)
    side = "along with it" if cosine >= 0.1 else "against it" if cosine <= -0.1 else "across it"
    times = f"{short_number(ratio)} × the task's ({layer}, {side})"
    if ratio >= DOMINANT:
        return f"{name} dominates the task: gradient norm {times}, {share} of the loss"
    own = [pull.own_ratio(alpha) for pull in terms.taps]
    weakest = min((value, i) for i, value in enumerate([*own, math.inf]) if not math.isnan(value))
    if 0 < weakest[0] < NEGLIGIBLE / 10:
        below = f"{short_number(1 / weakest[0])} × below the task's; in all at most {short_number(ratio)} ×"
        return f"{under}{name}'s own term is negligible in layer {weakest[1] + 1} ({below})"
    return f"{name}'s gradient norm is at most {times}; {name} is {share} of the loss"


def _stage_note(stage: Stage, terms: StageTerms, index: int, target: str, target_bn: str) -> str:
    """Return why bars are missing, or the remaining difference of S and T; empty where neither applies."""
    if stage.trains == "head":
        return "only the head is trained: no gradient is taken at the taps"
    if stage.penalty is not None and not any(pull.acts[1] for pull in terms.taps):
        return "this penalty acts on T's weights directly: it has no gradient at the maps"
    if index == 0 and target == "trained":
        return ""
    here = "as it begins" if index else "at the start"
    if target_bn == "eval":
        return f"{here} T has S's weights and S's BatchNorm mode: FM_S = FM_T"
    return f"{here} T has S's weights: only BatchNorm differs, eval in S, train in T"


def _table_rows(
    label: str, places: Sequence[str], terms: StageTerms, alpha: float, beta: float
) -> list[list[Any]]:
    """Return one row per tap and one for the head, under `TABLE_HEAD`."""
    rows: list[list[Any]] = []
    for place, pull in zip(places, terms.gradients, strict=True):
        # A term that does not act there has no norm.
        ce, penalty, decay = np.where(pull.acts, pull.norms(alpha, beta), math.nan)
        cosine, head_only = pull.cosine(alpha, beta), pull is terms.head and not pull.acts[1]
        crossing = pull.crossing(2 if head_only else 1)
        norms = [ce, penalty, alpha * pull.own, decay, pull.ratio(alpha, beta)]
        direction = "–" if math.isnan(cosine) else f"{cosine:+.3f}".replace("-", "−")
        equal = "–" if math.isnan(crossing) else f"{'β' if head_only else 'α'} = {short_number(crossing)}"
        total = short_number(pull.total(alpha, beta))
        rows.append([label, place, *map(short_number, norms), direction, total, equal])
    return rows
