"""The figure of RunExplorer: curves of one grid cell, the table of α × r, and the attention of the chosen cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex, to_rgb

from spgca_lab.plots.attention import draw_shares, heatmap_limits, overlay
from spgca_lab.plots.canvas import CHOSEN, Box, Canvas, Chart, span, wrapped
from spgca_lab.plots.panels.attention import AttentionView, ChannelView, SpatialView
from spgca_lab.plots.style import FONT, GREY, MAGNITUDE, WIDTH, LabFigure, as_image
from spgca_lab.plots.training import thinned

RUN_HEIGHT = 5.6
STEP = "#0072B2"
FRAMES, ACROSS = 8, 4
LOW = 0.28  # inches; a lower cell of the table has room for one line only
MOST_ROWS, MOST_COLUMNS, MOST_HEIGHT = 7, 5, 0.5
LUMINANCE = (0.2126, 0.7152, 0.0722)  # weights of red, green and blue
# The text of a cell states its status; the colour only separates cells without a result.
_FACES = {"never": "#eeeeee", "failed": "#fbe3d6"}


@dataclass(frozen=True)
class Band:
    """The mean curve of `n` runs, with a band for two or more."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    n: int = 1


@dataclass(frozen=True)
class Tile:
    """One cell of the table."""

    words: tuple[str, str]  # two lines of text
    value: float | None = None  # mean top-1 of its runs in percent
    status: str = "finished"  # or "never", "failed", or the state of an unfinished run
    done: float | None = None  # progress of an unfinished run, 0–1
    n: int = 0  # number of runs


@dataclass(frozen=True)
class RunsView:
    """The chosen cell of a grid and its neighbours, ready to draw."""

    title: str  # method, α and r
    colour: str  # of the method
    alphas: Sequence[str]  # row names of the table, from small to large
    rates: Sequence[str]  # column names of the table; one empty name for a method without r
    tiles: Mapping[tuple[int, int], Tile]  # by row and column
    chosen: tuple[int, int]  # row and column of the chosen cell
    limits: tuple[float, float] | None = (
        None  # ends of the table's colours in percent; None without any result
    )
    loss: Band | None = None  # cross-entropy in nats of the cell's finished runs
    top1: Band | None = None  # test top-1 in percent of the cell's finished runs
    under_way: Sequence[
        tuple[np.ndarray, ...]
    ] = ()  # (steps, cross-entropy, steps, top-1) of unfinished runs
    others: Sequence[tuple[np.ndarray, ...]] = ()  # the same of the means of the other cells
    why: str = "not trained"  # why the cell has no curve
    iterations: int = 1  # number of steps in the recipe
    meets: Sequence[tuple[float, str]] = ()  # (step, text) of each hand-over
    step: int = 0  # chosen step
    attention: AttentionView | None = None  # of the chosen cell on one image at the step
    film: Sequence[tuple[int, np.ndarray]] = ()  # (step, map × uniform) of the chosen layer at every snapshot
    image: Any = None  # probe image; None when no run stored one
    mask: Any = None  # bool [h, w]
    no_attention: str = ""  # why there is no attention
    layer: int = 0  # index of the layer, from 0
    opacity: float = 0.65  # of the heatmaps, 0–1


def run_panel(view: RunsView) -> LabFigure:
    """Draw one grid cell: its curves, the final accuracy of its neighbours, and its attention at one step."""
    canvas = Canvas(WIDTH, RUN_HEIGHT)
    _curves(canvas, view)
    _table(canvas, (5.95, 0.62, 2.95, 1.88), view)
    _attention(canvas, view)
    return canvas.figure


