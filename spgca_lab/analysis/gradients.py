"""Loss terms of each stage on one batch (Eq. 6, 11 and 12), and their gradients at the taps and the head."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.backbones.tap import tapped_map
from spgca_lab.data import ImageSet
from spgca_lab.regularizers.base import ForwardState
from spgca_lab.regularizers.registry import Stage
from spgca_lab.training.diagnose import Losses, format_loss, likely_cause
from spgca_lab.training.networks import ForwardPass, forward_with_taps, hand_over, set_target_mode
from spgca_lab.training.objective import Objective, TrainingError
from spgca_lab.training.optimisers import trained_parameters
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import seeded
from spgca_lab.training.stage import build_penalty

__all__ = ["CE", "DECAY", "PENALTY", "BatchProbe", "StageStart", "StageTerms", "TermGradients", "restored"]

CE, PENALTY, DECAY = range(3)
TargetRun = tuple[ForwardPass, list[Tensor]]


@dataclass(frozen=True)
class TermGradients:
    r"""Inner products of the three terms' gradients at one place, without the factors α and β.

    $$\Big\lVert \frac{\partial L}{\partial FM_T^i} \Big\rVert^2 = \sum_{jk} a_j a_k \langle g_j, g_k \rangle,
    \qquad a = (1, \alpha, \beta)$$

    One measurement serves every α and β. At a tap the gradient includes the paths through deeper taps.

    Args:
        place: name of the tap, or of the head (whose gradient is by its parameters).
        products: inner products of the gradients of cross-entropy, penalty and decay, `[3][3]`.
        acts: for each term, whether it depends on this place.
        own: norm of the gradient of this layer's own term of Eq. 3, 5, 8 or 10, with all other maps fixed; NaN where
            the penalty does not use this map.

    Example:
        >>> at_tap = TermGradients("layer1", ((4.0, -1.0, 0.0), (-1.0, 1.0, 0.0), (0.0, 0.0, 0.0)), (True, True, False))
        >>> at_tap.norms(alpha=3.0, beta=0.01), at_tap.ratio(3.0, 0.01), at_tap.cosine(3.0, 0.01)
        ((2.0, 3.0, 0.0), 1.5, -0.5)
    """

    place: str
    products: tuple[tuple[float, float, float], ...]
    acts: tuple[bool, bool, bool]
    own: float = math.nan

    def norms(self, alpha: float = 1.0, beta: float = 1.0) -> tuple[float, float, float]:
        """Return ‖g_CE‖, α‖g_penalty‖ and β‖g_decay‖."""
        ce, penalty, decay = (math.sqrt(max(self.products[i][i], 0.0)) for i in range(3))
        return ce, alpha * penalty, beta * decay

    def total(self, alpha: float, beta: float) -> float:
        """Return the norm of the whole loss's gradient."""
        return self._norm((1.0, alpha, beta))

    def regulariser(self, alpha: float, beta: float) -> float:
        """Return ‖α g_penalty + β g_decay‖."""
        return self._norm((0.0, alpha, beta))

    def ratio(self, alpha: float, beta: float) -> float:
        """Return the regulariser's gradient norm over the cross-entropy's; NaN for 0/0, infinite for x/0."""
        task, other = self.norms()[CE], self.regulariser(alpha, beta)
        return other / task if task else (math.inf if other else math.nan)

    def cosine(self, alpha: float, beta: float) -> float:
        """Return the cosine of the angle between both gradients; NaN where one is 0."""
        lengths = self.norms()[CE] * self.regulariser(alpha, beta)
        inner = alpha * self.products[CE][PENALTY] + beta * self.products[CE][DECAY]
        return min(max(inner / lengths, -1.0), 1.0) if lengths else math.nan

    def own_ratio(self, alpha: float) -> float:
        """Return α·`own` over the cross-entropy's gradient norm; NaN where either is missing."""
        task = self.norms()[CE]
        return alpha * self.own / task if task else math.nan

    def crossing(self, term: int = PENALTY) -> float:
        """Return the α (or β) that makes this term's gradient as long as the cross-entropy's; NaN where none does."""
        norms = self.norms()
        return norms[CE] / norms[term] if norms[term] and norms[CE] else math.nan

    def _norm(self, factors: tuple[float, float, float]) -> float:
        pairs = ((i, j) for i in range(3) for j in range(3))
        square = math.fsum(factors[i] * factors[j] * self.products[i][j] for i, j in pairs)
        # Where gradients cancel, rounding can leave a square slightly below 0.
        return math.sqrt(max(square, 0.0))


@dataclass(frozen=True)
class StageTerms:
    """The loss terms of one stage on one batch and their gradients, as plain numbers.

    Args:
        stage: name of the stage.
        cross_entropy: in nats.
        penalty: without α.
        decay: without β.
        gradients: at each tap, in order, then at the head.
        accuracy: of T on the batch, in percent.
    """

    stage: str
    cross_entropy: float
    penalty: float
    decay: float
    gradients: tuple[TermGradients, ...]
    accuracy: float

    @property
    def taps(self) -> tuple[TermGradients, ...]:
        """The gradients at the feature maps."""
        return self.gradients[:-1]

    @property
    def head(self) -> TermGradients:
        """The gradients by the head's parameters."""
        return self.gradients[-1]

    def parts(self, alpha: float, beta: float) -> tuple[float, float, float]:
        """Return cross-entropy, α·penalty and β·decay: the summands of the loss."""
        return self.cross_entropy, alpha * self.penalty, beta * self.decay


