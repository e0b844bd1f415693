"""Checkpoints of a training: a safetensors file with a checksum, and the previous one in reserve."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from spgca_lab._files import RunError, replace_file, writing
from spgca_lab.runs.memory import free_memory

NAME, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"
FILES = (NAME, PREVIOUS)
_STATE, _TENSOR, _PAIRS = "state", "tensor", "pairs"
_CHECKSUM = re.compile(rb'"sha256":\s*"([0-9a-f]{64})"')


class CheckpointError(RunError):
    """A damaged checkpoint."""


def write(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, after which the last one is the previous one.

    Raises:
        NotWritten: when the disk refuses; the last checkpoint stays usable.
    """
    content, file = pack(state), folder / NAME
    with writing(file):
        if file.exists():
            file.replace(folder / PREVIOUS)
    replace_file(file, content, durable=True)


def read(folder: Path) -> dict[str, Any] | None:
    """Return the newest undamaged checkpoint, with a warning that names a damaged one; None if there is none.

    Raises:
        CheckpointError: when all are damaged, with what to do.
    """
    damaged: list[str] = []
    for file in (folder / name for name in FILES):
        try:
            state = unpack(file.read_bytes())
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            damaged.append(f"{str(file)!r} cannot be used, {error}")
            continue
        if damaged:
            advice = f"going on from {file.name!r}, at step {state.get('step')}"
            warnings.warn(f"{damaged[0]}: {advice}", stacklevel=2)
        return state
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}; start over with resume=False (--fresh)")
    return None


def remove(folder: Path) -> None:
    """Remove all checkpoints."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def exists(folder: Path) -> bool:
    """Return whether there is a checkpoint."""
    return any((folder / name).exists() for name in FILES)


def pack(state: Mapping[str, Any]) -> bytes:
    """Return a state as the content of a safetensors file that holds its own SHA-256 checksum.

    A state has dicts, lists and tuples (which `unpack` returns as lists) of numbers, texts, None and tensors.

    Example:
        >>> unpack(pack({"step": 3, "net": {"w": torch.ones(2)}, "by number": {0: None}}))
        {'step': 3, 'net': {'w': tensor([1., 1.])}, 'by number': {0: None}}
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_flatten(state, tensors)).encode()
    tensors[_STATE] = torch.frombuffer(bytearray(plain), dtype=torch.uint8)
    content = to_bytes(tensors, {"sha256": "0" * 64})
    start, checksum = _checksum(content)
    return content[:start] + checksum + content[start + len(checksum) :]


def unpack(content: bytes) -> dict[str, Any]:
    """Return the state that `pack` received; raise `CheckpointError` when a byte is missing or changed."""
    try:
        start, checksum = _checksum(content)
        if not content.startswith(checksum, start):
            raise ValueError("its content differs from its checksum")
        tensors = safetensors.torch.load(content)
        return dict(_restore(json.loads(tensors[_STATE].numpy().tobytes()), tensors))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"it is damaged: {error}") from error


def to_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Return contiguous tensors as the content of a safetensors file.

    Without room for the copies it raises `MemoryError`; safetensors would abort the process.
    """
    # The content exists twice for a moment: in the library's buffer, and as Python's bytes.
    size, free = 2 * sum(tensor.nbytes for tensor in tensors.values()), free_memory()
    if free is not None and size > free:
        raise MemoryError(f"saving the tensors takes {size:,} bytes of memory, and {free:,} are free")
    return safetensors.torch.save(dict(tensors), metadata=metadata)


def _checksum(content: bytes) -> tuple[int, bytes]:
    """Return the place of the checksum in a file, and the checksum of all bytes around it."""
    found = _CHECKSUM.search(content)
    if found is None:
        raise ValueError("it has no checksum")
    start, end = found.span(1)
    digest = hashlib.sha256(content[:start])
    digest.update(memoryview(content)[end:])
    return start, digest.hexdigest().encode()


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `value` in terms of JSON, and collect its tensors in `tensors`."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensor = value.detach().cpu()
        channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        # The format refuses tensors that share their storage, hence the copies.
        tensors[name] = tensor.contiguous().clone()
        return {_TENSOR: name, "channels_last": channels_last and not tensor.is_contiguous()}
    if isinstance(value, Mapping):
        return {_PAIRS: [[key, _flatten(each, tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_flatten(each, tensors) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if _PAIRS in value:
        return {key: _restore(each, tensors) for key, each in value[_PAIRS]}
    tensor = tensors[value[_TENSOR]]
    return tensor.contiguous(memory_format=torch.channels_last) if value["channels_last"] else tensor
