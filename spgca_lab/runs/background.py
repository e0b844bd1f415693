"""launch: train in a process of its own, with the run folder as the only way to talk to it."""

import json
import os
import signal
import site
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from spgca_lab._files import RunError, make_folder, replace_file
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.runs.follow import Progress, Tail, progress
from spgca_lab.runs.lock import Holder, Lease, RunBusy, ask, asked, crashed, holder
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.events import Event
from spgca_lab.training.footprint import settle_batch_size
from spgca_lab.training.recipe import Recipe, RecipeError

__all__ = ["RunFailed", "RunHandle", "launch"]

POLL = 0.1
STOPS_WITHIN = 60.0
LOG_BYTES = 4000
# Children by process number: dropping a handle must not close the pipe that tells a child that we live.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
_ENDED: dict[int, int] = {}


class RunFailed(RunError):
    """A run whose process ended by an error, or died; the message is the error's, or the end of its log."""


def launch(
    recipe: Recipe,
    store: str | Path | RunStore = "runs",
    *,
    device: str | None = None,
    detach: bool = False,
    threads: int | None = None,
) -> "RunHandle":
    """Train `recipe` in a process of its own and return at once.

    A finished run is answered from the store. Where the recipe is being trained already, by anyone, nothing is started
    and the handle follows what is there; an interrupted run goes on from its checkpoint.

    Args:
        recipe: what to train; a class of your own must be in a file, and `batch_size="auto"` is settled first.
        store: folder of runs.
        device: `"cpu"`, `"cuda"`, …; None takes a GPU if there is one.
        detach: let it go on when this session ends. By default it then stops, with a checkpoint.
        threads: of the CPU; None takes as many as PyTorch does in this session, so that the numbers are those of `fit`.

    Returns:
        A handle on the run folder.

    Raises:
        RecipeError: when the recipe's class lives only in this session.
        RunError: where the file system has no locks.

    Example:
        >>> handle = launch(Recipe(method="spgca", iterations=40))  # doctest: +SKIP
        >>> for event in handle.events():  # doctest: +SKIP
        ...     print(event)
    """
    handle = prepare(recipe, store, device=device, detach=detach, threads=threads)
    handle.start()
    return handle


