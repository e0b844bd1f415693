"""What pulls where on one batch: the terms of Eq. 6, 11 and 12, and their gradients at the taps and the head."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spgca_lab.analysis.gradients import Pull, StageTerms
from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet
from spgca_lab.regularizers.base import Penalty, StepState
from spgca_lab.regularizers.registry import Stage
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.runs.fit import hand_over
from spgca_lab.training.diagnose import Losses, cause, told
from spgca_lab.training.objective import Objective, TrainingError
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import seeded
from spgca_lab.training.staging import build_penalty, dry_maps, target_mode

__all__ = ["Networks", "StageStart"]


@dataclass(frozen=True)
class StageStart:
    """A stage as it begins: its penalty with fresh attention nets.

    Args:
        index: of the stage, from 0.
        stage: from the method.
        objective: of the stage, with α = β = 1.
    """

    index: int
    stage: Stage
    objective: Objective

    def scaled(self, scale: str) -> "StageStart":
        """The same with another scale of the softmax weights."""
        return replace(self, objective=replace(self.objective, scale=scale))


@dataclass
class _Pass:
    """T's forward pass, and the gradient of cross-entropy once it was taken."""

    logits: Tensor
    maps: dict[str, Tensor]
    embedding: Tensor
    task: list[Tensor | None] | None = None


@dataclass(frozen=True)
class _Ran(Objective):
    """An objective whose networks have run already."""

    passed: tuple[Tensor, StepState] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, StepState]:
        assert self.passed is not None
        return self.passed


