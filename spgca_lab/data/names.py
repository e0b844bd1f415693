"""Names of files in a form that every terminal, file and page takes."""

import os
import re

__all__ = ["printable"]

# Control characters, and what Python makes of bytes that are no UTF-8.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(name: str | os.PathLike[str]) -> str:
    r"""A name with its control characters and bytes that are no UTF-8 written out; others stay as they are.

    Args:
        name: of a file, a folder or a class.

    Example:
        >>> print(printable(os.fsdecode(b"caf\xe9 \x1b[31m.jpg")), printable("Zürich.png"))
        caf\xe9 \x1b[31m.jpg Zürich.png
    """
    return _ODD.sub(_written_out, os.fspath(name))


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{code:04x}"
