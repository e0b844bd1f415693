"""The figure of AttentionExplorer: heatmaps of every layer, channel weights, shares of layers and Grad-CAM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spgca_lab.plots.attention import draw_channels, draw_heatmaps, overlay
from spgca_lab.plots.canvas import Canvas, Place, shortened, wrapped
from spgca_lab.plots.style import WIDTH, LabFigure, as_array, as_image

CHANNELS_HEIGHT = 1.95


@dataclass(frozen=True)
class SpatialView:
    """One spatial attention."""

    name: str  # of the attention, or why there is none
    maps: Mapping[str, np.ndarray] | None = None  # {tap: [h, w]} in units of the uniform weight


@dataclass(frozen=True)
class ChannelView:
    """One channel attention."""

    name: str  # of the attention, or why there is none
    weights: Mapping[str, np.ndarray] | None = None  # {tap: [c]}, softmax weights
    joint: bool = True  # one distribution over all layers (GCA) instead of one per layer (ACT)


@dataclass(frozen=True)
class AttentionView:
    """The attention on one image, ready to draw."""

    image: Any  # uint8 [3, h, w]
    mask: Any = None  # bool [h, w]
    spatial: Sequence[SpatialView] = ()  # one or two, one per row
    channel: Sequence[ChannelView] = ()  # one or two, side by side
    cam: Any = None  # Grad-CAM [rows, columns], at least 0
    cam_name: str = ""  # class that the Grad-CAM explains, or why there is none


def attention_height(rows: int) -> float:
    """Return the height in inches for one or two rows of heatmaps."""
    return (2.45 if rows < 2 else 4.65) + CHANNELS_HEIGHT


def attention_panel(view: AttentionView, opacity: float = 0.65) -> LabFigure:
    """Draw an image, its Grad-CAM, spatial attention in every layer, channel attention and shares of layers."""
    rows = max(1, len(view.spatial))
    canvas = Canvas(WIDTH, attention_height(rows))
    image, mask = as_image(view.image), view.mask
    width, down = (1.45, 2.2) if rows > 1 else (1.38, 0.0)
    x, y = (0.1, 0.52 + down) if rows > 1 else (0.2 + width, 0.52)
    canvas.image(0.1, 0.52, width, image, title="image", mask=mask)
    if view.cam is None:
        canvas.note(x, y, width, width, wrapped(view.cam_name or "no Grad-CAM"))
        canvas.text(x + width / 2, y - 0.06, "Grad-CAM", ha="center")
    else:
        heat = as_array(view.cam).astype(float)
        pixels = overlay(image, heat / max(float(heat.max()), 1e-12), (0, 1), opacity, "magma")
        canvas.image(x, y, width, pixels, title=shortened(f"Grad-CAM: {view.cam_name}", 24), mask=mask)
        canvas.colour_bar(x, y + width + 0.05, width, (0, 1), "magma", "of its maximum")
    left = (0.1 if rows > 1 else x) + width + 0.22
    for i, spatial in enumerate(view.spatial):
        heatmap_row(canvas, (left, 0.52 + i * down, width), image, mask, spatial, opacity)
    count = max(1, len(view.channel))
    room = (WIDTH - 0.1) / count
    for i, channel in enumerate(view.channel):
        place = 0.1 + i * room, canvas.height - CHANNELS_HEIGHT + 0.38
        channel_row(canvas, place, room, channel, narrow=count > 1)
    return canvas.figure


def heatmap_row(
    canvas: Canvas, place: Place, image: np.ndarray, mask: Any, view: SpatialView, opacity: float
) -> None:
    """Draw the heatmaps of a spatial attention from `place` (x, y, width) to the right edge, or why there are none."""
    x, y, width = place
    canvas.text(x, y - 0.3, view.name, weight="bold")
    room = WIDTH - 0.1 - x
    if view.maps is None:
        canvas.note(x, y, room, width, wrapped(view.name, 60))
        return
    apart = min((room - width) / max(len(view.maps) - 1, 1), 2 * width)
    draw_heatmaps(canvas, place, image, mask, list(view.maps.values()), opacity, apart=apart)


def channel_row(
    canvas: Canvas, place: tuple[float, float], room: float, view: ChannelView, *, narrow: bool = False
) -> None:
    """Draw a channel attention in `room` inches from `place`, or why there is none."""
    x, y = place
    canvas.text(x, y - 0.32, view.name, weight="bold")
    if view.weights is None:
        canvas.note(x, y, room - 0.1, 1.05, wrapped(view.name, 50 if narrow else 90))
        return
    weights = {tap: as_array(w).astype(float) for tap, w in view.weights.items()}
    draw_channels(canvas, place, room, weights, view.joint, narrow=narrow)
