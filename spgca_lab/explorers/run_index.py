"""What lies in one or several stores of runs: every file is read once, unfinished runs again and again."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spgca_lab.explorers.method_orders import method_of, reduces
from spgca_lab.explorers.settings import distinct_names, setting_fields
from spgca_lab.plots.style import method_label
from spgca_lab.plots.training import smooth_by_stage, thinned
from spgca_lab.runs.follow import progress
from spgca_lab.runs.store import Run, RunError, RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["Alpha", "Curve", "Entry", "RunIndex", "alpha_of", "setting_names", "setting_of"]

Alpha = float | tuple[float, ...]
# What the grid varies; everything else of a recipe is the setting, within which runs can be compared.
_VARIED = ("method", "alpha", "r", "seed", "method_code")
_STATUSES = ("finished", "running", "paused", "interrupted", "failed", "begun")


@dataclass(frozen=True)
class Entry:
    """One run as the grid knows it.

    Args:
        run: its folder.
        setting: digest of what the grid does not vary.
        method: canonical: `"spa->gca"` is `"spgca"`.
        r: None where the method has none.
        status: as `Run.status`.
        top1: in percent, None before the end.
        seconds: that it took, None before the end.
        percent: how far it is.
        failure: what ended it, or nothing.
        steps: that have a snapshot.
        probe: whether it was kept with its pictures.
    """

    run: Run
    setting: str
    method: str
    alpha: Alpha
    r: int | None
    seed: int
    status: str
    top1: float | None = None
    seconds: float | None = None
    percent: int = 0
    failure: str = ""
    steps: tuple[int, ...] = ()
    probe: bool = False

    @property
    def active(self) -> bool:
        """Whether a process holds it."""
        return self.status in ("running", "paused")


@dataclass(frozen=True)
class Curve:
    """A run over its steps: smoothed cross-entropy in nats, test top-1 in percent, and where stages meet."""

    step: np.ndarray
    loss: np.ndarray
    at: np.ndarray
    top1: np.ndarray
    meets: tuple[tuple[float, str], ...] = ()


class RunIndex:
    """What lies in some stores, read once: a finished run again only when its result changes.

    Args:
        stores: the first that has a run wins, unless another has more of it.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> index = RunIndex([RunStore(data_dir() / "runs")])
        >>> {entry.status for entry in index.entries}
        {'finished'}
    """

    def __init__(self, stores: Sequence[RunStore]):
        self.stores = list(stores)
        self.entries: tuple[Entry, ...] = ()
        self.broken: dict[str, str] = {}
        self.version = 0
        self._known: dict[Path, tuple[Any, Entry]] = {}
        self._curves: dict[Path, tuple[Any, Curve | None]] = {}
        self.refresh()

    @property
    def active(self) -> bool:
        """Whether any run has a process."""
        return any(entry.active for entry in self.entries)

    def refresh(self) -> bool:
        """Look again; whether anything changed."""
        found: list[Entry] = []
        broken: dict[str, str] = {}
        known: dict[Path, tuple[Any, Entry]] = {}
        for store in self.stores:
            for file in sorted(store.path.glob("*/recipe.json")):
                folder = file.parent
                try:
                    known[folder] = self._look(folder)
                except (RunError, OSError) as error:  # a folder of another version must not hide the rest
                    broken[str(folder)] = str(error)
                    continue
                found.append(known[folder][1])
        entries = tuple(_best(found))
        changed = (entries, broken) != (self.entries, self.broken)
        self.entries, self.broken, self._known = entries, broken, known
        self.version += changed
        return changed

    def curve(self, entry: Entry) -> Curve | None:
        """A run's curves; None before its first evaluation or snapshot."""
        folder = entry.run.path
        stamp = (_stamp(folder / "steps.csv"), _stamp(folder / "evaluations.csv"))
        if folder not in self._curves or self._curves[folder][0] != stamp:
            self._curves[folder] = (stamp, _read_curve(entry.run))
        return self._curves[folder][1]

    def _look(self, folder: Path) -> tuple[Any, Entry]:
        stamp = (_stamp(folder / "recipe.json"), _stamp(folder / "result.json"))
        before = self._known.get(folder)
        if before is None or before[0] != stamp:
            return stamp, _entry(Run(folder))
        return before if stamp[1] is not None else (stamp, _entry(before[1].run))


