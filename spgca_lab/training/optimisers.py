"""Optimisers by name, and the parameter groups of one stage."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


def _sgd(groups: list[dict[str, Any]], lr: float, momentum: float, fused: dict[str, Any]) -> Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, **fused)


def _adam(groups: list[dict[str, Any]], lr: float, momentum: float, fused: dict[str, Any]) -> Optimizer:
    return torch.optim.Adam(groups, lr=lr, **fused)


def _adamw(groups: list[dict[str, Any]], lr: float, momentum: float, fused: dict[str, Any]) -> Optimizer:
    return torch.optim.AdamW(groups, lr=lr, weight_decay=0.0, **fused)


OPTIMISERS: dict[str, Callable[..., Optimizer]] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}


def make_optimiser(
    name: str, groups: list[dict[str, Any]], lr: float, momentum: float, *, fused: bool = False
) -> Optimizer:
    """Return an optimiser from `OPTIMISERS`; each group's learning rate is `lr` times its `factor`.

    `momentum` is that of SGD, the others keep PyTorch's coefficients; `fused` is one kernel for all parameters.
    """
    rated = [{"factor": 1.0} | group | {"lr": lr * group.get("factor", 1.0)} for group in groups]
    return OPTIMISERS[name](rated, lr, momentum, {"fused": True} if fused else {})


def trained_parameters(target: nn.Module, head: str, trains: str) -> None:
    """Mark the parameters of T that a stage trains with `requires_grad`; the head always trains.

    Args:
        target: T.
        head: name of its classifier.
        trains: `"all"`, `"head"`, or names of modules of T, separated by commas.

    Raises:
        ValueError: quoting a name that is no module of T.
    """
    target.requires_grad_(trains == "all")
    modules = dict(target.named_modules())
    for name in [name.strip() for name in trains.split(",") if name not in ("all", "head")]:
        if name not in modules:
            known = ", ".join(child for child, _ in target.named_children())
            raise ValueError(
                f"trains names {name!r}, which is no module of the target; its parts are {known}"
            )
        modules[name].requires_grad_(True)
    target.get_submodule(head).requires_grad_(True)


def target_groups(
    target: nn.Module, head: str, backbone_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the trained parameters of T in two groups: the backbone, at its own rate, and the head."""
    of_head = {id(p) for p in target.get_submodule(head).parameters()}
    backbone = [p for p in target.parameters() if p.requires_grad and id(p) not in of_head]
    own = [p for p in target.get_submodule(head).parameters() if p.requires_grad]
    return [
        {"params": parameters, "factor": factor, "weight_decay": weight_decay}
        for parameters, factor in ((backbone, backbone_lr), (own, 1.0))
        if parameters
    ]
