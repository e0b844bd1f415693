"""Who trains in a run folder: a lock that dies with its holder, and the requests that others leave there."""

import errno
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from spgca_lab._files import RunError, replace_file, writing

# Windows has no flock: that one process at a time trains is then up to the reader.
_LOCKS = find_spec("fcntl") is not None
if _LOCKS:
    import fcntl

__all__ = ["Holder", "Lease", "RunBusy", "ask", "asked", "crashed", "holder"]

LOCK, PROCESS, REQUEST = "run.lock", "process.json", "request"
PATIENCE = 1.0
REQUESTS = ("stop", "pause")
_WORDS = {
    "session": "by lab.fit",
    "terminal": "by spgca-lab fit",
    "attached": "in the background",
    "detached": "in the background, detached",
    "cluster": "on a Ray cluster",
}
# File systems of some networks and clouds know no locks; training there is better than refusing to.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class RunBusy(RunError):
    """A run folder in which another process, or another loop of this one, trains."""


@dataclass(frozen=True)
class Holder:
    """Who trains in a folder, as `process.json` tells it.

    Args:
        pid: process number, None in the moment before it is written down.
        host: name of its machine.
        started: when, in ISO format with the time zone.
        kind: `"session"` (a loop over `fit`), `"terminal"`, `"attached"`, `"detached"` or `"cluster"` (its driver).
        state: `"starting"`, `"running"`, `"paused"` or `"stopping"`.
    """

    pid: int | None = None
    host: str = ""
    started: str = ""
    kind: str = "session"
    state: str = "running"

    @property
    def here(self) -> bool:
        """Whether it runs on this machine, so that a signal reaches it."""
        return self.pid is not None and self.host == socket.gethostname()

    @property
    def obeys(self) -> bool:
        """Whether it reads requests; a loop over `fit` in a notebook does not, nor does the driver of a cluster."""
        return self.kind not in ("session", "cluster")

    def __str__(self) -> str:
        if self.pid == os.getpid() and self.here:
            return f"this very process ({self.pid}), since {self.started}"
        where = "" if self.here or not self.host else f" on {self.host}"
        known = f"process {self.pid}{where}, since {self.started}" if self.pid else "another process"
        return f"{known}, {_WORDS.get(self.kind, self.kind)}"


class Lease:
    """The right to write a run folder, held until `release` or the death of the process, whatever kills it.

    Args:
        folder: of the run; it exists.
        descriptor: of the locked file, None where the file system has no locks.
        kind: who holds it, see `Holder`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with Lease.take(folder, "session"):
        ...     holder(folder).pid == os.getpid()
        True
        >>> holder(folder) is None
        True
    """

    def __init__(self, folder: Path, descriptor: int | None, kind: str):
        self.folder, self.kind = folder, kind
        self.descriptor = descriptor
        self._held = True
        self._holder = Holder(os.getpid(), socket.gethostname(), _now(), kind, "running")

    @classmethod
    def take(cls, folder: Path, kind: str, *, patience: float = PATIENCE) -> Self:
        """Take a folder that nobody holds; what a dead holder left behind, requests included, is forgotten.

        Args:
            folder: of the run; it exists.
            kind: see `Holder`.
            patience: seconds for which to try again, because others look at the lock for moments.

        Raises:
            RunBusy: saying who holds it and what to do.
        """
        until = time.monotonic() + patience
        while True:
            got, descriptor = _lock(folder)
            if got:
                break
            if time.monotonic() > until:
                raise RunBusy(_busy(folder, holder(folder) or Holder()))
            time.sleep(0.02)
        lease = cls(folder, descriptor, kind)
        try:
            ask(folder, None)
            lease.say("running")
        except BaseException:
            # Who could not even say so does not keep others out.
            lease.release()
            raise
        return lease

    @classmethod
    def adopt(cls, folder: Path, descriptor: int, kind: str) -> Self:
        """Go on with a lease that the parent process took and gave away with `give`.

        Raises:
            RunError: when the descriptor is not that of the folder's lock.
        """
        if not _same_file(descriptor, folder / LOCK):
            raise RunError(f"descriptor {descriptor} is not the lock of {str(folder)!r}")
        os.set_inheritable(descriptor, False)
        lease = cls(folder, descriptor, kind)
        lease.say("running")
        return lease

    def give(self, pid: int) -> None:
        """Leave the lease to a child process that inherited the descriptor: the lock is never free in between."""
        self._holder = Holder(pid, socket.gethostname(), _now(), self.kind, "starting")
        self._write()
        self._held = False
        if self.descriptor is not None:
            os.close(self.descriptor)

    def say(self, state: str) -> None:
        """Tell others the state: `"running"`, `"paused"` or `"stopping"`."""
        self._holder = Holder(**asdict(self._holder) | {"state": state})
        self._write()

    def release(self) -> None:
        """End it and leave no file of it."""
        if not self._held:
            return
        self._held = False
        for name in (PROCESS, REQUEST, LOCK):
            (self.folder / name).unlink(missing_ok=True)
        if self.descriptor is not None:
            os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write(self) -> None:
        replace_file(self.folder / PROCESS, (json.dumps(asdict(self._holder)) + "\n").encode())


def holder(folder: Path) -> Holder | None:
    """Who trains in `folder`; None when nobody holds the lock, whatever `process.json` says.

    Example:
        >>> holder(Path("no/such/folder")) is None
        True
    """
    if not _LOCKS:
        return None
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        # Shared, so that two who look at once do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read(folder) or Holder()
    except OSError:
        return None
    finally:
        os.close(descriptor)


def crashed(folder: Path) -> Holder | None:
    """Whoever held `folder` last and died without a word, so that its `process.json` is still there."""
    left = _read(folder)
    return left if left is not None and holder(folder) is None else None


def ask(folder: Path, request: str | None) -> None:
    """Leave a request, `"stop"` or `"pause"`, for the holder, or take it back.

    Raises:
        ValueError: when it is neither.
    """
    if request is None:
        (folder / REQUEST).unlink(missing_ok=True)
    elif request in REQUESTS:
        replace_file(folder / REQUEST, request.encode())
    else:
        raise ValueError(f"a request is 'stop' or 'pause', got {request!r}")


def asked(folder: Path) -> str | None:
    """The request that waits in `folder`, None without one.

    Example:
        >>> asked(Path("no/such/folder")) is None
        True
    """
    try:
        request = (folder / REQUEST).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return request if request in REQUESTS else None


def _lock(folder: Path) -> tuple[bool, int | None]:
    if not _LOCKS:
        return True, None
    with writing(folder / LOCK):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False, None
    except OSError as error:
        os.close(descriptor)
        if error.errno in _NO_LOCKS:
            return True, None
        raise
    # Whoever had it before took the file away with it: a lock on a file that has no name keeps nobody out.
    if not _same_file(descriptor, folder / LOCK):
        os.close(descriptor)
        return False, None
    return True, descriptor


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _read(folder: Path) -> Holder | None:
    try:
        fields: Any = json.loads((folder / PROCESS).read_text(encoding="utf-8"))
        return Holder(**fields)
    except (OSError, ValueError, TypeError):
        return None


def _busy(folder: Path, who: Holder) -> str:
    if who.pid == os.getpid() and who.here:
        todo = "end that loop first: close() the generator of lab.fit, or restart the kernel"
    elif who.obeys:
        todo = (
            f"follow it with lab.RunHandle({str(folder)!r}), "
            f"or stop it first: its stop(), or `spgca-lab stop {folder}`"
        )
    else:
        todo = "interrupt it there, or wait for its end"
    return f"{str(folder)!r} is being trained by {who}; {todo}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
