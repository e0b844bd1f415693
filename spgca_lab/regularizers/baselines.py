"""What attention is compared with: L2, L2-SP, uniform feature alignment and LwF, as penalties of a stage."""

import copy
from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.base import Penalty, Setup, StepState

__all__ = ["Distillation", "StartingPoint", "UniformFeatures", "WeightDecay", "backbone_parameters"]


def backbone_parameters(model: nn.Module, head: str) -> dict[str, nn.Parameter]:
    """Parameters of `model` outside its classifier `head`, by name.

    Example:
        >>> model = nn.ModuleDict({"body": nn.Linear(2, 2, bias=False), "fc": nn.Linear(2, 3)})
        >>> list(backbone_parameters(model, "fc"))
        ['body.weight']
    """
    return {name: p for name, p in model.named_parameters() if not name.startswith(head + ".")}


class WeightDecay(Penalty):
    r"""L2: $\tfrac12 \lVert w \rVert^2$ over T's backbone; with α = 0 it is plain fine-tuning.

    Source:
        the $L^2$ column of Table 4; the AFA release's baseline decays by 1e-4.
    """

    needs_source = False

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__()
        self._target = dict(parameters)

    @classmethod
    def build(cls, setup: Setup) -> Self:
        """Take T's parameters outside the head, which has its own β."""
        return cls(backbone_parameters(setup.target, setup.head_t))

    def penalty(self, state: StepState, weights: dict[str, Tensor]) -> Tensor:
        """½‖w‖² over the backbone."""
        return penalties.l2(self._target.values())


class StartingPoint(WeightDecay):
    r"""L2-SP: $\tfrac12 \lVert w - w^0 \rVert^2$ over T's backbone, $w^0$ the source's weights.

    Source:
        Li et al. 2018 (L2-SP).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]):
        super().__init__(parameters)
        self._start = {name: start[name].detach().clone() for name in parameters}

    @classmethod
    def build(cls, setup: Setup) -> Self:
        """Take T's parameters outside the head, and the source's as they are now."""
        return cls(backbone_parameters(setup.target, setup.head_t), dict(setup.source.named_parameters()))

    def penalty(self, state: StepState, weights: dict[str, Tensor]) -> Tensor:
        """½‖w − w⁰‖² over the backbone."""
        return penalties.l2_sp(self._target, self._start)


class UniformFeatures(Penalty):
    r"""Feature maps aligned without attention: $\sum_i \tfrac12 \lVert FM_S^i - FM_T^i \rVert_F^2$.

    Source:
        the `fea_map` variant of the DELTA release; every attention claim must beat it.
    """

    def penalty(self, state: StepState, weights: dict[str, Tensor]) -> Tensor:
        """The plain feature penalty."""
        return penalties.features(state.maps_s, state.maps_t, state.scale)


class Distillation(Penalty):
    """LwF: a copy of the source's head on T's embedding keeps giving the source's answers.

    The copy is trained along with T, as in LwF, and thrown away afterwards.

    Source:
        Li and Hoiem 2017 (LwF), temperature 2.
    """

    def __init__(self, head: nn.Module, temperature: float = 2.0):
        super().__init__()
        self.head = copy.deepcopy(head).requires_grad_(True)
        self.temperature = temperature

    @classmethod
    def build(cls, setup: Setup) -> Self:
        """Copy the source's head."""
        return cls(setup.source.get_submodule(setup.head_s)).to(setup.device)

    def penalty(self, state: StepState, weights: dict[str, Tensor]) -> Tensor:
        """Kullback-Leibler divergence of the softened answers."""
        return penalties.lwf(state.logits_s, self.head(state.embedding_t), self.temperature)
