"""Figure 2 as a report: steps to a target counted by hand, mean curves against scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spgca_lab.experiments.report import report
from spgca_lab.experiments.report.curves import convergence, mean_curves, steps_to
from tests.report_runs import fill, row_of, runs_of_figure2


@pytest.fixture(scope="module")
def figure2(tmp_path_factory):
    """The store of Figure 2."""
    store = tmp_path_factory.mktemp("figure2")
    runs_of_figure2(store)
    return store


def test_steps_to_the_targets_are_those_counted_by_hand(figure2):
    rows = report("fig2", figure2).convergence
    spa = rows[rows["column"] == "spa"].set_index("target")
    own = spa.loc["95 % of its own final accuracy"]
    # AST: 0.95 × 80 = 76, 76.95, 77.9: all at 30. SPA: 76.95 at 10, 76.95 at 20, 76 at 10.
    assert (own["reference_steps"], own["steps"]) == (30.0, pytest.approx(40 / 3))
    assert own["diff"] == pytest.approx(np.mean([-20, -10, -20]))
    interval = stats.ttest_1samp([-20, -10, -20], 0).confidence_interval(0.95)
    assert own["diff_half"] == pytest.approx((interval.high - interval.low) / 2)
    # The same seed's AST ends at 80, 81, 82: SPA is there at 20, at 30, and never.
    same = spa.loc["final accuracy of AST"]
    assert (same["reference_steps"], same["reference_reached"], same["reference_n"]) == (40.0, 3, 3)
    assert (same["steps"], same["reached"], same["n"], same["diff_n"]) == (25.0, 2, 3, 2)
    assert same["diff"] == pytest.approx(np.mean([20 - 40, 30 - 40]))
    gca = rows[rows["column"] == "gca"].set_index("target")
    assert gca.loc["final accuracy of ACT", ["diff", "diff_half", "diff_n"]].tolist() == [-20.0, 0.0, 2]


def test_the_convergence_table_is_told_with_its_caveats(figure2):
    found = report("fig2", figure2)
    text = found.markdown()
    assert "25 (2 of 3)" in text
    assert "-20 with each" in text
    assert "the values of its curves are not printed" in text
    assert "both proposed submodules converged faster" in text
    assert "steps of SPA against AST" in text
    assert "3 of 3" not in text
    assert row_of(found, "spa", "Caltech 256-60")["reference"] == "ast"
    assert row_of(found, "gca", "Caltech 256-60")["published_diff"] == pytest.approx(0.85)
    assert found.baseline is None


def test_a_target_that_nobody_reaches_is_not_reached():
    curves = pd.DataFrame(
        [("d", c, 0, s, t) for c, s, t in (("ast", 10, 80.0), ("spa", 10, 40.0), ("spa", 20, 60.0))],
        columns=["dataset", "column", "seed", "step", "top1"],
    )
    rows = convergence(curves, {("d", "ast"): {0: 80.0}, ("d", "spa"): {0: 60.0}})
    last = rows.set_index("target").loc["final accuracy of AST"]
    assert (last["reached"], last["n"], last["diff_n"]) == (0, 1, 0)
    assert math.isnan(last["steps"])
    assert math.isnan(steps_to(curves[curves["column"] == "spa"], 60.1))
    assert steps_to(curves[curves["column"] == "spa"], 60.0) == 20.0


def test_mean_curves_are_scipys_step_by_step(figure2):
    found = report("fig2", figure2)
    means = mean_curves(found.curves, 0.9)
    at = means[(means["column"] == "spa") & (means["step"] == 20)].iloc[0]
    x = [80.5, 78.0, 78.0]
    low, high = stats.t.interval(0.9, 2, np.mean(x), stats.sem(x))
    assert (at["n"], at["mean"] - at["half"], at["mean"] + at["half"]) == (
        3,
        pytest.approx(low),
        pytest.approx(high),
    )
    assert len(found.curves) == 12 + 12 + 4 + 6


def test_a_run_without_its_evaluations_is_noted(tmp_path):
    fill(tmp_path, "fig2", {"ast": {0: 80.0}}, dataset="caltech256_60", seeds=(0,), baseline="ast")
    found = report("fig2", tmp_path)
    assert found.curves.empty
    note = row_of(found, "ast", "Caltech 256-60")["note"]
    assert "without its curve" in note
    assert "evaluations.csv" in note
    assert found.mean_curves().empty
