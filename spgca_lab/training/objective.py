"""The objective of one stage: Eq. 6, 11 and 12 on a batch, term by term."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.base import Penalty, StepState
from spgca_lab.regularizers.distances import wide
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.training.global_batch import shared_batch
from spgca_lab.training.passes import Passes

__all__ = ["Objective", "SharedObjective", "Terms", "TrainingError"]


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message says at which step and what would help."""


@dataclass(frozen=True)
class Terms:
    """The loss of one batch and what it is made of; scalars in nats, logits `[b, classes]`.

    `summary` holds what the penalty says of its weights: entropies and layer shares, by column name. `checks` are true
    on the device unless what they are named after went wrong; only with an objective that `defers`.
    """

    loss: Tensor
    cross_entropy: Tensor
    penalty: Tensor
    decay: Tensor
    logits: Tensor
    summary: dict[str, Tensor]
    checks: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    r"""What a stage minimises.

    $$L_{Total} = L_{CE}(f(x, W_T), y) + \alpha \cdot L_{penalty} + \beta \cdot WD \qquad (6), (11), (12)$$

    Args:
        source: S, frozen.
        target: T.
        head: name of T's classifier, the only part that WD decays.
        taps: tapped modules of both.
        penalty: built for the stage, or None.
        alpha: α.
        beta: β.
        scale: `"literal"`, `"afa"` or `"relative"`.
        passes: how an engine runs both networks; None runs them one after the other, hooked anew at every batch.
        defers: leave checks of tensors' values on the device, in the terms, so that no step waits for them.

    Source:
        Eq. 6, 11 and 12 of the paper; WD as an explicit term over the head, bias included, as in the AFA release.

    Example:
        >>> from spgca_lab import load_backbone
        >>> source = load_backbone("mini")
        >>> target = source.to_target(num_classes=5, seed=0)
        >>> plain = Objective(source.model, target, source.head, source.taps, None, 0.0, 0.01, "relative")
        >>> terms = plain(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1]))
        >>> bool(terms.loss == terms.cross_entropy + 0.01 * terms.decay)
        True
    """

    source: nn.Module
    target: nn.Module
    head: str
    taps: tuple[str, ...]
    penalty: Penalty | None
    alpha: float
    beta: float
    scale: str
    passes: Passes | None = None
    defers: bool = False

    def __call__(self, x: Tensor, y: Tensor) -> Terms:
        """The terms for preprocessed pictures `[b, 3, h, w]` and labels `[b]`."""
        logits, state = self.forward(x) if self.passes is None else self._pass(self.passes, x)
        state.checks = {} if self.defers else None
        cross_entropy = F.cross_entropy(wide(logits), y)
        decay = penalties.l2(self.target.get_submodule(self.head).parameters())
        penalty = torch.zeros((), device=x.device)
        summary: dict[str, Tensor] = {}
        if self.penalty is not None:
            weights = self.penalty.weights(state)
            penalty = _scalar(self.penalty, self.penalty.penalty(state, weights))
            summary = self.penalty.summary(weights)
        loss = cross_entropy + self.alpha * penalty + self.beta * decay
        return Terms(loss, cross_entropy, penalty, decay, logits, summary, state.checks or {})

    def forward(self, x: Tensor) -> tuple[Tensor, StepState]:
        """T's logits, and what the penalty sees: both models' maps, S's logits, the embedding before T's head."""
        if self.penalty is None or not self.penalty.needs_source:
            return self.target(x), StepState({}, {}, x.new_zeros(0), x.new_zeros(0), self.scale)
        embedding: list[Tensor] = []
        head = self.target.get_submodule(self.head)
        watch = head.register_forward_pre_hook(lambda _, inputs: embedding.append(inputs[0]))
        try:
            with FeatureTaps(self.source, self.taps) as taps_s, FeatureTaps(self.target, self.taps) as taps_t:
                with torch.no_grad():
                    logits_s = self.source(x)
                logits = self.target(x)
                return logits, StepState(taps_s.maps, taps_t.maps, logits_s, embedding[0], self.scale)
        finally:
            watch.remove()

    def _pass(self, passes: Passes, x: Tensor) -> tuple[Tensor, StepState]:
        of_s, of_t = passes(x)
        if of_s is None:
            return of_t.logits, StepState({}, {}, x.new_zeros(0), x.new_zeros(0), self.scale)
        return of_t.logits, StepState(of_s.maps, of_t.maps, of_s.logits, of_t.embedding, self.scale)

    def check_gradients(self) -> None:
        """After a backward pass: raise `TrainingError` if a trainable parameter of the penalty got no gradient."""
        if self.penalty is None or self.alpha == 0:
            return
        idle = [name for name, p in self.penalty.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            raise TrainingError(
                f"{type(self.penalty).__name__}: no gradient reaches {', '.join(idle[:4])}"
                + (f" and {len(idle) - 4} more" if len(idle) > 4 else "")
                + ": use these parameters in the weights, without detach() or no_grad(), or set requires_grad to False"
            )


class SharedObjective(nn.Module):
    """An objective as one module that holds what it trains, T and the penalty: so several processes can share it.

    Called with a process' part of a batch it gives the terms of that part. Each is a mean over pictures, or does not
    depend on them, so that over equal parts the terms of the whole batch are their average. What a penalty takes from
    the batch besides, as the variance of S's maps under `scale="relative"`, is that of the whole batch.

    Args:
        objective: of a stage.

    Example:
        >>> t = nn.ModuleDict({"fc": nn.Linear(2, 2)})
        >>> shared = SharedObjective(Objective(t, t, "fc", (), None, 0.0, 0.01, "relative"))
        >>> [name for name, _ in shared.named_parameters()]
        ['target.fc.weight', 'target.fc.bias']
    """

    def __init__(self, objective: Objective):
        super().__init__()
        self.target, self.penalty = objective.target, objective.penalty
        # Kept out of the module's sight: S is no part of what is trained.
        self._terms = (objective,)

    def forward(self, x: Tensor, y: Tensor) -> Terms:
        """The terms for preprocessed pictures `[b, 3, h, w]` and labels `[b]` of this process."""
        with shared_batch():
            return self._terms[0](x, y)


def _scalar(penalty: Penalty, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 0:
        given = (
            f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        )
        raise TrainingError(f"{type(penalty).__name__}: its penalty must be a scalar tensor, it is {given}")
    return value
