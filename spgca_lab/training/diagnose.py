"""Why a training runs away: what outweighs what, how large gradients were, and what to try."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from spgca_lab.training.objective import Objective

__all__ = [
    "DWARFS",
    "LayerNorms",
    "Losses",
    "PenaltyWarning",
    "cause",
    "dwarfed",
    "layers",
    "task_gradient",
    "told",
]

# A penalty whose gradient is so many times that of the cross-entropy leaves the labels no say.
DWARFS = 100.0
# A term of so many times the cross-entropy is what ran away.
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
    """Norms of the gradients of a stage, by part of T, and of the attention nets.

    T's parts are its direct children, and of one that is a list its items.

    Args:
        target: T.
        penalty: of the stage, or None.

    Attributes:
        names: of the parts that train, in the order of the network.

    Example:
        >>> body = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> net = nn.ModuleDict({"body": body, "fc": nn.Linear(2, 3)})
        >>> norms = LayerNorms(net, None)
        >>> net["fc"](torch.ones(1, 2)).sum().backward()
        >>> norms.names, norms().tolist()
        (['body.0', 'body.2', 'fc'], [0.0, 0.0, 3.0])
    """

    def __init__(self, target: nn.Module, penalty: nn.Module | None):
        parts: list[tuple[str, nn.Module]] = []
        for name, child in target.named_children():
            if isinstance(child, nn.Sequential | nn.ModuleList):
                parts += [(f"{name}.{number}", item) for number, item in child.named_children()]
            else:
                parts.append((name, child))
        if penalty is not None:
            parts.append((type(penalty).__name__, penalty))
        found = {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts}
        self.names = [name for name, parameters in found.items() if parameters]
        self._parameters = [p for name in self.names for p in found[name]]
        self._part = torch.tensor([i for i, name in enumerate(self.names) for _ in found[name]])

    def __call__(self) -> Tensor:
        """Norms of what `backward` left, one a part, on the device."""
        found = [(p.grad, i) for i, p in enumerate(self._parameters) if p.grad is not None]
        gradients = [g for g, _ in found]
        # All at once: on a GPU a kernel for each would take longer than a step's own.
        norms = torch.stack(torch._foreach_norm(gradients)).float()
        if self._part.device != norms.device:
            self._part = self._part.to(norms.device)
        part = self._part if len(found) == len(self._parameters) else self._part[[i for _, i in found]]
        return norms.new_zeros(len(self.names)).index_add(0, part, norms.square()).sqrt()


def task_gradient(cross_entropy: Tensor, target: nn.Module, head: str) -> dict[nn.Parameter, Tensor]:
    """The cross-entropy's gradient on T's backbone; the graph stays for the whole loss.

    Args:
        cross_entropy: of a batch.
        target: T.
        head: name of its classifier.

    Example:
        >>> net = nn.ModuleDict({"body": nn.Linear(2, 2), "fc": nn.Linear(2, 3)})
        >>> loss = net["fc"](net["body"](torch.ones(1, 2))).sum()
        >>> [tuple(gradient.shape) for gradient in task_gradient(loss, net, "fc").values()]
        [(2, 2), (2,)]
    """
    heads = set(target.get_submodule(head).parameters())
    body = [p for p in target.parameters() if p.requires_grad and p not in heads]
    found = torch.autograd.grad(cross_entropy, body, retain_graph=True, allow_unused=True)
    return {p: g for p, g in zip(body, found, strict=True) if g is not None}


def dwarfed(task: Mapping[nn.Parameter, Tensor]) -> Tensor:
    """How many times the cross-entropy's gradient the penalty's is, as norms over T's backbone, on the device.

    Args:
        task: from `task_gradient`, of the step whose whole gradient `backward` has left.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> weight.grad = torch.tensor([3.0, 1.0])
        >>> dwarfed({weight: torch.tensor([1.0, 1.0])}).item()
        1.4142135381698608
    """
    rest = [p.grad - g for p, g in task.items() if p.grad is not None]
    return get_total_norm(rest) / get_total_norm(task.values())


def told(objective: Objective, losses: Losses) -> str:
    """The loss as a sum, as in Eq. 6, 11 and 12.

    Example:
        >>> plain = Objective(nn.Identity(), nn.Identity(), "", (), None, 0.0, 0.01, "relative")
        >>> told(plain, Losses(3.1, 0.0, 2.0))
        'cross-entropy 3.1 + 0.01 × decay 2'
    """
    penalty = ""
    if objective.penalty is not None:
        penalty = f" + {objective.alpha:g} × {type(objective.penalty).__name__} {losses.penalty:.4g}"
    return (
        f"cross-entropy {losses.cross_entropy:.4g}{penalty} + {objective.beta:g} × decay {losses.decay:.4g}"
    )


def cause(
    objective: Objective, losses: Losses, *, scaled: bool, lr: float | None = None, backbone: str = ""
) -> str:
    """What most likely drives a loss out of bounds, and what to try.

    Args:
        objective: of the stage.
        losses: finite ones, of the last step that had them; if not even the first did, what there is.
        scaled: whether the stage's penalty depends on `scale`.
        lr: the learning rate, where one was used.
        backbone: name of S, for the message.

    Example:
        >>> from spgca_lab.regularizers.base import Penalty
        >>> wild = Objective(nn.Identity(), nn.Identity(), "", (), Penalty(), 0.1, 0.01, "afa")
        >>> cause(wild, Losses(3.0, 360000.0, 2.0), scaled=True, backbone="lite0")
        "`afa` scale on lite0 at α = 0.1: penalty is 12,000 × the cross-entropy; try scale='relative', or a lower alpha"
    """
    which = _largest(objective, losses)
    on = f" on {backbone}" if backbone else ""
    if which == "penalty":
        times = _times(objective.alpha * losses.penalty, losses.cross_entropy)
        rescales = scaled and objective.scale != "relative"
        scale = f"`{objective.scale}` scale{on} " if scaled else f"{type(objective.penalty).__name__}{on} "
        advice = "try scale='relative', or a lower alpha" if rescales else "try a lower alpha"
        return f"{scale}at α = {objective.alpha:g}: penalty is {times} the cross-entropy; {advice}"
    if which == "decay":
        times = _times(objective.beta * losses.decay, losses.cross_entropy)
        return f"β = {objective.beta:g}: the decay of T's head is {times} the cross-entropy; try a lower beta"
    slower = f"try lr={lr / 10:g}" if lr else "try a lower lr"
    if objective.penalty is None or objective.alpha * losses.penalty < losses.cross_entropy / OUTWEIGHS:
        return f"no term outweighs the cross-entropy: the learning rate is too high; {slower}"
    rescale = ", or scale='relative'" if scaled and objective.scale != "relative" else ""
    return (
        f"no term outweighs the cross-entropy: the learning rate is too high, or the penalty grows as T moves; "
        f"{slower}, a lower alpha{rescale}"
    )


def layers(norms: Mapping[str, float]) -> str:
    """Gradient norms by layer, in words.

    Example:
        >>> layers({"stem": 0.5, "fc": 12345.6})
        'stem 0.5, fc 1.23e+04'
    """
    shown = [f"{name} {norm:.3g}" for name, norm in list(norms.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(norms) - SHOWN} more" if len(norms) > SHOWN else "")


def _largest(objective: Objective, losses: Losses) -> Literal["penalty", "decay", "none"]:
    task = losses.cross_entropy
    penalty, decay = objective.alpha * losses.penalty, objective.beta * losses.decay
    if objective.penalty is not None and objective.alpha > 0 and not penalty <= OUTWEIGHS * task:
        return "penalty"
    return "decay" if not decay <= OUTWEIGHS * task else "none"


def _times(one: float, other: float) -> str:
    ratio = one / other if other else math.inf
    if not math.isfinite(ratio):
        return "no finite multiple of"
    return f"{ratio:,.0f} ×" if ratio < 1e6 else f"{ratio:.1e} ×"
