"""The memory of a training before it starts, by going through its steps with tensors that have sizes and no values."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from spgca_lab.backbones import load_backbone
from spgca_lab.regularizers.distances import eager_kernels
from spgca_lab.regularizers.peak import peak_bytes
from spgca_lab.regularizers.registry import Stage
from spgca_lab.runs.interrupts import let_go
from spgca_lab.training.evaluate import EVAL_BATCH
from spgca_lab.training.memory import free_memory, give_back
from spgca_lab.training.objective import Objective, TrainingError
from spgca_lab.training.processes import Processes
from spgca_lab.training.recipe import AUTO, Recipe
from spgca_lab.training.speed import Engine
from spgca_lab.training.stage import StageSteps, Training
from spgca_lab.training.staging import build_penalty, dry_maps, load_data, target_mode

__all__ = [
    "Footprint",
    "OutOfMemory",
    "check_room",
    "fitting",
    "out_of_memory",
    "predict_memory",
    "settle_batch_size",
]

SMALLEST, LARGEST = 2, 64
# Of what is free; the rest is for workspaces of convolutions (up to 0.36 of what is predicted, on an H100), fragments,
# and whoever else is there.
SHARE = 0.7
# About twice what ResNet-101 takes a pixel of its input; what stays far below what is free is not looked at.
BYTES_A_PIXEL = 6_000
KEPT = 1.8
# On a CPU there is no class of error for it: what PyTorch's allocator, oneDNN and C++ say.
_NO_ROOM = (
    "DefaultCPUAllocator: can't allocate memory",
    "could not create a primitive",
    "could not create a memory",
    "bad_alloc",
)


class OutOfMemory(TrainingError):
    """A training that memory does not hold; the message says which batch size it would."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a training on its device, and what is free there.

    Args:
        device: of the networks.
        batch: pictures a step.
        resident: networks, attention nets, momentum, and pictures in a GPU's memory.
        step: what the tensors of a step take at most, over the stages, or those of a test or of saving if that is more;
            without workspaces of convolutions.
        free: at the time of asking; None where the system does not tell.
        largest: pictures a step that would fit; None where that is not known, 0 where none would.
        tested: pictures that fit at once when T is tested.
    """

    device: str
    batch: int
    resident: int
    step: int
    free: int | None
    largest: int | None
    tested: int = EVAL_BATCH

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.resident + self.step

    @property
    def fits(self) -> bool:
        """Whether there is room, as far as is known."""
        return self.free is None or self.bytes <= self.free

    @property
    def roomy(self) -> bool:
        """Whether there is room to spare, as far as is known."""
        return self.free is None or self.bytes <= SHARE * self.free

    def __str__(self) -> str:
        free = "" if self.free is None else f", where {_giga(self.free)} are free"
        return (
            f"{_giga(self.bytes)} on {self.device}{free}: networks and optimiser {_giga(self.resident)}, "
            f"a step of {self.batch} pictures {_giga(self.step)}"
        )


def predict_memory(recipe: Recipe, device: str | None = None) -> Footprint:
    """What a training will take at most, without taking it.

    Every stage's step is gone through with tensors that have a size and no values, forward and backward, for the batch
    size asked for, however large. Not seen are workspaces of convolutions, some tenths of a gigabyte on a GPU, and
    the Python process itself; S is taken as if it were not folded, which is little. DELTA is taken with equal weights,
    and the measuring of its filters keeps to a budget of its own.

    Args:
        recipe: with a batch size, or `"auto"`: then as `settle_batch_size` would settle it.
        device: of the training; None takes a GPU if there is one.

    Raises:
        TrainingError: when the recipe does not fit the data.

    Example:
        >>> of_64 = predict_memory(Recipe(method="spa", batch_size=64, per_class=2), "cpu")
        >>> of_32 = predict_memory(Recipe(method="spa", batch_size=32, per_class=2), "cpu")
        >>> round(of_64.step / of_32.step, 1)
        2.0
    """
    if recipe.batch_size == AUTO:
        recipe = settle_batch_size(recipe, device)
    with _measured(recipe, Processes(device)) as training:
        return _footprint(training)


def settle_batch_size(
    recipe: Recipe, device: str | None = None, processes: Processes | None = None
) -> Recipe:
    """The recipe with a number for `batch_size="auto"`: 64, or as often halved as memory demands.

    It is at most the number of training pictures. On a GPU a real step is taken with it; if that fails, half of it is
    tried. A recipe that has a number stays as it is.

    Args:
        recipe: with `batch_size="auto"`.
        device: of the training; None takes a GPU if there is one.
        processes: that share each batch, where there are several.

    Raises:
        OutOfMemory: when not even the smallest batch fits.

    Example:
        >>> settle_batch_size(Recipe(method="spa", batch_size="auto", per_class=1), "cpu").batch_size
        48
    """
    if recipe.batch_size != AUTO:
        return recipe
    processes = processes or Processes(device)
    count = processes.count
    backbone = load_backbone(recipe.backbone, weights=recipe.weights)
    pictures = len(load_data(recipe, recipe.image_size or backbone.image_size)[0])
    size = min(LARGEST, pictures) // count * count
    smallest = SMALLEST * count
    if size < smallest:
        raise TrainingError(f"{pictures} training pictures are fewer than the smallest batch, {smallest}")
    with _measured(recipe.replace(batch_size=size), processes) as training:
        told = _footprint(training, largest=False)
        while not told.roomy and size > smallest:
            size = max(smallest, size // 2 // count * count)
            told = _footprint(training, size, largest=False)
    while told.roomy:
        settled = recipe.replace(batch_size=size)
        if processes.device.type == "cpu" or _really_fits(settled, processes):
            return settled
        if size == smallest:
            break
        size = max(smallest, size // 2 // count * count)
    raise OutOfMemory(
        f"not even a batch of {smallest} pictures of {recipe.backbone} fits ({told}): use a smaller image_size or "
        "backbone"
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device.

    Example:
        >>> out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")), out_of_memory(ValueError("no"))
        (True, False)
    """
    told = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in told for words in _NO_ROOM)


