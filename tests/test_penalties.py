"""Eq. 3, 5, 8 and 10 and the other penalties: against loops, in every precision, and their errors."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from mock_models import batches, map_shapes, random_maps, seeds, simplex

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.penalties import SCALES, PenaltyError

SHAPES = {"layer1.0.conv3": (3, 4, 2), "layer2.0.conv3": (5, 2, 3)}
ATTENTIVE = (penalties.spatial, penalties.channel, penalties.gca)
scales = st.sampled_from(SCALES)


def spatial_weights(shapes, batch, seed):
    return {tap: simplex((batch, h * w), seed + i) for i, (tap, (_, h, w)) in enumerate(shapes.items())}


def channel_weights(shapes, batch, seed):
    return {tap: simplex((batch, c), seed + i) for i, (tap, (c, _, _)) in enumerate(shapes.items())}


def global_weights(shapes, batch, seed):
    channels = [c for c, _, _ in shapes.values()]
    return dict(zip(shapes, simplex((batch, sum(channels)), seed).split(channels, dim=1), strict=True))


def weights_for(penalty, shapes, batch=2, seed=0):
    if penalty is penalties.spatial:
        return spatial_weights(shapes, batch, seed)
    return (global_weights if penalty is penalties.gca else channel_weights)(shapes, batch, seed)


def lists(maps):
    return [m.tolist() for m in maps.values()]


def close(loss, expected):
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def pair(shapes, batch, seed):
    return random_maps(shapes, batch, seed), random_maps(shapes, batch, seed + 1)


@given(shapes=map_shapes(), batch=st.integers(2, 3), seed=seeds, scale=scales)
def test_eq3_and_eq8_equal_the_loops(shapes, batch, seed, scale):
    s, t = pair(shapes, batch, seed)
    weights = spatial_weights(shapes, batch, seed)
    close(
        penalties.spatial(s, t, weights, scale),
        reference.spatial_loss(lists(s), lists(t), lists(weights), scale),
    )


@given(shapes=map_shapes(), batch=st.integers(2, 3), seed=seeds, scale=scales)
def test_eq5_equals_the_loops(shapes, batch, seed, scale):
    s, t = pair(shapes, batch, seed)
    weights = channel_weights(shapes, batch, seed)
    close(
        penalties.channel(s, t, weights, scale),
        reference.channel_loss(lists(s), lists(t), lists(weights), scale),
    )


def test_the_papers_names_are_the_two_forms_of_the_equations():
    assert penalties.ast is penalties.spa is penalties.spatial
    assert penalties.act is penalties.channel


@given(shapes=map_shapes(), batch=st.integers(2, 3), seed=seeds, scale=scales)
def test_eq10_equals_the_loops(shapes, batch, seed, scale):
    s, t = pair(shapes, batch, seed)
    weights = global_weights(shapes, batch, seed)
    close(penalties.gca(s, t, weights, scale), reference.gca_loss(lists(s), lists(t), lists(weights), scale))


@given(shapes=map_shapes(), batch=st.integers(2, 3), seed=seeds, scale=scales)
def test_feature_alignment_equals_the_loops(shapes, batch, seed, scale):
    s, t = pair(shapes, batch, seed)
    close(penalties.features(s, t, scale), reference.feature_loss(lists(s), lists(t), scale))


@given(shapes=map_shapes(), batch=batches, seed=seeds)
def test_delta_equals_the_loops(shapes, batch, seed):
    s, t = pair(shapes, batch, seed)
    weights = {tap: w[0] for tap, w in channel_weights(shapes, 1, seed).items()}
    expected = reference.delta_loss(lists(s), lists(t), lists(weights))
    close(penalties.delta(s, t, weights, "afa"), expected)
    wide = {tap: w.expand(batch, -1) for tap, w in weights.items()}
    close(penalties.delta(s, t, wide, "afa"), expected)


@pytest.mark.parametrize("scale", ["literal", "relative"])
def test_delta_on_the_other_scales_is_eq5_with_its_fixed_weights(scale):
    s, t = pair(SHAPES, 2, 0)
    weights = {tap: w[0] for tap, w in channel_weights(SHAPES, 1, 0).items()}
    wide = {tap: w.expand(2, -1) for tap, w in weights.items()}
    assert torch.equal(penalties.delta(s, t, weights, scale), penalties.channel(s, t, wide, scale))


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=seeds)
def test_weight_decay_and_l2_sp_equal_the_loops(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    now = {f"p{i}": torch.randn(n, 2, generator=generator) for i, n in enumerate(sizes)}
    start = {name: torch.randn(p.shape, generator=generator) for name, p in now.items()}
    flat_now, flat_start = ([p.flatten().tolist() for p in d.values()] for d in (now, start))
    torch.testing.assert_close(penalties.l2(now.values()), torch.tensor(reference.l2(flat_now)))
    expected = torch.tensor(reference.l2_sp(flat_now, flat_start))
    torch.testing.assert_close(penalties.l2_sp(now, start), expected)


def test_the_gradient_of_weight_decay_is_the_weight_as_in_sgd():
    """β · WD equals SGD's weight_decay=β: the same step up to rounding."""
    p, q = (torch.nn.Parameter(torch.arange(1.0, 5.0)) for _ in range(2))
    (0.01 * penalties.l2([p])).backward()
    torch.optim.SGD([p], lr=0.1).step()
    q.grad = torch.zeros_like(q)
    torch.optim.SGD([q], lr=0.1, weight_decay=0.01).step()
    torch.testing.assert_close(p, q)


