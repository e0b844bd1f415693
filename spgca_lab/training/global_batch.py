"""Statistics of a batch of which each process holds a part: the variance of a map, and BatchNorm's moments."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["GlobalBatchNorm", "share_batch_norm", "shared_batch", "variance", "whole_variance"]

_SHARED: ContextVar[bool] = ContextVar("shared", default=False)


@contextmanager
def shared_batch(several: bool = True) -> Iterator[None]:
    """Inside the block, which every process must enter alike, `variance` is that of the global batch.

    Args:
        several: whether there are several processes at all.

    Example:
        >>> with shared_batch(several=False):
        ...     variance(torch.tensor([1.0, 3.0])).item()
        1.0
    """
    before = _SHARED.set(several)
    try:
        yield
    finally:
        _SHARED.reset(before)


def variance(x: Tensor) -> Tensor:
    r"""Population variance over all elements: $\frac1N \sum (x - \mu)^2$; no gradient passes between processes.

    Args:
        x: this process' part, any shape.

    Returns:
        a scalar; inside `shared_batch` the same on every process.

    Example:
        >>> variance(torch.tensor([[1.0, 3.0]])).item()
        1.0
    """
    if not _SHARED.get():
        return x.var(correction=0)
    spread, mean = torch.var_mean(x.detach(), correction=0)
    return whole_variance(mean, spread, x.numel())


def whole_variance(mean: Tensor, spread: Tensor, count: int) -> Tensor:
    """The variance that `variance` gives, from mean and variance of this process' `count` elements.

    Example:
        >>> whole_variance(torch.tensor(2.0), torch.tensor(1.0), 2).item()
        1.0
    """
    return _pooled(count, mean, spread)[2].to(spread.dtype) if _SHARED.get() else spread


class GlobalBatchNorm(_BatchNorm):
    r"""BatchNorm whose moments in train mode are those of the batch over all processes; for CPUs too.

    $$y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta, \qquad
    \mu = \frac1N \sum_{p} \sum_{x \in p} x, \quad \sigma^2 = \frac1N \sum_{p} \sum_{x \in p} (x - \mu)^2$$

    Parameters, buffers and their names are those of the layer that it takes the place of; the running variance takes
    the unbiased estimate, with the count N of all processes. The gradient at a process' x is that of the sum of all
    processes' losses, as in `torch.nn.SyncBatchNorm`, which DistributedDataParallel turns into their mean.

    Args:
        layer: a BatchNorm layer, or timm's with a `drop` and an activation `act` behind it.

    Raises:
        ValueError: when the layer computes something else than these.

    Source:
        Ioffe and Szegedy 2015, over processes as in PyTorch's `SyncBatchNorm`, which refuses tensors on a CPU.

    Example:
        >>> list(GlobalBatchNorm(nn.BatchNorm2d(4)).state_dict())
        ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """

    def __init__(self, layer: _BatchNorm):
        with_activation = hasattr(layer, "drop") and hasattr(layer, "act")
        if type(layer).forward is not _BatchNorm.forward and not with_activation:
            raise ValueError(
                f"{type(layer).__name__} is a BatchNorm with a forward of its own, which several processes cannot "
                "share: use target_bn='eval', or train in one process"
            )
        super().__init__(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        )
        self._parameters.update(layer._parameters)
        self._buffers.update(layer._buffers)
        self._modules.update(layer._modules)
        self.training = layer.training

    def forward(self, input: Tensor) -> Tensor:
        """`[b, c, ...]` of this process to the same shape."""
        y = self._train(input) if self.training else self._keep(input)
        for name, behind in self.named_children():
            if name in ("drop", "act"):
                y = behind(y)
        return y

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected an input [b, c, ...], got {tuple(input.shape)}")

    def _keep(self, x: Tensor) -> Tensor:
        own = self.running_mean is None
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, own, 0.0, self.eps
        )

    def _train(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        y, count, mean, var = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                unbiased = var * (count / (count - 1).clamp_min(1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        return y


def share_batch_norm(model: nn.Module) -> nn.Module:
    """Let the BatchNorm layers of `model` take their moments over all processes, under their own names.

    On a GPU they become `torch.nn.SyncBatchNorm` (timm's, which keeps activations), on a CPU `GlobalBatchNorm`.

    Args:
        model: changed in place, its parameters and buffers kept.

    Returns:
        the same model, or what takes its place if it is itself a BatchNorm layer.

    Raises:
        ValueError: when a layer is a BatchNorm of another kind.

    Example:
        >>> model = share_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
        >>> type(model[1]).__name__
        'GlobalBatchNorm'
    """
    if any(p.device.type == "cuda" for p in model.parameters()):
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    return _converted(model, {})


def _converted(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    # A layer that a model uses in two places stays one layer.
    if module not in done:
        new: nn.Module = module
        if isinstance(module, _BatchNorm) and not isinstance(module, GlobalBatchNorm):
            new = GlobalBatchNorm(module)
        done[module] = new
        for name, child in list(new._modules.items()):
            if child is not None:
                setattr(new, name, _converted(child, done))
    return done[module]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        around = [d for d in range(x.ndim) if d != 1]
        wide = x if x.dtype == torch.float64 else x.float()
        spread, centre = torch.var_mean(wide, dim=around, correction=0)
        count, mean, var = _pooled(x.numel() // x.shape[1], centre, spread)
        scale = (var + eps).rsqrt()
        mean, var, scale = (t.to(wide.dtype) for t in (mean, var, scale))
        y = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(count, mean, var)
        return y, count, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        around = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        normal = (x - mean.view(shape)) * scale.view(shape)
        to_bias, to_weight = grad.sum(dim=around), (grad * normal).sum(dim=around)
        to_x = None
        if ctx.needs_input_grad[0]:
            both = torch.stack([to_bias, to_weight]).to(mean.dtype)
            distributed.all_reduce(both)
            shift, slope = (both / count).to(mean.dtype)
            factor = scale if weight is None else scale * weight
            to_x = factor.view(shape) * (grad - shift.view(shape) - normal * slope.view(shape))
            to_x = to_x.to(x.dtype)
        needed = zip((to_weight, to_bias), ctx.needs_input_grad[1:3], strict=True)
        return to_x, *(t if needs else None for t, needs in needed), None


def _pooled(count: int, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and variance of all processes' elements together, in double precision."""
    own = torch.stack([torch.full_like(mean, count, dtype=torch.float64), mean.double(), spread.double()])
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own)
    counts, means, spreads = torch.stack(parts).unbind(1)
    total = counts.sum(dim=0)
    # Not from the sums of squares, which cancel where the mean is large.
    centre = (counts * means).sum(dim=0) / total
    return total, centre, (counts * (spreads + (means - centre).square())).sum(dim=0) / total
