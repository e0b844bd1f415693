"""Pictures and feature maps: what goes in, and what the tapped layers make of it (Eq. 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from spgca_lab._checks import Array, quote
from spgca_lab.plots.style import (
    DIVERGING,
    FONT,
    MAGNITUDE,
    LabFigure,
    PlotError,
    as_array,
    as_pictures,
    colour_bar,
    grid,
    heading,
    tidy,
)

__all__ = ["feature_maps", "map_triplet", "outline", "picture_grid", "strongest_channels"]

MOST = 1000


def picture_grid(
    images: Any,
    titles: Sequence[str] | None = None,
    masks: Any = None,
    *,
    columns: int | None = None,
    title: str = "",
) -> LabFigure:
    """Pictures side by side, with the outline of the object where its mask is known.

    Args:
        images: uint8 `[n, 3, h, w]`, or a list of pictures of any size.
        titles: one a picture.
        masks: bool `[n, h, w]`.
        columns: pictures a row (None: up to 8, in rows of like length).
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when the numbers of titles or masks differ from that of the pictures.

    Example:
        >>> figure = picture_grid(np.zeros((3, 3, 8, 8), np.uint8), titles=["a", "b", "c"])
        >>> [axes.get_title() for axes in figure.axes]
        ['a', 'b', 'c']
    """
    pictures = as_pictures(images)
    for name, given in (("titles", titles), ("masks", masks)):
        if given is not None and len(given) != len(pictures):
            raise PlotError(f"{len(pictures)} pictures need as many {name}, got {len(given)}")
    if columns is not None and not 1 <= columns <= MOST:
        raise PlotError(f"columns must be a whole number from 1 to {MOST}, or None, got {quote(columns)}")
    rows = -(-len(pictures) // (columns or 8))
    across = columns or -(-len(pictures) // rows)
    top = (0.26 if title else 0.05) + (0.2 if titles is not None else 0)
    figure, axes = grid(
        rows,
        across,
        cell=2.2,
        margins=(0.1, 0.1, top, 0.05),
        gaps=(0.1, 0.3 if titles is not None else 0.1),
    )
    for i, spot in enumerate(axes.flat):
        if i >= len(pictures):
            spot.remove()
            continue
        spot.imshow(pictures[i])
        tidy(spot, title=titles[i] if titles is not None else "", picture=True)
        if masks is not None:
            outline(spot, as_array(masks[i]))
    heading(figure, title)
    return figure


def outline(
    axes: Axes, mask: np.ndarray, extent: tuple[float, float, float, float] | None = None
) -> PathPatch | None:
    """Draw the edge of a mask, pixel by pixel, in white on black: visible on any picture.

    Args:
        axes: where the picture is.
        mask: bool `[h, w]`.
        extent: left, right, bottom, top of the picture in the axes, as for `imshow`; None for pixels.

    Returns:
        the white line, None when the mask is empty.
    """
    h, w = mask.shape
    x0, x1, y1, y0 = extent or (-0.5, w - 0.5, h - 0.5, -0.5)
    inside = np.pad(mask.astype(np.int8), 1)
    rows, columns = np.nonzero(np.diff(inside[:, 1:-1], axis=0))
    across = np.stack([np.stack([columns, rows], -1), np.stack([columns + 1, rows], -1)], 1)
    rows, columns = np.nonzero(np.diff(inside[1:-1], axis=1))
    down = np.stack([np.stack([columns, rows], -1), np.stack([columns, rows + 1], -1)], 1)
    lines = np.concatenate([across, down]) * [(x1 - x0) / w, (y1 - y0) / h] + [x0, y0]
    if not len(lines):
        return None
    path = Path(lines.reshape(-1, 2), np.tile([Path.MOVETO, Path.LINETO], len(lines)))
    # add_patch would update the data limits segment by segment, which takes longer than the drawing.
    axes.add_artist(PathPatch(path, fill=False, edgecolor="black", linewidth=2.4, capstyle="projecting"))
    white = PathPatch(path, fill=False, edgecolor="white", linewidth=1.0, capstyle="projecting")
    axes.add_artist(white)
    return white


def strongest_channels(maps: Array, count: int) -> list[int]:
    """Channels with the largest mean absolute value, strongest first.

    Args:
        maps: `[c, h, w]`.
        count: how many; no more than there are.

    Example:
        >>> strongest_channels(np.array([[[0.0]], [[-3.0]], [[1.0]]]), 2)
        [1, 2]
    """
    strength = np.abs(_one_map(maps)).mean(axis=(1, 2))
    return np.argsort(-strength, kind="stable")[:count].tolist()


def feature_maps(
    maps: Array, channels: Sequence[int] | None = None, *, count: int = 16, columns: int = 8, title: str = ""
) -> LabFigure:
    """Chosen channels of one layer's feature map, or the strongest ones, on one scale.

    The maps are taken before BatchNorm, so they have both signs: blue is negative, red positive, white zero.
    Maps without negative values are shown as magnitudes.

    Args:
        maps: FM of one picture, `[c, h, w]`.
        channels: which; None takes the `count` strongest by mean absolute value.
        count: how many of the strongest.
        columns: maps a row.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when `maps` is not `[c, h, w]`, or a channel does not exist.

    Example:
        >>> len(feature_maps(np.random.randn(5, 4, 4), count=3).axes)   # three maps and a colour bar
        4
    """
    for what, number in (("count", count), ("columns", columns)):
        if not 1 <= number <= MOST:
            raise PlotError(f"{what} must be a whole number from 1 to {MOST}, got {quote(number)}")
    field = _one_map(maps)
    chosen = strongest_channels(field, count) if channels is None else list(channels)
    wrong = [c for c in chosen if not 0 <= c < len(field)]
    if wrong or not chosen:
        raise PlotError(f"channels must be from 0 to {len(field) - 1}, got {wrong or 'none'}")
    across = min(columns, len(chosen))
    figure, axes = grid(
        -(-len(chosen) // across),
        across,
        cell=1.5,
        ratio=field.shape[1] / field.shape[2],
        margins=(0.1, 0.65, 0.46 if title else 0.22, 0.08),
        gaps=(0.08, 0.24),
    )
    style = _scale(field[chosen])
    shown = None
    for i, spot in enumerate(axes.flat):
        if i >= len(chosen):
            spot.remove()
            continue
        shown = spot.imshow(field[chosen[i]], interpolation="nearest", **style)
        tidy(spot, title=f"channel {chosen[i]}", picture=True)
    colour_bar(figure, shown, axes[0, across - 1], "activation")
    heading(figure, title)
    return figure


def map_triplet(
    source: Array, target: Array, *, labels: Sequence[str] | None = None, title: str = ""
) -> LabFigure:
    """Source, target and their signed difference FM_T − FM_S; source and target share one scale.

    Args:
        source: `[h, w]`, or several maps `[n, h, w]`, one a row.
        target: of the same shape.
        labels: one a row, e.g. the layer's name.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when the shapes differ or are neither of these.

    Example:
        >>> figure = map_triplet(np.zeros((4, 4)), np.ones((4, 4)))
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['source  FM_S', 'target  FM_T', 'difference  FM_T − FM_S']
    """
    s, t = as_array(source), as_array(target)
    if s.shape != t.shape or s.ndim not in (2, 3) or s.size == 0:
        raise PlotError(
            f"source and target must both be [h, w] or [n, h, w], got {list(s.shape)} and {list(t.shape)}"
        )
    s, t = s.reshape(-1, *s.shape[-2:]), t.reshape(-1, *t.shape[-2:])
    if labels is not None and len(labels) != len(s):
        raise PlotError(f"{len(s)} rows need as many labels, got {len(labels)}")
    figure, axes = grid(
        len(s),
        3,
        ratio=s.shape[1] / s.shape[2],
        cell=1.7 if len(s) > 1 else 2.3,
        margins=(0.15 + 0.07 * max(map(len, labels)) if labels else 0.1, 0.6, 0.46 if title else 0.22, 0.08),
        gaps=(0.65, 0.12),
    )
    heads = ("source  FM_S", "target  FM_T", "difference  FM_T − FM_S")
    for row, (a, b) in enumerate(zip(s, t, strict=True)):
        style = _scale(np.stack([a, b]))
        gap = max(float(np.abs(b - a).max()), 1e-12)
        signed = {"cmap": DIVERGING, "vmin": -gap, "vmax": gap}
        for column, (field, look) in enumerate(((a, style), (b, style), (b - a, signed))):
            spot = axes[row, column]
            shown = spot.imshow(field, interpolation="nearest", **look)
            tidy(spot, title=heads[column] if row == 0 else "", picture=True)
            if column > 0:
                colour_bar(figure, shown, spot, "activation" if column == 1 else "difference")
        if labels:
            axes[row, 0].text(
                -0.06,
                0.5,
                labels[row],
                transform=axes[row, 0].transAxes,
                ha="right",
                va="center",
                fontsize=FONT,
            )
    heading(figure, title)
    return figure


def _one_map(maps: Array) -> np.ndarray:
    field = as_array(maps)
    if field.ndim != 3 or field.size == 0:
        raise PlotError(f"the map of one layer and one picture must be [c, h, w], got {list(field.shape)}")
    return field


def _scale(values: np.ndarray) -> dict[str, Any]:
    top = max(float(np.abs(values).max()), 1e-12)
    if values.min() < 0:
        return {"cmap": DIVERGING, "vmin": -top, "vmax": top}
    return {"cmap": MAGNITUDE, "vmin": 0.0, "vmax": top}
