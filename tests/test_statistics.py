"""Intervals against scipy and pandas computed another way, and what they must keep to whatever the values."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spgca_lab.analysis.statistics import (
    MeanInterval,
    StatisticsError,
    compare_predictions,
    mean_interval,
    paired_difference,
)

values = st.lists(st.floats(0, 100), min_size=2, max_size=12)
levels = st.floats(0.5, 0.999)
by_seed = st.dictionaries(st.integers(0, 9), st.floats(0, 100), max_size=8)
answers = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=60)


@given(values, levels)
def test_mean_interval_is_scipys_t_interval(x, level):
    found = mean_interval(x, level)
    assert (found.n, found.level) == (len(x), level)
    assert found.mean == pytest.approx(np.mean(x))
    assert found.sd == pytest.approx(pd.Series(x).std(), abs=1e-9)
    if np.std(x) > 1e-6:
        low, high = stats.t.interval(level, len(x) - 1, loc=np.mean(x), scale=stats.sem(x))
        assert (found.low, found.high) == pytest.approx((low, high))


def test_too_few_values_have_no_interval():
    none, one = mean_interval([]), mean_interval([88.1])
    assert none.n == 0
    assert math.isnan(none.mean)
    assert (one.mean, one.n) == (88.1, 1)
    assert math.isnan(one.sd)
    assert math.isnan(one.half)
    assert not one.excludes(0)


@pytest.mark.parametrize(
    ("interval", "spec", "text"),
    [
        (MeanInterval(0.6, 0.3, 3, 0.5), "+.1f", "+0.6 ± 0.5"),
        (MeanInterval(-0.64, 0.3, 3, 0.5), "+.2f", "-0.64 ± 0.50"),
        (MeanInterval(88.1, 0.3, 3, 0.5), "", "88.1 ± 0.5"),
        (mean_interval([0.6]), "+.1f", "+0.6 (n = 1)"),
        (mean_interval([]), "+.1f", "none"),
    ],
)
def test_intervals_are_written_as_the_paper_does(interval, spec, text):
    assert format(interval, spec) == text
    assert str(MeanInterval(88.1, 0.3, 3, 0.5)) == "88.1 ± 0.5"


@pytest.mark.parametrize(("mean", "excludes"), [(0.6, True), (0.4, False), (-0.6, True), (-0.5, False)])
def test_an_interval_excludes_what_lies_beyond_its_ends(mean, excludes):
    assert MeanInterval(mean, 0.3, 3, 0.5).excludes(0) is excludes


@given(by_seed, by_seed, levels)
def test_paired_difference_is_the_t_interval_of_pandas_joined_differences(a, b, level):
    found = paired_difference(a, b, level)
    gaps = (pd.Series(a, dtype=float) - pd.Series(b, dtype=float)).dropna()
    assert found.seeds == tuple(sorted(gaps.index))
    assert found.gaps == pytest.approx(tuple(gaps.sort_index()))
    assert found.n == len(gaps)
    if len(gaps) == 1:
        assert (found.mean, math.isnan(found.half)) == (pytest.approx(gaps.iloc[0]), True)
    if len(gaps) > 1 and gaps.std() > 1e-6:
        interval = stats.ttest_1samp(gaps, 0.0).confidence_interval(level)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@given(answers)
def test_answers_are_counted_as_pandas_counts_them(rows):
    table = pd.DataFrame(rows, columns=["y", "a", "b"])
    found = compare_predictions(table.y, table.a, table.b)
    right = pd.crosstab(table.a == table.y, table.b == table.y).reindex(
        index=[False, True], columns=[False, True], fill_value=0
    )
    assert found.both_right == right.loc[True, True]
    assert (found.only_a, found.only_b) == (right.loc[True, False], right.loc[False, True])
    assert found.apart + found.alike == right.loc[False, False]
    assert found.disagree == (table.a != table.b).sum()
    assert found.pictures == len(table)
    top1 = [100 * (table[n] == table.y).mean() for n in "ab"]
    assert found.difference.mean == pytest.approx(top1[0] - top1[1])
    gaps = 100 * ((table.a == table.y).astype(float) - (table.b == table.y).astype(float))
    if gaps.std() > 0:
        test = stats.ttest_rel(100.0 * (table.a == table.y), 100.0 * (table.b == table.y))
        assert found.difference.low == pytest.approx(test.confidence_interval(0.95).low)
    parted = found.only_a + found.only_b
    exact = stats.binomtest(found.only_a, parted, 0.5).pvalue if parted else 1.0
    assert found.p == pytest.approx(exact)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0, math.nan]), "values must be finite, got nan"),
        (lambda: mean_interval([1.0, 2.0], level=95), "level must lie between 0 and 1, such as 0.95, got 95"),
        (lambda: paired_difference({0: math.inf}, {0: 1.0}), "values must be finite, got inf"),
        (lambda: compare_predictions([0, 1], [0, 1], [0]), "must be of one length, got 2, 2 and 1"),
    ],
)
def test_what_has_no_mean_is_refused(call, message):
    with pytest.raises(StatisticsError, match=re.escape(message)):
        call()


@given(values, st.floats(-50, 50), st.floats(0.1, 10))
def test_mean_interval_follows_shift_and_scale(x, shift, scale):
    plain, moved = mean_interval(x), mean_interval([shift + scale * v for v in x])
    assert moved.mean == pytest.approx(shift + scale * plain.mean, abs=1e-6)
    assert moved.half == pytest.approx(scale * plain.half, abs=1e-6)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    drawn = np.random.default_rng(0).normal(3.0, 2.0, (4000, 3))
    covered = [abs(mean_interval(x).mean - 3.0) <= mean_interval(x).half for x in drawn]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


@given(by_seed, by_seed)
def test_paired_difference_turns_its_sign_with_its_sides(a, b):
    there, back = paired_difference(a, b), paired_difference(b, a)
    if there.n:
        assert there.mean == pytest.approx(-back.mean)
        assert np.isclose(there.half, back.half, equal_nan=True)
        same = paired_difference(a, a)
        assert same.mean == 0.0
