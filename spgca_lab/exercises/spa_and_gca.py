"""The exercises of notebooks 04 and 05: SPA (Eq. 7, 8) and GCA (Eq. 9, 10)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spgca_lab.exercises import common
from spgca_lab.exercises.base import Exercise, Mistake
from spgca_lab.exercises.common import batch_mean, channel_mean, integer, normal, on_map
from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.attention import GlobalChannelAttention, SelfPixelAttention

SUBTRACTED = "Eq. 7 concatenates the two maps; you took their difference"

Maps = Mapping[str, Tensor]

# --- 04: Eq. 7 and 8 ---


def _two_maps_and_net(generator: torch.Generator) -> tuple[Tensor, Tensor, nn.Module]:
    b, c, h, w = (integer(generator, *limits) for limits in ((2, 4), (5, 7), (2, 3), (4, 5)))
    fc = common.filled(common.attention_net(h, w), generator, 0.5)
    fm_s, fm_t = normal(generator, b, c, h, w) + 0.5, normal(generator, b, c, h, w) - 0.3
    return fm_s, fm_t.requires_grad_(True), fc


def _spa(fm_s: Tensor, fm_t: Tensor, fc: nn.Module) -> Tensor:
    spa = SelfPixelAttention({"tap": (fm_s.shape[1], fm_s.shape[2], fm_s.shape[3])}).double()
    spa.fc["tap"] = fc
    return spa({"tap": fm_s}, {"tap": fm_t})["tap"]


def _scores(s: Tensor, t: Tensor, fc: nn.Module) -> Tensor:
    return fc((channel_mean(s) + channel_mean(t)) / 2)


SPA_WEIGHTS = Exercise(
    name="spa_weights",
    about="the softmax over positions of fc, applied to the channel mean of both maps together, Eq. 7",
    right=_spa,
    inputs=_two_maps_and_net,
    hints=(
        "It is Eq. 2 with another input: Eq. 7 concatenates both maps first.",
        "torch.cat([fm_s, fm_t], dim=1) has 2C channels; the mean over them leaves [b, h, w].",
        "fc(both.mean(dim=1).flatten(1)) are the scores; the softmax over positions is missing.",
    ),
    mistakes=(
        Mistake(
            "these are AST's weights (Eq. 2), from the source alone; the input of Eq. 7 is Concat(FM_S, FM_T)",
            lambda s, t, fc: fc(channel_mean(s)).softmax(dim=1),
        ),
        Mistake(
            "these weights come from the target alone; the input of Eq. 7 is Concat(FM_S, FM_T)",
            lambda s, t, fc: fc(channel_mean(t)).softmax(dim=1),
        ),
        Mistake(
            "Concat comes before AvgPool, so the mean is over all 2C channels; the sum of two means is twice that",
            lambda s, t, fc: fc(channel_mean(s) + channel_mean(t)).softmax(dim=1),
        ),
        Mistake(SUBTRACTED, lambda s, t, fc: fc(channel_mean(s) - channel_mean(t)).softmax(dim=1)),
        Mistake(SUBTRACTED, lambda s, t, fc: fc(channel_mean(t) - channel_mean(s)).softmax(dim=1)),
        Mistake(
            "one softmax of one net with both maps as input; you averaged two attentions",
            lambda s, t, fc: (fc(channel_mean(s)).softmax(dim=1) + fc(channel_mean(t)).softmax(dim=1)) / 2,
        ),
        Mistake(
            "Concat is along channels (dim=1); along the batch (dim=0) each map gets weights of its own",
            lambda s, t, fc: fc(channel_mean(torch.cat([s, t]))).softmax(dim=1),
        ),
        Mistake(common.SOFTMAX_OVER_BATCH, lambda s, t, fc: _scores(s, t, fc).softmax(dim=0)),
        Mistake(common.NO_SOFTMAX, _scores),
        Mistake("Eq. 7 has a softmax, not a sigmoid", lambda s, t, fc: _scores(s, t, fc).sigmoid()),
        Mistake(
            common.SOFTMAX_FIRST,
            lambda s, t, fc: fc(((channel_mean(s) + channel_mean(t)) / 2).softmax(dim=1)),
        ),
        Mistake(
            common.SUM_FOR_MEAN,
            lambda s, t, fc: fc(torch.cat([s, t], dim=1).sum(dim=1).flatten(1)).softmax(dim=1),
        ),
        Mistake(
            "Concat is along channels (dim=1): along height or width the net gets twice as many positions",
            lambda s, t, fc: fc(channel_mean(torch.cat([s, t], dim=2))),
        ),
        Mistake(
            "AvgPool averages over channels (dim=1) and keeps the positions; you averaged over positions",
            lambda s, t, fc: fc(torch.cat([s, t], dim=1).mean(dim=(2, 3))),
        ),
        Mistake(common.NOT_FLAT, lambda s, t, fc: fc(torch.cat([s, t], dim=1).mean(dim=1))),
    ),
    gradient=True,
)


def _spa_loss(fm_s: Tensor, fm_t: Tensor, fc: nn.Module) -> Tensor:
    return penalties.spa({"tap": fm_s}, {"tap": fm_t}, {"tap": _spa(fm_s, fm_t, fc)}, scale="literal")


def _gradient_is_direct(function: Callable[..., Any], given: tuple[Any, ...], result: Any) -> str | None:
    """Check that the gradient reaches T through FM_S - FM_T only, and reaches the net."""
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
    hints=(
        "Eq. 8 looks like Eq. 3, with your spa_weights in place of AST's. Along which paths may the gradient flow?",
        "Give spa_weights the target's map without its gradient: fm_t.detach(). The difference keeps it.",
        "Reshape the weights to [b, 1, h, w], multiply fm_s - fm_t, take half the sum of squares over the batch size.",
    ),
    mistakes=(
        Mistake(common.NO_HALF, lambda s, t, fc: batch_mean((on_map(_spa(s, t, fc), s) * (s - t)).square())),
        Mistake(
            "SPA stands inside the norm in Eq. 8, so it is squared too; this is linear in it, as in Eq. 10",
            lambda s, t, fc: 0.5 * batch_mean(on_map(_spa(s, t, fc), s) * (s - t).square()),
        ),
        Mistake(common.NO_MEAN, lambda s, t, fc: 0.5 * (on_map(_spa(s, t, fc), s) * (s - t)).square().sum()),
        Mistake(
            common.MEAN_FOR_SUM, lambda s, t, fc: 0.5 * (on_map(_spa(s, t, fc), s) * (s - t)).square().mean()
        ),
        Mistake(
            "these weights are AST's: give spa_weights both maps",
            lambda s, t, fc: (
                0.5 * batch_mean((on_map(fc(channel_mean(s)).softmax(dim=1), s) * (s - t)).square())
            ),
        ),
        Mistake(common.NO_WEIGHTS, lambda s, t, fc: 0.5 * batch_mean((s - t).square())),
        Mistake(
            "this has AFA's factor H·W inside the norm (scale='afa'); Eq. 8 as printed has none",
            lambda s, t, fc: s[0, 0].numel() ** 2 * _spa_loss(s, t, fc),
        ),
        Mistake(
            "the norm is squared in Eq. 8: .norm() takes a root, so square it again",
            lambda s, t, fc: 0.5 * (on_map(_spa(s, t, fc), s) * (s - t)).flatten(1).norm(dim=1).mean(),
        ),
        Mistake(
            "the norm is squared in Eq. 8: .norm() takes a root, so square it again, and mean over the batch",
            lambda s, t, fc: 0.5 * (on_map(_spa(s, t, fc), s) * (s - t)).norm(),
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
    return {tap: normal(generator, b, c, h, w) + 0.4 for tap, (c, h, w) in sizes.items()}


def _layers_and_net(generator: torch.Generator) -> tuple[dict[str, Tensor], nn.Module]:
    layers = _layers(generator, integer(generator, 2, 4))
    return layers, common.filled(nn.Sequential(nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 20)), generator, 0.5)


def _gca(maps_s: Maps, fc: nn.Sequential) -> dict[str, Tensor]:
    gca = GlobalChannelAttention({tap: (m.shape[1], m.shape[2], m.shape[3]) for tap, m in maps_s.items()})
    gca.double().fc = fc
    return gca(maps_s)


def _pool(maps: Maps, pool: Callable[..., Tensor] = Tensor.mean) -> Tensor:
    return torch.cat([pool(m, dim=(2, 3)) for m in maps.values()], dim=1)


def _split(weights: Tensor, maps: Maps) -> dict[str, Tensor]:
    return dict(zip(maps, weights.split([m.shape[1] for m in maps.values()], dim=1), strict=True))


def _always(layers: Maps, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {tap: function(w) for tap, w in layers.items()}


GCA_WEIGHTS = Exercise(
    name="gca_weights",
    about="one softmax over the channels of all layers, of fc applied to their pooled maps, Eq. 9",
    right=_gca,
    inputs=_layers_and_net,
    hints=(
        "One distribution over all layers: all channels enter one softmax.",
        "m.mean(dim=(2, 3)) of every layer, joined by torch.cat(…, dim=1), is [b, ΣC], the input of fc.",
        "After one softmax(dim=1), .split([m.shape[1] for m in maps_s.values()], dim=1) gives each layer its own.",
    ),
    mistakes=(
        Mistake(
            "each layer's weights sum to one here, as in ACT; GCA has one softmax over all layers, then splits",
            lambda maps, fc: _always(_split(fc(_pool(maps)), maps), lambda scores: scores.softmax(dim=1)),
        ),
        Mistake(common.NO_SOFTMAX, lambda maps, fc: _split(fc(_pool(maps)), maps)),
        Mistake(common.SOFTMAX_OVER_BATCH, lambda maps, fc: _split(fc(_pool(maps)).softmax(dim=0), maps)),
        Mistake(
            "GCA is one vector here: split it again, so that each layer gets its [b, C_i]",
            lambda maps, fc: fc(_pool(maps)).softmax(dim=1),
        ),
        Mistake(
            "GAP is a mean over positions, not a sum: layer 1 has many more positions than layer 4",
            lambda maps, fc: _split(fc(_pool(maps, Tensor.sum)).softmax(dim=1), maps),
        ),
        Mistake(
            "GAP is a mean over positions, not a maximum",
            lambda maps, fc: _split(fc(_pool(maps, Tensor.amax)).softmax(dim=1), maps),
        ),
        Mistake(
            "Eq. 9 has a softmax, not the sigmoid of a squeeze-and-excitation block",
            lambda maps, fc: _split(fc(_pool(maps)).sigmoid(), maps),
        ),
        Mistake(common.SOFTMAX_FIRST, lambda maps, fc: _split(fc(_pool(maps).softmax(dim=1)), maps)),
        Mistake(
            "the layers have different numbers of channels: split by [C_1, …, C_n], not into equal parts",
            lambda maps, fc: dict(zip(maps, fc(_pool(maps)).softmax(dim=1).chunk(4, dim=1), strict=True)),
        ),
        Mistake(
            "join the pooled layers side by side (dim=1); with dim=0 they would be further images",
            lambda maps, fc: torch.cat([m.mean(dim=(2, 3)) for m in maps.values()]),
        ),
        Mistake(
            "GAP averages over positions (dims 2 and 3) and keeps the channels; you averaged over channels",
            lambda maps, fc: fc(torch.cat([channel_mean(m) for m in maps.values()], dim=1)),
        ),
    ),
)


def _global_weights(generator: torch.Generator) -> tuple[dict[str, Tensor]]:
    layers = _layers(generator, integer(generator, 2, 4))
    return (_split((2 * normal(generator, len(layers["layer1"]), 20)).softmax(dim=1), layers),)


LAYER_SHARES = Exercise(
    name="layer_shares",
    about="the sum of each layer's weights, mean over the batch",
    right=lambda weights: _always(weights, lambda w: w.sum(dim=1).mean()),
    inputs=_global_weights,
    hints=(
        "The weights of all layers sum to one: how much of that one lies in each layer?",
        "Add up the channels of a layer, image by image; then take the mean over the images.",
        "{tap: w.sum(dim=1)… for tap, w in weights.items()}, with the mean at the end.",
    ),
    mistakes=(
        Mistake(
            "a layer's share is the sum of its channels' weights, not their mean: more channels, more share",
            lambda weights: _always(weights, lambda w: w.mean()),
        ),
        Mistake(
            "this is the sum over the batch; take the mean over the images",
            lambda weights: _always(weights, lambda w: w.sum()),
        ),
        Mistake(
            "this is one share for each image; take the mean over the batch",
            lambda weights: _always(weights, lambda w: w.sum(dim=1)),
        ),
        Mistake(
            "this is the layer's share of the channels, which uniform weights would give: use the weights",
            lambda weights: _always(weights, lambda w: torch.tensor(w.shape[1] / 20)),
        ),
        Mistake(
            "this is the largest weight of the layer; its share is the sum of all of them",
            lambda weights: _always(weights, lambda w: w.amax(dim=1).mean()),
        ),
    ),
)


def _maps_and_weights(generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor], Maps]:
    maps_s, maps_t = _layers(generator, 3), _layers(generator, 3)
    weights = _split(normal(generator, 3, 20).softmax(dim=1), maps_s)
    # Copies, because only leaves of the graph can be deep-copied for the reader's call.
    leaves = _always(weights, lambda w: w.clone().requires_grad_(True))
    return maps_s, _always(maps_t, lambda m: m.requires_grad_(True)), leaves


def _terms(maps_s: Maps, maps_t: Maps, weigh: Callable[[str, Tensor], Tensor]) -> list[Tensor]:
    """Return for each layer the weighted squared norms `[b, c]`, summed and averaged over the batch."""
    return [batch_mean(weigh(tap, (s - maps_t[tap]).square().sum(dim=(2, 3)))) for tap, s in maps_s.items()]


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


GCA_LOSS = Exercise(
    name="gca_loss",
    about="half the weighted sum of the channels' squared norms over all layers, mean over the batch, Eq. 10",
    right=lambda s, t, a: penalties.gca(s, t, a, scale="literal"),
    inputs=_maps_and_weights,
    hints=(
        "Eq. 10 is Eq. 5 layer by layer, added up.",
        "For each tap the squared norms are (maps_s[tap] - maps_t[tap]).square().sum(dim=(2, 3)), [b, C_i].",
        "Add 0.5 * (weights[tap] * squared).sum() / b to a total, tap by tap.",
    ),
    mistakes=(
        Mistake(common.NO_HALF, lambda s, t, a: _sum(_terms(s, t, lambda tap, d: a[tap] * d))),
        Mistake(
            "GCA stands outside the norm in Eq. 10, so it is not squared; that was Eq. 8",
            lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: a[tap].square() * d)),
        ),
        Mistake(common.NO_MEAN, lambda s, t, a: 0.5 * 3 * _sum(_terms(s, t, lambda tap, d: a[tap] * d))),
        Mistake(common.NO_HALF_NO_MEAN, lambda s, t, a: 3 * _sum(_terms(s, t, lambda tap, d: a[tap] * d))),
        Mistake(
            "the norm is a sum over positions; you averaged over them, which would make layers comparable",
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
        Mistake(common.NO_WEIGHTS, lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: d))),
        Mistake(
            "take one norm per channel; one norm for the whole layer would ignore which channel differs",
            lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: a[tap] * d.sum(dim=1, keepdim=True))),
        ),
        Mistake(
            "the norm is squared in Eq. 10: .norm() takes a root, so square it again",
            lambda s, t, a: 0.5 * _sum(_terms(s, t, lambda tap, d: a[tap] * d.sqrt())),
        ),
        Mistake(
            "the weights are [b, C_i], the maps [b, C_i, h, w]: sum over positions first, or use [b, C_i, 1, 1]",
            lambda s, t, a: a["layer1"] * (s["layer1"] - t["layer1"]),
        ),
    ),
    gradient=True,
)

EXERCISES = (SPA_WEIGHTS, SPA_LOSS, GCA_WEIGHTS, LAYER_SHARES, GCA_LOSS)
