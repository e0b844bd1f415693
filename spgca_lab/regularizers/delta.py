"""DELTA: channels weighted by how much the loss of an L2-FE model rises when a filter is zeroed."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.data import center_crop
from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.ablate import Cut, Whole, suffix
from spgca_lab.regularizers.base import Penalty, Setup, StepState
from spgca_lab.regularizers.peak import peak_bytes

__all__ = ["FilterImportance", "filter_importance", "fit_head"]

MAX_PICTURES = 64
HEAD_STEPS = 300

# Bytes that one pass may take up.
CPU_BUDGET = 48 * 2**20
GPU_BUDGET = 2 * 2**30


class FilterImportance(Penalty):
    r"""DELTA's penalty with channel weights that are measured once and then fixed.

    $$w^i = \mathrm{Softmax}(z^i / 5), \quad z^i_c = \frac{\Delta_c - \mu(\Delta)}{\sigma(\Delta)}$$

    $\Delta_c$ is the rise of the cross-entropy when channel c of tap i is zeroed in an L2-FE model (source backbone,
    head trained on the target's pictures).

    Args:
        importance: `{tap: [c]}`, each summing to one.

    Source:
        Li et al. 2019 (DELTA) and its release. The release measures on up to four batches of 64, this on up
        to 64 pictures.
    """

    kind = "channel"

    def __init__(self, importance: dict[str, Tensor]):
        super().__init__()
        self._importance = importance

    @classmethod
    def build(cls, setup: Setup) -> Self:
        """Train the L2-FE head, zero every filter, keep the softmax weights."""
        model = copy.deepcopy(setup.target).eval().requires_grad_(False)
        crops = center_crop(setup.train.images, setup.image_size)
        labels = setup.train.labels.to(setup.device)

        def inputs(rows: Tensor) -> Tensor:
            return setup.preprocess(crops[rows].to(setup.device))

        generator = torch.Generator().manual_seed(int(setup.options["seed"]))
        fit_head(model, setup.head_t, inputs, labels, decay=float(setup.options["beta"]), generator=generator)
        rows = torch.randperm(len(labels), generator=generator)[:MAX_PICTURES]
        rises = filter_importance(model, setup.taps, inputs(rows), labels[rows.to(setup.device)])
        return cls({tap: _softmax_of_z(rise) for tap, rise in rises.items()})

    @classmethod
    def sketch(cls, setup: Setup) -> Self:
        """With equal weights, unmeasured."""
        widths = {tap: m.shape[1] for tap, m in setup.maps.items()}
        return cls({tap: torch.full((c,), 1 / c, device=setup.device) for tap, c in widths.items()})

    def weights(self, state: StepState) -> dict[str, Tensor]:
        """The same weights for every picture, `{tap: [b, c]}`."""
        return {tap: w.expand(len(state.maps_t[tap]), -1) for tap, w in self._importance.items()}

    def penalty(self, state: StepState, weights: dict[str, Tensor]) -> Tensor:
        """`penalties.delta` under the fixed weights."""
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
    """Train only `model`'s classifier, in place, on the frozen backbone's embeddings (L2-FE).

    Args:
        model: backbone and head, in eval mode.
        head: name of the classifier module.
        inputs: rows to preprocessed pictures, `[n] -> [n, 3, h, w]`.
        labels: `[n]`, on the model's device.
        decay: β of Eq. 6.
        generator: draws the batches.
        batch: pictures a step.

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
        loss = F.cross_entropy(module(embeddings[rows]), labels[rows]) + decay * penalties.l2(
            module.parameters()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    module.requires_grad_(False)


@torch.no_grad()
def filter_importance(
    model: nn.Module, taps: Sequence[str], x: Tensor, labels: Tensor, *, budget: int | None = None
) -> dict[str, Tensor]:
    r"""Rise of the cross-entropy when one channel of a tap is zeroed: $\Delta_c = CE_{-c} - CE$, in nats.

    What comes before a tap is computed once. What comes after it runs for every pair of a channel and a picture, as
    many in one pass as the budget allows.

    Args:
        model: in eval mode.
        taps: module names with `[b, c, h, w]` outputs.
        x: preprocessed pictures, `[b, 3, h, w]`.
        labels: `[b]`.
        budget: bytes that the tensors of one pass may take up; one picture is the least that runs. None takes what
            was fastest on a CPU, and more on a GPU. What is kept of the pictures from before the tap is not in it.

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
    at_first = max(1, budget // peak_bytes(partial(model, x[:1])))
    return {tap: _rises(suffix(model, tap, x, at_first), labels, budget) for tap in taps}


def _rises(rest: Cut | Whole, labels: Tensor, budget: int) -> Tensor:
    one = torch.zeros(1, dtype=torch.long, device=labels.device)
    rows = max(1, budget // peak_bytes(partial(rest, one, one)))
    pairs = torch.arange(rest.channels * len(labels), device=labels.device)
    intact = [_losses(rest(block), labels[block]) for block in pairs[: len(labels)].split(rows)]
    zeroed = []
    for block in pairs.split(rows):
        pictures, channels = block % len(labels), block // len(labels)
        zeroed.append(_losses(rest(pictures, channels), labels[pictures]))
    return (torch.cat(zeroed).view(-1, len(labels)) - torch.cat(intact)).mean(dim=1)


_losses = partial(F.cross_entropy, reduction="none")


def _softmax_of_z(rise: Tensor) -> Tensor:
    z = (rise - rise.mean()) / rise.std(correction=0).clamp_min(torch.finfo(rise.dtype).tiny)
    return (z / 5).softmax(dim=0)
