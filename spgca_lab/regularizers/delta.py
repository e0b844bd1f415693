"""DELTA: channels weighted by the rise of an L2-FE model's loss when their filter is zeroed."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.ablate import FullNetwork, SplitNetwork, peak_bytes, suffix
from spgca_lab.regularizers.base import BuildContext, ForwardState, Penalty

MAX_IMAGES = 64
HEAD_STEPS = 300

# Bytes for the tensors of one forward pass.
CPU_BUDGET = 48 * 2**20
GPU_BUDGET = 2 * 2**30


class FilterImportance(Penalty):
    r"""DELTA's penalty, with channel weights measured once before the stage.

    $$w^i = \mathrm{Softmax}(z^i / 5), \quad z^i_c = \frac{\Delta_c - \mu(\Delta)}{\sigma(\Delta)}$$

    $\Delta_c$ is the rise of the cross-entropy when channel c of tap i is zeroed in an L2-FE model (source backbone,
    head trained on the target's images).

    Args:
        importance: `{tap: [c]}`, each with the sum one.

    Source:
        Li et al. 2019 (DELTA) and its release. The release measures on up to four batches of 64 images, this class on
        up to 64 images.
    """

    kind = "channel"

    def __init__(self, importance: dict[str, Tensor]):
        super().__init__()
        self._importance = importance

    @classmethod
    def build(cls, context: BuildContext) -> Self:
        """Train the L2-FE head, zero every filter, and store the softmax weights."""
        # Imported here, so that importing regularizers imports no data sets.
        from spgca_lab.data import center_crop

        model = copy.deepcopy(context.target).eval().requires_grad_(False)
        crops = center_crop(context.train.images, context.image_size)
        labels = context.train.labels.to(context.device)

        def inputs(rows: Tensor) -> Tensor:
            return context.preprocess(crops[rows].to(context.device))

        generator = torch.Generator().manual_seed(int(context.options["seed"]))
        decay = float(context.options["beta"])
        fit_head(model, context.head_t, inputs, labels, decay=decay, generator=generator)
        rows = torch.randperm(len(labels), generator=generator)[:MAX_IMAGES]
        rises = filter_importance(model, context.taps, inputs(rows), labels[rows.to(context.device)])
        return cls({tap: _softmax_of_z(rise) for tap, rise in rises.items()})

    def weights(self, state: ForwardState) -> dict[str, Tensor]:
        """Return the same weights for every image, `{tap: [b, c]}`."""
        return {tap: w.expand(len(state.maps_t[tap]), -1) for tap, w in self._importance.items()}

    def penalty(self, state: ForwardState, weights: dict[str, Tensor]) -> Tensor:
        """Return `penalties.delta` with the fixed weights."""
        return penalties.delta(state.maps_s, state.maps_t, weights, state.scale)


def fit_head(
    model: nn.Module,
    head: str,
    inputs: Callable[[Tensor], Tensor],
    labels: Tensor,
    *,
    decay: float = 0.01,
    generator: torch.Generator,
    batch: int = 64,
) -> None:
    """Train only the classifier of `model`, in place, on the frozen backbone's embeddings (L2-FE).

    Args:
        model: backbone and head, in eval mode.
        head: name of the classifier module.
        inputs: function from row numbers `[n]` to preprocessed images `[n, 3, h, w]`.
        labels: `[n]`, on the device of the model.
        decay: β of Eq. 6.
        generator: source of the random batches.
        batch: images per step.

    Source:
        the $L^2$-FE baseline of Table 4; embeddings of the centre crops are computed once.
    """
    module = model.get_submodule(head)
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        with torch.no_grad():
            for rows in torch.arange(len(labels)).split(batch):
                model(inputs(rows))
    finally:
        handle.remove()
    embeddings = torch.cat(seen)
    module.requires_grad_(True)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    for _ in range(HEAD_STEPS):
        rows = torch.randint(len(labels), (batch,), generator=generator).to(labels.device)
        cross_entropy = F.cross_entropy(module(embeddings[rows]), labels[rows])
        loss = cross_entropy + decay * penalties.l2(module.parameters())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    module.requires_grad_(False)


@torch.no_grad()
def filter_importance(
    model: nn.Module, taps: Sequence[str], x: Tensor, labels: Tensor, *, budget: int | None = None
) -> dict[str, Tensor]:
    r"""Measure the rise of the cross-entropy when one channel of a tap is zeroed: $\Delta_c = CE_{-c} - CE$, in nats.

    The network before a tap runs once. The network after it runs for every pair of channel and image, with as many
    pairs per pass as the budget allows.

    Args:
        model: in eval mode.
        taps: names of modules with `[b, c, h, w]` outputs.
        x: preprocessed images, `[b, 3, h, w]`.
        labels: `[b]`.
        budget: bytes for the tensors of one pass, which takes at least one pair; the maps from before the tap are not
            counted. None takes the fastest budget on a CPU, and a larger one on a GPU.

    Returns:
        `{tap: [c]}`.

    Raises:
        ValueError: when the budget is not positive.

    Source:
        Li et al. 2019 (DELTA), Sec. 3; the release zeroes the convolution's filter, which is the same where the
        convolution has no bias.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> filter_importance(net, ["0"], torch.ones(2, 3, 5, 5), torch.tensor([0, 1]))["0"].shape
        torch.Size([4])
    """
    if budget is None:
        budget = CPU_BUDGET if x.device.type == "cpu" else GPU_BUDGET
    if budget < 1:
        raise ValueError(f"budget is {budget!r}: give a positive number of bytes")
    rows = max(1, budget // peak_bytes(partial(model, x[:1])))
    return {tap: _rises(suffix(model, tap, x, rows), labels, budget) for tap in taps}


def _rises(network: SplitNetwork | FullNetwork, labels: Tensor, budget: int) -> Tensor:
    one = torch.zeros(1, dtype=torch.long, device=labels.device)
    rows = max(1, budget // peak_bytes(partial(network, one, one)))
    pairs = torch.arange(network.channels * len(labels), device=labels.device)
    intact = [_losses(network(block), labels[block]) for block in pairs[: len(labels)].split(rows)]
    zeroed = []
    for block in pairs.split(rows):
        images, channels = block % len(labels), block // len(labels)
        zeroed.append(_losses(network(images, channels), labels[images]))
    return (torch.cat(zeroed).view(-1, len(labels)) - torch.cat(intact)).mean(dim=1)


_losses = partial(F.cross_entropy, reduction="none")


def _softmax_of_z(rise: Tensor) -> Tensor:
    z = (rise - rise.mean()) / rise.std(correction=0).clamp_min(torch.finfo(rise.dtype).tiny)
    return (z / 5).softmax(dim=0)
