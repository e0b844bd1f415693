"""Train the runs of a grid that a store lacks: in processes of this machine, or on a Ray cluster."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from spgca_lab.data.install import files_root
from spgca_lab.data.published import PUBLISHED
from spgca_lab.experiments.grid import Grid
from spgca_lab.runs.background import RunHandle, launch_all
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["require_datasets", "train_missing"]

POLL = 0.5


def require_datasets(grid: Grid) -> None:
    """Raise before anything is trained where a data set of the grid is missing."""
    for dataset in dict.fromkeys(cell.dataset for cell in grid.cells):
        if dataset in PUBLISHED:
            files_root(dataset)
        elif dataset != "stickers" and not Path(dataset).expanduser().is_dir():
            raise FileNotFoundError(
                f"{dataset!r} is neither a data set's name nor a folder; names: stickers, {', '.join(PUBLISHED)}"
            )


def train_missing(
    recipes: Iterable[Recipe],
    store: RunStore,
    *,
    ray: str | None = None,
    dry_run: bool = False,
    devices: Sequence[str] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    retries: int = 2,
    gpus: float = 1.0,
    cpus: float = 4.0,
    memory: float | None = None,
) -> int:
    """Train the recipes without a finished run in the store, report each, and return the number of failed ones.

    Args:
        recipes: what to train; one that is given twice is trained once.
        store: folder of runs.
        ray: address of a Ray cluster, or `"local"`; None trains in background processes of this machine.
        dry_run: only count the runs.
        devices: devices of this machine, one per worker; `["all"]` for every GPU, None for one GPU if there is one.
        workers: runs at a time on this machine; None for one per device.
        threads: CPU threads per run; None shares the CPUs evenly.
        retries: restarts of a run whose process or node was lost.
        gpus: GPUs per run on Ray.
        cpus: CPUs per run on Ray.
        memory: GiB of memory per run on Ray.
    """
    recipes = list(dict.fromkeys(recipes))
    left = [recipe for recipe in recipes if not (store.folder(recipe) / "result.json").exists()]
    finished = len(recipes) - len(left)
    print(f"  {len(recipes)} runs, {finished} of them finished in {str(store.path)!r}", flush=True)
    if dry_run or not left:
        return 0
    if ray is None:
        return _train_here(left, store, devices, workers, threads, retries)
    from spgca_lab.experiments.cluster import run_on_ray

    outcomes = run_on_ray(
        left,
        store,
        address=None if ray == "local" else ray,
        gpus=gpus,
        cpus=cpus,
        memory=memory and int(memory * 2**30),
        retries=retries,
        threads=threads,
    )
    return sum(outcome.status != "finished" for outcome in outcomes)


def _train_here(
    recipes: Sequence[Recipe],
    store: RunStore,
    devices: Sequence[str] | None,
    workers: int | None,
    threads: int | None,
    retries: int,
) -> int:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices is not None and list(devices) == ["all"]:
        if not gpus:
            raise ValueError("--devices all: PyTorch sees no GPU here; leave it out to train on the CPU")
        devices = [f"cuda:{i}" for i in range(gpus)]
    devices = devices or (["cuda:0"] if gpus else None)
    workers = workers or len(devices or "1")
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    queue = launch_all(recipes, store, workers=workers, device=devices, threads=threads, retries=retries)
    left, done = list(queue.handles), False
    try:
        while not done:
            done = queue.wait(POLL)
            for handle in [each for each in left if done or each.status in ("finished", "failed")]:
                left.remove(handle)
                print(f"  {len(recipes) - len(left)}/{len(recipes)} {_outcome(handle)}", flush=True)
    except KeyboardInterrupt:
        print("stopping, with checkpoints …", flush=True)
        queue.stop()
        raise
    return sum(handle.status != "finished" for handle in queue.handles)


def _outcome(handle: RunHandle) -> str:
    recipe, result = handle.recipe, handle.run.result
    what = (
        f"{recipe.method} on {recipe.dataset}, α = {recipe.alphas[0]:g}, r = {recipe.r}, seed {recipe.seed}"
    )
    if result is None:
        return f"{what}: {handle.status}: {(handle.failure or 'no reason given').splitlines()[0]}"
    on = "held-out images" if recipe.validation else "test images"
    return f"{what}: {result['top1']:.2f} % of the {on} in {result['seconds']:.0f} s"
