"""Words of the command line as values: what every command's options take."""

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["count", "names", "numbers", "whole_numbers"]


def numbers(text: str) -> tuple[float, ...]:
    """Numbers joined by commas.

    Example:
        >>> numbers("0.01,0.1")
        (0.01, 0.1)
    """
    return _several(text, float, "numbers")


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers joined by commas.

    Example:
        >>> whole_numbers("0,3")
        (0, 3)
    """
    return _several(text, int, "whole numbers")


def names(text: str) -> tuple[str, ...]:
    """Names joined by commas; blanks around them do not count.

    Example:
        >>> names("ast, spa")
        ('ast', 'spa')
    """
    return _several(text, _name, "names")


def count(text: str) -> int:
    """A whole number of at least 1.

    Example:
        >>> count("2")
        2
    """
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def _several(text: str, kind: Callable[[str], Any], words: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {words} joined by commas, got {text!r}") from None


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError(text)
    return text.strip()
