"""The exercises of notebooks 04 and 05: SPA (Eq. 7, 8) and GCA (Eq. 9, 10)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spgca_lab.exercises.base import Exercise, Mistake
from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.attention import GlobalChannelAttention, SelfPixelAttention

__all__ = ["EXERCISES"]

Maps = Mapping[str, Tensor]


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _size(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _net(generator: torch.Generator, *layers: nn.Module) -> nn.Sequential:
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * _random(generator, *p.shape))
    return net


def _total(x: Tensor) -> Tensor:
    """Sum over all elements, mean over the batch."""
    return x.sum() / len(x)


# --- 04: Eq. 7 and 8 ---


def _two_maps_and_net(generator: torch.Generator) -> tuple[Tensor, Tensor, nn.Module]:
    b, c = _size(generator, 2, 4), _size(generator, 5, 7)
    h, w = _size(generator, 2, 3), _size(generator, 4, 5)
    fc = _net(generator, nn.Linear(h * w, h, bias=False), nn.ReLU(), nn.Linear(h, h * w))
    fm_s, fm_t = _random(generator, b, c, h, w) + 0.5, _random(generator, b, c, h, w) - 0.3
    return fm_s, fm_t.requires_grad_(True), fc


def _spa(fm_s: Tensor, fm_t: Tensor, fc: nn.Module) -> Tensor:
    spa = SelfPixelAttention({"tap": (fm_s.shape[1], fm_s.shape[2], fm_s.shape[3])}).double()
    spa.fc["tap"] = fc
    return spa({"tap": fm_s}, {"tap": fm_t})["tap"]


def _mean(fm: Tensor) -> Tensor:
    return fm.mean(dim=1).flatten(1)


def _scores(s: Tensor, t: Tensor, fc: nn.Module) -> Tensor:
    return fc((_mean(s) + _mean(t)) / 2)


SPA_WEIGHTS = Exercise(
    name="spa_weights",
    about="the softmax over positions of fc, applied to the channel mean of both maps together, Eq. 7",
    right=_spa,
    inputs=_two_maps_and_net,
    mistakes=(
        Mistake(
            "these are AST's weights (Eq. 2), from the source alone; Eq. 7 looks at Concat(FM_S, FM_T)",
            lambda s, t, fc: fc(_mean(s)).softmax(dim=1),
        ),
        Mistake(
            "these weights come from the target alone; Eq. 7 looks at Concat(FM_S, FM_T)",
            lambda s, t, fc: fc(_mean(t)).softmax(dim=1),
        ),
        Mistake(
            "Concat comes before AvgPool, so the mean is over all 2C channels; you added two means, "
            "which is twice that",
            lambda s, t, fc: fc(_mean(s) + _mean(t)).softmax(dim=1),
        ),
        Mistake(
            "Eq. 7 concatenates the two maps; you took their difference",
            lambda s, t, fc: fc(_mean(s) - _mean(t)).softmax(dim=1),
        ),
        Mistake(
            "Eq. 7 concatenates the two maps; you took their difference",
            lambda s, t, fc: fc(_mean(t) - _mean(s)).softmax(dim=1),
        ),
        Mistake(
            "one softmax of one net that sees both maps; you averaged two attentions",
            lambda s, t, fc: (fc(_mean(s)).softmax(dim=1) + fc(_mean(t)).softmax(dim=1)) / 2,
        ),
        Mistake(
            "Concat is along channels (dim=1); along the batch (dim=0) each map is weighed by itself",
            lambda s, t, fc: fc(_mean(torch.cat([s, t]))).softmax(dim=1),
        ),
        Mistake(
            "the softmax runs over the batch (dim=0); each picture's weights must sum to one (dim=1)",
            lambda s, t, fc: _scores(s, t, fc).softmax(dim=0),
        ),
        Mistake("the softmax is missing: these are the scores", _scores),
        Mistake("Eq. 7 has a softmax, not a sigmoid", lambda s, t, fc: _scores(s, t, fc).sigmoid()),
        Mistake(
            "the softmax comes last, after fc, not before it",
            lambda s, t, fc: fc(((_mean(s) + _mean(t)) / 2).softmax(dim=1)),
        ),
        Mistake(
            "AvgPool is a mean over channels, not a sum",
            lambda s, t, fc: fc(torch.cat([s, t], dim=1).sum(dim=1).flatten(1)).softmax(dim=1),
        ),
        Mistake(
            "Concat is along channels (dim=1): along height or width the net gets twice as many positions",
            lambda s, t, fc: fc(_mean(torch.cat([s, t], dim=2))),
        ),
        Mistake(
            "AvgPool averages over channels (dim=1) and keeps the positions; you averaged over positions",
            lambda s, t, fc: fc(torch.cat([s, t], dim=1).mean(dim=(2, 3))),
        ),
        Mistake(
            "after the mean over channels the map is [b, h, w]; flatten it to [b, h·w] before fc",
            lambda s, t, fc: fc(torch.cat([s, t], dim=1).mean(dim=1)),
        ),
    ),
    gradient=True,
)


def _cells(a: Tensor, fm: Tensor) -> Tensor:
    return a.reshape(len(fm), 1, *fm.shape[2:])


def _spa_loss(fm_s: Tensor, fm_t: Tensor, fc: nn.Module) -> Tensor:
    return penalties.spa({"tap": fm_s}, {"tap": fm_t}, {"tap": _spa(fm_s, fm_t, fc)}, scale="literal")


def _gradient_is_direct(function: Callable[..., Any], given: tuple[Any, ...], result: Any) -> str | None:
    """T must feel the penalty through FM_S - FM_T only, and the net must learn."""
    fm_s, fm_t, fc = given
    (mine,) = torch.autograd.grad(result, fm_t, retain_graph=True, allow_unused=True)
    (wanted,) = torch.autograd.grad(_spa_loss(fm_s, fm_t, fc), fm_t)
    if mine is None or not torch.allclose(mine, wanted):
        if mine is None or not mine.any():
            return "the value is right, but no gradient reaches FM_T: detach it in Eq. 7, not in Eq. 8"
        return (
            "the value is right, but a gradient reaches the target through the attention as well: T could "
            "lower the loss by moving the weights. Give Eq. 7 fm_t.detach(), and Eq. 8 fm_t"
        )
    learns = torch.autograd.grad(result, list(fc.parameters()), retain_graph=True, allow_unused=True)
    if all(g is None for g in learns):
        return "the value is right, but no gradient reaches fc, so the attention would never learn"
    return None


SPA_LOSS = Exercise(
    name="spa_loss",
    about="half the squared norm of SPA · (FM_S - FM_T), mean over the batch, Eq. 8",
    right=_spa_loss,
    inputs=_two_maps_and_net,
    mistakes=(
        Mistake(
            "the factor ½ is missing",
            lambda s, t, fc: _total((_cells(_spa(s, t, fc), s) * (s - t)).square()),
        ),
        Mistake(
            "SPA stands inside the norm in Eq. 8, so it is squared too; this is linear in it, as in Eq. 10",
            lambda s, t, fc: 0.5 * _total(_cells(_spa(s, t, fc), s) * (s - t).square()),
        ),
        Mistake(
            "this is the sum over the batch; take the mean, or a larger batch would mean a larger α",
            lambda s, t, fc: 0.5 * (_cells(_spa(s, t, fc), s) * (s - t)).square().sum(),
        ),
        Mistake(
            "the norm is a sum over channels and positions; only over the batch is the mean taken",
            lambda s, t, fc: 0.5 * (_cells(_spa(s, t, fc), s) * (s - t)).square().mean(),
        ),
        Mistake(
            "these weights are AST's: give spa_weights both maps",
            lambda s, t, fc: 0.5 * _total((_cells(fc(_mean(s)).softmax(dim=1), s) * (s - t)).square()),
        ),
        Mistake("the weights are missing", lambda s, t, fc: 0.5 * _total((s - t).square())),
        Mistake(
            "this has AFA's factor H·W inside the norm (scale='afa'); Eq. 8 as printed has none",
            lambda s, t, fc: s[0, 0].numel() ** 2 * _spa_loss(s, t, fc),
        ),
        Mistake(
            "the norm is squared in Eq. 8: .norm() takes a root, so square it again",
            lambda s, t, fc: 0.5 * (_cells(_spa(s, t, fc), s) * (s - t)).flatten(1).norm(dim=1).mean(),
        ),
        Mistake(
            "the norm is squared in Eq. 8: .norm() takes a root, so square it again, and mean over the batch",
            lambda s, t, fc: 0.5 * (_cells(_spa(s, t, fc), s) * (s - t)).norm(),
        ),
        Mistake(
            "the weights are [b, h·w] and the maps [b, c, h, w]: give the weights the shape [b, 1, h, w]",
            lambda s, t, fc: _spa(s, t, fc) * (s - t),
        ),
    ),
    gradient=True,
    rules=(_gradient_is_direct,),
)


# --- 05: Eq. 9 and 10 ---


def _layers(generator: torch.Generator, b: int) -> dict[str, Tensor]:
    sizes = {"layer1": (3, 4, 5), "layer2": (4, 3, 4), "layer3": (6, 2, 3), "layer4": (7, 2, 2)}
    return {tap: _random(generator, b, c, h, w) + 0.4 for tap, (c, h, w) in sizes.items()}


def _layers_and_net(generator: torch.Generator) -> tuple[dict[str, Tensor], nn.Module]:
    return (
        _layers(generator, _size(generator, 2, 4)),
        _net(generator, nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 20)),
    )


def _gca(maps_s: Maps, fc: nn.Sequential) -> dict[str, Tensor]:
    gca = GlobalChannelAttention({tap: (m.shape[1], m.shape[2], m.shape[3]) for tap, m in maps_s.items()})
    gca.double().fc = fc
    return gca(maps_s)


def _pool(maps: Maps) -> Tensor:
    return torch.cat([m.mean(dim=(2, 3)) for m in maps.values()], dim=1)


def _split(weights: Tensor, maps: Maps) -> dict[str, Tensor]:
    return dict(zip(maps, weights.split([m.shape[1] for m in maps.values()], dim=1), strict=True))


def _always(layers: Maps, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {tap: function(w) for tap, w in layers.items()}


GCA_WEIGHTS = Exercise(
    name="gca_weights",
    about="one softmax over the channels of all layers, of fc applied to their pooled maps, Eq. 9",
    right=_gca,
    inputs=_layers_and_net,
    mistakes=(
        Mistake(
            "each layer's weights sum to one here, as in ACT; GCA takes one softmax over all layers, then splits",
            lambda maps, fc: _always(_split(fc(_pool(maps)), maps), lambda scores: scores.softmax(dim=1)),
        ),
        Mistake(
            "the softmax is missing: these are the scores", lambda maps, fc: _split(fc(_pool(maps)), maps)
        ),
        Mistake(
            "the softmax runs over the batch (dim=0); each picture's weights must sum to one (dim=1)",
            lambda maps, fc: _split(fc(_pool(maps)).softmax(dim=0), maps),
        ),
        Mistake(
            "GCA is one vector here: split it again, so that each layer gets its [b, C_i]",
            lambda maps, fc: fc(_pool(maps)).softmax(dim=1),
        ),
        Mistake(
            "GAP is a mean over positions, not a sum: layer 1 has many more positions than layer 4",
            lambda maps, fc: _split(
                fc(torch.cat([m.sum(dim=(2, 3)) for m in maps.values()], dim=1)).softmax(dim=1), maps
            ),
        ),
        Mistake(
            "GAP is a mean over positions, not a maximum",
            lambda maps, fc: _split(
                fc(torch.cat([m.amax(dim=(2, 3)) for m in maps.values()], dim=1)).softmax(dim=1), maps
            ),
        ),
        Mistake(
            "Eq. 9 has a softmax, not the sigmoid of a squeeze-and-excitation block",
            lambda maps, fc: _split(fc(_pool(maps)).sigmoid(), maps),
        ),
        Mistake(
            "the softmax comes last, after fc, not before it",
            lambda maps, fc: _split(fc(_pool(maps).softmax(dim=1)), maps),
        ),
        Mistake(
            "the layers have different numbers of channels: split by [C_1, …, C_n], not into equal parts",
            lambda maps, fc: dict(
                zip(maps, fc(_pool(maps)).softmax(dim=1).chunk(len(maps), dim=1), strict=True)
            ),
        ),
        Mistake(
            "the pooled layers stand side by side (dim=1); with dim=0 they would be further pictures",
            lambda maps, fc: torch.cat([m.mean(dim=(2, 3)) for m in maps.values()]),
        ),
        Mistake(
            "GAP averages over positions (dims 2 and 3) and keeps the channels; you averaged over channels",
            lambda maps, fc: fc(torch.cat([m.mean(dim=1).flatten(1) for m in maps.values()], dim=1)),
        ),
    ),
)


def _global_weights(generator: torch.Generator) -> tuple[dict[str, Tensor]]:
    b = _size(generator, 2, 4)
    layers = _layers(generator, b)
    return (_split((2 * _random(generator, b, 20)).softmax(dim=1), layers),)


LAYER_SHARES = Exercise(
    name="layer_shares",
    about="the sum of each layer's weights, mean over the batch",
    right=lambda weights: _always(weights, lambda w: w.sum(dim=1).mean()),
    inputs=_global_weights,
    mistakes=(
        Mistake(
            "a layer's share is the sum of its channels' weights, not their mean: more channels, more share",
            lambda weights: _always(weights, lambda w: w.mean()),
        ),
        Mistake(
            "this is the sum over the batch; take the mean over the pictures",
            lambda weights: _always(weights, lambda w: w.sum()),
        ),
        Mistake(
            "this is one share for each picture; take the mean over the batch",
            lambda weights: _always(weights, lambda w: w.sum(dim=1)),
        ),
        Mistake(
            "this is the layer's share of the channels, what equal weights would give it: use the weights",
            lambda weights: _always(weights, lambda w: torch.tensor(w.shape[1] / 20)),
        ),
        Mistake(
            "this is the largest weight of the layer; its share is the sum of all of them",
            lambda weights: _always(weights, lambda w: w.amax(dim=1).mean()),
        ),
    ),
)


def _maps_and_weights(generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor], Maps]:
    b = 3
    maps_s, maps_t = _layers(generator, b), _layers(generator, b)
    weights = _split(_random(generator, b, 20).softmax(dim=1).requires_grad_(True), maps_s)
    # Pieces of a split are no leaves, which cannot be copied for the reader's call.
    leaves = {tap: w.detach().clone().requires_grad_(True) for tap, w in weights.items()}
    return maps_s, {tap: m.requires_grad_(True) for tap, m in maps_t.items()}, leaves


def _terms(maps_s: Maps, maps_t: Maps, weigh: Callable[[str, Tensor], Tensor]) -> list[Tensor]:
    """Per layer: what becomes of the squared norms [b, c], summed and averaged over the batch."""
    return [_total(weigh(tap, (s - maps_t[tap]).square().sum(dim=(2, 3)))) for tap, s in maps_s.items()]


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


GCA_LOSS = Exercise(
    name="gca_loss",
    about="half the weighted sum of the channels' squared norms over all layers, mean over the batch, Eq. 10",
    right=lambda s, t, a: penalties.gca(s, t, a, scale="literal"),
    inputs=_maps_and_weights,
    mistakes=(
        Mistake("the factor ½ is missing", lambda s, t, a: _sum(_terms(s, t, lambda tap, d: a[tap] * d))),
        Mistake(
            "GCA stands outside the norm in Eq. 10, so it is not squared; that was Eq. 8",
            lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: a[tap].square() * d)),
        ),
        Mistake(
            "this is the sum over the batch; take the mean, or a larger batch would mean a larger α",
            lambda s, t, a: 0.5 * 3 * _sum(_terms(s, t, lambda tap, d: a[tap] * d)),
        ),
        Mistake(
            "the factor ½ is missing, and so is the mean over the batch",
            lambda s, t, a: 3 * _sum(_terms(s, t, lambda tap, d: a[tap] * d)),
        ),
        Mistake(
            "the norm is a sum over positions; you averaged over them (the paper does not, though it would "
            "make layers comparable)",
            lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: a[tap] * d / s[tap][0, 0].numel())),
        ),
        Mistake(
            "the weights of a layer sum to the layer's share here; you divided it out, which is ACT again",
            lambda s, t, a: (
                0.5 * _sum(_terms(s, t, lambda tap, d: a[tap] / a[tap].sum(dim=1, keepdim=True) * d))
            ),
        ),
        Mistake(
            "Eq. 10 is a sum over the layers; you averaged over them",
            lambda s, t, a: 0.5 * torch.stack(_terms(s, t, lambda tap, d: a[tap] * d)).mean(),
        ),
        Mistake(
            "only the last layer counts: add to the total in the loop, do not replace it",
            lambda s, t, a: 0.5 * _terms(s, t, lambda tap, d: a[tap] * d)[-1],
        ),
        Mistake(
            "only the first layer counts: is your `return` inside the loop?",
            lambda s, t, a: 0.5 * _terms(s, t, lambda tap, d: a[tap] * d)[0],
        ),
        Mistake(
            "this has the factor ΣC (scale='afa'); Eq. 10 as printed has none",
            lambda s, t, a: 10 * _sum(_terms(s, t, lambda tap, d: a[tap] * d)),
        ),
        Mistake("the weights are missing", lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: d))),
        Mistake(
            "take one norm per channel; one norm for the whole layer would ignore which channel differs",
            lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: a[tap] * d.sum(dim=1, keepdim=True))),
        ),
        Mistake(
            "the norm is squared in Eq. 10: .norm() takes a root, so square it again",
            lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: a[tap] * d.sqrt())),
        ),
        Mistake(
            "the weights are [b, C_i] and the maps [b, C_i, h, w]: sum over positions first, or give the "
            "weights the shape [b, C_i, 1, 1]",
            lambda s, t, a: a["layer1"] * (s["layer1"] - t["layer1"]),
        ),
    ),
    gradient=True,
)

EXERCISES = {
    exercise.name: exercise for exercise in (SPA_WEIGHTS, SPA_LOSS, GCA_WEIGHTS, LAYER_SHARES, GCA_LOSS)
}
