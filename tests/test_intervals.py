"""Figures of means and intervals: every number lands where it belongs, and what is clear looks clear."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from spgca_lab.plots import PlotError, factorial_gains, interval_dots, method_colour

NEAR = [("mini → near", 2, "afa", 1.5, 0.5), ("mini → near", 20, "afa", 0.2, 0.9)]
ROWS = [*NEAR, ("mini → far", 2, "l2_sp", -2.0, 1.0)]
GAINS = pd.DataFrame(ROWS, columns=["transfer", "per_class", "method", "gain", "half"])


def dots(axes):
    """(x, y, face colour) of each dot; a full dot covers an empty one."""
    found = {}
    for line in axes.lines:
        if line.get_marker() == "o":
            for x, y in line.get_xydata()[~np.isnan(line.get_xydata()).any(axis=1)]:
                found[round(float(x), 3), round(float(y), 3)] = to_rgba(line.get_markerfacecolor())
    return [(*place, face) for place, face in found.items()]


def test_a_row_a_transfer_and_a_column_for_what_is_compared_with():
    figure = factorial_gains({"plain": GAINS, "uniform": GAINS[GAINS["method"] == "afa"]})
    near_plain, near_uniform, far_plain, far_uniform = figure.axes
    assert near_plain.get_title() == "minus plain, points"
    assert near_uniform.get_title() == "minus uniform, points"
    assert near_plain.get_ylim() == near_uniform.get_ylim()
    assert far_plain.get_ylabel() == "mini\n→ far"
    assert [t.get_text() for t in far_plain.get_xticklabels()] == ["2", "20"]
    assert not dots(far_uniform)


def test_what_can_be_told_from_nothing_is_full():
    axes = factorial_gains({"plain": GAINS}).axes[0]
    found = {y: face for _, y, face in dots(axes)}
    assert found[1.5] == to_rgba(method_colour("afa"))
    assert found[0.2] == to_rgba("white")


def test_intervals_reach_from_low_to_high():
    table = pd.DataFrame(
        {"heat": ["a", "b"], "layer": 1, "preset": "near", "gain": [1.0, -3.0], "half": [0.5, np.nan]}
    )
    figure = interval_dots(table, row="heat", panel="layer", colour="preset", label="points")
    axes = figure.axes[0]
    bars = [line.get_xdata() for line in axes.lines if line.get_marker() in ("", "None", None)]
    ends = [[float(np.nanmin(x)), float(np.nanmax(x))] for x in bars if np.ptp(x) > 0 or x[0]]
    assert ends == [[0.5, 1.5], [-3.0, -3.0]]
    assert [x for x, _, _ in dots(axes)] == [1.0, -3.0]
    assert axes.get_xlim()[0] <= -3.0
    assert axes.get_xlabel() == "points"


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(PlotError, match="lacks 'gain'"):
        factorial_gains({"plain": GAINS.drop(columns="gain")})
    with pytest.raises(PlotError, match="nothing to draw"):
        factorial_gains({"plain": GAINS[:0]})
    with pytest.raises(PlotError, match="lacks 'half', 'heat'"):
        interval_dots(GAINS[["gain", "method"]], row="heat", panel="method", colour="method", label="")
