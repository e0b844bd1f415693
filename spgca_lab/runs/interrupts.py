"""Ctrl-C during a training: it waits for the end of the step at hand, and what is left behind holds no memory."""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

import torch

__all__ = ["Held", "held", "let_go"]

_OURS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


class Held:
    """Whether Ctrl-C was pressed while it was held."""

    asked = False


@contextmanager
def held() -> Iterator[Held]:
    """Inside the block Ctrl-C is remembered; at its end it is raised. Pressed a second time it is raised at once.

    Where somebody else handles Ctrl-C, and in any thread but the main one, which never gets it, nothing is held.

    Raises:
        KeyboardInterrupt: at the end, if it was asked for inside.

    Example:
        >>> with held() as ctrl_c:
        ...     print(ctrl_c.asked)
        False
    """
    found = Held()
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield found
        return

    def remember(number: int, frame: FrameType | None) -> None:
        if found.asked:
            signal.default_int_handler(number, frame)
        found.asked = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if found.asked:
        raise KeyboardInterrupt


def let_go(error: BaseException, *, everywhere: bool = False) -> None:
    """Free what the frames of an error hold: notebooks keep the last error, and with it a whole training.

    Variables of the reader's own functions stay for a debugger, except after Ctrl-C.

    Args:
        error: on its way out; frames that still run are left as they are.
        everywhere: also what frames of other packages hold, as after Ctrl-C.

    Example:
        >>> def trains():
        ...     maps = torch.ones(3)
        ...     raise KeyboardInterrupt
        >>> try:
        ...     trains()
        ... except KeyboardInterrupt as error:
        ...     let_go(error)
        ...     error.__traceback__.tb_next.tb_frame.f_locals
        {}
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        left += [one.__cause__, one.__context__]
        if isinstance(one, Exception) and not everywhere:
            _clear_ours(one.__traceback__)
        else:
            traceback.clear_frames(one.__traceback__)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _clear_ours(step: TracebackType | None) -> None:
    while step is not None:
        if step.tb_frame.f_code.co_filename.startswith(_OURS):
            with suppress(RuntimeError):  # it still runs
                step.tb_frame.clear()
        step = step.tb_next
