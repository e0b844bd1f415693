"""A drawing surface with charts and cached text, for image figures and explorers that redraw in milliseconds."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import Affine2D, Bbox, TransformedBbox
from PIL import Image

from spgca_lab.plots.style import DPI, FONT, GREY, GRID, LabFigure, PlotError, as_array, plain

Box = tuple[float, float, float, float]
Place = tuple[float, float, float]  # left edge, upper edge and width, in inches
CHOSEN = "#D55E00"
CACHED_TEXTS = 1024
# Given the name, every image would copy the colour map and compute its table again.
_colour_map = lru_cache(maxsize=8)(colormaps.__getitem__)
# A text reads the resolution from its figure, and making a figure takes as long as laying out a text.
_empty_figure = lru_cache(maxsize=4)(lambda dpi: Figure(dpi=dpi))


class Canvas:
    """One axes over a whole figure, in inches from its upper left corner.

    A Matplotlib axes takes 10 ms to make and as long to draw, an image on a canvas 1 ms: a figure with ten
    heatmaps must not make ten axes. Charts on a canvas draw their own scales.
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = LabFigure(figsize=(width, height), dpi=DPI)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)

    def image(
        self,
        x: float,
        y: float,
        width: float,
        pixels: np.ndarray,
        *,
        title: str = "",
        mask: Any = None,
        chosen: bool = False,
        **look: Any,
    ) -> AxesImage:
        """Draw an image or a map `width` inches across, with its title above and the outline of a mask."""
        height = width * pixels.shape[0] / pixels.shape[1]
        image = self._image(pixels, (x, x + width, y + height, y), **look)
        if mask is not None:
            self._outline(x, y, width, height, as_array(mask))
        if chosen:
            self.rectangle(x, y, width, height, fill=False, edgecolor=CHOSEN, linewidth=2.4)
        if title:
            self.text(x + width / 2, y - 0.06, title, ha="center")
        return image

    def text(self, x: float, y: float, text: str, *, size: float = FONT, **look: Any) -> "CachedText":
        """Write text on a baseline, or below the point with `va="top"`."""
        place = (x / self.width, 1 - y / self.height)
        cached = CachedText(*place, plain(text), fontsize=size, **({"va": "baseline"} | look))
        cached.set_transform(self.figure.transFigure)
        cached.set_figure(self.figure)
        # Setting the clip path of an axes takes longer than drawing the text, so the figure owns the text.
        self.figure.texts.append(cached)
        return cached

    def heading(self, title: str) -> None:
        """Write the title of the figure at its upper left."""
        if title:
            self.text(0.1, 0.06, title, size=FONT + 1, va="top")

    def colour_bar(
        self, x: float, y: float, width: float, limits: tuple[float, float], cmap: str, label: str
    ) -> None:
        """Draw a horizontal colour bar with the values of its ends and the quantity that it shows."""
        self._image(colormaps[cmap](np.linspace(0, 1, 64))[None, :, :3], (x, x + width, y + 0.07, y))
        look: dict[str, Any] = {"size": FONT - 2, "va": "top", "color": GREY}
        self.text(x, y + 0.1, f"{limits[0]:.2g}", **look)
        self.text(x + width, y + 0.1, f"{limits[1]:.2g}", ha="right", **look)
        self.text(x + width / 2, y + 0.1, label, ha="center", **look)

    def rectangle(self, x: float, y: float, width: float, height: float, **look: Any) -> Rectangle:
        """Draw a rectangle, given its upper left corner."""
        return self.add(Rectangle((x, y), width, height, **look))

    def note(self, x: float, y: float, width: float, height: float, text: str) -> None:
        """Draw a grey box that states why something is missing."""
        self.rectangle(x, y, width, height, facecolor="#f4f4f4", edgecolor="#cccccc", linewidth=0.6)
        look = {"ha": "center", "va": "center", "color": GREY}
        self.text(x + width / 2, y + height / 2, text, size=FONT - 1, **look)

    def add(self, artist: Any) -> Any:
        """Draw an artist whose coordinates are inches from the upper left corner."""
        if not artist.is_transform_set():
            artist.set_transform(self.axes.transData)
        # An axes would clip the artist, and clipping by a path takes longer than drawing.
        return self.figure.add_artist(artist, clip=False)

    def _image(self, pixels: np.ndarray, extent: Box, **look: Any) -> AxesImage:
        if "cmap" in look:
            look["cmap"] = _colour_map(look["cmap"])
        limits = look.pop("vmin", None), look.pop("vmax", None)
        # imshow would set a clip path and search the pixels for limits, which costs most of its time.
        image = AxesImage(self.axes, interpolation="nearest", origin="upper", extent=extent, **look)
        image.set_data(pixels)
        image.set_clim(*limits)
        return self.axes.add_image(image)

    def _outline(self, x: float, y: float, width: float, height: float, mask: np.ndarray) -> None:
        """Draw the edge of a mask, pixel by pixel, in white on black, which is visible on any image."""
        lines = []
        for axis, along in enumerate(((1, 0), (0, 1))):
            starts = np.argwhere(np.diff(mask.astype(np.int8), axis=axis, prepend=0, append=0))[:, ::-1]
            lines.append(np.stack([starts, starts + along], axis=1))
        h, w = mask.shape
        points = np.concatenate(lines).reshape(-1, 2) * [width / w, height / h] + [x, y]
        if not len(points):
            return
        path = Path(points, np.tile([Path.MOVETO, Path.LINETO], len(points) // 2))
        for colour, linewidth in (("black", 2.4), ("white", 1.0)):
            # add_patch would update the data limits segment by segment, which takes longer than drawing.
            look: dict[str, Any] = {"edgecolor": colour, "linewidth": linewidth, "capstyle": "projecting"}
            self.axes.add_artist(PathPatch(path, fill=False, **look))


class Chart:
    """A box with scales on a canvas, with x and y in the units of the data.

    Args:
        box: left edge, upper edge, width and height in inches; scales and titles lie outside the box.
        xlim: data at the left and the right edge.
        ylim: data at the lower and the upper edge.
        ylog: draw a logarithmic y axis.
        title: text above the box.
        xlabel: text below the box.
        xticks: tick values, or `{value: name}`; None chooses ticks, an empty sequence leaves them out.
        yticks: the same for y.

    Raises:
        PlotError: when limits are equal, not finite, or not positive with `ylog`.
    """

    def __init__(
        self,
        canvas: Canvas,
        box: Box,
        xlim: Sequence[float],
        ylim: Sequence[float],
        *,
        ylog: bool = False,
        title: str = "",
        xlabel: str = "",
        xticks: Any = None,
        yticks: Any = None,
    ):
        self.canvas, self.box, self.ylog = canvas, box, ylog
        x, y, width, height = box
        self.xlim, self.ylim = (float(xlim[0]), float(xlim[1])), (float(ylim[0]), float(ylim[1]))
        if ylog and not min(self.ylim) > 0:
            raise PlotError(f"a logarithmic scale needs limits above 0, got {self.ylim}")
        (x0, x1), (y0, y1) = self.xlim, self.y(self.ylim)
        if not np.isfinite([x0, x1, y0, y1]).all() or x0 == x1 or y0 == y1:
            raise PlotError(f"a chart needs two different, finite limits, got x {self.xlim}, y {self.ylim}")
        sx, sy = width / (x1 - x0), -height / (y1 - y0)
        inches = canvas.axes.transData
        self._data = Affine2D.from_values(sx, 0, 0, sy, x - sx * x0, y - sy * y1) + inches
        self._clip = TransformedBbox(Bbox.from_extents(x, y + height, x + width, y), inches)
        self._keys: dict[str, str] = {}
        self._scales(xticks, yticks)
        if title:
            canvas.text(x + width / 2, y - 0.08, title, ha="center")
        if xlabel:
            canvas.text(x + width / 2, y + height + 0.36, xlabel, ha="center", size=FONT - 1)

    def y(self, values: Any) -> np.ndarray:
        """Return y as the box stores it: log10 on a logarithmic scale, NaN where there is no logarithm."""
        found = np.asarray(values, dtype=float)
        return np.log10(np.where(found > 0, found, np.nan)) if self.ylog else found

    def line(self, x: Any, y: Any, *, color: str, label: str = "", **look: Any) -> Line2D:
        """Draw a curve; NaN makes a gap."""
        self._keys |= {label: color} if label else {}
        look = {"linewidth": 1.6} | look
        return self._add(Line2D(np.asarray(x, dtype=float), self.y(y), color=color, **look))

    def dots(self, x: Any, y: Any, *, color: str, **look: Any) -> Line2D:
        """Draw points."""
        shape: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4, "markeredgewidth": 0}
        return self.line(x, y, color=color, **(shape | look))

    def band(
        self, x: Any, low: Any, high: Any, *, color: str, alpha: float = 0.2, label: str = ""
    ) -> PolyCollection:
        """Fill the area between two curves."""
        self._keys |= {label: color} if label else {}
        x, low, high = np.broadcast_arrays(np.asarray(x, dtype=float), self.y(low), self.y(high))
        edge = np.concatenate([np.stack([x, low], -1), np.stack([x, high], -1)[::-1]])
        return self._add(PolyCollection([edge], facecolor=color, alpha=alpha, linewidth=0))

    def bars(
        self, x: Any, heights: Any, width: float, *, color: str | Sequence[str], texts: Sequence[str] = ()
    ) -> PolyCollection:
        """Draw vertical bars from the lower edge, with texts above them."""
        x, tops = np.asarray(x, dtype=float), np.fmax(np.asarray(heights, dtype=float), self.ylim[0])
        across = x[:, None] + width / 2 * np.array([-1, -1, 1, 1])
        up = self.y(np.stack([np.full(len(x), self.ylim[0]), tops, tops, np.full(len(x), self.ylim[0])], -1))
        for a, b, text in zip(x, tops, texts, strict=False):
            left, top = self.inches(a, b)
            self.canvas.text(left, top - 0.03, text, ha="center", size=FONT - 2)
        corners = list(np.stack([across, up], -1))
        return self._add(PolyCollection(corners, facecolor=color, linewidth=0))

    def vline(self, x: float, *, color: str = GREY, **look: Any) -> Line2D:
        """Draw a vertical line through the box."""
        thin: dict[str, Any] = {"linewidth": 0.8, "linestyle": ":"}
        return self.line([x, x], self.ylim, color=color, **(thin | look))

    def inches(self, x: float, y: float) -> tuple[float, float]:
        """Return the place on the canvas of a point of the data."""
        left, top, width, height = self.box
        low, up = self.y(self.ylim)
        across = (x - self.xlim[0]) / (self.xlim[1] - self.xlim[0])
        return left + width * across, top + height * (1 - (float(self.y(y)) - low) / (up - low))

    def legend(self, y: float, x: float | None = None) -> None:
        """Write swatch and name of everything that has a label, in one row from (x, y)."""
        at = self.box[0] if x is None else x
        for name, color in self._keys.items():
            self.canvas.rectangle(at, y - 0.08, 0.12, 0.07, facecolor=color, linewidth=0)
            self.canvas.text(at + 0.16, y, name, size=FONT - 2)
            at += 0.28 + 0.066 * len(name)

    def _scales(self, xticks: Any, yticks: Any) -> None:
        left, top, width, height = self.box
        across = _ticks(xticks, self.xlim, max(2, round(width / 0.6)), log=False)
        up = _ticks(yticks, self.ylim, max(2, round(height / 0.35)), log=self.ylog)
        if up:
            rows = [[(x, float(self.y(v))) for x in self.xlim] for v in up]
            self._add(LineCollection(rows, colors=GRID, linewidths=0.6, zorder=0.5))
        floor = [[(x, float(self.y(self.ylim)[0])) for x in self.xlim]]
        self._add(LineCollection(floor, colors="#555555", linewidths=0.9, zorder=1.5), clip=False)
        small: dict[str, Any] = {"size": FONT - 2, "color": "#333333"}
        for value, name in across.items():
            x = self.inches(value, self.ylim[0])[0]
            self.canvas.text(x, top + height + 0.16, name, ha="center", **small)
        for value, name in up.items():
            y = self.inches(self.xlim[0], value)[1]
            self.canvas.text(left - 0.06, y, name, ha="right", va="center", **small)

    def _add(self, artist: Any, *, clip: bool = True) -> Any:
        artist.set_transform(self._data)
        self.canvas.add(artist)
        if clip:
            artist.set_clip_box(self._clip)
        return artist


class CachedText(Text):
    """A text that Agg copies from memory when it was drawn before; an SVG gets it as text.

    Laying out a text takes a millisecond, and consecutive figures share most of their texts. The text is placed
    on whole pixels, so its look does not depend on its place or on earlier drawings.
    """

    def draw(self, renderer: Any) -> None:
        """Draw the text, from memory if possible."""
        upright = not (self.get_rotation() or self.get_bbox_patch() or self.get_path_effects())
        if not (upright and isinstance(renderer, RendererAgg) and self.get_visible()):
            super().draw(renderer)
            return
        if not self.get_text():
            return
        look: dict[str, Any] = {"ha": self.get_horizontalalignment(), "va": self.get_verticalalignment()}
        look["color"] = to_rgba(self.get_color(), self.get_alpha())
        look["linespacing"] = self._linespacing  # type: ignore[attr-defined] # matplotlib has only a setter
        pixels, left, low = _text_pixels(self.get_text(), self.get_fontproperties(), renderer.dpi, **look)
        x, y = self.get_transform().transform(self.get_unitless_position())
        gc = renderer.new_gc()
        renderer.draw_image(gc, round(float(x)) + left, round(float(y)) + low, pixels)
        gc.restore()
        self.stale = False


@lru_cache(maxsize=CACHED_TEXTS)
def _text_pixels(text: str, font: FontProperties, dpi: float, **look: Any) -> tuple[np.ndarray, int, int]:
    """Return a text as RGBA, lower row first, and the offset of its lower left corner from its anchor."""
    drawing = Text(0, 0, text, fontproperties=font.copy(), **look)
    em = font.get_size_in_points() * dpi / 72
    lines = text.split("\n")
    # No letter is wider than 1.2 em and no line higher than 1.8 em; a margin of 4 pixels holds the rounding.
    width = int(1.2 * em * max(map(len, lines))) + 4
    apart = 1.2 if look["linespacing"] == "normal" else look["linespacing"]
    height = int(1.8 * em * max(apart, 1.0) * len(lines)) + 4
    # The anchor is the middle of the board, because the alignment decides the side of the text.
    board = RendererAgg(2 * width, 2 * height, dpi)
    drawing.set_position((width, height))
    drawing.set_figure(_empty_figure(dpi))
    drawing.draw(board)
    drawn = np.asarray(board.buffer_rgba())
    box = Image.fromarray(drawn[..., 3]).getbbox()
    if box is None:
        return np.zeros((1, 1, 4), np.uint8), 0, 0
    left, top, right, bottom = box
    return drawn[top:bottom, left:right][::-1].copy(), left - width, height - bottom


def _ticks(wanted: Any, limits: tuple[float, float], most: int, *, log: bool) -> dict[float, str]:
    if isinstance(wanted, dict):
        return {float(value): str(name) for value, name in wanted.items()}
    if wanted is not None:
        return {float(value): f"{value:g}" for value in wanted}
    low, high = sorted(limits)
    if log:
        subs = (1.0, 2.0, 5.0) if np.log10(high / low) < 2 else (1.0,)
        values: Any = LogLocator(10, subs=subs, numticks=most + 2).tick_values(low, high)
        if np.count_nonzero((values >= low) & (values <= high)) < 2:  # a short range may lack 1, 2 and 5
            values = MaxNLocator(most).tick_values(low, high)
    else:
        values = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
    room = 1e-6 * (low if log else high - low)
    return {float(v): f"{v:.6g}" for v in values if low - room <= v <= high + room and not (log and v <= 0)}


def span(*values: Any, margin: float = 0.06, least: float = 0.0, zero: bool = False) -> tuple[float, float]:
    """Return limits of an axis around all finite values.

    `margin` is the free room at either end as a share of the range, `least` the smallest range, so that noise does
    not fill the chart; `zero` lets the axis begin at 0.
    """
    flat = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]) if values else np.zeros(0)
    flat = flat[np.isfinite(flat)]
    low, high = (float(flat.min()), float(flat.max())) if flat.size else (0.0, 1.0)
    if zero:
        low = min(low, 0.0)
    if high - low < max(least, 1e-12):
        middle, half = (low + high) / 2, max(least, 2e-3) / 2
        low, high = (low, low + 2 * half) if zero else (middle - half, middle + half)
    room = margin * (high - low)
    return (low if zero and low == 0 else low - room), high + room


def limits_with_intervals(values: Any, intervals: Iterable[Any]) -> tuple[float, float]:
    """Return limits for all values, and for the ends of `MeanInterval`s up to three times as far.

    The interval of two seeds may span the whole scale, and would flatten the values.
    """
    low, high = span(values, least=1.0)
    ends = [end for interval in intervals for end in (interval.low, interval.high)]
    shown = [end for end in ends if low - (high - low) <= end <= high + (high - low)]
    return span([low, high], shown, margin=0.03)


def shortened(text: str, most: int) -> str:
    """Return a text cut to `most` characters, with an ellipsis where something is missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def wrapped(text: str, width: int = 20) -> str:
    """Return a text in lines of at most `width` characters; longer words stay whole."""
    return "\n".join(wrap(text, width, break_long_words=False, break_on_hyphens=False))
