"""The attentions AST and ACT (AFA), SPA and GCA (the paper) and GCA²: feature maps in, softmax weights out."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.base import BuildContext, ForwardState, Penalty

Maps = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, int, int]]


class AttentionError(ValueError):
    """Feature maps that do not fit an attention, or weights of a wrong shape or value."""


class Attention(Penalty):
    """The base class of attentions: built for the shapes of the taps, called with maps, returns weights.

    Subclass it for an attention of your own. A subclass sets `kind`, makes its layers in `__init__(shapes)`, and
    returns from `forward` weights by tap: one per position (`kind = "spatial"`, `[b, h·w]`) or one per channel
    (`kind = "channel"`, `[b, c]`). `kind` selects the penalty; override `loss` for another one. `options` names the
    fields of the recipe that `__init__` takes as keywords. Override `initialise` to set the first attention weights.
    The built-in attentions use nothing else.

    Args:
        shapes: `{tap: (c, h, w)}` of the maps.

    Raises:
        AttentionError: when `shapes` is empty, or a call has maps of other shapes.

    Example:
        >>> class Contrast(Attention):
        ...     kind = "spatial"
        ...     def forward(self, maps_s, maps_t):
        ...         self.check(maps_s)
        ...         return {tap: m.std(dim=1).flatten(1).softmax(dim=1) for tap, m in maps_s.items()}
        >>> maps = {"a": torch.randn(2, 3, 4, 4)}
        >>> Contrast.for_maps(maps)(maps, maps)["a"].shape
        torch.Size([2, 16])
    """

    kind: ClassVar[str] = "spatial"
    options: ClassVar[tuple[str, ...]] = ()
    mode: str = "learned"

    def __init__(self, shapes: Shapes):
        super().__init__()
        if not shapes:
            raise AttentionError(f"{type(self).__name__} needs at least one tap, got {dict(shapes)!r}")
        self.shapes = {tap: (int(c), int(h), int(w)) for tap, (c, h, w) in shapes.items()}

    @classmethod
    def for_maps(cls, maps: Maps, **options: Any) -> Self:
        """Build the attention for these maps, on their device.

        Args:
            maps: `{tap: [b, c, h, w]}`; a map with other dimensions is an `AttentionError`.
            **options: keywords of the class, e.g. `r` for `GlobalChannelAttention`.
        """
        for tap, m in maps.items():
            if m.ndim != 4:
                raise AttentionError(
                    f"{cls.__name__}: map {tap!r} must be [b, c, h, w], got {tuple(m.shape)}"
                )
        attention = cls({tap: (m.shape[1], m.shape[2], m.shape[3]) for tap, m in maps.items()}, **options)
        devices = {m.device for m in maps.values()}
        return attention.to(devices.pop()) if len(devices) == 1 else attention

    def forward(self, maps_s: Maps, maps_t: Maps | None = None) -> dict[str, Tensor]:
        """Return the weights by tap; every subclass defines it."""
        raise TypeError(
            f"{type(self).__name__} must define forward(self, maps_s, maps_t) -> {{tap: weights}}"
        )

    def loss(self, maps_s: Maps, maps_t: Maps, weights: Maps, scale: str) -> Tensor:
        """Return the penalty with these weights: Eq. 3 and 8 for positions, Eq. 5 for channels."""
        if self.kind == "spatial":
            return penalties.spatial(maps_s, maps_t, weights, scale=scale)
        return penalties.channel(maps_s, maps_t, weights, scale=scale)

    def check(self, maps: Maps, which: str = "source") -> None:
        """Raise `AttentionError` with the tap if the attention was built for maps of other shapes."""
        if list(maps) != list(self.shapes):
            raise AttentionError(
                f"{type(self).__name__} was built for the taps {list(self.shapes)}, the {which} maps have {list(maps)}"
            )
        for tap, shape in self.shapes.items():
            given = tuple(maps[tap].shape)
            if len(given) != 4 or given[1:] != shape:
                raise AttentionError(
                    f"{type(self).__name__} was built for maps [b, {', '.join(map(str, shape))}] at {tap!r}, "
                    f"the {which} map there is {list(given)}: use the image size it was built with, or build a new one"
                )

    def by_tap(self, layers: Mapping[str, nn.Module]) -> nn.ModuleDict:
        """Return a ModuleDict over taps; module names may not contain dots, so `layer1.2` is stored as `layer1/2`."""
        return nn.ModuleDict({_key(tap): layer for tap, layer in layers.items()})

    def uniform(self, weights: Maps) -> dict[str, Tensor]:
        """Return uniform weights of the same shapes and sums, the control for every attention."""
        return {tap: torch.full_like(w, 1 / w.shape[1]) for tap, w in weights.items()}

    def entropy(self, weights: Maps) -> dict[str, Tensor]:
        """Return the entropy of each tap's weights in nats, mean over the batch."""
        return {tap: _entropy(w) for tap, w in weights.items()}

    @classmethod
    def build(cls, context: BuildContext) -> Self:
        """Build the attention for a stage: sizes from the maps, keywords and mode from the recipe's fields."""
        attention = cls.for_maps(context.maps, **{name: context.options[name] for name in cls.options})
        attention.initialise(context)
        attention.mode = context.options.get("attention", "learned")
        attention.requires_grad_(attention.mode == "learned")
        return attention

    def initialise(self, context: BuildContext) -> None:
        """Set the first weights of the attention nets; the default leaves those of `__init__`.

        Override it to start from weights of your own, for example by `self.load_state_dict(...)`.
        """

    def weights(self, state: ForwardState) -> dict[str, Tensor]:
        """Return the weights of one step; raise `AttentionError` with class and tap if they are not usable."""
        weights = self(state.maps_s, state.maps_t)
        self._check_weights(weights, state)
        return self.uniform(weights) if self.mode == "uniform" else weights

    def penalty(self, state: ForwardState, weights: dict[str, Tensor]) -> Tensor:
        """Return `loss` of the maps of one step."""
        return self.loss(state.maps_s, state.maps_t, weights, state.scale)

    def summary(self, weights: Maps) -> dict[str, Tensor]:
        """Return the entropies in nats as columns `entropy/<tap>`."""
        return {f"entropy/{tap}": value for tap, value in self.entropy(weights).items()}

    def _check_weights(self, weights: Any, state: ForwardState) -> None:
        name = type(self).__name__
        if not isinstance(weights, Mapping) or list(weights) != list(self.shapes):
            given = list(weights) if isinstance(weights, Mapping) else type(weights).__name__
            raise AttentionError(
                f"{name} must return weights for the taps {list(self.shapes)}, it returned {given}"
            )
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        for tap, w in weights.items():
            c, height, width = self.shapes[tap]
            count, layout = (height * width, "[b, h·w]") if self.kind == "spatial" else (c, "[b, c]")
            if not isinstance(w, Tensor) or w.ndim != 2 or w.shape[1] != count:
                shape = tuple(w.shape) if isinstance(w, Tensor) else type(w).__name__
                raise AttentionError(
                    f"{name}: {self.kind} weights at {tap!r} must be {layout} with {count} columns, got {shape}"
                )
            infinite = f"{name}: weights at {tap!r} are not finite (NaN or infinite)"
            # Weights of maps that are not finite are not the attention's fault: the trainer reports the divergence.
            if state.checks is not None:
                state.checks[infinite] = torch.isfinite(w).all()
            elif not _finite(w) and all(map(_finite, (*state.maps_s.values(), *state.maps_t.values()))):
                raise AttentionError(infinite)
            if trains and not w.requires_grad:
                raise AttentionError(
                    f"{name}: weights at {tap!r} carry no gradient although the class has parameters to train: "
                    "compute them outside no_grad() and without detach(), or use attention='frozen'"
                )


