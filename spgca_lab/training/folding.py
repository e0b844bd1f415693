"""A frozen network with its BatchNorm layers folded into the convolutions before them."""

import copy
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from spgca_lab.regularizers.fx import trace

__all__ = ["FoldWarning", "FoldedNetwork", "foldable"]


class FoldWarning(UserWarning):
    """A network's BatchNorm layers stay, which is slower and gives the same numbers."""


def foldable(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, str]:
    """Which BatchNorm layer each convolution can take up: the one that alone reads what the convolution gives.

    Args:
        model: in eval mode.
        keep: convolutions whose own output is wanted, as at taps.

    Returns:
        `{convolution: BatchNorm layer}`.

    Raises:
        Exception: of any kind, when torch.fx cannot trace the model.

    Example:
        >>> foldable(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval())
        {'0': '1'}
    """
    modules = dict(model.named_modules())
    graph = trace(model)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = {}
    for node in graph.nodes:
        if node.op != "call_module" or not _folds(modules[node.target]) or calls[node.target] > 1:
            continue
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module" or before.target in keep:
            continue
        alone = len(before.users) == 1 and calls[before.target] == 1
        if alone and isinstance(modules[before.target], nn.Conv2d):
            pairs[str(before.target)] = str(node.target)
    return pairs


class FoldedNetwork(nn.Module):
    r"""A copy of a network in eval mode, with BatchNorm folded into convolutions wherever that changes nothing.

    $$\gamma \frac{W * x + b - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta
    = \Big(\tfrac{\gamma}{\sqrt{\sigma^2 + \epsilon}} W\Big) * x
    + \tfrac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (b - \mu) + \beta$$

    Where the network cannot be traced, or a convolution does not follow its weights alone, a `FoldWarning` says so and
    what cannot be folded stays as it is.

    Args:
        model: copied, with buffers, and left as it is.
        keep: convolutions whose own output is wanted: their BatchNorm stays.

    Source:
        `torch.nn.utils.fusion`, here in double precision, and again whenever the model's weights have changed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
        >>> folded = FoldedNetwork(net)
        >>> x = torch.randn(2, 3, 5, 5)
        >>> torch.allclose(folded(x), net(x), atol=1e-6), [type(m).__name__ for m in folded.net]
        (True, ['Conv2d', 'Identity'])
    """

    def __init__(self, model: nn.Module, keep: Sequence[str] = ()):
        super().__init__()
        self.net = copy.deepcopy(model).eval().requires_grad_(False)
        self.pairs = self._pairs(model, keep)
        for conv_name, norm_name in self.pairs.items():
            conv = _conv(self.net, conv_name)
            if conv.bias is None:
                conv.bias = nn.Parameter(conv.weight.new_zeros(len(conv.weight)), requires_grad=False)
            self.net.set_submodule(norm_name, _behind(self.net.get_submodule(norm_name)))
        self.refold(model)

    def forward(self, x: Tensor) -> Any:
        """What the model gives in eval mode."""
        return self.net(x)

    @torch.no_grad()
    def refold(self, model: nn.Module) -> None:
        """Take over the weights and statistics that the model has now; nothing is built anew.

        Args:
            model: that this was made of, or one of its shape.
        """
        given = model.state_dict()
        folded = {f"{conv}.{kind}" for conv in self.pairs for kind in ("weight", "bias")}
        for name, value in self.net.state_dict().items():
            if name not in folded:
                value.copy_(given[name])
        for conv_name, norm_name in self.pairs.items():
            weight, bias = _fold(_conv(model, conv_name), _norm(model, norm_name))
            conv = _conv(self.net, conv_name)
            conv.weight.copy_(weight)
            cast(Tensor, conv.bias).copy_(bias)

    def _pairs(self, model: nn.Module, keep: Sequence[str]) -> dict[str, str]:
        try:
            found = foldable(self.net, keep)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(
                f"{type(model).__name__} keeps its BatchNorm layers, for it cannot be traced: {lines[0]}",
                FoldWarning,
                stacklevel=4,
            )
            return {}
        kept = {conv: norm for conv, norm in found.items() if _agrees(_conv(model, conv), _norm(model, norm))}
        if len(kept) < len(found):
            other = ", ".join(conv for conv in found if conv not in kept)
            warnings.warn(
                f"{type(model).__name__} keeps the BatchNorm layers behind {other}: these convolutions do not follow "
                "their weights alone",
                FoldWarning,
                stacklevel=4,
            )
        return kept


def _folds(module: nn.Module) -> bool:
    with_activation = hasattr(module, "drop") and hasattr(module, "act")
    return (
        isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and (type(module).forward is _BatchNorm.forward or with_activation)
    )


def _behind(norm: nn.Module) -> nn.Module:
    # timm's BatchNorm layers hold the activation that follows.
    rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    rest = [module for module in rest if not isinstance(module, nn.Identity)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def _conv(model: nn.Module, name: str) -> nn.Conv2d:
    return cast(nn.Conv2d, model.get_submodule(name))


def _norm(model: nn.Module, name: str) -> _BatchNorm:
    return cast(_BatchNorm, model.get_submodule(name))


def _fold(conv: nn.Conv2d, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    def double(value: Any) -> Any:
        return None if value is None else value.detach().double()

    given = (conv.weight, conv.bias, norm.running_mean, norm.running_var)
    w, b, mean, var = map(double, given)
    weight, bias = fuse_conv_bn_weights(w, b, mean, var, norm.eps, double(norm.weight), double(norm.bias))
    return weight.detach(), bias.detach()


@torch.no_grad()
def _agrees(conv: nn.Conv2d, norm: _BatchNorm) -> bool:
    """Whether the convolution with folded weights gives what it gives now and BatchNorm makes of it."""
    conv, norm = copy.deepcopy(conv).double().eval(), copy.deepcopy(norm).double().eval()
    side = 2 + max(k * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    shape = (2, conv.in_channels, side, side)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.to(conv.weight.device)
    expected = norm(conv(x))
    weight, bias = _fold(conv, norm)
    conv.weight.copy_(weight)
    conv.bias = nn.Parameter(bias)
    return torch.allclose(_behind(norm)(conv(x)), expected, rtol=1e-6, atol=1e-9)
