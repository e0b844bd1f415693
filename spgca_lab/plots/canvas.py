"""A drawing surface for explorers: pictures, words and charts at exact places, without the cost of many axes."""

from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from spgca_lab.plots.pictures import outline
from spgca_lab.plots.style import DPI, FONT, GREY, LabFigure, plain
from spgca_lab.plots.words import Words

__all__ = ["Canvas", "shortened", "wrapped"]

CHOSEN = "#D55E00"


class Canvas:
    """One axes over a whole figure, in inches from its upper left; charts on it draw their own scales.

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
        image = self._image(pixels, box, **look)
        if mask is not None:
            outline(self.axes, mask, box)
        if chosen:
            self.box(x, y, wide, high, fill=False, edgecolor=CHOSEN, linewidth=2.4)
        if title:
            self.words(x + wide / 2, y - 0.06, title, ha="center")
        return image

    def words(self, x: float, y: float, text: str, *, size: float = FONT, **look: Any) -> Any:
        """Words on a baseline (`va="top"`: below the point)."""
        # Text of the figure, not of the axes: setting the axes' clip path takes longer than drawing the words.
        place = (x / self.width, 1 - y / self.height)
        set_ = Words(*place, plain(text), fontsize=size, **({"va": "baseline"} | look))
        set_.set_transform(self.figure.transFigure)
        set_.set_figure(self.figure)
        self.figure.texts.append(set_)
        return set_

    def bar(
        self, x: float, y: float, wide: float, limits: tuple[float, float], cmap: str, label: str
    ) -> None:
        """A horizontal colour bar: its ends' values, and what it measures."""
        ramp = colormaps[cmap](np.linspace(0, 1, 64))[None, :, :3]
        self._image(ramp, (x, x + wide, y + 0.07, y))
        below: dict[str, Any] = {"size": FONT - 2, "va": "top", "color": GREY}
        self.words(x, y + 0.1, f"{limits[0]:.2g}", **below)
        self.words(x + wide, y + 0.1, f"{limits[1]:.2g}", ha="right", **below)
        self.words(x + wide / 2, y + 0.1, label, ha="center", **below)

    def box(self, x: float, y: float, wide: float, high: float, **look: Any) -> Rectangle:
        """A rectangle, by its upper left corner."""
        return self.add(Rectangle((x, y), wide, high, **look))

    def note(self, x: float, y: float, wide: float, high: float, text: str) -> None:
        """A grey box that says why there is nothing to see here."""
        self.box(x, y, wide, high, facecolor="#f4f4f4", edgecolor="#cccccc", linewidth=0.6)
        middle = {"ha": "center", "va": "center", "color": GREY}
        self.words(x + wide / 2, y + high / 2, text, size=FONT - 1, **middle)

    def add(self, artist: Any) -> Any:
        """Draw an artist whose coordinates are inches from the upper left."""
        if not artist.is_transform_set():
            artist.set_transform(self.axes.transData)
        # Of the figure: an axes would clip it, and clipping by a path takes longer than drawing.
        return self.figure.add_artist(artist, clip=False)

    def _image(self, pixels: np.ndarray, box: tuple[float, float, float, float], **look: Any) -> AxesImage:
        if "cmap" in look:
            look["cmap"] = _colour_map(look["cmap"])
        limits = {name: look.pop(name) for name in ("vmin", "vmax") if name in look}
        # What imshow does, without the clip path and the search for limits.
        image = AxesImage(self.axes, interpolation="nearest", origin="upper", extent=box, **look)
        image.set_data(pixels)
        image.set_clim(limits.get("vmin"), limits.get("vmax"))
        return self.axes.add_image(image)


@lru_cache(maxsize=8)
def _colour_map(name: str) -> Colormap:
    # By its name every picture would get a copy with a table of its own.
    return colormaps[name]


def shortened(text: str, most: int) -> str:
    """The beginning of a text that is too long.

    Example:
        >>> shortened("Labrador retriever", 9)
        'Labrador…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def wrapped(text: str, wide: int = 20) -> str:
    r"""A text in lines of at most `wide` characters, where its words allow it.

    Example:
        >>> wrapped("shipped without the weights", 16)
        'shipped without\nthe weights'
    """
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > wide:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])