@dataclass(frozen=True)
class StageStart:
    """Stage number `index` (from 0) as it begins: fresh attention nets, and an objective with α = β = 1."""

    index: int
    stage: Stage
    objective: Objective

    def scaled(self, scale: str) -> "StageStart":
        """Return the same start with another scale of the softmax weights."""
        return replace(self, objective=replace(self.objective, scale=scale))


class BatchProbe:
    """S of each stage and a fixed T, with which a method's loss terms and gradients are measured on batches.

    The first stage's source is S. A later stage's source is T at the hand-over: a copy of S with T's weights and
    BatchNorm buffers, its own head excepted.

    Args:
        backbone: S.
        target: T; it is copied.
        train: training images that a penalty may use when it is built.
        image_size: side of the input in pixels.

    Example:
        >>> from spgca_lab import load_backbone, load_dataset
        >>> mini, train = load_backbone("mini"), load_dataset("stickers", per_class=1, test_per_class=1)[0]
        >>> probe = BatchProbe(mini, mini.to_target(len(train.classes), seed=0), train, 64)
        >>> x = mini.preprocess(train.images[:4, :, :64, :64])
        >>> terms, = probe.measure(probe.begin(Recipe(method="gca")), x, train.labels[:4])
        >>> terms.taps[-1].place, terms.head.place, terms.taps[0].acts
        ('layer4.1.conv3', 'fc', (True, True, False))
    """

    def __init__(self, backbone: Backbone, target: nn.Module, train: ImageSet, image_size: int):
        self.backbone, self.train, self.image_size = backbone, train, image_size
        self.target = _copied(target)
        self._first_source = _copied(backbone.model).eval().requires_grad_(False)
        self._passes: dict[nn.Module, tuple[Tensor, ForwardPass]] = {}

    @cached_property
    def _later_source(self) -> nn.Module:
        first, later = self._first_source, copy.deepcopy(self._first_source)
        hand_over(self.target, later, self.backbone.head)
        # At the start of a training T equals S: one network then serves all stages with one forward pass.
        before, after = first.state_dict(), later.state_dict()
        return first if all(torch.equal(before[name], after[name]) for name in before) else later

    def source(self, index: int) -> nn.Module:
        """Return S of stage number `index`, in eval mode."""
        return self._later_source if index else self._first_source

    def source_pass(self, index: int, x: Tensor) -> ForwardPass:
        """Run that source on a batch; its outputs on the latest batch are cached."""
        source = self.source(index)
        if source not in self._passes or self._passes[source][0] is not x:
            with torch.no_grad():
                self._passes[source] = x, self._forward(source, x)
        return self._passes[source][1]

    def begin(self, recipe: Recipe) -> list[StageStart]:
        """Build the stages of a recipe's method, each penalty as in training, from the recipe's seed.

        A penalty that uses α or β when it is built (DELTA uses β) gets this recipe's.
        """
        starts, taps, head = [], self.backbone.taps, self.backbone.head
        for index, stage in enumerate(recipe.stages().stages):
            source, penalty = self.source(index), None
            if stage.penalty is not None:
                build = partial(
                    build_penalty, stage.penalty, recipe, index, backbone=self.backbone, source=source
                )
                penalty = build(target=self.target, train=self.train, image_size=self.image_size)
            objective = Objective(source, self.target, head, taps, penalty, 1.0, 1.0, str(recipe.scale))
            starts.append(StageStart(index, stage, objective))
        return starts

    def measure(
        self, starts: Sequence[StageStart], x: Tensor, y: Tensor, *, target_bn: str = "train", seed: int = 0
    ) -> tuple[StageTerms, ...]:
        r"""Measure the loss terms and gradients of each stage on one batch.

        $$g^i_{CE} = \frac{\partial L_{CE}}{\partial FM_T^i}, \quad
        g^i_{penalty} = \frac{\partial L}{\partial FM_T^i}, \quad g_{decay} = \frac{\partial WD}{\partial W_{head}}$$

        WD (Eq. 6, 11, 12) depends on the head's parameters only, so it has no gradient at the taps. T runs in the
        mode in which the stage trains it. Modes, flags and buffers are restored afterwards.

        Args:
            starts: stages from `begin`.
            x: preprocessed images, `[b, 3, s, s]`.
            y: labels, `[b]`.
            target_bn: mode of T's BatchNorm, as in a `Recipe`.
            seed: seed of random draws in a forward pass (dropout).

        Raises:
            TrainingError: when a term is not finite.
        """
        # Stages that train the same part of T share its forward pass and the cross-entropy's gradients.
        passes: dict[str, TargetRun] = {}
        task: dict[str, list[Tensor | None]] = {}
        found = []
        penalties = [s.objective.penalty for s in starts if s.objective.penalty is not None]
        with restored(self.target, *penalties):
            for start in starts:
                trains = start.stage.trains
                with seeded(seed, x.device):
                    if trains not in passes:
                        trained_parameters(self.target, self.backbone.head, trains)
                        set_target_mode(self.target, trains, target_bn)
                        passes[trains] = self._run_target(x)
                    found.append(self._stage_terms(start, passes[trains], task, x, y))
        return tuple(found)

    def _forward(self, model: nn.Module, x: Tensor) -> ForwardPass:
        return forward_with_taps(model, self.backbone.taps, self.backbone.head, x)

    def _run_target(self, x: Tensor) -> TargetRun:
        """Run T; the outputs of tapped modules come too, because the map of a `Tap` is no input of later layers."""
        outputs: dict[str, Tensor] = {}
        hooks = [
            self.target.get_submodule(tap).register_forward_hook(
                lambda _m, _i, y, t=tap: outputs.update({t: y})
            )
            for tap in self.backbone.taps
        ]
        try:
            return self._forward(self.target, x), list(map(outputs.__getitem__, self.backbone.taps))
        finally:
            for hook in hooks:
                hook.remove()

    def _stage_terms(
        self, start: StageStart, run: TargetRun, task: dict[str, list[Tensor | None]], x: Tensor, y: Tensor
    ) -> StageTerms:
        objective, stage, (of_t, outputs) = start.objective, start.stage, run
        # The penalty gets views of T's maps: the gradient at a view is the layer's own, at the map the total one.
        views = {tap: m.view_as(m) for tap, m in of_t.maps.items()}
        state = ForwardState(views, of_t.embedding, of_t.logits, scale=objective.scale)
        if objective.penalty is not None and objective.penalty.needs_source:
            state.logits_s, maps_s, _ = self.source_pass(start.index, x)
            state.maps_s = dict(maps_s)
        terms = objective.terms(state, y)
        ce, penalty, decay = (float(t.detach()) for t in (terms.cross_entropy, terms.penalty, terms.decay))
        if not torch.isfinite(terms.loss):
            losses = Losses(ce, penalty, decay)
            why = likely_cause(objective, losses, scaled=stage.scaled, backbone=self.backbone.name)
            raise TrainingError(
                f"the loss of this batch is not finite: {format_loss(objective, losses)}; {why}"
            )
        places = [*outputs, *self.target.get_submodule(objective.head).parameters()]
        if stage.trains not in task:
            task[stage.trains] = _gradients(terms.cross_entropy, places)
        of_penalty = _gradients(terms.penalty, [*places, *views.values()])
        gradients = [task[stage.trains], of_penalty[: len(places)], _gradients(terms.decay, places)]
        own = [_norm(g) for g in of_penalty[len(places) :]]
        at = []
        for i, tap in enumerate(objective.taps):
            # A function that selects and reorders elements, as tokens_to_map does, maps gradients like values.
            found = [[None if g[i] is None else tapped_map(tap, g[i])] for g in gradients]
            at.append(_products(str(tap), found, own[i]))
        at.append(_products(objective.head, [g[len(objective.taps) :] for g in gradients]))
        accuracy = 100 * float((terms.logits.argmax(dim=1) == y).float().mean())
        return StageTerms(stage.name, ce, penalty, decay, tuple(at), accuracy)