def check_room(training: Training) -> int:
    """Refuse a training that memory cannot hold: a CPU's system would end the process, without a word.

    Only one that could be too large is looked at. Where it fits with little to spare, memory goes back to the system
    between steps: kept, it is in pieces, and takes up to `KEPT` times as much.

    Args:
        training: before its first step.

    Returns:
        how many pictures to test at once.

    Raises:
        OutOfMemory: with what it takes, what is free, and the batch size that would fit.

    Example:
        >>> from spgca_lab import load_dataset
        >>> train = load_dataset("stickers", per_class=1, test_per_class=1)[0]
        >>> check_room(Training(Recipe(), load_backbone("mini"), train, 64, Processes("cpu")))
        100
    """
    free = free_memory(training.device)
    pixels = training.recipe.batch * training.image_size**2 / training.processes.count
    if free is None or 2 * pixels * BYTES_A_PIXEL < free:
        return EVAL_BATCH
    footprint = _footprint(training)
    if KEPT * footprint.bytes > free:
        training.spare_memory()
    if not footprint.fits:
        raise OutOfMemory(f"this training needs {footprint}; {fitting(training.recipe, footprint.largest)}")
    return footprint.tested


def fitting(recipe: Recipe, largest: int | None) -> str:
    """What to do about a training that does not fit.

    Example:
        >>> fitting(Recipe(batch_size=64), 20)
        'batch_size=20 would fit'
    """
    if largest == 0:
        return (
            f"even a batch of {SMALLEST} pictures seems too large: use a smaller image_size, or a smaller backbone "
            f"than {recipe.backbone!r}"
        )
    if largest is None or largest >= recipe.batch:
        return f"use a smaller batch_size than {recipe.batch}, such as {max(SMALLEST, recipe.batch // 2)}"
    return f"batch_size={largest} would fit"


@contextmanager
def _measured(recipe: Recipe, processes: Processes) -> Iterator[Training]:
    """A training that is only measured: nothing is compiled for it."""
    backbone = load_backbone(recipe.backbone, weights=recipe.weights)
    size = recipe.image_size or backbone.image_size
    train, _ = load_data(recipe, size)
    engine = replace(
        Engine.of(recipe.engine, processes.device),
        compile_source=False,
        compile_penalty=False,
        compile_data=False,
        compile_target=False,
        cuda_graph=False,
    )
    training = Training(recipe, backbone, train, size, processes, engine)
    try:
        yield training
    finally:
        training.close()


