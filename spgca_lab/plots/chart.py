"""Curves and bars in a box of a canvas: the few parts of an axes that explorers need, at a tenth of its cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import Affine2D, Bbox, TransformedBbox

from spgca_lab.plots.canvas import Canvas
from spgca_lab.plots.style import FONT, GREY, PlotError

__all__ = ["Chart", "span"]

GRID = "#e5e5e5"
TINY = 1e-12


def span(*values: Any, margin: float = 0.06, least: float = 0.0, zero: bool = False) -> tuple[float, float]:
    """Limits of an axis around all finite values.

    Args:
        values: arrays or numbers.
        margin: free room at either end, as a share of the range.
        least: the smallest range: noise must not fill the chart.
        zero: let the axis begin at 0.

    Example:
        >>> span([1.0, 3.0], margin=0.5)
        (0.0, 4.0)
        >>> span([5.0, np.nan], least=2.0, margin=0.0)
        (4.0, 6.0)
    """
    flat = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]) if values else np.zeros(0)
    flat = flat[np.isfinite(flat)]
    low, high = (float(flat.min()), float(flat.max())) if flat.size else (0.0, 1.0)
    if zero:
        low = min(low, 0.0)
    if high - low < max(least, TINY):
        middle, half = (low + high) / 2, max(least, 2e-3) / 2
        low, high = (low, low + 2 * half) if zero else (middle - half, middle + half)
    room = margin * (high - low)
    return (low if zero and low == 0 else low - room), high + room


class Chart:
    """A box with scales. x and y are given in the data's units; with `ylog` the box holds log10 of y.

    Args:
        canvas: where it lies.
        x: left edge of the box, in inches; scale and titles lie outside of it.
        y: its upper edge.
        wide: its width.
        high: its height.
        xlim: data at the left and the right edge.
        ylim: data at the lower and the upper edge.
        ylog: logarithmic y.
        title: above the box.
        xlabel: below.
        ylabel: at the upper left, above the scale.
        xticks: where, or `{value: name}`; None chooses, empty leaves them out.
        yticks: likewise.

    Raises:
        PlotError: when limits are equal, not finite, or not positive with `ylog`.

    Example:
        >>> chart = Chart(Canvas(4, 3), 0.5, 0.5, 3, 2, (0, 10), (0, 1), title="loss")
        >>> chart.line([0, 10], [1.0, 0.2], color="black").get_ydata().tolist()
        [1.0, 0.2]
    """

    def __init__(
        self,
        canvas: Canvas,
        x: float,
        y: float,
        wide: float,
        high: float,
        xlim: Sequence[float],
        ylim: Sequence[float],
        *,
        ylog: bool = False,
        title: str = "",
        xlabel: str = "",
        ylabel: str = "",
        xticks: Any = None,
        yticks: Any = None,
    ):
        self.canvas, self.box, self.ylog, self.title = canvas, (x, y, wide, high), ylog, title
        self.xlim, self.ylim = (
            (float(xlim[0]), float(xlim[1])),
            (float(ylim[0]), float(ylim[1])),
        )
        if ylog and not min(self.ylim) > 0:
            raise PlotError(f"a logarithmic scale needs limits above 0, got {self.ylim}")
        (x0, x1), (y0, y1) = self.xlim, self.y(self.ylim)
        if not np.isfinite([x0, x1, y0, y1]).all() or x0 == x1 or y0 == y1:
            raise PlotError(f"a chart needs two different, finite limits, got x {self.xlim}, y {self.ylim}")
        left, top = x, y
        sx, sy = wide / (x1 - x0), -high / (y1 - y0)
        scale = Affine2D.from_values(sx, 0, 0, sy, left - sx * x0, top - sy * y1)
        inches = canvas.axes.transData
        self._data = scale + inches
        self._clip = TransformedBbox(Bbox.from_extents(left, top + high, left + wide, top), inches)
        self._keys: list[tuple[str, str]] = []
        self._scales(xticks, yticks)
        if title:
            canvas.words(left + wide / 2, top - 0.08, title, ha="center")
        if xlabel:
            canvas.words(left + wide / 2, top + high + 0.36, xlabel, ha="center", size=FONT - 1)
        if ylabel:
            canvas.words(left - 0.05, top - 0.08, ylabel, ha="right", size=FONT - 2, color=GREY)

    def y(self, values: Any) -> np.ndarray:
        """Data as the box holds it: log10 where the scale is logarithmic, nothing for what has none."""
        found = np.asarray(values, dtype=float)
        if not self.ylog:
            return found
        return np.log10(np.where(found > 0, found, np.nan))

    def line(self, x: Any, y: Any, *, color: str, label: str = "", **look: Any) -> Line2D:
        """A curve; NaN makes a gap."""
        self._key(label, color)
        return self._add(
            Line2D(np.asarray(x, dtype=float), self.y(y), color=color, **({"linewidth": 1.6} | look))
        )

    def dots(self, x: Any, y: Any, *, color: str, label: str = "", **look: Any) -> Line2D:
        """Points."""
        shape: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4, "markeredgewidth": 0}
        return self.line(x, y, color=color, label=label, **(shape | look))

    def band(
        self, x: Any, low: Any, high: Any, *, color: str, alpha: float = 0.2, label: str = ""
    ) -> PolyCollection:
        """The area between two curves."""
        self._key(label, color)
        x, low, high = np.asarray(x, dtype=float), *np.broadcast_arrays(self.y(low), self.y(high))
        edge = np.concatenate([np.stack([x, low], -1), np.stack([x, high], -1)[::-1]])
        return self._add(PolyCollection([edge], facecolor=color, alpha=alpha, linewidth=0))

    def bars(
        self,
        x: Any,
        heights: Any,
        wide: float,
        *,
        color: str | Sequence[str],
        label: str = "",
        texts: Sequence[str] = (),
    ) -> PolyCollection:
        """Upright bars from the lower edge, with texts above them."""
        x, heights = np.asarray(x, dtype=float), np.asarray(heights, dtype=float)
        floor, tops = float(self.y(self.ylim)[0]), self.y(heights)
        tops = np.where(np.isfinite(tops), np.clip(tops, floor, None), floor)
        corners = [
            [(a - wide / 2, floor), (a - wide / 2, b), (a + wide / 2, b), (a + wide / 2, floor)]
            for a, b in zip(x, tops, strict=True)
        ]
        self._key(label, color if isinstance(color, str) else "")
        for a, b, text in zip(x, tops, texts, strict=False):
            left, top = self.inches(a, b, raw=True)
            self.canvas.words(left, top - 0.03, text, ha="center", size=FONT - 2)
        return self._add(PolyCollection(corners, facecolor=color, linewidth=0))

    def level(self, y: float, *, color: str = GREY, **look: Any) -> Line2D:
        """A horizontal line across the box."""
        thin: dict[str, Any] = {"linewidth": 0.8, "linestyle": "--"}
        return self.line(self.xlim, [y, y], color=color, **(thin | look))

    def upright(self, x: float, *, color: str = GREY, **look: Any) -> Line2D:
        """A vertical line through the box."""
        thin: dict[str, Any] = {"linewidth": 0.8, "linestyle": ":"}
        return self._add(Line2D([x, x], self.y(self.ylim), color=color, **(thin | look)))

    def words(self, x: float, y: float, text: str, **look: Any) -> Any:
        """Words at a place of the data."""
        return self.canvas.words(*self.inches(x, y), text, **({"size": FONT - 2} | look))

    def inches(self, x: float, y: float, *, raw: bool = False) -> tuple[float, float]:
        """Where a place of the data lies on the canvas; `raw` for a y that is log10 already."""
        left, top, wide, high = self.box
        low, up = self.y(self.ylim)
        place = float(y if raw else self.y(y))
        across = (x - self.xlim[0]) / (self.xlim[1] - self.xlim[0])
        return left + wide * across, top + high * (1 - (place - low) / (up - low))

    def legend(self, y: float | None = None, *, x: float | None = None, step: float = 0.0) -> None:
        """Swatch and name of everything that has a label, in one row above the box (or down from `y`)."""
        left, top, _, _ = self.box
        at, row = (left if x is None else x), (top - 0.27 if y is None else y)
        for name, color in self._keys:
            self.canvas.box(at, row - 0.08, 0.12, 0.07, facecolor=color, linewidth=0)
            self.canvas.words(at + 0.16, row, name, size=FONT - 2)
            if step:
                row += step
            else:
                at += 0.28 + 0.066 * len(name)

    def _key(self, label: str, color: str) -> None:
        if label and (label, color) not in self._keys:
            self._keys.append((label, color))

    def _scales(self, xticks: Any, yticks: Any) -> None:
        left, top, wide, high = self.box
        across = _ticks(xticks, self.xlim, max(2, round(wide / 0.6)), log=False)
        up = _ticks(yticks, self.ylim, max(2, round(high / 0.35)), log=self.ylog)
        low = float(self.y(self.ylim)[0])
        if up and yticks != {}:
            rows = [[(self.xlim[0], float(self.y(v))), (self.xlim[1], float(self.y(v)))] for v in up]
            self._add(LineCollection(rows, colors=GRID, linewidths=0.6, zorder=0.5))
        floor = [[(self.xlim[0], low), (self.xlim[1], low)]]
        self._add(LineCollection(floor, colors="#555555", linewidths=0.9, zorder=1.5), clip=False)
        small: dict[str, Any] = {"size": FONT - 2, "color": "#333333"}
        for value, name in across.items():
            self.canvas.words(
                self.inches(value, self.ylim[0])[0], top + high + 0.16, name, ha="center", **small
            )
        for value, name in up.items():
            self.canvas.words(
                left - 0.06, self.inches(self.xlim[0], value)[1], name, ha="right", va="center", **small
            )

    def _add(self, artist: Any, *, clip: bool = True) -> Any:
        artist.set_transform(self._data)
        self.canvas.add(artist)
        if clip:
            artist.set_clip_box(self._clip)
        return artist


def _ticks(wanted: Any, limits: tuple[float, float], most: int, *, log: bool) -> dict[float, str]:
    if isinstance(wanted, dict):
        return {float(value): str(name) for value, name in wanted.items()}
    if wanted is not None:
        return {float(value): f"{value:g}" for value in wanted}
    low, high = sorted(limits)
    if log:
        subs = (1.0, 2.0, 5.0) if np.log10(high / low) < 2 else (1.0,)
        values: Any = LogLocator(10, subs=subs, numticks=most + 2).tick_values(low, high)
        if np.count_nonzero((values >= low) & (values <= high)) < 2:  # a range without two of 1, 2, 5
            values = MaxNLocator(most).tick_values(low, high)
    else:
        values = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
    room = 1e-6 * (high - low)
    return {float(v): f"{v:.6g}" for v in values if low - room <= v <= high + room and not (log and v <= 0)}
