"""Maps of one size, and whether two of them agree."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from spgca_lab._checks import Array, quote
from spgca_lab.data.augment import LARGEST

__all__ = ["Arrays", "AttributionError", "as_array", "attention_maps", "rank_agreement", "stretch"]

Arrays = dict[str, np.ndarray]


class AttributionError(ValueError):
    """Pictures, labels or arrays that cannot be explained or compared."""


def attention_maps(
    weights: Mapping[str, Any], shapes: Mapping[str, tuple[int, int, int]], size: int
) -> Arrays:
    """Spatial attention as pictures of one size, beside which attributions can be laid.

    Args:
        weights: `{tap: [b, h·w]}` of AST or SPA.
        shapes: `{tap: (c, h, w)}`, from `Backbone.tap_shapes`.
        size: side of the arrays.

    Returns:
        `{tap: [b, size, size]}`; each cell of the map becomes a square of equal values.

    Raises:
        AttributionError: when the weights do not fit the shapes.

    Example:
        >>> attention_maps({"a": np.full((1, 4), 0.25)}, {"a": (8, 2, 2)}, size=6)["a"].shape
        (1, 6, 6)
    """
    maps = {}
    for tap, w in weights.items():
        array = as_array(w)
        if tap not in shapes:
            raise AttributionError(f"there is no shape of {tap!r}, got those of {quote(list(shapes))}")
        _, height, width = shapes[tap]
        if array.ndim != 2 or array.shape[1] != height * width:
            raise AttributionError(
                f"weights at {tap!r} must be [b, {height}·{width}], got {list(array.shape)}"
            )
        maps[tap] = stretch(array.reshape(-1, height, width), size)
    return maps


def stretch(maps: Array, size: int) -> np.ndarray:
    """Maps at another size: cells become squares when it is larger, and are averaged when it divides theirs.

    Args:
        maps: `[b, h, w]`.
        size: side of the result.

    Raises:
        AttributionError: for another shape, or a size that is neither.

    Example:
        >>> stretch(np.array([[[1.0, 3.0], [5.0, 7.0]]]), 1).tolist()
        [[[4.0]]]
    """
    array = as_array(maps)
    if array.ndim != 3 or not 1 <= size <= LARGEST:
        raise AttributionError(
            f"needs maps [b, h, w] and a size from 1 to {LARGEST:,}, got {list(array.shape)}, {quote(size)}"
        )
    _, height, width = array.shape
    if size < max(height, width):
        if height % size or width % size:
            raise AttributionError(f"size {size} is neither above {height}×{width} nor a divisor of both")
        return array.reshape(len(array), size, height // size, size, width // size).mean(axis=(2, 4))
    rows, columns = (np.arange(size) * n // size for n in (height, width))
    return array[:, rows][:, :, columns]


def rank_agreement(attention: Array, attribution: Array) -> np.ndarray:
    r"""Spearman's rank correlation of two arrays, picture by picture: do they agree on what is more and what is less?

    Maps of two sizes are compared on the coarser grid, the finer one averaged over its cells.

    Args:
        attention: `[b, h, w]`, or `[b, c]` of channels.
        attribution: likewise, of a size that is a multiple of the other or a divisor.

    Returns:
        `[b]`, from −1 to 1; NaN where either is constant.

    Raises:
        AttributionError: when the shapes cannot be compared.

    Example:
        >>> rank_agreement([[1.0, 2.0, 3.0]], [[10.0, 30.0, 20.0]]).round(2).tolist()
        [0.5]
    """
    from scipy.stats import rankdata

    one, other = as_array(attention).astype(float), as_array(attribution).astype(float)
    if one.ndim != other.ndim or one.ndim not in (2, 3) or len(one) != len(other):
        raise AttributionError(
            f"needs two arrays [b, h, w] or two [b, c], got {list(one.shape)} and {list(other.shape)}"
        )
    if one.ndim == 3:
        side = min(one.shape[1], other.shape[1])
        one, other = stretch(one, side), stretch(other, side)
    elif one.shape != other.shape:
        raise AttributionError(f"needs as many channels, got {one.shape[1]} and {other.shape[1]}")
    ranks = [rankdata(a.reshape(len(a), -1), axis=1) for a in (one, other)]
    centred = [r - r.mean(axis=1, keepdims=True) for r in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    # The sum of squared ranks of a constant row is 0 exactly: all its ranks are equal.
    with np.errstate(invalid="ignore"):
        return (centred[0] * centred[1]).sum(axis=1) / scale


def as_array(values: Any) -> np.ndarray:
    """Tensors and arrays alike, as an array on the CPU."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
