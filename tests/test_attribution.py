"""Attributions against sums and gradients written out by hand, on tiny networks; and that nothing is left changed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from spgca_lab.analysis import attribution
from spgca_lab.analysis.attribution import AttributionError, rank_agreement, stretch
from spgca_lab.backbones import Backbone, Preprocess, Tap, tokens_to_map
from spgca_lab.regularizers.delta import filter_importance
from tests.mock_models import BOTTLENECK_TAPS, bottleneck_net

SIZE = 32
METHODS = {
    "grad_cam": {},
    "integrated_gradients": {"steps": 4},
    "occlusion": {"cells": 2},
    "channel_ablation": {"layers": [BOTTLENECK_TAPS[0]]},
}


@pytest.fixture(scope="module")
def source():
    preprocess = Preprocess((127.0,) * 3, (128.0,) * 3)
    model = bottleneck_net().eval()
    return Backbone("thin", model, BOTTLENECK_TAPS, preprocess, SIZE, "fc", "random")


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def test_grad_cam_at_every_tap_equals_the_sum_by_hand(source, images):
    found = attribution.grad_cam(source, images, size=0)
    x = source.preprocess(images)
    for tap in source.taps:
        kept = []
        handle = source.model.get_submodule(tap).register_forward_hook(
            lambda _, __, y, kept=kept: kept.append(y)
        )
        logits = source.model(x.requires_grad_(True))
        handle.remove()
        (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), kept[0])
        by_hand = (gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()
        assert found.source[tap] == pytest.approx(by_hand.detach().numpy(), abs=1e-6)
    assert found.labels_s == tuple(logits.argmax(dim=1).tolist())


def test_integrated_gradients_of_a_linear_network_are_weight_times_input(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4)).eval()
    linear = Backbone(
        "linear", net, ("0",), Preprocess((127.0,) * 3, (128.0,) * 3), SIZE, "1", "random", check=False
    )
    found = attribution.integrated_gradients(linear, images, steps=3)
    x = linear.preprocess(images)
    for picture, label in enumerate(found.labels_s):
        by_hand = (net[1].weight[label] * x[picture].flatten()).reshape(3, SIZE, SIZE).abs().sum(dim=0)
        assert found.source["input"][picture] == pytest.approx(by_hand.detach().numpy(), abs=1e-5)


def test_occlusion_equals_covering_each_square_by_hand(source, images):
    found = attribution.occlusion(source, images, cells=4).source["input"]
    x, side = source.preprocess(images), SIZE // 4
    with torch.no_grad():
        whole, answers = source.model(x).max(dim=1)
        for row in range(4):
            for column in range(4):
                covered = x.clone()
                square = np.s_[side * row : side * (row + 1), side * column : side * (column + 1)]
                covered[:, :, square[0], square[1]] = 0
                drop = whole - source.model(covered).gather(1, answers[:, None])[:, 0]
                by_hand = drop.relu().numpy()[:, None, None] * np.ones((1, side, side))
                assert found[:, square[0], square[1]] == pytest.approx(by_hand, abs=1e-5)


def test_channel_ablation_equals_zeroing_each_channel_by_hand(source, images):
    tap = source.taps[1]
    found = attribution.channel_ablation(source, images, layers=[tap]).source[tap]
    x = source.preprocess(images)
    with torch.no_grad():
        whole, answers = source.model(x).max(dim=1)
        for channel in range(found.shape[1]):

            def zero(_, __, y, channel=channel):
                y = y.clone()
                y[:, channel] = 0
                return y

            handle = source.model.get_submodule(tap).register_forward_hook(zero)
            drop = whole - source.model(x).gather(1, answers[:, None])[:, 0]
            handle.remove()
            assert found[:, channel] == pytest.approx(drop.numpy(), abs=1e-5)


def test_channel_ablation_agrees_with_captums(source, images):
    from captum.attr import LayerFeatureAblation

    tap = source.taps[2]
    found = attribution.channel_ablation(source, images[:1], layers=[tap])
    x, channels = source.preprocess(images[:1]), found.source[tap].shape[1]
    ablation = LayerFeatureAblation(source.model, source.model.get_submodule(tap))
    mask = torch.arange(channels)[None, :, None, None]
    theirs = ablation.attribute(x, target=found.labels_s[0], layer_mask=mask)[:, :, 0, 0]
    assert found.source[tap] == pytest.approx(theirs.detach().numpy(), abs=1e-5)


def test_channel_maps_weigh_each_channels_evidence(source, images):
    tap = source.taps[2]
    weights = torch.rand(3, source.tap_shapes(SIZE)[tap][0], generator=torch.Generator().manual_seed(0))
    found = attribution.channel_maps(source, images, {tap: weights}, size=0)[tap]
    kept = []
    handle = source.model.get_submodule(tap).register_forward_hook(lambda _, __, y: kept.append(y))
    logits = source.model(source.preprocess(images).requires_grad_(True))
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), kept[0])
    by_hand = torch.einsum("bc,bchw->bhw", weights, (gradient * kept[0]).abs())
    assert found == pytest.approx(by_hand.detach().numpy(), abs=1e-6)


@pytest.mark.parametrize(("name", "options"), METHODS.items())
def test_s_and_t_and_their_difference_and_nothing_is_left_changed(source, images, name, options):
    target = source.to_target(7, seed=0)
    target.train()
    target.layer1.eval()
    flags = [m.training for m in target.modules()]
    before = {k: v.clone() for k, v in target.state_dict().items()}
    found = getattr(attribution, name)(source, images, target, [0, 6, 3], **options)
    assert [m.training for m in target.modules()] == flags
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    assert all(p.grad is None for p in target.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in target.modules())
    assert found.labels_t == (0, 6, 3)
    for layer, array in found.difference.items():
        assert array.shape == found.source[layer].shape == found.target[layer].shape
        shares = [np.abs(a).reshape(3, -1).sum(axis=1) for a in (found.source[layer], found.target[layer])]
        totals = [np.where(share > 0, share, 1)[:, None] for share in shares]
        by_hand = (
            found.target[layer].reshape(3, -1) / totals[1] - found.source[layer].reshape(3, -1) / totals[0]
        )
        assert array.reshape(3, -1) == pytest.approx(by_hand)


def test_every_array_has_the_one_size(source, images):
    for size, side in ((None, SIZE), (48, 48)):
        maps = attribution.grad_cam(source, images, size=size).source
        maps |= (
            attribution.integrated_gradients(source, images, steps=2, size=size).source
            if size is None
            else {}
        )
        weights = {tap: torch.rand(3, h * w) for tap, (_, h, w) in source.tap_shapes(SIZE).items()}
        maps |= attribution.attention_maps(weights, source.tap_shapes(SIZE), side)
        assert {a.shape for a in maps.values()} == {(3, side, side)}


def test_a_model_on_no_grad_and_frozen_is_explained_as_well(source, images):
    with torch.no_grad():
        frozen = attribution.grad_cam(source, images).source
    assert all(np.isfinite(a).all() for a in frozen.values())


@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 3), st.randoms(use_true_random=False))
def test_rank_agreement_is_spearmans_rho_on_the_coarser_grid(b, side, factor, random):
    rng = np.random.default_rng(random.getrandbits(32))
    one, other = rng.random((b, side, side)), rng.random((b, side * factor, side * factor))
    other[0] = np.round(other[0], 1)  # ties
    coarse = other.reshape(b, side, factor, side, factor).mean(axis=(2, 4))
    found = rank_agreement(one, other)
    for picture in range(b):
        assert found[picture] == pytest.approx(spearmanr(one[picture].ravel(), coarse[picture].ravel())[0])
    assert rank_agreement(other, one) == pytest.approx(found)


def test_rank_agreement_of_a_constant_is_unknown():
    assert np.isnan(rank_agreement(np.ones((1, 4)), np.arange(4.0)[None])).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda s, x: attribution.grad_cam(s, x[0]),
            r"uint8 \[b, 3, s, s\] with b ≥ 1, got torch.uint8 \[3, 32, 32\]",
        ),
        (lambda s, x: attribution.grad_cam(s, x.float()), "torch.float32"),
        (lambda s, x: attribution.grad_cam(s, x, labels=[0, 1, 2]), r"labels=\[0, 1, 2\] are outputs of T"),
        (lambda s, x: attribution.grad_cam(s, x, s.model, [0, 1]), r"3 outputs from 0 to 4, got \[0, 1\]"),
        (lambda s, x: attribution.grad_cam(s, x, s.model, [0, 1, 5]), "from 0 to 4"),
        (lambda s, x: attribution.grad_cam(s, x, s.model, [0.0, 1.0, 2.0]), "from 0 to 4"),
        (lambda s, x: attribution.grad_cam(s, x, layers=["layer9"]), "ThinResNet has no module 'layer9'"),
        (lambda s, x: attribution.grad_cam(s, x, size=-1), "size must be from 0 to 16,384 px, got -1"),
        (lambda s, x: attribution.occlusion(s, x, cells=33), "from 1 to the images' 32 px, got 33"),
        (lambda s, x: attribution.occlusion(s, x, cells=2.0), "got 2.0"),
        (lambda s, x: attribution.grad_cam(s, x).difference, "no target"),
        (lambda s, x: attribution.grad_cam(s, x, s.model, only_target=True).difference, "no source"),
        (lambda s, x: attribution.grad_cam(s, x, only_target=True), "give target="),
        (
            lambda s, x: attribution.channel_maps(s, x, {s.taps[0]: torch.ones(3, 5)}),
            r"must be \[b, c\] = \[3, 32\], got \[3, 5\]",
        ),
        (lambda s, x: attribution.attention_maps({"a": np.ones((1, 5))}, {"a": (1, 2, 2)}, 4), r"\[b, 2·2\]"),
        (lambda s, x: stretch(np.ones((1, 4, 4)), 3), "neither above 4×4 nor a divisor"),
        (lambda s, x: rank_agreement(np.ones((1, 4)), np.ones((1, 5))), "as many channels, got 4 and 5"),
        (lambda s, x: rank_agreement(np.ones(4), np.ones(4)), r"got \[4\] and \[4\]"),
    ],
)
def test_what_cannot_be_explained_is_refused(source, images, call, said):
    with pytest.raises(AttributionError, match=said):
        call(source, images)


# taps whose outputs are tokens


class TinyViT(nn.Module):
    """A class token and 4×4 patch tokens of width 6, mixed by one linear map over tokens and one over channels."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.patches = nn.Conv2d(3, 6, SIZE // 4, stride=SIZE // 4)
            self.block = nn.Sequential(nn.Linear(6, 6), nn.GELU())
            self.mix, self.head = nn.Linear(17, 17), nn.Linear(6, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.block(nn.functional.pad(tokens, (0, 0, 1, 0)))
        return self.head(self.mix(tokens.transpose(1, 2)).transpose(1, 2).tanh()[:, 0])


@pytest.fixture
def vit():
    tap = Tap("block", tokens_to_map(1))
    return Backbone("tiny ViT", TinyViT().eval(), [tap], Preprocess((127.0,) * 3, (128.0,) * 3), SIZE, "head")


def tokens_and_gradient(vit, images):
    """Return block's tokens, their gradient and a function from tokens to logits."""
    model, x = vit.model, vit.preprocess(images)
    tokens = model.block(
        nn.functional.pad(model.patches(x).flatten(2).transpose(1, 2), (0, 0, 1, 0))
    ).detach()

    def rest(tokens):
        return model.head(model.mix(tokens.transpose(1, 2)).transpose(1, 2).tanh()[:, 0])

    logits = rest(tokens.requires_grad_(True))
    (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), tokens)
    return tokens.detach(), gradient, rest


