"""The processes that train one run together: one, unless `torchrun` has started several."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from spgca_lab._checks import quote
from spgca_lab.training.global_batch import share_batch_norm
from spgca_lab.training.objective import TrainingError

__all__ = ["Processes"]

# Evaluations and checkpoints, which the others wait for, can take long; torchrun itself ends those whose peer died.
PATIENCE = timedelta(minutes=60)
Result = TypeVar("Result")


class Processes:
    """What a run knows of the processes that train it. This one is alone, and every method is as good as absent.

    With several, each takes its part of every batch, gradients and BatchNorm's moments are those of the whole batch,
    and the first one, the main process, alone writes the run folder.

    Args:
        device: where this process computes; None takes a GPU if there is one.

    Example:
        >>> alone = Processes("cpu")
        >>> alone.count, alone.main, alone.rows(8), alone.from_main(lambda: 3)
        (1, True, slice(0, 8, None), 3)
    """

    count = 1
    rank = 0

    def __init__(self, device: str | torch.device | None = None):
        try:
            default = "cuda" if torch.cuda.is_available() else "cpu"
            self.device = torch.device(default if device is None else device)
        except RuntimeError as error:
            raise ValueError(
                f"device must be 'cpu', 'cuda', 'cuda:0' or the like, or None, got {quote(device)}"
            ) from error

    @staticmethod
    def current(device: str | None = None) -> "Processes":
        """The processes that this one belongs to, by the environment that `torchrun` sets.

        Args:
            device: `"cpu"` or `"cuda"`; None takes GPUs if there are any. Of several processes of a machine each
                takes its own GPU. A process that is alone may also be given one by its number.

        Raises:
            TrainingError: when there are several and Accelerate is missing.
            ValueError: when they cannot have what `device` asks for.

        Example:
            >>> Processes.current("cpu").count
            1
        """
        several = int(os.environ.get("WORLD_SIZE") or 1) > 1 and "LOCAL_RANK" in os.environ
        return _Several(device) if several else Processes(device)

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def draws(self) -> tuple[int, ...]:
        """What a seed needs besides, so that each process draws its own dropout; nothing for one that is alone."""
        return ()

    def rows(self, batch: int) -> slice:
        """This process' part of a batch of `batch` pictures.

        Raises:
            TrainingError: when the batch cannot be divided evenly.
        """
        part, rest = divmod(batch, self.count)
        if rest:
            fitting = (part * self.count, (part + 1) * self.count)
            listed = " or ".join(str(size) for size in fitting if size > 0)
            raise TrainingError(
                f"batch_size is {batch}, which {self.count} processes cannot divide evenly: use {listed}, "
                "or another --nproc-per-node"
            )
        return slice(part * self.rank, part * (self.rank + 1))

    def mean(self, values: Tensor) -> Tensor:
        """The average of all processes' `values`."""
        return values

    def highest(self, number: int) -> int:
        """The highest number that any process gives."""
        return number

    def agree(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(self.highest(int(flag)))

    def from_main(self, work: Callable[[], Result]) -> Result:
        """What `work` returns on the main process, the only one that calls it; an error there is raised by all.

        Example:
            >>> Processes("cpu").from_main(lambda: "once")
            'once'
        """
        return work()

    def on_main(self, work: Callable[[], Result]) -> Result | None:
        """The same for what cannot be told: the others get None."""
        return work()

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """Inside the block the first process of each machine goes ahead, so that only it downloads and decodes."""
        yield

    def share_batch_norm(self, model: nn.Module) -> nn.Module:
        """`model` with the BatchNorm moments of the whole batch."""
        return model

    def share_gradients(self, model: nn.Module, *, some_idle: bool = False) -> nn.Module:
        """`model`, after whose backward pass every process has the mean gradient; it begins as the main process has it.

        Args:
            model: takes a part of a batch and gives a loss that is a mean over it.
            some_idle: parameters may go without a gradient; looking for them takes time.
        """
        return model

    def wait(self) -> None:
        """Go on when all have come so far."""

    def leave(self) -> None:
        """End the connection; call it when all is done, not after an error."""

    def lost(self, error: BaseException) -> bool:
        """Whether `error` says that another process is gone."""
        return False


class _Several(Processes):
    def __init__(self, device: str | None):
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise TrainingError(
                f"{os.environ['WORLD_SIZE']} processes train one run through Hugging Face Accelerate, which is "
                'missing: pip install "spgca-lab[cluster]"'
            ) from error
        self._cpu = _on_cpu(device)
        state = PartialState(cpu=self._cpu, timeout=PATIENCE)
        self.count, self.rank = state.num_processes, state.process_index
        self._first_here = state.local_process_index == 0
        super().__init__("cpu" if self._cpu else state.device)

    @property
    def draws(self) -> tuple[int, ...]:
        return (self.rank,)

    def mean(self, values: Tensor) -> Tensor:
        shared = values.clone()
        distributed.all_reduce(shared)
        return shared / self.count

    def highest(self, number: int) -> int:
        shared = torch.tensor(number, device=self.device)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        return int(shared)

    def from_main(self, work: Callable[[], Result]) -> Result:
        result, error = _attempt(work) if self.main else (None, None)
        return self._tell(result, error)

    def on_main(self, work: Callable[[], Result]) -> Result | None:
        result, error = _attempt(work) if self.main else (None, None)
        self._tell(None, error)
        return result

    def _tell(self, result: Any, error: Exception | None) -> Any:
        told: list[tuple[Any, Exception | None]] = [(result, _portable(error) if error else None)]
        distributed.broadcast_object_list(told, src=0, device=self.device)
        result, told_error = told[0]
        if told_error is not None:
            raise error or told_error
        return result

    @contextmanager
    def first_here(self) -> Iterator[None]:
        if not self._first_here:
            self.wait()
        try:
            yield
        finally:
            # After an error too: what fails for the first fails for the others, which say so themselves.
            if self._first_here:
                self.wait()

    def share_batch_norm(self, model: nn.Module) -> nn.Module:
        return share_batch_norm(model)

    def share_gradients(self, model: nn.Module, *, some_idle: bool = False) -> nn.Module:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        how = DistributedDataParallelKwargs(find_unused_parameters=some_idle)
        # An Accelerator keeps all that it has prepared; what it knows of the processes is not its own.
        return Accelerator(cpu=self._cpu, mixed_precision="no", kwargs_handlers=[how]).prepare(model)

    def wait(self) -> None:
        self.highest(0)

    def leave(self) -> None:
        self.wait()
        distributed.destroy_process_group()

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, distributed.DistError) or (
            isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)
        )


# Gloo has no error class of its own.
_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer")


def _on_cpu(device: str | None) -> bool:
    if device is None and not torch.cuda.is_available():
        return True
    if device is not None and device not in ("cpu", "cuda"):
        raise ValueError(
            f"device is {device!r}, but {os.environ['WORLD_SIZE']} processes train: "
            "use 'cuda', where each takes its own GPU, or 'cpu'"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    gpus = torch.cuda.device_count()
    if device != "cpu" and here > gpus:
        raise ValueError(
            f"{here} processes on this machine, which has {gpus} GPUs, one for each: "
            + (f"use --nproc-per-node {gpus}" if gpus else "use --device cpu")
        )
    return device == "cpu"


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _portable(error: Exception) -> Exception:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        # Some errors cannot be made again from what they say.
        return RuntimeError(f"{type(error).__name__}: {error}")
