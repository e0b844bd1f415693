"""Forward passes of one picture, and their Grad-CAM."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from spgca_lab.analysis.attribution import grad_cam
from spgca_lab.backbones import Backbone
from spgca_lab.regularizers.taps import FeatureTaps

__all__ = ["answer", "cam_and_answer", "one_thread", "stage_name", "tapped"]


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
        >>> from spgca_lab.backbones import load_backbone
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


def stage_name(tap: str) -> str:
    """The stage that a tap lies in; the tap itself where it has none.

    Example:
        >>> stage_name("layer4.1.conv3"), stage_name("features")
        ('layer4', 'features')
    """
    parts = tap.split(".")
    return parts[0] if len(parts) < 3 else ".".join(parts[:-2])


def cam_and_answer(backbone: Backbone, model: nn.Module, image: Tensor) -> tuple[np.ndarray, int]:
    """Grad-CAM of the last stage for the strongest output: where the evidence for the answer comes from.

    Args:
        backbone: for taps and preprocessing.
        model: S or T.
        image: uint8 `[3, s, s]`.

    Returns:
        the map `[rows, columns]`, at least 0 (all 0 where nothing speaks for the answer), and the output explained.

    Example:
        >>> from spgca_lab.backbones import load_backbone
        >>> source = load_backbone("mini", weights="random")
        >>> cam, label = cam_and_answer(source, source.model, torch.zeros(3, 64, 64, dtype=torch.uint8))
        >>> cam.shape
        (4, 4)
    """
    layer = stage_name(backbone.taps[-1])
    with one_thread():
        found = grad_cam(replace(backbone, model=model), image[None], layers=[layer], size=0)
    return found.source[layer][0], found.labels_s[0]
