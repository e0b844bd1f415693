"""SPA/GCA Lab: attention-based regularisation for transfer learning, to run, to see and to question.

The public names stand in `__init__.pyi`. Nothing is imported before it is used: importing all of them takes as long as
importing PyTorch.
"""

import difflib
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except AttributeError:
        # Inspectors ask for many names with underscores; none of them is a typing error.
        near = [] if name.startswith("_") else difflib.get_close_matches(name, __all__, n=3)
        hint = f". Near names: {', '.join(near)}" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}") from None
