"""The exercises of notebook 06: the objective (Eq. 11 and 12) and the hand-over between stages (Sec. 3.3)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.exercises.base import Exercise, Mistake
from spgca_lab.exercises.common import between, filled, integer, normal
from spgca_lab.regularizers import penalties

HEAD_COPIED = "T's head was copied too: S keeps its own head, which has other classes"

State = dict[str, Tensor]


def _losses(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, nn.Module, float, float]:
    b, classes = integer(generator, 3, 5), integer(generator, 6, 8)
    head = filled(nn.Linear(4, classes), generator)
    logits = normal(generator, b, classes).requires_grad_(True)
    labels = torch.randint(0, classes, (b,), generator=generator)
    penalty = normal(generator).abs().requires_grad_(True)
    return logits, labels, penalty, head, between(generator, 1.5, 5.0), between(generator, 0.01, 0.2)


def _over(head: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([function(p) for p in head.parameters()]).sum()


def _squares(head: nn.Module) -> Tensor:
    return _over(head, lambda p: p.square().sum())


TOTAL_LOSS = Exercise(
    name="total_loss",
    about="cross-entropy plus α times the penalty plus β times half the head's squared weights, Eq. 11 and 12",
    right=lambda z, y, p, h, a, b: F.cross_entropy(z, y) + a * p + b * penalties.l2(h.parameters()),
    inputs=_losses,
    hints=(
        "Three terms: the labels, α times the penalty, β times the decay of the head.",
        "F.cross_entropy takes logits. WD is half the sum of squares of all of head.parameters(), bias included.",
        "torch.nn.functional.cross_entropy(logits, labels) + alpha * penalty + beta * 0.5 * (…).",
    ),
    mistakes=(
        Mistake(
            "WD has the factor ½ (it makes β the same as SGD's weight_decay)",
            lambda z, y, p, h, a, b: F.cross_entropy(z, y) + a * p + b * _squares(h),
        ),
        Mistake("WD is missing", lambda z, y, p, h, a, b: F.cross_entropy(z, y) + a * p),
        Mistake(
            "the penalty is missing", lambda z, y, p, h, a, b: F.cross_entropy(z, y) + b * _squares(h) / 2
        ),
        Mistake(
            "α is missing: it is the factor of the penalty",
            lambda z, y, p, h, a, b: F.cross_entropy(z, y) + p + b * _squares(h) / 2,
        ),
        Mistake("β is missing", lambda z, y, p, h, a, b: F.cross_entropy(z, y) + a * p + _squares(h) / 2),
        Mistake(
            "α and β have changed places: α multiplies the penalty, β the decay",
            lambda z, y, p, h, a, b: F.cross_entropy(z, y) + b * p + a * _squares(h) / 2,
        ),
        Mistake(
            "the head's bias decays too: sum over all of head.parameters()",
            lambda z, y, p, h, a, b: F.cross_entropy(z, y) + a * p + b * h.weight.square().sum() / 2,
        ),
        Mistake(
            "F.cross_entropy includes the softmax: pass the logits",
            lambda z, y, p, h, a, b: F.cross_entropy(z.softmax(dim=1), y) + a * p + b * _squares(h) / 2,
        ),
        Mistake(
            "the cross-entropy is the mean over the batch, not the sum",
            lambda z, y, p, h, a, b: F.cross_entropy(z, y, reduction="sum") + a * p + b * _squares(h) / 2,
        ),
        Mistake(
            "WD is a sum over the head's weights, not a mean",
            lambda z, y, p, h, a, b: (
                F.cross_entropy(z, y) + a * p + b * _over(h, lambda q: q.square().mean()) / 2
            ),
        ),
        Mistake(
            "the norm of WD is squared: .norm() takes a root, so square it again",
            lambda z, y, p, h, a, b: F.cross_entropy(z, y) + a * p + b * _over(h, Tensor.norm) / 2,
        ),
    ),
    gradient=True,
)


def _states(generator: torch.Generator) -> tuple[State, State, str]:
    head = ("fc", "classifier")[integer(generator, 0, 1)]

    def state(classes: int, steps: int) -> State:
        return {
            "conv.weight": normal(generator, 3, 2, 1, 1),
            "bn.weight": normal(generator, 3),
            "bn.running_mean": normal(generator, 3),
            "bn.running_var": normal(generator, 3).abs(),
            "bn.num_batches_tracked": torch.tensor(steps),
            f"{head}_norm.weight": normal(generator, 3),
            f"{head}.weight": normal(generator, classes, 3),
            f"{head}.bias": normal(generator, classes),
        }

    return state(5, 50), state(9, 0), head


def _only(state: State, wanted: bool, head: str) -> State:
    """Select the head's entries, or all others."""
    return {name: w for name, w in state.items() if name.startswith(head + ".") == wanted}


def _is_statistic(name: str) -> bool:
    return ".running_" in name or name.endswith("num_batches_tracked")


HAND_OVER = Exercise(
    name="hand_over",
    about="T's weights and BatchNorm statistics with S's own head (Section 3.3)",
    right=lambda t, s, head: {**s, **_only(t, False, head)},
    inputs=_states,
    hints=(
        "Which entries of T's state belong to the backbone? All but those of the head.",
        "A name belongs to the head when it starts with head + '.'; for those names keep S's own entries.",
        "Start from S's state and overwrite it: {**state_s, **{name: w for name, w in state_t.items() if …}}.",
    ),
    mistakes=(
        Mistake(HEAD_COPIED, lambda t, s, head: {**s, **t}),
        Mistake(HEAD_COPIED, lambda t, s, head: t),
        Mistake(
            "S's head is missing, which load_state_dict needs: keep S's entries of the head",
            lambda t, s, head: _only(t, False, head),
        ),
        Mistake(
            "BatchNorm's running mean and variance were not copied: without them the new source is not T",
            lambda t, s, head: (
                {**s, **{n: w for n, w in _only(t, False, head).items() if not _is_statistic(n)}}
            ),
        ),
        Mistake(
            "this is the wrong way round: T's weights go to S",
            lambda t, s, head: {**t, **_only(s, False, head)},
        ),
        Mistake("nothing has been handed over: this is S as it was", lambda t, s, head: s),
        Mistake(
            "a layer of the backbone has a name that begins like the head's: compare with head + '.'",
            lambda t, s, head: {**s, **{n: w for n, w in t.items() if not n.startswith(head)}},
        ),
    ),
)

EXERCISES = (TOTAL_LOSS, HAND_OVER)
