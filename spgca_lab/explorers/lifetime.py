"""One cell, one explorer: what an earlier run of a cell left behind is let go when the cell runs again.

ipywidgets keeps every widget for ever, with all that it refers to: networks, maps, pictures. A reader who runs a cell
twenty times would hold twenty copies.
"""

import weakref
from typing import Any

__all__ = ["adopt"]

_cells: dict[str, tuple[str, list["weakref.ref[Any]"]]] = {}


def adopt(widget: Any) -> None:
    """Tie a widget to the cell that is running, and close those that earlier runs of this cell made.

    Outside a notebook, or in a front end that does not say which cell it runs, nothing happens.

    Args:
        widget: anything with `close()`.

    Example:
        >>> import ipywidgets as widgets
        >>> adopt(widgets.HTML())
    """
    cell, run = _running()
    if cell is None:
        return
    before, left = _cells.get(cell, ("", []))
    if before != run:
        for earlier in left:
            found = earlier()
            if found is not None:
                found.close()
        left = []
    _cells[cell] = (run, [*left, weakref.ref(widget)])


def _running() -> tuple[str | None, str]:
    try:
        from IPython import get_ipython
    except ImportError:
        return None, ""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return None, ""
    parent = kernel.get_parent("shell")
    cell = parent.get("metadata", {}).get("cellId")
    return cell, str(parent.get("header", {}).get("msg_id", ""))
