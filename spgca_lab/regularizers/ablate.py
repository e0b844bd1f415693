"""Networks with single channels of a tap zeroed, split so that the part before the tap runs only once."""

import operator
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spgca_lab.backbones.tap import tapped_map

# Operations whose output channel c depends on input channel c alone, if the number of channels stays the same.
CHANNELWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.Flatten),
)
CHANNELWISE_FUNCTIONS: tuple[Any, ...] = (
    *(operator.add, operator.iadd, torch.add, torch.relu, F.relu, F.relu6, F.dropout),
    *(F.adaptive_avg_pool2d, torch.flatten),
)
CHANNELWISE_METHODS = ("add", "add_", "relu", "relu_", "flatten")

# Share of the largest logit: rounding (TF32 on a GPU too) stays far below it, a wrong split does not.
AGREEMENT = 1e-2


class FullNetwork:
    """The whole network with a hook that zeroes channels of the tap: right for every network, and slow.

    Args:
        model: in eval mode.
        tap: name of a module with `[b, c, h, w]` outputs, or a `Tap` whose `to_map` returns a view of the output.
        x: preprocessed images, `[b, 3, h, w]`.

    Attributes:
        channels: c.

    Raises:
        ValueError: when `to_map` copies, so that a zero in its map would not reach the network.
    """

    def __init__(self, model: nn.Module, tap: str, x: Tensor):
        self._model, self._tap, self._module, self._x = model, tap, model.get_submodule(tap), x
        self.channels = 0
        self(torch.zeros(1, dtype=torch.long, device=x.device))

    def __call__(self, images: Tensor, channels: Tensor | None = None) -> Tensor:
        """Return logits of the rows `images` `[n]` of x, with channel `channels[i]` of row i zeroed."""

        def zero(_: nn.Module, args: Any, output: Any) -> Any:
            changed = output if channels is None or not isinstance(output, Tensor) else output.clone()
            maps = tapped_map(self._tap, changed)
            if not isinstance(output, Tensor) or _storages(maps)[0]._cdata != _storages(changed)[0]._cdata:
                raise ValueError(
                    f"channels of tap {str(self._tap)!r} cannot be zeroed: its to_map must return a view of one tensor "
                    "(select, permute, reshape), as tokens_to_map does, and no copy"
                )
            self.channels = maps.shape[1]
            if channels is not None:
                _replaced(maps, channels, maps.new_zeros(()))
            return changed

        handle = self._module.register_forward_hook(zero)
        try:
            return self._model(self._x[images])
        finally:
            handle.remove()


class SplitNetwork:
    r"""A network split after a tap: the first part runs once, the second part at every call.

    Operations after a tap often keep channels apart: BatchNorm in eval mode, the residual sum, ReLU, the global
    average. With channel c zeroed, their result $y$ equals $y(FM)$ except for channel c, which is that of $y(0)$. Two
    passes through them therefore serve all channels, and the network is split after them.

    Args:
        model: in eval mode; it stays as it is, and a graph of torch.fx runs its modules.
        tap: name of a module with `[b, c, h, w]` outputs.
        x: preprocessed images, `[b, 3, h, w]`.
        rows: images per pass while the maps are recorded.

    Attributes:
        channels: c.

    Raises:
        Exception: of any kind, when torch.fx cannot trace the model, or it cannot be split there; for a `Tap` with
            `to_map`.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, tap: str, x: Tensor, rows: int | None = None):
        if getattr(tap, "to_map", None):
            raise ValueError(f"the output of {str(tap)!r} is no map by itself")
        graph = trace(model, whole=[tap])
        _Shapes(model, graph=graph).run(x[:1])
        start = next(node for node in graph.nodes if node.op == "placeholder")
        (cut,) = [node for node in graph.nodes if node.op == "call_module" and node.target == tap]
        seen, changed = _dependent(graph, start), _dependent(graph, cut)
        apart = _channelwise(model, graph, cut, changed)
        self.channels = _shape(cut)[1]

        def read_by(readers: Iterable[fx.Node], among: Iterable[fx.Node]) -> list[fx.Node]:
            users = set(readers)
            return [node for node in among if not users.isdisjoint(node.users)]

        # Three pieces of the graph: before the tap; channelwise after it; the rest, which runs for every channel.
        earlier = [node for node in seen if node not in set(changed)]
        joined = [node for node in graph.nodes if node not in set(apart)]
        beside = read_by(apart, earlier)
        besides = read_by([node for node in changed if node not in set(apart)], earlier)
        frontier = read_by(joined, apart)
        for node in (*beside, *besides):
            if _shape(node)[:1] != _shape(start)[:1]:
                raise ValueError(f"{node} is not a tensor with one row per image")
        before = _piece(model, graph, [start], [cut, *beside, *besides])
        between = _piece(model, graph, [cut, *beside], frontier)
        (output,) = [node for node in graph.nodes if node.op == "output"]
        (logits,) = output.all_input_nodes
        self._after = _piece(model, graph, [*frontier, *besides], [logits])

        intact, zeroed, others = [], [], []
        for images in x.split(rows or len(x)):
            maps, *values = before(images)
            inputs, rest = values[: len(beside)], values[len(beside) :]
            # Copies, because the next modules may work in place.
            others.append([value.clone() for value in rest])
            intact.append(between(maps.clone(), *(value.clone() for value in inputs)))
            zeroed.append(between(torch.zeros_like(maps), *(value.clone() for value in inputs)))
        self._intact, self._zeroed, self._others = map(_joined, (intact, zeroed, others))

    def __call__(self, images: Tensor, channels: Tensor | None = None) -> Tensor:
        """Return logits of the rows `images` `[n]` of x, with channel `channels[i]` of row i zeroed."""
        maps = [intact[images] for intact in self._intact]
        if channels is not None:
            for rows, zeroed in zip(maps, self._zeroed, strict=True):
                _replaced(rows, channels, zeroed[images, channels])
        return self._after(*maps, *(other[images] for other in self._others))[0]


def suffix(model: nn.Module, tap: str, x: Tensor, rows: int | None = None) -> SplitNetwork | FullNetwork:
    """Split the network after a tap, or return the full network where a split would not be exact.

    The arguments are those of `SplitNetwork`.
    """
    full = FullNetwork(model, tap, x)
    try:
        split = SplitNetwork(model, tap, x, rows)
        # A graph does not show a tensor that is changed in place outside of it; the logits do.
        first = torch.zeros(1, dtype=torch.long, device=x.device)
        for channels in (None, first):
            expected, found = full(first, channels), split(first, channels)
            if not (found - expected).abs().max() <= AGREEMENT * expected.abs().max():
                return full
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return full
    return split


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the peak size of the tensors made during `run`, without the workspaces of convolutions.

    Example:
        >>> peak_bytes(lambda: (torch.ones(1000) + 1).sum())
        8000
    """
    with _AllocationTracker() as tracker:
        run()
    return tracker.peak


