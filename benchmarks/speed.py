"""Seconds a training step takes, method by method: `make bench`, or `python benchmarks/speed.py --help`.

Times the same `fit` that every notebook uses, from one step's event to the next, and reports the median. The
first steps of each stage are left out: they allocate, and choose kernels.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections import defaultdict

import pandas as pd
import torch

import spgca_lab as lab

WARM_UP = 3


def step_seconds(recipe: lab.Recipe, device: str) -> dict[str, list[float]]:
    """Stage name to the seconds of each of its steps, warm-up left out."""
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as store:
        before = None
        for event in lab.fit(recipe, store=store, device=device, resume=False):
            if isinstance(event, lab.Step) and before is not None:
                seconds[event.stage].append(time.perf_counter() - before)
            # Whatever else happens between two steps (a hand-over, an evaluation) is no part of either.
            before = time.perf_counter() if isinstance(event, lab.Step) else None
    return {stage: values[WARM_UP:] for stage, values in seconds.items()}


def table(methods: list[str], device: str, **fields: object) -> pd.DataFrame:
    """One row a method and stage: milliseconds a step, and how many times those of plain fine-tuning.

    Args:
        methods: names of `Recipe.method`; `"l2"` is measured first in any case.
        device: `"cpu"`, `"cuda"` …
        **fields: of the recipe.
    """
    rows: list[dict[str, object]] = []
    plain = 0.0
    for method in ["l2", *(name for name in methods if name != "l2")]:
        recipe = lab.Recipe(method=method, evaluations=1, snapshots=0, test_per_class=1, **fields)  # type: ignore[arg-type]
        for stage, seconds in step_seconds(recipe, device).items():
            median = statistics.median(seconds)
            plain = plain or median
            rows.append(
                {
                    "method": method,
                    "stage": stage,
                    "ms a step": round(1000 * median, 1),
                    "× plain": round(median / plain, 2),
                    "steps": len(seconds),
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table, and on what it was measured."""
    parser = argparse.ArgumentParser(description="Seconds a training step takes, method by method.")
    parser.add_argument("--methods", nargs="+", default=["l2_sp", "uniform", "afa", "spgca"])
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--image-size", type=int, help="default: the backbone's")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=30, help="steps over all stages (default 30)")
    parser.add_argument("--weights", choices=("pretrained", "random"), default="pretrained")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = vars(parser.parse_args())
    if options["iterations"] < 4 * WARM_UP:
        parser.error(
            f"--iterations {options['iterations']}: at least {4 * WARM_UP}, of which most are warm-up"
        )
    device, methods = options.pop("device"), options.pop("methods")
    name = (
        torch.cuda.get_device_name()
        if device.startswith("cuda")
        else platform.processor() or platform.machine()
    )
    print(f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads; {options}")
    print(table(methods, device, **options).to_string(index=False))


if __name__ == "__main__":
    main()
