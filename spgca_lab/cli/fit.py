"""Train one recipe, and steer what trains."""

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import spgca_lab as lab
from spgca_lab._files import make_folder
from spgca_lab.cli.parse import count
from spgca_lab.cli.recipes import add_recipe_options, recipe_of
from spgca_lab.runs.lock import Lease
from spgca_lab.runs.worker import Worker
from spgca_lab.training.footprint import settle_batch_size
from spgca_lab.training.processes import Processes

__all__ = ["add_commands"]

_STEER = {
    "stop": "stop a run that is being trained, with a checkpoint",
    "pause": "let it hold between two steps",
    "resume": "let a paused run go on",
}


def add_commands(commands: Any) -> None:
    """Add `fit`, `recipe`, `stop`, `pause` and `resume` to the command line."""
    fit = commands.add_parser("fit", help="train one recipe into a run folder; again, to resume it")
    add_recipe_options(fit)
    fit.add_argument("--store", default="runs", help="folder of runs (default: %(default)s)")
    fit.add_argument("--device", help="cpu, cuda, … (default: a GPU if there is one)")
    fit.add_argument(
        "--fresh", action="store_true", help="start over instead of resuming or answering from the store"
    )
    fit.add_argument("--threads", type=count, help="threads of the CPU (default: PyTorch's choice)")
    # For `lab.launch`: the recipe lies in the run folder already, and the folder's lease is inherited.
    fit.add_argument("--launched", choices=("attached", "detached"), help=argparse.SUPPRESS)
    fit.add_argument("--lease", type=int, help=argparse.SUPPRESS)
    fit.set_defaults(run=_fit)

    recipe = commands.add_parser("recipe", help="print a recipe, or save it, without training")
    add_recipe_options(recipe)
    recipe.add_argument("--output", "-o", type=Path, help="file to write (default: print)")
    recipe.set_defaults(run=_recipe)

    for name, does in _STEER.items():
        steer = commands.add_parser(name, help=does)
        steer.add_argument("folder", type=Path, help="the run's own folder in its store")
        steer.set_defaults(run=_steer, command=name)


def _recipe(options: argparse.Namespace) -> None:
    recipe = recipe_of(options)
    if options.output is None:
        print(recipe.to_json(), end="")
        return
    options.output.write_text(recipe.to_json(), encoding="utf-8")
    print(f"{options.output}: {recipe.method} on {recipe.dataset}, run {recipe.hash()}")


def _fit(options: argparse.Namespace) -> int:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.launched:
        with (
            Lease.adopt(options.recipe.parent, options.lease, options.launched) as lease,
            Worker(lease, attached=options.launched == "attached", nice=True) as worker,
        ):
            return _train(recipe_of(options), options, Processes(options.device), lease, worker)
    processes = Processes.current(options.device)
    recipe = processes.from_main(lambda: settle_batch_size(recipe_of(options), options.device, processes))
    folder = lab.RunStore(options.store).folder(recipe)
    if not options.fresh and processes.from_main((folder / "result.json").exists):
        stopped_by = _train(recipe, options, processes)
    else:
        # Before there is a folder; a finished run answers whatever number of processes asks.
        processes.rows(recipe.batch)
        own = processes.on_main(lambda: _take(folder))
        with own or nullcontext(), Worker(own, processes=processes) as worker:
            stopped_by = _train(recipe, options, processes, own, worker)
    processes.leave()
    if processes.count > 1:
        # Now and then a thread of the connection outlives it, meets an interpreter that ends, and aborts the process,
        # which torchrun takes for a failure. Everything is written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stopped_by)
    return stopped_by


def _take(folder: Path) -> Lease:
    make_folder(folder)
    return Lease.take(folder, "terminal")


def _train(
    recipe: lab.Recipe,
    options: argparse.Namespace,
    processes: Processes,
    lease: Lease | None = None,
    worker: Worker | None = None,
) -> int:
    events = lab.fit(recipe, store=options.store, resume=not options.fresh, lease=lease, processes=processes)
    with closing(events):
        obeying = worker.obey(events) if worker else events
        if processes.main:
            _show(recipe, obeying)
        else:
            for _ in obeying:
                pass
    if worker is None or not worker.stopped:
        return 0
    if processes.main:
        print("spgca-lab: stopped; the same command goes on from here", file=sys.stderr)
    return 128 + worker.signal if worker.signal is not None else 0


def _show(recipe: lab.Recipe, events: Iterable[lab.training.events.Event]) -> None:
    on = "held-out" if recipe.validation else "test"
    with tqdm(total=recipe.iterations, unit="step", disable=None) as bar:
        for event in events:
            if isinstance(event, lab.Step):
                bar.update(event.step - bar.n)
                bar.set_postfix_str(f"{event.stage} loss {event.loss:.3f}", refresh=False)
            elif isinstance(event, lab.HandOver):
                bar.write(f"step {event.step}: T becomes the source; {event.ended} -> {event.begins}")
            elif isinstance(event, lab.Evaluation):
                bar.write(f"step {event.step}: {on} top-1 {event.top1:.2f} %")
            elif isinstance(event, lab.Done):
                bar.update(recipe.iterations - bar.n)
                bar.write(
                    f"{on} top-1 {event.result['top1']:.2f} % in {event.result['seconds']:.0f} s: {event.path}"
                )


def _steer(options: argparse.Namespace) -> None:
    handle = lab.RunHandle(options.folder)
    if handle.pid is None:
        raise lab.RunError(
            f"{str(options.folder)!r}: no process trains there, the run is {handle.status}; start it with: "
            f"spgca-lab fit --recipe {options.folder / 'recipe.json'} --store {options.folder.parent}"
        )
    getattr(handle, options.command)()
