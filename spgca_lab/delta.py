"""DELTA: channels weighted by how much the loss of an L2-FE model rises when a filter is zeroed."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab import penalties
from spgca_lab.datasets import center_crop
from spgca_lab.protocol import Penalty, Setup, StepState

__all__ = ["FilterImportance", "filter_importance", "fit_head"]

MAX_PICTURES = 64
HEAD_STEPS = 300
ROWS = 64


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
def filter_importance(model: nn.Module, taps: Sequence[str], x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    r"""Rise of the cross-entropy when one channel of a tap is zeroed: $\Delta_c = CE_{-c} - CE$, in nats.

    Args:
        model: in eval mode.
        taps: module names with `[b, c, h, w]` outputs.
        x: preprocessed pictures, `[b, 3, h, w]`.
        labels: `[b]`.

    Returns:
        `{tap: [c]}`.

    Source:
        Li et al. 2019 (DELTA), Sec. 3; the release zeroes the convolution's filter, which is the same where the
        convolution has no bias.
    """
    base = F.cross_entropy(model(x), labels)
    # Several copies of the batch in one pass, each with another channel zeroed, spare most of the passes' overhead.
    copies = max(1, ROWS // len(x))
    rows = x.repeat(copies, 1, 1, 1)
    rises = {}
    for tap in taps:
        module = model.get_submodule(tap)
        zeroed: list[int] = []
        channels = 0

        def silence(_: nn.Module, args: Any, output: Tensor, zeroed: list[int] = zeroed) -> Tensor:
            nonlocal channels
            channels = output.shape[1]
            parts = output.clone().view(copies, len(x), *output.shape[1:])
            for part, channel in enumerate(zeroed):
                parts[part, :, channel] = 0
            return parts.flatten(0, 1)

        with _replay_until(model, module, rows):
            handle = module.register_forward_hook(silence)
            try:
                model(rows)
                rise: list[Tensor] = []
                for block in torch.arange(channels).split(copies):
                    zeroed[:] = block.tolist()
                    losses = F.cross_entropy(model(rows), labels.repeat(copies), reduction="none")
                    rise.extend(losses.view(copies, len(x)).mean(dim=1)[: len(block)] - base)
            finally:
                handle.remove()
        rises[tap] = torch.stack(rise)
    return rises


def _softmax_of_z(rise: Tensor) -> Tensor:
    z = (rise - rise.mean()) / rise.std(correction=0).clamp_min(torch.finfo(rise.dtype).tiny)
    return (z / 5).softmax(dim=0)


@contextmanager
def _replay_until(model: nn.Module, stop: nn.Module, x: Tensor) -> Iterator[None]:
    """Inside the block, modules that finish before `stop` begins return what they gave for `x`.

    Zeroing a channel of a late layer changes nothing before it; without this each of thousands of passes would
    compute the whole network.
    """
    finished: dict[nn.Module, Any] = {}
    runs: dict[nn.Module, int] = {}
    reached = False

    def before(module: nn.Module, _: Any) -> None:
        nonlocal reached
        runs[module] = runs.get(module, 0) + 1
        reached = reached or module is stop

    def after(module: nn.Module, _: Any, output: Any) -> None:
        if not reached and isinstance(output, Tensor):
            finished[module] = output.clone()

    handles = [m.register_forward_pre_hook(before) for m in model.modules()]
    handles += [m.register_forward_hook(after) for m in model.modules()]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    once = {m for m in finished if runs[m] == 1}
    inner = {child for m in once for child in m.modules() if child is not m}
    replaced = [m for m in once if m not in inner]
    try:
        for m in replaced:
            # A copy each time: the next operation may work in place.
            m.forward = lambda *args, kept=finished[m], **kwargs: kept.clone()  # type: ignore[method-assign]
        yield
    finally:
        for m in replaced:
            del m.forward
