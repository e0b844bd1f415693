"""Which values of α a search tries: a grid, or a range by the scale of the penalty."""

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spgca_lab.experiments.studies import Study
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import derive

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["Alpha", "AlphaSearch", "TuneError", "alpha_ranges", "in_words"]

Alpha = float | tuple[float, ...]

# Of feature maps: for the equations' own scales Sec. 4.2; for "relative", which this project adds, around 3.
RANGES = {"relative": (0.1, 30.0), "afa": (0.005, 0.1), "literal": (0.005, 0.1)}
UNSCALED = (1 / 100, 10.0)  # times the default
EVALUATIONS = 4  # with fewer there is nothing to prune by
SPREAD = 8  # values that cover the range before the sampler follows what it has seen


class TuneError(ValueError):
    """A search that cannot be made, or in which every value failed."""


def alpha_ranges(recipe: Recipe) -> list[tuple[float, float] | None]:
    """Where α is searched by default, by stage; None for a stage without a penalty.

    On the equations' own scales that is the paper's range, 0.005 to 0.1, and with `scale="relative"` 0.1 to 30. A
    penalty that `scale` does not change, such as L2-SP's, is searched from a hundredth to ten times its default.

    Source:
        Sec. 4.2 of the paper for its range; the others are this project's.

    Example:
        >>> alpha_ranges(Recipe(method="spgca", scale="afa"))
        [(0.005, 0.1), (0.005, 0.1)]
        >>> alpha_ranges(Recipe(method="l2_fe"))
        [None]
    """
    return [
        None
        if stage.penalty is None
        else RANGES[str(recipe.scale)]
        if stage.scaled
        else (stage.alpha * UNSCALED[0], stage.alpha * UNSCALED[1])
        for stage in recipe.stages().stages
    ]


