"""Train the small runs that ship with the lab, so that sliders answer at once: `python data/make_runs.py`.

SPA -> GCA from `mini` to near stickers over a grid of α and r, and three runs to compare with, all from seed 0 in
one thread. Weights stay with one of them only, in half precision; the others keep curves and attention.
"""

import argparse
import multiprocessing
import os
from pathlib import Path

ALPHAS = (0.3, 1.0, 3.0, 10.0)
RATES = (4, 8, 16, 32)
BASE = {"backbone": "mini", "dataset": "stickers", "preset": "near", "per_class": 5, "test_per_class": 10}
BASE |= {"iterations": 200, "batch_size": 16, "evaluations": 5, "snapshots": 10, "seed": 0}
WITH_WEIGHTS = {"method": "spgca", "alpha": 3.0, "r": 4}
STORE = Path(__file__).resolve().parent / "runs"


def jobs() -> list[dict]:
    """The recipes' fields, the run with weights first."""
    grid = [{"method": "spgca", "alpha": a, "r": r} for a in ALPHAS for r in RATES]
    grid.sort(key=lambda fields: fields != WITH_WEIGHTS)
    return [BASE | fields for fields in (*grid, {"method": "afa"}, {"method": "uniform"}, {"method": "l2"})]


def make(fields: dict) -> str:
    """Train one run and trim its weights."""
    import safetensors.torch
    import torch

    import spgca_lab as lab

    torch.set_num_threads(1)
    recipe = lab.Recipe(**fields)
    for _ in lab.fit(recipe, store=STORE, device="cpu"):
        pass
    run = lab.RunStore(STORE)[recipe]
    file = run.path / "weights.safetensors"
    if WITH_WEIGHTS.items() <= fields.items():
        half = {k: v.half() if v.is_floating_point() else v for k, v in run.weights().items()}
        safetensors.torch.save_file(half, file)
    else:
        file.unlink(missing_ok=True)
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
