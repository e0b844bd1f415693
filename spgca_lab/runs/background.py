"""Start training in background processes, steer it through run folders, and queue many runs."""

import json
import math
import os
import signal
import site
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from spgca_lab._files import RunError, make_folder, replace_file
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.runs.follow import EventReader, Progress, progress
from spgca_lab.runs.inputs import choose_batch_size, is_object
from spgca_lab.runs.lock import RunBusy, RunLock, crashed_owner, lock_owner, pending_request, send_request
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.runs.worker import write_failure
from spgca_lab.training.events import Event
from spgca_lab.training.recipe import Recipe, RecipeError

POLL, STOPS_WITHIN = 0.1, 60.0
LOG_BYTES = 4000
_HEAD = "# started"
# Children by process number. A dropped handle must not close the pipe that keeps an attached child running.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


class RunFailed(RunError):
    """A run whose process failed; the message is its error, or the end of its log."""


def launch(
    recipe: Recipe,
    store: str | Path | RunStore = "runs",
    *,
    device: str | None = None,
    detach: bool = False,
    threads: int | None = None,
) -> "RunHandle":
    """Train `recipe` in a process of its own, and return at once.

    Nothing is started for a run that has finished or that is being trained already; the handle then follows that run.
    An interrupted run goes on from its checkpoint.

    Args:
        recipe: what to train; your own class must be in a file, and `batch_size="auto"` is replaced by a number first.
        store: folder of runs.
        device: `"cpu"`, `"cuda"`, …; None takes a GPU if there is one.
        detach: True lets the run go on when this session ends; by default it stops then, with a checkpoint.
        threads: number of CPU threads; None takes PyTorch's number in this session, for the same results as `fit`.

    Raises:
        RecipeError: when the recipe's class or objects exist only in this session.

    Example:
        >>> handle = launch(Recipe(method="spgca", iterations=40))  # doctest: +SKIP
        >>> for event in handle.events():  # doctest: +SKIP
        ...     print(event)
    """
    handle = prepare(recipe, store, device=device, detach=detach, threads=threads)
    handle.start()
    return handle


class RunHandle:
    """A handle on a run folder; any number of handles in any process can follow and steer the same run."""

    def __init__(self, run: str | Path | Run):
        self.path = (run.path if isinstance(run, Run) else Path(run)).absolute()
        self.recipe = Run(self.path).recipe

    def __repr__(self) -> str:
        pid = f", process {self.pid}" if self.pid else ""
        return f"RunHandle({self.path.name!r}, {self.status}{pid})"

    @property
    def run(self) -> Run:
        """The run in its present state."""
        return Run(self.path)

    @property
    def status(self) -> str:
        """As `Run.status`: `"finished"`, `"running"`, `"paused"`, `"failed"`, `"interrupted"` or `"begun"`."""
        return self.run.status

    @property
    def pid(self) -> int | None:
        """Number of the process that trains, or None."""
        owner = lock_owner(self.path)
        return owner.pid if owner else None

    @property
    def progress(self) -> Progress:
        """Steps so far, the run's own clock, and the time left."""
        return progress(self.path, self.recipe.iterations)

    @property
    def failure(self) -> str | None:
        """Error that ended the run, or the end of the log of a process that ended without one, or None."""
        if _is_finished(self.path) or lock_owner(self.path) is not None:
            return None
        owner = crashed_owner(self.path)
        if (failure := self.run.failure) or owner is None or not owner.reads_requests:
            return failure
        return _last_words(self.path, owner.pid or 0)

    def events(self, follow: bool = True) -> Iterator[Event]:
        """Yield the events of `fit`, from the first event of the run, in the same order for every reader.

        `follow` waits for future events until `Done`, a stop, or the `RunFailed` of a run that failed.
        """
        reader = EventReader(self.path)
        while True:
            # Looked up before reading, so that the last events of a process that exits meanwhile are read.
            alive = lock_owner(self.path) is not None
            events = reader.read()
            yield from events
            if reader.done or not follow:
                return
            if not alive:
                if failure := self.failure:
                    raise RunFailed(f"{self.path.name}: {failure}")
                return
            if not events:
                time.sleep(POLL)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until no process trains in the folder, at most `timeout` seconds, and return the status."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while lock_owner(self.path) is not None and time.monotonic() < until:
            time.sleep(POLL)
        return self.status

    def pause(self) -> None:
        """Pause the training after the present step; without a process nothing happens."""
        if self._can_be_steered():
            send_request(self.path, "pause")

    def stop(self, timeout: float | None = STOPS_WITHIN, *, wait: bool = True) -> None:
        """Stop the training with a checkpoint, from which `resume` or `launch` goes on, and wait for its end.

        After `timeout` seconds a process of this machine is killed; the last checkpoint stays. Without `wait` only the
        request is sent. `RunBusy` is raised when a loop over `fit` trains, which reads no requests, or a process of
        another machine goes on.
        """
        if not self._can_be_steered():
            return
        send_request(self.path, "stop")
        if wait:
            self.wait(timeout)
            self._kill()
        if lock_owner(self.path) is None:
            send_request(self.path, None)

    def resume(self) -> None:
        """Continue a paused run, or start a stopped or failed one from its checkpoint."""
        if lock_owner(self.path) is not None and not self._stopping:
            send_request(self.path, None)
        else:
            self.start()

    def start(self, device: str | None = None) -> None:
        """Start a process, unless one trains here or the run has finished; a paused one stays paused.

        `device` replaces the one given to `launch`. When a process that was to stop goes on for a minute, `RunBusy` is
        raised.
        """
        if _is_finished(self.path):
            return
        if stopping := self._stopping:
            self.wait(STOPS_WITHIN)
        options = _options(self.path)
        try:
            lock = RunLock.take(self.path, "detached" if options["detach"] else "attached")
        except RunBusy:
            if stopping:
                raise
            return
        try:
            if _is_finished(self.path):
                lock.release()
                return
            (self.path / "failure.json").unlink(missing_ok=True)
            if device is not None:
                options["device"] = device
                _write(self.path / "launch.json", options)
            child = _spawn(self.path, options)
            lock.transfer_to(child.pid)
        except BaseException:
            lock.release()
            raise
        threading.Thread(target=_reap, args=(child,), daemon=True).start()

    @property
    def _stopping(self) -> bool:
        owner = lock_owner(self.path)
        return owner is not None and (owner.state == "stopping" or pending_request(self.path) == "stop")

    def _can_be_steered(self) -> bool:
        owner = lock_owner(self.path)
        if owner is None or owner.reads_requests:
            return owner is not None
        raise RunBusy(
            f"{str(self.path)!r} is being trained by {owner}, which reads no requests: interrupt it there"
        )

    def _kill(self) -> None:
        owner = lock_owner(self.path)
        if owner is None:
            return
        if not owner.on_this_machine or owner.is_this_process:
            raise RunBusy(f"{str(self.path)!r}: {owner} did not stop, and cannot be killed from here")
        with suppress(psutil.NoSuchProcess):
            psutil.Process(owner.pid).kill()
        self.wait(STOPS_WITHIN)
        # The files of the killed process must not look like a failure.
        with suppress(RunBusy):
            RunLock.take(self.path, "session").release()


