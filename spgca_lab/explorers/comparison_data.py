"""Runs in settings that may be compared: one recipe but for the method and its own options, over seeds."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from spgca_lab.experiments import paper
from spgca_lab.explorers.parts import ExplorerError
from spgca_lab.explorers.settings import distinct_names, setting_fields
from spgca_lab.plots.style import method_label
from spgca_lab.runs.store import Run, RunError, RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["Entry", "Setting", "Source", "gather", "paper_datasets", "paper_order", "paper_values"]

Source = RunStore | str | Path | Run | Sequence["RunStore | str | Path | Run"]

# What belongs to a method and not to its setting; the value is how a label spells it.
OPTIONS = {
    "alpha": "α",
    "r": "r",
    "scale": "scale",
    "attention": "attention",
    "attend_through_target": "through target",
}
_OWN = {"method", "method_code", "seed", *OPTIONS}


@dataclass
class Entry:
    """A method with its options in one setting.

    Args:
        key: the method for the one that stands for it, else with the options that differ.
        method: as in the recipe.
        options: α, r, … as in the recipe.
        label: of the method alone.
        detail: the options in which the runs of this method differ, as text.
        runs: by seed.
        top1: by seed, in percent.
        chosen: whether it stands for its method where only one may.
        why: why it was chosen, where there were others.
    """

    key: str
    method: str
    options: dict[str, Any]
    label: str
    detail: str = ""
    runs: dict[int, Run] = field(default_factory=dict)
    top1: dict[int, float] = field(default_factory=dict)
    chosen: bool = True
    why: str = ""

    @property
    def full_label(self) -> str:
        """The label with what tells it apart from others of its method."""
        return f"{self.label} {self.detail}".strip()


@dataclass
class Setting:
    """Runs that differ in nothing but method, its options and seed.

    Args:
        name: that no other setting has.
        recipe: of one of the runs.
        image_size: of the input, in pixels.
        entries: by key; of each method first the chosen one.
        pending: what is not finished, as text with the status.
        again: runs left out because method, options and seed were there already.
    """

    name: str
    recipe: Recipe
    image_size: int | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    again: int = 0

    @property
    def seeds(self) -> list[int]:
        """All seeds of finished runs."""
        return sorted({seed for entry in self.entries.values() for seed in entry.runs})

    def shown(self, apart: bool) -> list[Entry]:
        """One entry a method, or all."""
        return [entry for entry in self.entries.values() if apart or entry.chosen]


def gather(source: Source) -> tuple[dict[str, Setting], list[str]]:
    """The settings of all runs of a store, a folder, or several; and what could not be read.

    Args:
        source: a `RunStore`, a folder of runs or of such folders, a `Run`, or several of these.

    Returns:
        settings by name, those with the most finished runs first; errors of folders that hold no usable recipe.

    Raises:
        ExplorerError: when there is no such folder, or no finished run.

    Example:
        >>> gather("no/such/folder")
        Traceback (most recent call last):
        ...
        spgca_lab.explorers.parts.ExplorerError: there is no folder 'no/such/folder'
    """
    groups: dict[str, list[Run]] = {}
    unreadable: list[str] = []
    for found in _runs(source):
        if isinstance(found, RunError):
            unreadable.append(str(found))
        else:
            shared = setting_fields(found.recipe, _OWN)
            groups.setdefault(json.dumps(shared, sort_keys=True), []).append(found)
    if not groups:
        why = f"; {unreadable[0]}" if unreadable else ""
        raise ExplorerError(f"no run in {_spoken(source)}: train some with lab.fit or `spgca-lab fit`{why}")
    names = distinct_names({key: json.loads(key) for key in groups})
    settings = [_setting(names[key], runs) for key, runs in groups.items()]
    settings = [setting for setting in settings if setting.entries]
    if not settings:
        raise ExplorerError(f"no run in {_spoken(source)} has finished: a comparison needs last iterates")
    settings.sort(key=lambda s: (-sum(len(e.runs) for e in s.entries.values()), _distance(s.recipe), s.name))
    labels = _labels({e.method for s in settings for e in s.entries.values()})
    for setting in settings:
        for entry in setting.entries.values():
            entry.label = labels[entry.method]
    return {setting.name: setting for setting in settings}, unreadable


@lru_cache(maxsize=1)
def paper_datasets() -> dict[str, str]:
    """The paper's five data sets with the model that Tables 4 and 5 report.

    Example:
        >>> paper_datasets()["MIT Indoor 67"]
        'ResNet-50'
    """
    table = paper.table(4)
    return dict(zip(table["dataset"], table["model"], strict=True))


@lru_cache(maxsize=8)
def paper_values(dataset: str) -> dict[str, tuple[float, float]]:
    """Mean and sd of five runs by method, in percent, out of Tables 4, 5 and 7.

    Example:
        >>> paper_values("CUB-200-2011")["spgca"]
        (80.62, 0.08)
    """
    found: dict[str, tuple[float, float]] = {}
    for number in (4, 5, 7):
        table = paper.table(number).rename(columns={"order": "method"})
        for row in table[table["dataset"] == dataset].itertuples():
            # Table 7's "spa->gca" is Table 4's "spgca".
            if row.method != "spa->gca":
                found[str(row.method)] = (float(row.mean), float(row.sd))
    return found


@lru_cache(maxsize=1)
def paper_order() -> dict[str, list[str]]:
    """The methods of Tables 4 and 5 as printed from left to right, and of both with Table 7's other order.

    Example:
        >>> paper_order()["Table 5"]
        ['ast', 'act', 'spa', 'gca']
    """
    columns = {f"Table {n}": list(dict.fromkeys(paper.table(n)["method"])) for n in (4, 5)}
    return columns | {"all": [*columns["Table 4"], *columns["Table 5"], "gca->spa"]}


def _runs(source: Any) -> Iterator[Run | RunError]:
    if isinstance(source, Run):
        yield source
        return
    if isinstance(source, RunStore | str | Path):
        folder = (source.path if isinstance(source, RunStore) else Path(source)).expanduser()
        if not folder.is_dir():
            raise ExplorerError(f"there is no folder {str(folder)!r}")
        deeper = ("recipe.json", "*/recipe.json", "*/*/recipe.json")
        files: list[Path] = next((f for f in (sorted(folder.glob(p)) for p in deeper) if f), [])
        for file in files:
            # One folder whose own class has moved must not hide all the others.
            try:
                yield Run(file.parent)
            except RunError as error:
                yield error
        return
    if not isinstance(source, Iterable):
        raise ExplorerError(f"store must be a RunStore, a folder, or several stores or runs, got {source!r}")
    for part in source:
        yield from _runs(part)


def _distance(recipe: Recipe) -> int:
    order = ("near", "mid", "far")
    return order.index(recipe.preset) if recipe.preset in order else len(order)


def _setting(name: str, runs: Sequence[Run]) -> Setting:
    setting = Setting(name, runs[0].recipe)
    found: dict[str, dict[tuple[Any, ...], Entry]] = {}
    for run in runs:
        recipe, result = run.recipe, run.result
        method = str(recipe.method)
        if result is None:
            setting.pending.append(f"{method_label(method)} seed {recipe.seed} {run.status}")
            continue
        setting.image_size = int(result["image_size"])
        options = {n: getattr(recipe, n) for n in OPTIONS}
        variants = found.setdefault(method, {})
        entry = variants.setdefault(tuple(options.values()), Entry(method, method, options, ""))
        if recipe.seed in entry.runs:
            setting.again += 1
            continue
        entry.runs[recipe.seed] = run
        entry.top1[recipe.seed] = float(result["top1"])
    for entries in found.values():
        for entry in _arranged(list(entries.values()), setting.recipe):
            setting.entries[entry.key] = entry
    return setting


def _arranged(variants: list[Entry], recipe: Recipe) -> list[Entry]:
    """The one that stands for the method first: its defaults, else what has most seeds."""
    plain = Recipe(method=variants[0].method, backbone=recipe.backbone)
    usual = [e for e in variants if all(e.options[n] == getattr(plain, n) for n in OPTIONS)]
    differ = [n for n in OPTIONS if len({str(e.options[n]) for e in variants}) > 1]
    variants.sort(key=lambda e: tuple(_rank(e.options[n]) for n in differ))
    chosen = usual[0] if usual else max(variants, key=lambda e: len(e.runs))
    for entry in variants:
        entry.chosen = entry is chosen
        entry.detail = " ".join(f"{OPTIONS[n]} {_plain(entry.options[n])}" for n in differ)
        if len(variants) > 1 and not entry.chosen:
            entry.key = f"{entry.method} {entry.detail}"
        elif len(variants) > 1:
            entry.why = "its defaults" if usual else "most seeds"
    return [chosen, *(e for e in variants if e is not chosen)]


def _rank(value: Any) -> tuple[Any, ...]:
    numbers = value if isinstance(value, tuple) else (value,)
    return tuple((0, v, "") if isinstance(v, int | float) else (1, 0.0, str(v)) for v in numbers)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_plain, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _labels(methods: Iterable[str]) -> dict[str, str]:
    labels = {method: method_label(method) for method in methods}
    taken = list(labels.values())
    # Two files may each hold a class "Mine".
    return {m: label if taken.count(label) == 1 else m.replace("->", "→") for m, label in labels.items()}


def _spoken(source: Any) -> str:
    if isinstance(source, RunStore):
        return repr(str(source.path))
    if isinstance(source, str | Path):
        return repr(str(source))
    return "what was given"