class _AllocationTracker(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Inputs are either known already or older than this block.
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in given | self._known:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._end, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(values: object) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


def trace(model: nn.Module, whole: Collection[str] = ()) -> fx.Graph:
    """Trace a network in eval mode; convolutions, BatchNorm layers and the modules `whole` stay single nodes.

    Raises:
        Exception: of any kind, when the model cannot be traced.
    """

    class Tracer(fx.Tracer):
        # Subclasses of Conv2d and BatchNorm too: those of timm read sizes, which cannot be traced.
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            known = isinstance(m, nn.Conv2d | _BatchNorm) or module_qualified_name in whole
            return known or super().is_leaf_module(m, module_qualified_name)

    return Tracer().trace(model)


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Return the recorded shape for one image, empty for a node that is not a tensor."""
    return node.meta.get("shape", ())


def _dependent(graph: fx.Graph, start: fx.Node) -> list[fx.Node]:
    """Return a node and all nodes that are computed from it, in order."""
    found = {start: None}
    for node in graph.nodes:
        if any(value in found for value in node.all_input_nodes):
            found[node] = None
    return list(found)


def _channelwise(
    model: nn.Module, graph: fx.Graph, cut: fx.Node, changed: Sequence[fx.Node]
) -> list[fx.Node]:
    """Return the tap's node and the later nodes whose channel c depends on the tap's channel c alone."""
    found, mixed = [cut], set[fx.Node]()
    for node in changed[1:]:
        same_shape = _shape(node)[:2] == _shape(cut)[:2]
        if same_shape and mixed.isdisjoint(node.all_input_nodes) and _keeps_channels_apart(model, node):
            found.append(node)
        else:
            mixed.add(node)
    return found


def _keeps_channels_apart(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if isinstance(module, nn.BatchNorm2d) and (module.training or module.running_mean is None):
            return False
        return type(module) in CHANNELWISE_MODULES
    if node.op == "call_function" and node.target in CHANNELWISE_FUNCTIONS:
        # A summand with fewer dimensions could lie along other axes.
        shapes = [_shape(value) for value in node.all_input_nodes]
        return len(shapes) == 1 or all(len(shape) == len(_shape(node)) for shape in shapes)
    if node.op == "call_method" and node.target == "mean":
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, tuple | list) and {d % 4 for d in dims if isinstance(d, int)} == {2, 3}
    return node.op == "call_method" and node.target in CHANNELWISE_METHODS


def _piece(
    model: nn.Module, graph: fx.Graph, given: Sequence[fx.Node], wanted: Sequence[fx.Node]
) -> Callable[..., list[Tensor]]:
    """Return the part of a graph that computes `wanted` from `given`, with the model's own modules."""
    needed, stack = set(given), list(wanted)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    part = fx.Graph()
    copies = {node: part.placeholder(node.name) for node in given}
    for node in graph.nodes:
        if node in needed and node not in copies:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output([copies[node] for node in wanted])
    return fx.GraphModule(model, part)


def _joined(blocks: list[list[Tensor]]) -> list[Tensor]:
    values = [torch.cat(parts) for parts in zip(*blocks, strict=True)]
    # On a CPU convolutions are up to twice as fast in channels-last layout.
    return [
        value.contiguous(memory_format=torch.channels_last)
        if value.ndim == 4 and value.device.type == "cpu"
        else value
        for value in values
    ]


def _replaced(rows: Tensor, channels: Tensor, by: Tensor) -> Tensor:
    """Replace channel `channels[i]` of row i of `[n, c, ...]`, in place."""
    rows[torch.arange(len(rows), device=rows.device), channels] = by
    return rows
