"""What explorers draw on: charts whose marks lie where the data says, and panels of one size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from spgca_lab.plots.canvas import CHOSEN, Canvas, Chart, shortened, span, wrapped
from spgca_lab.plots.images import strongest_channels
from spgca_lab.plots.panels.attention import (
    AttentionView,
    ChannelView,
    SpatialView,
    attention_height,
    attention_panel,
)
from spgca_lab.plots.panels.features import feature_panel
from spgca_lab.plots.panels.monitor import TERMS, MonitorView, monitor_panel
from spgca_lab.plots.style import PlotError, to_png, to_svg

PICTURE = np.zeros((3, 16, 16), np.uint8)
MASK = np.zeros((16, 16), bool)
MASK[4:12, 4:12] = True
GCA_VIEW = ChannelView("GCA", {"a": np.full(4, 0.1), "b": np.full(6, 0.1)})
ACT_VIEW = ChannelView("ACT", {"a": np.full(4, 0.25), "b": np.full(5, 0.2)}, joint=False)
EMPTY = MonitorView(10, np.zeros(0), dict.fromkeys(TERMS, np.zeros(0)), np.zeros(0), np.zeros(0, str))
finite = st.floats(-1e6, 1e6, allow_nan=False)


def words(figure):
    return [text.get_text() for text in figure.texts]


def pixels(figure, artist):
    to_png(figure)
    points = artist.get_transform().transform(artist.get_xydata())
    return points[:, 0] / figure.dpi, figure.get_figheight() - points[:, 1] / figure.dpi


def test_a_line_lies_where_its_data_says():
    canvas = Canvas(9, 4)
    chart = Chart(canvas, (1, 0.5, 4, 2), (0, 10), (0, 100))
    x, y = pixels(canvas.figure, chart.line([0, 5, 10], [0, 50, 100], color="black"))
    assert x == pytest.approx([1, 3, 5])
    assert y == pytest.approx([2.5, 1.5, 0.5])
    assert chart.inches(5, 50) == pytest.approx((3, 1.5))


def test_a_logarithmic_chart_spaces_decades_evenly_and_leaves_gaps():
    canvas = Canvas(9, 4)
    chart = Chart(canvas, (1, 0.5, 4, 2), (0, 3), (1, 1000), ylog=True)
    line = chart.line([0, 1, 2, 3], [1, 0, 100, 1000], color="black")
    _, y = pixels(canvas.figure, line)
    assert y[[0, 2, 3]] == pytest.approx([2.5, 0.5 + 2 / 3, 0.5])
    assert np.isnan(line.get_ydata()[1])
    with pytest.raises(PlotError, match="needs limits above 0"):
        Chart(canvas, (0, 0, 1, 1), (0, 1), (0, 1), ylog=True)
    with pytest.raises(PlotError, match="two different, finite limits"):
        Chart(canvas, (0, 0, 1, 1), (0, 0), (0, 1))


def test_bars_and_bands_have_the_data_s_corners():
    canvas = Canvas(9, 4)
    chart = Chart(canvas, (1, 0.5, 4, 2), (0, 4), (0, 10))
    bars = chart.bars([1, 3], [5, 20], 0.5, color="black", texts=["five", "more"])
    tops = [path.vertices[:, 1].max() for path in bars.get_paths()]
    assert tops == [5, 20]
    assert bars.get_clip_box() is not None
    band = chart.band([0, 4], [1, 1], [2, 3], color="black")
    assert isinstance(band, PolyCollection)
    assert band.get_paths()[0].vertices[:4].tolist() == [[0, 1], [4, 1], [4, 3], [0, 2]]
    assert {"five", "more"} <= set(words(canvas.figure))


def test_ticks_are_words_at_their_places_and_legends_name_what_has_a_label():
    canvas = Canvas(9, 4)
    chart = Chart(canvas, (1, 1, 4, 2), (0, 10), (0.5, 2), ylog=True, title="t$", xticks={2: "two"})
    chart.line([0, 1], [1, 1], color="black", label="mine")
    chart.legend(0.7)
    found = {text.get_text(): text.get_position() for text in canvas.figure.texts}
    assert {"two", "0.5", "1", "2", r"t\$", "mine"} <= set(found)
    assert found["two"][0] * 9 == pytest.approx(1 + 4 * 0.2)
    assert (1 - found["1"][1]) * 4 == pytest.approx(2)


@given(st.lists(finite, min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 10))
def test_spans_hold_every_value_and_are_never_empty(values, margin, least):
    low, high = span(values, margin=margin, least=least)
    assert low <= min(values)
    assert high >= max(values)
    assert high - low >= min(least, 1e-4)
    assert high > low or abs(low) > 1e5  # next to large numbers a tiny span vanishes in rounding


@given(st.text(min_size=0, max_size=60), st.integers(2, 20))
def test_words_fit(text, most):
    assert len(shortened(text, most)) <= most
    assert "".join(wrapped(text, most).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "parts",
    [
        {"spatial": [SpatialView("AST")], "channel": [ChannelView("none here")]},
        {"mask": MASK, "spatial": [SpatialView("AST", {"a": np.ones((4, 4))})], "channel": [GCA_VIEW]},
        {"channel": [ACT_VIEW], "cam_name": "shipped without weights"},
        {"channel": [ACT_VIEW, GCA_VIEW], "cam": np.eye(2), "cam_name": "x"},
    ],
)
def test_attention_panels_have_one_size_whatever_is_known(parts):
    view = AttentionView(PICTURE, **parts)
    figure = attention_panel(view)
    assert figure.get_size_inches().tolist() == [9.0, attention_height(1)]
    assert len(figure.axes) == 1
    assert {channel.name for channel in view.channel} <= set(words(figure))


def test_two_spatial_attentions_have_a_row_each():
    rows = [SpatialView("AST", {"a": np.ones((4, 4)), "b": np.ones((2, 2))}), SpatialView("SPA")]
    figure = attention_panel(AttentionView(PICTURE, spatial=rows))
    assert figure.get_size_inches().tolist() == [9.0, attention_height(2)]
    assert words(figure).count("SPA") == 2  # the row's name, and why it is empty
    assert "layer 2 · 2 × 2" in words(figure)


def test_feature_panel_marks_the_channel_among_the_strongest():
    maps = np.arange(24.0).reshape(6, 2, 2)
    order = strongest_channels(maps, 6)
    figure = feature_panel(PICTURE, maps, channel=4, order=order, mask=MASK)
    frames = [p for p in figure.artists if isinstance(p, Rectangle) and p.get_edgecolor() == to_rgba(CHOSEN)]
    assert len(frames) == 1
    assert (figure.axes[0].images[1].get_array() == maps[4]).all()


def test_monitor_panel_of_a_run_that_has_not_begun_and_of_a_long_one():
    assert "the run has not begun" in words(monitor_panel(EMPTY))
    terms = {name: np.full(9000, 1.0 + i) for i, name in enumerate(TERMS)}
    stages, changes = np.repeat(["spa", "gca"], 4500), [(0, "SPA"), (4500, "GCA")]
    long = 9000, np.arange(1.0, 9001), terms, np.full(9000, 50.0), stages, [(9000, 80.0)], changes, PICTURE
    figure = monitor_panel(MonitorView(*long))
    lines = [a for a in figure.artists if hasattr(a, "get_xdata") and len(a.get_xdata()) > 100]
    assert len(lines) == 7
    assert all(len(line.get_xdata()) <= 400 for line in lines)
    assert all(line.get_xdata()[-1] == 9000 for line in lines)
    assert "80.0" in words(figure)


def test_svg_keeps_words_and_is_the_same_each_time():
    figure = monitor_panel(EMPTY)
    assert b"the run has not begun" in to_svg(figure)
    assert to_svg(figure) == to_svg(figure)
