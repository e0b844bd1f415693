"""The process that trains a run, and follows requests and signals."""

import json
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from spgca_lab._files import NotWritten, replace_file
from spgca_lab.runs.lock import PROCESS, RunLock, pending_request
from spgca_lab.training.events import Done, Event

POLL, GRACE = 0.1, 20.0


class Worker:
    """The process that trains a run, as a context manager that follows requests and signals.

    An `attached` one stops the run when standard input ends, that is, when the parent process has exited. `nice` lowers
    the priority, so that explorers stay responsive.
    """

    def __init__(self, lease: RunLock, *, attached: bool = False, nice: bool = False):
        self.lease, self.attached, self.nice = lease, attached, nice
        self.signal: int | None = None
        self.stopped = False
        self._orphaned = self._begun = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        (self.lease.folder / "failure.json").unlink(missing_ok=True)
        if self.nice and hasattr(os, "nice"):
            os.nice(5)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)
        if self.attached:
            threading.Thread(target=self._watch_parent, daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if isinstance(error, Exception):
            # On a full disk the error itself says so.
            with suppress(NotWritten):
                write_failure(self.lease.folder, error)

    def steered(self, events: Generator[Event, None, None]) -> Iterator[Event]:
        """Yield the events; between two of them, pause or stop with a checkpoint on request."""
        for event in events:
            self._begun = True
            yield event
            if isinstance(event, Done):
                continue
            if self._request() == "pause":
                self.lease.set_state("paused")
                while self._request() == "pause":
                    time.sleep(POLL)
                self.lease.set_state("running")
            if self._request() == "stop":
                self.lease.set_state("stopping")
                self.stopped = True
                events.close()
                return

    def _request(self) -> str | None:
        return "stop" if self._orphaned or self.signal is not None else pending_request(self.lease.folder)

    def _on_signal(self, number: int, _: object) -> None:
        # Before the first event there is nothing to save, and a second Ctrl-C means that the user will not wait.
        if not self._begun or self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def _watch_parent(self) -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        self._orphaned = True
        time.sleep(GRACE)
        # A step that takes this long is abandoned; the run keeps its last checkpoint.
        (self.lease.folder / PROCESS).unlink(missing_ok=True)
        os._exit(1)


def write_failure(folder: Path, error: Exception) -> None:
    """Write the error that ended a run into its folder."""
    # The text of a KeyError is its message in quotes.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    content = json.dumps({"error": f"{type(error).__name__}: {message}"}, ensure_ascii=False)
    replace_file(folder / "failure.json", content.encode())