@given(batch=batches, classes=st.integers(2, 6), seed=seeds, temperature=st.floats(0.5, 5))
def test_lwf_equals_the_loops(batch, classes, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    z_s, z_t = torch.randn(2, batch, classes, generator=generator)
    expected = torch.tensor(reference.distillation(z_s.tolist(), z_t.tolist(), temperature))
    torch.testing.assert_close(penalties.lwf(z_s, z_t, temperature), expected, rtol=1e-4, atol=1e-5)


def test_lwfs_gradient_is_that_of_the_cross_entropy_of_the_original():
    z_s, z_t = torch.randn(2, 3, 5)
    z_t.requires_grad_(True)
    (by_kl,) = torch.autograd.grad(penalties.lwf(z_s, z_t, 2.0), z_t)
    log_t = (z_t / 2).log_softmax(dim=1)
    (by_ce,) = torch.autograd.grad(-4 * ((z_s / 2).softmax(dim=1) * log_t).sum(dim=1).mean(), z_t)
    torch.testing.assert_close(by_kl, by_ce)


# Batch, scale, precision


@pytest.mark.parametrize("scale", ["literal", "afa"])
@pytest.mark.parametrize("penalty", ATTENTIVE)
def test_the_loss_of_a_batch_is_the_mean_of_its_pictures(penalty, scale):
    s, t = pair(SHAPES, 3, 0)
    weights = weights_for(penalty, SHAPES, 3)

    def one(i):
        return penalty(*({tap: m[i : i + 1] for tap, m in maps.items()} for maps in (s, t, weights)), scale)

    torch.testing.assert_close(penalty(s, t, weights, scale), torch.stack([one(i) for i in range(3)]).mean())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("penalty", ATTENTIVE)
def test_a_batch_twice_over_costs_the_same(penalty, scale):
    s, t = pair(SHAPES, 2, 0)
    weights = weights_for(penalty, SHAPES)
    twice = [{tap: torch.cat([m, m]) for tap, m in maps.items()} for maps in (s, t, weights)]
    torch.testing.assert_close(penalty(*twice, scale), penalty(s, t, weights, scale))


@pytest.mark.parametrize("penalty", [*ATTENTIVE, penalties.features])
def test_relative_is_dimensionless(penalty):
    """Maps a hundred times as large, and shifted: the same penalty. That is why one α serves any backbone."""
    s, t = pair(SHAPES, 2, 0)
    large_s, large_t = ({tap: 100 * m + 7 for tap, m in maps.items()} for maps in (s, t))
    extra = () if penalty is penalties.features else (weights_for(penalty, SHAPES),)
    same = penalty(large_s, large_t, *extra, "relative")
    torch.testing.assert_close(same, penalty(s, t, *extra, "relative"))
    assert penalty(large_s, large_t, *extra, "afa") > 9_000 * penalty(s, t, *extra, "afa")


def test_relative_is_half_a_layer_when_the_target_knows_nothing():
    """T constant at S's mean: each layer costs ½ with uniform weights, whatever its size."""
    s = random_maps(SHAPES)
    t = {tap: torch.full_like(m, m.mean().item()) for tap, m in s.items()}
    torch.testing.assert_close(penalties.features(s, t), torch.tensor(0.5 * len(SHAPES), dtype=torch.float64))


def test_the_literal_equation_shrinks_by_the_square_of_the_map_size():
    """Uniform weights on ResNet's layer 1 at 224 px: 1/3136² of the plain penalty: α ≤ 0.1 does nothing."""
    s, t = ({"layer1.2.conv3": torch.full((1, 4, 56, 56), v)} for v in (0.0, 1.0))
    weights = {"layer1.2.conv3": torch.full((1, 3136), 1 / 3136)}
    plain = penalties.features(s, t, "afa")
    torch.testing.assert_close(penalties.ast(s, t, weights, "literal") * 3136**2, plain)
    torch.testing.assert_close(penalties.ast(s, t, weights, "afa"), plain)


def test_spatial_weights_are_squared_and_channel_weights_are_not():
    s, t = ({"a": torch.full((1, 2, 2, 2), v)} for v in (0.0, 1.0))
    position = {"a": torch.tensor([[1.0, 0.0, 0.0, 0.0]])}
    half = {"a": torch.tensor([[0.5, 0.0, 0.0, 0.0]])}
    assert penalties.ast(s, t, half, "literal") == penalties.ast(s, t, position, "literal") / 4
    channel = {"a": torch.tensor([[1.0, 0.0]])}
    half = {"a": torch.tensor([[0.5, 0.0]])}
    assert penalties.act(s, t, half, "literal") == penalties.act(s, t, channel, "literal") / 2


def test_channel_norms_are_taken_channel_by_channel():
    """Eq. 5 as printed multiplies a vector by one norm; then it would not matter which channel differs."""
    s = {"a": torch.zeros(1, 2, 2, 2)}
    t = {"a": torch.stack([torch.ones(2, 2), torch.zeros(2, 2)]).unsqueeze(0)}
    assert penalties.act(s, t, {"a": torch.tensor([[1.0, 0.0]])}, "literal") == 2
    assert penalties.act(s, t, {"a": torch.tensor([[0.0, 1.0]])}, "literal") == 0


def test_spatial_weights_are_broadcast_over_channels():
    s = {"a": torch.zeros(1, 3, 1, 2)}
    t = {"a": torch.tensor([1.0, 10.0]).expand(1, 3, 1, 2)}
    assert penalties.ast(s, t, {"a": torch.tensor([[1.0, 0.0]])}, "literal") == 1.5
    assert penalties.ast(s, t, {"a": torch.tensor([[0.0, 1.0]])}, "literal") == 150


def test_eq10_does_not_divide_by_the_number_of_positions():
    """Equal differences weigh 3,136 times in layer 1 and 49 times in layer 4: point 3 of the notes."""
    shapes = {"layer1.2.conv3": (2, 56, 56), "layer4.2.conv3": (2, 7, 7)}
    s, t = ({tap: torch.full((1, *shape), v) for tap, shape in shapes.items()} for v in (0.0, 1.0))
    equal = torch.full((1, 2), 0.25)
    off = torch.zeros(1, 2)
    first = penalties.gca(s, t, {"layer1.2.conv3": equal, "layer4.2.conv3": off}, "afa")
    last = penalties.gca(s, t, {"layer1.2.conv3": off, "layer4.2.conv3": equal}, "afa")
    torch.testing.assert_close(first / last, torch.tensor(64.0))
    first = penalties.gca(s, t, {"layer1.2.conv3": equal, "layer4.2.conv3": off}, "literal")
    last = penalties.gca(s, t, {"layer1.2.conv3": off, "layer4.2.conv3": equal}, "literal")
    torch.testing.assert_close(first / last, torch.tensor(64.0))


def test_relative_divides_by_the_number_of_positions():
    shapes = {"layer1.2.conv3": (2, 6, 6), "layer4.2.conv3": (2, 3, 3)}
    s = random_maps(shapes)
    t = {tap: m + m.std(correction=0) for tap, m in s.items()}
    equal, off = torch.full((2, 2), 0.25), torch.zeros(2, 2)
    first = penalties.gca(s, t, {"layer1.2.conv3": equal, "layer4.2.conv3": off}, "relative")
    last = penalties.gca(s, t, {"layer1.2.conv3": off, "layer4.2.conv3": equal}, "relative")
    torch.testing.assert_close(first, last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("penalty", [*ATTENTIVE, penalties.features])
def test_half_precision_maps_are_summed_in_float32(penalty, scale, dtype):
    """Values near 60 over 256 x 56 x 56: the sum of squares, 3e9, is far above float16's 65,504."""
    shapes = {"layer1.2.conv3": (256, 56, 56)}
    t = {tap: (60 + m).to(dtype) for tap, m in random_maps(shapes, 1, dtype=torch.float32).items()}
    s = {tap: m.to(dtype) for tap, m in random_maps(shapes, 1, seed=1, dtype=torch.float32).items()}
    extra = ()
    if penalty is not penalties.features:
        number = 256 if penalty in (penalties.channel, penalties.gca) else 3136
        extra = ({"layer1.2.conv3": torch.full((1, number), 1 / number)},)
    loss = penalty(s, t, *extra, scale)
    assert loss.dtype == torch.float32
    exact = penalty(
        {k: m.double() for k, m in s.items()}, {k: m.double() for k, m in t.items()}, *extra, scale
    )
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("penalty", [*ATTENTIVE, penalties.features])
def test_relative_is_the_default_scale(penalty):
    s, t = pair(SHAPES, 2, 0)
    extra = () if penalty is penalties.features else (weights_for(penalty, SHAPES),)
    assert torch.equal(penalty(s, t, *extra), penalty(s, t, *extra, "relative"))


# Errors


@pytest.mark.parametrize("scale", ["paper", "AFA", "", None])
@pytest.mark.parametrize("penalty", [*ATTENTIVE, penalties.delta])
def test_an_unknown_scale_is_quoted_with_the_known_ones(penalty, scale):
    s, t = pair(SHAPES, 2, 0)
    with pytest.raises(PenaltyError) as caught:
        penalty(s, t, weights_for(penalty, SHAPES), scale)
    assert str(caught.value) == f"scale must be one of 'literal', 'afa', 'relative', got {scale!r}"
    with pytest.raises(PenaltyError, match="scale must be one of"):
        penalties.features(s, t, scale)


@pytest.mark.parametrize("penalty", [*ATTENTIVE, penalties.delta])
def test_maps_of_different_shapes_name_the_tap_and_both(penalty):
    s = random_maps(SHAPES)
    t = random_maps(SHAPES | {"layer2.0.conv3": (5, 3, 3)})
    weights = weights_for(penalty, SHAPES)
    with pytest.raises(PenaltyError, match=r"'layer2\.0\.conv3'.*\(2, 5, 2, 3\), \(2, 5, 3, 3\)"):
        penalty(s, t, weights)
    with pytest.raises(PenaltyError, match=r"'layer2\.0\.conv3'.*\(2, 5, 2, 3\), \(2, 5, 3, 3\)"):
        penalties.features(s, t)


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (penalties.spatial, r"spatial weights must be \[b, h·w\] = \(2, 6\), got \(2, 7\)"),
        (penalties.channel, r"channel weights must be \[b, c\] = \(2, 5\), got \(2, 7\)"),
        (penalties.gca, r"channel weights must be \[b, c\] = \(2, 5\), got \(2, 7\)"),
        (penalties.delta, r"channel weights must be \[b, c\] = \(2, 5\), got \(2, 7\)"),
    ],
)
def test_weights_of_the_wrong_shape_name_the_tap_and_both(penalty, expected):
    s, t = pair(SHAPES, 2, 0)
    weights = weights_for(penalty, SHAPES) | {"layer2.0.conv3": torch.ones(2, 7)}
    for scale in SCALES:
        with pytest.raises(PenaltyError, match=r"tap 'layer2\.0\.conv3': " + expected):
            penalty(s, t, weights, scale)


