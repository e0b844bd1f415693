"""What a stage's penalty sees and must offer: the one interface that built-in and readers' penalties share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from spgca_lab.backbones import Preprocess
from spgca_lab.data import ImageSet

__all__ = ["Penalty", "Setup", "StepState"]


@dataclass
class Setup:
    """What a penalty may look at when a stage begins.

    Args:
        maps: source maps of a small batch, `{tap: [b, c, h, w]}`: a dry run that gives every size.
        source: S, frozen, in eval mode. In a second stage it holds T's weights of the first.
        target: T with its head.
        head_s: name of the source's classifier module.
        head_t: name of the target's classifier module.
        taps: the four tapped modules.
        train: the training pictures.
        preprocess: uint8 pictures to network input.
        image_size: input size in pixels.
        options: what else the recipe says: `r`, `attention`, `attend_through_target`, `seed`, `batch_size`, ….
    """

    maps: dict[str, Tensor]
    source: nn.Module
    target: nn.Module
    head_s: str
    head_t: str
    taps: tuple[str, ...]
    train: ImageSet
    preprocess: Preprocess
    image_size: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return next(self.target.parameters()).device


@dataclass
class StepState:
    """One forward pass of both models, as a penalty sees it.

    Args:
        maps_s: FM_S by tap, without gradient.
        maps_t: FM_T by tap.
        logits_s: outputs of the source's own head, `[b, classes of S]`.
        embedding_t: what the target's head receives, `[b, d]`.
        scale: `"literal"`, `"afa"` or `"relative"`.
        checks: where a training does not wait for values, put here what must be true, by what to say if it is not;
            None where there is time to look.
    """

    maps_s: dict[str, Tensor]
    maps_t: dict[str, Tensor]
    logits_s: Tensor
    embedding_t: Tensor
    scale: str
    checks: dict[str, Tensor] | None = None


class Penalty(nn.Module):
    """A stage's penalty: built once for the stage, then asked for weights and a loss at every step.

    Its trainable parameters join T's optimiser (same learning rate, no decay). An attention is most easily written as
    a subclass of `Attention`, which fills these three in; subclass `Penalty` itself for anything else. With
    `needs_source = False` the trainer saves the source's forward pass and the state's maps are empty.

    Example:
        >>> class Quiet(Penalty):
        ...     def penalty(self, state, weights):
        ...         return sum(m.square().mean() for m in state.maps_t.values())
    """

    kind: ClassVar[str] = "none"
    needs_source: ClassVar[bool] = True

    @classmethod
    def build(cls, setup: Setup) -> Self:
        """Make the penalty for this stage. The default takes nothing."""
        return cls()

    @classmethod
    def sketch(cls, setup: Setup) -> Self:
        """One that takes as much memory, to predict it; for penalties whose `build` is long work."""
        return cls.build(setup)

    def weights(self, state: StepState) -> dict[str, Tensor]:
        """Attention weights to record and to pass to `penalty`; the default has none."""
        return {}

    def penalty(self, state: StepState, weights: dict[str, Tensor]) -> Tensor:
        """The scalar that α multiplies in Eq. 6, 11 and 12."""
        raise TypeError(f"{type(self).__name__} must define penalty(self, state, weights) -> scalar tensor")

    def summary(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars worth a curve, by column name; the default has none."""
        return {}
