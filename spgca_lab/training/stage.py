"""One stage of a training: its penalty, its optimisers, and its steps."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet, center_crop
from spgca_lab.regularizers.attention import AttentionError
from spgca_lab.regularizers.base import BuildContext, Penalty
from spgca_lab.regularizers.registry import Stage
from spgca_lab.training.batches import Batches, network_inputs
from spgca_lab.training.diagnose import (
    DOMINATES,
    LayerNorms,
    Losses,
    PenaltyWarning,
    format_loss,
    format_norms,
    gradient_ratio,
    likely_cause,
    task_gradient,
)
from spgca_lab.training.events import Step
from spgca_lab.training.networks import TappedNetwork, forward_with_taps, set_target_mode
from spgca_lab.training.objective import Objective, Terms, TrainingError, own_errors
from spgca_lab.training.optimisers import make_optimiser, target_groups, trained_parameters
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.schedules import Position, learning_rate_factor
from spgca_lab.training.seeding import derive_seed, seeded
from spgca_lab.training.speed import SpeedOptions

LOSSES = ("loss", "cross_entropy", "penalty", "decay", "accuracy")


@dataclass(frozen=True)
class Networks:
    """Source, target and what they are fed with, as all stages of a training share them.

    Args:
        backbone: the source model as it was loaded, for head, taps and preprocessing.
        source: S on its device, frozen, in eval mode.
        target: T on its device.
        train: the training images.
        image_size: side of the input in pixels.
        device: where S and T live.
        speed: how steps are computed.
        batches: gives the inputs and labels of a step.
        run_source: S with its hooks.
        run_target: T with its hooks.
    """

    backbone: Backbone
    source: nn.Module
    target: nn.Module
    train: ImageSet
    image_size: int
    device: torch.device
    speed: SpeedOptions
    batches: Batches
    run_source: TappedNetwork
    run_target: TappedNetwork


def stage_bounds(iterations: int, stages: int) -> list[int]:
    """Return where stages begin and end: stage `i` takes the steps from `bounds[i]` to before `bounds[i + 1]`."""
    return [-(-i * iterations // stages) for i in range(stages + 1)]


def build_penalty(
    cls: type[Penalty],
    recipe: Recipe,
    index: int,
    *,
    backbone: Backbone,
    source: nn.Module,
    target: nn.Module,
    train: ImageSet,
    image_size: int,
) -> Penalty:
    """Build a stage's penalty as training does: from the recipe's seed, on the device of T.

    `source` and `target` are S and T as the stage begins.
    """
    device = next(target.parameters()).device
    with torch.no_grad():
        crops = center_crop(train.images[:2].to(device), image_size)
        maps = forward_with_taps(source, backbone.taps, backbone.head, network_inputs(backbone, crops)).maps
    context = BuildContext(
        maps=maps,
        source=source,
        target=target,
        head_s=backbone.head,
        head_t=backbone.head,
        taps=backbone.taps,
        train=train,
        preprocess=backbone.preprocess,
        image_size=image_size,
        options=recipe.to_dict(),
    )
    with seeded(derive_seed(recipe.seed, "attention", index), device), own_errors(cls, "build"):
        return cls.build(context).to(device)


class StageTrainer:
    """One stage of a run: fresh attention nets, fresh optimisers, and the steps.

    Args:
        recipe: of the run.
        index: of the stage, from 0.
        networks: S and T as the stage begins.
        stage: in place of the recipe's stage of that index.

    Attributes:
        objective: the loss of the stage.
        optimisers: of T, and where it has its own of the attention nets.
        start_head: state of T's head as the stage began.
    """

    def __init__(self, recipe: Recipe, index: int, networks: Networks, stage: Stage | None = None):
        self.recipe, self.index, self.networks = recipe, index, networks
        self.stage = stage or recipe.stages().stages[index]
        self.options = recipe.stage_options(index)
        self.trains = self.options.trains or self.stage.trains
        self.start, self.end = stage_bounds(recipe.iterations, len(recipe.stages().stages))[index : index + 2]
        target, head = networks.target, networks.backbone.head
        self.start_head = copy.deepcopy(target.get_submodule(head).state_dict())
        trained_parameters(target, head, self.trains)
        penalty = None if self.stage.penalty is None else self._build(self.stage.penalty)
        self.optimisers = self._make_optimisers(penalty)
        self.objective = Objective(
            source=networks.source,
            target=target,
            head=head,
            taps=networks.backbone.taps,
            penalty=penalty,
            alpha=recipe.alphas[index],
            beta=recipe.beta,
            scale=str(recipe.scale),
            run_source=networks.run_source,
            run_target=networks.run_target,
            defers=networks.speed.read_every > 1,
        )
        self._norms = LayerNorms(target, penalty)
        self._has_hook = penalty is not None and type(penalty).after_step is not Penalty.after_step
        self._first = True
        self._ratio: Tensor | None = None
        # Number, losses and gradient norms of the last step whose losses were finite.
        self._finite: tuple[int, dict[str, float], dict[str, float]] | None = None
        self._unread: list[tuple[int, float, Tensor]] = []
        self._columns: list[str] = []
        self._checks: list[str] = []

    def step(self, number: int) -> None:
        """Take step number `number` (from 0); its losses stay on the device until `read`.

        Raises:
            TrainingError: when no gradient reaches a parameter of the penalty, or a reader's class fails.
            AttentionError: when an attention returns invalid weights.
        """
        networks, objective = self.networks, self.objective
        lr = self._set_learning_rates(number)
        x, y = networks.batches(number)
        networks.source.eval()
        set_target_mode(networks.target, self.trains, self.recipe.target_bn)
        with (
            networks.speed.running(),
            seeded(derive_seed(self.recipe.seed, "model", number), networks.device),
        ):
            with networks.speed.autocast(networks.device):
                terms = objective(x, y)
            for optimiser in self.optimisers:
                optimiser.zero_grad(set_to_none=True)
            compares = self._first and self._compares_gradients()
            task = task_gradient(terms.cross_entropy, networks.target, objective.head) if compares else {}
            terms.loss.backward()
            if self._first:
                objective.check_gradients()
                self._ratio = gradient_ratio(task) if task else None
                self._first = False
            for optimiser in self.optimisers:
                optimiser.step()
            if self._has_hook and objective.penalty is not None:
                with torch.no_grad(), own_errors(objective.penalty, "after_step"):
                    objective.penalty.after_step(terms.state)
        self._record(number, lr, terms, y)

    @property
    def must_read(self) -> bool:
        """True when as many steps are unread as the speed options allow."""
        return len(self._unread) >= self.networks.speed.read_every

    def read(self) -> tuple[list[Step], Exception | None]:
        """Return the steps since the last call, and the error of the step after them if there was one."""
        unread, self._unread = self._unread, []
        rows = torch.stack([values for _, _, values in unread]).tolist()
        steps: list[Step] = []
        for (number, lr, _), row in zip(unread, rows, strict=True):
            error = self._fault(number, lr, row)
            if error is not None:
                return steps, error
            losses = dict(zip(LOSSES, row, strict=False))
            steps.append(
                Step(
                    step=number + 1,
                    stage=self.stage.name,
                    lr=lr,
                    extra=dict(zip(self._columns, row[len(LOSSES) :], strict=False)),
                    iterations=self.recipe.iterations,
                    alpha=self.objective.alpha,
                    beta=self.recipe.beta,
                    **losses,
                )
            )
            self._warn_if_penalty_dominates(number)
            norms = dict(zip(self._norms.names, row[-len(self._norms.names) :], strict=True))
            self._finite = number, losses, norms
        return steps, None

    def penalty_state(self) -> dict[str, Tensor]:
        """Return the weights of the penalty."""
        return self.objective.penalty.state_dict() if self.objective.penalty is not None else {}

    def state(self) -> dict[str, Any]:
        """Return what a resumed stage needs beside S."""
        return {
            "target": self.networks.target.state_dict(),
            "stage_head": self.start_head,
            "penalty": self.penalty_state(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state` in a stage that was built from the same S and the head of its start."""
        self.networks.target.load_state_dict(state["target"])
        if self.objective.penalty is not None:
            self.objective.penalty.load_state_dict(state["penalty"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def _build(self, cls: type[Penalty]) -> Penalty:
        networks = self.networks
        return build_penalty(
            cls,
            self.recipe,
            self.index,
            backbone=networks.backbone,
            source=networks.source,
            target=networks.target,
            train=networks.train,
            image_size=networks.image_size,
        )

    def _make_optimisers(self, penalty: Penalty | None) -> list[Optimizer]:
        options, fused = self.options, self.networks.speed.fused_optimiser
        groups = target_groups(
            self.networks.target, self.networks.backbone.head, options.backbone_lr, options.weight_decay
        )
        of_attention = [p for p in penalty.parameters() if p.requires_grad] if penalty is not None else []
        own = options.attention_optimiser is not None or options.attention_lr is not None
        if of_attention and not own:
            groups.append({"params": of_attention})
        made = [make_optimiser(options.optimiser, groups, options.lr, self.recipe.momentum, fused=fused)]
        if of_attention and own:
            lr = options.lr if options.attention_lr is None else options.attention_lr
            name = options.attention_optimiser or options.optimiser
            made.append(
                make_optimiser(name, [{"params": of_attention}], lr, self.recipe.momentum, fused=fused)
            )
        return made

    def _set_learning_rates(self, number: int) -> float:
        warmup = round(self.options.warmup * (self.end - self.start))
        position = Position(
            number, self.start, self.end, self.recipe.iterations, warmup, self.recipe.milestones
        )
        factor = learning_rate_factor(self.options.schedule, position)
        for group in self.optimisers[0].param_groups:
            group["lr"] = self.options.lr * factor * group["factor"]
        # The attention nets' own optimiser keeps a constant rate: their optimum moves as T does.
        return self.options.lr * factor

    def _record(self, number: int, lr: float, terms: Terms, y: Tensor) -> None:
        accuracy = 100 * (terms.logits.argmax(dim=1) == y).float().mean()
        losses = (terms.loss, terms.cross_entropy, terms.penalty, terms.decay, accuracy)
        self._columns, self._checks = list(terms.summary), list(terms.checks)
        scalars = (*losses, *terms.summary.values(), *terms.checks.values())
        values = torch.stack([t.detach().float() for t in scalars])
        self._unread.append((number, lr, torch.cat([values, self._norms().to(values.device)])))

    def _fault(self, number: int, lr: float, row: list[float]) -> Exception | None:
        losses = dict(zip(LOSSES, row, strict=False))
        checks = dict(zip(self._checks, row[len(LOSSES) + len(self._columns) :], strict=False))
        failed = [fault for fault, passed in checks.items() if passed != 1]
        # Where the cross-entropy is not finite either, the maps were not, and the attention is not at fault.
        if failed and np.isfinite(losses["cross_entropy"]):
            return AttentionError(failed[0])
        if np.isfinite(losses["loss"]):
            return None
        return TrainingError(
            f"the loss is {losses['loss']} at step {number + 1} of {self.recipe.iterations} "
            f"(stage {self.stage.name!r}): {self._diagnosis(_terms_of(losses), lr)}"
        )

    def _diagnosis(self, now: Losses, lr: float) -> str:
        objective, text = self.objective, format_loss(self.objective, now)
        last = now
        if self._finite is not None:
            number, losses, norms = self._finite
            last = _terms_of(losses)
            text += (
                f". Step {number + 1}, the last finite one, had {format_loss(objective, last)}, and gradients of norm "
                f"{format_norms(norms)}"
            )
        cause = likely_cause(objective, last, scaled=self.stage.scaled, lr=lr, backbone=self.recipe.backbone)
        return f"{text}. Likely cause: {cause}"

    def _compares_gradients(self) -> bool:
        # The comparison takes one more backward pass of the cross-entropy, which a compiled T does not allow.
        weighed = self.objective.penalty is not None and self.objective.alpha > 0
        return weighed and not self.networks.speed.compile_target and self.trains != "head"

    def _warn_if_penalty_dominates(self, number: int) -> None:
        if self._ratio is None:
            return
        ratio, self._ratio = float(self._ratio), None
        if ratio < DOMINATES:
            return
        rescales = self.stage.scaled and self.objective.scale != "relative"
        warnings.warn(
            f"step {number + 1} (stage {self.stage.name!r}): the penalty's gradient on T's backbone is "
            f"{ratio:,.0f} times the cross-entropy's (α = {self.objective.alpha:g}, scale {self.objective.scale!r}, "
            f"on {self.recipe.backbone}), so the labels hardly count and the loss may diverge; try "
            + ("scale='relative', or a lower alpha" if rescales else "a lower alpha"),
            PenaltyWarning,
            stacklevel=2,
        )


def _terms_of(losses: dict[str, float]) -> Losses:
    return Losses(losses["cross_entropy"], losses["penalty"], losses["decay"])
