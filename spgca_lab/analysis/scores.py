"""Scores of an attention: how even it is, and whether it lies on the object where a mask is known."""

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
    "best_iou",
    "effective_number",
    "entropy",
    "layer_shares",
    "mask_scores",
    "mass_inside",
    "pointing_hit",
    "touched",
    "weight_counts",
]


class ScoreError(ValueError):
    """Weights or a mask that cannot be scored."""


@dataclass(frozen=True)
class MaskScores:
    """How well a heatmap lies on an object.

    Args:
        hit: the strongest cell touches the object (pointing game).
        inside: share of the heatmap's mass inside the object, 0–1.
        area: share of the picture that the object covers: what an even heatmap would have as `inside`.
        iou: greatest intersection over union over all thresholds of the heatmap.
    """

    hit: bool
    inside: float
    area: float
    iou: float


def entropy(weights: Array | Mapping[str, Any]) -> float:
    r"""Entropy in nats of one distribution, which may be spread over several layers.

    $$H = -\sum_i a_i \ln a_i$$

    Args:
        weights: `[n]`, or `{tap: [c]}` for one distribution over all taps; sums to 1.

    Returns:
        from 0 (one weight has it all) to ln n (uniform).

    Raises:
        ScoreError: when a weight is negative or the sum is not 1.

    Example:
        >>> round(entropy(np.full(8, 1 / 8)) / math.log(8), 6)
        1.0
    """
    a = _distribution(weights)
    return float(-np.sum(a[a > 0] * np.log(a[a > 0]))) + 0.0


def effective_number(weights: Array | Mapping[str, Any]) -> float:
    r"""How many weights carry the distribution: exp(H), n when uniform, 1 when one has it all.

    Args:
        weights: as `entropy`.

    Raises:
        ScoreError: as `entropy`.

    Example:
        >>> round(effective_number([0.5, 0.5, 0.0]), 6)
        2.0
    """
    return math.exp(entropy(weights))


def layer_shares(weights: Mapping[str, Any]) -> dict[str, float]:
    """Each layer's share of a distribution over all layers (GCA); the shares sum to 1.

    Args:
        weights: `{tap: [c]}`.

    Raises:
        ScoreError: as `entropy`.

    Example:
        >>> layer_shares({"a": [0.25, 0.25], "b": [0.5]})
        {'a': 0.5, 'b': 0.5}
    """
    _distribution(weights)
    return {tap: float(_array(w).sum()) for tap, w in weights.items()}


def weight_counts(snapshots: Iterable[Snapshot]) -> dict[str, dict[str, int]]:
    """Number of weights by stage and tap, and of all taps together, from a run's snapshots.

    Returns:
        `{stage: {tap: n, "all": Σn}}`, as `plots.entropy_curves` takes it.

    Example:
        >>> weight_counts([Snapshot(0, "gca", "channel", {"a": np.ones((2, 4)), "b": np.ones((2, 6))})])
        {'gca': {'a': 4, 'b': 6, 'all': 10}}
    """
    counts = {}
    for snapshot in snapshots:
        sizes = {tap: w.shape[1] for tap, w in snapshot.weights.items()}
        counts[snapshot.stage] = sizes | {"all": sum(sizes.values())}
    return counts


def pointing_hit(heat: Array, mask: Array) -> bool:
    """Pointing game: does the strongest cell touch the object? Of equal ones the first counts, row by row.

    Args:
        heat: `[rows, columns]`, at least 0, stretched over the picture.
        mask: bool `[h, w]`, at least as fine as the heatmap.

    Raises:
        ScoreError: when a shape does not fit, or heat is negative or empty of mass.

    Source:
        Zhang et al. 2016 (excitation backprop), without their tolerance of 15 pixels: a cell counts as a
        whole.

    Example:
        >>> pointing_hit([[0.1, 0.9], [0.0, 0.0]], np.array([[False, True], [False, False]]))
        True
    """
    field, object_ = _heat_and_mask(heat, mask)
    row, column = divmod(int(np.argmax(field)), field.shape[1])
    rows, columns = _cells(field.shape, object_.shape)
    return bool(object_[np.ix_(rows == row, columns == column)].any())