@pytest.mark.parametrize("penalty", [*ATTENTIVE, penalties.delta])
def test_missing_weights_name_the_tap(penalty):
    s, t = pair(SHAPES, 2, 0)
    weights = weights_for(penalty, SHAPES)
    del weights["layer1.0.conv3"]
    with pytest.raises(PenaltyError, match=r"tap 'layer1\.0\.conv3'.*got no weights"):
        penalty(s, t, weights)


@pytest.mark.parametrize("penalty", [*ATTENTIVE, penalties.delta])
def test_weights_for_a_tap_that_is_not_there_are_not_passed_over(penalty):
    s, t = pair(SHAPES, 2, 0)
    weights = weights_for(penalty, SHAPES) | {"layer9.0.conv3": torch.ones(2, 1)}
    with pytest.raises(PenaltyError, match=r"layer9\.0\.conv3"):
        penalty(s, t, weights)


@pytest.mark.parametrize("penalty", ATTENTIVE)
def test_other_taps_and_no_taps_are_refused(penalty):
    s, t = pair(SHAPES, 2, 0)
    with pytest.raises(PenaltyError, match="same taps"):
        penalty(s, {"layer1.0.conv3": t["layer1.0.conv3"]}, weights_for(penalty, SHAPES))
    with pytest.raises(PenaltyError, match="same taps"):
        penalty({}, {}, {})


