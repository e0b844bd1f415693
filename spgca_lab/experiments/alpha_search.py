"""Search α on held-out training images, with Optuna's sampler, pruner and storage."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState

from spgca_lab.experiments.alpha_choice import Alpha, Plan, TuneError, best_alpha, format_alpha, plan_search
from spgca_lab.regularizers.attention import AttentionError
from spgca_lab.runs.fit import fit
from spgca_lab.runs.store import RunStore
from spgca_lab.training.events import Done, Evaluation
from spgca_lab.training.objective import TrainingError
from spgca_lab.training.recipe import Recipe


@dataclass(frozen=True)
class Tuned:
    """The result of a search."""

    alpha: Alpha  # the best value; one per stage where each has its own
    top1: float  # in percent on the held-out images, mean over the seeds
    trials: pd.DataFrame  # the finished ones: `state`, `alpha`, `top1`, `cross_entropy`, `failure`
    recipe: Recipe  # with the best α, for all training images; `alpha_from` records the choice
    study: str


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
    device: str | None = None,
    log: Callable[[str], None] = print,
) -> Tuned:
    """Choose α by its accuracy on a share of the training images that is held out.

    A trial trains the recipe with one α and each of `seeds` into `store`; it counts with the last iterate's top-1, mean
    over the seeds. Optuna's median pruner stops hopeless trials. A value with which training fails counts as tried. The
    same call continues an interrupted search, and its run from the checkpoint.

    The values are `alphas` in this order (with `per_stage` all combinations, one α per stage), or `trials` values
    between `low` and `high`, by default those of `alpha_ranges`: eight cover the range (Halton's sequence, log scale)
    and a tree-structured Parzen estimator proposes the others. α, seed and validation share of `recipe` are ignored.
    `study` names the search in `tune.db` of the store; None derives a name from all that defines the search.

    Raises:
        TuneError: when nothing is to be searched, all values failed, or the study belongs to another search or process.
        TrainingError: when the recipe does not fit the data, whatever α is.
    """
    store = store if isinstance(store, RunStore) else RunStore(store)
    plan = plan_search(recipe, trials, alphas, low, high, per_stage, validation, seeds)
    name = plan.name(study)
    (store.path / "tuned").mkdir(parents=True, exist_ok=True)
    try:
        # One process at a time: a trial that still runs when the lock is free was interrupted.
        with FileLock(store.path / "tuned" / f"{name}.lock", timeout=0):
            opened = _open(store.path / "tune.db", name, plan)
            log(f"study {name}: {len(_finished(opened))} of {plan.trials} trials finished")
            while (count := len(_finished(opened))) < plan.trials:
                # The seed depends on the trial, so that a search in several calls draws the values of one call.
                seed = len(opened.get_trials(deepcopy=False))
                opened.sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=seed)
                trial = opened.ask()
                log(f"trial {count + 1} of {plan.trials}: {_train(opened, trial, plan, store, device)}")
            table = _table(_finished(opened))
    except Timeout:
        raise TuneError(f"another process searches study {name!r}: wait for it, or name another") from None
    best, text = best_alpha(table, validation, seeds)
    chosen = recipe.replace(alpha=best.alpha, validation=0.0, alpha_from=f"{text}; study {name}")
    return Tuned(best.alpha, best.top1, table, chosen, name)


def _open(file: Path, name: str, plan: Plan) -> optuna.Study:
    """Open a study, or make it with the first values in its queue."""
    settings = plan.settings()
    # No trial is pruned before four are complete, nor at its first evaluation, with the first learning rate.
    first = round(settings["iterations"] / settings["evaluations"])
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first + 1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = {"pruner": pruner, "load_if_exists": True, "direction": "maximize"}
    try:
        study = optuna.create_study(study_name=name, storage=f"sqlite:///{file}", **options)
    except Exception as error:
        raise TuneError(f"{str(file)!r} cannot be used as the database of a search: {error}") from error
    there = study.user_attrs.get("settings", settings)
    differ = [f"{k} {there.get(k)!r} there, {v!r} here" for k, v in settings.items() if there.get(k) != v]
    if differ:
        text = f"study {name!r} in {str(file)!r} was made for something else: {'; '.join(differ)}"
        raise TuneError(f"{text}. Choose another name, or leave it out")
    if "settings" not in study.user_attrs:
        for point in plan.points:
            study.enqueue_trial(dict(zip(plan.ranges, point, strict=True)), skip_if_exists=True)
        study.set_user_attr("settings", settings)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        _queue_again(study, trial)
    return study


def _queue_again(study: optuna.Study, trial: Trial | FrozenTrial) -> None:
    ended = study.tell(trial.number, state=TrialState.FAIL)
    if params := ended.params or ended.system_attrs.get("fixed_params"):
        study.enqueue_trial(params)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    # A failed trial counts where its own value was the cause.
    counts = (TrialState.COMPLETE, TrialState.PRUNED)
    return [t for t in study.get_trials(deepcopy=False) if t.state in counts or "failure" in t.user_attrs]


def _train(study: optuna.Study, trial: Trial, plan: Plan, store: RunStore, device: str | None) -> str:
    """Train the runs of a trial, record the result and return it as text."""
    alpha = plan.draw(trial)
    trial.set_user_attr("alpha", alpha)
    recipes, text = plan.recipes(alpha), f"α = {format_alpha(alpha)}: "
    results: list[dict[str, Any]] = []
    try:
        for recipe in recipes:
            with closing(fit(recipe, store, device=device)) as events:
                for event in events:
                    if isinstance(event, Done):
                        results.append(event.result)
                    elif isinstance(event, Evaluation):
                        # As if the trial ended here, with the mean over the seeds so far.
                        mean = (sum(r["top1"] for r in results) + event.top1) / (len(results) + 1)
                        trial.report(mean, len(results) * recipe.iterations + event.step)
                        ends = event.step == recipe.iterations and recipe == recipes[-1]
                        if not ends and trial.should_prune():
                            study.tell(trial, state=TrialState.PRUNED)
                            return f"{text}pruned at {mean:.2f} %"
    except BaseException as error:
        # A run without a probe batch never began: the recipe is the cause, and not α.
        own = isinstance(error, TrainingError | AttentionError)
        if not own or not (store.folder(recipe) / "probe.npz").exists():
            _queue_again(study, trial)
            raise
        trial.set_user_attr("failure", f"{type(error).__name__}: {error}"[:600])
        study.tell(trial, state=TrialState.FAIL)
        return f"{text}failed: {error}"
    top1, nats = (sum(result[key] for result in results) / len(recipes) for key in ("top1", "cross_entropy"))
    trial.set_user_attr("cross_entropy", nats)
    study.tell(trial, top1)
    return f"{text}{top1:.2f} % of the held-out images"


def _table(trials: list[FrozenTrial]) -> pd.DataFrame:
    rows = [{"state": trial.state.name.lower(), "top1": trial.value} | trial.user_attrs for trial in trials]
    table = pd.DataFrame(rows, columns=["state", "alpha", "top1", "cross_entropy", "failure"])
    table["alpha"] = [tuple(alpha) if isinstance(alpha, list) else alpha for alpha in table["alpha"]]
    return table.replace({"state": {"fail": "failed"}})
