"""Checkpoints of a training: tensors and plain values in one safetensors file with a checksum, and the one before."""

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from spgca_lab._files import RunError, replace_file, writing
from spgca_lab.training.memory import free_memory

__all__ = [
    "CheckpointError",
    "checkpoint_step",
    "exists",
    "pack",
    "read",
    "remove",
    "serialised",
    "unpack",
    "write",
]

NAME, BEFORE = "checkpoint.safetensors", "checkpoint-before.safetensors"
# Of versions up to 0.1.0, by torch.save.
OLD = "checkpoint.pt"
NEXT = f"{NAME}.next"
FILES = (NAME, BEFORE, OLD, NEXT)
FORMAT = 2
_STATE, _SUM, _TENSOR, _PAIRS = "state", "sha256", "tensor", "pairs"


class CheckpointError(RunError):
    """A checkpoint that is damaged, or not one of this version."""


def pack(state: Mapping[str, Any]) -> bytes:
    """A state as the bytes of a safetensors file; nothing in it can execute.

    Args:
        state: dicts, lists and tuples (which come back as lists) of numbers, texts, None and tensors.

    Raises:
        TypeError: naming a type that has no place in it.

    Example:
        >>> unpack(pack({"step": 3, "net": {"w": torch.ones(2)}, "by number": {0: None}}))
        {'step': 3, 'net': {'w': tensor([1., 1.])}, 'by number': {0: None}}
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_flat(dict(state), tensors), ensure_ascii=False)
    told = {_STATE: plain, "format": str(FORMAT), _SUM: _digest(plain, tensors)}
    return serialised(tensors, told)


def serialised(tensors: Mapping[str, Tensor], told: dict[str, str] | None = None) -> bytes:
    """Tensors as the content of a safetensors file.

    Args:
        tensors: contiguous ones.
        told: words that go with them.

    Raises:
        MemoryError: when there is no room for what is copied on the way; safetensors would abort the process.

    Example:
        >>> safetensors.torch.load(serialised({"w": torch.ones(2)}))
        {'w': tensor([1., 1.])}
    """
    # Twice in memory: once as Python's bytes, once as the file.
    size, free = 2 * sum(t.nbytes for t in tensors.values()), free_memory()
    if free is not None and size > free:
        raise MemoryError(
            f"to be saved, tensors take {size:,} bytes of memory on the way, and {free:,} are free"
        )
    return safetensors.torch.save(dict(tensors), metadata=told)


def unpack(content: bytes) -> dict[str, Any]:
    """The state that `pack` was given.

    Raises:
        CheckpointError: when a byte is missing or another than it was, or a newer version wrote it.

    Example:
        >>> unpack(pack({"step": 3})[:-1])
        Traceback (most recent call last):
        ...
        spgca_lab.runs.checkpoint.CheckpointError: it is damaged: ...
    """
    try:
        told = _metadata(content)
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"it is damaged: {error}") from error
    if _digest(told[_STATE], tensors) != told[_SUM]:
        raise CheckpointError("it is damaged: its contents differ from its checksum")
    return _deep(json.loads(told[_STATE]), tensors)


def write(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one before it stays, in case that the disk does not keep the new one.

    Raises:
        NotWritten: when the disk does not take it; the old one is the last then.
    """
    replace_file(folder / NEXT, pack(state), durable=True)
    with writing(folder / NAME):
        if (folder / NAME).exists():
            (folder / NAME).replace(folder / BEFORE)
        (folder / NEXT).replace(folder / NAME)


def remove(folder: Path) -> None:
    """Take all checkpoints away: the run is over."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from.

    Example:
        >>> exists(Path("no/such/folder"))
        False
    """
    return any((folder / name).exists() for name in (NAME, BEFORE, OLD))


def read(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint that is whole; None without any.

    A damaged one is said in a warning, and the one before it taken, from which a run comes to the same numbers.

    Raises:
        CheckpointError: when none is whole, saying what to do.
    """
    damaged: list[str] = []
    for name in (NAME, BEFORE, OLD):
        file = folder / name
        if not file.exists():
            continue
        try:
            state = _old(file) if name == OLD else unpack(file.read_bytes())
        except CheckpointError as error:
            damaged.append(f"{str(file)!r} cannot be used, {error}")
            continue
        if damaged:
            warnings.warn(
                f"{'; '.join(damaged)}: going on from {name!r}, at step {state.get('step')}", stacklevel=2
            )
        return state
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}; start over with resume=False (--fresh)")
    return None


def checkpoint_step(folder: Path) -> int | None:
    """After how many steps the last checkpoint was written, None without one; its tensors are not read.

    Raises:
        CheckpointError: when it is damaged.

    Example:
        >>> checkpoint_step(Path("no/such/folder")) is None
        True
    """
    file = next((folder / name for name in (NAME, BEFORE, OLD) if (folder / name).exists()), None)
    if file is None:
        return None
    if file.name == OLD:
        return int(_old(file)["step"])
    try:
        with safetensors.safe_open(str(file), "pt") as opened:
            plain = json.loads((opened.metadata() or {})[_STATE])
        return int(dict(plain[_PAIRS])["step"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}") from error


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + length])["__metadata__"]
    if int(told["format"]) > FORMAT:
        raise CheckpointError(
            f"it has format {told['format']}, and this version knows {FORMAT}: update spgca_lab"
        )
    return {name: str(told[name]) for name in (_STATE, _SUM)}


def _digest(plain: str, tensors: Mapping[str, Tensor]) -> str:
    # PyTorch's own archives have checksums that it does not look at.
    told = hashlib.sha256(plain.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        told.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            told.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return told.hexdigest()


def _flat(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON has it, with its tensors put aside."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        kept = value.detach().cpu()
        last = kept.ndim == 4 and kept.is_contiguous(memory_format=torch.channels_last)
        # A copy, for two of a state may lie in one storage, which the format does not know.
        tensors[name] = kept.contiguous().clone()
        return {_TENSOR: name, "channels_last": last and not kept.is_contiguous()}
    if isinstance(value, Mapping):
        return {_PAIRS: [[key, _flat(each, tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_flat(each, tensors) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _deep(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_deep(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if _PAIRS in value:
        return {key: _deep(each, tensors) for key, each in value[_PAIRS]}
    tensor = tensors[value[_TENSOR]]
    return tensor.contiguous(memory_format=torch.channels_last) if value["channels_last"] else tensor


def _old(file: Path) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"it is damaged, or more than tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"it holds a {type(state).__name__}, not a state")
    return state
