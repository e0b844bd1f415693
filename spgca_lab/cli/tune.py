"""Choose α on held-out training pictures."""

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from spgca_lab._files import replace_file
from spgca_lab.cli.parse import count, numbers, whole_numbers
from spgca_lab.cli.recipes import add_recipe_options, recipe_of
from spgca_lab.experiments.alphas import in_words
from spgca_lab.experiments.tune import Tuned, tune

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add `tune` to the command line."""
    parser = commands.add_parser(
        "tune",
        help="choose α on held-out training pictures; again, or on several machines, to go on",
        allow_abbrev=False,
    )
    add_recipe_options(parser, leave_out=("alpha", "alpha_from", "validation", "seed"))
    parser.add_argument(
        "--trials", type=int, default=20, help="values to try, in all calls together (default: %(default)s)"
    )
    parser.add_argument(
        "--alphas", type=numbers, help="the values to try, joined by commas, in place of a range"
    )
    parser.add_argument("--low", type=float, help="least value (default: by the penalty's scale)")
    parser.add_argument("--high", type=float, help="largest value (default: by the penalty's scale)")
    parser.add_argument("--per-stage", action="store_true", help="an α of its own for each stage")
    parser.add_argument(
        "--validation",
        dest="share",
        type=float,
        default=0.2,
        help="share of the training pictures that is held out (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=whole_numbers,
        default=(0,),
        help="of the runs of each value, joined by commas (default: 0)",
    )
    parser.add_argument("--store", default="runs", help="folder of runs (default: %(default)s)")
    parser.add_argument("--storage", help="SQLAlchemy URL of the study's database (default: STORE/tune.db)")
    parser.add_argument("--study", help="name of the study (default: made up from all that defines it)")
    parser.add_argument("--device", help="cpu, cuda, … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=count, help="threads of the CPU (default: PyTorch's choice)")
    parser.add_argument(
        "--output", "-o", type=Path, help="recipe file to write (default: STORE/tuned/STUDY.json)"
    )
    parser.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    tuned = tune(
        recipe_of(options),
        options.store,
        trials=options.trials,
        alphas=options.alphas,
        low=options.low,
        high=options.high,
        per_stage=options.per_stage,
        validation=options.share,
        seeds=options.seeds,
        study=options.study,
        storage=options.storage,
        device=options.device,
        log=lambda line: print(line, flush=True),
    )
    output = options.output or Path(options.store) / "tuned" / f"{tuned.study}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, tuned.recipe.to_json().encode())
    print(_table(tuned))
    print(f"α = {in_words(tuned.alpha)}: {tuned.recipe.alpha_from}")
    print(f"go on with: spgca-lab fit --recipe {output} --store {options.store}")


def _table(tuned: Tuned) -> str:
    rows = [("α", "validation top-1", "state")]
    for trial in tuned.trials.itertuples():
        top1 = "–" if math.isnan(trial.top1) else f"{trial.top1:.2f} %"
        rows.append((in_words(trial.alpha), top1, trial.state))
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{alpha:>{wide[0]}}  {top1:>{wide[1]}}  {state}".rstrip() for alpha, top1, state in rows
    )
