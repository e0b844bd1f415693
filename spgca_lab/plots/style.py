"""The look of all figures: sizes, colours of methods and layers, and a figure that displays itself."""

import io
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import pandas as pd
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

WIDTH = 9.0
DPI = 100
FONT = 9
MAGNITUDE = "viridis"
DIVERGING = "RdBu_r"
GREY = "#666666"
GRID = "#e5e5e5"

# The palette of Okabe and Ito stays distinguishable with every kind of colour blindness.
_CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
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
    """Data that a figure cannot show; the message gives the shape or the columns that it needs."""


class LabFigure(Figure):
    """A Matplotlib figure that displays itself in a notebook, with or without pyplot."""

    def _repr_png_(self) -> bytes:
        return packed(to_png(self))


def to_png(figure: Figure, dpi: float = DPI) -> bytes:
    """Return a figure as the bytes of a PNG file, at `dpi` pixels per inch."""
    if not 10 <= dpi <= 2400:
        raise PlotError(f"dpi must be a number from 10 to 2,400, got {quote(dpi)}")
    before, canvas = figure.dpi, FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    try:
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    finally:
        figure.set_dpi(before)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def packed(png: bytes) -> bytes:
    """Return a PNG with a palette of 256 colours, a third as large, for storage in a notebook."""
    with Image.open(io.BytesIO(png)) as opened:
        # Other quantisers of Pillow lose the ends of colour maps, which cover few pixels.
        image = opened.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Return a figure as the bytes of an SVG with text as text; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "spgca_lab"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def chart_figure(height: float, title: str = "", width: float = WIDTH) -> LabFigure:
    """Return a figure whose layout reserves room for labels, legends and the title at its upper left."""
    figure = LabFigure(figsize=(width, height), dpi=DPI, layout="constrained")
    if title:
        figure.suptitle(plain(title), fontsize=FONT + 1, x=0.1 / width, ha="left")
    return figure


def tidy(axes: Axes, *, x: str = "", y: str = "", title: str = "", grid: str = "y") -> Axes:
    """Set labels in one size, open the box around the data, and draw grid lines of one axis."""
    axes.set_title(plain(title), fontsize=FONT, pad=3)
    axes.set_xlabel(plain(x), fontsize=FONT)
    axes.set_ylabel(plain(y), fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(False)
    if grid:
        axes.grid(True, axis=grid, color=GRID, linewidth=0.6)  # type: ignore[arg-type] # "x" or "y"
    axes.set_axisbelow(True)
    return axes


def top_legend(figure: Figure, axes: Axes, most: int = 6) -> None:
    """Write the labels of an axes at the upper right of the figure, in place of its own legend."""
    handles, labels = axes.get_legend_handles_labels()
    if legend := axes.get_legend():
        legend.remove()
    outside_legend(figure, handles, labels, most=most)


def outside_legend(
    figure: Figure, handles: Iterable[Any], labels: list[str], corner: str = "upper right", most: int = 6
) -> None:
    """Write a legend of at most `most` columns in a corner of the figure, outside its charts."""
    place: Any = f"outside {corner}"
    columns = min(len(labels), most)
    figure.legend(handles, labels, loc=place, fontsize=FONT - 1, frameon=False, ncols=columns)


def name_ticks(axis: Axis, names: Iterable[str], *, shown: bool = True) -> None:
    """Write names at the ticks 0, 1, 2, …; without `shown`, ticks alone."""
    labels = [plain(str(name)) if shown else "" for name in names]
    axis.set_ticks(range(len(labels)), labels)


def log_axis(axis: Axis) -> None:
    """Write ticks 1, 2, 5 in plain numbers on a logarithmic axis, which keeps short ranges readable."""
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(max(high, 1e-30) / max(low, 1e-30))
    subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    # Within half a decade there may be no 1, 2 or 5 at all.
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=12) if decades > 0.5 else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def layer_colours(count: int = 4) -> list[str]:
    """Return one colour per layer, from dark (shallow) to light (deep), because depth is an order."""
    return [to_hex(colormaps[MAGNITUDE](v)) for v in np.linspace(0.05, 0.85, count)]


def layer_names(taps: Iterable[str]) -> list[str]:
    """Return `layer 1`, `layer 2`, … in the order of the taps."""
    return [f"layer {i}" for i, _ in enumerate(taps, start=1)]


def categories(count: int) -> list[str]:
    """Return one colour per run, group or preset; colours repeat after eight."""
    return list(islice(cycle(_CATEGORIES), count))


def method_colour(method: str) -> str:
    """Return the colour of a method, the same in every figure; unknown methods get a stable spare colour."""
    return _METHODS[method][0] if method in _METHODS else _SPARE[sum(method.encode()) % len(_SPARE)]


def method_label(method: str) -> str:
    """Return the name of a method as the field writes it: `"L2-SP"` for `"l2_sp"`, `"Mine"` for `"my_file.py:Mine"`."""
    return _METHODS[method][1] if method in _METHODS else method.rsplit(":", 1)[-1].replace("->", "→")


def plain(text: str) -> str:
    """Escape dollar signs, which Matplotlib would read as mathematics, in names of classes and files."""
    return text.replace("$", r"\$")


def require_columns(
    table: pd.DataFrame, columns: Iterable[str], what: str = "the table lacks", advice: str = ""
) -> None:
    """Raise `PlotError` when columns are missing from a table."""
    missing = [name for name in columns if name not in table]
    if missing:
        advice = advice or f"it has {', '.join(map(repr, table.columns))}"
        raise PlotError(f"{what} {', '.join(map(repr, missing))}; {advice}")


def signed_scale(values: np.ndarray, *, always: bool = False) -> dict[str, Any]:
    """Return colour map and limits: diverging around 0 for values of both signs, else from 0 up."""
    top = max(float(np.abs(values).max()), 1e-12)
    if always or values.min() < 0:
        return {"cmap": DIVERGING, "vmin": -top, "vmax": top}
    return {"cmap": MAGNITUDE, "vmin": 0.0, "vmax": top}


def as_array(values: Any) -> np.ndarray:
    """Return an array from an array, lists or a tensor on any device, with gradient or without."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def as_image(image: Any) -> np.ndarray:
    """Return an image `[3, h, w]` or `[h, w, 3]`, uint8 or 0–255, as uint8 `[h, w, 3]`."""
    array = as_array(image)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3:
        raise PlotError(f"an image must be [3, h, w] or [h, w, 3], got {list(array.shape)}")
    return array if array.dtype == np.uint8 else np.clip(np.rint(array), 0, 255).astype(np.uint8)


def as_images(images: Any) -> list[np.ndarray]:
    """Return one image or several as a list of uint8 `[h, w, 3]`."""
    if isinstance(images, str | bytes) or getattr(images, "ndim", 1) == 0:
        raise PlotError(f"images must be arrays [3, h, w] or [h, w, 3], got {quote(images)}")
    if not isinstance(images, Sequence) and as_array(images).ndim == 3:
        images = [images]
    found = [as_image(image) for image in images]
    if not found:
        raise PlotError("there is no image to show")
    return found
