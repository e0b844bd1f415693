"""The exercises of notebooks 01–03: a hook (Eq. 1), L2-SP, and AFA (Eq. 2, 3 and 5)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spgca_lab.exercises import common
from spgca_lab.exercises.base import Exercise, Mistake
from spgca_lab.exercises.common import batch_mean, channel_mean, integer, normal, on_map
from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.taps import FeatureTaps

SQUARED_SUM = (
    "square each difference, then sum; you squared the sum, in which differences of either sign cancel"
)
ABSOLUTE = "the differences must be squared; these are absolute values"
MEAN_OVER_ALL = (
    "the norm sums over positions, the weights over channels; only over the batch is the mean taken"
)
CHANNEL_SHAPE = (
    "a is [b, c] and the maps are [b, c, h, w]: sum over positions first, or give a the shape [b, c, 1, 1]"
)

# --- 01: a hook ---


def _network(generator: torch.Generator) -> tuple[nn.Module, str, Tensor]:
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.Sigmoid(), nn.Conv2d(4, 5, 1), nn.Tanh(), nn.Conv2d(5, 6, 1))
    model = common.filled(nn.Sequential(*layers), generator)
    return model.eval(), "2", normal(generator, integer(generator, 2, 4), 3, 4, 5)


def _tapped(model: nn.Module, name: str, x: Tensor) -> Tensor:
    with FeatureTaps(model, [name]) as taps:
        model(x)
        return taps.maps[name]


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _hook_is_removed(function: Callable[..., Any], given: tuple[Any, ...], result: Any) -> str | None:
    model, name, x = given
    if _hooks(model):
        return (
            "the map is right, but your hook is still on the model and will fire in every later forward pass: "
            "store the return value of register_forward_hook and call its .remove()"
        )
    try:
        function(model, name, torch.cat([x, x], dim=1))
    except Exception:  # the model takes 3 channels, not 6
        if _hooks(model):
            return (
                "the map is right, but when the forward pass raises, your hook stays on the model: "
                "put .remove() in the 'finally' of a 'try'"
            )
    return None


def _input_of(model: nn.Module, name: str, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(x)
    handle.remove()
    return seen[0]


FEATURE_MAP = Exercise(
    name="feature_map",
    about="the output of module `name` while `model` looks at x, Eq. 1",
    right=_tapped,
    inputs=_network,
    hints=(
        "PyTorch calls a forward hook with (module, inputs, output): let yours store the output.",
        "model.get_submodule(name).register_forward_hook(f) returns a handle; call model(x), then handle.remove().",
        "Let f append its third argument to a list, call model(x) inside try, remove the handle in finally, and "
        "return the list's only element.",
    ),
    mistakes=(
        Mistake(
            "this is the model's output; FM of Eq. 1 is the output of the module called `name`, so hook that module",
            lambda model, name, x: model(x),
        ),
        Mistake(
            "this is the module's input; a hook is called with (module, inputs, output), and FM is the output",
            _input_of,
        ),
        Mistake(
            "x went straight into the module; it must pass the layers in front of it first, so call model(x)",
            lambda model, name, x: model.get_submodule(name)(x),
        ),
    ),
    rules=(_hook_is_removed,),
)

# --- 02: L2-SP ---


def _parameters(generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    shapes = {"conv.weight": (integer(generator, 2, 5), 3, 2, 2), "bn.weight": (4,), "bn.bias": (5,)}
    start = {name: normal(generator, *shape) for name, shape in shapes.items()}
    now = {name: w + 0.3 * normal(generator, *w.shape) for name, w in start.items()}
    return {name: w.requires_grad_(True) for name, w in now.items()}, start


def _moves(parameters: dict[str, Tensor], start: dict[str, Tensor]) -> Iterator[Tensor]:
    return (w - start[name] for name, w in parameters.items())


def _flat(parameters: dict[str, Tensor], start: dict[str, Tensor]) -> Tensor:
    return torch.cat([move.reshape(-1) for move in _moves(parameters, start)])


L2_SP = Exercise(
    name="l2_sp",
    about="half the sum of squares of w - w0, over all parameters",
    right=lambda parameters, start: 0.5 * _flat(parameters, start).square().sum(),
    inputs=_parameters,
    hints=(
        "For every parameter: how far is it from its starting point? The squares of these distances add up.",
        "Both dictionaries have the same names: loop over parameters.items() and look each name up in start.",
        "0.5 times the sum over names of (w - start[name]).square().sum().",
    ),
    mistakes=(
        Mistake(common.NO_HALF, lambda p, s: _flat(p, s).square().sum()),
        Mistake(
            "the differences must be squared before they are summed; this is the sum of their absolute values",
            lambda p, s: _flat(p, s).abs().sum(),
        ),
        Mistake(
            "the differences must be squared before they are summed; this is half the sum of their absolute values",
            lambda p, s: 0.5 * _flat(p, s).abs().sum(),
        ),
        Mistake("the differences are summed but not squared", lambda p, s: 0.5 * _flat(p, s).sum()),
        Mistake("the differences are summed but neither squared nor halved", lambda p, s: _flat(p, s).sum()),
        Mistake(
            "the norm is squared in the formula: .norm() takes a root, so square it again, or sum .square()",
            lambda p, s: 0.5 * sum(move.norm() for move in _moves(p, s)),
        ),
        Mistake(
            "the norm is squared in the formula, and there is a ½: .norm() takes a root, so square it again",
            lambda p, s: sum(move.norm() for move in _moves(p, s)),
        ),
        Mistake(
            "the norm is squared in the formula: .norm() takes a root, so square it again",
            lambda p, s: 0.5 * _flat(p, s).norm(),
        ),
        Mistake(SQUARED_SUM, lambda p, s: 0.5 * sum(move.sum().square() for move in _moves(p, s))),
        Mistake(SQUARED_SUM, lambda p, s: 0.5 * _flat(p, s).sum().square()),
        Mistake(
            "sum over the elements, do not average: .mean() makes a large layer count as little as a small one",
            lambda p, s: 0.5 * sum(move.square().mean() for move in _moves(p, s)),
        ),
        Mistake(
            "sum over the elements, do not average: with .mean() α would mean something else for every network",
            lambda p, s: 0.5 * _flat(p, s).square().mean(),
        ),
        Mistake(
            "this is plain L2, the distance from zero; L2-SP measures the distance from the starting point w0",
            lambda p, s: 0.5 * sum(w.square().sum() for w in p.values()),
        ),
        Mistake(
            "only the first parameter counts: is your `return` inside the loop?",
            lambda p, s: 0.5 * next(_moves(p, s)).square().sum(),
        ),
        Mistake(
            "only the last parameter counts: add to the total in the loop (total = total + ...), do not replace it",
            lambda p, s: 0.5 * list(_moves(p, s))[-1].square().sum(),
        ),
        Mistake(
            "the sign is wrong: it is the difference w - w0 that is small when the target stays near the source",
            lambda p, s: 0.5 * sum((w + s[name]).square().sum() for name, w in p.items()),
        ),
    ),
    gradient=True,
)

# --- 03: Eq. 2, 3 and 5 ---


def _map_and_net(generator: torch.Generator) -> tuple[Tensor, nn.Module]:
    b, h, w = integer(generator, 2, 4), integer(generator, 2, 3), integer(generator, 4, 5)
    fc = common.filled(common.attention_net(h, w), generator)
    return normal(generator, b, 6, h, w) + 0.5, fc


AST_WEIGHTS = Exercise(
    name="ast_weights",
    about="the softmax over positions of fc, applied to the channel mean of each position, Eq. 2",
    right=lambda fm_s, fc: fc(channel_mean(fm_s)).softmax(dim=1),
    inputs=_map_and_net,
    hints=(
        "Read Eq. 2 from the inside out: which operation comes first, and over which dimension?",
        "AvgPool leaves one number per position: fm_s.mean(dim=1), flattened to [b, h·w]. That is the input of fc.",
        "fc(pooled) are scores; .softmax(dim=1) makes each image's weights sum to one.",
    ),
    mistakes=(
        Mistake(common.SOFTMAX_OVER_BATCH, lambda fm_s, fc: fc(channel_mean(fm_s)).softmax(dim=0)),
        Mistake(common.NO_SOFTMAX, lambda fm_s, fc: fc(channel_mean(fm_s))),
        Mistake("Eq. 2 has a softmax, not a sigmoid", lambda fm_s, fc: fc(channel_mean(fm_s)).sigmoid()),
        Mistake(
            "this is the logarithm of the weights: use softmax",
            lambda f, fc: fc(channel_mean(f)).log_softmax(dim=1),
        ),
        Mistake(common.SOFTMAX_FIRST, lambda fm_s, fc: fc(channel_mean(fm_s).softmax(dim=1))),
        Mistake(common.SUM_FOR_MEAN, lambda fm_s, fc: fc(fm_s.sum(1).flatten(1)).softmax(dim=1)),
        Mistake(
            "AvgPool is a mean over channels, not a maximum",
            lambda fm_s, fc: fc(fm_s.amax(1).flatten(1)).softmax(dim=1),
        ),
        Mistake(
            "the positions are in another order: Flat goes row by row, as .flatten() does, without a transpose",
            lambda fm_s, fc: fc(fm_s.mean(1).transpose(1, 2).flatten(1)).softmax(dim=1),
        ),
        Mistake(
            "fc is missing: the softmax goes over fc's scores",
            lambda fm_s, fc: channel_mean(fm_s).softmax(dim=1),
        ),
        Mistake(
            "AvgPool averages over channels (dim=1) and keeps the positions; you averaged over the positions",
            lambda fm_s, fc: fc(fm_s.mean(dim=(2, 3))),
        ),
        Mistake(common.NOT_FLAT, lambda fm_s, fc: fc(fm_s.mean(dim=1))),
        Mistake(
            "average over channels before fc: its input is one number per position",
            lambda fm_s, fc: fc(fm_s.flatten(1)),
        ),
        Mistake(
            "average over channels before fc; you passed each channel separately",
            lambda fm_s, fc: fc(fm_s.flatten(2)).softmax(dim=2),
        ),
    ),
    gradient=True,
)


def _maps_and_weights(generator: torch.Generator, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    b, c, h, w = (integer(generator, *limits) for limits in ((2, 3), (5, 6), (2, 3), (4, 5)))
    b += c == 2 * b  # Otherwise a missing ½ could cancel b against c.
    fm_s, fm_t = normal(generator, b, c, h, w), normal(generator, b, c, h, w)
    scores = normal(generator, b, h * w if kind == "spatial" else c)
    return fm_s, fm_t.requires_grad_(True), scores.softmax(dim=1).requires_grad_(True)


AST_LOSS = Exercise(
    name="ast_loss",
    about="half the squared norm of the weighted difference, mean over the batch, Eq. 3",
    right=lambda s, t, a: penalties.ast({"tap": s}, {"tap": t}, {"tap": a}, scale="literal"),
    inputs=lambda generator: _maps_and_weights(generator, "spatial"),
    hints=(
        "The weights stand inside the norm: multiply first, then square.",
        "a is [b, h·w], the maps are [b, c, h, w]: reshape a to [b, 1, h, w], so that it multiplies every channel.",
        "weighted = a.reshape(b, 1, h, w) * (fm_s - fm_t); then half of weighted.square().sum(), divided by b.",
    ),
    mistakes=(
        Mistake(common.NO_HALF, lambda s, t, a: batch_mean((on_map(a, s) * (s - t)).square())),
        Mistake(
            "the weights stand inside the norm in Eq. 3, so they are squared too; this is linear in them, as in Eq. 5",
            lambda s, t, a: 0.5 * batch_mean(on_map(a, s) * (s - t).square()),
        ),
        Mistake(
            "the weights stand inside the norm in Eq. 3, so they are squared too; and the factor ½ is missing",
            lambda s, t, a: batch_mean(on_map(a, s) * (s - t).square()),
        ),
        Mistake(common.NO_MEAN, lambda s, t, a: 0.5 * (on_map(a, s) * (s - t)).square().sum()),
        Mistake(common.NO_HALF_NO_MEAN, lambda s, t, a: (on_map(a, s) * (s - t)).square().sum()),
        Mistake(common.MEAN_FOR_SUM, lambda s, t, a: 0.5 * (on_map(a, s) * (s - t)).square().mean()),
        Mistake(
            "the norm is a sum over channels and positions, only over the batch is the mean taken; and ½ is missing",
            lambda s, t, a: (on_map(a, s) * (s - t)).square().mean(),
        ),
        Mistake(
            "sum over the channels; you averaged over them",
            lambda s, t, a: 0.5 * batch_mean((on_map(a, s) * (s - t)).square().mean(dim=1)),
        ),
        Mistake(
            "the norm is squared in Eq. 3: .norm() takes a root, so square it again",
            lambda s, t, a: 0.5 * (on_map(a, s) * (s - t)).flatten(1).norm(dim=1).mean(),
        ),
        Mistake(
            "the norm is squared in Eq. 3: .norm() takes a root (here over the whole batch), so square it and average",
            lambda s, t, a: 0.5 * (on_map(a, s) * (s - t)).norm(),
        ),
        Mistake(ABSOLUTE, lambda s, t, a: 0.5 * batch_mean((on_map(a, s) * (s - t)).abs())),
        Mistake(
            "the differences are weighted but not squared, so those of either sign cancel",
            lambda s, t, a: 0.5 * batch_mean(on_map(a, s) * (s - t)),
        ),
        Mistake(
            "take the difference channel by channel; you compared the maps' channel means",
            lambda s, t, a: 0.5 * batch_mean((on_map(a, s)[:, 0] * (s - t).mean(dim=1)).square()),
        ),
        Mistake(common.NO_WEIGHTS, lambda s, t, a: 0.5 * batch_mean((s - t).square())),
        Mistake(
            "a is [b, h·w] and the maps are [b, c, h, w]: give a the shape [b, 1, h, w] first",
            lambda s, t, a: a * (s - t),
        ),
        Mistake(
            "a is [b, h·w] and the flattened maps are [b, c, h·w]: give a the shape [b, 1, h·w] first",
            lambda s, t, a: a * (s - t).flatten(2),
        ),
    ),
    gradient=True,
)


def _norms(s: Tensor, t: Tensor) -> Tensor:
    """Return the squared norm of the difference of each channel, `[b, c]`."""
    return (s - t).square().sum(dim=(2, 3))


ACT_LOSS = Exercise(
    name="act_loss",
    about="half the weighted sum over channels of squared norms, mean over the batch, Eq. 5",
    right=lambda s, t, a: penalties.act({"tap": s}, {"tap": t}, {"tap": a}, scale="literal"),
    inputs=lambda generator: _maps_and_weights(generator, "channel"),
    hints=(
        "The weights stand outside the norm: first one squared norm per channel, then the weights.",
        "The squared norms are (fm_s - fm_t).square().sum(dim=(2, 3)), of shape [b, c] like a.",
        "Half of (a * norms).sum(), divided by the number of images.",
    ),
    mistakes=(
        Mistake(common.NO_HALF, lambda s, t, a: batch_mean(a * _norms(s, t))),
        Mistake(
            "the weights stand outside the norm in Eq. 5, so they are not squared; that was Eq. 3",
            lambda s, t, a: 0.5 * batch_mean(a.square() * _norms(s, t)),
        ),
        Mistake(
            "the weights stand outside the norm in Eq. 5, so they are not squared; and the factor ½ is missing",
            lambda s, t, a: batch_mean(a.square() * _norms(s, t)),
        ),
        Mistake(common.NO_MEAN, lambda s, t, a: 0.5 * (a * _norms(s, t)).sum()),
        Mistake(common.NO_HALF_NO_MEAN, lambda s, t, a: (a * _norms(s, t)).sum()),
        Mistake(
            "the norm is a sum over positions; you averaged over them",
            lambda s, t, a: 0.5 * batch_mean(a * (s - t).square().mean(dim=(2, 3))),
        ),
        Mistake(MEAN_OVER_ALL, lambda s, t, a: 0.5 * (a * _norms(s, t)).mean()),
        Mistake(MEAN_OVER_ALL, lambda s, t, a: 0.5 * (a[:, :, None, None] * (s - t).square()).mean()),
        Mistake(
            "the weights are missing, or multiply one norm of all channels and sum to one: take one norm per channel",
            lambda s, t, a: 0.5 * batch_mean(a * _norms(s, t).sum(dim=1, keepdim=True)),
        ),
        Mistake(
            "the norm is squared in Eq. 5: .norm() takes a root, so square it again",
            lambda s, t, a: 0.5 * batch_mean(a * _norms(s, t).sqrt()),
        ),
        Mistake(ABSOLUTE, lambda s, t, a: 0.5 * batch_mean(a * (s - t).abs().sum(dim=(2, 3)))),
        Mistake(CHANNEL_SHAPE, lambda s, t, a: a * (s - t).square()),
        Mistake(CHANNEL_SHAPE, lambda s, t, a: a * (s - t)),
    ),
    gradient=True,
)

EXERCISES = (FEATURE_MAP, L2_SP, AST_WEIGHTS, AST_LOSS, ACT_LOSS)
