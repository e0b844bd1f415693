"""Values as errors quote them: whatever was given, in one line of bearable length."""

import math
from typing import Annotated, Any

__all__ = ["Array", "quote"]

# What NumPy makes an array of numbers of, tensors included.
Array = Annotated[Any, "array"]

LONGEST = 160


def quote(value: object) -> str:
    """`repr`, cut where it is long; of an integer with more digits than Python prints, how many there are.

    Args:
        value: of any kind.

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
