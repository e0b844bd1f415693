"""Gradients reach T and the attention nets alone, with the right values."""

import pytest
import torch
from mock_models import BASIC_TAPS, basic_net, images, random_maps, randomise
from torch.autograd import gradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.attention import (
    ChannelAttention,
    GlobalChannelAttention,
    SelfPixelAttention,
    SpatialAttention,
)
from spgca_lab.regularizers.taps import FeatureTaps

ALL = (SpatialAttention, SelfPixelAttention, ChannelAttention, GlobalChannelAttention)
SCALES = penalties.SCALES
SHAPES = {"layer1.0.conv3": (3, 2, 3), "layer2.0.conv3": (2, 2, 1)}
TAPS = tuple(SHAPES)


def both(requires_grad=True):
    maps_s, maps_t = random_maps(SHAPES), random_maps(SHAPES, seed=1)
    for m in (*maps_s.values(), *maps_t.values()):
        m.requires_grad_(requires_grad)
    return maps_s, maps_t


def attention_of(cls, **options):
    return randomise(cls(SHAPES, **options).double())


def total(attention, scale, maps_s, weights_held=None):
    """Return the loss as a function of T's maps and the attention's parameters, for gradcheck."""
    names = [name for name, _ in attention.named_parameters()]

    def loss(*values):
        maps_t = dict(zip(TAPS, values, strict=False))
        parameters = dict(zip(names, values[len(TAPS) :], strict=True))
        weights = weights_held or functional_call(attention, parameters, (maps_s, maps_t))
        return attention.loss(maps_s, maps_t, weights, scale)

    return loss


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("cls", [SpatialAttention, ChannelAttention, GlobalChannelAttention])
def test_gradients_equal_finite_differences_in_t_and_in_the_nets(cls, scale):
    maps_s, maps_t = both()
    attention = attention_of(cls)
    assert gradcheck(total(attention, scale, maps_s), (*maps_t.values(), *attention.parameters()))


@pytest.mark.parametrize("scale", SCALES)
def test_spas_gradients_equal_finite_differences_when_it_may_attend_through_t(scale):
    maps_s, maps_t = both()
    spa = attention_of(SelfPixelAttention, attend_through_target=True)
    assert gradcheck(total(spa, scale, maps_s), (*maps_t.values(), *spa.parameters()))


@pytest.mark.parametrize("scale", SCALES)
def test_spas_gradient_to_t_treats_the_weights_as_given_by_default(scale):
    maps_s, maps_t = both()
    spa = attention_of(SelfPixelAttention)
    loss = total(spa, scale, maps_s)
    inputs = (*maps_t.values(), *spa.parameters())
    with pytest.raises(GradcheckError):
        gradcheck(loss, inputs)
    held = {tap: w.detach() for tap, w in spa(maps_s, maps_t).items()}
    expected = torch.autograd.grad(total(spa, scale, maps_s, held)(*inputs), list(maps_t.values()))
    for given, wanted in zip(
        torch.autograd.grad(loss(*inputs), list(maps_t.values())), expected, strict=True
    ):
        torch.testing.assert_close(given, wanted)
    fixed = [m.detach() for m in maps_t.values()]
    assert gradcheck(lambda *p: loss(*fixed, *p), tuple(spa.parameters()))


def test_attending_through_t_changes_the_gradient_and_nothing_else():
    maps_s, maps_t = both()
    closed, opened = SelfPixelAttention(SHAPES), SelfPixelAttention(SHAPES, attend_through_target=True)
    opened.load_state_dict(closed.state_dict())
    grads = []
    for spa in (closed.double(), opened.double()):
        weights = spa(maps_s, maps_t)
        grads.append(torch.autograd.grad(spa.loss(maps_s, maps_t, weights, "relative"), maps_t[TAPS[0]])[0])
    for tap in TAPS:
        assert torch.equal(closed(maps_s, maps_t)[tap], opened(maps_s, maps_t)[tap])
    assert not torch.allclose(*grads)


