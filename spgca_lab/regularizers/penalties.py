r"""The penalties, pure functions of maps, weights and parameters: Eq. 3, 5, 8, 10 and what they are compared with.

Softmax weights sum to one, so as printed the equations shrink with the map: a uniform AST weight scales layer 1 of a
ResNet at 224 px by 1/3136². Each attention penalty therefore takes `scale`:

- `"literal"`: the equation as printed.
- `"afa"`: weights times their number (HW, C, ΣC), inside the norm where the paper has them inside. The AFA release
  does this; with uniform weights it is the plain feature penalty.
- `"relative"`: weights of mean one, the mean over elements in place of the sum, each layer divided by the variance of
  the source's map. Dimensionless, so one α serves any backbone.

All are means over the batch, and no gradient reaches the source's maps.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spgca_lab._checks import quote
from spgca_lab.regularizers.distances import compare, wide

__all__ = [
    "SCALES",
    "PenaltyError",
    "act",
    "ast",
    "channel",
    "delta",
    "features",
    "gca",
    "l2",
    "l2_sp",
    "lwf",
    "spa",
    "spatial",
]

Maps = Mapping[str, Tensor]
SCALES = ("literal", "afa", "relative")
LARGEST_TEMPERATURE = 1e6


class PenaltyError(ValueError):
    """Maps, weights or a scale that a penalty cannot use."""


def spatial(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str = "relative") -> Tensor:
    r"""Penalty with one weight per position: Eq. 3 (AST) and Eq. 8 (SPA).

    $$L = \sum_i \tfrac12 \lVert A^i \cdot (FM_S^i - FM_T^i) \rVert_F^2 \qquad (3), (8)$$

    Quadratic in the weights: for fixed maps its optimum is soft, weights ∝ 1 / squared difference.

    Args:
        maps_s: source maps, `{tap: [b, c, h, w]}`.
        maps_t: target maps of the same shapes.
        weights: `{tap: [b, h·w]}`, broadcast over channels.
        scale: `"literal"`, `"afa"` (weights × HW inside the norm) or `"relative"`.

    Returns:
        a scalar, mean over the batch.

    Raises:
        PenaltyError: naming the tap and the shapes that do not fit, or quoting an unknown scale.

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
        b, c, h, w = s.shape
        squared, spread = compare(s, maps_t[tap], "channels", spread=scale == "relative")
        a = wide(weights[tap])
        if scale == "literal":
            total = total + 0.5 * (a.square() * squared).sum() / b
        elif scale == "afa":
            total = total + 0.5 * ((a * (h * w)).square() * squared).sum() / b
        else:
            total = total + 0.5 * ((a * (h * w)).square() * squared).mean() / c / spread
    return total


def channel(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str = "relative") -> Tensor:
    r"""Penalty with one weight per channel, layer by layer: Eq. 5 (ACT).

    $$L = \sum_i \tfrac12 A^i \cdot \lVert FM_S^i - FM_T^i \rVert_F^2 \qquad (5)$$

    The norm is taken per channel (the equation's vector times scalar would ignore which channel differs). Linear in
    the weights: for fixed maps its optimum is one-hot on the channel that differs least.

    Args:
        maps_s: source maps, `{tap: [b, c, h, w]}`.
        maps_t: target maps of the same shapes.
        weights: `{tap: [b, c]}`.
        scale: `"literal"`, `"afa"` (weights × C) or `"relative"`.

    Returns:
        a scalar, mean over the batch.

    Raises:
        PenaltyError: naming the tap and the shapes that do not fit, or quoting an unknown scale.

    Source:
        Eq. 5 of the paper; per channel and times C as in the AFA release.

    Example:
        >>> s, t = {"a": torch.zeros(1, 2, 2, 2)}, {"a": torch.ones(1, 2, 2, 2)}
        >>> channel(s, t, {"a": torch.tensor([[1.0, 0.0]])}, scale="literal").item()
        2.0
    """
    counts = {tap: m.shape[1] if m.ndim == 4 else 0 for tap, m in maps_s.items()}
    return _by_channel(maps_s, maps_t, weights, scale, counts)


