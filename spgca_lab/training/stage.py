"""The steps of one stage: what they compute with, one after the other, and the losses that they leave on the device."""

import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet
from spgca_lab.regularizers.attention import AttentionError
from spgca_lab.regularizers.base import Penalty
from spgca_lab.regularizers.registry import Stage
from spgca_lab.training.batches import Batches, near
from spgca_lab.training.diagnose import (
    DWARFS,
    LayerNorms,
    Losses,
    PenaltyWarning,
    cause,
    dwarfed,
    layers,
    task_gradient,
    told,
)
from spgca_lab.training.events import Step
from spgca_lab.training.memory import kept
from spgca_lab.training.objective import Objective, SharedObjective, Terms, TrainingError
from spgca_lab.training.passes import Passes
from spgca_lab.training.processes import Processes
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import derive, seeded
from spgca_lab.training.speed import Engine
from spgca_lab.training.staging import build_penalty, dry_maps, target_mode

__all__ = ["StageSteps", "Training"]

LOSSES = ("loss", "cross_entropy", "penalty", "decay", "accuracy")


class Training:
    """S, T and the batches of a run on their device, as its engine wants them.

    Args:
        recipe: of the run.
        backbone: S as it was loaded; a copy is taken.
        train: the training pictures.
        image_size: side of the input in pixels.
        processes: that train the run.
        engine: how steps are computed; None: the recipe's on this device.

    Example:
        >>> from spgca_lab import load_backbone, load_dataset
        >>> mini, train = load_backbone("mini"), load_dataset("stickers", per_class=1, test_per_class=1)[0]
        >>> training = Training(Recipe(), mini, train, 64, Processes("cpu"))
        >>> training.engine.name, len(training.train)
        ('fast', 48)
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        train: ImageSet,
        image_size: int,
        processes: Processes,
        engine: Engine | None = None,
    ):
        self.recipe, self.backbone, self.train, self.image_size = recipe, backbone, train, image_size
        self.processes, self.device = processes, processes.device
        self.engine = engine or Engine.of(recipe.engine, self.device)
        self.head = backbone.head
        layout = self.engine.layout
        source = copy.deepcopy(backbone.model).eval().requires_grad_(False)
        self.source: nn.Module = source.to(self.device).to(memory_format=layout)
        target = backbone.to_target(len(train.classes), seed=derive(recipe.seed, "head"))
        self.target = processes.share_batch_norm(target.to(self.device).to(memory_format=layout))
        self.batches = Batches(
            recipe,
            near(train, self.device),
            backbone,
            image_size,
            self.device,
            layout=layout,
            fused=self.engine.compile_data,
            part=processes.rows(recipe.batch),
        )
        self.kernels = self.engine.kernels()
        self.passes: Passes | None = None
        if self.engine.name != "plain":
            self.passes = Passes(self.source, self.target, backbone.taps, self.head, self.engine, self.device)
        self._memory = ExitStack()
        if self.engine.keep_memory:
            self._memory.enter_context(kept())

    def spare_memory(self) -> None:
        """Keep no memory between steps any more: slower, and less of it."""
        self._memory.close()

    def close(self) -> None:
        """Take hooks off, and give memory back."""
        if self.passes is not None:
            self.passes.close()
        self._memory.close()


class StageSteps:
    """One stage of a run: its penalty, its optimiser, and its steps.

    Args:
        training: of the run, S and T as the stage begins.
        index: of the stage, from 0.
        stage: in place of the recipe's.

    Example:
        >>> from spgca_lab import load_backbone, load_dataset
        >>> mini, train = load_backbone("mini"), load_dataset("stickers", per_class=1, test_per_class=1)[0]
        >>> recipe = Recipe(method="spa", batch_size=8)
        >>> stage = StageSteps(Training(recipe, mini, train, 64, Processes("cpu")), 0)
        >>> stage.step(0)
        >>> steps, error = stage.read()
        >>> [step.step for step in steps], error
        ([1], None)
    """

    def __init__(self, training: Training, index: int, stage: Stage | None = None):
        self.training, self.index = training, index
        recipe, target, engine = training.recipe, training.target, training.engine
        self.stage = stage or recipe.stages().stages[index]
        head = target.get_submodule(training.head)
        self.head = copy.deepcopy(head.state_dict())
        target.requires_grad_(self.stage.trains != "head")
        head.requires_grad_(True)
        penalty = None if self.stage.penalty is None else self._penalty()
        if training.passes is not None:
            training.passes.begin(needs_source=penalty is not None and penalty.needs_source)
        trained = [p for p in target.parameters() if p.requires_grad]
        if penalty is not None:
            trained += [p for p in penalty.parameters() if p.requires_grad]
        self.optimiser = engine.optimiser(trained, recipe.lr, recipe.momentum)
        self.objective = Objective(
            source=training.source,
            target=target,
            head=training.head,
            taps=training.backbone.taps,
            penalty=penalty,
            alpha=recipe.alphas[index],
            beta=recipe.beta,
            scale=str(recipe.scale),
            passes=training.passes,
            defers=engine.read_every > 1,
        )
        self._terms = self._shared()
        self._norms = LayerNorms(target, penalty)
        self._first = True
        self._dwarfed: Tensor | None = None
        # The last step whose losses were finite: its number, losses and gradient norms.
        self._sound: tuple[int, dict[str, float], dict[str, float]] | None = None
        self._taken: list[tuple[int, float, Tensor]] = []
        self._columns: list[str] = []
        self._checks: list[str] = []

    def step(self, number: int) -> None:
        """Take step number `number` (from 0); its losses stay on the device until `read`.

        Raises:
            TrainingError: when no gradient reaches a parameter of the penalty.
            AttentionError: when an attention gives weights that are none.
        """
        training, recipe = self.training, self.training.recipe
        lr = recipe.lr * 0.1 ** sum(number >= round(m * recipe.iterations) for m in recipe.milestones)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        x, y = training.batches(number)
        training.source.eval()
        target_mode(training.target, self.stage.trains, recipe.target_bn)
        draws = derive(recipe.seed, "model", number, *training.processes.draws)
        with training.engine.running(training.kernels), seeded(draws, training.device):
            with training.engine.autocast(training.device):
                terms = self._terms(x, y)
            self.optimiser.zero_grad(set_to_none=True)
            weighs = self._first and self._weighs()
            task = task_gradient(terms.cross_entropy, training.target, training.head) if weighs else {}
            terms.loss.backward()
            if self._first:
                self.objective.check_gradients()
                self._dwarfed = dwarfed(task) if task else None
                self._first = False
            self.optimiser.step()
        self._keep(number, lr, terms, y)

    def read(self) -> tuple[list[Step], Exception | None]:
        """The steps since the last time, and what went wrong at the one after them, if something did."""
        taken, self._taken = self._taken, []
        rows = self.training.processes.mean(torch.stack([values for _, _, values in taken])).tolist()
        steps: list[Step] = []
        for (number, lr, _), row in zip(taken, rows, strict=True):
            error = self._fault(number, lr, row)
            if error is not None:
                return steps, error
            extra = dict(zip(self._columns, row[len(LOSSES) :], strict=False))
            losses = dict(zip(LOSSES, row, strict=False))
            steps.append(Step(step=number + 1, stage=self.stage.name, lr=lr, extra=extra, **losses))
            self._warn(number)
            norms = dict(zip(self._norms.names, row[-len(self._norms.names) :], strict=True))
            self._sound = number, losses, norms
        return steps, None

    @property
    def due(self) -> bool:
        """Whether it is time to read."""
        return len(self._taken) >= self.training.engine.read_every

    def penalty_state(self) -> dict[str, Tensor]:
        """Weights of the penalty, for checkpoints."""
        return self.objective.penalty.state_dict() if self.objective.penalty is not None else {}

    def _penalty(self) -> Penalty:
        training, cls = self.training, self.stage.penalty
        assert cls is not None
        pictures = training.train.images[:2].to(training.device)
        return build_penalty(
            cls,
            training.recipe,
            self.index,
            backbone=training.backbone,
            source=training.source,
            target=training.target,
            train=training.train,
            image_size=training.image_size,
            maps=dry_maps(training.backbone, training.source, pictures, training.image_size),
        )

    def _shared(self) -> Callable[[Tensor, Tensor], Terms]:
        processes, penalty = self.training.processes, self.objective.penalty
        if processes.count == 1:
            return self.objective
        own = penalty is not None and not type(penalty).__module__.startswith("spgca_lab.")
        return processes.share_gradients(SharedObjective(self.objective), some_idle=own)

    def _keep(self, number: int, lr: float, terms: Terms, y: Tensor) -> None:
        accuracy = 100 * (terms.logits.argmax(dim=1) == y).float().mean()
        losses = (terms.loss, terms.cross_entropy, terms.penalty, terms.decay, accuracy)
        self._columns, self._checks = list(terms.summary), list(terms.checks)
        scalars = (*losses, *terms.summary.values(), *terms.checks.values())
        values = torch.stack([t.detach().float() for t in scalars])
        self._taken.append((number, lr, torch.cat([values, self._norms().to(values.device)])))

    def _fault(self, number: int, lr: float, row: list[float]) -> Exception | None:
        losses = dict(zip(LOSSES, row, strict=False))
        checks = dict(zip(self._checks, row[len(LOSSES) + len(self._columns) :], strict=False))
        wrong = [what for what, held in checks.items() if held != 1]
        # Weights of maps that are no longer finite are not the attention's fault, and then nor is the cross-entropy.
        if wrong and np.isfinite(losses["cross_entropy"]):
            return AttentionError(wrong[0])
        if np.isfinite(losses["loss"]):
            return None
        return TrainingError(
            f"the loss is {losses['loss']} at step {number + 1} of {self.training.recipe.iterations} "
            f"(stage {self.stage.name!r}): {self._diagnosis(_terms_of(losses), lr)}"
        )

    def _diagnosis(self, now: Losses, lr: float) -> str:
        objective, said = self.objective, told(self.objective, now)
        if self._sound is None:
            last = now
        else:
            number, losses, norms = self._sound
            last = _terms_of(losses)
            said += (
                f". Step {number + 1}, the last finite one, had {told(objective, last)}, and gradients of norm "
                f"{layers(norms)}"
            )
        why = cause(objective, last, scaled=self.stage.scaled, lr=lr, backbone=self.training.recipe.backbone)
        return f"{said}. Likely cause: {why}"

    def _weighs(self) -> bool:
        """Whether the first step compares gradients: the cross-entropy's is then taken once more than it need be."""
        alone, compiled = self.training.processes.count == 1, self.training.engine.compile_target
        weighed = self.objective.penalty is not None and self.objective.alpha > 0
        return weighed and alone and not compiled and self.stage.trains != "head"

    def _warn(self, number: int) -> None:
        if self._dwarfed is None:
            return
        times, self._dwarfed = float(self._dwarfed), None
        if times >= DWARFS:
            recipe, scale = self.training.recipe, self.objective.scale
            rescales = self.stage.scaled and scale != "relative"
            warnings.warn(
                f"step {number + 1} (stage {self.stage.name!r}): the penalty's gradient on T's backbone is "
                f"{times:,.0f} times the cross-entropy's (α = {self.objective.alpha:g}, scale {scale!r}, on "
                f"{recipe.backbone}), so the labels hardly count and the loss may run away; try "
                + ("scale='relative', or a lower alpha" if rescales else "a lower alpha"),
                PenaltyWarning,
                stacklevel=2,
            )


def _terms_of(losses: dict[str, float]) -> Losses:
    return Losses(losses["cross_entropy"], losses["penalty"], losses["decay"])