class SpatialAttention(Attention):
    r"""AST, attentive spatial transfer: one weight per position and layer, from the source's maps.

    $$AST^i = \mathrm{Softmax}(FC^i_{AST}(\mathrm{AvgPool}(\mathrm{Flat}(FM_S^i)))) \qquad (2)$$

    `AvgPool` averages over channels; `FC` is HW → H → HW with a ReLU between (Table 2), the first layer without and
    the second with a bias.

    Returns (of a call): `{tap: [b, h·w]}`, non-negative, each row with the sum one.

    Source:
        Xie et al. 2021 (AFA), Eq. 2 of the paper; layer sizes and biases from the AFA release.
    """

    kind = "spatial"

    def __init__(self, shapes: Shapes):
        super().__init__(shapes)
        self.fc = self.by_tap(
            {
                tap: nn.Sequential(nn.Linear(h * w, h, bias=False), nn.ReLU(), nn.Linear(h, h * w))
                for tap, (_, h, w) in self.shapes.items()
            }
        )

    def forward(self, maps_s: Maps, maps_t: Maps | None = None) -> dict[str, Tensor]:
        """Return the weights of Eq. 2."""
        self.check(maps_s)
        return {
            tap: self._weigh(tap, maps_s[tap].detach().mean(dim=1, dtype=_dtype(self))) for tap in self.shapes
        }

    def _weigh(self, tap: str, pooled: Tensor) -> Tensor:
        # Softmax in float32: under bf16 autocast 3,136 weights near 1/3,136 would lose half their digits.
        with torch.autocast(pooled.device.type, enabled=False):
            return self.fc[_key(tap)](pooled.flatten(1)).softmax(dim=1)


