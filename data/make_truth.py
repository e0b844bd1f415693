"""Score the four attentions and their controls against the objects' masks: `python data/make_truth.py`.

Each attention alone, from `mini` to near and far stickers, with the default α (five seeds) and ten times it (three); a
seed stands for pictures, head, batches, crops and nets. What is kept is the mean over the 48 test pictures of each run,
one a class, by layer and step, in `truth/scores.csv`. The script can be stopped and started again.
"""

import argparse
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

TABLE = Path(__file__).resolve().parent / "truth" / "scores.csv"
BASE = {"backbone": "mini", "per_class": 5, "test_per_class": 1, "probe": 48}
BASE |= {"iterations": 200, "batch_size": 16, "evaluations": 1, "snapshots": 5}
ATTENTIONS, PRESETS, SEEDS = ("ast", "spa", "act", "gca"), ("near", "far"), {3.0: range(5), 30.0: range(3)}
KEY = ["preset", "alpha", "seed", "run"]
COLUMNS = [*KEY, "heat", "kind", "step", "layer", "hit", "chance", "inside", "area", "iou", "recipe"]


def jobs() -> list[dict[str, Any]]:
    """All runs, those with the default α first."""
    return [
        {"preset": preset, "alpha": alpha, "seed": seed, "run": method}
        for alpha, seeds in SEEDS.items()
        for seed in seeds
        for preset in PRESETS
        for method in ATTENTIONS
    ]


def score(job: dict[str, Any]) -> pd.DataFrame:
    """Train one run and score what it kept; one that diverges leaves a row without scores."""
    import torch

    import spgca_lab as lab

    torch.set_num_threads(1)
    fields = {"method": job["run"], "data_seed": job["seed"]} | {
        k: job[k] for k in ("preset", "alpha", "seed")
    }
    recipe = lab.Recipe(**BASE | fields)
    with tempfile.TemporaryDirectory() as store:
        try:
            for _ in lab.fit(recipe, store, device="cpu"):
                pass
        except lab.TrainingError as error:
            if "the loss is" not in str(error):
                raise
            gone = {"heat": job["run"].upper(), "kind": "diverged", "step": recipe.iterations, "layer": 0}
            return pd.DataFrame([gone | job | {"recipe": recipe.hash()}], columns=COLUMNS)
        run = lab.RunStore(store)[recipe]
        frame = pd.concat(
            [lab.analysis.grounding.attention_scores(run), lab.analysis.grounding.control_scores(run)]
        )
    means = (
        frame.drop(columns=["picture", "stage"]).groupby(["heat", "kind", "step", "layer"], sort=False).mean()
    )
    means = means.round(5).reset_index()
    return means.assign(**job, recipe=recipe.hash())[COLUMNS]


def main() -> None:
    """Score what the table lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    TABLE.parent.mkdir(exist_ok=True)
    there = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEY)
    known = set(there[KEY].itertuples(index=False, name=None))
    missing = [job for job in jobs() if tuple(job[name] for name in KEY) not in known]
    print(f"{len(jobs()) - len(missing)} of {len(jobs())} are there", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for frame in pool.imap(score, missing):
            frame.to_csv(TABLE, mode="a", index=False, header=not TABLE.exists())
            print(dict(frame.iloc[0][KEY]), flush=True)


if __name__ == "__main__":
    main()
