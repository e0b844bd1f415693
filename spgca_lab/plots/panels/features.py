"""The figure of FeatureMapExplorer: one channel of S and T, their difference, and the strongest channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spgca_lab.plots.canvas import CHOSEN, Box, Canvas, Chart, span
from spgca_lab.plots.images import draw_pair
from spgca_lab.plots.style import GREY, WIDTH, LabFigure, as_array, as_image, signed_scale

FEATURE_HEIGHT = 4.95
ACROSS = 12
GRID = 2 * ACROSS


def feature_panel(
    image: Any, source: Any, channel: int, order: Sequence[int], target: Any = None, mask: Any = None
) -> LabFigure:
    """Draw one channel of FM_S and FM_T `[c, h, w]` beside its image, and a grid of the strongest channels."""
    canvas, fm = Canvas(WIDTH, FEATURE_HEIGHT), as_array(source)
    other = None if target is None else as_array(target)
    side, top = 2.08, 0.32
    canvas.image(0.1, top, side, as_image(image), title="image x", mask=mask)
    # A channel without negative values is still a signed quantity, so the layer decides about the colour map.
    both = bool(fm.min() < 0)
    pair = fm[channel], None if other is None else other[channel]
    draw_pair(canvas, (0.25 + side, top, side), *pair, f", channel {channel}", always=both)
    if other is None:
        _strengths(canvas, (5.3, top, 3.5, side), fm, channel, order)
    width = (WIDTH - 0.2 - 0.07 * (ACROSS - 1)) / ACROSS
    canvas.text(0.1, 2.99, "strongest channels of FM_S, each on its own scale:", color=GREY)
    for i, c in enumerate(order[:GRID]):
        row, column = divmod(i, ACROSS)
        place = (0.1 + column * (width + 0.07), 3.25 + row * (width + 0.22), width)
        canvas.image(*place, fm[c], title=str(c), chosen=c == channel, **signed_scale(fm[c], always=both))
    return canvas.figure


def _strengths(canvas: Canvas, box: Box, fm: np.ndarray, channel: int, order: Sequence[int]) -> None:
    strength = np.abs(fm).mean(axis=(1, 2))[list(order)]
    look: dict[str, Any] = {
        "title": "mean |activation| of every channel",
        "xlabel": "channels, strong to weak",
    }
    chart = Chart(canvas, box, (0, max(len(order) - 1, 1)), span(strength, zero=True), **look)
    chart.band(np.arange(len(order)), 0, strength, color="#999999", alpha=0.6)
    place = list(order).index(channel)
    chart.dots([place], [strength[place]], color=CHOSEN, markersize=7)
