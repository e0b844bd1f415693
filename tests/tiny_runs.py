"""A store of runs of a few steps, trained for the tests: a 2 × 2 grid of α and r with one pair missing, and SPA."""

from pathlib import Path

import spgca_lab as lab

SMALL = {
    "backbone": "mini",
    "weights": "random",
    "image_size": 32,
    "per_class": 1,
    "test_per_class": 1,
    "iterations": 4,
    "batch_size": 8,
    "evaluations": 2,
    "snapshots": 4,
    "seed": 0,
}
GRID = ((1.0, 4), (3.0, 4), (3.0, 8))
KEPT = (3.0, 4)


def train(store: Path) -> lab.RunStore:
    """Train what the store lacks; only the (α, r) of `KEPT` and SPA keep their weights, as the shipped runs do."""
    recipes = [lab.Recipe(method="spgca", alpha=alpha, r=r, **SMALL) for alpha, r in GRID]
    recipes.append(lab.Recipe(method="spa", alpha=3.0, **SMALL))
    for recipe in recipes:
        for _ in lab.fit(recipe, store=store, device="cpu"):
            pass
        if recipe.method == "spgca" and (recipe.alpha, recipe.r) != KEPT:
            (lab.RunStore(store)[recipe].path / "weights.safetensors").unlink()
    return lab.RunStore(store)
