"""What RunExplorer shows: curves of a cell's runs, the table of α × r, and the attention of the chosen cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize

from spgca_lab.plots.attention import heatmap_limits, overlay
from spgca_lab.plots.canvas import CHOSEN, Canvas, wrapped
from spgca_lab.plots.chart import Chart, span
from spgca_lab.plots.panels.attention import AttentionView, ChannelView, SpatialView, draw_shares, shares
from spgca_lab.plots.style import FONT, GREY, MAGNITUDE, WIDTH, LabFigure, as_array, as_picture

__all__ = ["RUN_HEIGHT", "Band", "RunsView", "Tile", "run_panel", "window"]

RUN_HEIGHT = 5.6
STEP = "#0072B2"
FRAMES, ACROSS = 8, 4
LOW = 0.28  # inches below which a cell of the table has room for one line only
MOST_ROWS, MOST_COLUMNS, MOST_HIGH = 7, 5, 0.5
LIGHT = (0.2126, 0.7152, 0.0722)  # what of red, green and blue the eye takes for light
# Cells without a result are told by words first; colours only set them apart from those with one.
_FACES = {"never": "#eeeeee", "failed": "#fbe3d6", "finished": "#ffffff"}
_UNDER_WAY = "#ffffff"


@dataclass(frozen=True)
class Band:
    """Curves of `n` runs: their mean, and a band where there are two or more."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    n: int = 1


@dataclass(frozen=True)
class Tile:
    """One cell of the table: two lines of words, mean top-1 of `n` runs or None, how far a run under way is (0–1)."""

    words: tuple[str, str]
    value: float | None = None
    status: str = "finished"
    done: float | None = None
    n: int = 0


@dataclass(frozen=True)
class RunsView:
    """What an explorer knows of the chosen cell and its neighbours, ready to draw.

    Args:
        title: method, α and r in words.
        colour: of the method.
        loss: cross-entropy in nats of the cell's finished runs, None where there is none.
        top1: test top-1 in percent, likewise.
        under_way: (steps, cross-entropy, steps, top-1) of the cell's unfinished runs.
        others: (steps, cross-entropy, steps, top-1) of the other cells' means.
        why: why the cell has no curve.
        iterations: of the recipe.
        meets: (step, words) where stages meet.
        step: the step asked for.
        alphas: rows of the table, in words, from small to large.
        rates: its columns in words; one empty word for a method without r.
        tiles: by row and column.
        chosen: row and column of the chosen cell.
        limits: of the table's colours, in percent; None where no cell has a number.
        attention: of the chosen cell on one picture at the step, None where there is none.
        film: (step, map in units of the uniform weight) of the chosen layer at every snapshot.
        image: the picture, None where no run was kept with one.
        mask: its object, or None.
        no_attention: why there is none.
        layer: index from 0.
        opacity: of the heatmaps, 0–1.
    """

    title: str
    colour: str
    alphas: Sequence[str]
    rates: Sequence[str]
    tiles: Mapping[tuple[int, int], Tile]
    chosen: tuple[int, int]
    limits: tuple[float, float] | None = None
    loss: Band | None = None
    top1: Band | None = None
    under_way: Sequence[tuple[np.ndarray, ...]] = ()
    others: Sequence[tuple[np.ndarray, ...]] = ()
    why: str = "not trained"
    iterations: int = 1
    meets: Sequence[tuple[float, str]] = ()
    step: int = 0
    attention: AttentionView | None = None
    film: Sequence[tuple[int, np.ndarray]] = ()
    image: Any = None
    mask: Any = None
    no_attention: str = ""
    layer: int = 0
    opacity: float = 0.65


