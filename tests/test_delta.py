"""DELTA: the importance of filters measured in three ways, the weights, and the L2-FE head."""

import pytest
import reference
import torch
from captum.attr import LayerFeatureAblation
from hypothesis import given
from mock_models import BASIC_TAPS, BOTTLENECK_TAPS, TwoConvs, basic_net, bottleneck_net, images, seeds
from torch import nn
from torch.nn import functional as F

from spgca_lab.backbones import Preprocess
from spgca_lab.data import ImageSet
from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.base import BuildContext, ForwardState
from spgca_lab.regularizers.delta import FilterImportance, filter_importance, fit_head

LABELS = torch.tensor([0, 1, 2, 1])


def settled(net):
    """Put a network into eval mode, with BatchNorm statistics of such images."""
    with torch.no_grad():
        net.train()(images(8, seed=3))
    return net.eval().requires_grad_(False)


def by_zeroing_filters(model, tap, x, labels):
    """Measure importance as the release does: zero the weights of one filter, run all, restore them."""
    weight = model.get_submodule(tap).weight
    with torch.no_grad():
        base = F.cross_entropy(model(x), labels)
        rises = []
        for c in range(len(weight)):
            kept = weight[c].clone()
            weight[c] = 0
            rises.append(F.cross_entropy(model(x), labels) - base)
            weight[c] = kept
    return torch.stack(rises)


@pytest.mark.parametrize(("build", "taps"), [(basic_net, BASIC_TAPS), (bottleneck_net, BOTTLENECK_TAPS)])
def test_importance_is_the_rise_of_the_loss_when_a_filter_is_zeroed(build, taps):
    net, x = settled(build(classes=3)), images(4)
    found = filter_importance(net, taps, x, LABELS)
    assert list(found) == list(taps)
    for tap in taps:
        expected = by_zeroing_filters(net, tap, x, LABELS)
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found[tap], expected, rtol=1e-4, atol=1e-6)


def test_importance_agrees_with_captums_layer_feature_ablation():
    net, x = settled(basic_net(classes=3)), images(4)
    found = filter_importance(net, BASIC_TAPS, x, LABELS)

    def loss(batch):
        return F.cross_entropy(net(batch), LABELS)

    for tap in BASIC_TAPS:
        module = net.get_submodule(tap)
        channels = torch.arange(module.out_channels).reshape(1, -1, 1, 1)
        ablation = LayerFeatureAblation(loss, module)
        drop = ablation.attribute(x, layer_baselines=0, layer_mask=channels)
        per_channel = drop.amin(dim=(0, 2, 3))
        torch.testing.assert_close(per_channel, drop.amax(dim=(0, 2, 3)))
        torch.testing.assert_close(found[tap], -per_channel, rtol=1e-4, atol=1e-6)


def test_a_convolution_with_a_bias_is_silenced_whole():
    """The release zeroes weights only; a bias would leave a constant in the channel."""
    net = TwoConvs().requires_grad_(False)
    x = images(4, size=8)
    found = filter_importance(net, ["second"], x, LABELS)["second"]
    bias = net.second.bias.clone()
    for c in range(len(bias)):
        net.second.bias[c] = 0
        expected = by_zeroing_filters(net, "second", x, LABELS)[c]
        expected = expected + F.cross_entropy(net(x), LABELS)
        net.second.bias[c] = bias[c]
        torch.testing.assert_close(found[c], expected - F.cross_entropy(net(x), LABELS), rtol=1e-4, atol=1e-6)


def test_measuring_leaves_the_model_as_it_was():
    net, x = settled(basic_net(classes=3)), images(4)
    before, state = net(x), {k: v.clone() for k, v in net.state_dict().items()}
    filter_importance(net, BASIC_TAPS, x, LABELS)
    assert torch.equal(net(x), before)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert all("forward" not in vars(m) for m in net.modules())
    assert torch.equal(net(images(4, seed=9)), settled_output(state, images(4, seed=9)))


def settled_output(state, x):
    net = basic_net(classes=3).eval()
    net.load_state_dict(state)
    return net(x)


def test_a_failure_while_measuring_leaves_no_hooks_either():
    net = TwoConvs().requires_grad_(False)
    with pytest.raises(IndexError):
        filter_importance(net, ["second"], images(4, size=8), torch.tensor([0, 1, 2, 3]))
    net.fail = True
    with pytest.raises(RuntimeError, match="out of order"):
        filter_importance(net, ["second"], images(4, size=8), LABELS)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert all("forward" not in vars(m) for m in net.modules())


# The head of L2-FE


def test_l2_fe_trains_the_head_and_nothing_else():
    net = settled(basic_net(classes=3))
    x = images(12, seed=5)
    labels = torch.arange(12) % 3
    before = {k: v.clone() for k, v in net.state_dict().items()}
    start = F.cross_entropy(net(x), labels)
    fit_head(net, "fc", lambda rows: x[rows], labels, generator=torch.Generator().manual_seed(0))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("fc.")), name
    assert F.cross_entropy(net(x), labels) < start / 2
    assert not any(p.requires_grad for p in net.parameters())
    assert not net.fc._forward_pre_hooks


# Weights as a stage builds them