def test_a_map_that_is_not_four_dimensional_is_refused():
    flat = {"a": torch.zeros(2, 3)}
    for penalty in ATTENTIVE:
        with pytest.raises(PenaltyError, match=r"tap 'a': maps must both be \[b, c, h, w\]"):
            penalty(flat, flat, flat)


def test_l2_sp_names_a_parameter_without_its_starting_point():
    now = {"conv.weight": torch.ones(2, 2)}
    with pytest.raises(PenaltyError, match=r"'conv\.weight' is \(2, 2\), its starting point is nothing"):
        penalties.l2_sp(now, {})
    with pytest.raises(PenaltyError, match=r"its starting point is \(3,\)"):
        penalties.l2_sp(now, {"conv.weight": torch.ones(3)})


def test_nothing_to_decay_is_refused():
    with pytest.raises(PenaltyError, match="l2 needs at least one parameter"):
        penalties.l2([])
    with pytest.raises(PenaltyError, match="l2_sp needs at least one parameter"):
        penalties.l2_sp({}, {})


def test_lwf_refuses_heads_of_different_sizes_and_a_temperature_of_zero():
    with pytest.raises(PenaltyError, match=r"\(2, 5\), \(2, 6\)"):
        penalties.lwf(torch.zeros(2, 5), torch.zeros(2, 6))
    for temperature in (0, -1.0, float("nan")):
        with pytest.raises(PenaltyError, match=f"temperature must be above 0, got {temperature!r}"):
            penalties.lwf(torch.zeros(2, 5), torch.zeros(2, 5), temperature)


def test_every_error_is_a_value_error():
    assert issubclass(PenaltyError, ValueError)


def test_half_squares_in_one_kernel_equal_those_of_each_tensor():
    """A GPU takes the first way, a CPU the second."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (7,), (2, 3, 1, 1), (1,)]
    tensors = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    plainly = penalties.l2(tensors)
    at_once = penalties._half_squares(tensors, together=True)
    torch.testing.assert_close(at_once, plainly, rtol=1e-6, atol=0)
    found = torch.autograd.grad(3 * at_once, tensors)
    for one, other in zip(found, torch.autograd.grad(3 * plainly, tensors), strict=True):
        assert torch.equal(one, other)