def touched(mask: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Which cells of a grid over the picture touch the object; their share is the pointing game's chance level.

    Args:
        mask: bool `[h, w]`, at least as fine as the grid.
        shape: rows and columns of the grid.

    Returns:
        bool `[rows, columns]`.

    Raises:
        ScoreError: when the mask is coarser than the grid.

    Example:
        >>> touched(np.array([[True, False], [False, False]]), (1, 2)).tolist()
        [[True, False]]
    """
    object_ = _array(mask).astype(bool)
    if object_.ndim != 2 or len(shape) != 2 or any(m < n for m, n in zip(object_.shape, shape, strict=True)):
        raise ScoreError(f"needs a mask [h, w] at least as fine as {shape}, got {list(object_.shape)}")
    rows, columns = _cells(shape, object_.shape)
    cells = np.zeros(shape, dtype=bool)
    np.logical_or.at(cells, (rows[:, None], columns[None, :]), object_)
    return cells


def mass_inside(heat: Array, mask: Array) -> float:
    """Share of the heatmap's mass inside the object, each cell spread evenly over its pixels.

    Args:
        heat: `[rows, columns]`, at least 0, stretched over the picture.
        mask: bool `[h, w]`.

    Returns:
        0–1; an even heatmap has the object's share of the picture.

    Raises:
        ScoreError: as `pointing_hit`.

    Example:
        >>> mass_inside([[3.0, 1.0]], np.array([[True, False]]))
        0.75
    """
    field, object_ = _heat_and_mask(heat, mask)
    rows, columns = _cells(field.shape, object_.shape)
    # Where the cells do not divide the picture, some have more pixels: each cell keeps its mass.
    pixels = np.bincount(rows)[:, None] * np.bincount(columns)[None, :]
    fine = (field / pixels)[rows][:, columns]
    return float(fine[object_].sum() / field.sum())


def best_iou(heat: Array, mask: Array) -> float:
    """Greatest intersection over union of the object and the heatmap above a threshold, of all thresholds.

    Args:
        heat: `[rows, columns]`, at least 0, stretched over the picture.
        mask: bool `[h, w]`.

    Returns:
        0–1; at least the object's share of the picture, which the lowest threshold gives.

    Raises:
        ScoreError: as `pointing_hit`.

    Example:
        >>> best_iou([[0.9, 0.1]], np.array([[True, False]]))
        1.0
    """
    field, object_ = _heat_and_mask(heat, mask)
    fine = _stretch(field, object_.shape)
    levels, place = np.unique(fine, return_inverse=True)
    total = np.bincount(place.ravel(), minlength=len(levels))[::-1].cumsum()
    inside = np.bincount(place.ravel(), weights=object_.ravel(), minlength=len(levels))[::-1].cumsum()
    return float((inside / (total + object_.sum() - inside)).max())


def mask_scores(heat: Array, mask: Array) -> MaskScores:
    """All scores of a heatmap against an object's mask.

    Args:
        heat: `[rows, columns]`, at least 0, stretched over the picture.
        mask: bool `[h, w]`.

    Raises:
        ScoreError: as `pointing_hit`.

    Example:
        >>> mask_scores([[3.0, 1.0]], np.array([[True, False]]))
        MaskScores(hit=True, inside=0.75, area=0.5, iou=1.0)
    """
    return MaskScores(
        hit=pointing_hit(heat, mask),
        inside=mass_inside(heat, mask),
        area=float(_array(mask).astype(bool).mean()),
        iou=best_iou(heat, mask),
    )


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _distribution(weights: Any) -> np.ndarray:
    parts = list(weights.values()) if isinstance(weights, Mapping) else [weights]
    arrays = [_array(w).astype(float) for w in parts]
    shapes = [a.shape for a in arrays]
    if not arrays or any(a.ndim != 1 for a in arrays):
        told = f"{[list(s) for s in shapes]} in {quote(weights)}"
        raise ScoreError(f"weights of one picture must be [n], got {told}: take one row")
    a = np.concatenate(arrays)
    # Snapshots are kept in half precision: their sums are right to about three digits.
    if a.size == 0 or not np.isfinite(a).all() or a.min() < 0 or abs(a.sum() - 1) > 0.02:
        raise ScoreError(
            f"weights must be at least 0 and sum to 1, their sum is {a.sum():g}: got {quote(weights)}"
        )
    return a / a.sum()


def _heat_and_mask(heat: Array, mask: Array) -> tuple[np.ndarray, np.ndarray]:
    field, object_ = _array(heat).astype(float), _array(mask).astype(bool)
    fits = field.ndim == object_.ndim == 2 and field.size > 0
    if not fits or any(m < f for m, f in zip(object_.shape, field.shape, strict=True)):
        raise ScoreError(
            f"needs a heatmap [rows, columns] and a mask [h, w] at least as fine, "
            f"got {list(field.shape)} and {list(object_.shape)}"
        )
    if not np.isfinite(field).all() or field.min() < 0 or field.sum() == 0:
        raise ScoreError("a heatmap must be finite and at least 0, and not 0 everywhere")
    if not object_.any():
        raise ScoreError("the mask is empty: there is no object to score against")
    return field, object_


def _cells(heat: tuple[int, ...], mask: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (np.arange(m) * f // m for f, m in zip(heat, mask, strict=True))
    return rows, columns


def _stretch(field: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    rows, columns = _cells(field.shape, size)
    return field[rows][:, columns]
