"""The process that trains: it obeys requests and signals, and stops when the session that started it is gone."""

import json
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, Self

from spgca_lab.events import Done, Event
from spgca_lab.lease import PROCESS, Lease, asked, replace_file

__all__ = ["Worker"]

POLL = 0.1
GRACE = 20.0


class Worker:
    """Stands between `fit` and the command line while one run is trained, as a context manager.

    Args:
        lease: of the run's folder.
        attached: stop when standard input ends, that is when the process that started this one is gone.
        nice: lower the priority, so that the explorers beside it stay quick.

    Example:
        >>> import pathlib, tempfile
        >>> with Lease.take(pathlib.Path(tempfile.mkdtemp()), "terminal") as lease, Worker(lease) as worker:
        ...     worker.stopped
        False
    """

    def __init__(self, lease: Lease, *, attached: bool = False, nice: bool = False):
        self.lease, self.attached, self.nice = lease, attached, nice
        self.signal: int | None = None
        self.stopped = False
        self._orphaned = False
        self._begun = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        (self.lease.folder / "failure.json").unlink(missing_ok=True)
        if self.nice and hasattr(os, "nice"):
            os.nice(5)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        if self.attached:
            threading.Thread(target=self._watch_parent, daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if isinstance(error, Exception):
            # Who watches from elsewhere reads it there; `KeyError` alone puts its message in quotes.
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            told = {"error": f"{type(error).__name__}: {message}"}
            replace_file(self.lease.folder / "failure.json", json.dumps(told, ensure_ascii=False).encode())

    def obey(self, events: Generator[Event, None, None]) -> Iterator[Event]:
        """The events; between two of them it pauses when asked, and when asked to stop ends with a checkpoint."""
        for event in events:
            self._begun = True
            yield event
            if isinstance(event, Done):
                continue
            request = asked(self.lease.folder)
            if request == "pause" and not self._ends:
                self.lease.say("paused")
                while not self._ends and (request := asked(self.lease.folder)) == "pause":
                    time.sleep(POLL)
                self.lease.say("running")
            if self._ends or request == "stop":
                self.lease.say("stopping")
                self.stopped = True
                events.close()
                return

    @property
    def _ends(self) -> bool:
        return self._orphaned or self.signal is not None

    def _on_signal(self, number: int, _: object) -> None:
        # Before the first event there is nothing to keep, and who presses Ctrl-C twice does not want to wait.
        if self.signal is not None or not self._begun:
            raise KeyboardInterrupt
        self.signal = number

    def _watch_parent(self) -> None:
        try:
            while os.read(0, 1024):
                pass
        except OSError:
            pass
        self._orphaned = True
        time.sleep(GRACE)
        # A step that takes this long is given up; the run goes on from its last checkpoint.
        (self.lease.folder / PROCESS).unlink(missing_ok=True)
        os._exit(1)
