"""MethodComparison: the methods side by side as in Tables 4 and 5, and the pictures on which two of them disagree."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import ipywidgets as widgets
import numpy as np

from spgca_lab.analysis.statistics import (
    AnswersCompared,
    MeanInterval,
    compare_answers,
    mean_interval,
    paired_difference,
)
from spgca_lab.data import ImageSet, center_crop
from spgca_lab.explorers.base import Explorer, State
from spgca_lab.explorers.comparison_data import (
    Entry,
    Setting,
    Source,
    gather,
    paper_datasets,
    paper_order,
    paper_values,
)
from spgca_lab.explorers.comparison_table import method_table
from spgca_lab.explorers.parts import need_index, need_one_of, offer, picker, row, slider
from spgca_lab.plots.panels.comparison import (
    COMPARISON_HEIGHT,
    PAGE,
    Disagreement,
    DividedPicture,
    MethodRow,
    comparison_panel,
)
from spgca_lab.plots.style import LabFigure, method_colour, method_label
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.runs.fit import load_data
from spgca_lab.runs.store import RunError

__all__ = ["MethodComparison", "MethodComparisonState"]

TABLES = ("Table 4", "Table 5", "all")
SORTS = ("paper's order", "ours", "paper's", "difference", "name")
VARIANTS = ("one a method", "all apart")
USUAL_BASELINES = ("uniform", "l2")


@dataclass(frozen=True)
class MethodComparisonState(State):
    """What is compared, in which order, and whose answers are laid side by side.

    `table` is `"Table 4"`, `"Table 5"` or `"all"`; `setting` a name of `MethodComparison.settings`; `paper` one of
    the paper's data sets; `variants` is `"one a method"` or `"all apart"` (every α and r a row of its own).
    `baseline`, `a` and `b` are methods, or keys of `Setting.entries`; `page` counts from 1. Empty values are chosen.
    """

    table: str = "Table 4"
    setting: str = ""
    baseline: str = ""
    sort: str = "paper's order"
    paper: str = "Stanford Dogs 120"
    variants: str = "one a method"
    a: str = ""
    b: str = ""
    seed: int | None = None
    page: int = 1


@dataclass(frozen=True)
class _Answers:
    """Classes by test picture, and how two methods' answers compare."""

    labels: np.ndarray
    a: np.ndarray
    b: np.ndarray
    compared: AnswersCompared

    def divided(self) -> np.ndarray:
        """The pictures with two answers: first those that a knows, then b, then those that neither does."""
        apart = np.flatnonzero(self.a != self.b)
        rank = np.where(self.a == self.labels, 0, np.where(self.b == self.labels, 1, 2))
        return apart[np.argsort(rank[apart], kind="stable")]


