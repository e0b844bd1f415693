"""How far a mean can be trusted: t intervals over seeds, paired differences, and answers picture by picture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from spgca_lab._checks import Array

__all__ = [
    "AnswersCompared",
    "MeanInterval",
    "PairedDifference",
    "StatisticsError",
    "compare_answers",
    "mean_interval",
    "paired_difference",
]


class StatisticsError(ValueError):
    """Values that have no mean, or that cannot be paired."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its interval; written with the format of a number, `f"{x:+.1f}"` gives `+0.6 ± 0.5`.

    Args:
        mean: of the values; NaN of none.
        sd: standard deviation of the values with n − 1; NaN of fewer than two.
        n: how many values.
        half: half width of the interval; NaN of fewer than two.
        level: of confidence.
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
        """Whether the interval is known and lies to one side of a value."""
        return self.low > value or self.high < value

    def spread(self, spec: str = ".1f") -> str:
        """The mean and the standard deviation instead of the interval, as the paper prints them.

        Example:
            >>> mean_interval([88.0, 89.0]).spread()
            '88.5 ± 0.7'
        """
        return self._write(spec, self.sd)

    def __format__(self, spec: str) -> str:
        return self._write(spec or ".1f", self.half)

    def __str__(self) -> str:
        return format(self, "")

    def _write(self, spec: str, width: float) -> str:
        if not self.n:
            return "none"
        return (
            f"{self.mean:{spec}} (n = 1)"
            if self.n == 1
            else f"{self.mean:{spec}} ± {width:{spec.lstrip('+')}}"
        )


@dataclass(frozen=True)
class PairedDifference(MeanInterval):
    """The mean of differences of pairs, and the pairs.

    Args:
        seeds: what both have, in rising order.
        gaps: their differences, in this order.
    """

    seeds: tuple[Any, ...] = ()
    gaps: tuple[float, ...] = ()


@dataclass(frozen=True)
class AnswersCompared:
    """Two networks' answers to the same pictures.

    Args:
        both_right: pictures that both know.
        only_a: a is right, b is wrong.
        only_b: b is right, a is wrong.
        apart: both are wrong, in different ways.
        alike: both give the same wrong answer.
        difference: of the shares that are right, a − b in percentage points.
        p: exact two-sided McNemar probability; 1 where none of the two knows a picture that the other does not.
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
        """How many were compared."""
        return self.both_right + self.disagree + self.alike

    @property
    def disagree(self) -> int:
        """Pictures with two different answers."""
        return self.only_a + self.only_b + self.apart


def mean_interval(values: Array, level: float = 0.95) -> MeanInterval:
    r"""Mean, standard deviation and Student's t interval of independent values, such as accuracies over seeds.

    $$\bar x \pm t_{n-1,\,(1+\text{level})/2} \; s / \sqrt n, \qquad s^2 = \sum_i (x_i - \bar x)^2 / (n - 1)$$

    Args:
        values: numbers in any unit, `[n]`.
        level: of confidence, between 0 and 1.

    Returns:
        all in the unit of the values; NaN where there are too few.

    Raises:
        StatisticsError: when a value is not finite or the level is not between 0 and 1.

    Example:
        >>> print(mean_interval([88.1, 87.9, 88.3]))
        88.1 ± 0.5
        >>> print(mean_interval([88.1]))
        88.1 (n = 1)
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
    # From scipy.special: importing scipy.stats takes most of a second.
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return MeanInterval(mean, sd, n, half, level)


def paired_difference(
    a_by_seed: Mapping[Any, float], b_by_seed: Mapping[Any, float], level: float = 0.95
) -> PairedDifference:
    r"""How much higher a is than b: mean of the differences over shared seeds, with its t interval.

    $$d_s = a_s - b_s, \qquad \bar d \pm t_{n-1,\,(1+\text{level})/2} \; s_d / \sqrt n$$

    Runs of one seed share head, batches and crops, so their difference scatters less than either.

    Args:
        a_by_seed: value by seed, such as top-1 in percent.
        b_by_seed: likewise; seeds that only one of the two has are left out.
        level: of confidence, between 0 and 1.

    Returns:
        with n = 0 and NaN when no seed is shared, without an interval when only one is.

    Raises:
        StatisticsError: as `mean_interval`.

    Example:
        >>> gap = paired_difference({0: 52.0, 1: 53.0, 2: 51.5}, {0: 51.0, 1: 52.5, 2: 51.0})
        >>> print(f"{gap:+.1f} points over seeds {gap.seeds}")
        +0.7 ± 0.7 points over seeds (0, 1, 2)
    """
    seeds = tuple(sorted(set(a_by_seed) & set(b_by_seed)))
    gaps = tuple(float(a_by_seed[s]) - float(b_by_seed[s]) for s in seeds)
    found = mean_interval(gaps, level)
    return PairedDifference(found.mean, found.sd, found.n, found.half, level, seeds, gaps)


def compare_answers(
    labels: Array,
    a: Array,
    b: Array,
    level: float = 0.95,
) -> AnswersCompared:
    r"""Two networks' answers to the same test pictures: where they part, and by how much one is ahead.

    $$d_i = [a_i = y_i] - [b_i = y_i], \qquad p = \min\bigl(1,\; 2\,P(X \le \min(n_a, n_b))\bigr), \quad
    X \sim \mathrm{Bin}(n_a + n_b, 1/2)$$

    with n_a and n_b the pictures that only a and only b knows. Interval and p say how much hangs on which test
    pictures happened to be drawn, for these two networks as they are. They know nothing of the seed: other seeds
    give other networks, and only runs of several seeds tell how much (`paired_difference`).

    Args:
        labels: what is right, `[n]`.
        a: answers of one, `[n]`.
        b: answers of the other, `[n]`.
        level: of confidence, between 0 and 1.

    Returns:
        counts; the difference in percentage points with the t interval over pictures; McNemar's exact p.

    Raises:
        StatisticsError: when the three are not of one length.

    Example:
        >>> found = compare_answers([0, 1, 2, 3], a=[0, 1, 2, 0], b=[0, 1, 0, 1])
        >>> found.only_a, found.only_b, found.apart, found.difference.mean
        (1, 0, 1, 25.0)
    """
    y, one, other = (np.asarray(v).reshape(-1) for v in (labels, a, b))
    if not len(y) == len(one) == len(other):
        raise StatisticsError(
            f"labels and answers must be of one length, got {len(y)}, {len(one)} and {len(other)}"
        )
    right_a, right_b, differ = one == y, other == y, one != other
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    parted = only_a + only_b
    # P(X ≤ k) of a fair coin; bdtr of scipy.special is its distribution function.
    p = min(1.0, 2 * float(special.bdtr(min(only_a, only_b), parted, 0.5))) if parted else 1.0
    return AnswersCompared(
        both_right=int((right_a & right_b).sum()),
        only_a=only_a,
        only_b=only_b,
        apart=int((~right_a & ~right_b & differ).sum()),
        alike=int((~right_a & ~differ).sum()),
        difference=mean_interval(100.0 * (right_a.astype(float) - right_b.astype(float)), level),
        p=p,
    )
