"""Scores of attention and of controls against object masks, and their gain over uniform weights."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from spgca_lab._checks import quote
from spgca_lab.analysis.attribution import channel_maps, grad_cam, integrated_gradients
from spgca_lab.analysis.scores import ScoreError, mask_scores, object_cells
from spgca_lab.analysis.statistics import MeanInterval, mean_interval
from spgca_lab.data.shipped import data_dir, verify_shipped
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.runs.load import TrainedRun, load_run
from spgca_lab.runs.store import Run

__all__ = ["SCORES", "gain_over_uniform", "attention_scores", "control_scores", "truth"]

# The column with which uniform weights of positions are scored in place of each score.
SCORES = {"inside": "area", "hit": "chance", "iou": "area"}

STEPS = 16  # of the integral: with 64 steps the mean share inside is 0.002 larger

Rows = list[dict[str, Any]]


def attention_scores(run: Run) -> pd.DataFrame:
    r"""Score every snapshot of a run's attention against the objects' masks, for each image and layer.

    Spatial weights (AST, SPA) are scored as they are. Channel weights (ACT, GCA) have no position: they are projected
    to where their channels raise the true class in the trained T (`channel_maps`). All snapshots use the same T, so
    only the attention changes from step to step. A layer without weight (a collapsed GCA) has NaN scores.

    Args:
        run: a run with probe images, masks and snapshots; for channels also finished and with weights.

    Returns:
        one row per snapshot, layer and image: `heat` (name of the attention), `kind`, `stage`, `step`, `layer` (from
        1), `picture`; `hit`, and `chance`, its probability for a random cell; `inside`, and `area`, the same for
        uniform weights; `iou` (`mask_scores`).

    Example:
        >>> from spgca_lab import RunStore, data_dir
        >>> run = RunStore(data_dir() / "runs").find(method="spgca", alpha=3.0, r=4)[0]
        >>> spa = attention_scores(run).query("heat == 'SPA' and step == 100")
        >>> spa.groupby("layer")["inside"].mean().round(2).tolist()
        [0.33, 0.33, 0.33, 0.27]
    """
    masks, snapshots = _masks(run), run.snapshots()
    if not snapshots:
        raise ScoreError(f"{run.path.name!r} has no attention snapshots: train with snapshots of at least 2")
    trained = load_run(run) if any(s.kind == "channel" for s in snapshots) else None
    rows: Rows = []
    for snapshot in snapshots:
        if trained is not None and snapshot.kind == "channel":
            heats = _projected(trained, snapshot.weights)
        else:
            heats = {
                tap: w.reshape(len(w), round(w.shape[1] ** 0.5), -1) for tap, w in snapshot.weights.items()
            }
        name = snapshot.stage.upper() if snapshot.stage in METHODS else snapshot.stage
        head = {"heat": name, "kind": snapshot.kind, "stage": snapshot.stage, "step": snapshot.step}
        rows += _scored(head, heats, masks)
    return pd.DataFrame(rows)


def control_scores(run: Run) -> pd.DataFrame:
    """Score the controls that an attention must be compared with, on the same images of a finished run.

    `even`: uniform weights of positions (`hit` is that of a random cell); `even channels`: uniform weights of
    channels, projected like those of ACT and GCA; `magnitude`: mean |FM_S| over channels; `Grad-CAM`: of T's true
    class at each tap; `Integrated Gradients`: likewise, for the input's pixels. The control "random nets" is the
    attention's own snapshot at step 0.

    Returns:
        as `attention_scores`, at the last step, with the kind `"control"`; layer 0 for Integrated Gradients.
    """
    masks, trained = _masks(run), load_run(run)
    backbone, images, labels = trained.backbone, *_probe(run)
    sizes = backbone.tap_shapes(run.recipe.image_size)
    b = len(images)
    with torch.no_grad(), FeatureTaps(backbone.model, backbone.taps, training=False) as taps:
        backbone.model(backbone.preprocess(images))
        magnitude = {tap: m.abs().mean(dim=1).double().numpy() for tap, m in taps.maps.items()}
    uniform = {tap: np.full((b, c), 1 / c) for tap, (c, _, _) in sizes.items()}
    cams = grad_cam(backbone, images, trained.target, labels, size=0, only_target=True).target
    pixels = integrated_gradients(
        backbone, images, trained.target, labels, steps=STEPS, only_target=True
    ).target
    heats: dict[str, Mapping[str, np.ndarray]] = {
        "even": {tap: np.ones((b, h, w)) for tap, (_, h, w) in sizes.items()},
        "even channels": _projected(trained, uniform),
        "magnitude": magnitude,
        # Where nothing raises the class, no position is better than another.
        "Grad-CAM": {tap: cam + (cam.max(axis=(1, 2), keepdims=True) == 0) for tap, cam in cams.items()},
        "Integrated Gradients": pixels,
    }
    last = {"kind": "control", "stage": "", "step": run.recipe.iterations}
    frame = pd.DataFrame(
        [row for name, by_tap in heats.items() for row in _scored({"heat": name} | last, by_tap, masks)]
    )
    frame.loc[frame["heat"] == "Integrated Gradients", "layer"] = 0
    # All cells of uniform weights are equally strong, so a hit of the first one means nothing.
    even = frame["heat"] == "even"
    frame.loc[even, "hit"] = frame.loc[even, "chance"]
    return frame


def truth() -> pd.DataFrame:
    """Read the shipped scores of all attentions and controls, from `mini` to near and far stickers.

    Returns:
        one row per run, heatmap, step and layer, means over 48 images: `preset`, `alpha`, `seed`, `run` (the trained
        method), and the columns of `attention_scores`; a run that diverged has one row with the kind `"diverged"`.
    """
    file = data_dir() / "truth" / "scores.csv"
    verify_shipped(file)
    return pd.read_csv(file)


def gain_over_uniform(table: pd.DataFrame, score: str = "inside") -> pd.DataFrame:
    """Compute by how much each heatmap's score exceeds that of uniform weights, with t intervals over seeds.

    Positions are compared with uniform positions, channels with uniform channels that are projected alike. An
    attention has two rows per layer: its nets before training (`"random nets"`) and after it (`"trained"`).

    Args:
        table: from `truth`, or from `attention_scores` and `control_scores` with added columns `seed` and `run`.
        score: `"inside"`, `"hit"` or `"iou"`.

    Returns:
        `heat`, `nets`, `layer`, `gain` and `half`, its 95 % interval in points, `n` seeds, and `words`, the conclusion
        that the interval allows.
    """
    if score not in SCORES:
        raise ScoreError(f"score must be one of {', '.join(map(repr, SCORES))}, got {score!r}")
    key = ["seed", "run", "heat", "kind", "step", "layer"]
    missing = [name for name in (*key, score) if name not in table]
    if missing:
        raise ScoreError(f"the table has no column {missing[0]!r}, got {quote(list(table))}")
    finished = table[table["kind"] != "diverged"]
    means = finished.groupby(key, sort=False)[list({*SCORES, *SCORES.values()})].mean().reset_index()
    last = int(means["step"].max())
    uniform = means[means["heat"] == "even channels"].set_index(["seed", "run", "layer"])[score]
    rows: Rows = []
    for (heat, kind, step, layer), part in means.groupby(["heat", "kind", "step", "layer"], sort=False):
        if heat in ("even", "even channels") or (step not in (0, last)):
            continue
        if kind == "channel":
            control = part.set_index(["seed", "run", "layer"]).index.map(uniform).to_numpy(float)
        else:
            control = part[SCORES[score]].to_numpy(float)
        gaps = pd.Series(100 * (part[score].to_numpy() - control)).groupby(part["seed"].to_numpy()).mean()
        found = mean_interval(gaps.dropna())
        nets = "" if kind == "control" else "random nets" if step == 0 else "trained"
        words = _in_words(found, len(gaps), "uniform channels" if kind == "channel" else "uniform weights")
        gain = {"gain": found.mean, "half": found.half, "n": found.n, "words": words}
        rows.append({"heat": heat, "nets": nets, "layer": int(layer)} | gain)
    return pd.DataFrame(rows)


def _in_words(found: MeanInterval, seeds: int, control: str) -> str:
    if not found.n:
        return "no weight left in this layer"
    left = f" (no weight left with {seeds - found.n} of {seeds} seeds)" if found.n < seeds else ""
    if not found.half < abs(found.mean):
        return f"cannot be distinguished from {control}{left}"
    side = "above" if found.mean > 0 else "below"
    if abs(found.mean) < 0.5:
        return f"{side} {control}, by less than half a point{left}"
    return f"{abs(found.mean):.1f} points {side} {control}{left}"


def _masks(run: Run) -> np.ndarray:
    masks = run.probe.get("masks")
    if masks is None:
        raise ScoreError(
            f"the images of {run.path.name!r} have no masks: there is no object to score against"
        )
    return masks


def _probe(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(run.probe["images"]), torch.from_numpy(run.probe["labels"]).long()


def _projected(trained: TrainedRun, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    images, labels = _probe(trained.run)
    return channel_maps(trained.backbone, images, weights, trained.target, labels, size=0)


def _scored(head: dict[str, Any], heats: Mapping[str, np.ndarray], masks: np.ndarray) -> Rows:
    rows = []
    for layer, by_image in enumerate(heats.values(), start=1):
        for image, (heat, mask) in enumerate(zip(by_image, masks, strict=True)):
            chance, area = float(object_cells(mask, heat.shape).mean()), float(mask.mean())
            found = mask_scores(heat, mask) if heat.max() > 0 else None
            hit, inside, iou = (float(found.hit), found.inside, found.iou) if found else (math.nan,) * 3
            scores = {"hit": hit, "chance": chance, "inside": inside, "area": area, "iou": iou}
            rows.append(head | {"layer": layer, "picture": image} | scores)
    return rows
