"""Eq. 2, 4, 7 and 9: each attention against loops, its structure against Table 2, and its errors."""

from types import SimpleNamespace

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from mock_models import RESNET101_SHAPES, batches, map_shapes, random_maps, randomise, seeds
from torch import nn
from torchvision.models import resnet50, resnet101

from spgca_lab.regularizers.attention import (
    Attention,
    AttentionError,
    ChannelAttention,
    GlobalChannelAttention,
    SelfPixelAttention,
    SpatialAttention,
)
from spgca_lab.regularizers.base import ForwardState
from spgca_lab.regularizers.taps import FeatureTaps

ALL = (SpatialAttention, SelfPixelAttention, ChannelAttention, GlobalChannelAttention)
SHAPES = {"layer1.0.conv3": (3, 4, 2), "layer2.0.conv3": (5, 2, 3)}


def net(layers):
    """Return weights and biases of `Linear, ReLU, Linear` as lists, None for a missing bias."""
    first, relu, second = layers
    assert isinstance(relu, nn.ReLU)
    numbers = []
    for linear in (first, second):
        numbers += [linear.weight.tolist(), None if linear.bias is None else linear.bias.tolist()]
    return numbers


def layer(module_dict, tap):
    return module_dict[tap.replace(".", "/")]


def close(weights, expected):
    return torch.testing.assert_close(
        weights.detach(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


def built(cls, shapes, seed, **options):
    return randomise(cls(shapes, **options).double(), seed)


@given(shapes=map_shapes(), batch=batches, seed=seeds)
def test_eq2_ast_equals_the_loops(shapes, batch, seed):
    maps = random_maps(shapes, batch, seed)
    ast = built(SpatialAttention, shapes, seed)
    for tap, weights in ast(maps).items():
        close(weights, [reference.ast(s, net(layer(ast.fc, tap))) for s in maps[tap].tolist()])


@given(shapes=map_shapes(), batch=batches, seed=seeds)
def test_eq7_spa_equals_the_loops(shapes, batch, seed):
    maps_s, maps_t = random_maps(shapes, batch, seed), random_maps(shapes, batch, seed + 1)
    spa = built(SelfPixelAttention, shapes, seed)
    for tap, weights in spa(maps_s, maps_t).items():
        pairs = zip(maps_s[tap].tolist(), maps_t[tap].tolist(), strict=True)
        close(weights, [reference.spa(s, t, net(layer(spa.fc, tap))) for s, t in pairs])


@given(shapes=map_shapes(), batch=batches, seed=seeds)
def test_eq4_act_equals_the_loops(shapes, batch, seed):
    maps = random_maps(shapes, batch, seed)
    act = built(ChannelAttention, shapes, seed)
    for tap, weights in act(maps).items():
        bias = layer(act.bias, tap).tolist()
        close(weights, [reference.act(s, net(layer(act.fc, tap)), bias) for s in maps[tap].tolist()])


@given(shapes=map_shapes(), batch=batches, seed=seeds, r=st.integers(1, 3))
def test_eq9_gca_equals_the_loops_over_all_layers_together(shapes, batch, seed, r):
    r = min(r, sum(c for c, _, _ in shapes.values()))
    maps = random_maps(shapes, batch, seed)
    gca = built(GlobalChannelAttention, shapes, seed, r=r)
    weights = gca(maps)
    assert list(weights) == list(shapes)
    for b in range(batch):
        expected = reference.gca([m[b].tolist() for m in maps.values()], net(gca.fc))
        for tap, row in zip(shapes, expected, strict=True):
            close(weights[tap][b], row)


@given(shapes=map_shapes(), batch=batches, seed=seeds)
def test_softmax_weights_sum_to_one_in_each_layer(shapes, batch, seed):
    maps_s, maps_t = random_maps(shapes, batch, seed), random_maps(shapes, batch, seed + 1)
    for cls in (SpatialAttention, SelfPixelAttention, ChannelAttention):
        for tap, weights in built(cls, shapes, seed)(maps_s, maps_t).items():
            assert weights.shape[0] == batch, (cls, tap)
            assert bool((weights >= 0).all()), (cls, tap)
            torch.testing.assert_close(weights.sum(dim=1), torch.ones(batch, dtype=torch.float64))


@given(shapes=map_shapes(), batch=batches, seed=seeds)
def test_the_layer_shares_of_gca_sum_to_one(shapes, batch, seed):
    maps = random_maps(shapes, batch, seed)
    gca = built(GlobalChannelAttention, shapes, seed, r=1)
    weights = gca(maps)
    shares = torch.stack([w.sum(dim=1) for w in weights.values()])
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(batch, dtype=torch.float64))
    summary = gca.summary(weights)
    for i, tap in enumerate(shapes):
        torch.testing.assert_close(summary[f"share/{tap}"], shares[i].mean().detach())
    assert summary["entropy/all"] <= torch.tensor(float(sum(c for c, _, _ in shapes.values()))).log() + 1e-6


def test_gca_compares_channels_of_different_layers():
    """The point of Eq. 9: the maps of one layer change the weights of another."""
    maps = random_maps(SHAPES)
    gca = built(GlobalChannelAttention, SHAPES, 0, r=2)
    act = built(ChannelAttention, SHAPES, 0)
    first, second = SHAPES
    changed = dict(maps) | {first: maps[first] + 1}
    assert not torch.allclose(gca(maps)[second], gca(changed)[second])
    assert torch.equal(act(maps)[second], act(changed)[second])


def test_gca_pools_each_channel_over_its_positions_only():
    maps = random_maps(SHAPES)
    gca = built(GlobalChannelAttention, SHAPES, 0)
    shuffled = {tap: m.flatten(2).flip(2).reshape(m.shape) for tap, m in maps.items()}
    for tap, weights in gca(maps).items():
        torch.testing.assert_close(weights, gca(shuffled)[tap])


@pytest.mark.parametrize("cls", ALL)
def test_weights_are_per_picture(cls):
    maps_s, maps_t = random_maps(SHAPES, batch=3), random_maps(SHAPES, batch=3, seed=1)
    attention = built(cls, SHAPES, 0)
    whole = attention(maps_s, maps_t)
    one = attention({t: m[1:2] for t, m in maps_s.items()}, {t: m[1:2] for t, m in maps_t.items()})
    for tap in SHAPES:
        torch.testing.assert_close(whole[tap][1:2], one[tap])
        assert not torch.allclose(whole[tap][0], whole[tap][1])


def test_eq7s_pooled_concatenation_is_the_mean_of_the_two_pooled_maps():
    maps_s, maps_t = random_maps(SHAPES), random_maps(SHAPES, seed=1)
    for tap in SHAPES:
        pooled = torch.cat([maps_s[tap], maps_t[tap]], dim=1).mean(dim=1)
        torch.testing.assert_close(pooled, (maps_s[tap].mean(dim=1) + maps_t[tap].mean(dim=1)) / 2)
    spa = built(SelfPixelAttention, SHAPES, 0)
    ast = built(SpatialAttention, SHAPES, 1)
    ast.load_state_dict(spa.state_dict())
    halves = {tap: (maps_s[tap] + maps_t[tap]) / 2 for tap in SHAPES}
    for tap, weights in spa(maps_s, maps_t).items():
        torch.testing.assert_close(weights, ast(halves)[tap])


# Structure


@pytest.mark.parametrize("cls", [SpatialAttention, SelfPixelAttention])
def test_table2_spa_is_hw_to_h_to_hw_with_a_bias_in_the_second_layer_only(cls):
    attention = cls(SHAPES)
    for tap, (_, h, w) in SHAPES.items():
        first, relu, second = layer(attention.fc, tap)
        assert (first.in_features, first.out_features, first.bias) == (h * w, h, None)
        assert isinstance(relu, nn.ReLU)
        assert (second.in_features, second.out_features) == (h, h * w)
        assert second.bias is not None


@pytest.mark.parametrize(("r", "hidden"), [(1, 32), (4, 8), (8, 4), (16, 2), (32, 1)])
def test_table2_gca_is_c_to_c_over_r_to_c_with_biases(r, hidden):
    gca = GlobalChannelAttention({"a": (8, 2, 2), "b": (24, 1, 1)}, r=r)
    first, relu, second = gca.fc
    assert (first.in_features, first.out_features) == (32, hidden)
    assert isinstance(relu, nn.ReLU)
    assert (second.in_features, second.out_features) == (hidden, 32)
    assert first.bias is not None
    assert second.bias is not None


def test_a_sum_of_channels_that_r_does_not_divide_is_rounded_down():
    assert GlobalChannelAttention({"a": (7, 2, 2)}, r=4).fc[0].out_features == 1


def test_act_shares_one_net_among_a_layers_channels_and_adds_a_zero_bias_per_channel():
    act = ChannelAttention(SHAPES)
    for tap, (c, h, w) in SHAPES.items():
        first, relu, second = layer(act.fc, tap)
        assert (first.in_features, first.out_features, first.bias) == (h * w, h, None)
        assert isinstance(relu, nn.ReLU)
        assert (second.in_features, second.out_features, second.bias) == (h, 1, None)
        assert torch.equal(layer(act.bias, tap), torch.zeros(c))


def test_act_permutes_its_weights_with_the_channels():
    """One net for all channels: swapped channels swap their weights as long as the biases are equal."""
    maps = random_maps(SHAPES)
    act = ChannelAttention(SHAPES).double()
    flipped = act({tap: m.flip(1) for tap, m in maps.items()})
    for tap, weights in act(maps).items():
        torch.testing.assert_close(flipped[tap], weights.flip(1))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("r", "exact", "millions"),
    [(4, 7_377_600, 7.38), (8, 3_690_720, 3.69), (16, 1_847_280, 1.85), (32, 925_560, 0.93)],
)
def test_parameters_of_gca_on_resnet101_for_the_r_of_table_6(r, exact, millions):
    with torch.device("meta"):
        gca = GlobalChannelAttention(RESNET101_SHAPES, r=r)
    assert count(gca) == exact == 2 * 3840 * (3840 // r) + 3840 // r + 3840
    assert round(count(gca) / 1e6, 2) == millions


def test_parameters_of_spa_on_resnet101():
    with torch.device("meta"):
        spa = SelfPixelAttention(RESNET101_SHAPES)
    by_layer = [count(layer(spa.fc, tap)) for tap in RESNET101_SHAPES]
    assert by_layer == [354_368, 44_688, 5_684, 735]
    assert count(spa) == 405_475
    with_first_biases = count(spa) + sum(h for _, h, _ in RESNET101_SHAPES.values())
    assert round(with_first_biases / 1e3) == 406


@pytest.mark.parametrize(
    ("build", "taps"),
    [
        (resnet101, tuple(RESNET101_SHAPES)),
        (resnet50, ("layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3")),
    ],
)
def test_table3s_layers_of_the_real_resnets_have_the_shapes_used_here(build, taps):
    with torch.device("meta"):
        model = build(weights=None).eval()
        with FeatureTaps(model, taps) as recorded:
            model(torch.empty(1, 3, 224, 224))
            shapes = [tuple(m.shape[1:]) for m in recorded.maps.values()]
    assert shapes == list(RESNET101_SHAPES.values())
    assert sum(c for c, _, _ in shapes) == 3840


@pytest.mark.parametrize("cls", ALL)
def test_for_maps_takes_every_size_from_the_maps(cls):
    maps = random_maps({"x": (6, 4, 2)}, dtype=torch.float32)
    attention = cls.for_maps(maps)
    assert attention.shapes == {"x": (6, 4, 2)}
    other = random_maps({"x": (6, 5, 3)}, dtype=torch.float32)
    assert cls.for_maps(other)(other, other)["x"].shape == ((2, 15) if cls.kind == "spatial" else (2, 6))


@pytest.mark.parametrize("cls", ALL)
def test_a_state_dict_round_trips_with_dotted_taps(cls):
    maps_s, maps_t = random_maps(SHAPES), random_maps(SHAPES, seed=1)
    one, other = built(cls, SHAPES, 0), built(cls, SHAPES, 1)
    other.load_state_dict(one.state_dict())
    for tap in SHAPES:
        assert torch.equal(one(maps_s, maps_t)[tap], other(maps_s, maps_t)[tap])


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cls", ALL)
def test_half_precision_maps_give_float32_weights(cls, dtype):
    maps_s = {tap: m.to(dtype) for tap, m in random_maps(SHAPES).items()}
    maps_t = {tap: m.to(dtype) for tap, m in random_maps(SHAPES, seed=1).items()}
    attention = cls(SHAPES)
    exact = attention({t: m.float() for t, m in maps_s.items()}, {t: m.float() for t, m in maps_t.items()})
    for tap, weights in attention(maps_s, maps_t).items():
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights, exact[tap])


