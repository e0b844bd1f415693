"""MethodComparison: the methods side by side as in Tables 4 and 5, and the test images on which two disagree."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np

from spgca_lab.analysis import statistics
from spgca_lab.analysis.statistics import MeanInterval, mean_interval, paired_difference
from spgca_lab.data import ImageSet, center_crop
from spgca_lab.explorers import comparison_table as tables
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.comparison_table import Variant, paper_datasets
from spgca_lab.explorers.controls import Control
from spgca_lab.explorers.run_table import RunTable, Source
from spgca_lab.plots.panels import comparison as panel
from spgca_lab.plots.panels.comparison import PAGE, Disagreement, DividedImage, MethodRow
from spgca_lab.plots.style import LabFigure, method_colour, method_label
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.runs.inputs import load_data
from spgca_lab.runs.store import RunError

TABLES = ("Table 4", "Table 5", "all")
SORTS = ("paper's order", "ours", "paper's", "difference", "name")
APART = "all apart"
VARIANTS = ("one per method", APART)
USUAL_BASELINES = ("uniform", "l2")


@dataclass(frozen=True)
class MethodComparisonState(State):
    """The methods compared, their order, and the two whose predictions are compared.

    `table` is `"Table 4"`, `"Table 5"` or `"all"`; `setting` a name of `MethodComparison.settings`; `paper` one of
    the paper's data sets; `variants` is `"one per method"` or `"all apart"` (a row for every α and r). `baseline`, `a`
    and `b` are methods, or keys of `Setting.variants`; `page` counts from 1. Empty values are chosen.
    """

    table: str = "Table 4"
    setting: str = ""
    baseline: str = ""
    sort: str = "paper's order"
    paper: str = "Stanford Dogs 120"
    variants: str = "one per method"
    a: str = ""
    b: str = ""
    seed: int | None = None
    page: int = 1


class _Predictions(NamedTuple):
    """Classes by test image, and how two methods' predictions compare."""

    labels: np.ndarray
    a: np.ndarray
    b: np.ndarray
    compared: statistics.PredictionsCompared

    def divided(self) -> np.ndarray:
        """Return the images with two predictions: those that a has right, then b, then neither."""
        apart = np.flatnonzero(self.a != self.b)
        rank = np.where(self.a == self.labels, 0, np.where(self.b == self.labels, 1, 2))
        return apart[np.argsort(rank[apart], kind="stable")]


