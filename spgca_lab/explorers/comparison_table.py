"""Methods side by side: our runs by setting and method, the paper's values, and both as one HTML table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from spgca_lab.analysis.statistics import mean_interval, paired_difference
from spgca_lab.experiments import paper
from spgca_lab.explorers import run_table
from spgca_lab.explorers.controls import ExplorerError, paragraph_html, table_html
from spgca_lab.plots.panels.comparison import MethodRow
from spgca_lab.plots.style import method_label
from spgca_lab.runs.store import Run
from spgca_lab.training.recipe import Recipe

VARIED = (*run_table.GRID, *run_table.OPTIONS)
OURS = "Ours: mean top-1 in % of the last iterate over seeds, below it the paired difference, both ± 95 % interval"
PAPER = (
    "The paper's: mean (sd) of five runs on other images with other networks. "
    "The order can be compared, the level cannot."
)
INTERVALS = (
    "The interval and McNemar's p over test images describe the chance of drawing other images, for two given "
    "runs; the chance of another seed is in the intervals over seeds alone."
)


@dataclass
class Variant:
    """A method with one choice of its options in one setting."""

    key: str  # the method's name for the variant that represents it, else the name with the differing options
    method: str
    label: str  # of the method
    detail: str  # the options in which the variants of the method differ
    runs: dict[int, Run]  # finished, by seed
    top1: dict[int, float]  # in percent, by seed
    chosen: bool = True  # represents the method where only one variant may
    why: str = ""  # reason of that choice

    @property
    def full_label(self) -> str:
        """The label with the options that tell it apart."""
        return f"{self.label} {self.detail}".strip()


@dataclass
class Setting:
    """Runs that differ in nothing but method, its options and seed."""

    name: str  # that no other setting has
    run: Run  # one of the finished runs
    variants: dict[str, Variant]  # by key; of each method the chosen one first
    pending: list[str]  # unfinished runs with their status
    again: int = 0  # runs left out because method, options and seed occur already

    @property
    def seeds(self) -> list[int]:
        """All seeds of finished runs."""
        return sorted({seed for variant in self.variants.values() for seed in variant.runs})

    def shown(self, apart: bool) -> list[Variant]:
        """Return one variant per method, or all."""
        return [variant for variant in self.variants.values() if apart or variant.chosen]


def comparison_settings(table: run_table.RunTable) -> dict[str, Setting]:
    """Return the settings of all finished runs by name, those with most runs first.

    Raises:
        ExplorerError: when there is no finished run.
    """
    table.require_runs()
    done = table.frame["status"] == "finished"
    finished, others = table.frame[done], table.frame[~done]
    if finished.empty:
        raise ExplorerError(
            f"no run in {run_table.source_text(table.source)} has finished: a comparison needs last iterates"
        )
    labels = _labels(finished["method"].unique())
    settings = {}
    for digest, name in run_table.setting_names(finished, VARIED).items():
        runs = finished[finished["setting"] == digest]
        rest = others[others["setting"] == digest].itertuples()
        pending = [f"{method_label(row.method)} seed {row.seed} {row.status}" for row in rest]
        variants = [v for m, part in runs.groupby("method", sort=False) for v in _variants(part, labels[m])]
        again, by_key = table.duplicates.get(digest, 0), {v.key: v for v in variants}
        settings[name] = Setting(name, runs["run"].iloc[0], by_key, pending, again)
    return settings


@lru_cache(maxsize=1)
def paper_datasets() -> dict[str, str]:
    """Return the paper's five data sets with the model that Tables 4 and 5 report."""
    table = paper.table(4)
    return dict(zip(table["dataset"], table["model"], strict=True))


@lru_cache(maxsize=8)
def paper_values(dataset: str) -> dict[str, tuple[float, float]]:
    """Return mean and sd of five runs by method, in percent, from Tables 4, 5 and 7."""
    tables = [paper.table(number).rename(columns={"order": "method"}) for number in (4, 5, 7)]
    found = pd.concat(tables)
    # Table 7's "spa->gca" is Table 4's "spgca".
    found = found[(found["dataset"] == dataset) & (found["method"] != "spa->gca")]
    return {row.method: (float(row.mean), float(row.sd)) for row in found.itertuples()}