def _gradients(term: Tensor, places: Sequence[Tensor]) -> list[Tensor | None]:
    trained = [p for p in places if p.requires_grad]
    if not term.requires_grad or not trained:
        return [None] * len(places)
    found = iter(torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True))
    return [next(found) if p.requires_grad else None for p in places]


def _products(
    place: str, gradients: Sequence[Sequence[Tensor | None]], own: float = math.nan
) -> TermGradients:
    ce, penalty, decay = (any(g is not None for g in parts) for parts in gradients)
    (cc, cp, cd), (_, pp, pd), (_, _, dd) = (
        [math.fsum(map(_inner, one, other)) for other in gradients] for one in gradients
    )
    return TermGradients(place, ((cc, cp, cd), (cp, pp, pd), (cd, pd, dd)), (ce, penalty, decay), own)


def _inner(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None:
        return 0.0
    lengths = [_norm(a), _norm(b)]
    if a is b or not all(lengths):
        return lengths[0] * lengths[1]
    # Without normalising first, products of a literal penalty's tiny gradients would underflow in float32.
    return float(((a / lengths[0]) * (b / lengths[1])).sum(dtype=torch.float64)) * lengths[0] * lengths[1]


def _norm(g: Tensor | None) -> float:
    return math.nan if g is None else float(torch.linalg.vector_norm(g, dtype=torch.float64))


def _copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().to(memory_format=torch.channels_last)


@contextmanager
def restored(*models: nn.Module) -> Iterator[None]:
    """Restore modes, gradient flags and buffers of the models at the end of the block."""
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
