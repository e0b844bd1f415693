"""A remedy for GCA's collapse, offered beside the paper's form and never in its place."""

from torch import Tensor

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.attention import GlobalChannelAttention, Maps

__all__ = ["SquaredChannelAttention"]


class SquaredChannelAttention(GlobalChannelAttention):
    r"""GCA with its weights inside the square, as SPA has them in Eq. 8.

    $$L = \sum_i \tfrac12 \, \Sigma C \, (GCA^i)^2 \lVert FM_S^i - FM_T^i \rVert_F^2$$

    Eq. 10 is linear in weights that it may choose itself: its optimum is one-hot on the channel that differs least,
    and where a training gets there the penalty is switched off. This form is quadratic: for fixed squared differences
    D its optimum is soft, a ∝ 1/D. Equal weights cost what they cost in Eq. 10, so one α serves both. The nets are
    GCA's (Eq. 9).

    Args:
        shapes: `{tap: (c, h, w)}`.
        r: reduction rate, as for `GlobalChannelAttention`.

    Returns (of a call): `{tap: [b, c]}`, non-negative; over all taps together each row sums to one.

    Raises:
        AttentionError: as `GlobalChannelAttention`.

    Source:
        This project; trained beside Eq. 10 and equal weights by `benchmarks/remedies.py`.

    Example:
        >>> import torch
        >>> s, t = {"a": torch.zeros(1, 2, 2, 2)}, {"a": torch.ones(1, 2, 2, 2)}
        >>> squared = SquaredChannelAttention.for_maps(s, r=1)
        >>> squared.loss(s, t, {"a": torch.tensor([[1.0, 0.0]])}, "literal").item()
        4.0
    """

    def loss(self, maps_s: Maps, maps_t: Maps, weights: Maps, scale: str) -> Tensor:
        """Eq. 10 of the weights ΣC · GCA²."""
        squared = {tap: sum(self.channels) * w.square() for tap, w in weights.items()}
        return penalties.gca(maps_s, maps_t, squared, scale=scale)
