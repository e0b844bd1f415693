"""Options that change how fast a step is computed, never what it computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

ENGINES = ("auto", "fast", "plain")


@dataclass(frozen=True)
class SpeedOptions:
    """Speed options of a training. Each changes numbers by rounding only; bfloat16 rounds coarsely.

    Args:
        name: `"plain"` or `"fast"`, for the record.
        precision: `"float32"`, or `"bfloat16"` under autocast; attention and penalties stay in single precision.
        channels_last: memory layout of networks and images.
        compile_source: S through `torch.compile`, on a GPU as a CUDA graph.
        compile_target: T through `torch.compile`, forward and backward; it takes a minute or two.
        cudnn_benchmark: let cuDNN try its algorithms for every size.
        fused_optimiser: one kernel for all parameters.
        read_every: steps whose losses stay on the device before they are read together, so that no step waits.
    """

    name: str = "plain"
    precision: str = "float32"
    channels_last: bool = True
    compile_source: bool = False
    compile_target: bool = False
    cudnn_benchmark: bool = False
    fused_optimiser: bool = False
    read_every: int = 1

    @classmethod
    def of(cls, name: str, device: torch.device) -> "SpeedOptions":
        """Return the options of a recipe's engine on a device.

        On a CPU nothing is compiled: compiling takes longer than it saves in a run of a few hundred steps.

        Args:
            name: from `ENGINES`; `"auto"` is `"fast"` on CUDA and CPUs, and `"plain"` on other devices.
            device: where the networks live.

        Raises:
            ValueError: quoting an unknown name.
        """
        if name not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}, got {name!r}")
        if name == "plain" or (name == "auto" and device.type not in ("cpu", "cuda")):
            return PLAIN
        if device.type != "cuda":
            return cls("fast")
        # Cards before Ampere emulate bfloat16, slowly.
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(
            "fast",
            precision="bfloat16" if half else "float32",
            compile_source=True,
            cudnn_benchmark=True,
            fused_optimiser=True,
            read_every=10,
        )

    @property
    def layout(self) -> torch.memory_format:
        """Memory format of networks and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context of a forward pass: convolutions and matrix products in bfloat16 where that is set."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Set cuDNN's benchmark mode for a step, and restore it."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = before or self.cudnn_benchmark
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before


PLAIN = SpeedOptions()
