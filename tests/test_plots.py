"""Figures show the numbers they are given: values of artists, scales, labels; and refuse what they cannot show."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from spgca_lab import plots
from spgca_lab.plots.attention import heatmap_limits, overlay, relative_maps, shares
from spgca_lab.plots.results import paired_gains
from spgca_lab.plots.style import PlotError, method_colour

PICTURES = np.random.default_rng(0).integers(0, 255, (3, 3, 16, 16)).astype(np.uint8)
MASKS = np.zeros((3, 16, 16), bool)
MASKS[:, 4:12, 4:12] = True
UNIFORM = {"a": np.full((3, 16), 1 / 16), "b": np.full((3, 4), 1 / 4)}
GCA = {"a": np.full(4, 0.1), "b": np.full(6, 0.1)}
ACT = {"a": np.full(4, 0.25), "b": np.full(6, 1 / 6)}


def words(figure):
    return [text.get_text() for text in figure.texts]


def run_tables(steps=8):
    stage, lr = ["spa"] * (steps // 2) + ["gca"] * (steps // 2), [0.01] * 2 + [0.001] * (steps - 2)
    table = pd.DataFrame(
        {"step": range(1, steps + 1), "stage": stage, "cross_entropy": 1.0, "penalty": 0.5, "lr": lr}
    )
    return table, pd.DataFrame({"step": [steps // 2, steps], "top1": [40.0, 60.0]})


def test_figures_show_themselves_without_pyplot():
    code = (
        "import sys, numpy as np; from spgca_lab import plots; "
        "f = plots.picture_grid(np.zeros((1, 3, 8, 8), np.uint8)); "
        "print(f._repr_png_()[:4] == b'\\x89PNG', 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_drawn_png_has_the_figure_s_size_and_keeps_its_dpi():
    figure = plots.LabFigure(figsize=(3, 2), dpi=100)
    assert Image.open(io.BytesIO(plots.to_png(figure, dpi=50))).size == (150, 100)
    assert figure.dpi == 100


def test_picture_grid_shows_the_pixels_and_outlines_the_mask():
    figure = plots.picture_grid(torch.from_numpy(PICTURES), ["5$ and 6$", "b", "c"], MASKS)
    assert words(figure) == [r"5\$ and 6\$", "b", "c"]
    second = figure.axes[0].images[1]
    assert np.array_equal(second.get_array(), PICTURES[1].transpose(1, 2, 0))
    left, right, low, high = second.get_extent()
    edges = [patch.get_path().vertices for patch in figure.axes[0].patches]
    pixels = ((edges[2] - [left, high]) / [right - left, low - high]) * 16
    assert pixels.min() == pytest.approx(4)
    assert pixels.max() == pytest.approx(12)
    plots.to_png(figure)


@pytest.mark.parametrize(
    ("pictures", "given", "message"),
    [
        (PICTURES, {"titles": ["a"]}, "3 images need as many titles, got 1"),
        (PICTURES, {"masks": MASKS[:2]}, "3 images need as many masks, got 2"),
        (np.zeros((1, 8, 8), np.uint8), {}, r"got \[1, 8, 8\]"),
    ],
)
def test_picture_grid_refuses_other_numbers_and_shapes(pictures, given, message):
    with pytest.raises(PlotError, match=message):
        plots.picture_grid(pictures, **given)


def test_feature_maps_show_the_strongest_channels_on_one_symmetric_scale():
    maps = np.zeros((4, 2, 2))
    maps[2] = -5
    maps[1] = 3
    figure = plots.feature_maps(maps, count=2)
    assert words(figure)[:2] == ["channel 2", "channel 1"]
    assert {image.get_clim() for image in figure.axes[0].images[:2]} == {(-5.0, 5.0)}
    magnitudes = plots.feature_maps(np.ones((2, 3, 3))).axes[0].images[0]
    assert (magnitudes.get_clim(), magnitudes.get_cmap().name) == ((0.0, 1.0), "viridis")
    with pytest.raises(PlotError, match="from 0 to 3"):
        plots.feature_maps(maps, channels=[7])


def test_map_triplet_shares_one_scale_and_signs_the_difference():
    source, target = np.full((2, 2), -1.0), np.full((2, 2), 3.0)
    figure = plots.map_triplet(source, target)
    shown = [image for image in figure.axes[0].images if image.get_array().ndim == 2]
    assert words(figure)[0] == "source  FM_S"
    assert shown[0].get_clim() == shown[1].get_clim() == (-3, 3)
    assert shown[2].get_clim() == (-4, 4)
    assert (shown[2].get_array() == 4).all()
    with pytest.raises(PlotError, match=r"\[2, 2\] and \[3, 3\]"):
        plots.map_triplet(source, np.zeros((3, 3)))


def test_spatial_weights_are_shown_times_uniform():
    weights = np.array([0.7, 0.1, 0.1, 0.1])
    assert relative_maps(weights).tolist() == [[[2.8, 0.4], [0.4, 0.4]]]
    assert relative_maps(np.full(6, 1 / 6), (2, 3)) == pytest.approx(np.ones((1, 2, 3)))
    with pytest.raises(PlotError, match="6 weights are no 2 × 2 map"):
        relative_maps(np.full(6, 1 / 6))
    assert heatmap_limits(np.array([1.0, 1.02])) == (0.9, 1.1)
    assert heatmap_limits(np.array([0.2, 3.0])) == (0.2, 3.0)


def test_overlay_blends_cell_by_cell():
    picture = np.full((4, 4, 3), 200, np.uint8)
    heat = np.array([[0.0, 1.0], [0.0, 0.0]])
    assert (overlay(picture, heat, (0, 1), 0.0) == 200).all()
    full = overlay(picture, heat, (0, 1), 1.0)
    assert len(np.unique(full.reshape(-1, 3), axis=0)) == 2
    assert (full[:2, 2:] == full[0, 2]).all()
    half = overlay(picture, heat, (0, 1), 0.5)
    assert half[0, 2] == pytest.approx((full[0, 2].astype(float) + 200) / 2, abs=1)


def test_attention_overlay_has_a_row_a_picture_and_a_column_a_layer():
    figure = plots.attention_overlay(PICTURES, UNIFORM, masks=MASKS, row_titles=["x", "y", "z"])
    names = words(figure)
    assert [n for n in names if n.startswith("layer")] == ["layer 1 · 4 × 4", "layer 2 · 2 × 2"]
    assert [n for n in names if n in "xyz" and n] == ["x", "y", "z"]
    with pytest.raises(PlotError, match="2 images need as many rows of weights"):
        plots.attention_overlay(PICTURES[:2], UNIFORM)
    with pytest.raises(PlotError, match="opacity"):
        plots.attention_overlay(PICTURES, UNIFORM, opacity=65)


def test_channel_weights_tell_gca_from_act():
    gca, act = plots.channel_weights(GCA), plots.channel_weights(ACT)
    assert "share of the whole, % (grey: uniform weights)" in words(gca)
    assert {"40", "60"} <= set(words(gca))
    assert shares(GCA, joint=True) == (pytest.approx([40, 60]), pytest.approx([40, 60]))
    assert "effective channels, % (grey: uniform weights)" in words(act)
    assert words(act).count("100") == 2
    assert shares(ACT, joint=False)[0] == pytest.approx([100, 100])
    weights = [a for a in gca.artists if hasattr(a, "get_ydata") and len(a.get_ydata()) in (4, 6)]
    assert [10 ** line.get_ydata() for line in weights] == [pytest.approx(np.ones(n)) for n in (4, 6)]
    with pytest.raises(PlotError, match="sum to 1"):
        plots.channel_weights({"a": np.full(4, 0.1), "b": np.full(6, 0.2)})


def test_share_bars_stack_to_a_hundred_below_the_uniform_one():
    skewed = {"a": np.full(4, 0.2), "b": np.full(6, 0.2 / 6)}
    figure = plots.share_bars({"skewed": skewed})
    widths = [[bar.get_width() for bar in container] for container in figure.axes[0].containers]
    assert pytest.approx(np.array([[40, 60], [80, 20]])) == np.array(widths).T


def test_the_optimum_of_a_quadratic_penalty_is_drawn_below_any_other():
    d = np.array([1.0, 2.0, 4.0])
    best = (1 / d) / (1 / d).sum()
    figure = plots.weights_vs_optimum(best, d)
    uniform, learned, optimum = (bar.get_width() for bar in figure.axes[1].patches)
    assert learned == pytest.approx(optimum)
    assert optimum == pytest.approx(0.5 * 3 / (1 / d).sum())
    assert optimum < uniform
    linear = plots.weights_vs_optimum(best, d, quadratic=False)
    assert [bar.get_width() for bar in linear.axes[1].patches][2] == pytest.approx(0.5)
    with pytest.raises(PlotError, match="got 3 and 2"):
        plots.weights_vs_optimum(best[:2], d)


def test_training_curves_mark_hand_over_and_fall_of_the_learning_rate():
    figure = plots.training_curves([("a", *run_tables())])
    loss = figure.axes[0]
    assert sorted(line.get_xdata()[0] for line in loss.lines if len(line.get_xdata()) == 2) == [2.5, 4.5]
    assert "spa → gca" in [text.get_text() for text in loss.texts]
    assert figure.axes[2].lines[0].get_ydata().tolist() == [40, 60]
    with pytest.raises(PlotError, match="'a' lack 'penalty'"):
        plots.training_curves([("a", run_tables()[0].drop(columns="penalty"), run_tables()[1])])


def test_smoothing_does_not_cross_the_hand_over():
    steps, evaluations = run_tables()
    steps["penalty"] = [1.0] * 4 + [3.0] * 4
    smoothed = plots.training_curves([("a", steps, evaluations)]).axes[1].lines[1].get_ydata()
    assert smoothed.tolist() == [1.0] * 4 + [3.0] * 4


def test_entropy_curves_draw_the_maximum_and_the_effective_number():
    steps, _ = run_tables()
    steps["entropy/all"] = [np.nan] * 4 + [np.log(5)] * 4
    figure = plots.entropy_curves(steps, {"gca": {"all": 10}})
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert dashed[0].get_ydata() == pytest.approx([np.log(10)] * 2)
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([50.0] * 4)
    with pytest.raises(PlotError, match="no attention"):
        plots.entropy_curves(run_tables()[0])


def test_bar_terms_are_shares_of_each_quantity():
    figure = plots.bar_terms({"loss": {"a": 1.0, "b": 3.0}, "gradient": {"a": 1.0, "b": 1.0}})
    heights = [[bar.get_height() for bar in container] for container in figure.axes[0].containers]
    assert heights == [[25, 50], [75, 50]]
    with pytest.raises(PlotError, match="'loss' must have finite values"):
        plots.bar_terms({"loss": {"a": 1.0, "b": float("nan")}})


ROWS = [("uniform", 0, 50.0), ("uniform", 1, 60.0), ("afa", 0, 53.0), ("afa", 1, 61.0), ("l2", 1, 57.0)]
RESULTS = pd.DataFrame(ROWS, columns=["method", "seed", "top1"])


def test_gains_are_paired_by_seed():
    gains = paired_gains(RESULTS, "uniform")
    assert gains[["method", "seed"]].equals(RESULTS[["method", "seed"]])
    assert gains["gain"].tolist() == [0, 0, 3, 1, -3]
    with pytest.raises(PlotError, match="no run of the baseline 'spgca'; methods: uniform, afa, l2"):
        paired_gains(RESULTS, "spgca")
    with pytest.raises(PlotError, match="share a seed"):
        paired_gains(pd.concat([RESULTS, RESULTS]), "uniform")


def test_results_dots_show_every_run_and_its_mean():
    figure = plots.results_dots(RESULTS)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["AFA", "L2", "uniform"]
    dots = np.concatenate([c.get_offsets()[:, 0] for c in figure.axes[0].collections])
    assert sorted(dots.tolist()) == [50, 53, 57, 60, 61]
    means = [x for line in figure.axes[0].lines if line.get_marker() == "D" for x in line.get_xdata()]
    assert [x for x in means if not np.isnan(x)] == [57, 57, 55]


def test_intervals_of_two_seeds_are_written_and_may_leave_the_axis():
    left, right = plots.results_dots(RESULTS).axes
    assert [text.get_text() for text in left.texts] == ["57.0 ± 50.8", "57.0 (n = 1)", "55.0 ± 63.5"]
    assert [text.get_text() for text in right.texts] == ["+2.0 ± 12.7", "-3.0 (n = 1)", "baseline"]
    low, high = left.get_xlim()
    assert high - low < 14


def test_a_heatmap_has_a_cell_for_every_pair_of_settings():
    table = pd.DataFrame({"alpha": [1, 1, 3], "r": [4, 4, 8], "top1": [50.0, 52.0, 60.0]})
    axes = plots.sweep_heatmap(table).axes[0]
    shown = axes.collections[0].get_array().filled(np.nan).reshape(2, 2)
    assert np.array_equal(shown, [[np.nan, 60], [51, np.nan]], equal_nan=True)
    assert [text.get_text() for text in axes.texts] == ["60.0 (n = 1)", "51.0 ± 12.7"]
    with pytest.raises(PlotError, match="lacks 'r'"):
        plots.sweep_heatmap(table.drop(columns="r"))


def test_every_method_of_the_lab_has_a_colour_of_its_own():
    from spgca_lab.regularizers.registry import METHODS

    colours = [method_colour(method) for method in METHODS]
    assert len(set(colours)) == len(colours)
