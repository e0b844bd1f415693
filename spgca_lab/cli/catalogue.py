"""What there is: sources, methods, and the runs of a store."""

import argparse
from typing import Any

import pandas as pd

import spgca_lab as lab

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add `backbones`, `methods` and `runs` to the command line."""
    backbones = commands.add_parser(
        "backbones", help="list sources, or print Table 3 for some (downloads nothing)"
    )
    backbones.add_argument("names", nargs="*", metavar="NAME")
    backbones.add_argument("--image-size", type=int, help="input size in pixels")
    backbones.set_defaults(run=_backbones)

    methods = commands.add_parser("methods", help="list methods and their stages")
    methods.set_defaults(run=_methods)

    runs = commands.add_parser("runs", help="list the runs of a store")
    runs.add_argument("store", nargs="?", default="runs", help="folder of runs (default: %(default)s)")
    runs.set_defaults(run=_runs)


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
