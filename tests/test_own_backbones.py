"""Backbones of a user's own: any module, token maps of a ViT, functions in a file; wrong ones are refused."""

import copy
import pickle
import sys

import pytest
import timm
import torch
from mock_models import TwoConvs, basic_net
from torch import nn

import spgca_lab as lab
from spgca_lab.backbones import BackboneError, Preprocess, backbone_code

FILE = """
import torch
from torch import nn

import spgca_lab as lab


def build():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return lab.Backbone("anything", net, taps=["0"], image_size=16, head="4")


def bare():
    return nn.Linear(3, 2)


def broken():
    return torch.zeros(2) @ torch.zeros(3)


def wrong_tap():
    return lab.Backbone("anything", nn.Linear(3, 2), taps=["layer9"])
"""


@pytest.fixture(scope="module")
def vit():
    """A Vision Transformer of 32 px and 4×4 patches, tapped at three of its twelve blocks."""
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=7)
    to_map = lab.tokens_to_map(prefix_tokens=1)
    taps = [lab.Tap(f"blocks.{i}", to_map) for i in (3, 7, 11)]
    return lab.Backbone(name="my ViT", model=net, taps=taps, image_size=32, head="head")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(FILE)
    return path


# a Vision Transformer, wrapped by hand


def test_a_vits_blocks_give_maps_that_depend_on_the_image(vit):
    assert vit.taps == ("blocks.3", "blocks.7", "blocks.11")
    assert vit.tap_shapes() == dict.fromkeys(vit.taps, (192, 4, 4))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with lab.FeatureTaps(vit.model, vit.taps) as taps, torch.no_grad():
        logits, maps = vit.model(vit.preprocess(images)), taps.maps
    assert logits.shape == (2, 7)
    assert list(maps) == list(vit.taps)
    assert all(type(name) is str for name in maps)
    for feature_map in maps.values():
        assert feature_map.shape == (2, 192, 4, 4)
        assert (feature_map[0] - feature_map[1]).abs().amax(dim=0).min() > 0  # at every position


def test_a_vits_map_is_its_tokens_row_by_row(vit):
    tokens = []
    handle = vit.model.blocks[3].register_forward_hook(lambda _m, _i, output: tokens.append(output))
    with lab.FeatureTaps(vit.model, vit.taps) as taps, torch.no_grad():
        vit.model(torch.rand(2, 3, 32, 32))
        found = taps.maps["blocks.3"]
    handle.remove()
    for row in range(4):
        for column in range(4):
            assert torch.equal(found[:, :, row, column], tokens[0][:, 1 + 4 * row + column])


def test_a_vits_target_trains_through_its_maps(vit):
    target = vit.to_target(3, seed=0)
    with lab.FeatureTaps(target, vit.taps) as taps:
        logits = target(torch.rand(2, 3, 32, 32))
        sum(m.square().mean() for m in taps.maps.values()).backward()
    assert logits.shape == (2, 3)
    assert target.patch_embed.proj.weight.grad.abs().sum() > 0
    assert vit.model.head.out_features == 7


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda tap: pickle.loads(pickle.dumps(tap))])
def test_a_tap_is_its_name_and_survives_copies(again):
    tap = lab.Tap("blocks.3", lab.tokens_to_map(0, 2, 3))
    other = again(tap)
    assert other == tap == "blocks.3"
    assert {other: 1}["blocks.3"] == 1
    assert other.to_map(torch.zeros(1, 6, 5)).shape == (1, 5, 2, 3)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (
            torch.zeros(1, 197, 8),
            (0,),
            "197 tokens, 0 of them before the patches, do not fill a map of 14×14",
        ),
        (torch.zeros(1, 13, 8), (1, 3, 5), "13 tokens, 1 of them .* map of 3×5"),
        (torch.zeros(1, 8, 4, 4), (1,), r"\[b, n, d\], got \[1, 8, 4, 4\]"),
        ((torch.zeros(1),), (1,), "got tuple"),
    ],
)
def test_tokens_that_fill_no_map_are_refused(tokens, options, message):
    with pytest.raises(BackboneError, match=message):
        lab.tokens_to_map(*options)(tokens)


def test_a_tap_without_a_function_is_refused():
    with pytest.raises(BackboneError, match="to_map of tap 'x' must be a function .* got 14"):
        lab.Tap("x", 14)


# any module


def test_a_module_of_ones_own_with_one_tap_and_defaults():
    net = basic_net().train()
    mine = lab.Backbone(name="mine", model=net, taps=["layer2.0.conv2"])
    assert mine.taps == ("layer2.0.conv2",)
    assert (mine.weights, mine.head, mine.image_size, mine.classes) == ("custom", "fc", 224, None)
    assert mine.preprocess.mean == (123.675, 116.28, 103.53)  # ImageNet's
    assert not net.training
    assert mine.tap_shapes(64) == {"layer2.0.conv2": (16, 8, 8)}
    assert mine.to_target(9, seed=0).fc.out_features == 9


def test_wrapping_changes_neither_weights_nor_random_states():
    net = basic_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    lab.Backbone("mine", net, ["layer1.0.conv2"], image_size=32)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


class ReadsNumbers(TwoConvs):
    """A network that cannot run on the meta device."""

    def forward(self, x):
        return super().forward(x * float(self.first.bias.abs().sum().item()))


