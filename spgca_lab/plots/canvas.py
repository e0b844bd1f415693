"""A drawing surface for explorers: pictures and words at exact places, without the cost of many axes."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from spgca_lab.plots.pictures import outline
from spgca_lab.plots.style import DPI, FONT, GREY, LabFigure, plain

__all__ = ["Canvas"]


class Canvas:
    """One axes over a whole figure, in inches from its upper left, and further axes where curves are needed.

    An axes of matplotlib costs some 10 ms to make and as much to draw, a picture in it 1 ms: an explorer that
    shows ten heatmaps must not make ten axes.

    Args:
        width: of the figure, in inches.
        height: of the figure, in inches.

    Example:
        >>> canvas = Canvas(4, 2)
        >>> _ = canvas.picture(0.1, 0.1, 1.0, np.zeros((8, 8, 3), np.uint8), title="dark")
        >>> len(canvas.axes.images)
        1
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = LabFigure(figsize=(width, height), dpi=DPI)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)

    def picture(
        self,
        x: float,
        y: float,
        wide: float,
        pixels: np.ndarray,
        *,
        title: str = "",
        mask: np.ndarray | None = None,
        chosen: bool = False,
        **look: Any,
    ) -> Any:
        """A picture or a map `wide` inches across, its title above it, the outline of a mask in it."""
        high = wide * pixels.shape[0] / pixels.shape[1]
        box = (x, x + wide, y + high, y)
        image = self.axes.imshow(pixels, extent=box, interpolation="nearest", aspect="auto", **look)
        if mask is not None:
            outline(self.axes, mask, box)
        if chosen:
            frame = Rectangle((x, y), wide, high, fill=False, edgecolor="#D55E00", linewidth=2.4)
            self.axes.add_patch(frame)
        if title:
            self.words(x + wide / 2, y - 0.06, title, ha="center")
        return image

    def words(self, x: float, y: float, text: str, *, size: float = FONT, **look: Any) -> Any:
        """Words on a baseline (`va="top"`: below the point)."""
        # Text of the figure, not of the axes: setting the axes' clip path takes longer than drawing the words.
        place = (x / self.width, 1 - y / self.height)
        return self.figure.text(*place, plain(text), fontsize=size, **({"va": "baseline"} | look))

    def bar(
        self, x: float, y: float, wide: float, limits: tuple[float, float], cmap: str, label: str
    ) -> None:
        """A horizontal colour bar: its ends' values, and what it measures."""
        ramp = colormaps[cmap](np.linspace(0, 1, 64))[None, :, :3]
        self.axes.imshow(ramp, extent=(x, x + wide, y + 0.07, y), aspect="auto")
        below: dict[str, Any] = {"size": FONT - 2, "va": "top", "color": GREY}
        self.words(x, y + 0.1, f"{limits[0]:.2g}", **below)
        self.words(x + wide, y + 0.1, f"{limits[1]:.2g}", ha="right", **below)
        self.words(x + wide / 2, y + 0.1, label, ha="center", **below)

    def note(self, x: float, y: float, wide: float, high: float, text: str) -> None:
        """A grey box that says why there is nothing to see here."""
        box = Rectangle((x, y), wide, high, facecolor="#f4f4f4", edgecolor="#cccccc", linewidth=0.6)
        self.axes.add_patch(box)
        middle = {"ha": "center", "va": "center", "color": GREY}
        self.words(x + wide / 2, y + high / 2, text, size=FONT - 1, **middle)

    def curves(self, x: float, y: float, wide: float, high: float) -> Axes:
        """True axes at this place, for curves and bars."""
        w, h = self.width, self.height
        return self.figure.add_axes((x / w, 1 - (y + high) / h, wide / w, high / h))
