"""Random inputs, short formulas and messages that several exercises share."""

import torch
from torch import Tensor, nn

# Messages for mistakes that are usual in several exercises.
NO_HALF = "the factor ½ is missing"
NO_MEAN = "this is the sum over the batch; take the mean, or a larger batch would mean a larger α"
NO_HALF_NO_MEAN = "the factor ½ is missing, and so is the mean over the batch"
NO_WEIGHTS = "the weights are missing"
NO_SOFTMAX = "the softmax is missing: these are the scores"
SOFTMAX_FIRST = "the softmax comes last, after fc, not before it"
SOFTMAX_OVER_BATCH = "the softmax runs over the batch (dim=0); each image's weights must sum to one (dim=1)"
MEAN_FOR_SUM = "the norm is a sum over channels and positions; only over the batch is the mean taken"
SUM_FOR_MEAN = "AvgPool is a mean over channels, not a sum"
NOT_FLAT = "after the mean over channels the map is [b, h, w]; flatten it to [b, h·w] before fc"


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw numbers between 0 and 1 in float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def between(generator: torch.Generator, low: float, high: float) -> float:
    """Draw a number between `low` and `high`."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def filled(module: nn.Module, generator: torch.Generator, factor: float = 1.0) -> nn.Module:
    """Convert a module to float64 and fill its parameters with normal numbers times `factor`."""
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(factor * normal(generator, *p.shape))
    return module


def attention_net(h: int, w: int) -> nn.Sequential:
    """Build the fc of a spatial attention over h·w positions."""
    return nn.Sequential(nn.Linear(h * w, h, bias=False), nn.ReLU(), nn.Linear(h, h * w))


def batch_mean(x: Tensor) -> Tensor:
    """Return the sum over all elements, averaged over the batch."""
    return x.sum() / len(x)


def channel_mean(fm: Tensor) -> Tensor:
    """Return the mean over channels of each position, `[b, h·w]`."""
    return fm.mean(dim=1).flatten(1)


def on_map(a: Tensor, fm: Tensor) -> Tensor:
    """Reshape weights `[b, h·w]` to `[b, 1, h, w]` of a map."""
    return a.reshape(len(fm), 1, *fm.shape[2:])
