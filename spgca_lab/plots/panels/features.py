"""What FeatureMapExplorer shows: one channel of S and T, their difference, and the layer's strongest channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spgca_lab.plots.canvas import Canvas
from spgca_lab.plots.chart import Chart, span
from spgca_lab.plots.style import DIVERGING, GREY, MAGNITUDE, WIDTH, LabFigure, as_array, as_picture

__all__ = ["FEATURE_HEIGHT", "GRID", "feature_panel", "signed"]

FEATURE_HEIGHT = 4.95
ACROSS = 12
GRID = 2 * ACROSS


def feature_panel(
    image: Any, source: Any, channel: int, order: Sequence[int], target: Any = None, mask: Any = None
) -> LabFigure:
    """One channel of one layer beside its picture, with the layer's strongest channels as a grid below.

    Args:
        image: uint8 `[3, h, w]`.
        source: FM_S of the layer, `[c, h, w]`.
        channel: which to show large.
        order: channels from strong to weak.
        target: FM_T of the same shape, or None.
        mask: bool `[h, w]`, or None.

    Returns:
        a figure of 9 × 4.95 inches.

    Example:
        >>> fm = np.random.randn(3, 4, 4)
        >>> figure = feature_panel(np.zeros((3, 8, 8), np.uint8), fm, channel=2, order=[2, 0, 1])
        >>> figure.get_size_inches().tolist()
        [9.0, 4.95]
    """
    canvas, picture, fm = Canvas(WIDTH, FEATURE_HEIGHT), as_picture(image), as_array(source)
    other = None if target is None else as_array(target)
    side, top = 2.08, 0.32
    canvas.picture(0.1, top, side, picture, title="picture x", mask=None if mask is None else as_array(mask))
    shown = [fm[channel]] if other is None else [fm[channel], other[channel]]
    # One kind of colour map for the whole layer: a channel without negative values is still a signed
    # quantity.
    both = bool(fm.min() < 0)
    look = signed(np.stack(shown), always=both)
    for i, values in enumerate(shown):
        x = 0.1 + (side + 0.15) * (i + 1)
        name = f"{('source  FM_S', 'target  FM_T')[i]}, channel {channel}"
        canvas.picture(x, top, side, values, title=name, **look)
        canvas.bar(x, top + side + 0.06, side, (look["vmin"], look["vmax"]), look["cmap"], "activation")
    if other is not None:
        gap = signed(other[channel] - fm[channel], always=True)
        x = 0.1 + 3 * (side + 0.15)
        canvas.picture(x, top, side, other[channel] - fm[channel], title="difference  FM_T − FM_S", **gap)
        canvas.bar(x, top + side + 0.06, side, (gap["vmin"], gap["vmax"]), DIVERGING, "difference")
    else:
        _strengths(canvas, (5.3, top, 3.5, side), fm, channel, order)
    wide = (WIDTH - 0.2 - 0.07 * (ACROSS - 1)) / ACROSS
    canvas.words(0.1, 2.99, "strongest channels of FM_S, each on its own scale:", color=GREY)
    for i, c in enumerate(order[:GRID]):
        row, column = divmod(i, ACROSS)
        place = (0.1 + column * (wide + 0.07), 3.25 + row * (wide + 0.22))
        canvas.picture(*place, wide, fm[c], title=str(c), chosen=c == channel, **signed(fm[c], always=both))
    return canvas.figure


def signed(values: np.ndarray, *, always: bool = False) -> dict[str, Any]:
    """Colour map and limits: diverging around 0 where there are negative values, else from 0 up.

    Example:
        >>> signed(np.array([0.0, 2.0]))
        {'cmap': 'viridis', 'vmin': 0.0, 'vmax': 2.0}
    """
    top = max(float(np.abs(values).max()), 1e-12)
    if always or values.min() < 0:
        return {"cmap": DIVERGING, "vmin": -top, "vmax": top}
    return {"cmap": MAGNITUDE, "vmin": 0.0, "vmax": top}


def _strengths(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    fm: np.ndarray,
    channel: int,
    order: Sequence[int],
) -> None:
    strength = np.abs(fm).mean(axis=(1, 2))
    chart = Chart(
        canvas,
        *box,
        (0, max(len(order) - 1, 1)),
        span(strength, zero=True),
        title="mean |activation| of every channel",
        xlabel="channels, strong to weak",
    )
    places = np.arange(len(order))
    chart.band(places, np.zeros(len(order)), strength[list(order)], color="#999999", alpha=0.6)
    chart.dots([list(order).index(channel)], [strength[channel]], color="#D55E00", markersize=7)
