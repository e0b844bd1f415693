"""Any timm model with four stages as a source: taps, head and preprocessing from timm's own description."""

import re
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torch.autograd.graph import Node

from spgca_lab.backbones.base import Blueprint, Preprocess, skeleton
from spgca_lab.backbones.calls import ModuleCall, module_calls
from spgca_lab.backbones.download import OFFLINE, BackboneUnavailable, is_reachable
from spgca_lab.backbones.resnet import imagenet_classes
from spgca_lab.backbones.tap import BackboneError

# Layers with weights of their own. A shortcut's layers do not count: Table 3 leaves the residual out as well.
LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
SHORTCUT = re.compile(r"(^|\.)(downsample|shortcut|skip)(\.|$)")

BY_HAND = (
    "Wrap such a model by hand: lab.Backbone(name, timm.create_model(name, pretrained=True), taps=[lab.Tap(module, "
    "to_map), ...], image_size=..., head=...), where to_map is lab.tokens_to_map(prefix_tokens) for tokens [b, n, d] "
    "and lambda x: x.permute(0, 3, 1, 2) for [b, h, w, c]."
)


def timm_blueprint(name: str) -> Blueprint:
    """Describe a timm model without allocating or downloading its weights."""
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
            f"{name!r} takes images of {channels}×{height}×{width}; three channels and a square are needed"
        )
    if not isinstance(head, str):
        raise BackboneError(
            f"{name!r} has no single classifier module (timm names {head!r}), which a target would replace"
        )
    mean, std = (tuple(255 * value for value in config[key]) for key in ("mean", "std"))
    return Blueprint(
        build=build,
        weights=lambda _model: _weights(name, config),
        taps=stage_taps(name, model, height),
        preprocess=Preprocess(mean=mean, std=std),
        image_size=height,
        head=head,
        classes=partial(_classes, model),
    )


def stage_taps(name: str, model: nn.Module, image_size: int) -> tuple[str, ...]:
    """Return the taps of the last four stages of a timm model.

    As in Table 3 they are the last convolutions of the stages, before their BatchNorm: `conv3` in bottlenecks,
    `conv_pwl` in inverted residuals. Where one of the four convolutions is only a part of what its stage computes
    (a branch of an Inception block, say), all four taps are the stages' output modules instead.
    """
    modules = dict(model.named_modules())
    # A stage ends where timm says; of two with the same stride the later one counts.
    ends = {entry["reduction"]: entry for entry in getattr(model, "feature_info", [])}
    layers = {n for n, m in modules.items() if isinstance(m, LAYERS) and not SHORTCUT.search(n)}
    watched = layers | ({entry["module"] for entry in ends.values()} & modules.keys() - {""})
    calls = module_calls(model, watched, image_size)
    found: list[tuple[str, str, str, str]] = []  # of each stage: convolution, its fault, output, its fault
    start = 0
    for _, entry in sorted(ends.items()):
        # A module's hook runs after those of its children: a stage is everything since the last one ended.
        stop = max((i for i, call in enumerate(calls) if call.name == entry["module"]), default=-1)
        if stop < start:
            found.append(("", "", entry["module"], "is never made by this module"))
            continue
        end, inside = calls[stop], [call for call in calls[start : stop + 1] if call.name in layers]
        start = stop
        c, h, w = end.shape if len(end.shape) == 3 else (0, 0, 0)
        fault = end.fault() or ("" if c == entry["num_chs"] and h == w else f"is {['b', c, h, w]}")
        # Squeeze-and-excite convolutions work on 1×1 maps and are no candidates.
        convs = [n for n in inside if isinstance(modules[n.name], nn.Conv2d) and n.shape[1:] == (h, w)]
        conv = (convs[-1].name, _part_of_stage(convs[-1], inside, entry["num_chs"])) if convs else ("", "")
        found.append((*conv, end.name, fault))
    for taps in ([f[:2] for f in found if f[0]][-4:], [f[2:] for f in found][-4:]):
        if len(taps) == 4 and not any(fault for _, fault in taps):
            return tuple(tap for tap, _ in taps)
    listed = "; ".join(
        f"{end} (stride {stride}): {f'{conv} {part}'.strip() or 'no Conv2d'}, output {fault or 'fits'}"
        for stride, (conv, part, end, fault) in zip(sorted(ends), found, strict=True)
    )
    raise BackboneError(
        f"{name!r} cannot be loaded by name: it needs four stages of different strides whose last Conv2d or output is "
        f"a whole map [b, c, h, w], and timm's description of it gives {listed or 'no stages'}. {BY_HAND}"
    )


def _part_of_stage(tap: ModuleCall, inside: list[ModuleCall], channels: int) -> str:
    """Return why a convolution is not all that its stage computes, or an empty string."""
    if tap.fault() or tap.shape[0] != channels:
        return tap.fault() or f"has {tap.shape[0]} of {channels} channels"
    at = next(i for i, call in enumerate(inside) if call is tap)
    beside = [call.name for call in inside[:at] if call.read is tap.read and call.shape == tap.shape]
    beside += [call.name for call in inside[at + 1 :] if _bypasses(call.read, tap.node)]
    return f"is one branch beside {beside[0]}" if beside else ""


def _bypasses(read: object, tap: Node | None) -> bool:
    """Return whether the image reaches a tensor also when the tap's own operation is cut out of the graph."""
    seen, stack = {tap}, [read.grad_fn if isinstance(read, Tensor) else None]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if not node.next_functions:
            return True  # the image: nothing else in the graph needs a gradient
        seen.add(node)
        stack.extend(function for function, _ in node.next_functions)
    return False


def _classes(model: nn.Module) -> list[str] | None:
    from timm.data import infer_imagenet_subset

    return imagenet_classes() if infer_imagenet_subset(model) == "imagenet-1k" else None


def _build(name: str) -> nn.Module:
    import timm

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mapping deprecated model name")
        model = timm.create_model(name, pretrained=False)
    for module in model.modules():
        # An activation in place would overwrite the tap before it, as in VGG.
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 - nn.Module does not declare it
    return model


def _weights(name: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    import timm
    from huggingface_hub import constants

    where = config.get("hf_hub_id") or config.get("url")
    if not (where or config.get("file")):
        raise BackboneUnavailable(
            f"timm publishes no weights for {name!r}; ask for weights='random' or another model"
        )
    offline = constants.HF_HUB_OFFLINE
    # The hub retries for 45 seconds when its server is out of reach; offline it looks into its cache at once.
    constants.HF_HUB_OFFLINE = offline or not is_reachable(constants.ENDPOINT)
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        raise BackboneUnavailable(
            f"The weights of {name!r} are not on this machine and could not be downloaded from {where}: "
            f"{str(error).splitlines()[0].rstrip('.')}. Download them where there is a network "
            f"(`hf download {where}`) and copy the folder to {constants.HF_HUB_CACHE!r}. {OFFLINE}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