def test_grad_cam_and_channel_maps_of_tokens_are_those_of_their_map(vit, images):
    tokens, gradient, _ = tokens_and_gradient(vit, images)
    alphas = gradient[:, 1:].mean(dim=1, keepdim=True)
    by_hand = (alphas * tokens[:, 1:]).sum(dim=2).relu().reshape(3, 4, 4)
    assert by_hand.max() > 0
    assert attribution.grad_cam(vit, images, size=0).source["block"] == pytest.approx(
        by_hand.numpy(), abs=1e-6
    )
    named = attribution.grad_cam(
        vit, images, layers=["block"], size=0
    )  # a plain name finds the tap's function
    assert named.source["block"] == pytest.approx(by_hand.numpy(), abs=1e-6)
    weights = torch.rand(3, 6)
    by_hand = (weights[:, None] * (tokens * gradient)[:, 1:].abs()).sum(dim=2).reshape(3, 4, 4)
    found = attribution.channel_maps(vit, images, {"block": weights}, size=0)
    assert found["block"] == pytest.approx(by_hand.numpy(), abs=1e-6)


def test_ablation_of_tokens_zeroes_a_channel_of_their_map(vit, images):
    tokens, _, rest = tokens_and_gradient(vit, images)
    found = attribution.channel_ablation(vit, images).source["block"]
    labels = torch.tensor([1, 4, 0])
    rises = filter_importance(vit.model, vit.taps, vit.preprocess(images), labels)["block"]
    assert found.shape == (3, 6)
    with torch.no_grad():
        whole = rest(tokens)
        for channel in range(6):
            silenced = tokens.clone()
            silenced[:, 1:, channel] = 0
            drop = (whole - rest(silenced)).gather(1, whole.argmax(dim=1, keepdim=True))[:, 0]
            assert drop.abs().max() > 0
            assert found[:, channel] == pytest.approx(drop.numpy(), abs=1e-6)
            rise = nn.functional.cross_entropy(rest(silenced), labels) - nn.functional.cross_entropy(
                whole, labels
            )
            assert rises[channel].item() == pytest.approx(rise.item(), abs=1e-6)


def test_a_tap_whose_map_is_a_copy_is_not_ablated(vit, images):
    vit.taps = (Tap("block", lambda tokens: tokens_to_map(1)(tokens).relu()),)
    with pytest.raises(
        ValueError, match="channels of tap 'block' cannot be zeroed: its to_map must return a view"
    ):
        attribution.channel_ablation(vit, images)
