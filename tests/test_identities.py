"""Identities between the penalties, and the bounds of their optima, for random maps."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mock_models import BASIC_TAPS, images, map_shapes, pair, random_maps, randomise, seeds, simplex

from spgca_lab.backbones import load_backbone
from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.attention import (
    ChannelAttention,
    GlobalChannelAttention,
    SelfPixelAttention,
    SpatialAttention,
)
from spgca_lab.regularizers.taps import FeatureTaps

ALL = (SpatialAttention, SelfPixelAttention, ChannelAttention, GlobalChannelAttention)
PENALTY = {
    SpatialAttention: penalties.ast,
    SelfPixelAttention: penalties.spa,
    ChannelAttention: penalties.act,
    GlobalChannelAttention: penalties.gca,
}
SCALES = penalties.SCALES
SHAPES = {"layer1.0.conv3": (4, 3, 2), "layer2.0.conv3": (6, 2, 2)}


def both(shapes, batch=2, seed=0):
    return random_maps(shapes, batch, seed), random_maps(shapes, batch, seed + 1)


def run(model, taps, x):
    with FeatureTaps(model, taps) as recorded, torch.no_grad():
        model(x)
        return recorded.maps


# Identities between the methods


@given(shapes=map_shapes(), seed=seeds)
def test_spa_with_equal_maps_is_ast_with_the_same_net(shapes, seed):
    s, t = both(shapes, seed=seed)
    ast = randomise(SpatialAttention(shapes).double(), seed)
    spa = SelfPixelAttention(shapes).double()
    spa.load_state_dict(ast.state_dict())
    for tap, weights in spa(s, s).items():
        torch.testing.assert_close(weights, ast(s)[tap])
    for scale in SCALES:
        torch.testing.assert_close(penalties.spa(s, t, spa(s, s), scale), penalties.ast(s, t, ast(s), scale))


@pytest.mark.parametrize("scale", ["afa", "relative"])
@pytest.mark.parametrize("cls", ALL)
@given(shapes=map_shapes(), seed=seeds)
def test_uniform_weights_give_plain_feature_alignment(cls, scale, shapes, seed):
    s, t = both(shapes, seed=seed)
    r = {"r": 1} if cls is GlobalChannelAttention else {}
    attention = cls(shapes, **r).double()
    uniform = attention.uniform(attention(s, t))
    plain = penalties.features(s, t, scale)
    torch.testing.assert_close(PENALTY[cls](s, t, uniform, scale), plain)
    torch.testing.assert_close(attention.loss(s, t, uniform, scale), plain)


@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), seed=seeds)
def test_uniform_weights_in_the_literal_equations_shrink_by_their_number(shape, seed):
    c, h, w = shape
    s, t = both({"a": shape}, seed=seed)
    plain = penalties.features(s, t, "literal")
    positions = {"a": torch.full((2, h * w), 1 / (h * w), dtype=torch.float64)}
    channels = {"a": torch.full((2, c), 1 / c, dtype=torch.float64)}
    torch.testing.assert_close(penalties.ast(s, t, positions, "literal"), plain / (h * w) ** 2)
    torch.testing.assert_close(penalties.act(s, t, channels, "literal"), plain / c)


@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), seed=seeds)
def test_gca_over_a_single_layer_is_act(shape, seed):
    s, t = both({"a": shape}, seed=seed)
    weights = {"a": simplex((2, shape[0]), seed)}
    for scale in SCALES:
        torch.testing.assert_close(penalties.gca(s, t, weights, scale), penalties.act(s, t, weights, scale))


@pytest.mark.parametrize("cls", ALL)
def test_an_attentions_loss_is_its_papers_penalty(cls):
    s, t = both(SHAPES)
    attention = randomise(cls(SHAPES).double())
    weights = attention(s, t)
    for scale in SCALES:
        assert torch.equal(attention.loss(s, t, weights, scale), PENALTY[cls](s, t, weights, scale))


@given(shapes=map_shapes(), seed=seeds)
def test_penalties_do_not_tell_s_from_t_on_the_equations_own_scales(shapes, seed):
    s, t = both(shapes, seed=seed)
    weights = {tap: simplex((2, c), seed) for tap, (c, _, _) in shapes.items()}
    for scale in ("literal", "afa"):
        torch.testing.assert_close(penalties.act(s, t, weights, scale), penalties.act(t, s, weights, scale))


# Equal weights in S and T


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("cls", ALL)
def test_the_penalty_is_zero_when_s_equals_t_and_both_are_in_eval_mode(cls, scale):
    source, target = pair()
    s, t = (run(m.eval(), BASIC_TAPS, images(4)) for m in (source, target))
    attention = cls.for_maps(s)
    assert attention.loss(s, t, attention(s, t), scale) == 0
    assert penalties.features(s, t, scale) == 0


@pytest.mark.parametrize("cls", ALL)
def test_the_penalty_is_not_zero_when_t_is_in_train_mode_although_its_weights_are_equal(cls):
    """S normalises with running statistics, T with the batch's: the maps differ from the second layer on."""
    source, target = pair()
    s, t = run(source, BASIC_TAPS, images(4)), run(target, BASIC_TAPS, images(4))
    attention = cls.for_maps(s)
    assert attention.loss(s, t, attention(s, t), "relative") > 1e-3


