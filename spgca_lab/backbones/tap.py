"""Taps: names of modules whose outputs are feature maps, with a function where the outputs are tokens."""

import difflib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn


class BackboneError(ValueError):
    """A backbone that does not exist, does not fit its weights, or cannot be used as asked."""


class Tap(str):
    """A tapped module's name, with a function `to_map` that turns the module's output into `[b, c, h, w]`.

    A `Tap` is a string and equals the module's name. `to_map` should return a view that selects and reorders elements:
    attributions and DELTA then apply to the map.

    Example:
        >>> import torch
        >>> tap = Tap("blocks.3", tokens_to_map(prefix_tokens=1))
        >>> tap == "blocks.3", tap.to_map(torch.zeros(2, 197, 192)).shape
        (True, torch.Size([2, 192, 14, 14]))
    """

    to_map: Callable[[Any], Tensor] | None

    def __new__(cls, name: str, to_map: Callable[[Any], Tensor] | None = None) -> "Tap":
        """Return the name with its function."""
        if to_map is not None and not callable(to_map):
            raise BackboneError(
                f"to_map of tap {name!r} must be a function of the module's output, got {to_map!r}"
            )
        tap = super().__new__(cls, name)
        tap.to_map = to_map
        return tap


def tapped_map(tap: str, output: Any) -> Any:
    """Return a module's output as the tap's map: what `to_map` makes of it, or itself without one."""
    to_map = getattr(tap, "to_map", None)
    return to_map(output) if to_map else output


def tokens_to_map(
    prefix_tokens: int, height: int | None = None, width: int | None = None
) -> Callable[[Tensor], Tensor]:
    """Return a function for `Tap` that turns a transformer's tokens `[b, n, d]` into a map `[b, d, h, w]`.

    Args:
        prefix_tokens: tokens before those of the patches: 1 for a class token, 0 without one.
        height: patches per column; None for a square map.
        width: patches per row; None for a square map.

    Example:
        >>> import torch
        >>> tokens_to_map(1, 2, 3)(torch.arange(7.0).view(1, 7, 1))
        tensor([[[[1., 2., 3.],
                  [4., 5., 6.]]]])
    """
    return partial(_tokens_to_map, prefix_tokens=prefix_tokens, height=height, width=width)


def _tokens_to_map(tokens: Tensor, prefix_tokens: int, height: int | None, width: int | None) -> Tensor:
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        given = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise BackboneError(f"tokens_to_map takes tokens of shape [b, n, d], got {given}")
    side = math.isqrt(max(tokens.shape[1] - prefix_tokens, 0))
    h, w = height or width or side, width or height or side
    if h * w != tokens.shape[1] - prefix_tokens:
        raise BackboneError(
            f"{tokens.shape[1]} tokens, {prefix_tokens} of them before the patches, do not fill a map of {h}×{w}: "
            "give tokens_to_map the right prefix_tokens, height and width"
        )
    return tokens[:, prefix_tokens:].transpose(1, 2).reshape(tokens.shape[0], -1, h, w)


def unknown_module(name: str, model: nn.Module, purpose: str = "to tap") -> str:
    """Return the error text for a module that a model does not have, with near names."""
    known = [n for n, _ in model.named_modules() if n]
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    tail = name.rsplit(".", 1)[-1]
    near += [n for n in known if tail and n.rsplit(".", 1)[-1] == tail and n not in near]
    listed = ", ".join(near[:6] or known[:6]) or "(no modules)"
    return f"{type(model).__name__} has no module {str(name)!r} {purpose}; near names: {listed}"
