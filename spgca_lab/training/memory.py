"""Memory: how much is free, and what a training on the CPU takes and frees at every step, kept in between."""

import ctypes
import gc
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

__all__ = ["free_memory", "give_back", "kept"]

MEMINFO, STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
CONTAINER = Path("/sys/fs/cgroup")

# Of glibc's malloc.h, and its own limits for the thresholds that it moves by itself.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
USUAL = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
KEPT = {MMAP_THRESHOLD: 2**30, TRIM_THRESHOLD: 2**31 - 1}

_inside = 0


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that this process may still take on a device, at most; None where the system does not tell.

    On a CPU the least of what the machine has (swap included), what the container leaves and what the process' own
    limit (`ulimit -v`) leaves; on a GPU what the card has and what PyTorch holds there without using it.

    Example:
        >>> free_memory() != 0
        True
    """
    device = torch.device(device)
    if device.type == "cuda":
        spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + spare
    if device.type != "cpu" or sys.platform != "linux":
        return None
    bounds: list[int] = []
    with suppress(OSError, TypeError):
        told = MEMINFO.read_text(encoding="ascii")
        bounds.append(_kilobytes(told, "MemAvailable") + _kilobytes(told, "SwapFree"))
    with suppress(OSError, ValueError, TypeError):
        limit = int((CONTAINER / "memory.max").read_text(encoding="ascii"))
        # Files that were read lately count as used there, and give way.
        cache = re.search(
            r"^inactive_file (\d+)", (CONTAINER / "memory.stat").read_text(encoding="ascii"), re.M
        )
        used = int((CONTAINER / "memory.current").read_text(encoding="ascii")) - int(cache[1] if cache else 0)
        bounds.append(limit - used)
    with suppress(ImportError, OSError, TypeError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            bounds.append(most - _kilobytes(STATUS.read_text(encoding="ascii"), "VmSize"))
    return max(0, min(bounds)) if bounds else None


def give_back(device: torch.device | str = "cpu") -> None:
    """Give memory that nothing uses any more back to the system, so that what is free can be told.

    Example:
        >>> give_back()
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _kilobytes(told: str, name: str) -> int:
    """A value of the kernel's tables in bytes; a `TypeError` where it is not there."""
    found: Any = re.search(rf"^{name}:\s+(\d+) kB", told, re.M)
    return 1024 * int(found[1])


@contextmanager
def kept() -> Iterator[None]:
    """Inside the block, memory that is freed stays with the process, for whoever asks next; at its end it goes back.

    glibc gives tensors above 32 MiB back to the system at once, and every page of the next one is fetched and cleared
    anew: a quarter of the time of a step whose maps are as large as those of `lite0` at 112 pixels with 32 pictures.
    Where there is no glibc nothing happens.

    Example:
        >>> with kept():
        ...     pass
    """
    global _inside
    libc = _glibc()
    _inside += 1
    if libc is not None and _inside == 1:
        _set(libc, KEPT)
    try:
        yield
    finally:
        _inside -= 1
        if libc is not None and _inside == 0:
            _set(libc, USUAL)
            libc.malloc_trim(0)


def _set(libc: Any, thresholds: dict[int, int]) -> None:
    for which, value in thresholds.items():
        libc.mallopt(which, value)


def _glibc() -> Any:
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