def run_panel(view: RunsView) -> LabFigure:
    """A cell of the grid among its neighbours: its curves, its final accuracy, its attention at a step.

    Args:
        view: what to show; what is None is replaced by the reason.

    Returns:
        a figure of 9 × 5.6 inches.

    Example:
        >>> tiles = {(0, 0): Tile(("not", "trained"), status="never")}
        >>> view = RunsView("SPA", "#CC79A7", ["3"], [""], tiles, (0, 0))
        >>> run_panel(view).get_size_inches().tolist()
        [9.0, 5.6]
    """
    canvas = Canvas(WIDTH, RUN_HEIGHT)
    _curves(canvas, view)
    _table(canvas, (5.95, 0.62, 2.95, 1.88), view)
    _attention(canvas, view)
    return canvas.figure


def window(count: int, chosen: int, most: int) -> range:
    """Which of `count` rows to show when at most `most` fit: those around the chosen one.

    Example:
        >>> window(10, 9, 4), window(3, 0, 4)
        (range(6, 10), range(0, 3))
    """
    first = min(max(0, chosen - most // 2), max(0, count - most))
    return range(first, min(count, first + most))


def _curves(canvas: Canvas, view: RunsView) -> None:
    top, high, wide = 0.82, 1.68, 2.1
    canvas.words(0.1, 0.2, view.title, weight="bold", color=view.colour)
    if view.loss is None and not view.under_way:
        canvas.note(0.1, 0.62, 5.1, 1.88, wrapped(view.why, 70))
        return
    losses, scores = [o[1] for o in view.others], [o[3] for o in view.others]
    for band, into in ((view.loss, losses), (view.top1, scores)):
        into += [] if band is None else [v for v in (band.mean, band.low, band.high) if v is not None]
    losses += [run[1] for run in view.under_way]
    scores += [run[3] for run in view.under_way]
    xlim = (0.0, float(view.iterations))
    loss = Chart(canvas, 0.45, top, wide, high, xlim, span(*losses, zero=True), title="cross-entropy, nats")
    top1 = Chart(canvas, 3.1, top, wide, high, xlim, span(*scores, least=5.0), title="test top-1, %")
    for chart in (loss, top1):
        canvas.words(chart.box[0] + wide / 2, top + high + 0.34, "step", ha="center", size=FONT - 1)
        chart.upright(view.step, color=STEP, linewidth=1.6, linestyle="-", alpha=0.7)
        for at, words in view.meets:
            chart.upright(at, color="black", linewidth=0.9, linestyle="-")
            left, _ = chart.inches(at, chart.ylim[0])
            if chart is loss:
                canvas.words(left + 0.04, top + 0.1, words, size=FONT - 2)
    for chart, x, y in ((loss, 0, 1), (top1, 2, 3)):
        if view.others:
            # One line with gaps: thirty lines would take longer than all the rest.
            joined = _joined([(other[x], other[y]) for other in view.others])
            chart.line(*joined, color="#c4c4c4", linewidth=0.8, label="other cells")
    _bundle(loss, view.loss, view.colour)
    _bundle(top1, view.top1, view.colour, marker="o", markersize=3.5, markeredgewidth=0)
    for run in view.under_way:
        look: dict[str, Any] = {"color": "#333333", "linewidth": 1.2, "linestyle": "--"}
        loss.line(run[0], run[1], label="not finished", **look)
        top1.line(run[2], run[3], marker="o", markersize=2.5, **look)
    loss.legend(0.44, x=0.1)


def _bundle(chart: Chart, band: Band | None, colour: str, **look: Any) -> None:
    if band is None:
        return
    if band.low is not None and band.high is not None:
        of = "from run to run" if band.n < 3 else "95 % t interval"
        chart.line(band.x, band.mean, color=colour, linewidth=1.4, label=f"mean of {band.n} seeds", **look)
        chart.band(band.x, band.low, band.high, color=_faded(colour), alpha=0.8, label=of)
    else:
        chart.line(band.x, band.mean, color=colour, linewidth=1.4, label="one seed: no band", **look)


def _table(canvas: Canvas, box: tuple[float, float, float, float], view: RunsView) -> None:
    rows = window(len(view.alphas), view.chosen[0], MOST_ROWS)
    columns = window(len(view.rates), view.chosen[1], MOST_COLUMNS)
    left, top = box[:2]
    whole = box[2] if len(columns) > 1 else box[2] * 0.55
    high, wide = min(box[3] / len(rows), MOST_HIGH), whole / len(columns)
    shown = [view.tiles[i, j] for i in rows for j in columns]
    seeds = sorted({tile.n for tile in shown if tile.n})
    # Where cells have equally many seeds, or no room to say how many, the title says it once.
    once = len(shown) > 1 and bool(seeds) and (len(seeds) == 1 or high < LOW)
    title = "final test top-1, %"
    if once:
        title += f", {seeds[0]} seed{'s' if seeds[0] > 1 else ''} each" if len(seeds) == 1 else ""
        title += f", {seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else ""
    canvas.words(left, top - 0.1, title)
    for place, i in enumerate(reversed(rows)):
        y = top + place * high
        canvas.words(left - 0.07, y + high / 2, view.alphas[i], size=FONT - 1, ha="right", va="center")
        for across, j in enumerate(columns):
            spot = (left + across * wide, y, wide, high)
            _tile(canvas, spot, view.tiles[i, j], view.limits, short=once)
    canvas.words(left - 0.07, top - 0.1, "α", ha="right")
    under = top + len(rows) * high + 0.15
    for across, j in enumerate(columns):
        name = f"r = {view.rates[j]}" if view.rates[j] else "no r in this method"
        canvas.words(left + (across + 0.5) * wide, under, name, size=FONT - 1, ha="center")
    across, down = columns.index(view.chosen[1]), len(rows) - 1 - rows.index(view.chosen[0])
    canvas.box(
        left + across * wide, top + down * high, wide, high, fill=False, edgecolor=CHOSEN, linewidth=2.4
    )
    if view.limits is not None:
        canvas.bar(left, under + 0.08, whole, view.limits, MAGNITUDE, "%")
    if len(view.alphas) > len(rows) or len(view.rates) > len(columns):
        words = f"shown: {len(rows)} of {len(view.alphas)} α, {len(columns)} of {len(view.rates)} r"
        canvas.words(left + whole, under + 0.47, words, size=FONT - 2, ha="right", color=GREY)


def _tile(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    tile: Tile,
    limits: tuple[float, float] | None,
    *,
    short: bool,
) -> None:
    x, y, wide, high = box
    face: Any = _FACES.get(tile.status, _UNDER_WAY)
    ink = "#333333"
    if tile.value is not None and limits is not None:
        face = colormaps[MAGNITUDE](float(Normalize(*limits, clip=True)(tile.value)))
        ink = "black" if float(np.dot(face[:3], LIGHT)) > 0.42 else "white"
    canvas.box(x, y, wide, high, facecolor=face, edgecolor="#bbbbbb" if tile.value is None else "white")
    if tile.done is not None:
        canvas.box(x, y + high - 0.05, wide, 0.05, facecolor="#dddddd", linewidth=0)
        canvas.box(x, y + high - 0.05, wide * tile.done, 0.05, facecolor=STEP, linewidth=0)
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    first, second = tile.words
    if short and tile.value is not None:
        second = second.partition(" + ")[2]
    middle = x + wide / 2
    if high < LOW or not second:
        both = f"{first} {second}".strip()
        words = both if _fitting(both, wide) >= 6 else first
        canvas.words(middle, y + high / 2, words, size=_fitting(words, wide), **look)
        return
    canvas.words(middle, y + high / 2 - 0.065, first, size=_fitting(first, wide), **look)
    canvas.words(middle, y + high / 2 + 0.085, second, size=min(_fitting(second, wide), FONT - 3), **look)


def _fitting(words: str, wide: float) -> float:
    """The size at which words fill at most a width in inches."""
    return min(FONT - 1.0, 0.95 * wide / (0.0085 * max(len(words), 1)))


def _attention(canvas: Canvas, view: RunsView) -> None:
    y, wide = 3.68, 1.5
    if view.image is None:
        canvas.note(0.1, y, wide, wide, wrapped("no picture: no run here was kept with its probe", 18))
    else:
        canvas.picture(0.1, y, wide, as_picture(view.image), title="picture x", mask=_mask(view.mask))
    if view.attention is None:
        canvas.note(0.1 + wide + 0.15, y, WIDTH - wide - 0.35, wide, wrapped(view.no_attention, 70))
        return
    spatial = view.attention.spatial[0] if view.attention.spatial else SpatialView("no spatial attention")
    channel = view.attention.channel[0] if view.attention.channel else ChannelView("no channel attention")
    _film(canvas, (0.1 + wide + 0.15, y), wide, view, spatial)
    x = 6.65
    canvas.words(x, y - 0.34, channel.name if channel.weights is not None else "", weight="bold")
    if channel.weights is None:
        canvas.note(x, y, WIDTH - 0.1 - x, wide, wrapped(channel.name, 30))
        return
    weights = {tap: as_array(w).astype(float) for tap, w in channel.weights.items()}
    values, even = shares(weights, channel.joint)
    title = "share of the whole, %" if channel.joint else "effective channels, %"
    taps = {i: f"layer {i + 1}" for i in range(len(weights))}
    limits = (0.0, max(*values, *even) * 1.2)
    room = (x, y + 0.08, WIDTH - 0.1 - x, wide - 0.08)
    chart = Chart(canvas, *room, (-0.6, len(weights) - 0.4), limits, title=title, xticks=taps, yticks=[])
    draw_shares(chart, weights, channel.joint)
    canvas.words(
        x + room[2] / 2, y + wide + 0.31, "(grey: equal weights)", size=FONT - 2, ha="center", color=GREY
    )


def _film(
    canvas: Canvas, place: tuple[float, float], wide: float, view: RunsView, spatial: SpatialView
) -> None:
    (x, y), room = place, 6.35 - place[0]
    canvas.words(x, y - 0.34, spatial.name if spatial.maps is not None else "", weight="bold")
    if spatial.maps is None or not view.film:
        canvas.note(x, y, room, wide, wrapped(spatial.name, 40))
        return
    picture, mask = as_picture(view.image), _mask(view.mask)
    values = list(spatial.maps.values())[view.layer]
    limits = heatmap_limits(np.stack([frame for _, frame in view.film]))
    title = f"layer {view.layer + 1} · {values.shape[0]} × {values.shape[1]}"
    canvas.picture(x, y, wide, overlay(picture, values, limits, view.opacity), title=title, mask=mask)
    canvas.bar(x, y + wide + 0.05, wide, limits, MAGNITUDE, "× uniform")
    now = max((s for s, _ in view.film if s <= view.step), default=view.film[0][0])
    start, tile = x + wide + 0.15, 0.63
    for i, (at, frame) in enumerate(_frames(view.film, now)):
        row, column = divmod(i, ACROSS)
        spot = (start + column * (tile + 0.08), y + row * (tile + 0.24))
        name = f"step {at}" if i == 0 else str(at)
        heat = overlay(picture, frame, limits, view.opacity)
        canvas.picture(*spot, tile, heat, title=name, chosen=at == now)


def _frames(film: Sequence[tuple[int, np.ndarray]], now: int) -> list[tuple[int, np.ndarray]]:
    """At most eight frames, evenly chosen, the present one among them."""
    if len(film) <= FRAMES:
        return list(film)
    places = sorted(set(np.linspace(0, len(film) - 1, FRAMES).round().astype(int).tolist()))
    here = next(i for i, (step, _) in enumerate(film) if step == now)
    if here not in places:
        nearest = min(range(1, len(places) - 1), key=lambda i: abs(places[i] - here))
        places[nearest] = here
    return [film[i] for i in places]


def _joined(lines: Sequence[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    gap = np.array([np.nan])
    x, y = (
        np.concatenate([part for line in lines for part in (np.asarray(line[k], dtype=float), gap)])
        for k in (0, 1)
    )
    return x, y


def _mask(mask: Any) -> np.ndarray | None:
    return None if mask is None else as_array(mask)


def _faded(colour: str) -> str:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - 0.35 * (255 - p)):02x}" for p in parts)
