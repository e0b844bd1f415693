"""Any timm model with four stages as a source: taps, head and preprocessing from timm's own description."""

import difflib
import re
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from spgca_lab.backbones.base import Blueprint, Preprocess, Taps, skeleton
from spgca_lab.backbones.download import OFFLINE, BackboneUnavailable
from spgca_lab.backbones.resnet import imagenet_classes
from spgca_lab.backbones.shapes import BackboneError, outputs

__all__ = ["is_model", "near_names", "stage_taps", "timm_blueprint"]

SHORTCUT = re.compile(r"(^|\.)(downsample|shortcut|skip)(\.|$)")


def is_model(name: str) -> bool:
    """Whether timm has a network of that name, with or without a weights tag.

    Example:
        >>> is_model("resnet18.a1_in1k"), is_model("resnet_18")
        (True, False)
    """
    import timm

    return timm.is_model(name)


def timm_blueprint(name: str) -> Blueprint:
    """Describe a timm model without allocating or fetching its weights.

    Args:
        name: as timm lists it, with or without a weights tag (`"resnet18"`, `"resnet18.a1_in1k"`).

    Raises:
        BackboneError: when timm does not know the name or the tag, or the model has no four usable stages.
    """
    build = partial(_build, name)
    try:
        model = skeleton(build)
    except Exception as error:
        raise BackboneError(f"timm cannot build {name!r}: {error}") from error
    config = cast(Mapping[str, Any], model.pretrained_cfg)
    channels, height, width = config["input_size"]
    head = config.get("classifier")
    if channels != 3 or height != width:
        raise BackboneError(
            f"{name!r} takes pictures of {channels}×{height}×{width}; three channels and a square are needed"
        )
    if not isinstance(head, str):
        raise BackboneError(
            f"{name!r} has no single classifier module (timm names {head!r}), which a target would replace"
        )
    mean, std = (tuple(255 * value for value in config[key]) for key in ("mean", "std"))
    return Blueprint(
        name=name,
        about=f"{name} (timm); fetched on first use",
        build=build,
        weights=lambda _model: _weights(name, config),
        taps=stage_taps(name, model, height),
        preprocess=Preprocess(mean=mean, std=std),
        image_size=height,
        head=head,
        classes=lambda: _classes(model),
    )


def stage_taps(name: str, model: nn.Module, image_size: int) -> Taps:
    """The last convolution of each of the last four stages, before its BatchNorm, as in Table 3.

    A stage ends where timm's `feature_info` says. Its tap is the last `Conv2d` that ran in it with the height
    and width of the stage's map, shortcuts left out: `conv3` in bottlenecks, `conv_pwl` in inverted
    residuals. Squeeze-and-excite convolutions work on 1×1 maps and are no candidates.

    Args:
        name: for errors.
        model: a timm model, best on the meta device.
        image_size: the size it is made for.

    Raises:
        BackboneError: when fewer than four stages of different strides have such a convolution.
    """
    modules = dict(model.named_modules())
    ends = {entry["reduction"]: entry["module"] for entry in getattr(model, "feature_info", [])}
    convolutions = {n for n, m in modules.items() if isinstance(m, nn.Conv2d) and not SHORTCUT.search(n)}
    ran = outputs(model, convolutions | {end for end in ends.values() if end in modules}, image_size)
    taps: dict[str, str | None] = {}
    start = 0
    for _, end in sorted(ends.items()):
        # A module's hook runs after those of its children: a stage is what ran since the last one ended.
        stop = max((i for i, (n, _) in enumerate(ran) if n == end), default=-1)
        inside = [
            n for n, shape in ran[start : stop + 1] if n in convolutions and shape[1:] == ran[stop][1][1:]
        ]
        taps[end] = inside[-1] if stop >= start and inside else None
        start = max(start, stop)
    found = [tap for tap in taps.values() if tap is not None]
    if len(found) < 4:
        listed = ", ".join(
            f"{end} (stride {n}): {taps[end] or 'no Conv2d'}" for n, end in sorted(ends.items())
        )
        raise BackboneError(
            f"{name!r} cannot be a backbone: it needs four stages of different strides that end in a Conv2d, "
            f"and timm's description of it gives {listed or 'no stages'}"
        )
    first, second, third, fourth = found[-4:]
    return first, second, third, fourth


def near_names(name: str, known: list[str]) -> list[str]:
    """Up to five names that look like the one asked for, the package's own before timm's."""
    import timm

    bare = name.removeprefix("timm:").split(".")[0]
    return difflib.get_close_matches(bare, known + timm.list_models(), n=5, cutoff=0.6)


def _classes(model: nn.Module) -> list[str] | None:
    from timm.data import infer_imagenet_subset

    return imagenet_classes() if infer_imagenet_subset(model) == "imagenet-1k" else None


def _build(name: str) -> nn.Module:
    import timm

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mapping deprecated model name")
        model = timm.create_model(name, pretrained=False)
    for module in model.modules():
        # An activation that works in place would overwrite the tap that it follows, as in VGG.
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 - nn.Module does not declare it
    return model


def _weights(name: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    import timm

    if not (config.get("hf_hub_id") or config.get("url") or config.get("file")):
        raise BackboneUnavailable(
            f"timm publishes no weights for {name!r}; ask for weights='random' or another model"
        )
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        from huggingface_hub.constants import HF_HUB_CACHE

        where = config.get("hf_hub_id") or config.get("url")
        raise BackboneUnavailable(
            f"The weights of {name!r} are not on this machine and could not be fetched from {where}: "
            f"{str(error).splitlines()[0].rstrip('.')}. Fetch them where there is a network "
            f"(`hf download {where}`) and copy the folder to {HF_HUB_CACHE!r}. {OFFLINE}"
        ) from error
