"""The exercises of notebooks 00, 09, 11 and 12: an interval, an optimum, an attention, a rank correlation."""

import torch
from torch import Tensor

from spgca_lab.exercises.base import Exercise, Mistake

__all__ = ["EXERCISES"]


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def _size(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


# --- 00: what another draw of test pictures would change ---


def _share(generator: torch.Generator) -> tuple[Tensor, int]:
    return 0.55 + 0.4 * _random(generator, 1)[0], _size(generator, 100, 900)


ACCURACY_INTERVAL = Exercise(
    name="accuracy_interval",
    about="half the 95 % interval of an accuracy p on n pictures, in percentage points",
    right=lambda p, n: 196 * (p * (1 - p) / n).sqrt(),
    inputs=_share,
    mistakes=(
        Mistake("the root is missing: p(1 − p)/n is a variance", lambda p, n: 196 * p * (1 - p) / n),
        Mistake("it is in percentage points: multiply by 100", lambda p, n: 1.96 * (p * (1 - p) / n).sqrt()),
        Mistake(
            "this is the spread of one picture; a share of n pictures scatters by 1/√n of it",
            lambda p, n: 196 * (p * (1 - p)).sqrt(),
        ),
        Mistake("n belongs under the root", lambda p, n: 196 * (p * (1 - p)).sqrt() / n),
        Mistake(
            "this is one standard error; a 95 % interval reaches 1.96 of them to either side",
            lambda p, n: 100 * (p * (1 - p) / n).sqrt(),
        ),
        Mistake("this is the whole width; give half of it", lambda p, n: 392 * (p * (1 - p) / n).sqrt()),
        Mistake(
            "1 − p is missing: an accuracy of 100 % does not scatter at all",
            lambda p, n: 196 * (p / n).sqrt(),
        ),
        Mistake("p and 1 − p are multiplied, not added", lambda p, n: 196 * ((p + (1 - p)) / n).sqrt()),
    ),
)


# --- 09: the best positions ---


def _differences(generator: torch.Generator) -> tuple[Tensor]:
    return (0.2 + _random(generator, _size(generator, 2, 3), _size(generator, 5, 7)),)


OPTIMAL_POSITIONS = Exercise(
    name="optimal_positions",
    about="the weights ∝ 1/d of each row, which sum to one",
    right=lambda d: (1 / d) / (1 / d).sum(dim=1, keepdim=True),
    inputs=_differences,
    mistakes=(
        Mistake("the weights must sum to one: divide by the sum of the row", lambda d: 1 / d),
        Mistake(
            "each row is a picture: its weights sum to one over positions (dim=1), not over the batch (dim=0)",
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


# --- 11: contrast ---


def _map(generator: torch.Generator) -> tuple[Tensor]:
    h, w = _size(generator, 2, 3), _size(generator, 4, 5)
    return (2 * torch.randn(_size(generator, 2, 4), 6, h, w, generator=generator, dtype=torch.float64),)


def _contrast(fm_s: Tensor) -> Tensor:
    return fm_s.std(dim=1, unbiased=False)


CONTRAST_WEIGHTS = Exercise(
    name="contrast_weights",
    about="the softmax over positions of the standard deviation over channels",
    right=lambda fm_s: _contrast(fm_s).flatten(1).softmax(dim=1),
    inputs=_map,
    mistakes=(
        Mistake(
            "the softmax runs over the batch (dim=0); each picture's weights must sum to one over positions (dim=1)",
            lambda fm_s: _contrast(fm_s).flatten(1).softmax(dim=0),
        ),
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
            "the spread is over channels (dim=1), which gives one number a position; yours is one a channel",
            lambda fm_s: fm_s.flatten(2).std(dim=2, unbiased=False).softmax(dim=1),
        ),
    ),
)


# --- 12: Spearman's rank correlation ---


def _two_orders(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    n = _size(generator, 7, 12)
    a = _random(generator, n)
    return a.exp(), (a + 0.7 * _random(generator, n)) ** 3


def _ranks(x: Tensor) -> Tensor:
    return x.argsort().argsort().double()


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return (_ranks(a) - _ranks(b)).square().sum()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


RANK_CORRELATION = Exercise(
    name="rank_correlation",
    about="the correlation of the ranks of a and b, a scalar",
    right=lambda a, b: _correlation(_ranks(a), _ranks(b)),
    inputs=_two_orders,
    mistakes=(
        Mistake(
            "this is the correlation of the numbers (Pearson's); replace them by their ranks first",
            _correlation,
        ),
        Mistake(
            "argsort once gives which element comes where, not the rank of each: apply it twice",
            lambda a, b: _correlation(a.argsort().double(), b.argsort().double()),
        ),
        Mistake("the factor 6 is missing", lambda a, b: 1 - _apart(a, b) / (len(a) * (len(a) ** 2 - 1))),
        Mistake(
            "1 − … is missing: equal orders must give 1",
            lambda a, b: 6 * _apart(a, b) / (len(a) * (len(a) ** 2 - 1)),
        ),
        Mistake(
            "n (n² − 1) is the denominator; you took n³",
            lambda a, b: 1 - 6 * _apart(a, b) / len(a) ** 3,
        ),
        Mistake(
            "the squares of the rank differences add up; you squared nothing",
            lambda a, b: 1 - 6 * (_ranks(a) - _ranks(b)).abs().sum() / (len(a) * (len(a) ** 2 - 1)),
        ),
        Mistake(
            "the order of one is turned round: the sign is wrong",
            lambda a, b: -_correlation(_ranks(a), _ranks(b)),
        ),
    ),
)

EXERCISES = {
    exercise.name: exercise
    for exercise in (ACCURACY_INTERVAL, OPTIMAL_POSITIONS, CONTRAST_WEIGHTS, RANK_CORRELATION)
}
