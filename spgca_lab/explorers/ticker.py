"""A clock for views that watch something: it calls between cells and stops with the view."""

import asyncio
import weakref
from typing import Any

__all__ = ["Ticker"]


class Ticker:
    """Call a method of an object every so often on the kernel's own loop, while the object lives.

    No thread: widgets are touched by the kernel's thread alone, and a running cell holds the clock back instead of
    being interrupted. Where there is no running loop (a plain script, a test) nothing is called; call the method.

    Args:
        owner: whose method; it is not kept alive.
        method: its name.
        seconds: from the end of one call to the next.

    Example:
        >>> import ipywidgets as widgets
        >>> Ticker(widgets.HTML(), "close", 60.0).start()
        False
    """

    def __init__(self, owner: Any, method: str, seconds: float):
        self._owner, self.method, self.seconds = weakref.ref(owner), method, seconds
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether calls are to come."""
        return self._task is not None and not self._task.done()

    def start(self) -> bool:
        """Begin, if there is a loop; whether the clock now runs."""
        if self.running:
            return True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        self._task = loop.create_task(self._run())
        return True

    def stop(self) -> None:
        """No more calls."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.seconds)
            owner = self._owner()
            if owner is None:
                return
            getattr(owner, self.method)()
            del owner
