"""tune: choose α on pictures held out of the training set; the test pictures play no part."""

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from spgca_lab._files import RunError
from spgca_lab.experiments.alphas import Alpha, AlphaSearch, TuneError, alpha_ranges, in_words
from spgca_lab.experiments.studies import Study, StudyError, open_study, place_of
from spgca_lab.regularizers.attention import AttentionError
from spgca_lab.runs.fit import TrainingError, fit
from spgca_lab.runs.lock import Lease, RunBusy, holder
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.runs.worker import Worker
from spgca_lab.training.events import Done, Evaluation
from spgca_lab.training.recipe import Recipe

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

__all__ = ["StudyError", "TuneError", "Tuned", "alpha_ranges", "tune"]

STARTUP = 4  # complete trials before any is pruned
TOLD = 600  # characters of an error
WAIT = 1.0


@dataclass(frozen=True)
class Tuned:
    """What a search came to.

    Args:
        alpha: the best value; one a stage where each had its own.
        top1: its accuracy in percent on the held-out pictures, mean over the tuning seeds.
        trials: one row a finished trial: `number`, `state` (`"complete"`, `"pruned"`, `"failed"`), `alpha`, `top1` and
            `cross_entropy` (of the pruned: where they were pruned; mean over the seeds), `failure`, `runs` (hashes).
        recipe: with the best α, to be trained on all training pictures; it says in `alpha_from` how α was chosen.
        study: name of the study.
        place: where its database is.
    """

    alpha: Alpha
    top1: float
    trials: pd.DataFrame
    recipe: Recipe
    study: str
    place: str


def tune(
    recipe: Recipe,
    store: str | Path | RunStore = "runs",
    *,
    trials: int = 20,
    alphas: Iterable[float] | None = None,
    low: float | None = None,
    high: float | None = None,
    per_stage: bool = False,
    validation: float = 0.2,
    seeds: Sequence[int] = (0,),
    study: str | None = None,
    storage: str | None = None,
    device: str | None = None,
    log: Callable[[str], None] = print,
) -> Tuned:
    """Choose α by its accuracy on a share of the training pictures that is held out.

    Each trial trains the recipe with one α and each of `seeds`, as `fit` does, into `store`. What counts is the last
    iterate's top-1, mean over the seeds; of equal ones the lower cross-entropy. A trial whose best accuracy so far lies
    below the median of the complete trials at the same evaluation is pruned, and leaves a checkpoint; to this end every
    run is evaluated at least four times, which changes none of its numbers. A value with which training fails, say
    because it diverges, is recorded and counts as tried.

    The same call goes on where the last one ended, until `trials` are finished in all. Any number of processes may make
    it at once, on one machine or, with a `storage` that all reach, on many. A trial whose process died is tried again
    with the same α: at once where it ran on the same machine, else when nothing has been heard of it for two minutes;
    it goes on from its run's checkpoint where that is in the same store.

    Args:
        recipe: what is tuned; its α, its seed and its validation share are not used in the search.
        store: folder of runs.
        trials: how many values are tried; without effect where `alphas` are given.
        alphas: values to try, each once, in this order. By default the first eight are spread evenly over the
            range on a log scale (Halton's sequence) and the others come from a tree-structured Parzen estimator, all
            with three significant digits.
        low: least value; None for that of `alpha_ranges`.
        high: largest value; None likewise.
        per_stage: each stage has its own α; of `alphas` all combinations are tried.
        validation: share of each class's training pictures that is held out.
        seeds: of the runs of each trial.
        study: name; None makes one up from all that defines the search, so that the same call finds it again.
        storage: SQLAlchemy URL of the database; None for SQLite in `tune.db` in the store.
        device: as for `fit`.
        log: takes a line of text a trial.

    Returns:
        The best α, all trials, and the recipe to go on with.

    Raises:
        TuneError: when there is nothing to search, or when every value failed, quoting the last error.
        StudyError: when the database cannot be used, or the study was made for another search, naming what differs.
        TrainingError: when the recipe does not fit the data, whatever α is.

    Source:
        Sec. 4.2 of the paper names a range for α, and not on which pictures it was chosen. Median pruning and the
        sampler are Optuna's.

    Example:
        >>> tuned = tune(Recipe(method="spgca", iterations=200), trials=10)  # doctest: +SKIP
        >>> for event in fit(tuned.recipe):  # doctest: +SKIP
        ...     print(event)
    """
    store = store if isinstance(store, RunStore) else RunStore(store)
    search = AlphaSearch.settle(
        recipe,
        trials=trials,
        alphas=alphas,
        low=low,
        high=high,
        per_stage=per_stage,
        validation=validation,
        seeds=seeds,
    )
    name = _checked_name(study) if study is not None else search.name()
    if storage is None:
        store.path.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{store.path / 'tune.db'}"
    place = place_of(storage)
    with open_study(name, storage, store.path / "tuned" / name, search.settings(), log) as opened:
        opened.optuna.pruner = _pruner()
        log(f"study {name} in {place}: {len(opened.finished)} of {search.wanted} trials finished")
        while (taken := opened.take(search.wanted)) is not None:
            _try(search, store, opened, *taken, device, log)
        finished = opened.finished
    return _choose(search, finished, name, place)


