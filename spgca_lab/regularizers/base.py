"""The interface of a stage's penalty, the same for built-in penalties and for your own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # A penalty needs no data set in order to be imported.
    from spgca_lab.backbones import Preprocess
    from spgca_lab.data import ImageSet


@dataclass
class BuildContext:
    """The networks, images and options from which a stage builds its penalty.

    Args:
        maps: source maps of two images, `{tap: [2, c, h, w]}`, which give every size.
        source: S, frozen, in eval mode; from the second stage on it holds the weights of T after the previous stage.
        target: T with its head.
        head_s: name of the classifier module of S.
        head_t: name of the classifier module of T.
        taps: names of the tapped modules.
        train: the training images.
        preprocess: the function from uint8 images to network inputs.
        image_size: side of the input in pixels.
        options: the fields of the recipe: `r`, `attention`, `attend_through_target`, `seed`, `batch_size`, ….
    """

    maps: dict[str, Tensor]
    source: nn.Module
    target: nn.Module
    head_s: str
    head_t: str
    taps: tuple[str, ...]
    train: "ImageSet"
    preprocess: "Preprocess"
    image_size: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device of T."""
        return next(self.target.parameters()).device


@dataclass
class ForwardState:
    """The outputs of one forward pass, from which a penalty computes its loss.

    Args:
        maps_t: FM_T, `{tap: [b, c, h, w]}`.
        embedding_t: the input of T's head, `[b, d]`.
        logits_t: the output of T's head, `[b, classes of T]`.
        maps_s: FM_S without gradient, `{tap: [b, c, h, w]}`; empty where the penalty has `needs_source = False`.
        logits_s: the output of S's own head, `[b, classes of S]`; None where the penalty has `needs_source = False`.
        scale: `"literal"`, `"afa"` or `"relative"`.
        checks: conditions on the device by error message, for a trainer that reads values later; None where a penalty
            may read values at once.
    """

    maps_t: dict[str, Tensor]
    embedding_t: Tensor
    logits_t: Tensor
    maps_s: dict[str, Tensor] = field(default_factory=dict)
    logits_s: Tensor | None = None
    scale: str = "relative"
    checks: dict[str, Tensor] | None = None


class Penalty(nn.Module):
    """A stage's penalty: built when the stage begins, called at every step.

    Its trainable parameters are trained along with T, without weight decay. Subclass `Attention` for an attention,
    which fills in `build`, `weights` and `penalty`; subclass `Penalty` for anything else. Set `needs_source = False`
    if the penalty uses T alone: S then runs no forward pass.

    Example:
        >>> class SmallMaps(Penalty):
        ...     needs_source = False
        ...     def penalty(self, state, weights):
        ...         return sum(m.square().mean() for m in state.maps_t.values())
    """

    kind: ClassVar[str] = "none"
    needs_source: ClassVar[bool] = True

    @classmethod
    def build(cls, context: BuildContext) -> Self:
        """Build the penalty for a stage; the default calls the class without arguments."""
        return cls()

    def weights(self, state: ForwardState) -> dict[str, Tensor]:
        """Return attention weights by tap, to be recorded and passed to `penalty`; the default has none."""
        return {}

    def penalty(self, state: ForwardState, weights: dict[str, Tensor]) -> Tensor:
        """Return the scalar that α multiplies in Eq. 6, 11 and 12."""
        raise TypeError(f"{type(self).__name__} must define penalty(self, state, weights) -> scalar tensor")

    def summary(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return scalars to plot over the steps, by column name; the default has none."""
        return {}

    def after_step(self, state: ForwardState) -> None:
        """Change weights after the optimiser's step, without gradient, as projections do; the default does nothing."""
