"""Ctrl-C during a training: it waits for the end of a step, and frees the memory that an error's frames hold."""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import torch

_OWN_FRAMES = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


class Interrupt:
    """The state of a `defer_interrupt` block."""

    requested = False


@contextmanager
def defer_interrupt() -> Iterator[Interrupt]:
    """Raise a Ctrl-C pressed inside the block at its end; a second one is raised at once.

    Where Ctrl-C has another handler, and in any thread but the main one, nothing is deferred.
    """
    interrupt = Interrupt()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return

    def remember(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            signal.default_int_handler(number, frame)
        interrupt.requested = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupt.requested:
        raise KeyboardInterrupt


def clear_tracebacks(error: BaseException, *, everywhere: bool = False) -> None:
    """Free what the frames of an error hold: a notebook keeps the last error, and with it a whole training.

    Variables of the reader's own functions stay for a debugger, except after Ctrl-C and with `everywhere`. Frames that
    still run are left as they are.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        current = left.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        left += [current.__cause__, current.__context__]
        own_only = isinstance(current, Exception) and not everywhere
        for frame, _ in traceback.walk_tb(current.__traceback__):
            if not own_only or frame.f_code.co_filename.startswith(_OWN_FRAMES):
                with suppress(RuntimeError):  # the frame still runs
                    frame.clear()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
