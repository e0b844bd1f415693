"""Source and target as a training runs them: taps recorded, compiled where that pays, and the hand-over."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spgca_lab.regularizers.taps import FeatureTaps

Maps = dict[str, Tensor]


class CompileWarning(UserWarning):
    """A network runs eagerly, slower and with the same numbers, because it could not be compiled."""


class ForwardPass(NamedTuple):
    """The outputs of one network for a batch.

    `logits` `[b, classes]`, `maps` by tap `[b, c, h, w]`, and `embedding`, the input of its head `[b, d]`.
    """

    logits: Tensor
    maps: Maps
    embedding: Tensor


def forward_with_taps(model: nn.Module, taps: tuple[str, ...], head: str, x: Tensor) -> ForwardPass:
    """Run a network once on inputs `[b, 3, s, s]`, with hooks for this call alone."""
    seen: list[Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with FeatureTaps(model, taps) as recorder:
            logits = model(x)
            return ForwardPass(logits, recorder.maps, seen[-1])
    finally:
        handle.remove()


class TappedNetwork(nn.Module):
    """A network whose hooks stay on, so that a step need not set them and `torch.compile` can read through them.

    `FeatureTaps` sets its hooks anew for every block, which costs a small network a percent of its step.

    Args:
        model: S or T; shared, not copied.
        taps: names of tapped modules.
        head: name of the classifier.
        compiled: run the network through `torch.compile`; where that fails, a `CompileWarning` says so once.
    """

    def __init__(self, model: nn.Module, taps: tuple[str, ...], head: str, *, compiled: bool = False):
        super().__init__()
        self.model, self.taps = model, taps
        self._seen: dict[str, Tensor] = {}
        self._recording = False
        self._handles = [model.get_submodule(tap).register_forward_hook(self._record(tap)) for tap in taps]
        self._handles.append(model.get_submodule(head).register_forward_pre_hook(self._record_input))
        self._run: Callable[[Tensor], Any] = self._run_eagerly
        if compiled:
            frozen = not any(p.requires_grad for p in model.parameters())
            on_gpu = next(model.parameters()).is_cuda
            # A CUDA graph starts S's kernels at once; on a GPU starting them takes longer than computing them.
            self._run = _CompiledOrEager(self._run_eagerly, type(model).__name__, graph=frozen and on_gpu)

    def forward(self, x: Tensor) -> ForwardPass:
        """Return logits, maps and embedding for inputs `[b, 3, s, s]`."""
        logits, maps, embedding = self._run(x)
        return ForwardPass(logits, dict(zip(self.taps, maps, strict=True)), embedding)

    def close(self) -> None:
        """Remove the hooks from the network."""
        for handle in self._handles:
            handle.remove()

    def _run_eagerly(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        self._recording = True
        try:
            logits = self.model(x)
        finally:
            self._recording = False
        return logits, [self._seen.pop(tap) for tap in self.taps], self._seen.pop("")

    def _record(self, tap: str) -> Callable[..., None]:
        to_map = getattr(tap, "to_map", None)

        def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            # An evaluation calls the model directly; nothing is recorded then.
            if self._recording:
                self._seen[tap] = output if to_map is None else to_map(output)

        return record

    def _record_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._recording:
            self._seen[""] = inputs[0]


class _CompiledOrEager:
    def __init__(self, function: Callable[..., Any], name: str, *, graph: bool):
        self.function, self.name, self.graph = function, name, graph
        self._compiled: Callable[..., Any] | None = torch.compile(
            function, fullgraph=True, dynamic=False, mode="reduce-overhead" if graph else None
        )

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            return self.function(*args)
        try:
            if self.graph:
                # The maps of the step before are not needed any more: the graph may write over them.
                torch.compiler.cudagraph_mark_step_begin()
            return self._compiled(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # If the network itself fails, its own error is the one to raise.
            result = self.function(*args)
            self._compiled = None
            lines = str(error).strip().splitlines() or ["no reason given"]
            warnings.warn(
                f"{self.name} could not be compiled and runs eagerly, slower and with the same numbers: "
                f"{type(error).__name__}: {lines[0]}",
                CompileWarning,
                stacklevel=2,
            )
            return result


def set_target_mode(target: nn.Module, trains: str, target_bn: str) -> None:
    """Put T into train mode, but its BatchNorm with `target_bn="eval"`, and all of it where only the head trains."""
    target.train(trains != "head")
    if target_bn == "eval":
        for module in target.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def hand_over(target: nn.Module, source: nn.Module, head: str) -> None:
    """Copy T's weights and BatchNorm buffers into S, whose own head (of that name) stays (Sec. 3.3)."""
    own = {name: value for name, value in source.state_dict().items() if name.startswith(head + ".")}
    new = {name: value for name, value in target.state_dict().items() if not name.startswith(head + ".")}
    source.load_state_dict(new | own)
