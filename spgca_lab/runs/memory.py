"""The memory of a training: an estimate from one small step, and what to do when there is not enough."""

import gc
import re
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet
from spgca_lab.training.loop import Training
from spgca_lab.training.objective import TrainingError
from spgca_lab.training.recipe import Recipe

SMALLEST = 2
CONTAINER = Path("/sys/fs/cgroup")
# Of the free memory; the rest is for workspaces of convolutions, fragments and other processes.
SHARE = 0.7
# Twice what ResNet-101 takes per pixel of its input: a training far below what is free is not measured.
BYTES_PER_PIXEL = 6_000
# Tensors saved for the backward pass are most of a step; gradients of maps and temporary copies are the rest.
BEYOND_SAVED = 1.3
# CPU allocators have no class of error for it.
_NO_MEMORY = re.compile("DefaultCPUAllocator: can't allocate|could not create a (primitive|memory)|bad_alloc")


class OutOfMemory(TrainingError):
    """A training that memory does not hold; the message names a batch size that would fit."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated bytes of a training with `batch` images per step on its device.

    `resident` are networks, attention nets and optimiser state, `per_image` is what a step takes per image, and `free`
    what is free now, this training's networks included; None where the system does not say.
    """

    device: str
    batch: int
    resident: int
    per_image: int
    free: int | None

    @property
    def bytes(self) -> int:
        """The whole training."""
        return self.resident + self.batch * self.per_image

    @property
    def largest_batch(self) -> int | None:
        """Images per step that would fit with a margin, 0 where none would, None where that is not known."""
        if self.free is None:
            return None
        count = int((SHARE * self.free - self.resident) / max(1, self.per_image))
        return count if count >= SMALLEST else 0

    def __str__(self) -> str:
        free = "" if self.free is None else f", where {_giga(self.free)} are free"
        return (
            f"about {_giga(self.bytes)} on {self.device}{free}: networks and optimiser {_giga(self.resident)}, "
            f"a step of {self.batch} images {_giga(self.batch * self.per_image)}"
        )


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes that this process may still take on a device; None where the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    bounds = [int(psutil.virtual_memory().available)]
    # A container's limit is not in the machine's figures; files read lately count as used there, and give way.
    with suppress(OSError, ValueError, KeyError):
        cache = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        used = int((CONTAINER / "memory.current").read_text()) - int(cache["inactive_file"])
        bounds.append(int((CONTAINER / "memory.max").read_text()) - used)
    return max(0, min(bounds))


def release_memory(device: torch.device | str = "cpu") -> None:
    """Return memory that nothing uses any more to the system."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def estimate_memory(
    recipe: Recipe, backbone: Backbone, train: ImageSet, device: str | torch.device | None = None
) -> MemoryEstimate:
    """Estimate the memory of a training from one forward pass of a few images.

    The tensors saved for the backward pass are counted and scaled with the batch. Not included are workspaces of
    convolutions, some tenths of a gigabyte on a GPU, and the Python process itself.
    """
    few = min(4, recipe.batch, len(train))
    small = recipe.replace(batch_size=few, engine="plain", snapshots=0)
    training = Training(small, backbone, train, train, device=device)
    networks = training.networks
    try:
        free = free_memory(networks.device)
        step = learned = 0
        for index in range(len(training.bounds) - 1):
            training.begin_stage(index)
            assert training.stage is not None
            step = max(step, _saved_bytes(training))
            if (penalty := training.stage.objective.penalty) is not None:
                learned = max(learned, 3 * _bytes(penalty.parameters()))
    finally:
        training.close()
    # Weights, gradients and momentum of T; S has weights alone.
    resident = _bytes(networks.source.parameters()) + 3 * _bytes(networks.target.parameters()) + learned
    return MemoryEstimate(str(networks.device), recipe.batch, resident, int(BEYOND_SAVED * step / few), free)


def check_memory(recipe: Recipe, backbone: Backbone, train: ImageSet, device: torch.device) -> None:
    """Refuse a training that memory cannot hold: on a CPU the system would kill the process without an error.

    Raises:
        OutOfMemory: with the estimate, what is free, and the batch size that would fit.
    """
    free, side = free_memory(device), recipe.image_size or backbone.image_size
    if free is None or 2 * recipe.batch * side**2 * BYTES_PER_PIXEL < free:
        return
    estimate = estimate_memory(recipe, backbone, train, device)
    if estimate.bytes > free:
        raise OutOfMemory(f"this training needs {estimate}; {advice(recipe, estimate.largest_batch)}")


def fits_on_device(
    recipe: Recipe, backbone: Backbone, train: ImageSet, device: str | torch.device | None = None
) -> bool:
    """Return whether a GPU takes two real steps of every stage."""
    training = Training(recipe, backbone, train, train, device=device)
    where = training.networks.device
    try:
        for index in range(len(training.bounds) - 1):
            training.begin_stage(index)
            assert training.stage is not None
            for number in range(2):
                training.stage.step(number)
            training.stage.read()
        return True
    except torch.OutOfMemoryError as error:
        # The frames of the error hold the tensors of the step.
        traceback.clear_frames(error.__traceback__)
        return False
    finally:
        training.close()
        del training
        release_memory(where)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def advice(recipe: Recipe, largest: int | None) -> str:
    """Return what to do about a training that does not fit; `largest` is the batch that would, None if unknown."""
    if largest == 0:
        return (
            f"even a batch of {SMALLEST} images seems too large: use a smaller image_size, or a smaller backbone "
            f"than {recipe.backbone!r}"
        )
    if largest is None or largest >= recipe.batch:
        return f"use a smaller batch_size than {recipe.batch}, such as {max(SMALLEST, recipe.batch // 2)}"
    return f"batch_size={largest} would fit"


def _saved_bytes(training: Training) -> int:
    """Return the bytes that the first step of a stage saves for its backward pass, without the weights."""
    assert training.stage is not None
    networks = training.networks
    saved: dict[int, int] = {}
    weights = {_address(p) for net in (networks.target, networks.source) for p in net.parameters()}

    def count(tensor: Tensor) -> Tensor:
        saved[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        training.stage.objective(*networks.batches(0))
    return sum(size for address, size in saved.items() if address not in weights)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
