"""Train the grid behind a table of the paper: here, on several GPUs, or on a Ray cluster."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import spgca_lab as lab
from spgca_lab.cli.parse import count, names, numbers, whole_numbers
from spgca_lab.cli.recipes import add_recipe_options, given_fields
from spgca_lab.data import PUBLISHED
from spgca_lab.data.home import files_root
from spgca_lab.experiments.grid import GRIDS, Grid, choose_alphas, expand, search

__all__ = ["add_commands"]

POLL = 0.5


def add_commands(commands: Any) -> None:
    """Add `grid` to the command line."""
    grid = commands.add_parser(
        "grid",
        help="train the runs behind Table 4, 5, 6, 7 or Figure 2; again, to go on",
        description="Every cell with every seed, by the paper's recipe unless options change it. What the store holds "
        "is not trained again. `spgca-lab report TABLE` shows what came of it.",
    )
    grid.add_argument("table", choices=GRIDS, help="which")
    grid.add_argument(
        "--seeds", type=_seeds, default=tuple(range(5)), help="how many (5: 0 to 4), or which (0,3,7)"
    )
    grid.add_argument("--datasets", type=names, help="in place of the table's: names or folders, by commas")
    grid.add_argument("--columns", type=names, help="some of the table's, by commas")
    grid.add_argument("--baseline", help="column that differences are taken to")
    grid.add_argument("--store", default="runs/paper", help="folder of runs (default: %(default)s)")
    grid.add_argument(
        "--dry-run", action="store_true", help="say what would be trained, and what is there already"
    )
    choice = grid.add_argument_group("choosing α on held-out training pictures, before the grid")
    choice.add_argument("--alpha-grid", type=numbers, help="values to try, by commas")
    choice.add_argument(
        "--held-out", type=float, default=0.2, help="share of each class's training pictures (default: 0.2)"
    )
    choice.add_argument(
        "--tune-seeds", type=_seeds, default=(0,), help="seeds of these runs (default: 1, that is seed 0)"
    )
    here = grid.add_argument_group("on this machine")
    here.add_argument("--devices", type=names, help="by commas, such as cuda:0,cuda:1; 'all' takes every GPU")
    here.add_argument("--workers", type=count, help="runs at a time (default: one a device)")
    here.add_argument("--threads", type=count, help="threads of the CPU a run (default: shared evenly)")
    here.add_argument(
        "--retries",
        type=int,
        default=2,
        help="how often a run goes on whose process or node was lost (default: 2)",
    )
    ray = grid.add_argument_group("on a Ray cluster (pip install 'spgca-lab[cluster]')")
    ray.add_argument("--ray", metavar="ADDRESS", help="of the cluster, 'auto', or 'local' to start one here")
    ray.add_argument("--gpus", type=float, default=1.0, help="GPUs a run (default: 1; 0 trains on the CPU)")
    ray.add_argument("--cpus", type=float, default=4.0, help="processors a run (default: 4)")
    ray.add_argument("--memory", type=float, help="GiB a run needs")
    recipe = grid.add_argument_group("the recipe, where it is not to be the paper's")
    add_recipe_options(
        recipe,
        leave_out=("method", "dataset", "seed", "validation", "alpha_from"),
        base=False,
    )
    grid.set_defaults(run=_grid)


def _grid(options: argparse.Namespace) -> int:
    fields = given_fields(options)
    grid = expand(
        options.table, seeds=options.seeds, datasets=options.datasets, columns=options.columns, **fields
    )
    if options.baseline is not None:
        columns = [cell.column for cell in grid.cells]
        if options.baseline not in columns:
            raise ValueError(
                f"--baseline {options.baseline!r} is none of {', '.join(dict.fromkeys(columns))}"
            )
        grid = Grid(grid.table, grid.seeds, grid.cells, options.baseline)
    store = lab.RunStore(options.store)
    if options.dry_run:
        return _announce(grid, store, options)
    for cell in grid.cells:
        _present(cell.dataset)
    if options.alpha_grid:
        held = {"validation": options.held_out, "seeds": options.tune_seeds}
        tries = search(grid, options.alpha_grid, **held)
        print(f"Choosing α: {len(tries)} runs on held-out training pictures.", flush=True)
        # A value that makes a run diverge fails, which is an answer too.
        _train(tries, store, options)
        grid = choose_alphas(grid, store, options.alpha_grid, **held)
        for cell in grid.cells:
            if cell.recipe.alpha_from:
                print(
                    f"  {cell.title}, {cell.column}: α = {cell.recipe.alphas[0]:g}, {cell.recipe.alpha_from}"
                )
    grid.save(store)
    recipes = grid.recipes()
    print(f"{GRIDS[grid.table].title} ({grid.table}): {len(recipes)} runs.", flush=True)
    failed = _train(recipes, store, options)
    print(f"Now: spgca-lab report {grid.table} --store {options.store}")
    return 1 if failed else 0


def _announce(grid: Grid, store: lab.RunStore, options: argparse.Namespace) -> int:
    parts = [("the grid, with the α at hand", grid.recipes())]
    if options.alpha_grid:
        tries = search(grid, options.alpha_grid, validation=options.held_out, seeds=options.tune_seeds)
        parts.insert(0, ("the choice of α", tries))
    for name, recipes in parts:
        there = sum((store.folder(recipe) / "result.json").exists() for recipe in recipes)
        print(f"{name}: {len(recipes)} runs, {there} of them finished in {str(store.path)!r}")
    for cell in grid.cells:
        recipe = cell.recipe
        print(
            f"  {cell.title}, {cell.column}: {recipe.backbone}, {recipe.iterations} steps of {recipe.batch_size}, "
            f"α = {', '.join(f'{a:g}' for a in dict.fromkeys(recipe.alphas))}, seeds {', '.join(map(str, grid.seeds))}"
        )
    return 0


def _present(dataset: str) -> None:
    """Raise before anything is trained where a grid's pictures are not there."""
    if dataset in PUBLISHED:
        files_root(dataset)
    elif dataset != "stickers" and not Path(dataset).expanduser().is_dir():
        raise FileNotFoundError(
            f"{dataset!r} is neither a data set's name nor a folder; names: stickers, {', '.join(PUBLISHED)}"
        )


