"""What speaks for a network's answer: Captum's attributions of S and T as plain arrays, beside attention."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.suffix import suffix

__all__ = [
    "Attribution",
    "AttributionError",
    "attention_maps",
    "channel_ablation",
    "channel_maps",
    "grad_cam",
    "integrated_gradients",
    "occlusion",
    "rank_agreement",
    "stretch",
]

INPUT = "input"
AT_ONCE = 64

Arrays = dict[str, np.ndarray]


class AttributionError(ValueError):
    """Pictures, labels or arrays that cannot be explained or compared."""


@dataclass(frozen=True)
class Attribution:
    """What an attribution method found, for S and, where it was given, T.

    Args:
        method: its name.
        source: by layer, for S's own strongest answer: `[b, size, size]`, or `[b, c]` of channels. Attributions of
            the picture itself stand under `"input"`.
        target: likewise for T; empty where there is none.
        labels_s: the outputs of S that are explained, `[b]`.
        labels_t: those of T.
    """

    method: str
    source: Arrays
    target: Arrays = field(default_factory=dict)
    labels_s: tuple[int, ...] = ()
    labels_t: tuple[int, ...] = ()

    @property
    def difference(self) -> Arrays:
        """Where T's evidence lies and S's does not (above 0), and the other way round.

        Each picture's array is first divided by the sum of its absolute values: logits of two heads have no common
        unit.

        Raises:
            AttributionError: when there is no T.
        """
        if not self.target or not self.source:
            missing = "source" if self.target else "target"
            raise AttributionError(f"{self.method}: there is no {missing} to compare with")
        return {layer: _shares(found) - _shares(self.source[layer]) for layer, found in self.target.items()}


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
        for name in _known(model, layers or backbone.taps):
            cam = captum.attr.LayerGradCam(model, model.get_submodule(name))
            found[name] = cam.attribute(x, target=answers, relu_attributions=True)[:, 0]
        return found

    return _both("Grad-CAM", explain, backbone, images, target, labels, size, only_target)


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
    import captum.attr

    def explain(model: nn.Module, x: Tensor, answers: Tensor) -> dict[str, Tensor]:
        gradients = captum.attr.IntegratedGradients(model)
        found = gradients.attribute(
            x, target=answers, n_steps=steps, internal_batch_size=max(AT_ONCE, len(x))
        )
        return {INPUT: found.abs().sum(dim=1)}

    return _both("Integrated Gradients", explain, backbone, images, target, labels, size, only_target)


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

    side = images.shape[-1] if images.ndim == 4 else 0
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

    return _both("occlusion", explain, backbone, images, target, labels, size)


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
        for name in _known(model, layers or backbone.taps):
            rest = suffix(model, name, x.detach())
            whole = rest(torch.arange(b, device=x.device)).gather(1, answers[:, None])[:, 0]
            pairs = torch.arange(b * rest.channels, device=x.device)
            silenced = [
                rest(pairs[rows] % b, pairs[rows] // b).gather(1, answers[pairs[rows] % b][:, None])[:, 0]
                for rows in torch.arange(len(pairs), device=x.device).split(AT_ONCE)
            ]
            found[name] = (whole - torch.cat(silenced).view(rest.channels, b)).T
        return found

    return _both("channel ablation", explain, backbone, images, target, labels, None)


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
        for name in _known(model, list(weights)):
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
    return _explained(explain, backbone, images, model, labels, size)[0]


def attention_maps(
    weights: Mapping[str, Any], shapes: Mapping[str, tuple[int, int, int]], size: int
) -> Arrays:
    """Spatial attention as pictures of one size, beside which attributions can be laid.

    Args:
        weights: `{tap: [b, h·w]}` of AST or SPA.
        shapes: `{tap: (c, h, w)}`, from `Backbone.tap_shapes`.
        size: side of the arrays.

    Returns:
        `{tap: [b, size, size]}`; each cell of the map becomes a square of equal values.

    Raises:
        AttributionError: when the weights do not fit the shapes.

    Example:
        >>> attention_maps({"a": np.full((1, 4), 0.25)}, {"a": (8, 2, 2)}, size=6)["a"].shape
        (1, 6, 6)
    """
    maps = {}
    for tap, w in weights.items():
        array = _array(w)
        _, height, width = shapes.get(tap, (0, 0, 0))
        if array.ndim != 2 or array.shape[1] != height * width:
            raise AttributionError(
                f"weights at {tap!r} must be [b, {height}·{width}], got {list(array.shape)}"
            )
        maps[tap] = stretch(array.reshape(-1, height, width), size)
    return maps


def stretch(maps: Any, size: int) -> np.ndarray:
    """Maps at another size: cells become squares when it is larger, and are averaged when it divides theirs.

    Args:
        maps: `[b, h, w]`.
        size: side of the result.

    Raises:
        AttributionError: for another shape, or a size that is neither.

    Example:
        >>> stretch(np.array([[[1.0, 3.0], [5.0, 7.0]]]), 1).tolist()
        [[[4.0]]]
    """
    array = _array(maps)
    if array.ndim != 3 or isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise AttributionError(
            f"needs maps [b, h, w] and a size of at least 1, got {list(array.shape)}, {size!r}"
        )
    _, height, width = array.shape
    if size < max(height, width):
        if height % size or width % size:
            raise AttributionError(f"size {size} is neither above {height}×{width} nor a divisor of both")
        return array.reshape(len(array), size, height // size, size, width // size).mean(axis=(2, 4))
    rows, columns = (np.arange(size) * n // size for n in (height, width))
    return array[:, rows][:, :, columns]


def rank_agreement(attention: Any, attribution: Any) -> np.ndarray:
    r"""Spearman's rank correlation of two arrays, picture by picture: do they agree on what is more and what is less?

    Maps of two sizes are compared on the coarser grid, the finer one averaged over its cells.

    Args:
        attention: `[b, h, w]`, or `[b, c]` of channels.
        attribution: likewise, of a size that is a multiple of the other or a divisor.

    Returns:
        `[b]`, from −1 to 1; NaN where either is constant.

    Raises:
        AttributionError: when the shapes cannot be compared.

    Example:
        >>> rank_agreement([[1.0, 2.0, 3.0]], [[10.0, 30.0, 20.0]]).round(2).tolist()
        [0.5]
    """
    from scipy.stats import rankdata

    one, other = _array(attention).astype(float), _array(attribution).astype(float)
    if one.ndim != other.ndim or one.ndim not in (2, 3) or len(one) != len(other):
        raise AttributionError(
            f"needs two arrays [b, h, w] or two [b, c], got {list(one.shape)} and {list(other.shape)}"
        )
    if one.ndim == 3:
        side = min(one.shape[1], other.shape[1])
        one, other = stretch(one, side), stretch(other, side)
    elif one.shape != other.shape:
        raise AttributionError(f"needs as many channels, got {one.shape[1]} and {other.shape[1]}")
    ranks = [rankdata(a.reshape(len(a), -1), axis=1) for a in (one, other)]
    centred = [r - r.mean(axis=1, keepdims=True) for r in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    # The sum of squared ranks of a constant row is 0 exactly: all its ranks are equal.
    with np.errstate(invalid="ignore"):
        return (centred[0] * centred[1]).sum(axis=1) / scale


def _both(
    method: str,
    explain: Any,
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None,
    labels: Any,
    size: int | None,
    only_target: bool = False,
) -> Attribution:
    if target is None and only_target:
        raise AttributionError("only_target=True leaves nothing to explain: give target=")
    source, labels_s = (
        ({}, ()) if only_target else _explained(explain, backbone, images, backbone.model, None, size)
    )
    if target is None:
        if labels is not None:
            raise AttributionError(
                f"labels={labels!r} are outputs of T; give target=, S explains its strongest"
            )
        return Attribution(method, source, labels_s=labels_s)
    found, labels_t = _explained(explain, backbone, images, target, labels, size)
    return Attribution(method, source, found, labels_s, labels_t)


def _explained(
    explain: Any, backbone: Backbone, images: Tensor, model: nn.Module, labels: Any, size: int | None
) -> tuple[Arrays, tuple[int, ...]]:
    """What `explain` finds for one model, as arrays of one size, and the outputs it was asked about."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise AttributionError(
            f"images must be uint8 [b, 3, s, s] with b ≥ 1, got {images.dtype} {list(images.shape)}"
        )
    device = next(model.parameters()).device
    with _evaluating(model), torch.enable_grad():
        x = backbone.preprocess(images.to(device)).requires_grad_(True)
        with torch.no_grad():
            logits = model(x)
        answers = logits.argmax(dim=1) if labels is None else _labels(labels, logits)
        found = {name: a.detach().double().cpu().numpy() for name, a in explain(model, x, answers).items()}
    side = int(images.shape[-1]) if size is None else size
    arrays = {name: stretch(a, side) if a.ndim == 3 and size != 0 else a for name, a in found.items()}
    return arrays, tuple(answers.tolist())


def _labels(labels: Any, logits: Tensor) -> Tensor:
    wanted = torch.as_tensor(labels, device=logits.device)
    whole = not wanted.is_floating_point() and not wanted.is_complex() and wanted.dtype != torch.bool
    fits = whole and wanted.shape == logits.shape[:1]
    if not fits or not bool(((wanted >= 0) & (wanted < logits.shape[1])).all()):
        raise AttributionError(
            f"labels must be {len(logits)} outputs from 0 to {logits.shape[1] - 1}, got {labels!r}"
        )
    return wanted.long()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, with every module's own flag restored afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _known(model: nn.Module, layers: Sequence[str]) -> Sequence[str]:
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules or name == ""]
    if unknown:
        raise AttributionError(f"{type(model).__name__} has no module {', '.join(map(repr, unknown))}")
    return layers


def _shares(found: np.ndarray) -> np.ndarray:
    total = np.abs(found).reshape(len(found), -1).sum(axis=1)
    return found / np.where(total > 0, total, 1).reshape(-1, *(1 for _ in found.shape[1:]))


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
