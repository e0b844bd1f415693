"""Captum's attributions of S and T as plain arrays: one call each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spgca_lab._checks import quote
from spgca_lab.analysis.attribution.explain import (
    Attribution,
    check_images,
    explain_both,
    explain_one,
    known_layers,
)
from spgca_lab.analysis.attribution.maps import Arrays, AttributionError
from spgca_lab.backbones import Backbone
from spgca_lab.regularizers.ablate import suffix

__all__ = ["channel_ablation", "channel_maps", "grad_cam", "integrated_gradients", "occlusion"]

INPUT = "input"
MOST_STEPS = 10_000
AT_ONCE = 64


def grad_cam(
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None = None,
    labels: Any = None,
    *,
    layers: Sequence[str] | None = None,
    size: int | None = None,
    only_target: bool = False,
) -> Attribution:
    r"""Grad-CAM at the taps: which places of a feature map speak for an answer.

    $$\mathrm{ReLU}\Bigl(\sum_k \alpha_k FM_k\Bigr), \qquad \alpha_k = \tfrac{1}{hw} \sum_p
    \frac{\partial y}{\partial FM_{k,p}}$$

    Args:
        backbone: S, with taps and preprocessing.
        images: uint8 `[b, 3, s, s]`.
        target: T, explained as well.
        labels: outputs of T to explain, `[b]`; None takes its strongest. S always explains its strongest.
        layers: modules to look at; None takes the four taps.
        size: side of the arrays; None takes the picture's, 0 leaves each layer its own cells.
        only_target: leave S out, which takes half the time.

    Returns:
        `[b, size, size]` a layer, at least 0 (all 0 where nothing speaks for the answer), stretched cell by cell.

    Raises:
        AttributionError: for pictures or labels of the wrong shape, or a layer that does not exist.

    Source:
        Selvaraju et al. 2017; Captum's LayerGradCam.

    Example:
        >>> from spgca_lab.backbones import load_backbone
        >>> source = load_backbone("mini", weights="random")
        >>> found = grad_cam(source, torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
        >>> found.source["layer4.1.conv3"].shape
        (2, 64, 64)
    """
    import captum.attr

    def explain(model: nn.Module, x: Tensor, answers: Tensor) -> dict[str, Tensor]:
        found = {}
        for name in known_layers(model, layers or backbone.taps):
            cam = captum.attr.LayerGradCam(model, model.get_submodule(name))
            found[name] = cam.attribute(x, target=answers, relu_attributions=True)[:, 0]
        return found

    return explain_both("Grad-CAM", explain, backbone, images, target, labels, size, only_target)


def integrated_gradients(
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None = None,
    labels: Any = None,
    *,
    steps: int = 32,
    size: int | None = None,
    only_target: bool = False,
) -> Attribution:
    r"""Integrated Gradients: what each pixel adds to an answer on the way from a grey picture.

    $$(x_i - \bar x_i) \int_0^1 \frac{\partial y}{\partial x_i}\bigl(\bar x + t (x - \bar x)\bigr)\, dt$$

    $\bar x$ is 0 after preprocessing: the mean colour of the backbone's pretraining. Absolute values are added over
    the three colours.

    Args:
        backbone: S, with preprocessing.
        images: uint8 `[b, 3, s, s]`.
        target: T, explained as well.
        labels: outputs of T to explain, `[b]`; None takes its strongest. S always explains its strongest.
        steps: of the integral (Gauss–Legendre).
        size: side of the arrays; None takes the picture's. Where it divides the picture's, pixels are averaged.
        only_target: leave S out, which takes half the time.

    Returns:
        `{"input": [b, size, size]}`, at least 0.

    Raises:
        AttributionError: for pictures or labels of the wrong shape.

    Source:
        Sundararajan et al. 2017; Captum's IntegratedGradients.

    Example:
        >>> from spgca_lab.backbones import load_backbone
        >>> source = load_backbone("mini", weights="random")
        >>> images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
        >>> integrated_gradients(source, images, steps=4, size=16).source["input"].shape
        (1, 16, 16)
    """
    if not 1 <= steps <= MOST_STEPS:
        raise AttributionError(f"steps must be a whole number from 1 to {MOST_STEPS:,}, got {quote(steps)}")
    import captum.attr

    def explain(model: nn.Module, x: Tensor, answers: Tensor) -> dict[str, Tensor]:
        gradients = captum.attr.IntegratedGradients(model)
        found = gradients.attribute(
            x, target=answers, n_steps=steps, internal_batch_size=max(AT_ONCE, len(x))
        )
        return {INPUT: found.abs().sum(dim=1)}

    return explain_both("Integrated Gradients", explain, backbone, images, target, labels, size, only_target)


def occlusion(
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None = None,
    labels: Any = None,
    *,
    cells: int = 8,
    size: int | None = None,
) -> Attribution:
    """Occlusion: how much an answer's logit falls when a square of the picture is covered with the mean colour.

    Args:
        backbone: S, with preprocessing.
        images: uint8 `[b, 3, s, s]`.
        target: T, explained as well.
        labels: outputs of T to explain, `[b]`; None takes its strongest. S always explains its strongest.
        cells: squares a side, which tile the picture.
        size: side of the arrays; None takes the picture's.

    Returns:
        `{"input": [b, size, size]}`; a square that raises the logit when covered counts 0.

    Raises:
        AttributionError: for pictures or labels of the wrong shape, or more cells a side than pixels.

    Source:
        Zeiler and Fergus 2014; Captum's FeatureAblation with one feature a square.

    Example:
        >>> from spgca_lab.backbones import load_backbone
        >>> source = load_backbone("mini", weights="random")
        >>> images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
        >>> occlusion(source, images, cells=2).source["input"].shape
        (1, 64, 64)
    """
    import captum.attr

    check_images(images)
    side = images.shape[-1]
    if isinstance(cells, bool) or not isinstance(cells, int) or not 1 <= cells <= max(1, side):
        raise AttributionError(
            f"cells must be a whole number from 1 to the picture's {side} px, got {cells!r}"
        )
    place = torch.arange(side) * cells // max(1, side)
    squares = place[:, None] * cells + place[None, :]

    def explain(model: nn.Module, x: Tensor, answers: Tensor) -> dict[str, Tensor]:
        ablation = captum.attr.FeatureAblation(model)
        found = ablation.attribute(
            x,
            target=answers,
            feature_mask=squares[None, None].to(x.device),
            perturbations_per_eval=max(1, AT_ONCE // len(x)),
        )
        return {INPUT: found[:, 0].relu()}

    return explain_both("occlusion", explain, backbone, images, target, labels, size)


def channel_ablation(
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None = None,
    labels: Any = None,
    *,
    layers: Sequence[str] | None = None,
) -> Attribution:
    """Channel ablation: how much an answer's logit falls when one channel of a feature map is zeroed.

    Args:
        backbone: S, with taps and preprocessing.
        images: uint8 `[b, 3, s, s]`.
        target: T, explained as well.
        labels: outputs of T to explain, `[b]`; None takes its strongest. S always explains its strongest.
        layers: modules to look at; None takes the four taps.

    Returns:
        `[b, c]` a layer, in logits; below 0 where the answer is stronger without the channel.

    Raises:
        AttributionError: for pictures or labels of the wrong shape, or a layer that does not exist.

    Source:
        Zeiler and Fergus 2014, as Captum's LayerFeatureAblation has it with one feature a channel; what comes before
        the layer is computed once (`suffix`). DELTA's filter importance is the mean over a batch of the same, with
        the cross-entropy in place of the logit.

    Example:
        >>> from spgca_lab.backbones import load_backbone
        >>> source = load_backbone("mini", weights="random")
        >>> images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
        >>> channel_ablation(source, images, layers=["layer1.1.conv3"]).source["layer1.1.conv3"].shape
        (1, 64)
    """

    @torch.no_grad()
    def explain(model: nn.Module, x: Tensor, answers: Tensor) -> dict[str, Tensor]:
        found = {}
        b = len(answers)
        for name in known_layers(model, layers or backbone.taps):
            rest = suffix(model, name, x.detach())
            whole = rest(torch.arange(b, device=x.device)).gather(1, answers[:, None])[:, 0]
            pairs = torch.arange(b * rest.channels, device=x.device)
            silenced = [
                rest(pairs[rows] % b, pairs[rows] // b).gather(1, answers[pairs[rows] % b][:, None])[:, 0]
                for rows in torch.arange(len(pairs), device=x.device).split(AT_ONCE)
            ]
            found[name] = (whole - torch.cat(silenced).view(rest.channels, b)).T
        return found

    return explain_both("channel ablation", explain, backbone, images, target, labels, None)


def channel_maps(
    backbone: Backbone,
    images: Tensor,
    weights: Mapping[str, Any],
    target: nn.Module | None = None,
    labels: Any = None,
    *,
    size: int | None = None,
) -> Arrays:
    r"""Where the channels that an attention weighs do their work: weights of channels projected to positions.

    $$h_p = \sum_c a_c \left| FM_{c,p} \, \frac{\partial y}{\partial FM_{c,p}} \right|$$

    Equal weights give the layer's own evidence; what an attention adds is the difference to that.

    Args:
        backbone: S, with taps and preprocessing.
        images: uint8 `[b, 3, s, s]`.
        weights: `{tap: [b, c]}` of ACT or GCA.
        target: T, whose answer y is explained; None takes S.
        labels: outputs to explain, `[b]`; None takes the strongest.
        size: side of the arrays; None takes the picture's, 0 leaves each layer its own cells.

    Returns:
        `{tap: [b, size, size]}`, at least 0.

    Raises:
        AttributionError: for pictures, labels or weights of the wrong shape, or a layer that does not exist.

    Source:
        Captum's LayerGradientXActivation for the evidence of each channel and place.

    Example:
        >>> from spgca_lab.backbones import load_backbone
        >>> source = load_backbone("mini", weights="random")
        >>> images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
        >>> channel_maps(source, images, {"layer4.1.conv3": torch.full((1, 512), 1 / 512)})["layer4.1.conv3"].shape
        (1, 64, 64)
    """
    import captum.attr

    def explain(model: nn.Module, x: Tensor, answers: Tensor) -> dict[str, Tensor]:
        found = {}
        for name in known_layers(model, list(weights)):
            layer = captum.attr.LayerGradientXActivation(model, model.get_submodule(name))
            evidence = layer.attribute(x, target=answers).abs()
            a = torch.as_tensor(weights[name]).to(evidence)
            if a.shape != evidence.shape[:2]:
                raise AttributionError(
                    f"weights at {name!r} must be [b, c] = {list(evidence.shape[:2])}, got {list(a.shape)}"
                )
            found[name] = (a[..., None, None] * evidence).sum(dim=1)
        return found

    model = backbone.model if target is None else target
    return explain_one(explain, backbone, images, model, labels, size)[0]
