"""Words that are set once: a text takes a millisecond, and most of a picture's words were in the last one."""

from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

__all__ = ["Words"]

KEPT = 1024
EDGE = 4


class Words(Text):
    """A text that Agg draws from memory where the same one was drawn before; SVG gets its words as words.

    It stands on whole pixels, so its look does not depend on where it is or on what was drawn before.

    Example:
        >>> from spgca_lab.plots.style import LabFigure, to_png
        >>> figure = LabFigure(figsize=(2, 1))
        >>> _ = figure.add_artist(Words(0.5, 0.5, "SPA→GCA"))
        >>> to_png(figure) == to_png(figure)
        True
    """

    def draw(self, renderer: Any) -> None:
        """Draw, from memory if possible."""
        plain = not (self.get_rotation() or self.get_bbox_patch() or self.get_path_effects())
        if not (plain and isinstance(renderer, RendererAgg) and self.get_visible()):
            super().draw(renderer)
            return
        if not self.get_text():
            return
        pixels, left, low = _set(
            self.get_text(),
            self.get_fontproperties(),
            to_rgba(self.get_color(), self.get_alpha()),
            self.get_horizontalalignment(),
            self.get_verticalalignment(),
            self._linespacing,  # type: ignore[attr-defined] # matplotlib has a setter and no getter
            renderer.dpi,
        )
        x, y = self.get_transform().transform(self.get_unitless_position())
        gc = renderer.new_gc()
        renderer.draw_image(gc, round(float(x)) + left, round(float(y)) + low, pixels)
        gc.restore()
        self.stale = False


@lru_cache(maxsize=KEPT)
def _set(
    text: str,
    font: FontProperties,
    colour: tuple[float, float, float, float],
    ha: str,
    va: str,
    spacing: float | str,
    dpi: float,
) -> tuple[np.ndarray, int, int]:
    """A text as RGBA, lower row first, and where its lower left corner lies from the place of the text."""
    look: dict[str, Any] = {"ha": ha, "va": va, "linespacing": spacing, "fontproperties": font.copy()}
    found = Text(0, 0, text, color=colour, **look)
    em = font.get_size_in_points() * dpi / 72
    lines = text.split("\n")
    # No letter is wider than 1.2 em, no line higher than 1.8.
    wide = int(1.2 * em * max(map(len, lines))) + EDGE
    apart = spacing if isinstance(spacing, int | float) else 1.2
    high = int(1.8 * em * max(apart, 1.0) * len(lines)) + EDGE
    # The text hangs on the middle of a scratch board, to whichever side it is aligned.
    board = RendererAgg(2 * wide, 2 * high, dpi)
    found.set_position((wide, high))
    found.set_figure(_figure(dpi))
    found.draw(board)
    drawn = np.asarray(board.buffer_rgba())
    rows, columns = np.flatnonzero(drawn[..., 3].any(axis=1)), np.flatnonzero(drawn[..., 3].any(axis=0))
    if not len(rows):
        return np.zeros((1, 1, 4), np.uint8), 0, 0
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return drawn[top:bottom, left:right][::-1].copy(), int(left) - wide, (2 * high - int(bottom)) - high


@lru_cache(maxsize=4)
def _figure(dpi: float) -> Figure:
    # A text asks its figure for the resolution; making one takes as long as setting a word.
    return Figure(dpi=dpi)