class MethodComparison(Explorer[MethodComparisonState]):
    """Methods side by side: ours over seeds, the paper's, paired differences, and what two of them disagree on.

    Runs that share everything but the method, its options (α, r, scale, attention) and the seed make a setting;
    only runs of one setting are compared. A method that was trained with several α or r stands with its defaults,
    else with what has most seeds; the line above the picture says so.

    Args:
        store: a `RunStore`, a folder of runs, or several stores, folders or runs.
        state: what to show first.

    Raises:
        ExplorerError: when there is no finished run, or the state does not exist.

    Example:
        >>> from spgca_lab import data_dir
        >>> compare = MethodComparison(data_dir() / "comparison")
        >>> compare.show(table="Table 5", sort="difference")
        >>> compare.state.sort
        'difference'
    """

    about = "Accuracies of methods beside the paper's, and test pictures that divide two of them"
    details_height = "27em"

    def __init__(self, store: Source, state: MethodComparisonState | None = None):
        self.settings, self.unreadable = gather(store)
        self.answers = lru_cache(maxsize=32)(self._answers)
        self.tests = lru_cache(maxsize=3)(self._tests)
        first = self.settle(state or MethodComparisonState(), set())
        super().__init__(first, COMPARISON_HEIGHT, {"store": store, "state": state})

    def controls(self) -> list[widgets.Widget]:
        """What is compared and how; whose answers are laid side by side."""
        tip = "Runs that share backbone, target, steps and all else but method, α, r and seed"
        self.setting_choice = self.bind(
            picker("setting", list(self.settings), tip=tip, width="400px"), "setting"
        )
        tip = "The paper's Table 4 (whole methods), Table 5 (modules alone), or every method there is"
        self.table_choice = self.bind(picker("table", TABLES, tip=tip, width="160px"), "table")
        tip = "Method that the others are compared with, run by run of the same seed"
        self.baseline_choice = self.bind(picker("baseline", [], tip=tip), "baseline")
        tip = "Order of rows and columns: as printed in Tables 4 and 5, by accuracy, by paired difference, by name"
        self.sort_choice = self.bind(picker("sort by", SORTS, tip=tip, width="200px"), "sort")
        tip = "Data set of Tables 4 and 5 whose values stand beside ours: other pictures and networks"
        self.paper_choice = self.bind(
            picker("paper's data set", list(paper_datasets()), tip=tip, width="280px"), "paper"
        )
        tip = "α of Eq. 6, 11, 12 and r of Table 6: a method's defaults alone, or every α and r in a row of its own"
        self.variants_choice = self.bind(picker("α and r", VARIANTS, tip=tip, width="190px"), "variants")
        tip = "Method {} of the two whose answers f(x, W_T) to the test pictures are compared"
        self.a_choice = self.bind(picker("a", [], tip=tip.format("a")), "a")
        self.b_choice = self.bind(picker("b", [], tip=tip.format("b")), "b")
        tip = "Seed of the two runs whose answers are compared: of head, attention nets, batches and crops"
        self.seed_choice = self.bind(picker("seed", [], tip=tip, width="110px"), "seed")
        tip = "Page of the test pictures on which a and b disagree"
        self.page_slider = self.bind(slider("page", 1, least=1, tip=tip, width="220px", live=True), "page")
        return [
            row(self.setting_choice, self.table_choice, self.baseline_choice),
            row(self.sort_choice, self.paper_choice, self.variants_choice),
            row(self.a_choice, self.b_choice, self.seed_choice, self.page_slider),
        ]

    def sync(self) -> None:
        """The dropdowns offer what the setting has."""
        setting, state = self.settings[self.state.setting], self.state
        apart = state.variants == "all apart"
        named = [(e.full_label if apart else e.label, e.key) for e in setting.shown(apart)]
        seeds = [(str(seed), seed) for seed in setting.seeds]
        for control, options in (
            (self.baseline_choice, named),
            (self.a_choice, named),
            (self.b_choice, named),
            (self.seed_choice, seeds),
        ):
            offer(control, options)
        self.variants_choice.disabled = len(setting.entries) == len(setting.shown(apart=False))
        self.page_slider.max = self.pages(state)
        super().sync()

    def settle(self, state: MethodComparisonState, given: set[str]) -> MethodComparisonState:
        """Choose what is empty, and what the new setting lacks."""
        state = replace(state, setting=state.setting or next(iter(self.settings)))
        setting = self.settings.get(state.setting)
        if setting is None or state.variants not in VARIANTS:
            return state
        keys = [entry.key for entry in setting.shown(state.variants == "all apart")]
        moved = bool(given & {"setting", "variants"})

        def kept(name: str, otherwise: Callable[[], str]) -> str:
            value = getattr(state, name)
            gone = moved and name not in given and value not in keys
            return otherwise() if value == "" or gone else value

        usual = next((m for m in USUAL_BASELINES if m in keys), keys[0])
        state = replace(state, baseline=kept("baseline", lambda: usual))
        state = replace(state, a=kept("a", lambda: "spgca" if "spgca" in keys else keys[-1]))
        others = [k for k in ("l2", state.baseline, *keys) if k in keys and k != state.a]
        state = replace(state, b=kept("b", lambda: others[0] if others else state.a))
        entries = [setting.entries[k] for k in (state.a, state.b) if k in setting.entries]
        shared = [s for s in setting.seeds if all(s in entry.runs for entry in entries)]
        turned = moved or given & {"a", "b"}
        if state.seed is None or (turned and "seed" not in given and state.seed not in shared):
            state = replace(state, seed=(shared or setting.seeds)[0])
        if given & {"setting", "variants", "a", "b", "seed"} and "page" not in given:
            state = replace(state, page=1)
        return state

    def check(self, state: MethodComparisonState) -> None:
        """Everything must exist; that two methods were trained with the seed is not asked."""
        need_one_of("setting", state.setting, list(self.settings))
        for name, known in (("table", TABLES), ("sort", SORTS), ("variants", VARIANTS)):
            need_one_of(name, getattr(state, name), known)
        need_one_of("paper", state.paper, list(paper_datasets()))
        setting = self.settings[state.setting]
        keys = [entry.key for entry in setting.shown(state.variants == "all apart")]
        for name in ("baseline", "a", "b"):
            need_one_of(name, getattr(state, name), keys, f": trained in {state.setting!r}")
        need_one_of("seed", state.seed, setting.seeds)
        need_index("page", state.page, self.pages(state), first=1)

    def rows(self, state: MethodComparisonState | None = None) -> list[MethodRow]:
        """The methods of the table in their order, with ours, the paper's and the paired difference."""
        state = state or self.state
        setting = self.settings[state.setting]
        base, theirs = setting.entries[state.baseline], paper_values(state.paper)
        rows = []
        for entry in self._columns(state):
            here = setting.entries.get(entry.key)
            top1 = here.top1 if here else {}
            own = entry.key == state.baseline
            rows.append(
                MethodRow(
                    key=entry.key,
                    method=entry.method,
                    label=entry.full_label if state.variants == "all apart" else entry.label,
                    colour=method_colour(entry.method),
                    top1=tuple(top1[s] for s in sorted(top1)),
                    ours=mean_interval(list(top1.values())),
                    paper=theirs.get(entry.method),
                    gap=None if own or not top1 else paired_difference(top1, base.top1),
                    baseline=own,
                )
            )
        return _sorted(rows, state.sort)

    def divided(self, state: MethodComparisonState) -> Disagreement:
        """The page of pictures with two answers, or why there is none."""
        names = (self._label(state, state.a), self._label(state, state.b))
        seed, found = int(state.seed or 0), self._found(state)
        if isinstance(found, str):
            return Disagreement(*names, seed, reason=found)
        pages = self.pages(state)
        chosen = found.divided()[(state.page - 1) * PAGE : state.page * PAGE]
        test, reason = self.tests(state.setting), ""
        pictures: list[DividedPicture] = []
        if not len(chosen):
            reason = f"{names[0]} and {names[1]} give the same answer to every test picture."
        elif isinstance(test, str):
            reason = test
        elif len(test) != len(found.labels) or not np.array_equal(test.labels.numpy(), found.labels):
            reason = f"The test pictures of {test.name!r} are no longer those that the runs were tested on."
        else:
            crops = center_crop(test.images[chosen], test.image_size).numpy()
            for i, image in zip(chosen, crops, strict=True):
                truth, a, b = (int(v[i]) for v in (found.labels, found.a, found.b))
                right = "a" if a == truth else "b" if b == truth else "neither"
                pictures.append(
                    DividedPicture(image, test.classes[truth], test.classes[a], test.classes[b], right)
                )
        return Disagreement(*names, seed, found.compared, pictures, state.page, pages, reason)

    def pages(self, state: MethodComparisonState) -> int:
        """Pages of pictures on which a and b disagree."""
        found = self._found(state)
        return 1 if isinstance(found, str) else max(1, math.ceil(found.compared.disagree / PAGE))

    def figure(self, state: MethodComparisonState | None = None) -> LabFigure:
        """Seeds and intervals, the paper's, the differences; pictures that divide a and b."""
        state = state or self.state
        paper = f"{state.paper}, {paper_datasets()[state.paper]}"
        base = mean_interval(list(self._entry(state, state.baseline).top1.values()))
        return comparison_panel(
            self.rows(state), self._label(state, state.baseline), base, paper, self.divided(state)
        )

    def status(self, state: MethodComparisonState) -> str:
        """What runs there are, which of several α stands for a method, and what is missing."""
        setting = self.settings[state.setting]
        shown = setting.shown(apart=False)
        count = sum(len(entry.runs) for entry in setting.entries.values())
        base = mean_interval(list(self._entry(state, state.baseline).top1.values()))
        words = [
            f"{setting.name}: {count} runs of {len(shown)} methods, seeds {', '.join(map(str, setting.seeds))}",
            f"baseline {self._label(state, state.baseline)}: {base.spread()} %, n = {base.n}",
        ]
        if state.variants == "one a method":
            for entry in shown:
                if entry.why:
                    others = sum(e.method == entry.method for e in setting.entries.values()) - 1
                    words.append(
                        f"{entry.label} with {entry.detail} ({entry.why}; {others} others not shown)"
                    )
        missing = [r.label for r in self.rows(state) if not r.top1]
        if missing:
            words.append(f"not trained here: {', '.join(missing)}")
        if setting.pending:
            words.append(f"not finished: {', '.join(setting.pending)}")
        if setting.again:
            words.append(f"{setting.again} runs left out: the same method and seed again")
        if self.unreadable:
            words.append(f"{len(self.unreadable)} folders left out: {self.unreadable[0]}")
        return " · ".join(words)

    def caption(self, state: MethodComparisonState) -> str:
        """How far a is above the baseline, what chance alone would do, and on how much a and b disagree."""
        subject = state.a if state.a != state.baseline else state.b
        entry, base = self._entry(state, subject), self._entry(state, state.baseline)
        name, other = self._label(state, subject), self._label(state, state.baseline)
        gap = paired_difference(entry.top1, base.top1)
        if subject == state.baseline:
            words = f"{name} alone has {mean_interval(list(base.top1.values())):.1f} %"
        elif not gap.n:
            words = f"{name} and {other} share no seed, so there is no paired difference"
        elif gap.n == 1:
            words = f"With one seed, {name} is {_above(gap, other)} (one seed: no interval)"
        else:
            words = f"With {gap.n} seeds, {name} is {_above(gap, other)}"
            known = [r.gap for r in self.rows(state) if r.gap is not None and r.gap.n > 1]
            stands = sum(g.excludes(0.0) for g in known)
            if known:
                words += (
                    f"; of {len(known)} comparisons at 95 %, {stands or 'none'} exclude{'s' * (stands < 2)} zero, and "
                    "one in twenty would by chance alone"
                )
        found = self._found(state)
        if isinstance(found, str):
            return f"{words}."
        a, b, told = self._label(state, state.a), self._label(state, state.b), found.compared
        return f"{words}. With seed {state.seed}, {a} and {b} disagree on {told.disagree} of {told.pictures} pictures."

    def details_html(self, state: MethodComparisonState) -> str:
        """Tables 4 and 5 as printed, with ours above: methods are columns, settings and data sets rows."""
        return method_table(
            self.rows(state),
            self.settings,
            state.setting,
            state.baseline,
            self._label(state, state.baseline),
            state.paper,
        )

    def _entry(self, state: MethodComparisonState, key: str) -> Entry:
        return self.settings[state.setting].entries[key]

    def _label(self, state: MethodComparisonState, key: str) -> str:
        entry = self._entry(state, key)
        return entry.full_label if state.variants == "all apart" else entry.label

    def _columns(self, state: MethodComparisonState) -> list[Entry]:
        """What the table has, trained here or not, in the paper's order and then by name."""
        apart = state.variants == "all apart"
        known: dict[str, Entry] = {}
        for setting in (self.settings[state.setting], *self.settings.values()):
            for entry in setting.shown(apart):
                known.setdefault(entry.key, entry)
        asked = paper_order()[state.table]
        printed = [m for m in asked if m in known or state.table != "all"]
        extra: list[str] = []
        if state.table == "all":
            others = {e.method: e.label for e in known.values() if e.method not in asked}
            extra = sorted(others, key=lambda m: (m not in METHODS, others[m]))
        columns: list[Entry] = []
        for method in [*printed, *extra]:
            same = [entry for entry in known.values() if entry.method == method]
            columns += same or [Entry(method, method, {}, method_label(method))]
        return columns

    def _found(self, state: MethodComparisonState) -> _Answers | str:
        return self.answers(state.setting, state.a, state.b, state.seed)

    def _answers(self, name: str, a: str, b: str, seed: int) -> _Answers | str:
        setting = self.settings[name]
        if a == b:
            return "a and b are the same method: choose two to see where they disagree."
        tables = []
        for key in (a, b):
            entry = setting.entries[key]
            run = entry.runs.get(seed)
            if run is None:
                return f"{entry.full_label} was not trained with seed {seed}."
            try:
                tables.append(run.predictions)
            except RunError as error:
                return f"The answers of {entry.full_label} were not kept: {error}"
        labels = [table["label"].to_numpy() for table in tables]
        if not np.array_equal(*labels):
            return "a and b were tested on different pictures."
        answers = [table["predicted"].to_numpy() for table in tables]
        return _Answers(labels[0], answers[0], answers[1], compare_answers(labels[0], *answers))

    def _tests(self, name: str) -> ImageSet | str:
        setting: Setting = self.settings[name]
        try:
            return load_data(setting.recipe, int(setting.image_size or 0))[1]
        except Exception as error:  # whatever has become of a reader's folder
            return f"The test pictures cannot be loaded: {error}"


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
    # What has no value comes last, in the paper's order.
    return sorted(rows, key=lambda r: -v if not math.isnan(v := value[sort](r)) else math.inf)


def _above(gap: MeanInterval, other: str) -> str:
    size = replace(gap, mean=abs(gap.mean))
    words = f"{size:.1f}" if gap.n > 1 else f"{size.mean:.1f}"
    return f"{words} points {'above' if gap.mean >= 0 else 'below'} {other}"
