"""Train many runs on a Ray cluster, one Ray task per run, and collect them in one store."""

import io
import json
import logging
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs
import torch

from spgca_lab._files import RunError, make_folder, replace_file
from spgca_lab.runs.fit import fit
from spgca_lab.runs.store import Run, RunBusy, RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["Outcome", "run_on_ray"]

STOP_WITHIN = PATIENCE = 60.0  # seconds: to write a checkpoint, and to wait for the lock of a run folder


@dataclass(frozen=True)
class Outcome:
    """The end of one run: `"finished"`, `"failed"`, or `"held"` where another process trains it in this store."""

    recipe: Recipe
    status: str
    error: str | None = None


def run_on_ray(
    recipes: Iterable[Recipe],
    store: str | Path | RunStore = "runs",
    *,
    address: str | None = None,
    gpus: float = 0.0,
    cpus: float = 1.0,
    memory: float | None = None,
    retries: int = 3,
    threads: int | None = None,
    log: Callable[[str], None] = print,
) -> list[Outcome]:
    """Train on a Ray cluster what the store lacks, and return one outcome per recipe when all runs have ended.

    The nodes need this package and, at the same path, a data set that is a folder; they share no file system with this
    machine. A run trains in the user's cache folder on its node, and the finished folder comes back into the store. Ray
    starts a run again whose process or node is lost: from its checkpoint where the cache folder has one, else from the
    start, to the same numbers on CPUs of one kind. An error of the training is recorded and not tried again. Ctrl-C
    stops all runs with checkpoints; the same call continues. Impossible resources are a ValueError.

    Args:
        recipes: the recipes to train; a class of your own must be in a file, at the same path on the nodes.
        store: folder of runs on this machine.
        address: address of the cluster, or `"auto"`; None starts a Ray on this machine alone, if none is connected.
        gpus: GPUs per run.
        cpus: CPUs per run.
        memory: bytes per run, by which Ray places runs; None leaves it open.
        retries: how often Ray starts a lost run again.
        threads: CPU threads per run; None takes as many as it has CPUs.
        log: function that takes one line of text per run that ended.
    """
    store = store if isinstance(store, RunStore) else RunStore(store)
    outcomes: dict[Recipe, Any] = {recipe: _present(store, recipe) for recipe in recipes}
    if not (left := [recipe for recipe, outcome in outcomes.items() if outcome is None]):
        return list(outcomes.values())
    # A checkout that is not installed is found by its path.
    root = str(Path(__file__).resolve().parents[2])
    arguments = ("cuda" if gpus else "cpu", threads or max(1, int(cpus)), str(Path.cwd()))

    def train(recipe: dict[str, Any]) -> bytes:
        if root not in sys.path and Path(root).is_dir():
            sys.path.append(root)
        from spgca_lab.experiments.cluster import train_packed

        return train_packed(recipe, *arguments)

    ray, connected_here = _connect(address)
    waiting: list[Any] = []
    try:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, memory=memory and int(memory), max_retries=retries)(
            train
        )
        _check_nodes(ray.nodes(), {"CPU": cpus, "GPU": gpus, "memory": memory or 0}, address is None, log)
        refs = {task.remote(recipe.to_dict()): recipe for recipe in left}
        waiting = list(refs)
        while waiting:
            (ref, *_), waiting = ray.wait(waiting)
            outcome = outcomes[refs[ref]] = _collect(ray, ref, refs[ref], store)
            text = f"{store.folder(refs[ref]).name}: {outcome.status} {outcome.error or ''}".rstrip()
            log(f"{len(left) - len(waiting)}/{len(left)} {text}")
    except KeyboardInterrupt:
        log("stopping, with checkpoints …")
        # The waiting runs first, so that none of them starts in the place of one that ends.
        for ref in reversed(waiting):
            ray.cancel(ref)
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=STOP_WITHIN)
        raise
    finally:
        if connected_here:
            ray.shutdown()
    return list(outcomes.values())