def _footprint(training: Training, batch: int | None = None, *, largest: bool = True) -> Footprint:
    batch, count = batch or training.recipe.batch, training.processes.count
    nets, parts = _resident(training)
    there = training.batches.train.images
    resident = nets + (there.nbytes if there.device.type != "cpu" else 0)
    # What this training has taken already is not asked for again.
    here = _bytes_of(training.source) + _bytes_of(training.target)
    free = free_memory(training.device)
    free = None if free is None else free + here
    room = math.inf if free is None else SHARE * free - resident
    tested = EVAL_BATCH
    while tested > SMALLEST and _test_bytes(training, tested) > room:
        tested //= 2
    # Saving copies networks and momentum twice. Neither it nor a test is at the same time as a step.
    other = max(_test_bytes(training, tested), 2 * nets if training.device.type == "cpu" else 0)
    step = max(other, _most(training, parts, batch // count))
    found = Footprint(str(training.device), batch, resident, step, free, None, tested)
    if free is None or not largest:
        return found
    half = max(SMALLEST, batch // count // 2)
    whole = _most(training, parts, batch // count)
    each = (whole - _most(training, parts, half)) / max(1, batch // count - half)
    fits = int((room - whole) / each + batch // count) * count if each > 0 else batch
    return replace(found, largest=fits if fits >= SMALLEST * count and other <= room else 0)


def _really_fits(recipe: Recipe, processes: Processes) -> bool:
    """Two steps of every stage, where a failure can be caught; a CPU's system would end the process."""
    try:
        _take_steps(recipe, processes)
    except torch.OutOfMemoryError as error:
        let_go(error, everywhere=True)
        return False
    finally:
        # Out here nothing holds the training any more.
        give_back(processes.device)
    return True


def _take_steps(recipe: Recipe, processes: Processes) -> None:
    with _measured(recipe, processes) as training:
        for index in range(len(recipe.stages().stages)):
            stage = StageSteps(training, index)
            stage.step(0)
            stage.step(1)
            stage.read()


Part = tuple[Stage, Objective]
Module = TypeVar("Module", bound=nn.Module)


def _resident(training: Training) -> tuple[int, list[Part]]:
    """Bytes of networks and momentum, and every stage with its objective."""
    maps = dry_maps(
        training.backbone, training.source, training.train.images[:2].to(training.device), training.image_size
    )
    parts: list[Part] = []
    learned = 0
    for index, stage in enumerate(training.recipe.stages().stages):
        penalty = None
        if stage.penalty is not None:
            penalty = build_penalty(
                stage.penalty,
                training.recipe,
                index,
                backbone=training.backbone,
                source=training.source,
                target=training.target,
                train=training.train,
                image_size=training.image_size,
                maps=maps,
                sketch=True,
            )
            learned = max(learned, 2 * _bytes_of(penalty))
        objective = Objective(
            source=training.source,
            target=training.target,
            head=training.head,
            taps=training.backbone.taps,
            penalty=penalty,
            alpha=1.0,
            beta=1.0,
            scale=str(training.recipe.scale),
            defers=True,
        )
        parts.append((stage, objective))
    return _bytes_of(training.source) + 2 * _bytes_of(training.target) + learned, parts


def _most(training: Training, parts: list[Part], batch: int) -> int:
    return max(_step_bytes(training, stage, objective, batch) for stage, objective in parts)


def _step_bytes(training: Training, stage: Stage, objective: Objective, batch: int) -> int:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    source, target = _like(objective.source, mode), _like(objective.target, mode)
    penalty = None if objective.penalty is None else _like(objective.penalty, mode)
    target.requires_grad_(stage.trains != "head")
    target.get_submodule(objective.head).requires_grad_(True)
    source.eval()
    target_mode(target, stage.trains, training.recipe.target_bn)
    there = replace(objective, source=source, target=target, penalty=penalty)
    side, engine = training.image_size, training.engine
    with mode:
        pictures = torch.empty(batch, 3, side, side, device=training.device)

        def run() -> Tensor:
            x = pictures.contiguous(memory_format=engine.layout)
            y = torch.zeros(batch, dtype=torch.int64, device=training.device)
            with engine.running(eager_kernels if engine.fuse else None), engine.autocast(training.device):
                terms = there(x, y)
            terms.loss.backward()
            return terms.loss

        return peak_bytes(run)


def _test_bytes(training: Training, pictures: int) -> int:
    """Of the forward pass that tests T on so many pictures at once."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    target = _like(training.target, mode).eval()
    side = training.image_size
    with mode, torch.no_grad():
        return peak_bytes(lambda: target(torch.empty(pictures, 3, side, side, device=training.device)))


def _like(module: Module, mode: FakeTensorMode) -> Module:
    """A copy whose tensors have sizes and no values."""
    known: dict[int, Any] = {id(t): mode.from_tensor(t) for t in [*module.parameters(), *module.buffers()]}
    made = copy.deepcopy(module, known)
    # Gradients come along, and what is added to them would be taken for nothing new.
    made.zero_grad(set_to_none=True)
    return made


def _bytes_of(module: nn.Module) -> int:
    return sum(t.nbytes for t in [*module.parameters(), *module.buffers()])


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
