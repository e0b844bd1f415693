"""The lock on a run folder, the process that owns it, and requests to that process."""

import errno
import json
import os
import socket
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

import psutil
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from spgca_lab._files import RunError, replace_file, writing

LOCK, PROCESS, REQUEST = "run.lock", "process.json", "request"
PATIENCE = 1.0
_KINDS = {
    "session": "by lab.fit",
    "terminal": "by spgca-lab fit",
    "attached": "in the background",
    "detached": "in the background, detached",
}
# Some network and cloud file systems have no locks; a marker file replaces the lock there.
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class RunBusy(RunError):
    """A run folder in which another process, or another loop of this one, trains."""


@dataclass(frozen=True)
class LockOwner:
    """The process that trains in a folder, as `process.json` describes it.

    `kind` is `"session"` (a loop over `fit`), `"terminal"`, `"attached"` or `"detached"`; `state` is `"starting"`,
    `"running"`, `"paused"` or `"stopping"`. `pid` is None before the process has written the file.
    """

    pid: int | None = None
    host: str = ""
    started: str = ""
    kind: str = "session"
    state: str = "running"

    @property
    def on_this_machine(self) -> bool:
        """True if signals reach the process."""
        return self.pid is not None and self.host == socket.gethostname()

    @property
    def is_this_process(self) -> bool:
        """True if the process is this one."""
        return self.on_this_machine and self.pid == os.getpid()

    @property
    def reads_requests(self) -> bool:
        """True if the process reads requests; a loop over `fit` does not."""
        return self.kind != "session"

    def __str__(self) -> str:
        if self.is_this_process:
            return f"this very process ({self.pid}), since {self.started}"
        where = "" if self.on_this_machine or not self.host else f" on {self.host}"
        name = f"process {self.pid}{where}, since {self.started}" if self.pid else "another process"
        return f"{name}, {_KINDS.get(self.kind, self.kind)}"


class RunLock(AbstractContextManager["RunLock"]):
    """The exclusive right to write a run folder; it ends with `release` or with the process, however that ends."""

    def __init__(self, folder: Path, kind: str, lock: BaseFileLock):
        self.folder, self._lock, self._owner = folder, lock, _this_process(kind)

    @classmethod
    def take(cls, folder: Path, kind: str, *, patience: float = PATIENCE) -> Self:
        """Lock a folder that is free, or that the parent process has transferred to this one.

        Requests to the last owner are removed; requests to a process that takes over from its parent stay. It retries
        for `patience` seconds, because every look at the owner takes the lock for a moment, and raises `RunBusy`, which
        names the owner and what to do.
        """
        with writing(folder / LOCK):
            lock = _acquire(folder, patience)
        if lock is None:
            raise _busy(folder, lock_owner(folder) or LockOwner())
        try:
            owner = _read(folder)
            if owner is None or not _is_starting(owner):
                send_request(folder, None)
            # On Windows the parent knows this process by the number of a launcher between them.
            elif owner.pid not in (os.getpid(), os.getppid()):
                raise _busy(folder, owner)
            taken = cls(folder, kind, lock)
            taken.set_state("running")
        except BaseException:
            _unlock(folder, lock)
            raise
        return taken

    def transfer_to(self, pid: int) -> None:
        """Leave the lock to a child process, which calls `take`; until then no other process can."""
        self._owner = replace(_this_process(self._owner.kind), pid=pid)
        self.set_state("starting")
        self._lock.release()

    def set_state(self, state: str) -> None:
        """Publish the state: `"running"`, `"paused"` or `"stopping"`."""
        self._owner = replace(self._owner, state=state)
        replace_file(self.folder / PROCESS, (json.dumps(asdict(self._owner)) + "\n").encode())

    def release(self) -> None:
        """Unlock the folder and remove the files of the lock."""
        if self._lock.is_locked:
            for name in (PROCESS, REQUEST):
                (self.folder / name).unlink(missing_ok=True)
            _unlock(self.folder, self._lock)

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_owner(folder: Path) -> LockOwner | None:
    """Return the process that trains in `folder`, or None."""
    # The file may be stale; the lock decides.
    owner = _read(folder) or LockOwner()
    if owner.on_this_machine and not psutil.pid_exists(owner.pid or 0):
        return None
    if _is_starting(owner) or _is_locked(folder):
        return owner
    # Between the two looks the owner may have left the lock to a child.
    child = _read(folder)
    return child if child is not None and _is_starting(child) else None


def crashed_owner(folder: Path) -> LockOwner | None:
    """Return the last owner of `folder` if it ended without a release, so that its `process.json` is left."""
    # Also without `process.json`: the look at the lock removes the file of one that nobody holds.
    free = lock_owner(folder) is None
    return _read(folder) if free else None


def send_request(folder: Path, request: str | None) -> None:
    """Leave a request, `"stop"` or `"pause"`, for the owner of the lock; None withdraws it."""
    if request is None:
        (folder / REQUEST).unlink(missing_ok=True)
    else:
        replace_file(folder / REQUEST, request.encode())


def pending_request(folder: Path) -> str | None:
    """Return the pending request in `folder`, `"stop"` or `"pause"`, or None."""
    with suppress(OSError):
        request = (folder / REQUEST).read_bytes().decode(errors="replace").strip()
        return request if request in ("stop", "pause") else None
    return None


def _acquire(folder: Path, patience: float) -> BaseFileLock | None:
    lock: BaseFileLock = FileLock(folder / LOCK, thread_local=False)
    try:
        try:
            lock.acquire(patience)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            lock = SoftFileLock(folder / f"{LOCK}.marker", thread_local=False)
            lock.acquire(patience)
    except Timeout:
        return None
    return lock


def _unlock(folder: Path, lock: BaseFileLock) -> None:
    # Only under the lock is it safe to remove its file; Windows cannot, and filelock does it there.
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
    lock.release()


def _is_locked(folder: Path) -> bool:
    with suppress(OSError):
        if (folder / LOCK).exists():
            lock = _acquire(folder, 0.0)
            if lock is None:
                return True
            _unlock(folder, lock)
    return False


def _is_starting(owner: LockOwner) -> bool:
    # A child that has not locked its folder yet.
    if owner.state != "starting" or not owner.on_this_machine:
        return False
    try:
        child = psutil.Process(owner.pid)
        # A process that began later only reuses the number of one that has exited.
        began_in_time = child.create_time() <= datetime.fromisoformat(owner.started).timestamp() + 1
        return began_in_time and child.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, TypeError):
        return False


def _this_process(kind: str) -> LockOwner:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return LockOwner(os.getpid(), socket.gethostname(), now, kind)


def _read(folder: Path) -> LockOwner | None:
    try:
        owner = LockOwner(**json.loads((folder / PROCESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return owner if type(owner.pid) is int and 0 < owner.pid < 1 << 31 else None


def _busy(folder: Path, owner: LockOwner) -> RunBusy:
    advice = "interrupt it there, or wait for its end"
    if owner.is_this_process:
        advice = "end that loop first: close() the generator of lab.fit, or restart the kernel"
    elif owner.reads_requests:
        handle = f"lab.RunHandle({str(folder)!r})"
        advice = f"follow it with {handle}, or stop it first: its stop(), or `spgca-lab stop {folder}`"
    return RunBusy(f"{str(folder)!r} is being trained by {owner}; {advice}")