def _train(recipes: Sequence[lab.Recipe], store: lab.RunStore, options: argparse.Namespace) -> int:
    """Train what the store lacks, and say how many runs failed."""
    recipes = list(dict.fromkeys(recipes))
    left = [recipe for recipe in recipes if not (store.folder(recipe) / "result.json").exists()]
    if len(left) < len(recipes):
        print(f"  {len(recipes) - len(left)} of them are finished in {str(store.path)!r}")
    if not left:
        return 0
    return _on_ray(left, store, options) if options.ray else _here(left, store, options)


def _on_ray(recipes: Sequence[lab.Recipe], store: lab.RunStore, options: argparse.Namespace) -> int:
    from spgca_lab.experiments.cluster import run_on_ray

    outcomes = run_on_ray(
        recipes,
        store,
        address=None if options.ray == "local" else options.ray,
        gpus=options.gpus,
        cpus=options.cpus,
        memory=None if options.memory is None else int(options.memory * 2**30),
        retries=options.retries,
        threads=options.threads,
    )
    return sum(outcome.status != "finished" for outcome in outcomes)


def _here(recipes: Sequence[lab.Recipe], store: lab.RunStore, options: argparse.Namespace) -> int:
    devices = _devices(options.devices)
    workers = options.workers or (len(devices) if devices else 1)
    threads = options.threads or max(1, (os.cpu_count() or 1) // workers)
    queue = lab.launch_all(
        recipes, store, workers=workers, device=devices, threads=threads, retries=options.retries
    )
    told: set[Path] = set()
    try:
        while True:
            done = queue.wait(POLL)
            for handle in queue.handles:
                if handle.path not in told and (done or handle.status in ("finished", "failed")):
                    told.add(handle.path)
                    print(f"  {len(told)}/{len(recipes)} {_outcome(handle)}", flush=True)
            if done:
                break
    except KeyboardInterrupt:
        print("spgca-lab: stopping, with checkpoints …", file=sys.stderr)
        queue.stop()
        raise
    return sum(handle.status != "finished" for handle in queue.handles)


def _outcome(handle: lab.RunHandle) -> str:
    recipe, result = handle.recipe, handle.run.result
    what = (
        f"{recipe.method} on {recipe.dataset}, α = {recipe.alphas[0]:g}, r = {recipe.r}, seed {recipe.seed}"
    )
    if result is None:
        return f"{what}: {handle.status}: {(handle.failure or 'no word why').splitlines()[0]}"
    on = "held-out pictures" if recipe.validation else "test pictures"
    return f"{what}: {result['top1']:.2f} % of the {on} in {result['seconds']:.0f} s"


def _devices(given: Sequence[str] | None) -> list[str] | None:
    if given is None:
        return ["cuda:0"] if torch.cuda.is_available() else None
    if list(given) != ["all"]:
        return list(given)
    if not torch.cuda.is_available():
        raise ValueError("--devices all: PyTorch sees no GPU here; leave it out to train on the CPU")
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def _seeds(text: str) -> tuple[int, ...]:
    values = whole_numbers(text) if "," in text else tuple(range(count(text)))
    if min(values) < 0 or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(
            f"expected how many seeds, such as 5, or which, such as 0,3,7; got {text!r}"
        )
    return values
