"""Two remedies for the collapse of GCA, compared with Eq. 10 as printed and with uniform weights.

python benchmarks/remedies.py --photos FOLDER      # train what the table lacks -> data/factorial/remedies.csv

`gca_squared` puts the weights inside the square, as Eq. 8 does for SPA: its optimum is soft. `EntropyFloorGCA`, an
attention as a reader would write one, adds to Eq. 10 what the entropy falls short of nine tenths of its maximum. They
are trained from `lite0`, where GCA collapses, with the same images, heads and batches as the paper's form and
uniform weights.
"""

import argparse
import math
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spgca_lab.regularizers.attention import GlobalChannelAttention, Maps

TABLE = Path(__file__).resolve().parents[1] / "data" / "factorial" / "remedies.csv"
FIELDS = ("transfer", "variant", "alpha", "seed", "top1", "entropy_first", "entropy_last", "entropy_max")
BASE = {"backbone": "lite0", "iterations": 80, "image_size": 96, "per_class": 5, "test_per_class": 10}
BASE |= {"batch_size": 16, "evaluations": 1, "snapshots": 0}
ALPHAS, SEEDS, FLOOR = (3.0,), range(5), 0.9
VARIANTS = ("uniform", "gca", "gca_squared", "EntropyFloorGCA")
TRANSFERS: dict[str, dict[str, Any]] = {
    "lite0 → photographs": {},
    "lite0 → stickers": {"dataset": "stickers"},
}


class EntropyFloorGCA(GlobalChannelAttention):
    """Eq. 10, plus what the entropy of the weights falls short of `FLOOR` · ln ΣC."""

    def loss(self, maps_s: Maps, maps_t: Maps, weights: Maps, scale: str) -> Tensor:
        """Return the loss; its second term depends on the attention nets alone and gives T no gradient."""
        together = torch.cat(list(weights.values()), dim=1)
        entropy = torch.special.entr(together).sum(dim=1)
        short = (FLOOR * math.log(sum(self.channels)) - entropy).relu().mean()
        return super().loss(maps_s, maps_t, weights, scale) + short


def jobs() -> list[dict[str, Any]]:
    """Return all runs, seed by seed."""
    return [
        {"transfer": transfer, "variant": variant, "alpha": alpha, "seed": seed}
        for seed in SEEDS
        for transfer in TRANSFERS
        for alpha in ALPHAS
        for variant in VARIANTS
    ]


def train(work: tuple[dict[str, Any], Path | None]) -> dict[str, Any]:
    """Train one run in one thread."""
    import spgca_lab as lab

    torch.set_num_threads(1)
    job, photos = work
    own = {"EntropyFloorGCA": EntropyFloorGCA}
    fields: dict[str, Any] = BASE | {"dataset": str(photos)} | TRANSFERS[job["transfer"]]
    fields |= {"alpha": job["alpha"], "seed": job["seed"], "data_seed": job["seed"]}
    recipe = lab.Recipe(method=own.get(job["variant"], job["variant"]), **fields)
    with tempfile.TemporaryDirectory() as store:
        for event in lab.fit(recipe, store, device="cpu"):
            if isinstance(event, lab.Done):
                top1 = event.result["top1"]
        run = lab.RunStore(store)[recipe]
        row = job | {"top1": round(top1, 4)}
        if "entropy/all" in run.steps:
            entropy = run.steps["entropy/all"]
            row |= {
                "entropy_first": round(entropy.iloc[0], 4),
                "entropy_last": round(entropy.iloc[-5:].mean(), 4),
            }
    channels = sum(c for c, _, _ in lab.load_backbone("lite0").tap_shapes(96).values())
    return row | {"entropy_max": round(math.log(channels), 4)}


def main() -> None:
    """Train what the table lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--photos", type=Path, help="folder with train/ and test/")
    options = parser.parse_args()
    photos = options.photos.resolve() if options.photos else None
    there = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=FIELDS)
    known = set(there[list(FIELDS[:4])].itertuples(index=False, name=None))
    missing = [job for job in jobs() if tuple(job[name] for name in FIELDS[:4]) not in known]
    if photos is None:
        missing = [job for job in missing if TRANSFERS[job["transfer"]]]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for row in pool.imap(train, [(job, photos) for job in missing]):
            pd.DataFrame([row], columns=FIELDS).to_csv(
                TABLE, mode="a", index=False, header=not TABLE.exists()
            )
            print(row, flush=True)


if __name__ == "__main__":
    main()
