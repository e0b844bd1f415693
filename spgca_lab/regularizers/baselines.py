"""The baselines that attention is compared with, as penalties of a stage: L2, L2-SP, uniform features and LwF."""

import copy
from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.base import BuildContext, ForwardState, Penalty


def backbone_parameters(model: nn.Module, head: str) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` outside its classifier `head`, by name."""
    return {name: p for name, p in model.named_parameters() if not name.startswith(head + ".")}


class WeightDecay(Penalty):
    r"""L2: $\tfrac12 \lVert w \rVert^2$ over T's backbone; with α = 0 it is plain fine-tuning.

    Source:
        the $L^2$ column of Table 4; the AFA release's baseline decays by 1e-4.
    """

    needs_source = False

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__()
        # In a dict, so that the optimiser does not find T's parameters here a second time.
        self._target = dict(parameters)

    @classmethod
    def build(cls, context: BuildContext) -> Self:
        """Build it over T's parameters outside the head, which β decays."""
        return cls(backbone_parameters(context.target, context.head_t))

    def penalty(self, state: ForwardState, weights: dict[str, Tensor]) -> Tensor:
        """Return ½‖w‖² over the backbone."""
        return penalties.l2(self._target.values())


class StartingPoint(WeightDecay):
    r"""L2-SP: $\tfrac12 \lVert w - w^0 \rVert^2$ over T's backbone, with the source's weights $w^0$.

    Source:
        Li et al. 2018 (L2-SP).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]):
        super().__init__(parameters)
        self._start = {name: start[name].detach().clone() for name in parameters}

    @classmethod
    def build(cls, context: BuildContext) -> Self:
        """Build it over T's parameters outside the head, from a copy of the source's present weights."""
        start = dict(context.source.named_parameters())
        return cls(backbone_parameters(context.target, context.head_t), start)

    def penalty(self, state: ForwardState, weights: dict[str, Tensor]) -> Tensor:
        """Return ½‖w − w⁰‖² over the backbone."""
        return penalties.l2_sp(self._target, self._start)


class UniformFeatures(Penalty):
    r"""Feature alignment without attention: $\sum_i \tfrac12 \lVert FM_S^i - FM_T^i \rVert_F^2$.

    Source:
        the `fea_map` variant of the DELTA release; the control for every claim about attention.
    """

    def penalty(self, state: ForwardState, weights: dict[str, Tensor]) -> Tensor:
        """Return the plain feature penalty."""
        return penalties.features(state.maps_s, state.maps_t, state.scale)


class Distillation(Penalty):
    """LwF: a copy of the source's head on T's embedding keeps the predictions of S.

    The copy is trained along with T, as in LwF, and dropped afterwards.

    Source:
        Li and Hoiem 2017 (LwF), temperature 2.
    """

    def __init__(self, head: nn.Module, temperature: float = 2.0):
        super().__init__()
        self.head = copy.deepcopy(head).requires_grad_(True)
        self.temperature = temperature

    @classmethod
    def build(cls, context: BuildContext) -> Self:
        """Build it with a copy of the source's head."""
        return cls(context.source.get_submodule(context.head_s)).to(context.device)

    def penalty(self, state: ForwardState, weights: dict[str, Tensor]) -> Tensor:
        """Return the Kullback-Leibler divergence of the softened predictions."""
        assert state.logits_s is not None  # needs_source is true
        return penalties.lwf(state.logits_s, self.head(state.embedding_t), self.temperature)
