"""Files that are whole or not there: written beside their place, and moved there at once."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["NotWritten", "RunError", "append", "make_folder", "replace_file", "writing"]


class RunError(LookupError):
    """A run, or a part of one, that is not there or cannot be used now."""


class NotWritten(RunError):
    """A run folder that the disk does not take: it is full, or may not be written; what was there before still is."""


_REASONS = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room",
    errno.EFBIG: "the file would be larger than this process may write (ulimit -f)",
    errno.EROFS: "the file system is read-only: use another store",
    errno.EACCES: "no permission to write there: use another store",
    errno.EPERM: "no permission to write there: use another store",
    errno.ENOTDIR: "a part of this path is a file, not a folder: use another store",
    errno.ENOENT: "no folder can be made there: use another store",
    errno.EIO: "the disk reports an error",
}


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Around what writes `target`: an error of the disk becomes one sentence that says what to do.

    Args:
        target: the file or folder.

    Raises:
        NotWritten: naming the target and the reason.

    Example:
        >>> with writing(Path("runs/steps.csv")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        ...
        spgca_lab._files.NotWritten: 'runs/steps.csv' cannot be written: the disk is full: make room; what was there ...
    """
    try:
        yield
    except OSError as error:
        why = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise NotWritten(
            f"{str(target)!r} cannot be written: {why}; what was there before is untouched"
        ) from error


def replace_file(target: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file in one move, so that a reader sees the old one or the new one, never half of one.

    Args:
        target: the file.
        content: of it.
        durable: return only when the disk has it, so that a power cut does not leave an empty file for an old one.

    Raises:
        NotWritten: when the disk does not take it; the old file is untouched, and no piece of the new one is left.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.txt"
        >>> replace_file(file, b"whole")
        >>> file.read_bytes()
        b'whole'
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    with writing(target):
        try:
            with partial.open("wb", buffering=0) as file:
                _write(file.fileno(), content)
                if durable:
                    os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        NotWritten: when that cannot be done.

    Example:
        >>> make_folder(Path("."))
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def append(file: BinaryIO, content: bytes) -> None:
    """Write at the end of an unbuffered file, all of it.

    Raises:
        NotWritten: when the disk does not take it; a part may be there then.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(buffering=0) as file:
        ...     append(file, b"one line")
        ...     file.seek(0)
        ...     file.read()
        0
        b'one line'
    """
    with writing(Path(str(file.name))):
        _write(file.fileno(), content)


def _write(descriptor: int, content: bytes) -> None:
    # The system may take a part only, and says what is wrong when it is asked to take the rest.
    left = memoryview(content)
    while left.nbytes:
        left = left.cast("B")[os.write(descriptor, left) :]
