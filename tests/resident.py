"""How much memory a kernel holds, measured so that what was freed does not count."""

# glibc keeps an arena of freed memory for every thread: with one arena, which `HELD` tells to give back what it can,
# resident memory is what is held, not what once was.
MALLOC = {"MALLOC_ARENA_MAX": "1"}

# To run in a kernel: prints MB of memory, MB on a graphics card, and how many widgets live.
HELD = """
import ctypes, gc, psutil, sys, torch
from ipywidgets.widgets.widget import _instances
gc.collect(); gc.collect()
if sys.platform == "linux":
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # a Linux without glibc
        pass
on_card = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
print(psutil.Process().memory_info().rss / 2**20, on_card / 2**20, len(_instances))
"""


def parsed(printed: str) -> tuple[float, float, int]:
    """MB of memory, MB on a graphics card and living widgets, from what `HELD` printed."""
    memory, card, living = printed.split()
    return float(memory), float(card), int(living)
