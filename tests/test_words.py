"""Texts from memory look as matplotlib draws them, wherever and however often they are drawn."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from spgca_lab.plots.canvas import CachedText, _text_pixels
from spgca_lab.plots.style import LabFigure, to_png, to_svg

LOOKS = [
    {"text": "SPA→GCA gÅpq|", "fontsize": 9},
    {"text": "a: fox\nb: tropical fish", "fontsize": 7, "va": "top", "linespacing": 1.05},
    {"text": "88.1 ± 0.4", "ha": "right", "va": "center", "color": "#666666", "fontsize": 8},
    {"text": "WWWWWWWWWW", "fontweight": "bold", "ha": "center", "va": "bottom", "fontsize": 12},
    {"text": "not trained", "style": "italic", "alpha": 0.5},
    {"text": r"5\$ \$x", "fontsize": 20},
    {"text": "one\ntwo\nthree", "va": "center", "ha": "left", "linespacing": 2.0},
]


def pixels(kind, dpi=100, place=(150, 60), **look):
    figure = LabFigure(figsize=(3, 1.2), dpi=dpi)
    words = figure.add_artist(kind(*place, **look))
    words.set_transform(None)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).astype(int)[..., :3]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look["text"][:6])
@pytest.mark.parametrize("dpi", [100, 200])
def test_words_are_the_pixels_of_a_text(look, dpi):
    expected = pixels(Text, dpi, **look)
    assert (expected < 200).any()
    assert abs(pixels(CachedText, dpi, **look) - expected).max() <= 2


def test_words_of_one_look_are_set_once_and_stay_apart_from_others():
    _text_pixels.cache_clear()
    first = pixels(CachedText, text="AFA")
    assert np.array_equal(pixels(CachedText, text="AFA"), first)
    assert (_text_pixels.cache_info().misses, _text_pixels.cache_info().hits) == (1, 1)
    for other in ({"text": "AST"}, {"color": "red"}, {"fontsize": 8}, {"va": "top"}, {"fontweight": "bold"}):
        assert not np.array_equal(pixels(CachedText, **{"text": "AFA"} | other), first)
    assert _text_pixels.cache_info().misses == 6


def test_words_move_by_whole_pixels():
    there = pixels(CachedText, text="AFA", place=(40.4, 60.3))
    assert np.array_equal(pixels(CachedText, text="AFA", place=(40.0, 60.0)), there)
    assert np.array_equal(np.roll(there, 10, axis=1), pixels(CachedText, text="AFA", place=(50.0, 60.0)))


def test_an_svg_has_them_as_words_and_turned_or_empty_ones_are_drawn():
    figure = LabFigure(figsize=(3, 1))
    figure.add_artist(CachedText(0.5, 0.5, "SPA→GCA"))
    assert "SPA→GCA" in to_svg(figure).decode()
    figure.add_artist(CachedText(0.5, 0.5, ""))
    figure.add_artist(CachedText(0.5, 0.5, " "))
    to_png(figure)
    turned = {"text": "AFA", "rotation": 90}
    assert np.array_equal(pixels(CachedText, **turned), pixels(Text, **turned))
