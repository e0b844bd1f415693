"""The exercises of notebooks 06–08 and 10: objective, hand-over, two comparisons, a score against a mask."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.analysis import scores
from spgca_lab.exercises.base import Exercise, Mistake
from spgca_lab.regularizers import penalties

__all__ = ["EXERCISES"]

State = dict[str, Tensor]


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _size(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _between(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


# --- 06: Eq. 11 and 12 ---


def _losses(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, nn.Module, float, float]:
    b, classes = _size(generator, 3, 5), _size(generator, 6, 8)
    head = nn.Linear(4, classes).double()
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(_random(generator, *p.shape))
    logits = _random(generator, b, classes).requires_grad_(True)
    labels = torch.randint(0, classes, (b,), generator=generator)
    penalty = _random(generator).abs().requires_grad_(True)
    return logits, labels, penalty, head, _between(generator, 1.5, 5.0), _between(generator, 0.01, 0.2)


def _squares(head: nn.Module) -> Tensor:
    return torch.stack([p.square().sum() for p in head.parameters()]).sum()


TOTAL_LOSS = Exercise(
    name="total_loss",
    about="cross-entropy plus α times the penalty plus β times half the head's squared weights, Eq. 11 and 12",
    right=lambda z, y, p, head, alpha, beta: (
        F.cross_entropy(z, y) + alpha * p + beta * penalties.l2(head.parameters())
    ),
    inputs=_losses,
    mistakes=(
        Mistake(
            "WD has the factor ½ (it makes β the same as SGD's weight_decay)",
            lambda z, y, p, head, alpha, beta: F.cross_entropy(z, y) + alpha * p + beta * _squares(head),
        ),
        Mistake(
            "WD is missing",
            lambda z, y, p, head, alpha, beta: F.cross_entropy(z, y) + alpha * p,
        ),
        Mistake(
            "the penalty is missing",
            lambda z, y, p, head, alpha, beta: F.cross_entropy(z, y) + beta * _squares(head) / 2,
        ),
        Mistake(
            "α is missing: it says how strongly the source holds the target",
            lambda z, y, p, head, alpha, beta: F.cross_entropy(z, y) + p + beta * _squares(head) / 2,
        ),
        Mistake(
            "β is missing",
            lambda z, y, p, head, alpha, beta: F.cross_entropy(z, y) + alpha * p + _squares(head) / 2,
        ),
        Mistake(
            "α and β have changed places: α weighs the penalty, β the decay",
            lambda z, y, p, head, alpha, beta: F.cross_entropy(z, y) + beta * p + alpha * _squares(head) / 2,
        ),
        Mistake(
            "the head's bias decays too: sum over all of head.parameters()",
            lambda z, y, p, head, alpha, beta: (
                F.cross_entropy(z, y) + alpha * p + beta * head.weight.square().sum() / 2
            ),
        ),
        Mistake(
            "F.cross_entropy takes the softmax itself: give it the logits",
            lambda z, y, p, head, alpha, beta: (
                F.cross_entropy(z.softmax(dim=1), y) + alpha * p + beta * _squares(head) / 2
            ),
        ),
        Mistake(
            "the cross-entropy is the mean over the batch, not the sum",
            lambda z, y, p, head, alpha, beta: (
                F.cross_entropy(z, y, reduction="sum") + alpha * p + beta * _squares(head) / 2
            ),
        ),
        Mistake(
            "WD is a sum over the head's weights, not a mean",
            lambda z, y, p, head, alpha, beta: (
                F.cross_entropy(z, y)
                + alpha * p
                + beta * torch.stack([q.square().mean() for q in head.parameters()]).sum() / 2
            ),
        ),
        Mistake(
            "the norm of WD is squared: .norm() takes a root, so square it again",
            lambda z, y, p, head, alpha, beta: (
                F.cross_entropy(z, y)
                + alpha * p
                + beta * torch.stack([q.norm() for q in head.parameters()]).sum() / 2
            ),
        ),
    ),
    gradient=True,
)


def _states(generator: torch.Generator) -> tuple[State, State, str]:
    head = ("fc", "classifier")[_size(generator, 0, 1)]

    def state(classes: int, steps: int) -> State:
        return {
            "conv.weight": _random(generator, 3, 2, 1, 1),
            "bn.weight": _random(generator, 3),
            "bn.running_mean": _random(generator, 3),
            "bn.running_var": _random(generator, 3).abs(),
            "bn.num_batches_tracked": torch.tensor(steps),
            f"{head}_norm.weight": _random(generator, 3),
            f"{head}.weight": _random(generator, classes, 3),
            f"{head}.bias": _random(generator, classes),
        }

    return state(5, 50), state(9, 0), head


def _backbone(state: State, head: str) -> State:
    return {name: w for name, w in state.items() if not name.startswith(head + ".")}


def _only(state: State, wanted: bool, head: str) -> State:
    """The head's entries, or all others."""
    return {name: w for name, w in state.items() if name.startswith(head + ".") == wanted}