def setup(seed=0, count=12):
    source, target = settled(basic_net(classes=7)), basic_net(classes=3)
    target.load_state_dict({k: v for k, v in source.state_dict().items() if k[:3] != "fc."}, strict=False)
    generator = torch.Generator().manual_seed(2)
    pictures = torch.randint(0, 256, (count, 3, 37, 37), generator=generator, dtype=torch.uint8)
    train = ImageSet(
        images=pictures,
        labels=torch.arange(count) % 3,
        classes=["a", "b", "c"],
        image_size=32,
        masks=None,
        paths=None,
    )
    return BuildContext(
        maps={},
        source=source,
        target=target,
        head_s="fc",
        head_t="fc",
        taps=BASIC_TAPS,
        train=train,
        preprocess=Preprocess(mean=(127.5,) * 3, std=(64.0,) * 3),
        image_size=32,
        options={"seed": seed, "beta": 0.01},
    )


def state(batch=2):
    maps = {tap: torch.zeros(batch, c, 1, 1) for tap, c in zip(BASIC_TAPS, (8, 16, 32, 64), strict=True)}
    return ForwardState(maps, torch.zeros(batch, 64), torch.zeros(batch, 3), maps, torch.zeros(batch, 7))


def test_weights_are_softmax_of_z_over_five_with_the_releases_population_deviation(monkeypatch):
    rises = {tap: torch.randn(c) for tap, c in zip(BASIC_TAPS, (8, 16, 32, 64), strict=True)}
    monkeypatch.setattr("spgca_lab.regularizers.delta.filter_importance", lambda *_: rises)
    weights = FilterImportance.build(setup()).weights(state())
    for tap, rise in rises.items():
        values = rise.double().tolist()
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        expected = reference.softmax([(v - mean) / deviation / 5 for v in values])
        torch.testing.assert_close(weights[tap], torch.tensor(expected).expand(2, -1))


@pytest.mark.parametrize("rise", [torch.zeros(8), torch.full((8,), 0.3), torch.tensor([0.7])])
def test_filters_that_all_matter_alike_get_equal_weights(rise, monkeypatch):
    monkeypatch.setattr("spgca_lab.regularizers.delta.filter_importance", lambda *_: {"a": rise})
    (weights,) = FilterImportance.build(setup())._importance.values()
    torch.testing.assert_close(weights, torch.full_like(rise, 1 / len(rise)))


def test_a_built_penalty_has_one_distribution_a_layer_that_is_the_same_for_every_picture():
    delta = FilterImportance.build(setup())
    weights = delta.weights(state(batch=3))
    assert [tuple(w.shape) for w in weights.values()] == [(3, 8), (3, 16), (3, 32), (3, 64)]
    for w in weights.values():
        torch.testing.assert_close(w.sum(dim=1), torch.ones(3))
        assert torch.equal(w[0], w[2])
        assert w[0].unique().numel() > 1
        assert not w.requires_grad
    assert list(delta.parameters()) == []


def test_the_measurement_follows_its_seed_and_leaves_source_and_target_alone():
    given = setup()
    before = {k: v.clone() for k, v in given.target.state_dict().items()}
    first = FilterImportance.build(given).weights(state())
    again = FilterImportance.build(setup()).weights(state())
    other = FilterImportance.build(setup(seed=1)).weights(state())
    assert all(torch.equal(first[tap], again[tap]) for tap in BASIC_TAPS)
    assert any(not torch.equal(first[tap], other[tap]) for tap in BASIC_TAPS)
    assert all(torch.equal(v, before[k]) for k, v in given.target.state_dict().items())
    assert given.target.training
    assert all(p.requires_grad for p in given.target.parameters())


@given(seed=seeds)
def test_the_penalty_is_deltas_with_those_weights(seed):
    generator = torch.Generator().manual_seed(seed)
    importance = {"a": torch.randn(3, generator=generator).softmax(dim=0)}
    maps_s, maps_t = ({"a": torch.randn(2, 3, 2, 2, generator=generator)} for _ in range(2))
    delta = FilterImportance(importance)
    at = ForwardState(maps_t, torch.zeros(2, 1), torch.zeros(2, 1), maps_s, scale="afa")
    loss = delta.penalty(at, delta.weights(at))
    torch.testing.assert_close(loss, penalties.delta(maps_s, maps_t, importance, "afa"))
    expected = reference.delta_loss(
        [maps_s["a"].tolist()], [maps_t["a"].tolist()], [importance["a"].tolist()]
    )
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_importance_points_at_the_filter_that_the_answer_hangs_on():
    """One filter carries the class, the others carry noise: it alone must stand out."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[2, 0] = 5
        net[0].weight[1, 1] = 5
        net[3].weight.copy_(torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, -1.0, 0.0]]))
        net[3].bias.zero_()
    labels = torch.tensor([0, 1, 0, 1])
    x = torch.randn(4, 3, 4, 4)
    x[:, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(4, 1, 1)
    (rise,) = filter_importance(net, ["0"], x, labels).values()
    assert rise.argmax() == 2
    assert rise[2] > 0.6
    torch.testing.assert_close(rise[[0, 1, 3]], torch.zeros(3))