class Networks:
    """S of every stage and T, held still: what a training's stages begin with.

    The first stage's source is S. A later stage's is T at the hand-over: a copy of S with T's weights and BatchNorm
    buffers, its own head excepted.

    Args:
        backbone: for taps, head and preprocessing.
        target: T; a copy is taken.
        train: pictures that a penalty may look at when it is built.
        image_size: side of the input in pixels.

    Example:
        >>> from spgca_lab import load_backbone, load_dataset
        >>> mini, train = load_backbone("mini"), load_dataset("stickers", per_class=1, test_per_class=1)[0]
        >>> networks = Networks(mini, mini.to_target(len(train.classes), seed=0), train, 64)
        >>> [s.stage.name for s in networks.begin(Recipe(method="afa"))]
        ['ast', 'act']
    """

    def __init__(self, backbone: Backbone, target: nn.Module, train: ImageSet, image_size: int):
        self.backbone, self.train, self.image_size = backbone, train, image_size
        self.target = _still(target)
        first = _still(backbone.model).eval().requires_grad_(False)
        self._sources = {0: first}
        self._dry: dict[int, dict[str, Tensor]] = {}
        self._seen: dict[nn.Module, tuple[Tensor, tuple[dict[str, Tensor], Tensor]]] = {}

    def source(self, index: int) -> nn.Module:
        """S of stage number `index`, in eval mode."""
        which = min(index, 1)
        if which not in self._sources:
            first = self._sources[0]
            later = copy.deepcopy(first)
            hand_over(self.target, later, self.backbone.head, self.backbone.head)
            # As a training starts T is S: one network then serves all stages with one pass.
            before, after = first.state_dict(), later.state_dict()
            same = all(torch.equal(before[name], after[name]) for name in before)
            self._sources[which] = first if same else later
        return self._sources[which]

    def source_pass(self, index: int, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Maps and logits of that source; those of the last batch are kept."""
        source = self.source(index)
        if source not in self._seen or self._seen[source][0] is not x:
            with torch.no_grad(), FeatureTaps(source, self.backbone.taps) as taps:
                logits = source(x)
                self._seen[source] = x, (taps.maps, logits)
        return self._seen[source][1]

    def begin(self, recipe: Recipe) -> list[StageStart]:
        """The stages of a recipe's method, each with its penalty as built in training from the recipe's seed.

        A penalty that looks at α or β when it is built (DELTA's does at β) sees this recipe's.
        """
        starts = []
        for index, stage in enumerate(recipe.stages().stages):
            objective = Objective(
                source=self.source(index),
                target=self.target,
                head=self.backbone.head,
                taps=self.backbone.taps,
                penalty=None if stage.penalty is None else self._build(recipe, index, stage.penalty),
                alpha=1.0,
                beta=1.0,
                scale=str(recipe.scale),
            )
            starts.append(StageStart(index, stage, objective))
        return starts

    def measure(
        self,
        starts: Sequence[StageStart],
        x: Tensor,
        y: Tensor,
        *,
        target_bn: str = "train",
        seed: int = 0,
    ) -> tuple[StageTerms, ...]:
        r"""Loss terms and gradients of every stage on one batch.

        $$g^i_{CE} = \frac{\partial L_{CE}}{\partial FM_T^i}, \quad
        g^i_{penalty} = \frac{\partial L}{\partial FM_T^i}, \quad g_{decay} = \frac{\partial WD}{\partial W_{head}}$$

        WD (Eq. 6, 11, 12) knows only the head's parameters, so at the taps it has no gradient. T runs in the mode
        that the stage trains it in; its modes, flags and BatchNorm buffers, and the penalties',
        are afterwards as before.

        Args:
            starts: from `begin`.
            x: preprocessed pictures, `[b, 3, s, s]`.
            y: labels, `[b]`.
            target_bn: mode of T's BatchNorm, as in a `Recipe`.
            seed: of what a forward pass draws (dropout).

        Returns:
            one a stage.

        Raises:
            TrainingError: when a term is not finite.
            AttentionError: when an attention gives weights that are none.

        Example:
            >>> from spgca_lab import load_backbone, load_dataset
            >>> mini, train = load_backbone("mini"), load_dataset("stickers", per_class=1, test_per_class=1)[0]
            >>> networks = Networks(mini, mini.to_target(len(train.classes), seed=0), train, 64)
            >>> x = mini.preprocess(train.images[:4, :, :64, :64])
            >>> terms, = networks.measure(networks.begin(Recipe(method="gca")), x, train.labels[:4])
            >>> [pull.place for pull in terms.pulls][-2:], terms.taps[0].acts
            (['layer4.1.conv3', 'fc'], (True, True, False))
        """
        passes: dict[str, _Pass] = {}
        found = []
        penalties = [s.objective.penalty for s in starts if s.objective.penalty is not None]
        with _undisturbed(self.target, *penalties):
            for start in starts:
                trains = start.stage.trains
                with seeded(seed, x.device):
                    # T and its mode are the same in both stages: one forward pass, one gradient of the task.
                    if trains not in passes:
                        passes[trains] = self._run_target(start, x, target_bn)
                    found.append(self._stage_terms(start, passes[trains], x, y))
        return tuple(found)

    def _build(self, recipe: Recipe, index: int, cls: type[Penalty]) -> Penalty:
        which, source = min(index, 1), self.source(index)
        if which not in self._dry:
            self._dry[which] = dry_maps(self.backbone, source, self.train.images, self.image_size)
        return build_penalty(
            cls,
            recipe,
            index,
            backbone=self.backbone,
            source=source,
            target=self.target,
            train=self.train,
            image_size=self.image_size,
            maps=self._dry[which],
        )

    def _run_target(self, start: StageStart, x: Tensor, target_bn: str) -> _Pass:
        target, head = self.target, self.target.get_submodule(self.backbone.head)
        whole = start.stage.trains == "all"
        target.requires_grad_(whole)
        head.requires_grad_(True)
        target_mode(target, start.stage.trains, target_bn)
        embedding: list[Tensor] = []
        watch = head.register_forward_pre_hook(lambda _, inputs: embedding.append(inputs[0]))
        try:
            with FeatureTaps(target, self.backbone.taps) as taps:
                logits = target(x)
                return _Pass(logits, taps.maps, embedding[0])
        finally:
            watch.remove()

    def _stage_terms(self, start: StageStart, passed: _Pass, x: Tensor, y: Tensor) -> StageTerms:
        objective = start.objective
        # The penalty sees T's maps through views: its gradient at a view is that layer's own, at the map the total one.
        views = {tap: m.view_as(m) for tap, m in passed.maps.items()}
        state = StepState({}, {}, x.new_zeros(0), x.new_zeros(0), objective.scale)
        if objective.penalty is not None and objective.penalty.needs_source:
            maps_s, logits_s = self.source_pass(start.index, x)
            state = StepState(dict(maps_s), views, logits_s, passed.embedding, objective.scale)
        ran = _Ran(**vars(objective), passed=(passed.logits, state))
        terms = ran(x, y)
        if not torch.isfinite(terms.loss):
            losses = Losses(*(float(t.detach()) for t in (terms.cross_entropy, terms.penalty, terms.decay)))
            why = cause(ran, losses, scaled=start.stage.scaled, backbone=self.backbone.name)
            raise TrainingError(f"the loss of this batch is not finite: {told(ran, losses)}; {why}")
        head = list(self.target.get_submodule(objective.head).parameters())
        places = [*passed.maps.values(), *head]
        if passed.task is None:
            passed.task = _gradients(terms.cross_entropy, places)
        pulls_at = _gradients(terms.penalty, [*places, *views.values()])
        gradients = [passed.task, pulls_at[: len(places)], _gradients(terms.decay, places)]
        count = len(objective.taps)
        own = [_norm(g) for g in pulls_at[len(places) :]]
        pulls = [
            replace(_pull(tap, [[g[i]] for g in gradients]), own=own[i])
            for i, tap in enumerate(objective.taps)
        ]
        pulls.append(_pull(objective.head, [g[count:] for g in gradients]))
        ce, penalty, decay = (float(t.detach()) for t in (terms.cross_entropy, terms.penalty, terms.decay))
        accuracy = 100 * float((terms.logits.argmax(dim=1) == y).float().mean())
        return StageTerms(start.stage.name, ce, penalty, decay, tuple(pulls), accuracy)


def _gradients(term: Tensor, places: Sequence[Tensor]) -> list[Tensor | None]:
    trained = [p for p in places if p.requires_grad]
    if not term.requires_grad or not trained:
        return [None] * len(places)
    found = iter(torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True))
    return [next(found) if p.requires_grad else None for p in places]


def _pull(name: str, gradients: Sequence[Sequence[Tensor | None]]) -> Pull:
    acts = [any(g is not None for g in parts) for parts in gradients]
    (cc, cp, cd), (_, pp, pd), (_, _, dd) = (
        [math.fsum(map(_inner, one, other)) for other in gradients] for one in gradients
    )
    return Pull(name, ((cc, cp, cd), (cp, pp, pd), (cd, pd, dd)), (acts[0], acts[1], acts[2]))


def _inner(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None:
        return 0.0
    lengths = [_norm(a), _norm(b)]
    if a is b or not all(lengths):
        return lengths[0] * lengths[1]
    # Products of what a literal penalty leaves would fall out of single precision.
    return float(((a / lengths[0]) * (b / lengths[1])).sum(dtype=torch.float64)) * lengths[0] * lengths[1]


def _norm(g: Tensor | None) -> float:
    return math.nan if g is None else float(torch.linalg.vector_norm(g, dtype=torch.float64))


def _still(model: nn.Module) -> nn.Module:
    # A copy of the explorer's own, on the CPU.
    own = copy.deepcopy(model).cpu()
    return own.to(memory_format=torch.channels_last)


@contextmanager
def _undisturbed(*models: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for model in models for module in model.modules()]
    flags = [(p, p.requires_grad) for model in models for p in model.parameters()]
    buffers = [(b, b.clone()) for model in models for b in model.buffers()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p, flag in flags:
            p.requires_grad_(flag)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