def _is_statistic(name: str) -> bool:
    return ".running_" in name or name.endswith("num_batches_tracked")


HAND_OVER = Exercise(
    name="hand_over",
    about="T's weights and BatchNorm statistics with S's own head (Section 3.3)",
    right=lambda t, s, head: {**s, **_only(t, False, head)},
    inputs=_states,
    mistakes=(
        Mistake(
            "T's head went along: the source keeps its own, which has other classes",
            lambda t, s, head: {**s, **t},
        ),
        Mistake(
            "T's head went along: the source keeps its own, which has other classes", lambda t, s, head: t
        ),
        Mistake(
            "the source's head is gone: load_state_dict will miss it. Keep S's entries of the head",
            lambda t, s, head: _backbone(t, head),
        ),
        Mistake(
            "BatchNorm's running mean and variance stayed behind: without them the new source is not T",
            lambda t, s, head: (
                {**s, **{n: w for n, w in _only(t, False, head).items() if not _is_statistic(n)}}
            ),
        ),
        Mistake(
            "this is the wrong way round: T's weights go to S",
            lambda t, s, head: {**t, **_only(s, False, head)},
        ),
        Mistake(
            "nothing has been handed over: this is S as it was",
            lambda t, s, head: s,
        ),
        Mistake(
            "a layer of the backbone has a name that begins like the head's: compare with head + '.'",
            lambda t, s, head: {**s, **{n: w for n, w in t.items() if not n.startswith(head)}},
        ),
    ),
)


# --- 07: a paired comparison ---