def test_the_same_holds_for_the_projects_own_source():
    backbone = load_backbone("mini", weights="random")
    source, target = backbone.model, copy.deepcopy(backbone.model)
    with torch.no_grad():
        target.train()(images(8, seed=1))
    source.load_state_dict(target.state_dict())
    s = run(source.eval(), backbone.taps, images(4))
    in_eval = run(target.eval(), backbone.taps, images(4))
    in_train = run(target.train(), backbone.taps, images(4))
    spa = SelfPixelAttention.for_maps(s)
    assert spa.loss(s, in_eval, spa(s, in_eval), "relative") == 0
    assert spa.loss(s, in_train, spa(s, in_train), "relative") > 1e-3


# The optimum over the weights, for fixed maps (docs/paper_notes.md, points 1 and 9)


def squared(s, t, dim):
    return {tap: (s[tap] - t[tap]).square().sum(dim=dim).flatten(1) for tap in s}


@given(shapes=map_shapes(), seed=seeds, sharpness=st.floats(0, 20))
def test_no_spatial_attention_is_below_half_hw_times_the_harmonic_mean(shapes, seed, sharpness):
    s, t = both(shapes, seed=seed)
    weights = {
        tap: simplex((2, h * w), seed + i, sharpness) for i, (tap, (_, h, w)) in enumerate(shapes.items())
    }
    d = squared(s, t, dim=1)
    bound = sum(half_harmonic(x) for x in d.values())
    plain = penalties.features(s, t, "afa")
    assert penalties.ast(s, t, weights, "afa") >= bound * (1 - 1e-9)
    assert bound <= plain * (1 + 1e-9)


def half_harmonic(d):
    """Return the batch mean of ½ · HW · harmonic mean of d, where harmonic mean = HW / Σ 1/d."""
    count = d.shape[1]
    return (0.5 * count * (count / (1 / d).sum(dim=1))).mean()


@given(shapes=map_shapes(), seed=seeds)
def test_that_bound_is_reached_by_weights_inverse_to_the_squared_difference(shapes, seed):
    s, t = both(shapes, seed=seed)
    d = squared(s, t, dim=1)
    best = {tap: (1 / x) / (1 / x).sum(dim=1, keepdim=True) for tap, x in d.items()}
    torch.testing.assert_close(penalties.ast(s, t, best, "afa"), sum(half_harmonic(x) for x in d.values()))


def test_the_bound_equals_the_plain_penalty_exactly_when_the_difference_is_everywhere_the_same():
    s = {"a": torch.zeros(1, 2, 2, 2, dtype=torch.float64)}
    same = {"a": torch.ones(1, 2, 2, 2, dtype=torch.float64)}
    uneven = {"a": same["a"] * torch.tensor([1.0, 2.0], dtype=torch.float64)}
    for t, equal in ((same, True), (uneven, False)):
        bound = half_harmonic(squared(s, t, dim=1)["a"])
        assert bool(torch.isclose(bound, penalties.features(s, t, "afa"))) is equal


@given(shapes=map_shapes(), seed=seeds, sharpness=st.floats(0, 20))
def test_no_channel_attention_is_below_half_c_times_the_smallest_difference(shapes, seed, sharpness):
    s, t = both(shapes, seed=seed)
    weights = {tap: simplex((2, c), seed + i, sharpness) for i, (tap, (c, _, _)) in enumerate(shapes.items())}
    d = squared(s, t, dim=(2, 3))
    bound = sum((0.5 * x.shape[1] * x.amin(dim=1)).mean() for x in d.values())
    assert penalties.act(s, t, weights, "afa") >= bound * (1 - 1e-9)
    one_hot = {tap: torch.zeros_like(x).scatter(1, x.argmin(dim=1, keepdim=True), 1) for tap, x in d.items()}
    torch.testing.assert_close(penalties.act(s, t, one_hot, "afa"), bound)


@given(shapes=map_shapes(), seed=seeds, sharpness=st.floats(0, 20))
def test_gca_can_fall_to_half_sum_c_times_the_smallest_difference_of_all_layers(shapes, seed, sharpness):
    s, t = both(shapes, seed=seed)
    channels = [c for c, _, _ in shapes.values()]
    d = torch.cat(list(squared(s, t, dim=(2, 3)).values()), dim=1)

    def gca(flat):
        return penalties.gca(s, t, dict(zip(shapes, flat.split(channels, dim=1), strict=True)), "afa")

    bound = (0.5 * sum(channels) * d.amin(dim=1)).mean()
    assert gca(simplex((2, sum(channels)), seed, sharpness)) >= bound * (1 - 1e-9)
    torch.testing.assert_close(gca(torch.zeros_like(d).scatter(1, d.argmin(dim=1, keepdim=True), 1)), bound)


def descend(loss, count, steps=400):
    logits = torch.zeros(1, count, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(logits.softmax(dim=1)).backward()
        optimiser.step()
    return logits.detach().softmax(dim=1)


def test_learning_spreads_spatial_attention_and_collapses_channel_attention():
    """The quadratic form converges to 1/d, the linear form to the channel with the smallest difference."""
    d = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    s = {"a": torch.zeros(1, 1, 2, 2, dtype=torch.float64)}
    t = {"a": d.sqrt().reshape(1, 1, 2, 2)}
    soft = descend(lambda w: penalties.ast(s, t, {"a": w}, "afa"), 4)
    torch.testing.assert_close(soft, (1 / d) / (1 / d).sum(), rtol=1e-4, atol=1e-5)
    s = {"a": torch.zeros(1, 4, 1, 1, dtype=torch.float64)}
    t = {"a": d.sqrt().reshape(1, 4, 1, 1)}
    sharp = descend(lambda w: penalties.act(s, t, {"a": w}, "afa"), 4)
    assert sharp[0, 0] > 0.99