class SelfPixelAttention(SpatialAttention):
    r"""SPA, self-pixel attention: one weight per position and layer, from the maps of source and target.

    $$SPA^i = \mathrm{Softmax}(FC^i_{SPA}(\mathrm{AvgPool}(\mathrm{Flat}(\mathrm{Concat}(FM_S^i, FM_T^i)))))
    \qquad (7)$$

    The concatenation is along channels, so with $C_S = C_T$ the pooled map is the mean of the two pooled maps, and SPA
    on equal maps is AST with the same net.

    Args:
        shapes: `{tap: (c, h, w)}`.
        attend_through_target: let the gradient reach T through this input. Off by default: otherwise T can lower the
            penalty by steering where it is measured instead of by matching S.

    Returns (of a call): `{tap: [b, h·w]}`, non-negative, each row with the sum one.

    Source:
        Eq. 7 and Table 2 of the paper.
    """

    options = ("attend_through_target",)

    def __init__(self, shapes: Shapes, *, attend_through_target: bool = False):
        super().__init__(shapes)
        self.attend_through_target = attend_through_target

    def forward(self, maps_s: Maps, maps_t: Maps | None = None) -> dict[str, Tensor]:
        """Return the weights of Eq. 7."""
        if maps_t is None:
            raise AttentionError(
                "SelfPixelAttention looks at both models (Eq. 7): call it with (maps_s, maps_t)"
            )
        self.check(maps_s)
        self.check(maps_t, "target")
        weights = {}
        for tap in self.shapes:
            target = maps_t[tap] if self.attend_through_target else maps_t[tap].detach()
            # S and T have equally many channels, so this is the mean over both, without a copy of the two maps.
            pooled = [m.mean(dim=1, dtype=_dtype(self)) for m in (maps_s[tap].detach(), target)]
            weights[tap] = self._weigh(tap, (pooled[0] + pooled[1]) / 2)
        return weights


class ChannelAttention(Attention):
    r"""ACT, attentive channel transfer: one weight per channel, softmax within each layer.

    $$ACT^i = \mathrm{Softmax}(FC^i_{ACT}(\mathrm{Flat}(FM_S^i))) \qquad (4)$$

    The paper does not give `FC_ACT`. As in the AFA release one net HW → H → 1 (ReLU between, no biases) is shared by
    all channels of a layer, and a bias per channel, zero at first, is added before the softmax.

    Returns (of a call): `{tap: [b, c]}`, non-negative, each row with the sum one.

    Source:
        Xie et al. 2021 (AFA) and its release; Eq. 4 of the paper.
    """

    kind = "channel"

    def __init__(self, shapes: Shapes):
        super().__init__(shapes)
        self.fc = self.by_tap(
            {
                tap: nn.Sequential(nn.Linear(h * w, h, bias=False), nn.ReLU(), nn.Linear(h, 1, bias=False))
                for tap, (_, h, w) in self.shapes.items()
            }
        )
        self.bias = nn.ParameterDict(
            {_key(tap): nn.Parameter(torch.zeros(c)) for tap, (c, _, _) in self.shapes.items()}
        )

    def forward(self, maps_s: Maps, maps_t: Maps | None = None) -> dict[str, Tensor]:
        """Return the weights of Eq. 4."""
        self.check(maps_s)
        weights = {}
        for tap in self.shapes:
            flat = maps_s[tap].detach().to(_dtype(self)).flatten(2)
            with torch.autocast(flat.device.type, enabled=False):
                scores = self.fc[_key(tap)](flat).squeeze(2) + self.bias[_key(tap)]
                weights[tap] = scores.softmax(dim=1)
        return weights


