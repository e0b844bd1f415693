"""Trimmed runs as `data/comparison` has them, with answers that are right by chance."""

import json

import numpy as np
import pandas as pd

import spgca_lab as lab

SMALL = {
    "backbone": "mini",
    "image_size": 32,
    "per_class": 1,
    "test_per_class": 1,
    "iterations": 150,
    "batch_size": 8,
    "evaluations": 1,
    "snapshots": 0,
}
NEAR, MID = (f"mini → stickers {preset}, 1 a class, 150 steps" for preset in ("near", "mid"))
CLASSES = 48


def write(store, recipe, right, rng, labels=None):
    """A trimmed run whose answers are right with a chance of `right`."""
    labels = np.arange(CLASSES) if labels is None else labels
    wrong = (labels + rng.integers(1, labels.max() + 1, len(labels))) % (labels.max() + 1)
    said = np.where(rng.random(len(labels)) < right, labels, wrong)
    folder = lab.RunStore(store).folder(recipe)
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    top1 = 100 * float((said == labels).mean())
    result = {"top1": top1, "image_size": recipe.image_size, "seconds": 1.0}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    pd.DataFrame({"label": labels, "predicted": said}).to_csv(folder / "predictions.csv", index=False)
    pd.DataFrame({"step": [150], "top1": [top1]}).to_csv(folder / "evaluations.csv", index=False)
    return folder
