"""The paper's source models: torchvision's ResNet-101 and -50 (ImageNet), and CSAIL's ResNet-50 (Places365)."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from spgca_lab.backbones.base import Blueprint
from spgca_lab.backbones.download import download_checkpoint

PLACES365_URL = "http://places2.csail.mit.edu/models_places365/resnet50_places365.pth.tar"
# CSAIL publishes no hash, and no https; three independent projects record this one for the file.
PLACES365_SHA256 = "46529c86902bd0cfb0ea562a30b2850c28d2620d96282b3db9c318e1d774f6c5"

# Table 3: the last convolution of the last block, before its BatchNorm. Never tap bn3: torchvision adds the
# residual in place into bn3's output.
TAPS50 = ("layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3")
TAPS101 = ("layer1.2.conv3", "layer2.3.conv3", "layer3.22.conv3", "layer4.2.conv3")


def imagenet_classes() -> list[str]:
    """Return ImageNet's 1,000 class names, in the order of every ImageNet head."""
    from torchvision import models

    return list(models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _network(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    return models.get_model(name, weights=None, **options)


def _imagenet_weights(model: nn.Module, *, name: str) -> dict[str, Tensor]:
    from torchvision import models

    return download_checkpoint(models.get_model_weights(name)["IMAGENET1K_V1"].url, name)


def _places365_weights(model: nn.Module) -> dict[str, Tensor]:
    content = download_checkpoint(PLACES365_URL, "resnet50_places365", PLACES365_SHA256)
    # DataParallel put `module.` before each name.
    return {name.removeprefix("module."): tensor for name, tensor in content["state_dict"].items()}


# The networks are named and not imported, because torchvision takes most of a second to import.
RESNET50, RESNET101 = (
    Blueprint(partial(_network, name), partial(_imagenet_weights, name=name), taps, classes=imagenet_classes)
    for name, taps in (("resnet50", TAPS50), ("resnet101", TAPS101))
)
RESNET50_PLACES365 = Blueprint(partial(_network, "resnet50", num_classes=365), _places365_weights, TAPS50)