def window(count: int, chosen: int, most: int) -> range:
    """Return the indices of at most `most` of `count` rows around the chosen one."""
    first = min(max(0, chosen - most // 2), max(0, count - most))
    return range(first, min(count, first + most))


def _curves(canvas: Canvas, view: RunsView) -> None:
    top, height, width = 0.82, 1.68, 2.1
    canvas.text(0.1, 0.2, view.title, weight="bold", color=view.colour)
    if view.loss is None and not view.under_way:
        canvas.note(0.1, 0.62, 5.1, 1.88, wrapped(view.why, 70))
        return
    for left, column, title, limits in (
        (0.45, 0, "cross-entropy, nats", {"zero": True}),
        (3.1, 2, "test top-1, %", {"least": 5.0}),
    ):
        losses = column == 0
        band = view.loss if losses else view.top1
        values = [run[column + 1] for run in (*view.others, *view.under_way)]
        values += [] if band is None else [v for v in (band.mean, band.low, band.high) if v is not None]
        box, xlim = (left, top, width, height), (0.0, float(view.iterations))
        chart = Chart(canvas, box, xlim, span(*values, **limits), title=title, xlabel="step")
        chart.vline(view.step, color=STEP, linewidth=1.6, linestyle="-", alpha=0.7)
        for at, text in view.meets:
            chart.vline(at, color="black", linewidth=0.9, linestyle="-")
            if losses:
                canvas.text(chart.inches(at, chart.ylim[0])[0] + 0.04, top + 0.1, text, size=FONT - 2)
        if view.others:
            # One line with gaps, because thirty lines take longer to draw than everything else.
            x, y = (
                np.concatenate([np.append(other[k], np.nan) for other in view.others])
                for k in (column, column + 1)
            )
            chart.line(x, y, color="#c4c4c4", linewidth=0.8, label="other cells")
        marks: dict[str, Any] = {} if losses else {"marker": "o", "markeredgewidth": 0, "markersize": 3.5}
        if band is not None:
            _bundle(chart, band, view.colour, **marks)
        marks |= {"color": "#333333", "linewidth": 1.2, "linestyle": "--"}
        for run in view.under_way:
            chart.line(run[column], run[column + 1], label="not finished", **marks)
        if losses:
            chart.legend(0.44, 0.1)


def _bundle(chart: Chart, band: Band, colour: str, **look: Any) -> None:
    label = "one seed: no band" if band.low is None else f"mean of {band.n} seeds"
    chart.line(band.x, band.mean, color=colour, linewidth=1.4, label=label, **look)
    if band.low is not None:
        of = "from run to run" if band.n < 3 else "95 % t interval"
        red, green, blue = (1 - 0.35 * (1 - part) for part in to_rgb(colour))
        faded = to_hex((red, green, blue))
        chart.band(band.x, band.low, band.high, color=faded, alpha=0.8, label=of)


def _table(canvas: Canvas, box: Box, view: RunsView) -> None:
    rows = window(len(view.alphas), view.chosen[0], MOST_ROWS)
    columns = window(len(view.rates), view.chosen[1], MOST_COLUMNS)
    left, top, whole, room = box
    whole *= 1 if len(columns) > 1 else 0.55
    height, width = min(room / len(rows), MOST_HEIGHT), whole / len(columns)
    shown = [view.tiles[i, j] for i in rows for j in columns]
    seeds = sorted({tile.n for tile in shown if tile.n})
    # The title states the number of seeds once where all cells agree or have no room for it.
    once = len(shown) > 1 and bool(seeds) and (len(seeds) == 1 or height < LOW)
    title = "final test top-1, %"
    if once:
        same = f", {seeds[0]} seed{'s' if seeds[0] > 1 else ''} each"
        title += same if len(seeds) == 1 else f", {seeds[0]} to {seeds[-1]} seeds"
    canvas.text(left, top - 0.1, title)
    for place, i in enumerate(reversed(rows)):
        y = top + place * height
        canvas.text(left - 0.07, y + height / 2, view.alphas[i], size=FONT - 1, ha="right", va="center")
        for across, j in enumerate(columns):
            spot = (left + across * width, y, width, height)
            _tile(canvas, spot, view.tiles[i, j], view.limits, short=once)
    canvas.text(left - 0.07, top - 0.1, "α", ha="right")
    under = top + len(rows) * height + 0.15
    for across, j in enumerate(columns):
        name = f"r = {view.rates[j]}" if view.rates[j] else "no r in this method"
        canvas.text(left + (across + 0.5) * width, under, name, size=FONT - 1, ha="center")
    across, down = columns.index(view.chosen[1]), len(rows) - 1 - rows.index(view.chosen[0])
    frame: dict[str, Any] = {"fill": False, "edgecolor": CHOSEN, "linewidth": 2.4}
    canvas.rectangle(left + across * width, top + down * height, width, height, **frame)
    if view.limits is not None:
        canvas.colour_bar(left, under + 0.08, whole, view.limits, MAGNITUDE, "%")
    if len(view.alphas) > len(rows) or len(view.rates) > len(columns):
        words = f"shown: {len(rows)} of {len(view.alphas)} α, {len(columns)} of {len(view.rates)} r"
        canvas.text(left + whole, under + 0.47, words, size=FONT - 2, ha="right", color=GREY)


def _tile(canvas: Canvas, box: Box, tile: Tile, limits: tuple[float, float] | None, *, short: bool) -> None:
    x, y, width, height = box
    face: Any = _FACES.get(tile.status, "#ffffff")
    ink = "#333333"
    if tile.value is not None and limits is not None:
        face = colormaps[MAGNITUDE](float(Normalize(*limits, clip=True)(tile.value)))
        ink = "black" if float(np.dot(face[:3], LUMINANCE)) > 0.42 else "white"
    edge = "#bbbbbb" if tile.value is None else "white"
    canvas.rectangle(x, y, width, height, facecolor=face, edgecolor=edge)
    if tile.done is not None:
        canvas.rectangle(x, y + height - 0.05, width, 0.05, facecolor="#dddddd", linewidth=0)
        canvas.rectangle(x, y + height - 0.05, width * tile.done, 0.05, facecolor=STEP, linewidth=0)
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    first, second = tile.words
    if short and tile.value is not None:
        second = second.partition(" + ")[2]
    middle = x + width / 2
    if height < LOW or not second:
        both = f"{first} {second}".strip()
        words = both if _fitting(both, width) >= 6 else first
        canvas.text(middle, y + height / 2, words, size=_fitting(words, width), **look)
        return
    canvas.text(middle, y + height / 2 - 0.065, first, size=_fitting(first, width), **look)
    canvas.text(middle, y + height / 2 + 0.085, second, size=min(_fitting(second, width), FONT - 3), **look)


def _fitting(words: str, width: float) -> float:
    """Return the font size at which a text fits a width in inches."""
    return min(FONT - 1.0, 0.95 * width / (0.0085 * max(len(words), 1)))


def _attention(canvas: Canvas, view: RunsView) -> None:
    y, width = 3.68, 1.5
    if view.image is None:
        canvas.note(0.1, y, width, width, wrapped("no image: no run here stored its probe image", 18))
    else:
        canvas.image(0.1, y, width, as_image(view.image), title="image x", mask=view.mask)
    left = 0.25 + width
    if view.attention is None:
        canvas.note(left, y, WIDTH - left - 0.1, width, wrapped(view.no_attention, 70))
        return
    spatial = view.attention.spatial[0] if view.attention.spatial else SpatialView("no spatial attention")
    channel = view.attention.channel[0] if view.attention.channel else ChannelView("no channel attention")
    _film(canvas, (left, y), width, view, spatial)
    x, room = 6.65, WIDTH - 6.75
    if channel.weights is None:
        canvas.note(x, y, room, width, wrapped(channel.name, 30))
        return
    canvas.text(x, y - 0.34, channel.name, weight="bold")
    draw_shares(canvas, (x, y + 0.08, room, width - 0.08), channel.weights, channel.joint)
    look: dict[str, Any] = {"size": FONT - 2, "ha": "center", "color": GREY}
    canvas.text(x + room / 2, y + width + 0.31, "(grey: uniform weights)", **look)


def _film(
    canvas: Canvas, place: tuple[float, float], width: float, view: RunsView, spatial: SpatialView
) -> None:
    (x, y), room = place, 6.35 - place[0]
    canvas.text(x, y - 0.34, spatial.name if spatial.maps is not None else "", weight="bold")
    if spatial.maps is None or not view.film:
        canvas.note(x, y, room, width, wrapped(spatial.name, 40))
        return
    image, mask = as_image(view.image), view.mask
    values = list(spatial.maps.values())[view.layer]
    limits = heatmap_limits(np.stack([frame for _, frame in view.film]))
    title = f"layer {view.layer + 1} · {values.shape[0]} × {values.shape[1]}"
    canvas.image(x, y, width, overlay(image, values, limits, view.opacity), title=title, mask=mask)
    canvas.colour_bar(x, y + width + 0.05, width, limits, MAGNITUDE, "× uniform")
    now = max((s for s, _ in view.film if s <= view.step), default=view.film[0][0])
    start, tile = x + width + 0.15, 0.63
    for i, (at, frame) in enumerate(_frames(view.film, now)):
        row, column = divmod(i, ACROSS)
        spot = (start + column * (tile + 0.08), y + row * (tile + 0.24))
        name = f"step {at}" if i == 0 else str(at)
        heat = overlay(image, frame, limits, view.opacity)
        canvas.image(*spot, tile, heat, title=name, chosen=at == now)


def _frames(film: Sequence[tuple[int, np.ndarray]], now: int) -> list[tuple[int, np.ndarray]]:
    """Return at most eight evenly spaced frames, the current one among them."""
    if len(film) <= FRAMES:
        return list(film)
    places = thinned(len(film), FRAMES)
    here = next(i for i, (step, _) in enumerate(film) if step == now)
    if here not in places:
        places[1 + np.abs(places[1:-1] - here).argmin()] = here
    return [film[i] for i in places]