def gca(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str = "relative") -> Tensor:
    r"""Penalty with one distribution over the channels of all layers: Eq. 10 (GCA).

    $$L_{GCA} = \sum_i \tfrac12 GCA^i \lVert FM_S^i - FM_T^i \rVert_F^2 \qquad (10)$$

    As `channel`, but the weights sum to one over all layers together, so `"afa"` and `"relative"` multiply them by ΣC.

    Args:
        maps_s: source maps, `{tap: [b, c, h, w]}`.
        maps_t: target maps of the same shapes.
        weights: `{tap: [b, c]}`.
        scale: `"literal"`, `"afa"` (weights × ΣC) or `"relative"`.

    Returns:
        a scalar, mean over the batch.

    Raises:
        PenaltyError: naming the tap and the shapes that do not fit, or quoting an unknown scale.

    Source:
        Eq. 10 of the paper; the factor ΣC by analogy with the AFA release's C.

    Example:
        >>> s, t = {"a": torch.zeros(1, 2, 2, 2)}, {"a": torch.ones(1, 2, 2, 2)}
        >>> gca(s, t, {"a": torch.full((1, 2), 0.5)}, scale="afa").item()
        4.0
    """
    total = sum(m.shape[1] for m in maps_s.values() if m.ndim == 4)
    return _by_channel(maps_s, maps_t, weights, scale, dict.fromkeys(maps_s, total))


# The paper's names: Eq. 3 and 8 have one form, Eq. 5 is the layer-by-layer one.
ast = spa = spatial
act = channel


def features(maps_s: Maps, maps_t: Maps, scale: str = "relative") -> Tensor:
    r"""Feature maps aligned without attention: the baseline that every attention must beat.

    $$L = \sum_i \tfrac12 \lVert FM_S^i - FM_T^i \rVert_F^2$$

    It equals every attention penalty with uniform weights under `"afa"` and `"relative"`; `"literal"` has no weights
    to print, so it is the plain sum, as `"afa"`.

    Args:
        maps_s: source maps, `{tap: [b, c, h, w]}`.
        maps_t: target maps of the same shapes.
        scale: `"literal"`, `"afa"` (both the sum over elements) or `"relative"`.

    Returns:
        a scalar, mean over the batch.

    Raises:
        PenaltyError: naming the tap and the shapes that do not fit, or quoting an unknown scale.

    Source:
        DELTA's `fea_map` variant, with the batch averaged.

    Example:
        >>> features({"a": torch.zeros(2, 2, 2, 2)}, {"a": torch.ones(2, 2, 2, 2)}, scale="afa").item()
        4.0
    """
    _check(maps_s, maps_t, None, scale, "spatial")
    total = _zero(maps_t)
    for tap, s in maps_s.items():
        squared, spread = compare(s, maps_t[tap], "channels", spread=scale == "relative")
        if scale == "relative":
            total = total + 0.5 * squared.mean() / s.shape[1] / spread
        else:
            total = total + 0.5 * squared.sum() / s.shape[0]
    return total


def delta(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str = "relative") -> Tensor:
    r"""DELTA's penalty: channels weighted by how much the source's filter mattered, fixed in training.

    $$L = \sum_i \tfrac{1}{2} \frac{C_i}{H_i W_i} \sum_c w^i_c \lVert FM_{S,c}^i - FM_{T,c}^i \rVert_F^2$$

    Args:
        maps_s: source maps, `{tap: [b, c, h, w]}`.
        maps_t: target maps of the same shapes.
        weights: `{tap: [c]}`, summing to one over a layer's channels.
        scale: `"afa"` is the release's formula above; `"literal"` leaves out its factor C/HW; `"relative"` as in
            `channel`.

    Returns:
        a scalar, mean over the batch (the release sums over it).

    Raises:
        PenaltyError: naming the tap and the shapes that do not fit, or quoting an unknown scale.

    Source:
        Li et al. 2019 (DELTA) and its release.

    Example:
        >>> s, t = {"a": torch.zeros(2, 2, 2, 2)}, {"a": torch.ones(2, 2, 2, 2)}
        >>> delta(s, t, {"a": torch.tensor([0.5, 0.5])}, scale="afa").item()
        1.0
    """
    by_picture = {
        tap: w.expand(len(maps_t[tap]), -1) if w.ndim == 1 and tap in maps_t else w
        for tap, w in weights.items()
    }
    if scale != "afa":
        return channel(maps_s, maps_t, by_picture, scale)
    _check(maps_s, maps_t, by_picture, scale, "channel")
    total = _zero(maps_t)
    for tap, s in maps_s.items():
        b, c, h, w = s.shape
        squared, _ = compare(s, maps_t[tap], "positions")
        total = total + 0.5 * c * (wide(by_picture[tap]) * squared).sum() / (h * w) / b
    return total


