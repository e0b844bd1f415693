"""Diagnosis of a training that diverges: gradient norms per layer, the likely cause, and what to try."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from spgca_lab.training.objective import Objective

# A penalty whose gradient is this many times that of the cross-entropy leaves the labels no influence.
DOMINATES = 100.0
# A term of this many times the cross-entropy is the cause of a divergence.
OUTWEIGHS = 10.0
SHOWN = 12


class PenaltyWarning(UserWarning):
    """The penalty's gradient is so large that the cross-entropy's hardly counts."""


@dataclass(frozen=True)
class Losses:
    """The terms of one step's loss in nats, before α and β weigh them."""

    cross_entropy: float
    penalty: float
    decay: float


class LayerNorms:
    """Gradient norms per part of T (its children, and the items of a child that is a list) and of the attention nets.

    Args:
        target: T.
        penalty: of the stage, or None.

    Attributes:
        names: the parts that train, in the order of the network.
    """

    def __init__(self, target: nn.Module, penalty: nn.Module | None):
        parts: dict[str, nn.Module] = {}
        for name, child in target.named_children():
            if isinstance(child, nn.Sequential | nn.ModuleList):
                parts |= {f"{name}.{number}": item for number, item in child.named_children()}
            else:
                parts[name] = child
        if penalty is not None:
            parts[type(penalty).__name__] = penalty
        found = {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()}
        self.names = [name for name, parameters in found.items() if parameters]
        self._parameters = [p for name in self.names for p in found[name]]
        self._part = torch.tensor([i for i, name in enumerate(self.names) for _ in found[name]])

    def __call__(self) -> Tensor:
        """Return the norms of the gradients after `backward`, one per part, on the device."""
        found = [(p.grad, i) for i, p in enumerate(self._parameters) if p.grad is not None]
        # One call for all: on a GPU a kernel per parameter would take longer than the step itself.
        norms = torch.stack(torch._foreach_norm([g for g, _ in found])).float()
        if self._part.device != norms.device:
            self._part = self._part.to(norms.device)
        part = self._part if len(found) == len(self._parameters) else self._part[[i for _, i in found]]
        return norms.new_zeros(len(self.names)).index_add(0, part, norms.square()).sqrt()


def task_gradient(cross_entropy: Tensor, target: nn.Module, head: str) -> dict[nn.Parameter, Tensor]:
    """Return the cross-entropy's gradient on T's backbone; the graph stays for the whole loss."""
    heads = set(target.get_submodule(head).parameters())
    body = [p for p in target.parameters() if p.requires_grad and p not in heads]
    found = torch.autograd.grad(cross_entropy, body, retain_graph=True, allow_unused=True)
    return {p: g for p, g in zip(body, found, strict=True) if g is not None}


def gradient_ratio(task: Mapping[nn.Parameter, Tensor]) -> Tensor:
    """Return the penalty's gradient norm over the cross-entropy's, on T's backbone, as a scalar on the device.

    Args:
        task: from `task_gradient`, for the step whose whole gradient `backward` has left.
    """
    rest = [p.grad - g for p, g in task.items() if p.grad is not None]
    return get_total_norm(rest) / get_total_norm(task.values())


def format_loss(objective: Objective, losses: Losses) -> str:
    """Return the loss as a sum, as in Eq. 6, 11 and 12: `cross-entropy 3.1 + 0.01 × decay 2`."""
    penalty = ""
    if objective.penalty is not None:
        penalty = f" + {objective.alpha:g} × {type(objective.penalty).__name__} {losses.penalty:.4g}"
    return (
        f"cross-entropy {losses.cross_entropy:.4g}{penalty} + {objective.beta:g} × decay {losses.decay:.4g}"
    )


def format_norms(norms: Mapping[str, float]) -> str:
    """Return gradient norms by layer as text: `stem 0.5, fc 1.23e+04`."""
    shown = [f"{name} {norm:.3g}" for name, norm in list(norms.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(norms) - SHOWN} more" if len(norms) > SHOWN else "")


def likely_cause(
    objective: Objective, losses: Losses, *, scaled: bool, lr: float | None = None, backbone: str = ""
) -> str:
    """Return the likely cause of a divergence, and what to try.

    Args:
        objective: of the stage.
        losses: of the last step with finite ones; of the first step if it had none.
        scaled: whether the stage's penalty depends on `scale`.
        lr: the learning rate, where one was used.
        backbone: name of S, for the message.

    Example:
        >>> from spgca_lab import Penalty
        >>> wild = Objective(nn.Identity(), nn.Identity(), "", (), Penalty(), 0.1, 0.01, "afa")
        >>> likely_cause(wild, Losses(3.0, 360000.0, 2.0), scaled=True, backbone="lite0")
        "`afa` scale on lite0 at α = 0.1: penalty is 12,000 × the cross-entropy; try scale='relative', or a lower alpha"
    """
    task, penalty, decay = (
        losses.cross_entropy,
        objective.alpha * losses.penalty,
        objective.beta * losses.decay,
    )
    rescales = scaled and objective.scale != "relative"
    # Written so that NaN outweighs.
    if objective.penalty is not None and objective.alpha > 0 and not penalty <= OUTWEIGHS * task:
        what = f"`{objective.scale}` scale" if scaled else type(objective.penalty).__name__
        on = f" on {backbone}" if backbone else ""
        advice = "try scale='relative', or a lower alpha" if rescales else "try a lower alpha"
        return f"{what}{on} at α = {objective.alpha:g}: penalty is {_times(penalty, task)} the cross-entropy; {advice}"
    if not decay <= OUTWEIGHS * task:
        times = _times(decay, task)
        return f"β = {objective.beta:g}: the decay of T's head is {times} the cross-entropy; try a lower beta"
    slower = f"try lr={lr / 10:g}" if lr else "try a lower lr"
    cause = "no term outweighs the cross-entropy: the learning rate is too high"
    if objective.penalty is None or penalty < task / OUTWEIGHS:
        return f"{cause}; {slower}"
    rescale = ", or scale='relative'" if rescales else ""
    return f"{cause}, or the penalty grows as T moves; {slower}, a lower alpha{rescale}"


def _times(one: float, other: float) -> str:
    ratio = one / other if other else math.inf
    if not math.isfinite(ratio):
        return "no finite multiple of"
    return f"{ratio:,.0f} ×" if ratio < 1e6 else f"{ratio:.1e} ×"