@pytest.mark.parametrize("cls", ALL)
def test_autocast_does_not_reach_the_softmax(cls):
    maps_s, maps_t = (
        random_maps(SHAPES, dtype=torch.float32),
        random_maps(SHAPES, seed=1, dtype=torch.float32),
    )
    attention = cls(SHAPES)
    plain = attention(maps_s, maps_t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = attention(maps_s, maps_t)
    for tap in SHAPES:
        assert cast[tap].dtype == torch.float32
        torch.testing.assert_close(cast[tap], plain[tap])


# Errors


@pytest.mark.parametrize("cls", ALL)
def test_a_map_of_another_size_names_class_tap_expected_and_given_shape(cls):
    attention = cls.for_maps(random_maps(SHAPES, dtype=torch.float32))
    wrong = random_maps(SHAPES | {"layer2.0.conv3": (5, 3, 3)}, dtype=torch.float32)
    with pytest.raises(AttentionError) as caught:
        attention(wrong, wrong)
    message = str(caught.value)
    for part in (cls.__name__, "'layer2.0.conv3'", "[b, 5, 2, 3]", "[2, 5, 3, 3]", "image size"):
        assert part in message


def test_spa_names_the_target_when_its_map_is_the_wrong_one():
    maps = random_maps(SHAPES, dtype=torch.float32)
    spa = SelfPixelAttention.for_maps(maps)
    wrong = random_maps(SHAPES | {"layer1.0.conv3": (3, 4, 4)}, dtype=torch.float32)
    with pytest.raises(AttentionError, match=r"the target map there is \[2, 3, 4, 4\]"):
        spa(maps, wrong)


def test_spa_without_target_maps_says_what_it_needs():
    maps = random_maps(SHAPES, dtype=torch.float32)
    with pytest.raises(AttentionError, match=r"both models \(Eq. 7\)"):
        SelfPixelAttention.for_maps(maps)(maps)


@pytest.mark.parametrize("cls", ALL)
def test_other_taps_are_refused_with_both_lists(cls):
    maps = random_maps(SHAPES, dtype=torch.float32)
    attention = cls.for_maps(maps)
    renamed = {tap.replace("layer", "stage"): m for tap, m in maps.items()}
    with pytest.raises(AttentionError, match=r"layer1\.0\.conv3.*source maps have.*stage1\.0\.conv3"):
        attention(renamed, renamed)


@pytest.mark.parametrize("r", [0, -1, 9, 2.0, True, None, "4"])
def test_an_invalid_r_is_quoted_with_its_range(r):
    with pytest.raises(AttentionError) as caught:
        GlobalChannelAttention(SHAPES, r=r)
    assert str(caught.value) == f"r must be an integer from 1 to ΣC = 8, got {r!r}"


@pytest.mark.parametrize("cls", ALL)
def test_no_taps_at_all_are_refused(cls):
    with pytest.raises(AttentionError, match=f"{cls.__name__} needs at least one tap"):
        cls({})


def test_a_map_that_is_not_four_dimensional_is_refused_with_its_shape():
    with pytest.raises(AttentionError, match=r"map 'a' must be \[b, c, h, w\], got \(2, 3\)"):
        SpatialAttention.for_maps({"a": torch.zeros(2, 3)})


# Modes as a stage builds them


def setup(maps, **options):
    return SimpleNamespace(
        maps=maps, options={"r": 4, "attend_through_target": False, "attention": "learned"} | options
    )


def step(maps_s, maps_t, scale="relative"):
    nothing = torch.zeros(2, 1)
    return ForwardState(maps_t, nothing, nothing, maps_s, nothing, scale)


@pytest.mark.parametrize("cls", ALL)
def test_uniform_mode_gives_equal_weights_of_the_same_sum(cls):
    maps = random_maps(SHAPES, dtype=torch.float32)
    attention = cls.build(setup(maps, attention="uniform"))
    weights = attention.weights(step(maps, maps))
    for tap, w in weights.items():
        assert w.unique().numel() == 1, tap
        assert not w.requires_grad
    sums = [w.sum(dim=1) for w in weights.values()]
    totals = [sum(sums)] if cls is GlobalChannelAttention else sums
    for total in totals:
        torch.testing.assert_close(total, torch.ones(2))


@pytest.mark.parametrize("cls", ALL)
def test_frozen_mode_keeps_the_random_nets_and_trains_none(cls):
    maps = random_maps(SHAPES, dtype=torch.float32)
    attention = cls.build(setup(maps, attention="frozen"))
    assert not any(p.requires_grad for p in attention.parameters())
    weights = attention.weights(step(maps, maps))
    assert all(not w.requires_grad for w in weights.values())
    assert any(w[0].unique().numel() > 1 for w in weights.values())


@pytest.mark.parametrize("cls", ALL)
def test_learned_mode_trains_every_parameter(cls):
    maps = random_maps(SHAPES, dtype=torch.float32)
    assert all(p.requires_grad for p in cls.build(setup(maps)).parameters())


def test_a_stage_passes_r_and_attend_through_target_on():
    maps = random_maps(SHAPES, dtype=torch.float32)
    assert GlobalChannelAttention.build(setup(maps, r=2)).r == 2
    assert SelfPixelAttention.build(setup(maps, attend_through_target=True)).attend_through_target


@pytest.mark.parametrize("cls", ALL)
def test_entropy_is_that_of_the_distribution_and_highest_when_uniform(cls):
    maps = random_maps(SHAPES)
    attention = built(cls, SHAPES, 0)
    weights = attention(maps, maps)
    learned, most = attention.entropy(weights), attention.entropy(attention.uniform(weights))
    if cls is GlobalChannelAttention:
        counts = {"all": 8}
    else:
        counts = {t: h * w if cls.kind == "spatial" else c for t, (c, h, w) in SHAPES.items()}
    assert list(learned) == list(counts)
    for name, number in counts.items():
        torch.testing.assert_close(most[name], torch.tensor(float(number), dtype=torch.float64).log())
        assert learned[name] < most[name]


# An attention of one's own


class Own(Attention):
    kind = "channel"
    answer = staticmethod(lambda m, p: (m.mean(dim=(2, 3)) * p).softmax(dim=1))

    def __init__(self, shapes):
        super().__init__(shapes)
        self.p = nn.Parameter(torch.ones(()))

    def forward(self, maps_s, maps_t):
        return {tap: self.answer(m, self.p) for tap, m in maps_s.items()}


def test_a_readers_own_attention_needs_a_forward_and_no_more():
    maps = random_maps(SHAPES, dtype=torch.float32)
    own = Own.build(setup(maps))
    state = step(maps, random_maps(SHAPES, seed=1, dtype=torch.float32))
    loss = own.penalty(state, own.weights(state))
    loss.backward()
    assert loss > 0
    assert own.p.grad is not None
    assert set(own.summary(own.weights(state))) == {f"entropy/{tap}" for tap in SHAPES}


MISUSES = {
    r"channel weights at 'layer1.0.conv3' must be \[b, c\] with 3 columns, got \(2, 4\)": lambda m, p: (
        torch.ones(2, 4)
    ),
    r"must be \[b, c\] with 3 columns, got \(2, 3, 1, 1\)": lambda m, p: m.mean(dim=(2, 3), keepdim=True) * p,
    r"got float": lambda m, p: 1.0,
    r"'layer1.0.conv3' are not finite": lambda m, p: m.mean(dim=(2, 3)) * p * float("nan"),
    r"'layer1.0.conv3' carry no gradient": lambda m, p: m.mean(dim=(2, 3)).softmax(dim=1),
}


@pytest.mark.parametrize("message", MISUSES, ids=["columns", "dimensions", "type", "nan", "gradient"])
def test_misuse_names_the_class_and_the_tap(message):
    maps = random_maps(SHAPES, dtype=torch.float32)
    mine = type("Mine", (Own,), {"answer": staticmethod(MISUSES[message])}).build(setup(maps))
    with pytest.raises(AttentionError, match="^Mine: .*" + message):
        mine.weights(step(maps, maps))


def test_weights_without_gradient_are_fine_when_nothing_trains():
    maps = random_maps(SHAPES, dtype=torch.float32)
    mine = type("Mine", (Own,), {"answer": staticmethod(MISUSES[r"'layer1.0.conv3' carry no gradient"])})
    mine.build(setup(maps, attention="frozen")).weights(step(maps, maps))
    with torch.no_grad():
        mine.build(setup(maps)).weights(step(maps, maps))


def test_weights_for_other_taps_are_refused():
    class Forgetful(Own):
        def forward(self, maps_s, maps_t):
            weights = super().forward(maps_s, maps_t)
            weights.pop("layer2.0.conv3")
            return weights

    maps = random_maps(SHAPES, dtype=torch.float32)
    with pytest.raises(
        AttentionError, match=r"Forgetful must return weights for the taps .*layer2\.0\.conv3"
    ):
        Forgetful.build(setup(maps)).weights(step(maps, maps))


def test_an_attention_without_a_forward_says_what_to_write():
    maps = random_maps(SHAPES, dtype=torch.float32)
    with pytest.raises(TypeError, match=r"Attention must define forward\(self, maps_s, maps_t\)"):
        Attention(SHAPES)(maps, maps)


def test_every_error_is_a_value_error():
    assert issubclass(AttentionError, ValueError)