def _two_results(generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    n = _size(generator, 5, 9)
    common = 80 + 5 * _random(generator, n)
    return (
        common + 1 + 0.8 * _random(generator, n),
        common + 0.6 * _random(generator, n),
        _between(generator, 1.9, 2.8),
    )


def _interval(middle: Tensor, half: Tensor) -> Tensor:
    return torch.stack([middle - half, middle + half])


PAIRED_INTERVAL = Exercise(
    name="paired_interval",
    about="the mean of the pairwise differences, minus and plus t times their standard error",
    right=lambda a, b, t: _interval((a - b).mean(), t * (a - b).std() / len(a) ** 0.5),
    inputs=_two_results,
    mistakes=(
        Mistake(
            "this interval is not paired: what both share (hard pictures, lucky seeds) is still in it. "
            "Take the differences first, then their standard deviation",
            lambda a, b, t: _interval(
                (a - b).mean(), t * ((a.var() + b.var()) / torch.tensor(float(len(a)))).sqrt()
            ),
        ),
        Mistake(
            "the sign is wrong: it is a - b, so that positive means a is better",
            lambda a, b, t: _interval((b - a).mean(), t * (a - b).std() / len(a) ** 0.5),
        ),
        Mistake(
            "this is the spread of single differences; the mean's standard error is that divided by √n",
            lambda a, b, t: _interval((a - b).mean(), t * (a - b).std()),
        ),
        Mistake(
            "the standard error is sd / √n; you divided by n",
            lambda a, b, t: _interval((a - b).mean(), t * (a - b).std() / len(a)),
        ),
        Mistake(
            "the standard deviation of a sample divides by n - 1: leave .std() as it is, without correction=0",
            lambda a, b, t: _interval((a - b).mean(), t * (a - b).std(correction=0) / len(a) ** 0.5),
        ),
        Mistake(
            "this is a ± standard error; multiply the standard error by t",
            lambda a, b, t: _interval((a - b).mean(), (a - b).std() / len(a) ** 0.5),
        ),
        Mistake(
            "this is the mean difference alone; give its two ends, torch.stack([low, high])",
            lambda a, b, t: (a - b).mean(),
        ),
        Mistake(
            "this is the interval of a's own mean; take the differences a - b first",
            lambda a, b, t: _interval(a.mean(), t * a.std() / len(a) ** 0.5),
        ),
        Mistake(
            "the ends are right but in the wrong order: torch.stack([low, high])",
            lambda a, b, t: _interval((a - b).mean(), -t * (a - b).std() / len(a) ** 0.5),
        ),
    ),
)


# --- 08: mass inside the object ---


def _heat_and_mask(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    cells, factor = _size(generator, 3, 5), _size(generator, 2, 4)
    size = cells * factor
    heat = _random(generator, cells, cells).exp()
    mask = torch.zeros(size, size, dtype=torch.bool)
    top, left = _size(generator, 0, size // 3), _size(generator, 0, size // 3)
    mask[top : top + size // 2, left : left + size // 2 + 1] = True
    return heat, mask


def _fine(heat: Tensor, mask: Tensor) -> Tensor:
    factor = len(mask) // len(heat)
    return heat.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)


MASS_INSIDE = Exercise(
    name="mass_inside",
    about="the share of the heatmap's mass that lies on the object",
    right=lambda heat, mask: torch.tensor(scores.mass_inside(heat, mask), dtype=torch.float64),
    inputs=_heat_and_mask,
    mistakes=(
        Mistake(
            "stretching repeats every cell, so the whole mass grows as well: divide by the sum of the "
            "stretched heatmap",
            lambda heat, mask: _fine(heat, mask)[mask].sum() / heat.sum(),
        ),
        Mistake(
            "this is the mean heat on the object; divide the sum inside by the sum of the whole heatmap",
            lambda heat, mask: _fine(heat, mask)[mask].mean(),
        ),
        Mistake(
            "this is the sum inside; divide it by the sum of the whole (stretched) heatmap",
            lambda heat, mask: _fine(heat, mask)[mask].sum(),
        ),
        Mistake(
            "this is inside over outside; the share is inside over everything",
            lambda heat, mask: _fine(heat, mask)[mask].sum() / _fine(heat, mask)[~mask].sum(),
        ),
        Mistake(
            "this is the mass outside the object",
            lambda heat, mask: _fine(heat, mask)[~mask].sum() / _fine(heat, mask).sum(),
        ),
        Mistake(
            "this is the object's share of the picture, what an even heatmap would score: use the heat",
            lambda heat, mask: mask.double().mean(),
        ),
        Mistake(
            "rows and columns have changed places somewhere",
            lambda heat, mask: _fine(heat, mask).T[mask].sum() / heat.sum() / (len(mask) / len(heat)) ** 2,
        ),
        Mistake(
            "this is the mean heat on the object over the mean heat: how many times more than even. "
            "The share is the ratio of the sums",
            lambda heat, mask: _fine(heat, mask)[mask].mean() / heat.mean(),
        ),
        Mistake(
            "the heatmap has fewer cells than the mask has pixels: stretch it first, with repeat_interleave "
            "along both dimensions",
            lambda heat, mask: heat[mask].sum() / heat.sum(),
        ),
        Mistake(
            "the heatmap has fewer cells than the mask has pixels: stretch it first, with repeat_interleave "
            "along both dimensions",
            lambda heat, mask: (heat * mask).sum() / heat.sum(),
        ),
    ),
)


# --- 10: a comparison of which only mean ± sd is printed ---


def _two_cells(generator: torch.Generator) -> tuple[Tensor, Tensor, int, float]:
    sd_a, sd_b = torch.rand(2, generator=generator, dtype=torch.float64) * 0.4 + 0.02
    return sd_a, sd_b, _size(generator, 4, 8), _between(generator, 2.1, 2.8)


PRINTED_INTERVAL = Exercise(
    name="printed_interval",
    about="t times the standard error of a difference of two means of n runs each",
    right=lambda sd_a, sd_b, n, t: t * ((sd_a**2 + sd_b**2) / n).sqrt(),
    inputs=_two_cells,
    mistakes=(
        Mistake(
            "standard deviations do not add, variances do: square them first",
            lambda sd_a, sd_b, n, t: t * (sd_a + sd_b) / n**0.5,
        ),
        Mistake(
            "this is the spread of single runs; the means of n runs scatter by 1/√n of it",
            lambda sd_a, sd_b, n, t: t * (sd_a**2 + sd_b**2).sqrt(),
        ),
        Mistake(
            "a variance of a mean is the variance over n: n belongs under the root",
            lambda sd_a, sd_b, n, t: t * (sd_a**2 + sd_b**2).sqrt() / n,
        ),
        Mistake(
            "the variances add even though the means are subtracted: both are uncertain",
            lambda sd_a, sd_b, n, t: t * ((sd_a**2 - sd_b**2).abs() / n).sqrt(),
        ),
        Mistake(
            "only one of the two runs' scatter is in it: both means are uncertain",
            lambda sd_a, sd_b, n, t: t * sd_a / n**0.5,
        ),
        Mistake(
            "only one of the two runs' scatter is in it: both means are uncertain",
            lambda sd_a, sd_b, n, t: t * sd_b / n**0.5,
        ),
        Mistake(
            "this is the standard error; multiply it by t",
            lambda sd_a, sd_b, n, t: ((sd_a**2 + sd_b**2) / n).sqrt(),
        ),
        Mistake(
            "this is the squared standard error: take the root before multiplying by t",
            lambda sd_a, sd_b, n, t: t * (sd_a**2 + sd_b**2) / n,
        ),
    ),
)

EXERCISES = {
    exercise.name: exercise
    for exercise in (TOTAL_LOSS, HAND_OVER, PAIRED_INTERVAL, MASS_INSIDE, PRINTED_INTERVAL)
}
