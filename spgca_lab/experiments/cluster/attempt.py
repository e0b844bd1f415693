"""An attempt at a run on a node of the cluster: what the task does."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spgca_lab.experiments.cluster.gatherer import (
    CHECKPOINT,
    Files,
    Refused,
    Ticket,
    travelling,
    write,
)
from spgca_lab.runs.checkpoint import checkpoint_step
from spgca_lab.runs.fit import fit
from spgca_lab.runs.lock import Lease, crashed
from spgca_lab.runs.store import RunStore
from spgca_lab.runs.worker import Worker
from spgca_lab.training.recipe import Recipe, RecipeError

__all__ = ["Options", "attempt_on_node", "attempt_run"]

SCRATCH = "spgca-lab-ray-"

Call = Callable[..., Any]  # the gatherer's method of a name, with its arguments


@dataclass(frozen=True)
class Options:
    """How runs are trained.

    Args:
        device: of PyTorch.
        threads: of the CPU.
        cwd: from which relative paths count, where the node has this folder.
    """

    device: str
    threads: int
    cwd: str


def attempt_on_node(
    gatherer: Any, run: str, fields: dict[str, Any], attempt: int, options: dict[str, Any]
) -> str:
    """What the task of a run does on its node; the gatherer is an actor."""
    import ray

    def call(name: str, *args: Any) -> Any:
        try:
            # Not `ray.get`: while that waits, Ray lends this task's CPUs to another run, which then keeps them.
            return gatherer.call.remote(name, *args).future().result()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    node = ray.get_runtime_context().get_node_id()[:8]
    return attempt_run(call, run, fields, attempt, node, Options(**options))


def attempt_run(
    call: Call, run: str, fields: dict[str, Any], attempt: int, node: str, options: Options
) -> str:
    """Train one run as far as this attempt comes, telling the gatherer through `call`, and say how it ended."""
    try:
        ticket = call("begin", run, node, attempt)
        if ticket.token is None:
            return ticket.status
        if Path(options.cwd).is_dir():
            os.chdir(options.cwd)
        torch.set_num_threads(options.threads)
        _sweep()
        scratch = tempfile.mkdtemp(prefix=SCRATCH)
        try:
            return _train(call, run, fields, ticket, RunStore(scratch), node, options.device)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except Refused:
        return "refused"


def _train(
    call: Call, run: str, fields: dict[str, Any], ticket: Ticket, store: RunStore, node: str, device: str
) -> str:
    token = ticket.token
    try:
        recipe = Recipe.from_dict(fields)
        if recipe.hash() != run:
            raise RecipeError(
                f"this recipe has another hash ({recipe.hash()}, not {run}): update spgca_lab there"
            )
    except RecipeError as error:
        call("fail", run, token, _told(error, node))
        return "failed"
    folder = store.folder(recipe)
    folder.mkdir()
    with (
        Lease.take(folder, "session") as lease,
        Worker(lease) as worker,
        # Closed here, however this ends, because its folder is about to be removed.
        closing(fit(recipe, store, device=device, lease=lease)) as trained,
    ):
        outbox = _Outbox(folder, ticket.files)
        ticket.files.clear()
        events = worker.obey(trained)
        # An error of the training is the run's own; what `call` raises is not.
        while True:
            try:
                if next(events, None) is None:
                    break
            except Exception as error:
                call("fail", run, token, _told(error, node), outbox.changed())
                return "failed"
            if (step := outbox.checkpoint()) is not None:
                call("keep", run, token, outbox.changed(), step)
        if worker.stopped:
            step = outbox.checkpoint()
            call("interrupt", run, token, outbox.changed(), step)
            return "stopped"
        call("finish", run, token, outbox.changed())
    return "finished"


class _Outbox:
    """What the gatherer does not have of a run's folder on this node."""

    def __init__(self, folder: Path, had: Files):
        self.folder = folder
        write(folder, had)
        self._sent = self._stamps()

    def checkpoint(self) -> int | None:
        """The step of a checkpoint that is new, None without one."""
        stamp = _stamp(self.folder / CHECKPOINT)
        if stamp is None or stamp == self._sent.get(CHECKPOINT):
            return None
        return checkpoint_step(self.folder)

    def changed(self) -> Files:
        """The files that are new since the last time."""
        before, self._sent = self._sent, self._stamps()
        news = {name for name, stamp in self._sent.items() if stamp != before.get(name)}
        return travelling(self.folder, news)

    def _stamps(self) -> dict[str, Any]:
        return {name: _stamp(self.folder / name) for name in travelling(self.folder)}


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _told(error: Exception, node: str) -> str:
    # `KeyError` alone puts its message in quotes.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    # What differs from node to node, files above all, has to say where it was.
    where = f" (on node {node}, {socket.gethostname()})" if isinstance(error, OSError | RecipeError) else ""
    return f"{type(error).__name__}: {message}{where}"


def _sweep() -> None:
    """Remove what attempts left behind that were killed on this node."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/*"):
        if crashed(folder) is not None:
            shutil.rmtree(folder.parent, ignore_errors=True)
