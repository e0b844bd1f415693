"""Backbones by name: the package's own, timm's, and functions in files of your own; Table 3 of each."""

import difflib
import hashlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from spgca_lab._checks import quote
from spgca_lab.backbones.base import Backbone, Blueprint, load_strictly, seeded, skeleton
from spgca_lab.backbones.lite0 import LITE0
from spgca_lab.backbones.mini import mini_blueprint
from spgca_lab.backbones.resnet import RESNET50, RESNET50_PLACES365, RESNET101
from spgca_lab.backbones.tap import BackboneError
from spgca_lab.backbones.timm_models import timm_blueprint
from spgca_lab.data.augment import stored_size

if TYPE_CHECKING:
    import pandas as pd

BUILT_IN: dict[str, Callable[[], Blueprint]] = {
    "lite0": lambda: LITE0,
    "mini": mini_blueprint,
    "resnet50": lambda: RESNET50,
    "resnet101": lambda: RESNET101,
    "resnet50_places365": lambda: RESNET50_PLACES365,
}


def list_backbones() -> list[str]:
    """Return the names of the package's own backbones; `load_backbone` takes others too."""
    return list(BUILT_IN)


def load_backbone(name: str, weights: str = "pretrained", seed: int = 0) -> Backbone:
    """Load a source model with its own head, in eval mode on the CPU; the global random state does not change.

    Args:
        name: one of `list_backbones()`; a timm model (`"timm:resnet18"`, the prefix is optional where the name is
            not one of the package's own); or `"my_model.py:build"`, a file and a function in it that takes no
            arguments and returns a `Backbone`.
        weights: `"pretrained"`, or `"random"`, which is never used unasked. A file brings its own weights.
        seed: seed of random weights.

    Raises:
        BackboneUnavailable: when pretrained weights are not on this machine and cannot be downloaded.

    Example:
        >>> load_backbone("mini").taps
        ('layer1.1.conv3', 'layer2.1.conv3', 'layer3.1.conv3', 'layer4.1.conv3')
    """
    if weights not in ("pretrained", "random"):
        raise BackboneError(f"weights must be 'pretrained' or 'random', got {weights!r}")
    with seeded(seed):
        if _is_file(name):
            return _from_file(name, weights)
        plan = _blueprint(name)
        model = plan.build()
        if weights == "pretrained":
            load_strictly(model, plan.weights(model), f"the pretrained {name!r}")
    return plan.backbone(name, model, weights)


def table3(name: str, image_size: int | None = None) -> "pd.DataFrame":
    """Return Table 3 for any backbone, with what each layer costs the attention nets; nothing is downloaded.

    The arguments are those of `load_backbone` and `Backbone.tap_shapes`.

    Returns:
        One row per layer: `layer` (from 1), `module`, `channels` C, `height` H, `width` W, `positions` H·W,
        `fc_spa_weights` = 2·(H·W)·H, the weights of Table 2's FC_SPA without biases, and `gca_share` = C / ΣC, the
        layer's share under uniform weights of GCA. `attrs` holds `backbone` and `image_size`.
    """
    import pandas as pd

    if image_size is not None:
        stored_size(image_size)
    if _is_file(name):
        backbone = load_backbone(name)
    else:
        plan = _blueprint(name)
        backbone = plan.backbone(name, skeleton(plan.build), "none")
    shapes = backbone.tap_shapes(image_size)
    rows = [(layer, module, *shape) for layer, (module, shape) in enumerate(shapes.items(), start=1)]
    table = pd.DataFrame(rows, columns=["layer", "module", "channels", "height", "width"])
    table["positions"] = table["height"] * table["width"]
    table["fc_spa_weights"] = 2 * table["positions"] * table["height"]
    table["gca_share"] = table["channels"] / table["channels"].sum()
    table.attrs.update(backbone=name, image_size=backbone.image_size if image_size is None else image_size)
    return table


def backbone_code(name: str) -> str | None:
    """Return a digest of the file behind `"my_model.py:build"`, None for the package's own and timm's.

    It covers that file's text alone: neither what the file imports nor weights that it reads.
    """
    return hashlib.sha256(_file(name)[0].read_bytes()).hexdigest()[:12] if _is_file(name) else None


def _blueprint(name: str) -> Blueprint:
    if not isinstance(name, str):
        raise BackboneError(f"a backbone is named by a string such as 'lite0', got {name!r}")
    if name in BUILT_IN:
        return BUILT_IN[name]()
    import timm

    if timm.is_model(bare := name.removeprefix("timm:")):
        return timm_blueprint(bare)
    near = difflib.get_close_matches(bare.split(".")[0], [*BUILT_IN, *timm.list_models()], n=5, cutoff=0.6)
    raise BackboneError(
        f"There is no backbone {name!r}. "
        + (f"Near names: {', '.join(near)}. " if near else "")
        + f"The package's own are {', '.join(list_backbones())}; any timm model with four stages works too, and a "
        "function of your own as 'my_model.py:build'."
    )


def _is_file(name: object) -> bool:
    return isinstance(name, str) and (name.endswith(".py") or ".py:" in name)


def _file(name: str) -> tuple[Path, str]:
    file, _, function = name.rpartition(":") if ".py:" in name else (name, "", "")
    path = Path(file).expanduser().resolve()
    if not function or not path.is_file():
        problem = f"there is no file {str(path)!r}" if function else "it names no function"
        raise BackboneError(f"backbone {quote(name)}: {problem}; write 'my_model.py:build'")
    return path, function


def _from_file(name: str, weights: str) -> Backbone:
    path, function = _file(name)
    if weights == "random":
        raise BackboneError(f"backbone {quote(name)} brings its own weights: leave weights='pretrained'")
    try:
        module = _import(path)
        build = getattr(module, function, None)
        backbone = build() if callable(build) else None
    except BackboneError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = "".join([f", line {f.lineno}" for f in frames if f.filename == str(path)][-1:])
        why = f"fails in {str(path)!r}{line}: {type(error).__name__}: {error}"
        raise BackboneError(f"backbone {quote(name)} {why}") from error
    if not callable(build):
        own = [n for n, v in vars(module).items() if callable(v) and v.__module__ == module.__name__]
        raise BackboneError(
            f"backbone {quote(name)}: {path.name} has no function {function!r}, it has {', '.join(own) or 'none'}"
        )
    if not isinstance(backbone, Backbone):
        raise BackboneError(
            f"backbone {quote(name)}: {function}() must return a Backbone, for a network of your own "
            f"lab.Backbone(name, model, taps=[...], image_size=..., head=...); it returned {quote(backbone)}"
        )
    return replace(backbone, name=name, check=False)


class _Source(SourceFileLoader):
    """A loader that never reads compiled code, which may be stale when a file changes twice within a second."""

    def path_stats(self, path: object) -> Mapping[str, Any]:
        raise OSError


def _import(path: Path) -> ModuleType:
    name = f"_spgca_lab_backbone_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    loader = _Source(name, str(path))
    module = sys.modules[name] = module_from_spec(cast(ModuleSpec, spec_from_loader(name, loader)))
    loader.exec_module(module)
    return module
