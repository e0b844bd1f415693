"""How the fast engine runs S and T on a batch: S folded and on a stream of its own, either of them compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spgca_lab.training.compiled import Compiled
from spgca_lab.training.folding import FoldedNetwork
from spgca_lab.training.speed import Engine

__all__ = ["Passed", "Passes", "Tapped"]


class Passed(NamedTuple):
    """What one network gives for a batch: logits `[b, classes]`, maps by tap, and what its head receives `[b, d]`."""

    logits: Tensor
    maps: dict[str, Tensor]
    embedding: Tensor


class Tapped(nn.Module):
    """A network that returns what is tapped along with its logits, so that it can be compiled whole.

    `FeatureTaps` writes what it sees into a dict of its own, at which a compiler stops.

    Args:
        model: shared, not copied; `close` takes the hooks off again.
        taps: names of submodules.
        head: name of the classifier, whose input is the embedding.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
        >>> tapped = Tapped(net, ("0",), "2")
        >>> logits, maps, embedding = tapped(torch.zeros(1, 3, 2, 2))
        >>> tapped.close()
        >>> logits.shape, maps[0].shape, embedding.shape
        (torch.Size([1, 2]), torch.Size([1, 4, 2, 2]), torch.Size([1, 16]))
    """

    def __init__(self, model: nn.Module, taps: tuple[str, ...], head: str):
        super().__init__()
        self.model, self.taps = model, taps
        self._seen: dict[str, Tensor] = {}
        self._looks = False
        self._handles = [model.get_submodule(tap).register_forward_hook(self._keep(tap)) for tap in taps]
        self._handles.append(model.get_submodule(head).register_forward_pre_hook(self._keep_input))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Logits, maps in the order of the taps, and the embedding."""
        self._looks = True
        logits = self.model(x)
        self._looks = False
        return logits, [self._seen.pop(tap) for tap in self.taps], self._seen.pop("")

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, tap: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            # The model may be called without this, as when it is tested: nothing is held then.
            if self._looks:
                self._seen[tap] = output

        return keep

    def _keep_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._looks:
            self._seen[""] = inputs[0]


class Passes:
    """The forward passes of a run under an engine.

    What is folded and cast is a copy of S: S itself stays in single precision, for checkpoints and the hand-over.

    Args:
        source: S.
        target: T.
        taps: tapped modules of both.
        head: name of the classifier of both.
        engine: how to run them.
        device: of both.

    Example:
        >>> from spgca_lab import load_backbone
        >>> mini = load_backbone("mini")
        >>> target, engine = mini.to_target(5, seed=0), Engine("fast", fold=True)
        >>> passes = Passes(mini.model, target, mini.taps, "fc", engine, torch.device("cpu"))
        >>> passes.begin(needs_source=True)
        >>> of_s, of_t = passes(torch.zeros(2, 3, 64, 64))
        >>> of_s.logits.shape, of_t.logits.shape
        (torch.Size([2, 918]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        source: nn.Module,
        target: nn.Module,
        taps: tuple[str, ...],
        head: str,
        engine: Engine,
        device: torch.device,
    ):
        self.source, self.taps, self.head, self.engine = source, taps, head, engine
        self._tapped = Tapped(target, taps, head)
        self._target: Callable[[Tensor], Any] = self._tapped
        if engine.compile_target:
            self._target = Compiled(self._tapped, f"T ({type(target).__name__})")
        self._folded: FoldedNetwork | None = None
        self._source: Callable[[Tensor], Any] | None = None
        self._needs_source = False
        # A CUDA graph has its own order of streams.
        overlaps = engine.overlap and device.type == "cuda" and not engine.cuda_graph
        self._stream = torch.cuda.Stream(device) if overlaps else None

    def begin(self, *, needs_source: bool) -> None:
        """Begin a stage: fold S as it is now, into the tensors of the stage before if there was one.

        Args:
            needs_source: whether the stage's penalty looks at S; if not, it does not run.
        """
        self._needs_source = needs_source
        if not needs_source:
            return
        if self._folded is None:
            self._make_source()
        else:
            self._folded.refold(self.source)

    def __call__(self, x: Tensor) -> tuple[Passed | None, Passed]:
        """What S gives, None if it is not needed, and what T gives for `[b, 3, h, w]`."""
        of_s = self._run_source(x) if self._needs_source else None
        of_t = self._named(self._target(x))
        if of_s is not None and self._stream is not None:
            here = torch.cuda.current_stream(x.device)
            here.wait_stream(self._stream)
            for tensor in (of_s.logits, *of_s.maps.values()):
                # Its memory may not be given away on the stream it comes from while this one still reads.
                tensor.record_stream(here)
        return of_s, of_t

    def close(self) -> None:
        """Leave T as it was."""
        self._tapped.close()

    def _make_source(self) -> None:
        # With every module's own output kept nothing is folded.
        keep = self.taps if self.engine.fold else tuple(dict(self.source.named_modules()))
        self._folded = FoldedNetwork(self.source, keep)
        self._folded.to(memory_format=self.engine.layout)
        if self.engine.half:
            # Autocast would cast these weights at every step: it keeps the copies of trained ones only.
            for module in self._folded.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        self._source = Tapped(self._folded.net, self.taps, self.head)
        if self.engine.compile_source:
            mode = "reduce-overhead" if self.engine.cuda_graph else None
            self._source = Compiled(self._source, f"S ({type(self.source).__name__})", mode=mode)

    def _run_source(self, x: Tensor) -> Passed:
        assert self._source is not None
        with torch.no_grad():
            if self._stream is None:
                return self._named(self._source(x))
            self._stream.wait_stream(torch.cuda.current_stream(x.device))
            with torch.cuda.stream(self._stream):
                x.record_stream(self._stream)
                return self._named(self._source(x))

    def _named(self, given: tuple[Tensor, list[Tensor], Tensor]) -> Passed:
        logits, maps, embedding = given
        return Passed(logits, dict(zip(self.taps, maps, strict=True)), embedding)
