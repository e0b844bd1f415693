"""Memory that a training on the CPU takes and frees at every step, kept in between."""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["kept"]

# Of glibc's malloc.h, and its own limits for the thresholds that it moves by itself.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
USUAL = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
KEPT = {MMAP_THRESHOLD: 2**30, TRIM_THRESHOLD: 2**31 - 1}

_inside = 0


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
