"""Backbones: known pictures, taps and sizes against real forward passes, names, heads, refusals."""

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from spgca_lab.backbones import (
    Backbone,
    BackboneError,
    Preprocess,
    list_backbones,
    lite0,
    load_backbone,
    table3,
)
from spgca_lab.backbones.base import IMAGENET
from tests.mock_models import BOTTLENECK_TAPS, RESNET101_SHAPES, TwoConvs, bottleneck_net

PAPER_MODELS = ["resnet101", "resnet50", "resnet50_places365"]


@functools.cache
def drawn(name):
    """A backbone with random weights, made once for all tests that only read it."""
    return load_backbone(name, weights="random")


@pytest.fixture(scope="module")
def source():
    """`lite0` as shipped."""
    return load_backbone("lite0")


@pytest.fixture
def no_network(monkeypatch):
    """Every way to the network fails loudly."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("this must not touch the network")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


def real_maps(model, taps, size):
    """(value when the tap ran, tensor after the forward pass) of each tap, on two noise pictures."""
    seen = {}
    hooks = [
        model.get_submodule(tap).register_forward_hook(
            lambda _m, _i, out, tap=tap: seen.__setitem__(tap, (out.clone(), out))
        )
        for tap in taps
    ]
    with torch.no_grad():
        model(torch.randn(2, 3, size, size))
    for hook in hooks:
        hook.remove()
    return seen


# taps and sizes


@pytest.mark.parametrize(
    ("name", "size"),
    [("lite0", 128), ("lite0", 97), ("mini", 64), ("mini", 48), ("resnet50", 64), ("resnet18", 96)],
)
def test_tap_shapes_are_those_of_a_real_forward_pass(name, size):
    backbone = drawn(name)
    maps = real_maps(backbone.model, backbone.taps, size)
    assert backbone.tap_shapes(size) == {tap: tuple(out.shape[1:]) for tap, (_, out) in maps.items()}
    assert list(backbone.tap_shapes(size)) == list(backbone.taps)
    assert all(isinstance(backbone.model.get_submodule(tap), nn.Conv2d) for tap in backbone.taps)


@pytest.mark.parametrize("name", ["lite0", "mini", "resnet50", "vgg11"])
def test_no_tap_is_overwritten_later_in_the_forward_pass(name):
    backbone = drawn(name)
    maps = real_maps(backbone.model, backbone.taps, 64)
    assert len(maps) == 4
    assert all(torch.equal(then, now) for then, now in maps.values())


def test_bn3_would_be_overwritten_which_is_why_it_is_no_tap():
    maps = real_maps(bottleneck_net().eval(), [*BOTTLENECK_TAPS, "layer4.0.bn3"], 64)
    changed = {tap for tap, (then, now) in maps.items() if not torch.equal(then, now)}
    assert changed == {"layer4.0.bn3"}


def test_sizes_do_not_depend_on_mode_or_device_and_change_nothing(source):
    mini = load_backbone("mini", weights="random")
    before = {name: tensor.clone() for name, tensor in mini.model.state_dict().items()}
    shapes = mini.tap_shapes(64)
    mini.model.train()
    assert mini.tap_shapes(64) == shapes
    assert mini.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in mini.model.state_dict().items())
    assert not any(module._forward_hooks for module in mini.model.modules())
    assert source.tap_shapes() == source.tap_shapes(224)


@pytest.mark.parametrize("size", [8, 1])
def test_too_small_a_size_is_refused_with_the_maps_it_would_give(size):
    mini = drawn("mini")
    with pytest.raises(
        BackboneError, match=f"image_size={size} is too small.*1×1.*'mini'.*at least about 16"
    ):
        mini.tap_shapes(size)
    with pytest.raises(BackboneError, match=f"image_size={size} is too small"):
        table3("lite0", size)
    assert mini.tap_shapes(16)["layer4.1.conv3"] == (512, 1, 1)


def test_a_size_at_which_the_network_fails_is_refused():
    with pytest.raises(
        BackboneError, match=r"image_size=32 does not work: 'inception_v3' is made for 299 pixels"
    ):
        table3("inception_v3", 32)


@pytest.mark.parametrize("size", [0, -64, 64.0, "64", True])
def test_a_size_that_is_no_positive_integer_is_refused(source, size):
    with pytest.raises(BackboneError, match="positive integer") as caught:
        source.tap_shapes(size)
    assert repr(size) in str(caught.value)


# Table 3


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_table3_of_the_papers_networks(name, no_network):
    table = table3(name)
    third = "layer3.22.conv3" if name == "resnet101" else "layer3.5.conv3"
    assert table.module.tolist() == ["layer1.2.conv3", "layer2.3.conv3", third, "layer4.2.conv3"]
    shapes = list(zip(table.channels, table.height, table.width, strict=True))
    assert shapes == list(RESNET101_SHAPES.values())
    assert table.layer.tolist() == [1, 2, 3, 4]
    assert table.positions.tolist() == [3136, 784, 196, 49]
    assert table.fc_spa_weights.tolist() == [2 * 3136 * 56, 2 * 784 * 28, 2 * 196 * 14, 2 * 49 * 7]
    assert table.gca_share.tolist() == [256 / 3840, 512 / 3840, 1024 / 3840, 2048 / 3840]
    assert table.attrs == {"backbone": name, "image_size": 224}


def test_table3_at_another_size():
    table = table3("resnet50", 96)
    assert table.height.tolist() == [24, 12, 6, 3]
    assert table.attrs["image_size"] == 96


@pytest.mark.parametrize(
    ("name", "taps", "channels"),
    [
        ("resnet18", "layer1.1.conv2 layer2.1.conv2 layer3.1.conv2 layer4.1.conv2", [64, 128, 256, 512]),
        (
            "timm:resnet50",
            "layer1.2.conv3 layer2.3.conv3 layer3.5.conv3 layer4.2.conv3",
            [256, 512, 1024, 2048],
        ),
        ("resnest14d", "layer1.0.conv3 layer2.0.conv3 layer3.0.conv3 layer4.0.conv3", [256, 512, 1024, 2048]),
        (
            "mobilenetv3_large_100",
            "blocks.1.1.conv_pwl blocks.2.2.conv_pwl blocks.4.1.conv_pwl blocks.6.0.conv",
            [24, 40, 112, 960],
        ),
        (
            "convnext_tiny",
            "stages.0.blocks.2.conv_dw stages.1.blocks.2.conv_dw "
            "stages.2.blocks.8.conv_dw stages.3.blocks.2.conv_dw",
            [96, 192, 384, 768],
        ),
        (
            "regnetx_002",
            "s1.b1.conv3.conv s2.b1.conv3.conv s3.b4.conv3.conv s4.b7.conv3.conv",
            [24, 56, 152, 368],
        ),
        ("vgg16", "features.7 features.14 features.21 features.28", [128, 256, 512, 512]),
    ],
)
def test_table3_of_timm_models_without_weights_or_network(name, taps, channels, no_network):
    table = table3(name)
    assert table.module.tolist() == taps.split()
    assert table.channels.tolist() == channels
    assert (table.height == table.width).all()
    assert table.height.is_monotonic_decreasing


def test_lite0s_taps_are_those_that_the_rule_for_timm_models_finds():
    assert table3("tf_efficientnet_lite0").module.tolist() == list(lite0.LITE0.taps)


def test_a_model_without_one_head_is_refused():
    with pytest.raises(BackboneError, match=r"'efficientformer_l1' has no single classifier.*head_dist"):
        load_backbone("efficientformer_l1", weights="random")


# loading by name


def test_the_packages_own_names():
    assert list_backbones() == ["lite0", "mini", "resnet50", "resnet101", "resnet50_places365"]
    list_backbones().clear()
    assert list_backbones()


@pytest.mark.parametrize(
    ("name", "near"),
    [("lit0", "lite0"), ("resnet51", "resnet50"), ("resnet_101", "resnet101"), ("timm:resnet19", "resnet18")],
)
def test_an_unknown_name_lists_near_ones(name, near):
    with pytest.raises(BackboneError, match="There is no backbone") as caught:
        load_backbone(name, weights="random")
    text = str(caught.value)
    assert repr(name) in text
    assert near in text.split("Near names: ")[1].split(". ")[0].split(", ")


@pytest.mark.parametrize("name", ["", "qqqqqqqq", None, 50, "hf-hub:timm/resnet18.a1_in1k", "local-dir:/"])
def test_what_is_no_name_at_all_is_refused(name):
    with pytest.raises(BackboneError, match="lite0") as caught:
        table3(name)
    assert repr(name) in str(caught.value)


def test_an_unknown_tag_of_a_timm_model_is_refused():
    with pytest.raises(BackboneError, match=r"'resnet18\.nope'.*Invalid pretrained tag"):
        load_backbone("resnet18.nope", weights="random")


@pytest.mark.parametrize("weights", ["imagenet", "", None, True, "Random"])
def test_other_weights_than_the_two_are_refused(weights):
    with pytest.raises(BackboneError, match="'pretrained' or 'random', got") as caught:
        load_backbone("lite0", weights=weights)
    assert repr(weights) in str(caught.value)


@pytest.mark.parametrize("seed", [0.5, None, "0", True])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(BackboneError, match="seed must be an integer, got"):
        load_backbone("mini", weights="random", seed=seed)


def test_random_weights_follow_the_seed_and_are_not_the_pretrained_ones(source):
    first, same, other = (load_backbone("lite0", weights="random", seed=s).model for s in (0, 0, 1))
    stem = [model.conv_stem.weight for model in (first, same, other, source.model)]
    assert torch.equal(stem[0], stem[1])
    assert not torch.equal(stem[0], stem[2])
    assert not torch.equal(stem[0], stem[3])
    backbone = drawn("lite0")
    assert (backbone.weights, backbone.classes) == ("random", None)
    assert source.weights == "pretrained"


def test_loading_leaves_every_random_state_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - it could be drawn from
    backbone = load_backbone("lite0")
    load_backbone("mini", weights="random", seed=5)
    load_backbone("resnet18", weights="random", seed=5)
    backbone.to_target(5, seed=3)
    backbone.tap_shapes(64)
    table3("convnext_atto")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(after, before[2], strict=True))


def test_the_random_state_is_put_back_after_an_error_too():
    before = torch.get_rng_state()
    with pytest.raises(BackboneError):
        load_backbone("vit_tiny_patch16_224", weights="random")
    assert torch.equal(torch.get_rng_state(), before)


def test_models_are_made_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        backbone = load_backbone("lite0")
        target = backbone.to_target(3, seed=0)
    for model in (backbone.model, target):
        assert {p.device.type for p in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", ["lite0", "mini", "resnet50", "resnet18", "mobilenetv3_small_050"])
def test_models_come_in_eval_mode_with_a_head_that_works(name):
    backbone = drawn(name)
    assert not any(module.training for module in backbone.model.modules())
    head = backbone.model.get_submodule(backbone.head)
    with torch.no_grad():
        logits = backbone.model(torch.zeros(1, 3, 64, 64))
    assert logits.shape == (1, head.out_features)


def test_a_timm_models_preprocessing_is_timms_own():
    backbone = drawn("mobilenetv3_small_050")
    assert backbone.preprocess.mean == pytest.approx(IMAGENET.mean)
    assert backbone.preprocess.std == pytest.approx(IMAGENET.std)
    half = load_backbone("tf_efficientnet_lite0", weights="random")
    assert half.preprocess == Preprocess((127.5,) * 3, (127.5,) * 3)
    assert load_backbone("test_resnet.r160_in1k", weights="random").image_size == 160


def test_source_class_names(source):
    assert len(set(source.classes)) == 1000
    assert source.classes[967] == "espresso"


# targets


@pytest.mark.parametrize("name", ["lite0", "mini", "resnet18"])
def test_a_target_is_the_source_with_a_new_head(name):
    backbone = load_backbone(name, weights="random")
    backbone.model.requires_grad_(False)
    target = backbone.to_target(9, seed=4)
    head = target.get_submodule(backbone.head)
    assert isinstance(head, nn.Linear)
    assert target(torch.zeros(2, 3, 64, 64)).shape == (2, 9)
    assert all(p.requires_grad for p in target.parameters())
    assert not any(p.requires_grad for p in backbone.model.parameters())
    mine, theirs = backbone.model.state_dict(), target.state_dict()
    assert mine.keys() == theirs.keys()
    body = [name for name in mine if not name.startswith(backbone.head + ".")]
    assert all(torch.equal(mine[name], theirs[name]) for name in body)


def test_a_target_shares_nothing_with_its_source():
    backbone = load_backbone("mini", weights="random")
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    target = backbone.to_target(4, seed=0)
    with torch.no_grad():
        for tensor in [*target.parameters(), *target.buffers()]:
            tensor.add_(1)
    target.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.model.state_dict().items())
    assert not backbone.model.training


def test_a_targets_head_follows_the_seed_with_pytorchs_own_initialisation():
    backbone = drawn("mini")
    heads = [backbone.to_target(6, seed=s).fc.weight for s in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    torch.manual_seed(0)
    assert torch.equal(heads[0], nn.Linear(512, 6).weight)


def test_a_target_keeps_the_kind_place_and_precision_of_its_head():
    net = TwoConvs().double()
    net.head = nn.Sequential(nn.Flatten(1), nn.Linear(8, 3, bias=False).double())
    backbone = Backbone("net", net, ["first", "second"], image_size=16, head="head.1")
    head = backbone.to_target(5, seed=0).head[1]
    assert (head.weight.dtype, head.bias) == (torch.float64, None)
    conv = load_backbone("resnetv2_50", weights="random")
    target = conv.to_target(5, seed=0)
    assert target.head.fc.weight.shape == (5, 2048, 1, 1)
    assert target.num_classes == 5
    assert conv.model.num_classes == 1000


@pytest.mark.parametrize("classes", [1, 0, -3, 2.0, "7", None, True])
def test_fewer_than_two_classes_are_refused(classes):
    with pytest.raises(BackboneError, match="num_classes >= 2") as caught:
        drawn("mini").to_target(classes, seed=0)
    assert repr(classes) in str(caught.value)


def test_a_head_that_is_no_linear_map_is_refused():
    net = TwoConvs()
    net.head = nn.Sequential(nn.Linear(8, 3), nn.ReLU())
    with pytest.raises(
        BackboneError, match="'head' of 'net' is a Sequential; a Linear or 1×1 Conv2d is needed"
    ):
        Backbone("net", net, ["first"], image_size=16, head="head")


# preprocessing


def test_preprocessing_is_the_formula_for_any_leading_shape():
    images = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8)
    standard = IMAGENET(images)
    assert standard.shape == images.shape
    assert standard.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(IMAGENET.mean, IMAGENET.std, strict=True)):
        expected = (images[..., channel, :, :].double() - mean) / std
        torch.testing.assert_close(standard[..., channel, :, :].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(IMAGENET(images.float()), standard)
    assert torch.equal(IMAGENET(images.double()), standard)


def test_preprocessing_leaves_its_input_alone_and_lets_gradients_through():
    images = torch.full((1, 3, 2, 2), 100.0, requires_grad=True)
    with torch.inference_mode():
        IMAGENET(images.detach())
    IMAGENET(images).sum().backward()
    assert images.detach().unique().item() == 100
    torch.testing.assert_close(images.grad[0, :, 0, 0], 1 / torch.tensor(IMAGENET.std))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), "uint8 or floating point"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(1, 4, 4, 3), r"got \[1, 4, 4, 3\]"),
        (torch.zeros(3), r"got \[3\]"),
    ],
)
def test_what_are_no_pictures_is_refused(images, message):
    with pytest.raises(BackboneError, match=message):
        IMAGENET(images)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,) * 2, (1.0,) * 3), ((0.0,) * 3, (1.0, 0.0, 1.0)), ((0.0,) * 3, ())]
)
def test_a_preprocessing_that_cannot_be_is_refused(mean, std):
    with pytest.raises(BackboneError, match="three means and three positive stds"):
        Preprocess(mean, std)