@pytest.mark.parametrize("scale", SCALES)
def test_penalties_gradients_in_maps_and_weights_equal_finite_differences(scale):
    maps_s, maps_t = both()
    spatial = [m.detach().abs().mean(dim=1).flatten(1).requires_grad_(True) for m in maps_t.values()]
    channel = [m.detach().abs().mean(dim=(2, 3)).requires_grad_(True) for m in maps_t.values()]
    for penalty, weights in (
        (penalties.ast, spatial),
        (penalties.spa, spatial),
        (penalties.act, channel),
        (penalties.gca, channel),
        (penalties.delta, channel),
    ):

        def loss(first, second, *ws, penalty=penalty):
            return penalty(
                maps_s,
                dict(zip(TAPS, (first, second), strict=True)),
                dict(zip(TAPS, ws, strict=True)),
                scale,
            )

        assert gradcheck(loss, (*maps_t.values(), *weights))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("cls", ALL)
def test_nothing_reaches_the_sources_maps(cls, scale):
    maps_s, maps_t = both()
    options = {"attend_through_target": True} if cls is SelfPixelAttention else {}
    attention = attention_of(cls, **options)
    loss = attention.loss(maps_s, maps_t, attention(maps_s, maps_t), scale)
    loss.backward()
    assert all(m.grad is None for m in maps_s.values())
    assert all(m.grad is not None for m in maps_t.values())
    penalties.features(maps_s, maps_t, scale).backward()
    assert all(m.grad is None for m in maps_s.values())


@pytest.mark.parametrize("cls", ALL)
def test_gradients_reach_t_and_the_attention_nets_never_s(cls):
    """A source that is not frozen, run without no_grad(), gets no gradient either."""
    source, target = basic_net(0).eval(), basic_net(1).train()
    assert all(p.requires_grad for p in source.parameters())
    x = images(4)
    with FeatureTaps(source, BASIC_TAPS) as taps_s, FeatureTaps(target, BASIC_TAPS) as taps_t:
        source(x)
        target(x)
        attention = cls.for_maps({tap: m.detach() for tap, m in taps_s.maps.items()})
        weights = attention(taps_s.maps, taps_t.maps)
        attention.loss(taps_s.maps, taps_t.maps, weights, "relative").backward()
    assert all(p.grad is None for p in source.parameters())
    assert all(p.grad is not None for p in attention.parameters())
    after_the_taps = {"layer4.0.bn2.weight", "layer4.0.bn2.bias", "fc.weight", "fc.bias"}
    shortcut = {name for name, _ in target.named_parameters() if name.startswith("layer4.0.downsample")}
    idle = {name for name, p in target.named_parameters() if p.grad is None}
    assert idle == after_the_taps | shortcut
    assert sum(p.grad.abs().sum() for p in target.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("cls", ALL)
def test_only_the_penalty_trains_the_attention_nets(cls):
    """Point 4 of the notes: cross-entropy gives them no gradient; without the penalty they stay random."""
    target = basic_net(1).train()
    with FeatureTaps(target, BASIC_TAPS) as taps:
        logits = target(images(4))
        attention = cls.for_maps({tap: m.detach() for tap, m in taps.maps.items()})
        attention(taps.maps, taps.maps)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is None for p in attention.parameters())
    assert all(p.grad is not None for p in target.parameters())


@pytest.mark.parametrize("cls", [SpatialAttention, ChannelAttention, GlobalChannelAttention])
def test_attention_that_looks_at_s_alone_gives_t_no_gradient_through_its_weights(cls):
    maps_s, maps_t = both()
    attention = attention_of(cls)
    weights = attention(maps_s, maps_t)
    found = torch.autograd.grad(
        sum(w.square().sum() for w in weights.values()), list(maps_t.values()), allow_unused=True
    )
    assert found == (None, None)


def test_detached_attention_leaves_the_nets_alone_and_t_with_the_same_gradient():
    maps_s, maps_t = both()
    gca = attention_of(GlobalChannelAttention)
    weights = gca(maps_s, maps_t)
    learned = torch.autograd.grad(gca.loss(maps_s, maps_t, weights, "afa"), maps_t[TAPS[0]])[0]
    gca.requires_grad_(False)
    frozen = gca.loss(maps_s, maps_t, gca(maps_s, maps_t), "afa")
    frozen.backward()
    torch.testing.assert_close(maps_t[TAPS[0]].grad, learned)
    assert all(p.grad is None for p in gca.parameters())
