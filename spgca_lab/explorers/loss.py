"""LossExplorer: which term makes up the loss of a batch, and which one pulls at T, layer by layer (Eq. 6, 11, 12)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from torch import nn

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet
from spgca_lab.explorers.base import Explorer
from spgca_lab.explorers.code import spell_recipe
from spgca_lab.explorers.loss_data import DELTA_PICTURES, SMALL, LossData, LossState, needs_filters
from spgca_lab.explorers.loss_words import (
    MUCH,
    NOTHING,
    TABLE_HEAD,
    method_words,
    note_on,
    sentence,
    stage_label,
    table_rows,
)
from spgca_lab.explorers.method_orders import reduces
from spgca_lab.explorers.parts import (
    ExplorerError,
    button,
    choice,
    need_index,
    need_one_of,
    offer,
    paragraph,
    picker,
    row,
    slider,
    table_html,
    text,
)
from spgca_lab.plots.panels.loss import LOSS_HEIGHT, LossView, loss_panel
from spgca_lab.plots.style import LabFigure, layer_names
from spgca_lab.regularizers.penalties import SCALES
from spgca_lab.regularizers.registry import METHODS, MethodError, method_name, resolve_method
from spgca_lab.runs.store import Run
from spgca_lab.training.objective import TrainingError

__all__ = ["LossExplorer", "LossState"]

ORDERS = ("gca->spa", "act->ast")
ALPHAS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
BETAS = (0.0, 0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RATES = (1, 2, 4, 8, 16, 32)
SIZES = (2, 4, 8, 16, 32)
BATCHES = 1000
SLIDER_BATCHES = 50


class LossExplorer(Explorer[LossState]):
    r"""How much of the loss, and of the gradient at every tap, comes from the task, the penalty and the decay.

    $$L_{Total} = L_{CE}(f(x, W_T), y) + \alpha \cdot L_{penalty} + \beta \cdot WD \qquad (6), (11), (12)$$

    Every stage is shown as it begins, with fresh attention nets, on a batch of its training: in the first S is the
    source, in the second T at the hand-over. α and β only rescale what was measured.

    Args:
        backbone: S, or its name.
        dataset: `"stickers"`, a folder with a folder a class, or an `ImageSet`; None takes what the run trained on,
            without a run the stickers.
        target: trained T: a finished `Run` (whose backbone is then S), or a module with the backbone's taps and head.
            For `mini` and stickers the run that the lab was shipped with, when there is none.
        state: what to show first.

    Raises:
        ExplorerError: when the state does not exist, or the pictures cannot be used.
        BackboneError: for an unknown backbone.
        RunError: when the run has no weights.

    Example:
        >>> from spgca_lab import load_backbone
        >>> explorer = LossExplorer(load_backbone("mini", weights="random"))
        >>> explorer.show(method="afa", scale="literal")
        >>> "does nothing" in explorer.caption(explorer.state)
        True
    """

    about = "Loss terms of one batch and the norms of their gradients at every tap"
    details_height = "24em"

    def __init__(
        self,
        backbone: str | Backbone = "mini",
        dataset: str | Path | ImageSet | None = None,
        target: nn.Module | Run | None = None,
        *,
        state: LossState | None = None,
    ):
        given = {
            "backbone": None if backbone == "mini" or isinstance(target, Run) else backbone,
            "dataset": dataset,
            "target": target,
            "state": state,
        }
        self.data, self.own = LossData(backbone, dataset, target), list[str]()
        first = self.data.first if state is None else self.settle(self.data.filled(state), set())
        super().__init__(first, LOSS_HEIGHT, given)
        # Two stages need a sentence of three lines.
        self.caption_line.layout.height = "4.4em"

    def controls(self) -> list[widgets.Widget]:
        """Method and T; α, β, r, scale and BatchNorm; pictures and batch."""
        tip = "The stages in their order: penalties of Eq. 3, 5, 8, 10 and what they are compared with (Tables 4, 5, 7)"
        self.method_choice = self.bind(picker("method", ["spgca"], tip=tip, width="230px"), "method")
        tip = (
            "A penalty of your own: a subclass of lab.Attention or lab.Penalty, whose loss α weighs in Eq. 6"
        )
        self.own_text = text("your own", "file.py:Class", tip=tip, width="260px")
        self.own_text.observe(self._typed, "value")
        tip = "T of Eq. 6: as a training starts (S with a fresh head), or trained"
        targets = [("start (T = S, fresh head)", "start"), ("trained", "trained")]
        self.target_choice = self.bind(
            picker("T", targets[: 2 if self.data.target is not None else 1], tip=tip, width="240px"), "target"
        )
        tip = "α, weight of the penalty in Eq. 6, 11, 12"
        self.alpha_slider = choice("α", [0.0], tip=tip, width="250px", live=True)
        self.alpha_slider.observe(lambda change: self._weighed("alpha", change["new"]), "value")
        tip = "Back to the α of Eq. 6 that a Recipe of this method and scale takes by itself"
        self.alpha_button = button("recipe's α", tip=tip)
        self.alpha_button.on_click(lambda _: self.show(alpha=None))
        tip = "β, weight of the decay WD of T's head in Eq. 6, 11, 12"
        self.beta_slider = choice("β", [0.01], tip=tip, width="220px", live=True)
        self.beta_slider.observe(lambda change: self._weighed("beta", change["new"]), "value")
        tip = "r, reduction rate of GCA's hidden layer ΣC/r (Eq. 9, Table 2, Table 6)"
        self.r_slider = choice("r", [4], tip=tip, width="190px")
        self.r_slider.observe(lambda change: self._weighed("r", change["new"]), "value")
        tip = "Size of the softmax weights in Eq. 3, 5, 8, 10: as printed, as in the AFA release, or relative"
        self.scale_choice = self.bind(picker("scale", SCALES, tip=tip, width="160px"), "scale")
        tip = "BatchNorm of T: train mode as in the references, or eval mode; S, whose FM_S Eq. 3 takes, is in eval"
        modes = [("train mode", "train"), ("eval mode", "eval")]
        self.bn_choice = self.bind(picker("BatchNorm of T", modes, tip=tip, width="220px"), "target_bn")
        tip = "Where x and y of Eq. 6 come from: a folder with a folder a class; empty: the first pictures"
        self.place_text = self.bind(
            text("pictures", "your own: a folder of class folders", tip=tip, width="330px"), "place"
        )
        tip = "Pictures a step: Eq. 6 is a mean over them"
        self.size_slider = choice("batch size", SIZES, tip=tip, width="220px")
        self.size_slider.observe(lambda change: self._weighed("batch_size", change["new"]), "value")
        tip = "Which batch (x, y) of Eq. 6: that of this training step, from 0"
        self.batch_slider = self.bind(slider("batch", SLIDER_BATCHES - 1, tip=tip, width="220px"), "batch")
        tip = "Seed of a Recipe: T's head, the attention nets of Eq. 2, 4, 7, 9, order and crops of the pictures x"
        self.seed_slider = self.bind(slider("seed", 9, tip=tip, width="180px"), "seed")
        return [
            row(self.method_choice, self.own_text, self.target_choice),
            row(self.alpha_slider, self.alpha_button, self.beta_slider, self.r_slider),
            row(self.scale_choice, self.bn_choice, self.place_text),
            row(self.size_slider, self.batch_slider, self.seed_slider),
        ]

    def sync(self) -> None:
        """Values that a slider lacks become one of its stops; what a method does not use is disabled."""
        state, recipe = self.state, self.data.recipe(self.state)
        stages = recipe.stages().stages
        methods = [*METHODS, *ORDERS, *self.own]
        if state.method not in methods:
            self.own.append(state.method)
            methods.append(state.method)
        offer(self.method_choice, [(method_words(name), name) for name in methods], state.method)
        alpha = recipe.alpha
        offer(self.alpha_slider, _stops(ALPHAS, alpha), alpha)
        offer(self.beta_slider, _stops(BETAS, state.beta), state.beta)
        offer(self.r_slider, _stops([r for r in RATES if r <= self.data.channels], state.r), state.r)
        offer(self.size_slider, _stops(SIZES, state.batch_size), state.batch_size)
        self.batch_slider.max = max(SLIDER_BATCHES - 1, state.batch)
        self.seed_slider.max = max(9, state.seed)
        self.alpha_slider.disabled = all(stage.penalty is None for stage in stages)
        self.alpha_button.disabled = state.alpha is None
        self.r_slider.disabled = not reduces(state.method)
        self.scale_choice.disabled = not any(stage.scaled for stage in stages)
        super().sync()

    def settle(self, state: LossState, given: set[str]) -> LossState:
        """A class becomes its name; α for another number of stages, and T and batch for other pictures, give way."""
        try:
            state = replace(state, method=method_name(state.method))
            if "method" in given and state.method in self.own:
                self._forget()
            stages = len(resolve_method(state.method).stages)
        except MethodError as error:
            raise ExplorerError(str(error)) from error
        if isinstance(state.alpha, tuple) and len(state.alpha) != stages and "alpha" not in given:
            state = replace(state, alpha=None)
        if not isinstance(state.place, str):
            raise ExplorerError(f"place must be '' or the path of a folder, got {state.place!r}")
        if "place" in given:
            train = self.data.pictures(state.place)
            if "target" not in given and self.data.unfit(train):
                state = replace(state, target="start")
            size = state.batch_size
            if "batch_size" not in given and isinstance(size, int) and size > len(train) >= 2:
                state = replace(state, batch_size=len(train))
        return state

    def check(self, state: LossState) -> None:
        """Everything must exist, and the batch must have a loss and gradients."""
        need_one_of("scale", state.scale, SCALES)
        need_one_of("target_bn", state.target_bn, ("train", "eval"))
        need_one_of("target", state.target, ("start", "trained"))
        need_index("r", state.r, self.data.channels, first=1)
        need_index("batch_size", state.batch_size, SIZES[-1] - 1, first=2)
        need_index("batch", state.batch, BATCHES)
        try:
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
        train = self.data.pictures(state.place)
        if state.target == "trained" and (why := self.data.unfit(train)):
            raise ExplorerError(f"target 'trained' cannot be shown: {why}; choose 'start'")
        try:
            self.data.terms(state)
        except (ValueError, TrainingError) as error:
            raise ExplorerError(str(error)) from error

    def figure(self, state: LossState | None = None) -> LabFigure:
        """The loss split and the gradient norms of the method's stages, and the batch."""
        state = state or self.state
        views = [self._view(state, index) for index in range(len(self.data.terms(state)))]
        return loss_panel(views, self.data.batch(state)[0], self._batch_words(state))

    def status(self, state: LossState) -> str:
        """What T is, how the networks run, and where the batch comes from."""
        terms, train = self.data.terms(state)[0], self.data.pictures(state.place)
        answers = f"it answers {terms.accuracy:.0f} % of the batch" if state.target == "trained" else ""
        few = (
            f"DELTA's filters were weighed on {DELTA_PICTURES} pictures (training takes up to 64), at β = "
            f"{LossState.beta:g}"
        )
        stages = self.data.recipe(state).stages().stages
        mode = "eval" if all(stage.trains == "head" for stage in stages) else state.target_bn
        words = [
            f"T: {self.data.about_target(state)}",
            answers,
            f"S in eval mode, T's BatchNorm in {mode} mode; attention nets fresh, seed {state.seed}",
            f"{train.describe()}",
            few if needs_filters(stages) else "",
        ]
        return " · ".join(word for word in words if word)

    def caption(self, state: LossState) -> str:
        """Which term pulls hardest, and whether it does anything or drowns the task."""
        recipe, found = self.data.recipe(state), self.data.terms(state)
        said = [
            sentence(stage, terms, alpha, state.beta, str(state.scale))
            for stage, terms, alpha in zip(recipe.stages().stages, found, recipe.alphas, strict=True)
        ]
        if len(said) == 1:
            return f"{said[0][0].upper()}{said[0][1:]}."
        return f"Stage 1: {said[0]}; stage 2: {said[1]}."

    def details_html(self, state: LossState) -> str:
        """Every norm, what the whole loss's gradient is, and the weight at which both pulls would be equal."""
        recipe, rows = self.data.recipe(state), list[list[Any]]()
        found = self.data.terms(state)
        for stage, terms, alpha in zip(recipe.stages().stages, found, recipe.alphas, strict=True):
            rows += table_rows(stage_label(stage.name), self._places(), terms, alpha, state.beta)
        words = (
            "– : the term does not act there. The decay acts on the head only: at the taps its share is 0. Norms are "
            "over the whole batch's map (at the head: its parameters) and hold what reaches the loss by deeper taps; "
            "‘own term’ is α‖g_penalty‖ by the layer's own term of the penalty alone. In the sentence, a penalty does "
            f"nothing below {NOTHING:g} × the task's pull (a layer's own term below {NOTHING / 10:g} ×) and drowns the "
            f"task from {MUCH:g} × on."
        )
        return table_html(TABLE_HEAD, rows, left=2) + paragraph(words)

    def code(self, state: LossState) -> str:
        """The recipe that trains with what is set, and the explorer."""
        lines = super().code(state).splitlines()
        words = ["# trains with what is set: for event in lab.fit(recipe): print(event)"]
        if isinstance(self.data.dataset, ImageSet) and not state.place:
            words = ["# a recipe takes pictures by the path of their folder: add dataset=..."]
        recipe = [*words, f"recipe = {spell_recipe(self.data.recipe(state))}", ""]
        return "\n".join([*lines[:2], *recipe, *lines[2:]])

    def _view(self, state: LossState, index: int) -> LossView:
        recipe, terms = self.data.recipe(state), self.data.terms(state)[index]
        stage, alpha, beta = recipe.stages().stages[index], recipe.alphas[index], state.beta
        count = len(recipe.alphas)
        title = stage_label(stage.name) if count == 1 else f"stage {index + 1}: {stage_label(stage.name)}"
        factors = f"α = {alpha:g}, β = {beta:g}" + (f", scale {state.scale}" if stage.scaled else "")
        source = f"S = {self.data.backbone.name}" if index == 0 else "S = T at the hand-over"
        # Where only the head is trained, T's backbone stays in eval mode whatever the recipe says.
        mode = "eval" if stage.trains == "head" else state.target_bn
        norms = [
            [
                norm if there else np.nan
                for norm, there in zip(pull.norms(alpha, beta), pull.acts, strict=True)
            ]
            for pull in terms.pulls
        ]
        return LossView(
            title=title,
            factors=factors,
            about=f"{source} (eval) · T: {state.target} (BatchNorm: {mode})",
            parts=terms.parts(alpha, beta),
            places=self._places(),
            norms=np.array(norms),
            ratios=[pull.ratio(alpha, beta) for pull in terms.pulls],
            cosines=[pull.cosine(alpha, beta) for pull in terms.pulls],
            own=[alpha * pull.own for pull in terms.pulls],
            note=note_on(stage, terms, index, str(state.target), state.target_bn),
        )

    def _places(self) -> list[str]:
        return [*layer_names(self.data.backbone.taps), "head"]

    def _batch_words(self, state: LossState) -> str:
        return (
            f"batch {state.batch} of a training with seed {state.seed}: {state.batch_size} random crops "
            f"of {self.data.image_size} px"
        )

    def _typed(self, change: dict) -> None:
        if not self._quiet and change["new"].strip():
            self._moved("method", change["new"].strip())

    def _forget(self) -> None:
        # A class of the reader's may have changed under its name.
        self.data.forget()
        self.forget_drawn()

    def _weighed(self, name: str, value: Any) -> None:
        shown = self.data.recipe(self.state).alpha if name == "alpha" else getattr(self.state, name)
        if not self._quiet and value != shown:
            self._moved(name, value)


def _stops(values: Sequence[float], shown: Any) -> list[tuple[str, Any]]:
    """Stops of a slider with the value that it shows among them; one α a stage stands at the left."""
    if isinstance(shown, tuple):
        return [(" | ".join(f"{v:g}" for v in shown), shown), *((f"{v:g}", v) for v in values)]
    return [(f"{v:g}", v) for v in sorted({*values, shown})]
