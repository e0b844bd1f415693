"""Scores of attention weights: how uniform they are, and how much of them lies on an object with a known mask."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spgca_lab._checks import Array, quote
from spgca_lab.training.events import Snapshot

__all__ = [
    "MaskScores",
    "ScoreError",
    "as_array",
    "best_iou",
    "cells_of_pixels",
    "effective_number",
    "entropy",
    "layer_shares",
    "mask_scores",
    "mass_inside",
    "object_cells",
    "pointing_hit",
    "weight_counts",
]


class ScoreError(ValueError):
    """Weights or a mask that cannot be scored."""


def entropy(weights: Array | Mapping[str, Any]) -> float:
    r"""Return the entropy in nats of one distribution: from 0 (one-hot) to ln n (uniform).

    $$H = -\sum_i a_i \ln a_i$$

    Args:
        weights: `[n]`, or `{tap: [c]}` for one distribution over all taps; the sum must be 1.
    """
    a = _distribution(weights)
    return float(-np.sum(a[a > 0] * np.log(a[a > 0]))) + 0.0


def effective_number(weights: Array | Mapping[str, Any]) -> float:
    """Return how many weights carry the distribution: exp(H), which is n when uniform and 1 when one-hot."""
    return math.exp(entropy(weights))


def layer_shares(weights: Mapping[str, Any]) -> dict[str, float]:
    """Return each layer's share of one distribution `{tap: [c]}` over all layers (GCA); the shares sum to 1."""
    _distribution(weights)
    return {tap: float(as_array(w).sum()) for tap, w in weights.items()}


def weight_counts(snapshots: Iterable[Snapshot]) -> dict[str, dict[str, int]]:
    """Count the weights of a run's snapshots by stage and tap, `{stage: {tap: n, "all": sum}}`."""
    counts = {}
    for snapshot in snapshots:
        sizes = {tap: w.shape[1] for tap, w in snapshot.weights.items()}
        counts[snapshot.stage] = sizes | {"all": sum(sizes.values())}
    return counts


@dataclass(frozen=True)
class MaskScores:
    """Scores of a heatmap against an object's mask: those of `pointing_hit`, `mass_inside` and `best_iou`.

    `area` is the share of the image that the object covers, which is `inside` of a uniform heatmap.
    """

    hit: bool
    inside: float
    area: float
    iou: float


def mask_scores(heat: Array, mask: Array) -> MaskScores:
    """Compute all scores of a heatmap against an object's mask.

    Args:
        heat: `[rows, columns]`, at least 0 and not 0 everywhere; it is stretched over the image.
        mask: bool `[h, w]`, at least as fine as the heatmap and not empty.

    Example:
        >>> mask_scores([[3.0, 1.0]], np.array([[True, False]]))
        MaskScores(hit=True, inside=0.75, area=0.5, iou=1.0)
    """
    area = float(as_array(mask).astype(bool).mean())
    return MaskScores(pointing_hit(heat, mask), mass_inside(heat, mask), area, best_iou(heat, mask))


def pointing_hit(heat: Array, mask: Array) -> bool:
    """Play the pointing game: return whether the strongest cell touches the object.

    Of equally strong cells the first counts, row by row. The arguments are those of `mask_scores`.

    Source:
        Zhang et al. 2016 (excitation backprop), without their tolerance of 15 pixels: a cell counts as a whole.
    """
    field, object_ = _heat_and_mask(heat, mask)
    return bool(object_cells(object_, field.shape).ravel()[np.argmax(field)])


def object_cells(mask: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Mark the cells of a grid of this shape that touch the object; their share is the pointing game's chance level."""
    object_ = as_array(mask).astype(bool)
    if object_.ndim != 2 or len(shape) != 2 or any(m < n for m, n in zip(object_.shape, shape, strict=True)):
        raise ScoreError(f"needs a mask [h, w] at least as fine as {shape}, got {list(object_.shape)}")
    rows, columns = map(cells_of_pixels, shape, object_.shape)
    cells = np.zeros(shape, dtype=bool)
    np.logical_or.at(cells, (rows[:, None], columns[None, :]), object_)
    return cells


def mass_inside(heat: Array, mask: Array) -> float:
    """Return the share of the heatmap's mass inside the object, with each cell spread uniformly over its pixels."""
    field, object_ = _heat_and_mask(heat, mask)
    rows, columns = map(cells_of_pixels, field.shape, object_.shape)
    # Where the cells do not divide the image, some cells have more pixels than others.
    pixels = np.bincount(rows)[:, None] * np.bincount(columns)[None, :]
    fine = (field / pixels)[rows][:, columns]
    return float(fine[object_].sum() / field.sum())


def best_iou(heat: Array, mask: Array) -> float:
    """Return the greatest intersection over union of the object and the thresholded heatmap, over all thresholds."""
    field, object_ = _heat_and_mask(heat, mask)
    rows, columns = map(cells_of_pixels, field.shape, object_.shape)
    levels, place = np.unique(field[rows][:, columns], return_inverse=True)
    total = np.bincount(place.ravel(), minlength=len(levels))[::-1].cumsum()
    inside = np.bincount(place.ravel(), weights=object_.ravel(), minlength=len(levels))[::-1].cumsum()
    return float((inside / (total + object_.sum() - inside)).max())


def cells_of_pixels(cells: int, pixels: int) -> np.ndarray:
    """Return each pixel's cell when `cells` cells are stretched over `pixels` pixels: 2 over 5 gives 0, 0, 0, 1, 1."""
    return np.arange(pixels) * cells // pixels


def as_array(values: Any) -> np.ndarray:
    """Convert a tensor on any device, or anything that NumPy takes, to an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _distribution(weights: Any) -> np.ndarray:
    parts = list(weights.values()) if isinstance(weights, Mapping) else [weights]
    arrays = [as_array(w).astype(float) for w in parts]
    if not arrays or any(a.ndim != 1 for a in arrays):
        shapes = [list(a.shape) for a in arrays]
        raise ScoreError(
            f"weights of one image must be [n], got {shapes} in {quote(weights)}: select one row of the batch"
        )
    a = np.concatenate(arrays)
    # Snapshots are stored in half precision, so their sums are exact to about three digits.
    if a.size == 0 or not np.isfinite(a).all() or a.min() < 0 or abs(a.sum() - 1) > 0.02:
        raise ScoreError(
            f"weights must be at least 0 and sum to 1, their sum is {a.sum():g}: got {quote(weights)}"
        )
    return a / a.sum()


def _heat_and_mask(heat: Array, mask: Array) -> tuple[np.ndarray, np.ndarray]:
    field, object_ = as_array(heat).astype(float), as_array(mask).astype(bool)
    shapes = zip(object_.shape, field.shape, strict=False)
    if not (field.ndim == object_.ndim == 2 and field.size and all(m >= f for m, f in shapes)):
        raise ScoreError(
            f"needs a heatmap [rows, columns] and a mask [h, w] at least as fine, "
            f"got {list(field.shape)} and {list(object_.shape)}"
        )
    if not np.isfinite(field).all() or field.min() < 0 or field.sum() == 0:
        raise ScoreError("a heatmap must be finite and at least 0, and not 0 everywhere")
    if not object_.any():
        raise ScoreError("the mask is empty: there is no object to score against")
    return field, object_
