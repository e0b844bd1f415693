"""The command line: the same recipes and the same trainer as notebooks and widgets."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

import spgca_lab as lab
from spgca_lab.lease import Lease
from spgca_lab.worker import Worker

__all__ = ["main"]

_HELP = {
    "method": "spgca, afa, l2, l2_fe, l2_sp, delta, lwf, uniform, ast, act, spa, gca; 'gca->spa'; 'my_file.py:MyClass'",
    "backbone": "source by name (see: spgca-lab backbones)",
    "dataset": "stickers, or a folder of pictures",
    "preset": "near, mid or far (stickers)",
    "per_class": "training pictures a class",
    "test_per_class": "test pictures a class",
    "image_size": "input size in pixels",
    "clutter": "distractors a sticker picture",
    "data_seed": "seed of generated or chosen pictures",
    "weights": "pretrained or random",
    "alpha": "weight of the penalty; two numbers for two stages, joined by a comma",
    "beta": "weight of the head's decay",
    "r": "reduction rate of GCA",
    "scale": "literal, afa or relative",
    "attention": "learned, frozen or uniform",
    "attend_through_target": "let the gradient reach T through SPA's input",
    "target_bn": "train or eval",
    "iterations": "steps over all stages",
    "batch_size": "pictures a step",
    "lr": "learning rate at the start",
    "momentum": "of SGD",
    "milestones": "fractions of the iterations at which lr falls to a tenth, joined by commas",
    "evaluations": "how often the test accuracy is taken",
    "snapshots": "how often attention is kept",
    "seed": "of head, attention, batches and crops",
}


_STEER = {
    "stop": "stop a run that is being trained, with a checkpoint",
    "pause": "let it hold between two steps",
    "resume": "let a paused run go on",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after the program's name; None takes the process's own.

    Returns:
        0, 2 after an error, which is one line on standard error, or 128 and the signal's number after a signal.

    Example:
        >>> main(["methods"])  # doctest: +ELLIPSIS
        l2        l2
        ...
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, LookupError, RuntimeError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"spgca-lab: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spgca-lab: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spgca-lab",
        description="Attention-based regularisation for transfer learning: run it, see it, question it.",
    )
    parser.add_argument("--version", action="version", version=f"spgca-lab {lab.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    backbones = commands.add_parser(
        "backbones", help="list sources, or print Table 3 for some (downloads nothing)"
    )
    backbones.add_argument("names", nargs="*", metavar="NAME")
    backbones.add_argument("--image-size", type=int, help="input size in pixels")
    backbones.set_defaults(run=_backbones)

    methods = commands.add_parser("methods", help="list methods and their stages")
    methods.set_defaults(run=_methods)

    fit = commands.add_parser("fit", help="train one recipe into a run folder; again, to resume it")
    fit.add_argument("--recipe", type=Path, help="recipe file (JSON); other options change its fields")
    fit.add_argument("--store", default="runs", help="folder of runs (default: %(default)s)")
    fit.add_argument("--device", help="cpu, cuda, … (default: a GPU if there is one)")
    fit.add_argument(
        "--fresh", action="store_true", help="start over instead of resuming or answering from the store"
    )
    fit.add_argument("--threads", type=int, help="threads of the CPU (default: PyTorch's choice)")
    # For `lab.launch`: the recipe lies in the run folder already, and the folder's lease is inherited.
    fit.add_argument("--launched", choices=("attached", "detached"), help=argparse.SUPPRESS)
    fit.add_argument("--lease", type=int, help=argparse.SUPPRESS)
    for field in dataclasses.fields(lab.Recipe):
        if field.name == "method_code":
            continue
        flag = "--" + field.name.replace("_", "-")
        if field.name == "attend_through_target":
            fit.add_argument(flag, action="store_true", default=None, help=_HELP[field.name])
        else:
            fit.add_argument(flag, type=_TYPES.get(field.name, str), help=_HELP[field.name])
    fit.set_defaults(run=_fit)

    for name, does in _STEER.items():
        steer = commands.add_parser(name, help=does)
        steer.add_argument("folder", type=Path, help="the run's own folder in its store")
        steer.set_defaults(run=_steer, command=name)

    runs = commands.add_parser("runs", help="list the runs of a store")
    runs.add_argument("store", nargs="?", default="runs", help="folder of runs (default: %(default)s)")
    runs.set_defaults(run=_runs)
    return parser


def _backbones(options: argparse.Namespace) -> None:
    if not options.names:
        for name in lab.list_backbones():
            print(name)
        return
    for name in options.names:
        print(f"{name}:")
        print(lab.table3(name, image_size=options.image_size).to_string(index=False))


def _methods(options: argparse.Namespace) -> None:
    for name, method in lab.METHODS.items():
        print(f"{name:<9} {' -> '.join(stage.name for stage in method.stages)}")


def _fit(options: argparse.Namespace) -> int:
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    if options.launched:
        with (
            Lease.adopt(options.recipe.parent, options.lease, options.launched) as lease,
            Worker(lease, attached=options.launched == "attached", nice=True) as worker,
        ):
            return _train(_recipe(options), options, lease, worker)
    recipe = _recipe(options)
    folder = lab.RunStore(options.store).folder(recipe)
    if (folder / "result.json").exists() and not options.fresh:
        return _train(recipe, options)
    folder.mkdir(parents=True, exist_ok=True)
    with Lease.take(folder, "terminal") as lease, Worker(lease) as worker:
        return _train(recipe, options, lease, worker)


def _recipe(options: argparse.Namespace) -> lab.Recipe:
    given = {
        f.name: getattr(options, f.name)
        for f in dataclasses.fields(lab.Recipe)
        if getattr(options, f.name, None) is not None
    }
    base = (
        lab.Recipe.from_json(options.recipe.read_text(encoding="utf-8")) if options.recipe else lab.Recipe()
    )
    # Another method or scale brings its own default α, unless one was asked for.
    if {"method", "scale", "backbone"} & set(given):
        given = {"alpha": None, "scale": None if "backbone" in given else base.scale} | given
    return base.replace(**given)


def _train(
    recipe: lab.Recipe, options: argparse.Namespace, lease: Lease | None = None, worker: Worker | None = None
) -> int:
    events = lab.fit(
        recipe, store=options.store, device=options.device, resume=not options.fresh, lease=lease
    )
    with closing(events):
        _show(recipe, worker.obey(events) if worker else events)
    if worker is None or not worker.stopped:
        return 0
    print("spgca-lab: stopped; the same command goes on from here", file=sys.stderr)
    return 128 + worker.signal if worker.signal is not None else 0


def _show(recipe: lab.Recipe, events: Iterable[lab.events.Event]) -> None:
    with tqdm(total=recipe.iterations, unit="step", disable=None) as bar:
        for event in events:
            if isinstance(event, lab.Step):
                bar.update(event.step - bar.n)
                bar.set_postfix_str(f"{event.stage} loss {event.loss:.3f}", refresh=False)
            elif isinstance(event, lab.HandOver):
                bar.write(f"step {event.step}: T becomes the source; {event.ended} -> {event.begins}")
            elif isinstance(event, lab.Evaluation):
                bar.write(f"step {event.step}: test top-1 {event.top1:.2f} %")
            elif isinstance(event, lab.Done):
                bar.update(recipe.iterations - bar.n)
                bar.write(
                    f"top-1 {event.result['top1']:.2f} % in {event.result['seconds']:.0f} s: {event.path}"
                )


def _steer(options: argparse.Namespace) -> None:
    handle = lab.RunHandle(options.folder)
    if handle.pid is None:
        raise lab.RunError(
            f"{str(options.folder)!r}: no process trains there, the run is {handle.status}; start it with: "
            f"spgca-lab fit --recipe {options.folder / 'recipe.json'} --store {options.folder.parent}"
        )
    getattr(handle, options.command)()


def _runs(options: argparse.Namespace) -> None:
    table = lab.RunStore(options.store).table()
    if table.empty:
        raise LookupError(
            f"there are no runs in {options.store!r}; make one with: spgca-lab fit --store {options.store}"
        )
    shown = [
        "hash",
        "status",
        "top1",
        "method",
        "backbone",
        "dataset",
        "preset",
        "alpha",
        "r",
        "seed",
        "iterations",
    ]
    with pd.option_context("display.width", 200):
        print(table[shown].to_string(index=False))


def _numbers(text: str) -> Any:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number, or several joined by commas, got {text!r}"
        ) from None
    return values[0] if len(values) == 1 else values


def _several(text: str) -> Any:
    values = _numbers(text)
    return values if isinstance(values, tuple) else (values,)


_TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            "per_class",
            "test_per_class",
            "image_size",
            "clutter",
            "data_seed",
            "r",
            "iterations",
            "batch_size",
        ),
        int,
    ),
    **dict.fromkeys(("evaluations", "snapshots", "seed"), int),
    **dict.fromkeys(("beta", "lr", "momentum"), float),
    "alpha": _numbers,
    "milestones": _several,
}
