"""Show values and names in error messages, and check numbers."""

import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import numpy as np

__all__ = ["Array", "check_whole_number", "listed", "printable", "quote"]

# Anything that NumPy converts to an array of numbers, tensors included.
Array = Annotated[Any, "array"]

LONGEST = 160
# Control characters, and the surrogates that Python makes of bytes that are not UTF-8.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def quote(value: object) -> str:
    """Return `repr(value)`, shortened if it is long; of a huge integer, its number of digits.

    Example:
        >>> quote("spq"), quote(["a"] * 1000)[-29:]
        ("'spq'", '... (5,000 characters in all)')
        >>> quote(10**5000)
        'an integer of 5,001 digits'
    """
    if type(value) is int and value.bit_length() > 4 * LONGEST:
        return f"an integer of {math.floor(value.bit_length() * math.log10(2)) + 1:,} digits"
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} without a repr: {type(error).__name__}>"
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) > LONGEST:
        return f"{text[:LONGEST]}... ({len(text):,} characters in all)"
    return text


def printable(name: str | os.PathLike[str]) -> str:
    r"""Escape control characters and bytes that are not UTF-8 in the name of a file or class.

    Example:
        >>> print(printable(os.fsdecode(b"caf\xe9 \x1b[31m.jpg")), printable("Zürich.png"))
        caf\xe9 \x1b[31m.jpg Zürich.png
    """
    return _ODD.sub(_escaped, os.fspath(name))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{code:04x}"


def listed(names: Iterable[str], most: int = 10, show: Callable[[str], str] = printable) -> str:
    """Join the first `most` names with commas, and count the others.

    Example:
        >>> listed(["a", "b", "c"], most=2, show=repr)
        "'a', 'b' and 1 more"
    """
    names = list(names)
    return ", ".join(map(show, names[:most])) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def check_whole_number(name: str, value: object, low: int, high: int) -> None:
    """Raise a `ValueError` that quotes `value` unless it is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}: give a whole number from {low} to {high}")
