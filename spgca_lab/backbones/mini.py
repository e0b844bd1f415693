"""`mini`: a thin ResNet for 64 px images, pretrained by this project on drawn objects; needs no network."""

import json
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from spgca_lab.backbones.base import Blueprint, Preprocess
from spgca_lab.backbones.download import BackboneUnavailable, check_hash
from spgca_lab.data.shipped import ShippedDataError, check_shipped, data_dir

PLANES = (16, 32, 64, 128)


def mini_resnet(num_classes: int) -> nn.Module:
    """Return a bottleneck ResNet of two blocks per stage, with torchvision's module names.

    It has a quarter of ResNet-50's width and a stem for small images. At 64 px its taps `layer1.1.conv3` …
    `layer4.1.conv3` give maps of 64×32×32, 128×16×16, 256×8×8 and 512×4×4.

    Source:
        Bottleneck blocks as in He et al., Deep Residual Learning, 2016 (torchvision's implementation).
    """
    from torchvision.models.resnet import Bottleneck, ResNet

    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes is {num_classes!r}: give a whole number of at least 1")
    net = ResNet(Bottleneck, [2, 2, 2, 2], num_classes=num_classes)
    net.inplanes = 32
    net.conv1 = nn.Conv2d(3, 32, kernel_size=3, stride=2, padding=1, bias=False)
    net.bn1 = nn.BatchNorm2d(32)
    net.maxpool = nn.Identity()
    for i, planes in enumerate(PLANES, start=1):
        net.set_submodule(f"layer{i}", net._make_layer(Bottleneck, planes, 2, stride=1 if i == 1 else 2))
    net.fc = nn.Linear(PLANES[3] * Bottleneck.expansion, num_classes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def mini_blueprint() -> Blueprint:
    """Return `mini` as `data/mini/report.json` describes it: classes, preprocessing, SHA-256 of the weights."""
    folder = data_dir() / "mini"
    path = folder / "report.json"
    try:
        check_shipped(path)
        report = json.loads(path.read_text(encoding="utf-8"))
        classes = [str(name) for name in report["classes"]]
        preprocess = Preprocess(mean=tuple(report["mean"]), std=tuple(report["std"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneUnavailable(
            f"'mini' needs {str(path)!r}, which is missing or damaged ({type(error).__name__}: {error}). Reinstall the "
            "package, or take a complete checkout."
        ) from error
    return Blueprint(
        build=partial(mini_resnet, num_classes=len(classes)),
        weights=lambda _model: _weights(folder / "mini.safetensors", report.get("sha256")),
        taps=("layer1.1.conv3", "layer2.1.conv3", "layer3.1.conv3", "layer4.1.conv3"),
        preprocess=preprocess,
        image_size=64,
        classes=lambda: classes,
    )


def _weights(path: Path, sha256: str | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "Reinstall the package, take a complete checkout, or load_backbone('mini', weights='random')."
    try:
        check_shipped(path)
        check_hash(path, sha256, remedy)
        return load_file(path)
    except (OSError, ShippedDataError, SafetensorError) as error:
        raise BackboneUnavailable(
            f"The weights of 'mini' should be at {str(path)!r}, and are missing or damaged: {error}. {remedy}"
        ) from error