@lru_cache(maxsize=1)
def paper_order() -> dict[str, list[str]]:
    """Return the methods of Tables 4 and 5 as printed from left to right, and all with Table 7's other order."""
    columns = {f"Table {n}": list(dict.fromkeys(paper.table(n)["method"])) for n in (4, 5)}
    return columns | {"all": [*columns["Table 4"], *columns["Table 5"], "gca->spa"]}


def method_table(
    columns: Sequence[MethodRow],
    settings: Mapping[str, Setting],
    chosen: str,
    baseline: str,
    baseline_label: str,
    dataset: str,
) -> str:
    """Return accuracies as HTML, with methods as columns; the chosen setting and data set are bold."""
    rows: list[list[str]] = [[OURS]]
    strong = []
    for setting in settings.values():
        found = [setting.variants.get(column.key) for column in columns]
        counts = {len(v.runs) for v in found if v is not None}
        every = f", n = {min(counts)}" if len(counts) == 1 else " (n)"
        name = f"{setting.name}{every}"
        rows.append([name, *(_ours(v, count=len(counts) > 1) for v in found)])
        strong += [name] * (setting.name == chosen)
        base = setting.variants.get(baseline)
        rows.append([f"− {baseline_label}", *(_gap(v, base) for v in found)])
    rows.append([PAPER])
    for name, model in paper_datasets().items():
        values = [paper_values(name).get(column.method) for column in columns]
        rows.append([f"{name}, {model}", *("{:.2f} ({:.2f})".format(*v) if v else "–" for v in values)])
        strong += [rows[-1][0]] * (name == dataset)
    head = ["", *(c.label + (" (baseline)" if c.baseline else "") for c in columns)]
    return table_html(head, rows, left=1, strong=strong) + paragraph_html(INTERVALS)


def _variants(runs: pd.DataFrame, label: str) -> list[Variant]:
    """Return the variants of one method; the one with default options represents it, else that with most seeds."""
    method, recipe = runs["method"].iloc[0], runs["run"].iloc[0].recipe
    groups = dict(iter(runs.set_index("seed").groupby("options", sort=False)))
    usual = tuple(run_table.method_options(Recipe(method=method, backbone=recipe.backbone)).values())
    differ = [i for i in range(len(usual)) if len({str(options[i]) for options in groups}) > 1]
    ordered = sorted(groups, key=lambda options: tuple(_rank(options[i]) for i in differ))
    chosen = usual if usual in groups else max(ordered, key=lambda options: len(groups[options]))
    why = "" if len(ordered) == 1 else "its defaults" if usual in groups else "most seeds"
    found, symbols = [], list(run_table.OPTIONS.values())
    for options in sorted(ordered, key=lambda options: options != chosen):
        detail = " ".join(f"{symbols[i]} {run_table.value_text(options[i])}" for i in differ)
        part, first = groups[options], options == chosen
        runs_by_seed, top1 = part["run"].to_dict(), part["top1"].astype(float).to_dict()
        key = method if first else f"{method} {detail}"
        found.append(Variant(key, method, label, detail, runs_by_seed, top1, first, why if first else ""))
    return found


def _rank(value: Any) -> tuple[Any, ...]:
    numbers = value if isinstance(value, tuple) else (value,)
    return tuple((0, v, "") if isinstance(v, int | float) else (1, 0.0, str(v)) for v in numbers)


def _labels(methods: Iterable[str]) -> dict[str, str]:
    labels = {method: method_label(method) for method in methods}
    taken = list(labels.values())
    # Two files may each hold a class "Mine".
    return {m: label if taken.count(label) == 1 else m.replace("->", "→") for m, label in labels.items()}


def _ours(variant: Variant | None, *, count: bool) -> str:
    if variant is None:
        return "not trained"
    found = mean_interval(list(variant.top1.values()))
    return (f"{found:.1f}" if found.n > 1 else f"{found.mean:.1f}") + (f" ({found.n})" if count else "")


def _gap(variant: Variant | None, base: Variant | None) -> str:
    if variant is None or base is None:
        return "" if variant is None else "no baseline"
    if variant.key == base.key:
        return "baseline"
    gap = paired_difference(variant.top1, base.top1)
    if gap.n > 1:
        return f"{gap:+.1f}"
    return f"{gap.mean:+.1f}, one seed" if gap.n else "no shared seed"
