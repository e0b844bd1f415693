"""Find a backbone by name, load it, or print its Table 3 without loading anything."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from spgca_lab.backbones.base import Backbone, Blueprint, load_strictly, seeded, skeleton
from spgca_lab.backbones.lite0 import LITE0
from spgca_lab.backbones.mini import mini_blueprint
from spgca_lab.backbones.resnet import RESNET50, RESNET50_PLACES365, RESNET101
from spgca_lab.backbones.shapes import BackboneError, tap_shapes
from spgca_lab.backbones.timm_models import is_model, near_names, timm_blueprint
from spgca_lab.data.augment import stored_size

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["list_backbones", "load_backbone", "table3"]

OWN: dict[str, Callable[[], Blueprint]] = {
    "lite0": lambda: LITE0,
    "mini": mini_blueprint,
    "resnet50": lambda: RESNET50,
    "resnet101": lambda: RESNET101,
    "resnet50_places365": lambda: RESNET50_PLACES365,
}


def list_backbones() -> list[str]:
    """Names of the package's own backbones; every four-stage timm model works besides, as `"timm:NAME"`.

    Example:
        >>> list_backbones()
        ['lite0', 'mini', 'resnet50', 'resnet101', 'resnet50_places365']
    """
    return list(OWN)


def load_backbone(name: str, weights: str = "pretrained", seed: int = 0) -> Backbone:
    """A source model with its own head, in eval mode on the CPU; the global random state stays as it is.

    Args:
        name: one of `list_backbones()`, or a timm model (`"timm:resnet18"`; the prefix may be left out where
            the name is not one of the package's own).
        weights: `"pretrained"`; random weights never stand in for them unless asked for with `"random"`.
        seed: of random weights.

    Returns:
        The backbone.

    Raises:
        BackboneError: for an unknown name, other `weights`, or weights that do not fit.
        BackboneUnavailable: when pretrained weights are not on this machine and cannot be fetched.

    Example:
        >>> source = load_backbone("lite0")
        >>> source.taps
        ('blocks.1.1.conv_pwl', 'blocks.2.1.conv_pwl', 'blocks.4.2.conv_pwl', 'blocks.6.0.conv_pwl')
    """
    if weights not in ("pretrained", "random"):
        raise BackboneError(f"weights must be 'pretrained' or 'random', got {weights!r}")
    with seeded(seed):
        plan = _blueprint(name)
        model = plan.build()
        if weights == "pretrained":
            load_strictly(model, plan.weights(model), f"the pretrained {name!r}")
    return Backbone(
        name=name,
        model=model.eval(),
        taps=plan.taps,
        preprocess=plan.preprocess,
        image_size=plan.image_size,
        head=plan.head,
        weights=weights,
        classes=plan.classes() if weights == "pretrained" else None,
    )


def table3(name: str, image_size: int | None = None) -> "pd.DataFrame":
    """Table 3 for any backbone, with what each layer costs the attention nets; nothing is downloaded.

    Args:
        name: as for `load_backbone`.
        image_size: height and width of the input in pixels; None takes the backbone's own.

    Returns:
        One row a layer: `layer` (1–4), `module`, `channels` C, `height` H, `width` W, `positions` H·W,
        `fc_spa_weights` = 2·(H·W)·H, the weights of Table 2's FC_SPA without biases, and `gca_share` =
        C / ΣC, the layer's share when all of GCA's weights are equal. `attrs` holds `backbone`
        and `image_size`.

    Raises:
        BackboneError: for an unknown name or a size that is too small.

    Source:
        Tables 2 and 3 of the paper.

    Example:
        >>> table3("resnet101")[["module", "channels", "positions"]].values.tolist()[2]
        ['layer3.22.conv3', 1024, 196]
    """
    import pandas as pd

    plan = _blueprint(name)
    if image_size is not None:
        stored_size(image_size)
    shapes = tap_shapes(name, skeleton(plan.build), plan.taps, plan.image_size, image_size)
    table = pd.DataFrame(
        [
            {
                "layer": i,
                "module": tap,
                "channels": c,
                "height": h,
                "width": w,
                "positions": h * w,
                "fc_spa_weights": 2 * h * w * h,
            }
            for i, (tap, (c, h, w)) in enumerate(shapes.items(), start=1)
        ]
    )
    table["gca_share"] = table["channels"] / table["channels"].sum()
    table.attrs.update(backbone=name, image_size=plan.image_size if image_size is None else image_size)
    return table


def _blueprint(name: str) -> Blueprint:
    if not isinstance(name, str):
        raise BackboneError(f"a backbone is named by a string such as 'lite0', got {name!r}")
    if name in OWN:
        return OWN[name]()
    if is_model(bare := name.removeprefix("timm:")):
        return timm_blueprint(bare)
    near = near_names(name, list_backbones())
    raise BackboneError(
        f"There is no backbone {name!r}. "
        + (f"Near names: {', '.join(near)}. " if near else "")
        + f"The package's own are {', '.join(list_backbones())}; any timm model with four stages works too."
    )
