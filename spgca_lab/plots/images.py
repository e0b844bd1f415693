"""Figures of images and of feature maps (Eq. 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spgca_lab._checks import Array, quote
from spgca_lab.plots.canvas import Canvas, Place
from spgca_lab.plots.style import FONT, WIDTH, LabFigure, PlotError, as_array, as_images, signed_scale

MOST = 1000


def picture_grid(
    images: Any,
    titles: Sequence[str] | None = None,
    masks: Any = None,
    *,
    columns: int | None = None,
    title: str = "",
) -> LabFigure:
    """Draw images side by side, with the outline of the object where its mask is given.

    Args:
        images: uint8 `[n, 3, h, w]`, or a list of images of any size.
        titles: one title per image.
        masks: bool `[n, h, w]`.
        columns: images per row; None takes up to 8, in rows of similar length.
        title: title of the figure.

    Raises:
        PlotError: when the number of titles or masks differs from that of the images.
    """
    shown = as_images(images)
    require_as_many(shown, titles=titles, masks=masks)
    if columns is not None and not 1 <= columns <= MOST:
        raise PlotError(f"columns must be a whole number from 1 to {MOST}, or None, got {quote(columns)}")
    rows = -(-len(shown) // (columns or 8))
    across = columns or -(-len(shown) // rows)
    gap, between = 0.1, 0.3 if titles is not None else 0.1
    top = (0.26 if title else 0.05) + (0.2 if titles is not None else 0)
    cell = min((WIDTH - 0.2 - gap * (across - 1)) / across, 2.2)
    tallest = cell * min(max(image.shape[0] / image.shape[1] for image in shown), 1.0)
    canvas = Canvas(WIDTH, top + rows * tallest + between * (rows - 1) + 0.05)
    for i, image in enumerate(shown):
        row, column = divmod(i, across)
        width = min(cell, tallest * image.shape[1] / image.shape[0])
        x = 0.1 + column * (cell + gap) + (cell - width) / 2
        y = top + row * (tallest + between)
        name = titles[i] if titles is not None else ""
        canvas.image(x, y, width, image, title=name, mask=None if masks is None else masks[i])
    canvas.heading(title)
    return canvas.figure


def strongest_channels(maps: Array, count: int) -> list[int]:
    """Return the `count` channels of maps `[c, h, w]` with the largest mean absolute value, strongest first."""
    strength = np.abs(_one_map(maps)).mean(axis=(1, 2))
    return np.argsort(-strength, kind="stable")[:count].tolist()


def feature_maps(
    maps: Array, channels: Sequence[int] | None = None, *, count: int = 16, title: str = ""
) -> LabFigure:
    """Draw chosen channels of one layer's feature map, or the strongest ones, on one scale.

    Maps are recorded before BatchNorm, so they have both signs: blue is negative, red positive, white zero.
    Maps without negative values are shown as magnitudes.

    Args:
        maps: FM of one image, `[c, h, w]`.
        channels: channels to show; None takes the strongest by mean absolute value.
        count: number of the strongest channels.
        title: title of the figure.

    Raises:
        PlotError: when `maps` is not `[c, h, w]`, or a channel does not exist.
    """
    if not 1 <= count <= MOST:
        raise PlotError(f"count must be a whole number from 1 to {MOST}, got {quote(count)}")
    field = _one_map(maps)
    chosen = strongest_channels(field, count) if channels is None else list(channels)
    wrong = [c for c in chosen if not 0 <= c < len(field)]
    if wrong or not chosen:
        raise PlotError(f"channels must be from 0 to {len(field) - 1}, got {wrong or 'none'}")
    across = min(8, len(chosen))
    rows = -(-len(chosen) // across)
    width = min((WIDTH - 0.2 - 0.08 * (across - 1)) / across, 1.5)
    down = width * field.shape[1] / field.shape[2] + 0.24
    top = 0.46 if title else 0.22
    canvas = Canvas(WIDTH, top + rows * down + 0.12)
    scale = signed_scale(field[chosen])
    for i, channel in enumerate(chosen):
        row, column = divmod(i, across)
        place = (0.1 + column * (width + 0.08), top + row * down)
        canvas.image(*place, width, field[channel], title=f"channel {channel}", **scale)
    limits = scale["vmin"], scale["vmax"]
    canvas.colour_bar(0.1, top + rows * down - 0.16, max(width, 1.2), limits, scale["cmap"], "activation")
    canvas.heading(title)
    return canvas.figure


def map_triplet(
    source: Array, target: Array, *, labels: Sequence[str] | None = None, title: str = ""
) -> LabFigure:
    """Draw source, target and their signed difference FM_T − FM_S; source and target share one scale.

    Args:
        source: `[h, w]`, or `[n, h, w]` for one map per row.
        target: the same shape.
        labels: one label per row, for example the name of the layer.
        title: title of the figure.

    Raises:
        PlotError: when the shapes differ or are neither of these.
    """
    s, t = as_array(source), as_array(target)
    if s.shape != t.shape or s.ndim not in (2, 3) or s.size == 0:
        raise PlotError(
            f"source and target must both be [h, w] or [n, h, w], got {list(s.shape)} and {list(t.shape)}"
        )
    s, t = s.reshape(-1, *s.shape[-2:]), t.reshape(-1, *t.shape[-2:])
    require_as_many(s, labels=labels)
    left = 0.15 + 0.075 * max(map(len, labels)) if labels else 0.1
    width = min((WIDTH - left - 0.4) / 3, 1.7 if len(s) > 1 else 2.3)
    height, top = width * s.shape[1] / s.shape[2], 0.46 if title else 0.22
    canvas = Canvas(WIDTH, top + len(s) * (height + 0.34))
    for row, (a, b) in enumerate(zip(s, t, strict=True)):
        y = top + row * (height + 0.34)
        draw_pair(canvas, (left, y, width), a, b, "" if row == 0 else None)
        if labels:
            canvas.text(left - 0.08, y + height / 2, labels[row], size=FONT, ha="right", va="center")
    canvas.heading(title)
    return canvas.figure


def draw_pair(
    canvas: Canvas, place: Place, source: Any, target: Any, head: str | None = "", *, always: bool = False
) -> None:
    """Draw a map of FM_S, and with FM_T on the same scale their difference, from `place` (x, y, width)."""
    x, y, width = place
    scale = signed_scale(np.stack([source, source if target is None else target]), always=always)
    fields = [(f"source  FM_S{head}", source, scale)]
    if target is not None:
        change = target - source
        fields.append((f"target  FM_T{head}", target, scale))
        fields.append(("difference  FM_T − FM_S", change, signed_scale(change, always=True)))
    for i, (title, field, look) in enumerate(fields):
        at, below = x + i * (width + 0.15), y + width * field.shape[0] / field.shape[1] + 0.05
        canvas.image(at, y, width, field, title="" if head is None else title, **look)
        name = "difference" if i == 2 else "activation"
        canvas.colour_bar(at, below, width, (look["vmin"], look["vmax"]), look["cmap"], name)


def require_as_many(images: Sequence[Any] | np.ndarray, **given: Any) -> None:
    """Raise `PlotError` when titles or masks are given for another number of images."""
    for name, values in given.items():
        if values is not None and len(values) != len(images):
            raise PlotError(f"{len(images)} images need as many {name}, got {len(values)}")


def _one_map(maps: Array) -> np.ndarray:
    field = as_array(maps)
    if field.ndim != 3 or field.size == 0:
        raise PlotError(f"the map of one layer and one image must be [c, h, w], got {list(field.shape)}")
    return field
