"""Sizes of feature maps, found by running a network on PyTorch's meta device: shapes without arithmetic."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import nn
from torch.func import functional_call

__all__ = ["BackboneError", "outputs", "tap_shapes"]


class BackboneError(ValueError):
    """A backbone that does not exist, does not fit its weights, or cannot be used as asked."""


def outputs(model: nn.Module, names: Iterable[str], image_size: int) -> list[tuple[str, tuple[int, ...]]]:
    """Shapes that chosen modules output, in the order in which they ran, for one picture.

    Args:
        model: on any device, also on meta; neither its weights nor its buffers are read or changed.
        names: modules to watch; a module that runs twice appears twice.
        image_size: height and width of the input in pixels.

    Returns:
        `[(name, shape)]`, the shape without its batch axis; modules that give no tensor are left out.

    Example:
        >>> outputs(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), ["0"], 5)
        [('0', (8, 3, 3))]
    """
    seen: list[tuple[str, tuple[int, ...]]] = []

    def watch(name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                seen.append((name, tuple(output.shape[1:])))

        return hook

    state = {n: t.detach().to("meta") for n, t in chain(model.named_parameters(), model.named_buffers())}
    hooks = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        with torch.no_grad():
            # Two pictures: in training mode BatchNorm refuses one picture with a 1×1 map.
            functional_call(model, state, (torch.empty(2, 3, image_size, image_size, device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def tap_shapes(
    name: str, model: nn.Module, taps: Sequence[str], default: int, image_size: int | None
) -> dict[str, tuple[int, int, int]]:
    """`{tap: (c, h, w)}` at an input size, refusing sizes at which maps of different stages become equal.

    Args:
        name: of the backbone, for errors.
        model: on any device.
        taps: modules in the order of the result.
        default: the input size the backbone is made for.
        image_size: the size asked for; None is the default.

    Raises:
        BackboneError: when the size is no positive integer, or too small.
    """
    size = default if image_size is None else image_size
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise BackboneError(f"image_size must be a positive integer (pixels), got {image_size!r}")
    usual = _maps(model, taps, default)
    smallest = math.ceil(default / usual[-1][1])
    hint = f"{name!r} is made for {default} pixels and needs at least about {smallest}"
    try:
        found = usual if size == default else _maps(model, taps, size)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BackboneError(f"image_size={size} does not work: {hint} ({error})") from error
    for (_, before, _), (_, after, _), (_, usual_before, _), (_, usual_after, _) in zip(
        found, found[1:], usual, usual[1:], strict=False
    ):
        if usual_before > usual_after and before <= after:
            sides = ", ".join(f"{h}×{w}" for _, h, w in found)
            raise BackboneError(f"image_size={size} is too small: the maps would be {sides}. {hint}")
    return dict(zip(taps, found, strict=True))


def _maps(model: nn.Module, taps: Sequence[str], size: int) -> list[tuple[int, int, int]]:
    ran = dict(outputs(model, taps, size))
    for tap in taps:
        if len(ran.get(tap, ())) != 3:
            raise BackboneError(
                f"{tap!r} gave no [b, c, h, w] map but {ran.get(tap)!r} in {type(model).__name__}"
            )
    return [(c, h, w) for c, h, w in (ran[tap] for tap in taps)]
