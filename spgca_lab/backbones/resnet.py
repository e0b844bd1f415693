"""The paper's own sources: torchvision's ResNet-101 and -50 (ImageNet), and CSAIL's ResNet-50 (Places365)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from spgca_lab.backbones.base import IMAGENET, Blueprint, Taps
from spgca_lab.backbones.download import checkpoint
from spgca_lab.backbones.shapes import BackboneError

__all__ = ["RESNET50", "RESNET50_PLACES365", "RESNET101", "imagenet_classes", "places365_state"]

PLACES365_URL = "http://places2.csail.mit.edu/models_places365/resnet50_places365.pth.tar"
# CSAIL publishes no hash, and no https; this one is what three independent projects record for the file.
PLACES365_SHA256 = "46529c86902bd0cfb0ea562a30b2850c28d2620d96282b3db9c318e1d774f6c5"

# Table 3: the last convolution of the last block, before its BatchNorm. Never tap bn3: torchvision adds the
# residual in place into bn3's output.
TAPS50: Taps = ("layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3")
TAPS101: Taps = ("layer1.2.conv3", "layer2.3.conv3", "layer3.22.conv3", "layer4.2.conv3")


def imagenet_classes() -> list[str]:
    """ImageNet's 1,000 class names, in the order of every ImageNet head.

    Example:
        >>> imagenet_classes()[967]
        'espresso'
    """
    from torchvision import models

    return list(models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def places365_state(content: Any) -> dict[str, Tensor]:
    """The tensors of CSAIL's checkpoint, without the `module.` that DataParallel put before each name.

    Args:
        content: the file's dictionary: `state_dict`, `arch`, `epoch`, `best_prec1`.

    Raises:
        BackboneError: when it is not such a dictionary, or of another architecture.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        keys = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise BackboneError(f"A Places365 checkpoint is a dictionary with a 'state_dict'; this one is {keys}")
    if content.get("arch") != "resnet50":
        raise BackboneError(f"This Places365 checkpoint is of arch {content.get('arch')!r}, not 'resnet50'")
    return {name.removeprefix("module."): tensor for name, tensor in content["state_dict"].items()}


def _network(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    return models.get_model(name, weights=None, **options)


def _published(weights: str, name: str) -> dict[str, Tensor]:
    from torchvision import models

    return checkpoint(models.get_weight(weights).url, name)


def _torchvision(name: str, about: str, weights: str, taps: Taps) -> Blueprint:
    # By name, because torchvision takes most of a second to import, which a recipe has no use for.
    return Blueprint(
        name=name,
        about=about,
        build=partial(_network, name),
        weights=lambda _model: _published(weights, name),
        taps=taps,
        preprocess=IMAGENET,
        image_size=224,
        head="fc",
        classes=imagenet_classes,
    )


RESNET50 = _torchvision(
    "resnet50",
    "ResNet-50, ImageNet (torchvision IMAGENET1K_V1); fetched on first use",
    "ResNet50_Weights.IMAGENET1K_V1",
    TAPS50,
)
RESNET101 = _torchvision(
    "resnet101",
    "ResNet-101, ImageNet (torchvision IMAGENET1K_V1); fetched on first use",
    "ResNet101_Weights.IMAGENET1K_V1",
    TAPS101,
)
RESNET50_PLACES365 = Blueprint(
    name="resnet50_places365",
    about="ResNet-50, Places365 (CSAIL); fetched on first use",
    build=partial(_network, "resnet50", num_classes=365),
    weights=lambda _model: places365_state(checkpoint(PLACES365_URL, "resnet50_places365", PLACES365_SHA256)),
    taps=TAPS50,
    preprocess=IMAGENET,
    image_size=224,
    head="fc",
    classes=lambda: None,
)