def train_packed(fields: dict[str, Any], device: str, threads: int, cwd: str) -> bytes:
    """Train a recipe in this user's cache folder and return the finished run folder as a tar archive."""
    os.chdir(cwd if Path(cwd).is_dir() else ".")
    torch.set_num_threads(threads)
    recipe, store = Recipe.from_dict(fields), RunStore(platformdirs.user_cache_path("spgca-lab") / "ray")
    until = time.monotonic() + PATIENCE
    while not (store.folder(recipe) / "result.json").exists():
        try:
            for _ in fit(recipe, store, device=device):
                pass
        except RunBusy:
            # The process of a lost node may live for a moment.
            if time.monotonic() > until:
                raise
            time.sleep(1)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(store.folder(recipe), arcname="run")
    shutil.rmtree(store.folder(recipe), ignore_errors=True)
    return packed.getvalue()


def unpack(packed: bytes, recipe: Recipe, store: RunStore) -> None:
    """Put a finished run into the store in one move; raise where the archive is not this recipe's finished run."""
    make_folder(store.path)
    name = store.folder(recipe).name
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=store.path) as scratch:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(scratch, filter="data")
        run = Run(Path(scratch) / "run")
        if run.recipe.hash() != recipe.hash() or run.result is None:
            raise RunError(f"{name!r} came back as another run, or unfinished: update spgca_lab on the nodes")
        shutil.rmtree(store.path / name, ignore_errors=True)
        run.path.rename(store.path / name)


def _present(store: RunStore, recipe: Recipe) -> Outcome | None:
    folder = store.folder(recipe)
    status = Run(folder).status if (folder / "recipe.json").exists() else None
    if status in ("running", "paused"):
        return Outcome(recipe, "held", f"another process trains it in {str(store.path)!r}")
    return Outcome(recipe, "finished") if status == "finished" else None


def _collect(ray: Any, ref: Any, recipe: Recipe, store: RunStore) -> Outcome:
    try:
        packed = ray.get(ref)
        if _present(store, recipe) is None:
            unpack(packed, recipe, store)
    except (ray.exceptions.RayError, RunError, tarfile.TarError) as error:
        cause = getattr(error, "cause", error)
        # Ray's own messages go on with advice and addresses.
        message = str(cause).strip().split("\n" if isinstance(cause, ray.exceptions.RayError) else "\0")[0]
        outcome = Outcome(recipe, "failed", f"{type(cause).__name__}: {message}")
        if _present(store, recipe) is None and not isinstance(cause, RunBusy):
            make_folder(folder := store.folder(recipe))
            replace_file(folder / "recipe.json", recipe.to_json().encode())
            replace_file(folder / "failure.json", json.dumps({"error": outcome.error}).encode())
            return outcome
        return _present(store, recipe) or replace(outcome, status="held")
    return _present(store, recipe) or Outcome(recipe, "finished")


def _check_nodes(nodes: list[Any], needs: dict[str, float], alone: bool, log: Callable[[str], None]) -> None:
    # Where no node has what a run needs, Ray would wait in silence.
    have = [{kind: node["Resources"].get(kind, 0) for kind in needs} for node in nodes if node["Alive"]]
    if not any(all(node[kind] >= needs[kind] for kind in needs) for node in have):
        text = f"a run needs {json.dumps(needs)}"
        if alone:
            raise ValueError(f"{text}, but this machine has {json.dumps(have[0])}")
        log(f"{text}, which no node of the cluster has: waiting for one")


def _connect(address: str | None) -> tuple[Any, bool]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A Ray on this machine alone listens on the loopback only; Ray reads the switch when it is imported.
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError('a grid on a cluster needs Ray: pip install "spgca-lab[cluster]"') from error
    if connects := not ray.is_initialized():
        # "local", because None would look for the address of a cluster in the environment.
        ray.init(
            address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    return ray, connects
