"""The runs of some folders as one pandas table. Every file is read once; only unfinished runs are read again."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spgca_lab.explorers.controls import ExplorerError
from spgca_lab.explorers.method_orders import method_of, uses_reduction
from spgca_lab.plots.style import method_label
from spgca_lab.plots.training import smooth_by_stage, thinned
from spgca_lab.runs.follow import progress
from spgca_lab.runs.store import Run, RunError, RunStore
from spgca_lab.training.recipe import Recipe

Alpha = float | tuple[float, ...]
Source = RunStore | str | Path | Run | Sequence["RunStore | str | Path | Run"]
ACTIVE = ("running", "paused")
STATUSES = ("finished", *ACTIVE, "interrupted", "failed", "begun")  # the most complete first
# Options of a method, with the symbol of each in a label.
OPTIONS = {"alpha": "α", "r": "r", "scale": "scale", "attention": "attention"}
OPTIONS |= {"attend_through_target": "through target"}
# Fields that vary within a setting; runs of one setting agree in all others and can be compared.
GRID = ("method", "method_code", "alpha", "r", "seed")
# These fields change no number of a run.
NEUTRAL = frozenset({"evaluations", "snapshots", "probe", "alpha_from"})
COLUMNS = (
    "run",
    "setting",  # digest of the fields that do not vary
    "method",  # canonical: "spgca" for "spa->gca"
    "options",  # values of OPTIONS
    "alpha",
    "r",  # 0 for a method without r
    "seed",
    "status",
    "top1",  # in percent, None before the end
    "seconds",  # duration, None before the end
    "percent",  # share of the steps that are done
    "failure",
    "steps",  # that have a snapshot
    "probe",  # True if the probe images were saved
)


@dataclass(frozen=True)
class Curve:
    """A run over its steps: smoothed cross-entropy in nats, test top-1 in percent, and the stages' borders."""

    step: np.ndarray
    loss: np.ndarray
    at: np.ndarray
    top1: np.ndarray
    meets: tuple[tuple[float, str], ...] = ()


class RunTable:
    """The runs of some folders, one per row of `frame`, with the columns of `COLUMNS`.

    Of several runs with equal setting, method, options and seed only the most complete one is listed.

    Args:
        source: a `RunStore`, a folder of runs or of such folders, a `Run`, or several of these.
        varied: fields of a recipe that differ within a setting.
        must_exist: raise `ExplorerError` if a folder of the source does not exist.
    """

    def __init__(self, source: Source, varied: Iterable[str] = GRID, *, must_exist: bool = False):
        self.source, self.varied, self.must_exist = source, frozenset(varied), must_exist
        self.frame = pd.DataFrame(columns=COLUMNS, dtype=object)
        self.unreadable: dict[str, str] = {}
        self.duplicates: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._known: dict[Path, tuple[Any, dict[str, Any]]] = {}
        self._curves: dict[Path, tuple[Any, Curve | None]] = {}
        self.refresh()

    @property
    def active(self) -> bool:
        """True while a process trains one of the runs."""
        return bool(self.frame["status"].isin(ACTIVE).any())

    def refresh(self) -> bool:
        """Read what is new, and return True if anything changed."""
        rows: list[dict[str, Any]] = []
        unreadable: dict[str, str] = {}
        for folder in _run_folders(self.source, self.must_exist):
            try:
                rows.append(self._read(folder))
            except (RunError, OSError) as error:  # one folder of another version must not hide the others
                unreadable[str(folder)] = str(error)
        changed = (rows, unreadable) != (self._rows, self.unreadable)
        self._rows, self.unreadable = rows, unreadable
        if changed:
            self._fill(rows)
        return changed

    def require_runs(self) -> None:
        """Raise `ExplorerError` if no run was found."""
        if self.frame.empty:
            where, why = source_text(self.source), "".join(f"; {e}" for e in self.unreadable.values())
            raise ExplorerError(f"no run in {where}: train some with lab.fit or `spgca-lab fit`{why}")

    def curve(self, run: Run) -> Curve | None:
        """Return a run's curves, or None before its first step is written."""
        stamp = (_stamp(run.path / "steps.csv"), _stamp(run.path / "evaluations.csv"))
        if run.path not in self._curves or self._curves[run.path][0] != stamp:
            self._curves[run.path] = (stamp, _read_curve(run))
        return self._curves[run.path][1]

    def _fill(self, rows: Sequence[Mapping[str, Any]]) -> None:
        # Object columns keep Python's own numbers, tuples and None.
        frame = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
        order = pd.DataFrame(
            {"status": frame["status"].map(STATUSES.index), "saved": -frame["steps"].map(len)}
        )
        best = frame.loc[order.sort_values(["status", "saved"], kind="stable").index]
        best = best.drop_duplicates(["setting", "method", "options", "seed"]).sort_index()
        left_out = frame.drop(best.index)
        self.duplicates = left_out[left_out["status"] == "finished"].groupby("setting").size().to_dict()
        self.frame = best.reset_index(drop=True)

    def _read(self, folder: Path) -> dict[str, Any]:
        stamp = (_stamp(folder / "recipe.json"), _stamp(folder / "result.json"))
        before, row = self._known.get(folder, (None, None))
        if row is None or before != stamp or stamp[1] is None:
            same = row is not None and before is not None and before[0] == stamp[0]
            row = self._row(row["run"] if same and row else Run(folder))
            self._known[folder] = stamp, row
        return row

    def _row(self, run: Run) -> dict[str, Any]:
        recipe, status = run.recipe, run.status
        result = (run.result or {}) if status == "finished" else {}
        done = recipe.iterations if status == "finished" else progress(run.path, recipe.iterations).step
        options = method_options(recipe)
        steps = {int(f.stem.rsplit("-", 1)[0]) for f in (run.path / "snapshots").glob("*.npz")}
        fixed = json.dumps(_setting_fields(recipe, self.varied), sort_keys=True)
        return {
            "run": run,
            "setting": hashlib.sha256(fixed.encode()).hexdigest()[:8],
            "method": method_of(str(recipe.method)),
            "options": tuple(options.values()),
            "alpha": options["alpha"],
            "r": options["r"],
            "seed": recipe.seed,
            "status": status,
            "top1": result.get("top1"),
            "seconds": result.get("seconds"),
            "percent": 100 * done // recipe.iterations,
            "failure": (run.failure or "") if status == "failed" else "",
            "steps": tuple(sorted(steps)),
            "probe": (run.path / "probe.npz").exists(),
        }


