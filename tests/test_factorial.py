"""The factorial's reading: α by validation alone, gains by paired seeds, and the shipped table."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spgca_lab.experiments.factorial import COLUMNS, FactorialError, best_alphas, factorial, gains


def rows(role, method, values, transfer="a", per_class=2):
    """`values`: {(alpha, seed): top1}."""
    return [
        (transfer, per_class, role, method, alpha, seed, top1, 2.0 - top1 / 100, "")
        for (alpha, seed), top1 in values.items()
    ]


def table(*parts):
    return pd.DataFrame([row for part in parts for row in part], columns=list(COLUMNS))


VALIDATION = rows("validation", "spa", {(1.0, 0): 50.0, (1.0, 1): 52.0, (3.0, 0): 54.0, (3.0, 1): 51.0})


def test_alpha_is_chosen_on_validation_and_never_on_test():
    lured = table(VALIDATION, rows("test", "spa", {(1.0, 0): 99.0, (3.0, 0): 10.0}))
    assert best_alphas(lured) == {("a", 2, "spa"): 3.0}


def test_of_equal_alphas_the_lower_cross_entropy_wins():
    frame = table(rows("validation", "spa", {(1.0, 0): 50.0, (3.0, 0): 50.0}))
    frame.loc[frame["alpha"] == 1.0, "cross_entropy"] = 9.0
    assert best_alphas(frame) == {("a", 2, "spa"): 3.0}


def test_a_value_with_which_a_run_diverged_is_not_taken():
    broken = rows("validation", "spa", {(10.0, 0): 90.0, (10.0, 1): np.nan})
    assert best_alphas(table(VALIDATION, broken)) == {("a", 2, "spa"): 3.0}
    with pytest.raises(FactorialError, match="spa on a with 2 per class diverged with every α"):
        best_alphas(table(broken))


def test_gains_are_paired_by_seed_and_take_the_chosen_alpha():
    spa = {(3.0, s): v for s, v in enumerate((60.0, 62.0, 61.0, 70.0))}
    plain = {(1e-4, s): v for s, v in enumerate((58.0, 61.0, 60.5))}
    frame = table(
        VALIDATION, rows("test", "spa", spa), rows("test", "spa", {(1.0, 0): 5.0}), rows("test", "l2", plain)
    )
    (found,) = gains(frame, over="l2").to_dict("records")
    gaps = np.array([2.0, 1.0, 0.5])
    half = stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / np.sqrt(3)
    assert found["gain"] == pytest.approx(gaps.mean())
    assert found["half"] == pytest.approx(half)
    assert (found["alpha"], found["n"]) == (3.0, 3)
    assert found["top1"] == pytest.approx(np.mean([60, 62, 61, 70]))


def test_a_table_that_is_none_is_refused(tmp_path):
    file = tmp_path / "runs.csv"
    good = table(VALIDATION)
    for frame, said in (
        (good.drop(columns="top1"), "no column 'top1'"),
        (pd.concat([good, good]), "twice"),
        (good.assign(role="guess"), "guess"),
    ):
        frame.to_csv(file, index=False)
        with pytest.raises(FactorialError, match=said):
            factorial(file)
    with pytest.raises(FactorialError, match="no runs of 'l3'; there are 'spa'"):
        gains(good, over="l3")


def test_the_shipped_table_is_whole_and_chose_every_alpha_before_it_tested():
    found = factorial()
    alphas = best_alphas(found)
    test = found[found["role"] == "test"]
    for row in test.itertuples():
        assert alphas.get((row.transfer, row.per_class, row.method), row.alpha) == row.alpha
    counts = test.groupby(["transfer", "per_class", "method"])["seed"].nunique()
    cells = itertools.product(*(test[name].unique() for name in ("transfer", "per_class", "method")))
    assert set(counts.index) == set(cells)
    assert counts.nunique() == 1
    assert counts.iloc[0] >= 3
