r"""The penalties as pure functions of maps, weights and parameters: Eq. 3, 5, 8, 10 and the baselines.

Softmax weights sum to one, so as printed the equations shrink with the map: a uniform AST weight scales layer 1 of a
ResNet at 224 px by 1/3136². Each attention penalty therefore takes `scale`:

- `"literal"`: the equation as printed.
- `"afa"`: weights times their number (HW, C, ΣC), inside the norm where the paper has them inside. The AFA release
  does this; with uniform weights it is the plain feature penalty.
- `"relative"`: weights of mean one, the mean over elements in place of the sum, each layer divided by the variance of
  the source's map. Dimensionless, so one α serves any backbone.

Maps are `{tap: [b, c, h, w]}`, of the same shapes for S and T. Each penalty is a scalar, the mean over the batch,
summed in float32 or float64. No gradient reaches the source's maps. Each raises `PenaltyError` with the tap and the
shapes that do not fit, or with an unknown scale.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spgca_lab._checks import quote

Maps = Mapping[str, Tensor]
SCALES = ("literal", "afa", "relative")
LARGEST_TEMPERATURE = 1e6


class PenaltyError(ValueError):
    """Maps, weights or a scale that a penalty cannot use."""


def to_float32(x: Tensor) -> Tensor:
    """Convert to float32; float64 stays float64.

    A sum of 256 × 3,136 squares overflows float16 and loses digits in bfloat16.
    """
    return x if x.dtype == torch.float64 else x.float()


def squared_distances(map_s: Tensor, map_t: Tensor, over: Literal["channels", "positions"]) -> Tensor:
    r"""Sum squared differences of two maps over channels or over positions.

    $$D_p = \sum_c (FM_{S,cp} - FM_{T,cp})^2, \qquad D_c = \sum_p (FM_{S,cp} - FM_{T,cp})^2$$

    Attention weights are constant along the axis of the sum, so a penalty weights these sums, not the maps.

    Args:
        map_s: FM_S, `[b, c, h, w]`; no gradient reaches it.
        map_t: FM_T, of the same shape.
        over: `"channels"` for a result `[b, h·w]`, `"positions"` for `[b, c]`.

    Source:
        the norms of Eq. 3, 5, 8 and 10 of the paper.

    Example:
        >>> s, t = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
        >>> squared_distances(s, t, "channels"), squared_distances(s, t, "positions")
        (tensor([[2., 2., 2., 2.]]), tensor([[4., 4.]]))
    """
    difference = to_float32(map_s.detach()) - to_float32(map_t)
    return difference.square().sum(dim=1 if over == "channels" else (2, 3)).flatten(1)


def spatial(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str = "relative") -> Tensor:
    r"""Penalise weighted differences with one weight per position: Eq. 3 (AST) and Eq. 8 (SPA).

    $$L = \sum_i \tfrac12 \lVert A^i \cdot (FM_S^i - FM_T^i) \rVert_F^2 \qquad (3), (8)$$

    Quadratic in the weights: for fixed maps its optimum is soft, weights ∝ 1 / squared difference.

    Args:
        maps_s: maps of S.
        maps_t: maps of T.
        weights: `{tap: [b, h·w]}`, broadcast over channels.
        scale: `"literal"`, `"afa"` (weights × HW inside the norm) or `"relative"`.

    Source:
        Eq. 3 and 8 of the paper; the factor HW from the AFA release.

    Example:
        >>> s, t = {"a": torch.zeros(1, 2, 2, 2)}, {"a": torch.ones(1, 2, 2, 2)}
        >>> spatial(s, t, {"a": torch.full((1, 4), 0.25)}, scale="afa").item()   # ½ · 8 elements
        4.0
    """
    _check(maps_s, maps_t, weights, scale, "spatial")
    total = _zero(maps_t)
    for tap, s in maps_s.items():
        _, c, h, w = s.shape
        a = to_float32(weights[tap]) * (1 if scale == "literal" else h * w)
        terms = a.square() * squared_distances(s, maps_t[tap], "channels")
        total = total + _layer(terms, s, scale, summed=c)
    return total


def channel(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str = "relative") -> Tensor:
    r"""Penalise weighted differences with one weight per channel, layer by layer: Eq. 5 (ACT).

    $$L = \sum_i \tfrac12 A^i \cdot \lVert FM_S^i - FM_T^i \rVert_F^2 \qquad (5)$$

    The norm is taken per channel (the equation's vector times scalar would ignore which channel differs). Linear in
    the weights: for fixed maps its optimum is one-hot on the channel with the smallest difference.

    Args:
        maps_s: maps of S.
        maps_t: maps of T.
        weights: `{tap: [b, c]}`.
        scale: `"literal"`, `"afa"` (weights × C) or `"relative"`.

    Source:
        Eq. 5 of the paper; per channel and times C as in the AFA release.
    """
    return _by_channel(maps_s, maps_t, weights, scale)


def gca(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str = "relative") -> Tensor:
    r"""Penalise weighted differences with one distribution over the channels of all layers: Eq. 10 (GCA).

    $$L_{GCA} = \sum_i \tfrac12 GCA^i \lVert FM_S^i - FM_T^i \rVert_F^2 \qquad (10)$$

    As `channel`, but the weights sum to one over all layers together, so `"afa"` and `"relative"` multiply them by ΣC.

    Args:
        maps_s: maps of S.
        maps_t: maps of T.
        weights: `{tap: [b, c]}`.
        scale: `"literal"`, `"afa"` (weights × ΣC) or `"relative"`.

    Source:
        Eq. 10 of the paper; the factor ΣC by analogy with the AFA release's C.
    """
    return _by_channel(maps_s, maps_t, weights, scale, all_layers=True)


# The paper's names: Eq. 3 and 8 have one form, Eq. 5 is the layer-by-layer one.
ast = spa = spatial
act = channel


def features(maps_s: Maps, maps_t: Maps, scale: str = "relative") -> Tensor:
    r"""Penalise differences of feature maps without attention: the control for every attention.

    $$L = \sum_i \tfrac12 \lVert FM_S^i - FM_T^i \rVert_F^2$$

    It equals every attention penalty with uniform weights under `"afa"` and `"relative"`. Without weights `"literal"`
    and `"afa"` are the same sum.

    Args:
        maps_s: maps of S.
        maps_t: maps of T.
        scale: `"literal"`, `"afa"` (both the sum over elements) or `"relative"`.

    Source:
        DELTA's `fea_map` variant, with the batch averaged.
    """
    _check(maps_s, maps_t, None, scale, "spatial")
    total = _zero(maps_t)
    for tap, s in maps_s.items():
        terms = squared_distances(s, maps_t[tap], "channels")
        total = total + _layer(terms, s, scale, summed=s.shape[1])
    return total


def delta(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str = "relative") -> Tensor:
    r"""Penalise differences with fixed weights by the importance of the source's filters (DELTA).

    $$L = \sum_i \tfrac{1}{2} \frac{C_i}{H_i W_i} \sum_c w^i_c \lVert FM_{S,c}^i - FM_{T,c}^i \rVert_F^2$$

    Args:
        maps_s: maps of S.
        maps_t: maps of T.
        weights: `{tap: [c]}`, with the sum one over the channels of each layer.
        scale: `"afa"` is the release's formula above; `"literal"` leaves out its factor C/HW; `"relative"` as in
            `channel`.

    Source:
        Li et al. 2019 (DELTA) and its release, with the batch averaged.
    """
    per_image = {
        tap: w.expand(len(maps_t[tap]), -1) if w.ndim == 1 and tap in maps_t else w
        for tap, w in weights.items()
    }
    if scale != "afa":
        return channel(maps_s, maps_t, per_image, scale)
    _check(maps_s, maps_t, per_image, scale, "channel")
    total = _zero(maps_t)
    for tap, s in maps_s.items():
        b, c, h, w = s.shape
        squared = squared_distances(s, maps_t[tap], "positions")
        total = total + 0.5 * c * (to_float32(per_image[tap]) * squared).sum() / (h * w) / b
    return total


def l2(parameters: Iterable[Tensor]) -> Tensor:
    r"""Return weight decay as a loss term, WD of Eq. 6, 11 and 12.

    $$WD = \tfrac12 \lVert w \rVert_2^2$$

    Its gradient is $w$, so `β · l2(p)` equals SGD's `weight_decay=β` on `p`.

    Args:
        parameters: tensors of any shape.

    Raises:
        PenaltyError: when `parameters` is empty.

    Source:
        Eq. 6 of the paper; as an explicit term in the AFA release.

    Example:
        >>> l2([torch.tensor([3.0, 4.0])]).item()
        12.5
    """
    given = [to_float32(p) for p in parameters]
    if not given:
        raise PenaltyError("l2 needs at least one parameter, got none")
    return _half_squares(given, together=given[0].is_cuda)


def l2_sp(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    r"""Penalise the distance of parameters from their starting point (L2-SP).

    $$L = \tfrac12 \sum_j \lVert w_j - w_j^0 \rVert_2^2$$

    Args:
        parameters: parameters of T by name.
        start: parameters of S, by the same names.

    Raises:
        PenaltyError: with the name of a parameter without a starting point of its shape.

    Source:
        Li et al. 2018 (L2-SP).
    """
    differences = []
    for name, p in parameters.items():
        if name not in start or start[name].shape != p.shape:
            given = tuple(start[name].shape) if name in start else "nothing"
            raise PenaltyError(
                f"l2_sp: parameter {name!r} is {tuple(p.shape)}, its starting point is {given}"
            )
        differences.append(to_float32(p) - to_float32(start[name].detach()))
    if not differences:
        raise PenaltyError("l2_sp needs at least one parameter, got none")
    return _half_squares(differences, together=differences[0].is_cuda)


def _half_squares(tensors: Sequence[Tensor], *, together: bool) -> Tensor:
    if together:  # A GPU takes longer to start hundreds of kernels than to run one over all tensors.
        tensors = [torch.cat([t.flatten() for t in tensors])]
    return 0.5 * torch.stack([t.square().sum() for t in tensors]).sum()


def lwf(logits_s: Tensor, logits_t: Tensor, temperature: float = 2.0) -> Tensor:
    r"""Penalise changed predictions in the source's classes, softened by a temperature (LwF).

    $$L = T^2 \cdot \mathrm{KL}(\mathrm{Softmax}(z_S / T) \,\Vert\, \mathrm{Softmax}(z_T / T))$$

    Args:
        logits_s: outputs of S's head on S, `[b, classes of S]`.
        logits_t: outputs of a copy of that head on T, of the same shape.
        temperature: T, above 0.

    Raises:
        PenaltyError: when the shapes differ or the temperature is not positive.

    Source:
        Li and Hoiem 2017 (LwF); KL in place of cross-entropy has the same gradient.
    """
    if logits_s.shape != logits_t.shape or logits_s.ndim != 2:
        raise PenaltyError(
            f"lwf: logits must be [b, classes] alike, got {tuple(logits_s.shape)}, {tuple(logits_t.shape)}"
        )
    if not 0 < temperature < LARGEST_TEMPERATURE:
        raise PenaltyError(
            f"lwf: temperature must be above 0, got {quote(temperature)}; it may be up to {LARGEST_TEMPERATURE:,.0f}"
        )
    log_s = F.log_softmax(to_float32(logits_s.detach()) / temperature, dim=1)
    log_t = F.log_softmax(to_float32(logits_t) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_t, log_s, reduction="batchmean", log_target=True)


def _by_channel(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str, *, all_layers: bool = False) -> Tensor:
    _check(maps_s, maps_t, weights, scale, "channel")
    total, channels = _zero(maps_t), sum(s.shape[1] for s in maps_s.values())
    for tap, s in maps_s.items():
        terms = to_float32(weights[tap]) * squared_distances(s, maps_t[tap], "positions")
        factor = 1 if scale == "literal" else channels if all_layers else s.shape[1]
        total = total + _layer(terms, s, scale, summed=s.shape[2] * s.shape[3], factor=factor)
    return total


def _layer(terms: Tensor, map_s: Tensor, scale: str, *, summed: int, factor: int = 1) -> Tensor:
    """Reduce one layer's terms `[b, n]`, of which each is a sum over `summed` elements of the map."""
    if scale == "relative":
        return 0.5 * factor * terms.mean() / summed / to_float32(map_s.detach()).var(correction=0)
    return 0.5 * factor * terms.sum() / len(terms)


def _zero(maps: Maps) -> Tensor:
    return to_float32(next(iter(maps.values())).new_zeros(()))


def _check(maps_s: Maps, maps_t: Maps, weights: Maps | None, scale: str, kind: str) -> None:
    if scale not in SCALES:
        raise PenaltyError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}")
    if not maps_s or set(maps_s) != set(maps_t):
        raise PenaltyError(
            f"source and target maps must have the same taps, got {list(maps_s)} and {list(maps_t)}"
        )
    stray = [tap for tap in weights or {} if tap not in maps_s]
    if stray:
        raise PenaltyError(f"weights for {stray}, which the maps do not have: they have {list(maps_s)}")
    for tap, s in maps_s.items():
        t = maps_t[tap]
        if s.shape != t.shape or s.ndim != 4:
            raise PenaltyError(
                f"tap {tap!r}: maps must both be [b, c, h, w], got {tuple(s.shape)}, {tuple(t.shape)}"
            )
        if weights is None:
            continue
        b, c, h, w = s.shape
        expected = (b, h * w) if kind == "spatial" else (b, c)
        given = tuple(weights[tap].shape) if tap in weights else "no weights"
        if given != expected:
            layout = "[b, h·w]" if kind == "spatial" else "[b, c]"
            raise PenaltyError(f"tap {tap!r}: {kind} weights must be {layout} = {expected}, got {given}")
