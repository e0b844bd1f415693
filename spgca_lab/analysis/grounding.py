"""Attention scored against the truth: is the weight where the object is, and would it be there anyway?"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from spgca_lab._checks import quote
from spgca_lab.analysis.attribution import channel_maps, grad_cam, integrated_gradients
from spgca_lab.analysis.scores import ScoreError, mask_scores, touched
from spgca_lab.analysis.statistics import MeanInterval, mean_interval
from spgca_lab.data.location import data_dir
from spgca_lab.data.shipped import verify_shipped
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.runs.load import TrainedRun, load_run
from spgca_lab.runs.store import Run

__all__ = ["SCORES", "against_even", "attention_scores", "control_scores", "truth"]

# What even weights of positions have in place of each score.
SCORES = {"inside": "area", "hit": "chance", "iou": "area"}

STEPS = 16  # of the integral: with 64 the mean share inside is 0.002 larger

Rows = list[dict[str, Any]]


def attention_scores(run: Run) -> pd.DataFrame:
    r"""Every snapshot of a run's attention against the objects' masks, picture by picture and layer by layer.

    Positions (AST, SPA) are scored as they are. Channels (ACT, GCA) have no place: they are projected to where they
    speak for the true class in the trained T (`channel_maps`), in every snapshot with the same T, so that what changes
    from step to step is the attention alone. A layer in which a collapsed GCA has left no channel any weight has no
    scores.

    Args:
        run: with probe pictures, masks and snapshots; for channels also with its weights.

    Returns:
        one row a snapshot, layer and picture: `heat` (name of the attention), `kind`, `stage`, `step`, `layer` (from
        1), `picture`; `hit`: the strongest cell touches the object (pointing game), and `chance` that one drawn at
        random does; `inside`: share of the mass on the object, and `area`, what even weights have there; `iou`: best
        over all thresholds.

    Raises:
        ScoreError: when the pictures have no masks, or the run kept no attention.
        RunError: for channels, when the run was shipped without its weights or has not ended.

    Example:
        >>> from spgca_lab import RunStore, data_dir
        >>> run = RunStore(data_dir() / "runs").find(method="spgca", alpha=3.0, r=4)[0]
        >>> spa = attention_scores(run).query("heat == 'SPA' and step == 100")
        >>> spa.groupby("layer")["inside"].mean().round(2).tolist()
        [0.33, 0.33, 0.33, 0.27]
    """
    masks, snapshots = _masks(run), run.snapshots()
    if not snapshots:
        raise ScoreError(f"{run.path.name!r} kept no attention: train with snapshots of at least 2")
    trained = load_run(run) if any(s.kind == "channel" for s in snapshots) else None
    rows: Rows = []
    for snapshot in snapshots:
        if snapshot.kind == "spatial":
            heats = {tap: _square(w) for tap, w in snapshot.weights.items()}
        else:
            assert trained is not None
            heats = _projected(trained, snapshot.weights)
        name = snapshot.stage.upper() if snapshot.stage in METHODS else snapshot.stage
        head = {"heat": name, "kind": snapshot.kind, "stage": snapshot.stage, "step": snapshot.step}
        rows += _scored(head, heats, masks)
    return pd.DataFrame(rows)


def control_scores(run: Run) -> pd.DataFrame:
    """What an attention must be compared with, scored on the same pictures.

    `even`: equal weights of positions (its `hit` is that of a cell drawn at random); `even channels`: equal weights of
    channels, projected as those of ACT and GCA are; `magnitude`: mean |FM_S| over channels, the source's plain
    activation; `Grad-CAM`: of T's true class at each tap; `Integrated Gradients`: likewise, of the picture's pixels.
    Random nets are the attention's own snapshot at step 0.

    Args:
        run: finished, with probe pictures, masks and weights.

    Returns:
        as `attention_scores`, at the last step and of the kind `"control"`. Integrated Gradients has no layer: it
        stands under 0.

    Raises:
        ScoreError: when the pictures have no masks.
        RunError: when the run was shipped without its weights or has not ended.

    Example:
        >>> from spgca_lab import RunStore, data_dir
        >>> run = RunStore(data_dir() / "runs").find(method="spgca", alpha=3.0, r=4)[0]
        >>> control_scores(run).groupby("heat")["inside"].mean().round(2)["Grad-CAM"] > 0.4
        np.True_
    """
    masks, trained = _masks(run), load_run(run)
    backbone, images, labels = trained.backbone, *_pictures(run)
    sizes = backbone.tap_shapes(run.recipe.image_size)
    b = len(images)
    with torch.no_grad(), FeatureTaps(backbone.model, backbone.taps, training=False) as taps:
        backbone.model(backbone.preprocess(images))
        magnitude = {tap: m.abs().mean(dim=1).double().numpy() for tap, m in taps.maps.items()}
    equal = {tap: np.full((b, c), 1 / c) for tap, (c, _, _) in sizes.items()}
    cams = grad_cam(backbone, images, trained.target, labels, size=0, only_target=True).target
    found = integrated_gradients(backbone, images, trained.target, labels, steps=STEPS, only_target=True)
    gradients = found.target["input"]
    heats: dict[str, Mapping[str, np.ndarray]] = {
        "even": {tap: np.ones((b, h, w)) for tap, (_, h, w) in sizes.items()},
        "even channels": _projected(trained, equal),
        "magnitude": magnitude,
        # Where nothing speaks for the class, no place is better than another.
        "Grad-CAM": {tap: cam + (cam.max(axis=(1, 2), keepdims=True) == 0) for tap, cam in cams.items()},
    }
    rows: Rows = []
    last = {"kind": "control", "stage": "", "step": run.recipe.iterations}
    for name, by_tap in heats.items():
        rows += _scored({"heat": name} | last, by_tap, masks)
    pixels = _scored({"heat": "Integrated Gradients"} | last, {"input": gradients}, masks)
    rows += [row | {"layer": 0} for row in pixels]
    frame = pd.DataFrame(rows)
    even = frame["heat"] == "even"
    # All its cells are equally strong: the one that comes first says nothing.
    frame.loc[even, "hit"] = frame.loc[even, "chance"]
    return frame


def truth(file: str | Path | None = None) -> pd.DataFrame:
    """The shipped scores of all attentions and controls, from `mini` to near and far stickers.

    Args:
        file: a table that `data/make_truth.py` wrote; None is the shipped one.

    Returns:
        one row a run, heatmap, step and layer, means over 48 pictures: `preset`, `alpha`, `seed`, `run` (the method
        that was trained), and the columns of `attention_scores`; of a run that diverged one row, of the kind
        `"diverged"`.

    Raises:
        ShippedDataError: when the shipped table is damaged or missing, with both checksums.

    Example:
        >>> sorted(truth()["preset"].unique())
        ['far', 'near']
    """
    if file is None:
        file = data_dir() / "truth" / "scores.csv"
        verify_shipped(file)
    if not Path(file).is_file():
        raise ScoreError(f"there is no table at {quote(str(file))}")
    return pd.read_csv(file)


def against_even(table: pd.DataFrame, score: str = "inside") -> pd.DataFrame:
    """How much more of a score a heatmap has than even weights have, layer by layer, with t intervals over seeds.

    Positions are compared with even positions, channels with even channels that are projected alike. Of an attention
    there are two rows a layer: its nets as they began (`"random nets"`) and as they ended (`"trained"`).

    Args:
        table: of `truth`, or of `attention_scores` and `control_scores` with columns `seed` and `run`.
        score: `"inside"`, `"hit"` or `"iou"`.

    Returns:
        `heat`, `nets`, `layer`, `gain` and `half` its 95 % interval in points, `n` seeds, `words`: what the interval
        forces one to say.

    Raises:
        ScoreError: when there is no such score.

    Example:
        >>> table = truth().query("preset == 'near' and alpha == 3")
        >>> against_even(table).query("heat == 'Grad-CAM' and layer == 4")["gain"].item() > 10
        True
    """
    if score not in SCORES:
        raise ScoreError(f"score must be one of {', '.join(map(repr, SCORES))}, got {score!r}")
    key = ["seed", "run", "heat", "kind", "step", "layer"]
    missing = [name for name in (*key, score) if name not in table]
    if missing:
        raise ScoreError(f"the table has no column {missing[0]!r}, got {quote(list(table))}")
    whole = table[table["kind"] != "diverged"]
    each = whole.groupby(key, sort=False)[list({*SCORES, *SCORES.values()})].mean().reset_index()
    last = int(each["step"].max())
    equal = each[each["heat"] == "even channels"].set_index(["seed", "run", "layer"])[score]
    rows: Rows = []
    for (heat, kind, step, layer), part in each.groupby(["heat", "kind", "step", "layer"], sort=False):
        if heat in ("even", "even channels") or (step not in (0, last)):
            continue
        if kind == "channel":
            control = part.set_index(["seed", "run", "layer"]).index.map(equal).to_numpy(float)
        else:
            control = part[SCORES[score]].to_numpy(float)
        gaps = pd.Series(100 * (part[score].to_numpy() - control)).groupby(part["seed"].to_numpy()).mean()
        found = mean_interval(gaps.dropna())
        nets = "" if kind == "control" else "random nets" if step == 0 else "trained"
        rows.append(
            {
                "heat": heat,
                "nets": nets,
                "layer": int(layer),
                "gain": found.mean,
                "half": found.half,
                "n": found.n,
            }
            | {"words": _in_words(found, len(gaps), "even channels" if kind == "channel" else "even weights")}
        )
    return pd.DataFrame(rows)


def _in_words(found: MeanInterval, seeds: int, control: str) -> str:
    if not found.n:
        return "no weight left in this layer"
    left = f" (no weight left with {seeds - found.n} of {seeds} seeds)" if found.n < seeds else ""
    if not found.half < abs(found.mean):
        return f"cannot be told from {control}{left}"
    side = "above" if found.mean > 0 else "below"
    if abs(found.mean) < 0.5:
        return f"{side} {control}, by less than half a point{left}"
    return f"{abs(found.mean):.1f} points {side} {control}{left}"


def _masks(run: Run) -> np.ndarray:
    masks = run.probe.get("masks")
    if masks is None:
        raise ScoreError(
            f"the pictures of {run.path.name!r} have no masks: there is no object to score against"
        )
    return masks


def _pictures(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(run.probe["images"]), torch.from_numpy(run.probe["labels"]).long()


def _projected(trained: TrainedRun, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    images, labels = _pictures(trained.run)
    return channel_maps(trained.backbone, images, weights, trained.target, labels, size=0)


def _square(w: np.ndarray) -> np.ndarray:
    side = round(w.shape[1] ** 0.5)
    return w.reshape(len(w), side, -1)


def _scored(
    head: dict[str, Any], heats: Mapping[str, np.ndarray], masks: np.ndarray
) -> Iterator[dict[str, Any]]:
    for layer, by_picture in enumerate(heats.values(), start=1):
        for picture, (heat, mask) in enumerate(zip(by_picture, masks, strict=True)):
            place = {"layer": layer, "picture": picture}
            chance = float(touched(mask, heat.shape).mean())
            found = mask_scores(heat, mask) if heat.max() > 0 else None
            hit, inside, iou = (float(found.hit), found.inside, found.iou) if found else (math.nan,) * 3
            area = float(mask.mean())
            yield head | place | {"hit": hit, "chance": chance, "inside": inside, "area": area, "iou": iou}
