"""launch_all: many recipes, a few at a time, each in a process of its own."""

import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from spgca_lab._files import replace_file
from spgca_lab.runs.background import RunHandle, prepare
from spgca_lab.runs.lock import crashed
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["Queue", "launch_all"]


def launch_all(
    recipes: Iterable[Recipe],
    store: str | Path | RunStore = "runs",
    *,
    workers: int | None = None,
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    retries: int = 0,
) -> "Queue":
    """Train recipes in the background, `workers` at a time, and return at once.

    What is finished is left as it is. A run that fails does not hold up the next; its handle tells why. The queue ends
    with this session, and so does the run at hand, with a checkpoint: the same call goes on.

    Args:
        recipes: what to train, in this order.
        store: folder of runs.
        workers: runs at a time; None is one, or one a device.
        device: as for `launch`; or several, such as `["cuda:0", "cuda:1"]`, over which the workers are spread.
        threads: as for `launch`, a run.
        retries: how often a run goes on from its checkpoint whose process died without a word, say for want of memory.

    Raises:
        ValueError: when there is not at least one worker, or not one device.
        RecipeError: when a recipe's class lives only in this session.

    Example:
        >>> queue = launch_all([], workers=2)
        >>> queue.wait(timeout=60)
        True
    """
    devices = [device] if device is None or isinstance(device, str) else list(device)
    if not devices:
        raise ValueError(f"device must name at least one device, got {device!r}")
    workers = len(devices) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers!r}")
    handles = [prepare(r, store, device=devices[0], detach=False, threads=threads) for r in recipes]
    return Queue(handles, workers, devices, retries)


class Queue:
    """Runs that wait for their turn; made by `launch_all`.

    Args:
        handles: one a recipe, in order; those whose turn has not come are `"begun"` or `"interrupted"`.
        workers: runs at a time.
        devices: over which the workers are spread; None leaves each run where it was prepared for.
        retries: as for `launch_all`.
    """

    def __init__(
        self,
        handles: Iterable[RunHandle],
        workers: int,
        devices: Sequence[str | None] = (None,),
        retries: int = 0,
    ):
        self.handles = list(handles)
        self.retries = retries
        self._waiting = deque(self.handles)
        self._at_work: set[RunHandle] = set()
        self._stopped = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(devices[i % len(devices)],), daemon=True)
            for i in range(min(workers, len(self.handles)))
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        finished = sum(handle.status == "finished" for handle in self.handles)
        return f"Queue({finished} of {len(self.handles)} runs finished{', ended' if self.done else ''})"

    @property
    def done(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        return not any(thread.is_alive() for thread in self._threads)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `done`, at most `timeout` seconds, and say whether it is."""
        until = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return self.done

    def stop(self, timeout: float | None = 60.0, *, wait: bool = True) -> None:
        """Start no more, and stop what runs, with checkpoints; arguments as of `RunHandle.stop`."""
        with self._lock:
            self._stopped = True
            self._waiting.clear()
            at_work = list(self._at_work)
        for handle in at_work:
            handle.stop(timeout, wait=wait)

    def _work(self, device: str | None) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                handle = self._waiting.popleft()
                self._at_work.add(handle)
            for _ in range(1 + self.retries):
                with self._lock:
                    if self._stopped:
                        break
                    self._start(handle, device)
                handle.wait()
                if handle.status == "finished" or crashed(handle.path) is None:
                    break
            with self._lock:
                self._at_work.discard(handle)

    def _start(self, handle: RunHandle, device: str | None) -> None:
        try:
            handle.start(device)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
            replace_file(handle.path / "failure.json", json.dumps(told).encode())
