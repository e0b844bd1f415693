"""Trained networks out of run folders."""

from dataclasses import dataclass

from torch import Tensor, nn

from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.regularizers.attention import Attention
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.runs.store import Run, RunError

__all__ = ["TrainedRun", "load_run"]

TRAINED = "target."
ATTENTION = "penalty."


@dataclass(frozen=True)
class TrainedRun:
    """What a finished run left: S as it began, T as it ended, and its last attention.

    Args:
        run: where it comes from.
        backbone: S, with its taps, preprocessing and own head.
        target: T in eval mode.
        classes: names of T's outputs.
        attention: the last stage's nets, trained, or None where they cannot be used on new pictures.
        reason: why there is none.
    """

    run: Run
    backbone: Backbone
    target: nn.Module
    classes: list[str]
    attention: Attention | None
    reason: str = ""


def load_run(run: Run) -> TrainedRun:
    """Rebuild the networks of a run from its `weights.safetensors`.

    A stage's attention was trained on that stage's source. In a second stage this is T at the hand-over,
    which a run does not keep, so the attention of a run of two stages is shown from its snapshots only.

    Args:
        run: a finished one.

    Raises:
        RunError: when it was shipped without its weights, or has not ended.
        BackboneError: when its source cannot be loaded.

    Example:
        >>> from spgca_lab import RunStore, data_dir
        >>> loaded = load_run(RunStore(data_dir() / "runs").find(method="spgca", alpha=3.0, r=4)[0])
        >>> loaded.backbone.name, len(loaded.classes)
        ('mini', 48)
    """
    weights = run.weights()
    recipe = run.recipe
    backbone = load_backbone(recipe.backbone, weights=recipe.weights)
    classes = [str(name) for name in run.probe["classes"]]
    target = backbone.to_target(len(classes), seed=0)
    target.load_state_dict(_part(weights, TRAINED))
    target.requires_grad_(False)
    stages = recipe.stages().stages
    cls = stages[-1].penalty
    attention, reason = None, ""
    if cls is None or not issubclass(cls, Attention):
        reason = f"{recipe.method} has no attention"
    elif len(stages) > 1:
        name = stages[-1].name.upper() if stages[-1].name in METHODS else stages[-1].name
        reason = f"{name} looked at T of the hand-over, which the run does not keep"
    else:
        shapes = backbone.tap_shapes(recipe.image_size)
        attention = cls(shapes, **{name: recipe.to_dict()[name] for name in cls.options})
        attention.load_state_dict(_part(weights, ATTENTION))
        attention.requires_grad_(False).eval()
    return TrainedRun(run, backbone, target.eval(), classes, attention, reason)


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    if not found and prefix == TRAINED:
        raise RunError(f"weights.safetensors holds no tensor {prefix}…: it is no file of a finished run")
    return found
