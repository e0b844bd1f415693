"""One look for all figures: colours by method and layer, a figure that shows itself, exact grids."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from spgca_lab._checks import quote

__all__ = [
    "DIVERGING",
    "MAGNITUDE",
    "WIDTH",
    "LabFigure",
    "PlotError",
    "as_array",
    "as_picture",
    "as_pictures",
    "colour_bar",
    "grid",
    "heading",
    "layer_colours",
    "layer_names",
    "log_axis",
    "method_colour",
    "method_label",
    "packed",
    "plain",
    "tidy",
    "to_png",
    "to_svg",
]

WIDTH = 9.0
DPI = 100
FONT = 9
MAGNITUDE = "viridis"
DIVERGING = "RdBu_r"
GREY = "#666666"

# Okabe and Ito's colours, which people with any kind of colour blindness tell apart.
_METHODS = {
    "l2": ("#7f7f7f", "L2"),
    "l2_fe": ("#b3a369", "L2-FE"),
    "l2_sp": ("#999933", "L2-SP"),
    "delta": ("#E69F00", "DELTA"),
    "lwf": ("#332288", "LwF"),
    "uniform": ("#000000", "uniform"),
    "afa": ("#56B4E9", "AFA"),
    "spgca": ("#D55E00", "SPA→GCA"),
    "gca->spa": ("#AA4499", "GCA→SPA"),
    "ast": ("#0072B2", "AST"),
    "act": ("#88CCEE", "ACT"),
    "spa": ("#CC79A7", "SPA"),
    "gca": ("#009E73", "GCA"),
    "gca_squared": ("#66C2A5", "GCA²"),
}
_SPARE = ("#117733", "#882255", "#44AA99", "#661100", "#6699CC", "#AA4466")


class PlotError(ValueError):
    """Arrays that a figure cannot show; the message gives the shape that it could."""


class LabFigure(Figure):
    r"""A matplotlib figure that shows itself in a notebook, whether or not pyplot was ever imported.

    Example:
        >>> LabFigure(figsize=(2, 1))._repr_png_()[:4]
        b'\x89PNG'
    """

    def _repr_png_(self) -> bytes:
        return to_png(self, colours=256)


def to_png(figure: Figure, dpi: float = DPI, colours: int | None = None) -> bytes:
    r"""Draw a figure to the bytes of a PNG.

    Args:
        figure: any matplotlib figure.
        dpi: pixels an inch.
        colours: size of a palette; 256 makes a file about a third as large, None keeps full colour.

    Returns:
        the file's bytes.

    Example:
        >>> to_png(LabFigure(figsize=(2, 1)))[:4]
        b'\x89PNG'
    """
    if not 10 <= dpi <= 2400:
        raise PlotError(f"dpi must be a number from 10 to 2,400, got {quote(dpi)}")
    if colours is not None and not 2 <= colours <= 256:
        raise PlotError(f"colours must be a whole number from 2 to 256, or None, got {quote(colours)}")
    before, canvas = figure.dpi, FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    try:
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    finally:
        figure.set_dpi(before)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue() if colours is None else packed(buffer.getvalue(), colours)


def packed(png: bytes, colours: int = 256) -> bytes:
    """A picture with a palette: a third as large, for what is stored in a notebook.

    Example:
        >>> png = to_png(LabFigure(figsize=(2, 1)))
        >>> packed(png) == to_png(LabFigure(figsize=(2, 1)), colours=256)
        True
    """
    with Image.open(io.BytesIO(png)) as opened:
        # Of Pillow's methods the one that keeps the ends of colour maps, which cover few pixels.
        image = opened.convert("RGB").quantize(colours, method=Image.Quantize.MAXCOVERAGE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    r"""Draw a figure to the bytes of an SVG, with its words as words; equal figures give equal bytes.

    Example:
        >>> b"<svg" in to_svg(LabFigure(figsize=(2, 1)))
        True
    """
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "spgca_lab"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def grid(
    rows: int,
    columns: int,
    *,
    width: float = WIDTH,
    ratio: float = 1.0,
    cell: float | None = None,
    margins: tuple[float, float, float, float] = (0.1, 0.1, 0.35, 0.1),
    gaps: tuple[float, float] = (0.12, 0.35),
) -> tuple[LabFigure, np.ndarray]:
    """A figure with axes of exactly one shape; its height follows, so pictures are never squeezed.

    Args:
        rows: of axes.
        columns: of axes.
        width: of the figure, in inches.
        ratio: height of an axes over its width.
        cell: greatest width of an axes, in inches; None fills the width.
        margins: left, right, top, bottom, in inches.
        gaps: between columns and between rows, in inches.

    Returns:
        the figure and its axes, `[rows, columns]`.

    Raises:
        PlotError: when there is nothing to lay out.

    Example:
        >>> figure, axes = grid(2, 3)
        >>> axes.shape
        (2, 3)
    """
    if rows < 1 or columns < 1:
        raise PlotError(f"a figure needs at least one row and one column, got {rows} × {columns}")
    left, right, top, bottom = margins
    wide = (width - left - right - gaps[0] * (columns - 1)) / columns
    wide = min(wide, cell) if cell else wide
    high = wide * ratio
    height = top + bottom + rows * high + gaps[1] * (rows - 1)
    figure = LabFigure(figsize=(width, height), dpi=DPI)
    axes = np.empty((rows, columns), dtype=object)
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * (wide + gaps[0]), height - top - (row + 1) * high - row * gaps[1]
            axes[row, column] = figure.add_axes((x / width, y / height, wide / width, high / height))
    return figure, axes


def colour_bar(figure: Figure, mappable: Any, beside: Axes, label: str, *, below: bool = False) -> Axes:
    """A thin colour bar at the right of an axes, or below it."""
    box = beside.get_position()
    wide, high = figure.get_size_inches()
    if below:
        place = (box.x0 + 0.04 * box.width, box.y0 - 0.16 / high, 0.92 * box.width, 0.08 / high)
    else:
        place = (box.x1 + 0.06 / wide, box.y0, 0.09 / wide, box.height)
    axes = figure.add_axes(place)
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal" if below else "vertical")
    bar.set_label(label, fontsize=FONT - 1, labelpad=1)
    axes.tick_params(labelsize=FONT - 2, length=2, pad=1)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    return axes


def tidy(axes: Axes, *, x: str = "", y: str = "", title: str = "", picture: bool = False) -> Axes:
    """Labels in one size, no box around curves, no ticks around pictures."""
    axes.set_title(plain(title), fontsize=FONT, pad=3)
    if picture:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes
    axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def log_axis(axis: Axis) -> None:
    """Ticks 1, 2, 5 in plain numbers on a logarithmic axis: short ranges stay readable."""
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(max(high, 1e-30) / max(low, 1e-30))
    subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    # Within half a decade there may be no 1, 2 or 5 at all.
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=12) if decades > 0.5 else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def heading(figure: Figure, title: str) -> None:
    """The figure's title, at its upper left."""
    if title:
        figure.text(0.1 / WIDTH, 1 - 0.06 / figure.get_figheight(), plain(title), fontsize=FONT + 1, va="top")


