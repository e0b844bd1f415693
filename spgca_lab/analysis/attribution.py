"""Attributions of S and T by Captum, as arrays that can be compared with attention weights."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spgca_lab._checks import Array, quote
from spgca_lab.analysis.gradients import restored
from spgca_lab.analysis.scores import as_array, cells_of_pixels
from spgca_lab.backbones import Backbone
from spgca_lab.backbones.tap import tapped_map
from spgca_lab.data.augment import LARGEST
from spgca_lab.regularizers.ablate import suffix

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

Arrays = dict[str, np.ndarray]
Explain = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]

MOST_STEPS = 10_000
AT_ONCE = 64  # forward passes in one batch


class AttributionError(ValueError):
    """Images, labels or arrays that cannot be explained or compared."""


@dataclass(frozen=True)
class Attribution:
    """The result of an attribution method for S and, where it was given, for T.

    `source` and `target` are `{layer: [b, size, size]}`, or `[b, c]` for channels; `"input"` is the image. `labels_s`
    and `labels_t` are the explained outputs, `[b]`.
    """

    method: str
    source: Arrays
    target: Arrays = field(default_factory=dict)
    labels_s: tuple[int, ...] = ()
    labels_t: tuple[int, ...] = ()

    @property
    def difference(self) -> Arrays:
        """T's evidence minus S's, each over its sum of absolute values: logits of two heads have no common unit."""
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
    r"""Compute Grad-CAM at the taps: the positions of a feature map that raise an output.

    $$\mathrm{ReLU}\Bigl(\sum_k \alpha_k FM_k\Bigr), \qquad \alpha_k = \tfrac{1}{hw} \sum_p
    \frac{\partial y}{\partial FM_{k,p}}$$

    Args:
        backbone: S, whose strongest output is explained.
        images: uint8 `[b, 3, s, s]`.
        target: T, explained as well.
        labels: outputs of T to explain, `[b]`; None takes T's strongest.
        layers: modules to explain; None takes the taps, with their `to_map`.
        size: side of the arrays; None takes the images', 0 keeps each layer's own cells.
        only_target: leave out S, which halves the time.

    Returns:
        `[b, size, size]` for each layer, at least 0 (all 0 where nothing raises the output); cells become squares.

    Source:
        Selvaraju et al. 2017, as Captum's LayerGradCam, but at the map that a `Tap` makes of its module's output.

    Example:
        >>> from spgca_lab.backbones import load_backbone
        >>> source = load_backbone("mini", weights="random")
        >>> found = grad_cam(source, torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
        >>> found.source["layer4.1.conv3"].shape
        (2, 64, 64)
    """

    def explain(model: nn.Module, x: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        found = _maps_and_gradients(backbone, model, layers or backbone.taps, x, outputs)
        return {name: (g.mean(dim=(2, 3), keepdim=True) * fm).sum(dim=1).relu() for name, fm, g in found}

    return _explain_both("Grad-CAM", explain, backbone, images, target, labels, size, only_target)


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
    r"""Compute Integrated Gradients: what each pixel adds to an output on the way from a grey image.

    $$(x_i - \bar x_i) \int_0^1 \frac{\partial y}{\partial x_i}\bigl(\bar x + t (x - \bar x)\bigr)\, dt$$

    $\bar x$ is 0 after preprocessing: the mean colour of the backbone's pretraining. Absolute values are added over
    the three colours. The integral has `steps` points (Gauss–Legendre); the other arguments are those of `grad_cam`.

    Returns:
        `{"input": [b, size, size]}`, at least 0; pixels are averaged where `size` divides the images' side.

    Source:
        Sundararajan et al. 2017; Captum's IntegratedGradients.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise AttributionError(f"steps must be a whole number from 1 to {MOST_STEPS:,}, got {quote(steps)}")
    import captum.attr

    def explain(model: nn.Module, x: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        found = captum.attr.IntegratedGradients(model).attribute(
            x, target=outputs, n_steps=steps, internal_batch_size=max(AT_ONCE, len(x))
        )
        return {"input": found.abs().sum(dim=1)}

    return _explain_both("Integrated Gradients", explain, backbone, images, target, labels, size, only_target)


def occlusion(
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None = None,
    labels: Any = None,
    *,
    cells: int = 8,
    size: int | None = None,
) -> Attribution:
    """Compute occlusion: by how much an output's logit falls when a square is covered with the mean colour.

    `cells` squares per side tile the image; the other arguments are those of `grad_cam`.

    Returns:
        `{"input": [b, size, size]}`; a square that raises the logit when covered counts 0.

    Source:
        Zeiler and Fergus 2014; Captum's FeatureAblation with one feature per square.
    """
    import captum.attr

    def explain(model: nn.Module, x: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        side = x.shape[-1]
        if isinstance(cells, bool) or not isinstance(cells, int) or not 1 <= cells <= side:
            raise AttributionError(
                f"cells must be a whole number from 1 to the images' {side} px, got {cells!r}"
            )
        place = torch.from_numpy(cells_of_pixels(cells, side)).to(x.device)
        squares = place[:, None] * cells + place[None, :]
        at_once = max(1, AT_ONCE // len(x))
        found = captum.attr.FeatureAblation(model).attribute(
            x, target=outputs, feature_mask=squares[None, None], perturbations_per_eval=at_once
        )
        return {"input": found[:, 0].relu()}

    return _explain_both("occlusion", explain, backbone, images, target, labels, size)


def channel_ablation(
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None = None,
    labels: Any = None,
    *,
    layers: Sequence[str] | None = None,
) -> Attribution:
    """Compute channel ablation: by how much an output's logit falls when one channel of a map is zeroed.

    The arguments are those of `grad_cam`.

    Returns:
        `[b, c]` for each layer, in logits; below 0 where the logit is higher without the channel.

    Source:
        Zeiler and Fergus 2014, as Captum's LayerFeatureAblation with one feature per channel, but layers before the
        map run once (`suffix`). DELTA's filter importance is the mean of the same over a batch, with the
        cross-entropy in place of the logit.
    """

    @torch.no_grad()
    def explain(model: nn.Module, x: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        found = {}
        b = len(outputs)
        for name, _ in _modules(backbone, model, layers or backbone.taps):
            rest = suffix(model, name, x.detach())
            whole = rest(torch.arange(b, device=x.device)).gather(1, outputs[:, None])[:, 0]
            pairs = torch.arange(b * rest.channels, device=x.device)
            silenced = [
                rest(pairs[rows] % b, pairs[rows] // b).gather(1, outputs[pairs[rows] % b][:, None])[:, 0]
                for rows in torch.arange(len(pairs), device=x.device).split(AT_ONCE)
            ]
            found[str(name)] = (whole - torch.cat(silenced).view(rest.channels, b)).T
        return found

    return _explain_both("channel ablation", explain, backbone, images, target, labels, None)


def channel_maps(
    backbone: Backbone,
    images: Tensor,
    weights: Mapping[str, Any],
    target: nn.Module | None = None,
    labels: Any = None,
    *,
    size: int | None = None,
) -> Arrays:
    r"""Project channel weights to positions: where the channels that an attention weights contribute to an output.

    $$h_p = \sum_c a_c \left| FM_{c,p} \, \frac{\partial y}{\partial FM_{c,p}} \right|$$

    Uniform weights give the layer's own evidence. `weights` are `{tap: [b, c]}` of ACT or GCA, and y is an output of
    T, or of S without `target`. The other arguments are those of `grad_cam`.

    Returns:
        `{tap: [b, size, size]}`, at least 0.
    """

    def explain(model: nn.Module, x: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, fm, gradient in _maps_and_gradients(backbone, model, weights, x, outputs):
            evidence = (fm * gradient).abs()
            a = torch.as_tensor(weights[name]).to(evidence)
            if a.shape != evidence.shape[:2]:
                raise AttributionError(
                    f"weights at {name!r} must be [b, c] = {list(evidence.shape[:2])}, got {list(a.shape)}"
                )
            found[name] = (a[..., None, None] * evidence).sum(dim=1)
        return found

    model = backbone.model if target is None else target
    return _explain_one(explain, backbone, images, model, labels, size)[0]


def attention_maps(
    weights: Mapping[str, Any], shapes: Mapping[str, tuple[int, int, int]], size: int
) -> Arrays:
    """Turn spatial attention into maps of one size, to compare with attributions.

    Args:
        weights: `{tap: [b, h·w]}` of AST or SPA.
        shapes: from `Backbone.tap_shapes`.
        size: side of the maps, `{tap: [b, size, size]}`; each cell becomes a square.
    """
    maps = {}
    for tap, w in weights.items():
        array = as_array(w)
        if tap not in shapes:
            raise AttributionError(f"there is no shape of {tap!r}, got those of {quote(list(shapes))}")
        _, height, width = shapes[tap]
        if array.ndim != 2 or array.shape[1] != height * width:
            raise AttributionError(
                f"weights at {tap!r} must be [b, {height}·{width}], got {list(array.shape)}"
            )
        maps[tap] = stretch(array.reshape(-1, height, width), size)
    return maps


def stretch(maps: Array, size: int) -> np.ndarray:
    """Resize maps `[b, h, w]`: cells become squares in a larger size, or are averaged in one that divides theirs."""
    array = as_array(maps)
    if array.ndim != 3 or not 1 <= size <= LARGEST:
        raise AttributionError(
            f"needs maps [b, h, w] and a size from 1 to {LARGEST:,}, got {list(array.shape)}, {quote(size)}"
        )
    _, height, width = array.shape
    if size < max(height, width):
        if height % size or width % size:
            raise AttributionError(f"size {size} is neither above {height}×{width} nor a divisor of both")
        return array.reshape(len(array), size, height // size, size, width // size).mean(axis=(2, 4))
    return array[:, cells_of_pixels(height, size)][:, :, cells_of_pixels(width, size)]


def rank_agreement(attention: Array, attribution: Array) -> np.ndarray:
    r"""Compute Spearman's rank correlation of two arrays, image by image.

    Maps of two sizes are compared on the coarser grid, with the finer one averaged over its cells.

    Args:
        attention: `[b, h, w]`, or `[b, c]` for channels.
        attribution: likewise, of a size that is a multiple or a divisor of the other.

    Returns:
        `[b]`, from −1 to 1; NaN where either is constant.
    """
    from scipy.stats import ConstantInputWarning, spearmanr

    one, other = as_array(attention).astype(float), as_array(attribution).astype(float)
    if one.ndim != other.ndim or one.ndim not in (2, 3) or len(one) != len(other):
        raise AttributionError(
            f"needs two arrays [b, h, w] or two [b, c], got {list(one.shape)} and {list(other.shape)}"
        )
    if one.ndim == 3:
        side = min(one.shape[1], other.shape[1])
        one, other = stretch(one, side), stretch(other, side)
    elif one.shape != other.shape:
        raise AttributionError(f"needs as many channels, got {one.shape[1]} and {other.shape[1]}")
    with warnings.catch_warnings(action="ignore", category=ConstantInputWarning):
        return np.array([spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)])


def _explain_both(
    method: str,
    explain: Explain,
    backbone: Backbone,
    images: Tensor,
    target: nn.Module | None,
    labels: Any,
    size: int | None,
    only_target: bool = False,
) -> Attribution:
    if target is None and only_target:
        raise AttributionError("only_target=True leaves nothing to explain: give target=")
    if target is None and labels is not None:
        raise AttributionError(f"labels={labels!r} are outputs of T; give target=, S explains its strongest")
    of_s = ({}, ()) if only_target else _explain_one(explain, backbone, images, backbone.model, None, size)
    of_t = ({}, ()) if target is None else _explain_one(explain, backbone, images, target, labels, size)
    return Attribution(method, of_s[0], of_t[0], of_s[1], of_t[1])


def _explain_one(
    explain: Explain, backbone: Backbone, images: Tensor, model: nn.Module, labels: Any, size: int | None
) -> tuple[Arrays, tuple[int, ...]]:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise AttributionError(
            f"images must be uint8 [b, 3, s, s] with b ≥ 1, got {images.dtype} {list(images.shape)}"
        )
    if size is not None and not 0 <= size <= LARGEST:
        raise AttributionError(f"size must be from 0 to {LARGEST:,} px, got {quote(size)}")
    device = next(model.parameters()).device
    with restored(model), torch.enable_grad():
        model.eval()
        x = backbone.preprocess(images.to(device)).requires_grad_(True)
        with torch.no_grad():
            logits = model(x)
        outputs = logits.argmax(dim=1) if labels is None else _labels(labels, logits)
        found = {name: a.detach().double().cpu().numpy() for name, a in explain(model, x, outputs).items()}
    side = int(images.shape[-1]) if size is None else size
    arrays = {name: stretch(a, side) if a.ndim == 3 and size != 0 else a for name, a in found.items()}
    return arrays, tuple(outputs.tolist())


def _modules(backbone: Backbone, model: nn.Module, layers: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield layers, as `Tap`s where they are tapped, with their modules."""
    modules, taps = dict(model.named_modules()), dict(zip(backbone.taps, backbone.taps, strict=True))
    unknown = [name for name in layers if name not in modules or name == ""]
    if unknown:
        raise AttributionError(f"{type(model).__name__} has no module {', '.join(map(repr, unknown))}")
    return ((taps.get(name, name), modules[name]) for name in layers)


def _maps_and_gradients(
    backbone: Backbone, model: nn.Module, layers: Iterable[str], x: Tensor, outputs: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each layer's map and the gradient of the outputs at it, both `[b, c, h, w]`."""
    from captum.attr import LayerActivation, LayerGradientXActivation

    for tap, layer in _modules(backbone, model, layers):
        gradient = LayerGradientXActivation(model, layer, multiply_by_inputs=False)
        found = LayerActivation(model, layer).attribute(x), gradient.attribute(x, target=outputs)
        # A function that selects and reorders elements, as tokens_to_map does, maps gradients like values.
        fm, g = (tapped_map(tap, value) for value in found)
        if fm.ndim != 4:
            raise AttributionError(f"{str(tap)!r} gives {list(fm.shape)} and no map [b, c, h, w]")
        yield str(tap), fm, g


def _labels(labels: Any, logits: Tensor) -> Tensor:
    count, classes = logits.shape
    wanted = as_array(labels)
    if wanted.shape != (count,) or wanted.dtype.kind not in "iu" or not np.isin(wanted, range(classes)).all():
        raise AttributionError(f"labels must be {count} outputs from 0 to {classes - 1}, got {quote(labels)}")
    return torch.from_numpy(wanted).long().to(logits.device)


def _shares(found: np.ndarray) -> np.ndarray:
    total = np.abs(found).reshape(len(found), -1).sum(axis=1)
    return found / np.where(total > 0, total, 1).reshape(-1, *(1 for _ in found.shape[1:]))
