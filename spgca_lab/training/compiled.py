"""Functions that torch.compile makes faster, and that run as they are where it cannot."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["CompileWarning", "Compiled"]

VARIANTS = 64


class CompileWarning(UserWarning):
    """Something runs as it is written, slower and with the same numbers, because it could not be compiled."""


class Compiled:
    """A function or module, compiled when it is first called.

    Where that fails (no C++ compiler, an operation that the compiler does not know), a `CompileWarning` says so once
    with the reason, and the function itself is called from then on. An error of the function itself is raised as ever.

    Args:
        function: of tensors.
        what: its name in the warning.
        dynamic: compile once for all sizes; otherwise once a size, which is faster for one that keeps coming back.
        mode: as in `torch.compile`, e.g. `"reduce-overhead"` for CUDA graphs.
        backend: as in `torch.compile`.

    Example:
        >>> twice = Compiled(lambda x: 2 * x, "twice", backend="eager")
        >>> twice(torch.ones(2))
        tensor([2., 2.])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        *,
        dynamic: bool = False,
        mode: str | None = None,
        backend: str = "inductor",
    ):
        self.function, self.what = function, what
        self._options: dict[str, Any] = {"dynamic": dynamic, "mode": mode, "backend": backend}
        self._compiled: Callable[..., Any] | None = None
        self.failed = False

    def __call__(self, *args: Any) -> Any:
        """What the function returns."""
        if self.failed:
            return self.function(*args)
        if self._compiled is None:
            self._compiled = torch.compile(self.function, fullgraph=True, **self._options)
        try:
            # Maps come in a few shapes, precisions and layouts; with the default of 8 the ninth would not be compiled.
            with torch._dynamo.config.patch(recompile_limit=VARIANTS):
                return self._compiled(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # If the function is what is wrong, its own error is the one to see.
            result = self.function(*args)
            self.failed = True
            lines = str(error).strip().splitlines() or ["no reason given"]
            warnings.warn(
                f"{self.what} could not be compiled and runs as it is, slower and with the same numbers: "
                f"{type(error).__name__}: {lines[0]}",
                CompileWarning,
                stacklevel=2,
            )
            return result