def prepare(
    recipe: Recipe, store: str | Path | RunStore, *, device: str | None, detach: bool, threads: int | None
) -> RunHandle:
    """Create the run folder with the options of its training, and start nothing; arguments as of `launch`."""
    for part in (p.strip() for p in str(recipe.method).split("->")):
        if part not in METHODS and (":" not in part or "." in part.rsplit(":", 1)[1]):
            raise RecipeError(
                f"method: {part!r} is a class of this session, which another process cannot find: put it at the top "
                "level of a file and give method='my_file.py:MyClass', or train here with lab.fit"
            )
    if is_object(recipe) or recipe.data_code is not None:
        raise RecipeError(
            "the recipe's backbone or images are objects of this session, which another process cannot load: train "
            "here with lab.train(recipe, backbone=..., data=...)"
        )
    recipe = choose_batch_size(recipe, device)
    path = RunStore(store).folder(recipe)
    if not (path / "recipe.json").exists():
        make_folder(path)
        replace_file(path / "recipe.json", recipe.to_json().encode())
    if not _is_finished(path) and lock_owner(path) is None:
        # The folder holds the options, so that other handles resume the run with them.
        options = {"device": device, "detach": detach, "threads": threads or torch.get_num_threads()}
        _write(path / "launch.json", options | {"cwd": str(Path.cwd())})
    return RunHandle(path)


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

    Finished runs stay as they are, and a failed run does not hold up the next. The queue ends with this session, and
    its present runs stop with checkpoints; the same call goes on from there.

    Args:
        recipes: what to train, in this order.
        store: folder of runs.
        workers: number of runs at a time; None for one, or one per device.
        device: as for `launch`; or several, such as `["cuda:0", "cuda:1"]`, which the workers share.
        threads: as for `launch`, per run.
        retries: restarts, from the checkpoint, of a run whose process is killed, for example when memory runs out.

    Raises:
        ValueError: when `workers` is below 1, or `device` is empty.
    """
    devices = [device] if device is None or isinstance(device, str) else list(device)
    if not devices:
        raise ValueError(f"device must name at least one device, got {device!r}")
    workers = len(devices) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers!r}")
    handles = [prepare(r, store, device=devices[0], detach=False, threads=threads) for r in recipes]
    return Queue(handles, [devices[i % len(devices)] for i in range(workers)], retries)


class Queue:
    """Runs that start one after another, made by `launch_all`, with one device per worker (None: as prepared)."""

    def __init__(self, handles: Iterable[RunHandle], devices: Sequence[str | None], retries: int = 0):
        self.handles, self.retries = list(handles), retries
        self._waiting = deque(self.handles)
        self._present: set[RunHandle] = set()
        self._stopped = False
        self._lock = threading.Lock()
        # Not an executor: before a session ends, Python waits for its threads, and so for the runs.
        self._threads = [threading.Thread(target=self._work, args=(d,), daemon=True) for d in devices]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        finished = sum(handle.status == "finished" for handle in self.handles)
        return f"Queue({finished} of {len(self.handles)} runs finished{', ended' if self.done else ''})"

    @property
    def done(self) -> bool:
        """True when no run is waiting or training."""
        return not any(thread.is_alive() for thread in self._threads)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `done`, at most `timeout` seconds, and return it."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if timeout is None else max(0.0, until - time.monotonic()))
        return self.done

    def stop(self, timeout: float | None = STOPS_WITHIN, *, wait: bool = True) -> None:
        """Start no more runs, and stop the present ones; arguments as of `RunHandle.stop`."""
        with self._lock:
            self._stopped = True
            present = list(self._present)
        for handle in present:
            handle.stop(timeout, wait=wait)

    def _work(self, device: str | None) -> None:
        while True:
            with self._lock:
                if self._stopped or not self._waiting:
                    return
                handle = self._waiting.popleft()
                self._present.add(handle)
            # A folder that somebody removes meanwhile must not hold up the next run.
            with suppress(RunError, OSError):
                self._train(handle, device)
            with self._lock:
                self._present.discard(handle)

    def _train(self, handle: RunHandle, device: str | None) -> None:
        for _ in range(1 + self.retries):
            with self._lock:
                if self._stopped:
                    return
                try:
                    handle.start(device)
                except Exception as error:
                    write_failure(handle.path, error)
            if handle.wait() == "finished" or crashed_owner(handle.path) is None:
                return


def _write(file: Path, content: dict[str, Any]) -> None:
    replace_file(file, json.dumps(content, ensure_ascii=False).encode())


def _is_finished(folder: Path) -> bool:
    return (folder / "result.json").exists()


def _options(folder: Path) -> dict[str, Any]:
    options: dict[str, Any] = {"device": None, "detach": False, "threads": None, "cwd": None}
    with suppress(OSError, ValueError):
        options |= json.loads((folder / "launch.json").read_text(encoding="utf-8"))
    return options


def _spawn(path: Path, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    if RunStore(path.parent).folder(Run(path).recipe).name != path.name:
        raise RunError(f"{path.name!r} is not the folder of its recipe: it was renamed, or its recipe edited")
    command = [sys.executable, "-m", "spgca_lab", "fit", "--recipe", str(path / "recipe.json")]
    command += ["--store", str(path.parent), "--launched", "detached" if options["detach"] else "attached"]
    command += ["--threads", str(options["threads"] or torch.get_num_threads())]
    command += ["--device", options["device"]] if options["device"] else []
    # Threads that do not spin while they wait leave the processor to the explorers.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    root = str(Path(__file__).resolve().parents[2])
    if root not in site.getsitepackages():
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with (path / "log.txt").open("ab") as log:
        log.write(f"{_HEAD} {datetime.now().astimezone().isoformat(timespec='seconds')}\n".encode())
        log.flush()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if options["detach"] else subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=options["cwd"] if options["cwd"] and Path(options["cwd"]).is_dir() else None,
            env=environment,
            # Ctrl-C in a notebook or in Jupyter's terminal must not reach the child.
            start_new_session=True,
        )
    _CHILDREN[child.pid] = child
    return child


def _reap(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _last_words(path: Path, pid: int) -> str:
    """Return the exit status of a process, if it was a child of this one, and the end of its log."""
    how = ""
    if (child := _CHILDREN.get(pid)) is not None:
        with suppress(subprocess.TimeoutExpired):
            code = child.wait(5)
            how = f", killed by {signal.Signals(-code).name}" if code < 0 else f", exit status {code}"
            how += ": perhaps the memory ran out" if how.endswith("SIGKILL") else ""
    log = path / "log.txt"
    text = log.read_bytes().decode("utf-8", "replace") if log.exists() else ""
    text = text.rsplit(_HEAD, 1)[-1].partition("\n")[2].strip()[-LOG_BYTES:]
    end = f"the end of log.txt:\n{text}" if text else "log.txt is empty"
    return f"process {pid} ended without an error message{how}; {end}"
