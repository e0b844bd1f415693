"""Run the factorial behind notebook 09: `python data/make_factorial.py [--photos FOLDER]`.

Six transfers × pictures a class × method, α chosen on held-out training pictures, then seeds that are paired across
methods. A seed stands for everything that chance decides: which pictures are drawn for training and testing, the head,
the batches, the crops and the attention nets. Each run becomes a row of `factorial/runs.csv` when it ends, so that the
script can be stopped and started again; a row is never written twice and never guessed. A run that diverges has no
accuracy, and counts as tried.

Photographs are trained on where `--photos` names a folder with train/ and test/; without it their rows stay as they
are.
"""

import argparse
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
TABLE = HERE / "factorial" / "runs.csv"
FIELDS = ("transfer", "per_class", "role", "method", "alpha", "seed", "top1", "cross_entropy", "recipe")
FIELDS += ("train_pictures", "test_pictures", "seconds", "torch")
SIZES = (2, 5, 8, 20)
FEATURES, WEIGHTS = (1.0, 3.0, 10.0), (0.01, 0.1, 1.0)
ALPHAS = {"l2_sp": WEIGHTS, "uniform": FEATURES, "afa": FEATURES, "spgca": FEATURES}
METHODS = ("l2", *ALPHAS)
SEEDS = (0, 1, 2, 3)
# With few pictures a class few are held out: two draws of them.
VALIDATION_SEEDS = {2: (100, 101), 5: (100, 101), 8: (100,), 20: (100,)}
SHORT = {"batch_size": 16, "evaluations": 1, "snapshots": 0, "test_per_class": 10}
MINI = SHORT | {"backbone": "mini", "iterations": 100}
LITE0 = SHORT | {"backbone": "lite0", "iterations": 80, "image_size": 96}
TRANSFERS: dict[str, dict[str, Any]] = {
    "mini → near": MINI | {"preset": "near"},
    "mini → mid": MINI | {"preset": "mid"},
    "mini → far": MINI | {"preset": "far"},
    "mini → cross": MINI | {"preset": "cross"},
    "lite0 → stickers": LITE0 | {"preset": "near"},
    "lite0 → photographs": LITE0 | {"dataset": "photographs"},
}

Job = dict[str, Any]


def jobs(role: str, alphas: dict[tuple[str, int, str], float]) -> list[Job]:
    """Runs of a role: for validation every α, for testing the chosen one; seed by seed."""
    every = []
    seeds = dict.fromkeys(SIZES, SEEDS) if role == "test" else VALIDATION_SEEDS
    for seed in sorted({seed for some in seeds.values() for seed in some}):
        for per_class in (size for size in SIZES if seed in seeds[size]):
            for transfer in TRANSFERS:
                for method in METHODS:
                    cell = {"transfer": transfer, "per_class": per_class, "method": method}
                    values: tuple[float | None, ...] = ALPHAS.get(method, ())
                    if role == "test":
                        values = (alphas.get((transfer, per_class, method)),)
                    every += [cell | {"role": role, "alpha": alpha, "seed": seed} for alpha in values]
    return every


def recipe_of(job: Job, photos: Path | None) -> Any:
    """The recipe of a run; without a folder, photographs keep the name that stands for it."""
    import spgca_lab as lab

    fields = TRANSFERS[job["transfer"]] | {k: job[k] for k in ("per_class", "method", "alpha", "seed")}
    fields |= {"data_seed": job["seed"], "validation": 0.2 if job["role"] == "validation" else 0.0}
    if photos is not None and fields.get("dataset") == "photographs":
        fields["dataset"] = str(photos)
    return lab.Recipe(**fields)


def train(work: tuple[Job, Path | None]) -> Job:
    """One run in one thread; nothing of it is kept but its row."""
    import torch

    import spgca_lab as lab

    torch.set_num_threads(1)
    job, photos = work
    recipe = recipe_of(job, photos)
    row: Job = job | {
        "alpha": recipe.alpha,
        "recipe": recipe_of(job, None).hash(),
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as store:
        try:
            for event in lab.fit(recipe, store=store, device="cpu"):
                if isinstance(event, lab.Done):
                    found = event.result
        except lab.TrainingError as error:
            if "finite" not in str(error):
                raise
            return row | {"top1": "", "cross_entropy": ""}
    row |= {k: round(found[k], 4) for k in ("top1", "cross_entropy")}
    return row | {k: found[k] for k in ("train_pictures", "test_pictures", "seconds")}


def name(job: Job) -> tuple[Any, ...]:
    """What a run is known by in the table; the α of a method without choice is not part of it."""
    alpha = float(job["alpha"]) if job["method"] in ALPHAS else None
    return job["transfer"], int(job["per_class"]), job["role"], job["method"], alpha, int(job["seed"])


def done() -> set[tuple[Any, ...]]:
    """Runs that the table holds."""
    if not TABLE.exists():
        return set()
    return {name(row) for row in pd.read_csv(TABLE).to_dict("records")}


def work_off(pool: Any, wanted: list[Job], photos: Path | None) -> None:
    """Train what the table lacks; each row is written as soon as it is there."""
    there = done()
    missing = [job for job in wanted if name(job) not in there]
    if photos is None:
        missing = [job for job in missing if TRANSFERS[job["transfer"]].get("dataset") != "photographs"]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} are there", flush=True)
    for count, row in enumerate(pool.imap_unordered(train, [(job, photos) for job in missing]), 1):
        pd.DataFrame([row], columns=FIELDS).to_csv(TABLE, mode="a", index=False, header=not TABLE.exists())
        print(f"{count}/{len(missing)} {name(row)}: {row['top1']}", flush=True)


def main() -> None:
    """Validation first, then the test runs with the α that it chose."""
    import spgca_lab as lab

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--photos", type=Path, help="folder with train/ and test/")
    options = parser.parse_args()
    photos = options.photos.resolve() if options.photos else None
    TABLE.parent.mkdir(exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        work_off(pool, jobs("validation", {}), photos)
        alphas = lab.experiments.factorial.best_alphas(lab.experiments.factorial.factorial(TABLE))
        work_off(pool, jobs("test", alphas), photos)


if __name__ == "__main__":
    main()
