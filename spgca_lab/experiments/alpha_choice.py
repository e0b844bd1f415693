"""The values of α that a search tries, and the rule that chooses one; the test images play no part."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from spgca_lab.training.recipe import Recipe

Alpha = float | tuple[float, ...]

# Penalties on feature maps: the paper's range (Sec. 4.2) for the scales of the equations, around 3 for "relative".
RANGES = {"relative": (0.1, 30.0), "afa": (0.005, 0.1), "literal": (0.005, 0.1)}
UNSCALED = (1 / 100, 10.0)  # times the default α, for penalties that `scale` does not change, such as L2-SP's
EVALUATIONS = 4  # a search that stops trials early has nothing to compare with fewer
SPREAD = 8  # values that cover a range before the sampler follows the results
LISTED = 8


class TuneError(ValueError):
    """A search for α that is impossible, or in which every value failed."""


@dataclass(frozen=True)
class Plan:
    """A search for α: the values to try and the runs that measure each; made by `plan_search`."""

    recipe: Recipe
    validation: float  # share of each class's training images that is held out
    seeds: tuple[int, ...]  # of each trial
    ranges: dict[str, tuple[float, float]]  # of `alpha`, or of `alpha_1`, `alpha_2`, … per stage
    points: list[tuple[float, ...]]  # values to try first, one number per parameter
    trials: int
    grid: bool  # True where nothing but the points is tried

    def recipes(self, alpha: Alpha) -> list[Recipe]:
        """Return the runs that measure a value on held-out training images, one per seed."""
        count = max(EVALUATIONS, self.recipe.evaluations)
        base = self.recipe.replace(evaluations=count, snapshots=0, alpha_from=None)
        return [base.replace(alpha=alpha, seed=seed, validation=self.validation) for seed in self.seeds]

    def settings(self) -> dict[str, Any]:
        """Return everything that defines the search, with JSON's types."""
        recipe = self.recipes(0.0)[0].to_dict()
        fields = {name: recipe[name] for name in recipe if name not in ("alpha", "alpha_from", "seed")}
        fields |= {"seeds": self.seeds, "ranges": self.ranges, "alphas": self.points if self.grid else None}
        return json.loads(json.dumps(fields))

    def name(self, given: str | None = None) -> str:
        """Return the given name, or one that is the same for the same settings."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:8]
        parts = (str(self.recipe.method).rsplit(":", 1)[-1], Path(self.recipe.dataset).name)
        # The name becomes a file's, and a folder with a `recipe.json` would count as a run.
        if given is not None and (not re.fullmatch(r"\w[\w.-]*", given, re.ASCII) or given == "recipe"):
            raise TuneError(f"a study's name has letters, digits, _ - . and is not 'recipe', got {given!r}")
        return given or "-".join([*(re.sub(r"\W+", "_", part, flags=re.ASCII) for part in parts), digest])

    def draw(self, trial: Any) -> Alpha:
        """Return the α that a trial of Optuna suggests."""
        values = {}
        for name, (low, high) in self.ranges.items():
            value = trial.suggest_float(name, low, high, log=not self.grid)
            values[name] = value if self.grid else _rounded(value, low, high)
        stages = range(1, len(self.recipe.stages().stages) + 1)
        return values["alpha"] if "alpha" in values else tuple(values.get(f"alpha_{i}", 0.0) for i in stages)


def alpha_ranges(recipe: Recipe) -> list[tuple[float, float] | None]:
    """Return the default range of α per stage; None for a stage without a penalty."""
    stages, (low, high) = recipe.stages().stages, UNSCALED
    ranges = [RANGES[str(recipe.scale)] if s.scaled else (s.alpha * low, s.alpha * high) for s in stages]
    return [None if s.penalty is None else span for s, span in zip(stages, ranges, strict=True)]


def plan_search(
    recipe: Recipe,
    trials: int = 20,
    alphas: Iterable[float] | None = None,
    low: float | None = None,
    high: float | None = None,
    per_stage: bool = False,
    validation: float = 0.2,
    seeds: Sequence[int] = (0,),
) -> Plan:
    """Plan a search over given values, or over a range that eight values cover first; arguments as for `tune`."""
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise TuneError(f"trials must be an integer of at least 1, got {trials!r}")
    if not 0 < validation < 1:
        raise TuneError(f"validation must be above 0 and below 1, got {validation!r}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise TuneError(f"seeds must be at least one number, each once, got {list(seeds)!r}")
    spans = {f"alpha_{i + 1}": span for i, span in enumerate(alpha_ranges(recipe)) if span}
    if not spans:
        raise TuneError(f"{recipe.method} has no α to choose: its loss has no penalty but β's")
    if per_stage and len(spans) < 2:
        raise TuneError(f"per_stage needs two stages with an α each, {recipe.method} has one")
    if not per_stage and len(set(spans.values())) > 1 and alphas is None and None in (low, high):
        raise TuneError(
            f"the penalties of {recipe.method} have different units: use per_stage, or low and high"
        )
    if not per_stage:
        spans = {"alpha": next(iter(spans.values()))}
    if alphas is not None:
        values = list(dict.fromkeys(float(alpha) for alpha in alphas))
        if low is not None or high is not None:
            raise TuneError(f"give either alphas or low and high, got {values!r}, {low!r} and {high!r}")
        if not values or any(not math.isfinite(v) or v < 0 for v in values):
            raise TuneError(f"alphas must be finite numbers of at least 0, and at least one, got {values!r}")
        points = list(product(values, repeat=len(spans)))
        ranges = dict.fromkeys(spans, (min(values), max(values)))
        return Plan(recipe, validation, tuple(seeds), ranges, points, len(points), grid=True)
    ranges = {k: (a if low is None else low, b if high is None else high) for k, (a, b) in spans.items()}
    for a, b in ranges.values():
        if not 0 < a < b < math.inf:
            raise TuneError(f"α is searched between low and high, with 0 < low < high, got {a!r} and {b!r}")
    # scipy.stats takes a moment to import, which the other commands are spared.
    from scipy.stats import qmc

    covering = qmc.Halton(len(ranges), scramble=False).random(SPREAD + 1)[1:].tolist()
    pairs = [zip(row, ranges.values(), strict=True) for row in covering]
    points = [tuple(_rounded(a * (b / a) ** u, a, b) for u, (a, b) in pair) for pair in pairs]
    return Plan(recipe, validation, tuple(seeds), ranges, points, trials, grid=False)


def _rounded(value: float, low: float, high: float) -> float:
    # Three digits are more than a search can tell apart, and read well in a recipe.
    return min(max(float(f"{value:.3g}"), low), high)


def format_alpha(alpha: Alpha) -> str:
    """Format α for a text, `0.1, 3` where each stage has its own."""
    return ", ".join(f"{a:g}" for a in (alpha if isinstance(alpha, tuple) else (alpha,)))


def best_alpha(trials: pd.DataFrame, validation: float, seeds: Sequence[int]) -> tuple[Any, str]:
    """Return the row of the highest accuracy, of equal ones of the lower cross-entropy, and a text on the choice.

    `trials` has one row per value: `alpha`, `state` (`"complete"`, `"pruned"` or `"failed"`), `top1` and
    `cross_entropy` (means over the seeds), and `failure` (text of an error).
    """
    complete = trials[trials["state"] == "complete"].drop_duplicates("alpha")
    ranked = complete.sort_values(["top1", "cross_entropy"], ascending=[False, True], kind="stable")
    if ranked.empty:
        failures = (f"{format_alpha(each.alpha)}: {each.failure}" for each in trials.itertuples())
        raise TuneError(f"training failed with every value of α: {'; '.join(failures)}")
    row = next(ranked.itertuples())
    shown = trials if len(trials) <= LISTED else ranked[:3]
    text = ", ".join(
        f"{format_alpha(each.alpha)}: {f'{each.top1:.1f} %' if each.state == 'complete' else each.state}"
        for each in shown.itertuples()
    )
    text = text if shown is trials else f"{len(trials)} values ({text}, …)"
    text = f"best of {text} on {validation:.0%} of the training pictures, held out; "
    text += f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    values = [] if isinstance(row.alpha, tuple) else sorted(set(trials["alpha"]))
    if len(values) > 1 and row.alpha in (values[0], values[-1]):
        text += f"; {row.alpha:g} is the {'smallest' if row.alpha == values[0] else 'largest'} tried"
    return row, text
