"""Train the small runs that ship with the lab, so that sliders answer at once: `python data/make_runs.py`.

SPA -> GCA from `mini` to near stickers over a grid of α and r, the other order over α, and three methods to compare
with, each from seeds 0 to 2, in one thread. Weights stay with one of them only, in half precision. Of seed 0 the others
keep curves and attention (of the other order at α = 3 only); of further seeds the curves, which is what bands and
intervals are drawn from.
"""

import argparse
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import spgca_lab as lab

ALPHAS = (0.3, 1.0, 3.0, 10.0)
RATES = (4, 8, 16, 32)
BASE = {"backbone": "mini", "dataset": "stickers", "preset": "near", "per_class": 5, "test_per_class": 10}
BASE |= {"iterations": 200, "batch_size": 16, "evaluations": 5, "snapshots": 10}
SEEDS = (0, 1, 2)
WITH_WEIGHTS = {"method": "spgca", "alpha": 3.0, "r": 4, "seed": 0}
OTHERS = ("afa", "uniform", "l2")
STORE = Path(__file__).resolve().parent / "runs"


def jobs() -> list[dict]:
    """The recipes' fields, the run with weights first, then seed by seed."""
    grid = [{"method": "spgca", "alpha": a, "r": r} for a in ALPHAS for r in RATES]
    grid += [{"method": "gca->spa", "alpha": a, "r": 4} for a in ALPHAS]
    grid += [{"method": method} for method in OTHERS]
    every = [fields | {"seed": seed} for seed in SEEDS for fields in grid]
    every.sort(key=lambda fields: fields != WITH_WEIGHTS)
    return [BASE | fields for fields in every]


def keeps_attention(fields: dict) -> bool:
    """Whether a run ships with its probe pictures and snapshots."""
    return fields["seed"] == 0 and (fields["method"] != "gca->spa" or fields["alpha"] == 3.0)


def trim(run: "lab.Run", fields: dict) -> None:
    """Take away what a run does not ship with."""
    import safetensors.torch

    file = run.path / "weights.safetensors"
    if WITH_WEIGHTS.items() <= fields.items():
        half = {k: v.half() if v.is_floating_point() else v for k, v in run.weights().items()}
        safetensors.torch.save_file(half, file)
    else:
        file.unlink(missing_ok=True)
    if not keeps_attention(fields):
        (run.path / "probe.npz").unlink(missing_ok=True)
        shutil.rmtree(run.path / "snapshots", ignore_errors=True)
    for left in ("lock", "process.json", "log.txt"):
        (run.path / left).unlink(missing_ok=True)


def make(fields: dict) -> str:
    """Train one run and trim its weights."""
    import torch

    import spgca_lab as lab

    torch.set_num_threads(1)
    recipe = lab.Recipe(**fields)
    for _ in lab.fit(recipe, store=STORE, device="cpu"):
        pass
    run = lab.RunStore(STORE)[recipe]
    trim(run, fields)
    return repr(run)


def main() -> None:
    """Train what the store lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for line in pool.imap_unordered(make, jobs()):
            print(line, flush=True)


if __name__ == "__main__":
    main()
