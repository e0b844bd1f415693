"""Scores against cases worked out by hand, and what must hold for any weights."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spgca_lab.analysis import scores
from spgca_lab.analysis.scores import ScoreError
from spgca_lab.training.events import Snapshot

# A picture of 4 × 4 whose right half is the object.
HALF = np.zeros((4, 4), bool)
HALF[:, 2:] = True

distributions = arrays(np.float64, st.integers(1, 40), elements=st.floats(0.001, 1)).map(
    lambda a: a / a.sum()
)


def test_entropy_of_cases_worked_out_by_hand():
    assert scores.entropy([1.0, 0.0, 0.0]) == 0
    assert scores.entropy([0.5, 0.25, 0.25]) == pytest.approx(1.5 * math.log(2))
    assert scores.effective_number([0.5, 0.25, 0.25]) == pytest.approx(2**1.5)
    assert scores.effective_number(torch.full((7,), 1 / 7)) == pytest.approx(7)


@given(distributions)
def test_entropy_lies_between_zero_and_its_maximum(weights):
    assert 0 <= scores.entropy(weights) <= math.log(len(weights)) + 1e-9
    assert 1 <= scores.effective_number(weights) + 1e-9 <= len(weights) + 1e-6


def test_one_distribution_over_two_layers():
    weights = {"a": np.array([0.1, 0.3]), "b": np.array([0.6])}
    assert scores.layer_shares(weights) == pytest.approx({"a": 0.4, "b": 0.6})
    assert scores.entropy(weights) == pytest.approx(scores.entropy([0.1, 0.3, 0.6]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.6], "sum is 1.1"),
        ([-0.5, 1.5], "at least 0"),
        ([[0.5, 0.5]], r"\[1, 2\]"),
        ([], "sum to 1"),
        ([np.nan, 1.0], "sum to 1"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(ScoreError, match=message):
        scores.entropy(weights)


def test_pointing_game_takes_the_strongest_cell_as_a_whole():
    assert scores.pointing_hit([[0.2, 0.8], [0.0, 0.0]], HALF)
    assert not scores.pointing_hit([[0.8, 0.2], [0.0, 0.0]], HALF)
    corner = np.zeros((4, 4), bool)
    corner[0, 0] = True
    # The strongest cell covers four pixels, one of them the object's.
    assert scores.pointing_hit([[1.0, 0.5], [0.0, 0.0]], corner)
    # Of equal cells the first counts.
    assert scores.pointing_hit(np.ones((2, 2)), corner)
    assert not scores.pointing_hit(np.ones((2, 2)), corner[::-1])


def test_mass_inside_by_hand():
    assert scores.mass_inside([[3.0, 1.0], [0.0, 4.0]], HALF) == pytest.approx(5 / 8)
    assert scores.mass_inside(np.ones((2, 2)), HALF) == pytest.approx(0.5)
    quarter = np.zeros((4, 4), bool)
    quarter[:2, :1] = True
    # Half of the upper left cell belongs to the object.
    assert scores.mass_inside([[6.0, 2.0], [0.0, 0.0]], quarter) == pytest.approx(3 / 8)


def test_mass_keeps_each_cell_whole_where_cells_do_not_divide_the_picture():
    mask = np.zeros((1, 5), bool)
    mask[0, :3] = True
    # Of five pixels the first cell has three, the second two; both carry half of the mass.
    assert scores.mass_inside([[1.0, 1.0]], mask) == pytest.approx(0.5)


def test_best_iou_by_hand():
    assert scores.best_iou([[0.0, 1.0]], HALF) == pytest.approx(1)
    assert scores.best_iou([[1.0, 0.0]], HALF) == pytest.approx(0.5)  # everything: 8 of 16
    three = np.zeros((1, 4), bool)
    three[0, 1:] = True
    # Above 0.5: pixels 2 and 3, IoU 2/3; everything: 3/4.
    assert scores.best_iou([[0.1, 0.1, 0.9, 0.9]], three) == pytest.approx(3 / 4)
    assert scores.best_iou([[0.1, 0.8, 0.9, 0.7]], three) == pytest.approx(1)


def _iou(chosen, mask):
    return (chosen & mask).sum() / (chosen | mask).sum()


@given(arrays(np.float64, (2, 2), elements=st.floats(0.01, 1)), st.integers(1, 2**16 - 1))
def test_best_iou_equals_trying_every_threshold(heat, bits):
    mask = np.array([bits >> i & 1 for i in range(16)], bool).reshape(4, 4)
    fine = np.kron(heat, np.ones((2, 2)))
    tried = max(_iou(fine >= level, mask) for level in heat.ravel())
    found = scores.mask_scores(heat, mask)
    assert found.iou == pytest.approx(tried)
    assert found.area == pytest.approx(mask.mean())
    assert found.inside == pytest.approx(fine[mask].sum() / fine.sum())


@pytest.mark.parametrize(
    ("heat", "mask", "message"),
    [
        (np.ones(4), HALF, r"got \[4\] and \[4, 4\]"),
        (np.ones((5, 5)), HALF, "at least as fine"),
        (np.zeros((2, 2)), HALF, "not 0 everywhere"),
        (-np.ones((2, 2)), HALF, "at least 0"),
        (np.ones((2, 2)), ~HALF & HALF, "no object"),
    ],
)
def test_what_cannot_be_scored_is_refused(heat, mask, message):
    with pytest.raises(ScoreError, match=message):
        scores.mask_scores(heat, mask)


def test_weight_counts_by_stage():
    maps = {"a": np.ones((2, 16)), "b": np.ones((2, 4))}
    channels = {"a": np.ones((2, 8)), "b": np.ones((2, 24))}
    snapshots = [Snapshot(0, "ast", "spatial", maps), Snapshot(5, "act", "channel", channels)]
    assert scores.weight_counts(snapshots) == {
        "ast": {"a": 16, "b": 4, "all": 20},
        "act": {"a": 8, "b": 24, "all": 32},
    }
