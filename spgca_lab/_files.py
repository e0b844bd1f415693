"""Write files atomically, with errors that name the file and the remedy."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["NotWritten", "RunError", "append", "make_folder", "replace_file", "writing"]


class RunError(LookupError):
    """A run, or a part of one, that is missing or cannot be used now."""


class NotWritten(RunError):
    """A file or folder that cannot be written; its earlier content is untouched."""


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
    """Turn an error of the disk inside the block into a `NotWritten` that names `target` and the remedy.

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
    """Replace a file in one move: a reader sees the old content or the new, never a part.

    Args:
        target: the file to write.
        content: its new content.
        durable: return only after the disk has the content, so that it survives a power cut.

    Raises:
        NotWritten: if the disk refuses; the old file stays, and no part of the new one is left.
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
    """Make a folder and its parents; raise `NotWritten` if that fails."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def append(file: BinaryIO, content: bytes) -> None:
    """Append all of `content` to an unbuffered file; raise `NotWritten` if the disk refuses a part of it."""
    with writing(Path(str(file.name))):
        _write(file.fileno(), content)


def _write(descriptor: int, content: bytes) -> None:
    # The system may accept only a part, and reports the error when the rest is offered.
    left = memoryview(content)
    while left.nbytes:
        left = left.cast("B")[os.write(descriptor, left) :]
