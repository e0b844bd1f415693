"""Confidence intervals of means and of paired differences, and exact comparison of two networks' predictions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from spgca_lab._checks import Array

__all__ = [
    "PredictionsCompared",
    "MeanInterval",
    "PairedDifference",
    "StatisticsError",
    "compare_predictions",
    "mean_interval",
    "paired_difference",
]


class StatisticsError(ValueError):
    """Values that have no mean, or that cannot be paired."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean of n values with its confidence interval; `f"{x:+.1f}"` gives `+0.6 ± 0.5`.

    Args:
        mean: NaN without values.
        sd: standard deviation with n − 1; NaN for fewer than two values.
        half: half width of the interval; NaN for fewer than two values.
        level: confidence level.
    """

    mean: float
    sd: float
    n: int
    half: float
    level: float = 0.95

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half

    def excludes(self, value: float = 0.0) -> bool:
        """Return whether the interval is known and lies to one side of a value."""
        return self.low > value or self.high < value

    def __format__(self, spec: str) -> str:
        spec = spec or ".1f"
        if not self.n:
            return "none"
        return f"{self.mean:{spec}} " + ("(n = 1)" if self.n == 1 else f"± {self.half:{spec.lstrip('+')}}")

    def __str__(self) -> str:
        return format(self)


@dataclass(frozen=True)
class PairedDifference(MeanInterval):
    """The mean of paired differences, with the shared seeds in rising order and their differences."""

    seeds: tuple[Any, ...] = ()
    gaps: tuple[float, ...] = ()


@dataclass(frozen=True)
class PredictionsCompared:
    """Two networks' predictions on the same images.

    Args:
        both_right: images on which both are right.
        only_a: images on which a is right and b is wrong.
        only_b: images on which b is right and a is wrong.
        apart: images on which both are wrong, with different predictions.
        alike: images on which both make the same wrong prediction.
        difference: accuracy of a minus accuracy of b, in percentage points.
        p: exact two-sided McNemar probability; 1 where `only_a` and `only_b` are 0.
    """

    both_right: int
    only_a: int
    only_b: int
    apart: int
    alike: int
    difference: MeanInterval
    p: float

    @property
    def pictures(self) -> int:
        """Number of images."""
        return self.both_right + self.disagree + self.alike

    @property
    def disagree(self) -> int:
        """Number of images with two different predictions."""
        return self.only_a + self.only_b + self.apart


def mean_interval(values: Array, level: float = 0.95) -> MeanInterval:
    r"""Compute mean, standard deviation and Student's t interval of independent values, such as accuracies over seeds.

    $$\bar x \pm t_{n-1,\,(1+\text{level})/2} \; s / \sqrt n, \qquad s^2 = \sum_i (x_i - \bar x)^2 / (n - 1)$$

    Args:
        values: finite numbers in any unit, `[n]`.
        level: confidence level, between 0 and 1.

    Example:
        >>> print(mean_interval([88.1, 87.9, 88.3]))
        88.1 ± 0.5
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise StatisticsError(f"level must lie between 0 and 1, such as 0.95, got {level!r}")
    x = np.asarray(values, dtype=float).reshape(-1)
    if not np.isfinite(x).all():
        raise StatisticsError(f"values must be finite, got {x[~np.isfinite(x)][0]}")
    n = len(x)
    mean = float(x.mean()) if n else math.nan
    if n < 2:
        return MeanInterval(mean, math.nan, n, math.nan, level)
    sd = float(x.std(ddof=1))
    # scipy.special has the t quantile too, and importing scipy.stats takes most of a second.
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return MeanInterval(mean, sd, n, half, level)


def paired_difference(
    a_by_seed: Mapping[Any, float], b_by_seed: Mapping[Any, float], level: float = 0.95
) -> PairedDifference:
    r"""Compute by how much a is higher than b: the mean of the differences over shared seeds, with its t interval.

    $$d_s = a_s - b_s, \qquad \bar d \pm t_{n-1,\,(1+\text{level})/2} \; s_d / \sqrt n$$

    Runs with the same seed share head, batches and crops, so their difference varies less than either.

    Args:
        a_by_seed: value for each seed, such as top-1 in percent.
        b_by_seed: likewise; seeds that only one side has are left out.
        level: confidence level.

    Example:
        >>> gap = paired_difference({0: 52.0, 1: 53.0, 2: 51.5}, {0: 51.0, 1: 52.5, 2: 51.0})
        >>> print(f"{gap:+.1f} points over seeds {gap.seeds}")
        +0.7 ± 0.7 points over seeds (0, 1, 2)
    """
    seeds = tuple(sorted(set(a_by_seed) & set(b_by_seed)))
    gaps = tuple(float(a_by_seed[s]) - float(b_by_seed[s]) for s in seeds)
    found = mean_interval(gaps, level)
    return PairedDifference(found.mean, found.sd, found.n, found.half, level, seeds, gaps)


def compare_predictions(labels: Array, a: Array, b: Array, level: float = 0.95) -> PredictionsCompared:
    r"""Compare two networks' predictions on the same test images: where they differ, and by how much one is ahead.

    $$d_i = [a_i = y_i] - [b_i = y_i], \qquad p = \min\bigl(1,\; 2\,P(X \le \min(n_a, n_b))\bigr), \quad
    X \sim \mathrm{Bin}(n_a + n_b, 1/2)$$

    with n_a and n_b the images on which only a and only b is right. Interval (t, over images) and p (McNemar's exact
    test) cover the draw of the test images, for these two networks. They do not cover the seed: only runs with
    several seeds show how much other networks would differ (`paired_difference`).

    Args:
        labels: true classes, `[n]`.
        a: predictions of one network, `[n]`.
        b: predictions of the other, `[n]`.
        level: confidence level.

    Example:
        >>> found = compare_predictions([0, 1, 2, 3], a=[0, 1, 2, 0], b=[0, 1, 0, 1])
        >>> found.only_a, found.only_b, found.apart, found.difference.mean
        (1, 0, 1, 25.0)
    """
    y, one, other = (np.asarray(v).reshape(-1) for v in (labels, a, b))
    if not len(y) == len(one) == len(other):
        raise StatisticsError(
            f"labels and predictions must be of one length, got {len(y)}, {len(one)} and {len(other)}"
        )
    right_a, right_b = one == y, other == y
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    discordant = only_a + only_b
    # bdtr is the binomial distribution function P(X ≤ k); importing scipy.stats for binomtest would be slow.
    p = min(1.0, 2 * float(special.bdtr(min(only_a, only_b), discordant, 0.5))) if discordant else 1.0
    return PredictionsCompared(
        both_right=int((right_a & right_b).sum()),
        only_a=only_a,
        only_b=only_b,
        apart=int((~right_a & ~right_b & (one != other)).sum()),
        alike=int((~right_a & (one == other)).sum()),
        difference=mean_interval(100.0 * (right_a.astype(float) - right_b.astype(float)), level),
        p=p,
    )
