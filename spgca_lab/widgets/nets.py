"""Trained networks out of run folders, forward passes of one picture, and Grad-CAM."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

from spgca_lab.attention import Attention
from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.features import FeatureTaps
from spgca_lab.plots.style import method_label
from spgca_lab.runs import Run, RunError

__all__ = ["TrainedRun", "answer", "grad_cam", "load_run", "one_thread", "stage_module", "tapped"]

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
        reason = f"{method_label(stages[-1].name)} looked at T of the hand-over, which the run does not keep"
    else:
        shapes = backbone.tap_shapes(recipe.image_size)
        attention = cls(shapes, **{name: recipe.to_dict()[name] for name in cls.options})
        attention.load_state_dict(_part(weights, ATTENTION))
        attention.requires_grad_(False).eval()
    return TrainedRun(run, backbone, target.eval(), classes, attention, reason)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: for one picture several gain little, and wait long where another process trains.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tapped(backbone: Backbone, model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the four maps of a forward pass in eval mode, without gradient.

    Args:
        backbone: for taps and preprocessing.
        model: S or T.
        images: uint8 `[b, 3, s, s]`.

    Returns:
        `[b, classes]` and `{tap: [b, c, h, w]}`.

    Example:
        >>> source = load_backbone("mini", weights="random")
        >>> logits, maps = tapped(source, source.model, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
        >>> list(maps) == list(source.taps)
        True
    """
    with one_thread(), torch.no_grad(), FeatureTaps(model, backbone.taps, training=False) as taps:
        logits = model(backbone.preprocess(images))
        return logits, taps.maps


def answer(logits: Tensor, classes: Sequence[str]) -> str:
    """The strongest output in words, with its probability.

    Args:
        logits: `[classes]`.
        classes: their names.

    Example:
        >>> answer(torch.tensor([0.0, 9.0]), ["cat", "dog"])
        'dog (100 %)'
    """
    chances = logits.softmax(dim=0)
    best = int(chances.argmax())
    return f"{classes[best]} ({100 * float(chances[best]):.0f} %)"


def stage_module(model: nn.Module, tap: str) -> nn.Module:
    """The stage that a tap lies in (`layer4` for `layer4.1.conv3`); the tap itself where it has none."""
    parts = tap.split(".")
    return model.get_submodule(parts[0] if len(parts) < 3 else ".".join(parts[:-2]))


def grad_cam(
    backbone: Backbone, model: nn.Module, image: Tensor, label: int | None = None
) -> tuple[np.ndarray, int]:
    """Grad-CAM of the last stage: where the evidence for a class comes from.

    Args:
        backbone: for taps and preprocessing.
        model: S or T.
        image: uint8 `[3, s, s]`.
        label: which output to explain; None takes the strongest.

    Returns:
        the map `[rows, columns]`, at least 0 (all 0 where nothing speaks for the class), and the output
        explained.

    Source:
        Selvaraju et al. 2017; Captum's LayerGradCam.

    Example:
        >>> source = load_backbone("mini", weights="random")
        >>> cam, label = grad_cam(source, source.model, torch.zeros(3, 64, 64, dtype=torch.uint8), label=1)
        >>> cam.shape, label
        ((4, 4), 1)
    """
    training = model.training
    model.eval()
    try:
        with one_thread():
            x = backbone.preprocess(image[None]).requires_grad_(True)
            if label is None:
                with torch.no_grad():
                    label = int(model(x).argmax())
            layer = stage_module(model, backbone.taps[-1])
            attributions = captum.attr.LayerGradCam(model, layer).attribute(
                x, target=label, relu_attributions=True
            )
    finally:
        model.train(training)
    return attributions[0, 0].detach().double().numpy(), label


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    if not found and prefix == TRAINED:
        raise RunError(f"weights.safetensors holds no tensor {prefix}…: it is no file of a finished run")
    return found
