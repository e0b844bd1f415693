"""How a training step is computed, not what: the engines of a recipe, and each trick by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spgca_lab.regularizers.distances import Kernels, eager_kernels, fused

__all__ = ["ENGINES", "PLAIN", "Engine"]

ENGINES = ("auto", "fast", "plain")


@dataclass(frozen=True)
class Engine:
    """What a step may use. Each switch changes numbers by rounding only; bfloat16 rounds coarsely.

    Args:
        name: `"plain"` or `"fast"`, for the record.
        precision: `"float32"`, or `"bfloat16"` under autocast; attention and sums over maps stay in single precision.
        channels_last: layout of networks and pictures.
        fold: S with BatchNorm folded into its convolutions, except at the taps.
        fuse: penalties that read each map once forward and once backward.
        compile_source: S through torch.compile.
        compile_penalty: sums over maps through torch.compile; otherwise as eager operations.
        compile_data: the way from pictures in a GPU's memory to inputs through torch.compile, as one gather.
        compile_target: T through torch.compile, forward and backward. It takes a minute or two, and is worth it in
            long runs only.
        overlap: S on a CUDA stream of its own, beside T's forward pass.
        cuda_graph: S as a CUDA graph, recorded by torch.compile; then there is no overlap.
        cudnn_benchmark: let cuDNN try its algorithms for every size.
        fused_optimiser: SGD as one kernel.
        keep_memory: on a CPU, do not give memory back to the system between steps.
        read_every: steps whose losses stay on the device until they are read together, so that no step waits.

    Example:
        >>> engine = Engine.of("fast", torch.device("cpu"))
        >>> engine.fold, engine.precision, engine.read_every
        (True, 'float32', 1)
    """

    name: str = "plain"
    precision: str = "float32"
    channels_last: bool = True
    fold: bool = False
    fuse: bool = False
    compile_source: bool = False
    compile_penalty: bool = False
    compile_data: bool = False
    compile_target: bool = False
    overlap: bool = False
    cuda_graph: bool = False
    cudnn_benchmark: bool = False
    fused_optimiser: bool = False
    keep_memory: bool = False
    read_every: int = 1

    @classmethod
    def of(cls, name: str, device: torch.device) -> "Engine":
        """The engine of a recipe on a device.

        On a CPU `"fast"` folds S, fuses the penalty and keeps memory; everything stays in single precision and nothing
        is compiled, for compiling takes longer than it saves in a run of a few hundred steps.

        Args:
            name: of `ENGINES`; `"auto"` is `"fast"` on CPUs and CUDA, and `"plain"` on devices where it was never run.
            device: of the networks.

        Raises:
            ValueError: quoting an unknown name.
        """
        if name not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}, got {name!r}")
        if name == "plain" or (name == "auto" and device.type not in ("cpu", "cuda")):
            return PLAIN
        if device.type != "cuda":
            return cls("fast", fold=True, fuse=True, keep_memory=device.type == "cpu")
        # Cards before Ampere emulate bfloat16, slowly.
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(
            "fast",
            precision="bfloat16" if half else "float32",
            fold=True,
            fuse=True,
            compile_source=True,
            compile_penalty=True,
            compile_data=True,
            overlap=True,
            cudnn_benchmark=True,
            fused_optimiser=True,
            read_every=10,
        )

    @property
    def layout(self) -> torch.memory_format:
        """Memory format of networks and pictures."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def half(self) -> bool:
        """Whether convolutions compute in bfloat16."""
        return self.precision == "bfloat16"

    def kernels(self) -> Kernels | None:
        """What `distances.compare` computes with; make it once a stage, for it holds what was compiled."""
        if not self.fuse:
            return None
        return Kernels.compiled() if self.compile_penalty else eager_kernels

    def optimiser(self, parameters: list[nn.Parameter], lr: float, momentum: float) -> torch.optim.SGD:
        """SGD over `parameters`."""
        options: dict[str, Any] = {"fused": True} if self.fused_optimiser else {}
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, **options)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Around the forward pass: convolutions and matrix products in bfloat16, where the engine has it.

        Example:
            >>> with Engine(precision="bfloat16").autocast(torch.device("cpu")):
            ...     nn.Linear(2, 2)(torch.ones(1, 2)).dtype
            torch.bfloat16
        """
        return torch.autocast(device.type, torch.bfloat16, enabled=self.half)

    @contextmanager
    def running(self, kernels: Kernels | None) -> Iterator[None]:
        """Around a whole step: the penalties' kernels, and cuDNN's search for the fastest algorithm.

        Args:
            kernels: from `kernels`.

        Example:
            >>> with Engine(cudnn_benchmark=True).running(None):
            ...     torch.backends.cudnn.benchmark
            True
        """
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = before or self.cudnn_benchmark
        try:
            with fused(kernels):
                yield
        finally:
            torch.backends.cudnn.benchmark = before


PLAIN = Engine()