class RunHandle:
    """A hold on a run folder, whoever trains in it: any number of handles, in any process, may watch and steer one run.

    Args:
        run: a folder, or the run.

    Raises:
        RunError: when the folder holds no run.

    Example:
        >>> from spgca_lab.data.location import data_dir
        >>> handle = RunHandle(data_dir() / "runs" / "spgca-8fa85ab40f55")
        >>> handle.status, handle.pid, handle.failure
        ('finished', None, None)
    """

    def __init__(self, run: str | Path | Run):
        self.path = (run.path if isinstance(run, Run) else Path(run)).absolute()
        self.recipe = Run(self.path).recipe
        self._closed = False

    def __repr__(self) -> str:
        pid = f", process {self.pid}" if self.pid else ""
        return f"RunHandle({self.path.name!r}, {self.status}{pid})"

    @property
    def run(self) -> Run:
        """The run as it is now."""
        return Run(self.path)

    @property
    def status(self) -> str:
        """As `Run.status`: `"finished"`, `"running"`, `"paused"`, `"failed"`, `"interrupted"` or `"begun"`."""
        return self.run.status

    @property
    def pid(self) -> int | None:
        """Number of the process that trains, None when none does."""
        who = holder(self.path)
        return who.pid if who else None

    @property
    def progress(self) -> Progress:
        """Steps so far, the run's own clock, and the time left."""
        return progress(self.path, self.recipe.iterations)

    @property
    def failure(self) -> str | None:
        """What ended the run: an error's text, or the end of the log of a process that died without a word; or None."""
        if (self.path / "result.json").exists() or holder(self.path) is not None:
            return None
        left = crashed(self.path)
        if told := self.run.failure:
            return told
        return _last_words(self.path, left) if left is not None and left.obeys else None

    def events(self, follow: bool = True) -> Iterator[Event]:
        """What `fit` yields, from the run's first event on.

        Args:
            follow: wait for what is to come, until `Done`; False ends with what there is.

        Yields:
            The same events in the same order for every reader. It ends early when the run was stopped.

        Raises:
            RunFailed: after the last event of a run that failed.
        """
        tail = Tail(self.path)
        while not self._closed:
            # Asked before reading: whatever a process that is gone by now has written is read below.
            alive = holder(self.path) is not None
            found = tail.read()
            yield from found
            if tail.done or not follow:
                return
            if not alive:
                if failure := self.failure:
                    raise RunFailed(f"{self.path.name}: {failure}")
                return
            if not found:
                time.sleep(POLL)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until no process trains in the folder, at most `timeout` seconds, and return the status then."""
        self._gone(timeout)
        return self.status

    def pause(self) -> None:
        """Ask it to hold after the event at hand; without a process nothing happens.

        Raises:
            RunBusy: when a loop over `fit` trains, which reads no requests.
        """
        if self._obedient() is not None:
            ask(self.path, "pause")

    def stop(self, timeout: float | None = STOPS_WITHIN, *, wait: bool = True) -> None:
        """Stop it with a checkpoint, from which `resume` or `launch` goes on, and wait for its end.

        Args:
            timeout: seconds after which a process of this machine is killed; it then goes on from an older checkpoint.
            wait: False only asks and returns at once; nothing is killed then.

        Raises:
            RunBusy: when a loop over `fit` trains, which reads no requests, or a process of another machine stays.
        """
        if self._obedient() is None:
            return
        ask(self.path, "stop")
        if wait and not self._gone(timeout):
            self._kill()
        if holder(self.path) is None:
            ask(self.path, None)

    def resume(self) -> None:
        """Let a paused run go on, or start a stopped or failed one again from its checkpoint.

        Raises:
            RunError: as `launch`.
        """
        who = holder(self.path)
        if who is not None and asked(self.path) != "stop" and who.state != "stopping":
            ask(self.path, None)
        elif not (self.path / "result.json").exists():
            self.start()

    def close(self) -> None:
        """End the loops over this handle's `events`; the run goes on."""
        self._closed = True

    def start(self, device: str | None = None) -> None:
        """Start a process, unless one trains here or the run is finished; a paused one stays so, see `resume`.

        Args:
            device: in place of the one that `launch` was given; None leaves it.

        Raises:
            RunError: as `launch`.
        """
        lease = self._lease()
        if lease is None:
            return
        try:
            if (self.path / "result.json").exists():
                lease.release()
                return
            (self.path / "failure.json").unlink(missing_ok=True)
            if device is not None:
                _keep_options(self.path, _options(self.path) | {"device": device})
            child = _spawn(self.path, lease)
            lease.give(child.pid)
        except BaseException:
            lease.release()
            raise
        threading.Thread(target=_reap, args=(child,), name=f"reap {child.pid}", daemon=True).start()

    def _lease(self) -> Lease | None:
        """The folder's lease, None where there is nothing to start; waits for the end of one who is stopping."""
        until = time.monotonic() + STOPS_WITHIN
        while not (self.path / "result.json").exists():
            try:
                lease = Lease.take(self.path, "detached" if _options(self.path)["detach"] else "attached")
            except RunBusy:
                who = holder(self.path)
                ending = who is not None and (who.state == "stopping" or asked(self.path) == "stop")
                if who is not None and not ending:
                    return None
                if time.monotonic() > until:
                    raise
                continue
            if lease.descriptor is None:
                lease.release()
                raise RunError(
                    f"{str(self.path)!r} lies where files cannot be locked: train there with lab.fit"
                )
            return lease
        return None

    def _obedient(self) -> Holder | None:
        who = holder(self.path)
        if who is not None and not who.obeys:
            raise RunBusy(
                f"{str(self.path)!r} is being trained by {who}, which reads no requests: interrupt it there"
            )
        return who

    def _gone(self, timeout: float | None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        while holder(self.path) is not None:
            if until is not None and time.monotonic() > until:
                return False
            time.sleep(POLL)
        return True

    def _kill(self) -> None:
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
            who = holder(self.path)
            if who is None:
                break
            if not who.here or who.pid is None or who.pid == os.getpid():
                raise RunBusy(f"{str(self.path)!r}: {who} did not stop, and cannot be killed from here")
            with suppress(ProcessLookupError):
                os.kill(who.pid, number)
            self._gone(patience)
        # It was asked to end, so that its traces are no sign of a failure.
        with suppress(RunBusy):
            Lease.take(self.path, "session").release()


def prepare(
    recipe: Recipe, store: str | Path | RunStore, *, device: str | None, detach: bool, threads: int | None
) -> RunHandle:
    """Make the run folder and say how to train there, without starting anything; for arguments see `launch`."""
    for part in (p.strip() for p in str(recipe.method).split("->")):
        if part not in METHODS and (":" not in part or "." in part.rsplit(":", 1)[1]):
            raise RecipeError(
                f"method: {part!r} is a class of this session, which another process cannot find: put it at the top "
                "level of a file and give method='my_file.py:MyClass', or train here with lab.fit"
            )
    recipe = settle_batch_size(recipe, device)
    path = (store if isinstance(store, RunStore) else RunStore(store)).folder(recipe)
    if not (path / "recipe.json").exists():
        make_folder(path)
        replace_file(path / "recipe.json", recipe.to_json().encode())
    if not (path / "result.json").exists() and holder(path) is None:
        # Kept in the folder, so that a handle that is opened there later resumes in the same way.
        options = {"device": device, "detach": detach, "threads": threads or torch.get_num_threads()}
        _keep_options(path, options | {"cwd": str(Path.cwd())})
    return RunHandle(path)


def _keep_options(path: Path, options: dict[str, Any]) -> None:
    replace_file(path / "launch.json", json.dumps(options).encode())


def _options(path: Path) -> dict[str, Any]:
    options: dict[str, Any] = {"device": None, "detach": False, "threads": None, "cwd": None}
    with suppress(OSError, ValueError):
        options |= json.loads((path / "launch.json").read_text(encoding="utf-8"))
    return options


def _spawn(path: Path, lease: Lease) -> subprocess.Popen[bytes]:
    options = _options(path)
    if RunStore(path.parent).folder(Run(path).recipe).name != path.name:
        raise RunError(f"{path.name!r} is not the folder of its recipe: it was renamed, or its recipe edited")
    assert lease.descriptor is not None
    kind = "detached" if options["detach"] else "attached"
    command = [sys.executable, "-m", "spgca_lab", "fit", "--recipe", str(path / "recipe.json")]
    command += ["--store", str(path.parent), "--launched", kind, "--lease", str(lease.descriptor)]
    command += ["--threads", str(options["threads"] or torch.get_num_threads())]
    command += ["--device", options["device"]] if options["device"] else []
    # Threads that wait for work without spinning leave the processor to the explorers.
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
            # Interrupting a cell, or Ctrl-C where Jupyter runs, must not reach it.
            start_new_session=True,
            pass_fds=(lease.descriptor,),
        )
    _CHILDREN[child.pid] = child
    return child


_HEAD = "# started"


def _reap(child: subprocess.Popen[bytes]) -> None:
    _ENDED[child.pid] = child.wait()
    if child.stdin is not None:
        child.stdin.close()
    _CHILDREN.pop(child.pid, None)


def _last_words(path: Path, left: Holder) -> str:
    pid = left.pid or 0
    code = _ENDED.get(pid)
    if code is None and (child := _CHILDREN.get(pid)) is not None:
        with suppress(subprocess.TimeoutExpired):
            code = child.wait(5)
    how = f", exit status {code}" if code is not None else ""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        how = f", killed by {name}" + (": perhaps the memory ran out" if name == "SIGKILL" else "")
    log = path / "log.txt"
    text = log.read_bytes().decode("utf-8", "replace") if log.exists() else ""
    text = text.rsplit(_HEAD, 1)[-1].partition("\n")[2].strip()[-LOG_BYTES:]
    return f"process {pid} ended without a word{how}; " + (
        f"the end of log.txt:\n{text}" if text else "log.txt is empty"
    )
