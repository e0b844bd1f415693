"""A network from a tap on, with channels of the tap zeroed; what comes before the tap is computed once."""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from spgca_lab.regularizers.fx import trace

__all__ = ["Cut", "Whole", "suffix"]

# Operations whose channel c depends on channel c alone if the number of channels stays (a flatten of 1×1 maps).
ALONE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.Flatten),
)
ALONE_FUNCTIONS: tuple[Any, ...] = (
    *(operator.add, operator.iadd, torch.add, torch.relu, F.relu, F.relu6, F.dropout),
    *(F.adaptive_avg_pool2d, torch.flatten),
)
ALONE_METHODS = ("add", "add_", "relu", "relu_", "flatten")

# Rounding (TF32 on a GPU too) stays far below this share of the largest logit, a network that was cut wrongly does not.
AGREEMENT = 1e-2


class Whole:
    """The whole network, with a hook that zeroes a channel of the tap: right for every network, and slow.

    Args:
        model: in eval mode.
        tap: name of a module with `[b, c, h, w]` outputs.
        x: preprocessed pictures, `[b, 3, h, w]`.

    Attributes:
        channels: c.

    Example:
        >>> whole = Whole(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), "0", torch.ones(2, 3, 1, 1))
        >>> whole(torch.tensor([0, 1, 1]), torch.tensor([0, 3, 2])).eq(0).nonzero().tolist()
        [[0, 0], [1, 3], [2, 2]]
    """

    def __init__(self, model: nn.Module, tap: str, x: Tensor):
        self._model, self._module, self._x = model, model.get_submodule(tap), x
        self.channels = 0
        self(torch.zeros(1, dtype=torch.long, device=x.device))

    def __call__(self, pictures: Tensor, channels: Tensor | None = None) -> Tensor:
        """Logits of `pictures`, `[n]` numbers of rows of x, with one channel of each zeroed: `channels`, `[n]`."""

        def silence(_: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            self.channels = output.shape[1]
            return None if channels is None else _replaced(output.clone(), channels, output.new_zeros(()))

        handle = self._module.register_forward_hook(silence)
        try:
            return self._model(self._x[pictures])
        finally:
            handle.remove()


class Cut:
    r"""A network cut behind a tap: what comes before is computed once, what comes after as often as it is called.

    Behind a tap there are often operations that leave channels apart: BatchNorm in eval mode, the residual sum, ReLU,
    the global average. With channel c zeroed, their result $y$ is $y(FM)$ but for channel c, which is that of $y(0)$:
    two passes through them do for all channels, and the network is cut behind them.

    Args:
        model: in eval mode; it is left as it is, and its modules are run by a graph of torch.fx.
        tap: name of a module with `[b, c, h, w]` outputs.
        x: preprocessed pictures, `[b, 3, h, w]`.
        rows: pictures a pass while the maps are recorded.

    Attributes:
        channels: c.

    Raises:
        Exception: of any kind, when torch.fx cannot trace the model, or it cannot be cut there.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> x = torch.ones(2, 3, 1, 1)
        >>> cut, whole = Cut(net, "0", x), Whole(net, "0", x)
        >>> pictures, channels = torch.tensor([0, 1, 1]), torch.tensor([0, 3, 2])
        >>> torch.allclose(cut(pictures, channels), whole(pictures, channels))
        True
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, tap: str, x: Tensor, rows: int | None = None):
        graph = trace(model, whole=[tap])
        _Shapes(model, graph=graph).run(x[:1])
        start = next(node for node in graph.nodes if node.op == "placeholder")
        (cut,) = [node for node in graph.nodes if node.op == "call_module" and node.target == tap]
        seen, changed = _dependent(graph, start), _dependent(graph, cut)
        apart = _apart(model, graph, cut, changed)
        self.channels = _shape(cut)[1]

        def read_by(readers: Iterable[fx.Node], among: Iterable[fx.Node]) -> list[fx.Node]:
            kept = set(readers)
            return [node for node in among if not kept.isdisjoint(node.users)]

        # Pieces of the graph: before the tap; where channels stay apart; what is run for every channel.
        earlier = [node for node in seen if node not in set(changed)]
        joined = [node for node in graph.nodes if node not in set(apart)]
        beside = read_by(apart, earlier)
        besides = read_by([node for node in changed if node not in set(apart)], earlier)
        frontier = read_by(joined, apart)
        for node in (*beside, *besides):
            if _shape(node)[:1] != _shape(start)[:1]:
                raise ValueError(f"{node} is no tensor with a row for each picture")
        before = _piece(model, graph, [start], [cut, *beside, *besides])
        between = _piece(model, graph, [cut, *beside], frontier)
        (output,) = [node for node in graph.nodes if node.op == "output"]
        (logits,) = output.all_input_nodes
        self._after = _piece(model, graph, [*frontier, *besides], [logits])

        intact, zeroed, others = [], [], []
        for pictures in x.split(rows or len(x)):
            maps, *values = before(pictures)
            inputs, rest = values[: len(beside)], values[len(beside) :]
            # Copies, since what follows may work in place.
            others.append([value.clone() for value in rest])
            intact.append(between(maps.clone(), *(value.clone() for value in inputs)))
            zeroed.append(between(torch.zeros_like(maps), *(value.clone() for value in inputs)))
        self._intact, self._zeroed, self._others = map(_joined, (intact, zeroed, others))

    def __call__(self, pictures: Tensor, channels: Tensor | None = None) -> Tensor:
        """Logits of `pictures`, `[n]` numbers of rows of x, with one channel of each zeroed: `channels`, `[n]`."""
        maps = [intact[pictures] for intact in self._intact]
        if channels is not None:
            for rows, zeroed in zip(maps, self._zeroed, strict=True):
                _replaced(rows, channels, zeroed[pictures, channels])
        return self._after(*maps, *(other[pictures] for other in self._others))[0]


def suffix(model: nn.Module, tap: str, x: Tensor, rows: int | None = None) -> Cut | Whole:
    """The network cut behind a tap, or, where torch.fx cannot do that faithfully, the whole network.

    Args:
        model: in eval mode.
        tap: name of a module with `[b, c, h, w]` outputs.
        x: preprocessed pictures, `[b, 3, h, w]`.
        rows: pictures a pass while the maps are recorded.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> type(suffix(net, "0", torch.ones(2, 3, 1, 1))).__name__
        'Cut'
    """
    whole = Whole(model, tap, x)
    try:
        cut = Cut(model, tap, x, rows)
        # What a graph does not show (a tensor changed in place behind its back) would show here.
        first = torch.zeros(1, dtype=torch.long, device=x.device)
        for channels in (None, first):
            expected, found = whole(first, channels), cut(first, channels)
            if not (found - expected).abs().max() <= AGREEMENT * expected.abs().max():
                return whole
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return whole
    return cut


class _Shapes(fx.Interpreter):
    """Notes the shape of every tensor at its node."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def _shape(node: fx.Node) -> tuple[int, ...]:
    """The shape that was noted for one picture; empty for what is no tensor."""
    return node.meta.get("shape", ())


def _dependent(graph: fx.Graph, start: fx.Node) -> list[fx.Node]:
    """A node and all that is computed from it, in order."""
    found = {start: None}
    for node in graph.nodes:
        if any(value in found for value in node.all_input_nodes):
            found[node] = None
    return list(found)


def _apart(model: nn.Module, graph: fx.Graph, cut: fx.Node, changed: Sequence[fx.Node]) -> list[fx.Node]:
    """The tap's node and those after it whose channel c depends on the tap's channel c alone."""
    found, mixed = [cut], set[fx.Node]()
    for node in changed[1:]:
        kept = _shape(node)[:2] == _shape(cut)[:2] and mixed.isdisjoint(node.all_input_nodes)
        if kept and _leaves_alone(model, node):
            found.append(node)
        else:
            mixed.add(node)
    return found


def _leaves_alone(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if isinstance(module, nn.BatchNorm2d) and (module.training or module.running_mean is None):
            return False
        return type(module) in ALONE_MODULES
    if node.op == "call_function" and node.target in ALONE_FUNCTIONS:
        # A sum with something of fewer dimensions could be along other axes.
        shapes = [_shape(value) for value in node.all_input_nodes]
        return len(shapes) == 1 or all(len(shape) == len(_shape(node)) for shape in shapes)
    if node.op == "call_method" and node.target == "mean":
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, tuple | list) and {d % 4 for d in dims if isinstance(d, int)} == {2, 3}
    return node.op == "call_method" and node.target in ALONE_METHODS


def _piece(
    model: nn.Module, graph: fx.Graph, given: Sequence[fx.Node], wanted: Sequence[fx.Node]
) -> Callable[..., list[Tensor]]:
    """The part of a graph that computes some nodes from others; the modules in it are the model's own."""
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
    # On a CPU convolutions are up to twice as fast when a pixel's channels lie together.
    lay = [value.ndim == 4 and value.device.type == "cpu" for value in values]
    return [
        value.contiguous(memory_format=torch.channels_last) if together else value
        for value, together in zip(values, lay, strict=True)
    ]


def _replaced(rows: Tensor, channels: Tensor, by: Tensor) -> Tensor:
    """`[n, c, ...]` with channel `channels[i]` of row i replaced, in place."""
    rows[torch.arange(len(rows), device=rows.device), channels] = by
    return rows