@dataclass(frozen=True)
class AlphaSearch:
    """What is tried, and on what; made by `settle`.

    Args:
        recipe: whose α is wanted.
        base: what every trial trains, but for α and seed.
        wanted: number of trials.
        grid: the points to try, one number a parameter; None draws them from `ranges`.
        ranges: least and largest value of each parameter.
        places: stages that have a parameter each; None where one is for all.
        seeds: of the runs of each trial.
    """

    recipe: Recipe
    base: Recipe
    wanted: int
    grid: list[tuple[float, ...]] | None
    ranges: list[tuple[float, float]]
    places: list[int] | None
    seeds: tuple[int, ...]

    @classmethod
    def settle(
        cls,
        recipe: Recipe,
        *,
        trials: int = 20,
        alphas: Iterable[float] | None = None,
        low: float | None = None,
        high: float | None = None,
        per_stage: bool = False,
        validation: float = 0.2,
        seeds: Sequence[int] = (0,),
    ) -> "AlphaSearch":
        """The search that a call of `tune` asks for; for arguments see there.

        Raises:
            TuneError: when there is nothing to search, quoting what was given.

        Example:
            >>> search = AlphaSearch.settle(Recipe(method="spgca"), alphas=[1, 3], per_stage=True)
            >>> search.grid
            [(1.0, 1.0), (1.0, 3.0), (3.0, 1.0), (3.0, 3.0)]
        """
        if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
            raise TuneError(f"trials must be an integer of at least 1, got {trials!r}")
        if not 0 < validation < 1:
            raise TuneError(f"validation must be above 0 and below 1, got {validation!r}")
        if not seeds or len(set(seeds)) < len(seeds):
            raise TuneError(f"seeds must be at least one number, each once, got {list(seeds)!r}")
        base = recipe.replace(
            seed=seeds[0],
            validation=validation,
            alpha_from=None,
            evaluations=max(EVALUATIONS, recipe.evaluations),
        )
        defaults = alpha_ranges(recipe)
        places = [index for index, span in enumerate(defaults) if span is not None]
        if not places:
            raise TuneError(f"{recipe.method} has no α to choose: its loss has no penalty but β's")
        if per_stage and len(places) < 2:
            raise TuneError(f"per_stage needs two stages with an α each, {recipe.method} has one")
        spans = [span for span in defaults if span is not None]
        if not per_stage:
            if len(set(spans)) > 1 and alphas is None and (low is None or high is None):
                raise TuneError(
                    f"the penalties of {recipe.method} have different units: give each stage its own α with per_stage, "
                    "or give low and high"
                )
            spans = spans[:1]
        grid = None
        if alphas is None:
            spans = [
                _span(least if low is None else low, most if high is None else high) for least, most in spans
            ]
        else:
            if low is not None or high is not None:
                raise TuneError(
                    f"give either alphas or low and high, got {list(alphas)!r}, {low!r} and {high!r}"
                )
            grid = list(product(_values(alphas), repeat=len(spans)))
            spans = [(min(column), max(column)) for column in zip(*grid, strict=True)]
        wanted = trials if grid is None else len(grid)
        return cls(recipe, base, wanted, grid, spans, places if per_stage else None, tuple(seeds))

    def settings(self) -> dict[str, Any]:
        """All that two who work on one study must agree on, as JSON has it."""
        fields = {k: v for k, v in self.base.to_dict().items() if k not in ("alpha", "alpha_from", "seed")}
        searched = {"per_stage": self.places is not None, "alphas": self.grid, "range": self.ranges}
        return json.loads(json.dumps(fields | {"seeds": self.seeds} | searched))

    def name(self) -> str:
        """A name for the study, the same whenever the search is the same."""
        # The recipe's hash, unlike its fields, stays what it was when a later version has more of them.
        own = {k: v for k, v in self.settings().items() if k not in self.base.to_dict()}
        digest = hashlib.sha256(json.dumps([self.with_alpha(0.0).hash(), own], sort_keys=True).encode())
        parts = (str(self.recipe.method).rsplit(":", 1)[-1], Path(self.recipe.dataset).name)
        return "-".join([*(re.sub(r"[^A-Za-z0-9_]+", "_", p) for p in parts), digest.hexdigest()[:8]])

    def with_alpha(self, alpha: Alpha, seed: int | None = None) -> Recipe:
        """What a trial trains, with the first seed or the given one."""
        return self.base.replace(alpha=alpha, seed=self.seeds[0] if seed is None else seed)

    def alpha(self, study: Study, trial: "Trial", place: int) -> Alpha:
        """The α of a trial: what it had before its process died, else the next of the grid or of the sampler."""
        import optuna

        names = ["alpha"] if self.places is None else [f"alpha_{index + 1}" for index in self.places]
        # A seed of its own for every place: neither a second process nor a second call draws the first one's values.
        sampler: Any = optuna.samplers.TPESampler(n_startup_trials=1, seed=derive(0, "tune", place) % 2**32)
        if (point := self._point(place)) is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                fixed = dict(zip(names, point, strict=True))
                sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
        study.optuna.sampler = sampler
        drawn = []
        for name, (low, high) in zip(names, self.ranges, strict=True):
            value = trial.suggest_float(name, low, high, log=self.grid is None)
            drawn.append(value if self.grid is not None else _rounded(value, low, high))
        if self.places is None:
            return drawn[0]
        every = [0.0] * len(self.recipe.stages().stages)
        for index, value in zip(self.places, drawn, strict=True):
            every[index] = value
        return tuple(every)

    def _point(self, place: int) -> tuple[float, ...] | None:
        if self.grid is not None:
            return self.grid[place]
        if place >= SPREAD:
            return None
        return tuple(
            _rounded(low * (high / low) ** _halton(place + 1, base), low, high)
            for base, (low, high) in zip(_primes(len(self.ranges)), self.ranges, strict=True)
        )


def in_words(alpha: Alpha) -> str:
    """α as a text names it.

    Example:
        >>> in_words((0.1, 3.0))
        '0.1, 3'
    """
    return ", ".join(f"{a:g}" for a in (alpha if isinstance(alpha, tuple) else (alpha,)))


def _span(low: float, high: float) -> tuple[float, float]:
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise TuneError(f"α is searched between low and high, with 0 < low < high, got {low!r} and {high!r}")
    return float(low), float(high)


def _values(alphas: Iterable[float]) -> list[float]:
    values = list(dict.fromkeys(float(alpha) for alpha in alphas))
    if not values or any(not math.isfinite(v) or v < 0 for v in values):
        raise TuneError(f"alphas must be finite numbers of at least 0, and at least one, got {values!r}")
    return values


def _rounded(value: float, low: float, high: float) -> float:
    # Three digits are more than a search of this kind can tell apart, and read well in a recipe.
    return min(max(float(f"{value:.3g}"), low), high)


def _halton(number: int, base: int) -> float:
    """Halton's sequence: the digits of `number`, mirrored at the point."""
    value, scale = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        scale /= base
        value += digit * scale
    return value


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found
