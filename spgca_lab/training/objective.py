"""The objective of one stage: Eq. 6, 11 and 12 on a batch, term by term."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.attention import AttentionError
from spgca_lab.regularizers.base import ForwardState, Penalty
from spgca_lab.regularizers.penalties import to_float32
from spgca_lab.regularizers.registry import describe_class, is_built_in
from spgca_lab.training.networks import ForwardPass, forward_with_taps


class TrainingError(RuntimeError):
    """A training that cannot start or go on; the message says at which step and what would help."""


@dataclass(frozen=True)
class Terms:
    """The loss of one batch and its terms; scalars in nats.

    `summary` holds the penalty's own curves (entropies, layer shares) by column name. `checks` are true on the device
    unless the fault that they are named after occurred; they exist only with an objective that `defers`. `state` is
    what the penalty saw.
    """

    loss: Tensor
    cross_entropy: Tensor
    penalty: Tensor
    decay: Tensor
    state: ForwardState
    summary: dict[str, Tensor]
    checks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """T's logits `[b, classes]`."""
        return self.state.logits_t


@dataclass(frozen=True)
class Objective:
    r"""The loss that a stage minimises.

    $$L_{Total} = L_{CE}(f(x, W_T), y) + \alpha \cdot L_{penalty} + \beta \cdot WD \qquad (6), (11), (12)$$

    Args:
        source: S, frozen.
        target: T.
        head: name of T's classifier, the only part that WD decays.
        taps: names of the tapped modules of both.
        penalty: built for the stage, or None.
        alpha: α.
        beta: β.
        scale: `"literal"`, `"afa"` or `"relative"`.
        run_source: runs S; by default `forward_with_taps`.
        run_target: runs T, likewise.
        defers: leave checks of values on the device, in the terms, so that no step waits for them.

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
    run_source: Callable[[Tensor], ForwardPass] | None = None
    run_target: Callable[[Tensor], ForwardPass] | None = None
    defers: bool = False

    def __call__(self, x: Tensor, y: Tensor) -> Terms:
        """Return the terms for preprocessed images `[b, 3, h, w]` and labels `[b]`."""
        return self.terms(self.forward(x), y)

    def terms(self, state: ForwardState, y: Tensor) -> Terms:
        """Return the terms for a forward pass and labels `[b]`."""
        state.checks = {} if self.defers else None
        cross_entropy = F.cross_entropy(to_float32(state.logits_t), y)
        decay = penalties.l2(self.target.get_submodule(self.head).parameters())
        penalty = cross_entropy.new_zeros(())
        summary: dict[str, Tensor] = {}
        if self.penalty is not None:
            with own_errors(self.penalty, "weights and penalty"):
                weights = self.penalty.weights(state)
                penalty = _scalar(self.penalty, self.penalty.penalty(state, weights))
                summary = self.penalty.summary(weights)
        loss = cross_entropy + self.alpha * penalty + self.beta * decay
        return Terms(loss, cross_entropy, penalty, decay, state, summary, state.checks or {})

    def forward(self, x: Tensor) -> ForwardState:
        """Run T, and S where the penalty needs it, on inputs `[b, 3, h, w]`."""
        state = ForwardState({}, x, x, scale=self.scale)
        if self.penalty is not None and self.penalty.needs_source:
            with torch.no_grad():
                state.logits_s, state.maps_s, _ = self._run(self.run_source, self.source, x)
        state.logits_t, state.maps_t, state.embedding_t = self._run(self.run_target, self.target, x)
        return state

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

    def _run(self, run: Callable[[Tensor], ForwardPass] | None, network: nn.Module, x: Tensor) -> ForwardPass:
        return run(x) if run is not None else forward_with_taps(network, self.taps, self.head, x)


@contextmanager
def own_errors(penalty: Penalty | type[Penalty], where: str) -> Iterator[None]:
    """Name class, file and line in an error that a reader's own penalty raises, and keep its cause.

    Args:
        penalty: whose code runs in the block; errors of built-in classes pass unchanged.
        where: what runs, for the message.

    Raises:
        TrainingError: in place of the class's own error, which is its cause.
    """
    cls = penalty if isinstance(penalty, type) else type(penalty)
    try:
        yield
    except (TrainingError, AttentionError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if is_built_in(cls):
            raise
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise TrainingError(
            f"{describe_class(cls)}: {where} raised {type(error).__name__}: {error} (at {line.filename}, line "
            f"{line.lineno}: {line.line or '…'})"
        ) from error


def _scalar(penalty: Penalty, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 0:
        given = (
            f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        )
        raise TrainingError(f"{type(penalty).__name__}: its penalty must be a scalar tensor, it is {given}")
    return value
