"""The exercises on evidence (notebooks 00, 07, 08, 10 and 12): intervals, a score against a mask, rank correlation."""

import torch
from torch import Tensor

from spgca_lab.analysis import scores
from spgca_lab.exercises.base import Exercise, Mistake
from spgca_lab.exercises.common import between, integer, normal, uniform

TOO_COARSE = (
    "the heatmap has fewer cells than the mask has pixels: stretch it first (repeat_interleave, twice)"
)
ONE_SIDED = "only one of the two runs' scatter is in it: both means are uncertain"

# --- 00: the draw of the test images ---


def _share(generator: torch.Generator) -> tuple[Tensor, int]:
    return 0.55 + 0.4 * uniform(generator, 1)[0], integer(generator, 100, 900)


ACCURACY_INTERVAL = Exercise(
    name="accuracy_interval",
    about="half the 95 % interval of an accuracy p on n pictures, in percentage points",
    right=lambda p, n: 196 * (p * (1 - p) / n).sqrt(),
    inputs=_share,
    hints=(
        "Each prediction is right or wrong, like a coin toss with probability p: how much does the share of heads in n "
        "tosses vary?",
        "The standard deviation of that share is √(p(1 − p)/n). The 95 % interval reaches 1.96 of it to either side.",
        "In percentage points: 100 times 1.96 times (p * (1 - p) / n).sqrt().",
    ),
    mistakes=(
        Mistake("the root is missing: p(1 − p)/n is a variance", lambda p, n: 196 * p * (1 - p) / n),
        Mistake("it is in percentage points: multiply by 100", lambda p, n: 1.96 * (p * (1 - p) / n).sqrt()),
        Mistake(
            "this is the spread of one image; a share of n images scatters by 1/√n of it",
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

# --- 07: a paired comparison ---


def _two_results(generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    n = integer(generator, 5, 9)
    common = 80 + 5 * normal(generator, n)
    a, b = common + 1 + 0.8 * normal(generator, n), common + 0.6 * normal(generator, n)
    return a, b, between(generator, 1.9, 2.8)


def _interval(middle: Tensor, half: Tensor) -> Tensor:
    return torch.stack([middle - half, middle + half])


PAIRED_INTERVAL = Exercise(
    name="paired_interval",
    about="the mean of the pairwise differences, minus and plus t times their standard error",
    right=lambda a, b, t: _interval((a - b).mean(), t * (a - b).std() / len(a) ** 0.5),
    inputs=_two_results,
    hints=(
        "Take the pairwise differences first, and compute everything else from them alone.",
        "d = a - b; its mean has the standard error d.std() / √n.",
        "half = t * d.std() / len(d) ** 0.5; return torch.stack of the mean minus and plus half.",
    ),
    mistakes=(
        Mistake(
            "this interval is not paired: what both share (hard images, lucky seeds) is still in it. Take the "
            "differences first, then their standard deviation",
            lambda a, b, t: _interval((a - b).mean(), t * ((a.var() + b.var()) / len(a)).sqrt()),
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
    cells, factor = integer(generator, 3, 5), integer(generator, 2, 4)
    size = cells * factor
    heat = normal(generator, cells, cells).exp()
    mask = torch.zeros(size, size, dtype=torch.bool)
    top, left = integer(generator, 0, size // 3), integer(generator, 0, size // 3)
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
    hints=(
        "Bring heat and mask to one size before you look for what lies inside.",
        "Every cell covers len(mask) // len(heat) pixels per side: repeat_interleave along dim 0, then along dim 1.",
        "The share is fine[mask].sum() over fine.sum(), with fine the stretched heatmap.",
    ),
    mistakes=(
        Mistake(
            "stretching repeats every cell, so the mass grows as well: divide by the sum of the stretched heatmap",
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
            "this is the object's share of the image, what a uniform heatmap would score: use the heat",
            lambda heat, mask: mask.double().mean(),
        ),
        Mistake(
            "rows and columns have changed places somewhere",
            lambda heat, mask: _fine(heat, mask).T[mask].sum() / heat.sum() / (len(mask) / len(heat)) ** 2,
        ),
        Mistake(
            "this is the mean heat on the object over the mean heat; the share is the ratio of the sums",
            lambda heat, mask: _fine(heat, mask)[mask].mean() / heat.mean(),
        ),
        Mistake(TOO_COARSE, lambda heat, mask: heat[mask].sum() / heat.sum()),
        Mistake(TOO_COARSE, lambda heat, mask: (heat * mask).sum() / heat.sum()),
    ),
)

# --- 10: a comparison of which only mean ± sd is printed ---


def _two_cells(generator: torch.Generator) -> tuple[Tensor, Tensor, int, float]:
    sd_a, sd_b = uniform(generator, 2) * 0.4 + 0.02
    return sd_a, sd_b, integer(generator, 4, 8), between(generator, 2.1, 2.8)


PRINTED_INTERVAL = Exercise(
    name="printed_interval",
    about="t times the standard error of a difference of two means of n runs each",
    right=lambda sd_a, sd_b, n, t: t * ((sd_a**2 + sd_b**2) / n).sqrt(),
    inputs=_two_cells,
    hints=(
        "Variances of independent numbers add, also when the numbers are subtracted.",
        "A mean of n runs has the variance sd² / n; two of them add up.",
        "t times the root of (sd_a**2 + sd_b**2) / n.",
    ),
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
        Mistake(ONE_SIDED, lambda sd_a, sd_b, n, t: t * sd_a / n**0.5),
        Mistake(ONE_SIDED, lambda sd_a, sd_b, n, t: t * sd_b / n**0.5),
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

# --- 12: Spearman's rank correlation ---


def _two_orders(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    n = integer(generator, 7, 12)
    a = uniform(generator, n)
    return a.exp(), (a + 0.7 * uniform(generator, n)) ** 3


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
    hints=(
        "Only the order counts: replace every number by its rank.",
        "x.argsort().argsort() gives the ranks 0 … n − 1 of a tensor without ties.",
        "1 - 6 * (r - s).square().sum() / (n * (n**2 - 1)), with the ranks as floating-point numbers.",
    ),
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
            "n (n² − 1) is the denominator; you took n³", lambda a, b: 1 - 6 * _apart(a, b) / len(a) ** 3
        ),
        Mistake(
            "the squares of the rank differences are added; you added absolute values",
            lambda a, b: 1 - 6 * (_ranks(a) - _ranks(b)).abs().sum() / (len(a) * (len(a) ** 2 - 1)),
        ),
        Mistake(
            "the order of one side is reversed: the sign is wrong",
            lambda a, b: -_correlation(_ranks(a), _ranks(b)),
        ),
    ),
)

EXERCISES = (ACCURACY_INTERVAL, PAIRED_INTERVAL, MASS_INSIDE, PRINTED_INTERVAL, RANK_CORRELATION)
