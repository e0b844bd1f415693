"""`mini`: the thin bottleneck ResNet that this project pretrained on drawn objects; needs no network."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from spgca_lab.backbones.base import Blueprint, Preprocess
from spgca_lab.backbones.download import BackboneUnavailable
from spgca_lab.paths import data_dir

__all__ = ["mini_blueprint"]


def mini_blueprint() -> Blueprint:
    """`mini` as `data/mini/report.json` describes it: its classes, its preprocessing, its file's SHA-256.

    Raises:
        BackboneUnavailable: when the report is missing or damaged.
    """
    from spgca_lab.mini import mini_resnet

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
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneUnavailable(
            f"'mini' needs {str(path)!r}, which is missing or damaged ({error}). Reinstall the package, or take a "
            "complete checkout."
        ) from error
    absent = [key for key in ("classes", "mean", "std") if key not in report]
    if absent:
        raise BackboneUnavailable(f"{str(path)!r} does not say mini's {' and '.join(absent)}")
    return report


def _weights(path: Path, sha256: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise BackboneUnavailable(
            f"The weights of 'mini' should be at {str(path)!r}, and are not. Reinstall the package, take a "
            "complete checkout, or ask for load_backbone('mini', weights='random')."
        )
    if sha256 and (actual := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise BackboneUnavailable(
            f"{str(path)!r} is damaged: its SHA-256 is {actual}, not {sha256} as reported"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise BackboneUnavailable(f"{str(path)!r} is damaged: {error}") from error