def l2(parameters: Iterable[Tensor]) -> Tensor:
    r"""Weight decay as a loss term, WD of Eq. 6, 11 and 12.

    $$WD = \tfrac12 \lVert w \rVert_2^2$$

    Its gradient is $w$, so `β · l2(p)` equals SGD's `weight_decay=β` on `p`.

    Args:
        parameters: tensors of any shape.

    Returns:
        a scalar.

    Raises:
        PenaltyError: when there is nothing to decay.

    Source:
        Eq. 6 of the paper; as an explicit term in the AFA release.

    Example:
        >>> l2([torch.tensor([3.0, 4.0])]).item()
        12.5
    """
    given = [p.float() for p in parameters]
    if not given:
        raise PenaltyError("l2 needs at least one parameter, got none")
    return _half_squares(given)


def l2_sp(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    r"""L2-SP: stay near the starting point.

    $$L = \tfrac12 \sum_j \lVert w_j - w_j^0 \rVert_2^2$$

    Args:
        parameters: the target's parameters by name.
        start: the source's, by the same names.

    Returns:
        a scalar.

    Raises:
        PenaltyError: naming a parameter without a starting point of its shape.

    Source:
        Li et al. 2018 (L2-SP).

    Example:
        >>> l2_sp({"w": torch.ones(4)}, {"w": torch.zeros(4)}).item()
        2.0
    """
    pairs = []
    for name, p in parameters.items():
        if name not in start or start[name].shape != p.shape:
            given = tuple(start[name].shape) if name in start else "nothing"
            raise PenaltyError(
                f"l2_sp: parameter {name!r} is {tuple(p.shape)}, its starting point is {given}"
            )
        pairs.append((p.float(), start[name].detach().float()))
    if not pairs:
        raise PenaltyError("l2_sp needs at least one parameter, got none")
    now, before = zip(*pairs, strict=True)
    return _half_squares(torch._foreach_sub(now, before))


def _half_squares(tensors: Sequence[Tensor]) -> Tensor:
    if all(t.is_cuda for t in tensors):
        return _HalfSquares.apply(*tensors)
    return 0.5 * torch.stack([t.square().sum() for t in tensors]).sum()


class _HalfSquares(torch.autograd.Function):
    """½ Σ ‖t‖² over many tensors in a few kernels: a GPU would take longer to start thousands than to run them."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return 0.5 * torch.stack(torch._foreach_norm(tensors)).square().sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch._foreach_mul(ctx.saved_tensors, gradient))


def lwf(logits_s: Tensor, logits_t: Tensor, temperature: float = 2.0) -> Tensor:
    r"""LwF: keep the source head's outputs, softened by a temperature.

    $$L = T^2 \cdot \mathrm{KL}(\mathrm{Softmax}(z_S / T) \,\Vert\, \mathrm{Softmax}(z_T / T))$$

    Args:
        logits_s: outputs of S's head on S, `[b, classes of S]`.
        logits_t: outputs of a copy of that head on T, same shape.
        temperature: T, above 0.

    Returns:
        a scalar in nats, mean over the batch.

    Raises:
        PenaltyError: when the shapes differ or the temperature is not positive.

    Source:
        Li and Hoiem 2017 (LwF); KL in place of cross-entropy has the same gradient.

    Example:
        >>> z = torch.randn(2, 5)
        >>> lwf(z, z).item()
        0.0
    """
    if logits_s.shape != logits_t.shape or logits_s.ndim != 2:
        raise PenaltyError(
            f"lwf: logits must be [b, classes] alike, got {tuple(logits_s.shape)}, {tuple(logits_t.shape)}"
        )
    if not 0 < temperature < LARGEST_TEMPERATURE:
        raise PenaltyError(
            f"lwf: temperature must be above 0, got {quote(temperature)}; it may be up to {LARGEST_TEMPERATURE:,.0f}"
        )
    log_s = F.log_softmax(logits_s.detach().float() / temperature, dim=1)
    log_t = F.log_softmax(logits_t.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_t, log_s, reduction="batchmean", log_target=True)


def _by_channel(maps_s: Maps, maps_t: Maps, weights: Maps, scale: str, counts: Mapping[str, int]) -> Tensor:
    _check(maps_s, maps_t, weights, scale, "channel")
    total = _zero(maps_t)
    for tap, s in maps_s.items():
        b, _, h, w = s.shape
        squared, spread = compare(s, maps_t[tap], "positions", spread=scale == "relative")
        a = wide(weights[tap])
        if scale == "literal":
            total = total + 0.5 * (a * squared).sum() / b
        elif scale == "afa":
            total = total + 0.5 * counts[tap] * (a * squared).sum() / b
        else:
            total = total + 0.5 * counts[tap] * (a * squared).mean() / (h * w) / spread
    return total


def _zero(maps: Maps) -> Tensor:
    return wide(next(iter(maps.values()))).new_zeros(())


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
