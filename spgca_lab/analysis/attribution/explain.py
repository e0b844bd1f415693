"""What all attributions share: the networks in eval mode, the outputs asked about, arrays of one size."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spgca_lab._checks import quote
from spgca_lab.analysis.attribution.maps import Arrays, AttributionError, stretch
from spgca_lab.backbones import Backbone
from spgca_lab.data.augment import LARGEST

__all__ = ["check_images", "Attribution", "Explain", "explain_both", "explain_one", "known_layers"]

Explain = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Attribution:
    """What an attribution method found, for S and, where it was given, T.

    Args:
        method: its name.
        source: by layer, for S's own strongest answer: `[b, size, size]`, or `[b, c]` of channels. Attributions of
            the picture itself stand under `"input"`.
        target: likewise for T; empty where there is none.
        labels_s: the outputs of S that are explained, `[b]`.
        labels_t: those of T.
    """

    method: str
    source: Arrays
    target: Arrays = field(default_factory=dict)
    labels_s: tuple[int, ...] = ()
    labels_t: tuple[int, ...] = ()

    @property
    def difference(self) -> Arrays:
        """Where T's evidence lies and S's does not (above 0), and the other way round.

        Each picture's array is first divided by the sum of its absolute values: logits of two heads have no common
        unit.

        Raises:
            AttributionError: when there is no T.
        """
        if not self.target or not self.source:
            missing = "source" if self.target else "target"
            raise AttributionError(f"{self.method}: there is no {missing} to compare with")
        return {layer: _shares(found) - _shares(self.source[layer]) for layer, found in self.target.items()}


def explain_both(
    method: str,
    explain: Explain,
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None,
    labels: Any,
    size: int | None,
    only_target: bool = False,
) -> Attribution:
    """S for its own strongest answer and, where there is one, T for `labels`."""
    if target is None and only_target:
        raise AttributionError("only_target=True leaves nothing to explain: give target=")
    source, labels_s = (
        ({}, ()) if only_target else explain_one(explain, backbone, images, backbone.model, None, size)
    )
    if target is None:
        if labels is not None:
            raise AttributionError(
                f"labels={labels!r} are outputs of T; give target=, S explains its strongest"
            )
        return Attribution(method, source, labels_s=labels_s)
    found, labels_t = explain_one(explain, backbone, images, target, labels, size)
    return Attribution(method, source, found, labels_s, labels_t)


def explain_one(
    explain: Explain, backbone: Backbone, images: Tensor, model: nn.Module, labels: Any, size: int | None
) -> tuple[Arrays, tuple[int, ...]]:
    """What `explain` finds for one model, as arrays of one size, and the outputs it was asked about."""
    check_images(images)
    if size is not None and not 0 <= size <= LARGEST:
        raise AttributionError(f"size must be from 0 to {LARGEST:,} px, got {quote(size)}")
    device = next(model.parameters()).device
    with _evaluating(model), torch.enable_grad():
        x = backbone.preprocess(images.to(device)).requires_grad_(True)
        with torch.no_grad():
            logits = model(x)
        answers = logits.argmax(dim=1) if labels is None else _labels(labels, logits)
        found = {name: a.detach().double().cpu().numpy() for name, a in explain(model, x, answers).items()}
    side = int(images.shape[-1]) if size is None else size
    arrays = {name: stretch(a, side) if a.ndim == 3 and size != 0 else a for name, a in found.items()}
    return arrays, tuple(answers.tolist())


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of pictures."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise AttributionError(
            f"images must be uint8 [b, 3, s, s] with b ≥ 1, got {images.dtype} {list(images.shape)}"
        )


def known_layers(model: nn.Module, layers: Sequence[str]) -> Sequence[str]:
    """The layers, or an error that names those which the model lacks."""
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules or name == ""]
    if unknown:
        raise AttributionError(f"{type(model).__name__} has no module {', '.join(map(repr, unknown))}")
    return layers


def _labels(labels: Any, logits: Tensor) -> Tensor:
    try:
        wanted = torch.as_tensor(labels, device=logits.device)
    except (ValueError, TypeError, RuntimeError) as error:
        raise AttributionError(f"labels must be {len(logits)} whole numbers, got {quote(labels)}") from error
    whole = not wanted.is_floating_point() and not wanted.is_complex() and wanted.dtype != torch.bool
    fits = whole and wanted.shape == logits.shape[:1]
    if not fits or not bool(((wanted >= 0) & (wanted < logits.shape[1])).all()):
        raise AttributionError(
            f"labels must be {len(logits)} outputs from 0 to {logits.shape[1] - 1}, got {quote(labels)}"
        )
    return wanted.long()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, with every module's own flag restored afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _shares(found: np.ndarray) -> np.ndarray:
    total = np.abs(found).reshape(len(found), -1).sum(axis=1)
    return found / np.where(total > 0, total, 1).reshape(-1, *(1 for _ in found.shape[1:]))
