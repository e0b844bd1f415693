r"""Squared distances between the maps of S and T: where a penalty reads both maps, and the only place where it does.

Weights are constant along the axis that is summed over, so a weighted penalty never needs weighted differences: it
weighs the sums, which have one number a position or a channel.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spgca_lab.training.compiled import Compiled
from spgca_lab.training.global_batch import variance, whole_variance

__all__ = ["Compared", "Kernels", "compare", "eager_kernels", "fused", "wide"]

Over = Literal["channels", "positions"]
_AXES: dict[str, tuple[int, ...]] = {"channels": (1,), "positions": (2, 3)}


class Compared(NamedTuple):
    """What one look at both maps gives.

    `squared` is `[b, h·w]` over channels or `[b, c]` over positions; `variance` that of the source's map over the
    whole batch, a scalar; 1 if it was not asked for.
    """

    squared: Tensor
    variance: Tensor


class Kernels(NamedTuple):
    """The two passes over the maps: forward to sums and moments of S, backward to the gradient at T's map."""

    forward: Callable[[Tensor, Tensor, tuple[int, ...], bool], tuple[Tensor, Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]

    @classmethod
    def compiled(cls, backend: str = "inductor") -> "Kernels":
        """Those of `eager_kernels`, each as one loop over both maps.

        Example:
            >>> s, t = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
            >>> with fused(Kernels.compiled(backend="eager")):
            ...     compare(s, t, "channels").squared.shape
            torch.Size([2, 16])
        """
        return cls(
            Compiled(_forward, "the penalty", dynamic=True, backend=backend),
            Compiled(_backward, "the penalty's gradient", dynamic=True, backend=backend),
        )


_KERNELS: ContextVar[Kernels | None] = ContextVar("kernels", default=None)


@contextmanager
def fused(kernels: Kernels | None) -> Iterator[None]:
    """Inside the block `compare` reads each map once, and once more for the gradient; None changes nothing.

    The numbers are the same up to rounding. No second derivative can be taken.

    Args:
        kernels: `eager_kernels`, or `Kernels.compiled()`.

    Example:
        >>> s, t = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2, requires_grad=True)
        >>> with fused(eager_kernels):
        ...     compare(s, t, "positions").squared.sum().backward()
        >>> t.grad.unique()
        tensor([2.])
    """
    before = _KERNELS.set(kernels)
    try:
        yield
    finally:
        _KERNELS.reset(before)


def wide(x: Tensor) -> Tensor:
    """In single precision, or double as it is.

    Squared sums over 256 × 3,136 terms overflow half precision and lose digits in bfloat16.

    Example:
        >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x if x.dtype == torch.float64 else x.float()


def compare(s: Tensor, t: Tensor, over: Over, *, spread: bool = False) -> Compared:
    r"""Squared distances of two maps, summed over channels or positions.

    $$D_{p} = \sum_c (FM_{S,cp} - FM_{T,cp})^2, \qquad D_{c} = \sum_p (FM_{S,cp} - FM_{T,cp})^2$$

    Sums are taken in single precision, or in double where a map is double: half precision would overflow. No gradient
    reaches the source's map.

    Args:
        s: FM_S, `[b, c, h, w]`.
        t: FM_T, of the same shape.
        over: `"channels"`, which leaves `[b, h·w]`, or `"positions"`, which leaves `[b, c]`.
        spread: give the variance of `s` too.

    Source:
        the norms of Eq. 3, 5, 8 and 10 of the paper, before the sum that the weights leave.

    Example:
        >>> s, t = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
        >>> compare(s, t, "channels").squared, compare(s, t, "positions").squared
        (tensor([[2., 2., 2., 2.]]), tensor([[4., 4.]]))
    """
    axes, s = _AXES[over], s.detach()
    kernels = _KERNELS.get()
    if kernels is None:
        s, t = wide(s), wide(t)
        squared = (s - t).square().sum(dim=axes).flatten(1)
        return Compared(squared, variance(s) if spread else squared.new_ones(()))
    squared, within, centre = _Distance.apply(s, t, axes, spread, kernels)
    squared = squared.flatten(1)
    if not spread:
        return Compared(squared, squared.new_ones(()))
    # Rows are of one length: their mean variance, and the variance of their means.
    whole = within.mean() + centre.var(correction=0)
    return Compared(squared, whole_variance(centre.mean(), whole, s.numel()))


def _forward(s: Tensor, t: Tensor, axes: tuple[int, ...], spread: bool) -> tuple[Tensor, Tensor, Tensor]:
    s, t = wide(s), wide(t)
    squared = (s - t).square().sum(dim=axes)
    if not spread:
        return squared, squared.new_zeros(()), squared.new_zeros(())
    return squared, *torch.var_mean(s, dim=axes, correction=0)


def _backward(s: Tensor, t: Tensor, grad: Tensor) -> Tensor:
    return ((wide(t) - wide(s)) * (2 * grad)).to(t.dtype)


def _forward_in_place(
    s: Tensor, t: Tensor, axes: tuple[int, ...], spread: bool
) -> tuple[Tensor, Tensor, Tensor]:
    s = wide(s)
    squared = (s - wide(t)).square_().sum(dim=axes)
    if not spread:
        return squared, squared.new_zeros(()), squared.new_zeros(())
    # As one row, and not with var_mean: over all elements var alone has a fast way on a CPU.
    return squared, s.var(correction=0), s.mean()


def _backward_in_place(s: Tensor, t: Tensor, grad: Tensor) -> Tensor:
    return (wide(t) - wide(s)).mul_(2 * grad).to(t.dtype)


# For where nothing is compiled: one temporary each, which nothing keeps.
eager_kernels = Kernels(_forward_in_place, _backward_in_place)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, s: Tensor, t: Tensor, axes: tuple[int, ...], spread: bool, kernels: Kernels
    ) -> tuple[Tensor, Tensor, Tensor]:
        squared, within, centre = kernels.forward(s, t, axes, spread)
        ctx.save_for_backward(s, t)
        ctx.axes, ctx.kernels = axes, kernels
        ctx.mark_non_differentiable(within, centre)
        return squared, within, centre

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        s, t = ctx.saved_tensors
        for axis in ctx.axes:
            grad = grad.unsqueeze(axis)
        return None, ctx.kernels.backward(s, t, grad), None, None, None