def method_options(recipe: Recipe) -> dict[str, Any]:
    """Return the values of `OPTIONS` in a recipe; α is a number, or one number per stage, and r may be 0."""
    options = {name: getattr(recipe, name) for name in OPTIONS}
    if not isinstance(recipe.alpha, tuple):
        options["alpha"] = float(options["alpha"])
    if not uses_reduction(str(recipe.method)):
        options["r"] = 0
    return options


def setting_names(frame: pd.DataFrame, varied: Iterable[str] = GRID) -> dict[str, str]:
    """Return the settings of a table's rows by digest, with distinct names; the one with most runs first."""
    runs = frame.groupby("setting")["run"].agg(["first", "size"])
    fields = {key: _setting_fields(run.recipe, varied) for key, run in runs["first"].items()}
    short, names = {key: _short_name(run.recipe) for key, run in runs["first"].items()}, {}
    for key, own in fields.items():
        alike = [fields[other] for other in short if short[other] == short[key]]
        differ = [n for n, value in own.items() if any(other[n] != value for other in alike)]
        names[key] = ", ".join([short[key], *(f"{n} {value_text(own[n])}" for n in differ)])
    presets = {"near": 0, "mid": 1, "far": 2}

    def rank(key: str) -> tuple[Any, ...]:
        return -runs["size"][key], presets.get(runs["first"][key].recipe.preset, 3), names[key], key

    return {key: names[key] for key in sorted(names, key=rank)}


def value_text(value: Any) -> str:
    """Return a recipe's value as a label writes it."""
    if isinstance(value, list | tuple):
        return "/".join(map(value_text, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _setting_fields(recipe: Recipe, varied: Iterable[str]) -> dict[str, Any]:
    left_out = NEUTRAL | set(varied)
    return {name: value for name, value in recipe.to_dict().items() if name not in left_out}


def _short_name(recipe: Recipe) -> str:
    data = str(recipe.dataset)
    where = f"stickers {recipe.preset}" if data == "stickers" else Path(data).name or data
    random = " (random weights)" if recipe.weights == "random" else ""
    few = f", {recipe.per_class} a class" if recipe.per_class is not None else ""
    measured = f", measured on {recipe.validation:.0%} held out" if recipe.validation else ""
    return f"{recipe.backbone}{random} → {where}{few}, {recipe.iterations} steps{measured}"


def _run_folders(source: Any, must_exist: bool) -> Iterator[Path]:
    if isinstance(source, Run):
        yield source.path
    elif isinstance(source, RunStore | str | Path):
        folder = (source.path if isinstance(source, RunStore) else Path(source)).expanduser()
        if must_exist and not folder.is_dir():
            raise ExplorerError(f"there is no folder {str(folder)!r}")
        for pattern in ("recipe.json", "*/recipe.json", "*/*/recipe.json"):
            if files := sorted(folder.glob(pattern)):
                yield from (file.parent for file in files)
                return
    elif isinstance(source, Iterable):
        for part in source:
            yield from _run_folders(part, must_exist)
    else:
        raise ExplorerError(f"store must be a RunStore, a folder, or several stores or runs, got {source!r}")


def source_text(source: Any) -> str:
    """Return a source as an error message quotes it."""
    if isinstance(source, RunStore | Run | str | Path):
        return repr(str(getattr(source, "path", source)))
    return " or ".join(map(source_text, source)) or "what was given"


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
    chosen = thinned(len(at))
    return Curve(
        at[chosen],
        smooth_by_stage(steps["cross_entropy"], stage)[chosen],
        evaluations["step"].to_numpy(dtype=float),
        evaluations["top1"].to_numpy(dtype=float),
        meets,
    )