class GlobalChannelAttention(Attention):
    r"""GCA, global channel attention: one weight per channel, one softmax over the channels of all layers.

    $$GCA = \mathrm{Softmax}(FC_{GCA}(\mathrm{Concat}(\mathrm{GAP}(FM_S^1), \dots, \mathrm{GAP}(FM_S^n))))
    \qquad (9)$$

    `FC` is ΣC → ΣC/r → ΣC with a ReLU between (Table 2), both layers with a bias. The weights of one layer sum to
    that layer's share of the whole; the shares sum to one.

    Args:
        shapes: `{tap: (c, h, w)}`.
        r: reduction rate, the paper's default 4 (Table 6 tries 8, 16, 32); the hidden layer has ΣC // r units.

    Returns (of a call): `{tap: [b, c]}`, non-negative; over all taps together each row sums to one.

    Raises:
        AttentionError: when `r` is not an integer from 1 to ΣC.

    Source:
        Eq. 9 and Table 2 of the paper, after the squeeze-and-excitation block.

    Example:
        >>> maps = {"layer1": torch.randn(2, 8, 4, 4), "layer2": torch.randn(2, 24, 2, 2)}
        >>> gca = GlobalChannelAttention.for_maps(maps, r=4)
        >>> [tuple(w.shape) for w in gca(maps).values()], gca.fc[0].out_features
        ([(2, 8), (2, 24)], 8)
    """

    kind = "channel"
    options = ("r",)

    def __init__(self, shapes: Shapes, *, r: int = 4):
        super().__init__(shapes)
        self.channels = [c for c, _, _ in self.shapes.values()]
        total = sum(self.channels)
        if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r <= total:
            raise AttentionError(f"r must be an integer from 1 to ΣC = {total}, got {r!r}")
        self.r = r
        self.fc = nn.Sequential(nn.Linear(total, total // r), nn.ReLU(), nn.Linear(total // r, total))

    def forward(self, maps_s: Maps, maps_t: Maps | None = None) -> dict[str, Tensor]:
        """Return the weights of Eq. 9."""
        self.check(maps_s)
        pooled = torch.cat(
            [maps_s[tap].detach().mean(dim=(2, 3), dtype=_dtype(self)) for tap in self.shapes], dim=1
        )
        with torch.autocast(pooled.device.type, enabled=False):
            weights = self.fc(pooled).softmax(dim=1)
        return dict(zip(self.shapes, weights.split(self.channels, dim=1), strict=True))

    def uniform(self, weights: Maps) -> dict[str, Tensor]:
        """Return 1/ΣC for every channel: one distribution over all layers."""
        return {tap: torch.full_like(w, 1 / sum(self.channels)) for tap, w in weights.items()}

    def entropy(self, weights: Maps) -> dict[str, Tensor]:
        """Return the entropy in nats of the one distribution over all layers, as `all`."""
        return {"all": _entropy(torch.cat(list(weights.values()), dim=1))}

    def summary(self, weights: Maps) -> dict[str, Tensor]:
        """Return `entropy/all` in nats and the share of each layer as `share/<tap>`."""
        shares = {f"share/{tap}": w.detach().sum(dim=1).mean() for tap, w in weights.items()}
        return super().summary(weights) | shares

    def loss(self, maps_s: Maps, maps_t: Maps, weights: Maps, scale: str) -> Tensor:
        """Return the penalty of Eq. 10."""
        return penalties.gca(maps_s, maps_t, weights, scale=scale)


class SquaredChannelAttention(GlobalChannelAttention):
    r"""GCA², a remedy for GCA's concentration: the weights of Eq. 9 inside the square, as in Eq. 8.

    $$L = \sum_i \tfrac12 \, \Sigma C \, (GCA^i)^2 \lVert FM_S^i - FM_T^i \rVert_F^2$$

    Eq. 10 is linear in the weights: its optimum is one-hot on the channel with the smallest difference, and the other
    channels are then free. This form is quadratic: for fixed squared differences D its optimum is soft, a ∝ 1/D.
    Uniform weights cost the same as in Eq. 10, so one α serves both.

    Source:
        This project; `benchmarks/remedies.py` compares it with Eq. 10 and with uniform weights.

    Example:
        >>> s, t = {"a": torch.zeros(1, 2, 2, 2)}, {"a": torch.ones(1, 2, 2, 2)}
        >>> squared = SquaredChannelAttention.for_maps(s, r=1)
        >>> squared.loss(s, t, {"a": torch.tensor([[1.0, 0.0]])}, "literal").item()
        4.0
    """

    def loss(self, maps_s: Maps, maps_t: Maps, weights: Maps, scale: str) -> Tensor:
        """Return the penalty of Eq. 10 with the weights ΣC · GCA²."""
        squared = {tap: sum(self.channels) * w.square() for tap, w in weights.items()}
        return penalties.gca(maps_s, maps_t, squared, scale=scale)


def _entropy(weights: Tensor) -> Tensor:
    return torch.special.entr(weights.detach()).sum(dim=1).mean()


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _dtype(attention: nn.Module) -> torch.dtype:
    return next(attention.parameters()).dtype


def _key(tap: str) -> str:
    return tap.replace(".", "/")