def layer_colours(count: int = 4) -> list[str]:
    """One colour a layer, dark (shallow) to light (deep): depth is an order, so the colours are one too.

    Example:
        >>> len(layer_colours(4))
        4
    """
    ramp = colormaps["viridis"]
    return [to_hex(ramp(v)) for v in np.linspace(0.05, 0.85, count)]


def plain(text: str) -> str:
    r"""Text that matplotlib will not read as mathematics: a class or a file may be named with a dollar sign.

    Example:
        >>> plain("5$ note")
        '5\\$ note'
    """
    return text.replace("$", r"\$")


def layer_names(taps: Iterable[str]) -> list[str]:
    """`layer 1` … in the order of the taps.

    Example:
        >>> layer_names(["blocks.1.1.conv_pwl", "blocks.2.1.conv_pwl"])
        ['layer 1', 'layer 2']
    """
    return [f"layer {i}" for i, _ in enumerate(taps, start=1)]


def method_colour(method: str) -> str:
    """The colour of a method, the same in every figure; a reader's own methods get a stable one of their own.

    Example:
        >>> method_colour("spgca")
        '#D55E00'
    """
    return _METHODS[method][0] if method in _METHODS else _SPARE[sum(method.encode()) % len(_SPARE)]


def method_label(method: str) -> str:
    """A method's name as the field writes it.

    Example:
        >>> method_label("l2_sp"), method_label("my_file.py:Mine")
        ('L2-SP', 'Mine')
    """
    return _METHODS[method][1] if method in _METHODS else method.rsplit(":", 1)[-1].replace("->", "→")


def as_array(values: Any) -> np.ndarray:
    """Numpy from numpy, lists or tensors on any device, with gradient or without."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def as_picture(image: Any) -> np.ndarray:
    """A picture as uint8 `[h, w, 3]`.

    Args:
        image: `[3, h, w]` or `[h, w, 3]`, uint8 or 0–255.

    Raises:
        PlotError: for another shape.

    Example:
        >>> as_picture(np.zeros((3, 8, 8), np.uint8)).shape
        (8, 8, 3)
    """
    array = as_array(image)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3:
        raise PlotError(f"a picture must be [3, h, w] or [h, w, 3], got {list(array.shape)}")
    return array if array.dtype == np.uint8 else np.clip(np.rint(array), 0, 255).astype(np.uint8)


def as_pictures(images: Any) -> list[np.ndarray]:
    """One picture or several as a list of uint8 `[h, w, 3]`.

    Raises:
        PlotError: when there is none, or one has another shape.
    """
    if isinstance(images, str | bytes) or getattr(images, "ndim", 1) == 0:
        raise PlotError(f"pictures must be arrays [3, h, w] or [h, w, 3], got {quote(images)}")
    if not isinstance(images, Sequence) and as_array(images).ndim == 3:
        images = [images]
    pictures = [as_picture(image) for image in images]
    if not pictures:
        raise PlotError("there is no picture to show")
    return pictures