def _try(
    search: AlphaSearch,
    store: RunStore,
    study: Study,
    trial: "Trial",
    place: int,
    device: str | None,
    log: Callable[[str], None],
) -> None:
    from optuna.exceptions import UpdateFinishedTrialError

    ours = False
    with study.alive(trial):
        try:
            alpha = search.alpha(study, trial, place)
            told = f"trial {place + 1} of {search.wanted}: α = {in_words(alpha)}: "
            recipes = [search.with_alpha(alpha, seed) for seed in search.seeds]
            trial.set_user_attr("alpha", alpha)
            trial.set_user_attr("runs", [recipe.hash() for recipe in recipes])
            results: list[dict[str, Any]] = []
            for recipe in recipes:
                try:
                    report = _Reporter(trial, recipe, results, len(recipes))
                    result = _train(recipe, store, device, report, log)
                except (TrainingError, AttentionError) as error:
                    # A run that never began has no probe batch: the recipe is at fault then, and not α.
                    if not (store.folder(recipe) / "probe.npz").exists():
                        raise
                    trial.set_user_attr("failure", f"{type(error).__name__}: {error}"[:TOLD])
                    ours = study.tell(trial, "FAIL")
                    told += f"failed: {error}"
                    break
                if result is None:
                    ours = study.tell(trial, "PRUNED")
                    told += (
                        f"pruned after {report.told} of {len(report.due)} evaluations, at {report.last:.2f} %"
                    )
                    break
                results.append(result)
            else:
                top1, nats = (_mean(r[key] for r in results) for key in ("top1", "cross_entropy"))
                trial.set_user_attr("cross_entropy", nats)
                ours = study.tell(trial, "COMPLETE", top1)
                told += f"{top1:.2f} % of the held-out pictures"
        except UpdateFinishedTrialError:
            ours = False
    log(told if ours else f"trial {place + 1}: another process has taken it for dead and ended it")


class _Reporter:
    """Tells Optuna what each evaluation of a trial came to, under the same number in every trial."""

    def __init__(self, trial: "Trial", recipe: Recipe, before: Sequence[dict[str, Any]], runs: int):
        total, times = recipe.iterations, recipe.evaluations
        self.due = sorted({round((k + 1) * total / times) for k in range(times)})
        self.trial, self.before, self.runs = trial, [r["top1"] for r in before], runs
        self.told, self.last = 0, math.nan

    def __call__(self, step: int, top1: float, folder: Path) -> bool:
        """Report one evaluation, and those before it that were made by a process that is gone; True: prune."""
        at = self.due.index(step)
        if at > self.told:
            self.fill(folder, at)
        self._report(at, top1)
        self.told = at + 1
        last = at + 1 == len(self.due) and len(self.before) + 1 == self.runs
        return not last and self.trial.should_prune()

    def fill(self, folder: Path, end: int | None = None) -> None:
        """Report from the run folder what has not been yet."""
        try:
            table = Run(folder).evaluations
        except RunError:
            return
        known = dict(zip(table["step"].tolist(), table["top1"].tolist(), strict=True))
        for at in range(self.told, len(self.due) if end is None else end):
            if self.due[at] in known:
                self._report(at, known[self.due[at]])

    def _report(self, at: int, top1: float) -> None:
        # As if the trial ended here: the mean over the seeds so far.
        self.last = _mean([*self.before, top1])
        self.trial.report(self.last, len(self.before) * len(self.due) + at)


