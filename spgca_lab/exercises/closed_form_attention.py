"""The exercises of notebooks 09 and 11: attention weights by formula: the optimum of Eq. 3, and contrast."""

import torch
from torch import Tensor

from spgca_lab.exercises import common
from spgca_lab.exercises.base import Exercise, Mistake
from spgca_lab.exercises.common import integer, normal, uniform

OPTIMAL_POSITIONS = Exercise(
    name="optimal_positions",
    about="the weights ∝ 1/d of each row, which sum to one",
    right=lambda d: (1 / d) / (1 / d).sum(dim=1, keepdim=True),
    inputs=lambda generator: (0.2 + uniform(generator, integer(generator, 2, 3), integer(generator, 5, 7)),),
    hints=(
        "Where a difference is large, a weight costs much: the best weights fall as d grows. How fast?",
        "Setting the derivative of ½ Σ a² d − λ Σ a to zero gives a · d = λ at every position.",
        "a is proportional to 1 / d; divide each row by its own sum.",
    ),
    mistakes=(
        Mistake("the weights must sum to one: divide by the sum of the row", lambda d: 1 / d),
        Mistake(
            "each row is an image: its weights sum to one over positions (dim=1), not over the batch (dim=0)",
            lambda d: (1 / d) / (1 / d).sum(dim=0, keepdim=True),
        ),
        Mistake(
            "each row sums to one by itself; you divided by the sum of the whole batch",
            lambda d: (1 / d) / (1 / d).sum(),
        ),
        Mistake(
            "these weights grow with the difference, where they cost most; the best fall with it",
            lambda d: d / d.sum(dim=1, keepdim=True),
        ),
        Mistake(
            "a softmax of -d also falls with d, but it is not where the derivative is zero: that is 1/d",
            lambda d: (-d).softmax(dim=1),
        ),
        Mistake(
            "the softmax runs over the batch (dim=0); and 1/d needs none: divide by the sum of the row",
            lambda d: (-d).softmax(dim=0),
        ),
        Mistake("1/d needs no softmax: divide by the sum of the row", lambda d: (1 / d).softmax(dim=1)),
        Mistake(
            "one-hot on the smallest difference is best where the weights are not squared (Eq. 5, 10); here they are",
            lambda d: torch.nn.functional.one_hot(d.argmin(dim=1), d.shape[1]).to(d),
        ),
        Mistake(
            "a² d falls when a is spread by 1/d; you took 1/d²",
            lambda d: (1 / d**2) / (1 / d**2).sum(dim=1, keepdim=True),
        ),
    ),
)


def _map(generator: torch.Generator) -> tuple[Tensor]:
    h, w = integer(generator, 2, 3), integer(generator, 4, 5)
    return (2 * normal(generator, integer(generator, 2, 4), 6, h, w),)


def _contrast(fm_s: Tensor) -> Tensor:
    return fm_s.std(dim=1, unbiased=False)


CONTRAST_WEIGHTS = Exercise(
    name="contrast_weights",
    about="the softmax over positions of the standard deviation over channels",
    right=lambda fm_s: _contrast(fm_s).flatten(1).softmax(dim=1),
    inputs=_map,
    hints=(
        "Two steps: how much do the channels differ at a position, and how do you make weights that sum to one?",
        "fm_s.std(dim=1, unbiased=False) is [b, h, w]; positions must lie along one dimension before the softmax.",
        "Flatten from dimension 1 on, then softmax(dim=1).",
    ),
    mistakes=(
        Mistake(common.SOFTMAX_OVER_BATCH, lambda fm_s: _contrast(fm_s).flatten(1).softmax(dim=0)),
        Mistake(
            "the softmax runs over the columns of a row; flatten to [b, h·w] first, so that all positions share one",
            lambda fm_s: _contrast(fm_s).softmax(dim=2).flatten(1),
        ),
        Mistake(
            "the softmax runs over the rows of a column; flatten to [b, h·w] first, so that all positions share one",
            lambda fm_s: _contrast(fm_s).softmax(dim=1).flatten(1),
        ),
        Mistake("the softmax is missing", lambda fm_s: _contrast(fm_s).flatten(1)),
        Mistake(
            "this divides by the sum; a softmax is wanted",
            lambda fm_s: _contrast(fm_s).flatten(1) / _contrast(fm_s).flatten(1).sum(dim=1, keepdim=True),
        ),
        Mistake(
            "the standard deviation divides by C here, not by C − 1: unbiased=False",
            lambda fm_s: fm_s.std(dim=1).flatten(1).softmax(dim=1),
        ),
        Mistake(
            "this is the variance; take the standard deviation",
            lambda fm_s: fm_s.var(dim=1, unbiased=False).flatten(1).softmax(dim=1),
        ),
        Mistake(
            "this is AST's input, the mean; take the spread", lambda f: f.mean(1).flatten(1).softmax(dim=1)
        ),
        Mistake(
            "the spread is over channels (dim=1), which gives one number per position; yours is one per channel",
            lambda fm_s: fm_s.flatten(2).std(dim=2, unbiased=False).softmax(dim=1),
        ),
    ),
)

EXERCISES = (OPTIMAL_POSITIONS, CONTRAST_WEIGHTS)