def test_a_network_that_reads_its_own_tensors_is_run_as_a_copy():
    net = ReadsNumbers()
    mine = lab.Backbone("mine", net, ["first", "second"], image_size=8, head="head")
    assert mine.tap_shapes(16) == {"first": (4, 16, 16), "second": (8, 8, 8)}
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


class Positions(TwoConvs):
    """`second` reads positions and not the image."""

    def forward(self, x):
        features = super().forward(x)
        return features + self.second(torch.ones_like(self.first.weight[:1, :1]).expand(1, 4, 3, 3)).mean()


class OnlyPositions(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Conv2d(1, 4, 1)
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head((self.conv(x) + self.embedding(torch.ones_like(x[:1, :1]))).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        ("resnet", {}, "'mine' needs a torch.nn.Module as model .*'resnet'"),
        (TwoConvs(), {"taps": []}, r"at least one module and each only once, got \[\]"),
        (TwoConvs(), {"taps": ["first", "first"]}, "only once"),
        (TwoConvs(), {"taps": ["frist"]}, "TwoConvs has no module 'frist' to tap; near names: first"),
        (
            TwoConvs(),
            {"head": "fc"},
            "TwoConvs has no module 'fc' for a head; near names: first, second, head",
        ),
        (TwoConvs(), {"head": "first"}, "The head 'first' of 'mine' is a Conv2d; a Linear or 1×1 Conv2d"),
        (
            TwoConvs(),
            {"taps": ["head"]},
            r"'head' of 'mine' gives \['b', 3\] and no map .* Tap\(name, to_map\)",
        ),
        (TwoConvs(), {"classes": ["a", "b"]}, "has 2 classes, but its head 'head' has 3 outputs"),
        (TwoConvs(), {"preprocess": "imagenet"}, "preprocess, got TwoConvs.*'imagenet'"),
        (TwoConvs(), {"image_size": 0}, "positive integer"),
        (Positions(), {"taps": ["second"]}, "tap 'second' of 'mine' runs 2 times in a forward pass"),
        (OnlyPositions(), {"taps": ["embedding"]}, "tap 'embedding' of 'mine' does not depend on the image"),
        (basic_net(), {"taps": ["layer1.0.bn2"], "head": "fc"}, "'layer1.0.bn2' .* overwritten in place"),
    ],
)
def test_what_is_no_backbone_is_refused_when_it_is_made(net, options, message):
    given = {"name": "mine", "model": net, "taps": ["first"], "image_size": 32, "head": "head"} | options
    with pytest.raises(BackboneError, match="(?s)" + message):
        lab.Backbone(**given)


# a function in a file


def test_a_function_in_a_file_is_a_backbone_by_name(file):
    name = f"{file}:build"
    mine = lab.load_backbone(name)
    assert mine.name == name
    assert mine.weights == "custom"
    assert lab.table3(name).module.tolist() == ["0"]
    assert lab.table3(name, 32).height.tolist() == [30]
    same, other = lab.load_backbone(name), lab.load_backbone(name, seed=1)
    assert torch.equal(mine.model[0].weight, same.model[0].weight)
    assert not torch.equal(mine.model[0].weight, other.model[0].weight)


def test_a_file_is_found_from_the_working_directory_and_read_anew(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    first = lab.load_backbone("my_model.py:build"), backbone_code("my_model.py:build")
    file.write_text(FILE.replace("Conv2d(3, 8, 3)", "Conv2d(3, 8, 5)"))
    second = lab.load_backbone("my_model.py:build"), backbone_code("my_model.py:build")
    assert (first[0].model[0].kernel_size, second[0].model[0].kernel_size) == ((3, 3), (5, 5))
    assert len(first[1]) == 12
    assert first[1] != second[1]
    assert str(file.parent) not in sys.path


def test_the_packages_own_backbones_have_no_code_of_the_users():
    assert [backbone_code(name) for name in ("lite0", "mini", "timm:resnet18")] == [None] * 3


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("biuld", "my_model.py has no function 'biuld', it has build, bare, broken, wrong_tap"),
        ("bare", r"bare\(\) must return a Backbone.*lab.Backbone\(name.*returned Linear"),
        ("broken", r"fails in .*my_model.py', line 18: RuntimeError: .*size"),
        ("wrong_tap", "Linear has no module 'layer9' to tap"),
        ("", "names no function; write 'my_model.py:build'"),
    ],
)
def test_a_function_that_gives_no_backbone_is_refused(file, function, message):
    with pytest.raises(BackboneError, match=message):
        lab.load_backbone(f"{file}:{function}")


def test_a_file_that_is_missing_or_broken_is_refused(file, tmp_path):
    with pytest.raises(BackboneError, match="there is no file .*elsewhere.py"):
        lab.load_backbone(f"{tmp_path}/elsewhere.py:build")
    with pytest.raises(BackboneError, match="names no function"):
        lab.load_backbone(str(file))
    with pytest.raises(BackboneError, match="brings its own weights"):
        lab.load_backbone(f"{file}:build", weights="random")
    file.write_text("def build(:")
    with pytest.raises(BackboneError, match="SyntaxError: .*my_model.py, line 1"):
        lab.load_backbone(f"{file}:build")


def test_preprocessing_of_ones_own():
    mine = lab.Backbone("mine", TwoConvs(), ["first"], Preprocess((0.0,) * 3, (255.0,) * 3), 16, "head")
    assert mine.preprocess(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).unique().item() == 1
