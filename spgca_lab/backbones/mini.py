"""`mini`: the thin bottleneck ResNet that this project pretrained on drawn objects; needs no network."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from spgca_lab.backbones.base import Blueprint, Preprocess
from spgca_lab.backbones.download import BackboneUnavailable
from spgca_lab.data.location import data_dir
from spgca_lab.data.shipped import ShippedDataError, check_shipped

__all__ = ["mini_blueprint"]


def mini_blueprint() -> Blueprint:
    """`mini` as `data/mini/report.json` describes it: its classes, its preprocessing, its file's SHA-256.

    Raises:
        BackboneUnavailable: when the report is missing or damaged.
    """
    from spgca_lab.backbones.mini_network import mini_resnet

    folder = data_dir() / "mini"
    report = _report(folder / "report.json")
    classes = [str(name) for name in report["classes"]]
    return Blueprint(
        name="mini",
        about="thin bottleneck ResNet for 64 pixels, pretrained by this project; installed with the package",
        build=partial(mini_resnet, num_classes=len(classes)),
        weights=lambda _model: _weights(folder / "mini.safetensors", report.get("sha256")),
        taps=("layer1.1.conv3", "layer2.1.conv3", "layer3.1.conv3", "layer4.1.conv3"),
        preprocess=Preprocess(mean=tuple(report["mean"]), std=tuple(report["std"])),
        image_size=64,
        head="fc",
        classes=lambda: classes,
    )


def _report(path: Path) -> dict[str, Any]:
    remedy = "Reinstall the package, or take a complete checkout."
    try:
        check_shipped(path)
        report = json.loads(path.read_text(encoding="utf-8"))
    except ShippedDataError as error:
        raise BackboneUnavailable(f"'mini' cannot be used: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneUnavailable(
            f"'mini' needs {str(path)!r}, which is missing or damaged ({error}). {remedy}"
        ) from error
    absent = [
        key for key, fits in _FIELDS.items() if not (isinstance(report, dict) and fits(report.get(key)))
    ]
    if absent:
        raise BackboneUnavailable(
            f"{str(path)!r} is damaged: it does not say mini's {' and '.join(absent)}. {remedy}"
        )
    return report


def _three_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "classes": lambda value: isinstance(value, list) and len(value) > 0,
    "mean": _three_numbers,
    "std": _three_numbers,
    # A report that was written before its weights were hashed has none; what ships is in checksums.json.
    "sha256": lambda value: value is None or (isinstance(value, str) and len(value) == 64),
}


def _weights(path: Path, sha256: str | None) -> dict[str, Tensor]:
    try:
        check_shipped(path)
        content = path.read_bytes()
    except (OSError, ShippedDataError) as error:
        raise BackboneUnavailable(
            f"The weights of 'mini' should be at {str(path)!r}, and are not whole: {error}. Reinstall the package, "
            "take a complete checkout, or ask for load_backbone('mini', weights='random')."
        ) from error
    if sha256 and (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise BackboneUnavailable(
            f"{str(path)!r} is damaged: its SHA-256 is {actual}, not {sha256} as reported"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except SafetensorError as error:
        raise BackboneUnavailable(f"{str(path)!r} is damaged: {error}") from error