class MethodComparison(Explorer[MethodComparisonState]):
    """Methods side by side: ours over seeds, the paper's, paired differences, and images on which two disagree.

    Runs that share everything but the method, its options (α, r, scale, attention) and the seed make a setting; only
    runs of one setting are compared. A method that was trained with several α or r is represented by its defaults,
    else by the variant with most seeds; the line above the figure says so.

    Args:
        store: a `RunStore`, a folder of runs, or several stores, folders or runs.

    Raises:
        ExplorerError: when there is no finished run, or the state does not exist.
    """

    about = "Accuracies of methods beside the paper's, and test images that divide two of them"
    details_height = "27em"
    tips: ClassVar = {
        "setting": "Runs that share backbone, target, steps and all else but method, α, r and seed",
        "table": "The paper's Table 4 (whole methods), Table 5 (modules alone), or every method there is",
        "baseline": "Method that the others are compared with, run by run of the same seed",
        "sort": "Order of rows and columns: as printed in Tables 4 and 5, by accuracy, by paired difference, by name",
        "paper": "Data set of Tables 4 and 5 whose values stand beside ours: other images and networks",
        "variants": "α of Eq. 6, 11, 12 and r of Table 6: a method's defaults alone, or a row for every α and r",
        "a": "Method a of the two whose predictions f(x, W_T) on the test images are compared",
        "b": "Method b of the two whose predictions f(x, W_T) on the test images are compared",
        "seed": "Seed of the two runs whose predictions are compared: of head, attention nets, batches and crops",
        "page": "Page of the test images on which a and b disagree",
    }
    table = (
        {"setting": 400, "table": 160, "baseline": 220},
        {"sort": 200, "paper": 280, "variants": 190},
        {"a": 220, "b": 220, "seed": 110, "page": 220},
    )

    def __init__(self, store: Source, state: MethodComparisonState | None = None):
        table = RunTable(store, tables.VARIED, must_exist=True)
        self.settings, self.unreadable = tables.comparison_settings(table), list(table.unreadable.values())
        self._compared = lru_cache(maxsize=32)(self._compare)
        self._test_set = lru_cache(maxsize=3)(self._load_test_set)
        super().__init__(state or MethodComparisonState(), panel.COMPARISON_HEIGHT)

    def ranges(self, state: MethodComparisonState) -> Iterator[Control]:
        """Yield what can be compared, and how."""
        yield Control("setting", list(self.settings), "choice", default=next(iter(self.settings)))
        setting = self.settings[state.setting]
        yield Control("table", TABLES, "choice")
        yield Control("sort", SORTS, "choice", "sort by")
        yield Control("paper", list(paper_datasets()), "choice", "paper's data set")
        alone = all(variant.chosen for variant in setting.variants.values())
        yield Control("variants", VARIANTS, "choice", "α and r", off=alone)
        named = [(self._label(state, v.key), v.key) for v in setting.shown(state.variants == APART)]
        keys = [key for _, key in named]
        others = [key for key in ("l2", state.baseline, *keys, state.a) if key != state.a] or [state.a]
        for name, likely in (("baseline", USUAL_BASELINES), ("a", ("spgca", keys[-1])), ("b", others)):
            usual = next((key for key in likely if key in keys), keys[0])
            yield Control(name, named, "choice", why=f": trained in {state.setting!r}", default=usual)
        seeds = self._shared_seeds(state) or setting.seeds
        yield Control("seed", [(str(s), s) for s in setting.seeds], "choice", default=seeds[0])
        yield Control("page", range(1, self.pages(state) + 1), default=1)

    def adjust(self, state: MethodComparisonState, given: set[str]) -> MethodComparisonState:
        """Choose a seed that both methods have, and the first page, for another pair of methods."""
        state = super().adjust(state, given)
        if (
            given & {"setting", "variants", "a", "b"}
            and "seed" not in given
            and state.setting in self.settings
        ):
            shared = self._shared_seeds(state)
            if shared and state.seed not in shared:
                state = replace(state, seed=shared[0])
        if given & {"setting", "variants", "a", "b", "seed"} and "page" not in given:
            state = replace(state, page=1)
        return state

    def rows(self, state: MethodComparisonState | None = None) -> list[MethodRow]:
        """Return the methods of the table in their order, with ours, the paper's and the paired difference."""
        state = state or self.state
        setting, theirs = self.settings[state.setting], tables.paper_values(state.paper)
        base, rows = setting.variants[state.baseline], []
        for variant in self._columns(state):
            here, own = setting.variants.get(variant.key), variant.key == state.baseline
            top1 = here.top1 if here else {}
            rows.append(
                MethodRow(
                    variant.key,
                    variant.method,
                    variant.full_label if state.variants == APART else variant.label,
                    method_colour(variant.method),
                    top1=tuple(top1[seed] for seed in sorted(top1)),
                    ours=mean_interval(list(top1.values())),
                    paper=theirs.get(variant.method),
                    gap=None if own or not top1 else paired_difference(top1, base.top1),
                    baseline=own,
                )
            )
        return _sorted(rows, state.sort)

    def divided(self, state: MethodComparisonState) -> Disagreement:
        """Return the page of images with two predictions, or why there is none."""
        names = (self._label(state, state.a), self._label(state, state.b))
        seed, found = int(state.seed or 0), self._found(state)
        if isinstance(found, str):
            return Disagreement(*names, seed, reason=found)
        chosen = found.divided()[(state.page - 1) * PAGE : state.page * PAGE]
        test, reason = self._test_set(state.setting), ""
        shown: list[DividedImage] = []
        if not len(chosen):
            reason = f"{names[0]} and {names[1]} make the same prediction for every test image."
        elif isinstance(test, str):
            reason = test
        elif len(test) != len(found.labels) or not np.array_equal(test.labels.numpy(), found.labels):
            reason = f"The test images of {test.name!r} are no longer those that the runs were tested on."
        else:
            crops = center_crop(test.images[chosen], test.image_size).numpy()
            for i, image in zip(chosen, crops, strict=True):
                truth, a, b = (test.classes[v[i]] for v in (found.labels, found.a, found.b))
                right = "a" if a == truth else "b" if b == truth else "neither"
                shown.append(DividedImage(image, truth, a, b, right))
        return Disagreement(*names, seed, found.compared, shown, state.page, self.pages(state), reason)

    def pages(self, state: MethodComparisonState) -> int:
        """Return the number of pages of images on which a and b disagree."""
        found = self._found(state)
        return 1 if isinstance(found, str) else max(1, math.ceil(found.compared.disagree / PAGE))

    def figure(self, state: MethodComparisonState | None = None) -> LabFigure:
        """Draw seeds and intervals, the paper's values, the differences, and images that divide a and b."""
        state = state or self.state
        dataset = f"{state.paper}, {paper_datasets()[state.paper]}"
        base, label = self._baseline(state), self._label(state, state.baseline)
        return panel.comparison_panel(self.rows(state), label, base, dataset, self.divided(state))

    def status(self, state: MethodComparisonState) -> str:
        """Return the runs, the variant that represents each method, and what is missing."""
        setting, base = self.settings[state.setting], self._baseline(state)
        shown, variants = setting.shown(apart=False), setting.variants.values()
        count, seeds = sum(len(v.runs) for v in variants), ", ".join(map(str, setting.seeds))
        parts = [
            f"{setting.name}: {count} runs of {len(shown)} methods, seeds {seeds}",
            f"baseline {self._label(state, state.baseline)}: {base:.1f} %, n = {base.n}",
        ]
        for variant in shown if state.variants != APART else ():
            if variant.why:
                others = sum(v.method == variant.method for v in variants) - 1
                detail = f"{variant.detail} ({variant.why}; {others} others not shown)"
                parts.append(f"{variant.label} with {detail}")
        if missing := [r.label for r in self.rows(state) if not r.top1]:
            parts.append(f"not trained here: {', '.join(missing)}")
        if setting.pending:
            parts.append(f"not finished: {', '.join(setting.pending)}")
        if setting.again:
            parts.append(f"{setting.again} runs left out: the same method and seed again")
        if self.unreadable:
            parts.append(f"{len(self.unreadable)} folders left out: {self.unreadable[0]}")
        return " · ".join(parts)

    def caption(self, state: MethodComparisonState) -> str:
        """Return the difference of a to the baseline, what chance would give, and how often a and b disagree."""
        variants = self.settings[state.setting].variants
        subject = state.a if state.a != state.baseline else state.b
        name, other = self._label(state, subject), self._label(state, state.baseline)
        gap = paired_difference(variants[subject].top1, variants[state.baseline].top1)
        size = replace(gap, mean=abs(gap.mean))
        points = f"{size.mean:.1f} points" if gap.n == 1 else f"{size:.1f} points"
        above = f"{name} is {points} {'above' if gap.mean >= 0 else 'below'} {other}"
        if subject == state.baseline:
            sentence = f"{name} alone has {self._baseline(state):.1f} %"
        elif not gap.n:
            sentence = f"{name} and {other} share no seed, so there is no paired difference"
        elif gap.n == 1:
            sentence = f"With one seed, {above} (one seed: no interval)"
        else:
            known = [row.gap for row in self.rows(state) if row.gap is not None and row.gap.n > 1]
            count = sum(g.excludes(0.0) for g in known)
            sentence = (
                f"With {gap.n} seeds, {above}; of {len(known)} comparisons at 95 %, {count or 'none'} "
                f"exclude{'s' * (count < 2)} zero, and one in twenty would by chance alone"
            )
        found = self._found(state)
        if isinstance(found, str):
            return f"{sentence}."
        both = f"{self._label(state, state.a)} and {self._label(state, state.b)}"
        share = f"{found.compared.disagree} of {found.compared.pictures} images"
        return f"{sentence}. With seed {state.seed}, {both} disagree on {share}."

    def details_html(self, state: MethodComparisonState) -> str:
        """Return Tables 4 and 5 as printed, with ours above: methods are columns, settings and data sets rows."""
        label = self._label(state, state.baseline)
        rows = self.rows(state)
        return tables.method_table(rows, self.settings, state.setting, state.baseline, label, state.paper)

    def _baseline(self, state: MethodComparisonState) -> MeanInterval:
        return mean_interval(list(self.settings[state.setting].variants[state.baseline].top1.values()))

    def _shared_seeds(self, state: MethodComparisonState) -> list[int]:
        setting = self.settings[state.setting]
        pair = [setting.variants[key] for key in (state.a, state.b) if key in setting.variants]
        return [seed for seed in setting.seeds if all(seed in variant.runs for variant in pair)]

    def _label(self, state: MethodComparisonState, key: str) -> str:
        variant = self.settings[state.setting].variants[key]
        return variant.full_label if state.variants == APART else variant.label

    def _columns(self, state: MethodComparisonState) -> list[Variant]:
        """Return the variants of the table, trained here or not, in the paper's order and then by name."""
        known: dict[str, Variant] = {}
        for setting in (self.settings[state.setting], *self.settings.values()):
            for variant in setting.shown(state.variants == APART):
                known.setdefault(variant.key, variant)
        printed, others = tables.paper_order()[state.table], dict[str, str]()
        if state.table == "all":
            others = {v.method: v.label for v in known.values() if v.method not in printed}
            printed = [method for method in printed if method in known]
        columns: list[Variant] = []
        for method in [*printed, *sorted(others, key=lambda m: (m not in METHODS, others[m]))]:
            same = [variant for variant in known.values() if variant.method == method]
            columns += same or [Variant(method, method, method_label(method), "", {}, {})]
        return columns

    def _found(self, state: MethodComparisonState) -> _Predictions | str:
        return self._compared(state.setting, state.a, state.b, state.seed)

    def _compare(self, name: str, a: str, b: str, seed: int) -> _Predictions | str:
        if a == b:
            return "a and b are the same method: choose two to see where they disagree."
        tables = []
        for key in (a, b):
            variant = self.settings[name].variants[key]
            run = variant.runs.get(seed)
            if run is None:
                return f"{variant.full_label} was not trained with seed {seed}."
            try:
                tables.append(run.predictions)
            except RunError as error:
                return f"The predictions of {variant.full_label} were not saved: {error}"
        labels = [table["label"].to_numpy() for table in tables]
        if not np.array_equal(*labels):
            return "a and b were tested on different images."
        of_a, of_b = (table["predicted"].to_numpy() for table in tables)
        return _Predictions(labels[0], of_a, of_b, statistics.compare_predictions(labels[0], of_a, of_b))

    def _load_test_set(self, name: str) -> ImageSet | str:
        run = self.settings[name].run
        try:
            return load_data(run.recipe, int((run.result or {})["image_size"]))[1]
        except Exception as error:  # a reader's folder may have changed in any way
            return f"The test images cannot be loaded: {error}"


def _sorted(rows: Sequence[MethodRow], sort: str) -> list[MethodRow]:
    if sort == "name":
        return sorted(rows, key=lambda r: r.label.casefold())
    value: dict[str, Callable[[MethodRow], float]] = {
        "ours": lambda r: r.ours.mean,
        "paper's": lambda r: r.paper[0] if r.paper else math.nan,
        "difference": lambda r: 0.0 if r.baseline else r.gap.mean if r.gap else math.nan,
    }
    if sort not in value:
        return list(rows)
    # Rows without a value come last, in the paper's order.
    return sorted(rows, key=lambda r: -v if not math.isnan(v := value[sort](r)) else math.inf)
