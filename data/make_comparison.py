"""Train the runs that methods are compared by, and keep their answers: `python data/make_comparison.py`.

Every method from `mini` to near, mid and far stickers with three seeds, by the recipes of `benchmarks/results.py`. What
has been trained there already (or in `--runs`) is taken as it is; of each run four small files are kept.
"""

import argparse
import importlib.util
import multiprocessing
import os
import shutil
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
STORE = HERE / "comparison"
KEPT = ("recipe.json", "result.json", "predictions.csv", "evaluations.csv")


def results() -> ModuleType:
    """The script that holds the recipes."""
    spec = importlib.util.spec_from_file_location("results", HERE.parent / "benchmarks" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jobs(runs: Path, store: Path) -> list[tuple[dict, Path, Path]]:
    """Fields of a recipe, where it is trained and where the four files go; without photographs."""
    return [(fields, runs / name, store) for name, fields in results().recipes(None, None)]


def make(job: tuple[dict, Path, Path]) -> str:
    """Train one run unless it is there, and keep what a comparison needs."""
    import torch

    import spgca_lab as lab

    torch.set_num_threads(1)
    fields, runs, store = job
    recipe = lab.Recipe(**fields)
    kept = lab.RunStore(store).folder(recipe)
    if not all((kept / name).exists() for name in KEPT):
        for _ in lab.fit(recipe, store=runs, device="cpu"):
            pass
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copyfile(lab.RunStore(runs).folder(recipe) / name, kept / name)
    return repr(lab.Run(kept))


def main() -> None:
    """Train what the store lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--runs", type=Path, default=results().STORE, help="full runs, one folder an experiment"
    )
    parser.add_argument("--store", type=Path, default=STORE, help="where the four files of each run go")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for line in pool.imap_unordered(make, jobs(options.runs, options.store)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
