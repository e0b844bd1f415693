"""Trained networks of finished runs."""

from dataclasses import dataclass

from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.regularizers.attention import Attention
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.runs.inputs import describe, is_object, load_source
from spgca_lab.runs.store import Run, RunError

TRAINED, ATTENTION = "target.", "penalty."


@dataclass(frozen=True)
class TrainedRun:
    """The networks of a finished run.

    `backbone` is S at the start, `target` T at the end, in eval mode, and `classes` are the names of T's outputs.
    `attention` is that of the last stage, or None where it cannot be applied to new images, for a `reason`.
    """

    run: Run
    backbone: Backbone
    target: nn.Module
    classes: list[str]
    attention: Attention | None
    reason: str = ""


def load_run(run: Run, backbone: Backbone | None = None) -> TrainedRun:
    """Rebuild the networks of a run from its `weights.safetensors`.

    A stage trains its attention on its own source. The source of a second stage is T at the hand-over, which a run
    does not save, so the attention of a run of two stages is shown from its snapshots only.

    Args:
        run: a finished run.
        backbone: its source model, where that was given as an object; None loads it by name.

    Raises:
        RunError: when it has not finished, ships without its weights, or was trained on another backbone.
        RecipeError: when `backbone` is missing.

    Example:
        >>> from spgca_lab import RunStore, data_dir
        >>> loaded = load_run(RunStore(data_dir() / "runs").find(method="spgca", alpha=3.0, r=4)[0])
        >>> loaded.backbone.name, len(loaded.classes)
        ('mini', 48)
    """
    recipe, weights = run.recipe, run.weights()
    if backbone is not None and is_object(recipe):
        given = describe(recipe, backbone).backbone_code
        if given != recipe.backbone_code:
            raise RunError(
                f"{str(run.path)!r} was trained on another backbone {recipe.backbone!r} than the one given (digest "
                f"{recipe.backbone_code}, now {given}): give the same one"
            )
    backbone = load_source(recipe, backbone)
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
        reason = f"{name} was trained on T at the hand-over, which the run does not save"
    else:
        shapes = backbone.tap_shapes(recipe.image_size)
        attention = cls(shapes, **{name: recipe.to_dict()[name] for name in cls.options})
        attention.load_state_dict(_part(weights, ATTENTION))
        attention.requires_grad_(False).eval()
    return TrainedRun(run, backbone, target.eval(), classes, attention, reason)


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    if not found and prefix == TRAINED:
        raise RunError(f"weights.safetensors has no tensor {prefix}…: it is not the file of a finished run")
    return found
