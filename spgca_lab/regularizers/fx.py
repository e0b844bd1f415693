"""Networks as graphs of torch.fx whose convolutions and BatchNorm layers stay whole."""

from collections.abc import Collection

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["trace"]


class _Tracer(fx.Tracer):
    def __init__(self, whole: Collection[str]):
        super().__init__()
        self._whole = whole

    # Subclasses of Conv2d and BatchNorm too: timm's read sizes, which cannot be traced.
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, nn.Conv2d | _BatchNorm) or module_qualified_name in self._whole
        return known or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, whole: Collection[str] = ()) -> fx.Graph:
    """The graph of a network's forward pass.

    Args:
        model: in eval mode.
        whole: names of further modules that are not looked into.

    Raises:
        Exception: of any kind, when the model cannot be traced.

    Example:
        >>> graph = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
        >>> [node.target for node in graph.nodes if node.op == "call_module"]
        ['0', '1']
    """
    return _Tracer(whole).trace(model)