def setting_of(recipe: Recipe) -> str:
    """Digest of all that the grid does not vary."""
    fixed = json.dumps(setting_fields(recipe, _VARIED), sort_keys=True)
    return hashlib.sha256(fixed.encode()).hexdigest()[:8]


def setting_names(entries: Iterable[Entry]) -> dict[str, str]:
    """Settings by digest, in words that tell them apart; the one with most runs first.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> list(setting_names(RunIndex([RunStore(data_dir() / "runs")]).entries).values())
        ['mini → stickers near, 5 a class, 200 steps']
    """
    counts: dict[str, int] = {}
    fields: dict[str, dict[str, Any]] = {}
    for entry in entries:
        counts[entry.setting] = counts.get(entry.setting, 0) + 1
        if entry.setting not in fields:
            fields[entry.setting] = setting_fields(entry.run.recipe, _VARIED)
    names = distinct_names(fields)
    return {key: names[key] for key in sorted(names, key=lambda k: (-counts[k], names[k], k))}


def alpha_of(recipe: Recipe) -> Alpha:
    """α of a recipe; one a stage where stages differ."""
    alpha: Any = recipe.alpha
    return alpha if isinstance(alpha, tuple) else float(alpha)


def _entry(run: Run) -> Entry:
    recipe, status = run.recipe, run.status
    method = method_of(str(recipe.method))
    result = (run.result or {}) if status == "finished" else {}
    percent = 100
    if status != "finished":
        percent = 100 * progress(run.path, recipe.iterations).step // recipe.iterations
    steps = {int(f.stem.rsplit("-", 1)[0]) for f in (run.path / "snapshots").glob("*.npz")}
    return Entry(
        run,
        setting_of(recipe),
        method,
        alpha_of(recipe),
        recipe.r if reduces(method) else None,
        recipe.seed,
        status,
        top1=result.get("top1"),
        seconds=result.get("seconds"),
        percent=percent,
        failure=(run.failure or "") if status == "failed" else "",
        steps=tuple(sorted(steps)),
        probe=(run.path / "probe.npz").exists(),
    )


def _best(entries: Iterable[Entry]) -> list[Entry]:
    """One run of each place: the most complete, where two stores (or two names of one method) have it."""
    chosen: dict[tuple[Any, ...], Entry] = {}
    for entry in entries:
        key = (entry.setting, entry.method, entry.alpha, entry.r, entry.seed)
        if key not in chosen or _rank(entry) < _rank(chosen[key]):
            chosen[key] = entry
    return list(chosen.values())


def _rank(entry: Entry) -> tuple[int, int]:
    return _STATUSES.index(entry.status), -len(entry.steps)


def _stamp(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _read_curve(run: Run) -> Curve | None:
    try:
        steps, evaluations = run.columns("step", "stage", "cross_entropy"), run.evaluations
    except (RunError, OSError):
        return None
    if not len(steps):
        return None
    stage, at = steps["stage"].to_numpy(), steps["step"].to_numpy(dtype=float)
    ends = np.flatnonzero(stage[1:] != stage[:-1])
    meets = tuple((at[i] + 0.5, f"{method_label(stage[i])} → {method_label(stage[i + 1])}") for i in ends)
    keep = thinned(len(at))
    return Curve(
        at[keep],
        smooth_by_stage(steps["cross_entropy"], stage)[keep],
        evaluations["step"].to_numpy(dtype=float),
        evaluations["top1"].to_numpy(dtype=float),
        meets,
    )