def _train(
    recipe: Recipe, store: RunStore, device: str | None, report: _Reporter, log: Callable[[str], None]
) -> dict[str, Any] | None:
    """What the run ended with, None where it was pruned."""
    folder = store.folder(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    with _hold(folder, log) as lease, Worker(lease) as worker:
        events = fit(recipe, store=store, device=device, lease=lease)
        with closing(events):
            for event in worker.obey(events):
                if isinstance(event, Evaluation) and report(event.step, event.top1, folder):
                    return None
                if isinstance(event, Done):
                    report.fill(folder)
                    return event.result
    # Stopped by a signal, or by `spgca-lab stop`: the trial stays open, and the next call goes on with it.
    raise KeyboardInterrupt


def _hold(folder: Path, log: Callable[[str], None]) -> Lease:
    """The folder's lease, once whoever trains the same run has ended."""
    waits = False
    while True:
        try:
            return Lease.take(folder, "terminal")
        except RunBusy as error:
            who = holder(folder)
            if who is not None and who.here and who.pid == os.getpid():
                raise
            if not waits:
                log(f"waiting: {error}")
            waits = True
            time.sleep(WAIT)


def _choose(search: AlphaSearch, finished: Sequence["FrozenTrial"], name: str, place: str) -> Tuned:
    rows = [_row(trial) for trial in finished]
    table = pd.DataFrame(rows)
    complete = [row for row in rows if row["state"] == "complete"]
    failed = [row for row in rows if row["state"] == "failed"]
    if not complete:
        raise TuneError(
            f"all {len(failed)} values of α failed in study {name!r} in {place}; the last, "
            f"α = {in_words(failed[-1]['alpha'])}: {failed[-1]['failure']}"
        )

    def rank(row: dict[str, Any]) -> tuple[float, float]:
        nats = row["cross_entropy"]
        return -row["top1"], nats if math.isfinite(nats) else math.inf

    best, *others = sorted(complete, key=rank)
    others = [row for row in others if row["alpha"] != best["alpha"]]
    told = [
        f"best of {len(rows)} {'values' if search.grid is not None else 'trials'} on "
        f"{100 * search.base.validation:g} % of the training pictures, held out",
        f"seed{'s' if len(search.seeds) > 1 else ''} {', '.join(map(str, search.seeds))}",
        f"top-1 there {best['top1']:.2f} %",
    ]
    if others:
        told.append(f"runner-up α = {in_words(others[0]['alpha'])} with {others[0]['top1']:.2f} %")
    for state in ("pruned", "failed"):
        if count := sum(row["state"] == state for row in rows):
            told.append(f"{count} {state}")
    told.append(f"study {name}")
    chosen = search.recipe.replace(alpha=best["alpha"], validation=0.0, alpha_from="; ".join(told))
    return Tuned(best["alpha"], best["top1"], table, chosen, name, place)


def _row(trial: "FrozenTrial") -> dict[str, Any]:
    alpha = trial.user_attrs.get("alpha")
    state = trial.state.name
    return {
        "number": trial.number,
        "state": "failed" if state == "FAIL" else state.lower(),
        "alpha": tuple(alpha) if isinstance(alpha, list) else alpha,
        "top1": trial.value if state != "FAIL" else math.nan,
        "cross_entropy": trial.user_attrs.get("cross_entropy", math.nan),
        "failure": trial.user_attrs.get("failure"),
        "runs": trial.user_attrs.get("runs", []),
    }


def _pruner() -> Any:
    from optuna.pruners import MedianPruner

    # Not at a run's first evaluation: at a quarter of the steps the learning rate is still that of the start.
    return MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1)


def _checked_name(study: str) -> str:
    # It names files, and a folder with a `recipe.json` in it would be taken for a run.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", study) or study == "recipe":
        raise TuneError(
            f"a study's name is of letters, digits, '_', '-' and '.', and not 'recipe', got {study!r}"
        )
    return study


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
