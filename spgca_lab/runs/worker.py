"""The process that trains: it obeys requests and signals, and stops when the session that started it is gone."""

import json
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, Self

from spgca_lab._files import NotWritten, replace_file
from spgca_lab.runs.lock import PROCESS, Lease, asked
from spgca_lab.training.events import Done, Event
from spgca_lab.training.processes import Processes

__all__ = ["Worker"]

POLL = 0.1
GRACE = 20.0
# In the order of their weight: where processes are asked for different things the highest counts.
GO_ON, PAUSE, STOP = range(3)
_WISHES = {None: GO_ON, "pause": PAUSE, "stop": STOP}


class Worker:
    """Stands between `fit` and the command line while one run is trained, as a context manager.

    Of several processes that train one run each has its own, and all stop after the same event, whichever of them
    got the signal.

    Args:
        lease: of the run's folder; None in all but the main one of several processes.
        attached: stop when standard input ends, that is when the process that started this one is gone.
        nice: lower the priority, so that the explorers beside it stay quick.
        processes: that train the run; None if it is this one alone.

    Example:
        >>> import pathlib, tempfile
        >>> with Lease.take(pathlib.Path(tempfile.mkdtemp()), "terminal") as lease, Worker(lease) as worker:
        ...     worker.stopped
        False
    """

    def __init__(
        self,
        lease: Lease | None,
        *,
        attached: bool = False,
        nice: bool = False,
        processes: Processes | None = None,
    ):
        self.lease, self.attached, self.nice = lease, attached, nice
        self.processes = processes or Processes("cpu")
        self.signal: int | None = None
        self.stopped = False
        self._orphaned = False
        self._begun = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self.lease is not None:
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
        if isinstance(error, Exception) and self.lease is not None:
            # Who watches from elsewhere reads it there; `KeyError` alone puts its message in quotes.
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            told = {"error": f"{type(error).__name__}: {message}"}
            # Where the disk takes nothing, the error itself says so.
            with suppress(NotWritten):
                replace_file(
                    self.lease.folder / "failure.json", json.dumps(told, ensure_ascii=False).encode()
                )

    def obey(self, events: Generator[Event, None, None]) -> Iterator[Event]:
        """The events; between two of them it pauses when asked, and when asked to stop ends with a checkpoint."""
        for event in events:
            self._begun = True
            yield event
            if isinstance(event, Done):
                continue
            wish = self._wish()
            if wish == PAUSE:
                self._say("paused")
                while (wish := self._wish()) == PAUSE:
                    time.sleep(POLL)
                self._say("running")
            if wish == STOP:
                self._say("stopping")
                self.stopped = True
                # All know of the signal, so that all leave with its number.
                self.signal = self.processes.highest(self.signal or 0) or None
                events.close()
                self.processes.wait()
                return

    def _wish(self) -> int:
        asked_for = asked(self.lease.folder) if self.lease is not None else None
        return self.processes.highest(STOP if self._ends else _WISHES[asked_for])

    def _say(self, state: str) -> None:
        if self.lease is not None:
            self.lease.say(state)

    @property
    def _ends(self) -> bool:
        return self._orphaned or self.signal is not None

    def _on_signal(self, number: int, _: object) -> None:
        # Before the first event there is nothing to keep, and who presses Ctrl-C twice does not want to wait.
        # Launchers of several processes pass on what their own terminal sends too, and kill after half a minute.
        if not self._begun or (self.signal is not None and self.processes.count == 1):
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
        assert self.lease is not None
        # A step that takes this long is given up; the run goes on from its last checkpoint.
        (self.lease.folder / PROCESS).unlink(missing_ok=True)
        os._exit(1)
